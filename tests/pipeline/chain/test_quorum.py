"""What several trackers' answers come to, and how long it is believed."""

import itertools

import pytest

from pipeline.chain.answer import Answer, RootAt, Seen, Tip
from pipeline.chain.quorum import RootCache, agreed_tip, decide, disagree, reorganised_at, settled

LETTERS = {"Y": Answer.YES, "N": Answer.NO, "-": Answer.UNKNOWN}

OF_THREE = {
    "YYY": "Y", "YYN": "Y", "YY-": "Y",
    "YNY": "Y", "YNN": "N", "YN-": "-",
    "Y-Y": "Y", "Y-N": "-", "Y--": "-",
    "NYY": "Y", "NYN": "N", "NY-": "-",
    "NNY": "N", "NNN": "N", "NN-": "N",
    "N-Y": "-", "N-N": "N", "N--": "-",
    "-YY": "Y", "-YN": "-", "-Y-": "-",
    "-NY": "-", "-NN": "N", "-N-": "-",
    "--Y": "-", "--N": "-", "---": "-",
}  # fmt: skip
"""What three trackers say (yes, no, nothing) and what two of them decide: every combination."""

ROOT: RootAt = (900_000, b"\x11" * 32)
TIP = Tip(900_010, 1_700_000_000)


def said(letters: str) -> list[Answer]:
    return [LETTERS[letter] for letter in letters]


def test_the_table_is_complete() -> None:
    assert set(OF_THREE) == {"".join(letters) for letters in itertools.product("YN-", repeat=3)}


@pytest.mark.invariant("QUORUM-1")
@pytest.mark.invariant("QUORUM-2")
@pytest.mark.parametrize(("letters", "word"), OF_THREE.items())
def test_two_equal_definite_answers_of_three_decide(letters: str, word: str) -> None:
    assert decide(said(letters)) is LETTERS[word]


@pytest.mark.parametrize(
    ("letters", "needed", "word"),
    [
        ("YYNN", 2, "-"),  # both sides have a quorum: nobody is right by numbers
        ("YYYNN", 3, "Y"),
        ("YYNNN", 3, "N"),
        ("YY---", 3, "-"),
        ("Y", 1, "Y"),
        ("YN", 1, "-"),
        ("", 1, "-"),
    ],
)
def test_other_quorums(letters: str, needed: int, word: str) -> None:
    assert decide(said(letters), needed) is LETTERS[word]


@pytest.mark.parametrize("letters", OF_THREE)
def test_settled_is_the_word_that_no_outstanding_answer_can_change(letters: str) -> None:
    """By definition: the same word for every way the outstanding trackers may answer."""
    for heard in range(4):
        begun = said(letters[:heard])
        ends = {decide([*begun, *rest]) for rest in itertools.product(Answer, repeat=3 - heard)}
        assert settled(begun, 3 - heard) is (ends.pop() if len(ends) == 1 else Answer.UNKNOWN)


def test_a_quorum_of_few_is_not_settled_while_others_may_contradict_it() -> None:
    assert settled(said("YY"), outstanding=2, needed=2) is Answer.UNKNOWN
    assert settled(said("YYY"), outstanding=1, needed=2) is Answer.YES


@pytest.mark.parametrize(("letters", "found"), [("YYN", True), ("YN-", True), ("YY-", False), ("---", False)])
def test_a_yes_beside_a_no_is_a_disagreement(letters: str, found: bool) -> None:
    assert disagree(said(letters)) is found


def seen(height: int, median_time_past: int, hashes: dict[int, bytes] | None = None) -> Seen:
    return Seen(height, median_time_past, tuple((hashes or {}).items()))


@pytest.mark.parametrize(
    ("tips", "agreed"),
    [
        ([(100, 50), (100, 50), (100, 50)], (100, 50)),
        ([(9_999, 50), (100, 50), (99, 40)], (100, 50)),  # who lies upward is passed over
        ([(1, 1), (100, 50), (99, 40)], (99, 40)),  # who lies downward makes us wait at most
        ([(100, 9_999), (100, 50), (99, 40)], (100, 50)),  # a true height does not carry a false time
        ([(100, 50), (99, 40)], (99, 40)),
    ],
)
def test_no_single_tracker_can_raise_the_tip(tips: list[tuple[int, int]], agreed: tuple[int, int]) -> None:
    for order in itertools.permutations(tips):
        assert agreed_tip([seen(*tip) for tip in order]) == Tip(*agreed)


def test_one_tracker_is_no_agreement() -> None:
    assert agreed_tip([seen(100, 50)]) is None
    assert agreed_tip([]) is None


@pytest.mark.parametrize(
    ("before", "after", "height"),
    [
        ({8: b"h", 9: b"i"}, {9: b"i", 10: b"j"}, None),  # one block more
        ({8: b"h", 9: b"i"}, {9: b"I", 10: b"J"}, 9),
        ({7: b"g", 8: b"h", 9: b"i"}, {7: b"g", 8: b"H", 9: b"I", 10: b"J"}, 8),
        ({8: b"h", 9: b"i"}, {8: b"h"}, 9),  # the chain became shorter
        ({8: b"h", 9: b"i"}, {20: b"t"}, None),  # no overlap: nothing can be said
    ],
)
def test_a_replaced_block_is_found_where_two_looks_overlap(
    before: dict[int, bytes], after: dict[int, bytes], height: int | None
) -> None:
    assert reorganised_at(seen(max(before), 0, before), seen(max(after), 0, after)) == height


def test_a_yes_is_kept_for_its_time() -> None:
    cache = RootCache(ttl_s=300)
    cache.put(ROOT, Answer.YES, TIP, now=1_000)
    assert cache.get(ROOT, TIP, now=1_299.9) is Answer.YES
    assert cache.get(ROOT, TIP, now=1_300) is Answer.UNKNOWN


def test_a_yes_outlives_new_blocks_and_a_no_does_not() -> None:
    later = Tip(TIP.height + 1, TIP.median_time_past + 600)
    other: RootAt = (ROOT[0], b"\x22" * 32)
    cache = RootCache()
    cache.put(ROOT, Answer.YES, TIP, now=0)
    cache.put(other, Answer.NO, TIP, now=0)
    assert cache.get(other, TIP, now=1) is Answer.NO
    assert cache.get(ROOT, later, now=1) is Answer.YES
    assert cache.get(other, later, now=1) is Answer.UNKNOWN


@pytest.mark.parametrize(("depth", "kept"), [(99, Answer.UNKNOWN), (100, Answer.YES)])
def test_a_root_100_deep_is_kept_longer(depth: int, kept: Answer) -> None:
    tip = Tip(ROOT[0] + depth, 0)
    cache = RootCache(ttl_s=300, buried_ttl_s=86_400)
    cache.put(ROOT, Answer.YES, tip, now=0)
    assert cache.get(ROOT, tip, now=86_399) is kept


@pytest.mark.invariant("QUORUM-2")
def test_unknown_is_never_kept_and_replaces_nothing() -> None:
    cache = RootCache()
    cache.put(ROOT, Answer.UNKNOWN, TIP, now=0)
    assert len(cache) == 0
    cache.put(ROOT, Answer.YES, TIP, now=0)
    cache.put(ROOT, Answer.UNKNOWN, TIP, now=0)
    assert cache.get(ROOT, TIP, now=1) is Answer.YES


def test_a_reorganisation_forgets_its_height_and_all_above() -> None:
    cache = RootCache()
    for height in (899_998, 899_999, 900_000):
        cache.put((height, ROOT[1]), Answer.YES, TIP, now=0)
    assert cache.reorganised(899_999) == 2
    assert [cache.get((h, ROOT[1]), TIP, now=1) for h in (899_998, 899_999, 900_000)] == said("Y--")


def test_two_roots_of_one_height_are_two_entries() -> None:
    cache = RootCache()
    cache.put(ROOT, Answer.YES, TIP, now=0)
    assert cache.get((ROOT[0], b"\x22" * 32), TIP, now=0) is Answer.UNKNOWN


def test_the_cache_is_bounded_and_drops_what_was_unused_for_longest() -> None:
    cache = RootCache(limit=2)
    first, second, third = ((height, ROOT[1]) for height in (1, 2, 3))
    cache.put(first, Answer.YES, TIP, now=0)
    cache.put(second, Answer.YES, TIP, now=0)
    assert cache.get(first, TIP, now=0) is Answer.YES
    cache.put(third, Answer.YES, TIP, now=0)
    assert [cache.get(at, TIP, now=0) for at in (first, second, third)] == said("Y-Y")
