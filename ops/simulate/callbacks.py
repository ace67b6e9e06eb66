"""How a simulated ARC calls back: each new status, to whoever asked with the transaction, until it is taken."""

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import aiohttp
from aiohttp import web

from schemas.types import Txid

LOOK_S = 0.05
"""Between two looks whether something has a new status."""

TRIES = 10
"""As ARC: then nobody is called about that status any more."""

AGAIN_S = 0.2
"""Between two tries; ARC waits for minutes."""

WITHIN_S = 5.0

ALWAYS = frozenset({"REJECTED", "MINED", "MINED_IN_STALE_BLOCK"})
"""Statuses that everybody hears of; others, who asked for `X-FullStatusUpdates`."""

FULL = frozenset({"SEEN_IN_ORPHAN_MEMPOOL", "SEEN_ON_NETWORK", "DOUBLE_SPEND_ATTEMPTED"})

ENDS = frozenset({"REJECTED", "MINED"})
"""Behind these nobody is called again."""

KEPT = 100_000
"""Callers at most; the oldest is forgotten."""

FIELDS = ("txid", "txStatus", "extraInfo", "competingTxs", "merklePath", "blockHash", "blockHeight")


class Caller:
    """One a service."""

    def __init__(self, status: Callable[[Txid], Mapping[str, Any] | None], now: Callable[[], str]) -> None:
        """status: where a transaction stands, as `GET /v1/tx` tells; now: RFC 3339."""
        self._status = status
        self._now = now
        self._asked: OrderedDict[tuple[Txid, str], tuple[str, frozenset[str]]] = OrderedDict()
        self._told: dict[tuple[Txid, str], str] = {}
        self._task: asyncio.Task[None] | None = None
        self.taken = 0
        self.refused = 0

    def asks(self, txid: Txid, request: web.Request) -> None:
        """The headers that came with a transaction."""
        if url := request.headers.get("X-CallbackUrl", ""):
            full = request.headers.get("X-FullStatusUpdates", "").lower() == "true"
            token = request.headers.get("X-CallbackToken", "")
            self._asked[txid, url] = token, ALWAYS | FULL if full else ALWAYS
            while len(self._asked) > KEPT:
                self._told.pop(self._asked.popitem(last=False)[0], None)

    async def start(self, _: web.Application) -> None:
        """Call, from here on."""
        self._task = asyncio.create_task(self._run())

    async def stop(self, _: web.Application) -> None:
        """Call nobody any more."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=WITHIN_S)) as session:
            while True:
                for key, (token, wanted) in list(self._asked.items()):
                    found = self._status(key[0]) or {}
                    status = found.get("txStatus", "")
                    if status in wanted and self._told.get(key) != status:
                        self._told[key] = status
                        if status in ENDS:
                            self._asked.pop(key, None)
                        await self._call(session, key[1], token, found)
                await asyncio.sleep(LOOK_S)

    async def _call(self, session: aiohttp.ClientSession, url: str, token: str, found: Mapping[str, Any]) -> None:
        body = {"timestamp": self._now(), **{name: found[name] for name in FIELDS if found.get(name)}}
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        for _ in range(TRIES):
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):  # as good as a refusal: again
                async with session.post(url, json=body, headers=headers) as answer:
                    if answer.status < 300:
                        self.taken += 1
                        return
            self.refused += 1
            await asyncio.sleep(AGAIN_S)
