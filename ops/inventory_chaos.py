"""The fault scenario of reservations: buyers in a crowd, some of them killed while they hold what they want to buy."""

import asyncio
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from statistics import quantiles

import msgspec
from msgspec import Struct, field

from beefline.client import Client
from beefline.reading import StateReader
from ops.home import home
from ops.installation import Installation, NotReady
from ops.instruments.audit import audit
from ops.instruments.audit.report import Finding, Report
from ops.instruments.buyers import Line, Plan, buy, stock_of
from ops.instruments.stock import Stock
from ops.running import running_workers
from ops.scenario import Asked, Outcome, Say
from ops.settings import Settings
from pipeline import state
from pipeline.read import shown
from schemas.external import ExportedEntry
from schemas.types import Context

UNITS = 1_000

PER_UNIT = 10
"""Attempts: ten thousand on a thousand units."""

PROCESSES, EACH, HERE = 6, 8, 16
"""Processes of buyers, and buyers in each; and buyers in this process: 64 at once."""

LEASE_S = 3

SETTLED_WITHIN_S = 180.0

KINDS = {
    "oversold": "What is sold, free and held does not make up what there is.",
    "sold-twice": "A unit left the stock more than once, or two buyers were told that they have it.",
    "held-twice": "A unit was held by two reservations at once.",
    "never-ends": "A reservation stands though its lease is over.",
    "told-otherwise": "A buyer was told something that the journal does not say.",
}


class Books(Struct):
    """What a journal says of some units, entry by entry."""

    units: frozenset[str]
    placed: set[str] = set()
    free: set[str] = set()  # coins; those that are held too
    held: set[str] = set()
    left: Counter[str] = field(default_factory=Counter)  # how often a unit ceased to be a coin
    standing: set[bytes] = set()  # reservations
    kinds: Counter[str] = field(default_factory=Counter)
    checked: int = 0  # entries at which all units were there, and the sums were right
    findings: dict[str, list[str]] = {}

    def find(self, kind: str, what: str) -> None:
        """Something is wrong."""
        self.findings.setdefault(kind, []).append(what)


def read_books(context: Context, units: Iterable[str], entries: Iterable[ExportedEntry]) -> Books:
    """Walk a journal: at every sequence what is sold, free and held makes up what there is."""
    books = Books(frozenset(units))
    at = len(context.encode()) + 1
    for entry in entries:
        books.kinds[entry.kind] += 1
        removed = {bytes.fromhex(each.key)[at:] for each in entry.effects.removed}
        added = {bytes.fromhex(each.key)[at:] for each in entry.effects.added}
        for point in _points(state.RESERVED, removed & added, books.units):
            books.find("held-twice", f"sequence {entry.sequence}: {point}")
        for keys, change in ((removed - added, set.discard), (added - removed, set.add)):
            for kind, where in ((state.PLACED, books.placed), (state.COIN, books.free), (state.RESERVED, books.held)):
                for point in _points(kind, keys, books.units):
                    change(where, point)
            for key in keys:
                if key[:1] == state.RESERVATION:
                    change(books.standing, key[1:])
        for point in _points(state.COIN, removed - added, books.units):
            books.left[point] += 1
            if books.left[point] > 1:
                books.find("sold-twice", f"sequence {entry.sequence}: {point}")
        if books.placed == books.units:
            sold, free, held = books.units - books.free, books.free - books.held, books.held
            if len(sold) + len(free) + len(held) != len(books.units):
                said = f"{len(sold)} sold, {len(free)} free, {len(held)} held of {len(books.units)}"
                books.find("oversold", f"sequence {entry.sequence}: {said}")
            books.checked += 1
    return books


def _points(kind: bytes, keys: Iterable[bytes], units: frozenset[str]) -> Iterator[str]:
    for key in keys:
        if key[:1] == kind and (point := shown(key[1:])) in units:
            yield point


class Crowd:
    """All buyers, and what they say."""

    def __init__(self, plan: Plan, seed: int, say: Say) -> None:
        self._plan = plan
        self._random = random.Random(seed)
        self._say = say
        self._children: dict[str, asyncio.subprocess.Process] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stop = asyncio.Event()
        self._number = 0
        self._prey: asyncio.Future[str] | None = None  # the next one of another process that holds something
        self.said: Counter[str] = Counter()
        self.took_ms: list[float] = []
        self.sold: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.killed = 0
        self.changed = asyncio.Event()

    @property
    def attempts(self) -> int:
        """That were answered."""
        return len(self.took_ms)

    async def start(self) -> None:
        """All at once."""
        for _ in range(PROCESSES):
            await self._one()
        here = msgspec.structs.replace(self._plan, buyers=HERE, name="here")
        self._begin(buy(here, self._stop, lambda line: self._hear("here", line)))

    def _begin(self, work: object) -> None:
        self._tasks.add(asyncio.ensure_future(work))  # type: ignore[call-overload]

    async def _one(self) -> None:
        self._number += 1
        name = f"process{self._number}"
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "ops.instruments.buyers",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        self._children[name] = child
        assert child.stdin is not None
        plan = msgspec.structs.replace(self._plan, buyers=EACH, name=name, seed=self._number)
        child.stdin.write(msgspec.json.encode(plan) + b"\n")
        await child.stdin.drain()
        self._begin(self._listen(name, child))

    async def _listen(self, name: str, child: asyncio.subprocess.Process) -> None:
        assert child.stdout is not None
        while line := await child.stdout.readline():
            with suppress(msgspec.DecodeError):  # cut off by a kill
                self._hear(name, msgspec.json.decode(line, type=Line))
        await child.wait()

    def _hear(self, name: str, line: Line) -> None:
        self.said[f"{line.what} {line.says}".rstrip() if line.what == "refused" else line.what] += 1
        if line.ms:
            self.took_ms.append(line.ms)
            self.changed.set()
        if line.what == "sold":
            self.sold.update(line.units)
        if line.what == "wrong":
            self.wrong.append(f"{line.says}: {', '.join(line.units)}")
        if line.what == "holding" and self._prey is not None and not self._prey.done() and name in self._children:
            self._prey.set_result(name)

    async def until(self, attempts: int) -> None:
        """So many were made.

        Raises:
            ops.installation.NotReady: nobody gets an answer any more.
        """
        while self.attempts < attempts:
            self.changed.clear()
            try:
                async with asyncio.timeout(SETTLED_WITHIN_S):
                    await self.changed.wait()
            except TimeoutError as error:
                raise NotReady(f"no buyer got an answer within {SETTLED_WITHIN_S:.0f} s") from error

    async def kill(self) -> None:
        """kill -9 of a process of buyers just when one of them holds something; another takes its place."""
        self._prey = asyncio.get_running_loop().create_future()
        async with asyncio.timeout(SETTLED_WITHIN_S):
            name = await self._prey
        child = self._children.pop(name)
        child.send_signal(signal.SIGKILL)
        self.killed += 1
        self._say(f"{name} killed with what it holds, after {self.attempts} attempts")
        await self._one()

    async def end(self) -> None:
        """Each ends what it has begun."""
        self._stop.set()
        for child in self._children.values():
            assert child.stdin is not None
            child.stdin.close()
        async with asyncio.timeout(SETTLED_WITHIN_S):
            await asyncio.gather(*self._tasks)

    async def abandon(self) -> None:
        """Whatever happened."""
        for child in self._children.values():
            if child.returncode is None:
                child.kill()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class Sale(Struct):
    """What became of it."""

    crowd: Crowd
    books: Books
    attempts: int
    seconds: float  # those took

    def findings(self) -> dict[str, list[str]]:
        """What the journal says that may not be, and what buyers were told and it does not say."""
        books, crowd = self.books, self.crowd
        found = {kind: list(whats) for kind, whats in books.findings.items()}
        found.setdefault("told-otherwise", []).extend(crowd.wrong)
        for point, times in crowd.sold.items():
            if times > 1:
                found.setdefault("sold-twice", []).append(f"{times} buyers were told that they have {point}")
            if not books.left[point]:
                found["told-otherwise"].append(f"{point} was sold, and is there")
        found["never-ends"] = [reservation.decode() for reservation in sorted(books.standing)]
        return {kind: found[kind] for kind in KINDS if found.get(kind)}

    def counts(self) -> dict[str, int]:
        """By what buyers said, and by what the journal says."""
        return {
            "sequences at which all units are accounted for": self.books.checked,
            **{f"buyers: {what}": count for what, count in sorted(self.crowd.said.items())},
            **{f"entries: {kind}": count for kind, count in sorted(self.books.kinds.items())},
        }


async def sell(settings: Settings, asked: Asked, kill_apply: Callable[[], None] | None = None) -> Sale:
    """Supply an owner, let buyers in, kill some, and read the journal when the last has left.

    kill_apply: with every fourth of those.
    """
    units = max(1, min(UNITS, asked.records // PER_UNIT))
    plan = Plan(
        bootstrap=settings.kafka.bootstrap,
        prefix=settings.topics.prefix,
        chain=str(home() / "simulate" / "chain"),
        chain_seed=asked.seed % 96,
        units=units,
        owner=asked.seed,
        lease_s=LEASE_S,
        buyers=EACH,
        name="",
        seed=asked.seed,
    )
    stock = await asyncio.to_thread(stock_of, plan)
    await _supply(stock, plan)
    asked.say(f"{units} units for sale")
    crowd = Crowd(plan, asked.seed, asked.say)
    try:
        await crowd.start()
        began = time.monotonic()
        for fault in range(1, asked.faults + 1):
            await crowd.until(asked.records * fault // (asked.faults + 1))
            await crowd.kill()
            if kill_apply is not None and not fault % 4:
                asked.say("apply killed")
                kill_apply()
        await crowd.until(asked.records)
        took_s, attempts = time.monotonic() - began, crowd.attempts
        await crowd.end()
    finally:
        await crowd.abandon()
    asked.say("all buyers have left; waiting until the last lease has ended")
    return Sale(crowd, await _books(stock), attempts, took_s)


async def run(name: str, asked: Asked) -> Outcome:
    """64 buyers at once on a thousand units, killed while they hold some: none is sold twice, all leases end."""
    installation = Installation(flags=asked.flags, say=lambda what: asked.say(f"starting: {what}"))
    began = time.monotonic()
    try:
        settings = (await installation.start()).settings
        workers = installation.workers
        assert workers is not None
        sale = await sell(settings, asked, lambda: workers.child("apply").tell(signal.SIGKILL))
        await installation.until_ready(SETTLED_WITHIN_S)
        assert installation.services is not None
        report = await audit(settings, arcs=installation.services.arcs, wait_s=SETTLED_WITHIN_S, roots=True)
        restarts = sum(child.restarts for child in workers.children)
        took_s = time.monotonic() - began
        crowd = sale.crowd
        return Outcome(name, crowd.attempts, crowd.killed, restarts, took_s, _report(report, sale), _figures(sale))
    finally:
        await installation.stop()


async def _supply(stock: Stock, plan: Plan) -> None:
    async with Client(plan.bootstrap, prefix=plan.prefix) as client:
        for beef, baskets in stock.payloads():
            outcome = await client.submit_and_wait(beef, baskets=baskets, timeout=SETTLED_WITHIN_S)
            if outcome.state != "applied":
                raise NotReady(f"units are {outcome.state}: {outcome.code} {outcome.message}")


async def _books(stock: Stock) -> Books:
    """The journal of the owner, once nothing is held any more, or should not be."""
    context = f"owner:{stock.name}"
    deadline = time.monotonic() + LEASE_S + SETTLED_WITHIN_S
    async with StateReader(running_workers()[0].http) as reader:
        while [each async for each in reader.reservations(stock.name)] and time.monotonic() < deadline:
            await asyncio.sleep(0.2)
        return read_books(context, stock.outpoints, [entry async for entry in reader.journal(context)])


def _report(report: Report, sale: Sale) -> Report:
    mine = [Finding(kind, KINDS[kind], len(whats), tuple(whats[:10])) for kind, whats in sale.findings().items()]
    return msgspec.structs.replace(report, counts=report.counts | sale.counts(), findings=(*report.findings, *mine))


def _figures(sale: Sale) -> tuple[str, ...]:
    took_ms, books = sale.crowd.took_ms, sale.books
    slow = quantiles(took_ms, n=100) if len(took_ms) > 1 else [0.0] * 99
    return (
        f"{sale.attempts:,} attempts in {sale.seconds:.0f} s: {sale.attempts / sale.seconds:.0f} a second; "
        f"an answer took {slow[49]:.0f} ms (median), {slow[98]:.0f} ms (99 %)",
        f"{len(books.units - books.free):,} of {len(books.units):,} units sold, "
        f"{len(books.free - books.held):,} free, {len(books.held):,} held at the end",
    )
