"""`beefline bench operations`: operations over several contexts, all or nothing, beside those of one context."""

import asyncio
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from msgspec import Struct, msgpack

from agents.runtime.cluster import create
from agents.runtime.connection import client_options
from agents.runtime.store import Store
from ops import broker as brokers
from ops.apply_bench import Running
from ops.bench import Say, cpu_s, one_core
from ops.home import home
from ops.instruments.chain import Chain
from ops.instruments.submissions import CONTEXTS, HOSTED, Asks, Maker, managers
from ops.running import broker_settings
from ops.settings import Settings
from ops.settings import load as load_settings
from pipeline import apply as rules
from pipeline import prepare, undecided
from pipeline.contextual import Answer, Change, Contextual
from pipeline.coordinate import Limits, bare, hear
from pipeline.state import Layer, Live, Memory, Remembered, View, encode, head_key, head_of, seal
from schemas.external import RESULT
from schemas.flow import OPERATION, Apply, Decide, Prepare
from schemas.operations import OperationStatus, Vote
from schemas.types import Context
from topics.registry import OPERATIONS, RESULTS

T = TypeVar("T")

WIDTHS = (1, 2, 4)
"""Contexts of an operation; one alone is applied by itself."""

ROUNDS = 5
"""All widths take turns. Processor time is that of all together: one takes a second, and is as the machine is then."""

BACKLOG = 2_000
"""Operations that wait on the broker, of each width and round."""

HALVES = 3
"""Rounds at half of the rate, of `LATENCY_S` for each width."""

WARM = 300
"""Of each width, before."""

QUIET = 20.0
"""Operations a second where only hops and their pace count, whatever the machine's load."""

LATENCY_S = 8.0
"""Of sending at that, and at half of the rate that was found."""

LAST_S = 60.0
WITHIN_S = 240.0
TICK_S = 0.002

RULES = 2_000
BATCH = 100
LOOKS = 100_000

CPU_TARGET, P99_TARGET = 4.0, 3.0
"""Of an operation over two contexts, as multiples of one of a single context."""


class Rate(Struct, frozen=True):
    """A backlog worked off."""

    operations_s: float
    cpu_us: float  # of apply and coordinate together, an operation
    coordinate_us: float  # of that


class Felt(Struct, frozen=True):
    """Milliseconds from sending to the result of the last context."""

    rate: float  # sent a second
    sent: int
    done: int
    p50: float
    p99: float


class Ruled(Struct, frozen=True):
    """The rules alone, in process, in memory: microseconds."""

    apply_us: float
    prepare_us: float
    commit_us: float
    hear_us: float  # both votes of an operation over two contexts
    look_us: float  # whether anything is undecided, where nothing is
    first_look_us: float  # the same, the first time in a batch, from a store on the disk


class Report(Struct, frozen=True):
    """All of it."""

    ruled: Ruled
    rates: dict[int, list[Rate]]  # by width, of each round
    felt: dict[int, list[Felt]]  # at half of that, likewise
    quiet: dict[int, Felt]  # at QUIET a second
    unpaced: dict[int, Felt]  # at QUIET a second, with `worker.transaction_pace_ms` 0


# --- in process


def ruled(chain: Chain, say: Say) -> Ruled:
    """What the rules cost; all in turn, round by round."""
    say("operations: the rules")
    taken: dict[str, list[float]] = {"apply": [], "prepare": [], "commit": [], "hear": [], "look": []}
    maker = Maker(chain)
    with one_core():
        for _ in range(ROUNDS):
            single = [asks[0] for asks in maker.spread(RULES, 1)]
            taken["apply"].append(_through(Memory(), [(context, _applying(each)) for context, each in single]))
            several = list(maker.spread(RULES // 2, 2))
            parts = [part for asks in several for part in asks]
            memory = Memory()
            taken["prepare"].append(_through(memory, [(context, _preparing(each)) for context, each in parts]))
            taken["commit"].append(_through(memory, [(context, _committing(each)) for context, each in parts]))
            taken["hear"].append(_timed(lambda several=several: _heard(several)) / len(several))  # type: ignore[misc]
            taken["look"].append(_looks(Memory()))
        first = _first_looks()
    us = {name: statistics.median(each) * 1e6 for name, each in taken.items()}
    return Ruled(us["apply"], us["prepare"], us["commit"], us["hear"], us["look"], first * 1e6)


Rule = Callable[[Layer, Live, Context], Change]


def _applying(operation: Apply | Prepare) -> Rule:
    assert isinstance(operation, Apply)
    return lambda layer, head, context: rules.apply(layer, head, context, operation, _HOSTED, 1)


def _preparing(operation: Apply | Prepare) -> Rule:
    assert isinstance(operation, Prepare)
    return lambda layer, head, context: prepare.prepare(layer, head, context, operation, _HOSTED, 1)


def _committing(operation: Apply | Prepare) -> Rule:
    assert isinstance(operation, Prepare)
    verified = operation.apply.verified
    word = Decide(operation.operation, operation.attempt, True, bare(verified.asked), verified.txid)
    return lambda layer, head, context: prepare.decide(layer, head, context, word, _HOSTED, 1)


_HOSTED = managers()


def _through(memory: Memory, todo: Sequence[tuple[Context, Rule]]) -> float:
    """Processor seconds each, in batches as a worker's."""
    return _timed(lambda: _all(memory, todo)) / len(todo)


def _all(memory: Memory, todo: Sequence[tuple[Context, Rule]]) -> None:
    for start in range(0, len(todo), BATCH):
        layer = Layer(Remembered(memory))
        heads: dict[Context, Live] = {}
        for context, rule in todo[start : start + BATCH]:
            own = Layer(layer)
            change = rule(own, heads.get(context) or head_of(layer, context), context)
            assert isinstance(change.said, Answer) or change.words  # applied, or agreed to
            own.merge_into(layer)
            heads[context] = change.head
        for context, head in heads.items():
            layer.writes[head_key(context)] = seal(encode(head.stored()))
        memory.write(layer.writes)


def _heard(several: Sequence[Sequence[Asks]]) -> None:
    """The coordinator's rule with all votes of each operation, its state as bytes in between."""
    limits = Limits(3_600_000, 3_600_000)
    for asks in several:
        stored: bytes | None = None
        for context, operation in asks:
            assert isinstance(operation, Prepare)
            verified = operation.apply.verified
            vote = Vote(0, context, "yes", bare(verified.asked), verified.txid)
            status = None if stored is None else _status(stored)
            step = hear(operation.operation, status, vote, 1, limits)
            stored = _encode(step.status)
            for _, word in step.tells:
                OPERATION.encode(word)
        assert step.tells


_encode = msgpack.Encoder().encode
_status = msgpack.Decoder(OperationStatus).decode


def _looks(view: View) -> float:
    """Seconds a look takes where the batch has looked before."""
    layer = Layer(Remembered(view))
    context = CONTEXTS[0]
    here = Contextual(context, Layer(layer), head_of(layer, context), 1)
    return _timed(lambda: [undecided.any_here(here) for _ in range(LOOKS)]) / LOOKS


def _first_looks() -> float:
    """Seconds the first look of a batch takes: at a key that is not in the store."""
    folder = Path(tempfile.mkdtemp(prefix="operations-bench-", dir=home()))
    store = Store(folder / "store")
    try:
        store.write({b"%08d" % number: b"v" * 100 for number in range(10_000)}, 0)
        count = max(1, LOOKS // 100)
        looks = [
            Contextual(CONTEXTS[0], Layer(Remembered(store)), head_of(store, CONTEXTS[0]), 1) for _ in range(count)
        ]
        return _timed(lambda: [undecided.any_here(here) for here in looks]) / count
    finally:
        store.close()
        shutil.rmtree(folder)


def _timed(what: Callable[[], object]) -> float:
    began = time.process_time()
    what()
    return time.process_time() - began


# --- workers, on a broker


class Traffic:
    """Operations sent at their time, and when each one's last result was read."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._name = OPERATIONS.named(settings.topics.prefix)
        self._sent: dict[str, float] = {}
        self._missing: dict[str, int] = {}
        self._came: dict[str, float] = {}
        self.said: dict[str, int] = {}  # results by outcome

    async def start(self) -> None:
        """Open what is sent and read with."""
        options = client_options(self._settings.kafka)
        self._producer = AIOKafkaProducer(**options, linger_ms=2)
        self._consumer = AIOKafkaConsumer(
            RESULTS.named(self._settings.topics.prefix),
            **options,
            isolation_level="read_committed",
            auto_offset_reset="latest",
            enable_auto_commit=False,
        )
        await self._producer.start()
        await self._consumer.start()
        await self._consumer.seek_to_end()
        self._reading = asyncio.ensure_future(self._read())

    async def stop(self) -> None:
        """Close it."""
        self._reading.cancel()
        await self._consumer.stop()
        await self._producer.stop()

    async def _read(self) -> None:
        async for record in self._consumer:
            result = RESULT.decode(record.value)
            self.said[result.outcome] = self.said.get(result.outcome, 0) + 1
            request = result.request_ids[0]
            self._missing[request] -= 1
            if self._missing[request] == 0:
                self._came[request] = time.perf_counter()

    async def send(self, operations: Sequence[Sequence[Asks]], per_s: float = float("inf")) -> list[str]:
        """At a rate, whatever becomes of those before; returns their requests."""
        encoded = [
            (asks, [(context.encode(), OPERATION.encode(operation)) for context, operation in asks])
            for asks in operations
        ]
        began, requests, futures = time.perf_counter(), [], []
        for number, (asks, records) in enumerate(encoded):
            while (wait := began + number / per_s - time.perf_counter()) > 0:
                await asyncio.sleep(max(wait, TICK_S))
            _, first = asks[0]
            verified = first.verified if isinstance(first, Apply) else first.apply.verified
            request = verified.asked.request_id
            requests.append(request)
            self._sent[request], self._missing[request] = time.perf_counter(), len(asks)
            for key, value in records:
                futures.append(await self._producer.send(self._name, value, key=key, headers=[OPERATION.header]))
        await asyncio.gather(*futures)
        return requests

    async def done(self, requests: Sequence[str], within_s: float) -> float:
        """Wait until all are; returns how many seconds after the first was sent the last was."""
        deadline = time.monotonic() + within_s
        while any(request not in self._came for request in requests) and time.monotonic() < deadline:
            assert not self._reading.done(), self._reading
            await asyncio.sleep(0.02)
        came = [self._came[request] for request in requests if request in self._came]
        return max(came) - min(self._sent[request] for request in requests)

    def felt(self, requests: Sequence[str], rate: float) -> Felt:
        """What those took that were done."""
        times = sorted((self._came[each] - self._sent[each]) * 1000 for each in requests if each in self._came)
        return Felt(rate, len(requests), len(times), times[len(times) // 2], times[int(len(times) * 0.99)])


Latencies = dict[int, Felt]
"""By width."""


async def running(chain: Chain, say: Say) -> tuple[dict[int, list[Rate]], dict[int, list[Felt]], Latencies, Latencies]:
    """Rates, latencies at half of them, at few, and at few where no transaction waits for more records."""
    broker = brokers.start(1, guarded=True, fresh=True)
    data = home() / "bench-data"
    shutil.rmtree(data, ignore_errors=True)
    try:
        flags = [*broker_settings(broker.bootstrap, 1), f"apply.topics={','.join(HOSTED)}"]
        settings = load_settings(network="dev", flags=flags, environment={}).settings
        await create(settings.kafka, settings.topics)
        maker = Maker(chain)
        traffic = Traffic(settings)
        await traffic.start()
        try:
            workers = await _started(flags, data)
            try:
                rates = await _rates(traffic, maker, workers, say)
                quiet = {width: await _felt(traffic, maker, width, QUIET, say) for width in WIDTHS}
                felt: dict[int, list[Felt]] = {width: [] for width in WIDTHS}
                for _ in range(HALVES):
                    for width in WIDTHS:
                        half = _median(rates[width], _per_s) / 2
                        felt[width].append(await _felt(traffic, maker, width, half, say))
            finally:
                _stop(workers)
            say("operations: without a pace of transactions")
            workers = await _started([*flags, "worker.transaction_pace_ms=0"], data)
            try:
                await _warm(traffic, maker)
                unpaced = {width: await _felt(traffic, maker, width, QUIET, say) for width in WIDTHS}
            finally:
                _stop(workers)
        finally:
            await traffic.stop()
        assert set(traffic.said) == {"applied"}, traffic.said
        return rates, felt, quiet, unpaced
    finally:
        broker.stop()
        shutil.rmtree(data, ignore_errors=True)


async def _started(flags: Sequence[str], data: Path) -> list[Running]:
    workers: list[Running] = []
    try:
        for stage in ("apply", "coordinate"):
            workers.append(Running(flags, data / stage, one_core=False, stage=stage))
        for worker in workers:
            await worker.ready()
    except BaseException:
        _stop(workers)
        raise
    return workers


def _stop(workers: Sequence[Running]) -> None:
    for worker in workers:
        worker.stop()


async def _warm(traffic: Traffic, maker: Maker) -> None:
    for width in WIDTHS:
        requests = await traffic.send(list(maker.spread(WARM, width)))
        await traffic.done(requests, WITHIN_S)


async def _rates(traffic: Traffic, maker: Maker, workers: Sequence[Running], say: Say) -> dict[int, list[Rate]]:
    await _warm(traffic, maker)
    found: dict[int, list[Rate]] = {width: [] for width in WIDTHS}
    pids = [worker.process.pid for worker in workers]
    for _ in range(ROUNDS):
        for width in WIDTHS:
            todo = list(maker.spread(BACKLOG, width))
            before = [cpu_s(pid) for pid in pids]
            requests = await traffic.send(todo)
            took = await traffic.done(requests, WITHIN_S)
            used = [(cpu_s(pid) - was) / len(todo) * 1e6 for pid, was in zip(pids, before, strict=True)]
            found[width].append(Rate(len(todo) / took, sum(used), used[1]))
            say(f"operations: {width} contexts {len(todo) / took:7,.0f}/s, CPU {sum(used):6,.0f} us each")
    return found


async def _felt(traffic: Traffic, maker: Maker, width: int, rate: float, say: Say) -> Felt:
    requests = await traffic.send(list(maker.spread(max(20, int(rate * LATENCY_S)), width)), rate)
    await traffic.done(requests, LAST_S)
    felt = traffic.felt(requests, rate)
    say(f"operations: {width} contexts at {rate:5,.0f}/s: p50 {felt.p50:6,.0f} ms, p99 {felt.p99:6,.0f} ms")
    return felt


# --- the page


def _per_s(rate: Rate) -> float:
    return rate.operations_s


def _cpu(rate: Rate) -> float:
    return rate.cpu_us


def _coordinate(rate: Rate) -> float:
    return rate.coordinate_us


def _p50(felt: Felt) -> float:
    return felt.p50


def _p99(felt: Felt) -> float:
    return felt.p99


def _median(rounds: Sequence[T], of: Callable[[T], float]) -> float:
    return statistics.median(map(of, rounds))


def _ratios(rounds: Mapping[int, Sequence[T]], width: int, of: Callable[[T], float]) -> list[float]:
    """Of each round, how much more than for one context."""
    return [of(each) / of(one) for each, one in zip(rounds[width], rounds[1], strict=True)]


def _range(ratios: Sequence[float]) -> str:
    return f"{min(ratios):.2f} to {max(ratios):.2f}"


def _times(report: Report, width: int) -> float:
    """Processor time of all rounds, as multiples of that of one context."""
    return statistics.mean(map(_cpu, report.rates[width])) / statistics.mean(map(_cpu, report.rates[1]))


def measure(say: Say) -> Report:
    """All of it."""
    chain = Chain.open(home() / "bench-chain")
    return Report(ruled(chain, say), *asyncio.run(running(chain, say)))


def run(say: Say) -> str:
    """The page's part."""
    return page(measure(say))


def page(report: Report) -> str:
    """As Markdown."""
    ruled = report.ruled
    return "\n".join([
        "## Operations over several contexts",
        "",
        f"An apply and a coordinate worker, default settings, one un-mined P2PKH payment an operation, over "
        f"{len(CONTEXTS)} contexts of `tm_anytx`'s rule. *CPU*: of both workers, a backlog of {BACKLOG:,} operations "
        f"worked off, {ROUNDS} times in turn, all together. *ms*: from sending to the last context's result, at half "
        f"of the rate, medians of {HALVES} rounds in turn; *few*: at {QUIET:.0f} a second, and so with "
        f"`worker.transaction_pace_ms` 0 (*unpaced*).",
        "",
        "| contexts | operations/s | CPU us | of it coordinate | of one | half: p50 ms | p99 "
        "| p99 of one | few: p50 ms | p99 | unpaced: p50 ms | p99 |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
        *_rows(report),
        "",
        f"Over two contexts: **{_times(report, 2):.2f}** times the CPU (single rounds: "
        f"{_range(_ratios(report.rates, 2, _cpu))}; target: at most {CPU_TARGET:.0f}), "
        f"**{statistics.median(_ratios(report.felt, 2, _p99)):.2f}** times the p99 at half load "
        f"({_range(_ratios(report.felt, 2, _p99))}; target: at most {P99_TARGET:.0f}).",
        "",
        f"The rules in memory, {RULES:,} parts in batches of {BATCH}, processor time on one core:",
        "",
        "| | us | of an apply |",
        "|---|---|---|",
        *(
            f"| {name} | {us:,.1f} | {us / ruled.apply_us:.2f} |"
            for name, us in (
                ("apply", ruled.apply_us),
                ("prepare", ruled.prepare_us),
                ("commit", ruled.commit_us),
                ("coordinate: both votes of an operation over two", ruled.hear_us),
            )
        ),
        "",
        f"Whether anything is undecided, where nothing is: {ruled.look_us:.2f} us of an apply's "
        f"{ruled.apply_us:.0f} ({ruled.look_us / ruled.apply_us:.1%}); the first time in a batch, from the disk, "
        f"{ruled.first_look_us:.1f} us.",
        "",
    ])  # fmt: skip


def _rows(report: Report) -> Iterator[str]:
    for width in WIDTHS:
        rates, felt = report.rates[width], report.felt[width]
        quiet, unpaced = report.quiet[width], report.unpaced[width]
        p99 = statistics.median(_ratios(report.felt, width, _p99))
        cpu, coordinate = (statistics.mean(map(of, rates)) for of in (_cpu, _coordinate))
        yield (
            f"| {width} | {_median(rates, _per_s):,.0f} | {cpu:,.0f} | {coordinate:,.0f} | {_times(report, width):.2f} "
            f"| {_median(felt, _p50):,.0f} | {_median(felt, _p99):,.0f} | {p99:.2f} "
            f"| {quiet.p50:,.0f} | {quiet.p99:,.0f} "
            f"| {unpaced.p50:,.0f} | {unpaced.p99:,.0f} |"
        )
