"""What an ordinary operation writes, and leaves for good: bytes by topic, and in the local store."""

import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition
from msgspec import Struct
from rocksdict import DBCompressionType, Options, Rdict

from agents.runtime.connection import client_options
from agents.runtime.store import Store
from ops.home import home
from ops.instruments.submissions import Work, apply_all, managers
from ops.reading import OPTIONS, patience_s, read_to
from ops.settings import Settings
from pipeline.state import APPLIED_KEY, context_of
from topics.registry import BROADCAST, JOURNAL, OPERATIONS, RESULTS, STATE, Topic

BATCH = 1_000

TOPICS = (OPERATIONS, JOURNAL, STATE, RESULTS, BROADCAST)


class Written(Struct, frozen=True):
    """To a topic."""

    topic: str
    kept_h: int | None  # None: for ever
    partitions: int  # that were written to
    of: int
    records: int
    size: int  # bytes of keys, values and headers; Kafka adds about 10 a record, and 61 a batch


class Growth(Struct, frozen=True):
    """Of some operations."""

    operations: int
    topics: tuple[Written, ...]
    compacted: int  # bytes that compaction leaves of the changelog: newest values of entries; heads are replaced


class Meter:
    """Stands at the ends of the topics, and reads what came since."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._consumer: Any = AIOKafkaConsumer(
            **client_options(settings.kafka), **OPTIONS, isolation_level="read_committed"
        )
        self._partitions = {
            TopicPartition(topic.named(settings.topics.prefix), number): topic
            for topic in TOPICS
            for number in range(topic.partitions)
        }

    async def start(self) -> None:
        """Note the ends."""
        await self._consumer.start()
        self._consumer.assign(list(self._partitions))
        for tp, end in (await self._ends()).items():
            self._consumer.seek(tp, end)

    async def _ends(self) -> Mapping[TopicPartition, int]:
        ends: Mapping[TopicPartition, int] = await self._consumer.end_offsets(list(self._partitions))
        return ends

    async def read(self, operations: int) -> Growth:
        """What so many operations wrote. The meter ends."""
        records = dict.fromkeys(TOPICS, 0)
        sizes = dict.fromkeys(TOPICS, 0)
        numbers: dict[Topic, set[int]] = {topic: set() for topic in TOPICS}
        entries: dict[bytes, int] = {}

        def take(record: Any) -> None:
            topic = self._partitions[TopicPartition(record.topic, record.partition)]
            size = len(record.key or b"") + len(record.value or b"")
            if topic is STATE and record.key != APPLIED_KEY and context_of(record.key) != record.key:
                entries[record.key] = size if record.value is not None else 0
            records[topic] += 1
            sizes[topic] += size + sum(len(name) + len(value or b"") for name, value in record.headers)
            numbers[topic].add(record.partition)

        try:
            held_up = await read_to(self._consumer, await self._ends(), take, patience_s(self._settings))
        finally:
            await self._consumer.stop()
        if held_up:
            raise RuntimeError(f"transactions are open in {held_up}")
        found = tuple(
            Written(topic.name, topic.retention_h, len(numbers[topic]), topic.partitions, records[topic], sizes[topic])
            for topic in TOPICS
        )
        return Growth(operations, found, sum(entries.values()))


def store_bytes(work: Iterable[Work]) -> float:
    """Bytes of the local store's tables an operation, when all of it is written and in order."""
    folder = Path(tempfile.mkdtemp(prefix="growth-bench-", dir=home()))
    store, count = Store(folder / "store"), 0

    def counted() -> Iterator[Work]:
        nonlocal count
        for each in work:
            count += 1
            yield each

    try:
        apply_all(store, lambda writes: store.write(writes, 0), counted(), managers(), BATCH)
    finally:
        store.close()
    options = Options(raw_mode=True)
    options.set_compression_type(DBCompressionType.none())  # as the store's own
    db = Rdict(str(store.path), options)
    try:
        db.flush()
        db.compact_range(None, None)
        return int(db.property_int_value("rocksdb.total-sst-files-size") or 0) / count
    finally:
        db.close()
        shutil.rmtree(folder)


def page(growth: Growth, store: float) -> str:
    """The results as a part of the page. store: bytes of the local store, an operation."""
    rows = "".join(
        f"| `{one.topic}` | {_kept(one.kept_h)} | {one.partitions} of {one.of} | {one.records / growth.operations:.2f} "
        f"| {one.size / growth.operations:,.0f} |\n"
        for one in growth.topics
    )
    return (
        f"\n### What an operation writes\n\nOf {growth.operations:,} such operations in batches of {BATCH:,}: keys, "
        "values and headers, to which Kafka adds about 10 bytes a record and 61 a batch.\n\n"
        f"| topic | kept | partitions | records an operation | bytes an operation |\n|---|---|---|---|---|\n{rows}\n"
        f"Compaction leaves **{growth.compacted / growth.operations:,.0f}** bytes an operation of the changelog, and "
        f"the local store holds **{store:,.0f}**: both grow with what was applied, until something forgets it. The "
        "journal grows for ever; the others end with their retention.\n"
    )


def _kept(hours: int | None) -> str:
    return "for ever" if hours is None else f"{hours // 24} days"
