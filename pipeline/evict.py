"""The network refused a transaction: it and its descendants leave their context, leaves first."""

import msgspec

from pipeline import state, waiting
from pipeline.contextual import Change, Contextual, Evicted
from pipeline.state import Layer, Live
from schemas.flow import Evict
from schemas.state import Applied, Known, Leave, Tombstone
from schemas.types import Context, Txid, outpoint, outpoints

ASKED_ONE_BY_ONE = 1_000
"""Outputs whose spenders are asked for each. Of 900,000 few are spent, and the store holds those in order."""

_applied = msgspec.msgpack.Decoder(Applied).decode
_known = msgspec.msgpack.Decoder(Known).decode
_tombstone = msgspec.msgpack.Decoder(Tombstone).decode


def evict(layer: Layer, head: Live, context: Context, operation: Evict, now_ms: int) -> Change:
    """The network refused a transaction: it and its descendants leave, leaves first; coins they spent return.

    The tombstone comes first: while descendants wait in the queue, nobody brings the transaction back.
    """
    here = Contextual(context, layer, head, now_ms)
    if here.value(state.TOMBSTONE, operation.txid) is not None:
        return Change(head)
    if here.value(state.KNOWN, operation.txid) is None:
        return Change(head)
    here.put(state.TOMBSTONE, operation.txid, Tombstone(operation.code, operation.message, operation.competing, b""))
    order = _leaves_first(here, operation.txid)
    pieces = [Leave(operation.id, operation.txid, piece) for piece in waiting.pieces(order)]
    change = leave(here, pieces[0])
    if len(pieces) == 1:
        return change
    waits = waiting.enqueue(here, pieces[1:], operation.id)
    return msgspec.structs.replace(change, head=here.head, entries=(*change.entries, waits), settling=True)


def leave(here: Contextual, work: Leave) -> Change:
    """A piece of those that leave."""
    stone = _tombstone(here.value(state.TOMBSTONE, work.root) or b"")
    gone: list[Evicted] = []
    entries: list[bytes] = []
    for txid in work.txids:
        applied = _undo(here, txid)
        entries.append(here.journal("evict", work.operation, txid))
        gone.append(Evicted(txid, stone, applied, here.head.sequence, here.head.state_root))
    return Change(here.head, tuple(entries), competing=stone.competing, evicted=tuple(gone))


def _leaves_first(here: Contextual, root: Txid) -> list[Txid]:
    """The transaction and its known descendants, every child before its parents."""
    order: list[Txid] = []
    state_of: dict[Txid, bool] = {}  # False: children pending, True: placed
    stack = [root]
    while stack:
        txid = stack[-1]
        if txid in state_of:
            stack.pop()
            if not state_of[txid]:
                state_of[txid] = True
                order.append(txid)
            continue
        state_of[txid] = False
        stack += [child for child in _children(here, txid) if child not in state_of]
    return order


def _children(here: Contextual, txid: Txid) -> list[Txid]:
    """Known transactions that spend an output of a known one."""
    outputs = _known(here.value(state.KNOWN, txid) or b"").outputs
    if outputs <= ASKED_ONE_BY_ONE:
        points = [outpoint(txid, vout) for vout in range(outputs)]
    else:
        points = here.rests_with(state.SPEND, txid)
    return [child for child in here.values(state.SPEND, points) if child is not None]


def _undo(here: Contextual, txid: Txid) -> Applied | None:
    """Take a transaction none of whose descendants is known out of the context; the coins it spent return."""
    stored = here.value(state.KNOWN, txid)
    assert stored is not None  # only known transactions have a place in the order
    judged = here.value(state.TX, txid)
    applied = _applied(judged) if judged is not None else None
    spends = list(outpoints(_known(stored).spends))
    if applied is not None:
        admitted = [outpoint(txid, vout) for vout in applied.admittance.outputs_to_admit]
        here.delete_all(state.COIN, admitted)
        here.delete_all(state.ADMITTED, admitted)
        here.delete_all(state.HISTORY, [spends[vin] for vin in applied.admittance.coins_to_retain])
        here.delete(state.TX, txid)
    here.delete_all(state.SPEND, spends)
    returned = [point for point, there in zip(spends, here.is_there(state.ADMITTED, spends), strict=True) if there]
    here.put_all(state.COIN, returned, b"")
    here.delete(state.KNOWN, txid)
    here.delete_all(state.ACCEPTED, [txid])
    return applied
