"""The form of a script: where its instructions stand, without running any."""

from collections.abc import Iterator

PUSHDATA4 = 0x4E
OP_16 = 0x60
_LENGTH_BYTES = {0x4C: 1, 0x4D: 2, 0x4E: 4}


def instructions(script: bytes, at: int = 0) -> Iterator[tuple[int, int, int, int]]:
    """Each instruction from `at` on: opcode, where it stands, where its data begins, and where it ends.

    The last one may end behind the script: a push of more than there is.
    """
    size = len(script)
    while at < size:
        opcode = script[at]
        data = at + 1
        length = 0
        if opcode < 0x4C:
            length = opcode
        elif opcode <= PUSHDATA4:
            width = _LENGTH_BYTES[opcode]
            length = int.from_bytes(script[data : data + width], "little")
            data += width
        yield opcode, at, data, data + length
        at = data + length


def is_push_only(script: bytes) -> bool:
    """Whether a script only pushes. A push that ends behind the script is none."""
    return all(opcode <= OP_16 and end <= len(script) for opcode, _, _, end in instructions(script))


def is_shortest_push(opcode: int, data: bytes) -> bool:
    """Whether no shorter instruction pushes `data` (opcode up to PUSHDATA4)."""
    size = len(data)
    if size == 1:
        return opcode == 1 and not (1 <= data[0] <= 16 or data[0] == 0x81)
    if size <= 75:
        return opcode == size
    if size <= 255:
        return opcode == 0x4C
    return opcode == (0x4D if size <= 65_535 else PUSHDATA4)
