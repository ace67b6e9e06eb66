"""`beefline bench broadcast`: the broadcaster without Kafka, beside a bare HTTP client that posts the same bodies."""

import asyncio
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import aiohttp
from msgspec import Struct

from agents.broadcast import Broadcast
from agents.runtime.endpoint_settings import BroadcastSettings
from agents.runtime.http import HttpSettings
from agents.runtime.records import Emit
from agents.runtime.settings import WorkerSettings
from ops.home import home
from ops.instruments.wire import Output, hash256, p2pkh, push, write_extended, write_transaction
from pipeline.broadcasters.arc import Arc
from schemas.flow import BROADCAST_REQUEST, BroadcastRequest, Origin, Unmined
from schemas.types import Txid, outpoint

Say = Callable[[str], None]

TRANSACTIONS = 20_000
BYTES = 266
DELAY_MS = 20
ROUNDS = 3
ENDPOINTS = (1, 2, 4)
FAMILIES = (1, 4, 11)
"""Transactions of a request: the subject alone, or with 3 or 10 un-mined ancestors."""

TARGET = 3_000
"""Transactions a second, on one core, with one endpoint."""


class Passed(Struct, frozen=True):
    """One way of handing all of them over."""

    wall_s: float
    cpu_s: float

    @property
    def rate(self) -> float:
        """Transactions a second."""
        return TRANSACTIONS / self.wall_s

    @property
    def cpu_us(self) -> float:
        """Of a transaction."""
        return self.cpu_s / TRANSACTIONS * 1e6


class Row(Struct, frozen=True):
    """What one setting comes to: medians."""

    endpoints: int
    family: int
    stage: Passed
    bare: Passed


class Record(Struct):
    """A record as the stage gets it."""

    value: bytes
    key: bytes
    offset: int
    topic: str = "beef.broadcast"
    partition: int = 0
    timestamp: int = 0
    headers: Sequence[tuple[str, bytes]] = (BROADCAST_REQUEST.header,)


def transactions() -> list[Unmined]:
    """P2PKH payments of one length; their signatures are noise, since nobody here looks at them."""
    draw = random.Random(7)
    made = []
    for _ in range(TRANSACTIONS):
        unlocking = push(draw.randbytes(72)) + push(draw.randbytes(33))
        inputs = [(outpoint(draw.randbytes(32), draw.randrange(4)), unlocking, 0xFFFFFFFF)]
        outputs: list[Output] = [(draw.randrange(1 << 20), p2pkh(draw.randbytes(20))) for _ in range(2)]
        spent = [(draw.randrange(1 << 21, 1 << 22), p2pkh(draw.randbytes(20)))]
        txid = hash256(write_transaction(inputs, outputs))
        made.append(Unmined(txid, write_extended(inputs, spent, outputs)))
        assert len(made[-1].ef) == BYTES
    return made


def requests(made: Sequence[Unmined], family: int) -> list[Record]:
    """All of them once, so many to a request."""
    records = []
    for offset, at in enumerate(range(0, len(made) - family + 1, family)):
        members = tuple(made[at : at + family])
        subject: Txid = members[-1].txid
        origin = Origin("bench", "beef.ingest", 0, offset, 1)
        request = BroadcastRequest(subject, members, ("topic:tm_bench",), (f"request-{offset}",), origin)
        records.append(Record(BROADCAST_REQUEST.encode(request), subject, offset))
    return records


@contextmanager
def arcs(made: Sequence[Unmined], count: int) -> Iterator[list[str]]:
    """Endpoints on the other core; their URLs."""
    file = home() / "bench-transactions"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"".join(each.txid + each.ef for each in made))
    (length,) = {len(each.ef) for each in made}
    command = [sys.executable, "-m", "ops.instruments.prompt_arc", str(file), str(length), str(DELAY_MS)]
    running: list[subprocess.Popen[bytes]] = []
    try:
        urls = []
        for _ in range(count):
            process = subprocess.Popen(command, stdout=subprocess.PIPE)
            running.append(process)
            os.sched_setaffinity(process.pid, {max(os.sched_getaffinity(0))})
            assert process.stdout is not None
            urls.append(process.stdout.readline().decode().split()[1])
        yield urls
    finally:
        for process in running:
            process.terminate()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        Path(file).unlink()


async def by_stage(records: Sequence[Record], urls: Sequence[str]) -> Passed:
    """What the stage does with its records: read, send, decide, and encode what follows."""
    stage = Broadcast(BroadcastSettings(endpoints=tuple(f"arc={url}" for url in urls)), HttpSettings())
    worker = WorkerSettings()
    size = worker.batch_records
    in_hand = asyncio.Semaphore(max(1, worker.max_in_flight // size))
    now_ms = int(time.time() * 1000)

    async def pass_on(batch: Sequence[Record]) -> None:
        async with in_hand:
            async for some, gathered in stage.gather(batch):  # type: ignore[arg-type]
                for record in some:
                    assert isinstance(stage.decide(record, gathered, now_ms), Emit)

    await stage.start()
    try:
        wall, cpu = time.monotonic(), time.process_time()
        await asyncio.gather(*(pass_on(records[at : at + size]) for at in range(0, len(records), size)))
        return Passed(time.monotonic() - wall, time.process_time() - cpu)
    finally:
        await stage.stop()


async def bare(made: Sequence[Unmined], urls: Sequence[str]) -> Passed:
    """The same bodies, as many at once to each endpoint, and nothing done with the replies."""
    settings = BroadcastSettings()
    size, arc = settings.batch, Arc()
    calls = [arc.submit([each.ef for each in made[at : at + size]], "RECEIVED") for at in range(0, len(made), size)]
    async with aiohttp.ClientSession() as session:

        async def post(slots: asyncio.Semaphore, url: str, number: int) -> None:
            call = calls[number]
            async with slots, session.post(f"{url}{call.path}", data=call.body, headers=dict(call.headers)) as reply:
                await reply.read()

        slots = {url: asyncio.Semaphore(settings.concurrency) for url in urls}
        wall, cpu = time.monotonic(), time.process_time()
        await asyncio.gather(*(post(slots[url], url, n) for url in urls for n in range(len(calls))))
        return Passed(time.monotonic() - wall, time.process_time() - cpu)


def median(runs: Sequence[Passed]) -> Passed:
    """Of each figure."""
    return Passed(statistics.median(run.wall_s for run in runs), statistics.median(run.cpu_s for run in runs))


def measure(say: Say) -> list[Row]:
    """Every setting; this process on one core, endpoints on another."""
    made, rows = transactions(), []
    before = os.sched_getaffinity(0)
    for count, family in [(n, 1) for n in ENDPOINTS] + [(1, size) for size in FAMILIES[1:]]:
        records = requests(made, family)
        with arcs(made, count) as urls:
            os.sched_setaffinity(0, {min(before)})
            try:
                stage, plain = [], []
                for _ in range(ROUNDS):
                    stage.append(asyncio.run(by_stage(records, urls)))
                    plain.append(asyncio.run(bare(made, urls)))
            finally:
                os.sched_setaffinity(0, before)
        rows.append(Row(count, family, median(stage), median(plain)))
        last = rows[-1]
        say(f"{count} endpoints, families of {family}: {last.stage.rate:,.0f}/s, {last.stage.cpu_us:.0f} us")
    return rows


def page(rows: Sequence[Row]) -> str:
    """As Markdown."""
    lines = [
        "## The broadcaster alone", "",
        f"{TRANSACTIONS:,} P2PKH payments of {BYTES} bytes in Extended Format, {BroadcastSettings().batch} to a call, "
        f"{BroadcastSettings().concurrency} at once, to endpoints that answer after {DELAY_MS} ms, on another core. "
        "*Bare*: aiohttp posts the same bodies and reads the replies. Each request goes to every endpoint. "
        f"Medians of {ROUNDS} runs, in turn.", "",
        "| endpoints | transactions in a request | transactions/s | CPU us | bare: transactions/s | CPU us | ratio |",
        "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in rows:
        ratio = row.stage.cpu_us / row.bare.cpu_us
        lines.append(
            f"| {row.endpoints} | {row.family} | {row.stage.rate:,.0f} | {row.stage.cpu_us:.0f} | "
            f"{row.bare.rate:,.0f} | {row.bare.cpu_us:.0f} | {ratio:.1f} |"
        )
    return "\n".join([*lines, "", f"Target: {TARGET:,} a second on one core, with one endpoint.", ""])


def run(say: Say) -> str:
    """Measure, and tell."""
    return page(measure(say))
