"""What an owner's baskets hold, as those who ask are told: BRC-100's `listOutputs` (READ-1)."""

import heapq
from collections.abc import Container, Iterator, Sequence
from itertools import groupby, islice, takewhile

import msgspec

from pipeline import baskets, listing, state
from pipeline.codec.tx import Tx, read_tx
from pipeline.read import PAGE_BYTES, context_state, read_outpoint, shown, value
from pipeline.state import Ordered, View
from schemas.baskets import (
    BasketOutput,
    BasketOutputs,
    Baskets,
    BasketSummary,
    FieldValue,
    FieldValues,
    Payment,
    PaymentRemittance,
    Placed,
    Tally,
)
from schemas.state import Applied
from schemas.types import Context, Outpoint, Txid

_applied = msgspec.msgpack.Decoder(Applied).decode
_placed = msgspec.msgpack.Decoder(Placed).decode
_tally = msgspec.msgpack.Decoder(Tally).decode


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which outputs of a basket, and what of them."""

    basket: str  # as it is kept
    tags: tuple[str, ...] = ()  # as they are kept
    every_tag: bool = False  # an output has all of them; else one does
    fields: tuple[tuple[int, bytes], ...] = ()  # number and value: an output has all of them, whatever its tags
    limit: int = 10
    offset: int = 0
    locking_scripts: bool = False
    custom_instructions: bool = False
    with_tags: bool = False
    labels: bool = False
    with_fields: bool = False


def summary(view: Ordered, context: Context) -> Baskets:
    """All baskets of an owner that hold something, by name's length and name. Cost: one look for each of them."""
    prefix = state.key(context, state.TALLY, b"")
    found = []
    at = prefix
    # A basket's own tally is the first of its tallies, and there whenever another is.
    while (key := next(view.keys_from(at), b"")).startswith(prefix):
        name = listing.group_in(key[len(prefix) :]).basket
        tally = _tally(state.unseal(view.get(key) or b""))
        found.append(
            BasketSummary(basket=name, outputs=tally.outputs, satoshis=tally.satoshis, unverified=tally.unverified)
        )
        at = prefix + listing.behind(name)
    return Baskets(state=context_state(view, context), baskets=tuple(found))


def values(
    view: Ordered,
    context: Context,
    basket: str,
    number: int,
    *,
    only: bytes | None = None,
    after: bytes | None = None,
    limit: int = 100,
) -> FieldValues:
    """What a field of a basket's outputs holds, behind `after`: how many outputs, and how much, have each value.

    only: this value alone; of one that no output has nothing is told. Cost: an entry for each value told.

    Raises:
        pipeline.state.Corrupt: a value does not match its hash.
    """
    tallies = state.key(context, state.TALLY, b"")
    of_field = tallies + listing.field_keys(basket, number)
    if only is not None:
        key = tallies + listing.field_key(basket, number, only)
        keys = [key] if view.get(key) is not None else []
    else:
        begin = of_field if after is None else tallies + listing.field_key(basket, number, after) + b"\0"
        keys = list(islice(takewhile(lambda key: key.startswith(of_field), view.keys_from(begin)), limit + 1))
    told = []
    for key in keys[:limit]:
        tally = _tally(state.unseal(view.get(key) or b""))
        value = listing.group_in(key[len(tallies) :]).value.hex()
        told.append(FieldValue(value=value, outputs=tally.outputs, satoshis=tally.satoshis))
    return FieldValues(
        state=context_state(view, context),
        basket=basket,
        field=number,
        values=tuple(told),
        next=told[-1].value if len(keys) > limit else None,
    )


def outputs(view: Ordered, context: Context, wanted: Wanted) -> BasketOutputs:
    """A page of a basket's live outputs, in the order of their outpoints' bytes.

    Cost: with a tag or a field at most, the offset and the page; where an output must have several, those that have
    the rarest; where any of several tags will do, all that have one.

    Raises:
        pipeline.state.Corrupt: a value does not match its hash.
    """
    basket = wanted.basket
    tags = [listing.key(basket, tag) for tag in dict.fromkeys(wanted.tags)]
    musts = [listing.field_key(basket, number, value) for number, value in dict.fromkeys(wanted.fields)]
    if wanted.every_tag or len(tags) == 1:
        musts, tags = musts + tags, []
    if not tags and len(musts) <= 1:
        group = musts[0] if musts else listing.key(basket)
        points = islice(_of(view, context, group), wanted.offset, wanted.offset + wanted.limit)
        return _page(view, context, wanted, list(points), _count(view, context, group))
    page: list[Outpoint] = []
    total = 0
    for point in _in_all(view, context, musts, tags) if musts else _in_any(view, context, tags):
        if wanted.offset <= total < wanted.offset + wanted.limit:
            page.append(point)
        total += 1
    return _page(view, context, wanted, page, total)


MOST_WHOLE = 100
"""Transactions whose payloads are looked for in the journal for one answer: each is a question to the broker."""


class Brought(msgspec.Struct, frozen=True):
    """A transaction, and which entry of its context's journal holds the payload it came with."""

    txid: Txid
    sequence: int  # 0: nobody noted it
    since_ms: int  # the payload came then, and the entry was written later


def brought(view: View, context: Context, page: BasketOutputs) -> tuple[Brought, ...]:
    """Of a page's transactions those that come first, and whose payloads one answer may hold.

    Cost: one transaction's bytes at a time, no further one once they came to `PAGE_BYTES`.

    Raises:
        pipeline.state.Corrupt: a value does not match its hash.
    """
    found: list[Brought] = []
    size = 0
    for txid in dict.fromkeys(read_outpoint(output.outpoint)[:32] for output in page.outputs):
        if len(found) == MOST_WHOLE or size >= PAGE_BYTES:
            break
        stored = value(view, context, state.TX, txid) or b""
        size += len(stored)
        applied = _applied(stored)
        found.append(Brought(txid, applied.brought, applied.origin.timestamp_ms))
    return tuple(found)


def cut(page: BasketOutputs, txids: Container[Txid], beef: bytes) -> BasketOutputs:
    """The page's outputs before the first of another transaction than these, with these whole."""
    outputs = tuple(takewhile(lambda output: read_outpoint(output.outpoint)[:32] in txids, page.outputs))
    return msgspec.structs.replace(page, outputs=outputs, beef=beef)


def _in_any(view: Ordered, context: Context, groups: Sequence[bytes]) -> Iterator[Outpoint]:
    return (point for point, _ in groupby(heapq.merge(*(_of(view, context, group) for group in groups))))


def _in_all(view: Ordered, context: Context, groups: Sequence[bytes], any_of: Sequence[bytes]) -> Iterator[Outpoint]:
    """In all of these groups, and in one of the others where there are some."""
    rarest, *others = sorted(groups, key=lambda group: _count(view, context, group))
    for point in _of(view, context, rarest):
        if all(_has(view, context, others, point)) and (not any_of or any(_has(view, context, any_of, point))):
            yield point


def _has(view: View, context: Context, groups: Sequence[bytes], point: Outpoint) -> list[bool]:
    asked = [state.key(context, state.LISTED, group + point) for group in groups]
    return [stored is not None for stored in view.get_many(asked)]


def _count(view: View, context: Context, group: bytes) -> int:
    tally = value(view, context, state.TALLY, group)
    return _tally(tally).outputs if tally is not None else 0


def _of(view: Ordered, context: Context, group: bytes) -> Iterator[Outpoint]:
    prefix = state.key(context, state.LISTED, group)
    for key in view.keys_from(prefix):
        if not key.startswith(prefix):
            return
        yield key[len(prefix) :]


def _page(view: View, context: Context, wanted: Wanted, points: Sequence[Outpoint], total: int) -> BasketOutputs:
    found: list[BasketOutput] = []
    for _, of_one in groupby(points, key=lambda point: point[:32]):
        found += _outputs(view, context, wanted, list(of_one))
    return BasketOutputs(state=context_state(view, context), total_outputs=total, outputs=tuple(found))


def _outputs(view: View, context: Context, wanted: Wanted, points: Sequence[Outpoint]) -> Iterator[BasketOutput]:
    """Those of one transaction, which is read at most once."""
    tx: Tx | None = None
    labels: tuple[str, ...] | None = None
    if wanted.locking_scripts or wanted.labels:
        submission = _applied(value(view, context, state.TX, points[0][:32]) or b"").submission
        tx = read_tx(submission.raw)
        labels = baskets.of_submission(submission.off_chain).instruction.labels
    for point in points:
        placed = _placed(value(view, context, state.PLACED, point) or b"")
        what = placed.what
        holder = value(view, context, state.RESERVED, point)
        output = BasketOutput(
            outpoint=shown(point),
            satoshis=placed.satoshis,
            spendable=holder is None and value(view, context, state.CONTESTED, point) is None,
            reservation=holder.decode() if holder is not None else None,
            locking_script=_script(tx, point) if tx is not None and wanted.locking_scripts else None,
            labels=labels if wanted.labels else None,
        )
        if isinstance(what, Payment):
            linkage = what.linkage.hex()
            paid = PaymentRemittance(what.prefix, what.suffix, what.sender.hex(), linkage)
            yield msgspec.structs.replace(output, payment=paid, verified=bool(linkage))
        else:
            yield msgspec.structs.replace(
                output,
                custom_instructions=what.custom_instructions if wanted.custom_instructions else None,
                tags=what.tags if wanted.with_tags else None,
                fields={number: held.hex() for number, held in placed.fields} if wanted.with_fields else None,
            )


def _script(tx: Tx, point: Outpoint) -> str:
    return tx.locking(int.from_bytes(point[32:], "little")).hex()
