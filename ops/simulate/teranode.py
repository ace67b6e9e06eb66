"""A simulated propagation service of a Teranode: bytes in; `OK` out, or an error's name and number.

A batch is worked through to its end whatever fails, and its answer has a line for each that failed. HTTP codes are
those of newer builds, or 500 for every error as older ones have it. It tells no status and no policy. It differs in
this: it keeps a transaction whose parent is missing, and lets it in when the parent comes; the real one is sent it
again.
"""

from aiohttp import web

from ops.simulate.endpoint import Options, Words
from ops.simulate.endpoint_http import BadRequestError, EndpointService, read_tx, read_txs
from ops.simulate.network import Network
from ops.simulate.rules import Refusal
from ops.simulate.tx import Tx, hash256
from schemas.types import Txid, display

ERRORS: dict[str, int] = {
    "THRESHOLD_EXCEEDED": 2, "PROCESSING": 4, "TX_NOT_FOUND": 30, "TX_INVALID": 31, "TX_INVALID_DOUBLE_SPEND": 32,
    "TX_EXISTS": 33, "TX_MISSING_PARENT": 34, "TX_LOCK_TIME": 35, "TX_CONFLICTING": 36, "TX_LOCKED": 37,
    "TX_COINBASE_IMMATURE": 38, "TX_POLICY": 39, "TX_CONSENSUS": 40, "TX_CREATING": 41, "TX_ERROR": 49,
    "SERVICE_UNAVAILABLE": 50, "STORAGE_ERROR": 69, "UTXO_SPENT": 70, "UTXO_NON_FINAL": 71, "UTXO_FROZEN": 72,
    "UTXO_NOT_FOUND": 73, "UTXO_MISMATCH": 74, "UTXO_INVALID_SIZE": 75, "UTXO_CONSENSUS_FROZEN": 78, "UTXO_ERROR": 79,
}  # fmt: skip
"""Errors that the service answers with, and their numbers."""

CODES: dict[str, int] = {
    "TX_INVALID": 400, "TX_POLICY": 400, "TX_LOCK_TIME": 400, "TX_COINBASE_IMMATURE": 400, "TX_CONSENSUS": 400,
    "UTXO_NON_FINAL": 400, "TX_CONFLICTING": 409, "TX_INVALID_DOUBLE_SPEND": 409, "TX_LOCKED": 409, "UTXO_SPENT": 409,
    "TX_NOT_FOUND": 422, "TX_MISSING_PARENT": 422, "UTXO_NOT_FOUND": 422, "UTXO_FROZEN": 403,
    "UTXO_CONSENSUS_FROZEN": 403, "THRESHOLD_EXCEEDED": 503, "SERVICE_UNAVAILABLE": 503,
}  # fmt: skip
"""HTTP codes of newer builds; others are 500."""

REFUSALS: dict[int, str] = {
    460: "TX_MISSING_PARENT", 462: "UTXO_MISMATCH", 465: "TX_POLICY", 466: "UTXO_SPENT", 471: "UTXO_FROZEN",
    472: "UTXO_CONSENSUS_FROZEN", 473: "TX_POLICY", 474: "TX_POLICY", 476: "TX_LOCK_TIME",
}  # fmt: skip
"""Errors for what the network's rules refuse; others are TX_INVALID."""

PROGRESS = {"RECEIVED": 20, "STORED": 30, "SEEN_ON_NETWORK": 90, "DOUBLE_SPEND_ATTEMPTED": 100, "MINED": 120}
"""States that nobody is told, but an audit."""

WORDS = Words(PROGRESS | dict.fromkeys(ERRORS, 0), stored="STORED", orphan="TX_MISSING_PARENT", rejected="TX_INVALID")

MODES = ("reject", "orphan", "wrong-txid", "reordered", "partial")
"""`OK` names nobody: `wrong-txid`, `reordered` and `partial` are of the lines about those that failed."""

MOST = 1024


class TeranodeService(EndpointService):
    """A propagation service as a process."""

    def __init__(self, network: Network, options: Options, token: str = "", old: bool = False) -> None:
        """old: answers every error with HTTP 500."""
        super().__init__("teranode", network, WORDS, options, MODES, token=token)
        self._old = old
        self.get("/health", self._health)
        self.post("/tx", self._one)
        self.post("/txs", self._many)

    async def _one(self, request: web.Request) -> web.Response:
        try:
            (tx,) = self.whole([read_tx(await request.read())])
        except BadRequestError as bad:
            return web.Response(text=f"Invalid request body: {bad.refusal.detail}", status=400)
        (error,) = self._submit([tx])
        if error is None:
            return web.Response(text="OK")
        name, detail = error
        return self._failed(name, f"Failed to process transaction: {self._line(tx.txid, name, detail)}")

    async def _many(self, request: web.Request) -> web.Response:
        try:
            txs = self.whole(read_txs(await request.read()))
        except BadRequestError as bad:
            return web.Response(text=f"Invalid request body: {bad.refusal.detail}", status=400)
        if len(txs) > MOST:
            return web.Response(text="Invalid request body: too many transactions", status=400)
        failed = [(tx, *error) for tx, error in zip(txs, self._submit(txs), strict=True) if error is not None]
        if not failed:
            return web.Response(text="OK")
        lines = self.told([self._line(tx.txid, name, detail) for tx, name, detail in failed])
        return self._failed(failed[0][1], "Failed to process transactions:\n" + "\n".join(lines) + "\n")

    def _submit(self, txs: list[Tx]) -> list[tuple[str, str] | None]:
        """The error of each, and why; None for one that was taken."""
        found: list[tuple[str, str] | None] = []
        for tx, answer in zip(txs, self.endpoint.submit(txs), strict=True):
            if isinstance(answer, Refusal):
                found.append((REFUSALS.get(answer.number, "TX_INVALID"), answer.detail))
                continue
            status = self.endpoint.status(tx.txid) or {}
            name = status["txStatus"]
            found.append((name, status["extraInfo"]) if name in ERRORS else None)
        return found

    def _line(self, txid: Txid, name: str, detail: str) -> str:
        named = hash256(txid) if self.faults.meets("wrong-txid") is not None else txid
        return f"{name} ({ERRORS[name]}): [ProcessTransaction][{display(named)}] {detail}"

    def _failed(self, name: str, text: str) -> web.Response:
        return web.Response(text=text, status=500 if self._old else CODES.get(name, 500))

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(text="OK")
