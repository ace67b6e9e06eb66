"""Work of a context that one transaction of Kafka's cannot hold: a queue, which is state (TXN-5)."""

from collections.abc import Callable, Iterable, Sequence

import msgspec

from pipeline import state
from pipeline.contextual import Contextual
from schemas.state import Queue, Waiting
from schemas.types import Txid

STEPS = 1_000
"""Judgements and departures that one transaction of Kafka's takes: half a second of an ordinary manager's."""

_queue = msgspec.msgpack.Decoder(Queue).decode
_waiting: Callable[[bytes], Waiting] = msgspec.msgpack.Decoder(Waiting).decode


def _queued(here: Contextual) -> Queue:
    stored = here.value(state.QUEUE, b"")
    return Queue(0, 0) if stored is None else _queue(stored)


def pieces(txids: Iterable[Txid]) -> list[tuple[Txid, ...]]:
    """As many as one transaction takes, each."""
    listed = tuple(txids)
    return [listed[at : at + STEPS] for at in range(0, len(listed), STEPS)]


def enqueue(here: Contextual, work: Sequence[Waiting], operation: str) -> bytes:
    """Put work at the queue's end, and say so in the journal."""
    queue = _queued(here)
    for number, each in enumerate(work, queue.next):
        here.put(state.QUEUE, number.to_bytes(8, "big"), each)
    here.put(state.QUEUE, b"", Queue(queue.first, queue.next + len(work)))
    return here.journal("wait", operation, work[0].txids[0])


def take(here: Contextual) -> Waiting | None:
    """The first piece, out of the queue; None where it is empty."""
    queue = _queued(here)
    if queue.first == queue.next:
        return None
    name = queue.first.to_bytes(8, "big")
    work = _waiting(here.value(state.QUEUE, name) or b"")
    here.delete(state.QUEUE, name)
    if queue.first + 1 == queue.next:
        here.delete(state.QUEUE, b"")
    else:
        here.put(state.QUEUE, b"", Queue(queue.first + 1, queue.next))
    return work
