"""What stages hand to each other: MessagePack arrays, so that a new field at the end is ignored by older readers."""

from typing import Literal

from msgspec import Struct

from schemas.types import Context, Outpoint, Txid
from schemas.wire import Schema


class Origin(Struct, frozen=True, array_like=True):
    """The coordinate of the ingest record: the identity of an input, whatever happens to it later.

    The broker's time is part of it, so that a topic which was deleted and made again does not repeat identities.
    """

    cluster: str
    topic: str
    partition: int
    offset: int
    timestamp_ms: int

    def text(self) -> str:
        """One line that is equal for equal coordinates."""
        return f"{self.cluster}/{self.topic}/{self.partition}/{self.offset}/{self.timestamp_ms}"


class Asked(Struct, frozen=True, array_like=True):
    """What the sender asked for, as parse read it from the headers."""

    origin: Origin
    request_id: str
    contexts: tuple[Context, ...]  # collapsed and in the sender's order; 1 to 32
    atomicity: str = "each"  # each | all
    off_chain: bytes = b""
    instructions: tuple[tuple[Context, bytes], ...] = ()  # what owners are to make of it: `Instruction`, encoded


class Parsed(Struct, frozen=True, array_like=True):
    """A payload that is well formed. Nothing in it has been checked against the chain."""

    asked: Asked
    txid: Txid  # of the subject
    beef: bytes  # canonical: BEEF V1, ancestors first, subject last, without repeats and unrelated transactions
    unmined: int  # un-mined transactions, the subject among them; 0 when the subject is proven


class Member(Struct, frozen=True, array_like=True):
    """A transaction of a verified payload, by places in the payload's bytes: they are carried once."""

    txid: Txid
    start: int  # where it begins
    size: int  # bytes
    outputs: int  # how many it makes
    inputs: bytes  # 12 bytes each, see `pipeline/member.py`


class Verified(Struct, frozen=True, array_like=True):
    """A payload whose own history checks out. It says nothing about coins spent elsewhere."""

    asked: Asked
    txid: Txid
    beef: bytes  # canonical, as in Parsed
    members: tuple[Member, ...]  # the un-mined transactions, ancestors first, and last the subject, proven or not
    fee_sat: int  # satoshis, of the subject alone; -1 when it is proven and its parents are absent
    proven_height: int = -1  # block height when the subject carries its own proof


class Examined(Struct, frozen=True, array_like=True):
    """What a topic's manager made of a transaction without looking at state."""

    version: str  # the manager's: facts of another are not looked at
    facts: bytes


class Apply(Struct, frozen=True, array_like=True, tag="apply"):
    """Judge this payload in the context that is the record's key."""

    id: str
    verified: Verified
    examined: Examined | None = None  # None: the manager examines nothing, or is examined by whoever judges
    instruction: bytes = b""  # of an owner's context: `Instruction`, encoded


class Accept(Struct, frozen=True, array_like=True, tag="accept"):
    """The network took these transactions."""

    id: str
    txids: tuple[Txid, ...]
    endpoint: str


class Evict(Struct, frozen=True, array_like=True, tag="evict"):
    """The network refused this transaction for good: it and its descendants leave the context."""

    id: str
    txid: Txid
    code: str
    message: str
    competing: tuple[Txid, ...] = ()


class Readmit(Struct, frozen=True, array_like=True, tag="readmit"):
    """The network took after all what it had refused: it and what left with it come back."""

    id: str
    txid: Txid


class Repaired(Struct, frozen=True, array_like=True, tag="repaired"):
    """A worker's store of the context was not what was written, and was made again."""

    id: str  # says which worker, and what it found


class Part(Struct, frozen=True, array_like=True):
    """What one context of an operation over several is to make of the payload."""

    context: Context
    examined: Examined | None = None  # as in Apply
    instruction: bytes = b""  # as in Apply


class Prepare(Struct, frozen=True, array_like=True, tag="prepare"):
    """Judge this payload in the context that is the record's key, show nothing, and vote (`atomicity: all`)."""

    operation: str  # the same in all its contexts, over all attempts
    attempt: int  # from 0
    apply: Apply
    others: tuple[Part, ...] = ()  # of all contexts but this one, which is named first; empty in those
    spread: bool = False  # that one hands the others their parts: a further attempt


class Decide(Struct, frozen=True, array_like=True, tag="decide"):
    """The coordinator's word on an operation over several contexts, to each of them."""

    operation: str
    attempt: int
    commit: bool
    asked: Asked  # without off-chain values and instructions
    txid: Txid
    final: bool = True  # aborted: no further attempt follows, and the sender is told
    again: bool = False  # aborted: who holds the record makes the next attempt
    kind: Literal["verdict", "condition", "fault"] = "verdict"  # why it was aborted
    code: str = ""
    message: str = ""
    by: Context = ""  # the context that did not agree
    competing: tuple[Txid, ...] = ()


class Reserve(Struct, frozen=True, array_like=True, tag="reserve"):
    """Hold outputs for somebody: those named, or as many of a basket."""

    outputs: tuple[Outpoint, ...]  # sorted; none: by number
    basket: str
    tags: tuple[str, ...]  # sorted
    count: int
    holder: str
    lease_ms: int


class Extend(Struct, frozen=True, array_like=True, tag="extend"):
    """Hold them for longer: a lease from the decision on, if that ends later."""

    reservation: str
    token: int
    lease_ms: int


class Release(Struct, frozen=True, array_like=True, tag="release"):
    """Hold them no longer."""

    reservation: str
    token: int  # 0: not said


class Request(Struct, frozen=True, array_like=True, tag="request"):
    """What somebody asks of the owner whose context is the record's key."""

    id: str
    origin: Origin  # of its record on `requests`
    request_id: str
    what: Reserve | Extend | Release


class Expire(Struct, frozen=True, array_like=True, tag="expire"):
    """Leases of the context have ended. Whatever it is asked, it looks for those first: there is no more to this."""

    id: str


Operation = Apply | Accept | Evict | Readmit | Repaired | Prepare | Decide | Request | Expire
"""Everything a context is asked to do."""


class Pointer(Struct, frozen=True, array_like=True):
    """An ingest record that is to be heard again, under its own coordinate: it lost to a rival that has left."""

    origin: Origin


class Unmined(Struct, frozen=True, array_like=True):
    """A transaction for the network."""

    txid: Txid
    ef: bytes  # Extended Format (BRC-30)


class BroadcastRequest(Struct, frozen=True, array_like=True):
    """An applied transaction and its un-mined ancestors, ready for the network."""

    txid: Txid
    unmined: tuple[Unmined, ...]  # ancestors first, subject last
    contexts: tuple[Context, ...]
    request_ids: tuple[str, ...]
    origin: Origin  # of the payload that brought it


PARSED = Schema("parsed", 1, Parsed, "msgpack", "A well-formed payload with what its sender asked for.")
OPERATION: Schema[Operation] = Schema(
    "operation",
    2,
    Operation,  # type: ignore[arg-type] # a union is not a type to mypy
    "msgpack",
    "Something a context is asked to do.",
)
BROADCAST_REQUEST = Schema(
    "broadcast-request", 2, BroadcastRequest, "msgpack", "An applied transaction, for the network."
)
POINTER = Schema("pointer", 1, Pointer, "msgpack", "An ingest record that is to be heard again.")
EF_TX = Schema("extended-format", 1, bytes, "raw", "One transaction in Extended Format (BRC-30).")
BEEF = Schema("beef", 1, bytes, "raw", "BEEF V1, V2 or Atomic (BRC-62, 96, 95).")
ANY = Schema("any", 1, bytes, "raw", "The record as it was on its origin topic, under that topic's schema.")
