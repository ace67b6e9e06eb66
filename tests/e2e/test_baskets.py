"""Wallet baskets on a running installation: from the header to what readers are told."""

import base64
import json
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from click import Command
from click.testing import CliRunner, Result

from beefline.client import Client
from beefline.reading import NoAnswer, StateReader
from ops.cli.basket import basket as basket_command
from ops.cli.state import state as state_command
from ops.home import home
from ops.installation import Installation
from ops.instruments.chain import Chain
from ops.instruments.generate import Generator
from ops.instruments.keys import Key, child_key, make_key
from ops.instruments.wire import pushdrop
from ops.instruments.workshop import Bag
from ops.running import running_workers
from pipeline.codec.beef import read_beef, write_atomic
from pipeline.keys import invoice_number, linkage
from schemas.flow import OPERATION, Evict, Readmit
from schemas.types import display
from tests.e2e.asking import Talk, until
from topics.registry import OPERATIONS

pytestmark = pytest.mark.broker

PREFIX, SUFFIX = base64.b64encode(b"prefix").decode(), base64.b64encode(b"suffix").decode()
INVOICE = invoice_number(2, "3241645161d8", f"{PREFIX} {SUFFIX}")


@pytest.fixture(scope="module")
def generator(installation: Installation) -> Generator:
    return Generator(Chain.open(home() / "simulate" / "chain"), seed=29)


@pytest.fixture
async def talk(installation: Installation) -> AsyncIterator[Talk]:
    async with Talk(installation) as talk:
        yield talk


def payment(index: int, sender: Key, link: bytes = b"") -> dict[str, Any]:
    remittance = {
        "derivationPrefix": PREFIX, "derivationSuffix": SUFFIX, "senderIdentityKey": sender.public.hex(),
        "linkage": link.hex(),
    }  # fmt: skip
    return {"outputIndex": index, "protocol": "wallet payment", "paymentRemittance": remittance}


def insertion(index: int, basket: str, *tags: str) -> dict[str, Any]:
    remittance = {"basket": basket, "tags": tags, "customInstructions": "ask me"}
    return {"outputIndex": index, "protocol": "basket insertion", "insertionRemittance": remittance}


def instruct(
    owner: Key, *outputs: dict[str, Any], topics: tuple[str, ...] = (), **more: Any
) -> list[tuple[str, bytes]]:
    header = [{"owner": owner.public.hex(), "description": "as a test", "outputs": outputs, **more}]
    named = [("topics", json.dumps(topics).encode())] if topics else []
    return [("baskets", json.dumps(header).encode()), *named]


def invoked(command: Command, *args: str) -> Result:
    """In a thread of its own: a command has its own event loop."""
    with ThreadPoolExecutor(1) as apart:
        return apart.submit(CliRunner().invoke, command, args).result()


def agrees(context: str) -> bool:
    verified = invoked(state_command, "verify", "--context", context)
    return verified.exit_code == 0 and "unbroken" in verified.output


def commands_say_so(worker: str, txid: str, name: str) -> None:
    """What is left of an owner: one output in a basket, and one of change."""
    shown = invoked(basket_command, "list", name, "coins", "--at", worker)
    assert shown.exit_code == 0, shown.output
    assert f"{txid}.2" in shown.output
    assert "1 of 1" in shown.output
    shown = invoked(basket_command, "list", name, "--at", worker)
    assert "default" in shown.output
    assert "300 sat" in shown.output
    shown = invoked(basket_command, "list", name, "--change", "--at", worker, "--json")
    assert json.loads(shown.output)["totalOutputs"] == 1


@pytest.mark.invariant("BASKET-1")
@pytest.mark.invariant("BASKET-2")
async def test_an_owners_outputs_from_header_to_reader(talk: Talk, generator: Generator) -> None:
    """A payment and an insertion beside a topic; a merge, a repeat, a spend, and the network's word against it."""
    shop, owner, sender = generator.shop, make_key("basket owner", 1), make_key("basket sender")
    paid, coin_key = child_key(owner, sender.public, INVOICE), shop.key()
    funding = shop.take()
    outputs = [(300, paid.script), (200, coin_key.script), (100, coin_key.script)]
    made = shop.pay([funding.coin], outputs)
    beef, txid, name = shop.frame(Bag([funding], [made])), display(made.txid), owner.public.hex()
    context = f"owner:{name}"
    link = linkage(owner.public, sender.secret, INVOICE)
    header = instruct(owner, payment(0, sender, link), insertion(1, "Coins", "red", "Blue"), topics=("tm_anytx",))
    request = await talk.send(beef, header)
    decided = {r.context: r for r in await talk.decisions(request, 2)}
    assert {each.outcome for each in decided.values()} == {"applied"}
    own = decided[context]
    assert own.admittance is not None
    assert (own.admittance.outputs_to_admit, own.merge) == ((0, 1), False)
    assert own.sequence is not None
    assert (await talk.network(request)).outcome == "accepted"

    worker = running_workers()[0].http
    async with StateReader(worker) as reader:
        summed = await reader.baskets(name, min_sequence=own.sequence)
        assert [(b.basket, b.outputs, b.satoshis, b.unverified) for b in summed.baskets] == [
            ("coins", 1, 200, 0), ("default", 1, 300, 0),
        ]  # fmt: skip
        listed = await reader.list_outputs(
            name, "coins", tags=["red", "green"], include="locking scripts", include_tags=True,
            include_custom_instructions=True,
        )  # fmt: skip
        (output,) = listed.outputs
        assert (output.outpoint, output.satoshis, output.spendable) == (f"{txid}.1", 200, True)
        assert (output.tags, output.custom_instructions) == (("blue", "red"), "ask me")
        assert output.locking_script == coin_key.script.hex()
        assert (await reader.list_outputs(name, "coins", tags=["red", "green"], tag_query_mode="all")).outputs == ()
        (change,) = (await reader.change(name)).outputs
        assert (change.outpoint, change.verified) == (f"{txid}.0", True)
        with pytest.raises(NoAnswer, match="wallet's own"):
            await reader.list_outputs(name, "default")
        with pytest.raises(NoAnswer, match="identity key"):
            await reader.baskets("02ab")

        merge = instruct(owner, insertion(2, "coins"))
        (second,) = await talk.decisions(await talk.send(beef, merge))
        assert (second.outcome, second.merge, second.repeat) == ("applied", True, False)
        (again,) = await talk.decisions(await talk.send(beef, merge))
        assert (again.outcome, again.merge, again.repeat) == ("applied", False, True)
        (refused,) = await talk.decisions(await talk.send(beef, instruct(owner, insertion(0, "coins"))))
        assert (refused.outcome, refused.code) == ("rejected", "admission.change")

        spender = shop.pay([made.coin(1, coin_key)])
        spends = await talk.send(shop.frame(Bag([funding], [made, spender])), instruct(owner))
        (spent,) = await talk.decisions(spends)
        assert spent.outcome == "applied"
        left = await reader.list_outputs(name, "coins", min_sequence=spent.sequence or 0)
        assert [each.outpoint for each in left.outputs] == [f"{txid}.2"]
        await talk.network(spends)

        before = await reader.state(name, kind="owner")
        evict = Evict("evict test", spender.txid, "network.rejected", "a test")
        await talk.send(OPERATION.encode(evict), [OPERATION.header], OPERATIONS, key=context.encode())
        await talk.wait(lambda rs: any(r.outcome == "evicted" and r.context == context for r in rs))
        back = await reader.list_outputs(name, "coins")
        assert sorted(each.outpoint for each in back.outputs) == [f"{txid}.1", f"{txid}.2"]
        readmit = Readmit("readmit test", spender.txid)
        await talk.send(OPERATION.encode(readmit), [OPERATION.header], OPERATIONS, key=context.encode())
        await talk.wait(lambda rs: any(r.outcome == "revised" and r.context == context for r in rs))
        assert (await reader.state(name, kind="owner")).state_root == before.state_root
    commands_say_so(worker, txid, name)
    await until(lambda: agrees(context), "copies, changelog and journal of an owner's context agree")


async def test_a_payment_to_somebody_else_is_refused_and_one_nobody_can_check_is_no_balance(
    talk: Talk, generator: Generator, installation: Installation
) -> None:
    """By the client for applications."""
    shop, owner, sender = generator.shop, make_key("basket owner", 2), make_key("basket sender")
    funding = shop.take()
    made = shop.pay([funding.coin], [(300, shop.key().script)])
    beef = shop.frame(Bag([funding], [made]))
    false = linkage(owner.public, sender.secret, INVOICE)
    async with Client(talk.settings.kafka.bootstrap, prefix=talk.prefix) as client:

        async def outcome(*outputs: dict[str, Any]) -> Any:
            asked = [{"owner": owner.public.hex(), "description": "as a test", "outputs": list(outputs)}]
            return (await client.submit_and_wait(beef, baskets=asked)).decisions[0]

        refused = await outcome(payment(0, sender, false))
        assert (refused.outcome, refused.code, refused.at) == ("rejected", "admission.not-paid", "output 0")
        taken = await outcome(payment(0, sender))
        assert (taken.outcome, taken.context) == ("applied", f"owner:{owner.public.hex()}")
    async with StateReader(running_workers()[0].http) as reader:
        (change,) = (await reader.baskets(owner.public.hex(), min_sequence=taken.sequence)).baskets
        assert (change.basket, change.satoshis, change.unverified) == ("default", 0, 300)


async def test_tokens_are_found_by_their_fields_and_handed_out_whole(
    talk: Talk, generator: Generator, tmp_path: Path
) -> None:
    """What is handed out is a payload that the installation takes itself, from another owner."""
    shop, owner, other = generator.shop, make_key("basket owner", 3), make_key("basket owner", 4)
    name, context = owner.public.hex(), f"owner:{owner.public.hex()}"
    key = shop.key()
    red, blue = (pushdrop(key.public, [color, b"7777"]) for color in (b"red!", b"blue"))
    fundings = [shop.take(), shop.take()]
    parent = shop.pay([fundings[0].coin], [(300, red), (200, blue), (100, key.script)])
    child = shop.pay([parent.coin(2, key), fundings[1].coin], [(50, red)])
    index = [{"basket": "coins", "fields": [0]}]
    for with_them, outputs in (
        ([parent], [insertion(0, "coins", "t"), insertion(1, "coins")]),
        ([parent, child], [insertion(0, "coins")]),
    ):
        request = await talk.send(
            shop.frame(Bag(fundings[: len(with_them)], with_them)), instruct(owner, *outputs, index=index)
        )
        (decided,) = await talk.decisions(request)
        assert decided.outcome == "applied"
        await talk.network(request)
    worker = running_workers()[0].http
    async with StateReader(worker) as reader:
        told = [(each.value, each.outputs, each.satoshis) async for each in reader.values(name, "coins", 0)]
        assert told == [(b"blue".hex(), 1, 200), (b"red!".hex(), 2, 350)]
        (one,) = (await reader.values_page(name, "coins", 0, value=b"blue")).values
        assert one.outputs == 1
        found = await reader.list_outputs(
            name, "coins", fields={0: b"red!"}, include="entire transactions", include_fields=True
        )
        assert {each.outpoint for each in found.outputs} == {f"{display(made.txid)}.0" for made in (parent, child)}
        assert found.outputs[0].fields == {0: b"red!".hex()}
        tagged = await reader.list_outputs(name, "coins", fields={0: b"red!"}, tags=["t", "u"])
        assert [each.outpoint for each in tagged.outputs] == [f"{display(parent.txid)}.0"]
    assert found.beef is not None
    held = [tx.txid for tx in read_beef(found.beef, 100, 100).txs]
    assert len(held) == len(set(held)) == 4
    for made, output in ((parent, 1), (child, 0)):
        whole = write_atomic(made.txid, found.beef)
        (taken,) = await talk.decisions(await talk.send(whole, instruct(other, insertion(output, "gifts"))))
        assert (taken.outcome, taken.txid) == ("applied", display(made.txid))
    file = tmp_path / "whole.beef"
    shown = invoked(
        basket_command, "list", name, "coins", "--field", f"0={b'red!'.hex()}", "--beef", str(file), "--at", worker
    )
    assert (shown.exit_code, "2 of 2" in shown.output) == (0, True), shown.output
    assert f"0={b'red!'.hex()}" in shown.output
    assert file.read_bytes() == found.beef
    shown = invoked(basket_command, "values", name, "coins", "0", "--limit", "1", "--at", worker)
    assert (shown.exit_code, shown.output.splitlines()[1:]) == (
        0, [f"        1 outputs              200 sat  {b'blue'.hex()}  \"blue\"", f"more behind {b'blue'.hex()}"],
    ), shown.output  # fmt: skip
    for wrong in (
        ["list", name, "--field", "0=00"],
        ["list", name, "coins", "--field", "0"],
        ["list", name, "coins", "--field", "0=xy"],
        ["list", name, "coins", "--field", "0=00", "--field", "0=01"],
        ["list", name, "--change", "--field", "0=00"],
        ["list", name, "--beef", str(file)],
        ["list", name, "coins", "--scripts", "--beef", str(file)],
        ["values", name, "coins", "0", "--value", "x"],
    ):
        assert invoked(basket_command, *wrong, "--at", worker).exit_code == 3, wrong
    nothing = invoked(basket_command, "list", name, "nothing", "--beef", str(file), "--at", worker)
    assert nothing.exit_code == 1
    await until(lambda: agrees(context), "copies, changelog and journal of an owner's context agree")
