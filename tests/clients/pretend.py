"""A pipeline of a few lines: reads ingest and writes the results that a test asks for."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Any

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import NewTopic

from agents.runtime.cluster import admin, look
from agents.runtime.settings import KafkaSettings, TopicSettings
from beefline.client import Admittance, Coordinate, Result
from topics.registry import INGEST, RESULTS

PAYLOAD = 1 << 20
TIME = "2026-11-22T12:00:00.000Z"

Answer = Callable[[Any], Iterable[Result]]
"""From an ingest record to what is said of it."""


async def eventually(true: Callable[[], Awaitable[bool]], within_s: float = 30.0) -> None:
    """Ask again and again until it is true.

    Raises:
        TimeoutError: it is not, within the time.
    """
    async with asyncio.timeout(within_s):
        while True:
            if await true():
                return
            await asyncio.sleep(0.02)


class Place:
    """A broker and a prefix with the two topics that applications see."""

    def __init__(self, bootstrap: str, prefix: str) -> None:
        self.bootstrap = bootstrap
        self.prefix = prefix

    @property
    def flags(self) -> list[str]:
        """For commands."""
        settings = (
            f"kafka.bootstrap={self.bootstrap}",
            f"topics.prefix={self.prefix}",
            f"topics.max_payload_bytes={PAYLOAD}",
            "topics.replication=1",
            "topics.min_isr=1",
        )
        return [part for setting in settings for part in ("--set", setting)]

    async def make(self) -> None:
        """Create the topics."""
        settings = TopicSettings(prefix=self.prefix, replication=1, min_isr=1, max_payload_bytes=PAYLOAD)
        async with admin(KafkaSettings(bootstrap=self.bootstrap)) as client:
            wanted = [
                NewTopic(topic.named(self.prefix), 3, 1, topic_configs=topic.settings(settings.max_payload_bytes, 1))
                for topic in (INGEST, RESULTS)
            ]
            await client.create_topics(wanted)

        async def known() -> bool:
            return len((await look(KafkaSettings(bootstrap=self.bootstrap), settings)).partitions) == len(wanted)

        await eventually(known)  # a created topic is known to the broker a moment later

    async def ingested(self, count: int) -> list[Any]:
        """The first `count` records of ingest."""
        async with self.reader() as reader:
            found: list[Any] = []
            async with asyncio.timeout(30):
                while len(found) < count:
                    for records in (await reader.getmany(timeout_ms=200)).values():
                        found += records
            return found

    @contextlib.asynccontextmanager
    async def reader(self) -> AsyncIterator[Any]:
        """Of ingest, from its start."""
        reader = AIOKafkaConsumer(
            INGEST.named(self.prefix), bootstrap_servers=self.bootstrap, auto_offset_reset="earliest"
        )
        await reader.start()
        try:
            yield reader
        finally:
            await reader.stop()

    async def say(self, *results: Result, aborted: bool = False, at_ms: int | None = None) -> None:
        """Write results in one transaction.

        at_ms: the records' time, Unix milliseconds. They are then written outside of transactions, whose markers bear
        the broker's time.
        """
        if at_ms is not None:
            async with AIOKafkaProducer(bootstrap_servers=self.bootstrap) as plain:
                await self._write(plain, results, at_ms)
            return
        producer = AIOKafkaProducer(bootstrap_servers=self.bootstrap, transactional_id=f"{self.prefix}pretend")
        await producer.start()
        try:
            await producer.begin_transaction()
            await self._write(producer, results, None)
            await (producer.abort_transaction() if aborted else producer.commit_transaction())
        finally:
            await producer.stop()

    async def _write(self, producer: Any, results: Iterable[Result], at_ms: int | None) -> None:
        topic = RESULTS.named(self.prefix)
        for result in results:
            key = (result.txid or result.id).encode()
            await producer.send_and_wait(topic, msgspec.json.encode(result), key=key, timestamp_ms=at_ms)

    @contextlib.asynccontextmanager
    async def pipeline(self, answer: Answer) -> AsyncIterator[None]:
        """Answer every ingest record, from the start, until the end of the block."""
        async with self.reader() as reader:
            working = asyncio.ensure_future(self._work(reader, answer))
            try:
                yield
                if working.done():
                    working.result()
            finally:
                working.cancel()
                await asyncio.gather(working, return_exceptions=True)

    async def _work(self, reader: Any, answer: Answer) -> None:
        async with AIOKafkaProducer(bootstrap_servers=self.bootstrap) as producer:
            async for record in reader:
                await self._write(producer, answer(record), None)


def header(record: Any, name: str) -> str:
    """A record's header as text."""
    return next((value.decode() for key, value in record.headers if key == name), "")


def contexts_of(record: Any) -> Sequence[str]:
    """The contexts a record asks for; tm_anytx where it names none."""
    return [f"topic:{name}" for name in json.loads(header(record, "topics") or '["tm_anytx"]')]


def result(record: Any, outcome: str, context: str | None = None, **more: Any) -> Result:
    """A result about an ingest record. `kind` tells apart ids of one record and context."""
    kind = more.pop("kind", "decision")
    return msgspec.structs.replace(
        Result(
            id=f"{kind}/{record.partition}/{record.offset}/{context}",
            revision=1,
            request_ids=(header(record, "request-id"),),
            txid="ab" * 32,
            context=context,
            contexts=len(contexts_of(record)) if context else 0,
            outcome=outcome,
            admittance=Admittance((0,)) if outcome == "applied" else None,
            origin=Coordinate(record.topic, record.partition, record.offset),
            time=TIME,
        ),
        **more,
    )


def by_word(record: Any) -> Iterable[Result]:
    """What the payload says is to become of it: `applied`, `rejected`, `parked`, `mixed`, or nothing at all."""
    word = record.value.decode().split()[0]
    contexts = contexts_of(record)
    if word == "applied":
        yield from (result(record, "applied", context) for context in contexts)
        yield result(record, "accepted", kind="network", contexts=len(contexts), endpoint="arc@example")
    elif word == "rejected":
        yield result(record, "rejected", code="script.false", message="a signature fits no key", at="tx 1 input 0")
    elif word == "parked":
        yield result(record, "parked", kind="parked", code="anchor.unknown")
    elif word == "mixed":
        yield result(record, "applied", contexts[0])
        yield result(record, "rejected", contexts[1], code="admission.unknown-topic")
