"""What waits in the retry tiers, on a real broker: told, and returned at once."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from click.testing import CliRunner

from ops.cli.retry import retry
from ops.running import running_workers
from schemas import headers as h
from schemas.external import EVENT
from tests.agents.harness import Bench, until
from tests.conftest import Broker
from topics.registry import BROADCAST, EVENTS, PARSED, RETRY_1M, RETRY_10M, RETRY_10S, Topic

pytestmark = pytest.mark.broker

DAY_MS = 86_400_000


@pytest.fixture
async def bench(broker: Broker, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setenv("BEEFLINE_HOME", str(tmp_path))
    async with Bench(broker.bootstrap, prefix, tmp_path) as bench:
        yield bench


async def lay(bench: Bench, tier: Topic, origin: Topic, code: str, values: list[bytes], in_ms: int = DAY_MS) -> None:
    """Records that met a condition two minutes ago."""
    now_ms = int(time.time() * 1000)
    kept = h.RetryHeaders(
        origin_topic=origin.name, origin_partition=0, origin_offset=0, attempt=1, first_failed=now_ms - 120_000,
        not_before=now_ms + in_ms, code=code,
    )  # fmt: skip
    await bench.send(tier, values, headers=h.to_pairs(kept))


async def said(bench: Bench, *arguments: str) -> str:
    flags = [each for flag in bench.flags() for each in ("--set", flag)]
    done = await asyncio.to_thread(CliRunner().invoke, retry, [*arguments, *flags])
    assert done.exit_code == 0, done.output
    return done.output


def started(bench: Bench) -> subprocess.Popen[bytes]:
    flags = [each for flag in bench.flags() for each in ("--set", flag)]
    guarded = ["--guarded", str(os.getpid())]
    command = [sys.executable, "-m", "ops.cli.main", "worker", "retry", "--network", "dev", *guarded, *flags]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@asynccontextmanager
async def retrying(bench: Bench) -> AsyncIterator[None]:
    """A worker of the stage, ready; it ends when it is told to."""
    process = started(bench)
    try:
        await until(is_ready, "ready worker")
        yield
        process.terminate()
        assert await asyncio.to_thread(process.wait, 20) == 0
    finally:
        process.kill()
        await asyncio.to_thread(process.wait)


async def is_ready() -> bool:
    for worker in running_workers():
        async with aiohttp.ClientSession() as session, session.get(f"{worker.http}/readyz") as reply:
            return reply.status == 200
    return False


async def told(bench: Bench) -> dict[str, Any]:
    lines = [json.loads(line) for line in (await said(bench, "status", "--json")).splitlines()]
    return {line["tier"]: line for line in lines}


async def test_what_waits_is_told_and_returns_when_an_operator_says_so(bench: Bench) -> None:
    """Its tier alone, what stood there by then, an event that says who and why; what comes later waits."""
    await lay(bench, RETRY_10M, PARSED, "anchor.above-tip", [b"%d" % n for n in range(40)])
    await lay(bench, RETRY_10M, BROADCAST, "network.undecided", [b"b"])
    await lay(bench, RETRY_1M, PARSED, "anchor.above-tip", [b"c"])
    async with retrying(bench):
        await _told_and_returned(bench)


async def _told_and_returned(bench: Bench) -> None:
    before = await told(bench)
    assert {name: line["waits"] for name, line in before.items()} == {"10s": 0, "1m": 1, "10m": 41}
    assert before["10m"]["of"] == [
        {"origin": "broadcast", "code": "network.undecided", "waits": 1},
        {"origin": "parsed", "code": "anchor.above-tip", "waits": 40},
    ]
    assert before["10s"]["since_ms"] is None
    assert before["10m"]["next_ms"] - before["10m"]["since_ms"] == pytest.approx(DAY_MS + 120_000, abs=5_000)
    shown = await said(bench, "status")
    assert " 10m        41 wait  the oldest for 2 min, due in 24 h\n" in shown
    assert "40 parsed       anchor.above-tip" in shown

    url = ["--why", "the header service is back"]
    assert await said(bench, "now", *url, "--dry-run") == "42 would return\n"
    assert await said(bench, "now", *url, "--who", "ann", "--tier", "10m") == "41 return now\n"
    assert len(await bench.wait_for(PARSED, 40)) == 40
    assert [record.value for record in await bench.wait_for(BROADCAST, 1)] == [b"b"]
    await lay(bench, RETRY_10M, PARSED, "anchor.above-tip", [b"late"])

    async def left() -> bool:
        return {name: line["waits"] for name, line in (await told(bench)).items()} == {"10s": 0, "1m": 1, "10m": 1}

    await until(left, "all others acknowledged")
    assert len(await bench.read(PARSED)) == 40
    events = [EVENT.decode(record.value) for record in await bench.read(EVENTS)]
    (event,) = [event for event in events if event.kind == "retry-now"]
    assert event.details == {"who": "ann", "why": "the header service is back", "tiers": ["10m"]}
    assert await said(bench, "now", *url) == "2 return now\n"
    assert len(await bench.wait_for(PARSED, 42)) == 42


async def test_a_worker_that_is_told_nonsense_says_so(bench: Bench) -> None:
    await lay(bench, RETRY_10S, PARSED, "anchor.above-tip", [b"a"])
    flags = [each for flag in bench.flags() for each in ("--set", flag)]
    for arguments, says in (
        (["now", "--why", "x"], "no worker of retry runs on this machine"),
        (["now", "--why", "x", "--at", "http://127.0.0.1:9"], "http://127.0.0.1:9"),
        (["now", "--why", "x", "--tier", "2m"], "2m"),
    ):
        done = await asyncio.to_thread(CliRunner().invoke, retry, [*arguments, *flags])
        assert done.exit_code != 0
        assert says in done.output
    assert len(await bench.read(PARSED)) == 0
