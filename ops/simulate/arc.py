"""What a simulated ARC decides and remembers. Its HTTP is in `arc_http`."""

import time
from collections.abc import Callable
from typing import Any, Literal

import msgspec
from msgspec import Struct

from ops.simulate.faults import Faults
from ops.simulate.network import Conflict, Network, Orphan
from ops.simulate.rules import Policy, Refusal
from ops.simulate.tx import Tx
from schemas.types import Txid, display, from_display

STATUSES: dict[str, int] = {
    "UNKNOWN": 0,
    "QUEUED": 10,
    "RECEIVED": 20,
    "STORED": 30,
    "ANNOUNCED_TO_NETWORK": 40,
    "REQUESTED_BY_NETWORK": 50,
    "SENT_TO_NETWORK": 60,
    "ACCEPTED_BY_NETWORK": 70,
    "SEEN_IN_ORPHAN_MEMPOOL": 80,
    "SEEN_ON_NETWORK": 90,
    "DOUBLE_SPEND_ATTEMPTED": 100,
    "REJECTED": 110,
    "MINED_IN_STALE_BLOCK": 115,
    "MINED": 120,
}
"""ARC's statuses, by how far a transaction has come."""

MODES = {
    "reject": "Answers REJECTED (HTTP 200) and takes nothing.",
    "orphan": "Answers SEEN_IN_ORPHAN_MEMPOOL and takes nothing.",
    "wrong-txid": "Takes the transaction, and answers with another txid.",
}
"""Faults of ARC alone, beside those of `faults.TRANSPORT`."""

FAULT_STATUS = {"reject": "REJECTED", "orphan": "SEEN_IN_ORPHAN_MEMPOOL"}


class ArcOptions(Struct, frozen=True):
    """How this endpoint behaves."""

    policy: Policy = Policy()
    stored_ms: int = 5  # from RECEIVED to STORED
    seen_ms: int = 20  # from RECEIVED to SEEN_ON_NETWORK
    orphans: Literal["mempool", "refuse"] = "mempool"  # unknown parents: SEEN_IN_ORPHAN_MEMPOOL, or 460
    conflicts: Literal["refuse", "attempt"] = "refuse"  # a second spender: 466, or DOUBLE_SPEND_ATTEMPTED


class TxScript(Struct, frozen=True, forbid_unknown_fields=True):
    """An order for one transaction: the status or the error number it gets, or `none`. Nothing is taken meanwhile."""

    txid: str
    status: str | int
    extra_info: str = "scripted"


class Received(Struct):
    """What this endpoint remembers of a transaction it answered without an error."""

    at: float  # monotonic seconds
    status: str = ""  # empty: follows from time and the network
    info: str = ""
    forced: bool = False  # by an order: the next submission is decided anew
    competing: list[str] = msgspec.field(default_factory=list)  # display txids


class Answered(Struct, frozen=True):
    """The transaction got a status, which `Arc.status` tells."""

    txid: Txid


class Arc:
    """One endpoint's memory."""

    def __init__(
        self, network: Network, options: ArcOptions, faults: Faults, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.network = network
        self.options = options
        self.faults = faults
        self.received: dict[Txid, Received] = {}
        self.refused: dict[Txid, int] = {}
        self.submitted = 0
        self.repeats = 0
        self._scripts: dict[Txid, TxScript] = {}
        self._clock = clock

    def script(self, order: TxScript) -> None:
        """Take an order for one transaction.

        Raises:
            ValueError: the txid is none, or there is no such status.
        """
        txid = from_display(order.txid)
        if order.status == "none":
            self._scripts.pop(txid, None)
        elif isinstance(order.status, str) and order.status not in STATUSES:
            raise ValueError(f"no status {order.status!r}")
        else:
            self._scripts[txid] = order

    def submit(self, txs: list[Tx]) -> list[Answered | Refusal]:
        """Take what can be taken; an answer for each, in order."""
        answers: dict[Txid, Answered | Refusal] = {}
        fresh = []
        for tx in {tx.txid: tx for tx in txs}.values():
            self.submitted += 1
            ordered = self._ordered(tx.txid)
            if ordered is not None:
                answers[tx.txid] = ordered
            elif self._stands(tx.txid):
                self.repeats += 1
                answers[tx.txid] = Answered(tx.txid)
            else:
                fresh.append(tx)
        for tx, decision in zip(fresh, self.network.submit(fresh, self.options.policy), strict=True):
            match decision:
                case Refusal():
                    answers[tx.txid] = decision
                case Orphan(missing) if self.options.orphans == "refuse":
                    self.network.orphans.pop(tx.txid, None)
                    answers[tx.txid] = Refusal(460, f"parent {display(missing[0])} is not known")
                case Conflict(rivals):
                    answers[tx.txid] = self._conflict(tx.txid, rivals)
                case _:
                    self.received[tx.txid] = Received(self._clock())
                    answers[tx.txid] = Answered(tx.txid)
        for txid, answer in answers.items():
            if isinstance(answer, Refusal):
                self.refused[txid] = answer.number
            else:
                self.refused.pop(txid, None)
        return [answers[tx.txid] for tx in txs]

    def _stands(self, txid: Txid) -> bool:
        """Whether the present status is the answer: it was submitted before, and nothing about it is to be decided."""
        known = self.received.get(txid)
        return known is not None and not known.forced and txid not in self.network.orphans

    def _ordered(self, txid: Txid) -> Answered | Refusal | None:
        """What an order for this transaction, or a fault, says in place of a decision."""
        status: str | int
        if (script := self._scripts.get(txid)) is not None:
            status, info = script.status, script.extra_info
        elif (fault := self.faults.meets(*FAULT_STATUS)) is not None:
            status, info = FAULT_STATUS[fault.mode], "simulated fault"
        else:
            return None
        if isinstance(status, int):
            return Refusal(status, info)
        self.received[txid] = Received(self._clock(), status, info, forced=True)
        return Answered(txid)

    def _conflict(self, txid: Txid, rivals: tuple[Txid, ...]) -> Answered | Refusal:
        """The first spender keeps its status, and names whoever tries later."""
        for rival in rivals:
            if (first := self.received.get(rival)) is not None and display(txid) not in first.competing:
                first.competing.append(display(txid))
        competing = [display(rival) for rival in rivals]
        if self.options.conflicts == "refuse":
            return Refusal(466, f"spends what {', '.join(competing)} spends", rivals)
        self.received[txid] = Received(self._clock(), "DOUBLE_SPEND_ATTEMPTED", competing=competing)
        return Answered(txid)

    def status(self, txid: Txid) -> dict[str, Any] | None:
        """Where a transaction stands, as fields of an answer; None when it is not mined and never came here."""
        known = self.received.get(txid)
        found: dict[str, Any] = {
            "txid": display(txid), "txStatus": "MINED", "blockHash": "", "blockHeight": 0, "merklePath": "",
            "extraInfo": "", "competingTxs": None,
        }  # fmt: skip
        if known is not None and known.status:
            return found | {"txStatus": known.status, "extraInfo": known.info, "competingTxs": known.competing or None}
        if (mined := self.network.mined.proof(txid)) is not None:
            return found | {"blockHash": mined.block_hash, "blockHeight": mined.height, "merklePath": mined.bump}
        if known is None:
            return None
        name, info = self._progress(txid, known)
        return found | {"txStatus": name, "extraInfo": info, "competingTxs": known.competing or None}

    def _progress(self, txid: Txid, known: Received) -> tuple[str, str]:
        if txid in self.network.orphans:
            return "SEEN_IN_ORPHAN_MEMPOOL", "missing inputs"
        if (dropped := self.network.dropped.get(txid)) is not None:
            return "REJECTED", dropped.detail if isinstance(dropped, Refusal) else "txn-mempool-conflict"
        age_ms = (self._clock() - known.at) * 1000
        steps = ((self.options.seen_ms, "SEEN_ON_NETWORK"), (self.options.stored_ms, "STORED"))
        return next((name for least, name in steps if age_ms >= least), "RECEIVED"), ""
