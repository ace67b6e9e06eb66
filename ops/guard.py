"""Ending with one's parent, however it ends (PROC-1)."""

import ctypes
import os
import signal
import sys
import threading
import time

PR_SET_PDEATHSIG = 1

LOOK_S = 0.5


def end_with_parent(parent: int) -> None:
    """Kill this process when the process `parent`, which made it, ends; at once if it has ended already.

    On Linux the kernel does it, when the parent's thread that made this process ends: supervisors make their children
    from their main thread. Elsewhere a thread looks whether the parent changed. Nothing is said goodbye to: whatever
    runs guarded must bear a kill -9 at any moment.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    else:
        threading.Thread(target=_watch, args=(parent,), name="guard", daemon=True).start()
    if os.getppid() != parent:  # it ended before the bond was made
        os.kill(os.getpid(), signal.SIGKILL)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK_S)
    os.kill(os.getpid(), signal.SIGKILL)
