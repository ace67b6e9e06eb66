"""Whole transactions of several payloads as one BEEF: each with its ancestors down to proven ones, none twice."""

from collections.abc import Iterable

from msgspec import Struct

from pipeline.chain.answer import RootAt
from pipeline.codec.beef import read_beef, write_beef_v1
from pipeline.codec.reader import Malformed
from pipeline.codec.tx import Tx
from pipeline.policy import Policy
from schemas.types import Root, Txid, display

_POLICY = Policy()

ATOMIC_BYTES = 36
"""In front of a BEEF that names its subject (BRC-95)."""

MOST_BYTES = _POLICY.max_payload_bytes - ATOMIC_BYTES
"""Of what is handed out, unless one payload alone has more: whoever takes payloads by default takes it."""

ENTRY_BYTES = 16
"""Of an entry and its share of the counts, beside the transaction's own."""


class _Held(Struct):
    raw: bytes
    parents: tuple[Txid, ...]  # distinct
    bump: bytes = b""  # that proves it; empty: none


class Bag:
    """Transactions and proofs of payloads that were verified."""

    def __init__(self) -> None:
        self._held: dict[Txid, _Held] = {}
        self._roots: dict[int, Root] = {}  # by block height
        self._bumps: set[bytes] = set()
        self._subjects: dict[Txid, None] = {}
        self._size = ENTRY_BYTES

    def add(self, subject: Txid, beef: bytes, most_bytes: int = MOST_BYTES) -> bool:
        """Take a transaction of a verified payload, with its ancestors down to proven ones. Of those that are held
        without a proof the proofs are taken too.

        Whether it was taken. It is not, and nothing has changed, where the bag would come to more than `most_bytes`,
        or than a payload may hold by default, unless it is empty; or where the payload's proofs name another root of a
        block: the chain was reorganised between the two, and no BEEF can hold both.

        Cost: linear in the payload; a proof in use is hashed once.

        Raises:
            Malformed: it is no BEEF that holds the transaction and all it needs.
        """
        needed = self._needed(subject, beef)
        roots = self._roots.copy()
        taken: dict[Txid, _Held] = {}
        for tx, root_at, bump in needed:
            held = self._held.get(tx.txid)
            if root_at is not None and roots.setdefault(*root_at) != root_at[1]:
                if held is None:
                    return False
                continue  # it is held without a proof, and with its ancestors
            if held is None or (bump and not held.bump):
                taken[tx.txid] = _Held(tx.raw, tuple(dict.fromkeys(_parents(tx))), bump)
        bumps = self._bumps | {one.bump for one in taken.values() if one.bump}
        size = self._size + sum(len(one.raw) + ENTRY_BYTES for txid, one in taken.items() if txid not in self._held)
        size += sum(map(len, bumps - self._bumps))
        if self._subjects and (
            size > most_bytes
            or len(bumps) > _POLICY.max_bumps
            or len(self._held.keys() | taken.keys()) > _POLICY.max_transactions
        ):
            return False
        self._held |= taken
        self._roots, self._bumps, self._size = roots, bumps, size
        self._subjects[subject] = None
        return True

    def _needed(self, subject: Txid, beef: bytes) -> list[tuple[Tx, RootAt | None, bytes]]:
        """Of a payload the transactions that the subject needs, but for what is held with a proof and its ancestors;
        where there is a proof, the root it leads to, and its bytes."""
        envelope = read_beef(beef, len(beef), len(beef))
        given = {tx.txid: tx for tx in envelope.txs}
        claims: dict[int, list[Tx]] = {}
        found: dict[Txid, Tx] = {}
        stack = [subject]
        while stack:
            txid = stack.pop()
            held = self._held.get(txid)
            if txid in found or (held is not None and held.bump):
                continue
            if (tx := given.get(txid)) is None:
                raise Malformed("structure.missing-parent", "", display(txid))
            found[txid] = tx
            if tx.bump >= 0:
                claims.setdefault(tx.bump, []).append(tx)
            else:
                stack += _parents(tx)
        roots: dict[int, RootAt] = {}
        for place, txs in claims.items():
            bump = envelope.bumps[place]
            leaves = bump.leaves()
            if not all(tx.txid in leaves for tx in txs):
                raise Malformed("structure.not-in-bump", f"bump {place}")
            roots[place] = bump.height, bump.root({*bump.flagged, *(leaves[tx.txid] for tx in txs)})
        return [
            (tx, roots[tx.bump], envelope.bumps[tx.bump].raw) if tx.bump >= 0 else (tx, None, b"")
            for tx in found.values()
        ]

    def beef(self) -> bytes:
        """All of it as BEEF V1: parents before children, each transaction once, no proof that none of them has.

        Every transaction that was taken is the subject of an Atomic BEEF around it (BRC-95).
        """
        bumps: dict[bytes, int] = {}
        entries: list[tuple[bytes, int]] = []
        for held in self._in_order(self._reached()):
            entries.append((held.raw, bumps.setdefault(held.bump, len(bumps)) if held.bump else -1))
        return write_beef_v1(list(bumps), entries)

    def _reached(self) -> set[Txid]:
        """What the subjects need: a proof that came later leaves ancestors behind."""
        reached: set[Txid] = set()
        stack = list(self._subjects)
        while stack:
            txid = stack.pop()
            if txid in reached:
                continue
            reached.add(txid)
            if not self._held[txid].bump:
                stack += self._held[txid].parents
        return reached

    def _in_order(self, reached: set[Txid]) -> Iterable[_Held]:
        """Each behind its parents, those behind a proof too where something else needs them. Depth first, on a list."""
        order: dict[Txid, _Held] = {}
        opened: set[Txid] = set()
        stack = list(reversed(self._subjects))
        while stack:
            txid = stack[-1]
            if txid in opened:
                order.setdefault(stack.pop(), self._held[txid])
                continue
            opened.add(txid)
            stack += [each for each in self._held[txid].parents if each in reached and each not in opened]
        return order.values()


def _parents(tx: Tx) -> list[Txid]:
    return [tx.raw[at : at + 32] for at in tx.ins[:-1]]
