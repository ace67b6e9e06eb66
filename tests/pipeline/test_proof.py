"""What a Merkle path that came by itself claims; whatever the bytes, an answer."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.http import Unreadable
from pipeline.proof import MOST_BYTES, Claim, claim
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
