"""Merkle paths that come for a transaction by itself: what they claim, for the trackers to answer (ANCHOR-2)."""

from msgspec import Struct

from pipeline.chain.answer import RootAt
from pipeline.codec.bump import read_bump
from pipeline.codec.reader import Malformed
from pipeline.http import Unreadable
from schemas.types import Txid

MOST_BYTES = 64 << 10
"""A path of one transaction in a block of 2^32 is 1.1 kB; a compound one of a family is a few times that."""


class Claim(Struct, frozen=True):
    """That a transaction is in the block of this height which has this root."""

    at: RootAt
    path: bytes


def claim(txid: Txid, path: bytes) -> Claim | Unreadable:
    """What a path (BRC-74) claims of a transaction. Total: no bytes make it raise."""
    if len(path) > MOST_BYTES:
        return Unreadable(f"a path of {len(path)} bytes")
    try:
        bump, end = read_bump(path, 0)
        if end != len(path):
            return Unreadable(f"{len(path) - end} bytes behind the path")
        offset = bump.leaves().get(txid)
        if offset is None:
            return Unreadable("the path is of other transactions")
        return Claim((bump.height, bump.root({offset})), path)
    except Malformed as error:
        return Unreadable(f"no path: {error}")
