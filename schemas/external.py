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
    block_height: int | None = None  # of `mined` and `buried`
    merge: bool = False  # a further instruction for a transaction that the owner's context had applied (BRC-100)


class Effect(Struct, frozen=True):
    """An entry of the state that came or went."""

    key: str  # hexadecimal
    hash: str  # hexadecimal, SHA-256 of its value


class EntryEffects(Struct, frozen=True):
    """All of a journal entry's. A changed entry of the state stands in both."""

    added: tuple[Effect, ...]
    removed: tuple[Effect, ...]


class ExportedEntry(Struct, frozen=True):
    """A journal entry as a line of JSON."""

    context: str
    sequence: int  # from 1, without a gap
    previous: str  # hexadecimal
    hash: str  # hexadecimal: what the next one names as previous
    operation: str
    kind: str
    txid: str  # display hex
    effects: EntryEffects
    state_root: str
    store_root: str
    manager: str | None
    origin: ResultOrigin | None
    time: str  # RFC 3339, UTC


class UndecidedOperation(Struct, frozen=True, kw_only=True):
    """An operation over several contexts that this one has voted on: nothing is shown of it yet."""

    operation: str  # its name, hexadecimal: the same in all its contexts, over all attempts
    txid: str  # display hex
    attempt: int  # from 0


class ContextState(Struct, frozen=True, kw_only=True):
    """Where a context stands: what every read names."""

    context: str
    sequence: int  # of its last journal entry; 0: it holds nothing
    state_root: str  # hexadecimal
    store_root: str
    settling: bool  # work waits that one transaction could not hold: more follows by itself
    differs: bool = False  # read from a store that is not what was written, and is being made again
    undecided: int = 0  # operations over several contexts that are: others of those may show them before this one
    undecided_operations: tuple[
        UndecidedOperation, ...
    ] = ()  # of those at most 100; where the state itself is asked for


class LiveOutput(Struct, frozen=True, kw_only=True):
    """An output that a context admitted and nobody known to it spends."""

    outpoint: str  # txid.vout, the txid in display hex
    satoshis: int
    locking_script: str  # hexadecimal
    contested_by: tuple[str, ...] = ()  # an eviction returned it, and these may yet have it: not to be taken as free


class Outputs(Struct, frozen=True, kw_only=True):
    """Live outputs of a context, a page of them."""

    state: ContextState
    outputs: tuple[LiveOutput, ...]
    next: str | None  # the outpoint to go on behind; None: these are the last


class Standing(Struct, frozen=True, kw_only=True):
    """How a transaction stands in a context."""

    state: ContextState
    standing: Literal["applied", "known", "refused", "departed"]  # departed: with one that was refused
    accepted: bool = False  # the context was told that the network took it: where another that spends the same waited
    sequence: int | None = None  # of the entry that judged it last
    admittance: Admittance | None = None
    manager: str | None = None
    request_id: str | None = None
    origin: ResultOrigin | None = None
    code: str | None = None  # why it was refused
    message: str | None = None
    competing: tuple[str, ...] = ()
    departed_with: str | None = None  # txid of the one that was refused


class TransactionStanding(Struct, frozen=True, kw_only=True):
    """How a transaction stands in all contexts that know it."""

    txid: str
    contexts: tuple[Standing, ...]
    partitions: tuple[int, ...]  # that were looked into
    missing: tuple[int, ...] = ()  # of which no worker answered


class JournalPage(Struct, frozen=True, kw_only=True):
    """Entries of a context's journal, in sequence."""

    entries: tuple[ExportedEntry, ...]


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
