"""What a newcomer tries, against a whole installation: the commands, the client, the examples."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from beefline import Client
from ops.installation import Installation
from ops.instruments.chain import Chain
from ops.instruments.generate import Generator
from ops.instruments.keys import make_key
from ops.stages import STAGES
from tests.conftest import ROOT

pytestmark = pytest.mark.broker

EXAMPLES = ROOT / "examples"
PAYLOADS = EXAMPLES / "payloads"
BEEFLINE = (sys.executable, "-m", "ops.cli.main")
PATIENCE_S = 120


def run(
    installation: Installation, *words: str, given: bytes = b"", cwd: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """A command as typed in another terminal. The examples are told the broker's address, beefline finds it."""
    assert installation.loaded is not None
    bootstrap = {"BEEFLINE_KAFKA_BOOTSTRAP": installation.loaded.settings.kafka.bootstrap}
    environment = os.environ if words[:3] == BEEFLINE else os.environ | bootstrap
    return subprocess.run(
        words, input=given.decode(), capture_output=True, text=True, timeout=PATIENCE_S, cwd=cwd, env=environment
    )


def generated(seed: int) -> bytes:
    """A payment that no other test sends."""
    (payload,) = Generator(Chain.open(), seed).valid()
    return payload.beef


def test_the_commands_that_up_proposes(installation: Installation) -> None:
    """`beefline generate --count 3 | beefline submit --wait -`."""
    made = run(installation, *BEEFLINE, "generate", "--count", "3")
    ran = run(installation, *BEEFLINE, "submit", "--wait", "-", given=made.stdout.encode())
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-1] == "3 applied"


@pytest.mark.parametrize(
    ("name", "code", "outcome", "said"),
    [
        ("mainnet-157428ae-unmined", 0, "applied", "admitted 0"),
        ("mainnet-17d1829b-unmined", 0, "applied", "admitted 0"),
        ("mainnet-17d1829b-proven", 0, "applied", "admitted 0"),
        ("mainnet-27c8f378-unmined", 0, "applied", "admitted 0-2"),
        ("generated-p2pkh", 0, "applied", "admitted 0"),
        ("generated-bad-signature", 1, "rejected", "script.false  at tx 1 input 0"),
    ],
)
def test_the_payloads_to_try_end_as_their_page_says(
    installation: Installation, name: str, code: int, outcome: str, said: str
) -> None:
    ran = run(installation, *BEEFLINE, "submit", "--wait", str(PAYLOADS / f"{name}.beef"))
    assert (ran.returncode, ran.stderr) == (code, "")
    (row,) = ran.stdout.splitlines()[1:]
    assert row.startswith(outcome)
    assert said in row


def test_status_tells_of_each_stage(installation: Installation) -> None:
    assert installation.loaded is not None
    ran = run(installation, *BEEFLINE, "status", "--json")
    assert (ran.returncode, ran.stderr) == (0, "")
    told = json.loads(ran.stdout)
    assert told["bootstrap"] == installation.loaded.settings.kafka.bootstrap
    assert [row["stage"] for row in told["stages"]] == list(STAGES)
    for row in told["stages"]:
        assert (row["health"], row["group"]) == ("ready", f"beef.beefline-{row['stage']}")
        assert Path(f"/proc/{row['pid']}").exists()
        assert row["lag"] >= 0
    ran = run(installation, *BEEFLINE, "status")
    assert ran.returncode == 0
    for row, line in zip(told["stages"], ran.stdout.splitlines()[1:], strict=True):
        assert {row["stage"], "ready", str(row["pid"]), row["group"], row["http"]} <= set(line.split())


def test_a_greeting_enters_its_topic(installation: Installation) -> None:
    ran = run(
        installation, *BEEFLINE, "submit", "--wait", "--json", "--topic", "tm_helloworld", "--topic", "tm_anytx",
        str(PAYLOADS / "generated-hello.beef"),
    )  # fmt: skip
    report = json.loads(ran.stdout)
    admitted = {each["context"]: each["admittance"]["outputs_to_admit"] for each in report["decisions"]}
    assert admitted == {"topic:tm_anytx": [0, 1], "topic:tm_helloworld": [0]}
    told = run(installation, *BEEFLINE, "results", "--json", "--request-id", report["request_id"])
    assert {line["outcome"] for line in map(json.loads, told.stdout.splitlines())} >= {"applied"}


async def test_the_client_hears_of_the_contexts_and_of_the_network(installation: Installation) -> None:
    assert installation.loaded is not None
    settings = installation.loaded.settings
    async with Client(settings.kafka.bootstrap, prefix=settings.topics.prefix) as client:
        outcome = await client.submit_and_wait(generated(40), topics=["tm_anytx"], timeout=PATIENCE_S)
        assert (outcome.state, outcome.code) == ("applied", None)
        answer = await client.network(outcome.submitted, timeout=PATIENCE_S)
        assert (answer.outcome, answer.txid) == ("accepted", outcome.txid)
        again = await client.submit_and_wait(generated(40), topics=["tm_anytx"], timeout=PATIENCE_S)
        assert (again.state, again.decisions[0].repeat) == ("applied", True)
        nowhere = await client.submit_and_wait(generated(41), topics=["tm_nosuch"], timeout=PATIENCE_S)
        assert (nowhere.state, nowhere.code) == ("rejected", "admission.unknown-topic")


def test_load_is_applied_and_accepted(installation: Installation) -> None:
    ran = run(installation, *BEEFLINE, "load", "--rate", "40", "--seconds", "3", "--json", "--drain", "90")
    assert ran.returncode == 0, ran.stderr
    report = json.loads(ran.stdout)
    assert (report["sent"], report["decided"], report["accepted"]) == (120, 120, 120)
    assert report["outcomes"] == {"applied": 120, "accepted": 120}


def exchange(
    installation: Installation, producer: Sequence[str], consumer: Sequence[str], file: Path, cwd: Path
) -> None:
    """Submit with one example and read the outcome with the other."""
    sent = run(installation, *producer, str(file), "tm_anytx", cwd=cwd)
    assert sent.returncode == 0, sent.stderr
    request_id = sent.stdout.split()[1]
    read = run(installation, *consumer, request_id, cwd=cwd)
    assert read.returncode == 0, read.stderr
    (line,) = [line for line in read.stdout.splitlines() if request_id in line and line.startswith("applied")]
    assert "topic:tm_anytx" in line


def test_the_basket_example(installation: Installation, tmp_path: Path) -> None:
    """What it puts into a basket the command it proposes lists."""
    owner = make_key("basket example").public.hex()
    file = tmp_path / "payload.beef"
    file.write_text(generated(45).hex())
    ran = run(installation, sys.executable, "examples/python/basket.py", str(file), owner, "coins", "example")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.split() == ["applied", f"owner:{owner}"]
    listed = run(installation, *BEEFLINE, "basket", "list", owner, "coins", "--tag", "example")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert listed.stdout.splitlines()[-1] == "1 of 1"


def test_the_all_or_nothing_example(installation: Installation) -> None:
    """A greeting is taken by both topics, or by neither where one of them makes nothing of it."""
    example, greeting = "examples/python/all_or_nothing.py", str(PAYLOADS / "generated-hello.beef")
    ran = run(installation, sys.executable, example, greeting, "tm_anytx", "tm_example")
    assert (ran.returncode, ran.stderr) == (0, "")
    refused = "tm_example makes nothing of it"
    assert ran.stdout.splitlines() == [
        f"rejected topic:tm_anytx admission.nothing topic:tm_example: {refused}",
        f"rejected topic:tm_example admission.nothing {refused}",
    ]
    ran = run(installation, sys.executable, example, greeting, "tm_anytx", "tm_helloworld")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert [line.split() for line in ran.stdout.splitlines()] == [
        ["applied", "topic:tm_anytx"], ["applied", "topic:tm_helloworld"],
    ]  # fmt: skip


def test_the_python_examples(installation: Installation, tmp_path: Path) -> None:
    file = tmp_path / "payload.beef"
    file.write_text(generated(42).hex())
    python = EXAMPLES / "python"
    exchange(
        installation, (sys.executable, str(python / "producer.py")), (sys.executable, str(python / "consumer.py")),
        file, ROOT,
    )  # fmt: skip


@pytest.mark.skipif(shutil.which("npm") is None, reason="node is not installed")
def test_the_node_examples(installation: Installation, tmp_path: Path) -> None:
    folder = tmp_path / "node"
    shutil.copytree(EXAMPLES / "node", folder, ignore=shutil.ignore_patterns("node_modules"))
    installed = subprocess.run(
        ["npm", "ci", "--no-audit", "--no-fund"], cwd=folder, capture_output=True, text=True, timeout=PATIENCE_S
    )
    if installed.returncode and "network" in installed.stderr:
        pytest.skip("the package registry cannot be reached")
    assert installed.returncode == 0, installed.stderr
    file = tmp_path / "payload.beef"
    file.write_text(generated(43).hex())
    exchange(installation, ("node", "producer.mjs"), ("node", "consumer.mjs"), file, folder)


def test_the_example_manager_admits_what_carries_its_mark(installation: Installation) -> None:
    ran = run(
        installation, *BEEFLINE, "submit", "--wait", "--json", "--topic", "tm_example",
        str(EXAMPLES / "topic_manager" / "example.beef"), str(PAYLOADS / "generated-hello.beef"),
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    reports = {Path(each["where"].split(" line")[0]).name: each for each in map(json.loads, ran.stdout.splitlines())}
    admitted = {name: report["decisions"][0]["admittance"]["outputs_to_admit"] for name, report in reports.items()}
    assert admitted == {"example.beef": [0], "generated-hello.beef": []}
