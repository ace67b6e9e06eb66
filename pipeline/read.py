"""What a context holds, as those who ask are told: from its state alone (READ-1)."""

from collections.abc import Iterable, Iterator
from itertools import islice

import msgspec
from msgspec import Struct

from pipeline import state
from pipeline.codec.tx import Tx, read_tx
from pipeline.state import Live, Ordered, View, head_of
from schemas.external import ContextState, LiveOutput, Outputs, ResultOrigin, Standing, UndecidedOperation
from schemas.operations import Vote
from schemas.state import Applied, Contested, Departed, Holds, Tombstone
from schemas.types import Context, Outpoint, Txid, display, from_display

PAGE_BYTES = 8 << 20
"""Of transactions that are read for a page, the last of them whole: eight megabytes are the largest payload. A page is
at most twice as long, since scripts are told in hexadecimal."""

MOST_UNDECIDED = 100
"""Operations that are named."""


class _Voted(Struct, frozen=True, array_like=True):
    """A prepared operation; its payload stays where it is."""

    operation: msgspec.Raw
    stood: msgspec.Raw
    vote: Vote


_applied = msgspec.msgpack.Decoder(Applied).decode
_contested = msgspec.msgpack.Decoder(Contested).decode
_departed = msgspec.msgpack.Decoder(Departed).decode
_holds = msgspec.msgpack.Decoder(Holds).decode
_tombstone = msgspec.msgpack.Decoder(Tombstone).decode
_voted = msgspec.msgpack.Decoder(_Voted).decode


def contexts(view: Ordered) -> Iterator[Context]:
    """Those a store has anything of. Cost: one look for each, whatever it holds."""
    at = b"\x01"  # no context begins with a zero byte, and what does is not of one
    while (key := next(view.keys_from(at), None)) is not None:
        context = state.context_of(key)
        yield context.decode()
        at = context + b"\x01"


def context_state(view: View, context: Context) -> ContextState:
    """Where a context stands."""
    return _state(context, head_of(view, context), view)


def context_in_full(view: Ordered, context: Context) -> ContextState:
    """That, and which operations are undecided there.

    Cost: nothing more where none is; else their payloads are read, no further one once they came to `PAGE_BYTES`.

    Raises:
        pipeline.state.Corrupt: a value does not match its hash.
    """
    told = context_state(view, context)
    if not told.undecided:
        return told
    prefix = state.key(context, state.PREPARED, b"")
    found: list[UndecidedOperation] = []
    size = 0
    for key in islice(view.keys_from(prefix), MOST_UNDECIDED):
        if not key.startswith(prefix) or size >= PAGE_BYTES:
            break
        name = key[len(prefix) :]
        stored = value(view, context, state.PREPARED, name) or b""
        size += len(stored)
        vote = _voted(stored).vote
        found.append(UndecidedOperation(operation=name.hex(), txid=display(vote.txid), attempt=vote.attempt))
    return msgspec.structs.replace(told, undecided_operations=tuple(found))


def _state(context: Context, head: Live, view: View) -> ContextState:
    holds = value(view, context, state.HOLDS, b"")
    return ContextState(
        context=context,
        sequence=head.sequence,
        state_root=head.state_root.hex(),
        store_root=head.store_root.hex(),
        settling=view.get(state.key(context, state.QUEUE, b"")) is not None,
        undecided=0 if holds is None else _holds(holds).prepared,
    )


def outputs(view: Ordered, context: Context, after: Outpoint | None, limit: int) -> Outputs:
    """Live outputs behind `after`, in the order of their outpoints' bytes: `limit`, or fewer where those are large.

    Cost: one transaction's bytes at a time, no further one once they came to `PAGE_BYTES`.

    Raises:
        pipeline.state.Corrupt: a value does not match its hash.
    """
    prefix = state.key(context, state.COIN, b"")
    keys = (key for key in view.keys_from(prefix + (after or b"")) if after is None or key != prefix + after)
    found: list[LiveOutput] = []
    tx: Tx | None = None  # outputs of one stand together
    size = 0
    for key in islice(keys, limit + 1):
        if not key.startswith(prefix):
            break
        point = key[len(prefix) :]
        txid, vout = point[:32], int.from_bytes(point[32:], "little")
        if tx is not None and tx.txid != txid:
            tx = None  # before the next is there
        if len(found) == limit or (tx is None and size >= PAGE_BYTES):
            return Outputs(state=context_state(view, context), outputs=tuple(found), next=found[-1].outpoint)
        if tx is None:
            tx, loaded = _judged(view, context, txid)
            size += loaded
        marks = value(view, context, state.CONTESTED, point)
        found.append(
            LiveOutput(
                outpoint=shown(point),
                satoshis=tx.satoshis(vout),
                locking_script=tx.locking(vout).hex(),
                contested_by=tuple(map(display, _contested(marks).by)) if marks is not None else (),
            )
        )
    return Outputs(state=context_state(view, context), outputs=tuple(found), next=None)


def _judged(view: View, context: Context, txid: Txid) -> tuple[Tx, int]:
    """A transaction that admitted something, and the bytes that were read for it."""
    judged = value(view, context, state.TX, txid) or b""
    return read_tx(_applied(judged).submission.raw), len(judged)


def transaction(view: View, context: Context, txid: Txid) -> Standing | None:
    """How a transaction stands in a context; None: it is a stranger.

    Raises:
        pipeline.state.Corrupt: a value does not match its hash.
    """
    here = context_state(view, context)
    accepted = value(view, context, state.ACCEPTED, txid) is not None
    if (judged := value(view, context, state.TX, txid)) is not None:
        return _of(_applied(judged), Standing(state=here, standing="applied", accepted=accepted))
    if value(view, context, state.KNOWN, txid) is not None:
        return Standing(state=here, standing="known", accepted=accepted)
    stored = value(view, context, state.DEPARTED, txid)
    if stored is None:
        return None
    departed = _departed(stored)
    standing = Standing(state=here, standing="departed", departed_with=display(departed.root))
    if (buried := value(view, context, state.TOMBSTONE, txid)) is not None:
        stone = _tombstone(buried)
        standing = Standing(
            state=here,
            standing="refused",
            code=stone.code,
            message=stone.message,
            competing=tuple(map(display, stone.competing)),
        )
    return standing if departed.applied is None else _of(departed.applied, standing)


def newest(standings: Iterable[Standing]) -> tuple[Standing, ...]:
    """Each context once, by name: while partitions change hands two workers tell of it, and the later state counts."""
    found: dict[Context, Standing] = {}
    for standing in standings:
        told = found.setdefault(standing.state.context, standing)
        if standing.state.sequence > told.state.sequence:
            found[standing.state.context] = standing
    return tuple(found[context] for context in sorted(found))


def _of(applied: Applied, standing: Standing) -> Standing:
    origin = applied.origin
    return msgspec.structs.replace(
        standing,
        sequence=applied.sequence,
        admittance=applied.admittance,
        manager=applied.manager,
        request_id=applied.request_id,
        origin=ResultOrigin(origin.topic, origin.partition, origin.offset),
    )


def value(view: View, context: Context, kind: bytes, rest: bytes) -> bytes | None:
    """An entry's value, without its hash."""
    stored = view.get(state.key(context, kind, rest))
    return None if stored is None else state.unseal(stored)


def shown(point: Outpoint) -> str:
    """`txid.vout`, the txid in display hex."""
    return f"{display(point[:32])}.{int.from_bytes(point[32:], 'little')}"


def read_outpoint(text: str) -> Outpoint:
    """`txid.vout` as `LiveOutput` names it.

    Raises:
        ValueError: it is none.
    """
    txid, dot, vout = text.partition(".")
    if not dot or not vout.isdecimal() or int(vout) >= 1 << 32:
        raise ValueError("an outpoint is txid.vout")
    return from_display(txid) + int(vout).to_bytes(4, "little")
