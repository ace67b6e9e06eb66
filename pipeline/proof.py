"""Merkle paths that come for a transaction by itself: what they claim, for the trackers to answer (ANCHOR-2)."""

from msgspec import Struct

from pipeline.chain.answer import RootAt
from pipeline.codec.beef import read_beef
from pipeline.codec.bump import Bump, read_bump, write_bump
from pipeline.codec.hashing import hash256
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


def own_path(beef: bytes, txid: Txid) -> bytes:
    """The Merkle path (BRC-74) of a proven transaction of a verified payload, of it alone."""
    envelope = read_beef(beef, len(beef), len(beef))
    (place,) = (tx.bump for tx in envelope.txs if tx.txid == txid)
    assert place >= 0  # it is proven
    return alone(envelope.bumps[place], txid)


def alone(bump: Bump, txid: Txid) -> bytes:
    """Of a path of one or several transactions, the path of one.

    Cost: one double hash for each pair of known neighbours.

    Raises:
        Malformed: the path does not hold it, or lacks a neighbour.
    """
    offset = bump.leaves().get(txid)
    if offset is None:
        raise Malformed("structure.bump-missing", f"bump {bump.index}", "the transaction is not in it")
    nodes: dict[int, bytes] = {}
    levels: list[dict[int, bytes]] = []
    at = offset
    for given in bump.levels:
        nodes = nodes | given
        beside = nodes.get(at ^ 1)
        if beside is None and bump.depth > 1:
            raise Malformed("structure.bump-missing", f"bump {bump.index}", "a neighbour is missing")
        levels.append({} if beside is None else {at ^ 1: beside})
        pairs = ((left, nodes[left], nodes.get(left | 1)) for left in nodes if not left & 1)
        nodes = {left >> 1: hash256(mine + (other or mine)) for left, mine, other in pairs if other is not None}
        at >>= 1
    levels[0][offset] = txid
    return write_bump(bump.height, levels, {offset})
