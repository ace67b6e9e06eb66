"""Applying: one context against a model that keeps the set of known transactions and derives all else from it."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import apply as rules
from pipeline import lthash, state, waiting
from pipeline.codec.tx import Tx, read_tx
from pipeline.contextual import Answer, Change, Contextual
from pipeline.derive import Derived, derive
from pipeline.evict import FIRST_PLACE
from pipeline.judge import Rule, judge_again
from pipeline.outcome import BY_CODE, Condition, Verdict
from pipeline.overlay.manager import BadManager
from pipeline.state import IN_STATE_ROOT, Layer, Memory, head_of, is_index
from schemas.external import Admittance
from schemas.flow import Accept, Apply, Evict, Operation, Origin, Readmit
from schemas.journal import JOURNAL, JournalEntry
from schemas.state import Applied, Contested, Departed, Known, Losers, Submission, Tombstone
from schemas.types import Context, Outpoint, Txid, display, outpoint
from tests import builders
from tests.fakes import MANAGERS, NOW_MS, Owner, apply_of, coin_of_others, decide, made_tx, origin_at, verified
from tests.profiles import CHEAP, much

ALL, KEEP, ODD, PICKY, WEIGHS = (f"topic:tm_{name}" for name in ("all", "keep", "odd", "picky", "weighs"))

KINDS: dict[bytes, Any] = {
    state.TX: Applied, state.KNOWN: Known, state.TOMBSTONE: Tombstone, state.LOSER: Losers,
    state.DEPARTED: Departed, state.CONTESTED: Contested,
}  # fmt: skip

Entries = dict[tuple[bytes, bytes], object]


def entries_of(store: Memory, context: Context) -> Entries:
    """What a store holds of a context, by kind and rest of the key, less its head."""
    prefix = context.encode() + b"\0"
    found: Entries = {}
    for key, stored in store.entries.items():
        if key.startswith(prefix):
            kind, rest = key[len(prefix) :][:1], key[len(prefix) + 1 :]
            found[kind, rest] = msgspec.msgpack.decode(stored[32:], type=KINDS[kind]) if kind in KINDS else stored[32:]
    return found


def points(tx: Tx) -> list[Outpoint]:
    return [tx.outpoint(vin) for vin in range(len(tx.ins) - 1)]


def outputs(tx: Tx) -> int:
    return len(tx.outs) - 1


def submission_of(tx: Tx, off_chain: bytes = b"") -> Submission:
    """As the payloads of these tests bring it: what is spent stands nowhere in them."""
    return Submission(tx.raw, (b"",) * (len(tx.ins) - 1), off_chain)


def derived(known: Mapping[Txid, Tx], submitted: Mapping[Txid, Tx], context: Context) -> Derived:
    topic = context.removeprefix("topic:")
    submissions = {txid: submission_of(tx) for txid, tx in submitted.items()}
    return derive({txid: tx.spends() for txid, tx in known.items()}, submissions, topic, MANAGERS[topic])


# --- the model


class Judged(msgspec.Struct):
    """A transaction that was submitted to the context."""

    tx: Tx
    origin: Origin
    off_chain: bytes


class Gone(msgspec.Struct):
    """A transaction that left."""

    tx: Tx
    judged: Judged | None
    said: Admittance | None
    accepted: bool
    root: Txid | None  # None: it stays out whatever is readmitted
    place: int
    lost: Outpoint = b""


class Model:
    """A context as a set: what is known, what was submitted, who lost, who was refused, and who left with whom."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.topic = context.removeprefix("topic:")
        self.known: dict[Txid, Tx] = {}
        self.accepted: set[Txid] = set()
        self.proven: set[Txid] = set()  # of those, who came with a proof
        self.judged: dict[Txid, Judged] = {}
        self.stones: dict[Txid, Tombstone] = {}
        self.losers: dict[Outpoint, list[Origin]] = {}
        self.gone: dict[Txid, Gone] = {}
        self.contested: dict[Outpoint, list[Txid]] = {}

    def spenders(self) -> dict[Outpoint, Txid]:
        """Who spends what, of the known ones."""
        return {point: txid for txid, tx in self.known.items() for point in points(tx)}

    def derived(self) -> Derived:
        """What follows from the set, whatever came before what."""
        return derived(self.known, {txid: each.tx for txid, each in self.judged.items()}, self.context)

    def entries(self, stored: Mapping[tuple[bytes, bytes], object]) -> Entries:
        """The whole state. Root and sequence of an answer are taken from `stored`: they are looked at elsewhere."""
        found: Entries = {}
        follows = self.derived()
        found |= {(state.COIN, point): b"" for point in follows.coins}
        found |= {(state.HISTORY, point): txid for point, txid in follows.history.items()}
        found |= {(state.SPEND, point): txid for point, txid in self.spenders().items()}
        for txid, tx in self.known.items():
            found[state.KNOWN, txid] = Known(tx.spends(), outputs(tx))
        found |= {(state.ACCEPTED, txid): state.PROVEN if txid in self.proven else b"" for txid in self.accepted}
        for txid, judged in self.judged.items():
            applied = stored.get((state.TX, txid))
            assert isinstance(applied, Applied)
            admittance = follows.judgements[txid]
            found |= {(state.ADMITTED, outpoint(txid, vout)): b"" for vout in admittance.outputs_to_admit}
            found[state.TX, txid] = Applied(
                applied.sequence, applied.state_root, judged.origin, f"request-{judged.origin.offset}", 1, admittance,
                f"{self.topic}/{MANAGERS[self.topic].version}", submission_of(judged.tx, judged.off_chain),
                applied.brought,
            )  # fmt: skip
        found |= {(state.TOMBSTONE, txid): stone for txid, stone in self.stones.items()}
        found |= {(state.LOSER, point): Losers(tuple(lost)) for point, lost in self.losers.items()}
        found |= {(state.CONTESTED, point): Contested(tuple(by)) for point, by in self.contested.items()}
        found |= {(state.RIVAL, rival + point): b"" for point, by in self.contested.items() for rival in by}
        for txid, gone in self.gone.items():
            departed = stored.get((state.DEPARTED, txid))
            assert isinstance(departed, Departed)
            applied = None
            if gone.judged is not None:
                assert departed.applied is not None
                applied = msgspec.structs.replace(
                    departed.applied, origin=gone.judged.origin, admittance=gone.said,
                    submission=submission_of(gone.judged.tx, gone.judged.off_chain),
                )  # fmt: skip
            root = gone.root or departed.root
            known = Known(gone.tx.spends(), outputs(gone.tx))
            found[state.DEPARTED, txid] = Departed(root, gone.place, known, gone.accepted, applied, gone.lost)
            if gone.root is not None:
                found[state.LEFT, gone.root + gone.place.to_bytes(8, "big") + txid] = b""
        return found

    # --- what each operation must say

    def apply(self, subject: Tx, ancestors: Sequence[Tx], proven: bool, change: Change, operation: Apply) -> None:
        """Check what was said of a payload, and take it in."""
        asked = operation.verified.asked
        members = [subject] if proven else [*ancestors, subject]
        spenders = self.spenders()
        rivals = {spenders[p] for tx in members for p in points(tx) if spenders.get(p, tx.txid) != tx.txid}
        refused = [tx.txid for tx in members if tx.txid in self.stones]
        if refused and proven:
            assert isinstance(change.said, Condition)
            assert (change.said.code, change.entries) == ("conflict.undecided", ())
            assert [(pair.holder, pair.by) for pair in change.challenges] == [(None, subject.txid)]
        elif refused:
            assert isinstance(change.said, Verdict)
            assert (change.said.code, change.entries) == ("conflict.evicted", ())
            assert change.competing == self.stones[refused[0]].competing
        elif subject.txid in self.judged:
            self._repeated(subject, change, operation)
        elif rivals & self.accepted and not proven:
            self._lost(members, rivals, change, asked.origin)
        elif rivals:
            assert isinstance(change.said, Condition)
            assert (change.said.code, change.entries) == ("conflict.undecided", ())
            assert change.competing == tuple(sorted(rivals))
        else:
            self._judge(subject, members, proven, change, operation)

    def _repeated(self, subject: Tx, change: Change, operation: Apply) -> None:
        judged, asked = self.judged[subject.txid], operation.verified.asked
        assert change.entries == ()
        if judged.off_chain != asked.off_chain:
            assert isinstance(change.said, Verdict)
            assert change.said.code == "conflict.already-applied"
            return
        assert isinstance(change.said, Answer)
        assert change.said.admittance == self.derived().judgements[subject.txid]
        assert (change.said.repeat, change.said.fresh) == (asked.origin != judged.origin, False)

    def _lost(self, members: Sequence[Tx], rivals: set[Txid], change: Change, origin: Origin) -> None:
        assert isinstance(change.said, Verdict)
        assert change.said.code == "conflict.double-spend"
        assert change.competing == tuple(sorted(rivals))
        assert all(display(txid) in change.said.message for txid in sorted(rivals)[:3])
        noted = False
        spenders = self.spenders()
        for point in (p for tx in members for p in points(tx) if spenders.get(p) in rivals & self.accepted):
            lost = self.losers.get(point, [])
            if origin not in lost and len(lost) < 8:
                self.losers[point] = [*lost, origin]
                noted = True
        assert len(change.entries) == noted

    def _judge(self, subject: Tx, members: Sequence[Tx], proven: bool, change: Change, operation: Apply) -> None:
        before = self.derived().judgements
        self.known |= {tx.txid: tx for tx in members}
        self.accepted |= {subject.txid} if proven else set()
        self.proven |= {subject.txid} if proven else set()
        asked = operation.verified.asked
        self.judged[subject.txid] = Judged(subject, asked.origin, asked.off_chain)
        after = self.derived().judgements
        assert isinstance(change.said, Answer)
        assert change.said.admittance == after[subject.txid]
        assert (change.said.repeat, change.said.fresh) == (False, True)
        again = {txid for txid, said in before.items() if after[txid] != said}
        assert {each.txid for each in change.revised} == again
        assert all(each.applied.admittance == after[each.txid] for each in change.revised)
        kinds = [JOURNAL.decode(entry).kind for entry in change.entries]
        assert kinds[:1] == ["apply"]
        assert kinds[1:] == ["rejudge"] * (len(kinds) - 1)
        assert len(kinds) - 1 >= len(again)

    def accept(self, change: Change, operation: Accept) -> None:
        """Check an acceptance, and take it in."""
        new = [txid for txid in operation.txids if txid in self.known and txid not in self.accepted]
        assert len(change.entries) == len(new)
        self.accepted |= set(new)

    def evict(self, change: Change, operation: Evict) -> None:
        """Check an eviction, and take it in: whoever left left before what it descends from."""
        gone: set[Txid] = set()
        if operation.txid in self.known:
            gone = {operation.txid}
            while more := {
                txid
                for txid, tx in self.known.items()
                if txid not in gone and any(point[:32] in gone for point in points(tx))
            }:
                gone |= more
        decided = self._decided(operation.txid) if operation.txid not in self.stones else False
        if gone:
            self.stones[operation.txid] = Tombstone(operation.code, operation.message, operation.competing)
        order = [evicted.txid for evicted in change.evicted]
        assert (set(order), len(order)) == (gone, len(gone))
        assert len(change.entries) == len(gone) or (not gone and decided and len(change.entries) == 1)
        follows = self.derived()
        for place, txid in enumerate(order):
            assert not {point[:32] for point in points(self.known[txid])} & set(order[:place])
        for evicted in change.evicted:
            judged = self.judged.get(evicted.txid)
            assert (evicted.applied.origin if evicted.applied else None) == (judged.origin if judged else None)
        again: list[Origin] = []
        for place, txid in enumerate(order, FIRST_PLACE):
            tx, judged = self.known.pop(txid), self.judged.pop(txid, None)
            accepted, said = txid in self.accepted, follows.judgements.get(txid)
            self.accepted.discard(txid)
            self.proven.discard(txid)
            self.gone[txid] = Gone(tx, judged, said, accepted, operation.txid, place)
            again += [origin for point in points(tx) for origin in self.losers.pop(point, [])]
        assert list(change.again) == again
        if gone and operation.competing:
            self._contest(self.gone[operation.txid].tx, operation.competing)

    def _contest(self, root: Tx, rivals: Sequence[Txid]) -> None:
        said = self.derived().judgements
        for point in points(root):
            admittance = said.get(point[:32])
            if admittance is not None and int.from_bytes(point[32:], "little") in admittance.outputs_to_admit:
                by = self.contested.setdefault(point, [])
                by += [rival for rival in rivals if rival not in by]

    def _decided(self, rival: Txid) -> bool:
        """What the refused one contested is contested by the others alone."""
        its = [point for point, by in self.contested.items() if rival in by]
        for point in its:
            self.contested[point].remove(rival)
            if not self.contested[point]:
                del self.contested[point]
        return bool(its)

    def readmit(self, change: Change, operation: Readmit) -> None:
        """Check a readmission, and take it in."""
        if operation.txid not in self.stones:
            assert (change.entries, change.revised) == ((), ())
            return
        before = self.derived().judgements
        del self.stones[operation.txid]
        returning = [txid for txid, gone in self.gone.items() if gone.root == operation.txid]
        back: set[Txid] = set()
        for txid in sorted(returning, key=lambda txid: -self.gone[txid].place):
            gone = self.gone[txid]
            if txid in self.known:
                del self.gone[txid]
                continue
            lost, root = self._stays(gone.tx)
            if lost:
                gone.lost, gone.root = lost, None
                if gone.judged is not None and len(self.losers.get(lost, [])) < 8:
                    losers = self.losers.setdefault(lost, [])
                    losers += [gone.judged.origin] if gone.judged.origin not in losers else []
            elif root is not None:
                gone.place = min(each.place for each in self.gone.values() if each.root == root) - 1
                gone.root = root
            else:
                back.add(txid)
                del self.gone[txid]
                self.known[txid] = gone.tx
                if gone.judged is not None:
                    self.judged[txid] = gone.judged
                if gone.accepted or txid == operation.txid:
                    self.accepted.add(txid)
        after = self.derived().judgements
        again = {txid for txid, said in after.items() if before.get(txid) != said}
        assert {each.txid for each in change.revised} == again | (back & self.judged.keys())
        assert {each.txid: each.applied.admittance for each in change.revised}.items() <= after.items()
        assert [JOURNAL.decode(entry).kind for entry in change.entries].count("readmit") >= len(back)

    def _stays(self, tx: Tx) -> tuple[Outpoint, Txid | None]:
        spenders = self.spenders()
        for point in points(tx):
            if point in spenders:
                return point, None
        root = None
        for parent in dict.fromkeys(point[:32] for point in points(tx)):
            if parent not in self.known and parent in self.gone:
                if self.gone[parent].lost:
                    return self.gone[parent].lost, None
                root = self.gone[parent].root
        return b"", root


# --- random families


class Step(msgspec.Struct):
    """Something a context is asked to do."""

    what: str  # apply | again | accept | evict | readmit
    tx: int
    proven: int = 0  # how many of the ancestors' generations the payload leaves out: they are proven
    off_chain: bytes = b""


@st.composite
def families(draw: st.DrawFn) -> list[Tx]:
    """Transactions, parents first, that spend each other's outputs and others': conflicts come of themselves."""
    found: list[Tx] = []
    for salt in range(draw(st.integers(3, 8))):
        made = [outpoint(tx.txid, vout) for tx in found for vout in range(outputs(tx))]
        pool = [*made[-4:], *made, coin_of_others(salt % 2), coin_of_others(2)]  # deep and forked; some conflicts
        spends = draw(st.lists(st.sampled_from(pool), min_size=1, max_size=3, unique=True))
        found.append(made_tx(spends, draw(st.integers(1, 3)), salt))
    return found


steps = st.lists(
    st.builds(
        Step,
        st.sampled_from(["apply", "apply", "apply", "again", "accept", "evict", "evict", "readmit"]),
        st.integers(0, 7),
        st.integers(0, 2),
        st.sampled_from([b"", b"", b"", b"values"]),
    ),
    min_size=5,
    max_size=20,
)


def ancestors_of(tx: Tx, family: Sequence[Tx], proven: int) -> list[Tx] | None:
    """The un-mined ancestors a payload would hold, parents first: those less than `2 - proven` generations up.

    None where two of them spend one output: verify lets no such payload through.
    """
    by_txid = {each.txid: each for each in family}
    near = {tx.txid}
    for _ in range(2 - proven):
        near |= {p[:32] for txid in near for p in points(by_txid[txid]) if p[:32] in by_txid}
    members = [each for each in family if each.txid in near]
    spent = [point for each in members for point in points(each)]
    return members[:-1] if len(spent) == len(set(spent)) else None


def run(family: Sequence[Tx], todo: Sequence[Step], context: Context, look: Callable[[Owner, Model], None]) -> Owner:
    """Do what is asked, the model beside it; look after every step."""
    owner, model = Owner(), Model(context)
    for number, step in enumerate(todo):
        tx = family[step.tx % len(family)]
        match step.what:
            case "accept":
                accept = Accept(f"accept:{number}", (tx.txid, bytes(32)), "arc@a")
                model.accept(owner.do(context, accept), accept)
            case "evict":
                rival = family[(step.tx + 1 + step.proven) % len(family)].txid
                evict = Evict(f"evict:{number}", tx.txid, "network.rejected", "no", (rival,) if step.proven else ())
                model.evict(owner.do(context, evict), evict)
            case "readmit":
                refused = sorted(model.stones) or [tx.txid]
                readmit = Readmit(f"readmit:{number}", refused[step.tx % len(refused)])
                model.readmit(owner.do(context, readmit), readmit)
            case _:
                proven = step.proven == 2
                ancestors = [] if proven else ancestors_of(tx, family, step.proven)
                if ancestors is None:
                    continue
                offset = tx.raw[40] if step.what == "again" else number  # the same coordinate comes again
                operation = apply_of(verified(tx, ancestors, proven=proven, offset=offset, off_chain=step.off_chain))
                model.apply(tx, ancestors, proven, owner.do(context, operation), operation)
        look(owner, model)
    return owner


def holds_what_the_model_says(owner: Owner, model: Model) -> None:
    stored = entries_of(owner.store, model.context)
    assert stored == model.entries(stored)


@pytest.mark.invariant("APPLY-1")
@pytest.mark.invariant("APPLY-2")
@settings(CHEAP, max_examples=250)
@given(families(), steps, st.sampled_from([ALL, KEEP]))
def test_the_state_follows_from_the_set(family: list[Tx], todo: list[Step], context: Context) -> None:
    """Coins, history, spends and answers are what the known and judged transactions give, whatever came before."""
    run(family, todo, context, holds_what_the_model_says)


def replayed(journal: Sequence[bytes]) -> tuple[dict[bytes, bytes], JournalEntry | None]:
    """A context's entries by key and hash, from its journal alone; the chain is checked on the way."""
    held: dict[bytes, bytes] = {}
    entry, previous = None, bytes(32)
    for number, encoded in enumerate(journal, 1):
        entry = JOURNAL.decode(encoded)
        assert (entry.sequence, entry.previous) == (number, previous)
        previous = hashlib.sha256(encoded).digest()
        for key, digest in entry.effects.removed:
            assert held.pop(key) == digest
        for key, digest in entry.effects.added:
            assert key not in held
            held[key] = digest
        assert (entry.state_root, entry.store_root) == roots_of(held)
    return held, entry


def roots_of(held: Mapping[bytes, bytes]) -> tuple[bytes, bytes]:
    """Both roots, from entries by key and hash."""
    sums = {True: lthash.EMPTY, False: lthash.EMPTY}  # added up one by one, by whole numbers
    for key, digest in held.items():
        in_state = key[key.index(b"\0") + 1] in IN_STATE_ROOT
        sums[in_state] = lthash.plain_moved(sums[in_state], (), [lthash.element(key + digest)])
    return lthash.root(sums[True]), lthash.root(sums[False])


@pytest.mark.invariant("JOURNAL-1")
@settings(CHEAP, max_examples=60)
@given(families(), steps, st.sampled_from([ALL, KEEP]))
def test_the_journal_replayed_gives_the_state_and_both_roots(
    family: list[Tx], todo: list[Step], context: Context
) -> None:
    owner = run(family, todo, context, lambda *_: None)
    held, last = replayed(owner.journal.get(context, ()))
    prefix = context.encode() + b"\0"
    assert held == {
        key: stored[:32] for key, stored in owner.store.entries.items() if key.startswith(prefix) and not is_index(key)
    }
    if last is not None:
        head = head_of(owner.store, context)
        assert (head.sequence, head.state_root, head.store_root) == (last.sequence, last.state_root, last.store_root)
        assert head.entry_hash == hashlib.sha256(owner.journal[context][-1]).digest()


KEPT = frozenset((state.DEPARTED, state.LEFT))
"""Kinds of what is kept of those that left."""


@settings(CHEAP, max_examples=60)
@given(families(), steps, st.integers(0, 7))
def test_an_evicted_family_leaves_its_tombstone_alone(family: list[Tx], todo: list[Step], which: int) -> None:
    """Applied on top of anything and evicted at once, a new transaction leaves the entries that were there before."""
    owner = run(family, todo, KEEP, lambda *_: None)
    made = [outpoint(tx.txid, vout) for tx in family for vout in range(outputs(tx))]
    spent = {rest for kind, rest in entries_of(owner.store, KEEP) if kind == state.SPEND}
    free = [point for point in made if point not in spent]
    if not free:
        return
    before = entries_of(owner.store, KEEP)
    parent = made_tx([free[which % len(free)], coin_of_others(9)], 2, 90)
    child = made_tx([outpoint(parent.txid, 0), coin_of_others(10)], 1, 91)
    owner.do(KEEP, apply_of(verified(parent, offset=90)))
    owner.do(KEEP, apply_of(verified(child, [parent], offset=91)))
    assert entries_of(owner.store, KEEP) != before
    owner.do(KEEP, Evict("evict", parent.txid, "network.rejected", "no"))
    after = entries_of(owner.store, KEEP)
    assert after.pop((state.TOMBSTONE, parent.txid)) == Tombstone("network.rejected", "no", ())
    gone = {txid for kind, txid in after.keys() - before.keys() if kind == state.DEPARTED}
    assert gone == {parent.txid, child.txid}
    assert {key: value for key, value in after.items() if key[0] not in KEPT} == {
        key: value for key, value in before.items() if key[0] not in KEPT
    }


# --- single cases


def family_of_two() -> tuple[Tx, Tx]:
    parent = made_tx([coin_of_others(1)], 2, 1)
    return parent, made_tx([outpoint(parent.txid, 0)], 1, 2)


@pytest.mark.invariant("APPLY-1")
def test_a_repeat_writes_nothing_and_gives_the_stored_answer() -> None:
    owner = Owner()
    parent, _ = family_of_two()
    first = owner.do(ALL, apply_of(verified(parent, offset=1)))
    before = dict(owner.store.entries)
    again, elsewhere = (owner.do(ALL, apply_of(verified(parent, offset=offset))) for offset in (1, 2))
    assert isinstance(first.said, Answer)
    assert again.said == msgspec.structs.replace(first.said, fresh=False)
    assert elsewhere.said == msgspec.structs.replace(first.said, fresh=False, repeat=True)
    assert (again.entries, elsewhere.entries) == ((), ())
    after = {key: value for key, value in owner.store.entries.items() if key != state.APPLIED_KEY}
    assert after == {key: value for key, value in before.items() if key != state.APPLIED_KEY}


def test_roots_follow_from_operations_and_not_from_clocks() -> None:
    """Whoever computes them again does so at another time."""
    parent = made_tx([coin_of_others(1)], 2)
    child = made_tx([outpoint(parent.txid, 0)], 1, 1)
    steps = [apply_of(verified(child, offset=1)), apply_of(verified(parent, offset=2))]
    heads = []
    for now_ms in (NOW_MS, NOW_MS + 1):
        layer = Layer(Memory())
        head = head_of(layer, KEEP)
        for operation in steps:
            head = rules.apply(layer, head, KEEP, operation, MANAGERS, now_ms).head
        heads.append((head.sequence, head.state_root, head.store_root))
    assert heads[0] == heads[1]


def test_the_second_spender_waits_then_loses_once_and_its_coordinate_stays() -> None:
    owner = Owner()
    point = coin_of_others(1)
    first, second = made_tx([point], 1, 1), made_tx([point], 1, 2)
    owner.do(ALL, apply_of(verified(first, offset=1)))
    waits = owner.do(ALL, apply_of(verified(second, offset=2)))
    assert isinstance(waits.said, Condition)
    assert (waits.said.code, waits.competing, waits.entries) == ("conflict.undecided", (first.txid,), ())
    owner.do(ALL, Accept("accept", (first.txid,), "arc@a"))
    lost = [owner.do(ALL, apply_of(verified(second, offset=2))) for _ in range(2)]
    for change in lost:
        assert isinstance(change.said, Verdict)
        assert (change.said.code, change.competing) == ("conflict.double-spend", (first.txid,))
    assert [len(change.entries) for change in lost] == [1, 0]
    entry = JOURNAL.decode(lost[0].entries[0])
    assert (entry.kind, entry.txid, entry.origin) == ("dismiss", second.txid, origin_at(2))
    assert entries_of(owner.store, ALL)[state.LOSER, point] == Losers((origin_at(2),))


def test_eight_losers_of_an_outpoint_are_remembered() -> None:
    owner = Owner()
    point = coin_of_others(1)
    holder = made_tx([point], 1, 0)
    owner.do(ALL, apply_of(verified(holder)))
    owner.do(ALL, Accept("accept", (holder.txid,), "arc@a"))
    entries = [
        len(owner.do(ALL, apply_of(verified(made_tx([point], 1, salt), offset=salt))).entries) for salt in range(1, 11)
    ]
    assert entries == [1] * 8 + [0] * 2
    assert entries_of(owner.store, ALL)[state.LOSER, point] == Losers(tuple(map(origin_at, range(1, 9))))


def test_a_proven_subject_counts_as_accepted() -> None:
    """It is in a block: nobody broadcasts it, so nobody else will ever say so, and who competes has lost."""
    owner = Owner()
    point = coin_of_others(1)
    mined, rival = made_tx([point], 1, 1), made_tx([point], 1, 2)
    owner.do(ALL, apply_of(verified(mined, proven=True)))
    change = owner.do(ALL, apply_of(verified(rival, offset=2)))
    assert isinstance(change.said, Verdict)
    assert change.said.code == "conflict.double-spend"


def test_an_ancestor_that_is_submitted_proven_counts_as_accepted() -> None:
    owner = Owner()
    parent, child = family_of_two()
    owner.do(ALL, apply_of(verified(child, [parent])))
    owner.do(ALL, apply_of(verified(parent, proven=True, offset=1)))
    rival = made_tx([coin_of_others(1)], 1, 9)
    change = owner.do(ALL, apply_of(verified(rival, offset=2)))
    assert isinstance(change.said, Verdict)


@pytest.mark.invariant("APPLY-3")
def test_a_child_that_came_first_is_judged_again_when_its_parent_is() -> None:
    """It spends a coin of the topic since then, and its manager keeps it."""
    owner = Owner()
    parent, child = family_of_two()
    first = owner.do(KEEP, apply_of(verified(child, [parent])))
    assert isinstance(first.said, Answer)
    assert first.said.admittance == Admittance((0,))
    change = owner.do(KEEP, apply_of(verified(parent, offset=1)))
    assert [JOURNAL.decode(entry).kind for entry in change.entries] == ["apply", "rejudge"]
    (again,) = change.revised
    assert (again.txid, again.applied.admittance, again.applied.origin) == (
        child.txid, Admittance((0,), (0,)), origin_at(0),
    )  # fmt: skip
    assert entries_of(owner.store, KEEP)[state.HISTORY, outpoint(parent.txid, 0)] == child.txid
    repeat = owner.do(KEEP, apply_of(verified(child, [parent], offset=2)))
    assert isinstance(repeat.said, Answer)
    assert repeat.said.admittance == Admittance((0,), (0,))


@st.composite
def arrivals(draw: st.DrawFn) -> tuple[list[Tx], list[tuple[str, int, int]], list[tuple[str, int, int]]]:
    """A family without conflicts, what is done with it, and the same in another order: (what, which, generations)."""
    found: list[Tx] = []
    spent: set[Outpoint] = set()
    for salt in range(draw(st.integers(2, 8))):
        made = [outpoint(tx.txid, vout) for tx in found for vout in range(outputs(tx))]
        pool = [point for point in made if point not in spent]
        spends = draw(st.lists(st.sampled_from(pool), max_size=3, unique=True)) if pool else []
        spent |= set(spends)
        found.append(made_tx([*spends, coin_of_others(20 + salt)], draw(st.integers(1, 3)), salt))
    which = draw(st.lists(st.sampled_from(range(len(found))), min_size=1, unique=True))
    done = [("apply", tx, draw(st.integers(0, 2))) for tx in which]
    for what in ("evict", "readmit"):
        done += [(what, tx, 0) for tx in draw(st.lists(st.sampled_from(range(len(found))), max_size=2, unique=True))]
    return found, done, draw(st.permutations(done))


def known_after(owner: Owner, context: Context) -> tuple[dict[Txid, bytes], dict[Txid, Submission]]:
    """The set a context holds."""
    held = entries_of(owner.store, context)
    known = {rest: value.spends for (kind, rest), value in held.items() if isinstance(value, Known)}
    return known, {rest: value.submission for (kind, rest), value in held.items() if isinstance(value, Applied)}


@pytest.mark.invariant("APPLY-3")
@settings(CHEAP, max_examples=much(300, 20_000))
@given(arrivals(), st.sampled_from([ALL, KEEP, PICKY, WEIGHS]))
def test_every_order_of_arrival_gives_what_the_set_gives(
    made: tuple[list[Tx], list[tuple[str, int, int]], list[tuple[str, int, int]]], context: Context
) -> None:
    """Any share of proven parents, any never sent here, evictions and readmissions anywhere: root = derive(set)."""
    family, *orders = made
    for order in orders:
        owner, _ = arrived(family, order, context)
        assert head_of(owner.store, context).state_root == derived_root(owner, context)


def derived_root(owner: Owner, context: Context) -> bytes:
    """The state root that follows from what a context knows."""
    topic = context.removeprefix("topic:")
    follows = derive(*known_after(owner, context), topic, MANAGERS[topic])
    held = {state.COIN: follows.coins, state.HISTORY: follows.history}
    entries = {
        state.key(context, kind, rest): hashlib.sha256(b"" if kind == state.COIN else follows.history[rest]).digest()
        for kind, rests in held.items()
        for rest in rests
    }
    return roots_of(entries)[0]


def arrived(
    family: Sequence[Tx], order: Sequence[tuple[str, int, int]], context: Context
) -> tuple[Owner, list[list[Change]]]:
    """A context to which all this came, and what each came to: a change, and those that settled it."""
    owner, told = Owner(), []
    for number, (what, which, proven) in enumerate(order):
        tx = family[which]
        operation: Evict | Readmit | Apply
        if what == "evict":
            operation = Evict(f"evict:{number}", tx.txid, "network.rejected", "no")
        elif what == "readmit":
            operation = Readmit(f"readmit:{number}", tx.txid)
        else:
            ancestors = [] if proven == 2 else ancestors_of(tx, family, proven)
            assert ancestors is not None
            operation = apply_of(verified(tx, ancestors, proven=proven == 2, offset=which))
        told.append(settled(owner, context, operation))
    return owner, told


def settled(owner: Owner, context: Context, operation: Operation) -> list[Change]:
    """An operation, and all that waits behind it, to the end: each has work to do."""
    pieces = [owner.do(context, operation)]
    while pieces[-1].settling:
        assert len(pieces) < 10_000
        pieces.append(owner.settle(context))
    assert not head_settles(owner, context)
    return pieces


def unnumbered(owner: Owner, context: Context) -> Entries:
    """All entries, whatever the journal's sequences and the roots at the time."""

    def without(value: object) -> object:
        if isinstance(value, Applied):
            return msgspec.structs.replace(value, sequence=0, state_root=b"")
        if isinstance(value, Departed) and value.applied is not None:
            return msgspec.structs.replace(value, applied=without(value.applied))
        return value

    return {key: without(value) for key, value in entries_of(owner.store, context).items()}


@pytest.mark.invariant("TXN-5")
@settings(CHEAP, max_examples=much(200, 10_000))
@given(arrivals(), st.sampled_from([ALL, KEEP, PICKY]), st.sampled_from([1, 1_500, 4_000]), st.integers(1, 5))
def test_where_work_is_cut_changes_nothing(
    made: tuple[list[Tx], list[tuple[str, int, int]], list[tuple[str, int, int]]],
    context: Context,
    limit: int,
    steps: int,
) -> None:
    """Step by step, or a few at a time: the same entries, leavers in the same order, the same words in the end."""
    family, done, _ = made
    order = [*done, ("evict", 0, 0), ("readmit", 0, 0)]
    whole, told_whole = arrived(family, order, context)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("pipeline.waiting.BYTES", limit)
        patched.setattr("pipeline.waiting.STEPS", steps)
        cut, told = arrived(family, order, context)
    assert unnumbered(cut, context) == unnumbered(whole, context)
    assert head_of(cut.store, context).state_root == derived_root(cut, context)
    replayed(cut.journal.get(context, []))
    for (once,), pieces in zip(told_whole, told, strict=True):
        assert [each.txid for each in once.evicted] == [each.txid for piece in pieces for each in piece.evicted]
        assert once.again == tuple(origin for piece in pieces for origin in piece.again)
        assert last_words(once) == last_words(*pieces)


def last_words(*pieces: Change) -> dict[Txid, Admittance]:
    """What was said last of each that was judged again."""
    return {each.txid: each.applied.admittance for piece in pieces for each in piece.revised}


def heavy(point: Outpoint, size: int) -> Tx:
    """Of so many bytes, most of them in its input."""
    return read_tx(builders.raw_tx([(point, builders.push(bytes(size)), builders.FINAL)], [builders.Out(1)]))


@pytest.mark.invariant("TXN-5")
def test_a_piece_is_bounded_by_what_it_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirty of 40 kB that are judged again, leave, and come back: a transaction of Kafka's takes three of them."""
    limit, size = 100_000, 40_000
    parent = made_tx([coin_of_others(1)], 30, 0)
    children = [heavy(outpoint(parent.txid, vout), size) for vout in range(30)]
    whole, cut = Owner(), Owner()
    for owner in (whole, cut):
        for number, child in enumerate(children):
            owner.do(KEEP, apply_of(verified(child, [parent], offset=number)))
    for operation in (
        apply_of(verified(parent, offset=100)),
        Evict("evict", parent.txid, "network.rejected", "no"),
        Readmit("readmit", parent.txid),
    ):
        assert len(settled(whole, KEEP, operation)) == 1
        begin = len(cut.changelog)
        with monkeypatch.context() as patched:
            patched.setattr("pipeline.waiting.BYTES", limit)
            pieces = settled(cut, KEEP, operation)
        for piece, changelog in zip(pieces, cut.changelog[begin:], strict=True):
            written = sum(len(key) + len(stored or b"") for key, stored in changelog) + sum(map(len, piece.entries))
            assert written < limit + size + 20_000  # one that goes over it, and what stands beside it
        assert 10 <= len(pieces) <= 12
        assert unnumbered(cut, KEEP) == unnumbered(whole, KEEP)
        assert head_of(cut.store, KEEP).state_root == derived_root(cut, KEEP)
        replayed(cut.journal[KEEP])


def test_what_is_judged_again_and_stands_counts_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for twice, it is read for nothing, and lies in memory all the same."""
    monkeypatch.setattr("pipeline.waiting.BYTES", 100_000)
    owner = Owner()
    store = owner.store = Weighed()
    children = [heavy(coin_of_others(number), 40_000) for number in range(30)]
    for number, child in enumerate(children):
        owner.do(ALL, apply_of(verified(child, offset=number)))
    weights, left = [], [child.txid for child in children]
    while left:
        store.weight = 0
        here = Contextual(ALL, Layer(store), head_of(store, ALL), NOW_MS)
        change = judge_again(here, Rule("tm_all", MANAGERS["tm_all"]), "again", left)
        weights.append(store.weight)
        assert change.revised == ()
        work = waiting.take(here)
        left = list(work.txids) if work is not None else []
    assert len(weights) == 10
    assert max(weights) < 100_000 + 40_000 + 5_000


class Weighed(Memory):
    """Adds up the bytes it is asked for."""

    weight = 0

    def get(self, entry_key: bytes) -> bytes | None:
        stored = super().get(entry_key)
        self.weight += len(stored or b"")
        return stored


def test_a_judgement_that_changes_thousands_goes_through_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one transaction cannot hold waits in the state, and gives the same in the end."""
    monkeypatch.setattr("pipeline.waiting.STEPS", 10)
    owner, whole = Owner(), Owner()
    parent = made_tx([coin_of_others(1)], 90, 0)
    children = [made_tx([outpoint(parent.txid, vout)], 1, vout + 1) for vout in range(90)]
    for number, child in enumerate(children):
        owner.do(KEEP, apply_of(verified(child, [parent], offset=number)))
    change = owner.do(KEEP, apply_of(verified(parent, offset=100)))
    pieces = [change]
    while pieces[-1].settling:
        pieces.append(owner.settle(KEEP))
    assert len(pieces) == 9
    assert all(1 <= len(piece.revised) <= 10 for piece in pieces)
    assert {each.txid for piece in pieces for each in piece.revised} == {child.txid for child in children}
    for number, tx in enumerate([parent, *children]):
        whole.do(KEEP, apply_of(verified(tx, offset=number)))
        while head_settles(whole, KEEP):
            whole.settle(KEEP)
    assert head_of(owner.store, KEEP).state_root == head_of(whole.store, KEEP).state_root
    replayed(owner.journal[KEEP])
    change = owner.do(KEEP, Evict("evict", parent.txid, "network.rejected", "no"))
    gone = [change]
    while gone[-1].settling:
        gone.append(owner.settle(KEEP))
    assert [each.txid for piece in gone for each in piece.evicted][-1] == parent.txid
    assert max(len(piece.evicted) for piece in gone) == 10
    assert {kind for kind, _ in entries_of(owner.store, KEEP)} == {state.TOMBSTONE, *KEPT}
    replayed(owner.journal[KEEP])
    before = head_of(whole.store, KEEP).state_root
    change = owner.do(KEEP, Readmit("readmit", parent.txid))
    back = [change]
    while back[-1].settling:
        back.append(owner.settle(KEEP))
    assert max(len(piece.revised) for piece in back) <= 20  # ten that come back, ten that are judged again for them
    assert {each.txid for piece in back for each in piece.revised} == {parent.txid, *(child.txid for child in children)}
    assert head_of(owner.store, KEEP).state_root == before
    assert not {kind for kind, _ in entries_of(owner.store, KEEP)} & {state.TOMBSTONE, *KEPT}
    replayed(owner.journal[KEEP])


@pytest.mark.parametrize("context", [KEEP, PICKY, WEIGHS])
def test_judging_that_takes_long_goes_through_in_pieces_too(context: Context) -> None:
    """Whenever it is asked, it was long enough: one judgement a transaction, and all the same in the end."""
    slow, quick = Owner(), Owner()
    slow.enough = lambda: True
    tree = [made_tx([coin_of_others(1)], 5, 0)]
    for salt in range(1, 21):
        tree.append(made_tx([outpoint(tree[(salt - 1) // 5].txid, (salt - 1) % 5)], 5, salt))
    root = tree[0]
    for owner in (slow, quick):
        for number, tx in enumerate(reversed(tree)):  # every parent has its children judged again
            worked_off(owner, context, owner.do(context, apply_of(verified(tx, offset=number))))
        for _ in range(2):
            gone = owner.do(context, Evict("evict", root.txid, "network.rejected", "no"))
            assert worked_off(owner, context, gone) == 0  # no judging
            back = owner.do(context, Readmit("readmit", root.txid))
            pieces = worked_off(owner, context, back)
            assert pieces >= len(tree) - 1 if owner is slow else pieces == 0
    assert derive(*known_after(slow, context), "tm_x", MANAGERS[context[6:]]) == derive(
        *known_after(quick, context), "tm_x", MANAGERS[context[6:]]
    )
    assert head_of(slow.store, context).state_root == head_of(quick.store, context).state_root
    replayed(slow.journal[context])


def worked_off(owner: Owner, context: Context, change: Change) -> int:
    """Work off what waits; in how many pieces."""
    pieces = 0
    while change.settling:
        change = owner.settle(context)
        pieces += 1
        assert len(change.revised) <= 2 or not owner.enough()  # one that comes back, one that is judged again for it
    return pieces


def head_settles(owner: Owner, context: Context) -> bool:
    return owner.store.get(state.key(context, state.QUEUE, b"")) is not None


def test_a_parent_judged_after_its_child_gives_its_coin_back_when_the_child_leaves() -> None:
    owner = Owner()
    parent, child = family_of_two()
    owner.do(ALL, apply_of(verified(child, [parent])))
    owner.do(ALL, apply_of(verified(parent, offset=1)))
    spent, kept = (outpoint(parent.txid, vout) for vout in (0, 1))
    held = entries_of(owner.store, ALL)
    assert (state.COIN, kept) in held
    assert (state.COIN, spent) not in held
    owner.do(ALL, Evict("evict", child.txid, "network.rejected", "no"))
    held = entries_of(owner.store, ALL)
    assert {rest for kind, rest in held if kind == state.COIN} == {spent, kept}


def test_a_known_ancestor_is_judged_with_the_coins_it_spends() -> None:
    """Its spends count since its child came, yet the coins are still what its own judgement is about."""
    owner = Owner()
    grand = made_tx([coin_of_others(1)], 1, 0)
    parent = made_tx([outpoint(grand.txid, 0)], 1, 1)
    child = made_tx([outpoint(parent.txid, 0)], 1, 2)
    owner.do(KEEP, apply_of(verified(grand)))
    owner.do(KEEP, apply_of(verified(child, [grand, parent], offset=1)))
    change = owner.do(KEEP, apply_of(verified(parent, [grand], offset=2)))
    assert isinstance(change.said, Answer)
    assert change.said.admittance == Admittance((0,), (0,))


@pytest.mark.invariant("APPLY-2")
def test_an_ancestor_nobody_submitted_holds_what_it_spends() -> None:
    owner = Owner()
    parent, child = family_of_two()
    owner.do(ALL, apply_of(verified(child, [parent])))
    change = owner.do(ALL, apply_of(verified(made_tx([coin_of_others(1)], 1, 9), offset=2)))
    assert isinstance(change.said, Condition)
    assert change.competing == (parent.txid,)


def test_a_refused_family_stays_out_until_its_ancestor_is_proven() -> None:
    owner = Owner()
    parent, child = family_of_two()
    owner.do(ALL, apply_of(verified(child, [parent])))
    owner.do(ALL, Evict("evict", parent.txid, "network.double-spend", "", (b"\x07" * 32,)))
    for payload in (verified(parent, offset=2), verified(child, [parent], offset=3)):
        change = owner.do(ALL, apply_of(payload))
        assert isinstance(change.said, Verdict)
        assert (change.said.code, change.competing) == ("conflict.evicted", (b"\x07" * 32,))
        assert "network.double-spend" in change.said.message
    assert isinstance(owner.do(ALL, apply_of(verified(child, offset=4))).said, Answer)


@pytest.mark.parametrize(
    "operation",
    [
        Evict("e", b"\x05" * 32, "network.rejected", ""),
        Accept("a", (b"\x05" * 32,), ""),
        Readmit("r", b"\x05" * 32),
    ],
)
def test_the_networks_word_about_a_stranger_changes_nothing(operation: Evict | Accept | Readmit) -> None:
    owner = Owner()
    change = owner.do(ALL, operation)
    assert (change.entries, change.evicted) == ((), ())
    assert set(owner.store.entries) == {state.APPLIED_KEY}


def test_a_second_eviction_keeps_the_first_word() -> None:
    owner = Owner()
    parent, _ = family_of_two()
    owner.do(ALL, apply_of(verified(parent)))
    owner.do(ALL, Evict("e", parent.txid, "network.fee", "first"))
    assert owner.do(ALL, Evict("e", parent.txid, "network.script", "second")).entries == ()
    stone = entries_of(owner.store, ALL)[state.TOMBSTONE, parent.txid]
    assert stone == Tombstone("network.fee", "first", ())


def test_contexts_do_not_touch() -> None:
    """One outpoint, two contexts: each has its own first spender."""
    owner = Owner()
    point = coin_of_others(1)
    first, second = made_tx([point], 1, 1), made_tx([point], 1, 2)
    assert isinstance(owner.do(ALL, apply_of(verified(first))).said, Answer)
    assert isinstance(owner.do(KEEP, apply_of(verified(second))).said, Answer)
    assert {display(tx.txid) for tx in (first, second)} == {
        display(rest) for context in (ALL, KEEP) for kind, rest in entries_of(owner.store, context) if kind == state.TX
    }


def test_a_topic_that_is_not_hosted_is_named() -> None:
    owner = Owner()
    change = owner.do("topic:tm_elsewhere", apply_of(verified(family_of_two()[0])))
    assert isinstance(change.said, Verdict)
    assert change.said.code == "admission.unknown-topic"
    assert "tm_elsewhere" in change.said.message


@pytest.mark.invariant("FAULT-1")
@pytest.mark.parametrize(
    ("what", "raised"),
    [
        (b"raise", RuntimeError), (b"output", BadManager), (b"below", BadManager), (b"stranger", BadManager),
        (b"truth", BadManager), (b"part", BadManager), (b"none", AttributeError),
    ],
)  # fmt: skip
def test_a_manager_that_fails_leaves_its_layer_and_the_store_as_they_were(what: bytes, raised: type[Exception]) -> None:
    owner = Owner()
    parent, _ = family_of_two()
    owner.do(ODD, apply_of(verified(parent)))
    layer = Layer(owner.store)
    subject = made_tx([coin_of_others(4)], 2, 5)
    with pytest.raises(raised):
        decide(layer, ODD, apply_of(verified(subject, [made_tx([coin_of_others(5)], 1, 6)], off_chain=what)))
    assert layer.writes == {}
    assert isinstance(owner.do(ODD, apply_of(verified(subject))).said, Answer)


def test_every_code_said_here_is_in_the_table() -> None:
    codes = ("admission.unknown-topic", "conflict.evicted", "conflict.already-applied", "conflict.double-spend")
    assert {BY_CODE[code].kind for code in codes} == {"verdict"}
    assert BY_CODE["conflict.undecided"].kind == "condition"


def test_a_long_line_is_evicted_without_recursion() -> None:
    owner = Owner()
    line = [made_tx([coin_of_others(1)], 1, 0)]
    for salt in range(1, 1500):
        line.append(made_tx([outpoint(line[-1].txid, 0)], 1, salt))
    owner.do(ALL, apply_of(verified(line[-1], line[:-1])))
    pieces = [owner.do(ALL, Evict("evict", line[0].txid, "network.rejected", "no"))]
    while pieces[-1].settling:
        pieces.append(owner.settle(ALL))
    assert [len(piece.evicted) for piece in pieces] == [1000, 500]
    assert [evicted.txid for piece in pieces for evicted in piece.evicted] == [tx.txid for tx in reversed(line)]
    assert {kind for kind, _ in entries_of(owner.store, ALL)} == {state.TOMBSTONE, *KEPT}


class Asked(Memory):
    """Counts what it is asked for."""

    asked = 0

    def get(self, entry_key: bytes) -> bytes | None:
        self.asked += 1
        return super().get(entry_key)


def test_the_outputs_nobody_spends_cost_an_eviction_nothing() -> None:
    """Of 20,000 outputs two are spent: the network refuses the one that made them."""
    owner, store = Owner(), Asked()
    owner.store = store
    wide = made_tx([coin_of_others(1)], 20_000, 1)
    child = made_tx([outpoint(wide.txid, 3), outpoint(wide.txid, 19_999)], 1, 2)
    owner.do(ODD, apply_of(verified(wide, off_chain=b"nothing")))
    owner.do(ODD, apply_of(verified(child, [wide], offset=1)))
    store.asked = 0
    change = owner.do(ODD, Evict("evict", wide.txid, "network.rejected", "no"))
    assert [evicted.txid for evicted in change.evicted] == [child.txid, wide.txid]
    assert store.asked < 50


def kinds_of(journal: Sequence[bytes]) -> Iterator[str]:
    return (JOURNAL.decode(entry).kind for entry in journal)


def test_the_journal_names_what_happened() -> None:
    owner = Owner()
    parent, child = family_of_two()
    rival = made_tx([coin_of_others(1)], 1, 9)
    owner.do(KEEP, apply_of(verified(parent)))
    owner.do(KEEP, apply_of(verified(child, [parent], offset=1)))
    owner.do(KEEP, Accept("accept", (parent.txid, child.txid), "arc@a"))
    owner.do(KEEP, apply_of(verified(rival, offset=2)))
    owner.do(KEEP, Evict("evict", parent.txid, "network.rejected", "no"))
    assert list(kinds_of(owner.journal[KEEP])) == ["apply", "apply", "accept", "accept", "dismiss", "evict", "evict"]
    entries = [JOURNAL.decode(entry) for entry in owner.journal[KEEP]]
    assert [(entry.manager, entry.origin, entry.beef) for entry in entries[:2]] == [
        ("tm_keep/7", origin_at(0), b"BEEF" + parent.raw),
        ("tm_keep/7", origin_at(1), b"BEEF" + parent.raw + child.raw),
    ]
    assert {entry.beef for entry in entries[2:]} == {b""}


# --- the network's second word


@pytest.mark.invariant("APPLY-4")
def test_what_left_comes_back_as_it_was() -> None:
    """Coins, history, answers and acceptance; a child that nobody submitted here comes back as known."""
    owner = Owner()
    parent, child = family_of_two()
    grandchild = made_tx([outpoint(child.txid, 0)], 1, 3)
    owner.do(KEEP, apply_of(verified(parent)))
    owner.do(KEEP, apply_of(verified(grandchild, [parent, child], offset=1)))
    owner.do(KEEP, Accept("accept", (child.txid,), "arc@a"))
    before = entries_of(owner.store, KEEP)
    root = head_of(owner.store, KEEP).state_root
    owner.do(KEEP, Evict("evict", parent.txid, "network.rejected", "no"))
    assert head_of(owner.store, KEEP).state_root != root
    change = owner.do(KEEP, Readmit("readmit", parent.txid))
    assert [each.txid for each in change.revised] == [parent.txid, grandchild.txid]
    assert head_of(owner.store, KEEP).state_root == root
    after = entries_of(owner.store, KEEP)
    assert after.pop((state.ACCEPTED, parent.txid)) == b""  # the network took it
    assert after.keys() == before.keys()
    different = {kind for (kind, rest), value in after.items() if before[kind, rest] != value}
    assert different == {state.TX}  # their sequences
    repeat = owner.do(KEEP, apply_of(verified(parent, offset=5)))
    assert isinstance(repeat.said, Answer)
    assert repeat.said.sequence == change.revised[0].applied.sequence
    assert list(kinds_of(owner.journal[KEEP]))[-3:] == ["readmit"] * 3
    replayed(owner.journal[KEEP])


@pytest.mark.invariant("APPLY-4")
def test_who_descends_from_two_that_were_refused_comes_back_with_the_last() -> None:
    """In whichever order they come back."""
    for order in ((0, 1), (1, 0)):
        owner = Owner()
        roots = [made_tx([coin_of_others(n)], 1, n) for n in (1, 2)]
        child = made_tx([outpoint(tx.txid, 0) for tx in roots], 1, 3)
        grandchild = made_tx([outpoint(child.txid, 0)], 1, 4)
        for number, tx in enumerate((*roots, child, grandchild)):
            owner.do(ALL, apply_of(verified(tx, offset=number)))
        root = head_of(owner.store, ALL).state_root
        for tx in roots:
            owner.do(ALL, Evict(f"evict {tx.txid.hex()}", tx.txid, "network.rejected", "no"))
        first, last = (owner.do(ALL, Readmit(f"readmit {n}", roots[n].txid)) for n in order)
        assert [each.txid for each in first.revised] == [roots[order[0]].txid]
        assert [each.txid for each in last.revised] == [roots[order[1]].txid, child.txid, grandchild.txid]
        assert head_of(owner.store, ALL).state_root == root


@pytest.mark.invariant("APPLY-4")
def test_what_a_rival_holds_stays_out_and_is_heard_again_when_the_rival_leaves() -> None:
    owner = Owner()
    point = coin_of_others(1)
    parent, rival = made_tx([point], 2, 1), made_tx([point], 1, 2)
    child = made_tx([outpoint(parent.txid, 0)], 1, 3)
    for number, tx in enumerate((parent, child)):
        owner.do(ALL, apply_of(verified(tx, offset=number)))
    owner.do(ALL, Evict("evict", parent.txid, "network.rejected", "no"))
    assert isinstance(owner.do(ALL, apply_of(verified(rival, offset=2))).said, Answer)
    change = owner.do(ALL, Readmit("readmit", parent.txid))
    assert change.revised == ()
    assert list(kinds_of(change.entries)) == ["dismiss", "dismiss"]
    assert entries_of(owner.store, ALL)[state.LOSER, point] == Losers((origin_at(0), origin_at(1)))
    gone = owner.do(ALL, Evict("evict rival", rival.txid, "network.double-spend", "no", (parent.txid,)))
    assert gone.again == (origin_at(0), origin_at(1))
    assert (state.LOSER, point) not in entries_of(owner.store, ALL)
    for number, tx in enumerate((parent, child)):  # as they are heard again
        assert isinstance(owner.do(ALL, apply_of(verified(tx, offset=number))).said, Answer)
    replayed(owner.journal[ALL])


@pytest.mark.invariant("APPLY-2")
def test_a_dismissed_loser_is_heard_again_when_its_rival_is_evicted() -> None:
    """Under its own coordinate, and once."""
    owner = Owner()
    point = coin_of_others(1)
    first, second = made_tx([point], 1, 1), made_tx([point], 1, 2)
    owner.do(ALL, apply_of(verified(first, offset=1)))
    owner.do(ALL, Accept("accept", (first.txid,), "arc@a"))
    owner.do(ALL, apply_of(verified(second, offset=2)))
    assert owner.do(ALL, Evict("evict", first.txid, "network.double-spend", "no", (second.txid,))).again == (
        origin_at(2),
    )
    assert isinstance(owner.do(ALL, apply_of(verified(second, offset=2))).said, Answer)
    assert owner.do(ALL, Evict("again", second.txid, "network.rejected", "no")).again == ()


def test_a_coin_an_eviction_returned_is_contested_while_its_rival_is_open() -> None:
    """Marked beside the coin, which stays in the state root; the mark goes with the rival, known here or not."""
    owner = Owner()
    parent, child = family_of_two()
    rivals = (b"\x07" * 32, b"\x08" * 32)
    coin = outpoint(parent.txid, 0)
    owner.do(ALL, apply_of(verified(parent)))
    root = head_of(owner.store, ALL).state_root
    owner.do(ALL, apply_of(verified(child, [parent], offset=1)))
    owner.do(ALL, Evict("evict", child.txid, "network.double-spend", "no", rivals))
    held = entries_of(owner.store, ALL)
    assert (held[state.COIN, coin], held[state.CONTESTED, coin]) == (b"", Contested(rivals))
    assert head_of(owner.store, ALL).state_root == root
    change = owner.do(ALL, Evict("evict 7", rivals[0], "network.rejected", "no"))
    assert (list(kinds_of(change.entries)), change.evicted) == (["evict"], ())
    assert entries_of(owner.store, ALL)[state.CONTESTED, coin] == Contested(rivals[1:])
    owner.do(ALL, Evict("evict 8", rivals[1], "network.rejected", "no"))
    assert not {kind for kind, _ in entries_of(owner.store, ALL)} & {state.CONTESTED, state.RIVAL}
    replayed(owner.journal[ALL])


@pytest.mark.invariant("FAULT-1")
def test_a_manager_that_fails_at_a_readmission_leaves_everything_as_it_was() -> None:
    owner = Owner()
    parent, _ = family_of_two()
    owner.do(ODD, apply_of(verified(parent)))
    owner.do(ODD, Evict("evict", parent.txid, "network.rejected", "no"))
    layer = Layer(owner.store)
    with pytest.raises(BadManager):
        rules.readmit(layer, head_of(layer, ODD), ODD, Readmit("r", parent.txid), {}, NOW_MS)
    assert layer.writes == {}
    assert (state.TOMBSTONE, parent.txid) in entries_of(owner.store, ODD)
