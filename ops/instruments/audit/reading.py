"""Reading the topics for an audit, round by round, without joining a group."""

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupCoordinatorNotAvailableError
from aiokafka.structs import TopicPartition

from agents.runtime.cluster import Cluster, admin
from agents.runtime.connection import client_options
from ops.instruments.audit.books import Books
from ops.reading import OPTIONS, NotReadable, patience_s, read_to
from ops.settings import Settings
from topics.registry import (
    BROADCAST,
    DEAD_LETTERS,
    DECISIONS,
    INGEST,
    JOURNAL,
    NETWORK_NEWS,
    NETWORK_STATUS,
    OPERATIONS,
    PARSED,
    REQUESTS,
    RESULTS,
    RETRY_1M,
    RETRY_10M,
    RETRY_10S,
    TRANSACTIONS,
    VOTES,
    Topic,
    group,
)

GROUPS: Mapping[str, tuple[Topic, ...]] = {
    "parse": (INGEST, REQUESTS),
    "verify": (PARSED,),
    "apply": (OPERATIONS,),
    "broadcast": (BROADCAST,),
    "coordinate": (VOTES,),
    "status": (NETWORK_NEWS,),
    "retry": (RETRY_10S, RETRY_1M, RETRY_10M),
}
"""Who acknowledges what."""

ANSWERS = (RESULTS,)
WITNESSES = (JOURNAL, DEAD_LETTERS, TRANSACTIONS, BROADCAST, NETWORK_STATUS, DECISIONS)
UNDER_WAY = (REQUESTS, PARSED, OPERATIONS, VOTES, NETWORK_NEWS, RETRY_10S, RETRY_1M, RETRY_10M)
"""Read from their group's position on only: what is older was dealt with."""

EVERYTHING = (INGEST, *ANSWERS, *WITNESSES, *UNDER_WAY)


class Reader:
    """Reads into books. Used as an async context manager."""

    def __init__(self, settings: Settings, cluster: Cluster, books: Books) -> None:
        """Raises NotReadable when a topic is missing."""
        self._settings = settings
        self._books = books
        prefix = settings.topics.prefix
        self._topics = {topic.named(prefix): topic for topic in EVERYTHING}
        if missing := [name for name, topic in self._topics.items() if topic.name not in cluster.partitions]:
            raise NotReadable(f"topic {missing[0]} does not exist")
        self._partitions = {
            topic: [TopicPartition(topic.named(prefix), number) for number in range(cluster.partitions[topic.name])]
            for topic in EVERYTHING
        }
        options = {**client_options(settings.kafka), **OPTIONS}
        self._records = AIOKafkaConsumer(**options, isolation_level="read_committed")
        self._ends = AIOKafkaConsumer(**options, isolation_level="read_uncommitted")
        self._takers = {name: self._taker(topic) for name, topic in self._topics.items()}
        self._first: dict[TopicPartition, int] = {}
        self._ingest_ends: dict[TopicPartition, int] = {}

    async def __aenter__(self) -> Self:
        await self._records.start()
        await self._ends.start()
        every = [tp for partitions in self._partitions.values() for tp in partitions]
        self._records.assign(every)
        self._ends.assign(every)  # asks for all leaders at once
        self._ends.pause(*every)
        self._first = await self._ends.beginning_offsets(every)
        for tp, offset in self._first.items():
            self._records.seek(tp, offset)
        for tp in self._partitions[INGEST]:
            self._books.flight.starts[tp.partition] = self._first[tp]
        await self._look_at_deleted()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._records.stop()
        await self._ends.stop()

    async def _look_at_deleted(self) -> None:
        """Where a log no longer begins at 0, what is older than all that is left may have been there."""
        now_ms = int(time.time() * 1000)
        for topic in (*ANSWERS, *WITNESSES):
            cut = [tp for tp in self._partitions[topic] if self._first[tp] > 0]
            if cut:
                found = await self._ends.offsets_for_times(dict.fromkeys(cut, 0))
                oldest = [at.timestamp if (at := found[tp]) is not None else now_ms for tp in cut]
                self._books.flight.since[topic.name] = max(oldest)

    async def round(self) -> None:
        """Take in what is there by now. `ingest` is read to its end at the first round."""
        flight = self._books.flight
        flight.land()
        if not self._ingest_ends:
            self._ingest_ends = await self._ends.end_offsets(self._partitions[INGEST])
            flight.ends = {tp.partition: end for tp, end in self._ingest_ends.items()}
        async with admin(self._settings.kafka) as client:
            flight.acknowledged = await self._acknowledged(client)
        ends = dict(self._ingest_ends)
        for topics in (ANSWERS, WITNESSES, UNDER_WAY):
            ends |= await self._ends.end_offsets([tp for topic in topics for tp in self._partitions[topic]])
        for topic in UNDER_WAY:
            for tp in self._partitions[topic]:
                position = flight.acknowledged.get((topic.name, tp.partition), 0)
                self._records.seek(tp, max(position, self._first[tp]))
        await self._read(ends)

    async def _acknowledged(self, client: AIOKafkaAdminClient) -> dict[tuple[str, int], int]:
        found: dict[tuple[str, int], int] = {}
        for stage, inputs in GROUPS.items():
            try:
                positions = await client.list_consumer_group_offsets(group(self._settings.topics.prefix, stage))
            except GroupCoordinatorNotAvailableError:
                continue  # no group was ever there
            names = {topic.named(self._settings.topics.prefix): topic.name for topic in inputs}
            for tp, at in positions.items():
                if tp.topic in names and at.offset >= 0:
                    found[names[tp.topic], tp.partition] = at.offset
        return found

    async def _read(self, ends: Mapping[TopicPartition, int]) -> None:
        """Read every partition to its end, or to an open transaction that outlasts all time-outs."""
        for tp in await read_to(self._records, ends, self._take, patience_s(self._settings)):
            where = f"{self._topics[tp.topic].name}/{tp.partition}"
            self._books.flight.open.append(f"{where}: from offset {await self._records.position(tp)} on")

    def _take(self, record: Any) -> None:
        self._takers[record.topic](record)

    def _taker(self, topic: Topic) -> Callable[[Any], None]:
        books = self._books

        def where(record: Any) -> str:
            return f"{topic.name}/{record.partition}/{record.offset}"

        match topic.name:
            case INGEST.name:
                return lambda r: books.decisions.ask(r.partition, r.offset, r.timestamp, r.headers)
            case RESULTS.name:
                return lambda r: books.result(where(r), r.value or b"")
            case JOURNAL.name:
                return lambda r: books.journal.enter(where(r), r.value or b"")
            case BROADCAST.name:
                return lambda r: books.network.request(where(r), (r.partition, r.offset), r.timestamp, r.value or b"")
            case TRANSACTIONS.name:
                return lambda r: books.network.handed_on(r.key or b"")
            case NETWORK_STATUS.name:
                return lambda r: books.flight.stands(r.key or b"", r.value or b"")
            case DECISIONS.name:
                return lambda r: books.flight.decides(r.key or b"", r.value)
            case DEAD_LETTERS.name:
                return lambda r: books.letters.letter(where(r), r.timestamp, r.key, r.value, r.headers)
        return lambda r: books.flight.record(topic.name, r.key, r.value, r.headers)
