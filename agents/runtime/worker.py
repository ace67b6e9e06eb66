"""One stage in one process: a Faust app, its consumer group, its HTTP port (rule: one app a process)."""

import asyncio
import gc
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

import faust
from aiohttp import web
from mode.supervisors import CrashingSupervisor

from agents import metrics
from agents.runtime import crash
from agents.runtime.aside import share_fairly
from agents.runtime.asking import Asking
from agents.runtime.assignor import CopiesAssignor, SameNumberAssignor
from agents.runtime.board import Board
from agents.runtime.cluster import Cluster, compare
from agents.runtime.connection import faust_broker, faust_credentials
from agents.runtime.desk import Desk
from agents.runtime.events import Events
from agents.runtime.health import Port, token
from agents.runtime.members import Speaker, advertised, worker_name
from agents.runtime.outbox import Outbox
from agents.runtime.partition import Lanes
from agents.runtime.reads import Reads
from agents.runtime.scrubber import Scrubber
from agents.runtime.settings import KafkaSettings, TopicSettings, WorkerSettings
from agents.runtime.shelf import Shelf
from agents.runtime.transport import Options, Transport
from agents.runtime.watchdog import Watchdog
from pipeline.state import Corrupt
from topics.registry import Topic, group, largest_record

log = logging.getLogger(__name__)

COLLECTED = 50_000, 20, 20
"""When Python's collector looks for cycles: by far most objects here go with their batch. Its own 700, 10, 10 looked
through whatever waited in the queues again and again, for a twentieth of a worker's time."""


class Runs(Protocol):
    """What drives a stage: the at-least-once runner, or the exactly-once one."""

    paused: Any

    @property
    def waits(self) -> bool:
        """Whether nothing is to be done before a known time."""
        ...

    async def run(self, outbox: Outbox) -> None:
        """Until cancelled; an error it raises ends the process."""
        ...

    def resume(self) -> None:
        """Let a halted stage go on."""
        ...


def _nothing_spoils(partition: int, error: Corrupt) -> None:
    raise AssertionError("no store is held here") from error


class NotAsDeclared(Exception):  # noqa: N818 - the cluster's state
    """A topic is missing or narrower than declared."""


def check_declared(cluster: Cluster, topics: TopicSettings, uses: Iterable[Topic]) -> None:
    """Raises NotAsDeclared where one of these topics is missing or narrower than declared."""
    found = compare(cluster, topics, {topic.name: topic for topic in uses}.values())
    if wrong := [difference for difference in found if difference.fatal]:
        raise NotAsDeclared("\n".join(f"topic {difference.topic} {difference.what}" for difference in wrong))


class Worker:
    """A stage's process."""

    def __init__(
        self,
        stage: str,
        inputs: tuple[Topic, ...],
        uses: tuple[Topic, ...],
        cluster: Cluster,
        kafka: KafkaSettings,
        topics: TopicSettings,
        settings: WorkerSettings,
        *,
        restores: bool,
        looks_into: tuple[Topic, ...] = (),
        make: Callable[["Worker"], tuple[Runs, Callable[[], Any], Callable[[], Any]]],
        run_dir: Path,
        codes: list[tuple[str, str]],
    ) -> None:
        """What a stage's process runs with.

        looks_into: topics it reads single records of; make: builds what drives the stage, with its start and stop.

        Raises:
            NotAsDeclared: a topic the stage uses is missing or narrower than declared.
        """
        check_declared(cluster, topics, (*inputs, *uses, *looks_into))
        self.stage = stage
        self.cluster = cluster
        self.kafka = kafka
        self.topics = topics
        self.settings = settings
        self.group = group(topics.prefix, stage)
        board = Board(max_in_flight=settings.max_in_flight, max_bytes=settings.max_in_flight_bytes)
        # What is decided is finished within the time a stop may take, with room to leave the group.
        self.desk = Desk(board, restores=restores, settle_s=settings.stop_within_s * 0.6)
        self.runs, self._start, self._stop = make(self)
        self.watchdog = Watchdog(stage, self.desk, self._waits, self._lag, settings.stuck_after_s)
        self.reads = Reads(
            kafka,
            topics,
            cluster.partitions,
            token(settings),
            shelf.readable if (shelf := self._shared()) else {},
            self.runs.spoil if isinstance(self.runs, Lanes) else _nothing_spoils,
            shelf.differing if shelf else {},
        )
        self.asking = Asking(kafka, topics)
        self.port = Port(self, settings, self._routes)
        self._run_file = run_dir / f"{stage}-{os.getpid()}.json"
        self._inputs = inputs
        self._started = time.time()
        metrics.register(stage, (topic.name for topic in uses), codes)
        self.app = self._faust_app(inputs)

    def _faust_app(self, inputs: tuple[Topic, ...]) -> faust.App:
        settings = self.settings
        data = Path(settings.data_dir, self.stage, "faust")
        data.mkdir(parents=True, exist_ok=True)  # Faust makes the folder, but not its parents
        app = faust.App(
            self.group,
            broker=faust_broker(self.kafka),
            broker_credentials=faust_credentials(self.kafka),
            datadir=str(data),
            key_serializer="raw",
            value_serializer="raw",
            agent_supervisor=CrashingSupervisor,  # any other acknowledges what failed and goes on
            topic_allow_declare=False,
            topic_disable_leader=True,
            reply_create_topic=False,
            web_enabled=False,
            broker_session_timeout=settings.session_timeout_s,
            broker_heartbeat_interval=settings.heartbeat_interval_s,
            broker_rebalance_timeout=60,
            broker_request_timeout=60,
            broker_commit_interval=settings.commit_interval_s,
            stream_wait_empty=True,
            stream_publish_on_commit=False,
            table_standby_replicas=0,
            processing_guarantee="at_least_once",
        )
        options = Options(
            self.kafka, settings, self.desk, largest_record(self.topics.max_payload_bytes), self._assignor()
        )
        app.beefline = options
        app.transport = Transport(app.conf.broker_consumer, app)
        app.producer_transport = app.transport
        source = app.topic(*(topic.named(self.topics.prefix) for topic in inputs), key_type=bytes, value_type=bytes)

        @app.agent(source, name=f"{self.group}-agent")
        async def agent(stream: Any) -> None:
            await stream.maybe_start()
            await self._serve()

        return app

    async def _serve(self) -> None:
        """What the Faust agent does, until the app stops or something fails."""
        self.desk.group = self.app.consumer
        await self.port.start()
        self._say_where()
        producer = self.app.producer._producer
        outbox = Outbox(producer, self.topics.prefix, self.cluster.partitions, self.topics.max_payload_bytes)
        events = Events(self.stage, outbox)
        self.desk.teller = events.tell
        await self._start()
        gc.collect()
        gc.freeze()  # what stands by now stays: looking through all of it again holds up whatever is computed
        gc.set_threshold(*COLLECTED)
        works = [self.runs.run(outbox), self.watchdog.run(), events.run()]
        speaker: Speaker | None = None
        if isinstance(self.runs, Lanes):
            lanes = self.runs
            if self._shared():
                speaker = self._speaker(outbox)
                scrubber = Scrubber(self.stage, lanes.shelf.readable, lanes.spoil, self.settings.scrub_share)
                works += [speaker.run(), scrubber.run()]
            works += lanes.stage.beside(lanes.shelf.readable, lanes.spoil, outbox)
            works += [lanes.copies.run(), lanes.standby.run(lanes.copies, self.app.consumer.rejoin)]
        tasks = [asyncio.ensure_future(work) for work in works]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._stop()
            await self.port.stop()
            await self.reads.stop()
            await self.asking.stop()
            if isinstance(self.runs, Lanes):
                self.runs.shelf.close()
            if speaker is not None:
                await speaker.leave()
            self._run_file.unlink(missing_ok=True)

    def _routes(self, router: web.UrlDispatcher) -> None:
        self.reads.add_to(router)
        self.asking.add_to(router)
        if isinstance(self.runs, Lanes):
            self.runs.stage.add_to(router)
        elif (routes := getattr(self.runs, "routes", None)) is not None:
            routes(router)

    def _shared(self) -> Shelf | None:
        """The stores, where others hold copies of them and reads are answered from them."""
        return self.runs.shelf if isinstance(self.runs, Lanes) and self.runs.stage.form.shared else None

    def _assignor(self) -> Any:
        """One alone: aiokafka joins once for each it is given, and each such join begins the group's round anew."""
        if not isinstance(self.runs, Lanes):
            return SameNumberAssignor
        standby = self.runs.standby
        settings = self.settings
        return CopiesAssignor(standby.has, standby.deal, standby.replication, settings.fresh_records)

    def _speaker(self, outbox: Outbox) -> Speaker:
        """Who holds state says so."""
        url = advertised(self.settings, self.port.url, self.kafka.bootstrap)
        return Speaker(worker_name(self.settings, self.stage), url, self.reads.held, outbox)

    def run(self) -> None:
        """Until SIGTERM, SIGINT or a failure; then the process exits."""
        crash.arm(self.settings.crash_point) if self.settings.crash_point else None
        if isinstance(self.runs, Lanes):
            self.runs.shelf.look()
        worker = faust.Worker(
            self.app, loglevel=None, override_logging=False, redirect_stdouts=False, quiet=True, daemon=True
        )
        worker.spinner = None  # it writes a terminal's control sequence into the log
        self._bound_the_stop()
        share_fairly()
        worker.execute_from_commandline()

    def _bound_the_stop(self) -> None:
        """A stop that hangs is ended: what is unacknowledged is read again by whoever comes next."""

        def ended(*_: Any) -> None:
            log.error("not stopped within %.0f s: ending", self.settings.stop_within_s)
            os._exit(1)

        def watch() -> None:
            while not self.app.should_stop:
                time.sleep(0.2)
            time.sleep(self.settings.stop_within_s)
            ended()

        threading.Thread(target=watch, name="stop-within", daemon=True).start()

    # --- what the port and the watchdog ask

    def _waits(self) -> bool:
        return bool(self.runs.paused or self.runs.waits or self.desk.halted or self.desk.held or self.desk.settling)

    def _lag(self) -> int | None:
        consumer = self.app.consumer._thread._consumer
        if consumer is None:
            return None
        behind = 0
        for (topic, partition), lane in self.desk.board.lanes.items():
            end = consumer.last_stable_offset(faust.types.TP(topic, partition))
            behind += max(0, end - lane.ledger.position) if end is not None else 0
        return behind

    def alive(self) -> bool:
        """Whether the process should go on; the watchdog ends it before this turns false for long."""
        return self.watchdog.idle_s < 2 * self.settings.stuck_after_s

    def ready(self) -> tuple[bool, dict[str, object]]:
        """Stuck or halted is not ready; paused is (waiting on purpose)."""
        halted, paused = self.desk.halted, self.runs.paused
        state = "halted" if halted else "paused" if paused else "restoring" if self.desk.held else "running"
        suspended = getattr(getattr(self.runs, "stage", None), "suspended", ())
        waits = f"suspended: {', '.join(suspended)}" if suspended else None
        about: dict[str, object] = {
            "stage": self.stage,
            "state": state,
            "reason": halted.message if halted else str(paused) if paused else waits,
            "partitions": len(self.desk.board.lanes),
            "lag": self.watchdog.behind,
        }
        return (
            self.desk.joined
            and not halted
            and not self.desk.held
            and self.watchdog.idle_s < self.settings.stuck_after_s,
            about,
        )

    def resume(self) -> None:
        """See `beefline resume`."""
        self.runs.resume()

    def _say_where(self) -> None:
        say_where(self._run_file, self.stage, self.group, self.port.url, self.kafka, self.topics, self._started)


def say_where(
    file: Path, stage: str, group: str, url: str, kafka: KafkaSettings, topics: TopicSettings, started: float
) -> None:
    """For `beefline status`: which process runs the stage, and where it answers."""
    file.parent.mkdir(parents=True, exist_ok=True)
    about: dict[str, object] = {
        "stage": stage,
        "pid": os.getpid(),
        "group": group,
        "http": url,
        "bootstrap": kafka.bootstrap,
        "prefix": topics.prefix,
        "started": started,
    }
    partial = file.with_suffix(".part")
    partial.write_text(json.dumps(about), encoding="utf-8")
    partial.replace(file)
