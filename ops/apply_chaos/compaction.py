"""A changelog that was compacted, most of it long untouched: a new copy must have every context whole, or say so."""

import asyncio
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, islice
from string import ascii_lowercase
from typing import Any

import aiohttp
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import for_code
from msgspec import msgpack, structs

from agents.runtime.cluster import admin, look
from agents.runtime.settings import KafkaSettings, TopicSettings
from ops.apply_chaos.exactly_once import ANY, LINKED
from ops.apply_chaos.proof import prove
from ops.apply_chaos.rig import LOOK_S, READY_WITHIN_S, Late, Rig
from ops.apply_chaos.rig import look as look_at
from ops.instruments.operations import operations
from ops.reading import read_whole
from ops.scenario import Asked, Outcome
from pipeline import lthash
from pipeline.state import encode, seal
from schemas.state import Head
from schemas.types import Context
from topics.registry import STATE, Topic

CONTEXTS = 100

NAMES = tuple(f"tm_chaos_{first}{second}" for first in ascii_lowercase for second in ascii_lowercase)[:CONTEXTS]

HOSTED = tuple(f"{name}={ANY if at % 2 else LINKED}" for at, name in enumerate(NAMES))

SEGMENT_MS = 1_000

FORCED = {
    "segment.ms": str(SEGMENT_MS),
    "max.compaction.lag.ms": str(SEGMENT_MS),
    "min.cleanable.dirty.ratio": "0.001",
    "delete.retention.ms": "0",
}
"""The changelog's configuration, so that the cleaner has something to do at once: it leaves the last segment alone."""

CLEANED_WITHIN_S = 120.0

KINDS = {"unfound": "A head that is not what its entries give was served."}
"""Findings of this scenario's own."""


async def run(name: str, wanted: Asked, bootstrap: str = "") -> Outcome:
    """100 contexts, of which one goes on; the changelog compacted, stores lost: all roots again, a bad head found."""
    began = time.monotonic()
    contexts = [f"topic:{topic}" for topic in NAMES]
    async with Rig(HOSTED, bootstrap=bootstrap, flags=wanted.flags, say=wanted.say) as rig:
        await force_compaction(rig.settings.kafka, rig.settings.topics, STATE)
        sent = await _fed(rig, contexts, wanted.records * 2 // 5, wanted.seed, wanted.rate)
        ends = await _ends(rig)
        await asyncio.sleep(2 * SEGMENT_MS / 1000)
        # A segment ends with the first record that comes after its time: what was written so far is behind it then.
        sent += await _fed(rig, contexts, wanted.records * 2 // 5, wanted.seed + 1, wanted.rate)
        sent += await _fed(rig, contexts[:1], wanted.records // 5, wanted.seed + 2, wanted.rate)
        rig.say(f"{sent} operations applied; waiting for the log cleaner")
        left = await _cleaned(rig, ends)
        figures = [f"changelog: {sum((await _ends(rig)).values()):,} offsets, {left:,} records left by compaction"]
        took = await _from_nothing(rig)
        await rig.ready()
        figures.append(f"ready {time.monotonic() - took:.1f} s after its start without its stores")
        proof = await prove(rig, contexts)
        for context in (contexts[-1], contexts[0]):
            reason = await _damaged(rig, context)
            figures.append(f"a bad head of {context}: {reason or 'not found'}")
            if context not in reason:
                proof.note("unfound", context)
        seconds = time.monotonic() - began
        return Outcome(name, sent, 2, rig.restarts, seconds, proof.report(KINDS), tuple(figures))


async def _fed(rig: Rig, contexts: Sequence[Context], count: int, seed: int, rate: float) -> int:
    """Operations of all these contexts in turn, so many together, applied."""
    load = chain.from_iterable(zip(*(operations([context], seed) for context in contexts), strict=True))
    sent = await rig.feed(islice(load, count), rate)
    await rig.drained()
    return sent


async def force_compaction(kafka: KafkaSettings, topics: TopicSettings, topic: Topic) -> None:
    """Have a topic that exists compacted as soon as there is anything to do.

    Raises:
        KafkaError: the broker does not take it.
    """
    whole = topic.settings(topics.max_payload_bytes, topics.min_isr) | FORCED
    name = topic.named(topics.prefix)
    async with admin(kafka) as client:
        for response in await client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, whole)]):
            for code, message, *_ in response.resources:
                if code:
                    raise for_code(code)(message)


async def _read(rig: Rig, take: Callable[[Any], None]) -> dict[int, int]:
    """The changelog, by partition; its ends."""
    cluster = await look(rig.settings.kafka, rig.settings.topics)
    ends = await read_whole(rig.settings, cluster.partitions, [STATE], lambda _, record: take(record))
    return {tp.partition: end for tp, end in ends.items()}


async def _ends(rig: Rig) -> dict[int, int]:
    return await _read(rig, lambda _: None)


async def _cleaned(rig: Rig, ends: Mapping[int, int]) -> int:
    """Until no record before these ends has a later one of its key there; how many records are left in all.

    Raises:
        Late: the cleaner does not come by.
    """
    deadline = time.monotonic() + CLEANED_WITHIN_S
    while True:
        keys: Counter[tuple[int, bytes]] = Counter()
        count = 0

        def take(record: Any, keys: Counter[tuple[int, bytes]] = keys) -> None:
            nonlocal count
            count += 1
            if record.offset < ends[record.partition]:
                keys[record.partition, record.key] += 1

        await _read(rig, take)
        if all(times == 1 for times in keys.values()):
            return count
        if time.monotonic() > deadline:
            raise Late(f"the changelog was not compacted within {CLEANED_WITHIN_S:.0f} s")
        await asyncio.sleep(1)


async def _from_nothing(rig: Rig) -> float:
    """Workers are started again without their stores; when."""
    await rig.stop_workers()
    for worker in rig.workers:
        shutil.rmtree(worker.data)
    began = time.monotonic()
    rig.start_workers()
    return began


async def _damaged(rig: Rig, context: Context) -> str:
    """What workers say who find a head that is not what its entries give; the head is right again afterwards."""
    right: list[tuple[int, bytes]] = []

    def take(record: Any) -> None:
        if record.key == context.encode():
            right[:] = [(record.partition, record.value)]

    await _read(rig, take)
    ((partition, stored),) = right
    head: Head = _head(stored[32:])
    bad = structs.replace(head, store_sum=lthash.changed(head.store_sum, [], [b"what is not there"]))
    await _put(rig, partition, context, seal(encode(bad)))
    await _from_nothing(rig)
    try:
        return await _halted(rig)
    finally:
        await rig.stop_workers()
        await _put(rig, partition, context, stored)


async def _put(rig: Rig, partition: int, context: Context, stored: bytes) -> None:
    async with rig.producer() as producer:
        name = STATE.named(rig.settings.topics.prefix)
        await producer.send_and_wait(name, stored, context.encode(), partition, headers=[STATE.schema.header])


async def _halted(rig: Rig) -> str:
    """Why a worker halts; empty where all get ready."""
    deadline = time.monotonic() + READY_WITHIN_S
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < deadline:
            said = [await look_at(session, worker) for worker in rig.workers]
            if halted := [str(each["reason"]) for each in said if each.get("state") == "halted"]:
                return halted[0]
            if all(each.get("ready") for each in said):
                return ""
            await asyncio.sleep(LOOK_S)
    raise Late("workers neither halt nor get ready")


_head = msgpack.Decoder(Head).decode
