"""Managers in processes of their own: whatever one does to its process, a record of it is what it costs."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.runtime.foreign import Foreign, NotUp, Place
from agents.runtime.records import ManagerFailed
from beefline.testing import Case, Output, Spend
from pipeline.overlay.manager import BadManager, Subject, Transaction, admit, examine, examiner
from schemas.external import Admittance
from schemas.flow import Examined
from tests.contracts.broken_managers import HARM

HERE = "tests.contracts.broken_managers"

PATIENT_S, MEMORY = 60.0, 256 << 20

SUBJECT = Case(
    "two outputs", (Output(7, b"\x51"), Output(9, b"\x52")), (Spend(Output(1, b"\x53"), coin=True),)
).subject()


def place(name: str, limit_s: float = PATIENT_S, memory: int = MEMORY) -> Place:
    return Place("tm_x", f"{HERE}:{name}", memory, limit_s)


def begun(name: str, limit_s: float = PATIENT_S) -> Foreign:
    manager = Foreign(place(name, limit_s))
    try:
        manager.begin()
    except BaseException:
        manager.close()
        raise
    return manager


@pytest.fixture(scope="module")
def harmful() -> Iterator[Foreign]:
    """One that is as patient as the slowest machine."""
    manager = begun("Harmful")
    yield manager
    manager.close()


@pytest.fixture(scope="module")
def hasty() -> Iterator[Foreign]:
    """The same, ended after half a second."""
    manager = begun("Harmful", 0.5)
    yield manager
    manager.close()


def said(manager: Foreign, off_chain: bytes = b"", facts: bytes = b"\x02") -> Admittance:
    manager.come_up()
    subject = Subject(SUBJECT.txid, SUBJECT.raw, SUBJECT.sources, (0,), off_chain, facts)
    return admit(manager, "tm_x", subject)


def examined(manager: Foreign, off_chain: bytes = b"") -> Examined:
    manager.come_up()
    asked = examiner(manager)
    assert asked is not None
    return examine(asked, "tm_x", Transaction(SUBJECT.txid, SUBJECT.raw, SUBJECT.sources, off_chain))


def test_it_answers_as_it_would_here(harmful: Foreign) -> None:
    assert said(harmful) == Admittance((0, 1), (), (0,))
    assert said(harmful, facts=b"\x01") == Admittance((0,), (), (0,))
    assert examined(harmful) == Examined("1", b"\x02")
    assert harmful.version == "1"


def test_one_that_examines_nothing_is_not_asked_to() -> None:
    manager = begun("Fine")
    assert manager.examine is None
    assert said(manager) == Admittance((0, 1), (0,), ())
    manager.close()


def test_large_transactions_go_through(harmful: Foreign) -> None:
    """Larger than what a socket holds, there and back."""
    case = Case("large", (Output(1, bytes(4 << 20)), *[Output(1, b"")] * 50_000), (Spend(Output(1, bytes(1 << 20))),))
    subject = case.subject()
    harmful.come_up()
    asked = examiner(harmful)
    assert asked is not None
    wide = Subject(subject.txid, subject.raw, subject.sources, (), b"", b"\xff")
    assert harmful.admit(wide) == Admittance(tuple(range(255)))
    with pytest.raises(ManagerFailed, match="ValueError"):  # more outputs than a byte tells
        asked.examine(subject)


CODES = {
    b"raise": ("internal.manager-raised", "ValueError: as told"),
    b"exit": ("internal.manager-raised", "SystemExit: 3"),
    b"leave": ("internal.manager-ended", "with status 4"),
    b"kill": ("internal.manager-ended", "by SIGKILL"),
    b"hang": ("internal.manager-overran", "within 500 ms"),
    b"sleep": ("internal.manager-overran", "within 500 ms"),
    b"eat": ("internal.manager-ended", "more than 256 MiB"),
    b"nonsense": ("internal.manager-raised", "BadManager: tm_x"),
    b"garble": ("internal.manager-ended", "answers what is none"),
    b"promise": ("internal.manager-overran", "within 500 ms"),
    b"flood": ("internal.manager-ended", "by SIGKILL"),
}


def test_all_harm_is_tried() -> None:
    assert CODES.keys() == set(HARM)


@pytest.mark.invariant("TOPIC-1")
@pytest.mark.setting("apply.judge_limit_ms")
@pytest.mark.setting("apply.judge_memory_bytes")
@pytest.mark.parametrize("where", [b"admit", b"examine"])
@pytest.mark.parametrize("what", HARM)
def test_harm_costs_the_record_and_the_next_is_answered(
    what: bytes, where: bytes, harmful: Foreign, hasty: Foreign
) -> None:
    code, told = CODES[what]
    manager = hasty if code == "internal.manager-overran" else harmful
    with pytest.raises(ManagerFailed, match=told) as raised:
        said(manager, b"admit " + what) if where == b"admit" else examined(manager, b"examine " + what)
    assert raised.value.code == code
    until_up(manager)
    assert said(manager) == Admittance((0, 1), (), (0,))
    assert examined(manager) == Examined("1", b"\x02")


def until_up(manager: Foreign) -> None:
    """On a machine that is busy, a process may need longer than an answer may take."""
    deadline = time.monotonic() + PATIENT_S
    while True:
        try:
            manager.come_up()
        except NotUp:
            assert time.monotonic() < deadline
        else:
            return


def test_its_own_clock_says_how_long_it_was_at_it(harmful: Foreign, hasty: Foreign) -> None:
    """Not the asker's, who may have waited for a busy machine; and for one that was ended its limit."""
    until_up(harmful)
    os.kill(harmful._child.pid, signal.SIGSTOP)
    waking = threading.Timer(0.3, os.kill, (harmful._child.pid, signal.SIGCONT))
    waking.start()
    began = time.monotonic()
    said(harmful)
    assert time.monotonic() - began > 0.25
    assert 0 < harmful.took_s < 0.25
    with pytest.raises(ManagerFailed):
        said(harmful, b"admit raise")
    assert 0 < harmful.took_s < 0.25
    until_up(hasty)
    with pytest.raises(ManagerFailed):
        said(hasty, b"admit hang")
    assert hasty.took_s == 0.5


@pytest.mark.parametrize("what", [b"hang", b"sleep", b"promise"])
def test_nobody_waits_longer_than_the_limit(what: bytes, hasty: Foreign) -> None:
    until_up(hasty)
    began = time.monotonic()
    with pytest.raises(ManagerFailed):
        said(hasty, b"admit " + what)
    assert 0.4 < time.monotonic() - began < 5
    until_up(hasty)


def test_what_it_prints_and_reads_is_not_the_channels() -> None:
    manager = begun("Talkative")
    assert said(manager) == said(manager) == Admittance((0, 1), (0,), ())
    manager.close()


def test_it_sees_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEEFLINE_KAFKA_SASL_USERNAME", "us")
    monkeypatch.setenv("SECRET", "x")
    manager = begun("Curious")
    with pytest.raises(ManagerFailed) as raised:
        said(manager)
    manager.close()
    assert {"PATH", "PYTHONPATH", "PYTHONHASHSEED"} <= set(str(raised.value).split())
    assert not {"BEEFLINE_KAFKA_SASL_USERNAME", "SECRET"} & set(str(raised.value).split())


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Nowhere", "AttributeError"),
        ("NeedsMore", "TypeError"),
        ("Older", "another version of the interface"),
        ("Leaving", "with status 5"),
    ],
)
def test_one_that_cannot_be_loaded_says_why(name: str, told: str) -> None:
    with pytest.raises(BadManager, match=told):
        begun(name)


CHANGING = """
from pathlib import Path
from schemas.external import Admittance

class Manager:
    version = Path(__file__).with_name("version").read_text()

    def admit(self, subject):
        if subject.off_chain_values == b"leave":
            import os
            os._exit(1)
        return Admittance((0,))
"""


@pytest.fixture
def changing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Foreign]:
    """A manager whose version stands in a file."""
    (tmp_path / "changing.py").write_text(CHANGING)
    (tmp_path / "version").write_text("1")
    monkeypatch.syspath_prepend(str(tmp_path))
    manager = Foreign(Place("tm_x", "changing:Manager", MEMORY, PATIENT_S))
    manager.begin()
    yield manager
    manager.close()


def test_code_that_changes_under_a_running_worker_judges_nothing(changing: Foreign, tmp_path: Path) -> None:
    """Judgements say which version made them, and the verify stage may have another: the worker is to be restarted."""
    assert said(changing) == Admittance((0,), (), (0,))
    (tmp_path / "version").write_text("2")
    with pytest.raises(ManagerFailed):
        said(changing, b"leave")
    with pytest.raises(NotUp, match="version '2'"):
        said(changing)
    (tmp_path / "version").write_text("1")
    try:
        said(changing)
    except NotUp:  # the process was made before that, and read what stood there
        assert said(changing) == Admittance((0,), (), (0,))


def test_one_that_does_not_come_up_again_says_why(changing: Foreign, tmp_path: Path) -> None:
    (tmp_path / "version").unlink()
    with pytest.raises(ManagerFailed):
        said(changing, b"leave")
    with pytest.raises(NotUp, match="FileNotFoundError"):
        said(changing)


PARENT = f"""
import sys
from agents.runtime.foreign import Foreign, Place
from beefline.testing import Case, Output
from pipeline.overlay.manager import Subject

manager = Foreign(Place("tm_x", "{HERE}:Harmful", {MEMORY}, float(sys.argv[1])))
manager.begin()
print(manager._child.pid, flush=True)
manager.admit(Case("x", (Output(1, b""),), off_chain_values=b"admit hang").subject())
"""


@pytest.mark.invariant("PROC-1")
def test_it_ends_when_its_parent_is_killed_whatever_it_does() -> None:
    """It hangs, and reads nothing: its own clock ends it."""
    with subprocess.Popen([sys.executable, "-c", PARENT, "2"], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        time.sleep(0.2)
        parent.kill()
    deadline = time.monotonic() + 30
    while Path(f"/proc/{child}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_processes_end_with_it() -> None:
    """Those that were replaced too."""
    manager = begun("Harmful", 0.5)
    pids = [manager._child.pid]
    for what in (b"leave", b"kill"):
        until_up(manager)
        with pytest.raises(ManagerFailed):
            said(manager, b"admit " + what)
        pids.append(manager._child.pid)
    manager.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
