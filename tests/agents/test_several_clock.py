"""What operations over several contexts wait for, by the clocks of stages: deadlines, events, repeated votes."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, cast

import pytest

from agents.apply import ApplySettings, ApplyStage
from agents.coordinate import Coordinate
from agents.runtime import deadlines
from agents.runtime.outbox import Outbox
from agents.runtime.partition import AtomicStage
from agents.runtime.records import Out
from agents.runtime.shelf import Readable
from pipeline.state import Corrupt, Memory
from schemas.external import Severity
from schemas.operations import VOTE, Due, Vote
from tests.agents.several_rig import COUNTS, Place, Rig, all_of, name_of
from tests.fakes import Producer, coin_of_others, made_tx, verified
from topics.registry import VOTES

ALL, KEEP = "topic:tm_all", "topic:tm_keep"
TOPICS = ("tm_all=pipeline.overlay.builtin.anytx:AnyTx", "tm_keep=tests.fakes:Keep")
ONE = all_of(verified(made_tx([coin_of_others(1)], 2, 1), offset=1, contexts=(ALL, KEEP)))
NAME = name_of(ONE)
WITHIN_S = 20.0
A_WHILE_S = 0.1
"""Many looks at a clock, for what must not come."""

pytestmark = pytest.mark.invariant("ATOMIC-2")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadlines, "REST_S", 0.002)


class Walked(Memory):
    """A store that can be walked as those on disk are."""

    def walk(self, begin: bytes) -> "Walk":
        return Walk([(key, value) for key, value in self.entries.items() if key >= begin])


class Walk:
    def __init__(self, entries: list[tuple[bytes, bytes]]) -> None:
        self._entries = entries

    def take(self, most: int) -> list[tuple[bytes, bytes]]:
        taken, self._entries = self._entries[:most], self._entries[most:]
        return taken

    def close(self) -> None:
        """Nothing to close."""


@contextlib.asynccontextmanager
async def beside(stage: AtomicStage, place: Place, *, owner: bool = True) -> AsyncIterator[Producer]:
    """What a stage does beside its records, over a place's store; what it writes."""
    store = Walked()
    store.entries = place.store.entries
    async with over(stage, {0: Readable(cast(Any, store), 1, owner)}) as producer:
        yield producer


@contextlib.asynccontextmanager
async def over(stage: AtomicStage, stores: Mapping[int, Readable]) -> AsyncIterator[Producer]:
    """The same over any stores."""
    producer = Producer()

    def spoil(number: int, error: Corrupt) -> None:
        raise AssertionError((number, error))

    tasks = [asyncio.ensure_future(each) for each in stage.beside(stores, spoil, Outbox(producer, "", COUNTS, 8 << 20))]
    try:
        yield producer
        assert not any(task.done() for task in tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def until(test: Callable[[], object]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not test():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.002)


def half_heard(**settings: float) -> Rig:
    """One context has voted, and the other has not read its part."""
    rig = Rig(TOPICS, **settings)
    rig.lag = {KEEP.encode()}
    rig.send(ONE)
    rig.run()
    return rig


def telling(rig: Rig) -> Coordinate:
    stage = rig.coordinator.stage
    assert isinstance(stage, Coordinate)
    return stage


@pytest.mark.setting("coordinate.deadline_s")
async def test_an_attempt_ends_at_its_deadline() -> None:
    """The coordinator tells itself; before that nothing is said."""
    rig = half_heard(deadline_s=3600)
    async with beside(rig.coordinator.stage, rig.coordinator) as producer:
        await asyncio.sleep(A_WHILE_S)
        assert producer.values(VOTES.name) == []
    rig = half_heard(deadline_s=0.01)
    async with beside(rig.coordinator.stage, rig.coordinator) as producer:
        await until(lambda: producer.values(VOTES.name))
    (value,) = producer.values(VOTES.name)
    assert VOTE.decode(value) == Due(0)
    rig.put(Out(VOTES, bytes.fromhex(NAME), value))
    rig.run()
    status = rig.standing(NAME)
    assert status is not None
    assert (status.decided, status.final, status.code, status.by) == ("abort", False, "internal.deadline", KEEP)
    assert rig.outcomes("request-1") == {}, "a further attempt follows"


async def test_a_coordinator_that_takes_a_partition_over_finds_what_is_due_there() -> None:
    """Nobody told its clock of it."""
    rig = half_heard(deadline_s=0.01)
    other = Rig(TOPICS).coordinator.stage
    async with beside(other, rig.coordinator) as producer:
        await until(lambda: producer.values(VOTES.name))
    assert VOTE.decode(producer.values(VOTES.name)[0]) == Due(0)


@pytest.mark.setting("coordinate.tell_after_s")
async def test_what_is_undecided_for_long_is_told_of_once_an_attempt() -> None:
    """And how many are, and since when."""
    told: list[tuple[str, Severity, str, dict[str, Any]]] = []
    for tell_after_s, count in ((3600.0, 0), (0.01, 1)):
        rig = half_heard(tell_after_s=tell_after_s)
        telling(rig).tell_to(lambda *said: told.append(said))
        async with beside(rig.coordinator.stage, rig.coordinator):
            await until(lambda: len(told) >= count)  # noqa: B023 - before the next turn
            await asyncio.sleep(A_WHILE_S)
        assert len(told) == count
    ((kind, severity, message, details),) = told
    assert (kind, severity) == ("operation-undecided", "warning")
    assert message == f"operation {NAME} waits for the votes of {KEEP}"
    assert (details["missing"], details["attempt"], details["request_id"]) == ([KEEP], 0, "request-1")
    rig.lag = set()
    rig.run()
    async with beside(rig.coordinator.stage, rig.coordinator):
        await asyncio.sleep(A_WHILE_S)
    assert len(told) == 1


async def test_what_a_partition_holds_that_was_given_back_meanwhile_is_another_workers() -> None:
    """While it was looked through, and while another was told: it may be closed."""
    rig = half_heard(deadline_s=0.01, tell_after_s=0.01)
    told: list[str] = []
    stage = telling(rig)
    stage.tell_to(lambda kind, *_: told.append(kind))
    stores: dict[int, Readable] = {}

    class Leaving(Walked):
        """Leaves when it is looked at."""

        def walk(self, begin: bytes) -> Walk:
            assert 0 in stores
            stores.clear()
            stage.left(0)
            return super().walk(begin)

        def get(self, key: bytes) -> bytes | None:
            raise AssertionError("it is closed")

    for number in range(2):
        store = Leaving()
        store.entries = rig.coordinator.store.entries
        stores[number] = Readable(cast(Any, store), 1, owner=True)
    async with over(stage, stores) as producer:
        await until(lambda: not stores)
        await asyncio.sleep(A_WHILE_S)
    assert (producer.values(VOTES.name), told) == ([], [])


async def test_a_copy_does_not_vote() -> None:
    """Its context votes where it is owned."""
    rig = half_heard()
    stage = ApplyStage(ApplySettings(topics=TOPICS, trusted=("tm_keep",), vote_again_s=0.01))
    try:
        async with beside(stage, rig.part(ALL), owner=False) as producer:
            await asyncio.sleep(A_WHILE_S)
            assert producer.values(VOTES.name) == []
    finally:
        await stage.stop()


@pytest.mark.setting("apply.vote_again_s")
async def test_a_context_repeats_its_vote_that_often() -> None:
    rig = half_heard()
    for again_s, repeats in ((3600.0, False), (0.01, True)):
        stage = ApplyStage(ApplySettings(topics=TOPICS, trusted=("tm_keep",), vote_again_s=again_s))
        try:
            async with beside(stage, rig.part(ALL)) as producer:
                if repeats:
                    await until(lambda: len(producer.values(VOTES.name)) >= 3)
                else:
                    await asyncio.sleep(A_WHILE_S)
                    assert producer.values(VOTES.name) == []
        finally:
            await stage.stop()
    said = [VOTE.decode(value) for value in producer.values(VOTES.name)]
    assert all(isinstance(each, Vote) and (each.context, each.says, each.attempt) == (ALL, "yes", 0) for each in said)
    rig.lag = set()
    rig.run()
    decided = rig.coordinator.offset
    for each in said:
        rig.say(NAME, each)
    rig.run()
    assert rig.coordinator.offset == decided + len(said)
    assert rig.outcomes("request-1") == {ALL: "applied", KEEP: "applied"}
