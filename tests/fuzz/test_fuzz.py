"""Fuzzing, 20 s a target: no input raises, stalls or grows past its bound. `make fuzz` takes longer."""

import importlib.util
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.checks import CHECKS
from tests.fuzz.kept import kept, seeds

ROOT = Path(__file__).parents[2]
FAILED = ROOT / ".beefline" / "fuzz"
"""Where an input that fails is left for who looks into it."""

SECONDS = 20
WITHIN_S = 180.0

needs_atheris = pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None,
    reason="atheris is not installed: it has no wheel for this platform, or `make test` could not fetch it",
)


def fuzz(*command: str) -> subprocess.CompletedProcess[str]:
    """Run it, from a shell: a process counts the memory of who started it as its own largest, and a test's is large.

    The pipe ends when the last process that holds it is gone: the measuring one too, so nothing is left.
    """
    FAILED.mkdir(parents=True, exist_ok=True)
    prefix = f"-artifact_prefix={FAILED.relative_to(ROOT)}/failed-"
    with subprocess.Popen(
        ["sh", "-c", '"$@"; exit $?', "sh", sys.executable, *command, "-seed=1", prefix],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True,
    ) as running:  # fmt: skip
        try:
            said, _ = running.communicate(timeout=WITHIN_S)
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(command, running.returncode, said)


def left_of(ran: subprocess.CompletedProcess[str]) -> str:
    """The file that holds the input it ended at."""
    found = re.search(r"Test unit written to (\S+)", ran.stdout)
    return found[1] if found else ""


@needs_atheris
@pytest.mark.parametrize("name", list(CHECKS))
def test_no_input_raises_stalls_or_grows(name: str, tmp_path: Path) -> None:
    ran = fuzz("-m", "tests.fuzz.target", name, str(tmp_path), f"-max_total_time={SECONDS}")
    again = f"again: python -m tests.fuzz.target {name} {left_of(ran)}"
    assert ran.returncode == 0, f"{ran.stdout[-6000:]}\n{again}"
    done = re.search(r"^Done (\d+) runs", ran.stdout, re.MULTILINE)
    assert done, ran.stdout[-6000:]
    assert int(done[1]) > len(set(seeds()) | set(kept(name))), "not even the corpus was run through"


PLANTED = """
import tests.fuzz.target as target
from tests.fuzz import bare
from pipeline.parse import Payload, parse
from tests.fuzz.checks import LENIENT
inputs, hoard = 0, []
def amounts(tx):
    return [tx.satoshis(vout) for vout in range(len(tx.outs) - 1)]
def check(data):
    global inputs
    inputs += 1
    before(data)
    found = parse(data, LENIENT)
    txs = found.txs if isinstance(found, Payload) else []
    {fault}
before, target.CHECKS["parse"] = target.CHECKS["parse"], check
target.WARM, target.MORE_BLOCKS = 200, 2_000
target.main()
"""


@needs_atheris
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("assert all(max(amounts(tx)) < 2**64 - 1 for tx in txs), 'an amount no seed has'", "an amount no seed has"),
        ("hoard.extend(object() for _ in range(10))", "more blocks of memory than after input 200"),
        ("bytes(1 << 30)", "MemoryError"),
        ("bare.limit_s = target.limit_s = lambda size: 1e-7", "bytes took 0 ms; at most 0"),
        ("bare.PEAK_BESIDE['parse'] = -10**9", "bytes of memory; at most -"),
    ],
    ids=["raises", "leaks", "allocates much at once", "is slow", "takes memory"],
)
def test_a_planted_fault_is_found_and_its_input_kept(fault: str, message: str, tmp_path: Path) -> None:
    ran = fuzz("-c", PLANTED.format(fault=fault), "parse", str(tmp_path), "-runs=10000")
    assert message in ran.stdout, ran.stdout[-2000:]
    assert ran.returncode
    left = ROOT / left_of(ran)
    assert left.is_file(), ran.stdout[-2000:]
    left.unlink()


@needs_atheris
def test_one_input_can_be_tried_again(tmp_path: Path) -> None:
    """What fails leaves a file; the target takes it in place of a folder, and reads that alone."""
    path = tmp_path / "input"
    path.write_bytes(seeds()[0])
    ran = fuzz("-m", "tests.fuzz.target", "verify", str(path))
    assert ran.returncode == 0, ran.stdout[-2000:]
    assert f"Executed {path}" in ran.stdout
    assert list(tmp_path.iterdir()) == [path]
