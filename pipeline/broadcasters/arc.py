"""The ARC dialect (TAAL, GorillaPool): POST /v1/txs, GET /v1/tx/{txid}, GET /v1/policy.

Sources: ARC `pkg/api/status.go`, `pkg/api/handler/default.go` and `parsers.go`, `internal/metamorph` statuses; the
reject reasons are those of the BSV node.

HTTP 200 is not acceptance: the status in the body decides. /v1/txs is 200 with successes first and failures after
them, whatever the order of the request, so replies are matched by txid and by nothing else.
"""

import re
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from pipeline import outcome
from pipeline.broadcasters import Batch, Kind, Policy, Reply
from pipeline.http import HttpRequest, Unreadable
from schemas.types import Txid, display, from_display

BINARY = "application/octet-stream"
"""Bytes, end to end, rather than JSON with hex: half as many (100 P2PKH payments: 23 kB for 48),
nothing to encode, and the form that ARC's successors take as well. ARC joins the hex of JSON to these very bytes before
it reads them, so an unreadable member spoils a batch in either form. The media type must stand alone: ARC compares the
whole header."""


class Means(Struct, frozen=True):
    """What a status or a reason comes to."""

    kind: Kind
    code: str = ""
    network: bool = False


_TAKEN = Means("accepted")
_SEEN = Means("accepted", network=True)
_ORPHAN = Means("condition", "network.orphan")

STATUSES: dict[str, Means] = {
    "UNKNOWN": Means("pending", "network.undecided"),  # not known: send it again
    "QUEUED": Means("pending", "network.undecided"),  # not looked at
    # From RECEIVED on the endpoint has validated the transaction, keeps it and sends it again by itself.
    "RECEIVED": _TAKEN,
    "STORED": _TAKEN,
    "ANNOUNCED_TO_NETWORK": _TAKEN,
    "REQUESTED_BY_NETWORK": _TAKEN,
    "SENT_TO_NETWORK": _TAKEN,
    "ACCEPTED_BY_NETWORK": _SEEN,
    "SEEN_IN_ORPHAN_MEMPOOL": _ORPHAN,
    "SEEN_ON_NETWORK": _SEEN,
    "SEEN_MULTIPLE_NODES": _SEEN,
    # Not the end in ARC: it may be mined yet, and asking again brings its current status.
    "DOUBLE_SPEND_ATTEMPTED": Means("condition", "network.contested"),
    "REJECTED": Means("refused", "network.rejected", network=True),  # REASONS may say otherwise
    "MINED_IN_STALE_BLOCK": _SEEN,  # its block was replaced: back in the pool, and still the endpoint's
    "MINED": _SEEN,
    # Names of ARC's successor and of older versions.
    "CONFIRMED": _SEEN,
    "STUMP_PROCESSING": _SEEN,
    "IMMUTABLE": _SEEN,
    "PENDING_RETRY": _ORPHAN,
    "INVALID": Means("refused", "network.rejected"),
    "MALFORMED": Means("refused", "network.malformed"),
}
"""Every `txStatus`. One that is not here is pending."""

MINED = frozenset({"MINED", "CONFIRMED", "IMMUTABLE"})
"""Statuses that a Merkle path may come with."""

REASONS: tuple[tuple[re.Pattern[str], Means], ...] = tuple(
    (re.compile(pattern), means)
    for pattern, means in (
        (r"already.(known|in.(the.)?mempool|mined)", _SEEN),  # the node has it: no refusal
        (r"\bparent|orphan|missing.?inputs|missingorspent", _ORPHAN),
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
"""Codes of a whole call that speak of our key, account or address. (On /v1/txs 404 is a wrong address.)"""

TRANSPORT = frozenset({408, 425, 429}) | frozenset(range(501, 600))
"""Codes of a whole call that speak of the endpoint's state. 500 is not one for a batch: one member may be its cause."""


class _Entry(Struct):
    """A success or an error, in an array or alone."""

    txid: str | None = None
    tx_status: str | None = msgspec.field(name="txStatus", default=None)
    status: int | str | None = None
    title: str | None = None
    detail: str | None = None
    extra_info: str | None = msgspec.field(name="extraInfo", default=None)
    competing: list[str] | None = msgspec.field(name="competingTxs", default=None)
    path: str | None = msgspec.field(name="merklePath", default=None)


class _Posted(_Entry):
    """A callback: one status, or several where `X-CallbackBatch` asked for that."""

    callbacks: list[_Entry] | None = None


class _Fee(Struct):
    satoshis: int
    bytes: int


class _Limits(Struct):
    maxscriptsizepolicy: int
    maxtxsizepolicy: int
    fee: _Fee = msgspec.field(name="miningFee")


class _PolicyBody(Struct):
    policy: _Limits


class Arc:
    """ARC."""

    authorization = "Bearer {key}"

    def submit(self, transactions: Sequence[bytes], wait_for: str = "", max_wait_s: int = 5) -> HttpRequest:
        """POST /v1/txs, also for one: its reply names txids in any case."""
        headers = [("Content-Type", BINARY)]
        if wait_for:
            headers += [("X-WaitFor", wait_for), ("X-MaxTimeout", str(max_wait_s))]
        return HttpRequest("POST", "/v1/txs", tuple(headers), b"".join(transactions))

    def read(self, txids: Sequence[Txid], status: int, body: bytes) -> Batch:
        """By txid; what is about other transactions is about nothing."""
        if status in OURS:
            return _all(txids, "config", f"HTTP {status}: key, account or address")
        if status in TRANSPORT:
            return _all(txids, "transport", f"HTTP {status}")
        entries = _entries(body)
        if isinstance(entries, Unreadable) and 200 <= status < 300:
            return _all(txids, "transport", f"HTTP {status}, {entries.why}")
        replies = {} if isinstance(entries, Unreadable) else _matched(txids, entries)
        rest = tuple(txid for txid in txids if txid not in replies)
        if len(txids) > 1 or not rest:
            return Batch(replies, rest)
        return Batch({rest[0]: _alone(rest[0], status, entries)})

    def look_up(self, txid: Txid) -> HttpRequest:
        """GET /v1/tx/{txid}."""
        return HttpRequest("GET", f"/v1/tx/{display(txid)}")

    def read_status(self, txid: Txid, status: int, body: bytes) -> Reply:
        """404 says that the endpoint does not know it; then it is as if it had never been sent."""
        if status == 404:
            return Reply(txid, "pending", "network.undecided", "the endpoint does not know it", "UNKNOWN")
        return self.read((txid,), status, body).replies[txid]

    def ask_policy(self) -> HttpRequest:
        """GET /v1/policy."""
        return HttpRequest("GET", "/v1/policy")

    def read_policy(self, status: int, body: bytes) -> Policy | Unreadable:
        """The limits we know how to keep."""
        if status != 200:
            return Unreadable(f"HTTP {status}")
        try:
            found = msgspec.json.decode(body, type=_PolicyBody).policy
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            return Unreadable(f"not a policy: {error}")
        return Policy(found.maxtxsizepolicy, found.maxscriptsizepolicy, found.fee.satoshis, found.fee.bytes)


DIALECTS = {"arc": Arc()}
"""Dialects by the name they have in the setting `broadcast.endpoints`."""


def _all(txids: Sequence[Txid], kind: Kind, message: str) -> Batch:
    return Batch({txid: Reply(txid, kind, message=message) for txid in txids})


def _entries(body: bytes) -> list[_Entry] | Unreadable:
    try:
        found = msgspec.json.decode(body, type=list[_Entry] | _Entry)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return Unreadable(f"not the JSON expected: {error}")
    return found if isinstance(found, list) else [found]


def _matched(txids: Sequence[Txid], entries: Sequence[_Entry]) -> dict[Txid, Reply]:
    wanted = {display(txid): txid for txid in txids}
    replies: dict[Txid, Reply] = {}
    for entry in entries:
        txid = wanted.get((entry.txid or "").lower())
        if txid is not None and txid not in replies:
            replies[txid] = _reply(txid, entry)
    return replies


def _reply(txid: Txid, entry: _Entry) -> Reply:
    number = entry.status if isinstance(entry.status, int) else 0
    title = entry.title if number >= 400 else ""  # a success is entitled "OK", whatever its status says
    message = entry.extra_info or entry.detail or title or ""
    named = (entry.tx_status or "").upper()
    means = _number(number) if number >= 400 else _named(named, message)
    status = str(number) if number >= 400 else named
    path = _path(entry.path) if entry.path and named in MINED else b""
    return Reply(txid, means.kind, means.code, message, status, _hashes(entry.competing or ()), means.network, path)


def _number(number: int) -> Means:
    """An ARC error number: whether it is final follows from the code it stands for (pipeline/outcome.py)."""
    code = outcome.from_arc(number)
    return Means("refused" if outcome.BY_CODE[code].kind == "verdict" else "condition", code)


def _named(status: str, message: str) -> Means:
    means = STATUSES.get(status)
    if means is None:
        # Names come and go between versions; all that speak of an orphan say so.
        return _ORPHAN if "ORPHAN" in status else Means("pending", "network.undecided")
    if status == "REJECTED":
        return next((means for pattern, means in REASONS if pattern.search(message.lower())), means)
    # Older versions reported an orphan under the status of a transaction on its way.
    return _ORPHAN if means is _TAKEN and "orphan" in message.lower() else means


def _alone(txid: Txid, status: int, entries: Sequence[_Entry] | Unreadable) -> Reply:
    """The reply to a call of one transaction that does not name it."""
    if status == 413:
        return Reply(txid, "refused", "network.too-large", "HTTP 413", "413")
    if isinstance(entries, Unreadable) or len(entries) != 1 or status < 400 or status == 500:
        return Reply(txid, "transport", message=f"HTTP {status}, about none of our transactions")
    entry = entries[0]
    # An ARC error repeats its number; another page of the same status is not ARC's word.
    if entry.txid or entry.status != status:
        return Reply(txid, "transport", message=f"HTTP {status}, and no error of ARC's")
    return _reply(txid, entry)


def _path(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b""  # no path is claimed then


def read_callbacks(body: bytes) -> list[Reply] | Unreadable:
    """What an endpoint posts to a callback URL by itself: one status, or several together (domain of ARC and Arcade).

    Txids that are none are left out: whatever they are about, it is nothing of ours.
    """
    try:
        found = msgspec.json.decode(body, type=_Posted)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return Unreadable(f"not the JSON expected: {error}")
    replies = []
    for entry in [found] if found.callbacks is None else found.callbacks:
        try:
            txid = from_display((entry.txid or "").lower())
        except ValueError:
            continue
        replies.append(_reply(txid, entry))
    return replies


def _hashes(found: Sequence[str]) -> tuple[Txid, ...]:
    hashes = []
    for text in found:
        try:
            hashes.append(from_display(text))
        except ValueError:
            continue  # told for people; a rival we cannot name is no rival we could look up
    return tuple(hashes)
