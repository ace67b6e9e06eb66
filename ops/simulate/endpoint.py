"""What any simulated broadcast endpoint decides and remembers. What it calls that, and its HTTP, are its kind's."""

import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec
from msgspec import Struct

from ops.simulate.faults import Faults
from ops.simulate.network import Conflict, Network, Orphan
from ops.simulate.rules import Policy, Refusal
from ops.simulate.tx import Tx
from schemas.types import Txid, display, from_display

MODES = {
    "reject": "Refuses, as a node does, and takes nothing.",
    "orphan": "Says that a parent is missing, and takes nothing.",
    "wrong-txid": "Takes the transaction, and answers with another txid.",
    "reordered": "Answers about the members of a batch stand in another order.",
    "partial": "Every other answer about a member of a batch is left out.",
}
"""Faults of broadcast endpoints, beside those of `faults.TRANSPORT`; a kind has those that its protocol can show."""

POISON = "POISON"
"""An order for one transaction: every call that holds it is refused as a whole, as unreadable."""


class Words(Struct, frozen=True):
    """What a kind calls the states of a transaction that have different names."""

    statuses: Mapping[str, int]  # all that it may say, by how far a transaction has come
    stored: str
    orphan: str
    rejected: str = "REJECTED"


class Options(Struct, frozen=True):
    """How this endpoint behaves."""

    policy: Policy = Policy()
    stored_ms: int = 5  # from RECEIVED to stored
    seen_ms: int = 20  # from RECEIVED to SEEN_ON_NETWORK
    orphans: Literal["mempool", "refuse"] = "mempool"  # unknown parents: kept and said to be missing, or 460
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
    """The transaction got a status, which `Endpoint.status` tells."""

    txid: Txid


class Endpoint:
    """One endpoint's memory."""

    def __init__(
        self,
        network: Network,
        words: Words,
        options: Options,
        faults: Faults,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.words = words
        self.network = network
        self.options = options
        self.faults = faults
        self.received: dict[Txid, Received] = {}
        self.refused: dict[Txid, int] = {}
        self.submitted = 0
        self.early = 0  # transactions that came here before a parent of theirs did
        self._seen: set[Txid] = set()
        self._missed: dict[Txid, int] = {}  # parents that never came here and nobody has: by how many children
        self.repeats = 0
        self._scripts: dict[Txid, TxScript] = {}
        self._forced = {"reject": words.rejected, "orphan": words.orphan}
        self._clock = clock

    def script(self, order: TxScript) -> None:
        """Take an order for one transaction.

        Raises:
            ValueError: the txid is none, or there is no such status.
        """
        txid = from_display(order.txid)
        if order.status == "none":
            self._scripts.pop(txid, None)
        elif isinstance(order.status, str) and order.status not in (*self.words.statuses, POISON):
            raise ValueError(f"no status {order.status!r}")
        else:
            self._scripts[txid] = order

    def poisoned(self, txs: list[Tx]) -> bool:
        """Whether an order has one of them refuse the whole call."""
        return any((script := self._scripts.get(tx.txid)) is not None and script.status == POISON for tx in txs)

    def examine(self, txs: list[Tx]) -> list[Refusal | None]:
        """What would refuse each, without a look at what others spend; nothing is taken."""
        found = self.network.check(txs, self.options.policy)
        for at, tx in enumerate(txs):
            script = self._scripts.get(tx.txid)
            if script is not None:
                ordered = isinstance(script.status, int)
                found[at] = Refusal(int(script.status), script.extra_info) if ordered else None
        return found

    def reject(self, refused: Refusal, txid: Txid) -> Answered:
        """Keep it as rejected, where a kind refuses by status what it had taken to look at."""
        self.refused.pop(txid, None)
        self.received[txid] = Received(self._clock(), self.words.rejected, refused.detail)
        return Answered(txid)

    def submit(self, txs: list[Tx]) -> list[Answered | Refusal]:
        """Take what can be taken; an answer for each, in order."""
        answers: dict[Txid, Answered | Refusal] = {}
        fresh = []
        for tx in {tx.txid: tx for tx in txs}.values():
            self.submitted += 1
            self._note_order(tx)
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

    def _note_order(self, tx: Tx) -> None:
        self.early += self._missed.pop(tx.txid, 0)
        self._seen.add(tx.txid)
        for parent in {each.txid for each in tx.inputs}:
            if parent not in self._seen and parent not in self.network and parent not in self.network.mined:
                self._missed[parent] = self._missed.get(parent, 0) + 1

    def _stands(self, txid: Txid) -> bool:
        """Whether the present status is the answer: it was submitted before, and nothing about it is to be decided."""
        known = self.received.get(txid)
        return known is not None and not known.forced and txid not in self.network.orphans

    def _ordered(self, txid: Txid) -> Answered | Refusal | None:
        """What an order for this transaction, or a fault, says in place of a decision."""
        status: str | int
        if (script := self._scripts.get(txid)) is not None:
            status, info = script.status, script.extra_info
        elif (fault := self.faults.meets(*self._forced)) is not None:
            status, info = self._forced[fault.mode], "simulated fault"
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
        told = f"competing tx: {', '.join(competing)}"
        self.received[txid] = Received(self._clock(), "DOUBLE_SPEND_ATTEMPTED", told, competing=competing)
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
            return self.words.orphan, "missing inputs"
        if (dropped := self.network.dropped.get(txid)) is not None:
            return self.words.rejected, dropped.detail if isinstance(dropped, Refusal) else "txn-mempool-conflict"
        age_ms = (self._clock() - known.at) * 1000
        steps = ((self.options.seen_ms, "SEEN_ON_NETWORK"), (self.options.stored_ms, self.words.stored))
        return next((name for least, name in steps if age_ms >= least), "RECEIVED"), ""
