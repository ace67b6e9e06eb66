"""The input that is alone in hand, for whatever works on it: whether it is being computed, or waits (FAULT-2).

What computes may end the process; what waits for the world cannot, and whoever is killed meanwhile was killed by
somebody else. So the mark of one that is alone in hand stands while it is computed, in the loop or in the thread beside
it, and is taken back while it waits: for trackers, endpoints, children, the broker.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from math import inf

from agents.runtime.board import Lane

WAITS_S = 0.01
"""Not computed for so long, an input waits. What comes sooner, from memory or from next door, costs no commit."""


class Hand:
    """One input of a lane that goes one by one."""

    def __init__(self, lane: Lane, commit: Callable[[], Awaitable[object]]) -> None:
        """commit: tells the group how its lanes stand."""
        self._lane = lane
        lane.alone = lane.ledger.position
        self._commit = commit
        self._computed = inf  # monotonic seconds, when it last was; inf: it is
        self._open = True

    async def touch(self) -> None:
        """It is about to be computed."""
        self._computed = inf
        if self._open and not self._lane.in_hand:
            self._lane.in_hand, self._lane.waits = True, False
            await self._commit()
        self._computed = time.monotonic()

    async def excuse(self) -> None:
        """Take the mark back whenever it waits, until cancelled."""
        while True:
            left_s = self._computed + WAITS_S - time.monotonic()
            await asyncio.sleep(min(WAITS_S, left_s) if left_s > 0 else WAITS_S)
            if self._open and self._lane.in_hand and self._computed + WAITS_S <= time.monotonic():
                self._lane.in_hand, self._lane.waits = False, True
                await self._commit()

    @contextmanager
    def computing(self) -> Iterator[None]:
        """In the thread beside the loop, which is free meanwhile."""
        self._computed = inf
        try:
            yield
        finally:
            self._computed = time.monotonic()

    def close(self) -> None:
        """It is in hand no longer. Calls that nobody waits for may go on."""
        self._open = self._lane.in_hand = self._lane.waits = False


_hand: ContextVar[Hand | None] = ContextVar("hand", default=None)


@asynccontextmanager
async def held(hand: Hand) -> AsyncIterator[None]:
    """Whatever this task begins works on this input."""
    before = _hand.set(hand)
    await hand.touch()
    try:
        yield
    finally:
        hand.close()
        _hand.reset(before)


@asynccontextmanager
async def waiting() -> AsyncIterator[None]:
    """Around what waits for the world, where the input is computed again afterwards, or not at all.

    Inputs that are not alone in hand are marked by their lane, and nothing is done here.
    """
    hand = _hand.get()
    if hand is None:
        yield
        return
    excusing = asyncio.ensure_future(hand.excuse())
    try:
        yield
    finally:
        excusing.cancel()
        await asyncio.wait((excusing,))
    if not excusing.cancelled():
        excusing.result()
    await hand.touch()


@asynccontextmanager
async def computing() -> AsyncIterator[None]:
    """Around what computes in the thread beside the loop."""
    hand = _hand.get()
    if hand is None:
        yield
        return
    await hand.touch()
    with hand.computing():
        yield
