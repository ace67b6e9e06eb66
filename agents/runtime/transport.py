"""Faust's Kafka transport, for bulk.

What it changes, and why (figures: docs/decisions/runtime.md):
- whole fetched lists go to the stage's board; stock Faust makes two asyncio tasks a record;
- read-committed, always; the committed position is the fetch position once all before it is acknowledged (ACK-3);
- commits happen before partitions are given back; fetches of an earlier generation are dropped and sought back;
- a position outside the log stops everything instead of jumping (ACK-4);
- a header name that is no text does not end the process;
- our own assignor (ASSIGN-1) and an idempotent producer.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, NamedTuple

import aiokafka
from aiokafka.errors import CommitFailedError, IllegalStateError
from aiokafka.structs import OffsetAndMetadata
from faust.transport.drivers import aiokafka as driver

from agents.runtime import lenient, produce
from agents.runtime.board import Position, TopicPartition
from agents.runtime.connection import client_options
from agents.runtime.desk import Desk
from agents.runtime.settings import KafkaSettings, WorkerSettings

lenient.install()
produce.install()

FETCH_TIMEOUT_S = 0.5
FETCH_BYTES = 16 << 20
"""A fetch response, at most; a larger single record still comes alone."""

PARTITION_BYTES = 4 << 20

FETCH_WAIT_MS = 500
"""How long the broker may hold an empty fetch: an idle stage asks twice a second, and hears of a record at once."""

UNTAKEN_S = 1.0
"""How long fetched records may lie before the partitions beside them are fetched without them.

aiokafka's own 0.1 s is less than a batch may compute. The fetch then asks for idle partitions alone, the broker holds
it, and the busy partition waits for its end: half a second after each such batch, which makes the next one as large.
"""


class Start(NamedTuple):
    """What the cluster knows of a partition that was assigned."""

    committed: int | None
    metadata: str
    first: int  # offset of the log's first record
    end: int


class Thread(driver.AIOKafkaConsumerThread):
    """The consumer in its own thread, so that heartbeats go on while a stage computes."""

    def _create_worker_consumer(self, transport: Any) -> aiokafka.AIOKafkaConsumer:
        options: Options = self.app.beefline
        worker = options.worker
        return aiokafka.AIOKafkaConsumer(
            **client_options(options.kafka),
            client_id=self.app.conf.broker_client_id,
            group_id=self.app.conf.id,
            group_instance_id=worker.instance or None,
            partition_assignment_strategy=[options.assignor],
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="none",  # ACK-4: out of range is an error, never a jump
            max_poll_records=None,
            max_poll_interval_ms=30 * 86_400_000,  # the watchdog is ours: aiokafka leaves the group and never rejoins
            max_partition_fetch_bytes=PARTITION_BYTES,
            fetch_max_bytes=FETCH_BYTES,
            fetch_min_bytes=1,
            fetch_max_wait_ms=FETCH_WAIT_MS,
            request_timeout_ms=60_000,
            session_timeout_ms=int(worker.session_timeout_s * 1000),
            rebalance_timeout_ms=60_000,
            heartbeat_interval_ms=int(worker.heartbeat_interval_s * 1000),
            metadata_max_age_ms=60_000,
        )

    async def on_start(self) -> None:
        """The consumer starts."""
        await super().on_start()
        patient(self._ensure_consumer())

    async def _fetch_records(
        self, consumer: Any, active_partitions: Any, timeout: float | None = None, max_records: int | None = None
    ) -> dict[Any, tuple[list[Any], int]]:
        """Records of each partition with the position their fetch reached, read in one step of this thread.

        Partitions whose position moved over markers alone come with an empty list.
        """
        before = _positions(consumer, active_partitions)
        found = await super()._fetch_records(consumer, active_partitions, timeout=timeout, max_records=max_records)
        after = _positions(consumer, active_partitions)
        return {
            tp: (found.get(tp, []), position)
            for tp, position in after.items()
            if tp in found or position != before.get(tp, position)
        }

    async def commit(self, offsets: Mapping[Any, Position]) -> bool:
        """Commit positions with their marks."""
        done: bool = await self.call_thread(self._commit, offsets)
        return done

    async def _commit(self, offsets: Mapping[Any, Position]) -> bool:
        consumer = self._ensure_consumer()
        assigned = consumer.assignment()
        wanted = {
            aiokafka.TopicPartition(*tp): OffsetAndMetadata(position.offset, position.metadata)
            for tp, position in offsets.items()
            if aiokafka.TopicPartition(*tp) in assigned
        }
        if not wanted:
            return False
        try:
            await consumer.commit(wanted)
        except (CommitFailedError, IllegalStateError) as error:
            # The group has moved on without us: what we hold is read again by its next owner.
            self.log.warning("commit refused: %s", error)
            return False
        return True

    async def rejoin(self) -> None:
        """Join again, with what there is to say now."""
        await self.call_thread(self._rejoin)

    async def _rejoin(self) -> None:
        self._ensure_consumer()._coordinator.request_rejoin()

    async def starts(self) -> dict[TopicPartition, Start]:
        """Committed positions with their metadata, and the bounds of the logs, for what is assigned."""
        found: dict[TopicPartition, Start] = await self.call_thread(self._starts)
        return found

    async def _starts(self) -> dict[TopicPartition, Start]:
        consumer = self._ensure_consumer()
        assigned = list(consumer.assignment())
        if not assigned:
            return {}
        committed = await consumer._coordinator.fetch_committed_offsets(assigned)
        first = await consumer.beginning_offsets(assigned)
        end = await consumer.end_offsets(assigned)
        starts = {}
        for tp in assigned:
            known = committed.get(tp)
            offset = known.offset if known is not None and known.offset >= 0 else None
            metadata = known.metadata if known is not None and known.offset >= 0 else ""
            starts[tp.topic, tp.partition] = Start(offset, metadata, first[tp], end[tp])
        return starts

    async def seek_all(self, positions: Mapping[TopicPartition, int]) -> None:
        """Go on from these offsets."""
        await self.call_thread(self._seek_all, positions)

    async def _seek_all(self, positions: Mapping[TopicPartition, int]) -> None:
        consumer = self._ensure_consumer()
        assigned = consumer.assignment()
        for (topic, partition), offset in positions.items():
            tp = aiokafka.TopicPartition(topic, partition)
            if tp in assigned:
                consumer.seek(tp, offset)


def patient(consumer: Any) -> None:
    """Let a started consumer wait `UNTAKEN_S` for records to be taken before it fetches beside them."""
    consumer._fetcher._prefetch_backoff = UNTAKEN_S


def _positions(consumer: Any, active: Any) -> dict[Any, int]:
    subscription = consumer._subscription.subscription
    assignment = subscription.assignment if subscription is not None else None
    if assignment is None or not assignment.active:
        return {}
    states = ((tp, assignment.state_value(tp)) for tp in active or ())
    return {tp: state.position for tp, state in states if state is not None and state.has_valid_position}


class Consumer(driver.Consumer):
    """Faust's consumer, feeding a desk."""

    _thread: Thread

    def _new_consumer_thread(self) -> Thread:
        return Thread(self, loop=self.loop, beacon=self.beacon)

    @property
    def desk(self) -> Desk:
        """Where the stage takes its records."""
        desk: Desk = self.app.beefline.desk
        return desk

    async def perform_seek(self) -> None:
        """Called when partitions were assigned, before they flow: find where each goes on."""
        starts = await self._thread.starts()
        positions = await self.desk.begin(starts, self.app.consumer_generation_id)
        await self._thread.seek_all(positions)

    async def rejoin(self) -> None:
        """Have the group deal anew: this member has something else to say of itself."""
        await self._thread.rejoin()

    async def seek_lane(self, tp: TopicPartition, offset: int) -> None:
        """One partition goes on from here (exactly-once stages know better than their group)."""
        await self._thread.seek_all({tp: offset})

    async def _drain_messages(self, fetcher: Any) -> None:
        """Faust's fetcher task: the only place that fetches."""
        desk = self.desk
        worker = self.app.beefline.worker
        pace_s, few = worker.pace_ms / 1000, worker.batch_records
        try:
            while not (self.should_stop or fetcher.should_stop):
                if not self.flow_active:
                    await self.wait(self.can_resume_flow)
                    continue
                generation = self.app.consumer_generation_id
                wanted = desk.wanted(self._get_active_partitions())
                if not wanted:
                    await desk.wait_for_room()
                    continue
                fetched = await self._thread.getmany(wanted, FETCH_TIMEOUT_S)
                if not self.flow_active:
                    continue  # an assignment is under way, and ends in perform_seek
                if generation != self.app.consumer_generation_id:
                    # Fetched for an earlier generation, yet the positions moved: go back to where this one began.
                    await self.perform_seek()
                    continue
                count = desk.deliver(fetched or {})
                if 0 < count < few:
                    # The next fetch is on its way already; what it brings waits, and what comes behind it is one group.
                    await asyncio.sleep(pace_s)
        except self.consumer_stopped_errors:
            if not self.transport.app.should_stop:
                raise
        except asyncio.CancelledError:
            if not self.transport.app.should_stop:
                raise

    async def commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:
        """Commit what is acknowledged, if it moved. Faust calls this on a timer and when it stops."""
        return await self.desk.commit()

    async def commit_positions(self, positions: Mapping[TopicPartition, Position]) -> bool:
        """Send positions to the group."""
        done: bool = await self._thread.commit(positions)
        return done

    async def wait_empty(self) -> None:
        """Called before partitions are given back and when the app stops: finish what is decided, then commit."""
        await self.desk.settle()

    async def on_partitions_revoked(self, revoked: Any) -> None:
        """The group takes everything back, and deals it anew."""
        await self.desk.settle()
        self.desk.revoked()
        await super().on_partitions_revoked(revoked)

    async def verify_all_partitions_active(self) -> None:
        """Faust's own watchdog only logs, and takes waiting on purpose for a fault; ours is `watchdog.py`."""


class Producer(driver.Producer):
    """Faust's producer: idempotent, acknowledged by all in-sync replicas."""

    def _settings_default(self) -> Mapping[str, Any]:
        options: Options = self.app.beefline
        return {**producer_options(options.kafka, options.max_record), "client_id": self.client_id}

    def _settings_auth(self) -> Mapping[str, Any]:
        return {}  # among the defaults

    def _settings_extra(self) -> Mapping[str, Any]:
        return {"enable_idempotence": True}


def producer_options(kafka: KafkaSettings, max_record: int) -> dict[str, Any]:
    """Keyword arguments of every producer here. Batches are made by us and closed, so nothing lingers."""
    return {
        **client_options(kafka),
        "acks": "all",
        "linger_ms": 0,
        "max_batch_size": 1 << 20,
        "max_request_size": max_record,
        "request_timeout_ms": 60_000,
        "metadata_max_age_ms": 60_000,
    }


class Transport(driver.Transport):
    """Faust's transport with the parts above."""

    Consumer = Consumer
    Producer = Producer


class Options:
    """What this transport needs to know, hung on the Faust app as `app.beefline`."""

    def __init__(
        self, kafka: KafkaSettings, worker: WorkerSettings, desk: Desk, max_record: int, assignor: Any
    ) -> None:
        """assignor: of the group's partitions."""
        self.assignor = assignor
        self.kafka = kafka
        self.worker = worker
        self.desk = desk
        self.max_record = max_record
