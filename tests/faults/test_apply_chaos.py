"""Short forms of apply's scenarios in `make chaos`; and that what they prove with finds what is wrong."""

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from rocksdict import Options, Rdict

from agents.runtime.cluster import look
from agents.runtime.partitioner import partition_for
from ops.apply_chaos import compaction, damage, dead_writer, exactly_once, large, lost_answers
from ops.apply_chaos.proof import Held, Proof, prove
from ops.apply_chaos.rig import Rig
from ops.instruments.audit.report import Report
from ops.instruments.operations import operations
from ops.reading import read_whole
from ops.scenario import Asked
from schemas.external import RESULT
from tests.conftest import Broker
from topics.registry import OPERATIONS, RESULTS

pytestmark = pytest.mark.broker

SEED = 11


def clean(report: Report) -> None:
    assert report.findings == ()
    assert report.counts["journal entries replayed"] > 0
    assert report.counts["stores compared"] > 0
    assert report.counts["reads over HTTP"] > 0


@pytest.mark.invariant("TXN-1")
@pytest.mark.invariant("TXN-2")
@pytest.mark.invariant("TXN-3")
@pytest.mark.invariant("TXN-4")
@pytest.mark.invariant("RESULT-1")
async def test_every_operation_takes_effect_once_whatever_is_killed(
    broker: Broker, asked: Callable[..., Asked]
) -> None:
    """Two workers killed at each named place in turn, and one a zombie; `make chaos` has three, and kills brokers."""
    form = exactly_once.Form(nodes=1, bootstrap=broker.bootstrap, workers=2, every_s=4.0, rolling=False)
    outcome = await exactly_once.run("exactly-once", asked(300, 4, 40), form)
    clean(outcome.report)  # among what it finds: a place that was not reached, a zombie that was not fenced
    assert outcome.report.counts["operations"] == outcome.payloads >= 300
    assert outcome.restarts >= 9  # each named place takes two ends, the zombie one


@pytest.mark.invariant("TXN-1")
@pytest.mark.invariant("TXN-4")
async def test_a_lost_answer_to_a_commit_doubles_and_loses_nothing(broker: Broker, asked: Callable[..., Asked]) -> None:
    """The answer, the commit itself, and the answer to what is produced, each lost with its connection."""
    outcome = await lost_answers.run("lost-answers", asked(150, 3, 50), broker.bootstrap)
    clean(outcome.report)
    assert outcome.faults == 3


@pytest.mark.setting("worker.transaction_timeout_s")
async def test_a_writer_that_dies_halfway_holds_its_readers_up_for_its_time_out(
    broker: Broker, asked: Callable[..., Asked]
) -> None:
    """Nothing of it is applied. 8 s is the bound in `make chaos`; a machine that tests share may take longer."""
    outcome = await dead_writer.run("dead-writer", asked(60, 1, 40), broker.bootstrap, bound_s=25.0)
    clean(outcome.report)
    assert outcome.report.counts["operations"] == outcome.payloads


@pytest.mark.invariant("STORE-1")
async def test_a_compacted_changelog_gives_every_root_again_and_a_bad_head_is_found(
    broker: Broker, asked: Callable[..., Asked]
) -> None:
    outcome = await compaction.run("compaction", asked(600, 0, 150), broker.bootstrap)
    clean(outcome.report)
    assert outcome.report.counts["contexts"] == compaction.CONTEXTS


@pytest.mark.invariant("STORE-1")
@pytest.mark.invariant("STORE-2")
@pytest.mark.invariant("STORE-3")
@pytest.mark.invariant("COPY-2")
async def test_every_damage_is_found_told_and_made_again(broker: Broker, asked: Callable[..., Asked]) -> None:
    """Two workers; `make chaos` has three, and says how long each took."""
    outcome = await damage.run("damage", asked(400, 0, 0), broker.bootstrap, workers=2)
    clean(outcome.report)
    assert len(outcome.figures) == 7


@pytest.mark.invariant("TXN-5")
@pytest.mark.parametrize(
    ("scenario", "count", "queued"),
    [(large.wide, 20_000, 0), (large.leave, 3_000, 6), (large.judged_again, 3_000, 2)],
)
async def test_what_is_large_goes_through_in_bounded_transactions(
    broker: Broker, asked: Callable[..., Asked], scenario: Any, count: int, queued: int
) -> None:
    """`make chaos`: 200,000 outputs, and families of 50,000."""
    outcome = await scenario("large", asked(count, 0, 0), broker.bootstrap)
    clean(outcome.report)
    assert outcome.restarts == 0
    assert outcome.report.counts.get("journal: wait", 0) >= queued


async def test_the_proof_finds_what_is_wrong(broker: Broker, asked: Callable[..., Asked], own_home: Path) -> None:
    """Every kind of damage to what held before."""
    topics = exactly_once.TOPIC_NAMES[:2]
    contexts = [f"topic:{topic}" for topic in topics]
    async with Rig(exactly_once.HOSTED[:2], bootstrap=broker.bootstrap, flags=asked(0, 0, 0).flags) as rig:
        await rig.feed(islice(operations(contexts, SEED), 40))
        clean((await prove(rig, contexts)).report())
        await _double_and_change(rig)
        _spoil(own_home / "data-0", contexts[1])

        async def proved() -> dict[str, int]:
            proof = Proof(rig.settings)
            await proof.topics()
            await proof.state()
            proof.stores([worker.data for worker in rig.workers])
            proof.reads([Held("apply", contexts[0], 1, "00", "00", False)], ["apply.1 does not answer"])
            return {finding.kind: finding.count for finding in proof.report().findings}

        assert await proved() == {"doubled": 1, "stranger": 1, "torn-store": 1, "torn-read": 2}
        await rig.feed(islice(operations(contexts, SEED + 1), 1))  # nobody applies it
        found = await proved()
        assert found["lost"] >= 2  # its entry in the journal, and its result
        assert found["torn-journal"] == 1
        assert found["torn-state"] == 1


async def _double_and_change(rig: Rig) -> None:
    """A result is written once more, and once more with another revision."""
    found: list[Any] = []
    cluster = await look(rig.settings.kafka, rig.settings.topics)
    await read_whole(rig.settings, cluster.partitions, [RESULTS], lambda _, record: found.append(record))
    result = found[0]
    other = RESULT.encode(structs.replace(RESULT.decode(result.value), revision=1_000))
    async with rig.producer() as producer:
        name = RESULTS.named(rig.settings.topics.prefix)
        for value in (result.value, other):
            await producer.send_and_wait(name, value, key=result.key, headers=[*result.headers])


def _spoil(data: Path, context: str) -> None:
    """One bit of one entry of a context in a worker's store."""
    number = partition_for(context.encode(), OPERATIONS.partitions)
    (folder,) = (data / "apply").glob(f"*/g1-{number}")
    store = Rdict(str(folder), Options(raw_mode=True))
    key = next(key for key in store.keys() if key.startswith(context.encode() + b"\0"))  # noqa: SIM118 - no mapping
    store[key] = store[key][:-1] + bytes([store[key][-1] ^ 1])
    store.close()
