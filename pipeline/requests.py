"""Requests as strangers write them: JSON to what a context is asked, or what is wrong with it."""

import msgspec
from msgspec import Struct

from pipeline.baskets import ID_CHARACTERS, OWNED, TOKENS, BadInstruction, basket_name, name_of
from pipeline.keys import is_public
from pipeline.outcome import Verdict
from pipeline.read import read_outpoint
from schemas.flow import Extend, Release, Reserve
from schemas.reservations import OwnerRequest
from schemas.types import OWNER, Context, Outpoint

MOST = 1_000
"""Outputs of a reservation: each costs an entry, and all of them stand in one of the journal."""

LEASE_S = range(1, 86_401)
"""A day at most; who needs longer extends it, and shows that he is still there."""

HOLDER_CHARACTERS = 200

MOST_TAGS = 16
"""Of each it is looked up whether an output has it."""

_request = msgspec.json.Decoder(OwnerRequest).decode


class Read(Struct, frozen=True):
    """A request that is well formed."""

    context: Context
    request_id: str
    what: Reserve | Extend | Release


class Unread(Struct, frozen=True):
    """One that is not: why, and as much of it as can be told."""

    verdict: Verdict
    request_id: str | None
    owner: str | None


class _Named(Struct):
    id: str | None = None
    owner: str | None = None


_named = msgspec.json.Decoder(_Named).decode


def read(value: bytes) -> Read | Unread:
    """A record of `requests`."""
    try:
        asked = _request(value)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        try:
            names = _named(value)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            names = _Named()
        return _unread(f"a JSON object: {error}", names.id, names.owner)
    try:
        return _read(asked)
    except BadInstruction as bad:
        return _unread(str(bad), asked.id, asked.owner)


def _unread(message: str, request_id: str | None, owner: str | None) -> Unread:
    short = request_id[:ID_CHARACTERS] if request_id is not None else None
    return Unread(Verdict("malformed.request", message), short, owner[:66] if owner is not None else None)


def _read(asked: OwnerRequest) -> Read:
    if not 1 <= len(asked.id) <= ID_CHARACTERS:
        raise BadInstruction(f"id has 1 to {ID_CHARACTERS} characters")
    context = OWNED + asked.owner.lower()
    if OWNER.fullmatch(context) is None or not is_public(bytes.fromhex(asked.owner)):
        raise BadInstruction("owner is an identity key: 33 bytes in hexadecimal, of a point of the curve")
    if asked.operation == "reserve":
        _only(asked, reserves=True)
        return Read(context, asked.id, _reserve(asked))
    _only(asked, reserves=False)
    if not 1 <= len(asked.reservation) <= ID_CHARACTERS:
        raise BadInstruction(f"reservation is an id, of 1 to {ID_CHARACTERS} characters")
    if asked.token is not None and asked.token not in TOKENS:
        raise BadInstruction("token is a number from 1 on")
    if asked.operation == "release":
        if asked.lease_s:
            raise BadInstruction("lease_s is of reserve and extend")
        return Read(context, asked.id, Release(asked.reservation, asked.token or 0))
    if asked.token is None:
        raise BadInstruction("token is what the reservation was answered with")
    return Read(context, asked.id, Extend(asked.reservation, asked.token, _lease_ms(asked)))


def _only(asked: OwnerRequest, *, reserves: bool) -> None:
    """What belongs to another operation is a mistake, and not to be passed over."""
    of_reserve = {"basket": asked.basket, "count": asked.count, "tags": asked.tags, "outputs": asked.outputs}
    of_reserve |= {"holder": asked.holder}
    of_others = {"reservation": asked.reservation, "token": asked.token is not None}
    for name, given in (of_others if reserves else of_reserve).items():
        if given:
            raise BadInstruction(f"{name} is not of {asked.operation}")


def _reserve(asked: OwnerRequest) -> Reserve:
    if len(asked.holder) > HOLDER_CHARACTERS:
        raise BadInstruction(f"holder has at most {HOLDER_CHARACTERS} characters")
    lease_ms = _lease_ms(asked)
    if asked.outputs:
        if asked.basket or asked.count or asked.tags:
            raise BadInstruction("outputs are named, or counted in a basket")
        return Reserve(_points(asked.outputs), "", (), 0, asked.holder, lease_ms)
    if not 1 <= asked.count <= MOST:
        raise BadInstruction(f"count is a number from 1 to {MOST:,}")
    tags = sorted({name_of("tag", tag) for tag in asked.tags})
    if len(tags) > MOST_TAGS:
        raise BadInstruction(f"{MOST_TAGS} tags at most")
    return Reserve((), basket_name(asked.basket), tuple(tags), asked.count, asked.holder, lease_ms)


def _points(given: tuple[str, ...]) -> tuple[Outpoint, ...]:
    if len(given) > MOST:
        raise BadInstruction(f"outputs are at most {MOST:,}")
    try:
        points = sorted({read_outpoint(text) for text in given})
    except ValueError as error:
        raise BadInstruction(f"outputs: {error}") from error
    if len(points) < len(given):
        raise BadInstruction("an output is named once")
    return tuple(points)


def _lease_ms(asked: OwnerRequest) -> int:
    if asked.lease_s not in LEASE_S:
        raise BadInstruction(f"lease_s is a number of seconds from {LEASE_S.start} to {LEASE_S.stop - 1:,}")
    return asked.lease_s * 1_000
