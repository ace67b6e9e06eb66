"""A payload against the chain: every rule by a payload that breaks just that one."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import member
from pipeline.chain.answer import Answer, RootAt, Tip
from pipeline.codec.ef import read_ef
from pipeline.codec.tx import Tx
from pipeline.outcome import BY_CODE, Condition, Verdict
from pipeline.parse import Payload, parse
from pipeline.policy import MAX_SATOSHIS, Policy, required_fee
from pipeline.script.engine import STEPS_PER_MS, run_jobs
from pipeline.verify import Plan, Valid, plan, verify
from schemas.types import display, from_display
from tests import builders
from tests.builders import (
    FINAL,
    TIP,
    Bag,
    In,
    Out,
    bag,
    by_p2pkh,
    by_script,
    chain,
    coinbase,
    diamonds,
    funding,
    key,
    p2pkh,
    path,
    payment,
    spend,
)
from tests.profiles import SIGNED
from tests.vectors import conformance, load, universal

POLICY = Policy()


def judge(
    made: Bag | bytes,
    answers: Mapping[RootAt, Answer] | None = None,
    tip: Tip | None = TIP,
    policy: Policy = POLICY,
) -> Valid | Verdict | Condition:
    """Parse, plan, run what the sandbox would, verify; a fault the plan finds must be the one verify finds."""
    raw = made if isinstance(made, bytes) else made.v1()
    if answers is None:
        assert isinstance(made, Bag)
        answers = made.answers()
    payload = parse(raw, policy)
    if isinstance(payload, Verdict):
        return payload
    planned = plan(payload, policy, tip)
    if isinstance(planned, Verdict):
        assert verify(payload, answers, {}, tip, policy) == planned
        return planned
    assert planned.roots == payload.roots
    results = {result.key: result for result in run_jobs(planned.jobs, policy.script_budget_ms * STEPS_PER_MS)}
    found = verify(payload, answers, results, tip, policy, planned)
    assert found == verify(payload, answers, results, tip, policy)
    return found


def facts(said: Valid) -> tuple[bytes, dict[bytes, bytes], int, int]:
    """What a valid payload says, whatever bytes it came in."""
    return said.txid, dict(said.extended()), said.fee_sat, said.proven_height


def valid(made: Bag | bytes, answers: Mapping[RootAt, Answer] | None = None, **more: object) -> Valid:
    found = judge(made, answers, **more)  # type: ignore[arg-type]
    assert isinstance(found, Valid), found
    return found


def code(made: Bag | bytes, answers: Mapping[RootAt, Answer] | None = None, **more: object) -> str:
    found = judge(made, answers, **more)  # type: ignore[arg-type]
    assert not isinstance(found, Valid)
    assert BY_CODE[found.code].kind == ("verdict" if isinstance(found, Verdict) else "condition")
    return found.code


# --- published payloads


@pytest.mark.parametrize("vector", load("mainnet/payloads.json")["payloads"], ids=lambda p: str(p["txid"])[:8])
def test_mainnet_payloads_are_valid_with_their_blocks_roots(vector: dict[str, str]) -> None:
    data = load("mainnet/payloads.json")
    answers = {(int(height), from_display(root)): Answer.YES for height, root in data["roots"].items()}
    for policy in (POLICY, Policy(form="strict")):
        found = valid(bytes.fromhex(vector["beef"]), answers, tip=Tip(data["tip"], 1_800_000_000), policy=policy)
        assert display(found.txid) == vector["txid"]
        assert len(found.payload.unmined) == int(vector["unmined"])
        assert (found.proven_height > 0) == (not found.payload.unmined)


@pytest.mark.parametrize("key", ["beef_hex", "beef_v2_hex", "atomic_beef_hex"])
@pytest.mark.parametrize("name", list(universal()))
def test_universal_payloads_are_valid_and_broadcast_as_published(name: str, key: str) -> None:
    vector = universal()[name]
    raw = bytes.fromhex(vector[key])
    payload = parse(raw, POLICY)
    assert isinstance(payload, Payload)
    found = valid(raw, dict.fromkeys(payload.roots, Answer.YES))
    assert [ef.hex() for _, ef in found.extended()] == [vector["ef_hex"]]
    assert found.payload.subject.raw.hex() == vector["raw_hex"]


def test_the_conformance_payload_is_valid() -> None:
    vector = conformance("beef-isvalid-hydration")["regression.beef.isvalid-hydration.0001"]
    raw = bytes.fromhex(vector["input"]["beef_hex"])
    payload = parse(raw, POLICY)
    assert isinstance(payload, Payload)
    valid(raw, dict.fromkeys(payload.roots, Answer.YES))


def test_every_bit_flipped_is_never_valid_but_where_nothing_changed() -> None:
    raw = bytearray.fromhex(universal()["2-in-1-out"]["atomic_beef_hex"])
    whole = parse(bytes(raw), POLICY)
    assert isinstance(whole, Payload)
    answers = dict.fromkeys(whole.roots, Answer.YES)
    same = 0
    for bit in range(8 * len(raw)):
        raw[bit // 8] ^= 1 << bit % 8
        found = judge(bytes(raw), answers)
        same += isinstance(found, Valid)
        assert not isinstance(found, Valid) or found.payload.subject.raw == whole.subject.raw
        raw[bit // 8] ^= 1 << bit % 8
    assert same == 2  # the flag of each proof's leaf


# --- what a valid payload says


def test_a_payment_with_all_that_the_network_needs() -> None:
    made = payment()
    parent, child = made.txs
    found = valid(made)
    assert (found.txid, found.fee_sat, found.proven_height) == (child.txid, 1, -1)
    (only,) = found.members()
    assert (only.txid, only.outputs) == (child.txid, 1)
    assert member.raw(made.v1(), only) == child.raw
    assert member.spends(made.v1(), only) == parent.txid + bytes(4)
    ((txid, ef),) = found.extended()
    assert (txid, read_ef(ef)[1]) == (child.txid, [parent.output(0)])
    assert member.extended(made.v1(), only) == ef


def test_un_mined_ancestors_come_first() -> None:
    made = chain(4)
    found = valid(made)
    assert [txid for txid, _ in found.extended()] == [tx.txid for tx in made.txs[1:]]
    assert [one.txid for one in found.members()] == [tx.txid for tx in made.txs[1:]]


def test_a_proven_subject_is_valid_without_its_parents() -> None:
    alone = funding()
    found = valid(bag(alone, proven=[alone], height=949_000))
    assert (found.payload.unmined, found.fee_sat, found.proven_height) == ([], -1, 949_000)
    parent = funding(Out(1000))
    child = spend([In(parent)], [Out(990)])
    assert valid(bag(parent, child, proven=[child])).fee_sat == 10


def test_all_that_comes_in_may_go_out() -> None:
    assert valid(payment([Out(1000)])).fee_sat == 0


# --- values (VALUE-1)

RICH = funding(Out(MAX_SATOSHIS), Out(MAX_SATOSHIS))


@pytest.mark.invariant("VALUE-1")
@pytest.mark.parametrize(
    ("made", "expected"),
    [
        pytest.param(payment([Out(1001)]), "value.inflation", id="one more"),
        pytest.param(payment([Out(600), Out(401)]), "value.inflation", id="one more in two"),
        pytest.param(payment([Out(MAX_SATOSHIS + 1)]), "value.range", id="beyond all coins"),
        pytest.param(payment([Out(2**64 - 1), Out(2**63)]), "value.range", id="sum over 64 bits"),
        pytest.param(bag(RICH, spend([In(RICH)], [Out(MAX_SATOSHIS), Out(1)]), proven=[RICH]), "value.range", id="sum"),
        pytest.param(bag(RICH, spend([In(RICH), In(RICH, 1)]), proven=[RICH]), "value.range", id="inputs"),
    ],
)
def test_value_is_not_made(made: Bag, expected: str) -> None:
    found = judge(made)
    assert isinstance(found, Verdict)
    assert (found.code, found.at) == (expected, "tx 1")


@pytest.mark.invariant("VALUE-1")
def test_an_ancestor_that_makes_value_is_found_behind_an_honest_child() -> None:
    parent = funding(Out(1000))
    middle = spend([In(parent)], [Out(5000)])
    found = judge(bag(parent, middle, spend([In(middle)], [Out(1)]), proven=[parent]))
    assert isinstance(found, Verdict)
    assert (found.code, found.at) == ("value.inflation", "tx 1")
    assert display(middle.txid) in found.message


# --- one coin, one spender (SPEND-1)


def double_spends() -> list[Bag]:
    parent = funding(Out(1000), Out(1000))
    within = spend([In(parent), In(parent)], [Out(1500)])
    first, second = spend([In(parent)]), spend([In(parent)], [Out(998)])
    across = spend([In(first), In(second)], [Out(1500)])
    grand = funding(Out(1000), Out(1000), salt=5)
    mined = spend([In(grand)], [Out(1000)])
    rival = spend([In(grand)], [Out(1)])
    return [
        bag(parent, within, proven=[parent]),
        bag(parent, first, second, across, proven=[parent]),
        bag(grand, mined, rival, spend([In(mined), In(rival)]), proven=[grand, mined]),
    ]


@pytest.mark.invariant("SPEND-1")
@pytest.mark.parametrize("number", range(3), ids=["within one", "across two", "what a mined one spent"])
def test_no_coin_is_spent_twice(number: int) -> None:
    made = double_spends()[number]
    found = judge(made)
    assert isinstance(found, Verdict)
    assert found.code == "structure.double-spend"
    assert found.at == ["tx 1 input 1", "tx 2 input 0", "tx 2 input 0"][number]


def test_two_coinbases_spend_nothing_and_not_the_same() -> None:
    coins = [coinbase(n) for n in (1, 2)]
    child = spend([In(tx) for tx in coins])
    proofs = {tx.txid: path(tx.txid, 900_000 + n, offset=0) for n, tx in enumerate(coins)}
    valid(Bag([*coins, child], proofs))


# --- scripts (SCRIPT-1)


@pytest.mark.invariant("SCRIPT-1")
@pytest.mark.parametrize(
    ("unlock", "expected"),
    [
        (by_p2pkh(key(2)), "script.false"),
        (by_p2pkh(key(1), high_s=True), "script.malformed"),
        (by_p2pkh(key(1), kind=0x01), "script.malformed"),
        (by_script(b""), "script.false"),
        (by_script(b"\x51"), "script.false"),
    ],
)
def test_an_input_that_is_not_unlocked(unlock: builders.Unlock, expected: str) -> None:
    parent = funding(Out(1000), Out(1000))
    child = spend([In(parent), In(parent, 1, unlock)])
    found = judge(bag(parent, child, proven=[parent]))
    assert isinstance(found, Verdict)
    assert (found.code, found.at) == (expected, "tx 1 input 1")


@pytest.mark.invariant("SCRIPT-1")
def test_the_parents_real_value_counts_and_not_what_was_signed() -> None:
    """A signature over another value of the same coin (what Extended Format would let a sender claim)."""
    parent = funding(Out(1000))
    lie = msgspec.structs.replace(
        parent, raw=parent.raw.replace((1000).to_bytes(8, "little"), (2000).to_bytes(8, "little"))
    )
    assert code(bag(parent, spend([In(lie)]), proven=[parent])) == "script.false"


@pytest.mark.invariant("SCRIPT-1")
def test_every_ancestors_scripts_run() -> None:
    parent = funding()
    middle = spend([In(parent, unlock=by_p2pkh(key(3)))])
    found = judge(bag(parent, middle, spend([In(middle)]), proven=[parent]))
    assert isinstance(found, Verdict)
    assert (found.code, found.at) == ("script.false", "tx 1 input 0")


def test_scripts_no_template_covers_are_planned_and_their_results_needed() -> None:
    puzzle = Out(1000, b"\xa8\x20" + sha256(b"secret").digest() + b"\x87")
    parent = funding(puzzle, Out(1000))
    child = spend([In(parent, 0, by_script(builders.push(b"secret"))), In(parent, 1)])
    made = bag(parent, child, proven=[parent])
    valid(made)
    payload = parse(made.v1(), POLICY)
    assert isinstance(payload, Payload)
    planned = plan(payload, POLICY, TIP)
    assert isinstance(planned, Plan)
    assert [(job.key, [coin.vin for coin in job.coins]) for job in planned.jobs] == [(0, [0])]
    with pytest.raises(KeyError):
        verify(payload, made.answers(), {}, TIP, POLICY)
    wrong = spend([In(parent, 0, by_script(builders.push(b"guess"))), In(parent, 1)])
    found = judge(bag(parent, wrong, proven=[parent]))
    assert isinstance(found, Verdict)
    assert (found.code, found.at) == ("script.false", "tx 1 input 0")


def test_many_signatures_go_to_the_sandbox_and_give_the_same_answer() -> None:
    policy = Policy(inline_signatures=3)
    made = chain(4)
    payload = parse(made.v1(), policy)
    assert isinstance(payload, Payload)
    planned = plan(payload, policy, TIP)
    assert isinstance(planned, Plan)
    assert [job.key for job in planned.jobs] == [0, 1, 2, 3]
    assert facts(valid(made, policy=policy)) == facts(valid(made))
    within = plan(payload, POLICY, TIP)
    assert isinstance(within, Plan)
    assert (within.roots, within.jobs) == (payload.roots, ())


@pytest.mark.parametrize("kind", [builders.ALL, builders.ALL | builders.OTDA])
def test_a_digest_that_goes_through_a_long_script_is_made_in_the_sandbox(kind: int) -> None:
    """One signature; but the original digest looks at each of 400,000 instructions, 100 ms of the stage's thread."""
    parent = funding(Out(1000, p2pkh(key(1)) + b"\x6a" + b"\xab" * 400_000))
    unlocking = builders.push(b"\x30" * 71 + bytes((kind,))) + builders.push(key(1).public)
    made = bag(parent, spend([In(parent, unlock=by_script(unlocking))]), proven=[parent])
    payload = parse(made.v1(), POLICY)
    assert isinstance(payload, Payload)
    planned = plan(payload, POLICY, TIP)
    assert isinstance(planned, Plan)
    assert len(planned.jobs) == bool(kind & builders.OTDA)


def test_scripts_over_the_budget() -> None:
    parent = funding(Out(1000, b"\x51" + b"\x76\x93" * 5_000))
    made = bag(parent, spend([In(parent, unlock=by_script(b"\x51"))]), proven=[parent])
    assert code(made, policy=Policy(script_budget_ms=1)) == "policy.script-budget"


def test_scripts_over_the_size() -> None:
    parent = funding(Out(1000, b"\x51" * 5_000))
    made = bag(parent, spend([In(parent, unlock=by_script(b"\x51"))]), proven=[parent])
    assert code(made, policy=Policy(max_script_bytes=4_999)) == "policy.limits"


def test_versions_above_one_are_relaxed_from_chronicle_on() -> None:
    parent = funding()
    child = spend([In(parent, unlock=by_p2pkh(key(1), high_s=True))], version=2)
    valid(bag(parent, child, proven=[parent]))
    early = bag(parent, child, proven=[parent], height=900_000)
    assert code(early, tip=Tip(943_814, TIP.median_time_past)) == "script.malformed"
    valid(early, tip=Tip(943_815, TIP.median_time_past))


# --- the chain (ANCHOR-1)


@pytest.mark.invariant("ANCHOR-1")
@pytest.mark.parametrize(
    ("said", "height", "expected"),
    [
        (Answer.NO, 960_000, "anchor.wrong-root"),
        (Answer.NO, 960_001, "anchor.above-tip"),
        (Answer.UNKNOWN, 960_000, "anchor.unknown"),
        (Answer.UNKNOWN, 960_001, "anchor.above-tip"),
    ],
)
def test_what_the_trackers_say(said: Answer, height: int, expected: str) -> None:
    parent = funding()
    made = bag(parent, spend([In(parent)]), proven=[parent], height=height)
    assert code(made, made.answers(said)) == expected
    valid(made)


@pytest.mark.invariant("ANCHOR-1")
def test_an_answer_nobody_gave_is_unknown() -> None:
    assert code(payment(), {}) == "anchor.unknown"


@pytest.mark.invariant("ANCHOR-1")
def test_a_false_proof_is_not_made_good_by_the_others() -> None:
    parents = [funding(Out(1000), salt=n) for n in range(3)]
    made = bag(*parents, spend([In(tx) for tx in parents]), proven=parents)
    answers = dict(made.answers())
    second = made.proofs[parents[1].txid]
    answers[second.height, second.root] = Answer.NO
    found = judge(made, answers)
    assert isinstance(found, Verdict)
    assert (found.code, found.at) == ("anchor.wrong-root", "tx 1")


@pytest.mark.invariant("ANCHOR-1")
def test_a_proof_behind_a_proof_counts_as_well() -> None:
    """Whoever reads the payload later may rely on it."""
    grand = funding()
    parent = spend([In(grand)])
    made = bag(grand, parent, spend([In(parent)]), proven=[grand, parent])
    answers = dict(made.answers())
    first = made.proofs[grand.txid]
    answers[first.height, first.root] = Answer.NO
    assert code(made, answers) == "anchor.wrong-root"


def test_a_denial_counts_where_the_tip_is_not_known() -> None:
    made = payment()
    assert code(made, made.answers(Answer.NO), tip=None) == "anchor.wrong-root"
    valid(made, tip=None)


# --- new coins


@pytest.mark.parametrize(
    ("height", "expected"), [(959_901, None), (959_902, "anchor.immature"), (960_001, "anchor.above-tip")]
)
def test_new_coins_ripen_in_a_hundred_blocks(height: int, expected: str | None) -> None:
    """Made at h, they may be spent in block h + 100: with the tip at h + 99 and not before."""
    coins = coinbase(height)
    made = Bag([coins, spend([In(coins)])], {coins.txid: path(coins.txid, height, offset=0)})
    said = made.answers(Answer.YES if height <= TIP.height else Answer.UNKNOWN)
    if expected is None:
        valid(made, said)
    else:
        assert code(made, said) == expected


def test_new_coins_cannot_be_judged_without_a_tip() -> None:
    coins = coinbase(1)
    made = Bag([coins, spend([In(coins)])], {coins.txid: path(coins.txid, offset=0)})
    assert code(made, tip=None) == "anchor.unknown"


# --- finality


def locked(locktime: int, sequence: int = 0) -> Bag:
    parent = funding()
    child = spend([In(parent, sequence=sequence)], locktime=locktime)
    return bag(parent, child, spend([In(child)], [Out(1)]), proven=[parent])


@pytest.mark.parametrize(
    ("made", "final"),
    [
        (locked(960_000), True),
        (locked(960_001), False),
        (locked(960_001, FINAL), True),
        (locked(1_789_999_999), True),
        (locked(1_790_000_000), False),
        (locked(0), True),
    ],
)
def test_an_ancestor_that_is_not_final_waits(made: Bag, final: bool) -> None:
    """The next block is 960,001, and heights and times must be below it and below the median."""
    if final:
        valid(made)
        return
    found = judge(made)
    assert isinstance(found, Condition)
    assert (found.code, found.at) == ("finality.not-final", "tx 1")


def test_a_lock_cannot_be_judged_without_a_tip() -> None:
    assert code(locked(5), tip=None) == "anchor.unknown"
    valid(locked(5, FINAL), tip=None)


# --- a definite fault outranks what is unknown


@pytest.mark.parametrize(
    "made",
    [
        pytest.param(payment([Out(1001)]), id="value"),
        pytest.param(double_spends()[0], id="double spend"),
    ],
)
def test_a_fault_is_told_though_nobody_knows_the_block(made: Bag) -> None:
    for answers in ({}, made.answers(Answer.UNKNOWN)):
        assert isinstance(judge(made, answers), Verdict)


def test_a_bad_script_is_told_though_the_block_is_above_the_tip_and_the_lock_ahead() -> None:
    parent = funding()
    child = spend([In(parent, unlock=by_p2pkh(key(2)), sequence=0)], locktime=2_000_000)
    assert code(bag(parent, child, proven=[parent], height=970_000), {}) == "script.false"


# --- fees


@pytest.mark.parametrize("vector", list(conformance("fee-model-mismatch").values()), ids=lambda v: str(v["id"])[-4:])
def test_required_fees_are_rounded_as_nodes_do(vector: dict[str, dict[str, int]]) -> None:
    asked = vector["input"]
    assert required_fee(asked["size_bytes"], asked["satoshis_per_kb"]) == vector["expected"]["fee_satoshis"]
    assert required_fee(asked["size_bytes"], 0) == 0


def test_a_fee_floor_for_each_or_for_the_family() -> None:
    parent = funding(Out(10_000))
    poor = spend([In(parent)], [Out(10_000)])
    paying = spend([In(poor)], [Out(9_950)])
    made = bag(parent, poor, paying, proven=[parent])
    valid(made)
    valid(made, policy=Policy(fee_sat_per_kb=100, fee_rule="cumulative"))
    assert code(made, policy=Policy(fee_sat_per_kb=200, fee_rule="cumulative")) == "policy.fee"
    found = judge(made, policy=Policy(fee_sat_per_kb=100, fee_rule="each"))
    assert isinstance(found, Verdict)
    assert (found.code, found.at) == ("policy.fee", "tx 1")


# --- large ones


def test_diamonds_are_verified_once() -> None:
    assert len(valid(diamonds(64)).payload.unmined) == 64


def test_a_long_chain_is_verified_in_the_sandbox() -> None:
    made = chain(600)
    payload = parse(made.v1(), POLICY)
    assert isinstance(payload, Payload)
    planned = plan(payload, POLICY, TIP)
    assert isinstance(planned, Plan)
    assert len(planned.jobs) == 600
    assert len(valid(made).payload.unmined) == 600


# --- any family, with any one fault


@dataclass
class Family:
    made: Bag
    expected: str | None


@st.composite
def families(draw: st.DrawFn) -> Family:
    """A random family of signed transactions, sound but for at most one fault in one of them."""
    fault = draw(
        st.sampled_from([None, None, "value.inflation", "script.false", "structure.double-spend", "anchor.wrong-root"])
    )
    txs = [funding(*[Out(1000)] * 3, salt=n) for n in range(draw(st.integers(1, 2)))]
    free = [(tx, vout) for tx in txs for vout in range(3)]
    proven = list(txs)
    count = draw(st.integers(1, 5))
    faulty = draw(st.integers(0, count - 1))
    spent: list[tuple[Tx, int]] = []
    for number in range(count):
        last = number == count - 1
        take = len(free) if last else draw(st.integers(1, min(2, len(free))))
        mine = [free.pop(0 if last else draw(st.integers(0, len(free) - 1))) for _ in range(take)]
        total = sum(tx.satoshis(vout) for tx, vout in mine)
        ins = [In(tx, vout) for tx, vout in mine]
        outs = [Out(total // 2), Out(total - total // 2 - draw(st.integers(0, 1)))]
        if number == faulty and fault == "value.inflation":
            outs.append(Out(2))
        if number == faulty and fault == "script.false":
            ins[0] = In(*mine[0], by_p2pkh(key(9)))
        if number == faulty and fault == "structure.double-spend":
            ins.append(In(*draw(st.sampled_from(spent + mine))))
        spent += mine
        tx = spend(ins, outs)
        txs.append(tx)
        free += [(tx, 0), (tx, 1)]
    return Family(bag(*txs, proven=proven, levels=3), fault)


@SIGNED
@given(families())
def test_a_family_gets_the_verdict_it_was_made_for(family: Family) -> None:
    answers = dict(family.made.answers())
    if family.expected == "anchor.wrong-root":
        answers[next(iter(answers))] = Answer.NO
    for raw in (family.made.v1(), family.made.v2(), family.made.atomic()):
        if family.expected is None:
            assert valid(raw, answers).txid == family.made.txs[-1].txid
        else:
            assert code(raw, answers) == family.expected


def test_p2pkh_of_an_uncompressed_key_is_valid() -> None:
    parent = funding(Out(1000, p2pkh(key(4), long=True)))
    valid(bag(parent, spend([In(parent, unlock=by_p2pkh(key(4), long=True))]), proven=[parent]))
