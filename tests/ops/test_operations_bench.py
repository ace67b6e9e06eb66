"""The bench of operations over several contexts on few of them: the rules apply all, and the page tells all."""

from pathlib import Path

import pytest

from ops import operations_bench
from ops.instruments.chain import Chain
from ops.operations_bench import WIDTHS, Felt, Rate, Report


def test_a_short_run_of_the_rules_fills_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEEFLINE_HOME", str(tmp_path))
    for name, value in {"RULES": 40, "ROUNDS": 1, "LOOKS": 200}.items():
        monkeypatch.setattr(operations_bench, name, value)
    ruled = operations_bench.ruled(Chain.open(tmp_path / "bench-chain"), lambda _: None)
    assert all(us > 0 for us in (ruled.apply_us, ruled.prepare_us, ruled.commit_us, ruled.hear_us))
    # One of three rounds was disturbed, another while operations over one context ran.
    rates = {width: [Rate(1000 / width, us * width, 20.0) for us in (200.0, 200.0, 320.0)] for width in WIDTHS}
    rates[1] = [Rate(1000, us, 0.0) for us in (200.0, 320.0, 200.0)]
    felt = {width: Felt(500 / width, 100, 100, 50.0 * width, 90.0 * width) for width in WIDTHS}
    halves = {width: [each] for width, each in felt.items()}
    text = operations_bench.page(Report(ruled, rates, halves, felt, felt))
    assert "**2.00** times the CPU (single rounds: 1.25 to 3.20;" in text
    assert "**2.00** times the p99 at half load (2.00 to 2.00;" in text
    assert text.count("\n| ") == len(WIDTHS) + 4 + 2
    assert [path.name for path in tmp_path.iterdir()] == ["bench-chain"]
