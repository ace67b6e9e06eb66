"""A plain interpreter beside the fuzzer: what an input costs where nothing is instrumented.

    python -m tests.fuzz.bare    measures what comes in on its standard input, until that ends

Instrumented code is several times slower and grows with what it records, so neither says what a payload costs.
"""

import resource
import subprocess
import sys
import time
import tracemalloc
from struct import Struct as Layout
from typing import BinaryIO

from msgspec import Struct

from tests.fuzz.checks import LENIENT, ONCE, SCRIPT_MEMORY, STRICT, limit_s

PEAK_PER_BYTE = 25
PEAK_BESIDE = {"parse": 64 << 10, "verify": (64 << 10) + 6 * SCRIPT_MEMORY}
"""Bytes one payload may have allocated at its peak: 25 for each of its own, and some beside.

Measured on 10 kB made of nothing but the smallest inputs, outputs, nodes or links of a chain: at most 11 a byte; for a
payload of 400 bytes or less 6 kB in all. Of what scripts may keep on their stacks an operation takes up to 5.03 times
as much while it makes a number from its operand, and bytes from that (`1000000 NUM2BIN 1ADD` and its like).
"""

_ASK, _REPLY = Layout("<BI"), Layout("<dQQ")
_NAMES = tuple(ONCE)


class Cost(Struct, frozen=True):
    """What one payload takes in the dearer of the two forms."""

    name: str  # of the target
    seconds: float  # processor time, the best of three
    peak: int  # bytes allocated at once beyond what was there before
    rss: int  # bytes: the most the measuring process has ever had resident

    def fault(self, size: int) -> str:
        """What is too much for `size` bytes, in words; empty: nothing."""
        if self.seconds > limit_s(size):
            return f"{size} bytes took {1000 * self.seconds:.0f} ms; at most {1000 * limit_s(size):.0f}"
        most = PEAK_PER_BYTE * size + PEAK_BESIDE[self.name]
        if self.peak > most:
            return f"{size} bytes took {self.peak} bytes of memory; at most {most}"
        return ""


def measure(name: str, data: bytes) -> Cost:
    """What an input of target `name` costs in this process."""
    seconds, peak = 0.0, 0
    for policy in (LENIENT, STRICT):
        runs = []
        for _ in range(3):
            began = time.process_time()
            ONCE[name](data, policy)
            runs.append(time.process_time() - began)
        tracemalloc.start()
        ONCE[name](data, policy)
        peak = max(peak, tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        seconds = max(seconds, min(runs))
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Cost(name, seconds, peak, most if sys.platform == "darwin" else most << 10)


class Bare:
    """A process that measures; it ends with the one that started it."""

    def __init__(self) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.bare"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._child.stdin
        assert self._child.stdout
        self._to, self._from = self._child.stdin, self._child.stdout

    def measure(self, name: str, data: bytes) -> Cost:
        """As `measure`, over there."""
        self._to.write(_ASK.pack(_NAMES.index(name), len(data)) + data)
        self._to.flush()
        return Cost(name, *_REPLY.unpack(self._from.read(_REPLY.size)))

    def close(self) -> int:
        """End it; how it ended."""
        self._to.close()
        self._from.close()
        return self._child.wait()


def serve(asked: BinaryIO, replies: BinaryIO) -> None:
    """Answer until nobody asks any more."""
    while head := asked.read(_ASK.size):
        number, size = _ASK.unpack(head)
        cost = measure(_NAMES[number], asked.read(size))
        replies.write(_REPLY.pack(cost.seconds, cost.peak, cost.rss))
        replies.flush()


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)
