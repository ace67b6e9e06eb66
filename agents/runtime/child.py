"""A child process that answers frames over a socket: what scripts and foreign topic managers run in.

A frame is its length (4 bytes, big-endian) and MessagePack. Who holds the other end may wait for a frame in an event
loop, or hold everything up until it comes: the socket serves both, one at a time.
"""

import asyncio
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

from agents.runtime.confined import READ_BYTES, cut, frame

GONE_LOOK_S = 0.001
"""How often it is looked whether a process that was killed is gone: it is, in a moment."""

CLOSING_S = 0.5
"""For a process to end by itself once it has closed its end, before it is ended."""


class Ended(Exception):  # noqa: N818 - what became of the child
    """The child ended, or closed its end.

    status: its exit status, negative for a signal's number.
    """

    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__(f"it ended {ending(status)}")


def ending(status: int) -> str:
    """How a process ended, in words."""
    if status >= 0:
        return f"with status {status}"
    try:
        return f"by {signal.Signals(-status).name}"
    except ValueError:
        return f"by signal {-status}"


class Child:
    """One process, started when this is made; it is up once it has sent its first frame."""

    def __init__(
        self, module: str, arguments: Sequence[str], environment: Mapping[str, str], *flags: str, most: int
    ) -> None:
        """What it runs, and what it may send.

        module: run as `python FLAGS -m MODULE ARGUMENTS`, its end of the socket as standard input and output.
        most: bytes of the largest frame it may send; a larger one is taken for its end.
        """
        self._ours, theirs = socket.socketpair()
        self._ours.setblocking(False)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, *flags, "-m", module, *arguments],
                stdin=theirs.fileno(), stdout=theirs.fileno(), start_new_session=True, env=environment,
            )  # fmt: skip
        self._most = most
        self._got = bytearray()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    # --- waiting in an event loop

    async def send(self, body: bytes) -> None:
        """Send a frame.

        Raises:
            Ended: the child is gone.
        """
        try:
            await asyncio.get_running_loop().sock_sendall(self._ours, frame(body))
        except (BrokenPipeError, ConnectionResetError):
            raise Ended(await self.status()) from None

    async def read(self) -> bytes:
        """The next frame.

        Raises:
            Ended: there is none, and will be none.
        """
        loop = asyncio.get_running_loop()
        while (found := self._cut()) is None:
            try:
                got = await loop.sock_recv(self._ours, READ_BYTES)
            except ConnectionResetError:  # it ended with something of ours unread
                got = b""
            if not got or self._exceeds():
                raise Ended(await self.status())
            self._got += got
        return found

    async def status(self) -> int:
        """How it ends; waits until it has. One that only closed its end is ended."""
        deadline = time.monotonic() + CLOSING_S
        while (status := self._process.poll()) is None:
            if time.monotonic() > deadline:
                self.kill()
            await asyncio.sleep(GONE_LOOK_S)
        return status

    async def end(self) -> None:
        """End it, whatever it does."""
        self.let_go()
        while not self.reaped():
            await asyncio.sleep(GONE_LOOK_S)

    # --- holding everything up

    def ask(self, body: bytes, within_s: float) -> bytes:
        """Send a frame and wait for the next one, the whole thread with it.

        Raises:
            Ended: the child is gone.
            TimeoutError: `within_s` have passed; the child is of no use from here on.
        """
        deadline = time.monotonic() + within_s
        left = memoryview(frame(body))
        while left:
            try:
                left = left[self._ours.send(left) :]
            except BlockingIOError:
                self._wait(select.POLLOUT, deadline)
            except (BrokenPipeError, ConnectionResetError):
                raise Ended(self._status(deadline)) from None
        return self._next(deadline)

    def next(self, within_s: float) -> bytes:
        """Wait for the next frame, the whole thread with it. Raises as `ask`."""
        return self._next(time.monotonic() + within_s)

    def _next(self, deadline: float) -> bytes:
        while (found := self._cut()) is None:
            try:
                got = self._ours.recv(READ_BYTES)
            except BlockingIOError:
                self._wait(select.POLLIN, deadline)
                continue
            except ConnectionResetError:
                got = b""
            if not got or self._exceeds():
                raise Ended(self._status(deadline))
            self._got += got
        return found

    def _wait(self, event: int, deadline: float) -> None:
        poll = select.poll()
        poll.register(self._ours, event)
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise TimeoutError

    def _status(self, deadline: float) -> int:
        """A socket is closed a moment before its process can be waited for."""
        try:
            return self._process.wait(max(0.0, min(CLOSING_S, deadline - time.monotonic())))
        except subprocess.TimeoutExpired:
            self.kill()
            return self._process.wait()

    # --- its end

    def kill(self) -> None:
        """End it and what it started, and do not wait until it has."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)  # it leads a session

    def let_go(self) -> None:
        """End it, ask it nothing more, and do not wait; `reaped` is to be asked until it is gone."""
        self.kill()
        self._ours.close()

    def reaped(self) -> bool:
        """Whether one that was killed is gone."""
        return self._process.poll() is not None

    def close(self) -> None:
        """End it and wait, the whole thread with it: some milliseconds, for the memory it held."""
        self.let_go()
        self._process.wait()

    # --- frames

    def _cut(self) -> bytes | None:
        return cut(self._got)

    def _exceeds(self) -> bool:
        return len(self._got) > self._most
