"""What several services say in the same words: ARC's JSON, its numbers, the BSV node's reasons, HTTP's own codes.

Sources: ARC `pkg/api/status.go` and `pkg/api/handler/parsers.go`; Arcade `errors/errors.go` and `models/`; the reject
reasons are those of the BSV node.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated

import msgspec
from msgspec import Struct

from pipeline import outcome
from pipeline.broadcasters import Batch, Kind, Means, Policy, Reply
from pipeline.http import Unreadable
from schemas.types import Txid, display, from_display

BINARY = "application/octet-stream"
"""The media type of transactions one after the other. It must stand alone: ARC compares the whole header."""

TAKEN = Means("accepted")
SEEN = Means("accepted", network=True)
ORPHAN = Means("condition", "network.orphan")
UNDECIDED = Means("pending", "network.undecided")
REJECTED = Means("refused", "network.rejected", network=True)

MINED = frozenset({"MINED", "CONFIRMED", "IMMUTABLE"})
"""Statuses that a Merkle path may come with."""

REASONS: tuple[tuple[re.Pattern[str], Means], ...] = tuple(
    (re.compile(pattern), means)
    for pattern, means in (
        (r"already.(known|in.(the.)?mempool|mined)", SEEN),  # the node has it: no refusal
        (r"\bparent|orphan|missing.?inputs|missingorspent", ORPHAN),
        (r"non.?final|not.final", Means("condition", "network.not-final")),
        (r"mempool.full|too-long|try.again", Means("condition", "network.undecided")),
        (
            r"conflict|double.spen[dt]|already.spent|inputs.spent",
            Means("refused", "network.double-spend", network=True),
        ),
        (r"frozen", Means("refused", "network.frozen", network=True)),
        (r"\bfees?\b|insufficient.priority", Means("refused", "network.fee", network=True)),
        (r"script", Means("refused", "network.script", network=True)),
    )
)
"""Why a node rejected, by what stands in `extraInfo` (lower case); the first that matches. A missing or rejected parent
is about the parent: the child may be taken yet. `missingorspent` leaves open which it is, so it waits."""

OURS = frozenset({401, 402, 403, 404, 405, 407}) | frozenset(range(300, 400))
"""Codes of a submission that speak of our key, account or address: one that finds nothing has a wrong address."""

TRANSPORT = frozenset({408, 425, 429}) | frozenset(range(501, 600))
"""Codes of a whole call that speak of the endpoint's state. 500 is not one for a batch: one member may be its cause."""


class Entry(Struct):
    """A success or an error, in an array or alone."""

    txid: str | None = None
    tx_status: str | None = msgspec.field(name="txStatus", default=None)
    status: int | str | None = None
    title: str | None = None
    error: str | None = None
    reason: str | None = None
    detail: str | None = None
    extra_info: str | None = msgspec.field(name="extraInfo", default=None)
    competing: list[str] | None = msgspec.field(name="competingTxs", default=None)
    path: str | None = msgspec.field(name="merklePath", default=None)


class _Posted(Entry):
    """A callback: one status, or several where `X-CallbackBatch` asked for that."""

    callbacks: list[Entry] | None = None


Number = Annotated[int, msgspec.Meta(ge=0)]


class _Fee(Struct):
    satoshis: Number
    bytes: Annotated[int, msgspec.Meta(ge=1)]


class _Limits(Struct):
    maxscriptsizepolicy: Number
    maxtxsizepolicy: Number
    fee: _Fee = msgspec.field(name="miningFee")


class _PolicyBody(Struct):
    policy: _Limits


NO_JSON = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What a decoder raises for bytes that are none."""


def read_policy(status: int, body: bytes) -> Policy | Unreadable:
    """The limits we know how to keep, of ARC's policy document."""
    if status != 200:
        return Unreadable(f"HTTP {status}")
    try:
        found = msgspec.json.decode(body, type=_PolicyBody).policy
    except NO_JSON as error:
        return Unreadable(f"not a policy: {error}")
    return Policy(found.maxtxsizepolicy, found.maxscriptsizepolicy, found.fee.satoshis, found.fee.bytes)


def all_of(txids: Sequence[Txid], kind: Kind, message: str) -> Batch:
    """One word about each."""
    return Batch({txid: Reply(txid, kind, message=message) for txid in txids})


def whole(txids: Sequence[Txid], status: int) -> Batch | None:
    """What HTTP's own code says of a whole call; None where the body must be read."""
    if status in OURS:
        return all_of(txids, "config", f"HTTP {status}: key, account or address")
    if status in TRANSPORT:
        return all_of(txids, "transport", f"HTTP {status}")
    return None


def too_large(txid: Txid) -> Reply:
    """HTTP 413 about one transaction: whoever says so, it is too large for the way there."""
    return Reply(txid, "refused", "network.too-large", "HTTP 413", "413")


def unknown(txid: Txid) -> Reply:
    """HTTP 404 to a question: the endpoint does not know the transaction, so it is as if it had never been sent."""
    return Reply(txid, "pending", "network.undecided", "the endpoint does not know it", "UNKNOWN")


def entries(body: bytes) -> list[Entry] | Unreadable:
    """An array, or one alone."""
    try:
        found = msgspec.json.decode(body, type=list[Entry] | Entry)
    except NO_JSON as error:
        return Unreadable(f"not the JSON expected: {error}")
    return found if isinstance(found, list) else [found]


def matched(txids: Sequence[Txid], found: Sequence[Entry], statuses: Mapping[str, Means]) -> dict[Txid, Reply]:
    """By txid; what is about other transactions is about nothing. Of two about one transaction the first counts."""
    wanted = {display(txid): txid for txid in txids}
    replies: dict[Txid, Reply] = {}
    for entry in found:
        txid = wanted.get((entry.txid or "").lower())
        if txid is not None and txid not in replies:
            replies[txid] = reply(txid, entry, statuses)
    return replies


def reply(txid: Txid, entry: Entry, statuses: Mapping[str, Means]) -> Reply:
    """What a success or an error comes to."""
    error = entry.status if isinstance(entry.status, int) and entry.status >= 400 else 0
    title = entry.title if error else ""  # a success is entitled "OK", whatever its status says
    message = entry.extra_info or entry.reason or entry.detail or title or entry.error or ""
    named = (entry.tx_status or "").upper()
    means = number(error) if error else named_means(named, message, statuses)
    path = _path(entry.path) if entry.path and named in MINED else b""
    status = str(error) if error else named
    return Reply(txid, means.kind, means.code, message, status, _hashes(entry.competing or ()), means.network, path)


def number(error: int) -> Means:
    """An ARC error number: whether it is final follows from the code it stands for (pipeline/outcome.py)."""
    code = outcome.from_arc(error)
    return Means("refused" if outcome.BY_CODE[code].kind == "verdict" else "condition", code)


def reason(message: str) -> Means | None:
    """What a node's reason comes to; None for one we do not know."""
    return next((means for pattern, means in REASONS if pattern.search(message.lower())), None)


def named_means(status: str, message: str, statuses: Mapping[str, Means]) -> Means:
    """What a status comes to, with what is said beside it."""
    means = statuses.get(status)
    if means is None:
        # Names come and go between versions; all that speak of an orphan say so.
        return ORPHAN if "ORPHAN" in status else UNDECIDED
    if means is REJECTED:
        return reason(message) or means
    # Older versions reported an orphan under the status of a transaction on its way.
    return ORPHAN if means is TAKEN and "orphan" in message.lower() else means


def read_callbacks(body: bytes, statuses: Mapping[str, Means]) -> list[Reply] | Unreadable:
    """What an endpoint posts to a callback URL by itself: one status, or several together (domain of ARC and Arcade).

    Txids that are none are left out: whatever they are about, it is nothing of ours.
    """
    try:
        found = msgspec.json.decode(body, type=_Posted)
    except NO_JSON as error:
        return Unreadable(f"not the JSON expected: {error}")
    replies = []
    for entry in [found] if found.callbacks is None else found.callbacks:
        try:
            txid = from_display((entry.txid or "").lower())
        except ValueError:
            continue
        replies.append(reply(txid, entry, statuses))
    return replies


def _path(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b""  # no path is claimed then


def _hashes(found: Sequence[str]) -> tuple[Txid, ...]:
    hashes = []
    for text in found:
        try:
            hashes.append(from_display(text))
        except ValueError:
            continue  # told for people; a rival we cannot name is no rival we could look up
    return tuple(hashes)
