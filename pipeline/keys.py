"""Key derivation: a child key for each purpose, which only two parties can tell from a stranger's (BRC-42, BRC-43)."""

import hashlib
import hmac

import _bsv_native

ANYONE = (1).to_bytes(32, "big")
"""The secret everybody knows (BRC-43): what is derived with it, everybody can derive."""


def invoice_number(level: int, protocol: str, key_id: str) -> str:
    """What a child key is for (BRC-43): security level 0, 1 or 2, name of the protocol, name of the key."""
    return f"{level}-{protocol}-{key_id}"


def child_public(public: bytes, secret: bytes, invoice: str) -> bytes:
    """The child of somebody's key, as the holder of `secret` derives it (BRC-42). About 50 us.

    public: 33 or 65 bytes; secret: 32 bytes. The child is 33 bytes, compressed.

    Raises:
        ValueError: one of them is no key.
    """
    return linked_child(public, linkage(public, secret, invoice))


def linkage(public: bytes, secret: bytes, invoice: str) -> bytes:
    """What links a child key to its parent, 32 bytes: the same from either side of the pair (BRC-72, specific).

    public: of one side, 33 or 65 bytes; secret: of the other, 32 bytes.

    Raises:
        ValueError: one of them is no key.
    """
    return hmac.digest(_bsv_native.pubkey_tweak_mul(public, secret, True), invoice.encode(), "sha256")


def linked_child(public: bytes, link: bytes) -> bytes:
    """The child of a key by its linkage, 33 bytes. Whoever has the key's secret and the linkage can spend by it.

    Raises:
        ValueError: the key is none, or they give none.
    """
    child: bytes = _bsv_native.pubkey_tweak_add(public, link, True)
    return child


def public_of(secret: bytes) -> bytes:
    """The key of a secret, 33 bytes.

    Raises:
        ValueError: it is none.
    """
    public: bytes = _bsv_native.pubkey_from_secret(secret)
    return public


def key_hash(public: bytes) -> bytes:
    """What P2PKH names a key by, 20 bytes."""
    return hashlib.new("ripemd160", hashlib.sha256(public).digest(), usedforsecurity=False).digest()


def is_public(key: bytes) -> bool:
    """Whether these 33 bytes are a point of the curve."""
    try:
        _bsv_native.pubkey_parse(key)
    except ValueError:
        return False
    return True
