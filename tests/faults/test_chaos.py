"""Short forms of `make chaos`: load, faults, and an audit that finds nothing."""

import pytest

from ops import chaos
from tests.faults.short import short

pytestmark = pytest.mark.broker


async def test_workers_killed_at_random_moments_and_named_places() -> None:
    """`make chaos` kills 20 times during 20,000 payloads."""
    outcome = await short("kills", 700, faults=6, rate=35, seed=3)
    assert outcome.report.findings == ()
    assert outcome.report.pending == ()
    assert outcome.restarts >= 6
    assert outcome.report.counts["ingest records"] == 700


async def test_a_broker_outage_under_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """20 s in `make chaos`, 6 s here: workers recover by themselves, or end and are started again."""
    monkeypatch.setattr(chaos, "OUTAGE_S", 6.0)
    outcome = await short("broker-outage", 500, faults=1, rate=30, seed=4)
    assert outcome.report.findings == ()
    assert outcome.report.pending == ()
    assert outcome.report.counts["ingest records"] == 500
