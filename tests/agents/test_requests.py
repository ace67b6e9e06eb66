"""From a record of `requests` to an answer, stage by stage, without a broker; and leases that end by themselves."""

import asyncio
import json
import time
from typing import Any

import pytest

from agents.apply import ApplySettings, ApplyStage
from agents.parse import Parse, ParseSettings
from agents.runtime.leases import Leases
from agents.runtime.partition import Decided, Heads
from agents.runtime.records import Decision, Emit, Out, SetAside
from agents.runtime.shelf import Readable
from pipeline import baskets, state
from pipeline.policy import Policy
from pipeline.reserved import next_end
from pipeline.state import Corrupt, Layer, Memory, encode, head_key, head_of
from schemas import headers as h
from schemas.flow import OPERATION, Apply, Expire, Operation, Origin, Release, Request, Reserve
from schemas.journal import JOURNAL as ENTRY
from schemas.reservations import OWNER_ANSWER, OwnerAnswer, Reservation
from schemas.types import outpoint
from tests.fakes import NOW_MS, Record, apply_of, verified
from tests.pipeline.test_baskets import CONTEXT, OWNER_KEY, asked, insertion, paying, read
from topics.registry import ANSWERS, JOURNAL, OPERATIONS, RESULTS, Topic

OWNER = OWNER_KEY.hex()


def parse_stage() -> Parse:
    return Parse(ParseSettings(), Policy(), "cluster")


def request(**more: Any) -> Record:
    value = {"id": "one", "owner": OWNER, "operation": "reserve", "basket": "coins", "count": 1, "lease_s": 5} | more
    return Record("beef.requests", 2, 9, OWNER.encode(), json.dumps(value).encode())


def outs_to(decision: Decision, topic: Topic) -> list[Out]:
    return [out for out in decision.outs if out.topic is topic]


def answer(decision: Decision) -> OwnerAnswer:
    (out,) = outs_to(decision, ANSWERS)
    return OWNER_ANSWER.decode(out.value)


def test_a_request_becomes_an_operation_of_its_owner() -> None:
    decision = parse_stage().decide(request(owner=OWNER.upper()), None, NOW_MS)
    assert isinstance(decision, Emit)
    (out,) = decision.outs
    origin = Origin("cluster", "beef.requests", 2, 9, NOW_MS)
    expected = Request(f"request {origin.text()}", origin, "one", Reserve((), "coins", (), 1, "", 5_000))
    assert (out.topic, out.key) == (OPERATIONS, CONTEXT.encode())
    assert OPERATION.decode(out.value) == expected


@pytest.mark.parametrize("value", [None, b"", b"\xff", b"{}"])
def test_what_is_no_request_is_answered_and_kept(value: bytes | None) -> None:
    stage = parse_stage()
    record = Record("beef.requests", 2, 9, b"key", value)
    decision = stage.decide(record, None, NOW_MS)
    assert isinstance(decision, SetAside)
    assert decision.verdict.code == "malformed.request"
    (out,) = decision.outs
    assert (out.topic, out.key) == (ANSWERS, b"beef.requests/2/9")
    told = answer(decision)
    assert (told.outcome, told.code, told.request_id, told.owner) == ("refused", "malformed.request", None, None)
    assert told.origin is not None
    assert (told.origin.partition, told.origin.offset) == (2, 9)
    assert stage.about(record) is None  # results are of payloads


def test_who_asks_wrongly_hears_it_under_his_id() -> None:
    decision = parse_stage().decide(request(count=0), None, NOW_MS)
    told = answer(decision)
    assert (told.request_id, told.owner, told.code) == ("one", OWNER, "malformed.request")
    assert outs_to(decision, ANSWERS)[0].key == b"one"
    again = answer(parse_stage().decide(request(count=0), None, NOW_MS + 5))
    assert again.id == told.id


def test_a_request_in_a_batch_that_cannot_be_unpacked_is_said_so() -> None:
    record = Record("beef.requests", 2, 9, None, None, [(h.UNREADABLE, b"zstd: no")])
    decision = parse_stage().decide(record, None, NOW_MS)
    assert isinstance(decision, SetAside)
    assert (decision.verdict.code, decision.verdict.message) == ("malformed.compression", "zstd: no")


# --- in apply


class Applying:
    """An apply stage over a store in memory; one owner with two outputs in a basket."""

    def __init__(self) -> None:
        self.stage = ApplyStage(ApplySettings(topics=()))
        self.store = Memory()
        self.offset = -1
        self.now_ms = NOW_MS
        self.stock = paying(b"\x51", b"\x52")
        instruction = read(asked(insertion(0), insertion(1)))
        payload = apply_of(verified(self.stock, offset=1, contexts=(CONTEXT,)))
        self.do(Apply(payload.id, payload.verified, None, baskets.encode(instruction)))

    def decided(self, operation: Operation) -> Decided:
        self.offset += 1
        record = Record("beef.operations", 17, self.offset, CONTEXT.encode(), OPERATION.encode(operation))
        layer = Layer(self.store)
        decided = self.stage.compute(record, layer, Heads(layer), self.now_ms)
        for key, live in decided.heads.items():
            layer.put(key, encode(live.stored()))
        self.store.write(layer.writes)
        return decided

    def do(self, operation: Operation) -> Decision:
        return self.decided(operation).decision

    def ask(self, name: str, what: Reserve | Release, offset: int) -> Decision:
        origin = Origin("cluster", "beef.requests", 0, offset, self.now_ms)
        return self.do(Request(f"request {origin.text()}", origin, name, what))

    def reserve(self, name: str, count: int = 1, offset: int = 0) -> Decision:
        return self.ask(name, Reserve((), "coins", (), count, "till", 5_000), offset)


def kinds(decision: Decision) -> list[str]:
    assert all(out.partition == 17 for out in outs_to(decision, JOURNAL))
    return [ENTRY.decode(out.value).kind for out in outs_to(decision, JOURNAL)]


def test_a_reservation_is_journaled_and_answered() -> None:
    world = Applying()
    decision = world.reserve("one")
    assert isinstance(decision, Emit)
    assert (decision.code, kinds(decision), outs_to(decision, RESULTS)) == ("reserved", ["reserve"], [])
    told = answer(decision)
    assert (told.request_id, told.owner, told.outcome, told.reservation) == ("one", OWNER, "reserved", "one")
    assert (told.token, told.sequence, told.holder, told.repeat) == (2, 2, "till", False)
    assert told.state_root == head_of(world.store, CONTEXT).state_root.hex()
    assert len(told.outputs) == 1
    (out,) = outs_to(decision, ANSWERS)
    assert out.key == b"one"


@pytest.mark.invariant("RESERVE-2")
def test_a_repeat_is_answered_and_not_journaled() -> None:
    world = Applying()
    first, same, other = (world.reserve("one", offset=offset) for offset in (3, 3, 4))
    assert kinds(same) == kinds(other) == []
    assert [answer(each).repeat for each in (first, same, other)] == [False, False, True]
    assert answer(same).id == answer(first).id != answer(other).id
    assert answer(same).outputs == answer(other).outputs == answer(first).outputs
    assert [each.code for each in (first, same, other) if isinstance(each, Emit)] == ["reserved", "reserved", "repeat"]


def test_a_refusal_is_an_answer_and_no_dead_letter() -> None:
    world = Applying()
    decision = world.reserve("one", 3)
    assert isinstance(decision, Emit)
    assert (decision.code, kinds(decision)) == ("refused", ["dismiss"])
    assert (answer(decision).code, answer(decision).message) == ("conflict.too-few", "2 of 3 are free")


@pytest.mark.invariant("RESERVE-2")
def test_a_holder_hears_that_his_lease_ended_before_whatever_came() -> None:
    world = Applying()
    told = answer(world.reserve("one", 2))
    world.now_ms += 5_000
    decided = world.decided(Request("x", Origin("c", "t", 0, 9, world.now_ms), "two", Release("one", told.token or 0)))
    assert kinds(decided.decision) == ["expire", "dismiss"]
    ended, refused = (OWNER_ANSWER.decode(out.value) for out in outs_to(decided.decision, ANSWERS))
    assert (ended.request_id, ended.outcome, ended.token) == ("one", "expired", told.token)
    assert (ended.outputs, ended.sequence) == (told.outputs, 3)
    assert (refused.request_id, refused.code) == ("two", "conflict.reservation-lost")
    assert decided.heads[head_key(CONTEXT)].sequence == 4


def test_leases_end_before_what_is_refused_too() -> None:
    """A head moves with what ended, whatever becomes of the operation itself."""
    world = Applying()
    world.reserve("one")
    world.now_ms += 5_000
    spender = paying(b"\x53", spends=[outpoint(world.stock.txid, 0)], salt=1)
    payload = apply_of(verified(spender, offset=7, contexts=(CONTEXT,)))
    instruction = read(asked(reservations=[{"id": "one", "token": 2}]))
    decided = world.decided(Apply(payload.id, payload.verified, None, baskets.encode(instruction)))
    assert decided.decision.verdict.code == "conflict.reservation-lost"  # type: ignore[union-attr]
    assert kinds(decided.decision) == ["expire"]
    assert decided.heads[head_key(CONTEXT)].sequence == 3
    assert kinds(world.do(Expire("expire"))) == []


def test_who_spends_hears_of_his_reservation() -> None:
    world = Applying()
    token = answer(world.reserve("one", 2)).token
    spender = paying(b"\x53", spends=[outpoint(world.stock.txid, 0)], salt=1)
    payload = apply_of(verified(spender, offset=7, contexts=(CONTEXT,)))
    instruction = read(asked(reservations=[{"id": "one", "token": token}]))
    decision = world.do(Apply(payload.id, payload.verified, None, baskets.encode(instruction)))
    assert kinds(decision) == ["apply", "consume"]
    told = answer(decision)
    assert (told.outcome, told.txid) == ("consumed", spender.txid[::-1].hex())
    assert len(told.outputs) == 1


# --- leases end by themselves


class Sent:
    """What is written to `operations`."""

    def __init__(self) -> None:
        self.outs: list[Out] = []

    async def send(self, outs: list[tuple[Out, bytes | None]]) -> None:
        self.outs += [out for out, _ in outs]


def stored(context: str, ends_ms: int) -> dict[bytes, bytes]:
    """What a store holds of a lease."""
    layer = Layer(Memory())
    layer.put(head_key(context), b"")
    layer.put(state.key(context, state.LEASE, ends_ms.to_bytes(8, "big") + b"one"), b"")
    layer.put(state.key(context, state.RESERVATION, b"one"), encode(Reservation(1, "", 0, ends_ms, b"")))
    return {key: value for key, value in layer.writes.items() if value is not None}


class Running:
    """Leases over one store, as the stage runs them."""

    def __init__(self, store: Memory, *, owner: bool = True) -> None:
        self.leases = Leases()
        self.store = store
        self.stores = {5: Readable(store, 1, owner)}  # type: ignore[arg-type]
        self.sent = Sent()
        self.spoiled: list[int] = []

    async def __aenter__(self) -> "Running":
        spoil = lambda number, _: self.spoiled.append(number)  # noqa: E731 - a line
        self._task = asyncio.ensure_future(self.leases.run(self.stores, spoil, self.sent))  # type: ignore[arg-type]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def until(self, count: int) -> list[Out]:
        async with asyncio.timeout(10):
            while len(self.sent.outs) < count:
                await asyncio.sleep(0.01)
        return self.sent.outs


def soon() -> int:
    return int(time.time() * 1000) + 50


@pytest.mark.invariant("RESERVE-2")
async def test_contexts_whose_leases_are_over_are_asked_to_look() -> None:
    """Those that stand in a store that has come, and no others; again, as long as they stand."""
    ends_ms, others = soon(), f"owner:02{'11' * 32}"
    store = Memory(stored(CONTEXT, ends_ms) | stored(others, ends_ms + 3_600_000))
    async with Running(store) as running:
        (out,) = await running.until(1)
        assert (out.topic, out.key) == (OPERATIONS, CONTEXT.encode())
        assert OPERATION.decode(out.value) == Expire(f"expire {ends_ms}")
        assert time.time() * 1000 >= ends_ms
        assert len(await running.until(2)) == 2
        store.entries = stored(others, ends_ms + 3_600_000)
        await asyncio.sleep(2.2)
        assert len(running.sent.outs) == 2


async def test_what_a_batch_notes_is_looked_at_when_it_is_over() -> None:
    """Once it is committed, however late that is."""
    store = Memory()
    async with Running(store) as running:
        await asyncio.sleep(0.05)
        ends_ms = soon()
        running.leases.due(5, CONTEXT, ends_ms + 3_600_000)
        running.leases.due(5, CONTEXT, ends_ms)
        await asyncio.sleep(0.2)
        assert running.sent.outs == []
        store.write(dict(stored(CONTEXT, ends_ms)))
        assert len(await running.until(1)) == 1


async def test_copies_and_what_was_given_back_are_others_business() -> None:
    store = Memory(stored(CONTEXT, soon()))
    async with Running(store, owner=False) as running:
        running.leases.due(5, CONTEXT, soon())
        await asyncio.sleep(0.3)
        assert running.sent.outs == []
    async with Running(Memory(stored(CONTEXT, soon()))) as running:
        await asyncio.sleep(0)
        running.leases.forget(5)
        del running.stores[5]
        await asyncio.sleep(0.3)
        assert running.sent.outs == []


async def test_a_store_that_is_not_what_was_written_is_made_again() -> None:
    class Spoiled(Memory):
        def keys_from(self, start: bytes) -> Any:
            raise Corrupt("spoiled")

    async with Running(Spoiled()) as running:
        async with asyncio.timeout(5):
            while not running.spoiled:
                await asyncio.sleep(0.01)
        assert running.spoiled == [5]


def test_when_the_next_lease_ends_is_found_among_other_entries() -> None:
    store = Memory(stored(CONTEXT, 7) | stored(f"owner:02{'00' * 32}", 3))
    assert next_end(store, CONTEXT) == 7
    assert next_end(store, f"owner:03{'00' * 32}") is None
