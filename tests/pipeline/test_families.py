"""The whole verifier on generated families: the verdict is the one they were made for, in every framing and form."""

import itertools

import pytest

from pipeline.codec.quick import not_quick
from pipeline.outcome import BY_CODE
from pipeline.parse import Payload, parse
from pipeline.policy import Policy
from pipeline.script.templates import no_payments
from pipeline.verify import Plan, Valid, plan
from tests.families import DEFECTS, FRAMINGS, HARMLESS, SHAPES, Family, family
from tests.pipeline.test_verify import facts, judge
from tests.profiles import much

LENIENT = Policy()
STRICT = Policy(form="strict")

ANY_ORDER = ["repeated", "child first", "proof nobody uses", "node nobody needs"]
"""What may come together, and with any defect that does not ask to be alone."""

SEEDS = range(much(15, 1_000))


def said(found: Family, framing: str, policy: Policy) -> str:
    """The code, or nothing for a valid payload that says just what the family says."""
    judged = judge(found.framed[framing], found.answers, found.tip, policy)
    if not isinstance(judged, Valid):
        return judged.code
    assert judged.txid == found.subject
    assert dict(judged.extended()) == found.unmined
    known: set[bytes] = set()
    for one in judged.payload.unmined:
        spent = {one.outpoint(vin)[:32] for vin in range(len(one.ins) - 1)}
        assert spent & found.unmined.keys() <= known, "an ancestor comes behind"
        known.add(one.txid)
    return ""


def holds(found: Family) -> None:
    """Each framing gets the code that was meant, under both forms."""
    for framing in found.framed:
        assert said(found, framing, LENIENT) == found.code, (found.label, framing)
        strictly = said(found, framing, STRICT)
        assert strictly == found.strict or (found.strict is None and strictly), (found.label, framing, strictly)


@pytest.mark.parametrize("shape", list(SHAPES))
def test_a_sound_family_is_valid_and_broadcast_as_it_was_made(shape: str) -> None:
    """BRC-67, and the Extended Format of every un-mined transaction (BRC-30), whatever frame it came in."""
    for seed in SEEDS:
        found = family(seed, shape=shape)
        assert set(found.framed) == set(FRAMINGS)
        holds(found)


@pytest.mark.parametrize("defect", list(DEFECTS))
def test_one_defect_anywhere_gives_its_code(defect: str) -> None:
    assert DEFECTS[defect].code in BY_CODE
    for seed in SEEDS:
        holds(family(seed, defect))


@pytest.mark.parametrize("harmless", list(HARMLESS))
def test_what_honest_senders_do_is_mended_leniently_and_named_strictly(harmless: str) -> None:
    """The table of pipeline/policy.py, on any family."""
    assert HARMLESS[harmless].code in BY_CODE
    for seed in SEEDS:
        holds(family(seed, harmless=[harmless]))


@pytest.mark.parametrize("several", [n for r in (1, 2, 3) for n in itertools.combinations(ANY_ORDER, r)], ids=", ".join)
def test_what_is_mended_hides_no_defect(several: tuple[str, ...]) -> None:
    defects = ["", *(name for name, row in DEFECTS.items() if not row.alone)]
    for seed in range(much(1, 50)):
        for defect in defects:
            holds(family(seed, defect, several))


def test_the_framing_makes_no_difference() -> None:
    """V1, V2 and Atomic around either (BRC-62, 96, 95): one verdict, one place, one canonical form."""
    for seed in SEEDS:
        for defect in ["", *(name for name, row in DEFECTS.items() if row.framings == FRAMINGS)]:
            found = family(seed, defect)
            for policy in (LENIENT, STRICT):
                judged = [judge(raw, found.answers, found.tip, policy) for raw in found.framed.values()]
                for one, other in itertools.pairwise(judged):
                    assert type(one) is type(other)
                    if isinstance(one, Valid):
                        assert isinstance(other, Valid)
                        assert facts(one) == facts(other)
                    elif "byte" not in one.at:
                        assert one == other
                taken = [parse(raw, policy) for raw in found.framed.values()]
                assert len({one.canonical() for one in taken if isinstance(one, Payload)}) <= 1


def test_what_is_compiled_makes_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """One verdict, one place and one message with the compiled readers and without them."""
    found = [family(seed, defect) for seed in SEEDS for defect in ("", *DEFECTS)]
    cases = [(raw, each) for each in found for raw in each.framed.values()]

    def told() -> list[object]:
        judged = [judge(raw, each.answers, each.tip, policy) for raw, each in cases for policy in (LENIENT, STRICT)]
        return [facts(one) if isinstance(one, Valid) else one for one in judged]

    installed = told()
    for name in ("parse.quick_payload", "codec.bump.quick_bump", "codec.tx.quick_tx", "verify.quick_coins"):
        monkeypatch.setattr(f"pipeline.{name}", not_quick)
    monkeypatch.setattr("pipeline.verify.payments", no_payments)
    assert told() == installed


def test_the_generator_makes_what_it_says() -> None:
    """Else the tests above would pass on less than they name: templates, sandbox, shared paths, mined ones between."""
    seen: set[str] = set()
    for seed in range(much(60, 600)):
        found = family(seed)
        payload = parse(found.framed["v1"], LENIENT)
        assert isinstance(payload, Payload)
        planned = plan(payload, LENIENT, found.tip)
        assert isinstance(planned, Plan)
        seen.add("sandbox" if planned.jobs else "inline")
        proven = [tx for tx in payload.txs if tx.proven]
        seen |= {f"{len(payload.bumps[tx.bump].levels)} levels" for tx in proven}
        seen |= {f"version {tx.version}" for tx in payload.unmined}
        if any(tx.is_coinbase() for tx in proven):
            seen.add("coinbase")
        if len(payload.bumps) < len(proven):
            seen.add("shared path")
        if len(payload.roots) < len(payload.bumps):
            seen.add("two paths of a block")
        if any(not bump.flagged for bump in payload.bumps):
            seen.add("no flag")
        if any(tx.proven and any(tx.parents) for tx in payload.txs):
            seen.add("proven behind proven")
        for tx in payload.unmined:
            signed = [tx.unlocking(vin) for vin in range(len(tx.ins) - 1)]
            seen |= {f"hash type {script[script[0]]:#x}" for script in signed if 60 < script[0] < 75}
            seen |= {"multisig"} if any(script[:1] == b"\x00" for script in signed) else set()
            seen |= {"locked"} if tx.locktime and not tx.is_final(0, 0) else set()
    wanted = {"sandbox", "inline", "coinbase", "shared path", "two paths of a block", "no flag", "proven behind proven"}
    wanted |= {"multisig", "locked", "version 0", "version 1", "version 2", *(f"{n} levels" for n in range(1, 6))}
    wanted |= {f"hash type {kind:#x}" for kind in (0x41, 0x42, 0x43, 0xC1, 0xC2, 0xC3, 0x61, 0xE2)}
    assert wanted <= seen, wanted - seen
