"""Exactly once, whatever is killed: three workers, 16 topics and 4 owners, a broker of three nodes."""

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Sequence

from msgspec import Struct

from agents.runtime import crash
from agents.runtime.cluster import admin
from ops import broker as brokers
from ops.apply_chaos.proof import prove
from ops.apply_chaos.rig import FENCED, Late, Rig, Worker, until
from ops.instruments.keys import make_key
from ops.instruments.operations import operations
from ops.scenario import Asked, Outcome
from topics.registry import OPERATIONS, TOPICS

OWNERS = 4
WORKERS = 3

TOPIC_NAMES = tuple(f"tm_chaos_{letter}" for letter in "abcdefghijklmnop")
ANY, LINKED = "pipeline.overlay.builtin.anytx:AnyTx", "ops.instruments.operations:Linked"

HOSTED = tuple(f"{name}={ANY if at % 2 else LINKED}" for at, name in enumerate(TOPIC_NAMES))
"""Half of them judge by the coins of their own: what comes late has others judged again."""

HELD = (
    *(f"topic:{topic}" for topic in TOPIC_NAMES),
    *(f"owner:{make_key('chaos owner', number).public.hex()}" for number in range(OWNERS)),
)
"""Contexts that operations are for."""

OUT_S = 8.0
"""How long a killed broker is away."""

REACHED_WITHIN_S = 60.0
"""For a worker that was armed last to come to its place."""

FENCED_WITHIN_S = 60.0
TAKEN_OVER_WITHIN_S = 90.0
IN_SYNC_WITHIN_S = 90.0

KINDS = {
    "not-fenced": "A zombie that went on was not fenced.",
    "not-reached": "No worker was ended at a named place.",
}
"""Findings of this scenario's own."""


class Form(Struct, frozen=True):
    """What is done, long or short."""

    nodes: int = 3  # of the broker
    every_s: float = 5.0  # from kill to kill
    bootstrap: str = ""  # a broker that runs: its nodes are left alone
    workers: int = WORKERS
    rolling: bool = True  # whether all are restarted in turn, too


class Faults:
    """What is done to a rig under load."""

    def __init__(self, rig: Rig, form: Form, seed: int, victims: Sequence[Worker] = ()) -> None:
        """victims: who is killed in turn; none named: the workers of apply."""
        self.rig = rig
        self.victims = victims or rig.workers
        self.form = form
        self.reached: Counter[str] = Counter()  # ends at each named place
        self.fenced: list[str] = []  # the line that says so
        self.done = 0
        self._random = random.Random(seed)
        self._kills = 0
        # Every worker comes to every place, however many there are.
        self._stride = len(self.victims) if len(self.victims) % len(crash.POINTS) == 0 else 1
        self._armed: dict[str, tuple[str, int]] = {}  # by worker: where it is to end, and with which of its ends

    async def kills(self, count: int) -> None:
        """Workers in turn, one every few seconds: killed where they are, and what follows at a named place."""
        for _ in range(count):
            began = time.monotonic()
            worker = self.victims[self._kills % len(self.victims)]
            point = crash.POINTS[self._kills // self._stride % len(crash.POINTS)]
            self._kills += 1
            nth = self._random.randint(1, 3)
            self._look(worker)
            self.rig.say(f"kill {worker.child.spec.name}, and what follows at passage {nth} of {point}")
            self._armed[worker.child.spec.name] = (
                point,
                len(worker.child.codes) + 2,
            )  # by the kill, and at the named place
            await worker.arm(f"{point}:{nth}")
            self.done += 1
            await asyncio.sleep(max(0.0, self.form.every_s - (time.monotonic() - began)))
        deadline = time.monotonic() + REACHED_WITHIN_S
        while self._under_way() and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
        for worker in self.victims:
            self._look(worker)

    def _under_way(self) -> bool:
        ended = {worker.child.spec.name: len(worker.child.codes) for worker in self.victims}
        return any(ended[name] < ends for name, (_, ends) in self._armed.items())

    def _look(self, worker: Worker) -> None:
        """Whether what was armed has ended where it should, by now."""
        point, ends = self._armed.pop(worker.child.spec.name, ("", 0))
        if point and len(worker.child.codes) >= ends:
            self.reached[point] += 1

    async def zombie(self, worker: Worker) -> None:
        """Stopped between produce and commit, for longer than its session; then it goes on, and is fenced."""
        rig = self.rig
        pid = await worker.arm(f"{crash.BEFORE_COMMIT}:3:stop")
        await worker.stopped(pid)
        rig.say(f"{worker.child.spec.name} stands still between produce and commit")
        others = [other for other in rig.workers if other is not worker]
        began = time.monotonic()

        async def taken_over() -> bool:
            held = await rig.partitions()
            return sum(held[other.number] for other in others) == OPERATIONS.partitions

        while not await taken_over():
            if time.monotonic() - began > TAKEN_OVER_WITHIN_S:
                raise Late("nobody took over from a worker that stands still")
            await asyncio.sleep(0.2)
        await rig.ready(others)
        ends, size = len(worker.child.codes), worker.log.stat().st_size
        rig.say(f"it goes on after {time.monotonic() - began:.0f} s, its partitions being others'")
        worker.child.tell(signal.SIGCONT)
        self.done += 1
        await until(lambda: len(worker.child.codes) > ends, "end of the zombie", FENCED_WITHIN_S)
        said = worker.log.read_bytes()[size:].decode(errors="replace")
        line = next((line for line in said.splitlines() if FENCED.search(line)), "")
        if worker.child.codes[ends] != 0 and line:
            self.fenced.append(f"exit code {worker.child.codes[ends]}, {FENCED.search(line)[0]}")  # type: ignore[index]

    async def node_lost(self, node: int) -> None:
        """A broker of the three is killed, and comes back."""
        assert self.rig.broker is not None
        self.rig.say(f"broker {node} killed")
        await asyncio.to_thread(brokers.kill_node, self.rig.broker, node)
        await asyncio.sleep(OUT_S)
        await self._back(node)
        self.done += 1

    async def rolling(self) -> None:
        """All workers are restarted one after the other, as an operator does; then all brokers, where they are ours."""
        await self.rig.ready()
        for worker in self.rig.workers:
            self.rig.say(f"{worker.child.spec.name} restarted")
            worker.child.started.clear()
            worker.child.tell(signal.SIGTERM)
            await worker.child.started.wait()
            await self.rig.ready([worker])
            self.done += 1
        for node in self.rig.broker.nodes if self.rig.broker is not None and self.form.nodes > 1 else ():
            assert self.rig.broker is not None
            self.rig.say(f"broker {node.id} restarted")
            await asyncio.to_thread(brokers.stop_node, self.rig.broker, node.id)
            await self._back(node.id)
            self.done += 1

    async def _back(self, node: int) -> None:
        assert self.rig.broker is not None
        # Guarded brokers end with the thread that starts them: this one lasts. The wait for it may be another's.
        brokers.restart_node(self.rig.broker, node, wait=False)
        await asyncio.to_thread(brokers.restart_node, self.rig.broker, node)
        deadline = time.monotonic() + IN_SYNC_WITHIN_S
        while not await self._in_sync():
            if time.monotonic() > deadline:
                raise Late(f"copies are not in sync {IN_SYNC_WITHIN_S:.0f} s after broker {node} came back")
            await asyncio.sleep(0.5)
        self.rig.say(f"broker {node} back, all copies in sync")

    async def _in_sync(self) -> bool:
        settings = self.rig.settings
        async with admin(settings.kafka) as client:
            described = await client.describe_topics([topic.named(settings.topics.prefix) for topic in TOPICS])
        copies = [len(each["isr"]) for topic in described for each in topic["partitions"]]
        return all(count >= settings.topics.replication for count in copies)


async def _break(faults: Faults, kills: int) -> None:
    await faults.kills(kills // 2)
    await faults.zombie(faults.rig.workers[0])
    await faults.kills(kills - kills // 2)
    if faults.rig.broker is not None and faults.form.nodes > 1:
        await faults.node_lost(2)
    if faults.form.rolling:
        await faults.rolling()


async def run(name: str, wanted: Asked, form: Form | None = None) -> Outcome:
    """Operations over 16 topics and 4 owners: workers killed every 5 s, one a zombie, brokers lost, all restarted."""
    form = form or Form()
    began = time.monotonic()
    rig = Rig(
        HOSTED, workers=form.workers, nodes=form.nodes, bootstrap=form.bootstrap, flags=wanted.flags, say=wanted.say
    )
    async with rig:
        faults = Faults(rig, form, wanted.seed)
        load = operations(HELD, wanted.seed)
        sent = await rig.feed_while(_break(faults, wanted.faults), load, wanted.records, wanted.rate)
        wanted.say(f"{sent} operations sent; waiting until all are applied")
        proof = await prove(rig, HELD)
        if not faults.fenced:
            proof.note("not-fenced", rig.workers[0].child.spec.name)
        for point in crash.POINTS:
            if not faults.reached[point]:
                proof.note("not-reached", point)
        figures = (
            "ends at named places: " + ", ".join(f"{point} {faults.reached[point]}" for point in crash.POINTS),
            f"the zombie: {', '.join(faults.fenced) or 'not fenced'}",
        )
        took = time.monotonic() - began
        return Outcome(name, sent, faults.done, rig.restarts, took, proof.report(KINDS), figures)
