"""The journals: unbroken, and in step with the results (JOURNAL-1, APPLY-1, TXN-1)."""

import hashlib
from collections.abc import Iterator

import msgspec
from msgspec import Struct

from ops.instruments.audit.flight import Coordinate, Flight
from ops.instruments.audit.report import Tally
from pipeline.state import Live, summed
from schemas.flow import Origin
from schemas.journal import Effects
from schemas.types import Context, Txid, display
from topics.registry import RESULTS


class Entry(Struct, array_like=True):
    """What an audit reads of a journal entry: its fields up to the time. The transaction's bytes are left out."""

    context: str
    sequence: int
    previous: bytes
    operation: str
    kind: str
    txid: bytes
    effects: msgspec.Raw
    state_root: bytes
    store_root: bytes
    manager: str
    origin: Origin | None
    time_ms: int


_entry = msgspec.msgpack.Decoder(Entry).decode
_effects = msgspec.msgpack.Decoder(Effects).decode


class Applied(Struct, frozen=True):
    """An entry of the kind `apply`."""

    txid: Txid
    origin: Coordinate | None
    time_ms: int


class Chain:
    """One context's journal, as far as it was read."""

    def __init__(self) -> None:
        self.sequence = 0
        self.hash = bytes(32)
        self.marks: dict[int, int] = {}  # sequence -> hash of kind, txid and state root
        self.applied: dict[int, Applied] = {}
        self.live: set[Txid] = set()  # applied, and not evicted since
        self.sums = Live()
        self.replayed = True  # effects so far gave the roots; after a break none would


class Journal:
    """The ledger. Entries of a context come in the order of their partition."""

    def __init__(self, tally: Tally, *, roots: bool) -> None:
        """tally: what is wrong with an entry by itself goes there; roots: replay effects into roots, 20 us each."""
        self._tally = tally
        self._roots = roots
        self._chains: dict[Context, Chain] = {}
        self._told: dict[Context, dict[int, int]] = {}  # by results: sequence -> mark
        self.accepted: dict[Txid, int] = {}  # noted as the network's, Unix milliseconds

    def enter(self, where: str, value: bytes) -> None:
        """A record of `journal`."""
        try:
            entry = _entry(value)
        except msgspec.MsgspecError as error:
            self._tally.found.add("unreadable", f"{where}: {error}")
            return
        self._tally.counts["journal entries"] += 1
        chain = self._chains.setdefault(entry.context, Chain())
        at = f"{entry.context} {entry.sequence}"
        if entry.sequence <= chain.sequence:
            self._tally.found.add("doubled-entry", f"{at} comes again after {chain.sequence}")
            return
        if entry.sequence != chain.sequence + 1:
            self._tally.found.add("torn-journal", f"{at} comes after {chain.sequence}")
            chain.replayed = False
        elif entry.previous != chain.hash:
            self._tally.found.add("torn-journal", f"{at} does not name the hash of {chain.sequence}")
        chain.sequence = entry.sequence
        chain.hash = hashlib.sha256(value).digest()
        chain.marks[entry.sequence] = _mark(entry.kind, entry.txid, entry.state_root.hex())
        self._follow(entry, chain, at)
        self._check_roots(entry, chain, at)

    def _follow(self, entry: Entry, chain: Chain, at: str) -> None:
        match entry.kind:
            case "apply":
                if entry.txid in chain.live:
                    self._tally.found.add("doubled-entry", f"{at} applies {display(entry.txid)} again")
                chain.live.add(entry.txid)
                origin = (entry.origin.partition, entry.origin.offset) if entry.origin is not None else None
                chain.applied[entry.sequence] = Applied(entry.txid, origin, entry.time_ms)
            case "evict":
                chain.live.discard(entry.txid)
            case "accept":
                self.accepted[entry.txid] = entry.time_ms

    def _check_roots(self, entry: Entry, chain: Chain, at: str) -> None:
        if len(entry.state_root) != 32 or len(entry.store_root) != 32:
            self._tally.found.add("torn-root", f"{at} has none")
        elif self._roots and chain.replayed:
            chain.sums = summed(chain.sums, _effects(entry.effects))
            if (chain.sums.state_root, chain.sums.store_root) != (entry.state_root, entry.store_root):
                chain.replayed = False
                self._tally.found.add("torn-root", f"{at} has others than its effects give")

    def tell(self, context: Context, sequence: int, outcome: str, txid: Txid, state_root: str | None) -> None:
        """A result that names an entry."""
        mark = _mark("evict" if outcome == "evicted" else "apply", txid, state_root)
        told = self._told.setdefault(context, {})
        if told.setdefault(sequence, mark) != mark:
            self._tally.found.add("torn-result", f"{context} {sequence}: results differ")

    def standing(self, txid: Txid) -> Iterator[Context]:
        """Contexts that hold a transaction applied."""
        return (context for context, chain in self._chains.items() if txid in chain.live)

    def check(self, flight: Flight, tally: Tally) -> None:
        """Every result's entry is there, and every applying entry's result."""
        tally.counts["contexts"] = len(self._chains)
        for context, told in sorted(self._told.items()):
            marks = self._chains[context].marks if context in self._chains else {}
            for sequence, mark in sorted(told.items()):
                if marks.get(sequence) != mark:
                    tally.found.add("torn-result", f"{context} {sequence}")
        for context, chain in sorted(self._chains.items()):
            for sequence in sorted(chain.applied.keys() - self._told.get(context, {}).keys()):
                applied = chain.applied[sequence]
                tally.miss(
                    "torn-entry",
                    f"{context} {sequence} {display(applied.txid)}",
                    waits=flight.waits(applied.origin, context) if applied.origin is not None else None,
                    too_old=flight.too_old(RESULTS.name, applied.time_ms),
                )


JUDGED = frozenset(("apply", "rejudge"))
"""Kinds of entries that a result may name: a repeat is told the one that judged its transaction last."""


def _mark(kind: str, txid: Txid, state_root: str | None) -> int:
    return hash(("judged" if kind in JUDGED else kind, txid, state_root))
