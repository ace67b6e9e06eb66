"""Between the transport and a stage: assignments, fetches, commits; and what stops a stage on purpose."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from typing import Any, Protocol

from agents.runtime.board import Board, Lane, Position, TopicPartition
from agents.runtime.hand import Hand, held
from agents.runtime.suspects import Suspicion
from schemas.external import Severity

log = logging.getLogger(__name__)


class Group(Protocol):
    """What the desk asks of the consumer."""

    async def commit_positions(self, positions: Mapping[TopicPartition, Position]) -> bool:
        """Send positions to the group."""
        ...

    async def seek_lane(self, tp: TopicPartition, offset: int) -> None:
        """Fetch this partition from here on."""
        ...


Teller = Callable[[str, Severity, str, dict[str, Any]], None]


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
        self.abandoned = False
        self.joined = False  # the group has dealt us our part, which may be nothing
        self.teller: Teller | None = None
        self._assigned = asyncio.Event()
        self.starts: dict[TopicPartition, Any] = {}  # what the cluster knew at the last assignment
        self._sent: dict[TopicPartition, Position] = {}
        self._committing = asyncio.Lock()
        self._alone = asyncio.Lock()
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
                self.halt(
                    Halt(
                        "range-lost",
                        f"{tp[0]}-{tp[1]}: the group stands at {committed}, the log holds {start.first} to {start.end}",
                    )
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
        self.joined = True
        self._assigned.set()
        return {tp: offset for tp, (offset, _) in known.items()}

    async def assigned_anew(self) -> None:
        """Until the next assignment."""
        await self._assigned.wait()
        self._assigned.clear()

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
        lane.restart(offset)
        self.held.discard(lane.tp)
        self._room.set()

    # --- stopping on purpose

    def halt(self, why: Halt) -> None:
        """Stop consuming, stay up, and say so."""
        if self.halted is None:
            self.halted = why
            log.error("halted: %s", why.message, extra={"code": why.code})
            self.tell("stage-halted", "error", why.message, {"code": why.code})

    def resume(self) -> None:
        """An operator lets the stage go on."""
        if self.halted is not None:
            self.tell("stage-resumed", "info", f"resumed after: {self.halted.message}", {"code": self.halted.code})
            self.halted = None
        self._room.set()
        self.board.changed.set()
        for lane in self.board.lanes.values():
            if lane.queue:
                lane.arrived.set()

    def tell(self, kind: str, severity: Severity, message: str, details: dict[str, Any]) -> None:
        """An event for operators."""
        if self.teller is not None:
            self.teller(kind, severity, message, details)

    # --- fetching

    def wanted(self, active: Collection[Any]) -> set[Any]:
        """Partitions to fetch from."""
        if self.halted or self.settling:
            return set()
        board = self.board
        wanted = set()
        for tp in active:
            where = (tp.topic, tp.partition)
            lane = board.lanes.get(where)
            if lane is not None and where not in self.held and board.wants_more(lane):
                wanted.add(tp)
        return wanted

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

    def deliver(self, fetched: Mapping[Any, tuple[list[Any], int]]) -> int:
        """A fetch came back; how many records it brought."""
        count = 0
        for tp, (records, read_to) in fetched.items():
            where = (tp.topic, tp.partition)
            if where in self.board.lanes and where not in self.held:
                self.board.put(where, records, read_to)
                count += len(records)
        return count

    # --- acknowledging

    async def mark(self, lane: Lane) -> None:
        """Before inputs of a lane are touched: let the group know that they are in hand (FAULT-2)."""
        if not lane.marked:
            lane.marked = True
            await self.commit()

    @asynccontextmanager
    async def alone(self, lane: Lane) -> AsyncIterator[None]:
        """One input of a lane that goes one by one: nothing else that may kill the process is in hand meanwhile.

        With two in hand, the innocent one would be taken for the other's end. It is marked while it is computed, and
        not while it waits (`hand.py`).
        """
        async with self._alone:
            async with held(Hand(lane, self.commit)):
                yield
            await self.commit()

    async def commit(self) -> bool:
        """Send the positions that moved, or whose mark changed, since they were last sent."""
        if self.abandoned:
            return False  # the group may wait for this process, and a commit for the group: who ends must not
        async with self._committing:
            if self.group is None:
                return False
            moved = {
                tp: at for tp, at in self.board.positions().items() if tp not in self.held and self._sent.get(tp) != at
            }
            for lane in (self.board.lanes[tp] for tp in moved):
                if not lane.ledger:
                    lane.marked = False  # from here on the group takes it that nothing is in hand
            for tp in moved:
                self._sent.pop(tp, None)  # given up on its way, it may have come or not
            if not moved or not await self.group.commit_positions(moved):
                return False
            self._sent.update({tp: at for tp, at in moved.items() if tp in self.board.lanes})
            return True

    def abandon(self) -> None:
        """Whoever worked here has ended: what is in hand is read again by who comes next, and nothing is waited for."""
        self.abandoned = True
        for lane in self.board.lanes.values():
            lane.gone = True
            lane.arrived.set()
        self.board.drained.set()

    async def settle(self) -> None:
        """Finish what is in hand, as far as `settle_s` allows, and commit it."""
        self.settling = True
        self.board.drop_queued()
        deadline = asyncio.get_running_loop().time() + self.settle_s
        while (
            self.board.in_flight and not self.abandoned and (left := deadline - asyncio.get_running_loop().time()) > 0
        ):
            self.board.drained.clear()
            try:
                await asyncio.wait_for(self.board.drained.wait(), left)
            except TimeoutError:
                break
        await self.commit()
