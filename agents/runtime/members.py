"""Who holds which partition of the state: said on `members` by whoever does, and looked up there by whoever asks."""

import asyncio
import os
import secrets
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import aiokafka
from aiokafka import AIOKafkaConsumer

from agents.runtime.connection import client_options
from agents.runtime.outbox import Outbox
from agents.runtime.records import Out
from agents.runtime.settings import KafkaSettings, WorkerSettings
from schemas.members import MEMBER, Held, Member
from schemas.wire import Undecodable
from topics.registry import MEMBERS

LOOK_S = 0.5
"""Between looks whether what is held has changed: a read that comes in between is told who held it, and asks again."""

SAY_S = 10.0
"""Said again that often, with the newest positions."""

STALE_S = 35.0
"""Three of those and a little: who has not said so for longer is not asked."""


def worker_name(settings: WorkerSettings, stage: str) -> str:
    """Lasting where the instance has a lasting name; else of this process alone."""
    return settings.instance or f"{stage}-{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


def advertised(settings: WorkerSettings, bound: str, bootstrap: str) -> str:
    """The address others reach this worker at.

    bound: URL of the port. Bound to every address, that is the one this machine has toward the broker.
    """
    if settings.advertised_url:
        return settings.advertised_url.rstrip("/")
    host = bound.removeprefix("http://").rpartition(":")[0]
    if host not in ("0.0.0.0", "[::]"):  # noqa: S104 - compared with, not bound to
        return bound
    port = bound.rpartition(":")[2]
    broker, _, broker_port = bootstrap.partition(",")[0].rpartition(":")
    found = socket.getaddrinfo(broker.strip("[]"), int(broker_port), type=socket.SOCK_DGRAM)
    family, kind, proto, _, address = found[0]
    with socket.socket(family, kind, proto) as toward:
        toward.connect(address)  # sends nothing
        mine = str(toward.getsockname()[0])
    return f"http://[{mine}]:{port}" if ":" in mine else f"http://{mine}:{port}"


class Speaker:
    """Says what this worker holds, when that changes and every now and then; and that it holds nothing, at its end."""

    def __init__(self, name: str, url: str, held: Callable[[], Sequence[Held]], outbox: Outbox) -> None:
        self._name = name
        self._url = url
        self._held = held
        self._outbox = outbox

    async def run(self) -> None:
        """Until cancelled."""
        said: tuple[tuple[int, int, bool], ...] = ()
        said_at = -SAY_S
        while True:
            held = tuple(self._held())
            now = tuple((each.partition, each.generation, each.owner) for each in held)
            if now != said or (held and time.monotonic() - said_at >= SAY_S):
                member = Member(self._name, self._url, held, int(time.time() * 1000))
                await self._write(MEMBER.encode(member) if held else None)
                said, said_at = now, time.monotonic()
            await asyncio.sleep(LOOK_S)

    async def leave(self) -> None:
        """It answers no longer."""
        await self._write(None)

    async def _write(self, value: bytes | None) -> None:
        await self._outbox.send([(Out(MEMBERS, self._name.encode(), value), None)])


class Directory:
    """Looks up who holds what. It follows `members` from the first question on."""

    def __init__(self, kafka: KafkaSettings, topic: str, clock: Callable[[], float] = time.time) -> None:
        """topic: `members` by its name on the cluster."""
        self._kafka = kafka
        self._topic = topic
        self._clock = clock
        self._members: dict[bytes, Member] = {}
        self._consumer: Any = None
        self._looking = asyncio.Lock()

    async def stop(self) -> None:
        """Disconnect, where anybody asked."""
        if self._consumer is not None:
            await self._consumer.stop()

    async def holders(self) -> Mapping[int, Sequence[str]]:
        """By partition, the addresses of who holds it, from all that was said before the question; its owner first.

        Raises:
            aiokafka.errors.KafkaError: the broker does not answer.
        """
        async with self._looking:
            await self._catch_up()
        claims: dict[int, list[tuple[bool, int, int, str]]] = {}
        oldest = int((self._clock() - STALE_S) * 1000)
        for member in self._members.values():
            if member.time_ms < oldest:
                continue
            for held in member.held:
                claim = (held.owner, held.generation, member.time_ms, member.url)
                claims.setdefault(held.partition, []).append(claim)
        return {partition: [each[-1] for each in sorted(found, reverse=True)] for partition, found in claims.items()}

    async def _catch_up(self) -> None:
        if self._consumer is None:
            consumer = AIOKafkaConsumer(
                **client_options(self._kafka),
                isolation_level="read_committed",
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                fetch_max_wait_ms=50,
            )
            await consumer.start()
            self._tps = [aiokafka.TopicPartition(self._topic, number) for number in range(MEMBERS.partitions)]
            consumer.assign(self._tps)
            for tp, offset in (await consumer.beginning_offsets(self._tps)).items():
                consumer.seek(tp, offset)
            self._consumer = consumer
        ends = await self._consumer.end_offsets(self._tps)
        while any([await self._consumer.position(tp) < end for tp, end in ends.items()]):
            for records in (await self._consumer.getmany(timeout_ms=100)).values():
                for record in records:
                    self._take(record)

    def _take(self, record: Any) -> None:
        if record.value is None:
            self._members.pop(record.key, None)
            return
        try:
            self._members[record.key] = MEMBER.decode(record.value, record.headers)
        except Undecodable:
            self._members.pop(record.key, None)  # of a version we do not know: nobody we could ask
