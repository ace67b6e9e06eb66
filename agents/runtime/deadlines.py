"""The coordinator's clock: deadlines of operations that are undecided, and the end of what was decided."""

import asyncio
import heapq
import logging
import time
from collections.abc import Callable, Mapping

import msgspec

from agents import metrics
from agents.runtime.desk import Teller
from agents.runtime.outbox import Outbox
from agents.runtime.records import Out
from agents.runtime.shelf import Readable
from agents.runtime.sparing import no_event
from pipeline import state
from pipeline.state import Corrupt
from schemas.operations import NAME_BYTES, VOTE, Due, OperationStatus
from schemas.types import display
from topics.registry import VOTES

log = logging.getLogger(__name__)

REST_S = 0.5
"""Between two looks at the clock."""

PASS = 500
"""Entries of a store read between two turns of the loop: a few milliseconds."""

HORIZON_MS = 3_600_000
"""What is due later than that is not kept in memory: stores are looked through again as often."""

AGAIN_MS = 30_000
"""What was told to be due and still stands after that long is told again."""

_status = msgspec.msgpack.Decoder(OperationStatus).decode


class Deadlines:
    """One a process."""

    def __init__(self, tell_after_ms: int) -> None:
        """tell_after_ms: an event tells of an operation that is undecided for so long."""
        self._tell_after_ms = tell_after_ms
        self._tell: Teller = no_event
        self._undecided: dict[int, dict[bytes, OperationStatus]] = {}  # by partition
        self._told: set[tuple[bytes, int]] = set()  # operations and attempts
        self._due: dict[int, list[tuple[int, bytes]]] = {}  # by partition, soonest first
        self._begun: dict[int, tuple[Readable, int]] = {}  # stores that were looked through, by partition, and when

    def tell_to(self, teller: Teller) -> None:
        """Who writes events."""
        self._tell = teller

    def note(self, partition: int, operation: bytes, status: OperationStatus) -> None:
        """It stands so now."""
        undecided = self._undecided.setdefault(partition, {})
        if status.decided:
            undecided.pop(operation, None)
            self._told.discard((operation, status.attempt))
        else:
            undecided[operation] = status
        if status.due_ms - int(time.time() * 1000) <= 2 * HORIZON_MS:
            heapq.heappush(self._due.setdefault(partition, []), (status.due_ms, operation))

    def forget(self, partition: int) -> None:
        """A partition was given back."""
        for of in (self._due, self._begun, self._undecided):
            of.pop(partition, None)

    async def run(self, stores: Mapping[int, Readable], spoil: Callable[[int, Corrupt], None], outbox: Outbox) -> None:
        """Until cancelled. spoil: has a store made again that is not what was written."""
        metrics.register_undecided("coordinate")
        while True:
            now_ms = int(time.time() * 1000)
            for number, held in list(stores.items()):
                if stores.get(number) is not held:
                    continue  # given back while others were told: it may be closed
                try:
                    begun, at_ms = self._begun.get(number, (None, 0))
                    if begun is not held or now_ms - at_ms >= HORIZON_MS:
                        await self._begin(number, held, now_ms)
                    if stores.get(number) is not held:
                        self.forget(number)  # what was noted since it was given back is another worker's
                        continue
                    come = self._come(number, held, now_ms)
                except Corrupt as error:
                    log.error("a store is not what was written: %s", error, extra={"partition": number})
                    if stores.get(number) is held:
                        spoil(number, error)
                    continue
                await outbox.send([(Out(VOTES, key, VOTE.encode(due)), None) for key, due in come])
            self._look(now_ms)
            await asyncio.sleep(REST_S)

    async def _begin(self, number: int, held: Readable, now_ms: int) -> None:
        """What stands in a partition that came."""
        walk = held.store.walk(b"")
        try:
            while entries := walk.take(PASS):
                for key, stored in entries:
                    if len(key) == NAME_BYTES:
                        self.note(number, key, _status(state.check(stored, key)[32:]))
                await asyncio.sleep(0)
        finally:
            walk.close()
        self._begun[number] = held, now_ms

    def _come(self, number: int, held: Readable, now_ms: int) -> list[tuple[bytes, Due]]:
        """Operations whose time has come, each once, as they stand."""
        found: dict[bytes, Due] = {}
        heap = self._due.get(number, [])
        while heap and heap[0][0] <= now_ms:
            _, key = heapq.heappop(heap)
            stored = held.store.get(key)
            status = None if stored is None else _status(stored[32:])
            if key not in found and status is not None and status.due_ms <= now_ms:
                found[key] = Due(status.attempt)
        for key in found:
            heapq.heappush(heap, (now_ms + AGAIN_MS, key))
        return list(found.items())

    def _look(self, now_ms: int) -> None:
        """Metrics, and an event for each attempt that takes long."""
        undecided = [each for of in self._undecided.values() for each in of.items()]
        since = min((status.opened_ms for _, status in undecided), default=now_ms)
        metrics.UNDECIDED.labels("coordinate").set(len(undecided))
        metrics.UNDECIDED_SECONDS.labels("coordinate").set(max(0, now_ms - since) / 1000)
        for key, status in undecided:
            if now_ms - status.opened_ms < self._tell_after_ms or (key, status.attempt) in self._told:
                continue
            self._told.add((key, status.attempt))
            missing = [context for context in status.asked.contexts if context not in status.yes]
            message = f"operation {key.hex()} waits for the votes of {', '.join(missing)}"
            details = {
                "operation": key.hex(),
                "txid": display(status.txid),
                "attempt": status.attempt,
                "missing": missing,
                "request_id": status.asked.request_id,
            }
            self._tell("operation-undecided", "warning", message, details)
