"""Apply workers on a broker: started, fed, killed, stopped, looked at."""

import asyncio
import contextlib
import json
import re
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp
from aiokafka import AIOKafkaProducer

from agents.runtime.cluster import create
from agents.runtime.connection import client_options
from ops import broker as brokers
from ops.broker import Running
from ops.home import home
from ops.running import broker_settings, run_dir
from ops.settings import Settings, SupervisorSettings, load
from ops.status import group_lags
from ops.supervisor import Child, Spec, Supervisor, worker_spec
from schemas.flow import OPERATION, Operation
from schemas.types import Context
from topics.registry import OPERATIONS

Say = Callable[[str], None]

RESTARTED = SupervisorSettings(backoff_s=0.2, backoff_max_s=1.0)
"""A worker that is killed every few seconds is to be killed at work."""

LOOK_S = 0.1

UNTIMED = ("apply.piece_ms=600000", "apply.judge_ms=600000")
"""Where work is cut is for a clock to say: run again for the proof, it would be cut elsewhere, and be journaled so."""

READY_WITHIN_S = 90.0
DRAINED_WITHIN_S = 240.0

FENCED = re.compile(r"ProducerFenced|InvalidProducerEpoch")


class Late(Exception):  # noqa: N818 - what the rig is
    """Something did not come about in time."""


class Worker:
    """A worker that is started again whenever it ends."""

    def __init__(
        self, child: Child, flags: Sequence[str], number: int, data: Path, log: Path, stage: str = "apply"
    ) -> None:
        self.child = child
        self.stage = stage
        self.number = number
        self.data = data  # its local stores
        self.log = log
        self._flags = flags

    def kill(self) -> None:
        """kill -9."""
        self.child.tell(signal.SIGKILL)

    async def arm(self, point: str) -> int:
        """Kill it; the process that follows ends, or stops, at a named place, and the one after that does not.

        Returns the pid of the one that is armed.
        """
        await until(lambda: self.child.pid is not None, f"start of {self.child.spec.name}", READY_WITHIN_S)
        self.child.started.clear()
        self.child.spec = self._spec(f"worker.crash_point={point}")
        self.kill()
        await asyncio.wait_for(self.child.started.wait(), READY_WITHIN_S)
        self.child.spec = self._spec()
        pid = self.child.pid
        if pid is None:
            raise Late(f"{self.child.spec.name} ended as soon as it was started; see {self.log}")
        return pid

    def _spec(self, *more: str) -> Spec:
        return worker_spec(self.stage, [*self._flags, *more], self.number)

    async def stopped(self, pid: int, within_s: float = READY_WITHIN_S) -> None:
        """Until the process stands still, as by SIGSTOP.

        Raises:
            Late: it does not, or ends.
        """
        await until(lambda: state_of(pid) in "TZ", f"stop of {pid}", within_s)
        if state_of(pid) != "T":
            raise Late(f"{pid} ended before it stopped; see {self.log}")

    @property
    def url(self) -> str | None:
        """Of its HTTP port, once it says so."""
        try:
            return str(json.loads((run_dir() / f"{self.stage}-{self.child.pid}.json").read_text())["http"])
        except FileNotFoundError:
            return None


def state_of(pid: int) -> str:
    """The letter of proc(5): T stands still; Z, also of one that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "Z"


class Rig:
    """Brokers, topics and apply workers."""

    def __init__(
        self,
        topics: Sequence[str],
        *,
        workers: int = 1,
        nodes: int = 1,
        bootstrap: str = "",
        flags: Sequence[str] = (),
        through: str = "",
        beside: Mapping[str, int] | None = None,
        say: Say = lambda _: None,
    ) -> None:
        """Name what is to be started.

        beside: workers of other stages, how many of each.
        topics: overlay topics, as the setting `apply.topics` names them. bootstrap: a broker that runs; else one of so
        many nodes is started. flags: settings that win. through: where workers look for the broker instead.
        """
        self.topics = topics
        self.say = say
        self.broker: Running | None = None
        self.workers: list[Worker] = []
        self.beside: list[Worker] = []
        self._others = dict(beside or {})
        self._count = workers
        self._nodes = nodes
        self._bootstrap = bootstrap
        self._flags = flags
        self._through = through
        self._supervisor: Supervisor | None = None
        self._settings: Settings | None = None
        self._workers_flags: Sequence[str] = ()
        self._restarted = 0  # by supervisors that are no more

    @property
    def settings(self) -> Settings:
        """What it runs with."""
        assert self._settings is not None
        return self._settings

    async def __aenter__(self) -> "Rig":
        """Bring it up, all workers ready."""
        try:
            await self._start()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Take it down."""
        await self.stop_workers()
        if self.broker is not None:
            await asyncio.to_thread(self.broker.stop)

    async def _start(self) -> None:
        bootstrap = self._bootstrap
        if not bootstrap:
            # Guarded processes end with the thread that made them: this is the main one.
            self.broker = brokers.start(self._nodes, guarded=True)
            bootstrap = self.broker.bootstrap
        flags = (
            *broker_settings(bootstrap, self._nodes),
            f"apply.topics={','.join(self.topics)}",
            *UNTIMED,
            *self._flags,
        )
        self._settings = load(network="dev", flags=flags, environment={}).settings
        await create(self._settings.kafka, self._settings.topics)
        self._workers_flags = (*flags, *([f"kafka.bootstrap={self._through}"] if self._through else []))
        self.start_workers()
        await self.ready()

    def start_workers(self) -> None:
        """Start the workers, which have none of their kind before them; from the main thread."""
        flags, specs, own = self._workers_flags, [], []
        names = [(stage, number) for stage, count in self._stages() for number in range(count)]
        for stage, number in names:
            data = home() / f"data-{number}"
            # A lasting name: whoever is started again has its partitions back without a session to wait for.
            own.append([*flags, f"worker.data_dir={data}", f"worker.instance={stage}-{number}"])
            specs.append(worker_spec(stage, own[-1], number))
        logs = home() / "logs"
        self._supervisor = Supervisor(specs, RESTARTED, logs)
        everybody = [
            Worker(child, each, number, home() / f"data-{number}", logs / f"{child.spec.name}.log", stage)
            for child, each, (stage, number) in zip(self._supervisor.children, own, names, strict=True)
        ]
        self.workers, self.beside = everybody[: self._count], everybody[self._count :]
        self._supervisor.start()

    def _stages(self) -> Iterator[tuple[str, int]]:
        yield "apply", self._count
        yield from self._others.items()

    async def stop_workers(self) -> None:
        """End the workers; the brokers go on."""
        if self._supervisor is not None:
            await self._supervisor.stop()
            self._restarted += sum(child.restarts for child in self._supervisor.children)
            self._supervisor = None

    @property
    def restarts(self) -> int:
        """How often workers were started again."""
        running = self._supervisor.children if self._supervisor is not None else ()
        return self._restarted + sum(child.restarts for child in running)

    # --- looking

    async def ready(self, workers: Iterable[Worker] | None = None, within_s: float = READY_WITHIN_S) -> None:
        """Until workers are ready: these, or all.

        Raises:
            Late: one is not.
        """
        waiting = list((*self.workers, *self.beside) if workers is None else workers)
        deadline = time.monotonic() + within_s
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session:
            while waiting := [worker for worker in waiting if not (await look(session, worker)).get("ready")]:
                if time.monotonic() > deadline:
                    raise Late(f"{waiting[0].child.spec.name} is not ready within {within_s:.0f} s; {waiting[0].log}")
                await asyncio.sleep(LOOK_S)

    async def partitions(self) -> list[int]:
        """How many partitions each worker says it has."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session:
            return [int((await look(session, worker)).get("partitions", 0)) for worker in self.workers]

    async def drained(self, within_s: float = DRAINED_WITHIN_S) -> None:
        """Until every operation is acknowledged, by apply.

        Raises:
            Late: some are not.
        """
        deadline = time.monotonic() + within_s
        while (lag := (await group_lags(self.settings.kafka, self.settings.topics))["apply"]) > 0:
            if time.monotonic() > deadline:
                raise Late(f"{lag} operations wait after {within_s:.0f} s; see {home() / 'logs'}")
            await asyncio.sleep(0.5)

    # --- feeding

    @contextlib.asynccontextmanager
    async def producer(self) -> AsyncIterator[AIOKafkaProducer]:
        """One for operations, which waits out a broker that is away."""
        producer = AIOKafkaProducer(
            **client_options(self.settings.kafka),
            enable_idempotence=True,
            linger_ms=5,
            max_batch_size=1 << 20,
            max_request_size=64 << 20,
            request_timeout_ms=120_000,
        )
        await producer.start()
        try:
            yield producer
        finally:
            await producer.stop()

    async def feed(self, operations: Iterable[tuple[Context, Operation]], rate: float = 0.0) -> int:
        """Send operations, open loop at so many a second, or as quickly as it goes; how many there were."""
        topic = OPERATIONS.named(self.settings.topics.prefix)
        async with self.producer() as producer:
            began = time.monotonic()
            sent: list[Any] = []
            for context, operation in operations:
                if rate and (wait := len(sent) / rate - (time.monotonic() - began)) > 0.005:
                    await asyncio.sleep(wait)
                value = OPERATION.encode(operation)
                sent.append(await producer.send(topic, value, key=context.encode(), headers=[OPERATION.header]))
            await asyncio.gather(*sent)
            return len(sent)

    async def feed_while(
        self, breaking: Coroutine[Any, Any, None], load: Iterator[tuple[Context, Operation]], count: int, rate: float
    ) -> int:
        """Send so many operations, and more as long as something is being broken: faults count under load alone."""
        broken = asyncio.ensure_future(breaking)

        def fed() -> Iterator[tuple[Context, Operation]]:
            for number, each in enumerate(load):
                if number >= count and broken.done():
                    return
                yield each

        feeding = asyncio.ensure_future(self.feed(fed(), rate))
        try:
            await broken
            return await feeding
        finally:
            broken.cancel()
            feeding.cancel()


async def look(session: aiohttp.ClientSession, worker: Worker) -> dict[str, Any]:
    """What a worker says of itself; nothing where it does not answer."""
    url = worker.url
    if url is None:
        return {}
    try:
        async with session.get(f"{url}/readyz") as response:
            return dict(await response.json())
    except (aiohttp.ClientError, TimeoutError):
        return {}


async def until(true: Callable[[], bool], what: str, within_s: float) -> None:
    """Look again and again.

    Raises:
        Late: it does not come true in time.
    """

    async def look() -> bool:
        return true()

    await until_so(look, what, within_s)


async def until_so(true: Callable[[], Awaitable[bool]], what: str, within_s: float) -> None:
    """The same, of what takes asking somebody."""
    deadline = time.monotonic() + within_s
    while not await true():
        if time.monotonic() > deadline:
            raise Late(f"no {what} within {within_s:.0f} s")
        await asyncio.sleep(LOOK_S)
