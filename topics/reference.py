"""The topics as pages: plain text, Markdown, and an AsyncAPI 3.0 document, all made from the declarations."""

import inspect
import tokenize
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from io import StringIO
from typing import Any

import msgspec
from msgspec import Struct

from schemas import headers as h
from schemas.wire import Format
from topics.registry import (
    DEAD_LETTERS,
    INGEST,
    JOURNAL,
    RETRY_1M,
    RETRY_10M,
    RETRY_10S,
    STATE,
    TOPICS,
    TRANSACTIONS,
    Topic,
    group,
)

ASYNCAPI = "3.0.0"

KAFKA_BINDING = "0.5.0"
"""Version of AsyncAPI's Kafka binding."""

CONTENT: Mapping[Format, str] = {
    "json": "application/json",
    "msgpack": "application/msgpack",
    "raw": "application/octet-stream",
}
"""Content type of each wire format."""

FORMATS: Mapping[Format, str] = {"json": "JSON", "msgpack": "MessagePack", "raw": "bytes"}

ROLES = frozenset({"anyone", "all", "operators"})
"""Writers and readers that are no program of ours, or every one."""

FOLLOWED = (JOURNAL, STATE)
"""Read from their beginning by whoever holds a copy, without a consumer group."""

EVERY_RECORD: Mapping[str, str] = {
    "schema": "name and major version of the value's schema; records from outside need not have it",
    h.TRACEPARENT: "W3C trace context, where the payload is traced",
}

ACCEPTED_HEADERS: Mapping[str, str] = {
    "endpoint": "who accepted it",
    "status": "`accepted`",
    "contexts": "contexts that asked for the broadcast, joined by commas",
    "request-ids": "requests it came with, joined by commas",
}
"""What broadcast writes beside each transaction."""


def notes(kind: type[Struct]) -> dict[str, str]:
    """What the source says of each field: the comment that ends its line. Names are those on the wire."""
    attributes = dict(zip(kind.__struct_fields__, kind.__struct_encode_fields__, strict=True))
    found = dict.fromkeys(attributes.values(), "")
    name = ""
    for token in tokenize.generate_tokens(StringIO(inspect.getsource(kind)).readline):
        if token.type == tokenize.NAME and token.line.strip().startswith(f"{token.string}:"):
            name = attributes.get(token.string, name)
        elif token.type == tokenize.COMMENT and name and not token.line.strip().startswith("#"):
            found[name] = token.string.removeprefix("# ")
        elif token.type == tokenize.NEWLINE:
            name = ""
    return found


def header_notes(kind: type[Struct]) -> dict[str, str]:
    """The same for a struct of `schemas/headers.py`, by header name."""
    return {name.replace("_", "-"): says for name, says in notes(kind).items()}


def headers_of(topic: Topic) -> dict[str, str]:
    """Headers that records of a topic may carry beside those of every record, and what they hold."""
    if topic is INGEST:
        return header_notes(h.IngestHeaders)
    if topic in (RETRY_10S, RETRY_1M, RETRY_10M):
        return header_notes(h.RetryHeaders)
    if topic is DEAD_LETTERS:
        return header_notes(h.DeadLetterHeaders)
    if topic is TRANSACTIONS:
        return dict(ACCEPTED_HEADERS)
    if "retry" in topic.writers:
        return header_notes(h.RetryHeaders)
    return {}


def describe(topic: Topic, max_payload: int) -> str:
    """A topic for the terminal. max_payload: bytes of the largest payload the installation takes."""
    rows = [
        ("key", topic.key),
        ("value", f"{_schema(topic)}, {FORMATS[topic.schema.wire]}: {topic.schema.says}"),
        ("partitions", f"{topic.partitions}. {topic.partitions_why}"),
        ("clean-up", topic.cleanup),
        ("retention", f"{_retention(topic)}. {topic.retention_why}"),
        ("largest", f"{_bytes(topic.max_bytes(max_payload))}. {topic.growth_why}"),
        ("time", "the broker's, on arrival" if topic.broker_time else "the producer's"),
        ("written by", ", ".join(topic.writers)),
        ("read by", ", ".join(topic.readers)),
    ]
    rows += [("config", f"{name} = {value}") for name, value in topic.config]
    rows += [("header", f"{name}: {says}" if says else name) for name, says in headers_of(topic).items()]
    head = f"{topic.name}{' (external)' if topic.external else ''}: {topic.says}"
    return "\n".join([head, *(f"  {name:<10}  {text}" for name, text in rows), ""])


def markdown(payload: int, prefix: str) -> str:
    """The reference page. payload, prefix: the defaults of `topics.max_payload_bytes` and `topics.prefix`."""
    parts = [
        "# Topics",
        "",
        f"Names are logical: on a cluster each begins with the prefix (`topics.prefix`, by default `{prefix}`).",
        "Keys are partitioned by murmur2, as Java clients do. Readers use `isolation.level=read_committed`: what was",
        f"aborted never happened. Sizes are for payloads of {_bytes(payload)} (`topics.max_payload_bytes`).",
        "",
        *table(
            ("topic", "key", "value", "partitions", "kept", "largest record", "written by", "read by"),
            (
                (
                    f"[`{topic.name}`](#{_anchor(topic.name)})",
                    topic.key,
                    f"`{_schema(topic)}`",
                    str(topic.partitions),
                    _retention(topic),
                    _bytes(topic.max_bytes(payload)),
                    ", ".join(topic.writers),
                    ", ".join(topic.readers),
                )
                for topic in TOPICS
            ),
        ),
        "",
        "Every record may carry these headers:",
        "",
        *table(("header", "holds"), ((f"`{name}`", says) for name, says in EVERY_RECORD.items())),
        "",
    ]
    for topic in TOPICS:
        parts += _section(topic, payload)
    return "\n".join(parts)


def _section(topic: Topic, payload: int) -> list[str]:
    where = "External" if topic.external else "Internal"
    lines = [
        f"## {topic.name}",
        "",
        f"{topic.says} {where}.",
        "",
        *table(
            ("", "", "why"),
            (
                ("key", topic.key, ""),
                ("value", f"`{_schema(topic)}`, {FORMATS[topic.schema.wire]}", topic.schema.says),
                ("partitions", str(topic.partitions), topic.partitions_why),
                ("clean-up", topic.cleanup, ""),
                ("kept", _retention(topic), topic.retention_why),
                ("largest record", _bytes(topic.max_bytes(payload)), topic.growth_why),
                ("time", "broker, on arrival" if topic.broker_time else "producer", ""),
                *((f"`{name}`", value, "") for name, value in topic.config),
            ),
        ),
        "",
    ]
    if of_topic := headers_of(topic):
        lines += [*table(("header", "holds"), ((f"`{name}`", says) for name, says in of_topic.items())), ""]
    if topic.external and topic.schema.wire == "json":
        fields = fields_of(topic.schema.kind)
        lines += [*table(("field", "type", "holds"), ((f"`{n}`", kind, says) for n, kind, says in fields)), ""]
    return lines


def fields_of(kind: type[Struct]) -> list[tuple[str, str, str]]:
    """Name, JSON type and note of each field of a record."""
    properties = msgspec.json.schema(kind)["$defs"][kind.__name__]["properties"]
    says = notes(kind)
    return [(name, _json_type(schema), says[name]) for name, schema in properties.items()]


def _json_type(schema: Mapping[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_json_type(each) for each in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "$ref" in schema:
        return str(schema["$ref"]).rsplit("/", 1)[1]
    if schema["type"] == "array":
        return f"list of {_json_type(schema['items'])}"
    return str(schema["type"])


def json_schema(kind: type[Struct]) -> dict[str, Any]:
    """JSON Schema (2020-12) of an external record, for readers and writers in any language."""
    (reference,), definitions = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": kind.__name__,
        **reference,
        "$defs": _annotated(definitions, [kind]),
    }


def _annotated(definitions: dict[str, Any], kinds: Iterable[type[Struct]]) -> dict[str, Any]:
    """The notes of the records' fields, as descriptions."""
    for kind in kinds:
        properties = definitions[kind.__name__]["properties"]
        for name, says in notes(kind).items():
            if says:
                properties[name] = {**properties[name], "description": says}
    return definitions


def asyncapi(payload: int, prefix: str) -> str:
    """The AsyncAPI 3.0 document of all topics, as JSON, seen from this system: it sends and receives."""
    external = [topic.schema.kind for topic in TOPICS if topic.external and topic.schema.wire == "json"]
    _, schemas = msgspec.json.schema_components(external, ref_template="#/components/schemas/{name}")
    document = {
        "asyncapi": ASYNCAPI,
        "info": {
            "title": "beefline",
            "version": version("beefline"),
            "description": "BEEF in, verified and applied once, broadcast in Extended Format: the Kafka topics of an "
            "installation. Readers use isolation.level=read_committed.",
            "license": {"name": "MIT"},
        },
        "defaultContentType": CONTENT["raw"],
        "channels": {topic.name: _channel(topic, payload) for topic in TOPICS},
        "operations": dict(_operations(prefix)),
        "components": {
            "messages": {topic.name: _message(topic) for topic in TOPICS},
            "parameters": {
                "prefix": {
                    "description": "Of all topics, groups and transactional ids of an installation (`topics.prefix`).",
                    "default": prefix,
                }
            },
            "schemas": _annotated(schemas, external),
        },
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n"


def _channel(topic: Topic, payload: int) -> dict[str, Any]:
    settings: dict[str, Any] = topic.settings(payload, min_isr=1)
    del settings["min.insync.replicas"]  # the installation's choice, not the topic's
    settings["cleanup.policy"] = [settings["cleanup.policy"]]
    numbers = {"retention.ms", "delete.retention.ms", "max.message.bytes", "segment.bytes", "segment.ms"}
    return {
        "address": "{prefix}" + topic.name,
        "title": topic.name,
        "description": f"{topic.says} Key: {topic.key}.",
        "parameters": {"prefix": {"$ref": "#/components/parameters/prefix"}},
        "messages": {topic.schema.name: {"$ref": f"#/components/messages/{topic.name}"}},
        "bindings": {
            "kafka": {
                "partitions": topic.partitions,
                "topicConfiguration": {
                    name: int(value) if name in numbers else value for name, value in settings.items()
                },
                "bindingVersion": KAFKA_BINDING,
            }
        },
    }


def _message(topic: Topic) -> dict[str, Any]:
    schema = topic.schema
    known = {**EVERY_RECORD, **headers_of(topic)}
    message: dict[str, Any] = {
        "name": schema.name,
        "title": _schema(topic),
        "summary": schema.says,
        "contentType": CONTENT[schema.wire],
        "headers": {
            "type": "object",
            "properties": {name: {"type": "string", "description": says} for name, says in known.items()},
        },
        "bindings": {"kafka": {"key": {"description": topic.key}, "bindingVersion": KAFKA_BINDING}},
    }
    if topic.external and schema.wire == "json":
        message["payload"] = {"$ref": f"#/components/schemas/{schema.kind.__name__}"}
    return message


def _operations(prefix: str) -> Iterable[tuple[str, dict[str, Any]]]:
    for topic in TOPICS:
        for action, programs in (("send", topic.writers), ("receive", topic.readers)):
            for program in programs:
                if program not in ROLES:
                    yield f"{program}.{action}.{topic.name}", _operation(topic, action, program, prefix)


def _operation(topic: Topic, action: str, program: str, prefix: str) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "action": action,
        "title": f"{program}: {topic.name}",
        "channel": {"$ref": f"#/channels/{topic.name}"},
        "messages": [{"$ref": f"#/channels/{topic.name}/messages/{topic.schema.name}"}],
    }
    if action == "receive" and topic not in FOLLOWED:
        binding = {"groupId": {"type": "string", "enum": [group(prefix, program)]}, "bindingVersion": KAFKA_BINDING}
        operation["bindings"] = {"kafka": binding}
    return operation


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """Lines of a Markdown table."""
    titles = tuple(head)
    lines = [_row(titles), "|" + "---|" * len(titles)]
    return lines + [_row(row) for row in rows]


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _schema(topic: Topic) -> str:
    return topic.schema.tag.decode()


def _anchor(name: str) -> str:
    return name.replace(".", "")


def _retention(topic: Topic) -> str:
    if topic.cleanup == "compact":
        return "the newest of each key"
    if topic.retention_h is None:
        return "for ever"
    days, hours = divmod(topic.retention_h, 24)
    return f"{days} days" if not hours else f"{topic.retention_h} hours"


def _bytes(count: int) -> str:
    return f"{count / (1 << 20):.4g} MiB" if count >= 1 << 20 else f"{count / 1024:.4g} KiB"
