"""The table of script rules, by the fast path, by the machine, and by whole payloads with their heights."""

import pytest

from pipeline.chain.answer import Tip
from pipeline.outcome import Verdict
from pipeline.parse import Payload, parse
from pipeline.policy import Policy
from pipeline.script.engine import STEPS_PER_MS, evaluate, rules_for, run_jobs
from pipeline.script.machine import Meter, Spend
from pipeline.script.rules import ScriptFault
from pipeline.script.sighash import Digests
from pipeline.script.templates import Checks, judge, match
from pipeline.verify import Plan, Valid, plan, verify
from tests.asm import asm
from tests.builders import (
    Bag,
    In,
    Out,
    bag,
    by_script,
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
from tests.script_rules import CHRONICLE, GENESIS, Case, cases

A = key()
SIGNATURE = push(A.sign(bytes(32)) + b"\x41")
CASES = list(cases())


def covered(case: Case) -> Checks | None:
    """What the fast path finds in a case, or None."""
    parent, tx = case.made()
    (coin,) = case.job().coins
    return match(tx.unlocking(case.vin), parent.locking(0), coin.after_genesis)


def by_template(case: Case, checks: Checks) -> str:
    parent, tx = case.made()
    job = case.job()
    (coin,) = job.coins
    try:
        judge(checks, Digests(tx), case.vin, coin.output, parent.locking(0), rules_for(tx, coin, job.chronicle))
    except ScriptFault as fault:
        return fault.code
    return ""


def by_machine(case: Case) -> str:
    parent, tx = case.made()
    job = case.job()
    (coin,) = job.coins
    spend = Spend(Digests(tx), case.vin, coin.output[:8], rules_for(tx, coin, job.chronicle))
    try:
        evaluate(tx.unlocking(case.vin), parent.locking(0), spend, Meter(case.budget_ms * STEPS_PER_MS, case.memory))
    except ScriptFault as fault:
        return fault.code
    return ""


COVERED = [case for case in CASES if covered(case) is not None]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_machine(case: Case) -> None:
    assert by_machine(case) == case.code, case.source


@pytest.mark.parametrize("case", COVERED, ids=str)
def test_the_fast_path(case: Case) -> None:
    checks = covered(case)
    assert checks is not None
    assert by_template(case, checks) == case.code, case.source


def whole(made: Bag, tip: Tip, policy: Policy) -> str:
    """Parse, plan, run what the sandbox would, verify; the code, or nothing for a valid payload."""
    payload = parse(made.v1(), policy)
    assert isinstance(payload, Payload), payload
    planned = plan(payload, policy, tip)
    assert isinstance(planned, Plan), planned
    results = {result.key: result for result in run_jobs(planned.jobs, policy.script_budget_ms * STEPS_PER_MS)}
    said = verify(payload, made.answers(), results, tip, policy)
    assert isinstance(said, Valid | Verdict), said
    return "" if isinstance(said, Valid) else said.code


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_whole_payload(case: Case) -> None:
    """Only heights are given: the proof's for the coin, the tip's for the block to come (main's settings)."""
    assert whole(*case.payload()) == case.code, case.source


@pytest.mark.parametrize(
    ("first", "locking", "before", "after"),
    [
        (GENESIS, "RETURN", "script.false", ""),
        (GENESIS, "0 IF VERIF ENDIF", "script.malformed", ""),
        (CHRONICLE, "0 IF VERIF ENDIF", "", "script.malformed"),
        (CHRONICLE, "VER DROP", "script.malformed", ""),
        (CHRONICLE, "0 IF 2MUL ENDIF NOP NOP", "", ""),
    ],
)
def test_a_coin_that_is_not_mined_yet_has_the_era_of_the_next_block(
    first: int, locking: str, before: str, after: str
) -> None:
    mined = funding(Out(2000))
    parent = spend([In(mined)], [Out(1000, asm(locking))])
    made = bag(mined, parent, spend([In(parent, 0, by_script(b"\x51"))], [Out(900)]), proven=[mined], height=600_000)
    for ahead, expected in ((first - 1, before), (first, after)):
        assert whole(made, Tip(ahead - 1, 1_790_000_000), Policy()) == expected


ORDINARY: list[tuple[str, bytes, bytes]] = [
    ("P2PKH, compressed", p2pkh(A), SIGNATURE + push(A.public)),
    ("P2PKH, uncompressed", p2pkh(A, long=True), SIGNATURE + push(A.long)),
    ("P2PKH, then data behind a RETURN", p2pkh(A) + b"\x6a\x04data", SIGNATURE + push(A.public)),
    ("P2PKH, then fields", p2pkh(A) + b"\x04data\x75", SIGNATURE + push(A.public)),
    ("P2PK, compressed", p2pk(A), SIGNATURE),
    ("P2PK, uncompressed", p2pk(A, long=True), SIGNATURE),
    ("PushDrop, lock first", pushdrop(A, b"a", b"\x01", b"", bytes(300)), SIGNATURE),
    ("PushDrop, lock last", pushdrop_after(A, b"a", b"\x01", b"", bytes(300)), SIGNATURE),
    ("PushDrop, lock last, uncompressed", b"\x04data\x75" + p2pk(A, long=True), SIGNATURE),
    ("PushDrop of 64 fields", pushdrop(A, *[bytes(8)] * 64), SIGNATURE),
    ("data behind OP_FALSE OP_RETURN", b"\x00\x6a\x04data", b""),
    ("data behind OP_RETURN", b"\x6a\x04data", b""),
    *(
        (f"{m} of {n}", multisig(m, *[A] * n), b"\x00" + SIGNATURE * m)
        for n in range(1, 17)
        for m in range(1, n + 1)
    ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "locking", "unlocking"), ORDINARY, ids=[row[0] for row in ORDINARY])
def test_each_template_is_covered_in_its_ordinary_form(name: str, locking: bytes, unlocking: bytes) -> None:
    assert match(unlocking, locking, after_genesis=True) is not None


def test_a_coin_of_very_many_fields_is_left_to_the_machine_which_counts() -> None:
    for locking in (pushdrop(A, *[bytes(8)] * 65), pushdrop_after(A, *[bytes(8)] * 65)):
        assert match(SIGNATURE, locking, after_genesis=True) is None


def test_every_rule_stands_on_both_sides() -> None:
    """A rule that only refuses, or only lets pass, shows no boundary."""
    sides: dict[str, set[bool]] = {}
    for case in CASES:
        sides.setdefault(case.rule, set()).add(case.code == "")
    one_sided = {rule for rule, found in sides.items() if found != {True, False}}
    assert one_sided == set()
