"""Simulated services as child processes of a test, the demo or a benchmark."""

import http.client
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import msgspec


class Simulated:
    """A running service. Calls block: they are short, and go to this machine."""

    def __init__(self, name: str, url: str, process: subprocess.Popen[bytes]) -> None:
        self.name = name
        self.url = url  # base of the dialect's paths: arc http://…:port, woc http://…:port/v1/bsv/main
        self.process = process
        self._address = urlsplit(url).netloc

    def __enter__(self) -> "Simulated":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def fault(self, mode: str, **details: Any) -> None:
        """Put a fault in force (`ops.simulate.faults.Fault`); mode `none` ends all.

        Raises:
            ValueError: the service has no such fault.
        """
        self._order({"mode": mode, **details})

    def script(self, txid: str, status: str | int, extra_info: str = "scripted") -> None:
        """Of broadcast endpoints: what one transaction (display hex) is to get.

        `POISON` refuses each call that holds it.

        Raises:
            ValueError: there is no such status.
        """
        self._order({"txid": txid, "status": status, "extra_info": extra_info})

    def transactions(self) -> dict[str, str]:
        """Of broadcast endpoints: each transaction submitted, by display txid; its status, or `REFUSED <number>`."""
        lines = self._call("GET", "/simulate/transactions")[1].decode().splitlines()
        return dict(line.split(" ", 1) for line in lines)

    def stats(self) -> dict[str, Any]:
        """Requests and faults met; of broadcast endpoints also what was submitted and what became of it."""
        found: dict[str, Any] = msgspec.json.decode(self._call("GET", "/simulate/stats")[1])
        return found

    def stop(self, timeout_s: float = 5.0) -> int:
        """SIGTERM, and SIGKILL after a while. Returns the exit code."""
        self.process.terminate()
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        return code

    def _order(self, order: dict[str, Any]) -> None:
        status, body = self._call("POST", "/simulate/faults", msgspec.json.encode(order))
        if status != 200:
            raise ValueError(body.decode())

    def _call(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self._address, timeout=10)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


def spawn(*arguments: str, chain: Path | None = None, guarded: bool = True) -> Simulated:
    """Start `beefline simulate <arguments>` and wait for its URL: half a second, more when the chain has to be made.

    guarded: it ends when the thread that called this ends; call it from one that lasts.

    Raises:
        RuntimeError: it ended before it told its URL; what it said stands on stderr.
    """
    return spawn_all([arguments], chain=chain, guarded=guarded)[0]


def spawn_all(commands: Sequence[Sequence[str]], *, chain: Path | None = None, guarded: bool = True) -> list[Simulated]:
    """Several at once, as `spawn`, in the time of one."""
    options = ["--chain", str(chain)] if chain else []
    options += [f"--guarded={os.getpid()}"] if guarded else []
    start = [sys.executable, "-m", "ops.cli.main", "simulate"]
    processes = [
        subprocess.Popen([*start, *arguments, *options], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        for arguments in commands
    ]
    lines = [process.stdout.readline().decode().split() if process.stdout else [] for process in processes]
    if all(len(words) == 2 for words in lines):
        return [Simulated(words[0], words[1], process) for words, process in zip(lines, processes, strict=True)]
    for process in processes:
        Simulated("", "", process).stop()
    failed = [" ".join(arguments) for arguments, words in zip(commands, lines, strict=True) if len(words) != 2]
    raise RuntimeError(f"no URL from: {', '.join(failed)}")
