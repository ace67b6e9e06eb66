"""Looking through a context: what the engine wrote is right, and whatever is altered in it is found."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import state
from pipeline.prepare import whole
from pipeline.scrub import Scrub
from pipeline.state import Corrupt, Memory, seal
from schemas.flow import Accept, Evict, Part
from schemas.types import outpoint
from tests.fakes import Owner, apply_of, coin_of_others, made_tx, verified
from tests.profiles import CHEAP

KEEP, ODD = "topic:tm_keep", "topic:tm_odd"


def busy() -> Owner:
    """A context that holds an entry of every kind but its queue's, and those of baskets and reservations."""
    owner = Owner()
    parent = made_tx([coin_of_others(1)], 3, 1)
    children = [made_tx([outpoint(parent.txid, vout)], 2, vout + 2) for vout in range(2)]
    rival = made_tx([outpoint(parent.txid, 0)], 1, 9)
    owner.do(KEEP, apply_of(verified(parent)))
    for number, child in enumerate(children, 1):
        owner.do(KEEP, apply_of(verified(child, [parent], offset=number)))
    owner.do(KEEP, Accept("accept", (children[0].txid,), "arc@a"))
    owner.do(KEEP, apply_of(verified(rival, [parent], offset=9)))
    shared = made_tx([coin_of_others(2)], 2, 11)
    for number in (12, 13):  # both prepared, with an ancestor that both bring
        one = made_tx([coin_of_others(number), outpoint(shared.txid, number - 12)], 1, number)
        owner.do(KEEP, whole(0, verified(one, [shared], offset=number), [Part(KEEP), Part(ODD)]))
    owner.do(KEEP, whole(0, verified(made_tx([coin_of_others(12)], 1, 14), offset=14), [Part(KEEP), Part(ODD)]))
    owner.do(KEEP, Evict("evict", children[1].txid, "network.double-spend", "no", (b"\x07" * 32,)))
    owner.do(ODD, apply_of(verified(parent)))
    return owner


def scrubbed(store: Memory, size: int = 1000) -> None:
    """As a scrubber does, in slices."""
    scrub = Scrub(KEEP)
    entries = [(key, store.entries[key]) for key in store.keys_from(KEEP.encode())]
    goes_on, at = True, 0
    while goes_on:
        goes_on = scrub.take(entries[at : at + size])
        at += size
    scrub.compare()


@pytest.mark.invariant("STORE-3")
@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_what_the_engine_wrote_is_right(size: int) -> None:
    """To the last entry of the context, and none of the next one's."""
    store = busy().store
    kinds = {key[len(KEEP) + 1 : len(KEEP) + 2] for key in store.entries if key.startswith(KEEP.encode() + b"\0")}
    assert kinds == {
        state.COIN, state.HISTORY, state.TX, state.KNOWN, state.ACCEPTED, state.SPEND, state.ADMITTED, state.TOMBSTONE,
        state.LOSER, state.DEPARTED, state.LEFT, state.CONTESTED, state.RIVAL, state.PREPARED, state.LOCK,
        state.SUBJECT, state.HOLDS, state.WAITER, state.BEHIND, state.OWN,
    }  # fmt: skip
    scrubbed(store, size)


def test_a_context_that_holds_nothing_is_right() -> None:
    scrubbed(Memory())


@pytest.mark.invariant("STORE-3")
@CHEAP
@given(st.data())
def test_whatever_is_altered_is_found(data: st.DataObject) -> None:
    """A bit anywhere, an entry gone, one too many, one under another key; in an index as in what it follows from."""
    store = busy().store
    ours = sorted(key for key in store.entries if state.context_of(key) == KEEP.encode())
    key = data.draw(st.sampled_from(ours))
    match data.draw(st.sampled_from(["bit", "gone", "moved", "resealed"])):
        case "bit":
            stored = bytearray(store.entries[key])
            stored[data.draw(st.integers(0, len(stored) - 1))] ^= 1 << data.draw(st.integers(0, 7))
            store.entries[key] = bytes(stored)
        case "gone":
            del store.entries[key]
        case "moved":
            if key == KEEP.encode():
                return  # a head under another key is another context's
            store.entries[key[:-1] + bytes([key[-1] ^ 1])] = store.entries.pop(key)
        case "resealed":
            if state.unseal(store.entries[key]) == b"":
                return
            if (
                key[len(KEEP) + 1 : len(KEEP) + 2] in (state.TX, state.KNOWN, state.PREPARED, state.WAITER)
                or key == KEEP.encode()
            ):
                return  # that it is still one of its kind is another test's
            store.entries[key] = seal(state.unseal(store.entries[key]) + b"\0")
    with pytest.raises(Corrupt):
        scrubbed(store)


@pytest.mark.parametrize("kind", [state.TX, state.KNOWN, state.PREPARED, state.WAITER, state.HOLDS])
def test_a_value_that_is_none_of_its_kind_is_found(kind: bytes) -> None:
    store = busy().store
    key = next(key for key in sorted(store.entries) if key.startswith(state.key(KEEP, kind, b"")))
    store.entries[key] = seal(b"\xc1")
    with pytest.raises(Corrupt, match="not one of its kind"):
        scrubbed(store)
