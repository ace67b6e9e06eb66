"""`beefline operations`: what is undecided, and whether contexts agree; of what the real rules write."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path

import msgspec
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.structs import OffsetAndMetadata
from click.testing import CliRunner, Result

from agents.runtime.partitioner import partition_for
from agents.runtime.records import Out
from ops.cli.operations import operations as command
from ops.journal import Broken
from ops.operations import GRACE_MS, Finding, Operation, Operations, findings, verified
from pipeline.follow import Keyed
from pipeline.state import Layer, encode
from schemas import headers as h
from schemas.flow import OPERATION, Decide
from schemas.journal import JOURNAL as ENTRY
from schemas.operations import VOTE, OperationStatus
from tests.agents.harness import Bench
from tests.agents.several_rig import Rig, all_of, name_of
from tests.conftest import Broker
from tests.fakes import Record, coin_of_others, made_tx
from tests.fakes import verified as payload
from topics.registry import DECISIONS, JOURNAL, OPERATIONS, RETRY_10S, group

ALL, KEEP, ODD = "topic:tm_all", "topic:tm_keep", "topic:tm_odd"
TOPICS = ("tm_all=pipeline.overlay.builtin.anytx:AnyTx", "tm_keep=tests.fakes:Keep", "tm_odd=tests.fakes:Odd")
HOUR_MS = 3_600_000

APPLIED = all_of(payload(made_tx([coin_of_others(1)], 2, 1), offset=1, contexts=(ALL, KEEP)))
REFUSED = all_of(payload(made_tx([coin_of_others(2)], 2, 2), offset=2, contexts=(KEEP, ODD), off_chain=b"nothing"))
SILENT = all_of(payload(made_tx([coin_of_others(3)], 2, 3), offset=3, contexts=(ALL, ODD)))
COMMITTED, ABORTED, UNDECIDED = map(name_of, (APPLIED, REFUSED, SILENT))


@pytest.fixture(scope="module")
def rig() -> Rig:
    """One that was committed, one that was aborted, and one whose last context does not vote."""
    made = Rig(TOPICS)
    for each in (APPLIED, REFUSED):
        made.send(each)
        made.run()
    made.lag = {ODD.encode()}
    made.send(SILENT)
    made.run()
    return made


def journal(rig: Rig) -> list[bytes]:
    return [out.value or b"" for out in rig.written[JOURNAL.name]]


def decisions(rig: Rig) -> dict[str, OperationStatus]:
    found = {name: rig.standing(name) for name in (COMMITTED, ABORTED, UNDECIDED)}
    return {name: status for name, status in found.items() if status is not None}


def read(
    entries: Iterable[bytes], decided: dict[str, OperationStatus], unread: Iterable[Record] = ()
) -> dict[str, Operation]:
    """As the topics would give them."""
    found = Operations()
    for offset, value in enumerate(entries):
        found.journaled(Record("beef.journal", 0, offset, b"", value, []))
    for name, status in decided.items():
        found.decided(Record("beef.decisions", 0, 0, bytes.fromhex(name), encode(status), []))
    for record in unread:
        found.unread(record)
    return {each.name: each for each in found.end()}


def without(entries: list[bytes], kind: str, context: str) -> list[bytes]:
    kept = [
        value for value in entries if not ((entry := ENTRY.decode(value)).kind == kind and entry.context == context)
    ]
    assert len(kept) < len(entries)
    return kept


def judged(found: dict[str, Operation], later_ms: int = 0) -> list[Finding]:
    times = [part.time_ms for each in found.values() for part in each.parts.values()]
    times += [each.status.opened_ms for each in found.values() if each.status is not None]
    return list(verified(found.values(), max(times) + later_ms, HOUR_MS)[1])


def word(rig: Rig, operation: str, context: str) -> Out:
    """The coordinator's, to a context."""
    for out in rig.written[OPERATIONS.name]:
        said = OPERATION.decode(out.value)
        if isinstance(said, Decide) and said.operation == operation and out.key == context.encode():
            return out
    raise AssertionError((operation, context))


def test_what_the_rules_write_agrees(rig: Rig) -> None:
    found = read(journal(rig), decisions(rig))
    assert judged(found) == []
    assert {name: each.stands for name, each in found.items()} == {
        COMMITTED: "committed", ABORTED: "aborted", UNDECIDED: "undecided",
    }  # fmt: skip
    assert found[COMMITTED].committed == [ALL, KEEP]
    assert found[UNDECIDED].missing == [ODD]
    assert found[UNDECIDED].parts[ALL].kind == "prepare"
    counts, _ = verified(found.values(), 0, HOUR_MS)
    assert counts == {"committed": 1, "aborted": 1, "under way": 0, "undecided": 1, "unheard": 0}


def test_committed_in_one_context_and_not_in_another(rig: Rig) -> None:
    """Whether the coordinator still knows of it or not."""
    torn = without(journal(rig), "commit", KEEP)
    for known in (decisions(rig), {}):
        (finding,) = judged(read(torn, known))
        assert (finding.kind, finding.operation, finding.context) == ("torn", COMMITTED, KEEP)
        assert finding.says == f"{ALL} committed it by entry 2, and {KEEP} has it prepared (entry 1)"
    gone = without(torn, "prepare", KEEP)
    (finding,) = judged(read(gone, decisions(rig)))
    assert finding.says.endswith(f"{KEEP} has no entry of it")
    nowhere = without(torn, "commit", ALL)
    assert [(each.kind, each.context) for each in judged(read(nowhere, decisions(rig)))] == [
        ("torn", ALL), ("torn", KEEP),
    ]  # fmt: skip


def test_what_is_on_its_way_is_no_finding(rig: Rig) -> None:
    out = word(rig, COMMITTED, KEEP)
    record = Record("beef.operations", 0, 7, out.key, out.value, [OPERATION.header])
    of_others = Record("beef.retry.10s", 0, 7, b"key", b"\x93", [VOTE.header])
    found = read(without(journal(rig), "commit", KEEP), decisions(rig), [of_others, record])
    assert judged(found) == []
    assert found[COMMITTED].stands == "under way"
    assert found[COMMITTED].on_its_way == frozenset((KEEP,))
    done = read(journal(rig), decisions(rig), [record])[COMMITTED]  # read, and acknowledged a moment later
    assert (done.stands, done.on_its_way) == ("committed", frozenset())


def test_committed_and_decided_otherwise(rig: Rig) -> None:
    known = decisions(rig)
    against = known[COMMITTED]
    for decided, says in (
        ("abort", f"by entry 2, and it was aborted: admission.nothing by {KEEP} in attempt 0: nothing"),
        ("", "by entry 2, and nobody has decided"),
    ):
        known[COMMITTED] = msgspec.structs.replace(
            against, decided=decided, code="admission.nothing", by=KEEP, message="nothing"
        )
        found = judged(read(journal(rig), known))
        assert [(each.kind, each.context) for each in found] == [("against", ALL), ("against", KEEP)]
        assert [each.says for each in found] == [f"{context} committed it {says}" for context in (ALL, KEEP)]


def test_shown_twice(rig: Rig) -> None:
    entries = journal(rig)
    (commit,) = [entry for entry in map(ENTRY.decode, entries) if (entry.kind, entry.context) == ("commit", ALL)]
    again = ENTRY.encode(msgspec.structs.replace(commit, sequence=9))
    (finding,) = judged(read([*entries, again], decisions(rig)))
    assert (finding.kind, finding.context) == ("twice", ALL)
    assert finding.says == f"{ALL} shows it twice, by entries {commit.sequence} and 9"


def test_undecided_past_the_deadline(rig: Rig) -> None:
    """Nobody decided, nobody heard of it, or nobody was told."""
    known = decisions(rig)
    due_ms = known[UNDECIDED].due_ms
    found = read(journal(rig), known)
    assert findings(found[UNDECIDED], due_ms + GRACE_MS, HOUR_MS) == []
    (finding,) = findings(found[UNDECIDED], due_ms + GRACE_MS + 1, HOUR_MS)
    assert (finding.kind, finding.context) == ("overdue", ODD)
    assert f"{ODD} did not vote" in finding.says
    del known[UNDECIDED]
    unheard = read(journal(rig), known)
    assert unheard[UNDECIDED].stands == "unheard"
    assert judged(unheard) == []
    (finding,) = judged(unheard, HOUR_MS + 2 * GRACE_MS)
    assert (finding.kind, finding.context) == ("overdue", ALL)
    assert finding.says.endswith("nobody has heard of it")
    untold = read(without(journal(rig), "abort", KEEP), decisions(rig))
    assert judged(untold) == []
    (finding,) = [each for each in judged(untold, HOUR_MS + 2 * GRACE_MS) if each.operation == ABORTED]
    assert (finding.kind, finding.context) == ("overdue", KEEP)
    assert finding.says.endswith("was never told that it was aborted")
    out = word(rig, ABORTED, KEEP)
    coming = Record("beef.operations", 0, 7, out.key, out.value, [OPERATION.header])
    told = read(without(journal(rig), "abort", KEEP), decisions(rig), [coming])
    assert [each for each in judged(told, HOUR_MS + 2 * GRACE_MS) if each.operation == ABORTED] == []


def test_what_cannot_be_read_is_said(rig: Rig) -> None:
    found = Operations()
    with pytest.raises(Broken, match="journal/3/5 is no entry"):
        found.journaled(Record("beef.journal", 3, 5, b"", b"\x91\xa1\xff", []))
    with pytest.raises(Broken, match="decisions/3/6 does not say"):
        found.decided(Record("beef.decisions", 3, 6, bytes(16), bytes(40), []))
    found.decided(Record("beef.decisions", 3, 7, b"applied", b"", []))
    assert found.end() == []


# --- from topics, by the command


@pytest.fixture
async def bench(broker: Broker, prefix: str, tmp_path: Path) -> AsyncIterator[Bench]:
    async with Bench(broker.bootstrap, prefix, tmp_path) as bench:
        yield bench


async def run(bench: Bench, *arguments: str) -> Result:
    flags = [each for flag in bench.flags() for each in ("--set", flag)]
    return await asyncio.to_thread(CliRunner().invoke, command, [*arguments, *flags])


async def lay(bench: Bench, rig: Rig, keep: Callable[[Out], bool]) -> None:
    """What was journaled as far as it is to be kept, and where operations stand."""
    assert bench.producer is not None
    of = f"{bench.prefix}{JOURNAL.name}"
    for out in rig.written[JOURNAL.name]:
        if keep(out):
            number = partition_for(out.key or b"", JOURNAL.partitions)
            await bench.producer.send_and_wait(of, out.value, key=out.key, partition=number)
    written = Layer(rig.coordinator.store)
    written.writes |= rig.coordinator.store.entries
    for key, value in Keyed().records(written):
        await bench.producer.send_and_wait(f"{bench.prefix}{DECISIONS.name}", value, key=key, partition=0)


async def acknowledge(bench: Bench, stage: str, topic: str, offset: int) -> None:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bench.kafka.bootstrap, group_id=group(bench.prefix, stage), enable_auto_commit=False
    )
    tp = TopicPartition(topic, partition_for(KEEP.encode(), OPERATIONS.partitions))
    consumer.assign([tp])
    await consumer.start()
    try:
        await consumer.commit({tp: OffsetAndMetadata(offset, "")})
    finally:
        await consumer.stop()


def said(result: Result, code: int = 0) -> str:
    assert result.exit_code == code, result.output
    return result.output


@pytest.mark.broker
async def test_the_command_tells_what_topics_hold(bench: Bench, rig: Rig) -> None:
    """Undecided ones by default; one whole; and that a context lacks what another shows, unless it is on its way."""
    assert said(await run(bench, "list")) == ""
    assert said(await run(bench, "verify")) == "0 operations; no findings\n"

    def is_kept(out: Out) -> bool:
        entry = ENTRY.decode(out.value)
        return (entry.kind, entry.context) != ("commit", KEEP)

    await lay(bench, rig, is_kept)
    listed = said(await run(bench, "list"))
    assert listed.startswith(f"{UNDECIDED}  undecided for ")
    assert listed.endswith(f"  waits for the votes of {ODD}\n")
    everything = [json.loads(line) for line in said(await run(bench, "list", "--all", "--json")).splitlines()]
    assert [(line["operation"], line["decided"]) for line in everything] == [
        (COMMITTED, "commit"), (ABORTED, "abort"), (UNDECIDED, None),
    ]  # fmt: skip
    assert (everything[1]["code"], everything[1]["by"], everything[1]["final"]) == ("admission.nothing", ODD, True)
    assert everything[2]["missing"] == [ODD]

    shown = said(await run(bench, "show", ABORTED[:12]))
    assert f"{ABORTED}  aborted" in shown
    assert f"admission.nothing by {ODD} in attempt 0: tm_odd makes nothing of it" in shown
    assert f"{KEEP}  aborted by entry 4" in shown
    assert f"{ODD}  has no entry of it" in shown
    assert "no operation ffff" in said(await run(bench, "show", "ffff"), 1)

    torn = said(await run(bench, "verify"), 1)
    assert f"torn  {COMMITTED}  {ALL} committed it by entry 2, and {KEEP} has it prepared (entry 1)\n" in torn
    assert torn.endswith("3 operations: 1 committed, 1 aborted, 1 undecided; 1 findings\n")
    told = json.loads(said(await run(bench, "verify", "--json"), 1))
    assert [(each["kind"], each["context"]) for each in told["findings"]] == [("torn", KEEP)]

    await _on_its_way(bench, rig)


async def _on_its_way(bench: Bench, rig: Rig) -> None:
    """In the input, unread; read, which makes it a finding again; and in a tier, where a busy context has sent it."""
    assert bench.producer is not None
    out = word(rig, COMMITTED, KEEP)
    of = f"{bench.prefix}{OPERATIONS.name}"
    sent = await bench.producer.send_and_wait(of, out.value, key=out.key, headers=[OPERATION.header])
    assert "1 under way" in said(await run(bench, "verify"))
    assert f"{KEEP}  prepared by entry 1" in (shown := said(await run(bench, "show", COMMITTED)))
    assert "and has not read what was decided" in shown
    await acknowledge(bench, "apply", of, sent.offset + 1)
    assert "torn" in said(await run(bench, "verify"), 1)
    kept = h.RetryHeaders(
        origin_topic=OPERATIONS.name, origin_partition=sent.partition, origin_offset=sent.offset, attempt=0,
        first_failed=0, not_before=0, code="conflict.undecided",
    )  # fmt: skip
    headers = [OPERATION.header, *h.to_pairs(kept)]
    await bench.producer.send_and_wait(f"{bench.prefix}{RETRY_10S.name}", out.value, key=out.key, headers=headers)
    assert "1 under way" in said(await run(bench, "verify"))
