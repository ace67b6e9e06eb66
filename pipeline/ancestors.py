"""Ancestors a payload names by their txid alone (BRC-96), put in place from payloads that were verified before.

What is remembered supplies bytes, never trust (NAMED-1): the payload so completed is parsed, planned and verified like
one that came whole, so that a wrong memory, a reorganisation or another policy can make nothing false pass.

An *ancestor that can be shown* is one a payload holds with a proof, or with its own ancestors down to proofs. One that
stands behind a descendant's proof may lack them, and is of no use to somebody else.
"""

from collections.abc import Collection, Iterable, Mapping

from pipeline.codec.beef import Envelope, read_beef, write_beef_v1
from pipeline.codec.reader import Malformed
from pipeline.codec.tx import Tx
from pipeline.outcome import Verdict
from pipeline.parse import Payload, parse
from pipeline.policy import Policy
from schemas.types import Txid, display

HOLDERS = 4
"""Times `policy.max_payload_bytes`: what the payloads that hold one payload's named ancestors may have together.
Reading them is work whose bytes the sender did not send."""


def shown(beef: bytes) -> list[Txid]:
    """The ancestors that `beef` (BEEF, ancestors first) can show; of bytes that are no BEEF, none.

    Cost: linear in the bytes; each transaction is hashed once.
    """
    envelope = _read(beef)
    return list(_showable(envelope)) if envelope else []


def cut(beef: bytes, wanted: Collection[Txid]) -> dict[Txid, bytes]:
    """The part of `beef` (BEEF, ancestors first) that shows those of `wanted` it can show, under each of them.

    One BEEF V1 for all: they, their un-mined ancestors, and the proofs in use. Cost: as `shown`.
    """
    envelope = _read(beef)
    known = _showable(envelope) if envelope else {}
    hits = [txid for txid in wanted if txid in known]
    if not envelope or not hits:
        return {}
    needed: set[Txid] = set()
    stack = list(hits)
    while stack:
        txid = stack.pop()
        if txid not in needed:
            needed.add(txid)
            tx = known[txid]
            if not tx.proven:
                stack += [tx.raw[at : at + 32] for at in tx.ins[:-1]]
    return dict.fromkeys(hits, _write((tx, _proof(tx, envelope)) for txid, tx in known.items() if txid in needed))


def refuse_much(sizes: Iterable[int], policy: Policy) -> Verdict | None:
    """sizes: bytes of the payloads that hold what one payload names."""
    total, most = sum(sizes), HOLDERS * policy.max_payload_bytes
    if total <= most:
        return None
    return Verdict("policy.limits", f"what holds the ancestors named by txid has {total} bytes; at most {most}")


def resolved(payload: Payload, found: Mapping[Txid, bytes], policy: Policy) -> Payload | Verdict:
    """The payload with what it names in place, or why there is none.

    found: as `complete` takes it.
    """
    whole = complete(payload, found)
    if isinstance(whole, Verdict):
        return whole
    more = len(whole) - len(payload.canonical())
    if more > policy.max_named_bytes:
        return Verdict(
            "policy.limits", f"ancestors named by txid stand for {more} bytes; at most {policy.max_named_bytes}"
        )
    again = parse(whole, policy)
    if isinstance(again, Verdict) and again.code == "structure.bump-roots":
        # The sender's proof of a block and ours lead to different roots. His may be the right one: he can show his own.
        return Verdict("structure.txid-only", f"a proof known of an ancestor does not fit: {again.message}", again.at)
    return again


def complete(payload: Payload, found: Mapping[Txid, bytes]) -> bytes | Verdict:
    """One BEEF V1 that holds the payload and what it names, ancestors first, each transaction and proof once.

    found: for each of `payload.missing` that is known, BEEF (ancestors first) that can show it; several may share one.
    What the payload itself says of a transaction stands over what is found, and of that the first.
    Cost: linear in the bytes of the payload and of what was found; no recursion.
    A caller may not take what comes out for well formed: it is to be parsed (`resolved` does).
    """
    own = {tx.txid: (tx, payload.bumps[tx.bump].raw if tx.proven else b"") for tx in payload.txs}
    needed = {tx.txid for tx in payload.unmined}
    known = {txid: entry for txid, entry in own.items() if entry[1] or txid in needed}
    for beef in dict.fromkeys(found.values()):
        if envelope := _read(beef):
            for txid, tx in _showable(envelope).items():
                known.setdefault(txid, (tx, _proof(tx, envelope)))
    for tx in payload.unmined:
        for vin, parent in enumerate(tx.parents):
            if parent is None and (name := tx.outpoint(vin)[:32]) not in known:
                return Verdict("structure.txid-only", display(name), f"tx {tx.index} input {vin}")
    for txid, entry in own.items():
        known.setdefault(txid, entry)
    subject = payload.subject.txid
    return _write(_ancestors_first(subject, known, _needed(subject, known, own)))


def _needed(subject: Txid, known: Mapping[Txid, tuple[Tx, bytes]], own: Collection[Txid]) -> set[Txid]:
    """The subject and its ancestors; of those that stand behind a proof, the payload's own alone."""
    needed: set[Txid] = set()
    stack = [subject]
    while stack:
        txid = stack.pop()
        if txid not in needed:
            needed.add(txid)
            tx, proof = known[txid]
            there = own if proof else known
            stack += [name for at in tx.ins[:-1] if (name := tx.raw[at : at + 32]) in there]
    return needed


def _ancestors_first(subject: Txid, known: Mapping[Txid, tuple[Tx, bytes]], among: set[Txid]) -> list[tuple[Tx, bytes]]:
    """Those that are `among`, each behind all its parents. Depth first, on a list."""
    ordered: dict[Txid, tuple[Tx, bytes]] = {}
    opened: set[Txid] = set()
    stack = [subject]
    while stack:
        txid = stack[-1]
        if txid in opened:
            ordered.setdefault(stack.pop(), known[txid])
            continue
        opened.add(txid)
        tx, _ = known[txid]
        stack += [name for at in tx.ins[:-1] if (name := tx.raw[at : at + 32]) in among and name not in opened]
    return list(ordered.values())


def _read(beef: bytes) -> Envelope | None:
    try:
        return read_beef(beef, len(beef), len(beef))
    except Malformed:
        return None  # not a payload that was verified: whoever remembers it remembers nothing of use


def _showable(envelope: Envelope) -> dict[Txid, Tx]:
    known: dict[Txid, Tx] = {}
    for tx in envelope.txs:
        if tx.proven or all(tx.raw[at : at + 32] in known for at in tx.ins[:-1]):
            known.setdefault(tx.txid, tx)
    return known


def _proof(tx: Tx, envelope: Envelope) -> bytes:
    return envelope.bumps[tx.bump].raw if tx.proven else b""


def _write(entries: Iterable[tuple[Tx, bytes]]) -> bytes:
    """BEEF V1 of transactions, each with its proof or none."""
    proofs: dict[bytes, int] = {}
    txs = [(tx.raw, proofs.setdefault(proof, len(proofs)) if proof else -1) for tx, proof in entries]
    return write_beef_v1(list(proofs), txs)
