"""Ready-made operations: what they are about, and what must come of them."""

from collections import Counter
from collections.abc import Sequence
from itertools import islice

from agents.apply import ApplySettings, ApplyStage
from ops.apply_chaos.exactly_once import HELD, HOSTED, TOPIC_NAMES
from ops.instruments.expected import Expected, Trace, differences, trace
from ops.instruments.operations import MINED, funding, made, operations, payload
from ops.journal import named
from pipeline import listing, member, state
from pipeline.codec.tx import read_tx
from schemas.flow import OPERATION, Apply
from schemas.journal import JOURNAL as SCHEMA
from schemas.types import Context
from tests.fakes import Record
from topics.registry import DEAD_LETTERS, JOURNAL, RESULTS

CONTEXTS = [f"topic:{topic}" for topic in TOPIC_NAMES[:4]]
OWNERS = [context for context in HELD if context.startswith("owner:")]


def expected(count: int, seed: int, contexts: Sequence[Context] = CONTEXTS) -> Expected:
    """Of so many operations, all in one partition."""
    found = Expected(ApplyStage(ApplySettings(topics=HOSTED)), "beef.", 60)
    for offset, (context, operation) in enumerate(islice(operations(contexts, seed), count)):
        value = OPERATION.encode(operation)
        found.take(Record("beef.operations", 3, offset, context.encode(), value, [OPERATION.header]))
    return found


def test_the_same_seed_gives_the_same_operations() -> None:
    first, second, other = (list(islice(operations(CONTEXTS, seed), 200)) for seed in (1, 1, 2))
    assert first == second
    coordinates = [
        {operation.verified.asked.origin for _, operation in some if isinstance(operation, Apply)}
        for some in (first, other)
    ]
    assert not coordinates[0] & coordinates[1]


def test_a_context_is_asked_for_everything_it_can_do() -> None:
    """And decides in every way."""
    found = expected(2_000, 5)
    assert {what for what, count in found.operations.items() if count > 5} >= {
        "ok:applied", "ok:repeat", "ok:accept", "ok:evict", "ok:readmit", "condition:conflict.undecided",
        "verdict:conflict.double-spend", "verdict:conflict.evicted", "verdict:conflict.already-applied",
    }  # fmt: skip
    kinds = Counter(each.what.split()[2] for each in found.traces if each.topic == JOURNAL.name)
    assert kinds.keys() >= {"apply", "rejudge", "accept", "evict", "readmit", "dismiss"}
    assert found.traces.total() > 4_000


def test_an_owner_is_asked_for_everything_it_can_do() -> None:
    """What enters its baskets leaves them, comes back, moves, and is relinquished."""
    found = expected(2_000, 5, OWNERS)
    assert {what for what, count in found.operations.items() if count > 5} >= {
        "ok:applied", "ok:repeat", "ok:accept", "ok:evict", "ok:readmit", "condition:conflict.undecided",
        "verdict:conflict.double-spend", "verdict:conflict.evicted",
    }  # fmt: skip
    assert found.operations["verdict:admission.change"]
    kinds = Counter(each.what.split()[2] for each in found.traces if each.topic == JOURNAL.name)
    assert kinds.keys() >= {"apply", "merge", "rejudge", "accept", "evict", "readmit", "dismiss"}
    held = Counter(state.kind_of(key) for key, _ in found.entries() if b"\0" in key[1:])
    for kind in (state.PLACED, state.LISTED, state.RELINQUISHED, state.TALLY):
        assert held[kind[0]] > 3, kind
    tallies = [key for key, _ in found.entries() if b"\0" in key[1:] and state.kind_of(key) == state.TALLY[0]]
    groups = [listing.group_in(key[key.index(b"\0") + 2 :]) for key in tallies]
    assert {of.field for of in groups} == {None, 0, 1}
    assert {name for name, _ in map(named, (key for key, _ in found.entries() if b"\0" in key[1:]))} >= {
        "placed", "listed", "relinquished", "tally",
    }  # fmt: skip


def test_a_payload_holds_what_its_unmined_transactions_spend() -> None:
    """Down to those that are mined by then; bytes at the places that are named."""
    line = [funding(1)]
    for number in range(3 * MINED):
        line.append(made(number, [(line[-1], 0)]))
        beef, members = payload(line[-1])
        assert [one.txid for one in members] == [each.txid for each in line[-len(members) :]]
        assert len(members) <= MINED + 1
        for one in members:
            assert read_tx(member.raw(beef, one)).txid == one.txid
            assert all(member.sources(beef, one))
    assert len(members) > 1


def test_what_two_runs_have_alike_does_not_depend_on_the_time() -> None:
    entry = SCHEMA.decode(_entry())
    later = SCHEMA.encode(type(entry)(**{**{f: getattr(entry, f) for f in entry.__struct_fields__}, "time_ms": 9}))
    assert trace(JOURNAL, b"key", _entry(), ()) == trace(JOURNAL, b"key", later, ())
    waits = [("code", b"c"), ("not-before", b"1"), ("first-failed", b"2")]
    assert trace(DEAD_LETTERS, b"k", b"v", waits) == trace(DEAD_LETTERS, b"k", b"v", waits[:1])
    assert trace(DEAD_LETTERS, b"k", b"v", waits) != trace(DEAD_LETTERS, b"k", b"v", ())
    assert trace(DEAD_LETTERS, b"k", b"v", ()) != trace(DEAD_LETTERS, b"k", b"w", ())


def _entry() -> bytes:
    from pipeline import apply as rules
    from pipeline.overlay.builtin.anytx import AnyTx
    from pipeline.state import Layer, Live, Memory

    context, operation = next(operations(CONTEXTS[:1], 1))
    assert isinstance(operation, Apply)
    managers = {TOPIC_NAMES[0]: AnyTx()}
    return rules.apply(Layer(Memory()), Live(), context, operation, managers, 1).entries[0]


def test_what_is_lost_doubled_or_strange_is_told_apart() -> None:
    one, two, three = (Trace(RESULTS.name, name, b"") for name in ("one", "two", "three"))
    assert differences(Counter([one, two, two]), Counter([one, two, two])) == ([], [], [])
    lost, doubled, strange = differences(Counter([one, two]), Counter([two, two, three]))
    assert (lost, doubled, strange) == (["results one"], ["results two"], ["results three"])
