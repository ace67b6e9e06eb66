"""How a manager stands: what suspends its context, how it is tried, and what lets it go on."""

from collections.abc import Callable
from typing import Any

import pytest

from agents import metrics
from agents.runtime.records import Held, ManagerFailed
from agents.runtime.standing import LONGEST_PROBE_S, TOLD_TOGETHER, Limits, Standing
from pipeline.overlay.manager import BadManager

LIMITS = Limits(budget_s=0.05, overruns=3, failures=5, probe_s=10.0)
QUICK, SLOW = 0.01, 0.06

RAISED = ManagerFailed("internal.manager-raised", "ValueError: no")
OVERRAN = ManagerFailed("internal.manager-overran", "no answer within 1000 ms")
ENDED = ManagerFailed("internal.manager-ended", "its process ended by SIGKILL")


class World:
    """A topic's standing, under a clock that moves when it is told to."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.now = 1000.0
        self.told: list[tuple[str, str]] = []
        self.standing = Standing("apply", "tm_x", limits, lambda: self.now)
        self.standing.tell = self._tell

    def _tell(self, kind: str, severity: Any, message: str, details: dict[str, Any]) -> None:
        assert details == {"context": "topic:tm_x"}
        self.told.append((kind, message))

    def work(self, *seconds: float, fails: Exception | None = None) -> None:
        """A piece of work: so many judgements, and what comes of it."""
        with self.standing.turn() as turn:
            for each in seconds:
                turn.ask()
                self.now += each
                turn.took(each)
            if fails is not None:
                raise fails

    def failing(self, error: Exception, *seconds: float) -> None:
        with pytest.raises(type(error)):
            self.work(*(seconds or (QUICK,)), fails=error)

    @property
    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.told]

    def suspended(self) -> "World":
        """By three that were slow."""
        for _ in range(3):
            self.work(SLOW)
        assert self.standing.suspended
        return self


def gauge() -> float:
    return metrics.SUSPENDED.labels("apply", "tm_x")._value.get()  # type: ignore[no-any-return]


@pytest.mark.invariant("TOPIC-3")
@pytest.mark.setting("apply.judge_ms")
@pytest.mark.setting("apply.suspend_after")
def test_three_overruns_in_a_row_suspend() -> None:
    """A piece of several judgements is as slow as its slowest; an answer that is late stands all the same."""
    world = World()
    for piece in ((SLOW,), (SLOW, QUICK), (QUICK,), (SLOW,), (QUICK, SLOW), ()):
        world.work(*piece)
        assert not world.standing.suspended
    assert gauge() == 0
    world.work(0.049, 0.051)
    assert world.standing.suspended
    assert gauge() == 1
    assert world.told == [
        ("context-suspended", "topic:tm_x: 3 times in a row it overran its 50 ms; last: 51 ms"),
    ]
    with pytest.raises(Held) as held:
        world.work(QUICK)
    assert held.value.hold.condition.code == "internal.suspended"
    assert "3 times in a row" in held.value.hold.condition.message
    strict = World(Limits(0.005, 1, 5, 10.0))
    strict.work(QUICK)
    assert strict.standing.suspended


@pytest.mark.invariant("TOPIC-3")
@pytest.mark.parametrize("error", [OVERRAN, ENDED])
def test_a_process_that_was_ended_or_ended_itself_counts_as_an_overrun(error: ManagerFailed) -> None:
    world = World()
    world.work(SLOW)
    world.failing(error)
    assert not world.standing.suspended
    world.work(SLOW)
    assert world.kinds == ["context-suspended"]


@pytest.mark.invariant("TOPIC-3")
def test_raising_costs_no_time_and_suspends_later() -> None:
    """As many in a row as would halt a stage; an answer in between begins anew. Overruns are counted apart."""
    world = World()
    for error in (RAISED, BadManager("admits output 9 of 2"), RAISED, RAISED):
        world.failing(error)
    world.work(QUICK)
    for _ in range(4):
        world.failing(RAISED)
    assert not world.standing.suspended
    world.failing(BadManager("x"))
    assert world.told == [("context-suspended", "topic:tm_x: 5 times in a row it failed; last: x")]
    both = World()
    for _ in range(2):
        both.failing(RAISED, SLOW)
    assert not both.standing.suspended
    both.failing(RAISED, SLOW)
    assert both.standing.suspended


def test_what_is_ours_is_not_counted_against_a_manager() -> None:
    """Nor what never came to ask it."""
    world = World()
    for _ in range(20):
        world.failing(KeyError("ours"), SLOW)
        world.work()
    assert not world.standing.suspended


@pytest.mark.invariant("TOPIC-3")
@pytest.mark.setting("apply.probe_after_s")
def test_one_piece_is_tried_when_its_time_has_come() -> None:
    """What fits into its time lets the context go on; else it waits twice as long, to ten minutes."""
    world = World().suspended()
    waited = []
    for _ in range(9):
        waited.append(world.standing.waits_s())
        world.now += waited[-1] - 0.001
        with pytest.raises(Held):
            world.work(SLOW)
        world.now += 0.002
        assert world.standing.waits_s() == 0
        world.work(SLOW)
        assert world.standing.suspended
    assert waited == pytest.approx([10.0, 20.0, 40.0, 80.0, 160.0, 320.0, *[LONGEST_PROBE_S] * 3])
    world.now += LONGEST_PROBE_S
    world.work(QUICK)
    assert world.kinds == ["context-suspended", "context-resumed"]
    assert gauge() == 0
    world.work(SLOW)
    world.work(SLOW)
    assert not world.standing.suspended  # it begins anew
    world.work(SLOW)
    assert world.standing.waits_s() == pytest.approx(10.0)


def test_a_try_that_fails_is_none_that_fits() -> None:
    for error in (RAISED, OVERRAN, ENDED, BadManager("x")):
        world = World().suspended()
        world.now += 10
        world.failing(error)
        assert world.standing.waits_s() == pytest.approx(20.0)
        assert str(error) in world.standing.hold().condition.message


def test_a_try_that_says_nothing_of_the_manager_is_made_again() -> None:
    """It asked nothing, or failed by a fault of ours."""
    world = World().suspended()
    world.now += 10
    world.work()
    world.failing(KeyError("ours"))
    assert world.standing.waits_s() == 0
    world.work(QUICK)
    assert not world.standing.suspended


def test_one_at_a_time_is_tried() -> None:
    """And one that began before the suspension says nothing about it."""
    world = World()
    early = world.standing.turn()
    early.__enter__()
    world.suspended()
    world.now += 10
    with world.standing.turn() as first:
        first.ask()
        with pytest.raises(Held):
            world.work(QUICK)
        early.ask()
        early.took(QUICK)
        early.__exit__(None, None, None)
        assert world.standing.suspended
        first.took(QUICK)
    assert not world.standing.suspended


def test_an_operator_lets_it_go_on_at_once() -> None:
    world = World()
    world.standing.lift()
    assert world.told == []
    world.suspended().standing.lift()
    assert world.told[1] == ("context-resumed", "topic:tm_x: an operator lets it go on")
    world.work(SLOW)
    assert (gauge(), world.standing.waits_s()) == (0, 0)


def test_nothing_is_known_of_a_context_that_is_anothers() -> None:
    world = World().suspended()
    world.standing.forget()
    assert (world.standing.suspended, gauge(), world.kinds) == (False, 0, ["context-suspended"])


def test_why_and_since_when_go_with_what_waits() -> None:
    """Since the first word against it, whatever tries say."""
    world = World()
    world.standing.suspend("its process does not come up")
    since = world.standing.hold().since_ms
    world.standing.suspend("still not")
    hold = world.standing.hold()
    assert (hold.since_ms, hold.condition.message) == (since, "topic:tm_x is suspended: still not")
    assert world.kinds == ["context-suspended"]


def test_a_piece_is_long_enough_after_a_fifth_of_a_second() -> None:
    world = World()
    seen: list[bool] = []
    with world.standing.turn() as turn:
        for _ in range(4):
            enough: Callable[[], bool] = turn.enough
            seen.append(enough())
            world.now += 0.1
    assert seen == [False, False, True, True]


def test_time_is_added_up() -> None:
    spent, overran = metrics.JUDGING_SECONDS.labels("apply", "tm_x"), metrics.JUDGING_OVERRAN.labels("apply", "tm_x")
    before = spent._value.get(), overran._value.get()
    world = World()
    for _ in range(TOLD_TOGETHER):
        world.work()
    world.work(QUICK, QUICK)
    assert spent._value.get() == before[0]  # few that are quick are told with what follows
    world.work(SLOW)
    world.failing(RAISED)
    world.failing(KeyError("ours"), SLOW)
    assert spent._value.get() - before[0] == pytest.approx(3 * QUICK + 2 * SLOW)
    assert overran._value.get() - before[1] == 2
