"""A whole installation for the tests of this package: broker, simulated network, a worker for each stage."""

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops.installation import Installation
from tests.conftest import CACHE, ROOT

EXAMPLE_MANAGER = ROOT / "examples" / "topic_manager"

TOPICS = "apply.topics=tm_anytx,tm_helloworld,tm_example=beefline_example:Example"

START_WITHIN_S = 240.0
"""The broker's jars may have to be fetched."""


@pytest.fixture(scope="package")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """Up for all tests of the package, then down again; `tm_example` is loaded by the setting.

    It lives on a loop in a thread of its own: its supervisor goes on while tests have their loops, and its children,
    which end with the thread that started them, last as long as it does.
    """
    home: Path = tmp_path_factory.mktemp("installation")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("BEEFLINE_")]:
            patch.delenv(name)
        patch.setenv("BEEFLINE_HOME", str(home))
        patch.setenv("BEEFLINE_CACHE", str(CACHE))
        patch.setenv("PYTHONPATH", f"{EXAMPLE_MANAGER}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name="installation")
        thread.start()
        made = Installation(flags=[TOPICS, "policy.txid_only=resolve", f"trace.file={home / 'trace.jsonl'}"])
        try:
            asyncio.run_coroutine_threadsafe(made.start(), loop).result(START_WITHIN_S)
            yield made
        finally:
            asyncio.run_coroutine_threadsafe(made.stop(), loop).result(60)
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()
