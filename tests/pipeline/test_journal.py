"""Walking a journal: a chain made by the engine is taken as it is, and whatever is altered in it is told."""

import hashlib
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.journal import Break, Chain, effects_of, read
from pipeline.state import Live, summed
from schemas.journal import JOURNAL, Effects, JournalEntry
from tests.profiles import CHEAP

CONTEXT = "topic:tm_x"


def key(number: int) -> bytes:
    return CONTEXT.encode() + b"\0" + (b"c" if number % 2 else b"k") + bytes([number]) * 32


def chain_of(steps: list[Effects]) -> list[JournalEntry]:
    """Entries that replay."""
    live, previous, made = Live(), bytes(32), []
    for sequence, effects in enumerate(steps, 1):
        live = summed(live, effects)
        entry = JournalEntry(
            context=CONTEXT, sequence=sequence, previous=previous, operation=f"o{sequence}", kind="apply",
            txid=bytes([sequence]) * 32, effects=effects, state_root=live.state_root, store_root=live.store_root,
            manager="tm_x/1", origin=None, time_ms=sequence, beef=b"b" * sequence,
        )  # fmt: skip
        made.append(entry)
        previous = hashlib.sha256(JOURNAL.encode(entry)).digest()
    return made


def pair(number: int, value: int = 0) -> tuple[bytes, bytes]:
    return key(number), bytes([value]) * 32


STEPS = [
    Effects((pair(1), pair(2))),
    Effects((pair(3),), (pair(1),)),
    Effects((pair(2, 7),), (pair(2),)),  # changed
    Effects((pair(1),)),  # comes back
]


def walked(values: list[bytes]) -> list[Break]:
    chain = Chain(roots=True)
    return [each for value in values for each in chain.take(read(value), value)]


def encoded(entries: list[JournalEntry]) -> list[bytes]:
    return [JOURNAL.encode(entry) for entry in entries]


@pytest.mark.invariant("JOURNAL-1")
def test_an_unbroken_journal_is_taken_and_replayed() -> None:
    chain = Chain(roots=True)
    entries = chain_of(STEPS)
    for value in encoded(entries):
        assert chain.take(read(value), value) == []
    assert (chain.sequence, chain.entries) == (4, 3)
    assert (chain.sums.state_root, chain.sums.store_root) == (entries[-1].state_root, entries[-1].store_root)
    assert chain.hash == hashlib.sha256(JOURNAL.encode(entries[-1])).digest()


def rehashed(entries: list[JournalEntry]) -> list[bytes]:
    """Chained anew: as somebody would who may write the topic."""
    values, previous = [], bytes(32)
    for entry in entries:
        values.append(JOURNAL.encode(msgspec.structs.replace(entry, previous=previous)))
        previous = hashlib.sha256(values[-1]).digest()
    return values


def change(entries: list[JournalEntry], at: int, **changes: object) -> list[JournalEntry]:
    return [msgspec.structs.replace(e, **changes) if n == at else e for n, e in enumerate(entries)]


@pytest.mark.invariant("JOURNAL-1")
@pytest.mark.parametrize(
    ("values", "kind", "says"),
    [
        (lambda e: encoded([e[0], e[2], e[3]]), "torn", "topic:tm_x 3 comes after 1"),
        (lambda e: encoded([e[0], e[1], e[1], e[2], e[3]]), "doubled", "topic:tm_x 2 comes again after 2"),
        (lambda e: encoded(change(e, 1, time_ms=9)), "torn", "topic:tm_x 3 does not name the hash of 2"),
        (lambda e: rehashed(change(e, 1, state_root=bytes(32))), "root", "topic:tm_x 2 has others"),
        (lambda e: rehashed(change(e, 1, state_root=b"")), "root", "topic:tm_x 2 has none"),
        (lambda e: rehashed(change(e, 1, effects=Effects((pair(3),), (pair(2),)))), "root", "topic:tm_x 2 has others"),
        (lambda e: rehashed(change(e, 1, effects=Effects())), "root", "topic:tm_x 2 has others"),
    ],
    ids=["gap", "twice", "altered", "root", "no-root", "effects", "no-effects"],
)
def test_what_was_altered_is_told(values: Callable[[list[JournalEntry]], list[bytes]], kind: str, says: str) -> None:
    """By the entry it happened to, or by the next, and once."""
    breaks = walked(values(chain_of(STEPS)))
    assert [each.kind for each in breaks] == [kind]
    assert breaks[0].says.startswith(says)


@pytest.mark.parametrize(
    ("step", "says"),
    [
        (Effects((pair(2),)), "adds"),
        (Effects((pair(2, 9),)), "adds"),
        (Effects((), (pair(9),)), "removes"),
        (Effects((), (pair(2, 9),)), "removes"),
    ],
)
def test_effects_that_cannot_be_are_told_although_their_sums_agree(step: Effects, says: str) -> None:
    """A writer that adds what is there, and counts it twice, gives roots that follow from its effects."""
    breaks = walked(encoded(chain_of([STEPS[0], step])))
    assert [each.kind for each in breaks] == ["root"]
    assert breaks[0].says.startswith(f"{CONTEXT} 2 {says} ")


def test_effects_that_cannot_be_read_are_told() -> None:
    entry = msgspec.structs.replace(chain_of(STEPS)[0], effects="none")
    breaks = walked([msgspec.msgpack.encode(entry)])
    assert [each.kind for each in breaks] == ["root"]


def test_without_replaying_roots_are_not_looked_at() -> None:
    values = rehashed(change(chain_of(STEPS), 1, state_root=bytes(32)))
    chain = Chain()
    assert [each for value in values for each in chain.take(read(value), value)] == []


def altered_is_seen(values: list[bytes]) -> bool:
    try:
        return bool(walked(values))
    except msgspec.MsgspecError:
        return True  # no entry any more: who reads the topic says so


@pytest.mark.invariant("JOURNAL-1")
@pytest.mark.parametrize("flip", [1, 128, 255])
def test_any_byte_of_the_first_entry_that_changes_is_seen(flip: int) -> None:
    """In words, wherever it stands: in a key, a text, a length."""
    values = encoded(chain_of(STEPS))
    for place in range(len(values[0])):
        changed = bytearray(values[0])
        changed[place] ^= flip
        assert altered_is_seen([bytes(changed), *values[1:]]), place


@pytest.mark.parametrize("key", [b"", b"\0", b"\0c", b"topic:tm_x", b"topic:tm_x\0"])
def test_an_effect_on_what_is_no_entry_is_told(key: bytes) -> None:
    entries = chain_of(STEPS)
    values = rehashed(change(entries, 1, effects=Effects(((key, bytes(32)),))))
    breaks = walked(values)
    assert [each.kind for each in breaks] == ["root"]
    assert "which is no entry's key" in breaks[0].says


@pytest.mark.invariant("JOURNAL-1")
@CHEAP
@given(st.data())
def test_no_byte_of_an_entry_before_the_last_can_change_unseen(data: st.DataObject) -> None:
    """Whatever it is: the next entry names the hash of what was."""
    values = encoded(chain_of(STEPS))
    at = data.draw(st.integers(0, len(values) - 2))
    place = data.draw(st.integers(0, len(values[at]) - 1))
    changed = bytearray(values[at])
    changed[place] ^= data.draw(st.integers(1, 255))
    values[at] = bytes(changed)
    assert altered_is_seen(values)


def test_an_entry_is_read_without_its_bytes() -> None:
    entry = chain_of(STEPS)[1]
    found = read(JOURNAL.encode(entry))
    assert effects_of(found.effects) == entry.effects
    assert (found.context, found.sequence, found.txid) == (entry.context, 2, entry.txid)
