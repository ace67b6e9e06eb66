"""Between the transport and a stage: assignments, fetches, commits; and what stops a stage on purpose."""

import asyncio
import logging
from collections.abc import Collection, Mapping
from typing import Any, Protocol

from agents.runtime.board import Board, Lane, Position, TopicPartition
from agents.runtime.suspects import Suspicion

log = logging.getLogger(__name__)


class Group(Protocol):
    """What the desk asks of the consumer."""

    async def commit_positions(self, positions: Mapping[TopicPartition, Position]) -> bool:
        """Send positions to the group."""
        ...

    async def seek_lane(self, tp: TopicPartition, offset: int) -> None:
        """Fetch this partition from here on."""
        ...


class Halt(Exception):  # noqa: N818 - a decision, not an error
    """The stage stops consuming and stays up, until an operator resumes it."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Desk:
    """The board with its doors to the group."""

    def __init__(self, board: Board, *, restores: bool, settle_s: float) -> None:
        """restores: lanes begin held, each until its state is restored (exactly-once stages)."""
        self.board = board
        self.group: Group | None = None
        self.restores = restores
        self.settle_s = settle_s
        self.held: set[TopicPartition] = set()
        self.halted: Halt | None = None
        self.settling = False
        self.stopping = False
        self.assigned = asyncio.Event()  # an assignment came since it was last cleared
        self.starts: dict[TopicPartition, Any] = {}  # what the cluster knew at the last assignment
        self._sent: dict[TopicPartition, Position] = {}
        self._committing = asyncio.Lock()
        self._room = asyncio.Event()

    # --- assignments

    async def begin(self, starts: Mapping[TopicPartition, Any], generation: int) -> dict[TopicPartition, int]:
        """Partitions were assigned: where each is fetched from.

        A position outside its log halts the stage (ACK-4): what it missed is gone or was never there.
        """
        known: dict[TopicPartition, tuple[int, Suspicion]] = {}
        for tp, start in starts.items():
            committed = start.committed
            if committed is None:
                known[tp] = (start.first, Suspicion())
                continue
            if not start.first <= committed <= start.end and not self.restores:
                self.halted = Halt(
                    "range-lost",
                    f"{tp[0]}-{tp[1]}: the group stands at {committed}, the log holds {start.first} to {start.end}",
                )
                known[tp] = (committed, Suspicion())
                continue
            known[tp] = (min(max(committed, start.first), start.end), Suspicion.read(start.metadata))
        self.board.assign(known, generation)
        self._sent = {
            tp: Position(start.committed, start.metadata) for tp, start in starts.items() if start.committed is not None
        }
        self.starts = dict(starts)
        self.held = set(known) if self.restores else set()
        self.settling = False
        self.assigned.set()
        return {tp: offset for tp, (offset, _) in known.items()}

    def revoked(self) -> None:
        """Everything was given back."""
        self.board.revoke()
        self.held = set()
        self._sent = {}

    async def release(self, lane: Lane, offset: int) -> None:
        """A held lane is restored and goes on from `offset`."""
        if lane.gone or self.group is None:
            return
        await self.group.seek_lane(lane.tp, offset)
        lane.ledger.took([], offset)
        self.held.discard(lane.tp)
        self._room.set()

    # --- fetching

    def wanted(self, active: Collection[Any]) -> set[Any]:
        """Partitions to fetch from."""
        if self.halted or self.settling or not self.board.wants_more():
            return set()
        return {
            tp
            for tp in active
            if (tp.topic, tp.partition) in self.board.lanes and (tp.topic, tp.partition) not in self.held
        }

    async def wait_for_room(self) -> None:
        """Until fetching may go on, or a moment has passed."""
        self._room.clear()
        self.board.drained.clear()
        waits = [asyncio.ensure_future(event.wait()) for event in (self._room, self.board.drained)]
        try:
            await asyncio.wait(waits, timeout=0.2, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def deliver(self, fetched: Mapping[Any, tuple[list[Any], int]]) -> None:
        """A fetch came back."""
        for tp, (records, read_to) in fetched.items():
            where = (tp.topic, tp.partition)
            if where in self.board.lanes and where not in self.held:
                self.board.put(where, records, read_to)

    # --- acknowledging

    async def commit(self) -> bool:
        """Send the positions that moved, or whose mark changed, since they were last sent."""
        async with self._committing:
            if self.group is None:
                return False
            moved = {
                tp: at for tp, at in self.board.positions().items() if tp not in self.held and self._sent.get(tp) != at
            }
            if not moved or not await self.group.commit_positions(moved):
                return False
            self._sent.update({tp: at for tp, at in moved.items() if tp in self.board.lanes})
            return True

    async def settle(self) -> None:
        """Finish what is in hand, as far as `settle_s` allows, and commit it."""
        self.settling = True
        self.board.drop_queued()
        deadline = asyncio.get_running_loop().time() + self.settle_s
        while self.board.in_flight and (left := deadline - asyncio.get_running_loop().time()) > 0:
            self.board.drained.clear()
            try:
                await asyncio.wait_for(self.board.drained.wait(), left)
            except TimeoutError:
                break
        await self.commit()
