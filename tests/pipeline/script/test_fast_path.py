"""The fast path against the machine: any template, however it is bent, gets the same code by both."""

from collections import Counter
from collections.abc import Callable, Sequence
from struct import unpack
from typing import Any

from hypothesis import given, seed, settings
from hypothesis import strategies as st

from pipeline.codec.tx import Tx
from pipeline.script.engine import SpentCoin, evaluate, rules_for
from pipeline.script.machine import Meter, Spend
from pipeline.script.rules import ScriptFault
from pipeline.script.sighash import Digests
from pipeline.script.signature import is_true
from pipeline.script.templates import judge, match, no_payments, payments
from tests.builders import (
    Digest,
    In,
    Key,
    Out,
    by_script,
    flip_s,
    funding,
    key,
    multisig,
    p2pk,
    p2pkh,
    push,
    pushdrop,
    pushdrop_after,
    spend,
)
from tests.profiles import LONG, SIGNED, much

OWNERS = [key(n) for n in range(1, 5)]
A = OWNERS[0]
TYPES = [base | more for base in (0x41, 0x42, 0x43, 0x61, 0x62, 0x63) for more in (0, 0x80)]
OTHER_TYPES = [0x01, 0x83, 0x40, 0x44, 0x5F, 0x21, 0x00]
FIELDS: list[list[bytes]] = [[b"field"], [b"", b"\x05", b"\x81"], [bytes(75), bytes(76)], [bytes(256)], [b"\x10"] * 5]
BEHIND = [b"", b"", b"", b"\x6a", b"\x6a\x4c\x05ab", b"\x6a\xab\xae", b"\x02ab\x75", b"\x51\x52\x6d", b"\x61", b"\xab"]


def written(owner: Key, form: int) -> bytes:
    """A key: 0 compressed, 1 uncompressed, 2 hybrid, 3 off the curve."""
    hybrid = bytes((6 + owner.long[64] % 2,)) + owner.long[1:]
    return (owner.public, owner.long, hybrid, b"\x02" + b"\xff" * 32)[form]


class Bent:
    """One example: what is built, and how it is bent."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self._numbers = iter(numbers)

    def pick(self, choices: Sequence[Any]) -> Any:
        return choices[next(self._numbers) % len(choices)]

    def rarely(self) -> bool:
        return next(self._numbers) % 8 == 7

    def locking(self) -> tuple[str, bytes, Callable[[Digest], list[bytes]]]:
        """A template's name, its script, and what is pushed to unlock it."""
        form = self.pick((0, 0, 0, 0, 1, 2, 3))
        public = written(A, form)
        signer = self.pick(OWNERS) if self.rarely() else A
        kind = self.pick(OTHER_TYPES) if self.rarely() else self.pick(TYPES)
        shown = self.pick(TYPES) if self.rarely() else kind
        high = self.rarely()

        def signature(digest: Digest, owner: Key = signer) -> bytes:
            der = owner.sign(digest(kind))
            return (flip_s(der) if high else der) + bytes((shown,))

        name = self.pick(("p2pkh", "p2pk", "first", "last", "multisig", "data", "bare data"))
        fields = self.pick(FIELDS)
        if name == "p2pkh":
            return name, p2pkh(Key(b"", public, b"")) + self.pick(BEHIND), lambda d: [signature(d), public]
        if name == "p2pk":
            return name, push(public) + b"\xac" + self.pick(BEHIND), lambda d: [signature(d)]
        if name == "first":
            script = pushdrop(A, *fields).replace(p2pk(A), push(public) + b"\xac")
            return name, script + self.pick(BEHIND), lambda d: [signature(d)]
        if name == "last":
            script = pushdrop_after(A, *fields).replace(p2pk(A), push(public) + b"\xac")
            return name, script + self.pick(BEHIND), lambda d: [signature(d)]
        if name == "multisig":
            count = self.pick((1, 2, 2, 3, 4))
            needed = 1 + next(self._numbers) % count
            owners = OWNERS[:count]
            given = self.pick((owners[:needed], owners[-needed:], owners[::-1][:needed], [A] * needed))
            script = multisig(needed, *owners).replace(push(A.public), push(public))
            return name, script, lambda d: [b"", *(signature(d, owner) for owner in given)]
        left = self.pick(([], [b"\x01"], [b""], [b"a"], [b"\x01", b"\x01"]))
        script = b"\x00\x6a" if name == "data" else b"\x6a"
        return name, script + self.pick((b"", b"\x04data", b"\x4c")), lambda _: left

    def bend(self, script: bytes) -> bytes:
        """Change one thing somewhere."""
        at = next(self._numbers) % (len(script) + 1)
        how = next(self._numbers) % 6
        byte = bytes((next(self._numbers) % 256,))
        if how == 0:
            return script[:at] + byte + script[at + 1 :]
        if how == 1:
            return script[:at] + byte + script[at:]
        if how == 2:
            return script[:at] + script[at + 1 :]
        if how == 3:
            return script + byte
        if how == 4:
            return byte + script
        return script[:at]

    def pushes(self, elements: Sequence[bytes]) -> bytes:
        """The unlocking script, with now and then a push in a longer form or a swap."""
        parts = [push(element) for element in elements]
        if parts and self.rarely():
            n = next(self._numbers) % len(parts)
            size = len(elements[n]).to_bytes(1, "little")
            parts[n] = self.pick((b"\x4c" + size, b"\x4d" + size + b"\x00")) + elements[n]
        if len(parts) > 1 and self.rarely():
            parts[0], parts[-1] = parts[-1], parts[0]
        return b"".join(parts)

    def built(self) -> tuple[str, Tx, bytes, bytes]:
        """Template, spending transaction, coin and locking script."""
        name, locking, elements = self.locking()
        version = self.pick((1, 1, 2, 2, 0, 0xFFFFFFFF))
        sequence = self.pick((0xFFFFFFFF, 0))
        while self.rarely():
            locking = self.bend(locking)  # signed as it is, so that what was bent is all there is
        parent = funding(Out(1000, locking))
        place = self.pick((0, 0, 1))
        others = [In(funding(salt=1), 0, by_script(b""))] * place
        outs = [Out(500), Out(400)]

        def unlock(digest: Digest) -> bytes:
            script = self.pushes(elements(digest))
            while self.rarely():
                script = self.bend(script)
            return script

        tx = spend([*others, In(parent, 0, unlock, sequence)], outs, version)
        return name, tx, parent.output(0), locking


def code_of(act: Callable[[], None]) -> str:
    try:
        act()
    except ScriptFault as fault:
        return fault.code
    return ""


CHUNK = 1_000
ERAS = [(True, True, True), (True, False, True), (True, False, False), (False, False, True), (False, False, False)]
"""Genesis and Chronicle of the coin, Chronicle of the next block."""


def look(seen: Counter[tuple[str, str]], numbers: Sequence[int]) -> None:
    """One example in every era; what a template does not cover has nothing to be compared with."""
    name, tx, coin, locking = Bent(numbers).built()
    vin = len(tx.ins) - 2
    digests = Digests(tx)
    unlocking = tx.unlocking(vin)
    alone = payments(tx.raw, list(tx.ins), tx.outs[0], [coin]) if vin == 0 else None
    for genesis, chronicle, ahead in ERAS:
        rules = rules_for(tx, SpentCoin(vin, coin, genesis, chronicle), ahead)
        checks = match(unlocking, locking, genesis)
        assert checks is not None or alone is None
        if checks is None:
            seen[name, "not covered"] += 1
            continue
        fast = code_of(lambda c=checks, r=rules: judge(c, digests, vin, coin, locking, r))  # type: ignore[misc]
        here = Spend(digests, vin, coin[:8], rules)
        slow = code_of(lambda h=here: evaluate(unlocking, locking, h, Meter(10**6, 10**8)))  # type: ignore[misc]
        assert fast == slow, (name, unlocking.hex(), locking.hex(), rules)
        if alone is not None:
            assert slow == ("" if is_true(*alone[0]) else "script.false"), (unlocking.hex(), locking.hex(), rules)
            seen["alone", slow] += 1
        seen[name, fast] += 1


def test_a_bent_template_has_one_answer() -> None:
    seen: Counter[tuple[str, str]] = Counter()
    for number in range(much(CHUNK, 200_000) // CHUNK):  # in chunks: what was tried is kept in memory until one ends
        tried = given(st.binary(min_size=120, max_size=120))(lambda drawn: look(seen, unpack("<60H", drawn) * 4))
        seed(number)(settings(SIGNED, derandomize=False, max_examples=CHUNK)(tried))()
    for name in ("p2pkh", "p2pk", "first", "last", "multisig"):
        for outcome in ("", "script.false", "script.malformed", "not covered"):
            assert seen[name, outcome], (name, outcome)
    if payments is not no_payments:
        assert seen["alone", ""]
        assert seen["alone", "script.false"] or not LONG  # one in some thousand
    assert seen["data", "script.false"]
    assert seen["bare data", "script.false"]
    print(dict(seen))
