"""Results: one id for one decision, however often it is made; what each outcome tells."""

from datetime import UTC, datetime, timedelta
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import results
from pipeline.outcome import Condition, Verdict
from pipeline.results import About
from schemas.external import RESULT, Admittance, Result, ResultOrigin
from schemas.flow import Asked, Origin
from schemas.types import display
from tests.profiles import CHEAP

ORIGIN = Origin("cluster", "beef.ingest", 3, 7, 1_790_000_000_000)
TXID, RIVAL, ROOT = b"\x01" * 31 + b"\x02", b"\x03" * 32, b"\x04" * 32
CONTEXT = "topic:tm_x"
NOW = 1_790_000_000_123
ABOUT = About(ORIGIN, ("r1",), TXID, CONTEXT, 2)
VERDICT = Verdict("script.false", "why", "tx 1 input 0")


@pytest.mark.invariant("RESULT-1")
def test_an_id_follows_from_the_coordinate_and_the_context() -> None:
    """Every part of the coordinate counts: a topic made again, another cluster, another record are other inputs."""
    origins = [
        ORIGIN, Origin("other", "beef.ingest", 3, 7, ORIGIN.timestamp_ms), Origin("cluster", "t.ingest", 3, 7, 0),
        Origin("cluster", "beef.ingest", 4, 7, ORIGIN.timestamp_ms), Origin("cluster", "beef.ingest", 3, 8, 0),
        Origin("cluster", "beef.ingest", 3, 7, ORIGIN.timestamp_ms + 1),
    ]  # fmt: skip
    contexts = (None, "topic:tm_x", "topic:tm_y")
    made = [
        results.decision_id(origin, context, parked=parked)
        for origin, context, parked in product(origins, contexts, (False, True))
    ]
    assert len(set(made)) == len(made) == 36
    assert made[0] == results.decision_id(Origin("cluster", "beef.ingest", 3, 7, ORIGIN.timestamp_ms), None)
    assert {len(bytes.fromhex(each)) for each in made} == {16}


@pytest.mark.invariant("RESULT-1")
def test_applied_and_rejected_share_an_id_and_parked_has_its_own() -> None:
    """A parked record that is replayed gets its decision beside `parked`, which it then replaces."""
    applied = results.applied(ABOUT, Admittance(), 4, ROOT, NOW)
    rejected = results.rejected(ABOUT, VERDICT, NOW + 1)
    parked = results.parked(ABOUT, Condition("anchor.unknown"), NOW)
    assert applied.id == rejected.id == results.decision_id(ORIGIN, CONTEXT)
    assert parked.id == results.decision_id(ORIGIN, CONTEXT, parked=True) != applied.id


@pytest.mark.invariant("RESULT-1")
def test_network_outcomes_share_the_id_of_the_txid() -> None:
    accepted = results.accepted(ABOUT, "arc@a", NOW, 1)
    refused = results.refused(ABOUT, VERDICT, "arc@b", NOW, 1, (RIVAL,))
    parked = results.parked(About(ORIGIN, ("r1",), TXID, None, 2), Condition("network.undecided"), NOW)
    elsewhere = results.accepted(About(Origin("c", "t", 0, 0, 0), (), TXID), "arc@a", NOW, 2)
    assert {each.id for each in (accepted, refused, parked, elsewhere)} == {results.network_id(TXID)}
    assert results.network_id(RIVAL) != results.network_id(TXID)
    assert min(accepted.revision, refused.revision) > parked.revision  # the answer stands in place of `parked`


def test_who_reached_no_context_is_parked_as_its_own_decision() -> None:
    """Before its contexts a request is parked under its coordinate, with or without a txid."""
    for about in (About.before_contexts(ORIGIN, "r1"), About.before_contexts(ORIGIN, "r1", TXID)):
        parked = results.parked(about, Condition("anchor.unknown"), NOW)
        assert parked.id == results.decision_id(ORIGIN, None, parked=True)


def test_an_eviction_has_an_id_of_txid_and_context() -> None:
    evicted = results.evicted(ABOUT, VERDICT, 9, ROOT, NOW)
    assert evicted.id == results.eviction_id(TXID, CONTEXT)
    names = {results.eviction_id(TXID, "topic:tm_y"), results.eviction_id(RIVAL, CONTEXT), results.network_id(TXID)}
    assert evicted.id not in names
    assert len(names) == 3


def test_what_each_outcome_tells() -> None:
    """Every field a reader may rely on, outcome by outcome; what is not named is absent."""
    admittance = Admittance((0,), (1,), (2,))
    common: dict[str, object] = {
        "request_ids": ("r1",), "txid": display(TXID), "context": CONTEXT, "contexts": 2, "revision": 0,
        "origin": ResultOrigin("beef.ingest", 3, 7), "time": "2026-09-21T14:13:20.123Z", "code": None, "message": None,
        "at": None, "admittance": None, "sequence": None, "state_root": None, "repeat": False, "competing": (),
        "endpoint": None, "block_height": None, "merge": False,
    }  # fmt: skip
    why: dict[str, object] = {"code": "script.false", "message": "why"}
    table: dict[str, tuple[Result, dict[str, object]]] = {
        "applied": (
            results.applied(ABOUT, admittance, 5, ROOT, NOW, repeat=True),
            {"revision": 5, "sequence": 5, "state_root": ROOT.hex(), "admittance": admittance, "repeat": True},
        ),
        "applied by a merge": (
            results.applied(ABOUT, admittance, 5, ROOT, NOW, merge=True),
            {"revision": 5, "sequence": 5, "state_root": ROOT.hex(), "admittance": admittance, "merge": True},
        ),
        "rejected": (
            results.rejected(ABOUT, VERDICT, NOW, revision=6, competing=(RIVAL,)),
            {**why, "at": "tx 1 input 0", "revision": 6, "competing": (display(RIVAL),)},
        ),
        "parked": (results.parked(ABOUT, VERDICT, NOW), {**why, "at": "tx 1 input 0"}),
        "accepted": (results.accepted(ABOUT, "arc@a", NOW, 3), {"revision": 3, "endpoint": "arc@a"}),
        "refused": (
            results.refused(ABOUT, VERDICT, "arc@a", NOW, 4, (RIVAL,)),
            {**why, "revision": 4, "endpoint": "arc@a", "competing": (display(RIVAL),)},
        ),
        "mined": (
            results.in_block(ABOUT, "mined", 900_007, ROOT, NOW, "arc@a", 2),
            {"revision": 2, "endpoint": "arc@a", "block_height": 900_007},
        ),
        "buried": (results.in_block(ABOUT, "buried", 900_007, ROOT, NOW, "", 0), {"block_height": 900_007}),
        "evicted": (
            results.evicted(ABOUT, VERDICT, 8, ROOT, NOW, (RIVAL,)),
            {**why, "revision": 8, "sequence": 8, "state_root": ROOT.hex(), "competing": (display(RIVAL),)},
        ),
    }
    for outcome, (result, more) in table.items():
        expected = {**common, **more, "outcome": outcome.split()[0], "id": result.id}
        assert {name: getattr(result, name) for name in Result.__struct_fields__} == expected
        assert RESULT.decode(RESULT.encode(result)) == result


def test_a_request_before_its_contexts_names_none() -> None:
    about = About.before_contexts(ORIGIN, "r1")
    result = results.rejected(about, Verdict("malformed.empty"), NOW)
    assert (result.txid, result.context, result.contexts) == (None, None, 0)
    assert (result.message, result.at) == (None, None)


def test_one_context_of_a_request_knows_how_many_there_are() -> None:
    asked = Asked(ORIGIN, "r1", ("topic:tm_x", "topic:tm_y", "topic:tm_z"))
    assert About.of(asked, TXID, "topic:tm_y") == About(ORIGIN, ("r1",), TXID, "topic:tm_y", 3)


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_700_000_000_999, "2023-11-14T22:13:20.999Z"),
        (1_709_164_800_001, "2024-02-29T00:00:00.001Z"),
    ],
)
def test_times_are_utc_with_milliseconds(ms: int, text: str) -> None:
    assert results.rfc3339(ms) == text


@CHEAP
@given(st.integers(0, 4_102_444_800_000))
def test_no_millisecond_is_lost(ms: int) -> None:
    """Until the year 2100."""
    text = results.rfc3339(ms)
    assert datetime.fromisoformat(text) - datetime(1970, 1, 1, tzinfo=UTC) == timedelta(milliseconds=ms)
