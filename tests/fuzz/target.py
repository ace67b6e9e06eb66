"""Fuzzing of the door for hostile bytes: python -m tests.fuzz.target parse|verify CORPUS [libFuzzer options].

A target fails when anything but a verdict comes out, when what is valid does not read the same from its canonical form,
or when a small payload takes longer than `SLOW_S`. atheris is bound to its platform and has a lock of its own.
"""

import sys
import time
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["pipeline"]):
    from pipeline.chain.answer import Answer, Tip
    from pipeline.outcome import BY_CODE, Condition, Verdict
    from pipeline.parse import parse
    from pipeline.policy import Policy
    from pipeline.script.engine import STEPS_PER_MS, run_jobs
    from pipeline.verify import plan, verify

from tests.fuzz.seeds import seeds

SLOW_S = 0.5
"""For 10 kB, instrumented; about five times what the bare code may take."""

POLICIES = (Policy(script_budget_ms=50), Policy(form="strict", script_budget_ms=50))
TIP = Tip(1_000_000, 1_700_000_000)


def one_parse(data: bytes) -> None:
    """Any bytes give a payload or a verdict of the table; the canonical form is a fixed point."""
    for policy in POLICIES:
        found = parse(data, policy)
        if isinstance(found, Verdict):
            assert found.code in BY_CODE, found
            continue
        canonical = found.canonical()
        assert len(canonical) <= len(data)
        again = parse(canonical, policy)
        assert not isinstance(again, Verdict), again
        assert again.canonical() == canonical
        assert again.subject.txid == found.subject.txid


def one_verify(data: bytes) -> None:
    """With every root confirmed, scripts run too, under the budget."""
    for policy in POLICIES:
        payload = parse(data, policy)
        if isinstance(payload, Verdict):
            continue
        planned = plan(payload, policy, TIP)
        if isinstance(planned, Verdict):
            continue
        results = {result.key: result for result in run_jobs(planned.jobs, policy.script_budget_ms * STEPS_PER_MS)}
        said = verify(payload, dict.fromkeys(planned.roots, Answer.YES), results, TIP, policy)
        if isinstance(said, (Verdict, Condition)):
            assert said.code in BY_CODE, said


def timed(one: object) -> object:
    """A target that also fails when it is slow."""

    def run(data: bytes) -> None:
        began = time.monotonic()
        one(data)  # type: ignore[operator]
        took = time.monotonic() - began
        assert took < SLOW_S * max(1.0, len(data) / 10_000), f"{len(data)} bytes took {took:.2f} s"

    return run


def main() -> None:
    """Run libFuzzer on one target, beginning with the kept corpus and the seeds."""
    name, folder, *options = sys.argv[1:]
    corpus = Path(folder)
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    target = {"parse": one_parse, "verify": one_verify}[name]
    atheris.Setup([sys.argv[0], str(corpus), *options], timed(target))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
