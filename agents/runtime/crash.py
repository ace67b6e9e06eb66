"""Named places where a test ends the process, to see that nothing is lost there.

Armed only by the setting `worker.crash_point` (`name:nth`: the nth passage ends the process as kill -9 does).
"""

import os
import signal
from collections import Counter

BEFORE_PRODUCE = "before-produce"
BEFORE_COMMIT = "between-produce-and-commit"
BEFORE_LOCAL_WRITE = "after-commit-before-local-write"
DURING_RESTORE = "during-restore"

POINTS = (BEFORE_PRODUCE, BEFORE_COMMIT, BEFORE_LOCAL_WRITE, DURING_RESTORE)

_armed: tuple[str, int] | None = None
_passed: Counter[str] = Counter()


def arm(spec: str) -> None:
    """Arm one point: `name` or `name:nth`.

    Raises:
        ValueError: no such point, or no such passage.
    """
    global _armed
    name, _, nth = spec.partition(":")
    if name not in POINTS:
        raise ValueError(f"no crash point {name!r}; there are {', '.join(POINTS)}")
    if int(nth or 1) < 1:
        raise ValueError(f"{spec}: passages are counted from 1")
    _armed = (name, int(nth or 1))


def point(name: str) -> None:
    """End the process here if this passage is the armed one."""
    if _armed is None or _armed[0] != name:
        return
    _passed[name] += 1
    if _passed[name] == _armed[1]:
        os.kill(os.getpid(), signal.SIGKILL)
