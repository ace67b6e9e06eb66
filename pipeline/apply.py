"""An operation on one context: all its effects, or none (APPLY-1, APPLY-2, APPLY-3, JOURNAL-1).

The state of a context follows from the set of transactions it knows (`derive.py` says how, in the plainest way); here
it is reached by steps. What comes late and changes what an earlier judgement was about has that one judged again. Work
beyond what a transaction of Kafka's takes is put into a queue, which is state, and goes on in the next (`settle`).

Reads come from the layers below, writes go into the layer given; the caller merges it, or drops it, and nothing
happened. Sources: BRC-22 and the reference overlay engine's semantics, without its faults.
"""

from collections.abc import Callable, Mapping

import msgspec

from pipeline import evict as leaving
from pipeline import member, state, undecided, waiting
from pipeline.contextual import Change, Contextual
from pipeline.judge import Rule, judge_again, never
from pipeline.overlay.manager import BadManager, TopicManager
from pipeline.state import Layer, Live, View
from pipeline.submit import TOPIC, Spends, merge, rule_of, submit, weigh
from pipeline.undecided import nowhere
from schemas.flow import Accept, Apply, Evict, Readmit, Repaired
from schemas.state import Leave, Rejudge, Return, Stood
from schemas.types import Context

NO_TXID = bytes(32)
"""In entries that are about no transaction."""


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
    stood: Callable[[], Stood] = nowhere,
) -> Change:
    """Judge a payload in a context.

    enough: see `Rule`. The payload itself is judged all the same.
    always: whether the context has everything broadcast, also what it makes nothing of.
    stood: says where its record did, if it is to wait for an undecided operation.

    Raises:
        BadManager: the manager's answer is none.
        Exception: whatever the manager raises; nothing was written then but into `layer`.
    """
    here = Contextual(context, layer, head, now_ms)
    verified = operation.verified
    spends: Spends | None = None
    if undecided.any_here(here):
        spends = member.spends_of(verified)
        if met := undecided.met(here, verified, spends):
            return undecided.wait(here, min(met), operation, verified.txid, stood())
    fit = weigh(here, operation, managers, enough, always=always, spends=spends)
    if isinstance(fit, Change):
        return fit
    return merge(here, operation, fit) if fit.does == "merge" else submit(here, operation, fit)


def evict(
    layer: Layer, head: Live, context: Context, operation: Evict, now_ms: int, stood: Callable[[], Stood] = nowhere
) -> Change:
    """The network refused a transaction. What undecided operations are about waits for their decision.

    stood: as for `apply`.
    """
    here = Contextual(context, layer, head, now_ms)
    if undecided.any_here(here) and (met := undecided.met_leaving(here, operation.txid)):
        return undecided.wait(here, min(met), operation, operation.txid, stood())
    return leaving.evict(here, operation)


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
    stood: Callable[[], Stood] = nowhere,
) -> Change:
    """The network took after all what it had refused. What undecided operations are about waits for their decision.

    enough: see `Rule`. One is judged all the same. stood: as for `apply`.

    Raises:
        BadManager: the manager's answer is none, or the topic is no longer hosted.
        Exception: whatever the manager raises; nothing was written then but into `layer`.
    """
    here = Contextual(context, layer, head, now_ms)
    if undecided.any_here(here) and (met := undecided.met_returning(here, operation.txid)):
        return undecided.wait(here, min(met), operation, operation.txid, stood())
    return leaving.readmit(here, operation, _hosted(context, managers, enough))


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
        change = leaving.leave(here, work)
    elif isinstance(work, Return):
        change = leaving.come_back(here, work, _hosted(context, managers, enough))
    else:
        change = judge_again(here, _hosted(context, managers, enough), work.operation, work.txids)
    settling = here.value(state.QUEUE, b"") is not None
    return msgspec.structs.replace(change, entries=(opening, *change.entries), settling=settling)


def _hosted(context: Context, managers: Mapping[str, TopicManager], enough: Callable[[], bool]) -> Rule:
    if (rule := rule_of(context, managers, enough)) is None:
        topic = context.removeprefix(TOPIC)
        raise BadManager(f"{topic} is not hosted here, and transactions of it are to be judged again")
    return rule
