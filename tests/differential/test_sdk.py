"""Against the TypeScript SDK: every difference has a name, and every name has a difference."""

import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator

import pytest

from ops.instruments.chain import Chain
from ops.reference import ROOT
from pipeline.policy import Policy
from pipeline.verify import Valid
from tests.differential import corpus
from tests.differential.corpus import Question
from tests.differential.rules import RULES, Case, page, rules_for
from tests.differential.sdk import FILES, HERE, Sdk
from tests.pipeline.test_verify import judge
from tests.profiles import much

pytestmark = pytest.mark.skipif(shutil.which("npm") is None, reason="node and npm are not installed")

POLICIES = (Policy(), Policy(form="strict"))


@pytest.fixture(scope="module")
def sdk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sdk]:
    """The SDK of the lock file, installed aside."""
    folder = tmp_path_factory.mktemp("sdk")
    for name in FILES:
        shutil.copy(HERE / name, folder)
    installed = subprocess.run(
        ["npm", "ci", "--no-audit", "--no-fund"], cwd=folder, capture_output=True, text=True, timeout=120
    )
    if installed.returncode and "network" in installed.stderr:
        pytest.skip("the package registry cannot be reached")
    assert installed.returncode == 0, installed.stderr
    with Sdk(folder) as running:
        yield running


@pytest.fixture(scope="module")
def cases(sdk: Sdk, tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    """Everything both were asked, under both forms of ours."""
    chain = Chain.open(tmp_path_factory.mktemp("chain"))
    return [
        Case(
            f"{asked.label} ({policy.form})", asked.beef, asked.answers, asked.tip,
            judge(asked.beef, asked.answers, asked.tip, policy), theirs,
        )
        for asked in questions(chain)
        for theirs in [sdk.ask(asked.beef, asked.answers, asked.tip)]
        for policy in POLICIES
    ]  # fmt: skip


def questions(chain: Chain) -> Iterator[Question]:
    yield from corpus.of_vectors()
    yield from corpus.of_spoiled(chain)
    yield from corpus.of_special_cases()
    yield from corpus.of_families(much(184, 5_000))
    yield from corpus.of_changed_bytes(much(120, 20_000))


def told(case: Case) -> str:
    ours = "valid" if isinstance(case.ours, Valid) else f"{case.ours.code} {case.ours.at} {case.ours.message}"
    return f"{case.label}: we say {ours}; the SDK {case.theirs.error or 'takes it'}\n  {case.beef.hex()[:400]}"


def test_every_difference_has_a_rule(cases: list[Case]) -> None:
    unexplained = [told(case) for case in cases if case.differ and not rules_for(case)]
    assert not unexplained, "\n".join([f"{len(unexplained)} of {len(cases)}:", *unexplained[:20]])


def test_every_rule_explains_a_difference(cases: list[Case]) -> None:
    used = Counter(rule.name for case in cases if case.differ for rule in rules_for(case))
    print(f"{len(cases)} judgements, {sum(case.differ for case in cases)} differences: {dict(used)}")
    assert not [rule.name for rule in RULES if rule.name not in used]


def test_both_take_and_refuse_much_the_same(cases: list[Case]) -> None:
    """Without this the tests above would pass on payloads that nobody takes; changed bytes nearly nobody does."""
    cases = [case for case in cases if not case.label.startswith("changed")]
    both = [case for case in cases if isinstance(case.ours, Valid) and not case.differ]
    neither = [case for case in cases if not isinstance(case.ours, Valid) and not case.differ]
    assert len(both) > len(cases) / 10
    assert len(neither) > len(cases) / 4
    assert sum(bool(case.theirs.ef) for case in both) > len(both) / 2  # the same Extended Format, byte for byte


def test_the_page_is_made_of_the_table() -> None:
    """python -m tests.differential.rules > docs/decisions/differences.md"""
    assert (ROOT / "docs/decisions/differences.md").read_text() == page()
