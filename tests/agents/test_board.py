"""The board against a model that keeps one word a record; fairness among lanes, and bounds."""

import random
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.runtime.board import Batch, Board, Position, TopicPartition
from agents.runtime.records import Inbound
from agents.runtime.suspects import Suspicion
from tests.fakes import Record
from tests.profiles import CHEAP

TOPIC = "beef.ingest"
OVERHEAD = 200

Id = tuple[int, int, int]  # generation, partition, offset


def tp(partition: int) -> TopicPartition:
    return (TOPIC, partition)


def board_of(lanes: int, *, max_in_flight: int = 100, max_bytes: int = 1 << 20) -> Board:
    board = Board(max_in_flight=max_in_flight, max_bytes=max_bytes)
    board.assign({tp(n): (0, Suspicion()) for n in range(lanes)}, 1)
    return board


def records(partition: int, offsets: Sequence[int], size: int = 10) -> list[Record]:
    return [Record(TOPIC, partition, offset, value=bytes(size)) for offset in offsets]


def put(board: Board, partition: int, offsets: Sequence[int], size: int = 10) -> None:
    board.put(tp(partition), records(partition, offsets, size), offsets[-1] + 1)


def taken(batch: Batch) -> list[tuple[int, int]]:
    return [(record.partition, record.offset) for record in batch.records]


# --- against a model


class World:
    """A board, and for each record one word: queued, in hand, finished or dropped."""

    LANES = 3

    def __init__(self) -> None:
        self.board = Board(max_in_flight=12, max_bytes=20_000)
        self.generation = 0
        self.word: dict[Id, str] = {}
        self.size: dict[Id, int] = {}
        self.hands: list[tuple[int, Batch, list[Inbound]]] = []  # generation, batch, what is left of it
        self.read_to = dict.fromkeys(range(self.LANES), 0)
        self.finished = 0
        self.assign()

    def ids(self, word: str, partition: int | None = None, generation: int | None = None) -> list[Id]:
        return sorted(
            each
            for each, said in self.word.items()
            if said == word and partition in (None, each[1]) and generation in (None, each[0])
        )

    def say(self, word: str, generation: int, found: Sequence[Inbound]) -> None:
        for record in found:
            self.word[generation, record.partition, record.offset] = word

    def assign(self) -> None:
        """The next generation begins where the last one may have committed."""
        positions = self.board.positions()
        for each in self.ids("queued"):
            self.word[each] = "dropped"
        self.generation += 1
        starts = {tp(n): (positions.get(tp(n), Position(0, "")).offset, Suspicion()) for n in range(self.LANES)}
        self.board.assign(starts, self.generation)
        self.read_to = {partition: offset for (_, partition), (offset, _) in starts.items()}

    def put(self, partition: int, sizes: Sequence[int], gap: int) -> None:
        at = self.read_to[partition] + gap
        found = [Record(TOPIC, partition, at + n, value=bytes(size)) for n, size in enumerate(sizes)]
        self.say("queued", self.generation, found)
        for record, size in zip(found, sizes, strict=True):
            self.size[self.generation, partition, record.offset] = size + OVERHEAD
        self.read_to[partition] = at + len(sizes)
        self.board.put(tp(partition), found, self.read_to[partition])

    def take(self, batch: Batch, limit: int) -> None:
        found = list(batch.records)
        assert len(found) <= limit
        for record in found:
            each = (self.generation, record.partition, record.offset)
            assert self.word[each] == "queued"
            earlier = self.ids("queued", record.partition, self.generation)
            assert each == earlier[0], "a lane yields its records in their order"
            self.word[each] = "in hand"
        if found:
            self.hands.append((self.generation, batch, found))

    def part(self, chance: random.Random) -> tuple[int, Batch, list[Inbound]] | None:
        """Some records of some batch in hand, which are then no longer ours."""
        if not self.hands:
            return None
        generation, batch, left = chance.choice(self.hands)
        some = chance.sample(left, chance.randint(1, len(left)))
        left[:] = [record for record in left if record not in some]
        self.hands = [hand for hand in self.hands if hand[2]]
        return generation, batch, sorted(some, key=lambda record: record.offset)

    def finish(self, chance: random.Random) -> None:
        if (part := self.part(chance)) is not None:
            generation, batch, some = part
            batch.finished(some)
            self.finished += len(some)
            self.say("finished", generation, some)

    def give_back(self, chance: random.Random) -> None:
        if (part := self.part(chance)) is not None:
            generation, batch, some = part
            batch.part(some).give_back(some)
            self.say("queued" if generation == self.generation else "dropped", generation, some)

    def drop(self) -> None:
        """The process stops: what was not taken is not touched, and the next owner reads it."""
        for each in self.ids("queued"):
            self.word[each] = "dropped"
        self.board.drop_queued()

    def look(self) -> None:
        board = self.board
        assert board.in_flight == len(self.ids("in hand"))
        assert board.queued == len(self.ids("queued"))
        assert board.bytes == sum(self.size[each] for each in self.ids("queued") + self.ids("in hand"))
        assert board.finished_count == self.finished
        for partition in range(self.LANES):
            lane = board.lanes[tp(partition)]
            queued = self.ids("queued", partition, self.generation)
            assert [record.offset for record in lane.queue] == [offset for _, _, offset in queued]
            assert lane.bytes == sum(self.size[each] for each in queued)
            held = queued + self.ids("in hand", partition, self.generation)
            assert lane.unfinished == sum(self.size[each] for each in held)
            unfinished = [
                each for word in ("queued", "in hand", "dropped") for each in self.ids(word, partition, self.generation)
            ]
            first = min((offset for _, _, offset in unfinished), default=self.read_to[partition])
            assert board.positions()[tp(partition)].offset == first
            touched = bool(queued or self.ids("in hand", partition, self.generation))
            assert bool(board.positions()[tp(partition)].metadata) == touched


@pytest.mark.invariant("ACK-2")
@settings(CHEAP, max_examples=150)
@given(st.integers(0, 2**32), st.lists(st.sampled_from("ppppttttaffffggrd"), min_size=5, max_size=60))
def test_any_interleaving_keeps_the_books(seed: int, todo: list[str]) -> None:
    """Counts and bytes match, positions pass nothing unfinished, nothing is taken twice; at the end all is 0."""
    chance = random.Random(seed)
    world = World()
    for what in todo:
        partition = chance.randrange(World.LANES)
        match what:
            case "p":
                world.put(
                    partition, [chance.randrange(0, 900) for _ in range(chance.randrange(4))], chance.randrange(3)
                )
            case "t":
                limit = chance.randrange(6)
                world.take(world.board.take(limit), limit)
            case "a":
                lane = world.board.lanes[tp(partition)]
                world.take(world.board.take_from(lane, 2, 500), 2)
            case "f":
                world.finish(chance)
            case "g":
                world.give_back(chance)
            case "r":
                world.assign()
            case "d":
                world.drop()
                world.look()
                world.assign()
        world.look()
    while world.hands:
        world.finish(chance)
        world.look()
    world.drop()
    world.look()
    assert (world.board.in_flight, world.board.queued, world.board.bytes) == (0, 0, 0)


# --- fairness


def test_a_batch_takes_the_same_share_of_each_lane_that_has_some() -> None:
    board = board_of(4)
    for partition, count in enumerate([50, 50, 50, 3]):
        put(board, partition, range(count))
    counts = Counter(partition for partition, _ in taken(board.take(40)))
    assert counts[3] == 3
    assert min(counts[n] for n in range(3)) >= 10  # what lane 3 leaves goes to those behind it
    assert sum(counts.values()) <= 40


def test_a_deep_lane_does_not_starve_a_shallow_one() -> None:
    board = board_of(2, max_in_flight=1000)
    put(board, 0, range(900))
    put(board, 1, range(1))
    assert (1, 0) in taken(board.take(10))


def test_lanes_take_turns_when_a_batch_cannot_hold_all() -> None:
    board = board_of(5)
    for partition in range(5):
        put(board, partition, range(4))
    seen = [taken(board.take(1))[0][0] for _ in range(20)]
    assert Counter(seen) == dict.fromkeys(range(5), 4)
    assert [Counter(seen[at : at + 5]) for at in range(0, 20, 5)] == [dict.fromkeys(range(5), 1)] * 4


def test_only_eligible_lanes_are_taken_from() -> None:
    board = board_of(3)
    for partition in range(3):
        put(board, partition, range(2))
    assert {partition for partition, _ in taken(board.take(10, lambda lane: lane.tp[1] != 1))} == {0, 2}


# --- bounds


def test_no_more_is_in_hand_than_may_be() -> None:
    board = board_of(2, max_in_flight=5)
    put(board, 0, range(10))
    put(board, 1, range(10))
    first = board.take(100)
    assert len(first.records) == 5
    assert board.take(100).records == []
    first.finished(first.records[:2])
    assert len(board.take(100).records) == 2


@pytest.mark.setting("worker.max_in_flight")
@pytest.mark.parametrize("due", [None, lambda _: True])
def test_nothing_is_taken_while_more_is_in_hand_than_may_be(due: object) -> None:
    """A lane that goes record by record takes beside the others."""
    board = board_of(2, max_in_flight=3)
    put(board, 0, range(10))
    board.take(3)
    board.take_from(board.lanes[tp(0)], 1, 0)
    assert board.in_flight == 4
    assert board.take(10, due=due).records == []  # type: ignore[arg-type]


def test_a_lane_alone_yields_records_up_to_a_size() -> None:
    board = board_of(1)
    put(board, 0, range(5), size=300)
    lane = board.lanes[tp(0)]
    assert taken(board.take_from(lane, 10, 1000)) == [(0, 0), (0, 1)]
    assert taken(board.take_from(lane, 1, 10**6)) == [(0, 2)]
    assert taken(board.take_from(lane, 10, 0)) == [(0, 3)]  # one at least, however large
    assert taken(board.take_from(lane, 10, 10**6)) == [(0, 4)]
    assert taken(board.take_from(lane, 10, 10**6)) == []


def test_a_lane_is_fetched_for_until_it_has_its_share() -> None:
    """An eighth of the bytes is each one's own; a busy lane may have a quarter of all while half of all is free."""
    board = board_of(4, max_bytes=8000)
    busy, other = board.lanes[tp(0)], board.lanes[tp(1)]
    put(board, 0, [0], size=1500 - OVERHEAD)
    assert board.wants_more(busy)
    put(board, 0, [1], size=500 - OVERHEAD)
    assert not board.wants_more(busy)
    for partition in (1, 2):
        put(board, partition, [0], size=999 - OVERHEAD)
        assert board.wants_more(board.lanes[tp(partition)])
    put(board, 3, [0], size=1500 - OVERHEAD)
    put(board, 1, [1], size=1 + OVERHEAD)
    assert board.bytes > board.max_bytes // 2
    assert not board.wants_more(other)
    assert board.wants_more(board.lanes[tp(2)])
    batch = board.take_from(other, 2, 10_000)
    assert not board.wants_more(other)  # in hand, it is its share all the same
    batch.finished(batch.records)
    assert board.wants_more(other)


def test_a_lane_is_not_fetched_for_beyond_what_may_be_in_hand() -> None:
    board = board_of(4, max_in_flight=5)
    put(board, 0, range(4), size=0)
    assert board.wants_more(board.lanes[tp(0)])
    put(board, 0, [4], size=0)
    assert not board.wants_more(board.lanes[tp(0)])


def test_an_empty_lane_is_fetched_for_however_full_the_others_are() -> None:
    """What waits for its time in one lane must not stop the others."""
    board = board_of(2, max_bytes=1000)
    put(board, 0, range(9), size=1000)
    assert board.bytes > board.max_bytes
    assert board.wants_more(board.lanes[tp(1)])


@pytest.mark.setting("worker.max_in_flight_bytes")
@settings(CHEAP, max_examples=60)
@given(st.integers(0, 2**32), st.integers(1, 6))
def test_bytes_are_bounded_though_nothing_finishes(seed: int, lanes: int) -> None:
    """All that is taken stays in hand, as when trackers are slow: the bound, and one fetch a lane beyond it."""
    chance = random.Random(seed)
    board = board_of(lanes, max_in_flight=100_000, max_bytes=50_000)
    fetch = 10_000
    at = dict.fromkeys(range(lanes), 0)
    for _ in range(300):
        partition = chance.randrange(lanes)
        if board.wants_more(board.lanes[tp(partition)]):
            put(board, partition, [at[partition]], size=chance.randrange(fetch - OVERHEAD))
            at[partition] += 1
        if chance.random() < 0.7:
            board.take(10)
    assert board.bytes <= board.max_bytes + lanes * fetch


# --- what is due


def test_a_lane_yields_records_up_to_the_first_that_is_not_due() -> None:
    """A later one may be due already; it waits behind the first, and the other lane does not."""
    board = board_of(2)
    put(board, 0, range(5))
    put(board, 1, range(3))
    due = {(0, 0), (0, 1), (0, 3), (1, 0), (1, 1), (1, 2)}
    batch = board.take(100, due=lambda record: (record.partition, record.offset) in due)
    assert sorted(taken(batch)) == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]
    assert board.take(100, due=lambda record: record.offset != 2).records == []
    assert taken(board.take(2, due=lambda _: True)) == [(0, 2), (0, 3)]


# --- giving back


def test_what_two_batches_give_back_is_taken_in_its_order_again() -> None:
    board = board_of(1)
    put(board, 0, range(6))
    first, second = board.take(2), board.take(2)
    first.give_back(first.records)
    second.give_back(second.records)
    assert taken(board.take(10)) == [(0, n) for n in range(6)]


def test_a_batch_of_a_partition_that_is_gone_settles_with_the_old_lane() -> None:
    """Its next owner reads the record again; our books must not touch the new lane's."""
    board = board_of(1)
    put(board, 0, range(4))
    batch, other = board.take(1), board.take(1)
    board.assign({tp(0): (0, Suspicion())}, 2)
    put(board, 0, range(4))
    batch.finished(batch.records)
    other.give_back(other.records)
    assert board.positions()[tp(0)] == Position(0, "open=1")
    assert (board.in_flight, board.queued) == (0, 4)
    assert batch.lane_of(batch.records[0]).gone


def test_revoked_lanes_wake_whoever_waits_for_them() -> None:
    board = board_of(1)
    lane = board.lanes[tp(0)]
    assert not lane.arrived.is_set()
    board.revoke()
    assert lane.arrived.is_set()
    assert lane.gone
    assert board.lanes == {}
