"""What the results topic says, and what it means for one submission."""

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

log = logging.getLogger(__name__)

State = Literal["applied", "rejected", "parked", "waiting"]

SCHEMA = b"result/1"
"""The version of results this module reads, as their `schema` header names it."""


class Admittance(msgspec.Struct, frozen=True):
    """What a topic manager decided (BRC-22)."""

    outputs_to_admit: tuple[int, ...] = ()  # output indices
    coins_to_retain: tuple[int, ...] = ()  # input indices: spent coins that stay as history
    coins_removed: tuple[int, ...] = ()  # input indices: spent coins that left


class Coordinate(msgspec.Struct, frozen=True):
    """Where a record stands: its identity."""

    topic: str
    partition: int
    offset: int


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """A record of the results topic. Of those with one `id`, the highest `revision` stands."""

    id: str  # 128-bit hash, hexadecimal: the same for the same decision, however often it is made
    revision: int
    request_ids: tuple[str, ...]
    txid: str | None  # display hex; None when the bytes could not be read
    context: str | None  # topic:tm_x | owner:<key>; None: before any context, or the network's answer
    contexts: int  # how many the request named; 0 when refused before any
    outcome: str  # applied | rejected | parked | revised | accepted | refused | mined | buried | evicted
    code: str | None = None  # class.detail, e.g. script.false
    message: str | None = None
    at: str | None = None  # where in the payload: "tx 3 input 0"
    admittance: Admittance | None = None
    sequence: int | None = None  # of the context's journal
    state_root: str | None = None  # hexadecimal
    repeat: bool = False  # the transaction had been applied before, under another request
    competing: tuple[str, ...] = ()  # txids that spend the same outputs
    endpoint: str | None = None  # of the network, where it answered
    origin: Coordinate | None = None  # the ingest record
    time: str  # RFC 3339, UTC
    block_height: int | None = None  # of `mined` and `buried`
    merge: bool = False  # a further instruction for a transaction that the owner's context had applied (BRC-100)

    @property
    def is_decision(self) -> bool:
        """Whether a context decided here, or none was reached; otherwise it is news about a decided transaction."""
        # The network's `parked` has no context either, but says how many the request had.
        return self.outcome in ("applied", "rejected", "parked") and (self.context is not None or self.contexts == 0)

    @property
    def is_network_answer(self) -> bool:
        """Whether the network answered here, or could not be made to."""
        return self.outcome in ("accepted", "refused") or (self.outcome == "parked" and not self.is_decision)


class Watch:
    """Results of one request id, for as long as somebody holds a `Submitted` of it."""

    __slots__ = ("__weakref__", "changed", "results")

    def __init__(self) -> None:
        self.results: dict[str, Result] = {}  # by id, the highest revision
        self.changed = asyncio.Event()

    def add(self, result: Result) -> None:
        """Take a result, unless one of its id with the same or a higher revision is known."""
        known = self.results.get(result.id)
        if known is None or known.revision < result.revision:
            self.results[result.id] = result
            self.changed.set()


@dataclass(frozen=True, slots=True)
class Submitted:
    """A payload that the broker has: its request id and its record's coordinate. Hold it to ask for the outcome."""

    request_id: str
    topic: str
    partition: int
    offset: int
    watch: Watch = field(repr=False, compare=False)

    @property
    def coordinate(self) -> Coordinate:
        """As results name it (`Result.origin`)."""
        return Coordinate(self.topic, self.partition, self.offset)


@dataclass(frozen=True, slots=True)
class RequestOutcome:
    """What the contexts of a request decided."""

    submitted: Submitted
    decisions: tuple[Result, ...]  # one for each context that decided, or one for all, whose context is None

    @property
    def contexts(self) -> int:
        """How many contexts the request has; 0 while that is unknown, and when it reached none."""
        return max((decision.contexts for decision in self.decisions), default=0)

    @property
    def complete(self) -> bool:
        """Whether every context has decided."""
        return bool(self.decisions) and (
            self.decisions[0].context is None or len({found.context for found in self.decisions}) >= self.contexts
        )

    @property
    def state(self) -> State:
        """`applied` when every context did, `rejected` when one rejected it, else `parked`; `waiting` until then."""
        if not self.complete:
            return "waiting"
        said = {decision.outcome for decision in self.decisions}
        return "rejected" if "rejected" in said else "parked" if "parked" in said else "applied"

    @property
    def txid(self) -> str | None:
        """Of the subject, in display hex, as soon as a decision names it."""
        return next((decision.txid for decision in self.decisions if decision.txid), None)

    @property
    def code(self) -> str | None:
        """Of the first decision that is not `applied`."""
        return next((decision.code for decision in self.decisions if decision.outcome != "applied"), None)

    @property
    def message(self) -> str | None:
        """Of the first decision that is not `applied`."""
        return next((decision.message for decision in self.decisions if decision.outcome != "applied"), None)


class NoOutcome(TimeoutError):  # noqa: N818 - what time brought
    """Time is up and not every context has decided. Nothing is lost: `outcome` may be asked again.

    outcome: what is known so far.
    """

    def __init__(self, outcome: "RequestOutcome", timeout: float) -> None:
        of = f" of {outcome.contexts}" if outcome.contexts else ""
        super().__init__(
            f"no outcome of request {outcome.submitted.request_id!r} within {timeout:g} s "
            f"({len(outcome.decisions)}{of} decided)"
        )
        self.outcome = outcome


class _Names(msgspec.Struct):
    request_ids: tuple[str, ...] = ()


_names = msgspec.json.Decoder(_Names).decode
_result = msgspec.json.Decoder(Result).decode


def request_ids(record: Any) -> tuple[str, ...]:
    """Whom a record of the results topic concerns; nobody, where it holds no result.

    Cost: a third of `decoded`; of a busy installation's results nearly all are for others.
    """
    try:
        return _names(record.value or b"").request_ids
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ()


def decoded(record: Any) -> Result | None:
    """The result in a record; None, and a line in the log, where there is none that this version can read."""
    tag = next((value for name, value in record.headers if name == "schema"), SCHEMA)
    where = f"{record.topic}/{record.partition}/{record.offset}"
    if tag != SCHEMA:
        log.warning("%s: a result of another version, %r; this client reads %r", where, tag[:40], SCHEMA)
        return None
    try:
        return _result(record.value or b"")
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        log.warning("%s: no result: %s", where, error)
        return None


def standing_for(results: Iterable[Result], submitted: Submitted) -> tuple[Result, ...]:
    """The decisions that stand for a submission: of each context one, in the order of their names."""
    standing: dict[str | None, Result] = {}
    for result in results:
        if result.is_decision and result.origin == submitted.coordinate:
            earlier = standing.get(result.context)
            # What was parked and replayed has its decision under another id, which stands in its place.
            if earlier is None or earlier.outcome == "parked":
                standing[result.context] = result
    if len(standing) > 1:
        standing.pop(None, None)  # parked before any context, and then replayed
    return tuple(standing[context] for context in sorted(standing, key=lambda name: name or ""))
