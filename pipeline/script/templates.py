"""The scripts nearly every payment uses, judged without an interpreter.

A template covers a pair of scripts only where the interpreter would do just this: check these signatures by these keys.
Whatever looks the least unusual is left to the interpreter.
"""

from collections.abc import Sequence
from hashlib import new, sha256

from msgspec import Struct

from pipeline.script.form import OP_16, PUSHDATA4, instructions, is_shortest_push
from pipeline.script.machine import OLD_SCRIPT
from pipeline.script.rules import Rules, untrue
from pipeline.script.sighash import Digests
from pipeline.script.signature import check_form, check_key, fits, is_true, ordinary

_RIPEMD160 = new("ripemd160", usedforsecurity=False)  # copying it is half as dear as looking it up by name

_RETURN, _DROP, _2DROP = 0x6A, 0x75, 0x6D
NO_KEY_FITS = "a signature fits no key"

_MOST_FIELDS = 64  # that are looked through here, where nothing counts steps


class Checks(Struct, gc=False):
    """The signatures a pair of scripts asks for."""

    signatures: Sequence[bytes]
    keys: Sequence[bytes]
    key_hash: bytes = b""  # what the only key must hash to, where the coin names a hash
    unspendable: bool = False


_UNSPENDABLE = Checks((), (), b"", True)


def no_payments(raw: bytes, ins: list[int], outs: int, coins: list[bytes]) -> list[tuple[bytes, bytes, bytes]] | None:
    """Stands in where nothing was compiled: `match` and `judge` are asked about each input."""
    return None


try:
    from pipeline.script._payments import payments as payments
except ImportError:
    payments = no_payments

LONGEST_PAYMENT = 139
"""Bytes of the longest script `payments` takes: a signature, and a key that is not compressed."""


def match(unlocking: bytes, locking: bytes, after_genesis: bool) -> Checks | None:
    """What the scripts ask for, or None where no template covers them.

    Cost: a few comparisons, and a look at each field where the coin has some.
    """
    head = locking[:3]
    if head == b"\x76\xa9\x14" and locking[23:25] == b"\x88\xac":
        # A signature and a key, each by the shortest push.
        size = len(unlocking)
        at = unlocking[0] + 2 if size >= 43 else size
        if not 11 <= at <= 75 or at >= size or not unlocking[at - 1] == size - at in (33, 65):
            return None
        if len(locking) > 25 and not _ends_quietly(locking, 25, after_genesis):
            return None
        return Checks((unlocking[1 : at - 1],), (unlocking[at:],), locking[3:23])
    if head[:2] == b"\x00\x6a" or head[:1] == b"\x6a":
        return _data(unlocking, locking, after_genesis)
    if locking[-1:] == b"\xae":
        return _multisig(unlocking, locking)
    if not (len(unlocking) > 9 and len(unlocking) == unlocking[0] + 1 <= 74):
        return None  # not one signature
    key = _key(locking, 0)
    at = 0
    if not key and after_genesis and locking:  # PushDrop with its lock last
        at = _fields(locking, 0)
        key = _key(locking, at)
    if key and _ends_quietly(locking, at + len(key) + 2, after_genesis):
        return Checks((unlocking[1:],), (key,))
    return None


def judge(checks: Checks, digests: Digests, vin: int, coin: bytes, locking: bytes, rules: Rules) -> None:
    """Check what `match` found.

    coin: the output spent, as it stands; locking: its script.
    Cost: one ECDSA verification a signature, and one more for each key of a multisig that does not fit.

    Raises:
        ScriptFault: a form the network does not take, or a script that does not come out true.
    """
    if checks.unspendable:
        raise untrue("the coin carries data and cannot be spent")
    if checks.key_hash:
        hashed = _RIPEMD160.copy()
        hashed.update(sha256(checks.keys[0]).digest())
        if hashed.digest() != checks.key_hash:
            raise untrue("the key is not the one whose hash the coin names")
    if len(checks.keys) == 1 and ordinary(signature := checks.signatures[0]):
        check_key(key := checks.keys[0])
        if is_true(signature[:-1], digests.of_coin(vin, coin, locking, signature[-1]), key):
            return
        raise untrue(NO_KEY_FITS)
    made: dict[int, bytes] = {}

    def digest(kind: int) -> bytes:
        if kind not in made:
            made[kind] = digests.of_coin(vin, coin, locking, kind)
        return made[kind]

    # OP_CHECKMULTISIG goes from the last to the first: a key that fits nothing is passed over, a signature is not.
    keys = len(checks.keys)
    for missing in range(len(checks.signatures), 0, -1):
        signature = checks.signatures[missing - 1]
        while True:
            if keys < missing:
                raise untrue(NO_KEY_FITS)
            keys -= 1
            check_form(signature, rules)
            check_key(checks.keys[keys])
            if fits(signature, checks.keys[keys], digest):
                break


def _key(locking: bytes, at: int) -> bytes:
    # The key that is pushed and checked at `at`, or nothing.
    size = locking[at] if at < len(locking) else 0
    behind = at + 1 + size
    return locking[at + 1 : behind] if size in (33, 65) and locking[behind : behind + 1] == b"\xac" else b""


def _data(unlocking: bytes, locking: bytes, after_genesis: bool) -> Checks | None:
    # OP_RETURN fails before Genesis, and after it ends with the stack as it is: with a FALSE on top, or with what the
    # unlocking script left. A coin that may be taken so, and whoever tries it by more than a small number, is not ours.
    plain = not unlocking or (len(unlocking) == 1 and unlocking[0] != 0x50 and 0x4F <= unlocking[0] <= OP_16)
    if not plain or (not after_genesis and len(locking) > OLD_SCRIPT):
        return None
    return _UNSPENDABLE if locking[0] != _RETURN or not unlocking or not after_genesis else None


def _multisig(unlocking: bytes, locking: bytes) -> Checks | None:
    needed, count = locking[0] - 0x50, locking[-2] - 0x50 if len(locking) > 2 else 0
    if not 1 <= needed <= count <= 16 or unlocking[:1] != b"\x00":
        return None
    keys = _pushes(locking, 1, len(locking) - 2, (33, 65))
    signatures = _pushes(unlocking, 1, len(unlocking), range(9, 74))
    if keys is None or signatures is None or len(keys) != count or len(signatures) != needed:
        return None
    return Checks(signatures, keys)


def _pushes(script: bytes, at: int, end: int, sizes: Sequence[int]) -> list[bytes] | None:
    found = []
    while at < end:
        size = script[at]
        if size not in sizes:
            return None
        found.append(script[at + 1 : at + 1 + size])
        at += 1 + size
    return found if at == end else None


def _ends_quietly(locking: bytes, behind: int, after_genesis: bool) -> bool:
    """Whether nothing behind the check changes its result: data behind a RETURN, or fields that are dropped again."""
    if len(locking) == behind:
        return True
    if not after_genesis:
        return False
    if locking[behind] == _RETURN:
        return True
    return _fields(locking, behind) == len(locking)


def _fields(locking: bytes, at: int) -> int:
    """Where fields that begin at `at` have all been dropped again; behind the script where they are not."""
    held = 0
    dropping = False
    for opcode, _, data, end in instructions(locking, at):
        if opcode in (_DROP, _2DROP):
            dropping = True
            held -= 1 if opcode == _DROP else 2
            if held == 0:
                return end
        elif dropping or held == _MOST_FIELDS:
            break
        elif opcode <= PUSHDATA4:
            if end > len(locking) or not is_shortest_push(opcode, locking[data:end]):
                break
            held += 1
        elif 0x4F <= opcode <= OP_16 and opcode != 0x50:
            held += 1
        else:
            break
        if held < 0:
            break
    return len(locking) + 1
