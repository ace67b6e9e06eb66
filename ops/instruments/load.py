"""Open-loop load: payloads go out when they are due, whatever the answers do, and latency counts from that time.

A generator that waits for answers slows down with the system it measures, and so leaves out the very payloads that
would have waited longest. Here a payload that could only be sent late has the delay in its latency, and the report says
how late sending ever was: more than a few ticks, and the machine, not the pipeline, was measured.

It costs little beside what it measures. Payloads of one tick share a batch on one partition, tick by tick the next
partition; of a result only what is counted is decoded; nothing is kept for a payload but four numbers.
"""

import asyncio
import fcntl
import functools
import gc
import itertools
import math
import time
import uuid
from array import array
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError
from msgspec import Struct

from agents.runtime.connection import client_options
from ops.instruments.chain import COIN_BLOCKS, COINS, Chain
from ops.instruments.generate import Generator
from ops.instruments.payloads import Generated
from ops.settings import Settings
from schemas import headers as h
from topics.registry import HEADROOM, INGEST, RESULTS

TICK_S = 0.010
"""Between two looks at what is due and at what came. Each costs this process half a millisecond and the broker a
request, on the machine that is measured: at 5 ms a tenth of a core more. What a payload waits for it is latency."""

QUIET_S = 2.0
"""After the last decision: no further network answer for so long means that none is to come."""


TELL_S = 0.25


class Latency(Struct, frozen=True):
    """Milliseconds, from when a payload was due."""

    p50: float
    p95: float
    p99: float
    max: float


class LoadReport(Struct, frozen=True, kw_only=True):
    """What a run of load found."""

    rate: float  # payloads a second asked for
    sent_rate: float  # payloads a second handed to the broker
    seconds: float  # of sending
    sent: int  # confirmed by the broker
    failed: int  # not confirmed
    decided: int  # payloads of which every context decided
    undecided: int  # sent, and still without a decision at the end
    accepted: int  # payloads the network accepted
    outcomes: Mapping[str, int]  # results by outcome, with the code where there is one
    repeats: int  # applied before this run: answered from the journal
    applied_ms: Latency | None  # to the last context's `applied`, of payloads that all their contexts applied
    accepted_ms: Latency | None  # to the network's `accepted`
    late_ms: Latency | None  # how late payloads were handed to the producer
    cpu_cores: float  # what this process used while it sent


class _Seen(Struct, gc=False):
    """What is counted of a result; the rest of the JSON is skipped over."""

    request_ids: tuple[str, ...]
    outcome: str
    contexts: int
    context: str | None = None
    code: str | None = None
    repeat: bool = False


async def run_load(
    settings: Settings,
    payloads: Iterable[Generated],
    rate: float,
    seconds: float | None = None,
    *,
    topics: Sequence[str] | None = None,
    drain_s: float = 30.0,
    tell: Callable[["Load"], None] = lambda _: None,
) -> LoadReport:
    """Send `rate` payloads a second for `seconds`, or until there are no more; then wait for what becomes of them.

    payloads: each is sent once; taken as they are needed, so that a pool may be larger than memory.
    topics: overlay topics for all; None: each payload's own.
    drain_s: seconds to wait, at most, for results after the last was sent.
    tell: called some times a second while it runs.

    Raises:
        aiokafka.errors.KafkaError: the broker cannot be reached, or results cannot be read.
    """
    load = Load(settings, rate, topics)
    await load.start()
    try:
        return await load.run(payloads, seconds, drain_s, tell)
    finally:
        await load.stop()


class Load:
    """One run. Times are seconds since it began; a payload's number is its place, and its due time number / rate."""

    def __init__(
        self,
        settings: Settings,
        rate: float,
        topics: Sequence[str] | None,
        watched: Container[int] = (),
        endless: int = 0,
    ) -> None:
        """watched: numbers of payloads whose decision is kept by itself; endless: of how many none is waited for."""
        self.rate = rate
        self._endless = endless
        self.said: dict[int, str] = {}  # outcome and code of those watched
        self._watched = watched
        self.sent = self.failed = self.decided = self.repeats = 0
        self.outcomes: Counter[str] = Counter()
        self._settings = settings
        self._topics = topics
        self.mark = f"load-{uuid.uuid4().hex[:8]}-"  # of this run's request ids, before the number
        self._late = array("d")
        self._state = bytearray()
        self._applied = array("d")  # when the last context applied it
        self._accepted = array("d")  # when the network accepted it
        self._open: dict[int, set[str]] = {}  # of payloads with several contexts, those that decided, until all have
        self._due_network = 0  # payloads of which the network is likely to say something
        self._answered = 0  # of which it did
        self._news_at = 0.0  # when something was last read

    @property
    def due(self) -> int:
        """Payloads handed to the producer so far."""
        return len(self._late)

    async def start(self) -> None:
        """Connect; results are read from here on."""
        options = client_options(self._settings.kafka)
        topics = self._settings.topics
        self._ingest, results = INGEST.named(topics.prefix), RESULTS.named(topics.prefix)
        self._producer: Any = AIOKafkaProducer(
            **options,
            acks="all",
            enable_idempotence=True,
            max_batch_size=1 << 20,
            max_request_size=topics.max_payload_bytes + HEADROOM,
        )
        self._reader: Any = AIOKafkaConsumer(**options, isolation_level="read_committed", enable_auto_commit=False)
        try:
            await self._producer.start()
            await self._reader.start()
            self._partitions = sorted(await self._producer.partitions_for(self._ingest))
            numbers = await self._producer.partitions_for(results)
            ends = await self._reader.end_offsets([TopicPartition(results, number) for number in numbers])
        except BaseException:
            await self.stop()
            raise
        self._reader.assign(list(ends))
        for partition, offset in ends.items():
            self._reader.seek(partition, offset)

    async def stop(self) -> None:
        """Disconnect."""
        await self._producer.stop()
        await self._reader.stop()

    async def run(
        self, payloads: Iterable[Generated], seconds: float | None, drain_s: float, tell: Callable[["Load"], None]
    ) -> LoadReport:
        """Send and read until everything is known, or the time to wait for it is over."""
        count = None if seconds is None else max(1, round(self.rate * seconds))
        gc.freeze()  # what was made before the run need not be looked through again and again
        self._began = time.perf_counter()
        cpu = time.process_time()
        self._reading = asyncio.ensure_future(self._read())
        telling = asyncio.ensure_future(_every(TELL_S, lambda: tell(self)))
        try:
            under_way = await self._send(islice(iter(payloads), count))
            sending = self._now()
            cpu_cores = (time.process_time() - cpu) / sending
            await asyncio.gather(*under_way)
            await self._drain(drain_s)
        finally:
            for task in (self._reading, telling):
                task.cancel()
            await asyncio.gather(self._reading, telling, return_exceptions=True)
            gc.unfreeze()
        tell(self)
        return self._report(sending, cpu_cores)

    def _now(self) -> float:
        return time.perf_counter() - self._began

    # --- sending

    async def _send(self, source: Iterator[Generated]) -> set[asyncio.Task[None]]:
        """Hand over what is due, tick by tick. Gives back what the broker has not confirmed yet."""
        turns = itertools.cycle(self._partitions)
        under_way: set[asyncio.Task[None]] = set()
        while True:
            self._still_reading()
            now = self._now()
            wanted = int(now * self.rate) + 1 - self.due
            payloads = list(islice(source, wanted))
            for builder, count in self._batches(payloads, now):
                task = asyncio.create_task(self._deliver(builder, count, next(turns)))
                under_way.add(task)
                task.add_done_callback(under_way.discard)
            if len(payloads) < wanted:
                return under_way
            await asyncio.sleep(TICK_S)

    def _batches(self, payloads: Sequence[Generated], now: float) -> Iterator[tuple[Any, int]]:
        self._state.extend(bytes(len(payloads)))
        self._applied.extend([0.0] * len(payloads))
        self._accepted.extend([0.0] * len(payloads))
        builder, count = self._producer.create_batch(), 0
        for payload in payloads:
            number = self.due
            headers = [(h.REQUEST_ID, f"{self.mark}{number}".encode()), (h.TOPICS, self._topics_of(payload))]
            self._late.append(now - number / self.rate)
            if builder.append(key=None, value=payload.beef, timestamp=None, headers=headers) is None:
                yield builder, count
                builder, count = self._producer.create_batch(), 0
                builder.append(key=None, value=payload.beef, timestamp=None, headers=headers)
            count += 1
        if count:
            yield builder, count

    def _topics_of(self, payload: Generated) -> bytes:
        return _json(tuple(self._topics) if self._topics is not None else payload.topics)

    async def _deliver(self, builder: Any, count: int, partition: int) -> None:
        builder.close()  # a batch left open waits for the linger time
        try:
            await (await self._producer.send_batch(builder, self._ingest, partition=partition))
        except KafkaError:
            self.failed += count
        else:
            self.sent += count

    # --- reading

    def _still_reading(self) -> None:
        if self._reading.done():
            self._reading.result()

    async def _read(self) -> None:
        while True:
            found = await self._reader.getmany(timeout_ms=200)
            if found:
                now = self._now()
                for records in found.values():
                    for record in records:
                        self._see(record, now)
                await asyncio.sleep(TICK_S)

    def _see(self, record: Any, now: float) -> None:
        seen = _seen(record.value)
        for request_id in seen.request_ids:
            if not request_id.startswith(self.mark):
                continue
            self._news_at = now
            number = int(request_id[len(self.mark) :])
            if seen.outcome in ("applied", "rejected", "parked") and (seen.context or not seen.contexts):
                self._decision(seen, number, now)
            elif seen.outcome in ("accepted", "refused", "parked"):
                self._network(seen, number, now)
            else:
                self.outcomes[seen.outcome] += 1

    def _decision(self, seen: _Seen, number: int, now: float) -> None:
        if self._state[number] & DECIDED:
            return  # said again: a stage that fell may repeat itself
        if seen.context is not None and seen.contexts > 1:
            decided = self._open.setdefault(number, set())
            if seen.context in decided:
                return
            decided.add(seen.context)
        self.outcomes[_name(seen)] += 1
        if number in self._watched:
            self.said[number] = _name(seen)
        self.repeats += seen.repeat
        self._due_network += seen.outcome == "applied" and not seen.repeat and not self._state[number] & SENT_ON
        self._state[number] |= SENT_ON if seen.outcome == "applied" else REFUSED
        if number in self._open and len(self._open[number]) < seen.contexts:
            return
        self._open.pop(number, None)
        self.decided += 1
        self._state[number] |= DECIDED
        if not self._state[number] & REFUSED:
            self._applied[number] = now

    def _network(self, seen: _Seen, number: int, now: float) -> None:
        if self._state[number] & ANSWERED:
            return
        self._state[number] |= ANSWERED
        self._answered += 1
        self.outcomes[_name(seen) if seen.outcome != "parked" else f"parked by the network {seen.code}"] += 1
        if seen.outcome == "accepted":
            self._accepted[number] = now

    async def _drain(self, drain_s: float) -> None:
        """Until everything sent is decided and the network has answered, or is not going to."""
        deadline = self._now() + drain_s
        while (now := self._now()) < deadline:
            self._still_reading()
            quiet = now - max(self._news_at, deadline - drain_s) > QUIET_S
            if self.decided >= self.sent - self._endless and (self._answered >= self._due_network or quiet):
                return
            await asyncio.sleep(10 * TICK_S)

    def _report(self, sending: float, cpu_cores: float) -> LoadReport:
        return LoadReport(
            rate=self.rate,
            sent_rate=self.due / sending,
            seconds=sending,
            sent=self.sent,
            failed=self.failed,
            decided=self.decided,
            undecided=max(0, self.sent - self.decided),
            accepted=sum(1 for at in self._accepted if at),
            outcomes=dict(self.outcomes.most_common()),
            repeats=self.repeats,
            applied_ms=self._latency(self._applied),
            accepted_ms=self._latency(self._accepted),
            late_ms=percentiles(self._late),
            cpu_cores=cpu_cores,
        )

    def others_applied_ms(self) -> Latency | None:
        """From when a payload was due until it was applied, of those that are not watched."""
        return percentiles(array("d", [took for n, took in self.took() if n not in self._watched]))

    def took(self) -> Iterator[tuple[int, float]]:
        """Of each payload that was applied its number, and the seconds from when it was due."""
        return ((n, at - n / self.rate) for n, at in enumerate(self._applied) if at)

    def _latency(self, times: "array[float]") -> Latency | None:
        return percentiles(array("d", [at - number / self.rate for number, at in enumerate(times) if at]))


DECIDED, REFUSED, SENT_ON, ANSWERED = 1, 2, 4, 8
"""Bits of a payload's state: every context decided; one did not apply it; one applied it; the network answered."""

_json = functools.cache(msgspec.json.encode)
_seen = msgspec.json.Decoder(_Seen).decode


def _name(seen: _Seen) -> str:
    return f"{seen.outcome} {seen.code}" if seen.code else seen.outcome


def percentiles(seconds: "array[float]") -> Latency | None:
    """Of times in seconds, by nearest rank; None of none."""
    if not seconds:
        return None
    ordered = sorted(seconds)
    at = [ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)] for share in (0.5, 0.95, 0.99, 1.0)]
    return Latency(*(round(1000 * value, 3) for value in at))


async def _every(seconds: float, call: Callable[[], None]) -> None:
    while True:
        await asyncio.sleep(seconds)
        call()


# --- payloads nobody sent before


def fresh(count: int, kinds: Sequence[str], chain: Chain, size: int | None = None) -> list[Generated]:
    """Payloads from coins that no earlier call took: a repeat is answered from the journal and measures something else.

    kinds: names of `generate.kind_names`, taken in turn. Groups count as the payloads they hold.
    Cost: 130 us a payload of the simplest kind; a second now and then, when the chain has to grow.

    Raises:
        KeyError: no such kind.
    """
    with (chain.folder / "load.coins").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        generator = Generator(chain, first=int(file.read() or FIRST_COIN))
        made = itertools.chain.from_iterable(generator.make(kind, size) for kind in itertools.cycle(kinds))
        payloads = list(islice(made, count))
        file.truncate(0)
        file.write(str(generator.shop.next_coin))
    return payloads


FIRST_COIN = COIN_BLOCKS * COINS
"""Seeds of `beefline generate` have the coins below, those of a chain's first stretch."""
