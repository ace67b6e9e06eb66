"""Has leases end by themselves (RESERVE-2): when one is over, its context is asked to look.

An operation like any other, by way of `operations`: what a context decides stays one order, and who reads it again
decides the same. One too many finds nothing to do. When which lease ends is read from the stores of the partitions
this worker owns; what is noted here in between is a hint.
"""

import asyncio
import contextlib
import heapq
import logging
import time
from collections.abc import Callable, Mapping

from agents.runtime.outbox import Outbox
from agents.runtime.records import Out
from agents.runtime.shelf import Readable
from agents.runtime.store import Store
from pipeline import reserved, state
from pipeline.baskets import OWNED
from pipeline.state import Corrupt
from schemas.flow import OPERATION, Expire
from schemas.types import Context
from topics.registry import OPERATIONS

log = logging.getLogger(__name__)

REST_S = 1.0
"""Between looks at which partitions have come; leases that end before wake it."""

AGAIN_S = (1.0, 2.0, 5.0, 15.0, 60.0)
"""Until a context is asked again, or looked at again, whose lease is over and still stands: the stage is behind or
halted, or what it wrote is not committed. The last repeats."""

PASS = 500
"""Contexts looked at between two turns of the loop: a few milliseconds."""

_Key = tuple[int, Context]


class Leases:
    """One a process."""

    def __init__(self) -> None:
        self._due: list[tuple[int, int, Context]] = []  # when (Unix milliseconds), partition, context
        self._next: dict[_Key, int] = {}  # the one of a context that counts
        self._tries: dict[_Key, int] = {}  # since its lease was over
        self._begun: dict[int, Readable] = {}  # stores that were looked through
        self._sooner = asyncio.Event()

    def due(self, partition: int, context: Context, at_ms: int) -> None:
        """A lease of a context ends then, unless something else is heard before."""
        key = partition, context
        if key in self._next and self._next[key] <= at_ms:
            return
        self._next[key] = at_ms
        heapq.heappush(self._due, (at_ms, partition, context))
        if self._due[0][0] == at_ms:
            self._sooner.set()

    def forget(self, partition: int) -> None:
        """It was given back."""
        self._begun.pop(partition, None)
        for key in [key for key in self._next if key[0] == partition]:
            del self._next[key]
            self._tries.pop(key, None)

    async def run(self, stores: Mapping[int, Readable], spoil: Callable[[int, Corrupt], None], outbox: Outbox) -> None:
        """Until cancelled. spoil: has a store made again that is not what was written."""
        while True:
            for number, held in list(stores.items()):
                if held.owner and self._begun.get(number) is not held:
                    await self._begin(number, held, spoil)
            if outs := self._over(int(time.time() * 1000), stores, spoil):
                await outbox.send([(out, None) for out in outs])
            await self._rest()

    async def _rest(self) -> None:
        self._sooner.clear()
        soonest_s = self._due[0][0] / 1000 - time.time() if self._due else REST_S
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._sooner.wait(), min(max(soonest_s, 0.001), REST_S))

    async def _begin(self, number: int, held: Readable, spoil: Callable[[int, Corrupt], None]) -> None:
        """What holds leases in a store that is looked at for the first time. Cost: a look for each owner in it."""
        self._begun[number] = held
        try:
            at, count = OWNED.encode(), 0
            while (found := next(held.store.keys_from(at), b"")).startswith(OWNED.encode()):
                context = state.context_of(found)
                at = context + b"\x01"
                if (ends_ms := reserved.next_end(held.store, context.decode())) is not None:
                    self.due(number, context.decode(), ends_ms)
                count += 1
                if not count % PASS:
                    await asyncio.sleep(0)
        except Corrupt as error:
            spoil(number, error)

    def _over(self, now_ms: int, stores: Mapping[int, Readable], spoil: Callable[[int, Corrupt], None]) -> list[Out]:
        outs: list[Out] = []
        while self._due and self._due[0][0] <= now_ms:
            at_ms, number, context = heapq.heappop(self._due)
            if self._next.get((number, context)) != at_ms:
                continue  # an earlier one stood in its place
            del self._next[number, context]
            if (held := stores.get(number)) is None or not held.owner:
                continue
            try:
                outs += self._look(number, context, held.store, now_ms)
            except Corrupt as error:
                spoil(number, error)
                self._again(number, context, now_ms)
        return outs

    def _look(self, number: int, context: Context, store: Store, now_ms: int) -> list[Out]:
        ends_ms = reserved.next_end(store, context)
        tries = self._tries.get((number, context), 0)
        if ends_ms is not None and ends_ms > now_ms:
            self._tries.pop((number, context), None)
            self.due(number, context, ends_ms)
            return []
        if ends_ms is None and tries:
            del self._tries[number, context]
            return []
        self._again(number, context, now_ms)
        if ends_ms is None:
            return []  # what was noted may not have been committed yet
        return [Out(OPERATIONS, context.encode(), OPERATION.encode(Expire(f"expire {ends_ms}")))]

    def _again(self, number: int, context: Context, now_ms: int) -> None:
        tries = self._tries.get((number, context), 0)
        self._tries[number, context] = tries + 1
        self.due(number, context, now_ms + int(AGAIN_S[min(tries, len(AGAIN_S) - 1)] * 1000))
