"""`beefline bench neighbours`: a context whose manager overruns on every record, and what its neighbours feel of it."""

import asyncio
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from msgspec import Struct

from agents.runtime.cluster import create
from agents.runtime.connection import client_options
from agents.runtime.partitioner import partition_for
from ops import broker as brokers
from ops.apply_bench import Running
from ops.home import home
from ops.instruments.chain import Chain
from ops.instruments.submissions import Maker
from ops.running import broker_settings
from ops.settings import Settings
from ops.settings import load as load_settings
from schemas.external import EVENT, RESULT
from schemas.flow import OPERATION, Apply
from schemas.types import Context, display
from topics.registry import EVENTS, OPERATIONS, RESULTS, RETRY_1M, RETRY_10M, RETRY_10S, Topic

Say = Callable[[str], None]

SLOW = "topic:tm_slow"

SLOW_MS = 60
"""What its manager takes of a processor, each time: a fifth over its budget."""

SLOW_S = 20.0
NEIGHBOUR_S = 20.0
"""Records a second: as many as the slow context could do within its budget, and of each of its neighbours."""

SAME, OTHERS = 2, 6
"""Neighbours in the slow context's partition, and in other partitions of the same worker."""

WARM_S = 5.0
BEFORE_S = 15.0
DURING_S = 35.0
"""What is not counted; neighbours alone; then with the slow context. Its suspension and two tries fall into that."""

LAST_S = 5.0
"""For what was sent last to come out, before the worker is stopped."""

TICK_S = 0.01

MANAGER = """
import time

from schemas.external import Admittance


class Slow:
    version = "1"

    def admit(self, subject):
        until = time.perf_counter() + {seconds}
        while time.perf_counter() < until:
            pass
        return Admittance((0,))
"""


class Felt(Struct, frozen=True):
    """From sending a record to reading its result, milliseconds."""

    count: int
    p50: float
    p99: float
    most: float


class Run(Struct, frozen=True):
    """One worker."""

    suspends: bool
    felt: Mapping[tuple[str, bool], Felt]  # by neighbours (same, other) and whether the slow context sends
    slow_applied: int
    slow_sent: int
    slow_waiting: int
    lost: int  # records of neighbours without a result
    events: Mapping[str, int]


def contexts() -> tuple[list[Context], list[Context]]:
    """Names of neighbours: those whose partition is the slow one's, and those whose is not, each its own."""
    home_of = partition_for(SLOW.encode(), OPERATIONS.partitions)
    same: list[Context] = []
    others: dict[int, Context] = {}
    for name in _names():
        context = f"topic:tm_bench_{name}"
        where = partition_for(context.encode(), OPERATIONS.partitions)
        if where == home_of and len(same) < SAME:
            same.append(context)
        elif where != home_of and len(others) < OTHERS:
            others.setdefault(where, context)
        if len(same) == SAME and len(others) == OTHERS:
            break
    return same, list(others.values())


def _names() -> Iterator[str]:
    letters = "abcdefghijklmnopqrstuvwxyz"
    return (first + second for first in letters for second in letters)


class Traffic:
    """Records sent at their time, whatever becomes of those before, and when each result was read."""

    def __init__(self, settings: Settings, chain: Chain) -> None:
        self._settings = settings
        self._maker = Maker(chain)
        self.sent: dict[tuple[str, Context], tuple[float, bool]] = {}  # when, and whether the slow context sent then
        self.came: dict[tuple[str, Context], float] = {}

    def records(self, contexts: Sequence[Context], per_s: float, seconds: float) -> list[tuple[Context, Apply]]:
        """For so long, one payload to all of the contexts each time."""
        return list(self._maker.ordinary(int(per_s * seconds) * len(contexts), contexts))

    async def send(self, streams: Sequence[tuple[Sequence[tuple[Context, Apply]], float]], *, slow: bool) -> None:
        """streams: records, and how many of them a second."""
        producer = AIOKafkaProducer(**client_options(self._settings.kafka), linger_ms=2)
        await producer.start()
        topic = OPERATIONS.named(self._settings.topics.prefix)
        began = time.perf_counter()
        at = [0] * len(streams)
        futures = []
        while any(n < len(records) for n, (records, _) in zip(at, streams, strict=True)):
            elapsed = time.perf_counter() - began
            for number, (records, per_s) in enumerate(streams):
                while at[number] < min(len(records), int(elapsed * per_s)):
                    context, operation = records[at[number]]
                    self.sent[display(operation.verified.txid), context] = time.perf_counter(), slow
                    value, key = OPERATION.encode(operation), context.encode()
                    futures.append(await producer.send(topic, value, key=key, headers=[OPERATION.header]))
                    at[number] += 1
            await asyncio.sleep(TICK_S)
        await asyncio.gather(*futures)
        await producer.stop()

    async def read(self, consumer: AIOKafkaConsumer) -> None:
        """Results, as they come; until cancelled."""
        async for record in consumer:
            result = RESULT.decode(record.value)
            if result.txid is not None and result.context is not None:
                self.came.setdefault((result.txid, result.context), time.perf_counter())

    def felt(self, contexts: Sequence[Context], *, slow: bool) -> Felt:
        """By those of them that were sent while the slow context did or did not."""
        times = sorted(
            (self.came[key] - when) * 1000
            for key, (when, was_slow) in self.sent.items()
            if key[1] in contexts and was_slow is slow and key in self.came
        )
        return Felt(len(times), times[len(times) // 2], times[int(len(times) * 0.99)], times[-1])


async def _one(chain: Chain, *, suspends: bool) -> Run:
    same, others = contexts()
    broker = brokers.start(1, guarded=True, fresh=True)
    data = home() / "bench-data"
    shutil.rmtree(data, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix="beefline-bench-"))
    (folder / "bench_slow.py").write_text(MANAGER.format(seconds=SLOW_MS / 1000), encoding="utf-8")
    try:
        names = [context.removeprefix("topic:") for context in (*same, *others)]
        hosted = ["tm_slow=bench_slow:Slow", *(f"{name}=pipeline.overlay.builtin.anytx:AnyTx" for name in names)]
        flags = [*broker_settings(broker.bootstrap, 1), f"apply.topics={','.join(hosted)}"]
        flags += [] if suspends else ["apply.suspend_after=1000000"]
        settings = load_settings(network="dev", flags=flags, environment={}).settings
        await create(settings.kafka, settings.topics)
        traffic = Traffic(settings, chain)
        warm, quiet, beside = (
            traffic.records([*same, *others], NEIGHBOUR_S, seconds) for seconds in (WARM_S, BEFORE_S, DURING_S)
        )
        loud = traffic.records([SLOW], SLOW_S, DURING_S)
        path = os.pathsep.join([str(folder), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]).rstrip(os.pathsep)
        worker = Running(flags, data, one_core=False, environment={**os.environ, "PYTHONPATH": path})
        try:
            await worker.ready()
            consumer = AIOKafkaConsumer(
                RESULTS.named(settings.topics.prefix),
                **client_options(settings.kafka),
                isolation_level="read_committed",
                auto_offset_reset="earliest",
                enable_auto_commit=False,
            )
            await consumer.start()
            reading = asyncio.ensure_future(traffic.read(consumer))
            rate = NEIGHBOUR_S * (SAME + OTHERS)
            await traffic.send([(warm, rate)], slow=False)
            await asyncio.sleep(1)
            traffic.sent.clear()
            await traffic.send([(quiet, rate)], slow=False)
            await asyncio.sleep(1)  # what was sent last is to come out by itself
            await traffic.send([(beside, rate), (loud, SLOW_S)], slow=True)
            await asyncio.sleep(LAST_S)
            reading.cancel()
            await consumer.stop()
        finally:
            worker.stop()
        return await _report(settings, traffic, same, others, len(loud), suspends=suspends)
    finally:
        broker.stop()
        shutil.rmtree(data, ignore_errors=True)
        shutil.rmtree(folder)


async def _report(
    settings: Settings, traffic: Traffic, same: list[Context], others: list[Context], loud: int, *, suspends: bool
) -> Run:
    waiting = [value for tier in (RETRY_10S, RETRY_1M, RETRY_10M) for value in await _values(settings, tier)]
    felt = {
        (name, slow): traffic.felt(who, slow=slow)
        for name, who in (("same", same), ("other", others))
        for slow in (False, True)
    }
    return Run(
        suspends=suspends,
        felt=felt,
        slow_applied=sum(context == SLOW for _, context in traffic.came),
        slow_sent=loud,
        slow_waiting=len(waiting),
        lost=sum(key not in traffic.came for key in traffic.sent if key[1] != SLOW),
        events=Counter(EVENT.decode(value).kind for value in await _values(settings, EVENTS)),
    )


async def _values(settings: Settings, topic: Topic) -> list[bytes]:
    """What stands on a topic."""
    consumer = AIOKafkaConsumer(
        **client_options(settings.kafka), isolation_level="read_committed", enable_auto_commit=False
    )
    await consumer.start()
    try:
        places = [TopicPartition(topic.named(settings.topics.prefix), number) for number in range(topic.partitions)]
        consumer.assign(places)
        first, ends = await consumer.beginning_offsets(places), await consumer.end_offsets(places)
        for place in places:
            consumer.seek(place, first[place])
        found: list[bytes] = []
        left = [place for place in places if first[place] < ends[place]]
        while left:
            for records in (await consumer.getmany(timeout_ms=200)).values():
                found += [record.value for record in records]
            left = [place for place in left if await consumer.position(place) < ends[place]]
        return found
    finally:
        await consumer.stop()


def page(runs: Sequence[Run]) -> str:
    """The results."""
    rows = [
        f"| {'suspended after three' if run.suspends else 'never suspended'} | {says} "
        f"| {'sends' if slow else 'silent'} | {felt.count:,} | {felt.p50:.0f} | {felt.p99:.0f} | {felt.most:.0f} |\n"
        for run in runs
        for (name, slow), felt in run.felt.items()
        for says in ["same partition" if name == "same" else "other partitions"]
    ]
    told = [
        f"\n{'Suspended' if run.suspends else 'Never suspended'}: of {run.slow_sent} records of the slow context "
        f"{run.slow_applied} were applied and {run.slow_waiting} put into a tier to wait; events: "
        f"{', '.join(f'{count} {kind}' for kind, count in sorted(run.events.items())) or 'none'}; results of "
        f"neighbours missing: {run.lost}.\n"
        for run in runs
    ]
    return "".join(
        [
            f"\n## A slow topic manager's neighbours\n\nOne apply worker hosts {1 + SAME + OTHERS} contexts. One has a "
            f"foreign manager that takes {SLOW_MS} ms of a processor for every record (budget: 50), and is sent "
            f"{SLOW_S:.0f} records a second. {SAME} others share its partition, {OTHERS} have partitions of their own; "
            f"each is sent {NEIGHBOUR_S:.0f} a second (`tm_anytx`'s rule). First {BEFORE_S:.0f} s without the slow "
            f"one, then {DURING_S:.0f} s with it. From sending a record to reading its result:\n\n"
            "| | neighbours | slow context | records | p50 ms | p99 ms | longest ms |\n"
            "|---|---|---|---|---|---|---|\n",
            *rows,
            *told,
        ]
    )


def run(say: Say) -> str:
    """Measure; the page's part."""
    chain = Chain.open(home() / "simulate" / "chain")
    runs = []
    for suspends in (True, False):
        runs.append(asyncio.run(_one(chain, suspends=suspends)))
        felt, kind = runs[-1].felt["same", True], "suspended" if suspends else "never suspended"
        say(f"{kind}: neighbours in its partition p50 {felt.p50:.0f} ms, p99 {felt.p99:.0f} ms")
    return page(runs)
