"""Simulated header services in the test's own process, over a chain a test may change."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp.test_utils import TestServer

from agents.runtime.headers import Follower, HeaderSettings, News
from agents.runtime.http import HttpSettings, Transport
from ops.instruments.chain import CHECKPOINT, BareChain
from ops.simulate.dialects import DIALECTS
from ops.simulate.faults import Fault
from pipeline.chain.headers import header_hash
from schemas.types import display
from tests.agents.serving import Clock

PATHS = {"bhs": "", "chaintracks": "", "chaintracks-v1": "/chaintracks/v1", "woc": "/v1/bsv/main"}

NOW = 1_800_000_000.0
"""Unix seconds; all simulated blocks are older."""


class Told:
    """A chain of given headers from the checkpoint up."""

    def __init__(self, headers: Sequence[bytes]) -> None:
        self.headers = list(headers)

    @property
    def tip(self) -> int:
        return CHECKPOINT + len(self.headers) - 1

    @tip.setter
    def tip(self, _: int) -> None:
        raise AssertionError("it follows from the headers")

    def refresh(self) -> bool:
        return False

    def header(self, height: int) -> bytes:
        return self.headers[height - CHECKPOINT]

    def branch(self, depth: int, roots: Sequence[bytes] = ()) -> list[bytes]:
        raise AssertionError("a test tells another chain instead")


def headers_of(chain: BareChain) -> list[bytes]:
    return [chain.header(height) for height in range(CHECKPOINT, chain.tip + 1)]


def begins(headers: Sequence[bytes]) -> str:
    """The first of them as the setting names it."""
    return f"{CHECKPOINT}:{display(header_hash(headers[0]))}"


class Source:
    """A header service."""

    def __init__(self, dialect: str, headers: Sequence[bytes]) -> None:
        self.dialect = dialect
        self.service = DIALECTS[dialect.removesuffix("-v1")](Told(headers))
        self.url = ""

    def tell(self, headers: Sequence[bytes]) -> None:
        """Another chain from here on."""
        self.service.view.chain = Told(headers)

    def fault(self, mode: str, **details: Any) -> None:
        """As `POST /simulate/faults`."""
        self.service.faults.order(Fault(mode=mode, **details))

    @property
    def asked(self) -> int:
        return self.service.requests

    @property
    def setting(self) -> str:
        return f"{self.dialect}={self.url}{PATHS[self.dialect]}"


class World:
    """Sources, and what follows them."""

    def __init__(self, sources: Sequence[Source], transport: Transport, clock: Clock, folder: Path) -> None:
        self.sources = sources
        self.transport = transport
        self.clock = clock
        self.folder = folder
        self.news: list[News] = []

    def follower(self, headers: Sequence[bytes], **more: Any) -> Follower:
        """One of the sources, from the first of `headers` up, at regtest's difficulty; not opened."""
        settings = {"checkpoint": begins(headers), "easiest_bits": "207fffff"} | more
        now = settings.pop("now", NOW)
        return Follower(
            HeaderSettings(**settings),
            tuple(source.setting for source in self.sources),
            self.transport,
            self.folder,
            clock=self.clock,
            now=lambda: now,
            tell=self.news.append,
        )


@asynccontextmanager
async def world_of(folder: Path, headers: Sequence[bytes], *dialects: str) -> AsyncIterator[World]:
    """Services of these dialects, all over `headers`."""
    async with AsyncExitStack() as stack:
        sources = [Source(dialect, headers) for dialect in dialects]
        for source in sources:
            server = TestServer(source.service.app, host="127.0.0.1")
            await server.start_server(shutdown_timeout=0.1)
            stack.push_async_callback(server.close)
            stack.callback(source.service.stopping.set)  # what hangs on purpose is let go
            source.url = str(server.make_url("")).rstrip("/")
        clock = Clock()
        transport = await stack.enter_async_context(Transport(HttpSettings(), clock=clock))
        yield World(sources, transport, clock, folder)
