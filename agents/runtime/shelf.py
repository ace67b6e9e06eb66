"""The stores of a worker: where they are, who has them in hand, and which answer reads."""

import fcntl
import logging
import os
import time
from collections.abc import Collection
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import NamedTuple

from agents.runtime.store import Store, discard
from pipeline.state import Corrupt

log = logging.getLogger(__name__)

DIFFERING = "-differs"
"""Behind the name of a store that is being made again."""

KEPT_S = 3600.0
"""How long a store that nobody here has in hand stays on the disk: a rolling restart comes back to it."""


class Readable(NamedTuple):
    """A store that answers reads."""

    store: Store
    generation: int  # of the group's assignment it came in; 0 for a copy
    owner: bool  # whether this worker owns the partition, or follows who does


class Shelf:
    """Stores by partition. Owners take them and give them back; copies are followed where they stand."""

    def __init__(self, folder: Path, generation: int, keeps_differing: bool = False) -> None:
        """Whose and where.

        folder: of one stage and installation; generation: of the partitions, in the stores' names; keeps_differing:
        a store that differs can still be looked into until it has been made again.
        """
        self._wanted = folder
        self._generation = generation
        self._keeps_differing = keeps_differing
        self.differing: dict[int, Store] = {}  # what stood there before it was made again, which has not ended
        self.readable: dict[int, Readable] = {}
        self.positions: dict[int, int] = {}  # of all that are of use; the consumer's thread reads it too
        self.taken: dict[int, Store] = {}  # in owners' hands
        self._open: dict[int, Store] = {}
        self._unused: dict[int, float] = {}  # since when

    @cached_property
    def _folder(self) -> Path:
        """A folder that no other process has: several workers on a machine are told the same one."""
        for number in count():
            folder = self._wanted.with_name(f"{self._wanted.name}~{number}") if number else self._wanted
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(folder / ".lock", os.O_CREAT | os.O_RDWR)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # until it is closed, or the process ends
            except BlockingIOError:
                os.close(self._lock)
                continue
            return folder
        raise AssertionError("numbers do not end")

    def path(self, number: int) -> Path:
        """Where the store of a partition is."""
        return self._folder / f"g{self._generation}-{number}"

    def look(self) -> None:
        """Open what is there from before: how far it is, the group wants to know."""
        for path in self._folder.glob(f"g{self._generation}-*{DIFFERING}"):
            discard(path)
        for path in self._folder.glob(f"g{self._generation}-*"):
            number = int(path.name.rpartition("-")[2])
            self._open[number] = self._opened(number)

    def _opened(self, number: int) -> Store:
        path = self.path(number)
        self._unused.pop(number, None)
        try:
            store = Store(path)
        except Exception as error:  # noqa: BLE001 - rocksdict raises nothing narrower
            log.warning("a local store cannot be opened and is made again: %s", error, extra={"partition": number})
            discard(path)
            store = Store(path)
        try:
            if not (store.failed or store.partly or store.too_old):
                self.positions[number] = store.position
                return store
            log.warning("a local store is of no use and made again", extra={"partition": number})
        except Corrupt as error:
            log.error("a local store is of no use and made again: %s", error, extra={"partition": number})
        return self._emptied(number, store)

    def _emptied(self, number: int, store: Store) -> Store:
        self.positions.pop(number, None)
        store.close()
        discard(self.path(number))
        return Store(self.path(number))

    def _replaced(self, number: int, store: Store) -> Store:
        self.readable.pop(number, None)
        if self._keeps_differing and number not in self.differing:
            store.close()
            aside = self.path(number).with_name(self.path(number).name + DIFFERING)
            self.path(number).rename(aside)
            self.differing[number] = Store(aside)
        return self._emptied(number, store)

    def _made_again(self, number: int) -> None:
        if (differing := self.differing.pop(number, None)) is not None:
            differing.close()
            discard(differing.path)

    # --- for owners

    def take(self, number: int) -> Store:
        """The store of a partition that is owned from here on, as far as it came. It is no longer followed."""
        if number not in self.taken:
            self.readable.pop(number, None)
            self.taken[number] = self.copy(number)
            del self._open[number]
        return self.taken[number]

    def anew(self, number: int) -> Store:
        """An empty one in the place of one that was taken."""
        store = self.taken[number] = self._replaced(number, self.taken[number])
        return store

    def serve(self, number: int, generation: int) -> None:
        """An owner's store is up to date, and answers reads."""
        store = self.taken[number]
        self._made_again(number)
        self.positions[number] = store.position
        self.readable[number] = Readable(store, generation, owner=True)

    def stands(self, number: int, position: int) -> None:
        """How far an owner's store is."""
        self.positions[number] = position

    def give(self, number: int) -> None:
        """The partition is owned no longer. One that was not taken stays where it is."""
        if (store := self.taken.pop(number, None)) is not None:
            self.readable.pop(number, None)
            self._open[number] = store

    # --- for copies

    def copy(self, number: int) -> Store:
        """The store of a partition that is followed."""
        store = self._open.get(number)
        if store is None:
            store = self._open[number] = self._opened(number)
        return store

    def copy_anew(self, number: int) -> Store:
        """An empty one in its place."""
        store = self._open[number] = self._replaced(number, self._open[number])
        return store

    def serve_copy(self, number: int) -> None:
        """A copy is as far as its changelog, and answers reads."""
        self._made_again(number)
        self.readable[number] = Readable(self._open[number], 0, owner=False)

    def serve_no_copy(self, number: int) -> None:
        """Nobody says any longer how far a copy is."""
        if (held := self.readable.get(number)) is not None and not held.owner:
            del self.readable[number]

    def put_away(self, wanted: Collection[int]) -> None:
        """Close what nobody has in hand or wants, and remove what was not wanted for long."""
        now = time.monotonic()
        for number in [number for number in self._open if number not in wanted]:
            self.readable.pop(number, None)
            self._made_again(number)
            self._open.pop(number).close()
            self._unused[number] = now
        for number in [number for number, since in self._unused.items() if now - since > KEPT_S]:
            del self._unused[number]
            self.positions.pop(number, None)
            discard(self.path(number))

    def close(self) -> None:
        """All that no owner has in hand, and the folder is anybody's."""
        self.put_away(())
        for number in list(self.differing):
            self._made_again(number)
        if "_folder" in self.__dict__:
            os.close(self._lock)
            del self._folder
