"""A simulated ARC's HTTP: true paths, bodies, headers, statuses and errors, for raw transactions and Extended Format.

As the real one it answers a batch with HTTP 200, successes first, and a resubmission with the present status. It
differs in three things: it takes no BEEF (468), calls back about one transaction at a time (`X-CallbackBatch` is
ignored), and names the rivals of a refused double spend (466) in `competingTxs` too, which the real one does in its
statuses alone.
"""

import asyncio
import contextlib
import time
from collections.abc import Sequence
from typing import Any

from aiohttp import web

from ops.simulate.arc import STATUSES, WORDS
from ops.simulate.callbacks import Caller
from ops.simulate.endpoint import MODES, Answered, Options
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
from ops.simulate.service import JSON, reply
from ops.simulate.tx import Tx, hash256
from schemas.types import Txid, display, from_display

DEFAULT_WAIT_S = 5.0
MAX_WAIT_S = 30.0


class ArcService(EndpointService):
    """An ARC endpoint as a process."""

    def __init__(self, network: Network, options: Options, token: str = "") -> None:
        super().__init__("arc", network, WORDS, options, MODES, token=token)
        self.caller = Caller(self.endpoint.status, now)
        self.app.on_startup.append(self.caller.start)
        self.app.on_cleanup.append(self.caller.stop)
        self.get("/v1/policy", self._policy)
        self.get("/v1/health", self._health)
        self.get("/v1/tx/{txid}", self._status)
        self.post("/v1/tx", self._one)
        self.post("/v1/txs", self._many)

    # --- submission

    async def _one(self, request: web.Request) -> web.Response:
        try:
            (tx,) = self.whole([read_tx(_single(request.headers.get("Content-Type", ""), await request.read()))])
        except BadRequestError as bad:
            return reply(problem(bad.refusal), bad.refusal.number)
        (answer,) = self._submit([tx], request)
        await self._wait([answer], request)
        body = self._body(answer, tx.txid)
        return reply(body, body["status"])

    async def _many(self, request: web.Request) -> web.Response:
        try:
            txs = self.whole(_batch(request.headers.get("Content-Type", ""), await request.read()))
        except BadRequestError as bad:
            return reply(problem(bad.refusal), bad.refusal.number)
        answers = self._submit(txs, request)
        await self._wait(answers, request)
        bodies = [self._body(answer, tx.txid) for answer, tx in zip(answers, txs, strict=True)]
        # Stable, as the server builds it: its successes in order, and then its failures.
        return reply(self.told(sorted(bodies, key=lambda body: body["status"] != 200)))

    def _submit(self, txs: list[Tx], request: web.Request) -> list[Answered | Refusal]:
        answers = self.endpoint.submit(txs)
        for answer in answers:
            if isinstance(answer, Answered):
                self.caller.asks(answer.txid, request)
        return answers

    def _body(self, answer: Answered | Refusal, txid: Txid) -> dict[str, Any]:
        if isinstance(answer, Refusal):
            return problem(answer, txid)
        body = success(self.endpoint.status(txid) or {})
        if self.faults.meets("wrong-txid") is not None:
            body["txid"] = display(hash256(txid))
        return body

    async def _wait(self, answers: Sequence[Answered | Refusal], request: web.Request) -> None:
        """Hold the reply as X-WaitFor and X-MaxTimeout ask."""
        wanted = STATUSES.get(request.headers.get("X-WaitFor", ""), 0)
        limit = DEFAULT_WAIT_S
        with contextlib.suppress(ValueError):
            limit = min(float(request.headers.get("X-MaxTimeout", limit)), MAX_WAIT_S)
        deadline = time.monotonic() + limit
        txids = [answer.txid for answer in answers if isinstance(answer, Answered)]
        while wanted and time.monotonic() < deadline and not self.stopping.is_set():
            self.endpoint.network.refresh()
            if all(STATUSES[(self.endpoint.status(txid) or {})["txStatus"]] >= wanted for txid in txids):
                return
            await asyncio.sleep(0.005)

    # --- questions

    async def _status(self, request: web.Request) -> web.Response:
        try:
            txid = from_display(request.match_info["txid"])
        except ValueError as error:
            return reply(problem(Refusal(409, str(error))), 409)
        self.endpoint.network.refresh()
        found = self.endpoint.status(txid)
        if found is None:
            return reply(problem(Refusal(404, "transaction not found"), txid), 404)
        return reply({"timestamp": now(), **found})

    async def _policy(self, _: web.Request) -> web.Response:
        return reply(policy_body(self.endpoint.options.policy))

    async def _health(self, _: web.Request) -> web.Response:
        return reply({"healthy": True, "reason": "", "version": "simulated"})

    def stats(self) -> dict[str, object]:
        """Also callbacks."""
        return super().stats() | {"callbacks": {"taken": self.caller.taken, "refused": self.caller.refused}}


def success(fields: dict[str, Any]) -> dict[str, Any]:
    """A submission's answer that is no error. A status of REJECTED is none."""
    return {"timestamp": now(), **fields, "status": 200, "title": "OK"}


def problem(refusal: Refusal, txid: Txid | None = None) -> dict[str, Any]:
    """An error's body (RFC 7807, as ARC fills it)."""
    rivals = {"competingTxs": [display(rival) for rival in refusal.rivals]} if refusal.rivals else {}
    return {
        "type": f"https://bitcoin-sv.github.io/arc/#/errors?id=_{refusal.number}",
        "title": TITLES.get(refusal.number, "Generic error"),
        "status": refusal.number,
        "detail": TITLES.get(refusal.number, "Generic error"),
        "instance": None,
        "txid": display(txid) if txid else None,
        "extraInfo": refusal.detail,
        **rivals,
    }


def _single(content_type: str, body: bytes) -> bytes:
    # The whole header is compared, as ARC does: a charset behind it makes another type of it.
    if content_type == "text/plain":
        return unhex(body.strip())
    if content_type == BINARY:
        return body
    if content_type == JSON:
        return unhex(read_json(body, Single).rawTx.encode())
    raise BadRequestError(f"content type {content_type} is not known")


def _batch(content_type: str, body: bytes) -> list[Tx]:
    if content_type == "text/plain":
        txs = [read_tx(unhex(line.strip())) for line in body.splitlines() if line.strip()]
    elif content_type == JSON:
        txs = [read_tx(unhex(each.rawTx.encode())) for each in read_json(body, list[Single])]
    elif content_type == BINARY:
        return read_txs(body)
    else:
        raise BadRequestError(f"content type {content_type} is not known")
    if not txs:
        raise BadRequestError("no transactions")
    return txs
