"""Ends a process that should make progress and does not.

Faust's own check only logs, and aiokafka's leaves a stuck member in its group for ever. Waiting on purpose (paused,
halted, restoring) is progress.
"""

import asyncio
import logging
import time
from collections.abc import Callable

from agents import metrics
from agents.runtime.desk import Desk

log = logging.getLogger(__name__)

CHECK_S = 1.0


class StuckError(Exception):
    """There is work, nothing stands in its way, and nothing happens."""


class Watchdog:
    """Watches one stage.

    waits: whether the stage waits on purpose.
    lag: records behind, over this worker's partitions, as far as the client knows.
    """

    def __init__(
        self, stage: str, desk: Desk, waits: Callable[[], bool], lag: Callable[[], int | None], stuck_after_s: float
    ) -> None:
        self._stage = stage
        self._desk = desk
        self._waits = waits
        self._lag = lag
        self._stuck_after_s = stuck_after_s
        self._progress_at = time.monotonic()
        self._seen = -1
        self.behind = 0

    @property
    def idle_s(self) -> float:
        """Seconds since the last sign of progress."""
        return time.monotonic() - self._progress_at

    def look(self) -> None:
        """One look.

        Raises:
            StuckError: nothing has moved for `worker.stuck_after_s`.
        """
        board = self._desk.board
        lag = self._lag()
        self.behind = lag if lag is not None else self.behind
        labels = (self._stage,)
        metrics.LAG.labels(*labels).set(self.behind)
        oldest_ms = board.oldest_ms()
        metrics.OLDEST_INPUT.labels(*labels).set(0.0 if oldest_ms is None else max(0.0, time.time() - oldest_ms / 1000))
        metrics.IN_FLIGHT.labels(*labels).set(board.in_flight)
        metrics.IN_FLIGHT_BYTES.labels(*labels).set(board.bytes)
        metrics.PARTITIONS.labels(*labels).set(len(board.lanes))
        moved = board.finished_count != self._seen
        nothing_to_do = not self.behind and not board.in_flight and not board.queued
        if moved or nothing_to_do or self._waits():
            self._seen = board.finished_count
            self._progress_at = time.monotonic()
        elif self.idle_s > self._stuck_after_s:
            raise StuckError(
                f"{self.behind} records behind, {board.in_flight} in hand, no progress for {self.idle_s:.0f} s"
            )

    async def run(self) -> None:
        """Look again and again. What it raises is meant to end the process."""
        while True:
            await asyncio.sleep(CHECK_S)
            self.look()
