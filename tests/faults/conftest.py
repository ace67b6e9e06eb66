"""A home of its own for each fault test; broker jars come from the cache."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from agents.runtime.cluster import admin
from agents.runtime.settings import KafkaSettings
from ops.scenario import Asked
from tests.conftest import CACHE, Broker
from topics.registry import BY_NAME

SEED = 11


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BEEFLINE_HOME", str(tmp_path))
    monkeypatch.setenv("BEEFLINE_CACHE", str(CACHE))
    return tmp_path


@pytest.fixture
async def asked(broker: Broker, prefix: str) -> AsyncIterator[Callable[..., Asked]]:
    """Makes what a scenario is asked; its topics are removed afterwards."""
    flags = (f"topics.prefix={prefix}", "worker.session_timeout_s=6", "worker.heartbeat_interval_s=1")
    yield lambda records, faults, rate: Asked(records, faults, rate, seed=SEED, flags=flags)
    async with admin(KafkaSettings(bootstrap=broker.bootstrap)) as client:
        await client.delete_topics([topic.named(prefix) for topic in BY_NAME.values()])
