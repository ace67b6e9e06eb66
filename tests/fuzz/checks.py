"""What must hold of any bytes: checked by the fuzzer, and on the kept corpus wherever tests run.

What is recomputed here reads transactions by a reader of its own (BRC-12), a few plain lines that trust nothing of
`pipeline/`.
"""

from collections.abc import Callable, Mapping
from hashlib import sha256

import msgspec

from pipeline import member
from pipeline.ancestors import complete, cut, resolved, shown
from pipeline.chain.answer import Answer
from pipeline.codec.beef import write_atomic, write_beef_v1, write_beef_v2
from pipeline.codec.ef import read_ef
from pipeline.outcome import BY_CODE, Condition, Verdict
from pipeline.parse import Payload, parse
from pipeline.policy import Policy
from pipeline.script.engine import STEPS_PER_MS, ScriptResult, run_jobs
from pipeline.verify import Plan, Valid, plan, verify
from tests.builders import TIP

BUDGET_MS = 50
SCRIPT_MEMORY = 1 << 17
"""Far less than an installation's, so that what a payload takes beside its scripts can be seen."""

LENIENT = Policy(script_budget_ms=BUDGET_MS, script_memory_bytes=SCRIPT_MEMORY)
STRICT = Policy(form="strict", script_budget_ms=BUDGET_MS, script_memory_bytes=SCRIPT_MEMORY)

RESOLVING = tuple(msgspec.structs.replace(policy, txid_only="resolve") for policy in (LENIENT, STRICT))
"""The same two, of an installation that looks for ancestors named by their txid alone."""

LIMIT_S = 0.1
"""Processor time one payload of 10 kB or less may take in one form, scripts included."""


def limit_s(size: int) -> float:
    """What a payload of `size` bytes may take: seconds of processor time."""
    return LIMIT_S * max(1.0, size / 10_000)


# --- what is measured


def parse_once(data: bytes, policy: Policy) -> None:
    """What the target `parse` is about, once, without checks."""
    for each in (policy, msgspec.structs.replace(policy, txid_only="resolve")):
        _parse_one(data, each)


def _parse_one(data: bytes, policy: Policy) -> None:
    found = parse(data, policy)
    if isinstance(found, Payload):
        found.canonical()


def verify_once(data: bytes, policy: Policy) -> None:
    """What the target `verify` is about, once, without checks."""
    found = parse(data, policy)
    if isinstance(found, Payload):
        judge(found, policy)


def judge(payload: Payload, policy: Policy) -> Valid | Verdict | Condition:
    """A payload's verdict with every root confirmed and every script run here."""
    planned = plan(payload, policy, TIP)
    if isinstance(planned, Verdict):
        return planned
    return verify(payload, dict.fromkeys(planned.roots, Answer.YES), _run(planned, policy), TIP, policy, planned)


def _run(planned: Plan, policy: Policy) -> dict[int, ScriptResult]:
    return {result.key: result for result in run_jobs(planned.jobs, policy.script_budget_ms * STEPS_PER_MS)}


# --- parse


def check_parse(data: bytes) -> None:
    """A payload or a verdict of the table; one meaning in every framing and form."""
    lenient = _read(data, LENIENT)
    strict = _read(data, STRICT)
    if strict:
        assert lenient, "strict takes what lenient refuses"
        assert lenient.subject.txid == strict.subject.txid
        assert lenient.canonical() == strict.canonical()
        assert not strict.repeats + strict.pruned
        _same_in_every_frame(strict, STRICT)
    elif lenient:
        _same_in_every_frame(lenient, LENIENT)
    if lenient:
        _same_when_turned(lenient)
        _same_by_names(lenient)
    for policy, refusing in zip(RESOLVING, (lenient, strict), strict=True):
        _resolves_what_is_refused(data, policy, refusing)
    for txid in shown(data):
        assert cut(data, [txid])


def _read(data: bytes, policy: Policy) -> Payload | None:
    found = parse(data, policy)
    if isinstance(found, Verdict):
        assert BY_CODE[found.code].kind == "verdict", found
        return None
    canonical = found.canonical()
    if canonical == data:
        return found
    assert len(canonical) <= len(data)
    again = parse(canonical, policy)
    assert isinstance(again, Payload), again
    assert again.canonical() == canonical
    assert (again.subject.txid, again.roots, again.missing) == (found.subject.txid, found.roots, found.missing)
    assert not again.repeats + again.pruned
    return found


def _same_in_every_frame(found: Payload, policy: Policy) -> None:
    """BRC-62, 95 and 96 are frames of one content."""
    canonical, subject = found.canonical(), found.subject.txid
    bumps, entries = [bump.raw for bump in found.bumps], [(tx.raw, tx.bump) for tx in found.txs]
    assert write_beef_v1(bumps, entries) == canonical
    v2 = write_beef_v2(bumps, entries)
    for framed in (v2, write_atomic(subject, canonical), write_atomic(subject, v2)):
        again = parse(framed, policy)
        assert isinstance(again, Payload), again
        assert again.canonical() == canonical


def _same_when_turned(found: Payload) -> None:
    """Last first, and every entry twice: to `lenient` the order of ancestors is free, what they are is not."""
    bumps, entries = [bump.raw for bump in found.bumps], [(tx.raw, tx.bump) for tx in found.txs]
    turned = parse(write_atomic(found.subject.txid, write_beef_v2(bumps, [*entries[::-1], *entries])), LENIENT)
    assert isinstance(turned, Payload), turned
    assert turned.subject.txid == found.subject.txid
    assert {tx.txid for tx in turned.txs} == {tx.txid for tx in found.txs}
    assert sorted(turned.roots) == sorted(found.roots)


def _resolves_what_is_refused(data: bytes, policy: Policy, refusing: Payload | None) -> None:
    """What names ancestors is the one thing more that is taken, and is not complete without them."""
    found = _read(data, policy)
    if refusing:
        assert found, "refused by who resolves"
        assert (found.missing, found.canonical()) == ((), refusing.canonical())
    elif found:
        assert found.missing
        nothing = complete(found, {})
        assert isinstance(nothing, Verdict)
        assert nothing.code == "structure.txid-only"
        assert nothing == complete(found, dict.fromkeys(found.missing, data)), "it shows itself what it lacks"


def _same_by_names(whole: Payload) -> None:
    """Its first un-mined transaction's parents by name, and found in itself: the same subject, with the same roots."""
    if not whole.unmined:
        return
    names = dict.fromkeys(tx.txid for tx in whole.unmined[0].parents if tx is not None)
    entries = [*((txid, -1) for txid in names), *((tx.raw, tx.bump) for tx in whole.txs if tx.txid not in names)]
    named = parse(write_atomic(whole.subject.txid, write_beef_v2([b.raw for b in whole.bumps], entries)), RESOLVING[0])
    if isinstance(named, Verdict):
        assert named.code == "policy.limits", named
        return
    found = {txid: piece for txid in names for piece in cut(whole.canonical(), [txid]).values()}
    again = resolved(named, found, RESOLVING[0])
    assert isinstance(again, Payload), again
    assert again.subject.txid == whole.subject.txid
    assert {tx.txid for tx in again.unmined} == {tx.txid for tx in whole.unmined}
    assert set(again.roots) <= set(whole.roots)


# --- verify


def check_verify(data: bytes) -> None:
    """A verdict or a condition of the table; and of what is valid, all that can be worked out again in a few lines."""
    codes = []
    for policy in (LENIENT, STRICT):
        payload = parse(data, policy)
        if isinstance(payload, Verdict):
            continue
        said = judge(payload, policy)
        _check_agreement(payload, said, policy)
        if isinstance(said, Valid):
            _check_valid(payload, said)
            codes.append("")
        else:
            assert BY_CODE[said.code].kind == ("verdict" if isinstance(said, Verdict) else "condition"), said
            codes.append(said.code)
    assert len(set(codes)) < 2, f"the forms differ in more than form: {codes}"


def _check_agreement(payload: Payload, said: Valid | Verdict | Condition, policy: Policy) -> None:
    """The same without the plan; and never valid before a tracker has spoken (ANCHOR-1)."""
    planned = plan(payload, policy, TIP)
    if isinstance(planned, Verdict):
        assert verify(payload, {}, {}, TIP, policy) == planned == said
        return
    results = _run(planned, policy)
    assert verify(payload, dict.fromkeys(planned.roots, Answer.YES), results, TIP, policy) == said
    unsaid = verify(payload, {}, results, TIP, policy, planned)
    assert not isinstance(unsaid, Valid), "valid though no tracker has said anything"


def _check_valid(payload: Payload, said: Valid) -> None:
    assert said.txid == payload.subject.txid
    assert payload.roots
    txs = {_hash256(tx.raw): _read_plain(tx.raw) for tx in payload.txs}
    spent = [outpoint for ins, _ in txs.values() for outpoint in ins if outpoint[:32] != bytes(32)]
    assert len(spent) == len(set(spent)), "an outpoint is spent twice"  # SPEND-1
    proven = {tx.txid for tx in payload.txs if tx.proven}
    unmined = dict(said.extended())
    assert said.txid in proven or list(unmined)[-1] == said.txid
    for txid, ef in unmined.items():
        tx, coins = read_ef(ef)
        ins, outs = txs[txid]
        assert _hash256(tx.raw) == txid
        assert coins == [txs[outpoint[:32]][1][int.from_bytes(outpoint[32:], "little")] for outpoint in ins]
        assert _value(outs) <= _value(coins), "more comes out than goes in"  # VALUE-1
        assert {outpoint[:32] for outpoint in ins} <= proven | unmined.keys()
    _check_members(payload, said, txs)
    if unmined:
        _, outs = txs[said.txid]
        assert said.fee_sat == _value(coins) - _value(outs)


def _check_members(payload: Payload, said: Valid, txs: Mapping[bytes, tuple[list[bytes], list[bytes]]]) -> None:
    """The same by places in the payload's bytes, as the stages hand it on."""
    again = parse(payload.canonical(), Policy())
    assert isinstance(again, Payload)
    beef, extended = payload.canonical(), dict(said.extended())
    for one in Valid(again, said.coins, said.fee_sat, said.proven_height).members():
        ins, outs = txs[one.txid]
        assert _hash256(member.raw(beef, one)) == one.txid
        assert member.spends(beef, one) == b"".join(ins)
        assert one.outputs == len(outs)
        if extended:
            assert member.extended(beef, one) == extended[one.txid]


def _value(outs: list[bytes]) -> int:
    return sum(int.from_bytes(out[:8], "little") for out in outs)


def _hash256(data: bytes) -> bytes:
    return sha256(sha256(data).digest()).digest()


def _read_plain(raw: bytes) -> tuple[list[bytes], list[bytes]]:
    """A transaction's outpoints, and its outputs as they stand."""
    at = 4

    def number() -> int:
        nonlocal at
        width = {0xFD: 2, 0xFE: 4, 0xFF: 8}.get(raw[at], 0)
        first, at = at, at + 1 + width
        return int.from_bytes(raw[first + 1 : at], "little") if width else raw[first]

    ins, outs = [], []
    for _ in range(number()):
        ins.append(raw[at : at + 36])
        at += 36
        length = number()
        at += length + 4
    for _ in range(number()):
        first = at
        at += 8
        length = number()
        at += length
        outs.append(raw[first:at])
    assert at + 4 == len(raw)
    return ins, outs


CHECKS: dict[str, Callable[[bytes], None]] = {"parse": check_parse, "verify": check_verify}
ONCE: dict[str, Callable[[bytes, Policy], None]] = {"parse": parse_once, "verify": verify_once}
"""The targets by name: with all that must hold, and the bare work that is measured."""
