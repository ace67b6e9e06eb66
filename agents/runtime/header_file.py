"""Headers on disk: a head that says what they are, then 80 bytes a header, mapped into memory.

The file may be left at any byte by a kill: appends and reorganisations are plain writes in place. What is believed of
it is decided anew whenever it is opened, from the checkpoint up (`pipeline.chain.headers.standing`), so nothing has to
be synced, marked or logged before a write. It is a cache: what is cut is fetched again.
"""

import fcntl
import hashlib
import logging
import mmap
import os
from pathlib import Path

from pipeline.chain.headers import HEADER_BYTES, Checkpoint, Rules, header_hash, standing

log = logging.getLogger(__name__)

MAGIC = b"beefline headers"
FORMAT = 1

FILES = 64
"""Processes that may keep headers below one folder: more workers of a stage than partitions make no sense."""


def head_of(checkpoint: Checkpoint) -> bytes:
    """The head: magic, format (u32), checkpoint height (u32) and hash, and 24 bytes of the SHA-256 of all that."""
    said = MAGIC + FORMAT.to_bytes(4, "little") + checkpoint.height.to_bytes(4, "little") + checkpoint.hash
    return said + hashlib.sha256(said).digest()[:24]


class HeaderFile:
    """The chain from the checkpoint to the tip. One process at a time has a file; of the dead the kernel takes it."""

    def __init__(self, descriptor: int, path: Path, checkpoint: Checkpoint, rules: Rules) -> None:
        """descriptor: locked, open for reading and writing; it is ours from here on."""
        self.path = path
        self.checkpoint = checkpoint
        self.tip = checkpoint.height - 1  # height of the newest header; below the checkpoint while there is none
        self.tip_hash = b""
        self._rules = rules
        self._file = descriptor
        self._map: mmap.mmap | None = None
        self._load()

    @staticmethod
    def open(folder: Path, checkpoint: Checkpoint, rules: Rules) -> "HeaderFile":
        """The first file of `folder` that no process has: `headers-0.bin`, `headers-1.bin`, …

        About 3 us a header, since all are checked.

        Raises:
            OSError: it cannot be opened, or all are taken.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(FILES):
            path = folder / f"headers-{number}.bin"
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                continue
            return HeaderFile(descriptor, path, checkpoint, rules)
        raise OSError(f"{folder}: {FILES} processes have their headers here")

    def close(self) -> None:
        """Give it up."""
        self._unmap()
        os.close(self._file)

    def header(self, height: int) -> bytes:
        """The 80 bytes at a height; empty where there is none."""
        if self._map is None or not self.checkpoint.height <= height <= self.tip:
            return b""
        at = self._at(height)
        return self._map[at : at + HEADER_BYTES]

    def headers(self, first: int, last: int) -> bytes:
        """All headers of a range that is there, both ends included."""
        if self._map is None or last < first:
            return b""
        return self._map[self._at(first) : self._at(last + 1)]

    def hash_at(self, height: int) -> bytes:
        """The block hash at a height, wire order; empty where there is no header."""
        if height == self.tip:
            return self.tip_hash
        return self.header(height + 1)[4:36] if height >= self.checkpoint.height else b""

    def write(self, first: int, raw: bytes) -> None:
        """Headers from height `first` (at most one above the tip) up; what stood from there on is gone.

        raw: checked against the header below them.

        Raises:
            OSError: the disk. What is known then is what a file in this state would be opened with.
        """
        assert raw, "nothing to write"
        assert self.checkpoint.height <= first <= self.tip + 1, "a gap"
        try:
            self._put(self._at(first), raw)
            self._cut(self._at(first) + len(raw))
        except OSError:
            self._load()
            raise

    def _load(self) -> None:
        """Believe what may be believed of the file, and cut the rest."""
        self._unmap()
        self.tip, self.tip_hash = self.checkpoint.height - 1, b""
        found = self._read()
        head = head_of(self.checkpoint)
        if found[: len(head)] != head:
            if found:
                log.warning("%s holds no headers from this checkpoint up, and is begun anew", self.path)
            self._put(0, head)
            self._cut(len(head))
            return
        kept = standing(found[len(head) :], self.checkpoint, self._rules)
        self._cut((1 + kept) * HEADER_BYTES)
        if (cut := len(found) // HEADER_BYTES - 1 - kept) > 1:
            log.warning("%s: the last %d headers do not stand, and are fetched again", self.path, cut)

    def _read(self) -> bytes:
        found = bytearray()
        while part := os.pread(self._file, 1 << 24, len(found)):
            found += part
        return bytes(found)

    def _put(self, at: int, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            written = os.pwrite(self._file, rest, at)
            at, rest = at + written, rest[written:]

    def _cut(self, size: int) -> None:
        self._unmap()  # a page that is mapped beyond a file's end kills who reads it
        os.ftruncate(self._file, size)
        self._map = mmap.mmap(self._file, size, access=mmap.ACCESS_READ)
        self.tip = self.checkpoint.height + size // HEADER_BYTES - 2
        if self.tip >= self.checkpoint.height:
            self.tip_hash = header_hash(self.header(self.tip))

    def _unmap(self) -> None:
        if self._map is not None:
            self._map.close()
            self._map = None

    def _at(self, height: int) -> int:
        return (1 + height - self.checkpoint.height) * HEADER_BYTES
