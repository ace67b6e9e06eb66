"""The answer to a commit, lost on the way: the worker cannot know, and must neither leave out nor do again."""

import asyncio
import time
from collections import Counter

from ops import broker as brokers
from ops.apply_chaos.exactly_once import HELD, HOSTED
from ops.apply_chaos.proof import prove
from ops.apply_chaos.rig import Rig
from ops.instruments.operations import operations
from ops.instruments.proxy import END_TXN, PRODUCE, Direction, Proxy
from ops.scenario import Asked, Outcome

LOST: tuple[tuple[str, int, Direction], ...] = (
    ("the answer to a commit", END_TXN, "answer"),
    ("a commit itself", END_TXN, "request"),
    ("the answer to a produce request", PRODUCE, "answer"),
)
"""What is lost, in turn; each with the connection it was on."""

KINDS = {"proxy": "What stood between the worker and its broker failed by itself."}
"""Findings of this scenario's own."""

LOST_WITHIN_S = 30.0
EVERY_S = 0.5


async def run(name: str, wanted: Asked, bootstrap: str = "") -> Outcome:
    """Answers to commits are lost between the broker and a worker, and commits, and answers to what was produced."""
    began = time.monotonic()
    # Guarded processes end with the thread that made them: this is the main one.
    own = None if bootstrap else brokers.start(1, guarded=True)
    try:
        async with Proxy(own.bootstrap if own is not None else bootstrap) as proxy:
            return await _run(name, wanted, proxy, own.bootstrap if own is not None else bootstrap, began)
    finally:
        if own is not None:
            await asyncio.to_thread(own.stop)


async def _run(name: str, wanted: Asked, proxy: Proxy, bootstrap: str, began: float) -> Outcome:
    lost: Counter[str] = Counter()
    async with Rig(HOSTED, bootstrap=bootstrap, through=proxy.bootstrap, flags=wanted.flags, say=wanted.say) as rig:
        load = operations(HELD, wanted.seed)
        breaking = _lose(proxy, wanted.faults, lost, rig)
        sent = await rig.feed_while(breaking, load, wanted.records, wanted.rate)
        proof = await prove(rig, HELD)
        for error in proxy.failed:
            proof.note("proxy", f"{type(error).__name__}: {error}")
        figures = tuple(f"lost: {what}, {count} times" for what, count in lost.items())
        took = time.monotonic() - began
        return Outcome(name, sent, lost.total(), rig.restarts, took, proof.report(KINDS), figures)


async def _lose(proxy: Proxy, count: int, lost: Counter[str], rig: Rig) -> None:
    for number in range(count):
        what, api, direction = LOST[number % len(LOST)]
        await asyncio.wait_for(proxy.lose(api, direction).wait(), LOST_WITHIN_S)
        rig.say(f"lost: {what}")
        lost[what] += 1
        await asyncio.sleep(EVERY_S)
