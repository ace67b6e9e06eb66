"""What a context holds, as those who ask are told."""

import tracemalloc

import pytest

from pipeline import read, state
from pipeline.codec.tx import Tx, read_tx
from pipeline.prepare import whole
from pipeline.state import Memory, head_of
from schemas.external import Admittance, LiveOutput, Outputs
from schemas.flow import Accept, Decide, Evict, Part, Prepare
from schemas.types import display, outpoint
from tests import builders
from tests.fakes import Owner, apply_of, coin_of_others, made_tx, verified

ALL, KEEP = "topic:tm_all", "topic:tm_keep"


def shown(point: bytes) -> str:
    return f"{display(point[:32])}.{int.from_bytes(point[32:], 'little')}"


@pytest.mark.invariant("READ-1")
def test_a_context_is_told_with_its_sequence_and_roots() -> None:
    owner = Owner()
    nothing = read.context_state(owner.store, ALL)
    assert (nothing.sequence, nothing.settling) == (0, False)
    owner.do(ALL, apply_of(verified(made_tx([coin_of_others(1)], 2, 1))))
    told, head = read.context_state(owner.store, ALL), head_of(owner.store, ALL)
    assert (told.context, told.sequence) == (ALL, 1)
    assert (told.state_root, told.store_root) == (head.state_root.hex(), head.store_root.hex())
    assert told.state_root != nothing.state_root


def test_a_context_whose_queue_is_not_empty_is_settling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.waiting.STEPS", 2)
    owner = Owner()
    line = [made_tx([coin_of_others(1)], 1, 0)]
    for salt in range(1, 4):
        line.append(made_tx([outpoint(line[-1].txid, 0)], 1, salt))
    owner.do(ALL, apply_of(verified(line[-1], line[:-1])))
    assert not read.context_state(owner.store, ALL).settling
    owner.do(ALL, Evict("evict", line[0].txid, "network.rejected", "no"))
    assert read.context_state(owner.store, ALL).settling
    owner.settle(ALL)
    assert not read.context_state(owner.store, ALL).settling


def prepares(owner: Owner, count: int) -> list[Prepare]:
    """Operations over two contexts, which this one agrees to."""
    found = []
    for salt in range(1, count + 1):
        payload = verified(made_tx([coin_of_others(salt)], 2, salt), offset=salt, contexts=(ALL, KEEP))
        operation = whole(3, payload, [Part(ALL), Part(KEEP)])
        owner.do(ALL, operation)
        found.append(operation)
    return found


def decide(operation: Prepare) -> Decide:
    verified = operation.apply.verified
    return Decide(operation.operation, operation.attempt, True, verified.asked, verified.txid)


@pytest.mark.invariant("READ-1")
def test_a_context_names_the_operations_that_are_undecided_there() -> None:
    """Until they are decided; all answers say how many, and nothing of them is shown."""
    owner = Owner()
    first, second = prepares(owner, 2)
    told = read.context_in_full(owner.store, ALL)
    assert told.undecided == 2
    assert {(each.operation, each.txid, each.attempt) for each in told.undecided_operations} == {
        (each.operation, display(each.apply.verified.txid), 3) for each in (first, second)
    }
    page = read.outputs(owner.store, ALL, None, 10)
    assert (page.outputs, page.state.undecided, page.state.undecided_operations) == ((), 2, ())
    assert read.context_in_full(owner.store, KEEP).undecided == 0
    owner.do(ALL, decide(first))
    (left,) = read.context_in_full(owner.store, ALL).undecided_operations
    assert left.operation == second.operation
    owner.do(ALL, decide(second))
    told = read.context_in_full(owner.store, ALL)
    assert (told.undecided, told.undecided_operations) == (0, ())


def test_so_many_undecided_operations_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred; fewer where their payloads are large."""
    owner = Owner()
    prepares(owner, 103)
    told = read.context_in_full(owner.store, ALL)
    assert (told.undecided, len(told.undecided_operations)) == (103, 100)
    name = bytes.fromhex(told.undecided_operations[0].operation)
    one = len(owner.store.entries[state.key(ALL, state.PREPARED, name)])  # with its hash, which does not count
    monkeypatch.setattr("pipeline.read.PAGE_BYTES", 2 * one)
    told = read.context_in_full(owner.store, ALL)
    assert (told.undecided, len(told.undecided_operations)) == (103, 3)


class Counted(Memory):
    """Counts what is read."""

    reads = 0

    def get(self, key: bytes) -> bytes | None:
        self.reads += 1
        return super().get(key)


def test_where_nothing_is_undecided_names_cost_nothing() -> None:
    store = Counted()
    read.context_state(store, ALL)
    bare, store.reads = store.reads, 0
    read.context_in_full(store, ALL)
    assert store.reads == bare


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
def test_pages_hold_every_live_output_once(limit: int) -> None:
    """In one order, whatever the page's size; another context's are not among them."""
    owner = Owner()
    parents = [made_tx([coin_of_others(salt)], 3, salt) for salt in range(1, 4)]
    for number, tx in enumerate(parents):
        owner.do(ALL, apply_of(verified(tx, offset=number)))
        owner.do(KEEP, apply_of(verified(tx, offset=number)))
    child = made_tx([outpoint(parents[0].txid, 1)], 1, 9)
    owner.do(ALL, apply_of(verified(child, [parents[0]], offset=9)))
    expected = {
        shown(outpoint(tx.txid, vout)): (tx.satoshis(vout), tx.locking(vout).hex())
        for tx in (*parents, child)
        for vout in range(len(tx.outs) - 1)
        if (tx.txid, vout) != (parents[0].txid, 1)
    }
    found: list[LiveOutput] = []
    after: str | None = None
    while True:
        page = read.outputs(owner.store, ALL, read.read_outpoint(after) if after else None, limit)
        assert page.state == read.context_state(owner.store, ALL)
        assert len(page.outputs) <= limit
        found += page.outputs
        if (after := page.next) is None:
            break
    assert len(found) == len(expected)
    assert {each.outpoint: (each.satoshis, each.locking_script) for each in found} == expected
    assert {each.contested_by for each in found} == {()}


def test_a_page_that_ends_with_the_last_output_says_so() -> None:
    owner = Owner()
    owner.do(ALL, apply_of(verified(made_tx([coin_of_others(1)], 2, 1))))
    assert read.outputs(owner.store, ALL, None, 2).next is None
    assert read.outputs(owner.store, KEEP, None, 2).outputs == ()


def large(number: int, size: int) -> Tx:
    """A transaction of three outputs and so many bytes, most of them in its input."""
    spends = [(coin_of_others(number), builders.push(bytes(size)), builders.FINAL)]
    return read_tx(builders.raw_tx(spends, [builders.Out(1_000 + vout) for vout in range(3)]))


def pages(owner: Owner, limit: int) -> list[Outputs]:
    found = [read.outputs(owner.store, ALL, None, limit)]
    while (after := found[-1].next) is not None:
        found.append(read.outputs(owner.store, ALL, read.read_outpoint(after), limit))
    return found


@pytest.mark.parametrize(("page_bytes", "limit", "expected"), [
    (1, 100, [3, 3, 3, 3, 3]),  # a transaction's outputs stand in one page
    (30_000, 100, [6, 6, 3]),
    (30_000, 4, [4, 4, 4, 3]),
    (40_000, 100, [6, 6, 3]),  # two come to that
    (41_000, 100, [9, 6]),
])  # fmt: skip
def test_a_page_ends_before_a_transaction_too_many(
    monkeypatch: pytest.MonkeyPatch, page_bytes: int, limit: int, expected: list[int]
) -> None:
    """Of five that take 20 kB each; nothing is left out, nothing told twice."""
    monkeypatch.setattr("pipeline.read.PAGE_BYTES", page_bytes)
    owner = Owner()
    for number in range(5):
        owner.do(ALL, apply_of(verified(large(number, 20_000), offset=number)))
    found = pages(owner, limit)
    assert [len(page.outputs) for page in found] == expected
    told = [output.outpoint for page in found for output in page.outputs]
    assert sorted(told) == sorted(shown(outpoint(large(n, 20_000).txid, v)) for n in range(5) for v in range(3))


def test_a_page_holds_one_transaction_at_a_time() -> None:
    """Forty of 400 kB: more than a page's bytes, and in memory no more than copies of one."""
    owner = Owner()
    for number in range(40):
        owner.do(ALL, apply_of(verified(large(number, 400_000), offset=number)))
    tracemalloc.start()
    try:
        page = read.outputs(owner.store, ALL, None, 1_000)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(page.outputs) == 3 * -(-read.PAGE_BYTES // 400_200)
    assert page.next == page.outputs[-1].outpoint
    assert most < 5 * 400_000


def test_a_contested_output_names_its_rivals() -> None:
    owner = Owner()
    parent = made_tx([coin_of_others(1)], 2, 1)
    child = made_tx([outpoint(parent.txid, 0)], 1, 2)
    rival = b"\x07" * 32
    owner.do(ALL, apply_of(verified(parent)))
    owner.do(ALL, apply_of(verified(child, [parent], offset=1)))
    owner.do(ALL, Evict("evict", child.txid, "network.double-spend", "no", (rival,)))
    marked = {each.outpoint: each.contested_by for each in read.outputs(owner.store, ALL, None, 9).outputs}
    assert marked == {shown(outpoint(parent.txid, 0)): (display(rival),), shown(outpoint(parent.txid, 1)): ()}


def test_how_a_transaction_stands() -> None:
    owner = Owner()
    parent = made_tx([coin_of_others(1)], 2, 1)
    child = made_tx([outpoint(parent.txid, 0)], 1, 2)
    owner.do(KEEP, apply_of(verified(child, [parent], offset=7)))
    known = read.transaction(owner.store, KEEP, parent.txid)
    assert known is not None
    assert (known.standing, known.accepted, known.admittance) == ("known", False, None)
    owner.do(KEEP, Accept("accept", (child.txid,), "arc@a"))
    applied = read.transaction(owner.store, KEEP, child.txid)
    assert applied is not None
    assert (applied.standing, applied.accepted, applied.sequence) == ("applied", True, 1)
    assert (applied.admittance, applied.manager, applied.request_id) == (Admittance((0,)), "tm_keep/7", "request-7")
    assert applied.origin is not None
    assert applied.origin.offset == 7
    owner.do(KEEP, Evict("evict", parent.txid, "network.fee", "too little", (b"\x09" * 32,)))
    refused, departed = (read.transaction(owner.store, KEEP, tx.txid) for tx in (parent, child))
    assert refused is not None
    assert (refused.standing, refused.code, refused.message) == ("refused", "network.fee", "too little")
    assert (refused.competing, refused.admittance) == (("09" * 32,), None)
    assert departed is not None
    assert (departed.standing, departed.departed_with) == ("departed", display(parent.txid))
    assert departed.admittance == Admittance((0,))
    assert read.transaction(owner.store, KEEP, b"\x01" * 32) is None
    assert read.transaction(owner.store, ALL, child.txid) is None


def test_contexts_of_a_store_are_found_one_look_each() -> None:
    """Also where one's name begins with another's."""

    class Counting(Memory):
        looks = 0

        def keys_from(self, start: bytes):  # type: ignore[no-untyped-def]
            self.looks += 1
            return super().keys_from(start)

    owner = Owner()
    store = owner.store = Counting()
    names = [ALL, "topic:tm_keep", "topic:tm_odd"]
    for context in names:
        for salt in range(5):
            owner.do(context, apply_of(verified(made_tx([coin_of_others(salt)], 9, salt), offset=salt)))
    store.entries[state.key("topic:tm_al", state.COIN, b"x")] = state.seal(b"")
    store.looks = 0
    assert list(read.contexts(store)) == ["topic:tm_al", *names]
    assert store.looks == 5


@pytest.mark.parametrize(
    "text", ["", "00", "zz.1", "00" * 32, "00" * 32 + ".x", "00" * 32 + ".-1", "00" * 32 + ".4294967296"]
)
def test_what_is_no_outpoint_is_said(text: str) -> None:
    with pytest.raises(ValueError, match=r"outpoint|hexadecimal|non-hex"):
        read.read_outpoint(text)


def test_an_outpoint_is_read_as_it_is_shown() -> None:
    point = outpoint(bytes(range(32)), 4_294_967_295)
    assert read.read_outpoint(shown(point)) == point
