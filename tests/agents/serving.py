"""Small HTTP servers on loopback, in the test's own process, that behave as a test tells them to."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from aiohttp.test_utils import TestServer

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def served(handler: Handler) -> AsyncIterator[str]:
    """The base URL of a server whose every request goes to `handler`."""

    async def entry(request: web.Request) -> web.StreamResponse:
        return await handler(request)  # aiohttp wants a function, and some handlers are objects

    app = web.Application(client_max_size=64 << 20)
    app.router.add_route("*", "/{path:.*}", entry)
    server = TestServer(app, host="127.0.0.1")
    await server.start_server(shutdown_timeout=0.1)  # handlers that hang on purpose are not waited for
    try:
        yield str(server.make_url("")).rstrip("/")
    finally:
        await server.close()


async def reset(request: web.Request) -> web.StreamResponse:
    """Break the connection without a reply."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def hang(request: web.Request) -> web.StreamResponse:
    """Never answer."""
    await asyncio.Event().wait()
    raise AssertionError("an event nobody sets")


def nobody() -> str:
    """A loopback URL where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


async def until(true: Callable[[], bool], within_s: float = 5.0) -> None:
    """Wait for something another task brings about."""
    async with asyncio.timeout(within_s):
        while not true():
            await asyncio.sleep(0.002)


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now

    def pass_s(self, seconds: float) -> None:
        self.now += seconds
