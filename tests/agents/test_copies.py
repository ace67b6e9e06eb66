"""Copies and the shelf, without a broker: what compaction left out, what differs, and who has a store in hand."""

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiokafka
import pytest

from agents.runtime.copies import Copies
from agents.runtime.placement import Dealt
from agents.runtime.settings import KafkaSettings
from agents.runtime.shelf import Shelf
from agents.runtime.standby import Standby
from pipeline import state
from pipeline.follow import Contexts
from pipeline.state import APPLIED_KEY, Corrupt, head_of
from tests.fakes import Owner, apply_of, coin_of_others, made_tx, verified

ALL = "topic:tm_all"
TP = aiokafka.TopicPartition("beef.state", 3)


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    made = Shelf(tmp_path / "apply" / "beef", 1)
    yield made
    made.close()


class Log:
    """A consumer of one changelog."""

    def __init__(self, records: list[Any], end: int) -> None:
        self.records = records
        self.end = end
        self.at = 0
        self.assigned: list[aiokafka.TopicPartition] = []

    def assignment(self) -> set[aiokafka.TopicPartition]:
        return set(self.assigned)

    def assign(self, tps: list[aiokafka.TopicPartition]) -> None:
        self.assigned = list(tps)

    def seek(self, _: aiokafka.TopicPartition, offset: int) -> None:
        self.at = offset

    async def end_offsets(self, tps: list[aiokafka.TopicPartition]) -> Mapping[aiokafka.TopicPartition, int]:
        return dict.fromkeys(tps, self.end)

    async def position(self, _: aiokafka.TopicPartition) -> int:
        return self.at

    def fetch(self, most: int) -> list[Any]:
        found = [record for record in self.records if self.at <= record.offset < self.end][:most]
        self.at = found[-1].offset + 1 if found else self.end
        return found


class Following:
    """Copies of one partition, fed by hand."""

    def __init__(self, shelf: Shelf, log: Log) -> None:
        self.told: list[str] = []
        self.repaired: list[str] = []
        self.log = log
        self.copies = Copies(
            "apply", KafkaSettings(), TP.topic, Contexts(), shelf, lambda: {3}, set,
            lambda kind, *_: self.told.append(kind), self._repaired,
        )  # fmt: skip

    async def _repaired(self, _: int, error: Corrupt) -> None:
        self.repaired.append(str(error))

    async def turn(self, most: int = 500) -> None:
        """What `_follow` does between two fetches."""
        await self.copies._arrange(self.log)
        if 3 not in self.copies._copies:
            return
        if records := self.log.fetch(most):
            await self.copies._take(self.log, TP, records)
        for number in [number for number, copy in self.copies._copies.items() if not copy.fresh]:
            await self.copies._look(self.log, number)


def changelog(world: Owner) -> list[Any]:
    """Records as Kafka has them: a marker behind each batch."""
    records, offset = [], 0
    for batch in world.changelog:
        for key, value in batch:
            records.append(SimpleNamespace(offset=offset, key=key, value=value))
            offset += 1
        offset += 1
    return records


def after(records: list[Any]) -> int:
    return int(records[-1].offset) + 2


def world_of(count: int) -> Owner:
    """As many transactions, a batch each."""
    owner = Owner()
    for number in range(count):
        owner.do(ALL, apply_of(verified(made_tx([coin_of_others(number)], 2, number), offset=number)))
    return owner


@pytest.mark.invariant("COPY-2")
@pytest.mark.parametrize("most", [1, 2, 7, 500])
async def test_a_copy_is_served_once_it_came_to_the_end_and_is_whole_at_every_batch(shelf: Shelf, most: int) -> None:
    """However fetches cut batches: what is served stands at the end of one."""
    world = world_of(6)
    records = changelog(world)
    log = Log(records, records[len(records) // 2].offset)  # in the middle, as a reader finds it
    following = Following(shelf, log)
    seen: set[int] = set()
    for _ in range(2 * len(records)):
        await following.turn(most)
        if (held := shelf.readable.get(3)) is not None:
            assert not held.owner
            seen.add(head_of(held.store, ALL).sequence)
        log.end = after(records)
    assert max(seen) == 6
    assert following.copies.fresh == {3}
    stands = head_of(shelf.readable[3].store, ALL)
    owners = head_of(world.store, ALL)
    assert (stands.state_root, stands.store_root) == (owners.state_root, owners.store_root)
    assert following.told == []


@pytest.mark.invariant("COPY-2")
async def test_what_compaction_took_is_no_difference(shelf: Shelf) -> None:
    """A copy that lags reads a log from which replaced records are gone: roots fit at its end alone."""
    records = changelog(world_of(8))
    begun = [record for record in records if record.offset < records[len(records) // 2].offset]
    log = Log(begun, after(begun))
    following = Following(shelf, log)
    for _ in range(3):
        await following.turn()
    assert following.copies.fresh == {3}
    last = {record.key: record.offset for record in records}
    log.records = [record for record in records if last[record.key] == record.offset]
    log.end = after(records)
    for _ in range(200):
        await following.turn(3)
    assert following.copies.fresh == {3}
    assert head_of(shelf.readable[3].store, ALL).sequence == 8
    assert (following.told, following.repaired) == ([], [])


@pytest.mark.invariant("COPY-2")
async def test_a_record_that_is_not_what_was_written_is_refused_and_the_changelog_left_alone(shelf: Shelf) -> None:
    """Read twice: the second time it is the changelog that differs, whose owner halts over it."""
    records = changelog(world_of(3))
    altered = next(record for record in records if record.key not in (APPLIED_KEY, ALL.encode()))
    altered.value = altered.value[:-1] + bytes([altered.value[-1] ^ 1]) if altered.value[32:] else b"\1" * 32
    following = Following(shelf, Log(records, after(records)))
    for _ in range(5):
        await following.turn()
    assert following.told == ["copy-differs", "state-differs"]
    assert shelf.readable == {}
    assert following.copies._wanted() == set()


@pytest.mark.invariant("COPY-2")
async def test_a_copy_that_lost_an_entry_is_made_again(shelf: Shelf) -> None:
    """And the journal hears of it once it is right."""
    world = world_of(5)
    records = changelog(world)
    following = Following(shelf, Log(records, after(records)))
    for _ in range(3):
        await following.turn()
    following.copies.spoil(3, Corrupt("a reader found it", ALL.encode()))
    assert shelf.readable == {}
    for _ in range(3):
        await following.turn()
    assert following.copies.fresh == {3}
    assert following.told == ["copy-differs"]
    assert following.repaired == ["a reader found it"]
    assert head_of(shelf.readable[3].store, ALL).sequence == 5


@pytest.mark.invariant("COPY-2")
async def test_a_copy_that_is_ahead_of_its_changelog_is_made_again(shelf: Shelf) -> None:
    """As after a topic was lost and made anew."""
    records = changelog(world_of(5))
    following = Following(shelf, Log(records, after(records)))
    for _ in range(3):
        await following.turn()
    fewer = changelog(world_of(2))
    other = Following(shelf, Log(fewer, after(fewer)))
    for _ in range(3):
        await other.turn()
    assert other.told == ["copy-differs"]
    assert head_of(shelf.readable[3].store, ALL).sequence == 2


def test_an_owner_takes_a_copy_where_it_stands_and_gives_it_back(shelf: Shelf) -> None:
    """Nobody else has it meanwhile."""
    store = shelf.copy(3)
    store.write({b"k": b"v"}, 7)
    shelf.serve_copy(3)
    assert shelf.take(3) is store
    assert shelf.readable == {}
    shelf.serve(3, 9)
    assert shelf.readable[3] == (store, 9, True)
    assert shelf.positions == {3: 7}
    standby = Standby("apply", "here", 3, shelf, lambda *_: None)
    assert standby.kept() == {3}, "nothing is put away before the group has dealt"
    standby.deal([], Dealt((3, 4)))
    assert standby.kept() == {3, 4}
    assert standby.wanted() == {4}, "it is still in an owner's hands"
    shelf.give(3)
    assert standby.wanted() == {3, 4}
    assert shelf.readable == {}
    assert shelf.copy(3) is store
    shelf.put_away(())
    assert shelf.copy(3) is not store
    assert shelf.copy(3).position == 7


def test_two_workers_of_one_folder_do_not_share_a_store(tmp_path: Path) -> None:
    """And a third comes into the place of the first."""
    shelves = [Shelf(tmp_path / "beef", 1) for _ in range(2)]
    assert [shelf.path(0).parent.name for shelf in shelves] == ["beef", "beef~1"]
    shelves[0].copy(5).write({}, 11)
    shelves[0].close()
    third = Shelf(tmp_path / "beef", 1)
    third.look()
    assert third.path(0).parent.name == "beef"
    assert third.positions == {5: 11}
    for shelf in (shelves[1], third):
        shelf.close()


@pytest.mark.setting("worker.any_from_differing")
def test_a_store_that_differs_can_be_looked_into_until_it_has_been_made_again(tmp_path: Path) -> None:
    """An owner's and a copy's, where it was asked for; what a process left behind is removed by the next."""
    shelf = Shelf(tmp_path / "beef", 1, keeps_differing=True)
    v, w = state.seal(b"v"), state.seal(b"w")
    shelf.copy(3).write({b"k": v}, 5)
    shelf.take(4).write({b"k": w}, 6)
    assert shelf.copy_anew(3).get(b"k") is None
    assert shelf.anew(4).get(b"k") is None
    assert {number: store.get(b"k") for number, store in shelf.differing.items()} == {3: v, 4: w}
    shelf.copy_anew(3).write({b"k": state.seal(b"half")}, 1)
    assert shelf.differing[3].get(b"k") == v, "what was there first, not an attempt to make it again"
    aside = [store.path for store in shelf.differing.values()]
    shelf.serve_copy(3)
    assert shelf.differing.keys() == {4}
    shelf.serve(4, 1)
    shelf.give(4)
    assert shelf.differing == {}
    assert not any(path.exists() for path in aside)
    shelf.copy_anew(3)
    left = shelf.differing[3]
    left.close()
    del shelf.differing[3]
    shelf.close()
    after = Shelf(tmp_path / "beef", 1)  # as by default
    after.look()
    assert not left.path.exists()
    after.copy_anew(3)
    assert after.differing == {}
    after.close()


def test_what_nobody_wanted_for_long_is_removed(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("agents.runtime.shelf.time.monotonic", lambda: now)
    shelf.copy(3).write({}, 5)
    shelf.copy(4).write({}, 6)
    shelf.put_away({4})
    assert shelf.path(3).exists()
    now = 3599.0
    shelf.put_away({4})
    assert shelf.path(3).exists()
    now = 3601.0
    shelf.put_away({4})
    assert not shelf.path(3).exists()
    assert shelf.path(4).exists()


class Group:
    """Hears who asks for another deal."""

    def __init__(self) -> None:
        self.asked = 0

    async def rejoin(self) -> None:
        self.asked += 1


async def test_a_worker_asks_for_its_share_once_all_that_it_waits_for_is_fresh(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once a deal; and what the group is too small for is told when it was large enough before."""
    monkeypatch.setattr("agents.runtime.standby.LOOK_S", 0.001)
    told: list[str] = []
    standby = Standby("apply", "here", 3, shelf, lambda kind, *_: told.append(kind))
    fresh: set[int] = set()
    copies: Any = SimpleNamespace(fresh=fresh, changed=asyncio.Event())
    group = Group()
    running = asyncio.ensure_future(standby.run(copies, group.rejoin))
    standby.deal([1], Dealt((2, 3), (3,), 1))
    await asyncio.sleep(0.05)
    assert (group.asked, told) == (0, [])
    assert copies.changed.is_set()
    fresh.add(3)
    await asyncio.sleep(0.05)
    assert group.asked == 1
    standby.deal([1, 3], Dealt((2,), (), 0))
    await asyncio.sleep(0.05)
    standby.deal([1, 2, 3], Dealt((), (), 1))
    await asyncio.sleep(0.05)
    assert (group.asked, told) == (1, ["copies-complete", "copies-missing"])
    assert (standby.has().host, standby.has().owned) == ("here", (1, 2, 3))
    running.cancel()
