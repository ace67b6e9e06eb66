"""What a batch leads to: records to write, and what is counted once it stands."""

from collections import Counter
from collections.abc import Sequence

from agents import metrics
from agents.runtime.records import Inbound, Out
from agents.runtime.trace import Hop, Tracer, traceparent_of


class Written:
    """Gathered record by record; counted after the broker has acknowledged all of it."""

    def __init__(self, stage: str, tracer: Tracer, *, begins_traces: bool) -> None:
        self.outs: list[tuple[Out, bytes | None]] = []
        self._stage = stage
        self._tracer = tracer
        self._begins_traces = begins_traces
        self._hops: list[tuple[Hop, Inbound, tuple[str, str]]] = []
        self._outcomes: Counter[tuple[str, str]] = Counter()
        self._topics: Counter[str] = Counter()

    def add(self, record: Inbound, kind: tuple[str, str], outs: Sequence[Out]) -> None:
        """What follows from one record, with its trace context."""
        self._outcomes[kind] += 1
        traceparent = traceparent_of(record.headers)
        hop = self._tracer.begin(traceparent, first=self._begins_traces)
        if hop is not None:
            traceparent = hop.traceparent
            self._hops.append((hop, record, kind))
        for out in outs:
            self.outs.append((out, traceparent))
            self._topics[out.topic.name] += 1

    def count(self) -> None:
        """It stands: metrics and spans."""
        for hop, record, (kind, code) in self._hops:
            hop.end(record, kind, code)
        metrics.count_outcomes(self._stage, self._outcomes, self._topics, self._outcomes.total())
