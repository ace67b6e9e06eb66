"""Each stage's process, group, health, lag and address, as one looks."""

import asyncio
from typing import Any, Literal

import aiohttp
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import GroupCoordinatorNotAvailableError, KafkaError
from aiokafka.structs import TopicPartition
from msgspec import Struct

from agents.runtime.cluster import Unreachable, admin, partition_counts
from agents.runtime.connection import client_options
from agents.runtime.settings import KafkaSettings, TopicSettings
from ops.running import RunningWorker, running_workers
from ops.stages import STAGES
from topics.registry import (
    BROADCAST,
    INGEST,
    NETWORK_NEWS,
    OPERATIONS,
    PARSED,
    REQUESTS,
    RETRY_1M,
    RETRY_10M,
    RETRY_10S,
    VOTES,
    Topic,
    group,
)

HEALTH_TIMEOUT_S = 2.0

INPUTS: dict[str, tuple[Topic, ...]] = {
    "parse": (INGEST, REQUESTS),
    "verify": (PARSED,),
    "apply": (OPERATIONS,),
    "broadcast": (BROADCAST,),
    "coordinate": (VOTES,),
    "status": (NETWORK_NEWS,),
    "retry": (RETRY_10S, RETRY_1M, RETRY_10M),
}


class StageStatus(Struct, frozen=True):
    """One worker of a stage; pid 0 and health `down` where none runs on this machine."""

    stage: str
    pid: int
    group: str
    health: Literal["ready", "not ready", "down"]
    state: str
    reason: str | None
    lag: int | None  # of the whole group; None when the broker does not tell
    http: str | None


async def status(kafka: KafkaSettings, topics: TopicSettings, token: str | None = None) -> list[StageStatus]:
    """All stages; several rows for a stage with several workers here."""
    try:
        lags = await group_lags(kafka, topics)
    except (Unreachable, KafkaError):
        lags = {}
    workers = [worker for worker in running_workers() if worker.prefix == topics.prefix]
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=HEALTH_TIMEOUT_S)) as session:
        answers = await asyncio.gather(*(_health(session, worker, token) for worker in workers))
    rows = []
    replicas = sorted({worker.stage for worker in workers} - set(STAGES))  # without a group
    for stage in (*STAGES, *replicas):
        lag = lags.get(stage)
        here = [(worker, answer) for worker, answer in zip(workers, answers, strict=True) if worker.stage == stage]
        if not here:
            rows.append(StageStatus(stage, 0, group(topics.prefix, stage), "down", "down", None, lag, None))
        for worker, (ready, about) in here:
            rows.append(
                StageStatus(
                    stage,
                    worker.pid,
                    worker.group,
                    "ready" if ready else "not ready",
                    str(about.get("state", "unreachable")),
                    about.get("reason"),
                    lag,
                    worker.http,
                )
            )
    return rows


async def _health(
    session: aiohttp.ClientSession, worker: RunningWorker, token: str | None
) -> tuple[bool, dict[str, Any]]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        async with session.get(f"{worker.http}/readyz", headers=headers) as response:
            return response.status == 200, await response.json()
    except (aiohttp.ClientError, TimeoutError) as error:
        return False, {"reason": f"{worker.http} does not answer: {type(error).__name__}"}


async def group_lags(kafka: KafkaSettings, topics: TopicSettings) -> dict[str, int]:
    """Records between each group's committed position and the read-committed end of its inputs.

    Raises:
        Unreachable: no broker answers.
        KafkaError: the broker refuses the question.
    """
    async with admin(kafka) as client:
        positions = {}
        for stage in STAGES:
            try:
                positions[stage] = await client.list_consumer_group_offsets(group(topics.prefix, stage))
            except GroupCoordinatorNotAvailableError:
                positions[stage] = {}
        counts = await partition_counts(client, topics)
    consumer = AIOKafkaConsumer(**client_options(kafka), isolation_level="read_committed", enable_auto_commit=False)
    await consumer.start()
    every = [
        TopicPartition(topic.named(topics.prefix), n)
        for of in INPUTS.values()
        for topic in of
        for n in range(counts.get(topic.name, 0))
    ]
    try:
        consumer.assign(every)  # asks for all leaders at once, where each question would ask for its own
        consumer.pause(*every)
        lags = {}
        for stage, inputs in INPUTS.items():
            partitions = [
                TopicPartition(topic.named(topics.prefix), number)
                for topic in inputs
                for number in range(counts.get(topic.name, 0))
            ]
            ends = await consumer.end_offsets(partitions)
            first = await consumer.beginning_offsets(partitions)
            lag = 0
            for tp in partitions:
                known = positions[stage].get(tp)
                at = known.offset if known is not None and known.offset >= 0 else first[tp]
                lag += max(0, ends[tp] - at)
            lags[stage] = lag
        return lags
    finally:
        await consumer.stop()
