"""How a simulated service runs: one process, a free port, the URL as first line, faults by HTTP, ends when told to."""

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web

from ops.simulate.faults import TRANSPORT, Fault, Faults

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

MAX_BODY = 256 << 20
"""Bytes: Arcade's limit for a batch, the larger of the services simulated."""

JSON = "application/json"


def reply(value: object, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """A JSON answer."""
    return web.Response(body=msgspec.json.encode(value), status=status, content_type=JSON, headers=headers)


class Service:
    """One simulated service: its routes behind its faults, and `/simulate/…`, which no fault touches."""

    def __init__(self, name: str, faults: Faults, *, token: str = "", scheme: str = "Bearer ", path: str = "") -> None:
        self.name = name
        self.faults = faults
        self.requests = 0
        self.stopping = asyncio.Event()
        self._key = scheme + token if token else ""
        self._path = path
        self.app = web.Application(client_max_size=MAX_BODY, middlewares=[self._middleware])
        self.app.router.add_post("/simulate/faults", self._order)
        self.app.router.add_get("/simulate/faults", self._list)
        self.app.router.add_get("/simulate/stats", self._stats)

    def get(self, path: str, handler: Handler) -> None:
        """Route GET."""
        self.app.router.add_get(path, handler)

    def post(self, path: str, handler: Handler) -> None:
        """Route POST."""
        self.app.router.add_post(path, handler)

    async def order(self, body: bytes) -> None:
        """Take an order for a fault.

        Raises:
            ValueError: it is not one of this service's (also msgspec.ValidationError).
        """
        self.faults.order(msgspec.json.decode(body, type=Fault))

    def stats(self) -> dict[str, object]:
        """What `GET /simulate/stats` tells: requests taken, and faults met by mode."""
        return {"requests": self.requests, "faults": self.faults.met}

    async def _stats(self, _: web.Request) -> web.Response:
        return reply(self.stats())

    async def _order(self, request: web.Request) -> web.Response:
        try:
            await self.order(await request.read())
        except (ValueError, msgspec.MsgspecError) as refused:
            return reply({"error": str(refused)}, 400)
        return await self._list(request)

    async def _list(self, _: web.Request) -> web.Response:
        active = [
            {k: v for k, v in msgspec.to_builtins(f).items() if k not in ("until", "owed")}
            for f in self.faults.active()
        ]
        return reply({"faults": active})

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path.startswith("/simulate/"):
            return await handler(request)
        self.requests += 1
        fault = self.faults.meets(*TRANSPORT)
        if fault is not None:
            early = await self._before(fault, request)
            if early is not None:
                return early
        if self._key and request.headers.get("Authorization") != self._key:
            return reply({"status": 401, "title": "Unauthorized", "detail": "a key is missing or wrong"}, 401)
        answer = await handler(request)
        if fault is not None and fault.mode == "lost-reply":
            return _cut(request)
        if fault is not None and fault.mode == "malformed":
            return web.Response(text="<html><body>upstream said something else</body></html>", content_type="text/html")
        return answer

    async def _before(self, fault: Fault, request: web.Request) -> web.Response | None:
        """The answer of a fault that comes before the work; None when the work is done all the same."""
        match fault.mode:
            case "down":
                return _cut(request)
            case "hang" | "silent":
                await self.stopping.wait()
                return _cut(request)
            case "5xx":
                return web.Response(text="simulated fault\n", status=fault.status)
            case "429":
                body = {"status": 429, "title": "Too Many Requests", "detail": "simulated fault"}
                return reply(body, 429, {"Retry-After": str(fault.retry_after_s)})
            case "busy":
                return reply({"error": "simulated fault"}, 503, {"Retry-After": str(fault.retry_after_s)})
            case "slow":
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.stopping.wait(), fault.delay_ms / 1000)
        return None

    async def run(self, host: str, port: int) -> None:
        """Serve until SIGTERM or SIGINT. The first line on stdout is `<name> <url>`; by then it answers."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stopping.set)
        runner = web.AppRunner(self.app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        await web.TCPSite(runner, host, port).start()
        bound = runner.addresses[0][1]
        sys.stdout.write(f"{self.name} http://{host}:{bound}{self._path}\n")
        sys.stdout.flush()
        await self.stopping.wait()
        await runner.cleanup()


def _cut(request: web.Request) -> web.Response:
    """Close the connection; the response goes nowhere."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


PR_SET_PDEATHSIG = 1


def end_with_parent(parent: int) -> None:
    """Have the kernel send SIGTERM to this process when the thread that started it ends.

    parent: the process that started this one; when it is gone already, this process ends at once.

    Raises:
        OSError: the kernel refuses, or has no such call (it is Linux's).
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)
