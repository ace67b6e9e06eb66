"""Bringing a copy of the state up to date from its changelog (STORE-1)."""

import msgspec

from pipeline import state
from pipeline.state import APPLIED_KEY, Corrupt, Layer, Live, View
from schemas.state import Applied, AppliedOffset, Head, Known
from schemas.types import Outpoint, outpoint, outpoints

_known = msgspec.msgpack.Decoder(Known).decode
_judged = msgspec.msgpack.Decoder(Applied).decode
_applied = msgspec.msgpack.Decoder(AppliedOffset).decode
_head = msgspec.msgpack.Decoder(Head).decode


def _spends(stored: bytes | None) -> set[Outpoint]:
    return set(outpoints(_known(stored[32:]).spends)) if stored is not None else set()


def _admits(txid: bytes, stored: bytes | None) -> set[Outpoint]:
    if stored is None:
        return set()
    return {outpoint(txid, vout) for vout in _judged(stored[32:]).admittance.outputs_to_admit}


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
        """One record.

        Raises:
            Corrupt: the value does not match its hash.
        """
        if stored is not None:
            state.check(stored, entry_key)
        if entry_key == APPLIED_KEY:
            assert stored is not None  # it is written, never deleted
            self.applied = _applied(stored[32:])
        else:
            context = state.context_of(entry_key)
            live = self._sums.get(context)
            if live is None:
                live = self._stated(context)
            if context != entry_key:
                if state.is_index(entry_key):
                    raise Corrupt(f"{entry_key!r} is not for a changelog")
                old = self._layer.get(entry_key)
                if old != stored:
                    live = state.moved(live, entry_key, old, stored)
                    self._index(context, entry_key, old, stored)
            self._sums[context] = live
        self._layer.writes[entry_key] = stored

    def _index(self, context: bytes, entry_key: bytes, old: bytes | None, new: bytes | None) -> None:
        """Who spends what, and what was admitted: told by what is known and what was judged."""
        kind_at = len(context) + 1
        kind, prefix = entry_key[kind_at : kind_at + 1], entry_key[:kind_at]
        try:
            if kind == state.KNOWN:
                self._index_spends(prefix + state.SPEND, entry_key, _spends(old), _spends(new))
            elif kind == state.TX:
                txid = entry_key[kind_at + 1 :]
                self._index_admitted(prefix + state.ADMITTED, entry_key, _admits(txid, old), _admits(txid, new))
        except msgspec.MsgspecError as error:
            raise Corrupt(f"the value of {entry_key!r} is not one of its kind: {error}") from error

    def _index_spends(self, prefix: bytes, entry_key: bytes, before: set[Outpoint], after: set[Outpoint]) -> None:
        txid = entry_key[-32:]
        for point in before - after:
            spender = self._layer.value(prefix + point)
            if spender is None:
                raise Corrupt(f"the copy does not know who spends what {entry_key!r} spends")
            if spender == txid:  # and not another that came since, where compaction left this behind it
                self._layer.delete(prefix + point)
        for point in after - before:
            self._layer.put(prefix + point, txid)

    def _index_admitted(self, prefix: bytes, entry_key: bytes, before: set[Outpoint], after: set[Outpoint]) -> None:
        for point in before - after:
            if self._layer.value(prefix + point) is None:
                raise Corrupt(f"the copy does not know what {entry_key!r} admits")
            self._layer.delete(prefix + point)
        for point in after - before:
            self._layer.put(prefix + point, b"")

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

    def _stated(self, context: bytes) -> Live:
        stored = self._layer.get(context)
        return Live() if stored is None else Live.read(_head(stored[32:]))
