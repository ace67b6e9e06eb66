"""The Arcade dialect (ARC's successor for Teranode): POST /tx, POST /txs, GET /tx/{txid}, GET /policy.

Sources: Arcade `services/api_server/handlers.go` and `policy_routes.go`, `errors/errors.go`, `models/transaction.go`.

A batch that is taken is answered with numbers alone, so three things follow. One bad member refuses a batch as a whole
and nothing of it is submitted: it is narrowed. Members known before are counted and not named, and one of them may
have been rejected since: such a batch is narrowed too, until each is asked for alone, which brings its present status.
And a reply never names a transaction that was not sent, so numbers that are not those of the call say nothing.
"""

import sys
from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Struct, structs

from pipeline.broadcasters import Batch, Means, Policy, Reply
from pipeline.broadcasters.words import (
    BINARY,
    NO_JSON,
    ORPHAN,
    REJECTED,
    SEEN,
    TAKEN,
    UNDECIDED,
    Entry,
    all_of,
    entries,
    matched,
    read_policy,
    reason,
    reply,
    too_large,
    unknown,
    whole,
)
from pipeline.http import HttpRequest, Unreadable
from schemas.types import Txid, display

STATUSES: dict[str, Means] = {
    "UNKNOWN": UNDECIDED,
    "RECEIVED": TAKEN,  # validated, kept, and sent again by itself from here on
    "PENDING_RETRY": ORPHAN,  # every node misses a parent; it is kept, and tried again
    "SENT_TO_NETWORK": TAKEN,
    "ACCEPTED_BY_NETWORK": SEEN,
    "SEEN_ON_NETWORK": SEEN,
    "SEEN_MULTIPLE_NODES": SEEN,
    "DOUBLE_SPEND_ATTEMPTED": Means("refused", "network.double-spend", network=True),  # the end here, not so in ARC
    "REJECTED": REJECTED,  # REASONS may say otherwise
    "STUMP_PROCESSING": SEEN,  # mined; its path is being put together
    "MINED": SEEN,
    "IMMUTABLE": SEEN,
}
"""Every `txStatus`. One that is not here is pending."""

OUR_HEADERS = "callback"
"""In the error of a submission that was refused for where it asks to be called back."""


class _Counts(Struct):
    submitted: int
    duplicates: int
    total: int


class Arcade:
    """Arcade."""

    authorization = "Bearer {key}"
    most = sys.maxsize  # 256 MiB; `broadcast.call_bytes` ends a call long before
    waits = False
    calls_back: Mapping[str, Means] | None = STATUSES

    def submit(self, transactions: Sequence[bytes], wait_for: str = "", max_wait_s: int = 5) -> HttpRequest:
        """POST /tx for one, whose reply names it; POST /txs for several."""
        path = "/tx" if len(transactions) == 1 else "/txs"
        return HttpRequest("POST", path, (("Content-Type", BINARY),), b"".join(transactions))

    def read(self, txids: Sequence[Txid], status: int, body: bytes) -> Batch:
        """A batch by its numbers, one alone by its status or error."""
        if (said := whole(txids, status)) is not None:
            return said
        if len(txids) == 1:
            return Batch({txids[0]: _alone(txids[0], status, body)})
        if 200 <= status < 300:
            return _counted(txids, status, body)
        found = entries(body)
        errors = [] if isinstance(found, Unreadable) else [_numbered(entry, status) for entry in found]
        if any(_is_about_us(error) for error in errors):
            return all_of(txids, "config", f"HTTP {status}: {errors[0].error}")
        replies = matched(txids, errors, STATUSES)
        return Batch(replies, tuple(txid for txid in txids if txid not in replies))

    def look_up(self, txid: Txid) -> HttpRequest:
        """GET /tx/{txid}."""
        return HttpRequest("GET", f"/tx/{display(txid)}")

    def read_status(self, txid: Txid, status: int, body: bytes) -> Reply:
        """404 says that the endpoint does not know it."""
        return unknown(txid) if status == 404 else self.read((txid,), status, body).replies[txid]

    def probe(self) -> HttpRequest:
        """The policy, as of ARC."""
        return HttpRequest("GET", "/policy")

    def read_probe(self, status: int, body: bytes) -> str:
        """Up is who has a policy."""
        found = read_policy(status, body)
        return found.why if isinstance(found, Unreadable) else ""

    def ask_policy(self) -> HttpRequest:
        """GET /policy, of which `/v1/policy` is another name."""
        return HttpRequest("GET", "/policy")

    def read_policy(self, status: int, body: bytes) -> Policy | Unreadable:
        """ARC's document."""
        return read_policy(status, body)


def _counted(txids: Sequence[Txid], status: int, body: bytes) -> Batch:
    try:
        found = msgspec.json.decode(body, type=_Counts)
    except NO_JSON as error:
        return all_of(txids, "transport", f"HTTP {status}, not the numbers of a batch: {error}")
    if found == _Counts(len(txids), 0, len(txids)):
        return Batch({txid: Reply(txid, "accepted", status="RECEIVED") for txid in txids})
    return Batch({}, tuple(txids))


def _alone(txid: Txid, status: int, body: bytes) -> Reply:
    if status == 413:
        return too_large(txid)
    found = entries(body)
    if isinstance(found, Unreadable) or len(found) != 1:
        return Reply(txid, "transport", message=f"HTTP {status}, and no status or error of Arcade's")
    entry = _numbered(found[0], status)
    about = (entry.txid or "").lower()
    if status < 300:
        if about == display(txid) and entry.tx_status:
            return reply(txid, entry, STATUSES)
    elif _is_about_us(entry):
        return Reply(txid, "config", message=f"HTTP {status}: {entry.error}")
    elif status < 500 and entry.error and about in ("", display(txid)):
        return _refusal(txid, entry)
    return Reply(txid, "transport", message=f"HTTP {status}, about none of our transactions")


def _numbered(entry: Entry, status: int) -> Entry:
    """With the number it is about: the body's own, else HTTP's. Of what went well the status is a name."""
    if status < 400:
        return structs.replace(entry, status=None)
    given = entry.status if isinstance(entry.status, int) and entry.status >= 400 else status
    return structs.replace(entry, status=given)


def _is_about_us(error: Entry) -> bool:
    return OUR_HEADERS in (error.error or "").lower()


def _refusal(txid: Txid, entry: Entry) -> Reply:
    """An error that has no number of its own (400) is read by its reason, where that is one we know."""
    said = reply(txid, entry, STATUSES)
    if entry.status != 400 or (means := reason(said.message)) is None or means.kind == "accepted":
        return said
    # Arcade's own check spoke, in a node's words: it is not the network's.
    return structs.replace(said, kind=means.kind, code=means.code, network=False)
