"""The short form of `make chaos` in which no endpoint answers, for 40 s."""

import pytest

from tests.faults.short import short

pytestmark = pytest.mark.broker


@pytest.mark.invariant("CAST-2")
@pytest.mark.invariant("STATUS-2")
async def test_all_endpoints_away_then_one_for_good() -> None:
    """Ten minutes in `make chaos`. Nothing is given up though `retry.give_up_after_s` is half of the time."""
    outcome = await short("endpoints-away", 1_500, rate=30, seed=6, over="back")
    assert outcome.report.findings == ()
    assert outcome.report.counts["network: accepted"] == 1_500
    assert outcome.restarts == 0
