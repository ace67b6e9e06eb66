"""retry: records that met a condition go back to where they were read, when they are due.

A pointer stands for a payload that lost a coin to a rival which has left since: it is read where it was sent to, and
goes the way of any payload again, under its own coordinate.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError
from msgspec import Struct

from agents.parse import Parse
from agents.runtime.outcomes import waiting
from agents.runtime.places import Places
from agents.runtime.records import Decision, Emit, Fault, Inbound, Out, WorldCondition
from pipeline.outcome import Condition
from pipeline.results import About
from schemas import headers as h
from schemas.flow import POINTER
from schemas.wire import Undecodable
from topics.registry import (
    BROADCAST,
    BY_NAME,
    DEAD_LETTERS,
    INGEST,
    OPERATIONS,
    PARSED,
    RESULTS,
    RETRY_1M,
    RETRY_10M,
    RETRY_10S,
    Topic,
)

ORIGINS = (PARSED, OPERATIONS, BROADCAST)
"""Inputs of the stages whose records wait."""

IN_HAND_BYTES = 1 << 20
"""Of payloads that pointers name. With the one that reaches it, and copies of them on their way out, tens of megabytes
at the largest payload allowed, whatever the batch; by the kilobyte a thousand go together."""

_DROPPED = frozenset({"schema", h.TRACEPARENT})


class Read(Struct, frozen=True):
    """Payloads that pointers name, by the pointer's identity in memory; None where the log has it no longer."""

    payloads: Mapping[int, Inbound | Fault | None]


class Retry:
    """The stage."""

    name = "retry"
    inputs: tuple[Topic, ...] = (RETRY_10S, RETRY_1M, RETRY_10M)
    outputs: tuple[Topic, ...] = (*ORIGINS, RESULTS, DEAD_LETTERS)
    looks_into: tuple[Topic, ...] = (INGEST,)
    begins_traces = False
    went_well: tuple[str, ...] = ()  # counted by the condition that was waited for

    def __init__(self, parse: Parse, ingest: Places) -> None:
        """parse: the rule for payloads that are read again; ingest: where they stand."""
        self._parse = parse
        self._ingest = ingest
        self._in_hand = asyncio.Lock()  # payloads that were read, until what follows from them is written

    def due(self, record: Inbound) -> int:
        """When a waiting record returns (Unix milliseconds); one that does not say returns at once."""
        waited = waiting(record)
        return waited.not_before if waited is not None else 0

    async def start(self) -> None:
        """Connect to where payloads stand."""
        await self._ingest.start()

    async def stop(self) -> None:
        """Disconnect."""
        await self._ingest.stop()

    async def probe(self) -> None:
        """Whether payloads can be read."""
        try:
            await self._ingest.ends()
        except KafkaError as error:
            raise _unreadable(error) from error

    async def gather(self, batch: Sequence[Inbound]) -> AsyncGenerator[tuple[Sequence[Inbound], Read], None]:
        """The runner takes only what is due. Payloads that pointers name are read a few at a time."""
        pointers = deque(record for record in batch if _points(record))
        if others := [record for record in batch if not _points(record)]:
            yield others, Read({})
        if not pointers:
            return
        try:
            ends = await self._ingest.ends()
            while pointers:
                async with self._in_hand:
                    yield await self._few(pointers, ends)
        except KafkaError as error:
            raise _unreadable(error) from error

    async def _few(
        self, pointers: deque[Inbound], ends: Mapping[TopicPartition, int]
    ) -> tuple[Sequence[Inbound], Read]:
        """The next of them, with what they point to: one, and more until it comes to `IN_HAND_BYTES`."""
        few: list[Inbound] = []
        payloads: dict[int, Inbound | Fault | None] = {}
        size = 0
        while pointers and size < IN_HAND_BYTES:
            record = pointers.popleft()
            payload = payloads[id(record)] = await self._read(record, ends)
            few.append(record)
            if payload is not None and not isinstance(payload, Fault):
                size += len(payload.value or b"")
        return few, Read(payloads)

    async def _read(self, record: Inbound, ends: Mapping[TopicPartition, int]) -> Inbound | Fault | None:
        try:
            origin = POINTER.decode(record.value, record.headers).origin
        except Undecodable as error:
            return Fault(error.code, error.message)
        tp = next((tp for tp in ends if tp.partition == origin.partition), None)
        if tp is None or origin.offset >= ends[tp]:
            return None
        payload = await self._ingest.read(origin.partition, origin.offset)
        # A topic that was deleted and made again has other records there.
        return payload if payload is not None and self._parse.origin(payload) == origin else None

    def about(self, record: Inbound) -> About | None:
        """A waiting record is not read here."""
        return None

    def decide(self, record: Inbound, gathered: Read, now_ms: int) -> Decision:
        """The record as it was, to its origin, by its key; or what parse makes of the payload it points to."""
        waited = waiting(record)
        if id(record) in gathered.payloads:
            payload = gathered.payloads[id(record)]
            if payload is None:
                return Fault("internal.payload-gone", "`ingest` no longer has what it points to")
            return payload if isinstance(payload, Fault) else self._again(payload, now_ms)
        origin = BY_NAME.get(waited.origin_topic) if waited is not None else None
        if waited is None or origin not in ORIGINS:
            return Fault("internal.undecodable", "its headers do not say where it came from")
        return Emit((Out(origin, record.key, record.value, h.without(record.headers, _DROPPED)),), waited.code)

    def _again(self, payload: Inbound, now_ms: int) -> Decision:
        decision = self._parse.decide(payload, None, now_ms)
        return Emit(decision.outs, "conflict.undecided") if isinstance(decision, Emit) else decision


def _points(record: Inbound) -> bool:
    waited = waiting(record)
    return waited is not None and waited.origin_topic == INGEST.name


def _unreadable(error: KafkaError) -> WorldCondition:
    return WorldCondition(Condition("internal.no-broker", f"`ingest` cannot be read: {error!r}"))
