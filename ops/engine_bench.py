"""Apply and whole submissions beside the reference overlay engine: the same payloads, one core, one run.

The engine is `@bsv/overlay` in Node, with a storage in memory, a chain tracker that believes every root, nobody to
broadcast to, and a manager that admits every output. All ways take turns, so that what slows the machine slows all of
them; medians count.
"""

import contextlib
import json
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from agents.runtime.store import Store
from ops.bench import Say, one_core
from ops.home import home
from ops.instruments.chain import Chain
from ops.instruments.generate import Generator
from ops.instruments.submissions import CONTEXTS, TOPICS, Work, apply_all, managers
from ops.node import installed
from pipeline.chain.answer import Answer, Tip
from pipeline.overlay.manager import TopicManager
from pipeline.parse import Payload, parse
from pipeline.policy import Policy
from pipeline.results import decision_id
from pipeline.state import Memory
from pipeline.verify import Plan, Valid, plan, verify
from schemas.flow import OPERATION, Apply, Asked, Origin, Verified

PAYLOADS = 2_000
"""Distinct ones: one un-mined P2PKH payment each, over a proof of 12 levels, for one context."""

ROUNDS = 3
"""Beside one that is not counted: Node compiles what it runs often."""

BATCH = 1_000

TARGET = 3_700
"""Whole submissions a second with the disk: what the Go engine does without one."""

PACKAGE = Path(__file__).with_name("reference_engine")


class Run(Struct, frozen=True):
    """All payloads, once."""

    submitted: int
    admitted: int  # outputs
    seconds: float
    cpu_s: float


class Side(Struct, frozen=True):
    """One way; medians of its rounds."""

    name: str
    submissions_s: float
    cpu_us: float  # of the process, a submission

    @classmethod
    def of(cls, name: str, runs: Sequence[Run]) -> "Side":
        """From its rounds."""
        return cls(
            name,
            statistics.median(run.submitted / run.seconds for run in runs),
            statistics.median(run.cpu_s / run.submitted for run in runs) * 1e6,
        )


class Report(Struct, frozen=True):
    """All of it."""

    payloads: int
    engine: str  # what it is, with versions; empty where it cannot be had
    sides: tuple[Side, ...]

    def side(self, name: str) -> Side | None:
        """That way, where it was measured."""
        return next((side for side in self.sides if side.name == name), None)


APPLY, APPLY_DISK = "apply, in memory", "apply, with the disk"
PARSED = "parse and apply, in memory"
WHOLE, WHOLE_DISK = "parse, verify and apply, in memory", "parse, verify and apply, with the disk"
NO_SPV, SUBMIT = "the engine without SPV", "the engine"


class Ours:
    """The stages' rules one after the other, in this process."""

    def __init__(self, beefs: Sequence[bytes], tip: Tip, managers: Mapping[str, TopicManager]) -> None:
        self._beefs = beefs
        self._tip = tip
        self._managers = managers
        self._policy = Policy()
        self._operations = [(context, OPERATION.encode(operation)) for context, operation in self._work(self._verified)]

    def ways(self) -> dict[str, Callable[[], Run]]:
        """By name."""
        return {
            APPLY: lambda: self._in_memory(self._decoded()),
            APPLY_DISK: lambda: self._with_disk(self._decoded()),
            PARSED: lambda: self._in_memory(self._work(self._believed)),
            WHOLE: lambda: self._in_memory(self._work(self._verified)),
            WHOLE_DISK: lambda: self._with_disk(self._work(self._verified)),
        }

    def _decoded(self) -> Iterator[Work]:
        for context, value in self._operations:
            operation = OPERATION.decode(value)
            assert isinstance(operation, Apply)
            yield context, operation

    def _work(self, judged: Callable[[Payload], Valid]) -> Iterator[Work]:
        for number, beef in enumerate(self._beefs):
            payload = parse(beef, self._policy)
            assert isinstance(payload, Payload)
            valid = judged(payload)
            context = CONTEXTS[number % len(CONTEXTS)]
            origin = Origin("bench", "beef.ingest", 0, number, 1_790_000_000_000)
            asked = Asked(origin, f"request-{number}", (context,))
            verified = Verified(asked, valid.txid, payload.canonical(), valid.members(), valid.fee_sat)
            yield context, Apply(decision_id(origin, context), verified)

    def _believed(self, payload: Payload) -> Valid:
        """Nothing but what apply needs: no signature is looked at, and no root."""
        planned = plan(payload, self._policy, self._tip)
        assert isinstance(planned, Plan)
        return Valid(payload, planned.work.coins, planned.work.fee_sat)

    def _verified(self, payload: Payload) -> Valid:
        planned = plan(payload, self._policy, self._tip)
        assert isinstance(planned, Plan)
        answers = dict.fromkeys(planned.roots, Answer.YES)
        valid = verify(payload, answers, {}, self._tip, self._policy, planned)
        assert isinstance(valid, Valid)
        return valid

    def _in_memory(self, work: Iterator[Work]) -> Run:
        memory = Memory()
        return self._run(work, lambda work: apply_all(memory, memory.write, work, self._managers, BATCH))

    def _with_disk(self, work: Iterator[Work]) -> Run:
        folder = Path(tempfile.mkdtemp(prefix="engine-bench-", dir=home()))
        store = Store(folder / "store")
        try:
            write = lambda writes: store.write(writes, 0)  # noqa: E731
            return self._run(work, lambda work: apply_all(store, write, work, self._managers, BATCH))
        finally:
            store.close()
            shutil.rmtree(folder)

    def _run(self, work: Iterator[Work], apply: Callable[[Iterator[Work]], int]) -> Run:
        began, used = time.perf_counter(), time.process_time()
        admitted = apply(work)
        return Run(len(self._beefs), admitted, time.perf_counter() - began, time.process_time() - used)


class Engine:
    """The reference engine in a process of its own."""

    def __init__(self, folder: Path, beefs: Sequence[bytes]) -> None:
        payloads = folder / "payloads.txt"
        payloads.write_text(
            "".join(f"{TOPICS[n % len(TOPICS)]} {beef.hex()}\n" for n, beef in enumerate(beefs)), encoding="ascii"
        )
        self._process = subprocess.Popen(
            ["node", "submit.mjs", payloads.name], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.name: str = json.loads(self._line())

    def ways(self) -> dict[str, Callable[[], Run]]:
        """By name."""
        return {NO_SPV: lambda: self._run("no-spv"), SUBMIT: lambda: self._run("whole")}

    def _run(self, what: str) -> Run:
        assert self._process.stdin is not None
        self._process.stdin.write(what + "\n")
        self._process.stdin.flush()
        return Run(**json.loads(self._line()))

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the reference engine ended with {self._process.wait()}")
        return line

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


def compare(say: Say, payloads: int = PAYLOADS, rounds: int = ROUNDS) -> Report:
    """Measure all ways, on one core."""
    with one_core():
        chain = Chain.open(home() / "simulate" / "chain")
        beefs = [payload.beef for payload in Generator(chain, seed=0, first=0).valid(payloads)]
        ways = Ours(beefs, Tip(chain.tip, chain.median_time_past()), managers()).ways()
        folder = installed(PACKAGE, PACKAGE / "submit.mjs", "the reference engine", say)
        if folder is None:
            return _measure(ways, "", payloads, rounds, say)
        with contextlib.closing(Engine(folder, beefs)) as engine:
            return _measure(ways | engine.ways(), engine.name, payloads, rounds, say)


def _measure(ways: Mapping[str, Callable[[], Run]], engine: str, payloads: int, rounds: int, say: Say) -> Report:
    found: dict[str, list[Run]] = {name: [] for name in ways}
    for _ in range(1 + rounds):
        for name, way in ways.items():
            found[name].append(way())
    admitted = {name: {run.admitted for run in runs} for name, runs in found.items()}
    if len(set.union(*admitted.values())) != 1:
        raise RuntimeError(f"not all admit as many outputs: {admitted}")
    sides = tuple(Side.of(name, runs[1:]) for name, runs in found.items())
    for side in sides:
        say(f"{side.name}: {side.submissions_s:,.0f} a second, {side.cpu_us:,.0f} us of CPU each")
    return Report(payloads, engine, sides)


def page(report: Report) -> str:
    """The results as a part of the page."""
    rows = "".join(f"| {side.name} | {side.submissions_s:,.0f} | {side.cpu_us:,.0f} |\n" for side in report.sides)
    told = (
        f"The engine is {report.engine}: a storage in memory, a chain tracker that believes every root, nobody to "
        "broadcast to. *Without SPV* is its mode `historical-tx-no-spv`: it parses, as *parse and apply* does, and "
        "does not verify; where its version has no such mode, its call of the SDK's `verify` is answered unverified."
        if report.engine
        else "The reference engine could not be had on this machine."
    )
    whole = report.side(WHOLE_DISK)
    assert whole is not None
    ratios = [
        f"{ours[:1].upper()}{ours[1:]}: {theirs} takes **{other.cpu_us / one.cpu_us:.1f}** times its processor time."
        for ours, theirs in ((APPLY, NO_SPV), (PARSED, NO_SPV), (WHOLE, SUBMIT), (WHOLE_DISK, SUBMIT))
        if (one := report.side(ours)) is not None and (other := report.side(theirs)) is not None
    ]
    return (
        f"\n## Beside the reference engine\n\n{report.payloads:,} payloads of one un-mined P2PKH payment, each for one "
        f"of {len(CONTEXTS)} contexts of `tm_anytx`'s rule, in process on one core, no Kafka; batches of {BATCH:,}; "
        f"medians of rounds in turn, each with an empty state. {told}\n\n"
        f"| | submissions/s | CPU us |\n|---|---|---|\n{rows}\n"
        f"Whole submissions with the disk: **{whole.submissions_s:,.0f}** a second (target: {TARGET:,}).\n\n"
        + "".join(f"- {ratio}\n" for ratio in ratios)
    )
