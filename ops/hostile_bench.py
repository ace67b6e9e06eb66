"""`beefline bench hostile`: what each hostile payload costs a process of its own, and the script child beside it."""

import asyncio
import contextlib
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import msgspec
from msgspec import Struct

from ops.batch_worker import Order, frame, read_frame
from ops.home import home
from ops.installation import Installation
from ops.instruments.bombs import bomb
from ops.instruments.chain import CHECKPOINT, Chain
from ops.instruments.generate import Generator
from ops.instruments.hops import Hops, by_hop
from ops.instruments.hops import table as hops_table
from ops.instruments.hostile import HOSTILE, Hostile, Laid
from ops.instruments.load import Latency, Load, LoadReport, run_load
from ops.instruments.payloads import Generated
from ops.instruments.workshop import Workshop
from ops.settings import Settings
from schemas.types import display

Say = Callable[[str], None]

RATE = 50.0
ONE_IN = 200
"""Payloads a second, unless told otherwise, and how many of them there are to a hostile one: so one comes every 4 s.
Two cores, on which broker, network and load run too, are done with the largest before the next; at 100 a second they
are not, and a queue behind several is measured."""

ROUNDS = 3
WARM_UP, ALONE = 3_000, 4_000
DRAIN_S = 30.0
"""For honest payloads. Hostile ones that were told to come back do so for minutes: who is undecided then is listed."""

MOST_RATIO = 2.0

LONGEST_S = 5.5
MOST_BYTES = 600_000_000
COUNTS_S, COUNTS_BYTES = 1.0, 400_000_000
"""Bounds: of any payload, and of counts of 2^64."""

TRIES = 3
"""The machine is shared: a row that took too long is measured again, and the quickest counts."""

LOOK_S = 0.005
PATIENCE_S = 60.0
"""After that a worker is killed. No row comes near it, on whatever machine."""


class Measured(Struct, frozen=True, kw_only=True):
    """What became of a row, and what it cost."""

    name: str
    bytes: int
    outcome: str
    code: str
    wall_s: float  # from the line's first byte to the answer
    cpu_s: float  # of the worker and its child
    worker_bytes: int  # peak resident size
    child_bytes: int
    tries: int = 1

    def wrong(self) -> list[str]:
        """What is not as it must be."""
        row = HOSTILE[self.name]
        longest, most = (COUNTS_S, COUNTS_BYTES) if row.group == "counts" else (LONGEST_S, MOST_BYTES)
        found = []
        if (self.outcome, self.code) != (row.outcome, row.code):
            found.append(f"{self.outcome} {self.code}, not {row.outcome} {row.code}")
        if self.wall_s > longest:
            found.append(f"{self.wall_s:.2f} s, at most {longest}")
        if max(self.worker_bytes, self.child_bytes) > most:
            found.append(f"{max(self.worker_bytes, self.child_bytes) / 1e6:.0f} MB, at most {most / 1e6:.0f}")
        return found


def lay(chain: Chain, name: str, first: int = 0) -> Laid:
    """The payload of a row, on coins that no other row takes; `first` begins elsewhere on the chain."""
    return HOSTILE[name].build(Workshop(chain, 0, first + list(HOSTILE).index(name)))


def table(chain: Chain, laid: Laid) -> bytes:
    """The chain's roots, and the payload's own, as `read_table` takes them."""
    roots = {height: chain.header(height)[36:68] for height in range(CHECKPOINT, chain.tip + 1)} | dict(laid.roots)
    return msgspec.json.encode(
        {
            "tip": chain.tip,
            "median_time_past": chain.median_time_past(),
            "roots": {str(height): display(root) for height, root in roots.items()},
        }
    )


class Worker:
    """A process that judges lines, watched. Its child for scripts stands before the first row comes."""

    def __init__(self, row: Hostile, headers: bytes, warm: bytes, patience_s: float = PATIENCE_S) -> None:
        """headers: a table of roots; warm: a payload that needs the script child; patience_s: when it is killed."""
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-m", "ops.batch_worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        self._peaks: dict[int, int] = {}
        self._killer = threading.Timer(patience_s, self._process.kill)
        self._killer.start()
        self._send(msgspec.msgpack.encode(Order(row.policy, headers)))
        self.judge(warm)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._killer.cancel()
        self._pipes()
        self._process.wait()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def _pipes(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    def _send(self, body: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(frame(body))
        self._process.stdin.flush()

    def judge(self, beef: bytes) -> tuple[dict[str, Any], float]:
        """The answer, and the seconds it took. A worker that dies answers `internal.killed`."""
        line = msgspec.msgpack.encode([msgspec.json.encode({"id": 1, "beef": beef.hex()})])
        done = threading.Event()
        watching = threading.Thread(target=self._watch, args=(done,), daemon=True)
        watching.start()
        began = time.monotonic()
        said = None
        with contextlib.suppress(BrokenPipeError):
            self._send(line)
            assert self._process.stdout is not None
            said = read_frame(self._process.stdout)
        took = time.monotonic() - began
        done.set()
        watching.join()
        answer = msgspec.json.decode(said) if said else {"outcome": "indeterminate", "code": "internal.killed"}
        return answer, took

    def _watch(self, done: threading.Event) -> None:
        while not done.wait(LOOK_S):
            self.look()

    def look(self) -> None:
        """Note how large the process and its children have been. Their peaks go with them."""
        for pid in (self._process.pid, *_children(self._process.pid)):
            self._peaks[pid] = max(self._peaks.get(pid, 0), peak_bytes(pid))

    @property
    def peaks(self) -> tuple[int, int]:
        """Bytes: of the worker, and of its largest child."""
        self.look()
        own = self._peaks.get(self._process.pid, 0)
        return own, max((size for pid, size in self._peaks.items() if pid != self._process.pid), default=0)

    def end(self) -> float:
        """Let it end; the seconds of processor it and its children have used."""
        self._pipes()
        _, status, used = os.wait4(self._process.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        return used.ru_utime + used.ru_stime


def peak_bytes(pid: int) -> int:
    """The largest resident size of a process so far; 0 when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found += map(int, task.read_text(encoding="ascii").split())
    return found


def warm_up(chain: Chain) -> bytes:
    """A payload for which the script child is needed."""
    shop = Workshop(chain, 0, len(HOSTILE))
    return shop.frame(bomb(b"\x61\x51")(shop))


def idle_s(chain: Chain) -> float:
    """Seconds of processor a worker and its child use before a row comes."""
    with Worker(HOSTILE["nested"], table(chain, Laid(b"")), warm_up(chain)) as worker:
        return worker.end()


def measure(chain: Chain, name: str, rest_s: float) -> Measured:
    """One row, in a process of its own. rest_s: see `idle_s`."""
    laid, warm = lay(chain, name), warm_up(chain)
    headers = table(chain, laid)
    best = _measure(name, laid.beef, headers, warm, rest_s)
    while best.tries < TRIES and best.wall_s > LONGEST_S:
        again = _measure(name, laid.beef, headers, warm, rest_s)
        best = msgspec.structs.replace(min(best, again, key=lambda one: one.wall_s), tries=best.tries + 1)
    return best


def _measure(name: str, beef: bytes, headers: bytes, warm: bytes, rest_s: float) -> Measured:
    with Worker(HOSTILE[name], headers, warm) as worker:
        answer, took = worker.judge(beef)
        own, child = worker.peaks
        used_s = worker.end() - rest_s
    return Measured(
        name=name, bytes=len(beef), outcome=answer["outcome"], code=answer["code"] or "", wall_s=took,
        cpu_s=max(0.0, used_s), worker_bytes=own, child_bytes=child,
    )  # fmt: skip


def rows(chain: Chain, say: Say, names: Iterable[str] = HOSTILE) -> list[Measured]:
    """Every row, one after the other."""
    found = []
    rest_s = idle_s(chain)
    for name in names:
        one = measure(chain, name, rest_s)
        found.append(one)
        say(
            f"{name:24} {one.outcome:8} {one.code:24} {one.wall_s:6.2f} s  {one.cpu_s:6.2f} s of CPU  "
            f"{one.worker_bytes / 1e6:4.0f} + {one.child_bytes / 1e6:4.0f} MB"
            + "".join(f"  WRONG: {what}" for what in one.wrong())
        )
    return found


# --- beside honest traffic


class Beside(Struct, frozen=True, kw_only=True):
    """One round on a whole installation: honest payloads alone, then with one hostile in ONE_IN."""

    alone: LoadReport
    mixed: LoadReport
    honest_alone: Latency
    honest: Latency  # of the honest ones beside hostile ones
    hostile: int
    wrong: Mapping[str, str]  # hostile payloads that got another decision than they must: row, what was said
    hops_alone: Mapping[str, Latency]  # where the time goes: by stage, of the honest ones
    hops: Mapping[str, Latency]
    late: Mapping[str, int]  # honest payloads above MOST_RATIO times the p99 alone, by the row sent last before them
    waiting: tuple[str, ...]  # hostile payloads without a decision when the round ended
    rate: float  # payloads a second
    restarted: int  # workers
    peak_bytes: Mapping[str, int]  # of each worker and of its children
    load_average: tuple[float, float]  # after each part

    @property
    def ratio(self) -> float:
        """p99 of honest payloads beside hostile ones, over that alone."""
        return self.honest.p99 / self.honest_alone.p99

    def bad(self) -> list[str]:
        """What is not as it must be."""
        found = [f"{name}: {said}" for name, said in self.wrong.items()]
        if self.restarted:
            found.append(f"{self.restarted} workers were started again")
        if self.ratio > MOST_RATIO:
            found.append(f"p99 {self.ratio:.2f} times that alone")
        found += [f"{name}: {size / 1e6:.0f} MB" for name, size in self.peak_bytes.items() if size > MOST_BYTES]
        return found


def _expected(name: str, laid: Laid, tip: int) -> str:
    """What an installation on the simulated chain says: it has other roots where a row brings its own."""
    row = HOSTILE[name]
    if not laid.roots or row.code:
        return f"rejected {row.code}" if row.code else "applied"
    return "rejected anchor.wrong-root" if CHECKPOINT <= min(laid.roots) <= tip else ""


async def beside(say: Say, rate: float = RATE, rounds: int = ROUNDS, names: Sequence[str] = ()) -> list[Beside]:
    """Rounds on one installation, each with every row that fits."""
    installation = Installation(
        flags=(f"policy.chronicle_height={CHECKPOINT}",),
        arc=("--no-scripts", "--gives-way"),  # they share these cores, and stand for machines that do not
        say=lambda what: say(f"starting: {what}"),
    )
    try:
        settings = (await installation.start()).settings
        chain = Chain.open(home() / "simulate" / "chain")
        honest = Generator(chain, seed=0, first=0)
        say("warming up")
        await run_load(settings, honest.valid(WARM_UP), 400.0)
        found = []
        for number in range(rounds):
            found.append(await _round(installation, chain, honest, number, names, rate))
            one = found[-1]
            say(
                f"p99 {one.honest_alone.p99:.0f} ms alone, {one.honest.p99:.0f} ms beside: {one.ratio:.2f}; "
                f"load average {one.load_average[0]:.1f} and {one.load_average[1]:.1f}; "
                + ("; ".join(one.bad()) or "good")
            )
        return found
    finally:
        await installation.stop()


async def _round(
    installation: Installation, chain: Chain, honest: Generator, number: int, names: Sequence[str], rate: float
) -> Beside:
    assert installation.loaded is not None
    settings = installation.loaded.settings
    chosen = list(names) or [name for name, row in HOSTILE.items() if row.fits]
    random.Random(number).shuffle(chosen)
    first = chain.coins - (number + 1) * 2 * len(HOSTILE)
    laid = {name: lay(chain, name, first) for name in chosen}
    payloads: list[Generated] = []
    for name, one in laid.items():
        payloads += honest.valid(ONE_IN - 1)
        payloads.append(Generated(name, name, one.beef, bytes(32)))
    payloads += honest.valid(ONE_IN)
    alone = list(honest.valid(ALONE))
    before = _pids(installation)
    peaks = Peaks(before)
    watching = asyncio.ensure_future(peaks.watch())
    try:
        report_alone, load_alone, after_alone, hops_alone = await _under_load(settings, rate, alone, range(0), 0)
        hostile = range(ONE_IN - 1, ONE_IN * len(chosen), ONE_IN)
        endless = sum(not _expected(name, one, chain.tip) for name, one in laid.items())
        report, load, after, hops = await _under_load(settings, rate, payloads, hostile, endless)
    finally:
        watching.cancel()
    wrong, waiting = {}, []
    for at, name in zip(hostile, chosen, strict=True):
        wanted, said = _expected(name, laid[name], chain.tip), load.said.get(at, "")
        if not said:
            waiting.append(name)
        elif said != wanted:
            wrong[name] = f"{said}, not {wanted or 'waiting'}"
    honest_alone, beside_hostile = load_alone.others_applied_ms(), load.others_applied_ms()
    assert honest_alone is not None
    assert beside_hostile is not None
    restarted = sum(before[name] != pid for name, pid in _pids(installation).items())
    slow = _late(load, honest_alone.p99 * MOST_RATIO / 1000, chosen)
    return Beside(
        alone=report_alone, mixed=report, honest_alone=honest_alone, honest=beside_hostile, hostile=len(chosen),
        wrong=wrong, hops_alone=hops_alone, hops=hops, late=slow, waiting=tuple(waiting), rate=rate,
        restarted=restarted, peak_bytes=peaks.found, load_average=(after_alone, after),
    )  # fmt: skip


def _late(load: Load, beyond_s: float, chosen: Sequence[str]) -> dict[str, int]:
    late = Counter(n // ONE_IN for n, took in load.took() if took > beyond_s and n % ONE_IN != ONE_IN - 1)
    return {chosen[at - 1] if at else "none": count for at, count in late.most_common()}


async def _under_load(
    settings: Settings, rate: float, payloads: Sequence[Generated], hostile: range, endless: int
) -> tuple[LoadReport, Load, float, dict[str, Latency]]:
    load, hops = Load(settings, rate, None, hostile, endless), Hops(settings)
    await hops.start()
    await load.start()
    try:
        report = await load.run(payloads, None, DRAIN_S, lambda _: None)
        average = os.getloadavg()[0]
        times = await hops.times(load.mark)
        honest = {number: one for number, one in times.items() if number not in hostile}
        return report, load, average, by_hop(honest)
    finally:
        await load.stop()


def _pids(installation: Installation) -> dict[str, int]:
    assert installation.workers is not None
    return {child.spec.name: child.pid for child in installation.workers.children if child.pid is not None}


class Peaks:
    """How large workers and their children become."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self.found: dict[str, int] = {}
        self._pids = pids

    async def watch(self) -> None:
        """Until cancelled."""
        while True:
            for name, pid in self._pids.items():
                self._note(name, pid)
                for child in _children(pid):
                    self._note(f"{name}, children", child)
            await asyncio.sleep(20 * LOOK_S)

    def _note(self, name: str, pid: int) -> None:
        self.found[name] = max(self.found.get(name, 0), peak_bytes(pid))


def page(found: Sequence[Measured], rounds: Sequence[Beside], machine: str) -> str:
    """The results as a page."""
    bad = {one.name: one.wrong() for one in found if one.wrong()}
    parts = [
        "# Benchmarks: hostile payloads\n",
        "Made by `beefline bench hostile`. Each row has a process of `beefline verify --batch` and a script child of "
        f"its own, started beforehand. Bounds: {LONGEST_S} s and {MOST_BYTES / 1e6:.0f} MB in any process; for counts "
        f"of 2^64 {COUNTS_S:.0f} s and {COUNTS_BYTES / 1e6:.0f} MB. Seconds of wall clock and of processor; peak "
        f"resident size of worker and child (VmHWM). A row above {LONGEST_S} s is measured {TRIES} times, the quickest "
        "counts.\n\n"
        f"{machine}\n",
        "\nAll rows are within the bounds, and get the code they must.\n"
        if not bad
        else "\n**Not as it must be:**\n" + "".join(f"- {name}: {'; '.join(what)}\n" for name, what in bad.items()),
    ]
    for group in dict.fromkeys(HOSTILE[one.name].group for one in found):
        parts.append(f"\n## {group.capitalize()}\n\n| row | what | bytes | said | s | CPU s | worker MB | child MB |\n")
        parts.append("|---|---|---|---|---|---|---|---|\n")
        for one in found:
            row = HOSTILE[one.name]
            if row.group == group:
                again = f" ({one.tries} tries)" if one.tries > 1 else ""
                parts.append(
                    f"| {one.name} | {row.says} | {one.bytes:,} | {one.code or one.outcome} "
                    f"| {one.wall_s:.2f}{again} | "
                    f"{one.cpu_s:.2f} | {one.worker_bytes / 1e6:.0f} | {one.child_bytes / 1e6:.0f} |\n"
                )
    return "".join(parts) + (_beside_page(rounds) if rounds else "")


def _beside_page(rounds: Sequence[Beside]) -> str:
    parts = [
        f"\n## Beside honest traffic\n\nMade with `--pipeline`: a whole installation, {rounds[0].rate:.0f} payloads a "
        f"second, honest ones alone, then one hostile in {ONE_IN}: every row within the size limit once a round, in "
        "another order each. The simulated endpoints run no scripts here, and use what others leave of the cores: they "
        "stand for machines of their own. "
        "p50 and p99 are milliseconds from when an honest payload was due until it was applied "
        f"(target: p99 within {MOST_RATIO:.0f} times).\n\n"
        "| round | honest alone | p50 | p99 | load average | beside, hostile of them | p50 | p99 | load average "
        "| ratio |\n|---|---|---|---|---|---|---|---|---|---|\n"
    ]
    for number, one in enumerate(rounds, 1):
        parts.append(
            f"| {number} | {one.alone.sent:,} | {one.honest_alone.p50:.0f} | {one.honest_alone.p99:.0f} | "
            f"{one.load_average[0]:.1f} | {one.mixed.sent:,}, {one.hostile} | {one.honest.p50:.0f} "
            f"| {one.honest.p99:.0f} | {one.load_average[1]:.1f} | **{one.ratio:.2f}** |\n"
        )
    bad = [f"- round {number}: {what}\n" for number, one in enumerate(rounds, 1) for what in one.bad()]
    waiting = sorted({name for one in rounds for name in one.waiting})
    parts.append(
        "\n**Not as it must be:**\n" + "".join(bad)
        if bad
        else "\nNo hostile payload got another decision than it must get, no worker was started again, no process "
        f"passed {MOST_BYTES / 1e6:.0f} MB.\n"
    )
    if waiting:
        parts.append(
            f"\nNot decided when a round ended, {DRAIN_S:.0f} s behind its last payload, since too many waited for the "
            f"script child before them (`script.busy`), or no header service knows their block: {', '.join(waiting)}.\n"
        )
    for number, one in enumerate(rounds, 1):
        held = ", ".join(f"{name} {count}" for name, count in list(one.late.items())[:10])
        parts.append(
            f"\nRound {number}: {sum(one.late.values()):,} honest payloads later than {MOST_RATIO:.0f} times the p99 "
            f"alone; by the hostile one sent last before them, the first ten: {held or 'none'}. Where the time "
            f"went, of the honest ones:\n\n{hops_table({'alone': one.hops_alone, 'beside': one.hops})}"
        )
    names = sorted({name for one in rounds for name in one.peak_bytes})
    sizes = ", ".join(f"{name} {max(one.peak_bytes.get(name, 0) for one in rounds) / 1e6:.0f}" for name in names)
    parts.append(f"\nPeak resident size, MB: {sizes}.\n")
    return "".join(parts)


def run(say: Say, rate: float | None, machine: Callable[[], str]) -> tuple[str, bool]:
    """The page, and whether all is as it must be. rate: payloads a second on an installation; None: none is made."""
    chain = Chain.open(home() / "simulate" / "chain")
    found = rows(chain, say)
    rounds = asyncio.run(beside(say, rate)) if rate else []
    good = not any(one.wrong() for one in found) and not any(one.bad() for one in rounds)
    return page(found, rounds, machine()), good
