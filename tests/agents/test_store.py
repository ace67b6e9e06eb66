"""The local store: entries and position together, checked when read, thrown away when of no use."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rocksdict import Options, Rdict

from agents.runtime.shelf import Shelf
from agents.runtime.store import KEPT_DELETIONS_S, Store, discard
from pipeline import state
from pipeline.state import APPLIED_KEY, Corrupt
from tests.profiles import CHEAP
from topics.registry import STATE

KEY, OTHER = state.key("topic:tm_x", state.COIN, b"a"), state.key("topic:tm_x", state.COIN, b"b")
ONE, TWO = state.seal(b"one"), state.seal(b"two")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "stage" / "g1-0")
    yield made
    made.close()


def test_a_new_store_is_empty_and_stands_at_the_beginning(store: Store) -> None:
    assert (store.position, store.partly, store.too_old) == (0, False, False)
    assert store.get(KEY) is None


def test_keys_are_found_by_how_they_begin(store: Store) -> None:
    store.write({KEY: ONE, KEY + b"c": ONE, OTHER: TWO, APPLIED_KEY: ONE}, 7)
    store.write({KEY + b"d": ONE, KEY + b"c": None}, 8)
    assert list(store.keys_with(KEY)) == [KEY, KEY + b"d"]
    assert list(store.keys_with(OTHER + b"x")) == []


def test_entries_and_position_outlive_the_process(store: Store) -> None:
    store.write({KEY: ONE, OTHER: TWO, APPLIED_KEY: ONE}, 7)
    store.write({OTHER: None, KEY: TWO}, 9)
    store.close()
    again = Store(store.path)
    assert (again.get(KEY), again.get(OTHER), again.get(APPLIED_KEY)) == (TWO, None, ONE)
    assert (again.position, again.partly) == (9, False)
    again.close()


@pytest.mark.invariant("STORE-1")
def test_a_long_restore_belongs_to_no_position_until_it_ends(store: Store) -> None:
    """Its entries are ahead of the position: whoever finds it so begins again."""
    store.write({KEY: ONE}, 5)
    store.write({KEY: TWO}, None)
    assert (store.position, store.partly) == (5, True)
    store.close()
    again = Store(store.path)
    assert again.partly
    again.write({}, 8)
    assert (again.position, again.partly, again.get(KEY)) == (8, False, TWO)
    again.close()


@pytest.mark.invariant("STORE-2")
@pytest.mark.parametrize("spoil", [lambda v: v[:-1] + bytes([v[-1] ^ 1]), lambda v: v[:20], lambda v: b""])
def test_a_value_that_changed_on_disk_is_not_read(store: Store, spoil: Callable[[bytes], bytes]) -> None:
    store.write({KEY: ONE, OTHER: TWO}, 1)
    store.close()
    db = Rdict(str(store.path), Options(raw_mode=True))
    db[KEY] = spoil(ONE)
    db.close()
    again = Store(store.path)
    with pytest.raises(Corrupt):
        again.get(KEY)
    assert again.get(OTHER) == TWO
    again.close()


def test_a_store_older_than_the_kept_deletions_is_of_no_use(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was deleted meanwhile may have left no trace in the changelog."""
    store.write({KEY: ONE}, 1)
    now = __import__("time").time()
    monkeypatch.setattr("agents.runtime.store.time.time", lambda: now + KEPT_DELETIONS_S - 60)
    assert not store.too_old
    monkeypatch.setattr("agents.runtime.store.time.time", lambda: now + KEPT_DELETIONS_S + 60)
    assert store.too_old
    store.write({}, 2)
    assert not store.too_old
    assert dict(STATE.config)["delete.retention.ms"] == str((KEPT_DELETIONS_S + 86_400) * 1000)


def test_a_discarded_store_is_made_anew(store: Store) -> None:
    store.write({KEY: ONE}, 5)
    store.close()
    discard(store.path)
    discard(store.path)  # nothing there is no error
    again = Store(store.path)
    assert (again.position, again.get(KEY)) == (0, None)
    again.close()


def test_the_stores_own_keys_are_nobodys_entries(store: Store) -> None:
    """A context's key begins with its name, which holds no zero byte."""
    store.write({KEY: ONE, APPLIED_KEY: TWO}, 3)
    store.write({KEY: ONE, APPLIED_KEY: TWO}, None)
    db = store._db
    own = [key for key in db.keys() if key.startswith(b"\0") and key != APPLIED_KEY]  # noqa: SIM118 - no mapping
    assert len(own) == 3
    assert all(state.context_of(key) == b"" for key in own)


@settings(CHEAP, max_examples=10)
@given(
    st.lists(
        st.dictionaries(st.sampled_from([b"x\0ca", b"x\0cb", b"y\0ca", b"x"]), st.none() | st.binary(max_size=9)),
        max_size=8,
    )
)
def test_writes_add_up_as_in_memory(
    tmp_path_factory: pytest.TempPathFactory, batches: list[dict[bytes, bytes | None]]
) -> None:
    store, memory = Store(tmp_path_factory.mktemp("store") / "s"), state.Memory()
    for number, batch in enumerate(batches):
        sealed = {key: None if value is None else state.seal(value) for key, value in batch.items()}
        store.write(sealed, number)
        memory.write(sealed)
        assert store.position == number
    for key in (b"x\0ca", b"x\0cb", b"y\0ca", b"x"):
        assert store.get(key) == memory.get(key)
    store.close()


@pytest.mark.invariant("STORE-2")
def test_a_byte_that_changed_in_a_file_is_found_by_whatever_reads_over_it(tmp_path: Path) -> None:
    """RocksDB's own iterators only end at a block that is not right, as if nothing more came."""
    keys = [state.key("topic:tm_x", state.COIN, number.to_bytes(36, "big")) for number in range(3_000)]
    entries = {key: state.seal(key * 2) for key in keys}
    made = Store(tmp_path / "store")
    for begin in range(0, len(keys), 500):
        made.write({key: entries[key] for key in keys[begin : begin + 500]}, begin)
    made.close()
    (table,) = made.path.glob("*.sst")
    right = table.read_bytes()
    prefix = state.key("topic:tm_x", state.COIN, b"")
    found = 0
    for at in range(1_000, len(right), len(right) // 60):
        wrong = bytearray(right)
        wrong[at] ^= 1
        table.write_bytes(wrong)
        try:
            store = Store(made.path)
        except Exception:  # noqa: BLE001 - rocksdict's own: it is made again
            found += 1
            continue
        for read in (
            lambda store: {key: store.get(key) for key in keys},
            lambda store: dict(zip(keys, store.get_many(keys), strict=True)),
            lambda store: {key: entries[key] for key in store.keys_with(prefix)},
            lambda store: {key: entries[key] for key in store.keys_from(prefix)},
            lambda store: dict(store.walk(prefix)),
            lambda store: dict(store.walk(prefix).take(len(keys) + 1)),
        ):
            try:
                assert read(store) == entries
            except Corrupt:
                found += 1
        store.close()
    assert found > 100


def test_a_store_that_takes_no_more_is_of_no_use_to_whoever_opens_it_next(tmp_path: Path) -> None:
    """RocksDB meets what changed in a file when it merges files, and refuses every write from then on."""
    store = Store(tmp_path / "g1-3")
    keys = [state.key("topic:tm_x", state.COIN, number.to_bytes(36, "big")) for number in range(3_000)]
    for position in (1, 2):
        store.write({key: state.seal(key * position) for key in keys}, position)
        store._db.flush()
    (table, _) = sorted(store.path.glob("*.sst"))
    wrong = bytearray(table.read_bytes())
    wrong[len(wrong) // 2] ^= 1
    table.write_bytes(wrong)
    store._db.compact_range(None, None)
    assert not store.failed
    with pytest.raises(Exception, match="Corruption"):
        store.write({KEY: ONE}, 3)
    assert store.failed
    store.close()
    shelf = Shelf(tmp_path, 1)
    shelf.look()
    assert shelf.positions == {}
    assert (shelf.copy(3).position, shelf.copy(3).failed) == (0, False)
    shelf.close()
