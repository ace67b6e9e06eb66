"""What the verifier costs, on one core: against the signatures alone, and against the SDKs, in one run.

The limit is what libsecp256k1 takes for the same signatures, one call each and nothing else. Rounds of all ways take
turns, so that what slows the machine slows all of them; the median of the rounds' ratios counts.
"""

import asyncio
import gc
import json
import resource
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import _bsv_native as native
from bsv import Transaction
from bsv.chaintracker import ChainTracker
from msgspec import Struct

from agents.verifier import Verifier
from ops.bench import Say, one_core
from ops.home import home
from ops.instruments.chain import CHECKPOINT, Chain
from ops.instruments.generate import KINDS, SHAPES, Generator
from ops.node import installed
from pipeline.chain.answer import Answer, RootAt, Tip
from pipeline.chain.table import RootTable
from pipeline.outcome import Verdict
from pipeline.parse import Payload, parse
from pipeline.policy import Policy
from pipeline.script.sighash import Digests
from pipeline.verify import Plan, Signed, Valid, plan, verify
from schemas.types import display

ROUNDS = 60
"""Of some milliseconds each: short enough that most fall between two interruptions."""

PAYLOADS = 40
"""Distinct ones in each round."""

SETS: tuple[tuple[str, str, int], ...] = (
    ("one un-mined P2PKH transaction", "p2pkh", 1),
    ("two", "chain", 2),
    ("ten", "chain", 10),
    ("a data carrier of 100 kB", "data", 100_000),
)
"""Name, shape and size of what is measured; each over a proof of 12 levels."""

TARGETS = {"one un-mined P2PKH transaction": 0.55, "two": 0.62, "ten": 0.75}
"""The least share of the limit; the aim is 0.70, 0.75 and 0.85."""

PARSE_TARGET = 0.8
"""The most that parsing one un-mined transaction may take, in signature verifications."""

NODE = Path(__file__).with_name("kernel_bench.mjs")
PACKAGE = Path(__file__).parents[1] / "tests" / "differential"


class Timed(Struct, frozen=True):
    """One set of payloads; microseconds a payload, medians of the rounds."""

    name: str
    signatures: float  # a payload
    limit: float  # libsecp256k1 on these signatures, and nothing else
    parse: float
    verify: float  # plan and verify
    whole: float  # bytes to outcome
    share: float  # limit / whole: median of the rounds' ratios
    parsing: float  # parse, in signature verifications: median of the rounds' ratios
    python_sdk: tuple[float, float] | None = None  # its parsing, and its parsing and verifying
    typescript: tuple[float, float] | None = None


class _Set(Struct):
    """Payloads, and what their verification needs."""

    name: str
    beefs: list[bytes]
    parsed: list[Payload]
    answers: dict[RootAt, Answer]
    signatures: list[tuple[bytes, bytes, bytes]]  # DER, digest, key


def kernel(say: Say) -> list[Timed]:
    """Measure every set, on one core."""
    with one_core():
        chain = Chain.open(home() / "simulate" / "chain")
        tip = Tip(chain.tip, chain.median_time_past())
        sets = [_prepare(chain, tip, *each) for each in SETS]
        typescript = _typescript(chain, sets, say)
        found = []
        for each in sets:
            timed = _time(each, tip, typescript.get(each.name))
            say(f"{timed.name}: {timed.whole:.1f} us, {timed.share:.2f} of the limit")
            found.append(timed)
        return found


def _prepare(chain: Chain, tip: Tip, name: str, shape: str, size: int) -> _Set:
    beefs = [payload.beef for payload in Generator(chain, seed=7, first=0).valid(PAYLOADS, shape=shape, size=size)]
    policy = Policy()
    parsed: list[Payload] = []
    signatures = []
    for beef in beefs:
        payload = parse(beef, policy)
        assert isinstance(payload, Payload)
        parsed.append(payload)
        signatures += _signatures(payload, policy, tip)
    answers = {root: Answer.YES for payload in parsed for root in payload.roots}
    return _Set(name, beefs, parsed, answers, signatures)


def _signatures(payload: Payload, policy: Policy, tip: Tip) -> list[tuple[bytes, bytes, bytes]]:
    """DER, digest and key of each."""
    planned = plan(payload, policy, tip)
    assert isinstance(planned, Plan)
    found = []
    for each in planned.work.inline:
        if isinstance(each, Signed):
            found += each.signatures
            continue
        (signature,), (key,) = each.checks.signatures, each.checks.keys
        digest = Digests(payload.unmined[each.place]).of_coin(each.vin, each.coin, each.locking, signature[-1])
        found.append((signature[:-1], digest, key))
    return found


def _time(each: _Set, tip: Tip, typescript: tuple[float, float] | None) -> Timed:
    policy, verifies = Policy(), native.ecdsa_verify
    plans = [plan(payload, policy, tip) for payload in each.parsed]
    pairs = [(payload, found) for payload, found in zip(each.parsed, plans, strict=True) if isinstance(found, Plan)]

    def limit() -> None:
        for der, digest, key in each.signatures:
            verifies(der, digest, key)

    def parsing() -> None:
        for beef in each.beefs:
            parse(beef, policy)

    def verifying() -> None:
        for payload, _ in pairs:
            planned = plan(payload, policy, tip)
            assert isinstance(planned, Plan)
            verify(payload, each.answers, {}, tip, policy, planned)

    def whole() -> None:
        for beef in each.beefs:
            payload = parse(beef, policy)
            assert not isinstance(payload, Verdict)
            planned = plan(payload, policy, tip)
            assert not isinstance(planned, Verdict)
            assert isinstance(verify(payload, each.answers, {}, tip, policy, planned), Valid)

    ways = {"limit": limit, "parse": parsing, "verify": verifying, "whole": whole}
    rounds: dict[str, list[float]] = {name: [] for name in ways}
    gc.collect()
    for _ in range(ROUNDS):
        for name, way in ways.items():
            rounds[name].append(_us(way) / len(each.beefs))
    a_payload = len(each.signatures) / len(each.beefs)
    median = {name: statistics.median(found) for name, found in rounds.items()}
    return Timed(
        name=each.name,
        signatures=a_payload,
        limit=median["limit"],
        parse=median["parse"],
        verify=median["verify"],
        whole=median["whole"],
        share=_ratio(rounds["limit"], rounds["whole"]),
        parsing=_ratio(rounds["parse"], [us / a_payload for us in rounds["limit"]]),
        python_sdk=_python_sdk(each, tip),
        typescript=typescript,
    )


def _us(way: Callable[[], object]) -> float:
    began = time.perf_counter()
    way()
    return (time.perf_counter() - began) * 1e6


def _ratio(above: list[float], below: list[float]) -> float:
    return statistics.median(one / other for one, other in zip(above, below, strict=True))


class _Believing(ChainTracker):  # type: ignore[misc] # the SDK has no types
    """Knows the roots of a set."""

    def __init__(self, each: _Set, tip: Tip) -> None:
        self._known = {(display(root), height) for height, root in each.answers}
        self._tip = tip.height

    async def is_valid_root_for_height(self, root: str, height: int) -> bool:
        return (root, height) in self._known

    async def current_height(self) -> int:
        return self._tip


def _python_sdk(each: _Set, tip: Tip) -> tuple[float, float]:
    """Medians of a tenth of the rounds: it takes longer."""
    tracker = _Believing(each, tip)

    def parsing() -> None:
        for beef in each.beefs:
            Transaction.from_beef(beef)

    async def verify_all() -> None:
        for beef in each.beefs:
            assert await Transaction.from_beef(beef).verify(tracker)

    parsed = [_us(parsing) / len(each.beefs) for _ in range(ROUNDS // 10)]
    whole = [_us(lambda: asyncio.run(verify_all())) / len(each.beefs) for _ in range(ROUNDS // 10)]
    return statistics.median(parsed), statistics.median(whole)


def _typescript(chain: Chain, sets: list[_Set], say: Say) -> dict[str, tuple[float, float]]:
    """The TypeScript SDK's best round, by name of the set; nothing where it cannot be had."""
    folder = installed(PACKAGE, NODE, "the TypeScript SDK", say)
    if folder is None:
        return {}
    roots = {str(height): display(root) for each in sets for height, root in each.answers}
    asked = {"roots": roots, "tip": chain.tip, "rounds": ROUNDS // 2}
    question = folder / "question.json"
    question.write_text(json.dumps(asked | {"sets": {each.name: [b.hex() for b in each.beefs] for each in sets}}))
    ran = subprocess.run(["node", NODE.name, question.name], cwd=folder, capture_output=True, text=True, check=True)
    rows = [json.loads(line) for line in ran.stdout.splitlines()]
    return {row["name"]: (row["parse"], row["whole"]) for row in rows}


# --- memory


SOAK_SAMPLES = 20


class Soaked(Struct, frozen=True):
    """Resident memory of one process while it verified payload after payload."""

    payloads: int
    took_s: float
    samples: tuple[tuple[int, int], ...]  # payloads so far, kilobytes

    @property
    def grown(self) -> int:
        """Kilobytes between a quarter of the way, when all is warm, and the end."""
        return self.samples[-1][1] - self.samples[len(self.samples) // 4][1]


def soak(count: int, say: Say) -> Soaked:
    """Verify `count` payloads in this process: every shape and every kind of fault, over and over."""
    chain = Chain.open(home() / "simulate" / "chain")
    roots = {height: chain.header(height)[36:68] for height in range(CHECKPOINT, chain.tip + 1)}
    table = RootTable(Tip(chain.tip, chain.median_time_past()), roots)
    generator = Generator(chain, seed=9, first=0)
    pool = [payload.beef for shape in SHAPES for payload in generator.valid(3, shape=shape)]
    pool += [generator.invalid(kind).beef for kind in KINDS]
    samples: list[tuple[int, int]] = []
    began = time.monotonic()
    with Verifier() as verifier:
        for number in range(count):
            if number % max(1, count // SOAK_SAMPLES) == 0:
                samples.append((number, _resident_kb()))
                say(f"{number:,} payloads: {samples[-1][1]:,} kB")
            verifier.verify(pool[number % len(pool)], table)
        samples.append((count, _resident_kb()))
    return Soaked(count, time.monotonic() - began, tuple(samples))


def _resident_kb() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() // 1024


# --- the page


def page(found: Iterable[Timed], soaked: Soaked | None) -> str:
    """The results as a part of the page."""
    rows = list(found)
    parts = [
        f"\n## The verifier alone\n\nOne core; {PAYLOADS} distinct payloads over proofs of 12 levels, {ROUNDS} rounds "
        "in turn, medians in microseconds a payload. The limit is libsecp256k1 on the same signatures, nothing else. "
        "The SDKs (bsv-sdk, and the TypeScript SDK where Node is there) parse and verify the same bytes, in their way "
        "(docs/decisions/differences.md).\n\n"
        "| un-mined | limit | parse | verify | both | share of the limit | target | bsv-sdk: parse, both "
        "| TypeScript |\n|---|---|---|---|---|---|---|---|---|\n",
        *(_row(each) for each in rows),
    ]
    if rows:
        parts.append(
            f"\nParsing {rows[0].name} takes **{rows[0].parsing:.2f}** of a signature verification "
            f"(target: at most {PARSE_TARGET}).\n"
        )
    if soaked is not None:
        parts.append(
            f"\n## Memory\n\n{soaked.payloads:,} payloads of every shape and every kind of fault, in one process "
            f"({soaked.took_s:.0f} s): resident memory from {soaked.samples[len(soaked.samples) // 4][1]:,} kB after a "
            f"quarter to {soaked.samples[-1][1]:,} kB, {soaked.grown:+,} kB.\n"
        )
    return "".join(parts)


def _row(timed: Timed) -> str:
    target = f"{TARGETS[timed.name]:.2f}" if timed.name in TARGETS else ""
    return (
        f"| {timed.name} | {timed.limit:.1f} | {timed.parse:.1f} | {timed.verify:.1f} | {timed.whole:.1f} | "
        f"**{timed.share:.2f}** | {target} | {_pair(timed.python_sdk)} | {_pair(timed.typescript)} |\n"
    )


def _pair(timed: tuple[float, float] | None) -> str:
    return "" if timed is None else f"{timed[0]:,.0f}, {timed[1]:,.0f}"
