"""Scripted faults: what is wrong with a simulated service, and for how long."""

import time
from collections.abc import Callable, Iterable
from typing import Literal

from msgspec import Struct

Lie = Literal["root", "confirm"]


class Fault(Struct, kw_only=True, forbid_unknown_fields=True):
    """What `POST /simulate/faults` takes. A fault replaces one of the same mode."""

    mode: str
    for_s: float | None = None  # None: until another order
    ratio: float = 1.0  # of what it concerns: requests, or transactions for `reject` and `orphan`
    delay_ms: int = 500  # of `slow`
    status: int = 503  # of `5xx`
    retry_after_s: int = 1  # of `429` and `busy`
    depth: int = 1  # blocks, of `behind` and `reorganisation`
    roots: tuple[str, ...] = ()  # of `reorganisation`: Merkle roots (display hex) of the branch's first blocks
    lie: Lie = "root"  # of `lying`
    until: float = 0.0  # set on arrival: monotonic seconds
    owed: float = 0.0  # set while it works: the ratio's remainder


TRANSPORT = {
    "down": "Closes each connection at once, without a byte.",
    "slow": "Answers `delay_ms` late.",
    "5xx": "Answers HTTP `status`.",
    "429": "Answers HTTP 429 with Retry-After.",
    "busy": "Answers HTTP 503 with Retry-After.",
    "hang": "Takes the request, does nothing and never answers.",
    "silent": "The same.",
    "lost-reply": "Does what is asked and closes the connection in place of an answer.",
    "malformed": "Does what is asked and answers with something that is not JSON.",
}
"""Faults any service can have."""


class Faults:
    """The faults in force. Ratios are kept by counting, not by chance: of ten requests at 0.3, three are met."""

    def __init__(self, own_modes: Iterable[str], clock: Callable[[], float] = time.monotonic) -> None:
        self.modes = {*TRANSPORT, *own_modes}
        self.met: dict[str, int] = {}
        self._active: dict[str, Fault] = {}
        self._clock = clock

    def order(self, fault: Fault) -> None:
        """Put a fault in force; mode `none` ends all.

        Raises:
            ValueError: this service has no such fault.
        """
        if fault.mode == "none":
            self._active.clear()
            return
        if fault.mode not in self.modes:
            raise ValueError(f"no fault {fault.mode!r}; there are none, {', '.join(sorted(self.modes))}")
        fault.until = float("inf") if fault.for_s is None else self._clock() + fault.for_s
        self._active[fault.mode] = fault

    def active(self) -> list[Fault]:
        """Those in force."""
        self._active = {mode: fault for mode, fault in self._active.items() if self._clock() < fault.until}
        return list(self._active.values())

    def get(self, mode: str) -> Fault | None:
        """The fault when it is in force, without counting."""
        return next((fault for fault in self.active() if fault.mode == mode), None)

    def meets(self, *modes: str) -> Fault | None:
        """The fault in force among `modes` that the thing at hand meets; each call is one thing."""
        for fault in self.active():
            if fault.mode in modes:
                fault.owed += fault.ratio
                if fault.owed >= 1.0 - 1e-9:
                    fault.owed -= 1.0
                    self.met[fault.mode] = self.met.get(fault.mode, 0) + 1
                    return fault
        return None
