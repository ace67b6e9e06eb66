"""What each opcode does, as a table: opcode -> function of the machine. Control flow is the machine's own."""

import hashlib
from collections.abc import Callable
from math import isqrt

from pipeline.script import number
from pipeline.script.machine import OLD_OPS, Machine, Table
from pipeline.script.rules import malformed, untrue
from pipeline.script.signature import check_form, check_key, fits

SIGNATURE_STEPS = 45  # one ECDSA verification, in steps: 50,000 of them, all that 8 MB hold, are within the budget
_MULTISIG_KEYS_OLD = 20  # before Genesis
_COUNT_BYTES = 4  # longest number that counts keys and signatures

_INVERTED = bytes(255 - value for value in range(256))


def _constant(value: int) -> Callable[[Machine], None]:
    element = number.encode(value)
    return lambda m: m.push(element)


# --- stack


def _verify(m: Machine) -> None:
    if not m.truth(m.pop()):
        raise untrue("OP_VERIFY")


def _to_alt(m: Machine) -> None:
    element = m.peek()
    m.alt.append(element)
    m.stack.pop()


def _from_alt(m: Machine) -> None:
    if not m.alt:
        raise untrue("too few elements on the alternative stack")
    m.stack.append(m.alt.pop())


def _drop(count: int) -> Callable[[Machine], None]:
    def run(m: Machine) -> None:
        m.need(count)
        for _ in range(count):
            m.pop()

    return run


def _copy(count: int, depth: int) -> Callable[[Machine], None]:
    """Copies of the `count` elements that begin `depth` from the top."""

    def run(m: Machine) -> None:
        m.need(depth)
        for _ in range(count):
            m.push(m.stack[-depth])

    return run


def _raise(count: int, depth: int) -> Callable[[Machine], None]:
    """Bring the `count` elements that begin `depth` from the top to the top."""

    def run(m: Machine) -> None:
        m.need(depth)
        end = len(m.stack) - depth + count
        moved = m.stack[end - count : end]
        del m.stack[end - count : end]
        m.stack += moved

    return run


def _copy_if_true(m: Machine) -> None:
    if m.truth(m.peek()):
        m.push(m.peek())


def _depth(m: Machine) -> None:
    m.push_number(len(m.stack))


def _nip(m: Machine) -> None:
    m.need(2)
    top = m.pop()
    m.pop()
    m.push(top)


def _pick(m: Machine, remove: bool = False) -> None:
    m.need(2)
    depth = m.pop_number()
    if not 0 <= depth < len(m.stack):
        raise untrue("no element at that depth")
    m.meter.spend(depth >> 10 if remove else 0)
    if remove:
        m.stack.append(m.stack.pop(-depth - 1))
    else:
        m.push(m.stack[-depth - 1])


def _tuck(m: Machine) -> None:
    m.need(2)
    m.push(m.stack[-1])
    m.stack[-2], m.stack[-3] = m.stack[-3], m.stack[-2]


# --- bytes


def _cat(m: Machine) -> None:
    m.need(2)
    right, left = m.pop(), m.pop()
    size = len(left) + len(right)
    m.reserve(size)
    m.meter.spend(size >> 11)
    m.push(left + right)


def _split(m: Machine) -> None:
    m.need(2)
    at, data = m.pop_number(), m.pop()
    if not 0 <= at <= len(data):
        raise untrue("OP_SPLIT behind the end")
    m.meter.spend(len(data) >> 12)
    m.push(data[:at])
    m.push(data[at:])


def _part(m: Machine, opcode: int) -> None:
    """OP_SUBSTR, OP_LEFT and OP_RIGHT, which Chronicle brought back."""
    _only_after_chronicle(m, opcode)
    length = m.pop_number()
    begin = m.pop_number() if opcode == _SUBSTR else 0
    data = m.pop()
    if opcode == _RIGHT:
        begin = len(data) - length
    # A part that begins at the very end is refused even where it is empty: the network's SUBSTR does so.
    beyond = opcode == _SUBSTR and begin >= len(data)
    if length < 0 or begin < 0 or begin + length > len(data) or beyond:
        raise untrue("a part behind the end")
    m.meter.spend(length >> 12)
    m.push(data[begin : begin + length])


def _to_size(m: Machine) -> None:
    """OP_NUM2BIN: any form of a number, in so many bytes."""
    m.need(2)
    size = m.pop_number()
    if not 0 <= size <= 0x7FFFFFFF:
        raise untrue("a size out of range")
    if size > 520 and not m.rules.after_genesis:
        raise malformed(f"an element of {size} bytes on a coin before Genesis")
    m.reserve(size)
    element = m.pop()
    m.meter.spend(1 + ((2 * len(element) + size) >> 11))
    short = number.shortest(element)
    if len(short) > size:
        raise untrue("a number that needs more bytes")
    if len(short) < size and short:
        sign = short[-1] & 0x80
        short = (short[:-1] + bytes((short[-1] ^ sign,))).ljust(size - (sign > 0), b"\x00")
        short = short + b"\x80" if sign else short
    m.push(short or bytes(size))


def _to_number(m: Machine) -> None:
    element = m.pop()
    m.meter.spend(1 + (len(element) >> 10))
    short = number.shortest(element)
    if len(short) > m.number_bytes:
        raise untrue(f"a number of {len(short)} bytes")
    m.push(short)


def _size(m: Machine) -> None:
    m.push_number(len(m.peek()))


def _invert(m: Machine) -> None:
    element = m.pop()
    m.meter.spend(len(element) >> 10)
    m.push(element.translate(_INVERTED))


def _bitwise(combine: Callable[[int, int], int]) -> Callable[[Machine], None]:
    def run(m: Machine) -> None:
        m.need(2)
        right, left = m.pop(), m.pop()
        if len(left) != len(right):
            raise untrue("operands of different sizes")
        m.meter.spend(1 + (len(left) >> 8))
        value = combine(int.from_bytes(left, "little"), int.from_bytes(right, "little"))
        m.push(value.to_bytes(len(left), "little"))

    return run


def _shift(left: bool) -> Callable[[Machine], None]:
    """Shift the bits of an element, first byte first; its size stays."""

    def run(m: Machine) -> None:
        m.need(2)
        by, element = m.pop_number(), m.pop()
        if by < 0:
            raise untrue("a shift by a negative number")
        bits = 8 * len(element)
        m.meter.spend(len(element) >> 8)
        value = 0 if by >= bits else int.from_bytes(element, "big")
        value = (value << by) & ((1 << bits) - 1) if left and value else value >> min(by, bits)
        m.push(value.to_bytes(len(element), "big"))

    return run


def _equal(m: Machine) -> None:
    m.need(2)
    right, left = m.pop(), m.pop()
    m.meter.spend(len(left) >> 12)
    m.push_bool(left == right)


# --- numbers


def _unary(compute: Callable[[int], int]) -> Callable[[Machine], None]:
    return lambda m: m.push_number(compute(m.pop_number()))


def _binary(compute: Callable[[int, int], int]) -> Callable[[Machine], None]:
    def run(m: Machine) -> None:
        m.need(2)
        right, left = m.peek(), m.peek(2)
        a, b = m.number(left), m.number(right)
        m.pop()
        m.pop()
        m.push_number(compute(a, b))

    return run


def _multiply(m: Machine) -> None:
    m.need(2)
    short, long = sorted((len(m.peek()), len(m.peek(2))))
    m.reserve(short + long)
    m.meter.spend(long * isqrt(short) >> 9)
    _PLAIN_MULTIPLY(m)


_PLAIN_MULTIPLY = _binary(lambda a, b: a * b)


def _divide(compute: Callable[[int, int], int]) -> Callable[[Machine], None]:
    """Division rounds towards zero; the remainder has the sign of the dividend."""

    def checked(a: int, b: int) -> int:
        if b == 0:
            raise untrue("a division by zero")
        return compute(a, b)

    run = _binary(checked)

    def measured(m: Machine) -> None:
        m.need(2)
        divisor, dividend = len(m.peek()), len(m.peek(2))
        m.meter.spend(1 + (max(0, dividend - divisor) * (divisor + 32) >> 13))
        run(m)

    return measured


def _quotient(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def _remainder(a: int, b: int) -> int:
    return abs(a) % abs(b) * (-1 if a < 0 else 1)


def _half(a: int) -> int:
    return (abs(a) >> 1) * (-1 if a < 0 else 1)


def _shift_number(left: bool, opcode: int) -> Callable[[Machine], None]:
    """OP_LSHIFTNUM and OP_RSHIFTNUM: the magnitude is shifted, the sign stays."""

    def run(m: Machine) -> None:
        _only_after_chronicle(m, opcode)
        m.need(2)
        by, value = m.pop_number(), m.pop_number()
        if by < 0:
            raise untrue("a shift by a negative number")
        if left:
            size = (value.bit_length() + by) // 8 + 1  # zero is held to it as well
            if size > m.number_bytes:
                raise untrue("a number beyond the limit")
            m.reserve(size)
            m.meter.spend(size >> 9)
            value <<= by if value else 0
        else:
            value = (abs(value) >> min(by, value.bit_length())) * (-1 if value < 0 else 1)
        m.push_number(value)

    return run


def _within(m: Machine) -> None:
    m.need(3)
    most, least, value = m.pop_number(), m.pop_number(), m.pop_number()
    m.push_bool(least <= value < most)


def _chronicle(opcode: int, run: Callable[[Machine], None]) -> Callable[[Machine], None]:
    def guarded(m: Machine) -> None:
        _only_after_chronicle(m, opcode)
        run(m)

    return guarded


def _only_after_chronicle(m: Machine, opcode: int) -> None:
    if not m.rules.after_chronicle:
        raise malformed(f"opcode {opcode:#x} on a coin before Chronicle")


# --- hashes and signatures


def _hash(names: tuple[str, ...]) -> Callable[[Machine], None]:
    def run(m: Machine) -> None:
        data = m.pop()
        m.meter.spend(3 + (len(data) >> 8))
        for name in names:
            data = hashlib.new(name, data, usedforsecurity=False).digest()
        m.push(data)

    return run


def _check_signature(m: Machine) -> None:
    m.need(2)
    key, signature = m.pop(), m.pop()
    check_form(signature, m.rules)
    check_key(key)
    m.meter.spend(SIGNATURE_STEPS if signature else 2)
    true = fits(signature, key, m.digest)
    if not true and signature and not m.rules.relaxed:
        raise untrue("a signature that does not fit its key")
    m.push_bool(true)


def _check_signatures(m: Machine) -> None:
    """OP_CHECKMULTISIG: from the last to the first, each signature by the next key it fits."""
    count = m.number(m.peek(1), _COUNT_BYTES)
    if count < 0 or (count > _MULTISIG_KEYS_OLD and not m.rules.after_genesis):
        raise untrue("a number of keys out of range")
    m.count_ops(min(count, OLD_OPS + 1))
    needed = m.number(m.peek(count + 2), _COUNT_BYTES)
    if not 0 <= needed <= count:
        raise untrue("a number of signatures out of range")
    m.need(count + needed + 3)
    m.pop()
    keys = [m.pop() for _ in range(count)]
    m.pop()
    signatures = [m.pop() for _ in range(needed)]
    true = True
    at = 0
    for missing, signature in zip(range(needed, 0, -1), signatures, strict=True):
        true = False
        while not true and count - at >= missing:
            check_form(signature, m.rules)
            check_key(keys[at])
            m.meter.spend(SIGNATURE_STEPS if signature else 1)
            true = fits(signature, keys[at], m.digest)
            at += 1
        if not true:
            break
    if not true and any(signatures) and not m.rules.relaxed:
        raise untrue("a signature fits no key")
    if m.pop() and not m.rules.relaxed:
        raise malformed("the element OP_CHECKMULTISIG passes over is not empty")
    m.push_bool(true)


def _lock_time(m: Machine) -> None:
    if not m.rules.after_genesis:
        m.check_lock_time()


def _sequence(m: Machine) -> None:
    if not m.rules.after_genesis:
        m.check_sequence()


def _nothing(m: Machine) -> None:
    pass


def _then_verify(run: Callable[[Machine], None]) -> Callable[[Machine], None]:
    def checked(m: Machine) -> None:
        run(m)
        _verify(m)

    return checked


_SUBSTR, _LEFT, _RIGHT = 0xB3, 0xB4, 0xB5
_NUM_EQUAL = _binary(lambda a, b: a == b)

TABLE: Table = {
    0x4F: _constant(-1),
    **{0x50 + value: _constant(value) for value in range(1, 17)},
    0x61: _nothing,
    0x62: _chronicle(0x62, lambda m: m.push(m.here.tx.raw[:4])),  # VER
    0x69: _verify,
    0x6B: _to_alt,
    0x6C: _from_alt,
    0x6D: _drop(2),
    0x6E: _copy(2, 2),  # 2DUP
    0x6F: _copy(3, 3),  # 3DUP
    0x70: _copy(2, 4),  # 2OVER
    0x71: _raise(2, 6),  # 2ROT
    0x72: _raise(2, 4),  # 2SWAP
    0x73: _copy_if_true,
    0x74: _depth,
    0x75: _drop(1),
    0x76: _copy(1, 1),  # DUP
    0x77: _nip,
    0x78: _copy(1, 2),  # OVER
    0x79: _pick,
    0x7A: lambda m: _pick(m, remove=True),  # ROLL
    0x7B: _raise(1, 3),  # ROT
    0x7C: _raise(1, 2),  # SWAP
    0x7D: _tuck,
    0x7E: _cat,
    0x7F: _split,
    0x80: _to_size,
    0x81: _to_number,
    0x82: _size,
    0x83: _invert,
    0x84: _bitwise(lambda a, b: a & b),
    0x85: _bitwise(lambda a, b: a | b),
    0x86: _bitwise(lambda a, b: a ^ b),
    0x87: _equal,
    0x88: _then_verify(_equal),
    0x8B: _unary(lambda a: a + 1),
    0x8C: _unary(lambda a: a - 1),
    0x8D: _chronicle(0x8D, _unary(lambda a: a * 2)),
    0x8E: _chronicle(0x8E, _unary(_half)),
    0x8F: _unary(lambda a: -a),
    0x90: _unary(abs),
    0x91: _unary(lambda a: a == 0),
    0x92: _unary(lambda a: a != 0),
    0x93: _binary(lambda a, b: a + b),
    0x94: _binary(lambda a, b: a - b),
    0x95: _multiply,
    0x96: _divide(_quotient),
    0x97: _divide(_remainder),
    0x98: _shift(left=True),
    0x99: _shift(left=False),
    0x9A: _binary(lambda a, b: bool(a and b)),
    0x9B: _binary(lambda a, b: bool(a or b)),
    0x9C: _NUM_EQUAL,
    0x9D: _then_verify(_NUM_EQUAL),
    0x9E: _binary(lambda a, b: a != b),
    0x9F: _binary(lambda a, b: a < b),
    0xA0: _binary(lambda a, b: a > b),
    0xA1: _binary(lambda a, b: a <= b),
    0xA2: _binary(lambda a, b: a >= b),
    0xA3: _binary(min),
    0xA4: _binary(max),
    0xA5: _within,
    0xA6: _hash(("ripemd160",)),
    0xA7: _hash(("sha1",)),
    0xA8: _hash(("sha256",)),
    0xA9: _hash(("sha256", "ripemd160")),
    0xAA: _hash(("sha256", "sha256")),
    0xAC: _check_signature,
    0xAD: _then_verify(_check_signature),
    0xAE: _check_signatures,
    0xAF: _then_verify(_check_signatures),
    0xB0: _nothing,
    0xB1: _lock_time,
    0xB2: _sequence,
    **{opcode: (lambda m, opcode=opcode: _part(m, opcode)) for opcode in (_SUBSTR, _LEFT, _RIGHT)},  # type: ignore[misc]
    0xB6: _shift_number(True, 0xB6),
    0xB7: _shift_number(False, 0xB7),
    0xB8: _nothing,
    0xB9: _nothing,
}
