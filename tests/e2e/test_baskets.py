"""Wallet baskets on a running installation: from the header to what readers are told."""

import base64
import json
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
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
from ops.instruments.workshop import Bag
from ops.running import running_workers
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


def instruct(owner: Key, *outputs: dict[str, Any], topics: tuple[str, ...] = ()) -> list[tuple[str, bytes]]:
    header = [{"owner": owner.public.hex(), "description": "as a test", "outputs": outputs}]
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
