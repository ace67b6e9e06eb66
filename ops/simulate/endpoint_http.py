"""HTTP that simulated broadcast endpoints share: reading transactions, orders, and what an audit asks."""

import datetime
import re
from collections.abc import Collection
from typing import TypeVar

import msgspec
from aiohttp import web

from ops.simulate.endpoint import MODES, Endpoint, Options, TxScript, Words
from ops.simulate.faults import Faults
from ops.simulate.network import Network
from ops.simulate.rules import Policy, Refusal
from ops.simulate.service import Service
from ops.simulate.tx import Tx, UnreadableError, read_all, read_one
from schemas.types import display

BEEF = (b"\x01\x00\xbe\xef", b"\x02\x00\xbe\xef", b"\x01\x01\x01\x01")
HEX = re.compile(rb"(?:[0-9a-fA-F]{2})+")
BINARY = "application/octet-stream"


T = TypeVar("T")


class BadRequestError(Exception):
    """The body cannot be read; the refusal says why."""

    def __init__(self, detail: str, number: int = 400) -> None:
        super().__init__(detail)
        self.refusal = Refusal(number, detail)


class EndpointService(Service):
    """A broadcast endpoint as a process; its kind adds the routes."""

    def __init__(
        self,
        name: str,
        network: Network,
        words: Words,
        options: Options,
        modes: Collection[str],
        *,
        token: str = "",
        scheme: str = "Bearer ",
        path: str = "",
    ) -> None:
        """modes: those of `endpoint.MODES` that the protocol can show."""
        super().__init__(name, Faults({mode: MODES[mode] for mode in modes}), token=token, scheme=scheme, path=path)
        self.endpoint = Endpoint(network, words, options, self.faults)
        self.get("/simulate/transactions", self._transactions)

    async def order(self, body: bytes) -> None:
        """A fault, or what one transaction is to get."""
        if "txid" in msgspec.json.decode(body, type=dict[str, object]):
            self.endpoint.script(msgspec.json.decode(body, type=TxScript))
        else:
            await super().order(body)

    def told(self, answers: list[T]) -> list[T]:
        """Answers about the members of a batch, as the faults in force leave them."""
        reordered = len(answers) > 1 and self.faults.meets("reordered") is not None
        partial = len(answers) > 1 and self.faults.meets("partial") is not None
        return answers[:: (-1 if reordered else 1) * (2 if partial else 1)]

    def whole(self, txs: list[Tx]) -> list[Tx]:
        """The members of a call that holds no poisoned one.

        Raises:
            BadRequestError: it does.
        """
        if self.endpoint.poisoned(txs):
            raise BadRequestError("simulated fault: a poisoned member")
        return txs

    async def _transactions(self, request: web.Request) -> web.StreamResponse:
        """A line for each transaction submitted here: txid, status, and the number where it was refused.

        As it is in truth: what the network has is not called rejected, whatever a fault had this endpoint say of it.
        """
        self.endpoint.network.refresh()
        response = web.StreamResponse(headers={"Content-Type": "text/plain; charset=utf-8"})
        await response.prepare(request)
        lines = []
        for txid in dict.fromkeys([*self.endpoint.received, *self.endpoint.refused]):
            number = self.endpoint.refused.get(txid)
            if txid in self.endpoint.network:
                number, status = None, "SEEN_ON_NETWORK"
            else:
                status = (self.endpoint.status(txid) or {}).get("txStatus", "")
            status = status if number is None else f"REFUSED {number}"
            lines.append(f"{display(txid)} {status}\n")
            if len(lines) == 1000:
                await response.write("".join(lines).encode())
                lines.clear()
        await response.write("".join(lines).encode())
        return response

    def stats(self) -> dict[str, object]:
        """Also what was submitted here and what became of it, and how many transactions the network has."""
        refused: dict[str, int] = {}
        for number in self.endpoint.refused.values():
            refused[str(number)] = refused.get(str(number), 0) + 1
        return super().stats() | {
            "submitted": self.endpoint.submitted,
            "repeats": self.endpoint.repeats,
            "early": self.endpoint.early,
            "received": len(self.endpoint.received),
            "refused": refused,
            "network": len(self.endpoint.network),
            "orphans": len(self.endpoint.network.orphans),
        }


def now() -> str:
    """RFC 3339, UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat().replace("+00:00", "Z")


def policy_body(policy: Policy, **more: object) -> dict[str, object]:
    """What ARC and Arcade publish; more: what one of them has beside."""
    return {
        "timestamp": now(),
        "policy": {
            "maxscriptsizepolicy": policy.max_script_bytes,
            "maxtxsigopscountspolicy": 4294967295,
            "maxtxsizepolicy": policy.max_tx_bytes,
            "miningFee": {"satoshis": policy.fee_sat_per_kb, "bytes": 1000},
            **more,
        },
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


def unhex(text: bytes) -> bytes:
    """Bytes from hexadecimal text.

    Raises:
        BadRequestError: it is none.
    """
    if HEX.fullmatch(text) is None:
        raise BadRequestError("not hexadecimal")
    return bytes.fromhex(text.decode())


def read_txs(data: bytes) -> list[Tx]:
    """Transactions one after the other; one at least.

    Raises:
        BadRequestError: the bytes do not end with one, or there is none.
    """
    try:
        txs = read_all(data)
    except UnreadableError as error:
        raise BadRequestError(str(error)) from error
    if not txs:
        raise BadRequestError("no transactions")
    return txs


def read_json(body: bytes, kind: type[T]) -> T:
    """A body of JSON.

    Raises:
        BadRequestError: it is not of this shape.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.MsgspecError as error:
        raise BadRequestError(str(error)) from error


class Single(msgspec.Struct):
    """A transaction in JSON."""

    rawTx: str  # noqa: N815 (the wire's own name)
