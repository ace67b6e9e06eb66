"""The network's word against a transaction, and its word again: leaving a context, and coming back (APPLY-4).

Refused, a transaction leaves with all its known descendants, leaves first; the coins they spent return. What left is
kept as it stood. Taken after all, it comes back with what left with it, parents first, and is judged anew.
"""

from collections.abc import Iterable, Sequence

import msgspec

from pipeline import holding, listing, reservations, state, waiting
from pipeline.baskets import is_owner
from pipeline.contextual import Challenge, Change, Contextual, Ended, Evicted, Revised
from pipeline.judge import Rule, judge, judge_again
from schemas.external import Admittance
from schemas.flow import Evict, Origin, Readmit
from schemas.state import Applied, Contested, Departed, Known, Leave, Losers, Return, Tombstone
from schemas.types import Outpoint, Txid, outpoint, outpoints

ASKED_ONE_BY_ONE = 1_000
"""Outputs whose spenders are asked for each. Of 900,000 few are spent, and the store holds those in order."""

FIRST_PLACE = 1 << 32
"""Of those that leave together: whoever joins them later, for want of this parent too, stands below."""

LEFT_TXID = 40
"""Where in the key of one that left its txid begins."""

LOSERS_KEPT = 8
"""Coordinates kept with an outpoint: who comes back when its holder is evicted."""

_applied = msgspec.msgpack.Decoder(Applied).decode
_contested = msgspec.msgpack.Decoder(Contested).decode
_departed = msgspec.msgpack.Decoder(Departed).decode
_known = msgspec.msgpack.Decoder(Known).decode
_losers = msgspec.msgpack.Decoder(Losers).decode
_tombstone = msgspec.msgpack.Decoder(Tombstone).decode


# --- leaving


def evict(here: Contextual, operation: Evict) -> Change:
    """The network refused a transaction: it and its descendants leave, leaves first; coins they spent return.

    The tombstone comes first: while descendants wait in the queue, nobody brings the transaction back. Whatever was
    contested by the refused one is no longer.
    """
    if here.value(state.TOMBSTONE, operation.txid) is not None:
        return Change(here.head)
    decided = _decided(here, operation.txid)
    if here.value(state.KNOWN, operation.txid) is None:
        return Change(here.head) if not decided else _only(here, operation)
    here.put(state.TOMBSTONE, operation.txid, Tombstone(operation.code, operation.message, operation.competing))
    order = leaves_first(here, operation.txid)
    places = range(FIRST_PLACE, FIRST_PLACE + len(order), waiting.STEPS)
    pieces = [
        Leave(operation.id, operation.txid, piece, first)
        for piece, first in zip(waiting.pieces(order), places, strict=True)
    ]
    change = leave(here, pieces[0])
    if len(pieces) == 1:
        return change
    waits = waiting.enqueue(here, pieces[1:], operation.id)
    return msgspec.structs.replace(change, head=here.head, entries=(*change.entries, waits), settling=True)


def _only(here: Contextual, operation: Evict) -> Change:
    entry = here.journal("evict", operation.id, operation.txid)
    return Change(here.head, (entry,))


def leave(here: Contextual, work: Leave) -> Change:
    """A piece of those that leave; those that are too large for one transaction together wait (TXN-5)."""
    stone = _tombstone(here.value(state.TOMBSTONE, work.root) or b"")
    gone: list[Evicted] = []
    entries: list[bytes] = []
    ended: list[Ended] = []
    again: list[Origin] = []
    left = None
    for count, txid in enumerate(work.txids):
        if count and here.written >= waiting.BYTES:
            left = msgspec.structs.replace(work, txids=work.txids[count:], first=work.first + count)
            entries.append(waiting.put_back(here, left))
            break
        departed, returned = _undo(here, txid, work.root, work.first + count)
        again += _heard_again(here, outpoints(departed.known.spends))
        if txid == work.root:
            _contest(here, returned, stone.competing)
        entries.append(here.journal("evict", work.operation, txid))
        gone.append(Evicted(txid, stone, departed.applied, here.head.sequence, here.head.state_root))
        released, told = reservations.ended(here, work.operation, txid, spent=False)
        entries += released
        ended += told
    return Change(
        here.head,
        tuple(entries),
        competing=stone.competing,
        evicted=tuple(gone),
        again=tuple(again),
        settling=left is not None,
        ended=tuple(ended),
    )


def leaves_first(here: Contextual, root: Txid) -> list[Txid]:
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
        stack += [child for child in children(here, txid) if child not in state_of]
    return order


def children(here: Contextual, txid: Txid) -> list[Txid]:
    """Known transactions that spend an output of a known one."""
    outputs = _known(here.value(state.KNOWN, txid) or b"").outputs
    if outputs <= ASKED_ONE_BY_ONE:
        points = [outpoint(txid, vout) for vout in range(outputs)]
    else:
        points = here.rests_with(state.SPEND, txid)
    return [child for child in here.values(state.SPEND, points) if child is not None]


def _undo(here: Contextual, txid: Txid, root: Txid, place: int) -> tuple[Departed, list[Outpoint]]:
    """Take a transaction none of whose descendants is known out of the context; the coins it spent return."""
    stored = here.value(state.KNOWN, txid)
    assert stored is not None  # only known transactions have a place in the order
    judged = here.value(state.TX, txid)
    applied = _applied(judged) if judged is not None else None
    known = _known(stored)
    spends = list(outpoints(known.spends))
    if applied is not None:
        admitted = [outpoint(txid, vout) for vout in applied.admittance.outputs_to_admit]
        listing.leave(here, admitted)
        listing.displace(here, txid, applied.submission)
        here.delete_all(state.ADMITTED, admitted)
        here.delete_all(state.HISTORY, [spends[vin] for vin in applied.admittance.coins_to_retain])
        here.delete(state.TX, txid)
    here.delete_all(state.SPEND, spends)
    asked = here.made_here(spends)
    returned = [point for point, there in zip(asked, here.is_there(state.ADMITTED, asked), strict=True) if there]
    listing.enter(here, returned)
    here.delete(state.KNOWN, txid)
    accepted = here.value(state.ACCEPTED, txid) is not None
    here.delete_all(state.ACCEPTED, [txid])
    if (before := here.value(state.DEPARTED, txid)) is not None:  # it left before, and came with a payload
        here.delete_all(state.LEFT, [_left(_departed(before), txid)])
    departed = Departed(root, place, known, accepted, applied)
    _put_departed(here, txid, departed)
    return departed, returned


def _put_departed(here: Contextual, txid: Txid, departed: Departed) -> None:
    here.put(state.DEPARTED, txid, departed)
    here.put(state.LEFT, _left(departed, txid), b"")


def _left(departed: Departed, txid: Txid) -> bytes:
    return departed.root + departed.place.to_bytes(8, "big") + txid


# --- whom it concerns besides


def note_loser(here: Contextual, spent: Outpoint, origin: Origin) -> bool:
    """Keep with an outpoint whose payload lost it; whether that is new."""
    stored = here.value(state.LOSER, spent)
    origins = _losers(stored).origins if stored is not None else ()
    if origin in origins or len(origins) >= LOSERS_KEPT:
        return False
    here.put(state.LOSER, spent, Losers((*origins, origin)))
    return True


def _heard_again(here: Contextual, spends: Iterable[Outpoint]) -> list[Origin]:
    """Who lost one of these to a transaction that leaves: no longer losers."""
    points = list(spends)
    found: list[Origin] = []
    for point, stored in zip(points, here.values(state.LOSER, points), strict=True):
        if stored is not None:
            here.delete(state.LOSER, point)
            found += _losers(stored).origins
    return found


def _contest(here: Contextual, returned: Sequence[Outpoint], rivals: Sequence[Txid]) -> None:
    """Coins that one of these may yet have: they are not offered as free."""
    for point in returned if rivals else ():
        stored = here.value(state.CONTESTED, point)
        before = _contested(stored).by if stored is not None else ()
        here.put(state.CONTESTED, point, Contested(tuple(dict.fromkeys((*before, *rivals)))))
        for rival in rivals:
            here.put(state.RIVAL, rival + point, b"")
    if rivals and is_owner(here.context):
        holding.withdraw(here, listing.in_basket(here, returned))


def _decided(here: Contextual, rival: Txid) -> bool:
    """One that was refused contests nothing any more; whether it did."""
    marks = here.rests_with(state.RIVAL, rival)
    for mark in marks:
        here.delete(state.RIVAL, mark)
        point = mark[32:]
        left = tuple(txid for txid in _contested(here.value(state.CONTESTED, point) or b"").by if txid != rival)
        if left:
            here.put(state.CONTESTED, point, Contested(left))
        else:
            here.delete(state.CONTESTED, point)
            if is_owner(here.context):
                holding.offer(here, listing.in_basket(here, [point]))
    return bool(marks)


# --- coming back


def readmit(here: Contextual, operation: Readmit, rule: Rule) -> Change:
    """The network took after all what it had refused: it comes back, and what left with it, parents first."""
    if here.value(state.TOMBSTONE, operation.txid) is None:
        return Change(here.head)
    here.delete(state.TOMBSTONE, operation.txid)
    order = [rest[LEFT_TXID:] for rest in reversed(here.rests_with(state.LEFT, operation.txid))]
    pieces = [Return(operation.id, operation.txid, piece) for piece in waiting.pieces(order)]
    opening = () if len(pieces) == 1 else (waiting.enqueue(here, pieces[1:], operation.id),)
    change = come_back(here, pieces[0], rule)
    settling = change.settling or len(pieces) > 1
    return msgspec.structs.replace(change, entries=(*opening, *change.entries), settling=settling)


def come_back(here: Contextual, work: Return, rule: Rule) -> Change:
    """A piece of those that come back; what is too much for one transaction together waits (TXN-5), and what is left
    when judging took long enough (`rule.enough`).

    Who spends what a rival holds by now stays out, and what descends from it; when the rival leaves, their payloads are
    heard again, like those of others that lost. Who lacks a parent that left with another stays with that one.
    """
    entries: list[bytes] = []
    revised: list[Revised] = []
    affected: list[Txid] = []
    challenges: list[Challenge] = []
    ended: list[Ended] = []
    left = None
    for count, txid in enumerate(work.txids):
        if count and (here.written >= waiting.BYTES or rule.enough()):
            left = msgspec.structs.replace(work, txids=work.txids[count:])
            entries.append(waiting.put_back(here, left))
            break
        departed = _departed(here.value(state.DEPARTED, txid) or b"")
        here.delete(state.LEFT, _left(departed, txid))
        spends = list(outpoints(departed.known.spends))
        if here.value(state.KNOWN, txid) is not None:
            here.delete(state.DEPARTED, txid)  # a payload brought it meanwhile, its ancestors proven
            entries.append(here.journal("readmit", work.operation, txid))
            continue
        lost, root = _stays(here, spends)
        if lost is not None:
            here.put(state.DEPARTED, txid, msgspec.structs.replace(departed, lost=lost))
            if departed.applied is not None:
                note_loser(here, lost, departed.applied.origin)
            if (holder := here.value(state.SPEND, lost)) is not None:
                proven = here.value(state.ACCEPTED, holder) == state.PROVEN
                challenges.append(Challenge(holder, txid, sent=not proven, proven=proven))
            entries.append(here.journal("dismiss", work.operation, txid))
        elif root is not None:
            below = int.from_bytes(here.rests_with(state.LEFT, root)[0][32:40], "big") - 1
            _put_departed(here, txid, msgspec.structs.replace(departed, root=root, place=below))
            entries.append(here.journal("evict", work.operation, txid))
        else:
            here.delete(state.DEPARTED, txid)
            applied, concerned = _redo(here, txid, departed, rule, taken=txid == work.root)
            entries.append(here.journal("readmit", work.operation, txid, manager=rule.name if applied else ""))
            consumed, told = reservations.ended(here, work.operation, txid)
            entries += consumed
            ended += told
            revised += [Revised(txid, applied)] if applied is not None else []
            affected += concerned
    again = judge_again(here, rule, work.operation, list(dict.fromkeys(affected)))
    return msgspec.structs.replace(
        again,
        entries=(*entries, *again.entries),
        revised=(*revised, *again.revised),
        challenges=tuple(challenges),
        settling=again.settling or left is not None,
        ended=tuple(ended),
    )


def _stays(here: Contextual, spends: Sequence[Outpoint]) -> tuple[Outpoint | None, Txid | None]:
    """Why one cannot come back: the outpoint a rival holds; or the refused one that a parent left with."""
    for point, holder in zip(spends, here.values(state.SPEND, spends), strict=True):
        if holder is not None:
            return point, None
    root = None
    for parent in dict.fromkeys(point[:32] for point in spends):
        if here.value(state.KNOWN, parent) is None and (stored := here.value(state.DEPARTED, parent)) is not None:
            gone = _departed(stored)
            if gone.lost:
                return gone.lost, None
            root = gone.root
    return None, root


def _redo(
    here: Contextual, txid: Txid, departed: Departed, rule: Rule, *, taken: bool
) -> tuple[Applied | None, list[Txid]]:
    """Known again, and judged anew; and which known transactions spend what it admits."""
    spends = list(outpoints(departed.known.spends))
    listing.leave(here, here.made_here(spends))
    here.put_all(state.SPEND, spends, txid)
    here.put(state.KNOWN, txid, departed.known)
    if departed.accepted or taken:
        here.put(state.ACCEPTED, txid, b"")
    if departed.applied is None:
        return None, []
    submission = rule.examined(txid, departed.applied.submission)
    listing.place(here, txid, submission)
    said, affected = judge(here, rule, txid, submission, spends, Admittance())
    here.fold()  # the root it is kept with is that before its own entry
    applied = msgspec.structs.replace(
        departed.applied,
        sequence=here.head.sequence + 1,
        state_root=here.head.state_root,
        admittance=said,
        manager=rule.name,
        submission=submission,
    )
    here.put(state.TX, txid, applied)
    return applied, affected
