"""How much of what is found for payloads may be in hand at once."""

import asyncio

from agents.runtime.ancestors import Room


async def entered(task: "asyncio.Task[None]") -> bool:
    await asyncio.sleep(0.01)
    return task.done()


async def test_who_finds_no_room_waits_until_there_is() -> None:
    room = Room(10)
    await room.enter(1, 6)
    await room.enter(2, 4)
    third = asyncio.ensure_future(room.enter(3, 5))
    assert not await entered(third)
    room.leave(2)
    assert not await entered(third)
    room.leave(2)  # a second time gives nothing back
    assert not await entered(third)
    room.leave(1)
    assert await entered(third)


async def test_what_is_larger_than_all_goes_alone() -> None:
    room = Room(10)
    await room.enter(1, 1)
    large = asyncio.ensure_future(room.enter(2, 50))
    assert not await entered(large)
    room.leave(1)
    assert await entered(large)
    small = asyncio.ensure_future(room.enter(3, 1))
    assert not await entered(small)
    room.leave(2)
    assert await entered(small)


async def test_who_gives_up_waiting_takes_nothing() -> None:
    room = Room(10)
    await room.enter(1, 10)
    waiting = asyncio.ensure_future(room.enter(2, 10))
    assert not await entered(waiting)
    waiting.cancel()
    room.leave(1)
    await room.enter(3, 10)
    room.leave(2)
    assert not await entered(asyncio.ensure_future(room.enter(4, 1)))
