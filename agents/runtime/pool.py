"""A few child processes, each with one piece of work at a time. Used from one event loop."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Generic, Protocol, TypeVar


class Worker(Protocol):
    """What is in a pool."""

    spent: bool
    """Not to be given work again."""

    async def end(self) -> None:
        """End it, whatever it does."""
        ...


W = TypeVar("W", bound=Worker)


class BusyError(Exception):
    """Too many wait for a child, or the machine gave it no time: the payload had better come back. No fault."""


def cores_left() -> int:
    """One less than there are, at least one, so that a core stays with the stage's own work."""
    return max(1, len(os.sched_getaffinity(0)) - 1)


class Pool(Generic[W]):
    """The children."""

    def __init__(self, what: str, make: Callable[[], Awaitable[W]], max_waiting: int, patience_s: float) -> None:
        """Nothing is started.

        what: they are, for messages.
        max_waiting: who wait for one as long as it takes; whoever is more waits for `patience_s`.
        """
        self._what = what
        self._make = make
        self._max_waiting = max_waiting
        self._patience_s = patience_s
        # A place without a child is filled by whoever takes it, so that a child that does not come up is an error
        # of the work that needed it and not a place lost for good.
        self._places: asyncio.Queue[W | None] = asyncio.Queue()
        self._children: set[W] = set()
        self._waiting = 0
        self._burials: set[asyncio.Task[None]] = set()

    async def start(self, count: int) -> None:
        """Start so many more, and wait until they stand. What one of them raises is raised, and all are ended."""
        started = await asyncio.gather(*(self._child() for _ in range(count)), return_exceptions=True)
        for child in started:
            if isinstance(child, BaseException):
                await self.stop()
                raise child
            self._places.put_nowait(child)

    def add(self, child: W) -> None:
        """One that stands already."""
        self._children.add(child)
        self._places.put_nowait(child)

    async def stop(self) -> None:
        """End the children, whatever they do."""
        await asyncio.gather(*(child.end() for child in self._children), *self._burials)
        self._children.clear()

    @asynccontextmanager
    async def child(self) -> AsyncIterator[W]:
        """One of them, for a piece of work. One that is given back `spent`, or out of an error, is replaced.

        Raises:
            BusyError: `max_waiting` others wait, and none came free within `patience_s`.
        """
        patience = None if self._waiting < self._max_waiting else self._patience_s
        self._waiting += 1
        try:
            async with asyncio.timeout(patience):
                child = await self._places.get()
        except TimeoutError:
            raise BusyError(f"{self._waiting - 1} payloads wait for {self._what}") from None
        finally:
            self._waiting -= 1
        try:
            child = child or await self._child()
            yield child
        except BaseException:  # cancelled, or a fault: either way nobody knows what the child is at
            if child is not None:
                child.spent = True
            raise
        finally:
            if child is not None and child.spent:
                self._bury(child)
                child = None
            self._places.put_nowait(child)

    async def _child(self) -> W:
        child = await self._make()
        self._children.add(child)
        return child

    def _bury(self, child: W) -> None:
        self._children.discard(child)
        task = asyncio.ensure_future(child.end())
        self._burials.add(task)
        task.add_done_callback(self._burials.discard)
