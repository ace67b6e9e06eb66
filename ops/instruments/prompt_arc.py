"""An ARC that takes everything, some milliseconds later, and costs next to nothing: to measure who calls it.

It knows beforehand what will come, all of one length, so that it answers truthfully by txid without reading any of it.

    python -m ops.instruments.prompt_arc FILE LENGTH DELAY_MS      prints its name and URL
"""

import asyncio
import os
import sys
from pathlib import Path

import msgspec
from aiohttp import web

from ops.simulate.faults import Faults
from ops.simulate.service import Service, end_with_parent, reply

POLICY = {
    "policy": {
        "maxscriptsizepolicy": 500_000,
        "maxtxsizepolicy": 10_000_000,
        "miningFee": {"satoshis": 1, "bytes": 1000},
    }
}


def taken(txid: str) -> bytes:
    """What ARC says of one it took."""
    return msgspec.json.encode(
        {
            "timestamp": "2026-01-01T00:00:00Z", "txid": txid, "txStatus": "RECEIVED", "blockHash": "",
            "blockHeight": 0, "merklePath": "", "extraInfo": "", "competingTxs": None, "status": 200, "title": "OK",
        }
    )  # fmt: skip


class PromptArc(Service):
    """The service."""

    def __init__(self, answers: dict[bytes, bytes], length: int, delay_s: float) -> None:
        """answers: by transaction in Extended Format; length: bytes of each of those."""
        super().__init__("arc", Faults({}))
        self._answers = answers
        self._length = length
        self._delay_s = delay_s
        self.post("/v1/txs", self._submit)
        self.get("/v1/policy", self._policy)

    async def _submit(self, request: web.Request) -> web.Response:
        body = await request.read()
        said = [self._answers[body[at : at + self._length]] for at in range(0, len(body), self._length)]
        await asyncio.sleep(self._delay_s)
        return web.Response(body=b"[" + b",".join(said) + b"]", content_type="application/json")

    async def _policy(self, _: web.Request) -> web.Response:
        return reply(POLICY)


def main() -> None:
    """FILE holds txid (32 bytes, wire order) and Extended Format, one after the other."""
    end_with_parent(os.getppid())
    file, length, delay_ms = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    data, step = file.read_bytes(), 32 + length
    answers = {data[at + 32 : at + step]: taken(data[at : at + 32][::-1].hex()) for at in range(0, len(data), step)}
    asyncio.run(PromptArc(answers, length, delay_ms / 1000).run("127.0.0.1", 0))


if __name__ == "__main__":
    main()
