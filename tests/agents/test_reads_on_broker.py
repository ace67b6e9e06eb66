"""Reads over HTTP from real workers: any of them answers, strong is strong, and what differs is not told."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from rocksdict import Options, Rdict

from agents.runtime.journaled import NEAR, journal_page
from agents.runtime.partitioner import partition_for
from agents.runtime.places import Places
from agents.runtime.records import Inbound
from beefline.reading import NoAnswer, StateReader
from pipeline import state
from pipeline.codec.tx import Tx
from schemas.external import EVENT, RESULT, ContextState, Standing, TransactionStanding
from schemas.flow import OPERATION, Apply, Evict
from schemas.journal import JOURNAL as SCHEMA
from schemas.journal import Effects, JournalEntry
from schemas.members import MEMBER, Held, Member
from schemas.types import display, outpoint
from tests.agents.harness import Bench, Worker, get_json, until
from tests.agents.serving import served
from tests.conftest import Broker
from tests.fakes import apply_of, coin_of_others, made_tx, verified
from topics.registry import EVENTS, JOURNAL, MEMBERS, OPERATIONS, RESULTS

pytestmark = pytest.mark.broker

ALL, KEEP = "tm_all", "tm_keep"


@pytest.fixture
async def bench(broker: Broker, prefix: str, tmp_path: Path) -> AsyncIterator[Bench]:
    async with Bench(broker.bootstrap, prefix, tmp_path) as bench:
        yield bench


def apply_worker(bench: Bench, name: str = "a") -> Worker:
    """With stores of its own, as on a machine of its own."""
    return bench.worker("apply", f"worker.data_dir={bench.home / name}")


async def ready(*workers: Worker) -> None:
    async def all_ready() -> bool:
        return all(worker.readiness().get("ready") for worker in workers)

    await until(all_ready, "ready workers")


def reader_of(worker: Worker) -> StateReader:
    url = worker.address()
    assert url is not None
    return StateReader(url)


async def ask(bench: Bench, topic: str, *operations: Apply | Evict) -> None:
    values = [OPERATION.encode(operation) for operation in operations]
    await bench.send(OPERATIONS, values, [f"topic:{topic}".encode()] * len(values), headers=[OPERATION.header])


def applies(txs: Sequence[Tx], begin: int = 0) -> list[Apply]:
    return [apply_of(verified(tx, offset=number)) for number, tx in enumerate(txs, begin)]


async def decided(bench: Bench, topic: str, count: int) -> list[Any]:
    """Results of a topic, once there are `count`."""

    async def found() -> list[Any]:
        results = [RESULT.decode(record.value) for record in await bench.read(RESULTS)]
        return [result for result in results if result.context == f"topic:{topic}"]

    async def enough() -> bool:
        return len(await found()) >= count

    await until(enough, f"{count} results of {topic}")
    return await found()


@pytest.mark.invariant("READ-1")
async def test_any_worker_answers_for_what_another_holds(bench: Bench) -> None:
    """Two that share the state, and one of another stage, say the same; it is what the journal and the results say."""
    workers = [apply_worker(bench, "a"), apply_worker(bench, "b"), bench.worker("odd")]
    await ready(*workers)
    txs = [made_tx([coin_of_others(salt)], 2, salt) for salt in range(6)]
    await ask(bench, ALL, *applies(txs))
    await ask(bench, KEEP, *applies(txs[:2]))
    newest = {topic: max(r.sequence for r in await decided(bench, topic, n)) for topic, n in ((ALL, 6), (KEEP, 2))}

    async def shared() -> bool:
        return all([await held_by(bench, worker) for worker in workers[:2]])

    await until(shared, "both share the state")
    entries = [SCHEMA.decode(record.value) for record in await bench.read(JOURNAL)]
    for topic, sequence in newest.items():
        last = max((e for e in entries if e.context == f"topic:{topic}"), key=lambda entry: entry.sequence)
        for worker in workers:
            async with reader_of(worker) as reader:
                told = await reader.state(topic, min_sequence=sequence)
                assert (told.sequence, told.state_root) == (last.sequence, last.state_root.hex())
                assert told.store_root == last.store_root.hex()
                assert (await reader.state(topic, consistency="any")).sequence == last.sequence
                live = [output.outpoint async for output in reader.outputs(topic)]
                wanted = txs[:sequence]
                assert len(live) == 2 * len(wanted)
                assert {point.split(".")[0] for point in live} == {display(tx.txid) for tx in wanted}
                page = await reader.page(topic, limit=3)
                assert [each.outpoint for each in page.outputs] == live[:3]
                assert page.next == live[2]
                standing = await reader.transaction(display(txs[0].txid))
                assert [each.state.context for each in standing.contexts] == ["topic:tm_all", "topic:tm_keep"]
                assert (len(standing.partitions), standing.missing) == (OPERATIONS.partitions, ())
                assert (await reader.transaction("00" * 32)).contexts == ()
                journal = [entry async for entry in reader.journal(f"topic:{topic}", 2)]
                assert [entry.sequence for entry in journal] == list(range(2, sequence + 1))
                assert journal[-1].state_root == told.state_root
    for worker in workers[:2]:
        assert worker.ended() is None


async def held_by(bench: Bench, worker: Worker) -> set[int]:
    """What a worker says on `members`."""
    from schemas.members import MEMBER

    found: set[int] = set()
    for record in await bench.read(MEMBERS):
        if record.value is not None:
            member = MEMBER.decode(record.value)
            if member.url == worker.address():
                found = {each.partition for each in member.held}
    return found


async def test_what_is_asked_wrongly_or_cannot_be_answered_is_said(bench: Bench) -> None:
    """Without a worker that holds the state; then with one."""
    odd = bench.worker("odd")
    await ready(odd)
    url = odd.address()
    async with reader_of(odd) as reader:
        with pytest.raises(NoAnswer, match="no worker says that it holds"):
            await reader.state(ALL)
        with pytest.raises(NoAnswer, match="no worker answers for partitions 0, 1, 2"):
            await reader.transaction("00" * 32)
        assert len((await reader.transaction("00" * 32, consistency="any")).missing) == OPERATIONS.partitions
        assert [entry async for entry in reader.journal("topic:tm_all")] == []
    apply = apply_worker(bench)
    await ready(apply)
    owner, values = (f"/owners/02{'11' * 32}/{what}" for what in ("outputs", "values"))
    for path in (
        "/topics/TM_X/state",
        "/topics/tm_all/state?consistency=perhaps",
        "/topics/tm_all/state?min_sequence=-1",
        "/topics/tm_all/outputs?limit=0",
        "/topics/tm_all/outputs?limit=1001",
        "/topics/tm_all/outputs?after=x",
        "/transactions/zz",
        "/journal/tm_all",
        "/journal/topic:tm_all?from=x",
        "/owners/02ab/state",
        f"/owners/04{'11' * 32}/baskets",
        f"{owner}?limit=10",
        f"{owner}?basket=default",
        f"{owner}?basket=admin%20x",
        f"{owner}?basket=x&limit=0",
        f"{owner}?basket=x&limit=10001",
        f"{owner}?basket=x&offset=-1",
        f"{owner}?basket=x&tagQueryMode=some",
        f"{owner}?basket=x&tag=",
        f"{owner}?basket=x&include=all",
        f"{owner}?basket=x&includeTags=yes",
        f"{owner}?basket=x" + "&tag=t" * 101,
        f"{owner}?basket=x" + "&tag=t" * 51 + "&field=0=00" * 50,
        f"{owner}?basket=x&field=0",
        f"{owner}?basket=x&field=16=00",
        f"{owner}?basket=x&field=-1=00",
        f"{owner}?basket=x&field=0=0",
        f"{owner}?basket=x&field=0={'00' * 301}",
        f"{values}?basket=x",
        f"{values}?basket=default&field=0",
        f"{values}?basket=x&field=16",
        f"{values}?basket=x&field=0&value=x",
        f"{values}?basket=x&field=0&after={'00' * 301}",
        f"{values}?basket=x&field=0&limit=1001",
    ):
        assert get_json(f"{url}{path}")["error"] == "bad-request", path
    async with reader_of(apply) as reader:
        with pytest.raises(NoAnswer, match="behind: topic:tm_all stands before sequence 5"):
            await reader.state(ALL, min_sequence=5)


@pytest.mark.invariant("READ-1")
async def test_a_strong_read_sees_what_was_committed_before_it(bench: Bench) -> None:
    """Again and again, at once behind the result."""
    worker = apply_worker(bench)
    await ready(worker)
    async with reader_of(worker) as reader:
        for number in range(10):
            await ask(bench, ALL, *applies([made_tx([coin_of_others(number)], 1, number)], number))
            results = await decided(bench, ALL, number + 1)
            assert (await reader.state(ALL)).sequence >= max(result.sequence for result in results)


@pytest.mark.invariant("READ-1")
async def test_a_zombie_never_answers_a_strong_read_with_what_is_old(bench: Bench) -> None:
    """Stopped while it held the state, replaced, continued, and asked at that very moment."""
    first = apply_worker(bench, "a")
    await ready(first)
    await ask(bench, ALL, *applies([made_tx([coin_of_others(1)], 1, 1)]))
    await decided(bench, ALL, 1)
    async with reader_of(first) as zombie:
        assert (await zombie.state(ALL)).sequence == 1
        os.kill(first.pid, signal.SIGSTOP)
        asking = asyncio.ensure_future(zombie.state(ALL))  # it waits in the socket
        second = apply_worker(bench, "b")
        await ask(bench, ALL, *applies([made_tx([coin_of_others(2)], 1, 2)], 1))
        await decided(bench, ALL, 2)
        more = asyncio.ensure_future(zombie.state(ALL))
        await asyncio.sleep(0.1)
        os.kill(first.pid, signal.SIGCONT)
        for answer in await asyncio.gather(asking, more, return_exceptions=True):
            if isinstance(answer, BaseException):
                assert isinstance(answer, NoAnswer)
            else:
                assert answer.sequence == 2
    async with reader_of(second) as reader:

        async def known() -> bool:
            try:
                return (await reader.state(ALL)).sequence == 2
            except NoAnswer:
                return False  # partitions change hands once more when the first comes back or ends

        await until(known, "an answer")


@pytest.mark.invariant("STORE-2")
@pytest.mark.invariant("READ-1")
async def test_a_value_that_is_not_what_was_written_is_not_told_and_the_store_is_made_again(bench: Bench) -> None:
    """One bit, in an entry that nothing has touched since: found by the read."""
    worker = apply_worker(bench)
    await ready(worker)
    tx = made_tx([coin_of_others(1)], 2, 1)
    await ask(bench, ALL, *applies([tx]))
    await decided(bench, ALL, 1)
    worker.stop()
    flipped = 0
    for folder in (bench.home / "a" / "apply").glob("*/g1-*"):
        store = Rdict(str(folder), Options(raw_mode=True))
        key = state.key("topic:tm_all", state.TX, tx.txid)
        if (stored := store.get(key)) is not None:
            store[key] = stored[:-1] + bytes([stored[-1] ^ 1])
            flipped += 1
        store.close()
    assert flipped == 1
    again = apply_worker(bench)
    await ready(again)
    async with reader_of(again) as reader:
        assert (await reader.state(ALL)).sequence == 1  # which does not read it
        with pytest.raises(NoAnswer, match="differs: the store of partition"):
            await reader.page(ALL)

        said: set[str] = set()

        async def mended() -> bool:
            try:
                return len((await reader.page(ALL)).outputs) == 2
            except NoAnswer as error:
                said.add(error.error)
                return False

        await until(mended, "a store made again")
        assert said <= {"moved", "differs", "nobody"}
    assert again.ended() is None
    events = [EVENT.decode(record.value) for record in await bench.read(EVENTS)]
    assert [event.kind for event in events].count("store-spoiled") == 1


async def test_a_worker_that_leaves_says_so(bench: Bench) -> None:
    """And is asked no more."""
    worker = apply_worker(bench)
    await ready(worker)

    async def holds_all() -> bool:
        return len(await held_by(bench, worker)) == OPERATIONS.partitions

    await until(holds_all, "word of all partitions")
    worker.stop()
    last = {record.key: record.value for record in await bench.read(MEMBERS)}
    assert list(last.values()) == [None]


async def test_a_coin_that_an_eviction_returned_is_marked(bench: Bench) -> None:
    worker = apply_worker(bench)
    await ready(worker)
    parent = made_tx([coin_of_others(1)], 1, 1)
    child = made_tx([outpoint(parent.txid, 0)], 1, 2)
    evict = Evict("evict", child.txid, "network.double-spend", "no", (b"\x07" * 32,))
    await ask(bench, ALL, *applies([parent, child]), evict)
    (gone,) = [r for r in await decided(bench, ALL, 3) if r.outcome == "evicted"]
    async with reader_of(worker) as reader:
        (coin,) = (await reader.page(ALL, min_sequence=gone.sequence)).outputs
        assert coin.contested_by == ("07" * 32,)
        standing = await reader.transaction(display(child.txid))
        assert [each.standing for each in standing.contexts] == ["refused"]


async def test_a_context_is_told_once_as_its_newest_state_has_it(bench: Bench) -> None:
    """A worker that was replaced and does not know it answers beside the one that holds the partition."""
    worker, odd = apply_worker(bench), bench.worker("odd")
    await ready(worker, odd)
    tx = made_tx([coin_of_others(1)], 1, 1)
    await ask(bench, ALL, *applies([tx]))
    await decided(bench, ALL, 1)

    def old(sequence: int) -> Standing:
        state = ContextState(context=f"topic:{ALL}", sequence=sequence, state_root="", store_root="", settling=False)
        return Standing(state=state, standing="known")

    answers = [
        TransactionStanding(txid=display(tx.txid), contexts=(old(0),), partitions=(1, 2)),
        TransactionStanding(txid=display(tx.txid), contexts=(old(7),), partitions=(1, 2)),
        {"nothing": "of the kind"},
    ]

    async def answer(request: web.Request) -> web.Response:
        return web.json_response(msgspec.to_builtins(answers[0]))

    async with served(answer) as url, reader_of(odd) as reader:
        claim = Member("old", url, (Held(1, 1 << 40, 0),), int(time.time() * 1000))
        await bench.send(MEMBERS, [MEMBER.encode(claim)], [b"old"], headers=[MEMBER.header])
        (told,) = (await reader.transaction(display(tx.txid))).contexts
        assert (told.state.sequence, told.standing) == (1, "applied")
        del answers[0]
        standing = await reader.transaction(display(tx.txid))
        assert [(each.state.sequence, each.standing) for each in standing.contexts] == [(7, "known")]
        assert standing.partitions == tuple(range(OPERATIONS.partitions))
        del answers[0]
        with pytest.raises(NoAnswer, match=f"broken: the answer of {url} cannot be read"):
            await reader.transaction(display(tx.txid))


# --- the journal


def entry_of(context: str, sequence: int) -> bytes:
    """An entry whose place alone matters."""
    entry = JournalEntry(
        context=context, sequence=sequence, previous=bytes(32), operation="o", kind="accept", txid=bytes(32),
        effects=Effects(), state_root=bytes(32), store_root=bytes(32), manager="", origin=None, time_ms=0,
    )  # fmt: skip
    return SCHEMA.encode(entry)


class Watched(Places):
    """Counts looks and what they handed over. Nobody looks while another look lies open: it would wait for that one."""

    looks = taken = 0
    looking = False

    async def scan(self, partition: int, start: int, end: int) -> AsyncGenerator[Inbound, None]:
        assert not self.looking, "a look was left open"
        self.looks += 1
        self.looking = True
        try:
            async with aclosing(super().scan(partition, start, end)) as records:
                async for record in records:
                    self.taken += 1
                    yield record
        finally:
            self.looking = False


MANY = 6_000


async def journal(bench: Bench, number: int, *parts: tuple[str, range]) -> None:
    """Entries of contexts in one partition, by sequence, one part behind the other."""
    for context, sequences in parts:
        values = [entry_of(context, sequence) for sequence in sequences]
        await bench.send(JOURNAL, values, [context.encode()] * len(values), partition=number)


@pytest.mark.parametrize("first", [1, 2, 2_500, MANY - 60, MANY, MANY + 1])
async def test_where_a_page_of_a_long_journal_begins_is_found_by_halving(bench: Bench, first: int) -> None:
    """And no look is left open: six thousand entries, of which a page takes few."""
    context, number = f"topic:{ALL}", partition_for(f"topic:{ALL}".encode(), JOURNAL.partitions)
    await journal(bench, number, (context, range(1, MANY + 1)))
    places = Watched(bench.kafka, JOURNAL.named(bench.prefix), JOURNAL.partitions)
    await places.start()
    try:
        page = await journal_page(places, number, context, first, 50)
    finally:
        await places.stop()
    assert [entry.sequence for entry in page] == list(range(first, min(first + 50, MANY + 1)))
    assert places.looks <= 4, "6,000 are halved to a thousand in three looks, and one takes the page"
    assert places.taken <= NEAR + 50 + 3
    assert not places.looking


async def test_a_page_is_found_among_other_contexts_entries(bench: Bench) -> None:
    """Of one that goes on behind the other's many, and of the other; to the end and beyond it."""
    context, other, number = f"topic:{ALL}", "topic:tm_b", partition_for(f"topic:{ALL}".encode(), JOURNAL.partitions)
    thin, long = range(1, 1_501), range(2, 3_001)
    await journal(bench, number, (other, range(1, 2)), (context, thin), (other, long), (context, range(1_501, 1_504)))
    places = Watched(bench.kafka, JOURNAL.named(bench.prefix), JOURNAL.partitions)
    await places.start()
    try:
        for name, first, limit, wanted in (
            (context, 1_490, 8, range(1_490, 1_498)),
            (context, 1_499, 8, range(1_499, 1_504)),
            (context, 1_503, 8, [1_503]),
            (other, 2_000, 2, [2_000, 2_001]),
            (other, 1, 2, [1, 2]),
            (other, 2_999, 9, [2_999, 3_000]),
            ("topic:tm_none", 1, 9, []),
        ):
            page = await journal_page(places, number, name, first, limit)
            assert [(entry.context, entry.sequence) for entry in page] == [(name, sequence) for sequence in wanted]
    finally:
        await places.stop()


async def test_what_is_no_entry_is_told_to_those_whose_context_it_stands_in(bench: Bench) -> None:
    """By its place, over HTTP; a neighbour's page is as it was."""
    context, number = f"topic:{ALL}", partition_for(f"topic:{ALL}".encode(), JOURNAL.partitions)
    odd = bench.worker("odd")
    await ready(odd)
    await journal(bench, number, (context, range(1, 2)))
    await bench.send(JOURNAL, [b"junk"], [b"topic:tm_other"], partition=number)
    await journal(bench, number, (context, range(2, 3)))
    async with reader_of(odd) as reader:
        assert [entry.sequence async for entry in reader.journal(context)] == [1, 2]
        await bench.send(JOURNAL, [b"junk"], [context.encode()], partition=number)
        with pytest.raises(NoAnswer, match=rf"broken: {bench.prefix}journal/{number}/3 cannot be read") as told:
            [entry async for entry in reader.journal(context)]
        assert told.value.error == "broken"
    assert odd.ended() is None
