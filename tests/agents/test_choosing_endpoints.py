"""Which endpoints are asked, over real HTTP: by priority, by what they say they take, by whether they ask for time.

What one endpoint makes of a call is the matter of `test_endpoints`, whose stand-in for ARC is used here.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from agents.broadcast import Broadcast
from agents.runtime.endpoint_settings import BroadcastSettings, chosen
from agents.runtime.endpoints import Endpoints, Found, NoEndpoint
from agents.runtime.http import HttpSettings, Remote, Transport, patience_s
from pipeline.broadcast import Waits
from pipeline.broadcasters import Policy
from pipeline.codec.ef import write_ef
from pipeline.codec.tx import Tx
from pipeline.http import HttpReply
from schemas.flow import BroadcastRequest, Unmined
from tests.agents.serving import Handler, hang, reset, served, until
from tests.agents.test_endpoints import ORIGIN, World, error, html, refused_key, request, told, world_of
from tests.builders import In, Out, funding, spend


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with world_of() as made:
        yield made


def by_priority(world: World, *priorities: int, **settings: Any) -> Endpoints:
    entries = tuple(f"arc={url};priority={n}" for url, n in zip(world.urls, priorities, strict=True))
    return world.endpoints(endpoints=entries, **settings)


# --- the setting's entries


@pytest.mark.setting("broadcast.endpoints")
def test_an_entry_says_what_is_its_own_and_leaves_the_rest_to_the_settings() -> None:
    settings = BroadcastSettings(
        endpoints=(
            "arc=https://a.example;key-file=/etc/key;priority=2;batch=7;concurrency=3;timeout-s=12.5",
            "arcade=https://b.example",
            "teranode=http://c.example:8833;batch=1024",
            "whatsonchain=https://d.example/v1/bsv/main",
        ),
        batch=5000,
        concurrency=6,
        timeout_s=8.0,
    )
    found = [(e.remote, e.priority, e.batch, e.concurrency, e.timeout_s) for e in chosen(settings)]
    assert found == [
        (Remote("arc", "https://a.example", "/etc/key"), 2, 7, 3, 12.5),
        (Remote("arcade", "https://b.example"), 0, 5000, 6, 8.0),
        (Remote("teranode", "http://c.example:8833"), 0, 1024, 6, 8.0),
        (Remote("whatsonchain", "https://d.example/v1/bsv/main"), 0, 1, 6, 8.0),  # takes one at a time
    ]


@pytest.mark.parametrize(
    "options",
    [
        "priority=-1", "priority=x", "priority=", "priority=1;priority=2", "batch=0", "batch=1.5", "concurrency=0",
        "concurrency=99999999999", "timeout-s=0", "timeout-s=0.0", "timeout-s=nan", "timeout-s=inf", "timeout-s=1e9",
        "timeout-s=-1", "batch=¹", "key-file=a;token-file=b", "speed=9",
    ],
)  # fmt: skip
def test_options_that_cannot_be_meant(options: str) -> None:
    with pytest.raises(ValueError, match=r"broadcast\.endpoints"):
        chosen(BroadcastSettings(endpoints=(f"arc=http://127.0.0.1:1;{options}",)))


@pytest.mark.parametrize(("dialect", "batch"), [("teranode", 1025), ("whatsonchain", 2)])
def test_no_more_than_a_call_takes(dialect: str, batch: int) -> None:
    with pytest.raises(ValueError, match=f"{dialect}= takes"):
        chosen(BroadcastSettings(endpoints=(f"{dialect}=http://127.0.0.1:1;batch={batch}",)))


def test_a_reply_that_is_held_comes_within_the_endpoint_s_own_time() -> None:
    """Only where replies are held."""
    with pytest.raises(ValueError, match="max_wait_s"):
        chosen(BroadcastSettings(endpoints=("arc=http://127.0.0.1:1;timeout-s=5",)))
    assert chosen(BroadcastSettings(endpoints=("arcade=http://127.0.0.1:1;timeout-s=5",)))[0].timeout_s == 5


async def test_an_entry_s_numbers_are_kept() -> None:
    """Batches of two, one at a time, each within its time."""
    async with world_of(1) as world:
        arc, under_way, most = world.arcs[0], 0, 0

        async def handler(request: web.Request) -> web.StreamResponse:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            await asyncio.sleep(0.005)
            under_way -= 1
            body = await request.read()
            return arc.reply([int.from_bytes(body[at : at + 32], "big") for at in range(0, len(body), 40)])

        arc.on_submit = handler
        entry = f"arc={world.urls[0]};batch=2;concurrency=1;timeout-s=9"
        endpoints = world.endpoints(endpoints=(entry,), batch=100, concurrency=4)
        assert told(await endpoints.broadcast([request(n) for n in range(1, 8)])) == ["success"] * 7
        assert (sorted(map(len, arc.calls)), most) == ([1, 2, 2, 2], 1)
        arc.on_submit = hang
        hasty = world.endpoints(endpoints=(f"arc={world.urls[0]};timeout-s=0.05",), wait_for="", timeout_s=60.0)
        async with asyncio.timeout(5):
            assert told(await hasty.broadcast([request(99)])) == ["waits network.undecided"]


# --- keys are told to nobody

SECRET = "k3y-that-nobody-may-see"


@pytest.mark.parametrize(
    "entry",
    [
        SECRET,
        f"https://{SECRET}@127.0.0.1",
        f"https://127.0.0.1?key={SECRET}",
        f"{SECRET}=http://127.0.0.1",
        f"arc={SECRET}",
        f"arc=http://{SECRET}:x@127.0.0.1",
        f"arc=http://127.0.0.1/?key={SECRET}",
        f"arc=http://127.0.0.1;key={SECRET}",
        f"arc=http://127.0.0.1;{SECRET}",
        f"arc=http://127.0.0.1;{SECRET}=1",
        f"arc=http://127.0.0.1;priority={SECRET}",
        f"arc=http://127.0.0.1;timeout-s={SECRET}",
    ],
)
def test_a_key_put_where_none_belongs_is_not_repeated(entry: str) -> None:
    with pytest.raises(ValueError, match=r"broadcast\.endpoints") as raised:
        chosen(BroadcastSettings(endpoints=(entry,)))
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize("misbehaviour", [None, reset, error, html, refused_key])
async def test_a_key_shows_in_no_log_no_outcome_and_no_repr(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture, misbehaviour: Handler | None
) -> None:
    file = tmp_path / "key"
    file.write_text(SECRET)
    world.arcs[0].on_submit = misbehaviour
    entries = (f"arc={world.urls[0]};key-file={file}", f"arc={world.urls[1]}")
    with caplog.at_level(logging.DEBUG):
        endpoints = world.endpoints(endpoints=entries)
        await endpoints.read_policies()
        outcomes = await endpoints.broadcast([request(1), request(2)])
        await until(lambda: bool(world.arcs[0].calls))
        assert world.arcs[0].headers[0]["Authorization"] == f"Bearer {SECRET}"
        shown = [repr(outcomes), repr(endpoints.standings()), repr(world.counted), caplog.text]
        await endpoints.close()
    assert not [text for text in shown if SECRET in text]


# --- priority


async def test_the_next_are_not_asked_for_what_the_first_took(world: World) -> None:
    endpoints = by_priority(world, 1, 0)
    assert told(await endpoints.broadcast([request(1, 2), request(3)])) == ["success"] * 2
    assert (world.arcs[0].calls, sorted(world.arcs[1].sent)) == ([], [1, 2, 3])


async def test_those_of_one_priority_are_asked_at_once(world: World) -> None:
    for arc in world.arcs:
        arc.default = "SEEN_IN_ORPHAN_MEMPOOL"
    await by_priority(world, 3, 3).broadcast([request(1)])
    assert [arc.sent for arc in world.arcs] == [[1], [1]]


@pytest.mark.parametrize("word", ["REJECTED", 465, "SEEN_IN_ORPHAN_MEMPOOL", "UNKNOWN"])
async def test_the_next_are_asked_for_what_found_no_acceptance_and_for_that_alone(
    world: World, word: str | int
) -> None:
    world.arcs[0].says = {2: word}
    endpoints = by_priority(world, 0, 1)
    outcomes = await endpoints.broadcast([request(1), request(2), request(3)])
    assert told(outcomes) == ["success"] * 3
    assert world.arcs[1].sent == [2]


@pytest.mark.parametrize("misbehaviour", [reset, error, html, refused_key])
async def test_the_next_stand_in_for_first_ones_that_do_not_answer(world: World, misbehaviour: Handler) -> None:
    world.arcs[0].on_submit = world.arcs[0].on_policy = misbehaviour
    endpoints = by_priority(world, 0, 1)
    assert told(await endpoints.broadcast([request(1), request(2)])) == ["success"] * 2
    assert sorted(world.arcs[1].sent) == [1, 2]
    await endpoints.close()


@pytest.mark.invariant("CAST-2")
async def test_a_refusal_takes_all_priorities(world: World) -> None:
    """The first's own policy is no consensus while the next has not spoken."""
    world.arcs[0].default, world.arcs[1].default = 465, 461
    endpoints = by_priority(world, 0, 7)
    assert told(await endpoints.broadcast([request(1)])) == ["refused network.fee"]
    world.arcs[1].on_submit = reset
    assert told(await endpoints.broadcast([request(2)])) == ["waits network.undecided"]


# --- what they say that they take


def limits(satoshis: int, tx_bytes: int = 10_000, script_bytes: int = 5_000) -> Handler:
    body = {
        "policy": {
            "maxscriptsizepolicy": script_bytes,
            "maxtxsizepolicy": tx_bytes,
            "miningFee": {"satoshis": satoshis, "bytes": 1000},
        }
    }

    async def handler(_: web.Request) -> web.StreamResponse:
        return web.json_response(body)

    return handler


def paying(*fees: int, data: int = 0) -> BroadcastRequest:
    """A chain of payments, some 190 bytes each; the last may carry data."""
    parent = funding(Out(1_000_000), salt=sum(fees))
    made: list[tuple[Tx, bytes]] = []
    for number, fee in enumerate(fees, 1):
        outs = [Out(parent.satoshis(0) - fee)]
        outs += [Out(0, b"\x00\x6a" + bytes(data))] if data and number == len(fees) else []
        tx = spend([In(parent)], outs)
        made.append((tx, write_ef(tx, [parent.output(0)])))
        parent = tx
    family = tuple(Unmined(tx.txid, ef) for tx, ef in made)
    return BroadcastRequest(family[-1].txid, family, ("topic:tm_anytx",), ("r",), ORIGIN)


async def priced(world: World, *prices: int, **settings: Any) -> Endpoints:
    """Endpoints that ask for so many satoshis a kilobyte, their policies read; and that take whatever they are sent."""
    for arc, price in zip(world.arcs, prices, strict=True):
        arc.on_policy = limits(price)
        arc.on_submit = seen
    endpoints = world.endpoints(**settings)
    await endpoints.read_policies()
    return endpoints


async def seen(request: web.Request) -> web.StreamResponse:
    """Take whatever is sent."""
    from ops.simulate.tx import read_all  # what the bytes are, read by code that shares nothing with ours

    found = read_all(await request.read())
    return web.json_response(
        [{"txid": tx.txid[::-1].hex(), "status": 200, "txStatus": "SEEN_ON_NETWORK"} for tx in found]
    )


async def test_who_would_refuse_the_fee_is_not_asked(world: World) -> None:
    endpoints = await priced(world, 500, 50)
    assert told(await endpoints.broadcast([paying(20)])) == ["success"]
    assert [len(arc.calls) for arc in world.arcs] == [0, 1]


async def test_who_would_refuse_the_size_is_not_asked(world: World) -> None:
    endpoints = await priced(world, 0, 0)
    for fee, handler in enumerate((limits(0, tx_bytes=1000), limits(0, script_bytes=100)), 20):
        world.arcs[0].on_policy = handler
        await endpoints.read_policies()
        assert told(await endpoints.broadcast([paying(fee, data=1200)])) == ["success"]
    assert [len(arc.calls) for arc in world.arcs] == [0, 2]


async def test_data_is_no_script_that_is_run(world: World) -> None:
    endpoints = await priced(world, 0, 0)
    for arc in world.arcs:
        arc.on_policy = limits(0, script_bytes=500)
    await endpoints.read_policies()
    assert told(await endpoints.broadcast([paying(20, data=1200)])) == ["success"]


async def test_what_none_would_take_is_refused_by_their_policies(world: World) -> None:
    """Each is heard with its policy, as if it had been asked; nothing was sent."""
    endpoints = await priced(world, 500, 900)
    low, large, fine = paying(20), paying(5000, data=20_000), paying(120)
    outcomes = await endpoints.broadcast([low, large, fine])
    assert told(outcomes) == ["refused policy.fee", "refused network.too-large", "success"]
    words = [(name, said.kind, said.status, said.message[:42]) for name, said in outcomes[0].replies[low.txid]]
    assert words == [
        (f"arc@{world.urls[0][7:]}", "refused", "policy", "not asked, since it takes 500 satoshis for"),
        (f"arc@{world.urls[1][7:]}", "refused", "policy", "not asked, since it takes 900 satoshis for"),
    ]
    assert [len(arc.calls) for arc in world.arcs] == [1, 0]


@pytest.fixture
def stale(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Lets time pass over what was read: the next reading is the first that is fresh."""
    real, passed = time.monotonic, 0.0

    def forward() -> None:
        nonlocal passed
        passed += 60.0

    monkeypatch.setattr("agents.runtime.endpoints.time.monotonic", lambda: real() + passed)
    return forward


async def test_a_policy_is_read_anew_before_it_refuses_anything(world: World, stale: Callable[[], None]) -> None:
    """What was read minutes ago only chooses: by then the price is lower, and the transaction is sent."""
    endpoints = await priced(world, 500, 900)
    stale()
    world.arcs[1].on_policy = limits(1)
    assert told(await endpoints.broadcast([paying(20)])) == ["success"]
    assert [len(arc.calls) for arc in world.arcs] == [0, 1]


async def test_a_fresh_policy_is_not_read_again_for_each(world: World, stale: Callable[[], None]) -> None:
    endpoints = await priced(world, 500, 900)
    assert [arc.probes for arc in world.arcs] == [1, 1]
    stale()
    for fee in (20, 21, 22):
        assert told(await endpoints.broadcast([paying(fee)])) == ["refused policy.fee"]
    assert [arc.probes for arc in world.arcs] == [2, 2]


@pytest.mark.invariant("CAST-2")
async def test_a_policy_that_cannot_be_read_anew_refuses_nothing(world: World, stale: Callable[[], None]) -> None:
    endpoints = await priced(world, 500, 900)
    stale()
    world.arcs[1].on_policy = html
    (outcome,) = await endpoints.broadcast([paying(20)])
    assert told([outcome]) == ["waits network.undecided"]
    assert isinstance(outcome.step, Waits)
    assert outcome.step.condition.message.endswith(f"; not asked by their policy: arc@{world.urls[1][7:]}")
    assert [len(arc.calls) for arc in world.arcs] == [0, 0]


async def test_where_none_would_take_it_and_none_answers_the_stage_pauses(
    world: World, stale: Callable[[], None]
) -> None:
    endpoints = await priced(world, 500, 500)
    stale()
    for arc in world.arcs:
        arc.on_submit = arc.on_policy = reset
    with pytest.raises(NoEndpoint):
        await endpoints.broadcast([paying(20)])


async def test_an_ancestor_that_none_would_take_leaves_its_child_waiting(world: World) -> None:
    """As where it is asked for: nobody refuses a child for its parent."""
    endpoints = await priced(world, 500, 500)
    assert told(await endpoints.broadcast([paying(0, 100)])) == ["waits network.orphan"]


async def test_who_would_refuse_it_does_not_stand_in_for_who_is_silent(world: World) -> None:
    """Somebody is up, and it is not the one who may take it."""
    endpoints = await priced(world, 500, 0)
    world.arcs[1].on_submit = world.arcs[1].on_policy = reset
    assert told(await endpoints.broadcast([paying(20)])) == ["waits network.undecided"]
    assert world.arcs[0].calls == []


@pytest.mark.invariant("CAST-2")
async def test_a_policy_and_a_refusal_are_two_refusals(world: World) -> None:
    endpoints = await priced(world, 0, 500)
    low = paying(20)

    async def refuses(_: web.Request) -> web.StreamResponse:
        return web.json_response([{"txid": low.txid[::-1].hex(), "status": 461, "title": "a script"}])

    world.arcs[0].on_submit = refuses
    assert told(await endpoints.broadcast([low])) == ["refused network.script"]
    assert len(world.arcs[1].calls) == 0


@pytest.mark.invariant("CAST-2")
async def test_what_an_endpoint_said_itself_outranks_its_policy(world: World) -> None:
    """It was sent there with a child that pays for it, and is known as contested: that is the word that stands."""
    endpoints = await priced(world, 100, 900)
    family = paying(0, 60)
    parent = BroadcastRequest(family.unmined[0].txid, family.unmined[:1], (), (), ORIGIN)

    async def contested(request: web.Request) -> web.StreamResponse:
        return web.json_response(
            [{"txid": m.txid[::-1].hex(), "status": 200, "txStatus": "DOUBLE_SPEND_ATTEMPTED"} for m in family.unmined]
        )

    world.arcs[0].on_submit = contested
    outcomes = await endpoints.broadcast([parent, family])
    assert [said.code for name, said in outcomes[0].replies[parent.txid]] == ["network.contested", "policy.fee"]
    assert told(outcomes) == ["waits network.contested"] * 2


async def test_a_child_that_pays_for_its_parent_is_sent_with_it() -> None:
    async with world_of(1) as world:
        endpoints = await priced(world, 100)
        assert told(await endpoints.broadcast([paying(0, 60)])) == ["success"]
        assert told(await endpoints.broadcast([paying(0, 25)])) == ["waits network.orphan"]
        assert told(await endpoints.broadcast([paying(30, 0)])) == ["refused policy.fee"]


async def test_an_ancestor_that_is_known_is_not_judged_again() -> None:
    async with world_of(1) as world:
        endpoints = await priced(world, 0)
        family = paying(0, 30)
        parent = BroadcastRequest(family.unmined[0].txid, family.unmined[:1], (), (), ORIGIN)
        assert told(await endpoints.broadcast([parent])) == ["success"]
        world.arcs[0].on_policy = limits(100)
        await endpoints.read_policies()
        assert told(await endpoints.broadcast([family])) == ["success"]


async def test_until_a_policy_is_known_everything_is_asked_and_a_lost_one_stays_in_force() -> None:
    async with world_of(1) as world:
        arc = world.arcs[0]
        arc.on_submit, arc.on_policy = seen, html
        endpoints = world.endpoints()
        await endpoints.read_policies()
        assert told(await endpoints.broadcast([paying(1)])) == ["success"]
        arc.on_policy = limits(500)
        await endpoints.read_policies()
        arc.on_policy = html
        await endpoints.read_policies()
        sent = len(arc.calls)
        with pytest.raises(NoEndpoint):  # who has no policy to read is not up
            await endpoints.broadcast([paying(2)])
        assert len(arc.calls) == sent
        (standing,) = endpoints.standings()
        assert standing.policy == Policy(10_000, 5_000, 500, 1000)
        assert standing.policy_fault.startswith("not a policy")


@pytest.mark.setting("broadcast.policy_refresh_s")
async def test_policies_are_read_again_and_again_until_closed() -> None:
    async with world_of(1) as world:
        arc = world.arcs[0]
        arc.on_policy = limits(500)
        endpoints = world.endpoints(policy_refresh_s=0.01)
        endpoints.follow_policies()
        await until(lambda: endpoints.standings()[0].policy == Policy(10_000, 5_000, 500, 1000))
        arc.on_policy = limits(7)
        await until(lambda: endpoints.standings()[0].policy == Policy(10_000, 5_000, 7, 1000))
        arc.on_policy = error
        await until(lambda: endpoints.standings()[0].policy_fault != "")
        await endpoints.close()
        read = arc.probes
        await asyncio.sleep(0.05)
        assert arc.probes == read


async def test_how_endpoints_stand(world: World) -> None:
    world.arcs[0].on_policy, world.arcs[1].on_submit = limits(500), refused_key
    entries = (f"arc={world.urls[0]};priority=2", f"arc={world.urls[1]}", "teranode=http://127.0.0.1:1;priority=5")
    endpoints = world.endpoints(endpoints=entries)
    before = endpoints.standings()
    assert [(one.policy, one.policy_age_s, one.publishes) for one in before] == [
        (None, None, True),
        (None, None, True),
        (None, None, False),
    ]
    await endpoints.read_policies()
    await endpoints.broadcast([request(1)])
    first, second, third = endpoints.standings()
    assert (first.name, first.priority, first.state, first.why) == (f"arc@{world.urls[0][7:]}", 2, "closed", "")
    assert (first.policy, first.policy_fault) == (Policy(10_000, 5_000, 500, 1000), "")
    assert first.policy_age_s is not None
    assert 0 <= first.policy_age_s < 5
    assert (second.state, second.why) == ("open", "HTTP 401: key, account or address")
    assert (third.priority, third.policy, third.publishes) == (5, None, False)
    await endpoints.close()


# --- who asks for time


def busy(status: int, patience: str) -> Handler:
    async def handler(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, headers={"Retry-After": patience})

    return handler


@pytest.mark.parametrize("status", [429, 503])
async def test_who_asks_for_time_is_unavailable_until_then_and_nothing_fails(world: World, status: int) -> None:
    world.arcs[0].on_submit, world.arcs[1].default = busy(status, "20"), "SEEN_IN_ORPHAN_MEMPOOL"
    endpoints = world.endpoints()
    (outcome,) = await endpoints.broadcast([request(1)])
    assert told([outcome]) == ["waits network.orphan"]
    kinds = [reply.kind for _, reply in outcome.replies[outcome.request.txid]]
    assert kinds == ["unavailable", "condition"]
    assert {kind for _, kind in world.counted} == {"unavailable", "condition"}, "the call itself did not fail either"
    assert world.arcs[0].calls == [[1]], "once, and no quick try again"
    world.clock.pass_s(19)
    await endpoints.broadcast([request(2)])
    assert world.arcs[0].calls == [[1]]
    assert endpoints.standings()[0].state == "open"
    world.arcs[0].on_submit = None
    world.clock.pass_s(2)
    assert told(await endpoints.broadcast([request(2)])) == ["success"]
    assert world.arcs[0].calls == [[1], [2]]


async def test_one_alone_that_asks_for_time_pauses_the_stage() -> None:
    async with world_of(1) as world:
        world.arcs[0].on_submit = busy(503, "1")
        endpoints = world.endpoints()
        with pytest.raises(NoEndpoint):
            await endpoints.broadcast([request(1)])
        assert not await endpoints.probe()
        world.arcs[0].on_submit = None
        world.clock.pass_s(1.1)
        assert await endpoints.probe()
        assert told(await endpoints.broadcast([request(1)])) == ["success"]


DATED = {"date": "Wed, 21 Oct 2026 07:28:00 GMT"}


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": " 0 "}, 0.0),
        ({"retry-after": "-7"}, None),
        ({"retry-after": "7" * 5000}, 777_777_777.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:30 GMT", **DATED}, 30.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:27:00 GMT", **DATED}, 0.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:30 GMT"}, None),  # by whose clock?
        ({"retry-after": "Wed, 21 Oct 2026 07:28:30 -0000", **DATED}, None),  # a zone beside none
    ],
)
def test_for_how_long_a_service_asks(headers: dict[str, str], seconds: float | None) -> None:
    assert patience_s(HttpReply(503, headers, b"")) == seconds


# --- errors that are answers


async def test_an_answer_under_http_500_is_no_fault_of_the_endpoint() -> None:
    """As older Teranodes give theirs: ten refusals in a row open no breaker."""
    calls = 0

    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal calls
        calls += 1
        return web.Response(status=500, text="Failed to process transaction: TX_INVALID (31): tx invalid")

    async with served(handler) as url, Transport(HttpSettings(breaker_faults=3)) as transport:
        settings = BroadcastSettings(endpoints=(f"teranode={url}",))
        endpoints = Endpoints(settings, transport)
        for number in range(1, 11):
            assert told(await endpoints.broadcast([request(number)])) == ["refused network.rejected"]
        assert (calls, endpoints.standings()[0].state) == (10, "closed")


async def test_an_error_under_http_500_that_is_no_answer_is_one() -> None:
    async with served(error) as url, Transport(HttpSettings(breaker_faults=3)) as transport:
        endpoints = Endpoints(BroadcastSettings(endpoints=(f"teranode={url}",), backoff_s=0.0), transport)
        with pytest.raises(NoEndpoint):
            await endpoints.broadcast([request(1)])
        assert endpoints.standings()[0].state == "open"


async def test_nobody_that_can_be_asked_knows_more(world: World) -> None:
    """A propagation service tells no status, so a look finds nothing, and is not tried for ever."""
    endpoints = world.endpoints(endpoints=("teranode=http://127.0.0.1:1",))
    found = await endpoints.look_up(bytes(32))
    assert found is not None
    assert (found.words, found.paths) == ((), ())


async def test_who_is_down_for_long_is_waited_for_where_nobody_else_counts() -> None:
    """Beside one that tells no status it counts no longer, and a look comes to its end; alone it always counts."""
    gone, teranode = "arc=http://127.0.0.1:1", "teranode=http://127.0.0.1:2"
    async with Transport(HttpSettings()) as transport:
        for beside, comes_back in (((teranode,), False), ((), True)):
            endpoints = Endpoints(BroadcastSettings(endpoints=(gone, *beside), down_limit_s=0.05), transport)
            assert await endpoints.look_up(bytes(32)) is None, "it has only just fallen silent"
            await asyncio.sleep(0.06)
            found = await endpoints.look_up(bytes(32))
            assert found == (None if comes_back else Found((), (), ("arc@127.0.0.1:1",)))


async def test_where_the_taker_cannot_be_asked_the_others_are(world: World) -> None:
    known = {"txid": bytes(32).hex(), "txStatus": "SEEN_ON_NETWORK", "status": 200}
    world.arcs[0].on_look_up = lambda _: web.json_response(known)
    endpoints = world.endpoints(endpoints=("teranode=http://127.0.0.1:1", f"arc={world.urls[0]}"))
    found = await endpoints.look_up(bytes(32), "teranode@127.0.0.1:1")
    assert found is not None
    assert [word.status for word in found.words] == ["SEEN_ON_NETWORK"]


async def test_the_stage_follows_policies_from_its_start() -> None:
    async with world_of(1) as world:
        stage = Broadcast(BroadcastSettings(endpoints=(f"arc={world.urls[0]}",)), HttpSettings())
        await stage.start()
        try:
            await until(lambda: world.arcs[0].probes == 1)
        finally:
            await stage.stop()


async def test_callbacks_are_asked_of_those_that_call_back(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("t0ken")
    asked: dict[str, bool] = {}

    async def handler(request: web.Request) -> web.StreamResponse:
        asked[request.path] = "X-CallbackUrl" in request.headers
        return web.Response(text="OK")

    async with served(handler) as url, Transport(HttpSettings()) as transport:
        for dialect in ("arc", "arcade", "teranode"):
            settings = BroadcastSettings(
                endpoints=(f"{dialect}={url}/{dialect}",),
                callback_url="https://here",
                callback_token_file=str(file),
                attempts=1,
            )
            endpoints = Endpoints(settings, transport)
            try:
                await endpoints.broadcast([request(1)])
            except NoEndpoint:
                assert dialect != "teranode"  # "OK" is no JSON of theirs
            await endpoints.close()
    assert (asked["/arc/v1/txs"], asked["/arcade/tx"], asked["/teranode/tx"]) == (True, True, False)
