"""Sending to a running installation, and reading what it says."""

import asyncio
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from agents.runtime.connection import client_options
from ops.installation import Installation
from ops.settings import Settings
from schemas.external import RESULT, Result
from topics.registry import INGEST, RESULTS, Topic

WITHIN_S = 60.0


def settings_of(installation: Installation) -> Settings:
    """What it runs with."""
    assert installation.loaded is not None
    return installation.loaded.settings


class Talk:
    """One test's conversation: results are read from where they stood when it began."""

    def __init__(self, installation: Installation) -> None:
        self.settings = settings_of(installation)
        self.prefix = self.settings.topics.prefix
        self.results: list[Result] = []
        options = client_options(self.settings.kafka)
        self._producer = AIOKafkaProducer(**options, enable_idempotence=True, max_request_size=64 << 20)
        self._consumer = AIOKafkaConsumer(
            **options, isolation_level="read_committed", enable_auto_commit=False, max_partition_fetch_bytes=16 << 20
        )

    async def __aenter__(self) -> "Talk":
        await self._producer.start()
        await self._consumer.start()
        partitions = [TopicPartition(RESULTS.named(self.prefix), number) for number in range(RESULTS.partitions)]
        self._consumer.assign(partitions)
        await self._consumer.seek_to_end()
        for tp in partitions:
            await self._consumer.position(tp)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._producer.stop()
        await self._consumer.stop()

    async def send(
        self,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]] = (),
        topic: Topic = INGEST,
        key: bytes | None = None,
    ) -> str:
        """Produce one record under a request id of its own; the id."""
        request = uuid.uuid4().hex
        own = [("request-id", request.encode()), *headers] if topic is INGEST else list(headers)
        await self._producer.send_and_wait(topic.named(self.prefix), value, key=key or request.encode(), headers=own)
        return request

    async def wait(self, enough: Callable[[list[Result]], bool], within_s: float = WITHIN_S) -> list[Result]:
        """Results since the talk began, once there are enough."""
        deadline = time.monotonic() + within_s
        while not enough(self.results):
            assert time.monotonic() < deadline, [(r.outcome, r.code, r.context) for r in self.results]
            for records in (await self._consumer.getmany(timeout_ms=200)).values():
                self.results += [RESULT.decode(record.value, record.headers) for record in records]
        return self.results

    async def decisions(self, request: str, count: int = 1) -> list[Result]:
        """What was decided of a request."""

        def of(results: list[Result]) -> list[Result]:
            return [r for r in results if request in r.request_ids and r.outcome in ("applied", "rejected", "parked")]

        return of(await self.wait(lambda results: len(of(results)) >= count))

    async def network(self, request: str) -> Result:
        """What the network said."""

        def of(results: list[Result]) -> list[Result]:
            return [r for r in results if request in r.request_ids and r.outcome in ("accepted", "refused")]

        return of(await self.wait(lambda results: bool(of(results))))[0]

    async def read_end(self, topic: Topic, count: int, within_s: float = WITHIN_S) -> list[Any]:
        """The last `count` records of each partition of a topic."""
        consumer = AIOKafkaConsumer(**client_options(self.settings.kafka), isolation_level="read_committed")
        await consumer.start()
        try:
            partitions = [TopicPartition(topic.named(self.prefix), number) for number in range(topic.partitions)]
            consumer.assign(partitions)
            ends = await consumer.end_offsets(partitions)
            for tp in partitions:
                consumer.seek(tp, max(0, ends[tp] - count))
            found: list[Any] = []
            deadline = time.monotonic() + within_s
            while any([await consumer.position(tp) < ends[tp] for tp in partitions]) and time.monotonic() < deadline:
                for records in (await consumer.getmany(timeout_ms=200)).values():
                    found += records
            return found
        finally:
            await consumer.stop()


async def until(true: Callable[[], bool], what: str, within_s: float = WITHIN_S) -> None:
    """Ask again and again."""
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.1)
