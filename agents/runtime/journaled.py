"""The journal as readers ask for it: pages of a context's entries, and the payload that one of them brought."""

import logging
from collections.abc import Iterator
from contextlib import aclosing, contextmanager

import msgspec
from aiohttp import web

from agents.runtime.places import Places
from agents.runtime.records import Inbound
from pipeline import journal
from schemas.external import ExportedEntry
from schemas.journal import JOURNAL
from schemas.types import Context

log = logging.getLogger(__name__)

NEAR = 1_000
"""Offsets that are quicker read through than halved."""

THROUGH = 3_000
"""Offsets that are read through behind the time at which something came, before it is looked for in another way."""

SKEW_MS = 100
"""By so much a worker's clock may be behind the broker's: less than that is kept by any of the usual daemons."""

_encode = msgspec.json.Encoder().encode


class Refused(Exception):  # noqa: N818 - an answer
    """A read that gets no answer, and why."""

    def __init__(self, status: int, error: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.error = error
        self.message = message

    def body(self) -> bytes:
        """JSON."""
        return _encode({"error": self.error, "message": self.message})

    def reply(self) -> web.Response:
        """As it is sent."""
        return web.Response(status=self.status, body=self.body(), content_type="application/json")


def behind(message: str) -> Refused:
    """A read whose answer is not there yet."""
    return Refused(503, "behind", message)


async def journal_page(
    places: Places, number: int, context: Context, first: int, limit: int
) -> tuple[ExportedEntry, ...]:
    """At most `limit` entries of a context from a sequence on, which stand in one partition of `journal`.

    Cost: O(log n) looks for where they begin, and all records behind it until there are enough.

    Raises:
        Refused: one of the context's records is no entry.
        aiokafka.errors.KafkaError: the broker does not answer.
    """
    key = context.encode()
    end = await places.end(number)
    low = await journal_place(places, number, context, first, end)
    found: list[ExportedEntry] = []
    async with aclosing(places.scan(number, low, end)) as records:
        async for record in records:
            if record.key != key:
                continue
            with readable(_place(record)):
                value = record.value or b""
                if (entry := journal.read(value)).sequence >= first:
                    found.append(journal.exported(entry, value))
            if len(found) == limit:
                break
    return tuple(found)


async def journal_place(places: Places, number: int, context: Context, first: int, end: int) -> int:
    """An offset of `journal` before `end`, at most `NEAR` before the context's first entry from a sequence on.

    Cost: O(log n) looks. Raises as `journal_page`.
    """
    low = (await places.first())[places.partitions[number]]
    high = end
    while high - low > NEAR:
        middle = (low + high) // 2
        at, sequence = await _next(places, number, context.encode(), middle, high)
        if at is None or sequence >= first:
            high = middle
        else:
            low = at
    return low


async def _next(places: Places, number: int, key: bytes, start: int, end: int) -> tuple[int | None, int]:
    """Offset and sequence of a context's first entry from `start` on."""
    async with aclosing(places.scan(number, start, end)) as records:
        async for record in records:
            if record.key == key:
                with readable(_place(record)):
                    return record.offset, journal.read(record.value or b"").sequence
    return None, 0


def _place(record: Inbound) -> str:
    return f"{record.topic}/{record.partition}/{record.offset}"


@contextmanager
def readable(where: str) -> Iterator[None]:
    """What stands there and cannot be decoded is no error of this worker: who asked is told."""
    try:
        yield
    except msgspec.MsgspecError as error:
        log.error("%s cannot be read: %s", where, error)
        raise Refused(503, "broken", f"{where} cannot be read: {error}") from error


async def payload_of(
    places: Places, number: int, context: Context, sequence: int, since_ms: int, end: int
) -> bytes | None:
    """The payload that an entry of a context brought, and that stands in one partition of `journal` before `end`; None
    where the topic does not hold the entry.

    since_ms: the broker's time when the payload came. It is applied soon after, and found among what others did
    meanwhile. One that waited for its turn, or that a worker with a slow clock applied, is found by its sequence.
    Cost: one look, and the records of that time, at most `THROUGH`; else as `journal_page`.

    Raises:
        Refused: one of the context's records is no entry.
        aiokafka.errors.KafkaError: the broker does not answer.
    """
    start = await places.since(number, since_ms - SKEW_MS)
    found = None
    if start is not None:
        found = await _payload(places, number, context, sequence, start, min(end, start + THROUGH))
    if found is None:
        low = await journal_place(places, number, context, sequence, end)
        found = await _payload(places, number, context, sequence, low, end)
    return found


async def _payload(places: Places, number: int, context: Context, sequence: int, start: int, end: int) -> bytes | None:
    key = context.encode()
    async with aclosing(places.scan(number, start, end)) as records:
        async for record in records:
            if record.key != key:
                continue
            with readable(_place(record)):
                value = record.value or b""
                at = journal.read(value).sequence
                if at == sequence:
                    return JOURNAL.decode(value).beef
            if at > sequence:
                return None
    return None
