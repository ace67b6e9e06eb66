"""What is under way, and what is still kept: what an audit must not take for lost."""

from datetime import datetime

import msgspec
from msgspec import Struct

from schemas import flow
from schemas import headers as h
from schemas.network import NetworkStatus
from schemas.operations import NAME_BYTES, VOTE, OperationStatus, Vote
from schemas.types import Context, Txid
from schemas.wire import Undecodable
from topics.registry import BROADCAST, INGEST, NETWORK_NEWS, OPERATIONS, PARSED, VOTES

TXID = 32
"""Bytes of a txid: other keys of `network-status` are the stage's own."""

_status = msgspec.msgpack.Decoder(NetworkStatus).decode
_operation = msgspec.msgpack.Decoder(OperationStatus).decode

Coordinate = tuple[int, int]
"""Partition and offset of an ingest record."""

BEYOND = 1 << 63
"""Above every offset and time."""


class Payload(Struct, frozen=True):
    """Whose payload an internal record is: an ingest record's (for one context, or None for all), or the network's."""

    at: Coordinate | None = None
    context: Context | None = None
    txid: Txid | None = None


def payloads_of(topic: str, key: bytes | None, value: bytes | None) -> tuple[Payload, ...]:
    """topic: where the record belongs, by its logical name. None: it is nobody's, or cannot be read.

    What one context of an operation over several waits for, all of them do.
    """
    try:
        if topic == INGEST.name:
            return (Payload(_at(flow.POINTER.decode(value).origin)),)
        if topic == PARSED.name:
            return (Payload(_at(flow.PARSED.decode(value).asked.origin)),)
        if topic == OPERATIONS.name:
            operation = flow.OPERATION.decode(value)
            if isinstance(operation, flow.Apply):
                context = (key or b"").decode("utf-8", "replace")
                return (Payload(_at(operation.verified.asked.origin), context),)
            if isinstance(operation, flow.Prepare):
                return _all_of(operation.apply.verified.asked)
            if isinstance(operation, flow.Decide):
                return _all_of(operation.asked)
        if topic == VOTES.name:
            said = VOTE.decode(value)
            return _all_of(said.asked) if isinstance(said, Vote) else ()
        if topic == NETWORK_NEWS.name:
            return (Payload(txid=key),)
        if topic == BROADCAST.name:
            return (Payload(txid=flow.BROADCAST_REQUEST.decode(value).txid),)
    except Undecodable:
        return ()
    return ()


def _at(origin: flow.Origin) -> Coordinate:
    return origin.partition, origin.offset


def _all_of(asked: flow.Asked) -> tuple[Payload, ...]:
    return tuple(Payload(_at(asked.origin), context) for context in asked.contexts)


class Flight:
    """Records that nobody acknowledged yet, looked at anew in each round; and the bounds of what can be judged."""

    def __init__(self) -> None:
        self.acknowledged: dict[tuple[str, int], int] = {}  # committed offsets, by logical topic and partition
        self.starts: dict[int, int] = {}  # first offset of each ingest partition
        self.ends: dict[int, int] = {}  # ingest records are looked at below these
        self.since: dict[str, int] = {}  # by logical topic: what is older was deleted (Unix milliseconds)
        self.operations: list[Context] = []  # contexts that evictions and acceptances are on their way to
        self.open: list[str] = []  # partitions whose rest an open transaction hides
        self._payloads: dict[Coordinate, set[Context | None]] = {}
        self._casts: set[Txid] = set()
        self._settling: set[Txid] = set()  # not decided, and to be looked at until it is
        self._undecided: dict[bytes, flow.Asked] = {}  # operations over several contexts

    def land(self) -> None:
        """Forget what was under way."""
        self._payloads.clear()
        self._casts.clear()
        self.operations.clear()
        self.open.clear()

    def record(self, topic: str, key: bytes | None, value: bytes | None, headers: h.Pairs) -> None:
        """An unacknowledged record of an internal topic or a retry tier, by the logical name."""
        if topic not in (PARSED.name, OPERATIONS.name, VOTES.name, NETWORK_NEWS.name):
            topic = (dict(headers).get(h.ORIGIN_TOPIC) or b"").decode("utf-8", "replace")
        payloads = payloads_of(topic, key, value)
        if not payloads and topic == OPERATIONS.name:
            self.operations.append((key or b"").decode("utf-8", "replace"))
        for payload in payloads:
            if payload.txid is not None:
                self._casts.add(payload.txid)
            elif payload.at is not None:
                self._payloads.setdefault(payload.at, set()).add(payload.context)

    def stands(self, key: bytes, value: bytes) -> None:
        """A record of `network-status`."""
        if len(key) == TXID:
            status = _status(value)
            undecided = status.settles_ms > 0 or (status.look_ms > 0 and not status.decided)
            (self._settling.add if undecided else self._settling.discard)(key)

    def decides(self, key: bytes, value: bytes | None) -> None:
        """A record of `decisions`."""
        if len(key) != NAME_BYTES:
            return
        status = None if value is None else _operation(value)
        if status is None or status.decided:
            self._undecided.pop(key, None)
        else:
            self._undecided[key] = status.asked

    @property
    def undecided(self) -> set[Context]:
        """Contexts of operations that are undecided: what concerns those waits there."""
        return {context for asked in self._undecided.values() for context in asked.contexts}

    def waits(self, at: Coordinate, context: Context | None) -> str | None:
        """`decision` while the payload is under way. context: None is any."""
        if at[1] >= self.acknowledged.get((INGEST.name, at[0]), 0):
            return "decision"
        if (undecided := self.undecided) and (context is None or context in undecided):
            return "decision"
        contexts = self._payloads.get(at, ())
        return "decision" if contexts and (context is None or None in contexts or context in contexts) else None

    def cast_waits(self, txid: Txid, request: Coordinate | None) -> str | None:
        """`outcome` while the broadcast is under way. request: where its newest one stands on `broadcast`."""
        unread = request is not None and request[1] >= self.acknowledged.get((BROADCAST.name, request[0]), 0)
        return "outcome" if unread or txid in self._casts or txid in self._settling else None

    def too_old(self, topic: str, at_ms: int) -> bool:
        """Whether what `topic` held of that time may have been deleted."""
        return at_ms < self.since.get(topic, 0)


def unix_ms(time: str) -> int:
    """RFC 3339 to Unix milliseconds; what is no time excuses nothing."""
    try:
        return int(datetime.fromisoformat(time).timestamp() * 1000)
    except ValueError:
        return BEYOND
