"""What is undecided in a context: locks of prepared operations, and what waits for their decision (ATOMIC-1).

A prepared operation shows nothing. Its locks keep what it was judged by as it is: nobody else spends what it spends,
and what concerns it waits in the state, bounded, holding nothing, to go on in the transaction that decides.
"""

from collections.abc import Sequence
from itertools import chain, islice
from typing import Literal

import msgspec

from pipeline import locks, state
from pipeline.contextual import Change, Contextual
from pipeline.evict import LEFT_TXID, leaves_first
from pipeline.outcome import Condition
from pipeline.state import View
from schemas.flow import Asked, Operation, Prepare, Verified
from schemas.state import Behind, Departed, Holds, Known, Prepared, Stood, Waiter
from schemas.types import Context, Outpoint, Txid, display, outpoint, outpoints

WAITERS = 256
"""That wait in one context at most. More come back by way of a retry tier."""

WAITING_BYTES = 16 << 20
"""Of those together."""


def nowhere() -> Stood:
    """Of what no topic holds."""
    return Stood()


How = Literal["rival", "same", "child", "parent"]
"""It spends the same, is the same transaction, descends from the prepared one, or is what that one descends from."""

_behind = msgspec.msgpack.Decoder(Behind).decode
_departed = msgspec.msgpack.Decoder(Departed).decode
_holds = msgspec.msgpack.Decoder(Holds).decode
_NOTHING = Holds()

_known = msgspec.msgpack.Decoder(Known).decode
_waiter = msgspec.msgpack.Decoder(Waiter).decode


def age(asked: Asked) -> tuple[int, str, int, int]:
    """Older operations come first: by the broker's time of the first ingest, then by the coordinate."""
    origin = asked.origin
    return origin.timestamp_ms, origin.topic, origin.partition, origin.offset


def any_here(here: Contextual) -> bool:
    """Whether anything is undecided: where nothing is, this is all that it costs."""
    return here.value(state.HOLDS, b"") is not None


def here_are(here: Contextual) -> Holds:
    """How many are prepared, and wait."""
    if here.holds is None:
        stored = here.value(state.HOLDS, b"")
        here.holds = _NOTHING if stored is None else _holds(stored)
    return here.holds


def votes_in(view: View, context: Context) -> bool:
    """Whether a context has voted on operations that nobody has decided as far as it knows."""
    stored = view.get(state.key(context, state.HOLDS, b""))
    return stored is not None and _holds(stored[32:]).prepared > 0


def prepared(here: Contextual, operation: bytes) -> Prepared | None:
    """What is prepared, or held for its next attempt."""
    stored = here.value(state.PREPARED, operation)
    return None if stored is None else locks.read_prepared(stored)


# --- who meets them


def met(
    here: Contextual, verified: Verified, spends: Sequence[Sequence[Outpoint]], own: bytes = b""
) -> dict[bytes, How]:
    """Prepared operations that a payload has to do with, and how; but for the one it is part of itself.

    spends: outpoints of each member. One that several ways lead to is told by the first of `How`.
    """
    found: dict[bytes, How] = {}
    points = list(chain.from_iterable(spends))
    subject = verified.members[-1]
    made = [outpoint(verified.txid, vout) for vout in range(subject.outputs)]
    held = iter(here.values(state.LOCK, [*made, *points]))
    for stored in islice(held, len(made)):
        if stored is not None:
            found |= dict.fromkeys(locks.by(stored), "parent")
    txids = list(dict.fromkeys((*(one.txid for one in verified.members), *(point[:32] for point in points))))
    for txid, by in zip(txids, here.values(state.SUBJECT, txids), strict=True):
        if by is not None:
            found[by] = "same" if txid == verified.txid else "child"
    spenders = chain.from_iterable((one.txid,) * len(of) for one, of in zip(verified.members, spends, strict=True))
    for spender, stored in zip(spenders, held, strict=True):
        if stored is not None and locks.spender(stored) != spender:
            found |= dict.fromkeys(locks.by(stored), "rival")
    found.pop(own, None)
    return found


def met_leaving(here: Contextual, root: Txid) -> set[bytes]:
    """Prepared operations that are about a transaction, or about what leaves with it when it is refused."""
    found = set()
    if (subject := here.value(state.SUBJECT, root)) is not None:
        found.add(subject)
    if (stored := here.value(state.KNOWN, root)) is None:
        return found
    for lock in _locks(here, list(outpoints(_known(stored).spends))):
        found |= set(locks.by(lock)) if locks.spender(lock) == root else set()
    for txid in leaves_first(here, root):
        outputs = _known(here.value(state.KNOWN, txid) or b"").outputs
        for lock in _locks(here, [outpoint(txid, vout) for vout in range(outputs)]):
            found |= set(locks.by(lock))
    return found


def met_returning(here: Contextual, root: Txid) -> set[bytes]:
    """Prepared operations whose locks are on what comes back when a transaction was taken after all."""
    found: set[bytes] = set()
    for rest in here.rests_with(state.LEFT, root):
        if (stored := here.value(state.DEPARTED, rest[LEFT_TXID:])) is None:
            continue
        known = _departed(stored).known
        made = [outpoint(rest[LEFT_TXID:], vout) for vout in range(known.outputs)]
        for lock in _locks(here, [*outpoints(known.spends), *made]):
            found |= set(locks.by(lock))
    return found


def _locks(here: Contextual, points: Sequence[Outpoint]) -> list[bytes]:
    return [stored for stored in here.values(state.LOCK, points) if stored is not None]


# --- locks


def lock(here: Contextual, operation: bytes, held: Prepared, spends: Sequence[Sequence[Outpoint]]) -> None:
    """It agreed: from here on nobody else spends what it spends."""
    verified = held.operation.apply.verified
    here.put(state.PREPARED, operation, held)
    here.put(state.SUBJECT, verified.txid, operation)
    wanted = list(locks.wanted(verified, spends))
    found = here.values(state.LOCK, [point for point, _ in wanted])
    for (point, spender), stored in zip(wanted, found, strict=True):
        here.put(state.LOCK, point, locks.taken(stored, spender, operation))
    _count(here, prepared=1)


def hold(here: Contextual, operation: bytes, held: Prepared) -> None:
    """It did not agree, and the next attempt is made from here."""
    here.put(state.PREPARED, operation, held)
    _count(here, prepared=1)


def release(
    here: Contextual, operation: bytes, held: Prepared, spends: Sequence[Sequence[Outpoint]]
) -> tuple[tuple[Operation, Stood], ...]:
    """It is prepared no longer; what waited for it, in order of arrival."""
    here.delete(state.PREPARED, operation)
    if not held.does:
        _count(here, prepared=-1)
        return ()
    verified = held.operation.apply.verified
    here.delete(state.SUBJECT, verified.txid)
    wanted = list(locks.wanted(verified, spends))
    found = here.values(state.LOCK, [point for point, _ in wanted])
    for (point, spender), stored in zip(wanted, found, strict=True):
        if left := locks.given_back(stored or b"", spender, operation):
            here.put(state.LOCK, point, left)
        else:
            here.delete(state.LOCK, point)
    waiters = []
    if here_are(here).waiters and (stored := here.value(state.BEHIND, operation)) is not None:
        here.delete(state.BEHIND, operation)
        waiters = [_take(here, number) for number in _behind(stored).numbers]
    _count(here, prepared=-1, waiters=-len(waiters), size=-sum(waiter.size for waiter in waiters))
    return tuple((waiter.operation, waiter.stood) for waiter in waiters)


# --- waiting


def wait(here: Contextual, behind: bytes, operation: Operation, txid: Txid, stood: Stood, own: bytes = b"") -> Change:
    """Wait for an operation's decision; a condition where too much waits here already.

    txid: for the journal; own: the operation it is part of itself.
    """
    holds = here_are(here)
    size = len(state.encode(operation))
    if holds.waiters >= WAITERS or (holds.waiters and holds.size + size > WAITING_BYTES):
        why = f"{display(txid)} has to do with an operation that is undecided, and {holds.waiters} wait already"
        return Change(here.head, said=Condition("conflict.undecided", why))
    sequence = here.head.sequence + 1  # of the entry that says so
    number = _name(sequence)
    here.put(state.WAITER, number, Waiter(behind, own, size, operation, stood))
    if own:
        here.put(state.OWN, own, number)
    stored = here.value(state.BEHIND, behind)
    numbers = _behind(stored).numbers if stored is not None else ()
    here.put(state.BEHIND, behind, Behind((*numbers, sequence)))
    _count(here, waiters=1, size=size)
    name = operation.operation if isinstance(operation, Prepare) else operation.id  # type: ignore[union-attr] # no Decide waits
    entry = here.journal("wait", name, txid)
    return Change(here.head, (entry,), waits=True)


def waiting(here: Contextual, own: bytes) -> Waiter | None:
    """The part of an operation that waits here itself."""
    number = here.value(state.OWN, own)
    return None if number is None else _waiter(here.value(state.WAITER, number) or b"")


def withdraw(here: Contextual, own: bytes) -> None:
    """It waits no longer."""
    number = here.value(state.OWN, own) or b""
    waiter = _take(here, int.from_bytes(number, "big"))
    left = tuple(
        each for each in _behind(here.value(state.BEHIND, waiter.behind) or b"").numbers if _name(each) != number
    )
    if left:
        here.put(state.BEHIND, waiter.behind, Behind(left))
    else:
        here.delete(state.BEHIND, waiter.behind)
    _count(here, waiters=-1, size=-waiter.size)


def _take(here: Contextual, number: int) -> Waiter:
    name = _name(number)
    waiter = _waiter(here.value(state.WAITER, name) or b"")
    here.delete(state.WAITER, name)
    if waiter.own:
        here.delete(state.OWN, waiter.own)
    return waiter


def _count(here: Contextual, prepared: int = 0, waiters: int = 0, size: int = 0) -> None:
    holds = locks.counted(here_are(here), prepared, waiters, size)
    here.holds = holds or _NOTHING
    if holds is None:
        here.delete(state.HOLDS, b"")
    else:
        here.put(state.HOLDS, b"", holds)


def _name(number: int) -> bytes:
    return number.to_bytes(8, "big")
