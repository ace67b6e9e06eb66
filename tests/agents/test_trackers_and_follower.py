"""The quorum with the header follower in it: as one more voice, or as the authority; and what a lone liar can do."""

import itertools
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agents.runtime.headers import Follower, Reorganised
from agents.runtime.http import HttpSettings, Transport
from agents.runtime.trackers import AHEAD, Disagreement, NoQuorum, Trackers, TrackerSettings
from ops.instruments.chain import CHECKPOINT, BareChain, Chain
from ops.instruments.generate import KINDS, SHAPES, Generator
from pipeline.chain.answer import Answer, RootAt, Tip
from pipeline.outcome import Condition, Verdict
from pipeline.parse import parse
from pipeline.policy import Policy
from pipeline.script.engine import STEPS_PER_MS, run_jobs
from pipeline.verify import plan, verify
from tests.agents.header_world import Source, World, begins, headers_of, world_of
from tests.agents.test_headers import mined

Y, N, U = Answer.YES, Answer.NO, Answer.UNKNOWN

BARE = BareChain(60)
CHAIN = headers_of(BARE)
TIP = BARE.tip
DIALECTS = ("bhs", "chaintracks", "woc")


def at(height: int, chain: Sequence[bytes] = CHAIN) -> RootAt:
    return height, chain[height - CHECKPOINT][36:68]


OLD = at(TIP - 30)
YOUNG = at(TIP - 2)
WRONG = b"\x07" * 32


class Asking:
    """Three services, a follower of the first one's chain, and who asks them."""

    def __init__(self, world: World, follower: Follower, trackers: Trackers) -> None:
        self.world = world
        self.sources = world.sources
        self.follower = follower
        self.trackers = trackers
        self.chain: Sequence[bytes] = CHAIN
        self.told: list[Disagreement] = []
        self.reorganised: list[Reorganised] = []

    def says(self, letters: str) -> None:
        """Yes, no or nothing, for each service. Who says no tells another chain, of a piece and as long."""
        other = headers_of(BareChain(len(self.chain), seed=5))
        for source, letter in zip(self.sources, letters, strict=True):
            source.fault("down" if letter == "x" else "none")
            source.tell(other if letter == "N" else self.chain)

    async def word(self, root: RootAt) -> Answer | None:
        """None: no quorum."""
        try:
            return (await self.trackers.ask([root]))[root]
        except NoQuorum:
            return None


@asynccontextmanager
async def asking(folder: Path, mode: str, headers: Sequence[bytes] = CHAIN, **more: Any) -> AsyncIterator[Asking]:
    """begins_at: how many blocks above the services' first one the follower's checkpoint is."""
    async with world_of(folder, headers, *DIALECTS) as world:
        first = more.pop("begins_at", 0)
        block_hash = begins(headers[first:]).partition(":")[2]
        follower = world.follower(headers, checkpoint=f"{CHECKPOINT + first}:{block_hash}")
        await follower.open()
        await follower.look()
        chosen: dict[str, Any] = {"trackers": tuple(s.setting for s in world.sources), "timeout_s": 5.0} | more
        settings = TrackerSettings(follower=mode, tip_grace_s=2.0, backoff_s=0.0, **chosen)  # type: ignore[arg-type]
        trackers = Trackers(settings, world.transport, follower=follower, clock=world.clock)
        found = Asking(world, follower, trackers)
        trackers._tell = found.told.append
        trackers._tell_reorganised = found.reorganised.append
        yield found
        await trackers.close()
        await follower.close()


async def every_combination(folder: Path, mode: str, root: RootAt) -> dict[str, Answer | None]:
    """Each with breakers, cache and tips of its own; the follower has heard the chain before."""
    found = {}
    for letters in map("".join, itertools.product("YNx", repeat=3)):
        async with asking(folder, mode) as world:
            world.says(letters)
            found[letters] = await world.word(root)
    return found


MEMBER = {
    "YYY": Y, "YYN": Y, "YYx": Y, "YNY": Y, "YNN": U, "YNx": Y, "YxY": Y, "YxN": Y, "Yxx": Y,
    "NYY": Y, "NYN": U, "NYx": Y, "NNY": U, "NNN": N, "NNx": N, "NxY": Y, "NxN": N, "Nxx": U,
    "xYY": Y, "xYN": Y, "xYx": Y, "xNY": Y, "xNN": N, "xNx": U, "xxY": Y, "xxN": U, "xxx": None,
}  # fmt: skip
"""What three services and a follower that says yes come to: two equal words that no two contradict."""


@pytest.mark.invariant("QUORUM-1")
@pytest.mark.setting("trackers.follower")
@pytest.mark.parametrize("root", [OLD, YOUNG])
async def test_a_member_is_one_voice(root: RootAt, tmp_path: Path) -> None:
    assert await every_combination(tmp_path, "member", root) == MEMBER


async def test_a_member_counts_as_one_that_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One service and the follower are two: nobody has to be asked whether the world is there."""
    async with asking(tmp_path, "member") as world:
        monkeypatch.setattr(world.trackers, "probe", None)
        world.says("Nxx")
        assert await world.word(OLD) is U


@pytest.mark.setting("trackers.follower")
async def test_an_authority_decides_whatever_the_services_say(tmp_path: Path) -> None:
    found = await every_combination(tmp_path, "authority", OLD)
    assert found == dict.fromkeys(MEMBER, Y)
    async with asking(tmp_path, "authority") as world:
        world.says("YYY")
        asked = [source.asked for source in world.sources]  # by the follower
        assert await world.word((OLD[0], WRONG)) is N
        assert [source.asked for source in world.sources] == asked


@pytest.mark.setting("trackers.follower_depth")
async def test_an_authority_alone_decides_about_blocks_that_are_deep_enough(tmp_path: Path) -> None:
    """Above it is one of four voices, as a member is."""
    deep, shallow = at(TIP - 6), at(TIP - 5)
    assert (await every_combination(tmp_path, "authority", shallow)) == MEMBER | {"xxx": U}
    for depth, words in ((6, [Y, U]), (5, [Y, Y]), (7, [U, U]), (0, [Y, Y])):
        async with asking(tmp_path, "authority", follower_depth=depth) as world:
            world.says("NNY")
            assert [await world.word(root) for root in (deep, shallow)] == words


@pytest.mark.invariant("QUORUM-2")
@pytest.mark.parametrize("mode", ["member", "authority"])
async def test_what_the_follower_does_not_know_the_services_decide(mode: str, tmp_path: Path) -> None:
    """Below its checkpoint and above its tip; nobody's no there is the follower's."""
    async with asking(tmp_path, mode, begins_at=20) as world:
        below, wrong = at(CHECKPOINT + 5), (CHECKPOINT + 5, WRONG)
        assert [world.follower.answer(root) for root in (below, wrong)] == [U, U]
        assert [await world.word(root) for root in (below, wrong)] == [Y, N]
        world.chain = mined(CHAIN, 1)
        world.says("YYx")
        above = at(TIP + 1, world.chain)
        world.world.clock.pass_s(6)
        assert world.follower.answer(above) is U
        assert [await world.word(root) for root in (above, (TIP + 1, WRONG))] == [Y, N]
        assert world.told == []


@pytest.mark.parametrize("mode", ["member", "authority"])
async def test_a_follower_that_hears_nobody_falls_silent(mode: str, tmp_path: Path) -> None:
    """After trackers.tip_max_age_s; and speaks again once it is abreast."""
    async with asking(tmp_path, mode, tip_max_age_s=60) as world:
        world.says("Nxx")
        world.world.clock.pass_s(59)
        assert await world.word(OLD) is (Y if mode == "authority" else U)
        world.world.clock.pass_s(1)
        assert await world.word(OLD) is None
        world.says("YYY")
        world.world.clock.pass_s(10)
        await world.follower.look()
        world.says("xNx")
        world.world.clock.pass_s(10)
        assert await world.word(OLD) is (Y if mode == "authority" else U)


@pytest.mark.parametrize("ahead", [AHEAD, AHEAD + 1])
async def test_a_follower_far_behind_the_services_is_not_believed(ahead: int, tmp_path: Path) -> None:
    """Two services know blocks that its own source does not have."""
    async with asking(tmp_path, "authority") as world:
        longer = mined(CHAIN, ahead)
        world.chain = longer
        world.says("YYY")
        believed = ahead <= AHEAD
        assert await world.trackers.tip() == Tip(TIP, int.from_bytes(CHAIN[-6][68:72], "little"))
        await world.word(YOUNG)  # the services are asked for their tips then
        assert (await world.trackers.tip()).height == (TIP if believed else TIP + ahead)
        world.says("NNY")
        world.world.clock.pass_s(400)
        world.follower.heard_at = world.world.clock()
        for member in world.trackers._members:
            member.seen_at = world.world.clock()
        assert await world.word(OLD) is (Y if believed else N)


@pytest.mark.parametrize("mode", ["member", "authority"])
async def test_the_tip_with_a_follower(mode: str, tmp_path: Path) -> None:
    """The authority's alone; a member's as one that vouches for a height."""
    tip = Tip(TIP, int.from_bytes(CHAIN[-6][68:72], "little"))
    async with asking(tmp_path, mode) as world:
        world.sources[0].tell(mined(CHAIN, 50))
        world.says("Yxx")  # of the services one, and it boasts
        assert await world.trackers.tip() == tip
        asked = world.sources[0].asked
        assert await world.trackers.probe()
        assert (world.sources[0].asked == asked) is (mode == "authority")
        world.says("xxx")
        world.world.clock.pass_s(61)
        with pytest.raises(NoQuorum):
            await world.trackers.tip()
        assert not await world.trackers.probe()


async def test_an_authority_s_word_costs_microseconds(tmp_path: Path) -> None:
    async with asking(tmp_path, "authority") as world:
        await world.word(OLD)
        began = time.perf_counter()
        for _ in range(2000):
            await world.trackers.ask([OLD])
        assert (time.perf_counter() - began) / 2000 < 500e-6


@pytest.mark.parametrize("mode", ["member", "authority"])
async def test_a_reorganisation_the_follower_sees_drops_what_was_said_of_its_blocks(mode: str, tmp_path: Path) -> None:
    forked = [*CHAIN[:-6], *BARE.branch(6)]
    async with asking(tmp_path, mode) as world:
        world.follower._tell = lambda news: world.trackers.reorganised(news) if isinstance(news, Reorganised) else None
        kept, old, new = at(TIP - 6), at(TIP - 5), at(TIP - 5, forked)
        assert [await world.word(root) for root in (kept, old)] == [Y, Y]
        for source in world.sources:
            source.tell(forked)
        await world.follower.look()
        cached = mode == "member"  # the authority knows by itself
        assert world.reorganised == [Reorganised("follower", TIP - 5, forgotten=1)]
        before = [source.asked for source in world.sources]
        assert await world.word(kept) is Y
        assert cached or before == [source.asked for source in world.sources]
        assert [await world.word(root) for root in (old, new)] == [N, Y]


async def test_who_asks_three_services_that_are_off_hears_no_follower(tmp_path: Path) -> None:
    async with asking(tmp_path, "off") as world:
        world.says("YNx")
        assert await world.word(OLD) is U
        assert len(world.trackers.names) == 3
    async with asking(tmp_path, "member") as world:
        assert world.trackers.names[-1] == "follower"


# --- a lone liar


Outcome = tuple[str, str | None]


@pytest.fixture(scope="module")
def payloads(tmp_path_factory: pytest.TempPathFactory) -> tuple[Chain, list[bytes], list[Outcome]]:
    """Valid ones of several shapes and ones with faults of their anchors, and what each must come to."""
    chain = Chain.open(tmp_path_factory.mktemp("liar") / "chain")
    maker = Generator(chain, seed=7)
    made = [*itertools.chain.from_iterable(maker.valid(shape=shape) for shape in SHAPES)]
    made += [maker.invalid(kind) for kind in KINDS if (KINDS[kind].expect.code or "").startswith("anchor.")]
    return chain, [one.beef for one in made], [(one.expect.outcome, one.expect.code) for one in made]


async def outcomes(trackers: Trackers, beefs: Sequence[bytes]) -> list[Outcome]:
    """As the stage decides."""
    policy, tip = Policy(), await trackers.tip()
    found: list[Outcome] = []
    for beef in beefs:
        payload = parse(beef, policy)
        planned = payload if isinstance(payload, Verdict) else plan(payload, policy, tip)
        if isinstance(planned, Verdict) or isinstance(payload, Verdict):
            assert isinstance(planned, Verdict)
            found.append(("invalid", planned.code))
            continue
        answers = await trackers.ask(set(planned.roots))
        scripts = {each.key: each for each in run_jobs(planned.jobs, policy.script_budget_ms * STEPS_PER_MS)}
        said = verify(payload, answers, scripts, tip, policy)
        if isinstance(said, Condition):
            found.append(("indeterminate", said.code))
        else:
            found.append(("invalid", said.code) if isinstance(said, Verdict) else ("valid", None))
    return found


LIES: Mapping[str, Mapping[str, Any]] = {
    "another-root": {"mode": "lying", "lie": "root"},
    "whatever-is-asked": {"mode": "lying", "lie": "confirm"},
    "another-chain": {"mode": "none"},
    "a-branch": {"mode": "reorganisation", "depth": 6},
    "the-past": {"mode": "behind", "depth": 150},
}


@pytest.mark.invariant("ANCHOR-1")
@pytest.mark.parametrize("mode", ["off", "member"])
@pytest.mark.parametrize("liar", range(3))
@pytest.mark.parametrize("lie", LIES)
async def test_a_tracker_that_lies_alone_changes_no_outcome(
    lie: str, liar: int, mode: str, payloads: tuple[Chain, list[bytes], list[Outcome]], tmp_path: Path
) -> None:
    """Either way: no to what is so, yes to what is not; another branch, or an old one."""
    chain, beefs, expected = payloads
    if lie == "whatever-is-asked" and DIALECTS[liar] != "bhs":
        liar = 0  # the others are asked for roots and never told one: they cannot confirm
    async with asking(tmp_path, mode, chain.headers()) as world:
        source: Source = world.sources[liar]
        if lie == "another-chain":
            source.tell(headers_of(BareChain(len(chain.headers()) + 3, seed=5)))
        elif lie == "a-branch":  # it replaces six by as many: more work than the network's is not had by lying
            source.tell([*chain.headers()[:-6], *chain.branch(6)[:-1]])
        else:
            source.fault(**LIES[lie])
        await world.follower.look()
        assert {code for _, code in expected} > {None, "anchor.wrong-root"}
        assert await outcomes(world.trackers, beefs) == expected


@pytest.mark.invariant("QUORUM-2")
async def test_a_liar_with_more_work_than_the_network_makes_members_wait_and_no_more(
    payloads: tuple[Chain, list[bytes], list[Outcome]], tmp_path: Path
) -> None:
    """Blocks cost nothing here. The follower goes with it: two voices against two, which is unknown and never wrong."""
    chain, beefs, expected = payloads
    async with asking(tmp_path, "member", chain.headers()) as world:
        world.sources[1].tell([*chain.headers()[:-6], *chain.branch(6)])
        await world.follower.look()
        assert world.follower.file.tip == chain.tip + 1
        found = await outcomes(world.trackers, beefs)
        changed = {(before, after) for before, after in zip(expected, found, strict=True) if before != after}
        assert changed == {(("valid", None), ("indeterminate", "anchor.unknown"))}


async def test_two_liars_together_do(payloads: tuple[Chain, list[bytes], list[Outcome]], tmp_path: Path) -> None:
    """What the test above would see."""
    chain, beefs, expected = payloads
    async with asking(tmp_path, "off", chain.headers()) as world:
        for source in world.sources[:2]:
            source.tell(headers_of(BareChain(len(chain.headers()), seed=5)))
        found = await outcomes(world.trackers, beefs)
        assert (("valid", None), ("invalid", "anchor.wrong-root")) in set(zip(expected, found, strict=True))


# --- a connection that breaks


@pytest.mark.setting("trackers.attempts")
@pytest.mark.setting("trackers.backoff_s")
async def test_a_broken_connection_is_tried_again_and_a_silence_is_not(tmp_path: Path) -> None:
    """Three of four requests break, the first two among them: a GET that the client library sends anew by itself fails
    twice. A second try brings what one does not; what was drawn of the wait is slept."""
    for attempts, backoff, word, least_s in ((2, 0.0, Y, 0.0), (1, 0.0, None, 0.0), (2, 0.2, Y, 0.2)):
        async with world_of(tmp_path, CHAIN, *DIALECTS) as world:
            for source in world.sources:
                source.fault("lost-reply", ratio=0.75)
                source.service.faults.active()[0].owed = 0.5
            settings = TrackerSettings(
                trackers=tuple(source.setting for source in world.sources), attempts=attempts, backoff_s=backoff
            )
            trackers = Trackers(settings, world.transport, clock=world.clock, draw=lambda: 1.0)
            began = time.perf_counter()
            try:
                found: Answer | None = (await trackers.ask([OLD]))[OLD]
            except NoQuorum:
                found = None
            assert found is word
            assert time.perf_counter() - began >= least_s
            await trackers.close()
    async with world_of(tmp_path, CHAIN, *DIALECTS) as world:
        settings = TrackerSettings(trackers=tuple(s.setting for s in world.sources), timeout_s=0.2, attempts=5)
        trackers = Trackers(settings, world.transport, clock=world.clock)
        for source in world.sources:
            source.fault("hang")
        with pytest.raises(NoQuorum):
            await trackers.tip()
        assert [source.asked for source in world.sources] == [1, 1, 1]
        await trackers.close()


async def test_a_follower_shares_the_services_breakers(tmp_path: Path) -> None:
    """A service that is down is down for both."""
    async with world_of(tmp_path, CHAIN, "chaintracks") as world:
        transport = Transport(HttpSettings(breaker_faults=1), clock=world.clock)
        async with transport:
            world.transport = transport
            follower = world.follower(CHAIN)
            await follower.open()
            world.sources[0].fault("down")
            assert not await follower.look()
            asked = world.sources[0].asked
            assert not await follower.look()
            assert world.sources[0].asked == asked
            await follower.close()
