"""A process that gives way to others."""

import contextlib
import os
from pathlib import Path

AUTOGROUP = Path("/proc/self/autogroup")


def give_way(nice: int) -> None:
    """Step back behind processes of the ordinary priority, by as much as `nice` says.

    Where Linux schedules sessions as groups (`kernel.sched_autogroup_enabled`), a process's own nice value counts
    within its session only; one that leads a session says the same of the group.
    """
    os.nice(nice)
    if os.getsid(0) == os.getpid():
        with contextlib.suppress(OSError):  # not there, or not to be written: the nice value is all there is to say
            AUTOGROUP.write_text(str(nice), encoding="ascii")
