"""A whole installation for the tests of this package."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ops.installation import Installation
from tests.installed import installed

TOPICS = "apply.topics=tm_anytx,tm_helloworld,tm_example=beefline_example:Example"

TELL = "coordinate.tell_after_s=0.5"
"""An operation that a test leaves undecided is told of soon."""


@pytest.fixture(scope="package")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """Up for all tests of the package; `tm_example` is loaded by the setting."""
    home: Path = tmp_path_factory.mktemp("installation")
    flags = [TOPICS, TELL, "policy.txid_only=resolve", f"trace.file={home / 'trace.jsonl'}"]
    with installed(home, flags) as (made, _):
        yield made
