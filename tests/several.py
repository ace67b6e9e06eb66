"""A small world of contexts and coordinators, step by step: the real rules, with everything between them in hand.

Each context reads one queue, each operation's coordinator another; what waits for another attempt lies in a tier. A
world is a value: a step gives another one. Whoever wants to know all that can happen takes every step from every world.

Worlds are many, what they are made of is little: stores, records, votes and standings are kept once each, and a world
names them by number. What a context makes of a record depends on its store and the record alone, so the real rule is
asked once for each pair of these, however many worlds there are around them.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

import msgspec
from msgspec import Struct

from pipeline import apply as rules
from pipeline import locks, state
from pipeline.contextual import Change
from pipeline.coordinate import Limits, hear
from pipeline.outcome import Verdict
from pipeline.prepare import next_attempt, parts_of, whole
from pipeline.state import Layer, Memory, encode, head_key, head_of
from schemas.flow import Accept, Apply, Decide, Operation, Part, Prepare, Verified
from schemas.operations import Due, OperationStatus, Said
from schemas.state import Applied, Behind
from schemas.types import Context, Txid
from tests import fakes

T = TypeVar("T")

LIMITS = Limits(deadline_ms=1, kept_ms=1_000)
NOW_MS = fakes.NOW_MS

Store = Mapping[bytes, bytes]

_applied = msgspec.msgpack.Decoder(Applied).decode
_behind = msgspec.msgpack.Decoder(Behind).decode


class Budget(Struct, frozen=True):
    """What may go wrong, how often in all."""

    doubled: int = 0  # a record is delivered twice
    repeated: int = 0  # a prepared context repeats its vote
    deadlines: int = 0  # an attempt's deadline comes
    attempts: int = 3  # made of one operation; then it is given up


class World(NamedTuple):
    """Everything, between two steps, by the numbers under which a `Model` keeps it."""

    stores: tuple[int, ...]  # by context
    arriving: tuple[tuple[int, int], ...]  # context and record, in no order yet: sorted
    inputs: tuple[tuple[int, ...], ...]  # by context
    votes: tuple[tuple[int, ...], ...]  # by operation
    standing: tuple[int, ...]  # by operation
    tier: tuple[tuple[int, int], ...]  # context and record, sorted
    told: tuple[tuple[int, int], ...]  # whom, and the decision that stands, sorted
    challenged: tuple[tuple[int, Txid], ...]  # sorted
    doubled: int  # how often that may happen yet
    repeated: int
    deadlines: int


class Effect(NamedTuple):
    """What a context makes of a record."""

    store: int
    arriving: tuple[tuple[int, int], ...]
    votes: tuple[tuple[int, int], ...]  # operation and vote
    holders: tuple[Txid, ...]  # of what somebody else wants too: the network is to say who has it
    told: tuple[tuple[int, int], ...]
    tier: tuple[tuple[int, int], ...]


class Kept(Generic[T]):
    """Values under numbers, equal ones under the same."""

    def __init__(self) -> None:
        self.values: list[T] = []
        self._numbers: dict[object, int] = {}

    def number(self, value: T, key: object = None) -> int:
        """Of a value. key: equal for equal ones; else the value itself is."""
        found = self._numbers.setdefault(value if key is None else key, len(self.values))
        if found == len(self.values):
            self.values.append(value)
        return found

    def __getitem__(self, number: int) -> T:
        return self.values[number]


NOBODY = 0
"""The standing of an operation that no coordinator has heard of."""


class Model:
    """What worlds are made of, and the steps between them."""

    def __init__(
        self,
        sent: Sequence[tuple[Context, Operation]],
        budget: Budget,
        before: Mapping[Context, Sequence[Operation]],
    ) -> None:
        """sent: what arrives, in any order; before: what each context was asked before."""
        self._attempts = budget.attempts
        self.stores: Kept[Store] = Kept()
        self.records: Kept[Operation] = Kept()
        self.said: Kept[Said] = Kept()
        self.statuses: Kept[OperationStatus | None] = Kept()
        self.whom: Kept[tuple[str, Context]] = Kept()  # by operation, or transaction alone
        self.decisions: Kept[str] = Kept()
        self._does: dict[tuple[int, int, int], Effect] = {}
        self._hears: dict[tuple[int, int, int, bool], tuple[int, tuple[tuple[int, int], ...]]] = {}
        self._votes: dict[tuple[int, int], tuple[tuple[int, int], ...]] = {}
        self.statuses.number(None)
        arriving: list[tuple[Context, Operation]] = []
        for context, operation in sent:
            arriving.append((context, operation))
            if isinstance(operation, Prepare):
                arriving += parts_of(operation)
        self.contexts = sorted({context for context, _ in arriving} | set(before))
        self.names = sorted({each.operation for _, each in arriving if isinstance(each, Prepare)})
        owner = fakes.Owner()
        for context, operations in before.items():
            for operation in operations:
                owner.do(context, operation)
        stores = [
            {key: value for key, value in owner.store.entries.items() if state.context_of(key) == context.encode()}
            for context in self.contexts
        ]
        self.first = World(
            stores=tuple(self._store(store) for store in stores),
            arriving=tuple(sorted({(self.contexts.index(where), self._record(each)) for where, each in arriving})),
            inputs=((),) * len(self.contexts),
            votes=((),) * len(self.names),
            standing=(NOBODY,) * len(self.names),
            tier=(),
            told=(),
            challenged=(),
            doubled=budget.doubled,
            repeated=budget.repeated,
            deadlines=budget.deadlines,
        )

    def _record(self, operation: Operation) -> int:
        return self.records.number(operation, encode(operation))

    def _store(self, store: Store) -> int:
        return self.stores.number(store, _key_of(store))

    def _status(self, status: OperationStatus) -> int:
        return self.statuses.number(status, encode(status))

    def _vote(self, said: Said) -> int:
        return self.said.number(said, encode(said))

    # --- steps

    def steps(self, at: World) -> Iterator[World]:
        """Where every step that can come next leads, always in the same order."""
        for one in at.arriving:
            context, record = one
            yield at._replace(
                arriving=tuple(each for each in at.arriving if each != one), inputs=_put(at.inputs, context, record)
            )
        for context, queue in enumerate(at.inputs):
            if queue:
                yield self._do(at, context, queue[0], _left(at.inputs, context))
                if at.doubled:
                    yield self._do(at._replace(doubled=at.doubled - 1), context, queue[0], at.inputs)
        for name, queue in enumerate(at.votes):
            if queue:
                yield self._hear(at._replace(votes=_left(at.votes, name)), name, queue[0])
        for one in at.tier:
            context, record = one
            yield at._replace(
                tier=tuple(each for each in at.tier if each != one), inputs=_put(at.inputs, context, record)
            )
        if at.deadlines:
            for name, standing in enumerate(at.standing):
                status = self.statuses[standing]
                if status is not None and not status.decided:
                    due = self._vote(Due(status.attempt))
                    yield self._hear(at._replace(deadlines=at.deadlines - 1), name, due, late=True)
        if at.repeated:
            for context, store in enumerate(at.stores):
                for name, vote in self._voted(context, store):
                    yield at._replace(repeated=at.repeated - 1, votes=_put(at.votes, name, vote))

    def named(self, at: World) -> list[str]:
        """What the steps of `steps` are, for people."""
        said = [f"{self._name(record)} arrives at {self.contexts[context]}" for context, record in at.arriving]
        for context, queue in enumerate(at.inputs):
            if queue:
                does = f"{self.contexts[context]} does {self._name(queue[0])}"
                said += [does, f"{does}, which comes again"] if at.doubled else [does]
        said += [f"coordinator hears {self.said[queue[0]]}" for queue in at.votes if queue]
        said += [f"{self._name(record)} is made" for _, record in at.tier]
        if at.deadlines:
            open_ = (self.statuses[each] for each in at.standing)
            said += [f"deadline of {each.txid.hex()[:4]}" for each in open_ if each is not None and not each.decided]
        if at.repeated:
            for context, store in enumerate(at.stores):
                for name, _ in self._voted(context, store):
                    said.append(f"{self.contexts[context]} repeats its vote on {self.names[name][:4]}")
        return said

    def _name(self, record: int) -> str:
        operation = self.records[record]
        if isinstance(operation, Prepare):
            return f"prepare {operation.operation[:4]}/{operation.attempt}"
        if isinstance(operation, Decide):
            return f"{'commit' if operation.commit else 'abort'} {operation.operation[:4]}/{operation.attempt}"
        return f"{type(operation).__name__.lower()} {operation.id}"

    def _voted(self, context: int, store: int) -> tuple[tuple[int, int], ...]:
        found = self._votes.get((context, store))
        if found is None:
            held = [
                locks.read_prepared(stored[32:])
                for key, stored in sorted(self.stores[store].items())
                if _is_entry(key) and state.kind_of(key) in state.PREPARED
            ]
            found = tuple((self.names.index(each.operation.operation), self._vote(each.vote)) for each in held)
            self._votes[context, store] = found
        return found

    def _do(self, at: World, context: int, record: int, inputs: tuple[tuple[int, ...], ...]) -> World:
        """One record of a context, and what waited for it."""
        key = context, at.stores[context], record
        effect = self._does.get(key)
        if effect is None:
            effect = self._does[key] = self._effect(*key)
        votes, challenged = at.votes, at.challenged
        for name, vote in effect.votes:
            votes = _put(votes, name, vote)
        for holder in effect.holders:
            if (context, holder) not in challenged:
                challenged = tuple(sorted((*challenged, (context, holder))))
                accept = Accept(f"accept:{holder.hex()[:4]}", (holder,), "arc")
                inputs = _put(inputs, context, self._record(accept))
        return at._replace(
            stores=_set(at.stores, context, effect.store),
            inputs=inputs,
            votes=votes,
            challenged=challenged,
            arriving=tuple(sorted({*at.arriving, *effect.arriving})) if effect.arriving else at.arriving,
            told=tuple(sorted((dict(at.told) | dict(effect.told)).items())) if effect.told else at.told,
            tier=tuple(sorted({*at.tier, *effect.tier})) if effect.tier else at.tier,
        )

    def _effect(self, number: int, before: int, record: int) -> Effect:
        context, store = self.contexts[number], Memory(self.stores[before])
        arriving: list[tuple[Context, Operation]] = []
        tier: list[tuple[Context, Operation]] = []
        told: dict[tuple[str, Context], str] = {}
        votes: list[tuple[int, int]] = []
        holders: list[Txid] = []
        todo = [self.records[record]]
        layer = Layer(store)
        while todo:
            one = todo.pop(0)
            if isinstance(one, Prepare) and one.spread:
                arriving += parts_of(one)
                one = msgspec.structs.replace(one, spread=False)
            change = fakes.decide(layer, context, one)
            layer.put(head_key(context), encode(change.head.stored()))
            votes += [(self.names.index(name), self._vote(said)) for name, said in change.words]
            holders += [pair.holder for pair in change.challenges if pair.holder is not None]
            todo = [*(again for again, _ in change.resumed), *todo]
            self._tell(context, one, change, told, tier)
            while change.settling:
                change = rules.settle(layer, head_of(layer, context), context, fakes.MANAGERS, NOW_MS)
                layer.put(head_key(context), encode(change.head.stored()))
        store.write(layer.writes)
        return Effect(
            self._store(store.entries),
            tuple((self.contexts.index(where), self._record(each)) for where, each in arriving),
            tuple(votes),
            tuple(dict.fromkeys(holders)),
            tuple((self.whom.number(whom), self.decisions.number(said)) for whom, said in told.items()),
            tuple((self.contexts.index(where), self._record(each)) for where, each in tier),
        )

    def _tell(
        self,
        context: Context,
        one: Operation,
        change: Change,
        told: dict[tuple[str, Context], str],
        tier: list[tuple[Context, Operation]],
    ) -> None:
        if isinstance(one, Apply):
            if change.said is not None:
                told[f"{one.verified.txid.hex()[:4]} alone", context] = _said(change.said)
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
                if again.attempt < self._attempts:
                    tier.append((context, again))
                else:
                    told.update(dict.fromkeys(((one.operation, each) for each in one.asked.contexts), "parked"))

    def _hear(self, at: World, name: int, said: int, *, late: bool = False) -> World:
        key = name, at.standing[name], said, late
        found = self._hears.get(key)
        if found is None:
            now_ms = NOW_MS + (10 if late else 0)
            step = hear(self.names[name], self.statuses[at.standing[name]], self.said[said], now_ms, LIMITS)
            assert step.status is not None  # nothing is forgotten here
            tells = tuple((self.contexts.index(context), self._record(word)) for context, word in step.tells)
            found = self._hears[key] = self._status(step.status), tells
        standing, tells = found
        inputs = at.inputs
        for context, word in tells:
            inputs = _put(inputs, context, word)
        return at._replace(standing=_set(at.standing, name, standing), inputs=inputs)

    # --- looking

    def status(self, at: World, operation: str) -> OperationStatus | None:
        """Where an operation stands."""
        return self.statuses[at.standing[self.names.index(operation)]]

    def store(self, at: World, context: Context) -> Store:
        """Entries of a context."""
        return self.stores[at.stores[self.contexts.index(context)]]

    def told(self, at: World) -> dict[tuple[str, Context], str]:
        """The decisions that stand."""
        return {self.whom[whom]: self.decisions[said] for whom, said in at.told}


def part(verified: Verified) -> Prepare:
    """An operation over all contexts that a payload names."""
    return whole(0, verified, [Part(context) for context in verified.asked.contexts])


def prepared_in(store: Store) -> list[bytes]:
    """Keys of what is undecided in a context."""
    kinds = state.PREPARED + state.LOCK + state.SUBJECT + state.HOLDS + state.WAITER + state.BEHIND + state.OWN
    return [key for key in store if _is_entry(key) and state.kind_of(key) in kinds]


def shown_in(store: Store, context: Context, txid: Txid) -> Applied | None:
    """How a context has a transaction applied."""
    stored = store.get(state.key(context, state.TX, txid))
    return None if stored is None else _applied(stored[32:])


def _said(said: object) -> str:
    if isinstance(said, Verdict):
        return f"rejected {said.code}"
    return "applied" if type(said).__name__ == "Answer" else "waits"


def _is_entry(key: bytes) -> bool:
    return key.find(b"\0") > 0


def _key_of(store: Store) -> bytes:
    """Equal for stores that differ in nothing that matters: not in sequences, roots and times."""
    waiting = sorted(key for key in store if _is_entry(key) and state.kind_of(key) in state.WAITER)
    places = {key[-8:]: place for place, key in enumerate(waiting)}  # what waits goes by the sequence of its entry
    entries: list[tuple[bytes, object]] = []
    for key, stored in sorted(store.items()):
        if not _is_entry(key) or state.is_index(key):
            continue
        kind = state.kind_of(key)
        value: object = stored
        if kind in state.TX:
            applied = _applied(stored[32:])
            value = (applied.admittance, applied.manager, applied.origin)
        elif kind in state.WAITER:
            key = key[:-8] + bytes([places[key[-8:]]])
        elif kind in state.OWN:
            value = places[stored[32:]]
        elif kind in state.BEHIND:
            value = [places[number.to_bytes(8, "big")] for number in _behind(stored[32:]).numbers]
        entries.append((key, value))
    return repr(entries).encode()


def _put(queues: tuple[tuple[int, ...], ...], at: int, item: int) -> tuple[tuple[int, ...], ...]:
    return (*queues[:at], (*queues[at], item), *queues[at + 1 :])


def _left(queues: tuple[tuple[int, ...], ...], at: int) -> tuple[tuple[int, ...], ...]:
    return (*queues[:at], queues[at][1:], *queues[at + 1 :])


def _set(numbers: tuple[int, ...], at: int, number: int) -> tuple[int, ...]:
    return (*numbers[:at], number, *numbers[at + 1 :])
