"""The exactly-once stage: each partition with its own producer, store and loop (TXN-1 to TXN-4, STORE-1).

assigned -> InitProducerId (fences the predecessor) -> changelog read to its end, store checked -> input sought to the
applied offset -> batches. A batch is computed first, each record on its own layer; one short transaction then takes
all it emits, the changelog with the applied offset last; after the commit the local store is written.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import aiokafka
import msgspec
from aiohttp import web
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from agents import metrics
from agents.runtime import crash, hand
from agents.runtime.board import Batch, Lane, TopicPartition
from agents.runtime.connection import client_options
from agents.runtime.copies import RESTORE_CHUNK, Copies
from agents.runtime.desk import Desk, Halt
from agents.runtime.door import Door, where
from agents.runtime.outbox import Outbox, TooLarge
from agents.runtime.outcomes import Router
from agents.runtime.records import Decision, Fault, Held, Hold, Inbound, Out
from agents.runtime.settings import KafkaSettings, TopicSettings, WorkerSettings
from agents.runtime.shelf import Readable, Shelf
from agents.runtime.standby import Standby
from agents.runtime.store import Store
from agents.runtime.trace import Tracer
from agents.runtime.transport import FETCH_BYTES, PARTITION_BYTES, producer_options
from agents.runtime.written import Written
from pipeline import waiting
from pipeline.follow import Form
from pipeline.results import About
from pipeline.state import APPLIED_KEY, Corrupt, Layer, Live, Remembered, View, head_key, head_of, seal
from pipeline.state import encode as pack
from schemas import headers as h
from schemas.state import AppliedOffset
from schemas.types import Context
from schemas.wire import HEADER
from topics.registry import Topic, largest_record, transactional_id

log = logging.getLogger(__name__)

RESTORE_LIST = 500
"""Taken at once: a few milliseconds, and few objects at a time for Python's collector to look through again."""

HALTED_LOOK_S = 1.0
"""How often a partition whose changelog is at fault looks whether an operator resumed the stage."""

COMPUTE_S = 0.2
"""A batch is computed for so long; what is left is the next one's. A transaction costs a fortieth of it, and other
partitions of the process have their turn between two."""

CONCURRENT_RESTORES = 4
"""Partitions restored at once: the broker and the disk are shared."""

BACK = frozenset({HEADER, h.TRACEPARENT})
"""Headers that a record gets anew when it is written again."""

_applied = msgspec.msgpack.Decoder(AppliedOffset).decode


class Decided(msgspec.Struct, frozen=True):
    """What an exactly-once rule made of a record."""

    decision: Decision
    heads: dict[bytes, Live] = {}  # of the contexts it touched, by their key
    settling: Context | None = None  # a context that has work waiting in its state
    also: Sequence[tuple[Inbound, Decision]] = ()  # what becomes of records that were kept in the state
    resumed: Sequence[Inbound] = ()  # such records that go on now, in the same transaction
    undecided: tuple[Context, bool] | None = None  # whether a context has prepared what nobody has decided


class Settled(msgspec.Struct, frozen=True):
    """What a piece of work that waited in the state came to."""

    outs: Sequence[Out]
    head: Live
    more: bool  # whether the context has more of it


class AtomicStage(Protocol):
    """What an exactly-once stage is: a rule over the state of its partition."""

    name: str
    inputs: tuple[Topic, ...]
    outputs: tuple[Topic, ...]
    changelog: Topic
    form: Form
    went_well: tuple[str, ...]  # codes of what is neither verdict, condition nor fault, for the metrics

    async def start(self) -> None:
        """Open what the stage needs."""
        ...

    async def stop(self) -> None:
        """Close it."""
        ...

    def beside(
        self, stores: Mapping[int, Readable], spoil: Callable[[int, Corrupt], None], outbox: Outbox
    ) -> Sequence[Coroutine[Any, Any, None]]:
        """What runs as long as the stage does; none ends before it is cancelled.

        stores: of the partitions that are owned, as they come and go; spoil: has one made again that is not what was
        written; outbox: for what belongs to no transaction.
        """
        ...

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Answer what else the worker's port is asked."""
        ...

    def lift(self) -> None:
        """An operator lets suspended contexts go on."""
        ...

    def left(self, partition: int) -> None:
        """A partition was given back."""
        ...

    def compute(self, record: Inbound, layer: Layer, heads: "Heads", now_ms: int) -> Decided:
        """The rule. What it writes into `layer` is dropped if it raises.

        Raises:
            Held: the record's context takes nothing for now.
        """
        ...

    def waits_s(self, context: Context, view: View) -> float:
        """Seconds until the next piece of what waits in a context's state may be tried; 0: at once."""
        ...

    def settle(self, context: Context, partition: int, layer: Layer, heads: "Heads", now_ms: int) -> Settled:
        """Go on with what one transaction could not hold. What it raises halts the stage: no record is to blame.

        Raises:
            Held: the context takes nothing for now, what waits in its state neither.
        """
        ...

    def hold(self, context: Context) -> Hold:
        """What becomes of a record whose context has work waiting that cannot go on."""
        ...

    def about(self, record: Inbound) -> About | None:
        """Whom to tell when a record could not be dealt with."""
        ...

    def failed(self, record: Inbound, fault: Fault, layer: Layer, heads: "Heads", now_ms: int) -> Decided | None:
        """What a fault comes to where others have to hear of it; None: what it always comes to.

        What it writes into `layer` is dropped if it raises.
        """
        ...

    def repaired(self, context: Context, what: str) -> Out | None:
        """What to write when a worker's store of the context was made again."""
        ...


class Keeps:
    """What an exactly-once stage need not say whose state is a value for each key: nothing waits there, nothing is
    suspended, and nobody but itself hears of a fault."""

    def failed(self, record: Inbound, fault: Fault, layer: Layer, heads: "Heads", now_ms: int) -> Decided | None:
        """See `AtomicStage`."""
        return None

    def about(self, record: Inbound) -> About | None:
        """Its records are nobody's request."""
        return None

    def lift(self) -> None:
        """See `AtomicStage`."""

    def waits_s(self, context: Context, view: View) -> float:
        """See `AtomicStage`."""
        raise AssertionError("nothing waits in a state without contexts")

    def settle(self, context: Context, partition: int, layer: Layer, heads: "Heads", now_ms: int) -> Settled:
        """See `AtomicStage`."""
        raise AssertionError("nothing waits in a state without contexts")

    def hold(self, context: Context) -> Hold:
        """See `AtomicStage`."""
        raise AssertionError("nothing waits in a state without contexts")

    def repaired(self, context: Context, what: str) -> None:
        """There is no journal to say it in."""


class Heads:
    """Heads of contexts within a batch: read once, kept as numbers, written at its end."""

    def __init__(self, layer: Layer) -> None:
        self._layer = layer
        self.live: dict[bytes, Live] = {}

    def of(self, context: Context) -> Live:
        """Where the context stands, after the records before this one."""
        live = self.live.get(head_key(context))
        return head_of(self._layer, context) if live is None else live


class Lanes:
    """Runs an exactly-once stage on a desk: the counterpart of `stage.Runner`."""

    def __init__(
        self,
        stage: AtomicStage,
        desk: Desk,
        router: Router,
        tracer: Tracer,
        kafka: KafkaSettings,
        topics: TopicSettings,
        settings: WorkerSettings,
        counts: dict[str, int],
        generation: int = 1,
    ) -> None:
        self.stage = stage
        self.desk = desk
        self.router = router
        self.tracer = tracer
        self.kafka = kafka
        self.topics = topics
        self.settings = settings
        self.counts = counts
        self.generation = generation
        self.paused: None = None  # nothing outside is asked
        self.door = Door(stage, desk, settings.fault_limit)
        self.restores = asyncio.Semaphore(CONCURRENT_RESTORES)
        folder = Path(settings.data_dir, stage.name, topics.prefix.strip("."))
        self.shelf = Shelf(folder, generation, settings.any_from_differing)
        replication = settings.replication if stage.form.shared else 1
        self.standby = Standby(stage.name, settings.host, replication, self.shelf, desk.tell)
        changelog = stage.changelog.named(topics.prefix)
        self.copies = Copies(
            stage.name,
            kafka,
            changelog,
            stage.form,
            self.shelf,
            self.standby.wanted,
            self.standby.kept,
            desk.tell,
            self.repaired,
        )
        self.spoiled: dict[int, Corrupt] = {}  # by partition: what a reader found
        self._tasks: dict[TopicPartition, asyncio.Task[None]] = {}
        self._outbox: Outbox | None = None  # for what belongs to no transaction

    def spoil(self, partition: int, error: Corrupt) -> None:
        """A reader found a value that is not what was written: the store is made again (STORE-2)."""
        self.copies.spoil(partition, error)
        for tp, lane in self.desk.board.lanes.items():
            if tp[1] == partition:
                self.spoiled[partition] = error
                lane.arrived.set()

    async def repaired(self, number: int, error: Corrupt) -> None:
        """A store was made again, and compared: an event, and a word in the journal of the context it was about."""
        who = f"{self.standby.host} {self.shelf.path(number).parent.name}"
        self.desk.tell("store-repaired", "info", f"{who}: {error}", {"partition": number, "context": error.context})
        out = self.stage.repaired(error.context, f"{who}: {error}") if error.context else None
        if out is not None and self._outbox is not None:
            await self._outbox.send([(out, None)])

    async def run(self, outbox: Outbox) -> None:
        """Until cancelled. Any error it raises is meant to end the process (TXN-4)."""
        self._outbox = outbox
        metrics.state(self.stage.name, "restoring")
        try:
            while True:
                assigned = asyncio.ensure_future(self.desk.assigned_anew())
                try:
                    done, _ = await asyncio.wait((assigned, *self._tasks.values()), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    assigned.cancel()
                for task in done - {assigned}:
                    task.result()
                self._tasks = {tp: task for tp, task in self._tasks.items() if not task.done()}
                for tp, lane in self.desk.board.lanes.items():
                    if not lane.served:
                        lane.served = True
                        self._tasks[tp] = asyncio.ensure_future(self._serve(lane, self._tasks.get(tp)))
        finally:
            for task in self._tasks.values():
                task.cancel()
            self.desk.abandon()  # a loop may miss its cancellation: closing aiokafka's client swallows one
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    @property
    def waits(self) -> bool:
        """Nothing here waits for a time."""
        return False

    def resume(self) -> None:
        """An operator lets a halted stage go on, and contexts that are suspended."""
        self.stage.lift()
        self.door.resume()
        for lane in self.desk.board.lanes.values():
            lane.arrived.set()  # what waits in its state goes on, whether records have come or not

    async def _serve(self, lane: Lane, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait((before,))  # the store of this partition is still open in the generation before
        await Partition(self, lane).run()


class Partition:
    """One partition of an exactly-once stage, for as long as this worker owns it."""

    def __init__(self, lanes: Lanes, lane: Lane) -> None:
        self.lanes = lanes
        self.lane = lane
        self.stage = lanes.stage
        self.number = lane.tp[1]
        settings = lanes.settings
        self.changelog = aiokafka.TopicPartition(self.stage.changelog.named(lanes.topics.prefix), self.number)
        self.max_bytes = settings.max_in_flight_bytes // 8
        self.applied = AppliedOffset(-1, "", lanes.generation)

    async def run(self) -> None:
        """Until the partition is given back."""
        lanes, lane = self.lanes, self.lane
        name = transactional_id(lanes.topics.prefix, self.stage.name, lanes.generation, self.number)
        producer = AIOKafkaProducer(
            **producer_options(lanes.kafka, largest_record(lanes.topics.max_payload_bytes)),
            transactional_id=name,
            transaction_timeout_ms=int(lanes.settings.transaction_timeout_s * 1000),
        )
        store: Store | None = None
        try:
            async with lanes.restores:
                if lane.gone:
                    return
                began = time.monotonic()
                await producer.start()  # InitProducerId: whoever wrote for this partition before is fenced (TXN-3)
                store = await self._restore()
                while store is None and not lane.gone:
                    await asyncio.sleep(HALTED_LOOK_S)
                    store = None if lanes.desk.halted else await self._restore()
                metrics.RESTORE_SECONDS.labels(self.stage.name).observe(time.monotonic() - began)
            if lane.gone or store is None:
                return
            try:
                await self._begin(store)
            except Corrupt as error:
                store = await self._spoiled(error)
                await self._begin(store)
            lanes.shelf.serve(self.number, lane.generation)
            outbox = Outbox(producer, lanes.topics.prefix, lanes.counts, lanes.topics.max_payload_bytes)
            while not lane.gone:
                if (spoiled := lanes.spoiled.pop(self.number, None)) is not None:
                    store = await self._spoiled(spoiled)
                held = lanes.desk.halted or lanes.desk.settling
                try:
                    context, wait_s = self._settling(store)
                    if held or not (lane.queue or wait_s == 0):
                        lane.arrived.clear()
                        if not lane.gone:
                            await self._something(None if held else wait_s)
                        continue
                    if context is not None and wait_s == 0:
                        await self._settle(context, store, producer, outbox)
                        continue
                    await self._batch(store, producer, outbox)
                except Corrupt as error:
                    store = await self._spoiled(error)
                await self._pace()
        finally:
            lanes.shelf.give(self.number)
            self.stage.left(self.number)
            await producer.stop()

    def _settling(self, store: Store) -> tuple[Context | None, float | None]:
        """The context whose waiting work goes on first, and in how many seconds; None where nothing waits."""
        waits_s = {context: self.stage.waits_s(context, store) for context in self.applied.settling}
        first = min(waits_s, key=waits_s.__getitem__, default=None)
        return first, None if first is None else waits_s[first]

    async def _something(self, within_s: float | None) -> None:
        """Until something arrives, or the time has come for what waits."""
        try:
            async with asyncio.timeout(within_s):
                await self.lane.arrived.wait()
        except TimeoutError:
            return

    async def _pace(self) -> None:
        """Let records gather while few wait: a transaction of ten costs 0.66 ms a record, one of a thousand 0.01.

        From the end of one: under load that takes longer than the pace by itself, and the next would be as small.
        """
        settings = self.lanes.settings
        if len(self.lane.queue) < settings.batch_records and not self.lanes.desk.settling:
            await asyncio.sleep(settings.transaction_pace_ms / 1000)

    async def _begin(self, store: Store) -> None:
        """Go on behind the applied offset, whatever the group says (TXN-2); tell of a group that was reset."""
        stored = store.get(APPLIED_KEY)
        start = self.lanes.desk.starts[self.lane.tp]
        if stored is not None:
            self.applied = _applied(stored[32:])
            offset = self.applied.offset + 1
        else:
            offset = start.first
        if start.committed is not None and not start.metadata and start.committed != offset and stored is not None:
            self.lanes.desk.tell(
                "offsets-reset",
                "warning",
                f"{self.lane.tp[0]}-{self.number}: the group was set to {start.committed}; "
                f"the stage goes on from its changelog at {offset}",
                {"group": start.committed, "applied": self.applied.offset},
            )
        await self.lanes.desk.release(self.lane, offset)
        if not self.lanes.desk.held:
            metrics.state(self.stage.name, "running")

    # --- restoring

    async def _restore(self) -> Store | None:
        """The store, up to date; None where the changelog itself is at fault and the stage was halted."""
        shelf = self.lanes.shelf
        self.lanes.copies.drop(self.number)
        store = shelf.take(self.number)
        try:
            await self._catch_up(store)
        except Corrupt as error:
            log.warning("the local store differs and is made again: %s", error, extra={"partition": self.number})
            store = shelf.anew(self.number)
            try:
                await self._catch_up(store)
            except Corrupt as again:
                # The changelog itself contradicts its heads: nothing here may be served from it.
                self.lanes.desk.halt(Halt("state-differs", f"{self.changelog.topic}-{self.number}: {again}"))
                metrics.state(self.stage.name, "halted")
                return None
            await self.lanes.repaired(self.number, error)
        return store

    async def _spoiled(self, error: Corrupt) -> Store:
        """A value was read that is not what was written: nothing was emitted from it, and the store is made again."""
        message = f"{self.changelog.topic}-{self.number}: {error}"
        log.error("the local store is spoiled and made again: %s", message)
        metrics.STORES_SPOILED.labels(self.stage.name).inc()
        self.lanes.desk.tell("store-spoiled", "error", message, {"partition": self.number})
        store = self.lanes.shelf.anew(self.number)
        await self._catch_up(store)
        self.lanes.shelf.serve(self.number, self.lane.generation)
        await self.lanes.repaired(self.number, error)
        return store

    async def _catch_up(self, store: Store) -> None:
        """Read the changelog from the store's position to its read-committed end.

        Raises:
            Corrupt: a value or the roots are not what they should be.
        """
        consumer = AIOKafkaConsumer(
            **client_options(self.lanes.kafka),
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            max_partition_fetch_bytes=PARTITION_BYTES,
            fetch_max_bytes=FETCH_BYTES,
        )
        consumer.assign([self.changelog])
        await consumer.start()
        try:
            end = (await consumer.end_offsets([self.changelog]))[self.changelog]
            position = store.position
            if position > end:
                raise Corrupt(f"the store stands at {position}, behind the end of its changelog at {end}")
            consumer.seek(self.changelog, position)
            follower = self.stage.form.follower(store)
            while (position := await consumer.position(self.changelog)) < end:
                fetched = await consumer.getmany(self.changelog, timeout_ms=200, max_records=RESTORE_LIST)
                follower.take_all([(record.key, record.value) for record in fetched.get(self.changelog, ())])
                if len(follower) >= RESTORE_CHUNK:
                    store.write(follower.writes(), None)
                    crash.point(crash.DURING_RESTORE)
                await asyncio.sleep(0)  # what was fetched already is given without waiting
            follower.compare()
            crash.point(crash.DURING_RESTORE)
            store.write(follower.writes(), position)
        finally:
            await consumer.stop()

    # --- a batch

    async def _batch(self, store: Store, producer: Any, outbox: Outbox) -> None:
        lanes, lane = self.lanes, self.lane
        if lane.one_by_one:
            async with lanes.desk.alone(lane):
                if lane.queue and not lane.gone:
                    await self._do(store, producer, outbox, lanes.desk.board.take_from(lane, 1, 0))
            return
        await lanes.desk.mark(lane)
        if lane.queue and not lane.gone:
            batch = lanes.desk.board.take_from(lane, lanes.settings.batch_records, self.max_bytes)
            await self._do(store, producer, outbox, batch)

    async def _do(self, store: Store, producer: Any, outbox: Outbox, batch: Batch) -> None:
        lane = self.lane
        began = time.monotonic()
        oldest = min(record.timestamp for record in batch.records)
        metrics.TOPIC_SECONDS.labels(self.stage.name).observe(max(0.0, time.time() - oldest / 1000))
        metrics.BATCH_RECORDS.labels(self.stage.name).observe(len(batch.records))
        given_up = lane.one_by_one and lane.suspicion.given_up and lane.ledger.position == lane.start
        try:
            computed = self._compute(store, batch, outbox, given_up=given_up)
        except Corrupt:
            batch.give_back(batch.records)
            raise
        done, left = batch.records[: computed.records], batch.records[computed.records :]
        if left:
            batch.give_back(left)
        undecided = tuple(sorted(computed.undecided))
        applied = AppliedOffset(done[-1].offset, done[-1].topic, self.lanes.generation, computed.settling, undecided)
        async with hand.waiting():
            await self._commit(store, producer, outbox, computed, applied)
        batch.finished(done)
        computed.written.count()
        metrics.BATCH_SECONDS.labels(self.stage.name).observe(time.monotonic() - began)

    def _compute(self, store: Store, batch: Batch, outbox: Outbox, *, given_up: bool) -> "Computed":
        """Every record on its own layer: one that fails leaves nothing (FAULT-1).

        A record of 200 bytes may move megabytes: none further is taken once those before wrote `waiting.BYTES`.
        """
        now_ms = int(time.time() * 1000)
        layer = Layer(Remembered(store))  # a rule reads a key, and the sums read it again
        computed = Computed(layer, Written(self.stage.name, self.lanes.tracer, begins_traces=False))
        computed.settling, computed.undecided = self.applied.settling, set(self.applied.undecided)
        queued = {context.encode() for context in computed.settling}
        began = time.perf_counter()
        size = 0
        for record in batch.records:
            size += self._record(record, computed, queued, outbox, now_ms, given_up=given_up)
            computed.records += 1
            if len(computed.settling) > len(queued):
                break  # what waits comes before the next record: it may be of the same context
            if size >= waiting.BYTES or time.perf_counter() - began > COMPUTE_S:
                break
        return computed

    def _record(
        self, record: Inbound, computed: "Computed", queued: set[bytes], outbox: Outbox, now_ms: int, *, given_up: bool
    ) -> int:
        """One record, and those it lets go on that waited in the state. Bytes it wrote."""
        size = 0
        todo = deque((record,))
        settling = False
        while todo:
            one = todo.popleft()
            if settling:  # what waits in the queue comes before it: it is behind that in the input
                back = Out(self.stage.inputs[0], one.key, one.value, h.without(one.headers, BACK))
                computed.written.outs.append((back, None))
                continue
            own = Layer(computed.layer)
            decided, outs = self._decided(one, own, computed, queued, outbox, now_ms, given_up=given_up)
            own.merge_into(computed.layer)
            size += own.size()
            computed.heads.live |= decided.heads
            kind = self.lanes.router.kind(decided.decision)
            self.lanes.door.saw(*kind)
            computed.written.add(one, kind, outs)
            if decided.undecided is not None:
                context, there = decided.undecided
                (computed.undecided.add if there else computed.undecided.discard)(context)
            if decided.settling is not None:
                computed.settling = (*computed.settling, decided.settling)
                settling = True
            todo.extendleft(reversed(decided.resumed))
        return size

    def _decided(
        self,
        record: Inbound,
        own: Layer,
        computed: "Computed",
        queued: set[bytes],
        outbox: Outbox,
        now_ms: int,
        *,
        given_up: bool,
    ) -> tuple[Decided, Sequence[Out]]:
        """What a record comes to; what it wrote is in its own layer, nothing of one that failed."""
        router, door = self.lanes.router, self.lanes.door
        try:
            if given_up:
                return self._failed(record, door.killed(record), own, computed, outbox, now_ms)
            if record.key in queued:  # work of its context comes before it (TXN-5), and cannot go on
                decided = Decided(self.stage.hold((record.key or b"").decode()))
            else:
                decided = self.stage.compute(record, own, computed.heads, now_ms)
            return decided, self._outs(record, decided, own, outbox, now_ms)
        except Corrupt:
            raise  # the store, not the record
        except Held as held:
            own.writes.clear()
            return Decided(held.hold), router.outs(record, held.hold, now_ms)
        except Exception as error:  # noqa: BLE001 - the fault door logs it, with where it was
            fault = door.too_large(record, error) if isinstance(error, TooLarge) else door.raised(record, error)
            return self._failed(record, fault, own, computed, outbox, now_ms)

    def _failed(
        self, record: Inbound, fault: Fault, own: Layer, computed: "Computed", outbox: Outbox, now_ms: int
    ) -> tuple[Decided, Sequence[Out]]:
        own.writes.clear()
        try:
            decided = self.stage.failed(record, fault, own, computed.heads, now_ms)
            if decided is not None:
                return decided, self._outs(record, decided, own, outbox, now_ms)
        except Corrupt:
            raise
        except Exception as error:
            log.error("others cannot be told of a fault", exc_info=error, extra=where(record))
            own.writes.clear()
        return Decided(fault), self.lanes.router.outs(record, fault, now_ms)

    def _outs(self, record: Inbound, decided: Decided, own: Layer, outbox: Outbox, now_ms: int) -> Sequence[Out]:
        router = self.lanes.router
        outs = router.outs(record, decided.decision, now_ms)
        if decided.also:
            outs = [*outs, *(out for kept, what in decided.also for out in router.outs(kept, what, now_ms))]
        outbox.check(outs)
        outbox.check_entries(self.stage.changelog, own.writes.items())
        return outs

    async def _settle(self, context: Context, store: Store, producer: Any, outbox: Outbox) -> None:
        """One more transaction's worth of what waits in the state; no input is acknowledged by it (TXN-5)."""
        computed = self._settled(context, store, outbox)
        if computed is not None:
            applied = msgspec.structs.replace(self.applied, settling=computed.settling)
            await self._commit(store, producer, outbox, computed, applied)

    def _settled(self, context: Context, store: Store, outbox: Outbox) -> "Computed | None":
        """That, before its transaction; None where it cannot go on."""
        layer = Layer(Remembered(store))
        computed = Computed(layer, Written(self.stage.name, self.lanes.tracer, begins_traces=False))
        try:
            done = self.stage.settle(context, self.number, layer, computed.heads, int(time.time() * 1000))
            outbox.check(done.outs)
            outbox.check_entries(self.stage.changelog, layer.writes.items())
        except Corrupt:
            raise  # the store, not the rule
        except Held:
            return None  # it waits; what is of other contexts does not
        except Exception as error:
            log.error("what waits in a context cannot go on", exc_info=error, extra={"context": context})
            self.lanes.desk.halt(Halt("settling-failed", f"{context}: {type(error).__name__}: {error}"))
            metrics.state(self.stage.name, "halted")
            return None
        computed.heads.live[head_key(context)] = done.head
        computed.written.outs += [(out, None) for out in done.outs]
        others = tuple(each for each in self.applied.settling if each != context)
        computed.settling = (*others, context) if done.more else others
        return computed

    def _changelog(self, layer: Layer) -> list[Out]:
        topic = self.stage.changelog
        return [Out(topic, key, value, (), self.number) for key, value in self.stage.form.records(layer)]

    async def _commit(
        self, store: Store, producer: Any, outbox: Outbox, computed: "Computed", applied: AppliedOffset
    ) -> None:
        """One transaction for all of it (TXN-1); then the local store. Whatever fails here ends the process (TXN-4)."""
        layer = computed.layer
        for key, live in computed.heads.live.items():
            layer.writes[key] = seal(pack(live.stored()))
        layer.writes.pop(APPLIED_KEY, None)
        layer.writes[APPLIED_KEY] = seal(pack(applied))  # the last key written ends the batch for whoever follows
        changelog = [(out, None) for out in self._changelog(layer)]
        began = time.monotonic()
        await producer.begin_transaction()
        crash.point(crash.BEFORE_PRODUCE)
        ends = await outbox.send([*computed.written.outs, *changelog])
        crash.point(crash.BEFORE_COMMIT)
        await producer.commit_transaction()
        crash.point(crash.BEFORE_LOCAL_WRITE)
        position = ends[self.stage.changelog.name, self.number]
        store.write(layer.writes, position)
        self.lanes.shelf.stands(self.number, position)
        self.applied = applied
        metrics.TRANSACTIONS.labels(self.stage.name).inc()
        metrics.TRANSACTION_SECONDS.labels(self.stage.name).observe(time.monotonic() - began)


class Computed:
    """A batch before its transaction."""

    def __init__(self, layer: Layer, written: Written) -> None:
        self.layer = layer
        self.heads = Heads(layer)
        self.written = written
        self.records = 0
        self.settling: tuple[Context, ...] = ()
        self.undecided: set[Context] = set()
