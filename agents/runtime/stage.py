"""The at-least-once stage: a batch through a rule, outputs confirmed, inputs acknowledged (ACK-1, ACK-2, FAULT-1)."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any, Generic, Protocol, TypeVar

from aiohttp import web

from agents import metrics
from agents.runtime import crash
from agents.runtime.aside import aside, is_long
from agents.runtime.board import Batch, Lane
from agents.runtime.desk import Desk
from agents.runtime.door import Door
from agents.runtime.hand import waiting
from agents.runtime.outbox import Outbox, TooLarge
from agents.runtime.outcomes import Router
from agents.runtime.records import Decision, Inbound, WorldCondition
from agents.runtime.trace import Tracer
from agents.runtime.written import Written
from pipeline.results import About
from topics.registry import Topic

log = logging.getLogger(__name__)

G = TypeVar("G")
G_co = TypeVar("G_co")

CONCURRENT_FLUSHES = 2
"""Batches being written while another computes: more only makes batches smaller."""

ALONE_LOOK_S = 0.1
"""How often a lane that goes record by record looks whether it may go on: rare, and in no hurry."""

PROBE_S = (1.0, 2.0, 5.0)
"""Waits between probes while the stage is paused; the last repeats."""


class Stage(Protocol[G]):
    """What a stage is: its only waiting, and a pure rule for each record."""

    name: str
    inputs: tuple[Topic, ...]
    outputs: tuple[Topic, ...]
    begins_traces: bool
    went_well: tuple[str, ...]  # codes of what is neither verdict, condition nor fault, for the metrics

    async def start(self) -> None:
        """Open what the stage needs."""
        ...

    async def stop(self) -> None:
        """Close it."""
        ...

    def gather(self, batch: Sequence[Inbound]) -> AsyncGenerator[tuple[Sequence[Inbound], G], None]:
        """Ask the world what the rule needs, and hand records over as soon as theirs is known, each once.

        Raises:
            WorldCondition: the stage pauses, and takes what was not handed over again later.
        """
        ...

    def decide(self, record: Inbound, gathered: G, now_ms: int) -> Decision:
        """The rule. Whatever it raises costs this record alone. Of long records in another thread than the loop's."""
        ...

    def about(self, record: Inbound) -> About | None:
        """Whom to tell when a record could not be dealt with; None where the record does not say."""
        ...

    async def probe(self) -> None:
        """Whether a paused stage may go on.

        Raises:
            WorldCondition: not yet.
        """
        ...


class Runner(Generic[G]):
    """Runs a stage on a desk."""

    def __init__(
        self,
        stage: Stage[G],
        desk: Desk,
        router: Router,
        tracer: Tracer,
        *,
        batch_records: int,
        fault_limit: int,
        due: Callable[[Inbound], int] | None = None,
        beside: Callable[[], Awaitable[None]] | None = None,
        lift: Callable[[], None] | None = None,
        routes: Callable[[web.UrlDispatcher], None] | None = None,
    ) -> None:
        """What the runner runs, and how.

        due: when a record may be taken (Unix milliseconds); a lane waits for its first.
        beside: what goes on beside the records for as long as the stage runs; an error it raises ends the process.
        lift: what an operator lets go on besides a halted stage.
        routes: what the stage answers on the worker's port.
        """
        self.stage = stage
        self.desk = desk
        self.board = desk.board
        self.router = router
        self.tracer = tracer
        self.paused: WorldCondition | None = None
        self.outbox: Outbox | None = None
        self._batch_records = batch_records
        self._door = Door(stage, desk, fault_limit)
        self._due = due
        self._beside = beside
        self._lift = lift
        self.routes = routes
        self._tasks: set[asyncio.Task[None]] = set()
        self._flushes = asyncio.Semaphore(CONCURRENT_FLUSHES)
        self._alone: set[Lane] = set()
        self._failed: asyncio.Future[None] | None = None

    async def run(self, outbox: Outbox) -> None:
        """Until cancelled. Any error it raises is meant to end the process."""
        self.outbox = outbox
        self._failed = asyncio.get_running_loop().create_future()
        if self._beside is not None:
            self._spawn(self._beside())
        try:
            while True:
                await self._something_to_do()
                await self._mark_new_lanes()
                batch = self.board.take(self._batch_records, self._may_batch, self._is_due())
                if batch.records:
                    self._spawn(self._handle(batch))
                # Computing a batch blocks this loop anyway; what arrives while two are being written is one batch.
                async with self._flushes:
                    await asyncio.sleep(0)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def waits(self) -> bool:
        """Whether nothing is to be done before a known time: progress to the watchdog."""
        return self._due is not None and not self.board.in_flight and self._wait_s() != 0

    def _is_due(self) -> Callable[[Inbound], bool] | None:
        if self._due is None:
            return None
        due, now_ms = self._due, int(time.time() * 1000)
        return lambda record: due(record) <= now_ms

    def _wait_s(self) -> float | None:
        """Seconds until a lane has something to take: 0 when one has, None when none waits for a time."""
        lanes = [lane for lane in self.board.lanes.values() if lane.queue and lane not in self._alone]
        if self._due is None or not lanes:
            return 0 if lanes else None
        first = min(self._due(lane.queue[0]) for lane in lanes)
        return max(0.0, first / 1000 - time.time())

    async def _something_to_do(self) -> None:
        board = self.board
        assert self._failed is not None
        while True:
            board.changed.clear()
            wait_s = None if self._blocked or board.in_flight >= board.max_in_flight else self._wait_s()
            if wait_s == 0:
                return
            changed = asyncio.ensure_future(board.changed.wait())
            try:
                await asyncio.wait((changed, self._failed), timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
            finally:
                changed.cancel()
            if self._failed.done():
                self._failed.result()

    def _may_batch(self, lane: Lane) -> bool:
        # One that was fetched while others were being marked is not marked yet.
        return lane.marked and lane not in self._alone

    @property
    def _blocked(self) -> bool:
        """Whether nothing may be touched for now."""
        return self.paused is not None or self.desk.halted is not None or self.desk.settling

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or self._failed is None or self._failed.done():
            return
        if (error := task.exception()) is not None:
            self._failed.set_exception(error)

    # --- finding a record that kills the process (FAULT-2)

    async def _mark_new_lanes(self) -> None:
        lanes = self.board.lanes.values()
        fresh = [lane for lane in lanes if lane.queue and not lane.marked and lane not in self._alone]
        for lane in fresh:
            lane.marked = True
            if lane.one_by_one:
                self._alone.add(lane)
                self._spawn(self._one_by_one(lane))
        if any(lane not in self._alone for lane in fresh):
            await self.desk.commit()

    async def _one_by_one(self, lane: Lane) -> None:
        """Each input alone and marked before it is touched, until those that may have killed us are past."""
        log.warning("going record by record", extra={"partition": lane.tp[1], "ends": lane.suspicion.ends})
        while lane.one_by_one and not lane.gone:
            if not lane.queue:
                await lane.arrived.wait()
                continue
            due = self._is_due()
            if self._blocked or (due is not None and not due(lane.queue[0])):
                await asyncio.sleep(ALONE_LOOK_S)
                continue
            async with self.desk.alone(lane):
                if self._blocked or not lane.queue:  # while it waited for its turn
                    continue
                batch = self.board.take_from(lane, 1, 0)
                if lane.suspicion.given_up and lane.ledger.position == lane.start:
                    fault = self._door.killed(batch.records[0])
                    await self._settle(batch, batch.records, [fault])
                else:
                    await self._handle(batch)
        self._alone.discard(lane)
        self.board.changed.set()

    # --- a batch

    async def _handle(self, batch: Batch) -> None:
        began = time.monotonic()
        stage = self.stage.name
        oldest = min(record.timestamp for record in batch.records)
        metrics.TOPIC_SECONDS.labels(stage).observe(max(0.0, time.time() - oldest / 1000))
        metrics.BATCH_RECORDS.labels(stage).observe(len(batch.records))
        await self._gather(batch)
        metrics.BATCH_SECONDS.labels(stage).observe(time.monotonic() - began)

    async def _gather(self, batch: Batch) -> None:
        left = {(record.topic, record.partition, record.offset): record for record in batch.records}
        try:
            async with aclosing(self.stage.gather(batch.records)) as gathering:
                while True:
                    async with waiting():
                        found = await anext(gathering, None)
                    if found is None:
                        break
                    records, gathered = found
                    for record in records:
                        del left[record.topic, record.partition, record.offset]
                    await self._decide(batch, records, gathered)
                    del found, gathered  # it may be large, and the next is asked for from here on
        except WorldCondition as condition:
            self._pause(condition)
            batch.give_back(list(left.values()))
        except asyncio.CancelledError:
            raise
        except Exception as error:  # the fault door: what a stage raises costs the record it is about
            if not left:
                raise  # not about a record: writing failed, and ends the process
            await self._halve(batch.part(list(left.values())), error)

    async def _halve(self, batch: Batch, error: Exception) -> None:
        """Gathering failed: find the record it fails on."""
        records = batch.records
        if len(records) == 1:
            await self._settle(batch, records, [self._door.raised(records[0], error)])
            return
        middle = len(records) // 2
        await self._gather(batch.part(records[:middle]))
        await self._gather(batch.part(records[middle:]))

    async def _decide(self, batch: Batch, records: Sequence[Inbound], gathered: G) -> None:
        now_ms = int(time.time() * 1000)
        short = [record for record in records if not is_long(record)]
        if short:
            await self._settle(batch, short, [self._decided(record, gathered, now_ms) for record in short])
        for record in records:
            if is_long(record):
                await self._settle(batch, [record], [await aside(self._decided, record, gathered, now_ms)])

    def _decided(self, record: Inbound, gathered: G, now_ms: int) -> Decision:
        try:
            return self.stage.decide(record, gathered, now_ms)
        except Exception as error:  # noqa: BLE001 - the fault door logs it, with where it was
            return self._door.raised(record, error)

    async def _settle(self, batch: Batch, records: Sequence[Inbound], decisions: Sequence[Decision]) -> None:
        """Write what follows from the decisions, then acknowledge their records (ACK-1)."""
        assert self.outbox is not None
        async with waiting():
            await self._flushes.acquire()
        try:
            written = self.route(records, decisions, self.outbox)
            crash.point(crash.BEFORE_PRODUCE)
            async with waiting():
                await self.outbox.send(written.outs)
            crash.point(crash.BEFORE_COMMIT)
        finally:
            self._flushes.release()
        batch.finished(records)
        written.count()

    def route(self, records: Sequence[Inbound], decisions: Sequence[Decision], outbox: Outbox) -> Written:
        """The records that follow from decisions; what is too large becomes a fault (SIZE-1)."""
        now_ms = int(time.time() * 1000)
        written = Written(self.stage.name, self.tracer, begins_traces=self.stage.begins_traces)
        for record, decided in zip(records, decisions, strict=True):
            decision = decided
            outs = self.router.outs(record, decision, now_ms)
            try:
                outbox.check(outs)
            except TooLarge as error:
                decision = self._door.too_large(record, error)
                outs = self.router.outs(record, decision, now_ms)
            kind = self.router.kind(decision)
            self._door.saw(*kind)
            written.add(record, kind, outs)
        return written

    # --- faults and pauses

    def resume(self) -> None:
        """An operator lets a halted stage go on, and what else waits for one."""
        if self._lift is not None:
            self._lift()
        self._door.resume()

    def _pause(self, condition: WorldCondition) -> None:
        if self.paused is not None:
            return
        self.paused = condition
        log.warning("paused: %s", condition, extra={"code": condition.condition.code})
        self.desk.tell("stage-paused", "warning", str(condition), {"code": condition.condition.code})
        metrics.PAUSES.labels(self.stage.name, condition.condition.code).inc()
        metrics.state(self.stage.name, "paused")
        self._spawn(self._probe())

    async def _probe(self) -> None:
        tried = 0
        while self.paused is not None:
            await asyncio.sleep(PROBE_S[min(tried, len(PROBE_S) - 1)])
            tried += 1
            try:
                await self.stage.probe()
            except WorldCondition as condition:
                self.paused = condition
                continue
            self.paused = None
        log.info("resumed after %d probes", tried)
        self.desk.tell("stage-unpaused", "info", f"goes on after {tried} probes", {})
        if self.desk.halted is None:
            metrics.state(self.stage.name, "running")
        self.board.changed.set()
