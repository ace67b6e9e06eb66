"""The rule, and the contract that every topic manager keeps. Neither Kafka nor a chain is needed."""

from pathlib import Path

import pytest
from beefline_example import CARRIER, Example

from beefline.testing import RULES, Case, Output, Spend, ask, check

MARKED = Output(0, CARRIER + b"\x02hi")
OTHER = Output(1000, b"\x51")

CASES = [
    Case("marked and not", (OTHER, MARKED, OTHER, MARKED)),
    Case("not marked", (OTHER,)),
    Case("a coin of the topic is spent", (MARKED,), (Spend(MARKED, coin=True), Spend())),
    Case.of("the example", bytes.fromhex(Path(__file__).with_name("example.beef").read_text())),
]


@pytest.mark.parametrize("rule", RULES)
def test_it_keeps_the_contract(rule: str) -> None:
    check(rule, "beefline_example:Example", CASES)


@pytest.mark.parametrize(("case", "admitted"), zip(CASES, [(1, 3), (), (0,), (0,)], strict=True))
def test_what_is_marked_is_admitted(case: Case, admitted: tuple[int, ...]) -> None:
    answer = ask(Example(), case)
    assert (answer.outputs_to_admit, answer.coins_to_retain) == (admitted, ())
