"""Reservations on a running installation: from Kafka, HTTP, Python and the command line."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import aiohttp
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from click.testing import CliRunner, Result

from agents.runtime.connection import client_options
from beefline.client import Client, NotReserved, Unanswered
from beefline.reading import StateReader
from ops.cli.reservation import reservation
from ops.home import home
from ops.installation import Installation
from ops.instruments.chain import Chain
from ops.instruments.generate import Generator
from ops.instruments.stock import Stock
from ops.inventory_chaos import sell
from ops.running import running_workers
from ops.scenario import Asked
from schemas.external import ExportedEntry
from schemas.reservations import OWNER_ANSWER, OwnerAnswer
from tests.e2e.asking import Talk, until
from tests.e2e.test_baskets import agrees
from topics.registry import ANSWERS, DEAD_LETTERS, REQUESTS

pytestmark = pytest.mark.broker

OWNERS = iter(range(100, 200))


@pytest.fixture(scope="module")
def generator(installation: Installation) -> Generator:
    return Generator(Chain.open(home() / "simulate" / "chain"), seed=31)


@pytest.fixture
async def talk(installation: Installation) -> AsyncIterator[Talk]:
    async with Talk(installation) as talk:
        yield talk


@pytest.fixture
async def client(talk: Talk) -> AsyncIterator[Client]:
    async with Client(talk.settings.kafka.bootstrap, prefix=talk.prefix) as client:
        yield client


async def stocked(client: Client, generator: Generator, units: int) -> Stock:
    """Another owner's, for sale."""
    stock = Stock(generator.shop, units, owner=next(OWNERS))
    for beef, baskets in stock.payloads():
        assert (await client.submit_and_wait(beef, baskets=baskets)).state == "applied"
    return stock


async def free(stock: Stock) -> int:
    async with StateReader(running_workers()[0].http) as reader:
        found = await reader.list_outputs(stock.name, stock.basket, limit=1_000)
    return sum(each.spendable for each in found.outputs)


async def journal_of(stock: Stock) -> list[ExportedEntry]:
    async with StateReader(running_workers()[0].http) as reader:
        return [entry async for entry in reader.journal(f"owner:{stock.name}")]


async def soon(true: Any, what: str) -> None:
    deadline = time.monotonic() + 30
    while not await true():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.05)


class Answers:
    """What is answered, from here on."""

    def __init__(self, talk: Talk) -> None:
        self._consumer = AIOKafkaConsumer(
            **client_options(talk.settings.kafka), isolation_level="read_committed", enable_auto_commit=False
        )
        self._topic = ANSWERS.named(talk.prefix)
        self.heard: list[OwnerAnswer] = []

    async def __aenter__(self) -> "Answers":
        await self._consumer.start()
        self._consumer.assign([TopicPartition(self._topic, number) for number in range(ANSWERS.partitions)])
        await self._consumer.seek_to_end()
        for tp in self._consumer.assignment():
            await self._consumer.position(tp)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._consumer.stop()

    async def of(self, name: str | None, count: int = 1) -> list[OwnerAnswer]:
        deadline = time.monotonic() + 30
        while len(found := [each for each in self.heard if each.request_id == name]) < count:
            assert time.monotonic() < deadline, self.heard
            for records in (await self._consumer.getmany(timeout_ms=200)).values():
                self.heard += [OWNER_ANSWER.decode(record.value, record.headers) for record in records]
        return found


@pytest.mark.invariant("RESERVE-2")
async def test_a_doubled_request_holds_once_and_its_lease_ends_by_itself(
    talk: Talk, client: Client, generator: Generator
) -> None:
    """From any client of Kafka: two records with one id, two answers, one reservation; then nothing more is asked."""
    stock = await stocked(client, generator, 3)
    value = json.dumps(
        {"id": "till 4", "owner": stock.name, "operation": "reserve", "basket": "Units ", "count": 2, "lease_s": 3}
    ).encode()
    async with Answers(talk) as answers:
        for _ in range(2):
            await talk.send(value, topic=REQUESTS, key=stock.name.encode())
        first, second = sorted(await answers.of("till 4", 2), key=lambda each: each.repeat)
        assert (first.outcome, second.outcome, first.repeat, second.repeat) == ("reserved", "reserved", False, True)
        assert (first.outputs, first.token, first.ends) == (second.outputs, second.token, second.ends)
        assert len(first.outputs) == 2
        assert await free(stock) == 1
        assert first.ends is not None
        *_, ended = await answers.of("till 4", 3)
        assert (ended.outcome, ended.token, ended.outputs) == ("expired", first.token, first.outputs)
        assert first.ends <= ended.time
    assert await free(stock) == 3
    assert [entry.kind for entry in await journal_of(stock)] == ["apply", "reserve", "expire"]
    await until(lambda: agrees(f"owner:{stock.name}"), "copies, changelog and journal agree")


async def test_what_is_no_request_is_answered_and_kept(talk: Talk) -> None:
    async with Answers(talk) as answers:
        await talk.send(b'{"id": "odd", "operation": "steal"}', topic=REQUESTS, key=b"nobody")
        (told,) = await answers.of("odd")
        assert (told.outcome, told.code) == ("refused", "malformed.request")
        assert told.origin is not None
        letters = await talk.read_end(DEAD_LETTERS, 100)
        assert [b"malformed.request" for each in letters if ("code", b"malformed.request") in each.headers]


@pytest.mark.invariant("RESERVE-1")
async def test_who_holds_outputs_spends_them_and_nobody_else(client: Client, generator: Generator) -> None:
    stock = await stocked(client, generator, 2)
    async with client.reserve(stock.name, basket="units", count=1, lease_s=60) as held:
        beef = stock.spend(held.outputs)
        spends = [{"owner": stock.name, "description": "without its token"}]
        stolen = await client.submit_and_wait(stock.spend(held.outputs), baskets=spends)
        assert stolen.code == "conflict.reservation-lost"
        submitted = await client.submit(beef, reservation=held)
    # The payload was waited for: what it spends is not given back.
    assert held.ended
    assert (await client.outcome(submitted)).state == "applied"
    assert [entry.kind for entry in await journal_of(stock)] == ["apply", "reserve", "apply", "consume"]
    assert await free(stock) == 1


async def test_what_is_held_is_given_back_however_the_body_is_left(client: Client, generator: Generator) -> None:
    stock = await stocked(client, generator, 2)

    async def fail() -> None:
        async with client.reserve(stock.name, basket="units", count=2, lease_s=600) as held:
            assert len(held.outputs) == 2
            with pytest.raises(NotReserved, match=r"conflict\.too-few"):
                await client.reserve(stock.name, basket="units", count=1, lease_s=60)
            raise ValueError("in the body")

    with pytest.raises(ValueError, match="in the body"):
        await fail()
    assert await free(stock) == 2

    inside = asyncio.Event()

    async def hang() -> None:
        async with client.reserve(stock.name, outputs=stock.outpoints, lease_s=600):
            inside.set()  # readers may see it before its holder hears of it, who then waits for nothing it gives back
            await asyncio.sleep(60)

    task = asyncio.create_task(hang())
    async with asyncio.timeout(30):
        await inside.wait()
    assert await free(stock) == 0
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert await free(stock) == 2


async def test_what_was_asked_in_vain_is_given_back(client: Client, generator: Generator) -> None:
    """Nobody waits for the answer any more: the request may be granted all the same, and what follows it releases."""
    stock = await stocked(client, generator, 1)
    with pytest.raises(Unanswered):
        await client.reserve(stock.name, basket="units", count=1, lease_s=600, timeout=0.0)

    async def released() -> bool:
        return [entry.kind for entry in await journal_of(stock)][-2:] == ["reserve", "release"]

    await soon(released, "it is released")
    assert await free(stock) == 1


async def test_a_refused_payload_gives_back_what_it_would_have_spent(client: Client, generator: Generator) -> None:
    stock = await stocked(client, generator, 1)
    async with client.reserve(stock.name, basket="units", count=1, lease_s=600) as held:
        beef = stock.spend(held.outputs)
        await client.submit(beef[:-1], reservation=held)
    assert await free(stock) == 1
    assert [entry.kind for entry in await journal_of(stock)] == ["apply", "reserve", "release"]


async def test_a_lease_is_extended_and_a_late_holder_hears_it(client: Client, generator: Generator) -> None:
    stock = await stocked(client, generator, 1)
    async with client.reserve(stock.name, basket="units", count=1, lease_s=2) as held:
        first = held.ends
        assert await held.extend(3) > first
        await held.until_ended(30)
        assert held.ended
        with pytest.raises(NotReserved, match=r"conflict\.reservation-lost"):
            await held.extend(60)
        late = await client.submit_and_wait(stock.spend(held.outputs), reservation=held)
        assert late.code == "conflict.reservation-lost"


async def test_requests_over_http(client: Client, generator: Generator) -> None:
    """Of any worker: one writes the request and answers with what became of it."""
    stock = await stocked(client, generator, 2)
    base = f"{running_workers()[-1].http}/owners/{stock.name}/reservations"
    async with aiohttp.ClientSession() as session:

        async def post(path: str, **body: Any) -> tuple[int, dict[str, Any]]:
            async with session.post(base + path, json=body) as response:
                return response.status, await response.json()

        asked = {"id": "a/b", "basket": "units", "count": 1, "lease_s": 60, "holder": "till 4"}
        status, held = await post("", **asked)
        assert (status, held["outcome"], held["reservation"], held["repeat"]) == (200, "reserved", "a/b", False)
        status, again = await post("", **asked)
        assert (status, again["repeat"], again["token"], again["outputs"]) == (
            200,
            True,
            held["token"],
            held["outputs"],
        )
        status, refused = await post("", basket="units", count=2, lease_s=60)
        assert (status, refused["outcome"], refused["code"]) == (409, "refused", "conflict.too-few")
        status, wrong = await post("", basket="units", count=0, lease_s=60)
        assert (status, wrong["error"]) == (400, "malformed.request")
        status, twice = await post("", owner=stock.name)
        assert (status, twice["message"]) == (400, "owner stands in the path")
        async with session.post(base, data=b"[") as response:
            assert response.status == 400
        async with session.get(base) as response:
            page = await response.json()
        assert (page["total_reservations"], page["total_outputs"], page["next"]) == (1, 1, None)
        assert [each["holder"] for each in page["reservations"]] == ["till 4"]
        async with StateReader(running_workers()[0].http) as reader:
            found = (await reader.reservation(stock.name, "a/b")).reservation
            assert found is not None
            assert found.outputs == tuple(held["outputs"])
        status, longer = await post("/a%2Fb/extend", token=held["token"], lease_s=120)
        assert (status, longer["outcome"]) == (200, "extended")
        assert longer["ends"] > held["ends"]
        status, late = await post("/a%2Fb/release", token=held["token"] + 1)
        assert (status, late["code"]) == (409, "conflict.reservation-lost")
        status, released = await post("/a%2Fb/release")
        assert (status, released["outcome"]) == (200, "released")
    assert await free(stock) == 2


def invoked(*args: str) -> Result:
    """In a thread of its own: a command has its own event loop."""
    with ThreadPoolExecutor(1) as apart:
        return apart.submit(CliRunner().invoke, reservation, args).result()


async def test_reservations_by_command(client: Client, generator: Generator) -> None:
    stock = await stocked(client, generator, 2)
    worker = running_workers()[0].http
    made = invoked("reserve", stock.name, "--basket", "units", "--count", "1", "--lease", "60", "--id", "cli", "--json")
    assert made.exit_code == 0, made.output
    held = json.loads(made.output)
    assert (held["outcome"], held["reservation"], len(held["outputs"])) == ("reserved", "cli", 1)
    listed = invoked("list", stock.name, "--at", worker)
    assert listed.output.startswith(f"cli  token {held['token']}  1 outputs  until ")
    assert held["outputs"][0] in listed.output
    shown = invoked("show", stock.name, "cli", "--at", worker, "--json")
    assert json.loads(shown.output)["outputs"] == held["outputs"]
    longer = invoked("extend", stock.name, "cli", str(held["token"]), "--lease", "90")
    assert longer.output.startswith(f"extended  cli  token {held['token']}  until ")
    refused = invoked("reserve", stock.name, held["outputs"][0], "--lease", "60")
    assert refused.exit_code == 1
    assert "conflict.not-free" in refused.output
    assert invoked("release", stock.name, "cli").output.startswith("released  cli")
    gone = invoked("show", stock.name, "cli", "--at", worker)
    assert (gone.exit_code, "has ended" in gone.output) == (1, True)


@pytest.mark.invariant("RESERVE-1")
@pytest.mark.invariant("RESERVE-2")
async def test_nothing_is_sold_twice_whoever_is_killed(talk: Talk) -> None:
    """`beefline chaos inventory` makes 10,000 attempts on 1,000 units, and kills 24 times; apply too."""
    sale = await sell(talk.settings, Asked(records=600, faults=3, rate=0, seed=37))
    assert sale.findings() == {}
    assert sale.crowd.killed == 3
    assert sale.attempts >= 600
    counts = sale.counts()
    assert counts["sequences at which all units are accounted for"] > 500
    for what in ("sold", "released", "forgotten", "failed", "refused conflict.too-few"):
        assert counts[f"buyers: {what}"] > 0, what
    for kind in ("reserve", "release", "expire", "consume", "dismiss"):
        assert counts[f"entries: {kind}"] > 0, kind
    assert sale.books.held == set()
