"""Where payloads spend their time on the way: what the records of each topic say of when they were written."""

from array import array
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Self

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from msgspec import Struct

from agents.runtime.cluster import look
from agents.runtime.connection import client_options
from ops.instruments.load import Latency, percentiles
from ops.settings import Settings
from schemas.flow import Origin
from topics.registry import OPERATIONS, PARSED, RESULTS

FETCH_S = 0.5

HOPS = ("parse", "verify", "apply", "broadcast")
"""Each from the record before until its own is handed to the producer; parse's from the broker's clock at ingest."""

_TOPICS = (PARSED, OPERATIONS, RESULTS)


class _Asked(Struct, array_like=True):
    origin: Origin
    request_id: str


class _Payload(Struct, array_like=True):  # parsed or verified: both begin with what was asked
    asked: _Asked


class _Apply(Struct, array_like=True, tag="apply"):
    id: str
    verified: _Payload


class _Other(Struct, array_like=True, tag="accept"):
    id: str


class _Evict(Struct, array_like=True, tag="evict"):
    id: str


class _Result(Struct):
    request_ids: tuple[str, ...]
    outcome: str


class Hops:
    """Listens from when it is opened: reads nothing before `times` is called, and so costs nothing meanwhile."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._from: dict[TopicPartition, int] = {}
        self._parsed = msgspec.msgpack.Decoder(_Payload).decode
        self._operation = msgspec.msgpack.Decoder(_Apply | _Other | _Evict).decode
        self._result = msgspec.json.Decoder(_Result).decode

    async def start(self) -> None:
        """Note where the topics end."""
        async with _Reader(self._settings) as reader:
            self._from = await reader.ends()

    async def times(self, mark: str) -> Mapping[int, Sequence[float]]:
        """By number of a payload whose request id is `mark` and that number: Unix milliseconds of ingest, parsed,
        operation, applied and accepted; of those that came as far as applied. accepted is 0 where nothing was said.
        """
        found: dict[int, list[float]] = {}
        async with _Reader(self._settings) as reader:
            async for record in reader.read(self._from):
                self._see(record, mark, found)
        return {number: times for number, times in found.items() if all(times[:4])}

    def _see(self, record: Any, mark: str, found: dict[int, list[float]]) -> None:
        prefix = self._settings.topics.prefix
        if record.topic == RESULTS.named(prefix):
            result = self._result(record.value)
            at = {"applied": 3, "accepted": 4}.get(result.outcome, 0)
            for request_id in result.request_ids if at else ():
                if request_id.startswith(mark):
                    _note(found, int(request_id[len(mark) :]), at, record.timestamp)
            return
        if record.topic == PARSED.named(prefix):
            asked, at = self._parsed(record.value).asked, 1
        else:
            operation = self._operation(record.value)
            if not isinstance(operation, _Apply):
                return
            asked, at = operation.verified.asked, 2
        if asked.request_id.startswith(mark):
            number = int(asked.request_id[len(mark) :])
            _note(found, number, 0, asked.origin.timestamp_ms)
            _note(found, number, at, record.timestamp)


def _note(found: dict[int, list[float]], number: int, at: int, when: float) -> None:
    times = found.setdefault(number, [0.0] * 5)
    times[at] = times[at] or when


def by_hop(times: Mapping[int, Sequence[float]]) -> dict[str, Latency]:
    """Milliseconds each hop took."""
    spans = {
        name: array("d", [(one[at + 1] - one[at]) / 1000 for one in times.values() if one[at] and one[at + 1]])
        for at, name in enumerate(HOPS)
    }
    return {name: took for name, span in spans.items() if (took := percentiles(span)) is not None}


class _Reader:
    """A consumer of all partitions of the topics."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._consumer: Any = AIOKafkaConsumer(
            **client_options(settings.kafka),
            isolation_level="read_committed",
            enable_auto_commit=False,
            max_partition_fetch_bytes=8 << 20,
        )

    async def __aenter__(self) -> Self:
        await self._consumer.start()
        counts = (await look(self._settings.kafka, self._settings.topics)).partitions
        prefix = self._settings.topics.prefix
        self._partitions = [
            TopicPartition(topic.named(prefix), number) for topic in _TOPICS for number in range(counts[topic.name])
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._consumer.stop()

    async def ends(self) -> dict[TopicPartition, int]:
        ends: dict[TopicPartition, int] = await self._consumer.end_offsets(self._partitions)
        return ends

    async def read(self, first: Mapping[TopicPartition, int]) -> AsyncIterator[Any]:
        ends = await self.ends()
        left = {tp: end for tp, end in ends.items() if end > first.get(tp, 0)}
        self._consumer.assign(list(left))
        for tp in left:
            self._consumer.seek(tp, first.get(tp, 0))
        while left:
            fetched = await self._consumer.getmany(timeout_ms=int(FETCH_S * 1000))
            for records in fetched.values():
                for record in records:
                    yield record
            for tp in list(left):
                if await self._consumer.position(tp) >= left[tp]:
                    del left[tp]


def table(columns: Mapping[str, Mapping[str, Latency]]) -> str:
    """A page's table: a line a hop, under each title what `by_hop` found."""
    head = "".join(f" {title} p50 | p99 |" for title in columns)
    lines = [f"| stage, ms |{head}\n|---|{'---|' * 2 * len(columns)}\n"]
    for name in HOPS:
        cells = (found.get(name) for found in columns.values())
        lines.append(
            f"| {name} |" + "".join(f" {one.p50:.0f} | {one.p99:.0f} |" if one else " | |" for one in cells) + "\n"
        )
    return "".join(lines)
