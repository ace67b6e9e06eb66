"""What stands of the results: the newest word for each id, one decision for each record and context."""

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.instruments.standing import Standing, word
from pipeline import results
from pipeline.outcome import Condition, Verdict
from pipeline.results import About
from schemas.external import Admittance, Result
from schemas.flow import Origin
from tests.profiles import CHEAP

NOW = 1_790_000_000_000
TXID = b"\x01" * 32
X, Y = "topic:tm_x", "topic:tm_y"


def at(offset: int = 7) -> Origin:
    return Origin("cluster", "beef.ingest", 0, offset, NOW)


def about(context: str | None = X, offset: int = 7, contexts: int = 2) -> About:
    return About(at(offset), ("r",), TXID, context, contexts)


def applied(context: str = X, sequence: int = 1, offset: int = 7, *, repeat: bool = False) -> Result:
    return results.applied(about(context, offset), Admittance((0,)), sequence, bytes(32), NOW, repeat=repeat)


def rejected(context: str | None = X, code: str = "script.false", offset: int = 7) -> Result:
    return results.rejected(about(context, offset, 0 if context is None else 2), Verdict(code), NOW)


def parked(context: str | None = X, code: str = "anchor.unknown", offset: int = 7) -> Result:
    return results.parked(about(context, offset, 0 if context is None else 2), Condition(code), NOW)


ACCEPTED = results.accepted(about(None), "arc@a", NOW, 1)
REFUSED = results.refused(about(None), Verdict("network.fee"), "arc@a", NOW, 1)
UNDECIDED = results.parked(about(None), Condition("network.undecided"), NOW)


def standing(*taken: Result) -> Standing:
    found = Standing()
    for result in taken:
        found.take(result)
    return found


def words(*taken: Result) -> list[str]:
    """Decisions that stand, with their context."""
    return sorted(f"{result.context} {word(result)}" for result in standing(*taken).decisions())


@pytest.mark.invariant("RESULT-1")
@pytest.mark.parametrize(
    ("taken", "expected"),
    [
        ((), []),
        ((applied(), applied(Y)), ["topic:tm_x applied", "topic:tm_y applied"]),
        ((applied(), applied()), ["topic:tm_x applied"]),  # a replay says it again
        ((applied(X, 1), applied(X, 2, 8)), ["topic:tm_x applied"] * 2),  # two records
        ((applied(X, 1), applied(X, 1, 8, repeat=True)), ["topic:tm_x applied", "topic:tm_x applied (repeat)"]),
        ((parked(), applied()), ["topic:tm_x applied"]),  # it was replayed
        ((applied(), parked()), ["topic:tm_x applied"]),  # in whatever order they are read
        ((parked(),), ["topic:tm_x parked anchor.unknown"]),
        ((parked(), rejected()), ["topic:tm_x rejected script.false"]),
        ((parked(), applied(Y)), ["topic:tm_x parked anchor.unknown", "topic:tm_y applied"]),
        # before any context
        ((rejected(None),), ["None rejected script.false"]),
        ((parked(None), rejected(None)), ["None rejected script.false"]),
        ((parked(None), applied(X), applied(Y)), ["topic:tm_x applied", "topic:tm_y applied"]),
        ((applied(X), parked(None)), ["topic:tm_x applied"]),
        ((parked(None), parked(X, "conflict.undecided")), ["topic:tm_x parked conflict.undecided"]),
        ((parked(None), applied(X, 1, 8)), ["None parked anchor.unknown", "topic:tm_x applied"]),  # another record
        # the network's answers are no decisions
        ((applied(), ACCEPTED), ["topic:tm_x applied"]),
        ((applied(), UNDECIDED), ["topic:tm_x applied"]),
    ],
)
def test_which_decisions_stand(taken: Sequence[Result], expected: list[str]) -> None:
    assert words(*taken) == expected


@pytest.mark.parametrize(
    ("taken", "expected"),
    [
        ((ACCEPTED,), ["accepted"]),
        ((REFUSED,), ["refused network.fee"]),
        ((UNDECIDED,), ["parked network.undecided"]),
        ((UNDECIDED, ACCEPTED), ["accepted"]),
        ((ACCEPTED, UNDECIDED), ["accepted"]),  # whatever comes late: the higher revision stands
        ((ACCEPTED, ACCEPTED), ["accepted"]),
        ((applied(), parked(None), rejected(None)), []),
    ],
)
def test_which_of_the_networks_answers_stands(taken: Sequence[Result], expected: list[str]) -> None:
    assert [word(result) for result in standing(*taken).network()] == expected


def test_a_lower_revision_never_stands_in_place_of_a_higher() -> None:
    """A reader may see partitions of two replays in any order."""
    newer, older = applied(X, 5), applied(X, 3)
    assert list(standing(newer, older).decisions()) == list(standing(older, newer).decisions()) == [newer]


EVERY = [
    applied(), applied(Y), applied(X, 4), applied(X, 1, 8, repeat=True), rejected(), rejected(None), parked(),
    parked(Y), parked(None), ACCEPTED, UNDECIDED,
]  # fmt: skip


@CHEAP
@given(
    st.lists(st.sampled_from(EVERY), max_size=12).flatmap(lambda some: st.tuples(st.just(some), st.permutations(some)))
)
def test_reading_all_of_it_twice_changes_nothing(orders: tuple[list[Result], list[Result]]) -> None:
    """And every decision that was ever taken in is one of those that were read."""
    once = standing(*orders[0])
    twice = standing(*orders[0], *orders[0])
    assert (once.counts(), twice.seen) == (twice.counts(), 2 * once.seen)
    found = list(once.decisions())
    assert len({(result.origin, result.context) for result in found}) == len(found)
    assert all(result in orders[0] for result in found)


def test_everything_that_stands_is_counted_by_outcome_and_code() -> None:
    found = standing(applied(), applied(Y), rejected(X, "conflict.double-spend", 8), ACCEPTED, applied())
    assert found.counts() == Counter({"applied": 2, "rejected conflict.double-spend": 1, "accepted": 1})
    assert found.seen == 5
