"""Named places where a test ends the process, or stops it, to see that nothing is lost there.

Armed only by the setting `worker.crash_point`: `name:nth` ends the process at the nth passage, as kill -9 does;
`name:nth:stop` stops it there, as SIGSTOP does, until somebody continues it.
"""

import os
import signal
from collections import Counter
from typing import NamedTuple

BEFORE_PRODUCE = "before-produce"
BEFORE_COMMIT = "between-produce-and-commit"
BEFORE_LOCAL_WRITE = "after-commit-before-local-write"
DURING_RESTORE = "during-restore"

POINTS = (BEFORE_PRODUCE, BEFORE_COMMIT, BEFORE_LOCAL_WRITE, DURING_RESTORE)

SIGNALS = {"": signal.SIGKILL, "stop": signal.SIGSTOP}


class _Armed(NamedTuple):
    """What happens where."""

    name: str
    nth: int
    what: signal.Signals


_armed: _Armed | None = None
_passed: Counter[str] = Counter()


def arm(spec: str) -> None:
    """Arm one point: `name`, `name:nth` or `name:nth:stop`.

    Raises:
        ValueError: no such point, no such passage, or nothing that can happen there.
    """
    global _armed
    name, _, rest = spec.partition(":")
    nth, _, what = rest.partition(":")
    if name not in POINTS:
        raise ValueError(f"no crash point {name!r}; there are {', '.join(POINTS)}")
    if int(nth or 1) < 1:
        raise ValueError(f"{spec}: passages are counted from 1")
    if what not in SIGNALS:
        raise ValueError(f"{spec}: a process ends there, or stops (`stop`)")
    _armed = _Armed(name, int(nth or 1), SIGNALS[what])


def point(name: str) -> None:
    """End or stop the process here if this passage is the armed one."""
    if _armed is None or _armed.name != name:
        return
    _passed[name] += 1
    if _passed[name] == _armed.nth:
        os.kill(os.getpid(), _armed.what)
