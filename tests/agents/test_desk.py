"""The desk: where a partition goes on, what the group is told, and what stops a stage on purpose."""

import asyncio
from typing import Any, NamedTuple

import pytest
from aiokafka import TopicPartition as Tp

from agents.runtime.board import Board, Lane, Position, TopicPartition
from agents.runtime.desk import Desk, Halt
from agents.runtime.suspects import Suspicion
from tests.fakes import Group, Record

TOPIC = "beef.ingest"
P0, P1 = (TOPIC, 0), (TOPIC, 1)


class Start(NamedTuple):
    """What the cluster knows of a partition."""

    committed: int | None
    metadata: str = ""
    first: int = 0
    end: int = 100


class Told(NamedTuple):
    """An event."""

    kind: str
    severity: str
    code: str


def desk_of(group: Group | None = None, *, restores: bool = False) -> tuple[Desk, Group, list[Told]]:
    desk = Desk(Board(max_in_flight=100, max_bytes=1 << 20), restores=restores, settle_s=0.2)
    desk.group = group = group or Group()
    told: list[Told] = []
    desk.teller = lambda kind, severity, _, details: told.append(Told(kind, severity, details["code"]))
    return desk, group, told


def fetched(partition: int, *offsets: int) -> dict[Tp, tuple[list[Any], int]]:
    return {Tp(TOPIC, partition): ([Record(TOPIC, partition, n) for n in offsets], offsets[-1] + 1)}


def lane(desk: Desk, tp: TopicPartition = P0) -> Lane:
    return desk.board.lanes[tp]


# --- where it goes on


@pytest.mark.invariant("ACK-4")
@pytest.mark.parametrize(
    ("start", "restores", "offset", "halts"),
    [
        (Start(None, first=7), False, 7, False),  # a new group begins at the first record there is
        (Start(7, first=7, end=9), False, 7, False),
        (Start(9, first=7, end=9), False, 9, False),
        (Start(6, first=7, end=9), False, 6, True),  # what lay between is gone
        (Start(10, first=7, end=9), False, 10, True),  # the topic was made again
        (Start(6, first=7, end=9), True, 7, False),  # the changelog says where an exactly-once stage goes on
        (Start(10, first=7, end=9), True, 9, False),
    ],
)
async def test_where_a_partition_goes_on(start: Start, restores: bool, offset: int, halts: bool) -> None:
    desk, _, told = desk_of(restores=restores)
    assert await desk.begin({P0: start}, 3) == {P0: offset}
    assert (desk.halted is not None) is halts
    assert told == ([Told("stage-halted", "error", "range-lost")] if halts else [])
    assert (lane(desk).generation, lane(desk).start) == (3, offset)


async def test_an_assignment_of_nothing_is_one_too() -> None:
    """A spare worker is ready, though it has nothing to do."""
    desk, _, _ = desk_of()
    assert not desk.joined
    await desk.begin({}, 1)
    await asyncio.wait_for(desk.assigned_anew(), 1)
    assert desk.joined


async def test_each_assignment_is_told_once() -> None:
    desk, _, _ = desk_of()
    await desk.begin({P0: Start(0)}, 1)
    await asyncio.wait_for(desk.assigned_anew(), 1)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(desk.assigned_anew(), 0.01)


@pytest.mark.invariant("TXN-2")
async def test_a_held_lane_waits_for_its_state_and_goes_on_where_that_says() -> None:
    desk, group, _ = desk_of(restores=True)
    await desk.begin({P0: Start(5), P1: Start(5, "open=1")}, 1)
    active = {Tp(*P0), Tp(*P1)}
    assert desk.wanted(active) == set()
    desk.deliver(fetched(0, 5, 6))
    assert desk.board.queued == 0  # fetched for a position that is about to change
    assert not await desk.commit()
    await desk.release(lane(desk), 8)
    assert group.sought == [(P0, 8)]
    assert desk.wanted(active) == {Tp(*P0)}
    assert await desk.commit()
    assert group.committed == {P0: Position(8, "")}
    await desk.release(lane(desk, P1), 5)
    desk.deliver(fetched(1, 5))
    await desk.commit()
    assert group.committed[P1] == Position(5, "open=2")


async def test_what_is_suspected_of_one_offset_says_nothing_of_another() -> None:
    desk, group, _ = desk_of(restores=True)
    await desk.begin({P0: Start(5, "hand=1")}, 1)
    await desk.release(lane(desk), 6)
    assert lane(desk).suspicion == Suspicion()
    assert not lane(desk).one_by_one
    desk.deliver(fetched(0, 6))
    await desk.commit()
    assert group.committed[P0] == Position(6, "open=1")


async def test_a_lane_that_is_gone_is_not_released() -> None:
    desk, group, _ = desk_of(restores=True)
    await desk.begin({P0: Start(5)}, 1)
    old = lane(desk)
    desk.revoked()
    await desk.release(old, 9)
    assert group.sought == []


@pytest.mark.invariant("TXN-2")
async def test_the_group_is_told_nothing_of_a_lane_whose_state_is_not_there() -> None:
    """What the group said lies below the log; where the lane goes on is not known yet."""
    desk, group, _ = desk_of(restores=True)
    await desk.begin({P0: Start(3, first=5)}, 1)
    assert not await desk.commit()
    await desk.release(lane(desk), 40)
    await desk.commit()
    assert group.log == [{P0: Position(40, "")}]


# --- what the group is told


@pytest.mark.invariant("ACK-1")
async def test_only_what_moved_is_sent() -> None:
    desk, group, _ = desk_of()
    await desk.begin({P0: Start(5), P1: Start(5)}, 1)
    assert not await desk.commit()  # the group knows where we stand
    desk.deliver(fetched(0, 5, 6))
    batch = desk.board.take(10)
    assert await desk.commit()
    assert not await desk.commit()
    batch.finished(batch.records[:1])
    await desk.commit()
    batch.finished(batch.records[1:])
    await desk.commit()
    assert group.log == [{P0: Position(5, "open=1")}, {P0: Position(6, "open=1")}, {P0: Position(7, "")}]


async def test_what_the_group_refused_is_sent_again() -> None:
    desk, group, _ = desk_of()
    await desk.begin({P0: Start(None)}, 1)
    group.refuses = True
    assert not await desk.commit()
    group.refuses = False
    assert await desk.commit()
    assert group.committed == {P0: Position(0, "")}


async def test_without_a_group_nothing_is_sent() -> None:
    desk = Desk(Board(max_in_flight=1, max_bytes=1), restores=False, settle_s=1)
    await desk.begin({P0: Start(None)}, 1)
    assert not await desk.commit()


@pytest.mark.invariant("FAULT-2")
async def test_a_lane_is_marked_before_it_is_touched_and_again_after_it_was_idle() -> None:
    """Else a process that is killed after an idle moment leaves no mark, and looks like an operator's reset."""
    desk, group, _ = desk_of()
    await desk.begin({P0: Start(5)}, 1)
    desk.deliver(fetched(0, 5))
    await desk.mark(lane(desk))
    assert group.committed[P0] == Position(5, "open=1")
    batch = desk.board.take(10)
    batch.finished(batch.records)
    await desk.commit()
    assert group.committed[P0] == Position(6, "")
    desk.deliver(fetched(0, 6))
    await desk.mark(lane(desk))
    assert group.committed[P0] == Position(6, "open=1")
    sent = len(group.log)
    await desk.mark(lane(desk))
    assert len(group.log) == sent  # once is enough while something is in hand


@pytest.mark.invariant("FAULT-2")
async def test_an_input_that_goes_alone_is_marked_for_as_long_as_it_is_in_hand() -> None:
    desk, group, _ = desk_of()
    await desk.begin({P0: Start(5, "open=2")}, 1)
    desk.deliver(fetched(0, 5, 6))
    async with desk.alone(lane(desk)):
        assert group.committed[P0] == Position(5, "hand=1")
        batch = desk.board.take_from(lane(desk), 1, 0)
        batch.finished(batch.records)
    assert group.committed[P0] == Position(6, "open=1")


async def test_two_lanes_are_never_alone_at_once() -> None:
    desk, _, _ = desk_of()
    await desk.begin({P0: Start(0, "open=2"), P1: Start(0, "open=2")}, 1)
    inside: list[int] = []
    most = 0

    async def go(tp: TopicPartition) -> None:
        nonlocal most
        async with desk.alone(lane(desk, tp)):
            inside.append(1)
            most = max(most, len(inside))
            await asyncio.sleep(0)
            inside.pop()

    await asyncio.gather(*(go(tp) for tp in (P0, P1, P0, P1)))
    assert most == 1


# --- stopping


async def test_a_stop_in_order_finishes_what_is_in_hand_and_leaves_no_mark() -> None:
    """What was fetched and not touched is read again by whoever comes next, who has no reason to suspect it."""
    desk, group, _ = desk_of()
    await desk.begin({P0: Start(0), P1: Start(0)}, 1)
    desk.deliver(fetched(0, 0, 1, 2))
    desk.deliver(fetched(1, 0, 1))
    await desk.commit()
    batch = desk.board.take_from(lane(desk), 1, 0)
    settling = asyncio.ensure_future(desk.settle())
    await asyncio.sleep(0)
    assert desk.wanted({Tp(*P0)}) == set()
    batch.finished(batch.records)
    await settling
    assert group.committed == {P0: Position(1, ""), P1: Position(0, "")}


async def test_after_a_rebalance_it_goes_on() -> None:
    desk, _, _ = desk_of()
    await desk.begin({P0: Start(0)}, 1)
    await desk.settle()
    desk.revoked()
    await desk.begin({P1: Start(0)}, 2)
    assert desk.wanted({Tp(*P0), Tp(*P1)}) == {Tp(*P1)}


async def test_a_stop_that_cannot_wait_longer_leaves_the_mark() -> None:
    desk, group, _ = desk_of()
    await desk.begin({P0: Start(0)}, 1)
    desk.deliver(fetched(0, 0, 1))
    desk.board.take_from(lane(desk), 1, 0)
    await desk.settle()
    assert group.committed == {P0: Position(0, "open=1")}


@pytest.mark.invariant("TXN-4")
async def test_who_was_abandoned_is_not_waited_for_and_tells_the_group_nothing() -> None:
    """Also where a stop was waiting already: its batch will not be finished by anybody."""
    desk, group, _ = desk_of()
    desk.settle_s = 60.0
    await desk.begin({P0: Start(0)}, 1)
    desk.deliver(fetched(0, 0, 1))
    desk.board.take(2)
    settling = asyncio.ensure_future(desk.settle())
    await asyncio.sleep(0)
    its = lane(desk)
    desk.abandon()
    assert its.gone
    assert its.arrived.is_set()
    await asyncio.wait_for(settling, 1)
    await asyncio.wait_for(desk.settle(), 1)
    assert group.log == []


async def test_halting_stops_the_fetch_until_an_operator_resumes() -> None:
    desk, _, told = desk_of()
    await desk.begin({P0: Start(0)}, 1)
    active = {Tp(*P0)}
    desk.deliver(fetched(0, 0))
    assert desk.wanted(active) == active
    desk.halt(Halt("faults", "10 records in a row failed"))
    desk.halt(Halt("other", "the first reason stands"))
    assert desk.wanted(active) == set()
    assert desk.halted is not None
    assert desk.halted.code == "faults"
    lane(desk).arrived.clear()
    desk.board.changed.clear()
    desk.resume()
    desk.resume()
    assert lane(desk).arrived.is_set()
    assert desk.board.changed.is_set()
    assert desk.wanted(active) == active
    assert told == [Told("stage-halted", "error", "faults"), Told("stage-resumed", "info", "faults")]


async def test_room_is_told_when_something_finished() -> None:
    desk, _, _ = desk_of()
    await desk.begin({P0: Start(0)}, 1)
    desk.deliver(fetched(0, 0))
    batch = desk.board.take(1)
    waiting = asyncio.ensure_future(desk.wait_for_room())
    await asyncio.sleep(0)
    assert not waiting.done()
    batch.finished(batch.records)
    await asyncio.wait_for(waiting, 0.1)


async def test_a_fetch_for_a_partition_that_is_gone_is_dropped() -> None:
    desk, _, _ = desk_of()
    await desk.begin({P0: Start(0)}, 1)
    desk.deliver(fetched(1, 0, 1))
    desk.revoked()
    desk.deliver(fetched(0, 0))
    assert (desk.board.queued, desk.board.bytes) == (0, 0)
