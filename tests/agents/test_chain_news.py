"""What trackers and the header follower tell operators: metrics for all of it, events now and then."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import generate_latest

from agents import metrics
from agents.runtime.board import Board
from agents.runtime.chain_news import ChainNews
from agents.runtime.cluster import Cluster
from agents.runtime.desk import Desk
from agents.runtime.headers import Grown, HeaderSettings, PutAside, Reorganised
from agents.runtime.http import HttpSettings
from agents.runtime.sandbox import SandboxSettings
from agents.runtime.sparing import EVENT_EVERY_S
from agents.runtime.trackers import Disagreement, TrackerSettings
from agents.verify import Verify
from ops.instruments.chain import CHECKPOINT, BareChain
from ops.settings import load
from ops.stages import _driver, make_stage
from pipeline.chain.answer import Answer
from pipeline.chain.headers import Bad
from pipeline.policy import Policy
from schemas.types import display
from tests.agents.header_world import begins, headers_of, world_of
from tests.agents.serving import Clock, until

Event = tuple[str, str, str, dict[str, Any]]

BARE = BareChain(40)
CHAIN = headers_of(BARE)


ALL_YES = {"a": "yes", "b": "yes", "c": "yes"}


class Events:
    """Whoever writes events."""

    def __init__(self) -> None:
        self.told: list[Event] = []

    def __call__(self, kind: str, severity: str, message: str, details: dict[str, Any]) -> None:
        self.told.append((kind, severity, message, details))

    def kinds(self) -> list[str]:
        return [kind for kind, *_ in self.told]


def value(name: str, **labels: str) -> float | None:
    """Of a series; None when it does not exist."""
    found: float | None = metrics.REGISTRY.get_sample_value(name, labels)
    return found


def differ(height: int, *no: str) -> Disagreement:
    said = {name: Answer.NO if name in no else Answer.YES for name in ("a", "b", "c")}
    return Disagreement((height, bytes(range(32))), said)


def test_a_disagreement_is_counted_each_time_and_told_once_a_minute_by_who_says_what() -> None:
    events, clock = Events(), Clock()
    news = ChainNews("news-1", events, clock)
    for height in range(5):
        news.disagreement(differ(height, "b"))
    news.disagreement(differ(7, "c"))
    assert value("beefline_tracker_disagreements_total", stage="news-1") == 6
    root = display(bytes(range(32)))
    assert events.told == [
        (
            "trackers-disagree", "warning", f"trackers disagree about root {root} at height {height}",
            {"height": height, "root": root, "untold_before": 0, "said": ALL_YES | {no: "no"}},
        )
        for height, no in ((0, "b"), (7, "c"))
    ]  # fmt: skip
    clock.pass_s(EVENT_EVERY_S)
    news.disagreement(differ(9, "b"))
    assert events.told[-1][3]["untold_before"] == 4
    clock.pass_s(EVENT_EVERY_S)
    news.disagreement(differ(9, "b"))
    assert events.told[-1][3]["untold_before"] == 0


def test_reorganisations_are_counted_by_tracker() -> None:
    events = Events()
    news = ChainNews("news-2", events, Clock())
    for by in ("follower", "bhs@x", "bhs@x"):
        news.reorganised(Reorganised(by, 9, forgotten=3))
    counted = [
        value("beefline_chain_reorganisations_total", stage="news-2", tracker=by) for by in ("follower", "bhs@x")
    ]
    assert counted == [1, 2]
    assert events.kinds() == ["chain-reorganised"] * 2
    assert events.told[0][3] == {"tracker": "follower", "height": 9, "roots_forgotten": 3, "untold_before": 0}


def test_what_the_follower_tells() -> None:
    events = Events()
    news = ChainNews("news-3", events, Clock())
    news.followed(Grown(900_123))
    news.followed(PutAside("woc@x", Bad(900_124, "its hash does not meet its target")))
    assert value("beefline_follower_height", stage="news-3") == 900_123
    assert value("beefline_header_sources_put_aside_total", stage="news-3", source="woc@x") == 1
    assert events.kinds() == ["headers-refused"]
    assert events.told[0][3]["why"] == "its hash does not meet its target"


def test_series_begin_at_nought() -> None:
    metrics.register_chain("news-4", ["bhs@x", "follower"], ["bhs@x"])
    assert value("beefline_tracker_disagreements_total", stage="news-4") == 0
    for tracker in ("bhs@x", "follower"):
        assert value("beefline_chain_reorganisations_total", stage="news-4", tracker=tracker) == 0
    assert value("beefline_header_sources_put_aside_total", stage="news-4", source="bhs@x") == 0
    assert b'beefline_chain_reorganisations_total{stage="news-4",tracker="follower"} 0.0' in generate_latest(
        metrics.REGISTRY
    )


# --- the stage


async def test_verify_follows_headers_below_its_data_folder_and_tells_what_happens(tmp_path: Path) -> None:
    """Asked and answered through the stage's own trackers; a reorganisation and a lie become events."""
    events = Events()
    async with world_of(tmp_path, CHAIN, "bhs", "chaintracks", "woc") as world:
        stage = Verify(
            Policy(),
            TrackerSettings(trackers=tuple(s.setting for s in world.sources), follower="authority", follower_depth=0),
            HttpSettings(),
            SandboxSettings(),
            HeaderSettings(checkpoint=begins(CHAIN), easiest_bits="207fffff", poll_s=0.02),
            str(tmp_path / "data"),
        )
        stage.tell_to(events)
        await stage.start()
        trackers = stage._trackers
        assert trackers is not None
        await until(lambda: value("beefline_follower_height", stage="verify") == BARE.tip)
        assert (tmp_path / "data/verify/headers/headers-0.bin").stat().st_size == 80 * 41
        root = (BARE.tip, CHAIN[-1][36:68])
        await until(lambda: trackers._authority() is not None)
        assert await trackers.ask([root]) == {root: Answer.YES}
        await stage.probe()
        for source in world.sources[:2]:
            source.tell([*CHAIN[:-6], *BARE.branch(6)])
        await until(lambda: "chain-reorganised" in events.kinds())
        assert events.told[0][3]["tracker"] == "follower"
        assert await trackers.ask([root]) == {root: Answer.NO}
        world.sources[2].tell(headers_of(BareChain(60, seed=4)))
        await until(lambda: "headers-refused" in events.kinds())
        await stage.stop()
    names = [source.setting.replace("=http://", "@") for source in world.sources]
    counted = [value("beefline_header_sources_put_aside_total", stage="verify", source=name) for name in names]
    assert counted == [0, 0, 1]


def test_a_worker_s_events_are_the_stage_s_and_its_headers_lie_below_the_worker_s_folder(tmp_path: Path) -> None:
    flags = [f"worker.data_dir={tmp_path}", "headers.poll_s=7", "trackers.trackers=woc=http://127.0.0.1:1"]
    settings = load(flags=flags, environment={}).settings
    cluster = Cluster("cluster", {}, {})
    stage = make_stage("verify", settings, cluster)
    chain = stage._chain
    assert (chain._folder, chain._headers.poll_s) == (tmp_path / "verify/headers", 7)
    desk, events = Desk(Board(max_in_flight=1, max_bytes=1), restores=False, settle_s=1), Events()
    desk.teller = events
    worker: Any = SimpleNamespace(desk=desk)
    _driver(stage, settings, cluster)(worker)
    chain._replaced(Reorganised("follower", CHECKPOINT))
    assert events.kinds() == ["chain-reorganised"]


@pytest.mark.setting("trackers.follower")
async def test_without_a_follower_there_is_no_file(tmp_path: Path) -> None:
    async with world_of(tmp_path, CHAIN, "bhs", "chaintracks") as world:
        trackers = TrackerSettings(trackers=tuple(source.setting for source in world.sources))
        stage = Verify(Policy(), trackers, HttpSettings(), SandboxSettings(), HeaderSettings(), str(tmp_path / "data"))
        await stage.start()
        await stage.stop()
    assert not (tmp_path / "data").exists()
