"""Each dialect against replies in its own shape: what is a yes, what is a no, and all that is neither."""

import hashlib
import json
from time import process_time
from typing import Any

import pytest

from pipeline.chain.answer import Answer, RootAt, Seen
from pipeline.chain.trackers import BHS_BATCH, TRACKERS, TipAt
from pipeline.http import Unreadable
from schemas.types import display, from_display

TIP = 900_020
TIMES = [1_700_000_000 + 600 * i + 2_000 * (i % 3) for i in range(14)]
"""Not in order, as real block times are: the median is not the middle header's time."""


def linked(times: list[int]) -> list[bytes]:
    """Bare headers, each naming the hash of the one before."""
    chain: list[bytes] = []
    previous = bytes(32)
    for i, time in enumerate(times):
        root = hashlib.sha256(b"root %d" % i).digest()
        header = (1).to_bytes(4, "little") + previous + root + time.to_bytes(4, "little") + bytes(8)
        chain.append(header)
        previous = hash_of(header)
    return chain


def hash_of(header: bytes) -> bytes:
    return hashlib.sha256(hashlib.sha256(header).digest()).digest()


CHAIN = linked(TIMES)  # the last one is the tip
ROOT: RootAt = (TIP - 3, CHAIN[-4][36:68])
OTHER: RootAt = (TIP - 3, b"\xee" * 31 + b"\x01")
MEDIAN = sorted(TIMES[-11:])[5]


def header_json(height: int, spelling: str = "merkleRoot") -> dict[str, Any]:
    header = CHAIN[height - TIP - 1]
    return {
        "height": height,
        "hash": display(hash_of(header)),
        "version": 1,
        spelling: display(header[36:68]),
        "time": int.from_bytes(header[68:72], "little"),
        "bits": 0,
        "nonce": 0,
    }


def success(value: Any) -> bytes:
    return json.dumps({"status": "success", "value": value}).encode()


def confirmations(*rows: tuple[RootAt, str]) -> bytes:
    items = [
        {"blockHash": "", "blockHeight": at[0], "merkleRoot": display(at[1]), "confirmation": state}
        for at, state in rows
    ]
    return json.dumps({"confirmationState": "INVALID", "confirmations": items}).encode()


def test_the_samples_have_block_times_out_of_order() -> None:
    assert TIMES[-6] != MEDIAN
    assert ROOT[1] != ROOT[1][::-1]  # else byte order could not be told


# --- questions


def test_bhs_asks_for_whole_batches_in_display_hex() -> None:
    (question,) = TRACKERS["bhs"].ask([ROOT, OTHER])
    assert (question.request.method, question.request.path) == ("POST", "/api/v1/chain/merkleroot/verify")
    assert json.loads(question.request.body) == [
        {"merkleRoot": display(ROOT[1]), "blockHeight": ROOT[0]},
        {"merkleRoot": display(OTHER[1]), "blockHeight": OTHER[0]},
    ]
    assert question.about == (ROOT, OTHER)


def test_bhs_cuts_long_batches_and_leaves_out_heights_that_would_spoil_one() -> None:
    many = [(height, ROOT[1]) for height in range(BHS_BATCH + 1)]
    questions = TRACKERS["bhs"].ask([*many, (2**31, ROOT[1])])
    assert [len(question.about) for question in questions] == [BHS_BATCH, 1]


@pytest.mark.parametrize(
    ("dialect", "path"),
    [
        ("chaintracks", "/chaintracks/v2/header/height/900017"),
        ("chaintracks-v1", "/findHeaderHexForHeight?height=900017"),
        ("woc", "/block/900017/header"),
    ],
)
def test_a_height_is_asked_for_once(dialect: str, path: str) -> None:
    questions = TRACKERS[dialect].ask([ROOT, OTHER, (5, ROOT[1])])
    assert [(q.request.method, q.request.path, q.about) for q in questions] == [
        ("GET", path, (ROOT, OTHER)),
        ("GET", path.replace("900017", "5"), ((5, ROOT[1]),)),
    ]


# --- answers

Y, N, U = Answer.YES, Answer.NO, Answer.UNKNOWN
HEADER = json.dumps(header_json(ROOT[0])).encode()
WRONG_HEIGHT = json.dumps(header_json(ROOT[0] + 1)).encode()

READABLE = [
    ("bhs", 200, confirmations((ROOT, "CONFIRMED"), (OTHER, "INVALID")), TIP, (Y, N)),
    ("bhs", 200, confirmations((OTHER, "INVALID"), (ROOT, "CONFIRMED")), TIP, (Y, N)),  # matched, not by place
    ("bhs", 200, confirmations((ROOT, "UNABLE_TO_VERIFY"), (OTHER, "UNABLE_TO_VERIFY")), TIP, (U, U)),
    ("bhs", 200, confirmations((ROOT, "INVALID"), (OTHER, "INVALID")), ROOT[0] - 1, (U, U)),  # it is behind
    ("bhs", 200, confirmations((ROOT, "INVALID"), (OTHER, "INVALID")), ROOT[0], (N, N)),
    ("bhs", 200, confirmations((ROOT, "INVALID")), None, (U, U)),  # who knows how far it is
    ("bhs", 200, confirmations((ROOT, "PROBABLY")), TIP, (U, U)),
    ("bhs", 200, b'{"confirmations":[]}', TIP, (U, U)),
    ("chaintracks", 200, HEADER, None, (Y, N)),
    ("chaintracks", 200, json.dumps(header_json(ROOT[0], "merkleroot")).encode(), None, (Y, N)),
    ("chaintracks", 200, success(header_json(ROOT[0])), None, (Y, N)),
    ("chaintracks", 404, b'{"error":"Header not found"}', None, (U, U)),
    ("chaintracks-v1", 200, success(header_json(ROOT[0], "merkleRoot")), None, (Y, N)),
    ("chaintracks-v1", 200, success(header_json(ROOT[0], "merkleroot")), None, (Y, N)),
    ("chaintracks-v1", 200, b'{"status":"success"}', None, (U, U)),  # its way to say: no such header
    ("chaintracks-v1", 200, b'{"status":"success","value":null}', None, (U, U)),
    ("woc", 200, json.dumps(header_json(ROOT[0], "merkleroot")).encode(), None, (Y, N)),
    ("woc", 200, HEADER.replace(display(ROOT[1]).encode(), display(ROOT[1]).upper().encode()), None, (Y, N)),
    ("woc", 404, b"", None, (U, U)),
    ("woc", 200, b"null", None, (U, U)),
]


@pytest.mark.invariant("QUORUM-2")
@pytest.mark.parametrize(("dialect", "status", "body", "own_tip", "expected"), READABLE)
def test_answers(dialect: str, status: int, body: bytes, own_tip: int | None, expected: tuple[Answer, Answer]) -> None:
    tracker = TRACKERS[dialect]
    (question,) = tracker.ask([ROOT, OTHER])
    assert tracker.read(question, status, body, own_tip) == dict(zip((ROOT, OTHER), expected, strict=True))


NO_ANSWER = [
    (500, b'{"error":"x"}'), (502, b"<html>bad gateway</html>"), (429, b"slow down"), (401, b"{}"), (403, b""),
    (400, b"{}"), (302, b""), (200, b"<html>hello</html>"), (200, b"[1]"), (200, b"7"), (200, b"\xff\xfe"), (200, b"{"),
    (200, b'{"status":"error","code":"ERR","description":"x"}'), (200, b"[" * 100_000),
]  # fmt: skip


@pytest.mark.invariant("QUORUM-2")
@pytest.mark.parametrize("dialect", TRACKERS)
@pytest.mark.parametrize(("status", "body"), NO_ANSWER)
def test_what_is_no_answer_is_neither_yes_nor_no(dialect: str, status: int, body: bytes) -> None:
    tracker = TRACKERS[dialect]
    for question in tracker.ask([ROOT, OTHER]):
        assert isinstance(tracker.read(question, status, body, TIP), Unreadable)
    assert isinstance(tracker.read_tip(status, body), Unreadable)
    tip = TipAt(TIP, hash_of(CHAIN[-1]), tracker.ask_tip())
    assert isinstance(tracker.read_times(tip, status, body), Unreadable)


@pytest.mark.parametrize("dialect", ["chaintracks", "woc"])
@pytest.mark.parametrize(
    "body", [WRONG_HEIGHT, b'{"height":900017,"hash":"00"}', b'{"height":900017,"merkleroot":"ab"}']
)
def test_a_header_of_another_height_or_without_a_root_is_no_answer(dialect: str, body: bytes) -> None:
    tracker = TRACKERS[dialect]
    (question,) = tracker.ask([ROOT])
    assert isinstance(tracker.read(question, 200, body, TIP), Unreadable)


# --- tips


def bhs_header(header: bytes) -> dict[str, Any]:
    return {
        "hash": display(hash_of(header)),
        "prevBlockHash": display(header[4:36]),
        "merkleRoot": display(header[36:68]),
        "creationTimestamp": int.from_bytes(header[68:72], "little"),
    }


def bhs_tip() -> bytes:
    return json.dumps({"header": bhs_header(CHAIN[-1]), "state": "LONGEST_CHAIN", "height": TIP}).encode()


TIPS = {
    "bhs": (
        bhs_tip(),
        "/api/v1/chain/header/byHeight?height=900010&count=11",
        json.dumps([bhs_header(header) for header in CHAIN[-11:]]).encode(),
    ),
    "chaintracks": (
        json.dumps(header_json(TIP)).encode(),
        "/chaintracks/v2/headers?height=900010&count=11",
        b"".join(CHAIN[-11:]),
    ),
    "chaintracks-v1": (
        success(header_json(TIP)),
        "/getHeaders?height=900010&count=11",
        success(b"".join(CHAIN[-11:]).hex()),
    ),
}
"""Dialect: the reply to the question for the tip, the path of the next question, and the reply to that."""


@pytest.mark.parametrize("dialect", TIPS)
def test_the_median_time_past_is_of_the_last_eleven_headers(dialect: str) -> None:
    tracker = TRACKERS[dialect]
    body, path, headers = TIPS[dialect]
    tip = tracker.read_tip(200, body)
    assert isinstance(tip, TipAt)
    assert (tip.height, tip.hash, tip.request.path) == (TIP, hash_of(CHAIN[-1]), path)
    hashes = tuple((TIP - 10 + i, hash_of(header)) for i, header in enumerate(CHAIN[-11:]))
    assert tracker.read_times(tip, 200, headers) == Seen(TIP, MEDIAN, hashes)


def test_bhs_passes_over_stale_headers_in_a_range() -> None:
    """Its range by height holds every header it ever saw there, and no heights."""
    tracker = TRACKERS["bhs"]
    tip = tracker.read_tip(200, bhs_tip())
    assert isinstance(tip, TipAt)
    stale = bhs_header(CHAIN[-2][:36] + b"\x55" * 32 + (1).to_bytes(4, "little") + bytes(8))
    body = json.dumps([stale, *(bhs_header(header) for header in reversed(CHAIN[-11:])), stale]).encode()
    found = tracker.read_times(tip, 200, body)
    assert isinstance(found, Seen)
    assert found.median_time_past == MEDIAN


@pytest.mark.parametrize(
    "headers",
    [
        CHAIN[-12:-1],  # of a moment ago: they do not end in the tip
        CHAIN[-10:],  # too few
        [*CHAIN[-11:-5], CHAIN[-6][:40] + b"\x99" + CHAIN[-6][41:], *CHAIN[-4:]],  # one altered: not linked
        [],
    ],
)
def test_headers_that_do_not_lead_to_the_tip_give_no_time(headers: list[bytes]) -> None:
    bodies = {
        "bhs": json.dumps([bhs_header(header) for header in headers]).encode(),
        "chaintracks": b"".join(headers),
        "chaintracks-v1": success(b"".join(headers).hex()),
    }
    for dialect, body in bodies.items():
        tip = TRACKERS[dialect].read_tip(200, TIPS[dialect][0])
        assert isinstance(tip, TipAt)
        assert isinstance(TRACKERS[dialect].read_times(tip, 200, body), Unreadable)


def test_whatsonchain_tells_the_median_time_past_itself() -> None:
    body = json.dumps({"chain": "main", "blocks": TIP, "bestblockhash": display(hash_of(CHAIN[-1])), "mediantime": 7})
    assert TRACKERS["woc"].read_tip(200, body.encode()) == Seen(TIP, 7, ((TIP, hash_of(CHAIN[-1])),))


def test_a_young_chain_has_fewer_headers() -> None:
    young = linked(TIMES[:3])
    body = json.dumps({"height": 2, "hash": display(hash_of(young[-1])), "merkleroot": "00" * 32})
    tip = TRACKERS["chaintracks"].read_tip(200, body.encode())
    assert isinstance(tip, TipAt)
    assert tip.request.path.endswith("?height=0&count=3")
    found = TRACKERS["chaintracks"].read_times(tip, 200, b"".join(young))
    assert isinstance(found, Seen)
    assert found.median_time_past == sorted(TIMES[:3])[1]


@pytest.mark.parametrize("block_hash", ["", "zz" * 32, "ab" * 31, "ab " * 32])
def test_a_tip_without_a_block_hash_is_none(block_hash: str) -> None:
    body = json.dumps({"height": TIP, "hash": block_hash, "merkleRoot": "00" * 32}).encode()
    assert isinstance(TRACKERS["chaintracks"].read_tip(200, body), Unreadable)


def test_byte_order_of_a_real_block() -> None:
    """Mainnet block 125552, an example everybody has: header bytes, and hash and root as people print them."""
    header = bytes.fromhex(
        "0100000081cd02ab7e569e8bcd9317e2fe99f2de44d49ab2b8851ba4a308000000000000"
        "e320b6c2fffc8d750423db8b1eb942ae710e951ed797f7affc8892b0f1fc122b"
        "c7f5d74df2b9441a42a14695"
    )
    block_hash = "00000000000000001e8d6829a8a21adc5d38d0a473b144b6765798e61f98bd1d"
    root = "2b12fcf1b09288fcaff797d71e950e71ae42b91e8bdb2304758dfcffc2b620e3"
    assert display(hash_of(header)) == block_hash
    body = json.dumps({"height": 125_552, "hash": block_hash, "merkleroot": root}).encode()
    at = (125_552, header[36:68])
    (question,) = TRACKERS["woc"].ask([at])
    assert TRACKERS["woc"].read(question, 200, body, None) == {at: Answer.YES}
    assert from_display(root) == at[1]


# --- ranges of headers

FIRST = TIP - len(CHAIN) + 1


def whole(header: bytes) -> dict[str, Any]:
    """A header as Block Headers Service writes it."""
    numbers = {"version": 0, "difficultyTarget": 72, "nonce": 76}
    fields = {name: int.from_bytes(header[at : at + 4], "little") for name, at in numbers.items()}
    return bhs_header(header) | fields | {"work": "2"}


def woc_header(header: bytes, height: int) -> dict[str, Any]:
    """A header as nodes print it, and WhatsOnChain hands it on."""
    version = int.from_bytes(header[:4], "little", signed=True)
    return {
        "height": height, "hash": display(hash_of(header)), "version": version, "merkleroot": display(header[36:68]),
        "time": int.from_bytes(header[68:72], "little"), "bits": header[72:76][::-1].hex(),
        "nonce": int.from_bytes(header[76:80], "little"), "previousblockhash": display(header[4:36]),
    }  # fmt: skip


def told(dialect: str, headers: list[bytes], first: int) -> bytes:
    """A reply that tells `headers`."""
    bodies = {
        "bhs": json.dumps([whole(header) for header in headers]).encode(),
        "chaintracks": b"".join(headers),
        "chaintracks-v1": success(b"".join(headers).hex()),
        "woc": json.dumps(woc_header(headers[0], first) if headers else None).encode(),
    }
    return bodies[dialect]


@pytest.mark.parametrize(
    ("dialect", "path", "range_"),
    [
        ("bhs", "/api/v1/chain/header/byHeight?height=900007&count=5", 2000),
        ("chaintracks", "/chaintracks/v2/headers?height=900007&count=5", 2000),
        ("chaintracks-v1", "/getHeaders?height=900007&count=5", 2000),
        ("woc", "/block/900007/header", 1),
    ],
)
def test_a_range_is_asked_for_and_made_bytes_again(dialect: str, path: str, range_: int) -> None:
    tracker, count = TRACKERS[dialect], min(5, range_)
    request = tracker.ask_headers(FIRST, 5)
    assert (request.method, request.path, tracker.range) == ("GET", path, range_)
    body = told(dialect, CHAIN[:count], FIRST)
    assert tracker.read_headers(FIRST, 5, 200, body) == b"".join(CHAIN[:count])
    assert len(tracker.ask_headers(2**31 - 1, range_).path) < 100


@pytest.mark.parametrize("dialect", TRACKERS)
def test_where_a_service_has_no_headers_there_are_none(dialect: str) -> None:
    assert TRACKERS[dialect].read_headers(FIRST, 5, 404, b"Not Found") == b""
    if dialect != "woc":
        assert TRACKERS[dialect].read_headers(FIRST, 5, 200, told(dialect, [], FIRST)) == b""


@pytest.mark.parametrize("dialect", TRACKERS)
@pytest.mark.parametrize(("status", "body"), [row for row in NO_ANSWER if row[0] != 200 or not row[1].startswith(b"[")])
def test_what_is_no_range_is_unreadable(dialect: str, status: int, body: bytes) -> None:
    assert isinstance(TRACKERS[dialect].read_headers(FIRST, 5, status, body), Unreadable)


BROKEN: list[tuple[str, dict[str, Any]]] = [
    ("bhs", {"hash": 5}), ("bhs", {"merkleRoot": "ab"}), ("bhs", {"prevBlockHash": ""}), ("bhs", {"nonce": -1}),
    ("bhs", {"version": 2**32}), ("bhs", {"difficultyTarget": 2**64}), ("bhs", {"creationTimestamp": 2**32}),
    ("woc", {"height": FIRST + 1}), ("woc", {"previousblockhash": ""}), ("woc", {"bits": "zz"}), ("woc", {"bits": 5}),
    ("woc", {"bits": "ff" * 9}), ("woc", {"merkleroot": "zz" * 32}), ("woc", {"nonce": 2**32}), ("woc", {"time": -1}),
]  # fmt: skip


@pytest.mark.parametrize(("dialect", "change"), BROKEN)
def test_fields_that_make_no_header_are_unreadable(dialect: str, change: dict[str, Any]) -> None:
    body = json.dumps([whole(CHAIN[0]) | change] if dialect == "bhs" else woc_header(CHAIN[0], FIRST) | change)
    assert isinstance(TRACKERS[dialect].read_headers(FIRST, 5, 200, body.encode()), Unreadable)


@pytest.mark.parametrize(
    ("dialect", "body"),
    [
        ("chaintracks", b"".join(CHAIN[:6])),  # one more than was asked for
        ("chaintracks", CHAIN[0][:79]),
        ("chaintracks-v1", success(b"".join(CHAIN[:6]).hex())),
        ("chaintracks-v1", success(CHAIN[0].hex()[:-2])),
        ("chaintracks-v1", success("zz" * 80)),
        ("chaintracks-v1", success(5)),
    ],
)
def test_more_than_was_asked_for_or_pieces_of_headers_are_unreadable(dialect: str, body: bytes) -> None:
    assert isinstance(TRACKERS[dialect].read_headers(FIRST, 5, 200, body), Unreadable)


def test_bhs_tells_the_longest_branch_of_a_range() -> None:
    """In whatever order, with stale headers of any kind beside it, and no more of it than was asked for."""
    stale = [CHAIN[2][:36] + b"\x55" * 32 + CHAIN[2][68:]]
    stale.append(b"\1\0\0\0" + hash_of(stale[0]) + bytes(40))
    for headers in ([*stale, *CHAIN[:6]], [*CHAIN[5::-1], *stale], [CHAIN[3], *stale, *CHAIN[:3], *CHAIN[4:6]]):
        body = told("bhs", headers, FIRST)
        assert TRACKERS["bhs"].read_headers(FIRST, 6, 200, body) == b"".join(CHAIN[:6])
        assert TRACKERS["bhs"].read_headers(FIRST, 4, 200, body) == b"".join(CHAIN[:4])


def test_a_range_of_bhs_costs_what_it_is_long() -> None:
    """Thousands of stale headers on one long branch: each is looked at once."""
    chain = linked(list(range(3000)))
    ends = [b"\1\0\0\0" + hash_of(chain[-2]) + number.to_bytes(32, "little") + bytes(12) for number in range(3000)]
    began = process_time()
    found = TRACKERS["bhs"].read_headers(FIRST, 3000, 200, told("bhs", [*ends, *chain], FIRST))
    assert isinstance(found, bytes)
    assert len(found) == 80 * 3000
    assert process_time() - began < 2  # 3,000 times 3,000 steps are more


def test_the_first_block_of_all_has_none_below() -> None:
    genesis = bytes(4) + bytes(32) + b"\x07" * 32 + bytes(12)
    fields = woc_header(genesis, 0)
    del fields["previousblockhash"]
    assert TRACKERS["woc"].read_headers(0, 1, 200, json.dumps(fields).encode()) == genesis
