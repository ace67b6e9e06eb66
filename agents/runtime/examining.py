"""What topics' managers say of transactions without coins, in the verify stage: in this process, or in several beside.

A context whose manager takes too long here is suspended here (TOPIC-3); a payload that names others too goes on to
those, and comes back for the rest.
"""

import asyncio
import logging
import time
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Any, Self

import msgspec

from agents.runtime.aside import LONG_BYTES, aside
from agents.runtime.child import Child, Ended
from agents.runtime.desk import Teller
from agents.runtime.foreign import START_S, NotUp, Place
from agents.runtime.hosting import FAILURES, ApplySettings, foreign_of, limits_of
from agents.runtime.manager_child import Ask, Facts, Up
from agents.runtime.pool import BusyError, Pool, cores_left
from agents.runtime.records import Held, Hold, ManagerFailed
from agents.runtime.standing import RAISED, Standing, hold_for
from pipeline.overlay.manager import BadManager, Examiner, Transaction, examine, examiner, make, places
from schemas.flow import Examined
from schemas.types import Context

log = logging.getLogger(__name__)

TOPIC = "topic:"

WAITING = 200
"""Payloads that wait for a topic's manager: a fifth of what a worker has in hand. What is more comes back in 10 s, so
that one slow topic does not keep others from being fetched."""

LATE_S = 10.0
"""Beyond the limit, for an answer to be read: the child's own clock ends it, and this loop may be busy meanwhile."""


class Examiners:
    """The hosted topics whose managers examine."""

    def __init__(self, stage: str, settings: ApplySettings, processes: int = 0, failures: int = FAILURES) -> None:
        """Load managers of our own and trusted ones, and start a process of each of the others, to see who examines.

        processes: of each foreign one that does; 0: one less than the cores, at least one.

        Raises:
            BadManager: one cannot be loaded.
        """
        self._processes = processes or cores_left()
        self._here: dict[str, Examiner] = {}
        self._apart: dict[str, Pool[_Child]] = {}
        self._first: list[tuple[Pool[_Child], _Child]] = []
        found = places(settings.topics)
        apart = foreign_of(found, settings)
        begun = [(place, place.open()) for place in apart.values()]  # they come up side by side
        try:
            for topic in found.keys() - apart.keys():
                if (asked := examiner(make(topic, found[topic]))) is not None:
                    self._here[topic] = asked
            for place, child in begun:
                self._begin(place, child)
        except BaseException:
            for _, child in begun:
                child.close()
            raise
        limits = limits_of(settings, failures)
        self._standings = {topic: Standing(stage, topic, limits) for topic in (*self._here, *self._apart)}

    def _begin(self, place: Place, process: Child) -> None:
        try:
            up = place.greeting(process.next(START_S))
        except (Ended, TimeoutError) as error:
            raise place.not_up(error) from error
        if not up.examines:
            process.close()
            return
        pool = Pool(f"the manager of {place.topic}", partial(_Child.start, place, up), WAITING, 0.0)
        self._apart[place.topic] = pool
        self._first.append((pool, _Child(place, process)))

    def tell_to(self, teller: Teller) -> None:
        """Who writes events."""
        for standing in self._standings.values():
            standing.tell = teller

    async def start(self) -> None:
        """Start the other processes.

        Raises:
            NotUp: one does not come up.
        """
        for pool, child in self._first:
            pool.add(child)
            await pool.start(self._processes - 1)
        self._first.clear()

    async def stop(self) -> None:
        """End the processes."""
        for _, child in self._first:
            await child.end()
        for pool in self._apart.values():
            await pool.stop()

    def lift(self) -> None:
        """Let suspended contexts go on."""
        for standing in self._standings.values():
            standing.lift()

    @property
    def suspended(self) -> list[Context]:
        """Contexts that are."""
        return [f"{TOPIC}{topic}" for topic, standing in self._standings.items() if standing.suspended]

    def of(self, contexts: Sequence[Context]) -> list[Context]:
        """Those of the contexts whose managers examine."""
        return [context for context in contexts if context.removeprefix(TOPIC) in self._standings]

    async def all_of(
        self, contexts: Sequence[Context], transaction: Transaction
    ) -> dict[Context, Examined | ManagerFailed | Hold]:
        """What each of `of` says of a transaction, or how it fails, or that it is to wait."""
        found = await asyncio.gather(*(self._one(context.removeprefix(TOPIC), transaction) for context in contexts))
        return dict(zip(contexts, found, strict=True))

    async def _one(self, topic: str, transaction: Transaction) -> Examined | ManagerFailed | Hold:
        standing = self._standings[topic]
        if standing.waits_s() > 0:
            return standing.hold()
        if topic in self._here:
            return await self._asked_here(topic, standing, transaction)
        try:
            async with self._apart[topic].child() as child:
                return await _asked(standing, child.ask(transaction))
        except NotUp as error:
            if standing.waits_s() == 0:  # nobody else that waited for it said so before
                standing.suspend(str(error))
            return standing.hold()
        except BusyError as error:
            return hold_for(str(error), code="internal.manager-busy")

    async def _asked_here(
        self, topic: str, standing: Standing, transaction: Transaction
    ) -> Examined | ManagerFailed | Hold:
        def ask() -> Facts:
            began = time.perf_counter()
            try:
                said = examine(self._here[topic], topic, transaction)
            except (Exception, SystemExit) as error:
                raise ManagerFailed(RAISED, f"{topic}: {type(error).__name__}: {error}") from error
            return Facts(said, time.perf_counter() - began)

        async def asked() -> Facts:
            return await aside(ask) if len(transaction.raw) > LONG_BYTES else ask()

        return await _asked(standing, asked())


async def _asked(standing: Standing, asking: Coroutine[Any, Any, Facts]) -> Examined | ManagerFailed | Hold:
    """One examination, as a turn of its context's."""
    try:
        with standing.turn() as turn:
            turn.ask()
            try:
                said = await asking
            except ManagerFailed as error:
                turn.took(error.took_s)
                raise
            turn.took(said.took_s)
    except Held as held:
        asking.close()
        return held.hold
    except ManagerFailed as error:
        log.warning("a topic's manager fails: %s", error, extra={"code": error.code})
        return error
    return said.examined


class _Child:
    """A process of one topic's manager."""

    def __init__(self, place: Place, process: Child) -> None:
        """One that is up."""
        self.spent = False
        self._place = place
        self._process = process

    @classmethod
    async def start(cls, place: Place, first: Up) -> Self:
        process = place.open()
        try:
            async with asyncio.timeout(START_S):
                up = place.greeting(await process.read())
        except (Ended, TimeoutError) as error:
            await process.end()
            raise NotUp(str(place.not_up(error))) from error
        except BadManager as error:
            await process.end()
            raise NotUp(str(error)) from error
        except BaseException:
            await process.end()
            raise
        if up != first:
            await process.end()
            raise NotUp(f"its code changed under the running worker, to version {up.version!r}: start it anew")
        return cls(place, process)

    async def ask(self, transaction: Transaction) -> Facts:
        """What the manager says. Raises ManagerFailed."""
        asked = Ask(transaction.txid, transaction.raw, tuple(transaction.sources), transaction.off_chain_values)
        try:
            async with asyncio.timeout(self._place.limit_s + LATE_S):
                await self._process.send(msgspec.msgpack.encode(asked))
                body = await self._process.read()
        except (Ended, TimeoutError) as error:
            self.spent = True
            raise self._place.failed(error) from error
        try:
            said = self._place.answer(body)
        except ManagerFailed as error:
            self.spent = error.code != RAISED
            raise
        if not isinstance(said, Facts):
            self.spent = True
            raise ManagerFailed("internal.manager-ended", f"{self._place.topic}: its process answers another question")
        return said

    async def end(self) -> None:
        await self._process.end()
