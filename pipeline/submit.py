"""Whether a context can take a payload, and what it makes of it (APPLY-1, APPLY-2).

Sources: BRC-22 and the reference overlay engine's semantics, without its faults.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import msgspec
from msgspec import Struct

from pipeline import baskets, listing, member, reservations, state, waiting
from pipeline.codec.tx import read_tx
from pipeline.contextual import Answer, Change, Contextual
from pipeline.judge import Rule, judge, judge_again, never
from pipeline.outcome import Verdict
from pipeline.overlay.manager import TopicManager
from pipeline.rivals import claimed, contested, rivals
from schemas.baskets import Instructed
from schemas.external import Admittance
from schemas.flow import Apply, Asked, Member
from schemas.journal import Kind
from schemas.state import Applied, Departed, Known, Rejudge, Submission, Tombstone
from schemas.types import Context, Outpoint, Txid, display, outpoints

TOPIC = "topic:"

WALLET = baskets.Wallet()
"""Judges in all owners' contexts."""

_applied = msgspec.msgpack.Decoder(Applied).decode
_departed = msgspec.msgpack.Decoder(Departed).decode
_known = msgspec.msgpack.Decoder(Known).decode
_tombstone = msgspec.msgpack.Decoder(Tombstone).decode


class Entry(Struct, frozen=True):
    """How the journal names what is done."""

    kind: Kind
    operation: str = ""  # empty: the payload's own
    contexts: tuple[Context, ...] = ()  # all of them, where it is one over several


Spends = Sequence[Sequence[Outpoint]]
"""Of each member of a payload."""

APPLY, MERGE = Entry("apply"), Entry("merge")


class Fit(Struct, frozen=True):
    """A payload that a context can take."""

    does: Literal["apply", "merge"]
    rule: Rule
    spends: Spends  # none of a merge: they are known
    submission: Submission  # with what a merge adds, and facts of the manager as it is now
    applied: Applied | None = None  # what a merge adds to
    claimed: tuple[str, ...] = ()  # reservations that it names
    said: Admittance | None = None  # what the manager said of it already


def weigh(
    here: Contextual,
    operation: Apply,
    managers: Mapping[str, TopicManager],
    enough: Callable[[], bool] = never,
    *,
    always: bool = False,
    kept: bool = False,
    part: bool = False,
    spends: Spends | None = None,
) -> Fit | Change:
    """Whether a context can take a payload, before its manager judges it; else what becomes of it.

    kept: it was found to hold what it spends, and nobody else could since. part: see `contested`. spends: where they
    are read already. The others: see `apply`.
    """
    context, head, verified = here.context, here.head, operation.verified
    rule = rule_of(context, managers, enough)
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
            return _further(here, operation, _applied(stored), instructed, rule)
        whole = _with_departed(here, verified.txid, instructed)
        if isinstance(whole, Verdict):
            return Change(head, said=whole)
        off_chain = baskets.for_submission(whole)
        claims = instructed.instruction.reservations
    elif (stored := here.value(state.TX, verified.txid)) is not None:
        return Change(head, said=_repeat(_applied(stored), verified.asked))
    spends = member.spends_of(verified) if spends is None else spends
    if baskets.is_owner(context) and verified.proven_height < 0 and not kept:
        known = here.is_there(state.KNOWN, txids)
        spent = [point for points, was_known in zip(spends, known, strict=True) if not was_known for point in points]
        if (lost := reservations.refuses(here, claims, spent)) is not None:
            return Change(head, said=lost)
    if found := rivals(here, verified, spends):
        return contested(here, operation, found, always=always, part=part)
    one = verified.members[-1]
    raw, sources = member.raw(verified.beef, one), member.sources(verified.beef, one)
    submission = rule.examined(verified.txid, Submission(raw, sources, off_chain, operation.examined))
    return Fit("apply", rule, spends, submission, claimed=tuple(name for name, _ in claims))


def _repeat(applied: Applied, asked: Asked) -> Answer | Verdict:
    """A (txid, context) is applied once: a repeat gets the stored answer (APPLY-1)."""
    if applied.submission.off_chain != asked.off_chain:
        return Verdict("conflict.already-applied", "it was applied with other off-chain values")
    repeat = applied.origin != asked.origin
    return Answer(applied.admittance, applied.sequence, applied.state_root, repeat=repeat, fresh=False)


def _further(
    here: Contextual,
    operation: Apply,
    applied: Applied,
    second: Instructed,
    rule: Rule,
) -> Fit | Change:
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
    submission = msgspec.structs.replace(applied.submission, off_chain=baskets.for_submission(merged))
    return Fit("merge", rule, (), submission, applied)


def merge(here: Contextual, operation: Apply, fit: Fit, entry_of: Entry = MERGE) -> Change:
    """Follow a further instruction of an owner's."""
    asked, txid, rule, submission, applied = (
        operation.verified.asked,
        operation.verified.txid,
        fit.rule,
        fit.submission,
        fit.applied,
    )
    assert applied is not None  # only what was applied is merged
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
    entry = here.journal(
        entry_of.kind,
        entry_of.operation or operation.id,
        txid,
        manager=rule.name,
        origin=asked.origin,
        contexts=entry_of.contexts,
    )
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


def submit(here: Contextual, operation: Apply, fit: Fit, entry_of: Entry = APPLY, again: Sequence[Txid] = ()) -> Change:
    """Judge a transaction for the first time, and again those that spend what it admits.

    again: who else is to be judged again. Under an entry that commits an operation of others too, managers are not
    asked: whoever is to be judged again waits in the queue.
    """
    verified, rule, submission = operation.verified, fit.rule, fit.submission
    asked = verified.asked
    # Proven, it is in a block: nobody broadcasts it, and no endpoint's acceptance will follow.
    _make_known(here, verified.members, fit.spends, accepted=verified.proven_height >= 0)
    listing.place(here, verified.txid, submission)
    admittance, affected = judge(here, rule, verified.txid, submission, fit.spends[-1], Admittance(), fit.said)
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
        brought=sequence,
    )
    here.put(state.TX, verified.txid, applied)
    entry = here.journal(
        entry_of.kind,
        entry_of.operation or operation.id,
        verified.txid,
        manager=rule.name,
        origin=asked.origin,
        beef=verified.beef,
        contexts=entry_of.contexts,
    )
    consumed, ended = reservations.ended(here, operation.id, verified.txid, claimed=fit.claimed)
    answer = Answer(admittance, sequence, applied.state_root, repeat=False, fresh=True)
    affected = list(dict.fromkeys((*affected, *again)))
    if entry_of.kind == "commit" and affected:
        later = [Rejudge(entry_of.operation, piece) for piece in waiting.pieces(affected)]
        waits = waiting.enqueue(here, later, entry_of.operation)
        return Change(here.head, (entry, *consumed, waits), answer, settling=True, ended=ended)
    change = judge_again(here, rule, operation.id, affected)
    return msgspec.structs.replace(change, entries=(entry, *consumed, *change.entries), said=answer, ended=ended)


def _make_known(here: Contextual, members: Sequence[Member], spends: Spends, *, accepted: bool) -> None:
    """Their spends count from here on: coins they spend are no longer live. No two of them spend the same."""
    txids = [one.txid for one in members]
    for one, points, known in zip(members, spends, here.is_there(state.KNOWN, txids), strict=True):
        if not known:
            listing.leave(here, here.made_here(points))
            here.put_all(state.SPEND, points, one.txid)
            here.put(state.KNOWN, one.txid, Known(b"".join(points), one.outputs))
    if accepted:
        here.put_all(state.ACCEPTED, txids, state.PROVEN)


def rule_of(context: Context, managers: Mapping[str, TopicManager], enough: Callable[[], bool]) -> Rule | None:
    """Who judges in a context; None: nobody here."""
    if baskets.is_owner(context):
        return Rule("baskets", WALLET, enough)
    topic = context.removeprefix(TOPIC)
    return Rule(topic, managers[topic], enough) if topic in managers else None
