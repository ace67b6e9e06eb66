"""The exactly-once stage on a real broker: killed at named places, reset, its store lost or spoiled."""

import asyncio
import hashlib
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from aiokafka import TopicPartition
from aiokafka.structs import OffsetAndMetadata
from rocksdict import Options, Rdict

from agents.runtime import crash
from schemas.external import Event
from schemas.journal import JOURNAL as SCHEMA
from tests.agents.harness import Bench, Worker, until
from tests.conftest import Broker
from topics.registry import BROADCAST, DEAD_LETTERS, EVENTS, JOURNAL, OPERATIONS, RETRY_10S, group

pytestmark = pytest.mark.broker

CONTEXTS = [b"topic:tm_%s" % name for name in (b"a", b"b", b"c")]


@pytest.fixture
async def bench(broker: Broker, prefix: str, tmp_path: Path) -> AsyncIterator[Bench]:
    async with Bench(broker.bootstrap, prefix, tmp_path) as bench:
        yield bench


async def feed(bench: Bench, count: int, begin: int = 0) -> list[bytes]:
    values = [b"value-%d" % n for n in range(begin, begin + count)]
    await bench.send(OPERATIONS, values, keys=[CONTEXTS[n % len(CONTEXTS)] for n in range(begin, begin + count)])
    return values


async def counted(bench: Bench) -> dict[str, list[str]]:
    """What the stage wrote, by context, in the order of its counter; no count twice.

    Partitions are read one after the other, so that what is being committed may show in some of them first.
    """
    found: dict[str, dict[int, str]] = defaultdict(dict)
    for record in await bench.read(BROADCAST):
        context, count, value = record.value.decode().split()
        assert int(count) not in found[context], f"{context} counted {count} twice"
        found[context][int(count)] = value
    return {context: [values[n] for n in sorted(values)] for context, values in found.items()}


async def check_journal(bench: Bench, count: int) -> None:
    """As many entries, sequences without gap or repeat, each naming the hash of the one before.

    Waited for: a transaction that shows in one partition already may show in another a moment later.
    """
    last: dict[str, tuple[int, bytes]] = {}
    records = await bench.wait_for(JOURNAL, count)
    for record in records:
        entry = SCHEMA.decode(record.value, record.headers)
        sequence, previous = last.get(entry.context, (0, bytes(32)))
        assert (entry.sequence, entry.previous) == (sequence + 1, previous)
        last[entry.context] = (entry.sequence, hashlib.sha256(record.value).digest())
    assert len(records) == count


async def all_counted(bench: Bench, values: list[bytes], within_s: float = 60) -> None:
    async def done() -> bool:
        return sum(map(len, (await counted(bench)).values())) >= len(values)

    await until(done, f"{len(values)} counts", within_s)
    found = [value for values in (await counted(bench)).values() for value in values]  # no count is missing
    assert Counter(found) == Counter(value.decode() for value in values)


@pytest.mark.invariant("TXN-1")
@pytest.mark.invariant("JOURNAL-1")
@pytest.mark.setting("worker.crash_point")
@pytest.mark.parametrize("point", crash.POINTS)
async def test_killed_at_a_named_place_nothing_is_lost_or_doubled(bench: Bench, point: str) -> None:
    """Nor is what goes to a retry tier or to the dead letters: it stands in the same transaction."""
    values = await feed(bench, 300)
    waiting, letters = [b"defer-%d" % n for n in range(12)], [b"raise"] * 3
    await bench.send(OPERATIONS, waiting + letters, keys=[CONTEXTS[0]] * 15)
    values += waiting
    worker = bench.worker("counter", "worker.batch_records=20", "worker.instance=one", f"worker.crash_point={point}:3")

    async def ended() -> bool:
        return worker.ended() is not None

    await until(ended, f"end at {point}")
    assert worker.ended() == -9
    values += await feed(bench, 100, 300)
    bench.worker("counter", "worker.instance=one")
    await all_counted(bench, values)
    await check_journal(bench, len(values))
    assert sorted(record.value for record in await bench.wait_for(RETRY_10S, len(waiting))) == sorted(waiting)
    assert [record.value for record in await bench.wait_for(DEAD_LETTERS, len(letters))] == letters


@pytest.mark.invariant("TXN-5")
@pytest.mark.parametrize("point", [crash.BEFORE_PRODUCE, crash.BEFORE_COMMIT, crash.BEFORE_LOCAL_WRITE])
async def test_killed_amid_work_that_waits_it_goes_on_before_the_next_record(bench: Bench, point: str) -> None:
    """Six pieces, the process killed at the third of them: each is done once, and nothing comes between."""
    sent = [b"first", b"later-6", b"behind"]
    await bench.send(OPERATIONS, sent, keys=[CONTEXTS[0]] * 3)
    worker = bench.worker("counter", "worker.instance=one", f"worker.crash_point={point}:4")

    async def ended() -> bool:
        return worker.ended() is not None

    await until(ended, f"end at {point}")
    assert worker.ended() == -9
    bench.worker("counter", "worker.instance=one")
    wanted = ["first", "later-6", *["piece"] * 6, "behind"]
    await bench.wait_for(BROADCAST, len(wanted))
    assert (await counted(bench))[CONTEXTS[0].decode()] == wanted
    await check_journal(bench, len(wanted) + 1)  # and one that says that something waits


@pytest.mark.invariant("TXN-5")
async def test_work_that_waits_and_fails_halts_the_stage_and_goes_on_when_it_is_resumed(
    bench: Bench, tmp_path: Path
) -> None:
    """No record is to blame, and none has to come for it to go on."""
    stuck = tmp_path / "stuck"
    stuck.touch()
    worker = bench.worker("counter", argument=str(stuck))
    await bench.send(OPERATIONS, [b"later-3"], keys=[CONTEXTS[0]])

    async def halted() -> bool:
        return worker.readiness().get("state") == "halted"

    await until(halted, "halt")
    assert [value for values in (await counted(bench)).values() for value in values] == ["later-3"]
    assert await bench.read(DEAD_LETTERS) == []
    stuck.unlink()
    await worker.resume()
    await bench.wait_for(BROADCAST, 4)
    assert (await counted(bench))[CONTEXTS[0].decode()] == ["later-3", *["piece"] * 3]
    assert worker.ended() is None


@pytest.mark.invariant("FAULT-1")
@pytest.mark.invariant("TXN-1")
async def test_a_bad_record_leaves_nothing_and_its_neighbours_stand(bench: Bench) -> None:
    """It raises after it wrote into its layer, or makes an output over the limit; a condition keeps its effects."""
    values = await feed(bench, 30)
    odd = [b"raise", b"huge", b"defer"]
    await bench.send(OPERATIONS, odd, keys=[CONTEXTS[0]] * 3)
    values += await feed(bench, 30, 30)
    bench.worker("counter")
    await all_counted(bench, [*values, b"defer"])
    await check_journal(bench, len(values) + 1)
    letters = await bench.wait_for(DEAD_LETTERS, 2)
    assert {(letter.value, dict(letter.headers)["code"]) for letter in letters} == {
        (b"raise", b"internal.fault"),
        (b"huge", b"internal.too-large"),
    }
    (waiting,) = await bench.wait_for(RETRY_10S, 1)
    assert waiting.value == b"defer"


@pytest.mark.invariant("FAULT-2")
@pytest.mark.setting("worker.instance")
async def test_a_record_that_kills_the_stage_is_given_up(bench: Bench) -> None:
    """With a lasting name the restarted process has its partitions back at once: no session to wait for."""
    values = await feed(bench, 40)
    await bench.send(OPERATIONS, [b"abort"], keys=[CONTEXTS[1]])
    values += await feed(bench, 40, 40)
    worker = bench.worker("counter", "worker.instance=one")
    for _ in range(8):

        async def over() -> bool:
            return worker.ended() is not None or bool(await bench.read(DEAD_LETTERS))

        await until(over, "end or dead letter")
        if worker.ended() is None:
            break
        worker.start()
    (letter,) = await bench.wait_for(DEAD_LETTERS, 1)
    assert (letter.value, dict(letter.headers)["code"]) == (b"abort", b"internal.killed")
    await all_counted(bench, values)


async def reset(bench: Bench, offset: int) -> None:
    """As Kafka's own tool does: the group's positions are set, without a word of ours beside them."""
    from aiokafka import AIOKafkaConsumer

    consumer = AIOKafkaConsumer(
        bootstrap_servers=bench.kafka.bootstrap, group_id=group(bench.prefix, "counter"), enable_auto_commit=False
    )
    await consumer.start()
    positions = await bench.positions("counter", OPERATIONS)
    name = OPERATIONS.named(bench.prefix)
    tps = {number: TopicPartition(name, number) for number, at in positions.items() if at}
    consumer.assign(list(tps.values()))
    ends = await consumer.end_offsets(list(tps.values()))
    await consumer.commit({tp: OffsetAndMetadata(min(offset, ends[tp]), "") for tp in tps.values()})
    await consumer.stop()


@pytest.mark.invariant("TXN-2")
async def test_a_reset_group_changes_nothing_and_an_event_says_so(bench: Bench) -> None:
    """Backwards, nothing is applied twice; forwards, nothing is left out."""
    values = await feed(bench, 60)
    worker = bench.worker("counter")
    await all_counted(bench, values)
    await bench.until_idle("counter", OPERATIONS)
    worker.stop()
    await reset(bench, 0)
    worker.start()
    values += await feed(bench, 30, 60)
    await all_counted(bench, values)
    await bench.until_idle("counter", OPERATIONS)
    worker.stop()
    values += await feed(bench, 30, 90)
    await reset(bench, 10**9)
    worker.start()
    await all_counted(bench, values)
    events = [msgspec.json.decode(record.value, type=Event) for record in await bench.wait_for(EVENTS, 6)]
    assert {event.kind for event in events} == {"offsets-reset"}


async def _stores(bench: Bench) -> list[Path]:
    return sorted((bench.home / "data" / "counter").glob("*/g1-*"))


def _spoil(store: Path) -> None:
    """One byte of one entry."""
    db = Rdict(str(store), Options(raw_mode=True))
    key = next(key for key in db.keys() if b"\0c" in key)  # noqa: SIM118 - no mapping
    db[key] = bytes([db[key][0] ^ 1]) + db[key][1:]
    db.close()


def _forget(store: Path) -> None:
    """An entry is gone, and with it the roots."""
    db = Rdict(str(store), Options(raw_mode=True))
    key = next(key for key in db.keys() if b"\0lcount" in key)  # noqa: SIM118 - no mapping
    del db[key]
    db.close()


@pytest.mark.invariant("STORE-1")
@pytest.mark.parametrize("damage", ["deleted", "truncated", "flipped", "behind"])
async def test_a_damaged_store_is_made_again(bench: Bench, damage: str) -> None:
    import shutil

    values = await feed(bench, 60)
    worker = bench.worker("counter")
    await all_counted(bench, values)
    worker.stop()
    stores = await _stores(bench)
    for store in stores:
        if damage == "deleted":
            shutil.rmtree(store)
        elif damage == "truncated":
            for table in [*store.glob("*.sst"), *store.glob("*.log"), *store.glob("MANIFEST-*")]:
                table.write_bytes(table.read_bytes()[: table.stat().st_size // 2])
        elif damage == "flipped":
            for table in store.glob("*.sst"):
                content = bytearray(table.read_bytes())
                content[len(content) // 4] ^= 1  # among the entries, which come first
                table.write_bytes(content)
        else:
            shutil.copytree(store, bench.home / "old" / store.name)
    if damage == "behind":
        worker.start()
        values += await feed(bench, 60, 60)
        await all_counted(bench, values)
        worker.stop()
        for store in stores:
            shutil.rmtree(store)
            shutil.move(bench.home / "old" / store.name, store)
    worker.start()
    values += await feed(bench, 30, 200)
    await all_counted(bench, values)
    await check_journal(bench, len(values))


@pytest.mark.invariant("STORE-2")
async def test_a_spoiled_value_is_found_when_it_is_read(bench: Bench) -> None:
    """Nothing is emitted from it: the store is made again from the changelog, an event says so, and work goes on."""
    values = await feed(bench, 60)
    worker = bench.worker("counter")
    await all_counted(bench, values)
    worker.stop()
    for store in await _stores(bench):
        db = Rdict(str(store), Options(raw_mode=True))
        for key in [key for key in db.keys() if key.endswith(b"\0lcount")]:  # noqa: SIM118 - no mapping
            db[key] = bytes([db[key][0] ^ 1]) + db[key][1:]
        db.close()
    worker.start()
    values += await feed(bench, 30, 60)
    await all_counted(bench, values)
    await check_journal(bench, len(values))
    events = [msgspec.json.decode(record.value, type=Event) for record in await bench.wait_for(EVENTS, 3)]
    assert {event.kind for event in events} == {"store-spoiled", "store-repaired"}
    assert worker.ended() is None


@pytest.mark.invariant("TXN-3")
@pytest.mark.invariant("TXN-4")
@pytest.mark.setting("worker.session_timeout_s")
async def test_a_zombie_is_fenced(bench: Bench) -> None:
    """Stopped for longer than its session, then continued while another owns its partitions."""
    values = await feed(bench, 200)
    first = bench.worker("counter", "worker.batch_records=5")
    await until(lambda: _some(bench), "first counts")
    _signal(first, "STOP")
    second = bench.worker("counter")
    values += await feed(bench, 100, 200)
    await all_counted(bench, values)
    _signal(first, "CONT")
    values += await feed(bench, 100, 300)
    await all_counted(bench, values)
    await asyncio.sleep(2)
    values += await feed(bench, 20, 400)

    async def restarted() -> bool:
        if first.ended() is not None:
            first.start()
        return sum(map(len, (await counted(bench)).values())) >= len(values)

    await until(restarted, "all counted")
    assert second.ended() is None
    await all_counted(bench, values)
    await check_journal(bench, len(values))


ENDS_WITHIN_S = 5.0
"""Less than the 6 s of a stop in which what is in hand is finished: nobody works on it any more."""


@pytest.mark.invariant("TXN-3")
@pytest.mark.invariant("TXN-4")
@pytest.mark.setting("worker.crash_point")
async def test_a_zombie_amid_a_transaction_is_seen_to_be_fenced_and_ends_at_once(bench: Bench) -> None:
    """Stopped between produce and commit, with more in hand, and continued when another has its partitions."""
    values = await feed(bench, 200)
    stops = f"worker.crash_point={crash.BEFORE_COMMIT}:4:stop"
    first = bench.worker("counter", "worker.batch_records=5", stops, "log.client_lines_per_s=1000")  # leaves none out
    await until(lambda: _stopped(first), "stop between produce and commit")
    second = bench.worker("counter")
    values += await feed(bench, 60, 200)
    await all_counted(bench, values)
    _signal(first, "CONT")
    began = time.monotonic()

    async def ended() -> bool:
        return first.ended() is not None

    await until(ended, "end of the zombie")
    assert time.monotonic() - began < ENDS_WITHIN_S
    assert first.ended() == 1
    assert "ProducerFenced" in first.log.read_text()
    assert second.ended() is None
    await all_counted(bench, values)
    await check_journal(bench, len(values))


async def _stopped(worker: Worker) -> bool:
    return worker.stands_still


async def _some(bench: Bench) -> bool:
    return bool(await bench.read(BROADCAST))


def _signal(worker: Worker, name: str) -> None:
    import os
    import signal

    os.kill(worker.pid, getattr(signal, f"SIG{name}"))
