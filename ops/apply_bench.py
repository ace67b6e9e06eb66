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
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from aiokafka import AIOKafkaProducer
from msgspec import Struct

from agents.runtime.cluster import create
from agents.runtime.connection import client_options
from agents.runtime.store import Store
from ops import broker as brokers
from ops.bench import cpu_s
from ops.home import home
from ops.instruments.chain import Chain
from ops.instruments.generate import Generator
from ops.instruments.payloads import Generated
from ops.instruments.wire import varint
from ops.running import broker_settings, run_dir
from ops.settings import Settings
from ops.settings import load as load_settings
from pipeline import apply as rules
from pipeline import member
from pipeline.chain.answer import Tip
from pipeline.codec.tx import read_tx
from pipeline.overlay.manager import TopicManager, load
from pipeline.parse import Payload, parse
from pipeline.policy import Policy
from pipeline.results import decision_id
from pipeline.state import Layer, Live, Remembered, encode, head_key, head_of, seal
from pipeline.verify import Plan, Valid, plan
from schemas.flow import OPERATION, Apply, Asked, Origin, Verified
from schemas.types import Context
from topics.registry import OPERATIONS

Say = Callable[[str], None]

CONTEXTS = tuple(f"tm_bench_{letter}" for letter in "abcdefghijklmnop")
"""Sixteen, over as many partitions as their names hash to."""

LIVE = (1_000, 100_000, 1_000_000)
BATCHES = (10, 100, 1_000)
"""Live outputs in all contexts together, and records in a transaction."""

OPERATIONS_EACH = 20_000
WIDE = 1_000
"""Outputs of a transaction that fills the state."""

SETTLE_S = 2.0
"""For RocksDB to put in order what filled it."""

WITHIN_S = 240.0


class Applied(Struct, frozen=True):
    """One run."""

    live: int
    batch: int
    operations_s: float
    cpu_us: float  # of the process, an operation


class Report(Struct, frozen=True):
    """All of it."""

    alone: tuple[Applied, ...]  # in process, with the disk, no Kafka
    running: tuple[Applied, ...]  # a worker on one core, its transactions among it
    with_store_s: float  # from the process's start until it is ready, with LIVE[-1] live outputs
    without_store_s: float


class Maker:
    """Operations on signed payloads, as verify hands them on; their signatures are not looked at here."""

    def __init__(self, chain: Chain) -> None:
        self._generator = Generator(chain, seed=0, first=0)
        self._tip = Tip(chain.tip, chain.median_time_past())
        self._offset = 0

    def ordinary(self, count: int, contexts: Sequence[Context]) -> Iterator[tuple[Context, Apply]]:
        """Each payload goes to every context."""
        for payload in self._generator.valid(count // len(contexts)):
            for context in contexts:
                yield context, self._apply(self._verified(payload), context)

    def wide(self, outputs: int, contexts: Sequence[Context]) -> Iterator[tuple[Context, Apply]]:
        """Transactions of WIDE outputs each, round the contexts."""
        for number in range(outputs // WIDE):
            raw = _wide_tx(number)
            tx = read_tx(raw)
            tx.parents = (None,)
            # As a proven one nobody broadcasts it.
            verified = Verified(self._asked(), tx.txid, raw, (member.member_of(tx),), -1, self._tip.height)
            context = contexts[number % len(contexts)]
            yield context, self._apply(verified, context)

    def _verified(self, payload: Generated) -> Verified:
        parsed = parse(payload.beef, Policy())
        assert isinstance(parsed, Payload)
        found = plan(parsed, Policy(), self._tip)
        assert isinstance(found, Plan)
        valid = Valid(parsed, found.work.coins, found.work.fee_sat)
        return Verified(self._asked(), payload.txid, parsed.canonical(), valid.members(), valid.fee_sat)

    def _asked(self) -> Asked:
        self._offset += 1
        origin = Origin("bench", "beef.ingest", 0, self._offset, 1_790_000_000_000)
        return Asked(origin, f"request-{self._offset}", ("topic:tm_bench_a",))

    def _apply(self, verified: Verified, context: Context) -> Apply:
        return Apply(decision_id(verified.asked.origin, context), verified)


def _wide_tx(number: int) -> bytes:
    spent = number.to_bytes(32, "big") + bytes(4)
    output = (1).to_bytes(8, "little") + b"\x01\x51"
    return (
        (1).to_bytes(4, "little") + b"\x01" + spent + b"\x00" + b"\xff" * 4
        + varint(WIDE) + output * WIDE + bytes(4)
    )  # fmt: skip


# --- in process


def alone(chain: Chain, say: Say) -> list[Applied]:
    """The rule and the disk, without Kafka: what one core does with the state as large as that."""
    managers = load(tuple(f"{name}=pipeline.overlay.builtin.anytx:AnyTx" for name in CONTEXTS))
    contexts = [f"topic:{name}" for name in CONTEXTS]
    maker, found, live = Maker(chain), [], 0
    folder = Path(tempfile.mkdtemp(prefix="beefline-bench-"))
    store = Store(folder / "store")
    try:
        for wanted in LIVE:
            _apply_all(store, list(maker.wide(wanted - live, contexts)), managers, 10)
            live = wanted
            for batch in BATCHES:
                todo = list(maker.ordinary(OPERATIONS_EACH, contexts))
                gc.freeze()  # as a worker does: what was made before need not be looked through again and again
                time.sleep(SETTLE_S)
                began, used = time.perf_counter(), time.process_time()
                _apply_all(store, todo, managers, batch)
                took, used = time.perf_counter() - began, time.process_time() - used
                found.append(Applied(live, batch, len(todo) / took, used / len(todo) * 1e6))
                say(f"alone    {live:9,} live, batch {batch:5,}: {found[-1].operations_s:8,.0f} operations/s")
        return found
    finally:
        store.close()
        shutil.rmtree(folder)


def _apply_all(
    store: Store, todo: Sequence[tuple[Context, Apply]], managers: Mapping[str, TopicManager], batch: int
) -> None:
    for at in range(0, len(todo), batch):
        layer = Layer(Remembered(store))
        heads: dict[Context, Live] = {}
        for context, operation in todo[at : at + batch]:
            own = Layer(layer)
            head = heads.get(context) or head_of(layer, context)
            change = rules.apply(own, head, context, operation, managers, 1)
            own.merge_into(layer)
            heads[context] = change.head
        for context, head in heads.items():
            layer.writes[head_key(context)] = seal(encode(head.stored()))
        store.write(layer.writes, at)


# --- a worker, on a broker


class Running:
    """An apply worker in a process of its own, on one core."""

    def __init__(self, flags: Sequence[str], data: Path) -> None:
        argv = [
            sys.executable,
            "-m",
            "ops.cli.main",
            "worker",
            "apply",
            "--network",
            "dev",
            "--guarded",
            str(os.getpid()),
        ]
        for flag in (*flags, f"worker.data_dir={data}"):
            argv += ["--set", flag]
        self.began = time.monotonic()
        quiet = subprocess.DEVNULL
        self.process = subprocess.Popen(argv, stdin=quiet, stdout=quiet, stderr=quiet)
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
            if line.startswith('beefline_records_in_total{stage="apply"}'):
                return int(float(line.rpartition(" ")[2]))
        return 0

    def _asked(self, path: str) -> str:
        try:
            if not self._url:
                self._url = json.loads((run_dir() / f"apply-{self.process.pid}.json").read_text())["http"]
            with urllib.request.urlopen(self._url + path, timeout=5) as reply:  # noqa: S310 - our own worker's port
                return str(reply.read().decode())
        except (OSError, ValueError):
            return ""

    def stop(self) -> None:
        """SIGTERM, and wait."""
        self.process.terminate()
        self.process.wait(30)


async def running(chain: Chain, say: Say) -> tuple[list[Applied], float, float]:
    """Operations that wait on the broker are worked off, by batch size, the state growing; then restarts."""
    broker = brokers.start(1, guarded=True, fresh=True)
    data = home() / "bench-data"
    shutil.rmtree(data, ignore_errors=True)
    try:
        topics = ",".join(f"{name}=pipeline.overlay.builtin.anytx:AnyTx" for name in CONTEXTS)
        flags = [*broker_settings(broker.bootstrap, 1), f"apply.topics={topics}"]
        settings = load_settings(network="dev", flags=flags, environment={}).settings
        await create(settings.kafka, settings.topics)
        contexts = [f"topic:{name}" for name in CONTEXTS]
        maker, found, live = Maker(chain), [], 0
        for wanted in LIVE:
            await send(settings, maker.wide(wanted - live, contexts))
            await _work_off(flags, data, (wanted - live) // WIDE)
            live = wanted
            for batch in BATCHES:
                todo = list(maker.ordinary(OPERATIONS_EACH, contexts))
                await send(settings, iter(todo))
                pace = ("worker.transaction_pace_ms=0", f"worker.batch_records={batch}")
                rate, cpu_us = await _work_off([*flags, *pace], data, len(todo))
                found.append(Applied(live, batch, rate, cpu_us))
                say(f"running  {live:9,} live, batch {batch:5,}: {rate:8,.0f} operations/s, {cpu_us:5.0f} us each")
        restarts = []
        for kept in (True, False):
            if not kept:
                shutil.rmtree(data)
            times = []
            for _ in range(1 if not kept else 3):
                worker = Running(flags, data)
                times.append(await worker.ready())
                worker.stop()
            restarts.append(statistics.median(times))
            say(f"ready {restarts[-1]:.1f} s after its start, {'with' if kept else 'without'} its store")
        return found, restarts[0], restarts[1]
    finally:
        broker.stop()
        shutil.rmtree(data, ignore_errors=True)


async def send(settings: Settings, operations: Iterator[tuple[Context, Apply]]) -> None:
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


def page(report: Report) -> str:
    """The results."""
    rows = "".join(
        f"| {one.live:,} | {one.batch:,} | {other.operations_s:,.0f} | {other.cpu_us:.0f} | {one.operations_s:,.0f} "
        f"| {one.cpu_us:.0f} |\n"
        for one, other in zip(report.running, report.alone, strict=True)
    )
    return (
        f"\n## Apply\n\n{OPERATIONS_EACH:,} operations of one un-mined P2PKH payment, over {len(CONTEXTS)} contexts "
        "of `tm_anytx`'s rule. *In process*: the rule and the local store, no Kafka. *A worker*: a process on one core "
        "that works off what waits on the broker, its transactions among it.\n\n"
        "| live outputs | batch | in process: operations/s | CPU us | a worker: operations/s | CPU us |\n"
        f"|---|---|---|---|---|---|\n{rows}\n"
        f"Restart with {LIVE[-1]:,} live outputs: ready **{report.with_store_s:.1f} s** after its start with its store "
        f"(target: 5), **{report.without_store_s:.1f} s** from the changelog alone, roots compared (target: 40).\n"
    )


def run(say: Say) -> str:
    """Measure; the page's part."""
    chain = Chain.open(home() / "simulate" / "chain")
    by_itself = alone(chain, say)
    found, with_store, without = asyncio.run(running(chain, say))
    return page(Report(tuple(by_itself), tuple(found), with_store, without))
