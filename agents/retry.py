"""retry: records that met a condition go back to where they were read, when they are due.

A pointer stands for a payload that lost a coin to a rival which has left since: it is read where it was sent to, and
goes the way of any payload again, under its own coordinate.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any

import msgspec
from aiohttp import web
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError
from msgspec import Struct

from agents import metrics
from agents.parse import Parse
from agents.runtime.desk import Teller
from agents.runtime.outcomes import waiting
from agents.runtime.places import Places
from agents.runtime.records import Decision, Emit, Fault, Inbound, Out, WorldCondition
from pipeline.outcome import Condition
from pipeline.results import About
from schemas import headers as h
from schemas.external import Severity
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

TIERS = tuple(topic.name.removeprefix("retry.") for topic in (RETRY_10S, RETRY_1M, RETRY_10M))
"""As commands name them."""

_DROPPED = frozenset({"schema", h.TRACEPARENT})


class Read(Struct, frozen=True):
    """Payloads that pointers name, by the pointer's identity in memory; None where the log has it no longer."""

    payloads: Mapping[int, Inbound | Fault | None]


class Hurry(Struct, frozen=True):
    """What `POST /retry-now` takes."""

    who: str
    why: str
    tiers: tuple[str, ...] = ()  # 10s, 1m, 10m; none named: all


def _nobody(kind: str, severity: Severity, message: str, details: dict[str, Any]) -> None:
    """Until somebody writes events."""


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
        self._hurried: dict[str, int] = {}  # by tier: what stands there since before then is due (Unix milliseconds)
        self._wake: Callable[[], None] = lambda: None
        self._tell: Teller = _nobody
        self._in_hand = asyncio.Lock()  # payloads that were read, until what follows from them is written

    def due(self, record: Inbound) -> int:
        """When a waiting record returns (Unix milliseconds); one that does not say returns at once."""
        waited = waiting(record)
        if waited is None or (self._hurried and record.timestamp <= self._hurried.get(_tier(record), -1)):
            return 0
        return waited.not_before

    def hurry(self, tiers: Sequence[str], now_ms: int) -> None:
        """What stands in these tiers by now is due. It is forgotten with the process, and nothing is lost by that.

        Raises:
            ValueError: there is no such tier.
        """
        if unknown := set(tiers) - set(TIERS):
            raise ValueError(f"no tier {min(unknown)!r}; there are {', '.join(TIERS)}")
        self._hurried |= dict.fromkeys(tiers, now_ms)
        self._wake()

    def wake_by(self, wake: Callable[[], None]) -> None:
        """What to call when something is due sooner than it was."""
        self._wake = wake

    def tell_to(self, teller: Teller) -> None:
        """Who writes events of this stage."""
        self._tell = teller

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Answer `POST /retry-now` (JSON: who, why, and the tiers; all of them where it names none)."""
        router.add_post("/retry-now", self._hurry)

    async def _hurry(self, request: web.Request) -> web.Response:
        try:
            asked = msgspec.json.decode(await request.read(), type=Hurry)
            self.hurry(asked.tiers or TIERS, int(time.time() * 1000))
        except (ValueError, msgspec.MsgspecError) as error:
            return web.json_response({"error": str(error)}, status=400)
        message = f"{asked.who} has what waits returned at once: {asked.why}"
        self._tell(
            "retry-now", "info", message, {"who": asked.who, "why": asked.why, "tiers": list(asked.tiers or TIERS)}
        )
        return web.json_response({"hurried": True})

    async def start(self) -> None:
        """Connect to where payloads stand."""
        metrics.register_tiers(self.name, TIERS)
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
        metrics.RETRIED.labels(self.name, _tier(record)).inc()
        return Emit((Out(origin, record.key, record.value, h.without(record.headers, _DROPPED)),), waited.code)

    def _again(self, payload: Inbound, now_ms: int) -> Decision:
        decision = self._parse.decide(payload, None, now_ms)
        return Emit(decision.outs, "conflict.undecided") if isinstance(decision, Emit) else decision


def _tier(record: Inbound) -> str:
    """Of a tier's record: 10s."""
    return record.topic.rsplit(".", 1)[-1]


def _points(record: Inbound) -> bool:
    waited = waiting(record)
    return waited is not None and waited.origin_topic == INGEST.name


def _unreadable(error: KafkaError) -> WorldCondition:
    return WorldCondition(Condition("internal.no-broker", f"`ingest` cannot be read: {error!r}"))
