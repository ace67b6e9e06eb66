"""What a stage takes and gives: records in, decisions out."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from msgspec import Struct

from pipeline.outcome import Condition, Verdict
from pipeline.results import About
from schemas.types import Txid
from topics.registry import Topic

Headers = Sequence[tuple[str, bytes]]


class Inbound(Protocol):
    """A record as aiokafka hands it over (`aiokafka.ConsumerRecord`)."""

    topic: str
    partition: int
    offset: int
    timestamp: int  # milliseconds
    key: bytes | None
    value: bytes | None
    headers: Headers


class Out(NamedTuple):
    """A record to write. Its schema header comes from the topic, its `traceparent` from the input."""

    topic: Topic
    key: bytes | None
    value: bytes | None  # None deletes the key, in a compacted topic
    headers: Headers = ()
    partition: int | None = None  # None: by the key, murmur2


class Emit(NamedTuple):
    """The record was dealt with; this is what follows from it."""

    outs: Sequence[Out]
    code: str = ""  # for the metrics: empty, or what became of it


class Refuse(NamedTuple):
    """A verdict: a result goes out, the record goes to the dead letters."""

    verdict: Verdict
    about: About
    revision: int = 0
    competing: tuple[Txid, ...] = ()
    outs: Sequence[Out] = ()


class SetAside(NamedTuple):
    """The record goes to the dead letters, since nobody takes it; what its sender hears is for another to decide."""

    verdict: Verdict
    outs: Sequence[Out] = ()


class Defer(NamedTuple):
    """A condition: the record waits in a retry tier, or is parked when it has waited long enough."""

    condition: Condition
    about: About
    outs: Sequence[Out] = ()
    others: Sequence[About] = ()  # who is told too when it is parked: further contexts of one operation


class Hold(NamedTuple):
    """The record's context takes nothing for now: the record waits in a retry tier as long as that lasts."""

    condition: Condition
    since_ms: int  # when the context was suspended (Unix milliseconds)
    outs: Sequence[Out] = ()


class Fault(NamedTuple):
    """Ours: the record goes to the dead letters, and its sender hears that it is parked."""

    code: str
    message: str
    about: About | None = None
    outs: Sequence[Out] = ()  # of its contexts that are not concerned


class Kept(Struct):
    """A record that was kept in the state, as it was: an `Inbound`."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers


Decision = Emit | Refuse | SetAside | Defer | Hold | Fault


class Held(Exception):  # noqa: N818 - the state of a context
    """A context takes nothing for now: whatever was begun for a record of it never happened."""

    def __init__(self, hold: Hold) -> None:
        super().__init__(hold.condition.message)
        self.hold = hold


class ManagerFailed(Exception):  # noqa: N818 - what the plug-in did
    """A topic's manager failed on what it was asked: the record's fault, not the stage's (TOPIC-1).

    code: a row of CODES of kind fault.
    took_s: how long it was at it, as far as that is known and the code does not say it.
    """

    def __init__(self, code: str, message: str, took_s: float = 0.0) -> None:
        super().__init__(message)
        self.code = code
        self.took_s = took_s


class WorldCondition(Exception):  # noqa: N818 - the world's state, not an error of this program
    """The world is not ready (no tracker quorum, no endpoint): the stage pauses and no attempt is counted."""

    def __init__(self, condition: Condition) -> None:
        super().__init__(condition.message or condition.code)
        self.condition = condition
