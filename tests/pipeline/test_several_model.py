"""All that can happen to operations over several contexts, in small scopes: each order in which records come and go.

The rules are the real ones, of contexts and of coordinators; what lies between them is in `tests/several.py`. In every
world that can be reached: a context shows an operation's effects only once it is decided that all show them. From every
world an end can be reached, and each end is one: nothing undecided, nothing that waits, every context told, all alike.
"""

from collections import deque
from collections.abc import Mapping, Sequence

import msgspec
import pytest

from pipeline import state
from pipeline.follow import Follower
from pipeline.state import Memory, head_of
from schemas.flow import Apply, Evict, Operation, Prepare, Verified
from schemas.types import Context, outpoint
from tests.fakes import Owner, apply_of, coin_of_others, made_tx, verified
from tests.profiles import LONG
from tests.several import Budget, World, key_of, part, prepared_in, shown_in, steps, world

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

SCENARIOS: Mapping[str, tuple[Sent, Budget, Mapping[Context, Sequence[Operation]]]] = {
    "one": ([ONE], Budget(doubled=1, deadlines=1), {}),
    "one-whose-last-context-refuses": ([REFUSED], Budget(), {}),
    "opposite-orders": ([one(1, [POINT], (A, B)), one(2, [POINT], (B, A))], Budget(attempts=2), {}),
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
    "one-with-every-fault": ([ONE], Budget(doubled=1, repeated=1, deadlines=1), {}),
    "a-ring": (RING, Budget(attempts=2), {}),
    "opposite-orders-with-faults": (
        [one(1, [POINT], (A, B)), one(2, [POINT], (B, A))], Budget(doubled=1, repeated=1, deadlines=1, attempts=2), {}
    ),
    "a-family-with-faults": (family(1, 2), Budget(doubled=1, deadlines=1, attempts=2), {}),
    "an-odd-family-with-faults": (family(2, 1), Budget(doubled=1, deadlines=1, attempts=2), {}),
    "three-contexts": ([one(1, [POINT], (A, B, C)), one(2, [POINT], (C, B))], Budget(attempts=2), {}),
}  # fmt: skip


class Explored:
    """Every world that can be reached from the first."""

    def __init__(self, first: World) -> None:
        self.worlds = [first]
        self.came_from: list[tuple[int, str]] = [(-1, "")]
        self.ends: list[int] = []
        self._before: list[list[int]] = [[]]
        seen = {key_of(first): 0}
        for number, at in enumerate(self.worlds):  # grows while it is gone through
            next_ones = list(steps(at))
            for name, to in next_ones:
                key = key_of(to)
                found = seen.setdefault(key, len(self.worlds))
                if found == len(self.worlds):
                    self.worlds.append(to)
                    self.came_from.append((number, name))
                    self._before.append([])
                self._before[found].append(number)
            if not next_ones:
                self.ends.append(number)

    def story(self, number: int) -> str:
        """How a world was reached."""
        said = []
        while number:
            number, name = self.came_from[number]
            said.append(name)
        return "\n".join(reversed(said))

    def stuck(self) -> list[int]:
        """Worlds from which no end can be reached."""
        reach = set(self.ends)
        todo = deque(self.ends)
        while todo:
            for before in self._before[todo.popleft()]:
                if before not in reach:
                    reach.add(before)
                    todo.append(before)
        return [number for number in range(len(self.worlds)) if number not in reach]


def operations_of(sent: Sent) -> list[Prepare]:
    return [operation for _, operation in sent if isinstance(operation, Prepare)]


def check_shown(explored: Explored, number: int, sent: Sent) -> None:
    """No context shows an operation before it is decided that all do (ATOMIC-1)."""
    at = explored.worlds[number]
    for operation in operations_of(sent):
        status = at.standing.get(operation.operation)
        decided = status is not None and status.decided == "commit"
        verified = operation.apply.verified
        for context in verified.asked.contexts:
            applied = shown_in(at, context, verified.txid)
            if applied is not None and applied.origin == verified.asked.origin:
                assert decided, explored.story(number)


def check_end(explored: Explored, number: int, sent: Sent) -> None:
    """Nothing is undecided or waits, and each operation stands everywhere or nowhere (ATOMIC-1, ATOMIC-2)."""
    at, story = explored.worlds[number], explored.story(number)
    for context, store in at.stores.items():
        assert not prepared_in(at, context), story
        follower = Follower(Memory())
        follower.take_all([(key, stored) for key, stored in store.items() if not state.is_index(key)])
        follower.compare()
    for operation in operations_of(sent):
        contexts = operation.apply.verified.asked.contexts
        said = {at.told.get((operation.operation, context)) for context in contexts}
        assert None not in said, story
        assert "waits" not in said, story
        assert len({each == "applied" for each in said if each}) == 1, story
        assert at.standing[operation.operation].decided, story


def check_as_if_alone(explored: Explored, number: int, sent: Sent) -> None:
    """Each context stands as if what it took had come to it alone, and nothing else."""
    at = explored.worlds[number]
    for context, store in at.stores.items():
        owner = Owner()
        for sent_to, operation in sorted(sent, key=_origin):
            if isinstance(operation, Prepare):
                verified = operation.apply.verified
                if at.told.get((operation.operation, context)) == "applied":
                    owner.do(context, apply_of(verified))
            elif sent_to == context and at.told.get((f"{operation_txid(operation)} alone", context)) == "applied":
                owner.do(context, operation)
        after = Memory(dict(store))
        assert head_of(after, context).state_root == head_of(owner.store, context).state_root, explored.story(number)


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
def test_in_every_order_all_or_nothing(name: str) -> None:
    sent, budget, before = {**SCENARIOS, **LARGE}[name]
    explored = Explored(world(sent, budget, before))
    assert explored.ends
    for number in range(len(explored.worlds)):
        check_shown(explored, number, sent)
    stuck = explored.stuck()
    assert not stuck, explored.story(stuck[0])
    for number in explored.ends:
        check_end(explored, number, sent)
        if not before:
            check_as_if_alone(explored, number, sent)


def test_a_refusal_leaves_the_others_as_they_were() -> None:
    """State roots of the other contexts are those they had, to the byte."""
    sent, budget, _ = SCENARIOS["one-whose-last-context-refuses"]
    before = {context: [apply_of(verified(made_tx([OTHER], 2, 7), offset=9))] for context in (A, B, C)}
    explored = Explored(world(sent, budget, before))
    first = explored.worlds[0]
    for number in explored.ends:
        end = explored.worlds[number]
        for context in (A, B, C):
            roots = [head_of(Memory(dict(at.stores[context])), context).state_root for at in (first, end)]
            assert roots[0] == roots[1], explored.story(number)
        assert set(end.told.values()) == {"rejected admission.nothing"}


def test_of_two_in_opposite_orders_each_that_wins_needs_one_retry_at_most() -> None:
    sent, _, _ = SCENARIOS["opposite-orders"]
    explored = Explored(world(sent, Budget(attempts=9), {}))
    assert not explored.stuck()
    attempts = {
        status.attempt
        for number in explored.ends
        for status in explored.worlds[number].standing.values()
        if status.decided == "commit"
    }
    assert attempts <= {0, 1}
