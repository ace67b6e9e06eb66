"""Simulated endpoints beside ARC: child processes, asked over HTTP as anyone would ask the real ones."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ops.instruments.chain import Chain
from ops.instruments.generate import Generator
from ops.instruments.keys import Made, spend
from ops.instruments.wire import hash256
from ops.simulate.client import Simulated, spawn_all
from schemas.types import display
from tests.ops.test_simulate import ask, payment, until

KINDS = ("arc", "arcade", "teranode", "whatsonchain")
BINARY = "application/octet-stream"


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain.open(tmp_path_factory.mktemp("endpoints") / "chain")


@pytest.fixture(scope="module")
def shop(chain: Chain) -> Generator:
    return Generator(chain, seed=9)


@pytest.fixture(scope="module")
def services(chain: Chain) -> Iterator[dict[str, Simulated]]:
    """One endpoint of each kind, all of one network; and a Teranode of an older build."""
    network = ("--network", str(Path(chain.folder) / "network"))
    started = spawn_all([*((kind, *network) for kind in KINDS), ("teranode", "--old", *network)], chain=chain.folder)
    yield dict(zip((*KINDS, "old"), started, strict=True))
    for service in started:
        service.stop()


@pytest.fixture(autouse=True)
def _mended(services: dict[str, Simulated]) -> Iterator[None]:
    """No fault outlives its test."""
    yield
    for service in services.values():
        service.fault("none")


def raw(service: Simulated, made: Made) -> tuple[int, Any]:
    return ask(service, "/tx/raw", json.dumps({"txhex": made.raw.hex()}).encode())


def orphan(shop: Generator) -> tuple[Made, Made]:
    """A parent nobody has, and its child."""
    owner = shop.shop.key()
    coin = shop.shop.take().coin
    parent = spend([coin], [(coin.satoshis - 1000, owner.script)])
    return parent, spend([parent.coin(0, owner)], [(coin.satoshis - 2000, coin.script)])


def poor(shop: Generator) -> Made:
    """One that pays nothing."""
    coin = shop.shop.take().coin
    return spend([coin], [(coin.satoshis, coin.script)])


def both(shop: Generator) -> tuple[Made, Made]:
    """Two that spend one coin."""
    coin = shop.shop.take().coin
    return shop.shop.pay([coin]), shop.shop.pay([coin])


# --- Arcade


def test_arcade_takes_one_in_every_form_and_says_so_with_202(services: dict[str, Simulated], shop: Generator) -> None:
    forms: dict[str, Callable[[bytes], bytes]] = {
        BINARY: lambda ef: ef,
        "text/plain": lambda ef: ef.hex().encode(),
        "application/json": lambda ef: json.dumps({"rawTx": ef.hex()}).encode(),
    }
    for kind, form in forms.items():
        made = payment(shop)
        code, said = ask(services["arcade"], "/tx", form(made.extended()), kind)
        assert (code, said) == (202, {"txid": display(made.txid), "status": 202, "txStatus": "RECEIVED"})
        path = f"/tx/{display(made.txid)}"
        assert until(lambda path=path: ask(services["arcade"], path)[1]["txStatus"] == "SEEN_ON_NETWORK")  # type: ignore[misc]


def test_arcade_counts_a_batch(services: dict[str, Simulated], shop: Generator) -> None:
    first, second = payment(shop), payment(shop)
    body = first.extended() + second.extended()
    assert ask(services["arcade"], "/txs", body, BINARY) == (202, {"submitted": 2, "duplicates": 0, "total": 2})
    assert ask(services["arcade"], "/txs", body, BINARY) == (202, {"submitted": 0, "duplicates": 2, "total": 2})
    assert ask(services["arcade"], "/txs", body.hex().encode(), "text/plain")[0] == 400


def test_arcade_submits_nothing_of_a_batch_with_a_bad_member(services: dict[str, Simulated], shop: Generator) -> None:
    good, bad = payment(shop), poor(shop)
    code, said = ask(services["arcade"], "/txs", good.extended() + bad.extended(), BINARY)
    assert (code, said["status"], said["txid"]) == (400, 465, display(bad.txid))
    assert ask(services["arcade"], f"/tx/{display(good.txid)}") == (404, {"error": "transaction not found"})
    assert ask(services["arcade"], "/txs", good.extended() + b"\x01", BINARY)[0] == 400


def test_arcade_refuses_with_its_own_fields_and_arc_s(services: dict[str, Simulated], shop: Generator) -> None:
    made = poor(shop)
    code, said = ask(services["arcade"], "/tx", made.extended(), BINARY)
    assert (code, said["status"], said["title"]) == (465, 465, "Fee too low")
    assert (said["error"], said["txid"]) == ("transaction failed validation", display(made.txid))
    assert said["reason"]


def test_arcade_makes_a_missing_parent_and_a_rival_a_status(services: dict[str, Simulated], shop: Generator) -> None:
    parent, child = orphan(shop)
    assert ask(services["arcade"], "/tx", child.extended(), BINARY)[1]["txStatus"] == "PENDING_RETRY"
    assert ask(services["arcade"], "/tx", parent.extended(), BINARY)[0] == 202
    path = f"/tx/{display(child.txid)}"
    assert until(lambda: ask(services["arcade"], path)[1]["txStatus"] == "SEEN_ON_NETWORK")
    first, second = both(shop)
    ask(services["arc"], "/v1/tx", first.extended(), BINARY)
    code, said = ask(services["arcade"], "/tx", second.extended(), BINARY)
    assert (code, said["txStatus"], said["competingTxs"]) == (202, "DOUBLE_SPEND_ATTEMPTED", [display(first.txid)])


def test_arcade_publishes_its_policy_twice(services: dict[str, Simulated]) -> None:
    policies = [ask(services["arcade"], path)[1]["policy"] for path in ("/policy", "/v1/policy")]
    assert policies[0] == policies[1]
    assert policies[0]["miningFee"] == {"satoshis": 1, "bytes": 1000}


def test_arcade_s_numbers_are_others_than_the_call_s(services: dict[str, Simulated], shop: Generator) -> None:
    for mode, submitted in (("partial", 2), ("wrong-txid", 4)):
        services["arcade"].fault(mode)
        body = b"".join(payment(shop).extended() for _ in range(3))
        assert ask(services["arcade"], "/txs", body, BINARY)[1]["submitted"] == submitted
        services["arcade"].fault("none")


# --- Teranode


def test_teranode_says_ok(services: dict[str, Simulated], shop: Generator) -> None:
    assert ask(services["teranode"], "/health") == (200, b"OK")
    assert ask(services["teranode"], "/tx", payment(shop).extended(), BINARY) == (200, b"OK")
    batch = b"".join(payment(shop).extended() for _ in range(3))
    assert ask(services["teranode"], "/txs", batch, BINARY) == (200, b"OK")


def test_teranode_names_those_that_failed_and_takes_the_rest(services: dict[str, Simulated], shop: Generator) -> None:
    good, bad, (_, lost) = payment(shop), poor(shop), orphan(shop)
    code, text = ask(services["teranode"], "/txs", bad.extended() + good.extended() + lost.extended(), BINARY)
    header, *lines = text.decode().splitlines()
    assert (code, header) == (400, "Failed to process transactions:")
    assert [line.split(":")[0] for line in lines] == ["TX_POLICY (39)", "TX_MISSING_PARENT (34)"]
    assert [display(made.txid) in line for made, line in zip((bad, lost), lines, strict=True)] == [True, True]
    assert ask(services["whatsonchain"], f"/tx/hash/{display(good.txid)}")[0] == 200


@pytest.mark.parametrize(("kind", "codes"), [("teranode", [422, 409, 400]), ("old", [500, 500, 500])])
def test_teranode_s_codes_are_those_of_its_build(
    services: dict[str, Simulated], shop: Generator, kind: str, codes: list[int]
) -> None:
    first, second = both(shop)
    ask(services["arc"], "/v1/tx", first.extended(), BINARY)
    found = [ask(services[kind], "/tx", made.extended(), BINARY) for made in (orphan(shop)[1], second, poor(shop))]
    assert [code for code, _ in found] == codes
    names = ["TX_MISSING_PARENT (34)", "UTXO_SPENT (70)", "TX_POLICY (39)"]
    assert all(
        text.decode().startswith(f"Failed to process transaction: {n}")
        for (_, text), n in zip(found, names, strict=True)
    )


def test_teranode_reads_no_more_than_its_limit(services: dict[str, Simulated], shop: Generator) -> None:
    made = payment(shop)
    assert ask(services["teranode"], "/txs", made.raw * 1025, BINARY)[0] == 400
    assert ask(services["teranode"], "/txs", made.raw * 1024, BINARY) == (200, b"OK")
    assert ask(services["teranode"], "/tx", b"\x01\x00", BINARY)[0] == 400
    assert ask(services["teranode"], "/v1/policy")[0] == 404


def test_teranode_s_lines_are_reordered_left_out_or_about_another(
    services: dict[str, Simulated], shop: Generator
) -> None:
    """Of three that pay nothing."""
    made = [poor(shop) for _ in range(3)]
    body = b"".join(one.extended() for one in made)

    def named() -> list[str]:
        lines = ask(services["teranode"], "/txs", body, BINARY)[1].decode().splitlines()[1:]
        return [line.partition("[ProcessTransaction][")[2][:64] for line in lines]

    txids = [display(one.txid) for one in made]
    assert named() == txids
    services["teranode"].fault("reordered")
    assert named() == txids[::-1]
    services["teranode"].fault("none")
    services["teranode"].fault("partial")
    assert named() == [txids[0], txids[2]]
    services["teranode"].fault("none")
    services["teranode"].fault("wrong-txid")
    assert named() == [display(hash256(one.txid)) for one in made]


# --- WhatsOnChain


def test_whatsonchain_takes_raw_and_nothing_else(services: dict[str, Simulated], shop: Generator) -> None:
    made = payment(shop)
    extended = json.dumps({"txhex": made.extended().hex()}).encode()
    assert ask(services["whatsonchain"], "/tx/raw", extended) == (
        400,
        b"unexpected response code 500: TX decode failed",
    )
    assert ask(services["whatsonchain"], f"/tx/hash/{display(made.txid)}")[0] == 404
    assert raw(services["whatsonchain"], made) == (200, f'"{display(made.txid)}"\n'.encode())
    assert "confirmations" not in ask(services["whatsonchain"], f"/tx/hash/{display(made.txid)}")[1]
    assert ask(services["whatsonchain"], "/woc") == (200, b"Whats On Chain")


def test_whatsonchain_says_what_its_node_says(services: dict[str, Simulated], shop: Generator) -> None:
    first, second = both(shop)
    raw(services["whatsonchain"], first)
    found = [raw(services["whatsonchain"], made) for made in (second, poor(shop), orphan(shop)[1])]
    assert found == [
        (400, b"unexpected response code 500: 258: txn-mempool-conflict"),
        (400, b"unexpected response code 500: 66: mempool min fee not met"),
        (400, b"unexpected response code 500: Missing inputs"),
    ]


def test_whatsonchain_knows_what_is_mined(services: dict[str, Simulated], chain: Chain) -> None:
    mined = chain.coin(4711)
    found = ask(services["whatsonchain"], f"/tx/hash/{display(mined.coin.txid)}")[1]
    assert (found["blockheight"], found["confirmations"]) == (mined.height, 1)


# --- all of them


@pytest.mark.parametrize("kind", KINDS)
def test_a_poisoned_member_refuses_the_call(services: dict[str, Simulated], shop: Generator, kind: str) -> None:
    made = payment(shop)
    services[kind].script(display(made.txid), "POISON")
    path = {"arc": "/v1/tx", "whatsonchain": "/tx/raw"}.get(kind, "/tx")
    body = json.dumps({"txhex": made.raw.hex()}).encode() if kind == "whatsonchain" else made.extended()
    assert ask(services[kind], path, body, BINARY)[0] == 400
    if kind != "whatsonchain":
        assert ask(services[kind], f"{path}s", payment(shop).extended() + body, BINARY)[0] == 400
    services[kind].script(display(made.txid), "none")
    assert ask(services[kind], path, body, BINARY)[0] in (200, 202)
    assert services[kind].transactions()[display(made.txid)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_busy_one_says_for_how_long(services: dict[str, Simulated], kind: str) -> None:
    services[kind].fault("busy", retry_after_s=7)
    assert ask(services[kind], "/anything")[0] == 503


@pytest.mark.parametrize(
    ("kind", "mode"), [("arcade", "reordered"), ("whatsonchain", "partial"), ("whatsonchain", "reordered")]
)
def test_a_kind_has_no_fault_its_protocol_cannot_show(services: dict[str, Simulated], kind: str, mode: str) -> None:
    with pytest.raises(ValueError, match=mode):
        services[kind].fault(mode)


def test_what_one_kind_took_the_others_know(services: dict[str, Simulated], shop: Generator) -> None:
    made = payment(shop)
    assert ask(services["teranode"], "/tx", made.extended(), BINARY)[0] == 200
    assert ask(services["whatsonchain"], f"/tx/hash/{display(made.txid)}")[0] == 200
    assert raw(services["whatsonchain"], made) == (400, b"unexpected response code 500: 257: txn-already-known")
    assert ask(services["arc"], "/v1/tx", made.raw, BINARY)[0] == 200, "raw, and nobody told it what the inputs spend"
    rival = spend(list(made.spent), [(1000, made.spent[0].script)])
    assert ask(services["arc"], "/v1/tx", rival.extended(), BINARY)[0] == 466
