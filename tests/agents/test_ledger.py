"""What of a partition is in hand, and where its group may commit."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.runtime.ledger import Ledger
from tests.profiles import CHEAP


@st.composite
def fetches(draw: st.DrawFn) -> list[tuple[list[int], int]]:
    """Offsets in order, with gaps where markers or compacted records stand, and where each fetch ended."""
    at, found = draw(st.integers(0, 5)), []
    for _ in range(draw(st.integers(1, 5))):
        offsets = []
        for _ in range(draw(st.integers(0, 4))):
            at += draw(st.integers(0, 2))
            offsets.append(at)
            at += 1
        at += draw(st.integers(0, 2))
        found.append((offsets, at))
    return found


@pytest.mark.invariant("ACK-2")
@pytest.mark.invariant("ACK-3")
@CHEAP
@given(fetches(), st.randoms(use_true_random=False))
def test_the_position_is_the_first_unfinished_offset_or_the_end_of_the_fetch(
    fetched: list[tuple[list[int], int]], chance: random.Random
) -> None:
    """Whatever finishes in whatever order; when nothing is left, markers and gaps behind are passed too."""
    ledger = Ledger(0)
    unfinished: list[int] = []
    read_to = 0
    for offsets, end in fetched:
        ledger.took([(offset, 1_000 + offset) for offset in offsets], end)
        unfinished += offsets
        read_to = end
        while unfinished and chance.random() < 0.6:
            done = unfinished.pop(chance.randrange(len(unfinished)))
            ledger.finished(done)
            assert ledger.position == min(unfinished, default=read_to)
            assert ledger.oldest_ms == (1_000 + min(unfinished) if unfinished else None)
        assert (len(ledger), ledger.position) == (len(unfinished), min(unfinished, default=read_to))
    for offset in chance.sample(unfinished, len(unfinished)):
        ledger.finished(offset)
    assert (len(ledger), ledger.position) == (0, read_to)


def test_an_input_finishes_once() -> None:
    ledger = Ledger(3)
    ledger.took([(3, 0), (5, 0)], 6)
    ledger.finished(5)
    with pytest.raises(KeyError):
        ledger.finished(5)
    assert ledger.position == 3


@CHEAP
@given(st.sets(st.integers(0, 30), min_size=1), st.data())
def test_what_is_forgotten_is_read_again_and_holds_nothing_open(taken: set[int], data: st.DataObject) -> None:
    """Inputs that nobody touched are given up: the position stays before them, whatever else finishes."""
    offsets = sorted(taken)
    forgotten = data.draw(st.sets(st.sampled_from(offsets)))
    ledger = Ledger(0)
    ledger.took([(offset, 0) for offset in offsets], 40)
    ledger.forget(sorted(forgotten))
    left = [offset for offset in offsets if offset not in forgotten]
    assert len(ledger) == len(left)
    for offset in data.draw(st.permutations(left)):
        assert ledger.position <= min(forgotten, default=40)
        assert ledger.position <= min(left)
        ledger.finished(offset)
        left.remove(offset)
    assert (len(ledger), ledger.position) == (0, min(forgotten, default=40))
