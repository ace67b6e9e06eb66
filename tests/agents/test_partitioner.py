"""Partitions of keys: as Java clients compute them."""

import pytest
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.partitioner import murmur2 as theirs
from hypothesis import given
from hypothesis import strategies as st

from agents.runtime.partitioner import murmur2, partition_for
from tests.profiles import CHEAP

JAVA = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}
"""Signed, as the tests of Kafka's own `Utils.murmur2` state them."""


@pytest.mark.parametrize(("key", "signed"), JAVA.items())
def test_known_values_of_kafkas_own_tests(key: bytes, signed: int) -> None:
    assert murmur2(key) == signed % 2**32


@CHEAP
@given(st.binary(max_size=70), st.integers(1, 64))
def test_keys_go_where_aiokafka_would_put_them(key: bytes, partitions: int) -> None:
    """Of every length modulo 4, the empty key too."""
    assert murmur2(key) == theirs(key) % 2**32
    numbers = list(range(partitions))
    assert partition_for(key, partitions) == DefaultPartitioner()(key, numbers, numbers)


def test_a_record_without_key_goes_to_the_first_partition() -> None:
    assert partition_for(None, 8) == 0
    assert partition_for(b"", 8) == (murmur2(b"") & 0x7FFFFFFF) % 8
