"""Operations over several contexts through the stages that apply and coordinate them (design 7, *All or nothing*)."""

import itertools

import msgspec
import pytest

from agents.runtime.records import Kept
from agents.runtime.voters import undecided_votes
from pipeline import state
from pipeline.coordinate import Limits, bare, hear
from pipeline.follow import Follower
from pipeline.state import Memory, head_of
from schemas import headers as h
from schemas.flow import OPERATION, Decide, Evict, Prepare
from schemas.journal import JOURNAL
from schemas.operations import VOTE, Due, Overtaken, Vote
from schemas.types import outpoint
from tests.agents.several_rig import Rig, all_of, asked_of, name_of
from tests.fakes import NOW_MS, Owner, apply_of, coin_of_others, made_tx, verified

ALL, KEEP, ODD = "topic:tm_all", "topic:tm_keep", "topic:tm_odd"
TOPICS = (
    "tm_all=pipeline.overlay.builtin.anytx:AnyTx", "tm_keep=tests.fakes:Keep", "tm_odd=tests.fakes:Odd",
    "tm_picky=tests.fakes:Picky", "tm_weighs=tests.fakes:Keep", "tm_six=tests.fakes:Keep",
)  # fmt: skip
SIX = tuple(f"topic:{name.partition('=')[0]}" for name in TOPICS)

POINT, OTHER = coin_of_others(1), coin_of_others(2)
PARENT = made_tx([POINT], 2, 1)
CHILD = made_tx([outpoint(PARENT.txid, 0)], 2, 2)
ONE = all_of(verified(PARENT, offset=1, contexts=(ALL, KEEP)))

pytestmark = [pytest.mark.invariant("ATOMIC-1"), pytest.mark.invariant("ATOMIC-2")]


@pytest.fixture
def rig() -> Rig:
    return Rig(TOPICS)


def clean(rig: Rig) -> None:
    """Nothing is undecided, and entries give the index, and roots that heads state, as who copies them computes it."""
    for context in rig.contexts:
        copy = Memory()
        follower = Follower(copy)
        entries = rig.part(context).store.entries
        follower.take_all([(key, stored) for key, stored in entries.items() if not state.is_index(key)])
        follower.compare()
        copy.write(follower.writes())
        assert copy.entries == entries
        assert rig.undecided(context) == []
        assert rig.part(context).partition.applied.undecided == ()


def test_all_apply_it_with_the_roots_they_would_have_alone(rig: Rig) -> None:
    """And each asks for it to be broadcast, and not before."""
    rig.send(ONE)
    rig.lag = {bytes.fromhex(name_of(ONE))}
    rig.run()
    assert rig.written["results"] == rig.written["broadcast"] == []
    assert rig.root(ALL) == rig.root(KEEP) == head_of(Owner().store, ALL).state_root, "nothing is shown"
    assert rig.part(ALL).partition.applied.undecided == (ALL,)
    rig.lag = set()
    rig.run()
    assert rig.outcomes("request-1") == {ALL: "applied", KEEP: "applied"}
    assert len(rig.written["broadcast"]) == 2
    for context in (ALL, KEEP):
        alone = Owner()
        alone.do(context, apply_of(ONE))
        assert rig.root(context) == head_of(alone.store, context).state_root
        told = rig.results()["request-1", context]
        assert (told.sequence, told.contexts, told.repeat) == (2, 2, False)
    clean(rig)


@pytest.mark.parametrize(
    ("what", "outcome"),
    [
        (b"nothing", "rejected admission.nothing"),
        (b"raise", "parked internal.manager-raised"),
        (b"stranger", "parked internal.manager-raised"),
    ],
)
def test_one_that_does_not_agree_ends_it_at_once_for_six(rig: Rig, what: bytes, outcome: str) -> None:
    """A verdict, or a fault of its manager, in the last of them: one dead letter, and every root as before."""
    before = all_of(verified(made_tx([OTHER], 2, 7), offset=1, contexts=SIX))
    rig.send(before)
    rig.run()
    roots = {context: rig.root(context) for context in SIX}
    contexts = (*(each for each in SIX if each != ODD), ODD)
    refused = all_of(verified(PARENT, offset=2, contexts=contexts, off_chain=what))
    rig.send(refused)
    rig.run()
    assert rig.outcomes("request-2") == dict.fromkeys(SIX, outcome)
    assert {context: rig.root(context) for context in SIX} == roots
    (letter,) = rig.written["dead-letters"]
    cause = dict(letter.headers)
    assert cause[h.CODE].decode() == outcome.split()[1]
    assert (letter.key, rig.written["retry.10s"]) == (contexts[0].encode(), [])
    clean(rig)


def test_a_letter_that_is_sent_back_asks_everybody_again(rig: Rig) -> None:
    """The whole request stands in it, as the next attempt."""
    contexts = (ALL, KEEP, ODD)
    refused = all_of(verified(PARENT, offset=2, contexts=contexts, off_chain=b"nothing"))
    rig.send(refused)
    rig.run()
    (letter,) = rig.written["dead-letters"]
    operation = OPERATION.decode(letter.value)
    assert isinstance(operation, Prepare)
    assert (operation.attempt, operation.spread) == (1, True)
    mended = msgspec.structs.replace(
        operation,
        apply=msgspec.structs.replace(operation.apply, verified=verified(PARENT, offset=2, contexts=contexts)),
    )
    rig.ask(ALL, mended)
    rig.run()
    assert rig.outcomes("request-2") == dict.fromkeys(contexts, "applied")
    clean(rig)


def test_a_word_that_comes_late_does_not_take_back_what_stands(rig: Rig) -> None:
    """It lay in a tier while the letter was sent back, and the next attempt was committed."""
    contexts = (ALL, KEEP, ODD)
    rig.send(all_of(verified(PARENT, offset=2, contexts=contexts, off_chain=b"nothing")))
    rig.run()
    words = [out for out in rig.written["operations"] if isinstance(OPERATION.decode(out.value), Decide)]
    assert len(words) == 3
    (letter,) = rig.written["dead-letters"]
    operation = OPERATION.decode(letter.value)
    assert isinstance(operation, Prepare)
    apply = msgspec.structs.replace(operation.apply, verified=verified(PARENT, offset=2, contexts=contexts))
    rig.ask(ALL, msgspec.structs.replace(operation, apply=apply))
    rig.run()
    for context in contexts:  # each is further by now, and so is what it would say
        rig.ask(context, apply_of(verified(made_tx([OTHER], 2, 9), offset=9, contexts=(context,))))
    rig.run()
    for word in words:
        rig.put(word)
    rig.run()
    assert rig.outcomes("request-2") == dict.fromkeys(contexts, "applied")
    assert len(rig.written["dead-letters"]) == 1


def test_a_part_that_kills_its_process_ends_it_at_once(rig: Rig) -> None:
    rig.send(ONE)
    rig.run(given_up=KEEP)
    assert rig.outcomes("request-1") == dict.fromkeys((ALL, KEEP), "parked internal.killed")
    assert len(rig.written["dead-letters"]) == 1
    clean(rig)


def test_six_that_are_aborted_for_a_condition_make_one_next_attempt(rig: Rig) -> None:
    """The context named first sends the whole request, once, and holds it meanwhile nowhere."""
    rig.ask(ODD, apply_of(verified(made_tx([POINT], 2, 9), offset=1)))
    second = all_of(verified(PARENT, offset=2, contexts=SIX))
    rig.send(second)
    rig.run()
    assert rig.outcomes("request-2") == {}
    (waits,) = rig.written["retry.10s"]
    assert waits.key == SIX[0].encode()
    assert dict(waits.headers)[h.CODE] == b"conflict.undecided"
    clean(rig)
    rig.ask(ODD, Evict("e", made_tx([POINT], 2, 9).txid, "network.rejected", "no"))
    assert rig.come_back() == 1
    rig.run()
    assert rig.outcomes("request-2") == dict.fromkeys(SIX, "applied")
    status = rig.standing(name_of(second))
    assert status is not None
    assert status.attempt == 1
    clean(rig)


def test_one_that_is_given_up_is_parked_for_all(rig: Rig) -> None:
    rig.ask(ODD, apply_of(verified(made_tx([POINT], 2, 9), offset=1)))
    rig.send(all_of(verified(PARENT, offset=2, contexts=(KEEP, ODD))))
    rig.run()
    (waits,) = rig.written.pop("retry.10s")
    long_ago = [(name, b"1" if name == h.FIRST_FAILED else value) for name, value in waits.headers if name != "schema"]
    rig.put(waits._replace(topic=rig.stage.inputs[0], headers=long_ago))
    rig.run()
    assert rig.outcomes("request-2") == dict.fromkeys((KEEP, ODD), "parked conflict.undecided")
    assert len(rig.written["dead-letters"]) == 1
    clean(rig)


def test_a_context_that_lags_past_deadlines_finishes_once_it_has_caught_up(rig: Rig) -> None:
    """Each deadline aborts, and the next attempt is made; nothing is decided twice, and nothing stays behind."""
    rig = Rig(TOPICS, deadline_s=0.0001)
    rig.lag = {KEEP.encode()}
    rig.send(ONE)
    rig.run()
    name = name_of(ONE)
    for attempt in range(3):
        status = rig.standing(name)
        assert status is not None
        assert (status.attempt, status.decided, status.yes) == (attempt, "", (ALL,))
        rig.say(name, Due(attempt))
        rig.run()
        assert rig.outcomes("request-1") == {}
        assert rig.come_back() == 1
        rig.run()
    rig.lag = set()
    rig.run()
    assert rig.outcomes("request-1") == {ALL: "applied", KEEP: "applied"}
    clean(rig)


@pytest.mark.parametrize("times", [2, 3])
def test_doubled_parts_and_votes_change_nothing(rig: Rig, times: int) -> None:
    """Before the decision, after it, and after the coordinator lost its memory of it."""
    for _ in range(times):
        rig.send(ONE)
    rig.run()
    roots = rig.root(ALL), rig.root(KEEP)
    decided = rig.outcomes("request-1")
    assert decided == {ALL: "applied", KEEP: "applied"}
    votes = [VOTE.decode(out.value) for out in rig.written["votes"]]
    for said in votes:
        rig.say(name_of(ONE), said)
    rig.run()
    rig.send(ONE)  # everything is read again
    rig.run()
    assert (rig.outcomes("request-1"), (rig.root(ALL), rig.root(KEEP))) == (decided, roots)
    assert {told.repeat for told in rig.results().values()} == {False}
    kinds = [JOURNAL.decode(out.value).kind for out in rig.written["journal"]]
    assert sorted(kinds) == ["commit", "commit", "prepare", "prepare"]
    clean(rig)


def test_a_lost_vote_is_repeated(rig: Rig) -> None:
    rig.send(ONE)
    rig.lag = {bytes.fromhex(name_of(ONE))}
    rig.run()
    rig.queues["votes", bytes.fromhex(name_of(ONE))].clear()
    rig.lag = set()
    rig.run()
    assert rig.outcomes("request-1") == {}
    for context in (ALL, KEEP):
        store = rig.part(context).store
        assert list(undecided_votes(store, NOW_MS)) == [], "not at once"
        for vote in undecided_votes(store, NOW_MS + 1):
            rig.put(vote)
    rig.run()
    assert rig.outcomes("request-1") == {ALL: "applied", KEEP: "applied"}
    clean(rig)


def test_a_younger_holder_gives_way_to_an_older_operation(rig: Rig) -> None:
    """Opposite orders: the older gets through at once, the younger by one retry at most."""
    older = all_of(verified(PARENT, offset=1, contexts=(ALL, KEEP)))
    younger = all_of(verified(made_tx([POINT], 1, 5), offset=2, contexts=(KEEP, ALL)))
    rig.lag = {bytes.fromhex(name_of(younger)), ALL.encode()}
    rig.send(younger)
    rig.run()
    rig.lag = {ALL.encode()}
    rig.send(older)
    rig.run()  # it finds the younger one's lock, and has its coordinator end that attempt
    ended = rig.standing(name_of(younger))
    assert ended is not None
    assert (ended.decided, ended.code) == ("abort", "conflict.undecided")
    rig.lag = set()
    rig.run()
    assert rig.outcomes("request-1") == {ALL: "applied", KEEP: "applied"}
    (waits,) = rig.written["retry.10s"]
    again = OPERATION.decode(waits.value)
    assert isinstance(again, Prepare)
    assert (again.operation, again.attempt) == (name_of(younger), 1)
    clean(rig)


@pytest.mark.parametrize("ages", [*itertools.permutations((1, 2, 3))])
def test_a_ring_of_waits_ends_by_itself(rig: Rig, ages: tuple[int, int, int]) -> None:
    """Each of three holds what the next one wants, whoever is older: no deadline comes, and nobody waits at the end."""
    third = coin_of_others(3)
    ring = [((POINT, OTHER), (ALL, KEEP)), ((OTHER, third), (KEEP, ODD)), ((third, POINT), (ODD, ALL))]
    operations = [
        all_of(verified(made_tx(spends, 1, 40 + age), offset=age, contexts=contexts))
        for (spends, contexts), age in zip(ring, ages, strict=True)
    ]
    parts = [dict(asked_of(each)) for each in operations]
    for each, part in zip(operations, parts, strict=True):
        rig.ask(each.asked.contexts[0], part[each.asked.contexts[0]])
    rig.run()
    assert all(rig.undecided(context) for context in (ALL, KEEP, ODD)), "each is prepared in its first context"
    for each, part in zip(operations, parts, strict=True):
        rig.ask(each.asked.contexts[1], part[each.asked.contexts[1]])
    rig.run()
    standing = [rig.standing(name_of(each)) for each in operations]
    assert all(status is not None and status.decided for status in standing)
    oldest = operations[ages.index(1)]
    assert rig.outcomes("request-1") == dict.fromkeys(oldest.asked.contexts, "applied")
    clean(rig)


def test_a_child_that_is_older_than_its_undecided_parent_votes_later(rig: Rig) -> None:
    """It would wait for a younger one; nothing is gained by ending that one's attempt."""
    parent = all_of(verified(PARENT, offset=2, contexts=(ALL, KEEP)))
    child = all_of(verified(CHILD, [PARENT], offset=1, contexts=(ALL, KEEP)))
    rig.lag = {bytes.fromhex(name_of(parent))}
    rig.send(parent)
    rig.run()
    rig.send(child)
    rig.run()
    status = rig.standing(name_of(child))
    assert status is not None
    assert (status.decided, status.code, status.final) == ("abort", "conflict.undecided", False)
    rig.lag = set()
    rig.run()
    assert rig.outcomes("request-2") == {ALL: "applied", KEEP: "applied"}
    decided = rig.standing(name_of(parent))
    assert decided is not None
    assert decided.attempt == 0
    assert rig.come_back() == 1
    rig.run()
    assert rig.outcomes("request-1") == {ALL: "applied", KEEP: "applied"}
    clean(rig)


def test_a_late_parent_waits_under_a_prepared_child(rig: Rig) -> None:
    """What the child was judged by stays as it is until it is decided; then both stand as if they had come in turn."""
    child = all_of(verified(CHILD, [PARENT], offset=1, contexts=(ALL, KEEP)))
    rig.lag = {bytes.fromhex(name_of(child))}
    rig.send(child)
    rig.ask(ALL, apply_of(verified(PARENT, offset=5)))
    rig.run()
    assert rig.outcomes("request-5") == {}
    rig.lag = set()
    rig.run()
    assert rig.outcomes("request-5") == {ALL: "applied"}
    alone = Owner()
    alone.do(ALL, apply_of(verified(CHILD, [PARENT], offset=1)))
    alone.do(ALL, apply_of(verified(PARENT, offset=5)))
    assert rig.root(ALL) == head_of(alone.store, ALL).state_root
    clean(rig)


def test_one_whose_coins_changed_since_it_was_judged_is_judged_again_behind_its_commit(rig: Rig) -> None:
    """By others' judgements further up, which do not wait for it: it is as if it had come before them."""
    picky = "topic:tm_picky"
    first, second = made_tx([coin_of_others(11)], 1, 11), made_tx([coin_of_others(12)], 1, 12)
    parent = made_tx([outpoint(first.txid, 0), outpoint(second.txid, 0)], 2, 13)
    rig.ask(picky, apply_of(verified(parent, [first, second], offset=1)))
    child = all_of(verified(made_tx([outpoint(parent.txid, 0)], 1, 14), offset=2, contexts=(picky, KEEP)))
    rig.lag = {bytes.fromhex(name_of(child))}
    rig.send(child)
    rig.ask(picky, apply_of(verified(first, offset=3)))
    rig.ask(picky, apply_of(verified(second, offset=4)))
    rig.run()
    assert rig.outcomes("request-4") == {"topic:tm_picky": "applied"}
    rig.lag = set()
    rig.run()
    assert rig.outcomes("request-2") == {picky: "revised", KEEP: "applied"}
    told = rig.results()["request-2", picky]
    assert told.admittance is not None
    assert told.admittance.coins_to_retain == (0,)
    clean(rig)


def test_what_concerns_an_undecided_one_goes_on_in_the_transaction_that_decides(rig: Rig) -> None:
    """A child sent to one context alone, its eviction, and a rival: each in the order it came."""
    name = bytes.fromhex(name_of(ONE))
    rig.lag = {name}
    rig.send(ONE)
    rig.ask(ALL, apply_of(verified(CHILD, [PARENT], offset=5)))
    rig.ask(ALL, Evict("e", PARENT.txid, "network.rejected", "no"))
    rig.run()
    assert rig.outcomes("request-5") == {}
    rig.lag = set()
    rig.run()
    assert rig.outcomes("request-1") == {ALL: "evicted network.rejected", KEEP: "applied"}
    assert rig.outcomes("request-5") == {ALL: "evicted network.rejected"}
    kinds = [JOURNAL.decode(out.value).kind for out in rig.written["journal"] if out.key == ALL.encode()]
    assert kinds == ["prepare", "wait", "wait", "commit", "apply", "evict", "evict"]
    clean(rig)


def test_a_child_of_an_aborted_one_finds_what_stands(rig: Rig) -> None:
    """Sent to one context alone, it makes its parent known there, and shows nothing of it."""
    refused = all_of(verified(PARENT, offset=1, contexts=(ALL, ODD), off_chain=b"nothing"))
    rig.lag = {bytes.fromhex(name_of(refused))}
    rig.send(refused)
    rig.ask(ALL, apply_of(verified(CHILD, [PARENT], offset=5)))
    rig.run()
    rig.lag = set()
    rig.run()
    assert rig.outcomes("request-1") == dict.fromkeys((ALL, ODD), "rejected admission.nothing")
    told = rig.results()["request-5", ALL]
    assert (told.outcome, told.admittance and told.admittance.coins_removed) == ("applied", ())
    alone = Owner()
    alone.do(ALL, apply_of(verified(CHILD, [PARENT], offset=5)))
    assert rig.root(ALL) == head_of(alone.store, ALL).state_root
    clean(rig)


def test_too_many_that_wait_come_back_by_a_tier(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.undecided.WAITERS", 2)
    rig.lag = {bytes.fromhex(name_of(ONE))}
    rig.send(ONE)
    for number in range(4):
        rig.ask(
            ALL, apply_of(verified(made_tx([outpoint(PARENT.txid, 1)], 1, 20 + number), [PARENT], offset=5 + number))
        )
    rig.ask(ALL, Evict("e", PARENT.txid, "network.rejected", "no"))
    rig.run()
    assert len(rig.written["retry.10s"]) == 3
    rig.lag = set()
    rig.run()
    rig.come_back()
    rig.run()
    assert rig.outcomes("request-1")[KEEP] == "applied"
    clean(rig)


def test_a_suspended_context_does_not_let_the_others_wait(rig: Rig) -> None:
    """It votes later: others hold no lock for its sake."""
    judge = rig.stage._judges["tm_odd"]
    judge.standing.suspend("as a test")
    rig.send(all_of(verified(PARENT, offset=1, contexts=(ODD, ALL))))
    rig.run()
    (waits,) = rig.written["retry.10s"]
    assert waits.key == ODD.encode()
    clean(rig)
    rig.stage.lift()
    rig.come_back()
    rig.run()
    assert rig.outcomes("request-1") == dict.fromkeys((ODD, ALL), "applied")


def test_what_waits_comes_back_behind_what_settles(rig: Rig) -> None:
    """A decision that has others judged again leaves the context settling: what waited is written again."""
    picky = "topic:tm_picky"
    rig.ask(picky, apply_of(verified(made_tx([outpoint(PARENT.txid, 1)], 1, 30), [PARENT], offset=9)))
    parent = all_of(verified(PARENT, offset=1, contexts=(picky, KEEP)))
    rig.lag = {bytes.fromhex(name_of(parent))}
    rig.send(parent)
    rig.ask(picky, apply_of(verified(CHILD, [PARENT], offset=5)))
    rig.run()
    assert rig.outcomes("request-5") == {}
    rig.lag = set()
    rig.run()
    assert rig.outcomes("request-1") == dict.fromkeys((picky, KEEP), "applied")
    assert rig.outcomes("request-5") == {picky: "applied"}
    kinds = [JOURNAL.decode(out.value).kind for out in rig.written["journal"] if out.key == picky.encode()]
    assert kinds == ["apply", "prepare", "wait", "commit", "wait", "wait", "rejudge", "apply"]
    clean(rig)


def test_the_coordinator_forgets_what_is_older_than_ingest(rig: Rig) -> None:
    rig.send(ONE)
    rig.run()
    status = rig.standing(name_of(ONE))
    assert status is not None
    assert status.due_ms - status.decided_ms == 192 * 3_600_000
    rig.say(name_of(ONE), Due(0))
    rig.run()
    assert rig.standing(name_of(ONE)) == status, "its time has not come"
    limits = Limits(1, 1)
    assert hear(name_of(ONE), status, Due(0), status.due_ms - 1, limits).status == status
    assert hear(name_of(ONE), status, Due(0), status.due_ms, limits).status is None


def test_words_that_are_nobodys_change_nothing(rig: Rig) -> None:
    """A decision for a context that knows nothing of it; an older operation, or a deadline, that comes too late."""
    asked = bare(ONE.asked)
    rig.ask(ALL, Decide(name_of(ONE), 0, True, asked, PARENT.txid))
    rig.say(name_of(ONE), Overtaken(0, ALL, "00" * 16))
    rig.say(name_of(ONE), Due(0))
    rig.run()
    assert rig.standing(name_of(ONE)) is None
    rig.send(ONE)
    rig.run()
    rig.say(name_of(ONE), Overtaken(0, ALL, "00" * 16))
    rig.say(name_of(ONE), Vote(5, KEEP, "no", asked, PARENT.txid, code="admission.nothing"))
    rig.run()
    status = rig.standing(name_of(ONE))
    assert status is not None
    assert status.decided == "commit"
    clean(rig)


def test_what_is_no_vote_is_a_dead_letter(rig: Rig) -> None:
    bad = Kept("beef.votes", 0, 1, NOW_MS, b"short", b"", [VOTE.header])
    worse = Kept("beef.votes", 0, 2, NOW_MS, bytes(16), b"\xc1", [VOTE.header])
    outs = rig.coordinator.do([bad, worse])
    assert [(out.topic.name, dict(out.headers)[h.CODE]) for out in outs] == [
        ("dead-letters", b"internal.undecodable")
    ] * 2
