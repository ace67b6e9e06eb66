"""What tests of the runtime need: topics, workers as child processes, records in and out."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from agents.runtime.cluster import admin, create, look
from agents.runtime.connection import client_options
from agents.runtime.settings import KafkaSettings, TopicSettings
from schemas.external import RESULT, Result
from topics.registry import BY_NAME, RESULTS, Topic, group

PATIENCE_S = 60.0


class Worker:
    """A worker process."""

    def __init__(self, bench: "Bench", argv: Sequence[str], log: Path) -> None:
        self.bench = bench
        self.argv = list(argv)
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None
        self.restarts = 0

    def start(self) -> "Worker":
        """Start it; it ends with this test."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *self.argv], stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=self.bench.env
            )
        return self

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self.process is not None
        return self.process.pid

    @property
    def stands_still(self) -> bool:
        """Whether it was stopped, as by SIGSTOP."""
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    def ended(self) -> int | None:
        """Its exit code, once it has one."""
        assert self.process is not None
        return self.process.poll()

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> tuple[int, float]:
        """SIGTERM: the exit code, and how long it took."""
        assert self.process is not None
        began = time.monotonic()
        self.process.terminate()
        return self.process.wait(20), time.monotonic() - began

    def address(self) -> str | None:
        """Of its HTTP port, once it says so."""
        for path in (self.bench.home / "run").glob(f"*-{self.pid}.json"):
            return str(json.loads(path.read_text())["http"])
        return None

    async def resume(self) -> None:
        """As `beefline resume` does."""
        request = urllib.request.Request(f"{self.address()}/resume", method="POST")
        await asyncio.to_thread(lambda: urllib.request.urlopen(request, timeout=5).close())

    def readiness(self) -> dict[str, Any]:
        """What `/readyz` says; empty while it does not answer."""
        url = self.address()
        if url is None:
            return {}
        return get_json(f"{url}/readyz")


def get_json(url: str, headers: Mapping[str, str] = MappingProxyType({})) -> dict[str, Any]:
    """A JSON answer, whatever its status; empty where nobody answers."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=dict(headers)), timeout=2) as response:
            return dict(json.load(response))
    except urllib.error.HTTPError as error:
        return dict(json.load(error))
    except (OSError, ValueError):
        return {}


class Bench:
    """One installation's topics on the test broker, and what is done with them."""

    def __init__(self, bootstrap: str, prefix: str, folder: Path, kafka: KafkaSettings | None = None) -> None:
        self.kafka = kafka or KafkaSettings(bootstrap=bootstrap)
        self.topics = TopicSettings(prefix=prefix, replication=1, min_isr=1)
        self.prefix = prefix
        self.home = folder
        self.env = {**os.environ, "BEEFLINE_HOME": str(folder)}
        self.workers: list[Worker] = []
        self.producer: AIOKafkaProducer | None = None

    async def __aenter__(self) -> "Bench":
        await create(self.kafka, self.topics)
        self.producer = AIOKafkaProducer(
            **client_options(self.kafka), enable_idempotence=True, max_request_size=100 << 20, linger_ms=2
        )
        await self.producer.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        for worker in self.workers:
            if worker.process is not None and worker.process.poll() is None:
                worker.kill()
        assert self.producer is not None
        await self.producer.stop()
        with contextlib.suppress(KafkaError, OSError):
            await self._delete()

    async def _delete(self) -> None:
        async with admin(self.kafka) as client:
            await client.delete_topics([topic.named(self.prefix) for topic in BY_NAME.values()])

    def flags(self, *more: str) -> list[str]:
        """Settings of a worker here."""
        return [
            *(f"kafka.{name}={value}" for name, value in msgspec.structs.asdict(self.kafka).items()),
            f"topics.prefix={self.prefix}",
            f"worker.data_dir={self.home / 'data'}",
            "worker.session_timeout_s=6",
            "worker.heartbeat_interval_s=1",
            "worker.commit_interval_s=0.2",
            *more,
        ]

    def worker(self, name: str, *flags: str, argument: str = "") -> Worker:
        """A stage of `odd_stages` in a process of its own, started."""
        number = len(self.workers)
        argv = ["-m", "tests.agents.run_stage", name, str(os.getpid()), argument, *self.flags(*flags)]
        worker = Worker(self, argv, self.home / f"{name}.{number}.log")
        self.workers.append(worker)
        return worker.start()

    async def send(
        self, topic: Topic, values: Sequence[bytes | None], keys: Sequence[bytes | None] | None = None, **more: Any
    ) -> None:
        """Produce, and wait for the broker."""
        assert self.producer is not None
        name = topic.named(self.prefix)
        keys = keys if keys is not None else [b"k%d" % n for n in range(len(values))]
        sent = [await self.producer.send(name, value, key=key, **more) for key, value in zip(keys, values, strict=True)]
        await asyncio.gather(*sent)

    async def read(self, topic: Topic) -> list[Any]:
        """All records of a topic, read-committed, to its end as of now."""
        async with self.reader() as consumer:
            return await read_all(consumer, topic.named(self.prefix), topic.partitions)

    async def standing(self) -> dict[str, Result]:
        """What stands of `results`: by id the highest revision."""
        found: dict[str, Result] = {}
        for record in await self.read(RESULTS):
            result = RESULT.decode(record.value, record.headers)
            if result.id not in found or result.revision >= found[result.id].revision:
                found[result.id] = result
        return found

    @contextlib.asynccontextmanager
    async def reader(self) -> AsyncIterator[AIOKafkaConsumer]:
        """A read-committed consumer without a group."""
        consumer = AIOKafkaConsumer(
            **client_options(self.kafka),
            isolation_level="read_committed",
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            max_partition_fetch_bytes=16 << 20,
        )
        await consumer.start()
        try:
            yield consumer
        finally:
            await consumer.stop()

    async def wait_for(self, topic: Topic, count: int, within_s: float = PATIENCE_S) -> list[Any]:
        """Records of a topic, once there are `count`."""
        found: list[Any] = []

        async def enough() -> bool:
            found[:] = await self.read(topic)
            return len(found) >= count

        await until(enough, f"{count} records on {topic.name}", within_s, lambda: f"{len(found)} came")
        return found

    async def positions(self, stage: str, topic: Topic) -> dict[int, int]:
        """What the stage's group has committed, by partition."""
        async with admin(self.kafka) as client:
            found = await client.list_consumer_group_offsets(group(self.prefix, stage))
        name = topic.named(self.prefix)
        return {tp.partition: at.offset for tp, at in found.items() if tp.topic == name and at.offset >= 0}

    async def ends(self, topic: Topic) -> dict[int, int]:
        """Where the log ends for who reads committed records, by partition."""
        cluster = await look(self.kafka, self.topics)
        partitions = [TopicPartition(topic.named(self.prefix), p) for p in range(cluster.partitions[topic.name])]
        async with self.reader() as consumer:
            ends = await consumer.end_offsets(partitions)
        return {tp.partition: end for tp, end in ends.items()}

    async def lag(self, stage: str, topic: Topic) -> int:
        """Records and markers between the group's position and the log's end, as Kafka's own tool counts."""
        cluster = await look(self.kafka, self.topics)
        partitions = [TopicPartition(topic.named(self.prefix), p) for p in range(cluster.partitions[topic.name])]
        async with self.reader() as consumer:
            ends = await consumer.end_offsets(partitions)
            first = await consumer.beginning_offsets(partitions)
        at = await self.positions(stage, topic)
        return sum(ends[tp] - at.get(tp.partition, first[tp]) for tp in partitions)

    async def until_idle(self, stage: str, topic: Topic, within_s: float = PATIENCE_S) -> None:
        """Wait until the group's lag is 0."""

        async def idle() -> bool:
            return await self.lag(stage, topic) == 0

        await until(idle, f"{stage} idle", within_s)


async def read_all(consumer: AIOKafkaConsumer, topic: str, count: int) -> list[Any]:
    """Records of `count` partitions, from the first to the end as of now."""
    partitions = [TopicPartition(topic, number) for number in range(count)]
    consumer.assign(partitions)
    ends = await consumer.end_offsets(partitions)
    first = await consumer.beginning_offsets(partitions)
    for tp in partitions:
        consumer.seek(tp, first[tp])
    left = {tp for tp in partitions if first[tp] < ends[tp]}
    found: list[Any] = []
    while left:
        for records in (await consumer.getmany(timeout_ms=200)).values():
            found += records
        left = {tp for tp in left if await consumer.position(tp) < ends[tp]}
    return found


async def until(
    true: Callable[[], Awaitable[bool]], what: str, within_s: float = PATIENCE_S, more: Callable[[], str] = str
) -> None:
    """Ask again and again.

    Raises:
        AssertionError: it does not come true in time.
    """
    deadline = time.monotonic() + within_s
    while not await true():
        assert time.monotonic() < deadline, f"no {what} within {within_s:.0f} s {more()}"
        await asyncio.sleep(0.1)
