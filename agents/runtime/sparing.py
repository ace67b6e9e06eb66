"""Events about what happens again and again: one a minute, which says how many it stands for."""

import time
from collections.abc import Callable, Hashable
from typing import Any

from agents.runtime.desk import Teller
from schemas.external import Severity

EVENT_EVERY_S = 60.0
"""One event of a kind about the same thing in this time: what lies or is away does so with every record."""


def no_event(kind: str, severity: Severity, message: str, details: dict[str, Any]) -> None:
    """Where nobody writes events."""


class Sparing:
    """Of one kind about the same thing it lets an event a minute through, and says how many it held."""

    def __init__(self, teller: Teller = no_event, clock: Callable[[], float] = time.monotonic) -> None:
        self._teller = teller
        self._clock = clock
        self._told: dict[Hashable, float] = {}
        self._untold: dict[Hashable, int] = {}

    def tell_plainly(self, kind: str, severity: Severity, message: str, details: dict[str, Any]) -> None:
        """As a teller: about the same thing is what has the same words."""
        self.tell(kind, message, severity, message, details)

    def tell(self, kind: str, about: Hashable, severity: Severity, message: str, details: dict[str, Any]) -> bool:
        """Whether the event went out."""
        key, now = (kind, about), self._clock()
        if now - self._told.get(key, float("-inf")) < EVENT_EVERY_S:
            self._untold[key] = self._untold.get(key, 0) + 1
            return False
        self._told[key] = now
        self._teller(kind, severity, message, details | {"untold_before": self._untold.pop(key, 0)})
        return True
