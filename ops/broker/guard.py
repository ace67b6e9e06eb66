"""Becomes the command it is given, so bound to its parent that the kernel ends it when the parent ends.

Run as a file by `processes.spawn`: guard.py PARENT-PID SIGNAL COMMAND …  The bond (prctl(2), PR_SET_PDEATHSIG)
outlasts exec, and holds to the thread that started this process, not to all of its parent: start it from a thread
that stays.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1


def become(parent: int, by: int, command: list[str]) -> None:
    """Replace this process by the command, which gets signal number `by` when the parent ends.

    Raises:
        OSError: the kernel refuses the bond, or the command cannot be run.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(by), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() == parent:  # else it ended before the bond was made
        os.execvp(command[0], command)  # noqa: S606 - to become it is the purpose


if __name__ == "__main__":
    become(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
