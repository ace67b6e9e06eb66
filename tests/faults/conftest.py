"""A home of its own for each fault test; broker jars come from the cache."""

from pathlib import Path

import pytest

from tests.conftest import CACHE


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BEEFLINE_HOME", str(tmp_path))
    monkeypatch.setenv("BEEFLINE_CACHE", str(CACHE))
    return tmp_path
