"""Records as bytes: what was written is read, what is newer is read as far as it is known, what is not is refused."""

from typing import Any

import msgspec
import pytest

from schemas import external, flow, journal, state
from schemas.flow import (
    BROADCAST_REQUEST,
    OPERATION,
    PARSED,
    Accept,
    Apply,
    Asked,
    BroadcastRequest,
    Evict,
    Member,
    Origin,
    Parsed,
    Unmined,
    Verified,
)
from schemas.journal import JOURNAL, Effects, JournalEntry
from schemas.wire import HEADER, Schema, Undecodable

ORIGIN = Origin("cluster", "beef.ingest", 3, 17, 1_790_000_000_000)
ASKED = Asked(ORIGIN, "request-1", ("topic:tm_a", "topic:tm_b"), "each", b"values")
MEMBER = Member(b"\x01" * 32, 4, 60, 2, bytes(12))
UNMINED = Unmined(b"\x01" * 32, b"ef")
RECORDS: dict[str, tuple[Schema[Any], Any]] = {
    "parsed": (PARSED, Parsed(ASKED, b"\x01" * 32, b"beef", 1)),
    "apply": (OPERATION, Apply("id", Verified(ASKED, b"\x01" * 32, b"beef", (MEMBER,), 7, -1))),
    "accept": (OPERATION, Accept("id", (b"\x01" * 32,), "arc@there")),
    "evict": (OPERATION, Evict("id", b"\x01" * 32, "network.rejected", "no", (b"\x03" * 32,))),
    "broadcast-request": (
        BROADCAST_REQUEST,
        BroadcastRequest(b"\x01" * 32, (UNMINED,), ("topic:tm_a",), ("r",), ORIGIN),
    ),
    "journal-entry": (
        JOURNAL,
        JournalEntry(
            "topic:tm_a", 1, bytes(32), "id", "apply", b"\x01" * 32, Effects(((b"k", b"h"),), ()), b"\x04" * 32,
            b"\x05" * 32, "tm_a/1", ORIGIN, 1_790_000_000_000, b"beef",
        ),
    ),
}  # fmt: skip

SCHEMAS = [
    value for module in (external, flow, journal, state) for value in vars(module).values() if isinstance(value, Schema)
]


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_is_read_as_it_was_written(name: str) -> None:
    schema, record = RECORDS[name]
    encoded = schema.encode(record)
    assert schema.decode(encoded, [schema.header]) == record


@pytest.mark.parametrize("name", RECORDS)
def test_an_older_reader_ignores_a_field_that_was_added_at_the_end(name: str) -> None:
    """Fields may be added under the same version; the tag of a union stays first."""
    schema, record = RECORDS[name]
    fields = msgspec.msgpack.decode(schema.encode(record))
    longer = msgspec.msgpack.encode([*fields, {"new": 1}])
    assert schema.decode(longer) == record


@pytest.mark.parametrize("name", RECORDS)
def test_bytes_that_are_no_record_are_refused_by_one_error(name: str) -> None:
    """Cut off, of another type, empty, missing: `internal.undecodable`, whatever the library raises."""
    schema, record = RECORDS[name]
    encoded = schema.encode(record)
    cut = [encoded[:at] for at in range(len(encoded))]
    deep = b"\x91" * 5000
    for wrong in (*cut, b"\xc0", b"\x80", b"\xff" * 8, deep, None):
        with pytest.raises(Undecodable) as refused:
            schema.decode(wrong)
        assert refused.value.code == "internal.undecodable"


@pytest.mark.parametrize("tag", [b"parsed/2", b"operation/1", b"", b"\xff"])
def test_another_version_is_refused_before_it_is_read(tag: bytes) -> None:
    """Also when the bytes would fit."""
    schema, record = RECORDS["parsed"]
    with pytest.raises(Undecodable) as refused:
        schema.decode(schema.encode(record), [("traceparent", b"x"), (HEADER, tag)])
    assert refused.value.code == "internal.unknown-version"


def test_a_record_without_a_schema_header_is_taken_as_this_version() -> None:
    """Producers outside need not send one."""
    schema, record = RECORDS["parsed"]
    assert schema.decode(schema.encode(record), [("request-id", b"x")]) == record


def test_raw_values_pass_as_they_are() -> None:
    """Text or not; only a missing value is refused."""
    for value in (b"", b"\xff\x00", b"\x01\x00\xbe\xef"):
        assert flow.BEEF.encode(value) == value == flow.BEEF.decode(value)
    with pytest.raises(Undecodable):
        flow.BEEF.decode(None)


def test_json_that_is_no_text_is_refused() -> None:
    for wrong in (b"{", b"\xff", b"[]", b'{"id": 1}', b"[" * 5000):
        with pytest.raises(Undecodable):
            external.RESULT.decode(wrong)


def test_names_and_versions_are_distinct() -> None:
    """A tag names one schema."""
    tags = [schema.tag for schema in SCHEMAS]
    assert len(tags) == len(set(tags)) >= 9


def test_an_origin_is_one_line_that_tells_coordinates_apart() -> None:
    """The broker's time is part: a topic that was made again does not repeat identities."""
    assert ORIGIN.text() == "cluster/beef.ingest/3/17/1790000000000"
    assert msgspec.structs.replace(ORIGIN, timestamp_ms=1).text() != ORIGIN.text()
