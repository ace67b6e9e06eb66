"""PushDrop outputs: `<key> OP_CHECKSIG <field> … OP_2DROP … [OP_DROP]`, or the lock behind the drops.

Overlay topics read them as the reference decoder does (`read_pushdrop`), faults included: what a topic admits elsewhere
it admits here. What is looked for by its value is read as scripts are run (`pushed_fields`): one value a push.
"""

import hashlib

import _bsv_native
from msgspec import Struct

from pipeline.keys import ANYONE, child_public
from pipeline.script.form import OP_16, PUSHDATA4, instructions, is_shortest_push

_CHECKSIG = 0xAC
_DROP = 0x75
_TWO_DROP = 0x6D
_ONE_NEGATE = 0x4F
_ONE = 0x51

LOCK_BYTES = 35
"""A compressed key, pushed, and its check."""

MOST_FIELDS = 256
"""A script of more fields is not read as PushDrop: those in use have some dozens at most, and each costs a look."""


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


def pushed_fields(script: bytes) -> tuple[bytes, ...] | None:
    """The fields of a script that is PushDrop and nothing else, by either layout; None where it is not.

    Strict: a compressed key, shortest pushes, as many drops as there are fields, by twos and last by one, nothing
    before, between or behind. A field is what the push leaves on the stack: OP_0 nothing, OP_1 to OP_16 a byte.

    Cost: one look at each push, at most `MOST_FIELDS` and the next.
    """
    if _is_lock(script[:LOCK_BYTES]):
        begin, end = LOCK_BYTES, len(script)
    elif _is_lock(script[-LOCK_BYTES:]):
        begin, end = 0, len(script) - LOCK_BYTES
    else:
        return None
    fields: list[bytes] = []
    for opcode, at, data, after in instructions(script, begin):
        if opcode in (_DROP, _TWO_DROP):
            drops = b"\x6d" * (len(fields) // 2) + b"\x75" * (len(fields) % 2)
            return tuple(fields) if script[at:end] == drops else None
        field = _field(opcode, script[data:after])
        if field is None or after > end or len(fields) == MOST_FIELDS:
            return None
        fields.append(field)
    return None


def _is_lock(script: bytes) -> bool:
    return len(script) == LOCK_BYTES and script[0] == 33 and script[1] in (2, 3) and script[-1] == _CHECKSIG


def _field(opcode: int, data: bytes) -> bytes | None:
    if opcode <= PUSHDATA4:
        return data if is_shortest_push(opcode, data) else None
    if opcode == _ONE_NEGATE:
        return b"\x81"
    return bytes((opcode - _ONE + 1,)) if _ONE <= opcode <= OP_16 else None


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
