"""Bringing a copy of the state up to date from its changelog (STORE-1)."""

from collections.abc import Iterable, Iterator
from typing import Protocol

import msgspec

from pipeline import locks, member, state
from pipeline.state import APPLIED_KEY, SEALED_NOTHING, Corrupt, Elements, Layer, Live, View
from schemas.state import Applied, AppliedOffset, Head, Holds, Known, Prepared
from schemas.types import Outpoint, Txid, outpoint, outpoints

_known = msgspec.msgpack.Decoder(Known).decode
_judged = msgspec.msgpack.Decoder(Applied).decode
_applied = msgspec.msgpack.Decoder(AppliedOffset).decode
_head = msgspec.msgpack.Decoder(Head).decode
_holds = msgspec.msgpack.Decoder(Holds).decode


def _locked(prepared: Prepared) -> Iterator[tuple[Outpoint, Txid]]:
    verified = prepared.operation.apply.verified
    return locks.wanted(verified, member.spends_of(verified))


def _more(old: bytes | None, new: bytes | None) -> int:
    return (new is not None) - (old is not None)


TELLS = frozenset(state.KNOWN + state.TX + state.PREPARED + state.WAITER)
"""Kinds that the index follows from."""


def _spends(stored: bytes | None) -> set[Outpoint]:
    return set(outpoints(_known(stored[32:]).spends)) if stored is not None else set()


def _admits(txid: bytes, stored: bytes | None) -> set[Outpoint]:
    if stored is None:
        return set()
    return {outpoint(txid, vout) for vout in _judged(stored[32:]).admittance.outputs_to_admit}


class Follows(Protocol):
    """What brings a copy up to date."""

    def take_all(self, records: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Records of the changelog, in their order, key and value.

        Raises:
            Corrupt: one does not fit to the copy.
        """
        ...

    def __len__(self) -> int:
        """Records that `writes` would give."""
        ...

    def writes(self) -> dict[bytes, bytes | None]:
        """What was taken since the last call, for the copy, which must hold it before the next `take_all`."""
        ...

    def compare(self) -> None:
        """At the end of the changelog, with all of it in the copy or in hand.

        Raises:
            Corrupt: the copy is not what it should be.
        """
        ...


class Form(Protocol):
    """How the state of an exactly-once stage looks, in its store and on its changelog."""

    shared: bool
    """Whether other workers hold copies, and reads are answered from it."""

    def follower(self, copy: View) -> Follows:
        """Brings a copy up to date."""
        ...

    def records(self, layer: Layer) -> Iterable[tuple[bytes, bytes | None]]:
        """What a batch wrote, as its changelog has it; the applied offset last."""
        ...


class Contexts:
    """Entries of contexts with their hashes, heads and roots: what apply keeps."""

    shared = True

    def follower(self, copy: View) -> Follows:
        """See `Form`."""
        return Follower(copy)

    def records(self, layer: Layer) -> Iterable[tuple[bytes, bytes | None]]:
        """See `Form`."""
        return layer.to_follow()


class Keyed:
    """A value for each key, which anybody may read on the changelog: hashes stand in the store alone."""

    shared = False

    def follower(self, copy: View) -> Follows:
        """See `Form`."""
        return KeyedFollower()

    def records(self, layer: Layer) -> Iterable[tuple[bytes, bytes | None]]:
        """See `Form`."""
        return ((key, None if stored is None else state.unseal(stored)) for key, stored in layer.writes.items())


class KeyedFollower:
    """Takes them as they come: nothing is stated that they could be compared with."""

    def __init__(self) -> None:
        self._writes: dict[bytes, bytes | None] = {}

    def take_all(self, records: Iterable[tuple[bytes, bytes | None]]) -> None:
        """See `Follows`."""
        self._writes.update((key, None if value is None else state.seal(value)) for key, value in records)

    def __len__(self) -> int:
        """See `Follows`."""
        return len(self._writes)

    def writes(self) -> dict[bytes, bytes | None]:
        """See `Follows`."""
        found, self._writes = self._writes, {}
        return found

    def compare(self) -> None:
        """See `Follows`."""


class Follower:
    """Takes changelog records and keeps the sums that follow from them.

    Compaction may have dropped any record that a later one replaces, so the sums are those the heads state at the end
    of the changelog, and not necessarily before.
    """

    def __init__(self, copy: View) -> None:
        self._copy = copy
        self._layer = Layer(copy)
        self._sums: dict[bytes, Live] = {}
        self.applied: AppliedOffset | None = None

    def take(self, entry_key: bytes, stored: bytes | None) -> None:
        """One record: see `take_all`."""
        self.take_all(((entry_key, stored),))

    def take_all(self, records: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Records, in their order. Of those with the same key the last one counts, as if the others were compacted.

        Raises:
            Corrupt: a value does not match its hash, or a record does not fit to the copy.
        """
        newest = dict(records)
        for entry_key, stored in newest.items():
            if stored is not None:
                state.check(stored, entry_key)
        if (stored := newest.get(APPLIED_KEY)) is not None:
            self.applied = _applied(stored[32:])
        entries = [entry_key for entry_key in newest if entry_key.find(b"\0") > 0]
        moves: dict[bytes, tuple[Elements, Elements]] = {}
        for entry_key, old in zip(entries, self._layer.get_many(entries), strict=True):
            at = entry_key.index(b"\0")
            context, kind, new = entry_key[:at], entry_key[at + 1], newest[entry_key]
            if kind in state.INDEX:
                raise Corrupt(f"{entry_key!r} is not for a changelog")
            if (move := moves.get(context)) is None:
                move = moves[context] = ([], []), ([], [])
            if old == new:
                continue
            removed, added = move
            in_state = kind in state.IN_STATE_ROOT
            if old is not None:
                removed[in_state].append(entry_key + old[:32])
            if new is not None:
                added[in_state].append(entry_key + new[:32])
            if kind in TELLS:
                self._index(kind, entry_key[: at + 1], entry_key[at + 2 :], old, new)
        for context, (removed, added) in moves.items():
            self._sums[context] = state.moved(self._sum(context), removed, added)
        for context in newest.keys() - entries - {APPLIED_KEY}:  # heads
            self._sums[context] = self._sum(context)
        self._layer.writes |= newest

    def _index(self, kind: int, prefix: bytes, rest: bytes, old: bytes | None, new: bytes | None) -> None:
        """Who spends what, what was admitted, locked, and how much is undecided: told by entries of these kinds.

        prefix: of keys of their context; rest: of the entry's key.
        """
        try:
            if kind in state.KNOWN:
                self._index_spends(prefix + state.SPEND, rest, _spends(old), _spends(new))
            elif kind in state.TX:
                self._index_admitted(prefix + state.ADMITTED, rest, _admits(rest, old), _admits(rest, new))
            elif kind in state.PREPARED:
                self._index_prepared(prefix, rest, old, new)
            else:
                sizes = [0 if one is None else locks.read_waiter(one[32:]).size for one in (old, new)]
                self._count(prefix, waiters=_more(old, new), size=sizes[1] - sizes[0])
        except msgspec.MsgspecError as error:
            key = prefix + bytes([kind]) + rest
            raise Corrupt(f"the value of {key!r} is not one of its kind: {error}") from error

    def _index_spends(self, prefix: bytes, txid: Txid, before: set[Outpoint], after: set[Outpoint]) -> None:
        for point in before - after:
            spender = self._layer.value(prefix + point)
            if spender is None:
                raise Corrupt(f"the copy does not know who spends what {txid.hex()} spends: {prefix!r}")
            if spender == txid:  # and not another that came since, where compaction left this behind it
                self._layer.delete(prefix + point)
        stored = state.seal(txid)
        self._layer.writes.update((prefix + point, stored) for point in after - before)

    def _index_admitted(self, prefix: bytes, txid: Txid, before: set[Outpoint], after: set[Outpoint]) -> None:
        for point in before - after:
            if self._layer.value(prefix + point) is None:
                raise Corrupt(f"the copy does not know what {txid.hex()} admits: {prefix!r}")
            self._layer.delete(prefix + point)
        self._layer.writes.update((prefix + point, SEALED_NOTHING) for point in after - before)

    def _index_prepared(self, prefix: bytes, operation: bytes, old: bytes | None, new: bytes | None) -> None:
        """Locks, as `undecided.lock` takes and `undecided.release` gives them back."""
        layer = self._layer
        if old is not None and (gone := locks.read_prepared(old[32:])).does:
            subject = prefix + state.SUBJECT + gone.operation.apply.verified.txid
            if layer.value(subject) == operation:  # and not another that came since: see `_index_spends`
                layer.delete(subject)
            for point, spender in _locked(gone):
                lock = layer.value(prefix + state.LOCK + point)
                if lock is None:
                    raise Corrupt(f"the copy does not know what {operation.hex()} locks: {prefix!r}")
                self._put(prefix + state.LOCK + point, locks.given_back(lock, spender, operation))
        if new is not None and (come := locks.read_prepared(new[32:])).does:
            layer.put(prefix + state.SUBJECT + come.operation.apply.verified.txid, operation)
            for point, spender in _locked(come):
                lock = layer.value(prefix + state.LOCK + point)
                layer.put(prefix + state.LOCK + point, locks.taken(lock, spender, operation))
        self._count(prefix, prepared=_more(old, new))

    def _count(self, prefix: bytes, prepared: int = 0, waiters: int = 0, size: int = 0) -> None:
        stored = self._layer.value(prefix + state.HOLDS)
        holds = locks.counted(Holds() if stored is None else _holds(stored), prepared, waiters, size)
        self._put(prefix + state.HOLDS, None if holds is None else state.encode(holds))

    def _put(self, entry_key: bytes, value: bytes | None) -> None:
        if value is None:
            self._layer.delete(entry_key)
        else:
            self._layer.put(entry_key, value)

    def __len__(self) -> int:
        """Records that `writes` would give."""
        return len(self._layer.writes)

    def writes(self) -> dict[bytes, bytes | None]:
        """What was taken since the last call, for the copy, which must hold it before the next `take`."""
        found = self._layer.writes
        self._layer = Layer(self._copy)
        return found

    def compare(self) -> None:
        """At the end of the changelog, with all of it in the copy or in hand.

        Raises:
            Corrupt: a context's roots are not those its head states.
        """
        for context, live in self._sums.items():
            stated = self._stated(context)
            if (stated.state_sum, stated.store_sum) != (live.state_sum, live.store_sum):
                raise Corrupt(
                    f"context {context.decode()}: its entries do not give the roots of sequence {stated.sequence}",
                    context,
                )

    def _sum(self, context: bytes) -> Live:
        """What its entries give so far, beginning with what the copy states."""
        live = self._sums.get(context)
        return self._stated(context) if live is None else live

    def _stated(self, context: bytes) -> Live:
        stored = self._layer.get(context)
        return Live() if stored is None else Live.read(_head(stored[32:]))
