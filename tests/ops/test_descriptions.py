"""The simulated ARC and Arcade, held against the published descriptions of their APIs and ARC's conformance file.

`descriptions.json` says where each description is from. Its shapes are closed: a field that is not described is a
difference, as one that is missing. Every difference stands in `DEVIATIONS`, and is found there and nowhere else.

Teranode's propagation service and WhatsOnChain publish no description that a machine could read. What is written
about them is held by `test_simulate_endpoints.py`.
"""

import contextlib
import datetime
import http.client
import json
import re
import threading
from collections.abc import Callable, Collection, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from jsonschema import Draft202012Validator, FormatChecker
from msgspec import Struct

from ops.instruments.chain import Chain
from ops.instruments.generate import Generator
from ops.instruments.keys import Made
from ops.simulate import arc, arcade
from ops.simulate.callbacks import ALWAYS, FULL
from ops.simulate.client import Simulated, spawn_all
from ops.simulate.rules import TITLES
from schemas.types import display
from tests.ops.test_simulate import ENCODINGS, ask, payment, until
from tests.pipeline.broadcasters.test_arc import VECTORS

DESCRIPTIONS = json.loads(Path(__file__).with_name("descriptions.json").read_text())
BINARY = "application/octet-stream"
KEY = "test-api-key-abc123"
"""The key that the conformance file shows."""

COMMANDS = {"arc": ("arc",), "arcade": ("arcade",), "keyed": ("arc", "--token", KEY, "--conflicts", "attempt")}

Answer = tuple[int, Any]


class Posted(Struct, frozen=True):
    """What a service posted to a callback URL."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


class World(Struct, frozen=True):
    """Who is asked, with what, and what they told by themselves."""

    chain: Chain
    shop: Generator
    services: dict[str, Simulated]
    callback_url: str
    posts: list[Posted]

    def told(self, txid: bytes, status: str) -> Posted:
        """The callback about a transaction that comes to this status."""

        def found() -> list[Posted]:
            return [p for p in self.posts if (p.body["txid"], p.body["txStatus"]) == (display(txid), status)]

        assert until(lambda: bool(found())), f"nobody was told of {status}"
        return found()[0]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    posts: list[Posted] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            posts.append(Posted(self.path, dict(self.headers), json.loads(body)))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    chain = Chain.open(tmp_path_factory.mktemp("described") / "chain")
    shop = Generator(chain, seed=11)
    started = spawn_all(list(COMMANDS.values()), chain=chain.folder)
    services = dict(zip(COMMANDS, started, strict=True))
    server = HTTPServer(("127.0.0.1", 0), Receiver)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    yield World(chain, shop, services, f"http://127.0.0.1:{server.server_port}/arc-ingest", posts)
    for service in started:
        service.stop()
    server.shutdown()
    serving.join()
    server.server_close()


@pytest.fixture(autouse=True)
def _mended(world: World) -> Iterator[None]:
    """No fault outlives its test."""
    yield
    for service in world.services.values():
        service.fault("none")


# --- what deviates

NEWER = "newer than the description"
UNLISTED = "named by the description, and not among the answers of this call"
BEFORE_ARC = "no answer of ARC's own: whoever stands before it asks for keys and counts calls"
RIVALS = "the real one names them in its statuses alone (ops/simulate/arc_http.py)"
ADDED = "the fields of ARC's errors, beside Arcade's own; HTTP 46x or 400 by its build, described is 400"
AT_ONCE = "the simulated one finds out at once what the real one tells later (ops/simulate/arcade.py)"
NUMBERS = [number for number in TITLES if number >= 409]
ARC_FIELDS = {"more: status", "more: title", "more: detail", "more: type"}

DEVIATIONS: dict[tuple[str, str, str], tuple[set[str], str]] = {
    ("arc", "POST /v1/tx", "MINED_IN_STALE_BLOCK"): ({"other: txStatus"}, NEWER),
    ("arc", "POST /v1/txs", "MINED_IN_STALE_BLOCK"): ({"other: txStatus"}, NEWER),
    ("arc", "GET /v1/tx/{txid}", "MINED_IN_STALE_BLOCK"): ({"other: txStatus"}, NEWER),
    **{("arc", "POST /v1/tx", str(n)): ({f"HTTP {n}"}, UNLISTED) for n in (466, 471, 472)},
    **{("arc", "POST /v1/tx", str(n)): ({f"HTTP {n}", "other: title"}, NEWER) for n in (474, 475, 476)},
    **{("arc", "POST /v1/txs", str(n)): ({"other: title"}, NEWER) for n in (474, 475, 476)},
    ("arc", "POST /v1/tx", "a rival"): ({"HTTP 466", "more: competingTxs"}, RIVALS),
    ("arc", "POST /v1/txs", "a rival"): ({"more: competingTxs"}, RIVALS),
    ("arc", "POST /v1/tx", "no key"): ({"HTTP 401", "missing: type", "other: title"}, BEFORE_ARC),
    ("arc", "POST /v1/tx", "too often"): ({"HTTP 429", "missing: type", "other: title"}, BEFORE_ARC),
    **{("arcade", "POST /tx", str(n)): ({f"HTTP {n}", *ARC_FIELDS}, ADDED) for n in NUMBERS},
    **{("arcade", "POST /txs", str(n)): (ARC_FIELDS, ADDED) for n in NUMBERS},
    ("arcade", "POST /tx", "a reason"): ({"more: extraInfo"}, AT_ONCE),
    ("arcade", "POST /tx", "a rival"): ({"more: extraInfo", "more: competingTxs"}, AT_ONCE),
    ("arcade", "GET /tx/{txid}", "no id"): ({"HTTP 400"}, "described is none for an id that cannot be read"),
    ("arc-submit", "vectors", "6"): (
        {"HTTP 400", "other: detail", "other: status", "other: title"},
        "the file says 422, which ARC never sends: what cannot be read is 400",
    ),
}
"""By service, call and what it was asked about: in what the answer is not as published, and why."""

NEVER: dict[tuple[str, str, int], str] = {
    ("arc", "POST /v1/tx", 422): "described, and never sent by ARC",
    **{
        ("arc", "POST /v1/txs", number): "stands in the answer about the member, under HTTP 200"
        for number in (409, 460, 461, 462, 463, 464, 465, 467, 469, 473)
    },
}
"""Described answers that are never given."""


def expected(of: str, call: str, about: str) -> set[str]:
    return DEVIATIONS.get((of, call, about), (set(), ""))[0]


# --- the check

FORMATS = FormatChecker(())
RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")


@FORMATS.checks("date-time", raises=ValueError)
def is_date_time(value: object) -> bool:
    """jsonschema leaves this one to a library that is not here, and without it takes anything."""
    if not isinstance(value, str):
        return True
    return RFC_3339.fullmatch(value) is not None and datetime.datetime.fromisoformat(value).tzinfo is not None


def shaped(of: str, name: str, body: Any) -> set[str]:
    """In what a body is not of the shape."""
    found: set[str] = set()
    for error in Draft202012Validator(DESCRIPTIONS[of]["shapes"][name], format_checker=FORMATS).iter_errors(body):
        if error.validator == "additionalProperties":
            found |= {f"more: {field}" for field in set(error.instance) - set(error.schema["properties"])}
        elif error.validator == "required":
            found |= {f"missing: {field}" for field in set(error.validator_value) - set(error.instance)}
        else:
            found.add(f"other: {'/'.join(map(str, error.absolute_path))}")
    if name == "ErrorFields" and body.get("title") != DESCRIPTIONS[of]["titles"].get(str(body.get("status")), ""):
        found.add("other: title")
    return found


def unlike(of: str, call: str, code: int, body: Any) -> set[str]:
    """In what an answer is not as described. Where its code is not, it is held against what errors look like."""
    if call == "callback":
        return shaped(of, "Callback", body)
    match DESCRIPTIONS[of]["answers"][call].get(str(code)):
        case None:
            return {f"HTTP {code}"} | shaped(of, {"arc": "ErrorFields", "arcade": "ValidationError"}[of], body)
        case "TransactionResponses":
            names = ["TransactionResponse" if each.get("status") == 200 else "ErrorFields" for each in body]
            return set().union(*(shaped(of, name, each) for name, each in zip(names, body, strict=True)))
        case "ErrorFields" if body.get("status") != code:
            return {"other: status"} | shaped(of, "ErrorFields", body)
        case name:
            return shaped(of, name, body)


def test_the_check_finds_what_is_wrong() -> None:
    good = {"timestamp": "2026-05-01T12:00:00.5Z", "txid": "ab", "txStatus": "STORED", "status": 200, "title": "OK"}
    bad = {"type": "", "title": "Generic error", "detail": "", "status": 461}
    assert unlike("arc", "POST /v1/tx", 200, good) == set()
    assert unlike("arc", "POST /v1/tx", 200, good | {"timestamp": "2026-05-01"}) == {"other: timestamp"}
    assert unlike("arc", "POST /v1/tx", 200, good | {"timestamp": "2026-05-41T12:00:00Z"}) == {"other: timestamp"}
    assert unlike("arc", "POST /v1/tx", 200, {**good, "txid": 7, "fee": 1}) == {"other: txid", "more: fee"}
    assert unlike("arc", "POST /v1/tx", 461, bad) == {"other: title"}
    assert unlike("arc", "POST /v1/tx", 409, bad) == {"other: title", "other: status"}
    assert unlike("arc", "POST /v1/txs", 200, [good, {**good, "status": 461}]) == {
        "missing: type", "missing: detail", "more: timestamp", "more: txStatus", "other: title",
    }  # fmt: skip


@pytest.mark.parametrize("of", DESCRIPTIONS)
def test_shapes_are_closed(of: str) -> None:
    for shape in DESCRIPTIONS[of]["shapes"].values():
        Draft202012Validator.check_schema(shape)
        assert shape["additionalProperties"] is False


# --- the cases


class Case(Struct, frozen=True):
    """An answer: whose, to which call, about what, with which code; and how to get it."""

    of: str
    call: str
    about: str
    code: int
    get: Callable[[World], Answer]


def send(service: Simulated, call: str, *raws: bytes, kind: str = BINARY, **headers: str) -> Answer:
    body = ENCODINGS[kind](raws)
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return ask(service, call.removeprefix("POST "), body, kind, sent)


def look_up(service: Simulated, call: str, txid: str) -> Answer:
    return ask(service, call.removeprefix("GET ").format(txid=txid))


def ordered(of: str, call: str, order: str | int, info: str = "scripted") -> Callable[[World], Answer]:
    """One that is to get this status or number; in a batch, beside one that is taken."""

    def get(world: World) -> Answer:
        made, service = payment(world.shop), world.services[of]
        service.script(display(made.txid), order, info)
        others = [payment(world.shop).extended()] if call.endswith("s") else []
        code, body = send(service, call, made.extended(), *others)
        members = body if isinstance(body, list) else [body]
        if "submitted" not in body:  # Arcade's numbers name no status
            assert any(order in (each.get("txStatus"), each["status"]) for each in members), "as ordered"
        return code, body

    return get


def standing(of: str, submission: str, call: str, status: str) -> Callable[[World], Answer]:
    """One that got this status, asked about."""

    def get(world: World) -> Answer:
        made, service = payment(world.shop), world.services[of]
        service.script(display(made.txid), status)
        send(service, submission, made.extended())
        code, body = look_up(service, call, display(made.txid))
        assert body["txStatus"] == status
        return code, body

    return get


def told(of: str, submission: str, status: str) -> Callable[[World], Answer]:
    """One that got this status, told to who had asked for every status."""

    def get(world: World) -> Answer:
        made, service = payment(world.shop), world.services[of]
        service.script(display(made.txid), status)
        asked = {"X_CallbackUrl": world.callback_url, "X_FullStatusUpdates": "true"}
        send(service, submission, made.extended(), **asked)
        return 200, world.told(made.txid, status).body

    return get


def written(of: str, call: str, kind: str) -> Callable[[World], Answer]:
    """One, or two in a batch, in a described form."""

    def get(world: World) -> Answer:
        made = [payment(world.shop).extended() for _ in range(2 if call.endswith("s") else 1)]
        return send(world.services[of], call, *made, kind=kind)

    return get


def rivals(world: World) -> tuple[Made, Made]:
    coin = world.shop.shop.take().coin
    return world.shop.shop.pay([coin]), world.shop.shop.pay([coin])


def contested(of: str, call: str) -> Callable[[World], Answer]:
    """The second of two that spend one coin."""

    def get(world: World) -> Answer:
        first, second = rivals(world)
        send(world.services[of], call, first.extended())
        return send(world.services[of], call, second.extended())

    return get


def told_of_a_rival(of: str, service: str, submission: str) -> Callable[[World], Answer]:
    def get(world: World) -> Answer:
        first, second = rivals(world)
        headers = {"X_CallbackUrl": world.callback_url, "X_FullStatusUpdates": "true", "Authorization": f"Bearer {KEY}"}
        for made in (first, second):
            send(world.services[service], submission, made.extended(), **headers)
        body = world.told(second.txid, "DOUBLE_SPEND_ATTEMPTED").body
        assert body["competingTxs"] == [display(first.txid)]
        return 200, body

    return get


def told_of_a_block(of: str, submission: str, number: int) -> Callable[[World], Answer]:
    def get(world: World) -> Answer:
        mined = world.chain.coin(number)
        send(world.services[of], submission, mined.raw, X_CallbackUrl=world.callback_url)
        body = world.told(mined.coin.txid, "MINED").body
        assert (body["blockHeight"], mined.coin.txid.hex() in body["merklePath"]) == (mined.height, True)
        return 200, body

    return get


def mined(of: str, call: str, number: int) -> Callable[[World], Answer]:
    return lambda world: look_up(world.services[of], call, display(world.chain.coin(number).coin.txid))


def sent_again(of: str, call: str, number: int) -> Callable[[World], Answer]:
    return lambda world: send(world.services[of], call, world.chain.coin(number).raw)


def failing(of: str, call: str, fault: str) -> Callable[[World], Answer]:
    def get(world: World) -> Answer:
        world.services[of].fault(fault, retry_after_s=7)
        return send(world.services[of], call, payment(world.shop).extended())

    return get


def plain(of: str, call: str) -> Callable[[World], Answer]:
    return lambda world: look_up(world.services[of], call, "")


def unreadable(of: str, call: str, body: bytes = b"zz", kind: str = BINARY) -> Callable[[World], Answer]:
    return lambda world: send(world.services[of], call, body, kind=kind)


BEEF = b"\x01\x00\xbe\xef\x00\x00"
STATUS = "GET /v1/tx/{txid}"

ARC = [
    Case("arc", "GET /v1/policy", "its limits", 200, plain("arc", "GET /v1/policy")),
    Case("arc", "GET /v1/health", "its health", 200, plain("arc", "GET /v1/health")),
    *(Case("arc", f"POST {path}", status, 200, ordered("arc", f"POST {path}", status))
      for path in ("/v1/tx", "/v1/txs") for status in arc.STATUSES),
    *(Case("arc", STATUS, status, 200, standing("arc", "POST /v1/tx", STATUS, status)) for status in arc.STATUSES),
    *(Case("arc", "POST /v1/tx", str(n), n, ordered("arc", "POST /v1/tx", n)) for n in NUMBERS),
    *(Case("arc", "POST /v1/txs", str(n), 200, ordered("arc", "POST /v1/txs", n)) for n in NUMBERS),
    *(Case("arc", call, kind, 200, written("arc", call, kind))
      for call, kinds in DESCRIPTIONS["arc"]["requests"].items() for kind in kinds),
    *(Case("arc", call, "no transaction", 400, unreadable("arc", call)) for call in DESCRIPTIONS["arc"]["requests"]),
    *(Case("arc", call, "a BEEF", 468, unreadable("arc", call, BEEF, "text/plain"))
      for call in DESCRIPTIONS["arc"]["requests"]),
    Case("arc", STATUS, "one never sent", 404, lambda world: look_up(world.services["arc"], STATUS, "ab" * 32)),
    Case("arc", STATUS, "no id", 409, lambda world: look_up(world.services["arc"], STATUS, "zz")),
    Case("arc", STATUS, "one in a block", 200, mined("arc", STATUS, 4711)),
    Case("arc", "POST /v1/tx", "one in a block", 200, sent_again("arc", "POST /v1/tx", 4717)),
    Case("arc", "POST /v1/tx", "a rival", 466, contested("arc", "POST /v1/tx")),
    Case("arc", "POST /v1/txs", "a rival", 200, contested("arc", "POST /v1/txs")),
    Case("arc", "POST /v1/tx", "no key", 401, unreadable("keyed", "POST /v1/tx")),
    Case("arc", "POST /v1/tx", "too often", 429, failing("arc", "POST /v1/tx", "429")),
    *(Case("arc", "callback", status, 200, told("arc", "POST /v1/tx", status)) for status in sorted(ALWAYS | FULL)),
    Case("arc", "callback", "a rival", 200, told_of_a_rival("arc", "keyed", "POST /v1/tx")),
    Case("arc", "callback", "a block", 200, told_of_a_block("arc", "POST /v1/tx", 4712)),
]  # fmt: skip

ASKED = "GET /tx/{txid}"

ARCADE = [
    Case("arcade", "GET /health", "its health", 200, plain("arcade", "GET /health")),
    *(Case("arcade", "POST /tx", status, 202, ordered("arcade", "POST /tx", status, info=""))
      for status in arcade.STATUSES),
    *(Case("arcade", "POST /txs", status, 202, ordered("arcade", "POST /txs", status)) for status in arcade.STATUSES),
    *(Case("arcade", ASKED, status, 200, standing("arcade", "POST /tx", ASKED, status)) for status in arcade.STATUSES),
    *(Case("arcade", "POST /tx", str(n), n, ordered("arcade", "POST /tx", n)) for n in NUMBERS),
    *(Case("arcade", "POST /txs", str(n), 400, ordered("arcade", "POST /txs", n)) for n in NUMBERS),
    *(Case("arcade", call, kind, 202, written("arcade", call, kind))
      for call, kinds in DESCRIPTIONS["arcade"]["requests"].items() for kind in kinds),
    Case("arcade", "POST /tx", "no transaction", 400, unreadable("arcade", "POST /tx")),
    Case("arcade", "POST /txs", "no transaction", 400, unreadable("arcade", "POST /txs")),
    Case("arcade", "POST /txs", "text/plain", 400, written("arcade", "POST /txs", "text/plain")),
    Case("arcade", "POST /tx", "a reason", 202, ordered("arcade", "POST /tx", "REJECTED")),
    Case("arcade", "POST /tx", "a rival", 202, contested("arcade", "POST /tx")),
    Case("arcade", ASKED, "one never sent", 404, lambda world: look_up(world.services["arcade"], ASKED, "ab" * 32)),
    Case("arcade", ASKED, "no id", 400, lambda world: look_up(world.services["arcade"], ASKED, "zz")),
    Case("arcade", ASKED, "one in a block", 200, mined("arcade", ASKED, 4713)),
    Case("arcade", "POST /tx", "too many", 503, failing("arcade", "POST /tx", "busy")),
    Case("arcade", "POST /txs", "too many", 503, failing("arcade", "POST /txs", "busy")),
    *(Case("arcade", "callback", status, 200, told("arcade", "POST /tx", status))
      for status in sorted((ALWAYS | FULL) & set(arcade.STATUSES))),
    Case("arcade", "callback", "a rival", 200, told_of_a_rival("arcade", "arcade", "POST /tx")),
    Case("arcade", "callback", "a block", 200, told_of_a_block("arcade", "POST /tx", 4714)),
]  # fmt: skip

CASES = {f"{case.of}: {case.call}: {case.about}": case for case in ARC + ARCADE}


@pytest.mark.parametrize("name", CASES)
def test_an_answer_is_as_described(world: World, name: str) -> None:
    """But for what `DEVIATIONS` says of it, all of which is there."""
    case = CASES[name]
    code, body = case.get(world)
    assert code == case.code, body
    assert unlike(case.of, case.call, code, body) == expected(case.of, case.call, case.about), body


def test_every_described_answer_is_asked_for_and_every_deviation_met() -> None:
    """Both tables are of what is, and of nothing else."""
    assert len(CASES) == len(ARC + ARCADE)
    asked = {(case.of, case.call, case.code) for case in CASES.values()}
    described = {
        (of, call, int(code))
        for of, description in DESCRIPTIONS.items()
        for call, answers in description["answers"].items()
        for code in answers
    }
    assert described - asked == set(NEVER)
    cases = {(case.of, case.call, case.about) for case in CASES.values()}
    assert set(DEVIATIONS) <= cases | {("arc-submit", "vectors", number) for number in VECTORS}


@pytest.mark.parametrize("call", ["/tx", "/txs"])
def test_arcade_says_for_how_many_seconds_it_is_busy(world: World, call: str) -> None:
    world.services["arcade"].fault("busy", retry_after_s=7)
    address = urlsplit(world.services["arcade"].url).netloc
    with contextlib.closing(http.client.HTTPConnection(address, timeout=5)) as connection:
        connection.request("POST", call, payment(world.shop).extended(), {"Content-Type": BINARY})
        response = connection.getresponse()
        assert (response.status, int(response.headers["Retry-After"])) == (503, 7)


# --- ARC's conformance file


def run(world: World, number: str, *raws: bytes, path: str = "", **headers: str) -> Answer:
    """The vector's call, to an ARC that knows its key; with transactions of our own, since its own are none."""
    given = VECTORS[number]["input"]
    members = [{"rawTx": raw.hex()} for raw in raws]
    body = (members if isinstance(given["body"], list) else members[0]) if raws else given.get("body")
    encoded = None if given["method"] == "GET" else json.dumps(body).encode()
    return ask(world.services["keyed"], path or given["path"], encoded, headers=given["headers"] | headers)


def differs(number: str, answer: Answer, **ours: object) -> set[str]:
    """In what an answer is other than the vector's; ours: what stands for values of transactions that are none."""
    said, (code, body) = VECTORS[number]["expected"], answer
    codes: Collection[int] = said.get("status_oneof") or [said["status"]]
    wanted: dict[str, Any] = said.get("body", {}) | ours
    found = set() if code in codes else {f"HTTP {code}"}
    if "title" in wanted and body["title"].casefold() == wanted["title"].casefold():
        wanted["title"] = body["title"]  # the file writes titles with other capitals than ARC's description
    return found | {f"other: {field}" for field in wanted if body.get(field) != wanted[field]}


def by_order(world: World, number: str) -> set[str]:
    """Each of the call's transactions gets the status that the vector has for it; matched by txid, not by place."""
    said = VECTORS[number]["expected"]["body"]
    members = said if isinstance(said, list) else [said]
    made = [payment(world.shop) for _ in members]
    for one, member in zip(made, members, strict=True):
        world.services["keyed"].script(display(one.txid), member["txStatus"], member.get("extraInfo", ""))
    code, body = run(world, number, *(one.extended() for one in made))
    answers = {each["txid"]: each for each in (body if isinstance(said, list) else [body])}
    assert (code, len(answers)) == (VECTORS[number]["expected"]["status"], len(members))
    wanted = [member | {"txid": display(one.txid)} for one, member in zip(made, members, strict=True)]
    return {f"other: {f}" for member in wanted for f in member if answers[member["txid"]][f] != member[f]}


def a_rival(world: World, number: str) -> set[str]:
    first, second = rivals(world)
    send(world.services["keyed"], "POST /v1/tx", first.extended(), Authorization=f"Bearer {KEY}")
    rival = display(first.txid)
    ours = {"txid": display(second.txid), "competingTxs": [rival], "extraInfo": f"competing tx: {rival}"}
    return differs(number, run(world, number, second.extended()), **ours)


def as_it_stands(world: World, number: str) -> set[str]:
    return differs(number, run(world, number))


def without_key(world: World, number: str) -> set[str]:
    return differs(number, run(world, number, payment(world.shop).extended()))


def with_a_callback(world: World, number: str) -> set[str]:
    """Stored, and mined later; who gave the URL is told so, with the token."""
    made, service = payment(world.shop), world.services["keyed"]
    service.script(display(made.txid), "STORED")
    answer = run(world, number, made.extended(), **{"X-CallbackUrl": world.callback_url})
    service.script(display(made.txid), "MINED")
    send(service, "POST /v1/tx", made.extended(), Authorization=f"Bearer {KEY}")
    token = VECTORS[number]["input"]["headers"]["X-CallbackToken"]
    assert world.told(made.txid, "MINED").headers["Authorization"] == f"Bearer {token}"
    return differs(number, answer, txid=display(made.txid))


def one_in_a_block(world: World, number: str) -> set[str]:
    txid = display(world.chain.coin(4715).coin.txid)
    return differs(number, run(world, number, path=f"/v1/tx/{txid}"), txid=txid)


def what_is_posted(world: World, number: str) -> set[str]:
    """Here the vector is about what ARC sends: where to, how it shows the token, and every field."""
    mined, given = world.chain.coin(4716), VECTORS[number]["input"]
    token = given["headers"]["Authorization"].removeprefix("Bearer ")
    headers = {"X_CallbackUrl": world.callback_url, "X_CallbackToken": token, "Authorization": f"Bearer {KEY}"}
    send(world.services["keyed"], "POST /v1/tx", mined.raw, **headers)
    posted = world.told(mined.coin.txid, "MINED")
    assert posted.path == given["path"]
    assert given["headers"].items() <= posted.headers.items()
    fields, body = given["body"], posted.body
    return {f"other: {f}" for f in fields if type(body.get(f)) is not type(fields[f])}


def an_error(world: World, number: str) -> set[str]:
    """With a key and without one."""
    key = {"Authorization": f"Bearer {KEY}"}
    answers = [run(world, number), run(world, number, **key)]
    assert all(body.get("detail") or body.get("title") for _, body in answers)
    assert [code for code, _ in answers] == [401, 400]
    return differs(number, answers[0]) | differs(number, answers[1])


def too_often(world: World, number: str) -> set[str]:
    world.services["keyed"].fault("429")
    return differs(number, run(world, number, payment(world.shop).extended()))


RUNS: dict[str, Callable[[World, str], set[str]]] = {
    **dict.fromkeys(("1", "2", "3", "5", "9", "10", "11"), by_order),
    "4": a_rival,
    "6": as_it_stands,
    "7": without_key,
    "8": with_a_callback,
    "12": one_in_a_block,
    "13": as_it_stands,
    "14": what_is_posted,
    "15": an_error,
    "16": too_often,
}


@pytest.mark.parametrize("number", VECTORS)
def test_a_vector_is_answered_as_it_says(world: World, number: str) -> None:
    assert RUNS[number](world, number) == expected("arc-submit", "vectors", number)
