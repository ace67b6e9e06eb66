"""The status stage without a broker: what it writes for news, and when it looks."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from agents import metrics
from agents.runtime.chain_watch import ChainWatch
from agents.runtime.endpoint_settings import BroadcastSettings
from agents.runtime.endpoints import Endpoints as BroadcastEndpoints
from agents.runtime.endpoints import Found
from agents.runtime.http import HttpSettings, Transport
from agents.runtime.looker import HORIZON_MS, Looker
from agents.runtime.partition import Heads
from agents.runtime.records import Emit, Fault, Out
from agents.runtime.shelf import Readable
from agents.runtime.store import Store
from agents.runtime.trackers import NoQuorum
from agents.status import Status, StatusSettings, standing
from pipeline import state
from pipeline.state import Corrupt, Layer, Memory, encode
from schemas.external import RESULT
from schemas.flow import OPERATION, Evict
from schemas.network import NEWS, Anchored, Challenges, Heard, Looked, NetworkStatus, News, Outdone, Reported, Word
from tests.fakes import NOW_MS, Record, origin_at
from topics.registry import NETWORK_NEWS, OPERATIONS, RESULTS, TRANSACTIONS

TXID = b"\x11" * 32
BOTH = ("arc@a", "arc@b")
ENDPOINT = BroadcastSettings(endpoints=("arc=http://127.0.0.1:1",))


class Stage:
    """The stage over a memory."""

    def __init__(self, **settings: float) -> None:
        self.stage = Status(StatusSettings(**settings), BroadcastSettings(), HttpSettings())  # type: ignore[arg-type]
        self.store = Memory()

    def hear(self, news: News, now_ms: int = NOW_MS, key: bytes | None = TXID) -> Sequence[Out]:
        layer = Layer(self.store)
        record = Record("beef.network-news", 3, 0, key, NEWS.encode(news))
        decided = self.stage.compute(record, layer, Heads(layer), now_ms)
        self.store.write(layer.writes)
        assert isinstance(decided.decision, Emit)
        return decided.decision.outs

    @property
    def status(self) -> NetworkStatus:
        return standing(self.store, TXID)


def no(at_ms: int = NOW_MS) -> Reported:
    words = [Word(name, "refused", "465", "network.fee", "too little", False, at_ms) for name in BOTH]
    return Reported(tuple(words), BOTH, False, ("topic:tm_x", "topic:tm_y"), ("r1",), origin_at(1))


@pytest.mark.setting("status.settle_s")
@pytest.mark.parametrize("settle_s", [5.0, 30.0])
def test_a_refusal_settles_for_as_long_as_it_is_told(settle_s: float) -> None:
    stage = Stage(settle_s=settle_s)
    assert stage.hear(no()) == []
    due = NOW_MS + int(settle_s * 1000)
    assert stage.status.look_ms == due
    outs = stage.hear(Looked((), BOTH, due), due)
    assert [(out.topic, out.key) for out in outs] == [
        (OPERATIONS, b"topic:tm_x"), (OPERATIONS, b"topic:tm_y"), (RESULTS, TXID[::-1].hex().encode()),
    ]  # fmt: skip
    word = OPERATION.decode(outs[0].value)
    assert isinstance(word, Evict)
    assert (word.txid, word.code, word.message) == (TXID, "network.fee", "arc@a: 465 too little")


@pytest.mark.setting("status.unseen_s")
@pytest.mark.parametrize("unseen_s", [5.0, 60.0])
def test_what_was_taken_and_not_seen_is_looked_at_in_its_time(unseen_s: float) -> None:
    stage = Stage(unseen_s=unseen_s)
    taken = Word("arc@a", "accepted", "RECEIVED", "", "", False, NOW_MS)
    stage.hear(Reported((taken,), BOTH, True, ("topic:tm_x",), ("r1",), origin_at(1)))
    assert (stage.status.decided, stage.status.look_ms) == ("accepted", NOW_MS + int(unseen_s * 1000))


@pytest.mark.parametrize(("value", "key"), [(b"\xc1", TXID), (None, TXID), (NEWS.encode(no()), b"short")])
def test_what_is_no_news_is_a_fault(value: bytes | None, key: bytes) -> None:
    stage, layer = Stage(), Layer(Memory())
    record = Record("beef.network-news", 3, 0, key, value)
    decided = stage.stage.compute(record, layer, Heads(layer), NOW_MS)
    assert isinstance(decided.decision, Fault)
    assert decided.decision.code == "internal.undecodable"
    assert layer.writes == {}


def test_what_is_decided_and_what_is_not_is_counted() -> None:
    """How long a sender waited for the first acceptance, and how old the oldest is that nobody decided."""
    value = metrics.REGISTRY.get_sample_value
    metrics.register_network("status")
    of = {"stage": "status"}
    before = value("beefline_ingest_to_accepted_seconds_sum", of) or 0.0
    accepted = value("beefline_network_decided_total", {**of, "decided": "accepted"}) or 0.0
    stage = Stage()
    stage.hear(no(), NOW_MS + 4_000)
    stage.stage._looker.unresolved.tell(NOW_MS + 9_000)
    assert value("beefline_unresolved_transactions", of) == 1
    assert value("beefline_oldest_unresolved_seconds", of) == 9
    seen = Word("arc@b", "accepted", "SEEN_ON_NETWORK", "", "", True, NOW_MS + 9_000)
    for _ in range(2):
        stage.hear(Heard((seen,)), NOW_MS + 10_000)
    stage.stage._looker.unresolved.tell(NOW_MS + 11_000)
    assert value("beefline_unresolved_transactions", of) == 0
    assert value("beefline_oldest_unresolved_seconds", of) == 0
    assert value("beefline_network_decided_total", {**of, "decided": "accepted"}) == accepted + 1
    assert (value("beefline_ingest_to_accepted_seconds_sum", of) or 0.0) == pytest.approx(before + 10)


class Endpoints:
    """Says nothing new, and counts who asks at once."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self.silent = False
        self.paths: tuple[bytes, ...] = ()
        self.most = 0
        self._now = 0

    async def look_up(self, txid: bytes, whom: str) -> Found | None:
        self._now += 1
        self.most = max(self.most, self._now)
        await asyncio.sleep(0.005)
        self._now -= 1
        self.asked.append(txid)
        return None if self.silent else Found((), self.paths)

    def counting(self) -> tuple[str, ...]:
        return BOTH


def never(number: int, error: Corrupt) -> None:
    raise AssertionError(f"store {number} is right") from error


class Says:
    """Trackers that say yes to every path but one."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []

    async def check(self, txid: bytes, path: bytes) -> Anchored | None:
        self.asked.append(path)
        return None if path == b"junk" else Anchored(path, 7, b"\x07" * 32, True, 9, NOW_MS)


class Outbox:
    """Takes what is written, as the stage would hear it: no look is due any longer."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.sent: list[Out] = []

    async def send(self, outs: Sequence[tuple[Out, None]]) -> None:
        for out, _ in outs:
            self.sent.append(out)
            write(self.store, out.key or b"", 0)


def write(store: Store, txid: bytes, look_ms: int) -> None:
    store.write({txid: state.seal(encode(NetworkStatus(0, "", "", look_ms=look_ms)))}, 1)


@pytest.mark.setting("status.looks")
@pytest.mark.parametrize("together", [1, 4])
async def test_what_is_due_is_looked_at_once_and_so_many_together(tmp_path: Path, together: int) -> None:
    """Also what stood in the store before: its last owner died. What is due later, or no longer, is left alone."""
    store = Store(tmp_path / "store")
    txids = [bytes([number]) * 32 for number in range(1, 9)]
    for txid in txids:
        write(store, txid, 1)
    write(store, b"\x77" * 32, 1 << 60)
    write(store, b"\x78" * 32, 0)
    looker, endpoints, outbox = Looker(together, Says()), Endpoints(), Outbox(store)  # type: ignore[arg-type]
    looker.due(3, 1, b"\x78" * 32)
    running = looker.run({3: Readable(store, 1, owner=True)}, never, endpoints, outbox)  # type: ignore[arg-type]
    task = asyncio.ensure_future(running)
    async with asyncio.timeout(10):
        while len(outbox.sent) < len(txids):
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.3)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert sorted(endpoints.asked) == txids
    assert endpoints.most == together
    assert {out.topic for out in outbox.sent} == {NETWORK_NEWS}
    assert {out.key for out in outbox.sent} == set(txids)
    store.close()


async def run_until(looker: Looker, store: Store, endpoints: Endpoints, outbox: Outbox, count: int) -> list[News]:
    """Until so much was written."""
    stores: dict[int, Any] = {3: Readable(store, 1, owner=True)}
    task = asyncio.ensure_future(looker.run(stores, never, endpoints, outbox))  # type: ignore[arg-type]
    async with asyncio.timeout(10):
        while len(outbox.sent) < count:
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return [NEWS.decode(out.value) for out in outbox.sent]


async def test_paths_that_come_with_answers_are_asked_about(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    write(store, TXID, 1)
    endpoints, says = Endpoints(), Says()
    endpoints.paths = (b"junk", b"path", b"path")
    looker = Looker(2, says)  # type: ignore[arg-type]
    looked, anchored = await run_until(looker, store, endpoints, Outbox(store), 2)
    assert isinstance(looked, Looked)
    assert isinstance(anchored, Anchored)
    assert says.asked == [b"junk", b"path"]
    store.close()


async def test_a_path_that_is_claimed_is_asked_about_whether_or_not_endpoints_answer(tmp_path: Path) -> None:
    for number, silent in enumerate((False, True)):
        store = Store(tmp_path / f"store{number}")
        status = NetworkStatus(0, "", "", look_ms=1, claimed=b"claim")
        store.write({TXID: state.seal(encode(status))}, 1)
        endpoints, says = Endpoints(), Says()
        endpoints.silent = silent
        looker = Looker(2, says)  # type: ignore[arg-type]
        news = await run_until(looker, store, endpoints, Outbox(store), 1 if silent else 2)
        assert [type(each) for each in news] == ([Anchored] if silent else [Looked, Anchored])
        assert says.asked == [b"claim"]
        store.close()


@pytest.mark.invariant("STATUS-3")
@pytest.mark.invariant("STATUS-4")
def test_rivals_hear_and_what_is_accepted_late_is_handed_out() -> None:
    """What the rule says goes to the topics it is for, in one transaction."""
    stage = Stage()
    stage.hear(Challenges((b"\x22" * 32,), "topic:tm_x", b"path"))
    (told,) = stage.hear(Anchored(b"path", 800, b"\x01" * 32, True, 800, NOW_MS))
    assert (told.topic, told.key, NEWS.decode(told.value)) == (NETWORK_NEWS, b"\x22" * 32, Outdone(TXID, True))
    (told,) = stage.hear(Anchored(b"path", 800, b"\x01" * 32, False, 801, NOW_MS))
    assert NEWS.decode(told.value) == Outdone(TXID, False)
    late = Stage()
    late.hear(replace(no(), ef=b"ef"))
    seen = Word("arc@b", "accepted", "SEEN_ON_NETWORK", "", "", True, NOW_MS + 9)
    result, handed = late.hear(Heard((seen,)))
    assert (result.topic, handed.topic, handed.key, handed.value) == (RESULTS, TRANSACTIONS, TXID, b"ef")
    assert dict(handed.headers) == {
        "endpoint": b"arc@b", "status": b"accepted", "contexts": b"topic:tm_x,topic:tm_y", "request-ids": b"r1",
    }  # fmt: skip


async def test_a_path_that_is_kept_is_asked_about_in_its_time_and_when_blocks_are_replaced(tmp_path: Path) -> None:
    """The trackers, and no endpoint; what is buried or below is left alone."""
    store = Store(tmp_path / "store")
    for number, (height, look_ms, buried) in enumerate([(800, 1, False), (801, 1 << 60, False), (802, 0, True)]):
        status = NetworkStatus(
            1, "accepted", "arc@a", look_ms=look_ms, path=b"%d" % height, height=height, buried=buried
        )
        store.write({bytes([number]) * 32: state.seal(encode(status))}, 1)
    endpoints, says = Endpoints(), Says()
    looker = Looker(2, says)  # type: ignore[arg-type]
    await run_until(looker, store, endpoints, Outbox(store), 1)
    assert says.asked == [b"800"]
    looker.reorganised(802)
    looker.reorganised(801)
    await run_until(looker, store, endpoints, Outbox(store), 1)
    assert says.asked == [b"800", b"801"]
    assert endpoints.asked == []
    store.close()


@pytest.mark.setting("status.unmined_s")
@pytest.mark.parametrize("unmined_s", [5.0, 60.0])
def test_what_was_seen_and_not_mined_is_looked_at_in_its_time(unmined_s: float) -> None:
    stage = Stage(unmined_s=unmined_s)
    seen = Word("arc@a", "accepted", "SEEN_ON_NETWORK", "", "", True, NOW_MS)
    stage.hear(Reported((seen,), BOTH, True, ("topic:tm_x",), ("r1",), origin_at(1)))
    assert stage.status.look_ms == NOW_MS + int(unmined_s * 1000)
    outs = stage.hear(Anchored(b"path", 800, b"\x01" * 32, True, 899, NOW_MS))
    (buried,) = [RESULT.decode(out.value) for out in outs]
    assert (buried.outcome, buried.block_height, buried.endpoint) == ("buried", 800, "arc@a")


@pytest.mark.setting("status.watch_s")
@pytest.mark.parametrize(("watch_s", "least", "most"), [(0.02, 5, 60), (60.0, 1, 1)])
async def test_the_trackers_tips_are_asked_for_while_nothing_else_is(
    monkeypatch: pytest.MonkeyPatch, watch_s: float, least: int, most: int
) -> None:
    """Otherwise a replaced block would be noticed with the next transaction. No quorum ends nothing."""
    asked = 0

    class Trackers:
        async def tip(self) -> None:
            nonlocal asked
            asked += 1
            raise NoQuorum("nobody answers")

    stage = Stage(watch_s=watch_s).stage
    monkeypatch.setattr(ChainWatch, "trackers", Trackers())
    monkeypatch.setattr(stage, "_endpoints", BroadcastEndpoints(ENDPOINT, Transport(HttpSettings())))
    looking, watching = stage.beside({}, never, Outbox(Memory()))  # type: ignore[arg-type]
    looking.close()
    task = asyncio.ensure_future(watching)
    await asyncio.sleep(0.5)
    assert least <= asked <= most
    assert not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_standing_that_is_not_what_was_written_has_its_store_made_again(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.write({TXID: bytes(32) + b"junk"}, 1)
    spoiled: list[int] = []
    stores: dict[int, Any] = {3: Readable(store, 1, owner=True)}
    looker, endpoints, outbox = Looker(2, Says()), Endpoints(), Outbox(store)  # type: ignore[arg-type]
    looker.due(3, 1, TXID)

    def spoil(number: int, error: Corrupt) -> None:
        spoiled.append(number)
        write(store, TXID, 1)  # as its changelog has it

    task = asyncio.ensure_future(looker.run(stores, spoil, endpoints, outbox))  # type: ignore[arg-type]
    looker.due(3, 1, TXID)
    async with asyncio.timeout(10):
        while not spoiled:
            await asyncio.sleep(0.01)
        stores[3] = Readable(store, 2, owner=True)
        while not outbox.sent:
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert spoiled == [3]
    store.close()


async def test_what_is_decided_while_its_store_is_looked_through_is_not_forgotten(tmp_path: Path) -> None:
    """A worker that starts: its first records are decided before their transaction has ended, and written behind it."""
    store = Store(tmp_path / "store")
    for number in range(1_200):
        write(store, number.to_bytes(32, "big"), 0)
    looker, endpoints, outbox = Looker(2, Says()), Endpoints(), Outbox(store)  # type: ignore[arg-type]
    stores: dict[int, Any] = {3: Readable(store, 1, owner=True)}
    looker.due(3, 1, TXID)  # decided
    task = asyncio.ensure_future(looker.run(stores, never, endpoints, outbox))  # type: ignore[arg-type]
    await asyncio.sleep(0)  # its store is being looked through
    looker.due(3, 1, b"\x12" * 32)
    write(store, TXID, 1)  # and only now written
    write(store, b"\x12" * 32, 1)
    async with asyncio.timeout(10):
        while len(outbox.sent) < 2:
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert sorted(endpoints.asked) == [TXID, b"\x12" * 32]
    store.close()


async def test_what_is_due_in_many_hours_is_left_to_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mined transactions wait for a hundred blocks: nothing of them stays in memory, and none is forgotten."""
    now = 1_800_000_000.0
    monkeypatch.setattr("agents.runtime.looker.time.time", lambda: now)
    store = Store(tmp_path / "store")
    later = int(now * 1000) + 3 * HORIZON_MS
    write(store, TXID, later)
    endpoints, outbox = Endpoints(), Outbox(store)
    looker = Looker(2, Says())  # type: ignore[arg-type]
    looker.due(3, later, TXID)
    stores: dict[int, Any] = {3: Readable(store, 1, owner=True)}
    task = asyncio.ensure_future(looker.run(stores, never, endpoints, outbox))  # type: ignore[arg-type]
    await asyncio.sleep(0.3)
    assert not looker._due.get(3)
    now += 2 * HORIZON_MS / 1000
    await asyncio.sleep(0.5)
    assert len(looker._due[3]) == 1
    assert outbox.sent == []
    now += HORIZON_MS / 1000
    async with asyncio.timeout(10):
        while not outbox.sent:
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert endpoints.asked == [TXID]
    store.close()


async def test_who_gets_no_answer_asks_again_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.runtime.looker.AGAIN_MS", 50)
    store = Store(tmp_path / "store")
    write(store, TXID, 1)
    looker, endpoints, outbox = Looker(2, Says()), Endpoints(), Outbox(store)  # type: ignore[arg-type]
    endpoints.silent = True
    stores: dict[int, Any] = {3: Readable(store, 1, owner=True)}
    task = asyncio.ensure_future(looker.run(stores, never, endpoints, outbox))  # type: ignore[arg-type]
    async with asyncio.timeout(10):
        while len(endpoints.asked) < 2:
            await asyncio.sleep(0.01)
        assert outbox.sent == []
        endpoints.silent = False
        while not outbox.sent:
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    store.close()
