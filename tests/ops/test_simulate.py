"""The simulated network: child processes, asked over HTTP as anyone would ask the real ones."""

import concurrent.futures
import http.client
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from ops.instruments.chain import CHECKPOINT, TARGET, WORK, Chain
from ops.instruments.generate import Generator
from ops.instruments.keys import Coin, Made, assemble, spend
from ops.instruments.payloads import mainnet, mainnet_data
from ops.instruments.wire import hash256
from ops.simulate import tx as node
from ops.simulate.arc import WORDS
from ops.simulate.client import Simulated, spawn, spawn_all
from ops.simulate.endpoint import MODES, Answered, Endpoint, Options
from ops.simulate.faults import Fault, Faults
from ops.simulate.mined import MinedView, read_beef
from ops.simulate.network import Network, Taken
from ops.simulate.rules import Policy
from schemas.types import display

ARCS = (("arc", "--network", "{folder}/network"),) * 2
HEADERS = tuple(("headers", "--dialect", dialect) for dialect in ("bhs", "chaintracks", "woc"))


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain.open(tmp_path_factory.mktemp("simulated") / "chain")


@pytest.fixture(scope="module")
def services(chain: Chain) -> Iterator[dict[str, Simulated]]:
    """Two endpoints of one network, and a header service of each dialect."""
    commands = [[word.format(folder=chain.folder) for word in command] for command in ARCS + HEADERS]
    started = spawn_all(commands, chain=chain.folder)
    yield dict(zip(("arc", "other", "bhs", "chaintracks", "woc"), started, strict=True))
    for service in started:
        service.stop()


@pytest.fixture(autouse=True)
def _mended(request: pytest.FixtureRequest) -> Iterator[None]:
    """No fault outlives its test."""
    yield
    if "services" in request.fixturenames:
        for service in request.getfixturevalue("services").values():
            service.fault("none")


@pytest.fixture(scope="module")
def shop(chain: Chain) -> Generator:
    """One generator for the module: each payload spends other coins."""
    return Generator(chain, seed=5)


def ask(
    service: Simulated,
    path: str,
    body: bytes | None = None,
    kind: str = "application/json",
    headers: dict[str, str] | None = None,
    timeout: float = 5.0,
) -> tuple[int, Any]:
    """Status and decoded body; bytes where it is not JSON."""
    split = urlsplit(service.url)
    connection = http.client.HTTPConnection(split.netloc, timeout=timeout)
    try:
        sent = {"Content-Type": kind, **(headers or {})}
        connection.request("GET" if body is None else "POST", split.path + path, body, sent)
        response = connection.getresponse()
        content = response.read()
        if response.headers.get_content_type() == "application/json":
            return response.status, json.loads(content)
        return response.status, content
    finally:
        connection.close()


def until(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Poll until it holds; False when it did not within the time."""
    deadline = time.monotonic() + seconds
    while not (held := condition()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return held


def payment(shop: Generator) -> Made:
    mined = shop.shop.take()
    return shop.shop.pay([mined.coin])


def submit(service: Simulated, made: Made, **headers: str) -> tuple[int, Any]:
    body = json.dumps({"rawTx": made.extended().hex()}).encode()
    return ask(service, "/v1/tx", body, headers={name.replace("_", "-"): value for name, value in headers.items()})


def status(service: Simulated, txid: bytes) -> str:
    found: str = ask(service, f"/v1/tx/{display(txid)}")[1]["txStatus"]
    return found


# --- ARC: the protocol


def test_health_and_policy_are_those_of_arc(services: dict[str, Simulated]) -> None:
    assert ask(services["arc"], "/v1/health")[1]["healthy"] is True
    policy = ask(services["arc"], "/v1/policy")[1]["policy"]
    assert policy["miningFee"] == {"satoshis": 1, "bytes": 1000}
    assert policy["maxtxsizepolicy"] == 10_000_000


ENCODINGS = {
    "text/plain": lambda raws: "\n".join(raw.hex() for raw in raws).encode(),
    "application/json": lambda raws: json.dumps(
        [{"rawTx": raw.hex()} for raw in raws] if len(raws) > 1 else {"rawTx": raws[0].hex()}
    ).encode(),
    "application/octet-stream": b"".join,
}


@pytest.mark.parametrize("kind", ENCODINGS)
@pytest.mark.parametrize("extended", [True, False])
def test_every_body_is_read(services: dict[str, Simulated], shop: Generator, kind: str, extended: bool) -> None:
    """Raw transactions are taken too: the network knows their parents."""
    made = [payment(shop) for _ in range(3)]
    raws = [each.extended() if extended else each.raw for each in made]
    code, one = ask(services["arc"], "/v1/tx", ENCODINGS[kind](raws[:1]), kind)
    assert (code, one["status"], one["txid"]) == (200, 200, display(made[0].txid))
    code, many = ask(services["arc"], "/v1/txs", ENCODINGS[kind](raws[1:]), kind)
    assert code == 200
    assert [each["txid"] for each in many] == [display(each.txid) for each in made[1:]]


@pytest.mark.parametrize("path", ["/v1/tx", "/v1/txs"])
@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"zz", "text/plain"),
        (b"[{}]", "application/json"),
        (b"\x01\x00", "application/octet-stream"),
        (b"", "text/plain"),
        (b"00", "text/plain; charset=utf-8"),
    ],
)
def test_an_unreadable_body_gets_one_error(services: dict[str, Simulated], path: str, body: bytes, kind: str) -> None:
    code, error = ask(services["arc"], path, body, kind)
    assert (code, error["status"], error["title"]) == (400, 400, "Bad request")


def test_a_status_comes_forward(chain: Chain, shop: Generator) -> None:
    """By a clock of the test's own."""
    times = [100.0, 100.0, 100.009, 100.011, 100.029, 100.031]
    network = Network(MinedView(chain))
    arc = Endpoint(network, WORDS, Options(stored_ms=10, seen_ms=30), Faults(MODES), clock=iter(times).__next__)
    made = payment(shop)
    assert arc.submit([node.read_one(made.extended())]) == [Answered(made.txid)]
    seen = [(arc.status(made.txid) or {})["txStatus"] for _ in times[1:]]
    assert seen == ["RECEIVED", "RECEIVED", "STORED", "STORED", "SEEN_ON_NETWORK"]


def test_what_another_process_mines_is_known(chain: Chain, tmp_path: Path) -> None:
    """A transaction that does not say what it spends is taken once the coin's block is there."""
    folder = tmp_path / "chain"
    shutil.copytree(chain.folder, folder)
    arc = Endpoint(Network(MinedView(Chain.open(folder))), WORDS, Options(), Faults(MODES))
    grown = Chain.open(folder)
    new = grown.coin(grown.coins).coin
    made = spend([new], [(1000, new.script)])
    assert arc.submit([node.read_one(made.raw)]) == [Answered(made.txid)]


def test_a_reply_is_held_as_asked(services: dict[str, Simulated], shop: Generator) -> None:
    made = payment(shop)
    assert submit(services["arc"], made, X_WaitFor="SEEN_ON_NETWORK")[1]["txStatus"] == "SEEN_ON_NETWORK"
    assert submit(services["arc"], made)[1]["txStatus"] == "SEEN_ON_NETWORK", "a repeat gets the present status"
    orphan = spend([_unknown(shop.shop.take().coin)], [(1000, made.outputs[0][1])])
    began = time.monotonic()
    answer = submit(services["arc"], orphan, X_WaitFor="SEEN_ON_NETWORK", X_MaxTimeout="0.3")[1]
    assert answer["txStatus"] == "SEEN_IN_ORPHAN_MEMPOOL"
    assert time.monotonic() - began >= 0.3


def test_a_batch_answers_successes_first(services: dict[str, Simulated], shop: Generator) -> None:
    good = [payment(shop) for _ in range(3)]
    mined = shop.shop.take()
    bad = spend([mined.coin], [(mined.coin.satoshis + 1, mined.coin.script)])
    body = b"".join(made.extended() for made in (bad, good[0], good[1], bad, good[2]))
    code, answers = ask(services["arc"], "/v1/txs", body, "application/octet-stream")
    assert code == 200
    assert [each["status"] for each in answers] == [200, 200, 200, 462, 462]
    assert [each["txid"] for each in answers[:3]] == [display(made.txid) for made in good]
    assert answers[3]["txid"] == display(bad.txid)


def test_an_unknown_transaction_is_not_found(services: dict[str, Simulated]) -> None:
    code, error = ask(services["arc"], "/v1/tx/" + "ab" * 32)
    assert (code, error["status"]) == (404, 404)
    assert ask(services["arc"], "/v1/tx/zz")[0] == 409


def test_a_key_is_asked_for(chain: Chain) -> None:
    with spawn("arc", "--token", "secret", chain=chain.folder) as service:
        assert ask(service, "/v1/policy")[0] == 401
        assert ask(service, "/v1/policy", headers={"Authorization": "Bearer wrong"})[0] == 401
        assert ask(service, "/v1/policy", headers={"Authorization": "Bearer secret"})[0] == 200


# --- ARC: what it refuses


def _lie(shop: Generator, satoshis: int) -> bytes:
    """Signed over what Extended Format says, which is not what the chain says."""
    coin = shop.shop.take().coin
    told = Coin(coin.txid, coin.vout, satoshis, coin.script, coin.key)
    return spend([told], [(1000, coin.script)]).extended()


def _made(build: Callable[[Coin], Made]) -> Callable[[Generator], bytes]:
    return lambda shop: build(shop.shop.take().coin).extended()


def _stolen(coin: Coin) -> Made:
    other = hash256(coin.txid)
    return assemble([coin], [coin.unlock(coin.key.sign(other) + b"\x41")], [(1000, coin.script)])


def _unknown(coin: Coin) -> Coin:
    return Coin(hash256(coin.txid), 0, coin.satoshis, coin.script, coin.key)


def _legacy(coin: Coin) -> Made:
    """Signed with hash type ALL alone, the type of the years before FORKID."""
    return assemble([coin], [coin.unlock(coin.key.sign(coin.txid) + b"\x01")], [(1000, coin.script)])


def _nowhere(coin: Coin) -> Made:
    return spend([Coin(coin.txid, 9, coin.satoshis, coin.script, coin.key)], [(1000, coin.script)])


def _coinbase(coin: Coin) -> Made:
    nothing = Coin(bytes(32), 0xFFFFFFFF, 0, b"", coin.key)
    return assemble([nothing], [b"\x51" * 9], [(1000, coin.script)])


REFUSALS: dict[str, tuple[int, Callable[[Generator], bytes]]] = {
    "a signature over something else": (461, _made(_stolen)),
    "a signature of another hash type": (461, _made(_legacy)),
    "outputs over inputs": (462, _made(lambda c: spend([c], [(c.satoshis + 1, c.script)]))),
    "one coin twice": (462, _made(lambda c: spend([c, c], [(c.satoshis, c.script)]))),
    "an output the parent does not have": (462, _made(_nowhere)),
    "a satoshi more than the parent made": (462, lambda shop: _lie(shop, 5_000_000)),
    "a coinbase": (462, _made(_coinbase)),
    "no inputs": (462, _made(lambda c: assemble([], [], [(1, c.script), (1, c.script)]))),
    "no outputs": (464, _made(lambda c: spend([c], []))),
    "more coins than there are": (464, _made(lambda c: spend([c], [(21 * 10**14 + 1, c.script)]))),
    "an output that pays nothing": (464, _made(lambda c: spend([c], [(0, c.script)]))),
    "data that is paid": (464, _made(lambda c: spend([c], [(5, b"\x00\x6a\x01\x01")]))),
    "sixty bytes": (463, _made(lambda c: assemble([c], [b""], [(1000, b"")]))),
    "an opcode in the unlocking script": (463, _made(lambda c: assemble([c], [b"\x61"], [(1000, c.script)]))),
    "no fee": (465, _made(lambda c: spend([c], [(c.satoshis, c.script)]))),
    "bytes that end too early": (400, lambda shop: payment(shop).extended()[:-1]),
    "bytes that do not end": (400, lambda shop: payment(shop).extended() + b"\x00"),
    "raw, and its parent unknown": (460, lambda shop: spend([_unknown(shop.shop.take().coin)], [(1000, b"\x51")]).raw),
    "a BEEF": (468, lambda shop: next(shop.valid()).beef),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSALS)
def test_arc_refuses(services: dict[str, Simulated], shop: Generator, what: str) -> None:
    number, build = REFUSALS[what]
    code, error = ask(services["arc"], "/v1/tx", build(shop), "application/octet-stream")
    assert (code, error["status"]) == (number, number), error


def test_an_endpoint_that_runs_no_scripts_looks_at_everything_else(chain: Chain, shop: Generator) -> None:
    with spawn("arc", "--no-scripts", chain=chain.folder) as service:

        def says(what: str) -> int:
            _, build = REFUSALS[what]
            code: int = ask(service, "/v1/tx", build(shop), "application/octet-stream")[0]
            return code

        assert says("a signature over something else") == 200
        assert says("outputs over inputs") == 462
        assert says("no fee") == 465


def test_a_parent_is_read_once_for_all_inputs_that_spend_it(
    chain: Chain, shop: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a transaction of thousands of inputs on one parent costs minutes, and nobody is answered meanwhile."""
    network, owner = Network(MinedView(chain)), shop.shop.key()
    coin = shop.shop.take().coin
    parent = spend([coin], [(coin.satoshis // 80, owner.script)] * 60)
    child = spend([parent.coin(vout, owner) for vout in range(60)], [(coin.satoshis // 2, owner.script)])
    read: list[bytes] = []

    def counted(raw: bytes) -> node.Tx:
        read.append(raw)
        return node.read_one(raw)

    monkeypatch.setattr("ops.simulate.network.read_one", counted)
    for made in (parent, child):
        assert network.submit([node.read_one(made.extended())], Policy()) == [Taken()]
    assert read.count(parent.raw) <= 2  # before the lock, and under it


def test_a_script_that_is_no_template_is_run(services: dict[str, Simulated], shop: Generator) -> None:
    """A greeting's script is left to the engine: it takes the right signature and no other."""
    bag = next(shop.valid(shape="hello-spent"))
    _, entries = read_beef(bag.beef)
    (parent, _), (child, _) = entries[1:]
    answers = ask(services["arc"], "/v1/txs", parent.raw + child.raw, "application/octet-stream")[1]
    assert [each["status"] for each in answers] == [200, 200]
    bag = next(shop.valid(shape="hello-spent"))
    (parent, _), (child, _) = read_beef(bag.beef)[1][1:]
    signature = child.inputs[0].script
    child.inputs[0].script = signature[:10] + bytes([signature[10] ^ 1]) + signature[11:]
    broken = node.write(child.version, child.inputs, child.outputs, child.locktime)
    answers = ask(services["arc"], "/v1/txs", parent.raw + broken, "application/octet-stream")[1]
    assert [each["status"] for each in answers] == [200, 461]


def test_the_real_payloads_are_taken(services: dict[str, Simulated]) -> None:
    """Real signatures, by our digest; parents known from the data file. What is mined is said to be mined."""
    seen = {}
    for payload in mainnet():
        _, entries = read_beef(payload.beef)
        for tx, bump in entries:
            if bump is None:
                code, answer = ask(services["arc"], "/v1/tx", tx.raw, "application/octet-stream")
                seen[display(tx.txid)[:8]] = (code, answer.get("txStatus"), answer["extraInfo"])
    assert len(seen) == 6
    assert {answer[0] for answer in seen.values()} == {200}, seen
    assert seen.pop("17d1829b")[1] == "MINED"
    assert {answer[1] for answer in seen.values()} <= {"RECEIVED", "STORED", "SEEN_ON_NETWORK"}


def test_a_mined_transaction_has_its_proof(services: dict[str, Simulated], chain: Chain) -> None:
    mined = chain.coin(4711)
    found = ask(services["arc"], f"/v1/tx/{display(mined.coin.txid)}")[1]
    assert (found["txStatus"], found["blockHeight"]) == ("MINED", mined.height)
    assert found["blockHash"] == display(hash256(chain.header(mined.height)))
    assert mined.coin.txid.hex() in found["merklePath"]


# --- ARC: one network


def test_the_second_spender_is_refused_at_every_endpoint(services: dict[str, Simulated], shop: Generator) -> None:
    coin = shop.shop.take().coin
    first, second = shop.shop.pay([coin]), shop.shop.pay([coin])
    assert submit(services["arc"], first)[0] == 200
    for name in ("other", "arc"):
        code, error = submit(services[name], second)
        assert code == 466
        assert error["competingTxs"] == [display(first.txid)]
    assert submit(services["other"], first)[0] == 200, "what one endpoint took, another knows"
    assert ask(services["arc"], f"/v1/tx/{display(first.txid)}")[1]["competingTxs"] == [display(second.txid)]


def test_what_one_endpoint_took_is_a_known_parent_at_the_other(services: dict[str, Simulated], shop: Generator) -> None:
    """In raw form, which needs the parent to be known, at once and without a look at anything else before."""
    _, entries = read_beef(next(shop.valid(shape="chain", size=2)).beef)
    for name, (tx, _) in zip(("arc", "other"), entries[1:], strict=True):
        code, answer = ask(services[name], "/v1/tx", tx.raw, "application/octet-stream")
        assert (code, answer["status"]) == (200, 200)


def test_of_many_spenders_at_once_one_is_taken(services: dict[str, Simulated], shop: Generator) -> None:
    """Sixteen spends of one coin go to two endpoints at the same time."""
    coin = shop.shop.take().coin
    rivals = [shop.shop.pay([coin]) for _ in range(16)]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        codes = list(pool.map(lambda n: submit(services["arc" if n % 2 else "other"], rivals[n])[0], range(16)))
    assert sorted(codes) == [200] + [466] * 15


def test_a_child_waits_for_its_parent_wherever_it_comes(services: dict[str, Simulated], shop: Generator) -> None:
    _, entries = read_beef(next(shop.valid(shape="chain", size=3)).beef)
    extended = _family(entries)
    for raw in extended[:0:-1]:
        answer = ask(services["arc"], "/v1/tx", raw, "application/octet-stream")[1]
        assert answer["txStatus"] == "SEEN_IN_ORPHAN_MEMPOOL"
    assert ask(services["other"], "/v1/tx", extended[0], "application/octet-stream")[0] == 200
    for tx, _ in entries[2:]:
        assert until(lambda txid=tx.txid: status(services["arc"], txid) == "SEEN_ON_NETWORK")  # type: ignore[misc]


def _family(entries: list[tuple[node.Tx, int | None]]) -> list[bytes]:
    """Extended Format of the un-mined transactions of a payload."""
    outputs = {tx.txid: tx.outputs for tx, _ in entries}
    found = []
    for tx, bump in entries:
        if bump is None:
            raw = tx.version.to_bytes(4, "little") + node.EF_MARKER + node.varint(len(tx.inputs))
            for each in tx.inputs:
                raw += each.outpoint + node.varint(len(each.script)) + each.script + each.sequence.to_bytes(4, "little")
                raw += node.write_output(outputs[each.txid][each.vout])
            raw += node.varint(len(tx.outputs)) + b"".join(map(node.write_output, tx.outputs))
            found.append(raw + tx.locktime.to_bytes(4, "little"))
    return found


def test_an_orphan_that_lied_is_rejected_when_its_parent_comes(services: dict[str, Simulated], shop: Generator) -> None:
    parent = payment(shop)
    owner = next(key for key in shop.shop.chain.keys if key.script == parent.outputs[0][1])
    honest = parent.coin(0, owner)
    told = Coin(honest.txid, 0, honest.satoshis + 50_000, honest.script, owner)
    child = spend([told], [(honest.satoshis + 10_000, owner.script)])
    assert submit(services["arc"], child)[1]["txStatus"] == "SEEN_IN_ORPHAN_MEMPOOL"
    assert submit(services["arc"], parent)[0] == 200
    assert status(services["arc"], child.txid) == "REJECTED"


def test_an_endpoint_remembers_by_the_network_file_and_may_behave_otherwise(
    chain: Chain, shop: Generator, tmp_path: Path
) -> None:
    """Killed and started again it knows what was spent; this one reports conflicts as statuses, and refuses orphans."""
    coin = shop.shop.take().coin
    first, second = shop.shop.pay([coin]), shop.shop.pay([coin])
    arguments = ("arc", "--network", str(tmp_path / "net"), "--conflicts", "attempt", "--orphans", "refuse")
    with spawn(*arguments, chain=chain.folder) as service:
        assert submit(service, first)[0] == 200
        os.kill(service.process.pid, signal.SIGKILL)
        service.process.wait()
    with (tmp_path / "net").open("ab") as file:
        file.write(b"\x40\x00\x00\x00half a record")
    with spawn(*arguments, chain=chain.folder) as service:
        code, answer = submit(service, second)
        assert (code, answer["txStatus"]) == (200, "DOUBLE_SPEND_ATTEMPTED")
        assert answer["competingTxs"] == [display(first.txid)]
        orphan = spend([_unknown(shop.shop.take().coin)], [(1000, first.spent[0].script)])
        assert submit(service, orphan)[0] == 460
        assert submit(service, first)[0] == 200
    assert (tmp_path / "net").stat().st_size == 4 + len(first.raw), "the half record is cut off, and a repeat adds none"


def test_an_audit_sees_what_came(chain: Chain, shop: Generator) -> None:
    with spawn("arc", chain=chain.folder) as service:
        good, refused = payment(shop), _stolen(shop.shop.take().coin)
        submit(service, good, X_WaitFor="SEEN_ON_NETWORK")
        submit(service, good)
        submit(service, refused)
        assert service.transactions() == {
            display(good.txid): "SEEN_ON_NETWORK",
            display(refused.txid): "REFUSED 461",
        }
        stats = service.stats()
        assert (stats["submitted"], stats["repeats"], stats["received"]) == (3, 1, 1)
        assert (stats["refused"], stats["network"]) == ({"461": 1}, 1)


# --- faults


def test_a_service_that_is_down_closes_connections(services: dict[str, Simulated]) -> None:
    services["arc"].fault("down")
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        ask(services["arc"], "/v1/health")
    services["arc"].fault("none")
    assert ask(services["arc"], "/v1/health")[0] == 200


@pytest.mark.parametrize("mode", ["hang", "silent"])
def test_a_service_that_hangs_never_answers(services: dict[str, Simulated], mode: str) -> None:
    before = services["bhs"].stats()
    services["bhs"].fault(mode)
    with pytest.raises(TimeoutError):
        ask(services["bhs"], "/api/v1/chain/tip/longest", timeout=0.2)
    after = services["bhs"].stats()
    assert after["requests"] == before["requests"] + 1
    assert after["faults"][mode] == 1


def test_answers_that_are_none(services: dict[str, Simulated]) -> None:
    arc = services["arc"]
    arc.fault("5xx", status=502)
    assert ask(arc, "/v1/health")[0] == 502
    arc.fault("none")
    arc.fault("429", retry_after_s=7)
    split = urlsplit(arc.url)
    connection = http.client.HTTPConnection(split.netloc, timeout=5)
    connection.request("GET", "/v1/health")
    response = connection.getresponse()
    assert (response.status, response.headers["Retry-After"]) == (429, "7")
    connection.close()
    arc.fault("none")
    arc.fault("malformed")
    code, body = ask(arc, "/v1/health")
    assert (code, body[:6]) == (200, b"<html>")
    arc.fault("none")
    arc.fault("slow", delay_ms=150)
    began = time.monotonic()
    assert ask(arc, "/v1/health")[0] == 200
    assert time.monotonic() - began >= 0.15


def test_a_lost_reply_is_of_something_done(services: dict[str, Simulated], shop: Generator) -> None:
    made = payment(shop)
    services["arc"].fault("lost-reply")
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        submit(services["arc"], made)
    services["arc"].fault("none")
    assert until(lambda: status(services["arc"], made.txid) == "SEEN_ON_NETWORK")


def test_another_txid_is_answered(services: dict[str, Simulated], shop: Generator) -> None:
    made = payment(shop)
    services["arc"].fault("wrong-txid")
    code, answer = submit(services["arc"], made)
    assert code == 200
    assert answer["txid"] != display(made.txid)
    assert services["arc"].transactions()[display(made.txid)]


@pytest.mark.parametrize(("mode", "said"), [("reject", "REJECTED"), ("orphan", "SEEN_IN_ORPHAN_MEMPOOL")])
def test_a_status_is_forced_on_a_part_and_lifted(
    services: dict[str, Simulated], shop: Generator, mode: str, said: str
) -> None:
    """At a ratio of one in three, two of six get it; afterwards they are decided as they should be."""
    made = [payment(shop) for _ in range(6)]
    services["arc"].fault(mode, ratio=1 / 3)
    forced = [each for each in made if submit(services["arc"], each)[1]["txStatus"] == said]
    assert len(forced) == 2
    services["arc"].fault("none")
    for each in forced:
        assert submit(services["arc"], each, X_WaitFor="SEEN_ON_NETWORK")[1]["txStatus"] == "SEEN_ON_NETWORK"


def test_one_transaction_is_scripted(services: dict[str, Simulated], shop: Generator) -> None:
    arc, made, number = services["arc"], payment(shop), payment(shop)
    arc.script(display(made.txid), "REJECTED", "because")
    assert submit(arc, made)[1]["extraInfo"] == "because"
    assert status(arc, made.txid) == "REJECTED"
    arc.script(display(number.txid), 473)
    assert submit(arc, number)[0] == 473
    for each in (made, number):
        arc.script(display(each.txid), "none")
        assert submit(arc, each, X_WaitFor="SEEN_ON_NETWORK")[1]["txStatus"] == "SEEN_ON_NETWORK"


def test_orders_nobody_can_follow_are_refused(services: dict[str, Simulated]) -> None:
    for name, order in (
        ("arc", {"mode": "lying"}),
        ("bhs", {"mode": "wrong-txid"}),
        ("woc", {"mode": "lying", "lie": "confirm"}),
        ("bhs", {"mode": "reorganisation", "depth": 10_000}),
        ("arc", {"mode": "down", "dept": 1}),
    ):
        with pytest.raises(ValueError):
            services[name].fault(**order)
    with pytest.raises(ValueError, match="no status"):
        services["arc"].script("ab" * 32, "GREAT")


def test_a_fault_ends_and_keeps_its_ratio() -> None:
    """By a clock of the test's own."""
    now = 0.0
    faults = Faults([], clock=lambda: now)
    faults.order(Fault(mode="down", for_s=5.0, ratio=0.3))
    assert sum(faults.meets("down") is not None for _ in range(100)) == 30
    now = 4.9
    assert faults.get("down") is not None
    now = 5.0
    assert faults.meets("down") is None
    assert faults.met == {"down": 30}


# --- header services


def test_the_tip_is_that_of_the_chain(services: dict[str, Simulated], chain: Chain) -> None:
    tip = display(hash256(chain.header(chain.tip)))
    bhs = ask(services["bhs"], "/api/v1/chain/tip/longest")[1]
    assert (bhs["height"], bhs["header"]["hash"], bhs["state"]) == (chain.tip, tip, "LONGEST_CHAIN")
    info = ask(services["woc"], "/chain/info")[1]
    assert (info["blocks"], info["bestblockhash"], info["mediantime"]) == (chain.tip, tip, chain.median_time_past())
    newest = ask(services["woc"], "/block/headers")[1]
    assert [header["height"] for header in newest] == list(range(chain.tip, chain.tip - 10, -1))
    v2 = ask(services["chaintracks"], "/chaintracks/v2/tip")[1]
    assert (v2["height"], v2["hash"]) == (chain.tip, tip)
    assert ask(services["chaintracks"], "/chaintracks/v2/tip.bin")[1] == chain.header(chain.tip)
    assert ask(services["chaintracks"], "/chaintracks/v2/height")[1] == {"height": chain.tip}
    for base in ("", "/chaintracks/v1"):
        for path, value in (("getPresentHeight", chain.tip), ("findChainTipHashHex", tip), ("getChain", "main")):
            assert ask(services["chaintracks"], f"{base}/{path}")[1] == {"status": "success", "value": value}
        assert ask(services["chaintracks"], f"{base}/findChainTipHeaderHex")[1]["value"]["hash"] == tip


def roots(services: dict[str, Simulated], height: int) -> list[str | None]:
    """What each dialect says the root is; None where it says that it does not know."""
    bhs = ask(services["bhs"], "/api/v1/chain/merkleroot")[1]["content"]
    v2 = ask(services["chaintracks"], f"/chaintracks/v2/header/height/{height}")
    v1 = ask(services["chaintracks"], f"/findHeaderHexForHeight?height={height}")[1]["value"]
    woc = ask(services["woc"], f"/block/{height}/header")
    return [
        next((row["merkleRoot"] for row in bhs if row["blockHeight"] == height), None),
        v2[1]["merkleRoot"] if v2[0] == 200 else None,
        v1["merkleRoot"] if v1 else None,
        woc[1]["merkleroot"] if woc[0] == 200 else None,
    ]


def test_all_dialects_tell_the_same_root_and_none_above_the_tip(services: dict[str, Simulated], chain: Chain) -> None:
    root = display(chain.block(CHECKPOINT + 7).root)
    assert roots(services, CHECKPOINT + 7) == [root] * 4
    assert roots(services, chain.tip + 1) == [None] * 4


def test_below_the_checkpoint_only_the_real_payloads_blocks_are_known(services: dict[str, Simulated]) -> None:
    """Their roots are known, their headers are not: Chaintracks v1, which tells headers, has nothing to tell."""
    for height, root in mainnet_data().roots.items():
        assert roots(services, int(height)) == [root, root, None, root]
    assert roots(services, 700_000) == [None] * 4


def verify(services: dict[str, Simulated], *questions: tuple[int, str]) -> tuple[str, list[str]]:
    body = json.dumps([{"merkleRoot": root, "blockHeight": height} for height, root in questions]).encode()
    answer = ask(services["bhs"], "/api/v1/chain/merkleroot/verify", body)[1]
    return answer["confirmationState"], [each["confirmation"] for each in answer["confirmations"]]


def test_block_headers_service_confirms_in_three_words(services: dict[str, Simulated], chain: Chain) -> None:
    root, old = display(chain.block(CHECKPOINT).root), mainnet_data().roots["814435"]
    table = {
        (CHECKPOINT, root): "CONFIRMED",
        (CHECKPOINT + 1, root): "INVALID",
        (814_435, old): "CONFIRMED",
        (814_435, root): "INVALID",
        (700_000, root): "UNABLE_TO_VERIFY",
        (chain.tip + 1, root): "UNABLE_TO_VERIFY",
        (chain.tip + 6, root): "UNABLE_TO_VERIFY",
        (chain.tip + 7, root): "INVALID",
    }
    assert verify(services, *table) == ("INVALID", list(table.values()))
    assert verify(services, (CHECKPOINT, root))[0] == "CONFIRMED"
    assert verify(services, (CHECKPOINT, root), (700_000, root))[0] == "UNABLE_TO_VERIFY"
    assert ask(services["bhs"], "/api/v1/chain/merkleroot/verify", b"[]")[0] == 400


def test_merkle_roots_are_listed_in_pages(services: dict[str, Simulated], chain: Chain) -> None:
    rows: list[dict[str, Any]] = []
    key = ""
    while True:
        page = ask(services["bhs"], f"/api/v1/chain/merkleroot?batchSize=90&lastEvaluatedKey={key}")[1]
        rows += page["content"]
        if not (key := page["page"]["lastEvaluatedKey"]):
            break
    assert [row["blockHeight"] for row in rows[-3:]] == [chain.tip - 2, chain.tip - 1, chain.tip]
    assert len(rows) == page["page"]["totalElements"] == 4 + chain.tip - CHECKPOINT + 1
    assert ask(services["bhs"], "/api/v1/chain/merkleroot?lastEvaluatedKey=" + "00" * 32)[0] == 404


def test_headers_come_in_every_form(services: dict[str, Simulated], chain: Chain) -> None:
    raw = chain.header(CHECKPOINT + 2)
    name = display(hash256(raw))
    chaintracks, v2 = services["chaintracks"], "/chaintracks/v2"
    assert ask(chaintracks, f"{v2}/header/height/{CHECKPOINT + 2}.bin")[1] == raw
    assert ask(chaintracks, f"{v2}/header/hash/{name}.bin")[1] == raw
    assert ask(chaintracks, f"{v2}/header/hash/{name}")[1]["height"] == CHECKPOINT + 2
    assert ask(chaintracks, f"{v2}/header/hash/zz")[0] == 400
    assert ask(chaintracks, f"{v2}/header/hash/{'00' * 32}")[0] == 404
    together = b"".join(chain.header(CHECKPOINT + n) for n in range(1, 4))
    assert ask(chaintracks, f"{v2}/headers?height={CHECKPOINT + 1}&count=3")[1] == together
    assert ask(chaintracks, f"/getHeaders?height={CHECKPOINT + 1}&count=3")[1]["value"] == together.hex()
    assert ask(chaintracks, f"/findHeaderHexForBlockHash?hash={name}")[1]["value"]["height"] == CHECKPOINT + 2
    by_height = ask(services["bhs"], f"/api/v1/chain/header/byHeight?height={CHECKPOINT + 1}&count=3")[1]
    assert by_height[1]["hash"] == name
    assert by_height[1]["prevBlockHash"] == by_height[0]["hash"]
    assert ask(services["bhs"], f"/api/v1/chain/header/{name}")[1] == by_height[1]
    assert ask(services["bhs"], f"/api/v1/chain/header/state/{name}")[1]["height"] == CHECKPOINT + 2
    woc = ask(services["woc"], f"/block/{CHECKPOINT + 2}/header")[1]
    assert (woc["hash"], woc["confirmations"]) == (name, chain.tip - CHECKPOINT - 1)
    assert ask(services["woc"], f"/block/{name}/header")[1] == woc
    assert ask(services["chaintracks"], f"{v2}/header/height/x")[0] == 400


def test_a_liar_tells_one_wrong_root_and_stands_by_it(services: dict[str, Simulated], chain: Chain) -> None:
    root = display(chain.block(CHECKPOINT).root)
    for name in ("bhs", "chaintracks", "woc"):
        services[name].fault("lying")
    told = set(roots(services, CHECKPOINT))
    assert len(told) == 1
    assert root not in told
    assert verify(services, (CHECKPOINT, root))[0] == "INVALID"
    assert verify(services, (CHECKPOINT, str(told.pop())))[0] == "CONFIRMED"
    services["bhs"].fault("lying", lie="confirm")
    assert verify(services, (CHECKPOINT, "ab" * 32), (5, "ab" * 32))[0] == "CONFIRMED"


def test_a_service_that_is_behind_knows_no_more_than_its_tip(services: dict[str, Simulated], chain: Chain) -> None:
    for name in ("bhs", "chaintracks", "woc"):
        services[name].fault("behind", depth=4)
    assert ask(services["bhs"], "/api/v1/chain/tip/longest")[1]["height"] == chain.tip - 4
    assert roots(services, chain.tip - 3) == [None] * 4
    assert None not in roots(services, chain.tip - 4)


def test_a_reorganisation_links_and_has_more_work(services: dict[str, Simulated], chain: Chain) -> None:
    """The branch leaves the chain where it should, each header has its work, and there is one more of them."""
    depth, fork = 5, chain.tip - 5
    before = [ask(services["bhs"], "/api/v1/chain/tip/longest")[1], roots(services, fork + 1)]
    for name in ("bhs", "chaintracks", "woc"):
        services[name].fault("reorganisation", depth=depth)
    tip = ask(services["bhs"], "/api/v1/chain/tip/longest")[1]
    assert tip["height"] == chain.tip + 1
    assert tip["chainWork"] == before[0]["chainWork"] + WORK
    raw = ask(services["chaintracks"], f"/chaintracks/v2/headers?height={fork}&count=100")[1]
    branch = [raw[at : at + 80] for at in range(0, len(raw), 80)]
    assert len(branch) == depth + 2
    assert branch[0] == chain.header(fork)
    for below, above in itertools.pairwise(branch):
        assert above[4:36] == hash256(below)
        assert int.from_bytes(hash256(above), "little") <= TARGET
    assert branch[1] != chain.header(fork + 1)
    assert display(hash256(branch[-1])) == tip["header"]["hash"]
    after = roots(services, fork + 1)
    assert len(set(after)) == 1, "all services follow the same branch"
    assert after != before[1]
    own = "ab" * 32
    for name in ("bhs", "chaintracks", "woc"):
        services[name].fault("reorganisation", depth=depth, roots=[own])
    assert set(roots(services, fork + 1)) == {own}
    assert roots(services, fork + 2) != roots(services, fork + 1)
    stale = display(hash256(chain.header(chain.tip)))
    assert ask(services["bhs"], f"/api/v1/chain/header/state/{stale}")[1]["state"] == "STALE"
    assert ask(services["woc"], f"/block/{stale}/header")[1]["confirmations"] == -1
    assert verify(services, (fork + 1, str(before[1][0])))[0] == "INVALID"


# --- processes


def test_a_service_ends_when_told(chain: Chain) -> None:
    service = spawn("headers", "--dialect", "woc", chain=chain.folder)
    service.fault("hang")
    connection = http.client.HTTPConnection(urlsplit(service.url).netloc)
    connection.request("GET", "/v1/bsv/main/chain/info")
    assert service.stop() == 0, "also with a request in hand"
    connection.close()


def test_a_guarded_service_ends_with_its_parent(chain: Chain) -> None:
    """The parent starts the service, tells where it is, and is killed."""
    script = (
        "import sys, pathlib, time; from ops.simulate.client import spawn;"
        "s = spawn('headers', '--dialect', 'bhs', chain=pathlib.Path(sys.argv[1]));"
        "print(s.process.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script, str(chain.folder)], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert _alive(pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert until(lambda: not _alive(pid))


def _alive(pid: int) -> bool:
    """Whether the process runs. One that nobody collected yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_what_cannot_start_says_so(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "chain").write_text("a file where a folder is wanted")
    with pytest.raises(RuntimeError, match="no URL from: arc"):
        spawn("arc", chain=tmp_path / "chain")
    assert "chain" in capfd.readouterr().err


def test_a_guarded_service_does_not_outlive_a_parent_that_ended_before(chain: Chain) -> None:
    """Told of another parent than it has, it ends before it begins."""
    with pytest.raises(RuntimeError, match="no URL"):
        spawn("headers", "--dialect", "woc", "--guarded=1", chain=chain.folder, guarded=False)
