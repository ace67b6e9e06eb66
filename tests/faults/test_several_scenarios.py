"""Operations over several contexts, one scenario after the other on one installation: real workers, a real broker.

Each has contexts of its own. What is sent, and when, is the scenario's; all else is as it is in production.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from itertools import count
from pathlib import Path
from uuid import uuid4

import msgspec
import pytest
import pytest_asyncio

from agents.runtime.cluster import admin
from ops.apply_chaos.rig import Rig, until_so
from ops.operations import everywhere
from ops.operations import verified as looked_through
from pipeline import baskets
from pipeline.prepare import parts_of, whole
from schemas.flow import Accept, Apply, Evict, Part, Request, Reserve, Verified
from schemas.types import Context, outpoint
from tests.agents.several_rig import all_of, name_of
from tests.conftest import CACHE, Broker
from tests.fakes import coin_of_others, made_tx, origin_at, verified
from tests.faults.scene import Scene, Seen, votes_of
from tests.pipeline.test_baskets import CONTEXT as OWNER
from tests.pipeline.test_baskets import asked, insertion, paying, read
from tests.profiles import LONG
from topics.registry import BY_NAME

pytestmark = [
    pytest.mark.broker,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.invariant("ATOMIC-1"),
    pytest.mark.invariant("ATOMIC-2"),
]

PLAIN, ODD = "pipeline.overlay.builtin.anytx:AnyTx", "tests.fakes:Odd"
LETTERS = "abcdefghijklmnopqrstuvwxyz"
NAMES = tuple(f"tm_plain_{first}{second}" for first in "ab" for second in LETTERS)
ODDS = tuple(f"tm_odd_{letter}" for letter in LETTERS[:6])
HOSTED = (*(f"{name}={PLAIN}" for name in NAMES), *(f"{name}={ODD}" for name in ODDS))

DEADLINE_S, LAG_S = (120.0, 245.0) if LONG else (1.5, 4.0)
"""Of an attempt, where a context lags for longer than two of them. The long form is a thirtieth of the hour that is the
default."""

APPLIED = "applied"
POINT, OTHER, THIRD = coin_of_others(1), coin_of_others(2), coin_of_others(3)
PARENT = made_tx([POINT], 2, 1)
CHILD = made_tx([outpoint(PARENT.txid, 0)], 2, 2)

_plain = (f"topic:{name}" for name in NAMES)
_odd = (f"topic:{name}" for name in ODDS)
_number = count(1)


def contexts(number: int) -> tuple[Context, ...]:
    """Of a scenario, and of no other."""
    return tuple(next(_plain) for _ in range(number))


def number() -> int:
    """Of the next request, which is younger than all before."""
    return next(_number)


def over(tx: object, *named: Context, offset: int = 0, **more: object) -> Verified:
    """A payload that asks for all or nothing in these contexts."""
    return all_of(verified(tx, offset=offset or number(), contexts=named, **more))  # type: ignore[arg-type]


def to(context: Context, tx: object, *ancestors: object) -> Verified:
    """A payload for one context."""
    return verified(tx, ancestors, offset=number(), contexts=(context,))  # type: ignore[arg-type]


def request(payload: Verified) -> str:
    return payload.asked.request_id


@pytest.fixture(scope="module", autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One for all scenarios."""
    home = tmp_path_factory.mktemp("scenarios")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BEEFLINE_HOME", str(home))
        patch.setenv("BEEFLINE_CACHE", str(CACHE))
        yield home


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(broker: Broker, own_home: Path) -> AsyncIterator[Scene]:
    prefix = f"t{uuid4().hex[:8]}."
    flags = (
        f"topics.prefix={prefix}",
        f"apply.trusted={','.join(ODDS)}",
        "apply.vote_again_s=1",
        "worker.session_timeout_s=300",  # whoever is made to stand still keeps what it has
        "worker.replication=1",
    )
    rig = Rig(HOSTED, workers=2, bootstrap=broker.bootstrap, flags=flags, beside={"coordinate": 1, "retry": 1})
    async with rig:
        yield Scene(rig)
    async with admin(rig.settings.kafka) as client:
        await client.delete_topics([topic.named(prefix) for topic in BY_NAME.values()])


async def test_lost_votes_are_given_again(scene: Scene) -> None:
    """All of them, before the coordinator has read one: contexts repeat theirs until they are answered."""
    a, b = contexts(2)
    one = over(PARENT, a, b)
    lost = 0

    async def both_prepare() -> None:
        nonlocal lost
        await scene.send(one)
        await scene.until(lambda seen: len(votes_of(seen, one)) >= 2, "votes")
        lost = await scene.lose_votes()

    await scene.stopped(scene.coordinator, both_prepare)
    await scene.coordinator_again()
    assert lost >= 2
    seen = await scene.decided({request(one): {a: APPLIED, b: APPLIED}})
    assert (seen.attempts(one), seen.standing[name_of(one)].attempt) == ([0, 0], 0)
    assert [seen.kinds(each, name_of(one)) for each in (a, b)] == [["prepare", "commit"]] * 2


async def test_doubled_and_late_votes_change_nothing(scene: Scene) -> None:
    """Before the decision, after it, and after another coordinator has taken over."""
    a, b = contexts(2)
    one = over(PARENT, a, b)
    await scene.send(one, a)
    first = votes_of(await scene.journaled(a, "prepare"), one)
    assert [vote.says for vote in first] == ["yes"]
    await scene.vote(name_of(one), *first * 3)
    await scene.send(one, b)
    seen = await scene.decided({request(one): {a: APPLIED, b: APPLIED}})
    standing, roots = seen.standing[name_of(one)], [seen.root(each) for each in (a, b)]
    votes = list({vote.context: vote for vote in votes_of(seen, one)}.values())
    assert len(votes) == 2
    for again in (False, True):
        if again:
            await scene.coordinator_again()
        words = len((await scene.seen()).words(one))
        await scene.vote(name_of(one), *votes)
        await scene.until(lambda seen, words=words: len(seen.words(one)) == words + 2, "answers")  # type: ignore[misc]
        await scene.rig.drained()
        seen = await scene.seen()
        assert seen.standing[name_of(one)] == standing
        assert [seen.root(each) for each in (a, b)] == roots
        assert [seen.kinds(each, name_of(one)) for each in (a, b)] == [["prepare", "commit"]] * 2
        assert [len(seen.results[request(one), each]) for each in (a, b)] == [1, 1]


async def test_a_child_of_an_undecided_one_waits(scene: Scene) -> None:
    """Sent to one context alone; it is judged on what stands once its parent is decided."""
    a, b = contexts(2)
    parent, child = over(PARENT, a, b), to(a, CHILD, PARENT)
    await scene.send(parent, a)
    await scene.journaled(a, "prepare")
    await scene.alone(child)
    seen = await scene.journaled(a, "wait")
    assert seen.outcomes(request(child)) == {}
    await scene.send(parent, b)
    seen = await scene.decided({request(parent): {a: APPLIED, b: APPLIED}, request(child): {a: APPLIED}})
    assert seen.kinds(a) == ["prepare", "wait", "commit", "apply"]
    told = seen.results[request(child), a][-1]
    assert told.admittance is not None
    assert told.admittance.coins_removed == (0,), "it spends what its parent brought in"


async def test_a_child_of_an_aborted_one_finds_what_stands(scene: Scene) -> None:
    """Sent to one context alone; nothing of its parent shows there, or anywhere."""
    (a,), odd = contexts(1), next(_odd)
    parent, child = over(PARENT, a, odd, off_chain=b"nothing"), to(a, CHILD, PARENT)
    await scene.send(parent, a)
    await scene.journaled(a, "prepare")
    await scene.alone(child)
    await scene.journaled(a, "wait")
    await scene.send(parent, odd)
    refused = "rejected admission.nothing"
    seen = await scene.decided({request(parent): {a: refused, odd: refused}, request(child): {a: APPLIED}})
    assert seen.kinds(a) == ["prepare", "wait", "abort", "apply"]
    told = seen.results[request(child), a][-1]
    assert told.admittance is not None
    assert told.admittance.coins_removed == (), "its parent brought nothing in"


async def test_the_same_txid_alone_in_one_and_with_others_in_two(scene: Scene) -> None:
    a, b = contexts(2)
    both, single = over(PARENT, a, b), to(b, PARENT)
    await scene.send(both, a)
    await scene.journaled(a, "prepare")
    await scene.alone(single)
    await scene.decided({request(single): {b: APPLIED}})
    await scene.send(both, b)
    seen = await scene.decided({request(both): {a: APPLIED, b: APPLIED}})
    assert [seen.kinds(each) for each in (a, b)] == [["prepare", "commit"], ["apply", "prepare", "commit"]]
    assert [seen.results[request(both), each][-1].repeat for each in (a, b)] == [False, True]


async def test_the_same_txid_over_different_sets(scene: Scene) -> None:
    """Two operations share one context: the later one there waits for the other, and is a repeat."""
    a, b, c = contexts(3)
    one, two = over(PARENT, a, b), over(PARENT, c, b)
    await scene.send(one, b)
    await scene.journaled(b, "prepare")
    await scene.send(two)
    await scene.journaled(b, "wait")
    await scene.send(one, a)
    seen = await scene.decided({request(one): {a: APPLIED, b: APPLIED}, request(two): {c: APPLIED, b: APPLIED}})
    assert seen.results[request(two), b][-1].repeat
    assert [seen.standing[name_of(each)].attempt for each in (one, two)] == [0, 0]


async def test_opposite_orders_end_with_one_retry_at_most(scene: Scene) -> None:
    """Each is prepared where it came first, and wants what the other holds: the younger comes back."""
    a, b = contexts(2)
    older, younger = over(PARENT, a, b), over(made_tx([POINT], 1, 5), b, a)
    await scene.send(younger, b)
    await scene.journaled(b, "prepare")
    await scene.send(older, a)
    await scene.journaled(a, "prepare")
    await scene.send(older, b)
    await scene.send(younger, a)
    seen = await scene.decided({request(older): {a: APPLIED, b: APPLIED}})
    ended = seen.standing[name_of(younger)]
    assert (seen.standing[name_of(older)].attempt, ended.attempt, ended.code) == (0, 0, "conflict.undecided")
    for context in (a, b):
        await scene.ask(context, Accept(f"accept {context}", (PARENT.txid,), "arc@a"))
    lost = "rejected conflict.double-spend"
    seen = await scene.decided({request(younger): {b: lost, a: lost}}, hurried=True)
    assert seen.standing[name_of(younger)].attempt == 1


@pytest.mark.parametrize("ages", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
async def test_a_ring_of_waits_ends_without_its_deadline(scene: Scene, ages: tuple[int, int, int]) -> None:
    """Each of three holds what the next one wants, whoever is older; a child of the first waits behind all that."""
    a, b, c = contexts(3)
    offsets = [number() for _ in range(3)]
    ring = [((POINT, OTHER), (a, b)), ((OTHER, THIRD), (b, c)), ((THIRD, POINT), (c, a))]
    subjects = [made_tx(spends, 1, 40 + age) for (spends, _), age in zip(ring, ages, strict=True)]
    operations = [
        over(subject, *named, offset=offsets[age])
        for subject, (_, named), age in zip(subjects, ring, ages, strict=True)
    ]
    for each in operations:
        await scene.send(each, each.asked.contexts[0])
        await scene.journaled(each.asked.contexts[0], "prepare")
    await scene.alone(to(a, made_tx([outpoint(subjects[0].txid, 0)], 1, 50), subjects[0]))
    await scene.journaled(a, "wait")
    for each in operations:
        await scene.send(each, each.asked.contexts[1])
    names = [name_of(each) for each in operations]
    seen = await scene.until(lambda seen: all(seen.standing[name].decided for name in names), "end of the ring")
    assert {seen.standing[name].code for name in names} <= {"", "conflict.undecided"}
    # The child of an aborted one has brought that into its context by itself: the network refuses both.
    if ages[0]:
        await scene.ask(a, Evict("evict", subjects[0].txid, "network.rejected", "no"))

    def won(seen: Seen) -> list[int]:
        return [at for at, each in enumerate(operations) if set(seen.outcomes(request(each)).values()) == {APPLIED}]

    seen = await scene.until(lambda seen: len(won(seen)) == 1, "winner", hurried=True)
    (winner,) = won(seen)
    for context in operations[winner].asked.contexts:
        await scene.ask(context, Accept("accept", (subjects[winner].txid,), "arc@a"))
    await scene.until(
        lambda seen: all(
            [said.partition(".")[0] for said in seen.outcomes(request(each)).values()] == ["rejected conflict"] * 2
            for place, each in enumerate(operations)
            if place != winner
        ),
        "refusals of the others",
        hurried=True,
    )


async def test_an_abort_over_six_makes_one_next_attempt(scene: Scene) -> None:
    six = (*contexts(5), next(_odd))
    rival = to(six[-1], made_tx([POINT], 2, 9))
    await scene.alone(rival)
    await scene.decided({request(rival): {six[-1]: APPLIED}})
    one = over(PARENT, *six)
    await scene.send(one)
    seen = await scene.until(
        lambda seen: all(seen.kinds(each, name_of(one)) == ["prepare", "abort"] for each in six[:-1]), "abort in five"
    )
    assert seen.standing[name_of(one)].code == "conflict.undecided"
    assert seen.attempts(one) == [0] * 6
    await scene.ask(six[-1], Evict("evict", rival.txid, "network.rejected", "no"))
    await scene.until(lambda seen: "evict" in seen.kinds(six[-1]), "eviction of the rival")
    seen = await scene.decided({request(one): dict.fromkeys(six, APPLIED)}, hurried=True)
    assert seen.attempts(one) == [0] * 6 + [1] * 6
    assert seen.standing[name_of(one)].attempt == 1


async def test_a_late_parent_waits_under_a_prepared_child(scene: Scene) -> None:
    a, b = contexts(2)
    child, parent = over(CHILD, a, b, ancestors=[PARENT]), to(a, PARENT)
    await scene.send(child, a)
    await scene.journaled(a, "prepare")
    await scene.alone(parent)
    seen = await scene.journaled(a, "wait")
    assert seen.outcomes(request(parent)) == {}
    await scene.send(child, b)
    seen = await scene.decided({request(parent): {a: APPLIED}})
    assert seen.kinds(a) == ["prepare", "wait", "commit", "apply", "rejudge"]
    assert seen.outcomes(request(child))[b] == APPLIED


async def test_a_fault_in_the_last_context_aborts_at_once(scene: Scene) -> None:
    (a, b), odd = contexts(2), next(_odd)
    one = over(PARENT, a, b, odd, off_chain=b"raise")
    began = time.monotonic()
    await scene.send(one)
    seen = await scene.decided({request(one): dict.fromkeys((a, b, odd), "parked internal.manager-raised")})
    assert time.monotonic() - began < 20, "and not when a deadline comes, or a tier"
    assert seen.standing[name_of(one)].final


async def test_a_refusal_leaves_all_other_roots_as_they_were(scene: Scene) -> None:
    (a, b), odd = contexts(2), next(_odd)
    before = over(made_tx([OTHER], 2, 7), a, b, odd)
    await scene.send(before)
    seen = await scene.decided({request(before): dict.fromkeys((a, b, odd), APPLIED)})
    roots = [seen.root(each) for each in (a, b, odd)]
    one = over(PARENT, a, b, odd, off_chain=b"nothing")
    await scene.send(one)
    await scene.decided({request(one): dict.fromkeys((a, b, odd), "rejected admission.nothing")})
    seen = await scene.until(
        lambda seen: all(seen.kinds(each, name_of(one)) == ["prepare", "abort"] for each in (a, b)), "abort in both"
    )
    assert [seen.root(each) for each in (a, b, odd)] == roots


async def test_a_lease_does_not_end_while_an_undecided_operation_spends_what_it_holds(scene: Scene) -> None:
    (a,) = contexts(1)
    stock = paying(b"\x51", spends=[coin_of_others(60)], salt=60)
    brought = verified(stock, offset=number(), contexts=(OWNER,))
    await scene.ask(OWNER, Apply("stock", brought, None, baskets.encode(read(asked(insertion(0))))))
    await scene.decided({request(brought): {OWNER: APPLIED}})
    origin = msgspec.structs.replace(origin_at(number()), timestamp_ms=int(time.time() * 1000))
    reserve = Reserve((), "coins", (), 1, "somebody", 2_000)
    await scene.ask(OWNER, Request("reserve", origin, "reserve", reserve))
    seen = await scene.journaled(OWNER, "reserve")
    began = time.monotonic()
    token = seen.entries[OWNER][-1].sequence
    payload = over(paying(b"\x53", spends=[outpoint(stock.txid, 0)], salt=61), OWNER, a)
    claim = baskets.encode(read(asked(reservations=[{"id": "reserve", "token": token}])))
    part = whole(0, payload, [Part(OWNER, None, claim), Part(a)])
    await scene.ask(OWNER, part)
    await scene.journaled(OWNER, "prepare")
    await asyncio.sleep(max(0.0, began + 4 - time.monotonic()))  # twice the lease: the worker has looked at its clock
    assert "expire" not in (await scene.seen()).kinds(OWNER)
    ((context, other),) = parts_of(part)
    await scene.ask(context, other)
    seen = await scene.decided({request(payload): {OWNER: APPLIED, a: APPLIED}})
    assert seen.kinds(OWNER) == ["apply", "reserve", "prepare", "commit", "consume"]


async def test_a_context_that_lags_past_two_deadlines_finishes_once_it_has_caught_up(scene: Scene) -> None:
    """Its worker stands still, and keeps its partitions; the other one's contexts go on."""
    await scene.coordinator_again(f"coordinate.deadline_s={DEADLINE_S}")
    some = contexts(8)
    slow = scene.rig.workers[0]
    warm = [to(each, made_tx([OTHER], 1, 70)) for each in some]
    sent: list[Verified] = []

    async def meanwhile() -> None:
        for each in warm:
            await scene.alone(each)
        await scene.until(lambda seen: sum(bool(seen.outcomes(request(each))) for each in warm) > 0, "the other's")
        await asyncio.sleep(1.0)
        seen = await scene.seen()
        up = [each for each in some if seen.kinds(each)]
        behind = [each for each in some if each not in up]
        assert up, "both workers have some"
        assert behind, "both workers have some"
        sent.append(over(PARENT, up[0], behind[0]))
        sent.append(over(made_tx([THIRD], 1, 71), behind[0], up[0]))
        began = time.monotonic()
        for each in sent:
            await scene.send(each)
        await asyncio.sleep(LAG_S)
        seen = await scene.until(
            lambda seen: seen.kinds(up[0]).count("abort") >= (1 if LONG else 2), "aborted attempts", hurried=True
        )
        assert time.monotonic() - began > 2 * DEADLINE_S
        assert all(seen.outcomes(request(each)) == {} for each in sent)
        assert seen.standing[name_of(sent[0])].code in ("", "internal.deadline")

    await scene.stopped(slow, meanwhile)
    wanted = {request(each): dict.fromkeys(each.asked.contexts, APPLIED) for each in sent}
    seen = await scene.decided(wanted, hurried=True)
    for each in sent:
        assert seen.standing[name_of(each)].decided == "commit"
        assert all(seen.kinds(context, name_of(each)).count("commit") == 1 for context in each.asked.contexts)


async def test_at_the_end_all_contexts_agree(scene: Scene) -> None:
    """On everything that came before: nothing is torn, undecided or held."""
    settings = scene.rig.settings

    async def done() -> bool:
        operations = await everywhere(settings)
        return not any(each.stands in ("undecided", "under way", "unheard") for each in operations)

    await until_so(done, "end of all operations", 30.0)
    counts, findings = looked_through(await everywhere(settings), int(time.time() * 1000), 1)
    assert list(findings) == []
    assert counts["committed"] >= 1
