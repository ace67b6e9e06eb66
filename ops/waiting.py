"""What waits in the retry tiers: how much, since when, until when, and for what."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from agents.retry import TIERS
from agents.runtime.cluster import admin, look
from agents.runtime.outcomes import waiting
from ops.reading import read_whole
from ops.settings import Settings
from topics.registry import BY_NAME, Topic, group


class Tier(Struct, frozen=True):
    """One of them."""

    name: str  # 10s
    waits: int  # records that were not returned yet
    since_ms: int | None  # when the first of them met its condition for the first time (Unix milliseconds)
    next_ms: int | None  # when the first of them is due
    last_ms: int | None  # when the last of them is
    of: Mapping[tuple[str, str], int]  # by origin topic and code


def topic_of(tier: str) -> Topic:
    """The topic of a tier."""
    return BY_NAME[f"retry.{tier}"]


async def tiers(settings: Settings) -> list[Tier]:
    """All tiers, the quickest first, as committed by now.

    Raises:
        agents.runtime.cluster.Unreachable: no broker answers.
        ops.reading.NotReadable: a transaction stays open.
    """
    prefix = settings.topics.prefix
    topics = {tier: topic_of(tier) for tier in TIERS}
    async with admin(settings.kafka) as client:
        found = await client.list_consumer_group_offsets(group(prefix, "retry"))
    done = {(tp.topic, tp.partition): at.offset for tp, at in found.items()}
    waits: dict[str, list[Any]] = {topic.name: [] for topic in topics.values()}

    def take(topic: Topic, record: Any) -> None:
        if record.offset >= done.get((record.topic, record.partition), 0):
            waits[topic.name].append((record.timestamp, waiting(record)))

    cluster = await look(settings.kafka, settings.topics)
    await read_whole(settings, cluster.partitions, topics.values(), take)
    return [_tier(tier, waits[topic.name]) for tier, topic in topics.items()]


def _tier(name: str, found: Sequence[tuple[int, Any]]) -> Tier:
    """Records that do not say why they wait are due at once: they count from when they were written."""
    said = [(kept.first_failed, kept.not_before) if kept else (time_ms, time_ms) for time_ms, kept in found]
    return Tier(
        name,
        len(found),
        min((since for since, _ in said), default=None),
        min((due for _, due in said), default=None),
        max((due for _, due in said), default=None),
        Counter((kept.origin_topic, kept.code) if kept else ("?", "?") for _, kept in found),
    )
