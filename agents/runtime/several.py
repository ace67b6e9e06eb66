"""Operations over several contexts, as apply takes part in them: what follows from a part, and from the decision."""

from collections.abc import Sequence

import msgspec

from agents.runtime.outcomes import result_out
from agents.runtime.partition import Decided
from agents.runtime.records import Decision, Defer, Emit, Fault, Inbound, Out, Refuse
from agents.runtime.told import applied, decided, effects, kept, told
from pipeline import prepare, results, undecided
from pipeline.contextual import Answer, Change
from pipeline.outcome import Condition, Verdict
from pipeline.results import About
from pipeline.state import Layer
from schemas.flow import OPERATION, Decide, Prepare
from schemas.operations import Vote
from schemas.types import Context
from topics.registry import OPERATIONS


def spread(operation: Prepare) -> tuple[Prepare, list[Out]]:
    """A further attempt: the context named first hands the others their parts, once."""
    if not operation.spread:
        return operation, []
    outs = [Out(OPERATIONS, context.encode(), OPERATION.encode(part)) for context, part in prepare.parts_of(operation)]
    return msgspec.structs.replace(operation, spread=False), outs


def voted(
    operation: Prepare,
    change: Change,
    outs: Sequence[Out],
    layer: Layer,
    context: Context,
    partition: int,
    now_ms: int,
) -> Decided:
    """What a part came to.

    outs: what it leads to besides what changed.
    """
    votes = [said.says for _, said in change.words if isinstance(said, Vote)]
    code = "waits" if not votes else "agreed" if votes == ["yes"] else "disagreed"
    written = [*outs, *told(change, context, partition, now_ms)]
    if isinstance(change.said, Answer):
        verified = operation.apply.verified
        about = About.of(verified.asked, verified.txid, context)
        written.append(applied(about, change.said, now_ms))
        code = "repeat"
    return decided(Emit(written, code), context, change, (), _votes(layer, context))


def heard(
    word: Decide, change: Change, layer: Layer, context: Context, partition: int, now_ms: int, *, always: bool
) -> Decided:
    """The coordinator's word.

    change: what it did to the context. always: see `effects`.
    """
    outs = told(change, context, partition, now_ms)
    about = About.of(word.asked, word.txid, context)
    also: list[tuple[Inbound, Decision]] = []
    code = "heard" if change.held is None else "committed" if word.commit else "aborted"
    held = change.held
    # Who was named first has the whole request, and answers for its record.
    first = held if held is not None and held.operation.others else None
    if word.commit:
        if held is not None:
            assert isinstance(change.said, Answer)  # what was prepared is there
            outs += effects(held.operation.apply.verified, context, change.said, now_ms, always=always)
    elif word.final and (held is not None or not prepare.shown(layer, context, word)):
        said = Verdict(word.code, word.message if word.by == context else f"{word.by}: {word.message}")
        if first is not None:
            record_of = kept(context, prepare.next_attempt(first), first.stood)
            if word.kind == "fault":
                also.append((record_of, Fault(said.code, said.message, about)))
            else:
                also.append((record_of, Refuse(said, about, change.head.sequence, word.competing)))
        elif word.kind == "fault":
            outs.append(result_out(results.parked(about, said, now_ms)))
        else:
            result = results.rejected(about, said, now_ms, revision=change.head.sequence, competing=word.competing)
            outs.append(result_out(result))
    elif word.again and first is not None:
        why = Condition(word.code, word.message)
        others = [About.of(word.asked, word.txid, each) for each in word.asked.contexts if each != context]
        also.append((kept(context, prepare.next_attempt(first), first.stood), Defer(why, about, (), others)))
    return decided(Emit(outs, code), context, change, also, _votes(layer, context))


def _votes(layer: Layer, context: Context) -> tuple[Context, bool]:
    """Whether the context has voted on anything that nobody has decided."""
    return context, undecided.votes_in(layer, context)
