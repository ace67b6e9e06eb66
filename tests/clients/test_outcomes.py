"""Which results decide a submission, and what they add up to."""

import itertools
import logging
from typing import Any

import msgspec
import pytest

from beefline.outcomes import Coordinate, RequestOutcome, Result, Submitted, Watch, decoded, request_ids, standing_for

HERE = Coordinate("beef.ingest", 1, 7)
A, B = "topic:tm_a", "topic:tm_b"


def said(outcome: str, context: str | None = A, contexts: int = 2, **more: Any) -> Result:
    fields: dict[str, Any] = {
        "id": f"{outcome == 'parked'}{context}",
        "revision": 1,
        "request_ids": ("r",),
        "txid": "ab" * 32,
        "origin": HERE,
        "time": "2026-11-22T12:00:00.000Z",
    }
    return Result(**{**fields, "context": context, "contexts": contexts, "outcome": outcome, **more})


def outcome_of(*results: Result) -> RequestOutcome:
    watch = Watch()
    submitted = Submitted("r", HERE.topic, HERE.partition, HERE.offset, watch)
    for result in results:
        watch.add(result)
    return RequestOutcome(submitted, standing_for(watch.results.values(), submitted))


CASES = {
    "nothing yet": ([], "waiting", None),
    "one of two contexts": ([said("applied", A)], "waiting", None),
    "both contexts": ([said("applied", A), said("applied", B)], "applied", None),
    "one rejected": ([said("applied", A), said("rejected", B, code="x.y")], "rejected", "x.y"),
    "one parked": ([said("applied", A), said("parked", B, code="x.z")], "parked", "x.z"),
    "rejected outweighs parked": ([said("parked", A, code="x.z"), said("rejected", B, code="x.y")], "rejected", "x.z"),
    "refused before any context": ([said("rejected", None, 0, code="script.false")], "rejected", "script.false"),
    "parked before any context": ([said("parked", None, 0, code="anchor.unknown")], "parked", "anchor.unknown"),
    "the network took it": ([said("accepted", None, 2, id="network")], "waiting", None),
    "the network said nothing for a day": ([said("parked", None, 2, id="network", code="x.n")], "waiting", None),
    "evicted later": ([said("applied", A), said("applied", B), said("evicted", A, id="evicted")], "applied", None),
    "another record's": ([said("applied", A, 1, origin=Coordinate("beef.ingest", 1, 8))], "waiting", None),
    "a context parked, then replayed": (
        [said("applied", A), said("parked", B, code="x.z"), said("applied", B)], "applied", None,
    ),
    "parked before any context, then replayed": (
        [said("parked", None, 0, code="x.z"), said("applied", A), said("applied", B)], "applied", None,
    ),
    "parked before any context, half replayed": (
        [said("parked", None, 0, code="x.z"), said("applied", A)], "waiting", None,
    ),
    "replayed with another answer": (
        [said("rejected", A, 1, revision=4, code="x.y"), said("applied", A, 1, revision=9)], "applied", None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_results_add_up_to(case: str) -> None:
    results, state, code = CASES[case]
    assert outcome_of(*results).state == state
    assert outcome_of(*results).code == code


@pytest.mark.parametrize("case", CASES)
def test_the_order_in_which_partitions_are_read_makes_no_difference(case: str) -> None:
    results, state, code = CASES[case]
    for order in itertools.permutations(results):
        assert (outcome_of(*order).state, outcome_of(*order).code) == (state, code)


def test_of_one_id_the_highest_revision_stands_whenever_it_is_read() -> None:
    older, newer = said("rejected", A, 1, revision=4), said("applied", A, 1, revision=5)
    for order in ((older, newer), (newer, older)):
        assert outcome_of(*order).decisions == (newer,)


def test_the_network_answer_is_told_from_a_decision() -> None:
    answers = [said("accepted", None, 2), said("refused", None, 1), said("parked", None, 2)]
    assert [(each.is_decision, each.is_network_answer) for each in answers] == [(False, True)] * 3
    decisions = [said("parked", None, 0), said("parked", A), said("applied", A), said("rejected", None, 0)]
    assert [(each.is_decision, each.is_network_answer) for each in decisions] == [(True, False)] * 4


class Record:
    topic, partition, offset = "beef.results", 0, 5

    def __init__(self, value: bytes | None, *headers: tuple[str, bytes]) -> None:
        self.value = value
        self.headers = headers


def test_fields_that_a_newer_version_adds_are_passed_over() -> None:
    value = msgspec.json.encode({**msgspec.to_builtins(said("applied")), "invented": [1, 2]})
    assert decoded(Record(value, ("schema", b"result/1"))) == said("applied")
    assert request_ids(Record(value)) == ("r",)


@pytest.mark.parametrize("value", [None, b"", b"{}", b"\xff", b'{"request_ids": 3}', b"[" * 100_000])
def test_what_is_no_result_is_logged_and_passed_over(value: bytes | None, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert decoded(Record(value)) is None
    assert "beef.results/0/5: no result" in caplog.text
    assert request_ids(Record(value)) == ()


def test_a_result_of_a_version_whose_meaning_is_unknown_is_not_guessed_at(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert decoded(Record(msgspec.json.encode(said("applied")), ("schema", b"result/2"))) is None
    assert "another version" in caplog.text
