"""Record headers: what is written is read again, and what outsiders write under these names breaks nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import headers as h
from tests.profiles import CHEAP

WAITING = h.RetryHeaders(
    origin_topic="operations", origin_partition=31, origin_offset=1 << 40, attempt=3, first_failed=1_790_000_000_000,
    not_before=1_790_000_010_000, code="conflict.undecided",
)  # fmt: skip


def test_a_waiting_records_headers_are_read_as_written() -> None:
    """Decimal ASCII and UTF-8, in the struct's order."""
    pairs = h.to_pairs(WAITING)
    assert pairs == [
        ("origin-topic", b"operations"),
        ("origin-partition", b"31"),
        ("origin-offset", b"1099511627776"),
        ("attempt", b"3"),
        ("first-failed", b"1790000000000"),
        ("not-before", b"1790000010000"),
        ("code", b"conflict.undecided"),
    ]
    assert h.retry_headers([("request-id", b"x"), *pairs, ("traceparent", b"y")]) == WAITING


def test_a_record_that_never_waited_has_none() -> None:
    assert h.retry_headers([]) is None
    assert h.retry_headers([("topics", b"[]"), ("code", b"x")]) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [("attempt", b"three"), ("attempt", b""), ("not-before", b"1.5x"), ("origin-offset", b"\xff"), ("code", b"\xff")],
)
def test_headers_that_hold_something_else_are_told(name: str, value: bytes) -> None:
    """By one error, so that a caller takes the record as one that never waited."""
    pairs = [(key, value if key == name else given) for key, given in h.to_pairs(WAITING)]
    with pytest.raises(ValueError):
        h.retry_headers(pairs)


@given(st.lists(st.tuples(st.sampled_from(sorted(h.RETRY_NAMES)), st.binary(max_size=12)), max_size=9))
@CHEAP
def test_no_headers_raise_anything_else(pairs: list[tuple[str, bytes]]) -> None:
    """A sender may write what it likes under these names."""
    try:
        found = h.retry_headers(pairs)
    except ValueError:
        return
    assert found is None or isinstance(found, h.RetryHeaders)


def test_empty_values_are_left_out() -> None:
    assert h.to_pairs(h.IngestHeaders()) == [("atomicity", b"each")]
    given = h.IngestHeaders(request_id="a", topics='["tm_x"]', off_chain_values=b"\x00\xff")
    assert dict(h.to_pairs(given))["off-chain-values"] == b"\x00\xff"


def test_a_dead_letters_class_is_called_class() -> None:
    """A keyword in Python, a header on the wire."""
    cause = h.DeadLetterHeaders(
        class_="verdict", code="c", message="", stage="parse", origin_topic="ingest", origin_partition=0,
        origin_offset=0, failed_at=1,
    )  # fmt: skip
    assert dict(h.to_pairs(cause))["class"] == b"verdict"
    assert "message" not in dict(h.to_pairs(cause))
    assert "class" in h.DEAD_LETTER_NAMES


def test_first_and_without() -> None:
    pairs = [("a", b"1"), ("b", b"2"), ("a", b"3")]
    assert h.first(pairs, "a") == b"1"
    assert h.first(pairs, "c") is None
    assert h.without(pairs, frozenset({"a"})) == [("b", b"2")]
    assert h.without(pairs, frozenset()) == pairs


def test_names_of_the_two_kinds_do_not_hide_each_other() -> None:
    """A dead letter drops the retry headers it had, then writes its own: shared names mean the same."""
    assert {"origin-topic", "origin-partition", "origin-offset", "code"} == h.RETRY_NAMES & h.DEAD_LETTER_NAMES
