"""The contract with readers of `results` and `events`: names, order and meaning stay; fields are only added."""

import json

import msgspec
import pytest

from schemas.external import EVENT, RESULT, Admittance, Event, Result, ResultOrigin

FIELDS = (
    "id", "revision", "request_ids", "txid", "context", "contexts", "outcome", "code", "message", "at", "admittance",
    "sequence", "state_root", "repeat", "competing", "endpoint", "origin", "time",
)  # fmt: skip
"""Of a result, as design.md promises them to the outside."""

ADDED = ("block_height", "merge")
"""Since then, behind them."""

OUTCOMES = {"applied", "rejected", "parked", "revised", "accepted", "refused", "mined", "buried", "evicted"}

APPLIED = Result(
    id="0123456789abcdef0123456789abcdef", revision=7, request_ids=("order-1",), txid="ab" * 32, context="topic:tm_x",
    contexts=2, outcome="applied", admittance=Admittance((0, 2), (1,), ()), sequence=7, state_root="cd" * 32,
    origin=ResultOrigin("beef.ingest", 3, 17), time="2026-01-01T00:00:00.000Z",
)  # fmt: skip


def test_a_result_has_the_promised_fields_and_all_of_them_always() -> None:
    """What does not apply is null, empty or false: a reader never asks whether a field is there."""
    told = json.loads(RESULT.encode(APPLIED))
    assert tuple(told) == FIELDS + ADDED
    assert told["admittance"] == {"outputs_to_admit": [0, 2], "coins_to_retain": [1], "coins_removed": []}
    assert told["origin"] == {"topic": "beef.ingest", "partition": 3, "offset": 17}
    assert [told[name] for name in ("code", "message", "at", "endpoint", "block_height")] == [None] * 5
    assert (told["repeat"], told["competing"], told["merge"]) == (False, [], False)


def test_outcomes_are_the_promised_ones() -> None:
    for outcome in OUTCOMES:
        told = {**json.loads(RESULT.encode(APPLIED)), "outcome": outcome}
        assert RESULT.decode(json.dumps(told).encode()).outcome == outcome
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({**json.loads(RESULT.encode(APPLIED)), "outcome": "done"}, Result)


def test_a_reader_ignores_what_it_does_not_know() -> None:
    told = {**json.loads(RESULT.encode(APPLIED)), "block": {"height": 1}}
    assert RESULT.decode(json.dumps(told).encode()) == APPLIED


def test_an_event_has_the_promised_fields() -> None:
    event = Event(kind="stage-halted", subject="parse", severity="error", message="m", details={"a": [1]}, time="t")
    told = json.loads(EVENT.encode(event))
    assert list(told) == ["kind", "subject", "severity", "message", "details", "time"]
    assert EVENT.decode(json.dumps(told).encode()) == event


@pytest.mark.parametrize(
    ("admittance", "empty"),
    [
        (Admittance(), True),
        (Admittance(outputs_to_admit=(0,)), False),
        (Admittance(coins_to_retain=(0,)), False),
        (Admittance(coins_removed=(0,)), False),
    ],
)
def test_an_admittance_is_empty_when_it_changes_nothing(admittance: Admittance, empty: bool) -> None:
    assert admittance.is_empty() is empty
