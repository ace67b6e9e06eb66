"""A whole installation for a package of tests: broker, simulated network, a worker for each stage."""

import asyncio
import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from ops.installation import Installation
from tests.conftest import CACHE, ROOT

EXAMPLE_MANAGER = ROOT / "examples" / "topic_manager"

START_WITHIN_S = 240.0
"""The broker's jars may have to be fetched."""


@contextlib.contextmanager
def installed(home: Path, flags: Sequence[str]) -> Iterator[tuple[Installation, asyncio.AbstractEventLoop]]:
    """Up, then down again; with the loop it lives on.

    That is in a thread of its own: its supervisor goes on while tests have their loops, and its children, which end
    with the thread that started them, last as long as it does.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("BEEFLINE_")]:
            patch.delenv(name)
        patch.setenv("BEEFLINE_HOME", str(home))
        patch.setenv("BEEFLINE_CACHE", str(CACHE))
        patch.setenv("PYTHONPATH", f"{EXAMPLE_MANAGER}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name="installation")
        thread.start()
        made = Installation(flags=list(flags))
        try:
            asyncio.run_coroutine_threadsafe(made.start(), loop).result(START_WITHIN_S)
            yield made, loop
        finally:
            asyncio.run_coroutine_threadsafe(made.stop(), loop).result(60)
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()
