"""A whole installation for the tests of this package."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ops.installation import Installation
from tests.installed import installed

TOPICS = "apply.topics=tm_anytx,tm_helloworld,tm_example=beefline_example:Example"


@pytest.fixture(scope="package")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """Up for all tests of the package; `tm_example` is loaded by the setting."""
    home: Path = tmp_path_factory.mktemp("installation")
    with installed(home, [TOPICS, "policy.txid_only=resolve", f"trace.file={home / 'trace.jsonl'}"]) as (made, _):
        yield made
