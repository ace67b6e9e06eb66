"""Which live outputs are in which basket, with which tags: entries of an owner's context, and their tallies (BASKET-2).

They follow from the coins and from what instructions say of outputs; the journal has them like all others, and the
state root covers them.
"""

from collections.abc import Iterable, Sequence

import msgspec

from pipeline import baskets, state
from pipeline.codec.tx import read_tx
from pipeline.contextual import Contextual
from schemas.baskets import Instruction, Payment, Placed, Tally
from schemas.state import Submission
from schemas.types import Outpoint, Txid, outpoint

_placed = msgspec.msgpack.Decoder(Placed).decode
_tally = msgspec.msgpack.Decoder(Tally).decode


def enter(here: Contextual, points: Sequence[Outpoint]) -> None:
    """Coins that were none: admitted, and nothing known spends them."""
    here.put_all(state.COIN, points, b"")
    if baskets.is_owner(here.context):
        _count(here, points, 1)


def leave(here: Contextual, points: Sequence[Outpoint]) -> None:
    """Those of these that are coins are none any more."""
    if not baskets.is_owner(here.context):
        here.delete_all(state.COIN, points)
        return
    live = [point for point, there in zip(points, here.is_there(state.COIN, points), strict=True) if there]
    for point in live:
        here.delete(state.COIN, point)
    _count(here, live, -1)


def place(here: Contextual, txid: Txid, submission: Submission) -> None:
    """What instructions say of a transaction's outputs, before they are judged. Nothing in a topic's context."""
    if not baskets.is_owner(here.context):
        return
    tx = read_tx(submission.raw)
    for index, what in baskets.of_submission(submission.off_chain).instruction.outputs:
        here.put(state.PLACED, outpoint(txid, index), Placed(what, tx.satoshis(index)))


def replace(here: Contextual, txid: Txid, submission: Submission) -> None:
    """What further instructions say of a transaction's outputs, live ones among them."""
    points = _points(txid, baskets.of_submission(submission.off_chain).instruction)
    live = [point for point, there in zip(points, here.is_there(state.COIN, points), strict=True) if there]
    _count(here, live, -1)
    place(here, txid, submission)
    _count(here, live, 1)


def displace(here: Contextual, txid: Txid, submission: Submission) -> None:
    """The transaction leaves, and its outputs, none of which is a coin now. Nothing in a topic's context."""
    if baskets.is_owner(here.context):
        for point in _points(txid, baskets.of_submission(submission.off_chain).instruction):
            here.delete(state.PLACED, point)


def _points(txid: Txid, instruction: Instruction) -> list[Outpoint]:
    return [outpoint(txid, index) for index, _ in instruction.outputs]


def _count(here: Contextual, points: Iterable[Outpoint], sign: int) -> None:
    for point in points:
        placed = _placed(here.value(state.PLACED, point) or b"")
        basket = baskets.basket_of(placed.what)
        unverified = isinstance(placed.what, Payment) and not placed.what.linkage
        for tag in ("", *baskets.tags_of(placed.what)):
            group = key(basket, tag)
            if sign > 0:
                here.put(state.LISTED, group + point, b"")
            else:
                here.delete(state.LISTED, group + point)
            stored = here.value(state.TALLY, group)
            before = _tally(stored) if stored is not None else Tally()
            after = Tally(
                before.outputs + sign,
                before.satoshis + (0 if unverified else sign * placed.satoshis),
                before.unverified + (sign * placed.satoshis if unverified else 0),
            )
            if after.outputs:
                here.put(state.TALLY, group, after)
            else:
                here.delete(state.TALLY, group)


def key(basket: str, tag: str = "") -> bytes:
    """What the entries of a basket begin with, or of those with a tag: no other name's begin so."""
    return _name(basket) + _name(tag)


def basket_in(rest: bytes) -> tuple[str, str]:
    """Inverse of `key`."""
    size = int.from_bytes(rest[:2], "big")
    return rest[2 : 2 + size].decode(), rest[4 + size :].decode()


def _name(text: str) -> bytes:
    encoded = text.encode()
    return len(encoded).to_bytes(2, "big") + encoded
