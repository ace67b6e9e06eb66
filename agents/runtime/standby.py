"""A worker in its group: what copies it brings, which it is told to keep, and when it asks for its share."""

import asyncio
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from agents import metrics
from agents.runtime.copies import Copies
from agents.runtime.placement import Dealt, Has
from agents.runtime.shelf import Shelf
from schemas.external import Severity

log = logging.getLogger(__name__)

LOOK_S = 0.5
"""Between looks whether copies became fresh."""

REJOIN_S = 30.0
"""Between two requests to deal anew: each holds the whole group up for a moment."""

NOT_DEALT = Dealt()
"""Before the group has dealt anything; by this very object."""


class Standby:
    """Between the group's assignor, which runs in the consumer's thread, and the copies."""

    def __init__(
        self,
        stage: str,
        host: str,
        replication: int,
        shelf: Shelf,
        tell: Callable[[str, Severity, str, dict[str, Any]], None],
    ) -> None:
        """host: what fails together, the machine's name where it is empty; tell: an event."""
        self._stage = stage
        self.host = host or socket.gethostname()
        self.replication = replication
        self._shelf = shelf
        self._tell = tell
        self.dealt = NOT_DEALT
        self.owned: tuple[int, ...] = ()  # as dealt last, given back or not
        self._missing = 0
        self._complete = False  # there were once as many copies as wanted

    def has(self) -> Has:
        """What this worker says when it joins."""
        return Has(self.host, dict(self._shelf.positions), self.owned)

    def deal(self, owned: Sequence[int], dealt: Dealt) -> None:
        """What the group told it."""
        self.owned, self.dealt = tuple(owned), dealt

    def wanted(self) -> set[int]:
        """Copies to follow now."""
        return set(self.dealt.followed) - self._shelf.taken.keys()

    def kept(self) -> set[int]:
        """Stores that are in use, or about to be: all, until the group has dealt."""
        return set(self._shelf.positions) if self.dealt is NOT_DEALT else {*self.dealt.followed, *self.owned}

    async def run(self, copies: Copies, rejoin: Callable[[], Awaitable[None]]) -> None:
        """Until cancelled. rejoin: has the group deal anew."""
        seen = asked = NOT_DEALT
        asked_at = -REJOIN_S
        while True:
            await asyncio.sleep(LOOK_S)
            dealt = self.dealt
            if dealt is not seen:
                seen = dealt
                copies.changed.set()
                self._say_missing(dealt.missing)
            metrics.COPIES.labels(self._stage).set(len(copies.fresh))
            due = asked is not dealt and time.monotonic() - asked_at >= REJOIN_S
            if due and dealt.warming and copies.fresh.issuperset(dealt.warming):
                log.info("copies of %d partitions are fresh: asking for this worker's share", len(dealt.warming))
                asked, asked_at = dealt, time.monotonic()
                await rejoin()

    def _say_missing(self, missing: int) -> None:
        metrics.COPIES_MISSING.labels(self._stage).set(missing)
        self._complete = self._complete or not missing
        if missing == self._missing:
            return
        self._missing = missing
        here = self.replication - missing
        if missing:
            message = f"the state is kept {here} times, not {self.replication}: the group has {here} workers"
            log.warning(message)
            if self._complete:  # else nothing was lost: it is a small installation, or one that starts
                self._tell("copies-missing", "warning", message, {"missing": missing})
        else:
            message = f"the state is kept {self.replication} times again"
            log.info(message)
            self._tell("copies-complete", "info", message, {})
