"""What a broken manager costs: its record, and neither the others of its context nor those of its partition."""

from collections.abc import Iterator

import pytest

from agents.apply import ApplySettings, ApplyStage
from agents.runtime.foreign import NotUp
from pipeline import state
from schemas.external import Result
from tests.agents.batches import Batches, results, to
from tests.contracts.broken_managers import HARM
from tests.fakes import Record, apply_of, coin_of_others, made_tx, verified
from topics.registry import DEAD_LETTERS, RETRY_10S

HARMFUL, OTHER, OWN = "topic:tm_harmful", "topic:tm_other", "topic:tm_anytx"

HOSTED = (
    "tm_harmful=tests.contracts.broken_managers:Harmful",
    "tm_other=tests.contracts.broken_managers:Fine",
    "tm_anytx",
)

OVERRUN = (b"hang", b"sleep", b"promise")


class Patient:
    """A stage whose managers have as long as they need, but where they are to overrun."""

    def __init__(self, limit_ms: float) -> None:
        settings = ApplySettings(
            topics=HOSTED, judge_ms=60_000, judge_limit_ms=limit_ms, judge_memory_bytes=256 << 20, suspend_after=2
        )
        self.stage = ApplyStage(settings, failures=3)
        self._salt = 0

    def record(self, batches: Batches, context: str, off_chain: bytes = b"") -> Record:
        """A payment."""
        self._salt += 1
        tx = made_tx([coin_of_others(self._salt % 250)], 2, self._salt)
        return batches.record(context, apply_of(verified(tx, offset=self._salt, off_chain=off_chain)))

    def up(self) -> None:
        """Have the processes that were replaced up, however busy the machine is."""
        for judge in self.stage._judges.values():
            while judge._foreign is not None:
                try:
                    judge._foreign.come_up()
                    break
                except NotUp:
                    continue

    def lifted(self) -> "Patient":
        """None of its contexts suspended, whatever was before."""
        self.stage.lift()
        self.up()
        return self


@pytest.fixture(scope="module")
def patient() -> Iterator[Patient]:
    made = Patient(120_000)
    yield made
    made.stage._hosted.close()


@pytest.fixture(scope="module")
def hasty() -> Iterator[Patient]:
    made = Patient(500)
    yield made
    made.stage._hosted.close()


def outcomes(found: list[Result]) -> list[tuple[str, str, str | None]]:
    return [(str(each.context), each.outcome, each.code) for each in found]


@pytest.mark.invariant("TOPIC-1")
@pytest.mark.invariant("FAULT-1")
@pytest.mark.parametrize("when", [b"admit ", b"examine "])
@pytest.mark.parametrize("what", HARM)
def test_harm_costs_its_record_alone(what: bytes, when: bytes, patient: Patient, hasty: Patient) -> None:
    """In the middle of a batch: before it and behind it records of its context, of another's and of one of our own."""
    world = (hasty if what in OVERRUN else patient).lifted()
    batches = Batches(world.stage)
    around = [(HARMFUL, b""), (OTHER, b""), (OWN, b"")]
    before = [world.record(batches, *each) for each in around]
    harm = world.record(batches, HARMFUL, when + what)
    behind = [world.record(batches, *each) for each in reversed(around)]
    outs = batches.do(*before, harm, *behind)
    told = outcomes(results(outs))
    applied = [(context, "applied", None) for context, _ in around]
    (parked,) = [each for each in told if each[1] == "parked"]
    assert (parked[0], str(parked[2]).startswith("internal.manager-")) == (HARMFUL, True)
    assert told[:3] == applied
    assert {OTHER, OWN} <= {context for context, outcome, _ in told[4:] if outcome == "applied"}
    (letter,) = to(outs, DEAD_LETTERS)
    assert (letter.value, dict(letter.headers)["class"]) == (harm.value, b"fault")
    assert dict(letter.headers)["code"].decode() == parked[2]
    # Where the machine is so busy that its process is not up again in time, its context's next record waits.
    waits = [out.value for out in to(outs, RETRY_10S)]
    if world is patient:
        assert (told[4:], waits) == (applied[::-1], [])
    else:
        assert (HARMFUL, "applied", None) in told[4:] or waits == [behind[-1].value]
    assert batches.desk.halted is None
    assert all(not each.admittance or each.admittance.outputs_to_admit for each in results(outs))
    stored = [key for key in batches.store.entries if key.startswith(state.key(HARMFUL, state.TX, b""))]
    assert len(stored) == told.count((HARMFUL, "applied", None))
