"""The rule of broadcasting: what replies come to, who is asked again, and in which calls a family travels."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import outcome
from pipeline.broadcast import AskAgain, Refused, Step, Success, Waits, decide, halves, lanes
from pipeline.broadcasters import Kind, Reply
from schemas.flow import BroadcastRequest, Origin, Unmined
from schemas.types import display

ORIGIN = Origin("cluster", "ingest", 0, 7, 1_700_000_000_000)
GRAND, PARENT, SUBJECT, RIVAL = (bytes([n]) * 32 for n in (1, 2, 3, 9))
ENDPOINTS = ("arc@a", "arc@b")


def member(txid: bytes, size: int = 100) -> Unmined:
    return Unmined(txid, bytes(size))


def request(*txids: bytes, size: int = 100) -> BroadcastRequest:
    return BroadcastRequest(txids[-1], tuple(member(t, size) for t in txids), ("topic:tm_anytx",), ("r",), ORIGIN)


WORDS: dict[str, tuple[Kind, str, bool]] = {
    "taken": ("accepted", "", False),
    "seen": ("accepted", "", True),
    "pending": ("pending", "network.undecided", False),
    "orphan": ("condition", "network.orphan", False),
    "contested": ("condition", "network.contested", False),
    "fee": ("refused", "network.fee", False),
    "rejected": ("refused", "network.rejected", True),
    "transport": ("transport", "", False),
    "config": ("config", "", False),
    "unavailable": ("unavailable", "", False),
}


def reply(txid: bytes, word: str) -> Reply:
    kind, code, network = WORDS[word]
    return Reply(txid, kind, code, f"says {word}", network=network, competing=(RIVAL,) if word == "contested" else ())


def after(
    words: dict[str, dict[bytes, str]], *txids: bytes, asked: int = 3, known: dict[bytes, str] | None = None
) -> Step:
    """The step once each endpoint was asked `asked` times of 3 and said `words`."""
    replies = {name: {txid: reply(txid, word) for txid, word in said.items()} for name, said in words.items()}
    return decide(request(*txids), ENDPOINTS, replies, known or {}, dict.fromkeys(ENDPOINTS, asked), 3)


def both(a: str, b: str, *, asked: int = 3) -> Step:
    """A subject without ancestors, and what the two endpoints say about it ("" for nothing)."""
    words = {name: {SUBJECT: word} for name, word in zip(ENDPOINTS, (a, b), strict=True) if word}
    return after(words, SUBJECT, asked=asked)


def told(step: Step) -> str:
    match step:
        case Success():
            return "success"
        case Refused(verdict=verdict):
            return f"refused {verdict.code}"
        case Waits(condition=condition):
            return f"waits {condition.code}"
        case _:
            return "ask again"


FINALLY = {
    ("taken", ""): "success",
    ("seen", "rejected"): "success",
    ("taken", "rejected"): "success",
    ("taken", "fee"): "success",
    ("taken", "orphan"): "success",
    ("taken", "transport"): "success",
    ("taken", "config"): "success",
    ("fee", "fee"): "refused network.fee",
    ("fee", "rejected"): "refused network.rejected",
    ("rejected", "rejected"): "refused network.rejected",
    ("rejected", "transport"): "waits network.undecided",  # the other may take it when it is back
    ("rejected", "unavailable"): "waits network.undecided",
    ("rejected", "config"): "waits network.undecided",
    ("rejected", ""): "waits network.undecided",
    ("rejected", "orphan"): "waits network.orphan",
    ("rejected", "contested"): "waits network.contested",
    ("rejected", "pending"): "waits network.undecided",
    ("fee", "transport"): "waits network.undecided",
    ("fee", "unavailable"): "waits network.undecided",
    ("fee", "config"): "waits network.undecided",
    ("fee", "orphan"): "waits network.orphan",
    ("fee", "pending"): "waits network.undecided",
    ("fee", ""): "waits network.undecided",
    ("orphan", "orphan"): "waits network.orphan",
    ("orphan", "transport"): "waits network.orphan",
    ("contested", "transport"): "waits network.contested",
    ("pending", "pending"): "waits network.undecided",
    ("transport", "transport"): "waits network.undecided",
    ("config", "config"): "waits network.undecided",
    ("unavailable", "unavailable"): "waits network.undecided",
    ("", ""): "waits network.undecided",
}


@pytest.mark.invariant("CAST-2")
@pytest.mark.parametrize(("words", "expected"), FINALLY.items())
def test_what_two_endpoints_come_to_when_nobody_is_left_to_ask(words: tuple[str, str], expected: str) -> None:
    assert told(both(*words)) == expected
    assert told(both(words[1], words[0])) == expected


@pytest.mark.invariant("CAST-2")
@pytest.mark.parametrize("other", WORDS)
@pytest.mark.parametrize("asked", [1, 3])
def test_one_acceptance_is_success_at_once_whatever_the_other_says(other: str, asked: int) -> None:
    assert both("taken", other, asked=asked) == Success(((SUBJECT, "arc@a"),))


@pytest.mark.invariant("CAST-2")
@pytest.mark.parametrize("words", list(itertools.product(["transport", "config", "unavailable", ""], repeat=2)))
def test_our_faults_and_absence_refuse_nothing(words: tuple[str, str]) -> None:
    assert told(both(*words)) == "waits network.undecided"


def test_every_code_it_gives_is_of_its_kind() -> None:
    for words in itertools.product(["", *WORDS], repeat=2):
        step = both(*words)
        if isinstance(step, Refused):
            assert outcome.BY_CODE[step.verdict.code].kind == "verdict"
        if isinstance(step, Waits):
            assert outcome.BY_CODE[step.condition.code].kind == "condition"


def test_a_refusal_names_whose_words_it_repeats_and_a_wait_names_all() -> None:
    refused = both("fee", "rejected")
    assert isinstance(refused, Refused)
    assert (refused.endpoint, refused.verdict.message) == ("arc@b", "arc@b: says rejected")
    waits = both("fee", "contested")
    assert isinstance(waits, Waits)
    assert waits.condition.message == "arc@a: says fee; arc@b: says contested"
    assert waits.competing == (RIVAL,)


# --- asking again


def test_everybody_is_asked_first_about_the_whole_family() -> None:
    step = after({}, GRAND, PARENT, SUBJECT, asked=0)
    assert step == AskAgain(dict.fromkeys(ENDPOINTS, (GRAND, PARENT, SUBJECT)))


@pytest.mark.parametrize(
    ("words", "again"),
    [
        (("transport", "fee"), ["arc@a"]),
        (("pending", "transport"), ["arc@a", "arc@b"]),
        (("orphan", "transport"), ["arc@b"]),
        (("config", "transport"), ["arc@b"]),
        (("unavailable", "pending"), ["arc@b"]),
        (("", "rejected"), ["arc@a"]),
    ],
)
def test_who_gave_no_answer_is_asked_again(words: tuple[str, str], again: list[str]) -> None:
    step = both(*words, asked=1)
    assert isinstance(step, AskAgain)
    assert step.calls == dict.fromkeys(again, (SUBJECT,))
    assert not isinstance(both(*words, asked=3), AskAgain)


def test_each_endpoint_has_tries_of_its_own() -> None:
    replies = {name: {SUBJECT: reply(SUBJECT, "transport")} for name in ENDPOINTS}
    step = decide(request(SUBJECT), ENDPOINTS, replies, {}, {"arc@a": 3, "arc@b": 2}, 3)
    assert step == AskAgain({"arc@b": (SUBJECT,)})


def test_only_members_without_an_answer_are_sent_again() -> None:
    step = after({"arc@a": {PARENT: "taken", SUBJECT: "transport"}, "arc@b": {}}, PARENT, SUBJECT, asked=1)
    assert step == AskAgain({"arc@a": (SUBJECT,), "arc@b": (PARENT, SUBJECT)})


# --- ancestors


def test_a_subject_on_its_way_counts_once_its_ancestors_do() -> None:
    taken = {"arc@a": {PARENT: "taken", SUBJECT: "taken"}}
    assert after(taken, PARENT, SUBJECT) == Success(((PARENT, "arc@a"), (SUBJECT, "arc@a")))
    elsewhere = {"arc@a": {PARENT: "fee", SUBJECT: "taken"}, "arc@b": {PARENT: "taken", SUBJECT: "fee"}}
    assert after(elsewhere, PARENT, SUBJECT) == Success(((PARENT, "arc@b"), (SUBJECT, "arc@a")))


def test_a_subject_the_network_has_seen_counts_whatever_its_ancestors_got() -> None:
    """An ancestor may have been mined since, and be refused for it."""
    step = after({"arc@a": {PARENT: "rejected", SUBJECT: "seen"}}, PARENT, SUBJECT)
    assert step == Success(((SUBJECT, "arc@a"),))


def test_a_subject_whose_ancestor_nobody_took_waits_and_says_which() -> None:
    step = after({n: {PARENT: "fee", SUBJECT: "taken"} for n in ENDPOINTS}, PARENT, SUBJECT)
    assert isinstance(step, Waits)
    assert step.condition.code == "network.orphan"
    assert step.condition.message == f"ancestor {display(PARENT)}: arc@a: says fee; arc@b: says fee"


def test_a_refused_ancestor_makes_its_orphan_wait_not_fail() -> None:
    step = after({n: {PARENT: "rejected", SUBJECT: "orphan"} for n in ENDPOINTS}, PARENT, SUBJECT)
    assert told(step) == "waits network.orphan"


def test_what_was_accepted_earlier_is_not_asked_for_and_counts() -> None:
    known = {PARENT: "arc@b"}
    assert after({}, PARENT, SUBJECT, asked=0, known=known) == AskAgain(dict.fromkeys(ENDPOINTS, (SUBJECT,)))
    step = after({"arc@a": {SUBJECT: "taken"}}, PARENT, SUBJECT, known=known)
    assert step == Success(((PARENT, "arc@b"), (SUBJECT, "arc@a")))
    assert after({}, PARENT, SUBJECT, asked=0, known={SUBJECT: "arc@a"}) == Success(((SUBJECT, "arc@a"),))


def test_a_request_without_unmined_transactions_needs_nothing() -> None:
    proven = BroadcastRequest(SUBJECT, (), (), (), ORIGIN)
    assert decide(proven, ENDPOINTS, {}, {}, {}, 3) == Success(())


# --- calls


def plan(*requests: BroadcastRequest, limit: int = 3, limit_bytes: int = 10_000) -> list[list[str]]:
    wanted = {m.txid for r in requests for m in r.unmined}
    return [
        ["".join(chr(m.txid[0]) for m in call) for call in lane] for lane in lanes(requests, wanted, limit, limit_bytes)
    ]


def family(letters: str, size: int = 100) -> BroadcastRequest:
    return request(*(letter.encode() * 32 for letter in letters), size=size)


@pytest.mark.invariant("CAST-1")
@pytest.mark.parametrize(
    ("families", "expected"),
    [
        ([], []),
        (["a"], [["a"]]),
        (["a", "b", "c", "d"], [["abc"], ["d"]]),  # strangers share a call
        (["ab", "cd"], [["ab"], ["cd"]]),  # and are not split for it
        (["abcd"], [["abc", "d"]]),  # a long one goes in turns
        (["a", "bcdef", "g"], [["ag"], ["bcd", "ef"]]),
        (["ab", "ac"], [["abc"]]),  # each once
        (["ab", "cd", "bd"], [["abc", "d"]]),  # a family by a later request
        (["pq", "p"], [["pq"]]),
    ],
)
def test_families_stay_together_and_in_order(families: list[str], expected: list[list[str]]) -> None:
    assert plan(*map(family, families)) == expected


def test_calls_are_bounded_in_bytes_and_what_is_larger_goes_alone() -> None:
    assert plan(family("abcd", size=4_000), limit=100) == [["ab", "cd"]]
    assert plan(family("a", size=20_000), family("b"), limit=100) == [["a"], ["b"]]


def test_only_what_is_wanted_is_carried() -> None:
    assert lanes([request(GRAND, PARENT, SUBJECT)], {SUBJECT}, 3, 10_000) == (((member(SUBJECT),),),)
    assert lanes([request(SUBJECT)], set(), 3, 10_000) == ()


def ancestry(parents: list[set[int]], subject: int) -> list[int]:
    """The subject and all it descends from, lower numbers first: parents have lower numbers."""
    found = {subject}
    for number in range(subject, -1, -1):
        if number in found:
            found |= parents[number]
    return sorted(found)


PARENTS = st.tuples(*(st.sets(st.integers(0, n - 1), max_size=2) if n else st.just(set()) for n in range(14)))


@pytest.mark.invariant("CAST-1")
@given(PARENTS, st.lists(st.integers(0, 13), max_size=8), st.integers(1, 5))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_no_transaction_travels_before_or_beside_its_ancestor(
    parents: tuple[set[int], ...], subjects: list[int], limit: int
) -> None:
    """Requests over one graph of transactions, each whole, in any number and order."""
    graphs = [ancestry(list(parents), subject) for subject in subjects]
    place: dict[int, tuple[int, int, int]] = {}
    for lane_number, lane in enumerate(
        plan(*(family("".join(chr(97 + n) for n in graph)) for graph in graphs), limit=limit)
    ):
        for call_number, call in enumerate(lane):
            assert 0 < len(call) <= limit
            for position, letter in enumerate(call):
                assert ord(letter) - 97 not in place
                place[ord(letter) - 97] = (lane_number, call_number, position)
    assert set(place) == {n for graph in graphs for n in graph}
    for child, (lane_number, *turn) in place.items():
        for parent in parents[child]:
            assert place[parent][0] == lane_number
            assert list(place[parent][1:]) < turn


@pytest.mark.parametrize(("size", "expected"), [(2, [1, 1]), (3, [2, 1]), (100, [50, 50]), (1, [1])])
def test_halves(size: int, expected: list[int]) -> None:
    call = tuple(member(bytes([n]) * 32) for n in range(size))
    split = halves(call)
    assert [len(half) for half in split] == expected
    assert tuple(m for half in split for m in half) == call


# --- endpoints that would refuse by their policy

OPEN, LOST = "network.undecided", "network.orphan"


@pytest.mark.parametrize(
    ("words", "unfit", "expected"),
    [
        (("", ""), {0: LOST, 1: OPEN}, f"waits {LOST}"),  # nobody is asked
        (("", ""), {0: OPEN}, "ask again"),
        (("taken", ""), {1: OPEN}, "success"),
        (("fee", ""), {1: LOST}, f"waits {LOST}"),  # a policy that may have changed is no second refusal
        (("fee", "fee"), {1: OPEN}, "refused network.fee"),  # read anew, it is one
        (("rejected", ""), {1: OPEN}, f"waits {OPEN}"),  # a node spoke, and not everybody
        (("contested", ""), {1: OPEN}, "waits network.contested"),
        (("transport", ""), {1: OPEN}, "ask again"),
        (("config", ""), {1: LOST}, "waits network.undecided"),
        (("fee", "taken"), {1: OPEN}, "success"),  # it took it with another request
    ],
)
@pytest.mark.invariant("CAST-2")
def test_who_is_not_asked_refuses_nothing(words: tuple[str, str], unfit: dict[int, str], expected: str) -> None:
    said = {name: {SUBJECT: reply(SUBJECT, word)} for name, word in zip(ENDPOINTS, words, strict=True) if word}
    named = {ENDPOINTS[number]: code for number, code in unfit.items()}
    asked = {name: 1 if name in said else 0 for name in ENDPOINTS}
    step = decide(request(SUBJECT), ENDPOINTS, said, {}, asked, 3, named)
    assert told(step) == expected
    if isinstance(step, AskAgain):
        assert not set(step.calls) & set(named)


def test_a_policy_that_leaves_nobody_is_told_with_what_others_said() -> None:
    said = {ENDPOINTS[0]: {SUBJECT: reply(SUBJECT, "fee")}}
    step = decide(request(SUBJECT), ENDPOINTS, said, {}, dict.fromkeys(ENDPOINTS, 3), 3, {ENDPOINTS[1]: OPEN})
    assert isinstance(step, Waits)
    assert step.condition.message == f"{ENDPOINTS[0]}: says fee; not asked by their policy: {ENDPOINTS[1]}"
