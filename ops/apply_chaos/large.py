"""What one transaction of Kafka's must not have to hold whole, or only just can: many outputs, large families."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
from msgspec import Struct

from agents.runtime.cluster import look
from beefline.reading import NoAnswer, StateReader
from ops.apply_chaos.exactly_once import ANY, LINKED
from ops.apply_chaos.proof import prove
from ops.apply_chaos.rig import DRAINED_WITHIN_S, Late, Rig, Worker
from ops.instruments.operations import BEGINS, Coordinates, Made, apply_of, funding, made
from ops.reading import read_whole
from ops.scenario import Asked, Outcome
from schemas.flow import Evict, Operation, Readmit
from schemas.types import Context
from topics.registry import JOURNAL, STATE, Topic

CHAINS = 10
"""A family is so many lines of descent from one transaction."""

KINDS = {"ended": "The worker ended over it, and had to begin again."}
"""Findings of these scenarios' own."""

MB = 1e6


class Step(Struct, frozen=True):
    """Operations that are sent at once, and what they are, for people."""

    says: str
    operations: Sequence[tuple[Context, Operation]]


class Largest(Struct):
    """Transactions on a topic: the largest of them."""

    transactions: int = 0
    records: int = 0
    size: int = 0  # bytes of keys and values


async def wide(name: str, wanted: Asked, bootstrap: str = "") -> Outcome:
    """A transaction with 200,000 outputs is admitted, leaves with one that spends it, and comes back."""
    return await _run(name, wanted, bootstrap, f"tm_chaos_wide={ANY}", _wide(wanted.records))


def _wide(outputs: int) -> Iterator[Step]:
    context = "topic:tm_chaos_wide"
    coordinates = Coordinates()
    parent = made(1, [(funding(1), 0)], outputs)
    spender = made(2, [(parent, outputs - 1)])
    yield Step(f"admitted, {outputs:,} outputs", [(context, apply_of(context, parent, coordinates.next()))])
    yield Step("one of them spent", [(context, apply_of(context, spender, coordinates.next()))])
    yield from _there_and_back(context, parent)


async def leave(name: str, wanted: Asked, bootstrap: str = "") -> Outcome:
    """A transaction with 50,000 known descendants is refused, and taken after all."""
    return await _run(name, wanted, bootstrap, f"tm_chaos_leave={ANY}", _leave(wanted.records))


def _leave(descendants: int) -> Iterator[Step]:
    context = "topic:tm_chaos_leave"
    coordinates = Coordinates()
    root, family = _family(descendants)
    whole = [(context, apply_of(context, one, coordinates.next())) for one in (root, *family)]
    yield Step(f"a transaction and {descendants:,} descendants", whole)
    yield from _there_and_back(context, root)


def _there_and_back(context: Context, root: Made) -> Iterator[Step]:
    yield Step("refused", [(context, Evict("evict", root.txid, "network.rejected", "as asked"))])
    yield Step("taken after all", [(context, Readmit("readmit", root.txid))])


async def judged_again(name: str, wanted: Asked, bootstrap: str = "") -> Outcome:
    """A transaction is submitted behind its 50,000 descendants, all of which are judged again for it."""
    return await _run(name, wanted, bootstrap, f"tm_chaos_again={LINKED}", _judged_again(wanted.records))


def _judged_again(descendants: int) -> Iterator[Step]:
    context = "topic:tm_chaos_again"
    coordinates = Coordinates()
    root, family = _family(descendants)
    before = [(context, apply_of(context, one, coordinates.next())) for one in family]
    yield Step(f"{descendants:,} descendants, which admit nothing", before)
    yield Step("their ancestor, for which all admit", [(context, apply_of(context, root, coordinates.next(), BEGINS))])


def _family(descendants: int) -> tuple[Made, list[Made]]:
    """A transaction and its descendants, in lines, parents first."""
    root = made(0, [(funding(0), 0)], CHAINS)
    tips = [(root, vout) for vout in range(CHAINS)]
    family = []
    for number in range(descendants):
        child = made(number + 1, [tips[number % CHAINS]])
        tips[number % CHAINS] = child, 0
        family.append(child)
    return root, family


async def _run(name: str, wanted: Asked, bootstrap: str, hosted: str, steps: Iterator[Step]) -> Outcome:
    began = time.monotonic()
    figures, sent = [], 0
    topic = hosted.partition("=")[0]
    async with Rig([hosted], bootstrap=bootstrap, flags=wanted.flags, say=wanted.say) as rig:
        for step in steps:
            (worker,) = rig.workers
            _forget_peak(worker.child.pid)
            before, at = await _transactions(worker), time.monotonic()
            sent += await rig.feed(step.operations)
            settled = await _worked_off(rig, topic)
            took, after = time.monotonic() - at, await _transactions(worker)
            figures.append(
                f"{step.says}: {took:.1f} s{', seen to be settling' if settled else ''}; {after[0] - before[0]:,.0f} "
                f"transactions, {after[1] - before[1]:.1f} s together; peak {_peak_mb(worker.child.pid):.0f} MB"
            )
            wanted.say(figures[-1])
        restarts = rig.restarts
        figures += await _largest(rig)
        proof = await prove(rig, [f"topic:{topic}"])
        if restarts:
            proof.note("ended", f"{restarts} times; see {rig.workers[0].log}")
        return Outcome(name, sent, 0, restarts, time.monotonic() - began, proof.report(KINDS), tuple(figures))


async def _worked_off(rig: Rig, topic: str) -> bool:
    """Until all is acknowledged and nothing waits in the context; whether it was seen to wait."""
    seen = False
    deadline = time.monotonic() + DRAINED_WITHIN_S
    while time.monotonic() < deadline:
        (worker,) = rig.workers
        try:
            async with StateReader(worker.url or "") as reader:
                settling = (await reader.state(topic, consistency="any")).settling
                seen = seen or settling
                if not settling:
                    await rig.drained()
                    if not (await reader.state(topic)).settling:
                        return seen
        except NoAnswer:
            continue  # it was started again
    raise Late(f"{topic} has work that waits after {DRAINED_WITHIN_S:.0f} s")


async def _transactions(worker: Worker) -> tuple[float, float]:
    """How many the worker committed, and the seconds from begin to commit, of all of them."""
    async with aiohttp.ClientSession() as session, session.get(f"{worker.url}/metrics") as response:
        lines = (await response.text()).splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if line.startswith("beefline_transaction_seconds"))
    name = 'beefline_transaction_seconds_{}{{stage="apply"}}'
    return float(values[name.format("count")]), float(values[name.format("sum")])


def _forget_peak(pid: int | None) -> None:
    """Begin anew with the peak of a process's memory: proc(5), clear_refs."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _peak_mb(pid: int | None) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1000
    return 0.0


async def _largest(rig: Rig) -> list[str]:
    """Of the transactions of the one context here, by topic; markers between them take an offset each."""
    largest = {STATE.name: Largest(), JOURNAL.name: Largest()}
    open_: dict[str, tuple[int, int, int]] = {}  # offset of the last record, records, bytes

    def take(topic: Topic, record: Any) -> None:
        where = f"{topic.name} {record.partition}"
        last, records, size = open_.get(where, (-2, 0, 0))
        if record.offset != last + 1:
            records = size = 0
            largest[topic.name].transactions += 1
        records, size = records + 1, size + len(record.key or b"") + len(record.value or b"")
        open_[where] = record.offset, records, size
        most = largest[topic.name]
        most.records, most.size = max(most.records, records), max(most.size, size)

    cluster = await look(rig.settings.kafka, rig.settings.topics)
    await read_whole(rig.settings, cluster.partitions, [STATE, JOURNAL], take)
    return [
        f"{name}: {of.transactions:,} transactions, the largest of {of.records:,} records and {of.size / MB:.1f} MB"
        for name, of in largest.items()
    ]
