"""Several workers in a group, several installations on a cluster."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agents.runtime.assignor import deal
from tests.agents.harness import Bench, until
from tests.conftest import Broker
from topics.registry import INGEST, JOURNAL, OPERATIONS, PARSED, SET_A

pytestmark = pytest.mark.broker


@pytest.fixture
async def bench(broker: Broker, prefix: str, tmp_path: Path) -> AsyncIterator[Bench]:
    async with Bench(broker.bootstrap, prefix, tmp_path) as bench:
        yield bench


@pytest.mark.invariant("ASSIGN-1")
@pytest.mark.parametrize("members", [3, 5])
async def test_each_partition_number_of_two_topics_has_one_owner(bench: Bench, members: int) -> None:
    """Every partition of both topics gets records; who answers for a number is one process for both."""
    workers = [bench.worker("both") for _ in range(members)]
    shares = sorted(len(part["a"]) for part in deal({"a": range(SET_A)}, [str(n) for n in range(members)]).values())

    async def dealt() -> bool:
        owned = sorted(int(worker.readiness().get("partitions", 0)) for worker in workers)
        return owned == [2 * share for share in shares]

    await until(dealt, f"{members} members dealt in", more=lambda: str([worker.readiness() for worker in workers]))
    for topic in (OPERATIONS, JOURNAL):
        await asyncio.gather(*(bench.send(topic, [b"x"], partition=number) for number in range(SET_A)))
    owners = defaultdict(set)
    for record in await bench.wait_for(PARSED, 2 * SET_A):
        pid, _, number = record.value.split()
        owners[number].add(pid)
    assert len(owners) == SET_A
    assert all(len(pids) == 1 for pids in owners.values())
    assert len(set.union(*owners.values())) == members


@pytest.mark.setting("topics.prefix")
async def test_two_prefixes_on_one_cluster_do_not_touch(broker: Broker, prefix: str, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    async with (
        Bench(broker.bootstrap, f"{prefix}a.", one) as first,
        Bench(broker.bootstrap, f"{prefix}b.", other) as second,
    ):
        for bench, mark in ((first, b"a"), (second, b"b")):
            await bench.send(INGEST, [b"%s %d" % (mark, n) for n in range(200)])
            bench.worker("odd")
        for bench, mark in ((first, b"a"), (second, b"b")):
            found = await bench.wait_for(PARSED, 200)
            assert {record.value for record in found} == {b"%s %d" % (mark, n) for n in range(200)}
            await bench.until_idle("odd", INGEST)


async def test_a_worker_joins_and_leaves_under_load_and_nothing_is_lost(bench: Bench) -> None:
    values = [b"value %d" % n for n in range(1500)]

    async def feed() -> None:
        for at in range(0, len(values), 50):
            await bench.send(INGEST, values[at : at + 50])
            await asyncio.sleep(0.1)

    feeding = asyncio.ensure_future(feed())
    bench.worker("odd")
    await bench.wait_for(PARSED, 200)
    second = bench.worker("odd")

    async def shared() -> bool:
        return second.readiness().get("partitions") == 4

    await until(shared, "shared partitions")
    code, _ = second.stop()
    assert code == 0
    await feeding
    await bench.until_idle("odd", INGEST)
    found = [record.value for record in await bench.read(PARSED)]
    assert set(found) == set(values)
    assert len(found) == len(values)  # partitions were committed before they were given back
