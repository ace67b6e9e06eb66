"""Large payloads are computed beside the event loop, so that small ones do not wait for them.

One thread: the interpreter runs one at a time anyway, and of two of them the loop would get a third. It gets its turn
after `SWITCH_S`, each time it needs one.
"""

import asyncio
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from agents.runtime.hand import computing
from agents.runtime.records import Inbound

P = ParamSpec("P")
T = TypeVar("T")

LONG_BYTES = 64 << 10
"""Of a record: what is shorter takes some milliseconds at most, whatever it holds."""

SWITCH_S = 0.001
"""How long a thread may hold the interpreter while another waits. Python's own 5 ms, at each of the dozens of calls to
the system that a batch makes, would be felt."""

_thread = ThreadPoolExecutor(1, thread_name_prefix="aside")


def is_long(record: Inbound) -> bool:
    """Whether a record is worth the way to the thread."""
    return len(record.value or b"") > LONG_BYTES


async def aside(work: Callable[P, T], *args: P.args, **more: P.kwargs) -> T:
    """What `work` returns or raises. Given up, it still runs to its end; nobody gets what it finds."""
    loop = asyncio.get_running_loop()
    async with computing():
        return await loop.run_in_executor(_thread, lambda: work(*args, **more))


def share_fairly() -> None:
    """For a process that uses the thread, once."""
    sys.setswitchinterval(SWITCH_S)
