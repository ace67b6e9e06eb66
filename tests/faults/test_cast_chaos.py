"""The short form of `make chaos` in which endpoints fail in every way known to us."""

import pytest

from tests.faults.short import short

pytestmark = pytest.mark.broker


@pytest.mark.invariant("CAST-1")
@pytest.mark.invariant("STATUS-1")
@pytest.mark.invariant("STATUS-4")
async def test_endpoints_fail_in_every_way_while_the_broadcaster_is_killed() -> None:
    """60,000 payloads at 1,000 a second in `make chaos`: each fault alone, then at random."""
    outcome = await short("endpoints", 1_000, faults=10, rate=25, seed=5)
    assert outcome.report.findings == ()
    assert outcome.report.pending == ()
    assert outcome.report.counts["network: accepted"] == 1_000
    assert outcome.restarts >= 4
