"""retry: records that met a condition go back to where they were read, when they are due."""

from collections.abc import AsyncIterator, Sequence

from agents.runtime.outcomes import waiting
from agents.runtime.records import Decision, Emit, Fault, Inbound, Out
from pipeline.results import About
from schemas import headers as h
from topics.registry import (
    BROADCAST,
    BY_NAME,
    DEAD_LETTERS,
    OPERATIONS,
    PARSED,
    RETRY_1M,
    RETRY_10M,
    RETRY_10S,
    Topic,
)

ORIGINS = (PARSED, OPERATIONS, BROADCAST)
"""Inputs of the stages whose records wait."""

_DROPPED = frozenset({"schema", h.TRACEPARENT})


class Retry:
    """The stage."""

    name = "retry"
    inputs: tuple[Topic, ...] = (RETRY_10S, RETRY_1M, RETRY_10M)
    outputs: tuple[Topic, ...] = (*ORIGINS, DEAD_LETTERS)
    begins_traces = False
    went_well: tuple[str, ...] = ()  # counted by the condition that was waited for

    def due(self, record: Inbound) -> int:
        """When a waiting record returns (Unix milliseconds); one that does not say returns at once."""
        waited = waiting(record)
        return waited.not_before if waited is not None else 0

    async def start(self) -> None:
        """Nothing to open."""

    async def stop(self) -> None:
        """Nothing to close."""

    async def probe(self) -> None:
        """The world is not asked."""

    async def gather(self, batch: Sequence[Inbound]) -> AsyncIterator[tuple[Sequence[Inbound], None]]:
        """The runner takes only what is due."""
        yield batch, None

    def about(self, record: Inbound) -> About | None:
        """A waiting record is not read here."""
        return None

    def decide(self, record: Inbound, gathered: None, now_ms: int) -> Decision:
        """The record as it was, to its origin, by its key."""
        waited = waiting(record)
        origin = BY_NAME.get(waited.origin_topic) if waited is not None else None
        if waited is None or origin not in ORIGINS:
            return Fault("internal.undecodable", "its headers do not say where it came from")
        return Emit((Out(origin, record.key, record.value, h.without(record.headers, _DROPPED)),), waited.code)
