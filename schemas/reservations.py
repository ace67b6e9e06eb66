"""Reservations of an owner's outputs: what is asked for, what is kept in the state, and what is answered.

A reservation holds outputs for whoever asked until its lease ends. Its token is a number that rises with every
reservation of the owner: a spend names both, and one that comes too late names what is no longer there.
"""

from typing import Literal

from msgspec import Struct

from schemas.external import ContextState, ResultOrigin
from schemas.flow import Origin
from schemas.wire import Schema

Operation = Literal["reserve", "extend", "release"]

Said = Literal["reserved", "extended", "released", "refused", "expired", "consumed", "lost"]


class OwnerRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What somebody asks of an owner's outputs."""

    id: str  # 1 to 200 characters of the sender's choice: a repeat of it is told what it was told, and takes no effect
    owner: str  # identity key, 33 bytes in hexadecimal
    operation: Operation
    lease_s: int = 0  # of reserve and extend: seconds from the decision on, 1 to 86,400
    basket: str = ""  # of reserve, by number: where the outputs are
    count: int = 0  # of reserve, by number: how many, 1 to 1,000; all of them, or none
    tags: tuple[str, ...] = ()  # of reserve, by number: an output has all of them
    outputs: tuple[str, ...] = ()  # of reserve, by name: txid.vout each, 1 to 1,000; all of them, or none
    holder: str = ""  # of reserve: who it is for, as people want to read it; 200 characters at most
    reservation: str = ""  # of extend and release: the id of the request that reserved
    token: int | None = None  # of extend, and of release where it is known: what the reservation was answered with


class OwnerAnswer(Struct, frozen=True, kw_only=True):
    """What became of a request, or of a reservation. Readers keep one for each id."""

    id: str  # 128-bit hash, hexadecimal: the same for the same answer, however often it is given
    request_id: str | None  # null where the request could not be read; of a reservation that ended, its id
    owner: str | None  # null where the request could not be read
    outcome: Said  # the last three are of a reservation that holds less than before, unasked
    code: str | None = None
    message: str | None = None
    reservation: str | None = None
    token: int | None = None  # rises from one reservation of an owner to the next
    holder: str | None = None
    outputs: tuple[
        str, ...
    ] = ()  # txid.vout: of `reserved` and `extended` what is held, of all others what is not any more
    ends: str | None = None  # RFC 3339, UTC: when the lease ends
    txid: str | None = None  # of `consumed` and `lost`: the spender, or the transaction that left with its outputs
    sequence: int | None = None  # of the owner's journal
    state_root: str | None = None  # hexadecimal
    repeat: bool = False  # the request had been answered under another coordinate
    origin: ResultOrigin | None = None  # the request's record
    time: str  # RFC 3339, UTC


# --- kept in the state


class Reservation(Struct, frozen=True, array_like=True):
    """Outputs that somebody holds."""

    token: int  # sequence of the journal entry that made it
    holder: str
    since_ms: int
    ends_ms: int  # the first moment at which it is over
    points: bytes  # what it holds, 36 bytes each, by their bytes


class Holding(Struct, frozen=True, array_like=True):
    """All of an owner's."""

    reservations: int = 0
    outputs: int = 0
    soonest_ms: int = 0  # no lease ends before; where there are none, of no meaning


class Answer(Struct, frozen=True, array_like=True):
    """What a request was told."""

    outcome: Said
    reservation: str
    code: str = ""
    message: str = ""
    token: int = 0
    holder: str = ""
    points: bytes = b""  # see `OwnerAnswer.outputs`
    ends_ms: int = 0
    sequence: int = 0
    state_root: bytes = b""


class Answered(Struct, frozen=True, array_like=True):
    """A request that was answered."""

    asked: bytes  # SHA-256 of what it asked for
    origin: Origin
    answer: Answer


# --- told to readers


class HeldReservation(Struct, frozen=True, kw_only=True):
    """A reservation as it stands."""

    id: str
    token: int
    holder: str
    since: str  # RFC 3339, UTC
    ends: str  # RFC 3339, UTC
    outputs: tuple[str, ...]  # txid.vout: what it holds still


class OneReservation(Struct, frozen=True, kw_only=True):
    """One of an owner's, and the state it is of."""

    state: ContextState
    reservation: HeldReservation | None  # null: there is none of that id, or it has ended


class Reservations(Struct, frozen=True, kw_only=True):
    """An owner's, a page of them, by id."""

    state: ContextState
    total_reservations: int
    total_outputs: int  # that all of them hold
    reservations: tuple[HeldReservation, ...]
    next: str | None  # the id to go on behind; null: these are the last


OWNER_REQUEST = Schema("owner-request", 1, OwnerRequest, "json", "What somebody asks of an owner's outputs.")
OWNER_ANSWER = Schema("owner-answer", 1, OwnerAnswer, "json", "What became of a request, or of a reservation.")
