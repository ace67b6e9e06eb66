"""`beefline submit`: what is sent, what is told, and the exit code."""

import base64
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from beefline.client import Result
from ops.cli.submit import Report, exit_code, says, submit
from tests.clients.commands import run
from tests.clients.pretend import PAYLOAD, Place, by_word, header

pytestmark = pytest.mark.broker

REJECTED = 1
UNKNOWN = 2
USAGE = 3


@pytest.fixture(autouse=True)
def home_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation that runs on this machine would lend its settings."""
    monkeypatch.setenv("BEEFLINE_HOME", str(tmp_path / "home"))


def lines(*words: str, **more: Any) -> bytes:
    """JSON lines, one payload a word, its number its id."""
    payloads = ({"id": f"p{n}", "beef": word.encode().hex(), **more} for n, word in enumerate(words))
    return "".join(json.dumps(payload) + "\n" for payload in payloads).encode()


async def test_files_of_every_form_are_sent_as_the_bytes_they_mean(place: Place, tmp_path: Path) -> None:
    beef = bytes.fromhex("0100beef") + b"applied"
    forms = {"bytes": beef, "hex": beef.hex().encode(), "base64": base64.b64encode(beef), "jsonl": lines("applied")}
    paths = []
    for name, data in forms.items():
        path = tmp_path / name
        path.write_bytes(data)
        paths.append(str(path))
    ran = await run(submit, *paths, flags=place.flags)
    assert ran.exit_code == 0, ran.output
    records = await place.ingested(4)
    assert sorted(record.value for record in records) == sorted([beef, beef, beef, b"applied"])
    for record in records:
        assert f"{record.topic}/{record.partition}/{record.offset}" in ran.stdout


async def test_a_file_names_requests_and_topics_and_the_command_line_wins(place: Place) -> None:
    given = lines("applied", topics=["tm_file"])
    assert (await run(submit, "-", given=given, flags=place.flags)).exit_code == 0
    ran = await run(
        submit, "--topic", "tm_a", "--topic", "tm_b", "--request-id", "mine", "-", given=given, flags=place.flags
    )
    assert ran.exit_code == 0
    found = {header(record, "request-id"): header(record, "topics") for record in await place.ingested(2)}
    assert found == {"p0": '["tm_file"]', "mine": '["tm_a", "tm_b"]'}


async def test_all_or_nothing_is_asked_for_by_line_or_for_all(place: Place) -> None:
    given = lines("applied", atomicity="all") + lines("rejected").replace(b"p0", b"p1")
    assert (await run(submit, "-", given=given, flags=place.flags)).exit_code == 0
    assert (await run(submit, "--all-or-nothing", "-", given=lines("parked"), flags=place.flags)).exit_code == 0
    found = {record.value: header(record, "atomicity") for record in await place.ingested(3)}
    assert found == {b"applied": "all", b"rejected": "", b"parked": "all"}
    ran = await run(submit, "-", given=lines("applied", atomicity="some"), flags=place.flags)
    assert ran.exit_code == USAGE
    assert "'some'" in ran.stderr


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("applied",), 0),
        (("applied", "applied"), 0),
        (("applied", "rejected"), REJECTED),
        (("applied", "parked"), UNKNOWN),
        (("parked", "rejected"), REJECTED),
    ],
)
async def test_the_exit_code_tells_the_worst_outcome(place: Place, words: tuple[str, ...], code: int) -> None:
    async with place.pipeline(by_word):
        ran = await run(submit, "--wait", "--timeout", "30", "-", given=lines(*words), flags=place.flags)
    assert ran.exit_code == code, ran.output
    for number, word in enumerate(words):
        assert any(f" p{number} " in line and line.startswith(word) for line in ran.stdout.splitlines()), ran.stdout


async def test_every_context_has_its_row(place: Place) -> None:
    async with place.pipeline(by_word):
        ran = await run(
            submit, "--wait", "--topic", "tm_a", "--topic", "tm_b", "-", given=lines("mixed"), flags=place.flags
        )
    assert ran.exit_code == REJECTED
    rows = [line.split() for line in ran.stdout.splitlines()]
    assert rows[1][:3] == ["applied", "tm_a", "p0"]
    assert rows[2][:3] == ["rejected", "tm_b", "p0"]
    assert rows[2][4] == "admission.unknown-topic"


async def test_an_outcome_that_does_not_come_in_time_is_said_and_has_its_code(place: Place) -> None:
    ran = await run(submit, "--wait", "--timeout", "0.2", "-", given=lines("silence"), flags=place.flags)
    assert ran.exit_code == UNKNOWN
    assert "no outcome of request 'p0' within 0.2 s" in ran.stdout


async def test_json_lines_hold_the_results_as_they_were_written(place: Place) -> None:
    async with place.pipeline(by_word):
        ran = await run(submit, "--wait", "--json", "-", given=lines("applied", "rejected"), flags=place.flags)
    reports = {report["request_id"]: report for report in map(json.loads, ran.stdout.splitlines())}
    assert {name: report["state"] for name, report in reports.items()} == {"p0": "applied", "p1": "rejected"}
    assert reports["p1"]["decisions"][0]["code"] == "script.false"
    assert reports["p0"]["decisions"][0]["origin"] == reports["p0"]["origin"]
    assert reports["p0"]["where"] == "standard input line 1"


async def test_what_is_over_the_limit_is_not_sent_and_everything_else_is(place: Place, tmp_path: Path) -> None:
    large = tmp_path / "large.beef"
    large.write_bytes(bytes.fromhex("0100beef") + bytes(PAYLOAD))
    ran = await run(submit, str(large), "-", given=lines("applied"), flags=place.flags)
    assert ran.exit_code == USAGE
    assert f"{large}: the payload has {PAYLOAD + 4} bytes; at most {PAYLOAD} are taken" in ran.stderr
    assert "it was not sent" in ran.stderr
    assert [record.value for record in await place.ingested(1)] == [b"applied"]


async def test_a_line_that_is_no_payload_is_named_and_the_others_are_sent(place: Place) -> None:
    ran = await run(submit, "-", given=lines("applied") + b'{"beef": "?"}\n' + lines("parked"), flags=place.flags)
    assert ran.exit_code == USAGE
    assert "standard input line 2: neither hexadecimal nor base64" in ran.stderr
    assert {record.value for record in await place.ingested(2)} == {b"applied", b"parked"}


async def test_nothing_to_send_is_an_error(place: Place, tmp_path: Path) -> None:
    ran = await run(submit, "-", flags=place.flags)
    assert (ran.exit_code, ran.stderr) == (USAGE, "beefline: standard input is empty\n")
    missing = tmp_path / "missing"
    ran = await run(submit, str(missing), flags=place.flags)
    assert (ran.exit_code, ran.stderr) == (USAGE, f"beefline: no such file: {missing}\n")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--set", "kafka.bootstrap=127.0.0.1:1"], "no Kafka broker answers at 127.0.0.1:1"),
        (["--set", "topics.prefix=nowhere."], "there is no topic nowhere.ingest"),
        (["--set", "topics.prefx=x"], "topics.prefx: no such setting"),
        (["--bogus"], "No such option"),
    ],
)
async def test_what_cannot_work_is_said_in_words(place: Place, flags: list[str], said: str) -> None:
    ran = await run(submit, *flags, "-", given=lines("applied"), flags=place.flags)
    assert ran.exit_code == USAGE
    assert said in ran.stderr
    assert "Traceback" not in ran.output


async def test_of_many_those_that_were_not_applied_are_named_and_all_are_counted(place: Place) -> None:
    words = ["applied"] * 60 + ["rejected"] * 2
    async with place.pipeline(by_word):
        ran = await run(submit, "--wait", "-", given=lines(*words), flags=place.flags)
    assert ran.exit_code == REJECTED
    assert ran.stdout.splitlines()[-1] == "60 applied, 2 rejected"
    assert len(ran.stdout.splitlines()) == 1 + 2 + 1


def test_what_could_not_be_sent_outweighs_everything() -> None:
    reports = [Report(where="", state=state) for state in ("applied", "rejected", "waiting", "unsent")]
    assert exit_code(reports) == USAGE
    assert exit_code(reports[:3]) == REJECTED
    assert exit_code([reports[0], reports[2]]) == UNKNOWN
    assert exit_code(reports[:1]) == 0
    assert exit_code([]) == USAGE


def test_an_admittance_in_words() -> None:
    admitted = {"outputs_to_admit": [0, 1, 2, 5], "coins_removed": [3]}
    told = Result(
        id="", revision=0, request_ids=(), txid=None, context="topic:tm_a", contexts=1, outcome="applied",
        admittance=None, repeat=True, time="",
    )  # fmt: skip
    full = msgspec.convert({**msgspec.to_builtins(told), "admittance": admitted}, Result)
    assert says(full) == "admitted 0-2, 5, removed coins of inputs 3  (a repeat)"
    nothing = msgspec.convert({**msgspec.to_builtins(told), "admittance": {}, "repeat": False}, Result)
    assert says(nothing) == "admitted nothing"
