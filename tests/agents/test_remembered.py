"""What a verifier remembers: how much, what leaves first, and that it supplies bytes alone."""

import pytest

from agents.runtime.remembered import BESIDE, Remembered
from agents.verifier import Verifier
from pipeline.ancestors import cut
from pipeline.chain.answer import Answer
from pipeline.codec.beef import write_beef_v2
from pipeline.codec.tx import Tx
from pipeline.policy import Policy
from schemas.types import display
from tests.agents.test_verifier import Told, of
from tests.builders import In, Out, bag, funding, spend

RESOLVE = Policy(txid_only="resolve")
PARENT = funding(Out(1000), Out(1000))
CHILD = spend([In(PARENT)], [Out(999)])
TIP_TX = spend([In(CHILD)], [Out(998)])
FIRST = bag(PARENT, CHILD, proven=[PARENT]).v1()
WHOLE = bag(PARENT, CHILD, TIP_TX, proven=[PARENT]).v1()
SIZE = len(FIRST) + 2 * BESIDE
TWO = 2 * SIZE + 8  # a signature may be a byte or two longer
MUCH = 1 << 20


def naming(named: Tx, subject: Tx = TIP_TX) -> bytes:
    return write_beef_v2([], [(named.txid, -1), (subject.raw, -1)])


def other(salt: int) -> tuple[bytes, Tx]:
    """A payload as large as `FIRST`, and its proven coin."""
    parent = funding(Out(1000), Out(1000), salt=salt)
    return bag(parent, spend([In(parent)], [Out(999)]), proven=[parent]).v1(), parent


def test_what_was_found_valid_is_found_and_nothing_else() -> None:
    with Verifier(RESOLVE, remember_bytes=MUCH) as verifier:
        unknown = verifier.verify(naming(CHILD), Told())
        assert of(unknown) == ("invalid", "structure.txid-only")
        assert (unknown.txid, unknown.at) == (display(TIP_TX.txid), "tx 1 input 0")
        assert of(verifier.verify(FIRST, Told(Answer.UNKNOWN))) == ("indeterminate", "anchor.unknown")
        assert of(verifier.verify(naming(CHILD), Told())) == ("invalid", "structure.txid-only")
        assert of(verifier.verify(FIRST, Told())) == ("valid", None)
        by_name = verifier.verify(naming(CHILD), Told())
    with Verifier() as plain:
        assert by_name == plain.verify(WHOLE, Told())


def test_a_completed_payload_is_remembered_whole() -> None:
    """Its own transaction can be named next, and so can what it named."""
    last = spend([In(TIP_TX)], [Out(997)])
    with Verifier(RESOLVE, remember_bytes=MUCH) as verifier:
        for payload in (FIRST, naming(CHILD), naming(TIP_TX, last)):
            assert of(verifier.verify(payload, Told())) == ("valid", None)


@pytest.mark.invariant("NAMED-1")
@pytest.mark.parametrize("said", [Answer.NO, Answer.UNKNOWN])
def test_a_remembered_payload_whose_root_is_denied_meanwhile_is_not_valid(said: Answer) -> None:
    with Verifier(RESOLVE, remember_bytes=MUCH) as verifier:
        assert of(verifier.verify(FIRST, Told())) == ("valid", None)
        expected = ("invalid", "anchor.wrong-root") if said is Answer.NO else ("indeterminate", "anchor.unknown")
        assert of(verifier.verify(naming(CHILD), Told(said))) == expected


def test_by_default_nothing_is_remembered_and_names_are_refused() -> None:
    for verifier in (Verifier(), Verifier(RESOLVE), Verifier(remember_bytes=MUCH)):
        with verifier:
            assert of(verifier.verify(FIRST, Told())) == ("valid", None)
            assert of(verifier.verify(naming(CHILD), Told())) == ("invalid", "structure.txid-only")


def test_the_least_recently_used_leave_first() -> None:
    kept = Remembered(TWO)
    kept.keep(FIRST)
    beef, coin = other(1)
    kept.keep(beef)
    assert kept.find([PARENT.txid]) == cut(FIRST, [PARENT.txid])  # used
    newest, newest_coin = other(2)
    kept.keep(newest)
    assert kept.size <= TWO
    assert kept.find([PARENT.txid, coin.txid, newest_coin.txid]).keys() == {PARENT.txid, newest_coin.txid}
    kept.keep(FIRST)  # again, and so used
    kept.keep(beef)
    assert kept.find([PARENT.txid, coin.txid, newest_coin.txid]).keys() == {PARENT.txid, coin.txid}


def test_what_another_payload_shows_as_well_stays() -> None:
    """The newest that holds a transaction leaves before an older one that was used since."""
    kept = Remembered(TWO)
    kept.keep(FIRST)
    again = bag(PARENT, spend([In(PARENT, 1)], [Out(999)]), proven=[PARENT]).v1()
    kept.keep(again)
    kept.find([CHILD.txid])
    kept.keep(other(1)[0])
    assert kept.find([PARENT.txid]).keys() == {PARENT.txid}


def test_what_is_larger_than_all_is_not_kept_and_pushes_nothing_out() -> None:
    kept = Remembered(SIZE)
    kept.keep(FIRST)
    kept.keep(WHOLE)
    assert kept.size == SIZE
    assert kept.find([CHILD.txid, TIP_TX.txid]).keys() == {CHILD.txid}
    nothing = Remembered(0)
    nothing.keep(FIRST)
    assert (nothing.size, nothing.find([CHILD.txid])) == (0, {})
