"""Stages that only tests run: what a payload says decides what happens to it."""

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

from agents.apply import ApplySettings, ApplyStage
from agents.runtime.endpoint_settings import BroadcastSettings
from agents.runtime.http import HttpSettings
from agents.runtime.partition import Decided, Heads, Settled
from agents.runtime.records import Decision, Defer, Emit, Hold, Inbound, Out, Refuse, WorldCondition
from agents.runtime.trackers import TrackerSettings
from agents.status import Status, StatusSettings
from pipeline import state
from pipeline.contextual import Contextual
from pipeline.follow import Contexts, Form
from pipeline.outcome import Condition, Verdict
from pipeline.results import About
from pipeline.state import Layer, View, head_key
from schemas.flow import Origin
from schemas.types import Context
from topics.registry import (
    BROADCAST,
    DEAD_LETTERS,
    INGEST,
    JOURNAL,
    OPERATIONS,
    PARSED,
    RESULTS,
    RETRY_1M,
    RETRY_10M,
    RETRY_10S,
    STATE,
    Topic,
)

WAITING = (RESULTS, DEAD_LETTERS, RETRY_10S, RETRY_1M, RETRY_10M)


def about(record: Inbound) -> About:
    """The coordinate is all a test payload has."""
    origin = Origin("cluster", record.topic, record.partition, record.offset, record.timestamp)
    return About.before_contexts(origin, (record.key or b"").decode())


class Odd:
    """ingest -> parsed, as it is, unless the value names something else to do."""

    name = "odd"
    inputs: tuple[Topic, ...] = (INGEST,)
    outputs: tuple[Topic, ...] = (PARSED, *WAITING)
    begins_traces = True
    went_well: tuple[str, ...] = ("",)

    def __init__(self, world: str = "") -> None:
        """world: a file; while it exists, the world is not ready."""
        self._world = world

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    async def probe(self) -> None:
        if self._world and os.access(self._world, os.F_OK):
            raise WorldCondition(Condition("anchor.no-quorum", "the file says so"))

    def about(self, record: Inbound) -> About:
        return about(record)

    async def gather(self, batch: Sequence[Inbound]) -> AsyncGenerator[tuple[Sequence[Inbound], None], None]:
        await self.probe()
        if any(record.value == b"gather" for record in batch):
            raise RuntimeError("gathering fails on this record")
        slow = [record for record in batch if (record.value or b"").startswith(b"slow")]
        yield [record for record in batch if record not in slow], None
        for record in slow:
            await asyncio.sleep(float((record.value or b"slow 1").split()[1]))
            yield [record], None

    def decide(self, record: Inbound, gathered: None, now_ms: int) -> Decision:
        value = record.value or b""
        if value == b"raise":
            raise RuntimeError("deciding fails on this record")
        if value.startswith(b"think "):
            while not os.access(value.split()[1], os.F_OK):
                time.sleep(0.02)
        if value == b"abort":
            os.abort()
        if value == b"huge":
            return Emit((Out(PARSED, record.key, bytes(64 << 20)),))
        if value == b"refuse":
            return Refuse(Verdict("script.false", "as asked"), about(record))
        if value.startswith(b"defer"):
            return Defer(Condition("finality.not-final", "as asked"), about(record))
        return Emit((Out(PARSED, record.key, value),))


class Both:
    """Reads two topics of 32 partitions, and says who read what."""

    name = "both"
    inputs: tuple[Topic, ...] = (OPERATIONS, JOURNAL)
    outputs: tuple[Topic, ...] = (PARSED, *WAITING)
    begins_traces = False
    went_well: tuple[str, ...] = ("",)

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    async def probe(self) -> None:
        pass

    def about(self, record: Inbound) -> About:
        return about(record)

    async def gather(self, batch: Sequence[Inbound]) -> AsyncGenerator[tuple[Sequence[Inbound], None], None]:
        yield batch, None

    def decide(self, record: Inbound, gathered: None, now_ms: int) -> Decision:
        return Emit((Out(PARSED, record.key, f"{os.getpid()} {record.topic} {record.partition}".encode()),))


class Counter:
    """An exactly-once stage: counts each key's records in its state, and journals every step.

    stuck: while a file stands there, what waits in the state cannot go on.
    """

    name = "counter"
    inputs: tuple[Topic, ...] = (OPERATIONS,)
    outputs: tuple[Topic, ...] = (BROADCAST, JOURNAL, *WAITING)
    changelog = STATE
    form: Form = Contexts()
    went_well: tuple[str, ...] = ("",)

    def __init__(self, stuck: str = "") -> None:
        self._stuck = Path(stuck) if stuck else None

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    def about(self, record: Inbound) -> About:
        return about(record)

    def beside(self, stores: Any, spoil: Any, outbox: Any) -> Sequence[Any]:
        return ()

    def add_to(self, router: Any) -> None:
        pass

    def lift(self) -> None:
        pass

    def left(self, partition: int) -> None:
        pass

    def waits_s(self, context: Context, view: View) -> float:
        return 0.0

    def hold(self, context: Context) -> Hold:
        raise AssertionError("what waits here can always go on")

    def compute(self, record: Inbound, layer: Layer, heads: Heads, now_ms: int) -> Decided:
        value = record.value or b""
        context = (record.key or b"").decode()
        here = Contextual(context, layer, heads.of(context), now_ms)
        count = self._count(here)
        here.put(state.COIN, hashlib.sha256(value).digest(), value)
        if value == b"raise":
            raise RuntimeError("computing fails on this record")
        if value == b"abort":
            os.abort()
        entry = here.journal("apply", value.decode(), hashlib.sha256(value).digest())
        outs = [
            Out(JOURNAL, record.key, entry, (), record.partition),
            Out(BROADCAST, value, f"{context} {count} {value.decode()}".encode()),
        ]
        if value == b"huge":
            outs.append(Out(BROADCAST, value, bytes(64 << 20)))
        decision: Decision = Emit(outs)
        if value.startswith(b"defer"):
            decision = Defer(Condition("conflict.undecided", "as asked"), about(record), outs=outs)
        later = int(value.split(b"-")[1]) if value.startswith(b"later") else 0
        if later:
            here.put(state.QUEUE, b"", b"%d" % later)
            outs.append(Out(JOURNAL, record.key, here.journal("wait", "later", bytes(32)), (), record.partition))
        return Decided(decision, {head_key(context): here.head}, context if later else None)

    def settle(self, context: Context, partition: int, layer: Layer, heads: Heads, now_ms: int) -> Settled:
        """One of the pieces that a record `later-N` left."""
        if self._stuck is not None and self._stuck.exists():
            raise RuntimeError("settling fails for now")
        here = Contextual(context, layer, heads.of(context), now_ms)
        left = int(here.value(state.QUEUE, b"") or b"") - 1
        if left == 0:
            here.delete(state.QUEUE, b"")
        else:
            here.put(state.QUEUE, b"", b"%d" % left)
        count = self._count(here)
        key = context.encode()
        outs = [
            Out(JOURNAL, key, here.journal("wait", "later", bytes(32)), (), partition),
            Out(BROADCAST, key, f"{context} {count} piece".encode()),
        ]
        return Settled(outs, here.head, left > 0)

    def repaired(self, context: Context, what: str) -> None:
        """Its journal is no place for it."""

    def _count(self, here: Contextual) -> int:
        count = int(here.value(state.LOSER, b"count") or b"0") + 1
        here.put(state.LOSER, b"count", str(count).encode())
        return count


def apply_stage() -> ApplyStage:
    """The real one."""
    hosted = ("tm_all=tests.fakes:Keep", "tm_keep=tests.fakes:Keep")
    return ApplyStage(ApplySettings(topics=hosted, trusted=("tm_all", "tm_keep")))


def hosting_stage(topics: str) -> ApplyStage:
    """The real one, with these topics; patient, since what is slow is to be the manager and not a busy machine."""
    hosted = tuple(topics.split(","))
    return ApplyStage(ApplySettings(topics=hosted, judge_ms=300, judge_limit_ms=30_000, probe_after_s=1.0))


def status_stage(services: str) -> Status:
    """The real one, quick to look again. services: endpoints; trackers; and a file with the token of callbacks."""
    endpoints, trackers, token = services.split(";")
    settings = StatusSettings(settle_s=1.5, unseen_s=1.0, unmined_s=1.0)
    return Status(
        settings,
        BroadcastSettings(
            endpoints=tuple(endpoints.split(",")),
            callback_url="http://127.0.0.1" if token else "",
            callback_token_file=token,
        ),
        HttpSettings(),
        TrackerSettings(trackers=tuple(trackers.split(","))),
    )


STAGES: dict[str, Any] = {
    "odd": Odd, "both": Both, "counter": Counter, "apply": apply_stage, "hosting": hosting_stage,
    "status": status_stage,
}  # fmt: skip
