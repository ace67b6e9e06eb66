"""The state of contexts: key layout, layers of writes over a store, and both roots.

A stored value is 32 bytes of SHA-256 and then the value (STORE-2). An entry's key is its context, a zero byte, one
letter for its kind, and the rest; a context's head stands under the context alone.
"""

import hashlib
import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from msgspec import Struct, msgpack

from pipeline import lthash
from schemas.journal import Effects
from schemas.state import Head
from schemas.types import Context

COIN = b"c"  # outpoint -> nothing: admitted, and nothing known spends it; value and script stand in its transaction
HISTORY = b"h"  # outpoint -> txid of the judged transaction that spends it and whose manager keeps it
TX = b"t"  # txid -> Applied: submitted, with what was judged: the answer to a repeat
KNOWN = b"k"  # txid -> Known: its spends count, whether it was judged or came as an ancestor
ACCEPTED = b"y"  # txid -> nothing, or PROVEN: the network took this known transaction
SPEND = b"s"  # outpoint -> txid of the known transaction that spends it
ADMITTED = b"a"  # outpoint -> nothing: admitted, spent or not
QUEUE = b"q"  # nothing -> Queue; number, 8 bytes -> Waiting: work that did not fit into one transaction
TOMBSTONE = b"x"  # txid -> Tombstone: the network refused it
LOSER = b"l"  # outpoint -> ingest coordinates that lost it
DEPARTED = b"d"  # txid -> Departed: left with one that was refused
LEFT = b"e"  # txid that was refused, place of 8 bytes, txid -> nothing: who left with it
CONTESTED = b"r"  # outpoint -> Contested: returned by an eviction, while a rival may yet have it
RIVAL = b"v"  # txid, outpoint -> nothing: what a rival may yet have
PLACED = b"o"  # outpoint -> Placed: which basket an output of an owner's belongs into, spent or not
LISTED = b"b"  # basket, tag or nothing, outpoint -> nothing: a coin that is in it
RELINQUISHED = b"u"  # basket, outpoint -> Relinquished: it is not in that basket, though nothing spends it
TALLY = b"n"  # basket, tag or nothing -> Tally: of the coins that are in it
PREPARED = b"P"  # operation, 16 bytes -> Prepared
LOCK = b"L"  # outpoint -> txid that alone may spend it, operations of 16 bytes each: while any of them is prepared
SUBJECT = b"S"  # txid -> operation: it is what a prepared operation is about
HOLDS = b"H"  # nothing -> Holds: what is undecided here
WAITER = b"W"  # number, 8 bytes -> Waiter: for an undecided operation
BEHIND = b"B"  # operation -> Behind: what waits for it
OWN = b"O"  # operation -> number, 8 bytes: it waits itself
RESERVATION = b"i"  # its id -> Reservation: what somebody holds until its lease ends
RESERVED = b"m"  # outpoint -> id of the reservation that holds it: a coin, always
LEASE = b"z"  # when it ends (8 bytes, Unix milliseconds), id -> nothing: which reservations end when
FREE = b"f"  # basket, outpoint -> nothing: a coin listed there that nobody holds or may yet have; not of `default`
HOLDING = b"p"  # nothing -> Holding: how many there are, and what they hold
ANSWERED = b"j"  # id of a request -> Answered: what a repeat of it is told
FORGET = b"g"  # when (8 bytes, Unix milliseconds), id of a request -> nothing: until then its answer is kept

PROVEN = b"proven"
"""It came with a proof, which says that the network took it."""

IN_STATE_ROOT = frozenset(
    COIN + HISTORY + PLACED + LISTED + RELINQUISHED + TALLY + RESERVATION + RESERVED + LEASE + HOLDING
)
"""Kinds under the state root: what the context holds. All others sway later decisions: the store root."""

INDEX = frozenset(SPEND + ADMITTED + LOCK + SUBJECT + HOLDS)
"""Kinds that only repeat or count what others hold, the other way round. They stand in stores alone: roots, journal and
changelog have them in the entries they follow from, and who follows those makes them anew."""

APPLIED_KEY = b"\0applied"
"""Key of the applied offset, in the changelog and in the local store. No context begins with a zero byte."""

NO_HASH = bytes(32)

FEW = 8
"""Entries that are quicker asked for one by one."""


UNKNOWN = b"\0unknown"
"""Stands, as this very object, for what a layer does not say: most questions go through all of them, and an exception
in each costs more than the question."""


class Corrupt(Exception):  # noqa: N818 - what the store is
    """What a store holds is not what was written."""

    def __init__(self, message: str, context: bytes = b"") -> None:
        """context: whose entry it is, where it is one context's."""
        super().__init__(message)
        self.context: Context = context.decode(errors="replace")


class View(Protocol):
    """Something that holds stored values."""

    def get(self, key: bytes) -> bytes | None:
        """The stored value (hash and value), or None.

        Raises:
            Corrupt: it does not match its hash.
        """
        ...

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """`get` of each, in one question."""
        ...

    def keys_with(self, prefix: bytes) -> Iterable[bytes]:
        """Keys of all entries that begin so, by their bytes, as far as they are asked for. Cost: those, and all that is
        written in layers above."""
        ...


class Ordered(View, Protocol):
    """A view whose keys have an order."""

    def keys_from(self, start: bytes) -> Iterator[bytes]:
        """All keys from this one on, by their bytes."""
        ...


class Live(Struct, frozen=True):
    """A context's head, ready for arithmetic."""

    sequence: int = 0
    entry_hash: bytes = NO_HASH
    state_sum: bytes = lthash.EMPTY
    store_sum: bytes = lthash.EMPTY

    @classmethod
    def read(cls, head: Head) -> "Live":
        """From its stored form."""
        return cls(head.sequence, head.entry_hash, head.state_sum, head.store_sum)

    def stored(self) -> Head:
        """In its stored form."""
        return Head(self.sequence, self.entry_hash, self.state_sum, self.store_sum)

    @property
    def state_root(self) -> bytes:
        """32 bytes over coins, history, baskets and reservations."""
        return lthash.root(self.state_sum)

    @property
    def store_root(self) -> bytes:
        """32 bytes over everything else that sways a decision."""
        return lthash.root(self.store_sum)


def key(context: Context, kind: bytes, rest: bytes) -> bytes:
    """Key of an entry."""
    return context.encode() + b"\0" + kind + rest


def is_index(entry_key: bytes) -> bool:
    """Whether an entry only repeats what others hold. Heads and the applied offset do not."""
    at = entry_key.find(b"\0")
    return at > 0 and entry_key[at + 1] in INDEX


def head_key(context: Context) -> bytes:
    """Key of a context's head."""
    return context.encode()


def kind_of(entry_key: bytes) -> int:
    """The byte for an entry's kind."""
    return entry_key[entry_key.index(b"\0") + 1]


def context_of(entry_key: bytes) -> bytes:
    """The context an entry belongs to, as bytes; the key itself for a head."""
    return entry_key.split(b"\0", 1)[0]


SEALED_NOTHING = hashlib.sha256().digest()
"""The value that most entries hold, as it is stored."""


def seal(value: bytes) -> bytes:
    """A value as it is stored."""
    return hashlib.sha256(value).digest() + value if value else SEALED_NOTHING


def unseal(stored: bytes) -> bytes:
    """The value of a stored value that is checked already."""
    return stored[32:]


def check(stored: bytes, entry_key: bytes) -> bytes:
    """The stored value again, if it matches its hash.

    Raises:
        Corrupt: it does not.
    """
    if stored == SEALED_NOTHING:
        return stored
    if hashlib.sha256(memoryview(stored)[32:]).digest() != stored[:32]:
        raise Corrupt(f"the value of {entry_key!r} does not match its hash", context_of(entry_key))
    return stored


Elements = tuple[list[bytes], list[bytes]]
"""Keys with the hashes of their values: those under the store root, and those under the state root."""


def moved(total: Live, removed: Elements, added: Elements) -> Live:
    """The sums after these went and came."""
    store_sum, state_sum = total.store_sum, total.state_sum
    if removed[0] or added[0]:
        store_sum = lthash.changed(store_sum, removed[0], added[0])
    if removed[1] or added[1]:
        state_sum = lthash.changed(state_sum, removed[1], added[1])
    return Live(total.sequence, total.entry_hash, state_sum, store_sum)


def summed(total: Live, effects: Effects) -> Live:
    """The sums after these effects."""
    removed: Elements = ([], [])
    added: Elements = ([], [])
    for pairs, elements in ((effects.removed, removed), (effects.added, added)):
        for key, value_hash in pairs:
            elements[key[key.index(b"\0") + 1] in IN_STATE_ROOT].append(key + value_hash)
    return moved(total, removed, added)


class Remembered:
    """A view that asks the one below once for each key: for as long as nobody else writes below."""

    def __init__(self, below: View) -> None:
        self._below = below
        self._found: dict[bytes, bytes | None] = {}

    def get(self, entry_key: bytes) -> bytes | None:
        """See `View.get`."""
        found = self._found.get(entry_key, UNKNOWN)
        if found is UNKNOWN:
            found = self._found[entry_key] = self._below.get(entry_key)
        return found

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """See `View.get_many`."""
        known = self._found
        missing = [key for key in keys if key not in known]
        if missing:
            known.update(zip(missing, self._below.get_many(missing), strict=True))
        return [known[key] for key in keys]

    def keys_with(self, prefix: bytes) -> Iterable[bytes]:
        """See `View.keys_with`."""
        return self._below.keys_with(prefix)


class Layer:
    """Writes over a view. What is not merged never happened."""

    def __init__(self, below: View) -> None:
        self._below = below
        self.writes: dict[bytes, bytes | None] = {}
        # Most questions go through all layers: they are asked in one place, not each by the one above it.
        layers, bottom = below._through if isinstance(below, Layer) else ((), below)
        self._through: tuple[tuple[dict[bytes, bytes | None], ...], View] = ((self.writes, *layers), bottom)

    def get(self, entry_key: bytes) -> bytes | None:
        """See `View.get`."""
        layers, bottom = self._through
        for writes in layers:
            if entry_key in writes:
                return writes[entry_key]
        return bottom.get(entry_key)

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """See `View.get_many`."""
        if len(keys) < FEW:
            return [self.get(key) for key in keys]
        writes = self.writes
        missing = [key for key in keys if key not in writes]
        if len(missing) == len(keys):
            return self._below.get_many(keys)
        below = iter(self._below.get_many(missing)) if missing else iter(())
        return [writes[key] if key in writes else next(below) for key in keys]

    def keys_with(self, prefix: bytes) -> Iterable[bytes]:
        """See `View.keys_with`. What is written here once they are asked for is not among them."""
        layers, bottom = self._through
        written: dict[bytes, bytes | None] = {}
        for writes in reversed(layers):
            written.update((entry_key, writes[entry_key]) for entry_key in writes if entry_key.startswith(prefix))
        if not written:
            return bottom.keys_with(prefix)
        come = sorted(entry_key for entry_key, stored in written.items() if stored is not None)
        return heapq.merge((entry_key for entry_key in bottom.keys_with(prefix) if entry_key not in written), come)

    def value(self, entry_key: bytes) -> bytes | None:
        """The value without its hash."""
        stored = self.get(entry_key)
        return None if stored is None else stored[32:]

    def put(self, entry_key: bytes, value: bytes) -> None:
        """Write an entry."""
        self.writes[entry_key] = seal(value)

    def delete(self, entry_key: bytes) -> None:
        """Remove an entry."""
        self.writes[entry_key] = None

    def size(self) -> int:
        """Bytes of the writes, keys and values."""
        return sum(map(len, self.writes)) + sum(map(len, filter(None, self.writes.values())))

    def to_follow(self) -> Iterator[tuple[bytes, bytes | None]]:
        """The writes that a copy cannot make from others."""
        return ((key, stored) for key, stored in self.writes.items() if not is_index(key))

    def merge_into(self, below: "Layer") -> None:
        """Make these writes part of the layer below."""
        below.writes.update(self.writes)

    def changes(self, head: Live) -> tuple[Effects, Live]:
        """What these writes change of one context: effects by key and hash, and the sums after them."""
        come: list[tuple[bytes, bytes]] = []
        gone: list[tuple[bytes, bytes]] = []
        added: Elements = [], []
        removed: Elements = [], []
        kinds = {key: key[key.index(b"\0") + 1] for key in self.writes}
        keys = [key for key, kind in kinds.items() if kind not in INDEX]
        for entry_key, old in zip(keys, self._below.get_many(keys), strict=True):
            new = self.writes[entry_key]
            if old == new:
                continue
            root = kinds[entry_key] in IN_STATE_ROOT
            if old is not None:
                gone.append((entry_key, old[:32]))
                removed[root].append(entry_key + old[:32])
            if new is not None:
                come.append((entry_key, new[:32]))
                added[root].append(entry_key + new[:32])
        return Effects(tuple(come), tuple(gone)), moved(head, removed, added)


class Memory:
    """A store in memory."""

    def __init__(self, entries: Mapping[bytes, bytes] | None = None) -> None:
        self.entries = dict(entries or {})

    def get(self, entry_key: bytes) -> bytes | None:
        """See `View.get`."""
        stored = self.entries.get(entry_key)
        return None if stored is None else check(stored, entry_key)

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """See `View.get_many`."""
        return [self.get(entry_key) for entry_key in keys]

    def keys_with(self, prefix: bytes) -> Iterable[bytes]:
        """See `View.keys_with`."""
        return sorted(entry_key for entry_key in self.entries if entry_key.startswith(prefix))

    def keys_from(self, start: bytes) -> Iterator[bytes]:
        """See `Ordered.keys_from`."""
        return iter(sorted(entry_key for entry_key in self.entries if entry_key >= start))

    def write(self, writes: Mapping[bytes, bytes | None]) -> None:
        """Apply a layer's writes."""
        for entry_key, stored in writes.items():
            if stored is None:
                self.entries.pop(entry_key, None)
            else:
                self.entries[entry_key] = stored


_head = msgpack.Decoder(Head).decode
encode = msgpack.Encoder().encode


def head_of(view: View, context: Context) -> Live:
    """Where a context stands; one that holds nothing stands at sequence 0."""
    stored = view.get(head_key(context))
    return Live() if stored is None else Live.read(_head(stored[32:]))
