"""A child process and its frames: asked from an event loop, and by who holds everything up meanwhile."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.runtime.child import Child, Ended, ending
from agents.runtime.confined import READY, cut, frame

START_S = 30.0


def started(*arguments: str) -> Child:
    return Child("tests.agents.odd_child", arguments, os.environ, most=100_000)


@pytest.fixture
def child() -> Iterator[Child]:
    """One that is up."""
    made = started()
    try:
        assert made.next(START_S) == READY
        yield made
    finally:
        made.close()


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_frames_carry_their_length_and_are_cut_in_order() -> None:
    assert frame(b"abc") == b"\x00\x00\x00\x03abc"
    got = bytearray(frame(b"one") + frame(b"") + frame(b"three")[:5])
    assert [cut(got), cut(got), cut(got)] == [b"one", b"", None]
    got += b"hree"
    assert (cut(got), cut(got), bytes(got)) == (b"three", None, b"")


def test_it_is_asked_and_answers(child: Child) -> None:
    """Frames larger than the socket's buffer too, which both ends fill by turns."""
    large = bytes(range(256)) * 390
    for body in (b"say x", b"say ", b"say " + large):
        assert child.ask(body, START_S) == body[4:]
    assert child.ask(b"twice x", START_S) == b"x"
    assert child.next(START_S) == b"x"


async def test_a_loop_goes_on_while_it_is_asked(child: Child) -> None:
    await child.send(b"say x")
    await child.send(b"say y")
    assert [await child.read(), await child.read()] == [b"x", b"y"]


@pytest.mark.parametrize(
    ("asked", "status"),
    [(b"exit 0", 0), (b"exit 3", 3), (b"kill", -9), (b"lie", -9), (b"close", -9)],
)
async def test_how_it_ends_is_told(asked: bytes, status: int) -> None:
    """One that answers with more than it may, or closes its end, is ended."""

    async def ask(child: Child, in_loop: bool) -> bytes:
        if not in_loop:
            return child.ask(asked, START_S)
        await child.send(asked)
        return await child.read()

    for in_loop in (False, True):
        child = started()
        assert child.next(START_S) == READY
        with pytest.raises(Ended) as raised:
            await ask(child, in_loop)
        assert raised.value.status == status
        assert child.reaped()
        await child.end()
        assert gone(child.pid)


def test_who_waits_waits_no_longer_than_said(child: Child) -> None:
    """In a child that sleeps, and in one that takes nothing any more."""
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        child.ask(b"sleep 600", 0.1)
    with pytest.raises(TimeoutError):
        child.ask(bytes(8 << 20), 0.1)
    assert 0.2 <= time.monotonic() - began < 10


def test_what_it_started_ends_with_it(child: Child) -> None:
    other = int(child.ask(b"fork", START_S))
    assert not gone(other)
    child.close()
    deadline = time.monotonic() + START_S
    while not gone(other) and Path(f"/proc/{other}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_one_that_does_not_come_up_is_waited_for_no_longer_than_said() -> None:
    child = started("mute")
    with pytest.raises(TimeoutError):
        child.next(0.1)
    child.close()
    assert gone(child.pid)


async def test_one_that_has_ended_says_so_when_it_is_asked_again() -> None:
    child = started()
    child.next(START_S)
    child.kill()
    await child.status()
    with pytest.raises(Ended, match="SIGKILL"):
        child.ask(b"say x", START_S)
    with pytest.raises(Ended, match="SIGKILL"):
        await child.send(b"say x")
    child.close()


def test_endings_have_words() -> None:
    assert [ending(status) for status in (0, 3, -9, -14, -200)] == [
        "with status 0", "with status 3", "by SIGKILL", "by SIGALRM", "by signal 200",
    ]  # fmt: skip
