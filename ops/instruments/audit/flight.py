"""What is under way, and what is still kept: what an audit must not take for lost."""

from datetime import datetime

import msgspec
from msgspec import Struct

from schemas import flow
from schemas import headers as h
from schemas.network import NetworkStatus
from schemas.types import Context, Txid
from schemas.wire import Undecodable
from topics.registry import BROADCAST, INGEST, NETWORK_NEWS, OPERATIONS, PARSED

TXID = 32
"""Bytes of a txid: other keys of `network-status` are the stage's own."""

_status = msgspec.msgpack.Decoder(NetworkStatus).decode

Coordinate = tuple[int, int]
"""Partition and offset of an ingest record."""

BEYOND = 1 << 63
"""Above every offset and time."""


class Payload(Struct, frozen=True):
    """Whose payload an internal record is: an ingest record's (for one context, or None for all), or the network's."""

    at: Coordinate | None = None
    context: Context | None = None
    txid: Txid | None = None


def payload_of(topic: str, key: bytes | None, value: bytes | None) -> Payload | None:
    """topic: where the record belongs, by its logical name. None: it is nobody's, or cannot be read."""
    try:
        if topic == INGEST.name:
            origin = flow.POINTER.decode(value).origin
            return Payload((origin.partition, origin.offset))
        if topic == PARSED.name:
            origin = flow.PARSED.decode(value).asked.origin
            return Payload((origin.partition, origin.offset))
        if topic == OPERATIONS.name:
            operation = flow.OPERATION.decode(value)
            if isinstance(operation, flow.Apply):
                origin = operation.verified.asked.origin
                return Payload((origin.partition, origin.offset), (key or b"").decode("utf-8", "replace"))
        if topic == NETWORK_NEWS.name:
            return Payload(txid=key)
        if topic == BROADCAST.name:
            return Payload(txid=flow.BROADCAST_REQUEST.decode(value).txid)
    except Undecodable:
        return None
    return None


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
        self._settling: set[Txid] = set()  # refused, and looked at a second time before it counts

    def land(self) -> None:
        """Forget what was under way."""
        self._payloads.clear()
        self._casts.clear()
        self.operations.clear()
        self.open.clear()

    def record(self, topic: str, key: bytes | None, value: bytes | None, headers: h.Pairs) -> None:
        """An unacknowledged record of `parsed`, `operations`, `network-news` or a retry tier (logical name)."""
        if topic not in (PARSED.name, OPERATIONS.name, NETWORK_NEWS.name):
            topic = (dict(headers).get(h.ORIGIN_TOPIC) or b"").decode("utf-8", "replace")
        payload = payload_of(topic, key, value)
        if payload is None:
            if topic == OPERATIONS.name:
                self.operations.append((key or b"").decode("utf-8", "replace"))
        elif payload.txid is not None:
            self._casts.add(payload.txid)
        elif payload.at is not None:
            self._payloads.setdefault(payload.at, set()).add(payload.context)

    def stands(self, key: bytes, value: bytes) -> None:
        """A record of `network-status`."""
        if len(key) == TXID:
            undecided = _status(value).settles_ms > 0
            (self._settling.add if undecided else self._settling.discard)(key)

    def waits(self, at: Coordinate, context: Context | None) -> str | None:
        """`decision` while the payload is under way. context: None is any."""
        if at[1] >= self.acknowledged.get((INGEST.name, at[0]), 0):
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
