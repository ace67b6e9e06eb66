"""Ancestors named by their txid alone (BRC-96): put in place from what is known, or refused; never believed."""

from collections.abc import Mapping
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.instruments import wire
from pipeline.ancestors import HOLDERS, complete, cut, refuse_much, resolved, shown
from pipeline.chain.answer import Answer, RootAt
from pipeline.codec.beef import write_atomic, write_beef_v1, write_beef_v2
from pipeline.codec.tx import Tx
from pipeline.outcome import Condition, Verdict
from pipeline.parse import Payload, parse
from pipeline.policy import Policy
from pipeline.verify import Valid, plan, verify
from schemas.types import Txid, display
from tests.builders import TIP, Bag, In, Out, bag, chain, coinbase, compound, diamonds, funding, spend
from tests.families import SHAPES, Family, family
from tests.pipeline.test_verify import facts, judge
from tests.profiles import SIGNED

REFUSE = Policy()
RESOLVE = Policy(txid_only="resolve")
STRICTLY = Policy(form="strict", txid_only="resolve")
FORMS = pytest.mark.parametrize("policy", [RESOLVE, STRICTLY], ids=["lenient", "strict"])

PARENT = funding(Out(1000), Out(1000))
CHILD = spend([In(PARENT)], [Out(999), Out(0, b"\x00\x6a")])
TIP_TX = spend([In(CHILD)], [Out(998)])
LINE = bag(PARENT, CHILD, TIP_TX, proven=[PARENT])


def taken(raw: bytes, policy: Policy = RESOLVE) -> Payload:
    found = parse(raw, policy)
    assert isinstance(found, Payload), found
    return found


def refused(found: object) -> tuple[str, str]:
    assert isinstance(found, Verdict), found
    return found.code, found.at


def naming(made: Bag, *named: Tx) -> bytes:
    """BEEF V2 with these transactions by their txid alone, where they stood."""
    by_txid = {tx.txid for tx in named}
    entries = made.entries()
    bumps = [made.proofs[tx.txid].bump for tx in made.txs if tx.txid in made.proofs and tx.txid not in by_txid]
    return write_beef_v2(
        bumps,
        [
            (tx.txid, -1) if tx.txid in by_txid else (raw, bumps.index(made.bumps()[bump]) if bump >= 0 else -1)
            for tx, (raw, bump) in zip(made.txs, entries, strict=True)
        ],
    )


def settled(
    raw: bytes, found: Mapping[Txid, bytes], answers: Mapping[RootAt, Answer], policy: Policy = RESOLVE
) -> Valid | Verdict | Condition:
    """A payload with what it names put in place, judged."""
    payload = parse(raw, policy)
    if isinstance(payload, Verdict):
        return payload
    whole = resolved(payload, found, policy)
    return whole if isinstance(whole, Verdict) else judge(whole.canonical(), answers, policy=policy)


# --- a payload that names ancestors


@FORMS
def test_what_is_named_is_missing_and_the_rest_is_found_as_otherwise(policy: Policy) -> None:
    payload = taken(naming(LINE, PARENT), policy)
    assert payload.missing == (PARENT.txid,)
    assert payload.subject.txid == TIP_TX.txid
    assert [tx.txid for tx in payload.unmined] == [CHILD.txid, TIP_TX.txid]
    assert payload.roots == ()
    assert not payload.repeats + payload.pruned


def test_names_are_distinct_and_in_the_order_they_are_spent() -> None:
    one, other = funding(Out(1), Out(2), salt=1), funding(Out(3), salt=2)
    child = spend([In(other), In(one), In(one, 1)], [Out(6)])
    raw = write_beef_v2([], [(one.txid, -1), (other.txid, -1), (child.raw, -1)])
    payload = taken(raw)
    assert payload.missing == (other.txid, one.txid)
    canonical = payload.canonical()
    assert canonical == write_beef_v2([], [(other.txid, -1), (one.txid, -1), (child.raw, -1)])
    assert taken(canonical).canonical() is canonical


@FORMS
@pytest.mark.parametrize("frame", [lambda raw: raw, lambda raw: write_atomic(TIP_TX.txid, raw)], ids=["v2", "atomic"])
def test_the_canonical_form_names_first_and_parses_to_the_same(policy: Policy, frame: object) -> None:
    payload = taken(frame(naming(LINE, PARENT)), policy)  # type: ignore[operator]
    again = taken(payload.canonical(), policy)
    assert again.received is payload.canonical()
    assert (again.missing, again.subject.txid, again.roots) == (payload.missing, payload.subject.txid, payload.roots)
    assert [tx.txid for tx in again.txs] == [tx.txid for tx in payload.txs]


@pytest.mark.setting("policy.txid_only")
def test_refusing_stays_the_default() -> None:
    assert refused(parse(naming(LINE, PARENT), REFUSE)) == ("structure.txid-only", "tx 1 input 0")


def test_a_name_nobody_needs_is_dropped_or_refused_as_without() -> None:
    stray = write_beef_v2(LINE.bumps(), [(funding(salt=7).txid, -1), *LINE.entries()])
    assert taken(stray).missing == ()
    assert taken(stray).canonical() == LINE.v1()
    assert refused(parse(stray, STRICTLY)) == ("structure.txid-only", "tx 0")
    both = write_beef_v2(LINE.bumps(), [(PARENT.txid, -1), *LINE.entries()])
    assert taken(both).missing == ()
    assert refused(parse(both, STRICTLY)) == ("structure.txid-only", "tx 0")


def test_a_name_twice_is_once_or_refused() -> None:
    raw = write_beef_v2([], [(CHILD.txid, -1), (CHILD.txid, -1), (TIP_TX.raw, -1)])
    assert taken(raw).missing == (CHILD.txid,)
    assert len(taken(raw).canonical()) < len(raw)
    assert refused(parse(raw, STRICTLY))[0] == "structure.repeated"


@FORMS
def test_only_a_name_stands_for_a_parent(policy: Policy) -> None:
    assert refused(parse(write_beef_v2([], [(CHILD.raw, -1)]), policy))[0] == "structure.missing-parent"
    coins = coinbase(1)
    assert refused(parse(write_beef_v2([], [(bytes(32), -1), (coins.raw, -1)]), policy))[0] == "structure.coinbase"
    named = write_atomic(CHILD.txid, write_beef_v2(LINE.bumps(), [(PARENT.raw, 0), (CHILD.txid, -1)]))
    assert refused(parse(named, policy))[0] == "structure.subject-missing"
    last = write_beef_v2([], [(CHILD.raw, -1), (PARENT.txid, -1)])
    assert refused(parse(last, policy))[0] == "structure.subject-unclear"


@pytest.mark.setting("policy.max_named")
def test_so_many_may_be_named() -> None:
    coins = [funding(Out(5), salt=n) for n in range(3)]
    child = spend([In(coin) for coin in coins], [Out(15)])
    raw = write_beef_v2([], [*((coin.txid, -1) for coin in coins), (child.raw, -1)])
    assert len(taken(raw, Policy(txid_only="resolve", max_named=3)).missing) == 3
    assert refused(parse(raw, Policy(txid_only="resolve", max_named=2)))[0] == "policy.limits"


@pytest.mark.invariant("NAMED-1")
def test_what_is_not_complete_can_be_neither_planned_nor_verified() -> None:
    payload = taken(naming(LINE, PARENT))
    with pytest.raises(ValueError, match="named alone"):
        plan(payload, RESOLVE, TIP)
    with pytest.raises(ValueError, match="named alone"):
        verify(payload, {}, {}, TIP, RESOLVE)


# --- what can be shown


def test_a_verified_payload_shows_its_proven_and_its_unmined() -> None:
    assert shown(LINE.v1()) == [PARENT.txid, CHILD.txid, TIP_TX.txid]


def test_what_stands_behind_a_proof_without_its_own_ancestry_is_not_shown() -> None:
    proven = bag(PARENT, CHILD, TIP_TX, proven=[CHILD])
    assert shown(proven.v1()) == [CHILD.txid, TIP_TX.txid]
    assert cut(proven.v1(), [PARENT.txid]) == {}


def test_bytes_that_are_no_payload_show_nothing() -> None:
    for raw in (b"", b"\x01\x00\xbe\xef", LINE.v1()[:-1], LINE.v1() + b"\0"):
        assert shown(raw) == []
        assert cut(raw, [PARENT.txid]) == {}


def test_a_part_is_what_is_needed_and_no_more() -> None:
    side = spend([In(PARENT, 1)], [Out(1)])
    join = spend([In(TIP_TX), In(side)], [Out(9)])
    whole = bag(PARENT, CHILD, TIP_TX, side, join, proven=[PARENT])
    assert cut(whole.v1(), [CHILD.txid]) == {CHILD.txid: bag(PARENT, CHILD, proven=[PARENT]).v1()}
    assert cut(whole.v1(), [PARENT.txid]) == {PARENT.txid: bag(PARENT, proven=[PARENT]).v1()}
    several = cut(whole.v1(), [side.txid, CHILD.txid, bytes(32)])
    assert several.keys() == {side.txid, CHILD.txid}
    assert several[side.txid] is several[CHILD.txid]
    assert several[side.txid] == bag(PARENT, CHILD, side, proven=[PARENT]).v1()


# --- put in place


@FORMS
@pytest.mark.parametrize("named", [PARENT, CHILD], ids=["proven", "un-mined"])
def test_a_completed_payload_is_the_whole_one(policy: Policy, named: Tx) -> None:
    kept = [tx for tx in LINE.txs if tx is not named and not (named is CHILD and tx is PARENT)]
    raw = write_beef_v2([], [(named.txid, -1), *((tx.raw, -1) for tx in kept)])
    payload = taken(raw, policy)
    assert complete(payload, cut(LINE.v1(), [named.txid])) == LINE.v1()
    assert complete(payload, {named.txid: LINE.v1()}) == LINE.v1()
    whole = resolved(payload, {named.txid: LINE.v1()}, policy)
    assert isinstance(whole, Payload)
    assert (whole.missing, whole.received) == ((), LINE.v1())


@pytest.mark.parametrize("found", [{}, {CHILD.txid: b"rot"}, {CHILD.txid: bag(PARENT, proven=[PARENT]).v1()}])
def test_what_is_not_known_is_refused_by_its_place(found: Mapping[Txid, bytes]) -> None:
    """Not known, or remembered wrongly: to the sender it is the same."""
    payload = taken(write_beef_v2([], [(CHILD.txid, -1), (TIP_TX.raw, -1)]))
    verdict = resolved(payload, found, RESOLVE)
    assert isinstance(verdict, Verdict)
    assert (verdict.code, verdict.at, verdict.message) == ("structure.txid-only", "tx 1 input 0", display(CHILD.txid))


def test_what_the_payload_says_itself_stands() -> None:
    """It brings the coin un-mined, with its ancestors; what is remembered has a proof of the coin by now."""
    side = spend([In(CHILD, 1)], [Out(0)])
    join = spend([In(TIP_TX), In(side)], [Out(990)])
    remembered = bag(CHILD, side, proven=[CHILD])
    mine = write_beef_v2(
        LINE.bumps(), [(side.txid, -1), (PARENT.raw, 0), (CHILD.raw, -1), (TIP_TX.raw, -1), (join.raw, -1)]
    )
    whole = complete(taken(mine), {side.txid: remembered.v1()})
    assert isinstance(whole, bytes)
    payload = taken(whole, STRICTLY)
    assert [tx.txid for tx in payload.txs if tx.proven] == [PARENT.txid]
    assert {tx.txid for tx in payload.unmined} == {CHILD.txid, TIP_TX.txid, side.txid, join.txid}


def test_of_two_proofs_of_one_transaction_the_first_stands() -> None:
    one, other = spend([In(PARENT, 0)], [Out(5)]), spend([In(PARENT, 1)], [Out(6)])
    join = spend([In(one), In(other)], [Out(11)])
    payload = taken(write_beef_v2([], [(one.txid, -1), (other.txid, -1), (join.raw, -1)]))
    first = bag(PARENT, one, proven=[PARENT], height=950_000).v1()
    second = bag(PARENT, other, proven=[PARENT], height=951_000).v1()
    whole = resolved(payload, {one.txid: first, other.txid: second}, RESOLVE)
    assert isinstance(whole, Payload)
    assert [height for height, _ in whole.roots] == [950_000]
    assert len(whole.txs) == 4


def test_one_that_stands_behind_the_payloads_own_proof_is_taken_from_elsewhere_where_it_is_needed() -> None:
    """The payload holds the parent behind its child's proof, without ancestors; another named one spends it as well."""
    grand = funding(Out(5000), salt=3)
    parent = spend([In(grand)], [Out(1000), Out(1000)])
    mined, named = spend([In(parent, 0)], [Out(999)]), spend([In(parent, 1)], [Out(998)])
    join = spend([In(mined), In(named)], [Out(1990)])
    mine = bag(parent, mined, proven=[mined])
    raw = write_beef_v2(mine.bumps(), [(named.txid, -1), (parent.raw, -1), (mined.raw, 0), (join.raw, -1)])
    remembered = bag(grand, parent, named, proven=[grand], height=951_000)
    answers = {**mine.answers(), **remembered.answers()}
    judged = settled(raw, {named.txid: remembered.v1()}, answers)
    assert isinstance(judged, Valid), judged
    assert [tx.txid for tx in judged.payload.unmined] == [parent.txid, named.txid, join.txid]


def test_a_remembered_proof_that_does_not_fit_the_payloads_own_is_for_the_sender_to_replace() -> None:
    """After a reorganisation: the payload proves its block, what is remembered another at that height."""
    other = funding(Out(50), salt=9)
    join = spend([In(PARENT), In(other)], [Out(1049)])
    mine = compound([bytes([1]) * 32, other.txid], [1])
    raw = write_beef_v2([mine.bump], [(PARENT.txid, -1), (other.raw, 0), (join.raw, -1)])
    verdict = resolved(taken(raw), {PARENT.txid: bag(PARENT, proven=[PARENT]).v1()}, RESOLVE)
    assert refused(verdict)[0] == "structure.txid-only"


@pytest.mark.invariant("NAMED-1")
@pytest.mark.parametrize("said", [Answer.NO, Answer.UNKNOWN])
def test_a_remembered_proof_is_asked_about_again(said: Answer) -> None:
    raw = naming(LINE, PARENT)
    found = cut(LINE.v1(), [PARENT.txid])
    assert isinstance(settled(raw, found, LINE.answers()), Valid)
    judged = settled(raw, found, LINE.answers(said))
    assert not isinstance(judged, Valid)
    assert judged.code == ("anchor.wrong-root" if said is Answer.NO else "anchor.unknown")


@pytest.mark.invariant("NAMED-1")
def test_a_remembered_script_and_value_are_judged_again() -> None:
    """A memory that holds what never was valid lets nothing pass."""
    forged = spend([In(PARENT, unlock=lambda _: b"\x51")], [Out(999)])
    rich = spend([In(PARENT)], [Out(5000)])
    for bad, code in ((forged, "script.false"), (rich, "value.inflation")):
        tip = spend([In(bad)], [Out(10)])
        raw = write_beef_v2([], [(bad.txid, -1), (tip.raw, -1)])
        memory = bag(PARENT, bad, proven=[PARENT])
        judged = settled(raw, cut(memory.v1(), [bad.txid]), memory.answers())
        assert not isinstance(judged, Valid)
        assert judged.code in (code, "script.malformed")


def test_a_spend_within_what_is_put_together_is_seen() -> None:
    rival = spend([In(PARENT)], [Out(900)])
    join = spend([In(CHILD), In(rival)], [Out(1)])
    raw = write_beef_v2([], [(CHILD.txid, -1), (rival.txid, -1), (join.raw, -1)])
    found = {CHILD.txid: LINE.v1(), rival.txid: bag(PARENT, rival, proven=[PARENT]).v1()}
    assert refused(settled(raw, found, LINE.answers()))[0] == "structure.double-spend"


def test_limits_hold_for_what_is_completed() -> None:
    line = chain(30)
    raw = write_beef_v2([], [(line.txs[-2].txid, -1), (line.txs[-1].raw, -1)])
    found = cut(line.v1(), [line.txs[-2].txid])
    short = Policy(txid_only="resolve", max_payload_bytes=1024)
    assert refused(resolved(taken(raw, short), found, short))[0] == "malformed.too-large"
    shallow = Policy(txid_only="resolve", max_depth=29)
    assert refused(resolved(taken(raw, shallow), found, shallow))[0] == "policy.limits"


@pytest.mark.setting("policy.max_named_bytes")
def test_so_much_may_be_put_in_place_of_names() -> None:
    raw = write_beef_v2([], [(CHILD.txid, -1), (TIP_TX.raw, -1)])
    more = len(LINE.v1()) - len(raw)
    for most, code in ((more, ""), (more - 1, "policy.limits")):
        policy = Policy(txid_only="resolve", max_named_bytes=most)
        found = resolved(taken(raw, policy), {CHILD.txid: LINE.v1()}, policy)
        assert (found.code if isinstance(found, Verdict) else "") == code


def test_what_would_have_to_be_read_is_bounded() -> None:
    most = HOLDERS * RESOLVE.max_payload_bytes
    assert refuse_much([most - 1, 1], RESOLVE) is None
    assert refused(refuse_much([most, 1], RESOLVE))[0] == "policy.limits"


@pytest.mark.parametrize("made", [chain(1500), diamonds(300)], ids=["deep", "many ways"])
def test_depth_and_many_ways_cost_nothing_special(made: Bag) -> None:
    raw = write_beef_v2([], [(made.txs[-2].txid, -1), (made.txs[-1].raw, -1)])
    assert complete(taken(raw), cut(made.v1(), [made.txs[-2].txid])) == made.v1()


# --- any family


class _Naming:
    """A family's payload with some ancestors by name, and pieces of it in which they are found."""

    def __init__(self, found: Family, draw: Random) -> None:
        whole = parse(found.framed["v1"], REFUSE)
        assert isinstance(whole, Payload)
        self.whole = whole
        by_txid = {tx.txid: tx for tx in whole.txs}
        parents = {tx.outpoint(vin)[:32] for tx in whole.unmined for vin in range(len(tx.ins) - 1)}
        share = draw.random()
        names = {txid for txid in sorted(parents) if draw.random() < share}
        kept = {whole.subject.txid}
        self.named = set[Txid]()
        stacks = ([whole.subject.txid], list[Txid]())  # un-mined ones, then those behind proofs
        for stack, unmined in zip(stacks, (True, False), strict=True):
            while stack:
                tx = by_txid[stack.pop()]
                for parent in {tx.outpoint(vin)[:32] for vin in range(len(tx.ins) - 1)}:
                    if unmined and parent in names:
                        self.named.add(parent)
                    elif parent in by_txid and parent not in kept | names:
                        kept.add(parent)
                        stacks[by_txid[parent].proven or not unmined].append(parent)
        txs = [tx for tx in whole.txs if tx.txid in kept]
        bumps = sorted({tx.bump for tx in txs if tx.proven}, key=lambda _: draw.random())
        entries = [wire.Entry(tx.raw, bumps.index(tx.bump) if tx.proven else None) for tx in txs]
        for txid in sorted(self.named):
            entries.insert(draw.randrange(len(entries)), wire.Entry(txid, txid_only=True))
        body = wire.write_beef([whole.bumps[bump].raw for bump in bumps], entries, "v2")
        self.frames = [body, wire.ATOMIC + whole.subject.txid + body]

    def pieces(self, draw: Random) -> dict[Txid, bytes]:
        """Each name alone, with others, or in the whole payload."""
        canonical = self.whole.canonical()
        names, found = sorted(self.named, key=lambda _: draw.random()), dict[Txid, bytes]()
        while names:
            some = [names.pop() for _ in range(draw.randint(1, len(names)))]
            one = cut(canonical, some) if draw.random() < 0.7 else dict.fromkeys(some, canonical)
            found |= one
        return found


@pytest.mark.invariant("NAMED-1")
@pytest.mark.parametrize("shape", list(SHAPES))
@given(seed=st.integers(0, 10_000))
@SIGNED
def test_any_ancestors_by_name_give_what_the_whole_payload_gives(shape: str, seed: int) -> None:
    """Same verdict, txid, Extended Format and fee; and with one of them unknown, the one code for it."""
    draw = Random(seed)
    found = family(seed, shape=shape)
    made = _Naming(found, draw)
    expected = judge(found.framed["v1"], found.answers, found.tip)
    assert isinstance(expected, Valid)
    for raw in made.frames:
        for policy in (RESOLVE, STRICTLY):
            payload = taken(raw, policy)
            assert set(payload.missing) == made.named
            assert taken(payload.canonical(), policy).canonical() == payload.canonical()
            pieces = made.pieces(draw)
            whole = resolved(payload, pieces, policy)
            assert isinstance(whole, Payload), whole
            assert whole.received is not None, "what is completed is in canonical form"
            judged = judge(whole.canonical(), found.answers, found.tip, policy)
            assert isinstance(judged, Valid), judged
            assert facts(judged) == facts(expected)
            for txid in made.named:
                less = {name: piece for name, piece in pieces.items() if name != txid and txid not in shown(piece)}
                if txid not in {one for piece in less.values() for one in shown(piece)}:
                    assert refused(resolved(payload, less, policy))[0] == "structure.txid-only"


@given(seed=st.integers(0, 10_000))
@SIGNED
def test_a_defect_is_found_wherever_it_stands(seed: int) -> None:
    """In what the payload brings or in what is remembered: the verdict is that of the whole payload."""
    draw = Random(seed)
    defect = draw.choice(["inflation", "not unlocked", "spent across", "root denied", "root unknown", "locked"])
    found = family(seed, defect)
    made = _Naming(found, draw)
    expected = judge(found.framed["v1"], found.answers, found.tip)
    assert not isinstance(expected, Valid)
    payload = taken(made.frames[1])
    whole = resolved(payload, made.pieces(draw), RESOLVE)
    assert isinstance(whole, Payload), whole
    judged = judge(whole.canonical(), found.answers, found.tip)
    assert not isinstance(judged, Valid)
    assert judged.code == expected.code


def test_the_remembered_may_be_of_any_frame_of_proofs() -> None:
    """Two names proven by one compound path: the path stands once."""
    coins = [funding(Out(10), salt=n) for n in range(2)]
    proof = compound([bytes([7]) * 32, coins[0].txid, coins[1].txid], [1, 2])
    memory = write_beef_v1([proof.bump], [(coins[0].raw, 0), (coins[1].raw, 0)])
    join = spend([In(coin) for coin in coins], [Out(20)])
    payload = taken(write_beef_v2([], [*((coin.txid, -1) for coin in coins), (join.raw, -1)]))
    found = {coin.txid: cut(memory, [coin.txid])[coin.txid] for coin in coins}
    whole = resolved(payload, found, STRICTLY)
    assert isinstance(whole, Payload)
    assert [bump.raw for bump in whole.bumps] == [proof.bump]
