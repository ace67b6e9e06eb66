"""The ARC dialect (TAAL, GorillaPool): POST /v1/txs, GET /v1/tx/{txid}, GET /v1/policy.

Sources: ARC `pkg/api/status.go`, `pkg/api/handler/default.go` and `parsers.go`, `internal/metamorph` statuses.

HTTP 200 is not acceptance: the status in the body decides. /v1/txs is 200 with successes first and failures after
them, whatever the order of the request, so replies are matched by txid and by nothing else.
"""

import sys
from collections.abc import Mapping, Sequence

from pipeline.broadcasters import Batch, Means, Policy, Reply
from pipeline.broadcasters.words import (
    BINARY,
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
    reply,
    too_large,
    unknown,
    whole,
)
from pipeline.http import HttpRequest, Unreadable
from schemas.types import Txid, display

STATUSES: dict[str, Means] = {
    "UNKNOWN": UNDECIDED,  # not known: send it again
    "QUEUED": UNDECIDED,  # not looked at
    # From RECEIVED on the endpoint has validated the transaction, keeps it and sends it again by itself.
    "RECEIVED": TAKEN,
    "STORED": TAKEN,
    "ANNOUNCED_TO_NETWORK": TAKEN,
    "REQUESTED_BY_NETWORK": TAKEN,
    "SENT_TO_NETWORK": TAKEN,
    "ACCEPTED_BY_NETWORK": SEEN,
    "SEEN_IN_ORPHAN_MEMPOOL": ORPHAN,
    "SEEN_ON_NETWORK": SEEN,
    "SEEN_MULTIPLE_NODES": SEEN,
    # Not the end in ARC: it may be mined yet, and asking again brings its current status.
    "DOUBLE_SPEND_ATTEMPTED": Means("condition", "network.contested"),
    "REJECTED": REJECTED,  # REASONS may say otherwise
    "MINED_IN_STALE_BLOCK": SEEN,  # its block was replaced: back in the pool, and still the endpoint's
    "MINED": SEEN,
    # Names of ARC's successor and of older versions.
    "CONFIRMED": SEEN,
    "STUMP_PROCESSING": SEEN,
    "IMMUTABLE": SEEN,
    "PENDING_RETRY": ORPHAN,
    "INVALID": Means("refused", "network.rejected"),
    "MALFORMED": Means("refused", "network.malformed"),
}
"""Every `txStatus`. One that is not here is pending."""


class Arc:
    """ARC.

    Bytes, end to end, rather than JSON with hex: half as many (100 P2PKH payments: 23 kB for 48), nothing to encode,
    and the form that ARC's successors take as well. ARC joins the hex of JSON to these very bytes before it reads
    them, so an unreadable member spoils a batch in either form.
    """

    authorization = "Bearer {key}"
    most = sys.maxsize
    waits = True
    calls_back: Mapping[str, Means] | None = STATUSES

    def submit(self, transactions: Sequence[bytes], wait_for: str = "", max_wait_s: int = 5) -> HttpRequest:
        """POST /v1/txs, also for one: its reply names txids in any case."""
        headers = [("Content-Type", BINARY)]
        if wait_for:
            headers += [("X-WaitFor", wait_for), ("X-MaxTimeout", str(max_wait_s))]
        return HttpRequest("POST", "/v1/txs", tuple(headers), b"".join(transactions))

    def read(self, txids: Sequence[Txid], status: int, body: bytes) -> Batch:
        """By txid; what is about other transactions is about nothing."""
        if (said := whole(txids, status)) is not None:
            return said
        found = entries(body)
        if isinstance(found, Unreadable) and 200 <= status < 300:
            return all_of(txids, "transport", f"HTTP {status}, {found.why}")
        replies = {} if isinstance(found, Unreadable) else matched(txids, found, STATUSES)
        rest = tuple(txid for txid in txids if txid not in replies)
        if len(txids) > 1 or not rest:
            return Batch(replies, rest)
        return Batch({rest[0]: _alone(rest[0], status, found)})

    def look_up(self, txid: Txid) -> HttpRequest:
        """GET /v1/tx/{txid}."""
        return HttpRequest("GET", f"/v1/tx/{display(txid)}")

    def read_status(self, txid: Txid, status: int, body: bytes) -> Reply:
        """404 says that the endpoint does not know it."""
        return unknown(txid) if status == 404 else self.read((txid,), status, body).replies[txid]

    def probe(self) -> HttpRequest:
        """The policy: `/v1/health` asks for no key, and answers while the node behind it is away."""
        return HttpRequest("GET", "/v1/policy")

    def read_probe(self, status: int, body: bytes) -> str:
        """Up is who has a policy."""
        found = read_policy(status, body)
        return found.why if isinstance(found, Unreadable) else ""

    def ask_policy(self) -> HttpRequest:
        """GET /v1/policy."""
        return HttpRequest("GET", "/v1/policy")

    def read_policy(self, status: int, body: bytes) -> Policy | Unreadable:
        """The limits we know how to keep."""
        return read_policy(status, body)


def _alone(txid: Txid, status: int, found: Sequence[Entry] | Unreadable) -> Reply:
    """The reply to a call of one transaction that does not name it."""
    if status == 413:
        return too_large(txid)
    if isinstance(found, Unreadable) or len(found) != 1 or status < 400 or status == 500:
        return Reply(txid, "transport", message=f"HTTP {status}, about none of our transactions")
    # An ARC error repeats its number; another page of the same status is not ARC's word.
    if found[0].txid or found[0].status != status:
        return Reply(txid, "transport", message=f"HTTP {status}, and no error of ARC's")
    return reply(txid, found[0], STATUSES)
