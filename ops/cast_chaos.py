"""Fault scenarios of broadcasting: endpoints that fail in every way known to us, and none that answers at all."""

import asyncio
import json
import random
import re
import signal
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from aiokafka import AIOKafkaProducer

from agents.runtime.connection import client_options
from ops.home import home
from ops.installation import Installation
from ops.instruments.audit import audit
from ops.instruments.audit.report import Finding, Report
from ops.instruments.chain import Chain
from ops.instruments.generate import Generator
from ops.instruments.payloads import Generated
from ops.letters import Wanted, find
from ops.running import running_workers
from ops.scenario import Asked, Outcome
from ops.settings import Loaded
from ops.simulate.endpoint import POISON
from ops.status import group_lags
from schemas.types import display
from topics.registry import INGEST

MIX = {"p2pkh": 0.7, "chain": 0.2, "fan-in": 0.1}
"""What an honest network takes whole: families among it, and nothing that any endpoint should refuse."""

FAULTS: tuple[Mapping[str, Any], ...] = (
    {"mode": "down"},
    {"mode": "hang"},
    {"mode": "5xx", "status": 500},
    {"mode": "5xx", "status": 503},
    {"mode": "429", "retry_after_s": 2},
    {"mode": "reject", "ratio": 0.5},
    {"mode": "orphan", "ratio": 0.5},
    {"mode": "reordered"},
    {"mode": "partial"},
    {"mode": "malformed"},
    {"mode": "lost-reply"},
    {"mode": "wrong-txid", "ratio": 0.3},
)
"""Each alone, in turn, at one of the endpoints; then drawn at random."""

BRISK = (
    "http.probe_after_s=0.5",
    "broadcast.timeout_s=2",
    "broadcast.max_wait_s=1",
    "supervisor.backoff_max_s=0.5",
    "worker.instance=one",
)
"""An endpoint is asked again within each fault's few seconds, a hanging one costs less, and a worker that is killed at
short intervals works in between: its group knows it again, and need not wait for its session's end."""

LIAR = 1
"""The one endpoint that refuses what is good, or chokes on it: both would be a refusal, though at different times."""

KILLED_EVERY_S = 5.0
RANDOM_S = 1.0
POISONED = 250
"""One of so many payloads is one that an endpoint chokes on, with whatever stands in the same call."""

AWAY = 0.8
"""Of the load's time, that no endpoint answers."""

SETTLED_WITHIN_S = 900.0

DRAINED_AGE_S = 5.0
"""What the oldest input's age may be when everything is decided: the next look at it comes within a second."""

KINDS = {
    "refused": "Refused, or given up by broadcast, though an endpoint that was up would have taken it.",
    "out-of-order": "A child came to an endpoint before its parent.",
    "not-quiet": "A worker ended or was ended while nothing but endpoints was away.",
    "grew": "The broadcaster's memory grew while endpoints were away.",
    "not-noticed": "Lag or oldest age did not rise while endpoints were away, or the stage did not say that it waits.",
    "not-drained": "With all decided, an input of broadcast still waits.",
    "late": "One endpoint refused, the other was away for good, and nobody decided within the limit.",
}
"""Findings of these scenarios' own."""


class Endpoints:
    """The simulated endpoints of an installation, and their faults."""

    def __init__(self, urls: tuple[str, ...], session: aiohttp.ClientSession) -> None:
        self.urls = urls
        self._session = session

    async def order(self, number: int, **what: Any) -> None:
        """A fault, or what a transaction is to get."""
        async with self._session.post(f"{self.urls[number]}/simulate/faults", data=msgspec.json.encode(what)) as reply:
            assert reply.status == 200, await reply.text()

    async def clear(self) -> None:
        """End all faults."""
        for number in range(len(self.urls)):
            await self.order(number, mode="none")

    async def stats(self) -> list[dict[str, Any]]:
        """Of each."""
        found = []
        for url in self.urls:
            async with self._session.get(f"{url}/simulate/stats") as reply:
                found.append(await reply.json())
        return found


class Field:
    """An installation under an open-loop load."""

    def __init__(self, installation: Installation, endpoints: Endpoints, asked: Asked) -> None:
        assert installation.loaded is not None
        self.installation = installation
        self.endpoints = endpoints
        self.asked = asked
        self.loaded: Loaded = installation.loaded
        self.random = random.Random(asked.seed)
        self.sent = 0
        self.kills = 0
        self.done = asyncio.Event()
        self.poisoned: list[str] = []
        self.made: list[Generated] = []
        self.generator = Generator(Chain.open(home() / "simulate" / "chain"), seed=asked.seed % 96)

    def make(self) -> None:
        """The payloads, before the load begins: whoever sends has less than a core then."""
        self.made = list(self.generator.mixed(self.asked.records, MIX))

    async def feed(self) -> None:
        """Send all payloads; some of them are poison to one endpoint."""
        settings = self.loaded.settings
        options = client_options(settings.kafka)
        producer = AIOKafkaProducer(**options, enable_idempotence=True, linger_ms=5)
        await producer.start()
        topic = INGEST.named(settings.topics.prefix)
        headers = [("topics", json.dumps(["tm_anytx"]).encode())]
        began = time.monotonic()
        sent = []
        try:
            for payload in self.made:
                if self.sent % POISONED == POISONED // 2:
                    await self._poison(payload)
                wait = self.sent / self.asked.rate - (time.monotonic() - began)
                if wait > 0.005:
                    await asyncio.sleep(wait)
                elif self.sent % 100 == 0:
                    await asyncio.sleep(0)
                sent.append(await producer.send(topic, payload.beef, key=b"%d" % self.sent, headers=headers))
                self.sent += 1
            await asyncio.gather(*sent)
        finally:
            await producer.stop()
            self.done.set()

    async def _poison(self, payload: Generated) -> None:
        txid = display(payload.txid)
        self.poisoned.append(txid)
        await self.endpoints.order(LIAR, txid=txid, status=POISON)

    async def during(self, seconds: float) -> bool:
        """Wait; whether there is still load."""
        try:
            await asyncio.wait_for(self.done.wait(), seconds)
        except TimeoutError:
            return True
        return False

    async def break_in_turn(self) -> None:
        """Each fault alone for its share of the first two thirds, or until a call met it; then at random."""
        span_s = self.asked.records / self.asked.rate
        each_s = span_s * 2 / 3 / len(FAULTS)
        for number, fault in enumerate(FAULTS):
            which = LIAR if fault["mode"] == "reject" else number % 2
            self.asked.say(f"endpoint {which}: {' '.join(f'{k}={v}' for k, v in fault.items())}")
            await self.endpoints.order(which, **fault)
            going = await self.during(each_s) and await self._meets(which, str(fault["mode"]), 2 * each_s)
            await self.endpoints.clear()
            if not going:
                break
        self.asked.say("at random")
        while await self.during(RANDOM_S):
            await self.endpoints.clear()  # the other one answers truthfully: it would take what is refused here
            fault = self.random.choice(FAULTS)
            await self.endpoints.order(LIAR if fault["mode"] == "reject" else self.random.randrange(2), **fault)
        await self.endpoints.clear()

    async def _meets(self, which: int, mode: str, within_s: float) -> bool:
        """Wait until an endpoint's fault met a call, for so long at most; whether there is still load."""
        deadline = time.monotonic() + within_s
        while mode not in (await self.endpoints.stats())[which]["faults"] and time.monotonic() < deadline:
            if not await self.during(0.2):
                return False
        return not self.done.is_set()

    async def kill(self, times: int) -> None:
        """kill -9 of the broadcaster, again and again while there is load."""
        assert self.installation.workers is not None
        while self.kills < times and await self.during(KILLED_EVERY_S):
            self.installation.workers.child("broadcast").tell(signal.SIGKILL)
            self.kills += 1

    def restarts(self) -> int:
        """How often workers were started again."""
        assert self.installation.workers is not None
        return sum(child.restarts for child in self.installation.workers.children)


@asynccontextmanager
async def field_of(asked: Asked, *flags: str) -> AsyncIterator[Field]:
    """An installation that is up, with nothing wrong yet."""
    installation = Installation(flags=[*flags, *asked.flags], say=lambda what: asked.say(f"starting: {what}"))
    try:
        await installation.start()
        assert installation.services is not None
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
            field = Field(installation, Endpoints(installation.services.arcs, session), asked)
            await asyncio.to_thread(field.make)
            yield field
    finally:
        await installation.stop()


async def faults(name: str, asked: Asked) -> Outcome:
    """Endpoints fail in every way, one at a time; the broadcaster is killed again and again."""
    began = time.monotonic()
    async with field_of(asked, *BRISK) as field:
        fed_s = time.monotonic()
        await asyncio.gather(field.feed(), field.break_in_turn(), field.kill(asked.faults))
        fed_s = time.monotonic() - fed_s
        asked.say(f"{field.sent} payloads sent; waiting until everything is decided")
        await field.installation.until_ready(SETTLED_WITHIN_S)
        report = await audit(field.loaded.settings, arcs=field.endpoints.urls, wait_s=SETTLED_WITHIN_S, roots=True)
        notes = await _would_have_been_taken(field, report)
        stats = await field.endpoints.stats()
        if early := sum(each["early"] for each in stats):
            notes["out-of-order"] = (early, ())
        met = {mode for each in stats for mode in each["faults"]}
        unmet = sorted({str(fault["mode"]) for fault in FAULTS} - met)
        took = time.monotonic() - began
        figures = (
            f"{field.sent / fed_s:.0f} payloads/s sent, {field.sent / took:.0f}/s decided, the start included",
            f"{len(field.poisoned)} of them poison to one endpoint; faults unmet: {', '.join(unmet) or 'none'}",
            *(f"endpoint {n}: {json.dumps(each['faults'], sort_keys=True)}" for n, each in enumerate(stats)),
        )
        report = _with(report, notes)
        return Outcome(name, field.sent, field.kills + len(FAULTS), field.restarts(), took, report, figures)


async def _would_have_been_taken(field: Field, report: Report) -> dict[str, tuple[int, tuple[str, ...]]]:
    """What was refused or given up, of payloads that are all good."""
    settings = field.loaded.settings
    letters = await find(settings, Wanted(stage="broadcast"), values=False)
    refused = report.counts.get("network: refused", 0) + report.counts.get("network: parked", 0)
    if not letters and not refused:
        return {}
    return {"refused": (max(len(letters), refused), tuple(letter.code for letter in letters[:5]))}


async def away(name: str, asked: Asked) -> Outcome:
    """All endpoints are down for long under load, then back; then one is down for good while the other refuses."""
    began = time.monotonic()
    span_s = asked.records / asked.rate
    down_s = span_s * AWAY
    limit_s = 5.0
    # Whatever were given up for the outage would be given up within it.
    flags = (f"retry.give_up_after_s={max(20.0, down_s / 2)}", f"broadcast.down_limit_s={limit_s}")
    async with field_of(asked, *flags) as field:
        feeding = asyncio.ensure_future(field.feed())
        await field.during(span_s * (1 - AWAY) / 2)
        restarts = field.restarts()
        for number in range(2):
            await field.endpoints.order(number, mode="down")
        asked.say(f"all endpoints down for {down_s:.0f} s")
        await asyncio.sleep(down_s * 0.3)
        early_lag, early_s, early_kb = await _lag(field), await _oldest_s(field), _resident_kb("broadcast")
        await asyncio.sleep(down_s * 0.7)
        late_lag, late_s, late_kb = await _lag(field), await _oldest_s(field), _resident_kb("broadcast")
        waits = [row for row in await field.installation.status() if row.stage == "broadcast"]
        await field.endpoints.clear()
        asked.say("back")
        await feeding
        report = await audit(field.loaded.settings, arcs=field.endpoints.urls, wait_s=SETTLED_WITHIN_S, roots=True)
        notes = await _would_have_been_taken(field, report)
        if field.restarts() != restarts:
            notes["not-quiet"] = (field.restarts() - restarts, ())
        if late_kb > early_kb * 1.25 + 20_000:
            notes["grew"] = (1, (f"{early_kb} kB, then {late_kb} kB",))
        ages = f"lag {early_lag}, then {late_lag}; the oldest {early_s:.0f} s, then {late_s:.0f} s"
        rose = late_lag > early_lag and late_s > early_s + down_s * 0.6  # of the 0.7 between the looks
        if not rose or any(row.state != "paused" for row in waits):
            notes["not-noticed"] = (1, (f"{ages}; {[row.state for row in waits]}",))
        if (left_s := await _oldest_s(field)) > DRAINED_AGE_S:
            notes["not-drained"] = (1, (f"the oldest input of broadcast is {left_s:.0f} s old",))
        decided_s = await _one_refuses(field)
        if decided_s is None:
            notes["late"] = (1, ())
        figures = (
            f"{ages}; resident {early_kb / 1024:.0f} MiB, then {late_kb / 1024:.0f} MiB",
            f"one down for good, the other refuses: refused after {decided_s or -1:.0f} s; limit {limit_s:.0f} s",
        )
        took = time.monotonic() - began
        return Outcome(name, field.sent, 2, field.restarts(), took, _with(report, notes), figures)


async def _one_refuses(field: Field) -> float | None:
    """Seconds until what one endpoint refuses is refused while the other is down; None: it is not, within two tiers."""
    (payload,) = field.generator.make("p2pkh")
    txid, settings = display(payload.txid), field.loaded.settings
    await field.endpoints.order(1, mode="down")
    await field.endpoints.order(0, txid=txid, status=465)
    producer = AIOKafkaProducer(**client_options(settings.kafka), enable_idempotence=True)
    await producer.start()
    began = time.monotonic()
    try:
        headers = [("topics", b'["tm_anytx"]')]
        await producer.send_and_wait(INGEST.named(settings.topics.prefix), payload.beef, headers=headers)
    finally:
        await producer.stop()
    while time.monotonic() - began < 100:
        if await find(settings, Wanted(stage="broadcast", txid=txid), values=False):
            return time.monotonic() - began
        await asyncio.sleep(0.5)
    return None


async def _oldest_s(field: Field) -> float:
    """Age of the oldest input of broadcast, as its worker says."""
    (row,) = [row for row in await field.installation.status() if row.stage == "broadcast"]
    async with aiohttp.ClientSession() as session, session.get(f"{row.http}/metrics") as response:
        text = await response.text()
    (value,) = re.findall(r'^beefline_oldest_input_age_seconds{stage="broadcast"} (\S+)$', text, re.MULTILINE)
    return float(value)


async def _lag(field: Field) -> int:
    settings = field.loaded.settings
    lags = await group_lags(settings.kafka, settings.topics)
    return lags.get("broadcast") or 0


def _resident_kb(stage: str) -> int:
    (worker,) = [worker for worker in running_workers() if worker.stage == stage]
    lines = Path(f"/proc/{worker.pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def _with(report: Report, notes: Mapping[str, tuple[int, tuple[str, ...]]]) -> Report:
    """The audit's report, and what this scenario found beside it."""
    own = tuple(Finding(kind, KINDS[kind], count, first) for kind, (count, first) in notes.items())
    return msgspec.structs.replace(report, findings=(*report.findings, *own))
