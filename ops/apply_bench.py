"""`beefline bench apply`: operations a second by batch size and by what the state holds, and restarts."""

import asyncio
import gc
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.structs import TopicPartition
from msgspec import Struct

from agents.runtime.cluster import create
from agents.runtime.connection import client_options
from agents.runtime.store import Store
from ops import broker as brokers
from ops import growth_bench
from ops.bench import Say, cpu_s, one_core
from ops.growth_bench import Growth, Meter
from ops.home import home
from ops.instruments.chain import Chain
from ops.instruments.submissions import CONTEXTS, HOSTED, WIDE, Maker, Work, apply_all, managers
from ops.running import broker_settings, run_dir
from ops.settings import Settings
from ops.settings import load as load_settings
from schemas.flow import OPERATION
from topics.registry import OPERATIONS, STATE

LIVE = (1_000, 100_000, 1_000_000)
BATCHES = (10, 100, 1_000)
"""Live outputs in all contexts together, and records in a transaction."""

OPERATIONS_EACH = 20_000

TARGET = 5_000
"""Operations a second, of a worker on one core."""

SETTLE_S = 2.0
"""For RocksDB to put in order what filled it."""

WITHIN_S = 240.0


class Applied(Struct, frozen=True):
    """One run."""

    live: int
    batch: int
    operations_s: float
    cpu_us: float  # of the process, an operation


class Ran(Struct, frozen=True):
    """What a worker did, on one core, its transactions among it."""

    runs: tuple[Applied, ...]
    growth: Growth
    with_store_s: float  # from the process's start until it is ready, with LIVE[-1] live outputs
    without_store_s: float
    changelog: int  # records that are read then: what the broker has not compacted


# --- in process


def alone(chain: Chain, say: Say) -> list[Applied]:
    """The rule and the disk, without Kafka: what one core does with the state as large as that."""
    hosted, maker, found, live = managers(), Maker(chain), [], 0
    folder = Path(tempfile.mkdtemp(prefix="apply-bench-", dir=home()))
    store = Store(folder / "store")

    def write(writes: Mapping[bytes, bytes | None]) -> None:
        store.write(writes, 0)

    try:
        for wanted in LIVE:
            apply_all(store, write, maker.wide(wanted - live), hosted, 10)
            live = wanted
            for batch in BATCHES:
                todo = list(maker.ordinary(OPERATIONS_EACH))
                gc.freeze()  # as a worker does: what was made before need not be looked through again and again
                time.sleep(SETTLE_S)
                began, used = time.perf_counter(), time.process_time()
                apply_all(store, write, todo, hosted, batch)
                took, used = time.perf_counter() - began, time.process_time() - used
                found.append(Applied(live, batch, len(todo) / took, used / len(todo) * 1e6))
                say(f"alone    {live:9,} live, batch {batch:5,}: {found[-1].operations_s:8,.0f} operations/s")
        return found
    finally:
        store.close()
        shutil.rmtree(folder)


# --- a worker, on a broker


class Running:
    """A worker, of apply where no other stage is named, in a process of its own; on one core unless told otherwise."""

    def __init__(
        self,
        flags: Sequence[str],
        data: Path,
        *,
        one_core: bool = True,
        environment: Mapping[str, str] | None = None,
        stage: str = "apply",
    ) -> None:
        argv = [
            sys.executable,
            "-m",
            "ops.cli.main",
            "worker",
            stage,
            "--network",
            "dev",
            "--guarded",
            str(os.getpid()),
        ]
        for flag in (*flags, f"worker.data_dir={data}"):
            argv += ["--set", flag]
        self.stage = stage
        self.began = time.monotonic()
        quiet = subprocess.DEVNULL
        self.process = subprocess.Popen(argv, stdin=quiet, stdout=quiet, stderr=quiet, env=environment)
        if one_core:
            os.sched_setaffinity(self.process.pid, {max(os.sched_getaffinity(0))})
        self._url = ""

    async def ready(self) -> float:
        """Seconds from its start until it is."""
        while time.monotonic() - self.began < WITHIN_S:
            assert self.process.poll() is None, "the worker ended"
            if self._asked("/readyz"):
                return time.monotonic() - self.began
            await asyncio.sleep(0.02)
        raise TimeoutError(f"the worker is not ready within {WITHIN_S:.0f} s")

    def finished(self) -> int:
        """Records it has dealt with."""
        for line in self._asked("/metrics").splitlines():
            if line.startswith(f'beefline_records_in_total{{stage="{self.stage}"}}'):
                return int(float(line.rpartition(" ")[2]))
        return 0

    def _asked(self, path: str) -> str:
        try:
            if not self._url:
                self._url = json.loads((run_dir() / f"{self.stage}-{self.process.pid}.json").read_text())["http"]
            with urllib.request.urlopen(self._url + path, timeout=5) as reply:  # noqa: S310 - our own worker's port
                return str(reply.read().decode())
        except (OSError, ValueError):
            return ""

    def stop(self) -> None:
        """SIGTERM, and wait."""
        self.process.terminate()
        self.process.wait(30)


async def running(chain: Chain, say: Say) -> Ran:
    """Operations that wait on the broker are worked off, by batch size, the state growing; then restarts."""
    broker = brokers.start(1, guarded=True, fresh=True)
    data = home() / "bench-data"
    shutil.rmtree(data, ignore_errors=True)
    try:
        flags = [*broker_settings(broker.bootstrap, 1), f"apply.topics={','.join(HOSTED)}"]
        settings = load_settings(network="dev", flags=flags, environment={}).settings
        await create(settings.kafka, settings.topics)
        maker, found, live = Maker(chain), [], 0
        meter = Meter(settings)
        for wanted in LIVE:
            await send(settings, maker.wide(wanted - live))
            await _work_off(flags, data, (wanted - live) // WIDE)
            live = wanted
            for batch in BATCHES:
                if (live, batch) == (LIVE[0], BATCHES[-1]):
                    await meter.start()
                await send(settings, maker.ordinary(OPERATIONS_EACH))
                pace = ("worker.transaction_pace_ms=0", f"worker.batch_records={batch}")
                rate, cpu_us = await _work_off([*flags, *pace], data, OPERATIONS_EACH)
                found.append(Applied(live, batch, rate, cpu_us))
                say(f"running  {live:9,} live, batch {batch:5,}: {rate:8,.0f} operations/s, {cpu_us:5.0f} us each")
                if (live, batch) == (LIVE[0], BATCHES[-1]):
                    growth = await meter.read(OPERATIONS_EACH)
        with_store = statistics.median([await _ready(flags, data) for _ in range(3)])
        say(f"ready {with_store:.1f} s after its start, with its store")
        shutil.rmtree(data)
        without = await _ready(flags, data)
        say(f"ready {without:.1f} s after its start, without its store")
        return Ran(tuple(found), growth, with_store, without, await _changelog(settings))
    finally:
        broker.stop()
        shutil.rmtree(data, ignore_errors=True)


async def _ready(flags: Sequence[str], data: Path) -> float:
    worker = Running(flags, data)
    try:
        return await worker.ready()
    finally:
        worker.stop()


async def _changelog(settings: Settings) -> int:
    consumer = AIOKafkaConsumer(**client_options(settings.kafka))
    await consumer.start()
    try:
        name = STATE.named(settings.topics.prefix)
        partitions = [TopicPartition(name, number) for number in range(STATE.partitions)]
        ends, begins = await consumer.end_offsets(partitions), await consumer.beginning_offsets(partitions)
        return int(sum(ends.values()) - sum(begins.values()))
    finally:
        await consumer.stop()


async def send(settings: Settings, operations: Iterable[Work]) -> None:
    """Write operations, and wait for the broker."""
    producer = AIOKafkaProducer(**client_options(settings.kafka), linger_ms=20, max_batch_size=1 << 20)
    await producer.start()
    topic = OPERATIONS.named(settings.topics.prefix)
    sent = [
        await producer.send(topic, OPERATION.encode(operation), key=context.encode(), headers=[OPERATION.header])
        for context, operation in operations
    ]
    await asyncio.gather(*sent)
    await producer.stop()


async def _work_off(flags: Sequence[str], data: Path, count: int) -> tuple[float, float]:
    """Operations a second and microseconds of processor each, from a tenth of them on: before, the process begins."""
    if not count:
        return 0.0, 0.0
    worker = Running(flags, data)
    try:
        deadline = time.monotonic() + WITHIN_S
        while (first := worker.finished()) < count // 10:
            assert time.monotonic() < deadline, f"{first} of {count} operations within {WITHIN_S:.0f} s"
            await asyncio.sleep(0.02)
        began, used = time.monotonic(), cpu_s(worker.process.pid)
        while (last := worker.finished()) < count:
            assert time.monotonic() < deadline, f"{last} of {count} operations within {WITHIN_S:.0f} s"
            await asyncio.sleep(0.05)
        took, used = time.monotonic() - began, cpu_s(worker.process.pid) - used
        return (last - first) / took, used / (last - first) * 1e6
    finally:
        worker.stop()


def page(by_itself: Sequence[Applied], ran: Ran, store_bytes: float) -> str:
    """The results. store_bytes: of the local store, an operation."""
    rows = "".join(
        f"| {one.live:,} | {one.batch:,} | {other.operations_s:,.0f} | {other.cpu_us:.0f} | {one.operations_s:,.0f} "
        f"| {one.cpu_us:.0f} |\n"
        for one, other in zip(ran.runs, by_itself, strict=True)
    )
    return (
        f"\n## Apply\n\n{OPERATIONS_EACH:,} operations of one un-mined P2PKH payment, over {len(CONTEXTS)} contexts "
        "of `tm_anytx`'s rule, on one core. *In process*: the rule and the local store, no Kafka. *A worker*: works "
        "off what waits on the broker, its transactions among it.\n\n"
        "| live outputs | batch | in process: operations/s | CPU us | a worker: operations/s | CPU us |\n"
        f"|---|---|---|---|---|---|\n{rows}\n"
        f"Target: {TARGET:,} a second on one core with batches of {BATCHES[-1]:,}.\n\n"
        f"Restart with {LIVE[-1]:,} live outputs, and those of {len(ran.runs) * OPERATIONS_EACH:,} payments: ready "
        f"**{ran.with_store_s:.1f} s** after its start with its store (target: 5), **{ran.without_store_s:.1f} s** "
        f"from the changelog alone, {ran.changelog:,} records, roots compared (target: 40).\n"
        + growth_bench.page(ran.growth, store_bytes)
    )


def run(say: Say) -> str:
    """Measure; the page's part."""
    chain = Chain.open(home() / "simulate" / "chain")
    with one_core():
        by_itself = alone(chain, say)
    ran = asyncio.run(running(chain, say))
    return page(by_itself, ran, growth_bench.store_bytes(Maker(chain).ordinary(OPERATIONS_EACH)))
