"""A worker's HTTP port: liveness, readiness, metrics, and a halted stage's resume."""

import hmac
import ipaddress
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

from aiohttp import web

from agents import metrics
from agents.runtime.settings import CALLBACK_PATH, WorkerSettings


class Watched(Protocol):
    """What the port tells of."""

    def alive(self) -> bool:
        """Whether the process should go on."""
        ...

    def ready(self) -> tuple[bool, dict[str, object]]:
        """Whether the stage does its work, and the particulars."""
        ...

    def resume(self) -> None:
        """Let a halted stage go on."""
        ...


class NeedsToken(Exception):  # noqa: N818 - what the settings lack
    """The port is bound beyond loopback, and no token protects it."""


def token(settings: WorkerSettings) -> str | None:
    """The bearer token that requests must carry, None on loopback without one.

    Raises:
        NeedsToken: bound wider, without a token, or the token's file is empty.
        OSError: the token's file cannot be read.
    """
    if settings.http_token_file:
        found = Path(settings.http_token_file).read_text(encoding="utf-8").strip()
        if not found:
            raise NeedsToken(f"{settings.http_token_file} is empty: worker.http_token_file holds the token")
        return found
    if not _is_loopback(settings.http_host):
        raise NeedsToken(f"worker.http_host is {settings.http_host}: set worker.http_token_file, or bind to loopback")
    return None


def _is_loopback(host: str) -> bool:
    """A name may lead anywhere, and no name is every address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Port:
    """Serves `/livez`, `/readyz`, `/metrics` and `POST /resume`, and what else is given."""

    def __init__(
        self, watched: Watched, settings: WorkerSettings, routes: Callable[[web.UrlDispatcher], None] | None = None
    ) -> None:
        """routes: what else is answered here."""
        self._watched = watched
        self._settings = settings
        self._routes = routes
        self._token = token(settings)
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def start(self) -> None:
        """Bind.

        Raises:
            OSError: the port is taken.
        """
        app = web.Application(middlewares=[self._authorise], client_max_size=1 << 20)
        app.router.add_get("/livez", self._live)
        app.router.add_get("/readyz", self._ready)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_post("/resume", self._resume)
        if self._routes is not None:
            self._routes(app.router)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._settings.http_host, self._settings.http_port)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def stop(self) -> None:
        """Close the port."""
        if self._runner is not None:
            await self._runner.cleanup()

    @web.middleware
    async def _authorise(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        # Probes of an orchestrator carry no token; they tell nothing but up or down. Callbacks have one of their own.
        if self._token is not None and request.path not in ("/livez", "/readyz", CALLBACK_PATH):
            given = request.headers.get("Authorization", "")
            # aiohttp keeps bytes that are no text as lone surrogates
            if not hmac.compare_digest(given.encode("utf-8", "surrogateescape"), f"Bearer {self._token}".encode()):
                return web.json_response({"error": "a bearer token is required"}, status=401)
        return await handler(request)

    async def _live(self, _: web.Request) -> web.Response:
        alive = self._watched.alive()
        return web.json_response({"alive": alive}, status=200 if alive else 503)

    async def _ready(self, _: web.Request) -> web.Response:
        ready, particulars = self._watched.ready()
        return web.json_response({"ready": ready, **particulars}, status=200 if ready else 503)

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=metrics.exposition(), headers={"Content-Type": "text/plain; version=0.0.4"})

    async def _resume(self, _: web.Request) -> web.Response:
        self._watched.resume()
        return web.json_response({"resumed": True})
