"""Unpacking a compressed batch within a bound.

The clients' own functions have none: 11 kB of zstd can hold 320 MB, which a worker would unpack at every fetch, before
anything could mark the record or give it up.
"""

import zlib
from collections.abc import Callable

import cramjam
from aiokafka.codec import _detect_xerial_stream

GZIP, SNAPPY, LZ4, ZSTD = 1, 2, 3, 4
"""Codecs by the lowest three bits of a batch's attributes."""

FIRST_GUESS = 64 << 10

_XERIAL_HEADER = 16
_GZIP_WINDOW = 31  # zlib's number for "with gzip's header"


class Unreadable(Exception):  # noqa: N818 - what the batch is
    """It unpacks to more than the bound, or not at all."""


def unpack(codec: int, data: memoryview, limit: int) -> bytes:
    """What a batch's records are, uncompressed; at most `limit` bytes.

    Memory: twice the bound at the worst.

    Raises:
        Unreadable: more than that, a codec that does not exist, or bytes that are none of it.
    """
    try:
        match codec:
            case 1:
                unpacker = zlib.decompressobj(_GZIP_WINDOW)
                return _held(unpacker.decompress(data, limit + 1), limit)
            case 2:
                return _snappy(data, limit)
            case 3:
                return _grown(cramjam.lz4.decompress_into, data, limit)
            case 4:
                return _grown(cramjam.zstd.decompress_into, data, limit)
    except (zlib.error, cramjam.DecompressionError) as error:
        raise Unreadable(f"a compressed batch cannot be read: {error}") from error
    raise Unreadable(f"a batch is compressed by codec {codec}, which does not exist")


def _held(found: bytes, limit: int) -> bytes:
    if len(found) > limit:
        raise Unreadable(f"a compressed batch holds more than {limit} bytes")
    return found


def _grown(into: Callable[[bytes, bytearray], int], data: memoryview, limit: int) -> bytes:
    size = min(limit, max(FIRST_GUESS, 4 * len(data)))
    while True:
        room = bytearray(size)
        try:
            return bytes(memoryview(room)[: into(bytes(data), room)])
        except cramjam.DecompressionError as error:
            if "whole buffer" not in str(error):
                raise
        if size == limit:
            raise Unreadable(f"a compressed batch holds more than {limit} bytes")
        size = min(limit, 4 * size)


def _snappy(data: memoryview, limit: int) -> bytes:
    blocks = [data]
    if _detect_xerial_stream(data):
        blocks, at = [], _XERIAL_HEADER
        while at < len(data):
            end = at + 4 + int.from_bytes(data[at : at + 4], "big")
            blocks.append(data[at + 4 : end])
            at = end
    size = 0
    for block in blocks:
        size += cramjam.snappy.decompress_raw_len(bytes(block))
        if size > limit:
            raise Unreadable(f"a compressed batch holds more than {limit} bytes")
    return b"".join(bytes(cramjam.snappy.decompress_raw(bytes(block))) for block in blocks)
