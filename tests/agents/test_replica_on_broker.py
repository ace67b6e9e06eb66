"""A replica as a process of its own: it follows, answers, and refuses what does not agree with the journal."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from schemas.external import EVENT
from schemas.journal import JournalEntry
from tests.agents.harness import Bench, Worker, until
from tests.agents.test_copies_on_broker import roots, said
from tests.agents.test_reads_on_broker import ALL, KEEP, applies, ask, decided, reader_of, ready
from tests.conftest import Broker
from tests.fakes import coin_of_others, made_tx
from topics.registry import EVENTS, JOURNAL, STATE

pytestmark = pytest.mark.broker


@pytest.fixture
async def bench(broker: Broker, prefix: str, tmp_path: Path) -> AsyncIterator[Bench]:
    async with Bench(broker.bootstrap, prefix, tmp_path) as bench:
        yield bench


@pytest.fixture
async def copied(broker: Broker, prefix: str, tmp_path: Path) -> AsyncIterator[Bench]:
    """Another installation on the same broker."""
    folder = tmp_path / "copied"
    folder.mkdir()
    async with Bench(broker.bootstrap, f"c{prefix}", folder) as bench:
        yield bench


def replica(bench: Bench, *contexts: str) -> Worker:
    """By the command that operators use."""
    argv = ["-m", "ops.cli.main", "worker", "replica", "--guarded", str(os.getpid())]
    for context in contexts:
        argv += ["--contexts", context]
    for flag in bench.flags("topics.replication=1", "topics.min_isr=1"):
        argv += ["--set", flag]
    made = Worker(bench, argv, bench.home / f"replica.{len(bench.workers)}.log")
    bench.workers.append(made)
    return made.start()


@pytest.mark.invariant("COPY-3")
async def test_a_replica_follows_what_an_apply_worker_does(bench: Bench) -> None:
    """Begun late; it answers for its contexts and forwards the rest, says what it holds, stops and comes back."""
    worker = bench.worker("apply")
    await ready(worker)
    await ask(bench, ALL, *applies([made_tx([coin_of_others(n)], 2, n) for n in range(10)]))
    await decided(bench, ALL, 10)
    follower = replica(bench, f"topic:{ALL},topic:tm_nobody")
    await ready(follower)
    await ask(bench, ALL, *applies([made_tx([coin_of_others(n)], 2, n) for n in range(10, 15)], 10))
    await ask(bench, KEEP, *applies([made_tx([coin_of_others(n)], 2, n) for n in range(20, 23)], 20))
    await decided(bench, ALL, 15)
    await decided(bench, KEEP, 3)
    assert roots(follower, ALL) == roots(worker, ALL)
    assert roots(follower, ALL)[0] == 15
    async with reader_of(follower) as reader:
        assert (await reader.state(KEEP)).sequence == 3
        assert (await reader.state("tm_nobody")).sequence == 0
        assert len([output async for output in reader.outputs(ALL)]) == 30

    async def has_said() -> bool:
        return str(follower.address()) in await said(bench)

    await until(has_said, "word of the replica on members")
    words = await said(bench)
    assert {each.owner for each in words[str(follower.address())].values()} == {False}
    assert follower.readiness()["contexts"] == ["topic:tm_all", "topic:tm_nobody"]
    code, _ = follower.stop()
    assert code == 0
    assert str(follower.address()) not in await said(bench)
    again = replica(bench, f"topic:{ALL}")
    await ready(again)
    assert roots(again, ALL) == roots(worker, ALL)
    assert [EVENT.decode(record.value).kind for record in await bench.read(EVENTS)] == []


@pytest.mark.invariant("COPY-3")
async def test_a_journal_record_that_was_altered_is_refused(bench: Bench, copied: Bench) -> None:
    """One bit of one entry, in a copy of the topics: told by an event, reads refused, until an operator resumes."""
    worker = bench.worker("apply")
    await ready(worker)
    await ask(bench, ALL, *applies([made_tx([coin_of_others(n)], 2, n) for n in range(6)]))
    await decided(bench, ALL, 6)
    changelog = [record for record in await bench.read(STATE) if record.key != b"\0applied"]
    applied = [record for record in await bench.read(STATE) if record.key == b"\0applied"]
    journal = await bench.read(JOURNAL)
    number = changelog[0].partition
    await _copy(copied, STATE, [*changelog, *(record for record in applied if record.partition == number)], number)
    follower = replica(copied, f"topic:{ALL}")
    await _copy(copied, JOURNAL, journal[:3], number)
    altered = msgspec.msgpack.decode(journal[-1].value, type=JournalEntry)
    wrong = msgspec.structs.replace(altered, operation=altered.operation + "x")
    journal[-1].value = msgspec.msgpack.encode(wrong)
    await _copy(copied, JOURNAL, journal[3:], number)

    async def halted() -> bool:
        return follower.readiness().get("state") == "halted"

    await until(halted, "a replica that halts")
    assert "is not the entry that its state names" in follower.readiness()["reason"]
    events = [EVENT.decode(record.value) for record in await copied.read(EVENTS)]
    assert [event.kind for event in events] == ["state-differs"]
    assert follower.ended() is None
    async with reader_of(follower) as reader:
        with pytest.raises(Exception, match="no worker says that it holds"):
            await reader.state(ALL)


async def _copy(bench: Bench, topic: Any, records: list[Any], partition: int) -> None:
    assert bench.producer is not None
    name = topic.named(bench.prefix)
    for record in records:
        headers = list(record.headers)
        await bench.producer.send_and_wait(name, record.value, key=record.key, headers=headers, partition=partition)


@pytest.mark.parametrize("arguments", [["worker", "replica"], ["worker", "apply", "--contexts", "topic:tm_x"]])
def test_contexts_are_a_replica_s(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ops.cli.main", *arguments], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 3
    assert "contexts" in done.stderr
