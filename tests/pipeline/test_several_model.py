"""All that can happen to operations over several contexts, in small scopes: each order in which records come and go.

The rules are the real ones, of contexts and of coordinators; what lies between them is in `tests/several.py`. In every
world that can be reached: a context shows an operation's effects only once it is decided that all show them. From every
world an end can be reached, and each end is one: nothing undecided, nothing that waits, every context told, all alike.
"""

from array import array
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import blake2b
from itertools import islice

import msgspec
import pytest

from pipeline import state
from pipeline.follow import Follower
from pipeline.state import Memory, encode, head_of
from schemas.flow import Apply, Evict, Operation, Prepare, Verified
from schemas.types import Context, outpoint
from tests.fakes import Owner, apply_of, coin_of_others, made_tx, verified
from tests.profiles import LONG
from tests.several import Budget, Model, World, part, prepared_in, shown_in

A, B, C = "topic:tm_all", "topic:tm_keep", "topic:tm_odd"
POINT, OTHER, THIRD = coin_of_others(1), coin_of_others(2), coin_of_others(3)

Sent = Sequence[tuple[Context, Operation]]


def all_of(payload: Verified) -> Prepare:
    """A payload that asks for all or nothing."""
    asked = msgspec.structs.replace(payload.asked, atomicity="all")
    return part(msgspec.structs.replace(payload, asked=asked))


def one(number: int, spends: Sequence[bytes], contexts: tuple[Context, ...], **more: object) -> tuple[Context, Prepare]:
    """An operation that spends these, by its number: the lower, the older."""
    payload = verified(made_tx(spends, 2, number), offset=number, contexts=contexts, **more)  # type: ignore[arg-type]
    return contexts[0], all_of(payload)


PARENT = made_tx([POINT], 2, 1)
CHILD = made_tx([outpoint(PARENT.txid, 0)], 2, 2)


def family(parent: int, child: int) -> Sent:
    """A parent and a child, both over two contexts in opposite orders, by their numbers."""
    elder = all_of(verified(PARENT, offset=parent, contexts=(A, B)))
    younger = all_of(verified(CHILD, [PARENT], offset=child, contexts=(B, A)))
    return [(A, elder), (B, younger)]


def alone(payload: Verified) -> Apply:
    """One context, by itself."""
    return apply_of(payload)


RING = [one(1, [POINT, OTHER], (A, B)), one(2, [OTHER, THIRD], (B, C)), one(3, [THIRD, POINT], (C, A))]
REFUSED = one(1, [POINT], (A, B, C), off_chain=b"nothing")
ONE = one(1, [POINT], (A, B))
OPPOSITE = [one(1, [POINT], (A, B)), one(2, [POINT], (B, A))]

SCENARIOS: Mapping[str, tuple[Sent, Budget, Mapping[Context, Sequence[Operation]]]] = {
    "one-with-every-fault": ([ONE], Budget(doubled=1, repeated=1, deadlines=1), {}),
    "three-contexts": ([one(1, [POINT], (A, B, C)), one(2, [POINT], (C, B))], Budget(attempts=2), {}),
    "one-whose-last-context-refuses": ([REFUSED], Budget(), {}),
    "opposite-orders": (OPPOSITE, Budget(attempts=2), {}),
    "a-child-of-an-undecided-parent": (family(1, 2), Budget(attempts=2), {}),
    "a-child-that-is-older-than-its-parent": (family(2, 1), Budget(attempts=2), {}),
    "the-same-over-other-contexts": (
        [
            (A, all_of(verified(PARENT, offset=1, contexts=(A, B)))),
            (C, all_of(verified(PARENT, offset=2, contexts=(C, B)))),
        ],
        Budget(attempts=2),
        {},
    ),
    "the-same-alone": (
        [ONE, (B, alone(verified(made_tx([POINT], 2, 1), offset=5, contexts=(B,))))], Budget(repeated=1), {}
    ),
    "a-child-alone": (
        [
            (A, all_of(verified(PARENT, offset=1, contexts=(A, B)))),
            (B, alone(verified(CHILD, [PARENT], offset=5, contexts=(B,)))),
        ],
        Budget(deadlines=1, attempts=2),
        {},
    ),
    "a-child-alone-of-one-that-is-refused": (
        [
            (A, all_of(verified(PARENT, offset=1, contexts=(A, C), off_chain=b"nothing"))),
            (A, alone(verified(CHILD, [PARENT], offset=5, contexts=(A,)))),
        ],
        Budget(doubled=1),
        {},
    ),
    "a-late-parent": (
        [
            (A, all_of(verified(CHILD, [PARENT], offset=1, contexts=(A, B)))),
            (A, alone(verified(PARENT, offset=5, contexts=(A,)))),
        ],
        Budget(deadlines=1, attempts=2),
        {},
    ),
    "a-parent-that-is-refused": (
        [
            (A, all_of(verified(CHILD, [PARENT], offset=2, contexts=(A, B)))),
            (A, Evict("e", PARENT.txid, "network.rejected", "no")),
        ],
        Budget(deadlines=1, attempts=2),
        {A: [alone(verified(PARENT, offset=1, contexts=(A,)))]},
    ),
    "a-rival-alone": (
        [ONE, (A, alone(verified(made_tx([POINT], 1, 9), offset=5, contexts=(A,))))], Budget(attempts=2), {}
    ),
}  # fmt: skip
LARGE: Mapping[str, tuple[Sent, Budget, Mapping[Context, Sequence[Operation]]]] = {
    "a-ring": (RING, Budget(attempts=2), {}),
    "opposite-orders-with-faults": (OPPOSITE, Budget(doubled=1, deadlines=1, attempts=2), {}),
    "opposite-orders-with-repeated-votes": (OPPOSITE, Budget(repeated=1, deadlines=1, attempts=2), {}),
    "a-family-with-faults": (family(1, 2), Budget(doubled=1, deadlines=1, attempts=2), {}),
    "an-odd-family-with-faults": (family(2, 1), Budget(doubled=1, deadlines=1, attempts=2), {}),
}  # fmt: skip


class Explored:
    """Every world that can be reached from the first, looked at once and dropped; kept is how each was reached."""

    def __init__(self, model: Model, look: Callable[[World, int], None] = lambda _at, _number: None) -> None:
        """look: at each world, by its number."""
        self.model = model
        self.ends: list[tuple[int, World]] = []
        self._came_from, self._by_step = array("i", (-1,)), array("B", (0,))
        self._steps = array("I"), array("I")  # from, to
        seen = {_digest(model.first): 0}
        todo = deque((model.first,))
        number = 0
        while todo:
            at = todo.popleft()
            look(at, number)
            step = -1
            for step, to in enumerate(model.steps(at)):
                found = seen.setdefault(_digest(to), len(seen))
                if found == len(self._came_from):
                    todo.append(to)
                    self._came_from.append(number)
                    self._by_step.append(step)
                self._steps[0].append(number)
                self._steps[1].append(found)
            if step < 0:
                self.ends.append((number, at))
            number += 1

    def __len__(self) -> int:
        """How many there are."""
        return len(self._came_from)

    def story(self, number: int) -> str:
        """How a world was reached."""
        steps = []
        while number:
            steps.append(self._by_step[number])
            number = self._came_from[number]
        at, said = self.model.first, []
        for step in reversed(steps):
            said.append(self.model.named(at)[step])
            at = next(islice(self.model.steps(at), step, None))
        return "\n".join(said)

    def stuck(self) -> list[int]:
        """Worlds from which no end can be reached."""
        reach = bytearray(len(self))
        for number, _ in self.ends:
            reach[number] = 1
        moved = True
        while moved:  # most steps lead on, and worlds are numbered as they are reached: few rounds suffice
            moved = False
            for begin, end in zip(reversed(self._steps[0]), reversed(self._steps[1]), strict=True):
                if reach[end] and not reach[begin]:
                    reach[begin] = moved = True
        return [number for number, reaches in enumerate(reach) if not reaches]


def _digest(at: World) -> bytes:
    return blake2b(encode(at), digest_size=16).digest()


def operations_of(sent: Sent) -> list[Prepare]:
    return [operation for _, operation in sent if isinstance(operation, Prepare)]


class Shown:
    """No context shows an operation before it is decided that all do (ATOMIC-1)."""

    def __init__(self, model: Model, sent: Sent) -> None:
        self._model = model
        self._operations = operations_of(sent)
        self._shown: dict[tuple[int, int], tuple[int, ...]] = {}  # by context and store: which operations
        self.wrong: list[int] = []

    def look(self, at: World, number: int) -> None:
        """At a world."""
        for context, store in enumerate(at.stores):
            shown = self._shown.get((context, store))
            if shown is None:
                shown = self._shown[context, store] = tuple(self._in(context, store))
            for name in shown:
                status = self._model.statuses[at.standing[name]]
                if status is None or status.decided != "commit":
                    self.wrong.append(number)

    def _in(self, context: int, store: int) -> Iterator[int]:
        for operation in self._operations:
            verified = operation.apply.verified
            applied = shown_in(self._model.stores[store], self._model.contexts[context], verified.txid)
            if applied is not None and applied.origin == verified.asked.origin:
                yield self._model.names.index(operation.operation)


def check_end(explored: Explored, number: int, at: World, sent: Sent) -> None:
    """Nothing is undecided or waits, and each operation stands everywhere or nowhere (ATOMIC-1, ATOMIC-2)."""
    model, told = explored.model, explored.model.told(at)
    for context in model.contexts:
        store = model.store(at, context)
        assert not prepared_in(store), explored.story(number)
        copy = Memory()
        follower = Follower(copy)
        follower.take_all([(key, stored) for key, stored in store.items() if not state.is_index(key)])
        follower.compare()
        copy.write(follower.writes())
        assert copy.entries == store, explored.story(number)
    for operation in operations_of(sent):
        contexts = operation.apply.verified.asked.contexts
        said = {told.get((operation.operation, context)) for context in contexts}
        assert None not in said, explored.story(number)
        assert "waits" not in said, explored.story(number)
        assert len({each == "applied" for each in said if each}) == 1, explored.story(number)
        status = model.status(at, operation.operation)
        assert status is not None, explored.story(number)
        assert status.decided, explored.story(number)


def check_as_if_alone(explored: Explored, number: int, at: World, sent: Sent) -> None:
    """Each context stands as if what it took had come to it alone, and nothing else."""
    model, told = explored.model, explored.model.told(at)
    for context in model.contexts:
        owner = Owner()
        for sent_to, operation in sorted(sent, key=_origin):
            if isinstance(operation, Prepare):
                verified = operation.apply.verified
                if told.get((operation.operation, context)) == "applied":
                    owner.do(context, apply_of(verified))
            elif sent_to == context and told.get((f"{operation_txid(operation)} alone", context)) == "applied":
                owner.do(context, operation)
        root = root_of(model, at, context)
        assert root == head_of(owner.store, context).state_root, explored.story(number)


def root_of(model: Model, at: World, context: Context) -> bytes:
    """State root of a context."""
    return head_of(Memory(dict(model.store(at, context))), context).state_root


def operation_txid(operation: Operation) -> str:
    assert isinstance(operation, Apply)
    return operation.verified.txid.hex()[:4]


def _origin(sent: tuple[Context, Operation]) -> int:
    operation = sent[1]
    if isinstance(operation, Prepare):
        operation = operation.apply
    assert isinstance(operation, Apply)
    return len(operation.verified.members)  # parents before their children


@pytest.mark.invariant("ATOMIC-1")
@pytest.mark.invariant("ATOMIC-2")
@pytest.mark.parametrize("name", [*SCENARIOS, *(LARGE if LONG else ())])
def test_in_every_order_all_or_nothing(name: str, record_property: Callable[[str, object], None]) -> None:
    sent, budget, before = {**SCENARIOS, **LARGE}[name]
    model = Model(sent, budget, before)
    shown = Shown(model, sent)
    explored = Explored(model, shown.look)
    record_property("worlds", len(explored))
    record_property("ends", len(explored.ends))
    assert not shown.wrong, explored.story(shown.wrong[0])
    assert explored.ends
    stuck = explored.stuck()
    assert not stuck, explored.story(stuck[0])
    for number, at in explored.ends:
        check_end(explored, number, at, sent)
        if not before:
            check_as_if_alone(explored, number, at, sent)


def test_a_refusal_leaves_the_others_as_they_were() -> None:
    """State roots of the other contexts are those they had, to the byte."""
    sent, budget, _ = SCENARIOS["one-whose-last-context-refuses"]
    before = {context: [apply_of(verified(made_tx([OTHER], 2, 7), offset=9))] for context in (A, B, C)}
    explored = Explored(model := Model(sent, budget, before))
    for number, end in explored.ends:
        for context in (A, B, C):
            roots = [root_of(model, at, context) for at in (model.first, end)]
            assert roots[0] == roots[1], explored.story(number)
        assert set(model.told(end).values()) == {"rejected admission.nothing"}


def test_of_two_in_opposite_orders_each_that_wins_needs_one_retry_at_most() -> None:
    sent, _, _ = SCENARIOS["opposite-orders"]
    explored = Explored(model := Model(sent, Budget(attempts=9), {}))
    assert not explored.stuck()
    statuses = [model.status(at, name) for _, at in explored.ends for name in model.names]
    attempts = {status.attempt for status in statuses if status is not None and status.decided == "commit"}
    assert attempts <= {0, 1}
