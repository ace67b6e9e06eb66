import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.codec.hashing import hash256
from pipeline.codec.reader import Malformed, counted, varint, write_varint
from tests.profiles import CHEAP

EDGES = [0, 1, 0xFC, 0xFD, 0xFFFF, 0x1_0000, 0xFFFF_FFFF, 0x1_0000_0000, 2**64 - 1]


@CHEAP
@given(st.one_of(st.sampled_from(EDGES), st.integers(0, 2**64 - 1)), st.binary(max_size=4))
def test_a_number_comes_back_and_leaves_the_position_behind_it(number: int, behind: bytes) -> None:
    written = write_varint(number)
    assert varint(b"xx" + written + behind, 2) == (number, 2 + len(written))


@pytest.mark.parametrize(
    "long", ["fd0000", "fdfc00", "fe00000000", "feffff0000", "ff0000000000000000", "ffffffffff00000000"]
)
def test_a_longer_form_is_refused(long: str) -> None:
    with pytest.raises(Malformed) as caught:
        varint(bytes.fromhex(long), 0)
    assert caught.value.code == "malformed.varint"


@pytest.mark.parametrize("short", ["", "fd", "fdfd", "fe000000", "ff00000000000000"])
def test_an_end_too_soon_is_refused(short: str) -> None:
    with pytest.raises(Malformed) as caught:
        varint(bytes.fromhex(short), 0)
    assert caught.value.code == "malformed.truncated"


def test_a_count_is_compared_with_the_bytes_that_are_left() -> None:
    assert counted(b"\x02" + bytes(10), 0, 5) == (2, 1)
    with pytest.raises(Malformed) as caught:
        counted(b"\x02" + bytes(9), 0, 5)
    assert (caught.value.code, caught.value.at) == ("malformed.count", "byte 0")


def test_the_hash_is_sha256_twice() -> None:
    # SHA-256d of nothing, as published in countless places.
    assert hash256(b"").hex() == "5df6e0e2761359d30a8275058e299fcc0381534545f55cf43e41983f5d4c9456"
