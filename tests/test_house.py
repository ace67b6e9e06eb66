"""House rules: what one table promises, the code and the tests keep, and the other way round.

Each test tells the whole list of what is missing.
"""

import ast
import importlib.util
import re
import subprocess
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

from ops.cli.main import COMMANDS
from ops.reference import ROOT, citations
from ops.settings import knobs
from pipeline.invariants import BY_ID, INVARIANTS
from pipeline.outcome import ARC, BY_CODE

PACKAGES = ("agents", "beefline", "ops", "pipeline", "schemas", "topics")
TESTS = ROOT / "tests"

CLASSES = "malformed structure script value anchor finality policy conflict admission payment identity network internal"
CODE = re.compile(rf"(?:{CLASSES.replace(' ', '|')})\.[a-z0-9]+(?:-[a-z0-9]+)*")

UNUSED_CODES: dict[str, str] = {}
"""Rows of the table that nothing here says, each with its reason."""

PATHS = re.compile(r"(?<![\w.~/-])/(?:home|tmp|Users|root|work)/[\w.]")
"""A folder of somebody's machine."""

REGISTRIES = re.compile(
    r"https?://(?:registry|index|repo\d*|proxy|packages|files|mirrors?|pypi)\.|"
    r"(?:index-url|find-links|registry)\s*[=:]\s*['\"]?https?://|\"resolved\":\s*\"https?://"
)
"""An address that packages come from: whoever installs has their own."""

TEXT = frozenset({".py", ".md", ".toml", ".yaml", ".yml", ".json", ".lock", ".xml", ".properties", ".cfg", ".mjs", ""})


def sources(*packages: str) -> Iterator[Path]:
    """Python files of packages."""
    for package in packages:
        yield from sorted((ROOT / package).rglob("*.py"))


def literals(path: Path) -> set[str]:
    """Text constants of a file, docstrings included."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def ours() -> list[Path]:
    """Files that are tracked, or will be."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    return [path for path in paths if path.is_file() and path.suffix in TEXT]


def nothing(found: Iterable[str]) -> None:
    """Fail with the whole list."""
    listed = list(found)
    assert not listed, "\n".join([f"{len(listed)}:", *listed])


@cache
def cited(marker: str) -> Mapping[str, Sequence[tuple[str, str]]]:
    """Tests by what they cite."""
    return citations(TESTS, marker)


# --- promises


def test_every_promise_is_cited_where_it_is_kept() -> None:
    """The file that keeps it says its ID, beside the line that does."""
    nothing(
        f"{row.id}: {row.kept_by}"
        for row in INVARIANTS
        if not (ROOT / row.kept_by).is_file() or row.id not in (ROOT / row.kept_by).read_text(encoding="utf-8")
    )


def test_every_promise_has_a_test() -> None:
    nothing(f"{row.id}: {row.says}" for row in INVARIANTS if row.id not in cited("invariant"))


def test_every_id_that_is_cited_is_a_promise() -> None:
    """In tests and in code; a family's next number that was never promised is seen."""
    families = "|".join(sorted({id_.rsplit("-", 1)[0] for id_ in BY_ID}))
    pattern = re.compile(rf"\b(?:{families})-\d+\b")
    strange = {f"tests: {id_}" for id_ in cited("invariant") if id_ not in BY_ID}
    for path in (*sources(*PACKAGES), *sources("tests")):
        found = set(pattern.findall(path.read_text(encoding="utf-8"))) - BY_ID.keys()
        strange |= {f"{path.relative_to(ROOT)}: {id_}" for id_ in found}
    nothing(sorted(strange))


# --- codes


def test_every_code_that_is_said_is_a_row_of_the_table() -> None:
    nothing(
        f"{path.relative_to(ROOT)}: {text}"
        for path in sources(*PACKAGES)
        for text in sorted(literals(path))
        if CODE.fullmatch(text) and text not in BY_CODE
    )


def test_every_row_of_the_table_is_said_by_a_rule() -> None:
    """Rules and stages, or an endpoint's number that stands for it; or it is listed above with its reason."""
    said = set(ARC.values())
    for path in sources("agents", "pipeline", "schemas"):
        if path != ROOT / "pipeline/outcome.py":
            said |= {text for text in literals(path) if CODE.fullmatch(text)}
    nothing(sorted(BY_CODE.keys() - said - UNUSED_CODES.keys()))
    nothing(sorted(UNUSED_CODES.keys() & said))


def test_classes_of_codes_are_those_named() -> None:
    assert {code.split(".")[0] for code in BY_CODE} <= set(CLASSES.split())
    nothing(code for code in BY_CODE if not CODE.fullmatch(code))


# --- settings


def test_every_setting_has_a_test_that_shows_its_effect() -> None:
    nothing(knob.key for knob in knobs() if knob.key not in cited("setting"))


def test_every_setting_a_test_names_exists() -> None:
    known = {knob.key for knob in knobs()}
    nothing(sorted(cited("setting").keys() - known))


def test_every_setting_says_why() -> None:
    """A sentence; "time-out for requests" is no reason."""
    nothing(knob.key for knob in knobs() if len(knob.reason.split()) < 4 or not knob.reason.endswith("."))


# --- the tree


def test_every_command_is_there() -> None:
    missing = [name for name, (place, _) in COMMANDS.items() if not importlib.util.find_spec(place.split(":")[0])]
    nothing(missing)


def test_no_file_names_somebodys_folder() -> None:
    nothing(_lines_with(PATHS))


def test_no_file_names_a_place_that_packages_come_from() -> None:
    nothing(_lines_with(REGISTRIES))


def _lines_with(pattern: re.Pattern[str]) -> Iterator[str]:
    for path in ours():
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if pattern.search(line):
                yield f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}"


def test_the_patterns_see_what_they_are_for() -> None:
    for seen in (
        "at /" + "home/me/x",
        "'/" + "root/.cache",
        "PATH=/" + "work/main",
        "(/" + "Users/me)",
        "via -r /" + "tmp/a.in",
    ):
        assert PATHS.search(seen)
    for unseen in ("docs/work/x", "~/work/x", "https://example.org/home/x", "tests/root/x"):
        assert not PATHS.search(unseen)
    scheme = "https" + "://"
    for seen in (
        f"{scheme}registry.example.org/x",
        f'"resolved": "{scheme}example.org/a.tgz"',
        f"index-url = {scheme}a.b",
    ):
        assert REGISTRIES.search(seen)
    assert not REGISTRIES.search(f"{scheme}example.org/registry")


def test_no_work_is_left_for_later_in_comments() -> None:
    """What is not built is absent."""
    words = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")
    nothing(
        f"{path.relative_to(ROOT)}:{number}"
        for path in (*sources(*PACKAGES), *sources("tests"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if words.search(line)
    )


def test_every_property_test_says_how_far_it_looks() -> None:
    """By a row of `tests/profiles.py`: Hypothesis' own fails what is slow for once, and looks elsewhere each time."""
    decorators = {
        f"{path.relative_to(ROOT)}: {node.name}": [*map(ast.unparse, node.decorator_list)]
        for path in sources("tests")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    given = {name: found for name, found in decorators.items() if any(each.startswith("given(") for each in found)}
    assert given
    nothing(
        name
        for name, found in given.items()
        if not any(each.isupper() or each.startswith("settings(") for each in found)
    )


# --- dependencies


def test_every_dependency_has_its_reason_and_every_reason_its_dependency() -> None:
    """docs/dependencies.md: a row each, of what runs and of what develops."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {
        "runtime": {_name(line) for line in project["dependencies"]},
        "development": {_name(line) for line in project["optional-dependencies"]["dev"]},
    }
    page = (ROOT / "docs/dependencies.md").read_text(encoding="utf-8")
    reasons = {
        section.split("\n", 1)[0].lower(): dict(re.findall(r"^\| `([^`]+)` \| (.+) \|$", section, re.MULTILINE))
        for section in page.split("\n## ")[1:]
    }
    assert {section: set(rows) for section, rows in reasons.items()} == declared
    nothing(name for rows in reasons.values() for name, reason in rows.items() if len(reason.split()) < 5)


def _name(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9_.-]+", requirement)
    assert found
    return found.group()


def test_tests_that_share_an_installation_draw_coins_of_their_own() -> None:
    """With one seed two of them spend the same coins, and the network refuses whichever comes second."""
    seeds = [
        (seed, path.name)
        for path in sorted((ROOT / "tests" / "e2e").glob("*.py"))
        for seed in set(re.findall(r"\b(?:seed=|generated\()(\d+)", path.read_text()))
    ]
    counts = Counter(seed for seed, _ in seeds)
    nothing(f"{seed} in {name}" for seed, name in seeds if counts[seed] > 1)
