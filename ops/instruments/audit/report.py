"""What an audit can find, and what it found."""

from collections import Counter
from collections.abc import Mapping

from msgspec import Struct

KINDS: Mapping[str, str] = {
    "lost-decision": "An ingest record has no decision for one of its contexts.",
    "lost-outcome": "A broadcast was requested and has no outcome from the network.",
    "lost-transaction": "The network accepted it, and it is not on `transactions`.",
    "lost-payload": "It was refused or parked, and its payload is not among the dead letters.",
    "lost-on-network": "It was reported accepted, and no endpoint that was asked has it.",
    "doubled-decision": "Two outcomes of one decision at one revision, or a record decided with and without contexts.",
    "doubled-outcome": "One transaction was both accepted and refused by the network.",
    "doubled-entry": "A context applied one transaction twice, or has two entries of one sequence.",
    "torn-journal": "A context's journal has a gap, or an entry that does not name the hash of the one before.",
    "torn-root": "An entry without roots, or whose effects do not give them.",
    "torn-result": "A result names a journal entry that is not there, or is another's.",
    "torn-entry": "A journal entry applied a transaction, and no result says so.",
    "torn-outcome": "The network refused it, and it is on `transactions`, at an endpoint, or still in a context; or "
    "took it after all, and it did not come back.",
    "torn-letter": "A dead letter without a cause, of an unknown code, or of which no result tells.",
    "stranger": "A decision, or a transaction at an endpoint, that no record on `ingest` or `broadcast` asked for.",
    "unreadable": "A record that its topic's schema cannot read.",
}
"""Findings."""

PENDING: Mapping[str, str] = {
    "decision": "A payload is under way, or waits in a retry tier.",
    "outcome": "A broadcast is under way, or waits in a retry tier.",
    "operation": "An eviction or acceptance is on its way to its context.",
    "open-transaction": "A transaction is open: what it wrote, and what follows it, cannot be seen yet.",
}
"""Not decided yet, and not lost."""

OLDER = "older than what is kept"
"""Count of what could not be judged, since what would answer for it was deleted by retention."""


class Finding(Struct, frozen=True):
    """One kind of finding."""

    kind: str
    says: str
    count: int
    first: tuple[str, ...]  # the first ids


class Report(Struct, frozen=True):
    """What an audit found."""

    counts: dict[str, int]
    findings: tuple[Finding, ...]
    pending: tuple[Finding, ...]
    seconds: float = 0.0

    @property
    def exit_code(self) -> int:
        """0: clean; 1: something is lost, doubled or torn; 2: nothing is, but something is under way."""
        return 1 if self.findings else 2 if self.pending else 0


class Notes:
    """How many of each kind, and the first of them by id."""

    def __init__(self, keep: int) -> None:
        self.keep = keep
        self.counts: Counter[str] = Counter()
        self.first: dict[str, list[str]] = {}

    def add(self, kind: str, what: str) -> None:
        """One more."""
        self.counts[kind] += 1
        first = self.first.setdefault(kind, [])
        if len(first) < self.keep:
            first.append(what)

    def findings(self, kinds: Mapping[str, str]) -> tuple[Finding, ...]:
        """In the order of the table."""
        return tuple(
            Finding(kind, says, self.counts[kind], tuple(self.first[kind]))
            for kind, says in kinds.items()
            if self.counts[kind]
        )


class Tally:
    """Where checks write."""

    def __init__(self, keep: int) -> None:
        self.counts: Counter[str] = Counter()
        self.found = Notes(keep)
        self.pending = Notes(keep)

    def copy(self) -> "Tally":
        """What was found while reading, for checks to add to."""
        other = Tally(self.found.keep)
        other.counts.update(self.counts)
        other.found.counts.update(self.found.counts)
        other.found.first = {kind: list(first) for kind, first in self.found.first.items()}
        return other

    def miss(self, kind: str, what: str, *, waits: str | None, too_old: bool) -> None:
        """Something that should be there is not. waits: the kind of pending it is, while it is under way."""
        if waits is not None:
            self.pending.add(waits, what)
        elif too_old:
            self.counts[OLDER] += 1
        else:
            self.found.add(kind, what)

    def report(self) -> Report:
        """All of it."""
        shown = {name: count for name, count in sorted(self.counts.items()) if count}
        return Report(shown, self.found.findings(KINDS), self.pending.findings(PENDING))
