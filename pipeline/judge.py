"""What a topic's manager says of a transaction, and again when what it was asked about changes (APPLY-3)."""

from collections import deque
from collections.abc import Callable, Sequence

import msgspec
from msgspec import Struct

from pipeline import listing, state, waiting
from pipeline.codec.tx import Tx, read_tx
from pipeline.contextual import Change, Contextual, Revised
from pipeline.overlay.manager import Subject, TopicManager, admit, facts_of, up_to_date
from schemas.external import Admittance
from schemas.state import Applied, Known, Rejudge, Submission
from schemas.types import Outpoint, Txid, outpoint, outpoints

_applied = msgspec.msgpack.Decoder(Applied).decode
_known = msgspec.msgpack.Decoder(Known).decode


def never() -> bool:
    """Nobody looks at a clock."""
    return False


class Rule(Struct, frozen=True):
    """Who judges in a context."""

    topic: str
    manager: TopicManager
    enough: Callable[[], bool] = never  # whether judging has taken so long that the rest goes into the queue

    @property
    def name(self) -> str:
        """As the journal names it."""
        return f"{self.topic}/{self.manager.version}"

    def examined(self, txid: Txid, submission: Submission) -> Submission:
        """What a judgement is to be made of: with facts of the manager as it is now."""
        return up_to_date(self.manager, self.topic, txid, submission)


def previous_coins(here: Contextual, spends: Sequence[Outpoint]) -> tuple[int, ...]:
    """Inputs that spend what was admitted here, ascending."""
    asked = here.made_here(spends)
    admitted = {point for point, there in zip(asked, here.is_there(state.ADMITTED, asked), strict=True) if there}
    return tuple([vin for vin, point in enumerate(spends) if point in admitted]) if admitted else ()


def ask(
    here: Contextual,
    rule: Rule,
    txid: Txid,
    submission: Submission,
    spends: Sequence[Outpoint],
    previous: tuple[int, ...],
) -> Admittance:
    """What the manager says; nothing is written. Raises as `admit`.

    submission: as for `judge`; previous: see `previous_coins`.
    """
    sources = _with_coins(here, submission.sources, spends, previous)
    facts = facts_of(rule.manager, submission)
    subject = Subject(txid, submission.raw, sources, previous, submission.off_chain, facts)
    return admit(rule.manager, rule.topic, subject)


def judge(
    here: Contextual,
    rule: Rule,
    txid: Txid,
    submission: Submission,
    spends: Sequence[Outpoint],
    before: Admittance,
    said: Admittance | None = None,
) -> tuple[Admittance, list[Txid]]:
    """Ask the manager, and write what its answer changes of the one `before`.

    submission: with the facts of the manager's own version, where it examines (`examined`).
    said: what it answered already, about the same.

    Returns the answer, and which known transactions spend an output that entered or left.
    """
    if said is None:
        said = ask(here, rule, txid, submission, spends, previous_coins(here, spends))
    come = set(said.outputs_to_admit).difference(before.outputs_to_admit)
    gone = set(before.outputs_to_admit).difference(said.outputs_to_admit)
    changed = [outpoint(txid, vout) for vout in sorted(come | gone)]
    spenders = here.values(state.SPEND, changed)
    free = [point for point, spender in zip(changed, spenders, strict=True) if spender is None]
    left = {outpoint(txid, vout) for vout in gone}
    listing.enter(here, [point for point in free if point not in left])
    listing.leave(here, [point for point in free if point in left])
    here.put_all(state.ADMITTED, [point for point in changed if point not in left], b"")
    here.delete_all(state.ADMITTED, [point for point in changed if point in left])
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


def judge_again(here: Contextual, rule: Rule, operation: str, txids: Sequence[Txid]) -> Change:
    """Judge these again, and whom that affects in turn; what one transaction cannot hold is queued (APPLY-3, TXN-5).

    That is what comes after `STEPS` judgements, `BYTES`, or the first judgement that found `rule.enough`.

    One that is judged before another it depends on comes up once more: what is reached in the end does not depend on
    the order, since a transaction never descends from itself.
    """
    steps = waiting.STEPS
    unchanged = 0  # bytes that were read for nothing: they lie in memory like those that are written
    left = deque(txids)
    listed = set(txids)
    entries: list[bytes] = []
    revised: dict[Txid, Applied] = {}
    while left and steps and (steps == waiting.STEPS or here.written + unchanged < waiting.BYTES):
        txid = left.popleft()
        listed.discard(txid)
        if (stored := here.value(state.TX, txid)) is None:
            continue  # known, and nobody submitted it
        steps = 0 if rule.enough() else steps - 1
        applied = _applied(stored)
        spends = list(outpoints(_known(here.value(state.KNOWN, txid) or b"").spends))
        submission = rule.examined(txid, applied.submission)
        said, affected = judge(here, rule, txid, submission, spends, applied.admittance)
        if said == applied.admittance:
            unchanged += len(stored)
            continue
        here.fold()
        applied = msgspec.structs.replace(
            applied,
            sequence=here.head.sequence + 1,
            state_root=here.head.state_root,
            admittance=said,
            manager=rule.name,
            submission=submission,
        )
        here.put(state.TX, txid, applied)
        entries.append(here.journal("rejudge", operation, txid, manager=rule.name, origin=applied.origin))
        revised[txid] = applied
        left += [other for other in affected if other not in listed]
        listed.update(affected)
    if left:
        entries.append(waiting.enqueue(here, [Rejudge(operation, piece) for piece in waiting.pieces(left)], operation))
    again = tuple(map(Revised, revised, revised.values()))
    return Change(here.head, tuple(entries), revised=again, settling=bool(left))
