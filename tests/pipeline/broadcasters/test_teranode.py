"""The dialect of Teranode's propagation service: text whose names and numbers decide, whatever the HTTP code."""

import pytest

from pipeline import outcome
from pipeline.broadcasters import Batch, Reply
from pipeline.broadcasters.table import DIALECTS
from pipeline.broadcasters.teranode import ERRORS
from pipeline.http import Unreadable
from schemas.types import display

TERANODE = DIALECTS["teranode"]
A, B, C = (bytes([n]) + bytes(range(1, 32)) for n in (0xAA, 0xBB, 0xCC))
HEADER = "Failed to process transactions:\n"


def read(text: str, *txids: bytes, status: int = 500) -> Batch:
    return TERANODE.read(txids, status, text.encode())


def only(text: str, status: int = 500) -> Reply:
    batch = read(text, A, status=status)
    assert batch.narrow == ()
    return batch.replies[A]


def line(txid: bytes, error: str = "TX_INVALID (31)", more: str = "tx invalid") -> str:
    return f"{error}: [ProcessTransaction][{display(txid)}] {more}\n"


def test_one_goes_to_tx_and_several_to_txs_as_bytes() -> None:
    one, two = TERANODE.submit([b"one"]), TERANODE.submit([b"one", b"two"])
    assert (one.path, one.body, two.path, two.body) == ("/tx", b"one", "/txs", b"onetwo")
    assert dict(one.headers) == {"Content-Type": "application/octet-stream"}
    assert TERANODE.most == 1024


def test_what_it_does_not_offer_is_said() -> None:
    assert TERANODE.look_up(A) is None
    assert TERANODE.ask_policy() is None
    assert TERANODE.read_status(A, 200, b"OK").kind == "transport"
    assert isinstance(TERANODE.read_policy(200, b"OK"), Unreadable)
    assert (TERANODE.calls_back, TERANODE.waits) == (None, False)


def test_its_health_is_the_probe() -> None:
    assert TERANODE.probe().path == "/health"
    assert TERANODE.read_probe(200, b"OK") == ""
    assert TERANODE.read_probe(200, b"<html>")
    assert TERANODE.read_probe(503, b"OK")


def test_ok_is_the_acceptance_of_each() -> None:
    assert {reply.kind for reply in read("OK", A, B, status=200).replies.values()} == {"accepted"}
    assert {reply.kind for reply in read("<html>fine</html>", A, B, status=200).replies.values()} == {"transport"}
    assert not only("OK", status=200).network  # some builds queue it for the validator


EXPECTED = {
    ("PROCESSING", 4): ("condition", "network.undecided", False),
    ("TX_NOT_FOUND", 30): ("condition", "network.orphan", False),
    ("TX_INVALID", 31): ("refused", "network.rejected", True),
    ("TX_INVALID_DOUBLE_SPEND", 32): ("refused", "network.double-spend", True),
    ("TX_EXISTS", 33): ("accepted", "", True),
    ("TX_MISSING_PARENT", 34): ("condition", "network.orphan", False),
    ("TX_LOCK_TIME", 35): ("condition", "network.not-final", False),
    ("TX_CONFLICTING", 36): ("refused", "network.double-spend", True),
    ("TX_LOCKED", 37): ("condition", "network.undecided", False),
    ("TX_COINBASE_IMMATURE", 38): ("refused", "network.inputs", True),
    ("TX_POLICY", 39): ("refused", "network.rejected", False),
    ("TX_CONSENSUS", 40): ("refused", "network.rejected", True),
    ("TX_CREATING", 41): ("condition", "network.undecided", False),
    ("TX_ERROR", 49): ("refused", "network.rejected", True),
    ("UTXO_SPENT", 70): ("refused", "network.double-spend", True),
    ("UTXO_NON_FINAL", 71): ("condition", "network.not-final", False),
    ("UTXO_FROZEN", 72): ("refused", "network.frozen", False),
    ("UTXO_NOT_FOUND", 73): ("condition", "network.orphan", False),
    ("UTXO_MISMATCH", 74): ("refused", "network.inputs", True),
    ("UTXO_INVALID_SIZE", 75): ("refused", "network.inputs", True),
    ("UTXO_CONSENSUS_FROZEN", 78): ("refused", "network.frozen", True),
    ("UTXO_ERROR", 79): ("refused", "network.inputs", True),
}


def test_every_error_stands_in_the_table() -> None:
    assert {name for name, _ in EXPECTED} == set(ERRORS)


@pytest.mark.parametrize(("error", "expected"), EXPECTED.items())
@pytest.mark.parametrize("status", [400, 403, 409, 422, 500])
def test_an_error_decides_whatever_the_code(
    status: int, error: tuple[str, int], expected: tuple[str, str, bool]
) -> None:
    name, number = error
    for text in (f"{name} ({number}): something", f"Failed to process transaction: {name} ({number}): something"):
        reply = only(text, status)
        assert (reply.kind, reply.code, reply.network) == expected
        assert (reply.status, reply.message) == (name, f"{name} ({number}): something")


@pytest.mark.parametrize("means", ERRORS.values())
def test_a_class_agrees_with_the_table_of_codes(means: Reply) -> None:
    kinds = {"condition": "condition", "refused": "verdict"}
    assert means.code == "" if means.kind == "accepted" else outcome.BY_CODE[means.code].kind == kinds[means.kind]


@pytest.mark.parametrize(
    ("text", "kind", "code"),
    [
        ("PROCESSING (4): failed to validate -> UTXO_SPENT (70): spent by another", "refused", "network.double-spend"),
        ("TX_INVALID (31): tx invalid -> UTXO_SPENT (70): spent", "refused", "network.double-spend"),
        ("TX_INVALID (31): tx invalid -> TX_MISSING_PARENT (34): parent", "condition", "network.orphan"),
        ("PROCESSING (4): -> TX_LOCK_TIME (35): not final", "condition", "network.not-final"),
        ("PROCESSING (4): -> TX_EXISTS (33): known", "accepted", ""),
        ("TX_POLICY (39): transaction fee is too low", "refused", "network.fee"),
        ("TX_POLICY (39): missing parent of the rule", "refused", "network.rejected"),
        ("PROCESSING (4): -> STORAGE_ERROR (69): disk", "condition", "network.undecided"),
    ],
)
def test_the_cause_wrapped_in_an_error_says_why(text: str, kind: str, code: str) -> None:
    reply = only(text)
    assert (reply.kind, reply.code) == (kind, code)


@pytest.mark.parametrize(
    "text",
    [
        "SERVICE_UNAVAILABLE (50): shutting down",
        "STORAGE_ERROR (69): disk",
        "THRESHOLD_EXCEEDED (2): block assembly queue full",
        "KAFKA_ERROR (89): no leader",
        "internal error",
        "<html>TX_INVALID</html>",
        "",
    ],
)
def test_errors_about_the_node_are_no_answer(text: str) -> None:
    assert only(text).kind == "transport"


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (400, "Invalid request body", "refused"),
        (400, "<html>bad request</html>", "transport"),
        (413, "", "refused"),
        (401, "TX_INVALID (31): x", "config"),
        (403, "Forbidden", "config"),
        (404, "Unknown route", "config"),
        (429, "UTXO_SPENT (70): x", "transport"),
        (503, "TX_INVALID (31): x", "transport"),
        (302, "", "config"),
        (100, "", "transport"),
    ],
)
def test_codes_beside_those_of_errors(status: int, text: str, kind: str) -> None:
    assert only(text, status).kind == kind


# --- batches


@pytest.mark.parametrize("status", [400, 409, 422, 500])
def test_of_a_batch_those_named_have_their_word_and_others_are_asked_again(status: int) -> None:
    """No acceptance follows from a line that is not there: it may be what was lost."""
    batch = read(HEADER + line(B) + line(A, "UTXO_SPENT (70)"), A, B, C, status=status)
    assert {t: r.code for t, r in batch.replies.items()} == {A: "network.double-spend", B: "network.rejected"}
    assert batch.narrow == (C,)


def test_a_line_is_about_the_member_in_brackets_not_about_another_hash() -> None:
    other = f"UTXO_SPENT (70): {display(A)}:1 already spent by {display(C)} [ProcessTransaction][{display(B)}] x\n"
    batch = read(HEADER + other, A, B, C)
    assert set(batch.replies) == {B}
    assert read(HEADER + f"UTXO_SPENT (70): {display(A)}:2 already spent\n", A, B) == Batch({}, (A, B))
    assert read(HEADER + line(C), A, B) == Batch({}, (A, B))  # one that was not sent


def test_a_line_about_the_node_leaves_its_member_open() -> None:
    assert read(HEADER + line(A, "STORAGE_ERROR (69)") + line(B), A, B).narrow == (A,)


@pytest.mark.parametrize(
    ("status", "text"),
    [(500, "internal error"), (502, "<html>"), (400, "Invalid request body: too many transactions"), (500, HEADER)],
)
def test_a_batch_refused_as_a_whole_is_to_be_narrowed(status: int, text: str) -> None:
    assert read(text, A, B, status=status) == Batch({}, (A, B))


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_node_is_not_narrowed(status: int) -> None:
    batch = read(HEADER + line(A), A, B, status=status)
    assert ([reply.kind for reply in batch.replies.values()], batch.narrow) == (["transport"] * 2, ())
