"""What becomes of a second spender, by what the network knows of the first (design 7, *Conflicts*)."""

import pytest

from pipeline import apply as rules
from pipeline.contextual import Answer
from pipeline.outcome import Condition, Verdict
from pipeline.proof import Claim, claim
from pipeline.state import Layer, head_of
from schemas.flow import Accept, Evict, Readmit
from schemas.types import outpoint
from tests.fakes import MANAGERS, NOW_MS, Owner, apply_of, coin_of_others, made_tx, verified
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


ANY = "topic:tm_odd"
"""Admits one output, and nothing where it is told so."""


@pytest.mark.invariant("STATUS-3")
@pytest.mark.parametrize("proven", [False, True])
@pytest.mark.parametrize("accepted", [False, True])
def test_status_hears_of_both(proven: bool, accepted: bool) -> None:
    """Of one in a block in any case, with its path; of another unless it has lost already. Each time it comes."""
    owner = Owner()
    owner.do(ALL, apply_of(verified(HOLDER, offset=1)))
    if accepted:
        owner.do(ALL, Accept("a", (HOLDER.txid,), "arc@a"))
    newcomer = verified(NEWCOMER, proven=proven, offset=2)
    for _ in range(2):
        said = owner.do(ALL, apply_of(newcomer))
        if accepted and not proven:
            assert (isinstance(said.said, Verdict), said.challenges) == (True, ())
            continue
        assert isinstance(said.said, Condition)
        (pair,) = said.challenges
        assert (pair.holder, pair.by, pair.sent) == (HOLDER.txid, NEWCOMER.txid, True)
        if proven:
            found = claim(NEWCOMER.txid, pair.path)
            assert isinstance(found, Claim)
            assert found.at == (900_000, NEWCOMER.txid)  # the only one of its block
        else:
            assert pair.path == b""


def test_the_pair_is_the_one_that_spends_the_same_be_it_an_ancestor() -> None:
    owner = Owner()
    owner.do(ALL, apply_of(verified(HOLDER, offset=1)))
    grandchild = made_tx([outpoint(NEWCOMER.txid, 0)], 1, 9)
    said = owner.do(ALL, apply_of(verified(grandchild, [NEWCOMER], offset=2)))
    assert [(pair.holder, pair.by) for pair in said.challenges] == [(HOLDER.txid, NEWCOMER.txid)]


@pytest.mark.parametrize(
    ("child", "always", "sent"),
    [
        (b"nothing", False, False),
        (b"", False, True),
        (None, False, False),
        (b"nothing", True, True),
        (None, True, True),
    ],
)
def test_what_was_sent_is_what_a_context_made_something_of(child: bytes | None, always: bool, sent: bool) -> None:
    """Or of what descends from it: a request holds the ancestors."""
    owner = Owner()
    owner.do(ANY, apply_of(verified(HOLDER, offset=1, off_chain=b"nothing")))
    if child is not None:
        owner.do(ANY, apply_of(verified(CHILD, [HOLDER], offset=2, off_chain=child)))
    layer = Layer(owner.store)
    said = rules.apply(
        layer, head_of(layer, ANY), ANY, apply_of(verified(NEWCOMER, offset=3)), MANAGERS, NOW_MS, always=always
    )
    assert [pair.sent for pair in said.challenges] == [sent]


def test_one_that_is_only_an_ancestor_was_sent_with_its_child() -> None:
    owner = Owner()
    owner.do(ANY, apply_of(verified(CHILD, [HOLDER], offset=2, off_chain=b"nothing")))
    newcomer = apply_of(verified(NEWCOMER, offset=3))
    assert [pair.sent for pair in owner.do(ANY, newcomer).challenges] == [False]
    owner.do(ANY, apply_of(verified(made_tx([outpoint(CHILD.txid, 0)], 1, 4), [HOLDER, CHILD], offset=4)))
    assert [pair.sent for pair in owner.do(ANY, newcomer).challenges] == [True]


@pytest.mark.invariant("APPLY-4")
def test_one_that_may_come_back_and_finds_a_rival_there_tells_of_it() -> None:
    """The network took it after all: what holds its output by now can only be refused."""
    owner = Owner()
    owner.do(ALL, apply_of(verified(HOLDER, offset=1)))
    owner.do(ALL, Evict("e", HOLDER.txid, "network.double-spend", "no", (NEWCOMER.txid,)))
    owner.do(ALL, apply_of(verified(NEWCOMER, offset=2)))
    back = owner.do(ALL, Readmit("r", HOLDER.txid))
    assert [(pair.holder, pair.by) for pair in back.challenges] == [(NEWCOMER.txid, HOLDER.txid)]
