"""That what `beefline chaos inventory` proves with finds what is wrong. The end-to-end tests run its short form."""

from collections.abc import Iterable

from ops.inventory_chaos import read_books
from pipeline import state
from pipeline.read import shown
from schemas.external import Effect, EntryEffects, ExportedEntry
from schemas.types import outpoint

CONTEXT = f"owner:02{'11' * 32}"
POINTS = [outpoint(bytes(32), number) for number in range(3)]
UNITS = [shown(point) for point in POINTS]

Keys = Iterable[tuple[bytes, bytes]]


def entry(sequence: int, kind: str, added: Keys = (), removed: Keys = ()) -> ExportedEntry:
    def effects(keys: Keys) -> tuple[Effect, ...]:
        return tuple(Effect(state.key(CONTEXT, *key).hex(), "") for key in keys)

    return ExportedEntry(
        CONTEXT, sequence, "", "", "", kind, "", EntryEffects(effects(added), effects(removed)), "", "", None, None, ""
    )


BEGUN = [
    entry(1, "apply", [(kind, point) for kind in (state.PLACED, state.COIN) for point in POINTS]),
    entry(2, "reserve", [(state.RESERVED, POINTS[0]), (state.RESERVATION, b"one")]),
]


def found(*entries: ExportedEntry) -> dict[str, list[str]]:
    return read_books(CONTEXT, UNITS, [*BEGUN, *entries]).findings


def test_a_sale_by_the_rules_is_in_order() -> None:
    spend = entry(3, "apply", removed=[(state.COIN, POINTS[0]), (state.RESERVED, POINTS[0])])
    books = read_books(CONTEXT, UNITS, [*BEGUN, spend, entry(4, "consume", removed=[(state.RESERVATION, b"one")])])
    assert (books.findings, books.checked, books.standing) == ({}, 4, set())
    assert (books.left[UNITS[0]], books.free, books.held) == (1, set(UNITS[1:]), set())


def test_a_reservation_that_stands_is_seen() -> None:
    assert read_books(CONTEXT, UNITS, BEGUN).standing == {b"one"}


def test_what_is_held_and_sold_is_one_too_many() -> None:
    assert list(found(entry(3, "apply", removed=[(state.COIN, POINTS[0])]))) == ["oversold"]


def test_what_is_sold_comes_back_and_is_sold_again_is_sold_twice() -> None:
    away, back = [(state.COIN, POINTS[1])], [(state.COIN, POINTS[1])]
    assert found(entry(3, "apply", removed=away), entry(4, "evict", back), entry(5, "apply", removed=away)) == {
        "sold-twice": [f"sequence 5: {UNITS[1]}"]
    }


def test_what_changes_hands_while_it_is_held_is_held_twice() -> None:
    key = [(state.RESERVED, POINTS[0])]
    assert found(entry(3, "reserve", key, key)) == {"held-twice": [f"sequence 3: {UNITS[0]}"]}
