"""The status stage on a real broker, beside simulated endpoints: decided once, and looked at again."""

import asyncio
import shutil
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from msgspec.structs import replace

from ops.apply_chaos.compaction import force_compaction
from ops.instruments.chain import CHECKPOINT, Chain
from ops.instruments.wire import hash256
from ops.simulate.client import Simulated, spawn_all
from pipeline.codec.ef import write_ef
from pipeline.proof import Claim, claim
from pipeline.results import network_id
from schemas.external import RESULT
from schemas.flow import OPERATION, Accept, Evict, Readmit
from schemas.network import NETWORK_STATUS, NEWS, Heard, NetworkStatus, News, Reported, Word
from schemas.types import Txid, display
from tests.agents.harness import Bench, until
from tests.agents.test_reads_on_broker import ready
from tests.conftest import Broker
from tests.fakes import coin_of_others, made_tx, origin_at
from topics.registry import NETWORK_NEWS, OPERATIONS, RESULTS
from topics.registry import NETWORK_STATUS as STATUS_TOPIC

pytestmark = pytest.mark.broker

CONTEXTS = ("topic:tm_x", "topic:tm_y")


@pytest.fixture
async def bench(broker: Broker, prefix: str, tmp_path: Path) -> AsyncIterator[Bench]:
    async with Bench(broker.bootstrap, prefix, tmp_path) as bench:
        yield bench


DIALECTS = ("bhs", "chaintracks")


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[list[Simulated], Chain]]:
    """Two endpoints, two trackers, and the chain they all know."""
    folder = tmp_path_factory.mktemp("network") / "chain"
    chain = Chain.open(folder)
    headers = [("headers", "--dialect", dialect) for dialect in DIALECTS]
    started = spawn_all([("arc",), ("arc",), *headers], chain=folder)
    yield started, chain
    for service in started:
        service.stop()


@pytest.fixture
def arcs(services: tuple[list[Simulated], Chain]) -> tuple[Simulated, Simulated]:
    started, _ = services
    return started[0], started[1]


@pytest.fixture
def argument(services: tuple[list[Simulated], Chain]) -> str:
    """Of the stage: whom it asks."""
    started, _ = services
    trackers = ",".join(f"{dialect}={one.url}" for dialect, one in zip(DIALECTS, started[2:], strict=True))
    return ",".join(f"arc={arc.url}" for arc in started[:2]) + f";{trackers};"


def names(arcs: Sequence[Simulated]) -> tuple[str, ...]:
    return tuple(f"arc@{arc.url.removeprefix('http://')}" for arc in arcs)


def has(arc: Simulated, tx: Any, status: str, info: str = "", **told: str) -> None:
    """The endpoint says this when it is asked where the transaction stands. told: headers."""
    arc.script(display(tx.txid), status, info or "scripted")
    headers = {
        "Content-Type": "application/octet-stream",
        **{name.replace("_", "-"): text for name, text in told.items()},
    }
    body = write_ef(tx, [(9_999).to_bytes(8, "little") + b"\x01\x51"])
    with urllib.request.urlopen(urllib.request.Request(f"{arc.url}/v1/txs", body, headers), timeout=5) as reply:
        assert status.encode() in reply.read()


def say(bench: Bench, arcs: Sequence[Simulated], number: int, *words: str, **more: Any) -> Reported:
    said = [
        Word(name, "refused", each, "network.fee", "", False, 1)
        if each == "465"
        else Word(name, "accepted", each, "", "", True, 1)
        for name, each in zip(names(arcs), words, strict=True)
    ]
    return Reported(tuple(said), names(arcs), False, more.get("contexts", CONTEXTS), (f"r{number}",), origin_at(number))


async def told(bench: Bench) -> dict[str, list[tuple[int, str]]]:
    """Revisions and outcomes of the network's results, by id."""
    found: dict[str, list[tuple[int, str]]] = {}
    for record in await bench.read(RESULTS):
        result = RESULT.decode(record.value)
        found.setdefault(result.id, []).append((result.revision, result.outcome))
    return found


async def standings(bench: Bench) -> dict[Txid, NetworkStatus]:
    """Where each stands last; the stage's own key is no txid."""
    records = [record for record in await bench.read(STATUS_TOPIC) if len(record.key) == 32]
    return {record.key: NETWORK_STATUS.decode(record.value, record.headers) for record in records}


async def operations(bench: Bench) -> Counter[tuple[str, Txid, str]]:
    """What contexts were told."""
    found: Counter[tuple[str, Txid, str]] = Counter()
    for record in await bench.read(OPERATIONS):
        operation = OPERATION.decode(record.value, record.headers)
        assert isinstance(operation, Accept | Evict | Readmit)
        txid = operation.txids[0] if isinstance(operation, Accept) else operation.txid
        found[type(operation).__name__, txid, record.key.decode()] += 1
    return found


@pytest.mark.invariant("STATUS-1")
@pytest.mark.invariant("STATUS-2")
@pytest.mark.invariant("TXN-1")
async def test_each_transaction_is_decided_once_whatever_is_killed(
    bench: Bench, arcs: tuple[Simulated, Simulated], argument: str
) -> None:
    """A third accepted, a third refused, a third refused and found accepted by the second look; killed all along."""
    txs = [made_tx([coin_of_others(n)], 1, n) for n in range(30)]
    for tx in txs[20:]:
        has(arcs[1], tx, "SEEN_ON_NETWORK")
    worker = bench.worker("status", "worker.instance=one", argument=argument)
    await ready(worker)
    for number, tx in enumerate(txs):
        words = ("SEEN_ON_NETWORK", "465") if number < 10 else ("465", "465")
        await bench.send(
            NETWORK_NEWS, [NEWS.encode(say(bench, arcs, number, *words))], [tx.txid], headers=[NEWS.header]
        )
        if number in (5, 14, 26):
            worker.kill()
            worker.start()
    wanted = {
        network_id(tx.txid): [(1, "refused" if 10 <= number < 20 else "accepted")] for number, tx in enumerate(txs)
    }

    async def all_told() -> bool:
        return (await told(bench)).keys() == wanted.keys()

    await until(all_told, "a result of each")
    assert await told(bench) == wanted
    assert await operations(bench) == {("Evict", tx.txid, context): 1 for tx in txs[10:20] for context in CONTEXTS}
    standing = await standings(bench)
    assert Counter(each.decided for each in standing.values()) == {"accepted": 20, "refused": 10}


async def test_what_the_network_takes_back_leaves_and_comes_back(
    bench: Bench, arcs: tuple[Simulated, Simulated], argument: str
) -> None:
    """Accepted and not seen yet: the look finds it rejected by both; refused then; and taken after all."""
    tx = made_tx([coin_of_others(1)], 1, 1)
    for arc in arcs:
        has(arc, tx, "REJECTED", "txn-mempool-conflict")
    await ready(bench.worker("status", argument=argument))
    taken = [Word(name, "accepted", "RECEIVED", "", "", False, 1) for name in names(arcs)]
    first = Reported(tuple(taken), names(arcs), True, CONTEXTS[:1], ("r1",), origin_at(1))
    await bench.send(NETWORK_NEWS, [NEWS.encode(first)], [tx.txid], headers=[NEWS.header])
    name = network_id(tx.txid)

    async def heard(outcome: str) -> None:
        async def so() -> bool:
            said = (await told(bench)).get(name, [])
            return bool(said) and max(said)[1] == outcome

        await until(so, outcome)

    await heard("accepted")
    await heard("refused")
    late = Word(names(arcs)[0], "accepted", "SEEN_ON_NETWORK", "", "", True, 1 << 60)
    last = Reported((late,), names(arcs), False, CONTEXTS, ("r2",), origin_at(2))
    await bench.send(NETWORK_NEWS, [NEWS.encode(last)], [tx.txid], headers=[NEWS.header])

    async def back() -> bool:
        return len((await told(bench))[name]) == 3

    await until(back, "a third revision")
    assert (await told(bench))[name] == [(1, "accepted"), (2, "refused"), (3, "accepted")]
    assert await operations(bench) == {("Evict", tx.txid, CONTEXTS[0]): 1, ("Readmit", tx.txid, CONTEXTS[0]): 1}


async def test_news_that_cannot_be_read_is_a_dead_letter(
    bench: Bench, arcs: tuple[Simulated, Simulated], argument: str
) -> None:
    await ready(bench.worker("status", argument=argument))
    await bench.send(NETWORK_NEWS, [b"\xc1", NEWS.encode(say(bench, arcs, 1, "465", "465"))], [b"\1" * 32, b"short"])
    from topics.registry import DEAD_LETTERS

    letters = await bench.wait_for(DEAD_LETTERS, 2)
    assert {dict(letter.headers)["code"] for letter in letters} == {b"internal.undecodable"}


@pytest.mark.invariant("ANCHOR-2")
async def test_what_is_mined_is_found_and_its_path_kept(
    bench: Bench, services: tuple[list[Simulated], Chain], argument: str
) -> None:
    """Seen, and looked at in its time: the endpoint's path is asked of the trackers, and stays with the standing."""
    started, chain = services
    deep, late = CHECKPOINT + 1, chain.tip - 1
    txids = {height: hash256(chain.transaction(height, 1)) for height in (deep, late)}
    await ready(bench.worker("status", argument=argument))
    for number, txid in enumerate(txids.values()):
        news = NEWS.encode(say(bench, started[:2], number, "SEEN_ON_NETWORK", "SEEN_ON_NETWORK"))
        await bench.send(NETWORK_NEWS, [news], [txid], headers=[NEWS.header])

    async def in_blocks() -> bool:
        outcomes = {RESULT.decode(record.value).outcome for record in await bench.read(RESULTS)}
        return {"mined", "buried"} <= outcomes

    await until(in_blocks, "both in their blocks")
    found = {(r.txid, r.outcome): r.block_height for r in [RESULT.decode(x.value) for x in await bench.read(RESULTS)]}
    assert found[display(txids[late]), "mined"] == late
    assert found[display(txids[deep]), "buried"] == deep
    standing = await standings(bench)
    for height, txid in txids.items():
        kept = claim(txid, standing[txid].path)
        assert isinstance(kept, Claim)
        assert kept.at == (height, chain.block(height).root)


async def test_an_endpoint_calls_back(
    bench: Bench, arcs: tuple[Simulated, Simulated], argument: str, tmp_path: Path
) -> None:
    """Before broadcast has reported; the worker is away at first, and the token is wrong once."""
    token = tmp_path / "token"
    await asyncio.to_thread(token.write_text, "secret")
    worker = bench.worker("status", argument=f"{argument}{token}")
    await ready(worker)
    txs = [made_tx([coin_of_others(n)], 1, n) for n in range(40, 42)]
    name = names(arcs)[0]
    url = f"{worker.address()}/callback?endpoint={quote(name, safe='')}"
    told = {"X_CallbackUrl": url, "X_FullStatusUpdates": "true"}
    has(arcs[0], txs[0], "SEEN_ON_NETWORK", X_CallbackToken="secret", **told)
    has(arcs[0], txs[1], "SEEN_ON_NETWORK", X_CallbackToken="wrong", **told)
    (heard,) = await bench.wait_for(NETWORK_NEWS, 1)
    assert heard.key == txs[0].txid
    news = NEWS.decode(heard.value, heard.headers)
    assert isinstance(news, Heard)
    assert [(word.endpoint, word.kind, word.status) for word in news.words] == [(name, "accepted", "SEEN_ON_NETWORK")]
    reported = Reported((), names(arcs), False, CONTEXTS, ("r1",), origin_at(1))
    await bench.send(NETWORK_NEWS, [NEWS.encode(reported)], [txs[0].txid], headers=[NEWS.header])
    (result,) = await bench.wait_for(RESULTS, 1)
    assert RESULT.decode(result.value).outcome == "accepted"

    async def refused() -> bool:
        stats = await asyncio.to_thread(arcs[0].stats)
        return bool(stats["callbacks"]["taken"] == 1 and stats["callbacks"]["refused"] >= 3)

    await until(refused, "calls with a wrong token refused")
    assert {record.key for record in await bench.read(NETWORK_NEWS)} == {txs[0].txid}


@pytest.mark.invariant("STATUS-1")
@pytest.mark.invariant("STORE-1")
async def test_a_status_never_goes_back_though_its_log_is_compacted_and_its_store_lost(
    bench: Bench, arcs: tuple[Simulated, Simulated], argument: str
) -> None:
    """Callbacks and reports in any order, the log compacted in between, and the worker begins with nothing."""
    await force_compaction(bench.kafka, bench.topics, STATUS_TOPIC)
    txs = [made_tx([coin_of_others(n)], 1, n) for n in range(60, 72)]
    worker = bench.worker("status", "worker.instance=one", argument=argument)
    await ready(worker)

    async def say_all(*news: News) -> None:
        for each in news:
            await bench.send(
                NETWORK_NEWS, [NEWS.encode(each)] * len(txs), [tx.txid for tx in txs], headers=[NEWS.header]
            )
            await asyncio.sleep(1.1)  # a segment each

    accepted = say(bench, arcs, 1, "SEEN_ON_NETWORK", "SEEN_ON_NETWORK")
    late = Word(names(arcs)[0], "accepted", "RECEIVED", "", "", False, 0)
    await say_all(Heard(accepted.words), accepted, Heard((late,)))
    wanted = {network_id(tx.txid): [(1, "accepted")] for tx in txs}

    async def all_told() -> bool:
        return (await told(bench)) == wanted

    await until(all_told, "a result of each")
    before = await standings(bench)

    async def compacted() -> bool:
        await say_all(Heard((late,)))
        records = await bench.read(STATUS_TOPIC)
        return len([record for record in records if record.key == txs[0].txid]) < 4

    async with asyncio.timeout(90):
        while not await compacted():
            pass
    worker.kill()
    shutil.rmtree(bench.home / "data")
    worker.start()
    await ready(worker)
    again = say(bench, arcs, 1, "465", "465", contexts=("topic:tm_z",))
    old = Reported(tuple(replace(word, at_ms=0) for word in again.words), again.endpoints, False, ("topic:tm_z",))
    await say_all(Heard((late,)), old)
    await asyncio.sleep(2)
    assert await told(bench) == wanted
    after = await standings(bench)
    for tx in txs:
        one, other = before[tx.txid], after[tx.txid]
        assert (other.decided, other.revision, other.request_ids) == ("accepted", 1, one.request_ids)
        assert other.words == one.words
        assert other.contexts == (*CONTEXTS, "topic:tm_z")
    assert await operations(bench) == Counter()
