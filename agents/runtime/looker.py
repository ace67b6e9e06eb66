"""Asks endpoints where transactions stand whose time has come, and reports what they say as news."""

import asyncio
import heapq
import logging
import time
from collections.abc import AsyncIterator, Mapping

import msgspec

from agents.runtime.anchors import Anchors
from agents.runtime.endpoints import Endpoints
from agents.runtime.outbox import Outbox
from agents.runtime.records import Out
from agents.runtime.shelf import Readable
from agents.runtime.store import Store
from pipeline.network import to_ask
from pipeline.state import Corrupt
from schemas.network import NEWS, Looked, NetworkStatus, News
from schemas.types import Txid
from topics.registry import NETWORK_NEWS

log = logging.getLogger(__name__)

REST_S = 0.2
"""Between two looks whose time has come."""

PASS = 500
"""Entries of a store read between two turns of the loop: a few milliseconds."""

AGAIN_MS = 30_000
"""What was looked up and is still due after that long is looked up again: the report was lost, or nobody answered."""

_status = msgspec.msgpack.Decoder(NetworkStatus).decode


class Looker:
    """One a process."""

    def __init__(self, together: int, anchors: Anchors) -> None:
        """together: transactions looked up at once; anchors: who judges Merkle paths."""
        self._together = together
        self._anchors = anchors
        self._replaced_from: int | None = None  # blocks from this height on were replaced
        self._due: dict[int, list[tuple[int, Txid]]] = {}  # by partition, soonest first
        self._begun: dict[int, Readable] = {}  # partitions whose stores were looked through

    def due(self, partition: int, at_ms: int, txid: Txid) -> None:
        """A transaction is to be looked up at this time, unless something else is heard of it before."""
        heapq.heappush(self._due.setdefault(partition, []), (at_ms, txid))

    def forget(self, partition: int) -> None:
        """A partition was given back."""
        self._due.pop(partition, None)
        self._begun.pop(partition, None)

    def reorganised(self, height: int) -> None:
        """Blocks from this height on were replaced: paths into them are asked about again."""
        self._replaced_from = height if self._replaced_from is None else min(height, self._replaced_from)

    async def run(self, stores: Mapping[int, Readable], endpoints: Endpoints, outbox: Outbox) -> None:
        """Until cancelled."""
        while True:
            for number, held in list(stores.items()):
                if self._begun.get(number) is not held:
                    await self._begin(number, held)
            come = self._come(stores, int(time.time() * 1000))
            if (height := self._replaced_from) is not None:
                self._replaced_from = None
                for number, held in list(stores.items()):
                    come += [(number, *each) async for each in _in_blocks(held.store, height)]
            if not come:
                await asyncio.sleep(REST_S)
                continue
            for begin in range(0, len(come), self._together):
                some = come[begin : begin + self._together]
                await asyncio.gather(*(self._look(*each, endpoints, outbox) for each in some))

    async def _begin(self, number: int, held: Readable) -> None:
        """What is due of a partition that came: its store says."""
        walk = held.store.walk(b"")
        try:
            while entries := walk.take(PASS):
                for key, stored in entries:
                    if len(key) == 32 and (at_ms := _status(stored[32:]).look_ms):
                        self.due(number, at_ms, key)
                await asyncio.sleep(0)
        except Corrupt as error:
            log.warning("what is to be looked up is not known of a store: %s", error, extra={"partition": number})
            return
        finally:
            walk.close()
        self._begun[number] = held

    def _come(self, stores: Mapping[int, Readable], now_ms: int) -> list[tuple[int, Txid, NetworkStatus]]:
        """Partition, txid and standing of those whose time has come, each once, if it is still that one."""
        found: dict[Txid, tuple[int, NetworkStatus]] = {}
        for number, heap in self._due.items():
            held = stores.get(number)
            while held is not None and heap and heap[0][0] <= now_ms:
                _, txid = heapq.heappop(heap)
                try:
                    if txid not in found and (status := _due(held.store, txid, now_ms)) is not None:
                        found[txid] = number, status
                except Corrupt as error:  # whoever judges it next has the store made again
                    log.warning("where it stands cannot be read: %s", error, extra={"partition": number})
        return [(number, txid, status) for txid, (number, status) in found.items()]

    async def _look(self, number: int, txid: Txid, status: NetworkStatus, endpoints: Endpoints, outbox: Outbox) -> None:
        asked_ms = int(time.time() * 1000)
        self.due(number, asked_ms + AGAIN_MS, txid)
        news: list[News] = []
        paths = [status.path] if status.path else []
        if not paths:
            found = await endpoints.look_up(txid, to_ask(status))
            if found is None:
                return  # nobody answered: again in a while
            news.append(Looked(found.words, endpoints.counting(), asked_ms))
            paths = list(dict.fromkeys(found.paths))
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
                status = _status(stored[32:]) if len(key) == 32 else None
                if status is not None and status.path and status.height >= height and not status.buried:
                    yield key, status
            await asyncio.sleep(0)
    except Corrupt as error:
        log.warning("paths into replaced blocks cannot be read: %s", error)
    finally:
        walk.close()


def _due(store: Store, txid: Txid, now_ms: int) -> NetworkStatus | None:
    """Where it stands, if it is still to be looked up by now."""
    stored = store.get(txid)
    status = None if stored is None else _status(stored[32:])
    return status if status is not None and 0 < status.look_ms <= now_ms else None
