"""The dialect of a Teranode node's propagation service: POST /tx, POST /txs, GET /health; text in, text out.

Sources: Teranode `services/propagation/Server.go`, `errors/error.proto`; how Arcade reads it, `teranode/`.

`OK`, or an error that starts with a name and a number (behind "Failed to process transaction"), under HTTP 500 from
older builds and under 400, 403, 409 or 422 from newer ones: the text decides. A batch of which some fail answers with
a line for each that failed, which names it in square brackets. What is not named may have been taken, or lost with a
line that was: it is asked for again, and every acceptance is an `OK` of its own. A node that has a transaction says so.

It has no policy to read and cannot be asked where a transaction stands.
"""

import re
from collections.abc import Mapping, Sequence

from pipeline.broadcasters import Batch, Means, Policy, Reply
from pipeline.broadcasters.words import BINARY, ORPHAN, SEEN, all_of, reason, too_large
from pipeline.http import HttpRequest, Unreadable
from schemas.types import Txid, display

_BUSY = Means("condition", "network.undecided")
_LATER = Means("condition", "network.not-final")
_RIVAL = Means("refused", "network.double-spend", network=True)
_INPUTS = Means("refused", "network.inputs", network=True)
_FROZEN = Means("refused", "network.frozen", network=True)
_INVALID = Means("refused", "network.rejected", network=True)

ERRORS: dict[str, Means] = {
    "PROCESSING": _BUSY,
    "TX_NOT_FOUND": ORPHAN,
    "TX_INVALID": _INVALID,
    "TX_INVALID_DOUBLE_SPEND": _RIVAL,
    "TX_EXISTS": SEEN,  # the node has it: no refusal
    "TX_MISSING_PARENT": ORPHAN,
    "TX_LOCK_TIME": _LATER,
    "TX_CONFLICTING": _RIVAL,
    "TX_LOCKED": _BUSY,
    "TX_COINBASE_IMMATURE": _INPUTS,
    "TX_POLICY": Means("refused", "network.rejected"),  # this node's own; its text may say which
    "TX_CONSENSUS": _INVALID,
    "TX_CREATING": _BUSY,  # another call has it in hand
    "TX_ERROR": _INVALID,
    "UTXO_SPENT": _RIVAL,
    "UTXO_NON_FINAL": _LATER,
    "UTXO_FROZEN": Means("refused", "network.frozen"),  # a policy of this node
    "UTXO_NOT_FOUND": ORPHAN,  # of a parent it does not have
    "UTXO_MISMATCH": _INPUTS,
    "UTXO_INVALID_SIZE": _INPUTS,
    "UTXO_CONSENSUS_FROZEN": _FROZEN,
    "UTXO_ERROR": _INPUTS,
}
"""Errors about a transaction. All others are about the node: its store, its network, its load."""

NAMED = re.compile(r"\b([A-Z][A-Z0-9_]+) \(\d{1,4}\)")
MEMBER = re.compile(r"\[ProcessTransaction\]\[([0-9a-fA-F]{64})\]")
HEADER = re.compile(r"\s*Failed to process transactions?:?\s*")
UNREAD = "invalid request body"

OURS = frozenset({401, 402, 404, 405, 407}) | frozenset(range(300, 400))
"""Codes of a whole call that speak of our address or account; 403 only where its text does not speak of a coin."""

TRANSPORT = frozenset({408, 425, 429, 503})
"""Codes that speak of the node's state, whatever the text."""


class Teranode:
    """Teranode's propagation service."""

    authorization = "Bearer {key}"  # of a gateway in front of it; the service itself asks for none
    most = 1024
    waits = False
    calls_back: Mapping[str, Means] | None = None

    def submit(self, transactions: Sequence[bytes], wait_for: str = "", max_wait_s: int = 5) -> HttpRequest:
        """POST /tx for one, POST /txs for several."""
        path = "/tx" if len(transactions) == 1 else "/txs"
        return HttpRequest("POST", path, (("Content-Type", BINARY),), b"".join(transactions))

    def read(self, txids: Sequence[Txid], status: int, body: bytes) -> Batch:
        """`OK` of all, or what is said line by line."""
        text = body.decode("utf-8", "replace")
        if status in OURS or (status == 403 and _errors(text) == []):
            return all_of(txids, "config", f"HTTP {status}: key, account or address")
        if status in TRANSPORT:
            return all_of(txids, "transport", f"HTTP {status}")
        if 200 <= status < 300:
            if text.strip() == "OK":
                return Batch({txid: Reply(txid, "accepted", status="OK") for txid in txids})
            return all_of(txids, "transport", f"HTTP {status}, and no OK")
        if len(txids) == 1:
            return Batch({txids[0]: _alone(txids[0], status, text)})
        if status >= 500 and HEADER.match(text) is None:
            # Of a proxy, or of a handler that broke: over one of these, perhaps.
            return Batch({}, tuple(txids))
        replies = _lines(txids, text)
        return Batch(replies, tuple(txid for txid in txids if txid not in replies))

    def look_up(self, txid: Txid) -> None:
        """It does not say."""

    def read_status(self, txid: Txid, status: int, body: bytes) -> Reply:
        """Of a question that cannot be asked."""
        return Reply(txid, "transport", message="a propagation service tells no status")

    def probe(self) -> HttpRequest:
        """GET /health."""
        return HttpRequest("GET", "/health")

    def read_probe(self, status: int, body: bytes) -> str:
        """`OK`."""
        return "" if status == 200 and body.strip() == b"OK" else f"HTTP {status}, and no OK"

    def ask_policy(self) -> None:
        """It publishes none."""

    def read_policy(self, status: int, body: bytes) -> Policy | Unreadable:
        """Of a question that cannot be asked."""
        return Unreadable("a propagation service tells no policy")


def _errors(text: str) -> list[str]:
    """Names of errors about a transaction, outermost first. An error that wraps another holds its name too."""
    return [name for name in NAMED.findall(text) if name in ERRORS]


def _alone(txid: Txid, status: int, text: str) -> Reply:
    if status == 413:
        return too_large(txid)
    if said := _said(txid, text):
        return said
    if status == 400 and UNREAD in text.lower():
        return Reply(txid, "refused", "network.malformed", text.strip(), "400")
    return Reply(txid, "transport", message=f"HTTP {status}, and no error about a transaction")


def _lines(txids: Sequence[Txid], text: str) -> dict[Txid, Reply]:
    """By the txid in brackets. Hashes elsewhere in a line are of outputs and of rivals."""
    wanted = {display(txid): txid for txid in txids}
    replies: dict[Txid, Reply] = {}
    for line in text.splitlines():
        member = MEMBER.search(line)
        txid = wanted.get(member[1].lower()) if member else None
        if txid is not None and txid not in replies and (said := _said(txid, line)):
            replies[txid] = said
    return replies


def _said(txid: Txid, text: str) -> Reply | None:
    """What an error comes to; None for one that is not about a transaction.

    The outermost name may only say that something failed (PROCESSING, TX_INVALID), the cause being wrapped in it: what
    may pass outranks what is final, since a child is also invalid while its parent is missing; and what says why
    outranks what does not.
    """
    names = _errors(text)
    if not names:
        return None
    why = [name for name in names if name != "PROCESSING"] or names
    ranked = sorted(why, key=lambda name: (ERRORS[name].kind != "accepted", _final(name), ERRORS[name] == _INVALID))
    means = ERRORS[ranked[0]]
    message = HEADER.sub("", text, count=1).strip()
    if ranked[0] == "TX_POLICY" and (known := reason(message)) is not None and known.kind == "refused":
        means = Means("refused", known.code)
    return Reply(txid, means.kind, means.code, message, ranked[0], network=means.network)


def _final(name: str) -> bool:
    return ERRORS[name].kind == "refused"
