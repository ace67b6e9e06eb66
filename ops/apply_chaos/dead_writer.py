"""A writer of operations dies between begin and commit: readers behind it wait for the broker to end what it began."""

import asyncio
import os
import sys
import time
from collections import defaultdict
from typing import Any

from agents.runtime.cluster import look
from agents.runtime.partitioner import partition_for
from ops.apply_chaos.exactly_once import HELD, HOSTED, TOPIC_NAMES
from ops.apply_chaos.proof import prove
from ops.apply_chaos.rig import Late, Rig
from ops.instruments.operations import operations
from ops.reading import read_whole
from ops.scenario import Asked, Outcome
from pipeline.journal import read
from schemas.types import Context
from topics.registry import JOURNAL, OPERATIONS, Topic

BOUND_S = 8.0
"""Of the gap: the transaction's time-out, 5 s, the broker's sweep, 1 s, and a fetch."""

PRODUCED_WITHIN_S = 60.0
BETWEEN_S = 4.0

KINDS = {"gap": f"Apply did nothing in a partition for longer than {BOUND_S:.0f} s."}
"""Findings of this scenario's own."""


async def run(name: str, wanted: Asked, bootstrap: str = "", bound_s: float = BOUND_S) -> Outcome:
    """A writer of operations is killed between begin and commit, others go on: how long apply stands still."""
    began = time.monotonic()
    context = f"topic:{TOPIC_NAMES[0]}"
    async with Rig(HOSTED, bootstrap=bootstrap, flags=wanted.flags, say=wanted.say) as rig:
        load = operations(HELD, wanted.seed)
        breaking = _die(rig, context, wanted.faults)
        sent = await rig.feed_while(breaking, load, wanted.records, wanted.rate)
        gaps = await _gaps(rig)
        proof = await prove(rig, HELD)
        partition = partition_for(context.encode(), OPERATIONS.partitions)
        gap = gaps.pop(partition)
        if gap > bound_s:
            proof.note("gap", f"partition {partition}: {gap:.1f} s")
        figures = (
            f"the longest gap in the partition {gap:.1f} s",
            f"in {len(gaps)} others {max(gaps.values()):.1f} s",
        )
        took = time.monotonic() - began
        return Outcome(name, sent, wanted.faults, rig.restarts, took, proof.report(KINDS), figures)


async def _die(rig: Rig, context: Context, count: int) -> None:
    settings = rig.settings
    flags = (f"kafka.bootstrap={settings.kafka.bootstrap}", f"topics.prefix={settings.topics.prefix}")
    for number in range(count):
        # Each by a name of its own: a successor of the same name would end at once what this one began.
        argv = ("-m", "ops.instruments.halfway", str(os.getpid()), context, f"{settings.topics.prefix}halfway-{number}")
        process = await asyncio.create_subprocess_exec(
            sys.executable, *argv, *flags, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
        )
        try:
            assert process.stdout is not None
            if await asyncio.wait_for(process.stdout.readline(), PRODUCED_WITHIN_S) != b"produced\n":
                raise Late("the writer ended by itself")
        finally:
            process.kill()
            await process.wait()
        rig.say("a writer killed between produce and commit")
        await asyncio.sleep(BOUND_S + BETWEEN_S)


async def _gaps(rig: Rig) -> dict[int, float]:
    """By partition the longest time between two entries of its journals, seconds."""
    last: dict[int, int] = {}
    gaps: dict[int, float] = defaultdict(float)

    def take(_: Topic, record: Any) -> None:
        at = read(record.value).time_ms
        gaps[record.partition] = max(gaps[record.partition], (at - last.get(record.partition, at)) / 1000)
        last[record.partition] = at

    cluster = await look(rig.settings.kafka, rig.settings.topics)
    await read_whole(rig.settings, cluster.partitions, [JOURNAL], take)
    return gaps
