"""An operation on one context: all its effects, or none (APPLY-1, APPLY-2, JOURNAL-1).

Reads come from the layers below, writes go into the layer given; the caller merges it, or drops it, and nothing
happened. Sources: BRC-22 and the reference overlay engine's semantics, without its faults.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain

import msgspec
from msgspec import Struct

from pipeline import member, state
from pipeline.outcome import Condition, Verdict
from pipeline.overlay.manager import Subject, TopicManager, admit
from pipeline.state import Layer, Live
from schemas.external import Admittance
from schemas.flow import Accept, Apply, Asked, Evict, Member, Origin, Verified
from schemas.journal import JOURNAL, Effects, JournalEntry, Kind
from schemas.state import Applied, Coin, Known, Losers, Retained, Tombstone
from schemas.types import Context, Outpoint, Txid, display, outpoint, outpoints

TOPIC = "topic:"

LOSERS_KEPT = 8
"""Coordinates kept with an outpoint: who comes back when its holder is evicted."""

ASKED_ONE_BY_ONE = 1_000
"""Outputs whose spenders are asked for each. Of 900,000 few are spent, and the store holds those in order."""

_applied = msgspec.msgpack.Decoder(Applied).decode
_coin = msgspec.msgpack.Decoder(Coin).decode
_known = msgspec.msgpack.Decoder(Known).decode
_losers = msgspec.msgpack.Decoder(Losers).decode
_retained = msgspec.msgpack.Decoder(Retained).decode
_tombstone = msgspec.msgpack.Decoder(Tombstone).decode
_encode = state.encode


class Answer(Struct, frozen=True):
    """The transaction stands applied."""

    admittance: Admittance
    sequence: int
    state_root: bytes
    repeat: bool
    fresh: bool  # by this very operation: the network may have to hear of it


class Evicted(Struct, frozen=True):
    """A transaction that left, and what is known of who sent it."""

    txid: Txid
    applied: Applied | None  # None: it was an ancestor that nobody submitted
    sequence: int
    state_root: bytes


class Change(Struct, frozen=True):
    """What an operation did to its context."""

    head: Live
    entries: tuple[bytes, ...] = ()  # journal entries, encoded
    said: Answer | Verdict | Condition | None = None  # to whoever asked
    competing: tuple[Txid, ...] = ()
    evicted: tuple[Evicted, ...] = ()


class Contextual:
    """One context within one operation: writes gather here and are folded into the layer, entry by entry."""

    def __init__(self, context: Context, layer: Layer, head: Live, now_ms: int) -> None:
        self.context = context
        self.head = head
        self.now_ms = now_ms
        self._below = layer
        self._writes = Layer(layer)
        self._prefix = context.encode() + b"\0"
        self._added: list[tuple[bytes, bytes]] = []
        self._removed: list[tuple[bytes, bytes]] = []

    def value(self, kind: bytes, rest: bytes) -> bytes | None:
        """An entry's value."""
        return self._writes.value(self._prefix + kind + rest)

    def values(self, kind: bytes, rests: Sequence[bytes]) -> list[bytes | None]:
        """Values of many entries, in one question to the store."""
        if len(rests) < state.FEW:
            return [self.value(kind, rest) for rest in rests]
        prefix = self._prefix + kind
        found = self._writes.get_many([prefix + rest for rest in rests])
        return [None if stored is None else stored[32:] for stored in found]

    def rests_with(self, kind: bytes, prefix: bytes) -> list[bytes]:
        """Of the entries of a kind whose keys go on so, the rests of the keys."""
        begin = len(self._prefix) + 1
        return sorted(key[begin:] for key in self._writes.keys_with(self._prefix + kind + prefix))

    def put(self, kind: bytes, rest: bytes, value: Struct | bytes) -> None:
        """Write an entry."""
        self._writes.put(self._prefix + kind + rest, value if isinstance(value, bytes) else _encode(value))

    def put_all(self, kind: bytes, rests: Iterable[bytes], value: bytes) -> None:
        """Write the same value under many."""
        prefix, stored = self._prefix + kind, state.seal(value)
        self._writes.writes.update((prefix + rest, stored) for rest in rests)

    def delete(self, kind: bytes, rest: bytes) -> None:
        """Remove an entry."""
        self._writes.delete(self._prefix + kind + rest)

    def fold(self) -> None:
        """Bring the sums up to what was written."""
        effects, self.head = self._writes.changes(self.head)
        self._added += effects.added
        self._removed += effects.removed
        self._writes.merge_into(self._below)
        self._writes = Layer(self._below)

    def journal(
        self,
        kind: Kind,
        operation: str,
        txid: Txid,
        *,
        manager: str = "",
        origin: Origin | None = None,
        beef: bytes = b"",
    ) -> bytes:
        """Close what was written since the entry before as one journal entry, and move the head (JOURNAL-1)."""
        self.fold()
        entry = JournalEntry(
            context=self.context,
            sequence=self.head.sequence + 1,
            previous=self.head.entry_hash,
            operation=operation,
            kind=kind,
            txid=txid,
            effects=Effects(tuple(self._added), tuple(self._removed)),
            state_root=self.head.state_root,
            store_root=self.head.store_root,
            manager=manager,
            origin=origin,
            time_ms=self.now_ms,
            beef=beef,
        )
        encoded = JOURNAL.encode(entry)
        entry_hash = hashlib.sha256(encoded).digest()
        self.head = Live(entry.sequence, entry_hash, self.head.state_sum, self.head.store_sum)
        self._added, self._removed = [], []
        return encoded


def apply(
    layer: Layer,
    head: Live,
    context: Context,
    operation: Apply,
    managers: Mapping[str, TopicManager],
    now_ms: int,
) -> Change:
    """Judge a payload in a context.

    Raises:
        BadManager: the manager's answer is none.
        Exception: whatever the manager raises; nothing was written then but into `layer`.
    """
    here = Contextual(context, layer, head, now_ms)
    verified = operation.verified
    topic = context.removeprefix(TOPIC)
    manager = managers.get(topic)
    if manager is None:
        return Change(head, said=Verdict("admission.unknown-topic", f"{topic} is not hosted here"))
    txids = [one.txid for one in verified.members]
    for one, buried in zip(verified.members, here.values(state.TOMBSTONE, txids), strict=True):
        if buried is not None:
            tombstone = _tombstone(buried)
            why = f"{display(one.txid)} was refused: {tombstone.message or tombstone.code}"
            return Change(head, said=Verdict("conflict.evicted", why), competing=tombstone.competing)
    if (stored := here.value(state.TX, verified.txid)) is not None:
        return Change(head, said=_repeat(_applied(stored), verified.asked))
    spends = [list(outpoints(member.spends(verified.beef, one))) for one in verified.members]
    if rivals := _rivals(here, verified, spends):
        return _contested(here, operation, rivals)
    return _judge(here, operation, spends, topic, manager)


def _repeat(applied: Applied, asked: Asked) -> Answer | Verdict:
    """A (txid, context) is applied once: a repeat gets the stored answer (APPLY-1)."""
    if applied.off_chain != _digest(asked.off_chain):
        return Verdict("conflict.already-applied", "it was applied with other off-chain values")
    repeat = applied.origin != asked.origin
    return Answer(applied.admittance, applied.sequence, applied.state_root, repeat=repeat, fresh=False)


def _rivals(here: Contextual, verified: Verified, spends: Sequence[Sequence[Outpoint]]) -> dict[Txid, list[Outpoint]]:
    """Known spenders of outpoints that the payload spends too (APPLY-2)."""
    rivals: dict[Txid, list[Outpoint]] = {}
    holders = iter(here.values(state.SPEND, list(chain.from_iterable(spends))))
    for one, points in zip(verified.members, spends, strict=True):
        for spent, holder in zip(points, holders, strict=False):  # the shorter first: no holder is lost between two
            if holder is not None and holder != one.txid:
                rivals.setdefault(holder, []).append(spent)
    return rivals


def _contested(here: Contextual, operation: Apply, rivals: dict[Txid, list[Outpoint]]) -> Change:
    """The first known spender stands while it is not refused; once it is accepted, the later one has lost."""
    competing = tuple(sorted(rivals))
    accepted = [txid for txid in competing if _known(here.value(state.KNOWN, txid) or b"").accepted]
    names = ", ".join(display(txid) for txid in competing[:3])
    if not accepted:
        said = Condition("conflict.undecided", f"spends what {names} spends, which the network has not decided")
        return Change(here.head, said=said, competing=competing)
    verdict = Verdict("conflict.double-spend", f"spends what {names} spends, which the network accepted")
    origin = operation.verified.asked.origin
    noted = False
    for holder in accepted:
        for spent in rivals[holder]:
            noted |= _note_loser(here, spent, origin)
    if not noted:
        return Change(here.head, said=verdict, competing=competing)
    entry = here.journal("dismiss", operation.id, operation.verified.txid, origin=origin)
    return Change(here.head, (entry,), verdict, competing)


def _note_loser(here: Contextual, spent: Outpoint, origin: Origin) -> bool:
    stored = here.value(state.LOSER, spent)
    origins = _losers(stored).origins if stored is not None else ()
    if origin in origins or len(origins) >= LOSERS_KEPT:
        return False
    here.put(state.LOSER, spent, Losers((*origins, origin)))
    return True


def _judge(
    here: Contextual, operation: Apply, spends: Sequence[Sequence[Outpoint]], topic: str, manager: TopicManager
) -> Change:
    """spends: outpoints of each member."""
    verified = operation.verified
    asked = verified.asked
    spent = spends[-1]
    coins = _coins_spent(here, verified.txid, spent)
    raw = member.raw(verified.beef, verified.members[-1])
    subject = Subject(verified.txid, raw, verified.beef, tuple(coins), asked.off_chain)
    admittance = admit(manager, topic, subject)

    # Proven, it is in a block: nobody broadcasts it, and no endpoint's acceptance will follow.
    _make_known(here, verified.members, spends, accepted=verified.proven_height >= 0)
    for index in admittance.coins_to_retain:
        here.put(state.HISTORY, spent[index], Retained(coins[index], verified.txid))
    sequence = here.head.sequence + 1
    admitted = [outpoint(verified.txid, vout) for vout in admittance.outputs_to_admit]
    spenders = here.values(state.SPEND, admitted)
    for vout, point, spender in zip(admittance.outputs_to_admit, admitted, spenders, strict=True):
        coin = Coin(subject.tx.satoshis(vout), subject.tx.locking(vout), sequence)
        if spender is None:
            here.put(state.COIN, point, coin)
        else:
            _consumed_before(here, spender, point, coin)
    here.fold()  # the answer to a repeat holds the state root, which the entry that keeps it does not touch
    here.put(state.TX, verified.txid, _remember(here, asked, sequence, admittance, f"{topic}/{manager.version}"))
    entry = here.journal(
        "apply", operation.id, verified.txid,
        manager=f"{topic}/{manager.version}", origin=asked.origin, beef=verified.beef,
    )  # fmt: skip
    answer = Answer(admittance, sequence, here.head.state_root, repeat=False, fresh=True)
    return Change(here.head, (entry,), answer)


def _remember(here: Contextual, asked: Asked, sequence: int, admittance: Admittance, manager: str) -> Applied:
    return Applied(
        sequence=sequence,
        state_root=here.head.state_root,
        origin=asked.origin,
        request_id=asked.request_id,
        contexts=len(asked.contexts),
        off_chain=_digest(asked.off_chain),
        admittance=admittance,
        manager=manager,
    )


def _coins_spent(here: Contextual, txid: Txid, spent: Sequence[Outpoint]) -> dict[int, Coin]:
    """Coins of this context by input of the subject: live ones, and those it spends since it came as an ancestor."""
    stored = here.value(state.KNOWN, txid)
    before = dict(_known(stored).consumed) if stored is not None else {}
    found: dict[int, Coin] = {}
    for index, (point, live) in enumerate(zip(spent, here.values(state.COIN, spent), strict=True)):
        if live is not None:
            found[index] = _coin(live)
        elif point in before:
            found[index] = before[point]
    return found


def _consumed_before(here: Contextual, spender: Txid, point: Outpoint, coin: Coin) -> None:
    """A child that came first spends the coin already: it has it to give back."""
    known = _known(here.value(state.KNOWN, spender) or b"")
    coins = {**dict(known.consumed), point: coin}
    consumed = tuple((spent, coins[spent]) for spent in outpoints(known.spends) if spent in coins)
    here.put(state.KNOWN, spender, msgspec.structs.replace(known, consumed=consumed))


def _make_known(
    here: Contextual, members: Sequence[Member], spends: Sequence[Sequence[Outpoint]], *, accepted: bool
) -> None:
    """Their spends count from here on: coins they spend are no longer live. No two of them spend the same."""
    fresh: list[tuple[Member, Sequence[Outpoint]]] = []
    known = here.values(state.KNOWN, [one.txid for one in members])
    for one, points, stored in zip(members, spends, known, strict=True):
        if stored is None:
            fresh.append((one, points))
        elif accepted and not _known(stored).accepted:
            here.put(state.KNOWN, one.txid, msgspec.structs.replace(_known(stored), accepted=True))
    coins = iter(here.values(state.COIN, [spent for _, points in fresh for spent in points]))
    for one, points in fresh:
        consumed = []
        for spent, coin in zip(points, coins, strict=False):  # the shorter first: no coin is lost between two
            if coin is not None:
                consumed.append((spent, _coin(coin)))
                here.delete(state.COIN, spent)
        here.put_all(state.SPEND, points, one.txid)
        here.put(state.KNOWN, one.txid, Known(b"".join(points), one.outputs, tuple(consumed), accepted))


def accept(layer: Layer, head: Live, context: Context, operation: Accept, now_ms: int) -> Change:
    """The network took transactions: who competes with one of them has lost from here on."""
    here = Contextual(context, layer, head, now_ms)
    entries = []
    for txid in operation.txids:
        stored = here.value(state.KNOWN, txid)
        if stored is None or _known(stored).accepted:
            continue
        here.put(state.KNOWN, txid, msgspec.structs.replace(_known(stored), accepted=True))
        entries.append(here.journal("accept", operation.id, txid))
    return Change(here.head, tuple(entries))


def evict(layer: Layer, head: Live, context: Context, operation: Evict, now_ms: int) -> Change:
    """The network refused a transaction: it and its descendants leave, leaves first; coins they spent return."""
    here = Contextual(context, layer, head, now_ms)
    if here.value(state.TOMBSTONE, operation.txid) is not None:
        return Change(head)
    if here.value(state.KNOWN, operation.txid) is None:
        return Change(head)
    gone: list[Evicted] = []
    entries: list[bytes] = []
    for txid in _leaves_first(here, operation.txid):
        applied = _undo(here, txid)
        if txid == operation.txid:
            stone = Tombstone(operation.code, operation.message, operation.competing, b"")
            here.put(state.TOMBSTONE, txid, stone)
        entries.append(here.journal("evict", operation.id, txid))
        gone.append(Evicted(txid, applied, here.head.sequence, here.head.state_root))
    return Change(here.head, tuple(entries), competing=operation.competing, evicted=tuple(gone))


def _leaves_first(here: Contextual, root: Txid) -> list[Txid]:
    """The transaction and its known descendants, every child before its parents."""
    order: list[Txid] = []
    state_of: dict[Txid, bool] = {}  # False: children pending, True: placed
    stack = [root]
    while stack:
        txid = stack[-1]
        if txid in state_of:
            stack.pop()
            if not state_of[txid]:
                state_of[txid] = True
                order.append(txid)
            continue
        state_of[txid] = False
        stack += [child for child in _children(here, txid) if child not in state_of]
    return order


def _children(here: Contextual, txid: Txid) -> list[Txid]:
    """Known transactions that spend an output of a known one."""
    outputs = _known(here.value(state.KNOWN, txid) or b"").outputs
    if outputs <= ASKED_ONE_BY_ONE:
        points = [outpoint(txid, vout) for vout in range(outputs)]
    else:
        points = here.rests_with(state.SPEND, txid)
    return [child for child in here.values(state.SPEND, points) if child is not None]


def _undo(here: Contextual, txid: Txid) -> Applied | None:
    stored = here.value(state.KNOWN, txid)
    assert stored is not None  # only known transactions have a place in the order
    known = _known(stored)
    judged = here.value(state.TX, txid)
    applied = _applied(judged) if judged is not None else None
    if applied is not None:
        for vout in applied.admittance.outputs_to_admit:
            here.delete(state.COIN, outpoint(txid, vout))
        here.delete(state.TX, txid)
    spends = list(outpoints(known.spends))
    for spent, kept in zip(spends, here.values(state.HISTORY, spends), strict=True):
        here.delete(state.SPEND, spent)
        if kept is not None:
            here.delete(state.HISTORY, spent)
    for spent, coin in known.consumed:
        here.put(state.COIN, spent, coin)
    here.delete(state.KNOWN, txid)
    return applied


def _digest(values: bytes) -> bytes:
    return hashlib.sha256(values).digest() if values else b""
