"""Work of a context that one transaction of Kafka's cannot hold: a queue, which is state (TXN-5)."""

from collections.abc import Callable, Iterable, Sequence

import msgspec

from pipeline import state
from pipeline.contextual import Contextual
from pipeline.state import Layer, View
from schemas.state import Queue, Waiting
from schemas.types import Context, Txid

STEPS = 1_000
"""Judgements and departures that one transaction of Kafka's takes: half a second of an ordinary manager's."""

BYTES = 16 << 20
"""Written by one transaction of Kafka's before it takes no further step: two of the largest payloads. It lies in memory
some times over until it is committed, and every reader of the changelog waits for its end."""

MIDDLE = 1 << 32
"""First number of a queue: what is put back in front of it stands below."""

_queue = msgspec.msgpack.Decoder(Queue).decode
_waiting: Callable[[bytes], Waiting] = msgspec.msgpack.Decoder(Waiting).decode


def _queued(here: Contextual) -> Queue:
    stored = here.value(state.QUEUE, b"")
    return Queue(MIDDLE, MIDDLE) if stored is None else _queue(stored)


def pieces(txids: Iterable[Txid]) -> list[tuple[Txid, ...]]:
    """As many as one transaction takes, each, if they are not large."""
    listed = tuple(txids)
    return [listed[at : at + STEPS] for at in range(0, len(listed), STEPS)]


def enqueue(here: Contextual, work: Sequence[Waiting], operation: str) -> bytes:
    """Put work at the queue's end, and say so in the journal."""
    queue = _queued(here)
    for number, each in enumerate(work, queue.next):
        here.put(state.QUEUE, _name(number), each)
    here.put(state.QUEUE, b"", Queue(queue.first, queue.next + len(work)))
    return here.journal("wait", operation, work[0].txids[0])


def put_back(here: Contextual, left: Waiting) -> bytes:
    """Put what is left of a piece before all that waits, and say so in the journal: their order counts."""
    queue = _queued(here)
    here.put(state.QUEUE, _name(queue.first - 1), left)
    here.put(state.QUEUE, b"", Queue(queue.first - 1, queue.next))
    return here.journal("wait", left.operation, left.txids[0])


def front(view: View, context: Context) -> Waiting | None:
    """The first piece, where it stands; None where the queue is empty."""
    layer = Layer(view)
    stored = layer.value(state.key(context, state.QUEUE, b""))
    if stored is None:
        return None
    return _waiting(layer.value(state.key(context, state.QUEUE, _name(_queue(stored).first))) or b"")


def take(here: Contextual) -> Waiting | None:
    """The first piece, out of the queue; None where it is empty."""
    queue = _queued(here)
    if queue.first == queue.next:
        return None
    name = _name(queue.first)
    work = _waiting(here.value(state.QUEUE, name) or b"")
    here.delete(state.QUEUE, name)
    if queue.first + 1 == queue.next:
        here.delete(state.QUEUE, b"")
    else:
        here.put(state.QUEUE, b"", Queue(queue.first + 1, queue.next))
    return work


def _name(number: int) -> bytes:
    return number.to_bytes(8, "big")
