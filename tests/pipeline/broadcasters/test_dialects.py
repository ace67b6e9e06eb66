"""What holds of every dialect: no bytes make one raise, forget a member, or accept what was not named."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import outcome
from pipeline.broadcasters import ANSWERS, Batch, Policy, Reply
from pipeline.broadcasters.table import DIALECTS
from pipeline.broadcasters.words import read_callbacks
from pipeline.http import Unreadable
from schemas.types import display
from tests.profiles import CHEAP

TXIDS = tuple(bytes([n]) * 32 for n in (1, 2, 3))
NAMES = ["txid", "txStatus", "status", "error", "reason", "extraInfo", "submitted", "duplicates", "total", "policy"]

leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from([*map(display, TXIDS), "REJECTED", "MINED", "OK", "TX_INVALID (31): x", "Missing inputs"]),
)
trees = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=5)
)
texts = st.lists(
    st.sampled_from(
        ["Failed to process transactions:\n", "TX_INVALID (31): ", "UTXO_SPENT (70): ", "\n", "[ProcessTransaction]"]
        + [f"[{display(txid)}]" for txid in TXIDS]
    ),
    max_size=8,
).map("".join)
bodies = st.one_of(st.binary(max_size=200), texts.map(str.encode), trees.map(lambda tree: json.dumps(tree).encode()))
statuses = st.sampled_from([100, 200, 202, 204, 302, 400, 401, 403, 404, 409, 413, 422, 429, 461, 476, 500, 503, 999])


@pytest.mark.parametrize("name", DIALECTS)
@given(status=statuses, body=bodies)
@CHEAP
def test_no_bytes_make_a_reader_raise_or_forget_a_member(name: str, status: int, body: bytes) -> None:
    dialect = DIALECTS[name]
    for txids in (TXIDS[:1], TXIDS):
        batch = dialect.read(txids, status, body)
        assert isinstance(batch, Batch)
        assert set(batch.replies) | set(batch.narrow) == set(txids)
        assert not set(batch.replies) & set(batch.narrow)
        assert all(reply.txid == txid for txid, reply in batch.replies.items())
        for reply in batch.replies.values():
            _is_sound(reply)
    assert dialect.read(TXIDS[:1], status, body).narrow == ()
    _is_sound(dialect.read_status(TXIDS[0], status, body))
    assert isinstance(dialect.read_probe(status, body), str)
    assert isinstance(dialect.read_policy(status, body), Policy | Unreadable)
    if dialect.calls_back is not None:
        assert isinstance(read_callbacks(body, dialect.calls_back), list | Unreadable)


def _is_sound(reply: Reply) -> None:
    """An answer that is no acceptance has a code, of the kind its class asks for; other words have none."""
    kinds = {"condition": "condition", "pending": "condition", "refused": "verdict"}
    if reply.kind in kinds:
        assert outcome.BY_CODE[reply.code].kind == kinds[reply.kind]
    else:
        assert reply.code == ""


@pytest.mark.parametrize("name", DIALECTS)
@given(status=st.integers(min_value=100, max_value=599), text=st.text(max_size=100))
@CHEAP
def test_nothing_accepts_a_transaction_but_what_says_so(name: str, status: int, text: str) -> None:
    """Text by chance is no acceptance, and under 401, 403, 429 and 503 nothing is an answer."""
    for txids in (TXIDS[:1], TXIDS):
        replies = DIALECTS[name].read(txids, status, text.encode()).replies.values()
        assert "accepted" not in {reply.kind for reply in replies} or text.strip() == "OK" or "already" in text.lower()
        if status in (401, 403, 429, 503):
            assert not {reply.kind for reply in replies} & ANSWERS


@pytest.mark.parametrize("name", DIALECTS)
def test_a_body_nested_without_end_is_no_answer(name: str) -> None:
    for body in (b"[" * 200_000, b'{"a":' * 100_000):
        assert DIALECTS[name].read(TXIDS[:1], 200, body).replies[TXIDS[0]].kind == "transport"
        assert isinstance(DIALECTS[name].read_policy(200, body), Unreadable)


@pytest.mark.parametrize("name", DIALECTS)
def test_names_of_statuses_that_call_back_are_known_to_their_own_table(name: str) -> None:
    """DOUBLE_SPEND_ATTEMPTED is the end in Arcade, and not in ARC."""
    statuses = DIALECTS[name].calls_back
    expected = {"arc": "condition", "arcade": "refused"}.get(name)
    assert (statuses["DOUBLE_SPEND_ATTEMPTED"].kind if statuses else None) == expected
