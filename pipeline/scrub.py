"""Looking through a context's entries: every value against its hash, all of them against both roots (STORE-3).

A value that nothing reads is else never looked at: a bit that flips in it would be told, or judged by, years later.
"""

import hashlib
from collections.abc import Sequence

import msgspec

from pipeline import locks, member, state
from pipeline.state import Corrupt, Live, head_of, summed
from schemas.journal import Effects
from schemas.state import Applied, Holds, Known
from schemas.types import Context, outpoint, outpoints

_holds = msgspec.msgpack.Decoder(Holds).decode
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
        self._locked = 0  # likewise from `Prepared`
        self._undecided = [0, 0, 0]  # likewise, and from `Waiter`: how many, and bytes

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
                continue
            index = state.is_index(key)
            if not index:
                added.append((key, stored[:32]))
            try:
                (self._index if index else self._follows)(*self._parts(key), state.unseal(stored))
            except msgspec.MsgspecError as error:
                what = f"the value of {key!r} is not one of its kind: {error}"
                raise Corrupt(what, self._context.encode()) from error
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
        if self._spends % _SUM or self._admitted % _SUM or self._locked % _SUM or any(self._undecided):
            raise Corrupt(f"{where}: an index does not follow from its entries", self._context.encode())

    def _sum(self, added: list[tuple[bytes, bytes]]) -> None:
        self._sums = summed(self._sums, Effects(tuple(added)))

    def _index(self, kind: bytes, rest: bytes, value: bytes) -> None:
        if kind == state.SPEND:
            self._spends -= _number(rest + value)
        elif kind == state.ADMITTED:
            self._admitted -= _number(rest)
        elif kind == state.SUBJECT:
            self._locked -= _number(rest + value)
        elif kind == state.LOCK:
            self._locked -= sum(_number(rest + locks.spender(value) + operation) for operation in locks.by(value))
        else:
            self._count(_holds(value), -1)

    def _follows(self, kind: bytes, rest: bytes, value: bytes) -> None:
        if kind == state.KNOWN:
            self._spends += sum(_number(point + rest) for point in outpoints(_known(value).spends))
        elif kind == state.TX:
            admitted = _applied(value).admittance.outputs_to_admit
            self._admitted += sum(_number(outpoint(rest, vout)) for vout in admitted)
        elif kind == state.PREPARED:
            self._count(Holds(1), 1)
            prepared = locks.read_prepared(value)
            if prepared.does:
                verified = prepared.operation.apply.verified
                wanted = locks.wanted(verified, member.spends_of(verified))
                self._locked += sum(_number(point + spender + rest) for point, spender in wanted)
                self._locked += _number(verified.txid + rest)
        elif kind == state.WAITER:
            self._count(Holds(0, 1, locks.read_waiter(value).size), 1)

    def _count(self, holds: Holds, sign: int) -> None:
        counts = holds.prepared, holds.waiters, holds.size
        self._undecided = [so_far + sign * each for so_far, each in zip(self._undecided, counts, strict=True)]

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
