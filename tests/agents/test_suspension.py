"""A context that is suspended: what of it waits, what of it goes on, and that its neighbours notice nothing."""

from typing import ClassVar

import pytest

from agents.apply import ApplySettings, ApplyStage
from agents.runtime.records import Inbound, Out
from agents.runtime.settings import WorkerSettings
from pipeline import state
from pipeline.codec.tx import Tx
from pipeline.overlay.manager import Subject, Transaction
from pipeline.state import head_of
from schemas import headers as h
from schemas.external import Admittance
from schemas.flow import Accept, Evict, Readmit
from schemas.journal import JOURNAL as ENTRY
from schemas.types import outpoint
from tests.agents.batches import Batches, results, to
from tests.fakes import Record, apply_of, coin_of_others, made_tx, verified
from topics.registry import DEAD_LETTERS, JOURNAL, NETWORK_NEWS, RETRY_1M, RETRY_10M, RETRY_10S

SLOW, OTHER = "topic:tm_slow", "topic:tm_anytx"
HOSTED = ("tm_slow=tests.agents.test_suspension:Slow", "tm_anytx")


class Slow:
    """As slow as it is told to be, by a clock that it moves itself; and it raises where it is told to."""

    version = "1"
    contract = 3
    now: ClassVar[float] = 0.0
    seconds: ClassVar[float] = 0.0
    raises: ClassVar[bool] = False
    asked: ClassVar[int] = 0

    def examine(self, transaction: Transaction) -> bytes:
        return b"facts"

    def admit(self, subject: Subject) -> Admittance:
        Slow.now += Slow.seconds
        Slow.asked += 1
        if Slow.raises:
            raise ValueError("as told")
        return Admittance(tuple(range(subject.output_count)), subject.previous_coins)


class World(Batches):
    """A partition with the slow topic's context and one of our own."""

    def __init__(self, **more: float) -> None:
        settings = ApplySettings(topics=HOSTED, trusted=("tm_slow",), **more)  # type: ignore[arg-type]
        super().__init__(ApplyStage(settings, WorkerSettings().fault_limit))
        self.standing = self.stage._judges["tm_slow"].standing
        self.standing.clock = lambda: Slow.now
        self.salt = 0

    def payment(self, context: str = SLOW, headers: h.Pairs | None = None) -> Record:
        """A new one."""
        self.salt += 1
        tx = made_tx([coin_of_others(self.salt % 250)], 1, self.salt)
        return self.record(context, apply_of(verified(tx, offset=self.salt)), headers or ())

    def suspended(self) -> "World":
        """By three slow records."""
        Slow.seconds = 0.06
        outs = self.do(*[self.payment() for _ in range(3)])
        assert [each.outcome for each in results(outs)] == ["applied"] * 3
        assert self.standing.suspended
        return self

    @property
    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.events]


@pytest.fixture(autouse=True)
def _quick_again() -> None:
    Slow.now, Slow.seconds, Slow.raises, Slow.asked = 1000.0, 0.0, False, 0


def waits_of(out: Out) -> h.RetryHeaders:
    found = h.retry_headers(out.headers)
    assert found is not None
    return found


def values(outs: list[Out]) -> list[bytes | None]:
    return [out.value for out in outs]


def numbers(outs: list[Out], context: str) -> list[int]:
    """Sequences of a context's journal."""
    entries = [ENTRY.decode(out.value) for out in to(outs, JOURNAL) if out.key == context.encode()]
    return [entry.sequence for entry in entries]


# --- records


@pytest.mark.invariant("TOPIC-3")
@pytest.mark.setting("apply.suspend_after")
def test_its_records_wait_and_its_neighbours_do_not() -> None:
    """In one partition, one batch: three are slow, all behind them wait, and what is between them is applied."""
    world = World()
    Slow.seconds = 0.06
    mine = [world.payment() for _ in range(20)]
    others = [world.payment(OTHER) for _ in range(20)]
    outs = world.do(*[record for pair in zip(mine, others, strict=True) for record in pair])
    told = [(each.context, each.outcome) for each in results(outs)]
    assert told.count((OTHER, "applied")) == 20
    assert told.count((SLOW, "applied")) == 3
    assert len(told) == 23
    assert values(to(outs, RETRY_10S)) == [record.value for record in mine[3:]]
    assert {waits_of(out).code for out in to(outs, RETRY_10S)} == {"internal.suspended"}
    assert (Slow.asked, world.kinds) == (3, ["context-suspended"])
    assert (numbers(outs, OTHER), numbers(outs, SLOW)) == (list(range(1, 21)), [1, 2, 3])
    assert to(outs, DEAD_LETTERS) == []


@pytest.mark.invariant("TOPIC-3")
def test_one_is_tried_and_lets_the_others_go_on() -> None:
    world = World().suspended()
    Slow.now += 9.9
    assert results(world.do(world.payment())) == []
    Slow.now += 0.2
    first, second = world.payment(), world.payment()
    outs = world.do(first, second)  # still slow: it is applied, and the next one waits
    assert len(results(outs)) == 1
    assert values(to(outs, RETRY_10S)) == [second.value]
    Slow.now += 20.0
    Slow.seconds = 0.01
    assert len(results(world.do(*[world.payment() for _ in range(5)]))) == 5
    assert world.kinds == ["context-suspended", "context-resumed"]


@pytest.mark.invariant("TOPIC-3")
def test_an_operator_lifts_it() -> None:
    """`beefline resume apply`, as the worker hears of it."""
    world = World().suspended()
    Slow.seconds = 0.0
    assert results(world.do(world.payment())) == []
    world.lanes.resume()
    assert len(results(world.do(world.payment()))) == 1
    assert world.kinds == ["context-suspended", "context-resumed"]


@pytest.mark.invariant("TOPIC-3")
@pytest.mark.invariant("RETRY-1")
def test_waiting_for_it_counts_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither as an attempt, nor against the day after which a condition of the record's own is given up.

    The tiers follow how long it has lasted: first 10 s, then a minute, then ten.
    """
    wall = [1_790_000_000.0]
    monkeypatch.setattr("time.time", lambda: wall[0])
    world = World().suspended()
    record: Inbound = world.payment()
    began = waited = 0
    for tier, lasted_s, delay_s in (
        (RETRY_10S, 0, 10), (RETRY_10S, 50, 10), (RETRY_1M, 60, 60), (RETRY_1M, 599, 60), (RETRY_10M, 600, 600),
        (RETRY_10M, 30 * 86_400, 600),
    ):  # fmt: skip
        wall[0] = 1_790_000_000.0 + lasted_s
        (out,) = world.do(world.record(SLOW, ENVELOPE, [pair for pair in record.headers if pair[0] != "schema"]))
        assert out.topic is tier
        found = waits_of(out)
        began = began or int(wall[0] * 1000)
        waited += delay_s * 1000
        assert (found.attempt, found.first_failed) == (0, began + waited)
        assert found.not_before == int(wall[0] * 1000) + delay_s * 1000
        record = Record(headers=out.headers)
    world.standing.lift()
    Slow.seconds = 0.0
    rival = made_tx([coin_of_others(251)], 1, 1)
    world.do(world.record(SLOW, apply_of(verified(rival, offset=901))))
    loser = apply_of(verified(made_tx([coin_of_others(251)], 1, 2), offset=902))
    wall[0] = (began + waited) / 1000 + 1  # it came back every time when it was due
    outs = world.do(world.record(SLOW, loser, [pair for pair in record.headers if pair[0] != "schema"]))
    (out,) = [out for out in outs if out.topic is not NETWORK_NEWS]
    assert (out.topic, waits_of(out).attempt, waits_of(out).code) == (RETRY_10S, 1, "conflict.undecided")


ENVELOPE = apply_of(verified(made_tx([coin_of_others(252)], 1, 900), offset=900))


@pytest.mark.invariant("TOPIC-3")
def test_what_needs_no_judgement_is_not_held_up() -> None:
    """Repeats, lost conflicts, the network's words for and against; and a readmission, which needs one, waits."""
    world = World()
    known = made_tx([coin_of_others(240)], 1, 800)
    first = apply_of(verified(known, offset=101))
    world.do(world.record(SLOW, first))
    world.suspended()
    again = world.do(world.record(SLOW, first))
    assert [each.outcome for each in results(again)] == ["applied"]
    world.do(world.record(SLOW, Accept("accept", (known.txid,), "arc@a")))
    rival = apply_of(verified(made_tx([coin_of_others(240)], 1, 801), offset=102))
    assert [each.code for each in results(world.do(world.record(SLOW, rival)))] == ["conflict.double-spend"]
    evicted = world.do(world.record(SLOW, Evict("evict", known.txid, "network.rejected", "no")))
    assert [each.outcome for each in results(evicted)] == ["evicted"]
    readmit = world.record(SLOW, Readmit("readmit", known.txid))
    before = dict(world.store.entries)
    waits = world.do(readmit)
    assert values(waits) == [readmit.value]
    assert waits[0].topic is RETRY_10S
    assert {key: each for key, each in world.store.entries.items() if not key.startswith(b"\0")} == {
        key: each for key, each in before.items() if not key.startswith(b"\0")
    }
    world.stage.lift()
    Slow.seconds = 0.0
    assert [each.outcome for each in results(world.do(readmit))] == ["revised"]


@pytest.mark.invariant("FAULT-1")
def test_a_broken_manager_halts_its_context_and_not_the_stage() -> None:
    """As many failures in a row as halt a stage suspend the context; each record so far is a dead letter."""
    world = World()
    Slow.raises = True
    outs = world.do(*[world.payment() for _ in range(40)], world.payment(OTHER))
    limit = WorkerSettings().fault_limit
    assert len(to(outs, DEAD_LETTERS)) == limit
    assert [each.code for each in results(outs)[:limit]] == ["internal.manager-raised"] * limit
    assert len(to(outs, RETRY_10S)) == 40 - limit
    assert (results(outs)[-1].context, results(outs)[-1].outcome) == (OTHER, "applied")
    assert world.desk.halted is None
    assert world.kinds == ["context-suspended"]
    Slow.now += 10.1
    assert len(to(world.do(world.payment(), world.payment()), DEAD_LETTERS)) == 1  # what is tried is one of them
    Slow.raises = False
    Slow.now += 20.1
    assert len(results(world.do(world.payment(), world.payment()))) == 2


def test_a_context_that_went_to_another_worker_is_unknown_here() -> None:
    world = World().suspended()
    world.stage.left(7)
    assert world.standing.suspended
    world.stage.left(0)
    assert not world.standing.suspended
    assert world.kinds == ["context-suspended"]


def test_a_batch_ends_when_it_took_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left of it is the next one's: other partitions have their turn in between."""
    monkeypatch.setattr("agents.runtime.partition.COMPUTE_S", -1.0)
    world = World()
    sizes: list[int] = []
    compute = world.partition._compute

    def counted(*args: object, **more: object) -> object:
        computed = compute(*args, **more)  # type: ignore[arg-type]
        sizes.append(computed.records)
        return computed

    monkeypatch.setattr(world.partition, "_compute", counted)
    assert len(results(world.do(*[world.payment() for _ in range(5)]))) == 5
    assert sizes == [1] * 5


# --- what waits in the state


def family(children: int) -> tuple[Tx, list[Tx]]:
    parent = made_tx([coin_of_others(253)], children, 500)
    return parent, [made_tx([outpoint(parent.txid, vout)], 1, 501 + vout) for vout in range(children)]


class Settling(World):
    """Children came before their parent, whose arrival has all of them judged again."""

    def __init__(self, children: int = 24) -> None:
        super().__init__()
        self.parent, self.children = family(children)
        for number, child in enumerate(self.children):
            self.do(self.record(SLOW, apply_of(verified(child, offset=600 + number))))
        Slow.asked = 0

    def arrives(self) -> list[Out]:
        return self.do(self.record(SLOW, apply_of(verified(self.parent, offset=700))))

    @property
    def settling(self) -> tuple[str, ...]:
        return self.partition.applied.settling

    def revised(self) -> int:
        return [each.outcome for each in results(self.outs)].count("revised")


@pytest.mark.invariant("TXN-5")
def test_one_transaction_judges_no_longer_than_a_piece_may_take() -> None:
    """At 70 ms each, four: the rest waits in the state, and goes on in the next."""
    world = Settling(12)
    Slow.seconds = 0.07
    pieces: list[int] = []
    settled = world.partition._settled

    def counted(context: str, store: object, outbox: object) -> object:
        before = Slow.asked
        found = settled(context, store, outbox)  # type: ignore[arg-type]
        pieces.append(Slow.asked - before)
        return found

    world.partition._settled = counted  # type: ignore[method-assign, assignment]
    world.standing.limits = type(world.standing.limits)(0.1, 3, 10, 10.0)  # it is not too slow
    world.arrives()
    assert Slow.asked == 13
    assert pieces == [4, 4, 1]
    assert world.revised() == 12
    assert world.settling == ()


@pytest.mark.invariant("TOPIC-3")
@pytest.mark.invariant("TXN-5")
def test_what_waits_in_the_state_waits_too_and_records_of_its_context_behind_it() -> None:
    """The neighbours go on; tried now and then it gets done; and the state is what it would have been."""
    world, plain = Settling(), Settling()
    plain.arrives()
    wanted = head_of(plain.store, SLOW).state_root
    Slow.seconds = 0.06
    assert "applied" in {each.outcome for each in results(world.arrives())}
    assert world.kinds == ["context-suspended"]
    assert world.settling == (SLOW,)
    assert world.revised() < 24
    evict = world.record(SLOW, Evict("evict", bytes(32), "network.rejected", "no"))
    late, other = world.payment(), world.payment(OTHER)
    outs = world.do(evict, late, other)
    assert values(to(outs, RETRY_10S)) == [evict.value, late.value]
    assert [each.context for each in results(outs)] == [OTHER]
    assert world.settling == (SLOW,)
    before = world.revised()
    Slow.now += 10.1
    world.do()
    assert world.revised() > before
    Slow.seconds = 0.0
    for _ in range(3):
        Slow.now += 1000.0
        world.do()
    assert world.revised() == 24
    assert not world.settling
    assert head_of(world.store, SLOW).state_root == wanted
    assert world.kinds == ["context-suspended", "context-resumed"]
    assert len(results(world.do(late))) == 1


@pytest.mark.invariant("TOPIC-3")
def test_a_manager_that_fails_on_what_waits_suspends_its_context_and_loses_nothing() -> None:
    """No record is to blame, and the stage goes on."""
    world = Settling()
    Slow.seconds = 0.06
    world.arrives()
    world.stage.lift()
    Slow.raises, before = True, world.revised()
    outs = world.do(world.payment(OTHER))
    assert [each.context for each in results(outs)] == [OTHER]
    assert (world.revised(), world.settling, world.desk.halted) == (before, (SLOW,), None)
    assert world.events[-1][0] == "context-suspended"
    assert "on what waits in its state: tm_slow: ValueError: as told" in world.events[-1][1]
    Slow.raises, Slow.seconds = False, 0.0
    world.stage.lift()
    world.do()
    assert (world.revised(), world.settling) == (24, ())


@pytest.mark.invariant("TXN-5")
def test_a_topic_that_is_no_longer_hosted_halts_where_its_transactions_are_to_be_judged_again() -> None:
    """That is the installation's fault, and nothing to wait for."""
    world = Settling()
    Slow.seconds = 0.06
    world.arrives()
    assert world.settling == (SLOW,)
    del world.stage._hosted.judges["tm_slow"]
    world.do()
    assert world.desk.halted is not None
    assert world.desk.halted.code == "settling-failed"


@pytest.mark.invariant("APPLY-4")
def test_a_large_family_leaves_while_its_context_is_suspended(monkeypatch: pytest.MonkeyPatch) -> None:
    """That takes no judging. Coming back does, and waits."""
    monkeypatch.setattr("pipeline.waiting.STEPS", 5)
    world = Settling()
    world.arrives()
    Slow.seconds = 0.06
    world.do(*[world.payment() for _ in range(3)])
    assert world.standing.suspended
    outs = world.do(world.record(SLOW, Evict("evict", world.parent.txid, "network.rejected", "no")))
    assert [each.outcome for each in results(outs)] == ["evicted"] * 25
    assert world.settling == ()
    stones = [key for key in world.store.entries if key.startswith(state.key(SLOW, state.TOMBSTONE, b""))]
    assert len(stones) == 1
