"""The short form of `several` in `make chaos`; and what is undecided when its owner goes."""

import signal
from collections.abc import Callable

import pytest

from ops.apply_chaos import several
from ops.apply_chaos.proof import Proof
from ops.apply_chaos.rig import Rig, until_so
from ops.instruments.several import Draw
from ops.operations import standing
from ops.scenario import Asked
from tests.conftest import Broker
from topics.registry import OPERATIONS

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


@pytest.mark.invariant("ATOMIC-1")
@pytest.mark.invariant("ATOMIC-2")
async def test_what_is_undecided_survives_a_takeover(broker: Broker, asked: Callable[..., Asked]) -> None:
    """The coordinator stands still, and then one of the contexts' owners: the other decides with what it took over."""
    rig = Rig(
        several.HOSTED,
        workers=2,
        bootstrap=broker.bootstrap,
        flags=(*several.QUIET, *asked(0, 0, 0).flags),
        beside={"coordinate": 1, "retry": 1},
    )
    async with rig:
        draw = Draw(several.CONTEXTS, 5)
        coordinator = next(worker for worker in rig.beside if worker.stage == "coordinate")
        coordinator.child.tell(signal.SIGSTOP)
        await rig.feed(draw.records(40))
        await rig.drained()
        assert await standing(rig.settings) == [], "nobody has decided anything"
        gone, other = rig.workers
        gone.child.tell(signal.SIGSTOP)

        async def taken_over() -> bool:
            return (await rig.partitions())[other.number] == OPERATIONS.partitions

        await until_so(taken_over, "takeover", 60.0)
        coordinator.child.tell(signal.SIGCONT)
        async with several.beside(several.Network(rig)):
            await until_so(lambda: several.decided(rig), "end of all operations", 120.0)
        gone.kill()
        proof = Proof(rig.settings)
        await proof.topics()
        await proof.state()
        await several.check(rig, draw, proof)
        report = proof.report(several.KINDS)
    assert report.findings == ()
    assert report.counts["requests: all applied"] > 10
