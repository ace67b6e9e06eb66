"""Which coins somebody holds, entry by entry (RESERVE-1).

What `reservations.py` decides is written here, and what `listing.py` takes away.
"""

from collections.abc import Sequence

import msgspec

from pipeline import state
from pipeline.contextual import Contextual
from schemas.reservations import Holding
from schemas.types import Outpoint

_holding = msgspec.msgpack.Decoder(Holding).decode


def of(here: Contextual) -> Holding:
    """All that is held of an owner's."""
    stored = here.value(state.HOLDING, b"")
    return Holding() if stored is None else _holding(stored)


def move(here: Contextual, reservations: int, outputs: int) -> None:
    """So many more."""
    before = of(here)
    put(here, Holding(before.reservations + reservations, before.outputs + outputs, before.soonest_ms))


def ends_at(here: Contextual, ms: int) -> None:
    """A lease ends then, one of those there are."""
    before = of(here)
    soonest = ms if before.reservations == 1 else min(ms, before.soonest_ms)
    put(here, msgspec.structs.replace(before, soonest_ms=soonest))


def put(here: Contextual, what: Holding) -> None:
    """So it is from here on."""
    if what.reservations:
        here.put(state.HOLDING, b"", what)
    else:
        here.delete(state.HOLDING, b"")


def hold(here: Contextual, name: str, points: Sequence[Outpoint]) -> None:
    """These coins, which nobody holds, are held by a reservation."""
    here.put_all(state.RESERVED, points, name.encode())


def let_go(here: Contextual, points: Sequence[Outpoint]) -> None:
    """Nobody holds these any more."""
    for point in points:
        here.delete(state.RESERVED, point)


def offer(here: Contextual, rests: Sequence[bytes]) -> None:
    """These are in their baskets: whoever counts may have them, unless somebody holds them or may yet have them.

    rests: a basket's key (`listing.key`) and an outpoint each.
    """
    points = [rest[-36:] for rest in rests]
    held, contested = here.is_there(state.RESERVED, points), here.is_there(state.CONTESTED, points)
    free = [rest for rest, one, other in zip(rests, held, contested, strict=True) if not (one or other)]
    here.put_all(state.FREE, free, b"")


def withdraw(here: Contextual, rests: Sequence[bytes]) -> None:
    """Nobody may have these."""
    here.delete_all(state.FREE, rests)


def leave(here: Contextual, points: Sequence[Outpoint]) -> None:
    """These are coins no more: no entry of the journal has one held that is none.

    Their reservations follow, in entries of their own: `reservations.ended`.
    """
    held = [
        (name.decode(), point)
        for point, name in zip(points, here.values(state.RESERVED, points), strict=True)
        if name is not None
    ]
    if held:
        let_go(here, [point for _, point in held])
        move(here, 0, -len(held))  # a reservation is counted until it is gone
        here.unreserved += held
