"""Reading topics to ends that were noted before, without joining a group."""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition

from agents.runtime.connection import client_options
from ops.settings import Settings
from topics.registry import Topic


class NotReadable(Exception):  # noqa: N818 - what the cluster or an endpoint is
    """What is to be read is not there."""


FETCH_BYTES = 32 << 20
PARTITION_BYTES = 2 << 20

SWEEP_S = 15.0
"""A dead producer's transaction is ended by the broker at most this long after its time-out."""

OPTIONS: Mapping[str, Any] = {
    "enable_auto_commit": False,
    "auto_offset_reset": "earliest",
    "fetch_max_bytes": FETCH_BYTES,
    "max_partition_fetch_bytes": PARTITION_BYTES,
    "fetch_max_wait_ms": 50,  # an end of a topic is found as soon as its last record
}
"""Of a consumer that reads so."""


def patience_s(settings: Settings) -> float:
    """How long a transaction may stay open before an end. By then the broker has ended a dead producer's."""
    return settings.worker.transaction_timeout_s + SWEEP_S


async def read_to(
    consumer: Any, ends: Mapping[TopicPartition, int], take: Callable[[Any], None], patience: float
) -> list[TopicPartition]:
    """Read every partition up to its end; gives back those whose end an open transaction held up for `patience` s.

    consumer: stands at its places, read-committed; afterwards none stands behind an end. ends: offsets, as a reader of
    uncommitted records sees them, to read all that was written when they were noted.
    """
    left = await _unread(consumer, ends, ends)
    moved = time.monotonic()
    while left and time.monotonic() - moved < patience:
        fetched = await consumer.getmany(*left, timeout_ms=200)
        for tp, records in fetched.items():
            for record in records:
                if record.offset < ends[tp]:
                    take(record)
        before, left = len(left), await _unread(consumer, left, ends)
        if fetched or len(left) < before:
            moved = time.monotonic()
    for tp, end in ends.items():
        if await consumer.position(tp) > end:
            consumer.seek(tp, end)  # what came behind the end was not taken
    return left


async def read_whole(
    settings: Settings,
    counts: Mapping[str, int],
    topics: Iterable[Topic],
    take: Callable[[Topic, Any], None],
    since: Mapping[TopicPartition, int] | None = None,
) -> dict[TopicPartition, int]:
    """Hand over all that is committed on topics by now, each partition from its beginning; gives back the ends.

    counts: partitions by logical name. since: offsets to begin at instead, where they are given.

    Raises:
        NotReadable: a transaction stays open.
    """
    named = {topic.named(settings.topics.prefix): topic for topic in topics}
    every = [TopicPartition(name, number) for name, topic in named.items() for number in range(counts[topic.name])]
    options = {**client_options(settings.kafka), **OPTIONS}
    records = AIOKafkaConsumer(**options, isolation_level="read_committed")
    end_of_all = AIOKafkaConsumer(**options, isolation_level="read_uncommitted")
    await records.start()
    try:
        await end_of_all.start()
        try:
            for consumer in (records, end_of_all):
                consumer.assign(every)
            end_of_all.pause(*every)
            ends: dict[TopicPartition, int] = await end_of_all.end_offsets(every)
            for tp, first in (await end_of_all.beginning_offsets(every)).items():
                records.seek(tp, max(first, (since or {}).get(tp, first)))
        finally:
            await end_of_all.stop()
        if left := await read_to(records, ends, lambda record: take(named[record.topic], record), patience_s(settings)):
            raise NotReadable(f"{left[0].topic}-{left[0].partition} has a transaction that stays open")
        return ends
    finally:
        await records.stop()


async def _unread(
    consumer: Any, some: Iterable[TopicPartition], ends: Mapping[TopicPartition, int]
) -> list[TopicPartition]:
    return [tp for tp in some if await consumer.position(tp) < ends[tp]]
