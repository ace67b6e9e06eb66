"""The whole path: what goes in, what must come out, whatever goes in."""

import asyncio
import json
import os
import random
import urllib.request
from collections.abc import AsyncIterator

import pytest
from click import Command
from click.testing import CliRunner

from beefline.reading import StateReader
from ops.cli.journal import journal as journal_command
from ops.cli.state import state as state_command
from ops.home import home
from ops.installation import Installation
from ops.instruments.chain import Chain
from ops.instruments.generate import Generator
from ops.instruments.wire import Entry, write_beef
from ops.instruments.workshop import Bag
from ops.running import running_workers
from ops.stages import STAGES
from schemas.flow import OPERATION, Evict, Readmit
from schemas.journal import JOURNAL as JOURNAL_SCHEMA
from schemas.types import display
from tests.e2e.asking import Talk, until
from tests.hurrying import hurried
from topics.registry import DEAD_LETTERS, JOURNAL, OPERATIONS, PARSED, TRANSACTIONS

pytestmark = pytest.mark.broker

LIMIT = 8 << 20


@pytest.fixture(scope="module")
def generator(installation: Installation) -> Generator:
    return Generator(Chain.open(home() / "simulate" / "chain"), seed=17)


@pytest.fixture
async def talk(installation: Installation) -> AsyncIterator[Talk]:
    async with Talk(installation) as talk:
        yield talk


def topics(*names: str) -> tuple[str, bytes]:
    return ("topics", json.dumps(names).encode())


async def test_a_payload_is_applied_in_each_context_and_accepted_once(talk: Talk, generator: Generator) -> None:
    (payload,) = generator.make("hello")
    request = await talk.send(payload.beef, [topics("tm_helloworld", "tm_anytx")])
    decided = await talk.decisions(request, 2)
    assert {(r.outcome, r.context, r.contexts) for r in decided} == {
        ("applied", "topic:tm_helloworld", 2),
        ("applied", "topic:tm_anytx", 2),
    }
    said = await talk.network(request)
    assert said.outcome == "accepted"
    efs = [record.value for record in await talk.read_end(TRANSACTIONS, 50) if record.key == payload.txid]
    assert efs
    assert efs[0][4:10] == bytes.fromhex("0000000000ef")


async def test_a_topic_named_twice_is_applied_once(talk: Talk, generator: Generator) -> None:
    (payload,) = generator.make("p2pkh")
    request = await talk.send(payload.beef, [topics("tm_anytx", "tm_anytx")])
    (decided,) = await talk.decisions(request)
    assert (decided.outcome, decided.contexts) == ("applied", 1)


async def test_the_same_payload_again_gets_the_stored_answer(talk: Talk, generator: Generator) -> None:
    (payload,) = generator.make("p2pkh")
    (first,) = await talk.decisions(await talk.send(payload.beef))
    (again,) = await talk.decisions(await talk.send(payload.beef))
    assert (again.outcome, again.repeat, again.sequence) == ("applied", True, first.sequence)
    assert (again.admittance, again.state_root) == (first.admittance, first.state_root)


@pytest.mark.parametrize(
    ("value", "headers", "code"),
    [
        (random.Random(7).randbytes(1000), [], "malformed.magic"),
        (b"", [], "malformed.empty"),
        (None, [], "malformed.empty"),
        (b'{"rawTx": "00"}', [], "malformed.magic"),
        (b"\x01\x00\xbe\xef" + b"\xff" * 9, [], "malformed.count"),
        (b"x", [("topics", b"tm_anytx")], "malformed.contexts"),
        (b"x", [("topics", b'["TM_Any7"]')], "malformed.contexts"),
        (b"x", [("topics", b"\xff\xfe")], "malformed.contexts"),
        (b"x", [topics()], "admission.no-context"),
        (b"x", [topics(*[f"tm_{a}{b}" for a in "abcdef" for b in "abcdef"][:33])], "policy.contexts"),
        (b"x", [("baskets", b'[{"basket": "b"}]')], "malformed.baskets"),
        (b"x", [("atomicity", b"some")], "malformed.headers"),
        (bytes(LIMIT), [], "malformed.magic"),
        (bytes(LIMIT + 1), [], "malformed.too-large"),
    ],
)
async def test_whatever_goes_in_gets_a_result_with_a_code(
    talk: Talk, value: bytes | None, headers: list[tuple[str, bytes]], code: str
) -> None:
    request = await talk.send(value, headers)
    (decided,) = await talk.decisions(request)
    assert (decided.outcome, decided.code, decided.context, decided.contexts) == ("rejected", code, None, 0)


@pytest.mark.invariant("NAMED-1")
async def test_ancestors_named_by_their_txid_are_put_in_place(talk: Talk, generator: Generator) -> None:
    """BRC-96: what was verified here before need not come again, proven or not; what was not is asked for."""
    shop = generator.shop
    funding, first_key = shop.take(), shop.key()
    first = shop.pay([funding.coin], key=first_key)
    second = shop.pay([first.coin(0, first_key)])
    whole = shop.frame(Bag([funding], [first]))
    named = write_beef([], [Entry(first.txid, txid_only=True), Entry(second.raw)], "v2")
    (early,) = await talk.decisions(await talk.send(named))
    assert (early.outcome, early.code) == ("rejected", "structure.txid-only")
    (applied,) = await talk.decisions(await talk.send(whole))
    assert applied.outcome == "applied"
    (completed,) = await talk.decisions(await talk.send(named))
    assert (completed.outcome, completed.txid) == ("applied", display(second.txid))
    proven = write_beef([], [Entry(funding.coin.txid, txid_only=True), Entry(first.raw)], "v2")
    (again,) = await talk.decisions(await talk.send(proven))
    assert (again.outcome, again.repeat) == ("applied", True)
    said = await talk.network(completed.request_ids[0])
    assert said.outcome == "accepted"


@pytest.mark.invariant("APPLY-4")
async def test_who_lost_a_coin_comes_back_when_its_rival_is_evicted_and_the_rival_when_it_is_readmitted(
    talk: Talk, generator: Generator
) -> None:
    """The loser waits for what `status` says of both. Then by the network's words on `operations`; the loser's decision
    stands under the id it had.
    """
    shop, context = generator.shop, b"topic:tm_anytx"
    funding = shop.take()
    first, second = (shop.pay([funding.coin], key=shop.key()) for _ in range(2))
    sent = await talk.send(shop.frame(Bag([funding], [first])))
    assert (await talk.network(sent)).outcome == "accepted"

    loser = await talk.send(shop.frame(Bag([funding], [second])))
    async with hurried():
        (lost,) = await talk.decisions(loser)
    assert (lost.outcome, lost.code, lost.competing) == ("rejected", "conflict.double-spend", (display(first.txid),))
    entries = [JOURNAL_SCHEMA.decode(record.value) for record in await talk.read_end(JOURNAL, 20)]
    assert ("accept", first.txid) in {(entry.kind, entry.txid) for entry in entries}
    evict = Evict("evict", first.txid, "network.double-spend", "reorganised", (second.txid,))
    await talk.send(OPERATION.encode(evict), [OPERATION.header], OPERATIONS, context)
    *_, won = await talk.decisions(loser, 2)
    assert (won.outcome, won.id, won.origin) == ("applied", lost.id, lost.origin)
    assert won.revision > lost.revision
    # The simulated network holds on to the first: it refuses the second, which leaves again.
    assert (await talk.network(loser)).outcome == "refused"
    await talk.wait(lambda results: any(r.outcome == "evicted" and r.txid == display(second.txid) for r in results))
    await talk.send(OPERATION.encode(Readmit("readmit", first.txid)), [OPERATION.header], OPERATIONS, context)
    results = await talk.wait(lambda results: any(r.outcome == "revised" for r in results))
    (back,) = [r for r in results if r.outcome == "revised"]
    assert (back.txid, back.request_ids, back.context) == (display(first.txid), (sent,), context.decode())
    (again,) = await talk.decisions(await talk.send(shop.frame(Bag([funding], [first]))))
    assert (again.outcome, again.repeat, again.sequence) == ("applied", True, back.sequence)


@pytest.mark.invariant("READ-1")
async def test_the_state_is_read_from_any_worker_and_agrees_with_the_journal(talk: Talk, generator: Generator) -> None:
    """One's own write at once, from workers of every stage; by the commands too."""
    (payload,) = generator.make("p2pkh")
    (decided,) = await talk.decisions(await talk.send(payload.beef))
    assert decided.sequence is not None
    workers = running_workers()
    assert {worker.stage for worker in workers} == set(STAGES)
    for worker in workers:
        async with StateReader(worker.http) as reader:
            told = await reader.state("tm_anytx", min_sequence=decided.sequence)
            assert told.sequence >= decided.sequence
            standing = await reader.transaction(display(payload.txid))
            (here,) = standing.contexts
            assert (here.standing, here.sequence, here.state.context) == ("applied", decided.sequence, "topic:tm_anytx")
            (entry,) = [each async for each in reader.journal("topic:tm_anytx", decided.sequence)][:1]
            assert (entry.sequence, entry.txid) == (decided.sequence, display(payload.txid))

    async def beefline(command: Command, *arguments: str) -> str:
        flags = ("--set", f"kafka.bootstrap={talk.settings.kafka.bootstrap}", "--set", f"topics.prefix={talk.prefix}")
        done = await asyncio.to_thread(CliRunner().invoke, command, [*arguments, *flags])
        assert done.exit_code == 0, done.output
        return done.output

    verified = await beefline(state_command, "verify")
    assert "topic:tm_anytx  unbroken" in verified
    assert "broken" not in verified.replace("unbroken", "")
    shown = await beefline(state_command, "show", "tm_anytx", "--outputs", "--first", "3")
    assert "topic:tm_anytx  sequence" in shown
    assert len([line for line in shown.splitlines() if line.endswith(" sat")]) == 3
    assert "topic:tm_anytx  applied" in await beefline(state_command, "show", "--txid", display(payload.txid))
    found = await beefline(journal_command, "export", "--request-id", decided.request_ids[0])
    assert display(payload.txid) in found


async def test_an_unknown_topic_is_refused_and_the_others_go_on(talk: Talk, generator: Generator) -> None:
    (payload,) = generator.make("p2pkh")
    request = await talk.send(payload.beef, [topics("tm_nowhere", "tm_anytx")])
    decided = await talk.decisions(request, 2)
    assert {(r.context, r.outcome, r.code) for r in decided} == {
        ("topic:tm_nowhere", "rejected", "admission.unknown-topic"),
        ("topic:tm_anytx", "applied", None),
    }


@pytest.mark.setting("topics.max_payload_bytes")
async def test_a_payload_near_the_limit_goes_all_the_way_and_back(talk: Talk, generator: Generator) -> None:
    (payload,) = generator.make("data", LIMIT - 4000)
    assert LIMIT - 4000 < len(payload.beef) <= LIMIT
    request = await talk.send(payload.beef)
    (decided,) = await talk.decisions(request)
    assert decided.outcome == "applied"
    said = await talk.network(request)
    assert (said.outcome, said.code) == ("refused", "network.too-large")  # endpoints take scripts of 500 kB
    gone = await talk.wait(lambda results: any(r.outcome == "evicted" for r in results))
    assert next(r for r in gone if r.outcome == "evicted").context == "topic:tm_anytx"


@pytest.mark.parametrize("topic", [PARSED, OPERATIONS], ids=lambda topic: topic.name)
@pytest.mark.parametrize(
    ("headers", "code"),
    [([], b"internal.undecodable"), ([("schema", b"parsed/99")], b"internal.unknown-version")],
    ids=["bytes", "version"],
)
async def test_an_undecodable_internal_record_is_a_dead_letter(
    talk: Talk, generator: Generator, topic: object, headers: list[tuple[str, bytes]], code: bytes
) -> None:
    mark = os.urandom(16)
    await talk.send(mark, headers, topic, key=b"topic:tm_anytx")  # type: ignore[arg-type]
    (payload,) = generator.make("p2pkh")
    await talk.decisions(await talk.send(payload.beef))  # the stage goes on
    letters: list[bytes] = []

    async def found() -> bool:
        records = await talk.read_end(DEAD_LETTERS, 40)
        letters[:] = [dict(record.headers)["code"] for record in records if record.value == mark]
        return bool(letters)

    for _ in range(50):
        if await found():
            break
    assert letters == [code]


@pytest.mark.setting("trace.file")
async def test_a_sampled_payload_is_one_trace_over_every_hop(talk: Talk, generator: Generator) -> None:
    trace = os.urandom(16).hex()
    (payload,) = generator.make("p2pkh")
    sent = f"00-{trace}-{os.urandom(8).hex()}-01".encode()
    request = await talk.send(payload.beef, [("traceparent", sent)])
    await talk.network(request)
    file = home() / "trace.jsonl"

    def spans() -> list[dict[str, object]]:
        lines = file.read_text().splitlines() if file.exists() else []
        return [span for span in map(json.loads, lines) if span["trace_id"] == trace]

    hops = {"beefline-parse", "beefline-verify", "beefline-apply", "beefline-broadcast"}
    await until(lambda: {str(span["service"]) for span in spans()} >= hops and len(spans()) >= 5, "all hops")
    found = spans()
    ids = {span["span_id"] for span in found} | {sent.split(b"-")[2].decode()}
    assert all(span["parent_id"] in ids for span in found)
    accepted = {
        dict(record.headers).get("traceparent", b"").split(b"-")[1]
        for record in await talk.read_end(TRANSACTIONS, 5)
        if record.key == payload.txid
    }
    assert accepted == {trace.encode()}


async def test_metrics_of_each_stage(talk: Talk, generator: Generator) -> None:
    (payload,) = generator.make("p2pkh")
    await talk.network(await talk.send(payload.beef))
    for worker in running_workers():
        text = urllib.request.urlopen(f"{worker.http}/metrics", timeout=5).read().decode()  # noqa: ASYNC210 - a test
        for name in (
            "records_in_total", "records_out_total", "outcomes_total", "batch_seconds_count",
            "time_in_topic_seconds_count", "in_flight_records", "lag_records",
        ):  # fmt: skip
            assert f"beefline_{name}{{" in text, (worker.stage, name)
            assert f'stage="{worker.stage}"' in text
        assert "txid=" not in text
        assert payload.txid[::-1].hex() not in text


def test_the_workers_logs_are_json_lines(installation: Installation) -> None:
    """All that the tests before this one sent wrote no traceback of its own, and no terminal's control sequence."""
    for stage in STAGES:
        lines = (home() / "logs" / f"{stage}.log").read_text().splitlines()
        assert lines
        for line in lines:
            assert json.loads(line)["stage"] == stage
