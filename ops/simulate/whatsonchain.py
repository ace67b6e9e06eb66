"""WhatsOnChain, simulated as far as it broadcasts: one raw transaction at a time, and what its node says, as text.

Headers are told by the service of `dialects`, which stands for the same name.
"""

import msgspec
from aiohttp import web

from ops.simulate.endpoint import Options, Words
from ops.simulate.endpoint_http import BadRequestError, EndpointService, read_json, read_tx, unhex
from ops.simulate.network import Network
from ops.simulate.rules import Refusal
from ops.simulate.service import reply
from ops.simulate.tx import EF_MARKER, hash256
from schemas.types import display, from_display

PATH = "/v1/bsv/main"

REASONS: dict[int, str] = {
    400: "TX decode failed",
    460: "Missing inputs",
    461: "16: mandatory-script-verify-flag-failed (Script evaluated without error but finished with a false/empty top "
    "stack element)",
    462: "16: bad-txns-in-belowout",
    463: "64: scriptsig-not-pushonly",
    464: "16: bad-txns-vout-toolarge",
    465: "66: mempool min fee not met",
    466: "258: txn-mempool-conflict",
    471: "16: bad-txns-inputs-frozen",
    472: "16: bad-txns-inputs-frozen",
    473: "66: mempool min fee not met",
    474: "64: tx-size",
    476: "64: non-final",
}
"""What its node says where the network's rules refuse."""

WORDS = Words(
    {"RECEIVED": 20, "STORED": 30, "SEEN_ON_NETWORK": 90, "DOUBLE_SPEND_ATTEMPTED": 100, "MINED": 120}
    | {"txn-already-known": 0, "Missing inputs": 0, "mempool full": 0, "REJECTED": 0},
    stored="STORED",
    orphan="Missing inputs",
)

SAID = frozenset({"txn-already-known", "Missing inputs", "mempool full", "REJECTED"})
"""States that are a node's refusal."""

MODES = ("reject", "orphan", "wrong-txid")


class _Body(msgspec.Struct):
    txhex: str


class WhatsOnChainService(EndpointService):
    """WhatsOnChain as a process; its URL ends with the network."""

    def __init__(self, network: Network, options: Options, token: str = "") -> None:
        super().__init__("whatsonchain", network, WORDS, options, MODES, token=token, scheme="", path=PATH)
        self.post(f"{PATH}/tx/raw", self._submit)
        self.get(f"{PATH}/tx/hash/{{txid}}", self._status)
        self.get(f"{PATH}/woc", self._health)

    async def _submit(self, request: web.Request) -> web.Response:
        try:
            raw = unhex(read_json(await request.read(), _Body).txhex.encode())
            if raw[4:10] == EF_MARKER:
                raise BadRequestError(REASONS[400])  # its node reads no Extended Format
            (tx,) = self.whole([read_tx(raw)])
        except BadRequestError:
            return _refused(REASONS[400])
        self.endpoint.network.refresh()
        known = tx.txid in self.endpoint.network
        (answer,) = self.endpoint.submit([tx])
        if isinstance(answer, Refusal):
            return _refused(REASONS.get(answer.number, f"16: {answer.detail}"))
        found = self.endpoint.status(tx.txid) or {}
        if (name := found["txStatus"]) in SAID:
            return _refused(f"16: {found['extraInfo']}" if name == "REJECTED" else name)
        if known:
            return _refused("257: txn-already-known")
        txid = hash256(tx.txid) if self.faults.meets("wrong-txid") is not None else tx.txid
        return web.Response(text=f'"{display(txid)}"\n')

    async def _status(self, request: web.Request) -> web.Response:
        try:
            txid = from_display(request.match_info["txid"])
        except ValueError:
            return web.Response(text="Bad Request", status=400)
        self.endpoint.network.refresh()
        mined = self.endpoint.network.mined.proof(txid)
        if mined is None and txid not in self.endpoint.network:
            return web.Response(text="Not Found", status=404)
        block = (
            {} if mined is None else {"blockhash": mined.block_hash, "blockheight": mined.height, "confirmations": 1}
        )
        return reply({"txid": display(txid), "hash": display(txid), **block})

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(text="Whats On Chain")


def _refused(reason: str) -> web.Response:
    return web.Response(text=f"unexpected response code 500: {reason}", status=400)
