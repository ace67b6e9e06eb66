"""What managers examine, in the verify stage: its facts go on with the operation, and it costs nobody else anything."""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from typing import ClassVar

import pytest

from agents import metrics
from agents.runtime.examining import Examiners
from agents.runtime.hosting import ApplySettings
from agents.runtime.http import HttpSettings
from agents.runtime.outcomes import Router
from agents.runtime.records import Decision, Emit, Fault, Hold, Out, Refuse
from agents.runtime.sandbox import SandboxSettings
from agents.runtime.trackers import TrackerSettings
from agents.verify import Verify
from pipeline.chain.answer import Answer, RootAt, Tip
from pipeline.overlay.manager import BadManager, Subject, Transaction
from pipeline.policy import Policy
from pipeline.results import About
from schemas.external import RESULT, Admittance
from schemas.flow import OPERATION, PARSED, Apply, Asked, Examined, Parsed
from schemas.types import Context
from tests import builders
from tests.contracts.broken_managers import HARM
from tests.fakes import NOW_MS, Record, origin_at
from topics.registry import DEAD_LETTERS, OPERATIONS, RESULTS, RETRY_10S

HERE = "tests.agents.test_examining"

HARMFUL, PLAIN, HELD = "topic:tm_harmful", "topic:tm_anytx", "topic:tm_here"


class Here:
    """Tells what it is shown; as slow, by the clock it is measured by, as it is told."""

    version = "7"
    contract = 3
    raises: ClassVar[bool] = False
    asked: ClassVar[list[Transaction]] = []

    def examine(self, transaction: Transaction) -> bytes:
        self.asked.append(transaction)
        if Here.raises:
            raise ValueError("as told")
        return b"%d of %d" % (transaction.output_count, len(transaction.spent))

    def admit(self, subject: Subject) -> Admittance:
        return Admittance()


class Trackers:
    """They know everything."""

    async def tip(self) -> Tip:
        return builders.TIP

    async def ask(self, roots: Collection[RootAt]) -> dict[RootAt, Answer]:
        return dict.fromkeys(roots, Answer.YES)


def record_of(bag: builders.Bag, *contexts: Context, offset: int = 5, off_chain: bytes = b"") -> Record:
    request = Asked(origin_at(offset), "r1", contexts, "each", off_chain)
    return Record("parsed", 0, offset, bag.txs[-1].txid, PARSED.encode(Parsed(request, bag.txs[-1].txid, bag.v1(), 1)))


def payload(salt: int, *contexts: Context, off_chain: bytes = b"") -> Record:
    parent = builders.funding(builders.Out(1000, builders.p2pkh(builders.key(9))), salt=salt)
    child = builders.spend(
        [builders.In(parent, 0, builders.by_p2pkh(builders.key(9)))], [builders.Out(900), builders.Out(0, b"\x00\x6a")]
    )
    made = builders.bag(parent, child, proven=[parent], height=940_000 + salt)
    return record_of(made, *contexts, offset=salt, off_chain=off_chain)


class Stage:
    """The verify stage with examiners, and how it decides a batch."""

    def __init__(self, settings: ApplySettings, processes: int = 1) -> None:
        self.examiners = Examiners("verify", settings, processes)
        self.verify = Verify(
            Policy(), TrackerSettings(), HttpSettings(), SandboxSettings(processes=1), examiners=self.examiners
        )
        self.verify._trackers = Trackers()  # type: ignore[assignment]
        self.events: list[str] = []
        self.verify.tell_to(lambda kind, severity, message, details: self.events.append(kind))

    async def decide(self, *records: Record) -> list[Decision]:
        """In the order of the records."""
        found: dict[int, Decision] = {}
        async for some, gathered in self.verify.gather(records):
            for record in some:
                found[id(record)] = self.verify.decide(record, gathered, NOW_MS)
        return [found[id(record)] for record in records]


@pytest.fixture
async def here() -> AsyncIterator[Stage]:
    """With a manager in this process."""
    Here.raises, Here.asked[:] = False, []
    hosted = (f"tm_here={HERE}:Here", "tm_anytx")
    stage = Stage(ApplySettings(topics=hosted, trusted=("tm_here",), judge_ms=60_000, suspend_after=2))
    await stage.examiners.start()
    yield stage
    await stage.examiners.stop()


@pytest.fixture
async def apart() -> AsyncIterator[Stage]:
    """With one in a process of its own, as patient as a busy machine needs."""
    async for stage in _apart(60_000):
        yield stage


@pytest.fixture
async def hasty() -> AsyncIterator[Stage]:
    """The same, ended after half a second."""
    async for stage in _apart(500):
        yield stage


async def _apart(limit_ms: float, processes: int = 1) -> AsyncIterator[Stage]:
    hosted = ("tm_harmful=tests.contracts.broken_managers:Harmful", f"tm_here={HERE}:Here", "tm_anytx")
    settings = ApplySettings(
        topics=hosted, trusted=("tm_here",), judge_ms=60_000, judge_limit_ms=limit_ms, suspend_after=2,
        judge_memory_bytes=256 << 20,
    )  # fmt: skip
    Here.raises, Here.asked[:] = False, []
    stage = Stage(settings, processes)
    await stage.examiners.start()
    yield stage
    await stage.examiners.stop()


def applies(outs: Sequence[Out]) -> dict[Context, Apply]:
    """Operations by context."""
    found = {}
    for out in outs:
        if out.topic is OPERATIONS:
            operation = OPERATION.decode(out.value)
            assert isinstance(operation, Apply)
            found[(out.key or b"").decode()] = operation
    return found


def facts(decision: Decision) -> dict[Context, Examined | None]:
    assert isinstance(decision, Emit | Hold | Fault), decision
    return {context: operation.examined for context, operation in applies(decision.outs).items()}


@pytest.mark.invariant("TOPIC-2")
async def test_facts_go_with_the_operation_of_their_context(here: Stage) -> None:
    """And what was shown is what apply would show; who has nobody to examine is as before."""
    both, none = payload(1, HELD, PLAIN, off_chain=b"values"), payload(2, PLAIN)
    decisions = await here.decide(both, none)
    assert [facts(each) for each in decisions] == [{HELD: Examined("7", b"2 of 1"), PLAIN: None}, {PLAIN: None}]
    (shown,) = Here.asked
    assert (shown.off_chain_values, shown.spent[0].satoshis if shown.spent[0] else 0) == (b"values", 1000)
    operation = applies(decisions[0].outs)[HELD]
    assert shown.txid == operation.verified.txid == shown.tx.txid


async def test_only_what_is_valid_is_examined(here: Stage) -> None:
    parent = builders.funding(builders.Out(1000))
    child = builders.spend([builders.In(parent)], [builders.Out(2000)])
    (decision,) = await here.decide(record_of(builders.bag(parent, child, proven=[parent]), HELD))
    assert isinstance(decision, Refuse)
    assert decision.verdict.code == "value.inflation"
    assert Here.asked == []


async def test_a_long_payload_is_examined_beside_the_loop(here: Stage) -> None:
    parent = builders.funding(builders.Out(1000))
    child = builders.spend([builders.In(parent)], [builders.Out(0, b"\x00\x6a" + builders.push(bytes(200_000)))])
    (decision,) = await here.decide(record_of(builders.bag(parent, child, proven=[parent]), HELD))
    assert facts(decision) == {HELD: Examined("7", b"1 of 1")}


@pytest.mark.invariant("TOPIC-1")
async def test_one_of_two_managers_failing_to_examine(here: Stage) -> None:
    """The other context has its operation; that one is parked, and the payload kept for its sake."""
    Here.raises = True
    record = payload(1, PLAIN, HELD)
    (decision,) = await here.decide(record)
    assert isinstance(decision, Fault)
    assert facts(decision) == {PLAIN: None}
    (asked,) = Here.asked
    about = About(origin_at(1), ("r1",), asked.txid, HELD, 2)
    assert decision[:3] == ("internal.manager-raised", "tm_here: ValueError: as told", about)
    outs = Router("verify", "", 1).outs(record, decision, NOW_MS)
    assert [out.topic for out in outs] == [OPERATIONS, RESULTS, DEAD_LETTERS]
    told = RESULT.decode(outs[1].value)
    assert (told.outcome, told.context, told.code) == ("parked", HELD, "internal.manager-raised")
    assert outs[2].value == record.value


@pytest.mark.invariant("TOPIC-1")
async def test_two_of_three_managers_failing_are_both_told(apart: Stage) -> None:
    Here.raises = True
    record = payload(1, HELD, PLAIN, HARMFUL, off_chain=b"examine raise")
    (decision,) = await apart.decide(record)
    assert facts(decision) == {PLAIN: None}
    outs = Router("verify", "", 1).outs(record, decision, NOW_MS)
    told = [RESULT.decode(out.value) for out in outs if out.topic is RESULTS]
    assert {(each.context, each.outcome, each.code) for each in told} == {
        (HELD, "parked", "internal.manager-raised"), (HARMFUL, "parked", "internal.manager-raised"),
    }  # fmt: skip
    assert len({each.id for each in told}) == 2


OVERRUN = (b"hang", b"sleep", b"promise")


@pytest.mark.invariant("TOPIC-1")
@pytest.mark.parametrize("what", HARM)
async def test_harm_costs_its_record_and_the_batch_goes_through(what: bytes) -> None:
    async for stage in _apart(500 if what in OVERRUN else 60_000):
        around = [payload(n, HARMFUL) for n in (1, 2)]
        plain = [payload(n, PLAIN) for n in (3, 4)]
        harm = payload(5, PLAIN, HARMFUL, off_chain=b"examine " + what)
        decisions = await stage.decide(around[0], plain[0], harm, plain[1], around[1])
        fault = decisions[2]
        assert isinstance(fault, Fault)
        assert fault.code.startswith("internal.manager-")
        assert facts(fault) == {PLAIN: None}
        assert [facts(decisions[n]) for n in (1, 3)] == [{PLAIN: None}] * 2
        assert [facts(decisions[n]) for n in (0, 4)] == [{HARMFUL: Examined("1", b"\x02")}] * 2


@pytest.mark.invariant("TOPIC-3")
async def test_a_context_that_fails_again_and_again_waits_and_its_neighbours_do_not(hasty: Stage) -> None:
    """The payload's other contexts have it already, and will answer from what they hold when it comes back."""
    hanging = [payload(n, HARMFUL, off_chain=b"examine sleep") for n in range(2)]
    for record in hanging:
        (decision,) = await hasty.decide(record)
        assert isinstance(decision, Fault)
        assert decision.code == "internal.manager-overran"
    assert hasty.events == ["context-suspended"]
    assert hasty.verify.suspended == [HARMFUL]
    assert metrics.SUSPENDED.labels("verify", "tm_harmful")._value.get() == 1
    both = payload(3, HARMFUL, PLAIN, HELD)
    (decision,) = await hasty.decide(both)
    assert isinstance(decision, Hold)
    assert decision.condition.code == "internal.suspended"
    assert facts(decision) == {PLAIN: None, HELD: Examined("7", b"2 of 1")}
    outs = Router("verify", "", 1).outs(both, decision, NOW_MS)
    assert [out.topic for out in outs] == [OPERATIONS, OPERATIONS, RETRY_10S]
    hasty.verify.lift()
    assert hasty.verify.suspended == []
    assert hasty.events == ["context-suspended", "context-resumed"]
    (decision,) = await hasty.decide(both)
    assert facts(decision) == {HARMFUL: Examined("1", b"\x02"), PLAIN: None, HELD: Examined("7", b"2 of 1")}


@pytest.mark.invariant("TOPIC-3")
async def test_a_slow_one_in_this_process_is_suspended_too(here: Stage) -> None:
    standing = here.examiners._standings["tm_here"]
    standing.limits = type(standing.limits)(0.0, 2, 10, 10.0)  # no time at all
    decisions = [(await here.decide(payload(n, HELD)))[0] for n in range(3)]
    assert [type(each) for each in decisions] == [Emit, Emit, Hold]
    assert here.events == ["context-suspended"]


async def test_of_too_many_that_wait_some_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """One process; while it is at work two may wait."""
    monkeypatch.setattr("agents.runtime.examining.WAITING", 2)
    async for stage in _apart(60_000):
        records = [payload(n, HARMFUL, off_chain=b"examine hang" if n == 0 else b"") for n in range(6)]
        asking = asyncio.ensure_future(stage.decide(*records))
        pool = stage.examiners._apart["tm_harmful"]

        async def busy() -> bool:
            return pool._waiting == 2  # noqa: B023

        deadline = asyncio.get_running_loop().time() + 20
        while not await busy():
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.01)
        (child,) = pool._children
        child._process.kill()  # the one that hangs
        decisions = await asking
        assert [type(each) for each in decisions[:3]] == [Fault, Emit, Emit]
        assert {each.condition.code for each in decisions[3:] if isinstance(each, Hold)} == {"internal.manager-busy"}
        assert stage.events == []  # that says nothing of the manager


async def test_several_processes_examine_side_by_side() -> None:
    async for stage in _apart(60_000, processes=3):
        pool = stage.examiners._apart["tm_harmful"]
        assert len(pool._children) == 3
        decisions = await stage.decide(*[payload(n, HARMFUL) for n in range(12)])
        assert {type(each) for each in decisions} == {Emit}


async def test_who_examines_nothing_has_no_process_here() -> None:
    """And one that cannot be loaded stops the start."""
    examiners = Examiners("verify", ApplySettings(topics=("tm_anytx", "tm_fine=tests.contracts.broken_managers:Fine")))
    assert examiners.of(["topic:tm_anytx", "topic:tm_fine", "topic:tm_nowhere"]) == []
    await examiners.start()
    await examiners.stop()
    with pytest.raises(BadManager, match="AttributeError"):
        Examiners("verify", ApplySettings(topics=("tm_x=tests.contracts.broken_managers:Nobody",)))


async def test_a_payload_given_up_while_it_is_examined_frees_the_process(apart: Stage) -> None:
    """The stage pauses, or stops: the process is at something that nobody waits for, and is replaced."""
    gathering = apart.verify.gather([payload(1, HARMFUL, off_chain=b"examine hang")])
    step = asyncio.ensure_future(anext(gathering))
    pool = apart.examiners._apart["tm_harmful"]
    while not pool._places.empty():
        await asyncio.sleep(0.01)
    step.cancel()
    with pytest.raises(asyncio.CancelledError):
        await step
    (decision,) = await apart.decide(payload(2, HARMFUL))
    assert facts(decision) == {HARMFUL: Examined("1", b"\x02")}
    assert not apart.examiners._standings["tm_harmful"].suspended
