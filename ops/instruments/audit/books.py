"""The audit's accounting: what was read goes in as ids and numbers, what does not add up comes out by id.

Pure: no Kafka here. Payloads are looked at and dropped. Things may be told in any order but for the journal, whose
entries come in the order of their partition; `balance` may be called again after more was told.
"""

from sys import intern

import msgspec
from msgspec import Struct

from ops.instruments.audit.decisions import Decision, Decisions
from ops.instruments.audit.flight import Flight, unix_ms
from ops.instruments.audit.journal import Journal
from ops.instruments.audit.letters import Letters
from ops.instruments.audit.network import Network
from ops.instruments.audit.report import Report, Tally
from pipeline.results import network_id
from schemas.external import ResultOrigin
from schemas.types import Txid, from_display


class Line(Struct):
    """What an audit reads of a result."""

    id: str
    revision: int
    txid: str | None
    context: str | None
    contexts: int
    outcome: str
    time: str
    sequence: int | None = None
    state_root: str | None = None
    repeat: bool = False
    origin: ResultOrigin | None = None


_line = msgspec.json.Decoder(Line).decode


class Books:
    """All ledgers."""

    def __init__(self, cluster: str, ingest: str, *, keep: int = 10, roots: bool = False) -> None:
        """cluster: its id; ingest: the topic's name on it; keep: ids shown of each kind; roots: replay them."""
        self._tally = Tally(keep)
        self._ingest = ingest
        self.flight = Flight()
        self.decisions = Decisions(cluster, ingest)
        self.journal = Journal(self._tally, roots=roots)
        self.network = Network(self._tally)
        self.letters = Letters(self._tally)

    def result(self, where: str, value: bytes) -> None:
        """A record of `results`."""
        try:
            line = _line(value)
            txid = from_display(line.txid) if line.txid is not None else None
            bytes.fromhex(line.id)
        except (msgspec.MsgspecError, ValueError) as error:
            self._tally.found.add("unreadable", f"{where}: {error}")
            return
        self._tally.counts["results"] += 1
        self._tally.counts["repeats"] += line.repeat
        if line.sequence is not None and line.context is not None and txid is not None:
            self.journal.tell(line.context, line.sequence, line.outcome, txid, line.state_root)
        match line.outcome:
            case "accepted" | "refused":
                self._said(line, txid)
            case "parked" if txid is not None and line.context is None and line.id == network_id(txid):
                self._said(line, txid)
            case "applied" | "rejected" | "parked":
                self._decided(line)
            case "evicted" | "revised":
                self._tally.counts[line.outcome] += 1

    def _said(self, line: Line, txid: Txid | None) -> None:
        if txid is None or line.id != network_id(txid):
            self._tally.found.add("stranger", f"{line.id} {line.outcome} {line.txid}")
        else:
            self.network.said(txid, (line.revision, intern(line.outcome)), unix_ms(line.time))

    def _decided(self, line: Line) -> None:
        origin = line.origin
        if origin is None or origin.topic != self._ingest:
            self._tally.found.add("stranger", f"{line.id} {line.outcome} of {origin}")
            return
        context = intern(line.context) if line.context is not None else None
        parked = line.outcome == "parked"
        decision = Decision(bytes.fromhex(line.id), context, line.contexts, unix_ms(line.time), parked)
        self.decisions.make((origin.partition, origin.offset), decision, (line.revision, intern(line.outcome)))

    def balance(self) -> Report:
        """What does not add up, of all that was told."""
        tally = self._tally.copy()
        self.decisions.check(self.flight, tally)
        self.journal.check(self.flight, tally)
        self.network.check(self.journal, self.flight, tally)
        self.letters.check(self.decisions, self.network, self.flight, tally)
        for context in self.flight.operations:
            tally.pending.add("operation", context)
        for where in self.flight.open:
            tally.pending.add("open-transaction", where)
        return tally.report()
