"""Fetched batches that aiokafka cannot read, or only at a price: what a sender may write must not stop a partition.

A header's name is a string to Kafka's protocol, and brokers do not look: a sender whose library takes bytes can write
any. aiokafka raises on such a name, at every fetch, and no process would ever get past the record. Here it is read with
replacement characters, in a batch that cannot be read otherwise.

A compressed batch is unpacked within a bound. One that holds more becomes a single record without a value, whose header
`unreadable` says why; all others go aiokafka's quick way.
"""

import struct
from collections.abc import Iterator
from typing import Any

from aiokafka.consumer import fetcher
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords

from agents.runtime.unpack import Unreadable, unpack
from schemas.headers import UNREADABLE

_LENGTH = struct.Struct(">i")
_LENGTH_AT = 8  # of a batch, behind its base offset; it counts what follows it
_ATTRIBUTES_AT = 21  # 16 bits; the codec stands in the lowest three
_CODEC = 0b111
_RECORDS_AT = 61

UNPACKED_BYTES = 64 << 20
"""Of one batch: clients send batches of a megabyte, and records of 8 MB hardly shrink."""


class Records:
    """What a fetch brought of one partition, batch by batch: stands for aiokafka's `MemoryRecords`."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._records = MemoryRecords(data)
        self._at = 0

    def has_next(self) -> bool:
        """Whether a whole batch is left."""
        return bool(self._records.has_next())

    def size_in_bytes(self) -> int:
        """Of all batches."""
        return int(self._records.size_in_bytes())

    def next_batch(self) -> "Batch":
        """The next one."""
        begin = self._at
        self._at += _LENGTH_AT + 4 + _LENGTH.unpack_from(self._data, begin + _LENGTH_AT)[0]
        return Batch(self._records.next_batch(), memoryview(self._data)[begin : self._at])


class Batch:
    """One batch, as aiokafka's own but for its iteration."""

    def __init__(self, batch: Any, raw: memoryview) -> None:
        self._batch = batch
        self._raw = raw

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __next__(self) -> Any:
        return next(self._batch)  # of a control batch: the broker's own record

    def __iter__(self) -> Iterator[Any]:
        codec = self._raw[_ATTRIBUTES_AT + 1] & _CODEC
        batch, raw = self._batch, self._raw
        if codec:
            try:
                raw = _plain(raw, unpack(codec, raw[_RECORDS_AT:], UNPACKED_BYTES))
            except Unreadable as why:
                return iter([Instead(self._batch, str(why))])
            batch = MemoryRecords(bytes(raw)).next_batch()
        try:
            return iter(list(batch))
        except UnicodeDecodeError:
            return iter(list(_Lenient(raw)))


class Instead:
    """Stands for the records of a batch that cannot be read: one, at its first offset."""

    key = None
    value = None
    checksum = None

    def __init__(self, batch: Any, why: str) -> None:
        self.offset = batch.base_offset
        self.timestamp = batch.max_timestamp
        self.timestamp_type = batch.timestamp_type
        last = batch.next_offset - 1
        where = f"{why}; offset {self.offset}" + (f" to {last}" if last > self.offset else "")
        self.headers = [(UNREADABLE, where.encode())]


def _plain(raw: memoryview, records: bytes) -> memoryview:
    """The batch with its records uncompressed. Its checksum, which was compared before, is not made again."""
    head = bytearray(raw[:_RECORDS_AT])
    head[_ATTRIBUTES_AT + 1] &= ~_CODEC & 0xFF
    _LENGTH.pack_into(head, _LENGTH_AT, _RECORDS_AT - _LENGTH_AT - 4 + len(records))
    return memoryview(bytes(head) + records)


class _Lenient(_DefaultRecordBatchPy):
    _buffer: bytearray

    def _maybe_uncompress(self) -> None:
        super()._maybe_uncompress()
        self._buffer = _Bytes(self._buffer)


class _Bytes(bytearray):
    """Its slices decode with replacement characters: what aiokafka decodes are the header names."""

    def __getitem__(self, at: Any) -> Any:
        found = super().__getitem__(at)
        return _Text(found) if isinstance(at, slice) else found


class _Text(bytearray):
    def decode(self, encoding: str = "utf-8", errors: str = "replace") -> str:
        return super().decode(encoding, errors)


def install() -> None:
    """Have every consumer of this process read so."""
    fetcher.MemoryRecords = Records
