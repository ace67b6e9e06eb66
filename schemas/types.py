"""The small types every record shares."""

import re
from collections.abc import Iterator
from typing import Any, TypeAlias

import msgspec

Txid: TypeAlias = bytes
"""Transaction id, 32 bytes in wire order: as double SHA-256 emits them. `display` turns it round."""

Outpoint: TypeAlias = bytes
"""36 bytes: txid in wire order, then the output index as u32 little-endian, as a transaction's input holds it."""

Root: TypeAlias = bytes
"""Merkle root, 32 bytes in wire order."""

Context: TypeAlias = str
"""The unit of atomicity and of order: `topic:tm_x`, or `owner:<identity key>`."""

OWNER = re.compile(r"owner:0[23][0-9a-f]{64}")
"""All baskets of one identity key: compressed, 33 bytes."""

TOPIC_NAME = re.compile(r"tm_[a-z]+(?:_[a-z]+)*")
"""BRC-87: lower-case letters and underscores; `TOPIC_NAME_BYTES` bounds the length."""

TOPIC_NAME_BYTES = 50


def display(hash32: bytes) -> str:
    """The hex people print for a txid, block hash or root (bytes reversed)."""
    return hash32[::-1].hex()


def from_display(hex64: str) -> bytes:
    """Inverse of `display`.

    Raises:
        ValueError: not 64 hexadecimal digits.
    """
    raw = bytes.fromhex(hex64)
    if len(raw) != 32 or len(hex64) != 64:
        raise ValueError("a hash is 64 hexadecimal digits")
    return raw[::-1]


def outpoint(txid: Txid, vout: int) -> Outpoint:
    """The 36 bytes that name output `vout` of `txid`."""
    return txid + vout.to_bytes(4, "little")


def outpoints(spends: bytes) -> Iterator[Outpoint]:
    """Each of a row of outpoints."""
    return (spends[at : at + 36] for at in range(0, len(spends), 36))


def is_topic_name(name: str) -> bool:
    """Whether `name` is an overlay topic's name by BRC-87."""
    return len(name) <= TOPIC_NAME_BYTES and TOPIC_NAME.fullmatch(name) is not None


def is_context(text: str) -> bool:
    """Whether `text` names a context."""
    topic = text.removeprefix("topic:")
    return OWNER.fullmatch(text) is not None or (topic != text and is_topic_name(topic))


def why(reason: str, **bounds: Any) -> Any:
    """Metadata for an annotated field: the reason for its default, and msgspec's bounds (gt, ge, lt, le, …)."""
    return msgspec.Meta(description=reason, **bounds)
