"""Dead letters: found, counted, exported, and sent back to where they came from."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from aiokafka import AIOKafkaProducer
from msgspec import Struct, structs

from agents.retry import ORIGINS
from agents.runtime.cluster import Cluster, look
from agents.runtime.connection import client_options
from agents.runtime.events import event_out
from agents.runtime.places import Places
from agents.runtime.records import Out
from ops.reading import read_whole
from ops.settings import Settings
from schemas import flow
from schemas import headers as h
from schemas.types import display
from schemas.wire import Undecodable
from topics.registry import BY_NAME, DEAD_LETTERS, INGEST, OPERATIONS, RETRY_10S, largest_record

OWN = h.DEAD_LETTER_NAMES
"""Headers that are the letter's, and not the record's."""


class Letter(Struct, frozen=True):
    """One, as it stands on the topic."""

    partition: int
    offset: int
    time_ms: int  # when it was written
    key: bytes | None
    value: bytes
    headers: tuple[tuple[str, bytes], ...]
    kind: str  # verdict | exhausted | fault; empty where its headers do not say
    code: str
    stage: str
    message: str
    origin: str  # topic, partition and offset: ingest/3/17
    txid: str | None  # display hex; None where it cannot be told

    @property
    def place(self) -> str:
        """How `show` names it."""
        return f"{self.partition}/{self.offset}"

    @property
    def origin_topic(self) -> str:
        """Where it belongs, by its logical name."""
        return self.origin.split("/", 1)[0]


class Wanted(Struct, frozen=True):
    """Which letters somebody asks for: those of which everything holds."""

    code: str = ""  # or its class alone: network
    kind: str = ""
    stage: str = ""
    txid: str = ""
    since_ms: int | None = None
    until_ms: int | None = None  # not itself
    place: str = ""

    def has(self, letter: Letter) -> bool:
        """Whether this is one of them."""
        return (
            (not self.code or letter.code == self.code or letter.code.startswith(f"{self.code}."))
            and (not self.kind or letter.kind == self.kind)
            and (not self.stage or letter.stage == self.stage)
            and (not self.txid or letter.txid == self.txid)
            and (self.since_ms is None or letter.time_ms >= self.since_ms)
            and (self.until_ms is None or letter.time_ms < self.until_ms)
            and (not self.place or letter.place == self.place)
        )


def letter_of(record: Any) -> Letter:
    """A record of `dead-letters`. Total: whoever wrote it, and whatever its headers say."""
    headers = tuple((name, value or b"") for name, value in record.headers)
    said = {name: value.decode("utf-8", "replace") for name, value in headers}
    origin = "/".join(said.get(name, "?") for name in (h.ORIGIN_TOPIC, h.ORIGIN_PARTITION, h.ORIGIN_OFFSET))
    value = record.value or b""
    return Letter(
        record.partition,
        record.offset,
        record.timestamp,
        record.key,
        value,
        headers,
        said.get(h.CLASS, ""),
        said.get(h.CODE, ""),
        said.get(h.STAGE, ""),
        said.get(h.MESSAGE, ""),
        origin,
        _txid(said.get(h.ORIGIN_TOPIC, ""), record.key, value),
    )


def _txid(topic: str, key: bytes | None, value: bytes) -> str | None:
    try:
        if topic == OPERATIONS.name:
            operation = flow.OPERATION.decode(value)
            if isinstance(operation, flow.Prepare):
                operation = operation.apply
            return display(operation.verified.txid) if isinstance(operation, flow.Apply) else None
        return display(key) if topic != INGEST.name and key is not None and len(key) == 32 else None
    except Undecodable:
        return None


async def find(settings: Settings, wanted: Wanted, *, values: bool = True) -> list[Letter]:
    """Letters, oldest first (read-committed).

    values: whether they are wanted too; all that are found are in memory at once.

    Raises:
        agents.runtime.cluster.Unreachable: no broker answers.
        ops.reading.NotReadable: a transaction stays open.
    """
    found: list[Letter] = []

    def take(_: Any, record: Any) -> None:
        if wanted.has(letter := letter_of(record)):
            found.append(letter if values else structs.replace(letter, value=b""))

    cluster = await look(settings.kafka, settings.topics)
    await read_whole(settings, cluster.partitions, [DEAD_LETTERS], take)
    return sorted(found, key=lambda letter: (letter.time_ms, letter.partition, letter.offset))


def counts(letters: Sequence[Letter]) -> Mapping[tuple[str, str, str], int]:
    """How many, by kind, code and stage; most first."""
    found = Counter((letter.kind, letter.code, letter.stage) for letter in letters)
    return dict(found.most_common())


class NotReplayed(Exception):  # noqa: N818 - what the letter is
    """It cannot be sent back; why."""


class Replay(Struct):
    """What came of one."""

    sent: int = 0
    refused: list[tuple[str, str]] = []  # place and why


async def replay(
    settings: Settings,
    letters: Sequence[Letter],
    *,
    who: str,
    why: str,
    rate: float,
    even_verdicts: bool = False,
    dry_run: bool = False,
    step: Callable[[], None] = lambda: None,
) -> Replay:
    """Send letters to where they came from, so many a second; an event says who did, why, and how many.

    A record keeps its key and headers; its identity is the ingest record's, which it carries. What was refused at
    `ingest` is heard again by a pointer to where it stands. So a letter that is replayed twice is a repeat. Nothing is
    removed. step: told of each; dry_run: nothing is written.

    Raises:
        agents.runtime.cluster.Unreachable: no broker answers.
    """
    done = Replay()
    async with _sender(settings) as send:
        try:
            began = time.monotonic()
            for number, letter in enumerate(letters):
                if not dry_run and (wait := number / rate - (time.monotonic() - began)) > 0:
                    await asyncio.sleep(wait)
                try:
                    out = await send.out(letter, even_verdicts=even_verdicts)
                except NotReplayed as error:
                    done.refused.append((letter.place, str(error)))
                else:
                    if not dry_run:
                        await send.write(out)
                    done.sent += 1
                step()
        finally:
            if done.sent and not dry_run:
                details = {"who": who, "why": why, "replayed": done.sent, "of": len(letters)}
                message = f"{who} replays {done.sent} of {len(letters)} dead letters: {why}"
                await send.write(event_out("dead-letters-replayed", "dead-letters", "info", message, details))
    return done


class _Sender:
    def __init__(self, settings: Settings, cluster: Cluster, producer: AIOKafkaProducer, places: Places) -> None:
        self._prefix = settings.topics.prefix
        self._cluster = cluster
        self._producer = producer
        self._places = places

    async def write(self, out: Out) -> None:
        """Confirmed."""
        headers = [*out.headers]
        if not any(name == "schema" for name, _ in headers):
            headers.append(out.topic.schema.header)
        await self._producer.send_and_wait(out.topic.named(self._prefix), out.value, out.key, headers=headers)

    async def out(self, letter: Letter, *, even_verdicts: bool) -> Out:
        """What sends it back.

        Raises:
            NotReplayed: nothing does.
        """
        if letter.kind == "verdict" and not even_verdicts:
            raise NotReplayed("a verdict is final: --even-verdicts sends it all the same")
        headers = h.without(letter.headers, OWN)
        if letter.origin_topic == INGEST.name:
            return await self._pointer(letter)
        topic = BY_NAME.get(letter.origin_topic)
        if topic is None or topic not in ORIGINS:
            raise NotReplayed(f"nothing returns to {letter.origin_topic!r}")
        return Out(topic, letter.key, letter.value, headers)

    async def _pointer(self, letter: Letter) -> Out:
        _, partition, offset = letter.origin.split("/")
        if not (partition.isdigit() and offset.isdigit()):
            raise NotReplayed("its headers do not say where it stood")
        number = int(partition)
        held = number < len(self._places.partitions)
        record = await self._places.read(number, int(offset)) if held else None
        if record is None:
            raise NotReplayed("`ingest` no longer has it: submit its value again")
        name = INGEST.named(self._prefix)
        origin = flow.Origin(self._cluster.id, name, number, int(offset), record.timestamp)
        now_ms = int(time.time() * 1000)
        waits = h.RetryHeaders(
            origin_topic=INGEST.name,
            origin_partition=number,
            origin_offset=int(offset),
            attempt=1,
            first_failed=now_ms,
            not_before=now_ms,
            code=letter.code or "internal.fault",
        )
        return Out(
            RETRY_10S, letter.key, flow.POINTER.encode(flow.Pointer(origin)), [flow.POINTER.header, *h.to_pairs(waits)]
        )


@asynccontextmanager
async def _sender(settings: Settings) -> AsyncIterator[_Sender]:
    cluster = await look(settings.kafka, settings.topics)
    producer = AIOKafkaProducer(
        **client_options(settings.kafka),
        enable_idempotence=True,
        max_request_size=largest_record(settings.topics.max_payload_bytes),
    )
    places = Places(settings.kafka, INGEST.named(settings.topics.prefix), cluster.partitions.get(INGEST.name, 0))
    await producer.start()
    try:
        await places.start()
        try:
            yield _Sender(settings, cluster, producer, places)
        finally:
            await places.stop()
    finally:
        await producer.stop()


class Exported(Struct, frozen=True, kw_only=True):
    """A line of `beefline dead-letters export`."""

    place: str
    time_ms: int
    kind: str
    code: str
    stage: str
    message: str
    origin: str
    txid: str | None
    key: bytes | None  # base64
    value: bytes  # base64
    headers: dict[str, str]


def exported(letter: Letter) -> bytes:
    """As a JSON line."""
    line = Exported(
        place=letter.place,
        time_ms=letter.time_ms,
        kind=letter.kind,
        code=letter.code,
        stage=letter.stage,
        message=letter.message,
        origin=letter.origin,
        txid=letter.txid,
        key=letter.key,
        value=letter.value,
        headers={name: value.decode("utf-8", "replace") for name, value in letter.headers},
    )
    return msgspec.json.encode(line)
