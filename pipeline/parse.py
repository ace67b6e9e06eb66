"""Bytes to a payload: the only door for hostile bytes (FORM-1).

What comes out holds together: one subject, its ancestors before it, every un-mined one down to a proof, and for each
proof the root its block must have. Nothing in it has been compared with the chain, and no script has run.

Under `policy.txid_only = "resolve"` an un-mined transaction may spend one that is named by its txid alone (BRC-96): the
payload says so in `missing`, and is none to be judged before `pipeline/ancestors.py` has completed it.
"""

from collections.abc import Sequence

from msgspec import Struct

from pipeline.chain.answer import RootAt
from pipeline.codec.beef import V1, Envelope, read_beef, write_beef_v1, write_beef_v2
from pipeline.codec.bump import Bump
from pipeline.codec.quick import quick_payload
from pipeline.codec.reader import Malformed
from pipeline.codec.tx import NULL_OUTPOINT, SMALLEST_INPUT, Tx
from pipeline.outcome import Verdict
from pipeline.policy import Policy
from schemas.types import Root, Txid, display


class Payload(Struct, gc=False):
    """A well-formed payload. Every `Tx.bump` is a place in `bumps`."""

    subject: Tx
    txs: list[Tx]  # ancestors first, subject last; no repeats, nothing unrelated
    unmined: list[Tx]  # those of `txs` that must be verified: no proof covers them or a descendant of theirs
    bumps: list[Bump]  # the proofs in use
    roots: tuple[RootAt, ...]  # distinct blocks the proofs speak of
    repeats: int  # entries that said again what an earlier one had said
    pruned: int  # entries the subject does not descend from
    received: bytes | None  # the canonical form, where the payload came in it
    missing: tuple[Txid, ...] = ()  # named alone and spent by `unmined`: distinct, in the order they are spent

    def canonical(self) -> bytes:
        """BEEF V1: ancestors first, subject last, proofs in use only. Parsing it gives this payload again.

        Of a payload with `missing` it is V2, those names before the transactions.
        """
        if self.received is None:
            bumps, entries = [bump.raw for bump in self.bumps], [(tx.raw, tx.bump) for tx in self.txs]
            if self.missing:
                self.received = write_beef_v2(bumps, [*((txid, -1) for txid in self.missing), *entries])
            else:
                self.received = write_beef_v1(bumps, entries)
        return self.received


def parse(payload: bytes, policy: Policy) -> Payload | Verdict:
    """Read a payload.

    Cost: linear in the bytes; no recursion, and no memory beyond a small multiple of the bytes.
    Never raises, whatever the bytes are.
    """
    if not payload:
        return Verdict("malformed.empty")
    if len(payload) > policy.max_payload_bytes:
        return Verdict("malformed.too-large", f"{len(payload)} bytes; at most {policy.max_payload_bytes}")
    try:
        return _quickly(payload, policy) or _link(
            read_beef(payload, policy.max_bumps, policy.max_transactions), payload, policy
        )
    except Malformed as bad:
        return Verdict(bad.code, bad.message, bad.at)


def _quickly(payload: bytes, policy: Policy) -> Payload | None:
    """An ordinary payload within the limits, read and linked in one; of any other nothing is said."""
    found = quick_payload(payload, Bump, Tx)
    if found is None:
        return None
    txs, unmined, bumps, roots, received = found
    subject, count = txs[-1], len(txs)
    if (
        count > policy.max_transactions
        or len(bumps) > policy.max_bumps
        or len(unmined) > policy.max_depth
        or len(subject.outs) - 1 > policy.max_outputs
        or len(payload) > policy.max_inputs * SMALLEST_INPUT
    ):
        return None
    return Payload(subject, txs, unmined, bumps, roots, 0, 0, received)


def _link(envelope: Envelope, payload: bytes, policy: Policy) -> Payload:
    strict = policy.form == "strict"
    known, also = _distinct(envelope, strict)
    walk = _walk_from_subject(envelope, known, policy.txid_only == "resolve")
    if strict:
        _refuse_unrelated(envelope, known, walk)
    in_order = walk.misplaced is None
    if in_order:
        txs = sorted(walk.kept.values(), key=lambda tx: tx.index)
    elif strict:
        raise Malformed("structure.order", f"tx {walk.misplaced}")
    else:
        txs = _ancestors_first(walk.subject)
    unmined = [tx for tx in txs if tx.txid in walk.needed]
    missing = _named_by(unmined, policy.max_named) if walk.missing else ()
    subject = txs[-1]
    if len(subject.outs) - 1 > policy.max_outputs:
        raise Malformed("policy.limits", f"tx {subject.index}", f"{len(subject.outs) - 1} outputs")
    if len(payload) > policy.max_inputs * SMALLEST_INPUT:  # else there cannot be as many
        _check_inputs(unmined, policy.max_inputs)
    if len(unmined) > policy.max_depth:
        _check_depth(unmined, policy.max_depth)
    bumps, roots = _prove(envelope.bumps, txs, also, strict)
    repeats = len(envelope.txs) - len(known)
    pruned = len(known) - len(txs) + len(envelope.named) - len(missing)
    as_received = in_order and not repeats + pruned and len(bumps) == len(envelope.bumps)
    if missing:
        # Named once each, in this order, and before the first transaction: the rest of the entries are those in `txs`.
        first = len(missing)
        as_received &= tuple(envelope.named) == missing and txs[0].index == first
        as_received &= envelope.entries == first + len(txs)
    else:
        as_received &= envelope.magic == V1
    received = payload[envelope.body :] if as_received else None
    return Payload(subject, txs, unmined, bumps, roots, repeats, pruned, received, missing)


def _distinct(envelope: Envelope, strict: bool) -> tuple[dict[Txid, Tx], list[tuple[Tx, int, int]]]:
    """Transactions by txid, the first entry of each; and what repeats say differently: (first, their proof, place)."""
    known: dict[Txid, Tx] = {}
    also: list[tuple[Tx, int, int]] = []
    for tx in envelope.txs:
        first = known.setdefault(tx.txid, tx)
        if first is tx:
            continue
        if strict:
            raise Malformed("structure.repeated", f"tx {tx.index}", f"as tx {first.index}")
        if first.bump < 0:
            first.bump = tx.bump  # a proof stands, wherever it was said
        elif tx.bump >= 0 and tx.bump != first.bump:
            also.append((first, tx.bump, tx.index))
    return known, also


class _Walk(Struct, gc=False):
    """Whom a subject descends from."""

    subject: Tx
    kept: dict[Txid, Tx]  # the subject and every ancestor in the payload
    needed: set[Txid]  # those of them no proof covers, neither theirs nor a descendant's
    misplaced: int | None  # an entry that stands before one of its parents
    resolve: bool  # whether a parent may be named alone
    missing: set[Txid]  # those that are


def _walk_from_subject(envelope: Envelope, known: dict[Txid, Tx], resolve: bool) -> _Walk:
    """Find the subject: named by Atomic BEEF, last in V1, the only transaction without a child in the bag."""
    if envelope.subject is not None:
        named = known.get(envelope.subject)
        if named is None:
            by_txid = ", only its txid" if envelope.subject in envelope.named else ""
            raise Malformed("structure.subject-missing", "", display(envelope.subject) + by_txid)
        return _walk(named, known, envelope.named, resolve)
    if not known:
        raise Malformed("structure.no-transactions")
    if envelope.txs[-1].index != envelope.entries - 1:
        raise Malformed("structure.subject-unclear", f"tx {envelope.entries - 1}", "the last entry is a txid alone")
    last = known[envelope.txs[-1].txid]
    walk = _walk(last, known, envelope.named, resolve)
    if len(walk.kept) == len(known):
        return walk
    spent = {tx.raw[at : at + 32] for tx in known.values() for at in tx.ins[:-1]}
    tips = [tx for tx in known.values() if tx.txid not in spent]
    if len(tips) == 1:
        return _walk(tips[0], known, envelope.named, resolve)
    if envelope.magic == V1 and last in tips:
        return walk  # BRC-62: the last one is meant
    raise Malformed("structure.subject-unclear", "", f"{len(tips)} transactions have no child in the payload")


def _walk(subject: Tx, known: dict[Txid, Tx], named: dict[Txid, int], resolve: bool) -> _Walk:
    """Follow inputs to parents: through un-mined transactions, where each must be there, then behind the proofs."""
    walk = _Walk(subject, {subject.txid: subject}, set(), None, resolve, set())
    unmined, proven = ([], [subject]) if subject.proven else ([subject], [])
    while unmined:
        tx = unmined.pop()
        walk.needed.add(tx.txid)
        for parent in _parents(tx, known, named, walk):
            if parent.txid not in walk.kept:
                walk.kept[parent.txid] = parent
                (proven if parent.proven else unmined).append(parent)
    while proven:
        tx = proven.pop()
        for parent in _parents(tx, known, None, walk):
            if parent.txid not in walk.kept:
                walk.kept[parent.txid] = parent
                proven.append(parent)
    return walk


def _parents(tx: Tx, known: dict[Txid, Tx], named: dict[Txid, int] | None, walk: _Walk) -> list[Tx]:
    """Link a transaction to its parents and give those that are there.

    named: entries of a txid alone, for an un-mined transaction, whose parents must all be there; None: they need not.
    """
    raw = tx.raw
    parents: list[Tx | None] = []
    for vin, at in enumerate(tx.ins[:-1]):
        parent = known.get(raw[at : at + 32])
        parents.append(parent)
        if parent is None:
            if named is not None:
                if not (walk.resolve and (name := raw[at : at + 32]) in named) or tx.outpoint(vin) == NULL_OUTPOINT:
                    raise _missing(tx, vin, named)
                walk.missing.add(name)
            continue
        vout = int.from_bytes(raw[at + 32 : at + 36], "little")
        if vout >= len(parent.outs) - 1:
            raise Malformed(
                "structure.input-missing", f"tx {tx.index} input {vin}", f"output {vout} of {display(parent.txid)}"
            )
        if parent.index > tx.index and walk.misplaced is None:
            walk.misplaced = tx.index
    tx.parents = parents
    return [parent for parent in parents if parent is not None]


def _missing(tx: Tx, vin: int, named: dict[Txid, int]) -> Malformed:
    outpoint = tx.outpoint(vin)
    at = f"tx {tx.index} input {vin}"
    if outpoint == NULL_OUTPOINT:
        return Malformed("structure.coinbase", at, "new coins without a proof")
    if outpoint[:32] in named:
        return Malformed("structure.txid-only", at, f"tx {named[outpoint[:32]]}: {display(outpoint[:32])}")
    return Malformed("structure.missing-parent", at, display(outpoint[:32]))


def _refuse_unrelated(envelope: Envelope, known: dict[Txid, Tx], walk: _Walk) -> None:
    for txid, tx in known.items():
        if txid not in walk.kept:
            raise Malformed("structure.unrelated", f"tx {tx.index}", display(txid))
    for txid, index in envelope.named.items():
        if txid not in walk.missing:
            raise Malformed("structure.txid-only", f"tx {index}", display(txid))
    if len(envelope.txs) + len(envelope.named) < envelope.entries:
        raise Malformed("structure.repeated", "", "a txid alone, twice")


def _named_by(unmined: list[Tx], most: int) -> tuple[Txid, ...]:
    """Parents that are named alone, in the order they are spent."""
    spent = ((tx.raw[at : at + 32], parent) for tx in unmined for at, parent in zip(tx.ins, tx.parents, strict=False))
    missing = tuple(dict.fromkeys(txid for txid, parent in spent if parent is None))
    if len(missing) > most:
        raise Malformed("policy.limits", "", f"{len(missing)} ancestors are named by their txid alone; at most {most}")
    return missing


def _ancestors_first(subject: Tx) -> list[Tx]:
    """The subject's ancestors and itself, each behind its parents. Depth first, on a list."""
    found: dict[Txid, Tx] = {}
    opened: set[Txid] = set()
    stack = [subject]
    while stack:
        tx = stack[-1]
        if tx.txid in opened:
            found.setdefault(stack.pop().txid, tx)
            continue
        opened.add(tx.txid)
        stack += [parent for parent in tx.parents if parent is not None and parent.txid not in opened]
    return list(found.values())


def _check_inputs(unmined: list[Tx], most: int) -> None:
    inputs = 0
    for tx in unmined:
        inputs += len(tx.ins) - 1
        if inputs > most:
            raise Malformed("policy.limits", f"tx {tx.index}", f"more than {most} un-mined inputs")


def _check_depth(unmined: list[Tx], most: int) -> None:
    depth: dict[Txid, int] = {}
    for tx in unmined:
        depth[tx.txid] = 1 + max((depth.get(parent.txid, 0) for parent in tx.parents if parent is not None), default=0)
        if depth[tx.txid] > most:
            raise Malformed("policy.limits", f"tx {tx.index}", f"more than {most} un-mined generations")


def _prove(
    bumps: list[Bump], txs: list[Tx], also: Sequence[tuple[Tx, int, int]], strict: bool
) -> tuple[list[Bump], tuple[RootAt, ...]]:
    """The proofs in use and the roots they lead to; sets each proven transaction's leaf and renumbers its proof."""
    claims: dict[int, list[Tx]] = {}
    for tx in txs:
        if tx.bump >= 0:
            claims.setdefault(tx.bump, []).append(tx)
    if strict and len(claims) < len(bumps):
        unused = next(bump.index for bump in bumps if bump.index not in claims)
        raise Malformed("structure.unused-bump", f"bump {unused}")
    used = sorted(claims)
    roots: dict[int, Root] = {}
    for place, index in enumerate(used):
        bump = bumps[index]
        root = _root(bump, claims[index], strict)
        if roots.setdefault(bump.height, root) != root:
            raise Malformed("structure.bump-roots", f"bump {index}", f"another root for height {bump.height}")
        for tx in claims[index]:
            tx.bump = place
    proofs = [bumps[index] for index in used]
    if also:
        _compare_repeats(bumps, proofs, roots, txs, also)
    return proofs, tuple(roots.items())


def _compare_repeats(
    bumps: list[Bump], used: list[Bump], roots: dict[int, Root], txs: list[Tx], also: Sequence[tuple[Tx, int, int]]
) -> None:
    """A repeat may bring a proof of its own, if it says the same: one height, one root."""
    kept = {tx.txid for tx in txs}
    others: dict[int, list[tuple[Tx, int]]] = {}
    for first, index, place in also:
        if first.txid in kept:
            others.setdefault(index, []).append((first, place))
    for index, repeats in others.items():
        bump = bumps[index]
        root = _root(bump, [first for first, _ in repeats], False)
        for first, place in repeats:
            if (bump.height, root) != (used[first.bump].height, roots[used[first.bump].height]):
                raise Malformed("structure.repeated", f"tx {place}", f"another proof than tx {first.index}")


def _root(bump: Bump, claimed: list[Tx], strict: bool) -> Root:
    if strict and (bump.whole or bump.superfluous()):
        raise Malformed("structure.bump-leaf", f"bump {bump.index}", "nodes that no leaf needs")
    leaves = bump.leaves()
    for tx in claimed:
        leaf = leaves.get(tx.txid)
        if leaf is None:
            raise Malformed("structure.not-in-bump", f"tx {tx.index}", f"bump {bump.index}")
        tx.leaf = leaf
        # Offset 0 is the coinbase's. The root vouches for the offset, so that only a synthetic block has another there.
        if tx.is_coinbase() if leaf else strict and not tx.is_coinbase():
            raise Malformed("structure.coinbase", f"tx {tx.index}", f"at place {leaf} of its block")
    return bump.line or bump.root({*bump.flagged, *(tx.leaf for tx in claimed)})
