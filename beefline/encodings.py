"""BEEF as people keep it in files: bytes, hexadecimal, base64, or JSON lines; told apart by looking.

| the file holds | taken as |
|---|---|
| bytes that begin `0100beef`, `0200beef` or `01010101` | one payload |
| lines of text that begin like one of these in hexadecimal or base64 | one payload each; lines between belong to it |
| lines that begin with `{` | one payload each, in an object; fields that have no meaning here are passed over |
| other text of hexadecimal or base64 | one payload a line, whatever it holds |
| other bytes | one payload, whatever it holds |

Fields of a JSON line: `beef`, in hexadecimal, base64 or an array of numbers; and `id`, `topics`, `baskets` and
`atomicity`, which may be absent.
"""

import base64
import binascii
import contextlib
import itertools
import re
from collections.abc import Iterable, Iterator
from typing import IO, Any, Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

MAGICS = (bytes.fromhex("0100beef"), bytes.fromhex("0200beef"), bytes.fromhex("01010101"))

_BASE64 = re.compile(r"[A-Za-z0-9+/_-]+={0,2}")
_BEGINS = re.compile(r"(?i:0[12]00beef|01010101)|A[Qg]C[+-]7|AQEBA")
"""How text of a payload begins. A byte of base64 may stand for parts of two of ours: these are the whole ones."""


class Unreadable(ValueError):  # noqa: N818 - what the text is
    """A line, or a file, that holds no payload in any form."""


class Given(Struct, frozen=True):
    """A payload out of a file, and what stands beside it."""

    beef: bytes
    where: str  # "payloads.jsonl line 3", for messages
    id: str | None = None
    topics: tuple[str, ...] | None = None
    baskets: tuple[dict[str, Any], ...] = ()
    atomicity: Literal["each", "all"] = "each"


class _Line(Struct):
    beef: str | list[int]
    id: str | int | None = None
    topics: tuple[str, ...] | None = None
    baskets: tuple[dict[str, Any], ...] = ()
    atomicity: Literal["each", "all"] = "each"


_line = msgspec.json.Decoder(_Line).decode


def read_payloads(file: IO[bytes], name: str) -> Iterator[Given | Unreadable]:
    """The payloads in `file`, one after the other; what cannot be read is given back in its place.

    name: of the file, for messages.
    Cost: a file of bytes is held as a whole, one of lines a payload at a time.
    """
    head = file.read(4)
    if head in MAGICS:
        yield Given(head + file.read(), name)
        return
    first = head + file.readline()
    if not first:
        yield Unreadable(f"{name} is empty")
        return
    if not _is_text(first):
        yield Given(first + file.read(), name)
        return
    yield from _lines([first], file, name)


def _lines(first: list[bytes], file: Iterable[bytes], name: str) -> Iterator[Given | Unreadable]:
    found = False
    for number, text in _texts(itertools.chain(first, file)):
        read = _from_json(text) if text.startswith("{") else _from_text(text)
        if isinstance(read, Unreadable) and not found and not text.startswith("{") and not _BEGINS.match(text):
            yield Unreadable(f"{name} holds no BEEF: neither bytes nor hexadecimal, base64 or JSON lines")
            return
        found = True
        where = f"{name} line {number}"
        yield Unreadable(f"{where}: {read}") if isinstance(read, Unreadable) else replace(read, where=where)
    if not found:
        yield Unreadable(f"{name} is empty")


def _texts(lines: Iterable[bytes]) -> Iterator[tuple[int, str]]:
    """The text of each payload, and the number of its first line. Known to begin, it ends where another one begins."""
    text, begun = "", 0
    for number, raw in enumerate(lines, 1):
        line = raw.decode("latin-1").strip()
        if text and line and not line.startswith("{") and not _BEGINS.match(line):
            text += line
            continue
        if text:
            yield begun, text
        text, begun = line, number
        if text and not _BEGINS.match(text):
            yield begun, text
            text = ""
    if text:
        yield begun, text


def _is_text(line: bytes) -> bool:
    return all(byte in b"\t\r\n" or 0x20 <= byte < 0x7F for byte in line)


def _from_text(text: str) -> Given | Unreadable:
    try:
        return Given(to_bytes(text), "")
    except Unreadable as error:
        return error


def _from_json(line: str) -> Given | Unreadable:
    try:
        read = _line(line.encode("latin-1"))
        beef = to_bytes(read.beef) if isinstance(read.beef, str) else bytes(read.beef)
    except ValueError as error:  # msgspec's errors, and Unreadable
        return Unreadable(str(error))
    name = str(read.id) if read.id is not None else None
    return Given(beef, "", name, read.topics, read.baskets, read.atomicity)


def to_bytes(text: str) -> bytes:
    """What hexadecimal or base64 text (also of the URL alphabet) says. Text that could be both is hexadecimal.

    Raises:
        Unreadable: it is neither.
    """
    text = text.strip()
    if text:
        with contextlib.suppress(ValueError):
            return bytes.fromhex(text)
    if _BASE64.fullmatch(text):
        plain = text.rstrip("=").replace("-", "+").replace("_", "/")
        with contextlib.suppress(binascii.Error):
            return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    raise Unreadable("neither hexadecimal nor base64" if text else "no payload")
