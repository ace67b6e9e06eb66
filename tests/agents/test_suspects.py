"""Finding the record that kills its process: how one owner ends, and what the next one does."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

import pytest

from agents.runtime.aside import LONG_BYTES, aside, is_long
from agents.runtime.board import Board, Position
from agents.runtime.desk import Desk, Halt
from agents.runtime.outbox import Outbox
from agents.runtime.outcomes import Router
from agents.runtime.records import Decision, Emit, Inbound, Out, WorldCondition
from agents.runtime.settings import TraceSettings
from agents.runtime.stage import Runner
from agents.runtime.suspects import Suspicion, mark_in_hand, mark_open, mark_untouched, mark_waiting
from agents.runtime.trace import Tracer
from pipeline.outcome import Condition
from pipeline.results import About
from tests.agents.test_desk import Start
from tests.fakes import Group, Producer, Record
from topics.registry import BY_NAME, INGEST, PARSED, Topic

TOPIC = "beef.ingest"
P0, P1 = (TOPIC, 0), (TOPIC, 1)

pytestmark = pytest.mark.invariant("FAULT-2")

# --- the marks

MARKS: list[tuple[str, Suspicion]] = [
    ("", Suspicion(0, 0)),
    ("open=1", Suspicion(1, 0)),
    ("open=2", Suspicion(2, 0)),
    ("open=17", Suspicion(17, 0)),
    ("hand=1", Suspicion(2, 1)),
    ("hand=2", Suspicion(2, 2)),
    ("hand=3", Suspicion(2, 3)),
    # an operator's reset, or another program's words
    ("open", Suspicion()),
    ("open=", Suspicion()),
    ("open=-1", Suspicion()),
    ("open=x", Suspicion()),
    ("closed=2", Suspicion()),
    ("reset by hand", Suspicion()),
    ("{'a': 1}", Suspicion()),
]


@pytest.mark.parametrize(("metadata", "suspicion"), MARKS)
def test_what_a_mark_says(metadata: str, suspicion: Suspicion) -> None:
    assert Suspicion.read(metadata) == suspicion


LIVES: list[tuple[str, bool, bool, str, str, str, str]] = [
    # mark found, one by one, given up
    #   -> mark while untouched, while in hand or behind others, while alone and waiting, while alone and computed
    ("", False, False, "", "open=1", "open=1", "hand=1"),
    ("open=1", False, False, "open=1", "open=2", "open=2", "hand=1"),
    ("open=2", True, False, "open=2", "open=3", "open=3", "hand=1"),
    ("hand=1", True, False, "hand=1", "hand=1", "open=3", "hand=2"),
    ("hand=2", True, False, "hand=2", "hand=2", "open=3", "hand=3"),
    ("hand=3", True, True, "hand=3", "hand=3", "hand=3", "hand=4"),
]


@pytest.mark.parametrize(("found", "one_by_one", "given_up", "untouched", "behind", "waiting", "computed"), LIVES)
def test_what_the_next_owner_does(
    found: str, one_by_one: bool, given_up: bool, untouched: str, behind: str, waiting: str, computed: str
) -> None:
    before = Suspicion.read(found)
    assert (before.one_by_one, before.given_up) == (one_by_one, given_up)
    assert (mark_untouched(before), mark_open(before)) == (untouched, behind)
    assert (mark_waiting(before), mark_in_hand(before)) == (waiting, computed)


# --- processes


class Death(BaseException):
    """The process ends here, as by a fault in native code."""


class Deadly:
    """A stage whose records kill it, or have it wait."""

    name = "deadly"
    inputs: tuple[Topic, ...] = (INGEST,)
    outputs: tuple[Topic, ...] = (PARSED,)
    begins_traces = False
    went_well: tuple[str, ...] = ("",)

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []
        self.world_away = False
        self.gathered = 0
        self.waits_s = 0.0  # for the world, with a batch in hand
        self.computes_s = 0.0  # of long records, in the thread
        self.dies_in = "deciding"
        self.die: Callable[[], None] = lambda: None
        self.after: Callable[[], None] = lambda: None
        self.dead = False

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    async def probe(self) -> None:
        if self.world_away:
            raise WorldCondition(Condition("anchor.no-quorum"))

    async def gather(self, batch: Sequence[Inbound]) -> AsyncGenerator[tuple[Sequence[Inbound], None], None]:
        self.gathered += 1
        await self.probe()
        await asyncio.sleep(self.waits_s)
        if self.dies_in == "gathering":
            for record in batch:
                await aside(self._compute, record)
        yield batch, None

    def about(self, record: Inbound) -> About | None:
        return None

    def decide(self, record: Inbound, gathered: None, now_ms: int) -> Decision:
        if not self.dead:
            self.seen.append((record.partition, record.offset))
        self._compute(record)
        self.after()
        return Emit((Out(PARSED, record.key, record.value),))

    def _compute(self, record: Inbound) -> None:
        if is_long(record):
            time.sleep(self.computes_s)
        if self.dead or (record.value or b"").startswith(b"poison"):
            self.dead = True
            self.die()
            raise Death


class Life:
    """One process of a stage, from what the group knows to its end."""

    def __init__(
        self,
        group: Group,
        logs: dict[int, list[bytes]],
        *,
        batch: int = 100,
        due: Callable[[Inbound], int] | None = None,
    ) -> None:
        self.group, self.logs = group, logs
        self.stage = Deadly()
        self.producer = Producer()
        self.desk = Desk(Board(max_in_flight=100, max_bytes=1 << 20), restores=False, settle_s=0.5)
        self.desk.group = group
        self.stage.die = self.fall_silent
        self.runner = Runner(
            self.stage, self.desk, Router("deadly", "beef.", 86_400_000), Tracer("deadly", TraceSettings()),
            batch_records=batch, fault_limit=100, due=due,
        )  # fmt: skip
        self.task: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Join, and fetch all there is."""
        known = self.group.committed
        starts = {
            (TOPIC, n): Start(*known.get((TOPIC, n), (0, "")), 0, len(log)) for n, log in sorted(self.logs.items())
        }
        for (_, partition), offset in (await self.desk.begin(starts, 1)).items():
            self.fetch(partition, offset)
        outbox = Outbox(self.producer, "beef.", {name: topic.partitions for name, topic in BY_NAME.items()}, 1 << 20)
        self.task = asyncio.ensure_future(self.runner.run(outbox))

    def fetch(self, partition: int, offset: int) -> None:
        found = [
            Record(TOPIC, partition, offset + n, value=value) for n, value in enumerate(self.logs[partition][offset:])
        ]
        self.desk.board.put((TOPIC, partition), found, len(self.logs[partition]))

    async def until(self, true: Callable[[], bool]) -> None:
        """Something came about, or the process ended."""
        deadline = time.monotonic() + 5
        while not true() and not self.died:
            assert time.monotonic() < deadline, (self.stage.seen, self.group.committed)
            await asyncio.sleep(0.001)

    @property
    def died(self) -> bool:
        return self.task is not None and self.task.done()

    @property
    def idle(self) -> bool:
        board = self.desk.board
        return not board.in_flight and not board.queued

    def fall_silent(self) -> None:
        """The dead tell their group nothing."""
        self.desk.group = None

    async def kill(self) -> None:
        """kill -9."""
        assert self.task is not None
        self.fall_silent()
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Death):
            await self.task

    async def stop(self) -> None:
        """SIGTERM: in order."""
        await self.desk.settle()
        await self.kill()

    def letters(self) -> list[bytes]:
        return self.producer.values("beef.dead-letters")

    def passed(self) -> list[bytes]:
        return self.producer.values("beef.parsed")


async def live(group: Group, logs: dict[int, list[bytes]], batch: int = 100) -> Life:
    """A whole life: until it dies, or all is done and committed."""
    life = Life(group, logs, batch=batch)
    await life.begin()
    await life.until(lambda: life.idle)
    if life.died:
        await life.kill()
    else:
        await life.stop()
    return life


async def test_a_record_that_kills_is_found_and_costs_itself_alone() -> None:
    """Five processes end; the sixth gives it up. The partition beside it, in hand at each end, loses nothing."""
    group = Group()
    logs = {0: [b"a", b"poison", b"b"], 1: [b"c", b"d", b"e"]}
    lives: list[Life] = []
    while len(lives) < 10:
        lives.append(await live(group, logs))
        if not lives[-1].died or lives[-1].idle:
            break
    assert len(lives) == 6
    assert [life.letters() for life in lives] == [[], [], [], [], [], [b"poison"]]
    headers = [header for log in lives[-1].producer.written.values() for record in log for header in record["headers"]]
    assert ("code", b"internal.killed") in headers
    passed = {value for life in lives for value in life.passed()}
    assert passed == {b"a", b"b", b"c", b"d", b"e"}
    assert group.committed == {P0: Position(3, ""), P1: Position(3, "")}
    # From the third on, what is touched is touched alone: the poison ends its process before its neighbours are seen.
    assert all(life.stage.seen.count((0, 1)) == 1 for life in lives[:5])
    assert lives[4].stage.seen[-1] == (0, 1)


async def test_records_that_kill_are_all_found() -> None:
    """A letter may come twice: the next of them ends the process before the group hears of the one before."""
    group = Group()
    logs = {0: [b"poison 1", b"a", b"poison 2"], 1: [b"b"], 2: [b"poison 3"]}
    letters: list[bytes] = []
    passed: set[bytes] = set()
    for _ in range(30):
        life = await live(group, logs)
        letters += life.letters()
        passed |= set(life.passed())
        if not life.died:
            break
    assert set(letters) == {b"poison 1", b"poison 2", b"poison 3"}
    assert passed == {b"a", b"b"}
    assert {group.committed[tp] for tp in group.committed} == {Position(3, ""), Position(1, "")}


@pytest.mark.parametrize("ends", [1, 2])
async def test_two_ends_while_alone_in_hand_give_nobody_up(ends: int) -> None:
    """They could be somebody's kill -9, and a restart that failed."""
    group = Group()
    group.committed[P0] = Position(1, f"hand={ends}")
    life = await live(group, {0: [b"a", b"b", b"c"]})
    assert (life.letters(), life.passed()) == ([], [b"b", b"c"])
    assert group.committed[P0] == Position(3, "")


@pytest.mark.parametrize("alive_s", [0.06, 0.2])
async def test_a_record_that_waits_for_the_world_is_not_to_blame_for_kills(alive_s: float) -> None:
    """Somebody ends the process again and again while an endpoint hangs; it is alone in hand each time."""
    group = Group()
    logs = {0: [b"a", b"b"]}
    for _ in range(8):
        life = Life(group, logs)
        life.stage.waits_s = 60
        await life.begin()
        await life.until(lambda life=life: life.stage.gathered > 0)  # type: ignore[misc]
        await asyncio.sleep(alive_s)
        await life.kill()
        assert Suspicion.read(group.committed[P0].metadata).in_hand == 0
    life = await live(group, logs)
    assert (life.letters(), life.passed()) == ([], [b"a", b"b"])


async def test_ends_that_met_it_waiting_break_the_row() -> None:
    """Kills that do meet a record while it is computed, one in many, do not add up."""
    group = Group()
    for _ in range(4):
        group.committed[P0] = Position(0, "hand=2")
        life = Life(group, {0: [b"a"]})
        life.stage.waits_s = 60
        await life.begin()
        await life.until(lambda: group.committed[P0].metadata == "open=3")
        await life.kill()
    life = await live(group, {0: [b"a"]})
    assert (life.letters(), life.passed()) == ([], [b"a"])


async def test_what_is_written_slowly_is_not_to_blame_for_kills() -> None:
    """Its part is done; the broker is slow to say so."""
    group = Group()
    for _ in range(8):
        life = Life(group, {0: [b"a"]})
        life.producer.takes_s = 60
        await life.begin()
        await life.until(lambda life=life: bool(life.stage.seen))  # type: ignore[misc]
        await asyncio.sleep(0.06)
        await life.kill()
        assert Suspicion.read(group.committed[P0].metadata).in_hand == 0


async def test_one_that_is_done_leaves_no_mark_on_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """The group is told how its lanes stand at any time, also just after the record was acknowledged."""
    group = Group()
    group.committed[P0] = Position(0, "open=2")
    life = Life(group, {0: [b"a", b"b"]})
    await life.begin()
    lane = life.desk.board.lanes[P0]
    done = life.desk.board.finished

    def look(*arguments: Any) -> None:
        done(*arguments)
        if lane.ledger:
            assert lane.position() == Position(1, "open=1")

    monkeypatch.setattr(life.desk.board, "finished", look)
    await life.until(lambda: life.idle)
    assert not life.died
    await life.stop()
    assert life.passed() == [b"a", b"b"]


@pytest.mark.parametrize("waits_s", [0.0, 0.002, 0.03])
async def test_a_record_that_waits_and_then_kills_is_found(waits_s: float) -> None:
    group = Group()
    letters: list[bytes] = []
    lives = 0
    while not letters:
        life = Life(group, {0: [b"a", b"poison", b"b"]})
        life.stage.waits_s = waits_s
        await life.begin()
        await life.until(lambda life=life: life.idle)  # type: ignore[misc]
        letters += life.letters()
        await (life.kill() if life.died else life.stop())
        lives += 1
    assert (letters, lives) == ([b"poison"], 6)
    assert group.committed[P0] == Position(3, "")


@pytest.mark.parametrize("where", ["gathering", "deciding"])
async def test_a_record_that_kills_after_long_in_the_thread_is_found(where: str) -> None:
    """A long record is computed beside the loop, which is free all the while: that is not waiting."""
    group = Group()
    poison = b"poison" + bytes(LONG_BYTES)
    letters: list[bytes] = []
    lives = 0
    while not letters and lives < 10:
        life = Life(group, {0: [b"a", poison]})
        life.stage.waits_s = 0.03
        life.stage.computes_s = 0.05
        life.stage.dies_in = where
        await life.begin()
        await life.until(lambda life=life: life.idle)  # type: ignore[misc]
        letters += life.letters()
        await (life.kill() if life.died else life.stop())
        lives += 1
    assert (letters, lives) == ([poison], 6)


@pytest.mark.parametrize("mark", ["", "open=1"])
async def test_two_ends_at_one_offset_make_the_third_go_one_by_one(mark: str) -> None:
    """Kills at an idle moment or after progress do not count."""
    group = Group()
    group.committed[P0] = Position(0, mark)
    life = Life(group, {0: [b"a", b"b"]})
    await life.begin()
    await life.until(lambda: life.idle)
    await life.desk.commit()
    await life.kill()
    assert group.committed[P0] == Position(2, "")
    assert not Suspicion.read(group.committed[P0].metadata).one_by_one


async def test_processes_that_stop_in_order_leave_no_suspicion() -> None:
    """Paused for the world, stopped and started again by a deployment, three times."""
    group = Group()
    for _ in range(3):
        life = Life(group, {0: [b"a", b"b"], 1: [b"c"]})
        life.stage.world_away = True
        await life.begin()
        await life.until(lambda life=life: life.runner.paused is not None)  # type: ignore[misc]
        await life.stop()
        assert {at: position.metadata for at, position in group.committed.items()} == {P0: "", P1: ""}
    life = await live(group, {0: [b"a", b"b"], 1: [b"c"]})
    assert sorted(life.passed()) == [b"a", b"b", b"c"]


async def test_a_partition_that_changes_hands_untouched_keeps_its_suspicion() -> None:
    group = Group()
    for mark in ("open=1", "hand=1"):
        group.committed[P0] = Position(0, mark)
        life = Life(group, {0: [b"a"]})
        life.stage.world_away = True
        life.desk.halted = Halt("test", "nothing is touched")
        await life.begin()
        await asyncio.sleep(0)
        await life.stop()
        assert group.committed[P0] == Position(0, mark)


async def test_a_partition_fetched_while_another_is_marked_is_marked_too_before_it_is_touched() -> None:
    group = Group()
    group.committed[P1] = Position(0, "open=2")
    life = Life(group, {0: [b"a"], 1: []})
    marks: list[str] = []

    def look() -> None:
        partition, _ = life.stage.seen[-1]
        marks.append(f"{partition} {group.committed[TOPIC, partition].metadata}")

    def fetch_the_other() -> None:
        life.logs[1] = [b"b"]
        life.fetch(1, 0)
        group.before = lambda: None

    life.stage.after = look
    group.before = fetch_the_other
    await life.begin()
    await life.until(lambda: len(marks) == 2)
    assert sorted(marks) == ["0 open=1", "1 hand=1"]
    await life.stop()


# --- going one by one is still waiting on purpose


def careful(due: Callable[[Inbound], int] | None = None) -> Life:
    group = Group()
    group.committed[P0] = Position(0, "open=2")
    return Life(group, {0: [b"a", b"b"]}, due=due)


async def a_while() -> None:
    """Long enough for what must not happen to happen many times."""
    for _ in range(50):
        await asyncio.sleep(0.001)


async def test_a_paused_stage_asks_nothing_record_by_record_either() -> None:
    life = careful()
    life.stage.world_away = True
    await life.begin()
    await life.until(lambda: life.runner.paused is not None)
    await a_while()
    assert life.stage.gathered == 1
    life.stage.world_away = False
    await life.until(lambda: life.idle)
    assert life.passed() == [b"a", b"b"]
    await life.stop()


async def test_a_halted_stage_touches_nothing_record_by_record_either() -> None:
    life = careful()
    life.stage.after = lambda: life.desk.halt(Halt("faults", "as asked"))
    await life.begin()
    await life.until(lambda: life.desk.halted is not None)
    await a_while()
    assert life.stage.seen == [(0, 0)]
    life.stage.after = lambda: None
    life.runner.resume()
    await life.until(lambda: life.idle)
    assert life.passed() == [b"a", b"b"]
    await life.stop()


async def test_a_record_that_is_not_due_waits_record_by_record_too() -> None:
    later = int(time.time() * 1000) + 150
    life = careful(due=lambda record: later if record.value == b"b" else 0)
    await life.begin()
    await life.until(lambda: life.idle)
    assert int(time.time() * 1000) >= later
    assert life.passed() == [b"a", b"b"]
    await life.stop()


async def test_a_partition_taken_away_while_its_turn_comes_is_left_alone() -> None:
    """It waits for the one input that may be in hand; meanwhile the group deals anew."""
    group = Group()
    for tp in (P0, P1):
        group.committed[tp] = Position(0, "open=2")
    life = Life(group, {0: [b"a"], 1: [b"b"]})
    await life.begin()
    async with life.desk.alone(life.desk.board.lanes[P0]):
        for _ in range(20):
            await asyncio.sleep(0.001)
        life.desk.revoked()
    for _ in range(20):
        await asyncio.sleep(0.001)
    assert not life.died
    assert life.stage.seen == []
    await life.kill()
