"""The WhatsOnChain dialect: raw hex in, a node's words out."""

import json

import pytest

from pipeline.broadcasters import Reply
from pipeline.broadcasters.table import DIALECTS
from pipeline.broadcasters.whatsonchain import WhatsOnChain
from pipeline.codec.ef import write_ef
from pipeline.codec.reader import Malformed
from pipeline.codec.tx import read_tx
from pipeline.http import Unreadable
from schemas.types import display
from tests.builders import In, Out, funding, spend

WOC = WhatsOnChain()
A, B = (bytes([n]) + bytes(range(1, 32)) for n in (0xAA, 0xBB))


def only(text: str, status: int = 200) -> Reply:
    batch = WOC.read((A,), status, text.encode())
    assert batch.narrow == ()
    return batch.replies[A]


def test_extended_format_is_made_raw() -> None:
    parent = funding(Out(5000), Out(7000))
    tx = spend([In(parent, 0), In(parent, 1)], [Out(11_000)])
    ef = write_ef(tx, [parent.output(0), parent.output(1)])
    request = WOC.submit([ef])
    assert (request.method, request.path) == ("POST", "/tx/raw")
    assert dict(request.headers) == {"Content-Type": "application/json"}
    sent = read_tx(bytes.fromhex(json.loads(request.body)["txhex"]))
    assert (sent.raw, sent.txid) == (tx.raw, tx.txid)
    assert WOC.most == 1


def test_what_is_no_extended_format_is_not_sent() -> None:
    with pytest.raises(Malformed):
        WOC.submit([b"\x01\x00\x00\x00" + bytes(60)])


@pytest.mark.parametrize("form", ["{}", '"{}"', '"{}"\n', "{}\n"])
def test_the_txid_accepts(form: str) -> None:
    reply = only(form.format(display(A)))
    assert (reply.kind, reply.network) == ("accepted", True)
    assert only(form.format(display(B))).kind == "transport"  # another's


@pytest.mark.parametrize("text", ["", "OK", "<html>", '{"txid": 1}', "\x00"])
def test_a_success_that_is_no_txid_is_no_answer(text: str) -> None:
    assert only(text).kind == "transport"


@pytest.mark.parametrize("prefix", ["", "unexpected response code 500: ", '"unexpected response code 500: '])
@pytest.mark.parametrize("status", [400, 500])
@pytest.mark.parametrize(
    ("reason", "kind", "code"),
    [
        ("257: txn-already-known", "accepted", ""),
        ("Transaction already in the mempool", "accepted", ""),
        ("Missing inputs", "condition", "network.orphan"),
        ("64: non-final", "condition", "network.not-final"),
        ("258: txn-mempool-conflict", "refused", "network.double-spend"),
        ("66: mempool min fee not met", "refused", "network.fee"),
        ("16: mandatory-script-verify-flag-failed (x)", "refused", "network.script"),
        ("TX decode failed", "refused", "network.malformed"),
        ("16: bad-txns-of-tomorrow", "refused", "network.rejected"),  # a reject code makes it the node's word
    ],
)
def test_a_node_s_reason_decides(prefix: str, status: int, reason: str, kind: str, code: str) -> None:
    reply = only(prefix + reason, status)
    assert (reply.kind, reply.code, reply.message) == (kind, code, reason)


def test_a_reason_nobody_knows_refuses_without_being_the_network_s() -> None:
    reply = only("apparently the moon", 400)
    assert (reply.kind, reply.code, reply.network) == ("refused", "network.rejected", False)


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (400, "", "transport"),
        (400, "<html>Missing inputs</html>", "transport"),
        (400, "unexpected response code 502: ", "transport"),
        (400, "unexpected response code 500: the node is asleep", "transport"),  # of the node behind it
        (500, "apparently the moon", "transport"),
        (503, "Missing gateway", "transport"),
        (413, "", "refused"),
        (401, "Unauthorized", "config"),
        (403, "Missing inputs", "config"),
        (404, "", "config"),
        (429, "Missing inputs", "transport"),
        (302, "", "config"),
    ],
)
def test_codes(status: int, text: str, kind: str) -> None:
    assert only(text, status).kind == kind


def test_where_a_transaction_stands() -> None:
    assert WOC.look_up(A).path == f"/tx/hash/{display(A)}"
    seen = json.dumps({"txid": display(A)}).encode()
    mined = json.dumps({"txid": display(A), "confirmations": 3, "blockheight": 7}).encode()
    assert [(r.kind, r.status, r.path) for body in (seen, mined) for r in (WOC.read_status(A, 200, body),)] == [
        ("accepted", "SEEN_ON_NETWORK", b""),
        ("accepted", "MINED", b""),
    ]
    assert WOC.read_status(A, 404, b"").status == "UNKNOWN"
    assert WOC.read_status(B, 200, seen).kind == "transport"
    assert WOC.read_status(A, 200, b"null").kind == "transport"
    assert WOC.read_status(A, 403, seen).kind == "config"
    assert WOC.read_status(A, 500, seen).kind == "transport"


def test_what_it_does_not_offer_is_said() -> None:
    assert DIALECTS["whatsonchain"].ask_policy() is None
    assert isinstance(WOC.read_policy(200, b"{}"), Unreadable)
    assert (WOC.probe().path, WOC.read_probe(200, b"Whats On Chain"), WOC.read_probe(503, b"")) == (
        "/woc", "", "HTTP 503",
    )  # fmt: skip
    assert WOC.read_probe(200, b"<html>")
