"""The broadcaster's bench on few transactions: it sends all of them, whole, and tells what it measured."""

from pathlib import Path

import pytest

from ops import cast_bench
from schemas.flow import BROADCAST_REQUEST


def test_a_short_run_fills_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEEFLINE_HOME", str(tmp_path))
    for name, value in {
        "TRANSACTIONS": 330,
        "DELAY_MS": 1,
        "ROUNDS": 1,
        "ENDPOINTS": (1, 2),
        "FAMILIES": (1, 11),
    }.items():
        monkeypatch.setattr(cast_bench, name, value)
    rows = cast_bench.measure(lambda _: None)
    assert [(row.endpoints, row.family) for row in rows] == [(1, 1), (2, 1), (1, 11)]
    assert all(run.cpu_us > 0 and run.rate > 0 for row in rows for run in (row.stage, row.bare))
    assert cast_bench.page(rows).count("\n| ") == 4
    assert list(tmp_path.iterdir()) == []


def test_each_transaction_stands_in_one_request() -> None:
    made = cast_bench.transactions()[:100]
    for family in (1, 4, 11):
        found = [BROADCAST_REQUEST.decode(record.value) for record in cast_bench.requests(made, family)]
        txids = [member.txid for request in found for member in request.unmined]
        assert txids == [each.txid for each in made[: len(txids)]]
        assert {len(request.unmined) for request in found} == {family}
