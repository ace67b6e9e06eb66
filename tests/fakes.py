"""Stand-ins for what surrounds a part: consumed records, a consumer group, a producer, the owner of contexts."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from aiokafka import TopicPartition as AioTopicPartition
from aiokafka.producer.message_accumulator import BatchBuilder
from msgspec import Struct

from agents.parse import Parse, ParseSettings
from agents.retry import Read, Retry
from agents.runtime.board import Position, TopicPartition
from pipeline import apply as rules
from pipeline import reservations
from pipeline.codec.beef import write_beef_v1
from pipeline.codec.bump import write_bump
from pipeline.codec.ef import write_ef
from pipeline.codec.tx import Tx, read_tx
from pipeline.contextual import Change
from pipeline.judge import never
from pipeline.member import member_of
from pipeline.overlay.builtin.anytx import AnyTx
from pipeline.overlay.manager import Subject, TopicManager, Transaction
from pipeline.policy import Policy
from pipeline.prepare import decide as decided
from pipeline.prepare import prepare
from pipeline.state import APPLIED_KEY, Layer, Memory, encode, head_key, head_of, seal
from schemas.external import Admittance
from schemas.flow import (
    Accept,
    Apply,
    Asked,
    Decide,
    Evict,
    Expire,
    Member,
    Operation,
    Origin,
    Prepare,
    Readmit,
    Repaired,
    Request,
    Unmined,
    Verified,
)
from schemas.state import AppliedOffset
from schemas.types import Context, Outpoint, outpoint
from tests import builders

NOW_MS = 1_790_000_000_000


NULL: Any = None
"""A header's value that is not there: Kafka allows it, and aiokafka hands it over."""


class Record(Struct):
    """A consumed record, as aiokafka hands it over."""

    topic: str = "beef.ingest"
    partition: int = 0
    offset: int = 0
    key: bytes | None = b"key"
    value: bytes | None = b"value"
    headers: Sequence[tuple[str, bytes]] = ()
    timestamp: int = NOW_MS


class Group:
    """A consumer group that remembers what it was told."""

    def __init__(self) -> None:
        self.committed: dict[TopicPartition, Position] = {}
        self.log: list[dict[TopicPartition, Position]] = []
        self.sought: list[tuple[TopicPartition, int]] = []
        self.refuses = False
        self.before: Callable[[], None] = lambda: None  # each commit

    async def commit_positions(self, positions: Mapping[TopicPartition, Position]) -> bool:
        await asyncio.sleep(0)
        self.before()
        if self.refuses:
            return False
        self.log.append(dict(positions))
        self.committed.update(positions)
        return True

    async def seek_lane(self, tp: TopicPartition, offset: int) -> None:
        self.sought.append((tp, offset))


class Log:
    """A topic whose records are read by where they stand."""

    def __init__(self, *records: Record) -> None:
        self.records = {(record.partition, record.offset): record for record in records}
        self.error: Exception | None = None
        self.begun = 0

    async def start(self) -> None:
        self.begun += 1

    async def stop(self) -> None:
        self.begun -= 1

    async def ends(self) -> dict[AioTopicPartition, int]:
        if self.error is not None:
            raise self.error
        return {AioTopicPartition("beef.ingest", partition): offset + 1 for partition, offset in sorted(self.records)}

    async def read(self, partition: int, offset: int) -> Record | None:
        return self.records.get((partition, offset))


def retry_stage(log: Log | None = None) -> Retry:
    """The stage, over records that stand somewhere."""
    places: Any = log or Log()
    return Retry(Parse(ParseSettings(), Policy(), "cluster"), places)


NOTHING_READ = Read({})
"""What retry gathers for records that are no pointers."""


class Delivered(NamedTuple):
    """What a producer says of a batch: where its first record stands."""

    offset: int


class Producer:
    """A producer into lists. Batches are aiokafka's own, so that they fill and measure as real ones."""

    def __init__(self, batch_bytes: int = 1 << 20) -> None:
        self.batch_bytes = batch_bytes
        self.written: dict[tuple[str, int], list[Any]] = {}
        self.batches: list[bytes] = []
        self.requests = 0
        self.takes_s = 0.0

    def create_batch(self) -> "Batch":
        return Batch(self.batch_bytes)

    async def send_batch(self, batch: "Batch", topic: str, *, partition: int) -> "asyncio.Future[Delivered]":
        assert batch.closed, "a batch left open waits for the linger time"
        log = self.written.setdefault((topic, partition), [])
        begin = len(log)
        log += batch.records
        self.batches.append(batch.bytes())
        future: asyncio.Future[Delivered] = asyncio.get_running_loop().create_future()
        if self.takes_s:
            asyncio.get_running_loop().call_later(self.takes_s, _deliver, future, Delivered(begin))
        else:
            asyncio.get_running_loop().call_soon(_deliver, future, Delivered(begin))
        return future

    def values(self, topic: str) -> list[bytes]:
        """Of a topic, by partition."""
        return [record["value"] for (name, _), log in sorted(self.written.items()) if name == topic for record in log]


def _deliver(future: "asyncio.Future[Delivered]", delivered: Delivered) -> None:
    if not future.cancelled():
        future.set_result(delivered)


class Batch:
    """aiokafka's builder, which keeps what it took."""

    def __init__(self, batch_bytes: int) -> None:
        self._builder = BatchBuilder(batch_bytes, 0)
        self.records: list[dict[str, Any]] = []

    @property
    def closed(self) -> bool:
        return bool(self._builder._closed)

    def append(self, **fields: Any) -> Any:
        metadata = self._builder.append(**fields)
        if metadata is not None:
            self.records.append(fields)
        return metadata

    def close(self) -> None:
        self._builder.close()

    def bytes(self) -> bytes:
        return bytes(self._builder._build())


# --- transactions and what a context is asked to do


def made_tx(spends: Iterable[Outpoint], outputs: int = 1, salt: int = 0) -> Tx:
    """A transaction without signatures: apply takes them as verified."""
    entries = [(point, builders.push(b"salt %06d" % salt), builders.FINAL) for point in spends]
    return read_tx(builders.raw_tx(entries, [builders.Out(1000 + salt * 16 + vout) for vout in range(outputs)]))


def coin_of_others(number: int) -> Outpoint:
    """An output that no context admitted."""
    return outpoint(bytes([number]) * 32, number)


def origin_at(offset: int) -> Origin:
    """An ingest coordinate."""
    return Origin("cluster", "beef.ingest", 0, offset, NOW_MS)


def members_of(txs: Sequence[Tx]) -> tuple[bytes, tuple[Member, ...]]:
    """Bytes that hold the transactions, and where; what they spend is not among them."""
    beef, members = b"BEEF", []
    for tx in txs:
        members.append(member_of(msgspec.structs.replace(tx, start=len(beef), parents=[None] * (len(tx.ins) - 1))))
        beef += tx.raw
    return beef, tuple(members)


def proven_alone(tx: Tx) -> tuple[bytes, tuple[Member, ...]]:
    """A payload of one transaction, the only one of its block."""
    beef = write_beef_v1([write_bump(900_000, [{0: tx.txid}], {0})], [(tx.raw, 0)])
    return beef, (member_of(msgspec.structs.replace(tx, start=beef.index(tx.raw), parents=[None] * (len(tx.ins) - 1))),)


def unmined(tx: Tx) -> Unmined:
    """The same for the network: what it spends is not known, and so stands nowhere in it."""
    return Unmined(tx.txid, write_ef(tx, [b""] * (len(tx.ins) - 1)))


def verified(
    subject: Tx,
    ancestors: Sequence[Tx] = (),
    *,
    proven: bool = False,
    offset: int = 0,
    off_chain: bytes = b"",
    contexts: tuple[Context, ...] = ("topic:tm_all",),
) -> Verified:
    """A payload that verify let through."""
    beef, members = proven_alone(subject) if proven else members_of([*ancestors, subject])
    asked = Asked(origin_at(offset), f"request-{offset}", contexts, "each", off_chain)
    height = 900_000 if proven else -1
    return Verified(asked, subject.txid, beef, members, 1, height)


def apply_of(payload: Verified) -> Apply:
    """The operation that brings a payload."""
    return Apply(f"apply:{payload.asked.origin.offset}", payload)


class Keep:
    """Admits every output, keeps what inputs with even numbers spend."""

    version = "7"

    def admit(self, subject: Subject) -> Admittance:
        kept = tuple(index for index in subject.previous_coins if index % 2 == 0)
        return Admittance(tuple(range(subject.output_count)), kept)


class Picky:
    """Admits as many outputs as coins of its own are spent, or one where none is: each judgement leads to the next."""

    version = "1"

    def admit(self, subject: Subject) -> Admittance:
        count = min(subject.output_count, len(subject.previous_coins) or 1)
        return Admittance(tuple(range(subject.output_count - count, subject.output_count)), subject.previous_coins[:1])


class Weighs:
    """Examines what outputs are worth; admits those worth a hundred for each coin of its own that is spent."""

    version = "1"
    contract = 3

    def examine(self, transaction: Transaction) -> bytes:
        return bytes(output.satoshis % 251 for output in transaction.outputs) + transaction.off_chain_values

    def admit(self, subject: Subject) -> Admittance:
        worth = subject.facts[: subject.output_count]
        least = 100 * len(subject.previous_coins)
        heavy = tuple(vout for vout, satoshis in enumerate(worth) if satoshis >= least)
        return Admittance(heavy, subject.previous_coins if len(heavy) % 2 else ())


class Odd:
    """Does what the off-chain values say: raises, or names outputs and inputs that are not there."""

    version = "1"

    def admit(self, subject: Subject) -> Admittance:
        what = subject.off_chain_values
        if what == b"raise":
            raise RuntimeError("the manager does not like it")
        answers: dict[bytes, Any] = {
            b"output": Admittance((subject.output_count,)),
            b"below": Admittance((-1, 0)),
            b"stranger": Admittance((0,), (0,)),
            b"truth": Admittance((True,)),
            b"part": Admittance((0.0,)),  # type: ignore[arg-type]
            b"none": None,
            b"nothing": Admittance(),
        }
        said: Admittance = answers.get(what, Admittance((0,)))
        return said


MANAGERS: dict[str, TopicManager] = {
    "tm_all": AnyTx(), "tm_keep": Keep(), "tm_odd": Odd(), "tm_picky": Picky(), "tm_weighs": Weighs(),
}  # fmt: skip


class Owner:
    """Contexts as their owner keeps them: every operation on its own layer, heads and applied offset behind it."""

    def __init__(self) -> None:
        self.store = Memory()
        self.changelog: list[list[tuple[bytes, bytes | None]]] = []  # by batch
        self.journal: dict[Context, list[bytes]] = {}
        self.offset = -1
        self.enough: Callable[[], bool] = never
        self.now_ms = NOW_MS

    def do(self, context: Context, operation: Operation) -> Change:
        """One batch of one operation."""
        self.offset += 1
        layer = Layer(self.store)
        expired = reservations.expire(layer, head_of(layer, context), context, self.now_ms)
        if expired.entries:
            layer.put(head_key(context), encode(expired.head.stored()))
        change = decide(layer, context, operation, self.enough, self.now_ms)
        entries, ended = (*expired.entries, *change.entries), (*expired.ended, *change.ended)
        return self._write(context, layer, msgspec.structs.replace(change, entries=entries, ended=ended))

    def settle(self, context: Context) -> Change:
        """One batch of what waits."""
        layer = Layer(self.store)
        head = head_of(layer, context)
        return self._write(context, layer, rules.settle(layer, head, context, MANAGERS, NOW_MS, self.enough))

    def _write(self, context: Context, layer: Layer, change: Change) -> Change:
        if change.entries:
            layer.put(head_key(context), encode(change.head.stored()))
            self.journal.setdefault(context, []).extend(change.entries)
        layer.writes[APPLIED_KEY] = seal(encode(AppliedOffset(self.offset, "beef.operations", 1)))
        self.store.write(layer.writes)
        self.changelog.append(list(layer.to_follow()))
        return change


def decide(
    layer: Layer, context: Context, operation: Operation, enough: Callable[[], bool] = never, now_ms: int = NOW_MS
) -> Change:
    """What an operation does to its context."""
    head = head_of(layer, context)
    match operation:
        case Repaired():
            return rules.repaired(layer, head, context, operation, now_ms)
        case Apply():
            return rules.apply(layer, head, context, operation, MANAGERS, now_ms, enough)
        case Prepare():
            return prepare(layer, head, context, operation, MANAGERS, now_ms, enough)
        case Decide():
            return decided(layer, head, context, operation, MANAGERS, now_ms)
        case Accept():
            return rules.accept(layer, head, context, operation, now_ms)
        case Evict():
            return rules.evict(layer, head, context, operation, now_ms)
        case Readmit():
            return rules.readmit(layer, head, context, operation, MANAGERS, now_ms, enough)
        case Request():
            return reservations.request(layer, head, context, operation, now_ms).change
        case Expire():
            return Change(head)
