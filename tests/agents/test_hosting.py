"""Hosted topics: whose managers run where, and what they are held to."""

import os
from pathlib import Path

import pytest

from agents.runtime.foreign import Foreign, NotUp
from agents.runtime.hosting import ApplySettings, Hosted, Judge
from agents.runtime.records import Held, ManagerFailed
from beefline.testing import Case, Output
from pipeline.overlay.manager import BadManager, Subject, Transaction
from schemas.external import Admittance

HERE = "tests.agents.test_hosting"

SUBJECT = Case("one output", (Output(7, b"\x51"),)).subject()


class Where:
    """Tells which process it is in."""

    version = "1"
    contract = 3

    def examine(self, transaction: Transaction) -> bytes:
        return b"%d" % os.getpid()

    def admit(self, subject: Subject) -> Admittance:
        raise RuntimeError(f"in process {os.getpid()}")


class Exits:
    """Ends the process, if it can."""

    version = "1"

    def admit(self, subject: Subject) -> Admittance:
        raise SystemExit(0)


@pytest.fixture
def before() -> set[int]:
    """Processes of other tests."""
    return children()


def children() -> set[int]:
    return {int(pid) for pid in Path("/proc/self/task", str(os.getpid()), "children").read_text().split()}


@pytest.mark.invariant("TOPIC-1")
@pytest.mark.setting("apply.trusted")
def test_our_own_and_trusted_managers_run_here_and_others_apart(before: set[int]) -> None:
    own = "tm_own=pipeline.overlay.builtin.anytx:AnyTx"
    topics = ("tm_anytx", f"tm_apart={HERE}:Where", f"tm_here={HERE}:Where", own)
    hosted = Hosted("apply", ApplySettings(topics=topics, trusted=("tm_here",)))
    assert {topic for topic, judge in hosted.judges.items() if isinstance(judge._manager, Foreign)} == {"tm_apart"}
    (apart,) = children() - before
    found = {}
    for topic in ("tm_apart", "tm_here"):
        judge = hosted.judges[topic]
        with judge.turn():
            assert judge.examine is not None
            found[topic] = int(judge.examine(SUBJECT))
        with pytest.raises(ManagerFailed, match=f"in process {found[topic]}"), judge.turn():
            judge.admit(SUBJECT)
    assert found == {"tm_here": os.getpid(), "tm_apart": apart}
    hosted.close()
    assert children() == before


def test_a_manager_that_would_end_this_process_costs_its_record() -> None:
    hosted = Hosted("apply", ApplySettings(topics=(f"tm_here={HERE}:Exits",), trusted=("tm_here",)))
    judge = hosted.judges["tm_here"]
    assert judge.examine is None
    with pytest.raises(ManagerFailed, match="SystemExit: 0"), judge.turn():
        judge.admit(SUBJECT)


@pytest.mark.parametrize(
    ("topics", "trusted", "told"),
    [
        (("tm_anytx",), ("tm_anytxt",), "trusted names tm_anytxt"),
        ((f"tm_apart={HERE}:Where", f"tm_x={HERE}:Nothing"), (), "AttributeError"),
        ((f"tm_apart={HERE}:Where", f"tm_x={HERE}:Nothing"), ("tm_x",), "AttributeError"),
    ],
)
def test_who_cannot_be_hosted_stops_the_start_and_leaves_no_process(
    topics: tuple[str, ...], trusted: tuple[str, ...], told: str, before: set[int]
) -> None:
    with pytest.raises(BadManager, match=told):
        Hosted("apply", ApplySettings(topics=topics, trusted=trusted))
    assert children() == before


@pytest.mark.setting("apply.judge_ms")
@pytest.mark.setting("apply.suspend_after")
@pytest.mark.setting("apply.probe_after_s")
@pytest.mark.setting("apply.piece_ms")
def test_settings_are_what_managers_are_held_to() -> None:
    """By a clock that is moved: how slow, how often in a row, and for how long."""
    for judge_ms, suspend_after, probe_after_s in ((50.0, 3, 10.0), (5.0, 2, 60.0)):
        settings = ApplySettings(
            topics=("tm_anytx",), judge_ms=judge_ms, suspend_after=suspend_after, probe_after_s=probe_after_s
        )
        judge = Hosted("apply", settings).judges["tm_anytx"]
        now = [0.0]
        judge.standing.clock = lambda now=now: now[0]  # type: ignore[misc]

        def work(seconds: float, judge: Judge = judge, now: list[float] = now) -> None:
            with judge.turn() as turn:
                judge.admit(SUBJECT)
                turn.took(seconds)

        for _ in range(10):
            work(judge_ms / 1000)  # just within it
        for number in range(suspend_after):
            assert not judge.standing.suspended, number
            work(judge_ms / 1000 + 0.001)
        assert judge.standing.waits_s() == probe_after_s
    for piece_ms in (200.0, 30.0):
        judge = Hosted("apply", ApplySettings(topics=("tm_anytx",), piece_ms=piece_ms)).judges["tm_anytx"]
        now = [0.0]
        judge.standing.clock = lambda now=now: now[0]  # type: ignore[misc]
        with judge.turn() as turn:
            now[0] = piece_ms / 1000 - 0.001
            assert not turn.enough()
            now[0] = piece_ms / 1000 + 0.001
            assert turn.enough()


def test_while_its_process_does_not_come_up_no_record_is_to_blame(monkeypatch: pytest.MonkeyPatch) -> None:
    """The context is suspended at once, and tried later."""
    hosted = Hosted("apply", ApplySettings(topics=(f"tm_apart={HERE}:Where",)))
    judge = hosted.judges["tm_apart"]
    with pytest.raises(ManagerFailed), judge.turn():
        judge.admit(SUBJECT)

    def not_up() -> None:
        raise NotUp("its process takes long to come up")

    monkeypatch.setattr(judge._foreign, "come_up", not_up)
    with pytest.raises(Held, match="takes long to come up"), judge.turn():
        judge.admit(SUBJECT)
    assert judge.standing.suspended
    hosted.close()
