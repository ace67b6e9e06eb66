"""Warm copies on a real broker: who has them, that they agree, takeovers, and copies that differ."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rocksdict import Options, Rdict

from agents.runtime.partitioner import partition_for
from ops.cli.state import state as state_command
from pipeline import state
from schemas.external import EVENT
from schemas.journal import JOURNAL
from schemas.members import MEMBER, Held
from tests.agents.harness import Bench, Worker, get_json, until
from tests.agents.test_reads_on_broker import ALL, KEEP, applies, ask, decided, reader_of, ready
from tests.conftest import Broker
from tests.fakes import coin_of_others, made_tx
from topics.registry import EVENTS, MEMBERS, OPERATIONS
from topics.registry import JOURNAL as JOURNAL_TOPIC

pytestmark = pytest.mark.broker

COUNT = OPERATIONS.partitions
NAMES = ["tm_" + one + other for one in "abcdefgh" for other in "stuvwxyz"]
"""Overlay topics over nearly all partitions."""

HERE = {f"topic:{topic}": partition_for(f"topic:{topic}".encode(), COUNT) for topic in (ALL, KEEP)}


@pytest.fixture
async def bench(broker: Broker, prefix: str, tmp_path: Path) -> AsyncIterator[Bench]:
    async with Bench(broker.bootstrap, prefix, tmp_path) as bench:
        yield bench


async def said(bench: Bench) -> dict[str, dict[int, Held]]:
    """What workers say they hold, by address and partition."""
    found: dict[bytes, tuple[str, dict[int, Held]]] = {}
    for record in await bench.read(MEMBERS):
        if record.value is None:
            found.pop(record.key, None)
        else:
            member = MEMBER.decode(record.value)
            found[record.key] = (member.url, {held.partition: held for held in member.held})
    return dict(found.values())


async def until_held(bench: Bench, workers: list[Worker], copies: int) -> dict[int, str]:
    """Until each partition has one owner and so many fresh copies; by partition, who owns it."""
    owners: dict[int, str] = {}

    async def held() -> bool:
        alive = {worker.address() for worker in workers if worker.ended() is None}
        words = {url: held for url, held in (await said(bench)).items() if url in alive}
        owners.clear()
        owners.update({n: url for url, held in words.items() for n, each in held.items() if each.owner})
        count = Counter(n for held in words.values() for n, each in held.items() if not each.owner)
        return set(words) == alive and len(owners) == COUNT and set(count.values()) == {copies} and len(count) == COUNT

    await until(held, f"{copies} copies of {COUNT} partitions", more=lambda: str(owners))
    return owners


def roots(worker: Worker, topic: str) -> tuple[int, str, str]:
    """As this worker's own store has them: the question says that it was forwarded."""
    found = get_json(f"{worker.address()}/topics/{topic}/state?consistency=strong", {"X-Beefline-Forwarded": "1"})
    assert "sequence" in found, found
    return found["sequence"], found["state_root"], found["store_root"]


@pytest.mark.invariant("COPY-1")
@pytest.mark.invariant("COPY-2")
async def test_of_three_workers_each_holds_everything_and_any_takes_over(bench: Bench) -> None:
    """All told the same folder, as on one machine. Copies agree with their owner; killed, it is replaced by them."""
    workers = [bench.worker("apply") for _ in range(3)]
    await ready(*workers)
    owners = await until_held(bench, workers, 2)
    assert set(Counter(owners.values()).values()) <= {10, 11}
    await ask(bench, ALL, *applies([made_tx([coin_of_others(n)], 2, n) for n in range(20)]))
    await ask(bench, KEEP, *applies([made_tx([coin_of_others(n)], 1, n) for n in range(20, 30)]))
    await decided(bench, ALL, 20)
    await decided(bench, KEEP, 10)
    for topic in (ALL, KEEP):
        assert len({roots(worker, topic) for worker in workers}) == 1
    assert roots(workers[0], ALL)[0] == 20
    lost = next(worker for worker in workers if worker.address() == owners[HERE["topic:tm_all"]])
    lost.kill()
    left = [worker for worker in workers if worker is not lost]
    began = time.monotonic()
    await ask(bench, ALL, *applies([made_tx([coin_of_others(50)], 2, 50)], 20))
    async with reader_of(left[0]) as reader:  # a copy answers, before and after the group has noticed
        assert (await reader.state(ALL)).sequence >= 20
        await decided(bench, ALL, 21)
        assert (await reader.state(ALL)).sequence == 21
    assert time.monotonic() - began < 30, "the session's six seconds, and no long restore"
    await until_held(bench, left, 1)
    for topic in (ALL, KEEP):
        assert len({roots(worker, topic) for worker in left}) == 1
    events = [EVENT.decode(record.value) for record in await bench.read(EVENTS)]
    assert "copies-missing" in {event.kind for event in events}
    assert {event.kind for event in events} <= {"copies-missing", "copies-complete"}
    for worker in left:
        assert "made again" not in worker.log.read_text()


@pytest.mark.invariant("COPY-2")
@pytest.mark.invariant("STORE-3")
async def test_a_copy_that_differs_is_found_and_made_again(bench: Bench) -> None:
    """An entry that is whole, and not what was written: by looking through it; told once, and right afterwards."""
    workers = [bench.worker("apply", f"worker.data_dir={bench.home / name}", "worker.scrub_share=0.5") for name in "ab"]
    await ready(*workers)
    txs = [made_tx([coin_of_others(n)], 2, n) for n in range(5)]
    await ask(bench, ALL, *applies(txs))
    await decided(bench, ALL, 5)
    owners = await until_held(bench, workers, 1)
    (copy,) = [worker for worker in workers if worker.address() != owners[HERE["topic:tm_all"]]]
    (owner,) = [worker for worker in workers if worker is not copy]
    copy.stop()
    name = "ab"[workers.index(copy)]
    (folder,) = (bench.home / name / "apply").glob(f"*/g1-{HERE['topic:tm_all']}")
    store = Rdict(str(folder), Options(raw_mode=True))
    store[state.key("topic:tm_all", state.COIN, b"\x05" * 36)] = state.seal(b"")  # a coin that nobody made
    store.close()
    again = bench.worker("apply", f"worker.data_dir={bench.home / name}", "worker.scrub_share=0.5")
    await ready(again)

    async def told() -> bool:
        kinds = [EVENT.decode(record.value).kind for record in await bench.read(EVENTS)]
        return "store-repaired" in kinds and ("copy-differs" in kinds or "store-spoiled" in kinds)

    await until(told, "word of a store that differs and was made again")
    await until_held(bench, [owner, again], 1)
    await ask(bench, ALL, *applies([made_tx([coin_of_others(9)], 1, 9)], 5))
    await decided(bench, ALL, 6)
    assert roots(owner, ALL) == roots(again, ALL)
    assert owner.ended() is None
    assert again.ended() is None
    entries = [JOURNAL.decode(record.value) for record in await bench.read(JOURNAL_TOPIC)]
    (repair,) = [entry for entry in entries if entry.kind == "repair"]
    assert repair.context == "topic:tm_all"
    assert "its entries do not give its roots" in repair.operation
    assert roots(again, ALL)[0] == 7, "six, and the repair"

    verified = await command(bench, "verify")
    assert verified.exit_code == 0, verified.output
    assert "unbroken" in verified.output
    repaired = await command(bench, "repair", "topic:tm_all")
    assert repaired.exit_code == 0, repaired.output
    assert repaired.output.count("made again") == 2
    assert roots(owner, ALL) == roots(again, ALL)
    nobody = await command(bench, "repair", "topic:tm_all", "--worker", str(owner.address()) + "0")
    assert nobody.exit_code == 1


async def command(bench: Bench, *arguments: str) -> Result:
    """`beefline state`, with this installation's settings."""
    flags = ["--set", f"kafka.bootstrap={bench.kafka.bootstrap}", "--set", f"topics.prefix={bench.prefix}"]
    return await asyncio.to_thread(CliRunner().invoke, state_command, [*arguments, *flags])


@pytest.mark.invariant("COPY-1")
@pytest.mark.setting("worker.fresh_records")
async def test_a_new_worker_takes_its_share_once_its_copies_are_fresh(bench: Bench) -> None:
    """What it would have to read first is followed first, while its owner goes on; then it asks for it."""
    few = "worker.fresh_records=5"
    first = bench.worker("counter", few)
    await ready(first)
    keys = [f"topic:{name}".encode() for name in NAMES] * 3
    await bench.send(OPERATIONS, [b"value-%d" % n for n in range(len(keys))], keys)
    await bench.wait_for(JOURNAL_TOPIC, len(keys))
    second = bench.worker("counter", few)
    await ready(first, second)
    await until_owned(bench, second, COUNT // 2)
    owners = await until_held(bench, [first, second], 1)
    assert Counter(owners.values()) == {first.address(): COUNT // 2, second.address(): COUNT // 2}
    assert "asking for this worker's share" in second.log.read_text()
    for name in NAMES:
        assert roots(first, name) == roots(second, name)
        assert roots(first, name)[0] == 3


async def until_owned(bench: Bench, worker: Worker, count: int) -> None:
    async def owned() -> bool:
        held = (await said(bench)).get(str(worker.address()), {})
        return sum(each.owner for each in held.values()) == count

    await until(owned, f"{count} partitions owned")
