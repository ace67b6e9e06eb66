"""Child processes, kept running: started again with backoff, told to stop, never left behind (PROC-1)."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from msgspec import Struct

from ops.settings import SupervisorSettings

log = logging.getLogger(__name__)

STOP_WITHIN_S = 12.0
"""A worker stops within 10 s by itself; after this it is killed."""


class Spec(Struct, frozen=True):
    """A child: its name, and what to run. `{pid}` in an argument becomes the supervisor's pid."""

    name: str
    argv: tuple[str, ...]


class Child:
    """One child process."""

    def __init__(self, spec: Spec, settings: SupervisorSettings, log_dir: Path | None) -> None:
        self.spec = spec
        self.process: asyncio.subprocess.Process | None = None
        self.started = asyncio.Event()  # set at each start; for who waits for the next one
        self.restarts = 0
        self.codes: list[int] = []  # how it ended, each time
        self.wanted = True
        self.may_run = asyncio.Event()  # set while it may run
        self.may_run.set()
        self._settings = settings
        self._log_dir = log_dir

    @property
    def pid(self) -> int | None:
        """Of the process that runs, if one does."""
        return self.process.pid if self.process is not None and self.process.returncode is None else None

    def _output(self) -> IO[Any] | int | None:
        if self._log_dir is None:
            return None
        self._log_dir.mkdir(parents=True, exist_ok=True)
        return (self._log_dir / f"{self.spec.name}.log").open("ab")

    async def run(self) -> None:
        """Keep it running until it is no longer wanted."""
        wait_s = self._settings.backoff_s
        while self.wanted:
            began = time.monotonic()
            output = self._output()
            try:
                argv = [part.replace("{pid}", str(os.getpid())) for part in self.spec.argv]
                # A session of its own: Ctrl-C reaches the supervisor, which stops children in their order.
                self.process = await asyncio.create_subprocess_exec(
                    *argv, stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
                )
            finally:
                if output is not None and not isinstance(output, int):
                    output.close()
            self.started.set()
            code = await self.process.wait()
            self.codes.append(code)
            if not self.wanted:
                return
            if not self.may_run.is_set():
                await self.may_run.wait()
                continue
            self.restarts += 1
            if time.monotonic() - began >= self._settings.healthy_after_s:
                wait_s = self._settings.backoff_s
            log.warning("%s ended with %d: started again in %.1f s", self.spec.name, code, wait_s)
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, self._settings.backoff_max_s)

    async def rest(self) -> None:
        """End it, and do not start it again before `wake`."""
        self.may_run.clear()
        self.tell(signal.SIGTERM)
        while self.pid is not None:
            await asyncio.sleep(0.05)

    def wake(self) -> None:
        """Start it again."""
        self.may_run.set()

    def tell(self, what: signal.Signals) -> None:
        """Pass a signal on."""
        if self.process is not None and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(what)


class Supervisor:
    """Several children."""

    def __init__(self, specs: Sequence[Spec], settings: SupervisorSettings, log_dir: Path | None = None) -> None:
        self.children = [Child(spec, settings, log_dir) for spec in specs]
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start all; from the main thread, to which their guard is bound."""
        self._tasks = [asyncio.ensure_future(child.run()) for child in self.children]

    async def failed(self) -> None:
        """Until a child cannot be kept running (its program cannot be started at all).

        Raises:
            OSError: what the system says.
        """
        await asyncio.gather(*self._tasks)

    async def stop(self) -> None:
        """End all, in the order they were named; kill what does not end in time."""
        for child in self.children:
            child.wanted = False
            child.tell(signal.SIGTERM)
        waits = [asyncio.ensure_future(child.process.wait()) for child in self.children if child.process is not None]
        if waits:
            await asyncio.wait(waits, timeout=STOP_WITHIN_S)
        for child in self.children:
            if child.pid is not None:
                log.error("%s did not stop within %.0f s: killed", child.spec.name, STOP_WITHIN_S)
                child.tell(signal.SIGKILL)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, *waits, return_exceptions=True)

    def child(self, name: str) -> Child:
        """By its name."""
        return next(child for child in self.children if child.spec.name == name)


def worker_spec(stage: str, flags: Sequence[str], number: int = 0) -> Spec:
    """A worker as a guarded child."""
    argv = [sys.executable, "-m", "ops.cli.main", "worker", stage, "--guarded", "{pid}"]
    for flag in flags:
        argv += ["--set", flag]
    return Spec(stage if not number else f"{stage}.{number}", tuple(argv))


def simulate_spec(name: str, *arguments: str) -> Spec:
    """A simulated service as a guarded child."""
    return Spec(name, (sys.executable, "-m", "ops.cli.main", "simulate", *arguments, "--guarded={pid}"))
