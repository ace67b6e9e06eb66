"""What an owner's baskets hold, as those who ask are told: BRC-100's `listOutputs` (READ-1)."""

import heapq
from collections.abc import Iterator, Sequence
from itertools import groupby, islice

import msgspec

from pipeline import baskets, listing, state
from pipeline.codec.tx import Tx, read_tx
from pipeline.read import context_state, shown, value
from pipeline.state import Ordered, View
from schemas.baskets import (
    BasketOutput,
    BasketOutputs,
    Baskets,
    BasketSummary,
    Payment,
    PaymentRemittance,
    Placed,
    Tally,
)
from schemas.state import Applied
from schemas.types import Context, Outpoint

_applied = msgspec.msgpack.Decoder(Applied).decode
_placed = msgspec.msgpack.Decoder(Placed).decode
_tally = msgspec.msgpack.Decoder(Tally).decode


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which outputs of a basket, and what of them."""

    basket: str  # as it is kept
    tags: tuple[str, ...] = ()  # as they are kept
    every_tag: bool = False  # an output has all of them; else one does
    limit: int = 10
    offset: int = 0
    locking_scripts: bool = False
    custom_instructions: bool = False
    with_tags: bool = False
    labels: bool = False


def summary(view: Ordered, context: Context) -> Baskets:
    """All baskets of an owner that hold something, by name's length and name. Cost: an entry for each of them and each
    of their tags."""
    prefix = state.key(context, state.TALLY, b"")
    found = []
    for key in view.keys_from(prefix):
        if not key.startswith(prefix):
            break
        name, tag = listing.basket_in(key[len(prefix) :])
        if not tag:
            tally = _tally(state.unseal(view.get(key) or b""))
            found.append(
                BasketSummary(basket=name, outputs=tally.outputs, satoshis=tally.satoshis, unverified=tally.unverified)
            )
    return Baskets(state=context_state(view, context), baskets=tuple(found))


def outputs(view: Ordered, context: Context, wanted: Wanted) -> BasketOutputs:
    """A page of a basket's live outputs, in the order of their outpoints' bytes.

    Cost: with a tag at most, the offset and the page; where an output must have several, those that have the rarest;
    where any of several will do, all that have one.

    Raises:
        pipeline.state.Corrupt: a value does not match its hash.
    """
    tags = tuple(dict.fromkeys(wanted.tags))
    if len(tags) <= 1:
        group = listing.key(wanted.basket, *tags)
        points = islice(_of(view, context, group), wanted.offset, wanted.offset + wanted.limit)
        return _page(view, context, wanted, list(points), _count(view, context, group))
    groups = [listing.key(wanted.basket, tag) for tag in tags]
    page: list[Outpoint] = []
    total = 0
    for point in (_in_all if wanted.every_tag else _in_any)(view, context, groups):
        if wanted.offset <= total < wanted.offset + wanted.limit:
            page.append(point)
        total += 1
    return _page(view, context, wanted, page, total)


def _in_any(view: Ordered, context: Context, groups: Sequence[bytes]) -> Iterator[Outpoint]:
    return (point for point, _ in groupby(heapq.merge(*(_of(view, context, group) for group in groups))))


def _in_all(view: Ordered, context: Context, groups: Sequence[bytes]) -> Iterator[Outpoint]:
    rarest, *others = sorted(groups, key=lambda group: _count(view, context, group))
    for point in _of(view, context, rarest):
        if all(view.get_many([state.key(context, state.LISTED, group + point) for group in others])):
            yield point


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
            )


def _script(tx: Tx, point: Outpoint) -> str:
    return tx.locking(int.from_bytes(point[32:], "little")).hex()
