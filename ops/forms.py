"""Locking scripts told by their form, without running them."""

from pipeline.overlay.pushdrop import read_pushdrop
from pipeline.script.form import OP_16, PUSHDATA4, instructions

MOST_TEXT = 40
"""Characters of a text that are shown: enough for the address by which a data protocol names itself."""

TEMPLATES = (
    ("P2PKH", 25, b"\x76\xa9\x14", b"\x88\xac"),
    ("P2PK", 35, b"\x21", b"\xac"),
    ("P2PK", 67, b"\x41", b"\xac"),
    ("P2SH", 23, b"\xa9\x14", b"\x87"),
    ("SHA-256 puzzle", 35, b"\xa8\x20", b"\x87"),
    ("HASH256 puzzle", 35, b"\xaa\x20", b"\x87"),
    ("RIPEMD-160 puzzle", 23, b"\xa6\x14", b"\x87"),
    ("SHA-1 puzzle", 23, b"\xa7\x14", b"\x87"),
)
"""Name, length in bytes, beginning, end. A puzzle is opened by whoever knows what has this hash."""

_RETURN, _DROP, _2DROP, _MULTISIG = 0x6A, 0x75, 0x6D, 0xAE


def template(script: bytes) -> str:
    """The name of a locking script's form; of data the first field too, where it is text.

    What a form holds comes from whoever wrote the script: escape it where text can be markup.
    """
    size = f"{len(script):,} byte{'' if len(script) == 1 else 's'}"
    if not script:
        return "empty: anyone can spend it"
    for begins in (b"\x00\x6a", b"\x6a"):
        if script.startswith(begins):
            return f"data{_text(script, len(begins))}, {size}"
    if (pushed := read_pushdrop(script)) is not None:
        return f"PushDrop of {_fields(len(pushed.fields))}, {size}"
    if held := _pushdrop_lock_last(script):
        return f"PushDrop of {_fields(held)}, lock last, {size}"
    for name, length, begins, ends in TEMPLATES:
        if script.startswith(begins) and script[:length].endswith(ends) and len(script) >= length:
            if len(script) == length:
                return name
            if script[length] == _RETURN:
                return f"{name} and data{_text(script, length + 1)}, {size}"
    if (keys := _multisig_keys(script)) is not None:
        return f"{script[0] - 0x50}-of-{keys} multisig"
    return f"script, {size}"


def _fields(count: int) -> str:
    return f"{count:,} field{'' if count == 1 else 's'}"


def _text(script: bytes, at: int) -> str:
    """What is pushed first from `at` on, in quotes behind a space; nothing where it is no text."""
    opcode, _, begins, ends = next(instructions(script, at), (OP_16, 0, 0, 0))
    # A character has up to four bytes; of a long field no more is decoded than is shown.
    pushed = script[begins : min(ends, begins + 4 * MOST_TEXT)]
    if not 0 < opcode <= PUSHDATA4 or ends > len(script) or not pushed:
        return ""
    try:
        text = pushed.decode()
    except UnicodeDecodeError as error:
        if error.end < len(pushed) or begins + len(pushed) == ends:
            return ""
        text = pushed[: error.start].decode()
    if not text.isprintable():
        return ""
    return f' "{text}"' if len(text) <= MOST_TEXT else f' "{text[:MOST_TEXT]}…"'


def _pushdrop_lock_last(script: bytes) -> int:
    """How many fields are pushed and dropped again before a key check that ends the script; 0: it has another form."""
    key = 35
    if script[-1] != 0xAC or len(script) <= key or script[-key] != key - 2:
        return 0
    held = dropped = 0
    for opcode, at, _, end in instructions(script):
        if at >= len(script) - key:
            return held if at == len(script) - key and dropped == held else 0
        if opcode in (_DROP, _2DROP):
            dropped += 1 if opcode == _DROP else 2
        elif opcode > OP_16 or dropped or end > len(script) - key:
            return 0
        else:
            held += 1
    return 0


def _multisig_keys(script: bytes) -> int | None:
    """How many keys a bare multisig names; None: it is none."""
    if len(script) < 4 or script[-1] != _MULTISIG or not 0x51 <= script[0] <= script[-2] <= 0x60:
        return None
    sizes = [opcode for opcode, at, _, end in instructions(script, 1) if at < len(script) - 2 and end <= len(script)]
    keys = script[-2] - 0x50
    whole = 1 + sum(size + 1 for size in sizes) == len(script) - 2
    return keys if len(sizes) == keys and whole and all(size in (33, 65) for size in sizes) else None
