"""A stage's view of the chain: the trackers, a header follower where one is wanted, and the events of both."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from agents import metrics
from agents.runtime.chain_news import ChainNews
from agents.runtime.desk import Teller
from agents.runtime.headers import Follower, HeaderSettings, News, Reorganised
from agents.runtime.http import Transport
from agents.runtime.trackers import NoQuorum, Trackers, TrackerSettings

log = logging.getLogger(__name__)


def nobody(_: Reorganised) -> None:
    """Where nobody else has to know."""


class ChainWatch:
    """One a process."""

    def __init__(
        self,
        stage: str,
        trackers: TrackerSettings,
        headers: HeaderSettings,
        folder: Path,
        reorganised: Callable[[Reorganised], None] = nobody,
    ) -> None:
        """What is asked.

        folder: of the header follower, where `trackers.follower` wants one; reorganised: told of blocks that were
        replaced, after the trackers have forgotten what they said of them.
        """
        self._stage = stage
        self._settings = trackers
        self._headers = headers
        self._folder = folder
        self._reorganised = reorganised
        self._news = ChainNews(stage)
        self._follower: Follower | None = None
        self._trackers: Trackers | None = None

    def tell_to(self, teller: Teller) -> None:
        """Who writes events. Before `start`."""
        self._news = ChainNews(self._stage, teller)

    @property
    def trackers(self) -> Trackers:
        """The quorum, once started."""
        assert self._trackers is not None
        return self._trackers

    async def start(self, transport: Transport) -> None:
        """Ask through this transport, and follow headers if that is wanted. Raises as `Trackers` and `Follower`."""
        if self._settings.follower != "off":
            self._follower = Follower(
                self._headers, self._settings.trackers, transport, self._folder, tell=self._followed
            )
        self._trackers = Trackers(
            self._settings,
            transport,
            follower=self._follower,
            tell=self._news.disagreement,
            tell_reorganised=self._replaced,
        )
        metrics.register_chain(self._stage, self._trackers.names, self._follower.sources if self._follower else ())
        if self._follower is not None:
            await self._follower.start()

    async def stop(self) -> None:
        """Ask and follow no longer."""
        if self._follower is not None:
            await self._follower.close()
        if self._trackers is not None:
            await self._trackers.close()

    async def watch(self, every_s: float) -> None:
        """Ask for the tips, until cancelled: whoever asks for nothing else notices replaced blocks all the same."""
        while True:
            try:
                await self.trackers.tip()
            except NoQuorum as error:
                log.warning("the trackers' tips are not known: %s", error)
            await asyncio.sleep(every_s)

    def _followed(self, news: News) -> None:
        if isinstance(news, Reorganised):
            self.trackers.reorganised(news)
        else:
            self._news.followed(news)

    def _replaced(self, found: Reorganised) -> None:
        self._news.reorganised(found)
        self._reorganised(found)
