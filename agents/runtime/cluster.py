"""The topics on a cluster against their declarations: created, checked, counted."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaConnectionError, KafkaError, TopicAlreadyExistsError, for_code
from msgspec import Struct

from agents.runtime.connection import client_options
from agents.runtime.settings import KafkaSettings, TopicSettings
from topics.registry import JOURNAL, OPERATIONS, STATE, TOPICS, Topic

CREATE_TIMEOUT_MS = 30_000

HOMES = frozenset(topic.name for topic in (OPERATIONS, JOURNAL, STATE))
"""Set A: a context's key, by the number of partitions, says where its operations, journal and state are."""


class Unreachable(Exception):  # noqa: N818 - the cluster's state
    """No broker answers."""


class Difference(Struct, frozen=True):
    """A topic that is not as declared."""

    topic: str
    what: str
    fatal: bool  # workers refuse to start


class Cluster(Struct, frozen=True):
    """What a worker needs to know of the cluster."""

    id: str
    partitions: dict[str, int]  # by logical topic name
    configs: dict[str, dict[str, str]]


@asynccontextmanager
async def admin(kafka: KafkaSettings) -> AsyncIterator[AIOKafkaAdminClient]:
    """An admin client.

    Raises:
        Unreachable: no broker answers.
    """
    client = AIOKafkaAdminClient(**client_options(kafka), request_timeout_ms=30_000)
    try:
        await client.start()
    except (KafkaConnectionError, OSError) as error:
        await client.close()
        raise Unreachable(f"no Kafka broker answers at {kafka.bootstrap}: {error}") from error
    try:
        yield client
    finally:
        await client.close()


async def look(kafka: KafkaSettings, topics: TopicSettings) -> Cluster:
    """The declared topics as they stand.

    Raises:
        Unreachable: no broker answers.
    """
    async with admin(kafka) as client:
        return await _look(client, topics)


async def _look(client: AIOKafkaAdminClient, topics: TopicSettings) -> Cluster:
    about = await client.describe_cluster()
    counts = await partition_counts(client, topics)
    configs: dict[str, dict[str, str]] = {}
    if counts:
        names = {topic.named(topics.prefix): topic.name for topic in TOPICS if topic.name in counts}
        resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
        for response in await client.describe_configs(resources):
            for _, _, _, name, entries in response.resources:
                configs[names[name]] = {entry[0]: entry[1] for entry in entries}
    return Cluster(str(about["cluster_id"]), counts, configs)


async def partition_counts(client: AIOKafkaAdminClient, topics: TopicSettings) -> dict[str, int]:
    """Partitions of the declared topics that exist, by logical name."""
    present = set(await client.list_topics())
    names = {topic.named(topics.prefix): topic.name for topic in TOPICS if topic.named(topics.prefix) in present}
    described = await client.describe_topics(list(names)) if names else []
    return {names[topic["topic"]]: len(topic["partitions"]) for topic in described}


def compare(cluster: Cluster, topics: TopicSettings, of: Iterable[Topic] = TOPICS) -> list[Difference]:
    """How the topics differ from their declarations.

    Longer is no difference. Wider is one only where a partition's number is a context's home.
    """
    found = []
    for topic in of:
        name = topic.named(topics.prefix)
        count = cluster.partitions.get(topic.name)
        if count is None:
            found.append(Difference(name, "does not exist", True))
            continue
        if count < topic.partitions:
            found.append(Difference(name, f"has {count} partitions, {topic.partitions} are declared", True))
        elif count > topic.partitions and topic.name in HOMES:
            found.append(
                Difference(name, f"has {count} partitions, {topic.partitions} are declared: contexts moved", True)
            )
        config = cluster.configs[topic.name]
        for key, value in topic.settings(topics.max_payload_bytes, topics.min_isr).items():
            if found_difference := _differs(key, value, config.get(key, "")):
                found.append(Difference(name, *found_difference))
    return found


_AT_LEAST = {"max.message.bytes", "retention.ms", "min.insync.replicas", "delete.retention.ms"}


def _differs(key: str, declared: str, actual: str) -> tuple[str, bool] | None:
    if key in _AT_LEAST:
        ever = {"-1": float("inf")} if key == "retention.ms" else {}
        if float(ever.get(actual, actual or 0)) >= float(ever.get(declared, declared)):
            return None
        # Narrower than declared: a record would be stuck, or gone before it is read.
        return (f"{key} is {actual or 'unknown'}, at least {declared} is declared", key == "max.message.bytes")
    if set(actual.split(",")) == set(declared.split(",")):
        return None
    return (
        f"{key} is {actual or 'unknown'}, {declared} is declared",
        key in {"cleanup.policy", "message.timestamp.type"},
    )


async def create(kafka: KafkaSettings, topics: TopicSettings) -> list[str]:
    """Create the topics that are missing; returns their names.

    Raises:
        Unreachable: no broker answers.
        KafkaError: the broker refuses one.
    """
    async with admin(kafka) as client:
        present = set(await client.list_topics())
        missing = [topic for topic in TOPICS if topic.named(topics.prefix) not in present]
        if not missing:
            return []
        wanted = [
            NewTopic(
                topic.named(topics.prefix),
                num_partitions=topic.partitions,
                replication_factor=topics.replication,
                topic_configs=topic.settings(topics.max_payload_bytes, topics.min_isr),
            )
            for topic in missing
        ]
        response = await client.create_topics(wanted, timeout_ms=CREATE_TIMEOUT_MS)
        for name, code, *message in response.topic_errors:
            if code not in (0, TopicAlreadyExistsError.errno):
                raise for_code(code)(f"{name}: {message[0] if message else ''}")
        await _until_led(client, {topic.named(topics.prefix): topic.partitions for topic in missing})
        return sorted(topic.named(topics.prefix) for topic in missing)


async def _until_led(client: AIOKafkaAdminClient, wanted: dict[str, int]) -> None:
    """A created topic is known to brokers a moment later; a producer that asks before gets an error."""
    deadline = asyncio.get_running_loop().time() + CREATE_TIMEOUT_MS / 1000
    while True:
        described: list[dict[str, Any]] = await client.describe_topics(list(wanted))
        led = {
            topic["topic"]: sum(1 for partition in topic["partitions"] if partition["leader"] >= 0)
            for topic in described
            if topic["error_code"] == 0
        }
        if all(led.get(name, 0) >= count for name, count in wanted.items()):
            return
        if asyncio.get_running_loop().time() > deadline:
            raise KafkaError(f"no leader yet for {sorted(set(wanted) - set(led))}")
        await asyncio.sleep(0.05)
