"""Walking the journal of a context, entry by entry: chain, sequence and roots, from the entries alone (JOURNAL-1)."""

import hashlib
from collections.abc import Iterable
from typing import Literal

import msgspec
from msgspec import Struct

from pipeline.results import rfc3339
from pipeline.state import NO_HASH, Live, summed
from schemas.external import Effect, EntryEffects, ExportedEntry, ResultOrigin
from schemas.flow import Origin
from schemas.journal import Effects
from schemas.types import Context, Txid, display

ROOT_BYTES = 32


class Entry(Struct, frozen=True, array_like=True):
    """A journal entry, what is large as it came: what a walk reads."""

    context: Context
    sequence: int
    previous: bytes
    operation: str
    kind: str
    txid: Txid
    effects: msgspec.Raw
    state_root: bytes
    store_root: bytes
    manager: str
    origin: Origin | None
    time_ms: int
    beef: msgspec.Raw = msgspec.Raw(b"\xc4\x00")
    contexts: tuple[Context, ...] = ()  # all of them, where the operation is one over several


_read = msgspec.msgpack.Decoder(Entry).decode


def read(value: bytes) -> Entry:
    """The entry in a record's value.

    Raises:
        msgspec.MsgspecError: it is none.
    """
    try:
        return _read(value)
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError(str(error)) from error


effects_of = msgspec.msgpack.Decoder(Effects).decode
"""An entry's effects."""


def hash_of(value: bytes) -> bytes:
    """What the next entry names as `previous`: SHA-256 of the record's value."""
    return hashlib.sha256(value).digest()


def exported(entry: Entry, value: bytes) -> ExportedEntry:
    """An entry as JSON says it, of a record's value.

    Raises:
        msgspec.MsgspecError: its effects cannot be read.
    """
    effects = effects_of(entry.effects)
    origin = entry.origin
    return ExportedEntry(
        context=entry.context,
        sequence=entry.sequence,
        previous=entry.previous.hex(),
        hash=hash_of(value).hex(),
        operation=entry.operation,
        kind=entry.kind,
        txid=display(entry.txid),
        effects=EntryEffects(_effects(effects.added), _effects(effects.removed)),
        state_root=entry.state_root.hex(),
        store_root=entry.store_root.hex(),
        manager=entry.manager or None,
        origin=ResultOrigin(origin.topic, origin.partition, origin.offset) if origin is not None else None,
        time=rfc3339(entry.time_ms),
    )


def _effects(pairs: Iterable[tuple[bytes, bytes]]) -> tuple[Effect, ...]:
    return tuple(Effect(key.hex(), value_hash.hex()) for key, value_hash in pairs)


class Break(Struct, frozen=True):
    """Where a journal is not what it must be."""

    kind: Literal["doubled", "torn", "root"]  # a sequence that comes again; a gap or another hash; roots or effects
    says: str


class Chain:
    """One context's journal, as far as it was walked. After a break it goes on at the entry that broke it."""

    def __init__(self, *, roots: bool = False) -> None:
        """roots: replay the effects into both roots: 15 us an effect, and 220 bytes of memory for each live key."""
        self.sequence = 0
        self.hash = NO_HASH
        self.sums = Live()
        self.replayed = roots  # whether effects so far gave the roots; after a break none would
        self._live: dict[bytes, bytes] | None = {}

    @classmethod
    def behind(cls, head: Live) -> "Chain":
        """From where somebody's copy stands, with its sums: what is live there is the copy's to know."""
        chain = cls(roots=True)
        chain.sequence, chain.hash, chain.sums, chain._live = head.sequence, head.entry_hash, head, None
        return chain

    @property
    def entries(self) -> int:
        """Live keys after the last entry, where effects are replayed from the first on."""
        return len(self._live or ())

    def take(self, entry: Entry, value: bytes) -> list[Break]:
        """The next entry, and the record's value it was read from; what is wrong with it, in words that name it."""
        at = f"{entry.context} {entry.sequence}"
        if entry.sequence <= self.sequence:
            return [Break("doubled", f"{at} comes again after {self.sequence}")]
        found = []
        if entry.sequence != self.sequence + 1:
            found.append(Break("torn", f"{at} comes after {self.sequence}"))
            self.replayed = False
        elif entry.previous != self.hash:
            found.append(Break("torn", f"{at} does not name the hash of {self.sequence}"))
        self.sequence = entry.sequence
        self.hash = hash_of(value)
        if len(entry.state_root) != ROOT_BYTES or len(entry.store_root) != ROOT_BYTES:
            found.append(Break("root", f"{at} has none"))
            self.replayed = False
        elif self.replayed:
            found += self._replay(entry, at)
        return found

    def _replay(self, entry: Entry, at: str) -> list[Break]:
        try:
            effects = effects_of(entry.effects)
        except msgspec.MsgspecError as error:
            self.replayed = False
            return [Break("root", f"{at} has no readable effects: {error}")]
        # The sums alone would take an entry that is added twice, and count it twice.
        if wrong := self._moved(effects):
            self.replayed = False
            return [Break("root", f"{at} {wrong}")]
        self.sums = summed(self.sums, effects)
        self.replayed = (self.sums.state_root, self.sums.store_root) == (entry.state_root, entry.store_root)
        return [] if self.replayed else [Break("root", f"{at} has others than its effects give")]

    def _moved(self, effects: Effects) -> str:
        for key, _ in (*effects.removed, *effects.added):
            if not 0 < key.find(b"\0") < len(key) - 1:
                return f"names {key!r}, which is no entry's key"
        if self._live is None:
            return ""
        for key, value_hash in effects.removed:
            if self._live.pop(key, None) != value_hash:
                return f"removes {key!r}, which is not there with that value"
        for key, value_hash in effects.added:
            if key in self._live:
                return f"adds {key!r}, which is there"
            self._live[key] = value_hash
        return ""
