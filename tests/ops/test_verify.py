"""`beefline verify`: the verifier by itself, as typed at a prompt."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import pytest
from click.testing import CliRunner, Result

from ops.batch import CHUNK_LINES, LINE_MARGIN
from ops.cli.verify import verify as command
from ops.instruments.chain import CHECKPOINT, Chain
from ops.instruments.generate import KINDS, SHAPES, Generator
from ops.instruments.payloads import Generated, mainnet
from ops.simulate.client import Simulated, spawn_all
from pipeline.parse import Payload, parse
from pipeline.policy import Policy
from schemas.types import display
from tests import builders
from tests.builders import Bag, In, Out, by_script, funding, spend
from tests.vectors import load, universal

BEEFLINE = [sys.executable, "-m", "ops.cli.main", "verify"]
FIELDS = ["id", "outcome", "code", "message", "at", "txid", "unmined", "fee_sat", "ef"]
EXITS = {"valid": 0, "invalid": 1, "indeterminate": 2}


def costly(steps: int, inputs: int, height: int) -> Bag:
    """A payload whose scripts, one an input, copy and drop an element over and over."""
    parent = funding(*[Out(1000, b"\x76\x75" * (steps // 2))] * inputs)
    child = spend([In(parent, vout, by_script(b"\x51")) for vout in range(inputs)], [Out(1)])
    return builders.bag(parent, child, proven=[parent], height=height)


ENDLESS = costly(480_000, inputs=4, height=949_000)
SLOW = costly(60_000, inputs=1, height=949_001)
BY_HAND = builders.payment()


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain.open(tmp_path_factory.mktemp("verified") / "chain")


@pytest.fixture(scope="module")
def headers(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The simulated chain as HEADERS.json, with the roots of the payloads made up here."""
    roots = {str(h): display(chain.header(h)[36:68]) for h in range(CHECKPOINT, chain.tip + 1)}
    roots |= load("mainnet/payloads.json")["roots"]
    made = {"tip": chain.tip, "median_time_past": chain.median_time_past(), "roots": roots}
    return written(made, tmp_path_factory.mktemp("headers") / "headers.json")


def written(table: dict[str, Any], file: Path) -> Path:
    file.write_text(json.dumps(table))
    return file


def table_for(folder: Path, *bags: Bag, tip: int = 960_000) -> Path:
    """A table that has the roots of these payloads."""
    roots = {str(proof.height): display(proof.root) for bag in bags for proof in bag.proofs.values()}
    return written({"tip": tip, "roots": roots}, folder / "table.json")


def run(*arguments: str | Path, given: bytes = b"") -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments], input=given)


def batch(lines: Sequence[str | bytes], headers: Path, *more: str) -> list[dict[str, Any]]:
    given = b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines)
    command = [*BEEFLINE, "--batch", "--headers", str(headers), *more]
    ran = subprocess.run(command, input=given, capture_output=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, b"")
    found = [json.loads(line) for line in ran.stdout.splitlines()]
    assert all(list(answer) == FIELDS for answer in found)
    return found


def line(name: object, beef: bytes) -> str:
    return json.dumps({"id": name, "beef": beef.hex()})


def of(answer: dict[str, Any]) -> tuple[str, str | None]:
    return answer["outcome"], answer["code"]


# --- a batch


def test_a_batch_answers_every_generated_kind_as_it_was_made(chain: Chain, headers: Path) -> None:
    generator = Generator(chain, seed=11)
    payloads: list[Generated] = [payload for shape in SHAPES for payload in generator.valid(2, shape=shape)]
    payloads += [generator.invalid(kind) for kind in KINDS]
    for form in ("lenient", "strict"):
        answers = batch([line(payload.id, payload.beef) for payload in payloads], headers, "--policy", form)
        for payload, answer in zip(payloads, answers, strict=True):
            expect = payload.expect
            mended = expect.form == "strict" and form == "lenient"
            wanted = ("valid", None) if mended else (expect.outcome, expect.code)
            assert (answer["id"], *of(answer)) == (payload.id, *wanted), payload.kind
            if answer["outcome"] == "valid":
                assert answer["txid"] == display(payload.txid)
                assert answer["unmined"] == len(answer["ef"])
                assert mended or answer["unmined"] == payload.unmined
                assert payload.unmined == 0 or answer["ef"][-1]["txid"] == answer["txid"]
            else:
                assert answer["ef"] is None
                assert answer["message"]


@pytest.mark.parametrize("name", list(universal()))
def test_every_framing_of_a_published_payload_gives_one_answer(name: str, tmp_path: Path) -> None:
    vector = universal()[name]
    roots: dict[str, str] = {}
    framings = [vector[key] for key in ("beef_hex", "beef_v2_hex", "atomic_beef_hex")]
    for text in framings:
        payload = parse(bytes.fromhex(text), Policy())
        assert isinstance(payload, Payload)
        roots |= {str(height): display(root) for height, root in payload.roots}
    table = written({"tip": 960_000, "roots": roots}, tmp_path / "h.json")
    answers = batch([json.dumps({"id": 1, "beef": text}) for text in framings], table)
    assert [of(answer) for answer in answers] == [("valid", None)] * 3
    assert all(answer == answers[0] for answer in answers)
    assert (answers[0]["txid"], answers[0]["ef"]) == (
        vector["tx_id"],
        [{"txid": vector["tx_id"], "hex": vector["ef_hex"]}],
    )


def test_a_mined_subject_has_nothing_un_mined_and_no_ef(headers: Path) -> None:
    proven = next(payload for payload in mainnet() if payload.unmined == 0)
    (answer,) = batch([line(1, proven.beef)], headers)
    assert (of(answer), answer["unmined"], answer["ef"]) == (("valid", None), 0, [])


def test_the_table_says_yes_no_and_unknown(tmp_path: Path) -> None:
    height = next(iter(BY_HAND.proofs.values())).height
    lines = [line("p", BY_HAND.v1())]
    assert of(batch(lines, table_for(tmp_path, BY_HAND))[0]) == ("valid", None)
    other = builders.payment([Out(998)], levels=11)
    assert of(batch(lines, table_for(tmp_path, other))[0]) == ("invalid", "anchor.wrong-root")
    assert of(batch(lines, table_for(tmp_path))[0]) == ("invalid", "anchor.wrong-root")
    assert of(batch(lines, table_for(tmp_path, tip=height))[0]) == ("invalid", "anchor.wrong-root")
    assert of(batch(lines, table_for(tmp_path, tip=height - 1))[0]) == ("indeterminate", "anchor.above-tip")


def test_a_lock_that_is_a_time_needs_a_median_time(tmp_path: Path) -> None:
    parent = funding(Out(1000))
    locked = builders.bag(parent, spend([In(parent, sequence=0)], [Out(999)], locktime=1_700_000_000), proven=[parent])
    table = table_for(tmp_path, locked)
    assert of(batch([line(1, locked.v1())], table)[0]) == ("indeterminate", "finality.not-final")
    known = json.loads(table.read_text())
    written(known | {"median_time_past": 1_700_000_000}, table)
    assert of(batch([line(1, locked.v1())], table)[0]) == ("indeterminate", "finality.not-final")
    written(known | {"median_time_past": 1_700_000_001}, table)
    assert of(batch([line(1, locked.v1())], table)[0]) == ("valid", None)


@pytest.mark.parametrize("jobs", ["1", "3"])
def test_one_line_out_for_each_line_in_whatever_it_holds(jobs: str, headers: Path) -> None:
    """An answer has the id of its line, as it was written, wherever one can be read."""
    good = mainnet()[0].beef.hex()
    limit = Policy().max_payload_bytes
    rows: list[tuple[str | bytes, object, str | None]] = [
        (f'{{"beef": "{good}", "id": {{"deep": [1, 2]}}}}', {"deep": [1, 2]}, None),
        (f'{{"id": 1.50, "beef": "{good.upper()}", "more": 0}}', 1.5, None),
        (f'{{"beef": "{good}"}}', None, None),
        ("", None, "malformed.line"),
        ("not json", None, "malformed.line"),
        (b"\xff\xfe\x00", None, "malformed.line"),
        (b'{"id": "\xff", "beef": ""}', None, "malformed.line"),
        ("[]", None, "malformed.line"),
        ('{"id": "a"}', "a", "malformed.line"),
        ('{"id": "b", "beef": 7}', "b", "malformed.line"),
        ('{"id": "c", "beef": "0x00"}', "c", "malformed.line"),
        ('{"id": "d", "beef": "0"}', "d", "malformed.line"),
        ('{"id": "e", "beef": ""}', "e", "malformed.empty"),
        ('{"id": ' + "[" * 5_000 + "]" * 5_000 + ', "beef": ""}', None, "malformed.line"),
        ('{"id": "f", "beef": "' + "00" * (limit + 1) + '"}', "f", "malformed.too-large"),
        ('{"id": "g", "beef": "' + "0" * (2 * limit + LINE_MARGIN) + '"}', "g", "malformed.too-large"),
        ('{"beef": "' + "0" * (2 * limit + LINE_MARGIN) + '", "id": -7}', -7, "malformed.too-large"),
        (b"0" * (2 * limit + 3 * LINE_MARGIN), None, "malformed.too-large"),
        (json.dumps({"id": "last", "beef": good}), "last", None),
    ]
    answers = batch([row[0] for row in rows], headers, "--jobs", jobs)
    assert [(answer["id"], answer["code"]) for answer in answers] == [(name, code) for _, name, code in rows]
    assert batch([], headers) == []
    assert len(batch([rows[0][0], ""], headers)) == 1, "a line's end is not a line"


def test_an_answer_does_not_wait_for_the_next_line(headers: Path) -> None:
    beef = mainnet()[0].beef
    with subprocess.Popen(
        [*BEEFLINE, "--batch", "--headers", str(headers)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for number in range(3):
            process.stdin.write(line(number, beef).encode() + b"\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["id"] == number
        process.stdin.close()
        assert process.stdout.read() == b""
    assert process.returncode == 0


def test_answers_keep_the_order_of_lines_that_take_different_time(tmp_path: Path) -> None:
    slow, quick, bad = SLOW.v1(), BY_HAND.v1(), b"\x01"
    lines = [line(n, slow if n % 50 == 3 else bad if n % 7 == 0 else quick) for n in range(3 * CHUNK_LINES)]
    answers = batch(lines, table_for(tmp_path, BY_HAND, SLOW), "--jobs", "3")
    assert [answer["id"] for answer in answers] == list(range(len(lines)))
    expected = ["invalid" if n % 7 == 0 and n % 50 != 3 else "valid" for n in range(len(lines))]
    assert [of(answer)[0] for answer in answers] == expected


def children(of_pid: int) -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split() if entry.name.isdigit() else []
        except (FileNotFoundError, ProcessLookupError):
            continue
        if fields and int(fields[1]) == of_pid:
            yield int(entry.name)


def test_a_payload_that_kills_its_process_gets_its_line_and_the_next_goes_on(tmp_path: Path) -> None:
    """The process is ended from outside while it is at one line, and again at another: each time that line says so."""
    table = table_for(tmp_path, BY_HAND, ENDLESS)
    quick = BY_HAND.v1()
    command = [*BEEFLINE, "--batch", "--jobs", "1", "--headers", str(table), "--set", "policy.script_budget_ms=60000"]
    lines = [quick, quick, ENDLESS.v1(), quick, ENDLESS.v1(), quick, quick]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("\n".join(line(n, beef) for n, beef in enumerate(lines)).encode())
        process.stdin.close()
        answers = []
        for number in range(len(lines)):
            if lines[number] != quick:
                os.kill(worker_at_a_script(process.pid), signal.SIGKILL)
            answers.append(json.loads(process.stdout.readline()))
    assert [answer["id"] for answer in answers] == list(range(len(lines)))
    killed = ("indeterminate", "internal.killed")
    assert [of(answer) for answer in answers] == [
        killed if beef != quick else ("valid", None) for beef in lines
    ]  # fmt: skip


def worker_at_a_script(pid: int) -> int:
    """The batch's process, once the script child of its own is at work."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for worker in children(pid):
            if any(busy(child) for child in children(worker)):
                return worker
        time.sleep(0.02)
    raise AssertionError("no script child came to work")


def busy(pid: int) -> bool:
    """Whether it has worked on a script for a while."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return int(fields[11]) > 10  # ticks of 10 ms


def test_a_script_over_the_budget_holds_nobody_up(tmp_path: Path) -> None:
    hungry = funding(Out(1000, b"\x04\x00\x00\x00\x20\x80"))
    child = spend([In(hungry, unlock=by_script(b"\x51"))], [Out(1)])
    bomb = builders.bag(hungry, child, proven=[hungry], height=949_002)
    table = table_for(tmp_path, BY_HAND, bomb)
    answers = batch([line(1, bomb.v1()), line(2, BY_HAND.v1())], table)
    assert answers[0]["code"] == "policy.script-budget"
    assert of(answers[1]) == ("valid", None)


def pour(stream: IO[bytes], what: bytes) -> None:
    while True:
        stream.write(what)


def test_whoever_stops_reading_ends_the_batch_without_a_word(headers: Path) -> None:
    beef = line(1, mainnet()[0].beef).encode() + b"\n"
    command = [*BEEFLINE, "--batch", "--headers", str(headers)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(beef)
        process.stdout.read(1)
        process.stdout.close()
        with pytest.raises(BrokenPipeError):
            pour(process.stdin, beef)
        assert process.stderr.read() == b""
    assert process.returncode == 0


# --- files


def test_a_file_is_told_with_the_reason_and_the_exit_code(tmp_path: Path, headers: Path, chain: Chain) -> None:
    generator = Generator(chain, seed=12)
    for payload in (*generator.valid(1), generator.invalid("bad-signature"), generator.invalid("not-final")):
        file = tmp_path / f"{payload.id}.beef"
        file.write_bytes(payload.beef)
        told = run(file, "--headers", headers)
        assert told.exit_code == EXITS[payload.expect.outcome], told.output
        assert f"{file}: {payload.expect.outcome}" in told.output
        assert display(payload.txid) in told.output
        assert payload.expect.code is None or payload.expect.code in told.output
        as_json = json.loads(run(file, "--headers", headers, "--json").output)
        assert (as_json["file"], *of(as_json)) == (str(file), payload.expect.outcome, payload.expect.code)


def test_of_several_payloads_the_worst_counts(tmp_path: Path, headers: Path, chain: Chain) -> None:
    generator = Generator(chain, seed=13)
    (good,) = generator.valid(1)
    waiting, bad = generator.invalid("not-final"), generator.invalid("inflation")
    for payloads, code in (((good, waiting), 2), ((good, waiting, bad), 1), ((good, good), 0)):
        text = "\n".join(payload.beef.hex() for payload in payloads)
        assert run("-", "--headers", headers, given=text.encode()).exit_code == code


def test_the_form_can_be_chosen(tmp_path: Path, headers: Path, chain: Chain) -> None:
    repeated = next(kind for kind, row in KINDS.items() if row.expect.form == "strict")
    beef = Generator(chain, seed=14).invalid(repeated).beef
    assert run("-", "--headers", headers, "--policy", "lenient", given=beef).exit_code == 0
    assert run("-", "--headers", headers, "--policy", "strict", given=beef).exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ((), "name a file"),
        (("x.beef", "--headers", "{h}"), "no such file: x.beef"),
        (("-", "--headers", "none.json"), "none.json: No such file"),
        (("-", "--headers", "{bad}"), "not a table of roots"),
        (("-", "--headers", "{h}", "--tracker", "woc=http://127.0.0.1:9"), "exclude each other"),
        (("-", "--headers", "{h}", "--jobs", "2"), "--jobs is for --batch"),
        (("-",), "who knows the chain?"),
        (("-", "--tracker", "nonsense"), "neither dialect=URL nor a URL"),
        (("-", "--tracker", "http://127.0.0.1:9"), "answers in none of the dialects"),
        (("-", "--policy", "loose"), "Invalid value"),
    ],
)
def test_what_cannot_be_done_is_said(arguments: tuple[str, ...], why: str, headers: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text('{"tip": 5, "roots": {"3": "zz"}}')
    told = run(*(word.format(h=headers, bad=bad) for word in arguments))
    assert told.exit_code == 3
    assert why in told.output


# --- header services


@pytest.fixture(scope="module")
def services(chain: Chain) -> Iterator[dict[str, Simulated]]:
    dialects = ("bhs", "chaintracks", "woc")
    started = spawn_all([["headers", "--dialect", dialect] for dialect in dialects], chain=chain.folder)
    yield dict(zip(dialects, started, strict=True))
    for service in started:
        service.stop()


def test_services_are_asked_and_their_dialects_found_out(services: dict[str, Simulated], chain: Chain) -> None:
    (good,) = Generator(chain, seed=15).valid(1)
    bad = Generator(chain, seed=15).invalid("wrong-root")
    every = [word for service in services.values() for word in ("--tracker", service.url)]
    for dialect, service in services.items():
        assert run("-", "--tracker", service.url, given=good.beef).exit_code == 0
        assert run("-", "--tracker", f"{dialect}={service.url}", given=good.beef).exit_code == 0
    assert run("-", *every, given=bad.beef).exit_code == 1
    services["chaintracks"].fault("lying")
    assert run("-", *every, given=good.beef).exit_code == 0, "one liar of three changes nothing"
    services["bhs"].fault("down")
    two = [f"--tracker={dialect}={services[dialect].url}" for dialect in ("bhs", "woc")]
    told = run("-", *two, given=good.beef)
    assert told.exit_code == 2
    assert "anchor.no-quorum" in told.output
    for service in services.values():
        service.fault("none")
    lines = f"{line(1, good.beef)}\n{line(2, bad.beef)}\n".encode()
    ran = subprocess.run([*BEEFLINE, "--batch", *every], input=lines, capture_output=True, check=True)
    assert [of(json.loads(answer)) for answer in ran.stdout.splitlines()] == [
        ("valid", None),
        ("invalid", "anchor.wrong-root"),
    ]
