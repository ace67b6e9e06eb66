"""Children kept running: started again with backoff, stopped, killed when they will not stop, never left behind."""

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from agents.runtime.health import Port
from agents.runtime.settings import WorkerSettings
from ops import running
from ops import supervisor as module
from ops.health import serve_health
from ops.settings import SupervisorSettings
from ops.supervisor import Spec, Supervisor, simulate_spec, worker_spec

ROOT = Path(__file__).parents[2]

QUICK = SupervisorSettings(backoff_s=0.02, backoff_max_s=0.08, healthy_after_s=30)

SLEEPS = (sys.executable, "-S", "-c", "import time; time.sleep(600)")
DEAF = (
    sys.executable, "-S", "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)",
)  # fmt: skip


def shell(script: str) -> tuple[str, ...]:
    return ("/bin/sh", "-c", script)


async def until(true: Callable[[], Any], within_s: float = 10) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, "it does not come about"
        await asyncio.sleep(0.005)


@asynccontextmanager
async def supervised(
    *specs: Spec, settings: SupervisorSettings = QUICK, log_dir: Path | None = None
) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(specs, settings, log_dir)
    supervisor.start()
    try:
        yield supervisor
    finally:
        await supervisor.stop()


def lives(pid: int) -> bool:
    """Whether a process runs; one that ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def said(caplog: pytest.LogCaptureFixture) -> list[Any]:
    """What the log lines were made of."""
    return [record.args for record in caplog.records]


# --- restarts


@pytest.mark.setting("supervisor.backoff_s")
@pytest.mark.setting("supervisor.backoff_max_s")
async def test_a_child_that_ends_is_started_again_later_and_later(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.WARNING, "ops.supervisor")
    starts = tmp_path / "starts"
    async with supervised(Spec("child", shell(f"date +%s.%N >> {starts}; exit 3"))) as supervisor:
        await until(lambda: supervisor.child("child").restarts >= 5)
    waits = [wait for _, _, wait in said(caplog)]
    assert waits[:5] == [0.02, 0.04, 0.08, 0.08, 0.08]
    assert {code for _, code, _ in said(caplog)} == {3}
    times = [float(line) for line in starts.read_text().split()]
    assert all(later - earlier >= wait for earlier, later, wait in zip(times, times[1:], waits, strict=False))


@pytest.mark.setting("supervisor.healthy_after_s")
async def test_a_child_that_ran_long_enough_begins_with_the_first_wait_again(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """The fourth start runs for longer than what counts as healthy."""
    caplog.set_level(logging.WARNING, "ops.supervisor")
    starts = tmp_path / "starts"
    script = f"echo x >> {starts}; [ $(wc -l < {starts}) = 4 ] && sleep 0.3; exit 1"
    settings = SupervisorSettings(backoff_s=0.02, backoff_max_s=1.0, healthy_after_s=0.25)
    async with supervised(Spec("child", shell(script)), settings=settings) as supervisor:
        await until(lambda: supervisor.child("child").restarts >= 5)
    waits = [wait for _, _, wait in said(caplog)]
    assert waits[:5] == [0.02, 0.04, 0.08, 0.02, 0.04]


async def test_children_do_not_wait_for_each_other() -> None:
    async with supervised(Spec("ends", shell("exit 1")), Spec("stays", SLEEPS)) as supervisor:
        await until(lambda: supervisor.child("ends").restarts >= 2)
        stays = supervisor.child("stays")
        assert stays.restarts == 0
        assert stays.pid is not None
        assert lives(stays.pid)


async def test_a_program_that_cannot_be_started_is_an_error() -> None:
    supervisor = Supervisor([Spec("none", ("/nowhere/at/all",)), Spec("stays", SLEEPS)], QUICK)
    supervisor.start()
    with pytest.raises(OSError, match="nowhere"):
        await asyncio.wait_for(supervisor.failed(), 10)
    await supervisor.stop()


async def test_output_goes_to_a_file_of_its_own_over_restarts(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    specs = [Spec(name, shell(f"echo {name} out; echo {name} err >&2; exit 1")) for name in ("one", "two")]
    async with supervised(*specs, log_dir=logs) as supervisor:
        await until(lambda: all(child.restarts >= 2 for child in supervisor.children))
    for name in ("one", "two"):
        lines = (logs / f"{name}.log").read_text().splitlines()
        assert lines[:4] == [f"{name} out", f"{name} err"] * 2


async def test_a_child_is_told_its_supervisors_pid(tmp_path: Path) -> None:
    said = tmp_path / "said"
    async with supervised(Spec("child", shell(f"echo {{pid}} $PPID > {said}; exec sleep 600"))):
        await until(lambda: said.exists() and said.read_text().endswith("\n"))
    assert said.read_text().split() == [str(os.getpid())] * 2


# --- stopping


class Recorded:
    """A process that notes when it is told to end, in a list that several share."""

    returncode: int | None = None
    pid = 0

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log
        self.ended = asyncio.Event()

    def send_signal(self, what: signal.Signals) -> None:
        self.log.append(f"{self.name} {what.name}")
        self.ended.set()

    async def wait(self) -> int:
        await self.ended.wait()
        self.returncode = 0
        return 0


async def test_children_are_told_to_end_in_the_order_they_were_named() -> None:
    """What makes work is told before what takes it."""
    log: list[str] = []
    names = ["parse", "verify", "apply", "broadcast"]
    supervisor = Supervisor([Spec(name, SLEEPS) for name in names], QUICK)
    for child in supervisor.children:
        child.process = Recorded(child.spec.name, log)  # type: ignore[assignment]
    await supervisor.stop()
    assert log == [f"{name} SIGTERM" for name in names]


async def test_stopping_ends_all_and_starts_none_again() -> None:
    supervisor = Supervisor([Spec("a", SLEEPS), Spec("b", SLEEPS), Spec("c", shell("exit 1"))], QUICK)
    supervisor.start()
    await until(lambda: all(supervisor.child(name).pid for name in ("a", "b")))
    pids = [child.pid for child in supervisor.children if child.pid is not None]
    await supervisor.stop()
    assert not any(lives(pid) for pid in pids)
    assert [child.pid for child in supervisor.children] == [None] * 3
    assert all(task.done() for task in supervisor._tasks)  # nobody is left who would start one
    await supervisor.stop()  # a second time does nothing


def children_of_ours() -> list[int]:
    """Processes whose parent this one is, zombies left out."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text().rsplit(")", 1)[1].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(parent) == os.getpid() and state != "Z":
            found.append(int(path.parent.name))
    return found


@pytest.mark.parametrize("steps", range(8))
async def test_stopped_while_it_starts_it_leaves_nothing(steps: int) -> None:
    """At whatever step of starting a process."""
    before = set(children_of_ours())
    supervisor = Supervisor([Spec("a", SLEEPS), Spec("b", SLEEPS)], QUICK)
    supervisor.start()
    for _ in range(steps):
        await asyncio.sleep(0)
    await supervisor.stop()
    await until(lambda: set(children_of_ours()) <= before)


async def test_who_does_not_stop_is_killed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "STOP_WITHIN_S", 0.3)
    supervisor = Supervisor([Spec("deaf", DEAF), Spec("hears", SLEEPS)], QUICK, tmp_path)
    supervisor.start()
    log = tmp_path / "deaf.log"
    await until(lambda: log.exists() and log.read_text() == "deaf\n")
    pids = [child.pid for child in supervisor.children]
    began = time.monotonic()
    await supervisor.stop()
    assert 0.3 <= time.monotonic() - began < 5
    assert not any(pid and lives(pid) for pid in pids)
    assert [name for name, *_ in said(caplog)] == ["deaf"]
    process = supervisor.child("deaf").process
    assert process is not None
    assert process.returncode == -signal.SIGKILL


def test_a_worker_of_the_settings_keeps_children_as_declared() -> None:
    """The names under which children are known, and the commands they run."""
    assert worker_spec("parse", ["a.b=1", "c.d=2"]) == Spec(
        "parse",
        (
            sys.executable, "-m", "ops.cli.main", "worker", "parse", "--guarded", "{pid}", "--set", "a.b=1", "--set",
            "c.d=2",
        ),
    )  # fmt: skip
    assert worker_spec("parse", [], 2).name == "parse.2"
    assert simulate_spec("arc", "arc", "--port", "0").argv[-4:] == ("arc", "--port", "0", "--guarded={pid}")


# --- never left behind


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A supervisor in a process of its own."""
    process = subprocess.Popen([sys.executable, "-m", "tests.ops.supervise", str(tmp_path)], cwd=ROOT)
    yield process
    process.kill()
    process.wait()


@pytest.mark.invariant("PROC-1")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
async def test_children_end_with_their_supervisor_however_it_ends(
    driver: subprocess.Popen[bytes], tmp_path: Path, how: signal.Signals
) -> None:
    logs = [tmp_path / f"{name}.log" for name in ("one", "two")]
    await until(lambda: all(log.exists() and log.read_text().endswith("\n") for log in logs), 20)
    pids = [int(log.read_text()) for log in logs]
    assert all(lives(pid) for pid in pids)
    driver.send_signal(how)
    await asyncio.to_thread(driver.wait, 20)
    await until(lambda: not any(lives(pid) for pid in pids), 5)


# --- what runs here


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BEEFLINE_HOME", str(tmp_path))
    (tmp_path / "run").mkdir()
    return tmp_path


def write_worker(home: Path, pid: int, url: str, stage: str = "parse") -> Path:
    about = {
        "stage": stage, "pid": pid, "group": "g", "http": url, "bootstrap": "b", "prefix": "beef.", "started": 1.0,
    }  # fmt: skip
    path = home / "run" / f"{stage}-{pid}.json"
    path.write_text(json.dumps(about))
    return path


def test_workers_that_live_are_listed_and_files_of_the_dead_removed(home: Path) -> None:
    """One that ended and was not waited for is dead too."""
    zombie = subprocess.Popen(shell("exit 0"))
    deadline = time.monotonic() + 10
    while lives(zombie.pid):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    mine = write_worker(home, os.getpid(), "http://a")
    dead = write_worker(home, zombie.pid, "http://b", "verify")
    found = running.running_workers()
    zombie.wait()
    assert [(worker.stage, worker.pid, worker.http) for worker in found] == [("parse", os.getpid(), "http://a")]
    assert (mine.exists(), dead.exists()) == (True, False)


def test_a_process_that_ends_while_it_is_looked_at_is_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was there to be asked, and is not there to be read."""
    ended = subprocess.Popen(shell("exit 0"))
    ended.wait()
    monkeypatch.setattr("ops.running.os.kill", lambda pid, signal: None)
    assert not running._lives(ended.pid)
    assert running._lives(os.getpid())


def test_a_local_installation_that_lives_is_known(home: Path) -> None:
    assert running.local() is None
    running.say_local(os.getpid(), ["kafka.bootstrap=a:1"], {"services": {"arc": ["u"]}})
    about = running.local()
    assert about is not None
    assert about["services"] == {"arc": ["u"]}
    assert running.local_settings() == ("kafka.bootstrap=a:1",)
    running.unsay_local()
    assert running.local() is None
    running.unsay_local()
    ended = subprocess.Popen(shell("exit 0"))
    ended.wait()
    running.say_local(ended.pid, [], {})
    assert running.local() is None


@pytest.mark.parametrize(("nodes", "copies", "isr"), [(0, 1, 1), (1, 1, 1), (2, 2, 1), (3, 3, 2), (5, 3, 2)])
def test_settings_follow_the_nodes_of_a_local_broker(nodes: int, copies: int, isr: int) -> None:
    assert running.broker_settings("a:1", nodes) == (
        "kafka.bootstrap=a:1", f"topics.replication={copies}", f"topics.min_isr={isr}",
    )  # fmt: skip


class Ready:
    """A worker's answers."""

    def __init__(self) -> None:
        self.up = True

    def alive(self) -> bool:
        return True

    def ready(self) -> tuple[bool, dict[str, object]]:
        return self.up, {}

    def resume(self) -> None:
        pass


async def test_a_supervisor_is_ready_when_every_child_is(home: Path) -> None:
    """A child that has not said where it answers, does not answer, or says no, is not."""
    watched = Ready()
    port = Port(watched, WorkerSettings())
    await port.start()
    async with supervised(Spec("one", SLEEPS), Spec("two", SLEEPS)) as supervisor:
        await until(lambda: all(child.pid for child in supervisor.children))
        health = await serve_health(supervisor, 0)

        async def ready() -> tuple[int, list[bool]]:
            async with session.get(f"{health.url}/readyz") as response:
                said = await response.json()
                assert said["ready"] == (response.status == 200)
                return response.status, [said["children"][name]["ready"] for name in ("one", "two")]

        async with aiohttp.ClientSession() as session:
            assert await ready() == (503, [False, False])
            one, two = (child.pid for child in supervisor.children)
            assert one is not None
            assert two is not None
            write_worker(home, one, port.url)
            write_worker(home, two, port.url)
            assert await ready() == (200, [True, True])
            watched.up = False
            assert await ready() == (503, [False, False])
            watched.up = True
            await port.stop()
            assert await ready() == (503, [False, False])
            async with session.get(f"{health.url}/livez") as response:
                assert response.status == 200
        await health.stop()
