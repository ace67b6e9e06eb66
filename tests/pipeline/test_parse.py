"""Bytes to a payload: what honest senders really send, what nobody should, and what no bytes may do."""

from unittest.mock import patch

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.codec.beef import read_beef, write_atomic, write_beef_v1, write_beef_v2
from pipeline.codec.bump import Bump, write_bump
from pipeline.codec.quick import not_quick, quick_payload
from pipeline.codec.tx import Tx
from pipeline.outcome import BY_CODE, Verdict
from pipeline.parse import Payload, parse
from pipeline.policy import Policy
from schemas.types import display, from_display
from tests import builders
from tests.builders import Bag, In, Out, Proof, bag, chain, compound, diamonds, funding, path, payment, spend
from tests.profiles import CHEAP, SIGNED, much
from tests.vectors import conformance, load, universal

LENIENT = Policy()
STRICT = Policy(form="strict")


def taken(raw: bytes, policy: Policy = LENIENT) -> Payload:
    found = parse(raw, policy)
    assert isinstance(found, Payload), found
    return found


def refused(raw: bytes, policy: Policy = LENIENT) -> Verdict:
    found = parse(raw, policy)
    assert isinstance(found, Verdict), found
    assert BY_CODE[found.code].kind == "verdict"
    return found


def txids(payload: Payload) -> list[bytes]:
    return [tx.txid for tx in payload.txs]


# --- published payloads


@pytest.mark.parametrize("key", ["beef_hex", "beef_v2_hex", "atomic_beef_hex"])
@pytest.mark.parametrize("name", list(universal()))
def test_universal_payloads_are_taken_leniently_and_become_one_canonical_form(name: str, key: str) -> None:
    vector = universal()[name]
    payload = taken(bytes.fromhex(vector[key]))
    assert display(payload.subject.txid) == vector["tx_id"]
    assert payload.unmined == [payload.subject]
    assert payload.canonical().hex() == vector["beef_hex"]
    assert refused(bytes.fromhex(vector[key]), STRICT).code == "structure.coinbase"


@pytest.mark.parametrize("policy", [LENIENT, STRICT], ids=["lenient", "strict"])
@pytest.mark.parametrize("vector", load("mainnet/payloads.json")["payloads"], ids=lambda p: str(p["txid"])[:8])
def test_mainnet_payloads_are_taken_by_both_forms(vector: dict[str, str], policy: Policy) -> None:
    raw = bytes.fromhex(vector["beef"])
    payload = taken(raw, policy)
    assert display(payload.subject.txid) == vector["txid"]
    assert len(payload.unmined) == int(vector["unmined"])
    roots = load("mainnet/payloads.json")["roots"]
    assert payload.roots == tuple((h, from_display(roots[str(h)])) for h, _ in payload.roots)
    assert payload.canonical() is raw


def test_conformance_payloads() -> None:
    vector = conformance("beef-isvalid-hydration")["regression.beef.isvalid-hydration.0001"]
    assert len(taken(bytes.fromhex(vector["input"]["beef_hex"])).txs) == 2
    for found in conformance("beef-v2-txid-panic").values():
        code = refused(bytes.fromhex(found["input"]["beef_hex"])).code
        assert code in ("structure.no-transactions", "malformed.trailing-bytes")
    assert taken(bytes.fromhex(conformance("serialization")["tx-003"]["input"]["beef_hex"])).unmined


# --- what comes out


def test_a_payment_is_its_subject_and_a_proven_parent() -> None:
    made = payment()
    parent, child = made.txs
    payload = taken(made.v1(), STRICT)
    assert (payload.subject.txid, txids(payload)) == (child.txid, [parent.txid, child.txid])
    assert [tx.txid for tx in payload.unmined] == [child.txid]
    assert payload.subject.parents == [payload.txs[0]]
    proof = made.proofs[parent.txid]
    assert payload.roots == ((proof.height, proof.root),)
    assert payload.txs[0].leaf == (1 << 12) * 5 // 8 + 1


def test_a_proven_subject_has_nothing_un_mined() -> None:
    parent = funding()
    child = spend([In(parent)])
    payload = taken(bag(parent, child, proven=[child]).v1())
    assert payload.unmined == []
    assert [tx.txid for tx in payload.txs] == [parent.txid, child.txid]


def test_what_stands_behind_a_proof_needs_none() -> None:
    """Its txid is in a proven transaction's bytes: it is mined, whether its own parents are there or not."""
    grandparent = spend([In(funding())])
    parent = spend([In(grandparent)])
    child = spend([In(parent)])
    payload = taken(bag(grandparent, parent, child, proven=[parent]).v1(), STRICT)
    assert [tx.txid for tx in payload.unmined] == [child.txid]
    assert len(payload.txs) == 3


def test_the_same_block_is_asked_about_once() -> None:
    parents = [funding(salt=n) for n in range(3)]
    proof = compound([tx.txid for tx in parents] + [bytes(31) + b"\x01"] * 1, range(3))
    child = spend([In(tx) for tx in parents], [Out(2000)])
    made = Bag([*parents, child], {tx.txid: proof for tx in parents})
    payload = taken(made.v1())
    assert payload.roots == ((proof.height, proof.root),)
    assert [tx.leaf for tx in payload.txs[:3]] == [0, 1, 2]
    assert len(payload.bumps) == 1


# --- strict and lenient

PARENT, CHILD = payment().txs
GRANDCHILD = spend([In(CHILD)], [Out(998)])
STRANGER = funding(salt=7)
LINE = bag(PARENT, CHILD, GRANDCHILD, proven=[PARENT])


def reordered(*txs: Tx, v2: bool = False) -> bytes:
    made = Bag(list(txs), LINE.proofs)
    return made.v2() if v2 else made.v1()


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        pytest.param(reordered(PARENT, CHILD, PARENT, GRANDCHILD), "structure.repeated", id="parent twice"),
        pytest.param(reordered(PARENT, CHILD, CHILD, GRANDCHILD), "structure.repeated", id="child twice"),
        pytest.param(reordered(PARENT, CHILD, GRANDCHILD, GRANDCHILD), "structure.repeated", id="subject twice"),
        pytest.param(reordered(CHILD, PARENT, GRANDCHILD), "structure.order", id="child first"),
        pytest.param(reordered(GRANDCHILD, CHILD, PARENT), "structure.order", id="all turned round"),
        pytest.param(reordered(CHILD, GRANDCHILD, PARENT, v2=True), "structure.order", id="turned round, V2"),
        pytest.param(reordered(STRANGER, PARENT, CHILD, GRANDCHILD), "structure.unrelated", id="unrelated"),
        pytest.param(
            write_atomic(GRANDCHILD.txid, reordered(PARENT, CHILD, GRANDCHILD, spend([In(GRANDCHILD)], [Out(1)]))),
            "structure.unrelated",
            id="a descendant in Atomic BEEF",
        ),
        pytest.param(
            write_beef_v1(
                [path(STRANGER.txid).bump, *LINE.bumps()], [(r, b + 1 if b >= 0 else b) for r, b in LINE.entries()]
            ),
            "structure.unused-bump",
            id="a proof nobody uses",
        ),
        pytest.param(
            write_beef_v2(LINE.bumps(), [(STRANGER.txid, -1), *LINE.entries()]), "structure.txid-only", id="txid alone"
        ),
    ],
)
def test_what_honest_senders_do_is_mended_leniently_and_refused_strictly(raw: bytes, code: str) -> None:
    assert refused(raw, STRICT).code == code
    payload = taken(raw)
    assert payload.canonical() == LINE.v1()
    assert payload.repeats + payload.pruned or code in ("structure.order", "structure.unused-bump")


def test_a_repeat_may_bring_the_proof() -> None:
    """The un-mined copy came first; the proof counts wherever it is said."""
    raw = write_beef_v1(LINE.bumps(), [(PARENT.raw, -1), (CHILD.raw, -1), (PARENT.raw, 0), (GRANDCHILD.raw, -1)])
    assert taken(raw).canonical() == LINE.v1()


def test_two_proofs_of_one_transaction_must_say_the_same() -> None:
    leaves = [PARENT.txid, *(bytes([n]) * 32 for n in range(1, 8))]
    one, other = compound(leaves, [0]), compound(leaves, [0, 5])
    same = write_beef_v1([one.bump, other.bump], [(PARENT.raw, 0), (PARENT.raw, 1), (CHILD.raw, -1)])
    assert taken(same).roots == ((one.height, one.root),)
    for elsewhere in (compound(leaves, [0], one.height + 1), compound([*leaves[:4], bytes(32)], [0])):
        raw = write_beef_v1([one.bump, elsewhere.bump], [(PARENT.raw, 0), (PARENT.raw, 1), (CHILD.raw, -1)])
        assert refused(raw).code == "structure.repeated"


def test_a_whole_block_in_one_level_is_form() -> None:
    leaves = [PARENT.txid, *(bytes([n]) * 32 for n in range(1, 5))]
    bump = write_bump(1_000, [dict(enumerate(leaves))], {0})
    raw = write_beef_v1([bump], [(PARENT.raw, 0), (CHILD.raw, -1)])
    assert taken(raw).roots == ((1_000, builders.tree(leaves)[-1][0]),)
    assert refused(raw, STRICT).code == "structure.bump-leaf"


# --- the subject


def test_v1_means_the_last_transaction() -> None:
    other = spend([In(STRANGER)])
    made = bag(PARENT, STRANGER, other, CHILD, proven=[PARENT, STRANGER])
    assert taken(made.v1()).subject.txid == CHILD.txid
    assert refused(made.v1(), STRICT).code == "structure.unrelated"


def test_a_bag_of_two_tips_has_no_subject_and_atomic_beef_names_it() -> None:
    other = spend([In(STRANGER)])
    made = bag(PARENT, STRANGER, other, CHILD, proven=[PARENT, STRANGER])
    assert refused(made.v2()).code == "structure.subject-unclear"
    assert taken(made.atomic(other)).subject.txid == other.txid
    assert (
        taken(made.atomic(other)).canonical()
        == bag(STRANGER, other).v1()[:4] + taken(made.atomic(other)).canonical()[4:]
    )


def test_a_last_transaction_that_is_spent_beside_another_tip_is_unclear() -> None:
    tips = [spend([In(CHILD)], [Out(n)]) for n in (1, 2)]
    assert refused(bag(PARENT, *tips, CHILD, proven=[PARENT]).v1()).code == "structure.subject-unclear"


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (write_atomic(STRANGER.txid, LINE.v1()), "structure.subject-missing"),
        (
            write_atomic(STRANGER.txid, write_beef_v2(LINE.bumps(), [*LINE.entries(), (STRANGER.txid, -1)])),
            "structure.subject-missing",
        ),
        (write_beef_v2(LINE.bumps(), [*LINE.entries(), (STRANGER.txid, -1)]), "structure.subject-unclear"),
        (write_beef_v2([], [(STRANGER.txid, -1)]), "structure.no-transactions"),
        (bytes.fromhex("0100beef0000"), "structure.no-transactions"),
        (bytes.fromhex("0200beef0000"), "structure.no-transactions"),
        (b"", "malformed.empty"),
        (bytes(9), "malformed.magic"),
    ],
)
def test_no_subject(raw: bytes, code: str) -> None:
    assert refused(raw).code == code


# --- parents and proofs

OVER = spend([In(PARENT)], [Out(10), Out(10)])


def two_roots() -> bytes:
    first, second = funding(salt=1), funding(salt=2)
    child = spend([In(first), In(second)])
    return Bag([first, second, child], {tx.txid: path(tx.txid, 5_000) for tx in (first, second)}).v1()


def with_path(*levels: dict[int, bytes]) -> bytes:
    proof = Proof(write_bump(9, list(levels), set()), 9, b"")
    return Bag([PARENT, CHILD], {PARENT.txid: proof}).v1()


def off_its_place() -> bytes:
    coins = builders.coinbase(1)
    return Bag([coins, spend([In(coins)])], {coins.txid: path(coins.txid, offset=3)}).v1()


@pytest.mark.parametrize(
    ("raw", "code", "at"),
    [
        pytest.param(bag(CHILD).v1(), "structure.missing-parent", "tx 0 input 0", id="no parent"),
        pytest.param(bag(PARENT, CHILD).v1(), "structure.missing-parent", "tx 0 input 0", id="parent without proof"),
        pytest.param(
            write_beef_v2([], [(PARENT.txid, -1), (CHILD.raw, -1)]), "structure.txid-only", "tx 1 input 0", id="txid"
        ),
        pytest.param(
            bag(PARENT, spend([In(msgspec.structs.replace(OVER, txid=PARENT.txid), 1)]), proven=[PARENT]).v1(),
            "structure.input-missing", "tx 1 input 0", id="output that is not there",
        ),
        pytest.param(bag(builders.coinbase(1)).v1(), "structure.coinbase", "tx 0 input 0", id="un-mined coinbase"),
        pytest.param(off_its_place(), "structure.coinbase", "tx 0", id="coinbase off its place"),
        pytest.param(two_roots(), "structure.bump-roots", "bump 1", id="two roots for a height"),
        pytest.param(
            Bag([PARENT, CHILD], {PARENT.txid: path(STRANGER.txid)}).v1(),
            "structure.not-in-bump", "tx 0", id="not a leaf",
        ),
        pytest.param(
            with_path({2: PARENT.txid}, {0: PARENT.txid}),
            "structure.bump-missing", "bump 0 level 0", id="path with a hole",
        ),
        pytest.param(
            with_path({2: PARENT.txid, 3: PARENT.txid}, {0: STRANGER.txid}),
            "structure.bump-duplicate", "bump 0 level 0", id="path with a leaf twice",
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("policy", [LENIENT, STRICT], ids=["lenient", "strict"])
def test_what_no_form_forgives(raw: bytes, code: str, at: str, policy: Policy) -> None:
    found = refused(raw, policy)
    assert (found.code, found.at) == (code, at)


def test_a_flagged_leaf_that_leads_nowhere_is_a_false_proof() -> None:
    """Even where nobody claims it: the path says two things."""
    leaves = [PARENT.txid, *(bytes([n]) * 32 for n in range(1, 8))]
    proof = compound(leaves, [0])
    bump = read_beef(write_beef_v1([proof.bump], [(PARENT.raw, 0)]), 9, 9).bumps[0]
    bump.levels[0][6] = leaves[6]
    raw = write_bump(proof.height, bump.levels, {0, 6})
    assert refused(write_beef_v1([raw], [(PARENT.raw, 0), (CHILD.raw, -1)])).code == "structure.bump-missing"


def test_an_un_flagged_leaf_proves_as_well() -> None:
    proof = path(PARENT.txid)
    bump = read_beef(write_beef_v1([proof.bump], [(PARENT.raw, 0)]), 9, 9).bumps[0]
    raw = write_bump(proof.height, bump.levels, set())
    assert taken(write_beef_v1([raw], [(PARENT.raw, 0), (CHILD.raw, -1)]), STRICT).roots == (
        (proof.height, proof.root),
    )


# --- limits


@pytest.mark.parametrize(
    ("policy", "code"),
    [
        (Policy(max_payload_bytes=1024), "malformed.too-large"),
        (Policy(max_transactions=3), "policy.limits"),
        (Policy(max_depth=9), "policy.limits"),
    ],
)
def test_limits(policy: Policy, code: str) -> None:
    raw = chain(10).v1()
    assert refused(raw, policy).code == code
    taken(raw, Policy(max_transactions=11, max_depth=10, max_payload_bytes=len(raw)))


def test_depth_counts_generations_and_not_transactions() -> None:
    parent = funding(*[Out()] * 5)
    middle = [spend([In(parent, vout)]) for vout in range(5)]
    child = spend([In(tx) for tx in middle])
    taken(bag(parent, *middle, child, proven=[parent]).v1(), Policy(max_depth=2))


def test_ten_thousand_generations_are_read() -> None:
    """No recursion anywhere: the SDK's parser ends at a thousand (domain.md 1.10)."""
    made = line(9_999)
    payload = taken(made.v1())
    assert len(payload.unmined) == 9_999
    turned = Bag([*reversed(made.txs[:-1]), made.txs[-1]], made.proofs)
    assert taken(turned.v1()).canonical() == made.v1()


def line(length: int) -> Bag:
    """A line of transactions nobody signed: parsing does not ask."""
    txs = [funding()]
    for _ in range(length):
        txs.append(spend([In(txs[-1], unlock=builders.by_script(b"\x51"))]))
    return bag(*txs, proven=txs[:1])


def test_diamonds_are_walked_once() -> None:
    """2**64 ways lead to the proof."""
    assert len(taken(diamonds(64).v1()).unmined) == 64


def test_eight_megabytes_of_data_are_one_payload() -> None:
    child = spend([In(PARENT)], [Out(999), Out(0, b"\x00\x6a" + bytes(8 << 20))])
    raw = bag(PARENT, child, proven=[PARENT]).v1()
    payload = taken(raw, Policy(max_payload_bytes=9 << 20))
    assert payload.canonical() is raw


# --- any bytes


@pytest.mark.invariant("FORM-1")
@pytest.mark.parametrize("key", ["beef_hex", "beef_v2_hex", "atomic_beef_hex"])
def test_every_bit_flipped_gives_a_code_or_a_payload_that_says_so(key: str) -> None:
    """A payload that is still taken has other transactions or other roots, or the flip changed nothing that counts."""
    raw = bytearray.fromhex(universal()["1-in-1-out"][key])
    whole = taken(bytes(raw))
    same = 0
    for bit in range(8 * len(raw)):
        raw[bit // 8] ^= 1 << bit % 8
        found = parse(bytes(raw), LENIENT)
        if isinstance(found, Payload):
            same += txids(found) == txids(whole) and found.roots == whole.roots
        else:
            assert found.code in BY_CODE
        raw[bit // 8] ^= 1 << bit % 8
    assert same == 1  # the flag of the leaf


@pytest.mark.invariant("FORM-1")
@CHEAP
@given(
    st.binary(max_size=400), st.sampled_from([b"", b"\x01\x00\xbe\xef", b"\x02\x00\xbe\xef", b"\x01" * 4 + bytes(32)])
)
def test_any_bytes_give_a_code(data: bytes, magic: bytes) -> None:
    for policy in (LENIENT, STRICT):
        found = parse(magic + data, policy)
        assert isinstance(found, Payload) or found.code in BY_CODE


@pytest.mark.invariant("FORM-1")
@CHEAP
@given(st.data())
def test_any_piece_changed_gives_a_code_or_a_payload(data: st.DataObject) -> None:
    raw = bytes.fromhex(data.draw(st.sampled_from([v["atomic_beef_hex"] for v in universal().values()])))
    at = data.draw(st.integers(0, len(raw)))
    cut = data.draw(st.integers(0, 12))
    changed = raw[:at] + data.draw(st.binary(max_size=12)) + raw[at + cut :]
    for policy in (LENIENT, STRICT):
        found = parse(changed, policy)
        assert isinstance(found, Payload) or found.code in BY_CODE


BOMBS = {
    "bumps": b"\x01\x00\xbe\xef\xfe\xff\xff\xff\x7f" + bytes(1000),
    "transactions": b"\x01\x00\xbe\xef\x00\xff" + b"\xff" * 8 + bytes(1000),
    "levels": b"\x01\x00\xbe\xef\x01\x01\xff" + bytes(1000),
    "leaves": b"\x01\x00\xbe\xef\x01\x01\x01\xfe\xff\xff\xff\x7f" + bytes(1000),
    "inputs": b"\x01\x00\xbe\xef\x00\x01" + bytes(4) + b"\xff" + b"\xff" * 8 + bytes(1000),
    "script": b"\x01\x00\xbe\xef\x00\x01" + bytes(4) + b"\x01" + bytes(36) + b"\xff" + b"\xff" * 8 + bytes(1000),
}


@pytest.mark.parametrize("name", list(BOMBS))
def test_a_bomb_is_refused_before_it_is_fed(name: str) -> None:
    assert refused(BOMBS[name]).code in ("malformed.count", "structure.bump-height", "malformed.truncated")


# --- any ancestry


@st.composite
def ancestries(draw: st.DrawFn) -> Bag:
    """A random family with one tip: each transaction spends outputs of earlier ones, roots are proven."""
    txs = [funding(Out(), Out(), Out(), salt=n) for n in range(draw(st.integers(1, 3)))]
    proven = list(txs)
    free = [(tx, vout) for tx in txs for vout in range(3)]
    for _ in range(draw(st.integers(0, 6))):
        count = draw(st.integers(1, min(3, len(free))))
        spent = [free.pop(draw(st.integers(0, len(free) - 1))) for _ in range(count)]
        tx = spend([In(parent, vout, builders.by_script(b"\x51")) for parent, vout in spent], [Out(), Out()])
        txs.append(tx)
        free += [(tx, 0), (tx, 1)]
    tip = spend([In(tx, vout, builders.by_script(b"\x51")) for tx, vout in free])
    return bag(*txs, tip, proven=proven, levels=2)


def told(found: Payload | Verdict) -> object:
    """Everything a payload says, without the objects."""
    if isinstance(found, Verdict):
        return found
    txs = [(tx.txid, tx.index, tx.bump, tx.leaf, [p and p.txid for p in tx.parents]) for tx in found.txs]
    unmined = [tx.txid for tx in found.unmined]
    bumps = [bump.raw for bump in found.bumps]
    return found.subject.txid, txs, unmined, bumps, found.roots, found.repeats, found.pruned, found.canonical()


@settings(SIGNED, max_examples=much(200, 5_000))
@given(ancestries(), st.data())
def test_ordinary_payloads_are_read_in_one_as_the_long_way_reads_them(made: Bag, data: st.DataObject) -> None:
    """Also where a proof is missing or one too many, a parent is not there, and bytes are changed or cut."""
    for tx in data.draw(st.lists(st.sampled_from(made.txs), max_size=2)):
        made.proofs[tx.txid] = builders.path(tx.txid, 940_000 + made.txs.index(tx), 2)
    if data.draw(st.booleans()):
        made.txs.remove(data.draw(st.sampled_from(made.txs)))
    for beef in (made.v1(), made.v2(), made.atomic(made.txs[-1])):
        raw = bytearray(beef)
        for _ in range(data.draw(st.integers(0, 2))):
            raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.sampled_from([0, 1, 2, 252, 253, 254, 255]))
        changed = bytes(raw[: data.draw(st.just(len(raw)) | st.integers(1, len(raw)))])
        for each in (beef, changed):
            installed = [told(parse(each, policy)) for policy in (STRICT, LENIENT)]
            with patch("pipeline.parse.quick_payload", not_quick):
                assert [told(parse(each, policy)) for policy in (STRICT, LENIENT)] == installed


@pytest.mark.parametrize("limit", [
    {"max_transactions": 3}, {"max_bumps": 1}, {"max_depth": 1}, {"max_outputs": 1}, {"max_inputs": 2},
])  # fmt: skip
def test_limits_hold_for_ordinary_payloads(limit: dict[str, int]) -> None:
    proven = [funding(Out(), salt=n) for n in range(2)]
    child = spend([In(tx, 0, builders.by_script(b"\x51")) for tx in proven], [Out(), Out()])
    made = bag(*proven, child, spend([In(child, 0, builders.by_script(b"\x51"))], [Out(), Out()]), proven=proven)
    assert isinstance(parse(made.v1(), LENIENT), Payload)
    refused = parse(made.v1(), Policy(**limit))  # type: ignore[arg-type] # by name
    assert isinstance(refused, Verdict)
    assert refused.code == "policy.limits"


@pytest.mark.skipif(quick_payload is not_quick, reason="nothing was compiled here")
@pytest.mark.parametrize("wrong", [(), (b"",), ("text", Bump, Tx), (bytearray(70), Bump, Tx), (b"", None, Tx)])
def test_the_compiled_reader_takes_bytes_and_what_is_to_be_made(wrong: tuple[object, ...]) -> None:
    with pytest.raises(TypeError):
        quick_payload(*wrong)  # type: ignore[arg-type] # on purpose


@SIGNED
@given(ancestries(), st.data())
def test_any_ancestry_in_any_order_becomes_the_same_set_ancestors_first(made: Bag, data: st.DataObject) -> None:
    whole = taken(made.v1(), STRICT)
    assert txids(whole) == [tx.txid for tx in made.txs]
    assert len(whole.unmined) == len(made.txs) - len(made.proofs)
    shuffled = Bag(
        data.draw(st.permutations(made.txs + data.draw(st.lists(st.sampled_from(made.txs), max_size=3)))), made.proofs
    )
    for raw in (shuffled.v2(), shuffled.atomic(made.txs[-1])):
        payload = taken(raw)
        assert set(txids(payload)) == set(txids(whole))
        assert payload.subject.txid == made.txs[-1].txid
        assert set(payload.roots) == set(whole.roots)
        seen: set[bytes] = set()
        for tx in payload.txs:
            assert all(parent is None or parent.txid in seen for parent in tx.parents)
            seen.add(tx.txid)
        again = taken(payload.canonical(), STRICT)
        assert again.canonical() == payload.canonical()
        assert txids(again) == txids(payload)
