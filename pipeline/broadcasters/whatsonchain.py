"""The WhatsOnChain dialect: POST {url}/tx/raw, GET {url}/tx/hash/{txid}; the URL ends with /v1/bsv/{network}.

Source: WhatsOnChain's API pages, "Broadcast Transaction" and "Get by Transaction Hash".

It hands one raw transaction to a node and passes on what the node says, as text: the txid, or its reason. Extended
Format is refused there, so what the inputs spend is left out; the txid is the same. It publishes no policy.
"""

import json
import re
from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Struct

from pipeline.broadcasters import Batch, Means, Policy, Reply
from pipeline.broadcasters.words import NO_JSON, reason, too_large, unknown, whole
from pipeline.codec.ef import read_ef
from pipeline.http import HttpRequest, Unreadable
from schemas.types import Txid, display

BEHIND = re.compile(r"unexpected response code \d+:?\s*", re.IGNORECASE)
"""Put before what its node said. With nothing known behind it, the node was not reached."""

REJECT = re.compile(r"\d{1,3}: ?\S")
"""How a node's refusal begins: its reject code."""

UNDECODED = re.compile(r"tx decode failed|invalid hex", re.IGNORECASE)


class _Found(Struct):
    txid: str
    confirmations: int = 0


class WhatsOnChain:
    """WhatsOnChain."""

    authorization = "{key}"
    most = 1
    waits = False
    calls_back: Mapping[str, Means] | None = None

    def submit(self, transactions: Sequence[bytes], wait_for: str = "", max_wait_s: int = 5) -> HttpRequest:
        """POST /tx/raw, in JSON as hex.

        Raises:
            Malformed: it is no transaction in Extended Format.
        """
        (ef,) = transactions
        tx, _ = read_ef(ef)
        body = json.dumps({"txhex": tx.raw.hex()}).encode()
        return HttpRequest("POST", "/tx/raw", (("Content-Type", "application/json"),), body)

    def read(self, txids: Sequence[Txid], status: int, body: bytes) -> Batch:
        """The txid, in quotes or not, or the node's reason."""
        if (said := whole(txids, status)) is not None and status < 500:
            return said
        if len(txids) != 1:
            return Batch({}, tuple(txids))
        return Batch({txids[0]: _alone(txids[0], status, body.decode("utf-8", "replace").strip().strip('"').strip())})

    def look_up(self, txid: Txid) -> HttpRequest:
        """GET /tx/hash/{txid}."""
        return HttpRequest("GET", f"/tx/hash/{display(txid)}")

    def read_status(self, txid: Txid, status: int, body: bytes) -> Reply:
        """With confirmations it is in a block, without them in a node's pool. It brings no Merkle path."""
        if status == 404:
            return unknown(txid)
        if (said := whole((txid,), status)) is not None:
            return said.replies[txid]
        try:
            found = msgspec.json.decode(body, type=_Found)
        except NO_JSON as error:
            return Reply(txid, "transport", message=f"HTTP {status}, not the JSON expected: {error}")
        if status != 200 or found.txid.lower() != display(txid):
            return Reply(txid, "transport", message=f"HTTP {status}, about another transaction")
        return Reply(txid, "accepted", status="MINED" if found.confirmations > 0 else "SEEN_ON_NETWORK", network=True)

    def probe(self) -> HttpRequest:
        """GET /woc, its health."""
        return HttpRequest("GET", "/woc")

    def read_probe(self, status: int, body: bytes) -> str:
        """Any text under HTTP 200 that is no page."""
        return "" if status == 200 and not body.lstrip().startswith(b"<") else f"HTTP {status}"

    def ask_policy(self) -> None:
        """It publishes none."""

    def read_policy(self, status: int, body: bytes) -> Policy | Unreadable:
        """Of a question that cannot be asked."""
        return Unreadable("WhatsOnChain tells no policy")


def _alone(txid: Txid, status: int, text: str) -> Reply:
    if status == 413:
        return too_large(txid)
    if 200 <= status < 300:
        if text.lower() == display(txid):
            return Reply(txid, "accepted", status=str(status), network=True)  # its node's pool has it
        return Reply(txid, "transport", message=f"HTTP {status}, and not the txid")
    if status < 400 or text.startswith("<"):
        return Reply(txid, "transport", message=f"HTTP {status}, and no reason")
    said = BEHIND.sub("", text, count=1).strip()
    if (means := reason(said)) is not None:
        return Reply(txid, means.kind, means.code, said, str(status), network=means.network)
    if UNDECODED.search(said):
        return Reply(txid, "refused", "network.malformed", said, str(status))
    if REJECT.match(said):
        return Reply(txid, "refused", "network.rejected", said, str(status), network=True)
    if status >= 500 or said != text or not said:
        return Reply(txid, "transport", message=f"HTTP {status}: {said}")
    # A reason we do not know: a refusal, but nobody says that it is the network's.
    return Reply(txid, "refused", "network.rejected", said, str(status))
