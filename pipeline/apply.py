"""An operation on one context: all its effects, or none (APPLY-1, APPLY-2, APPLY-3, JOURNAL-1).

The state of a context follows from the set of transactions it knows (`derive.py` says how, in the plainest way); here
it is reached by steps. What comes late and changes what an earlier judgement was about has that one judged again. Work
beyond what a transaction of Kafka's takes is put into a queue, which is state, and goes on in the next (`settle`).

Reads come from the layers below, writes go into the layer given; the caller merges it, or drops it, and nothing
happened. Sources: BRC-22 and the reference overlay engine's semantics, without its faults.
"""

from collections.abc import Callable, Mapping, Sequence

import msgspec

from pipeline import baskets, listing, member, reservations, state, waiting
from pipeline import evict as leaving
from pipeline.codec.tx import read_tx
from pipeline.contextual import Answer, Change, Contextual
from pipeline.evict import come_back, evict, leave
from pipeline.judge import Rule, judge, judge_again, never
from pipeline.outcome import Verdict
from pipeline.overlay.manager import BadManager, TopicManager
from pipeline.rivals import claimed, contested, rivals
from pipeline.state import Layer, Live, View
from schemas.baskets import Instructed
from schemas.external import Admittance
from schemas.flow import Accept, Apply, Asked, Member, Readmit, Repaired
from schemas.state import Applied, Departed, Known, Leave, Rejudge, Return, Submission, Tombstone
from schemas.types import Context, Outpoint, Txid, display, outpoints

__all__ = ["accept", "apply", "asks_manager", "evict", "readmit", "repaired", "settle"]

TOPIC = "topic:"

WALLET = baskets.Wallet()
"""Judges in all owners' contexts."""

NO_TXID = bytes(32)
"""In entries that are about no transaction."""

_applied = msgspec.msgpack.Decoder(Applied).decode
_departed = msgspec.msgpack.Decoder(Departed).decode
_known = msgspec.msgpack.Decoder(Known).decode
_tombstone = msgspec.msgpack.Decoder(Tombstone).decode


def apply(
    layer: Layer,
    head: Live,
    context: Context,
    operation: Apply,
    managers: Mapping[str, TopicManager],
    now_ms: int,
    enough: Callable[[], bool] = never,
    *,
    always: bool = False,
) -> Change:
    """Judge a payload in a context.

    enough: see `Rule`. The payload itself is judged all the same.
    always: whether the context has everything broadcast, also what it makes nothing of.

    Raises:
        BadManager: the manager's answer is none.
        Exception: whatever the manager raises; nothing was written then but into `layer`.
    """
    here = Contextual(context, layer, head, now_ms)
    verified = operation.verified
    rule = _rule(context, managers, enough)
    if rule is None:
        return Change(
            head, said=Verdict("admission.unknown-topic", f"{context.removeprefix(TOPIC)} is not hosted here")
        )
    txids = [one.txid for one in verified.members]
    for one, buried in zip(verified.members, here.values(state.TOMBSTONE, txids), strict=True):
        if buried is not None:
            tombstone = _tombstone(buried)
            why = f"{display(one.txid)} was refused: {tombstone.message or tombstone.code}"
            if verified.proven_height >= 0:
                return claimed(head, operation, why)
            return Change(head, said=Verdict("conflict.evicted", why), competing=tombstone.competing)
    off_chain = verified.asked.off_chain
    claims: Sequence[tuple[str, int]] = ()
    if baskets.is_owner(context):
        instructed = baskets.instructed(operation.instruction)
        subject = read_tx(member.raw(verified.beef, verified.members[-1]))
        if (unfit := baskets.check(context, instructed.instruction, subject)) is not None:
            return Change(head, said=unfit)
        if (stored := here.value(state.TX, verified.txid)) is not None:
            return _merge(here, operation, _applied(stored), instructed, rule)
        whole = _with_departed(here, verified.txid, instructed)
        if isinstance(whole, Verdict):
            return Change(head, said=whole)
        off_chain = baskets.for_submission(whole)
        claims = instructed.instruction.reservations
    elif (stored := here.value(state.TX, verified.txid)) is not None:
        return Change(head, said=_repeat(_applied(stored), verified.asked))
    spends = [list(outpoints(member.spends(verified.beef, one))) for one in verified.members]
    if baskets.is_owner(context) and verified.proven_height < 0:
        known = here.is_there(state.KNOWN, txids)
        spent = [point for points, was_known in zip(spends, known, strict=True) if not was_known for point in points]
        if (lost := reservations.refuses(here, claims, spent)) is not None:
            return Change(head, said=lost)
    if found := rivals(here, verified, spends):
        return contested(here, operation, found, always=always)
    return _submit(here, operation, spends, rule, off_chain, [name for name, _ in claims])


def _repeat(applied: Applied, asked: Asked) -> Answer | Verdict:
    """A (txid, context) is applied once: a repeat gets the stored answer (APPLY-1)."""
    if applied.submission.off_chain != asked.off_chain:
        return Verdict("conflict.already-applied", "it was applied with other off-chain values")
    repeat = applied.origin != asked.origin
    return Answer(applied.admittance, applied.sequence, applied.state_root, repeat=repeat, fresh=False)


def _merge(here: Contextual, operation: Apply, applied: Applied, second: Instructed, rule: Rule) -> Change:
    """A (txid, instruction) is followed once: a repeat gets the stored answer, another one is a merge (BASKET-1)."""
    asked = operation.verified.asked
    before = baskets.of_submission(applied.submission.off_chain)
    if set(second.followed) <= set(before.followed):
        repeat = applied.origin != asked.origin
        return Change(
            here.head, said=Answer(applied.admittance, applied.sequence, applied.state_root, repeat=repeat, fresh=False)
        )
    merged = baskets.merged(before, second)
    if isinstance(merged, Verdict):
        return Change(here.head, said=merged)
    txid = operation.verified.txid
    submission = msgspec.structs.replace(applied.submission, off_chain=baskets.for_submission(merged))
    listing.replace(here, txid, submission)
    spends = list(outpoints(_known(here.value(state.KNOWN, txid) or b"").spends))
    admittance, affected = judge(here, rule, txid, submission, spends, applied.admittance)
    here.fold()
    now = msgspec.structs.replace(
        applied,
        sequence=here.head.sequence + 1,
        state_root=here.head.state_root,
        admittance=admittance,
        submission=submission,
    )
    here.put(state.TX, txid, now)
    entry = here.journal("merge", operation.id, txid, manager=rule.name, origin=asked.origin)
    fresh = applied.admittance.is_empty()  # else it was sent to the network when it was applied
    answer = Answer(admittance, now.sequence, now.state_root, repeat=False, fresh=fresh, merge=True)
    again = judge_again(here, rule, operation.id, affected)
    return msgspec.structs.replace(again, entries=(entry, *again.entries), said=answer)


def _with_departed(here: Contextual, txid: Txid, instructed: Instructed) -> Instructed | Verdict:
    """With what was said of the transaction before it left with one that was refused."""
    stored = here.value(state.DEPARTED, txid)
    applied = _departed(stored).applied if stored is not None else None
    if applied is None:
        return instructed
    return baskets.merged(baskets.of_submission(applied.submission.off_chain), instructed)


def _submit(
    here: Contextual,
    operation: Apply,
    spends: Sequence[Sequence[Outpoint]],
    rule: Rule,
    off_chain: bytes,
    claimed: Sequence[str],
) -> Change:
    """Judge a transaction for the first time, and again those that spend what it admits.

    spends: outpoints of each member; off_chain: what else its judgement follows from; claimed: reservations it names.
    """
    verified = operation.verified
    asked, subject = verified.asked, verified.members[-1]
    # Proven, it is in a block: nobody broadcasts it, and no endpoint's acceptance will follow.
    _make_known(here, verified.members, spends, accepted=verified.proven_height >= 0)
    sources = member.sources(verified.beef, subject)
    raw = member.raw(verified.beef, subject)
    submission = rule.examined(verified.txid, Submission(raw, sources, off_chain, operation.examined))
    listing.place(here, verified.txid, submission)
    admittance, affected = judge(here, rule, verified.txid, submission, spends[-1], Admittance())
    here.fold()  # the answer to a repeat holds the state root, which the entry that keeps it does not touch
    sequence = here.head.sequence + 1
    applied = Applied(
        sequence=sequence,
        state_root=here.head.state_root,
        origin=asked.origin,
        request_id=asked.request_id,
        contexts=len(asked.contexts),
        admittance=admittance,
        manager=rule.name,
        submission=submission,
    )
    here.put(state.TX, verified.txid, applied)
    entry = here.journal(
        "apply", operation.id, verified.txid, manager=rule.name, origin=asked.origin, beef=verified.beef
    )
    consumed, ended = reservations.ended(here, operation.id, verified.txid, claimed=claimed)
    answer = Answer(admittance, sequence, applied.state_root, repeat=False, fresh=True)
    again = judge_again(here, rule, operation.id, affected)
    return msgspec.structs.replace(again, entries=(entry, *consumed, *again.entries), said=answer, ended=ended)


def _make_known(
    here: Contextual, members: Sequence[Member], spends: Sequence[Sequence[Outpoint]], *, accepted: bool
) -> None:
    """Their spends count from here on: coins they spend are no longer live. No two of them spend the same."""
    txids = [one.txid for one in members]
    for one, points, known in zip(members, spends, here.is_there(state.KNOWN, txids), strict=True):
        if not known:
            listing.leave(here, here.made_here(points))
            here.put_all(state.SPEND, points, one.txid)
            here.put(state.KNOWN, one.txid, Known(b"".join(points), one.outputs))
    if accepted:
        here.put_all(state.ACCEPTED, txids, state.PROVEN)


def accept(layer: Layer, head: Live, context: Context, operation: Accept, now_ms: int) -> Change:
    """The network took transactions: who competes with one of them has lost from here on."""
    here = Contextual(context, layer, head, now_ms)
    entries = []
    txids = list(dict.fromkeys(operation.txids))
    known, before = here.is_there(state.KNOWN, txids), here.is_there(state.ACCEPTED, txids)
    for txid, is_known, was_accepted in zip(txids, known, before, strict=True):
        if is_known and not was_accepted:
            here.put(state.ACCEPTED, txid, b"")
            entries.append(here.journal("accept", operation.id, txid))
    return Change(here.head, tuple(entries))


def repaired(layer: Layer, head: Live, context: Context, operation: Repaired, now_ms: int) -> Change:
    """A worker's store was made again: the journal says so, and nothing else changes."""
    here = Contextual(context, layer, head, now_ms)
    entry = here.journal("repair", operation.id, NO_TXID)
    return Change(here.head, (entry,))


def readmit(
    layer: Layer,
    head: Live,
    context: Context,
    operation: Readmit,
    managers: Mapping[str, TopicManager],
    now_ms: int,
    enough: Callable[[], bool] = never,
) -> Change:
    """The network took after all what it had refused.

    enough: see `Rule`. One is judged all the same.

    Raises:
        BadManager: the manager's answer is none, or the topic is no longer hosted.
        Exception: whatever the manager raises; nothing was written then but into `layer`.
    """
    return leaving.readmit(Contextual(context, layer, head, now_ms), operation, _hosted(context, managers, enough))


def asks_manager(view: View, context: Context) -> bool:
    """Whether the next piece of what a context's queue holds is one of judgements."""
    return isinstance(waiting.front(view, context), Rejudge | Return)


def settle(
    layer: Layer,
    head: Live,
    context: Context,
    managers: Mapping[str, TopicManager],
    now_ms: int,
    enough: Callable[[], bool] = never,
) -> Change:
    """The next piece of what a context's queue holds, or the beginning of it; nothing where it is empty.

    enough: see `Rule`. One is judged all the same.

    Raises:
        BadManager: the manager's answer is none, or the topic is no longer hosted.
        Exception: whatever the manager raises; nothing was written then but into `layer`.
    """
    here = Contextual(context, layer, head, now_ms)
    work = waiting.take(here)
    if work is None:
        return Change(head)
    opening = here.journal("wait", work.operation, work.txids[0])
    if isinstance(work, Leave):
        change = leave(here, work)
    elif isinstance(work, Return):
        change = come_back(here, work, _hosted(context, managers, enough))
    else:
        change = judge_again(here, _hosted(context, managers, enough), work.operation, work.txids)
    settling = here.value(state.QUEUE, b"") is not None
    return msgspec.structs.replace(change, entries=(opening, *change.entries), settling=settling)


def _rule(context: Context, managers: Mapping[str, TopicManager], enough: Callable[[], bool]) -> Rule | None:
    """Who judges in a context; None: nobody here."""
    if baskets.is_owner(context):
        return Rule("baskets", WALLET, enough)
    topic = context.removeprefix(TOPIC)
    return Rule(topic, managers[topic], enough) if topic in managers else None


def _hosted(context: Context, managers: Mapping[str, TopicManager], enough: Callable[[], bool]) -> Rule:
    if (rule := _rule(context, managers, enough)) is None:
        topic = context.removeprefix(TOPIC)
        raise BadManager(f"{topic} is not hosted here, and transactions of it are to be judged again")
    return rule
