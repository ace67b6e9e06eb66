"""The yardstick of the runtime: 1 kB records from `ingest` to `parsed`, through a stage that does nothing, and by hand.

Run as a module, in a process of its own: `python -m ops.instruments.passing stage|plain PARENT-PID KEY=VALUE …`
"""

import asyncio
import sys
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from agents.runtime import logs
from agents.runtime.cluster import look
from agents.runtime.connection import client_options
from agents.runtime.partitioner import partition_for
from agents.runtime.records import Decision, Emit, Inbound, Out
from ops.guard import end_with_parent
from ops.settings import Settings, load
from ops.stages import worker_of
from pipeline.results import About
from topics.registry import DEAD_LETTERS, INGEST, PARSED, RESULTS, Topic


class Passing:
    """A stage whose rule is to pass a record on."""

    name = "passing"
    inputs: tuple[Topic, ...] = (INGEST,)
    outputs: tuple[Topic, ...] = (PARSED, RESULTS, DEAD_LETTERS)
    begins_traces = False
    went_well: tuple[str, ...] = ("",)

    async def start(self) -> None:
        """Nothing to open."""

    async def stop(self) -> None:
        """Nothing to close."""

    async def probe(self) -> None:
        """The world is not asked."""

    def about(self, record: Inbound) -> About | None:
        """Nobody asked."""
        return None

    async def gather(self, batch: Sequence[Inbound]) -> AsyncGenerator[tuple[Sequence[Inbound], None], None]:
        """Nothing is waited for."""
        yield batch, None

    def decide(self, record: Inbound, gathered: None, now_ms: int) -> Decision:
        """The record."""
        return Emit((Out(PARSED, record.key, record.value),))


async def plain(settings: Settings) -> None:
    """The same by hand: getmany, send_batch to the partition of the key, await, commit. Nothing bad may happen."""
    prefix = settings.topics.prefix
    consumer = AIOKafkaConsumer(
        INGEST.named(prefix),
        **client_options(settings.kafka),
        group_id=f"{prefix}plain",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    producer = AIOKafkaProducer(**client_options(settings.kafka), enable_idempotence=True, acks="all")
    await consumer.start()
    await producer.start()
    topic = PARSED.named(prefix)
    headers = [PARSED.schema.header]
    while True:
        fetched = await consumer.getmany(timeout_ms=500)
        batches: dict[int, list[Any]] = {}
        for records in fetched.values():
            for record in records:
                partition = partition_for(record.key, PARSED.partitions)
                builders = batches.setdefault(partition, [producer.create_batch()])
                if builders[-1].append(timestamp=None, key=record.key, value=record.value, headers=headers) is None:
                    builders.append(producer.create_batch())
                    builders[-1].append(timestamp=None, key=record.key, value=record.value, headers=headers)
        for builders in batches.values():
            for builder in builders:
                builder.close()
        await asyncio.gather(*(_send(producer, topic, partition, of) for partition, of in batches.items()))
        if fetched:
            await consumer.commit({tp: records[-1].offset + 1 for tp, records in fetched.items()})


async def _send(producer: AIOKafkaProducer, topic: str, partition: int, builders: Sequence[Any]) -> None:
    sent = [await producer.send_batch(builder, topic, partition=partition) for builder in builders]
    await asyncio.gather(*sent)


def main() -> None:
    """Until killed."""
    kind, parent, *flags = sys.argv[1:]
    end_with_parent(int(parent))
    settings = load(network="dev", flags=flags, environment={}).settings
    if kind == "plain":
        asyncio.run(plain(settings))
    logs.configure(kind, settings.log)
    worker_of(Passing(), settings, asyncio.run(look(settings.kafka, settings.topics))).run()


if __name__ == "__main__":
    main()
