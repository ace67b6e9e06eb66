"""Logs: one JSON object a line, whatever is logged; the client libraries' kept to a rate."""

import json
import logging
import sys
from typing import Any

import pytest

from agents.runtime import logs
from agents.runtime.logs import CLIENTS, Json, Limited
from agents.runtime.settings import LogSettings


def record(message: str = "said", *args: Any, name: str = "agents.test", **extra: Any) -> logging.LogRecord:
    made = logging.LogRecord(name, logging.WARNING, __file__, 1, message, args, None)
    vars(made).update(extra)
    return made


def line(made: logging.LogRecord) -> dict[str, Any]:
    text = Json("parse").format(made)
    assert "\n" not in text
    found: dict[str, Any] = json.loads(text)
    return found


def test_a_line_names_stage_level_and_logger_and_holds_what_was_added() -> None:
    made = record("%s-%d", "topic", 3, partition=3, code="script.false", offset=7)
    made.created, made.msecs = 1_790_000_000.25, 250.0
    assert line(made) == {
        "time": "2026-09-21T14:13:20.250Z", "level": "warning", "stage": "parse", "logger": "agents.test",
        "message": "topic-3", "partition": 3, "code": "script.false", "offset": 7,
    }  # fmt: skip


def test_an_exception_is_part_of_its_line() -> None:
    made = record()
    try:
        raise ValueError("two\nlines")
    except ValueError:
        made.exc_info = sys.exc_info()
    assert "ValueError: two\nlines" in line(made)["exception"]


@pytest.mark.parametrize(
    "strange",
    [
        b"\xff",
        {1: 2},
        {b"a": 1},
        {(1, 2): 3},
        object(),
        2**80,
        -(2**70),
        "\udcff",
        float("nan"),
        {"x"},
        [2**65, "\ud800"],
    ],
)
def test_whatever_is_added_makes_a_line(strange: Any) -> None:
    """What was logged beside something odd is not lost."""
    found = line(record("said \udcfe", thing=strange))
    assert found["stage"] == "parse"
    assert found["message"].startswith("said ")
    assert "thing" in found


# --- the client libraries' rate


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr("agents.runtime.logs.time.monotonic", lambda: now[0])
    return now


@pytest.mark.setting("log.client_lines_per_s")
def test_a_storm_of_the_clients_is_kept_to_its_rate_and_counted(clock: list[float]) -> None:
    """Ten at once, then two a second; what was left out is said when one passes again."""
    limited = Limited(2.0)
    passed = [limited.filter(record("%s away", "broker", name="aiokafka.conn")) for _ in range(100)]
    assert passed == [True] * 10 + [False] * 90
    clock[0] += 1.0
    later = record("%s back", "100 %d", name="aiokafka.conn")
    assert limited.filter(later)
    assert later.getMessage() == "100 %d back (and 90 lines of the clients left out)"
    assert [limited.filter(record(name="kafka")) for _ in range(3)] == [True, False, False]


def test_our_own_lines_always_pass(clock: list[float]) -> None:
    limited = Limited(0.001)
    assert all(limited.filter(record(name="agents.runtime.stage")) for _ in range(1000))
    assert sum(limited.filter(record(name=name)) for name in CLIENTS * 10) == 10


@pytest.mark.parametrize(("name", "passes"), [("faust.worker", True), ("mode.worker", True), ("aiokafka.conn", False)])
def test_why_a_process_ends_passes_any_storm(clock: list[float], name: str, passes: bool) -> None:
    limited = Limited(2.0)
    for _ in range(100):
        limited.filter(record(name="aiokafka"))
    said = record(name=name)
    said.exc_info = (ValueError, ValueError("fenced"), None)
    assert limited.filter(said) is passes


def test_time_without_lines_saves_no_more_than_ten(clock: list[float]) -> None:
    limited = Limited(2.0)
    clock[0] += 10_000
    assert sum(limited.filter(record(name="aiokafka")) for _ in range(50)) == 10


@pytest.mark.setting("log.level")
@pytest.mark.parametrize(
    ("level", "ours", "clients"),
    [
        ("debug", logging.DEBUG, logging.WARNING), ("info", logging.INFO, logging.WARNING),
        ("warning", logging.WARNING, logging.WARNING), ("error", logging.ERROR, logging.ERROR),
    ],
)  # fmt: skip
def test_the_level_is_ours_and_the_clients_warn_at_most(
    level: Any, ours: int, clients: int, capsys: pytest.CaptureFixture[str]
) -> None:
    root = logging.getLogger()
    handlers, before = root.handlers[:], root.level
    was = {name: logging.getLogger(name).level for name in CLIENTS}
    try:
        logs.configure("verify", LogSettings(level=level))
        assert root.level == ours
        assert {logging.getLogger(name).level for name in CLIENTS} == {clients}
        logging.getLogger("agents.test").error("seen", extra={"partition": 1})
        found = json.loads(capsys.readouterr().err)
        assert (found["stage"], found["message"], found["partition"]) == ("verify", "seen", 1)
    finally:
        root.handlers[:] = handlers
        root.setLevel(before)
        for name, level_before in was.items():
            logging.getLogger(name).setLevel(level_before)
