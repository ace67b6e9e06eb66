"""Where a transaction stands: decided from news in any order, told once, turned when the network turns."""

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from pipeline.broadcast import remembered
from pipeline.network import BLOCK_MS, BURIED, LOOK_LIMIT_MS, MINE_LIMIT_MS, UNKNOWN, Step, Times, hear, to_ask
from schemas.flow import Origin
from schemas.network import (
    Anchored,
    Challenged,
    Challenges,
    Heard,
    Looked,
    NetworkStatus,
    News,
    Outdone,
    Reported,
    Word,
)
from tests.profiles import CHEAP

A, B = "arc@a", "arc@b"
BOTH = (A, B)
TIMES = Times(settle_ms=30_000, unseen_ms=60_000, unmined_ms=1_200_000)
ORIGIN = Origin("c", "beef.ingest", 0, 1, 1)
NOW = 1_790_000_000_000
RIVAL = b"\x07" * 32


def word(endpoint: str, kind: Any, at_ms: int = NOW, *, network: bool = False, code: str = "", **more: Any) -> Word:
    return Word(endpoint, kind, more.pop("status", kind.upper()), code, "", network, at_ms, **more)


def no(endpoint: str, at_ms: int = NOW, *, network: bool = False) -> Word:
    return word(endpoint, "refused", at_ms, network=network, code="network.fee")


def seen(endpoint: str, at_ms: int = NOW) -> Word:
    return word(endpoint, "accepted", at_ms, network=True)


def reported(*words: Word, stands: bool = False, contexts: tuple[str, ...] = ("topic:tm_x",), **more: Any) -> Reported:
    return Reported(words, BOTH, stands, contexts, more.get("request_ids", ("r1",)), more.get("origin", ORIGIN))


class Told:
    """One transaction, and what its contexts and senders were told."""

    def __init__(self) -> None:
        self.status = UNKNOWN
        self.contexts: dict[str, str] = {}  # how each has it, by what it was told last
        self.results: dict[int, str] = {}  # by revision
        self.blocks: list[tuple[str, int, bytes]] = []

    def hear(self, news: News, now_ms: int = NOW) -> Step:
        step = hear(self.status, news, now_ms, TIMES)
        for tell in step.tells:
            for context in tell.contexts:
                if tell.word == "readmit":
                    assert self.contexts[context] == "evict"
                elif tell.word == "evict" and not isinstance(news, Reported):
                    assert self.contexts.get(context) != "evict", "nobody is told the same twice"
                self.contexts[context] = tell.word
        if step.block:
            self.blocks.append((step.block, step.status.height, step.status.root[:1]))
        if step.result:
            assert step.status.revision not in self.results
            self.results[step.status.revision] = step.status.decided
        self.status = step.status
        return step


@pytest.mark.invariant("STATUS-1")
def test_one_acceptance_is_success_whatever_others_say() -> None:
    told = Told()
    told.hear(reported(no(A), seen(B)))
    assert (told.status.decided, told.status.endpoint) == ("accepted", B)
    assert (told.contexts, told.results) == ({}, {1: "accepted"})
    told.hear(reported(no(A, NOW + 1), seen(B, NOW + 1), request_ids=()))
    assert told.results == {1: "accepted"}


@pytest.mark.invariant("STATUS-2")
def test_a_refusal_counts_when_a_second_look_finds_no_acceptance() -> None:
    told = Told()
    told.hear(reported(no(A), no(B)))
    assert (told.status.decided, told.status.look_ms, told.results) == ("", NOW + 30_000, {})
    assert to_ask(told.status) == ""
    told.hear(Looked((), BOTH, NOW + 29_999), NOW + 29_999)  # asked too soon
    assert told.status.decided == ""
    told.hear(Looked((), BOTH, NOW + 30_000), NOW + 30_100)
    assert (told.status.decided, told.status.code, told.status.look_ms) == ("refused", "network.fee", 0)
    assert (told.contexts, told.results) == ({"topic:tm_x": "evict"}, {1: "refused"})


@pytest.mark.invariant("STATUS-2")
def test_a_second_look_that_an_endpoint_does_not_answer_decides_nothing() -> None:
    """It may know better: it is asked again, until it has been down for so long that it does not count."""
    told = Told()
    told.hear(reported(no(A), no(B)))
    at_ms = NOW + 30_000
    for _ in range(3):
        told.hear(Looked((), BOTH, at_ms, (B,)), at_ms)
        assert (told.status.decided, told.status.look_ms) == ("", at_ms + 30_000)
        at_ms += 30_000
    told.hear(Looked((), (A,), at_ms, (B,)), at_ms)
    assert told.status.decided == "refused"


def given_up(*words: Word, endpoints: tuple[str, ...] = (A,)) -> Told:
    """Refused by whoever answered, after the others had been down for longer than the limit: nothing is sent again."""
    told = Told()
    told.hear(Reported(words or (no(A),), endpoints, False, ("topic:tm_x",), ("r1",), ORIGIN))
    assert (told.status.decided, told.status.look_ms) == ("", NOW + 30_000)
    return told


@pytest.mark.invariant("STATUS-2")
@pytest.mark.parametrize("looks", [1, 2, 40])
def test_what_broadcast_gave_up_is_looked_at_until_a_silent_endpoint_counts_no_longer(looks: int) -> None:
    """Broadcast has missed it for longer than status has."""
    told = given_up()
    at_ms = NOW + 30_000
    for _ in range(looks):
        told.hear(Looked((), BOTH, at_ms, (B,)), at_ms)
        assert (told.status.decided, told.status.look_ms) == ("", at_ms + 30_000)
        at_ms += 30_000
    told.hear(Looked((), (A,), at_ms, (B,)), at_ms)
    assert (told.status.decided, told.status.endpoint, told.results) == ("refused", A, {1: "refused"})
    assert told.contexts == {"topic:tm_x": "evict"}


@pytest.mark.invariant("STATUS-2")
@pytest.mark.parametrize(
    ("words", "decided"),
    [((), "refused"), ((no(B, NOW + 60_000),), "refused"), ((seen(B, NOW + 60_000),), "accepted")],
    ids=["it does not know it", "it refuses it", "it has it"],
)
def test_what_broadcast_gave_up_is_decided_when_the_silent_endpoint_answers(
    words: tuple[Word, ...], decided: str
) -> None:
    told = given_up()
    told.hear(Looked((), BOTH, NOW + 30_000, (B,)), NOW + 30_000)
    told.hear(Looked(words, BOTH, NOW + 60_000), NOW + 60_000)
    assert (told.status.decided, told.results) == (decided, {1: decided})


@pytest.mark.invariant("STATUS-2")
def test_what_broadcast_gave_up_is_decided_where_the_missing_endpoint_cannot_be_asked() -> None:
    """Teranode tells nobody where a transaction stands: no look can find it silent, and it counts as long."""
    teranode = "teranode@t"
    before = Told()
    before.hear(Reported((no(A), word(teranode, "condition")), (A, teranode), False, (), ("r1",), ORIGIN, again=True))
    for told in (given_up(), before):
        told.hear(Reported((no(A, NOW + 1),), (A,), False, ("topic:tm_x",), ("r1",), ORIGIN), NOW)
        told.hear(Looked((), (A, teranode), NOW + 30_000), NOW + 30_000)
        assert (told.status.decided, told.results) == ("refused", {1: "refused"})


@pytest.mark.invariant("STATUS-2")
def test_what_broadcast_gave_up_and_another_keeps_waiting_is_looked_at_ever_more_rarely() -> None:
    """It came back, and has it without its ancestors: that is neither yes nor no."""
    told = given_up()
    at_ms = NOW + 30_000
    waits = []
    for _ in range(8):
        told.hear(Looked((word(B, "condition", at_ms, asked=True),), BOTH, at_ms), at_ms)
        assert told.status.decided == ""
        waits.append(told.status.look_ms - at_ms)
        told.hear(Heard((no(A, at_ms + 1),)), at_ms + 1)  # what else is heard puts no look off
        assert told.status.look_ms == at_ms + waits[-1]
        at_ms = told.status.look_ms
    assert waits == [30_000 << n for n in range(5)] + [LOOK_LIMIT_MS] * 3
    told.hear(Looked((), BOTH, at_ms, (B,)), at_ms)  # away again
    assert told.status.look_ms == at_ms + 30_000
    for at_ms in (at_ms + 30_000, at_ms + 60_000):  # noqa: B020 - both are counted from the last
        told.hear(Looked((), (A,), at_ms, (B,)), at_ms)
    assert (told.status.decided, told.results) == ("refused", {1: "refused"})


@pytest.mark.invariant("STATUS-2")
def test_what_broadcast_gave_up_is_decided_when_who_refused_it_is_away_for_long_too() -> None:
    told = given_up()
    told.hear(Looked((), (B,), NOW + 30_000, (A,)), NOW + 30_000)
    assert (told.status.decided, told.status.endpoint) == ("refused", A)


@pytest.mark.invariant("STATUS-2")
def test_what_broadcast_tries_again_is_left_to_it() -> None:
    told = Told()
    told.hear(Reported((no(A),), BOTH, False, ("topic:tm_x",), ("r1",), ORIGIN, again=True))
    assert (told.status.settles_ms, told.status.look_ms) == (0, 0)
    told.hear(Looked((), BOTH, NOW + 30_000, (B,)), NOW + 30_000)
    assert (told.status.decided, told.status.look_ms) == ("", 0)


@pytest.mark.invariant("STATUS-2")
def test_an_acceptance_that_was_on_its_way_comes_before_the_second_look() -> None:
    told = Told()
    told.hear(reported(no(A), no(B)))
    told.hear(Looked((seen(B, NOW + 30_000),), BOTH, NOW + 30_000), NOW + 30_000)
    assert (told.status.decided, told.results, told.contexts) == ("accepted", {1: "accepted"}, {})


def test_one_endpoints_own_refusal_waits_for_the_other_unless_that_is_down_for_long() -> None:
    told = Told()
    told.hear(reported(no(A)))
    assert (told.status.settles_ms, told.status.look_ms) == (0, 0)
    told.hear(Reported((no(A, NOW + 5),), (A,), False, ("topic:tm_x",), ("r1",), ORIGIN))
    assert told.status.settles_ms == NOW + 30_000
    told.hear(Looked((), (A,), NOW + 30_000), NOW + 30_000)
    assert told.status.decided == "refused"


def test_one_nodes_rejection_waits_for_the_other_endpoint_unless_it_was_accepted_before() -> None:
    """Which is asked by broadcast again and again; of what was accepted nobody else was asked."""
    told = Told()
    told.hear(reported(no(A, network=True)))
    told.hear(Looked((no(A, NOW + 1, network=True),), BOTH, NOW + 60_000), NOW + 60_000)
    assert (told.status.decided, told.status.settles_ms) == ("", 0)
    late = Told()
    late.hear(reported(seen(A)))
    late.hear(Heard((no(A, NOW + 1, network=True),)))
    late.hear(Looked((no(A, NOW + 2, network=True),), BOTH, NOW + 30_000), NOW + 30_000)
    assert late.status.decided == "refused"


def test_taken_without_its_ancestors_is_not_accepted_yet() -> None:
    told = Told()
    told.hear(reported(word(A, "accepted")))
    assert told.status.decided == ""
    told.hear(reported(word(A, "accepted", NOW + 1), stands=True))
    assert (told.status.decided, told.status.look_ms) == ("accepted", NOW + 60_000)
    for looks in range(1, 12):
        told.hear(Looked((word(A, "accepted", NOW + 1),), BOTH, NOW))
        assert told.status.look_ms == NOW + min(LOOK_LIMIT_MS, 60_000 << looks)
    assert to_ask(told.status) == A
    told.hear(Looked((seen(A, NOW + 2),), BOTH, NOW))
    for looks in range(6):
        assert told.status.look_ms == NOW + min(MINE_LIMIT_MS, 1_200_000 << looks)
        told.hear(Looked((seen(A, NOW + 2),), BOTH, NOW))


def test_who_took_it_is_asked_until_that_one_says_otherwise_and_then_the_other() -> None:
    told = Told()
    told.hear(reported(word(A, "accepted"), word(B, "accepted"), stands=True))
    assert to_ask(told.status) == A
    told.hear(Looked((no(A, NOW + 1, network=True),), BOTH, NOW))
    assert (to_ask(told.status), told.status.decided) == (B, "accepted")
    assert told.status.look_ms == NOW + 30_000, "a node thinks otherwise: soon"
    told.hear(Looked((no(B, NOW + 2, network=True),), BOTH, NOW))
    assert (to_ask(told.status), told.status.settles_ms) == ("", NOW + 30_000)


def test_a_late_double_spend_takes_away_what_was_accepted_and_the_network_may_turn_again() -> None:
    told = Told()
    told.hear(reported(seen(A), seen(B)))
    rejected = [
        word(n, "refused", NOW + 9, network=True, code="network.double-spend", competing=(RIVAL,)) for n in BOTH
    ]
    told.hear(Looked(tuple(rejected), BOTH, NOW + 9), NOW + 9)
    assert (told.status.decided, told.status.settles_ms) == ("accepted", NOW + 30_009)
    still = tuple(replace(each, at_ms=NOW + 30_009, competing=(), asked=True) for each in rejected)
    told.hear(Looked(still, BOTH, NOW + 30_009), NOW + 30_009)  # which need not name the rival again
    assert (told.status.decided, told.status.competing) == ("refused", (RIVAL,))
    told.hear(reported(seen(A, NOW + 40_000), contexts=("topic:tm_y",), request_ids=()), NOW + 40_000)
    assert told.results == {1: "accepted", 2: "refused", 3: "accepted"}
    assert told.contexts == {"topic:tm_x": "readmit"}


def test_who_comes_later_hears_at_once_and_who_asks_again_hears_again() -> None:
    told = Told()
    told.hear(reported(seen(A)))
    told.hear(reported(contexts=("topic:tm_y",), request_ids=("r2",)))
    assert told.contexts == {}
    assert told.results == {1: "accepted", 2: "accepted"}
    assert told.status.request_ids == ("r1", "r2")
    told.hear(reported(contexts=("topic:tm_y",), request_ids=("r2",)))  # delivered twice
    assert told.results.keys() == {1, 2}


def test_an_ancestor_that_nobody_asked_for_has_no_result() -> None:
    told = Told()
    told.hear(reported(seen(A), request_ids=(), origin=None))
    assert (told.contexts, told.results) == ({}, {})
    told.hear(reported(request_ids=("r9",)))
    assert told.results == {1: "accepted"}


KINDS = st.sampled_from([("accepted", True), ("refused", True), ("refused", False), ("pending", False)])
WORDS = st.lists(st.tuples(st.sampled_from(BOTH), KINDS), min_size=1, max_size=8)


def news_of(said: list[tuple[str, tuple[str, bool]]]) -> list[Reported]:
    """Each word heard at a time of its own."""
    return [
        reported(word(name, kind, NOW + n, network=network, code="network.fee" if kind == "refused" else ""))
        for n, (name, (kind, network)) in enumerate(said)
    ]


def anchored(height: int, tip: int, *, root: bytes = b"\x01", stands: bool = True) -> Anchored:
    return Anchored(b"path", height, root * 32, stands, tip, NOW)


@pytest.mark.invariant("ANCHOR-2")
def test_a_path_that_the_trackers_vouch_for_makes_it_mined_and_deep_enough_buried() -> None:
    told = Told()
    told.hear(reported(seen(A)))
    told.hear(anchored(800, 800))
    assert (told.blocks, told.results) == ([("mined", 800, b"\x01")], {1: "accepted"})
    assert told.status.look_ms == NOW + (BURIED - 1) * BLOCK_MS
    told.hear(anchored(800, 898))
    told.hear(Looked((no(A, NOW + 5, network=True), no(B, NOW + 5, network=True)), BOTH, NOW))
    assert (told.status.decided, told.status.settles_ms, len(told.blocks)) == ("accepted", 0, 1)
    told.hear(anchored(800, 899))
    assert told.blocks == [("mined", 800, b"\x01"), ("buried", 800, b"\x01")]
    assert (told.status.buried, told.status.look_ms) == (True, 0)
    told.hear(anchored(800, 900))
    assert len(told.blocks) == 2


@pytest.mark.invariant("ANCHOR-2")
def test_a_replaced_block_takes_its_path_and_another_block_brings_one() -> None:
    told = Told()
    told.hear(reported(seen(A)))
    told.hear(anchored(800, 800))
    told.hear(anchored(801, 801, root=b"\x02", stands=False))  # of a block it never was in
    assert told.status.path == b"path"
    told.hear(anchored(800, 802, stands=False))
    assert (told.status.path, told.status.height, told.status.decided) == (b"", -1, "accepted")
    assert told.status.look_ms == NOW + 1_200_000
    told.hear(anchored(802, 802, root=b"\x03"))
    assert told.blocks == [("mined", 800, b"\x01"), ("mined", 802, b"\x03")]
    assert told.results == {1: "accepted"}


def test_mined_is_accepted_whatever_was_said_before_and_strangers_have_no_result() -> None:
    told = Told()
    told.hear(reported(no(A), no(B)))
    told.hear(Looked((), BOTH, NOW + 30_000), NOW + 30_000)
    assert told.status.decided == "refused"
    told.hear(anchored(800, 800))
    assert told.results == {1: "refused", 2: "accepted"}
    assert told.contexts == {"topic:tm_x": "readmit"}
    other = Told()
    other.hear(anchored(800, 800))
    assert (other.results, other.blocks) == ({}, [])


def test_what_an_endpoint_says_by_itself_counts_like_an_answer_also_before_it() -> None:
    early = Told()
    early.hear(Heard((seen(A),)))
    assert (early.status.decided, early.results) == ("accepted", {})
    early.hear(reported(word(A, "pending", NOW - 5)))
    assert (early.results, early.contexts) == ({1: "accepted"}, {})
    late = Told()
    late.hear(reported(no(A), no(B)))
    late.hear(Heard((seen(B, NOW + 1),)))
    assert late.results == {1: "accepted"}


def test_what_broadcast_only_remembers_brings_nothing_back() -> None:
    """A child of what was refused is sent: its parent was accepted once, and nobody has said so again."""
    told = Told()
    told.hear(reported(word(A, "accepted"), stands=True))
    told.hear(Looked((no(A, NOW + 9), no(B, NOW + 9)), BOTH, NOW + 9), NOW + 9)
    told.hear(Looked((), BOTH, NOW + 30_009), NOW + 30_009)
    assert told.status.decided == "refused"
    told.hear(reported(remembered(A), stands=True, contexts=("topic:tm_y",), request_ids=()), NOW + 60_000)
    assert told.status.decided == "refused"
    assert told.contexts == {"topic:tm_x": "evict", "topic:tm_y": "evict"}


@pytest.mark.parametrize("seen_first", [True, False])
def test_an_endpoints_own_step_takes_nothing_back_that_the_network_said(seen_first: bool) -> None:
    """A callback may come before the reply to the call, and be heard before or behind it."""
    for told_by_network in (seen(A), word(A, "refused", NOW, network=True, code="network.rejected")):
        late = word(A, "accepted", NOW + 5, status="RECEIVED")
        heard: list[News] = [Heard((told_by_network,)), reported(late, stands=True)]
        told = Told()
        for news in heard if seen_first else reversed(heard):
            told.hear(news)
        assert told.status.words == (told_by_network,)
        told.hear(Looked((replace(late, at_ms=NOW + 9, asked=True),), BOTH, NOW + 9))
        assert told.status.words[0].status == "RECEIVED", "asked where it stands, the endpoint knows better"


def test_what_an_endpoint_takes_when_it_is_handed_over_anew_counts_again() -> None:
    """Its node had rejected it, and it is sent again: its answer to that is the later one, in any order of arrival."""
    rejected = word(A, "refused", NOW, network=True, code="network.rejected")
    for began_ms, taken in ((NOW + 9_000, True), (NOW - 100, False), (NOW + 500, False)):
        again = word(A, "accepted", NOW + 10_000, status="RECEIVED", began_ms=began_ms)
        heard: list[News] = [reported(rejected), reported(again, stands=True)]
        for order in (heard, heard[::-1]):
            told = Told()
            for news in order:
                told.hear(news)
            assert told.status.words == ((again,) if taken else (rejected,))
    told = Told()
    told.hear(reported(rejected))
    told.hear(reported(word(A, "accepted", NOW + 10_000, status="RECEIVED", began_ms=NOW + 9_000), stands=True))
    assert told.status.decided == "accepted"


def test_what_is_to_be_sent_again_is_not_refused_for_one_nodes_word() -> None:
    """A worker that died sends again what was accepted, and an endpoint says no by now: the other has not spoken."""
    told = Told()
    told.hear(reported(word(A, "accepted"), stands=True))
    told.hear(
        replace(reported(word(A, "refused", NOW + 9_000, network=True, code="x", began_ms=NOW + 8_000)), again=True)
    )
    told.hear(Looked((no(A, NOW + 60_000, network=True),), BOTH, NOW + 60_000), NOW + 60_000)
    assert (told.status.decided, told.status.settles_ms) == ("accepted", 0)
    told.hear(reported(word(B, "accepted", NOW + 70_000, began_ms=NOW + 69_000), stands=True))
    assert (told.status.decided, told.results, told.status.trying) == ("accepted", {1: "accepted"}, False)


def settled(told: Told) -> NetworkStatus:
    """After the looks that are due, at which endpoints say nothing new."""
    for _ in range(3):
        if not told.status.settles_ms:
            break
        told.hear(Looked((), BOTH, told.status.look_ms), told.status.look_ms)
    return told.status


@pytest.mark.invariant("STATUS-1")
@settings(CHEAP)
@given(WORDS, st.randoms(use_true_random=False))
def test_the_order_of_news_does_not_matter(said: list[tuple[str, tuple[str, bool]]], order: random.Random) -> None:
    """Unless somebody was accepted meanwhile: then what is decided is right at the end all the same."""
    heard = news_of(said)
    straight, shuffled = Told(), Told()
    for each in heard:
        straight.hear(each)
    order.shuffle(heard)
    for each in heard:
        shuffled.hear(each)
        shuffled.hear(each)  # and repeated
    one, other = settled(straight), settled(shuffled)
    assert one.words == other.words
    last = dict(sorted(said, key=lambda each: each[1][1]))  # the network's words behind all others, each in their order
    if any(kind == "accepted" for kind, _ in last.values()):
        assert one.decided == other.decided == "accepted"
    elif not any(kind == "accepted" for _, (kind, _) in said):
        assert one.decided == other.decided
    for told in (straight, shuffled):
        if told.status.decided:
            assert (told.contexts.get("topic:tm_x") == "evict") == (told.status.decided == "refused")
            assert told.results[max(told.results)] == told.status.decided


# --- rivals: two that spend the same

HOLDER, SECOND = b"\x01" * 32, b"\x02" * 32
X, Y = "topic:tm_x", "topic:tm_y"


class Pair:
    """Two that spend the same in a context, and what each is told of the other."""

    def __init__(self) -> None:
        self.told = {HOLDER: Told(), SECOND: Told()}
        self.told[HOLDER].hear(reported(seen(A), contexts=(X, Y)))

    def hear(self, txid: bytes, news: News, now_ms: int = NOW) -> Step:
        """And what follows from it for the other."""
        step = self.told[txid].hear(news, now_ms)
        for rival in step.outdoes:
            self.hear(rival, Outdone(txid, bool(step.status.path)), now_ms)
        return step

    def meet(self, context: str = X, path: bytes = b"") -> None:
        """The second comes to a context that knows the first."""
        self.hear(HOLDER, Challenged(SECOND, context, sent=True))
        self.hear(SECOND, Challenges((HOLDER,), context, path))

    @property
    def decided(self) -> tuple[str, str]:
        return self.told[HOLDER].status.decided, self.told[SECOND].status.decided


def test_who_waits_for_a_rival_hears_that_it_was_accepted_and_nobody_else_does() -> None:
    told = Told()
    told.hear(Challenged(RIVAL, X, sent=True))
    assert (told.contexts, told.status.unsent_ms) == ({}, 0)
    told.hear(reported(seen(A), contexts=(X, Y)))
    assert told.contexts == {X: "accept"}
    step = told.hear(Challenged(RIVAL, Y, sent=True))
    assert [(tell.word, tell.contexts) for tell in step.tells] == [("accept", (Y,))]
    told.hear(Heard(tuple(no(n, NOW + 9, network=True) for n in BOTH)))
    told.hear(Looked((), BOTH, NOW + 60_000), NOW + 60_000)
    assert told.contexts == {X: "evict", Y: "evict"}
    told.hear(Challenged(RIVAL, "topic:tm_z", sent=False))
    assert told.contexts["topic:tm_z"] == "evict"


@pytest.mark.invariant("STATUS-3")
def test_a_rival_in_a_block_has_the_first_refused_everywhere_as_long_as_its_block_stands() -> None:
    pair = Pair()
    pair.meet(path=b"path")  # sent to one of two contexts
    second = pair.told[SECOND].status
    assert (second.claimed, second.look_ms) == (b"path", NOW)
    pair.hear(SECOND, Looked((), BOTH, NOW))
    assert pair.told[SECOND].status.look_ms == NOW + 60_000  # the trackers could not say: again
    pair.hear(SECOND, anchored(800, 800))
    holder = pair.told[HOLDER]
    assert pair.decided == ("refused", "accepted")
    assert holder.contexts == {X: "evict", Y: "evict"}
    assert (holder.status.code, holder.status.endpoint, holder.status.competing) == (
        "network.double-spend", "trackers", (SECOND,),
    )  # fmt: skip
    pair.hear(HOLDER, Heard((seen(B, NOW + 5),)))
    assert pair.decided == ("refused", "accepted"), "whatever endpoints say of it"
    assert pair.told[SECOND].contexts == {}
    pair.hear(SECOND, anchored(800, 802, stands=False))  # replaced
    assert (pair.decided[1], pair.told[SECOND].status.unsent_ms) == ("", NOW + 30_000)
    assert (holder.status.outdone, holder.status.look_ms) == ((), NOW)
    pair.hear(HOLDER, Looked((seen(A, NOW + 7),), BOTH, NOW + 7), NOW + 7)
    assert pair.decided[0] == "accepted"
    assert holder.contexts == {X: "accept", Y: "readmit"}
    pair.hear(SECOND, Challenged(HOLDER, X, sent=False, proven=True))  # it still holds the coin there
    pair.hear(SECOND, Looked((), BOTH, NOW + 30_000), NOW + 30_000)
    assert (pair.decided, pair.told[SECOND].status.code) == (("accepted", "refused"), "conflict.unsent")
    assert pair.told[SECOND].contexts == {X: "evict"}


def test_one_that_was_refused_while_it_waited_is_evicted_where_it_is_applied_later() -> None:
    """Where it waited it was not known when the refusal came; there it is broadcast once its rival has left."""
    told = Told()
    told.hear(Challenges((HOLDER,), X))
    told.hear(reported(no(A), no(B), contexts=(Y,)))
    told.hear(Looked((), BOTH, NOW + 30_000), NOW + 30_000)
    assert told.contexts == {X: "evict", Y: "evict"}
    step = told.hear(reported(no(A, NOW + 60_000), no(B, NOW + 60_000), contexts=(X,)), NOW + 60_000)
    assert [(tell.word, tell.contexts) for tell in step.tells] == [("evict", (X,))]


def test_one_that_came_with_a_proof_is_not_taken_for_unsent() -> None:
    """Its context knows that it is in a block; its standing here is empty, since nobody had to broadcast it."""
    told = Told()
    told.hear(Challenged(RIVAL, X, sent=False, proven=True))
    assert (told.status.unsent_ms, told.status.look_ms) == (0, 0)


@pytest.mark.invariant("STATUS-3")
def test_both_in_blocks_over_a_reorganisation_the_later_block_counts_and_back() -> None:
    pair = Pair()
    pair.hear(HOLDER, anchored(800, 800))
    pair.meet(path=b"path")
    pair.hear(SECOND, anchored(800, 801, root=b"\x02"))
    assert pair.decided == ("refused", "accepted")
    holder = pair.told[HOLDER]
    assert (holder.status.path, holder.status.claimed) == (b"", b"path")
    pair.hear(HOLDER, anchored(800, 802))  # and back: its own is asked about anew
    assert pair.decided == ("accepted", "refused")
    assert pair.told[SECOND].status.path == b""
    assert holder.contexts == {X: "accept", Y: "readmit"}
    pair.hear(SECOND, anchored(800, 803, root=b"\x02", stands=False))
    assert pair.decided == ("accepted", "refused")


def test_a_claim_that_the_trackers_deny_changes_nothing() -> None:
    pair = Pair()
    pair.meet(path=b"path")
    pair.hear(SECOND, anchored(800, 801, stands=False))
    assert (pair.decided, pair.told[SECOND].status.claimed) == (("accepted", ""), b"")
    pair.hear(SECOND, Looked((), BOTH, NOW))
    assert pair.told[SECOND].status.look_ms == 0


def test_one_that_comes_second_while_the_first_is_in_a_block_hears_it_at_once() -> None:
    pair = Pair()
    pair.hear(HOLDER, anchored(800, 800))
    pair.meet()
    assert pair.decided == ("accepted", "refused")
    assert pair.told[HOLDER].contexts == {X: "accept"}


@pytest.mark.parametrize("silent", [False, True])
def test_one_that_nobody_sent_gives_way_once_a_look_finds_that_nobody_knows_it(silent: bool) -> None:
    told = Told()
    told.hear(Challenged(RIVAL, X, sent=False))
    assert (told.status.unsent_ms, told.status.look_ms) == (NOW + 30_000, NOW + 30_000)
    told.hear(Challenged(RIVAL, X, sent=False), NOW + 10_000)  # its retry
    assert told.status.unsent_ms == NOW + 30_000
    told.hear(Looked((), BOTH, NOW + 30_000, (B,) if silent else ()), NOW + 30_000)
    if silent:
        assert (told.status.decided, told.status.look_ms) == ("", NOW + 60_000)
        return
    assert (told.status.decided, told.status.code, told.status.competing) == ("refused", "conflict.unsent", (RIVAL,))
    assert told.contexts == {X: "evict"}
    told.hear(Challenged(RIVAL, Y, sent=False))
    assert (told.contexts[Y], told.status.competing) == ("evict", (RIVAL,))
    told.hear(reported(seen(A), contexts=("topic:tm_z",)))  # a context that had it broadcast after all
    assert (told.status.decided, told.contexts[X]) == ("accepted", "accept")


@pytest.mark.parametrize("news", [reported(), Challenged(RIVAL, Y, sent=True), Heard((word(A, "pending"),))])
def test_what_somebody_sent_is_not_taken_for_unsent(news: News) -> None:
    told = Told()
    told.hear(Challenged(RIVAL, X, sent=False))
    told.hear(news)
    told.hear(Looked((), BOTH, NOW + 30_000), NOW + 30_000)
    assert (told.status.decided, told.status.unsent_ms) == ("", 0)


CLAIMS = st.lists(
    st.tuples(st.sampled_from([HOLDER, SECOND]), st.booleans(), st.integers(0, 1)), min_size=1, max_size=8
)


@pytest.mark.invariant("STATUS-3")
@settings(CHEAP)
@given(CLAIMS, st.booleans())
def test_of_two_that_spend_the_same_one_is_in_a_block_at_most(claims: list[tuple[bytes, bool, int]], met: bool) -> None:
    """Whatever trackers say of their paths: who was found in a block last is accepted, the other refused."""
    pair = Pair()
    if met:
        pair.meet(path=b"path")
    for txid, stands, root in claims:
        pair.hear(txid, anchored(800, 800, root=bytes([root]), stands=stands))
    if not met:
        pair.meet()
    mined = [txid for txid, told in pair.told.items() if told.status.path]
    assert len(mined) <= 1 or not met
    for txid in mined if met else ():
        other = SECOND if txid == HOLDER else HOLDER
        assert pair.told[txid].status.decided == "accepted"
        assert (pair.told[other].status.decided, pair.told[other].status.outdone) == ("refused", (txid,))


# --- what else follows


@pytest.mark.invariant("STATUS-4")
def test_what_was_given_up_is_handed_out_once_when_it_is_accepted_after_all() -> None:
    told = Told()
    told.hear(Reported((no(A), no(B)), BOTH, False, (X,), ("r1",), ORIGIN, ef=b"ef"))
    assert told.hear(Looked((), BOTH, NOW + 30_000), NOW + 30_000).ef == b""
    assert (told.status.decided, told.status.ef) == ("refused", b"ef")
    assert told.hear(Heard((seen(B, NOW + 40_000),))).ef == b"ef"
    assert (told.status.ef, told.status.handed) == (b"", True)
    assert told.hear(Heard((seen(A, NOW + 40_000),))).ef == b""
    late = Told()
    late.hear(Heard((seen(B),)))  # a callback was quicker than the report
    assert late.hear(Reported((no(A),), BOTH, False, (X,), ("r1",), ORIGIN, ef=b"ef")).ef == b"ef"
    other = Told()
    other.hear(Reported((no(A),), BOTH, False, (X,), ("r1",), ORIGIN, ef=b"ef"))
    step = other.hear(Reported((seen(B),), BOTH, True, (X,), ("r1",), ORIGIN, handed=True))
    assert (step.ef, other.status.ef, other.status.handed) == (b"", b"", True)


def test_a_path_that_came_by_itself_is_asked_about_until_the_trackers_answer() -> None:
    """At once, and then ever more rarely: its block may be above their tips. Endpoints' looks end nothing of it."""
    told = Told()
    told.hear(reported(seen(A)))
    told.hear(Heard((seen(A, NOW + 1),), b"path"))
    assert (told.status.claimed, told.status.look_ms) == (b"path", NOW)
    for looks in range(1, 8):
        told.hear(Looked((seen(A, NOW + 1),), BOTH, NOW))
        assert told.status.look_ms == NOW + min(LOOK_LIMIT_MS, 30_000 << looks)
    told.hear(anchored(800, 800))
    assert (told.status.claimed, told.status.path, told.blocks) == (b"", b"path", [("mined", 800, b"\x01")])
    told.hear(Heard((seen(A, NOW + 2),), b"path"))
    assert told.status.claimed == b""
    told.hear(Heard((seen(A, NOW + 3),), b"other"))  # of another block: the one that is kept may have been replaced
    assert (told.status.claimed, told.status.path, told.status.look_ms) == (b"other", b"path", NOW)


def test_who_asks_when_it_is_mined_hears_that_too() -> None:
    told = Told()
    told.hear(reported(seen(A)))
    told.hear(anchored(800, 800))
    told.hear(reported(request_ids=("r2",)))
    assert told.blocks == [("mined", 800, b"\x01")] * 2
    assert told.results == {1: "accepted", 2: "accepted"}
    assert told.status.request_ids == ("r1", "r2")
