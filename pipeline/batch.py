"""Lines of a batch: JSON with an id, which is given back as it is, and a payload in hexadecimal."""

import msgspec
from msgspec import Raw, Struct

from pipeline.outcome import Verdict

NAMELESS = Raw(b"null")


class Asked(Struct, frozen=True):
    """What a line asks for."""

    id: Raw
    payload: bytes | Verdict  # why there is none


class _Line(Struct):
    beef: str
    id: Raw = NAMELESS


class _Name(Struct):
    id: Raw = NAMELESS


_line = msgspec.json.Decoder(_Line).decode
_name = msgspec.json.Decoder(_Name).decode


def read_line(line: bytes) -> Asked:
    """Read a line: `{"id": anything, "beef": "hex"}`; more fields are passed over. Never raises."""
    try:
        found = _line(line)
        payload = bytes.fromhex(found.beef)
        bytes(found.id).decode()  # it is given back as it is
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        return Asked(id_of(line), Verdict("malformed.line", f"not JSON with an id and a hexadecimal beef: {error}"))
    return Asked(found.id, payload)


def id_of(line: bytes) -> Raw:
    """The id of a line; null where it has none that can be read."""
    try:
        found = _name(line).id
        bytes(found).decode()
    except (msgspec.MsgspecError, RecursionError, ValueError):
        return NAMELESS
    return found
