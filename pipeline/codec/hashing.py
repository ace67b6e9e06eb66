"""Double SHA-256: compiled where a C compiler was at hand, else by hashlib, which takes a call for each half."""

from hashlib import sha256

__all__ = ["hash256", "plain_hash256"]


def plain_hash256(data: bytes) -> bytes:
    """Double SHA-256, in wire order."""
    return sha256(sha256(data).digest()).digest()


try:
    from pipeline.codec._quick import hash256
except ImportError:
    hash256 = plain_hash256
