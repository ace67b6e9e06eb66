"""A whole installation that looks again soon, for the tests of this package."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops.installation import Installation
from tests.installed import installed

ANYTX = "pipeline.overlay.builtin.anytx:AnyTx"
TOPICS = ("tm_anytx", "tm_other", "tm_before", "tm_during", "tm_after", "tm_back")
SECRET = "callbacks show this"


@pytest.fixture(scope="package")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Installation, asyncio.AbstractEventLoop]]:
    """Up for all tests of the package: six topics that take anything, one that takes greetings alone."""
    home: Path = tmp_path_factory.mktemp("installation")
    (home / "token").write_text(SECRET)
    names = [TOPICS[0], *(f"{name}={ANYTX}" for name in TOPICS[1:]), "tm_helloworld"]
    flags = [
        f"apply.topics={','.join(names)}",
        "status.settle_s=1",
        "status.watch_s=0.5",
        "trackers.tip_ttl_s=0.4",
        "broadcast.callback_url=http://127.0.0.1:9",  # nobody listens: tests call back in the endpoints' place
        f"broadcast.callback_token_file={home / 'token'}",
    ]
    with installed(home, flags) as (made, loop):
        yield made, loop
