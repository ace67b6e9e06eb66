"""What follows from a change of a context: records, and whom they are for."""

from collections.abc import Sequence

import msgspec

from agents.runtime.outcomes import answer_out, result_out
from agents.runtime.partition import Decided, Settled
from agents.runtime.records import Decision, Inbound, Kept, Out
from pipeline import answers, results
from pipeline.contextual import Answer, Change
from pipeline.member import extended
from pipeline.outcome import Verdict
from pipeline.results import About
from pipeline.state import head_key
from schemas import headers as h
from schemas.flow import (
    BROADCAST_REQUEST,
    OPERATION,
    POINTER,
    BroadcastRequest,
    Operation,
    Origin,
    Pointer,
    Unmined,
    Verified,
)
from schemas.network import NEWS, Challenged, Challenges
from schemas.operations import VOTE
from schemas.state import Applied, Stood
from schemas.types import Context, Txid
from schemas.wire import HEADER
from topics.registry import BROADCAST, INGEST, JOURNAL, NETWORK_NEWS, RETRY_10S, VOTES


def applied(about: About, said: Answer, now_ms: int) -> Out:
    """The result that says so."""
    result = results.applied(
        *(about, said.admittance, said.sequence, said.state_root, now_ms), repeat=said.repeat, merge=said.merge
    )
    return result_out(result)


def effects(verified: Verified, context: Context, said: Answer, now_ms: int, *, always: bool) -> list[Out]:
    """Who hears that a payload stands applied.

    always: whether the context has everything broadcast, also what it makes nothing of.
    """
    about = About.of(verified.asked, verified.txid, context)
    outs = [applied(about, said, now_ms)]
    if said.fresh and verified.proven_height < 0 and (always or not said.admittance.is_empty()):
        request = BroadcastRequest(
            txid=verified.txid,
            unmined=tuple(Unmined(one.txid, extended(verified.beef, one)) for one in verified.members),
            contexts=(context,),
            request_ids=(verified.asked.request_id,),
            origin=verified.asked.origin,
        )
        outs.append(Out(BROADCAST, verified.txid, BROADCAST_REQUEST.encode(request)))
    return outs


def told(change: Change, context: Context, partition: int, now_ms: int) -> list[Out]:
    """The journal, and whom a change concerns besides who asked for it.

    Entries go to the partition number of the operation, whatever their key hashes to.
    """
    key = context.encode()
    outs = [Out(JOURNAL, key, entry, (), partition) for entry in change.entries]
    for again in change.revised:
        now = again.applied
        about = _about(now, again.txid, context)
        result = results.revised(about, now.admittance, now.sequence, now.state_root, now_ms)
        outs.append(result_out(result))
    for gone in change.evicted:
        if gone.applied is not None:
            about, verdict = _about(gone.applied, gone.txid, context), Verdict(gone.stone.code, gone.stone.message)
            result = results.evicted(about, verdict, gone.sequence, gone.state_root, now_ms, gone.stone.competing)
            outs.append(result_out(result))
    outs += [_heard_again(origin, key, now_ms) for origin in change.again]
    for operation, heard in change.words:
        outs.append(Out(VOTES, bytes.fromhex(operation), VOTE.encode(heard)))
    outs += [answer_out(answers.ended(context, ended, now_ms)) for ended in change.ended]
    for pair in change.challenges:
        holders = () if pair.holder is None else (pair.holder,)
        news = NEWS.encode(Challenged(pair.by, context, pair.sent, pair.proven))
        outs += [Out(NETWORK_NEWS, holder, news) for holder in holders]
        outs.append(Out(NETWORK_NEWS, pair.by, NEWS.encode(Challenges(holders, context, pair.path))))
    return outs


def _heard_again(origin: Origin, key: bytes, now_ms: int) -> Out:
    """By way of the tier that is quickest, which reads the payload where it was sent to."""
    waits = h.RetryHeaders(
        origin_topic=INGEST.name,
        origin_partition=origin.partition,
        origin_offset=origin.offset,
        attempt=1,
        first_failed=now_ms,
        not_before=now_ms,
        code="conflict.undecided",
    )
    return Out(RETRY_10S, key, POINTER.encode(Pointer(origin)), [POINTER.header, *h.to_pairs(waits)])


def _about(of: Applied, txid: Txid, context: Context) -> About:
    return About(of.origin, (of.request_id,), txid, context, of.contexts)


def decided(
    decision: Decision,
    context: Context,
    change: Change,
    also: Sequence[tuple[Inbound, Decision]] = (),
    undecided: tuple[Context, bool] | None = None,
) -> Decided:
    """What apply made of a record, by what it changed. The others: see `Decided`."""
    touched = {head_key(context): change.head} if change.entries else {}
    resumed = [kept(context, *each) for each in change.resumed] if change.resumed else ()
    return Decided(decision, touched, context if change.settling else None, also, resumed, undecided)


def settled(change: Change, context: Context, partition: int, now_ms: int) -> Settled:
    """What a piece of work that waited came to."""
    return Settled(told(change, context, partition, now_ms), change.head, change.settling)


def behind(expired: Change, then: Decided, context: Context, partition: int, now_ms: int) -> Decided:
    """A decision behind what ended before it."""
    if not expired.entries:
        return then
    outs = [*told(expired, context, partition, now_ms), *then.decision.outs]
    heads = {head_key(context): expired.head} | then.heads
    return msgspec.structs.replace(then, decision=then.decision._replace(outs=outs), heads=heads)


def stood(record: Inbound) -> Stood:
    """Where a record stands, and how it came: what is kept of one that waits in the state, besides what it says."""
    headers = tuple((name, value) for name, value in record.headers if value is not None and name != HEADER)
    return Stood(record.topic, record.partition, record.offset, record.timestamp, headers)


def kept(context: Context, operation: Operation, stood: Stood) -> Inbound:
    """Such a record, as it was."""
    headers = [OPERATION.header, *stood.headers]
    value = OPERATION.encode(operation)
    return Kept(stood.topic, stood.partition, stood.offset, stood.timestamp_ms, context.encode(), value, headers)
