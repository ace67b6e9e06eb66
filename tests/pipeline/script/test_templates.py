"""The fast path says what the machine says, and leaves to it what is the least unusual."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.codec.tx import Tx
from pipeline.script.engine import evaluate
from pipeline.script.machine import Meter, Spend
from pipeline.script.rules import Rules, ScriptFault
from pipeline.script.sighash import Digests
from pipeline.script.templates import judge, match
from tests.builders import (
    ALL,
    ANYONE,
    NONE,
    OTDA,
    SINGLE,
    In,
    Out,
    Unlock,
    by_key,
    by_multisig,
    by_p2pkh,
    by_script,
    funding,
    key,
    multisig,
    p2pk,
    p2pkh,
    push,
    pushdrop,
    spend,
)
from tests.profiles import SIGNED

NEW = Rules()
OLD = Rules(after_genesis=False, after_chronicle=False)


def spent(locking: bytes, unlock: Unlock, version: int = 1) -> tuple[Tx, bytes]:
    parent = funding(Out(1000, locking))
    return spend([In(parent, 0, unlock)], [Out(900)], version), parent.output(0)


def by_template(tx: Tx, coin: bytes, locking: bytes, rules: Rules) -> str | None:
    """Empty: unlocked; a code: not; None: no template."""
    checks = match(tx.unlocking(0), locking, rules.after_genesis)
    if checks is None:
        return None
    try:
        judge(checks, Digests(tx), 0, coin, locking, rules)
    except ScriptFault as fault:
        return fault.code
    return ""


def by_machine(tx: Tx, coin: bytes, locking: bytes, rules: Rules) -> str:
    try:
        evaluate(tx.unlocking(0), locking, Spend(Digests(tx), 0, coin[:8], rules), Meter(10**6, 10**8))
    except ScriptFault as fault:
        return fault.code
    return ""


A, B, C = key(1), key(2), key(3)
DATA = b"\x6a\x4c\x05ab"  # a RETURN, and a push that ends too soon behind it

COVERED: list[tuple[str, bytes, Unlock]] = [
    ("p2pkh", p2pkh(A), by_p2pkh(A)),
    ("p2pkh, uncompressed", p2pkh(A, long=True), by_p2pkh(A, long=True)),
    ("p2pkh, NONE", p2pkh(A), by_p2pkh(A, NONE)),
    ("p2pkh, SINGLE and ANYONECANPAY", p2pkh(A), by_p2pkh(A, SINGLE | ANYONE)),
    ("p2pkh, original digest", p2pkh(A), by_p2pkh(A, ALL | OTDA)),
    ("p2pkh, then data", p2pkh(A) + DATA, by_p2pkh(A)),
    ("p2pkh, then data, original digest", p2pkh(A) + DATA + b"\xab", by_p2pkh(A, ALL | OTDA)),
    ("p2pk", p2pk(A), by_key(A)),
    ("p2pk, uncompressed", p2pk(A, long=True), by_key(A)),
    ("p2pk, then data", p2pk(A) + DATA, by_key(A)),
    ("1 of 1", multisig(1, A), by_multisig(A)),
    ("1 of 2, the first", multisig(1, A, B), by_multisig(A)),
    ("1 of 2, the second", multisig(1, A, B), by_multisig(B)),
    ("2 of 3, around the middle", multisig(2, A, B, C), by_multisig(A, C)),
    ("3 of 3", multisig(3, A, B, C), by_multisig(A, B, C)),
    ("pushdrop of one", pushdrop(A, b"field"), by_key(A)),
    ("pushdrop of three", pushdrop(A, b"a", bytes(80), bytes(300)), by_key(A)),
    ("pushdrop of small ones", pushdrop(A, b"", b"\x05", b"\x81", b"\x10"), by_key(A)),
]

REFUSED: list[tuple[str, bytes, Unlock, str]] = [
    ("another key", p2pkh(A), by_p2pkh(B), "script.false"),
    ("another key's signature", p2pk(A), by_key(B), "script.false"),
    ("high S", p2pkh(A), by_p2pkh(A, high_s=True), "script.malformed"),
    ("no FORKID", p2pkh(A), by_p2pkh(A, 0x01), "script.malformed"),
    ("order of a multisig", multisig(2, A, B), by_multisig(B, A), "script.false"),
    ("one signature twice", multisig(2, A, B), by_multisig(A, A), "script.false"),
    ("a stranger among two", multisig(2, A, B), by_multisig(A, C), "script.false"),
    ("hybrid key", b"\x41" + bytes((6 + A.long[64] % 2,)) + A.long[1:] + b"\xac", by_key(A), "script.malformed"),
    ("data", b"\x00\x6a\x04data", by_script(b"\x51"), "script.false"),
]

LEFT_TO_THE_MACHINE: list[tuple[str, bytes, Unlock, str]] = [
    ("empty signature", p2pkh(A), by_script(b"\x00" + push(A.public)), "script.false"),
    ("one element more", p2pkh(A), lambda digest: b"\x51" + by_p2pkh(A)(digest), "script.malformed"),
    ("longer push", p2pk(A), lambda digest: b"\x4c" + by_key(A)(digest), "script.malformed"),
    (
        "dummy that is not empty",
        multisig(1, A),
        lambda digest: b"\x51" + by_multisig(A)(digest)[1:],
        "script.malformed",
    ),
    ("a signature too few", multisig(2, A, B), by_multisig(A), "script.false"),
    ("a signature too many", multisig(1, A, B), by_multisig(A, B), "script.malformed"),
    ("dropped too often", pushdrop(A, b"field") + b"\x75", by_key(A), "script.false"),
    ("dropped too seldom", pushdrop(A, b"one", b"two")[:-1] + b"\x75", by_key(A), "script.malformed"),
    ("field in a longer push", p2pk(A) + b"\x4c\x03abc\x75", by_key(A), "script.malformed"),
    ("something else behind", p2pkh(A) + b"\x61", by_p2pkh(A), ""),
    ("hash puzzle", b"\xa9\x14" + bytes(20) + b"\x87", by_script(b"\x51"), "script.false"),
    ("anyone", b"\x51", by_script(b""), ""),
    ("nothing", b"", by_script(b"\x51"), ""),
]


@pytest.mark.parametrize(("name", "locking", "unlock"), COVERED, ids=[row[0] for row in COVERED])
def test_covered_scripts_are_unlocked_by_both(name: str, locking: bytes, unlock: Unlock) -> None:
    tx, coin = spent(locking, unlock)
    assert by_template(tx, coin, locking, NEW) == ""
    assert by_machine(tx, coin, locking, NEW) == ""


@pytest.mark.parametrize(("name", "locking", "unlock", "code"), REFUSED, ids=[row[0] for row in REFUSED])
def test_refused_scripts_are_refused_by_both_for_one_reason(
    name: str, locking: bytes, unlock: Unlock, code: str
) -> None:
    tx, coin = spent(locking, unlock)
    assert by_template(tx, coin, locking, NEW) == code
    assert by_machine(tx, coin, locking, NEW) == code


@pytest.mark.parametrize(
    ("name", "locking", "unlock", "code"), LEFT_TO_THE_MACHINE, ids=[row[0] for row in LEFT_TO_THE_MACHINE]
)
def test_unusual_scripts_are_left_to_the_machine(name: str, locking: bytes, unlock: Unlock, code: str) -> None:
    tx, coin = spent(locking, unlock)
    assert by_template(tx, coin, locking, NEW) is None
    assert by_machine(tx, coin, locking, NEW) == code


@pytest.mark.parametrize("locking", [p2pkh(A) + DATA, p2pk(A) + DATA, pushdrop(A, b"field")])
def test_nothing_stands_behind_a_check_before_genesis(locking: bytes) -> None:
    """There OP_RETURN fails, and elements have a limit."""
    unlock = by_p2pkh(A) if locking.startswith(p2pkh(A)) else by_key(A)
    tx, _ = spent(locking, unlock)
    assert match(tx.unlocking(0), locking, after_genesis=True)
    assert match(tx.unlocking(0), locking, after_genesis=False) is None


def test_a_relaxed_high_s_is_true_by_both() -> None:
    tx, coin = spent(p2pkh(A), by_p2pkh(A, high_s=True), version=2)
    rules = Rules(relaxed=True)
    assert by_template(tx, coin, p2pkh(A), rules) == by_machine(tx, coin, p2pkh(A), rules) == ""


@SIGNED
@given(st.sampled_from(COVERED), st.data())
def test_any_change_of_a_covered_pair_is_judged_alike(row: tuple[str, bytes, Unlock], data: st.DataObject) -> None:
    """Where a template still covers the changed scripts, the machine gives the same answer."""
    _, locking, unlock = row
    tx, coin = spent(locking, unlock)
    unlocking = bytearray(tx.unlocking(0))
    changed = bytearray(locking)
    target: Sequence[bytearray] = [unlocking, changed]
    one = data.draw(st.sampled_from(target))
    at = data.draw(st.integers(0, len(one) - 1))
    one[at] ^= data.draw(st.integers(1, 255))
    tx, coin = spent(bytes(changed), by_script(bytes(unlocking)))
    for rules in (NEW, OLD, Rules(relaxed=True)):
        found = by_template(tx, coin, bytes(changed), rules)
        if found is not None:
            assert found == by_machine(tx, coin, bytes(changed), rules)
