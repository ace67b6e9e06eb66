"""coordinate: operations over several contexts, decided once for all of them; exactly once (ATOMIC-1, ATOMIC-2)."""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Annotated, Any

from aiohttp import web
from msgspec import Struct, msgpack

from agents.runtime.deadlines import Deadlines
from agents.runtime.desk import Teller
from agents.runtime.outbox import Outbox
from agents.runtime.partition import Decided, Heads, Keeps
from agents.runtime.records import Emit, Fault, Inbound, Out
from agents.runtime.shelf import Readable
from pipeline.coordinate import Limits, hear
from pipeline.follow import Form, Keyed
from pipeline.state import Corrupt, Layer, View
from schemas.flow import OPERATION
from schemas.operations import NAME_BYTES, VOTE, OperationStatus
from schemas.types import why
from schemas.wire import Undecodable
from topics.registry import DEAD_LETTERS, DECISIONS, INGEST, OPERATIONS, VOTES, Topic

_encode = msgpack.Encoder().encode
_status = msgpack.Decoder(OperationStatus).decode

KEPT_MS = (INGEST.retention_h or 0) * 3_600_000
"""What was decided is kept as long as its payload can be read again."""


class CoordinateSettings(Struct, frozen=True):
    """How operations over several contexts are decided."""

    deadline_s: Annotated[
        float,
        why(
            "For all votes of an attempt. It only ends what never answers: a context that lags longer has its "
            "operations aborted and tried again until it has caught up.",
            gt=0,
        ),
    ] = 3600.0
    tell_after_s: Annotated[
        float, why("An operation that is undecided for so long is an event: contexts vote within seconds.", gt=0)
    ] = 60.0


class Coordinate(Keeps):
    """The stage."""

    name = "coordinate"
    inputs: tuple[Topic, ...] = (VOTES,)
    outputs: tuple[Topic, ...] = (OPERATIONS, VOTES, DEAD_LETTERS)
    changelog = DECISIONS
    form: Form = Keyed()
    went_well: tuple[str, ...] = ("commit", "abort", "heard", "forgotten")

    def __init__(self, settings: CoordinateSettings) -> None:
        self._limits = Limits(int(settings.deadline_s * 1000), KEPT_MS)
        self._deadlines = Deadlines(int(settings.tell_after_s * 1000))

    async def start(self) -> None:
        """Nothing to open."""

    async def stop(self) -> None:
        """Nothing to close."""

    def tell_to(self, teller: Teller) -> None:
        """Who writes events of this stage."""
        self._deadlines.tell_to(teller)

    def beside(
        self, stores: Mapping[int, Readable], spoil: Callable[[int, Corrupt], None], outbox: Outbox
    ) -> Sequence[Coroutine[Any, Any, None]]:
        """The clock."""
        return (self._deadlines.run(stores, spoil, outbox),)

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Nothing."""

    def compute(self, record: Inbound, layer: Layer, heads: Heads, now_ms: int) -> Decided:
        """What is heard about an operation comes to."""
        key = record.key or b""
        if len(key) != NAME_BYTES:
            return Decided(Fault("internal.undecodable", f"the key of a vote is an operation's name, not {key!r}"))
        try:
            said = VOTE.decode(record.value, record.headers)
        except Undecodable as error:
            return Decided(Fault(error.code, error.message))
        before = standing(layer, key)
        step = hear(key.hex(), before, said, now_ms, self._limits)
        if step.status is None:
            if before is not None:
                layer.delete(key)
            return Decided(Emit((), "forgotten"))
        if step.status != before:
            layer.put(key, _encode(step.status))
            self._deadlines.note(record.partition, key, step.status)
        decided = step.status.decided if before is None or not before.decided else ""
        outs = [Out(OPERATIONS, context.encode(), OPERATION.encode(word)) for context, word in step.tells]
        return Decided(Emit(outs, decided or "heard"))

    def left(self, partition: int) -> None:
        """Who owns it next looks at its clock."""
        self._deadlines.forget(partition)


def standing(view: View, operation: bytes) -> OperationStatus | None:
    """Where an operation stands; None: nobody has heard of it."""
    stored = view.get(operation)
    return None if stored is None else _status(stored[32:])
