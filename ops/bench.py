"""Benchmarks, as ratios within one run: machines are shared and noisy. They name the hardware and the versions."""

import asyncio
import contextlib
import importlib.metadata
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from msgspec import Struct

from agents.runtime.cluster import create
from agents.runtime.connection import client_options
from ops import broker as brokers
from ops.broker.record import KAFKA_VERSION
from ops.home import home
from ops.installation import Installation
from ops.instruments.chain import Chain
from ops.instruments.generate import Generator
from ops.instruments.hops import HOPS, Hops, by_hop
from ops.instruments.hops import table as hops_table
from ops.instruments.load import Latency, Load, LoadReport, run_load
from ops.instruments.payloads import Generated
from ops.running import broker_settings
from ops.settings import Settings
from ops.settings import load as load_settings
from ops.status import group_lags
from topics.registry import INGEST, PARSED

Say = Callable[[str], None]

RECORD_BYTES = 1000
RECORDS = 100_000
ROUNDS = 3
"""Each way is measured so often, in turn; the median counts."""

PAYLOADS = 10_000
WARM_UP = 10_000
"""Sent before, at once: it takes the broker's compiler about that many to settle."""

SETTLE_S = 10.0
"""At half the rate before it is measured: small batches take other ways through the broker than large ones."""

LATENCY_S = 20.0
DRAIN_S = 30.0
DRAINED_WITHIN_S = 120.0


class Passed(Struct, frozen=True):
    """One run of the yardstick."""

    records_s: float
    cpu_us: float  # of the process, a record


class RuntimeReport(Struct, frozen=True):
    """The runtime alone."""

    stage: tuple[Passed, ...]
    plain: tuple[Passed, ...]

    @property
    def ratio(self) -> float:
        """CPU a record of a stage, over that of plain aiokafka: medians."""
        return _median(self.stage) / _median(self.plain)


def _median(runs: tuple[Passed, ...]) -> float:
    return statistics.median(run.cpu_us for run in runs)


class Drained(Struct, frozen=True):
    """A backlog that was sent at once, and worked off."""

    payloads_s: float
    cpu_us: dict[str, float]  # microseconds a payload, by process


class PathReport(Struct, frozen=True):
    """The whole path."""

    drains: tuple[Drained, ...]
    payloads_s: float  # their median
    half: LoadReport
    hops: Mapping[str, Latency]  # at half the rate

    @property
    def cpu_us(self) -> dict[str, float]:
        """Microseconds a payload, by process; the median drain's of each."""
        return {name: statistics.median(drain.cpu_us[name] for drain in self.drains) for name in self.drains[0].cpu_us}

    @property
    def bottleneck(self) -> str:
        """The stage that used most of a core while all were at work."""
        return max((name for name in self.cpu_us if name in HOPS), key=lambda name: self.cpu_us[name])


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """What this process does meanwhile, and what it starts, stays on one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def cpu_s(pid: int) -> float:
    """Processor seconds a process has used, its ended children aside."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def runtime(say: Say) -> RuntimeReport:
    """1 kB records through a pass-through stage, and by plain aiokafka, at default settings, in turn."""
    broker = brokers.start(1, guarded=True, fresh=True)
    try:
        stage: list[Passed] = []
        plain: list[Passed] = []
        for number in range(ROUNDS):
            for kind, runs in (("plain", plain), ("stage", stage)):
                flags = [*broker_settings(broker.bootstrap, 1), f"topics.prefix=bench{number}{kind}."]
                settings = load_settings(network="dev", flags=flags, environment={}).settings
                await _fill(settings)
                runs.append(await _pass(kind, flags, settings))
                say(f"{kind:6} {runs[-1].records_s:8,.0f} records/s  {runs[-1].cpu_us:5.1f} us of CPU a record")
        return RuntimeReport(tuple(stage), tuple(plain))
    finally:
        broker.stop()


async def _fill(settings: Settings) -> None:
    await create(settings.kafka, settings.topics)
    producer = AIOKafkaProducer(**client_options(settings.kafka), linger_ms=20, max_batch_size=256 << 10)
    await producer.start()
    noise = random.Random(5).randbytes(1 << 20)
    headers = [("request-id", b"bench"), ("topics", b'["tm_anytx"]')]
    sent = []
    for number in range(RECORDS):
        at = number * 7919 % (len(noise) - RECORD_BYTES)
        value = noise[at : at + RECORD_BYTES]
        sent.append(
            await producer.send(INGEST.named(settings.topics.prefix), value, key=b"%d" % number, headers=headers)
        )
    await asyncio.gather(*sent)
    await producer.stop()


async def _pass(kind: str, flags: list[str], settings: Settings) -> Passed:
    argv = [sys.executable, "-m", "ops.instruments.passing", kind, str(os.getpid()), *flags]
    argv.append(f"worker.data_dir={home() / 'data'}")
    consumer = AIOKafkaConsumer(**client_options(settings.kafka))
    await consumer.start()
    partitions = [TopicPartition(PARSED.named(settings.topics.prefix), p) for p in range(PARSED.partitions)]

    async def passed() -> int:
        return sum((await consumer.end_offsets(partitions)).values())

    process = await asyncio.create_subprocess_exec(
        *argv, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + DRAINED_WITHIN_S
        while not (first := await passed()):
            await asyncio.sleep(0.02)
        began, used = time.monotonic(), cpu_s(process.pid)
        while (last := await passed()) < RECORDS and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        took, used = time.monotonic() - began, cpu_s(process.pid) - used
        return Passed((last - first) / took, used / (last - first) * 1e6)
    finally:
        process.kill()
        await process.wait()
        await consumer.stop()


async def path(say: Say) -> PathReport:
    """Payloads through the whole installation: all at once, some times, then at half of the median rate."""
    installation = Installation(say=lambda what: say(f"starting: {what}"))
    try:
        loaded = await installation.start()
        settings = loaded.settings
        generator = Generator(Chain.open(home() / "simulate" / "chain"), seed=0, first=0)
        say("warming up")
        await _drain(settings, generator.valid(WARM_UP))
        pids = _pids(installation)
        drains = []
        for _ in range(ROUNDS):
            drains.append(await _drained(settings, list(generator.valid(PAYLOADS)), pids))
            say(f"{drains[-1].payloads_s:,.0f} payloads/s")
        rate = statistics.median(drain.payloads_s for drain in drains)
        await run_load(settings, list(generator.valid(int(rate / 2 * SETTLE_S))), rate / 2)
        payloads = list(generator.valid(int(rate / 2 * LATENCY_S)))  # signed beforehand, not while it is measured
        hops = Hops(settings)
        await hops.start()
        load = Load(settings, rate / 2, None)
        await load.start()
        try:
            half = await load.run(payloads, None, DRAIN_S, lambda _: None)
        finally:
            await load.stop()
        return PathReport(tuple(drains), rate, half, by_hop(await hops.times(load.mark)))
    finally:
        await installation.stop()


def _pids(installation: Installation) -> dict[str, int]:
    assert installation.workers is not None
    assert installation.simulated is not None
    assert installation.broker is not None
    pids = {child.spec.name: child.pid for child in (*installation.workers.children, *installation.simulated.children)}
    pids |= {"broker": installation.broker.nodes[0].pid}
    return {name: pid for name, pid in pids.items() if pid is not None}


async def _drained(settings: Settings, payloads: Sequence[Generated], pids: Mapping[str, int]) -> Drained:
    before = {name: cpu_s(pid) for name, pid in pids.items()}
    took = await _drain(settings, payloads)
    used = {name: cpu_s(pid) - before[name] for name, pid in pids.items()}
    return Drained(len(payloads) / took, {name: seconds / len(payloads) * 1e6 for name, seconds in used.items()})


async def _drain(settings: Settings, payloads: Iterable[Generated]) -> float:
    """Seconds from the first payload to the last outcome, all sent as fast as the broker takes them."""
    producer = AIOKafkaProducer(**client_options(settings.kafka), linger_ms=10, max_batch_size=256 << 10)
    await producer.start()
    topic = INGEST.named(settings.topics.prefix)
    began = time.monotonic()
    sent = [await producer.send(topic, payload.beef, key=b"%d" % n) for n, payload in enumerate(payloads)]
    await asyncio.gather(*sent)
    while any((await group_lags(settings.kafka, settings.topics)).values()):
        await asyncio.sleep(0.25)  # looking costs the broker and this process
    took = time.monotonic() - began
    await producer.stop()
    return took


def machine() -> str:
    """Hardware and versions, a line each."""
    model = next(
        (line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor() or "unknown",
    )
    memory = next((line.split(":")[1].strip() for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), "?")
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}"
        for name in ("aiokafka", "faust-streaming", "msgspec", "rocksdict", "bsv-sdk")
    )
    return (
        f"- {os.cpu_count()} cores of {model}, {memory}; broker, workers, simulated network and load together on it\n"
        f"- Python {platform.python_version()}, {versions}; Kafka {KAFKA_VERSION}\n"
        f"- load average when it ended: {os.getloadavg()[0]:.1f}"
    )


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def page(alone: RuntimeReport | None, whole: PathReport | None, more: str = "") -> str:
    """The results as a page. more: parts that other modules measured."""
    parts = [
        "# Benchmarks\n",
        f"Made by `make bench`. Ratios within one run are what counts.\n\n{machine()}\n",
    ]
    if alone is not None:
        parts.append(
            f"\n## The runtime alone\n\n{RECORDS:,} records of {RECORD_BYTES} bytes from 8 partitions to 8, default "
            f"settings, CPU of the process; {ROUNDS} rounds in turn, median counts.\n\n"
            "| | records/s | CPU us a record |\n|---|---|---|\n"
            + "".join(_row("pass-through stage", run) for run in alone.stage)
            + "".join(_row("plain aiokafka (getmany, send_batch, commit)", run) for run in alone.plain)
            + f"\nA stage costs **{alone.ratio:.2f}** times the CPU of plain aiokafka (target: at most 2.5).\n"
        )
    if whole is not None:
        parts.append(_path_page(whole))
    return "".join([*parts, more])


def _row(name: str, run: Passed) -> str:
    return f"| {name} | {run.records_s:,.0f} | {run.cpu_us:.1f} |\n"


def _path_page(whole: PathReport) -> str:
    rows = "".join(f"| {name} | {us:,.0f} |\n" for name, us in sorted(whole.cpu_us.items(), key=lambda item: -item[1]))
    each = ", ".join(f"{drain.payloads_s:,.0f}" for drain in whole.drains)
    half = whole.half
    applied, accepted = half.applied_ms, half.accepted_ms
    latency = "no outcome in time"
    if applied is not None and accepted is not None:
        latency = (
            f"applied p50 {applied.p50:.0f} ms, p99 {applied.p99:.0f} ms; "
            f"accepted by the network p50 {accepted.p50:.0f} ms, p99 {accepted.p99:.0f} ms"
        )
    return (
        f"\n## The whole path\n\n{PAYLOADS:,} payloads (one un-mined P2PKH over 12 levels, one context), sent at "
        f"once, until the network's answer is written, {len(whole.drains)} times: {each}; median "
        f"**{whole.payloads_s:,.0f} payloads/s** (target: 1,000).\n\n"
        f"At half that rate for {half.seconds:.0f} s ({half.sent:,} payloads): {latency} "
        f"(target: p99 under 500 ms). Where it goes:\n\n{hops_table({'': whole.hops})}\n"
        "| process | CPU us a payload |\n|---|---|\n" + rows +
        f"\nThe bottleneck among the stages is **{whole.bottleneck}**.\n"
    )  # fmt: skip
