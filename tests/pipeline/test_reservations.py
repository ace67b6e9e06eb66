"""Reservations: who holds which outputs, until when, and what a spend must show."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import listed, listing, reservations, reserved, state
from pipeline.codec.tx import Tx
from pipeline.contextual import Answer as Taken
from pipeline.contextual import Change
from pipeline.outcome import Condition, Verdict
from pipeline.read import shown
from pipeline.reservations import KEPT_MS, LATE_MS, Requested
from pipeline.state import Layer, head_of, is_index
from schemas.flow import Evict, Expire, Extend, Readmit, Release, Request, Reserve
from schemas.journal import JOURNAL
from schemas.reservations import Answer, HeldReservation
from schemas.types import Outpoint, outpoint, outpoints
from tests.fakes import NOW_MS, Owner, coin_of_others, origin_at
from tests.pipeline.test_apply import replayed
from tests.pipeline.test_baskets import CONTEXT, asked, do, insertion, paying, payment, read, relinquish
from tests.profiles import CHEAP, much

LEASE_MS = 10_000


class Shop:
    """An owner with outputs in a basket, and who asks for them."""

    def __init__(self, units: int = 4, tags: Sequence[str] = ()) -> None:
        self.owner = Owner()
        self.offset = 100
        self.stock = paying(*[b"\x51"] * units)
        do(self.owner, self.stock, read(asked(*(insertion(vout, tags=list(tags)) for vout in range(units)))), 1)

    @property
    def points(self) -> list[Outpoint]:
        return [outpoint(self.stock.txid, vout) for vout in range(len(self.stock.outs) - 1)]

    def ask(self, name: str, what: Reserve | Extend | Release, offset: int | None = None, at_ms: int = 0) -> Requested:
        """One batch of one request, as the stage has it."""
        self.offset += 1
        owner = self.owner
        record = msgspec.structs.replace(origin_at(offset or self.offset), timestamp_ms=at_ms or owner.now_ms)
        expired = owner.do(CONTEXT, Expire("expire"))
        layer = Layer(owner.store)
        found = reservations.request(
            layer, head_of(layer, CONTEXT), CONTEXT, Request(f"request {self.offset}", record, name, what), owner.now_ms
        )
        owner._write(CONTEXT, layer, found.change)
        entries = (*expired.entries, *found.change.entries)
        return msgspec.structs.replace(found, change=msgspec.structs.replace(found.change, entries=entries))

    def reserve(self, name: str, count: int = 1, *tags: str, lease_ms: int = LEASE_MS) -> Answer:
        return self.ask(name, Reserve((), "coins", tags, count, "", lease_ms)).answer

    def reserve_these(self, name: str, *points: Outpoint) -> Answer:
        return self.ask(name, Reserve(tuple(sorted(points)), "", (), 0, "", LEASE_MS)).answer

    def spend(self, points: Sequence[Outpoint], *claims: tuple[str, int], salt: int = 1, **more: Any) -> Change:
        return self.submit(paying(b"\x53", spends=points, salt=salt), *claims, **more)

    def submit(self, tx: Tx, *claims: tuple[str, int], **more: Any) -> Change:
        self.offset += 1
        named = [{"id": name, "token": token} for name, token in claims]
        return do(self.owner, tx, read(asked(reservations=named)), self.offset, **more)

    def words(self, number: int) -> Tx:
        """A transaction that spends nothing of the owner's."""
        return paying(b"\x54", spends=[coin_of_others(50 + number)], salt=50 + number)

    def instruct(self, instruction: dict[str, Any], number: int) -> None:
        """What the owner is to make of others' outputs."""
        self.offset += 1
        do(self.owner, self.words(number), read(instruction), self.offset)

    def held(self) -> dict[str, tuple[str, ...]]:
        page = reserved.page(self.owner.store, CONTEXT, "", 1_000)
        assert page.total_reservations == len(page.reservations)
        assert page.total_outputs == sum(len(each.outputs) for each in page.reservations)
        return {each.id: each.outputs for each in page.reservations}

    def spendable(self) -> list[str]:
        wanted = listed.Wanted(basket="coins", limit=1_000)
        return [each.outpoint for each in listed.outputs(self.owner.store, CONTEXT, wanted).outputs if each.spendable]

    def kinds(self) -> list[str]:
        return [JOURNAL.decode(entry).kind for entry in self.owner.journal[CONTEXT]]


def code_of(change: Change) -> str:
    assert isinstance(change.said, Verdict | Condition), change.said
    return change.said.code


# --- reserving


@pytest.mark.invariant("RESERVE-1")
def test_what_is_reserved_is_not_free() -> None:
    shop = Shop()
    said = shop.reserve("one", 3)
    assert (said.outcome, list(outpoints(said.points))) == ("reserved", shop.points[:3])
    assert said.ends_ms == NOW_MS + LEASE_MS
    assert shop.spendable() == [shown(shop.points[3])]
    again = shop.reserve("two", 2)
    assert (again.outcome, again.code) == ("refused", "conflict.too-few")
    assert shop.held() == {"one": tuple(map(shown, shop.points[:3]))}
    wanted = listed.Wanted(basket="coins")
    told = listed.outputs(shop.owner.store, CONTEXT, wanted).outputs
    assert [each.reservation for each in told] == ["one", "one", "one", None]


def test_the_token_is_the_sequence_of_the_entry_and_rises() -> None:
    shop = Shop()
    tokens = [shop.reserve(name).token for name in ("b", "a", "c")]
    entries = {entry.sequence: entry.kind for entry in map(JOURNAL.decode, shop.owner.journal[CONTEXT])}
    assert tokens == sorted(set(tokens))
    assert [entries[token] for token in tokens] == ["reserve"] * 3


def test_outputs_are_reserved_by_name_all_or_none() -> None:
    shop = Shop()
    assert shop.reserve_these("one", shop.points[1], shop.points[2]).outcome == "reserved"
    refused = shop.reserve_these("two", shop.points[0], shop.points[1], outpoint(bytes(32), 7))
    assert (refused.outcome, refused.code) == ("refused", "conflict.not-free")
    assert "2 of 3" in refused.message
    assert shown(shop.points[1]) in refused.message
    assert shop.spendable() == [shown(shop.points[0]), shown(shop.points[3])]


def test_what_is_counted_has_all_the_tags() -> None:
    shop = Shop(2, ["a"])
    other = paying(b"\x51", b"\x51", b"\x51", spends=[coin_of_others(9)], salt=9)
    instruction = read(
        asked(insertion(0, tags=["a", "b"]), insertion(1, tags=["b"]), insertion(2, "others", tags=["a"]))
    )
    do(shop.owner, other, instruction, 2)
    said = shop.reserve("one", 1, "a", "b")
    assert list(outpoints(said.points)) == [outpoint(other.txid, 0)]
    assert shop.reserve("two", 1, "a", "b").code == "conflict.too-few"
    assert shop.reserve("three", 1, "c").message == "0 of 1 are free"
    assert shop.reserve("four", 2, "a").outcome == "reserved"
    assert shop.reserve("five", 1, "b").outcome == "reserved"
    assert shop.reserve("six", 1).message == "0 of 1 are free"


def test_what_is_contested_relinquished_or_spent_is_not_free() -> None:
    shop = Shop(3)
    shop.spend(shop.points[:1])
    spender = paying(b"\x53", spends=shop.points[:1], salt=1)
    shop.owner.do(CONTEXT, Evict("evict", spender.txid, "network.double-spend", "no", (bytes(32),)))
    other = paying(b"\x54", spends=[coin_of_others(5)], salt=2)
    do(shop.owner, other, read(relinquish(("coins", shop.stock, 1))), 50)
    shop.spend(shop.points[2:], salt=3)
    for number, point in enumerate(shop.points):
        assert shop.reserve_these(f"named {number}", point).code == "conflict.not-free"
    assert shop.reserve("counted").code == "conflict.too-few"


def test_change_is_reserved_by_name_alone() -> None:
    """What pays the owner no application can name a basket of; the wallet knows its outpoints."""
    shop = Shop(1)
    paid = paying(b"\x76\xa9\x14" + bytes(20) + b"\x88\xac", spends=[coin_of_others(8)], salt=8)
    do(shop.owner, paid, read(asked(payment(0))), 2)
    assert shop.reserve("counted", 2).code == "conflict.too-few"
    assert shop.reserve_these("named", outpoint(paid.txid, 0)).outcome == "reserved"


def test_what_is_contested_is_not_free_when_it_comes_back_another_way() -> None:
    """Spent by another and returned; taken off its list and put back: whoever contests it may yet have it."""
    shop = Shop(1)
    shop.spend(shop.points)
    first, second = (paying(b"\x53", spends=shop.points, salt=salt) for salt in (1, 2))
    shop.owner.do(CONTEXT, Evict("evict", first.txid, "network.double-spend", "no", (bytes(32),)))
    shop.submit(second)
    shop.owner.do(CONTEXT, Evict("evict", second.txid, "network.rejected", "no"))
    assert shop.reserve("spent").code == "conflict.too-few"
    other = paying(b"\x54", spends=[coin_of_others(5)], salt=3)
    do(shop.owner, other, read(relinquish(("coins", shop.stock, 0))), 50)
    shop.owner.do(CONTEXT, Evict("evict", other.txid, "network.rejected", "no"))
    assert shop.reserve("relinquished").code == "conflict.too-few"
    shop.owner.do(CONTEXT, Evict("evict", bytes(32), "network.rejected", "no"))
    assert shop.reserve("decided").outcome == "reserved"


@pytest.mark.parametrize("most", ["MOST_RESERVATIONS", "MOST_OUTPUTS"])
def test_reservations_of_an_owner_are_bounded(most: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = Shop()
    monkeypatch.setattr(reservations, most, 2)
    assert [shop.reserve(name).code for name in ("a", "b", "c")] == ["", "", "policy.reservations"]
    shop.ask("d", Release("a", 0))
    assert shop.reserve("e").outcome == "reserved"


# --- once


@pytest.mark.invariant("RESERVE-2")
def test_a_doubled_request_holds_once_and_is_told_the_same() -> None:
    shop = Shop()
    what = Reserve((), "coins", (), 2, "till 4", LEASE_MS)
    first, again, other = shop.ask("one", what, 7), shop.ask("one", what, 7), shop.ask("one", what, 8)
    assert (first.repeat, again.repeat, other.repeat) == (False, False, True)
    assert first.answer == again.answer == other.answer
    assert (first.answer.holder, first.answer.sequence) == ("till 4", first.answer.token)
    assert again.change.entries == other.change.entries == ()
    assert len(shop.spendable()) == 2


def test_a_refusal_is_repeated_though_it_would_be_granted_now() -> None:
    shop = Shop(1)
    shop.reserve("one")
    assert shop.reserve("two").code == "conflict.too-few"
    shop.ask("release", Release("one", 0))
    assert shop.reserve("two").code == "conflict.too-few"
    assert shop.reserve("three").outcome == "reserved"


def test_the_same_id_for_something_else_is_refused() -> None:
    shop = Shop()
    shop.reserve("one", 1)
    before = shop.owner.store.entries.copy()
    for what in (Reserve((), "coins", (), 2, "", LEASE_MS), Release("one", 0)):
        found = shop.ask("one", what)
        assert (found.answer.outcome, found.answer.code, found.change.entries) == ("refused", "conflict.request-id", ())
    assert {key: value for key, value in shop.owner.store.entries.items() if key != state.APPLIED_KEY} == {
        key: value for key, value in before.items() if key != state.APPLIED_KEY
    }


@pytest.mark.invariant("RESERVE-2")
def test_an_answer_outlives_its_reservation_and_is_forgotten_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes so late that its answer may be gone is refused: a record that is read again never holds anew."""
    monkeypatch.setattr(reservations, "FORGET_EVERY", 1)  # with every entry, where tests would need sixteen
    shop = Shop(4)
    what, came_ms = Reserve((), "coins", (), 1, "", LEASE_MS), NOW_MS
    shop.ask("one", what, 7)
    for step in range(5):  # its holder keeps it for much longer than answers are kept otherwise
        shop.owner.now_ms = NOW_MS + step * KEPT_MS
        shop.ask(f"extend {step}", Extend("one", 2, KEPT_MS + 1))
        assert shop.ask("one", what, 7, came_ms).answer.outcome == "reserved"
    ended_ms = shop.owner.now_ms + KEPT_MS + 1
    for ms in (ended_ms, ended_ms + KEPT_MS - 1):
        shop.owner.now_ms = ms
        assert shop.ask("one", what, 7, came_ms).answer.outcome == "reserved"
    assert shop.held() == {}
    shop.owner.now_ms = ended_ms + KEPT_MS
    shop.ask("any", Release("none", 0))
    late = shop.ask("one", what, 7, came_ms)
    assert (late.answer.code, late.change.entries) == ("admission.late-request", ())
    kept = [key for key in shop.owner.store.entries if key.startswith(state.key(CONTEXT, state.ANSWERED, b""))]
    assert len(kept) == 1


def test_answers_are_forgotten_some_at_a_time() -> None:
    """Sixteen entries bring sixteen answers at most, and take away 64."""
    shop = Shop(1)
    prefix = state.key(CONTEXT, state.ANSWERED, b"")

    def kept() -> int:
        return sum(key.startswith(prefix) for key in shop.owner.store.entries)

    for number in range(100):
        shop.ask(f"{number}", Release("none", 0))
    assert kept() == 100
    shop.owner.now_ms += KEPT_MS
    for number in range(reservations.FORGET_EVERY):
        shop.ask(f"later {number}", Release("none", 0))
    assert kept() == 100 + reservations.FORGET_EVERY - reservations.FORGOTTEN


def test_a_request_that_waited_too_long_is_refused() -> None:
    shop = Shop()
    what = Reserve((), "coins", (), 1, "", LEASE_MS)
    shop.owner.now_ms = NOW_MS + LATE_MS
    assert shop.ask("one", what, 7, NOW_MS).answer.outcome == "reserved"
    shop.owner.now_ms += 1
    assert shop.ask("two", what, 8, NOW_MS).answer.code == "admission.late-request"
    assert shop.ask("one", what, 7, NOW_MS).answer.outcome == "reserved"


# --- extending, releasing, time


def test_a_lease_is_extended_by_its_holder_and_never_shortened() -> None:
    shop = Shop()
    token = shop.reserve("one").token
    shop.owner.now_ms += 4_000
    said = shop.ask("longer", Extend("one", token, LEASE_MS)).answer
    assert (said.outcome, said.ends_ms) == ("extended", NOW_MS + 4_000 + LEASE_MS)
    assert shop.ask("shorter", Extend("one", token, 1_000)).answer.ends_ms == NOW_MS + 4_000 + LEASE_MS
    assert shop.ask("another's", Extend("one", token + 1, LEASE_MS)).answer.code == "conflict.reservation-lost"
    assert shop.ask("nobody's", Extend("two", token, LEASE_MS)).answer.code == "conflict.reservation-lost"
    shop.owner.now_ms = NOW_MS + LEASE_MS + 1_000
    assert len(shop.held()) == 1
    shop.owner.do(CONTEXT, Expire("expire"))
    assert len(shop.held()) == 1
    shop.owner.now_ms = NOW_MS + 4_000 + LEASE_MS
    shop.owner.do(CONTEXT, Expire("expire"))
    assert shop.held() == {}


@pytest.mark.parametrize("says_token", [True, False])
def test_what_is_released_is_free_at_once(says_token: bool) -> None:
    shop = Shop()
    token = shop.reserve("one", 4).token
    assert shop.ask("false", Release("one", token + 1)).answer.code == "conflict.reservation-lost"
    said = shop.ask("release", Release("one", token if says_token else 0)).answer
    assert (said.outcome, list(outpoints(said.points))) == ("released", shop.points)
    assert len(shop.spendable()) == 4
    assert shop.ask("again", Release("one", token)).answer.code == "conflict.reservation-lost"
    assert shop.kinds()[1:] == ["reserve", "dismiss", "release", "dismiss"]


@pytest.mark.invariant("RESERVE-2")
def test_a_lease_ends_at_its_time_before_anything_else_is_decided() -> None:
    shop = Shop(1)
    token = shop.reserve("one").token
    shop.owner.now_ms = NOW_MS + LEASE_MS - 1
    assert shop.reserve("early").code == "conflict.too-few"
    shop.owner.now_ms += 1
    found = shop.ask("late", Reserve((), "coins", (), 1, "", LEASE_MS))
    assert [JOURNAL.decode(entry).kind for entry in found.change.entries] == ["expire", "reserve"]
    assert found.answer.token > token
    assert shop.ask("extend", Extend("one", token, LEASE_MS)).answer.code == "conflict.reservation-lost"


@pytest.mark.invariant("RESERVE-2")
def test_a_lease_ends_though_nothing_is_asked() -> None:
    shop = Shop()
    shop.reserve("one", 2)
    shop.reserve("two", 1, lease_ms=LEASE_MS + 1)
    assert reserved.next_end(shop.owner.store, CONTEXT) == NOW_MS + LEASE_MS
    shop.owner.now_ms = NOW_MS + LEASE_MS
    change = shop.owner.do(CONTEXT, Expire("expire"))
    (entry,) = map(JOURNAL.decode, change.entries)
    assert (entry.kind, entry.operation) == ("expire", f"lease {NOW_MS + LEASE_MS} one")
    (ended,) = change.ended
    assert (ended.id, ended.how, ended.points) == ("one", "expired", tuple(shop.points[:2]))
    assert shop.owner.do(CONTEXT, Expire("expire")).entries == ()
    assert reserved.next_end(shop.owner.store, CONTEXT) == NOW_MS + LEASE_MS + 1
    shop.owner.now_ms += 1
    shop.owner.do(CONTEXT, Expire("expire"))
    assert reserved.next_end(shop.owner.store, CONTEXT) is None
    assert shop.held() == {}


def test_many_leases_end_in_the_order_of_their_times() -> None:
    shop = Shop(6)
    for number in (3, 1, 5, 2, 4, 0):
        shop.reserve(f"{number}", lease_ms=LEASE_MS + number)
    shop.ask("gone", Release("0", 0))  # the soonest: nobody knows which is next until one looks
    shop.owner.now_ms = NOW_MS + LEASE_MS + 4
    change = shop.owner.do(CONTEXT, Expire("expire"))
    assert [each.id for each in change.ended] == ["1", "2", "3", "4"]
    assert list(shop.held()) == ["5"]


# --- spending


@pytest.mark.invariant("RESERVE-1")
def test_a_spend_names_who_holds_what_it_spends() -> None:
    shop = Shop(2)
    token = shop.reserve("one", 2).token
    for claims in ([], [("one", token + 1)], [("two", token)], [("one", token), ("two", token)]):
        before = len(shop.owner.journal[CONTEXT])
        assert code_of(shop.spend(shop.points, *claims)) == "conflict.reservation-lost"
        assert len(shop.owner.journal[CONTEXT]) == before
    change = shop.spend(shop.points, ("one", token))
    assert isinstance(change.said, Taken)
    assert [JOURNAL.decode(entry).kind for entry in change.entries] == ["apply", "consume"]
    (ended,) = change.ended
    assert (ended.id, ended.how, ended.points) == ("one", "consumed", tuple(shop.points))
    assert (shop.held(), shop.spendable()) == ({}, [])
    assert shop.ask("late", Extend("one", token, LEASE_MS)).answer.code == "conflict.reservation-lost"


@pytest.mark.invariant("RESERVE-1")
def test_a_late_holder_is_refused_whether_another_holds_it_by_then_or_not() -> None:
    shop = Shop(1)
    token = shop.reserve("one").token
    shop.owner.now_ms += LEASE_MS
    assert code_of(shop.spend(shop.points, ("one", token))) == "conflict.reservation-lost"
    second = shop.reserve("two").token
    assert code_of(shop.spend(shop.points, ("one", token))) == "conflict.reservation-lost"
    assert code_of(shop.spend(shop.points, ("one", second))) == "conflict.reservation-lost"
    assert isinstance(shop.spend(shop.points, ("two", second)).said, Taken)


def test_one_transaction_spends_what_several_hold_and_others_keep_the_rest() -> None:
    shop = Shop(4)
    one, two = shop.reserve("one", 2).token, shop.reserve("two", 2).token
    change = shop.spend(shop.points[1:], ("one", one), ("two", two))
    assert [JOURNAL.decode(entry).kind for entry in change.entries] == ["apply", "consume", "consume"]
    assert shop.held() == {"one": (shown(shop.points[0]),)}
    assert isinstance(shop.spend(shop.points[:1], ("one", one), salt=2).said, Taken)
    assert shop.held() == {}


def test_an_ancestor_that_comes_along_spends_by_the_same_claim() -> None:
    shop = Shop(1)
    token = shop.reserve("one").token
    parent = paying(b"\x53", spends=shop.points, salt=1)
    child = paying(b"\x54", spends=[outpoint(parent.txid, 0)], salt=2)
    assert code_of(shop.submit(child, ancestors=[parent])) == "conflict.reservation-lost"
    change = shop.submit(child, ("one", token), ancestors=[parent])
    assert [JOURNAL.decode(entry).kind for entry in change.entries] == ["apply", "consume"]


def test_a_spend_that_is_known_is_not_asked_what_it_held() -> None:
    """It came as an ancestor, by its claim, and is submitted for itself when the reservation has ended."""
    shop = Shop(1)
    token = shop.reserve("one").token
    parent = paying(b"\x53", spends=shop.points, salt=1)
    child = paying(b"\x54", spends=[outpoint(parent.txid, 0)], salt=2)
    shop.submit(child, ("one", token), ancestors=[parent])
    assert shop.held() == {}
    assert isinstance(shop.submit(parent, ("one", token)).said, Taken)


def test_what_is_in_a_block_stands_and_the_reservation_gives_way() -> None:
    shop = Shop(2)
    token = shop.reserve("one", 2).token
    change = shop.spend(shop.points[:1], proven=True)
    assert isinstance(change.said, Taken)
    (ended,) = change.ended
    assert (ended.how, ended.points, len(ended.txid)) == ("lost", tuple(shop.points[:1]), 32)
    assert shop.held() == {"one": (shown(shop.points[1]),)}
    assert code_of(shop.spend(shop.points, ("one", token), salt=2)) == "conflict.double-spend"
    assert isinstance(shop.spend(shop.points[1:], ("one", token), salt=3).said, Taken)


def test_a_repeat_of_a_spend_is_no_late_one() -> None:
    shop = Shop(1)
    token = shop.reserve("one").token
    first, again = (shop.spend(shop.points, ("one", token)).said for _ in range(2))
    assert isinstance(first, Taken)
    assert isinstance(again, Taken)
    assert (again.repeat, again.sequence) == (True, first.sequence)


# --- when the network changes its mind


def test_what_a_refused_spend_returns_is_nobodys() -> None:
    """Its reservation was consumed: who wants it again reserves it again, like everybody."""
    shop = Shop(2)
    token = shop.reserve("one", 2).token
    spender = paying(b"\x53", spends=shop.points[:1], salt=1)
    shop.submit(spender, ("one", token))
    shop.owner.do(CONTEXT, Evict("evict", spender.txid, "network.rejected", "no"))
    assert shop.held() == {"one": (shown(shop.points[1]),)}
    assert shop.spendable() == [shown(shop.points[0])]
    assert shop.reserve("two").outcome == "reserved"


def test_a_spend_that_comes_back_takes_what_another_reserved_meanwhile() -> None:
    shop = Shop(1)
    token = shop.reserve("one").token
    spender = paying(b"\x53", spends=shop.points, salt=1)
    shop.submit(spender, ("one", token))
    shop.owner.do(CONTEXT, Evict("evict", spender.txid, "network.rejected", "no"))
    second = shop.reserve("two").token
    change = shop.owner.do(CONTEXT, Readmit("readmit", spender.txid))
    assert [JOURNAL.decode(entry).kind for entry in change.entries] == ["readmit", "consume"]
    (ended,) = change.ended
    assert (ended.id, ended.how, ended.txid) == ("two", "lost", spender.txid)
    assert shop.held() == {}
    assert code_of(shop.spend(shop.points, ("two", second), salt=2)) == "conflict.reservation-lost"


def test_what_leaves_with_its_transaction_is_held_no_more() -> None:
    shop = Shop(2)
    shop.reserve("one", 1)
    change = shop.owner.do(CONTEXT, Evict("evict", shop.stock.txid, "network.rejected", "no"))
    assert [JOURNAL.decode(entry).kind for entry in change.entries] == ["evict", "release"]
    (ended,) = change.ended
    assert (ended.how, ended.txid) == ("lost", shop.stock.txid)
    assert shop.held() == {}
    shop.owner.do(CONTEXT, Readmit("readmit", shop.stock.txid))
    assert len(shop.spendable()) == 2


def test_what_is_relinquished_stays_with_who_holds_it() -> None:
    shop = Shop(1)
    token = shop.reserve("one").token
    other = paying(b"\x54", spends=[coin_of_others(5)], salt=2)
    do(shop.owner, other, read(relinquish(("coins", shop.stock, 0))), 50)
    assert code_of(shop.spend(shop.points)) == "conflict.reservation-lost"
    assert isinstance(shop.spend(shop.points, ("one", token)).said, Taken)


def test_what_moves_to_another_basket_stays_with_who_holds_it() -> None:
    shop = Shop(1)
    shop.reserve("one")
    do(shop.owner, shop.stock, read(asked(insertion(0, "others"))), 50)
    assert shop.held() == {"one": (shown(shop.points[0]),)}
    assert code_of(shop.spend(shop.points)) == "conflict.reservation-lost"


# --- what readers are told


def test_reservations_are_told_page_by_page() -> None:
    shop = Shop(5)
    for name in ("b", "bb", "a", "é", "c"):
        shop.ask(name, Reserve((), "coins", (), 1, f"for {name}", LEASE_MS))
    found: list[HeldReservation] = []
    after = ""
    while True:
        page = reserved.page(shop.owner.store, CONTEXT, after, 2)
        assert (page.total_reservations, page.total_outputs) == (5, 5)
        found += page.reservations
        if page.next is None:
            break
        after = page.next
    assert [each.id for each in found] == ["a", "b", "bb", "c", "é"]
    one = reserved.one(shop.owner.store, CONTEXT, "bb")
    assert one.reservation == found[2]
    assert (found[2].holder, found[2].ends) == ("for bb", "2026-09-21T14:13:30.000Z")
    assert reserved.one(shop.owner.store, CONTEXT, "x").reservation is None


# --- random histories against the plainest way


class Step(msgspec.Struct):
    what: str
    name: int  # of a request or a spender
    count: int
    seconds: int
    claims: list[int]
    points: list[int]


STEPS = st.lists(
    st.builds(
        Step,
        st.sampled_from(
            [
                *("reserve", "reserve", "these", "extend", "release", "wait"),
                *("spend", "spend", "proven", "evict", "contest", "decide", "readmit", "relinquish", "restore", "move"),
            ]
        ),
        st.integers(0, 7),
        st.integers(1, 3),
        st.integers(1, 6),
        st.lists(st.integers(0, 7), max_size=2, unique=True),
        st.lists(st.integers(0, 5), min_size=1, max_size=2, unique=True),
    ),
    min_size=4,
    max_size=30,
)


class Model:
    """One thing after the other, with lists: what must come out."""

    def __init__(self, points: Sequence[Outpoint]) -> None:
        self.points = list(points)
        self.now_ms = NOW_MS
        self.held: dict[str, tuple[int, int, set[Outpoint]]] = {}  # token, end, what
        self.answers: dict[str, tuple[object, str, list[Outpoint]]] = {}
        self.spent: dict[str, set[Outpoint]] = {}  # by spender that is known
        self.refused: set[str] = set()
        self.contested: set[Outpoint] = set()
        self.relinquished: set[Outpoint] = set()
        self.moved: set[Outpoint] = set()  # to another basket

    def pass_time(self) -> None:
        self.held = {name: each for name, each in self.held.items() if each[1] > self.now_ms}

    def free(self) -> list[Outpoint]:
        taken = [point for _, _, points in self.held.values() for point in points]
        gone = [point for points in self.spent.values() for point in points]
        return [point for point in self.points if not {point} & {*taken, *gone, *self.contested, *self.relinquished}]

    def counted(self) -> list[Outpoint]:
        return [point for point in self.free() if point not in self.moved]

    def ask(self, name: str, what: Reserve | Extend | Release, token: int) -> tuple[str, list[Outpoint]]:
        """token: of the reservation, should it be made."""
        self.pass_time()
        if name in self.answers:
            before, outcome, points = self.answers[name]
            return (outcome, points) if before == what else ("refused", [])
        outcome, points = self._answer(name, what, token)
        self.answers[name] = what, outcome, points
        return outcome, points

    def _answer(self, name: str, what: Reserve | Extend | Release, token: int) -> tuple[str, list[Outpoint]]:
        if isinstance(what, Reserve):
            free = self.free()
            chosen = list(what.outputs) or self.counted()[: what.count]
            if not set(chosen) <= set(free) or len(chosen) < what.count:
                return "refused", []
            self.held[name] = token, self.now_ms + what.lease_ms, set(chosen)
            return "reserved", chosen
        standing = self.held.get(what.reservation)
        if standing is None or what.token not in (0, standing[0]):
            return "refused", []
        if isinstance(what, Release):
            del self.held[what.reservation]
            return "released", sorted(standing[2])
        self.held[what.reservation] = standing[0], max(standing[1], self.now_ms + what.lease_ms), standing[2]
        return "extended", sorted(standing[2])

    def spend(self, name: str, points: set[Outpoint], claims: Sequence[tuple[str, int]], proven: bool) -> str:
        self.pass_time()
        if name in self.refused:
            return "conflict.undecided" if proven else "conflict.evicted"
        if name in self.spent:
            return ""
        if not proven:
            if any(claim not in self.held or self.held[claim][0] != token for claim, token in claims):
                return "conflict.reservation-lost"
            named = {claim for claim, _ in claims}
            if any(what & points and holder not in named for holder, (_, _, what) in self.held.items()):
                return "conflict.reservation-lost"
        if any(points & other for other in self.spent.values()):
            return "conflict.undecided"
        self._take(name, points)
        return ""

    def _take(self, name: str, points: set[Outpoint]) -> None:
        self.spent[name] = points
        for _, _, what in self.held.values():
            what -= points
        self.held = {name: each for name, each in self.held.items() if each[2]}

    def evict(self, name: str, *, contested: bool) -> None:
        self.pass_time()
        if (points := self.spent.pop(name, None)) is not None:
            self.refused.add(name)
            self.contested |= points if contested else set()

    def readmit(self, name: str, points: set[Outpoint]) -> None:
        self.pass_time()
        if name in self.refused:
            self.refused.discard(name)
            if not any(points & other for other in self.spent.values()):
                self._take(name, points)


RIVAL = b"\x09" * 32


def free_entries(owner: Owner) -> tuple[set[bytes], set[bytes]]:
    """Entries that say what is free, and those that should."""
    found: dict[bytes, set[bytes]] = {}
    at = len(CONTEXT.encode()) + 1
    for entry in owner.store.entries:
        if entry.startswith(CONTEXT.encode() + b"\0"):
            found.setdefault(entry[at : at + 1], set()).add(entry[at + 1 :])
    taken = {*found.get(state.RESERVED, ()), *found.get(state.CONTESTED, ())}
    rests = {
        rest
        for rest in found.get(state.LISTED, ())
        if listing.group_in(rest[:-36]) == listing.Group(listing.group_in(rest[:-36]).basket)
    }
    named = {rest for rest in rests if listing.group_in(rest[:-36]).basket != "default"}
    return found.get(state.FREE, set()), {rest for rest in named if rest[-36:] not in taken}


def never_more_than_there_is(journal: Sequence[bytes]) -> None:
    """At every entry: what is held is a coin, and coins are of what is placed; so spent, free and held make it up."""
    held: dict[bytes, set[bytes]] = {state.COIN: set(), state.RESERVED: set(), state.PLACED: set()}
    at = len(CONTEXT.encode()) + 1
    for entry in map(JOURNAL.decode, journal):
        for pairs, change in ((entry.effects.removed, set.discard), (entry.effects.added, set.add)):
            for key, _ in pairs:
                if key[at : at + 1] in held:
                    change(held[key[at : at + 1]], key[at + 1 :])
        assert held[state.RESERVED] <= held[state.COIN] <= held[state.PLACED], (entry.sequence, entry.kind)


@pytest.mark.invariant("RESERVE-1")
@pytest.mark.invariant("RESERVE-2")
@settings(CHEAP, max_examples=much(300, 3_000))
@given(STEPS)
def test_reservations_follow_the_plainest_model(steps: list[Step]) -> None:
    shop = Shop(6)
    owner, points = shop.owner, shop.points
    model = Model(points)
    for step in steps:
        model.now_ms = owner.now_ms
        name, spends = f"{step.name}", {points[number] for number in step.points}
        spender = paying(b"\x53", spends=sorted(spends), salt=step.name + 1)
        # Spenders of one salt that spend the same are the same transaction.
        txid = spender.txid.hex()
        token = head_of(owner.store, CONTEXT).sequence + 1
        match step.what:
            case "wait":
                owner.now_ms += step.seconds * 1_000
                continue
            case "evict" | "contest":
                rivals = (RIVAL,) if step.what == "contest" else ()
                owner.do(CONTEXT, Evict("evict", spender.txid, "network.rejected", "no", rivals))
                model.evict(txid, contested=bool(rivals))
            case "decide":
                owner.do(CONTEXT, Evict("evict", RIVAL, "network.rejected", "no"))
                model.pass_time()
                model.contested.clear()
            case "relinquish":
                gone = [("coins", shop.stock, point[32]) for point in spends]
                gone += [("others", shop.stock, point[32]) for point in spends]
                shop.instruct(relinquish(*gone), step.name)
                model.pass_time()
                model.relinquished |= spends
            case "restore":
                owner.do(CONTEXT, Evict("evict", shop.words(step.name).txid, "network.rejected", "no"))
                owner.do(CONTEXT, Readmit("readmit", shop.words(step.name).txid))
                model.pass_time()
            case "move":
                moved = read(asked(*(insertion(point[32], "others") for point in sorted(spends))))
                shop.offset += 1
                do(owner, shop.stock, moved, shop.offset)
                model.pass_time()
                model.moved |= spends
            case "readmit":
                owner.do(CONTEXT, Readmit("readmit", spender.txid))
                model.readmit(txid, spends)
            case "spend" | "proven":
                claims = [(f"{claim}", model.held.get(f"{claim}", (99,))[0]) for claim in step.claims]
                proven = step.what == "proven"
                said = shop.submit(spender, *claims, proven=proven).said
                found = said.code if isinstance(said, Verdict | Condition) else ""
                # Which of two it is says what the network knows: no matter of reservations.
                found = found.replace("double-spend", "undecided")
                assert found == model.spend(txid, spends, claims, proven)
            case _:
                lease_ms = step.seconds * 1_000
                target = f"{step.claims[0] if step.claims else 0}"
                held = model.held.get(target, (99,))[0]
                options: dict[str, Reserve | Extend | Release] = {
                    "reserve": Reserve((), "coins", (), step.count, "", lease_ms),
                    "these": Reserve(tuple(sorted(spends)), "", (), 0, "", lease_ms),
                    "extend": Extend(target, held, lease_ms),
                    "release": Release(target, held),
                }
                asked_for = shop.ask(name, what := options[step.what])
                # What had ended was journaled before: the token is of the entry that is its own.
                token = asked_for.answer.token or token
                outcome, expected = model.ask(name, what, token)
                answer = asked_for.answer
                assert (answer.outcome, list(outpoints(answer.points))) == (outcome, expected)
        assert shop.held() == {
            each: tuple(map(shown, sorted(what))) for each, (_, _, what) in sorted(model.held.items())
        }
        assert shop.spendable() == list(map(shown, model.counted()))
        found_free, free = free_entries(owner)
        assert found_free == free
    journal = owner.journal[CONTEXT]
    never_more_than_there_is(journal)
    entries, _ = replayed(journal)
    prefix = CONTEXT.encode() + b"\0"
    stored = {key: value[:32] for key, value in owner.store.entries.items() if key.startswith(prefix)}
    assert entries == {key: value for key, value in stored.items() if not is_index(key)}
