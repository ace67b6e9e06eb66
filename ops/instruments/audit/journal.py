"""The journals: unbroken, and in step with the results (JOURNAL-1, APPLY-1, TXN-1)."""

from collections.abc import Iterator

import msgspec
from msgspec import Struct

from ops.instruments.audit.flight import Coordinate, Flight
from ops.instruments.audit.report import Tally
from pipeline import state
from pipeline.journal import Chain, Entry, effects_of, read
from schemas.types import Context, Txid, display
from topics.registry import RESULTS


class Applied(Struct, frozen=True):
    """An entry of the kind `apply`."""

    txid: Txid
    origin: Coordinate | None
    time_ms: int


class Kept:
    """One context's journal, as far as it was read."""

    def __init__(self, *, roots: bool) -> None:
        self.chain = Chain(roots=roots)
        self.marks: dict[int, int] = {}  # sequence -> hash of kind, txid and state root
        self.applied: dict[int, Applied] = {}
        self.live: set[Txid] = set()  # applied, and not evicted since
        self.gone: dict[Txid, str] = {}  # applied, and evicted since: by which operation


class Journal:
    """The ledger. Entries of a context come in the order of their partition."""

    def __init__(self, tally: Tally, *, roots: bool) -> None:
        """tally: what is wrong with an entry by itself goes there; roots: replay effects into roots, 20 us each."""
        self._tally = tally
        self._roots = roots
        self._contexts: dict[Context, Kept] = {}
        self._told: dict[Context, dict[int, int]] = {}  # by results: sequence -> mark
        self.accepted: dict[Txid, int] = {}  # noted as the network's, Unix milliseconds

    def enter(self, where: str, value: bytes) -> None:
        """A record of `journal`."""
        try:
            entry = read(value)
        except msgspec.MsgspecError as error:
            self._tally.found.add("unreadable", f"{where}: {error}")
            return
        self._tally.counts["journal entries"] += 1
        kept = self._contexts.get(entry.context)
        if kept is None:
            kept = self._contexts[entry.context] = Kept(roots=self._roots)
        breaks = kept.chain.take(entry, value)
        for each in breaks:
            self._tally.found.add(FINDINGS[each.kind], each.says)
        if any(each.kind == "doubled" for each in breaks):
            return
        kept.marks[entry.sequence] = _mark(entry.kind, entry.txid, entry.state_root.hex())
        self._follow(entry, kept)

    def _follow(self, entry: Entry, kept: Kept) -> None:
        match entry.kind:
            case "apply" | "commit" if entry.kind == "apply" or _applies(entry):
                if entry.txid in kept.live:
                    at = f"{entry.context} {entry.sequence}"
                    self._tally.found.add("doubled-entry", f"{at} applies {display(entry.txid)} again")
                kept.live.add(entry.txid)
                kept.gone.pop(entry.txid, None)
                origin = (entry.origin.partition, entry.origin.offset) if entry.origin is not None else None
                kept.applied[entry.sequence] = Applied(entry.txid, origin, entry.time_ms)
            case "evict" if entry.txid in kept.live:
                kept.live.discard(entry.txid)
                kept.gone[entry.txid] = entry.operation
            case "readmit" if entry.txid in kept.gone:
                del kept.gone[entry.txid]
                kept.live.add(entry.txid)
            case "dismiss":
                kept.gone.pop(entry.txid, None)  # it might have come back, and a rival is there
            case "accept":
                self.accepted[entry.txid] = entry.time_ms

    def tell(self, context: Context, sequence: int, outcome: str, txid: Txid, state_root: str | None) -> None:
        """A result that names an entry."""
        mark = _mark("evict" if outcome == "evicted" else "apply", txid, state_root)
        told = self._told.setdefault(context, {})
        if told.setdefault(sequence, mark) != mark:
            self._tally.found.add("torn-result", f"{context} {sequence}: results differ")

    def standing(self, txid: Txid) -> Iterator[Context]:
        """Contexts that hold a transaction applied."""
        return (context for context, kept in self._contexts.items() if txid in kept.live)

    def left(self) -> Iterator[tuple[Context, Txid, str]]:
        """Transactions that were applied and left, with the operation that had them leave."""
        for context, kept in self._contexts.items():
            for txid, operation in kept.gone.items():
                yield context, txid, operation

    def check(self, flight: Flight, tally: Tally) -> None:
        """Every result's entry is there, and every applying entry's result."""
        tally.counts["contexts"] = len(self._contexts)
        for context, told in sorted(self._told.items()):
            marks = self._contexts[context].marks if context in self._contexts else {}
            for sequence, mark in sorted(told.items()):
                if marks.get(sequence) != mark:
                    tally.found.add("torn-result", f"{context} {sequence}")
        for context, kept in sorted(self._contexts.items()):
            for sequence in sorted(kept.applied.keys() - self._told.get(context, {}).keys()):
                applied = kept.applied[sequence]
                tally.miss(
                    "torn-entry",
                    f"{context} {sequence} {display(applied.txid)}",
                    waits=flight.waits(applied.origin, context) if applied.origin is not None else None,
                    too_old=flight.too_old(RESULTS.name, applied.time_ms),
                )


FINDINGS = {"doubled": "doubled-entry", "torn": "torn-journal", "root": "torn-root"}
"""How breaks of a chain are told."""

JUDGED = frozenset(("apply", "commit", "merge", "rejudge", "readmit"))
"""Kinds of entries that a result may name: a repeat is told the one that judged its transaction last."""


def _applies(entry: Entry) -> bool:
    """Whether an entry that commits brings the transaction: it may have been applied before, by itself."""
    there = state.key(entry.context, state.TX, entry.txid)
    effects = effects_of(entry.effects)
    return any(key == there for key, _ in effects.added) and not any(key == there for key, _ in effects.removed)


def _mark(kind: str, txid: Txid, state_root: str | None) -> int:
    return hash(("judged" if kind in JUDGED else kind, txid, state_root))
