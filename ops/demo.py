"""The demo's story: 500 payloads through a whole installation, with faults on the way, and every outcome foretold."""

import asyncio
import io
import json
import re
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from msgspec import Struct
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table

from agents.runtime.connection import client_options
from ops.home import home, move_to
from ops.installation import Installation
from ops.instruments.chain import Chain
from ops.instruments.generate import Generator
from ops.instruments.payloads import Generated, mainnet
from ops.instruments.standing import Standing, word
from ops.settings import Settings
from ops.status import group_lags
from schemas.external import RESULT
from topics.registry import DEAD_LETTERS, INGEST, RESULTS

PAYLOADS = 500
RATE = 45.0
"""Payloads a second: eleven seconds of traffic, in which two services fail and come back."""

WITHIN_S = 60.0
"""For everything to be decided. A double spend waits for one retry tier, 10 s."""

INVALID = (
    "truncated",
    "trailing-bytes",
    "magic",
    "varint",
    "txid-only",
    "missing-parent",
    "spent-twice",
    "bad-signature",
    "inflation",
    "wrong-root",
    "not-in-bump",
)
OF_EACH = 3
DUPLICATES = 10
DOUBLE_SPENDS = 10
TOKENS = 10
SHAPES = (
    ("chain", 3, 30), ("fan-in", 5, 20), ("data", 1, 20), ("hello", 1, 40), ("hosting", 65_536, 20), ("atomic", 1, 20),
    ("v2", 1, 20),
)  # fmt: skip
"""Shape, size, how many; simple payments fill up the rest."""

ARC_DOWN = (3.0, 4.0)
HEADERS_DOWN = (5.0, 4.0)
"""Seconds after the first payload, and for how long."""


class Step(Struct, frozen=True):
    """One payload of the story."""

    request: str
    group: str  # a row of the final table
    payload: Generated
    topics: tuple[str, ...]
    key: str


class Story(Struct, frozen=True):
    """What is sent, and what must come of it."""

    steps: tuple[Step, ...]
    expected: dict[str, Counter[str]]  # by group: outcomes, as `standing.word` spells them


def write(generator: Generator) -> Story:
    """The story, the same for the same chain and seed."""
    steps: list[Step] = []
    expected: dict[str, Counter[str]] = {}

    def tell(group: str, payload: Generated, *outcomes: str, key: str = "") -> None:
        request = f"demo-{len(steps):03d}"
        steps.append(Step(request, group, payload, payload.topics, key or request))
        expected.setdefault(group, Counter()).update(outcomes)

    real = mainnet()
    for payload in real:
        # One transaction comes twice: with its own proof, which needs no broadcast, and then un-mined: a repeat.
        again = payload.txid in {step.payload.txid for step in steps}
        outcomes = ["applied (repeat)" if again else "applied"]
        if payload.unmined and not again:
            outcomes.append("accepted")
        tell("mainnet", payload, *outcomes, key="mainnet")
    for shape, size, count in SHAPES:
        for payload in generator.valid(count, shape=shape, size=size):
            tell(shape, payload, *["applied"] * len(payload.topics), "accepted")
    for kind in INVALID:
        for _ in range(OF_EACH):
            payload = generator.invalid(kind)
            tell(f"invalid: {kind}", payload, f"rejected {payload.expect.code}")
    for _ in range(DUPLICATES):
        first, second = generator.duplicate()
        tell("duplicate", first, "applied", "accepted", key=first.id)
        tell("duplicate", second, "applied (repeat)", key=first.id)
    for _ in range(DOUBLE_SPENDS):
        one, rival = generator.double_spend()
        tell("double spend", one, "applied", "accepted")
        tell("double spend", rival, "rejected conflict.double-spend")
    for _ in range(TOKENS):
        made, moved = generator.tokens()
        for payload in (made, moved):
            tell("tokens", payload, "applied", "accepted", key=made.id)
    for payload in generator.valid(PAYLOADS - len(steps)):
        tell("payment", payload, "applied", "accepted")
    return Story(tuple(_mix(steps)), expected)


def _mix(steps: Sequence[Step]) -> list[Step]:
    """Spread the groups over the time, keeping the order within each: the mainnet pair and duplicates need it."""
    sizes = Counter(step.group for step in steps)
    placed: Counter[str] = Counter()
    spread: list[tuple[float, int, Step]] = []
    for step in steps:
        spread.append((placed[step.group] / sizes[step.group], len(spread), step))
        placed[step.group] += 1
    return [step for _, _, step in sorted(spread, key=lambda item: item[:2])]


class Scene:
    """What the audience sees while it runs."""

    def __init__(self, story: Story) -> None:
        self.story = story
        self.sent = 0
        self.began = time.monotonic()
        self.lags: dict[str, int] = {}
        self.standing = Standing()
        self.news: list[str] = []
        self.groups = {step.request: step.group for step in story.steps}

    def tell(self, line: str) -> None:
        """Something happened."""
        self.news.append(f"{time.monotonic() - self.began:5.1f} s  {line}")

    def seen(self) -> dict[str, Counter[str]]:
        """Outcomes by group, as they stand."""
        found: dict[str, Counter[str]] = {}
        for result in (*self.standing.decisions(), *self.standing.network()):
            for request in result.request_ids[:1]:
                found.setdefault(self.groups.get(request, "unknown"), Counter())[word(result)] += 1
        return found

    def done(self) -> bool:
        """Whether everything foretold has come."""
        return self.seen() == self.story.expected

    def render(self) -> Group:
        """The picture."""
        took = time.monotonic() - self.began
        counts = self.standing.counts()
        numbers = Table.grid(padding=(0, 2))
        rows = (
            ("sent", f"{self.sent} of {len(self.story.steps)}"),
            ("applied", str(sum(n for key, n in counts.items() if key.startswith("applied")))),
            ("accepted by the network", str(counts["accepted"])),
            ("rejected", str(sum(n for key, n in counts.items() if key.startswith("rejected")))),
            ("results a second", f"{self.standing.seen / max(took, 0.1):.0f}"),
        )
        for row in rows:
            numbers.add_row(*row)
        lags = Table.grid(padding=(0, 2))
        lags.add_row("stage", "lag")
        for stage, lag in self.lags.items():
            lags.add_row(stage, str(lag))
        both = Table.grid(padding=(0, 6))
        both.add_row(numbers, lags)
        return Group(Panel(both, title=f"beefline demo, {took:.0f} s", width=78), *self.news[-6:])


async def run(console: Console, picture: Path | None = None) -> bool:
    """Play it; whether everything came as foretold.

    picture: an SVG of the last scene and the table is written there.
    """
    move_to(home() / "demo")
    began = time.monotonic()
    installation = Installation(say=lambda what: console.print(f"starting: {what}"))
    try:
        loaded = await installation.start()
        console.print(f"up in {time.monotonic() - began:.0f} s")
        story = write(Generator(Chain.open(home() / "simulate" / "chain"), seed=1))
        scene = Scene(story)
        await _play(installation, loaded.settings, scene, console)
        _close(console, scene, loaded.settings)
        if picture is not None:
            drawn = Console(record=True, width=96, file=io.StringIO())
            drawn.print(scene.render())
            _close(drawn, scene, loaded.settings)
            _draw(drawn, picture)
        return scene.done()
    finally:
        await installation.stop()
        console.print(f"stopped; {time.monotonic() - began:.0f} s in all")


async def _play(installation: Installation, settings: Settings, scene: Scene, console: Console) -> None:
    options = client_options(settings.kafka)
    producer = AIOKafkaProducer(**options, enable_idempotence=True, max_request_size=16 << 20)
    consumer = AIOKafkaConsumer(
        RESULTS.named(settings.topics.prefix),
        **options,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    await producer.start()
    await consumer.start()
    scene.began = time.monotonic()
    work = [
        asyncio.ensure_future(_send(producer, settings, scene)),
        asyncio.ensure_future(_break_things(installation, scene)),
    ]
    background = [asyncio.ensure_future(_read(consumer, scene)), asyncio.ensure_future(_look_at_lag(settings, scene))]
    try:
        with Live(scene.render(), console=console, refresh_per_second=4, get_renderable=scene.render):
            await asyncio.gather(*work)
            while not scene.done() and time.monotonic() - scene.began < WITHIN_S:
                await asyncio.sleep(0.1)
                _raise_first(background)
    finally:
        for task in (*work, *background):
            task.cancel()
        await asyncio.gather(*work, *background, return_exceptions=True)
        await producer.stop()
        await consumer.stop()


def _raise_first(tasks: Sequence[asyncio.Future[Any]]) -> None:
    for task in tasks:
        if task.done():
            task.result()


async def _send(producer: AIOKafkaProducer, settings: Settings, scene: Scene) -> None:
    """Open loop: each payload at its time, whatever has come of the others."""
    topic = INGEST.named(settings.topics.prefix)
    for number, step in enumerate(scene.story.steps):
        wait = number / RATE - (time.monotonic() - scene.began)
        if wait > 0:
            await asyncio.sleep(wait)
        headers = [("request-id", step.request.encode()), ("topics", json.dumps(step.topics).encode())]
        await producer.send(topic, step.payload.beef, key=step.key.encode(), headers=headers)
        scene.sent += 1
    await producer.flush()
    scene.tell("all payloads are sent")


async def _read(consumer: AIOKafkaConsumer, scene: Scene) -> None:
    async for record in consumer:
        scene.standing.take(RESULT.decode(record.value, record.headers))


async def _look_at_lag(settings: Settings, scene: Scene) -> None:
    while True:
        scene.lags = await group_lags(settings.kafka, settings.topics)
        await asyncio.sleep(0.5)


async def _break_things(installation: Installation, scene: Scene) -> None:
    assert installation.services is not None
    dialect, url = installation.services.headers[-1]
    base = url.split("/v1/")[0]
    async with aiohttp.ClientSession() as session:
        for what, address, (at, for_s) in (
            ("an ARC endpoint", installation.services.arcs[0], ARC_DOWN),
            (f"a header service ({dialect})", base, HEADERS_DOWN),
        ):
            await asyncio.sleep(max(0.0, at - (time.monotonic() - scene.began)))
            order = {"mode": "down", "for_s": for_s}
            async with session.post(f"{address}/simulate/faults", data=msgspec.json.encode(order)) as response:
                response.raise_for_status()
            scene.tell(f"{what} goes down for {for_s:.0f} s")


def _draw(drawn: Console, picture: Path) -> None:
    """Without the fonts that rich would load from elsewhere: a page with the picture asks nobody for anything."""
    svg = re.sub(r"\s*@font-face \{.*?\}", "", drawn.export_svg(title="make demo"), flags=re.DOTALL)
    picture.write_text(svg, encoding="utf-8")


def _close(console: Console, scene: Scene, settings: Settings) -> None:
    seen = scene.seen()
    table = Table(title="Outcomes against what was foretold", title_justify="left", header_style="bold")
    for column in ("payloads", "outcome", "foretold", "seen", ""):
        table.add_column(column, justify="right" if column in ("foretold", "seen") else "left")
    differences = 0
    for group in sorted({*scene.story.expected, *seen}):
        wanted, came = scene.story.expected.get(group, Counter()), seen.get(group, Counter())
        for outcome in sorted({*wanted, *came}):
            right = wanted[outcome] == came[outcome]
            differences += not right
            mark = "" if right else "[bold red]differs[/]"
            table.add_row(group, outcome, str(wanted[outcome]), str(came[outcome]), mark)
    console.print(table)
    took = time.monotonic() - scene.began
    console.print(
        f"{len(scene.story.steps)} payloads, {sum(map(sum, (c.values() for c in seen.values())))} outcomes "
        f"in {took:.0f} s, [bold]{differences or 'no'} difference{'s' if differences != 1 else ''}[/]."
    )
    prefix = settings.topics.prefix
    console.print(
        "\nWhere to look next:\n"
        f"  topics     {prefix}ingest, {prefix}results, {prefix}journal, {prefix}transactions, "
        f"{DEAD_LETTERS.named(prefix)}\n"
        f"  groups     {prefix}beefline-parse, -verify, -apply, -broadcast, -retry\n"
        "  commands   beefline up --dev        the same installation, to play with\n"
        "             beefline submit --wait   send a payload and see what becomes of it\n"
        "             beefline kafka consumer-groups --describe --all-groups"
    )


def main(console: Console, picture: Path | None = None) -> bool:
    """Play it in an event loop of its own."""
    return asyncio.run(run(console, picture))


def log_folder() -> Path:
    """Where the demo's workers log."""
    return home() / "logs"
