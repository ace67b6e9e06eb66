"""Open-loop load: what is sent, when, and what is counted of the answers. The pipeline behind it is pretended."""

import asyncio
import json
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from beefline.client import Result
from ops.cli.load import load
from ops.instruments.chain import Chain
from ops.instruments.generate import Generator
from ops.instruments.load import FIRST_COIN, Load, fresh, percentiles, run_load
from ops.instruments.payloads import Generated, write_pool
from ops.settings import Settings
from ops.settings import load as load_settings
from pipeline.parse import Payload, parse
from pipeline.policy import Policy
from tests.clients.commands import run
from tests.clients.pretend import Place, by_word, contexts_of, header, result
from tests.conftest import Broker


@pytest_asyncio.fixture
async def place(broker: Broker, prefix: str) -> Place:
    made = Place(broker.bootstrap, prefix)
    await made.make()
    return made


def settings_of(place: Place) -> Settings:
    return load_settings(flags=place.flags[1::2], environment={}).settings


def payloads(count: int, word: str = "applied", topics: tuple[str, ...] = ("tm_anytx",)) -> Iterator[Generated]:
    for number in range(count):
        yield Generated(f"0-{number}", "pretended", f"{word} {number}".encode(), bytes(32), topics=topics)


@pytest.mark.broker
async def test_everything_due_is_sent_once_and_followed_to_its_outcomes(place: Place) -> None:
    async with place.pipeline(by_word):
        report = await run_load(settings_of(place), payloads(1000), rate=100, seconds=1.5)
    assert (report.sent, report.failed, report.decided, report.undecided, report.accepted) == (150, 0, 150, 0, 150)
    assert report.outcomes == {"applied": 150, "accepted": 150}
    assert report.applied_ms is not None
    assert report.accepted_ms is not None
    assert 0 < report.applied_ms.p50 <= report.applied_ms.p99 <= report.applied_ms.max
    records = await place.ingested(150)
    assert sorted(record.value for record in records) == sorted(each.beef for each in payloads(150))
    assert len({header(record, "request-id") for record in records}) == 150
    assert {record.partition for record in records} == {0, 1, 2}


@pytest.mark.broker
async def test_it_does_not_wait_for_answers_and_counts_from_when_a_payload_was_due(place: Place) -> None:
    """The pipeline begins when the last payload is out: the first ones have waited all that time, and it shows."""
    running = asyncio.ensure_future(run_load(settings_of(place), payloads(100), rate=100, drain_s=30))
    await place.ingested(100)
    async with place.pipeline(by_word):
        report = await running
    assert report.seconds == pytest.approx(1.0, abs=0.5)
    assert report.applied_ms is not None
    assert report.applied_ms.max >= 990
    assert report.undecided == 0


@pytest.mark.broker
async def test_what_is_not_answered_is_said(place: Place) -> None:
    report = await run_load(settings_of(place), payloads(20, "silence"), rate=100, drain_s=0.5)
    assert (report.sent, report.decided, report.undecided) == (20, 0, 20)
    assert (report.applied_ms, report.accepted_ms, report.outcomes) == (None, None, {})


@pytest.mark.broker
async def test_a_payload_is_applied_when_its_last_context_has_applied_it(place: Place) -> None:
    def second_late(record: Any) -> Iterable[Result]:
        for context in contexts_of(record)[: 2 if record.value == b"applied 0" else 1]:
            yield result(record, "applied", context)

    async with place.pipeline(second_late):
        report = await run_load(settings_of(place), payloads(2), rate=100, topics=("tm_a", "tm_b"), drain_s=3)
    assert report.outcomes == {"applied": 3}
    assert (report.decided, report.undecided) == (1, 1)


@pytest.mark.broker
async def test_what_is_said_again_is_counted_once(place: Place) -> None:
    """A stage that fell and starts again may repeat its results."""

    def twice(record: Any) -> Iterable[Result]:
        yield from by_word(record)
        yield from by_word(record)

    async with place.pipeline(twice):
        report = await run_load(settings_of(place), payloads(30), rate=100, topics=("tm_a", "tm_b"))
    assert report.outcomes == {"applied": 60, "accepted": 30}
    assert report.decided == 30


@pytest.mark.broker
async def test_refusals_and_repeats_are_told_apart(place: Place) -> None:
    def answer(record: Any) -> Iterable[Result]:
        number = int(record.value.split()[1])
        if number % 2:
            yield from by_word(record)
        else:
            yield result(record, "applied", "topic:tm_anytx", repeat=True)

    mixed = [*payloads(10), *payloads(10, "rejected")]
    async with place.pipeline(answer):
        report = await run_load(settings_of(place), mixed, rate=200, drain_s=20)
    assert report.outcomes == {"applied": 15, "rejected script.false": 5, "accepted": 5}
    assert report.repeats == 10


@pytest.mark.broker
async def test_watched_payloads_are_told_by_number_and_are_not_among_the_others(place: Place) -> None:
    """One of them is never decided, which nobody waits for."""
    mixed = [*payloads(10), *payloads(1, "rejected"), *payloads(1, "silence")]
    load = Load(settings_of(place), 100, None, watched={3, 10, 11}, endless=1)
    async with place.pipeline(by_word):
        await load.start()
        try:
            report = await load.run(mixed, None, 60, lambda _: None)
        finally:
            await load.stop()
    assert load.said == {3: "applied", 10: "rejected script.false"}
    assert (report.decided, report.undecided) == (11, 1)
    others = load.others_applied_ms()
    assert others is not None
    assert report.applied_ms is not None
    assert 0 < others.max <= report.applied_ms.max


def test_percentiles_are_by_nearest_rank() -> None:
    found = percentiles(array("d", [number / 1000 for number in range(100, 0, -1)]))
    assert found is not None
    assert (found.p50, found.p95, found.p99, found.max) == (50, 95, 99, 100)
    one = percentiles(array("d", [0.25]))
    assert one is not None
    assert (one.p50, one.max) == (250, 250)
    assert percentiles(array("d")) is None


def test_fresh_payloads_spend_coins_that_nobody_else_spends(tmp_path: Path) -> None:
    chain = Chain.open(tmp_path / "chain")
    made = [*fresh(3, ["p2pkh"], chain), *fresh(4, ["fan-in", "p2pkh"], chain, size=3), *fresh(2, ["chain"], chain)]
    spent = [spend for payload in made for spend in coins_of(payload)]
    assert len(spent) == len(set(spent)) == 3 + (3 + 1 + 3 + 1) + 2
    assert set(spent) <= {chain.coin(FIRST_COIN + number).coin.txid for number in range(20)}
    assert set(spent).isdisjoint(
        coin for seed in (0, 95) for payload in Generator(chain, seed).valid(5) for coin in coins_of(payload)
    )


def coins_of(payload: Generated) -> list[bytes]:
    """The mined transactions that a payload spends from."""
    read = parse(payload.beef, Policy())
    assert isinstance(read, Payload)
    return [tx.txid for tx in read.txs if tx.proven]


@pytest.mark.broker
async def test_the_command_sends_a_pool_and_reports(place: Place, tmp_path: Path) -> None:
    pool = tmp_path / "pool"
    write_pool(pool, payloads(30))
    async with place.pipeline(by_word):
        told = await run(load, "--rate", "100", "--pool", str(pool), flags=place.flags)
        as_json = await run(load, "--rate", "100", "--pool", str(pool), "--json", flags=place.flags)
    assert told.exit_code == 0, told.output
    assert "sent       30 in 0.3 s" in told.stdout
    assert "outcomes   30 applied, 30 accepted" in told.stdout
    assert json.loads(as_json.stdout)["sent"] == 30
    silent = await run(load, "--rate", "100", "--pool", str(pool), "--drain", "0.1", flags=place.flags)
    assert silent.exit_code == 1
    assert "without a decision: 30" in silent.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--rate", "0"], "not in the range"),
        (["--rate", "1", "--kind", "nonsense"], "no kind 'nonsense'"),
        (["--rate", "1", "--pool", __file__], "is not a pool of payloads"),
        (["--rate", "1", "--pool", __file__, "--kind", "p2pkh"], "--pool holds payloads already"),
        ([], "Missing option '--rate'"),
    ],
)
async def test_a_wrong_command_line_is_said_in_words(arguments: list[str], said: str) -> None:
    ran = await run(load, *arguments)
    assert ran.exit_code == 3
    assert said in ran.stderr
