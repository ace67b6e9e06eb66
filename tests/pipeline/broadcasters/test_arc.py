"""The ARC dialect: every status, every number, and all the ways in which a reply is none.

`arc-submit.json` is the conformance file `broadcast/arc-submit` of the TypeScript stack (ts-stack c3fe101c). Left out
of its 16: 6 (answers 422, which ARC never sends), 7 and 16 (whole-call codes, tabled below), 14 (a callback to us),
15 (a shape, not a reply). 10 claims that replies stand in the order of the request; they do not, and need not here.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline import outcome
from pipeline.broadcasters import Batch, Policy, Reply
from pipeline.broadcasters.arc import STATUSES, Arc
from pipeline.broadcasters.words import REASONS
from pipeline.http import Unreadable
from schemas.types import display, from_display

ARC = Arc()
A, B, C = (bytes([n]) + bytes(range(1, 32)) for n in (0xAA, 0xBB, 0xCC))
VECTORS = {
    v["id"].rpartition(".")[2]: v
    for v in json.loads(Path(__file__).with_name("arc-submit.json").read_text())["vectors"]
}


def read(body: Any, *txids: bytes, status: int = 200) -> Batch:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return ARC.read(txids, status, raw)


def only(body: Any, status: int = 200) -> Reply:
    batch = read(body, A, status=status)
    assert batch.narrow == ()
    return batch.replies[A]


def entry(txid: bytes, tx_status: str = "SEEN_ON_NETWORK", **more: Any) -> dict[str, Any]:
    return {"txid": display(txid), "txStatus": tx_status, "status": 200, "title": "OK", **more}


def refusal(number: int, txid: bytes | None = None) -> dict[str, Any]:
    named = {"txid": display(txid)} if txid else {}
    return {"type": "https://errors", "title": "t", "status": number, "detail": "the detail", **named}


# --- requests


def test_a_batch_is_bytes_one_after_the_other() -> None:
    request = ARC.submit([b"one", b"two"])
    assert (request.method, request.path, request.body) == ("POST", "/v1/txs", b"onetwo")
    assert request.headers == (("Content-Type", "application/octet-stream"),)


def test_a_reply_is_held_only_where_asked_for() -> None:
    headers = dict(ARC.submit([b"x"], wait_for="SEEN_ON_NETWORK", max_wait_s=7).headers)
    assert headers["X-WaitFor"] == "SEEN_ON_NETWORK"
    assert headers["X-MaxTimeout"] == "7"


def test_a_transaction_is_looked_up_by_what_people_print() -> None:
    assert ARC.look_up(A).path == f"/v1/tx/{A[::-1].hex()}"


# --- every status

EXPECTED_STATUSES = {
    "UNKNOWN": ("pending", "network.undecided", False),
    "QUEUED": ("pending", "network.undecided", False),
    "RECEIVED": ("accepted", "", False),
    "STORED": ("accepted", "", False),
    "ANNOUNCED_TO_NETWORK": ("accepted", "", False),
    "REQUESTED_BY_NETWORK": ("accepted", "", False),
    "SENT_TO_NETWORK": ("accepted", "", False),
    "ACCEPTED_BY_NETWORK": ("accepted", "", True),
    "SEEN_IN_ORPHAN_MEMPOOL": ("condition", "network.orphan", False),
    "SEEN_ON_NETWORK": ("accepted", "", True),
    "SEEN_MULTIPLE_NODES": ("accepted", "", True),
    "DOUBLE_SPEND_ATTEMPTED": ("condition", "network.contested", False),
    "REJECTED": ("refused", "network.rejected", True),
    "MINED_IN_STALE_BLOCK": ("accepted", "", True),
    "MINED": ("accepted", "", True),
    "CONFIRMED": ("accepted", "", True),
    "STUMP_PROCESSING": ("accepted", "", True),
    "IMMUTABLE": ("accepted", "", True),
    "PENDING_RETRY": ("condition", "network.orphan", False),
    "INVALID": ("refused", "network.rejected", False),
    "MALFORMED": ("refused", "network.malformed", False),
    "ORPHANED_SOMEHOW": ("condition", "network.orphan", False),
    "A_NAME_OF_TOMORROW": ("pending", "network.undecided", False),
    "": ("pending", "network.undecided", False),
}


def test_every_status_stands_in_the_table() -> None:
    assert set(STATUSES) < set(EXPECTED_STATUSES)


@pytest.mark.parametrize(("status", "expected"), EXPECTED_STATUSES.items())
def test_a_status_in_the_body_decides_not_http_200(status: str, expected: tuple[str, str, bool]) -> None:
    reply = only([entry(A, status)])
    assert (reply.kind, reply.code, reply.network) == expected
    assert reply.status == status


@pytest.mark.parametrize("means", [*STATUSES.values(), *(means for _, means in REASONS)])
def test_a_class_agrees_with_the_table_of_codes(means: Any) -> None:
    kinds = {"condition": "condition", "pending": "condition", "refused": "verdict"}
    if means.kind == "accepted":
        assert means.code == ""
    else:
        assert outcome.BY_CODE[means.code].kind == kinds[means.kind]


@pytest.mark.parametrize(
    ("reason", "kind", "code"),
    [
        ("txn-already-known", "accepted", ""),
        ("Transaction already in the mempool", "accepted", ""),
        ("parent rejected", "condition", "network.orphan"),
        ("missing parent", "condition", "network.orphan"),
        ("missing-inputs", "condition", "network.orphan"),
        ("bad-txns-inputs-missingorspent", "condition", "network.orphan"),
        ("64: non-final", "condition", "network.not-final"),
        ("bad-txns-nonfinal", "condition", "network.not-final"),
        ("mempool full", "condition", "network.undecided"),
        ("too-long-mempool-chain", "condition", "network.undecided"),
        ("258: txn-mempool-conflict", "refused", "network.double-spend"),
        ("txn-double-spend-detected", "refused", "network.double-spend"),
        ("bad-txns-inputs-spent", "refused", "network.double-spend"),
        ("bad-txns-inputs-frozen", "refused", "network.frozen"),
        ("66: mempool min fee not met", "refused", "network.fee"),
        ("insufficient priority", "refused", "network.fee"),
        ("mandatory-script-verify-flag-failed (…)", "refused", "network.script"),
        ("apparently the moon", "refused", "network.rejected"),
        ("a transparent coffee", "refused", "network.rejected"),  # neither a parent nor a fee
        ("", "refused", "network.rejected"),
    ],
)
def test_a_rejection_is_read_by_its_reason(reason: str, kind: str, code: str) -> None:
    reply = only([entry(A, "REJECTED", extraInfo=reason)])
    assert (reply.kind, reply.code, reply.message) == (kind, code, reason)
    assert reply.network == (kind in ("accepted", "refused"))


def test_an_orphan_reported_beside_another_status_is_one() -> None:
    assert only([entry(A, "STORED", extraInfo="transaction is in orphan mempool")]).code == "network.orphan"
    assert only([entry(A, "MINED", extraInfo="an earlier block was orphaned")]).kind == "accepted"


# --- every number

EXPECTED_NUMBERS = {
    400: ("refused", "network.malformed"),
    409: ("condition", "network.undecided"),
    460: ("condition", "network.orphan"),
    461: ("refused", "network.script"),
    462: ("refused", "network.inputs"),
    463: ("refused", "network.malformed"),
    464: ("refused", "network.outputs"),
    465: ("refused", "network.fee"),
    466: ("refused", "network.double-spend"),
    467: ("condition", "network.undecided"),
    468: ("refused", "network.malformed"),
    469: ("condition", "network.undecided"),
    470: ("condition", "network.undecided"),  # no source defines it
    471: ("refused", "network.frozen"),
    472: ("refused", "network.frozen"),
    473: ("refused", "network.fee"),
    474: ("refused", "network.too-large"),
    475: ("condition", "network.orphan"),
    476: ("condition", "network.not-final"),
}


@pytest.mark.parametrize(("number", "expected"), EXPECTED_NUMBERS.items())
def test_an_error_number_decides_wherever_it_stands(number: int, expected: tuple[str, str]) -> None:
    """In an array under HTTP 200, alone under HTTP 200, and alone under the HTTP code of the same number."""
    for reply in (
        only([refusal(number, A)]),
        only(refusal(number, A)),
        only(refusal(number, A), status=number),
        only(refusal(number), status=number),  # an error about the only transaction need not name it
    ):
        assert (reply.kind, reply.code) == expected
        assert (reply.status, reply.message, reply.network) == (str(number), "the detail", False)


@pytest.mark.parametrize("status", [401, 402, 403, 404, 405, 407, 301, 307])
@pytest.mark.invariant("CAST-2")
def test_codes_that_speak_of_us_blame_no_transaction(status: int) -> None:
    batch = read(refusal(status), A, B, status=status)
    assert [reply.kind for reply in batch.replies.values()] == ["config", "config"]


@pytest.mark.parametrize("status", [408, 425, 429, 501, 502, 503, 504, 520, 599])
def test_codes_that_speak_of_the_endpoint_are_no_answer(status: int) -> None:
    batch = read(refusal(status), A, B, status=status)
    assert [reply.kind for reply in batch.replies.values()] == ["transport", "transport"]
    assert batch.narrow == ()


@pytest.mark.parametrize("status", [200, 202])
@pytest.mark.parametrize("body", [b"", b"<html>ok</html>", b"{", b"7", b"null", b"[1]", b"\xff", b"[" * 100_000])
def test_a_success_that_cannot_be_read_is_no_answer(status: int, body: bytes) -> None:
    assert {reply.kind for reply in read(body, A, B, status=status).replies.values()} == {"transport"}


# --- batches


def test_replies_are_matched_by_txid_and_not_by_place() -> None:
    batch = read([entry(C), entry(A), refusal(461, B)], A, B, C)
    assert {txid: reply.kind for txid, reply in batch.replies.items()} == {A: "accepted", B: "refused", C: "accepted"}
    assert batch.narrow == ()


@pytest.mark.parametrize("status", [400, 409, 413, 422, 461, 463, 468, 500])
def test_a_batch_refused_as_a_whole_is_to_be_narrowed(status: int) -> None:
    assert read(refusal(status), A, B, C, status=status) == Batch({}, (A, B, C))
    assert read(b"<html>", A, B, status=status) == Batch({}, (A, B))


def test_members_without_a_word_of_their_own_are_to_be_narrowed() -> None:
    """An error that ARC could not attach to a transaction, and a reply about one that was not sent."""
    batch = read([entry(A), refusal(465), entry(b"\x01" * 32)], A, B, C)
    assert set(batch.replies) == {A}
    assert batch.narrow == (B, C)


def test_a_whole_refusal_that_names_a_member_is_its_answer() -> None:
    batch = read(refusal(461, B), A, B, C, status=461)
    assert batch.replies[B].code == "network.script"
    assert batch.narrow == (A, C)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, [entry(B)], "transport"),  # another's reply accepts nothing of ours
        (200, [], "transport"),
        (461, refusal(461, B), "transport"),  # and refuses nothing of ours
        (400, b"<html>bad request</html>", "transport"),  # a proxy's word
        (400, refusal(461), "transport"),  # body and code differ: not ARC's
        (413, b"<html>", "refused"),  # whoever says so, it is too large for the way there
        (500, refusal(500), "transport"),
        (409, refusal(409), "condition"),
    ],
)
def test_one_alone(status: int, body: Any, kind: str) -> None:
    assert only(body, status).kind == kind


def test_of_two_replies_about_one_transaction_the_first_counts() -> None:
    assert only([entry(A), refusal(466, A)]).kind == "accepted"


def test_rivals_are_named() -> None:
    reply = only([entry(A, "DOUBLE_SPEND_ATTEMPTED", competingTxs=[display(B), "no hash", display(C)])])
    assert reply.competing == (B, C)


def test_no_bytes_and_no_status_make_it_raise_or_forget_a_member() -> None:
    pieces: list[Any] = [
        None,
        7,
        "x",
        [],
        {},
        [{}],
        {"txid": 7},
        [entry(A)],
        refusal(461),
        {"txid": display(A), "status": "461"},
    ]
    for body in [json.dumps(piece).encode() for piece in pieces] + [b"", b"\x00", b"\xff\xff"]:
        for status in (100, 200, 204, 304, 400, 404, 461, 500, 503, 999):
            for txids in ((A,), (A, B)):
                batch = ARC.read(txids, status, body)
                assert set(batch.replies) | set(batch.narrow) == set(txids)
                assert not set(batch.replies) & set(batch.narrow)
            assert ARC.read((A,), status, body).narrow == ()


# --- looking up, policy


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, entry(A, "MINED", merklePath="fe", blockHeight=7), "accepted"),
        (200, entry(A, "REJECTED"), "refused"),
        (200, entry(B, "MINED"), "transport"),
        (404, refusal(404), "pending"),  # as if never sent
        (401, refusal(401), "config"),
        (500, refusal(500), "transport"),
    ],
)
def test_where_a_transaction_stands(status: int, body: Any, kind: str) -> None:
    assert ARC.read_status(A, status, json.dumps(body).encode()).kind == kind


POLICY = {
    "timestamp": "2026-05-01T12:00:00Z",
    "policy": {
        "maxscriptsizepolicy": 500_000,
        "maxtxsigopscountspolicy": 4_294_967_295,
        "maxtxsizepolicy": 10_000_000,
        "miningFee": {"satoshis": 1, "bytes": 1000},
    },
}


def test_the_policy() -> None:
    assert ARC.read_policy(200, json.dumps(POLICY).encode()) == Policy(10_000_000, 500_000, 1, 1000)


@pytest.mark.parametrize(("status", "body"), [(503, b"{}"), (200, b"{}"), (200, b"<html>"), (200, b"\xff")])
def test_what_is_no_policy(status: int, body: bytes) -> None:
    assert isinstance(ARC.read_policy(status, body), Unreadable)


# --- conformance vectors


@pytest.mark.parametrize(
    ("number", "kinds"),
    [
        ("1", ["accepted"]),  # SENT_TO_NETWORK
        ("2", ["accepted"]),  # ACCEPTED_BY_NETWORK
        ("3", ["accepted"]),  # MINED
        ("4", ["condition"]),  # DOUBLE_SPEND_ATTEMPTED: a failure to the SDK, not the end to ARC
        ("5", ["refused"]),  # REJECTED under HTTP 200
        ("8", ["accepted"]),  # STORED
        ("9", ["accepted", "accepted"]),
        ("10", ["accepted", "condition"]),
        ("11", ["accepted"]),  # STORED
        ("12", ["accepted"]),  # GET, MINED
        ("13", ["pending"]),  # GET, 404
    ],
)
def test_conformance(number: str, kinds: list[str]) -> None:
    expected = VECTORS[number]["expected"]
    body = json.dumps(expected["body"]).encode()
    if VECTORS[number]["input"]["method"] == "GET":
        path = VECTORS[number]["input"]["path"]
        txid = from_display(path.rpartition("/")[2])
        assert ARC.look_up(txid).path == path
        assert [ARC.read_status(txid, expected["status"], body).kind] == kinds
        return
    entries = expected["body"] if isinstance(expected["body"], list) else [expected["body"]]
    txids = [from_display(entry["txid"]) for entry in entries]
    for order in (txids, txids[::-1]):
        batch = ARC.read(order, expected["status"], body)
        assert [batch.replies[txid].kind for txid in txids] == kinds
    rivals = [rival for entry in entries for rival in entry.get("competingTxs", [])]
    assert [display(rival) for reply in batch.replies.values() for rival in reply.competing] == rivals


def test_conformance_whole_calls() -> None:
    for number, kind in (("7", "config"), ("16", "transport")):
        expected = VECTORS[number]["expected"]
        assert only(expected["body"], expected["status"]).kind == kind
