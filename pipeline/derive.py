"""The state of a context from the set it knows, in the plainest way: the oracle of the steps, and of repair.

What came first, or in which order, is no argument here. Two known transactions never spend one output: who came second
to an output was not taken into the set.
"""

from collections.abc import Mapping

from msgspec import Struct

from pipeline.overlay.manager import Subject, TopicManager, admit, facts_of, up_to_date
from schemas.external import Admittance
from schemas.state import Submission
from schemas.types import Outpoint, Txid, outpoint, outpoints


class Derived(Struct, frozen=True):
    """What follows from a set."""

    judgements: dict[Txid, Admittance]  # of those that were submitted
    coins: frozenset[Outpoint]  # admitted, and spent by nobody known
    history: dict[Outpoint, Txid]  # spent, and kept by the manager of its spender


def derive(
    known: Mapping[Txid, bytes], submitted: Mapping[Txid, Submission], topic: str, manager: TopicManager
) -> Derived:
    """known: each transaction's outpoints, 36 bytes each, in input order; submitted: those of them to be judged."""
    judgements: dict[Txid, Admittance] = {}
    admitted: dict[Outpoint, bytes] = {}  # the output as it stands
    history: dict[Outpoint, Txid] = {}
    for txid in parents_first(known):
        if txid not in submitted:
            continue
        spends, submission = list(outpoints(known[txid])), up_to_date(manager, topic, txid, submitted[txid])
        previous = tuple(vin for vin, point in enumerate(spends) if point in admitted)
        # A payload with a proven subject need not hold what it spends; coins of this context are known all the same.
        sources = [admitted.get(point, held) for point, held in zip(spends, submission.sources, strict=True)]
        facts = facts_of(manager, submission)
        subject = Subject(txid, submission.raw, sources, previous, submission.off_chain, facts)
        said = judgements[txid] = admit(manager, topic, subject)
        admitted |= {outpoint(txid, vout): subject.tx.output(vout) for vout in said.outputs_to_admit}
        history |= {spends[vin]: txid for vin in said.coins_to_retain}
    spent = {point for spends in known.values() for point in outpoints(spends)}
    return Derived(judgements, frozenset(admitted.keys() - spent), history)


def parents_first(known: Mapping[Txid, bytes]) -> list[Txid]:
    """Each behind those it spends from. Depth first, on a list."""
    order: dict[Txid, None] = {}
    opened: set[Txid] = set()
    stack = sorted(known, reverse=True)
    while stack:
        txid = stack[-1]
        if txid in opened:
            order[stack.pop()] = None
            continue
        opened.add(txid)
        parents = {point[:32] for point in outpoints(known[txid])}
        stack += [parent for parent in parents if parent in known and parent not in opened]
    return list(order)
