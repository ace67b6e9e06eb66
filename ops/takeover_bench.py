"""`beefline bench takeover`: three workers share a million live outputs; one is killed, and copies take over."""

import asyncio
import json
import os
import shutil
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec import Struct

from agents.runtime.cluster import create
from ops import apply_bench
from ops import broker as brokers
from ops.apply_bench import LIVE, Running
from ops.home import home
from ops.instruments.chain import Chain
from ops.instruments.submissions import CONTEXTS, HOSTED, WIDE, Maker
from ops.running import broker_settings
from ops.settings import load as load_settings
from topics.registry import OPERATIONS

Say = Callable[[str], None]

WORKERS = 3
TIMES = 3
"""Workers killed, one after the other, each started again and given time to catch up."""

LOOK_S = 0.02
WITHIN_S = 600.0


class Takeover(Struct, frozen=True):
    """One of them."""

    partitions: int  # that the dead worker owned
    noticed_s: float  # from its end until its partitions were dealt to others: the session's time-out, and joining
    served_s: float  # from there until all of them are


class Report(Struct, frozen=True):
    """All of it."""

    filled_s: float  # one worker applies what makes them
    copied_s: float  # two more workers start, read the changelog, and hold a copy of everything
    takeovers: tuple[Takeover, ...]


class Member(Running):
    """A worker on whichever core is free."""

    def __init__(self, flags: Sequence[str], data: Path) -> None:
        super().__init__(flags, data)
        os.sched_setaffinity(self.process.pid, os.sched_getaffinity(0))

    def copies(self) -> int:
        """Partitions of others that it holds a fresh copy of."""
        for line in self._asked("/metrics").splitlines():
            if line.startswith('beefline_copies{stage="apply"}'):
                return int(float(line.rpartition(" ")[2]))
        return 0

    def stands(self) -> tuple[bool, int]:
        """Whether all that it owns is restored, and how many partitions that are."""
        request = self._url and f"{self._url}/readyz"
        if not request:
            self._asked("/livez")
            return False, 0
        try:
            with urllib.request.urlopen(request, timeout=5) as reply:  # noqa: S310 - our own worker's port
                about = json.load(reply)
        except urllib.error.HTTPError as error:
            about = json.load(error)
        except OSError:
            return False, 0
        return bool(about["ready"]), int(about["partitions"])


async def measure(chain: Chain, say: Say) -> Report:
    """On a broker of its own."""
    broker = brokers.start(1, guarded=True, fresh=True)
    data = home() / "bench-data"
    shutil.rmtree(data, ignore_errors=True)
    members: list[Member] = []
    try:
        flags = [*broker_settings(broker.bootstrap, 1), f"apply.topics={','.join(HOSTED)}"]
        settings = load_settings(network="dev", flags=flags, environment={}).settings
        await create(settings.kafka, settings.topics)
        await apply_bench.send(settings, Maker(chain).wide(LIVE[-1]))
        began = time.monotonic()
        members.append(Member(flags, data))
        await _until(lambda: members[0].finished() == LIVE[-1] // WIDE, "all of it applied")
        filled_s = time.monotonic() - began
        say(f"{LIVE[-1]:,} live outputs in {filled_s:.1f} s")
        began = time.monotonic()
        members += [Member(flags, data) for _ in range(WORKERS - 1)]
        await _settled(members)
        copied_s = time.monotonic() - began
        say(f"held {WORKERS} times {copied_s:.1f} s later")
        takeovers = []
        for _ in range(TIMES):
            takeovers.append(await _take_over(members))
            one = takeovers[-1]
            say(f"{one.partitions} partitions dealt {one.noticed_s:.1f} s after a kill, served {one.served_s:.2f} s on")
            members.append(Member(flags, data))
            await _settled(members)
        return Report(filled_s, copied_s, tuple(takeovers))
    finally:
        for member in members:
            member.stop()
        broker.stop()
        shutil.rmtree(data, ignore_errors=True)


async def _settled(members: Sequence[Member]) -> None:
    """Until every partition is owned once and copied by all others."""
    count, others = OPERATIONS.partitions, len(members) - 1

    def settled() -> bool:
        stands = [member.stands() for member in members]
        owned = [number for ready, number in stands if ready]
        copied = sum(member.copies() for member in members)
        return sum(owned) == count and min(owned) >= count // len(members) and copied == count * others

    await _until(settled, "copies of everything")


async def _take_over(members: list[Member]) -> Takeover:
    lost = members.pop(0)
    _, owned = lost.stands()
    lost.process.send_signal(signal.SIGKILL)
    lost.process.wait()
    began = time.monotonic()
    await _until(lambda: sum(m.stands()[1] for m in members) == OPERATIONS.partitions, "partitions dealt")
    noticed_s = time.monotonic() - began
    began = time.monotonic()
    await _until(lambda: all(member.stands()[0] for member in members), "partitions served")
    return Takeover(owned, noticed_s, time.monotonic() - began)


async def _until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not await asyncio.to_thread(true):
        if time.monotonic() > deadline:
            raise TimeoutError(f"no {what} within {WITHIN_S:.0f} s")
        await asyncio.sleep(LOOK_S)


def page(report: Report) -> str:
    """The results."""
    rows = "".join(f"| {one.partitions} | {one.noticed_s:.1f} | {one.served_s:.2f} |\n" for one in report.takeovers)
    return (
        f"\n## Takeover\n\n{LIVE[-1]:,} live outputs in {len(CONTEXTS)} contexts, {WORKERS} workers, each with a copy "
        f"of what it does not own. Applied by one worker in {report.filled_s:.1f} s; {WORKERS - 1} more held copies of "
        f"everything {report.copied_s:.1f} s after they were started together. A worker is killed with -9: its "
        "partitions are dealt to others when its session of 10 s ends, and served from their copies.\n\n"
        "| partitions lost | dealt, s after the kill | served, s after that (target: 5) |\n|---|---|---|\n" + rows
    )


def run(say: Say) -> str:
    """Measure; the page's part."""
    return page(asyncio.run(measure(Chain.open(home() / "simulate" / "chain"), say)))
