"""Which live outputs are in which basket, with which tags and fields: entries of an owner's context, and their tallies
(BASKET-2).

They follow from the coins and from what instructions say of outputs; the journal has them like all others, and the
state root covers them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from pipeline import baskets, holding, state
from pipeline.codec.tx import read_tx
from pipeline.contextual import Contextual
from schemas.baskets import Insertion, Instruction, Payment, Placed, Relinquished, Tally
from schemas.state import Submission
from schemas.types import Outpoint, Txid, outpoint

_placed = msgspec.msgpack.Decoder(Placed).decode
_relinquished = msgspec.msgpack.Decoder(Relinquished).decode
_tally = msgspec.msgpack.Decoder(Tally).decode

_NOTHING = Tally()

_FIELD = b"\xff"
"""In place of a tag's length, which begins with 0 or 1: a field's number follows, then its value."""


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
    holding.leave(here, live)
    _count(here, live, -1)


def place(here: Contextual, txid: Txid, submission: Submission) -> None:
    """What instructions say of a transaction's outputs, before they are judged. Nothing in a topic's context."""
    if baskets.is_owner(here.context):
        instruction = baskets.of_submission(submission.off_chain).instruction
        _place(here, txid, instruction, submission.raw)
        _relinquish(here, txid, instruction)


def _place(here: Contextual, txid: Txid, instruction: Instruction, raw: bytes) -> None:
    tx = read_tx(raw)
    for index, what in instruction.outputs:
        here.put(state.PLACED, outpoint(txid, index), baskets.placed(what, tx, index))


def replace(here: Contextual, txid: Txid, submission: Submission) -> None:
    """What further instructions say of a transaction's outputs, live ones among them."""
    instruction = baskets.of_submission(submission.off_chain).instruction
    points = _points(txid, instruction)
    live = [point for point, there in zip(points, here.is_there(state.COIN, points), strict=True) if there]
    _count(here, live, -1)
    _place(here, txid, instruction, submission.raw)
    _count(here, live, 1)
    _relinquish(here, txid, instruction)


def displace(here: Contextual, txid: Txid, submission: Submission) -> None:
    """The transaction leaves, and its outputs, none of which is a coin now. Nothing in a topic's context."""
    if baskets.is_owner(here.context):
        instruction = baskets.of_submission(submission.off_chain).instruction
        for point in _points(txid, instruction):
            here.delete(state.PLACED, point)
        _take_back(here, txid, instruction)


def _relinquish(here: Contextual, txid: Txid, instruction: Instruction) -> None:
    """An output leaves a basket while any submitted transaction's instructions say so."""
    for basket, point in instruction.relinquished:
        by = _relinquished_by(here, basket, point)
        if not by and _is_in(here, basket, point):
            _count(here, [point], -1)
        if txid not in by:
            here.put(state.RELINQUISHED, key(basket) + point, Relinquished(tuple(sorted((*by, txid)))))


def _take_back(here: Contextual, txid: Txid, instruction: Instruction) -> None:
    """What relinquished outputs leaves: they return into their baskets, where nobody else relinquishes them."""
    for basket, point in instruction.relinquished:
        if left := tuple(other for other in _relinquished_by(here, basket, point) if other != txid):
            here.put(state.RELINQUISHED, key(basket) + point, Relinquished(left))
            continue
        here.delete(state.RELINQUISHED, key(basket) + point)
        if _is_in(here, basket, point):
            _count(here, [point], 1)


def _relinquished_by(here: Contextual, basket: str, point: Outpoint) -> tuple[Txid, ...]:
    stored = here.value(state.RELINQUISHED, key(basket) + point)
    return _relinquished(stored).by if stored is not None else ()


def _is_in(here: Contextual, basket: str, point: Outpoint) -> bool:
    """Whether a live output belongs into a basket."""
    if here.value(state.COIN, point) is None:
        return False
    return baskets.basket_of(_placed(here.value(state.PLACED, point) or b"").what) == basket


def _points(txid: Txid, instruction: Instruction) -> list[Outpoint]:
    return [outpoint(txid, index) for index, _ in instruction.outputs]


def _count(here: Contextual, points: Sequence[Outpoint], sign: int) -> None:
    """These coins enter their baskets, or leave them; not those that were relinquished."""
    if not points:
        return
    placed = [_placed(stored or b"") for stored in here.values(state.PLACED, points)]
    groups = [_groups(each) for each in placed]
    gone = here.is_there(state.RELINQUISHED, [of[0] + point for of, point in zip(groups, points, strict=True)])
    moved: dict[bytes, Tally] = {}
    listed: list[bytes] = []
    for point, each, of, left in zip(points, placed, groups, gone, strict=True):
        if left:
            continue
        unverified = isinstance(each.what, Payment) and not each.what.linkage
        satoshis, doubtful = (0, each.satoshis) if unverified else (each.satoshis, 0)
        for group in of:
            so_far = moved.get(group, _NOTHING)
            moved[group] = Tally(so_far.outputs + 1, so_far.satoshis + satoshis, so_far.unverified + doubtful)
            listed.append(group + point)
    named = [
        of[0] + point for point, of, left in zip(points, groups, gone, strict=True) if not left and of[0] != _CHANGE
    ]
    if sign > 0:
        here.put_all(state.LISTED, listed, b"")
        holding.offer(here, named)
    else:
        for rest in listed:
            here.delete(state.LISTED, rest)
        holding.withdraw(here, named)
    for (group, by), stored in zip(moved.items(), here.values(state.TALLY, list(moved)), strict=True):
        before = _tally(stored) if stored is not None else _NOTHING
        after = Tally(
            before.outputs + sign * by.outputs,
            before.satoshis + sign * by.satoshis,
            before.unverified + sign * by.unverified,
        )
        if after.outputs:
            here.put(state.TALLY, group, after)
        else:
            here.delete(state.TALLY, group)


def _groups(placed: Placed) -> list[bytes]:
    """By what an output is found: its basket first, then each of its tags there, and each value of a field."""
    basket = baskets.basket_of(placed.what)
    tagged = [key(basket, tag) for tag in ("", *baskets.tags_of(placed.what))]
    return tagged + [field_key(basket, number, value) for number, value in placed.fields]


def key(basket: str, tag: str = "") -> bytes:
    """What the entries of a basket begin with, or of those with a tag: no other name's begin so."""
    return _name(basket.encode()) + _name(tag.encode())


def field_key(basket: str, number: int, value: bytes) -> bytes:
    """What the entries of outputs begin with whose field has this value: no other value's or name's begin so."""
    return field_keys(basket, number) + _name(value)


def field_keys(basket: str, number: int) -> bytes:
    """What `field_key` begins with whatever the value is: behind it the shorter values come first."""
    return _name(basket.encode()) + _FIELD + bytes((number,))


def behind(basket: str) -> bytes:
    """Behind all that begins with a basket's name, and before the next basket's."""
    return _name(basket.encode()) + b"\xff\xff"


class Group(NamedTuple):
    """What entries are of: a basket's, or of it those with a tag, or with a value of a field."""

    basket: str
    tag: str = ""
    field: int | None = None
    value: bytes = b""


def group_in(rest: bytes) -> Group:
    """Inverse of `key` and `field_key`."""
    basket, rest = _named(rest)
    if rest.startswith(_FIELD):
        return Group(basket.decode(), "", rest[1], _named(rest[2:])[0])
    return Group(basket.decode(), _named(rest)[0].decode())


def _name(encoded: bytes) -> bytes:
    return len(encoded).to_bytes(2, "big") + encoded


def _named(rest: bytes) -> tuple[bytes, bytes]:
    size = 2 + int.from_bytes(rest[:2], "big")
    return rest[2:size], rest[size:]


def in_basket(here: Contextual, points: Sequence[Outpoint]) -> list[bytes]:
    """Of outputs that are in baskets which applications name, the basket's key and the outpoint each."""
    placed = [
        (point, _placed(stored).what)
        for point, stored in zip(points, here.values(state.PLACED, points), strict=True)
        if stored is not None
    ]
    rests = [key(what.basket) + point for point, what in placed if isinstance(what, Insertion)]
    return [rest for rest, there in zip(rests, here.is_there(state.LISTED, rests), strict=True) if there]


_CHANGE = key(baskets.CHANGE)
