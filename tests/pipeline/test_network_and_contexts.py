"""Status and contexts together, as values: whatever comes in whichever order, they agree in the end with the network.

Two transactions spend one output, each has a child; contexts get any of them, proven or not, now or later; miners take
one or the other, and change their mind; what stages write to each other waits, and is delivered in any order that Kafka
allows. Once the world stands still, no context holds what the network refused, and each holds what the network has, if
it was sent there.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from pipeline.contextual import Answer, Change
from pipeline.network import UNKNOWN, Times, hear
from pipeline.outcome import Condition
from pipeline.state import head_of
from schemas.flow import Accept, Apply, Evict, Operation, Readmit
from schemas.network import Anchored, Challenged, Challenges, Looked, NetworkStatus, News, Outdone, Reported, Word
from schemas.types import Context, Txid, outpoint
from tests.fakes import Owner, apply_of, coin_of_others, made_tx, verified
from tests.profiles import CHEAP

COIN = coin_of_others(1)
ONE, OTHER = made_tx([COIN], 1, 1), made_tx([COIN], 1, 2)
CHILDREN = {tx.txid: made_tx([outpoint(tx.txid, 0)], 1, 3 + n) for n, tx in enumerate((ONE, OTHER))}
PARENTS = {child.txid: tx for tx in (ONE, OTHER) for child in (CHILDREN[tx.txid],)}
RIVAL = {ONE.txid: OTHER.txid, OTHER.txid: ONE.txid}
ALL = {tx.txid: tx for tx in (ONE, OTHER, *CHILDREN.values())}
CONTEXTS = ("topic:tm_all", "topic:tm_keep")
NAMES = ("arc@a", "arc@b")
TIMES = Times(settle_ms=1_000, unseen_ms=1_000, unmined_ms=1_000)


class Request(Struct):
    """A broadcast request."""

    subject: Txid
    context: Context
    number: int


class World:
    """Contexts, standings, endpoints, trackers, and what is on its way between them."""

    def __init__(self) -> None:
        self.now_ms = 1_790_000_000_000
        self.owner = Owner()
        self.standings: dict[Txid, NetworkStatus] = {}
        self.news: dict[Txid, deque[News]] = {txid: deque() for txid in ALL}
        self.operations: dict[Context, deque[Operation]] = {context: deque() for context in CONTEXTS}
        self.waits: dict[Context, list[Apply]] = {context: [] for context in CONTEXTS}
        self.requests: list[Request] = []
        self.payloads: dict[int, tuple[Context, Apply]] = {}
        self.had: set[Txid] = set()  # endpoints got it
        self.winner: Txid | None = None  # whose spend of the coin the network has
        self.block: Txid | None = None

    # --- what the world does

    def submit(self, subject: Txid, context: Context, *, proven: bool) -> None:
        """A payload comes, whose proof verify has found good."""
        number = len(self.payloads)
        ancestors = [PARENTS[subject]] if subject in PARENTS else []
        payload = verified(ALL[subject], ancestors, proven=proven and self.block == subject, offset=number)
        self.payloads[number] = context, apply_of(payload)
        self.operations[context].append(self.payloads[number][1])

    def turn(self, winner: Txid) -> None:
        """Miners keep another, as long as neither is in a block."""
        if self.block is None:
            self.winner = winner

    def mine(self, txid: Txid | None) -> None:
        """A block with it; or its block is replaced by one with neither."""
        self.block = txid
        self.winner = txid or self.winner

    def prove(self, subject: Txid, context: Context) -> None:
        """A block with it, and it comes with its proof."""
        self.mine(subject)
        self.submit(subject, context, proven=True)

    # --- what stages do, one record at a time

    def operate(self, context: Context) -> bool:
        """The next operation of a context."""
        if not self.operations[context]:
            return False
        operation = self.operations[context].popleft()
        change = self.owner.do(context, operation)
        self._follow(context, change)
        while change.settling:
            change = self.owner.settle(context)
            self._follow(context, change)
        if isinstance(operation, Apply):
            self._answered(context, operation, change.said)
        return True

    def _follow(self, context: Context, change: Change) -> None:
        for pair in change.challenges:
            holders = () if pair.holder is None else (pair.holder,)
            for holder in holders:
                self.news[holder].append(Challenged(pair.by, context, pair.sent, pair.proven))
            self.news[pair.by].append(Challenges(holders, context, b"path" if pair.path else b""))
        for origin in change.again:
            where, payload = self.payloads[origin.offset]
            self.operations[where].append(payload)

    def _answered(self, context: Context, operation: Apply, said: Any) -> None:
        if isinstance(said, Condition):
            self.waits[context].append(operation)
        if isinstance(said, Answer) and said.fresh and operation.verified.proven_height < 0:
            self.requests.append(Request(operation.verified.txid, context, operation.verified.asked.origin.offset))

    def retry(self, context: Context) -> None:
        """What met a condition comes back."""
        self.operations[context] += self.waits[context]
        self.waits[context].clear()

    def broadcast(self) -> bool:
        """The next request; one that nobody decides comes back."""
        if not self.requests:
            return False
        request = self.requests.pop(0)
        began_ms, self.now_ms = self.now_ms, self.now_ms + 2_000
        family = [*([PARENTS[request.subject].txid] if request.subject in PARENTS else []), request.subject]
        said = {txid: self._submitted(txid) for txid in family}
        again = said[request.subject][0] == "condition"
        for txid, (kind, rivals) in said.items():
            own = txid == request.subject
            words = tuple(
                Word(name, kind, kind, "x", "", False, self.now_ms, rivals, began_ms=began_ms) for name in NAMES
            )
            stands = all(each == "accepted" for each, _ in said.values()) or kind == "accepted"
            ids = (f"r{request.number}",) if own else ()
            origin = self.payloads[request.number][1].verified.asked.origin if own else None
            self.news[txid].append(Reported(words, NAMES, stands, (request.context,), ids, origin, again=again))
        if again:
            self.requests.append(request)
        return not again

    def _submitted(self, txid: Txid) -> tuple[Any, tuple[Txid, ...]]:
        self.had.add(txid)
        if txid in PARENTS:
            return ("accepted" if self.winner == PARENTS[txid].txid else "condition"), ()
        self.winner = self.winner or txid
        return ("accepted", ()) if self.winner == txid else ("refused", (self.winner,))

    def decide(self, txid: Txid) -> bool:
        """The next news of a transaction."""
        if not self.news[txid]:
            return False
        step = hear(self.standings.get(txid, UNKNOWN), self.news[txid].popleft(), self.now_ms, TIMES)
        self.standings[txid] = step.status
        for tell in step.tells:
            for context in tell.contexts:
                self.operations[context].append(_operation(tell.word, txid, step.status))
        for rival in step.outdoes:
            self.news[rival].append(Outdone(txid, bool(step.status.path)))
        return True

    def look(self, txid: Txid, *, replaced: bool = False) -> bool:
        """What is due is looked up; replaced: also where paths may have been."""
        status = self.standings.get(txid, UNKNOWN)
        if not (0 < status.look_ms <= self.now_ms) and not (replaced and status.path):
            return False
        if not status.path:
            self.news[txid].append(Looked(self._known(txid), NAMES, self.now_ms))
        for _ in filter(None, {status.path, status.claimed}):
            stands = self.block == txid
            self.news[txid].append(Anchored(b"path", 800, txid, stands, 800, self.now_ms))
        return True

    def _known(self, txid: Txid) -> tuple[Word, ...]:
        wins = self.winner == (PARENTS[txid].txid if txid in PARENTS else txid)
        if (not wins and txid not in self.had) or (wins and txid in PARENTS and txid not in self.had):
            return ()
        kind: Any = "accepted" if wins else "condition" if txid in PARENTS else "refused"
        rivals = (self.winner,) if kind == "refused" and self.winner else ()
        return tuple(Word(n, kind, kind, "x", "", kind != "condition", self.now_ms, rivals, asked=True) for n in NAMES)

    def settle(self) -> None:
        """Until nothing follows any more."""
        for _ in range(200):
            # Whatever is to be looked at is due.
            self.now_ms = max(self.now_ms, 0, *(status.look_ms for status in self.standings.values())) + 2_000
            moved = [self.operate(context) for context in CONTEXTS for _ in range(20)]
            moved += [self.decide(txid) for txid in ALL for _ in range(20)]
            for context in CONTEXTS:
                self.retry(context)
            before = self._facts()
            for _ in range(len(self.requests)):
                self.broadcast()
            for txid in ALL:
                self.look(txid, replaced=True)
            while any([*map(self.decide, ALL), *map(self.operate, CONTEXTS)]):
                pass
            if not any(moved) and self._facts() == before:
                return
        raise AssertionError("it never stands still")

    def _facts(self) -> Any:
        decided = {
            txid: (status.decided, status.path, status.outdone, status.settles_ms, status.unsent_ms, status.claimed)
            for txid, status in self.standings.items()
        }
        return decided, [head_of(self.owner.store, context).sequence for context in CONTEXTS]

    # --- what must be

    def stands(self, txid: Txid, context: Context) -> bool:
        """Whether a context knows it."""
        return self.owner.store.get(f"{context}\0k".encode() + txid) is not None


def _operation(word: str, txid: Txid, status: NetworkStatus) -> Operation:
    if word == "accept":
        return Accept("accept", (txid,), status.endpoint)
    return (
        Evict("evict", txid, status.code, status.message, status.competing) if word == "evict" else Readmit("r", txid)
    )


TXIDS = st.sampled_from([ONE.txid, OTHER.txid])
STEPS = st.one_of(
    st.tuples(st.just("submit"), st.sampled_from(list(ALL)), st.sampled_from(CONTEXTS), st.booleans()),
    st.tuples(st.just("turn"), TXIDS),
    st.tuples(st.just("prove"), TXIDS, st.sampled_from(CONTEXTS)),
    st.tuples(st.just("mine"), st.one_of(st.none(), TXIDS)),
    st.tuples(st.just("operate"), st.sampled_from(CONTEXTS)),
    st.tuples(st.just("retry"), st.sampled_from(CONTEXTS)),
    st.tuples(st.just("broadcast")),
    st.tuples(st.just("decide"), st.sampled_from(list(ALL))),
    st.tuples(st.just("look"), st.sampled_from(list(ALL))),
    st.tuples(st.just("wait")),
)


def take(world: World, step: tuple[Any, ...]) -> None:
    """One step of the world."""
    match step:
        case ("submit", subject, context, proven):
            world.submit(subject, context, proven=proven)
        case ("wait",):
            world.now_ms += 1_500
        case (name, *arguments):
            act: Callable[..., Any] = getattr(world, name)
            act(*arguments)


@pytest.mark.invariant("STATUS-3")
@pytest.mark.invariant("APPLY-4")
@settings(CHEAP)
@given(st.lists(STEPS, max_size=40), st.lists(STEPS, max_size=10), st.sampled_from(CONTEXTS))
def test_in_the_end_contexts_hold_what_the_network_has(
    steps: list[tuple[Any, ...]], more: list[tuple[Any, ...]], context: Context
) -> None:
    world = World()
    for step in (*steps, *(("submit", tx.txid, context, True) for tx in (OTHER, ONE)), *more):
        take(world, step)
    world.settle()
    for here in CONTEXTS:
        sent = [payload.verified for where, payload in world.payloads.values() if where == here]
        txids, proven = ({each.txid for each in sent}, {each.txid for each in sent if each.proven_height >= 0})
        for tx in (ONE, OTHER):
            if world.winner != RIVAL[tx.txid] or not {tx.txid, RIVAL[tx.txid]} <= txids:
                continue
            # Whoever came with a proof is taken at its word there, until another does: nobody else watches its block.
            if tx.txid in proven and not (RIVAL[tx.txid] in proven and world.block == RIVAL[tx.txid]):
                continue
            assert not world.stands(tx.txid, here), "the network has the other"
            assert world.stands(RIVAL[tx.txid], here), "the network has it"
