"""Wallet baskets (BRC-46, BRC-100): what a sender asks for, what of it is kept, and what readers are told.

The header `baskets` of an ingest record is a JSON array of `BasketInstruction`, one for each owner: what BRC-100's
`internalizeAction` takes beside its transaction.
"""

from typing import Literal

from msgspec import Struct, field

from schemas.external import ContextState
from schemas.types import Outpoint, Txid


class PaymentRemittance(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """How the key was derived that a wallet payment pays (BRC-29)."""

    derivation_prefix: str  # base64, as it was sent
    derivation_suffix: str  # base64, as it was sent
    sender_identity_key: str  # 33 bytes in hexadecimal
    linkage: str = (
        ""  # specific key linkage (BRC-72), 32 bytes in hexadecimal: the owner's key and it give the key paid
    )


class InsertionRemittance(Struct, frozen=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    """Where an output belongs, and what its owner wants to know of it."""

    basket: str  # 1 to 300 bytes, lower case
    custom_instructions: str = ""  # 1,000 bytes at most; how to unlock it is the owner's business
    tags: tuple[str, ...] = ()  # 1 to 300 bytes each, lower case


class InstructedOutput(Struct, frozen=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    """An output of the subject that is to be the owner's."""

    output_index: int
    protocol: Literal["wallet payment", "basket insertion"]
    payment_remittance: PaymentRemittance | None = None
    insertion_remittance: InsertionRemittance | None = None


class RelinquishedOutput(Struct, frozen=True, forbid_unknown_fields=True):
    """An output that its owner wants to know of no longer: what `relinquishOutput` of BRC-100 takes."""

    basket: str
    output: str  # txid.vout, the txid in display hex


class IndexedFields(Struct, frozen=True, forbid_unknown_fields=True):
    """By which fields of their PushDrop scripts the outputs are to be found that this instruction inserts."""

    basket: str
    fields: tuple[int, ...]  # numbers from 0 to 15


class ReservationClaim(Struct, frozen=True, forbid_unknown_fields=True):
    """A reservation whose outputs the transaction spends."""

    id: str
    token: int  # what the reservation was answered with


class BasketInstruction(Struct, frozen=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    """What an owner is to make of the transaction."""

    owner: str  # identity key, 33 bytes in hexadecimal
    description: str  # 5 to 50 bytes
    outputs: tuple[InstructedOutput, ...] = ()  # none: the transaction spends what is the owner's, and brings nothing
    labels: tuple[str, ...] = ()  # 1 to 300 bytes each, lower case
    relinquish: tuple[RelinquishedOutput, ...] = ()  # of this transaction or of any other
    index: tuple[IndexedFields, ...] = ()  # of baskets that `outputs` insert into
    reservations: tuple[ReservationClaim, ...] = ()  # that hold what the transaction spends


# --- kept in the state


class Payment(Struct, frozen=True, array_like=True, tag="payment"):
    """An output that pays the owner."""

    prefix: str
    suffix: str
    sender: bytes  # identity key, 33 bytes
    linkage: bytes = b""  # 32 bytes; empty where nobody here can tell whether the owner's key is paid


class Insertion(Struct, frozen=True, array_like=True, tag="insertion"):
    """An output in a basket other than `default`."""

    basket: str
    custom_instructions: str
    tags: tuple[str, ...]  # sorted
    fields: tuple[int, ...] = ()  # of its PushDrop script, by which it is found too; sorted


class Instruction(Struct, frozen=True, array_like=True):
    """What an owner is to make of a transaction, in its one form: equal instructions are equal bytes."""

    outputs: tuple[tuple[int, Payment | Insertion], ...]  # by index, ascending
    descriptions: tuple[str, ...]  # sorted: one, or of several instructions for one transaction
    labels: tuple[str, ...]  # sorted
    relinquished: tuple[tuple[str, Outpoint], ...] = ()  # basket and output, sorted
    reservations: tuple[tuple[str, int], ...] = ()  # id and token of those whose outputs it spends, sorted


class Instructed(Struct, frozen=True, array_like=True):
    """All instructions for a transaction, as one."""

    instruction: Instruction
    followed: tuple[bytes, ...]  # SHA-256 of each that was followed, sorted: a repeat of one is known by it


class Placed(Struct, frozen=True, array_like=True):
    """What instructions say of an output, spent or not."""

    what: Payment | Insertion
    satoshis: int
    fields: tuple[tuple[int, bytes], ...] = ()  # number and value of those it is found by, sorted


class Relinquished(Struct, frozen=True, array_like=True):
    """An output that left its basket without being spent."""

    by: tuple[Txid, ...]  # submitted transactions whose instructions say so, sorted


class Tally(Struct, frozen=True, array_like=True):
    """Live outputs of a basket, or of those with a tag or a field's value."""

    outputs: int = 0
    satoshis: int = 0  # of those that are certainly the owner's
    unverified: int = 0  # satoshis of payments of which nobody here can tell: no part of a balance


# --- told to readers


class BasketOutput(Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """An output as BRC-100's `listOutputs` tells it."""

    outpoint: str  # txid.vout, the txid in display hex
    satoshis: int
    spendable: bool  # false: somebody holds it, or an eviction returned it and another transaction may yet have it
    locking_script: str | None = None  # hexadecimal
    custom_instructions: str | None = None
    tags: tuple[str, ...] | None = None
    labels: tuple[str, ...] | None = None
    fields: dict[int, str] | None = None  # those it is found by, hexadecimal
    payment: PaymentRemittance | None = None  # of change: what its key is derived from
    verified: bool | None = None  # of change: whether it was found to pay the owner's key
    reservation: str | None = None  # that holds it


class BasketOutputs(Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """What `listOutputs` answers, and the state it is of."""

    state: ContextState
    total_outputs: int  # that match, on all pages
    outputs: tuple[BasketOutput, ...]
    beef: bytes | None = field(default=None, name="BEEF")  # base64: their whole transactions, down to proven ones


class BasketSummary(Struct, frozen=True, kw_only=True):
    """What a basket holds."""

    basket: str
    outputs: int
    satoshis: int  # of those that are certainly the owner's: of `default`, the balance
    unverified: int  # satoshis of payments of which nobody here can tell


class Baskets(Struct, frozen=True, kw_only=True):
    """All baskets of an owner that hold something."""

    state: ContextState
    baskets: tuple[BasketSummary, ...]


class FieldValue(Struct, frozen=True, kw_only=True):
    """Live outputs of a basket whose field has this value."""

    value: str  # hexadecimal
    outputs: int
    satoshis: int


class FieldValues(Struct, frozen=True, kw_only=True):
    """What a field of a basket's outputs holds: shorter values first, those of one length by their bytes."""

    state: ContextState
    basket: str
    field: int
    values: tuple[FieldValue, ...]
    next: str | None  # the value to go on behind; none behind the last
