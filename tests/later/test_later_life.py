"""What becomes of a transaction after it was accepted, and of what depends on it: on a whole installation."""

import asyncio
import functools
import itertools
import json
import urllib.request
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import msgspec
import pytest

from beefline.reading import StateReader
from ops.home import home
from ops.installation import Installation
from ops.instruments.chain import Chain
from ops.instruments.keys import Key, Made
from ops.instruments.wire import Entry, write_beef, write_bump
from ops.instruments.workshop import Bag, Workshop
from ops.running import running_workers
from ops.simulate.endpoint import TxScript
from ops.status import group_lags
from pipeline.results import network_id
from schemas.external import RESULT, Result
from schemas.journal import JOURNAL as JOURNAL_SCHEMA
from schemas.network import NETWORK_STATUS, NetworkStatus
from schemas.types import Txid, display
from tests.agents.harness import Bench
from tests.e2e.asking import Talk
from tests.faults.test_replay import reset
from tests.hurrying import hurried
from tests.later.conftest import SECRET
from topics.registry import BY_NAME, INGEST, JOURNAL, RESULTS, TIERS, TRANSACTIONS
from topics.registry import NETWORK_STATUS as STATUS_TOPIC

pytestmark = pytest.mark.broker

World = tuple[Installation, asyncio.AbstractEventLoop]

WITHIN_S = 60.0

FOLLOWS_S = 2.0
"""A settle time, the look at its end, and what that comes to."""


class Life(Talk):
    """A talk that can also speak for the network."""

    def __init__(self, installation: Installation, shop: Workshop) -> None:
        super().__init__(installation)
        assert installation.services is not None
        self.arcs = installation.services.arcs
        self.trackers = [url.removesuffix("/v1/bsv/main") for _, url in installation.services.headers]
        self.shop = shop
        self.chain = shop.chain

    # --- the network

    async def turn(self, made: Made, status: str, info: str = "turned", competing: Sequence[Txid] = ()) -> None:
        """From now on endpoints say this of a transaction, and both say so at once."""
        for arc in self.arcs:
            await order(f"{arc}/simulate/faults", TxScript(display(made.txid), status, info))
            headers = {"Content-Type": "application/octet-stream"}
            await asyncio.to_thread(post, f"{arc}/v1/txs", made.extended(), headers)
        rivals = [display(txid) for txid in competing]
        for arc in self.arcs:
            said = {"txid": display(made.txid), "txStatus": status, "extraInfo": info, "competingTxs": rivals}
            await self.call_back(f"arc@{arc.removeprefix('http://')}", said)

    async def call_back(self, endpoint: str, said: dict[str, Any]) -> None:
        """An endpoint calls back."""
        (worker,) = [worker for worker in running_workers() if worker.stage == "status"]
        headers = {"Authorization": f"Bearer {SECRET}", "Content-Type": "application/json"}
        body = json.dumps(said).encode()
        await asyncio.to_thread(post, f"{worker.http}/callback?endpoint={endpoint}", body, headers)

    async def blocks(self, *roots: Txid) -> int:
        """The chain's last two blocks are others now, the first of them with this root; its height."""
        for tracker in self.trackers:
            fault: dict[str, Any] = {"mode": "none"}
            if roots:
                fault = {"mode": "reorganisation", "depth": 2, "roots": [display(root) for root in roots]}
            await order(f"{tracker}/simulate/faults", fault)
        await asyncio.sleep(1.5)  # `watch_s` and `tip_ttl_s`, so that payloads are judged by these
        return self.chain.tip - 1

    # --- what is asked for

    async def ask(self, bag: Bag | bytes, *topics: str) -> str:
        """Its request id."""
        beef = bag if isinstance(bag, bytes) else self.shop.frame(bag)
        return await self.send(beef, [("topics", json.dumps(topics).encode())])

    async def applied(self, bag: Bag | bytes, *topics: str) -> str:
        """The same, once it is."""
        request = await self.ask(bag, *topics)
        decided = await self.decisions(request, len(topics))
        assert {result.outcome for result in decided} == {"applied"}, decided
        return request

    async def accepted(self, bag: Bag | bytes, *topics: str) -> str:
        """The same, once the network took it."""
        request = await self.applied(bag, *topics)
        assert (await self.network(request)).outcome == "accepted"
        return request

    # --- what stands

    async def roots(self, *topics: str) -> list[str]:
        """State roots."""
        async with StateReader(running_workers()[0].http) as reader:
            return [(await reader.state(topic)).state_root for topic in topics]

    async def standing(self, txid: Txid) -> dict[str, str]:
        """By topic."""
        async with StateReader(running_workers()[0].http) as reader:
            found = (await reader.transaction(display(txid))).contexts
        return {each.state.context.removeprefix("topic:"): each.standing for each in found}

    async def standing_in(self, txid: Txid, topic: str) -> str | None:
        """In one topic."""
        return (await self.standing(txid)).get(topic)

    async def becomes(self, txid: Txid, wanted: dict[str, str]) -> None:
        """Wait until it stands so."""
        await self.until(lambda: self.standing(txid), wanted)

    async def until(self, ask: Callable[[], Any], wanted: Any) -> None:
        """Wait until the answer is this one."""
        last = None
        try:
            async with asyncio.timeout(WITHIN_S):
                while (last := await ask()) != wanted:
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise AssertionError(f"{last}, and not {wanted}") from None

    async def outcome(self, txid: Txid) -> str:
        """The network's, by the highest revision."""
        found = [result for result in await self.everything() if result.id == network_id(txid)]
        return max(found, key=lambda result: result.revision).outcome if found else ""

    async def everything(self) -> list[Result]:
        """All results there are."""
        await self.wait(lambda _: True)
        for _ in range(2):
            for records in (await self._consumer.getmany(timeout_ms=100)).values():
                self.results += [RESULT.decode(record.value, record.headers) for record in records]
        return self.results

    async def told(self, outcome: str) -> set[tuple[str | None, str | None]]:
        """Txid and context of results of this outcome."""
        return {(result.txid, result.context) for result in await self.everything() if result.outcome == outcome}


async def order(url: str, what: Any) -> None:
    """To a simulated service."""
    await asyncio.to_thread(post, url, msgspec.json.encode(what), {"Content-Type": "application/json"})


def post(url: str, body: bytes, headers: dict[str, str]) -> None:
    """Raises HTTPError for anything but success."""
    with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=10) as reply:
        reply.read()


@pytest.fixture(scope="module")
def shop(world: World) -> Workshop:
    return Workshop(Chain.open(home() / "simulate" / "chain"), seed=29)


@pytest.fixture
async def life(world: World, shop: Workshop) -> AsyncIterator[Life]:
    life = Life(world[0], shop)
    async with life, hurried():
        yield life


def keys(life: Life, count: int) -> list[Key]:
    return [life.shop.key() for _ in range(count)]


def line(life: Life, count: int) -> tuple[Any, list[Made]]:
    """A coin of the chain, and transactions each of which spends the one before."""
    coin = life.shop.take()
    owners = keys(life, count)
    made = [life.shop.pay([coin.coin], key=owners[0])]
    for before, owner in itertools.pairwise(owners):
        made.append(life.shop.pay([made[-1].coin(0, before)], key=owner))
    return coin, made


def in_block(made: Made, height: int) -> bytes:
    """A payload of one transaction, the only one of its block."""
    return write_beef([write_bump(height, [[(0, 2, made.txid)]])], [Entry(made.raw, 0)])


async def kinds(bench: Bench, txid: Txid) -> dict[str, list[str]]:
    """What the journal says of a transaction, by topic."""
    found: dict[str, list[str]] = {}
    for record in await bench.read(JOURNAL):
        entry = JOURNAL_SCHEMA.decode(record.value)
        if entry.txid == txid:
            found.setdefault(entry.context.removeprefix("topic:"), []).append(entry.kind)
    return found


async def heard_again(life: Life, bench: Bench) -> None:
    """Whatever waits in a tier by now has returned, and what came of it is written."""
    ends = {tier: await bench.ends(tier) for tier in map(BY_NAME.__getitem__, TIERS)}

    async def returned() -> bool:
        at = {tier: await bench.positions("retry", tier) for tier in ends}
        return all(at[tier].get(number, 0) >= end for tier, of in ends.items() for number, end in of.items() if end)

    async def written() -> bool:
        lags = await group_lags(life.settings.kafka, life.settings.topics)
        return not any(lag for stage, lag in lags.items() if stage != "retry")

    await life.until(returned, True)
    await life.until(written, True)


async def stands(life: Life, bench: Bench) -> None:
    """Wait until conditions that come back, once and again, bring no further result."""
    before, now = -1, len(await bench.read(RESULTS))
    async with asyncio.timeout(WITHIN_S):
        while before != now:
            before = now
            for _ in range(2):
                await heard_again(life, bench)
                await asyncio.sleep(FOLLOWS_S)
            now = len(await bench.read(RESULTS))


async def replayed(life: Life, world: World, bench: Bench, *requests: str) -> None:
    """Parse set back to its beginning: ids are equal, and the highest revisions say what they said.

    requests: whose proofs are of blocks that stand: none of them gets an id that it did not have.
    """
    installation, loop = world
    before = await bench.standing()
    seen, sent = len(await bench.read(RESULTS)), len(await bench.read(INGEST))
    coro = reset(installation, "parse", INGEST.name, "--to-earliest")
    await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coro, loop))

    async def again() -> bool:
        return len(await bench.read(RESULTS)) >= seen + sent

    await life.until(again, True)
    await stands(life, bench)
    after = await bench.standing()
    assert before.keys() <= after.keys()
    # A proof of a block that was replaced since is refused before any context.
    more = [result for name, result in after.items() if name not in before]
    assert {(each.context, each.outcome, each.code) for each in more} <= {(None, "rejected", "anchor.wrong-root")}
    assert not [each for each in more if set(each.request_ids) & set(requests)]
    differ = {
        (
            before[name].outcome,
            before[name].code,
            result.outcome,
            result.code,
            result.context,
            result.competing,
            result.txid,
        )
        for name, result in after.items()
        if name in before and result.outcome != before[name].outcome
    }
    # What was applied and evicted since is told as evicted by its own coordinate too, at a higher revision.
    known = ("applied", None, "rejected", "conflict.evicted")
    assert [each for each in differ if each[:4] != known] == []


@pytest.fixture
def bench(world: World, tmp_path: Any) -> Bench:
    loaded = world[0].loaded
    assert loaded is not None
    return Bench(loaded.settings.kafka.bootstrap, loaded.settings.topics.prefix, tmp_path)


# --- late double spends


@pytest.mark.invariant("APPLY-4")
@pytest.mark.invariant("STATUS-2")
async def test_a_late_refusal_takes_three_generations_out_of_two_contexts_and_back(life: Life, bench: Bench) -> None:
    """State as if they had never been there; in the journal and results what happened; and back as if nothing had."""
    both = ("tm_anytx", "tm_other")
    coin, made = line(life, 1)
    await life.accepted(Bag([coin], made), *both)
    without = await life.roots(*both)
    coin, made = line(life, 4)
    for count in range(1, 5):
        await life.accepted(Bag([coin], made[:count]), *both)
    whole = await life.roots(*both)
    rival = bytes(range(32))
    await life.turn(made[0], "REJECTED", "txn-mempool-conflict", [rival])
    for each in reversed(made):
        await life.becomes(each.txid, dict.fromkeys(both, "refused" if each is made[0] else "departed"))
    assert await life.roots(*both) == without
    wanted = {(display(each.txid), f"topic:{topic}") for each in made for topic in both}
    await life.until(lambda: life.told("evicted"), wanted)
    evicted = [result for result in life.results if result.outcome == "evicted"]
    assert {result.competing for result in evicted} == {(display(rival),)}
    await life.until(lambda: life.outcome(made[0].txid), "refused")
    for each in made:
        assert await kinds(bench, each.txid) == {topic: ["apply", "evict"] for topic in both}
    # Once more, and of something unknown: nothing changes.
    await life.turn(made[0], "REJECTED", "txn-mempool-conflict", [rival])
    _, (stranger,) = line(life, 1)
    await life.turn(stranger, "REJECTED", "mandatory-script-verify-flag-failed")
    await asyncio.sleep(3)
    assert await life.roots(*both) == without
    assert len([r for r in await life.everything() if r.outcome == "evicted"]) == len(evicted)
    # Seen after all.
    await life.turn(made[0], "SEEN_ON_NETWORK")
    for each in made:
        await life.becomes(each.txid, dict.fromkeys(both, "applied"))
    assert await life.roots(*both) == whole
    for each in made:
        assert await kinds(bench, each.txid) == {topic: ["apply", "evict", "readmit"] for topic in both}
    await life.until(lambda: life.outcome(made[0].txid), "accepted")


async def test_a_child_sent_elsewhere_before_during_or_after_is_evicted_too(life: Life) -> None:
    coin, owners = life.shop.take(), keys(life, 3)
    parent = life.shop.pay([coin.coin], [(1_000, owner.script) for owner in owners])
    # Of an output each: rivals would be refused for one another.
    children = [life.shop.pay([parent.coin(vout, owner)]) for vout, owner in enumerate(owners)]
    await life.accepted(Bag([coin], [parent]), "tm_anytx")
    before, during, after = (Bag([coin], [parent, child]) for child in children)
    await life.applied(before, "tm_before")
    await asyncio.gather(life.turn(parent, "REJECTED", "txn-mempool-conflict"), life.ask(during, "tm_during"))
    await life.becomes(parent.txid, {"tm_anytx": "refused", "tm_before": "refused", "tm_during": "refused"})
    await life.ask(after, "tm_after")
    for child, topic in zip(children, ("tm_before", "tm_during", "tm_after"), strict=True):
        await life.until(functools.partial(life.standing_in, parent.txid, topic), "refused")
        assert await life.standing_in(child.txid, topic) in (None, "departed")


async def test_refused_for_a_rival_that_had_lost_the_rival_ends_applied_and_the_coin_is_never_free(life: Life) -> None:
    coin, (parent,) = line(life, 1)
    owner = next(key for key in life.chain.keys if key.script == parent.outputs[0][1])
    first, second = (life.shop.pay([parent.coin(0, owner)], key=key) for key in keys(life, 2))
    await life.accepted(Bag([coin], [parent]), "tm_back")
    await life.accepted(Bag([coin], [parent, first]), "tm_back")
    loser = await life.ask(Bag([coin], [parent, second]), "tm_back")
    (lost,) = await life.decisions(loser)
    assert (lost.code, lost.competing) == ("conflict.double-spend", (display(first.txid),))
    for arc in life.arcs:
        await order(f"{arc}/simulate/faults", TxScript(display(second.txid), "SEEN_ON_NETWORK", "won"))
    offered: set[tuple[str, ...]] = set()
    done = asyncio.Event()

    async def watch() -> None:
        async with StateReader(running_workers()[0].http) as reader:
            while not done.is_set():
                async for output in reader.outputs("tm_back"):
                    if output.outpoint == f"{display(parent.txid)}.0":
                        offered.add(output.contested_by)

    watching = asyncio.ensure_future(watch())
    await life.turn(first, "REJECTED", "txn-mempool-conflict", [second.txid])
    *_, won = await life.decisions(loser, 2)
    assert (won.outcome, won.id) == ("applied", lost.id)
    assert won.revision > lost.revision
    assert (await life.network(loser)).outcome == "accepted"
    done.set()
    await watching
    assert offered <= {(display(second.txid),)}, "never as free"
    assert await life.standing(second.txid) == {"tm_back": "applied"}
    assert await life.standing(first.txid) == {"tm_back": "refused"}


# --- rivals


@pytest.mark.invariant("STATUS-3")
async def test_a_rival_in_a_block_sent_to_one_of_two_contexts_has_the_first_evicted_in_both(
    life: Life, world: World, bench: Bench
) -> None:
    coin = life.shop.take()
    first, second = (life.shop.pay([coin.coin], key=key) for key in keys(life, 2))
    before = await life.accepted(Bag([coin], [first]), "tm_anytx", "tm_other")
    height = await life.blocks(second.txid)
    request = await life.ask(in_block(second, height), "tm_anytx")
    await life.becomes(first.txid, {"tm_anytx": "refused", "tm_other": "refused"})
    (decided,) = await life.decisions(request)
    assert decided.outcome == "applied"
    assert await life.outcome(first.txid) == "refused"
    await replayed(life, world, bench, before, request)
    await life.becomes(first.txid, {"tm_anytx": "refused", "tm_other": "refused"})
    await life.becomes(second.txid, {"tm_anytx": "applied"})
    await life.blocks()  # its block was replaced, and endpoints have the first: nobody ever sent the second
    await life.becomes(second.txid, {"tm_anytx": "refused"})
    await life.becomes(first.txid, {"tm_anytx": "applied", "tm_other": "applied"})
    await life.until(lambda: life.outcome(first.txid), "accepted")


@pytest.mark.invariant("STATUS-3")
async def test_both_in_blocks_over_a_reorganisation_the_standing_block_is_right_each_time(life: Life) -> None:
    coin = life.shop.take()
    first, second = (life.shop.pay([coin.coin], key=key) for key in keys(life, 2))
    height = await life.blocks(first.txid)
    await life.applied(in_block(first, height), "tm_anytx")
    await life.blocks(second.txid)
    request = await life.ask(in_block(second, height), "tm_anytx")
    await life.becomes(first.txid, {"tm_anytx": "refused"})
    assert (await life.decisions(request))[0].outcome == "applied"
    await life.blocks(first.txid)
    again = await life.ask(in_block(first, height), "tm_anytx")
    await life.becomes(second.txid, {"tm_anytx": "refused"})
    await life.becomes(first.txid, {"tm_anytx": "applied"})
    assert (await life.decisions(again))[-1].outcome == "applied"
    await life.blocks()


@pytest.mark.invariant("STATUS-3")
async def test_mined_as_an_endpoint_said_and_then_the_other_is_in_the_block_in_its_place(
    life: Life, world: World, bench: Bench
) -> None:
    """The first came before its block, so that its payload is as good when the block is gone: no id is a new one."""
    coin = life.shop.take()
    first, second = (life.shop.pay([coin.coin], key=key) for key in keys(life, 2))
    before = await life.accepted(Bag([coin], [first]), "tm_anytx")
    height = await life.blocks(first.txid)
    path = write_bump(height, [[(0, 2, first.txid)]]).hex()
    said = {"txid": display(first.txid), "txStatus": "MINED", "merklePath": path, "blockHeight": height}
    await life.call_back(f"arc@{life.arcs[0].removeprefix('http://')}", said)

    async def mined() -> bool:
        return (display(first.txid), None) in await life.told("mined")

    await life.until(mined, True)
    await life.blocks(second.txid)
    request = await life.ask(in_block(second, height), "tm_anytx")
    await life.becomes(first.txid, {"tm_anytx": "refused"})
    assert (await life.decisions(request))[-1].outcome == "applied"
    await replayed(life, world, bench, before, request)
    await life.becomes(first.txid, {"tm_anytx": "refused"})
    await life.becomes(second.txid, {"tm_anytx": "applied"})
    await life.blocks()


async def test_one_that_nobody_broadcast_gives_way(life: Life, world: World, bench: Bench) -> None:
    """The topic made nothing of it, so nobody ever asked for it to be sent."""
    coin = life.shop.take()
    first, second = (life.shop.pay([coin.coin], key=key) for key in keys(life, 2))
    before = await life.applied(Bag([coin], [first]), "tm_helloworld")
    request = await life.ask(Bag([coin], [second]), "tm_helloworld")
    await life.becomes(first.txid, {"tm_helloworld": "refused"})
    assert (await life.decisions(request))[0].outcome == "applied"
    await replayed(life, world, bench, before, request)
    await life.becomes(first.txid, {"tm_helloworld": "refused"})
    await life.becomes(second.txid, {"tm_helloworld": "applied"})


# --- one outcome, proofs


async def test_one_transaction_by_many_ways_has_one_outcome(life: Life) -> None:
    """Through three requests, and as an ancestor of three others."""
    coin, (parent,) = line(life, 1)
    owner = next(key for key in life.chain.keys if key.script == parent.outputs[0][1])
    wide = life.shop.pay([parent.coin(0, owner)], [(1_000, key.script) for key in keys(life, 3)], keys(life, 1)[0])
    owners = [next(key for key in life.chain.keys if key.script == script) for _, script in wide.outputs[:3]]
    children = [life.shop.pay([wide.coin(at, key)], key=key) for at, key in enumerate(owners)]
    bag = Bag([coin], [parent, wide])
    requests = await asyncio.gather(
        *(life.ask(bag, topic) for topic in ("tm_anytx", "tm_other", "tm_back")),
        *(life.ask(Bag([coin], [parent, wide, child]), "tm_anytx") for child in children),
    )
    for request in requests[3:]:
        assert (await life.network(request)).outcome == "accepted"

    async def ids() -> tuple[set[str], set[str]]:
        said = [result for result in await life.everything() if result.id == network_id(wide.txid)]
        last = max(said, key=lambda result: result.revision, default=None)
        return {result.outcome for result in said}, set(last.request_ids if last else ())

    await life.until(ids, ({"accepted"}, set(requests[:3])))


@pytest.mark.invariant("ANCHOR-2")
async def test_proofs_are_believed_when_the_trackers_say_so_and_dropped_with_their_block(
    life: Life, bench: Bench
) -> None:
    coin, (made,) = line(life, 1)
    await life.accepted(Bag([coin], [made]), "tm_anytx")
    endpoint = f"arc@{life.arcs[0].removeprefix('http://')}"
    height = await life.blocks(made.txid)
    _, (other,) = line(life, 1)

    async def mined() -> tuple[int, bool]:
        records = [record for record in await bench.read(STATUS_TOPIC) if record.key == made.txid]
        status: NetworkStatus = NETWORK_STATUS.decode(records[-1].value, records[-1].headers)
        return status.height, bool(status.path)

    async def proof(txid: Txid, at: int) -> None:
        path = write_bump(at, [[(0, 2, txid)]]).hex()
        said = {"txid": display(made.txid), "txStatus": "MINED", "merklePath": path, "blockHeight": at}
        await life.call_back(endpoint, said)

    await proof(other.txid, height)  # of another transaction
    await proof(made.txid, height + 1)  # a root that its block does not have
    await proof(made.txid, height + 500)  # a block that nobody knows
    await asyncio.sleep(2)
    assert await mined() == (-1, False)
    await proof(made.txid, height)
    await life.until(mined, (height, True))
    name = display(made.txid)
    await life.until(lambda: life.told("mined"), {(name, None)})
    await life.blocks(other.txid, made.txid)  # its block is another, one higher
    await life.until(mined, (-1, False))
    await proof(made.txid, height + 1)
    await life.until(mined, (height + 1, True))
    heights = {r.block_height for r in await life.everything() if r.outcome == "mined" and r.txid == name}
    assert heights == {height, height + 1}
    assert await life.outcome(made.txid) == "accepted"
    await life.blocks()


@pytest.mark.invariant("STATUS-4")
async def test_what_all_refused_and_somebody_has_after_all_is_on_transactions(life: Life, bench: Bench) -> None:
    coin, (made,) = line(life, 1)
    for arc in life.arcs:
        await order(f"{arc}/simulate/faults", TxScript(display(made.txid), "REJECTED", "mandatory-script-verify"))
    request = await life.applied(Bag([coin], [made]), "tm_anytx")
    await life.becomes(made.txid, {"tm_anytx": "refused"})
    assert (await life.network(request)).outcome == "refused"
    handed = [record for record in await bench.read(TRANSACTIONS) if record.key == made.txid]
    assert handed == []
    await life.turn(made, "SEEN_ON_NETWORK")
    await life.becomes(made.txid, {"tm_anytx": "applied"})
    handed = [record for record in await bench.read(TRANSACTIONS) if record.key == made.txid]
    assert [record.value for record in handed] == [made.extended()]


# --- and all of it again


@pytest.mark.invariant("RESULT-1")
async def test_parse_set_back_after_all_that_brings_nothing_back(life: Life, world: World, bench: Bench) -> None:
    """Of whatever the tests above left: last in this file, since it reads everything again."""
    topics = ("tm_anytx", "tm_other", "tm_before", "tm_during", "tm_after", "tm_back", "tm_helloworld")
    before = await life.roots(*topics)
    await replayed(life, world, bench)
    assert await life.roots(*topics) == before
