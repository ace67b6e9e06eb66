"""Each ingest record against the decisions on it (RESULT-1)."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import itemgetter

import msgspec
from msgspec import Struct

from ops.instruments.audit.flight import BEYOND, Coordinate, Flight
from ops.instruments.audit.report import Tally
from pipeline.baskets import BadInstruction, read_header
from pipeline.results import decision_id
from schemas import headers as h
from schemas.flow import Origin
from schemas.types import Context, is_topic_name
from topics.registry import INGEST, RESULTS

CLOCKS_MS = 60_000
"""Clocks of brokers and workers differ by less."""

NAMES_BYTES = 4096
"""Of a `topics` header: 32 names of 50 bytes and more. A longer one is refused as a whole."""

Said = tuple[tuple[int, str], ...]
"""Distinct pairs of revision and outcome."""

_names = msgspec.json.Decoder(list[str]).decode


class Decision(Struct):
    """What was said under one id."""

    id: bytes
    context: Context | None
    contexts: int  # how many the request named
    time_ms: int
    parked: bool
    said: Said = ()

    @property
    def outcome(self) -> str:
        """The one that stands."""
        return max(self.said)[1]

    @property
    def doubled(self) -> bool:
        """Whether one revision has two outcomes."""
        return len({revision for revision, _ in self.said}) < len(self.said)


Line = Sequence[Decision]
"""Decisions on one ingest record."""


class Asked(Struct, frozen=True):
    """An ingest record."""

    timestamp_ms: int
    contexts: tuple[Context, ...] | None  # None: its headers name none, or not by their names


class Decisions:
    """The ledger."""

    def __init__(self, cluster: str, topic: str) -> None:
        """cluster: its id; topic: the name of `ingest` there: both are part of a decision's id."""
        self._cluster = cluster
        self._topic = topic
        self._asked: dict[Coordinate, Asked] = {}
        self._named: dict[bytes, tuple[Context, ...] | None] = {}
        self._made: dict[Coordinate, tuple[Decision, ...]] = {}

    def ask(self, partition: int, offset: int, timestamp_ms: int, headers: h.Pairs) -> None:
        """A record of `ingest`."""
        found = dict(headers)
        given, instructions = found.get(h.TOPICS), found.get(h.BASKETS)
        contexts = None
        if given is not None and len(given) <= NAMES_BYTES:
            if given not in self._named:
                self._named[given] = _contexts(given)
            contexts = self._named[given]
        if instructions not in (None, b"", b"[]"):
            contexts = _with_owners(contexts, instructions or b"") if given is None or contexts is not None else None
        self._asked[partition, offset] = Asked(timestamp_ms, contexts)

    def make(self, at: Coordinate, decision: Decision, said: tuple[int, str]) -> None:
        """A result that decides."""
        line = self._made.get(at, ())
        known = next((each for each in line if each.id == decision.id and each.context == decision.context), None)
        if known is None:
            known = decision
            self._made[at] = (*line, decision)
        if said not in known.said:
            known.said = (*known.said, said)

    def made(self) -> Iterator[tuple[Coordinate, Decision]]:
        """Every decision."""
        return ((at, decision) for at, line in sorted(self._made.items(), key=itemgetter(0)) for decision in line)

    def check(self, flight: Flight, tally: Tally) -> None:
        """One decision stands for each context, or one without context; nobody else's."""
        tally.counts["ingest records"] = len(self._asked)
        for at, asked in sorted(self._asked.items(), key=itemgetter(0)):
            self._check(at, asked, self._made.get(at, ()), flight, tally)
        for at, line in sorted(self._made.items(), key=itemgetter(0)):
            self._check_ids(at, line, flight, tally)

    def _check(self, at: Coordinate, asked: Asked, line: Line, flight: Flight, tally: Tally) -> None:
        name = f"{INGEST.name}/{at[0]}/{at[1]}"
        standing = dict(self._standing(at, asked, line))
        alone = standing.get(None)
        if alone == "parked" and len(standing) > 1:
            del standing[None]  # replayed, and decided for contexts since
        tally.counts.update(standing.values())
        for decision in line:
            if decision.doubled:
                tally.found.add("doubled-decision", f"{name} {decision.id.hex()}: {_listed(decision.said)}")
        if None in standing and len(standing) > 1:
            tally.found.add("doubled-decision", f"{name}: {alone} as a whole, and for contexts")
        if alone is not None:
            return
        for context in _missing(asked, standing, line):
            tally.miss(
                "lost-decision",
                f"{name} {context or ''}".rstrip(),
                waits=flight.waits(at, context),
                too_old=flight.too_old(RESULTS.name, asked.timestamp_ms),
            )

    def _standing(self, at: Coordinate, asked: Asked, line: Line) -> Iterable[tuple[Context | None, str]]:
        """The outcome of each context: a replay's stands in place of `parked`."""
        own = [decision for decision in line if self._is_own(at, asked, decision)]
        for decision in sorted(own, key=lambda decision: not decision.parked):
            yield decision.context, decision.outcome

    def _is_own(self, at: Coordinate, asked: Asked, decision: Decision) -> bool:
        origin = Origin(self._cluster, self._topic, *at, asked.timestamp_ms)
        return decision.id.hex() == decision_id(origin, decision.context, parked=decision.parked)

    def _check_ids(self, at: Coordinate, line: Line, flight: Flight, tally: Tally) -> None:
        asked = self._asked.get(at)
        if asked is None and at[1] < flight.starts.get(at[0], 0):
            tally.counts["decisions on records no longer kept"] += 1
            return
        if asked is None and at[1] >= flight.ends.get(at[0], BEYOND):
            tally.counts["decisions on later records"] += 1
            return
        for decision in line:
            context = decision.context or ""
            what = f"{decision.id.hex()} {decision.outcome} {INGEST.name}/{at[0]}/{at[1]} {context}".rstrip()
            if asked is None:
                tally.found.add("stranger", what)
            elif not self._is_own(at, asked, decision):
                if decision.time_ms + CLOCKS_MS < asked.timestamp_ms:
                    tally.counts["decisions of an earlier topic"] += 1  # `ingest` was deleted and made again
                else:
                    tally.found.add("stranger", what)
            elif asked.contexts is not None and context and context not in asked.contexts:
                tally.found.add("stranger", f"{what}, which was not asked for")


def _missing(asked: Asked, standing: Mapping[Context | None, str], line: Line) -> list[Context | None]:
    if asked.contexts is not None:
        return [context for context in asked.contexts if context not in standing]
    if not standing:
        return [None]
    named = max(decision.contexts for decision in line)
    return [None] * (named - len(standing))  # how many the request named, of which the headers tell nothing


def _contexts(header: bytes) -> tuple[Context, ...] | None:
    try:
        names = _names(header)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    if not names or not all(map(is_topic_name, names)):
        return None
    return tuple(f"topic:{name}" for name in dict.fromkeys(names))


def _with_owners(topics: tuple[Context, ...] | None, instructions: bytes) -> tuple[Context, ...] | None:
    try:
        return (*(topics or ()), *read_header(instructions, {}))
    except BadInstruction:
        return None


def _listed(said: Said) -> str:
    return ", ".join(f"{outcome} at {revision}" for revision, outcome in sorted(said))
