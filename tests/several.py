"""A small world of contexts and coordinators, step by step: the real rules, with everything between them in hand.

Each context reads one queue, each operation's coordinator another; what waits for another attempt lies in a tier. A
world is a value: a step gives another one. Whoever wants to know all that can happen takes every step from every world.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

import msgspec
from msgspec import Struct

from pipeline import apply as rules
from pipeline import state
from pipeline.contextual import Change
from pipeline.coordinate import Limits, hear
from pipeline.outcome import Verdict
from pipeline.overlay.manager import TopicManager
from pipeline.prepare import next_attempt, parts_of, whole
from pipeline.state import Layer, Memory, encode, head_key, head_of
from schemas.flow import Accept, Apply, Decide, Operation, Part, Prepare, Verified
from schemas.operations import Due, OperationStatus, Said
from schemas.state import Applied, Prepared
from schemas.types import Context, Txid
from tests import fakes

T = TypeVar("T")

LIMITS = Limits(deadline_ms=1, kept_ms=1_000)
NOW_MS = fakes.NOW_MS

_applied = msgspec.msgpack.Decoder(Applied).decode


class Budget(Struct, frozen=True):
    """What may go wrong, how often in all."""

    doubled: int = 0  # a record is delivered twice
    repeated: int = 0  # a prepared context repeats its vote
    deadlines: int = 0  # an attempt's deadline comes
    attempts: int = 3  # made of one operation; then it is given up


class World(Struct, frozen=True):
    """Everything, between two steps."""

    stores: Mapping[Context, Mapping[bytes, bytes]]
    arriving: frozenset[tuple[Context, Operation]]  # in no order yet
    inputs: Mapping[Context, tuple[Operation, ...]]
    votes: Mapping[str, tuple[Said, ...]]
    standing: Mapping[str, OperationStatus]
    tier: frozenset[tuple[Context, Prepare]]
    told: Mapping[tuple[str, Context], str]  # by operation: the decision that stands
    budget: Budget
    challenged: frozenset[tuple[Context, Txid]] = frozenset()


def part(verified: Verified) -> Prepare:
    """An operation over all contexts that a payload names."""
    return whole(0, verified, [Part(context) for context in verified.asked.contexts])


def world(
    sent: Sequence[tuple[Context, Operation]], budget: Budget, before: Mapping[Context, Sequence[Operation]]
) -> World:
    """The beginning. sent: what arrives, in any order; before: what each context was asked before."""
    owner = fakes.Owner()
    arriving: set[tuple[Context, Operation]] = set()
    for context, operation in sent:
        arriving.add((context, operation))
        if isinstance(operation, Prepare):
            arriving.update(parts_of(operation))
    contexts = {context for context, _ in arriving} | set(before)
    for context, operations in before.items():
        for operation in operations:
            owner.do(context, operation)
    stores = {
        context: {key: value for key, value in owner.store.entries.items() if state.context_of(key) == context.encode()}
        for context in sorted(contexts)
    }
    return World(stores, frozenset(arriving), {}, {}, {}, frozenset(), {}, budget)


def steps(at: World, managers: Mapping[str, TopicManager] = fakes.MANAGERS) -> Iterator[tuple[str, World]]:
    """Every step that can come next, and where it leads."""
    for context, operation in sorted(at.arriving, key=repr):
        yield (
            f"{_name(operation)} arrives at {context}",
            _replace(at, arriving=at.arriving - {(context, operation)}, inputs=_put(at.inputs, context, operation)),
        )
    for context, queue in at.inputs.items():
        yield f"{context} does {_name(queue[0])}", _do(at, context, queue[0], _left(at.inputs, context))
        if at.budget.doubled:
            less = _less(at, doubled=at.budget.doubled - 1)
            yield f"{context} does {_name(queue[0])}, which comes again", _do(less, context, queue[0], at.inputs)
    for name, said in at.votes.items():
        yield f"coordinator hears {said[0]}", _hear(_replace(at, votes=_left(at.votes, name)), name, said[0])
    for context, again in sorted(at.tier, key=repr):
        back = _replace(at, tier=at.tier - {(context, again)}, inputs=_put(at.inputs, context, again))
        yield f"attempt {again.attempt} of {again.operation[:4]} is made", back
    for name, status in at.standing.items():
        if not status.decided and at.budget.deadlines:
            less = _less(at, deadlines=at.budget.deadlines - 1)
            yield f"deadline of {name[:4]}", _hear(less, name, Due(status.attempt), late=True)
    if at.budget.repeated:
        for context, store in at.stores.items():
            for key, stored in sorted(store.items()):
                if b"\0" in key and key[key.index(b"\0") + 1 :][:1] == state.PREPARED:
                    held = msgspec.msgpack.decode(stored[32:], type=Prepared)
                    less = _less(at, repeated=at.budget.repeated - 1)
                    name = held.operation.operation
                    votes = _put(at.votes, name, held.vote)
                    yield f"{context} repeats its vote on {name[:4]}", _replace(less, votes=votes)


def _do(at: World, context: Context, operation: Operation, inputs: Mapping[Context, tuple[Operation, ...]]) -> World:
    """One record of a context, and what waited for it."""
    stores, tier, told = dict(at.stores), set(at.tier), dict(at.told)
    votes, challenged, arriving = dict(at.votes), set(at.challenged), set(at.arriving)
    store = Memory(stores[context])
    todo: list[Operation] = [operation]
    layer = Layer(store)
    while todo:
        one = todo.pop(0)
        if isinstance(one, Prepare) and one.spread:
            arriving.update(parts_of(one))
            one = msgspec.structs.replace(one, spread=False)
        change = fakes.decide(layer, context, one)
        layer.put(head_key(context), encode(change.head.stored()))
        for name, said in change.words:
            votes[name] = (*votes.get(name, ()), said)
        for pair in change.challenges:
            if pair.holder is not None and (context, pair.holder) not in challenged:
                challenged.add((context, pair.holder))
                inputs = _put(inputs, context, Accept(f"accept:{pair.holder.hex()[:4]}", (pair.holder,), "arc"))
        todo = [*(again for again, _ in change.resumed), *todo]
        _tell(at, context, one, change, told, tier)
        while change.settling:
            change = rules.settle(layer, head_of(layer, context), context, fakes.MANAGERS, NOW_MS)
            layer.put(head_key(context), encode(change.head.stored()))
    store.write(layer.writes)
    stores[context] = store.entries
    return _replace(
        at,
        stores=stores,
        inputs=inputs,
        tier=frozenset(tier),
        told=told,
        votes=votes,
        challenged=frozenset(challenged),
        arriving=frozenset(arriving),
    )


def _tell(
    at: World,
    context: Context,
    one: Operation,
    change: Change,
    told: dict[tuple[str, Context], str],
    tier: set[tuple[Context, Prepare]],
) -> None:
    if isinstance(one, Apply):
        name = f"{one.verified.txid.hex()[:4]} alone"
        if change.said is not None:
            told[name, context] = _said(change.said)
    elif isinstance(one, Prepare) and change.said is not None:
        told[one.operation, context] = _said(change.said)
    elif isinstance(one, Decide):
        held = change.held
        if one.commit and held is not None:
            told[one.operation, context] = _said(change.said)
        elif one.final and not one.commit:
            told[one.operation, context] = f"rejected {one.code}"
        if one.again and held is not None and held.operation.others:
            again = next_attempt(held)
            if again.attempt < at.budget.attempts:
                tier.add((context, again))
            else:
                for each in again.apply.verified.asked.contexts:
                    told[one.operation, each] = "parked"


def _said(said: object) -> str:
    if isinstance(said, Verdict):
        return f"rejected {said.code}"
    return "applied" if type(said).__name__ == "Answer" else "waits"


def _hear(at: World, operation: str, said: Said, *, late: bool = False) -> World:
    now_ms = NOW_MS + (10 if late else 0)
    step = hear(operation, at.standing.get(operation), said, now_ms, LIMITS)
    standing, inputs = dict(at.standing), at.inputs
    assert step.status is not None  # nothing is forgotten here
    standing[operation] = step.status
    for context, word in step.tells:
        inputs = _put(inputs, context, word)
    return _replace(at, standing=standing, inputs=inputs)


def key_of(at: World) -> bytes:
    """Equal for worlds that differ in nothing that matters: not in sequences, roots and times."""
    stores = []
    for context, store in sorted(at.stores.items()):
        entries = []
        for key, stored in sorted(store.items()):
            if b"\0" not in key or key == state.APPLIED_KEY or state.is_index(key):
                continue
            value: object = stored
            if state.kind_of(key) in state.TX:
                applied = _applied(stored[32:])
                value = (applied.admittance, applied.manager, applied.origin)
            entries.append((key, value))
        stores.append((context, entries))
    rest = (
        sorted(map(repr, at.arriving)),
        sorted((context, repr(queue)) for context, queue in at.inputs.items()),
        sorted((name, repr(queue)) for name, queue in at.votes.items()),
        sorted((name, repr(status)) for name, status in at.standing.items()),
        sorted(map(repr, at.tier)),
        sorted(at.told.items()),
        at.budget,
    )
    return encode((repr(stores), repr(rest)))


def prepared_in(at: World, context: Context) -> list[bytes]:
    """Keys of what is undecided in a context."""
    kinds = state.PREPARED + state.LOCK + state.SUBJECT + state.HOLDS + state.WAITER + state.BEHIND + state.OWN
    return [
        key for key in at.stores[context] if b"\0" in key and not key.startswith(b"\0") and state.kind_of(key) in kinds
    ]


def shown_in(at: World, context: Context, txid: Txid) -> Applied | None:
    """How a context has a transaction applied."""
    stored = at.stores[context].get(state.key(context, state.TX, txid))
    return None if stored is None else _applied(stored[32:])


def _put(queues: Mapping[str, tuple[T, ...]], name: str, item: T) -> Mapping[str, tuple[T, ...]]:
    return {**queues, name: (*queues.get(name, ()), item)}


def _left(queues: Mapping[str, tuple[T, ...]], name: str) -> Mapping[str, tuple[T, ...]]:
    rest = queues[name][1:]
    return {**queues, name: rest} if rest else {each: queue for each, queue in queues.items() if each != name}


def _replace(at: World, **fields: object) -> World:
    return msgspec.structs.replace(at, **fields)


def _less(at: World, **fields: int) -> World:
    return _replace(at, budget=msgspec.structs.replace(at.budget, **fields))


def _name(operation: Operation) -> str:
    if isinstance(operation, Prepare):
        return f"prepare {operation.operation[:4]}/{operation.attempt}"
    if isinstance(operation, Decide):
        return f"{'commit' if operation.commit else 'abort'} {operation.operation[:4]}/{operation.attempt}"
    return f"{type(operation).__name__.lower()} {operation.id}"
