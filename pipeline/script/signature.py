"""Signatures and keys: their form, and whether they fit."""

import re
from collections.abc import Callable

from _bsv_native import ecdsa_verify

from pipeline.script.rules import ALL, ANYONE_CAN_PAY, BASE, CHRONICLE, FORKID, SINGLE, Rules, malformed

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
_HALF_ORDER = (ORDER >> 1).to_bytes(32, "big")

Digest = Callable[[int], bytes]
"""Hash type -> what a signature of that type signs, 32 bytes."""


_ORDINARY = re.compile(
    rb"(?:\x30\x44\x02\x20[\x01-\x7f]|\x30\x45\x02\x21\x00[\x80-\xff])[\0-\xff]{31}"
    rb"\x02\x20[\x01-\x7e][\0-\xff]{31}[\x41-\x43\xc1-\xc3]"
)

ordinary = _ORDINARY.fullmatch
"""Whether a signature is as wallets make them, and so of a form that all rules take: numbers of 32 bytes, S low by its
first byte, FORKID without Chronicle's bit. 97 of 100 are; for the others there is `check_form`."""


def check_form(signature: bytes, rules: Rules) -> None:
    """Refuse a signature (DER, then the hash type's byte) that the network does not take. Empty passes: it is false.

    Raises:
        ScriptFault: not strict DER, an unknown hash type, one without FORKID, Chronicle's before Chronicle, a high S.
    """
    if not signature:
        return
    size = len(signature)
    # 30 len 02 lenR R 02 lenS S type: each length must meet the next, numbers positive and in their shortest form.
    if not 9 <= size <= 73 or signature[0] != 0x30 or signature[1] != size - 3 or signature[2] != 2:
        raise malformed("a signature is not strict DER")
    length_r = signature[3]
    at = length_r + 6
    if at >= size or signature[at - 2] != 2:
        raise malformed("a signature is not strict DER")
    length_s = signature[at - 1]
    if (
        at + length_s + 1 != size
        or not _is_shortest(signature, 4, length_r)
        or not _is_shortest(signature, at, length_s)
    ):
        raise malformed("a signature is not strict DER")
    kind = signature[-1]
    if not ALL <= kind & BASE <= SINGLE or kind & ~(BASE | FORKID | CHRONICLE | ANYONE_CAN_PAY):
        raise malformed(f"hash type {kind:#x}")
    if not kind & FORKID:
        raise malformed("a signature without FORKID")
    if kind & CHRONICLE and not rules.chronicle:
        raise malformed("a signature with Chronicle's hash type before Chronicle")
    if not rules.relaxed and _is_high(signature, at, length_s):
        raise malformed("a signature with a high S")


def check_key(key: bytes) -> None:
    """Refuse a key that is neither compressed nor uncompressed; hybrid ones (06, 07) are neither.

    Raises:
        ScriptFault: another form. Whether the point is on the curve is another question.
    """
    if (len(key) == 33 and key[0] in (2, 3)) or (len(key) == 65 and key[0] == 4):
        return
    raise malformed("a public key is neither compressed nor uncompressed")


def is_true(der: bytes, digest: bytes, key: bytes) -> bool:
    """Whether an ordinary signature, without its hash type, is true. Cost: one verification, 40 us."""
    try:
        return bool(ecdsa_verify(der, digest, key))
    except ValueError:  # the key is no point of the curve
        return False


def fits(signature: bytes, key: bytes, digest: Digest) -> bool:
    """Whether a signature whose form was checked is true. Cost: one verification, 40 us."""
    if not signature:
        return False
    der = signature[:-1]
    at = der[3] + 6
    if _is_high(der, at, der[at - 1]):
        der = _with_low_s(der, at)  # libsecp256k1 takes no other; the twin is true when this one is
    return is_true(der, digest(signature[-1]), key)


def _is_shortest(data: bytes, at: int, length: int) -> bool:
    # `at + length` stays inside: the caller has compared the lengths with the whole.
    if length == 0 or data[at] & 0x80:
        return False
    return not (length > 1 and data[at] == 0 and not data[at + 1] & 0x80)


def _is_high(data: bytes, at: int, length: int) -> bool:
    return length > 32 or (length == 32 and data[at : at + 32] > _HALF_ORDER)


def _with_low_s(der: bytes, at: int) -> bytes:
    s = ORDER - int.from_bytes(der[at:], "big")
    if s <= 0:
        return der
    twin = s.to_bytes(s.bit_length() // 8 + 1, "big")
    return b"\x30" + bytes((at - 2 + len(twin),)) + der[2 : at - 1] + bytes((len(twin),)) + twin
