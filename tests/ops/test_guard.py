"""Ending with one's parent, by the kernel's bond and by looking."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

GUARDED = """
import sys, time
sys.platform = sys.argv[2]
from ops import guard
guard.LOOK_S = 0.05
guard.end_with_parent(int(sys.argv[1]))
print("guarded", flush=True)
time.sleep(600)
"""

PARENT = """
import os, subprocess, sys, threading, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], str(os.getpid()), sys.argv[2]], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
if sys.argv[3] == "return":
    sys.exit(0)
if sys.argv[3] == "raise":
    raise RuntimeError("as asked")
time.sleep(600)
"""


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def until_dead(pid: int, within_s: float = 5) -> None:
    deadline = time.monotonic() + within_s
    while lives(pid):
        assert time.monotonic() < deadline, "it outlives its parent"
        time.sleep(0.01)


@pytest.mark.invariant("PROC-1")
@pytest.mark.parametrize("system", ["linux", "darwin"])
@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM", "return", "raise"])
def test_a_guarded_process_ends_with_its_parent_however_that_ends(system: str, how: str) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, GUARDED, system, how],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
    )
    assert parent.stdout is not None
    with parent.stdout:
        pid = int(parent.stdout.readline())
    try:
        if how.startswith("SIG"):
            assert lives(pid)
            parent.send_signal(signal.Signals[how])
        parent.wait(10)
        until_dead(pid)
    finally:
        parent.kill()
        parent.wait()
        if lives(pid):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.invariant("PROC-1")
@pytest.mark.parametrize("system", ["linux", "darwin"])
def test_a_process_whose_parent_ended_before_the_bond_ends_at_once(system: str) -> None:
    """It was made by a process that is gone; somebody else is its parent by then."""
    ended = subprocess.Popen(["/bin/sh", "-c", "exit 0"])
    ended.wait()
    done = subprocess.run(
        [sys.executable, "-c", GUARDED, str(ended.pid), system], capture_output=True, timeout=30, cwd=ROOT
    )
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, b"")
