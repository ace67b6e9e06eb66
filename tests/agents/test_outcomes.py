"""From decision to records: exactly what each kind of decision writes, and what travels with it."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agents.runtime.outbox import Outbox
from agents.runtime.outcomes import TIERS, Router, result_key, result_out, waiting
from agents.runtime.records import Decision, Defer, Emit, Fault, Out, Refuse, SetAside
from pipeline import results
from pipeline.outcome import CODES, Condition, Verdict
from pipeline.results import About
from pipeline.retry import TIER_MS
from schemas import headers as h
from schemas.external import RESULT, Result
from schemas.flow import Origin
from schemas.types import display
from tests.fakes import NOTHING_READ, NOW_MS, NULL, Producer, Record, retry_stage
from tests.profiles import CHEAP
from topics.registry import BROADCAST, BY_NAME, DEAD_LETTERS, OPERATIONS, PARSED, RESULTS, RETRY_10S, Topic

DAY_MS = 86_400_000
TXID, RIVAL = b"\x01" * 32, b"\x02" * 32
ABOUT = About(Origin("cluster", "beef.ingest", 2, 9, NOW_MS), ("r1",), TXID, "topic:tm_x", 1)
RECORD = Record(
    "beef.operations", 5, 77, b"key", b"value",
    [("schema", b"operation/1"), ("traceparent", b"00-11-22-01"), ("mine", b"kept")],
)  # fmt: skip
CONDITION = Condition("conflict.undecided", "waits", "tx 1")
VERDICT = Verdict("script.false", "why", "tx 3 input 0")
ROUTER = Router("apply", "beef.", DAY_MS)
MORE = Out(BROADCAST, TXID, b"more")

WAITED = h.RetryHeaders(
    origin_topic="operations", origin_partition=5, origin_offset=70, attempt=3, first_failed=NOW_MS - DAY_MS,
    not_before=NOW_MS, code="conflict.undecided",
)  # fmt: skip


def outs(decision: Decision, record: Record = RECORD, router: Router = ROUTER) -> list[Out]:
    return list(router.outs(record, decision, NOW_MS))


def result_of(out: Out) -> Result:
    assert out.topic is RESULTS
    return RESULT.decode(out.value)


def letter_of(out: Out) -> dict[str, str]:
    assert out.topic is DEAD_LETTERS
    return {name: value.decode() for name, value in out.headers}


def test_what_was_dealt_with_writes_what_it_says_and_nothing_else() -> None:
    assert outs(Emit((MORE,))) == [MORE]
    assert outs(Emit(())) == []


def test_a_verdict_is_a_result_and_a_dead_letter() -> None:
    more, result, letter = outs(Refuse(VERDICT, ABOUT, 6, (RIVAL,), (MORE,)))
    assert more is MORE
    assert result_of(result) == results.rejected(ABOUT, VERDICT, NOW_MS, revision=6, competing=(RIVAL,))
    assert result.key == display(TXID).encode()
    assert (letter.key, letter.value) == (b"key", b"value")
    assert letter_of(letter) == {
        "schema": "operation/1", "mine": "kept",
        "class": "verdict", "code": "script.false", "message": "why", "stage": "apply",
        "origin-topic": "operations", "origin-partition": "5", "origin-offset": "77", "failed-at": str(NOW_MS),
    }  # fmt: skip


def test_what_is_set_aside_is_kept_and_another_tells_its_sender() -> None:
    more, letter = outs(SetAside(VERDICT, (MORE,)))
    assert more is MORE
    assert (letter_of(letter)["class"], letter_of(letter)["code"]) == ("verdict", "script.false")
    assert (letter.key, letter.value) == (b"key", b"value")


@pytest.mark.invariant("RETRY-1")
def test_a_condition_waits_in_a_tier_as_it_is() -> None:
    more, waits = outs(Defer(CONDITION, ABOUT, outs=(MORE,)))
    assert more is MORE
    assert (waits.topic, waits.key, waits.value) == (RETRY_10S, b"key", b"value")
    assert dict(waits.headers) == {
        "schema": b"operation/1", "mine": b"kept",
        "origin-topic": b"operations", "origin-partition": b"5", "origin-offset": b"77",
        "attempt": b"1", "first-failed": str(NOW_MS).encode(), "not-before": str(NOW_MS + 10_000).encode(),
        "code": b"conflict.undecided",
    }  # fmt: skip


@pytest.mark.invariant("RETRY-1")
@pytest.mark.parametrize(("attempt", "tier"), [(0, 0), (1, 1), (2, 2), (3, 2), (50, 2)])
def test_a_record_that_waited_waits_longer_and_says_since_when(attempt: int, tier: int) -> None:
    waited = replace(WAITED, attempt=attempt, first_failed=NOW_MS - 5000)
    record = replace(RECORD, headers=[*RECORD.headers, *h.to_pairs(waited)])
    (out,) = outs(Defer(CONDITION, ABOUT), record)
    assert out.topic is TIERS[tier]
    again = waiting(Record(headers=out.headers))
    assert again is not None
    assert (again.attempt, again.first_failed) == (attempt + 1, NOW_MS - 5000)
    assert again.not_before == NOW_MS + TIER_MS[tier]
    assert [name for name, _ in out.headers] == ["schema", "mine", *(name for name, _ in h.to_pairs(again))]


@pytest.mark.invariant("RETRY-1")
@pytest.mark.setting("retry.give_up_after_s")
@pytest.mark.parametrize("context", ["topic:tm_x", None])
def test_a_condition_that_lasted_too_long_is_parked_and_its_record_kept(context: str | None) -> None:
    """As a context's decision, or as the network's answer where the request names no context of its own."""
    about = About(ABOUT.origin, ("r1",), TXID, context, 2)
    record = replace(RECORD, headers=[*RECORD.headers, *h.to_pairs(WAITED)])
    more, result, letter = outs(Defer(CONDITION, about, (MORE,)), record)
    assert more is MORE
    assert result_of(result) == results.parked(about, CONDITION, NOW_MS)
    assert (letter.key, letter.value) == (b"key", b"value")
    found = letter_of(letter)
    assert (found["class"], found["code"], found["mine"]) == ("exhausted", "conflict.undecided", "kept")
    assert not {"attempt", "not-before", "first-failed"} & set(found)


def test_a_fault_parks_the_request_where_somebody_knows_it() -> None:
    result, letter = outs(Fault("internal.fault", "KeyError: 'x'", ABOUT))
    assert result_of(result) == results.parked(ABOUT, Verdict("internal.fault", "KeyError: 'x'"), NOW_MS)
    assert (letter_of(letter)["class"], letter_of(letter)["message"]) == ("fault", "KeyError: 'x'")
    (alone,) = outs(Fault("internal.undecodable", "what is it"))
    assert alone.topic is DEAD_LETTERS


def test_a_fault_that_quotes_its_payload_makes_no_large_records() -> None:
    """Neither the result nor the dead letter may be what no topic takes: a fault has nowhere else to go."""
    made = outs(Fault("internal.fault", "x" * 20_000_000, ABOUT))
    assert all(sum(len(value) for _, value in out.headers) + len(out.value or b"") < 10_000 for out in made)


@pytest.mark.parametrize("message", ["ä" * 3000, "\n\0\x7f", ""])
def test_a_dead_letter_says_why_whatever_the_words(message: str) -> None:
    found = letter_of(ROUTER.dead_letter(RECORD, "fault", "internal.fault", message, NOW_MS))
    assert found.get("message", "") == message[:2000]


def test_a_record_without_value_or_key_can_be_given_up() -> None:
    record = replace(RECORD, key=None, value=None)
    letter = ROUTER.dead_letter(record, "verdict", "malformed.empty", "", NOW_MS)
    (waits,) = outs(Defer(CONDITION, ABOUT), record)
    assert [(out.key, out.value) for out in (letter, waits)] == [(None, b"")] * 2


@pytest.mark.parametrize(
    ("decision", "kind"),
    [
        (Emit(()), ("ok", "")),
        (Emit((), "applied"), ("ok", "applied")),
        (Refuse(VERDICT, ABOUT), ("verdict", "script.false")),
        (Defer(CONDITION, ABOUT), ("condition", "conflict.undecided")),
        (Fault("internal.fault", ""), ("fault", "internal.fault")),
    ],
)
def test_how_a_decision_is_counted(decision: Decision, kind: tuple[str, str]) -> None:
    assert ROUTER.kind(decision) == kind


# --- what senders write into headers

OURS = (*h.to_pairs(WAITED), ("class", b"x"), ("code", b"y"), ("message", b"z"), ("stage", b"s"), ("failed-at", b"1"))


def test_a_sender_cannot_say_where_its_record_was_read() -> None:
    """A replay goes to the topic the letter names: no stranger may choose `operations`."""
    record = Record(headers=OURS)
    found = letter_of(ROUTER.dead_letter(record, "verdict", "malformed.empty", "", NOW_MS))
    assert (found["origin-topic"], found["class"], found["code"]) == ("ingest", "verdict", "malformed.empty")
    assert len(found) == len(ROUTER.dead_letter(record, "verdict", "malformed.empty", "", NOW_MS).headers)


def test_a_record_that_was_waiting_is_a_letter_of_its_origin() -> None:
    """Where it was read last is a tier, to which nobody returns it."""
    record = Record("beef.retry.1m", 1, 400, headers=h.to_pairs(WAITED))
    found = letter_of(Router("retry", "beef.", DAY_MS).dead_letter(record, "fault", "internal.killed", "", NOW_MS))
    assert [found[name] for name in ("origin-topic", "origin-partition", "origin-offset")] == ["operations", "5", "70"]


def test_a_record_of_a_tier_that_says_nothing_is_a_letter_of_the_tier() -> None:
    found = letter_of(ROUTER.dead_letter(Record("beef.retry.1m", 1, 400), "fault", "internal.killed", "", NOW_MS))
    assert [found[name] for name in ("origin-topic", "origin-partition", "origin-offset")] == ["retry.1m", "1", "400"]


NULLS = [(name, NULL) for name in (*sorted(h.RETRY_NAMES), "mine", "traceparent", "schema")]


@pytest.mark.parametrize(
    "decision", [Refuse(VERDICT, ABOUT), Defer(CONDITION, ABOUT), Fault("internal.fault", "", ABOUT)]
)
async def test_headers_without_a_value_are_borne(decision: Decision) -> None:
    """Kafka lets a header's value be null, and any sender may write one."""
    record = replace(RECORD, headers=NULLS)
    assert waiting(record) is None
    producer = Producer()
    outbox = Outbox(producer, "beef.", {name: topic.partitions for name, topic in BY_NAME.items()}, 1 << 20)
    made = outs(decision, record)
    outbox.check(made)
    await outbox.send([(out, None) for out in made])
    assert ("mine", NULL) in made[-1].headers


@pytest.mark.parametrize(
    "headers",
    [
        [("attempt", b"1")],
        [("origin-topic", b"operations")],
        [*h.to_pairs(WAITED)[:-2]],
        [*h.to_pairs(WAITED), ("attempt", b"many")],
        [*h.to_pairs(WAITED), ("origin-topic", b"\xff")],
        [*h.to_pairs(WAITED), ("not-before", b"1.5")],
    ],
)
def test_headers_that_only_look_like_a_waiting_records_are_none(headers: Sequence[tuple[str, bytes]]) -> None:
    assert waiting(Record(headers=headers)) is None


@CHEAP
@given(
    st.sampled_from(["operations", "parsed", "broadcast"]), st.integers(0, 31), st.integers(0, 2**62),
    st.integers(0, 10**6), st.integers(0, 2**50), st.integers(0, 2**50), st.sampled_from([row.code for row in CODES]),
)  # fmt: skip
def test_retry_headers_read_as_they_were_written(
    topic: str, partition: int, offset: int, attempt: int, first: int, not_before: int, code: str
) -> None:
    written = h.RetryHeaders(
        origin_topic=topic, origin_partition=partition, origin_offset=offset, attempt=attempt, first_failed=first,
        not_before=not_before, code=code,
    )  # fmt: skip
    assert waiting(Record(headers=[("other", b"\xff"), *h.to_pairs(written)])) == written


@pytest.mark.invariant("RETRY-1")
@pytest.mark.parametrize("origin", [PARSED, OPERATIONS, BROADCAST])
async def test_a_record_goes_round_and_comes_back_as_it_was(origin: Topic) -> None:
    """Through a tier and the retry stage, twice: same key, value and headers, one traceparent, the attempt counted."""
    record = Record(
        f"beef.{origin.name}", 3, 12, b"key", b"value",
        [origin.schema.header, ("mine", b"kept"), ("traceparent", b"00-11-22-00")],
    )  # fmt: skip
    producer = Producer()
    outbox = Outbox(producer, "beef.", {name: topic.partitions for name, topic in BY_NAME.items()}, 1 << 20)
    for attempt in (1, 2):
        (tier,) = Router("verify", "beef.", DAY_MS).outs(record, Defer(CONDITION, ABOUT), NOW_MS)
        waits = await sent(outbox, producer, tier)
        assert retry_stage().due(waits) == NOW_MS + TIER_MS[attempt - 1]
        decision = retry_stage().decide(waits, NOTHING_READ, NOW_MS)
        assert isinstance(decision, Emit)
        (back,) = decision.outs
        record = await sent(outbox, producer, back)
        assert (record.topic, record.key, record.value) == (f"beef.{origin.name}", b"key", b"value")
        plain = [pair for pair in record.headers if pair[0] not in h.RETRY_NAMES]
        assert sorted(plain) == sorted([origin.schema.header, ("mine", b"kept"), ("traceparent", b"00-11-22-00")])
        found = waiting(record)
        assert found is not None
        assert (found.attempt, found.origin_offset) == (attempt, 12)


async def sent(outbox: Outbox, producer: Producer, out: Out) -> Record:
    """The record as its next reader gets it."""
    producer.written.clear()
    await outbox.send([(out, b"00-11-22-00")])
    (((topic, partition), (written,)),) = producer.written.items()
    return Record(topic, partition, 12, written["key"], written["value"], written["headers"])


# --- keys of results


def test_a_result_without_txid_is_keyed_by_its_coordinate() -> None:
    about = About.before_contexts(ABOUT.origin, "r1")
    out = result_out(results.rejected(about, VERDICT, NOW_MS))
    assert out.key == b"beef.ingest/2/9"
    without = replace(results.rejected(about, VERDICT, NOW_MS), origin=None)
    assert result_key(without) == without.id.encode()
