"""Writing records: grouped by partition, confirmed by the broker."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from agents.runtime.partitioner import partition_for
from agents.runtime.records import Out
from schemas.flow import ANY
from schemas.wire import HEADER
from topics.registry import Topic

FRAME = 256
"""Bytes a record takes beyond its key, value and own headers, at most: batch header 61, lengths and counts 36, the
schema's header 40, a traceparent 113."""

FLUSH_BYTES = 32 << 20
"""Sent at once: brokers refuse requests over 100 MiB by default, and one request carries a batch for each partition."""


class TooLarge(Exception):  # noqa: N818 - a property of the record
    """A record is over its topic's limit (SIZE-1)."""

    def __init__(self, topic: Topic, size: int, limit: int) -> None:
        super().__init__(f"{size} bytes for {topic.name}, which takes {limit}")


class Outbox:
    """Collects records and sends them with one producer.

    producer: aiokafka.AIOKafkaProducer, idempotent or within a transaction.
    counts: partitions of each topic on the cluster, by logical name.
    """

    def __init__(self, producer: Any, prefix: str, counts: Mapping[str, int], max_payload: int) -> None:
        self._producer = producer
        self._prefix = prefix
        self._counts = counts
        self._max_payload = max_payload

    def check(self, outs: Iterable[Out]) -> None:
        """Whether each fits its topic.

        Raises:
            TooLarge: one does not.
        """
        for out in outs:
            size = size_of(out)
            limit = out.topic.max_bytes(self._max_payload)
            if size > limit:
                raise TooLarge(out.topic, size, limit)

    def check_entries(self, topic: Topic, entries: Iterable[tuple[bytes, bytes | None]]) -> None:
        """The same for what is written to a store, index and all: those entries are the smallest.

        Raises:
            TooLarge: one does not.
        """
        limit = topic.max_bytes(self._max_payload)
        for key, value in entries:
            if (size := len(key) + len(value or b"") + FRAME) > limit:
                raise TooLarge(topic, size, limit)

    async def send(self, outs: Iterable[tuple[Out, bytes | None]]) -> dict[tuple[str, int], int]:
        """Write records, each with its traceparent, and wait until the broker has them.

        Returns the offset after the last record written, by (logical topic, partition).

        Raises:
            aiokafka.errors.KafkaError: the broker has not taken them all.
        """
        ends: dict[tuple[str, int], int] = {}
        groups: dict[tuple[str, int], list[tuple[Out, bytes | None]]] = {}
        size = 0
        for out, traceparent in outs:
            partition = out.partition
            if partition is None:
                partition = partition_for(out.key, self._counts[out.topic.name])
            groups.setdefault((out.topic.name, partition), []).append((out, traceparent))
            size += len(out.value or b"")
            if size > FLUSH_BYTES:
                ends |= await self._send(groups)
                groups, size = {}, 0
        if groups:
            ends |= await self._send(groups)
        return ends

    async def _send(self, groups: dict[tuple[str, int], list[tuple[Out, bytes | None]]]) -> dict[tuple[str, int], int]:
        written = await asyncio.gather(*(self._write(where, group) for where, group in groups.items()))
        return dict(zip(groups, written, strict=True))

    async def _write(self, where: tuple[str, int], group: list[tuple[Out, bytes | None]]) -> int:
        producer = self._producer
        topic = self._prefix + where[0]
        sent: list[tuple[Any, int]] = []
        builder = producer.create_batch()
        count = 0
        for out, traceparent in group:
            # A record that waits or was given up keeps the schema it came under.
            kept = out.topic.schema is ANY and any(name == HEADER for name, _ in out.headers)
            headers = [*out.headers] if kept else [out.topic.schema.header, *out.headers]
            if traceparent is not None:
                headers.append(("traceparent", traceparent))
            if builder.append(timestamp=None, key=out.key, value=out.value, headers=headers) is None:
                builder.close()  # a batch left open waits for the linger time
                sent.append((await producer.send_batch(builder, topic, partition=where[1]), count))
                builder, count = producer.create_batch(), 0
                builder.append(timestamp=None, key=out.key, value=out.value, headers=headers)
            count += 1
        builder.close()
        sent.append((await producer.send_batch(builder, topic, partition=where[1]), count))
        end = 0
        for delivered, records in sent:
            end = (await delivered).offset + records
        return end


def size_of(out: Out) -> int:
    """Bytes a record takes on the wire, at most."""
    size = len(out.key or b"") + len(out.value or b"") + FRAME
    for name, value in out.headers:
        size += len(name.encode()) + len(value or b"") + 10  # senders may send nulls
    return size
