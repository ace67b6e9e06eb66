"""Trace context through every hop; spans only for sampled payloads.

A traced hop costs 45 us with OpenTelemetry's propagators. Here `traceparent` is copied as bytes, and read only where
its sampled flag is set.
"""

import random
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, TraceFlags, set_span_in_context

from agents.runtime.records import Headers
from agents.runtime.settings import TraceSettings
from schemas.headers import TRACEPARENT

LONGEST = 100
"""Bytes of a traceparent: 55 in version 00; later versions may add to it."""

_SAMPLED = frozenset(b"13579bdf")
"""Last digit of the flags where their lowest bit is set; others may be set beside it."""


class Tracer:
    """Spans of one stage."""

    def __init__(self, stage: str, settings: TraceSettings) -> None:
        self._stage = stage
        self._ratio = settings.sample_ratio
        self._random = random.Random()
        provider = TracerProvider(resource=Resource.create({"service.name": f"beefline-{stage}"}))
        if settings.file:
            provider.add_span_processor(SimpleSpanProcessor(JsonLines(Path(settings.file))))
        if settings.otlp_endpoint:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

            provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=settings.otlp_endpoint)))
        self._provider = provider
        self._tracer = provider.get_tracer("beefline")
        self.enabled = bool(settings.file or settings.otlp_endpoint)

    def begin(self, traceparent: bytes | None, *, first: bool) -> "Hop | None":
        """A span for this record if it is sampled. first: the stage may begin a trace where there is none."""
        if traceparent is None:
            if not (first and self.enabled and self._random.random() < self._ratio):
                return None
            return Hop(self._tracer.start_span(self._stage))
        if not self.enabled or not traceparent or traceparent[-1] not in _SAMPLED:
            return None
        parent = read_traceparent(traceparent)
        if parent is None:
            return None
        return Hop(self._tracer.start_span(self._stage, context=set_span_in_context(NonRecordingSpan(parent))))

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()


class Hop:
    """One record's stay in a stage."""

    __slots__ = ("span", "traceparent")

    def __init__(self, span: Span) -> None:
        self.span = span
        context = span.get_span_context()
        self.traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-01".encode()

    def end(self, record: Any, kind: str, code: str) -> None:
        """The record is acknowledged."""
        self.span.set_attributes(
            {
                "messaging.system": "kafka",
                "messaging.destination.name": record.topic,
                "messaging.destination.partition.id": str(record.partition),
                "messaging.kafka.offset": record.offset,
                "beefline.outcome": kind,
                "beefline.code": code,
            }
        )
        self.span.end()


def traceparent_of(headers: Headers) -> bytes | None:
    """The header's bytes, unread; None where it is missing or longer than any traceparent.

    It travels with every record that follows: a long one would make many of them large.
    """
    for name, value in headers:
        if name == TRACEPARENT:
            return value if value and len(value) <= LONGEST else None
    return None


def read_traceparent(value: bytes) -> SpanContext | None:
    """The context in a W3C traceparent, or None where it is none."""
    parts = value.split(b"-")
    if len(parts) != 4 or [len(part) for part in parts] != [2, 32, 16, 2]:
        return None
    try:
        trace_id, span_id, flags = (int(part, 16) for part in parts[1:])
    except ValueError:
        return None
    context = SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags))
    return context if context.is_valid else None


class JsonLines(SpanExporter):
    """Spans as JSON lines in a file that all stages may share: each line is one write."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab", buffering=0)
        self._lock = threading.Lock()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Append them."""
        lines = b"".join(orjson.dumps(_span(span), option=orjson.OPT_APPEND_NEWLINE) for span in spans)
        with self._lock:
            self._file.write(lines)
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Close the file."""
        self._file.close()


def _span(span: ReadableSpan) -> dict[str, Any]:
    context = span.get_span_context()
    assert context is not None
    return {
        "trace_id": f"{context.trace_id:032x}",
        "span_id": f"{context.span_id:016x}",
        "parent_id": f"{span.parent.span_id:016x}" if span.parent else None,
        "service": span.resource.attributes.get("service.name"),
        "name": span.name,
        "start_ns": span.start_time,
        "end_ns": span.end_time,
        "attributes": dict(span.attributes or {}),
    }
