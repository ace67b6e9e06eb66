"""What ends a process: no progress where there is work, and the named places where tests end one."""

import asyncio
import os
import signal
import subprocess
import sys

import pytest

from agents import metrics
from agents.runtime import crash, watchdog
from agents.runtime.board import Board
from agents.runtime.desk import Desk
from agents.runtime.suspects import Suspicion
from agents.runtime.watchdog import StuckError, Watchdog
from tests.fakes import NOW_MS, Record

TP = ("beef.ingest", 0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr("agents.runtime.watchdog.time.monotonic", lambda: now[0])
    return now


class Stage:
    """What a watchdog looks at."""

    def __init__(self) -> None:
        self.board = Board(max_in_flight=10, max_bytes=1 << 20)
        self.board.assign({TP: (0, Suspicion())}, 1)
        self.lag: int | None = 0
        self.waiting = False
        desk = Desk(self.board, restores=False, settle_s=1)
        self.dog = Watchdog("watched", desk, lambda: self.waiting, lambda: self.lag, 60.0)

    def put(self, offset: int) -> None:
        self.board.put(TP, [Record("beef.ingest", 0, offset)], offset + 1)


@pytest.mark.parametrize("where", ["queued", "in hand", "given back"])
def test_the_age_of_the_oldest_input_rises_while_it_waits(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """Wherever it is, and however young others are; with the last one acknowledged it is nothing."""
    stage = Stage()
    written_s = NOW_MS / 1000

    def age(seconds: float) -> float:
        monkeypatch.setattr("agents.runtime.watchdog.time.time", lambda: written_s + seconds)
        stage.dog.look()
        return metrics.OLDEST_INPUT.labels("watched")._value.get()  # type: ignore[no-any-return]

    assert age(5) == 0
    stage.put(0)
    if where != "queued":
        batch = stage.board.take(1)
    if where == "given back":
        batch.give_back(batch.records)
    stage.waiting = True
    assert [age(10), age(70)] == [pytest.approx(10), pytest.approx(70)]
    stage.board.put(TP, [Record("beef.ingest", 0, 1, timestamp=NOW_MS + 60_000)], 2)
    assert age(80) == pytest.approx(80)
    for _ in range(2):
        held = batch if where == "in hand" and stage.board.in_flight else stage.board.take(1)
        held.finished(held.records)
    assert age(90) == 0


@pytest.mark.setting("worker.stuck_after_s")
@pytest.mark.parametrize("work", ["lag", "queued", "in hand"])
def test_work_without_progress_ends_the_process(clock: list[float], work: str) -> None:
    stage = Stage()
    if work == "lag":
        stage.lag = 5
    else:
        stage.put(0)
    if work == "in hand":
        stage.board.take(1)
    stage.dog.look()
    clock[0] += 60
    stage.dog.look()
    clock[0] += 0.1
    with pytest.raises(StuckError, match="no progress for 60 s"):
        stage.dog.look()


@pytest.mark.parametrize("sign", ["finished", "nothing to do", "waits on purpose"])
def test_progress_begins_the_time_again(clock: list[float], sign: str) -> None:
    stage = Stage()
    stage.lag = 5
    for number in range(5):
        stage.dog.look()
        clock[0] += 59
        if sign == "finished":
            stage.put(number)
            batch = stage.board.take(1)
            batch.finished(batch.records)
        elif sign == "nothing to do":
            stage.lag = 0
            stage.dog.look()
            stage.lag = 5
        else:
            stage.waiting = True
            stage.dog.look()
            stage.waiting = False
    stage.dog.look()
    assert stage.dog.idle_s < 60


def test_an_idle_worker_is_left_alone_for_ever(clock: list[float]) -> None:
    stage = Stage()
    for _ in range(100):
        clock[0] += 1000
        stage.dog.look()


def test_a_lag_nobody_knows_is_the_one_known_last(clock: list[float]) -> None:
    """The client does not know the end of the log until it fetched: that is no reason to feel safe."""
    stage = Stage()
    stage.lag = 7
    stage.dog.look()
    stage.lag = None
    clock[0] += 61
    with pytest.raises(StuckError, match="7 records behind"):
        stage.dog.look()
    assert stage.dog.behind == 7


def test_each_look_is_measured(clock: list[float]) -> None:
    stage = Stage()
    stage.lag = 9
    stage.put(0)
    stage.board.take(1)
    stage.dog.look()
    text = metrics.exposition().decode()
    for name, value in (("lag_records", 9), ("in_flight_records", 1), ("partitions", 1)):
        assert f'beefline_{name}{{stage="watched"}} {value}.0' in text
    assert f'beefline_in_flight_bytes{{stage="watched"}} {stage.board.bytes}.0' in text


async def test_it_looks_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "CHECK_S", 0.001)
    stage = Stage()
    stage.lag = 3
    stage.dog._stuck_after_s = 0.02
    with pytest.raises(StuckError):
        await asyncio.wait_for(stage.dog.run(), 5)


# --- named places

CRASH = """
import sys
from agents.runtime import crash
if sys.argv[1]:
    crash.arm(sys.argv[1])
for number in range(4):
    crash.point(crash.BEFORE_COMMIT)
    crash.point(crash.DURING_RESTORE)
    print(number, flush=True)
"""


@pytest.mark.setting("worker.crash_point")
@pytest.mark.parametrize(
    ("spec", "code", "passed"),
    [
        ("", 0, 4),
        (crash.BEFORE_COMMIT, -9, 0),
        (f"{crash.BEFORE_COMMIT}:3", -9, 2),
        (f"{crash.DURING_RESTORE}:1", -9, 0),
        (f"{crash.BEFORE_COMMIT}:9", 0, 4),
        (f"{crash.BEFORE_PRODUCE}:1", 0, 4),
    ],
)
def test_the_nth_passage_of_a_named_place_ends_the_process(spec: str, code: int, passed: int) -> None:
    done = subprocess.run([sys.executable, "-c", CRASH, spec], capture_output=True, timeout=30, env=dict(os.environ))
    assert (done.returncode, len(done.stdout.split())) == (code, passed)


@pytest.mark.setting("worker.crash_point")
def test_a_process_that_stops_at_a_named_place_goes_on_from_there() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", CRASH, f"{crash.BEFORE_COMMIT}:2:stop"], stdout=subprocess.PIPE, env=dict(os.environ)
    )
    try:
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        process.send_signal(signal.SIGCONT)
        out, _ = process.communicate(timeout=30)
        assert (process.returncode, len(out.split())) == (0, 4)
    finally:
        process.kill()


@pytest.mark.parametrize(
    "spec",
    [
        "nowhere",
        "",
        ":1",
        f"{crash.BEFORE_COMMIT}:soon",
        f"{crash.BEFORE_COMMIT}:0",
        f"{crash.BEFORE_COMMIT}:1:rest",
    ],
)
def test_a_place_that_does_not_exist_is_refused(spec: str) -> None:
    with pytest.raises(ValueError):
        crash.arm(spec)
