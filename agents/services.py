"""Header services as a tracker for callers that wait: the quorum of the stages, asked from a thread."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from types import TracebackType
from typing import Self

from agents.runtime.http import HttpSettings, Remote, Transport
from agents.runtime.trackers import NoQuorum, Trackers, TrackerSettings
from agents.verifier import Loop, NoAnswerError
from pipeline.chain.answer import Answer, RootAt, Tip
from pipeline.chain.trackers import TRACKERS
from pipeline.http import HttpReply, Unreadable

FEWEST = 2
"""Equal answers that decide, where as many services are named."""


class Services:
    """A quorum of header services.

    Use as a context manager, from one thread or several.
    """

    def __init__(self, named: Sequence[str], http: HttpSettings = HttpSettings()) -> None:  # noqa: B008 - frozen
        """Connect.

        named: `dialect=URL` or `dialect=URL;token-file=PATH` (bhs, chaintracks, chaintracks-v1, woc), or a URL alone,
            whose dialect is found by asking for its tip. Two equal answers decide; of one service, its own.

        Raises:
            ValueError: an entry of another form, no entry, a host twice, or a URL that answers in no dialect known.
            OSError: a key file cannot be read.
        """
        self._loop = Loop()
        self._transport = Transport(http)
        self._trackers: Trackers | None = None
        try:
            self._loop.wait(self._open(named))
        except BaseException:
            self.close()
            raise

    async def _open(self, named: Sequence[str]) -> None:
        await self._transport.__aenter__()
        timeout_s = TrackerSettings().timeout_s
        full = await asyncio.gather(*(_with_dialect(each, self._transport, timeout_s) for each in named))
        settings = TrackerSettings(trackers=tuple(full), needed=max(1, min(FEWEST, len(full))))
        self._trackers = Trackers(settings, self._transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close connections."""
        self._loop.wait(self._close())
        self._loop.close()

    async def _close(self) -> None:
        if self._trackers is not None:
            await self._trackers.close()
        await self._transport.__aexit__(None, None, None)

    def tip(self) -> Tip:
        """The tip a quorum vouches for.

        Raises:
            NoAnswerError: too few services answer.
        """
        assert self._trackers is not None
        try:
            return self._loop.wait(self._trackers.tip())
        except NoQuorum as error:
            raise NoAnswerError(error.code, str(error)) from error

    def ask(self, roots: Collection[RootAt]) -> Mapping[RootAt, Answer]:
        """The quorum's word on each root.

        Raises:
            NoAnswerError: too few services answer.
        """
        assert self._trackers is not None
        try:
            return self._loop.wait(self._trackers.ask(roots))
        except NoQuorum as error:
            raise NoAnswerError(error.code, str(error)) from error


async def _with_dialect(named: str, transport: Transport, timeout_s: float) -> str:
    """The entry with its dialect in front; found out where it has none."""
    if "=" in named.split("://")[0]:
        return named
    url = named.split(";")[0].rstrip("/")
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"{named!r} is neither dialect=URL nor a URL")
    found = await asyncio.gather(*(_speaks(dialect, url, transport, timeout_s) for dialect in TRACKERS))
    for dialect, speaks in zip(TRACKERS, found, strict=True):
        if speaks:
            return f"{dialect}={named}"
    raise ValueError(f"{url} answers in none of the dialects {', '.join(TRACKERS)}")


async def _speaks(dialect: str, url: str, transport: Transport, timeout_s: float) -> bool:
    rules = TRACKERS[dialect]

    def read(reply: HttpReply) -> tuple[bool, str]:
        found = rules.read_tip(reply.status, reply.body)
        return (False, found.why) if isinstance(found, Unreadable) else (True, "")

    remote = Remote(dialect, url)
    said = await transport.send(remote, rules.ask_tip(), read, timeout_s, rules.authorization)
    return said is True
