"""Double SHA-256, and the root a node leads to: compiled where a C compiler was at hand, else by hashlib.

Both give the same; the compiled ones spare a call for each half and each level (docs/decisions/verifier.md).
"""

from collections.abc import Sequence
from hashlib import sha256

__all__ = ["climb", "hash256", "plain_climb", "plain_hash256"]


def plain_hash256(data: bytes) -> bytes:
    """Double SHA-256, in wire order."""
    return sha256(sha256(data).digest()).digest()


def plain_climb(node: bytes, place: int, siblings: Sequence[bytes]) -> bytes:
    """The root of a Merkle path (BRC-74).

    node: 32 bytes, wire order; place: its offset on its level; siblings: its neighbour on each level, lowest first.
    Empty where a neighbour equals its node, which no tree has.
    """
    for sibling in siblings:
        if sibling == node:
            return b""
        node = sha256(sha256(sibling + node if place & 1 else node + sibling).digest()).digest()
        place >>= 1
    return node


try:
    from pipeline.codec._hashing import climb, hash256
except ImportError:
    climb, hash256 = plain_climb, plain_hash256
