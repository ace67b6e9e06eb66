"""The state of contexts: layers over a store, effects by key and hash, and both roots."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import lthash, state
from pipeline.state import Corrupt, Layer, Live, Memory, Remembered, is_index, seal
from schemas.state import Head
from tests.profiles import CHEAP

CONTEXT = "topic:tm_x"
KINDS = (state.COIN, state.HISTORY, state.TX, state.KNOWN, state.SPEND, state.TOMBSTONE, state.LOSER)

keys = st.builds(
    lambda kind, rest: state.key(CONTEXT, kind, rest),
    st.sampled_from(KINDS),
    st.sampled_from([b"", b"\0", b"a", b"\0a"]),
)
values = st.binary(max_size=3)
writes = st.lists(st.tuples(keys, st.none() | values), max_size=12)


def write(layer: Layer, changes: list[tuple[bytes, bytes | None]]) -> None:
    for key, value in changes:
        if value is None:
            layer.delete(key)
        else:
            layer.put(key, value)


def sums(entries: dict[bytes, bytes]) -> tuple[bytes, bytes]:
    """Both sums, from the entries themselves."""
    found = {True: lthash.EMPTY, False: lthash.EMPTY}
    for key, stored in entries.items():
        if is_index(key):
            continue  # it follows from what is known
        held = key[len(CONTEXT) + 1 :][:1] in (state.COIN, state.HISTORY)
        element = lthash.element(key + hashlib.sha256(stored[32:]).digest())
        found[held] = lthash.plain_moved(found[held], (), [element])
    return found[True], found[False]


@CHEAP
@given(writes, writes)
def test_effects_turn_what_was_below_into_what_is_written(
    first: list[tuple[bytes, bytes | None]], second: list[tuple[bytes, bytes | None]]
) -> None:
    """Taken away and added by key and hash, they give the entries; the sums are those of the entries, at every step."""
    store, live = Memory(), Live()
    hashes: dict[bytes, bytes] = {}
    for changes in (first, second):
        layer = Layer(store)
        write(layer, changes)
        effects, live = layer.changes(live)
        for key, digest in effects.removed:
            assert hashes.pop(key) == digest
        for key, digest in effects.added:
            assert key not in hashes
            hashes[key] = digest
        store.write(layer.writes)
        assert hashes == {key: stored[:32] for key, stored in store.entries.items() if not is_index(key)}
        assert (live.state_sum, live.store_sum) == sums(store.entries)


@CHEAP
@given(writes, writes, writes)
def test_layers_read_through_and_merge(
    below: list[tuple[bytes, bytes | None]],
    middle: list[tuple[bytes, bytes | None]],
    above: list[tuple[bytes, bytes | None]],
) -> None:
    """A layer reads like a copy of what is below it with its own writes; merging makes it so."""
    store = Memory()
    bottom = Layer(store)
    write(bottom, below)
    store.write(bottom.writes)
    before = dict(store.entries)
    lower = Layer(store)
    upper = Layer(lower)
    write(lower, middle)
    write(upper, above)
    expected: dict[bytes, bytes | None] = {}
    for key, value in (*below, *middle, *above):
        expected[key] = value
    assert {key: upper.value(key) for key in expected} == expected
    assert store.entries == before
    upper.merge_into(lower)
    store.write(lower.writes)
    assert store.entries == {key: state.seal(value) for key, value in expected.items() if value is not None}


def test_a_remembered_view_asks_once_for_each_key() -> None:
    """What is not there is remembered too; a spoiled value is found as it would be below."""
    asked: list[bytes] = []

    class Asked(Memory):
        def get(self, entry_key: bytes) -> bytes | None:
            asked.append(entry_key)
            return super().get(entry_key)

    remembered = Remembered(Asked({b"x\0ca": state.seal(b"one"), b"x\0cb": b"spoiled"}))
    for _ in range(2):
        assert remembered.get(b"x\0ca") == state.seal(b"one")
        assert remembered.get(b"x\0cc") is None
        with pytest.raises(Corrupt):
            remembered.get(b"x\0cb")
    assert asked == [b"x\0ca", b"x\0cc", b"x\0cb", b"x\0cb"]


def test_keys_are_found_through_layers() -> None:
    """What a layer wrote or removed counts; what begins otherwise does not."""
    store = Memory({b"c\0sab": seal(b"1"), b"c\0sac": seal(b"2"), b"c\0sb": seal(b"3")})
    layer = Layer(Remembered(store))
    layer.put(b"c\0sad", b"4")
    layer.put(b"c\0sba", b"5")
    layer.delete(b"c\0sac")
    assert set(Layer(layer).keys_with(b"c\0sa")) == {b"c\0sab", b"c\0sad"}


def test_a_layer_that_is_dropped_leaves_nothing() -> None:
    store = Memory()
    lower = Layer(store)
    lower.put(b"topic:tm_x\0ca", b"one")
    upper = Layer(lower)
    upper.put(b"topic:tm_x\0ca", b"two")
    upper.delete(b"topic:tm_x\0cb")
    del upper
    assert lower.writes == {b"topic:tm_x\0ca": state.seal(b"one")}
    assert store.entries == {}


@pytest.mark.invariant("STORE-2")
@pytest.mark.parametrize("spoil", [0, 31, 32, -1])
def test_a_spoiled_value_is_not_read(spoil: int) -> None:
    """A bit of the hash or of the value."""
    key = state.key(CONTEXT, state.COIN, b"a")
    stored = bytearray(state.seal(b"value"))
    stored[spoil] ^= 1
    with pytest.raises(Corrupt, match="tm_x"):
        Memory({key: bytes(stored)}).get(key)


@pytest.mark.invariant("STORE-2")
@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_value_cut_short_is_not_read(length: int) -> None:
    key = state.key(CONTEXT, state.COIN, b"a")
    with pytest.raises(Corrupt):
        Memory({key: state.seal(b"value")[:length]}).get(key)


def test_a_key_names_its_context_and_its_kind() -> None:
    """The rest may hold zero bytes, as hashes do."""
    key = state.key("topic:tm_x", state.SPEND, b"\0\0rest")
    assert key == b"topic:tm_x\0s\0\0rest"
    assert state.context_of(key) == b"topic:tm_x"
    assert state.context_of(state.head_key("topic:tm_x")) == b"topic:tm_x"


@CHEAP
@given(st.integers(0, 2**63), st.binary(min_size=32, max_size=32), st.binary(), st.binary())
def test_a_head_is_stored_and_read(sequence: int, entry_hash: bytes, held: bytes, rest: bytes) -> None:
    live = Live(sequence, entry_hash, lthash.element(held), lthash.element(rest))
    stored = live.stored()
    assert (len(stored.state_sum), len(stored.store_sum)) == (2048, 2048)
    store = Memory()
    layer = Layer(store)
    layer.put(state.head_key(CONTEXT), state.encode(stored))
    store.write(layer.writes)
    assert state.head_of(store, CONTEXT) == live
    assert Live.read(Head(sequence, entry_hash, stored.state_sum, stored.store_sum)) == live


def test_a_context_that_holds_nothing_stands_at_0() -> None:
    assert state.head_of(Memory(), CONTEXT) == Live(0, bytes(32), lthash.EMPTY, lthash.EMPTY)
