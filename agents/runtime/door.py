"""The one fault door: what a record makes a stage raise becomes a decision about that record (FAULT-1, FAULT-2)."""

import logging
from typing import Any, Protocol

from agents import metrics
from agents.runtime.desk import Desk, Halt
from agents.runtime.outbox import TooLarge
from agents.runtime.records import Fault, Inbound, ManagerFailed
from pipeline.results import About

log = logging.getLogger(__name__)

ABOUT_A_RECORD = frozenset({"internal.too-large", "internal.killed"})
"""Faults that any sender can bring about: they say nothing of us, and must not halt a stage."""

ABOUT_A_MANAGER = frozenset({"internal.manager-raised", "internal.manager-overran", "internal.manager-ended"})
"""Faults that are a topic's: in a row they suspend its context (`standing.py`), and halt nothing else."""


class Tells(Protocol):
    """What the door asks of a stage."""

    name: str

    def about(self, record: Inbound) -> About | None:
        """Whom to tell."""
        ...


class Door:
    """Counts faults in a row, and halts the stage when it is us, not the records."""

    def __init__(self, stage: Tells, desk: Desk, limit: int) -> None:
        self._stage = stage
        self._desk = desk
        self._limit = limit
        self._in_a_row = 0

    def raised(self, record: Inbound, error: Exception) -> Fault:
        """The record made the stage raise."""
        if isinstance(error, ManagerFailed):
            log.warning("a record's topic manager fails: %s", error, extra={**where(record), "code": error.code})
            return Fault(error.code, str(error), self._about(record))
        log.error("a record makes the stage raise", exc_info=error, extra=where(record))
        return Fault("internal.fault", f"{type(error).__name__}: {error}", self._about(record))

    def killed(self, record: Inbound) -> Fault:
        """The record ended its process, more than once."""
        message = "it was in hand alone when its process ended, more than once"
        return Fault("internal.killed", message, self._about(record))

    def too_large(self, record: Inbound, error: TooLarge) -> Fault:
        """What follows from the record is over its topic's limit (SIZE-1)."""
        return Fault("internal.too-large", str(error), self._about(record))

    def saw(self, kind: str, code: str) -> None:
        """A decision of this kind and code was made."""
        if kind == "condition" or code in ABOUT_A_RECORD | ABOUT_A_MANAGER:
            return
        self._in_a_row = self._in_a_row + 1 if kind == "fault" else 0
        if self._in_a_row >= self._limit and self._desk.halted is None:
            self._desk.halt(Halt("faults", f"{self._in_a_row} records in a row failed: it is us, not the records"))
            metrics.state(self._stage.name, "halted")

    def resume(self) -> None:
        """An operator lets a halted stage go on."""
        self._in_a_row = 0
        metrics.state(self._stage.name, "running")
        self._desk.resume()

    def _about(self, record: Inbound) -> About | None:
        try:
            return self._stage.about(record)
        except Exception as error:  # a record may be too broken to say whose it is
            log.warning("a faulty record does not say whose it is", exc_info=error, extra=where(record))
            return None


def where(record: Inbound) -> dict[str, Any]:
    """A record's coordinate, for a log line."""
    return {"topic": record.topic, "partition": record.partition, "offset": record.offset}
