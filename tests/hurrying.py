"""What waits in a retry tier returns soon: how long tiers wait is no matter of the tests that use this."""

import asyncio
import contextlib
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ops.running import running_workers

HURRY_S = 0.5

ORDER = b'{"who": "tests", "why": "it is not what they wait for"}'


async def hurry() -> None:
    """Once, as `beefline retry now` does. A worker that ends just then is told the next time."""
    for worker in await asyncio.to_thread(running_workers):
        if worker.stage == "retry":
            with contextlib.suppress(OSError):
                await asyncio.to_thread(_tell, f"{worker.http}/retry-now")


def _tell(url: str) -> None:
    with urllib.request.urlopen(urllib.request.Request(url, ORDER), timeout=5) as reply:
        reply.read()


async def _keep_hurrying(begin: asyncio.Event) -> None:
    await begin.wait()
    while True:
        await hurry()
        await asyncio.sleep(HURRY_S)


@asynccontextmanager
async def hurried(begin: asyncio.Event | None = None) -> AsyncIterator[None]:
    """All along, or from an event on."""
    if begin is None:
        begin = asyncio.Event()
        begin.set()
    hurrying = asyncio.ensure_future(_keep_hurrying(begin))
    try:
        yield
    finally:
        hurrying.cancel()
        await asyncio.wait((hurrying,))
        if not hurrying.cancelled():
            hurrying.result()
