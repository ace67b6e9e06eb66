"""The generated pages on disk are what the program generates."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from ops.cli.topics import topics
from ops.reference import ROOT, citations, pages
from ops.settings import knobs
from pipeline.invariants import INVARIANTS
from pipeline.outcome import CODES

DOCS = ROOT / "docs"
PAGES = pages()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_on_disk_is_what_is_generated(name: str) -> None:
    path = DOCS / name
    assert path.exists(), "run `make docs`"
    assert path.read_text(encoding="utf-8") == PAGES[name], "run `make docs`"


def test_nothing_else_is_in_the_folder() -> None:
    """A page whose table is gone goes too."""
    found = {path.relative_to(DOCS).as_posix() for path in (DOCS / "reference").rglob("*") if path.is_file()}
    assert found == set(PAGES)


def test_every_row_of_every_table_is_on_its_page() -> None:
    for name, rows in {
        "codes": [f"| `{row.code}` | {row.kind}" for row in CODES],
        "settings": [f"| `{knob.key}` | " for knob in knobs()],
        "promises": [f"| {row.id} | {row.says} | " for row in INVARIANTS],
    }.items():
        page = PAGES[f"reference/{name}.md"]
        assert [row for row in rows if row not in page] == []


def test_commands_are_shown_with_their_options() -> None:
    """Groups with their commands; flags without a default, values with theirs."""
    page = PAGES["reference/cli.md"]
    assert "### beefline topics describe\n\n`beefline topics describe [OPTIONS] [NAME]`" in page
    assert "| `--wait` SECONDS | Look again until nothing is under way. | `0.0` |" in page
    assert "| `--set` KEY=VALUE | A setting, as section.name=value. Repeatable. |  |" in page


def test_citations_are_found_wherever_a_test_says_them(tmp_path: Path) -> None:
    """On functions, classes and whole files; several on one; other markers and calls are none."""
    tests = tmp_path / "tests"
    (tests / "deep").mkdir(parents=True)
    (tests / "test_a.py").write_text(
        "import pytest\n"
        "@pytest.mark.setting('a.b')\n"
        "@pytest.mark.setting('c.d')\n"
        "@pytest.mark.invariant('X-1')\n"
        "@other('a.z')\n"
        "async def test_it(): ...\n"
    )
    (tests / "deep" / "test_b.py").write_text(
        "import pytest\n"
        "pytestmark = [pytest.mark.setting('e.f'), pytest.mark.broker]\n"
        "@pytest.mark.setting('a.b')\n"
        "class TestThem: ...\n"
    )
    (tests / "helper.py").write_text("import pytest\n@pytest.mark.setting('g.h')\ndef helper(): ...\n")
    assert citations(tests, "setting") == {
        "a.b": [("tests/deep/test_b.py", "TestThem"), ("tests/test_a.py", "test_it")],
        "c.d": [("tests/test_a.py", "test_it")],
        "e.f": [("tests/deep/test_b.py", "*")],
    }
    assert citations(tests, "invariant") == {"X-1": [("tests/test_a.py", "test_it")]}


def test_the_docs_command_writes_the_pages(tmp_path: Path) -> None:
    """The same each time."""
    done = CliRunner().invoke(topics, ["docs", "--write", "--folder", str(tmp_path)])
    assert done.exit_code == 0, done.output
    written = {
        path.relative_to(tmp_path).as_posix(): path.read_text() for path in tmp_path.rglob("*") if path.is_file()
    }
    assert written == PAGES
