"""One health answer for a supervisor's workers."""

import asyncio

import aiohttp
from aiohttp import web

from ops.running import running_workers
from ops.supervisor import Supervisor

TIMEOUT_S = 2.0


class Health:
    """Serves `/livez` and `/readyz` on loopback: ready when every child is."""

    def __init__(self, supervisor: Supervisor, port: int) -> None:
        self._supervisor = supervisor
        self._port = port
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def start(self) -> None:
        """Bind.

        Raises:
            OSError: the port is taken.
        """
        app = web.Application()
        app.router.add_get("/livez", self._live)
        app.router.add_get("/readyz", self._ready)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"

    async def stop(self) -> None:
        """Close."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _live(self, _: web.Request) -> web.Response:
        return web.json_response({"alive": True})

    async def _ready(self, _: web.Request) -> web.Response:
        here = {worker.pid: worker for worker in running_workers()}
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)) as session:
            found = await asyncio.gather(
                *(
                    _asks(session, here[child.pid].http if child.pid in here else None)
                    for child in self._supervisor.children
                )
            )
        children = {
            child.spec.name: {"ready": ready, "pid": child.pid, "restarts": child.restarts}
            for child, ready in zip(self._supervisor.children, found, strict=True)
        }
        ready = all(found)
        return web.json_response({"ready": ready, "children": children}, status=200 if ready else 503)


async def _asks(session: aiohttp.ClientSession, url: str | None) -> bool:
    if url is None:
        return False
    try:
        async with session.get(f"{url}/readyz") as response:
            return response.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False


async def serve_health(supervisor: Supervisor, port: int) -> Health:
    """Start serving.

    Raises:
        OSError: the port is taken.
    """
    health = Health(supervisor, port)
    await health.start()
    return health
