"""The hash of a set: equal to the sum lane by lane, undone by removing, the same in any order."""

import hashlib
import struct
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import lthash
from tests.profiles import CHEAP

LANES = 1024

edges = st.sampled_from([0, 1, 2, 0x7FFE, 0x7FFF, 0x8000, 0x8001, 0xFFFE, 0xFFFF]) | st.integers(0, 0xFFFF)
totals = st.lists(edges, min_size=1, max_size=16).map(
    lambda some: struct.pack(f"<{LANES}H", *(some[n % len(some)] for n in range(LANES)))
)
elements = st.binary(max_size=80)
both = pytest.mark.parametrize("moved", [lthash.moved, lthash.plain_moved], ids=["as installed", "plain"])

Moved = Callable[[bytes, Sequence[bytes], Sequence[bytes]], bytes]


def lanes(total: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{LANES}H", total)


def of(members: list[bytes]) -> bytes:
    return lthash.changed(lthash.EMPTY, [], members)


@both
@CHEAP
@given(one=totals, removed=st.lists(totals, max_size=3), added=st.lists(totals, max_size=3))
def test_lanes_move_apart(moved: Moved, one: bytes, removed: list[bytes], added: list[bytes]) -> None:
    """No carry or borrow crosses into the next lane, whatever the lanes hold."""
    come, gone = (
        [sum(values) for values in zip(*map(lanes, some), strict=True)] or [0] * LANES for some in (added, removed)
    )
    assert lanes(moved(one, removed, added)) == tuple(
        (a + b - c) % 65_536 for a, b, c in zip(lanes(one), come, gone, strict=True)
    )


@both
@pytest.mark.parametrize("wrong", [bytes(2047), bytes(2049), b""])
def test_what_is_no_sum_is_refused(moved: Moved, wrong: bytes) -> None:
    with pytest.raises(ValueError, match="2,048 bytes"):
        moved(wrong, [], [])


RATE = 168
"""Bytes that SHAKE-128 takes at once."""

of_any_size = st.lists(st.sampled_from([0, 1, RATE - 1, RATE, RATE + 1, 2 * RATE, 700]).flatmap(
    lambda size: st.binary(min_size=size, max_size=size)
), max_size=9)  # fmt: skip


@CHEAP
@given(totals, of_any_size, of_any_size)
def test_elements_are_hashed_beside_each_other_as_they_are_alone(
    total: bytes, removed: list[bytes], added: list[bytes]
) -> None:
    """Four at a time where the processor can: whichever comes beside which, long or short, coming or going."""
    assert lthash.changed(total, removed, added) == lthash.plain_changed(total, removed, added)


@pytest.mark.parametrize("count", [31, 32, 33, 130])
def test_many_elements_are_hashed_while_others_run(count: int) -> None:
    """From 32 on the interpreter is given away meanwhile."""
    many = [b"%d" % number for number in range(count)]
    total = lthash.element(b"total")
    assert lthash.changed(total, many[:7], many[7:]) == lthash.plain_changed(total, many[:7], many[7:])
    assert lthash.changed(total, tuple(many), ()) == lthash.plain_changed(total, many, [])


@pytest.mark.parametrize("changed", [lthash.changed, lthash.plain_changed], ids=["as installed", "plain"])
def test_what_cannot_be_hashed_is_refused(changed: Moved) -> None:
    with pytest.raises(TypeError):
        changed(lthash.EMPTY, [], ["text"])  # type: ignore[list-item]
    with pytest.raises(TypeError):
        changed(lthash.EMPTY, 1, [])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="2,048 bytes"):
        changed(bytes(2047), [], [b"element"])


@CHEAP
@given(totals, elements)
def test_removing_undoes_adding(total: bytes, member: bytes) -> None:
    assert lthash.changed(lthash.changed(total, [], [member]), [member], []) == total
    assert lthash.changed(lthash.changed(total, [member], []), [], [member]) == total
    assert lthash.changed(total, [member], [member]) == total


def test_many_are_added_up_in_chunks() -> None:
    members = [b"%d" % number for number in range(2 * lthash.CHUNK + 1)]
    one_by_one = lthash.EMPTY
    for member in members:
        one_by_one = lthash.plain_moved(one_by_one, [], [lthash.element(member)])
    assert of(members) == one_by_one
    assert lthash.changed(one_by_one, members, []) == lthash.EMPTY


@CHEAP
@given(st.lists(elements, max_size=8).flatmap(lambda found: st.tuples(st.just(found), st.permutations(found))))
def test_the_order_does_not_matter(orders: tuple[list[bytes], list[bytes]]) -> None:
    assert of(orders[0]) == of(orders[1])


@CHEAP
@given(st.sets(elements, min_size=1, max_size=6), st.data())
def test_removing_gives_the_set_without_it(members: set[bytes], data: st.DataObject) -> None:
    gone = data.draw(st.sampled_from(sorted(members)))
    without = lthash.changed(of(sorted(members)), [gone], [])
    assert without == of(sorted(members - {gone}))
    assert lthash.root(without) != lthash.root(of(sorted(members)))


def test_an_element_twice_is_not_an_element_less() -> None:
    """What XOR would forget: two equal elements do not cancel out."""
    once, twice = of([b"a"]), of([b"a", b"a"])
    assert len({lthash.EMPTY, once, twice}) == 3


def test_an_element_is_shake_128_of_its_bytes_and_a_root_blake2b_of_the_lanes() -> None:
    """Journals hold roots for ever: who reads them in another language builds on these two lines."""
    assert lthash.element(b"key and hash") == hashlib.shake_128(b"key and hash").digest(2048)
    assert lthash.root(lthash.EMPTY) == hashlib.blake2b(bytes(2048), digest_size=32).digest()
    assert (
        lthash.root(lthash.element(b"x"))
        == hashlib.blake2b(hashlib.shake_128(b"x").digest(2048), digest_size=32).digest()
    )
