"""The atomic operations log as its topic holds it: followed, looked up, walked from the first entry on, exported.

Everything is said from committed records of `journal` alone; `against_state` compares with what `state` says of it too.
"""

import heapq
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec
from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition
from msgspec import Struct

from agents.runtime.cluster import look
from agents.runtime.connection import client_options
from agents.runtime.partitioner import partition_for
from ops.reading import OPTIONS, NotReadable, patience_s, read_to
from ops.settings import Settings
from pipeline import journal, listing, state
from pipeline.journal import Chain, Entry, exported
from schemas.external import ExportedEntry, ResultOrigin
from schemas.journal import JournalEntry
from schemas.state import Head
from schemas.types import Context, Txid, display
from topics.registry import JOURNAL, RESULTS, STATE, Topic

Form = Literal["outpoint", "txid", "number", "place", "rival", "listed", "basket", "text", "due"]

KINDS: Mapping[int, tuple[str, Form]] = {
    state.COIN[0]: ("coin", "outpoint"),
    state.HISTORY[0]: ("history", "outpoint"),
    state.TX[0]: ("transaction", "txid"),
    state.KNOWN[0]: ("known", "txid"),
    state.ACCEPTED[0]: ("accepted", "txid"),
    state.QUEUE[0]: ("queue", "number"),
    state.TOMBSTONE[0]: ("tombstone", "txid"),
    state.LOSER[0]: ("loser", "outpoint"),
    state.DEPARTED[0]: ("departed", "txid"),
    state.LEFT[0]: ("left", "place"),
    state.CONTESTED[0]: ("contested", "outpoint"),
    state.RIVAL[0]: ("rival", "rival"),
    state.PLACED[0]: ("placed", "outpoint"),
    state.LISTED[0]: ("listed", "listed"),
    state.RELINQUISHED[0]: ("relinquished", "listed"),
    state.TALLY[0]: ("tally", "basket"),
    state.PREPARED[0]: ("prepared", "number"),
    state.WAITER[0]: ("waits", "number"),
    state.BEHIND[0]: ("behind", "number"),
    state.OWN[0]: ("waits itself", "number"),
    state.RESERVATION[0]: ("reservation", "text"),
    state.RESERVED[0]: ("reserved", "outpoint"),
    state.LEASE[0]: ("lease", "due"),
    state.FREE[0]: ("free", "listed"),
    state.HOLDING[0]: ("holding", "number"),
    state.ANSWERED[0]: ("answered", "text"),
    state.FORGET[0]: ("forgets", "due"),
}
"""Entries of the state that effects may name: what people call them, and what their keys end with."""

FURTHER_BACK = 8
"""How many times further `last` looks back when it did not find enough."""


class Broken(Exception):  # noqa: N818 - what the journal is
    """The journal is not what it must be: nothing that follows from it can be trusted."""


def named(key: bytes) -> tuple[str, str]:
    """Kind and name of a state entry, for people."""
    rest = key[key.index(b"\0") + 2 :]
    kind, form = KINDS.get(state.kind_of(key), ("", "number"))
    if form == "outpoint" and len(rest) == 36:
        return kind, f"{display(rest[:32])}.{int.from_bytes(rest[32:], 'little')}"
    if form == "txid" and len(rest) == 32:
        return kind, display(rest)
    if form == "place" and len(rest) == 72:
        return kind, f"{display(rest[40:])} with {display(rest[:32])}"
    if form == "rival" and len(rest) == 68:
        return kind, f"{display(rest[:32])} for {display(rest[32:64])}.{int.from_bytes(rest[64:], 'little')}"
    if form == "listed" and len(rest) > 36:
        point = rest[-36:]
        return kind, f"{display(point[:32])}.{int.from_bytes(point[32:], 'little')} in {_basket(rest[:-36])}"
    if form == "basket":
        return kind, _basket(rest)
    if form == "text":
        return kind, rest.decode(errors="replace")
    if form == "due" and len(rest) >= 8:
        return kind, f"{rest[8:].decode(errors='replace')} at {int.from_bytes(rest[:8], 'big')}"
    return kind or f"{chr(state.kind_of(key))}?", rest.hex()


def _basket(group: bytes) -> str:
    of = listing.group_in(group)
    if of.field is not None:
        return f"{of.basket!r} with {of.value.hex() or 'nothing'} in field {of.field}"
    return f"{of.basket!r} with {of.tag!r}" if of.tag else repr(of.basket)


class Wanted(Struct, frozen=True):
    """Which entries somebody asks for: those of which everything holds."""

    contexts: frozenset[Context] = frozenset()  # empty: all
    sequence: int | None = None
    txid: Txid | None = None
    since_ms: int | None = None
    until_ms: int | None = None  # not itself
    request: "Request | None" = None

    def has(self, entry: Entry) -> bool:
        """Whether this is one of them."""
        return (
            (not self.contexts or entry.context in self.contexts)
            and (self.sequence is None or entry.sequence == self.sequence)
            and (self.txid is None or entry.txid == self.txid)
            and (self.since_ms is None or entry.time_ms >= self.since_ms)
            and (self.until_ms is None or entry.time_ms < self.until_ms)
            and (self.request is None or self.request.has(entry))
        )


class Request(Struct, frozen=True):
    """What `results` says of a request id: entries do not hold it."""

    origins: frozenset[tuple[str, int, int]]  # topic, partition, offset
    entries: frozenset[tuple[Context, int]]

    def has(self, entry: Entry) -> bool:
        """Whether an entry came of it."""
        origin = entry.origin
        at = (origin.topic, origin.partition, origin.offset) if origin is not None else None
        return at in self.origins or (entry.context, entry.sequence) in self.entries


class Stated(Struct, frozen=True):
    """Where somebody says a context stands."""

    who: str
    sequence: int
    state_root: bytes
    store_root: bytes
    entry_hash: bytes | None = None  # None: it does not say


class Walked(Struct, frozen=True):
    """A context whose journal was walked from its first entry on."""

    context: Context
    entries: int  # read
    sequence: int  # of the last
    hash: str  # of the last
    state_root: str
    store_root: str
    live: int  # entries of the state after it
    breaks: tuple[str, ...]


class Journals:
    """Reads an installation's journals. Used as an async context manager."""

    def __init__(self, settings: Settings, contexts: Collection[Context] = ()) -> None:
        """contexts: whose journals; none means all."""
        self._settings = settings
        self._contexts = frozenset(contexts)
        self._records: Any = None
        self._ends: Any = None

    async def __aenter__(self) -> "Journals":
        """Connect.

        Raises:
            agents.runtime.cluster.Unreachable: no broker answers.
            NotReadable: a topic is missing.
        """
        cluster = await look(self._settings.kafka, self._settings.topics)
        for topic in (JOURNAL, STATE, RESULTS):
            if topic.name not in cluster.partitions:
                raise NotReadable(f"topic {topic.named(self._settings.topics.prefix)} does not exist")
        self._counts = cluster.partitions
        options = {**client_options(self._settings.kafka), **OPTIONS}
        self._records = AIOKafkaConsumer(**options, isolation_level="read_committed")
        self._ends = AIOKafkaConsumer(**options, isolation_level="read_uncommitted")
        try:
            await self._records.start()
            await self._ends.start()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Disconnect."""
        await self._records.stop()
        await self._ends.stop()

    def _partitions(self, topic: Topic) -> list[TopicPartition]:
        count = self._counts[topic.name]
        if self._contexts and topic in (JOURNAL, STATE):
            numbers: Iterable[int] = sorted({partition_for(context.encode(), count) for context in self._contexts})
        else:
            numbers = range(count)
        return [TopicPartition(topic.named(self._settings.topics.prefix), number) for number in numbers]

    # --- reading

    async def _read(
        self, topic: Topic, take: Callable[[Any], None], back: int | None = None
    ) -> dict[TopicPartition, int]:
        """Hand over what stands on a topic by now, from its beginning or `back` offsets before its end; its ends."""
        partitions = self._partitions(topic)
        self._records.assign(partitions)
        self._ends.assign(partitions)
        self._ends.pause(*partitions)
        ends: dict[TopicPartition, int] = await self._ends.end_offsets(partitions)
        first = await self._ends.beginning_offsets(partitions)
        for tp in partitions:
            self._records.seek(tp, first[tp] if back is None else max(first[tp], ends[tp] - back))
        if left := await read_to(self._records, ends, take, patience_s(self._settings)):
            raise NotReadable(f"{left[0].topic}-{left[0].partition} has a transaction that stays open")
        return ends

    async def request(self, request_id: str) -> Request:
        """What is known of a request."""
        origins, entries = set(), set()

        def take(record: Any) -> None:
            try:
                line = _result(record.value)
            except msgspec.MsgspecError as error:
                raise NotReadable(f"{RESULTS.name}/{record.partition}/{record.offset} is no result: {error}") from error
            if request_id not in line.request_ids:
                return
            if line.origin is not None:
                origins.add((line.origin.topic, line.origin.partition, line.origin.offset))
            if line.context is not None and line.sequence is not None:
                entries.add((line.context, line.sequence))

        await self._read(RESULTS, take)
        return Request(frozenset(origins), frozenset(entries))

    async def last(self, count: int, wanted: Wanted) -> list[tuple[Entry, bytes]]:
        """The last `count` entries that are wanted, oldest first by their time. The reader stands behind them."""
        back = max(100, count * 4)
        while True:
            found: list[tuple[int, int, int, Entry, bytes]] = []

            def take(record: Any, found: list[tuple[int, int, int, Entry, bytes]] = found) -> None:
                entry = _entry(record, effects=True)
                if wanted.has(entry):
                    item = (entry.time_ms, record.partition, record.offset, entry, record.value)
                    (heapq.heappush if len(found) < count else heapq.heappushpop)(found, item)

            ends = await self._read(JOURNAL, take, back) if count else await self._stand_at_end()
            if len(found) >= count or back >= max(ends.values(), default=0):
                return [(entry, value) for *_, entry, value in sorted(found)]
            back *= FURTHER_BACK

    async def _stand_at_end(self) -> dict[TopicPartition, int]:
        partitions = self._partitions(JOURNAL)
        self._records.assign(partitions)
        ends: dict[TopicPartition, int] = await self._records.end_offsets(partitions)
        for tp, end in ends.items():
            self._records.seek(tp, end)
        return ends

    async def follow(self, wanted: Wanted) -> AsyncIterator[tuple[Entry, bytes]]:
        """Entries as they come, from where the reader stands, without end."""
        while True:
            for records in (await self._records.getmany(timeout_ms=500)).values():
                for record in records:
                    entry = _entry(record, effects=True)
                    if wanted.has(entry):
                        yield entry, record.value

    async def find(self, wanted: Wanted) -> list[tuple[Entry, bytes]]:
        """All that are wanted, by context and sequence."""
        found: list[tuple[Entry, bytes]] = []

        def take(record: Any) -> None:
            entry = _entry(record, effects=True)
            if wanted.has(entry):
                found.append((entry, record.value))

        await self._read(JOURNAL, take)
        return sorted(found, key=lambda each: (each[0].context, each[0].sequence))

    # --- walking

    async def verify(self, stated: Mapping[Context, Sequence[Stated]] | None = None) -> list[Walked]:
        """Chain, sequence and roots of every context, from its first entry to what is there by now.

        stated: what others say of contexts, from before this was called: compared, each at its own sequence.
        """
        stated = stated or {}
        walks: dict[Context, _Walk] = {}

        def take(record: Any) -> None:
            try:
                entry = _entry(record)
            except Broken as error:
                context = (record.key or b"").decode(errors="replace")
                walks.setdefault(context, _Walk()).breaks.append(str(error))
                return
            if not self._contexts or entry.context in self._contexts:
                walk = walks.setdefault(entry.context, _Walk())
                walk.take(entry, record.value, stated.get(entry.context, ()))

        await self._read(JOURNAL, take)
        for context, words in stated.items():
            walk = walks.setdefault(context, _Walk())
            walk.breaks += [
                f"{context} ends at {walk.chain.sequence}, and {word.who} stands at {word.sequence}"
                for word in words
                if word.sequence > walk.chain.sequence
            ]
        return [walk.told(context) for context, walk in sorted(walks.items())]

    async def heads(self) -> dict[Context, list[Stated]]:
        """What `state` says, the changelog: it vouches for a journal's very end, whose hash no entry names yet.

        Raises:
            Broken: it holds something else than heads under a context's key.
        """
        heads: dict[Context, list[Stated]] = {}

        def take(record: Any) -> None:
            if b"\0" in record.key or record.value is None:
                return  # an entry of a context, or the applied offset
            context = record.key.decode()
            if not self._contexts or context in self._contexts:
                try:
                    head = state.Live.read(_head(state.unseal(state.check(record.value, record.key))))
                except (state.Corrupt, msgspec.MsgspecError) as error:
                    raise Broken(f"{STATE.name}/{record.partition}/{record.offset} is no head: {error}") from error
                roots = head.state_root, head.store_root
                heads[context] = [Stated("its state", head.sequence, *roots, head.entry_hash)]

        await self._read(STATE, take)
        return heads

    async def export(self, wanted: Wanted, write: Callable[[ExportedEntry], object]) -> int:
        """Write every entry that is wanted, walking all of them; how many were written.

        Raises:
            Broken: a journal is not what it must be; what was written before stands.
        """
        walks: dict[Context, Chain] = {}
        written = 0

        def take(record: Any) -> None:
            nonlocal written
            entry = _entry(record)
            if self._contexts and entry.context not in self._contexts:
                return
            chain = walks.setdefault(entry.context, Chain(roots=True))
            if breaks := chain.take(entry, record.value):
                raise Broken(breaks[0].says)
            if wanted.has(entry):
                write(exported(entry, record.value))
                written += 1

        await self._read(JOURNAL, take)
        return written


def _entry(record: Any, *, effects: bool = False) -> Entry:
    """effects: whether they must be readable too; a walk says so itself."""
    try:
        entry = journal.read(record.value)
        if effects:
            journal.effects_of(entry.effects)
        return entry
    except msgspec.MsgspecError as error:
        raise Broken(f"{JOURNAL.name}/{record.partition}/{record.offset} is no entry: {error}") from error


class _Walk:
    """A context's chain, and what was found wrong."""

    def __init__(self) -> None:
        self.chain = Chain(roots=True)
        self.entries = 0
        self.breaks: list[str] = []
        self.roots = (b"", b"")

    def take(self, entry: Entry, value: bytes, stated: Sequence[Stated]) -> None:
        self.entries += 1
        self.breaks += [each.says for each in self.chain.take(entry, value)]
        self.roots = (entry.state_root, entry.store_root)
        for word in stated:
            if entry.sequence == word.sequence:
                same_entry = word.entry_hash is None or word.entry_hash == journal.hash_of(value)
                if not same_entry or (word.state_root, word.store_root) != self.roots:
                    self.breaks.append(f"{entry.context} {entry.sequence} is not the entry {word.who} stands at")

    def told(self, context: Context) -> Walked:
        return Walked(
            context=context,
            entries=self.entries,
            sequence=self.chain.sequence,
            hash=self.chain.hash.hex(),
            state_root=self.roots[0].hex(),
            store_root=self.roots[1].hex(),
            live=self.chain.entries,
            breaks=tuple(self.breaks),
        )


class _Said(Struct, frozen=True):
    """What is read of a result."""

    request_ids: tuple[str, ...] = ()
    context: str | None = None
    sequence: int | None = None
    origin: ResultOrigin | None = None


_result = msgspec.json.Decoder(_Said).decode
_head = msgspec.msgpack.Decoder(Head).decode
whole = msgspec.msgpack.Decoder(JournalEntry).decode
"""An entry with the transaction's bytes."""
