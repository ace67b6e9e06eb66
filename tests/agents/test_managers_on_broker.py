"""Foreign managers on a real broker: one that is slow, one that kills its process, and their neighbours."""

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from schemas import headers as h
from schemas.external import Event, Result
from schemas.flow import OPERATION
from schemas.journal import JOURNAL as ENTRY
from tests.agents.harness import Bench, until
from tests.conftest import Broker
from tests.fakes import apply_of, coin_of_others, made_tx, verified
from topics.registry import DEAD_LETTERS, EVENTS, JOURNAL, OPERATIONS, RESULTS, RETRY_10S

pytestmark = pytest.mark.broker

SLOW = "topic:tm_slow"
NEIGHBOURS = ("topic:tm_anytx", "topic:tm_slow_b")
"""One of ours, and one foreign; where they are does not matter here."""


@pytest.fixture
async def bench(broker: Broker, prefix: str, tmp_path: Path) -> AsyncIterator[Bench]:
    async with Bench(broker.bootstrap, prefix, tmp_path) as bench:
        yield bench


def payments(context: str, first: int, count: int, off_chain: bytes = b"") -> list[tuple[bytes, bytes]]:
    """Keys and values of `operations`."""
    return [
        (
            context.encode(),
            OPERATION.encode(
                apply_of(verified(made_tx([coin_of_others(n % 250)], 1, n), offset=n, off_chain=off_chain))
            ),
        )
        for n in range(first, first + count)
    ]


async def send(bench: Bench, records: list[tuple[bytes, bytes]]) -> None:
    await bench.send(
        OPERATIONS, [value for _, value in records], keys=[key for key, _ in records], headers=[OPERATION.header]
    )


async def applied(bench: Bench, context: str) -> int:
    """Transactions in a context, each once."""
    entries = [ENTRY.decode(record.value) for record in await bench.read(JOURNAL)]
    txids = [entry.txid for entry in entries if (entry.context, entry.kind) == (context, "apply")]
    assert len(txids) == len(set(txids))
    return len(txids)


async def kinds(bench: Bench) -> list[str]:
    return [msgspec.json.decode(record.value, type=Event).kind for record in await bench.read(EVENTS)]


@pytest.mark.invariant("TOPIC-3")
async def test_a_slow_context_is_suspended_and_loses_nothing(bench: Bench, tmp_path: Path) -> None:
    """Its records wait in a tier, the neighbours are through; quick again, and lifted, it takes what came back."""
    marker = tmp_path / "slow"
    marker.touch()
    (tmp_path / "lazy.py").write_text(LAZY.format(marker=str(marker)))
    bench.env["PYTHONPATH"] = f"{tmp_path}:{bench.env.get('PYTHONPATH', '')}"
    hosted = "tm_slow=lazy:Lazy,tm_slow_b=tests.fakes:Keep,tm_anytx"
    worker = bench.worker("hosting", argument=hosted)
    mine = payments(SLOW, 0, 20)
    others = [record for n, context in enumerate(NEIGHBOURS) for record in payments(context, 100 * (n + 1), 20)]
    await send(bench, [record for three in zip(mine, others[:20], others[20:], strict=True) for record in three])

    async def through() -> bool:
        return [await applied(bench, context) for context in NEIGHBOURS] == [20, 20]

    await until(through, "neighbours through")
    await bench.until_idle("apply", OPERATIONS)
    taken = await applied(bench, SLOW)
    assert 3 <= taken < 20
    waiting = await bench.wait_for(RETRY_10S, 20 - taken)
    assert {record.value for record in waiting} <= {value for _, value in mine}
    assert {dict(record.headers)["code"] for record in waiting} == {b"internal.suspended"}
    assert "context-suspended" in await kinds(bench)
    assert await bench.read(DEAD_LETTERS) == []
    ready = worker.readiness()
    assert (ready["ready"], ready["state"], ready["reason"]) == (True, "running", "suspended: topic:tm_slow")
    marker.unlink()
    await worker.resume()
    # What the retry stage does when they are due.
    await bench.send(
        OPERATIONS,
        [record.value for record in waiting],
        keys=[record.key for record in waiting],
        headers=[OPERATION.header],
    )

    async def all_of_it() -> bool:
        return await applied(bench, SLOW) == 20

    await until(all_of_it, "all applied")
    assert (await kinds(bench))[-1] == "context-resumed"
    assert worker.readiness()["reason"] is None


LAZY = """
import os
import time

from schemas.external import Admittance

class Lazy:
    version = "1"

    def admit(self, subject):
        if os.path.exists({marker!r}):
            time.sleep(0.4)
        return Admittance((0,))
"""


@pytest.mark.invariant("TOPIC-1")
async def test_a_manager_that_kills_its_process_costs_its_record_and_no_worker(bench: Bench) -> None:
    hosted = "tm_slow=tests.contracts.broken_managers:Harmful,tm_slow_b=tests.fakes:Keep,tm_anytx"
    worker = bench.worker("hosting", argument=hosted)
    pid = worker.pid
    harm = payments(SLOW, 0, 1, b"admit kill")
    mine = payments(SLOW, 1, 2)
    others = [record for n, context in enumerate(NEIGHBOURS) for record in payments(context, 100 * (n + 1), 5)]
    await send(bench, [mine[0], *others[:5], *harm, mine[1], *others[5:]])
    (letter,) = await bench.wait_for(DEAD_LETTERS, 1)
    assert letter.value == harm[0][1]
    cause = dict(letter.headers)
    assert (cause["class"], cause["code"]) == (b"fault", b"internal.manager-ended")

    async def through() -> bool:
        waits = [h.retry_headers(record.headers) for record in await bench.read(RETRY_10S)]
        mine = await applied(bench, SLOW) + len(waits)  # on a busy machine its process may not be up again in time
        return [mine, *[await applied(bench, context) for context in NEIGHBOURS]] == [2, 5, 5]

    await until(through, "all others through")
    parked = [msgspec.json.decode(record.value, type=Result) for record in await bench.read(RESULTS)]
    assert [(each.context, each.code) for each in parked if each.outcome == "parked"] == [
        (SLOW, "internal.manager-ended")
    ]
    assert (worker.ended(), worker.pid) == (None, pid)
