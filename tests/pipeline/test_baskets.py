"""Wallet baskets: every rule of BRC-100's `internalizeAction` and `listOutputs` that is kept here."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import baskets, listed, listing, state
from pipeline.baskets import BadInstruction
from pipeline.codec.tx import Tx, read_tx
from pipeline.contextual import Answer, Change
from pipeline.derive import derive
from pipeline.keys import invoice_number, key_hash, linkage, linked_child, public_of
from pipeline.outcome import Verdict
from pipeline.state import head_of, key
from schemas.baskets import BasketOutput, Insertion, Instructed, Instruction, Payment, Placed, Relinquished, Tally
from schemas.external import Admittance
from schemas.flow import Evict, Readmit
from schemas.journal import JOURNAL
from schemas.state import Applied, Known
from schemas.types import Outpoint, display, outpoint
from tests import builders
from tests.fakes import Owner, apply_of, coin_of_others, verified
from tests.pipeline.test_apply import entries_of, replayed, roots_of
from tests.profiles import CHEAP, much

SECRET, SENDER = bytes([7]) * 32, bytes([9]) * 32
OWNER_KEY, SENDER_KEY = public_of(SECRET), public_of(SENDER)
CONTEXT = f"owner:{OWNER_KEY.hex()}"
PREFIX, SUFFIX = "cHJlZml4", "c3VmZml4"
LINK = linkage(OWNER_KEY, SENDER, invoice_number(2, "3241645161d8", f"{PREFIX} {SUFFIX}"))
PAID = b"\x76\xa9\x14" + key_hash(linked_child(OWNER_KEY, LINK)) + b"\x88\xac"


def payment(index: int, **more: Any) -> dict[str, Any]:
    remittance = {"derivationPrefix": PREFIX, "derivationSuffix": SUFFIX, "senderIdentityKey": SENDER_KEY.hex()}
    return {"outputIndex": index, "protocol": "wallet payment", "paymentRemittance": {**remittance, **more}}


def insertion(index: int, basket: str = "coins", **more: Any) -> dict[str, Any]:
    return {
        "outputIndex": index, "protocol": "basket insertion", "insertionRemittance": {"basket": basket, **more},
    }  # fmt: skip


def asked(*outputs: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"owner": OWNER_KEY.hex(), "description": "as a test", "outputs": list(outputs), **more}


def read(*instructions: dict[str, Any], secrets: baskets.Secrets = {}) -> Instruction:  # noqa: B006 - read alone
    """The one instruction of a header."""
    (found,) = baskets.read_header(json.dumps(instructions).encode(), secrets).values()
    return found


def only(instruction: Instruction) -> Payment | Insertion:
    ((_, what),) = instruction.outputs
    return what


# --- what is sent


def test_an_instruction_has_one_form() -> None:
    """Order, case, spaces and repeats of names say nothing: equal instructions are equal bytes."""
    one = read(asked(insertion(2, " Coins ", tags=["b", "A", "b "]), payment(0), labels=["Y", "x "]))
    other = read(asked(payment(0), insertion(2, "coins", tags=["a", "b"]), labels=["x", "y", "x"]))
    assert baskets.encode(one) == baskets.encode(other)
    assert [index for index, _ in one.outputs] == [0, 2]
    assert one.outputs[1][1] == Insertion("coins", "", ("a", "b"))
    assert (one.labels, one.descriptions) == (("x", "y"), ("as a test",))


def test_each_owner_is_a_context() -> None:
    other = {"owner": SENDER_KEY.hex().upper(), "description": "of another"}
    found = baskets.read_header(json.dumps([asked(insertion(0)), other]).encode(), {})
    assert list(found) == [CONTEXT, f"owner:{SENDER_KEY.hex()}"]
    assert found[f"owner:{SENDER_KEY.hex()}"].outputs == ()  # a spend alone


@pytest.mark.parametrize("name", ["x", "x" * 300, "é" * 150, "admi", "p", "pp", "default basket", "a\x00b"])
def test_names_that_are_taken(name: str) -> None:
    assert only(read(asked(insertion(0, name)))) == Insertion(name, "", ())


@pytest.mark.parametrize(
    ("instruction", "says"),
    [
        (asked(insertion(0, "default")), "wallet's own"),
        (asked(insertion(0, " DEFAULT ")), "wallet's own"),
        (asked(insertion(0, "admin coins")), "reserved"),
        (asked(insertion(0, "Admin")), "reserved"),
        (asked(insertion(0, "p coins")), "reserved"),
        (asked(insertion(0, " ")), "1 to 300 bytes"),
        (asked(insertion(0, "x" * 301)), "1 to 300 bytes"),
        (asked(insertion(0, "é" * 151)), "1 to 300 bytes"),
        (asked(insertion(0, tags=[""])), "a tag has 1 to 300"),
        (asked(insertion(0, tags=["x" * 301])), "a tag has 1 to 300"),
        (asked(insertion(0), labels=["x" * 301]), "a label has 1 to 300"),
        (asked(insertion(0, customInstructions="x" * 1_001)), "customInstructions"),
        (asked(insertion(0, customInstructions="é" * 501)), "customInstructions"),
        (asked(insertion(0), description="four"), "5 to 50"),
        (asked(insertion(0), description="x" * 51), "5 to 50"),
        (asked(insertion(0), insertion(0)), "named once"),
        (asked(insertion(-1)), "counts from 0"),
        (asked({**insertion(0), "protocol": "wallet payment"}), "paymentRemittance"),
        (asked({**payment(0), "protocol": "basket insertion"}), "insertionRemittance"),
        (asked({**payment(0), **insertion(0)}), "and nothing else"),
        (asked(payment(0, derivationPrefix="?")), "base64"),
        (asked(payment(0, derivationSuffix="")), "derivationSuffix"),
        (asked(payment(0, senderIdentityKey="02")), "33 bytes"),
        (asked(payment(0, senderIdentityKey="xy")), "hexadecimal"),
        (asked(payment(0, senderIdentityKey="02" + "ff" * 32)), "point of the curve"),
        (asked(payment(0, linkage="00")), "32 bytes"),
        (asked(insertion(0), owner="02" + "ff" * 32), "point of the curve"),
        (asked(insertion(0), owner="04" + "11" * 32), "identity key"),
        (asked(insertion(0), basket="x"), "unknown field"),
        (asked(insertion(0, "a" * 5, tags=[f"t{number}" for number in range(2_001)])), "tags"),
        (asked(relinquish=[{"basket": "x", "output": f"{'00' * 32}.{vout}"} for vout in range(2_001)]), "2,000"),
        (asked(insertion(0), index=[{"basket": "others", "fields": [0]}]), "no output is inserted into 'others'"),
        (asked(payment(0), index=[{"basket": "default", "fields": [0]}]), "wallet's own"),
        (asked(insertion(0), index=[{"basket": "coins", "fields": []}]), "one at least"),
        (asked(insertion(0), index=[{"basket": "coins", "fields": [16]}]), "from 0 to 15"),
        (asked(insertion(0), index=[{"basket": "coins", "fields": [-1]}]), "from 0 to 15"),
        (asked(insertion(0), index=[{"basket": "coins", "fields": ["0"]}]), "int"),
        (asked(insertion(0), index=[{"basket": "coins", "fields": [0]}, {"basket": "Coins", "fields": [1]}]), "once"),
        (asked(*map(insertion, range(126)), index=[{"basket": "coins", "fields": list(range(16))}]), "indexed fields"),
        ({"owner": OWNER_KEY.hex()}, "description"),
    ],
)  # fmt: skip
def test_what_brc_100_does_not_allow_is_named(instruction: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInstruction, match=says):
        read(instruction)


@pytest.mark.parametrize("header", [b"x", b"{}", b"[1]", b"\xff", b'[{"owner": "\\ud800"}]', b"[" * 100_000])
def test_what_is_no_array_of_instructions_is_said(header: bytes) -> None:
    with pytest.raises(BadInstruction, match="JSON array"):
        baskets.read_header(header, {})


def test_indexed_fields_are_those_of_what_the_instruction_inserts_into_the_basket() -> None:
    found = read(
        asked(payment(0), insertion(1), insertion(2, "others"), index=[{"basket": " Coins", "fields": [3, 1, 3]}])
    )
    assert [baskets.fields_of(what) for _, what in found.outputs] == [(), (1, 3), ()]


def test_an_owner_is_named_once() -> None:
    with pytest.raises(BadInstruction, match="once"):
        read(asked(insertion(0)), asked(insertion(1)))


def test_the_owners_secret_gives_the_linkage_that_the_sender_has() -> None:
    """Whatever the sender says it is: who holds the key knows."""
    assert only(read(asked(payment(0)))) == Payment(PREFIX, SUFFIX, SENDER_KEY)
    for sent in ({}, {"linkage": "ab" * 32}):
        held = only(read(asked(payment(0, **sent)), secrets={OWNER_KEY.hex(): SECRET}))
        assert held == Payment(PREFIX, SUFFIX, SENDER_KEY, LINK)


# --- what an output must be


def paying(*scripts: bytes, spends: Sequence[Outpoint] = (), salt: int = 0) -> Tx:
    entries = [(point, builders.push(b"salt %06d" % salt), builders.FINAL) for point in spends or [coin_of_others(1)]]
    outs = [builders.Out(1_000 + salt * 16 + place, script) for place, script in enumerate(scripts)]
    return read_tx(builders.raw_tx(entries, outs))


OTHER_P2PKH = b"\x76\xa9\x14" + bytes(20) + b"\x88\xac"


@pytest.mark.parametrize(
    ("script", "link", "code"),
    [
        (PAID, LINK, None),
        (PAID, b"", None),  # nobody can tell
        (OTHER_P2PKH, b"", None),
        (OTHER_P2PKH, LINK, "admission.not-paid"),
        (PAID, bytes(31) + b"\x01", "admission.not-paid"),
        (PAID, b"\xff" * 32, "admission.not-paid"),  # no number of the curve
        (PAID + b"\x61", LINK, "admission.not-paid"),
        (b"\x51", LINK, "admission.not-paid"),
        (b"\x51", b"", "admission.not-paid"),
    ],
)
def test_a_wallet_payment_pays_the_key_that_is_derived(script: bytes, link: bytes, code: str | None) -> None:
    said = baskets.check(CONTEXT, read(asked(payment(0, linkage=link.hex()))), paying(script))
    assert (said.code if said is not None else None) == code


def test_an_insertion_may_be_any_script() -> None:
    assert baskets.check(CONTEXT, read(asked(insertion(0))), paying(b"\x6a")) is None


def test_an_output_that_is_not_there_is_found() -> None:
    named = read(asked(insertion(0), insertion(3)))
    assert baskets.beyond([named], 4) is None
    assert baskets.beyond([named], 3) == 3
    assert baskets.beyond([read(asked())], 1) is None


def token(*fields: bytes, after: bool = False) -> bytes:
    """A PushDrop script."""
    return (builders.pushdrop_after if after else builders.pushdrop)(builders.key(3), *fields)


@pytest.mark.parametrize(
    ("index", "says"),
    [
        ([0], None),
        ([1], "field 1 of output 1 has 301 bytes: 300 at most are indexed"),
        ([0, 1, 2], "field 1 of output 1 has 301 bytes: 300 at most are indexed"),
        ([2, 9], None),  # a field of 300 bytes, and none
    ],
)
def test_a_field_that_is_too_long_to_be_found_by_is_named(index: list[int], says: str | None) -> None:
    """Where it is declared, and nowhere else: the basket's other outputs may be anything."""
    tx = paying(b"\x51", token(b"id", bytes(301), bytes(300)), PAID)
    declared = [{"basket": "coins", "fields": index}]
    assert baskets.unfit([read(asked(insertion(0), insertion(1), payment(2), index=declared))], tx) == says
    assert baskets.unfit([read(asked(insertion(0), insertion(1, "others"), index=declared))], tx) is None
    assert (
        baskets.unfit([read(asked(insertion(0))), read(asked(insertion(3)))], tx) == "the transaction makes no output 3"
    )


# --- in a context


def do(owner: Owner, tx: Tx, instruction: Instruction, offset: int, **more: Any) -> Change:
    payload = verified(tx, offset=offset, contexts=(CONTEXT,), **more)
    operation = msgspec.structs.replace(apply_of(payload), instruction=baskets.encode(instruction))
    return owner.do(CONTEXT, operation)


def answer(change: Change) -> Answer:
    assert isinstance(change.said, Answer)
    return change.said


def listing_of(owner: Owner, basket: str, **more: Any) -> list[BasketOutput]:
    wanted = listed.Wanted(basket=basket, limit=10_000, with_tags=True, custom_instructions=True, **more)
    found = listed.outputs(owner.store, CONTEXT, wanted)
    assert found.total_outputs == len(found.outputs)
    assert found.state.sequence == head_of(owner.store, CONTEXT).sequence
    return list(found.outputs)


def sums(owner: Owner) -> dict[str, tuple[int, int, int]]:
    told = listed.summary(owner.store, CONTEXT).baskets
    assert len({each.basket for each in told}) == len(told)
    return {each.basket: (each.outputs, each.satoshis, each.unverified) for each in told}


def test_what_is_named_enters_and_nothing_else() -> None:
    owner = Owner()
    tx = paying(PAID, OTHER_P2PKH, b"\x51", b"\x52")
    said = answer(do(owner, tx, read(asked(payment(0, linkage=LINK.hex()), payment(1), insertion(3, tags=["t"]))), 1))
    assert said.admittance == Admittance((0, 1, 3))
    assert sums(owner) == {"coins": (1, 1_003, 0), "default": (2, 1_000, 1_001)}
    (output,) = listing_of(owner, "coins")
    assert output == BasketOutput(
        outpoint=f"{display(tx.txid)}.3", satoshis=1_003, spendable=True, custom_instructions="", tags=("t",)
    )
    change = listing_of(owner, "default", locking_scripts=True)
    assert [(each.verified, each.locking_script) for each in change] == [(True, PAID.hex()), (False, OTHER_P2PKH.hex())]
    assert change[0].payment is not None
    assert change[0].payment.linkage == LINK.hex()


def test_what_does_not_pay_the_owner_changes_nothing() -> None:
    owner = Owner()
    before = owner.store.entries.copy()
    change = do(owner, paying(OTHER_P2PKH, b"\x51"), read(asked(payment(0, linkage=LINK.hex()), insertion(1))), 1)
    assert isinstance(change.said, Verdict)
    assert change.said.code == "admission.not-paid"
    assert {k: v for k, v in owner.store.entries.items() if k.startswith(CONTEXT.encode())} == before


def test_spending_takes_an_output_out_of_its_basket() -> None:
    owner = Owner()
    tx = paying(b"\x51", b"\x52")
    do(owner, tx, read(asked(insertion(0, tags=["t"]), insertion(1))), 1)
    spender = paying(b"\x53", spends=[outpoint(tx.txid, 0)], salt=1)
    said = answer(do(owner, spender, read(asked()), 2))
    assert said.admittance == Admittance((), (), (0,))
    assert [each.outpoint for each in listing_of(owner, "coins")] == [f"{display(tx.txid)}.1"]
    assert listing_of(owner, "coins", tags=("t",)) == []
    assert sums(owner) == {"coins": (1, 1_001, 0)}


def test_a_spender_that_came_before_keeps_an_output_out() -> None:
    owner = Owner()
    tx = paying(b"\x51", b"\x52")
    spender = paying(b"\x53", spends=[outpoint(tx.txid, 0)], salt=1)
    do(owner, spender, read(asked()), 1)
    do(owner, tx, read(asked(insertion(0), insertion(1))), 2)
    assert sums(owner) == {"coins": (1, 1_001, 0)}


@pytest.mark.invariant("BASKET-1")
def test_the_same_instruction_again_is_a_repeat() -> None:
    owner = Owner()
    tx, instruction = paying(b"\x51"), read(asked(insertion(0)))
    first = answer(do(owner, tx, instruction, 1))
    held = owner.store.entries.copy()
    again, other = answer(do(owner, tx, instruction, 1)), answer(do(owner, tx, instruction, 2))
    assert (first.repeat, again.repeat, other.repeat) == (False, False, True)
    assert (other.admittance, other.sequence, other.state_root) == (first.admittance, first.sequence, first.state_root)
    assert {k: v for k, v in owner.store.entries.items() if k != state.APPLIED_KEY} == {
        k: v for k, v in held.items() if k != state.APPLIED_KEY
    }


Merge = tuple[dict[str, Any] | None, dict[str, Any], str, dict[str, tuple[int, int, int]]]

MERGES: dict[str, Merge] = {
    "payment onto change": (payment(0), payment(0), "merge", {"default": (1, 0, 1_000)}),
    "payment that can be checked onto change": (
        payment(0), payment(0, linkage=LINK.hex()), "merge", {"default": (1, 1_000, 0)},
    ),
    "payment that cannot be onto change": (
        payment(0, linkage=LINK.hex()), payment(0), "merge", {"default": (1, 1_000, 0)},
    ),
    "payment onto a custom output": (
        insertion(0), payment(0, linkage=LINK.hex()), "merge", {"default": (1, 1_000, 0)},
    ),
    "insertion onto change": (payment(0), insertion(0), "admission.change", {"default": (1, 0, 1_000)}),
    "insertion elsewhere": (insertion(0), insertion(0, "others"), "merge", {"others": (1, 1_000, 0)}),
    "insertion of a further output": (
        insertion(0), insertion(1), "merge", {"coins": (2, 2_001, 0)},
    ),
    "insertion after a spend alone": (None, insertion(0), "merge", {"coins": (1, 1_000, 0)}),
}  # fmt: skip


@pytest.mark.invariant("BASKET-1")
@pytest.mark.parametrize("case", MERGES)
def test_a_second_instruction_is_a_merge(case: str) -> None:
    first, second, outcome, held = MERGES[case]
    owner = Owner()
    tx = paying(PAID, b"\x51")
    do(owner, tx, read(asked(*([first] if first is not None else []))), 1)
    change = do(owner, tx, read(asked(second, description="another")), 2)
    if outcome == "merge":
        assert answer(change).merge
        (entry,) = map(JOURNAL.decode, change.entries)
        assert (entry.kind, entry.txid) == ("merge", tx.txid)
        assert answer(do(owner, tx, read(asked(second, description="another")), 3)).repeat
    else:
        assert isinstance(change.said, Verdict)
        assert change.said.code == outcome
    assert sums(owner) == held


def test_both_orders_of_payment_and_insertion_end_with_change() -> None:
    roots = []
    for order in ([payment(0), insertion(0)], [insertion(0), payment(0)]):
        owner = Owner()
        for offset, each in enumerate(order):
            do(owner, paying(PAID), read(asked(each)), offset)
        roots.append(head_of(owner.store, CONTEXT).state_root)
        assert sums(owner) == {"default": (1, 0, 1_000)}
    assert roots[0] == roots[1]


def test_tags_of_both_insertions_are_kept_and_instructions_of_the_last() -> None:
    owner = Owner()
    tx = paying(b"\x51")
    do(owner, tx, read(asked(insertion(0, tags=["a"], customInstructions="one"))), 1)
    do(owner, tx, read(asked(insertion(0, "others", tags=["b"], customInstructions="two"))), 2)
    (output,) = listing_of(owner, "others")
    assert (output.tags, output.custom_instructions) == (("a", "b"), "two")
    assert listing_of(owner, "coins") == []


def test_a_merge_concerns_who_spends_what_it_brings() -> None:
    """A spender that was judged before sees a coin it did not see."""
    owner = Owner()
    tx = paying(b"\x51", b"\x52")
    spender = paying(b"\x53", spends=[outpoint(tx.txid, 0)], salt=1)
    do(owner, tx, read(asked(insertion(1))), 1)
    do(owner, spender, read(asked()), 2)
    change = do(owner, tx, read(asked(insertion(0))), 3)
    assert [each.applied.admittance for each in change.revised] == [Admittance((), (), (0,))]
    assert sums(owner) == {"coins": (1, 1_001, 0)}


def test_an_instruction_for_one_that_left_joins_what_was_said_before() -> None:
    """It left with its parent, comes with a proof, and is what both instructions make of it."""
    owner = Owner()
    parent = paying(b"\x51")
    child = paying(b"\x52", b"\x53", spends=[outpoint(parent.txid, 0)], salt=1)
    do(owner, child, read(asked(insertion(0))), 1, ancestors=[parent])
    owner.do(CONTEXT, Evict("evict", parent.txid, "network.rejected", "no"))
    assert sums(owner) == {}
    do(owner, child, read(asked(insertion(1))), 2, proven=True)
    assert sums(owner) == {"coins": (2, 1_016 + 1_017, 0)}


@pytest.mark.parametrize("what", ["tags", "labels"])
def test_labels_and_tags_are_told_when_asked_for(what: str) -> None:
    owner = Owner()
    do(owner, paying(b"\x51"), read(asked(insertion(0, tags=["t"], customInstructions="c"), labels=["l"])), 1)
    bare = listed.outputs(owner.store, CONTEXT, listed.Wanted(basket="coins")).outputs[0]
    assert (bare.tags, bare.labels, bare.custom_instructions, bare.locking_script) == (None, None, None, None)
    wanted = listed.Wanted(basket="coins", with_tags=what == "tags", labels=what == "labels")
    full = listed.outputs(owner.store, CONTEXT, wanted).outputs[0]
    assert (full.tags, full.labels) == ((("t",), None) if what == "tags" else (None, ("l",)))


def test_what_an_eviction_returned_is_not_spendable_while_a_rival_may_have_it() -> None:
    owner = Owner()
    tx = paying(b"\x51")
    spender = paying(b"\x53", spends=[outpoint(tx.txid, 0)], salt=1)
    do(owner, tx, read(asked(insertion(0))), 1)
    do(owner, spender, read(asked()), 2)
    owner.do(CONTEXT, Evict("evict", spender.txid, "network.double-spend", "no", (bytes(32),)))
    assert [each.spendable for each in listing_of(owner, "coins")] == [False]


def index(basket: str, *fields: int) -> list[dict[str, Any]]:
    return [{"basket": basket, "fields": fields}]


def told_values(owner: Owner, basket: str, number: int) -> dict[str, tuple[int, int]]:
    told = listed.values(owner.store, CONTEXT, basket, number).values
    return {each.value: (each.outputs, each.satoshis) for each in told}


def test_outputs_are_found_by_the_fields_that_their_instruction_indexed() -> None:
    """Beside others that came without, and until they are spent; the transaction's root covers it."""
    owner = Owner()
    tx = paying(token(b"red", b"\x07"), token(b"red", after=True), token(b"blue"), b"\x51")
    plain = paying(token(b"red"), spends=[coin_of_others(5)], salt=1)
    do(owner, plain, read(asked(insertion(0))), 1)
    named = [insertion(number, tags=["t"] if number else []) for number in range(4)]
    do(owner, tx, read(asked(*named, index=index("coins", 0, 1))), 2)
    assert told_values(owner, "coins", 0) == {"726564": (2, 2_001), "626c7565": (1, 1_002)}
    assert told_values(owner, "coins", 1) == {"07": (1, 1_000)}
    assert told_values(owner, "coins", 2) == {}
    red = listing_of(owner, "coins", fields=((0, b"red"),), with_fields=True)
    assert [(each.outpoint, each.fields) for each in red] == [
        (f"{display(tx.txid)}.0", {0: "726564", 1: "07"}), (f"{display(tx.txid)}.1", {0: "726564"}),
    ]  # fmt: skip
    assert [each.outpoint for each in listing_of(owner, "coins", fields=((0, b"red"),), tags=("t",))] == [
        f"{display(tx.txid)}.1"
    ]
    assert [each.outpoint for each in listing_of(owner, "coins", fields=((0, b"red"),), tags=("t", "u"))] == [
        f"{display(tx.txid)}.1"
    ]
    assert listing_of(owner, "coins", fields=((0, b"red"), (1, b"\x07")), tags=("t", "u")) == []
    before = head_of(owner.store, CONTEXT).state_root
    spender = paying(b"\x53", spends=[outpoint(tx.txid, 0)], salt=2)
    do(owner, spender, read(asked()), 3)
    assert told_values(owner, "coins", 0) == {"626c7565": (1, 1_002), "726564": (1, 1_001)}
    owner.do(CONTEXT, Evict("evict", spender.txid, "network.rejected", "no"))
    assert told_values(owner, "coins", 0) == {"626c7565": (1, 1_002), "726564": (2, 2_001)}
    assert head_of(owner.store, CONTEXT).state_root == before


def test_a_field_that_is_indexed_later_is_found_from_then_on() -> None:
    """By a further instruction for the transaction; in whichever order the two come, both fields are found."""
    one, two = (asked(insertion(0), index=index("coins", number), description=f"index {number}") for number in (0, 1))
    roots = []
    for order in ([one, two], [two, one]):
        owner = Owner()
        tx = paying(token(b"red", b"\x07"))
        do(owner, tx, read(order[0]), 1)
        assert len(told_values(owner, "coins", 0)) + len(told_values(owner, "coins", 1)) == 1
        assert answer(do(owner, tx, read(order[1]), 2)).merge
        assert (told_values(owner, "coins", 0), told_values(owner, "coins", 1)) == (
            {"726564": (1, 1_000)}, {"07": (1, 1_000)},
        )  # fmt: skip
        assert answer(do(owner, tx, read(one), 3)).repeat
        roots.append(head_of(owner.store, CONTEXT).state_root)
    assert roots[0] == roots[1]


def test_indexed_fields_go_with_an_output_into_another_basket_and_not_into_change() -> None:
    owner = Owner()
    script = token(b"red")
    tx = paying(script, PAID)
    do(owner, tx, read(asked(insertion(0), insertion(1), index=index("coins", 0))), 1)
    do(owner, tx, read(asked(insertion(0, "others"), payment(1))), 2)
    assert told_values(owner, "coins", 0) == {}
    assert told_values(owner, "others", 0) == {"726564": (1, 1_000)}
    assert told_values(owner, "default", 0) == {}


def relinquish(*named: tuple[str, Tx, int]) -> dict[str, Any]:
    outputs = [{"basket": basket, "output": f"{display(tx.txid)}.{vout}"} for basket, tx, vout in named]
    return asked(relinquish=outputs)


def test_a_relinquished_output_is_forgotten_without_being_spent() -> None:
    """By the instructions of any transaction, in whichever order; it is back when that transaction leaves."""
    tx, other = paying(b"\x51", b"\x52"), paying(b"\x53", spends=[coin_of_others(5)], salt=1)
    instructions = [
        (tx, read(asked(insertion(0, tags=["t"]), insertion(1)))),
        (other, read(relinquish(("coins", tx, 0)))),
    ]
    for order in (instructions, instructions[::-1]):
        owner = Owner()
        for offset, (each, instruction) in enumerate(order):
            do(owner, each, instruction, offset)
        assert [each.outpoint for each in listing_of(owner, "coins")] == [f"{display(tx.txid)}.1"]
        assert listing_of(owner, "coins", tags=("t",)) == []
        assert sums(owner) == {"coins": (1, 1_001, 0)}
        owner.do(CONTEXT, Evict("evict", other.txid, "network.rejected", "no"))
        assert sums(owner) == {"coins": (2, 2_001, 0)}


def test_an_output_is_relinquished_from_the_basket_it_is_in() -> None:
    owner = Owner()
    tx = paying(PAID, b"\x51")
    do(owner, tx, read(asked(insertion(0), insertion(1))), 1)
    do(owner, tx, read(relinquish(("others", tx, 0), ("coins", tx, 1))), 2)
    assert sums(owner) == {"coins": (1, 1_000, 0)}
    do(owner, tx, read(asked(payment(0))), 3)
    assert sums(owner) == {"default": (1, 0, 1_000)}


@pytest.mark.parametrize(
    ("basket", "output", "says"),
    [
        ("default", "00" * 32 + ".0", "wallet's own"),
        ("coins", "00" * 32, "txid.vout"),
        ("coins", "xy.0", "hexadecimal"),
    ],
)
def test_what_cannot_be_relinquished_is_named(basket: str, output: str, says: str) -> None:
    with pytest.raises(BadInstruction, match=says):
        read(asked(relinquish=[{"basket": basket, "output": output}]))


def test_no_name_is_the_beginning_of_anothers_entries() -> None:
    names, values = ("a", "ab", "b", ""), (b"", b"\0", b"a", b"ba", b"\xff" * 300)
    groups = [listing.key(basket, tag) for basket in names for tag in ("", "a", "ba", "b", "x" * 300)]
    groups += [listing.field_key(basket, number, value) for basket in names for number in (0, 15) for value in values]
    assert len(set(groups)) == len(groups)
    assert not [(one, other) for one in groups for other in groups if one != other and other.startswith(one)]
    assert listing.group_in(listing.key("é", "tag")) == listing.Group("é", "tag")
    assert listing.group_in(listing.field_key("é", 15, b"\xff\0")) == listing.Group("é", "", 15, b"\xff\0")
    for basket in ("a", "ab", "b"):
        own = [group for group in groups if listing.group_in(group).basket == basket]
        assert min(own) == listing.key(basket)
        assert max(own) < listing.behind(basket) < min(group for group in [*groups, b"\xff"] if group > max(own))


# --- random histories


class Step(msgspec.Struct):
    what: str  # apply | evict | readmit
    tx: int
    outputs: list[tuple[int, str, list[str]]]  # index, basket or nothing for a payment, tags
    relinquish: list[tuple[str, int, int]]  # basket, which transaction, output
    index: dict[str, list[int]]  # by basket, fields
    proven: bool


STEPS = st.lists(
    st.builds(
        Step,
        st.sampled_from(["apply", "apply", "apply", "evict", "readmit"]),
        st.integers(0, 5),
        st.lists(
            st.tuples(
                st.integers(0, 3),
                st.sampled_from(["", "a", "b"]),
                st.lists(st.sampled_from(["s", "t", "u"]), max_size=3),
            ),
            max_size=4,
            unique_by=lambda one: one[0],
        ),
        st.lists(st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 5), st.integers(0, 2)), max_size=2),
        st.dictionaries(st.sampled_from(["a", "b"]), st.lists(st.integers(0, 3), min_size=1, max_size=3), max_size=2),
        st.booleans(),
    ),
    min_size=3,
    max_size=16,
)


TOKENS: dict[bytes, list[bytes]] = {
    token(b"red", b"\x01"): [b"red", b"\x01"],
    token(b"red", b"", b"long" * 70): [b"red", b"", b"long" * 70],
    token(b"blue", b"\x01", after=True): [b"blue", b"\x01"],
    token(b"red", after=True): [b"red"],
    token(b"red", b"\x01") + b"\x6a": [],
    b"\x51": [],
}
"""Scripts, and the fields they have."""

VALUES = [b"red", b"blue", b"\x01", b"", b"long" * 70, b"none"]


@st.composite
def families(draw: st.DrawFn) -> list[Tx]:
    """Transactions that spend each other's outputs and others', some of them the same; of two outputs that can be
    payments, and two that are none: most of these are PushDrop."""
    found: list[Tx] = []
    for salt in range(draw(st.integers(2, 6))):
        made = [outpoint(tx.txid, vout) for tx in found for vout in range(4)]
        pool = [*made[-6:], coin_of_others(salt % 2), coin_of_others(2)]
        spends = draw(st.lists(st.sampled_from(pool), min_size=1, max_size=2, unique=True))
        tokens = draw(st.lists(st.sampled_from(list(TOKENS)), min_size=2, max_size=2))
        found.append(paying(PAID, OTHER_P2PKH, *tokens, spends=spends, salt=salt))
    return found


def instruction_of(step: Step, family: Sequence[Tx]) -> Instruction:
    outputs = [
        insertion(index, basket or "a", tags=tags)
        if basket or index >= 2
        else payment(index, **({"linkage": LINK.hex()} if index == 0 else {}))
        for index, basket, tags in step.outputs
    ]
    named = {each["insertionRemittance"]["basket"] for each in outputs if "insertionRemittance" in each}
    index = [{"basket": basket, "fields": fields} for basket, fields in step.index.items() if basket in named]
    left = [
        {"basket": basket, "output": f"{display(family[which % len(family)].txid)}.{vout}"}
        for basket, which, vout in step.relinquish
    ]
    return read(asked(*outputs, relinquish=left, index=index))


def history(family: Sequence[Tx], steps: Sequence[Step], look: Callable[[Owner], None]) -> Owner:
    owner = Owner()
    for number, step in enumerate(steps):
        tx = family[step.tx % len(family)]
        match step.what:
            case "evict":
                owner.do(CONTEXT, Evict(f"evict:{number}", tx.txid, "network.rejected", "no"))
            case "readmit":
                owner.do(CONTEXT, Readmit(f"readmit:{number}", tx.txid))
            case _:
                do(owner, tx, instruction_of(step, family), number, proven=step.proven)
        look(owner)
    return owner


Live = dict[Outpoint, tuple[Payment | Insertion, int]]


def pushed_by(owner: Owner) -> dict[Outpoint, list[bytes]]:
    """What fields the outputs of all submitted transactions have, as they were made."""
    held = entries_of(owner.store, CONTEXT)
    applied = [read_tx(value.submission.raw) for value in held.values() if isinstance(value, Applied)]
    return {outpoint(tx.txid, vout): TOKENS.get(tx.locking(vout), []) for tx in applied for vout in range(4)}


def fields_found(what: Payment | Insertion, pushed: list[bytes]) -> dict[int, bytes]:
    wanted = what.fields if isinstance(what, Insertion) else ()
    return {number: pushed[number] for number in wanted if number < len(pushed)}


def live_outputs(owner: Owner) -> tuple[Live, dict[bytes, bytes]]:
    """What the known set and its instructions give, in the plainest way; and the state entries that follow."""
    held = entries_of(owner.store, CONTEXT)
    known = {rest: value.spends for (_, rest), value in held.items() if isinstance(value, Known)}
    applied = {rest: value.submission for (_, rest), value in held.items() if isinstance(value, Applied)}
    said: dict[Outpoint, tuple[Payment | Insertion, int]] = {}
    for txid, submission in applied.items():
        for index, what in baskets.of_submission(submission.off_chain).instruction.outputs:
            said[outpoint(txid, index)] = what, read_tx(submission.raw).satoshis(index)
    follows = derive(known, applied, "baskets", baskets.Wallet())
    left: dict[tuple[str, Outpoint], list[bytes]] = {}
    for txid, submission in applied.items():
        for named in baskets.of_submission(submission.off_chain).instruction.relinquished:
            left.setdefault(named, []).append(txid)
    live = {point: said[point] for point in follows.coins if (baskets.basket_of(said[point][0]), point) not in left}
    entries = {(state.COIN, point): b"" for point in follows.coins}
    entries |= {
        (state.RELINQUISHED, listing.key(basket) + point): state.encode(Relinquished(tuple(sorted(by))))
        for (basket, point), by in left.items()
    }
    pushed = pushed_by(owner)
    fields = {point: fields_found(what, pushed[point]) for point, (what, _) in said.items()}
    entries |= {
        (state.PLACED, point): state.encode(Placed(*what, tuple(fields[point].items()))) for point, what in said.items()
    }
    tallies: dict[bytes, Tally] = {}
    for point, (what, satoshis) in live.items():
        basket, tags = ("default", ()) if isinstance(what, Payment) else (what.basket, what.tags)
        unknown = isinstance(what, Payment) and not what.linkage
        groups = [listing.key(basket, tag) for tag in ("", *tags)]
        for group in (*groups, *(listing.field_key(basket, number, value) for number, value in fields[point].items())):
            entries[state.LISTED, group + point] = b""
            old = tallies.get(group, Tally())
            tallies[group] = Tally(
                old.outputs + 1,
                old.satoshis + (0 if unknown else satoshis),
                old.unverified + (satoshis if unknown else 0),
            )
    entries |= {(state.TALLY, group): state.encode(tally) for group, tally in tallies.items()}
    return live, {key(CONTEXT, kind, rest): state.seal(value) for (kind, rest), value in entries.items()}


def in_state_root(owner: Owner) -> dict[bytes, bytes]:
    prefix = CONTEXT.encode() + b"\0"
    return {
        entry: stored
        for entry, stored in owner.store.entries.items()
        if entry.startswith(prefix) and entry[len(prefix)] in state.IN_STATE_ROOT
    }


@pytest.mark.invariant("BASKET-2")
@settings(CHEAP, max_examples=much(150, 10_000))
@given(families(), STEPS)
def test_baskets_follow_from_the_set_and_its_instructions(family: list[Tx], steps: list[Step]) -> None:
    """After every step; roots and journal have them like everything else."""

    def look(owner: Owner) -> None:
        _, expected = live_outputs(owner)
        assert in_state_root(owner) == expected
        root = roots_of({entry: stored[:32] for entry, stored in expected.items()})[0]
        assert head_of(owner.store, CONTEXT).state_root == root

    owner = history(family, steps, look)
    for (kind, txid), value in entries_of(owner.store, CONTEXT).items():
        if kind == state.TX:
            assert isinstance(value, Applied)
            entry = JOURNAL.decode(owner.journal[CONTEXT][value.brought - 1])
            assert (entry.sequence, entry.txid) == (value.brought, txid)
            assert entry.beef
    held, _ = replayed(owner.journal.get(CONTEXT, ()))
    prefix = CONTEXT.encode() + b"\0"
    assert held == {
        entry: stored[:32]
        for entry, stored in owner.store.entries.items()
        if entry.startswith(prefix) and not state.is_index(entry)
    }


@settings(CHEAP, max_examples=much(150, 10_000))
@given(
    families(), STEPS, st.sampled_from(["a", "b", "c", "default"]), st.lists(st.sampled_from("stuv"), max_size=4),
    st.lists(st.tuples(st.integers(0, 2), st.sampled_from(VALUES)), max_size=2), st.booleans(), st.integers(1, 5),
    st.integers(0, 5),
)  # fmt: skip
def test_list_outputs_answers_what_looking_at_each_output_gives(
    family: list[Tx], steps: list[Step], basket: str, tags: list[str], fields: list[tuple[int, bytes]], every: bool,
    limit: int, offset: int,
) -> None:  # fmt: skip
    owner = history(family, steps, lambda _: None)
    live, _ = live_outputs(owner)
    pushed = pushed_by(owner)
    matching = []
    for point, (what, _) in sorted(live.items()):
        own = set() if isinstance(what, Payment) else set(what.tags)
        if ("default" if isinstance(what, Payment) else what.basket) != basket:
            continue
        if not set(fields) <= set(fields_found(what, pushed[point]).items()):
            continue
        if not tags or (set(tags) <= own if every else set(tags) & own):
            matching.append(point)
    wanted = listed.Wanted(
        basket=basket, tags=tuple(tags), every_tag=every, fields=tuple(fields), limit=limit, offset=offset
    )
    found = listed.outputs(owner.store, CONTEXT, wanted)
    assert found.total_outputs == len(matching)
    page = matching[offset : offset + limit]
    assert [each.outpoint for each in found.outputs] == [
        f"{display(point[:32])}.{int.from_bytes(point[32:], 'little')}" for point in page
    ]
    assert [each.satoshis for each in found.outputs] == [live[point][1] for point in page]


@settings(CHEAP, max_examples=much(150, 10_000))
@given(families(), STEPS, st.sampled_from(["a", "b", "default"]), st.integers(0, 3), st.integers(1, 3))
def test_values_are_counted_and_summed_as_looking_at_each_output_gives(
    family: list[Tx], steps: list[Step], basket: str, number: int, limit: int
) -> None:
    owner = history(family, steps, lambda _: None)
    live, _ = live_outputs(owner)
    pushed = pushed_by(owner)
    expected: dict[bytes, list[int]] = {}
    for point, (what, satoshis) in live.items():
        value = fields_found(what, pushed[point]).get(number)
        if baskets.basket_of(what) == basket and value is not None:
            expected.setdefault(value, []).append(satoshis)
    told: list[tuple[bytes, int, int]] = []
    after: bytes | None = None
    while True:
        page = listed.values(owner.store, CONTEXT, basket, number, after=after, limit=limit)
        assert len(page.values) <= limit
        told += [(bytes.fromhex(each.value), each.outputs, each.satoshis) for each in page.values]
        if page.next is None:
            break
        after = bytes.fromhex(page.next)
        assert after == told[-1][0]
    in_order = sorted(expected, key=lambda value: (len(value), value))
    assert told == [(value, len(expected[value]), sum(expected[value])) for value in in_order]
    for value in VALUES:
        only = listed.values(owner.store, CONTEXT, basket, number, only=value).values
        assert [(bytes.fromhex(each.value), each.outputs) for each in only] == [
            (held, count) for held, count, _ in told if held == value
        ]
    held = [(baskets.basket_of(what), satoshis) for what, satoshis in live.values()]
    assert {each: (count, known + doubtful) for each, (count, known, doubtful) in sums(owner).items()} == {
        each: (len([1 for of, _ in held if of == each]), sum(satoshis for of, satoshis in held if of == each))
        for each, _ in held
    }


@settings(CHEAP, max_examples=much(100, 5_000))
@given(st.lists(st.sampled_from([payment(0), payment(0, linkage=LINK.hex()), insertion(0), insertion(1)]), max_size=5))
def test_a_repeat_of_any_instruction_changes_nothing(order: list[dict[str, Any]]) -> None:
    owner = Owner()
    taken: list[Instruction] = []
    for offset, each in enumerate(order):
        if isinstance(do(owner, paying(PAID, PAID), read(asked(each)), offset).said, Answer):
            taken.append(read(asked(each)))
    before = owner.store.entries.copy()
    for offset, instruction in enumerate(taken, 100):
        assert answer(do(owner, paying(PAID, PAID), instruction, offset)).repeat
    changed = {k for k, v in owner.store.entries.items() if before.get(k) != v}
    assert changed <= {state.APPLIED_KEY}


def test_merging_does_not_depend_on_how_instructions_are_put_together() -> None:
    one, two, three = (read(asked(insertion(index, tags=[str(index)]))) for index in range(3))
    each = [baskets.instructed(baskets.encode(instruction)) for instruction in (one, two, three)]

    def both(a: Instructed, b: Instructed) -> Instructed:
        found = baskets.merged(a, b)
        assert isinstance(found, Instructed)
        return found

    assert both(both(each[0], each[1]), each[2]) == both(each[0], both(each[1], each[2]))
    assert both(each[0], each[1]) == both(each[1], each[0])
