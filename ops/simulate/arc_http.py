"""A simulated ARC's HTTP: true paths, bodies, headers, statuses and errors, for raw transactions and Extended Format.

As the real one it answers a batch with HTTP 200, successes first, and a resubmission with the present status. It
differs in three things: it takes no BEEF (468), calls back about one transaction at a time (`X-CallbackBatch` is
ignored), and names the rivals of a refused double spend (466) in `competingTxs` too, which the real one does in its
statuses alone.
"""

import asyncio
import contextlib
import datetime
import re
import time
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from ops.simulate.arc import MODES, STATUSES, Answered, Arc, ArcOptions, TxScript
from ops.simulate.callbacks import Caller
from ops.simulate.faults import Faults
from ops.simulate.network import Network
from ops.simulate.rules import TITLES, Refusal
from ops.simulate.service import JSON, Service, reply
from ops.simulate.tx import Tx, UnreadableError, hash256, read_all, read_one
from schemas.types import Txid, display, from_display

BEEF = (b"\x01\x00\xbe\xef", b"\x02\x00\xbe\xef", b"\x01\x01\x01\x01")
HEX = re.compile(rb"(?:[0-9a-fA-F]{2})+")
BINARY = "application/octet-stream"
DEFAULT_WAIT_S = 5.0
MAX_WAIT_S = 30.0


class BadRequestError(Exception):
    """The body cannot be read; the refusal says why."""

    def __init__(self, detail: str, number: int = 400) -> None:
        super().__init__(detail)
        self.refusal = Refusal(number, detail)


class ArcService(Service):
    """An ARC endpoint as a process."""

    def __init__(self, network: Network, options: ArcOptions, token: str = "") -> None:
        super().__init__("arc", Faults(MODES), token=token)
        self.arc = Arc(network, options, self.faults)
        self.caller = Caller(self.arc.status, now)
        self.app.on_startup.append(self.caller.start)
        self.app.on_cleanup.append(self.caller.stop)
        self.get("/v1/policy", self._policy)
        self.get("/v1/health", self._health)
        self.get("/v1/tx/{txid}", self._status)
        self.post("/v1/tx", self._one)
        self.post("/v1/txs", self._many)
        self.get("/simulate/transactions", self._transactions)

    async def order(self, body: bytes) -> None:
        """A fault, or what one transaction is to get."""
        if "txid" in msgspec.json.decode(body, type=dict[str, object]):
            self.arc.script(msgspec.json.decode(body, type=TxScript))
        else:
            await super().order(body)

    # --- submission

    async def _one(self, request: web.Request) -> web.Response:
        try:
            tx = read_tx(_single(request.headers.get("Content-Type", ""), await request.read()))
        except BadRequestError as bad:
            return reply(problem(bad.refusal), bad.refusal.number)
        (answer,) = self._submit([tx], request)
        await self._wait([answer], request)
        body = self._body(answer, tx.txid)
        return reply(body, body["status"])

    async def _many(self, request: web.Request) -> web.Response:
        try:
            txs = _batch(request.headers.get("Content-Type", ""), await request.read())
        except BadRequestError as bad:
            return reply(problem(bad.refusal), bad.refusal.number)
        answers = self._submit(txs, request)
        await self._wait(answers, request)
        bodies = [self._body(answer, tx.txid) for answer, tx in zip(answers, txs, strict=True)]
        # Stable, as the server builds it: its successes in order, and then its failures.
        return reply(sorted(bodies, key=lambda body: body["status"] != 200))

    def _submit(self, txs: list[Tx], request: web.Request) -> list[Answered | Refusal]:
        answers = self.arc.submit(txs)
        for answer in answers:
            if isinstance(answer, Answered):
                self.caller.asks(answer.txid, request)
        return answers

    def _body(self, answer: Answered | Refusal, txid: Txid) -> dict[str, Any]:
        if isinstance(answer, Refusal):
            return problem(answer, txid)
        body = success(self.arc.status(txid) or {})
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
            self.arc.network.refresh()
            if all(STATUSES[(self.arc.status(txid) or {})["txStatus"]] >= wanted for txid in txids):
                return
            await asyncio.sleep(0.005)

    # --- questions

    async def _status(self, request: web.Request) -> web.Response:
        try:
            txid = from_display(request.match_info["txid"])
        except ValueError as error:
            return reply(problem(Refusal(400, str(error))), 400)
        self.arc.network.refresh()
        found = self.arc.status(txid)
        if found is None:
            return reply(problem(Refusal(404, "transaction not found"), txid), 404)
        return reply(success(found))

    async def _policy(self, _: web.Request) -> web.Response:
        policy = self.arc.options.policy
        return reply({
            "timestamp": now(),
            "policy": {
                "maxscriptsizepolicy": policy.max_script_bytes,
                "maxtxsigopscountspolicy": 4294967295,
                "maxtxsizepolicy": policy.max_tx_bytes,
                "miningFee": {"satoshis": policy.fee_sat_per_kb, "bytes": 1000},
                "standardFormatSupported": True,
            },
        })  # fmt: skip

    async def _health(self, _: web.Request) -> web.Response:
        return reply({"healthy": True, "reason": "", "version": "simulated"})

    # --- for an audit

    async def _transactions(self, request: web.Request) -> web.StreamResponse:
        """A line for each transaction submitted here: txid, status, and the number where it was refused."""
        self.arc.network.refresh()
        response = web.StreamResponse(headers={"Content-Type": "text/plain; charset=utf-8"})
        await response.prepare(request)
        lines = []
        for txid in dict.fromkeys([*self.arc.received, *self.arc.refused]):
            number = self.arc.refused.get(txid)
            status = f"REFUSED {number}" if number is not None else (self.arc.status(txid) or {})["txStatus"]
            lines.append(f"{display(txid)} {status}\n")
            if len(lines) == 1000:
                await response.write("".join(lines).encode())
                lines.clear()
        await response.write("".join(lines).encode())
        return response

    def stats(self) -> dict[str, object]:
        """Also what was submitted here and what became of it, and how many transactions the network has."""
        refused: dict[str, int] = {}
        for number in self.arc.refused.values():
            refused[str(number)] = refused.get(str(number), 0) + 1
        return super().stats() | {
            "submitted": self.arc.submitted,
            "repeats": self.arc.repeats,
            "received": len(self.arc.received),
            "refused": refused,
            "callbacks": {"taken": self.caller.taken, "refused": self.caller.refused},
            "network": len(self.arc.network),
            "orphans": len(self.arc.network.orphans),
        }


def now() -> str:
    """RFC 3339, UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat().replace("+00:00", "Z")


def success(fields: dict[str, Any]) -> dict[str, Any]:
    """The body of an answer that is no error. A status of REJECTED is none."""
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


def read_tx(data: bytes) -> Tx:
    """One transaction from its bytes.

    Raises:
        BadRequestError: they are none, or a BEEF.
    """
    if data[:4] in BEEF:
        raise BadRequestError("this simulated service takes no BEEF: send Extended Format", 468)
    try:
        return read_one(data)
    except UnreadableError as error:
        raise BadRequestError(str(error)) from error


def _unhex(text: bytes) -> bytes:
    if HEX.fullmatch(text) is None:
        raise BadRequestError("not hexadecimal")
    return bytes.fromhex(text.decode())


class _Body(msgspec.Struct):
    rawTx: str  # noqa: N815 (the wire's own name)


def _single(content_type: str, body: bytes) -> bytes:
    # The whole header is compared, as ARC does: a charset behind it makes another type of it.
    if content_type == "text/plain":
        return _unhex(body.strip())
    if content_type == BINARY:
        return body
    if content_type == JSON:
        return _unhex(_json(body, _Body).rawTx.encode())
    raise BadRequestError(f"content type {content_type} is not known")


def _batch(content_type: str, body: bytes) -> list[Tx]:
    if content_type == "text/plain":
        txs = [read_tx(_unhex(line.strip())) for line in body.splitlines() if line.strip()]
    elif content_type == JSON:
        txs = [read_tx(_unhex(each.rawTx.encode())) for each in _json(body, list[_Body])]
    elif content_type == BINARY:
        try:
            txs = read_all(body)
        except UnreadableError as error:
            raise BadRequestError(str(error)) from error
    else:
        raise BadRequestError(f"content type {content_type} is not known")
    if not txs:
        raise BadRequestError("no transactions")
    return txs


T = TypeVar("T")


def _json(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.MsgspecError as error:
        raise BadRequestError(str(error)) from error
