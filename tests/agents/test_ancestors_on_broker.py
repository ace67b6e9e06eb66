"""The index of verified payloads on a real broker: found by every worker, kept over a restart, swept with the log."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import RecordsToDelete
from rocksdict import Options, Rdict

from agents.runtime.ancestors import _PLACE, PATIENCE_S, Ancestors, _position
from agents.runtime.cluster import admin
from pipeline.ancestors import complete
from pipeline.codec.tx import Tx
from pipeline.outcome import Condition, Verdict
from pipeline.parse import Payload, parse
from pipeline.policy import Policy
from pipeline.verify import Valid
from schemas.flow import OPERATION, Apply, Asked, Evict, Origin, Verified
from schemas.types import Txid
from tests.agents.harness import Bench
from tests.builders import Bag, bag, chain, funding
from tests.conftest import Broker
from tests.pipeline.test_ancestors import naming
from topics.registry import OPERATIONS

pytestmark = pytest.mark.broker

POLICY = Policy(txid_only="resolve")
CONTEXTS = ("topic:tm_a", "topic:tm_b")


@pytest.fixture
async def bench(broker: Broker, prefix: str, tmp_path: Path) -> AsyncIterator[Bench]:
    async with Bench(broker.bootstrap, prefix, tmp_path) as bench:
        yield bench


def index_of_nothing(bench: Bench) -> Rdict:
    return Rdict(str(bench.home / "nothing"), Options(raw_mode=True))


def index(bench: Bench) -> Ancestors:
    return Ancestors("verify", bench.kafka, bench.topics, POLICY, bench.home / "ancestors", OPERATIONS.partitions)


async def verified(bench: Bench, made: Bag, contexts: tuple[str, ...] = CONTEXTS) -> None:
    """As verify writes it: an operation for each context."""
    payload = parse(made.v1(), POLICY)
    assert isinstance(payload, Payload)
    members = Valid(payload, (), 1).members()
    asked = Asked(Origin("cluster", "beef.ingest", 0, 1, 1), "request", contexts)
    operation = Apply("id", Verified(asked, payload.subject.txid, payload.canonical(), members, 1))
    values = [OPERATION.encode(operation)] * len(contexts)
    await bench.send(OPERATIONS, values, [name.encode() for name in contexts], headers=[OPERATIONS.schema.header])


def named(made: Bag, *txs: Tx) -> Payload:
    """The payload with these as names alone."""
    payload = parse(naming(made, *txs), POLICY)
    assert isinstance(payload, Payload)
    return payload


async def known(ancestors: Ancestors, *txids: Txid) -> Mapping[Txid, bytes]:
    found = await ancestors.find(txids)
    assert not isinstance(found, Verdict | Condition), found
    return found


@pytest.mark.invariant("NAMED-1")
@pytest.mark.setting("policy.txid_only")
async def test_every_worker_finds_what_was_verified_before_the_question(bench: Bench) -> None:
    """Proven and un-mined ancestors alike, at once; and it completes the payload that names them."""
    line = chain(3)
    first, other = index(bench), index(bench)
    await first.start()
    await other.start()
    try:
        assert await known(first, line.txs[0].txid) == {}
        before = Bag(line.txs[:3], line.proofs)
        await verified(bench, before)
        await bench.send(OPERATIONS, [OPERATION.encode(Evict("e", bytes(32), "network.rejected", "")), b"\xc1"])
        for ancestors in (first, other):
            for payload in (named(line, *line.txs[:3]), named(Bag(line.txs[2:]), line.txs[2])):
                whole = complete(payload, await known(ancestors, *payload.missing))
                assert whole == line.v1()
            assert await known(ancestors, bytes(32)) == {}
    finally:
        await first.stop()
        await other.stop()


async def test_the_index_outlives_its_worker_and_goes_on_where_it_stood(bench: Bench) -> None:
    line = chain(2)
    ancestors = index(bench)
    await ancestors.start()
    await verified(bench, Bag(line.txs[:2], line.proofs))
    assert len(await known(ancestors, line.txs[1].txid)) == 1
    stood = dict(ancestors._positions)
    await ancestors.stop()
    again = index(bench)
    await again.start()
    try:
        assert {tp: at for tp, at in again._positions.items() if at} == {tp: at for tp, at in stood.items() if at}
        await verified(bench, line)
        assert len(await known(again, line.txs[1].txid, line.txs[2].txid)) == 2
    finally:
        await again.stop()


async def test_what_retention_removed_is_unknown_and_leaves_the_index(bench: Bench) -> None:
    line = chain(1)
    ancestors = index(bench)
    await ancestors.start()
    try:
        await verified(bench, line)
        txid = line.txs[0].txid
        assert len(await known(ancestors, txid)) == 1
        async with admin(bench.kafka) as client:
            name = OPERATIONS.named(bench.prefix)
            ends = {tp: at for tp, at in ancestors._positions.items() if at}
            await client.delete_records(
                {TopicPartition(name, tp.partition): RecordsToDelete(at) for tp, at in ends.items()}
            )
        assert await known(ancestors, txid) == {}
        assert ancestors._index.get(txid) is None
        await verified(bench, line)
        assert len(await known(ancestors, txid)) == 1
        stood = {tp.partition: at for tp, at in ancestors._positions.items()}
        await ancestors._sweep(stood)
        assert ancestors._index.get(txid) is None
    finally:
        await ancestors.stop()


async def test_a_follower_that_is_behind_says_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A condition, so that the payload comes back: unknown would be a verdict on what may be known."""
    monkeypatch.setattr("agents.runtime.ancestors.PATIENCE_S", 0.5)
    ancestors = index(bench)
    await ancestors.start()
    try:
        ancestors._tasks[0].cancel()
        await asyncio.wait(ancestors._tasks[:1])
        ancestors._tasks[0] = asyncio.ensure_future(asyncio.sleep(60))
        await verified(bench, chain(1))
        found = await ancestors.find([bytes(32)])
        assert isinstance(found, Condition)
        assert found.code == "structure.ancestor-unknown"
    finally:
        await ancestors.stop()


async def test_a_topic_that_was_made_anew_is_read_from_its_beginning(bench: Bench) -> None:
    """The index stands behind its end: nothing of it may be taken for known, or for unknown."""
    line, other = chain(1), chain(2, 10**8)
    ancestors = index(bench)
    await ancestors.start()
    await verified(bench, line)
    assert len(await known(ancestors, line.txs[0].txid)) == 1
    for tp in ancestors._positions:
        ancestors._index[_position(tp.partition)] = (10**6).to_bytes(8, "big")
        ancestors._index[bytes(32)] = _PLACE.pack(tp.partition, 10**6 - 1, 500)
    await ancestors.stop()
    await verified(bench, other)
    again = index(bench)
    await again.start()
    try:
        assert len(await known(again, other.txs[0].txid, line.txs[0].txid)) == 2
        assert await known(again, bytes(32)) == {}
        assert again._index.get(bytes(32)) is None
    finally:
        await again.stop()


@pytest.mark.setting("policy.max_named")
async def test_as_many_as_may_be_named_are_found_well_within_the_time(bench: Bench) -> None:
    """Each in a record of its own, over all partitions; and as many payloads at once."""
    coins = [funding(salt=n) for n in range(POLICY.max_named)]
    ancestors = index(bench)
    await ancestors.start()
    try:
        for n, coin in enumerate(coins):
            await verified(bench, bag(coin, proven=[coin]), (f"topic:tm_{n}",))
        txids = [coin.txid for coin in coins]
        began = time.monotonic()
        assert (await known(ancestors, *txids)).keys() == set(txids)
        together = await asyncio.gather(*(known(ancestors, txid) for txid in txids))
        assert [list(found) for found in together] == [[txid] for txid in txids]
        assert time.monotonic() - began < PATIENCE_S
    finally:
        await ancestors.stop()


async def test_a_place_that_is_newer_than_what_was_looked_up_stays(bench: Bench) -> None:
    """A record is gone by the time it is read; meanwhile the follower met the transaction again."""
    ancestors = index(bench)
    await ancestors.start()
    try:
        txid, old, new = bytes([7]) * 32, _PLACE.pack(0, 1, 500), _PLACE.pack(0, 9, 500)
        ancestors._index[txid] = new
        ancestors._forget({txid: old})
        assert ancestors._index.get(txid) == new
        ancestors._forget({txid: new})
        assert ancestors._index.get(txid) is None
    finally:
        await ancestors.stop()


async def test_what_following_fails_on_is_raised(bench: Bench) -> None:
    ancestors = index(bench)
    await ancestors.start()
    try:
        following = asyncio.ensure_future(ancestors.follow())
        await asyncio.sleep(0)
        assert not following.done()
        ancestors._index.close()
        await verified(bench, chain(1))
        with pytest.raises(Exception, match="closed"):
            await asyncio.wait_for(following, 20)
    finally:
        ancestors._index = index_of_nothing(bench)
        await ancestors.stop()


async def test_what_holds_the_named_ones_is_bounded(bench: Bench) -> None:
    line = chain(1)
    small = Policy(txid_only="resolve", max_payload_bytes=len(line.v1()) // 5)
    ancestors = Ancestors("verify", bench.kafka, bench.topics, small, bench.home / "ancestors", OPERATIONS.partitions)
    await ancestors.start()
    try:
        await verified(bench, line)
        found = await ancestors.find([line.txs[0].txid])
        assert isinstance(found, Verdict)
        assert found.code == "policy.limits"
    finally:
        await ancestors.stop()
