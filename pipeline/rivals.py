"""Two transactions that spend the same in one context (APPLY-2).

The first known spender of an outpoint stands while it is not refused. The one that comes second has lost once the first
is accepted; until then, and in any case where it is in a block itself, it waits, and `status` hears of both: what the
network and the trackers say of them decides, for all contexts alike.
"""

from collections.abc import Mapping, Sequence
from itertools import chain

import msgspec

from pipeline import proof, state
from pipeline.contextual import Challenge, Change, Contextual
from pipeline.evict import children, note_loser
from pipeline.outcome import Condition, Verdict
from pipeline.state import Live
from schemas.flow import Apply, Verified
from schemas.state import Applied
from schemas.types import Outpoint, Txid, display

LOOKED_AT = 1_000
"""Descendants looked at to find out whether something was broadcast; of more it is taken for granted."""

Rivals = Mapping[Txid, Sequence[tuple[Outpoint, Txid]]]
"""By known spender, what it spends that a payload spends too, and which of the payload's transactions does."""

_applied = msgspec.msgpack.Decoder(Applied).decode


def rivals(here: Contextual, verified: Verified, spends: Sequence[Sequence[Outpoint]]) -> Rivals:
    """Known spenders of outpoints that the payload spends too.

    spends: outpoints of each member.
    """
    found: dict[Txid, list[tuple[Outpoint, Txid]]] = {}
    holders = iter(here.values(state.SPEND, list(chain.from_iterable(spends))))
    for one, points in zip(verified.members, spends, strict=True):
        for spent, holder in zip(points, holders, strict=False):  # the shorter first: no holder is lost between two
            if holder is not None and holder != one.txid:
                found.setdefault(holder, []).append((spent, one.txid))
    return found


def claimed(head: Live, operation: Apply, why: str) -> Change:
    """What becomes of a payload that was refused and comes with a proof: it waits for the trackers' word."""
    verified = operation.verified
    said = Condition("conflict.undecided", f"{why}; the trackers are asked about its proof")
    path = proof.own_path(verified.beef, verified.txid)
    return Change(head, said=said, challenges=(Challenge(None, verified.txid, sent=False, path=path),))


def contested(here: Contextual, operation: Apply, found: Rivals, *, always: bool, part: bool = False) -> Change:
    """What becomes of a payload that came second.

    always: whether the context has everything broadcast, also what it makes nothing of. part: of an operation over
    several contexts; what is noted of one that lost would be heard again without the others, and nothing is written.
    """
    verified = operation.verified
    competing = tuple(sorted(found))
    accepted = [txid for txid, taken in zip(competing, here.is_there(state.ACCEPTED, competing), strict=True) if taken]
    names = ", ".join(display(txid) for txid in competing[:3])
    proven = verified.proven_height >= 0
    if proven or not accepted:
        said = Condition("conflict.undecided", f"spends what {names} spends, which the network has not decided")
        path = proof.own_path(verified.beef, verified.txid) if proven else b""
        challenges = tuple(challenge(here, holder, found[holder][0][1], path, always=always) for holder in competing)
        return Change(here.head, said=said, competing=competing, challenges=challenges)
    verdict = Verdict("conflict.double-spend", f"spends what {names} spends, which the network accepted")
    origin = verified.asked.origin
    noted = False
    for holder in () if part else accepted:
        for spent, _ in found[holder]:
            noted |= note_loser(here, spent, origin)
    if not noted:
        return Change(here.head, said=verdict, competing=competing)
    entry = here.journal("dismiss", operation.id, verified.txid, origin=origin)
    return Change(here.head, (entry,), verdict, competing)


def challenge(here: Contextual, holder: Txid, by: Txid, path: bytes = b"", *, always: bool) -> Challenge:
    """What status is told of a known transaction and one that came second. Raises nothing."""
    if here.value(state.ACCEPTED, holder) == state.PROVEN:
        return Challenge(holder, by, sent=False, proven=True, path=path)
    return Challenge(holder, by, was_sent(here, holder, always=always), path=path)


def was_sent(here: Contextual, txid: Txid, *, always: bool) -> bool:
    """Whether the context asked for a known transaction to be broadcast: for itself, or as an ancestor of another."""
    seen = {txid}
    stack = [txid]
    while stack:
        one = stack.pop()
        stored = here.value(state.TX, one)
        wanted = stored is not None and (always or not _applied(stored).admittance.is_empty())
        if wanted and here.value(state.ACCEPTED, one) != state.PROVEN:
            return True
        more = [child for child in dict.fromkeys(children(here, one)) if child not in seen]
        seen.update(more)
        stack += more
        if len(seen) > LOOKED_AT:
            return True
    return False
