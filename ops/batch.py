"""Payloads a line, judged by several processes; answers in the order of the lines.

Each lane has a process (`batch_worker.py`) that can be killed by what it is given: that line gets an answer which says
so, and another process goes on with the next.
"""

import contextlib
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import IO

import msgspec

from ops.batch_worker import Answered, Order, frame, read_frame
from pipeline.batch import NAMELESS, id_of
from pipeline.outcome import BY_CODE

CHUNK_LINES = 64
"""Handed over at once, as far as they are there: an answer never waits for a line that has not come."""

CHUNK_BYTES = 1 << 20

AHEAD = 4
"""Chunks a lane that are read before they are needed."""

LINE_MARGIN = 1 << 20
"""Bytes of a line beside its payload in hexadecimal."""

_encode = msgspec.json.Encoder().encode


NAME_BYTES = 1000
"""At either end of an overlong line, where its id is looked for."""

_NAME = rb"""\s*"id"\s*:\s*("(?:[^"\\]|\\.)*"|-?[0-9][0-9.eE+-]*)\s*"""
_NAMED_FIRST = re.compile(rb"\s*\{" + _NAME + rb",", re.DOTALL)
_NAMED_LAST = re.compile(rb"\"\s*," + _NAME + rb"\}\s*\Z", re.DOTALL)


class Lines:
    """The lines of a stream, each of bounded length; of a longer one both ends alone."""

    def __init__(self, stream: IO[bytes], longest: int) -> None:
        self._stream = stream
        self._longest = longest

    def __iter__(self) -> Iterator[tuple[bytes, int]]:
        """Each line without its end, and 0; or both ends of a longer one, and how many bytes it has."""
        while line := self._stream.readline(self._longest + 1):
            if len(line) <= self._longest or line.endswith(b"\n"):
                yield line.rstrip(b"\r\n"), 0
                continue
            size, ends = len(line), (line[:NAME_BYTES], line[-NAME_BYTES:])
            while not line.endswith(b"\n") and (line := self._stream.readline(1 << 20)):
                size += len(line)
                ends = ends[0], (ends[1] + line)[-NAME_BYTES:]
            yield b"\n".join(ends), size


class Batch:
    """A batch under way."""

    def __init__(self, order: Order, jobs: int, write: Callable[[bytes], None]) -> None:
        """write: gets each answer, a JSON line with its end, in the order of the lines."""
        self._order = msgspec.msgpack.encode(order)
        self._longest = 2 * order.policy.max_payload_bytes + LINE_MARGIN
        self._largest = order.policy.max_payload_bytes
        self._write = write
        self._todo: queue.Queue[tuple[int, bytes] | None] = queue.Queue(maxsize=CHUNK_LINES * AHEAD * jobs)
        self._answers: dict[int, bytes] = {}
        self._next = 0
        self._room = threading.Condition()
        self._window = CHUNK_LINES * AHEAD * jobs
        self._broken: BaseException | None = None
        self._lanes = [threading.Thread(target=self._lane, daemon=True) for _ in range(jobs)]

    def run(self, stream: IO[bytes]) -> None:
        """Answer every line; returns when the last answer is written.

        Raises:
            OSError: what `write` raises.
        """
        for lane in self._lanes:
            lane.start()
        for number, (line, size) in enumerate(Lines(stream, self._longest)):
            if not self._has_room(number):
                break
            if size:
                self._answer(number, self._too_long(line, size))
            else:
                self._todo.put((number, line))
        for _ in self._lanes:
            self._todo.put(None)
        for lane in self._lanes:
            lane.join()
        if self._broken:
            raise self._broken

    def _has_room(self, number: int) -> bool:
        """Wait until the line may go ahead: how far answers are ahead of the slowest line is bounded."""
        with self._room:
            self._room.wait_for(lambda: self._broken or number - self._next < self._window)
            return self._broken is None

    def _too_long(self, ends: bytes, size: int) -> bytes:
        named = _NAMED_FIRST.match(ends) or _NAMED_LAST.search(ends)
        name = id_of(b'{"id":' + named[1] + b"}") if named else NAMELESS
        message = f"a line of {size} bytes; payloads have {self._largest} at most"
        return _encode(Answered(id=name, outcome="invalid", code="malformed.too-large", message=message))

    def _answer(self, number: int, answer: bytes) -> None:
        with self._room:
            self._answers[number] = answer
            try:
                while (ready := self._answers.pop(self._next, None)) is not None:
                    self._next += 1
                    if self._broken is None:
                        self._write(ready + b"\n")
            except OSError as error:  # nobody reads any more
                self._broken = error
            self._room.notify_all()

    def _lane(self) -> None:
        worker: _Worker | None = None
        try:
            while chunk := self._chunk():
                while chunk:
                    worker = worker or _Worker(self._order)
                    done = 0
                    for answer in worker.answers([line for _, line in chunk]):
                        self._answer(chunk[done][0], answer)
                        done += 1
                    if done < len(chunk):
                        self._answer(chunk[done][0], _killed(chunk[done][1], worker.end()))
                        worker, done = None, done + 1
                    chunk = chunk[done:]
        except BaseException as error:  # noqa: BLE001 - raised by `run`
            with self._room:
                self._broken = self._broken or error
                self._room.notify_all()
            while self._todo.get() is not None:  # so that the reader is not held up
                continue
        finally:
            if worker is not None:
                worker.end()

    def _chunk(self) -> list[tuple[int, bytes]]:
        """What is there now, one line at least; empty at the end."""
        first = self._todo.get()
        if first is None:
            return []
        chunk, size = [first], len(first[1])
        while len(chunk) < CHUNK_LINES and size < CHUNK_BYTES:
            try:
                more = self._todo.get_nowait()
            except queue.Empty:
                break
            if more is None:
                self._todo.put(None)  # the end, for this lane to find next
                break
            chunk.append(more)
            size += len(more[1])
        return chunk


def _killed(line: bytes, status: int) -> bytes:
    how = signal.Signals(-status).name if status < 0 else f"status {status}"
    return _encode(
        Answered(
            id=id_of(line),
            outcome="indeterminate",
            code="internal.killed",
            message=f"{BY_CODE['internal.killed'].meaning} ({how})",
        )
    )


class _Worker:
    """A process that judges."""

    def __init__(self, order: bytes) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-m", "ops.batch_worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        self._send(order)

    def _send(self, body: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(frame(body))
        self._process.stdin.flush()

    def answers(self, lines: Sequence[bytes]) -> Iterator[bytes]:
        """An answer for each line; fewer when the process ends."""
        assert self._process.stdout is not None
        try:
            self._send(msgspec.msgpack.encode(lines))
        except BrokenPipeError:
            return
        for _ in lines:
            answer = read_frame(self._process.stdout)
            if answer is None:
                return
            yield answer

    def end(self) -> int:
        """Let it end, and wait for it; its exit status, below 0 for a signal."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        return self._process.wait()
