"""The process scripts run in: reads jobs, writes results, and can be stopped at any instruction.

Started by `sandbox.py` as `python -I -m agents.runtime.sandbox_child <memory bytes>`. Its time is bounded by the
kernel: SIGPROF ends it, whatever code holds the interpreter.
"""

import os
import signal
import sys
from collections.abc import Iterable
from typing import BinaryIO

import msgspec
from msgspec import Struct

from agents.runtime.confined import HEAD_BYTES, READY, confine, frame
from agents.runtime.priority import give_way
from pipeline.script.engine import ScriptJob, ScriptResult, run_jobs


class Request(Struct, frozen=True, array_like=True):
    """Jobs of one payload, and what they may cost together."""

    jobs: tuple[ScriptJob, ...]
    steps: int  # of about a microsecond, the same number on every machine
    cpu_s: float  # processor time after which the process ends


NICE = 10
"""Below every stage: a payment by template is judged in the stage itself and must not wait for a stranger's script."""

_decode = msgspec.msgpack.Decoder(Request).decode
_encode = msgspec.msgpack.Encoder().encode


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Answer requests until the parent closes its end."""
    sink.write(frame(READY))
    sink.flush()
    while head := source.read(HEAD_BYTES):
        request = _decode(source.read(int.from_bytes(head, "big")))
        signal.setitimer(signal.ITIMER_PROF, request.cpu_s)
        complete = _answer(request, sink)
        signal.setitimer(signal.ITIMER_PROF, 0)
        if not complete:
            return


def _answer(request: Request, sink: BinaryIO) -> bool:
    """Write a result for each job, as each is done; False when memory ran out, which leaves a process not to trust."""
    done = 0
    try:
        for result in run_jobs(request.jobs, request.steps):
            _write(sink, [result])
            done += 1
    except MemoryError:
        message = "the scripts need more memory than they may have"
        _write(sink, [ScriptResult(job.key, "policy.script-budget", -1, message) for job in request.jobs[done:]])
        return False
    return True


def _write(sink: BinaryIO, results: Iterable[ScriptResult]) -> None:
    for result in results:
        sink.write(frame(_encode(result)))
        sink.flush()


def main() -> None:
    """Step behind the stages, bound memory, leave interrupts to the parent, and serve."""
    give_way(NICE)
    confine(int(sys.argv[1]))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    try:
        serve(sys.stdin.buffer, sys.stdout.buffer)
    except BrokenPipeError:
        os._exit(0)  # the parent is gone: nobody is left to tell, and what is buffered cannot be written


if __name__ == "__main__":
    main()
