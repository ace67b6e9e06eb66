"""What the outside reads: JSON, for any language. Contracts: fields are only ever added."""

from typing import Any, Literal

from msgspec import Struct

from schemas.wire import Schema

Severity = Literal["info", "warning", "error"]

Outcome = Literal["applied", "rejected", "parked", "revised", "accepted", "refused", "mined", "buried", "evicted"]


class Admittance(Struct, frozen=True):
    """What a topic manager decided (BRC-22): which outputs enter, which spent coins stay as history."""

    outputs_to_admit: tuple[int, ...] = ()  # output indices
    coins_to_retain: tuple[int, ...] = ()  # input indices
    coins_removed: tuple[int, ...] = ()  # input indices

    def is_empty(self) -> bool:
        """Whether nothing was admitted, retained or removed."""
        return not (self.outputs_to_admit or self.coins_to_retain or self.coins_removed)


class ResultOrigin(Struct, frozen=True):
    """Where the ingest record stands."""

    topic: str
    partition: int
    offset: int


class Result(Struct, frozen=True, kw_only=True):
    """What became of a request. Readers keep, for each id, the highest revision."""

    id: str  # 128-bit hash, hexadecimal: the same for the same decision, however often it is made
    revision: int
    request_ids: tuple[str, ...]
    txid: str | None  # display hex
    context: str | None  # topic:tm_x | owner:<key>; null when refused before any context
    contexts: int  # how many the request named; 0 when refused before any context
    outcome: Outcome
    code: str | None = None
    message: str | None = None
    at: str | None = None  # where in the payload: "tx 3 input 0"
    admittance: Admittance | None = None
    sequence: int | None = None  # of the context's journal
    state_root: str | None = None  # hexadecimal
    repeat: bool = False  # the transaction had been applied under another coordinate
    competing: tuple[str, ...] = ()  # display txids
    endpoint: str | None = None
    origin: ResultOrigin | None = None
    time: str  # RFC 3339, UTC


class Event(Struct, frozen=True, kw_only=True):
    """Something an operator may want to know, by machine."""

    kind: str  # stage-halted | stage-resumed | offsets-reset | range-lost | trackers-disagree | chain-reorganised | ...
    subject: str  # the stage, endpoint, context or partition it is about
    severity: Severity
    message: str
    details: dict[str, Any] = {}
    time: str  # RFC 3339, UTC


RESULT = Schema("result", 1, Result, "json", "What became of a request.")
EVENT = Schema("event", 1, Event, "json", "An operational event.")
