"""Outputs that somebody holds for a while: by whom, until when, and what a spend must show (RESERVE-1, RESERVE-2).

A reservation is named by the request that made it, and its token is the sequence of the journal entry that did: both
are in the instruction of the transaction that spends what it holds. Who comes without them, or after the lease has
ended, is refused; but what is in a block stands, and the reservation gives way.

Time is the worker's, by the batch. Whatever a context is asked, leases that have ended by then end first.
"""

import hashlib
from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from operator import itemgetter

import msgspec
from msgspec import Struct

from pipeline import baskets, holding, listing, state
from pipeline.contextual import Change, Contextual, Ended
from pipeline.outcome import Verdict
from pipeline.read import shown
from pipeline.state import Layer, Live
from schemas.baskets import Placed, Tally
from schemas.flow import Extend, Release, Request, Reserve
from schemas.reservations import (
    Answer,
    Answered,
    Holding,
    Reservation,
)
from schemas.types import Context, Outpoint, Txid, outpoints

MOST_RESERVATIONS = 10_000
"""Of one owner at a time: were all leases to end at once, their entries fill the better part of one transaction."""

MOST_OUTPUTS = 100_000
"""That all of an owner's reservations hold: the same, at 250 bytes each of journal and changelog."""

KEPT_MS = 3_600_000
"""An answer is kept for so long; that of a reservation, from its end on. Whatever doubles a request does so in seconds
or minutes; at a thousand requests a second of one owner's these are four million entries."""

LATE_MS = KEPT_MS // 2
"""A request whose record is older is refused. Half of what answers are kept, so that workers' clocks may differ by as
much: a record that is read again has its answer, or is too old."""

FORGET_EVERY, FORGOTTEN = 16, 64
"""With every so many entries of the journal so many answers are given up whose time has come: more than come new."""

LOOKED_AT = 100
"""Outputs with a tag that are looked at together."""

NO_TXID = bytes(32)

_answered = msgspec.msgpack.Decoder(Answered).decode
_placed = msgspec.msgpack.Decoder(Placed).decode
_reservation = msgspec.msgpack.Decoder(Reservation).decode
_tally = msgspec.msgpack.Decoder(Tally).decode
_holding = msgspec.msgpack.Decoder(Holding).decode


class Requested(Struct, frozen=True):
    """What a request did, and what its sender is told."""

    change: Change
    answer: Answer
    repeat: bool


# --- what is asked


def request(layer: Layer, head: Live, context: Context, operation: Request, now_ms: int) -> Requested:
    """Reserve, extend or release. A request takes effect once: who repeats it is told what he was told.

    Leases that have ended are no longer there (`expire`).
    """
    here = Contextual(context, layer, head, now_ms)
    asked = hashlib.sha256(state.encode(operation.what)).digest()
    name = operation.request_id.encode()
    if (stored := here.value(state.ANSWERED, name)) is not None:
        before = _answered(stored)
        if before.asked != asked:
            told = _refusal(operation, "conflict.request-id", "the request of that id asked for something else")
            return Requested(Change(head), told, repeat=False)
        return Requested(Change(head), before.answer, repeat=before.origin != operation.origin)
    if now_ms - operation.origin.timestamp_ms > LATE_MS:
        told = _refusal(operation, "admission.late-request", f"it waited for more than {LATE_MS // 60_000} minutes")
        return Requested(Change(head), told, repeat=False)
    match operation.what:
        case Reserve():
            said = _reserve(here, operation.request_id, operation.what)
        case Extend():
            said = _extend(here, operation.what)
        case Release():
            said = _release(here, operation.what)
    if isinstance(said, Verdict):
        said = _refusal(operation, said.code, said.message)
    _tidy(here)
    here.fold()  # the answer holds the state root, which the entry that keeps it does not touch
    told = msgspec.structs.replace(said, sequence=here.head.sequence + 1, state_root=here.head.state_root)
    here.put(state.ANSWERED, name, Answered(asked, operation.origin, told))
    if told.outcome != "reserved":  # that one is kept until its reservation has ended, and for a while
        here.put(state.FORGET, _moment(now_ms + KEPT_MS) + name, b"")
    kind = {"reserved": "reserve", "extended": "extend", "released": "release"}.get(told.outcome, "dismiss")
    entry = here.journal(kind, operation.id, NO_TXID, origin=operation.origin)  # type: ignore[arg-type]
    return Requested(Change(here.head, (entry,)), told, repeat=False)


def _refusal(operation: Request, code: str, message: str) -> Answer:
    what = operation.what
    return Answer("refused", operation.request_id if isinstance(what, Reserve) else what.reservation, code, message)


def _reserve(here: Contextual, name: str, asked: Reserve) -> Answer | Verdict:
    """All of what is asked for, or nothing (RESERVE-1)."""
    held = holding.of(here)
    wanted = len(asked.outputs) or asked.count
    if held.reservations >= MOST_RESERVATIONS or held.outputs + wanted > MOST_OUTPUTS:
        said = f"{held.reservations:,} reservations hold {held.outputs:,} outputs"
        return Verdict("policy.reservations", f"{said}; {MOST_RESERVATIONS:,} and {MOST_OUTPUTS:,} are the most")
    chosen = _named(here, asked.outputs) if asked.outputs else _counted(here, asked)
    if isinstance(chosen, Verdict):
        return chosen
    holding.withdraw(here, listing.in_basket(here, chosen))
    holding.hold(here, name, chosen)
    holding.move(here, 1, len(chosen))
    token = here.head.sequence + 1
    made = Reservation(token, asked.holder, here.now_ms, here.now_ms + asked.lease_ms, b"".join(chosen))
    here.put(state.RESERVATION, name.encode(), made)
    here.put(state.LEASE, _moment(made.ends_ms) + name.encode(), b"")
    holding.ends_at(here, made.ends_ms)
    return _told("reserved", name, made)


def _named(here: Contextual, points: Sequence[Outpoint]) -> Sequence[Outpoint] | Verdict:
    free = _free(here, points)
    if len(free) == len(points):
        return points
    there = set(free)
    taken = [shown(point) for point in points if point not in there]
    return Verdict("conflict.not-free", f"{len(taken)} of {len(points)} are not free: {', '.join(taken[:3])}")


def _free(here: Contextual, points: Sequence[Outpoint]) -> list[Outpoint]:
    """Those that are in a basket, and that nobody holds or may yet have."""
    there = [
        (point, _placed(stored))
        for point, stored in zip(points, here.values(state.PLACED, points), strict=True)
        if stored is not None
    ]
    rests = [listing.key(baskets.basket_of(placed.what)) + point for point, placed in there]
    listed = [point for (point, _), yes in zip(there, here.is_there(state.LISTED, rests), strict=True) if yes]
    return _untaken(here, listed)


def _untaken(here: Contextual, points: Sequence[Outpoint]) -> list[Outpoint]:
    taken = [here.is_there(kind, points) for kind in (state.RESERVED, state.CONTESTED, state.LOCK)]
    return [point for point, *said in zip(points, *taken, strict=True) if not any(said)]


def _counted(here: Contextual, asked: Reserve) -> Sequence[Outpoint] | Verdict:
    """The first free ones, by their outpoints' bytes. Cost: those; with tags, what has the rarest of them."""
    some = _with_tags(here, asked) if asked.tags else _any(here, asked.basket)
    if here.value(state.HOLDS, b"") is not None:  # what an undecided operation spends is not offered
        some = (point for point in some if here.value(state.LOCK, point) is None)
    chosen = list(islice(some, asked.count))
    if len(chosen) < asked.count:
        return Verdict("conflict.too-few", f"{len(chosen):,} of {asked.count:,} are free")
    return chosen


def _any(here: Contextual, basket: str) -> Iterator[Outpoint]:
    group = listing.key(basket)
    return (rest[len(group) :] for rest in here.each_with(state.FREE, group))


def _with_tags(here: Contextual, asked: Reserve) -> Iterator[Outpoint]:
    groups = [listing.key(asked.basket, tag) for tag in asked.tags]
    tallies = [_tally(stored).outputs if stored else 0 for stored in here.values(state.TALLY, groups)]
    rarest = groups.pop(tallies.index(min(tallies)))
    basket, rests = listing.key(asked.basket), here.each_with(state.LISTED, rarest)
    while some := list(islice(rests, LOOKED_AT)):
        points = [rest[len(rarest) :] for rest in some]
        for kind, group in ((state.FREE, basket), *((state.LISTED, group) for group in groups)):
            there = here.is_there(kind, [group + point for point in points])
            points = [point for point, yes in zip(points, there, strict=True) if yes]
        yield from points


def _extend(here: Contextual, asked: Extend) -> Answer | Verdict:
    before = _standing(here, asked.reservation, asked.token)
    if isinstance(before, Verdict):
        return before
    name = asked.reservation.encode()
    after = msgspec.structs.replace(before, ends_ms=max(before.ends_ms, here.now_ms + asked.lease_ms))
    here.delete(state.LEASE, _moment(before.ends_ms) + name)
    here.put(state.LEASE, _moment(after.ends_ms) + name, b"")
    here.put(state.RESERVATION, name, after)
    return _told("extended", asked.reservation, after)


def _release(here: Contextual, asked: Release) -> Answer | Verdict:
    before = _standing(here, asked.reservation, asked.token)
    if isinstance(before, Verdict):
        return before
    _end(here, asked.reservation, before)
    return _told("released", asked.reservation, before)


def _standing(here: Contextual, name: str, token: int) -> Reservation | Verdict:
    """A reservation that has not ended. token: 0 where it was not said."""
    stored = here.value(state.RESERVATION, name.encode())
    if stored is None:
        return Verdict("conflict.reservation-lost", f"there is no reservation {name!r}, or it has ended")
    found = _reservation(stored)
    if token not in (0, found.token):
        return Verdict("conflict.reservation-lost", f"{token} is not the token of reservation {name!r}")
    return found


def _told(outcome: str, name: str, what: Reservation) -> Answer:
    return Answer(
        outcome,  # type: ignore[arg-type]
        name,
        token=what.token,
        holder=what.holder,
        points=what.points,
        ends_ms=what.ends_ms,
    )


def _end(here: Contextual, name: str, what: Reservation) -> None:
    """It holds nothing from here on; what it held is free, where it is a coin still."""
    points = list(outpoints(what.points))
    holding.let_go(here, points)
    holding.offer(here, listing.in_basket(here, points))
    holding.move(here, -1, -len(points))
    _gone(here, name, what)


def _gone(here: Contextual, name: str, what: Reservation) -> None:
    here.delete(state.RESERVATION, name.encode())
    here.delete(state.LEASE, _moment(what.ends_ms) + name.encode())
    here.put(state.FORGET, _moment(here.now_ms + KEPT_MS) + name.encode(), b"")


def _tidy(here: Contextual) -> None:
    """Answers whose time has come are forgotten, a few at a time: what is kept is bounded by what came of late. And
    where those leases were given back that were to end next, it is found out which are."""
    held = holding.of(here)
    if held.reservations and held.soonest_ms <= here.now_ms:
        first = _ms(next(here.each_with(state.LEASE, b"")))
        holding.put(here, msgspec.structs.replace(held, soonest_ms=first))
    if (here.head.sequence + 1) % FORGET_EVERY:
        return
    due = [rest for rest in islice(here.each_with(state.FORGET, b""), FORGOTTEN) if _ms(rest) <= here.now_ms]
    for rest in due:
        here.delete(state.FORGET, rest)
        here.delete_all(state.ANSWERED, [rest[8:]])


def _moment(ms: int) -> bytes:
    return ms.to_bytes(8, "big")


def _ms(rest: bytes) -> int:
    return int.from_bytes(rest[:8], "big")


# --- time


def expire(layer: Layer, head: Live, context: Context, now_ms: int) -> Change:
    """Leases that have ended by now end, each in an entry of its own: before anything else is decided (RESERVE-2).

    Nothing in a topic's context.
    """
    if not baskets.is_owner(context):
        return Change(head)
    here = Contextual(context, layer, head, now_ms)
    held = holding.of(here)
    if not held.reservations or held.soonest_ms > now_ms:
        return Change(head)
    due, later = _due(here)
    if here.value(state.HOLDS, b"") is not None:
        free = [name for name in due if not _in_use(here, name)]
        due, later = free, later if len(free) == len(due) else None
    entries: list[bytes] = []
    ended: list[Ended] = []
    for count, name in enumerate(due, 1):
        what = _reservation(here.value(state.RESERVATION, name.encode()) or b"")
        _end(here, name, what)
        if count == len(due) and later is not None:
            holding.put(here, msgspec.structs.replace(holding.of(here), soonest_ms=later))
        entries.append(here.journal("expire", f"lease {what.ends_ms} {name}", NO_TXID))
        points = tuple(outpoints(what.points))
        ended.append(_ended(here, name, what, "expired", points, NO_TXID))
    return Change(here.head, tuple(entries), ended=tuple(ended))


def _in_use(here: Contextual, name: str) -> bool:
    """Whether an undecided operation spends what a reservation holds: its lease does not end before that is decided."""
    held = _reservation(here.value(state.RESERVATION, name.encode()) or b"")
    return any(here.is_there(state.LOCK, list(outpoints(held.points))))


def _due(here: Contextual) -> tuple[list[str], int | None]:
    """Reservations whose leases have ended, the first ones first; and when the next one ends."""
    due: list[str] = []
    for rest in here.each_with(state.LEASE, b""):
        if _ms(rest) > here.now_ms:
            return due, _ms(rest)
        due.append(rest[8:].decode())
    return due, None


# --- spends


def refuses(here: Contextual, claims: Sequence[tuple[str, int]], spends: Sequence[Outpoint]) -> Verdict | None:
    """Why a transaction, or an ancestor it brings, may not spend what it spends: somebody else holds it, or whoever
    sends it does no longer. What is in a block is not asked.

    claims: ids and tokens that its instruction names; spends: of those that are not known. Of none, nobody is asked
    what he held when they became known.
    """
    for name, token in claims if spends else ():
        if isinstance(lost := _standing(here, name, token), Verdict):
            return lost
    claimed = {name.encode() for name, _ in claims}
    points = here.made_here(spends)
    for point, holder in zip(points, here.values(state.RESERVED, points), strict=True):
        if holder is not None and holder not in claimed:
            return Verdict("conflict.reservation-lost", f"{shown(point)} is reserved, and its reservation is not named")
    return None


def ended(
    here: Contextual, operation: str, txid: Txid, *, spent: bool = True, claimed: Sequence[str] = ()
) -> tuple[tuple[bytes, ...], tuple[Ended, ...]]:
    """Entries for reservations that lost coins in the entry before, and word of it for their holders.

    spent: by this transaction; else it made them, and left. claimed: ids that its instruction named.
    """
    entries: list[bytes] = []
    told: list[Ended] = []
    lost, here.unreserved = sorted(here.unreserved), []
    for name, of_one in groupby(lost, key=itemgetter(0)):
        points = tuple(point for _, point in of_one)
        what = _reservation(here.value(state.RESERVATION, name.encode()) or b"")
        left = sorted(set(outpoints(what.points)).difference(points))
        if left:
            here.put(state.RESERVATION, name.encode(), msgspec.structs.replace(what, points=b"".join(left)))
        else:
            holding.move(here, -1, 0)
            _gone(here, name, what)
        entries.append(here.journal("consume" if spent else "release", operation, txid))
        told.append(_ended(here, name, what, "consumed" if name in claimed else "lost", points, txid))
    return tuple(entries), tuple(told)


def _ended(here: Contextual, name: str, what: Reservation, how: str, points: tuple[Outpoint, ...], txid: Txid) -> Ended:
    head = here.head
    return Ended(name, what.token, what.holder, how, points, txid, head.sequence, head.state_root)  # type: ignore[arg-type]
