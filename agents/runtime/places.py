"""Records of a topic by where they stand, read one at a time, without a group."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiokafka
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import OffsetOutOfRangeError

from agents.runtime.connection import client_options
from agents.runtime.records import Inbound
from agents.runtime.settings import KafkaSettings

READ_BYTES = 64 << 10
"""A place is read alone: Kafka sends whole batches of records, and the batch it stands in whatever its size."""

READ_WAIT_MS = 5
"""How long the broker may hold an empty fetch, and with it the next place that is asked for."""


class Places:
    """A reader of single records, read-committed."""

    def __init__(self, kafka: KafkaSettings, topic: str, partitions: int) -> None:
        """topic: its name on the cluster; partitions: how many it has."""
        self._kafka = kafka
        self.partitions = [aiokafka.TopicPartition(topic, number) for number in range(partitions)]
        self._reading = asyncio.Lock()

    async def start(self) -> None:
        """Connect.

        Raises:
            aiokafka.errors.KafkaError: no broker answers.
        """
        self._reader: Any = AIOKafkaConsumer(
            **client_options(self._kafka),
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="none",  # a place that retention removed is unknown, and nothing else
            max_partition_fetch_bytes=READ_BYTES,
            fetch_max_wait_ms=READ_WAIT_MS,
        )
        await self._reader.start()
        self._reader.assign(self.partitions)
        # What is not asked for is not fetched: answers would wait behind it, and it would lie in memory.
        self._reader.pause(*self.partitions)
        # What lies untaken (a place's neighbours, errors of partitions without a position) holds no other fetch up.
        self._reader._fetcher._prefetch_backoff = 0.0
        await asyncio.sleep(0)  # its tasks begin: to stop one that has not is to be cancelled oneself

    async def stop(self) -> None:
        """Disconnect."""
        await self._reader.stop()

    async def ends(self) -> dict[aiokafka.TopicPartition, int]:
        """Behind the last committed record of each partition, by now."""
        ends: dict[aiokafka.TopicPartition, int] = await self._reader.end_offsets(self.partitions)
        return ends

    async def first(self) -> dict[aiokafka.TopicPartition, int]:
        """The first offset that each partition still has."""
        first: dict[aiokafka.TopicPartition, int] = await self._reader.beginning_offsets(self.partitions)
        return first

    async def end(self, partition: int) -> int:
        """Behind the last committed record of one partition, by now."""
        tp = self.partitions[partition]
        return int((await self._reader.end_offsets([tp]))[tp])

    async def since(self, partition: int, time_ms: int) -> int | None:
        """The first offset of one partition whose record has this time or a later one; None where none has.

        Raises:
            aiokafka.errors.KafkaError: the broker does not answer.
        """
        tp = self.partitions[partition]
        found = (await self._reader.offsets_for_times({tp: max(0, time_ms)}))[tp]
        return None if found is None else int(found.offset)

    async def scan(self, partition: int, start: int, end: int) -> AsyncGenerator[Inbound, None]:
        """Committed records from one offset to before another. What retention removed is not there.

        Nobody else reads meanwhile: who leaves it before its end closes it (`contextlib.aclosing`), since one that is
        only dropped ends when Python comes to it.

        Raises:
            aiokafka.errors.KafkaError: the broker does not answer.
        """
        async with self._at(partition, start) as tp:
            while await self._reader.position(tp) < end:
                for record in (await self._reader.getmany(tp, timeout_ms=100)).get(tp, ()):
                    if record.offset >= end:
                        return
                    yield record

    async def read(self, partition: int, offset: int) -> Inbound | None:
        """The record at a place below the partition's end; None where none is (any more).

        Raises:
            aiokafka.errors.KafkaError: the broker does not answer.
        """
        async with self._at(partition, offset) as tp:
            try:
                record: Inbound = await self._reader.getone(tp)
            except OffsetOutOfRangeError:
                return None
        return record if record.offset == offset else None

    @asynccontextmanager
    async def _at(self, partition: int, offset: int) -> AsyncIterator[aiokafka.TopicPartition]:
        """One partition is fetched from there on, and by nobody else."""
        tp = self.partitions[partition]
        async with self._reading:
            self._reader.seek(tp, offset)
            self._reader.resume(tp)
            try:
                yield tp
            finally:
                self._reader.pause(tp)
