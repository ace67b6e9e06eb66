"""Record headers: the request on `ingest`, and what travels with a record that waits or was given up.

Kafka headers are pairs of name and bytes. Text is UTF-8, numbers are decimal ASCII.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from msgspec import Struct

Pairs = list[tuple[str, bytes]]

TRACEPARENT = "traceparent"
"""W3C trace context; copied as bytes through every hop."""

REQUEST_ID = "request-id"
TOPICS = "topics"
BASKETS = "baskets"
ATOMICITY = "atomicity"
OFF_CHAIN_VALUES = "off-chain-values"

UNREADABLE = "unreadable"
"""Why a batch could not be read: on the one record that stands for it."""

ORIGIN_TOPIC = "origin-topic"
ORIGIN_PARTITION = "origin-partition"
ORIGIN_OFFSET = "origin-offset"
ATTEMPT = "attempt"
NOT_BEFORE = "not-before"
FIRST_FAILED = "first-failed"

CLASS = "class"
CODE = "code"
MESSAGE = "message"
STAGE = "stage"
FAILED_AT = "failed-at"


class IngestHeaders(Struct, frozen=True, kw_only=True):
    """What a sender asks for beside the payload on `ingest`. Every header is optional."""

    request_id: str = ""  # echoed in results; defaults to the record's key, then to its coordinate
    topics: str = ""  # JSON array of overlay topic names; empty: the setting `parse.default_topics`
    baskets: str = ""  # JSON array of what owners of baskets are to make of it (BRC-100); docs/baskets.md
    atomicity: str = "each"  # each | all
    off_chain_values: bytes = b""  # handed to topic managers beside the payload


class RetryHeaders(Struct, frozen=True, kw_only=True):
    """What a record carries through a retry tier, and keeps when it returns to its origin."""

    origin_topic: str  # logical name, without prefix
    origin_partition: int  # where it was read there
    origin_offset: int  # where it was read there
    attempt: int  # 1 for the first return; waiting for a suspended context counts for nothing
    first_failed: int  # Unix milliseconds: `retry.give_up_after_s` counts from here
    not_before: int  # Unix milliseconds
    code: str  # the condition


class DeadLetterHeaders(Struct, frozen=True, kw_only=True):
    """The cause of a dead letter. Key, value and the other headers are the record's own."""

    class_: str = msgspec.field(name="class")  # verdict | exhausted | fault
    code: str  # a row of the codes
    message: str  # for people; cut at 2,000 characters
    stage: str  # that gave it up
    origin_topic: str  # where the record was read: logical name, without prefix
    origin_partition: int  # where it was read last
    origin_offset: int  # where it was read last
    failed_at: int  # Unix milliseconds


def first(headers: Iterable[tuple[str, bytes]], name: str) -> bytes | None:
    """The value of the first header called `name`."""
    for key, value in headers:
        if key == name:
            return value
    return None


def without(headers: Iterable[tuple[str, bytes]], names: frozenset[str]) -> Pairs:
    """The headers whose name is not in `names`, in order."""
    return [pair for pair in headers if pair[0] not in names]


def names_of(kind: type[Struct]) -> frozenset[str]:
    """Header names a header struct writes."""
    return frozenset(name.replace("_", "-") for name in kind.__struct_encode_fields__)


def to_pairs(record: Struct) -> Pairs:
    """The struct as Kafka headers; empty values are left out."""
    found: Mapping[str, Any] = msgspec.to_builtins(record, builtin_types=(bytes,))
    return [
        (name.replace("_", "-"), value if isinstance(value, bytes) else str(value).encode())
        for name, value in found.items()
        if value != "" and value != b""
    ]


def retry_headers(headers: Iterable[tuple[str, bytes]]) -> RetryHeaders | None:
    """What `to_pairs` wrote for a waiting record, or None where the record never waited.

    Raises:
        ValueError: the headers are there and do not hold what they should.
    """
    found = dict(headers)
    if ORIGIN_TOPIC not in found or ATTEMPT not in found:
        return None
    texts = {
        name.replace("-", "_"): found[name].decode("utf-8", "strict") if name in found else ""
        for name in names_of(RetryHeaders)
    }
    try:
        return msgspec.convert(texts, RetryHeaders, strict=False)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from error


RETRY_NAMES = names_of(RetryHeaders)
DEAD_LETTER_NAMES = names_of(DeadLetterHeaders)
