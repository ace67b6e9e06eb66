"""What becomes of a second spender, by what the network knows of the first (design 7, *Conflicts*)."""

import pytest

from pipeline.contextual import Answer
from pipeline.outcome import Condition
from pipeline.state import head_of
from schemas.flow import Evict
from schemas.types import outpoint
from tests.fakes import Owner, apply_of, coin_of_others, made_tx, verified
from tests.pipeline.test_apply import ALL, KEEP, replayed

POINT = coin_of_others(1)
HOLDER, NEWCOMER = made_tx([POINT], 2, 1), made_tx([POINT], 1, 2)
CHILD = made_tx([outpoint(HOLDER.txid, 0)], 1, 3)
CONTEXTS = (ALL, KEEP)


@pytest.mark.invariant("APPLY-2")
@pytest.mark.parametrize("proven", [False, True], ids=["never-sent", "against-a-proven-newcomer"])
def test_a_holder_that_goes_leaves_in_every_context_that_has_it(proven: bool) -> None:
    """The newcomer waits, proven or not: a context does not decide what the network does.

    Told that the holder is refused (in favour of the newcomer, or never sent by anybody), each context is as if only
    the newcomer had come.
    """
    owner, other = Owner(), Owner()
    holds = apply_of(verified(HOLDER, offset=1))
    for context in CONTEXTS:
        owner.do(context, holds)
        owner.do(context, apply_of(verified(CHILD, [HOLDER], offset=2)))
    newcomer = apply_of(verified(NEWCOMER, proven=proven, offset=3))
    waits = owner.do(ALL, newcomer)  # it was sent to one of them alone
    assert isinstance(waits.said, Condition)
    assert (waits.said.code, waits.competing, waits.entries) == ("conflict.undecided", (HOLDER.txid,), ())
    refused = Evict("evict", HOLDER.txid, "network.double-spend", "no", (NEWCOMER.txid,) if proven else ())
    for context in CONTEXTS:
        gone = owner.do(context, refused)
        assert [each.txid for each in gone.evicted] == [CHILD.txid, HOLDER.txid]
    assert isinstance(owner.do(ALL, newcomer).said, Answer)
    other.do(ALL, newcomer)
    assert head_of(owner.store, ALL).state_root == head_of(other.store, ALL).state_root
    assert head_of(owner.store, KEEP).state_root == head_of(other.store, KEEP).state_root, "nothing is left"
    assert getattr(owner.do(KEEP, holds).said, "code", "") == "conflict.evicted"
    for context in CONTEXTS:
        replayed(owner.journal[context])
