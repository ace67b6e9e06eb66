"""A hash of a set that changes by steps: LtHash with 1,024 lanes of 16 bits.

The sum of a hash of each element, lane by lane modulo 2^16: adding and removing cost the same, whatever the size of
the set, and the order does not matter. About 200 bits of security; XOR or a short sum would fall to linear algebra.
Source: Bellare and Micciancio, "A New Paradigm for Collision-free Hashing"; Lewi et al., "Securing Update Propagation
with Homomorphic Hashing", 2019.
"""

import hashlib

BYTES = 2048

EMPTY = 0

_TOP = int.from_bytes(b"\x00\x80" * (BYTES // 2), "little")
_REST = int.from_bytes(b"\xff\x7f" * (BYTES // 2), "little")


def element(data: bytes) -> int:
    """The lanes of one element: SHAKE-128 of its bytes, as a little-endian number."""
    return int.from_bytes(hashlib.shake_128(data).digest(BYTES), "little")


def add(total: int, lanes: int) -> int:
    """The set with the element. Carries stay within each lane: the top bits are added apart."""
    return ((total & _REST) + (lanes & _REST)) ^ ((total ^ lanes) & _TOP)


def remove(total: int, lanes: int) -> int:
    """The set without the element. Borrows stay within each lane."""
    return ((total | _TOP) - (lanes & _REST)) ^ ((total ^ ~lanes) & _TOP)


def root(total: int) -> bytes:
    """32 bytes that stand for the set."""
    return hashlib.blake2b(dump(total), digest_size=32).digest()


def dump(total: int) -> bytes:
    """The accumulator as 2,048 bytes."""
    return total.to_bytes(BYTES, "little")


def load(data: bytes) -> int:
    """The accumulator from its bytes."""
    return int.from_bytes(data, "little")
