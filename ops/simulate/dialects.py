"""Header services' HTTP in three dialects: Block Headers Service, Chaintracks (v2 and v1), WhatsOnChain."""

from collections.abc import Callable
from typing import Any

import msgspec
from aiohttp import web
from msgspec import Struct

from ops.instruments.chain import WORK
from ops.simulate.faults import Fault, Faults
from ops.simulate.headers import DIFFICULTY, MODES, Header, Headers, View
from ops.simulate.service import Service, reply
from schemas.types import display, from_display

MAX_COUNT = 10_000
"""Headers in one answer: bounds what a request may cost."""


class HeaderService(Service):
    """What the dialects share. A subclass adds routes; `path` is what precedes them in the service's URL."""

    name = ""
    scheme = "Bearer "
    path = ""
    lies: tuple[str, ...] = ("root",)

    def __init__(self, chain: Headers, token: str = "") -> None:
        faults = Faults(MODES)
        super().__init__(self.name, faults, token=token, scheme=self.scheme, path=self.path)
        self.view = View(chain, faults)
        self.add_routes()

    def add_routes(self) -> None:
        """Add the dialect's routes."""
        raise NotImplementedError

    async def order(self, body: bytes) -> None:
        """A fault; one that this dialect can have."""
        fault = msgspec.json.decode(body, type=Fault)
        if fault.mode == "lying" and fault.lie not in self.lies:
            raise ValueError(f"{self.name} is asked for roots and never told one: it cannot confirm")
        if fault.mode == "reorganisation":
            self.view.chain.branch(fault.depth, [from_display(root) for root in fault.roots])
        self.faults.order(fault)


def number(request: web.Request, name: str, default: int | None = None) -> int:
    """A number of 0 and more from the query or the path.

    Raises:
        web.HTTPBadRequest: it is none.
    """
    text = request.match_info.get(name) or request.query.get(name) or ("" if default is None else str(default))
    if not text.isascii() or not text.isdigit():
        raise web.HTTPBadRequest(text=f"{name} must be a number")
    return int(text)


def block_hash(request: web.Request, name: str = "hash") -> bytes | None:
    """A block hash from the path or the query, in wire order; None when it is none."""
    try:
        return from_display(request.match_info.get(name) or request.query.get(name, ""))
    except ValueError:
        return None


# --- Block Headers Service


class Asked(Struct, rename="camel"):
    """One question of `merkleroot/verify`."""

    merkle_root: str
    block_height: int


WORSE = ("CONFIRMED", "UNABLE_TO_VERIFY", "INVALID")
EXCESS = 6
"""Blocks above its tip for which the service says that it cannot tell, rather than that the root is invalid."""


class BlockHeadersService(HeaderService):
    """Under /api/v1. Numbers of the tip are numbers, those of other headers strings, as the real one writes them."""

    name = "bhs"
    lies = ("root", "confirm")

    def add_routes(self) -> None:
        """Merkle roots, tip, headers by height and hash."""
        self.post("/api/v1/chain/merkleroot/verify", self._verify)
        self.get("/api/v1/chain/merkleroot", self._roots)
        self.get("/api/v1/chain/tip/longest", self._tip)
        self.get("/api/v1/chain/header/byHeight", self._by_height)
        self.get("/api/v1/chain/header/state/{hash}", self._state)
        self.get("/api/v1/chain/header/{hash}", self._header)
        self.get("/status", self._alive)

    async def _alive(self, _: web.Request) -> web.Response:
        return reply({"status": "up"})

    async def _verify(self, request: web.Request) -> web.Response:
        try:
            asked = msgspec.json.decode(await request.read(), type=list[Asked])
        except msgspec.MsgspecError as error:
            return reply(str(error), 400)
        if not asked:
            return _bhs_error("ErrVerifyMerklerootsBadBody", "at least one merkleroot is required", 400)
        said = [self._confirmation(item) for item in asked]
        worst = max((each["confirmation"] for each in said), key=WORSE.index)
        return reply({"confirmationState": worst, "confirmations": said})

    def _confirmation(self, item: Asked) -> dict[str, Any]:
        header, known = self.view.header(item.block_height), self.view.root(item.block_height)
        above = item.block_height - self.view.tip
        if self.view.confirms_anything() or (known is not None and display(known) == item.merkle_root):
            word = "CONFIRMED"
        elif 0 < above <= EXCESS or (known is None and above <= 0):
            word = "UNABLE_TO_VERIFY"
        else:
            word = "INVALID"
        shown = header.hash if header is not None and word == "CONFIRMED" else ""
        return {
            "blockHash": shown, "blockHeight": item.block_height, "merkleRoot": item.merkle_root, "confirmation": word,
        }  # fmt: skip

    async def _roots(self, request: web.Request) -> web.Response:
        size, last = number(request, "batchSize", 2000), request.query.get("lastEvaluatedKey", "")
        rows = [{"merkleRoot": display(root), "blockHeight": height} for height, root in self.view.roots()]
        at = next((place + 1 for place, row in enumerate(rows) if row["merkleRoot"] == last), None if last else 0)
        if at is None:
            return _bhs_error("ErrMerkleRootNotFound", "no block with provided merkleroot was found", 404)
        content = rows[at : at + size]
        more = at + size < len(rows)
        key = content[-1]["merkleRoot"] if more else ""
        return reply({
            "content": content, "page": {"totalElements": len(rows), "size": len(content), "lastEvaluatedKey": key},
        })  # fmt: skip

    async def _tip(self, _: web.Request) -> web.Response:
        header = self.view.header(self.view.tip)
        assert header is not None
        fields = _bhs_header(header) | {"work": WORK}
        return reply({
            "header": fields, "state": "LONGEST_CHAIN", "chainWork": header.chain_work, "height": header.height,
        })  # fmt: skip

    async def _by_height(self, request: web.Request) -> web.Response:
        found = self.view.headers(number(request, "height"), min(number(request, "count", 1), MAX_COUNT))
        if not found:
            return _bhs_error("ErrHeadersForGivenRangeNotFound", "headers for given range not found", 404)
        return reply([_bhs_header(header) for header in found])

    async def _header(self, request: web.Request) -> web.Response:
        header = self._found(request)
        return reply(_bhs_header(header)) if header else _bhs_error("ErrHeaderNotFound", "header not found", 404)

    async def _state(self, request: web.Request) -> web.Response:
        if (header := self._found(request)) is None:
            return _bhs_error("ErrHeaderNotFound", "header not found", 404)
        state = "LONGEST_CHAIN" if header.on_best_chain else "STALE"
        return reply({
            "header": _bhs_header(header), "state": state, "chainWork": str(header.chain_work), "height": header.height,
        })  # fmt: skip

    def _found(self, request: web.Request) -> Header | None:
        wanted = block_hash(request)
        return self.view.by_hash(wanted) if wanted else None


def _bhs_header(header: Header) -> dict[str, Any]:
    return {
        "hash": header.hash, "version": header.version, "prevBlockHash": header.previous, "merkleRoot": header.root,
        "creationTimestamp": header.time, "difficultyTarget": header.bits, "nonce": header.nonce, "work": str(WORK),
    }  # fmt: skip


def _bhs_error(code: str, message: str, status: int) -> web.Response:
    return reply({"code": code, "message": message}, status)


# --- Chaintracks


class Chaintracks(HeaderService):
    """v2 under /chaintracks/v2, as go-chaintracks; v1 under /chaintracks/v1, and at the root, as wallet-toolbox.

    Of a height below the checkpoint v2 tells the root alone, where it knows one; v1 and the binary forms tell nothing.
    """

    name = "chaintracks"

    def add_routes(self) -> None:
        """Both generations."""
        v2 = "/chaintracks/v2"
        self.get(f"{v2}/network", self._network)
        self.get(f"{v2}/height", self._height)
        self.get(f"{v2}/tip", self._tip)
        self.get(f"{v2}/tip.bin", self._tip_bin)
        self.get(f"{v2}/headers", self._range)
        self.get(f"{v2}/header/height/{{height:[0-9]+}}.bin", self._at_bin)
        self.get(f"{v2}/header/height/{{height}}", self._at)
        self.get(f"{v2}/header/hash/{{hash:[0-9a-fA-F]+}}.bin", self._hash_bin)
        self.get(f"{v2}/header/hash/{{hash}}", self._hash)
        for base in ("/chaintracks/v1", ""):
            self.get(f"{base}/getChain", self._v1(lambda _: "main"))
            self.get(f"{base}/getInfo", self._v1(self._info))
            self.get(f"{base}/getPresentHeight", self._v1(lambda _: self.view.tip))
            self.get(f"{base}/findChainTipHeaderHex", self._v1(lambda _: _ct_header(self.view.header(self.view.tip))))
            self.get(f"{base}/findChainTipHashHex", self._v1(self._tip_hash))
            self.get(
                f"{base}/findHeaderHexForHeight", self._v1(lambda r: _ct_header(self.view.header(number(r, "height"))))
            )
            self.get(f"{base}/findHeaderHexForBlockHash", self._v1(lambda r: _ct_header(self._found(r))))
            self.get(f"{base}/getHeaders", self._v1(lambda r: self._raw_range(r).hex()))

    def _found(self, request: web.Request) -> Header | None:
        """By hash, on the best chain."""
        wanted = block_hash(request)
        header = self.view.by_hash(wanted) if wanted else None
        return header if header is not None and header.on_best_chain else None

    def _raw_range(self, request: web.Request) -> bytes:
        return self.view.raws(number(request, "height"), min(number(request, "count"), MAX_COUNT))

    # v2

    async def _network(self, _: web.Request) -> web.Response:
        return reply({"network": "main"})

    async def _height(self, _: web.Request) -> web.Response:
        return reply({"height": self.view.tip})

    async def _tip(self, _: web.Request) -> web.Response:
        return _v2(self.view.header(self.view.tip))

    async def _tip_bin(self, _: web.Request) -> web.Response:
        return _v2_bin(self.view.header(self.view.tip))

    async def _at(self, request: web.Request) -> web.Response:
        height = number(request, "height")
        header, root = self.view.header(height), self.view.root(height)
        if header is None and root is not None:
            return reply({"height": height, "merkleRoot": display(root)})
        return _v2(header)

    async def _at_bin(self, request: web.Request) -> web.Response:
        return _v2_bin(self.view.header(number(request, "height")))

    async def _hash(self, request: web.Request) -> web.Response:
        if block_hash(request) is None:
            return reply({"error": "Invalid hash parameter"}, 400)
        return _v2(self._found(request))

    async def _hash_bin(self, request: web.Request) -> web.Response:
        return _v2_bin(self._found(request))

    async def _range(self, request: web.Request) -> web.Response:
        return web.Response(body=self._raw_range(request), content_type="application/octet-stream")

    # v1

    def _v1(self, ask: Callable[[web.Request], object]) -> Callable[[web.Request], Any]:
        async def handler(request: web.Request) -> web.Response:
            return reply({"status": "success", "value": ask(request)})

        return handler

    def _info(self, _: web.Request) -> dict[str, Any]:
        tip = self.view.tip
        return {
            "chain": "main", "heightBulk": 0, "heightLive": tip, "storage": "simulated",
            "bulkIngestors": [], "liveIngestors": [], "packages": [],
        }  # fmt: skip

    def _tip_hash(self, _: web.Request) -> str | None:
        header = self.view.header(self.view.tip)
        return None if header is None else header.hash


def _ct_header(header: Header | None) -> dict[str, Any] | None:
    if header is None:
        return None
    return {
        "version": header.version, "previousHash": header.previous, "merkleRoot": header.root, "time": header.time,
        "bits": header.bits, "nonce": header.nonce, "height": header.height, "hash": header.hash,
    }  # fmt: skip


def _v2(header: Header | None) -> web.Response:
    return reply({"error": "Header not found"}, 404) if header is None else reply(_ct_header(header))


def _v2_bin(header: Header | None) -> web.Response:
    if header is None:
        return reply({"error": "Header not found"}, 404)
    return web.Response(
        body=header.raw, content_type="application/octet-stream", headers={"X-Block-Height": str(header.height)}
    )


# --- WhatsOnChain


class WhatsOnChain(HeaderService):
    """Under /v1/bsv/main; the key stands alone in the Authorization header.

    Of a height below the checkpoint it tells what it knows: height, root, confirmations.
    """

    name = "woc"
    scheme = ""
    path = "/v1/bsv/main"

    def add_routes(self) -> None:
        """Headers by height or hash, the newest ten, and the chain's state."""
        self.get(f"{self.path}/block/headers", self._newest)
        self.get(f"{self.path}/block/{{at}}/header", self._header)
        self.get(f"{self.path}/chain/info", self._info)

    async def _header(self, request: web.Request) -> web.Response:
        text = request.match_info["at"]
        if text.isascii() and text.isdigit():
            header, root = self.view.header(int(text)), self.view.root(int(text))
            if header is None and root is not None:
                confirmations = self.view.tip - int(text) + 1
                return reply({"height": int(text), "merkleroot": display(root), "confirmations": confirmations})
        else:
            wanted = block_hash(request, "at")
            header = self.view.by_hash(wanted) if wanted else None
        return web.Response(text="Not Found", status=404) if header is None else reply(self._fields(header))

    async def _newest(self, _: web.Request) -> web.Response:
        found = self.view.headers(self.view.tip - 9, 10)
        return reply([self._fields(header) for header in reversed(found)])

    async def _info(self, _: web.Request) -> web.Response:
        header = self.view.header(self.view.tip)
        assert header is not None
        return reply({
            "chain": "main", "blocks": header.height, "headers": header.height, "bestblockhash": header.hash,
            "difficulty": DIFFICULTY, "mediantime": self.view.median_time_past(), "verificationprogress": 1.0,
            "pruned": False, "chainwork": f"{header.chain_work:064x}",
        })  # fmt: skip

    def _fields(self, header: Header) -> dict[str, Any]:
        above = self.view.header(header.height + 1) if header.on_best_chain else None
        return {
            "hash": header.hash,
            "confirmations": self.view.tip - header.height + 1 if header.on_best_chain else -1,
            "height": header.height,
            "version": header.version,
            "versionHex": f"{header.version:08x}",
            "merkleroot": header.root,
            "time": header.time,
            "nonce": header.nonce,
            "bits": f"{header.bits:08x}",
            "difficulty": DIFFICULTY,
            "chainwork": f"{header.chain_work:064x}",
            "previousblockhash": header.previous,
            "nextblockhash": above.hash if above else "",
        }


DIALECTS: dict[str, type[HeaderService]] = {
    kind.name: kind for kind in (BlockHeadersService, Chaintracks, WhatsOnChain)
}
