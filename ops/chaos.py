"""The fault driver: load on a whole installation, faults while it runs, and an audit at the end.

Long forms by `make chaos`; the tests run short ones. Everything is on loopback, bounded, and ends by itself.
"""

import asyncio
import json
import random
import signal
import time
from collections.abc import Awaitable, Callable, Iterator

from aiokafka import AIOKafkaProducer

from agents.runtime import crash
from agents.runtime.connection import client_options
from ops import broker as brokers
from ops import cast_chaos, inventory_chaos
from ops.apply_chaos import compaction, damage, dead_writer, exactly_once, large, lost_answers, several
from ops.home import home
from ops.installation import Installation
from ops.instruments.audit import audit
from ops.instruments.chain import Chain
from ops.instruments.generate import Generator
from ops.instruments.payloads import Generated
from ops.scenario import Asked, Outcome, Say, Scenario
from ops.settings import flags_of
from ops.stages import STAGES
from ops.supervisor import worker_spec
from topics.registry import INGEST

MIX = {
    "p2pkh": 0.62,
    "chain": 0.05,
    "hello": 0.08,
    "data": 0.05,
    "fan-in": 0.04,
    "duplicate": 0.03,
    "double-spend": 0.02,
    "truncated": 0.02,
    "bad-signature": 0.03,
    "inflation": 0.02,
    "missing-parent": 0.02,
    "wrong-root": 0.02,
}
"""What is sent: mostly good payments, and everything that takes another way through the stages."""

OUTAGE_S = 20.0

SETTLED_WITHIN_S = 180.0


class Field:
    """An installation under load, and what can be done to it."""

    def __init__(
        self, installation: Installation, payloads: int, faults: int, rate: float, seed: int, say: Say
    ) -> None:
        self.installation = installation
        self.payloads = payloads
        self.faults = faults
        self.rate = rate
        self.random = random.Random(seed)
        self.say = say
        self.sent = 0
        self.done = asyncio.Event()  # all payloads are sent
        self._generator = Generator(Chain.open(home() / "simulate" / "chain"), seed=seed % 96)

    @property
    def span_s(self) -> float:
        """How long sending takes."""
        return self.payloads / self.rate

    async def feed(self) -> None:
        """Send the payloads, open loop. A producer waits out a broker that is away."""
        assert self.installation.loaded is not None
        settings = self.installation.loaded.settings
        producer = AIOKafkaProducer(
            **client_options(settings.kafka),
            enable_idempotence=True,
            linger_ms=5,
            max_request_size=16 << 20,
            request_timeout_ms=120_000,
        )
        await producer.start()
        topic = INGEST.named(settings.topics.prefix)
        began = time.monotonic()
        try:
            sent = []
            for payload in self._made():
                wait = self.sent / self.rate - (time.monotonic() - began)
                if wait > 0.005:
                    await asyncio.sleep(wait)
                headers = [("topics", json.dumps(payload.topics).encode())]
                key = b"%d" % self.sent
                sent.append(await producer.send(topic, payload.beef, key=key, headers=headers))
                self.sent += 1
            await asyncio.gather(*sent)
        finally:
            await producer.stop()
            self.done.set()

    def _made(self) -> Iterator[Generated]:
        return self._generator.mixed(self.payloads, MIX)

    async def pause(self, seconds: float) -> bool:
        """Wait; whether there is still load."""
        try:
            await asyncio.wait_for(self.done.wait(), seconds)
        except TimeoutError:
            return True
        return False

    def kill(self, stage: str) -> None:
        """kill -9 of a stage's worker."""
        assert self.installation.workers is not None
        self.installation.workers.child(stage).tell(signal.SIGKILL)

    async def arm(self, stage: str, point: str) -> None:
        """Restart a stage's worker so that it ends at a named place; the one after it is not armed."""
        assert self.installation.workers is not None
        assert self.installation.loaded is not None
        child = self.installation.workers.child(stage)
        flags = flags_of(self.installation.loaded)
        child.started.clear()
        child.spec = worker_spec(stage, [*flags, f"worker.crash_point={point}:{self.random.randint(1, 4)}"])
        child.tell(signal.SIGKILL)
        await child.started.wait()
        child.spec = worker_spec(stage, flags)

    def restarts(self) -> int:
        """How often workers were started again."""
        assert self.installation.workers is not None
        return sum(child.restarts for child in self.installation.workers.children)


async def _kills(field: Field) -> None:
    """Workers are killed at random moments and, every second time, at each named place in turn."""
    gap = field.span_s / (field.faults + 1)
    for number in range(field.faults):
        await field.pause(gap * field.random.uniform(0.6, 1.4))
        if number % 2:
            point = crash.POINTS[number // 2 % len(crash.POINTS)]
            # The others have no store; retry has no load here that would take it past a point.
            own = (crash.BEFORE_LOCAL_WRITE, crash.DURING_RESTORE)
            stage = "apply" if point in own else field.random.choice([name for name in STAGES if name != "retry"])
            field.say(f"kill {stage} at {point}")
            await field.arm(stage, point)
        else:
            stage = field.random.choice(STAGES)
            field.say(f"kill {stage}")
            field.kill(stage)


async def _broker_outage(field: Field) -> None:
    """The broker is stopped for a while under load, and started again on its data."""
    assert field.installation.broker is not None
    for _ in range(field.faults):
        await field.pause(field.span_s / (field.faults + 1) * 0.5)
        field.say(f"broker stopped for {OUTAGE_S:.0f} s")
        await asyncio.to_thread(brokers.stop_node, field.installation.broker, 1)
        await asyncio.sleep(OUTAGE_S)
        # Guarded brokers end with the thread that starts them: this one lasts.
        brokers.restart_node(field.installation.broker, 1)
        field.say("broker back")


async def _freeze(field: Field) -> None:
    """A worker is stopped for longer than its session, and goes on as a zombie."""
    assert field.installation.workers is not None
    for number in range(field.faults):
        await field.pause(field.span_s / (field.faults + 1) * 0.5)
        stage = ("apply", "verify")[number % 2]
        child = field.installation.workers.child(stage)
        field.say(f"{stage} frozen for 15 s")
        child.tell(signal.SIGSTOP)
        await asyncio.sleep(15)
        child.tell(signal.SIGCONT)
        field.say(f"{stage} goes on")


def _whole(break_it: Callable[["Field"], Awaitable[None]]) -> Callable[[str, Asked], Awaitable[Outcome]]:
    """A scenario on a whole installation: payloads by way of `ingest`, and an audit at the end."""

    async def run_it(name: str, asked: Asked) -> Outcome:
        installation = Installation(flags=asked.flags, say=lambda what: asked.say(f"starting: {what}"))
        began = time.monotonic()
        try:
            loaded = await installation.start()
            field = Field(installation, asked.records, asked.faults, asked.rate, asked.seed, asked.say)
            feeding = asyncio.ensure_future(field.feed())
            breaking = asyncio.ensure_future(break_it(field))
            await asyncio.gather(feeding, breaking)
            asked.say(f"{field.sent} payloads sent; waiting until everything is decided")
            await installation.until_ready(SETTLED_WITHIN_S)
            assert installation.services is not None
            arcs = installation.services.arcs
            report = await audit(loaded.settings, arcs=arcs, wait_s=SETTLED_WITHIN_S, roots=True)
            took = time.monotonic() - began
            return Outcome(name, field.sent, field.faults, field.restarts(), took, report)
        finally:
            await installation.stop()

    return run_it


def _says(scenario: Callable[..., object]) -> str:
    return (scenario.__doc__ or "").partition("\n")[0]


SCENARIOS = {
    "kills": Scenario(_says(_kills), _whole(_kills), 20_000, 20, 250),
    "broker-outage": Scenario(_says(_broker_outage), _whole(_broker_outage), 10_000, 1, 200),
    "freeze": Scenario(_says(_freeze), _whole(_freeze), 8_000, 2, 150),
    "endpoints": Scenario(_says(cast_chaos.faults), cast_chaos.faults, 60_000, 12, 1000),
    "endpoints-away": Scenario(_says(cast_chaos.away), cast_chaos.away, 15_000, 1, 20),
    "inventory": Scenario(_says(inventory_chaos.run), inventory_chaos.run, 10_000, 24, 0),
    "exactly-once": Scenario(_says(exactly_once.run), exactly_once.run, 50_000, 24, 200),
    "several": Scenario(_says(several.run), several.run, 20_000, 60, 100),
    "lost-answers": Scenario(_says(lost_answers.run), lost_answers.run, 5_000, 30, 150),
    "dead-writer": Scenario(_says(dead_writer.run), dead_writer.run, 2_000, 3, 60),
    "compaction": Scenario(_says(compaction.run), compaction.run, 5_000, 0, 250),
    "damage": Scenario(_says(damage.run), damage.run, 20_000, 0, 0),
    "wide": Scenario(_says(large.wide), large.wide, 200_000, 0, 0),
    "leave": Scenario(_says(large.leave), large.leave, 50_000, 0, 0),
    "judged-again": Scenario(_says(large.judged_again), large.judged_again, 50_000, 0, 0),
}
"""Those of a whole installation, and from `exactly-once` on those of apply alone, fed with ready-made operations."""


async def run(
    name: str,
    *,
    payloads: int | None = None,
    faults: int | None = None,
    rate: float | None = None,
    seed: int = 0,
    flags: tuple[str, ...] = (),
    say: Say = lambda _: None,
) -> Outcome:
    """Run a scenario; its counts are those of the long form unless given.

    Raises:
        KeyError: no such scenario.
        ops.installation.NotReady, ops.apply_chaos.rig.Late: something does not come up, or to an end.
    """
    row = SCENARIOS[name]
    asked = Asked(
        payloads or row.payloads, row.faults if faults is None else faults, rate or row.rate, seed, flags, say
    )
    return await row.run(name, asked)
