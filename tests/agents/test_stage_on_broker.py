"""The at-least-once stage on a real broker: what is acknowledged, what a bad record costs, where a group stands."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from aiokafka import TopicPartition
from aiokafka.admin import RecordsToDelete

from agents.runtime.aside import LONG_BYTES
from agents.runtime.cluster import admin
from schemas.external import Event, Result
from tests.agents.harness import Bench, until
from tests.conftest import Broker
from topics.registry import DEAD_LETTERS, EVENTS, INGEST, PARSED, RESULTS, RETRY_10S

pytestmark = pytest.mark.broker


@pytest.fixture
async def bench(broker: Broker, prefix: str, tmp_path: Path) -> AsyncIterator[Bench]:
    async with Bench(broker.bootstrap, prefix, tmp_path) as bench:
        yield bench


def causes(letters: list) -> Counter:  # type: ignore[type-arg]
    return Counter(dict(letter.headers)["code"].decode() for letter in letters)


@pytest.mark.invariant("ACK-1")
@pytest.mark.invariant("ACK-3")
async def test_everything_arrives_and_an_idle_stage_shows_no_lag(bench: Bench) -> None:
    values = [b"value %d" % n for n in range(3000)]
    await bench.send(INGEST, values)
    worker = bench.worker("odd")
    found = await bench.wait_for(PARSED, len(values))
    assert Counter(record.value for record in found) == Counter(values)
    await bench.until_idle("odd", INGEST)
    code, took = worker.stop()
    assert code == 0
    assert took < 10


@pytest.mark.invariant("FAULT-1")
@pytest.mark.invariant("SIZE-1")
async def test_a_bad_record_costs_itself_alone(bench: Bench) -> None:
    """Deciding raises, gathering raises, an output is over its topic's limit: dead letters; all others go on."""
    good = [b"value %d" % n for n in range(200)]
    await bench.send(INGEST, [*good[:100], b"raise", b"gather", b"huge", b"refuse", *good[100:]])
    bench.worker("odd")
    found = await bench.wait_for(PARSED, len(good))
    assert Counter(record.value for record in found) == Counter(good)
    letters = await bench.wait_for(DEAD_LETTERS, 4)
    assert causes(letters) == {"internal.fault": 2, "internal.too-large": 1, "script.false": 1}
    assert {letter.value for letter in letters} == {b"raise", b"gather", b"huge", b"refuse"}
    results = [msgspec.json.decode(record.value, type=Result) for record in await bench.wait_for(RESULTS, 4)]
    assert Counter(result.outcome for result in results) == {"parked": 3, "rejected": 1}
    await bench.until_idle("odd", INGEST)


async def test_a_long_record_keeps_nobody_waiting(bench: Bench, tmp_path: Path) -> None:
    """It is thought about until the others of its partition, sent later, are through."""
    through = tmp_path / "through"
    long = b"think %s " % bytes(through) + bytes(LONG_BYTES)
    bench.worker("odd")
    await bench.send(INGEST, [b"first", long], keys=[b"same"] * 2)
    await bench.wait_for(PARSED, 1)
    others = [b"value %d" % n for n in range(20)]
    await bench.send(INGEST, others, keys=[b"same"] * len(others))
    found = await bench.wait_for(PARSED, 1 + len(others))
    assert {record.value for record in found} == {b"first", *others}
    through.touch()
    found = await bench.wait_for(PARSED, 2 + len(others))
    assert long in {record.value for record in found}
    await bench.until_idle("odd", INGEST)


@pytest.mark.invariant("FAULT-2")
async def test_a_record_that_kills_its_process_is_found_and_given_up(bench: Bench) -> None:
    values = [b"value %d" % n for n in range(60)]
    await bench.send(INGEST, [*values[:30], b"abort", *values[30:]], keys=[b"same"] * 61)
    worker = bench.worker("odd", "worker.instance=one")
    ends = 0
    for _ in range(8):

        async def over() -> bool:
            return worker.ended() is not None or bool(await bench.read(DEAD_LETTERS))

        await until(over, "end or dead letter")
        if worker.ended() is None:
            break
        ends += 1
        worker.start()
    found = await bench.wait_for(PARSED, len(values))
    assert {record.value for record in found} == set(values)  # at least once: repeats after each end
    (letter,) = await bench.read(DEAD_LETTERS)
    assert (letter.value, dict(letter.headers)["code"]) == (b"abort", b"internal.killed")
    assert 3 <= ends <= 5
    await bench.until_idle("odd", INGEST)


@pytest.mark.invariant("ACK-2")
async def test_a_slow_input_holds_back_the_offset_and_not_its_neighbours(bench: Bench) -> None:
    await bench.send(INGEST, [b"slow 5", *[b"value %d" % n for n in range(50)]], keys=[b"same"] * 51)
    bench.worker("odd")
    found = await bench.wait_for(PARSED, 50, within_s=30)
    assert b"slow 5" not in {record.value for record in found}
    assert set((await bench.positions("odd", INGEST)).values()) <= {0}
    await bench.wait_for(PARSED, 51)
    await bench.until_idle("odd", INGEST)


async def test_a_condition_waits_in_the_tier_with_its_origin(bench: Bench) -> None:
    await bench.send(INGEST, [b"defer 1"], headers=[("request-id", b"r1")])
    bench.worker("odd")
    (waiting,) = await bench.wait_for(RETRY_10S, 1)
    headers = dict(waiting.headers)
    assert (waiting.key, waiting.value, headers["request-id"]) == (b"k0", b"defer 1", b"r1")
    assert (headers["origin-topic"], headers["attempt"]) == (b"ingest", b"1")
    assert 8_000 < int(headers["not-before"]) - waiting.timestamp <= 10_000


@pytest.mark.setting("retry.give_up_after_s")
@pytest.mark.invariant("RETRY-1")
async def test_a_condition_that_outlasts_the_limit_is_parked(bench: Bench) -> None:
    """An attempt whose first failure lies further back than the limit: a result `parked`, and a dead letter."""
    old = [
        ("origin-topic", b"ingest"), ("origin-partition", b"0"), ("origin-offset", b"0"), ("attempt", b"3"),
        ("first-failed", b"1000"), ("not-before", b"2000"), ("code", b"finality.not-final"),
    ]  # fmt: skip
    await bench.send(INGEST, [b"defer 1"], headers=old)
    bench.worker("odd", "retry.give_up_after_s=3600")
    (letter,) = await bench.wait_for(DEAD_LETTERS, 1)
    assert dict(letter.headers)["class"] == b"exhausted"
    (record,) = await bench.wait_for(RESULTS, 1)
    assert msgspec.json.decode(record.value, type=Result).outcome == "parked"


@pytest.mark.setting("worker.stuck_after_s")
async def test_the_world_pauses_a_stage_and_lets_it_go_on(bench: Bench, tmp_path: Path) -> None:
    """No attempt is counted, nothing is consumed, the watchdog is quiet, and the stage stays ready."""
    world = tmp_path / "not-ready"
    world.touch()
    values = [b"value %d" % n for n in range(100)]
    await bench.send(INGEST, values)
    worker = bench.worker("odd", "worker.stuck_after_s=3", argument=str(world))

    async def paused() -> bool:
        return worker.readiness().get("state") == "paused"

    await until(paused, "pause")
    await asyncio.sleep(5)  # longer than the watchdog waits for progress
    assert worker.ended() is None
    assert worker.readiness()["ready"]
    assert await bench.read(PARSED) == []
    world.unlink()
    found = await bench.wait_for(PARSED, len(values))
    assert Counter(record.value for record in found) == Counter(values)


@pytest.mark.setting("worker.fault_limit")
async def test_too_many_faults_halt_the_stage_until_it_is_resumed(bench: Bench) -> None:
    await bench.send(INGEST, [b"raise"] * 3, keys=[b"same"] * 3)
    worker = bench.worker("odd", "worker.fault_limit=3")

    async def halted() -> bool:
        return worker.readiness().get("state") == "halted"

    await until(halted, "halt")
    assert not worker.readiness()["ready"]
    await bench.send(INGEST, [b"value"], keys=[b"same"])
    await asyncio.sleep(1)
    assert await bench.read(PARSED) == []
    await worker.resume()
    await bench.wait_for(PARSED, 1)
    kinds = [msgspec.json.decode(record.value, type=Event).kind for record in await bench.wait_for(EVENTS, 2)]
    assert kinds == ["stage-halted", "stage-resumed"]


@pytest.mark.invariant("ACK-4")
async def test_a_position_below_the_start_of_the_log_halts(bench: Bench) -> None:
    await bench.send(INGEST, [b"value %d" % n for n in range(10)], keys=[b"same"] * 10)
    worker = bench.worker("odd")
    await bench.until_idle("odd", INGEST)
    worker.stop()
    at = await bench.positions("odd", INGEST)
    partition = next(number for number, offset in at.items() if offset == 10)
    await bench.send(INGEST, [b"later %d" % n for n in range(10)], keys=[b"same"] * 10)
    async with admin(bench.kafka) as client:
        where = TopicPartition(INGEST.named(bench.prefix), partition)
        await client.delete_records({where: RecordsToDelete(before_offset=15)})
    worker.start()

    async def halted() -> bool:
        return worker.readiness().get("state") == "halted"

    await until(halted, "halt")
    event = msgspec.json.decode((await bench.wait_for(EVENTS, 1))[0].value, type=Event)
    assert event.details["code"] == "range-lost"
    assert "15" in event.message
    assert len(await bench.read(PARSED)) == 10
