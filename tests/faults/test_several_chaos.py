"""The short form of `several` in `make chaos`."""

from collections.abc import Callable

import pytest

from ops.apply_chaos import several
from ops.scenario import Asked
from tests.conftest import Broker

pytestmark = pytest.mark.broker


@pytest.mark.invariant("ATOMIC-1")
@pytest.mark.invariant("ATOMIC-2")
async def test_all_or_nothing_whatever_is_killed(broker: Broker, asked: Callable[..., Asked]) -> None:
    """One worker of apply and one of coordinate, killed in turn at two of the named places; no zombie."""
    form = several.Several(every_s=3.0, workers=1, bootstrap=broker.bootstrap, zombie=False)
    outcome = await several.run("several", asked(100, 2, 20), form)
    assert outcome.report.findings == ()
    counts = outcome.report.counts
    assert counts["requests: all applied"] > 30
    assert counts["requests: all not applied"] > 3
    assert counts["journal: commit"] > 60
    assert counts["stores compared"] > 0
    assert outcome.restarts >= 4
