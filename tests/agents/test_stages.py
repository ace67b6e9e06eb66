"""What each stage decides about a record, without a broker."""

import asyncio
import json
import threading
import weakref
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaConnectionError

from agents import metrics
from agents import verify as verify_module
from agents.apply import ApplySettings, ApplyStage
from agents.broadcast import Asked as Answered
from agents.broadcast import Broadcast
from agents.parse import MAX_CONTEXTS, Parse, ParseSettings
from agents.retry import IN_HAND_BYTES, Retry
from agents.runtime.aside import LONG_BYTES
from agents.runtime.board import Board
from agents.runtime.desk import Desk
from agents.runtime.endpoint_settings import BroadcastSettings
from agents.runtime.endpoints import Outcome, Standing
from agents.runtime.http import HttpSettings
from agents.runtime.outbox import Outbox
from agents.runtime.outcomes import Router
from agents.runtime.partition import Decided, Heads
from agents.runtime.records import (
    Decision,
    Defer,
    Emit,
    Fault,
    Inbound,
    ManagerFailed,
    Out,
    Refuse,
    SetAside,
    WorldCondition,
)
from agents.runtime.sandbox import SandboxSettings
from agents.runtime.settings import TraceSettings
from agents.runtime.stage import Runner
from agents.runtime.suspects import Suspicion
from agents.runtime.trace import Tracer
from agents.runtime.trackers import TrackerSettings
from agents.verify import FEW_ROOTS, Gathered, Named, Prepared, Verify
from pipeline import member, results, state
from pipeline.broadcast import Refused, Success, Waits
from pipeline.broadcasters import Policy as Published
from pipeline.broadcasters import Reply
from pipeline.chain.answer import Answer, RootAt, Tip
from pipeline.codec.beef import write_beef_v2
from pipeline.keys import invoice_number, linkage
from pipeline.outcome import BY_CODE, Condition, Verdict
from pipeline.overlay.manager import BadManager
from pipeline.policy import Policy
from pipeline.results import About
from pipeline.state import Layer, Memory, encode, head_key
from schemas import headers as h
from schemas.baskets import Insertion, Instruction, Payment
from schemas.external import RESULT, Admittance, Result
from schemas.flow import (
    BROADCAST_REQUEST,
    OPERATION,
    PARSED,
    POINTER,
    Accept,
    Apply,
    Asked,
    BroadcastRequest,
    Evict,
    Operation,
    Origin,
    Parsed,
    Pointer,
    Readmit,
    Verified,
)
from schemas.journal import JOURNAL
from schemas.network import NEWS, Challenged, Challenges, Reported, Word
from schemas.types import display, outpoint
from tests import builders
from tests.fakes import (
    NOTHING_READ,
    NOW_MS,
    NULL,
    Log,
    Producer,
    Record,
    apply_of,
    coin_of_others,
    made_tx,
    origin_at,
    retry_stage,
    unmined,
    verified,
)
from topics import registry
from topics.registry import BY_NAME, DEAD_LETTERS, OPERATIONS, RESULTS, RETRY_10S, TRANSACTIONS, Topic

# --- parse

PAYMENT = builders.payment()
BEEF = PAYMENT.v1()
SUBJECT = PAYMENT.txs[-1]
OWNER = builders.key(3)

Pairs = Sequence[tuple[str, bytes]]


def parse_stage(*default: str) -> Parse:
    return Parse(ParseSettings(default_topics=default or ("tm_anytx",)), Policy(), "cluster")


def parsed(headers: Pairs = (), *, key: bytes | None = b"key", default: Sequence[str] = ("tm_anytx",)) -> Decision:
    record = Record("beef.ingest", 2, 9, key, BEEF, headers)
    return parse_stage(*default).decide(record, None, NOW_MS)


def asked(headers: Pairs = (), **more: Any) -> Asked:
    """The request of a payload that was taken."""
    decision = parsed(headers, **more)
    assert isinstance(decision, Emit), decision
    (out,) = decision.outs
    return PARSED.decode(out.value).asked


def refused(headers: Pairs, **more: Any) -> Verdict:
    decision = parsed(headers, **more)
    assert isinstance(decision, Refuse)
    assert decision.about.contexts == 0
    assert BY_CODE[decision.verdict.code].kind == "verdict"
    return decision.verdict


def topics(*names: str) -> Pairs:
    return [("topics", json.dumps(names).encode())]


def names(count: int) -> list[str]:
    """So many overlay topics."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    return [f"tm_{letters[n // 26]}{letters[n % 26]}" for n in range(count)]


def basket(index: int, **remittance: Any) -> Pairs:
    """A header that puts an output into a basket of `OWNER`."""
    inserted = {"basket": "coins", **remittance}
    output = {"outputIndex": index, "protocol": "basket insertion", "insertionRemittance": inserted}
    instruction = {"owner": OWNER.public.hex(), "description": "as a test", "outputs": [output]}
    return [("baskets", json.dumps([instruction]).encode())]


def test_a_payload_goes_on_in_canonical_form_with_its_request() -> None:
    decision = parsed([*topics("tm_x"), ("request-id", b"r1"), ("off-chain-values", b"\x00values")])
    assert isinstance(decision, Emit)
    (out,) = decision.outs
    assert (out.topic, out.key) == (registry.PARSED, SUBJECT.txid)
    origin = Origin("cluster", "beef.ingest", 2, 9, NOW_MS)
    expected = Asked(origin, "r1", ("topic:tm_x",), "each", b"\x00values")
    assert PARSED.decode(out.value) == Parsed(expected, SUBJECT.txid, BEEF, 1)


def test_the_same_record_makes_the_same_output() -> None:
    """At least once is harmless only because the second time gives the first time's bytes."""
    assert parsed(topics("tm_x")) == parsed(topics("tm_x"))


@pytest.mark.parametrize(
    ("headers", "code", "at"),
    [
        ([("topics", b"tm_x")], "malformed.contexts", "topics"),
        ([("topics", b"")], "malformed.contexts", "topics"),
        ([("topics", b'"tm_x"')], "malformed.contexts", "topics"),
        ([("topics", b'{"tm_x": 1}')], "malformed.contexts", "topics"),
        ([("topics", b"[1]")], "malformed.contexts", "topics"),
        ([("topics", b"[null]")], "malformed.contexts", "topics"),
        ([("topics", b'["tm_x"')], "malformed.contexts", "topics"),
        ([("topics", b'["tm_x"] ]')], "malformed.contexts", "topics"),
        ([("topics", b"\xff")], "malformed.contexts", "topics"),
        ([("topics", b'["\xff"]')], "malformed.contexts", "topics"),
        ([("topics", b'["\\ud800"]')], "malformed.contexts", "topics"),
        ([("topics", b"[" * 100_000)], "malformed.contexts", "topics"),
        (topics("tm_x", "hello"), "malformed.contexts", "topics"),
        (topics("tm_X"), "malformed.contexts", "topics"),
        (topics("tm_x1"), "malformed.contexts", "topics"),
        (topics("tm_x\n"), "malformed.contexts", "topics"),
        (topics("tm_" + "a" * 48), "malformed.contexts", "topics"),
        (topics(""), "malformed.contexts", "topics"),
        (topics(), "admission.no-context", "topics"),
        (topics(*names(33)), "policy.contexts", "topics"),
        ([("atomicity", b"some")], "malformed.headers", "atomicity"),
        ([("atomicity", b"")], "malformed.headers", "atomicity"),
        ([("atomicity", b"EACH")], "malformed.headers", "atomicity"),
        ([("baskets", b'[{"basket": "x"}]')], "malformed.baskets", "baskets"),
        ([("baskets", b"x")], "malformed.baskets", "baskets"),
        (basket(0, basket="admin"), "malformed.baskets", "baskets"),
        (basket(9), "malformed.baskets", "baskets"),  # there is no such output
        ([*basket(0), *topics(*names(32))], "policy.contexts", "topics"),
    ],
)
def test_a_header_that_cannot_be_followed_is_named(headers: Pairs, code: str, at: str) -> None:
    verdict = refused(headers)
    assert (verdict.code, verdict.at) == (code, at)
    assert (
        at in verdict.message or code == "admission.no-context" or "tm" in verdict.message or "topic" in verdict.message
    )
    assert len(verdict.message) < 300


@pytest.mark.parametrize("size", [300, 301])
def test_an_indexed_field_of_the_payloads_script_has_a_length(size: int) -> None:
    """It is known where the header and the transaction are together."""
    beef = builders.payment([builders.Out(999, builders.pushdrop(OWNER, b"id", bytes(size)))]).v1()
    ((name, value),) = basket(0)
    (instruction,) = json.loads(value)
    header = json.dumps([{**instruction, "index": [{"basket": "coins", "fields": [1]}]}]).encode()
    decision = parse_stage().decide(Record(value=beef, headers=[(name, header)]), None, NOW_MS)
    if size == 300:
        assert isinstance(decision, Emit)
    else:
        assert isinstance(decision, Refuse)
        assert decision.verdict.code == "malformed.baskets"
        assert "field 1 of output 0 has 301 bytes" in decision.verdict.message


def test_a_header_is_judged_before_the_payload() -> None:
    """The sender learns first what costs least to tell."""
    record = Record(value=b"no payload at all", headers=topics("hello"))
    decision = parse_stage().decide(record, None, NOW_MS)
    assert isinstance(decision, Refuse)
    assert decision.verdict.code == "malformed.contexts"


@pytest.mark.setting("parse.default_topics")
def test_who_names_nothing_gets_the_defaults() -> None:
    assert asked().contexts == ("topic:tm_anytx",)
    assert asked(default=("tm_b", "tm_a", "tm_b")).contexts == ("topic:tm_b", "topic:tm_a")
    assert refused((), default=("nonsense",)).code == "malformed.contexts"


def test_duplicates_collapse_and_the_senders_order_stays() -> None:
    assert asked(topics("tm_b", "tm_a", "tm_b", "tm_a")).contexts == ("topic:tm_b", "topic:tm_a")


def test_32_contexts_are_taken() -> None:
    assert MAX_CONTEXTS == 32
    assert len(asked(topics(*names(32))).contexts) == 32
    assert len(asked(topics(*names(32), *names(32))).contexts) == 32  # collapsed before they are counted


@pytest.mark.parametrize("headers", [[("baskets", b"[]")], [("baskets", b"")], [("atomicity", b"each")]])
def test_asking_for_nothing_special_is_offered(headers: Pairs) -> None:
    assert asked(headers).atomicity == "each"


def test_who_names_an_owner_and_no_topic_wants_no_topic() -> None:
    owner = f"owner:{OWNER.public.hex()}"
    assert asked(basket(0)).contexts == (owner,)
    both = asked([*basket(0, tags=["T"]), *topics("tm_x")])
    assert both.contexts == ("topic:tm_x", owner)
    (encoded,) = [each for context, each in both.instructions if context == owner]
    assert msgspec.msgpack.decode(encoded, type=Instruction).outputs == ((0, Insertion("coins", "", ("t",))),)


def test_an_instruction_goes_to_its_owner_alone() -> None:
    """What somebody puts into a basket is nobody else's business: no other context's operation says it."""
    instructions = (("owner:a", b"of a"), ("owner:b", b"of b"))
    asked = Asked(origin_at(1), "r", ("topic:tm_x", "owner:a", "owner:b"), instructions=instructions)
    outs = verify_module._operations(Verified(asked, SUBJECT.txid, BEEF, (), 1), asked.contexts, {})
    found = {out.key: OPERATION.decode(out.value) for out in outs}
    assert all(isinstance(each, Apply) and each.verified.asked.instructions == () for each in found.values())
    assert {key: each.instruction for key, each in found.items() if isinstance(each, Apply)} == {
        b"topic:tm_x": b"", b"owner:a": b"of a", b"owner:b": b"of b",
    }  # fmt: skip


@pytest.mark.setting("parse.owner_key_files")
def test_keys_that_are_held_are_read_from_files(tmp_path: Path) -> None:
    """With the owner's secret the payment's linkage is made here; what is no secret is named by its file alone."""
    file = tmp_path / "key"
    file.write_text(OWNER.secret.hex() + "\n")
    stage = Parse(ParseSettings(owner_key_files=(str(file),)), Policy(), "cluster")
    sender = builders.key(4)
    remittance = {"derivationPrefix": "cA==", "derivationSuffix": "cw==", "senderIdentityKey": sender.public.hex()}
    output = {"outputIndex": 0, "protocol": "wallet payment", "paymentRemittance": remittance}
    header = json.dumps([{"owner": OWNER.public.hex(), "description": "as a test", "outputs": [output]}]).encode()
    decision = stage.decide(Record("beef.ingest", 2, 9, b"key", BEEF, [("baskets", header)]), None, NOW_MS)
    assert isinstance(decision, Emit)
    ((_, encoded),) = PARSED.decode(decision.outs[0].value).asked.instructions
    ((_, paid),) = msgspec.msgpack.decode(encoded, type=Instruction).outputs
    assert isinstance(paid, Payment)
    assert paid.linkage == linkage(OWNER.public, sender.secret, invoice_number(2, "3241645161d8", "cA== cw=="))
    file.write_text("not " + OWNER.secret.hex())
    with pytest.raises(ValueError, match="holds no secret") as raised:
        Parse(ParseSettings(owner_key_files=(str(file),)), Policy(), "cluster")
    assert OWNER.secret.hex() not in str(raised.value)


@pytest.mark.parametrize("name", ["topics", "baskets", "atomicity", "off-chain-values", "request-id", "traceparent"])
def test_a_header_without_a_value_is_no_header(name: str) -> None:
    """Kafka lets a header's value be null. What parse makes of it must be readable for verify."""
    assert asked([(name, NULL)]) == asked()


@pytest.mark.parametrize(
    ("headers", "key", "request_id"),
    [
        ([("request-id", b"mine")], b"key", "mine"),
        ([("request-id", b"first"), ("request-id", b"second")], b"key", "first"),
        ([], b"key", "key"),
        ([("request-id", b"")], b"key", "key"),
        ([], b"", "beef.ingest/2/9"),
        ([], None, "beef.ingest/2/9"),
        ([("request-id", "größe".encode())], None, "größe"),
        ([("request-id", b"\xff\xfe")], None, "\ufffd\ufffd"),
        ([("request-id", b"x" * 1000)], None, "x" * 200),
    ],
)
def test_what_a_request_is_called(headers: Pairs, key: bytes | None, request_id: str) -> None:
    assert asked(headers, key=key).request_id == request_id


@pytest.mark.parametrize("value", [None, b"", b"\x01\x02", BEEF + b"\x00", BEEF[:-1], b"\x01\x00\xbe\xef\x00\x00"])
def test_a_payload_that_is_none_is_refused_before_any_context(value: bytes | None) -> None:
    stage = parse_stage()
    record = Record("beef.ingest", 2, 9, b"key", value)
    decision = stage.decide(record, None, NOW_MS)
    assert isinstance(decision, Refuse)
    assert decision.about == stage.about(record)
    assert decision.about == About.before_contexts(Origin("cluster", "beef.ingest", 2, 9, NOW_MS), "key")
    assert decision.verdict.code.split(".")[0] in ("malformed", "structure")


async def test_gathering_waits_for_nothing() -> None:
    batch = [Record(offset=n) for n in range(3)]
    assert [records async for records, _ in parse_stage().gather(batch)] == [batch]


# --- verify


def verify_stage() -> Verify:
    return Verify(Policy(), TrackerSettings(), HttpSettings(), SandboxSettings())


def parsed_record(headers: Pairs = (), **more: Any) -> Record:
    request = Asked(origin_at(5), "r1", ("topic:tm_x", "topic:tm_y"))
    value = PARSED.encode(Parsed(request, SUBJECT.txid, BEEF, 1))
    return Record("beef.parsed", 0, 0, SUBJECT.txid, **{"value": value, **more}, headers=headers)


def judged(record: Record, answers: Mapping[Any, Answer] | None = None) -> Decision:
    """As `gather` prepares it, with what trackers say."""
    stage = verify_stage()
    prepared = stage._prepare(record, builders.TIP)
    assert not isinstance(prepared, Named)
    return stage.decide(record, Gathered({id(record): prepared}, answers or {}, builders.TIP, {}), NOW_MS)


def test_a_valid_payload_is_an_operation_for_each_of_its_contexts() -> None:
    decision = judged(parsed_record(), PAYMENT.answers())
    assert isinstance(decision, Emit)
    assert [(out.topic, out.key) for out in decision.outs] == [(OPERATIONS, b"topic:tm_x"), (OPERATIONS, b"topic:tm_y")]
    for out, context in zip(decision.outs, ("topic:tm_x", "topic:tm_y"), strict=True):
        operation = OPERATION.decode(out.value)
        assert isinstance(operation, Apply)
        assert operation.id == results.decision_id(origin_at(5), context)
        found = operation.verified
        assert found.txid == SUBJECT.txid
        assert [(one.txid, one.outputs) for one in found.members] == [(SUBJECT.txid, 1)]
        assert member.raw(found.beef, found.members[0]) == SUBJECT.raw
        assert member.spends(found.beef, found.members[0]) == SUBJECT.spends()


def test_what_trackers_deny_is_refused_and_what_they_do_not_know_waits() -> None:
    about = About.before_contexts(origin_at(5), "r1", SUBJECT.txid)
    denied = judged(parsed_record(), PAYMENT.answers(Answer.NO))
    assert isinstance(denied, Refuse)
    assert (denied.verdict.code, denied.about) == ("anchor.wrong-root", about)
    unknown = judged(parsed_record())
    assert isinstance(unknown, Defer)
    assert (unknown.condition.code, unknown.about) == ("anchor.unknown", about)


@pytest.mark.parametrize(
    ("more", "headers", "code"),
    [
        ({"value": b"\xc1"}, (), "internal.undecodable"),
        ({"value": b""}, (), "internal.undecodable"),
        ({"value": None}, (), "internal.undecodable"),
        ({}, [("schema", b"parsed/2")], "internal.unknown-version"),
        ({}, [("schema", b"operation/1")], "internal.unknown-version"),
    ],
)
def test_what_cannot_be_read_is_our_fault(more: dict[str, Any], headers: Pairs, code: str) -> None:
    decision = judged(parsed_record(headers, **more))
    assert isinstance(decision, Fault)
    assert decision.code == code


def test_a_payload_that_the_policy_no_longer_takes_is_refused() -> None:
    request = Asked(origin_at(5), "r1", ("topic:tm_x",))
    value = PARSED.encode(Parsed(request, SUBJECT.txid, BEEF + b"\x00", 1))
    decision = judged(parsed_record(value=value))
    assert isinstance(decision, Refuse)
    assert decision.verdict.code == "malformed.trailing-bytes"


class Slow:
    """Trackers that know everything, and are slow about one payload's blocks."""

    def __init__(self, bag: builders.Bag) -> None:
        self.slow = set(bag.answers())
        self.asked: list[set[RootAt]] = []
        self.may_go = asyncio.Event()

    async def tip(self) -> Tip:
        return builders.TIP

    async def ask(self, roots: Collection[RootAt]) -> dict[RootAt, Answer]:
        self.asked.append(set(roots))
        if self.slow & set(roots):
            await self.may_go.wait()
        return dict.fromkeys(roots, Answer.YES)


async def test_a_payload_of_many_blocks_keeps_nobody_waiting() -> None:
    """Some header services take a request a height: thousands of blocks are asked about apart, and in parts."""
    parents = [builders.funding(salt=n) for n in range(2 * FEW_ROOTS + 1)]
    child = builders.spend([builders.In(parent) for parent in parents])
    many = builders.bag(*parents, child, proven=parents, height=940_000)
    trackers = Slow(many)
    stage = verify_stage()
    stage._trackers = trackers  # type: ignore[assignment]
    value = PARSED.encode(Parsed(Asked(origin_at(6), "r2", ("topic:tm_x",)), child.txid, many.v1(), 1))
    costly, plain = parsed_record(value=value), parsed_record()
    gathering = stage.gather([costly, plain])
    async with asyncio.timeout(20):
        records, gathered = await anext(gathering)
    assert records == [plain]
    assert isinstance(stage.decide(plain, gathered, NOW_MS), Emit)
    trackers.may_go.set()
    records, gathered = await anext(gathering)
    assert records == [costly]
    assert isinstance(stage.decide(costly, gathered, NOW_MS), Emit)
    assert [record async for record in gathering] == []
    assert max(len(roots & trackers.slow) for roots in trackers.asked) == FEW_ROOTS
    assert set().union(*trackers.asked) >= trackers.slow


async def test_a_long_payload_is_prepared_beside_the_others() -> None:
    parent = builders.funding(builders.Out(1000, b"\x00\x6a" + builders.push(bytes(LONG_BYTES))), builders.Out(1000))
    child = builders.spend([builders.In(parent, 1)], [builders.Out(1)])
    made = builders.bag(parent, child, proven=[parent], height=940_000)
    value = PARSED.encode(Parsed(Asked(origin_at(6), "r2", ("topic:tm_x",)), child.txid, made.v1(), 1))
    stage, may_go = verify_stage(), threading.Event()
    stage._trackers = Slow(builders.Bag([], {}))  # type: ignore[assignment]
    prepare = stage._prepare

    def slowly(record: Inbound, tip: Tip) -> Prepared | Named | Decision:
        assert record is not long or may_go.wait(20)
        return prepare(record, tip)

    stage._prepare = slowly  # type: ignore[method-assign]
    long, plain = parsed_record(value=value), parsed_record()
    gathering = stage.gather([long, plain])
    assert (await anext(gathering))[0] == [plain]
    may_go.set()
    records, gathered = await anext(gathering)
    assert records == [long]
    assert isinstance(stage.decide(long, gathered, NOW_MS), Emit)


class Shelf:
    """In place of `Ancestors`: what it finds, once it may; and who has it in hand."""

    def __init__(self, found: Mapping[bytes, bytes] | Verdict | Condition) -> None:
        self.found = found
        self.may_go = asyncio.Event()
        self.held: set[int] = set()

    async def find(self, txids: Collection[bytes], whose: int) -> Mapping[bytes, bytes] | Verdict | Condition:
        self.held.add(whose)
        await self.may_go.wait()
        return self.found

    def give_back(self, whose: int) -> None:
        self.held.discard(whose)


RESOLVE = Policy(txid_only="resolve")
NAMING = write_beef_v2([], [(PAYMENT.txs[0].txid, -1), (SUBJECT.raw, -1)])


def naming_stage(shelf: Shelf) -> tuple[Verify, Record]:
    """A stage that finds ancestors on a shelf, and the record of a payload that names one."""
    stage = Verify(RESOLVE, TrackerSettings(), HttpSettings(), SandboxSettings())
    stage._trackers = Slow(builders.Bag([], {}))  # type: ignore[assignment]
    stage._ancestors = shelf  # type: ignore[assignment]
    parsed = Parsed(Asked(origin_at(7), "r7", ("topic:tm_x",)), SUBJECT.txid, NAMING, 1)
    return stage, parsed_record(value=PARSED.encode(parsed))


async def test_who_names_an_ancestor_waits_alone_and_goes_on_as_if_it_had_come_whole() -> None:
    shelf = Shelf({PAYMENT.txs[0].txid: BEEF})
    stage, named = naming_stage(shelf)
    plain = parsed_record()
    gathering = stage.gather([named, plain])
    async with asyncio.timeout(20):
        assert (await anext(gathering))[0] == [plain]
    shelf.may_go.set()
    records, gathered = await anext(gathering)
    assert records == [named]
    decision = stage.decide(named, gathered, NOW_MS)
    assert isinstance(decision, Emit)
    applied = OPERATION.decode(decision.outs[0].value, [OPERATION.header])
    assert isinstance(applied, Apply)
    assert applied.verified.beef == BEEF
    assert [member.raw(BEEF, one) for one in applied.verified.members] == [SUBJECT.raw]
    assert len(shelf.held) == 1, "it is in hand until it is dealt with"
    assert [record async for record in gathering] == []
    assert shelf.held == set()


@pytest.mark.parametrize(
    ("found", "expected", "code"),
    [
        ({}, Refuse, "structure.txid-only"),
        (Verdict("policy.limits"), Refuse, "policy.limits"),
        (Condition("structure.ancestor-unknown"), Defer, "structure.ancestor-unknown"),
    ],
)
async def test_what_is_not_found_is_refused_and_what_is_not_known_yet_comes_back(
    found: Any, expected: type, code: str
) -> None:
    shelf = Shelf(found)
    shelf.may_go.set()
    stage, named = naming_stage(shelf)
    ((_, gathered),) = [each async for each in stage.gather([named])]
    decision = stage.decide(named, gathered, NOW_MS)
    assert isinstance(decision, Refuse | Defer)
    assert type(decision) is expected
    assert (decision.verdict if isinstance(decision, Refuse) else decision.condition).code == code
    assert shelf.held == set()


async def test_a_batch_that_is_given_up_gives_back_what_was_found_for_it() -> None:
    shelf = Shelf({})
    stage, named = naming_stage(shelf)
    gathering = stage.gather([named, parsed_record()])
    await anext(gathering)
    await asyncio.sleep(0)
    assert shelf.held
    await gathering.aclose()
    assert shelf.held == set()


async def judged_beside(count: int, nops: int, settings: SandboxSettings) -> list[tuple[int, Decision]]:
    """Payloads of one batch, each with a script of so many operations, by number, in the order they are decided."""
    stage = Verify(Policy(), TrackerSettings(), HttpSettings(), settings)
    records = []
    for n in range(count):
        parent = builders.funding(builders.Out(1000, b"\x61" * nops), salt=n)
        child = builders.spend([builders.In(parent, 0, builders.by_script(b"\x51"))], [builders.Out(1)])
        made = builders.bag(parent, child, proven=[parent], height=949_000 - n)
        value = PARSED.encode(Parsed(Asked(origin_at(n), f"r{n}", ("topic:tm_x",)), child.txid, made.v1(), 1))
        records.append(parsed_record(value=value))
    stage._trackers = Slow(builders.Bag([], {}))  # type: ignore[assignment]
    numbers = {id(record): n for n, record in enumerate(records)}
    await stage._sandbox.start()
    try:
        return [
            (numbers[id(record)], stage.decide(record, gathered, NOW_MS))
            async for some, gathered in stage.gather(records)
            for record in some
        ]
    finally:
        await stage._sandbox.stop()


@pytest.mark.setting("sandbox.max_waiting")
@pytest.mark.setting("sandbox.patience_s")
async def test_of_payloads_with_slow_scripts_only_some_wait_for_the_child() -> None:
    """What waits is held in memory and keeps others from being fetched: what is too many comes back later."""
    said = await judged_beside(3, 400_000, SandboxSettings(processes=1, max_waiting=1, patience_s=0.01))
    assert [number for number, _ in said] == [2, 0, 1]
    assert isinstance(said[0][1], Defer)
    assert said[0][1].condition.code == "script.busy"
    assert all(isinstance(decision, Emit) for _, decision in said[1:])


async def test_many_honest_scripts_wait_for_one_another() -> None:
    said = await judged_beside(60, 20, SandboxSettings(processes=1, patience_s=20.0))
    assert sorted(number for number, _ in said) == list(range(60))
    assert all(isinstance(decision, Emit) for _, decision in said)


# --- apply

CONTEXT = "topic:tm_mine"
HERE = "tests.fakes"


class Applying:
    """An apply stage over a store in memory, a batch for each record."""

    def __init__(self, *always: str) -> None:
        managers = ("tm_anytx", f"tm_mine={HERE}:Keep", f"tm_odd={HERE}:Odd", "tm_helloworld")
        trusted = ("tm_mine", "tm_odd")
        self.stage = ApplyStage(ApplySettings(topics=managers, broadcast_always=always, trusted=trusted))
        self.store = Memory()
        self.offset = -1

    def record(self, operation: Operation, context: str = CONTEXT) -> Record:
        self.offset += 1
        return Record("beef.operations", 17, self.offset, context.encode(), OPERATION.encode(operation))

    def do(self, operation: Operation, context: str = CONTEXT) -> Decision:
        return self.decided(self.record(operation, context)).decision

    def decided(self, record: Inbound) -> Decided:
        layer = Layer(self.store)
        heads = Heads(layer)
        decided = self.stage.compute(record, layer, heads, NOW_MS)
        for key, live in decided.heads.items():
            layer.put(key, encode(live.stored()))
        self.store.write(layer.writes)
        return decided


def outs_to(decision: Decision, topic: Topic) -> list[Out]:
    return [out for out in getattr(decision, "outs", ()) if out.topic is topic]


def result(decision: Decision) -> Result:
    (out,) = outs_to(decision, RESULTS)
    return RESULT.decode(out.value)


def test_an_applied_payload_is_journaled_told_and_broadcast() -> None:
    world = Applying()
    parent = made_tx([coin_of_others(1)], 1, 1)
    subject = made_tx([outpoint(parent.txid, 0)], 2, 2)
    payload = verified(subject, [parent], offset=4, contexts=(CONTEXT, "topic:tm_anytx"))
    record = world.record(apply_of(payload))
    decided = world.decided(record)
    assert isinstance(decided.decision, Emit)
    assert decided.decision.code == "applied"
    assert set(decided.heads) == {head_key(CONTEXT)}
    journal, told, request = decided.decision.outs
    assert (journal.topic, journal.key, journal.partition) == (registry.JOURNAL, CONTEXT.encode(), 17)
    entry = JOURNAL.decode(journal.value)
    assert (entry.kind, entry.txid, entry.sequence, entry.time_ms) == ("apply", subject.txid, 1, NOW_MS)
    said = RESULT.decode(told.value)
    assert said.id == results.decision_id(origin_at(4), CONTEXT)
    assert (said.outcome, said.context, said.contexts, said.request_ids) == ("applied", CONTEXT, 2, ("request-4",))
    assert (said.admittance, said.sequence, said.revision) == (Admittance((0, 1)), 1, 1)
    assert said.state_root == entry.state_root.hex()
    assert (request.topic, request.key) == (registry.BROADCAST, subject.txid)
    assert BROADCAST_REQUEST.decode(request.value) == BroadcastRequest(
        subject.txid, (unmined(parent), unmined(subject)), (CONTEXT,), ("request-4",), origin_at(4)
    )


@pytest.mark.setting("apply.broadcast_always")
@pytest.mark.parametrize(
    ("context", "always", "proven", "requested"),
    [
        ("topic:tm_anytx", (), False, True),
        ("topic:tm_anytx", (), True, False),  # it is in a block
        ("topic:tm_helloworld", (), False, False),  # nothing was admitted
        ("topic:tm_helloworld", ("tm_helloworld",), False, True),
        ("topic:tm_helloworld", ("tm_helloworld",), True, False),
        ("topic:tm_helloworld", ("tm_anytx",), False, False),
    ],
)
def test_who_is_broadcast(context: str, always: tuple[str, ...], proven: bool, requested: bool) -> None:
    decision = Applying(*always).do(apply_of(verified(made_tx([coin_of_others(1)]), proven=proven)), context)
    assert result(decision).outcome == "applied"
    assert bool(outs_to(decision, registry.BROADCAST)) is requested


def test_what_only_removes_coins_is_broadcast_too() -> None:
    """The odd manager admits nothing when told so; the coin it does not retain leaves."""
    world = Applying()
    parent = made_tx([coin_of_others(1)], 1, 1)
    world.do(apply_of(verified(parent)), "topic:tm_odd")
    child = made_tx([outpoint(parent.txid, 0)], 1, 2)
    decision = world.do(apply_of(verified(child, [parent], offset=1, off_chain=b"nothing")), "topic:tm_odd")
    assert result(decision).admittance == Admittance((), (), (0,))
    assert outs_to(decision, registry.BROADCAST)


@pytest.mark.invariant("APPLY-1")
def test_a_repeat_is_told_and_neither_journaled_nor_broadcast() -> None:
    world = Applying()
    subject = made_tx([coin_of_others(1)])
    first = world.do(apply_of(verified(subject, offset=1)))
    again = world.decided(world.record(apply_of(verified(subject, offset=1))))
    other = world.do(apply_of(verified(subject, offset=2)))
    assert (again.heads, outs_to(again.decision, registry.JOURNAL), outs_to(other, registry.BROADCAST)) == ({}, [], [])
    assert result(again.decision) == result(first)
    assert (result(other).repeat, result(other).sequence) == (True, result(first).sequence)
    assert result(other).id != result(first).id
    assert getattr(other, "code", None) == "repeat"


def test_a_condition_waits_and_a_lost_conflict_is_refused_with_its_rival() -> None:
    world = Applying()
    point = coin_of_others(1)
    first, second = made_tx([point], 1, 1), made_tx([point], 1, 2)
    world.do(apply_of(verified(first, offset=1)))
    waits = world.do(apply_of(verified(second, offset=2)))
    about = About(origin_at(2), ("request-2",), second.txid, CONTEXT, 1)
    assert isinstance(waits, Defer)
    assert (waits.condition.code, waits.about) == ("conflict.undecided", about)
    assert {out.key: NEWS.decode(out.value) for out in waits.outs} == {
        first.txid: Challenged(second.txid, CONTEXT, sent=True),
        second.txid: Challenges((first.txid,), CONTEXT),
    }
    assert {out.topic for out in waits.outs} == {registry.NETWORK_NEWS}
    accepted = world.do(Accept("accept", (first.txid,), "arc@a"))
    assert isinstance(accepted, Emit)
    assert [out.topic for out in accepted.outs] == [registry.JOURNAL]
    lost = world.do(apply_of(verified(second, offset=2)))
    assert isinstance(lost, Refuse)
    assert (lost.verdict.code, lost.about, lost.competing) == ("conflict.double-spend", about, (first.txid,))
    assert lost.revision == 3
    assert [JOURNAL.decode(out.value).kind for out in lost.outs] == ["dismiss"]


def test_who_is_evicted_hears_of_it() -> None:
    """An ancestor that nobody submitted leaves too, and there is nobody to tell."""
    world = Applying()
    grand = made_tx([coin_of_others(1)], 1, 1)
    parent = made_tx([outpoint(grand.txid, 0)], 1, 2)
    child = made_tx([outpoint(parent.txid, 0)], 1, 3)
    world.do(apply_of(verified(parent, [grand], offset=1)))
    world.do(apply_of(verified(child, [grand, parent], offset=2)))
    evict = Evict("evict", grand.txid, "network.double-spend", "lost", (b"\x09" * 32,))
    decision = world.do(evict)
    assert [out.topic for out in getattr(decision, "outs", ())] == [registry.JOURNAL] * 3 + [RESULTS] * 2
    told = [RESULT.decode(out.value) for out in outs_to(decision, RESULTS)]
    assert [(each.txid, each.request_ids, each.revision) for each in told] == [
        (display(child.txid), ("request-2",), 3), (display(parent.txid), ("request-1",), 4),
    ]  # fmt: skip
    assert {(each.outcome, each.code, each.competing) for each in told} == {
        ("evicted", "network.double-spend", ("09" * 32,))
    }
    again = world.decided(world.record(evict))
    assert (again.heads, getattr(again.decision, "outs", None)) == ({}, [])


@pytest.mark.parametrize(
    ("key", "value", "headers", "code"),
    [
        (CONTEXT.encode(), b"\xc1", (), "internal.undecodable"),
        (CONTEXT.encode(), None, (), "internal.undecodable"),
        (CONTEXT.encode(), b"\x90", [("schema", b"operation/1")], "internal.unknown-version"),
    ],
)
def test_an_operation_that_cannot_be_read_is_our_fault(
    key: bytes, value: bytes | None, headers: Pairs, code: str
) -> None:
    decided = Applying().decided(Record("beef.operations", 17, 0, key, value, headers))
    assert isinstance(decided.decision, Fault)
    assert (decided.decision.code, decided.heads) == (code, {})


@pytest.mark.invariant("FAULT-1")
def test_a_record_that_raises_tells_whom_it_concerns() -> None:
    world = Applying()
    record = world.record(
        apply_of(verified(made_tx([coin_of_others(1)]), offset=3, off_chain=b"raise")), "topic:tm_odd"
    )
    with pytest.raises(ManagerFailed, match="does not like it") as raised:
        world.decided(record)
    assert raised.value.code == "internal.manager-raised"
    assert world.store.entries == {}
    about = world.stage.about(record)
    assert about is not None
    assert (about.origin, about.context) == (origin_at(3), "topic:tm_odd")
    assert world.stage.about(world.record(Accept("a", (), ""))) is None


@pytest.mark.setting("apply.topics")
def test_topics_that_cannot_be_hosted_stop_the_start() -> None:
    with pytest.raises(BadManager, match="tm_nowhere"):
        ApplyStage(ApplySettings(topics=("tm_nowhere",)))
    decision = Applying().do(apply_of(verified(made_tx([coin_of_others(1)]))), "topic:tm_nowhere")
    assert isinstance(decision, Refuse)
    assert decision.verdict.code == "admission.unknown-topic"


def test_heads_of_a_batch_go_on_from_each_other() -> None:
    """Two records of one context in one batch: the second follows the first, which no store holds yet."""
    world = Applying()
    layer = Layer(world.store)
    heads = Heads(layer)
    sequences = []
    for salt in range(3):
        own = Layer(layer)
        record = world.record(apply_of(verified(made_tx([coin_of_others(salt)], 1, salt), offset=salt)))
        decided = world.stage.compute(record, own, heads, NOW_MS)
        own.merge_into(layer)
        heads.live |= decided.heads
        entry = JOURNAL.decode(outs_to(decided.decision, registry.JOURNAL)[0].value)
        sequences.append((entry.sequence, entry.previous == bytes(32)))
    assert sequences == [(1, True), (2, False), (3, False)]
    assert head_key(CONTEXT) not in layer.writes
    assert state.TX in {key[len(CONTEXT) + 1 :][:1] for key in layer.writes}


# --- broadcast

PARENT = made_tx([coin_of_others(1)], 1, 1)
CHILD = made_tx([outpoint(PARENT.txid, 0)], 1, 2)
REQUEST = BroadcastRequest(
    CHILD.txid, (unmined(PARENT), unmined(CHILD)), ("topic:tm_x", "topic:tm_y"), ("r1", "r2"), origin_at(8)
)
ABOUT = About(origin_at(8), ("r1", "r2"), CHILD.txid, None, 2)


TAKEN, NO = Reply(CHILD.txid, "accepted", status="SEEN_ON_NETWORK", network=True), Reply(CHILD.txid, "transport")
FINAL = Reply(CHILD.txid, "refused", "network.fee", "too little", "465", (b"\x09" * 32,))


def cast(step: Success | Refused | Waits, *words: Reply, waited: bool = False) -> Decision:
    kept = h.RetryHeaders(
        origin_topic="broadcast", origin_partition=0, origin_offset=0, attempt=1, first_failed=1, not_before=5,
        code="network.undecided",
    )  # fmt: skip
    headers = h.to_pairs(kept) if waited else []
    record = Record("beef.broadcast", 0, 0, CHILD.txid, BROADCAST_REQUEST.encode(REQUEST), headers=headers)
    stage = Broadcast(BroadcastSettings(), HttpSettings())
    assert stage.about(record) == ABOUT
    names = ("arc@a", "arc@b")
    replies = {CHILD.txid: list(zip(names, words, strict=False)), PARENT.txid: []}
    return stage.decide(record, Answered({id(record): Outcome(REQUEST, step, replies, names)}), NOW_MS)


def news(decision: Decision) -> dict[bytes, Any]:
    return {out.key or b"": NEWS.decode(out.value) for out in outs_to(decision, registry.NETWORK_NEWS)}


@pytest.mark.invariant("CAST-2")
def test_what_the_network_took_is_handed_on_and_reported_for_each_transaction() -> None:
    """Ancestors first; one that is not accepted anywhere is not handed on. They were asked for by nobody."""
    decision = cast(Success(((PARENT.txid, "arc@a"), (CHILD.txid, "arc@b"))), NO, TAKEN)
    assert isinstance(decision, Emit)
    handed = outs_to(decision, TRANSACTIONS)
    assert [(out.key, out.value) for out in handed] == [(tx.txid, unmined(tx).ef) for tx in (PARENT, CHILD)]
    assert dict(handed[1].headers) == {
        "endpoint": b"arc@b", "status": b"accepted", "contexts": b"topic:tm_x,topic:tm_y", "request-ids": b"r1,r2",
    }  # fmt: skip
    reported = news(decision)
    assert reported[CHILD.txid] == Reported(
        (Word("arc@b", "accepted", "SEEN_ON_NETWORK", "", "", True, NOW_MS),), ("arc@a", "arc@b"), True,
        REQUEST.contexts, ("r1", "r2"), REQUEST.origin, handed=True,
    )  # fmt: skip
    parent = reported[PARENT.txid]  # taken before, and not sent again
    assert [(word.endpoint, word.kind) for word in parent.words] == [("arc@a", "accepted"), ("arc@b", "accepted")]
    assert (parent.contexts, parent.request_ids, parent.origin, parent.stands) == (REQUEST.contexts, (), None, True)
    seen = cast(Success(((CHILD.txid, "arc@b"),)), NO, TAKEN)
    assert [out.key for out in outs_to(seen, TRANSACTIONS)] == [CHILD.txid]
    assert news(seen).keys() == {CHILD.txid, PARENT.txid}, "whoever saw it has seen its parent"


def test_what_the_network_refused_is_kept_and_reported() -> None:
    """Whether that is the last word is for the status stage to say."""
    decision = cast(Refused(Verdict("network.fee", "too little"), "arc@a", (b"\x09" * 32,)), FINAL, FINAL)
    assert isinstance(decision, SetAside)
    assert decision.verdict.code == "network.fee"
    (reported,) = news(decision).values()
    assert [(word.endpoint, word.kind, word.code) for word in reported.words] == [
        ("arc@a", "refused", "network.fee"),
        ("arc@b", "refused", "network.fee"),
    ]
    assert reported.words[0].competing == (b"\x09" * 32,)
    assert (reported.stands, reported.handed, reported.ef) == (False, False, unmined(CHILD).ef)


@pytest.mark.invariant("STATUS-4")
@pytest.mark.parametrize("step", [Refused, Waits])
def test_an_ancestor_that_was_taken_is_handed_on_whatever_became_of_its_child(step: Any) -> None:
    """The child is kept by status, for when it is taken after all; while it is tried again, once."""
    said: Any = Verdict("network.fee", "too little") if step is Refused else Condition("network.undecided")
    taken = ((PARENT.txid, "arc@a"),)
    done = step(said, "arc@a", (), taken) if step is Refused else step(said, (), taken)
    for waited in (False, True):
        decision = cast(done, FINAL, FINAL, waited=waited)
        assert [(out.key, out.value) for out in outs_to(decision, TRANSACTIONS)] == [(PARENT.txid, unmined(PARENT).ef)]
        reported = news(decision)
        parent, child = reported[PARENT.txid], reported[CHILD.txid]
        assert (parent.handed, parent.stands, parent.ef) == (True, True, b"")
        kept = step is Refused or not waited
        assert (child.handed, child.stands, child.ef) == (False, False, unmined(CHILD).ef if kept else b"")


def test_what_nobody_decided_waits_as_the_networks_answer() -> None:
    """What was said so far is reported, and what is no answer is not."""
    decision = cast(Waits(Condition("network.undecided")), FINAL, NO)
    assert isinstance(decision, Defer)
    assert (decision.condition, decision.about) == (Condition("network.undecided"), ABOUT)
    (reported,) = news(decision).values()
    assert [word.endpoint for word in reported.words] == ["arc@a"]


async def test_a_request_that_cannot_be_read_costs_itself_alone() -> None:
    stage = Broadcast(BroadcastSettings(), HttpSettings())
    broken = [Record(value=b"\xc1"), Record(value=None, offset=1)]
    (first,) = [found async for found in stage.gather(broken)]
    records, gathered = first
    assert records == broken
    faults = [stage.decide(record, gathered, NOW_MS) for record in records]
    assert [fault.code for fault in faults if isinstance(fault, Fault)] == ["internal.undecodable"] * 2


@pytest.mark.invariant("STATUS-1")
def test_who_saw_a_child_on_the_network_has_seen_its_ancestors_whatever_else_it_says_of_them() -> None:
    """Refused by itself, an ancestor would take its child out of its contexts, which the network has."""
    record = Record("beef.broadcast", 0, 0, CHILD.txid, BROADCAST_REQUEST.encode(REQUEST))
    stage = Broadcast(BroadcastSettings(), HttpSettings())
    no = Reply(PARENT.txid, "refused", "network.rejected", "no", "REJECTED", network=True)
    replies = {CHILD.txid: [("arc@a", FINAL), ("arc@b", TAKEN)], PARENT.txid: [("arc@a", no), ("arc@b", no)]}
    outcome = Outcome(REQUEST, Success(((CHILD.txid, "arc@b"),)), replies, ("arc@a", "arc@b"))
    parent = news(stage.decide(record, Answered({id(record): outcome}), NOW_MS))[PARENT.txid]
    assert [(word.endpoint, word.kind, word.network) for word in parent.words] == [
        ("arc@a", "refused", True), ("arc@b", "accepted", True),
    ]  # fmt: skip
    assert (parent.stands, parent.handed, parent.ef) == (True, False, unmined(PARENT).ef)


class Standings:
    """Two endpoints, one of which is left alone, and says what it asks for."""

    def standings(self) -> list[Standing]:
        policy = Published(0, 0, 50, 1000)
        return [
            Standing("arc@up", 0, "closed", "", True, None, None, ""),
            Standing("arc@away", 0, "open", "HTTP 500", True, policy, 1.0, ""),
        ]


async def test_how_endpoints_stand_and_what_they_say_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Broadcast(BroadcastSettings(), HttpSettings())
    monkeypatch.setattr(stage, "_endpoints", Standings())
    task = asyncio.ensure_future(stage.beside())
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    value = metrics.REGISTRY.get_sample_value
    up = [value("beefline_endpoint_up", {"stage": "broadcast", "endpoint": f"arc@{n}"}) for n in ("up", "away")]
    assert up == [1, 0]
    labels = {"stage": "broadcast", "endpoint": "arc@away"}
    assert value("beefline_endpoint_fee_satoshis_per_kilobyte", labels) == 50
    for reply in (TAKEN, TAKEN, FINAL):
        stage._count("arc@up", reply)
    said = {"stage": "broadcast", "endpoint": "arc@up", "kind": "accepted", "code": ""}
    assert value("beefline_endpoint_words_total", said) == 2
    assert value("beefline_endpoint_words_total", {**said, "kind": "refused", "code": "network.fee"}) == 1


# --- retry


@pytest.mark.parametrize("topic", ["results", "dead-letters", "retry.10s", "journal", "state", "nowhere", ""])
def test_a_waiting_record_returns_only_where_stages_wait(topic: str) -> None:
    """Nobody else's topic is written to, whatever the headers say."""
    kept = h.RetryHeaders(
        origin_topic=topic, origin_partition=0, origin_offset=0, attempt=1, first_failed=1, not_before=5, code="x.y"
    )
    record = Record("beef.retry.10s", headers=h.to_pairs(kept))
    decision = retry_stage().decide(record, NOTHING_READ, NOW_MS)
    assert isinstance(decision, Fault)
    assert decision.code == "internal.undecodable"


def test_a_record_that_does_not_say_when_returns_at_once() -> None:
    assert retry_stage().due(Record("beef.retry.10s")) == 0
    assert isinstance(retry_stage().decide(Record("beef.retry.10s"), NOTHING_READ, NOW_MS), Fault)
    assert retry_stage().about(Record()) is None


def test_what_stands_in_a_tier_when_an_operator_says_so_is_due() -> None:
    """What comes later waits for its time, and so do other tiers."""
    stage, woken = retry_stage(), []
    stage.wake_by(lambda: woken.append(1))
    kept = h.RetryHeaders(
        origin_topic="parsed", origin_partition=0, origin_offset=0, attempt=1, first_failed=1, not_before=NOW_MS * 2,
        code="anchor.above-tip",
    )  # fmt: skip
    here, later, elsewhere = (
        Record(f"p.retry.{tier}", headers=h.to_pairs(kept), timestamp=time_ms)
        for tier, time_ms in (("1m", NOW_MS), ("1m", NOW_MS + 1), ("10m", NOW_MS))
    )
    assert {stage.due(each) for each in (here, later, elsewhere)} == {NOW_MS * 2}
    stage.hurry(["1m"], NOW_MS)
    assert [stage.due(each) for each in (here, later, elsewhere)] == [0, NOW_MS * 2, NOW_MS * 2]
    assert woken == [1]
    with pytest.raises(ValueError, match="no tier '2m'"):
        stage.hurry(["2m"], NOW_MS)


def pointer_to(record: Inbound, **changes: Any) -> Record:
    """As apply writes it when a rival leaves."""
    origin = msgspec.structs.replace(parse_stage().origin(record), **changes)
    waits = h.RetryHeaders(
        origin_topic="ingest", origin_partition=origin.partition, origin_offset=origin.offset, attempt=1,
        first_failed=NOW_MS, not_before=NOW_MS, code="conflict.undecided",
    )  # fmt: skip
    return Record("beef.retry.10s", value=POINTER.encode(Pointer(origin)), headers=[POINTER.header, *h.to_pairs(waits)])


def ingested(value: bytes) -> Record:
    return Record("beef.ingest", 2, 40, b"key", value, [(h.TOPICS, b'["tm_a", "tm_b"]')], NOW_MS - 5)


async def decided_by_retry(log: Log, *records: Record) -> list[Decision]:
    """In the records' order, in whatever order they are handed over."""
    stage = retry_stage(log)
    found: dict[int, Decision] = {}
    async for some, read in stage.gather(records):
        found |= {id(record): stage.decide(record, read, NOW_MS) for record in some}
    return [found.pop(id(record)) for record in records]


async def test_a_pointer_is_what_parse_makes_of_the_payload_it_points_to() -> None:
    """Under the payload's own coordinate, and so all that follows has the ids it had; beside records that wait."""
    payload = ingested(builders.chain(2).v1())
    first = parse_stage().decide(payload, None, NOW_MS)
    assert isinstance(first, Emit)
    waits = h.RetryHeaders(
        origin_topic="operations", origin_partition=0, origin_offset=1, attempt=1, first_failed=1, not_before=5,
        code="conflict.undecided",
    )  # fmt: skip
    other = Record("beef.retry.10s", headers=h.to_pairs(waits))
    again, back = await decided_by_retry(Log(payload), pointer_to(payload), other)
    assert again == Emit(first.outs, "conflict.undecided")
    assert isinstance(back, Emit)
    assert [out.topic for out in back.outs] == [OPERATIONS]


async def test_a_pointer_to_what_is_gone_is_a_dead_letter() -> None:
    """Removed by retention, not there yet, or of a topic that was made anew."""
    payload = ingested(b"x")
    decisions = [
        *await decided_by_retry(Log(), pointer_to(payload)),
        *await decided_by_retry(Log(payload), pointer_to(payload, offset=41)),
        *await decided_by_retry(Log(payload), pointer_to(payload, offset=39)),
        *await decided_by_retry(Log(payload), pointer_to(payload, timestamp_ms=1)),
    ]
    assert [(type(each), getattr(each, "code", "")) for each in decisions] == [(Fault, "internal.payload-gone")] * 4


async def test_a_pointer_that_cannot_be_read_costs_itself_alone() -> None:
    payload = ingested(b"no payload")
    broken = pointer_to(payload)
    broken.value = b"\xc1"
    fault, refused = await decided_by_retry(Log(payload), broken, pointer_to(payload))
    assert isinstance(fault, Fault)
    assert fault.code == "internal.undecodable"
    assert isinstance(refused, Refuse)  # parse takes less than it did: its verdict stands
    assert refused.verdict.code == "malformed.magic"


class Heavy(Record, weakref=True):
    """A payload of which it is known how long it is kept."""


class Ingest(Log):
    """Has a payload of `size` bytes at every place, none of which anybody parses; and counts those that are kept."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.kept = self.most = 0

    async def ends(self) -> dict[TopicPartition, int]:
        return {TopicPartition("beef.ingest", 2): 1_000}

    async def read(self, partition: int, offset: int) -> Record:
        await asyncio.sleep(0)
        payload = Heavy("beef.ingest", partition, offset, b"key", bytes(self.size), (), NOW_MS - 5)
        weakref.finalize(payload, self._gone)
        self.kept += 1
        self.most = max(self.most, self.kept)
        return payload

    def _gone(self) -> None:
        self.kept -= 1


@pytest.mark.parametrize(("size", "together"), [(3 * IN_HAND_BYTES, 1), (IN_HAND_BYTES // 3, 4), (1_000, 50)])
async def test_a_few_payloads_are_in_hand_whatever_waits(size: int, together: int) -> None:
    """Two hundred pointers that are due at once, in batches of fifty side by side: each is dealt with."""
    ingest, producer, tracer = Ingest(size), Producer(), Tracer("retry", TraceSettings())
    desk = Desk(Board(max_in_flight=1_000, max_bytes=64 << 20), restores=False, settle_s=1)
    desk.board.assign({("beef.retry.10s", 0): (0, Suspicion())}, 1)
    router = Router("retry", "beef.", 86_400_000)
    runner = Runner(retry_stage(ingest), desk, router, tracer, batch_records=50, fault_limit=9)
    pointers = [pointer_to(ingested(b""), offset=n) for n in range(200)]
    desk.board.put(("beef.retry.10s", 0), [msgspec.structs.replace(p, offset=n) for n, p in enumerate(pointers)], 200)
    outbox = Outbox(producer, "beef.", {name: topic.partitions for name, topic in BY_NAME.items()}, 1 << 20)
    running = asyncio.ensure_future(runner.run(outbox))
    async with asyncio.timeout(20):
        while desk.board.finished_count < 200:
            await asyncio.sleep(0.001)
    running.cancel()
    tracer.close()
    assert ingest.most == together
    assert ingest.kept == 0
    results = [RESULT.decode(value) for value in producer.values("beef.results")]
    assert {each.origin.offset for each in results if each.origin is not None} == set(range(200))
    assert {each.code for each in results} == {"malformed.magic"}


async def test_a_batch_that_is_given_up_lets_others_read_payloads() -> None:
    """Written or not: what holds a payload is let go where it is left."""
    stage = retry_stage(Ingest(IN_HAND_BYTES))
    first, second = (stage.gather([pointer_to(ingested(b""), offset=n) for n in range(2)]) for _ in range(2))
    await anext(first)
    waits = asyncio.ensure_future(anext(second))
    await asyncio.sleep(0.01)
    assert not waits.done()
    await first.aclose()
    records, _ = await asyncio.wait_for(waits, 5)
    assert len(records) == 1


async def test_without_a_broker_retry_pauses() -> None:
    """No pointer is taken for one to nowhere; records that merely wait are not held up by what nobody asks."""
    log, payload = Log(ingested(b"x")), ingested(b"x")
    log.error = KafkaConnectionError("away")
    stage = retry_stage(log)
    with pytest.raises(WorldCondition, match="away"):
        await decided_by_retry(log, pointer_to(payload))
    with pytest.raises(WorldCondition):
        await stage.probe()
    (fault,) = await decided_by_retry(log, Record("beef.retry.10s"))
    assert isinstance(fault, Fault)
    gathering = stage.gather([pointer_to(payload), Record("beef.retry.10s")])
    records, _ = await anext(gathering)
    assert [record.headers for record in records] == [()]
    with pytest.raises(WorldCondition):
        await anext(gathering)
    log.error = None
    await stage.probe()
    await stage.start()
    assert log.begun == 1
    await stage.stop()
    assert log.begun == 0


def test_losers_are_pointed_to_and_who_comes_back_hears_of_it() -> None:
    world = Applying()
    point = coin_of_others(1)
    first, second = made_tx([point], 1, 1), made_tx([point], 1, 2)
    world.do(apply_of(verified(first, offset=1)))
    world.do(Accept("accept", (first.txid,), "arc@a"))
    world.do(apply_of(verified(second, offset=2)))
    gone = world.do(Evict("evict", first.txid, "network.double-spend", "lost", (second.txid,)))
    (pointer,) = outs_to(gone, RETRY_10S)
    assert POINTER.decode(pointer.value, pointer.headers).origin == origin_at(2)
    waits = h.retry_headers(pointer.headers)
    assert waits is not None
    assert (waits.origin_topic, waits.origin_partition, waits.origin_offset) == ("ingest", 0, 2)
    assert waits.not_before == waits.first_failed  # at once
    back = world.do(Readmit("readmit", first.txid))
    assert getattr(back, "code", None) == "readmit"
    (told,) = [RESULT.decode(out.value) for out in outs_to(back, RESULTS)]
    assert (told.outcome, told.txid, told.request_ids) == ("revised", display(first.txid), ("request-1",))
    assert told.admittance == Admittance((0,))
    (entry,) = [JOURNAL.decode(out.value) for out in outs_to(back, registry.JOURNAL)]
    assert (entry.kind, entry.sequence) == ("readmit", told.sequence)


# --- all of them


async def test_what_stages_make_of_strange_records_can_be_written() -> None:
    """Null key, null value, null headers: decided, routed and sent by every stage that reads them from outside."""
    record = Record("beef.ingest", 0, 0, None, None, [("a", NULL), ("traceparent", NULL), ("topics", NULL)])
    producer = Producer()
    outbox = Outbox(producer, "beef.", {name: topic.partitions for name, topic in BY_NAME.items()}, 1 << 20)
    outs = Router("parse", "beef.", 1000).outs(record, parse_stage().decide(record, None, NOW_MS), NOW_MS)
    outbox.check(outs)
    await outbox.send([(out, None) for out in outs])
    assert [out.topic for out in outs] == [RESULTS, DEAD_LETTERS]
    assert producer.values("beef.dead-letters") == [b""]


def test_stages_write_where_they_say() -> None:
    """The declarations of a stage and of its topics agree: what is checked at the start is what is used."""
    for name, outputs in (("parse", Parse.outputs), ("apply", ApplyStage.outputs), ("retry", Retry.outputs)):
        for topic in outputs:
            assert {name, "all", "anyone"} & set(topic.writers), f"{name} -> {topic.name}"
    assert RETRY_10S in ApplyStage.outputs
