"""Whole transactions of listed outputs: the state says which entries brought them, and the journal holds those."""

import asyncio
import base64
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

from agents.runtime import journaled
from agents.runtime import reads as module
from agents.runtime.journaled import payload_of
from agents.runtime.partitioner import partition_for
from agents.runtime.places import Places
from agents.runtime.reads import Reads
from agents.runtime.records import Inbound
from agents.runtime.shelf import Readable
from pipeline import bag, baskets, listed, state
from pipeline.codec.beef import read_beef, write_atomic
from pipeline.codec.tx import Tx
from pipeline.keys import public_of
from pipeline.member import member_of
from pipeline.parse import Payload, parse
from pipeline.policy import Policy
from schemas.baskets import Insertion, Instruction, Payment
from schemas.flow import Apply, Asked, Evict, Readmit, Verified
from schemas.journal import JOURNAL as SCHEMA
from schemas.journal import Effects, JournalEntry
from schemas.state import Applied
from schemas.types import display
from tests import builders
from tests.agents.harness import Bench
from tests.conftest import Broker
from tests.fakes import NOW_MS, Owner, origin_at
from topics.registry import JOURNAL

pytestmark = pytest.mark.broker

KEY = public_of(bytes([7]) * 32)
CONTEXT = f"owner:{KEY.hex()}"
NUMBER = partition_for(CONTEXT.encode(), JOURNAL.partitions)
OTHER = "topic:tm_other"


@pytest.fixture
async def bench(broker: Broker, prefix: str, tmp_path: Path) -> AsyncIterator[Bench]:
    async with Bench(broker.bootstrap, prefix, tmp_path) as bench:
        yield bench


def submitted(made: builders.Bag, offset: int, basket: str = "coins") -> Apply:
    """A payload as verify lets it through, its outputs inserted into a basket."""
    payload = parse(made.v1(), Policy())
    assert isinstance(payload, Payload)
    members = tuple(member_of(tx) for tx in payload.unmined) or (member_of(payload.subject),)
    asked = Asked(origin_at(offset), f"request-{offset}", (CONTEXT,))
    proven = 900_000 if payload.subject.proven else -1
    verified = Verified(asked, payload.subject.txid, payload.canonical(), members, 1, proven)
    what = Insertion(basket, "", ()) if basket != baskets.CHANGE else Payment("cHJlZml4", "c3VmZml4", KEY)
    outputs = tuple((vout, what) for vout in range(len(payload.subject.outs) - 1))
    return Apply(f"apply:{offset}", verified, instruction=baskets.encode(Instruction(outputs, ("as a test",), ())))


def family() -> list[builders.Bag]:
    """A line of three un-mined ones, each sent with its ancestors; one that is proven; a payment with its parent."""
    line = builders.chain(3)
    alone = builders.funding(builders.Out(7), salt=5)
    return [
        *(builders.Bag(line.txs[: length + 1], line.proofs) for length in (1, 2, 3)),
        builders.bag(alone, proven=[alone], height=940_000),
        builders.bag(
            *(
                root := builders.funding(salt=6),
                builders.spend([builders.In(root)], [builders.Out(8), builders.Out(9)]),
            ),
            proven=[root],
            height=941_000,
        ),
    ]


async def written(bench: Bench, owner: Owner, **more: Any) -> None:
    """The context's journal as its topic has it."""
    entries = owner.journal[CONTEXT]
    await bench.send(JOURNAL, entries, [CONTEXT.encode()] * len(entries), partition=NUMBER, **more)


@asynccontextmanager
async def asked(bench: Bench, owner: Owner) -> AsyncIterator[Any]:
    """What a worker that holds the state answers: status and JSON."""
    held: Any = {NUMBER: Readable(cast(Any, owner.store), 1, owner=True)}
    reads = Reads(bench.kafka, bench.topics, {}, None, held, lambda *_: None, {})
    app = web.Application()
    reads.add_to(app.router)
    async with TestServer(app, host="127.0.0.1") as server, ClientSession() as session:

        async def get(what: str = "outputs?basket=coins", **params: str) -> tuple[int, Any]:
            url = server.make_url(f"/owners/{KEY.hex()}/{what}")
            given = {"consistency": "any", "include": "entire transactions", "limit": "100", **params}
            async with session.get(url.update_query(given)) as response:
                return response.status, await response.json()

        try:
            yield get
        finally:
            await reads.stop()


def holds(answer: Any, txs: Sequence[Tx]) -> bytes:
    """The answer's outputs are of these, each the subject of what is handed out."""
    assert {output["outpoint"].split(".")[0] for output in answer["outputs"]} == {display(tx.txid) for tx in txs}
    beef = base64.b64decode(answer["BEEF"], validate=True)
    for tx in txs:
        payload = parse(write_atomic(tx.txid, beef), Policy())
        assert isinstance(payload, Payload), payload
        assert payload.subject.raw == tx.raw
    return beef


async def test_an_answer_holds_the_transactions_of_its_outputs(bench: Bench) -> None:
    """All as one BEEF, each once; of what was judged again, moved by a merge, and came back too."""
    owner = Owner()
    made = family()
    for offset, each in enumerate(made):
        owner.do(CONTEXT, submitted(each, offset))
    last = made[2].txs[-1]
    moved = submitted(made[3], 7, "others")
    owner.do(CONTEXT, moved)
    paid = builders.chain(2, 10**6)
    owner.do(CONTEXT, submitted(paid, 8, baskets.CHANGE))
    owner.do(CONTEXT, Evict("evict", last.txid, "network.rejected", "no"))
    owner.do(CONTEXT, Readmit("readmit", last.txid))
    await written(bench, owner)
    async with asked(bench, owner) as get:
        status, answer = await get()
        assert (status, answer["totalOutputs"]) == (200, 3)  # of the line two are spent
        beef = holds(answer, [last, made[4].txs[-1]])
        txs = [tx.txid for tx in read_beef(beef, 100, 100).txs]
        assert len(txs) == len(set(txs)) == 4 + 2
        assert {"lockingScript", "tags"}.isdisjoint(answer["outputs"][0])
        status, answer = await get("outputs?basket=others")
        assert holds(answer, [made[3].txs[-1]]) == parse_of(made[3]).canonical()
        status, answer = await get("change")
        assert holds(answer, paid.txs[-1:]) == parse_of(paid).canonical()
        status, answer = await get("outputs?basket=none")
        assert (status, answer["outputs"], "BEEF" in answer) == (200, [], False)
        status, answer = await get(include="locking scripts")
        assert (status, len(answer["outputs"]), "BEEF" in answer) == (200, 3, False)


def parse_of(made: builders.Bag) -> Payload:
    payload = parse(made.v1(), Policy())
    assert isinstance(payload, Payload)
    return payload


async def pages(get: Any) -> list[Any]:
    """As a reader goes on behind what it was given."""
    found: list[Any] = []
    offset = 0
    while True:
        status, answer = await get(offset=str(offset))
        assert status == 200
        if not answer["outputs"]:
            assert offset == answer["totalOutputs"]
            return found
        found.append(answer)
        offset += len(answer["outputs"])


@pytest.mark.parametrize("bound", ["bytes", "transactions", "bytes of the state"])
async def test_a_page_is_smaller_where_it_would_be_too_much(
    bench: Bench, bound: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the next goes on behind it: nothing is left out, and nothing comes twice."""
    owner = Owner()
    txs = [builders.funding(builders.Out(7), builders.Out(8), salt=number) for number in range(5)]
    for number, tx in enumerate(txs):
        owner.do(CONTEXT, submitted(builders.bag(tx, proven=[tx], height=940_000 + number), number))
    await written(bench, owner)
    if bound == "bytes":
        most = len(builders.bag(txs[0], proven=txs[:1]).v1()) * 2 + 100
        monkeypatch.setattr(bag.Bag.add, "__defaults__", (most,))
    elif bound == "transactions":
        monkeypatch.setattr(listed, "MOST_WHOLE", 2)
    else:
        monkeypatch.setattr(listed, "PAGE_BYTES", len(owner.store.entries[state.key(CONTEXT, state.TX, txs[0].txid)]))
    async with asked(bench, owner) as get:
        found = await pages(get)
    in_order = sorted(txs, key=lambda tx: tx.txid)
    assert [len(answer["outputs"]) for answer in found] == [4, 4, 2]
    for number, answer in enumerate(found):
        holds(answer, in_order[number * 2 : number * 2 + 2])


class Slow(Places):
    """Hands over what two looks ask for, and nothing more."""

    looks = 0

    async def scan(self, partition: int, start: int, end: int) -> AsyncGenerator[Inbound, None]:
        self.looks += 1
        if self.looks > 2:
            await asyncio.Event().wait()
        async with aclosing(super().scan(partition, start, end)) as records:
            async for record in records:
                yield record


async def test_a_page_has_what_was_read_in_time(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a broker that is slow; and the next page may have the rest."""
    owner = Owner()
    txs = [builders.funding(builders.Out(7), salt=number) for number in range(4)]
    for number, tx in enumerate(txs):
        owner.do(CONTEXT, submitted(builders.bag(tx, proven=[tx], height=940_000 + number), number))
    await written(bench, owner)
    monkeypatch.setattr(module, "Places", Slow)
    monkeypatch.setattr(module, "WHOLE_S", 2.0)
    async with asked(bench, owner) as get:
        status, answer = await get()
        assert (status, answer["totalOutputs"]) == (200, 4)
        holds(answer, sorted(txs, key=lambda tx: tx.txid)[:2])
        status, answer = await get(offset="2")
        assert (status, answer["error"]) == (503, "behind")


async def test_transactions_of_two_chains_come_on_two_pages(bench: Bench) -> None:
    """No BEEF can name two roots of one block."""
    owner = Owner()
    txs = [builders.funding(builders.Out(7), salt=number) for number in range(2)]
    for number, tx in enumerate(txs):
        owner.do(CONTEXT, submitted(builders.bag(tx, proven=[tx], height=940_000), number))
    await written(bench, owner)
    async with asked(bench, owner) as get:
        found = await pages(get)
    assert [len(answer["outputs"]) for answer in found] == [1, 1]


async def test_what_the_journal_does_not_hold_is_said(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries that are not there, that hold something else, that nobody noted; and a broker that is slow."""
    owner = Owner()
    (made,) = family()[:1]
    owner.do(CONTEXT, submitted(made, 1))
    txid = made.txs[-1].txid
    async with asked(bench, owner) as get:
        status, answer = await get()
        assert (status, answer["error"]) == (404, "not-kept")
        assert display(txid) in answer["message"]
        whole = SCHEMA.decode(owner.journal[CONTEXT][0])
        broken = SCHEMA.encode(msgspec.structs.replace(whole, beef=b"no BEEF"))
        await bench.send(JOURNAL, [broken], [CONTEXT.encode()], partition=NUMBER)
        status, answer = await get()
        assert (status, answer["error"]) == (503, "broken")
        key = state.key(CONTEXT, state.TX, txid)
        applied = msgspec.msgpack.decode(state.unseal(owner.store.entries[key]), type=Applied)
        assert applied.brought == 1
        monkeypatch.setattr(module, "WHOLE_S", 0.0)
        status, answer = await get()
        assert (status, answer["error"]) == (503, "behind")
        owner.store.entries[key] = state.seal(state.encode(msgspec.structs.replace(applied, brought=0)))
        monkeypatch.undo()
        assert (await get())[0] == 404


class Counted(Places):
    """Counts records that looks handed over."""

    taken = 0

    async def scan(self, partition: int, start: int, end: int) -> AsyncGenerator[Inbound, None]:
        async with aclosing(super().scan(partition, start, end)) as records:
            async for record in records:
                self.taken += 1
                yield record


def entry(context: str, sequence: int, beef: bytes = b"") -> bytes:
    made = JournalEntry(
        context=context, sequence=sequence, previous=bytes(32), operation="o", kind="apply", txid=bytes(32),
        effects=Effects(), state_root=bytes(32), store_root=bytes(32), manager="", origin=None, time_ms=0, beef=beef,
    )  # fmt: skip
    return SCHEMA.encode(made)


@pytest.mark.parametrize("came", ["just before", "after, as a clock says", "long before"])
async def test_a_payload_is_found_by_its_time_among_many_of_others(
    bench: Bench, came: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And by its sequence where it waited, or a clock was wrong."""
    monkeypatch.setattr(journaled, "THROUGH", 1_000)
    minute = 60_000
    for number in range(6):
        others = [entry(OTHER, number * 600 + each + 1) for each in range(600)]
        at = NOW_MS + number * minute
        await bench.send(JOURNAL, others, [OTHER.encode()] * 600, partition=NUMBER, timestamp_ms=at)
        await bench.send(
            JOURNAL, [entry(CONTEXT, number + 1, b"payload %d" % number)], [CONTEXT.encode()], partition=NUMBER,
            timestamp_ms=at + 50,
        )  # fmt: skip
    places = Counted(bench.kafka, JOURNAL.named(bench.prefix), JOURNAL.partitions)
    await places.start()
    try:
        end = await places.end(NUMBER)
        for number in (0, 3, 5):
            since_ms = NOW_MS + number * minute + {"just before": 40, "long before": -5 * minute}.get(came, 90 * minute)
            places.taken = 0
            found = await payload_of(places, NUMBER, CONTEXT, number + 1, since_ms, end)
            assert found == b"payload %d" % number
            assert came != "just before" or places.taken == 601
        assert await payload_of(places, NUMBER, CONTEXT, 7, NOW_MS, end) is None
        assert await payload_of(places, NUMBER, "topic:tm_nowhere", 1, NOW_MS, end) is None
    finally:
        await asyncio.wait_for(places.stop(), 10)
