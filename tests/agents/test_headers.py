"""The header follower over real HTTP: what it takes of honest services, and what of others."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from agents.runtime.headers import Follower, Grown, HeaderSettings, PutAside, Reorganised
from agents.runtime.http import HttpSettings, Transport
from ops.instruments.chain import BITS, CHECKPOINT, BareChain
from ops.instruments.wire import hash256
from ops.simulate.client import spawn
from pipeline.chain.answer import Answer, Seen
from pipeline.chain.headers import header_hash, target_of
from tests.agents.header_world import World, begins, headers_of, world_of
from tests.agents.serving import until

Y, N, U = Answer.YES, Answer.NO, Answer.UNKNOWN

BARE = BareChain(60)
CHAIN = headers_of(BARE)
TIP = BARE.tip
DIALECTS = ("bhs", "chaintracks", "chaintracks-v1", "woc")

HARD = 0x200FFFFF
"""Eight times the work of regtest's easiest block."""


def mined(below: Sequence[bytes], count: int, bits: int = BITS, branch: str = "other", step_s: int = 60) -> list[bytes]:
    """`below` and `count` headers on top with the work their bits ask for."""
    chain = list(below)
    for _ in range(count):
        when = int.from_bytes(chain[-1][68:72], "little") + step_s
        root = hash256(f"{branch} {len(chain)}".encode())
        head = (1).to_bytes(4, "little") + header_hash(chain[-1]) + root + when.to_bytes(4, "little")
        head, nonce = head + bits.to_bytes(4, "little"), 0
        while int.from_bytes(header_hash(made := head + nonce.to_bytes(4, "little")), "little") > target_of(bits):
            nonce += 1
        chain.append(made)
    return chain


def chain_of(follower: Follower) -> list[bytes]:
    """All headers it has."""
    return [follower.file.header(height) for height in range(CHECKPOINT, follower.file.tip + 1)]


def root(headers: Sequence[bytes], height: int) -> tuple[int, bytes]:
    return height, headers[height - CHECKPOINT][36:68]


def seen_of(headers: Sequence[bytes]) -> Seen:
    """What the end of a chain looks like; times here only rise."""
    tip = CHECKPOINT + len(headers) - 1
    hashes = tuple((tip - 10 + place, header_hash(header)) for place, header in enumerate(headers[-11:]))
    return Seen(tip, int.from_bytes(headers[-6][68:72], "little"), hashes)


def put_aside(world: World) -> list[tuple[str, str]]:
    return [(news.source.split("@")[0], news.found.why) for news in world.news if isinstance(news, PutAside)]


# --- an honest chain


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_every_dialect_is_followed_to_its_tip_and_on(dialect: str, tmp_path: Path) -> None:
    async with world_of(tmp_path, CHAIN, dialect) as world:
        follower = world.follower(CHAIN)
        await follower.open()
        assert follower.answer(root(CHAIN, TIP)) is U
        for length in (len(CHAIN), len(CHAIN), len(CHAIN) + 3):
            longer = mined(CHAIN, length - len(CHAIN))
            world.sources[0].tell(longer)
            assert await follower.look()
            assert chain_of(follower) == longer
            assert follower.seen == seen_of(longer)
        assert not any(isinstance(news, Reorganised | PutAside) for news in world.news)
        await follower.close()


async def test_answers_are_yes_or_no_where_there_is_a_header(tmp_path: Path) -> None:
    async with world_of(tmp_path, CHAIN, "chaintracks") as world:
        follower = world.follower(CHAIN)
        await follower.open()
        await follower.look()
        for height in (CHECKPOINT, CHECKPOINT + 1, TIP):
            assert follower.answer(root(CHAIN, height)) is Y
            assert follower.answer((height, b"\x07" * 32)) is N
        for height in (0, CHECKPOINT - 1, TIP + 1, 2**63, -1):
            assert follower.answer((height, CHAIN[0][36:68])) is U
        await follower.close()
        assert follower.answer(root(CHAIN, TIP)) is U


async def test_there_is_no_median_time_before_eleven_headers(tmp_path: Path) -> None:
    async with world_of(tmp_path, CHAIN[:10], "chaintracks") as world:
        follower = world.follower(CHAIN)
        await follower.open()
        await follower.look()
        assert (follower.file.tip, follower.seen) == (CHECKPOINT + 9, None)
        world.sources[0].tell(CHAIN[:11])
        await follower.look()
        assert follower.seen == seen_of(CHAIN[:11])
        await follower.close()


@pytest.mark.setting("headers.batch")
@pytest.mark.setting("headers.concurrency")
async def test_long_stretches_come_in_batches(tmp_path: Path) -> None:
    """The empty file takes the checkpoint's header first. Besides, each round asks for the tip."""
    for dialect, more, requests in (
        ("chaintracks", {"batch": 2000}, 1 + 1 + 1),
        ("chaintracks", {"batch": 10}, 1 + 1 + 6),
        ("woc", {"concurrency": 4}, 1 + 4 + 60 - 1),
    ):
        async with world_of(tmp_path / str(more), CHAIN, dialect) as world:
            follower = world.follower(CHAIN, **more)
            await follower.open()
            await follower.look()
            assert chain_of(follower) == CHAIN
            assert world.sources[0].asked == requests
            await follower.close()


@pytest.mark.parametrize("most", [1, 7])
async def test_a_service_that_tells_fewer_headers_than_it_is_asked_for(most: int, tmp_path: Path) -> None:
    """Services bound their replies as they like."""
    async with world_of(tmp_path, CHAIN, "chaintracks") as world:
        view = world.sources[0].service.view
        whole = view.raws
        view.raws = lambda height, count: whole(height, min(count, most))  # type: ignore[method-assign]
        follower = world.follower(CHAIN)
        await follower.open()
        for chain in (CHAIN, [*CHAIN[:-6], *BARE.branch(6)]):
            world.sources[0].tell(chain)
            assert await follower.look()
            assert chain_of(follower) == chain
        await follower.close()


async def test_what_stands_behind_a_gap_does_not_count(tmp_path: Path) -> None:
    """Of headers asked for one by one, one is not there: what comes behind it would stand at another height."""
    async with world_of(tmp_path, CHAIN, "woc") as world:
        view = world.sources[0].service.view
        whole = view.header
        view.header = lambda height: None if height == CHECKPOINT + 2 else whole(height)  # type: ignore[method-assign]
        follower = world.follower(CHAIN)
        await follower.open()
        assert not await follower.look()
        assert chain_of(follower) == CHAIN[:2]
        assert put_aside(world) == []
        await follower.close()


async def test_a_disk_that_fails_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on when there is room again; whatever else ends the following is told."""
    async with world_of(tmp_path, CHAIN, "chaintracks") as world:
        follower = world.follower(CHAIN, poll_s=0.01)
        failures = 0

        def full(*_: object) -> int:
            nonlocal failures
            failures += 1
            raise OSError(28, "no space left on device")

        await follower.open()
        await follower.close()
        await follower.start()
        monkeypatch.setattr("agents.runtime.header_file.os.pwrite", full)
        await until(lambda: failures > 1)
        monkeypatch.undo()
        await until(lambda: follower.file.tip == TIP)
        assert chain_of(follower) == CHAIN
        await follower.close()


async def test_a_restart_fetches_the_newest_header_alone(tmp_path: Path) -> None:
    async with world_of(tmp_path, CHAIN, "woc") as world:
        for asked in (1 + 4 + 59, 1 + 1):
            follower = world.follower(CHAIN)
            await follower.open()
            before = world.sources[0].asked
            await follower.look()
            assert world.sources[0].asked - before == asked
            assert chain_of(follower) == CHAIN
            await follower.close()


async def test_two_on_one_folder_follow_each_for_itself(tmp_path: Path) -> None:
    async with world_of(tmp_path, CHAIN, "chaintracks") as world:
        followers = [world.follower(CHAIN), world.follower(CHAIN)]
        for follower in followers:
            await follower.open()
            await follower.look()
        assert [chain_of(follower) for follower in followers] == [CHAIN, CHAIN]
        for follower in followers:
            await follower.close()


@pytest.mark.setting("headers.sources")
@pytest.mark.setting("headers.poll_s")
async def test_started_it_follows_by_itself(tmp_path: Path) -> None:
    """Its own sources where they are set, the trackers else."""
    async with world_of(tmp_path, CHAIN, "chaintracks", "bhs") as world:
        follower = world.follower(CHAIN, poll_s=0.02, sources=(world.sources[1].setting,))
        assert [name.split("@")[0] for name in follower.sources] == ["bhs"]
        await follower.start()
        await until(lambda: follower.seen is not None)
        longer = mined(CHAIN, 2)
        world.sources[1].tell(longer)
        await until(lambda: follower.file.tip == TIP + 2)
        assert world.sources[0].asked == 0
        await follower.close()


async def test_a_hundred_thousand_headers_in_less_than_five_seconds(tmp_path: Path) -> None:
    """From a service of its own process, all checked and kept; and an answer costs microseconds."""
    blocks = 100_000
    chain = BareChain(blocks)
    with spawn("headers", "--dialect", "chaintracks", f"--bare={blocks}") as service:
        async with Transport(HttpSettings()) as transport:
            settings = HeaderSettings(checkpoint=chain.begins, easiest_bits="207fffff")
            follower = Follower(settings, (f"chaintracks={service.url}",), transport, tmp_path)
            await follower.open()
            began = time.perf_counter()
            assert await follower.look()
            assert time.perf_counter() - began < 5
            assert follower.file.tip == chain.tip
            assert follower.file.headers(CHECKPOINT, chain.tip) == b"".join(headers_of(chain))
            at = (CHECKPOINT + 77_777, chain.header(CHECKPOINT + 77_777)[36:68])
            began = time.perf_counter()
            assert {follower.answer(at) for _ in range(10_000)} == {Y}
            assert (time.perf_counter() - began) / 10_000 < 100e-6
            await follower.close()


# --- branches


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("batch", [2000, 3])
async def test_a_reorganisation_of_six_blocks_is_followed(dialect: str, batch: int, tmp_path: Path) -> None:
    """Also when a branch comes in pieces; the lowest replaced block is told."""
    forked = [*CHAIN[:-6], *BARE.branch(6)]
    async with world_of(tmp_path, CHAIN, dialect) as world:
        follower = world.follower(CHAIN, batch=batch)
        await follower.open()
        await follower.look()
        world.sources[0].tell(forked)
        assert await follower.look()
        assert chain_of(follower) == forked
        assert follower.seen == seen_of(forked)
        assert [news for news in world.news if isinstance(news, Reorganised)] == [Reorganised("follower", TIP - 5)]
        assert (follower.answer(root(CHAIN, TIP)), follower.answer(root(forked, TIP))) == (N, Y)
        await follower.close()
        follower = world.follower(CHAIN)
        await follower.open()
        assert chain_of(follower) == forked[:-1]
        await follower.close()


async def test_a_branch_right_above_the_checkpoint_is_followed(tmp_path: Path) -> None:
    forked = mined(CHAIN[:1], 60)
    async with world_of(tmp_path, CHAIN, "chaintracks") as world:
        follower = world.follower(CHAIN)
        await follower.open()
        await follower.look()
        world.sources[0].tell(forked)
        assert await follower.look()
        assert chain_of(follower) == forked
        await follower.close()


async def test_of_equal_work_what_was_first_stays(tmp_path: Path) -> None:
    """It is known from then on, and its headers are not fetched again until it has grown."""
    forked = mined(CHAIN[:-3], 3)
    async with world_of(tmp_path, CHAIN, "chaintracks", "chaintracks") as world:
        follower = world.follower(CHAIN)
        await follower.open()
        await follower.look()
        other = world.sources[1]
        other.tell(forked)
        assert await follower.look()
        asked = other.asked
        assert await follower.look()
        assert other.asked - asked == 1  # its tip
        assert chain_of(follower) == CHAIN
        longer = mined(forked, 1)
        other.tell(longer)
        assert await follower.look()
        assert chain_of(follower) == longer
        assert put_aside(world) == []
        await follower.close()


@pytest.mark.parametrize("order", [0, 1])
async def test_work_decides_and_not_length(order: int, tmp_path: Path) -> None:
    """Two blocks of eightfold work stand for more than ten easy ones; told in whatever order."""
    short, long = mined(CHAIN[:-6], 2, HARD), mined(CHAIN, 4)
    async with world_of(tmp_path, CHAIN, "chaintracks") as world:
        follower = world.follower(CHAIN)
        await follower.open()
        for told in ((long, short), (short, long))[order]:
            world.sources[0].tell(told)
            assert await follower.look()
        assert chain_of(follower) == short
        assert (follower.file.tip, len(short)) == (TIP - 4, len(CHAIN) - 4)
        await follower.close()


async def test_of_several_sources_the_branch_of_most_work_is_taken(tmp_path: Path) -> None:
    chains = [CHAIN, [*CHAIN[:-6], *BARE.branch(6)], CHAIN[:-20]]
    async with world_of(tmp_path, CHAIN, "bhs", "woc", "chaintracks") as world:
        for source, chain in zip(world.sources, chains, strict=True):
            source.tell(chain)
        follower = world.follower(CHAIN)
        await follower.open()
        assert await follower.look()
        assert chain_of(follower) == chains[1]
        assert await follower.look()
        assert chain_of(follower) == chains[1]
        await follower.close()


# --- what is not taken


def spoiled(headers: list[bytes], at: int, **fields: int) -> list[bytes]:
    """The chain with one header changed, and nothing else."""
    offset = {"root": 36, "time": 68, "bits": 72}
    header = headers[at]
    for name, value in fields.items():
        place = offset[name]
        header = header[:place] + value.to_bytes(4, "little") + header[place + 4 :]
    nonce, floor = 0, target_of(BITS)
    while int.from_bytes(header_hash(header[:76] + nonce.to_bytes(4, "little")), "little") > floor:
        nonce += 1
    return [*headers[:at], header[:76] + nonce.to_bytes(4, "little"), *headers[at + 1 :]]


LATER = int.from_bytes(CHAIN[-1][68:72], "little") + 60

LIES: dict[str, tuple[list[bytes], str]] = {
    "unlinked": (spoiled(CHAIN, 30, root=5), "it does not link"),
    "no-work": ([*CHAIN[:30], CHAIN[30][:72] + HARD.to_bytes(4, "little") + b"\xaa" * 4], "does not meet its target"),
    "too-easy": ([*CHAIN[:30], *spoiled(CHAIN, 30, bits=0x2100FFFF)[30:31]], "easier than any taken"),
    "another-chain": (headers_of(BareChain(70, seed=3)), "not the checkpoint's block"),
    "too-old": (mined(CHAIN, 1, step_s=-600), "not past the median"),
    "future": (mined(CHAIN, 1, step_s=1_800_007_201 - LATER + 60), "in the future"),
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.setting("headers.put_aside_s")
async def test_a_source_that_lies_is_put_aside_and_others_go_on(lie: str, tmp_path: Path) -> None:
    """What it told before the lie, in whole replies, may stand; nobody is harmed by true headers."""
    told, why = LIES[lie]
    async with world_of(tmp_path, CHAIN, "chaintracks", "bhs") as world:
        liar, honest = world.sources
        liar.tell(told)
        honest.fault("down")
        follower = world.follower(CHAIN, put_aside_s=100)
        await follower.open()
        assert not await follower.look()
        ((source, found),) = put_aside(world)
        assert (source, why in found) == ("chaintracks", True)
        assert chain_of(follower) == CHAIN[: len(chain_of(follower))]
        honest.fault("none")
        world.clock.pass_s(50)
        asked = liar.asked
        assert await follower.look()
        assert chain_of(follower) == CHAIN
        assert liar.asked == asked
        liar.tell(CHAIN)
        world.clock.pass_s(51)
        await follower.look()
        assert liar.asked > asked
        assert len(put_aside(world)) == 1
        await follower.close()


async def test_a_time_two_hours_ahead_is_taken_and_one_second_more_is_not(tmp_path: Path) -> None:
    """The node's limit, by the clock of who judges; a source is believed again when the clock has caught up."""
    async with world_of(tmp_path, CHAIN, "chaintracks") as world:
        newest = int.from_bytes(CHAIN[-1][68:72], "little")
        for now, taken in ((newest - 7201, False), (newest - 7200, True)):
            follower = world.follower(CHAIN, now=float(now))
            await follower.open()
            assert await follower.look() is taken
            assert (follower.file.tip == TIP) is taken
            await follower.close()


async def test_a_branch_that_forks_below_the_checkpoint_is_refused(tmp_path: Path) -> None:
    """However much work it has."""
    other = mined(headers_of(BareChain(1, seed=3)), 90, HARD)
    async with world_of(tmp_path, CHAIN, "chaintracks", "bhs") as world:
        follower = world.follower(CHAIN)
        await follower.open()
        await follower.look()
        world.sources[0].tell(other)
        assert await follower.look()  # the other source is heard
        assert put_aside(world) == [("chaintracks", "its branch forks below the checkpoint")]
        assert chain_of(follower) == CHAIN
        await follower.close()


async def test_a_cheap_branch_without_end_is_not_followed_to_it(tmp_path: Path) -> None:
    """Ours: six blocks of eightfold work. Theirs: easy ones, more than eight times as many would be needed."""
    ours = mined(CHAIN, 6, HARD)
    cheap = mined(CHAIN, 45)
    async with world_of(tmp_path, ours, "chaintracks", "bhs") as world:
        follower = world.follower(CHAIN, batch=5)
        await follower.open()
        await follower.look()
        world.sources[0].tell(cheap)
        await follower.look()
        assert put_aside(world) == [("chaintracks", "a branch of 30 headers has less work than our 6")]
        assert chain_of(follower) == ours
        await follower.close()


@pytest.mark.parametrize("mode", ["down", "5xx", "429", "malformed", "lost-reply"])
async def test_a_source_that_fails_is_no_liar_and_another_is_enough(mode: str, tmp_path: Path) -> None:
    async with world_of(tmp_path, CHAIN, "chaintracks", "bhs") as world:
        follower = world.follower(CHAIN)
        await follower.open()
        world.sources[0].fault(mode)
        assert await follower.look()
        assert chain_of(follower) == CHAIN
        assert put_aside(world) == []
        world.sources[1].fault(mode)
        heard = follower.heard_at
        world.clock.pass_s(1)
        assert not await follower.look()
        assert follower.heard_at == heard
        await follower.close()


@pytest.mark.setting("headers.timeout_s")
async def test_a_silent_source_costs_its_time_out(tmp_path: Path) -> None:
    async with world_of(tmp_path, CHAIN, "chaintracks", "bhs") as world:
        follower = world.follower(CHAIN, timeout_s=0.2)
        await follower.open()
        world.sources[0].fault("hang")
        async with asyncio.timeout(5):
            assert await follower.look()
        assert chain_of(follower) == CHAIN
        await follower.close()


@pytest.mark.parametrize("silent", [0, 1, 2])
async def test_a_silent_source_delays_nothing_that_others_tell(silent: int, tmp_path: Path) -> None:
    async with world_of(tmp_path, CHAIN, "chaintracks", "bhs", "woc") as world:
        follower = world.follower(CHAIN, timeout_s=60.0)
        await follower.open()
        world.sources[silent].fault("hang")
        looking = asyncio.create_task(follower.look())
        await until(lambda: follower.heard_at == world.clock.now)
        assert chain_of(follower) == CHAIN
        assert not looking.done()
        looking.cancel()
        await asyncio.wait((looking,))
        await follower.close()


async def test_a_long_stretch_comes_from_who_tells_many_headers_at_once(tmp_path: Path) -> None:
    """However late it answers; from the other, if nobody else has them."""
    long = mined(CHAIN, 60)
    for mode, asked in (("slow", 1), ("down", 1 + 4 + len(long) - 1)):
        async with world_of(tmp_path / mode, long, "woc", "chaintracks") as world:
            world.sources[1].fault(mode, delay_ms=100)
            follower = world.follower(CHAIN)
            await follower.open()
            assert await follower.look()
            assert chain_of(follower) == long
            assert world.sources[0].asked == asked
            await follower.close()


async def test_a_source_that_is_behind_is_heard_and_one_that_shows_less_than_it_claims_is_not(tmp_path: Path) -> None:
    async with world_of(tmp_path, CHAIN, "chaintracks", "chaintracks") as world:
        follower = world.follower(CHAIN)
        await follower.open()
        await follower.look()
        stuck, boasting = world.sources
        boasting.fault("down")
        stuck.tell(CHAIN[:-9])
        assert await follower.look()
        assert chain_of(follower) == CHAIN
        boasting.fault("none")
        stuck.fault("down")
        world.clock.pass_s(60)
        longer = mined(CHAIN, 3)
        boasting.tell(longer)
        boasting.service.view.raws = lambda height, count: b""  # type: ignore[method-assign]
        assert not await follower.look()
        assert chain_of(follower) == CHAIN
        assert put_aside(world) == []
        await follower.close()


async def test_growth_is_told_by_height(tmp_path: Path) -> None:
    async with world_of(tmp_path, CHAIN, "chaintracks") as world:
        follower = world.follower(CHAIN)
        await follower.open()
        await follower.look()
        heights = [news.height for news in world.news if isinstance(news, Grown)]
        assert (heights[0], heights[-1]) == (CHECKPOINT - 1, TIP)
        await follower.close()


# --- settings


@pytest.mark.setting("headers.checkpoint")
@pytest.mark.setting("headers.easiest_bits")
@pytest.mark.setting("headers.sources")
@pytest.mark.parametrize(
    ("settings", "trackers", "says"),
    [
        ({"checkpoint": ""}, ("woc=http://127.0.0.1:1",), "height:hash"),
        ({"easiest_bits": "1d"}, ("woc=http://127.0.0.1:1",), "stands for no target"),
        ({}, (), "none is named"),
        ({"sources": ("arc=http://127.0.0.1:1",)}, (), "headers.sources: 'arc'"),
    ],
)
def test_settings_that_make_no_follower(
    settings: dict[str, str], trackers: tuple[str, ...], says: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=says):
        Follower(HeaderSettings(**settings), trackers, Transport(HttpSettings()), tmp_path)  # type: ignore[arg-type]


async def test_a_file_from_another_checkpoint_is_begun_anew(tmp_path: Path) -> None:
    later = CHAIN[20:]
    async with world_of(tmp_path, CHAIN, "chaintracks") as world:
        for headers, height in ((CHAIN, CHECKPOINT), (later, CHECKPOINT + 20)):
            place = begins(headers).partition(":")[2]
            follower = world.follower(CHAIN, checkpoint=f"{height}:{place}")
            await follower.open()
            await follower.look()
            assert (follower.file.checkpoint.height, follower.file.tip) == (height, TIP)
            assert follower.file.headers(height, TIP) == b"".join(headers)
            await follower.close()
