"""Offsets set back by Kafka's own tool: everything is processed again, nothing is applied twice, ids stay."""

import asyncio
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from ops.chaos import Field
from ops.installation import Installation
from ops.instruments.audit import audit
from schemas.external import Event
from tests.agents.harness import Bench, until
from tests.hurrying import hurried
from topics.registry import EVENTS, INGEST, JOURNAL, OPERATIONS, RESULTS, group

pytestmark = pytest.mark.broker

PAYLOADS = 250


async def kafka(*arguments: str) -> str:
    """`beefline kafka …`, which finds the broker by itself."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ops.cli.main", "kafka", *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode() + out.decode()
    return out.decode()


async def reset(installation: Installation, stage: str, topic: str, *to: str) -> None:
    """Stop a stage, set its group, start it."""
    assert installation.workers is not None
    assert installation.loaded is not None
    prefix = installation.loaded.settings.topics.prefix
    child = installation.workers.child(stage)
    await child.rest()
    await kafka(
        "consumer-groups",
        "--group",
        group(prefix, stage),
        "--topic",
        prefix + topic,
        "--reset-offsets",
        *to,
        "--execute",
    )
    child.wake()
    await installation.until_ready()


async def test_parse_and_apply_set_back_and_forth(tmp_path: Path) -> None:
    async with hurried():
        await set_back_and_forth(tmp_path)


async def set_back_and_forth(tmp_path: Path) -> None:
    installation = Installation(flags=["status.settle_s=2"])
    try:
        loaded = await installation.start()
        settings = loaded.settings
        assert installation.services is not None
        arcs = installation.services.arcs
        field = Field(installation, PAYLOADS, 0, 100, 9, lambda _: None)
        await field.feed()
        assert (await audit(settings, arcs=arcs, wait_s=90, roots=True)).exit_code == 0
        bench = Bench(settings.kafka.bootstrap, settings.topics.prefix, tmp_path)

        before, entries, seen = await bench.standing(), len(await bench.read(JOURNAL)), len(await bench.read(RESULTS))
        await reset(installation, "parse", INGEST.name, "--to-earliest")

        async def processed_again() -> bool:
            return len(await bench.read(RESULTS)) >= seen + PAYLOADS

        await until(processed_again, "second results")
        assert (await audit(settings, arcs=arcs, wait_s=90, roots=True)).exit_code == 0
        after = await bench.standing()
        assert set(after) == set(before)
        assert {name: result.outcome for name, result in after.items()} == {
            name: result.outcome for name, result in before.items()
        }
        assert len(await bench.read(JOURNAL)) == entries  # nothing was applied twice

        for to in (("--to-earliest",), ("--to-latest",), ("--shift-by", "-20")):
            seen = len(await bench.read(RESULTS))
            await reset(installation, "apply", OPERATIONS.name, *to)
            report = await audit(settings, arcs=arcs, wait_s=90)
            assert report.exit_code == 0
            assert len(await bench.read(JOURNAL)) == entries
            assert len(await bench.read(RESULTS)) == seen
        events = [msgspec.json.decode(record.value, type=Event) for record in await bench.read(EVENTS)]
        resets = [event for event in events if event.kind == "offsets-reset"]
        assert len(resets) >= 2
        assert all(event.subject == "apply" for event in resets)
    finally:
        await installation.stop()
