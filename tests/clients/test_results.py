"""`beefline results`: which results are told, and how."""

import asyncio
import json
import signal
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from beefline.client import Client
from ops.cli.results import results
from tests.clients.commands import run
from tests.clients.pretend import PAYLOAD, Place, result

pytestmark = pytest.mark.broker

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def home_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation that runs on this machine would lend its settings."""
    monkeypatch.setenv("BEEFLINE_HOME", str(tmp_path / "home"))


async def record_of(place: Place, request_id: str) -> Any:
    """An ingest record for results to speak of."""
    async with Client(place.bootstrap, prefix=place.prefix, max_payload_bytes=PAYLOAD) as client:
        submitted = await client.submit(b"applied", request_id=request_id)
    records = await place.ingested(submitted.offset + 1)
    return next(record for record in records if record.key == request_id.encode())


async def test_every_result_is_a_line_and_what_was_aborted_is_none(place: Place) -> None:
    record = await record_of(place, "r1")
    await place.say(result(record, "rejected", "topic:tm_a", code="script.false", at="tx 1 input 0"))
    await place.say(result(record, "applied", "topic:tm_b"))
    await place.say(result(record, "evicted", "topic:tm_a", kind="evicted"), aborted=True)
    ran = await run(results, flags=place.flags)
    assert ran.exit_code == 0
    first, second = ran.stdout.splitlines()
    assert first.split() == [
        "2026-11-22", "12:00:00", "rejected", "ab" * 32, "tm_a", "r1", "script.false", "at", "tx", "1", "input", "0",
    ]  # fmt: skip
    assert second.split()[2:] == ["applied", "ab" * 32, "tm_b", "r1", "admitted", "0"]


async def test_json_lines_hold_every_field(place: Place) -> None:
    record = await record_of(place, "r1")
    await place.say(result(record, "applied", "topic:tm_a", competing=("cd" * 32,)))
    ran = await run(results, "--json", flags=place.flags)
    (line,) = map(json.loads, ran.stdout.splitlines())
    assert line["competing"] == ["cd" * 32]
    assert line["origin"] == {"topic": record.topic, "partition": record.partition, "offset": record.offset}


async def test_a_transaction_or_a_request_can_be_asked_for(place: Place) -> None:
    one, other = await record_of(place, "r1"), await record_of(place, "r2")
    await place.say(result(one, "applied", "topic:tm_a", txid="01" * 32))
    await place.say(result(other, "applied", "topic:tm_a", txid="EF".lower() * 32))
    by_request = await run(results, "--json", "--request-id", "r1", flags=place.flags)
    by_txid = await run(results, "--json", "--txid", "EF" * 32, flags=place.flags)
    assert [json.loads(line)["request_ids"] for line in by_request.stdout.splitlines()] == [["r1"]]
    assert [json.loads(line)["request_ids"] for line in by_txid.stdout.splitlines()] == [["r2"]]
    neither = await run(results, "--request-id", "r1", "--txid", "ef" * 32, flags=place.flags)
    assert (neither.exit_code, neither.stderr) == (1, "beefline: no result of that\n")


async def test_since_leaves_out_what_is_older(place: Place) -> None:
    record = await record_of(place, "r1")
    ages = {"topic:tm_a": timedelta(days=2), "topic:tm_b": timedelta(hours=3), "topic:tm_c": timedelta(minutes=1)}
    told = datetime.now(UTC)
    for context, age in ages.items():
        await place.say(result(record, "applied", context), at_ms=int((told - age).timestamp() * 1000))

    async def contexts(since: str) -> list[str]:
        ran = await run(results, "--json", "--since", since, flags=place.flags)
        return [json.loads(line)["context"][-1] for line in ran.stdout.splitlines()]

    assert await contexts("start") == ["a", "b", "c"]
    assert await contexts("1d") == ["b", "c"]
    assert await contexts("10m") == ["c"]
    assert await contexts((told - timedelta(hours=4)).isoformat()) == ["b", "c"]
    assert await contexts("now") == []
    ran = await run(results, "--since", "yesterday", flags=place.flags)
    assert ran.exit_code == 3
    assert "an age like 10m" in ran.stderr


async def test_following_goes_on_until_it_is_interrupted(place: Place) -> None:
    record = await record_of(place, "r1")
    command = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ops.cli.main", "results", "--follow", "--json", "--since", "start", *place.flags,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert command.stdout is not None
    try:
        async with asyncio.timeout(60):
            for context in ("topic:tm_a", "topic:tm_b"):
                await place.say(result(record, "applied", context))
                assert json.loads(await command.stdout.readline())["context"] == context
            command.send_signal(signal.SIGINT)
            assert await command.wait() == 0
    finally:
        if command.returncode is None:
            command.kill()
            await command.wait()
