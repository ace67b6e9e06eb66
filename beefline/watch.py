"""What a topic manager asks besides its subject, seen from within a process of its own (`beefline.testing`)."""

import datetime
import functools
import os
import random
import secrets
import sys
import time
import uuid
from types import FrameType, ModuleType
from typing import Any


class Forbidden(Exception):  # noqa: N818 - what was asked
    """A manager asked what it may not."""


CLOCKS = (
    "time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "process_time",
    "process_time_ns", "thread_time", "thread_time_ns", "clock_gettime", "clock_gettime_ns", "sleep",
)  # fmt: skip

CALENDARS = ("localtime", "gmtime", "ctime")
"""Of a time that is given they say the same always, but for the time zone."""

OUTSIDE = (
    "socket.", "open", "os.listdir", "os.scandir", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.putenv",
    "subprocess.", "sqlite3.", "urllib.", "http.", "ftplib.", "smtplib.", "tempfile.", "shutil.", "webbrowser.",
)  # fmt: skip
"""Audit events of the interpreter (PEP 578), by their beginning. No code in Python gets past those."""


class Watch:
    """Sees what a manager asks besides its subject. It is put in place before the manager is imported, so that names it
    takes from modules are the watched ones, and notes what is asked while `armed`, whether or not the manager swallows
    what is raised at it.
    """

    def __init__(self) -> None:
        self.armed = False
        self.asked: list[str] = []

    def note(self, name: str) -> None:
        """Somebody asks.

        Raises:
            Forbidden: it is the manager.
        """
        if self.armed:
            self.asked.append(name)
            raise Forbidden(name)

    def install(self) -> None:
        """Put it between the manager and the world, for the rest of the process."""
        drawn = [name for name in dir(random) if getattr(getattr(random, name), "__self__", None) is random._inst]
        for module, names in (
            (time, CLOCKS), (os, ("urandom", "getrandom", "getpid")), (uuid, ("uuid1", "uuid4")),
            (secrets, ("token_bytes", "token_hex", "token_urlsafe", "randbelow", "randbits", "choice")),
            (random, (*drawn, "_urandom")),
        ):  # fmt: skip
            for name in names:
                self._wrap(module, name)
        for name in CALENDARS:
            self._wrap(time, name, unless_given=True)
        self._dates()
        self._generators()
        sys.addaudithook(self._heard)

    def _wrap(self, module: ModuleType, name: str, unless_given: bool = False) -> None:
        original = getattr(module, name, None)
        if original is None:  # not on this system
            return

        @functools.wraps(original)
        def watched(*args: Any, **named: Any) -> Any:
            if not (unless_given and args):
                self.note(f"{module.__name__}.{name}")
            return original(*args, **named)

        setattr(module, name, watched)

    def _dates(self) -> None:
        """Types of C take no new methods: heirs stand in their place, and what they made before counts as theirs."""
        watch, plain_date, plain_datetime = self, datetime.date, datetime.datetime

        class Heir(type):
            def __instancecheck__(cls, value: object) -> bool:
                return isinstance(value, plain_date if cls.__name__ == "date" else plain_datetime)

        def asking(owner: Any, name: str) -> Any:
            original = getattr(owner, name)

            def asked(_: type, *args: Any, **named: Any) -> Any:
                watch.note(f"datetime.{owner.__name__}.{name}")
                return original(*args, **named)

            return classmethod(asked)

        for owner, names in ((plain_date, ("today",)), (plain_datetime, ("now", "utcnow", "today"))):
            methods = {name: asking(owner, name) for name in names}
            setattr(datetime, owner.__name__, Heir(owner.__name__, (owner,), methods))

    def _generators(self) -> None:
        """With a seed they are arithmetic; without, they are chance."""
        watch = self

        class Random(random.Random):
            def seed(self, a: Any = None, version: int = 2) -> None:
                if a is None:
                    watch.note("random.Random()")
                super().seed(a, version)

        setattr(random, "Random", Random)  # noqa: B010 - the type's name is taken for those who import it after

    def _heard(self, event: str, _: tuple[Any, ...]) -> None:
        if self.armed and event.startswith(OUTSIDE) and not _importing(sys._getframe()):
            self.note(event)


def _importing(frame: FrameType | None) -> bool:
    """Whether a module is being imported: a manager may do that late."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
