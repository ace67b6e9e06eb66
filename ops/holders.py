"""Workers that hold a context, each asked for itself."""

from collections.abc import Sequence
from types import TracebackType

import aiohttp
import msgspec

from agents.runtime.cluster import look
from agents.runtime.health import token
from agents.runtime.members import Directory
from agents.runtime.partitioner import partition_for
from agents.runtime.reads import FORWARDED
from ops.settings import Settings
from schemas.external import ContextState
from schemas.types import Context
from topics.registry import MEMBERS, OPERATIONS

WITHIN_S = 15.0
"""A worker waits 5 s for what must come first."""


class Holders:
    """For `async with`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._directory = Directory(settings.kafka, MEMBERS.named(settings.topics.prefix))

    async def __aenter__(self) -> "Holders":
        cluster = await look(self._settings.kafka, self._settings.topics)
        self._count = cluster.partitions[OPERATIONS.name]
        given = token(self._settings.worker)
        headers = {FORWARDED: "1", **({"Authorization": f"Bearer {given}"} if given else {})}
        self._session = aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=WITHIN_S))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()
        await self._directory.stop()

    def partition(self, context: Context) -> int:
        """Which partition a context is in."""
        return partition_for(context.encode(), self._count)

    async def addresses(self, number: int) -> Sequence[str]:
        """Of who says that it holds a partition, the owner first."""
        return (await self._directory.holders()).get(number, ())

    async def state(self, url: str, context: Context, *, strong: bool = False) -> ContextState | str:
        """Where a context stands in this worker's own store; or why it does not say."""
        consistency = "strong" if strong else "any"
        kind, _, name = context.partition(":")
        try:
            async with self._session.get(f"{url}/{kind}s/{name}/state?consistency={consistency}") as response:
                body = await response.read()
                if response.status == 200:
                    return msgspec.json.decode(body, type=ContextState)
                return f"{response.status}: {body.decode(errors='replace')[:200]}"
        except (aiohttp.ClientError, TimeoutError, msgspec.MsgspecError) as error:
            return f"{error or type(error).__name__}"

    async def make_again(self, url: str, number: int) -> str:
        """Have a worker make its store of a partition again; empty, or why it does not."""
        try:
            async with self._session.post(f"{url}/repair/{number}") as response:
                body = await response.read()
                return "" if response.status == 202 else f"{response.status}: {body.decode(errors='replace')[:200]}"
        except (aiohttp.ClientError, TimeoutError) as error:
            return f"{error or type(error).__name__}"
