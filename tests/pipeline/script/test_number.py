import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.script.number import decode, encode, is_shortest, shortest, truth
from tests.profiles import CHEAP


@CHEAP
@given(st.one_of(st.integers(-300, 300), st.integers(-(2**80), 2**80)), st.integers(0, 3))
def test_a_number_has_one_shortest_form_and_longer_ones(number: int, zeros: int) -> None:
    short = encode(number)
    assert decode(short) == number
    assert is_shortest(short)
    long = (
        short[:-1] + bytes((short[-1] & 0x7F,)) + bytes(zeros) + bytes((short[-1] & 0x80,)) if short else bytes(zeros)
    )
    assert decode(long) == number
    assert shortest(long) == short


@CHEAP
@given(st.binary(max_size=6))
def test_any_bytes_are_a_number(element: bytes) -> None:
    assert shortest(element) == encode(decode(element))
    assert is_shortest(element) == (shortest(element) == element)
    assert truth(element) == (decode(element) != 0)


@pytest.mark.parametrize(
    ("number", "element"),
    [
        (0, ""),
        (1, "01"),
        (-1, "81"),
        (127, "7f"),
        (128, "8000"),
        (-128, "8080"),
        (255, "ff00"),
        (-255, "ff80"),
        (256, "0001"),
    ],
)
def test_known_forms(number: int, element: str) -> None:
    assert encode(number).hex() == element
