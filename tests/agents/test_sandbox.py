"""The sandbox: scripts that take too much lose their child, and nobody else notices."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agents.runtime.sandbox import Sandbox, SandboxFault, SandboxSettings
from agents.runtime.sandbox_child import Request, frame
from pipeline.policy import Policy
from pipeline.script.engine import ScriptJob, SpentCoin
from tests.builders import In, Out, by_script, funding, push, spend

TRUE = b"\x61"
NO_LIMIT = 10**12


def job(locking: bytes, key: int = 0, memory: int = 10**8) -> ScriptJob:
    parent = funding(Out(1000, locking))
    tx = spend([In(parent, 0, by_script(b"\x51"))])
    return ScriptJob(key, tx.raw, (SpentCoin(0, parent.output(0), True, True),), True, memory)


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    made = Sandbox(Policy(script_budget_ms=300), SandboxSettings(processes=1))
    await made.start()
    yield made
    await made.stop()


def pid_of(_: Sandbox) -> int:
    """The one child, as the system tells it."""
    (pid,) = children_of(os.getpid())
    return pid


def children_of(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command = (entry / "cmdline").read_bytes()
            status = (entry / "stat").read_text().rsplit(")", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if b"sandbox_child" in command and int(status[1]) == parent and status[0] != "Z":
            found.append(int(entry.name))
    return found


async def test_jobs_are_answered_by_key(sandbox: Sandbox) -> None:
    results = await sandbox.run([job(TRUE, 4), job(b"\x91", 2)])
    assert {key: result.code for key, result in results.items()} == {4: "", 2: "script.false"}
    assert await sandbox.run([]) == {}


async def test_one_child_serves_many_payloads(sandbox: Sandbox) -> None:
    before = pid_of(sandbox)
    for _ in range(20):
        assert (await sandbox.run([job(TRUE)]))[0].code == ""
    assert pid_of(sandbox) == before


async def test_steps_that_run_out_are_a_verdict_and_the_next_payload_is_served(sandbox: Sandbox) -> None:
    results = await sandbox.run([job(b"\x61" * 400_000), job(TRUE, 1)])
    assert [result.code for result in results.values()] == ["policy.script-budget"] * 2
    assert (await sandbox.run([job(TRUE)]))[0].code == ""


async def test_a_deadline_may_be_given(sandbox: Sandbox) -> None:
    asked = [job(b"\x61" * 20_000)]
    assert (await sandbox.run(asked, deadline_ms=10))[0].code == "policy.script-budget"
    assert (await sandbox.run(asked))[0].code == ""


async def test_the_kernel_ends_a_child_whose_steps_were_misjudged(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With steps worth a thousandth, the processor's clock is what is left."""
    monkeypatch.setattr("agents.runtime.sandbox.STEPS_PER_MS", 10**9)
    before = pid_of(sandbox)
    slow = job(push(b"\x7f" * 100_000) + b"\x76\x76\x95\x75" * 40)
    results = await sandbox.run([job(TRUE, 1), slow], deadline_ms=100)
    assert (results[1].code, results[0].code) == ("", "policy.script-budget")
    assert (await sandbox.run([job(TRUE)]))[0].code == ""
    assert pid_of(sandbox) != before


async def test_memory_that_runs_out_is_a_verdict() -> None:
    """The count of the stacks is switched off; the ceiling of the address space holds."""
    sandbox = Sandbox(Policy(), SandboxSettings(processes=1, memory_bytes=256 << 20))
    await sandbox.start()
    try:
        hungry = job(push(b"\x7f" * 1_000_000) + b"\x76\x7e" * 10, memory=NO_LIMIT)
        assert (await sandbox.run([hungry, job(TRUE, 1)]))[0].code == "policy.script-budget"
        assert (await sandbox.run([job(TRUE)]))[0].code == ""
    finally:
        await sandbox.stop()


async def test_a_child_that_is_killed_is_a_fault_and_is_replaced(sandbox: Sandbox) -> None:
    running = asyncio.ensure_future(sandbox.run([job(b"\x61" * 200_000)], deadline_ms=60_000))
    await asyncio.sleep(0)
    os.kill(pid_of(sandbox), signal.SIGKILL)
    with pytest.raises(SandboxFault):
        await running
    assert (await sandbox.run([job(TRUE)]))[0].code == ""


async def test_a_child_that_was_killed_while_idle_costs_one_run(sandbox: Sandbox) -> None:
    os.kill(pid_of(sandbox), signal.SIGKILL)
    with pytest.raises(SandboxFault):
        await sandbox.run([job(TRUE)])
    assert (await sandbox.run([job(TRUE)]))[0].code == ""


async def test_a_run_that_is_cancelled_frees_its_place(sandbox: Sandbox) -> None:
    running = asyncio.ensure_future(sandbox.run([job(b"\x61" * 400_000)], deadline_ms=60_000))
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    async with asyncio.timeout(30):
        assert (await sandbox.run([job(TRUE)]))[0].code == ""


async def test_a_slow_payload_holds_up_one_child_only() -> None:
    sandbox = Sandbox(Policy(), SandboxSettings(processes=2))
    await sandbox.start()
    try:
        slow = asyncio.ensure_future(sandbox.run([job(b"\x61" * 480_000)], deadline_ms=60_000))
        for _ in range(5):
            assert (await sandbox.run([job(TRUE)]))[0].code == ""
        assert not slow.done()
        assert (await slow)[0].code == ""
    finally:
        await sandbox.stop()


async def test_children_end_with_the_sandbox() -> None:
    sandbox = Sandbox(Policy(), SandboxSettings(processes=1))
    await sandbox.start()
    pid = pid_of(sandbox)
    await sandbox.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


PARENT = """
import asyncio
from agents.runtime.sandbox import Sandbox
from pipeline.policy import Policy

async def main():
    await Sandbox(Policy()).start()
    print("up", flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.mark.invariant("PROC-1")
def test_children_end_when_their_parent_is_killed() -> None:
    """They read the end of their input, whatever happened to the process that held the other one."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE)
    with parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"up\n"
        children = children_of(parent.pid)
        parent.kill()
    assert len(children) == 2
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in children):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_frames_carry_their_length() -> None:
    assert frame(b"abc") == b"\x00\x00\x00\x03abc"
    assert Request((), 1, 0.5).steps == 1
