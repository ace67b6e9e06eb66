"""A small world (see audit_world) on a broker."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import RecordsToDelete
from aiokafka.structs import OffsetAndMetadata

from agents.runtime.cluster import admin, create, look
from agents.runtime.settings import KafkaSettings, TopicSettings, WorkerSettings
from ops.instruments.audit.reading import GROUPS
from ops.settings import Settings
from tests.conftest import Broker
from tests.ops.audit_world import Record, World
from topics.registry import INGEST, Topic, group


class Cluster:
    """A world on a broker."""

    def __init__(self, bootstrap: str, prefix: str, producer: AIOKafkaProducer) -> None:
        self.settings = Settings(
            kafka=KafkaSettings(bootstrap=bootstrap),
            topics=TopicSettings(prefix=prefix, replication=1, min_isr=1),
            worker=WorkerSettings(transaction_timeout_s=1.0),
        )
        self.producer = producer
        self.prefix = prefix

    async def world(self, fates: tuple[str, ...]) -> World:
        """Ingest is written first: the broker gives the times that ids are made of."""
        about = await look(self.settings.kafka, self.settings.topics)
        world = World(self.prefix, about.id)
        for record in world.asks(fates):
            written = await self._write(record)
            assert written.offset == record.offset
            record.timestamp = world.now_ms = written.timestamp
        return world.run(fates)

    async def write(self, world: World) -> None:
        """Everything else."""
        await asyncio.gather(
            *(self._write(record) for name, log in world.logs.items() if name != INGEST.name for record in log)
        )

    async def _write(self, record: Record) -> Any:
        return await self.producer.send_and_wait(
            record.topic, record.value, key=record.key, partition=record.partition, headers=list(record.headers)
        )

    async def delete_all(self, topic: Topic) -> None:
        """As retention does."""
        consumer = AIOKafkaConsumer(bootstrap_servers=self.settings.kafka.bootstrap)
        partitions = [TopicPartition(topic.named(self.prefix), number) for number in range(topic.partitions)]
        await consumer.start()
        try:
            ends = await consumer.end_offsets(partitions)
        finally:
            await consumer.stop()
        async with admin(self.settings.kafka) as client:
            await client.delete_records({tp: RecordsToDelete(before_offset=end) for tp, end in ends.items() if end})

    async def acknowledge(self) -> None:
        """As if every stage had dealt with everything."""
        for stage, inputs in GROUPS.items():
            consumer = AIOKafkaConsumer(
                bootstrap_servers=self.settings.kafka.bootstrap, group_id=group(self.prefix, stage),
                enable_auto_commit=False,
            )  # fmt: skip
            partitions = [
                TopicPartition(topic.named(self.prefix), number)
                for topic in inputs
                for number in range(topic.partitions)
            ]
            consumer.assign(partitions)
            await consumer.start()
            try:
                ends = await consumer.end_offsets(partitions)
                await consumer.commit({tp: OffsetAndMetadata(end, "") for tp, end in ends.items()})
            finally:
                await consumer.stop()


@asynccontextmanager
async def on_broker(broker: Broker, prefix: str) -> AsyncIterator[Cluster]:
    producer = AIOKafkaProducer(bootstrap_servers=broker.bootstrap, enable_idempotence=True)
    made = Cluster(broker.bootstrap, prefix, producer)
    await create(made.settings.kafka, made.settings.topics)
    await producer.start()
    try:
        yield made
    finally:
        await producer.stop()
