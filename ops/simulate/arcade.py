"""A simulated Arcade: paths at the root, 202, numbers for a batch, and a whole batch refused for one bad member.

As the real one it validates what is sent before it answers, and finds out afterwards what else spends the same coins:
a rival is a status (DOUBLE_SPEND_ATTEMPTED) and not an error, and so is a missing parent (PENDING_RETRY). It differs in
this: it finds that out at once, so the answer about one transaction tells; that about a batch never does.
"""

from typing import Any

from aiohttp import web

from ops.simulate.callbacks import Caller
from ops.simulate.endpoint import Answered, Options, Words
from ops.simulate.endpoint_http import (
    BINARY,
    BadRequestError,
    EndpointService,
    Single,
    now,
    policy_body,
    read_json,
    read_tx,
    read_txs,
    unhex,
)
from ops.simulate.network import Network
from ops.simulate.rules import TITLES, Refusal
from ops.simulate.service import reply
from ops.simulate.tx import Tx, hash256
from schemas.types import Txid, display, from_display

STATUSES: dict[str, int] = {
    "UNKNOWN": 0,
    "RECEIVED": 20,
    "PENDING_RETRY": 25,
    "SENT_TO_NETWORK": 60,
    "ACCEPTED_BY_NETWORK": 70,
    "SEEN_ON_NETWORK": 90,
    "SEEN_MULTIPLE_NODES": 95,
    "DOUBLE_SPEND_ATTEMPTED": 100,
    "REJECTED": 110,
    "STUMP_PROCESSING": 115,
    "MINED": 120,
    "IMMUTABLE": 130,
}
"""Arcade's statuses, by how far a transaction has come."""

WORDS = Words(STATUSES, stored="RECEIVED", orphan="PENDING_RETRY")

MODES = ("reject", "orphan", "wrong-txid", "partial")
"""A batch's answer names nobody; `partial` and `wrong-txid` make its numbers others than the call's."""

PER_BATCH = 256 << 20
PER_TX = 32 << 20


class ArcadeService(EndpointService):
    """An Arcade endpoint as a process."""

    def __init__(self, network: Network, options: Options, token: str = "") -> None:
        super().__init__("arcade", network, WORDS, options, MODES, token=token)
        self.caller = Caller(self.endpoint.status, now)
        self.app.on_startup.append(self.caller.start)
        self.app.on_cleanup.append(self.caller.stop)
        self.get("/policy", self._policy)
        self.get("/v1/policy", self._policy)
        self.get("/health", self._health)
        self.get("/tx/{txid}", self._status)
        self.post("/tx", self._one)
        self.post("/txs", self._many)

    # --- submission

    async def _one(self, request: web.Request) -> web.Response:
        try:
            (tx,) = self.whole([read_tx(_single(request.content_type, await request.read()))])
        except BadRequestError as bad:
            return reply({"error": "failed to parse transaction", "reason": bad.refusal.detail}, 400)
        (refusal,) = self.endpoint.examine([tx])
        if refusal is not None:
            self.endpoint.refused[tx.txid] = refusal.number
            return reply(problem(refusal, tx.txid), refusal.number)
        self._take([tx], request)
        found = self.endpoint.status(tx.txid) or {}
        txid = hash256(tx.txid) if self.faults.meets("wrong-txid") is not None else tx.txid
        about = {name: found[name] for name in ("extraInfo", "competingTxs") if found.get(name)}
        return reply({"txid": display(txid), "status": 202, "txStatus": found["txStatus"], **about}, 202)

    async def _many(self, request: web.Request) -> web.Response:
        if "octet-stream" not in request.content_type:
            return reply({"error": f"Content-Type must be {BINARY}"}, 400)
        body = await request.read()
        if len(body) > PER_BATCH:
            return reply({"error": "request body too large"}, 413)
        try:
            txs = self.whole(read_txs(body))
        except BadRequestError as bad:
            return reply({"error": "failed to parse transaction", "reason": bad.refusal.detail}, 400)
        for tx, refusal in zip(txs, self.endpoint.examine(txs), strict=True):
            if refusal is not None:  # and nothing of the batch is submitted
                return reply(problem(refusal, tx.txid), 400)
        known = sum(tx.txid in self.endpoint.received for tx in txs)
        self._take(txs, request)
        fresh = len(self.told(list(range(len(txs))))) - known
        fresh += self.faults.meets("wrong-txid") is not None
        return reply({"submitted": max(fresh, 0), "duplicates": known, "total": len(txs)}, 202)

    def _take(self, txs: list[Tx], request: web.Request) -> None:
        for tx, answer in zip(txs, self.endpoint.submit(txs), strict=True):
            # What only a look at the network's coins could refuse comes as a status.
            taken = self.endpoint.reject(answer, tx.txid) if isinstance(answer, Refusal) else answer
            assert isinstance(taken, Answered)
            self.caller.asks(taken.txid, request)

    # --- questions

    async def _status(self, request: web.Request) -> web.Response:
        try:
            txid = from_display(request.match_info["txid"])
        except ValueError as error:
            return reply({"error": str(error)}, 400)
        self.endpoint.network.refresh()
        found = self.endpoint.status(txid)
        if found is None:
            return reply({"error": "transaction not found"}, 404)
        return reply({"timestamp": now(), **{name: value for name, value in found.items() if value}})

    async def _policy(self, _: web.Request) -> web.Response:
        return reply(policy_body(self.endpoint.options.policy, standardFormatSupported=True))

    async def _health(self, _: web.Request) -> web.Response:
        return reply({"healthy": True, "version": "simulated", "status": "ok", "datahub_urls": []})

    def stats(self) -> dict[str, object]:
        """Also callbacks."""
        return super().stats() | {"callbacks": {"taken": self.caller.taken, "refused": self.caller.refused}}


def problem(refusal: Refusal, txid: Txid) -> dict[str, Any]:
    """An error's body: Arcade's own fields, and ARC's beside them."""
    title = TITLES.get(refusal.number, "Generic error")
    return {
        "error": "transaction failed validation",
        "reason": refusal.detail,
        "txid": display(txid),
        "status": refusal.number,
        "title": title,
        "detail": title,
        "type": f"https://bitcoin-sv.github.io/arc/#/errors?id=_{refusal.number}",
    }


def _single(content_type: str, body: bytes) -> bytes:
    if len(body) > PER_TX:
        raise BadRequestError("request body too large")
    if "octet-stream" in content_type:
        return body
    if "text/plain" in content_type:
        return unhex(body.strip())
    return unhex(read_json(body, Single).rawTx.encode())
