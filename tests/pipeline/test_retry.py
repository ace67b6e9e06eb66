"""Waiting: 10 s, a minute, then ten minutes again and again, to the limit and not past it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.retry import TIER_MS, GiveUp, Wait, after
from tests.profiles import CHEAP
from topics import registry

NOW = 1_790_000_000_000
S, MIN, HOUR, DAY = 1000, 60_000, 3_600_000, 86_400_000

TABLE: list[tuple[int, int | None, int, Wait | GiveUp]] = [
    # attempt, first failed, limit -> what becomes of it
    (0, None, DAY, Wait(0, 1, NOW, NOW + 10 * S)),
    (1, NOW - 10 * S, DAY, Wait(1, 2, NOW - 10 * S, NOW + MIN)),
    (2, NOW - 70 * S, DAY, Wait(2, 3, NOW - 70 * S, NOW + 10 * MIN)),
    (3, NOW - 11 * MIN, DAY, Wait(2, 4, NOW - 11 * MIN, NOW + 10 * MIN)),
    (99, NOW - 20 * HOUR, DAY, Wait(2, 100, NOW - 20 * HOUR, NOW + 10 * MIN)),
    # the last wait ends at the limit, in a tier that is looked at often enough
    (99, NOW - DAY + 10 * MIN, DAY, Wait(2, 100, NOW - DAY + 10 * MIN, NOW + 10 * MIN)),
    (99, NOW - DAY + 10 * MIN - 1, DAY, Wait(1, 100, NOW - DAY + 10 * MIN - 1, NOW + MIN)),
    (99, NOW - DAY + MIN - 1, DAY, Wait(0, 100, NOW - DAY + MIN - 1, NOW + 10 * S)),
    (99, NOW - DAY + 3 * S, DAY, Wait(0, 100, NOW - DAY + 3 * S, NOW + 3 * S)),
    (99, NOW - DAY + 1, DAY, Wait(0, 100, NOW - DAY + 1, NOW + 1)),
    # and then it is over
    (99, NOW - DAY, DAY, GiveUp(99, NOW - DAY)),
    (3, NOW - 2 * DAY, DAY, GiveUp(3, NOW - 2 * DAY)),
    (1, NOW - HOUR, HOUR, GiveUp(1, NOW - HOUR)),
    # a limit shorter than the first tier, and none at all
    (0, None, 4 * S, Wait(0, 1, NOW, NOW + 4 * S)),
    (0, None, 0, GiveUp(0, NOW)),
    # the clock of whoever met it first is ahead of ours
    (1, NOW + HOUR, DAY, Wait(1, 2, NOW + HOUR, NOW + MIN)),
]


@pytest.mark.invariant("RETRY-1")
@pytest.mark.parametrize(("attempt", "first_failed", "limit", "expected"), TABLE)
def test_where_a_record_waits(attempt: int, first_failed: int | None, limit: int, expected: Wait | GiveUp) -> None:
    assert after(attempt, first_failed, NOW, limit) == expected


@pytest.mark.invariant("RETRY-1")
@CHEAP
@given(st.integers(1, 3 * DAY), st.integers(0, 5 * S))
def test_a_record_is_tried_until_the_limit_and_then_given_up(limit: int, late: int) -> None:
    """Each return comes `late` after its time. Waits never end past the limit, and there are finitely many."""
    now, attempt, first = NOW, 0, None
    tries = []
    while isinstance(step := after(attempt, first, now, limit), Wait):
        tries.append(step)
        assert step.attempt == attempt + 1
        assert step.first_failed == NOW
        assert now < step.not_before <= min(now + TIER_MS[step.tier], NOW + limit)
        now, attempt, first = step.not_before + late, step.attempt, step.first_failed
    assert step == GiveUp(attempt, NOW)
    assert tries[-1].not_before + late >= NOW + limit
    assert len(tries) <= 2 + limit // TIER_MS[2] + TIER_MS[2] // TIER_MS[1] + TIER_MS[1] // TIER_MS[0] + 1


def test_the_tiers_are_those_that_topics_are_declared_for() -> None:
    assert tuple(registry.TIERS.values()) == TIER_MS
