"""Where the ancestors stand that payloads name by their txid alone: an index of `operations` (NAMED-1).

`operations` holds every payload that was verified. A follower, without a group, notes where each transaction stands in
it, proven ancestors too; the bytes stay in Kafka. A question is answered from all that the broker had when the question
came: so what was verified and acknowledged before is found by whichever worker the next payload comes to.
"""

import asyncio
import fcntl
import logging
import os
import struct
from collections.abc import Collection, Iterator, Mapping
from itertools import count
from pathlib import Path

import aiokafka
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError, OffsetOutOfRangeError
from rocksdict import Options, Rdict, WriteBatch

from agents import metrics
from agents.runtime.connection import client_options
from agents.runtime.places import Places
from agents.runtime.records import Inbound
from agents.runtime.settings import KafkaSettings, TopicSettings
from agents.runtime.transport import FETCH_BYTES, PARTITION_BYTES
from pipeline.ancestors import cut, refuse_much, shown
from pipeline.outcome import Condition, Verdict
from pipeline.policy import Policy
from schemas.flow import OPERATION, Apply
from schemas.types import Txid
from schemas.wire import Undecodable
from topics.registry import OPERATIONS

log = logging.getLogger(__name__)

PATIENCE_S = 5.0
"""For the follower to read what the broker has; then the record comes back through the retry tiers."""

AGAIN_S = 1.0
"""After an error of the broker's."""

LOOK_S = 0.02
"""How often a question looks whether the follower has come far enough."""

SWEEP_S = 3_600.0

SWEPT_AT_ONCE = 1_000
"""Entries looked through between two turns of the loop."""

TXID_BYTES = 32

IN_HAND_BYTES = 64 << 20
"""Of records that are read for payloads in hand, as `worker.max_in_flight_bytes` counts what was received."""

_PLACE = struct.Struct(">IqI")  # partition, offset, bytes of the record
_POSITION = b"\0position "  # and a partition's number; no txid begins so but by chance, and none is as short


class Ancestors:
    """The index of one worker, and its follower."""

    def __init__(
        self, stage: str, kafka: KafkaSettings, topics: TopicSettings, policy: Policy, folder: Path, partitions: int
    ) -> None:
        """Say where to look.

        folder: of indexes, one for each worker that shares it; they may be deleted while none runs, and are made again
            from `operations`.
        partitions: of `operations`.
        """
        self._stage = stage
        self._kafka = kafka
        self._topic = OPERATIONS.named(topics.prefix)
        self._policy = policy
        self._folder = folder
        self._positions: dict[aiokafka.TopicPartition, int] = {}
        self._places = Places(kafka, self._topic, partitions)
        self._room = Room(IN_HAND_BYTES)

    async def start(self) -> None:
        """Open the index and begin to follow.

        Raises:
            aiokafka.errors.KafkaError: no broker answers.
        """
        metrics.register_named(self._stage)
        self._lock, folder = _own(self._folder)
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_keep_log_file_num(1)
        self._index = Rdict(str(folder), options)
        self._follower = AIOKafkaConsumer(
            **client_options(self._kafka),
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="none",  # where retention removed what comes next, we say where to go on
            max_partition_fetch_bytes=PARTITION_BYTES,
            fetch_max_bytes=FETCH_BYTES,
        )
        await self._follower.start()
        await self._places.start()
        self._follower.assign(self._places.partitions)
        await self._seek()
        self._tasks = [asyncio.ensure_future(self._follow()), asyncio.ensure_future(self._sweep_now_and_then())]

    async def follow(self) -> None:
        """Until following fails, and raise what it failed on: without it nothing that was verified since is known."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    async def stop(self) -> None:
        """Close both; the positions stand in the index."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._follower.stop()
        await self._places.stop()
        self._index.close()
        os.close(self._lock)

    async def find(self, txids: Collection[Txid], whose: int = 0) -> Mapping[Txid, bytes] | Verdict | Condition:
        """BEEF that shows each of those that are known, as `pipeline.ancestors.resolved` takes it.

        whose: of what is found no more than `IN_HAND_BYTES` is handed out before it is given back with this number.
        A verdict where reading what holds them is more than a sender may ask for; a condition where the broker does not
        answer, the follower is behind, or too much is in hand.
        """
        try:
            async with asyncio.timeout(PATIENCE_S):
                ends = await self._catch_up()
                found = await self._find(txids, ends, whose)
        except (TimeoutError, KafkaError) as error:
            self._count(metrics.NOT_TO_BE_SAID, len(txids))
            return Condition("structure.ancestor-unknown", f"the index of verified payloads is behind: {error!r}")
        if isinstance(found, Verdict):
            return found
        self._count(metrics.KNOWN, len(found))
        self._count(metrics.UNKNOWN, len(txids) - len(found))
        return found

    def give_back(self, whose: int) -> None:
        """What was found for this one is in hand no longer. A second time does nothing."""
        self._room.leave(whose)

    def _count(self, answer: str, questions: int) -> None:
        metrics.NAMED_ANCESTORS.labels(self._stage, answer).inc(questions)

    # --- following

    async def _seek(self) -> None:
        """Go on where the index stands; where that is outside the log, at the log's first record.

        Below it where retention has removed what comes next; above it where the topic was made anew.
        """
        partitions = list(self._follower.assignment())
        first = await self._follower.beginning_offsets(partitions)
        ends = await self._follower.end_offsets(partitions)
        for tp in partitions:
            stored = int.from_bytes(self._index.get(_position(tp.partition)) or b"", "big")
            if stored > ends[tp]:
                log.warning("%s-%d ends at %d, before %d: it is read anew", *tp, ends[tp], stored)
            self._positions[tp] = stored if first[tp] <= stored <= ends[tp] else first[tp]
            self._follower.seek(tp, self._positions[tp])

    async def _follow(self) -> None:
        while True:
            try:
                fetched = await self._follower.getmany(timeout_ms=200)
            except OffsetOutOfRangeError:
                await self._seek()
                continue
            except KafkaError as error:
                log.warning("verified payloads cannot be followed: %s", error)
                await asyncio.sleep(AGAIN_S)
                continue
            batch = WriteBatch(raw_mode=True)
            for records in fetched.values():
                for record in records:
                    for txid in _shown(record):
                        place = _PLACE.pack(record.partition, record.offset, len(record.value or b""))
                        batch.put(txid, place)
                await asyncio.sleep(0)
            # The position counts transaction markers too, behind which no record may come for long.
            moved = {tp: await self._follower.position(tp) for tp in self._positions}
            for tp, position in moved.items():
                if position != self._positions[tp]:
                    batch.put(_position(tp.partition), position.to_bytes(8, "big"))
            self._index.write(batch)
            self._positions.update(moved)
            metrics.NAMED_BEHIND.labels(self._stage).set(
                sum(max(0, (self._follower.last_stable_offset(tp) or 0) - position) for tp, position in moved.items())
            )

    async def _catch_up(self) -> dict[aiokafka.TopicPartition, int]:
        """Until the follower has read all that was committed when this was called; the ends of what was."""
        ends = await self._places.ends()
        while any(self._positions[tp] < end for tp, end in ends.items()):
            await asyncio.sleep(LOOK_S)
        return ends

    # --- looking up

    async def _find(
        self, txids: Collection[Txid], ends: Mapping[aiokafka.TopicPartition, int], whose: int
    ) -> dict[Txid, bytes] | Verdict:
        wanted: dict[bytes, list[Txid]] = {}
        for txid in txids:
            if (place := self._index.get(txid)) is not None:
                wanted.setdefault(place, []).append(txid)
        places = {place: _PLACE.unpack(place) for place in wanted}
        sizes = [size for _, _, size in places.values()]
        if refused := refuse_much(sizes, self._policy):
            return refused
        await self._room.enter(whose, sum(sizes))
        found: dict[Txid, bytes] = {}
        for place, (partition, offset, _) in places.items():
            tp, here = aiokafka.TopicPartition(self._topic, partition), wanted[place]
            record = await self._places.read(partition, offset) if offset < ends[tp] else None
            beef = _payload(record) if record is not None else None
            shows = cut(beef, here) if beef is not None else {}
            found |= shows
            self._forget({txid: place for txid in here if txid not in shows})
        return found

    def _forget(self, places: Mapping[Txid, bytes]) -> None:
        """Drop what stands at these places still: the follower may have found a newer one meanwhile."""
        batch = WriteBatch(raw_mode=True)
        for txid, place in places.items():
            if self._index.get(txid) == place:
                batch.delete(txid)
        self._index.write(batch)

    async def _sweep_now_and_then(self) -> None:
        """Places whose records retention has removed leave the index."""
        while True:
            try:
                first = await self._places.first()
            except KafkaError as error:
                log.warning("the index of verified payloads is not swept: %s", error)
            else:
                await self._sweep({tp.partition: offset for tp, offset in first.items()})
            await asyncio.sleep(SWEEP_S)

    async def _sweep(self, first: Mapping[int, int]) -> None:
        """The index is looked through beside the loop; what is gone is dropped by the loop, as all is written by it."""
        pieces = _below(first, self._index.items())
        while (gone := await asyncio.to_thread(next, pieces, None)) is not None:
            self._forget(gone)


def _own(folder: Path) -> tuple[int, Path]:
    """A lock that is ours until it is closed, and the index it stands for: the first that no other worker has."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in count():
        descriptor = os.open(folder / f"{number}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
        else:
            return descriptor, folder / str(number)
    raise AssertionError("numbers do not end")


def _position(partition: int) -> bytes:
    return _POSITION + partition.to_bytes(4, "big")


def _below(first: Mapping[int, int], items: Iterator[tuple[bytes, bytes]]) -> Iterator[dict[Txid, bytes]]:
    """Places below the first offset of their partition, as they come in pieces of the index."""
    gone: dict[Txid, bytes] = {}
    for seen, (key, place) in enumerate(items, 1):
        if len(key) == TXID_BYTES:
            partition, offset, _ = _PLACE.unpack(place)
            if offset < first[partition]:
                gone[key] = place
        if seen % SWEPT_AT_ONCE == 0:
            yield gone
            gone = {}
    yield gone


class Room:
    """So many bytes at once. Who wants more than all of them waits until nobody has any."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: dict[int, int] = {}
        self._taken = 0
        self._freed = asyncio.Event()

    async def enter(self, whose: int, size: int) -> None:
        """Wait for room, and take it until `leave`."""
        while self._taken and self._taken + size > self._most:
            self._freed.clear()
            await self._freed.wait()
        self._held[whose] = self._held.get(whose, 0) + size
        self._taken += size

    def leave(self, whose: int) -> None:
        """Give back what `whose` took, if anything."""
        self._taken -= self._held.pop(whose, 0)
        self._freed.set()


def _payload(record: Inbound) -> bytes | None:
    try:
        operation = OPERATION.decode(record.value, record.headers)
    except Undecodable:
        return None  # of another version: apply says so of the record itself
    return operation.verified.beef if isinstance(operation, Apply) else None


def _shown(record: Inbound) -> list[Txid]:
    beef = _payload(record)
    return [] if beef is None else shown(beef)
