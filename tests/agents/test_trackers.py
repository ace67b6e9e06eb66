"""The quorum over real HTTP: three services, each in its own dialect, which lie, fall silent and come back."""

import asyncio
import hashlib
import itertools
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from agents.runtime.http import HttpSettings, Transport
from agents.runtime.trackers import AHEAD, Disagreement, NoQuorum, Trackers, TrackerSettings
from pipeline.chain.answer import Answer, RootAt, Tip
from pipeline.outcome import BY_CODE
from schemas.types import display
from tests.agents.serving import Clock, Handler, hang, reset, served, until

BASE = 900_000
DIALECTS = ("bhs", "chaintracks", "woc")
Y, N, U = Answer.YES, Answer.NO, Answer.UNKNOWN


def hash_of(header: bytes) -> bytes:
    return hashlib.sha256(hashlib.sha256(header).digest()).digest()


def mine(below: Sequence[bytes], count: int, branch: str = "main") -> list[bytes]:
    """`below` and `count` linked headers on top, ten minutes apart; branches differ in their roots."""
    chain = list(below)
    for _ in range(count):
        previous = hash_of(chain[-1]) if chain else bytes(32)
        root = hashlib.sha256(f"{branch} {len(chain)}".encode()).digest()
        time = 1_700_000_000 + 600 * len(chain)
        chain.append(bytes(4) + previous + root + time.to_bytes(4, "little") + bytes(8))
    return chain


CHAIN = mine([], 30)


class Service:
    """A header service. `says` is "truth", "no" (another root at every height), or a handler that misbehaves."""

    def __init__(self, dialect: str, chain: list[bytes]) -> None:
        self.dialect = dialect
        self.chain = chain
        self.says: str | Handler = "truth"
        self.only_roots = False  # misbehave on questions for roots alone
        self.roots_asked: list[tuple[int, str]] = []
        self.calls = 0

    @property
    def tip(self) -> int:
        return BASE + len(self.chain) - 1

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        self.calls += 1
        for_root = re.search(r"verify|/header/height/|/block/", request.path) is not None
        if callable(self.says) and (for_root or not self.only_roots):
            return await self.says(request)
        reply = await getattr(self, f"_{self.dialect}")(request)
        assert isinstance(reply, web.StreamResponse)
        return reply

    def _root(self, height: int) -> str:
        return "ab" * 32 if self.says == "no" else display(self.chain[height - BASE][36:68])

    async def _bhs(self, request: web.Request) -> web.Response:
        if request.path.endswith("/tip/longest"):
            return web.json_response({"height": self.tip, "header": self._bhs_header(self.chain[-1])})
        if request.path.endswith("/byHeight"):
            first, count = int(request.query["height"]) - BASE, int(request.query["count"])
            return web.json_response([self._bhs_header(header) for header in self.chain[first : first + count]])
        confirmations = []
        for item in await request.json():
            height, root = item["blockHeight"], item["merkleRoot"]
            self.roots_asked.append((height, root))
            state = "INVALID" if height > self.tip + 6 else "UNABLE_TO_VERIFY"
            if height <= self.tip:
                state = "CONFIRMED" if self._root(height) == root else "INVALID"
            confirmations.append({"blockHeight": height, "merkleRoot": root, "confirmation": state})
        return web.json_response({"confirmationState": "INVALID", "confirmations": confirmations})

    def _bhs_header(self, header: bytes) -> dict[str, Any]:
        time = int.from_bytes(header[68:72], "little")
        return {"hash": display(hash_of(header)), "prevBlockHash": display(header[4:36]), "creationTimestamp": time}

    async def _chaintracks(self, request: web.Request) -> web.Response:
        if request.path.endswith("/tip"):
            return self._header(self.tip, "merkleRoot")
        if request.path.endswith("/headers"):
            first, count = int(request.query["height"]) - BASE, int(request.query["count"])
            return web.Response(body=b"".join(self.chain[first : first + count]))
        return self._shown(request, "merkleRoot")

    async def _woc(self, request: web.Request) -> web.Response:
        if request.path.endswith("/chain/info"):
            times = sorted(int.from_bytes(header[68:72], "little") for header in self.chain[-11:])
            best = display(hash_of(self.chain[-1]))
            return web.json_response({"blocks": self.tip, "bestblockhash": best, "mediantime": times[5]})
        return self._shown(request, "merkleroot")

    def _shown(self, request: web.Request, spelling: str) -> web.Response:
        height = int(re.findall(r"\d{3,}", request.path)[0])
        self.roots_asked.append((height, ""))
        return self._header(height, spelling) if height <= self.tip else web.Response(status=404)

    def _header(self, height: int, spelling: str) -> web.Response:
        header = self.chain[height - BASE]
        return web.json_response({"height": height, "hash": display(hash_of(header)), spelling: self._root(height)})


def at(height: int, chain: Sequence[bytes] = CHAIN) -> RootAt:
    return height, chain[height - BASE][36:68]


TIP_HEIGHT = BASE + len(CHAIN) - 1
ROOT = at(TIP_HEIGHT - 3)
ABOVE: RootAt = (TIP_HEIGHT + 1, b"\x07" * 32)


class World:
    """Three services and whoever asks them."""

    def __init__(self, urls: Sequence[str], services: Sequence[Service], transport: Transport, clock: Clock) -> None:
        self.urls = urls
        self.services = services
        self.transport = transport
        self.clock = clock
        self.told: list[Disagreement] = []

    def trackers(self, **settings: Any) -> Trackers:
        entries = tuple(f"{s.dialect}={url}" for s, url in zip(self.services, self.urls, strict=True))
        chosen: dict[str, Any] = {"trackers": entries, "timeout_s": 5.0, "tip_grace_s": 2.0} | settings
        return Trackers(TrackerSettings(**chosen), self.transport, clock=self.clock, tell=self.told.append)

    def forget_calls(self) -> None:
        for service in self.services:
            service.calls = 0
            service.roots_asked.clear()


@asynccontextmanager
async def world_of(dialects: Sequence[str] = DIALECTS, connections: int = 16) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        services = [Service(dialect, CHAIN) for dialect in dialects]
        urls = [await stack.enter_async_context(served(service)) for service in services]
        clock = Clock()
        transport = await stack.enter_async_context(Transport(HttpSettings(connections=connections), clock=clock))
        yield World(urls, services, transport, clock)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with world_of() as made:
        yield made


OF_THREE = {
    "YYY": Y, "YYN": Y, "YYx": Y, "YNY": Y, "YNN": N, "YNx": U, "YxY": Y, "YxN": U, "Yxx": None,
    "NYY": Y, "NYN": N, "NYx": U, "NNY": N, "NNN": N, "NNx": N, "NxY": U, "NxN": N, "Nxx": None,
    "xYY": Y, "xYN": U, "xYx": None, "xNY": U, "xNN": N, "xNx": None, "xxY": None, "xxN": None, "xxx": None,
}  # fmt: skip
"""Yes, no, unreachable for each of the three, and what comes of it; None: the world's condition, no quorum."""


@pytest.mark.invariant("QUORUM-1")
@pytest.mark.invariant("QUORUM-2")
async def test_every_combination_of_yes_no_and_unreachable() -> None:
    assert set(OF_THREE) == {"".join(letters) for letters in itertools.product("YNx", repeat=3)}
    found: dict[str, Answer | None] = {}
    async with world_of() as world:
        for letters in OF_THREE:
            for service, letter in zip(world.services, letters, strict=True):
                service.says = reset if letter == "x" else {"Y": "truth", "N": "no"}[letter]
            async with Transport(HttpSettings()) as transport:  # breakers of its own
                world.transport = transport
                trackers = world.trackers()
                try:
                    found[letters] = (await trackers.ask([ROOT]))[ROOT]
                except NoQuorum:
                    found[letters] = None
                await trackers.close()
    assert found == OF_THREE


async def html(request: web.Request) -> web.StreamResponse:
    return web.Response(text="<html>a login page</html>")


async def error(request: web.Request) -> web.StreamResponse:
    return web.Response(status=500, text="{}")


async def forbidden(request: web.Request) -> web.StreamResponse:
    return web.json_response({}, status=403)


async def unrelated(request: web.Request) -> web.StreamResponse:
    return web.json_response({"height": 5, "hash": "00" * 32, "merkleroot": "00" * 32, "confirmations": [{}]})


@pytest.mark.setting("trackers.timeout_s")
@pytest.mark.parametrize("misbehaviour", [reset, hang, html, error, forbidden, unrelated])
async def test_one_that_fails_is_outvoted_and_two_are_the_world(world: World, misbehaviour: Handler) -> None:
    trackers = world.trackers(timeout_s=0.5 if misbehaviour is hang else 5.0, tip_grace_s=0.05)
    for service in world.services:
        service.says = misbehaviour
        assert await trackers.ask([ROOT]) == {ROOT: Y}
        service.says = "truth"
        world.clock.pass_s(400)  # what was cached, and any breaker, is past
        assert await trackers.probe()
    world.services[0].says = world.services[2].says = misbehaviour
    world.clock.pass_s(400)
    with pytest.raises(NoQuorum):
        await trackers.ask([ROOT])
    assert not await trackers.probe()
    world.services[0].says = "truth"
    assert await trackers.probe()  # although its breaker may be open
    assert await trackers.ask([ROOT]) == {ROOT: Y}
    await trackers.close()


def test_the_world_s_condition_is_one_of_the_table() -> None:
    assert (BY_CODE[NoQuorum.code].kind, BY_CODE[NoQuorum.code].scope) == ("condition", "world")


@pytest.mark.setting("trackers.tip_grace_s")
async def test_a_silent_tracker_delays_nothing_the_others_agree_on(world: World) -> None:
    trackers = world.trackers(timeout_s=60.0, tip_grace_s=0.0)
    for service in world.services:
        service.says = hang
        async with asyncio.timeout(5):
            assert await trackers.ask([ROOT, at(BASE)]) == {ROOT: Y, at(BASE): Y}
        service.says = "truth"
        world.clock.pass_s(90_000)
    await trackers.close()


async def test_a_disagreement_is_told_also_when_it_comes_late(world: World) -> None:
    release = asyncio.Event()
    liar = world.services[1]

    async def late(request: web.Request) -> web.StreamResponse:
        await release.wait()
        liar.says = "no"
        return await liar(request)

    trackers = world.trackers()
    liar.says, liar.only_roots = late, True
    assert await trackers.ask([ROOT]) == {ROOT: Y}
    assert world.told == []
    release.set()
    await until(lambda: len(world.told) == 1)
    assert world.told[0].at == ROOT
    assert sorted(world.told[0].said.values(), key=str) == [N, Y, Y]
    await trackers.close()


# --- each root once


async def test_a_root_is_asked_for_once_however_many_ask_at_a_time(world: World) -> None:
    gate = asyncio.Event()
    waiting = 0

    def gated(service: Service) -> Handler:
        async def handler(request: web.Request) -> web.StreamResponse:
            nonlocal waiting
            waiting += 1
            await gate.wait()
            service.says = "truth"
            return await service(request)

        return handler

    trackers = world.trackers()
    await trackers.tip()
    world.forget_calls()
    for service in world.services:
        service.says = gated(service)
    heights = range(BASE + 10, BASE + 20)
    asking = [asyncio.create_task(trackers.ask([at(h), at(h + 1), at(h)])) for h in heights for _ in range(5)]
    await until(lambda: waiting >= 3)
    for _ in range(3):
        await asyncio.sleep(0)  # every ask has begun: none of them waits for anything but its roots
    gate.set()
    for answers in await asyncio.gather(*asking):
        assert set(answers.values()) == {Y}
    for service in world.services:
        assert len(service.roots_asked) == len(set(service.roots_asked)) == len(heights) + 1
    await trackers.close()


async def test_who_asked_first_may_go_while_another_waits(world: World) -> None:
    gate, arrived = asyncio.Event(), asyncio.Event()

    async def gated(request: web.Request) -> web.StreamResponse:
        arrived.set()
        await gate.wait()
        return await error(request)

    trackers = world.trackers()
    await trackers.tip()
    for service in world.services[1:]:
        service.says = gated
    first = asyncio.create_task(trackers.ask([ROOT]))
    await arrived.wait()
    second = asyncio.create_task(trackers.ask([ROOT]))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    for service in world.services:
        service.says = "truth"
    gate.set()
    assert await second == {ROOT: U}  # one yes and two errors, and a quorum that answers again
    assert await trackers.ask([ROOT]) == {ROOT: Y}
    await trackers.close()


@pytest.mark.setting("trackers.concurrency")
async def test_many_heights_wait_their_turn_without_being_a_fault() -> None:
    """60 requests at two a time take 1.2 s, which is longer than a request may."""
    async with world_of(["chaintracks", "chaintracks", "woc"], connections=2) as world:
        chain = mine([], 100)
        for service in world.services:
            service.chain = chain
            service.says = slowly(service)
        trackers = world.trackers(concurrency=2, timeout_s=1.0)
        roots = [at(height, chain) for height in range(BASE, BASE + 60)]
        assert await trackers.ask(roots) == dict.fromkeys(roots, Y)
        await trackers.close()


def slowly(service: Service) -> Handler:
    truth = Service(service.dialect, service.chain)

    async def handler(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.04)
        return await truth(request)

    return handler


# --- the cache


@pytest.mark.setting("trackers.root_ttl_s")
async def test_an_answer_is_kept_for_its_time(world: World) -> None:
    trackers = world.trackers(root_ttl_s=300)
    wrong: RootAt = (ROOT[0], b"\x01" * 32)
    assert await trackers.ask([ROOT, wrong]) == {ROOT: Y, wrong: N}
    world.forget_calls()
    world.clock.pass_s(299)
    assert await trackers.ask([ROOT, wrong]) == {ROOT: Y, wrong: N}
    assert [service.roots_asked for service in world.services] == [[], [], []]
    world.clock.pass_s(2)
    assert await trackers.ask([ROOT]) == {ROOT: Y}
    assert all(service.roots_asked for service in world.services)
    await trackers.close()


@pytest.mark.setting("trackers.buried_ttl_s")
async def test_an_answer_about_a_buried_block_is_kept_longer(world: World) -> None:
    chain = mine([], 120)
    for service in world.services:
        service.chain = chain
    trackers = world.trackers(root_ttl_s=300, buried_ttl_s=3_600)
    buried, young = at(BASE + 19, chain), at(BASE + 20, chain)  # 100 and 99 blocks above
    assert await trackers.ask([buried, young]) == {buried: Y, young: Y}
    for passed, asked in ((400, {young[0]}), (3_300, {buried[0], young[0]})):
        world.forget_calls()
        world.clock.pass_s(passed)
        assert await trackers.ask([buried, young]) == {buried: Y, young: Y}
        assert {height for height, _ in world.services[0].roots_asked} == asked
    await trackers.close()


@pytest.mark.setting("trackers.cache_roots")
async def test_no_more_answers_are_kept_than_there_is_room_for(world: World) -> None:
    trackers = world.trackers(cache_roots=2)
    for height in (BASE, BASE + 1, BASE + 2):
        assert await trackers.ask([at(height)]) == {at(height): Y}
    world.forget_calls()
    for height in (BASE + 2, BASE + 1, BASE):
        assert await trackers.ask([at(height)]) == {at(height): Y}
    assert [height for height, _ in world.services[0].roots_asked] == [BASE]
    await trackers.close()


@pytest.mark.invariant("QUORUM-2")
async def test_unknown_is_asked_again_at_once(world: World) -> None:
    trackers = world.trackers()
    assert await trackers.ask([ABOVE]) == {ABOVE: U}
    chain = mine(CHAIN, 1)
    for service in world.services:
        service.chain = chain
    assert await trackers.ask([at(ABOVE[0], chain)]) == {at(ABOVE[0], chain): Y}
    await trackers.close()


async def test_a_no_falls_with_the_tip(world: World) -> None:
    trackers = world.trackers()
    wrong: RootAt = (ROOT[0], b"\x01" * 32)
    assert await trackers.ask([ROOT, wrong]) == {ROOT: Y, wrong: N}
    for service in world.services:
        service.chain = mine(CHAIN, 1)
    world.clock.pass_s(6)
    world.forget_calls()
    assert await trackers.ask([ROOT, wrong]) == {ROOT: Y, wrong: N}
    assert {root for _, root in world.services[0].roots_asked} == {display(wrong[1])}
    await trackers.close()


async def test_a_reorganisation_drops_what_was_said_of_its_blocks(world: World) -> None:
    trackers = world.trackers()
    old, kept = at(TIP_HEIGHT - 1), at(TIP_HEIGHT - 2)
    assert await trackers.ask([old, kept]) == {old: Y, kept: Y}
    branch = mine(CHAIN[:-2], 3, "branch")
    for service in world.services:
        service.chain = branch
    world.clock.pass_s(6)
    world.forget_calls()
    new = at(TIP_HEIGHT - 1, branch)
    assert await trackers.ask([old, new, kept]) == {old: N, new: Y, kept: Y}
    assert {height for height, _ in world.services[0].roots_asked} == {TIP_HEIGHT - 1}
    await trackers.close()


async def test_an_answer_from_before_a_reorganisation_is_not_kept_after_it(world: World) -> None:
    """The trackers look at their tips while a question is under way, and find other blocks."""
    gate, arrived = asyncio.Event(), 0

    def slow(service: Service) -> Handler:
        truth = Service(service.dialect, service.chain)

        async def handler(request: web.Request) -> web.StreamResponse:
            nonlocal arrived
            arrived += 1
            reply = await truth(request)
            await gate.wait()
            return reply

        return handler

    trackers = world.trackers()
    await trackers.tip()
    for service in world.services:
        service.says, service.only_roots = slow(service), True
    old = at(TIP_HEIGHT - 1)
    asking = asyncio.create_task(trackers.ask([old]))
    await until(lambda: arrived == 3)
    branch = mine(CHAIN[:-2], 3, "branch")
    for service in world.services:
        service.chain = branch
    world.clock.pass_s(6)
    assert (await trackers.tip()).height == TIP_HEIGHT + 1
    gate.set()
    assert await asking == {old: Y}
    for service in world.services:
        service.says = "truth"
    assert await trackers.ask([old]) == {old: N}
    await trackers.close()


# --- what cannot be known


async def test_far_above_the_tip_nobody_is_asked(world: World) -> None:
    """A height that no block has ever had must not become a request that makes services fail."""
    trackers = world.trackers()
    await trackers.tip()
    world.forget_calls()
    far = [(TIP_HEIGHT + AHEAD + 1, ROOT[1]), (2**32, ROOT[1]), (2**63, ROOT[1])]
    assert await trackers.ask([*far, ROOT]) == {**dict.fromkeys(far, U), ROOT: Y}
    assert {height for service in world.services for height, _ in service.roots_asked} == {ROOT[0]}
    await trackers.close()


async def test_a_service_that_is_behind_has_not_said_no(world: World) -> None:
    """Block Headers Service says INVALID of heights far above its own tip; of three, two are behind."""
    for service in world.services[:2]:
        service.chain = CHAIN[:-15]
    trackers = world.trackers(needed=1)
    newest = at(TIP_HEIGHT)
    assert await trackers.tip() == Tip(TIP_HEIGHT, 1_700_000_000 + 600 * (len(CHAIN) - 6))
    assert await trackers.ask([newest]) == {newest: Y}
    assert world.told == []
    await trackers.close()


async def test_trackers_that_answer_but_not_this_are_no_condition_of_the_world(world: World) -> None:
    for service in world.services[:2]:
        service.says, service.only_roots = error, True
    trackers = world.trackers()
    assert await trackers.ask([ROOT]) == {ROOT: U}
    await trackers.close()


async def test_asking_nothing_asks_nobody(world: World) -> None:
    assert await world.trackers().ask([]) == {}
    assert [service.calls for service in world.services] == [0, 0, 0]


# --- the tip


@pytest.mark.parametrize("liar", range(3))
async def test_no_single_tracker_moves_the_tip_up(world: World, liar: int) -> None:
    world.services[liar].chain = mine(CHAIN, 50)
    trackers = world.trackers()
    assert await trackers.tip() == Tip(TIP_HEIGHT, 1_700_000_000 + 600 * (len(CHAIN) - 6))
    await trackers.close()


@pytest.mark.setting("trackers.tip_ttl_s")
async def test_the_tip_is_looked_at_again_after_a_while(world: World) -> None:
    trackers = world.trackers(tip_ttl_s=5)
    before = await trackers.tip()
    for service in world.services:
        service.chain = mine(CHAIN, 1)
    world.forget_calls()
    world.clock.pass_s(4.9)
    assert await trackers.tip() == before
    assert sum(service.calls for service in world.services) == 0
    world.clock.pass_s(0.2)
    looks = await asyncio.gather(*(trackers.tip() for _ in range(10)))
    assert sum(service.calls for service in world.services) == 5  # two, two and one request: one look for all
    assert before.height + 1 in {tip.height for tip in looks}
    assert (await trackers.tip()).height == before.height + 1
    await trackers.close()


@pytest.mark.setting("trackers.tip_max_age_s")
async def test_an_old_tip_serves_for_a_while_when_nobody_answers(world: World) -> None:
    trackers = world.trackers(tip_ttl_s=5, tip_max_age_s=60)
    tip = await trackers.tip()
    assert await trackers.ask([ROOT]) == {ROOT: Y}
    for service in world.services:
        service.says = reset
    world.clock.pass_s(59)
    assert await trackers.tip() == tip
    assert await trackers.ask([ROOT]) == {ROOT: Y}  # from the cache
    with pytest.raises(NoQuorum):
        await trackers.ask([at(BASE)])
    world.clock.pass_s(2)
    with pytest.raises(NoQuorum):
        await trackers.tip()
    await trackers.close()


# --- settings


@pytest.mark.setting("trackers.trackers")
@pytest.mark.setting("trackers.needed")
@pytest.mark.parametrize(
    ("entries", "needed", "says"),
    [
        ((), 2, "0 named"),
        (("bhs=http://127.0.0.1:1",), 2, "1 named"),
        (("bhs=http://127.0.0.1:1", "woc=http://127.0.0.1:1/v1"), 2, "a host stands twice"),
        (("arc=http://127.0.0.1:1", "woc=http://127.0.0.1:2"), 2, "none of bhs"),
    ],
)
async def test_settings_that_make_no_quorum(entries: tuple[str, ...], needed: int, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Trackers(TrackerSettings(trackers=entries, needed=needed), Transport(HttpSettings()))


async def test_a_key_goes_to_its_tracker_in_its_dialect_s_form(tmp_path: Path, world: World) -> None:
    key = tmp_path / "key"
    key.write_text("s3cret")
    seen: dict[str, set[str]] = {}

    def noting(service: Service) -> Handler:
        truth = Service(service.dialect, service.chain)

        async def handler(request: web.Request) -> web.StreamResponse:
            seen.setdefault(service.dialect, set()).add(request.headers.get("Authorization", ""))
            return await truth(request)

        return handler

    for service in world.services:
        service.says = noting(service)
    bhs, chaintracks, woc = world.urls
    entries = (f"bhs={bhs};token-file={key}", f"chaintracks={chaintracks}", f"woc={woc};token-file={key}")
    trackers = world.trackers(trackers=entries)
    assert await trackers.ask([ROOT]) == {ROOT: Y}
    assert seen == {"bhs": {"Bearer s3cret"}, "chaintracks": {""}, "woc": {"s3cret"}}
    await trackers.close()


async def test_closing_leaves_nobody_waiting(world: World) -> None:
    trackers = world.trackers(timeout_s=60.0)
    for service in world.services:
        service.says = hang
    looking = asyncio.create_task(trackers.ask([ROOT]))
    await until(lambda: all(service.calls for service in world.services))
    await trackers.close()
    with pytest.raises(NoQuorum):
        await looking
    for service in world.services:
        service.only_roots = True
    asking = asyncio.create_task(trackers.ask([ROOT]))
    await until(lambda: all(service.calls >= 3 for service in world.services))
    await trackers.close()
    with pytest.raises(NoQuorum):
        await asking
