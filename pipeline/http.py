"""HTTP as values: what a dialect wants sent, and what came back. `agents/runtime/http.py` does the sending."""

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct


class HttpRequest(Struct, frozen=True):
    """A request to a service whose address and key the transport knows."""

    method: Literal["GET", "POST"]
    path: str  # begins with "/" and is appended to the service's base URL; a query is part of it
    headers: tuple[tuple[str, str], ...] = ()  # never a key: those are the transport's
    body: bytes = b""


class HttpReply(Struct, frozen=True):
    """What a service answered, whatever the status."""

    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes


class Unreadable(Struct, frozen=True):
    """A reply that does not say what was asked: another status, no JSON, or JSON of another shape.

    It is no answer: neither a yes nor a no may be made of it.
    """

    why: str
