"""Verified payloads kept in memory, to find ancestors in that others name by their txid alone."""

import threading
from collections import OrderedDict
from collections.abc import Iterable

from pipeline.ancestors import cut, shown
from schemas.types import Txid

BESIDE = 300
"""Bytes counted for each transaction a payload can show beside the payload itself: its txid, and the entry by it."""


class Remembered:
    """So many bytes of payloads; the least recently used leave first. May be used from several threads."""

    def __init__(self, most: int) -> None:
        """most: bytes, of payloads and of what finds them."""
        self._most = most
        self._payloads: OrderedDict[bytes, list[Txid]] = OrderedDict()  # oldest use first; with what each can show
        self._holders: dict[Txid, dict[bytes, None]] = {}  # the newest last
        self._size = 0
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        """Bytes of what is kept."""
        return self._size

    def keep(self, beef: bytes) -> None:
        """Remember a payload that was found valid (canonical BEEF V1)."""
        with self._lock:
            if beef in self._payloads:
                self._payloads.move_to_end(beef)
                return
            txids = shown(beef)
            if _size(beef, txids) > self._most:
                return
            self._payloads[beef] = txids
            self._size += _size(beef, txids)
            for txid in txids:
                self._holders.setdefault(txid, {})[beef] = None
            while self._size > self._most:
                self._forget()

    def find(self, txids: Iterable[Txid]) -> dict[Txid, bytes]:
        """What shows each of those that are known: the newest payload's part."""
        found: dict[Txid, bytes] = {}
        with self._lock:
            wanted: dict[bytes, list[Txid]] = {}
            for txid in txids:
                if holders := self._holders.get(txid):
                    wanted.setdefault(next(reversed(holders)), []).append(txid)
            for beef in wanted:
                self._payloads.move_to_end(beef)
        for beef, here in wanted.items():
            found |= cut(beef, here)
        return found

    def _forget(self) -> None:
        beef, txids = self._payloads.popitem(last=False)
        self._size -= _size(beef, txids)
        for txid in txids:
            holders = self._holders[txid]
            del holders[beef]
            if not holders:
                del self._holders[txid]


def _size(beef: bytes, txids: list[Txid]) -> int:
    return len(beef) + BESIDE * len(txids)
