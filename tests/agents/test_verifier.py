"""The verifier by itself: outcomes for callers that wait."""

import os
import shutil
import signal
import sys
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest

from agents.runtime.sandbox import SandboxFault
from agents.verifier import NoAnswerError, Outcome, Verifier, verify_payload
from pipeline.chain.answer import Answer, RootAt, Tip
from pipeline.policy import Policy
from schemas.types import display
from tests.agents.test_sandbox import children_of
from tests.builders import TIP, Bag, In, Out, bag, by_p2pkh, by_script, funding, key, payment, push, spend


class Told:
    """A tracker that says what a test wants, and counts."""

    def __init__(self, said: Answer = Answer.YES, tip: Tip | None = TIP, silent: str = "") -> None:
        self.said, self.best, self.silent = said, tip, silent
        self.asked: list[RootAt] = []

    def tip(self) -> Tip | None:
        if self.silent == "tip":
            raise NoAnswerError("anchor.no-quorum", "nobody tells the tip")
        return self.best

    def ask(self, roots: Collection[RootAt]) -> Mapping[RootAt, Answer]:
        self.asked += roots
        if self.silent:
            raise NoAnswerError("anchor.no-quorum", "nobody answers")
        return dict.fromkeys(roots, self.said)


def puzzle(unlocking: bytes = b"\x53", locking: bytes = b"\x53\x87") -> Bag:
    """A payload whose script no template covers: is it 3?"""
    parent = funding(Out(1000, locking))
    return bag(parent, spend([In(parent, unlock=by_script(unlocking))], [Out(999)]), proven=[parent])


def of(outcome: Outcome) -> tuple[str, str | None]:
    return outcome.outcome, outcome.code


def test_a_valid_payload_says_what_the_network_needs() -> None:
    made, tracker = payment(), Told()
    outcome = verify_payload(made.v1(), tracker=tracker)
    assert of(outcome) == ("valid", None)
    assert (outcome.txid, outcome.unmined, outcome.fee_sat) == (display(made.txs[-1].txid), 1, 1)
    assert outcome.ef is not None
    assert [tx.txid for tx in outcome.ef] == [outcome.txid]
    assert tracker.asked == list(made.answers())


@pytest.mark.parametrize(("tracker", "expected"), [
    (Told(Answer.NO), ("invalid", "anchor.wrong-root")),
    (Told(Answer.UNKNOWN), ("indeterminate", "anchor.unknown")),
    (Told(tip=None), ("valid", None)),
    (Told(silent="tip"), ("indeterminate", "anchor.no-quorum")),
    (Told(silent="roots"), ("indeterminate", "anchor.no-quorum")),
])  # fmt: skip
def test_what_the_chain_says(tracker: Told, expected: tuple[str, str | None]) -> None:
    assert of(verify_payload(payment().v1(), tracker=tracker)) == expected


@pytest.mark.parametrize("silent", ["tip", "roots"])
def test_a_fault_outranks_trackers_that_say_nothing(silent: str) -> None:
    parent = funding(Out(1000))
    forged = bag(parent, spend([In(parent, unlock=by_p2pkh(key(2)))], [Out(999)]), proven=[parent])
    assert of(verify_payload(forged.v1(), tracker=Told(silent=silent))) == ("invalid", "script.false")
    assert of(verify_payload(puzzle(b"\x54").v1(), tracker=Told(silent=silent))) == ("invalid", "script.false")


def test_what_cannot_be_read_asks_nobody() -> None:
    tracker = Told(silent="tip")
    outcome = verify_payload(b"\x00", tracker=tracker)
    assert (of(outcome), outcome.txid, outcome.unmined, outcome.ef) == (
        ("invalid", "malformed.magic"),
        None,
        None,
        None,
    )
    assert outcome.message
    assert tracker.asked == []


def test_scripts_no_template_covers_run_in_a_child_of_the_verifier() -> None:
    with Verifier() as verifier:
        assert of(verifier.verify(puzzle().v1(), Told())) == ("valid", None)
        assert of(verifier.verify(puzzle(b"\x54").v1(), Told())) == ("invalid", "script.false")
    assert of(verifier.verify(puzzle().v1(), Told())) == ("valid", None), "it starts again when it is used again"
    verifier.close()
    verifier.close()


def test_a_budget_is_a_verdict_and_the_next_payload_goes_on() -> None:
    loop = puzzle(b"\x51", b"\x76\x75" * 100_000)
    with Verifier(Policy(script_budget_ms=50)) as verifier:
        for _ in range(2):
            assert of(verifier.verify(loop.v1(), Told())) == ("invalid", "policy.script-budget")
            assert of(verifier.verify(puzzle().v1(), Told())) == ("valid", None)


def test_several_threads_share_one_verifier() -> None:
    payloads = [(puzzle(push(bytes((n + 17,)) * 2), push(b"\x20\x20") + b"\x87"), n) for n in range(24)]
    with ThreadPoolExecutor(6) as pool:
        said = list(pool.map(lambda made: of(verify_payload(made[0].v1(), tracker=Told())), payloads))
    assert [outcome for outcome, _ in said] == ["valid" if n == 15 else "invalid" for _, n in payloads]


def test_a_child_that_gets_no_time_says_nothing_of_the_payload() -> None:
    before = set(children_of(os.getpid()))
    with Verifier(Policy(script_budget_ms=300)) as verifier:
        assert of(verifier.verify(puzzle().v1(), Told())) == ("valid", None)
        (child,) = set(children_of(os.getpid())) - before
        os.kill(child, signal.SIGSTOP)
        assert of(verifier.verify(puzzle().v1(), Told())) == ("indeterminate", "script.busy")
        assert of(verifier.verify(puzzle().v1(), Told())) == ("valid", None)


def test_a_child_that_does_not_come_up_is_a_fault_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    with Verifier() as verifier:
        with monkeypatch.context() as patched:
            patched.setattr(sys, "executable", shutil.which("false"))
            for _ in range(2):
                with pytest.raises(SandboxFault):
                    verifier.verify(puzzle().v1(), Told())
            assert of(verifier.verify(payment().v1(), Told())) == ("valid", None)
        assert of(verifier.verify(puzzle().v1(), Told())) == ("valid", None)
