"""How a topic's manager stands: whether it keeps to its time, and whether its context may go on (TOPIC-3).

A context is one core in order, and contexts share partitions and processes: a manager that takes too long holds its
neighbours up. So its time is measured, and a context that overruns again and again is suspended: its records wait in
the retry tiers, which counts for nothing, and one of them is tried now and then.

Whether a context is suspended is known to the process alone, and stands in no state. It says how quick this machine
was, which does not follow from the set of transactions; another worker finds it out by three records.
"""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from msgspec import Struct

from agents import metrics
from agents.runtime.desk import Teller
from agents.runtime.records import Held, Hold, ManagerFailed
from pipeline.outcome import Condition
from pipeline.overlay.manager import BadManager

LONGEST_PROBE_S = 600.0
"""Between two tries of a context that stays suspended: one that hangs costs its neighbours its limit once in that."""

TOLD_TOGETHER = 64
"""Pieces of work within their time, whose time is told to the metric at once: telling costs as much as one of them."""

RAISED = "internal.manager-raised"


class Limits(Struct, frozen=True):
    """What a manager is held to."""

    budget_s: float  # a judgement
    overruns: int  # in a row
    failures: int  # in a row: raised, or answered what none may
    probe_s: float  # from the suspension to the first try
    piece_s: float = 0.2  # of judging, before the rest of a piece of work goes into the queue


def _nobody(kind: str, severity: object, message: str, details: object) -> None:
    """Before somebody listens."""


def hold_for(why: str, since_ms: int | None = None, code: str = "internal.suspended") -> Hold:
    """A record waits; since_ms: Unix milliseconds, now unless given."""
    return Hold(Condition(code, why), int(time.time() * 1000) if since_ms is None else since_ms)


class Standing:
    """One topic's, in one stage."""

    def __init__(self, stage: str, topic: str, limits: Limits, clock: Callable[[], float] = time.perf_counter) -> None:
        self.stage = stage
        self.topic = topic
        self.tell: Teller = _nobody
        self.partition = -1  # where its context was last asked about, in a stage that keeps contexts
        self.clock = clock
        self.limits = limits
        self._overruns = 0  # in a row
        self._failures = 0
        self._suspended: _Suspension | None = None
        self._spent = 0.0  # seconds, not told to the metric yet
        self._turns = 0  # the same
        self._seconds = metrics.JUDGING_SECONDS.labels(stage, topic)
        self._overran = metrics.JUDGING_OVERRAN.labels(stage, topic)
        self._is_suspended = metrics.SUSPENDED.labels(stage, topic)
        self._is_suspended.set(0)

    @property
    def suspended(self) -> bool:
        """Whether the context takes nothing, but for a try when one is due."""
        return self._suspended is not None

    def waits_s(self) -> float:
        """Seconds until a piece of work may be tried; 0: at once."""
        found = self._suspended
        return 0.0 if found is None else max(0.0, found.probe_at - self.clock())

    def hold(self) -> Hold:
        """What becomes of a record meanwhile."""
        found = self._suspended
        if found is None:
            return hold_for(f"topic:{self.topic} works off what waits in its state")
        return hold_for(f"topic:{self.topic} is suspended: {found.why}", found.since_ms)

    def turn(self) -> "Turn":
        """A piece of work: a record, what one transaction takes of a queue, or one examination."""
        return Turn(self)

    def suspend(self, why: str) -> None:
        """Take nothing more for now; tried and found wanting again, for twice as long."""
        now, found = self.clock(), self._suspended
        if found is not None:
            found.why, found.trying = why, None
            found.probe_s = min(2 * found.probe_s, LONGEST_PROBE_S)
            found.probe_at = now + found.probe_s
            return
        self._suspended = _Suspension(why, int(time.time() * 1000), self.limits.probe_s, now + self.limits.probe_s)
        self._is_suspended.set(1)
        self.tell("context-suspended", "error", f"topic:{self.topic}: {why}", {"context": f"topic:{self.topic}"})

    def lift(self, why: str = "an operator lets it go on") -> None:
        """Go on; nothing where it is not suspended."""
        self._overruns = self._failures = 0
        if self._suspended is None:
            return
        self._suspended = None
        self._is_suspended.set(0)
        self.tell("context-resumed", "info", f"topic:{self.topic}: {why}", {"context": f"topic:{self.topic}"})

    def forget(self) -> None:
        """Its context is another worker's: nothing is known of it."""
        self._overruns = self._failures = 0
        self._suspended = None
        self._is_suspended.set(0)

    # --- by its turns

    def opens(self, turn: "Turn") -> bool:
        """Whether a piece of work may ask the manager: of a suspended context one at a time, when a try is due."""
        found = self._suspended
        if found is None:
            return True
        if found.trying is not None or self.clock() < found.probe_at:
            return False
        found.trying = turn
        return True

    def closes(self, turn: "Turn", failed: ManagerFailed | BadManager | None, *, finished: bool) -> None:
        """A piece of work is over. `finished`: it says something about the manager."""
        self._spent += turn.spent
        self._turns += 1
        if self._suspended is None and finished and failed is None and turn.longest <= self.limits.budget_s:
            if turn.asked:
                self._overruns = self._failures = 0
            if self._turns >= TOLD_TOGETHER:
                self._tell_spent()
            return
        self._tell_spent()
        self._wanting(turn, failed, finished=finished)

    def _tell_spent(self) -> None:
        self._seconds.inc(self._spent)
        self._spent, self._turns = 0.0, 0

    def _wanting(self, turn: "Turn", failed: ManagerFailed | BadManager | None, *, finished: bool) -> None:
        """It failed, took too long, or is one of a suspended context's."""
        trying = self._suspended is not None and self._suspended.trying is turn
        if trying and self._suspended is not None:
            self._suspended.trying = None
        if not turn.asked:
            return
        late = turn.longest > self.limits.budget_s
        if late:
            self._overran.inc()
        if not finished or (self._suspended is not None and not trying):
            return
        last = str(failed) if failed is not None else f"{turn.longest * 1000:.0f} ms"
        if not trying:
            self._count(failed, last, late=late)
        elif failed is not None or late:
            self.suspend(last)
        else:
            self.lift("a try was within its time")

    def _count(self, failed: ManagerFailed | BadManager | None, last: str, *, late: bool) -> None:
        limits = self.limits
        raised = failed is not None and getattr(failed, "code", RAISED) == RAISED
        self._failures = self._failures + 1 if raised else 0
        self._overruns = self._overruns + 1 if late or (failed is not None and not raised) else 0
        if self._overruns >= limits.overruns:
            self.suspend(
                f"{self._overruns} times in a row it overran its {limits.budget_s * 1000:.0f} ms; last: {last}"
            )
        elif self._failures >= limits.failures:
            self.suspend(f"{self._failures} times in a row it failed; last: {last}")


class Turn:
    """A piece of work, while it goes on: `with standing.turn() as turn:`."""

    __slots__ = ("_began", "_open", "_standing", "asked", "longest", "spent")

    def __init__(self, standing: Standing) -> None:
        self._standing = standing
        self._began = 0.0
        self._open = False
        self.asked = 0  # judgements
        self.longest = 0.0  # of one of them, seconds
        self.spent = 0.0  # by all of them

    def __enter__(self) -> Self:
        self._began = self._standing.clock()
        self._open = self._standing.opens(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        failed = error if isinstance(error, ManagerFailed | BadManager) else None
        self._standing.closes(self, failed, finished=error is None or failed is not None)

    def ask(self) -> None:
        """Before the manager is asked.

        Raises:
            Held: the context is suspended.
        """
        if not self._open:
            raise Held(self._standing.hold())

    def took(self, seconds: float) -> None:
        """It answered, or failed."""
        self.asked += 1
        self.spent += seconds
        self.longest = max(self.longest, seconds)

    def enough(self) -> bool:
        """Whether one piece has taken long enough: what is left of it goes into the queue."""
        return self._standing.clock() - self._began >= self._standing.limits.piece_s


class _Suspension(Struct):
    """Since when, why, and when the next try is due."""

    why: str
    since_ms: int
    probe_s: float
    probe_at: float
    trying: Turn | None = None
