"""A context's part in an operation over several: prepare and vote, then commit or abort (ATOMIC-1, ATOMIC-2).

Preparing judges the payload as if it came alone, keeps the judgement, and locks what it was judged by. It never gives
up after its yes. Who holds locks waits only for older operations: a younger one waits for the older holder; an older
one has the younger holder's coordinator end its attempt. A child that is older than its undecided parent votes later:
it would wait for a younger one, and there is nothing to be had by ending the parent.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import msgspec

from pipeline import member, state, undecided
from pipeline.baskets import is_owner
from pipeline.contextual import Answer, Challenge, Change, Contextual
from pipeline.coordinate import bare
from pipeline.judge import Rule, ask, never, previous_coins
from pipeline.outcome import Condition, Verdict
from pipeline.overlay.manager import Subject, TopicManager
from pipeline.results import decision_id, operation_id
from pipeline.state import Layer, Live, View
from pipeline.submit import TOPIC, Entry, Fit, Spends, merge, submit, weigh
from pipeline.undecided import age
from schemas.external import Admittance
from schemas.flow import Apply, Decide, Part, Prepare, Verified
from schemas.operations import Kind, Overtaken, Vote
from schemas.state import Applied, Holds, Prepared, Stood, Submission
from schemas.types import Context, Txid

_applied = msgspec.msgpack.Decoder(Applied).decode


class Kept:
    """Says of a transaction what was said when it was prepared, as far as its coins are there still."""

    def __init__(self, judged: Admittance, version: str) -> None:
        self.version = version
        self._judged = judged

    def admit(self, subject: Subject) -> Admittance:
        """See `TopicManager`."""
        retained = tuple(vin for vin in self._judged.coins_to_retain if vin in subject.previous_coins)
        return Admittance(self._judged.outputs_to_admit, retained)


def prepare(
    layer: Layer,
    head: Live,
    context: Context,
    operation: Prepare,
    managers: Mapping[str, TopicManager],
    now_ms: int,
    enough: Callable[[], bool] = never,
    *,
    always: bool = False,
    stood: Stood = Stood(),  # noqa: B008 - frozen
) -> Change:
    """Judge a context's part of an operation, and vote; or wait for an older one. Arguments and errors as `apply`."""
    here = Contextual(context, layer, head, now_ms)
    own = bytes.fromhex(operation.operation)
    spends = member.spends_of(operation.apply.verified)
    holds = undecided.here_are(here)
    if holds.prepared and (held := undecided.prepared(here, own)) is not None:
        if held.operation.attempt >= operation.attempt:
            return Change(head, words=((operation.operation, held.vote),))
        # A further attempt is only made after this one was aborted. What waits for that comes before it.
        resumed = undecided.release(here, own, held, spends)
        entry = _journal(here, "abort", operation)
        return Change(here.head, (entry,), resumed=(*resumed, (operation, stood)))
    withdrawn: tuple[bytes, ...] = ()
    if holds.waiters and (waiter := undecided.waiting(here, own)) is not None:
        assert isinstance(waiter.operation, Prepare)  # nothing else is a part of an operation
        if waiter.operation.attempt >= operation.attempt:
            return Change(head)
        undecided.withdraw(here, own)
        withdrawn = (_journal(here, "abort", operation),)
    change = _judged(here, operation, spends, holds, managers, enough, always=always, stood=stood)
    return msgspec.structs.replace(change, entries=(*withdrawn, *change.entries)) if withdrawn else change


def _judged(
    here: Contextual,
    operation: Prepare,
    spends: Spends,
    holds: Holds,
    managers: Mapping[str, TopicManager],
    enough: Callable[[], bool],
    *,
    always: bool,
    stood: Stood,
) -> Change:
    own = bytes.fromhex(operation.operation)
    apply, verified = operation.apply, operation.apply.verified
    if holds.prepared and (met := undecided.met(here, verified, spends, own)):
        return _meets(here, operation, met, stood)
    fit = weigh(here, apply, managers, enough, always=always, part=True, spends=spends)
    if isinstance(fit, Change):
        said = fit.said
        if isinstance(said, Answer):
            if not said.repeat:  # it was committed here, and everything is read again
                return Change(here.head, said=said)
            return _agree(here, operation, spends, Prepared(operation, stood, _yes(here, operation), "repeat"))
        assert said is not None  # whoever weighs says why not
        return disagree(here, operation, said, stood, fit.competing, fit.challenges)
    if fit.does == "merge":
        return _agree(here, operation, spends, Prepared(operation, stood, _yes(here, operation), "merge"))
    previous = previous_coins(here, spends[-1])
    judged = ask(here, fit.rule, verified.txid, fit.submission, spends[-1], previous)
    if judged.is_empty() and not (always or is_owner(here.context)):
        said = Verdict("admission.nothing", f"{here.context.removeprefix(TOPIC)} makes nothing of it")
        return disagree(here, operation, said, stood)
    examined = fit.submission.examined
    version = fit.rule.manager.version
    held = Prepared(operation, stood, _yes(here, operation), "apply", judged, previous, examined, version)
    return _agree(here, operation, spends, held)


def _meets(here: Contextual, operation: Prepare, met: Mapping[bytes, undecided.How], stood: Stood) -> Change:
    """It has to do with operations that nobody has decided."""
    own = age(operation.apply.verified.asked)
    words = []
    for key, how in sorted(met.items()):
        holder = undecided.prepared(here, key)
        assert holder is not None  # its locks go with it
        if age(holder.operation.apply.verified.asked) < own:
            continue
        if how == "child":
            why = f"it descends from what a younger operation, {key.hex()}, has prepared"
            return disagree(here, operation, Condition("conflict.undecided", why), stood)
        words.append((key.hex(), Overtaken(holder.operation.attempt, here.context, operation.operation)))
    txid = operation.apply.verified.txid
    change = undecided.wait(here, min(met), operation, txid, stood, bytes.fromhex(operation.operation))
    if not change.waits:
        assert isinstance(change.said, Condition)
        return disagree(here, operation, change.said, stood)
    return msgspec.structs.replace(change, words=tuple(words))


def disagree(
    here: Contextual,
    operation: Prepare,
    why: Verdict | Condition,
    stood: Stood,
    competing: tuple[Txid, ...] = (),
    challenges: tuple[Challenge, ...] = (),
    kind: Kind | None = None,
) -> Change:
    """Vote against it. The context named first keeps the record: for the next attempt, or for the dead letters."""
    says: Literal["no", "later"] = "later" if isinstance(why, Condition) else "no"
    verified = operation.apply.verified
    vote = Vote(
        attempt=operation.attempt,
        context=here.context,
        says=says,
        asked=bare(verified.asked),
        txid=verified.txid,
        kind=kind or ("condition" if says == "later" else "verdict"),
        code=why.code,
        message=why.message,
        competing=competing,
    )
    entries: tuple[bytes, ...] = ()
    if operation.others:
        undecided.hold(here, bytes.fromhex(operation.operation), Prepared(operation, stood, vote))
        entries = (here.journal("wait", operation.operation, verified.txid),)
    return Change(here.head, entries, challenges=challenges, words=((operation.operation, vote),))


def unjudged(
    layer: Layer,
    head: Live,
    context: Context,
    operation: Prepare,
    why: Verdict | Condition,
    now_ms: int,
    stood: Stood,
    kind: Kind | None = None,
) -> Change:
    """A context cannot judge its part, by a fault of ours or as long as something lasts: nobody waits for its sake."""
    here = Contextual(context, layer, head, now_ms)
    if (held := undecided.prepared(here, bytes.fromhex(operation.operation))) is not None:
        return Change(head, words=((operation.operation, held.vote),))
    return disagree(here, operation, why, stood, kind=kind)


def _yes(here: Contextual, operation: Prepare) -> Vote:
    verified = operation.apply.verified
    return Vote(operation.attempt, here.context, "yes", bare(verified.asked), verified.txid)


def _agree(here: Contextual, operation: Prepare, spends: Spends, held: Prepared) -> Change:
    undecided.lock(here, bytes.fromhex(operation.operation), held, spends)
    entry = _journal(here, "prepare", operation, manager=held.manager)
    return Change(here.head, (entry,), words=((operation.operation, held.vote),))


def _journal(here: Contextual, kind: Literal["prepare", "abort"], operation: Prepare, manager: str = "") -> bytes:
    verified = operation.apply.verified
    name = f"{here.context.removeprefix(TOPIC)}/{manager}" if manager else ""
    asked = verified.asked
    return here.journal(
        kind, operation.operation, verified.txid, manager=name, origin=asked.origin, contexts=asked.contexts
    )


def decide(
    layer: Layer, head: Live, context: Context, word: Decide, managers: Mapping[str, TopicManager], now_ms: int
) -> Change:
    """The coordinator's word: what was prepared is shown, or never was. No manager is asked.

    `held` is what the context kept of the operation until now; who waited for it is `resumed`.
    """
    here = Contextual(context, layer, head, now_ms)
    own = bytes.fromhex(word.operation)
    held = undecided.prepared(here, own)
    if held is not None and held.operation.attempt == word.attempt:
        spends = member.spends_of(held.operation.apply.verified)
        resumed = undecided.release(here, own, held, spends)
        if word.commit:
            change = _commit(here, held, spends, word, managers)
        else:
            entry = _journal(here, "abort", held.operation)
            change = Change(here.head, (entry,))
        return msgspec.structs.replace(change, resumed=resumed, held=held)
    waiter = undecided.waiting(here, own)
    if waiter is not None and not word.commit:
        assert isinstance(waiter.operation, Prepare)
        if waiter.operation.attempt == word.attempt:
            undecided.withdraw(here, own)
            entry = _journal(here, "abort", waiter.operation)
            vote = Vote(word.attempt, context, "later", word.asked, word.txid)
            return Change(here.head, (entry,), held=Prepared(waiter.operation, waiter.stood, vote))
    return Change(head)


def shown(layer: View, context: Context, word: Decide) -> bool:
    """Whether the payload stands here as its own record brought it: a word against it is of an earlier attempt."""
    stored = layer.get(state.key(context, state.TX, word.txid))
    return stored is not None and _applied(state.unseal(stored)).origin == word.asked.origin


def _commit(
    here: Contextual, held: Prepared, spends: Spends, word: Decide, managers: Mapping[str, TopicManager]
) -> Change:
    apply = held.operation.apply
    verified = apply.verified
    entry = Entry("commit", word.operation, verified.asked.contexts)
    match held.does:
        case "repeat":
            stood = _applied(here.value(state.TX, verified.txid) or b"")
            told = here.journal(
                "commit", word.operation, verified.txid, origin=verified.asked.origin, contexts=entry.contexts
            )
            answer = Answer(stood.admittance, stood.sequence, stood.state_root, repeat=True, fresh=False)
            return Change(here.head, (told,), answer)
        case "merge":
            fit = weigh(here, apply, managers, kept=True)
            assert isinstance(fit, Fit)  # its locks kept what it was weighed by
            return merge(here, apply, fit, entry)
        case "apply":
            fit, again = _kept(here, held, spends, managers)
            return submit(here, apply, fit, entry, again)
        case "":
            raise AssertionError(f"{word.operation} is committed, and {here.context} did not agree")


def _kept(
    here: Contextual, held: Prepared, spends: Spends, managers: Mapping[str, TopicManager]
) -> tuple[Fit, list[Txid]]:
    """The judgement that was kept, and who is to be judged again: the transaction itself where its coins changed."""
    apply, verified = held.operation.apply, held.operation.apply.verified
    if is_owner(here.context):
        fit = weigh(here, apply, managers, kept=True)
        assert isinstance(fit, Fit)  # its locks kept what it was weighed by
        return fit, []
    one = verified.members[-1]
    raw, sources = member.raw(verified.beef, one), member.sources(verified.beef, one)
    submission = Submission(raw, sources, verified.asked.off_chain, held.examined)
    rule = Rule(here.context.removeprefix(TOPIC), Kept(held.admittance, held.manager))
    if previous_coins(here, spends[-1]) == held.previous:
        return Fit("apply", rule, spends, submission, said=held.admittance), []
    return Fit("apply", rule, spends, submission), [verified.txid]


def next_attempt(held: Prepared) -> Prepare:
    """The whole request once more, for the context named first, which hands the others their parts."""
    return msgspec.structs.replace(held.operation, attempt=held.operation.attempt + 1, spread=True)


def whole(attempt: int, verified: Verified, parts: Sequence[Part]) -> Prepare:
    """An operation over several contexts, for the one named first.

    parts: of all contexts, in the order they were named.
    """
    first, *others = parts
    name = operation_id(verified.asked.origin)
    apply = Apply(decision_id(verified.asked.origin, first.context), verified, first.examined, first.instruction)
    return Prepare(name, attempt, apply, tuple(others))


def parts_of(operation: Prepare) -> list[tuple[Context, Prepare]]:
    """What each of the other contexts is asked."""
    verified = operation.apply.verified
    return [
        (
            part.context,
            Prepare(
                operation.operation,
                operation.attempt,
                Apply(decision_id(verified.asked.origin, part.context), verified, part.examined, part.instruction),
            ),
        )
        for part in operation.others
    ]
