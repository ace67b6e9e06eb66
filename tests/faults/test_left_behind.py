"""The supervisor is killed: nothing of ours is left."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import CACHE

pytestmark = pytest.mark.broker

GONE_WITHIN_S = 5.0


def ours(home: Path) -> list[int]:
    """Processes that were started with this home, by their environment."""
    mark = f"BEEFLINE_HOME={home}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:
            continue  # ended, or not ours to look at
    return [pid for pid in found if _state(pid) not in ("Z", "")]


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return ""


@pytest.mark.invariant("PROC-1")
def test_kill_9_of_the_supervisor_leaves_nothing_after_five_seconds(tmp_path: Path) -> None:
    env = {**os.environ, "BEEFLINE_HOME": str(tmp_path), "BEEFLINE_CACHE": str(CACHE)}
    process = subprocess.Popen(
        [sys.executable, "-m", "ops.cli.main", "up", "--dev"], env=env, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("up."):
            break
    started = ours(tmp_path)
    assert len(started) > 10  # broker, five services, five workers and their children
    process.kill()
    process.wait()
    deadline = time.monotonic() + GONE_WITHIN_S
    while (left := ours(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []
    process.stdout.close()


@pytest.mark.setting("worker.stop_within_s")
def test_a_stop_ends_everything_in_order(tmp_path: Path) -> None:
    env = {**os.environ, "BEEFLINE_HOME": str(tmp_path), "BEEFLINE_CACHE": str(CACHE)}
    process = subprocess.Popen(
        [sys.executable, "-m", "ops.cli.main", "up", "--dev"], env=env, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("up."):
            break
    process.terminate()
    assert process.wait(30) == 0
    assert ours(tmp_path) == []
    process.stdout.close()
