"""Partition of a key: murmur2 as Java clients compute it."""

import struct
from functools import lru_cache

_SEED = 0x9747B28C
_M = 0x5BD1E995
_MASK = 0xFFFFFFFF


@lru_cache(maxsize=65_536)
def murmur2(key: bytes) -> int:
    """MurmurHash2, 32 bits unsigned, with Kafka's seed. Source: org.apache.kafka.common.utils.Utils."""
    length = len(key)
    h = _SEED ^ length
    words = length >> 2
    for k in struct.unpack_from(f"<{words}I", key):
        k = k * _M & _MASK
        h = (h * _M & _MASK) ^ ((k ^ k >> 24) * _M & _MASK)
    rest = key[words << 2 :]
    if rest:
        h = (h ^ int.from_bytes(rest, "little")) * _M & _MASK
    h = (h ^ h >> 13) * _M & _MASK
    return h ^ h >> 15


def partition_for(key: bytes | None, partitions: int) -> int:
    """Where a record with this key goes; a record without a key goes to partition 0 of ours."""
    if key is None:
        return 0
    return (murmur2(key) & 0x7FFFFFFF) % partitions
