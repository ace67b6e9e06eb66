"""What is held, as readers are told: see `reservations.py`."""

from collections.abc import Iterator
from itertools import islice

import msgspec

from pipeline import state
from pipeline.read import context_state, shown, value
from pipeline.results import rfc3339
from pipeline.state import Ordered
from schemas.reservations import HeldReservation, Holding, OneReservation, Reservation, Reservations
from schemas.types import Context, outpoints

_holding = msgspec.msgpack.Decoder(Holding).decode
_reservation = msgspec.msgpack.Decoder(Reservation).decode


def next_end(view: Ordered, context: Context) -> int | None:
    """When the next lease of a context ends (Unix milliseconds); None: nothing is held."""
    prefix = state.key(context, state.LEASE, b"")
    found = next(view.keys_from(prefix), b"")
    return int.from_bytes(found[len(prefix) :][:8], "big") if found.startswith(prefix) else None


def one(view: Ordered, context: Context, name: str) -> OneReservation:
    """A reservation by its id.

    Raises:
        pipeline.state.Corrupt: a value does not match its hash.
    """
    stored = value(view, context, state.RESERVATION, name.encode())
    held = _held(name, _reservation(stored)) if stored is not None else None
    return OneReservation(state=context_state(view, context), reservation=held)


def page(view: Ordered, context: Context, after: str, limit: int) -> Reservations:
    """An owner's reservations behind `after`, by the bytes of their ids. Cost: those.

    Raises:
        pipeline.state.Corrupt: a value does not match its hash.
    """
    found = [_held(name, what) for name, what in islice(_behind(view, context, after), limit + 1)]
    stored = value(view, context, state.HOLDING, b"")
    held = Holding() if stored is None else _holding(stored)
    return Reservations(
        state=context_state(view, context),
        total_reservations=held.reservations,
        total_outputs=held.outputs,
        reservations=tuple(found[:limit]),
        next=found[limit - 1].id if len(found) > limit else None,
    )


def _behind(view: Ordered, context: Context, after: str) -> Iterator[tuple[str, Reservation]]:
    prefix = state.key(context, state.RESERVATION, b"")
    start = prefix + after.encode()
    for key in view.keys_from(start):
        if not key.startswith(prefix):
            return
        if key != start or not after:
            yield key[len(prefix) :].decode(), _reservation(state.unseal(view.get(key) or b""))


def _held(name: str, what: Reservation) -> HeldReservation:
    return HeldReservation(
        id=name,
        token=what.token,
        holder=what.holder,
        since=rfc3339(what.since_ms),
        ends=rfc3339(what.ends_ms),
        outputs=tuple(map(shown, outpoints(what.points))),
    )
