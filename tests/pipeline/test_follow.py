"""Following a changelog: the copy becomes the owner's store, or the changelog is refused."""

import hashlib
from collections.abc import Iterable, Sequence
from itertools import chain

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import state
from pipeline.follow import Follower
from pipeline.prepare import whole
from pipeline.state import APPLIED_KEY, Corrupt, Memory, head_key, head_of
from schemas.flow import Accept, Decide, Evict, Part
from schemas.operations import Vote
from schemas.state import Applied, Known, Prepared, Stood, Waiter
from schemas.types import outpoint
from tests.fakes import Owner, apply_of, coin_of_others, made_tx, verified
from tests.profiles import CHEAP

CONTEXTS = ("topic:tm_all", "topic:tm_keep")

PARTS = 40
"""Above that, numbers stand for parts of operations over several contexts, and for decisions."""

Changelog = list[tuple[bytes, bytes | None]]


def owner_of(numbers: Sequence[int]) -> Owner:
    """An owner of two contexts that did what the numbers say: lines of transactions, acceptances, evictions, parts of
    operations over both, what waits for these, and decisions."""
    owner = Owner()
    tips = {context: [coin_of_others(index)] for index, context in enumerate(CONTEXTS)}
    undecided: dict[str, list[Decide]] = {context: [] for context in CONTEXTS}
    for salt, number in enumerate(numbers):
        context = CONTEXTS[number % 2]
        line = tips[context]
        if number > PARTS:
            if number % 3 == 0 and undecided[context]:
                owner.do(context, undecided[context].pop(number % 5 % len(undecided[context])))
                continue
            # The first at the end of a line is prepared; what comes behind it there waits, a part or a payload alone.
            payload = verified(made_tx([line[-1]], 1, salt), offset=salt, contexts=CONTEXTS)
            if number % 5 == 0:
                owner.do(context, apply_of(payload))
                continue
            part = whole(0, payload, [Part(each) for each in CONTEXTS])
            heard = [said for _, said in owner.do(context, part).words]
            against = any(isinstance(said, Vote) and said.says != "yes" for said in heard)
            commit = number % 4 > 1 and not against
            undecided[context].append(Decide(part.operation, 0, commit, payload.asked, payload.txid))
        elif number % 7 == 5 and len(line) > 1:
            owner.do(context, Evict(f"evict:{salt}", line.pop()[:32], "network.rejected", "no"))
        elif number % 7 == 6 and len(line) > 1:
            owner.do(context, Accept(f"accept:{salt}", (line[-1][:32],), "arc@a"))
        else:
            tx = made_tx([line[-1]], 1 + number % 3, salt)
            owner.do(context, apply_of(verified(tx, offset=salt)))
            line.append(outpoint(tx.txid, 0))
    return owner


def follow(changelog: Iterable[tuple[bytes, bytes | None]], copy: Memory | None = None) -> tuple[Memory, Follower]:
    """A copy that took all of it and compared at the end."""
    copy = copy or Memory()
    follower = Follower(copy)
    for key, stored in changelog:
        follower.take(key, stored)
    follower.compare()
    copy.write(follower.writes())
    return copy, follower


def flat(owner: Owner) -> Changelog:
    return list(chain.from_iterable(owner.changelog))


DONE = owner_of([0, 1, 0, 6, 5, 2, 3, 4, 8, 12, 13, 19, 20, 21, 5, 44, 50, 44, 48, 47, 43, 45])
"""Both contexts hold coins, history, an accepted and an evicted transaction; and of operations what is prepared, what
waits, and what was decided."""

CHANGELOG = flat(DONE)

numbers = st.lists(st.integers(0, PARTS + 30), min_size=1, max_size=16)


@pytest.mark.invariant("STORE-1")
@settings(CHEAP, max_examples=40)
@given(numbers, st.data())
def test_a_copy_fed_in_pieces_equals_the_owners_store(numbers: list[int], data: st.DataObject) -> None:
    """Pieces end anywhere; what each gives is written before the next comes."""
    owner = owner_of(numbers)
    changelog = flat(owner)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(changelog)), max_size=4)))
    copy = Memory()
    follower = Follower(copy)
    for begin, end in zip([0, *cuts], [*cuts, len(changelog)], strict=True):
        for key, stored in changelog[begin:end]:
            follower.take(key, stored)
        count, found = len(follower), follower.writes()
        assert count == len(found)
        assert {key for key in found if not state.is_index(key)} == {key for key, _ in changelog[begin:end]}
        copy.write(found)
    follower.compare()
    assert copy.entries == owner.store.entries
    assert follower.applied is not None
    assert follower.applied.offset == owner.offset


@pytest.mark.invariant("STORE-1")
@settings(CHEAP, max_examples=40)
@given(numbers, st.data())
def test_lists_of_records_come_to_the_same(numbers: list[int], data: st.DataObject) -> None:
    """However many come at once, and however often a key comes among them; what was taken is written now and then."""
    owner = owner_of(numbers)
    changelog = flat(owner)
    cuts = data.draw(st.dictionaries(st.integers(0, len(changelog)), st.booleans(), max_size=4))
    copy = Memory()
    follower = Follower(copy)
    begin = 0
    for end, written in [*sorted(cuts.items()), (len(changelog), True)]:
        follower.take_all(changelog[begin:end])
        begin = end
        if written:
            copy.write(follower.writes())
    follower.compare()
    assert copy.entries == owner.store.entries
    assert follower.applied is not None
    assert follower.applied.offset == owner.offset


@pytest.mark.invariant("STORE-1")
@settings(CHEAP, max_examples=40)
@given(numbers, numbers)
def test_a_copy_that_was_behind_catches_up(before: list[int], after: list[int]) -> None:
    """Follower after follower, each beginning at the end of a batch, with the store that the one before left."""
    owner = owner_of([*before, *after])
    copy = Memory()
    for batch in owner.changelog:
        follow(batch, copy)
    assert copy.entries == owner.store.entries
    begun, _ = follow(chain.from_iterable(owner.changelog[: len(before)]))
    follow(chain.from_iterable(owner.changelog[len(before) :]), begun)
    assert begun.entries == owner.store.entries


def compacted(changelog: Changelog, dropped: Sequence[bool]) -> Changelog:
    """What is left when the broker has dropped some records that later ones replace."""
    last = {key: place for place, (key, _) in enumerate(changelog)}
    return [
        record
        for place, record in enumerate(changelog)
        if last[record[0]] == place or not dropped[place % len(dropped)]
    ]


@pytest.mark.invariant("STORE-1")
@settings(CHEAP, max_examples=40)
@given(numbers, st.lists(st.booleans(), min_size=1, max_size=20))
def test_compaction_is_no_difference(numbers: list[int], dropped: list[bool]) -> None:
    owner = owner_of(numbers)
    copy, _ = follow(compacted(flat(owner), dropped))
    assert copy.entries == owner.store.entries


@pytest.mark.invariant("STORE-1")
@settings(CHEAP, max_examples=40)
@given(numbers, numbers, st.lists(st.booleans(), min_size=1, max_size=20))
def test_compaction_behind_a_copy_is_no_difference(before: list[int], after: list[int], dropped: list[bool]) -> None:
    """A copy that stands where records have since been dropped."""
    owner = owner_of([*before, *after])
    stands = len(flat(owner_of(before)))
    copy, _ = follow(flat(owner)[:stands])
    left = compacted(flat(owner), dropped)
    behind = [record for record in left if record in flat(owner)[stands:]]
    follow(behind, copy)
    assert copy.entries == owner.store.entries


def last_places() -> list[int]:
    """Places of the newest record of each key: no later one replaces what is spoiled there."""
    return sorted({key: place for place, (key, _) in enumerate(CHANGELOG)}.values())


def places(spare: tuple[bytes, ...] = ()) -> list[int]:
    return [place for place in last_places() if CHANGELOG[place][0] not in spare]


@pytest.mark.invariant("STORE-2")
@pytest.mark.parametrize("place", [place for place in last_places() if CHANGELOG[place][1] is not None])
def test_a_value_that_changed_on_its_way_is_refused(place: int) -> None:
    key, stored = CHANGELOG[place]
    assert stored is not None
    spoiled = bytes([*stored[:-1], stored[-1] ^ 1])
    follower = Follower(Memory())
    with pytest.raises(Corrupt, match="does not match its hash"):
        follower.take(key, spoiled)


@pytest.mark.parametrize("place", [p for p in places((APPLIED_KEY, *map(head_key, CONTEXTS))) if CHANGELOG[p][1]])
def test_another_value_under_its_own_hash_is_refused(place: int) -> None:
    """Whoever wrote it can hash: the roots of the head say otherwise."""
    key, stored = CHANGELOG[place]
    assert stored is not None
    value = stored[32:] + b"\0"
    if b"\0" + state.KNOWN in key:
        known = msgspec.msgpack.decode(stored[32:], type=Known)
        value = state.encode(msgspec.structs.replace(known, outputs=known.outputs + 1))
    if b"\0" + state.TX in key:
        applied = msgspec.msgpack.decode(stored[32:], type=Applied)
        value = state.encode(msgspec.structs.replace(applied, request_id="another"))
    for kind, of in ((state.PREPARED, Prepared), (state.WAITER, Waiter)):
        if b"\0" + kind in key:
            kept = msgspec.msgpack.decode(stored[32:], type=of)
            value = state.encode(msgspec.structs.replace(kept, stood=Stood("another")))
    forged = [*CHANGELOG[:place], (key, state.seal(value)), *CHANGELOG[place + 1 :]]
    with pytest.raises(Corrupt, match="do not give the roots"):
        follow(forged)


@pytest.mark.parametrize("kind", [state.KNOWN, state.TX, state.PREPARED, state.WAITER])
def test_what_others_follow_from_must_be_read(kind: bytes) -> None:
    """Who spends what, what was admitted, locked, and how much is undecided."""
    place = next(p for p, (key, stored) in enumerate(CHANGELOG) if stored and b"\0" + kind in key)
    with pytest.raises(Corrupt, match="not one of its kind"):
        follow([*CHANGELOG[:place], (CHANGELOG[place][0], state.seal(b"\xc1"))])


@pytest.mark.parametrize("place", places((APPLIED_KEY,)))
def test_a_dropped_record_is_refused(place: int) -> None:
    """An entry, a head or, where the key had a value before, a deletion."""
    key = CHANGELOG[place][0]
    rest = [*CHANGELOG[:place], *CHANGELOG[place + 1 :]]
    had_value = any(stored is not None for other, stored in rest if other == key)
    if CHANGELOG[place][1] is None and not had_value:
        follow(rest)  # nothing was there to delete
        return
    with pytest.raises(Corrupt, match="do not give the roots"):
        follow(rest)


def test_an_entry_nobody_wrote_is_refused() -> None:
    stranger = (state.key(CONTEXTS[0], state.COIN, b"x" * 36), state.seal(b"stranger"))
    with pytest.raises(Corrupt, match=CONTEXTS[0]):
        follow([*CHANGELOG, stranger])


def test_what_follows_from_others_is_not_for_a_changelog() -> None:
    stranger = (state.key(CONTEXTS[0], state.SPEND, b"x" * 36), state.seal(b"stranger"))
    assert not any(state.is_index(key) for key, _ in CHANGELOG)
    with pytest.raises(Corrupt, match="not for a changelog"):
        follow([*CHANGELOG, stranger])


@pytest.mark.parametrize("kind", [state.SPEND, state.KNOWN, state.COIN])
def test_a_copy_that_differs_is_found_when_its_context_moves(kind: bytes) -> None:
    """One entry of the store is missing: the next batch of that context shows it."""
    owner = owner_of([0, 0])
    copy, _ = follow(flat(owner))
    gone = next(key for key in copy.entries if b"\0" + kind in key)
    del copy.entries[gone]
    owner.do(CONTEXTS[0], Evict("evict", made_tx([coin_of_others(0)], 1, 0).txid, "network.rejected", "no"))
    with pytest.raises(Corrupt):
        follow(owner.changelog[-1], copy)


def test_the_owner_itself_stands_where_its_changelog_says() -> None:
    copy, follower = follow(CHANGELOG)
    assert copy.entries == DONE.store.entries
    assert {context: head_of(copy, context) for context in CONTEXTS} == {
        context: head_of(DONE.store, context) for context in CONTEXTS
    }
    assert follower.applied is not None
    assert (follower.applied.offset, follower.applied.topic) == (DONE.offset, "beef.operations")
    last = DONE.journal[CONTEXTS[0]][-1]
    assert head_of(copy, CONTEXTS[0]).entry_hash == hashlib.sha256(last).digest()
