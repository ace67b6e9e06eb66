"""The hash of a set: equal to the sum lane by lane, undone by removing, the same in any order."""

import hashlib
import struct

from hypothesis import given
from hypothesis import strategies as st

from pipeline import lthash
from tests.profiles import CHEAP

LANES = 1024

edges = st.sampled_from([0, 1, 2, 0x7FFE, 0x7FFF, 0x8000, 0x8001, 0xFFFE, 0xFFFF]) | st.integers(0, 0xFFFF)
totals = st.lists(edges, min_size=1, max_size=16).map(
    lambda some: lthash.load(struct.pack(f"<{LANES}H", *(some[n % len(some)] for n in range(LANES))))
)
elements = st.binary(max_size=80)


def lanes(total: int) -> tuple[int, ...]:
    return struct.unpack(f"<{LANES}H", lthash.dump(total))


def of(members: list[bytes]) -> int:
    total = lthash.EMPTY
    for member in members:
        total = lthash.add(total, lthash.element(member))
    return total


@CHEAP
@given(totals, totals)
def test_lanes_add_apart(one: int, other: int) -> None:
    """No carry crosses into the next lane, whatever the lanes hold."""
    assert lanes(lthash.add(one, other)) == tuple(
        (a + b) % 65_536 for a, b in zip(lanes(one), lanes(other), strict=True)
    )


@CHEAP
@given(totals, totals)
def test_lanes_subtract_apart(one: int, other: int) -> None:
    assert lanes(lthash.remove(one, other)) == tuple(
        (a - b) % 65_536 for a, b in zip(lanes(one), lanes(other), strict=True)
    )


@CHEAP
@given(totals, elements)
def test_removing_undoes_adding(total: int, member: bytes) -> None:
    element = lthash.element(member)
    assert lthash.remove(lthash.add(total, element), element) == total
    assert lthash.add(lthash.remove(total, element), element) == total


@CHEAP
@given(st.lists(elements, max_size=8).flatmap(lambda found: st.tuples(st.just(found), st.permutations(found))))
def test_the_order_does_not_matter(orders: tuple[list[bytes], list[bytes]]) -> None:
    assert of(orders[0]) == of(orders[1])


@CHEAP
@given(st.sets(elements, min_size=1, max_size=6), st.data())
def test_removing_gives_the_set_without_it(members: set[bytes], data: st.DataObject) -> None:
    gone = data.draw(st.sampled_from(sorted(members)))
    without = lthash.remove(of(sorted(members)), lthash.element(gone))
    assert without == of(sorted(members - {gone}))
    assert lthash.root(without) != lthash.root(of(sorted(members)))


def test_an_element_twice_is_not_an_element_less() -> None:
    """What XOR would forget: two equal elements do not cancel out."""
    once, twice = of([b"a"]), of([b"a", b"a"])
    assert len({lthash.EMPTY, once, twice}) == 3


@CHEAP
@given(totals)
def test_an_accumulator_keeps_its_bytes(total: int) -> None:
    assert lthash.load(lthash.dump(total)) == total
    assert len(lthash.dump(total)) == lthash.BYTES


def test_an_element_is_shake_128_of_its_bytes_and_a_root_blake2b_of_the_lanes() -> None:
    """Journals hold roots for ever: who reads them in another language builds on these two lines."""
    assert lthash.dump(lthash.element(b"key and hash")) == hashlib.shake_128(b"key and hash").digest(2048)
    assert lthash.root(lthash.EMPTY) == hashlib.blake2b(bytes(2048), digest_size=32).digest()
    assert (
        lthash.root(lthash.element(b"x"))
        == hashlib.blake2b(hashlib.shake_128(b"x").digest(2048), digest_size=32).digest()
    )
