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
        self._partitions = partitions
        self._kafka = kafka
        self._topic = OPERATIONS.named(topics.prefix)
        self._policy = policy
        self._folder = folder
        self._positions: dict[aiokafka.TopicPartition, int] = {}
        self._reading = asyncio.Lock()

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
        self._follower, self._reader = self._consumer(), self._consumer()
        for consumer in (self._follower, self._reader):
            await consumer.start()
        partitions = [aiokafka.TopicPartition(self._topic, number) for number in range(self._partitions)]
        for consumer in (self._follower, self._reader):
            consumer.assign(partitions)
        await self._seek()
        self._tasks = [asyncio.ensure_future(self._follow()), asyncio.ensure_future(self._sweep_now_and_then())]

    async def stop(self) -> None:
        """Close both; the positions stand in the index."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for consumer in (self._follower, self._reader):
            await consumer.stop()
        self._index.close()
        os.close(self._lock)

    async def find(self, txids: Collection[Txid]) -> Mapping[Txid, bytes] | Verdict | Condition:
        """BEEF that shows each of those that are known, as `pipeline.ancestors.resolved` takes it.

        A verdict where reading what holds them is more than a sender may ask for; a condition where the broker does not
        answer, or the follower is behind.
        """
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._catch_up()
                found = await self._find(txids)
        except (TimeoutError, KafkaError) as error:
            self._count(metrics.NOT_TO_BE_SAID, len(txids))
            return Condition("structure.ancestor-unknown", f"the index of verified payloads is behind: {error!r}")
        if isinstance(found, Verdict):
            return found
        self._count(metrics.KNOWN, len(found))
        self._count(metrics.UNKNOWN, len(txids) - len(found))
        return found

    def _count(self, answer: str, questions: int) -> None:
        metrics.NAMED_ANCESTORS.labels(self._stage, answer).inc(questions)

    # --- following

    def _consumer(self) -> AIOKafkaConsumer:
        return AIOKafkaConsumer(
            **client_options(self._kafka),
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="none",  # a place that retention removed is unknown, and nothing else
            max_partition_fetch_bytes=PARTITION_BYTES,
            fetch_max_bytes=FETCH_BYTES,
        )

    async def _seek(self) -> None:
        """Go on where the index stands; where retention has removed that, at what is left."""
        partitions = list(self._follower.assignment())
        first = await self._follower.beginning_offsets(partitions)
        for tp in partitions:
            stored = self._index.get(_position(tp.partition))
            self._positions[tp] = max(int.from_bytes(stored or b"", "big"), first[tp])
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

    async def _catch_up(self) -> None:
        """Until the follower has read all that was committed when this was called."""
        ends = await self._reader.end_offsets(list(self._positions))
        while any(self._positions[tp] < end for tp, end in ends.items()):
            for task in self._tasks:
                if task.done():
                    task.result()  # what ended it ends whoever asks
            await asyncio.sleep(LOOK_S)

    # --- looking up

    async def _find(self, txids: Collection[Txid]) -> dict[Txid, bytes] | Verdict:
        wanted: dict[tuple[int, int], list[Txid]] = {}
        sizes: dict[tuple[int, int], int] = {}
        for txid in txids:
            stored = self._index.get(txid)
            if stored is not None:
                partition, offset, size = _PLACE.unpack(stored)
                wanted.setdefault((partition, offset), []).append(txid)
                sizes[partition, offset] = size
        if refused := refuse_much(sizes.values(), self._policy):
            return refused
        found: dict[Txid, bytes] = {}
        for (partition, offset), here in wanted.items():
            beef = await self._read(aiokafka.TopicPartition(self._topic, partition), offset)
            if beef is None:
                self._forget(here)
            else:
                found |= cut(beef, here)
        return found

    async def _read(self, tp: aiokafka.TopicPartition, offset: int) -> bytes | None:
        """The payload at a place; None where retention has removed it."""
        async with self._reading:
            self._reader.seek(tp, offset)
            try:
                record = await self._reader.getone(tp)
            except OffsetOutOfRangeError:
                return None
        return _payload(record) if record.offset == offset else None

    def _forget(self, txids: Collection[Txid]) -> None:
        batch = WriteBatch(raw_mode=True)
        for txid in txids:
            batch.delete(txid)
        self._index.write(batch)

    async def _sweep_now_and_then(self) -> None:
        """Places whose records retention has removed leave the index."""
        while True:
            try:
                first = await self._reader.beginning_offsets(list(self._positions))
            except KafkaError as error:
                log.warning("the index of verified payloads is not swept: %s", error)
            else:
                left = {tp.partition: offset for tp, offset in first.items()}
                await asyncio.to_thread(self._sweep, left)
            await asyncio.sleep(SWEEP_S)

    def _sweep(self, first: Mapping[int, int]) -> None:
        for gone in _pieces(
            key
            for key, stored in self._index.items()
            if len(key) == 32 and (place := _PLACE.unpack(stored))[1] < first[place[0]]
        ):
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


def _pieces(keys: Iterator[bytes], size: int = 10_000) -> Iterator[list[bytes]]:
    piece: list[bytes] = []
    for key in keys:
        piece.append(key)
        if len(piece) == size:
            yield piece
            piece = []
    if piece:
        yield piece


def _payload(record: Inbound) -> bytes | None:
    try:
        operation = OPERATION.decode(record.value, record.headers)
    except Undecodable:
        return None  # of another version: apply says so of the record itself
    return operation.verified.beef if isinstance(operation, Apply) else None


def _shown(record: Inbound) -> list[Txid]:
    beef = _payload(record)
    return [] if beef is None else shown(beef)
