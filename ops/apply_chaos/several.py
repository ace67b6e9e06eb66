"""All or nothing, whatever is killed: operations over several of twelve contexts, with their coordinators."""

import asyncio
import contextlib
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator

import aiohttp
from aiokafka import AIOKafkaConsumer
from msgspec import Struct, msgpack

from agents.runtime.cluster import look
from agents.runtime.connection import client_options
from ops import broker as brokers
from ops.apply_chaos.exactly_once import ANY, Faults, Form
from ops.apply_chaos.proof import Proof, prove
from ops.apply_chaos.rig import Rig, until_so
from ops.instruments.several import Draw
from ops.operations import everywhere, verified
from ops.reading import read_whole
from ops.scenario import Asked, Outcome
from ops.status import group_lags
from ops.waiting import tiers
from schemas.external import RESULT
from schemas.flow import OPERATION, Accept
from schemas.network import NEWS, Challenged
from schemas.operations import NAME_BYTES, OperationStatus
from schemas.types import Context, Outpoint, display
from topics.registry import DECISIONS, NETWORK_NEWS, OPERATIONS, RESULTS, Topic

TOPIC_NAMES = tuple(f"tm_several_{letter}" for letter in "abcdefghijkl")
HOSTED = tuple(f"{name}={ANY}" for name in TOPIC_NAMES)
CONTEXTS = tuple(f"topic:{name}" for name in TOPIC_NAMES)

QUIET = ("apply.vote_again_s=3600", "worker.replication=2")
"""Votes are in Kafka, and not lost: the proof counts each once. What repeats them has its own tests."""

DRAINED_WITHIN_S = 600.0
HURRY_S = 3.0
OUT_S = 3.0

KINDS = {
    "torn-operation": "An operation over several contexts is applied in one of them, and not in another.",
    "lost-decision": "A request has no decision for one of its contexts.",
    "doubled-decision": "A request has two decisions for one context.",
    "undecided": "An operation is undecided at the end.",
    "spent-twice": "Two transactions that spend the same are applied in one context.",
    "not-verified": "`beefline operations verify` finds something.",
    "not-fenced": "A zombie that went on was not fenced.",
}
"""Findings of this scenario's own."""

_status = msgpack.Decoder(OperationStatus).decode


class Network:
    """Stands in for status: of two that spend the same, the one that a context knows was taken by the network."""

    def __init__(self, rig: Rig) -> None:
        self.told = 0
        self._rig = rig
        self._known: set[tuple[Context, bytes]] = set()

    async def run(self) -> None:
        """Until cancelled."""
        settings = self._rig.settings
        consumer = AIOKafkaConsumer(
            NETWORK_NEWS.named(settings.topics.prefix),
            **client_options(settings.kafka),
            isolation_level="read_committed",
            auto_offset_reset="earliest",
        )
        await consumer.start()
        try:
            async with self._rig.producer() as producer:
                async for record in consumer:
                    news = NEWS.decode(record.value, record.headers)
                    holder = record.key or b""
                    if not isinstance(news, Challenged) or (news.context, holder) in self._known:
                        continue
                    self._known.add((news.context, holder))
                    self.told += 1
                    value = OPERATION.encode(Accept(f"accept:{display(holder)}", (holder,), "arc@chaos"))
                    await producer.send(
                        OPERATIONS.named(settings.topics.prefix),
                        value,
                        key=news.context.encode(),
                        headers=[OPERATION.header],
                    )
        finally:
            await consumer.stop()


@contextlib.asynccontextmanager
async def beside(network: Network) -> AsyncIterator[None]:
    """It runs meanwhile."""
    task = asyncio.ensure_future(network.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


class Several(Struct, frozen=True):
    """What is done, long or short."""

    every_s: float = 3.0  # from kill to kill
    workers: int = 2  # of apply, and of coordinate
    bootstrap: str = ""  # a broker that runs: it is not restarted
    zombie: bool = True


async def _break(faults: Faults, kills: int, form: Several) -> None:
    await faults.kills(kills // 2)
    if form.zombie:
        await faults.zombie(faults.rig.workers[0])
    await faults.kills(kills - kills // 2)
    if faults.rig.broker is not None:
        faults.rig.say("broker restarted")
        await asyncio.to_thread(brokers.stop_node, faults.rig.broker, 1)
        await asyncio.sleep(OUT_S)
        # Guarded brokers end with the thread that starts them: this one lasts.
        brokers.restart_node(faults.rig.broker, 1)
        faults.done += 1


async def run(name: str, wanted: Asked, form: Several | None = None) -> Outcome:
    """Operations over 2 to 6 of 12 contexts: workers and coordinators killed every 3 s, a zombie, a broker restart."""
    form = form or Several()
    began = time.monotonic()
    rig = Rig(
        HOSTED,
        workers=form.workers,
        bootstrap=form.bootstrap,
        flags=(*QUIET, *wanted.flags),
        beside={"coordinate": form.workers, "retry": 1},
        say=wanted.say,
    )
    async with rig:
        victims = [*rig.workers, *(worker for worker in rig.beside if worker.stage == "coordinate")]
        faults = Faults(rig, Form(every_s=form.every_s), wanted.seed, victims)
        draw = Draw(CONTEXTS, wanted.seed)
        network = Network(rig)
        async with beside(network):
            breaking = asyncio.ensure_future(_break(faults, wanted.faults, form))
            per_operation = 4  # records, on average
            feeding = asyncio.ensure_future(rig.feed(draw.records(wanted.records), wanted.rate * per_operation))
            await asyncio.gather(breaking, feeding)
            fed_s = time.monotonic() - began
            wanted.say(f"{wanted.records} operations sent in {fed_s:.0f} s; waiting until all are decided")
            await rig.ready()
            await until_so(lambda: decided(rig), "end of all operations", DRAINED_WITHIN_S)
        proof = await prove(rig, CONTEXTS)
        attempts = await check(rig, draw, proof)
        if form.zombie and not faults.fenced:
            proof.note("not-fenced", rig.workers[0].child.spec.name)
        figures = (
            "ends at named places: " + ", ".join(f"{point} {count}" for point, count in sorted(faults.reached.items())),
            f"the zombie: {', '.join(faults.fenced) or 'none'}",
            f"{len(draw.operations)} operations over several contexts, {len(draw.alone)} payloads to one alone",
            "attempts: " + ", ".join(f"{count} needed {n + 1}" for n, count in sorted(attempts.items())),
            f"the network decided {network.told} conflicts",
        )
        took = time.monotonic() - began
        return Outcome(name, wanted.records, faults.done, rig.restarts, took, proof.report(KINDS), figures)


async def decided(rig: Rig) -> bool:
    """Whether nothing is under way any more; what waits in a tier is returned at once."""
    retry = next(worker for worker in rig.beside if worker.stage == "retry")
    waits = sum(tier.waits for tier in await tiers(rig.settings))
    if waits and (url := retry.url) is not None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                await session.post(f"{url}/retry-now", json={"who": "chaos", "why": "the load has ended"})
        await asyncio.sleep(HURRY_S)
        return False
    lags = await group_lags(rig.settings.kafka, rig.settings.topics)
    if any(lags[stage] for stage in ("apply", "coordinate", "retry")):
        return False
    again = await group_lags(rig.settings.kafka, rig.settings.topics)  # what one wrote when the other was asked
    waits = sum(tier.waits for tier in await tiers(rig.settings))
    return not waits and not any(again[stage] for stage in ("apply", "coordinate", "retry"))


async def check(rig: Rig, draw: Draw, proof: Proof) -> Counter[int]:
    """Every request is decided in each of its contexts, and one over several everywhere alike; attempts it took.

    Raises:
        ops.reading.NotReadable: a transaction stays open.
    """
    cluster = await look(rig.settings.kafka, rig.settings.topics)
    said: dict[tuple[str, Context], dict[int, str]] = defaultdict(dict)
    statuses: dict[bytes, OperationStatus] = {}

    def take(topic: Topic, record: object) -> None:
        key, value = record.key, record.value  # type: ignore[attr-defined] # a record of aiokafka's
        if topic is RESULTS:
            result = RESULT.decode(value)
            if result.outcome in ("applied", "rejected", "parked") and result.context is not None:
                said[result.request_ids[0], result.context][result.revision] = result.outcome
        elif len(key) == NAME_BYTES and value is not None:
            statuses[key] = _status(value)

    await read_whole(rig.settings, cluster.partitions, [RESULTS, DECISIONS], take)
    spenders: dict[tuple[Context, Outpoint], bytes] = {}
    for request in (*draw.operations, *draw.alone):
        stands = {}
        for context in request.contexts:
            outcomes = said.get((request.request_id, context))
            if not outcomes:
                proof.note("lost-decision", f"{request.request_id} {context}")
                continue
            stands[context] = outcomes[max(outcomes)]
            tx = draw.subjects[request.request_id]
            for vin in range(len(tx.ins) - 1) if stands[context] == "applied" else ():
                if spenders.setdefault((context, tx.outpoint(vin)), tx.txid) != tx.txid:
                    proof.note("spent-twice", f"{request.request_id} {context} input {vin}")
            if {"applied", "rejected"} <= set(outcomes.values()):
                proof.note("doubled-decision", f"{request.request_id} {context}: {sorted(outcomes.items())}")
        if len({outcome == "applied" for outcome in stands.values()}) > 1:
            proof.note("torn-operation", f"{request.request_id}: {sorted(stands.items())}")
        proof.counts[
            f"requests: {'all' if request.atomicity == 'all' else 'alone'} "
            f"{'applied' if 'applied' in stands.values() else 'not applied'}"
        ] += 1
    deadline_ms = int(rig.settings.coordinate.deadline_s * 1000)
    _, wrong = verified(await everywhere(rig.settings), int(time.time() * 1000), deadline_ms)
    for finding in wrong:
        proof.note("not-verified", f"{finding.operation} {finding.kind}: {finding.says}")
    attempts: Counter[int] = Counter()
    for name, status in statuses.items():
        if not status.decided:
            proof.note("undecided", name.hex())
        attempts[status.attempt] += 1
    return attempts
