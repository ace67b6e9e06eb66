"""Key derivation: a child key for each purpose, which only two parties can tell from a stranger's (BRC-42, BRC-43)."""

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
    shared = _bsv_native.pubkey_tweak_mul(public, secret, True)
    child: bytes = _bsv_native.pubkey_tweak_add(public, hmac.digest(shared, invoice.encode(), "sha256"), True)
    return child


def is_public(key: bytes) -> bool:
    """Whether these 33 bytes are a point of the curve."""
    try:
        _bsv_native.pubkey_parse(key)
    except ValueError:
        return False
    return True
