"""The benches around apply, with a handful of payloads: what they measure, and what they do without Node."""

import shutil
from pathlib import Path

import pytest

from ops import engine_bench, growth_bench
from ops.engine_bench import APPLY, NO_SPV, PARSED, SUBMIT, WHOLE, WHOLE_DISK, Report, Run, Side
from ops.growth_bench import Growth, Meter, Written
from ops.instruments.chain import Chain
from ops.instruments.submissions import CONTEXTS, Maker
from pipeline.state import APPLIED_KEY, COIN, head_key, key
from tests.conftest import CACHE, Broker
from tests.ops.audit_cluster import on_broker
from topics.registry import BROADCAST, JOURNAL, RESULTS, STATE

OURS = {APPLY, engine_bench.APPLY_DISK, PARSED, WHOLE, WHOLE_DISK}


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a bench says, in a home of its own."""
    monkeypatch.setenv("BEEFLINE_HOME", str(tmp_path))
    monkeypatch.setenv("BEEFLINE_CACHE", str(CACHE))
    return []


@pytest.mark.skipif(shutil.which("npm") is None, reason="node and npm are not installed")
def test_the_reference_engine_admits_what_we_admit(said: list[str]) -> None:
    """With and without verifying; were they to differ, nothing would be compared."""
    report = engine_bench.compare(said.append, payloads=20, rounds=1)
    if not report.engine and "network" in said[0]:
        pytest.skip("the package registry cannot be reached")
    assert {side.name for side in report.sides} == {*OURS, NO_SPV, SUBMIT}
    assert report.engine.startswith("@bsv/overlay 0.4.6, @bsv/sdk ")
    assert report.engine in engine_bench.page(report)


def test_where_node_is_not_installed_the_rest_is_measured(said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ops.node.shutil.which", lambda name: None)
    report = engine_bench.compare(said.append, payloads=20, rounds=1)
    assert "the reference engine is left out" in said[0]
    assert {side.name for side in report.sides} == OURS
    page = engine_bench.page(report)
    assert "could not be had" in page
    assert "processor time" not in page


def test_who_admits_something_else_is_not_compared() -> None:
    ways = {"one": lambda: Run(1, 2, 1.0, 1.0), "other": lambda: Run(1, 3, 1.0, 1.0)}
    with pytest.raises(RuntimeError, match=r"'one': \{2\}, 'other': \{3\}"):
        engine_bench._measure(ways, "", 1, 1, lambda _: None)


def test_the_page_names_medians_and_ratios() -> None:
    runs = [Run(100, 200, seconds, seconds / 2) for seconds in (1.0, 4.0, 2.0)]
    ours = Side.of(WHOLE_DISK, runs)
    assert ours == Side(WHOLE_DISK, 50.0, 10_000.0)
    page = engine_bench.page(Report(100, "engine 1", (ours, Side(SUBMIT, 20.0, 25_000.0))))
    assert "| parse, verify and apply, with the disk | 50 | 10,000 |" in page
    assert "Parse, verify and apply, with the disk: the engine takes **2.5** times its processor time." in page


async def test_what_was_written_is_counted_by_topic(broker: Broker, prefix: str) -> None:
    """From when the meter was started; of the changelog what stays is the newest of each entry, without heads."""
    context = CONTEXTS[0]
    one, other = (key(context, COIN, bytes([place]) * 36) for place in (1, 2))
    async with on_broker(broker, prefix) as cluster:

        async def write(name: str, partition: int, *records: tuple[bytes, bytes | None]) -> None:
            for entry_key, value in records:
                await cluster.producer.send_and_wait(
                    prefix + name, value, key=entry_key, partition=partition, headers=[("schema", b"x/1")]
                )

        await write(JOURNAL.name, 3, (b"before", b"it is measured"))
        meter = Meter(cluster.settings)
        await meter.start()
        await write(JOURNAL.name, 3, (b"key", b"value"), (b"key", b"values"))
        await write(JOURNAL.name, 4, (b"key", b"value"))
        head, applied = (head_key(context), b"h" * 50), (APPLIED_KEY, b"a" * 9)
        await write(STATE.name, 5, (one, b"1" * 10), (other, b"2" * 10), head, applied)
        await write(STATE.name, 5, (one, b"1" * 30), (other, None), head, applied)
        growth = await meter.read(2)
    found = {each.topic: each for each in growth.topics}
    header = len("schema") + len("x/1")
    assert found["journal"] == Written("journal", None, 2, 32, 3, 3 * (3 + header) + 5 + 6 + 5)
    assert (found["state"].records, found["state"].partitions) == (8, 1)
    assert (found["results"].records, found["results"].of) == (0, RESULTS.partitions)
    assert found["broadcast"].kept_h == BROADCAST.retention_h
    assert growth.compacted == len(one) + 30
    assert growth.operations == 2


def test_the_store_holds_what_an_operation_brought(said: list[str], tmp_path: Path) -> None:
    """Its tables, when all is written: a transaction, its answer and its coins; of 1,000 and of 4,000 alike."""
    maker = Maker(Chain.open(tmp_path / "chain"))
    few, many = (growth_bench.store_bytes(maker.ordinary(count)) for count in (1_008, 4_000))
    assert 500 < many < 1_200
    assert many == pytest.approx(few, rel=0.2)


def test_the_growth_page_divides_by_the_operations() -> None:
    growth = Growth(10, (Written("journal", None, 2, 32, 20, 5_000), Written("results", 168, 3, 3, 10, 100)), 700)
    page = growth_bench.page(growth, 88.4)
    assert "| `journal` | for ever | 2 of 32 | 2.00 | 500 |" in page
    assert "| `results` | 7 days | 3 of 3 | 1.00 | 10 |" in page
    assert "**70** bytes" in page
    assert "**88**" in page
