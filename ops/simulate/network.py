"""The transactions the simulated network took, and the outputs they spend; one view for any number of endpoints.

Endpoints of one network share a file. Who takes a transaction holds the file's lock, reads what others took since,
decides, and appends: of two that spend one output the second is refused, whichever endpoints they come to. A process
that starts on a file knows all that stands in it.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from msgspec import Struct

from ops.simulate.mined import MinedView
from ops.simulate.rules import Policy, Refusal, judge
from ops.simulate.tx import Spent, Tx, read_one
from schemas.types import Outpoint, Txid, display


class Taken(Struct, frozen=True):
    """The network has it."""


class Orphan(Struct, frozen=True):
    """Nothing is wrong with it, but these of its parents are unknown."""

    missing: tuple[Txid, ...]


class Conflict(Struct, frozen=True):
    """It spends what these, which were first, spend."""

    rivals: tuple[Txid, ...]


Decision = Taken | Orphan | Conflict | Refusal


class Network:
    """What is known, and what may be added to it."""

    def __init__(self, mined: MinedView, file: Path | None = None) -> None:
        self.mined = mined
        self.orphans: dict[Txid, Tx] = {}
        self.dropped: dict[Txid, Conflict | Refusal] = {}  # orphans that could not be let in when their parents came
        self._raws: dict[Txid, bytes] = {}
        self._spenders: dict[Outpoint, Txid] = {}
        self._waiting: dict[Txid, set[Txid]] = {}  # parent: orphans
        self._file: IO[bytes] | None = None
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._file = file.open("a+b", buffering=0)
        self._read_to = 0
        self.refresh()

    def __contains__(self, txid: Txid) -> bool:
        return txid in self._raws

    def __len__(self) -> int:
        return len(self._raws)

    def outputs(self, txid: Txid) -> list[Spent] | None:
        """What a transaction made, or None when the network does not know it."""
        raw = self._raws.get(txid)
        return read_one(raw).outputs if raw is not None else self.mined.outputs(txid)

    def refresh(self) -> None:
        """Take over what was mined, and what other endpoints took; orphans that waited for it are let in."""
        self.mined.refresh()
        with self._locked():
            pass

    def submit(self, txs: Sequence[Tx], policy: Policy) -> list[Decision]:
        """Decide on each, in order. A child before its parent is an orphan until the parent's turn.

        Scripts are judged before the lock is taken, so that other endpoints go on meanwhile.
        """
        self.refresh()
        together = {tx.txid: tx for tx in txs}
        new = {txid: tx for txid, tx in together.items() if not self._stands(txid)}
        refused = {txid: self._judge(tx, together, policy) for txid, tx in new.items()}
        decisions: list[Decision] = []
        with self._locked():
            for tx in txs:
                decisions.append(refused.get(tx.txid) or self._decide_truthful(tx))
                if isinstance(decisions[-1], Taken):
                    self._adopt([tx.txid])
        return decisions

    def check(self, txs: Sequence[Tx], policy: Policy) -> list[Refusal | None]:
        """What rules that need no look at spenders refuse; nothing is taken."""
        self.refresh()
        together = {tx.txid: tx for tx in txs}
        return [None if self._stands(tx.txid) else self._judge(tx, together, policy) for tx in txs]

    def _stands(self, txid: Txid) -> bool:
        """Whether somebody has judged it: an endpoint of this network, which took it, or who put it into a block."""
        return txid in self._raws or txid in self.mined

    def _judge(self, tx: Tx, together: dict[Txid, Tx], policy: Policy) -> Refusal | None:
        """Rules that need no lock. What an input spends is what the network knows; else what Extended Format says."""
        made = self._made_by_parents(tx, together)
        for number, each in enumerate(tx.inputs):
            known = made[each.txid]
            if known is None:
                if each.spent is None:
                    return Refusal(
                        460, f"input {number}: parent {display(each.txid)} is not known, and the format is raw"
                    )
                continue
            if each.vout >= len(known):
                return Refusal(462, f"input {number}: {display(each.txid)} has no output {each.vout}")
            if each.spent is not None and each.spent != known[each.vout]:
                return Refusal(
                    462, f"input {number}: {display(each.txid)}.{each.vout} is not what Extended Format says"
                )
            each.spent = known[each.vout]
        return judge(tx, policy)

    def _made_by_parents(self, tx: Tx, together: dict[Txid, Tx]) -> dict[Txid, list[Spent] | None]:
        """Outputs of each parent, read once: thousands of inputs may spend one that makes thousands."""
        parents = dict.fromkeys(each.txid for each in tx.inputs)
        return {txid: together[txid].outputs if txid in together else self.outputs(txid) for txid in parents}

    def _decide(self, tx: Tx) -> Decision:
        if self._stands(tx.txid):
            return Taken()
        rivals = tuple({self._spenders[each.outpoint]: None for each in tx.inputs if each.outpoint in self._spenders})
        if rivals:
            return Conflict(rivals)
        missing = tuple(each.txid for each in tx.inputs if each.txid not in self._raws and each.txid not in self.mined)
        if missing:
            self.orphans[tx.txid] = tx
            for parent in missing:
                self._waiting.setdefault(parent, set()).add(tx.txid)
            return Orphan(missing)
        self._append(tx)
        return Taken()

    def _append(self, tx: Tx) -> None:
        self._learn(tx)
        if self._file is not None:
            record = len(tx.raw).to_bytes(4, "little") + tx.raw
            self._file.write(record)
            self._read_to += len(record)

    def _learn(self, tx: Tx) -> None:
        self.orphans.pop(tx.txid, None)
        self._raws[tx.txid] = tx.raw
        self._spenders.update((each.outpoint, tx.txid) for each in tx.inputs)

    def _adopt(self, arrived: list[Txid]) -> None:
        """Let in the orphans that have all their parents by these arrivals, and theirs in turn."""
        queue = list(arrived)
        while queue:
            for child in sorted(self._waiting.pop(queue.pop(), ())):
                if (tx := self.orphans.get(child)) is None:
                    continue
                decision = self._decide_truthful(tx)
                if isinstance(decision, Taken):
                    queue.append(child)
                elif not isinstance(decision, Orphan):
                    self.dropped[child] = decision
                    del self.orphans[child]

    def _decide_truthful(self, tx: Tx) -> Decision:
        """As `_decide`, and refuse what said of a parent, unknown when it was judged, what is not true."""
        made = self._made_by_parents(tx, {})
        for each in tx.inputs:
            known = made[each.txid]
            if each.spent is None:  # raw, and taken already: whoever took it has compared
                continue
            if known is not None and (each.vout >= len(known) or known[each.vout] != each.spent):
                return Refusal(462, f"{display(each.txid)}.{each.vout} is not what Extended Format says")
        return self._decide(tx)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """The file's lock, with everything in it read."""
        if self._file is None:
            yield
            return
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            self._adopt(self._catch_up(self._file))
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def _catch_up(self, file: IO[bytes]) -> list[Txid]:
        """Read what others appended. A record that a killed process left half written is cut off."""
        arrived: list[Txid] = []
        size = os.fstat(file.fileno()).st_size
        if size == self._read_to:
            return arrived
        file.seek(self._read_to)
        news, at = file.read(size - self._read_to), 0
        while at + 4 <= len(news) and (end := at + 4 + int.from_bytes(news[at : at + 4], "little")) <= len(news):
            tx = read_one(news[at + 4 : end])
            self._learn(tx)
            arrived.append(tx.txid)
            at = end
        self._read_to += at
        if at < len(news):
            file.truncate(self._read_to)
        return arrived
