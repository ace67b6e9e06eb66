"""Payloads put together into one BEEF: every transaction that was taken is the subject of one that holds."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from pipeline import bag as module
from pipeline.bag import ENTRY_BYTES, Bag
from pipeline.chain.answer import RootAt
from pipeline.codec.beef import read_beef, write_atomic, write_beef_v1
from pipeline.codec.reader import Malformed
from pipeline.codec.tx import Tx, read_tx
from pipeline.parse import Payload, parse
from pipeline.policy import Policy
from pipeline.verify import Valid
from schemas.types import Txid, display, outpoint
from tests import builders
from tests.builders import Proof
from tests.pipeline.test_verify import judge
from tests.profiles import CHEAP, much

POLICY = Policy()


def parents(tx: Tx) -> set[Txid]:
    return {tx.outpoint(vin)[:32] for vin in range(len(tx.ins) - 1)}


def payload_of(subject: Tx, all_: Mapping[Txid, Tx], proofs: Mapping[Txid, Proof], more: Iterable[Txid] = ()) -> bytes:
    """The subject down to proven ones, and what else a sender put in, ancestors first."""
    needed, stack = set(more), [subject.txid]
    while stack:
        txid = stack.pop()
        needed.add(txid)
        if txid not in proofs:
            stack += parents(all_[txid])
    txs = [tx for tx in all_.values() if tx.txid in needed]
    return builders.Bag(txs, {txid: proof for txid, proof in proofs.items() if txid in needed}).v1()


class World(Struct):
    """Transactions in order, and which proofs they have at two times: at the second one more."""

    txs: dict[Txid, Tx]
    proofs: list[dict[Txid, Proof]]
    payloads: list[tuple[int, int, bool]]  # which transaction, at which time, with all its ancestors


@st.composite
def worlds(draw: st.DrawFn) -> World:
    txs: list[Tx] = []
    for number in range(draw(st.integers(2, 8))):
        made = [outpoint(tx.txid, vout) for tx in txs for vout in range(2)]
        others = [hashlib.sha256(b"others %d" % each).digest() + bytes(4) for each in range(2)]
        spends = draw(st.lists(st.sampled_from(made + others), min_size=1, max_size=3, unique=True))
        entries = [(point, builders.push(b"number %06d" % number), builders.FINAL) for point in spends]
        txs.append(read_tx(builders.raw_tx(entries, [builders.Out(1_000 + number), builders.Out(5)])))
    known = {tx.txid: tx for tx in txs}
    # Without all of its parents a transaction is nowhere un-mined: it has a proof from the first.
    must = {tx.txid for tx in txs if not parents(tx) <= known.keys()}
    first = must | draw(st.sets(st.sampled_from(list(known)), max_size=2))
    second = first | draw(st.sets(st.sampled_from(list(known)), max_size=3))
    together = draw(st.booleans())
    proofs = [
        {txid: proof for each in ([early, late - early]) for txid, proof in _mined(txs, each, together).items()}
        for early, late in ((first, first), (first, second))
    ]
    payloads = draw(
        st.lists(st.tuples(st.integers(0, len(txs) - 1), st.integers(0, 1), st.booleans()), min_size=1, max_size=6)
    )
    return World(known, proofs, payloads)


def _mined(txs: Sequence[Tx], proven: Iterable[Txid], together: bool) -> dict[Txid, Proof]:
    """Each in a block of its own, or all that come at one time in one."""
    leaves = [tx.txid for tx in txs if tx.txid in set(proven)]
    if not together or not leaves:
        places = {tx.txid: number for number, tx in enumerate(txs)}
        return {txid: builders.path(txid, 900_000 + places[txid], 3) for txid in leaves}
    block = [hashlib.sha256(b"".join(leaves)).digest(), *leaves]
    height = 800_000 + int.from_bytes(block[0][:2], "big")
    proof = builders.compound(block, range(1, len(block)), height)
    return dict.fromkeys(leaves, proof)


def taken_apart(beef: bytes, subjects: Iterable[Txid]) -> dict[Txid, Payload]:
    """By subject, what our own parser makes of it."""
    found: dict[Txid, Payload] = {}
    for subject in subjects:
        payload = parse(write_atomic(subject, beef), POLICY)
        assert isinstance(payload, Payload), payload
        assert payload.subject.txid == subject
        found[subject] = payload
    return found


@settings(CHEAP, max_examples=much(300, 20_000))
@given(worlds())
def test_each_is_the_subject_of_what_is_put_together(world: World) -> None:
    """Down to what any payload proved; nothing stands twice, behind a child of its, or for nothing."""
    bag = Bag()
    subjects: dict[Txid, None] = {}
    seen: set[tuple[Txid, bytes]] = set()
    for which, when, more in world.payloads:
        subject = list(world.txs.values())[which]
        proofs = world.proofs[when]
        ancestors = _ancestors(world.txs, subject) if more else ()
        payload = payload_of(subject, world.txs, proofs, ancestors)
        assert isinstance(parse(payload, POLICY), Payload)
        assert bag.add(subject.txid, payload)
        subjects[subject.txid] = None
        seen |= {(txid, proof.bump) for txid, proof in proofs.items()}
        assert len(bag.beef()) <= bag._size
    beef = bag.beef()
    taken_apart(beef, subjects)
    envelope = read_beef(beef, 100, 100)
    order = [tx.txid for tx in envelope.txs]
    assert len(set(order)) == len(order) == envelope.entries
    assert {tx.bump for tx in envelope.txs if tx.proven} == set(range(len(envelope.bumps)))
    for place, tx in enumerate(envelope.txs):
        assert tx.raw == world.txs[tx.txid].raw
        assert not parents(tx) & set(order[place:])
        if tx.proven:
            assert (tx.txid, envelope.bumps[tx.bump].raw) in seen
    reached, stack = set(), list(subjects)
    by_txid = {tx.txid: tx for tx in envelope.txs}
    while stack:
        txid = stack.pop()
        reached.add(txid)
        if not by_txid[txid].proven:
            stack += parents(by_txid[txid])
    assert reached == set(order)


def _ancestors(txs: Mapping[Txid, Tx], subject: Tx) -> set[Txid]:
    found: set[Txid] = set()
    stack = [subject.txid]
    while stack:
        for parent in parents(txs[stack.pop()]) & txs.keys():
            if parent not in found:
                found.add(parent)
                stack.append(parent)
    return found


@settings(CHEAP, max_examples=much(100, 5_000))
@given(worlds())
def test_one_payload_alone_is_itself_but_for_what_stands_behind_proofs(world: World) -> None:
    which, when, _ = world.payloads[0]
    subject = list(world.txs.values())[which]
    payload = payload_of(subject, world.txs, world.proofs[when])
    bag = Bag()
    assert bag.add(subject.txid, payload)
    found, given_ = parse(bag.beef(), POLICY), parse(payload, POLICY)
    assert isinstance(found, Payload)
    assert isinstance(given_, Payload)
    assert found.canonical() == bag.beef()
    assert {tx.raw for tx in found.txs} == {tx.raw for tx in given_.txs}
    assert set(found.roots) == set(given_.roots)


def test_what_is_put_together_verifies() -> None:
    """Signatures, values and roots: of a line, of diamonds, and of a payment that shares a parent with another."""
    line, diamonds = builders.chain(3), builders.diamonds(3)
    funding = builders.funding(builders.Out(1_000), builders.Out(2_000), salt=9)
    one, two = (builders.spend([builders.In(funding, vout)], [builders.Out(999 + vout)]) for vout in range(2))
    shared = [builders.bag(funding, tx, proven=[funding], height=960_000 - 10) for tx in (one, two)]
    bag, answers = Bag(), dict[RootAt, object]()
    given_ = [line, builders.Bag(line.txs[:3], line.proofs), diamonds, *shared]
    for number, each in enumerate(given_):
        if number == 2:  # its proof is at the height of the line's
            proof = builders.path(each.txs[0].txid, 950_007)
            each = builders.Bag(each.txs, {each.txs[0].txid: proof})
        assert bag.add(each.txs[-1].txid, each.v1())
        answers |= each.answers()
    beef = bag.beef()
    assert len(read_beef(beef, 100, 100).txs) == len(line.txs) + len(diamonds.txs) + 3
    for each in given_:
        subject = each.txs[-1].txid
        found = judge(write_atomic(subject, beef), answers)  # type: ignore[arg-type]
        assert isinstance(found, Valid), found
        assert found.txid == subject


def mined(tx: Tx, height: int, levels: int = 3) -> bytes:
    """A payload of one that is in a block. levels: of another block, other hashes."""
    return builders.Bag([tx], {tx.txid: builders.path(tx.txid, height, levels)}).v1()


def test_payloads_of_two_chains_do_not_come_together() -> None:
    """One height has one root: what contradicts is not taken, and nothing else of its payload either."""
    one, two = builders.funding(salt=1), builders.funding(salt=2)
    child = builders.spend([builders.In(two)])
    bag = Bag()
    assert bag.add(one.txid, mined(one, 900_000))
    before = bag.beef()
    assert not bag.add(child.txid, builders.bag(two, child, proven=[two], height=900_000).v1())
    assert not bag.add(two.txid, mined(two, 900_000))
    assert bag.beef() == before
    assert bag.add(two.txid, mined(two, 900_001))
    taken_apart(bag.beef(), [one.txid, two.txid])


def test_a_proof_of_another_chain_is_left_where_ancestors_are_held() -> None:
    """What was taken without a proof stays so: it holds by its ancestors."""
    root, other = builders.funding(salt=1), builders.funding(salt=2)
    tx = builders.spend([builders.In(root)])
    child = builders.spend([builders.In(tx)])
    bag = Bag()
    assert bag.add(other.txid, mined(other, 900_005))
    assert bag.add(tx.txid, builders.bag(root, tx, proven=[root], height=900_000).v1())
    assert bag.add(child.txid, builders.bag(tx, child, proven=[tx], height=900_005).v1())
    apart = taken_apart(bag.beef(), [other.txid, tx.txid, child.txid])
    assert [each.txid for each in apart[child.txid].unmined] == [tx.txid, child.txid]


def test_a_proof_that_comes_later_takes_the_place_of_ancestors() -> None:
    root = builders.funding(salt=1)
    tx = builders.spend([builders.In(root)])
    bag = Bag()
    first, second = builders.bag(root, tx, proven=[root]).v1(), mined(tx, 900_000)
    assert bag.add(tx.txid, first)
    # The transaction is there, and counts no second time.
    assert bag.add(tx.txid, second, most_bytes=len(first) + len(second) - len(tx.raw) + 3 * ENTRY_BYTES)
    assert [each.txid for each in read_beef(bag.beef(), 9, 9).txs] == [tx.txid]


def test_what_is_too_much_is_not_taken_unless_it_comes_first() -> None:
    one, two = builders.funding(salt=1), builders.funding(salt=2)
    first, second = mined(one, 900_000), mined(two, 900_001)
    bag = Bag()
    assert bag.add(one.txid, first, most_bytes=10)
    before = bag.beef()
    assert not bag.add(two.txid, second, most_bytes=len(first) + len(second))
    assert bag.beef() == before
    assert bag.add(two.txid, second, most_bytes=len(first) + len(second) + 3 * ENTRY_BYTES)


@pytest.mark.parametrize("limit", ["max_transactions", "max_bumps"])
def test_no_more_is_put_together_than_a_payload_may_hold(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_POLICY", msgspec.structs.replace(POLICY, **{limit: 2}))
    bag = Bag()
    for number in range(2):
        tx = builders.funding(salt=number)
        assert bag.add(tx.txid, mined(tx, 900_000 + number))
    third = builders.funding(salt=3)
    assert not bag.add(third.txid, mined(third, 900_003))


@pytest.mark.parametrize("what", ["no BEEF", "another", "without its parent", "a false proof"])
def test_what_is_no_payload_of_the_transaction_is_said(what: str) -> None:
    root, other = builders.funding(salt=1), builders.funding(salt=2)
    tx = builders.spend([builders.In(root)])
    beef = {
        "no BEEF": b"BEEF",
        "another": mined(other, 900_000),
        "without its parent": builders.Bag([tx]).v1(),
        "a false proof": write_beef_v1([builders.path(other.txid).bump], [(tx.raw, 0)]),
    }[what]
    with pytest.raises(Malformed):
        Bag().add(tx.txid, beef)


def test_the_same_transaction_again_changes_nothing() -> None:
    made = builders.diamonds(4)
    bag = Bag()
    for _ in range(3):
        assert bag.add(made.txs[-1].txid, made.v1())
    assert bag.beef() == made.v1(), display(made.txs[-1].txid)
