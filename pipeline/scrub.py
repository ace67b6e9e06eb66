"""Looking through a context's entries: every value against its hash, all of them against both roots (STORE-3).

A value that nothing reads is else never looked at: a bit that flips in it would be told, or judged by, years later.
"""

import hashlib
from collections.abc import Sequence

import msgspec

from pipeline import state
from pipeline.state import Corrupt, Live, head_of, summed
from schemas.journal import Effects
from schemas.state import Applied, Known
from schemas.types import Context, outpoint, outpoints

_applied = msgspec.msgpack.Decoder(Applied).decode
_known = msgspec.msgpack.Decoder(Known).decode

_SUM = 1 << 256


class Scrub:
    """One context, entry by entry, all of one moment."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._prefix = context.encode()
        self._head = Live()
        self._sums = Live()
        self._spends = 0  # of what follows from `Known`, less what stands in the index
        self._admitted = 0  # likewise from `Applied`

    def take(self, entries: Sequence[tuple[bytes, bytes]]) -> bool:
        """The next entries of the store, the context's head before all others; whether the context goes on behind them.

        Raises:
            Corrupt: a value does not match its hash, or is not of its kind.
        """
        added: list[tuple[bytes, bytes]] = []
        for key, stored in entries:
            if state.context_of(key) != self._prefix:
                self._sum(added)
                return False
            state.check(stored, key)
            if key == self._prefix:
                self._head = head_of(_One(key, stored), self._context)
            elif state.is_index(key):
                self._index(key, stored)
            else:
                added.append((key, stored[:32]))
                self._follows(key, stored)
        self._sum(added)
        return bool(entries)

    def compare(self) -> None:
        """Behind the last entry.

        Raises:
            Corrupt: the entries are not those of the head's roots, or an index is not what follows from them.
        """
        where = f"{self._context} at sequence {self._head.sequence}"
        if (self._sums.state_sum, self._sums.store_sum) != (self._head.state_sum, self._head.store_sum):
            raise Corrupt(f"{where}: its entries do not give its roots", self._context.encode())
        if self._spends % _SUM or self._admitted % _SUM:
            raise Corrupt(f"{where}: an index does not follow from its entries", self._context.encode())

    def _sum(self, added: list[tuple[bytes, bytes]]) -> None:
        self._sums = summed(self._sums, Effects(tuple(added)))

    def _index(self, key: bytes, stored: bytes) -> None:
        kind, rest = self._parts(key)
        if kind == state.SPEND:
            self._spends -= _number(rest + state.unseal(stored))
        else:
            self._admitted -= _number(rest)

    def _follows(self, key: bytes, stored: bytes) -> None:
        kind, rest = self._parts(key)
        try:
            if kind == state.KNOWN:
                spends = _known(state.unseal(stored)).spends
                self._spends += sum(_number(point + rest) for point in outpoints(spends))
            elif kind == state.TX:
                admitted = _applied(state.unseal(stored)).admittance.outputs_to_admit
                self._admitted += sum(_number(outpoint(rest, vout)) for vout in admitted)
        except msgspec.MsgspecError as error:
            raise Corrupt(f"the value of {key!r} is not one of its kind: {error}", self._context.encode()) from error

    def _parts(self, key: bytes) -> tuple[bytes, bytes]:
        at = len(self._prefix) + 1
        return key[at : at + 1], key[at + 1 :]


class _One:
    """A view of one entry."""

    def __init__(self, key: bytes, stored: bytes) -> None:
        self._entry = {key: stored}

    def get(self, key: bytes) -> bytes | None:
        return self._entry.get(key)

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self.get(key) for key in keys]

    def keys_with(self, prefix: bytes) -> list[bytes]:
        return [key for key in self._entry if key.startswith(prefix)]


def _number(data: bytes) -> int:
    """Against what flips by itself: whoever can choose entries can choose their sum, and has the store anyway."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=32).digest(), "big")
