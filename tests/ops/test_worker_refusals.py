"""A worker that cannot do its work says why, in words, and does not start."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from aiokafka.admin import NewTopic

from agents.runtime.cluster import admin, compare, create, look
from agents.runtime.settings import KafkaSettings, TopicSettings
from tests.conftest import Broker
from topics.registry import PARSED, TOPICS

pytestmark = pytest.mark.broker


def worker(
    broker: Broker, prefix: str, home: Path, *flags: str, stage: str = "parse"
) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "ops.cli.main", "worker", stage, "--network", "dev"]
    for flag in (f"kafka.bootstrap={broker.bootstrap}", f"topics.prefix={prefix}", *flags):
        argv += ["--set", flag]
    env = {**os.environ, "BEEFLINE_HOME": str(home)}
    return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.setting("kafka.bootstrap")
def test_no_broker(broker: Broker, prefix: str, tmp_path: Path) -> None:
    said = worker(broker, prefix, tmp_path, "kafka.bootstrap=127.0.0.1:1")
    assert said.returncode == 1
    assert "no Kafka broker answers at 127.0.0.1:1" in said.stderr
    assert "Traceback" not in said.stderr


@pytest.mark.parametrize(
    ("stage", "topic"),
    [
        ("parse", "ingest"),
        ("verify", "parsed"),
        ("apply", "operations"),
        ("broadcast", "broadcast"),
        ("retry", "ingest"),
    ],
)
def test_a_missing_topic_is_named(broker: Broker, prefix: str, tmp_path: Path, stage: str, topic: str) -> None:
    """What it reads from its group, and what it looks into."""
    services = (
        "trackers.trackers=bhs=http://127.0.0.1:1,bhs=http://127.0.0.1:2,bhs=http://127.0.0.1:3",
        "broadcast.endpoints=arc=http://127.0.0.1:4",
    )
    said = worker(broker, prefix, tmp_path, *services, stage=stage)
    assert said.returncode == 1
    assert f"topic {prefix}{topic} does not exist" in said.stderr
    assert "Traceback" not in said.stderr


@pytest.mark.setting("topics.replication")
@pytest.mark.setting("topics.min_isr")
def test_a_narrower_topic_is_named(broker: Broker, prefix: str, tmp_path: Path) -> None:
    kafka = KafkaSettings(bootstrap=broker.bootstrap)
    topics = TopicSettings(prefix=prefix, replication=1, min_isr=1)

    async def make() -> None:
        async with admin(kafka) as client:
            narrow = {"max.message.bytes": "1000"}
            await client.create_topics([NewTopic(PARSED.named(prefix), 2, 1, topic_configs=narrow)])
        assert PARSED.named(prefix) not in await create(kafka, topics)

    asyncio.run(make())
    said = worker(broker, prefix, tmp_path)
    assert said.returncode == 1
    assert f"topic {prefix}parsed has 2 partitions, {PARSED.partitions} are declared" in said.stderr
    assert f"topic {prefix}parsed max.message.bytes is 1000" in said.stderr


@pytest.mark.setting("worker.http_host")
@pytest.mark.setting("worker.http_token_file")
def test_a_wide_port_without_a_token(broker: Broker, prefix: str, tmp_path: Path) -> None:
    asyncio.run(
        create(KafkaSettings(bootstrap=broker.bootstrap), TopicSettings(prefix=prefix, replication=1, min_isr=1))
    )
    said = worker(broker, prefix, tmp_path, "worker.http_host=0.0.0.0")
    assert said.returncode == 1
    assert "worker.http_token_file" in said.stderr


@pytest.mark.setting("apply.topics")
@pytest.mark.parametrize("stage", ["apply", "verify"])
@pytest.mark.parametrize(
    ("hosted", "told"),
    [
        ("tm_nobody", "no installed package provides tm_nobody"),
        ("tm_x=nowhere.at.all:X", "tm_x: nowhere.at.all:X does not load: ModuleNotFoundError"),
    ],
)
def test_a_manager_that_nobody_provides(
    hosted: str, told: str, stage: str, broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """Or that does not load in its own process."""
    asyncio.run(
        create(KafkaSettings(bootstrap=broker.bootstrap), TopicSettings(prefix=prefix, replication=1, min_isr=1))
    )
    argv = [
        "--set",
        f"apply.topics={hosted}",
        "--set",
        f"kafka.bootstrap={broker.bootstrap}",
        "--set",
        f"topics.prefix={prefix}",
    ]
    said = subprocess.run(
        [sys.executable, "-m", "ops.cli.main", "worker", stage, "--network", "dev", *argv],
        env={**os.environ, "BEEFLINE_HOME": str(tmp_path)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert said.returncode == 1
    assert f"worker {stage}: {told}" in said.stderr


async def test_topics_are_made_as_declared(broker: Broker, prefix: str) -> None:
    kafka = KafkaSettings(bootstrap=broker.bootstrap)
    topics = TopicSettings(prefix=prefix, replication=1, min_isr=1)
    assert len(await create(kafka, topics)) == len(TOPICS)
    assert await create(kafka, topics) == []
    assert compare(await look(kafka, topics), topics) == []
