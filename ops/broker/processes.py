"""Processes that outlive the command that started them: started apart, recognised again, ended for certain.

Reads /proc, so it is for Linux.
"""

import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

GUARD = Path(__file__).with_name("guard.py")
PROC = Path("/proc")
STATE, PARENT, BIRTH, MEMORY = 0, 1, 19, 20
"""Where these stand in what `_stat` returns."""

LOOK_EVERY_S = 0.02
UNNAMED_S = 0.001
KILL_WITHIN_S = 10.0
"""How long a process may take to vanish after SIGKILL: the kernel gives back its memory and files first."""

NAMED_WITHIN_S = 5.0
"""How long a process may take to become its command; on a busy machine it is stopped in the middle of that."""


class Process(Struct, frozen=True):
    """A process as we find it again. Numbers are used again, hence the other two."""

    pid: int
    birth: int  # clock ticks since the machine started
    word: str  # stands in its command line

    def lives(self) -> bool:
        """Whether it runs. One that ended and is our child is waited for here, so that no zombie stays."""
        deadline = time.monotonic() + NAMED_WITHIN_S
        while True:
            try:
                words = (PROC / str(self.pid) / "cmdline").read_bytes()
                fields = _stat(self.pid)
            except (FileNotFoundError, ProcessLookupError):
                return False
            if int(fields[BIRTH]) != self.birth:
                return False
            if fields[STATE] in "ZX":
                if int(fields[PARENT]) == os.getpid():
                    os.waitpid(self.pid, os.WNOHANG)
                return False
            if words:
                return os.fsencode(self.word) in words
            if fields[MEMORY] == "0":
                return True  # it is ending: its memory is gone, but it may still hold files and ports
            if time.monotonic() > deadline:
                return False
            time.sleep(UNNAMED_S)  # it is becoming its command: whose it is cannot be told yet

    def send(self, what: signal.Signals) -> None:
        """Send it a signal, if it lives."""
        if self.lives():
            try:
                os.kill(self.pid, what)
            except ProcessLookupError:
                return  # it ended meanwhile


def spawn(command: Sequence[str], output: Path, word: str, *, guard: signal.Signals | None = None) -> Process:
    """Start a process in a session of its own, so that Ctrl-C at a terminal does not reach it.

    output: file its standard output and error are appended to. It has no standard input.
    word: part of the command that tells it from others.
    guard: the signal it gets when the *thread* that calls this ends, and so when its process does, however it ends.
    """
    if guard is not None:
        command = [sys.executable, "-I", "-S", str(GUARD), str(os.getpid()), str(int(guard)), *command]
    pid = os.posix_spawnp(
        command[0],
        list(command),
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(output), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )
    return Process(pid, int(_stat(pid)[BIRTH]), word)


def holding(word: str) -> list[Process]:
    """The processes with `word` in their command line: ours whose number was never written down."""
    found = []
    for entry in PROC.iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if os.fsencode(word) in (entry / "cmdline").read_bytes():
                    found.append(Process(int(entry.name), int(_stat(int(entry.name))[BIRTH]), word))
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended while we looked
    return found


def _stat(pid: int) -> list[str]:
    """Fields of proc_pid_stat(5) from the third on; a name before them may hold spaces and brackets."""
    return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()


def gone(processes: Sequence[Process], within_s: float) -> list[Process]:
    """Wait until all have ended; returns those that have not."""
    deadline = time.monotonic() + within_s
    while (left := [process for process in processes if process.lives()]) and time.monotonic() < deadline:
        time.sleep(LOOK_EVERY_S)
    return left


def end(processes: Sequence[Process], within_s: float) -> list[Process]:
    """SIGTERM to all, and SIGKILL to those that still live after `within_s`. Returns the ones it had to kill."""
    for process in processes:
        process.send(signal.SIGTERM)
    left = gone(processes, within_s)
    for process in left:
        process.send(signal.SIGKILL)
    gone(left, KILL_WITHIN_S)
    return left
