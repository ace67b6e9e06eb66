"""A whole installation on this machine: broker, topics, simulated network, a worker for each stage."""

import asyncio
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import aiohttp
from msgspec import Struct

from agents.runtime.cluster import create
from ops import broker as brokers
from ops.home import home
from ops.instruments.chain import Chain
from ops.running import broker_settings, say_local, unsay_local
from ops.settings import Loaded, flags_of, load
from ops.stages import STAGES
from ops.status import StageStatus, status
from ops.supervisor import Spec, Supervisor, simulate_spec, worker_spec

READY_WITHIN_S = 60.0

ARCS = 2
DIALECTS = ("bhs", "chaintracks", "woc")

Say = Callable[[str], None]


class NotReady(Exception):  # noqa: N818 - what the installation is
    """It did not come up in time."""


class Services(Struct, frozen=True):
    """Addresses of the simulated network."""

    arcs: tuple[str, ...]
    headers: tuple[tuple[str, str], ...]  # dialect and URL

    def settings(self) -> tuple[str, ...]:
        """Settings that use them."""
        endpoints = ",".join(f"arc={url}" for url in self.arcs)
        trackers = ",".join(f"{dialect}={url}" for dialect, url in self.headers)
        return (f"broadcast.endpoints={endpoints}", f"trackers.trackers={trackers}")


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on, as of now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()


class Installation:
    """Started and stopped as one."""

    def __init__(
        self,
        *,
        flags: Sequence[str] = (),
        stages: Sequence[str] = STAGES,
        workers: int = 1,
        network: Literal["main", "test", "dev"] = "dev",
        bootstrap: str = "",
        arc: Sequence[str] = (),
        say: Say = lambda _: None,
    ) -> None:
        """Name what is to be started.

        flags: settings that win over those of the installation; workers: of each stage; arc: options of the simulated
            endpoints.
        """
        self._arc = tuple(arc)
        self._own_flags = tuple(flags)
        self._stages = tuple(stages)
        self._workers = workers
        self._network = network
        self._bootstrap = bootstrap
        self._say = say
        self.broker: brokers.Running | None = None
        self.services: Services | None = None
        self.simulated: Supervisor | None = None
        self.workers: Supervisor | None = None
        self.loaded: Loaded | None = None

    async def start(self) -> Loaded:
        """Bring everything up; returns the settings it runs with.

        Raises:
            ops.broker.BrokerError: no broker can be started here.
            NotReady: something did not come up in time.
        """
        self._say("broker")
        # Guarded processes end with the thread that made them: this is the main one.
        self.broker = brokers.start(1, guarded=not self._bootstrap, bootstrap=self._bootstrap)
        local = broker_settings(self.broker.bootstrap, 1)
        self._say("simulated network")
        chain = home() / "simulate" / "chain"
        begins = (await asyncio.to_thread(Chain.open, chain)).begins
        self.services = self._plan_services()
        local = (
            *local,
            *self.services.settings(),
            f"worker.data_dir={home() / 'data'}",
            f"headers.checkpoint={begins}",
        )
        self.loaded = load(network=self._network, local=local, flags=self._own_flags)
        settings = self.loaded.settings
        self.simulated = Supervisor(self._simulated_specs(chain), settings.supervisor, home() / "logs")
        self.simulated.start()
        self._say("topics")
        await create(settings.kafka, settings.topics)
        await self._until_services()
        self._say("workers")
        flags = flags_of(self.loaded)
        specs = [worker_spec(stage, flags, n) for stage in self._stages for n in range(self._workers)]
        self.workers = Supervisor(specs, settings.supervisor, home() / "logs")
        self.workers.start()
        await self.until_ready()
        say_local(
            os.getpid(),
            flags,
            {"services": {"arc": list(self.services.arcs), "headers": dict(self.services.headers)}},
        )
        return self.loaded

    async def stop(self) -> None:
        """Take everything down, workers first."""
        unsay_local()
        for supervisor in (self.workers, self.simulated):
            if supervisor is not None:
                await supervisor.stop()
        if self.broker is not None and self.broker.began:
            await asyncio.to_thread(self.broker.stop)

    async def status(self) -> list[StageStatus]:
        """Each stage, as it is."""
        assert self.loaded is not None
        return await status(self.loaded.settings.kafka, self.loaded.settings.topics)

    async def until_ready(self, within_s: float = READY_WITHIN_S) -> None:
        """Wait until every stage that runs here is ready.

        Raises:
            NotReady: it is not, within the time.
        """
        deadline = asyncio.get_running_loop().time() + within_s
        while True:
            rows = [row for row in await self.status() if row.stage in self._stages]
            if all(row.health == "ready" for row in rows) and len(rows) == len(self._stages) * self._workers:
                return
            if asyncio.get_running_loop().time() > deadline:
                late = ", ".join(
                    f"{row.stage} {row.state} {row.reason or ''}".strip() for row in rows if row.health != "ready"
                )
                raise NotReady(f"not ready within {within_s:.0f} s: {late}; see {home() / 'logs'}")
            await asyncio.sleep(0.25)

    def _plan_services(self) -> Services:
        ports = free_ports(ARCS + len(DIALECTS))
        urls = [f"http://127.0.0.1:{port}" for port in ports]
        # WhatsOnChain's paths stand behind the network's name.
        headers = [(d, f"{u}/v1/bsv/main" if d == "woc" else u) for d, u in zip(DIALECTS, urls[ARCS:], strict=True)]
        return Services(tuple(urls[:ARCS]), tuple(headers))

    def _simulated_specs(self, chain: Path) -> list[Spec]:
        assert self.services is not None
        network = home() / "simulate" / "network"
        network.unlink(missing_ok=True)
        common = ("--chain", str(chain))
        specs = [
            simulate_spec(f"arc.{n}", "arc", "--port", _port(url), "--network", str(network), *self._arc, *common)
            for n, url in enumerate(self.services.arcs)
        ]
        specs += [
            simulate_spec(f"headers.{dialect}", "headers", "--dialect", dialect, "--port", _port(url), *common)
            for dialect, url in self.services.headers
        ]
        return specs

    async def _until_services(self) -> None:
        assert self.services is not None
        bases = [*self.services.arcs, *(url.removesuffix("/v1/bsv/main") for _, url in self.services.headers)]
        deadline = asyncio.get_running_loop().time() + READY_WITHIN_S
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session:
            for base in bases:
                while not await _answers(session, f"{base}/simulate/faults"):
                    if asyncio.get_running_loop().time() > deadline:
                        raise NotReady(f"{base} does not answer; see {home() / 'logs'}")
                    await asyncio.sleep(0.1)


def _port(url: str) -> str:
    return url.split("//")[1].split("/")[0].rsplit(":", 1)[1]


async def _answers(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(url) as response:
            return response.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False
