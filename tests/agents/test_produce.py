"""Produce requests in one piece: the bytes are aiokafka's own."""

import tracemalloc

from aiokafka.protocol.struct import Struct
from hypothesis import given
from hypothesis import strategies as st

import agents.runtime.transport  # noqa: F401 - has it installed
from agents.runtime import produce
from agents.runtime.produce import VERSIONS
from tests.profiles import CHEAP

names = st.text(max_size=20)
batches = st.lists(st.tuples(st.integers(0, 2**31 - 1), st.binary(max_size=200)), max_size=4)


@CHEAP
@given(
    st.sampled_from(VERSIONS),
    st.none() | names,
    st.sampled_from([-1, 0, 1]),
    st.integers(0, 2**31 - 1),
    st.lists(st.tuples(names, batches), max_size=4),
)
def test_a_request_has_the_bytes_that_its_schema_gives(
    version: type[Struct], transaction: str | None, acks: int, timeout: int, topics: list[tuple[str, object]]
) -> None:
    request = version(transaction, acks, timeout, topics)
    assert request.encode() == Struct.encode(request)


def test_producers_of_a_worker_write_so() -> None:
    assert all(version.encode is produce.encode for version in VERSIONS)


def test_a_long_batch_is_not_copied_level_by_level() -> None:
    """Peak memory of encoding it: the request itself, and nothing of its size beside."""
    request = VERSIONS[-1]("t", -1, 1, [("topic", [(0, bytes(8 << 20))])])
    tracemalloc.start()
    try:
        request.encode()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 9 << 20
