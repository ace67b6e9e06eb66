"""The local store of one partition: RocksDB, a cache of the changelog (STORE-1, STORE-2)."""

import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakSet

from rocksdict import (
    BlockBasedOptions,
    Cache,
    DbClosedError,
    DBCompressionType,
    Options,
    Rdict,
    ReadOptions,
    WriteBatch,
)

from pipeline import state

log = logging.getLogger(__name__)

T = TypeVar("T")

_POSITION = b"\0position"  # where the changelog is read on; of this store alone
_WRITTEN = b"\0written"  # Unix seconds of the last write
_PARTLY = b"\0partly"  # a long restore was under way: its entries are ahead of their position

_FAILED = "FAILED"  # a file beside RocksDB's: it refused a write

KEPT_DELETIONS_S = 6 * 86_400
"""A day less than the changelog keeps deletions: an older store may miss some."""

CACHE_BYTES = 8 << 20
"""Block cache of each partition's store: 32 of them make 256 MB, where RocksDB would take 2 GiB each."""

WRITE_BUFFER_BYTES = 8 << 20

FILTER_SHARE = 0.02
"""Of the write buffer, for a filter in front of it as tables have one: most reads ask for what is not there."""


class Walk(Iterator[T]):
    """Keys or entries from a key on as they stand when it begins, whatever is written meanwhile.

    It ends where the store is closed: RocksDB keeps what a walk stands on, and its lock on the store, as long as
    anybody holds the walk, be it the traceback of an error.

    Raises (from every way to go on):
        Corrupt: what comes next cannot be read.
    """

    def __init__(self, items: Iterator[T], ended: Callable[[T | None], None]) -> None:
        """ended: told of the last one when nothing more comes; raises Corrupt where more should."""
        self._items: Iterator[T] | None = items
        self._ended = ended
        self._last: T | None = None

    def __next__(self) -> T:
        if self._items is None:
            raise StopIteration
        try:
            self._last = next(self._items)
        except StopIteration:
            self._ended(self._last)
            raise
        return self._last

    @property
    def closed(self) -> bool:
        """Whether the store was closed meanwhile, or this."""
        return self._items is None

    def take(self, count: int) -> list[T]:
        """The next ones, unchecked; none behind the last, and once it is closed."""
        return list(islice(self, count))

    def close(self) -> None:
        """A second time does nothing."""
        self._items = None


class Store:
    """Entries of one partition, with the changelog position they stand at."""

    def __init__(self, path: Path) -> None:
        """Open, or make.

        Raises:
            Exception: RocksDB cannot open what is there; `discard` and open again.
        """
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_write_buffer_size(WRITE_BUFFER_BYTES)
        options.set_max_write_buffer_number(2)
        options.set_memtable_whole_key_filtering(True)
        options.set_memtable_prefix_bloom_ratio(FILTER_SHARE)
        options.set_max_open_files(64)
        options.set_keep_log_file_num(1)
        options.set_compression_type(DBCompressionType.none())  # payloads are hashes and signatures
        table = BlockBasedOptions()
        table.set_block_cache(Cache(CACHE_BYTES))
        table.set_bloom_filter(10, False)
        options.set_block_based_table_factory(table)
        self._db = Rdict(str(path), options)
        self._uncached = ReadOptions()
        self._uncached.fill_cache(False)
        self._open = True
        self._walks: WeakSet[Walk[Any]] = WeakSet()

    @property
    def position(self) -> int:
        """Changelog offset to read on from."""
        stored = self._own(_POSITION)
        return int.from_bytes(stored, "big") if stored is not None else 0

    @property
    def partly(self) -> bool:
        """Whether a long restore did not end: the entries belong to no position."""
        return self._own(_PARTLY) is not None

    @property
    def failed(self) -> bool:
        """Whether RocksDB refused a write: something it has written before is not right."""
        return (self.path / _FAILED).exists()

    @property
    def too_old(self) -> bool:
        """Whether deletions may be missing: it was not written for longer than the changelog keeps them."""
        stored = self._own(_WRITTEN)
        return stored is not None and time.time() - int.from_bytes(stored, "big") > KEPT_DELETIONS_S

    def _own(self, key: bytes) -> bytes | None:
        try:
            found: bytes | None = self._db.get(key)
        except Exception as error:
            raise _unreadable(error, key) from error
        return found

    def get(self, entry_key: bytes) -> bytes | None:
        """The stored value, checked against its hash.

        Raises:
            pipeline.state.Corrupt: it does not match.
        """
        try:
            stored = self._db.get(entry_key)
        except Exception as error:
            raise _unreadable(error, entry_key) from error
        return None if stored is None else state.check(stored, entry_key)

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """`get` of each, by one question to RocksDB."""
        try:
            found: list[bytes | None] = self._db.get(list(keys))
        except Exception as error:
            raise _unreadable(error, keys[0]) from error
        return [None if stored is None else state.check(stored, key) for key, stored in zip(keys, found, strict=True)]

    def keys_with(self, prefix: bytes) -> Iterator[bytes]:
        """See `pipeline.state.View.keys_with`."""
        for entry_key in self.keys_from(prefix):
            if not entry_key.startswith(prefix):
                break
            yield entry_key

    def keys_from(self, start: bytes) -> Iterator[bytes]:
        """See `pipeline.state.Ordered.keys_from`. This store's own keys, which begin with a zero byte, come too."""
        return self._begun(Walk(self._db.keys(from_key=start), lambda last: self._ended(start, last)))

    def walk(self, start: bytes) -> Walk[tuple[bytes, bytes]]:
        """All entries from a key on, of this moment; what is read on the way leaves the cache to others."""
        ended = lambda last: self._ended(start, None if last is None else last[0])  # noqa: E731 - beside its twin
        return self._begun(Walk(self._db.items(from_key=start, read_opt=self._uncached), ended))

    def _ended(self, start: bytes, last: bytes | None) -> None:
        """Whether nothing more came because there is nothing more: rocksdict does not ask RocksDB (STORE-2)."""
        there = self._db.iter()
        there.seek(start if last is None else last)
        if last is not None and there.valid():
            there.next()
        try:
            there.status()
        except Exception as error:
            raise _unreadable(error, last or start) from error
        finally:
            del there  # else the error's traceback holds it, and it the lock

    def _begun(self, walk: Walk[T]) -> Walk[T]:
        self._walks.add(walk)
        return walk

    def write(self, writes: Mapping[bytes, bytes | None], position: int | None) -> None:
        """A batch's entries and the position behind it, at once; no position within a long restore.

        Raises:
            Exception: RocksDB refuses it. The store is of no use from then on (`failed`).
        """
        batch = WriteBatch(raw_mode=True)
        if position is None:
            batch.put(_PARTLY, b"1")
        else:
            batch.delete(_PARTLY)
            batch.put(_POSITION, position.to_bytes(8, "big"))
        for entry_key, stored in writes.items():
            if stored is None:
                batch.delete(entry_key)
            else:
                batch.put(entry_key, stored)
        batch.put(_WRITTEN, int(time.time()).to_bytes(8, "big"))
        try:
            self._db.write(batch)
        except Exception:  # a file that it wants to merge with others cannot be read: it takes no more
            self._fail()
            raise

    def _fail(self) -> None:
        if self.path.exists():  # else whoever opens it next finds nothing to take for a store
            (self.path / _FAILED).touch()

    def close(self) -> None:
        """Flush and close; a second time does nothing. One that cannot be flushed is of no use from then on."""
        if self._open:
            self._open = False
            for walk in self._walks:
                walk.close()
            try:
                self._db.close()
            except Exception as error:  # noqa: BLE001 - rocksdict raises nothing narrower
                self._fail()
                log.warning("%s is of no use: %s", self.path, error)


def _unreadable(error: Exception, entry_key: bytes) -> Exception:
    """What RocksDB says of its own files; a store that was closed meanwhile is another matter."""
    if isinstance(error, DbClosedError):
        raise error
    return state.Corrupt(f"{entry_key!r} cannot be read: {error}", state.context_of(entry_key))


def discard(path: Path) -> None:
    """Remove a store, to be made again from the changelog."""
    shutil.rmtree(path, ignore_errors=True)
