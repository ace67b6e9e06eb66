"""The atomic operations log of a context: what is kept, rather than passed on."""

from typing import Literal

from msgspec import Struct

from schemas.flow import Origin
from schemas.types import Context, Txid
from schemas.wire import Schema

Kind = Literal[
    "apply", "rejudge", "prepare", "commit", "abort", "evict", "readmit", "burial", "reserve", "extend", "release",
    "consume", "expire", "relinquish", "merge", "accept", "wait", "dismiss", "prune", "repair",
]  # fmt: skip


class Effects(Struct, frozen=True, array_like=True):
    """Entries of the state that came and went: pairs of key and SHA-256 of the value.

    A changed entry stands in both lists. Replaying them gives both roots.
    """

    added: tuple[tuple[bytes, bytes], ...] = ()
    removed: tuple[tuple[bytes, bytes], ...] = ()


class JournalEntry(Struct, frozen=True, array_like=True):
    """One change of one context."""

    context: Context
    sequence: int  # from 1, without a gap
    previous: bytes  # SHA-256 of the entry before, 32 zero bytes for the first
    operation: str  # id of the operation that caused it
    kind: Kind
    txid: Txid
    effects: Effects
    state_root: bytes  # 32 bytes, after the entry
    store_root: bytes
    manager: str  # "tm_x/version", empty where no manager was asked
    origin: Origin | None
    time_ms: int
    beef: bytes = b""  # the transaction's bytes, in the entry that brought them
    contexts: tuple[Context, ...] = ()  # all of them, where the operation is one over several


JOURNAL = Schema("journal-entry", 1, JournalEntry, "msgpack", "One change of one context.")
