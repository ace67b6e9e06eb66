"""Script numbers: little-endian, the top bit of the last byte is the sign, nothing is zero."""


def encode(number: int) -> bytes:
    """The shortest form."""
    if number == 0:
        return b""
    size = abs(number).bit_length() // 8 + 1  # room for the sign
    found = bytearray(abs(number).to_bytes(size, "little"))
    if number < 0:
        found[-1] |= 0x80
    return bytes(found)


def decode(element: bytes) -> int:
    """Inverse of `encode`; also takes longer forms."""
    if not element:
        return 0
    number = int.from_bytes(element, "little")
    sign = 1 << (8 * len(element) - 1)
    return -(number ^ sign) if number & sign else number


def is_shortest(element: bytes) -> bool:
    """Whether `element` is what `encode` gives for its number."""
    if not element or element[-1] & 0x7F:
        return True
    return len(element) > 1 and bool(element[-2] & 0x80)


def shortest(element: bytes) -> bytes:
    """The shortest form of the same number, without turning it into one."""
    if is_shortest(element):
        return element
    sign = element[-1] & 0x80
    digits = element[: (int.from_bytes(element[:-1], "little").bit_length() + 7) // 8]
    if not digits:
        return b""
    if digits[-1] & 0x80:
        return digits + bytes((sign,))
    return digits[:-1] + bytes((digits[-1] | sign,))


def truth(element: bytes) -> bool:
    """Whether an element counts as true: anything but zeros, and the zero with a sign."""
    if not element or element[-1] & 0x7F:
        return bool(element)
    rest = element[:-1]
    return rest != bytes(len(rest))
