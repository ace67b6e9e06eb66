"""The Arcade dialect: batches that are answered with numbers, errors that say their number in more than one place."""

import json
from typing import Any

import pytest

from pipeline.broadcasters import Batch, Policy, Reply
from pipeline.broadcasters.arcade import STATUSES, Arcade
from pipeline.http import Unreadable
from schemas.types import display
from tests.pipeline.broadcasters.test_arc import EXPECTED_NUMBERS, POLICY

ARCADE = Arcade()
A, B, C = (bytes([n]) + bytes(range(1, 32)) for n in (0xAA, 0xBB, 0xCC))


def read(body: Any, *txids: bytes, status: int = 202) -> Batch:
    return ARCADE.read(txids, status, body if isinstance(body, bytes) else json.dumps(body).encode())


def only(body: Any, status: int = 202) -> Reply:
    batch = read(body, A, status=status)
    assert batch.narrow == ()
    return batch.replies[A]


def taken(txid: bytes = A, status: str = "RECEIVED", **more: Any) -> dict[str, Any]:
    return {"txid": display(txid), "status": 202, "txStatus": status, **more}


def problem(number: int | None, reason: str = "the reason", txid: bytes | None = A) -> dict[str, Any]:
    """As Arcade fills it: the number stands in the body where the check has one."""
    found: dict[str, Any] = {"error": "transaction failed validation", "reason": reason}
    found |= {"txid": display(txid)} if txid else {}
    return found | ({"status": number, "title": "t", "detail": "d", "type": "https://errors"} if number else {})


# --- requests


def test_one_goes_to_tx_and_several_to_txs_as_bytes() -> None:
    one, two = ARCADE.submit([b"one"]), ARCADE.submit([b"one", b"two"], wait_for="SEEN_ON_NETWORK")
    assert (one.method, one.path, one.body) == ("POST", "/tx", b"one")
    assert (two.method, two.path, two.body) == ("POST", "/txs", b"onetwo")
    assert one.headers == two.headers == (("Content-Type", "application/octet-stream"),)  # it holds no reply


def test_paths_stand_at_the_root() -> None:
    assert ARCADE.look_up(A).path == f"/tx/{A[::-1].hex()}"
    assert ARCADE.ask_policy().path == ARCADE.probe().path == "/policy"


# --- one alone

EXPECTED_STATUSES = {
    "UNKNOWN": ("pending", "network.undecided", False),
    "RECEIVED": ("accepted", "", False),
    "PENDING_RETRY": ("condition", "network.orphan", False),
    "SENT_TO_NETWORK": ("accepted", "", False),
    "ACCEPTED_BY_NETWORK": ("accepted", "", True),
    "SEEN_ON_NETWORK": ("accepted", "", True),
    "SEEN_MULTIPLE_NODES": ("accepted", "", True),
    "DOUBLE_SPEND_ATTEMPTED": ("refused", "network.double-spend", True),
    "REJECTED": ("refused", "network.rejected", True),
    "STUMP_PROCESSING": ("accepted", "", True),
    "MINED": ("accepted", "", True),
    "IMMUTABLE": ("accepted", "", True),
    "A_NAME_OF_TOMORROW": ("pending", "network.undecided", False),
}


def test_every_status_stands_in_the_table() -> None:
    assert set(STATUSES) < set(EXPECTED_STATUSES)


@pytest.mark.parametrize(("status", "expected"), EXPECTED_STATUSES.items())
def test_a_status_decides_not_http_202(status: str, expected: tuple[str, str, bool]) -> None:
    """Also where it comes again, or is asked for."""
    body = json.dumps({"txid": display(A), "txStatus": status}).encode()
    for reply in (only(taken(status=status)), ARCADE.read_status(A, 200, body)):
        assert (reply.kind, reply.code, reply.network) == expected
        assert reply.status == status


@pytest.mark.parametrize(
    ("reason", "kind", "code"),
    [
        ("missing parent", "condition", "network.orphan"),
        ("UTXO_SPENT (70): utxo already spent", "refused", "network.double-spend"),
        ("apparently the moon", "refused", "network.rejected"),
    ],
)
def test_a_rejection_is_read_by_its_reason(reason: str, kind: str, code: str) -> None:
    reply = only(taken(status="REJECTED", extraInfo=reason))
    assert (reply.kind, reply.code, reply.message) == (kind, code, reason)


def test_of_a_double_spend_the_rivals_are_named() -> None:
    assert only(taken(status="DOUBLE_SPEND_ATTEMPTED", competingTxs=[display(B)])).competing == (B,)


@pytest.mark.parametrize(("number", "expected"), EXPECTED_NUMBERS.items())
def test_a_number_decides_under_its_own_code_and_under_400(number: int, expected: tuple[str, str]) -> None:
    """HTTP 46x without a number in the body, with it, and HTTP 400 with it: builds differ."""
    for reply in (
        only(problem(None), status=number),
        only(problem(number), status=number),
        only(problem(number), status=400),
        only(problem(number, txid=None), status=400),
    ):
        assert (reply.kind, reply.code, reply.message) == (*expected, "the reason")
        assert (reply.status, reply.network) == (str(number), False)


@pytest.mark.parametrize(
    ("reason", "kind", "code"),
    [
        ("failed to parse transaction", "refused", "network.malformed"),
        ("transaction is not final", "condition", "network.not-final"),
        ("parent not found", "condition", "network.orphan"),
        ("fee too low", "refused", "network.fee"),
        ("already known", "refused", "network.malformed"),  # 400 takes nothing, whatever it says
    ],
)
def test_an_error_without_a_number_is_read_by_its_reason(reason: str, kind: str, code: str) -> None:
    reply = only(problem(None, reason), status=400)
    assert (reply.kind, reply.code, reply.network) == (kind, code, False)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (202, taken(B), "transport"),  # another's acceptance
        (202, {"status": "submitted"}, "transport"),  # names nothing: an older build's
        (202, {"txid": display(A), "status": 202}, "transport"),  # no status: nobody says that it was taken
        (202, [], "transport"),
        (202, b"<html>ok</html>", "transport"),
        (461, problem(461, txid=B), "transport"),  # another's error
        (400, b"<html>bad request</html>", "transport"),
        (400, {"message": "a gateway's"}, "transport"),
        (413, b"", "refused"),
        (500, {"error": "failed to submit"}, "transport"),
        (100, {}, "transport"),
    ],
)
def test_one_alone(status: int, body: Any, kind: str) -> None:
    assert only(body, status).kind == kind


@pytest.mark.invariant("CAST-2")
def test_a_callback_address_it_does_not_like_is_our_fault() -> None:
    error = {"error": "invalid callback url: host resolves to a private address"}
    assert only(error, 400).kind == "config"
    assert [reply.kind for reply in read(error, A, B, status=400).replies.values()] == ["config", "config"]


# --- batches


def test_a_batch_all_of_which_is_new_is_taken() -> None:
    batch = read({"submitted": 3, "duplicates": 0, "total": 3}, A, B, C)
    assert {txid: (reply.kind, reply.status) for txid, reply in batch.replies.items()} == dict.fromkeys(
        (A, B, C), ("accepted", "RECEIVED")
    )
    assert batch.narrow == ()


@pytest.mark.parametrize(
    ("submitted", "duplicates", "total"), [(2, 1, 3), (0, 3, 3), (2, 0, 2), (2, 0, 3), (3, 0, 4), (4, 0, 4), (3, -1, 2)]
)
def test_numbers_that_leave_a_member_open_accept_nothing(submitted: int, duplicates: int, total: int) -> None:
    """One of the duplicates may have been rejected since; a number short may be any of them."""
    body = {"submitted": submitted, "duplicates": duplicates, "total": total}
    assert read(body, A, B, C) == Batch({}, (A, B, C))


@pytest.mark.parametrize("status", [400, 409, 413, 422, 461, 463, 500])
def test_a_batch_refused_as_a_whole_is_to_be_narrowed(status: int) -> None:
    assert read({"error": "failed to parse transaction", "parsed": 1}, A, B, status=status) == Batch({}, (A, B))
    assert read(b"<html>", A, B, status=status) == Batch({}, (A, B))


def test_a_refusal_that_names_a_member_is_its_answer_and_no_other_s() -> None:
    batch = read(problem(461, txid=B), A, B, C, status=400)
    assert {txid: reply.code for txid, reply in batch.replies.items()} == {B: "network.script"}
    assert batch.narrow == (A, C)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"7", b'{"submitted": 2}', b"\xff", b"[" * 100_000])
def test_a_success_that_cannot_be_read_is_no_answer(body: bytes) -> None:
    assert {reply.kind for reply in read(body, A, B).replies.values()} == {"transport"}


@pytest.mark.parametrize(
    ("status", "kind"),
    [(s, "config") for s in (401, 402, 403, 404, 405, 407, 308)]
    + [(s, "transport") for s in (408, 425, 429, 502, 503, 504)],
)
@pytest.mark.invariant("CAST-2")
def test_codes_that_speak_of_us_or_of_the_endpoint_blame_no_transaction(status: int, kind: str) -> None:
    for txids in ((A,), (A, B)):
        batch = read({"error": "x"}, *txids, status=status)
        assert [reply.kind for reply in batch.replies.values()] == [kind] * len(txids)


# --- looking up, policy


def test_where_a_transaction_stands() -> None:
    mined = {"txid": display(A), "txStatus": "MINED", "merklePath": "0bad", "blockHeight": 7}
    assert ARCADE.read_status(A, 200, json.dumps(mined).encode()).path == b"\x0b\xad"
    assert ARCADE.read_status(A, 404, b'{"error":"transaction not found"}').status == "UNKNOWN"
    assert ARCADE.read_status(A, 401, b"").kind == "config"
    assert ARCADE.read_status(A, 200, b"<html>").kind == "transport"


def test_the_policy_is_arc_s() -> None:
    assert ARCADE.read_policy(200, json.dumps(POLICY).encode()) == Policy(10_000_000, 500_000, 1, 1000)
    assert isinstance(ARCADE.read_policy(503, b""), Unreadable)
    assert (ARCADE.read_probe(200, json.dumps(POLICY).encode()), ARCADE.read_probe(503, b"")) == ("", "HTTP 503")
