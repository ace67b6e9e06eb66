"""An operation on one context: all its effects, or none (APPLY-1, APPLY-2, APPLY-3, JOURNAL-1).

The state of a context follows from the set of transactions it knows (`derive.py` says how, in the plainest way); here
it is reached by steps. What comes late and changes what an earlier judgement was about has that one judged again. Work
beyond `STEPS` a transaction of Kafka's is put into a queue, which is state, and goes on in the next (`settle`).

Reads come from the layers below, writes go into the layer given; the caller merges it, or drops it, and nothing
happened. Sources: BRC-22 and the reference overlay engine's semantics, without its faults.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain

import msgspec
from msgspec import Struct

from pipeline import member, state
from pipeline.codec.tx import Tx, read_tx
from pipeline.outcome import Condition, Verdict
from pipeline.overlay.manager import BadManager, Subject, TopicManager, admit
from pipeline.state import Layer, Live
from schemas.external import Admittance
from schemas.flow import Accept, Apply, Asked, Evict, Member, Origin, Verified
from schemas.journal import JOURNAL, Effects, JournalEntry, Kind
from schemas.state import Applied, Known, Leave, Losers, Queue, Rejudge, Submission, Tombstone, Waiting
from schemas.types import Context, Outpoint, Txid, display, outpoint, outpoints

TOPIC = "topic:"

STEPS = 1_000
"""Judgements and departures that one transaction of Kafka's takes: half a second of an ordinary manager's."""

LOSERS_KEPT = 8
"""Coordinates kept with an outpoint: who comes back when its holder is evicted."""

ASKED_ONE_BY_ONE = 1_000
"""Outputs whose spenders are asked for each. Of 900,000 few are spent, and the store holds those in order."""

_applied = msgspec.msgpack.Decoder(Applied).decode
_known = msgspec.msgpack.Decoder(Known).decode
_losers = msgspec.msgpack.Decoder(Losers).decode
_queue = msgspec.msgpack.Decoder(Queue).decode
_tombstone = msgspec.msgpack.Decoder(Tombstone).decode
_waiting: Callable[[bytes], Waiting] = msgspec.msgpack.Decoder(Waiting).decode
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
    stone: Tombstone  # of the one that was refused, which it descends from or is
    applied: Applied | None  # None: it was an ancestor that nobody submitted
    sequence: int
    state_root: bytes


class Revised(Struct, frozen=True):
    """A transaction that was judged again, and otherwise."""

    txid: Txid
    applied: Applied


class Change(Struct, frozen=True):
    """What an operation did to its context."""

    head: Live
    entries: tuple[bytes, ...] = ()  # journal entries, encoded
    said: Answer | Verdict | Condition | None = None  # to whoever asked
    competing: tuple[Txid, ...] = ()
    evicted: tuple[Evicted, ...] = ()
    revised: tuple[Revised, ...] = ()
    settling: bool = False  # work was put into the queue: `settle` comes before the context's next operation


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

    def is_there(self, kind: bytes, rests: Sequence[bytes]) -> list[bool]:
        """Whether there are entries, in one question to the store."""
        return [value is not None for value in self.values(kind, rests)]

    def put_all(self, kind: bytes, rests: Iterable[bytes], value: bytes) -> None:
        """Write the same value under many."""
        prefix, stored = self._prefix + kind, state.seal(value)
        self._writes.writes.update((prefix + rest, stored) for rest in rests)

    def delete(self, kind: bytes, rest: bytes) -> None:
        """Remove an entry."""
        self._writes.delete(self._prefix + kind + rest)

    def delete_all(self, kind: bytes, rests: Sequence[bytes]) -> None:
        """Remove those of the entries that are there: a removal of nothing would stand in the changelog too."""
        for rest, there in zip(rests, self.is_there(kind, rests), strict=True):
            if there:
                self.delete(kind, rest)

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
    return _submit(here, operation, spends, Rule(topic, manager))


def _repeat(applied: Applied, asked: Asked) -> Answer | Verdict:
    """A (txid, context) is applied once: a repeat gets the stored answer (APPLY-1)."""
    if applied.submission.off_chain != asked.off_chain:
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
    accepted = [txid for txid, taken in zip(competing, here.is_there(state.ACCEPTED, competing), strict=True) if taken]
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


class Rule(Struct, frozen=True):
    """Who judges in a context."""

    topic: str
    manager: TopicManager

    @property
    def name(self) -> str:
        """As the journal names it."""
        return f"{self.topic}/{self.manager.version}"


def _submit(here: Contextual, operation: Apply, spends: Sequence[Sequence[Outpoint]], rule: Rule) -> Change:
    """Judge a transaction for the first time, and again those that spend what it admits.

    spends: outpoints of each member.
    """
    verified = operation.verified
    asked, subject = verified.asked, verified.members[-1]
    # Proven, it is in a block: nobody broadcasts it, and no endpoint's acceptance will follow.
    _make_known(here, verified.members, spends, accepted=verified.proven_height >= 0)
    sources = member.sources(verified.beef, subject)
    submission = Submission(member.raw(verified.beef, subject), sources, asked.off_chain)
    admittance, affected = _judge(here, rule, verified.txid, submission, spends[-1], Admittance())
    here.fold()  # the answer to a repeat holds the state root, which the entry that keeps it does not touch
    sequence = here.head.sequence + 1
    applied = Applied(
        sequence=sequence,
        state_root=here.head.state_root,
        origin=asked.origin,
        request_id=asked.request_id,
        contexts=len(asked.contexts),
        admittance=admittance,
        manager=rule.name,
        submission=submission,
    )
    here.put(state.TX, verified.txid, applied)
    entry = here.journal(
        "apply", operation.id, verified.txid, manager=rule.name, origin=asked.origin, beef=verified.beef
    )
    answer = Answer(admittance, sequence, applied.state_root, repeat=False, fresh=True)
    again = _judge_again(here, rule, operation.id, affected, STEPS)
    return msgspec.structs.replace(again, entries=(entry, *again.entries), said=answer)


def _judge(
    here: Contextual, rule: Rule, txid: Txid, submission: Submission, spends: Sequence[Outpoint], before: Admittance
) -> tuple[Admittance, list[Txid]]:
    """Ask the manager, and write what its answer changes of the one `before`.

    Returns the answer, and which known transactions spend an output that entered or left.
    """
    previous = tuple([vin for vin, there in enumerate(here.is_there(state.ADMITTED, spends)) if there])
    sources = _with_coins(here, submission.sources, spends, previous)
    subject = Subject(txid, submission.raw, sources, previous, submission.off_chain)
    said = admit(rule.manager, rule.topic, subject)
    come = set(said.outputs_to_admit).difference(before.outputs_to_admit)
    gone = set(before.outputs_to_admit).difference(said.outputs_to_admit)
    changed = [outpoint(txid, vout) for vout in sorted(come | gone)]
    spenders = here.values(state.SPEND, changed)
    free = [point for point, spender in zip(changed, spenders, strict=True) if spender is None]
    left = {outpoint(txid, vout) for vout in gone}
    for kind, points in ((state.COIN, free), (state.ADMITTED, changed)):
        here.put_all(kind, [point for point in points if point not in left], b"")
        here.delete_all(kind, [point for point in points if point in left])
    kept = set(said.coins_to_retain)
    here.delete_all(state.HISTORY, [spends[vin] for vin in before.coins_to_retain if vin not in kept])
    here.put_all(state.HISTORY, [spends[vin] for vin in kept.difference(before.coins_to_retain)], txid)
    return said, list(dict.fromkeys(spender for spender in spenders if spender is not None))


def _with_coins(
    here: Contextual, sources: Sequence[bytes], spends: Sequence[Outpoint], previous: Sequence[int]
) -> Sequence[bytes]:
    """What the inputs spend. A payload with a proven subject need not hold it; coins of this context are known."""
    lacking = [vin for vin in previous if not sources[vin]]
    if not lacking:
        return sources
    filled = list(sources)
    made: dict[Txid, Tx] = {}
    for vin in lacking:
        parent = spends[vin][:32]
        if parent not in made:
            made[parent] = read_tx(_applied(here.value(state.TX, parent) or b"").submission.raw)
        filled[vin] = made[parent].output(int.from_bytes(spends[vin][32:], "little"))
    return filled


def _judge_again(here: Contextual, rule: Rule, operation: str, txids: Sequence[Txid], steps: int) -> Change:
    """Judge these again, and whom that affects in turn; beyond `steps` judgements the rest is queued (APPLY-3).

    One that is judged before another it depends on comes up once more: what is reached in the end does not depend on
    the order, since a transaction never descends from itself.
    """
    waiting = deque(txids)
    listed = set(txids)
    entries: list[bytes] = []
    revised: dict[Txid, Applied] = {}
    while waiting and steps:
        txid = waiting.popleft()
        listed.discard(txid)
        if (stored := here.value(state.TX, txid)) is None:
            continue  # known, and nobody submitted it
        steps -= 1
        applied = _applied(stored)
        spends = list(outpoints(_known(here.value(state.KNOWN, txid) or b"").spends))
        said, affected = _judge(here, rule, txid, applied.submission, spends, applied.admittance)
        if said == applied.admittance:
            continue
        here.fold()
        applied = msgspec.structs.replace(
            applied,
            sequence=here.head.sequence + 1,
            state_root=here.head.state_root,
            admittance=said,
            manager=rule.name,
        )
        here.put(state.TX, txid, applied)
        entries.append(here.journal("rejudge", operation, txid, manager=rule.name, origin=applied.origin))
        revised[txid] = applied
        waiting += [other for other in affected if other not in listed]
        listed.update(affected)
    if waiting:
        entries.append(_enqueue(here, [Rejudge(operation, piece) for piece in _pieces(waiting)], operation))
    again = tuple(map(Revised, revised, revised.values()))
    return Change(here.head, tuple(entries), revised=again, settling=bool(waiting))


# --- work that one transaction cannot hold


def _queued(here: Contextual) -> Queue:
    stored = here.value(state.QUEUE, b"")
    return Queue(0, 0) if stored is None else _queue(stored)


def _pieces(txids: Iterable[Txid]) -> list[tuple[Txid, ...]]:
    listed = tuple(txids)
    return [listed[at : at + STEPS] for at in range(0, len(listed), STEPS)]


def _enqueue(here: Contextual, work: Sequence[Waiting], operation: str) -> bytes:
    """Put work at the queue's end, and say so in the journal."""
    queue = _queued(here)
    for number, each in enumerate(work, queue.next):
        here.put(state.QUEUE, number.to_bytes(8, "big"), each)
    here.put(state.QUEUE, b"", Queue(queue.first, queue.next + len(work)))
    return here.journal("wait", operation, work[0].txids[0])


def settle(layer: Layer, head: Live, context: Context, managers: Mapping[str, TopicManager], now_ms: int) -> Change:
    """The next piece of what a context's queue holds; nothing where it is empty.

    Raises:
        BadManager: the manager's answer is none, or the topic is no longer hosted.
        Exception: whatever the manager raises; nothing was written then but into `layer`.
    """
    here = Contextual(context, layer, head, now_ms)
    queue = _queued(here)
    if queue.first == queue.next:
        return Change(head)
    name = queue.first.to_bytes(8, "big")
    work = _waiting(here.value(state.QUEUE, name) or b"")
    here.delete(state.QUEUE, name)
    if queue.first + 1 == queue.next:
        here.delete(state.QUEUE, b"")
    else:
        here.put(state.QUEUE, b"", Queue(queue.first + 1, queue.next))
    opening = here.journal("wait", work.operation, work.txids[0])
    if isinstance(work, Leave):
        change = _leave(here, work)
    else:
        topic = context.removeprefix(TOPIC)
        if topic not in managers:
            raise BadManager(f"{topic} is not hosted here, and transactions of it wait to be judged again")
        change = _judge_again(here, Rule(topic, managers[topic]), work.operation, work.txids, STEPS)
    settling = here.value(state.QUEUE, b"") is not None
    return msgspec.structs.replace(change, entries=(opening, *change.entries), settling=settling)


def _make_known(
    here: Contextual, members: Sequence[Member], spends: Sequence[Sequence[Outpoint]], *, accepted: bool
) -> None:
    """Their spends count from here on: coins they spend are no longer live. No two of them spend the same."""
    txids = [one.txid for one in members]
    for one, points, known in zip(members, spends, here.is_there(state.KNOWN, txids), strict=True):
        if not known:
            here.delete_all(state.COIN, points)
            here.put_all(state.SPEND, points, one.txid)
            here.put(state.KNOWN, one.txid, Known(b"".join(points), one.outputs))
    if accepted:
        here.put_all(state.ACCEPTED, txids, b"")


def accept(layer: Layer, head: Live, context: Context, operation: Accept, now_ms: int) -> Change:
    """The network took transactions: who competes with one of them has lost from here on."""
    here = Contextual(context, layer, head, now_ms)
    entries = []
    txids = list(dict.fromkeys(operation.txids))
    known, before = here.is_there(state.KNOWN, txids), here.is_there(state.ACCEPTED, txids)
    for txid, is_known, was_accepted in zip(txids, known, before, strict=True):
        if is_known and not was_accepted:
            here.put(state.ACCEPTED, txid, b"")
            entries.append(here.journal("accept", operation.id, txid))
    return Change(here.head, tuple(entries))


def evict(layer: Layer, head: Live, context: Context, operation: Evict, now_ms: int) -> Change:
    """The network refused a transaction: it and its descendants leave, leaves first; coins they spent return.

    The tombstone comes first: while descendants wait in the queue, nobody brings the transaction back.
    """
    here = Contextual(context, layer, head, now_ms)
    if here.value(state.TOMBSTONE, operation.txid) is not None:
        return Change(head)
    if here.value(state.KNOWN, operation.txid) is None:
        return Change(head)
    here.put(state.TOMBSTONE, operation.txid, Tombstone(operation.code, operation.message, operation.competing, b""))
    order = _leaves_first(here, operation.txid)
    pieces = [Leave(operation.id, operation.txid, piece) for piece in _pieces(order)]
    change = _leave(here, pieces[0])
    if len(pieces) == 1:
        return change
    waits = _enqueue(here, pieces[1:], operation.id)
    return msgspec.structs.replace(change, head=here.head, entries=(*change.entries, waits), settling=True)


def _leave(here: Contextual, work: Leave) -> Change:
    stone = _tombstone(here.value(state.TOMBSTONE, work.root) or b"")
    gone: list[Evicted] = []
    entries: list[bytes] = []
    for txid in work.txids:
        applied = _undo(here, txid)
        entries.append(here.journal("evict", work.operation, txid))
        gone.append(Evicted(txid, stone, applied, here.head.sequence, here.head.state_root))
    return Change(here.head, tuple(entries), competing=stone.competing, evicted=tuple(gone))


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
    """Take a transaction none of whose descendants is known out of the context; the coins it spent return."""
    stored = here.value(state.KNOWN, txid)
    assert stored is not None  # only known transactions have a place in the order
    judged = here.value(state.TX, txid)
    applied = _applied(judged) if judged is not None else None
    spends = list(outpoints(_known(stored).spends))
    if applied is not None:
        admitted = [outpoint(txid, vout) for vout in applied.admittance.outputs_to_admit]
        here.delete_all(state.COIN, admitted)
        here.delete_all(state.ADMITTED, admitted)
        here.delete_all(state.HISTORY, [spends[vin] for vin in applied.admittance.coins_to_retain])
        here.delete(state.TX, txid)
    here.delete_all(state.SPEND, spends)
    returned = [point for point, there in zip(spends, here.is_there(state.ADMITTED, spends), strict=True) if there]
    here.put_all(state.COIN, returned, b"")
    here.delete(state.KNOWN, txid)
    here.delete_all(state.ACCEPTED, [txid])
    return applied
