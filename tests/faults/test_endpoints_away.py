"""The short form of `make chaos` in which no endpoint answers, for a minute."""

import pytest

from ops import chaos

pytestmark = pytest.mark.broker


@pytest.mark.invariant("CAST-2")
@pytest.mark.invariant("STATUS-2")
async def test_all_endpoints_away_then_one_for_good() -> None:
    """Ten minutes in `make chaos`, one here. Nothing is given up though `retry.give_up_after_s` is half of that."""
    outcome = await chaos.run("endpoints-away", payloads=1_500, rate=20, seed=6)
    assert outcome.report.findings == ()
    assert outcome.report.counts["network: accepted"] == 1_500
    assert outcome.restarts == 0
