"""The process that judges lines of a batch. Started by `batch.py` as `python -I -m ops.batch_worker`.

Reads frames (4 bytes of length, big-endian, then MessagePack): the order, then lists of lines. Writes a frame for each
line: its answer as JSON.
"""

import os
import signal
import sys
from contextlib import ExitStack
from typing import IO, TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from agents.runtime.sandbox import SandboxFault
from agents.verifier import Extended, Outcome, Tracker, Verifier, refused
from pipeline.batch import NAMELESS, read_line
from pipeline.chain.table import read_table
from pipeline.outcome import BY_CODE, Verdict
from pipeline.policy import Policy

if TYPE_CHECKING:
    from agents.services import Services

PATIENCE_S = 120.0
"""A line that takes longer ends the process. Bounds on scripts and sizes keep an honest one to a few seconds."""


class Order(Struct, frozen=True):
    """What all lines have in common."""

    policy: Policy
    headers: bytes = b""  # a table of roots, as `read_table` takes it
    services: tuple[str, ...] = ()  # or header services, as `Services` takes them


class Answered(Struct, frozen=True, kw_only=True):
    """A line of output: the same fields in every one."""

    id: msgspec.Raw = NAMELESS  # as the line of input has it
    outcome: str
    code: str | None = None
    message: str | None = None
    at: str | None = None
    txid: str | None = None
    unmined: int | None = None
    fee_sat: int | None = None
    ef: tuple[Extended, ...] | None = None


_encode = msgspec.json.Encoder().encode


def frame(body: bytes) -> bytes:
    """A body with its length."""
    return len(body).to_bytes(4, "big") + body


def read_frame(source: IO[bytes]) -> bytes | None:
    """The next body; None at the end, also in the middle of one."""
    head = source.read(4)
    if len(head) < 4:
        return None
    size = int.from_bytes(head, "big")
    body = source.read(size)
    return body if len(body) == size else None


def answer(line: bytes, verifier: Verifier, tracker: Tracker) -> bytes:
    """The answer to one line, whatever it holds."""
    asked = read_line(line)
    try:
        said = refused(asked.payload) if isinstance(asked.payload, Verdict) else verifier.verify(asked.payload, tracker)
    except SandboxFault as error:
        said = Outcome(outcome="indeterminate", code="internal.fault", message=_fault(error))
    return _encode(Answered(id=asked.id, **_fields(said)))


def _fault(error: Exception) -> str:
    return f"{BY_CODE['internal.fault'].meaning} ({error})"


def _fields(said: Outcome) -> dict[str, Any]:
    return {name: getattr(said, name) for name in Outcome.__struct_fields__}


def _services(order: Order) -> "Services":
    from agents.services import Services  # brings an HTTP client, which a table has no use for

    return Services(order.services)


def serve(source: IO[bytes], sink: IO[bytes]) -> None:
    """Answer until the parent closes its end."""
    first = read_frame(source)
    if first is None:
        return
    order = msgspec.msgpack.decode(first, type=Order)
    with ExitStack() as opened:
        tracker: Tracker = opened.enter_context(_services(order)) if order.services else read_table(order.headers)
        verifier = opened.enter_context(Verifier(order.policy))
        while (body := read_frame(source)) is not None:
            for line in msgspec.msgpack.decode(body, type=list[bytes]):
                signal.setitimer(signal.ITIMER_REAL, PATIENCE_S)
                sink.write(frame(answer(line, verifier, tracker)))
                sink.flush()
            signal.setitimer(signal.ITIMER_REAL, 0)


def main() -> None:
    """Leave interrupts to the parent, and serve."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    try:
        serve(sys.stdin.buffer, sys.stdout.buffer)
    except BrokenPipeError:
        os._exit(0)  # the parent is gone: nobody is left to tell, and what is buffered cannot be written


if __name__ == "__main__":
    main()
