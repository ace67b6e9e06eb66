"""The traps of the domain reference, one by one: those no other test shows, and where the others are shown.

Sections are those of domain.md: 1.1 to 1.8 and 1.10 the formats and their bounds, 10.1 to 10.12 the traps of formats.
"""

from hashlib import sha256
from pathlib import Path

import pytest

from pipeline.chain.answer import Answer
from pipeline.codec.beef import read_beef, write_atomic, write_beef_v1, write_beef_v2
from pipeline.codec.bump import read_bump, write_bump
from pipeline.codec.ef import read_ef
from pipeline.codec.hashing import hash256
from pipeline.codec.reader import Malformed, varint
from pipeline.codec.tx import read_tx, scan
from pipeline.outcome import Verdict
from pipeline.parse import Payload, parse
from pipeline.policy import Policy
from pipeline.verify import Valid
from tests import builders
from tests.builders import FINAL, Bag, In, Out, Proof, bag, compound, funding, path, payment, raw_tx, spend, tree
from tests.pipeline.test_verify import judge
from tests.vectors import universal

TESTS = Path(__file__).parent
LENIENT, STRICT = Policy(), Policy(form="strict")
FORMS = pytest.mark.parametrize("policy", [LENIENT, STRICT], ids=["lenient", "strict"])

SHOWN = {
    "1.1 shortest form": "codec/reader::a_longer_form_is_refused",
    "1.1 one form, one txid": "codec/round_trips::what_is_taken_after_a_change_is_written_as_it_came",
    "1.1 no value beyond all coins": "verify::value_is_not_made",
    "1.2 61 bytes at least, and not 64": "codec/tx::bytes_that_are_no_transaction",
    "1.2 a coinbase by its input": "codec/tx::a_coinbase_is_told_by_what_it_spends",
    "1.3 both digests": "script/sighash::the_nodes_digests",
    "1.4 parents before children": "policy::strict_names_it_and_lenient_mends_it",
    "1.4 the last one is the subject": "parse::v1_means_the_last_transaction",
    "1.4 the buffer is consumed exactly": "every_byte::nothing_may_stand_behind",
    "1.4 no short tail": "every_byte::no_shorter_piece_is_taken",
    "1.4 every one without a proof has its parents": "parse::what_no_form_forgives",
    "1.5 format bytes above 2": "codec/beef::bytes_that_are_no_beef",
    "1.5 a txid alone is no proof": "families::one_defect_anywhere_gives_its_code",
    "1.5 a bag has one tip": "parse::a_bag_of_two_tips_has_no_subject_and_atomic_beef_names_it",
    "1.5 identical repeats collapse": "parse::what_honest_senders_do_is_mended_leniently_and_refused_strictly",
    "1.5 a repeat's proof says the same": "parse::two_proofs_of_one_transaction_must_say_the_same",
    "1.5 nothing in it": "parse::no_subject",
    "1.6 the subject is there, with its bytes": "parse::no_subject",
    "1.6 nothing unrelated": "parse::what_honest_senders_do_is_mended_leniently_and_refused_strictly",
    "1.6 nothing nested": "codec/beef::bytes_that_are_no_beef",
    "1.7 flags, offsets, levels, order": "codec/bump::bytes_that_are_no_path",
    "1.7 no tree has it": "codec/bump::paths_no_tree_has",
    "1.7 duplicated tails": "codec/bump::a_phantom_tail_does_not_prove",
    "1.7 every flagged leaf leads to the root": "parse::a_flagged_leaf_that_leads_nowhere_is_a_false_proof",
    "1.7 a leaf without a flag proves": "parse::an_un_flagged_leaf_proves_as_well",
    "1.7 the transaction is in its own proof": "families::one_defect_anywhere_gives_its_code",
    "1.7 block 813706": "codec/bump::brc74s_example_leads_to_its_root",
    "1.8 the example of BRC-62": "codec/ef::the_known_answer_of_brc62s_example",
    "1.8 made from BEEF, for each un-mined": "families::a_sound_family_is_valid_and_broadcast_as_it_was_made",
    "1.10 counts against bytes": "parse::a_bomb_is_refused_before_it_is_fed",
    "1.10 bytes, transactions, generations": "parse::limits",
    "1.10 transactions and proofs": "codec/beef::limits_are_the_callers",
    "1.10 scripts": "verify::scripts_over_the_size",
    "1.10 time of scripts": "verify::scripts_over_the_budget",
    "10.5 what some SDK takes": "every_byte::a_flipped_bit_gives_a_code_or_changes_nothing",
    "10.7 two tips": "parse::a_bag_of_two_tips_has_no_subject_and_atomic_beef_names_it",
    "10.7b repeats and order": "parse::any_ancestry_in_any_order_becomes_the_same_set_ancestors_first",
    "10.8 universal vectors": "parse::universal_payloads_are_taken_leniently_and_become_one_canonical_form",
    "10.12 recursion": "parse::ten_thousand_generations_are_read",
}
"""Traps that other tests show: subject and name of the test."""


@pytest.mark.parametrize("trap", list(SHOWN))
def test_the_test_that_shows_it_is_there(trap: str) -> None:
    subject, name = SHOWN[trap].split("::")
    file = (TESTS / subject).with_name(f"test_{Path(subject).name}.py")
    assert f"def test_{name}(" in file.read_text()


def test_no_section_is_passed_over() -> None:
    shown = {trap.split()[0] for trap in SHOWN}
    text = Path(__file__).read_text()
    sections = [f"1.{n}" for n in (1, 2, 3, 4, 5, 6, 7, 8, 10)] + [f"10.{n}" for n in range(1, 13)]
    assert not [section for section in sections if section not in shown and f'"""{section}:' not in text]


def code(data: bytes, policy: Policy = LENIENT) -> str:
    found = parse(data, policy)
    assert isinstance(found, Verdict), found
    return found.code


PAYMENT = payment(levels=2)
PARENT, CHILD = PAYMENT.txs


# --- formats


def test_the_txid_is_that_of_the_bytes_that_were_read() -> None:
    """1.1: computed over the exact slice, wherever in a buffer it stands."""
    assert scan(b"xx" + CHILD.raw + b"yy", 2).txid == hash256(CHILD.raw) == CHILD.txid


def test_an_output_of_a_transaction_whose_count_is_long_would_have_two_txids() -> None:
    """1.1: the same transaction with a long count of outputs is none."""
    at = CHILD.outs[0] - 1
    longer = CHILD.raw[:at] + b"\xfd\x01\x00" + CHILD.raw[at + 1 :]
    with pytest.raises(Malformed) as caught:
        read_tx(longer)
    assert caught.value.code == "malformed.varint"


def test_a_txid_alone_beside_its_bytes_is_its_bytes() -> None:
    """1.5: raw and txid-only of one id collapse to raw, wherever either stands; strict wants neither twice."""
    (bump,), (parent, child) = PAYMENT.bumps(), PAYMENT.entries()
    named = (PARENT.txid, -1)
    for entries in ([named, parent, child], [parent, named, child]):
        beef = write_beef_v2([bump], entries)
        assert isinstance(judge(beef, PAYMENT.answers()), Valid)
        assert code(beef, STRICT) == "structure.txid-only"


def test_a_later_entry_does_not_override_an_earlier_one() -> None:
    """1.5: the second entry has no proof, and does not take the first one's away."""
    entries = [*PAYMENT.entries()[:1], (PARENT.raw, -1), *PAYMENT.entries()[1:]]
    payload = parse(write_beef_v1(PAYMENT.bumps(), entries), LENIENT)
    assert isinstance(payload, Payload)
    assert (payload.repeats, payload.txs[0].proven) == (1, True)


@FORMS
def test_the_subject_by_its_txid_alone_is_not_there(policy: Policy) -> None:
    """1.6: it must be there as a transaction."""
    beef = write_beef_v2(PAYMENT.bumps(), [PAYMENT.entries()[0], (CHILD.txid, -1)])
    assert code(write_atomic(CHILD.txid, beef), policy) == "structure.subject-missing"


@pytest.mark.parametrize("height", [2**31, 2**32 + 7, 2**63])
def test_a_height_is_not_cut_to_32_bits(height: int) -> None:
    """1.7, 10.12: read as 32 bits, 2^32 + 7 would be block 7."""
    with pytest.raises(Malformed) as caught:
        read_bump(write_bump(height, [{0: PARENT.txid}], {0}), 0)
    assert caught.value.code == "structure.bump-height"


@pytest.mark.parametrize("high", [1 << 31, 1 << 32, 1 << 63])
def test_an_offset_has_no_bits_beyond_the_tree(high: int) -> None:
    """1.7, 10.12: shifted in 32 bits, these would be places that they are not."""
    with pytest.raises(Malformed) as caught:
        read_bump(write_bump(1, [{high: PARENT.txid, high | 1: CHILD.txid}, {1: bytes(32)}], set()), 0)
    assert caught.value.code == "structure.bump-leaf"


@FORMS
def test_an_ordinary_transaction_is_in_no_coinbases_place_nor_a_coinbase_in_its(policy: Policy) -> None:
    """1.7: index 0 is the coinbase's; `lenient` lets the synthetic vectors pass."""
    ordinary = Bag(PAYMENT.txs, {PARENT.txid: path(PARENT.txid, offset=0)}).v1()
    if policy is STRICT:
        assert code(ordinary, policy) == "structure.coinbase"
    else:
        assert isinstance(parse(ordinary, policy), Payload)
    coins = builders.coinbase(7)
    elsewhere = Bag([coins, spend([In(coins)])], {coins.txid: path(coins.txid, offset=1)}).v1()
    assert code(elsewhere, policy) == "structure.coinbase"


@pytest.mark.parametrize("levels", [33, 64, 65, 255])
def test_a_path_has_32_levels_at_most(levels: int) -> None:
    """1.7, 1.10: the format would allow 64; no block has more than four thousand million transactions."""
    nodes = [{0: PARENT.txid, 1: CHILD.txid}] + [{1: bytes(32)}] * (levels - 1)
    with pytest.raises(Malformed) as caught:
        read_bump(write_bump(1, nodes, {0}), 0)
    assert caught.value.code == "structure.bump-height"


def test_a_long_line_of_inputs_is_bounded_by_its_bytes() -> None:
    """1.10: an input takes 41 bytes, an output 9; both counts are compared before anything is kept."""
    for raw in (
        b"\x01\x00\x00\x00\xfe\x00\x00\x00\x01" + bytes(400),
        CHILD.raw[: CHILD.outs[0] - 1] + b"\xfe\x00\x00\x00\x01" + bytes(400),
    ):
        with pytest.raises(Malformed) as caught:
            read_tx(raw)
        assert caught.value.code == "malformed.count"


# --- traps


def test_a_coins_value_takes_eight_bytes_in_extended_format() -> None:
    """10.1: BRC-30's text says four; with four nothing behind it would be read right."""
    vector = universal()["1-in-1-out"]
    tx, (coin,) = read_ef(bytes.fromhex(vector["ef_hex"]))
    assert coin[:8] == (1000).to_bytes(8, "little")
    four = bytes.fromhex(vector["ef_hex"]).replace(coin, coin[:4] + coin[8:])
    with pytest.raises(Malformed):
        read_ef(four)
    assert tx.raw.hex() == vector["raw_hex"]


def test_the_number_of_a_proof_stands_behind_in_v1_and_before_in_v2() -> None:
    """10.2: three proofs, and the transaction is the third one's: its number cannot be taken for a flag."""
    proofs = [path(bytes([n]) * 32, 5 + n, levels=2).bump for n in range(2)] + PAYMENT.bumps()
    entries = [(PARENT.raw, 2), (CHILD.raw, -1)]
    v1, v2 = write_beef_v1(proofs, entries), write_beef_v2(proofs, entries)
    assert PARENT.raw + b"\x01\x02" in v1
    assert b"\x01\x02" + PARENT.raw in v2
    for beef in (v1, v2):
        assert [tx.bump for tx in read_beef(beef, 9, 9).txs] == [2, -1]
    for beef in (b"\x02" + v1[1:], b"\x01" + v2[1:]):
        assert isinstance(parse(beef, LENIENT), Verdict)


def test_hashes_in_bytes_are_in_wire_order() -> None:
    """10.3: the subject of Atomic BEEF, the leaves of a path; turned round they name nobody."""
    assert CHILD.txid != CHILD.txid[::-1]
    assert isinstance(parse(write_atomic(CHILD.txid, PAYMENT.v1()), LENIENT), Payload)
    assert code(write_atomic(CHILD.txid[::-1], PAYMENT.v1())) == "structure.subject-missing"
    turned = Bag(PAYMENT.txs, {PARENT.txid: path(PARENT.txid[::-1])}).v1()
    assert code(turned) == "structure.not-in-bump"


def test_the_magic_is_bytes_and_no_number() -> None:
    """10.4: as a little-endian number it is 4022206465, whose bytes begin with 01."""
    beef = PAYMENT.v1()
    assert int.from_bytes(beef[:4], "little") == 4_022_206_465
    assert code(beef[3::-1] + beef[4:]) == "malformed.magic"


def test_a_transactions_txid_is_that_of_the_proof_and_of_its_children() -> None:
    """10.6: one order for all three; a reversed one would fail silently where they are compared."""
    payload = parse(PAYMENT.v1(), LENIENT)
    assert isinstance(payload, Payload)
    parent, child = payload.txs
    assert parent.txid in payload.bumps[0].leaves()
    assert child.outpoint(0)[:32] == parent.txid
    assert child.parents == [parent]


def test_a_proof_at_place_zero_is_a_proof() -> None:
    """10.9: zero is false where somebody writes `if not offset`."""
    coins = builders.coinbase(7)
    made = Bag([coins, spend([In(coins)])], {coins.txid: path(coins.txid, offset=0)})
    for policy in (LENIENT, STRICT):
        assert isinstance(judge(made, policy=policy), Valid)


@FORMS
def test_two_nodes_cannot_pose_as_a_transaction(policy: Policy) -> None:
    """10.10: 64 bytes that are two neighbours in a tree hash to the node above: a shorter path leads to the root.

    The forger chooses one of the two nodes by having its transaction mined, and spends what the other bytes say.
    """
    spent = bytes(range(32))
    # version, one input (outpoint, script of two bytes, sequence), one output (value, script of two bytes), lock time
    posing = raw_tx([(spent + bytes(4), b"\x51\x51", FINAL)], [Out(1000, b"\x51\x51")])
    assert len(posing) == 64
    left, right = posing[:32], posing[32:]
    others = [sha256(bytes([n])).digest() for n in range(2)]
    levels = tree([left, right, *others])
    assert levels[1][0] == hash256(posing)
    shorter = write_bump(950_000, [{0: hash256(posing), 1: levels[1][1]}], {0})
    bump, _ = read_bump(shorter, 0)
    assert bump.root({0}) == levels[2][0]  # the proof itself is without fault
    beef = write_beef_v1([shorter], [(posing, 0)])
    assert code(beef, policy) == "structure.tx-size"
    theft = spend([In(funding(Out(1000, b"\x51\x51")), unlock=builders.by_script(b""))])
    assert code(write_beef_v1([shorter], [(posing, 0), (theft.raw, -1)]), policy) == "structure.tx-size"


@FORMS
def test_a_path_inside_beef_is_checked_as_one_alone(policy: Policy) -> None:
    """10.11: structure too, which SDKs pass over there: an offset twice, a leaf twice, a node two ways."""
    leaves = [bytes([n]) * 32 for n in range(8)]
    leaves[2] = PARENT.txid
    right = compound(leaves, [2])
    nodes = read_bump(right.bump, 0)[0].levels
    again = PARENT.txid + b"\x02\x00" + PARENT.txid
    twice = right.bump.replace(b"\x02\x02\x02" + PARENT.txid, b"\x03\x02\x02" + again)
    phantom = write_bump(950_000, [nodes[0] | {4: PARENT.txid}, *nodes[1:]], {2})
    both_ways = write_bump(950_000, [nodes[0] | {0: leaves[0], 1: leaves[4]}, *nodes[1:]], {2})
    said = {twice: "structure.bump-leaf", phantom: "structure.bump-duplicate", both_ways: "structure.bump-roots"}
    for bump, expected in said.items():
        made = Bag([PARENT, CHILD], {PARENT.txid: Proof(bump, 950_000, right.root)})
        assert code(made.v1(), policy) == expected


def test_numbers_are_not_cut_to_what_a_double_holds() -> None:
    """10.12: 2^53 + 1 is a number of its own."""
    assert varint(b"\xff" + (2**53 + 1).to_bytes(8, "little"), 0)[0] == 2**53 + 1
    rich = funding(Out(2**53 + 1))
    assert read_tx(rich.raw).satoshis(0) == 2**53 + 1
    made = bag(rich, spend([In(rich)], [Out(1)]), proven=[rich])
    assert judge(made, dict.fromkeys(made.answers(), Answer.YES)).code == "value.range"  # type: ignore[union-attr]
