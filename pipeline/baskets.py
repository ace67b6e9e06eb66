"""What an owner is to make of a transaction: the rules of BRC-100's `internalizeAction` (BASKET-1).

All baskets of one owner are one context. An instruction says of outputs that they pay the owner (BRC-29), which makes
them change, or that they belong into a basket (BRC-46). A second instruction for one transaction is a merge.
"""

import base64
import binascii
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from typing import TypeVar

import msgspec

from pipeline.codec.tx import Tx
from pipeline.keys import invoice_number, is_public, key_hash, linkage, linked_child
from pipeline.outcome import Verdict
from pipeline.overlay.manager import Subject
from pipeline.overlay.pushdrop import pushed_fields
from pipeline.read import read_outpoint
from schemas.baskets import (
    BasketInstruction,
    IndexedFields,
    Insertion,
    InsertionRemittance,
    Instructed,
    InstructedOutput,
    Instruction,
    Payment,
    PaymentRemittance,
    Placed,
    ReservationClaim,
)
from schemas.external import Admittance
from schemas.types import OWNER, Context, Outpoint

CHANGE = "default"
"""The basket of what pays the owner. No instruction can name it."""

NAME_BYTES = 300
"""Of a basket, a tag or a label."""

CUSTOM_BYTES = 1_000

DESCRIPTION_BYTES = range(5, 51)

FIELD_NUMBERS = range(16)
"""Fields of a PushDrop by which outputs can be found: protocols have up to eleven."""
ID_CHARACTERS = 200
"""Of a request, and of the reservation it makes."""

TOKENS = range(1, 1 << 63)
"""Sequences of a journal."""

FIELD_BYTES = 300
"""Of a field by whose value outputs are found: it stands in keys, as names do."""

MOST_NAMED = 2_000
"""Tags, indexed fields and relinquished outputs in a request: each costs an entry of the state or two."""

T = TypeVar("T", str, bytes, int)

OWNED = "owner:"

_header = msgspec.json.Decoder(tuple[BasketInstruction, ...]).decode
_instruction = msgspec.msgpack.Decoder(Instruction).decode
_instructed = msgspec.msgpack.Decoder(Instructed).decode
_encode = msgspec.msgpack.Encoder().encode

Secrets = Mapping[str, bytes]
"""Secrets of identity keys that this installation holds, by the key in hexadecimal."""


class BadInstruction(ValueError):  # noqa: N818 - what was sent
    """What a sender asks for is nothing BRC-100 allows."""


def is_owner(context: Context) -> bool:
    """Whether a context is an owner's baskets."""
    return context.startswith(OWNED)


# --- reading what was sent


def read_header(header: bytes, secrets: Secrets) -> dict[Context, Instruction]:
    """The header `baskets`: an instruction for each owner's context.

    secrets: with the owner's, a payment's linkage is made here, and need not be sent.

    Raises:
        BadInstruction: what is wrong, in words.
    """
    try:
        given = _header(header)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadInstruction(f"a JSON array of instructions: {error}") from error
    found: dict[Context, Instruction] = {}
    named = 0
    for place, each in enumerate(given):
        owner = each.owner.lower()
        context = OWNED + owner
        try:
            if OWNER.fullmatch(context) is None or not is_public(bytes.fromhex(owner)):
                raise BadInstruction("owner is an identity key: 33 bytes in hexadecimal, of a point of the curve")
            if context in found:
                raise BadInstruction("an owner is named once")
            found[context] = _normal(each, owner, secrets.get(owner))
        except BadInstruction as bad:
            raise BadInstruction(f"[{place}]: {bad}") from bad
        instruction = found[context]
        named += sum(len(tags_of(what)) + len(fields_of(what)) for _, what in instruction.outputs)
        named += len(instruction.relinquished) + len(instruction.reservations)
        if named > MOST_NAMED:
            raise BadInstruction(
                f"more than {MOST_NAMED:,} tags, indexed fields, relinquished outputs and reservations"
            )
    return found


def _normal(given: BasketInstruction, owner: str, secret: bytes | None) -> Instruction:
    if len(given.description.encode()) not in DESCRIPTION_BYTES:
        raise BadInstruction("description has 5 to 50 bytes")
    outputs: dict[int, Payment | Insertion] = {}
    indexed = _indexed(given.index)
    for one in given.outputs:
        if one.output_index in outputs:
            raise BadInstruction(f"output {one.output_index} is named once")
        what = _output(one, owner, secret)
        if isinstance(what, Insertion):
            what = msgspec.structs.replace(what, fields=indexed.get(what.basket, ()))
        outputs[one.output_index] = what
    if missing := sorted(indexed.keys() - {basket_of(what) for what in outputs.values()}):
        raise BadInstruction(f"index: no output is inserted into {missing[0]!r}")
    labels = sorted({name_of("label", label) for label in given.labels})
    relinquished = sorted({(basket_name(each.basket), _point(each.output)) for each in given.relinquish})
    claims = dict(_claim(each) for each in given.reservations)
    if len(claims) < len(given.reservations):
        raise BadInstruction("a reservation is named once")
    return Instruction(
        tuple(sorted(outputs.items(), key=itemgetter(0))),
        (given.description,),
        tuple(labels),
        tuple(relinquished),
        tuple(sorted(claims.items())),
    )


def _indexed(given: Iterable[IndexedFields]) -> dict[str, tuple[int, ...]]:
    """By basket, which fields its outputs are found by."""
    found: dict[str, tuple[int, ...]] = {}
    for each in given:
        basket = basket_name(each.basket)
        if basket in found:
            raise BadInstruction(f"index: {basket!r} is named once")
        if not each.fields or not set(each.fields) <= set(FIELD_NUMBERS):
            raise BadInstruction(f"index: fields are numbers from 0 to {FIELD_NUMBERS[-1]}, one at least")
        found[basket] = tuple(sorted(set(each.fields)))
    return found


def _claim(given: ReservationClaim) -> tuple[str, int]:
    if not 1 <= len(given.id) <= ID_CHARACTERS:
        raise BadInstruction(f"a reservation's id has 1 to {ID_CHARACTERS} characters")
    if given.token not in TOKENS:
        raise BadInstruction("a reservation's token is a number from 1 on")
    return given.id, given.token


def _point(text: str) -> Outpoint:
    try:
        return read_outpoint(text)
    except ValueError as error:
        raise BadInstruction(f"relinquish: {error}") from error


def _output(one: InstructedOutput, owner: str, secret: bytes | None) -> Payment | Insertion:
    if one.output_index < 0:
        raise BadInstruction("outputIndex counts from 0")
    payment, insertion = one.payment_remittance, one.insertion_remittance
    if one.protocol == "wallet payment":
        if payment is None or insertion is not None:
            raise BadInstruction("a wallet payment has a paymentRemittance, and nothing else")
        return _payment(payment, owner, secret)
    if insertion is None or payment is not None:
        raise BadInstruction("a basket insertion has an insertionRemittance, and nothing else")
    return _insertion(insertion)


def _payment(given: PaymentRemittance, owner: str, secret: bytes | None) -> Payment:
    for name, text in (("derivationPrefix", given.derivation_prefix), ("derivationSuffix", given.derivation_suffix)):
        try:
            base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise BadInstruction(f"{name} is base64: {error}") from error
        if not text:
            raise BadInstruction(f"{name} is empty")
    sender = _hex("senderIdentityKey", given.sender_identity_key, 33)
    if not is_public(sender):
        raise BadInstruction("senderIdentityKey is no point of the curve")
    link = _hex("linkage", given.linkage, 32) if given.linkage else b""
    if secret is not None:
        link = linkage(sender, secret, payment_invoice(given.derivation_prefix, given.derivation_suffix))
    return Payment(given.derivation_prefix, given.derivation_suffix, sender, link)


def payment_invoice(prefix: str, suffix: str) -> str:
    """What a payment's key is derived for: the texts as they were sent (BRC-29)."""
    return invoice_number(2, "3241645161d8", f"{prefix} {suffix}")


def _insertion(given: InsertionRemittance) -> Insertion:
    if len(given.custom_instructions.encode()) > CUSTOM_BYTES:
        raise BadInstruction(f"customInstructions has more than {CUSTOM_BYTES:,} bytes")
    tags = sorted({name_of("tag", tag) for tag in given.tags})
    return Insertion(basket_name(given.basket), given.custom_instructions, tuple(tags))


def basket_name(text: str) -> str:
    """A basket's name as it is kept (BRC-100).

    Raises:
        BadInstruction: it is none that applications may name.
    """
    name = name_of("basket", text)
    if name == CHANGE:
        raise BadInstruction(f"the basket {CHANGE} is the wallet's own")
    if name.startswith(("admin", "p ")):
        raise BadInstruction("baskets whose names begin `admin` or `p ` are reserved")
    return name


def name_of(what: str, text: str) -> str:
    """A name as it is kept: trimmed, in lower case.

    Raises:
        BadInstruction: it is empty, or longer than 300 bytes.
    """
    name = text.strip().lower()
    if not 1 <= len(name.encode("utf-8", "surrogatepass")) <= NAME_BYTES:
        raise BadInstruction(f"a {what} has 1 to {NAME_BYTES} bytes")
    return name


def _hex(name: str, text: str, size: int) -> bytes:
    try:
        found = bytes.fromhex(text)
    except ValueError as error:
        raise BadInstruction(f"{name} is hexadecimal: {error}") from error
    if len(found) != size:
        raise BadInstruction(f"{name} has {size} bytes")
    return found


def beyond(instructions: Iterable[Instruction], outputs: int) -> int | None:
    """An output that is named, and that a transaction with so many does not make."""
    named = (index for each in instructions for index, _ in each.outputs[-1:])
    return next((index for index in named if index >= outputs), None)


def unfit(instructions: Iterable[Instruction], tx: Tx) -> str | None:
    """Why instructions cannot be about this transaction, in words: an output that it does not make, or a field that is
    too long to be found by.

    Cost: each script with indexed fields is looked through once.
    """
    given = list(instructions)
    if (beyond_all := beyond(given, len(tx.outs) - 1)) is not None:
        return f"the transaction makes no output {beyond_all}"
    for index, what in (output for each in given for output in each.outputs):
        for number, value in _fields(what, tx, index):
            if len(value) > FIELD_BYTES:
                return f"field {number} of output {index} has {len(value):,} bytes: {FIELD_BYTES} at most are indexed"
    return None


def _fields(what: Payment | Insertion, tx: Tx, index: int) -> list[tuple[int, bytes]]:
    """Number and value of the fields that an output has and that it is to be found by."""
    wanted = fields_of(what)
    pushed = pushed_fields(tx.locking(index)) if wanted else None
    return [(number, pushed[number]) for number in wanted if number < len(pushed)] if pushed is not None else []


# --- in a context


def encode(instruction: Instruction) -> bytes:
    """As it travels, and as it is known again by."""
    return _encode(instruction)


def instructed(encoded: bytes) -> Instructed:
    """One instruction, on its own.

    encoded: see `encode`.
    """
    return Instructed(_instruction(encoded), (hashlib.sha256(encoded).digest(),))


def of_submission(off_chain: bytes) -> Instructed:
    """What a transaction of an owner's context was submitted with."""
    return _instructed(off_chain)


def for_submission(what: Instructed) -> bytes:
    """Inverse of `of_submission`."""
    return _encode(what)


def check(context: Context, instruction: Instruction, tx: Tx) -> Verdict | None:
    """Why an instruction does not fit to its transaction: an output does not pay the owner.

    A payment whose linkage nobody has must be P2PKH all the same; more cannot be told of it.
    """
    owner = bytes.fromhex(context.removeprefix(OWNED))
    for index, what in instruction.outputs:
        if isinstance(what, Insertion):
            continue
        script = tx.locking(index)
        if not (len(script) == 25 and script.startswith(b"\x76\xa9\x14") and script.endswith(b"\x88\xac")):
            return Verdict("admission.not-paid", f"output {index} is no P2PKH (BRC-29)", f"output {index}")
        if what.linkage and paid_to(owner, what.linkage) != script[3:23]:
            return Verdict("admission.not-paid", f"output {index} does not pay the derived key", f"output {index}")
    return None


def paid_to(owner: bytes, link: bytes) -> bytes:
    """What P2PKH must name, by an owner's key and a payment's linkage; empty where they give no key."""
    try:
        return key_hash(linked_child(owner, link))
    except ValueError:
        return b""


def merged(before: Instructed, second: Instructed) -> Instructed | Verdict:
    """A transaction's instructions with a further one (BRC-100, and the reference wallet's rules).

    A payment makes change of what was in a basket. Change stays change: nothing can insert it, and a second payment
    says nothing new, but for a linkage that the first one lacked. An insertion of what is in a basket moves it there,
    with the tags and the indexed fields of both.
    """
    outputs = dict(before.instruction.outputs)
    for index, what in second.instruction.outputs:
        old = outputs.get(index)
        if isinstance(old, Payment) and isinstance(what, Insertion):
            return Verdict("admission.change", f"output {index} is change of {CHANGE}", f"output {index}")
        if isinstance(old, Payment) and isinstance(what, Payment) and (old.linkage or not what.linkage):
            continue
        if isinstance(old, Insertion) and isinstance(what, Insertion):
            tags, fields = _united(old.tags, what.tags), _united(old.fields, what.fields)
            what = msgspec.structs.replace(what, tags=tags, fields=fields)
        outputs[index] = what
    one, other = before.instruction, second.instruction
    instruction = Instruction(
        tuple(sorted(outputs.items(), key=itemgetter(0))),
        _united(one.descriptions, other.descriptions),
        _united(one.labels, other.labels),
        tuple(sorted({*one.relinquished, *other.relinquished})),
        tuple(sorted({*one.reservations, *other.reservations})),
    )
    return Instructed(instruction, _united(before.followed, second.followed))


def _united(one: Sequence[T], other: Sequence[T]) -> tuple[T, ...]:
    return tuple(sorted(set(one).union(other)))


class Wallet:
    """The rule of an owner's context: what an instruction names enters, and what is spent leaves."""

    version = "1"

    def admit(self, subject: Subject) -> Admittance:
        """See `TopicManager`."""
        outputs = of_submission(subject.off_chain_values).instruction.outputs
        return Admittance(tuple([index for index, _ in outputs]))


def basket_of(what: Payment | Insertion) -> str:
    """Where an output is."""
    return CHANGE if isinstance(what, Payment) else what.basket


def tags_of(what: Payment | Insertion) -> tuple[str, ...]:
    """By what it is found there."""
    return () if isinstance(what, Payment) else what.tags


def fields_of(what: Payment | Insertion) -> tuple[int, ...]:
    """By which fields of its script it is found there."""
    return () if isinstance(what, Payment) else what.fields


def placed(what: Payment | Insertion, tx: Tx, index: int) -> Placed:
    """What an instruction says of an output, with the values it is found by.

    An output that is no PushDrop, or has no such field, is found by the others.
    """
    return Placed(what, tx.satoshis(index), tuple(_fields(what, tx, index)))
