"""The audit: it says nothing of a world that adds up, and names by id what was taken, doubled or torn."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import msgspec
import pytest
from aiokafka import AIOKafkaProducer
from click.testing import CliRunner

from agents.runtime.settings import KafkaSettings, TopicSettings
from ops.cli.audit import audit as command
from ops.instruments.audit import NotReadable, Report, audit
from ops.instruments.audit.books import Books
from ops.instruments.audit.flight import Flight
from ops.instruments.audit.reading import EVERYTHING, GROUPS
from ops.instruments.audit.report import KINDS
from ops.settings import Settings
from pipeline.outcome import Verdict
from pipeline.results import About, accepted, applied, decision_id, refused, rejected, revised
from schemas import headers as h
from schemas.external import RESULT, Admittance, Result
from schemas.flow import OPERATION, Accept, Apply, Origin, Parsed, Verified
from schemas.flow import PARSED as PARSED_SCHEMA
from schemas.journal import JOURNAL as JOURNAL_SCHEMA
from schemas.journal import Effects, JournalEntry
from schemas.network import NetworkStatus
from schemas.types import display
from tests import builders
from tests.conftest import Broker
from tests.ops.audit_cluster import Cluster, on_broker
from tests.ops.audit_world import DAY_MS, FATES, Record, World, fresh
from topics.registry import (
    BROADCAST,
    DEAD_LETTERS,
    INGEST,
    JOURNAL,
    OPERATIONS,
    PARSED,
    RESULTS,
    TRANSACTIONS,
)

OTHER = "topic:tm_other"


def report_of(world: World, **flight: Any) -> Report:
    """What the audit makes of it."""
    books = world.tell(Books(world.cluster, INGEST.named(world.prefix), roots=True))
    for name, value in flight.items():
        setattr(books.flight, name, value)
    return books.balance()


def kinds(report: Report) -> set[str]:
    """Of its findings."""
    return {finding.kind for finding in report.findings}


def said(record: Record) -> dict[str, Any]:
    """A result's fields."""
    return dict(json.loads(record.value or b""))


def results_of(world: World, payload: int, **wanted: Any) -> Callable[[Record], bool]:
    """Whether a record of `results` is about a payload, and has these fields."""
    ingest = world.ingest[payload]

    def test(record: Record) -> bool:
        fields = said(record)
        at = (fields["origin"]["partition"], fields["origin"]["offset"])
        return at == (ingest.partition, ingest.offset) and all(fields[name] == wanted[name] for name in wanted)

    return test


def entry_of(record: Record) -> JournalEntry:
    return JOURNAL_SCHEMA.decode(record.value)


def entries_of(world: World, payload: int, kind: str, context: str = OTHER) -> Callable[[Record], bool]:
    """Whether a record of `journal` is a payload's, of this kind and context."""

    def test(record: Record) -> bool:
        entry = entry_of(record)
        return (entry.txid, entry.kind, entry.context) == (world.txids[payload], kind, context)

    return test


def origin_of(world: World, payload: int) -> Origin:
    record = world.ingest[payload]
    return Origin(world.cluster, record.topic, record.partition, record.offset, record.timestamp)


def about(world: World, payload: int, context: str | None = None) -> About:
    return About(origin_of(world, payload), ("r",), world.txids[payload], context, 2)


def add_result(world: World, result: Result) -> None:
    world.add(RESULTS, world.of(RESULTS)[0], value=RESULT.encode(result), key=b"k", partition=0)


def change_result(world: World, test: Callable[[Record], bool], **changes: Any) -> None:
    """In its place."""
    (record,) = world.of(RESULTS, test)
    record.value = json.dumps({**said(record), **changes}).encode()


def change_entry(world: World, record: Record, **changes: Any) -> None:
    record.value = JOURNAL_SCHEMA.encode(msgspec.structs.replace(entry_of(record), **changes))


def letters_of(world: World, payload: int) -> Callable[[Record], bool]:
    """Whether a dead letter was made of a payload. (Those of parse are the ingest record itself.)"""
    ingest = world.ingest[payload]
    return lambda record: world.txids[payload] in (record.value or b"") or record.value == ingest.value


# --- what can go wrong: the fate of the payload it happens to, the kinds it must be told under, and how it is done


class Spoil:
    """A defect."""

    def __init__(self, fate: str, expected: set[str], do: Callable[[World, int], str]) -> None:
        self.fate = fate
        self.expected = expected
        self.do = do  # returns an id that a finding must name


def no_decision(world: World, payload: int) -> str:
    world.drop(RESULTS, results_of(world, payload))
    world.drop(DEAD_LETTERS, letters_of(world, payload))
    return world.name(payload)


def no_decision_for_one_context(world: World, payload: int) -> str:
    world.drop(RESULTS, results_of(world, payload, context=OTHER))
    return f"{world.name(payload)} {OTHER}"


def no_outcome(world: World, payload: int) -> str:
    world.drop(RESULTS, results_of(world, payload, outcome="accepted"))
    return display(world.txids[payload])


def not_handed_on(world: World, payload: int) -> str:
    world.drop(TRANSACTIONS, lambda record: record.key == world.txids[payload])
    return display(world.txids[payload])


def no_payload(world: World, payload: int) -> str:
    world.drop(DEAD_LETTERS, letters_of(world, payload))
    return world.name(payload)


def no_payload_of_the_network(world: World, payload: int) -> str:
    world.drop(DEAD_LETTERS, letters_of(world, payload))
    return display(world.txids[payload])


def two_outcomes(world: World, payload: int) -> str:
    (record,) = world.of(RESULTS, results_of(world, payload, context=OTHER, outcome="applied"))
    world.add(RESULTS, record, value=json.dumps({**said(record), "outcome": "rejected"}).encode())
    return said(record)["id"]  # type: ignore[no-any-return]


def as_a_whole_too(world: World, payload: int) -> str:
    add_result(world, rejected(about(world, payload), Verdict("script.false"), world.now_ms))
    return world.name(payload)


def accepted_and_not_back(world: World, payload: int) -> str:
    add_result(world, accepted(about(world, payload), "arc@there", world.now_ms, 2))
    return f"left {OTHER} with {display(world.txids[payload])}, which was accepted after all"


def two_network_outcomes(world: World, payload: int) -> str:
    add_result(world, refused(about(world, payload), Verdict("network.rejected"), "arc@there", world.now_ms, 1))
    return display(world.txids[payload])


def entry_twice(world: World, payload: int) -> str:
    (record,) = world.of(JOURNAL, entries_of(world, payload, "apply"))
    world.add(JOURNAL, record)
    return f"{OTHER} {entry_of(record).sequence} comes again"


def further(world: World, payload: int, kind: str) -> JournalEntry:
    """One more entry about a payload, well chained."""
    last = max(world.of(JOURNAL, lambda record: entry_of(record).context == OTHER), key=lambda r: entry_of(r).sequence)
    before = entry_of(last)
    entry = msgspec.structs.replace(
        before, sequence=before.sequence + 1, previous=hashlib.sha256(last.value or b"").digest(), kind=kind,
        txid=world.txids[payload], effects=Effects(),
    )  # fmt: skip
    world.add(JOURNAL, last, value=JOURNAL_SCHEMA.encode(entry))
    return entry


def applied_twice(world: World, payload: int) -> str:
    entry = further(world, payload, "apply")
    return f"{OTHER} {entry.sequence} applies {display(world.txids[payload])} again"


def judged_again(world: World, payload: int) -> tuple[JournalEntry, About]:
    """What a parent that came late brings about for a payload that stands applied."""
    entry = further(world, payload, "rejudge")
    return entry, About(origin_of(world, payload), ("again",), world.txids[payload], OTHER, 2)


def entry_gone(world: World, payload: int) -> str:
    (record,) = world.drop(JOURNAL, entries_of(world, payload, "apply"))
    return f"{OTHER} {entry_of(record).sequence + 1} comes after {entry_of(record).sequence - 1}"


def entry_changed(world: World, payload: int) -> str:
    (record,) = world.of(JOURNAL, entries_of(world, payload, "apply"))
    change_entry(world, record, operation="another")
    return f"{OTHER} {entry_of(record).sequence + 1} does not name the hash of {entry_of(record).sequence}"


def no_roots(world: World, payload: int) -> str:
    (record,) = world.of(JOURNAL, entries_of(world, payload, "apply"))
    change_entry(world, record, store_root=b"")
    return f"{OTHER} {entry_of(record).sequence} has none"


def wrong_root(world: World, payload: int) -> str:
    (record,) = world.of(JOURNAL, entries_of(world, payload, "apply"))
    change_entry(world, record, store_root=bytes(32))
    return f"{OTHER} {entry_of(record).sequence} has others"


def result_of_no_entry(world: World, payload: int) -> str:
    add_result(world, applied(about(world, payload, OTHER), Admittance(), 999, bytes(32), world.now_ms))
    return f"{OTHER} 999"


def result_of_another_entry(world: World, payload: int) -> str:
    (record,) = world.of(RESULTS, results_of(world, payload, context=OTHER, outcome="applied"))
    change_result(world, lambda each: each is record, state_root="00" * 32)
    return f"{OTHER} {said(record)['sequence']}"


def refused_and_handed_on(world: World, payload: int) -> str:
    world.add(TRANSACTIONS, world.of(BROADCAST)[0], key=world.txids[payload], partition=0)
    return f"{display(world.txids[payload])} is on transactions"


def refused_and_not_evicted(world: World, payload: int) -> str:
    """The last entry of a context: without it nothing else is amiss."""
    world.drop(JOURNAL, entries_of(world, payload, "evict"))
    world.drop(RESULTS, results_of(world, payload, outcome="evicted", context=OTHER))
    return f"{display(world.txids[payload])} stands in {OTHER}"


def letter_without_cause(world: World, payload: int) -> str:
    world.add(DEAD_LETTERS, world.of(INGEST)[payload], partition=0, headers=[])
    return "class ''"


def letter_of_unknown_code(world: World, payload: int) -> str:
    (record,) = world.of(DEAD_LETTERS, letters_of(world, payload))
    record.headers = [(name, b"no.such" if name == h.CODE else value) for name, value in record.headers]
    return "'no.such'"


def letter_of_no_result(world: World, payload: int) -> str:
    world.drop(RESULTS, results_of(world, payload))
    return "no result says rejected"


def strange_id(world: World, payload: int) -> str:
    change_result(world, results_of(world, payload, context=OTHER, outcome="applied"), id="ab" * 16)
    return "ab" * 16


def not_asked_for(world: World, payload: int) -> str:
    context = "topic:tm_unasked"
    add_result(world, rejected(about(world, payload, context), Verdict("script.false"), world.now_ms))
    return f"{context}, which was not asked for"


def junk_result(world: World, payload: int) -> str:
    world.add(RESULTS, world.of(RESULTS)[0], value=b"{")
    return "results/"


def junk_entry(world: World, payload: int) -> str:
    world.add(JOURNAL, world.of(JOURNAL)[0], value=b"\xc1")
    return "journal/"


def junk_request(world: World, payload: int) -> str:
    world.add(BROADCAST, world.of(BROADCAST)[0], value=b"\x90")
    return "broadcast/"


SPOILS: Mapping[str, Spoil] = {
    "no decision": Spoil("malformed", {"lost-decision"}, no_decision),
    "no decision for one context": Spoil("accepted", {"lost-decision", "torn-entry"}, no_decision_for_one_context),
    "no outcome": Spoil("accepted", {"lost-outcome"}, no_outcome),
    "not handed on": Spoil("accepted", {"lost-transaction"}, not_handed_on),
    "no payload of a rejected": Spoil("rejected", {"lost-payload"}, no_payload),
    "no payload of a parked": Spoil("parked", {"lost-payload"}, no_payload),
    "no payload of a refused": Spoil("refused", {"lost-payload"}, no_payload_of_the_network),
    "two outcomes": Spoil("accepted", {"doubled-decision", "lost-payload"}, two_outcomes),
    "decided as a whole too": Spoil("accepted", {"doubled-decision", "lost-payload"}, as_a_whole_too),
    "two network outcomes": Spoil("accepted", {"doubled-outcome"}, two_network_outcomes),
    "an entry twice": Spoil("accepted", {"doubled-entry"}, entry_twice),
    "applied twice": Spoil("accepted", {"doubled-entry", "torn-entry"}, applied_twice),
    "an entry gone": Spoil("accepted", {"torn-journal", "torn-result"}, entry_gone),
    "an entry changed": Spoil("accepted", {"torn-journal"}, entry_changed),
    "no roots": Spoil("accepted", {"torn-root", "torn-journal"}, no_roots),
    "a wrong root": Spoil("accepted", {"torn-root", "torn-journal"}, wrong_root),
    "a result of no entry": Spoil("accepted", {"torn-result"}, result_of_no_entry),
    "a result of another entry": Spoil("accepted", {"torn-result"}, result_of_another_entry),
    "refused and handed on": Spoil("refused", {"torn-outcome"}, refused_and_handed_on),
    "refused and not evicted": Spoil("refused", {"torn-outcome", "torn-journal"}, refused_and_not_evicted),
    "accepted after all, and not back": Spoil("refused", {"torn-outcome", "lost-transaction"}, accepted_and_not_back),
    "a letter without cause": Spoil("accepted", {"torn-letter"}, letter_without_cause),
    "a letter of an unknown code": Spoil("rejected", {"torn-letter", "lost-payload"}, letter_of_unknown_code),
    "a letter of no result": Spoil("malformed", {"torn-letter", "lost-decision"}, letter_of_no_result),
    "a strange id": Spoil("accepted", {"stranger", "lost-decision"}, strange_id),
    "a context not asked for": Spoil("accepted", {"stranger", "lost-payload"}, not_asked_for),
    "an unreadable result": Spoil("accepted", {"unreadable"}, junk_result),
    "an unreadable entry": Spoil("accepted", {"unreadable"}, junk_entry),
    "an unreadable request": Spoil("accepted", {"unreadable"}, junk_request),
}


def test_a_world_that_adds_up_has_no_findings() -> None:
    """Every fate, counted; replaying the journals gives their roots."""
    report = report_of(fresh())
    assert (report.findings, report.pending, report.exit_code) == ((), (), 0)
    of_each = {
        name: report.counts.get(name) for name in ("applied", "rejected", "parked", "evicted", "network: accepted")
    }
    assert of_each == {"applied": 5, "rejected": 2, "parked": 1, "evicted": 2, "network: accepted": 1}
    assert report.counts["ingest records"] == len(FATES)


@pytest.mark.invariant("RESULT-1")
@pytest.mark.invariant("JOURNAL-1")
@pytest.mark.parametrize("name", SPOILS)
def test_a_defect_is_told_by_kind_and_id(name: str) -> None:
    """Alone in a world that adds up otherwise: these kinds, and no others."""
    spoil = SPOILS[name]
    world = fresh(("accepted", spoil.fate, "accepted"))
    shown = spoil.do(world, 1)
    report = report_of(world)
    assert kinds(report) == spoil.expected
    assert shown in "\n".join(what for finding in report.findings for what in finding.first)
    assert report.exit_code == 1


def test_every_kind_of_finding_is_seen() -> None:
    """By a defect above, but for the one that asks an endpoint."""
    assert {kind for spoil in SPOILS.values() for kind in spoil.expected} | {"lost-on-network"} == set(KINDS)


# --- what is no defect


def test_what_nobody_acknowledged_is_pending_and_not_lost() -> None:
    """No stage has come to it: the ingest record is below no group's position."""
    world = World()
    world.asks(("accepted", "accepted"))
    world.acknowledged = False
    report = report_of(world)
    assert (report.findings, report.exit_code) == ((), 2)
    assert [(finding.kind, finding.count) for finding in report.pending] == [("decision", 3)]  # two contexts of one


@pytest.mark.parametrize("topic", ["parsed", "operations", "retry.10s"])
def test_a_payload_under_way_is_pending(topic: str) -> None:
    """Seen on the topic where it waits: for all contexts, or for the one whose operation it is."""
    world = fresh(("accepted", "accepted"))
    source = OPERATIONS if topic == "operations" else PARSED
    waiting = next(
        record
        for record in world.of(source, lambda record: world.txids[1] in (record.value or b""))
        if record.key in (world.txids[1], OTHER.encode())
    )
    world.drop(RESULTS, results_of(world, 1, context=OTHER))
    assert "lost-decision" in kinds(report_of(world))
    books = world.tell(Books(world.cluster, INGEST.named(world.prefix)))
    headers = [(h.ORIGIN_TOPIC, source.name.encode())] if topic.startswith("retry") else []
    books.flight.record(topic, waiting.key, waiting.value, headers)
    report = books.balance()
    assert (report.findings, report.exit_code) == ((), 2)
    books.flight.land()
    assert books.balance().exit_code == 1


def test_a_broadcast_under_way_is_pending() -> None:
    """Unread by broadcast, or in a retry tier."""
    world = fresh(("accepted",))
    (request,) = world.of(BROADCAST)
    for lose, kind in ((not_handed_on, "lost-transaction"), (no_outcome, "lost-outcome")):
        lose(world, 0)
        assert kinds(report_of(world)) == {kind}  # what has no outcome was accepted by nobody that we know of
        books = world.tell(Books(world.cluster, INGEST.named(world.prefix)))
        books.flight.record("retry.1m", request.key, request.value, [(h.ORIGIN_TOPIC, b"broadcast")])
        assert [(finding.kind, finding.count) for finding in books.balance().pending] == [("outcome", 1)]
        books.flight.land()
        books.flight.acknowledged[BROADCAST.name, request.partition] = 0
        assert [(finding.kind, finding.count) for finding in books.balance().pending] == [("outcome", 1)]


def test_an_eviction_under_way_is_pending() -> None:
    """The context still holds what the network refused, and its operation is unread."""
    world = fresh(("accepted", "refused"))
    refused_and_not_evicted(world, 1)
    books = world.tell(Books(world.cluster, INGEST.named(world.prefix)))
    assert kinds(books.balance()) == {"torn-outcome"}
    word = OPERATION.encode(Accept("a", (world.txids[1],), "arc@there"))
    books.flight.record(OPERATIONS.name, OTHER.encode(), word, [])
    report = books.balance()
    assert (report.findings, [(finding.kind, finding.count) for finding in report.pending]) == ((), [("operation", 2)])


def test_what_retention_deleted_is_not_lost() -> None:
    """A result is kept for a week, its ingest record for a day longer."""
    world = fresh(("malformed", "rejected"))
    world.drop(RESULTS, lambda _: True)
    world.drop(DEAD_LETTERS, lambda _: True)
    since = {topic.name: world.now_ms + DAY_MS for topic in (RESULTS, DEAD_LETTERS)}
    report = report_of(world, since=since)
    assert report.exit_code == 0
    assert report.counts["older than what is kept"] == 3  # two contexts of one
    assert report_of(world, since={}).exit_code == 1


def test_a_decision_on_a_record_no_longer_kept_is_fine() -> None:
    """And so is one on a record that came after the audit began."""
    world = fresh(("accepted", "accepted"))
    books = world.tell(Books(world.cluster, INGEST.named(world.prefix)))
    books.decisions._asked.clear()
    assert kinds(books.balance()) == {"stranger"}
    books.flight.starts = dict.fromkeys(range(INGEST.partitions), 100)
    assert (books.balance().findings, books.balance().counts["decisions on records no longer kept"]) == ((), 2)
    books.flight.starts = {}
    books.flight.ends = dict.fromkeys(range(INGEST.partitions), 0)
    assert (books.balance().findings, books.balance().counts["decisions on later records"]) == ((), 2)


def test_decisions_of_a_topic_that_was_made_again_are_no_strangers() -> None:
    """Same partition and offset, another time: the id differs, and it was said before the record came."""
    world = fresh(("accepted",))
    record = world.ingest[0]
    former = Origin(world.cluster, record.topic, record.partition, record.offset, record.timestamp - DAY_MS)
    about_former = About(former, ("r",), None)
    add_result(world, rejected(about_former, Verdict("malformed.magic"), world.now_ms - DAY_MS))
    report = report_of(world, since={DEAD_LETTERS.name: world.now_ms})
    assert (report.findings, report.counts["decisions of an earlier topic"]) == ((), 1)


def test_a_replays_decision_stands_in_place_of_parked() -> None:
    """The parked id stays on the topic; the record counts as decided for its contexts, once."""
    world = fresh(("accepted", "parked"))
    for context in ("topic:tm_anytx", OTHER):
        result = rejected(about(world, 1, context), Verdict("script.false"), world.now_ms)
        add_result(world, result)
        letter = world.of(DEAD_LETTERS)[0]
        parsed = PARSED_SCHEMA.decode(letter.value)
        assert parsed.asked.origin == origin_of(world, 1)
        _add_letter(world, letter, parsed, context)
    report = report_of(world)
    assert (report.findings, report.counts.get("parked"), report.counts["rejected"]) == ((), None, 2)


def _add_letter(world: World, like: Record, parsed: Parsed, context: str) -> None:
    """What apply writes when it refuses."""
    verified = Verified(parsed.asked, parsed.txid, parsed.beef, (), 0)
    operation = Apply(decision_id(parsed.asked.origin, context), verified)
    cause = h.DeadLetterHeaders(
        class_="verdict", code="script.false", message="", stage="apply", origin_topic="operations",
        origin_partition=0, origin_offset=0, failed_at=world.now_ms,
    )  # fmt: skip
    world.add(DEAD_LETTERS, like, key=context.encode(), value=OPERATION.encode(operation), headers=h.to_pairs(cause))


def test_headers_of_hostile_senders_disturb_nothing() -> None:
    """Nulls, bytes that are no text, a megabyte of names: what the stages say of them adds up."""
    world = World()
    world.asks(("malformed", "malformed", "malformed", "malformed"))
    many = json.dumps(["tm_" + "a" * 40] * 20_000).encode()
    for record, value in zip(world.ingest, (None, b"\xff", many, b'["tm_UPPER"]'), strict=True):
        record.headers = [(h.TOPICS, value), ("class", b"verdict"), (h.ORIGIN_TOPIC, None)]  # type: ignore[list-item]
    report = report_of(world.run(("malformed",) * 4))
    assert (report.findings, report.counts["rejected"]) == ((), 4)


@pytest.mark.parametrize("also", [[], [(h.TOPICS, b'["tm_anytx"]')]])
def test_owners_that_a_request_names_decide_like_topics(also: h.Pairs) -> None:
    """Alone, or beside topics; an owner that does not decide is missed, and one that was not named is a stranger."""
    world = World()
    world.asks(("accepted", "accepted"))
    named, other = (f"owner:{builders.key(number).public.hex()}" for number in (1, 2))
    header = json.dumps([{"owner": named.removeprefix("owner:"), "description": "as a test"}]).encode()
    world.ingest[1].headers = [(h.BASKETS, header), *also]
    report = report_of(world.run(("accepted", "accepted")))
    assert (report.findings, report.counts["applied"]) == ((), 2 + len(also))
    results = world.logs[RESULTS.name]
    (own,) = [record for record in results if named.encode() in (record.value or b"")]
    at = results.index(own)
    results[at] = replaced(own, named, other)
    assert {finding.kind for finding in report_of(world).findings} >= {"lost-decision", "stranger"}


def replaced(record: Record, context: str, other: str) -> Record:
    """A result as if another context had said it."""
    assert record.value is not None
    return msgspec.structs.replace(record, value=record.value.replace(context.encode(), other.encode()))


def test_repeats_of_a_decision_are_one_decision() -> None:
    """At-least-once stages may say a thing again; a reader keeps one for each id."""
    world = fresh()
    world.logs[RESULTS.name] += list(world.logs[RESULTS.name])
    world.logs[DEAD_LETTERS.name] += list(world.logs[DEAD_LETTERS.name])
    report = report_of(world)
    assert report.findings == ()
    assert report.counts["applied"] == 5


def test_endpoints_bear_out_the_results() -> None:
    """An accepted transaction is at one endpoint at least; a refused one at none; nothing else is anywhere."""
    world = fresh(("accepted", "refused", "accepted"))
    accepted, gone, _ = (display(txid) for txid in world.txids)

    def asked(*endpoints: Mapping[str, str]) -> Report:
        books = world.tell(Books(world.cluster, INGEST.named(world.prefix)))
        books.network.endpoints(endpoints, endpoints)
        return books.balance()

    has = dict(world.endpoint())
    assert asked(has, {}).findings == ()
    assert asked({**has, gone: "REFUSED 461"}).findings == ()
    for spoiled, kind, what in (
        ({**has, accepted: "REFUSED 461"}, "lost-on-network", accepted),
        ({name: status for name, status in has.items() if name != accepted}, "lost-on-network", accepted),
        ({**has, gone: "SEEN_ON_NETWORK"}, "torn-outcome", gone),
        ({**has, "cd" * 32: "SEEN_ON_NETWORK"}, "stranger", "cd" * 32),
    ):
        (finding,) = asked(spoiled, {}).findings
        assert (finding.kind, finding.count) == (kind, 1)
        assert what in finding.first[0]
    books = world.tell(Books(world.cluster, INGEST.named(world.prefix)))
    books.network.endpoints([{}], [{**has, "cd" * 32: "RECEIVED"}])
    assert books.balance().findings == ()  # what came while the topics were read may have been asked for later


# --- on a broker


@pytest.fixture
async def cluster(broker: Broker, prefix: str) -> AsyncIterator[Cluster]:
    async with on_broker(broker, prefix) as made:
        yield made


@pytest.mark.broker
async def test_an_audit_of_a_broker_sees_every_defect_at_once(cluster: Cluster) -> None:
    """All of the above in one installation, each done to a payload of its own."""
    world = await cluster.world(("accepted", *(spoil.fate for spoil in SPOILS.values()), "accepted"))
    shown = {name: spoil.do(world, number) for number, (name, spoil) in enumerate(SPOILS.items(), 1)}
    await cluster.write(world)
    await cluster.acknowledge()
    report = await audit(cluster.settings, keep=100, roots=True)
    assert kinds(report) == set(KINDS) - {"lost-on-network"}
    text = "\n".join(what for finding in report.findings for what in finding.first)
    # Entries that are told by what comes after them move when their neighbours are spoiled too.
    beside = {"an entry gone", "an entry changed", "a wrong root", "an entry twice"}
    assert [name for name, what in shown.items() if what not in text and name not in beside] == []
    await the_command_tells(cluster, report)


async def the_command_tells(cluster: Cluster, report: Report) -> None:
    """The same, as JSON and as text; the exit code is the report's."""
    flags = ["--set", f"kafka.bootstrap={cluster.settings.kafka.bootstrap}", "--set", f"topics.prefix={cluster.prefix}"]
    as_json = await asyncio.to_thread(CliRunner().invoke, command, ["--json", "--first", "100", "--roots", *flags])
    assert as_json.exit_code == report.exit_code == 1
    told = msgspec.json.decode(as_json.output, type=Report)
    assert told.counts == report.counts
    assert _as_sets(told) == _as_sets(report)  # what is found while reading comes in the order it is read
    as_text = await asyncio.to_thread(CliRunner().invoke, command, ["--first", "1", *flags])
    assert as_text.exit_code == 1
    for finding in report.findings:
        assert f"found: {finding.count} {finding.kind}. " in as_text.output
    assert "Something is lost, doubled or torn." in as_text.output


@pytest.mark.broker
async def test_an_audit_waits_for_what_is_under_way(cluster: Cluster) -> None:
    """First nothing is acknowledged; then a transaction is open; then everything adds up. Aborted records are none."""
    world = await cluster.world(FATES)
    later = world.drop(RESULTS, results_of(world, 0, outcome="applied"))
    await cluster.write(world)
    report = await audit(cluster.settings)
    assert (report.findings, report.exit_code) == ((), 2)
    assert {finding.kind for finding in report.pending} >= {"decision"}

    writer = AIOKafkaProducer(bootstrap_servers=cluster.settings.kafka.bootstrap, transactional_id=cluster.prefix)
    await writer.start()
    try:
        for value, end in ((b"never was", writer.abort_transaction), (later[0].value, writer.commit_transaction)):
            await writer.begin_transaction()
            await writer.send_and_wait(later[0].topic, value, partition=later[0].partition)
            if value != b"never was":
                await cluster.acknowledge()
                looking = asyncio.ensure_future(audit(cluster.settings, wait_s=20))
                done, _ = await asyncio.wait({looking}, timeout=0.5)
                assert not done  # the open transaction may hold what is missing
            await end()
        report = await looking
    finally:
        await writer.stop()
    assert (report.findings, report.pending) == ((), ())
    assert report.counts["results"] == len(world.of(RESULTS)) + 1


@pytest.mark.broker
async def test_an_open_transaction_that_stays_is_pending(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody knows yet what it will have written."""
    monkeypatch.setattr("ops.reading.SWEEP_S", 0.0)
    writer = AIOKafkaProducer(bootstrap_servers=cluster.settings.kafka.bootstrap, transactional_id=cluster.prefix)
    await writer.start()
    try:
        await writer.begin_transaction()
        await writer.send_and_wait(RESULTS.named(cluster.prefix), b"x", partition=1)
        report = await audit(cluster.settings)
        await writer.abort_transaction()
    finally:
        await writer.stop()
    assert [(finding.kind, finding.first) for finding in report.pending] == [
        ("open-transaction", ("results/1: from offset 0 on",))
    ]
    assert (await audit(cluster.settings)).exit_code == 0


@pytest.mark.broker
async def test_what_a_broker_deleted_is_counted_and_not_lost(cluster: Cluster) -> None:
    """First the beginning of `ingest`, whose decisions are left alone; then all results."""
    world = await cluster.world(("accepted", "rejected"))
    await cluster.write(world)
    await cluster.acknowledge()
    assert (await audit(cluster.settings)).exit_code == 0
    await cluster.delete_all(INGEST)
    report = await audit(cluster.settings)
    assert (report.findings, report.counts["decisions on records no longer kept"]) == ((), 2)
    await cluster.delete_all(RESULTS)
    report = await audit(cluster.settings)
    assert (report.findings, report.pending) == ((), ())
    # A journal entry without its result, a broadcast without its outcome, and a dead letter without its verdict.
    assert report.counts["older than what is kept"] == 3


@pytest.mark.broker
async def test_a_missing_topic_is_said_and_not_taken_for_empty(broker: Broker, prefix: str) -> None:
    settings = Settings(kafka=KafkaSettings(bootstrap=broker.bootstrap), topics=TopicSettings(prefix=prefix))
    with pytest.raises(NotReadable, match=f"topic {prefix}ingest does not exist"):
        await audit(settings)


def _as_sets(report: Report) -> dict[str, tuple[int, set[str]]]:
    return {finding.kind: (finding.count, set(finding.first)) for finding in report.findings}


# --- the command


def test_the_command_says_when_no_broker_answers() -> None:
    """Exit code 3: it could not look, which is neither 0 nor a finding."""
    done = CliRunner().invoke(command, ["--set", "kafka.bootstrap=127.0.0.1:1"])
    assert done.exit_code == 3
    assert "no Kafka broker answers" in done.output


def test_groups_are_those_of_the_stages() -> None:
    """Every topic that a stage reads from its group is either looked at from its position, or judged by it."""
    from ops.status import INPUTS

    assert INPUTS == GROUPS
    assert {topic for inputs in GROUPS.values() for topic in inputs} <= set(EVERYTHING)


def test_a_transaction_that_was_judged_again_adds_up() -> None:
    """Its `revised` names the entry that judged it last, and so does what a repeat is told from then on."""
    world = fresh(("accepted", "accepted"))
    entry, about = judged_again(world, 1)
    said = (Admittance((0,)), entry.sequence, entry.state_root, world.now_ms)
    add_result(world, revised(about, *said))
    add_result(world, applied(about, *said, repeat=True))
    report = report_of(world)
    assert kinds(report) == set()
    assert report.counts["revised"] == 1


def test_a_revision_without_its_entry_is_torn() -> None:
    world = fresh(("accepted", "accepted"))
    entry, about = judged_again(world, 1)
    add_result(world, revised(about, Admittance((0,)), entry.sequence, bytes(32), world.now_ms))
    assert kinds(report_of(world)) == {"torn-result"}


@pytest.mark.parametrize(
    ("status", "waits"),
    [
        (NetworkStatus(0, "", "", sent=True, look_ms=1), "outcome"),
        (NetworkStatus(0, "", "", sent=True, settles_ms=1), "outcome"),
        (NetworkStatus(0, "", "", sent=True), None),
        (NetworkStatus(1, "accepted", "arc", sent=True, look_ms=1), None),
    ],
)
def test_what_status_still_looks_at_is_under_way(status: NetworkStatus, waits: str | None) -> None:
    """Until it is decided: broadcast has given it up, and somebody who counts may yet take it."""
    flight = Flight()
    flight.stands(bytes(32), msgspec.msgpack.encode(status))
    assert flight.cast_waits(bytes(32), None) == waits
