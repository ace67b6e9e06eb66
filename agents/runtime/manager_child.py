"""The process a foreign topic manager runs in: reads what it is asked, writes what it answers.

Started by `foreign.py` as `python -P -m agents.runtime.manager_child MEMORY LIMIT_MS TOPIC PATH`. Its time is bounded
by the kernel: SIGALRM ends it, whatever code holds the interpreter, and whether or not anybody is left to wait for it.
"""

import gc
import os
import signal
import socket
import sys
import time

import msgspec
from msgspec import Struct

from agents.runtime.confined import READ_BYTES, confine, cut, frame
from pipeline.overlay.manager import BadManager, Subject, TopicManager, Transaction, admit, examine, examiner, make
from schemas.external import Admittance
from schemas.flow import Examined
from schemas.types import Txid

OUT_OF_MEMORY = 87
"""Exit status of a process whose manager got no more memory: what it has built is not to be trusted."""


class Ask(Struct, frozen=True, array_like=True):
    """A transaction, to be examined or to be judged."""

    txid: Txid
    raw: bytes
    sources: tuple[bytes, ...]
    off_chain: bytes
    previous_coins: tuple[int, ...] | None = None  # None: it is to be examined
    facts: bytes = b""


class Up(Struct, frozen=True, array_like=True, tag="up"):
    """The first frame: what was loaded."""

    version: str
    examines: bool


class Down(Struct, frozen=True, array_like=True, tag="down"):
    """The first frame, and the last: why it cannot be loaded."""

    why: str


class Judged(Struct, frozen=True, array_like=True, tag="judged"):
    """What the manager says."""

    admittance: Admittance
    took_s: float


class Facts(Struct, frozen=True, array_like=True, tag="facts"):
    """What it makes of a transaction."""

    examined: Examined
    took_s: float


class Raised(Struct, frozen=True, array_like=True, tag="raised"):
    """It raised, or answered what none may."""

    what: str
    took_s: float


_ask = msgspec.msgpack.Decoder(Ask).decode
_encode = msgspec.msgpack.Encoder().encode


def serve(manager: TopicManager, topic: str, channel: socket.socket, limit_s: float) -> None:
    """Answer until the parent closes its end."""
    got = bytearray()
    while True:
        while (body := cut(got)) is None:
            more = channel.recv(READ_BYTES)
            if not more:
                return
            got += more
        asked = _ask(body)
        signal.setitimer(signal.ITIMER_REAL, limit_s)
        began = time.perf_counter()
        try:
            said = _answer(manager, topic, asked)
        except MemoryError:
            os._exit(OUT_OF_MEMORY)
        took_s = time.perf_counter() - began
        signal.setitimer(signal.ITIMER_REAL, 0)
        channel.sendall(frame(_encode(_reply(said, took_s))))


def _reply(said: Admittance | Examined | str, took_s: float) -> Judged | Facts | Raised:
    match said:
        case Admittance():
            return Judged(said, took_s)
        case Examined():
            return Facts(said, took_s)
        case str():
            return Raised(said, took_s)


def _answer(manager: TopicManager, topic: str, asked: Ask) -> Admittance | Examined | str:
    try:
        if asked.previous_coins is not None:
            subject = Subject(asked.txid, asked.raw, asked.sources, asked.previous_coins, asked.off_chain, asked.facts)
            return admit(manager, topic, subject)
        examines = examiner(manager)
        if examines is None:
            raise BadManager(f"{topic} does not examine")
        return examine(examines, topic, Transaction(asked.txid, asked.raw, asked.sources, asked.off_chain))
    except MemoryError:
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a manager may raise anything: its parent is told
        return f"{type(error).__name__}: {error}"


def main() -> None:
    """Bound memory, take the channel out of the manager's way, load it, say so, and serve."""
    memory, limit_ms, topic, path = sys.argv[1:]
    confine(int(memory))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    channel = socket.socket(fileno=os.dup(0))
    with open(os.devnull, "rb") as nothing:  # noqa: PTH123 - a descriptor is wanted
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)  # what the manager prints
    try:
        manager = make(topic, path)
        said: Up | Down = Up(manager.version, examiner(manager) is not None)
        first = frame(_encode(said))
    except (BadManager, TypeError, msgspec.ValidationError) as error:
        first, manager = frame(_encode(Down(str(error)))), None
    channel.sendall(first)
    if manager is None:
        return
    gc.collect()
    gc.freeze()
    try:
        serve(manager, topic, channel, int(limit_ms) / 1000)
    except (BrokenPipeError, ConnectionResetError):
        os._exit(0)  # the parent is gone: nobody is left to tell


if __name__ == "__main__":
    main()
