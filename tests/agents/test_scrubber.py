"""The scrubber over real stores: at its share, through whatever is written meanwhile, and with what it finds."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from rocksdict import Options, Rdict

from agents.runtime.scrubber import Scrubber
from agents.runtime.shelf import Readable
from agents.runtime.store import Store
from pipeline import state
from pipeline.state import Layer, head_key
from tests.fakes import apply_of, coin_of_others, decide, made_tx, verified

ALL, KEEP = "topic:tm_all", "topic:tm_keep"


def apply(store: Store, context: str, number: int, position: int = 0) -> None:
    layer = Layer(store)
    change = decide(layer, context, apply_of(verified(made_tx([coin_of_others(number)], 3, number), offset=number)))
    layer.put(head_key(context), state.encode(change.head.stored()))
    store.write(layer.writes, position or number)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "store")
    for number in range(1, 60):
        for context in (ALL, KEEP):
            apply(made, context, number)
    yield made
    made.close()


class Looking:
    """A scrubber at work, and what it found."""

    def __init__(self, store: Store, share: float = 0.5) -> None:
        self.stores = {3: Readable(store, 1, owner=True)}
        self.found: list[tuple[int, str]] = []
        self.scrubber = Scrubber("apply", self.stores, lambda n, error: self.found.append((n, str(error))), share, 0.01)

    async def passes(self, count: int) -> None:
        task = asyncio.ensure_future(self.scrubber.run())
        deadline = time.monotonic() + 20
        while self.scrubber.passes < count and time.monotonic() < deadline:
            await asyncio.sleep(0.005)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert self.scrubber.passes >= count


@pytest.mark.invariant("STORE-3")
async def test_a_store_that_is_written_to_meanwhile_is_right(store: Store) -> None:
    looking = Looking(store)
    watching = asyncio.ensure_future(looking.passes(3))
    number = 100
    while not watching.done():
        apply(store, ALL, number)
        number += 1
        await asyncio.sleep(0.002)
    await watching
    assert looking.found == []
    assert number > 110


@pytest.mark.invariant("STORE-3")
@pytest.mark.parametrize("kind", [state.TX, state.COIN, state.SPEND])
async def test_a_bit_in_an_entry_that_nothing_reads_is_found(store: Store, kind: bytes) -> None:
    path = store.path
    store.close()
    raw = Rdict(str(path), Options(raw_mode=True))
    prefix = state.key(KEEP, kind, b"")
    key = next(key for key in raw.keys(from_key=prefix) if key.startswith(prefix))
    raw[key] = raw[key][:-1] + bytes([raw[key][-1] ^ 1])
    raw.close()
    again = Store(path)
    looking = Looking(again)
    await looking.passes(1)
    again.close()
    assert [number for number, _ in looking.found] == [3]
    assert "does not match its hash" in looking.found[0][1]


async def test_a_store_that_goes_away_amid_a_pass_is_left_alone(store: Store, tmp_path: Path) -> None:
    """Closed while it is looked through, it can be opened at once: nothing holds on to it."""
    looking = Looking(store, share=0.01)
    task = asyncio.ensure_future(looking.scrubber.run())
    await asyncio.sleep(0.05)
    del looking.stores[3]
    store.close()
    again = Store(store.path)
    await asyncio.sleep(0.1)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert looking.found == []
    again.close()


@pytest.mark.setting("worker.scrub_share")
async def test_a_share_of_nothing_looks_at_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    walks = 0
    walk = store.walk

    def counted(start: bytes) -> object:
        nonlocal walks
        walks += 1
        return walk(start)

    monkeypatch.setattr(store, "walk", counted)
    await Looking(store, share=0).passes(2)
    assert walks == 0
    await Looking(store, share=0.5).passes(1)
    assert walks == 2


def test_a_walk_is_of_the_moment_it_began(store: Store) -> None:
    walk = store.walk(ALL.encode())
    first = walk.take(1)
    apply(store, ALL, 99)
    assert first[0][0] == ALL.encode()
    rest = walk.take(100_000)
    assert not any(coin_of_others(99) in key for key, _ in rest)
    walk.close()
    assert walk.closed
    assert walk.take(1) == []


def test_whoever_holds_a_walk_does_not_keep_the_store(store: Store) -> None:
    """Be it the traceback of an error: closed, it can be opened at once."""
    held = [store.walk(ALL.encode()), store.keys_from(b""), store.keys_with(KEEP.encode())]
    assert all(next(each) for each in held)
    store.close()
    again = Store(store.path)
    assert [list(each) for each in held] == [[]] * 3
    again.close()
