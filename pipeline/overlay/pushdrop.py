"""PushDrop outputs, "lock before" layout: `<key> OP_CHECKSIG <field> … OP_2DROP … [OP_DROP]`."""

import hashlib

import _bsv_native
from msgspec import Struct

from pipeline.keys import ANYONE, child_public

_CHECKSIG = 0xAC
_DROP = 0x75
_TWO_DROP = 0x6D


class PushDrop(Struct, frozen=True):
    """What an output carries: the locking key (33 bytes) and the fields, in order."""

    key: bytes
    fields: tuple[bytes, ...]


def read_pushdrop(script: bytes) -> PushDrop | None:
    """The PushDrop in a locking script, or None where it is none.

    Fields read as the reference decoder reads them: an opcode of 0x50 to 0x5f without data gives the byte op - 0x50,
    OP_0 gives a zero byte, OP_1NEGATE gives 0x81, OP_16 gives an empty field.
    """
    if len(script) < 36 or script[0] != 33 or script[34] != _CHECKSIG:
        return None
    fields: list[bytes] = []
    at = 35
    while at < len(script):
        op = script[at]
        if op in (_DROP, _TWO_DROP):
            return PushDrop(script[1:34], tuple(fields))
        push = _push(script, at)
        if push is None:
            return None
        field, at = push
        fields.append(field)
    return None


def is_signed(found: PushDrop) -> bool:
    """Whether the last field is the locking key's signature (DER, low S) over SHA-256 of the fields before it."""
    *fields, signature = found.fields
    try:
        return bool(_bsv_native.ecdsa_verify(signature, hashlib.sha256(b"".join(fields)).digest(), found.key))
    except (ValueError, RuntimeError):  # no signature or no key at all
        return False


def is_linked(found: PushDrop, identity: bytes, invoice: str) -> bool:
    """Whether an output is signed, and its locking key is the one that `identity` has for this with anyone (BRC-42).

    Then whoever holds the identity's secret made it, and can spend it: nobody else can derive the child's secret.
    """
    try:
        return found.key == child_public(identity, ANYONE, invoice) and is_signed(found)
    except ValueError:  # the identity is no key
        return False


def _push(script: bytes, at: int) -> tuple[bytes, int] | None:
    op = script[at]
    at += 1
    if op == 0:
        return b"\0", at
    if op <= 75:
        length = op
    elif op <= 78:
        width = 1 << (op - 76)
        length = int.from_bytes(script[at : at + width], "little")
        at += width
    elif op == 0x4F:
        return b"\x81", at
    elif op < 0x60:
        return bytes([op - 0x50]), at
    elif op == 0x60:
        return b"", at
    else:
        return None
    if at + length > len(script):
        return None
    return script[at : at + length], at + length
