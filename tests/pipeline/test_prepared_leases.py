"""What an undecided operation spends, and who holds it: no lease ends before the decision, and nobody else gets it."""

import msgspec
import pytest

from pipeline import baskets
from pipeline.contextual import Answer as Taken
from pipeline.contextual import Change
from pipeline.coordinate import bare
from pipeline.prepare import whole
from pipeline.read import shown
from schemas.flow import Decide, Expire, Part, Prepare, Release
from schemas.journal import JOURNAL
from schemas.operations import Vote
from schemas.types import Outpoint
from tests.fakes import verified
from tests.pipeline.test_apply import replayed
from tests.pipeline.test_baskets import CONTEXT, asked, paying, read
from tests.pipeline.test_reservations import LEASE_MS, Shop

pytestmark = [pytest.mark.invariant("ATOMIC-1"), pytest.mark.invariant("RESERVE-1"), pytest.mark.invariant("RESERVE-2")]

OTHER = "topic:tm_all"


def operation(point: Outpoint, *claims: tuple[str, int], offset: int = 500) -> Prepare:
    """A part of an operation that spends an owner's output and shows these reservations."""
    payload = verified(paying(b"\x53", spends=[point], salt=offset), offset=offset, contexts=(CONTEXT, OTHER))
    payload = msgspec.structs.replace(payload, asked=msgspec.structs.replace(payload.asked, atomicity="all"))
    named = [{"id": name, "token": token} for name, token in claims]
    return whole(0, payload, [Part(CONTEXT, None, baskets.encode(read(asked(reservations=named)))), Part(OTHER)])


def decided(asked_for: Prepare, *, commit: bool) -> Decide:
    of = asked_for.apply.verified
    return Decide(asked_for.operation, 0, commit, bare(of.asked), of.txid, code="" if commit else "admission.nothing")


def voted(change: Change) -> str:
    ((_, said),) = change.words
    assert isinstance(said, Vote)
    return said.says


@pytest.mark.parametrize("commit", [True, False])
def test_a_lease_that_would_end_during_prepare_ends_behind_the_decision(commit: bool) -> None:
    shop = Shop(2)
    held = shop.reserve("one")
    part = operation(shop.points[0], ("one", held.token))
    assert voted(shop.owner.do(CONTEXT, part)) == "yes"
    shop.owner.now_ms += 10 * LEASE_MS
    shop.owner.do(CONTEXT, Expire("expire"))
    assert shop.held() == {"one": (shown(shop.points[0]),)}
    assert shop.reserve("two", 2).code == "conflict.too-few"
    change = shop.owner.do(CONTEXT, decided(part, commit=commit))
    kinds = [JOURNAL.decode(entry).kind for entry in change.entries]
    if commit:
        assert isinstance(change.said, Taken)
        assert kinds == ["commit", "consume"]
    else:
        assert kinds == ["abort"]
        assert [JOURNAL.decode(each).kind for each in shop.owner.do(CONTEXT, Expire("expire")).entries] == ["expire"]
        assert shop.spendable() == [shown(point) for point in shop.points]
    assert shop.held() == {}
    replayed(shop.owner.journal[CONTEXT])


def test_what_is_prepared_is_not_offered() -> None:
    """By number or by name, and not either when its holder gives it back meanwhile; afterwards it is."""
    shop = Shop(1)
    part = operation(shop.points[0])
    assert voted(shop.owner.do(CONTEXT, part)) == "yes"
    assert shop.reserve("one").code == "conflict.too-few"
    assert shop.reserve_these("two", shop.points[0]).code == "conflict.not-free"
    shop.owner.do(CONTEXT, decided(part, commit=False))
    held = shop.reserve("three")
    assert held.outcome == "reserved"
    again = operation(shop.points[0], ("three", held.token), offset=501)
    assert voted(shop.owner.do(CONTEXT, again)) == "yes"
    assert shop.ask("four", Release("three", held.token)).answer.outcome == "released"
    assert shop.reserve("five").code == "conflict.too-few"
    assert isinstance(shop.owner.do(CONTEXT, decided(again, commit=True)).said, Taken)
    assert shop.spendable() == []
    replayed(shop.owner.journal[CONTEXT])


def test_who_lost_his_reservation_is_told_no() -> None:
    shop = Shop(1)
    held = shop.reserve("one")
    shop.owner.now_ms += 2 * LEASE_MS
    change = shop.owner.do(CONTEXT, operation(shop.points[0], ("one", held.token)))
    ((_, said),) = change.words
    assert isinstance(said, Vote)
    assert (said.says, said.code) == ("no", "conflict.reservation-lost")
