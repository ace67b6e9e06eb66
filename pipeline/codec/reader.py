"""Reading bytes nobody vouches for: positions instead of streams, and one error.

Functions take the whole buffer and a position and give back a value and the position behind it. Nothing is allocated
from a count before `counted` has compared it with the bytes that are left.
"""


class Malformed(Exception):  # noqa: N818 - what the bytes are, not a fault of ours
    """The bytes are not what the format says. `parse.py` alone turns this into a verdict.

    code: a row of CODES, class `malformed`, `structure` or `policy`.
    at: where: "byte 217", "tx 3", "bump 0 level 2".
    """

    def __init__(self, code: str, at: str = "", message: str = "") -> None:
        super().__init__(code, at, message)
        self.code = code
        self.at = at
        self.message = message


def truncated(data: bytes) -> Malformed:
    """The error of reading past the end."""
    return Malformed("malformed.truncated", f"byte {len(data)}")


def varint(data: bytes, at: int) -> tuple[int, int]:
    """The CompactSize number at `at`, and the position behind it.

    Raises:
        Malformed: the bytes end, or a longer form was used than the number needs: two forms of one number would give
            one transaction two serialisations.
    """
    try:
        first = data[at]
    except IndexError:
        raise truncated(data) from None
    if first < 0xFD:
        return first, at + 1
    width, smallest = _WIDE[first]
    end = at + 1 + width
    if end > len(data):
        raise truncated(data)
    number = int.from_bytes(data[at + 1 : end], "little")
    if number < smallest:
        raise Malformed("malformed.varint", f"byte {at}")
    return number, end


_WIDE = {0xFD: (2, 0xFD), 0xFE: (4, 0x1_0000), 0xFF: (8, 0x1_0000_0000)}
"""First byte: how many bytes follow, and the smallest number that needs them."""


def counted(data: bytes, at: int, smallest: int) -> tuple[int, int]:
    """A count of things that take `smallest` bytes each or more; checked against the bytes that are left.

    Raises:
        Malformed: as `varint`, or more things than the rest of the buffer can hold.
    """
    count, after = varint(data, at)
    if count * smallest > len(data) - after:
        raise Malformed("malformed.count", f"byte {at}", f"{count} of {smallest} bytes or more each")
    return count, after


def write_varint(number: int) -> bytes:
    """Shortest form of a number below 2**64."""
    if number < 0xFD:
        return bytes((number,))
    if number < 0x1_0000:
        return b"\xfd" + number.to_bytes(2, "little")
    if number < 0x1_0000_0000:
        return b"\xfe" + number.to_bytes(4, "little")
    return b"\xff" + number.to_bytes(8, "little")
