"""What a worker has fetched and has in hand, by partition; taken fairly, bounded in records and bytes."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from agents.runtime.ledger import Ledger
from agents.runtime.records import Inbound
from agents.runtime.suspects import Suspicion, mark_in_hand, mark_open, mark_untouched, mark_waiting

TopicPartition = tuple[str, int]


class Position(NamedTuple):
    """What a group commits for a partition."""

    offset: int
    metadata: str


class Lane:
    """One input partition in one generation of the group."""

    def __init__(self, tp: TopicPartition, generation: int, start: int, suspicion: Suspicion, careful_for: int) -> None:
        self.tp = tp
        self.generation = generation
        self.ledger = Ledger(start)
        self.queue: deque[Inbound] = deque()
        self.bytes = 0  # of the queue
        self.unfinished = 0  # bytes of the queue and in hand
        self.suspicion = suspicion
        self.start = start
        self.careful_until = start + careful_for if suspicion.one_by_one else start
        self.marked = False  # the group knows that inputs are in hand
        self.alone = -1  # the offset of an input that is in hand, and no other one in this process that goes one by one
        self.in_hand = False  # that input is being computed
        self.waits = False  # that input waits for the world
        self.served = False  # by a loop of its own
        self.gone = False  # given back
        self.arrived = asyncio.Event()

    @property
    def one_by_one(self) -> bool:
        """Whether an input here may be one that kills its process."""
        return self.suspicion.one_by_one and self.ledger.position < self.careful_until

    def restart(self, offset: int) -> None:
        """Fetching begins here, whatever the group said; what is suspected of another offset says nothing of this."""
        self.ledger.took([], offset)
        if offset != self.start:
            self.start = self.careful_until = offset
            self.suspicion = Suspicion()

    def position(self) -> Position:
        """Where the group may go on, and how we stand there."""
        offset = self.ledger.position
        before = self.suspicion if offset == self.start else Suspicion()
        if not self.ledger:
            return Position(offset, mark_untouched(before))
        if offset == self.alone and (self.in_hand or self.waits):
            return Position(offset, mark_in_hand(before) if self.in_hand else mark_waiting(before))
        return Position(offset, mark_open(before))


class Batch:
    """Records taken together, and the lanes they came from."""

    def __init__(self, board: "Board", lanes: dict[TopicPartition, Lane], records: list[Inbound]) -> None:
        self._board = board
        self._lanes = lanes
        self.records = records

    def lane_of(self, record: Inbound) -> Lane:
        """Where the record came from."""
        return self._lanes[(record.topic, record.partition)]

    def part(self, records: Sequence[Inbound]) -> "Batch":
        """Some of these records, as a batch of their own."""
        return Batch(self._board, self._lanes, list(records))

    def finished(self, records: Iterable[Inbound]) -> None:
        """All that was written for these records is acknowledged (ACK-1)."""
        self._board.finished(self._lanes, records)

    def give_back(self, records: Sequence[Inbound]) -> None:
        """These records were not dealt with: they are taken again, in their order."""
        self._board.give_back(self._lanes, records)


class Board:
    """The lanes of a worker.

    max_bytes bounds what is fetched and not finished; a lane of which nothing is unfinished may exceed it by one fetch.
    """

    def __init__(self, *, max_in_flight: int, max_bytes: int) -> None:
        self.max_in_flight = max_in_flight
        self.max_bytes = max_bytes
        self.lanes: dict[TopicPartition, Lane] = {}
        self.in_flight = 0
        self.queued = 0
        self.bytes = 0
        self.finished_count = 0  # of this process: the watchdog's sign of progress
        self.changed = asyncio.Event()
        self.drained = asyncio.Event()
        self._next = 0

    def assign(self, starts: Mapping[TopicPartition, tuple[int, Suspicion]], generation: int) -> None:
        """The group gave us these partitions, from these offsets on; what was there before is gone."""
        self.revoke()
        self.lanes = {
            tp: Lane(tp, generation, offset, suspicion, self.max_in_flight)
            for tp, (offset, suspicion) in sorted(starts.items())
        }
        self.changed.set()

    def revoke(self) -> None:
        """Every partition was given back: what waits in lanes is dropped, it will be read again by its next owner."""
        self.drop_queued()
        for lane in self.lanes.values():
            lane.gone = True
            lane.arrived.set()
        self.lanes = {}
        self.changed.set()

    def drop_queued(self) -> None:
        """Forget what waits in the lanes and was not taken; it stays unacknowledged."""
        for lane in self.lanes.values():
            self.queued -= len(lane.queue)
            self.bytes -= lane.bytes
            lane.unfinished -= lane.bytes
            lane.ledger.forget([record.offset for record in lane.queue])
            lane.bytes = 0
            lane.queue.clear()
            lane.arrived.clear()

    def put(self, tp: TopicPartition, records: Sequence[Inbound], read_to: int) -> None:
        """A fetch brought these records and ended before offset `read_to`."""
        lane = self.lanes[tp]
        lane.ledger.took([(record.offset, record.timestamp) for record in records], read_to)
        if records:
            lane.queue.extend(records)
            size = sum(map(_size, records))
            lane.bytes += size
            lane.unfinished += size
            self.queued += len(records)
            self.bytes += size
            lane.arrived.set()
            self.changed.set()

    def wants_more(self, lane: Lane) -> bool:
        """Whether the transport should fetch for a lane.

        Each lane has a share that nobody can take (half the bytes, dealt evenly); beyond it a busy one may have up to a
        quarter of all out of the other half. Idle lanes beside a busy one are the rule: one context is one partition.
        What is in hand counts: while the world is slow, everything that was fetched is in hand.
        """
        if not lane.ledger:
            return True
        if len(lane.queue) >= self.max_in_flight:
            return False
        own = self.max_bytes // (2 * max(1, len(self.lanes)))
        return lane.unfinished < own or (lane.unfinished < self.max_bytes // 4 and self.bytes < self.max_bytes // 2)

    def take(
        self,
        limit: int,
        eligible: Callable[[Lane], bool] = lambda _: True,
        due: Callable[[Inbound], bool] | None = None,
    ) -> Batch:
        """Up to `limit` records, the same share of each lane that has some, beginning with another lane each time.

        due: where given, a lane yields records up to the first that is not.
        """
        lanes = [lane for lane in self.lanes.values() if lane.queue and eligible(lane)]
        limit = max(0, min(limit, self.max_in_flight - self.in_flight))
        taken: dict[TopicPartition, Lane] = {}
        records: list[Inbound] = []
        self._next += 1
        turn = self._next % len(lanes) if lanes else 0
        lanes = lanes[turn:] + lanes[:turn]
        for index, lane in enumerate(lanes):
            share = -(-(limit - len(records)) // (len(lanes) - index))
            taken[lane.tp] = lane
            records += self._from(lane, share if due is None else _leading(lane, share, due))
        return Batch(self, taken, records)

    def take_from(self, lane: Lane, limit: int, max_bytes: int) -> Batch:
        """Up to `limit` records and about `max_bytes` of one lane."""
        size = count = 0
        for record in lane.queue:
            size += _size(record)
            if (count and size > max_bytes) or count >= limit:
                break
            count += 1
        return Batch(self, {lane.tp: lane}, self._from(lane, count))

    def _from(self, lane: Lane, count: int) -> list[Inbound]:
        queue = lane.queue
        found = [queue.popleft() for _ in range(min(count, len(queue)))]
        self.queued -= len(found)
        self.in_flight += len(found)
        lane.bytes -= sum(map(_size, found))
        if not queue:
            lane.arrived.clear()
        return found

    def give_back(self, lanes: Mapping[TopicPartition, Lane], records: Sequence[Inbound]) -> None:
        """See `Batch.give_back`."""
        self.in_flight -= len(records)
        for record in reversed(records):
            lane = lanes[(record.topic, record.partition)]
            if lane.gone:
                self.bytes -= _size(record)
            else:
                lane.queue.appendleft(record)
                lane.bytes += _size(record)
                lane.arrived.set()
                self.queued += 1
                if len(lane.queue) > 1 and lane.queue[1].offset < record.offset:  # another batch gave back before
                    lane.queue = deque(sorted(lane.queue, key=_offset))
        self.changed.set()

    def finished(self, lanes: Mapping[TopicPartition, Lane], records: Iterable[Inbound]) -> None:
        """See `Batch.finished`."""
        for record in records:
            lane, size = lanes[(record.topic, record.partition)], _size(record)
            lane.ledger.finished(record.offset)
            lane.unfinished -= size
            self.in_flight -= 1
            self.finished_count += 1
            self.bytes -= size
        self.drained.set()
        self.changed.set()

    def oldest_ms(self) -> int | None:
        """The broker's time of the oldest unfinished input, in Unix milliseconds; None: none is.

        What a partition has beyond what was fetched is younger than what was.
        """
        times = (lane.ledger.oldest_ms for lane in self.lanes.values())
        return min((written_ms for written_ms in times if written_ms is not None), default=None)

    def positions(self) -> dict[TopicPartition, Position]:
        """What the group may commit."""
        return {tp: lane.position() for tp, lane in self.lanes.items()}


def _leading(lane: Lane, limit: int, due: Callable[[Inbound], bool]) -> int:
    count = 0
    for record in lane.queue:
        if count == limit or not due(record):
            break
        count += 1
    return count


def _offset(record: Inbound) -> int:
    return record.offset


def _size(record: Inbound) -> int:
    return len(record.value or b"") + 200  # about what aiokafka's record and its headers hold beside the value
