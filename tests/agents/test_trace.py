"""Traces: sampled payloads only, read without ever raising, children linked to parents, one line a span."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.runtime.settings import TraceSettings
from agents.runtime.trace import LONGEST, Tracer, read_traceparent, traceparent_of
from tests.fakes import NULL, Record
from tests.profiles import CHEAP

TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def parent(flags: str = "01") -> bytes:
    return f"00-{TRACE_ID}-{SPAN_ID}-{flags}".encode()


def tracer(file: Path, ratio: float = 1.0, stage: str = "parse") -> Tracer:
    return Tracer(stage, TraceSettings(sample_ratio=ratio, file=str(file)))


def spans(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.setting("trace.file")
def test_a_sampled_hop_is_a_line_linked_to_its_parent(tmp_path: Path) -> None:
    file = tmp_path / "new" / "spans.jsonl"
    made = tracer(file)
    hop = made.begin(parent(), first=False)
    assert hop is not None
    hop.end(Record("beef.parsed", 3, offset=7), "verdict", "script.false")
    made.close()
    (span,) = spans(file)
    assert (span["trace_id"], span["parent_id"]) == (TRACE_ID, SPAN_ID)
    assert (span["service"], span["name"]) == ("beefline-parse", "parse")
    assert hop.traceparent == f"00-{TRACE_ID}-{span['span_id']}-01".encode()
    assert span["start_ns"] <= span["end_ns"]
    assert span["attributes"] == {
        "messaging.system": "kafka", "messaging.destination.name": "beef.parsed",
        "messaging.destination.partition.id": "3", "messaging.kafka.offset": 7, "beefline.outcome": "verdict",
        "beefline.code": "script.false",
    }  # fmt: skip


def test_a_trace_goes_through_stages_that_share_a_file(tmp_path: Path) -> None:
    """Each stage's span is the parent of the next one's, from a beginning of our own."""
    file = tmp_path / "spans.jsonl"
    traceparent: bytes | None = None
    for stage in ("parse", "verify", "apply"):
        made = tracer(file, stage=stage)
        hop = made.begin(traceparent, first=stage == "parse")
        assert hop is not None
        traceparent = hop.traceparent
        hop.end(Record(), "ok", "")
        made.close()
    first, second, third = spans(file)
    assert first["parent_id"] is None
    assert [second["parent_id"], third["parent_id"]] == [first["span_id"], second["span_id"]]
    assert len({span["trace_id"] for span in (first, second, third)}) == 1


@pytest.mark.parametrize(("flags", "sampled"), [("00", False), ("01", True), ("02", False), ("03", True), ("ff", True)])
def test_the_lowest_bit_of_the_flags_says_whether_it_is_sampled(tmp_path: Path, flags: str, sampled: bool) -> None:
    """03 is sampled too: the second bit says that the trace id is random (W3C Trace Context, level 2)."""
    made = tracer(tmp_path / "spans.jsonl", ratio=0)
    assert (made.begin(parent(flags), first=True) is not None) is sampled
    made.close()


@pytest.mark.setting("trace.sample_ratio")
@pytest.mark.parametrize(("ratio", "least", "most"), [(0.0, 0, 0), (1.0, 500, 500), (0.5, 150, 350)])
def test_so_many_new_traces_begin(tmp_path: Path, ratio: float, least: int, most: int) -> None:
    """With a fair coin, 500 throws leave these bounds once in 10^18 times."""
    made = tracer(tmp_path / "spans.jsonl", ratio)
    begun = sum(made.begin(None, first=True) is not None for _ in range(500))
    assert least <= begun <= most
    assert made.begin(None, first=False) is None  # a stage in the middle begins none
    made.close()


def test_without_a_place_for_spans_nothing_is_sampled() -> None:
    made = Tracer("parse", TraceSettings(sample_ratio=1.0))
    assert not made.enabled
    assert made.begin(None, first=True) is None
    assert made.begin(parent(), first=True) is None
    made.close()


MALFORMED = [
    b"", b"1", b"00", b"-", b"---1", b"00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-01", b"00-" + b"z" * 32 + b"-1-01",
    parent() + b"-1", parent()[:-1], parent().replace(b"-", b"_"), b"\xff" * 55, b"\x00" * 54 + b"1",
    f"00-{'0' * 32}-{SPAN_ID}-01".encode(), f"00-{TRACE_ID}-{'0' * 16}-01".encode(),
    f"00-{TRACE_ID}-{SPAN_ID}-0g".encode(), f"00-{'ä' * 16}-{SPAN_ID}-01".encode(),
]  # fmt: skip


@pytest.mark.parametrize("value", MALFORMED)
def test_what_is_no_traceparent_is_no_trace(tmp_path: Path, value: bytes) -> None:
    assert read_traceparent(value) is None
    made = tracer(tmp_path / "spans.jsonl")
    assert made.begin(value, first=True) is None
    made.close()


@CHEAP
@given(st.binary(max_size=70) | st.from_regex(rb"[0-9a-f]{2}-.{32}-.{16}-.{2}", fullmatch=True))
def test_no_bytes_make_the_reader_raise(value: bytes) -> None:
    found = read_traceparent(value)
    assert found is None or found.is_valid


def test_the_header_is_found_unread_and_a_long_one_left_out() -> None:
    """It goes with every record that follows."""
    assert traceparent_of([("a", b"1"), ("traceparent", b"anything"), ("traceparent", b"2")]) == b"anything"
    assert traceparent_of([("a", b"1")]) is None
    assert traceparent_of([("traceparent", b"x" * LONGEST)]) == b"x" * LONGEST
    assert traceparent_of([("traceparent", b"x" * (LONGEST + 1))]) is None
    assert traceparent_of([("traceparent", NULL)]) is None
    assert len(parent()) <= LONGEST
