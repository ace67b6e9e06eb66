"""Looks through the stores of a worker, all the time and with a small share of a core (STORE-3)."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping

from agents import metrics
from agents.runtime.shelf import Readable
from agents.runtime.store import Walk
from pipeline.read import contexts
from pipeline.scrub import Scrub
from pipeline.state import Corrupt
from schemas.types import Context

log = logging.getLogger(__name__)

SLICE = 64
"""Entries between two turns of the loop: a millisecond."""

REST_S = 5.0
"""Between two passes, and while there is nothing to look through: stores that are small would be read in circles."""


class Scrubber:
    """One a worker."""

    def __init__(
        self,
        stage: str,
        stores: Mapping[int, Readable],
        spoil: Callable[[int, Corrupt], None],
        share: float,
        rest_s: float = REST_S,
    ) -> None:
        """What to look through.

        stores: by partition, as they come and go; spoil: told of a partition whose store is not what was written;
        share: of a core; 0 looks through nothing.
        """
        self._stage = stage
        self._stores = stores
        self._spoil = spoil
        self._share = share
        self._rest_s = rest_s
        self.passes = 0

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            for number in sorted(self._stores) if self._share else ():
                await self._partition(number)
            self.passes += 1
            await asyncio.sleep(self._rest_s)

    async def _partition(self, number: int) -> None:
        held = self._stores.get(number)
        if held is None:
            return
        for context in list(contexts(held.store)):
            walk = held.store.walk(context.encode())
            try:
                if not await self._context(context, walk):
                    return  # it was given back, or is made again
            except Corrupt as error:
                log.error("a store is not what was written: %s", error, extra={"partition": number})
                if self._stores.get(number) is held:
                    self._spoil(number, error)
                return
            finally:
                walk.close()

    async def _context(self, context: Context, walk: Walk[tuple[bytes, bytes]]) -> bool:
        """Whether its store was there all the time."""
        scrub = Scrub(context)
        goes_on = True
        while goes_on:
            if walk.closed:
                return False
            began = time.perf_counter()
            entries = walk.take(SLICE)
            goes_on = scrub.take(entries)
            metrics.SCRUBBED.labels(self._stage).inc(len(entries))
            took = time.perf_counter() - began
            await asyncio.sleep(took * (1 / self._share - 1))
        scrub.compare()
        return True
