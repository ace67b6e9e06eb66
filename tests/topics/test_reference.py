"""The topics as pages: complete, true to the declarations, and AsyncAPI by its rules."""

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from jsonschema import Draft7Validator, Draft202012Validator, ValidationError

from agents.runtime.outcomes import accepted_headers
from schemas import headers as h
from schemas.external import EVENT, RESULT, Admittance, Event, Result, ResultOrigin
from schemas.flow import BroadcastRequest, Origin
from topics.reference import (
    ACCEPTED_HEADERS,
    asyncapi,
    describe,
    fields_of,
    header_notes,
    headers_of,
    json_schema,
    markdown,
    notes,
)
from topics.registry import BY_NAME, DEAD_LETTERS, INGEST, OPERATIONS, RESULTS, RETRY_1M, TOPICS, TRANSACTIONS, Topic

PAYLOAD = 8 << 20


def closed(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    """An object with these members and no others."""
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": list(required),
        "additionalProperties": False,
    }


def mapping(values: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": values, "minProperties": 1}


TEXT = {"type": "string", "minLength": 1}
REFERENCE = closed({"$ref": {"type": "string", "pattern": "^#/"}})
VERSION = {"const": "0.5.0"}
MESSAGE = closed(
    {
        "name": TEXT,
        "title": TEXT,
        "summary": TEXT,
        "contentType": {"enum": ["application/json", "application/msgpack", "application/octet-stream"]},
        "headers": closed({"type": {"const": "object"}, "properties": mapping({"type": "object"})}),
        "bindings": closed({"kafka": closed({"key": {"type": "object"}, "bindingVersion": VERSION})}),
    },
    {"payload": REFERENCE},
)
CONFIGURATION = {
    "type": "object",
    "properties": {
        "cleanup.policy": {"type": "array", "items": {"enum": ["compact", "delete"]}},
        "retention.ms": {"type": "integer", "minimum": -1},
        "delete.retention.ms": {"type": "integer", "minimum": 0},
        "max.message.bytes": {"type": "integer", "minimum": 0},
    },
    "required": ["cleanup.policy", "retention.ms", "max.message.bytes"],
}
CHANNEL = closed(
    {
        "address": {"type": "string", "pattern": r"^\{prefix\}[a-z0-9.-]+$"},
        "title": TEXT,
        "description": TEXT,
        "parameters": closed({"prefix": REFERENCE}),
        "messages": mapping(REFERENCE),
        "bindings": closed(
            {
                "kafka": closed(
                    {
                        "partitions": {"type": "integer", "minimum": 1},
                        "topicConfiguration": CONFIGURATION,
                        "bindingVersion": VERSION,
                    }
                )
            }
        ),
    }
)
OPERATION = closed(
    {
        "action": {"enum": ["send", "receive"]},
        "title": TEXT,
        "channel": REFERENCE,
        "messages": {"type": "array", "items": REFERENCE, "minItems": 1, "maxItems": 1},
    },
    {"bindings": closed({"kafka": closed({"groupId": {"type": "object"}, "bindingVersion": VERSION})})},
)
DOCUMENT = closed(
    {
        "asyncapi": {"const": "3.0.0"},
        "info": closed({"title": TEXT, "version": TEXT, "description": TEXT, "license": closed({"name": TEXT})}),
        "defaultContentType": TEXT,
        "channels": mapping(CHANNEL),
        "operations": mapping(OPERATION),
        "components": closed(
            {
                "messages": mapping(MESSAGE),
                "parameters": mapping(closed({"description": TEXT, "default": TEXT})),
                "schemas": mapping({"type": "object"}),
            }
        ),
    }
)
"""AsyncAPI 3.0.0, as far as the document uses it, with the Kafka bindings 0.5.0. Member names are those of the
specification; what the document does not use is not allowed here, so that a misspelt member is seen."""

RESULT_RECORD = Result(
    id="00" * 16, revision=1, request_ids=("a",), txid="ab" * 32, context="topic:tm_x", contexts=1, outcome="applied",
    admittance=Admittance((0,)), sequence=1, state_root="cd" * 32, origin=ResultOrigin("beef.ingest", 0, 1),
    time="2026-01-01T00:00:00.000Z",
)  # fmt: skip
EVENT_RECORD = Event(kind="stage-halted", subject="parse", severity="error", message="m", details={"a": 1}, time="t")


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return dict(json.loads(asyncapi(PAYLOAD, "beef.")))


def references(node: Any) -> Iterator[str]:
    """Every `$ref` below a node."""
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def resolved(document: dict[str, Any], reference: str) -> Any:
    node: Any = document
    for step in reference.removeprefix("#/").split("/"):
        node = node[step]
    return node


def test_the_document_is_asyncapi(document: dict[str, Any]) -> None:
    """By structure; a misspelt or missing member would be told."""
    Draft7Validator(DOCUMENT).validate(document)
    for spoiled in ({**document, "asyncapi": "2.6.0"}, {**document, "chanels": {}}, {**document, "info": {}}):
        with pytest.raises(ValidationError):
            Draft7Validator(DOCUMENT).validate(spoiled)


def test_every_reference_of_the_document_leads_somewhere(document: dict[str, Any]) -> None:
    found = list(references(document))
    assert len(found) > 3 * len(TOPICS)
    for reference in found:
        assert isinstance(resolved(document, reference), dict), reference


def test_operations_send_and_receive_what_the_registry_says(document: dict[str, Any]) -> None:
    """One for each program that writes or reads a topic, with the group of those that have one."""
    operations = document["operations"]
    assert operations["parse.receive.ingest"]["bindings"]["kafka"]["groupId"]["enum"] == ["beef.beefline-parse"]
    assert "bindings" not in operations["apply.receive.state"]  # read without a group
    assert {"parse.send.parsed", "apply.send.journal", "broadcast.send.transactions"} <= set(operations)
    assert not [name for name in operations if name.startswith(("anyone", "all", "operators"))]
    for name, operation in operations.items():
        _, action, topic = name.split(".", 2)
        assert (operation["action"], operation["channel"]["$ref"]) == (action, f"#/channels/{topic}")


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
def test_a_channel_says_what_its_topic_is(document: dict[str, Any], topic: Topic) -> None:
    channel = document["channels"][topic.name]
    binding = channel["bindings"]["kafka"]
    assert binding["partitions"] == topic.partitions
    configuration = {name: str(value) for name, value in binding["topicConfiguration"].items()}
    declared = topic.settings(PAYLOAD, 1)
    assert configuration["max.message.bytes"] == declared["max.message.bytes"]
    assert configuration["retention.ms"] == declared["retention.ms"]
    message = document["components"]["messages"][topic.name]
    assert message["title"] == topic.schema.tag.decode()
    assert set(headers_of(topic)) <= set(message["headers"]["properties"])
    assert ("payload" in message) == (topic.external and topic.schema.wire == "json")


@pytest.mark.parametrize(
    ("kind", "encoded"), [(Result, RESULT.encode(RESULT_RECORD)), (Event, EVENT.encode(EVENT_RECORD))]
)
def test_a_record_is_what_its_json_schema_says(kind: type[msgspec.Struct], encoded: bytes) -> None:
    """The published schema takes what we write, and not what we never would."""
    schema = json_schema(kind)
    Draft202012Validator.check_schema(schema)
    record = json.loads(encoded)
    Draft202012Validator(schema).validate(record)
    for field in record:
        with pytest.raises(ValidationError):
            Draft202012Validator(schema).validate({**record, field: ["no", {"such": "value"}]})
    without = {name: value for name, value in record.items() if name != "time"}
    with pytest.raises(ValidationError, match="'time' is a required property"):
        Draft202012Validator(schema).validate(without)


def test_notes_are_the_comments_behind_the_fields() -> None:
    """Under the names on the wire; a field that says nothing has none."""
    assert notes(Result)["id"].startswith("128-bit hash")
    assert notes(Result)["revision"] == ""
    assert notes(h.DeadLetterHeaders)["class"] == "verdict | exhausted | fault"
    assert header_notes(h.RetryHeaders)["not-before"] == "Unix milliseconds"
    assert [name for name, _, _ in fields_of(Event)] == ["kind", "subject", "severity", "message", "details", "time"]


def test_headers_are_those_the_code_writes() -> None:
    """The structs' names, and what broadcast puts beside a transaction."""
    assert set(headers_of(INGEST)) == h.names_of(h.IngestHeaders)
    assert set(headers_of(DEAD_LETTERS)) == h.DEAD_LETTER_NAMES
    assert set(headers_of(RETRY_1M)) == set(headers_of(OPERATIONS)) == h.RETRY_NAMES
    request = BroadcastRequest(bytes(32), (), ("topic:tm_x",), ("r",), Origin("c", "t", 0, 0, 0))
    written = [name for name, _ in accepted_headers("arc@there", request.contexts, request.request_ids)]
    assert written == list(headers_of(TRANSACTIONS)) == list(ACCEPTED_HEADERS)


def test_describe_tells_a_terminal_everything() -> None:
    text = describe(INGEST, PAYLOAD)
    assert text.startswith("ingest (external): BEEF from applications.")
    lines = {line.strip() for line in text.splitlines()}
    assert "partitions  8. As many as parse workers may ever share." in lines
    assert "largest     8.5 MiB. Holds the payload once." in lines
    assert any(line.startswith("retention   8 days. ") for line in lines)
    assert "largest     1.5 MiB. Holds the payload once." in {
        line.strip() for line in describe(INGEST, 1 << 20).splitlines()
    }


def test_the_page_has_a_section_for_each_topic() -> None:
    """And a field table for what is JSON."""
    page = markdown(PAYLOAD, "beef.")
    assert [line[3:] for line in page.splitlines() if line.startswith("## ")] == list(BY_NAME)
    section = page.split("## results\n")[1].split("\n## ")[0]
    for name, _, _ in fields_of(Result):
        assert f"| `{name}` |" in section
    assert RESULTS.partitions_why in section
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    assert all(line.replace("\\|", "").count("|") in (3, 4, 9) for line in rows)  # no cell breaks its row
