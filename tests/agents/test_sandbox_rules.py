"""The table of script rules, by a real child: the whole table in one, each case a payload of its own."""

import asyncio

import pytest

from agents.runtime.sandbox import Sandbox, SandboxSettings
from pipeline.policy import Policy
from tests.script_rules import Case, cases

CASES = list(cases())


@pytest.fixture(scope="module")
def answers() -> dict[str, str]:
    """What a child says of each case, by the case's name."""
    return asyncio.run(_ask())


async def _ask() -> dict[str, str]:
    sandbox = Sandbox(Policy(), SandboxSettings(processes=1))
    await sandbox.start()
    try:
        return {str(case): (await sandbox.run([case.job()], case.budget_ms))[0].code for case in CASES}
    finally:
        await sandbox.stop()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_child(case: Case, answers: dict[str, str]) -> None:
    assert answers[str(case)] == case.code, case.source


def test_cases_have_names_of_their_own() -> None:
    assert len({str(case) for case in CASES}) == len(CASES)
