"""All or nothing on a running installation: topics and an owner take a transaction together, or none of them does."""

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from click import Command
from click.testing import CliRunner, Result

from beefline.client import Client, NoOutcome
from beefline.reading import StateReader
from ops.cli.operations import operations as command
from ops.cli.state import state as state_command
from ops.home import home
from ops.installation import Installation
from ops.instruments.chain import Chain
from ops.instruments.generate import Generator
from ops.instruments.keys import Key, Made, make_key
from ops.instruments.workshop import Bag
from ops.letters import Wanted, find
from ops.running import running_workers
from pipeline.chain.answer import Tip
from pipeline.parse import Payload, parse
from pipeline.policy import Policy
from pipeline.prepare import parts_of, whole
from pipeline.verify import Plan, Valid, plan
from schemas.external import EVENT
from schemas.flow import OPERATION, Asked, Origin, Part, Prepare, Verified
from schemas.types import display
from tests.e2e.asking import Talk, until
from topics.registry import EVENTS, OPERATIONS

pytestmark = [pytest.mark.broker, pytest.mark.invariant("ATOMIC-1")]

ANYTX, EXAMPLE = "topic:tm_anytx", "topic:tm_example"
TOPICS = ["tm_anytx", "tm_example"]
MARK = b"\x00\x6a\x07example"
"""What `tm_example` admits."""


@pytest.fixture(scope="module")
def generator(installation: Installation) -> Generator:
    return Generator(Chain.open(home() / "simulate" / "chain"), seed=53)


@pytest.fixture
async def talk(installation: Installation) -> AsyncIterator[Talk]:
    async with Talk(installation) as talk:
        yield talk


def marked(generator: Generator) -> tuple[bytes, Made]:
    """A payload whose transaction carries the mark, makes an output for a basket, and one of change."""
    shop = generator.shop
    funding = shop.take()
    made = shop.pay([funding.coin], [(0, MARK), (200, shop.key().script)])
    return shop.frame(Bag([funding], [made])), made


def instruct(owner: Key, protocol: str, **remittance: Any) -> list[dict[str, Any]]:
    """About the second output."""
    name = "insertionRemittance" if protocol == "basket insertion" else "paymentRemittance"
    outputs = [{"outputIndex": 1, "protocol": protocol, name: remittance}]
    return [{"owner": owner.public.hex(), "description": "as a test", "outputs": outputs}]


def invoked(group: Command, *args: str) -> Result:
    """In a thread of its own: a command has its own event loop."""
    with ThreadPoolExecutor(1) as apart:
        return apart.submit(CliRunner().invoke, group, args).result()


def told(txid: str) -> dict[str, Any]:
    """What the coordinator knows of a transaction's operation."""
    listed = invoked(command, "list", "--all", "--json")
    assert listed.exit_code == 0, listed.output
    (line,) = [line for line in map(json.loads, listed.stdout.splitlines()) if line["txid"] == txid]
    return dict(line)


def agrees(*contexts: str) -> bool:
    """Whether owners, copies, changelog and journal of each do."""
    named = [word for context in contexts for word in ("--context", context)]
    return invoked(state_command, "verify", *named).exit_code == 0


async def roots(reader: StateReader, *topics: str) -> list[str]:
    return [(await reader.state(topic)).state_root for topic in topics]


def all_agree() -> str:
    verified = invoked(command, "verify")
    assert verified.exit_code == 0, verified.output
    assert verified.output.endswith("no findings\n")
    return verified.output


async def test_two_topics_and_an_owner_take_it_together(talk: Talk, generator: Generator) -> None:
    beef, made = marked(generator)
    txid, owner = display(made.txid), make_key("several owner", 1)
    context = f"owner:{owner.public.hex()}"
    async with Client(talk.settings.kafka.bootstrap, prefix=talk.prefix) as client:
        outcome = await client.submit_and_wait(
            beef, topics=TOPICS, baskets=instruct(owner, "basket insertion", basket="coins"), atomicity="all"
        )
        decisions = {decision.context: decision for decision in outcome.decisions}
        assert {name: each.outcome for name, each in decisions.items()} == dict.fromkeys(
            (ANYTX, EXAMPLE, context), "applied"
        )
        assert {each.contexts for each in outcome.decisions} == {3}
        admitted = {name: each.admittance.outputs_to_admit for name, each in decisions.items() if each.admittance}
        assert admitted == {ANYTX: (0, 1, 2), EXAMPLE: (0,), context: (1,)}
        answer = await client.network(outcome.submitted)
        assert (answer.outcome, answer.txid) == ("accepted", txid)

        async with StateReader(running_workers()[0].http) as reader:
            kinds = {
                name: [entry.kind async for entry in reader.journal(name) if entry.txid == txid][:2]
                for name in (ANYTX, EXAMPLE, context)
            }
            assert list(kinds.values()) == [["prepare", "commit"]] * 3
            listed = await reader.list_outputs(owner.public.hex(), "coins")
            assert [output.outpoint for output in listed.outputs] == [f"{txid}.1"]

        again = await client.submit_and_wait(
            beef, topics=TOPICS, baskets=instruct(owner, "basket insertion", basket="coins"), atomicity="all"
        )
        assert [(each.outcome, each.repeat) for each in again.decisions] == [("applied", True)] * 3
    standing = invoked(command, "list", "--all", "--json")
    lines = [line for line in map(json.loads, standing.stdout.splitlines()) if line["txid"] == txid]
    assert [(line["stands"], line["decided"]) for line in lines] == [("committed", "commit")] * 2
    shown = invoked(command, "show", lines[0]["operation"])
    assert shown.exit_code == 0, shown.output
    for name, decision in decisions.items():
        assert f"{name}  committed by entry {decision.sequence}," in shown.output
    all_agree()
    await until(lambda: agrees(ANYTX, EXAMPLE, context), "copies, changelogs and journals agree")


async def test_where_the_last_refuses_nobody_shows_anything(talk: Talk, generator: Generator) -> None:
    """One dead letter holds the whole request; what was locked is free again."""
    beef, made = marked(generator)
    txid, owner, sender = display(made.txid), make_key("several owner", 2), make_key("several sender")
    context = f"owner:{owner.public.hex()}"
    not_theirs = instruct(
        owner, "wallet payment", derivationPrefix="cHJlZml4", derivationSuffix="c3VmZml4",
        senderIdentityKey=sender.public.hex(), linkage="00" * 32,
    )  # fmt: skip
    async with (
        Client(talk.settings.kafka.bootstrap, prefix=talk.prefix) as client,
        StateReader(running_workers()[0].http) as reader,
    ):
        before = await roots(reader, *TOPICS)
        outcome = await client.submit_and_wait(beef, topics=TOPICS, baskets=not_theirs, atomicity="all")
        assert {each.context: (each.outcome, each.code) for each in outcome.decisions} == dict.fromkeys(
            (ANYTX, EXAMPLE, context), ("rejected", "admission.not-paid")
        )
        messages = {each.context: each.message or "" for each in outcome.decisions}
        assert all(messages[name] == f"{context}: {messages[context]}" for name in (ANYTX, EXAMPLE))
        assert await roots(reader, *TOPICS) == before
        assert (await reader.transaction(txid)).contexts == ()
        (letter,) = await find(talk.settings, Wanted(txid=txid))
        operation = OPERATION.decode(letter.value)
        assert isinstance(operation, Prepare)
        assert (letter.code, letter.key, len(operation.others)) == ("admission.not-paid", ANYTX.encode(), 2)

        known = told(txid)
        assert (known["stands"], known["by"], known["code"]) == ("aborted", context, "admission.not-paid")
        shown = invoked(command, "show", known["operation"])
        assert f"admission.not-paid by {context} in attempt 0" in shown.output
        assert f"{context}  has no entry of it" in shown.output
        all_agree()

        alone = await client.submit_and_wait(beef, topics=TOPICS, atomicity="all")
        assert [each.outcome for each in alone.decisions] == ["applied"] * 2
    all_agree()


def verified(talk: Talk, beef: bytes, request: str) -> Verified:
    """A payload as verify hands it on, of a record that nobody wrote: its parts are sent one by one."""
    parsed = parse(beef, Policy())
    assert isinstance(parsed, Payload)
    found = plan(parsed, Policy(), Tip(1_000_000, int(time.time())))
    assert isinstance(found, Plan)
    origin = Origin("nowhere", f"{talk.prefix}ingest", 0, 1 << 40, int(time.time() * 1000))
    asked = Asked(origin, request, (ANYTX, EXAMPLE), "all")
    valid = Valid(parsed, found.work.coins, found.work.fee_sat)
    return Verified(asked, parsed.subject.txid, parsed.canonical(), valid.members(), valid.fee_sat)


@pytest.mark.setting("coordinate.tell_after_s")
async def test_what_is_undecided_is_told_of_and_not_shown(talk: Talk, generator: Generator) -> None:
    """Until the part that another context had not received has come."""
    beef, made = marked(generator)
    txid = display(made.txid)
    payload = verified(talk, beef, "several by hand")
    first = whole(0, payload, [Part(ANYTX), Part(EXAMPLE)])
    ((_, other),) = parts_of(first)
    async with StateReader(running_workers()[0].http) as reader:
        before = await roots(reader, *TOPICS)
        await talk.send(OPERATION.encode(other), [OPERATION.header], OPERATIONS, key=EXAMPLE.encode())
        deadline = time.monotonic() + 30
        while not (state := await reader.state("tm_example")).undecided:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        (named,) = state.undecided_operations
        assert (named.operation, named.txid, named.attempt) == (first.operation, txid, 0)
        assert await roots(reader, *TOPICS) == before
        assert (await reader.transaction(txid)).contexts == ()

        def is_listed() -> bool:
            return f"{first.operation}  undecided" in invoked(command, "list").output

        await until(is_listed, "an undecided operation is listed")
        assert f"waits for the votes of {ANYTX}\n" in invoked(command, "list").output
        assert "1 undecided" in all_agree()
        shown = invoked(state_command, "show", "tm_example").output
        assert "1 operations over several contexts are undecided here" in shown
        assert f"{first.operation}  {txid}" in shown
        event = await undecided_event(talk, first.operation)
        assert (event.severity, event.details["missing"]) == ("warning", [ANYTX])

        await talk.send(OPERATION.encode(first), [OPERATION.header], OPERATIONS, key=ANYTX.encode())
        decided = await talk.decisions("several by hand", 2)
        assert {each.context: each.outcome for each in decided} == {ANYTX: "applied", EXAMPLE: "applied"}
        assert (await reader.state("tm_example")).undecided == 0
        assert {each.state.context for each in (await reader.transaction(txid)).contexts} == {ANYTX, EXAMPLE}
    assert f"{first.operation}" not in invoked(command, "list").output
    assert "undecided" not in all_agree()


@pytest.mark.invariant("ATOMIC-2")
async def test_while_the_coordinator_stands_still_nothing_is_shown_anywhere(
    talk: Talk, generator: Generator, installation: Installation
) -> None:
    """All have voted, and hold what they would show; it wakes, and all show it."""
    beef, made = marked(generator)
    txid = display(made.txid)
    assert installation.workers is not None
    pid = installation.workers.child("coordinate").pid
    assert pid is not None
    async with (
        Client(talk.settings.kafka.bootstrap, prefix=talk.prefix) as client,
        StateReader(running_workers()[0].http) as reader,
    ):
        before = await roots(reader, *TOPICS)
        os.kill(pid, signal.SIGSTOP)
        try:
            submitted = await client.submit(beef, topics=TOPICS, atomicity="all")
            deadline = time.monotonic() + 30
            while [(await reader.state(name)).undecided for name in TOPICS] != [1, 1]:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
            with pytest.raises(NoOutcome):
                await client.outcome(submitted, timeout=0.5)
            assert await roots(reader, *TOPICS) == before
            assert (await reader.transaction(txid)).contexts == ()
            verified = all_agree()
            assert "1 unheard" in verified
        finally:
            os.kill(pid, signal.SIGCONT)
        outcome = await client.outcome(submitted)
        assert [each.outcome for each in outcome.decisions] == ["applied"] * 2
        assert [(await reader.state(name)).undecided for name in TOPICS] == [0, 0]
    all_agree()


async def test_contexts_agree_whenever_they_are_asked(talk: Talk, generator: Generator) -> None:
    """While operations come and go, each shown here a moment before it is shown there."""
    payloads = [marked(generator)[0] for _ in range(150)]
    counted: list[int] = []

    async with Client(talk.settings.kafka.bootstrap, prefix=talk.prefix) as client:

        async def send() -> list[str]:
            states: list[str] = []
            for begin in range(0, len(payloads), 10):
                some = payloads[begin : begin + 10]
                asked = (client.submit_and_wait(beef, topics=TOPICS, atomicity="all") for beef in some)
                states += [outcome.state for outcome in await asyncio.gather(*asked)]
            return states

        sending = asyncio.ensure_future(send())
        while not sending.done():
            verified = await asyncio.to_thread(CliRunner().invoke, command, ["verify", "--json"])
            assert verified.exit_code == 0, verified.output
            counted.append(sum(json.loads(verified.output)["operations"].values()))
        assert await sending == ["applied"] * len(payloads)
    all_agree()
    assert len(set(counted)) > 1, "it was asked while they came"


async def undecided_event(talk: Talk, operation: str) -> Any:
    deadline = time.monotonic() + 30
    while True:
        for record in await talk.read_end(EVENTS, 100):
            event = EVENT.decode(record.value)
            if event.kind == "operation-undecided" and event.details["operation"] == operation:
                return event
        assert time.monotonic() < deadline
        await asyncio.sleep(0.2)
