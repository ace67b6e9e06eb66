"""`beefline new-topic`: what it writes runs, is tested, is loaded, and is the example."""

import json
import keyword
import os
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
from click.testing import CliRunner
from setuptools import find_namespace_packages  # type: ignore[import-untyped]

from beefline.testing import Case, ask
from ops.cli.new_topic import new_topic
from ops.instruments.chain import Chain
from ops.new_topic import FILES, named, payload
from pipeline.overlay.manager import GROUP
from schemas.external import Admittance
from tests.conftest import ROOT

EXAMPLE = ROOT / "examples" / "topic_manager"


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain.open(tmp_path_factory.mktemp("topics") / "chain")


@pytest.fixture(scope="module")
def package(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tm_weather_report`, by the command."""
    folder = tmp_path_factory.mktemp("new") / "somewhere" / "tm_weather_report"
    ran = CliRunner().invoke(new_topic, ["weather_report", "--into", str(folder), "--chain", str(chain.folder)])
    assert ran.exit_code == 0, ran.output
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md", "beefline_weather_report.py", "example.beef", "pyproject.toml", "test_beefline_weather_report.py",
    ]  # fmt: skip
    return folder


def run(*words: str, cwd: Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """In a process of its own, with this checkout's packages."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    environment |= {"PYTHONPATH": str(path)} if path is not None else {}
    return subprocess.run(
        [sys.executable, *words], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )


def test_its_tests_pass_and_can_fail(package: Path, tmp_path: Path) -> None:
    """Against this checkout; and not when the rule is another."""
    ran = run("-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=package)
    assert ran.returncode == 0, ran.stdout
    assert " passed" in ran.stdout
    for path in package.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    module = tmp_path / "beefline_weather_report.py"
    module.write_text(module.read_text().replace("tuple(marked)", "tuple(marked)[:1]"))
    ran = run("-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=tmp_path)
    assert ran.returncode == 1, ran.stdout
    assert "beefline_weather_report:WeatherReport breaks the rule 'order'" in ran.stdout


LOADED = """
import json, sys
from pipeline.overlay.manager import load
(manager,) = load((sys.argv[1],)).values()
print(json.dumps([type(manager).__module__, type(manager).__name__, manager.version]))
"""

WEATHER = ["beefline_weather_report", "WeatherReport", "1"]


def test_it_is_loaded_by_its_place(package: Path) -> None:
    ran = run("-c", LOADED, "tm_weather_report=beefline_weather_report:WeatherReport", cwd=ROOT, path=package)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == WEATHER


def test_it_is_installed_and_loaded_by_its_entry_point(package: Path, tmp_path: Path) -> None:
    """Built by what is here: nothing is fetched."""
    site = tmp_path / "site"
    ran = run(
        "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps",
        "--no-build-isolation", "--target", str(site), str(package), cwd=tmp_path,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    points = (site / "beefline_weather_report-1.0.0.dist-info" / "entry_points.txt").read_text()
    assert points.split() == [f"[{GROUP}]", "tm_weather_report", "=", "beefline_weather_report:WeatherReport"]
    ran = run("-c", LOADED, "tm_weather_report", cwd=tmp_path, path=site)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == WEATHER
    assert run("-c", LOADED, "tm_weather_report", cwd=tmp_path).returncode == 1


def test_its_templates_are_part_of_what_is_installed() -> None:
    """The folder is a package to the build, and each of its files is among the data it takes along."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    included = find_namespace_packages(str(ROOT), include=table["packages"]["find"]["include"])
    assert "ops.topic_template" in included
    files = [path.name for path in (ROOT / "ops" / "topic_template").iterdir()]
    assert sorted(files) == sorted(FILES)
    assert all(any(fnmatch(name, pattern) for pattern in table["package-data"]["*"]) for name in files)


def test_the_example_is_what_the_command_makes(chain: Chain, tmp_path: Path) -> None:
    """`beefline new-topic example --into examples/topic_manager`."""
    ran = CliRunner().invoke(new_topic, ["tm_example", "--into", str(tmp_path), "--chain", str(chain.folder)])
    assert ran.exit_code == 0, ran.output
    made = {path.name: path.read_text() for path in tmp_path.iterdir()}
    there = {path.name: path.read_text() for path in EXAMPLE.iterdir() if path.is_file()}
    assert made == there


def test_nothing_is_written_over(package: Path) -> None:
    before = {path.name: path.read_bytes() for path in package.iterdir() if path.is_file()}
    (package / "README.md").write_text("mine")
    try:
        ran = CliRunner().invoke(new_topic, ["weather_report", "--into", str(package)])
        assert ran.exit_code == 3
        assert "exists; nothing was written" in ran.output
        assert (package / "README.md").read_text() == "mine"
    finally:
        (package / "README.md").write_bytes(before["README.md"])


@pytest.mark.parametrize("name", ["", "tm_", "Weather", "weather2", "weather-report", "a__b", "_a", "a" * 48, "../x"])
def test_a_name_that_no_topic_may_have_is_refused(name: str, tmp_path: Path) -> None:
    ran = CliRunner().invoke(new_topic, ["--into", str(tmp_path / "x"), "--", name])
    assert ran.exit_code == 3
    assert "no overlay topic name" in ran.output
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("name", ["a", "tm_a", "class", "none", "subject", "a" * 47, "in_a_row"])
def test_a_name_that_a_topic_may_have(name: str, chain: Chain) -> None:
    """Words of Python too; each payload is admitted by nothing else than its topic."""
    new = named(name)
    assert new.topic == "tm_" + name.removeprefix("tm_")
    assert new.module.isidentifier()
    assert new.class_name.isidentifier()
    assert not keyword.iskeyword(new.class_name)
    assert Case.of(name, payload(new, chain)).outputs[0].script.startswith(b"\x00\x6a" + bytes([len(new.name)]))


def test_the_payload_of_the_example_is_admitted() -> None:
    sys.path.insert(0, str(EXAMPLE))
    try:
        from beefline_example import Example  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(EXAMPLE))
    case = Case.of("example", bytes.fromhex((EXAMPLE / "example.beef").read_text()))
    assert ask(Example(), case) == Admittance((0,))
