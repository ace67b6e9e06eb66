"""Broadcasting over real HTTP: endpoints that are slow, broken, forgetful or wrong, and what comes of the requests.

The stand-in for ARC reads members of a fixed size, since what a transaction is does not matter here; that the bytes are
Extended Format one after the other is the dialect's test.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from agents.runtime.endpoint_settings import BroadcastSettings
from agents.runtime.endpoints import MOST_RIVALS, Endpoints, Found, NoEndpoint, Outcome, word_of
from agents.runtime.http import HttpSettings, Transport
from pipeline.broadcast import Refused, Success, Waits
from pipeline.broadcasters import Reply
from pipeline.outcome import BY_CODE
from schemas.flow import BroadcastRequest, Origin, Unmined
from schemas.network import NEWS, Heard
from schemas.types import Txid, display
from tests.agents.serving import Clock, Handler, hang, nobody, reset, served, until

ORIGIN = Origin("cluster", "ingest", 0, 7, 1_700_000_000_000)
POLICY = {"policy": {"maxscriptsizepolicy": 1, "maxtxsizepolicy": 1, "miningFee": {"satoshis": 1, "bytes": 1000}}}
SIZE = 40


def txid_of(number: int) -> Txid:
    return number.to_bytes(32, "big")


def member(number: int) -> Unmined:
    return Unmined(txid_of(number), txid_of(number) + bytes(SIZE - 32))


def request(*numbers: int) -> BroadcastRequest:
    """Un-mined transactions by number, ancestors first, the subject last."""
    return BroadcastRequest(txid_of(numbers[-1]), tuple(map(member, numbers)), ("topic:tm_anytx",), ("r",), ORIGIN)


def numbers_of(body: bytes) -> list[int]:
    return [int.from_bytes(body[i : i + 32], "big") for i in range(0, len(body), SIZE)]


class Arc:
    """An endpoint. `says` maps a transaction's number to a status name or an error number; else it is `default`."""

    def __init__(self) -> None:
        self.default: str | int = "SEEN_ON_NETWORK"
        self.says: dict[int, str | int] = {}
        self.refuses: Callable[[list[int]], int] = lambda numbers: 0  # the call as a whole, with this code
        self.on_submit: Handler | None = None
        self.on_policy: Handler | None = None
        self.on_look_up: Callable[[web.Request], web.Response] | None = None
        self.calls: list[list[int]] = []
        self.headers: list[dict[str, str]] = []
        self.probes = 0

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/v1/policy":
            self.probes += 1
            return await self.on_policy(request) if self.on_policy else web.json_response(POLICY)
        if self.on_look_up and request.path.startswith("/v1/tx/"):
            return self.on_look_up(request)
        assert (request.method, request.path) == ("POST", "/v1/txs")
        numbers = numbers_of(await request.read())
        self.calls.append(numbers)
        self.headers.append(dict(request.headers))
        if self.on_submit:
            return await self.on_submit(request)
        return self.reply(numbers)

    def reply(self, numbers: list[int]) -> web.Response:
        if status := self.refuses(numbers):
            return web.json_response({"status": status, "title": "t", "detail": "the whole call"}, status=status)
        entries = [self._entry(number) for number in reversed(numbers)]
        # As ARC does: successes, then failures, whatever the order of the request.
        return web.json_response(sorted(entries, key=lambda entry: int(entry["status"]) >= 400))

    def _entry(self, number: int) -> dict[str, Any]:
        said = self.says.get(number, self.default)
        named = {"txid": display(txid_of(number))}
        return (
            {**named, "status": said, "detail": "d"}
            if isinstance(said, int)
            else {**named, "status": 200, "txStatus": said}
        )

    @property
    def sent(self) -> list[int]:
        return [number for call in self.calls for number in call]


class World:
    """Two endpoints and who sends to them."""

    def __init__(self, urls: Sequence[str], arcs: Sequence[Arc], transport: Transport, clock: Clock) -> None:
        self.urls, self.arcs, self.transport, self.clock = list(urls), arcs, transport, clock
        self.counted: list[tuple[str, str]] = []

    def endpoints(self, **settings: Any) -> Endpoints:
        chosen: dict[str, Any] = {
            "endpoints": tuple(f"arc={url}" for url in self.urls),
            "backoff_s": 0.001,
            "timeout_s": 5.5,
        } | settings
        return Endpoints(
            BroadcastSettings(**chosen),
            self.transport,
            count=lambda name, reply: self.counted.append((name, reply.kind)),
        )


@asynccontextmanager
async def world_of(count: int = 2) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        arcs = [Arc() for _ in range(count)]
        urls = [await stack.enter_async_context(served(arc)) for arc in arcs]
        clock = Clock()
        transport = await stack.enter_async_context(Transport(HttpSettings(), clock=clock))
        yield World(urls, arcs, transport, clock)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with world_of() as made:
        yield made


def told(outcomes: Sequence[Outcome]) -> list[str]:
    words = []
    for outcome in outcomes:
        match outcome.step:
            case Success():
                words.append("success")
            case Refused(verdict=verdict):
                words.append(f"refused {verdict.code}")
            case Waits(condition=condition):
                words.append(f"waits {condition.code}")
    return words


# --- what is sent, and where


async def test_a_family_is_sent_whole_to_everybody_ancestors_first(world: World) -> None:
    world.arcs[0].default = "SEEN_IN_ORPHAN_MEMPOOL"  # who decides nothing leaves time for the other
    endpoints = world.endpoints()
    (outcome,) = await endpoints.broadcast([request(3, 1, 2)])
    assert outcome.step == Success(tuple((txid_of(n), f"arc@{world.urls[1][7:]}") for n in (3, 1, 2)))
    await until(lambda: all(arc.calls for arc in world.arcs))
    assert [arc.calls for arc in world.arcs] == [[[3, 1, 2]], [[3, 1, 2]]]
    await endpoints.close()


@pytest.mark.setting("broadcast.wait_for")
@pytest.mark.setting("broadcast.max_wait_s")
async def test_what_goes_with_a_call(tmp_path: Path, world: World) -> None:
    key = tmp_path / "key"
    key.write_text("s3cret")
    endpoints = world.endpoints(endpoints=(f"arc={world.urls[0]};key-file={key}",), wait_for="STORED", max_wait_s=3)
    await endpoints.broadcast([request(1)])
    (headers,) = world.arcs[0].headers
    assert headers["Authorization"] == "Bearer s3cret"
    assert headers["Content-Type"] == "application/octet-stream"
    assert (headers["X-WaitFor"], headers["X-MaxTimeout"]) == ("STORED", "3")


@pytest.mark.setting("broadcast.batch")
async def test_strangers_share_calls_of_a_hundred() -> None:
    async with world_of(1) as world:
        endpoints = world.endpoints(batch=100)
        outcomes = await endpoints.broadcast([request(n) for n in range(1, 251)])
        assert told(outcomes) == ["success"] * 250
        assert sorted(map(len, world.arcs[0].calls)) == [50, 100, 100]


@pytest.mark.setting("broadcast.call_bytes")
async def test_calls_are_bounded_in_bytes() -> None:
    async with world_of(1) as world:
        outcomes = await world.endpoints(call_bytes=1024).broadcast([request(n) for n in range(1, 31)])
        assert told(outcomes) == ["success"] * 30
        assert sorted(map(len, world.arcs[0].calls)) == [5, 1024 // SIZE]


@pytest.mark.invariant("CAST-1")
async def test_a_family_longer_than_a_call_goes_in_turns() -> None:
    """Each call of the family begins after the reply to the one before; strangers go beside it."""
    async with world_of(1) as world:
        arc, under_way, beside = world.arcs[0], set[int](), list[set[int]]()

        async def handler(request: web.Request) -> web.StreamResponse:
            (first, *_) = numbers = numbers_of(await request.read())
            under_way.add(first)
            beside.append(set(under_way))
            await asyncio.sleep(0.01)
            under_way.discard(first)
            return arc.reply(numbers)

        arc.on_submit = handler
        endpoints = world.endpoints(batch=10)
        outcomes = await endpoints.broadcast([request(*range(1, 36)), *(request(n) for n in range(100, 110))])
        assert told(outcomes) == ["success"] * 11
        family = [call for call in arc.calls if call[0] < 100]
        assert family == [list(range(1, 11)), list(range(11, 21)), list(range(21, 31)), list(range(31, 36))]
        assert all(len({first for first in at_once if first < 100}) <= 1 for at_once in beside)
        assert {1, 100} in beside


@pytest.mark.invariant("CAST-1")
async def test_descendants_are_not_sent_after_a_call_that_found_no_answer() -> None:
    async with world_of(1) as world:
        arc = world.arcs[0]
        failing = itertools.chain([503, 503], itertools.repeat(0))
        arc.refuses = lambda numbers: next(failing) if 1 in numbers else 0
        outcomes = await world.endpoints(batch=2, attempts=3).broadcast([request(1, 2, 3, 4)])
        assert told(outcomes) == ["success"]
        assert arc.calls == [[1, 2], [1, 2], [1, 2], [3, 4]]


@pytest.mark.setting("broadcast.concurrency")
async def test_calls_in_flight_are_bounded() -> None:
    async with world_of(1) as world:
        arc, under_way, most = world.arcs[0], 0, 0

        async def handler(request: web.Request) -> web.StreamResponse:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            await asyncio.sleep(0.005)
            under_way -= 1
            return arc.reply(numbers_of(await request.read()))

        arc.on_submit = handler
        endpoints = world.endpoints(batch=1, concurrency=3)
        assert told(await endpoints.broadcast([request(n) for n in range(1, 21)])) == ["success"] * 20
        assert most == 3


# --- one acceptance suffices


async def html(request: web.Request) -> web.StreamResponse:
    return web.Response(text="<html>hello</html>")


async def error(request: web.Request) -> web.StreamResponse:
    return web.Response(status=500)


async def refused_key(request: web.Request) -> web.StreamResponse:
    return web.json_response({"status": 401, "title": "Unauthorized"}, status=401)


async def others(request: web.Request) -> web.StreamResponse:
    return web.json_response([{"txid": display(txid_of(999)), "status": 200, "txStatus": "MINED"}])


@pytest.mark.invariant("CAST-2")
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("misbehaviour", [reset, hang, html, error, refused_key, others])
async def test_one_acceptance_is_success_whatever_becomes_of_the_other(
    world: World, misbehaviour: Handler, first: bool
) -> None:
    world.arcs[not first].on_submit = misbehaviour
    endpoints = world.endpoints(timeout_s=60.0)
    async with asyncio.timeout(5):  # and is not delayed by it
        outcomes = await endpoints.broadcast([request(1, 2), request(3)])
    assert told(outcomes) == ["success", "success"]
    await endpoints.close()


async def test_a_reply_that_comes_late_is_still_counted(world: World) -> None:
    gate = asyncio.Event()

    async def late(request: web.Request) -> web.StreamResponse:
        await gate.wait()
        return world.arcs[0].reply(numbers_of(await request.read()))

    world.arcs[0].on_submit, world.arcs[0].default = late, "REJECTED"
    endpoints = world.endpoints()
    assert told(await endpoints.broadcast([request(1)])) == ["success"]
    gate.set()
    await until(lambda: (f"arc@{world.urls[0][7:]}", "refused") in world.counted)
    await endpoints.close()


# --- what two endpoints say

SAY: dict[tuple[str | int, str | int], str] = {
    ("RECEIVED", "REJECTED"): "success",
    ("STORED", 465): "success",
    ("MINED", "DOUBLE_SPEND_ATTEMPTED"): "success",
    (465, 461): "refused network.fee",
    (465, "REJECTED"): "refused network.rejected",
    (466, 466): "refused network.double-spend",
    (465, "SEEN_IN_ORPHAN_MEMPOOL"): "waits network.orphan",
    (460, 475): "waits network.orphan",
    (476, 465): "waits network.not-final",
    (469, 465): "waits network.undecided",
    (409, 409): "waits network.undecided",
    ("UNKNOWN", "QUEUED"): "waits network.undecided",
    ("DOUBLE_SPEND_ATTEMPTED", "DOUBLE_SPEND_ATTEMPTED"): "waits network.contested",
}


@pytest.mark.invariant("CAST-2")
@pytest.mark.parametrize(("words", "expected"), SAY.items())
async def test_what_two_endpoints_come_to(world: World, words: tuple[str | int, str | int], expected: str) -> None:
    for arc, word in zip(world.arcs, words, strict=True):
        arc.says = {1: word}
    endpoints = world.endpoints()
    outcomes = await endpoints.broadcast([request(1), request(2)])
    assert told(outcomes) == [expected, "success"]
    await endpoints.close()


async def test_an_outcome_holds_every_word_that_was_said(world: World) -> None:
    world.arcs[0].default, world.arcs[1].default = 465, 461
    (outcome,) = await world.endpoints().broadcast([request(1)])
    assert [(name, reply.code) for name, reply in outcome.replies[outcome.request.txid]] == [
        (f"arc@{world.urls[0][7:]}", "network.fee"),
        (f"arc@{world.urls[1][7:]}", "network.script"),
    ]


async def test_pending_and_broken_calls_are_tried_three_times_and_answers_are_not() -> None:
    async with world_of(1) as world:
        world.arcs[0].says = {1: "UNKNOWN", 2: "SEEN_IN_ORPHAN_MEMPOOL", 3: 465}
        outcomes = await world.endpoints(attempts=3).broadcast([request(1), request(2), request(3)])
        assert told(outcomes) == ["waits network.undecided", "waits network.orphan", "refused network.fee"]
        assert world.arcs[0].calls == [[1, 2, 3], [1], [1]]


@pytest.mark.setting("broadcast.attempts")
@pytest.mark.setting("broadcast.backoff_s")
async def test_a_broken_call_is_tried_again_after_a_while_that_is_drawn() -> None:
    draws = []

    def draw() -> float:
        draws.append(1)
        return 0.5

    async with world_of(1) as world:
        failing = itertools.chain([503, 503], itertools.repeat(0))
        world.arcs[0].refuses = lambda numbers: next(failing)
        settings = BroadcastSettings(endpoints=(f"arc={world.urls[0]}",), backoff_s=0.02, attempts=3)
        began = asyncio.get_running_loop().time()
        outcomes = await Endpoints(settings, world.transport, draw=draw).broadcast([request(1)])
        assert told(outcomes) == ["success"]
        assert len(draws) == 2
        assert asyncio.get_running_loop().time() - began >= 0.5 * 0.02 + 0.5 * 0.04


# --- a call refused as a whole


@pytest.mark.parametrize("status", [400, 409, 413, 463])
async def test_a_call_refused_as_a_whole_is_halved_until_each_has_its_own_answer(status: int) -> None:
    async with world_of(1) as world:
        arc = world.arcs[0]
        arc.refuses = lambda numbers: status if {13, 77} & set(numbers) else 0
        outcomes = await world.endpoints().broadcast([request(n) for n in range(1, 101)])
        words = told(outcomes)
        assert {n for n, word in enumerate(words, 1) if word == "success"} == set(range(1, 101)) - {13, 77}
        expected = {400: "refused network.malformed", 409: "waits network.undecided"}
        expected |= {413: "refused network.too-large", 463: "refused network.malformed"}
        assert {words[12], words[76]} == {expected[status]}
        assert len(arc.calls) < 2 * 2 * 8 + 2


@pytest.mark.invariant("CAST-1")
async def test_halves_of_a_family_keep_its_order() -> None:
    async with world_of(1) as world:
        arc = world.arcs[0]
        arc.refuses = lambda numbers: 400 if len(numbers) > 2 else 0
        assert told(await world.endpoints().broadcast([request(*range(1, 9))])) == ["success"]
        assert arc.calls == [[*range(1, 9)], [1, 2, 3, 4], [1, 2], [3, 4], [5, 6, 7, 8], [5, 6], [7, 8]]


async def test_a_member_that_a_reply_forgets_is_asked_about_again() -> None:
    async with world_of(1) as world:
        arc = world.arcs[0]

        async def forgetful(request: web.Request) -> web.StreamResponse:
            return arc.reply(numbers_of(await request.read())[:1])

        arc.on_submit = forgetful
        assert told(await world.endpoints().broadcast([request(n) for n in (1, 2, 3)])) == ["success"] * 3
        assert arc.calls == [[1, 2, 3], [2], [3]]


async def test_a_reply_about_other_transactions_accepts_nothing() -> None:
    async with world_of(1) as world:
        world.arcs[0].on_submit = others
        outcomes = await world.endpoints().broadcast([request(1), request(2)])
        assert told(outcomes) == ["waits network.undecided"] * 2  # it answers probes: not the world's condition


# --- the world's condition


def test_it_is_one_of_the_table() -> None:
    assert (BY_CODE[NoEndpoint.code].kind, BY_CODE[NoEndpoint.code].scope) == ("condition", "world")


@pytest.mark.parametrize("misbehaviour", [reset, error, html])
async def test_nobody_available_is_the_world_until_somebody_is(world: World, misbehaviour: Handler) -> None:
    for arc in world.arcs:
        arc.on_submit = arc.on_policy = misbehaviour
    endpoints = world.endpoints()
    for _ in range(3):
        with pytest.raises(NoEndpoint):
            await endpoints.broadcast([request(1)])
    assert not await endpoints.probe()
    tried = len(world.arcs[0].calls)
    assert tried <= 3  # the breaker has opened
    world.arcs[1].on_submit = world.arcs[1].on_policy = None
    assert await endpoints.probe()  # although its breaker was open
    assert told(await endpoints.broadcast([request(1)])) == ["success"]


async def test_nobody_listening_is_the_world(world: World) -> None:
    world.urls = [nobody(), nobody()]
    endpoints = world.endpoints()
    with pytest.raises(NoEndpoint):
        await endpoints.broadcast([request(1)])
    assert not await endpoints.probe()


@pytest.mark.invariant("CAST-2")
@pytest.mark.parametrize("status", [401, 402, 403, 404])
async def test_a_refused_key_pauses_the_endpoint_and_blames_nobody(world: World, status: int) -> None:
    for arc in world.arcs:
        arc.refuses = lambda numbers: status
    endpoints = world.endpoints()
    with pytest.raises(NoEndpoint):
        await endpoints.broadcast([request(1), request(2)])
    assert [arc.calls for arc in world.arcs] == [[[1, 2]], [[1, 2]]]
    assert not await endpoints.probe()  # a policy anybody may read does not end the pause
    assert [arc.probes for arc in world.arcs] == [0, 0]
    for arc in world.arcs:
        arc.refuses = lambda numbers: 0
    world.clock.pass_s(60)
    assert await endpoints.probe()
    assert told(await endpoints.broadcast([request(1), request(2)])) == ["success", "success"]
    await endpoints.close()


async def test_a_busy_endpoint_is_left_alone_for_as_long_as_it_asks() -> None:
    async with world_of(1) as world:

        async def busy(request: web.Request) -> web.StreamResponse:
            return web.Response(status=503, headers={"Retry-After": "20"})

        world.arcs[0].on_submit = busy
        endpoints = world.endpoints()
        with pytest.raises(NoEndpoint):
            await endpoints.broadcast([request(1)])
        world.arcs[0].on_submit = None
        world.clock.pass_s(19)
        with pytest.raises(NoEndpoint):
            await endpoints.broadcast([request(1)])
        assert (len(world.arcs[0].calls), world.arcs[0].probes) == (1, 0)
        world.clock.pass_s(2)
        assert told(await endpoints.broadcast([request(1)])) == ["success"]


@pytest.mark.parametrize("misbehaviour", [reset, error, html, others])
async def test_one_request_that_breaks_the_endpoint_spoils_no_other_and_stops_nothing(misbehaviour: Handler) -> None:
    """A call with the 7 in it never gets an answer, though the endpoint is well: it must not look like an outage."""
    async with world_of(1) as world:
        arc = world.arcs[0]

        async def handler(request: web.Request) -> web.StreamResponse:
            numbers = numbers_of(await request.read())
            return await misbehaviour(request) if 7 in numbers else arc.reply(numbers)

        arc.on_submit = handler
        outcomes = await world.endpoints().broadcast([request(n) for n in range(1, 21)])
        assert [n for n, word in enumerate(told(outcomes), 1) if word != "success"] == [7]
        assert told(outcomes)[6] == "waits network.undecided"


@pytest.mark.setting("broadcast.timeout_s")
async def test_a_request_that_makes_the_endpoint_hang_costs_time_and_no_other() -> None:
    async with world_of(1) as world:
        arc = world.arcs[0]

        async def handler(request: web.Request) -> web.StreamResponse:
            numbers = numbers_of(await request.read())
            return await hang(request) if 7 in numbers else arc.reply(numbers)

        arc.on_submit = handler
        endpoints = world.endpoints(timeout_s=0.2, wait_for="")
        outcomes = await endpoints.broadcast([request(6), request(7), request(8)])
        assert told(outcomes) == ["success", "waits network.undecided", "success"]


async def test_accepted_members_of_a_failed_broadcast_are_not_sent_again(world: World) -> None:
    """Two calls, of which one is answered, and then everybody falls silent."""
    world.urls = world.urls[:1]
    arc = world.arcs[0]
    arc.on_policy = error
    arc.refuses = lambda numbers: 503 if 9 in numbers else 0
    endpoints = world.endpoints(batch=2)
    with pytest.raises(NoEndpoint):
        await endpoints.broadcast([request(1, 2), request(8, 9)])
    arc.on_policy, arc.refuses = None, lambda numbers: 0
    arc.calls.clear()
    world.clock.pass_s(10)
    assert told(await endpoints.broadcast([request(1, 2), request(8, 9)])) == ["success"] * 2
    assert arc.sent == [8, 9]


# --- memory


async def test_what_was_accepted_is_not_sent_again() -> None:
    async with world_of(1) as world:
        endpoints = world.endpoints()
        (first,) = await endpoints.broadcast([request(1, 2)])
        again, child = await endpoints.broadcast([request(1, 2), request(1, 2, 3)])
        assert again.step == first.step  # reported all the same
        assert told([child]) == ["success"]
        assert world.arcs[0].calls == [[1, 2], [3]]


@pytest.mark.setting("broadcast.remembered")
async def test_memory_is_bounded() -> None:
    async with world_of(1) as world:
        endpoints = world.endpoints(remembered=2)
        for numbers in ((1,), (2,), (3,), (3,), (1,)):
            await endpoints.broadcast([request(*numbers)])
        assert world.arcs[0].sent == [1, 2, 3, 1]


async def test_an_orphan_s_ancestors_are_sent_again() -> None:
    """Who accepted them may have lost them."""
    async with world_of(1) as world:
        endpoints = world.endpoints()
        await endpoints.broadcast([request(1)])
        world.arcs[0].says = {2: "SEEN_IN_ORPHAN_MEMPOOL"}
        assert told(await endpoints.broadcast([request(1, 2)])) == ["waits network.orphan"]
        world.arcs[0].says = {}
        assert told(await endpoints.broadcast([request(1, 2)])) == ["success"]
        assert world.arcs[0].calls == [[1], [2], [1, 2]]


async def test_one_transaction_in_two_requests_is_sent_once() -> None:
    async with world_of(1) as world:
        assert told(await world.endpoints().broadcast([request(1, 2), request(1, 3), request(2)])) == ["success"] * 3
        assert sorted(world.arcs[0].sent) == [1, 2, 3]


# --- the rest


async def test_nothing_to_send(world: World) -> None:
    endpoints = world.endpoints()
    assert await endpoints.broadcast([]) == []
    proven = BroadcastRequest(txid_of(1), (), (), (), ORIGIN)
    assert told(await endpoints.broadcast([proven])) == ["success"]
    assert [arc.calls for arc in world.arcs] == [[], []]


async def test_a_fault_of_ours_is_raised(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str, reply: object) -> None:
        raise ZeroDivisionError

    endpoints = world.endpoints()
    monkeypatch.setattr(endpoints, "_count", broken)
    with pytest.raises(ZeroDivisionError):
        await endpoints.broadcast([request(1)])
    await endpoints.close()


async def test_cancelling_a_broadcast_leaves_no_task_behind(world: World) -> None:
    for arc in world.arcs:
        arc.on_submit = hang
    endpoints = world.endpoints()
    before = asyncio.all_tasks()
    task = asyncio.create_task(endpoints.broadcast([request(n) for n in range(1, 600)]))
    await until(lambda: all(arc.calls for arc in world.arcs))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await endpoints.close()
    await until(lambda: not any("Endpoints" in repr(t) for t in asyncio.all_tasks() - before))


@pytest.mark.setting("broadcast.endpoints")
@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"endpoints": ()}, "none is named"),
        ({"endpoints": ("mapi=http://127.0.0.1:1",)}, "none of arc"),
        ({"endpoints": ("arc=http://127.0.0.1:1",) * 2}, "stands twice"),
        ({"endpoints": ("arc=http://127.0.0.1:1",), "timeout_s": 5.0, "max_wait_s": 5}, "max_wait_s"),
    ],
)
def test_settings_that_cannot_be_meant(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Endpoints(BroadcastSettings(**settings), Transport(HttpSettings()))


@pytest.mark.setting("broadcast.down_limit_s")
@pytest.mark.parametrize(("limit_s", "counts"), [(0.05, 1), (60.0, 2)])
async def test_an_endpoint_that_is_silent_for_long_does_not_count(world: World, limit_s: float, counts: int) -> None:
    world.arcs[1].on_submit = reset
    endpoints = world.endpoints(down_limit_s=limit_s)
    (outcome,) = await endpoints.broadcast([request(1)])
    assert len(outcome.endpoints) == 2, "it has only just fallen silent"
    await asyncio.sleep(0.1)
    (outcome,) = await endpoints.broadcast([request(2)])
    assert len(outcome.endpoints) == counts

    async def too_low(_: web.Request) -> web.Response:
        return web.json_response([{"txid": display(txid_of(3)), "status": 465, "title": "Fee too low"}])

    world.arcs[0].on_submit = too_low
    (outcome,) = await endpoints.broadcast([request(3)])
    assert isinstance(outcome.step, Refused if counts == 1 else Waits), "what the other refuses is refused"
    world.arcs[1].on_submit = None
    await endpoints.close()


async def test_where_a_transaction_stands_is_said_by_those_that_know_it(world: World) -> None:
    """404 is no word; who gives no answer at all says nothing either; nobody's answer is told apart."""
    known = {"txid": display(txid_of(1)), "txStatus": "SEEN_ON_NETWORK", "status": 200}
    world.arcs[0].on_look_up = lambda _: web.json_response(known)
    world.arcs[1].on_look_up = lambda _: web.json_response({"status": 404, "title": "Not found"}, status=404)
    endpoints = world.endpoints()
    found = await endpoints.look_up(txid_of(1))
    assert found is not None
    words = found.words
    assert [(word.endpoint, word.kind, word.network) for word in words] == [
        (f"arc@{world.urls[0][7:]}", "accepted", True)
    ]
    assert await endpoints.look_up(txid_of(1), words[0].endpoint) is not None
    assert await endpoints.look_up(txid_of(1), f"arc@{world.urls[1][7:]}") == Found((), ())
    assert await endpoints.look_up(txid_of(1), "arc@gone") is not None
    world.arcs[0].on_look_up = lambda _: web.json_response({**known, "txStatus": "MINED", "merklePath": "0bad"})
    mined = await endpoints.look_up(txid_of(1))
    assert mined is not None
    assert mined.paths == (b"\x0b\xad",)
    world.arcs[1].on_look_up = lambda _: web.Response(status=503)
    half = await endpoints.look_up(txid_of(1))
    assert half is not None
    assert half.silent == (f"arc@{world.urls[1][7:]}",)
    for arc in world.arcs:
        arc.on_look_up = lambda _: web.Response(status=503)
    assert await endpoints.look_up(txid_of(1)) is None
    await endpoints.close()


@pytest.mark.setting("broadcast.callback_url")
@pytest.mark.setting("broadcast.callback_token_file")
async def test_endpoints_are_told_where_to_call_back_and_what_to_show(world: World, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("secret\n")
    endpoints = world.endpoints(callback_url="https://here/", callback_token_file=str(file))
    await endpoints.broadcast([request(1)])
    names = [f"arc%40{url[7:].replace(':', '%3A')}" for url in world.urls]
    for arc, name in zip(world.arcs, names, strict=True):
        for headers in arc.headers:
            assert headers["X-CallbackUrl"] == f"https://here/callback?endpoint={name}"
            assert (headers["X-CallbackToken"], headers["X-FullStatusUpdates"]) == ("secret", "true")
    await endpoints.close()
    for wrong in ({"callback_url": "https://here"}, {"callback_token_file": str(file)}):
        with pytest.raises(ValueError, match="go together"):
            world.endpoints(**wrong)
    file.write_text(" ")
    with pytest.raises(ValueError, match="is empty"):
        world.endpoints(callback_url="https://here", callback_token_file=str(file))


def test_what_is_reported_is_bounded_whatever_an_endpoint_says() -> None:
    """A record of news holds no payload: an endpoint must not be able to make one that no topic takes."""
    rivals = tuple(number.to_bytes(32, "big") for number in range(10_000))
    word = word_of("arc@a", Reply(txid_of(1), "refused", "network.fee", "x" * 1_000_000, "S" * 10_000, rivals), 5)
    assert word.competing == rivals[:MOST_RIVALS]
    assert (word.code, word.at_ms, word.message[:5]) == ("network.fee", 5, "xxxxx")
    assert len(NEWS.encode(Heard((word,)))) < 16_000
