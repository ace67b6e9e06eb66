"""The package `beefline`: what it offers, and what it does not load."""

import subprocess
import sys

import msgspec
import pytest

import beefline
from beefline import outcomes
from schemas import external

HEAVY = ("aiokafka", "faust", "agents", "ops", "pipeline", "schemas", "topics", "_bsv_native")


def loaded_by(statement: str) -> set[str]:
    """Top-level modules that a statement brings into a fresh interpreter."""
    code = f"import sys\n{statement}\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize("name", beefline.__all__)
def test_every_name_it_offers_is_there(name: str) -> None:
    assert getattr(beefline, name).__name__ == name
    assert name in dir(beefline)


def test_a_name_it_does_not_offer_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="beefline offers no 'Stage'"):
        beefline.Stage  # noqa: B018


def test_importing_it_loads_nothing() -> None:
    assert not loaded_by("import beefline").intersection(HEAVY)


def test_an_application_loads_nothing_of_the_pipeline() -> None:
    assert loaded_by("from beefline import Client, read_payloads").intersection(HEAVY) == {"aiokafka"}


def test_a_topic_manager_loads_no_kafka_client() -> None:
    assert loaded_by("from beefline import Admittance, Output, Subject, TopicManager").isdisjoint(
        {"aiokafka", "faust", "agents", "ops", "topics"}
    )


@pytest.mark.parametrize(
    ("ours", "theirs"), [(outcomes.Result, external.Result), (outcomes.Admittance, external.Admittance)]
)
def test_the_client_reads_results_as_the_pipeline_writes_them(
    ours: type[msgspec.Struct], theirs: type[msgspec.Struct]
) -> None:
    """The client cannot import the schema, so it has its own: with the same fields and the same defaults."""
    assert ours.__struct_fields__ == theirs.__struct_fields__
    assert ours.__struct_defaults__ == theirs.__struct_defaults__


def test_a_result_comes_through_the_client_as_it_was_written() -> None:
    written = external.Result(
        id="ab" * 16, revision=3, request_ids=("r",), txid="cd" * 32, context="topic:tm_x", contexts=1,
        outcome="applied", admittance=external.Admittance((0, 2), (1,), (0,)), sequence=3, state_root="ef" * 32,
        competing=("01" * 32,), origin=external.ResultOrigin("beef.ingest", 1, 2), time="2026-11-22T12:00:00.000Z",
    )  # fmt: skip
    read = msgspec.json.decode(external.RESULT.encode(written), type=outcomes.Result)
    assert msgspec.to_builtins(read) == msgspec.to_builtins(written)
    assert external.RESULT.tag == outcomes.SCHEMA
