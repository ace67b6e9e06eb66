"""One context within one operation: what is written gathers, and is closed entry by entry (JOURNAL-1).

Reads come from the layers below, writes go into the layer given; the caller merges it, or drops it, and nothing
happened.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from msgspec import Struct

from pipeline import state
from pipeline.outcome import Condition, Verdict
from pipeline.state import Layer, Live
from schemas.external import Admittance
from schemas.flow import Operation, Origin
from schemas.journal import JOURNAL, Effects, JournalEntry, Kind
from schemas.operations import Said
from schemas.state import Applied, Holds, Prepared, Stood, Tombstone
from schemas.types import Context, Outpoint, Txid

_encode = state.encode

MANY = 100
"""Outpoints of which it pays to ask first who made them: 50,000 of one stranger's are answered by one question."""


class Answer(Struct, frozen=True):
    """The transaction stands applied."""

    admittance: Admittance
    sequence: int
    state_root: bytes
    repeat: bool
    fresh: bool  # by this very operation: the network may have to hear of it
    merge: bool = False  # a further instruction of a basket's owner for a transaction that was applied


class Evicted(Struct, frozen=True):
    """A transaction that left, and what is known of who sent it."""

    txid: Txid
    stone: Tombstone  # of the one that was refused, which it descends from or is
    applied: Applied | None  # None: it was an ancestor that nobody submitted
    sequence: int
    state_root: bytes


class Revised(Struct, frozen=True):
    """A transaction that was judged again, and otherwise; or that came back."""

    txid: Txid
    applied: Applied


class Challenge(Struct, frozen=True):
    """Two that spend the same, or one that was refused and comes with a proof."""

    holder: Txid | None  # the known one
    by: Txid  # the one that came second
    sent: bool  # see schemas.network.Challenged
    proven: bool = False  # see there
    path: bytes = b""  # see schemas.network.Challenges


class Ended(Struct, frozen=True):
    """A reservation that holds less than before, not because its holder gave it back."""

    id: str
    token: int
    holder: str
    how: Literal["expired", "consumed", "lost"]  # lost: spent by one that is in a block, or gone with its transaction
    points: tuple[Outpoint, ...]  # what it holds no longer
    txid: Txid  # the spender, or the transaction that left; of no meaning where a lease ended
    sequence: int
    state_root: bytes


class Change(Struct, frozen=True):
    """What an operation did to its context."""

    head: Live
    entries: tuple[bytes, ...] = ()  # journal entries, encoded
    said: Answer | Verdict | Condition | None = None  # to whoever asked
    competing: tuple[Txid, ...] = ()
    evicted: tuple[Evicted, ...] = ()
    again: tuple[Origin, ...] = ()  # ingest records whose rival has left: to be heard again
    revised: tuple[Revised, ...] = ()
    challenges: tuple[Challenge, ...] = ()  # for `status` to hear of
    settling: bool = False  # work was put into the queue: `settle` comes before the context's next operation
    words: tuple[tuple[str, Said], ...] = ()  # to coordinators, by operation
    waits: bool = False  # it waits in the state for an undecided operation
    resumed: tuple[tuple[Operation, Stood], ...] = ()  # what waited, and goes on now, before anything else
    held: Prepared | None = None  # what was prepared or held, and is not any more
    ended: tuple[Ended, ...] = ()  # reservations that lost what they held, or their lease: for their holders to hear


class Contextual:
    """One context within one operation: writes gather here and are folded into the layer, entry by entry."""

    def __init__(self, context: Context, layer: Layer, head: Live, now_ms: int) -> None:
        self.context = context
        self.head = head
        self.now_ms = now_ms
        self.written = 0  # bytes that were folded, and of journal entries
        self._below = layer
        self._writes = Layer(layer)
        self._prefix = context.encode() + b"\0"
        self._added: list[tuple[bytes, bytes]] = []
        self._removed: list[tuple[bytes, bytes]] = []
        self.unreserved: list[tuple[str, Outpoint]] = []  # by reservation, what it held and is no coin any more
        self.holds: Holds | None = None  # what is undecided, once somebody has looked: see `undecided.here_are`

    def value(self, kind: bytes, rest: bytes) -> bytes | None:
        """An entry's value."""
        return self._writes.value(self._prefix + kind + rest)

    def values(self, kind: bytes, rests: Sequence[bytes]) -> list[bytes | None]:
        """Values of many entries, in one question to the store."""
        prefix = self._prefix + kind
        found = self._writes.get_many([prefix + rest for rest in rests])
        return [None if stored is None else stored[32:] for stored in found]

    def rests_with(self, kind: bytes, prefix: bytes) -> list[bytes]:
        """Of the entries of a kind whose keys go on so, the rests of the keys."""
        return list(self.each_with(kind, prefix))

    def each_with(self, kind: bytes, prefix: bytes) -> Iterator[bytes]:
        """The same one by one, by their bytes: who needs few pays for few. Nothing may be written on the way."""
        begin = len(self._prefix) + 1
        return (key[begin:] for key in self._writes.keys_with(self._prefix + kind + prefix))

    def put(self, kind: bytes, rest: bytes, value: Struct | bytes) -> None:
        """Write an entry."""
        self._writes.put(self._prefix + kind + rest, value if isinstance(value, bytes) else _encode(value))

    def is_there(self, kind: bytes, rests: Sequence[bytes]) -> list[bool]:
        """Whether there are entries, in one question to the store."""
        prefix = self._prefix + kind
        return [stored is not None for stored in self._writes.get_many([prefix + rest for rest in rests])]

    def made_here(self, points: Sequence[Outpoint]) -> Sequence[Outpoint]:
        """Those of many outpoints that may be coins or admitted: of transactions that were judged here."""
        if len(points) < MANY:
            return points
        parents = list(dict.fromkeys(point[:32] for point in points))
        judged = {parent for parent, there in zip(parents, self.is_there(state.TX, parents), strict=True) if there}
        return [point for point in points if point[:32] in judged]

    def put_all(self, kind: bytes, rests: Iterable[bytes], value: bytes) -> None:
        """Write the same value under many."""
        prefix, stored, writes = self._prefix + kind, state.seal(value), self._writes.writes
        for rest in rests:
            writes[prefix + rest] = stored

    def delete(self, kind: bytes, rest: bytes) -> None:
        """Remove an entry."""
        self._writes.delete(self._prefix + kind + rest)

    def delete_all(self, kind: bytes, rests: Sequence[bytes]) -> None:
        """Remove those of the entries that are there: a removal of nothing would stand in the changelog too."""
        if not rests:
            return
        for rest, there in zip(rests, self.is_there(kind, rests), strict=True):
            if there:
                self.delete(kind, rest)

    def fold(self) -> None:
        """Bring the sums up to what was written."""
        effects, self.head = self._writes.changes(self.head)
        self._added += effects.added
        self._removed += effects.removed
        self.written += self._writes.size()
        self._writes.merge_into(self._below)
        self._writes.writes.clear()

    def journal(
        self,
        kind: Kind,
        operation: str,
        txid: Txid,
        *,
        manager: str = "",
        origin: Origin | None = None,
        beef: bytes = b"",
        contexts: tuple[Context, ...] = (),
    ) -> bytes:
        """Close what was written since the entry before as one journal entry, and move the head (JOURNAL-1)."""
        self.fold()
        entry = JournalEntry(
            context=self.context,
            sequence=self.head.sequence + 1,
            previous=self.head.entry_hash,
            operation=operation,
            kind=kind,
            txid=txid,
            effects=Effects(tuple(self._added), tuple(self._removed)),
            state_root=self.head.state_root,
            store_root=self.head.store_root,
            manager=manager,
            origin=origin,
            time_ms=self.now_ms,
            beef=beef,
            contexts=contexts,
        )
        encoded = JOURNAL.encode(entry)
        entry_hash = hashlib.sha256(encoded).digest()
        self.head = Live(entry.sequence, entry_hash, self.head.state_sum, self.head.store_sum)
        self._added, self._removed = [], []
        self.written += len(encoded)
        return encoded
