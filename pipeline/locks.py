"""Locks of prepared operations: index entries, which follow from what is prepared and from what waits (ATOMIC-1).

A lock's value is the transaction that alone may spend the outpoint, and then the operations that want it so, by their
bytes: undecided in one context, several of them may bring the same ancestor.
"""

from collections.abc import Iterator, Sequence

import msgspec

from schemas.flow import Verified
from schemas.operations import NAME_BYTES
from schemas.state import Holds, Prepared, Waiter
from schemas.types import Outpoint, Txid

_prepared = msgspec.msgpack.Decoder(Prepared).decode
_waiter = msgspec.msgpack.Decoder(Waiter).decode


def spender(lock: bytes) -> Txid:
    """Who alone may spend the outpoint."""
    return lock[:32]


def by(lock: bytes) -> list[bytes]:
    """Operations that want it so."""
    return [lock[at : at + NAME_BYTES] for at in range(32, len(lock), NAME_BYTES)]


def taken(lock: bytes | None, txid: Txid, operation: bytes) -> bytes:
    """The lock once an operation wants it too. One for another transaction is about to go."""
    if lock is None or spender(lock) != txid:
        return txid + operation
    others = by(lock)
    return lock if operation in others else txid + b"".join(sorted((*others, operation)))


def given_back(lock: bytes, txid: Txid, operation: bytes) -> bytes | None:
    """The lock once an operation wants it no longer; None: nobody does."""
    if spender(lock) != txid:
        return lock
    others = [each for each in by(lock) if each != operation]
    return txid + b"".join(others) if others else None


def wanted(verified: Verified, spends: Sequence[Sequence[Outpoint]]) -> Iterator[tuple[Outpoint, Txid]]:
    """Outpoints of a payload, each with who alone may spend it. spends: of each member."""
    for one, points in zip(verified.members, spends, strict=True):
        for point in points:
            yield point, one.txid


def read_prepared(value: bytes) -> Prepared:
    """What an entry of what is prepared says.

    Raises:
        msgspec.MsgspecError: nothing of the kind.
    """
    return _prepared(value)


def read_waiter(value: bytes) -> Waiter:
    """What an entry of what waits says. Raises as `read_prepared`."""
    return _waiter(value)


def counted(holds: Holds, prepared: int = 0, waiters: int = 0, size: int = 0) -> Holds | None:
    """What is undecided once so much came, or went; None: nothing."""
    prepared, waiters = holds.prepared + prepared, holds.waiters + waiters
    return Holds(prepared, waiters, holds.size + size) if prepared or waiters else None
