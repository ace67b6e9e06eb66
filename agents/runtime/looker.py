"""Asks endpoints where transactions stand whose time has come, and reports what they say as news."""

import asyncio
import heapq
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping

import msgspec

from agents import metrics
from agents.runtime.anchors import Anchors
from agents.runtime.endpoints import Endpoints
from agents.runtime.outbox import Outbox
from agents.runtime.records import Out
from agents.runtime.shelf import Readable
from agents.runtime.store import Store
from pipeline import state
from pipeline.network import to_ask
from pipeline.state import Corrupt
from schemas.network import NEWS, Looked, NetworkStatus, News
from schemas.types import Txid
from topics.registry import NETWORK_NEWS

log = logging.getLogger(__name__)

REST_S = 0.2
"""Between two looks whose time has come."""

TOLD_MS = 2_000
"""Between two counts of what is unresolved."""

PASS = 500
"""Entries of a store read between two turns of the loop: a few milliseconds."""

AGAIN_MS = 30_000
"""What was looked up and is still due after that long is looked up again: the report was lost, or nobody answered."""

HORIZON_MS = 3_600_000
"""What is due later than that is not kept in memory: stores are looked through again as often."""

_status = msgspec.msgpack.Decoder(NetworkStatus).decode


class Unresolved:
    """Transactions that somebody asked for and nobody has decided, by partition: how many, and since when."""

    def __init__(self) -> None:
        self._since: dict[int, dict[Txid, int]] = {}

    def note(self, partition: int, txid: Txid, status: NetworkStatus) -> None:
        """It stands so now."""
        of = self._since.setdefault(partition, {})
        if status.origin is None or status.decided:
            of.pop(txid, None)
        else:
            of[txid] = status.origin.timestamp_ms

    def forget(self, partition: int) -> None:
        """It is another worker's."""
        self._since.pop(partition, None)

    def tell(self, now_ms: int) -> None:
        """As metrics. Cost: a look at each of them."""
        since = [ms for of in self._since.values() for ms in of.values()]
        metrics.UNRESOLVED.labels("status").set(len(since))
        metrics.UNRESOLVED_SECONDS.labels("status").set(max(0, now_ms - min(since)) / 1000 if since else 0)


class Looker:
    """One a process."""

    def __init__(self, together: int, anchors: Anchors) -> None:
        """together: transactions looked up at once; anchors: who judges Merkle paths."""
        self._together = together
        self._anchors = anchors
        self.unresolved = Unresolved()
        self._told_ms = 0
        self._replaced_from: int | None = None  # blocks from this height on were replaced
        self._due: dict[int, list[tuple[int, Txid]]] = {}  # by partition, soonest first
        self._begun: dict[int, tuple[Readable, int]] = {}  # stores that were looked through, by partition, and when

    def due(self, partition: int, at_ms: int, txid: Txid) -> None:
        """A transaction is to be looked up at this time, unless something else is heard of it before.

        A mined one is in a hundred blocks: by then its store was looked through again, a dozen times.
        """
        if at_ms - int(time.time() * 1000) <= 2 * HORIZON_MS:
            heapq.heappush(self._due.setdefault(partition, []), (at_ms, txid))

    def forget(self, partition: int) -> None:
        """A partition was given back."""
        self._due.pop(partition, None)
        self._begun.pop(partition, None)
        self.unresolved.forget(partition)

    def reorganised(self, height: int) -> None:
        """Blocks from this height on were replaced: paths into them are asked about again."""
        self._replaced_from = height if self._replaced_from is None else min(height, self._replaced_from)

    async def run(
        self,
        stores: Mapping[int, Readable],
        spoil: Callable[[int, Corrupt], None],
        endpoints: Endpoints,
        outbox: Outbox,
    ) -> None:
        """Until cancelled. spoil: has a store made again that is not what was written."""
        while True:
            now_ms = int(time.time() * 1000)
            if now_ms - self._told_ms >= TOLD_MS:
                self._told_ms = now_ms
                self.unresolved.tell(now_ms)
            height, self._replaced_from = self._replaced_from, None
            come: list[tuple[int, Txid, NetworkStatus]] = []
            for number, held in list(stores.items()):
                try:
                    begun, at_ms = self._begun.get(number, (None, 0))
                    if begun is not held or now_ms - at_ms >= HORIZON_MS:
                        await self._begin(number, held, now_ms)
                    come += self._come(number, held.store, now_ms)
                    if height is not None:
                        come += [(number, *each) async for each in _in_blocks(held.store, height)]
                except Corrupt as error:
                    log.error("a store is not what was written: %s", error, extra={"partition": number})
                    if stores.get(number) is held:
                        spoil(number, error)
            if not come:
                await asyncio.sleep(REST_S)
                continue
            for begin in range(0, len(come), self._together):
                some = come[begin : begin + self._together]
                await asyncio.gather(*(self._look(*each, endpoints, outbox) for each in some))

    async def _begin(self, number: int, held: Readable, now_ms: int) -> None:
        """What is due of a partition that came, or within the next hours: its store says."""
        known = set(self._due.get(number, ()))  # among them what is decided, and not in the store yet
        walk = held.store.walk(b"")
        try:
            while entries := walk.take(PASS):
                for key, stored in entries:
                    if len(key) != 32:
                        continue
                    status = _checked(key, stored)
                    at_ms = status.look_ms
                    self.unresolved.note(number, key, status)
                    if at_ms and (at_ms, key) not in known:
                        self.due(number, at_ms, key)
                await asyncio.sleep(0)
        finally:
            walk.close()
        self._begun[number] = held, now_ms

    def _come(self, number: int, store: Store, now_ms: int) -> list[tuple[int, Txid, NetworkStatus]]:
        """Partition, txid and standing of those whose time has come, each once, if it is still that one."""
        found: dict[Txid, NetworkStatus] = {}
        heap = self._due.get(number, [])
        while heap and heap[0][0] <= now_ms:
            _, txid = heapq.heappop(heap)
            if txid not in found and (status := _due(store, txid, now_ms)) is not None:
                found[txid] = status
        return [(number, txid, status) for txid, status in found.items()]

    async def _look(self, number: int, txid: Txid, status: NetworkStatus, endpoints: Endpoints, outbox: Outbox) -> None:
        asked_ms = int(time.time() * 1000)
        self.due(number, asked_ms + AGAIN_MS, txid)
        news: list[News] = []
        paths = [path for path in (status.claimed, status.path) if path]
        if not status.path and (found := await endpoints.look_up(txid, to_ask(status))) is not None:
            news.append(Looked(found.words, endpoints.counting(), asked_ms, found.silent))
            paths = list(dict.fromkeys((*paths, *found.paths)))
        for path in paths:
            if (anchored := await self._anchors.check(txid, path)) is not None:
                news.append(anchored)
        await outbox.send([(Out(NETWORK_NEWS, txid, NEWS.encode(each)), None) for each in news])


async def _in_blocks(store: Store, height: int) -> AsyncIterator[tuple[Txid, NetworkStatus]]:
    """Those with a path into a block from this height on, but for those so deep that nobody looks."""
    walk = store.walk(b"")
    try:
        while entries := walk.take(PASS):
            for key, stored in entries:
                status = _checked(key, stored) if len(key) == 32 else None
                if status is not None and status.path and status.height >= height and not status.buried:
                    yield key, status
            await asyncio.sleep(0)
    finally:
        walk.close()


def _checked(txid: Txid, stored: bytes) -> NetworkStatus:
    return _status(state.check(stored, txid)[32:])


def _due(store: Store, txid: Txid, now_ms: int) -> NetworkStatus | None:
    """Where it stands, if it is still to be looked up by now."""
    stored = store.get(txid)
    status = None if stored is None else _status(stored[32:])
    return status if status is not None and 0 < status.look_ms <= now_ms else None
