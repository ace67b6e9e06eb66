"""The baskets' bench on few operations: it applies all of them, and tells what it measured."""

from pathlib import Path

import pytest

from ops import basket_bench


def test_a_short_run_fills_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEEFLINE_HOME", str(tmp_path))
    for name, value in {"OPERATIONS": 20, "ROUNDS": 1, "LISTED": 2_000, "ASKED": 2}.items():
        monkeypatch.setattr(basket_bench, name, value)
    report = basket_bench.measure(lambda _: None)
    assert [row.name for row in report.applied] == list(basket_bench.FORMS)
    assert [row.name for row in report.reads] == list(basket_bench.QUESTIONS)
    assert all(row.cpu_us > 0 for row in (*report.applied, *report.reads))
    assert basket_bench.page(report).count("\n| ") == len(basket_bench.FORMS) + len(basket_bench.QUESTIONS) + 2
    assert [path.name for path in tmp_path.iterdir()] == ["bench-chain"]
