"""What a Merkle path that came by itself claims; whatever the bytes, an answer."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.codec.bump import Bump, read_bump
from pipeline.codec.reader import Malformed
from pipeline.http import Unreadable
from pipeline.proof import MOST_BYTES, Claim, alone, claim, own_path
from tests import builders
from tests.profiles import CHEAP

PARENT = builders.funding(builders.Out(1000, builders.p2pkh(builders.key(1))), salt=1)
BAG = builders.bag(PARENT, proven=[PARENT])


def path() -> bytes:
    (bump,) = BAG.bumps()
    return bump


@pytest.mark.invariant("ANCHOR-2")
def test_a_path_of_a_transaction_claims_its_root_at_its_height() -> None:
    found = claim(PARENT.txid, path())
    assert isinstance(found, Claim)
    assert found == Claim(next(iter(BAG.answers())), path())


@pytest.mark.invariant("ANCHOR-2")
@pytest.mark.parametrize(
    ("spoiled", "why"),
    [(b"", "no path"), (b"\0", "no path"), (path() + b"\0", "behind"), (bytes(MOST_BYTES + 1), "bytes")],
)
def test_what_is_no_path_claims_nothing(spoiled: bytes, why: str) -> None:
    found = claim(PARENT.txid, spoiled)
    assert isinstance(found, Unreadable)
    assert why in found.why


def test_a_path_of_another_transaction_claims_nothing() -> None:
    assert claim(b"\x01" * 32, path()) == Unreadable("the path is of other transactions")


@settings(CHEAP)
@given(st.binary(max_size=200), st.integers(0, 200))
def test_no_bytes_make_it_raise(junk: bytes, at: int) -> None:
    whole = path()
    for data in (junk, whole[:at] + junk, whole[:at] + junk + whole[at + len(junk) :]):
        assert isinstance(claim(PARENT.txid, data), Claim | Unreadable)


@pytest.mark.invariant("ANCHOR-2")
@settings(CHEAP)
@given(st.integers(1, 40), st.data())
def test_of_a_path_of_several_the_path_of_one(count: int, data: st.DataObject) -> None:
    """Whatever the block's shape and whoever else is in the path: it is minimal, and leads to the same root."""
    leaves = [bytes([number]) * 32 for number in range(count)]
    offsets = data.draw(st.sets(st.integers(0, count - 1), min_size=1, max_size=5))
    proof = builders.compound(leaves, offsets)
    bump, _ = read_bump(proof.bump, 0)
    for offset in offsets:
        path = alone(bump, leaves[offset])
        assert claim(leaves[offset], path) == Claim((proof.height, proof.root), path)
        assert path == builders.compound(leaves, {offset}).bump


def test_a_path_that_lacks_it_or_a_neighbour_gives_none() -> None:
    leaves = [bytes([number]) * 32 for number in range(8)]
    bump, _ = read_bump(builders.compound(leaves, {1}).bump, 0)
    for txid in (leaves[5], leaves[0]):
        if txid == leaves[0]:
            bump = Bump(bump.height, bump.depth, bump.first, [], bump.raw, 0, [{}, *bump.levels[2:]])
        with pytest.raises(Malformed):
            alone(bump, txid)


def test_the_path_of_a_payloads_subject() -> None:
    payload = builders.bag(PARENT, proven=[PARENT]).v1()
    assert own_path(payload, PARENT.txid) == path()
