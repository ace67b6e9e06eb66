"""PushDrop outputs, "lock before" layout: `<key> OP_CHECKSIG <field> … OP_2DROP … [OP_DROP]`."""

from msgspec import Struct

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
