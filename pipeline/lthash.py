"""A hash of a set that changes by steps: LtHash with 1,024 lanes of 16 bits.

The sum of a hash of each element, lane by lane modulo 2^16: adding and removing cost the same, whatever the size of
the set, and the order does not matter. About 200 bits of security; XOR or a short sum would fall to linear algebra.
Compiled code hashes and adds up where a C compiler was at hand, else hashlib and whole numbers; both give the same.
Source: Bellare and Micciancio, "A New Paradigm for Collision-free Hashing"; Lewi et al., "Securing Update Propagation
with Homomorphic Hashing", 2019.
"""

import hashlib
from collections.abc import Sequence
from functools import lru_cache

__all__ = ["BYTES", "EMPTY", "changed", "element", "moved", "plain_changed", "plain_moved", "root"]

BYTES = 2048

EMPTY = bytes(BYTES)
"""The sum of nothing. A sum is 2,048 bytes: lanes little-endian, the first first."""

CHUNK = 256
"""Elements hashed before they are added up: half a megabyte."""

_TOP = int.from_bytes(b"\x00\x80" * (BYTES // 2), "little")
_REST = int.from_bytes(b"\xff\x7f" * (BYTES // 2), "little")


def element(data: bytes) -> bytes:
    """The lanes of one element: SHAKE-128 of its bytes."""
    return hashlib.shake_128(data).digest(BYTES)


def plain_moved(total: bytes, removed: Sequence[bytes], added: Sequence[bytes]) -> bytes:
    """The sum without the lanes of some elements and with those of others.

    Carries and borrows stay within each lane: top bits are added apart.

    Raises:
        ValueError: one is not 2,048 bytes.
    """
    if any(len(lanes) != BYTES for lanes in (total, *removed, *added)):
        raise ValueError("2,048 bytes are expected")
    value = int.from_bytes(total, "little")
    for lanes in removed:
        gone = int.from_bytes(lanes, "little")
        value = ((value | _TOP) - (gone & _REST)) ^ ((value ^ ~gone) & _TOP)
    for lanes in added:
        come = int.from_bytes(lanes, "little")
        value = ((value & _REST) + (come & _REST)) ^ ((value ^ come) & _TOP)
    return value.to_bytes(BYTES, "little")


def plain_changed(total: bytes, removed: Sequence[bytes], added: Sequence[bytes]) -> bytes:
    """The sum after elements went and came, given by their bytes.

    Raises:
        ValueError: the sum is not 2,048 bytes.
    """
    for at in range(0, len(removed), CHUNK):
        total = plain_moved(total, [element(data) for data in removed[at : at + CHUNK]], ())
    for at in range(0, len(added), CHUNK):
        total = plain_moved(total, (), [element(data) for data in added[at : at + CHUNK]])
    return total


try:
    from pipeline._lanes import changed, moved
except ImportError:
    changed, moved = plain_changed, plain_moved


@lru_cache(maxsize=16)
def root(total: bytes) -> bytes:
    """32 bytes that stand for the set. The last few are kept: an operation asks some times for the same sum's."""
    return hashlib.blake2b(total, digest_size=32).digest()
