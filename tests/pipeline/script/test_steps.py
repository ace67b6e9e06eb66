"""The count of steps against the processor: no work costs many times what it counts for."""

import pytest

from tests.steps import Work, cost, works

WORKS = {work.name: work for work in works()}
# One of each kind that copies, converts, hashes or goes through something long; all of them: `python -m tests.steps`.
KINDS = [
    "push of 520 bytes", "IF, ever deeper", "1ADD, again and again", "1 MUL, again and again",
    "9 9 WITHIN, again and again", "RIPEMD160, again and again", "0 0 0 CHECKMULTISIG, again and again",
    "ROLL of 100000", "ADD of 511 bytes", "MUL of 100 by 100 bytes", "MUL of 100000 by 100000 bytes",
    "MUL of 10000000 by 10 bytes", "DIV of 100 by 50 bytes", "DIV of 20000 by 10000 bytes",
    "MOD of 10000000 by 10 bytes", "IFDUP of 10000000 zeros", "IF of 10000000 zeros",
    "BIN2NUM of 10000000 zeros", "NUM2BIN to 10000000 bytes", "CAT to 10000000 bytes",
    "INVERT of 10000000 bytes", "AND of 10000000 bytes", "LSHIFT of 10000000 bytes",
    "RSHIFTNUM of 10000000 bytes", "LSHIFTNUM to 10000000 bytes", "RIPEMD160 of 10000000 bytes",
    "SHA256 of 10000000 bytes", "CHECKMULTISIG, 1 of 1000",
    *(name for name in WORKS if "CHECKSIG" in name or "template" in name),
]  # fmt: skip
MANY_TIMES = 12


@pytest.fixture(scope="module")
def step_s() -> float:
    """Seconds of the plainest step: an OP_NOP."""
    seconds, steps = cost(WORKS["NOP"])
    return seconds / steps


@pytest.mark.parametrize("work", [WORKS[name] for name in KINDS], ids=lambda work: work.name)
def test_no_work_costs_many_times_its_count(work: Work, step_s: float) -> None:
    """A step is some 0.5 us for a NOP, 1 us on the average; what was miscounted cost 10 to 10,000."""
    seconds, steps = cost(work, enough_s=0.02)
    assert seconds / steps < MANY_TIMES * step_s
