"""The sandbox: scripts that take too much lose their child, and nobody else notices."""

import asyncio
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agents.runtime.pool import BusyError
from agents.runtime.sandbox import Sandbox, SandboxFault, SandboxSettings
from agents.runtime.sandbox_child import NICE
from pipeline.policy import Policy
from pipeline.script.engine import ScriptJob, SpentCoin
from tests.builders import In, Out, by_script, funding, key, push, spend

TRUE = b"\x61"
NO_LIMIT = 10**12


def job(locking: bytes, number: int = 0, memory: int = 10**8) -> ScriptJob:
    parent = funding(Out(1000, locking))
    tx = spend([In(parent, 0, by_script(b"\x51"))])
    return ScriptJob(number, tx.raw, (SpentCoin(0, parent.output(0), True, True),), True, memory)


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


def group_nice(pid: int) -> int | None:
    """What the system schedules a process's session by; None where it does not."""
    grouped = Path("/proc/sys/kernel/sched_autogroup_enabled")
    if not grouped.exists() or grouped.read_text(encoding="ascii").strip() != "1":
        return None
    return int(Path(f"/proc/{pid}/autogroup").read_text(encoding="ascii").split()[-1])


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


async def test_a_child_gives_large_elements_the_memory_others_had(sandbox: Sandbox) -> None:
    """glibc maps whatever has 32 MB and more anew each time: 10,000 pages to make for 40 MB, dearer than copying it."""
    forty_mb = push(b"\x7f" * 312_500) + b"\x76\x7e" * 7
    copied = [job(forty_mb + b"\x76\x83\x75" * times + b"\x75") for times in (1, 31)]

    def pages() -> int:
        return int(Path(f"/proc/{pid_of(sandbox)}/stat").read_text().rsplit(")", 1)[1].split()[7])

    await sandbox.run(copied[:1], deadline_ms=60_000)
    before = pages()
    result = await sandbox.run(copied[1:], deadline_ms=60_000)
    assert result[0].code == ""
    assert pages() - before < 60_000  # 30 more of them would be 300,000


ONE_OPERATION = [
    pytest.param(push(b"\x7f" * 1_000_000), b"\x76\x95\x75", id="big numbers: MUL of 1 MB by 1 MB"),
    pytest.param(push(b"\x7f" * 1_000_000) + b"\x76\x7e" * 7, b"\xa6", id="hashing: RIPEMD160 of 128 MB"),
    pytest.param(
        b"\x00" + push(key().sign(bytes(32)) + b"\x41") + b"\x51" + push(key().public) + b"\x76" * 19_999,
        push((20_000).to_bytes(2, "little")) + b"\xae\x75",
        id="signatures: CHECKMULTISIG of 20,000 keys",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("before", "operation"), ONE_OPERATION)
async def test_the_kernels_clock_interrupts_one_long_operation(
    before: bytes, operation: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its step is not over yet: nothing in the child could look at a clock. What comes before it has time enough, the
    second time: the child keeps the memory, whose pages are what takes long where others use the machine too."""
    monkeypatch.setattr("agents.runtime.sandbox.STEPS_PER_MS", 10**9)
    # It is the processor's clock that is looked at: others on the machine may take what they want of the wall's.
    monkeypatch.setattr("agents.runtime.sandbox._WALL_MARGIN", 100.0)
    sandbox = Sandbox(Policy(), SandboxSettings(processes=1))
    await sandbox.start()
    try:
        deadline_ms = 400
        assert (await sandbox.run([job(before, memory=NO_LIMIT)], 60_000))[0].code != "policy.script-budget"
        assert (await sandbox.run([job(before, memory=NO_LIMIT)], deadline_ms))[0].code != "policy.script-budget"
        child = pid_of(sandbox)
        assert (await sandbox.run([job(before + operation, memory=NO_LIMIT)], deadline_ms))[0].code == (
            "policy.script-budget"
        )
        assert (await sandbox.run([job(TRUE)]))[0].code == ""
        assert pid_of(sandbox) != child
    finally:
        await sandbox.stop()


async def test_the_kernels_clock_is_the_budget(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processor time, as the system counts it: 300 ms and not twice that; ticks and the child's start aside."""
    monkeypatch.setattr("agents.runtime.sandbox.STEPS_PER_MS", 10**9)
    monkeypatch.setattr("agents.runtime.sandbox._WALL_MARGIN", 100.0)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    idle = seconds_of(pid_of(sandbox))
    slow = job(push(b"\x7f" * 1_000_000) + b"\x76\x95\x75")
    assert (await sandbox.run([slow]))[0].code == "policy.script-budget"
    await sandbox.stop()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime - idle
    assert 0.25 < spent < 0.45


def seconds_of(pid: int) -> float:
    """Processor time a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


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


async def test_a_child_that_dies_takes_only_its_own_jobs_with_it() -> None:
    """Two payloads at two children; one child is killed at its work."""
    sandbox = Sandbox(Policy(), SandboxSettings(processes=2))
    await sandbox.start()
    try:
        running = [asyncio.ensure_future(sandbox.run([job(b"\x61" * 400_000)], deadline_ms=60_000)) for _ in range(2)]
        await asyncio.sleep(0)
        os.kill(children_of(os.getpid())[0], signal.SIGKILL)
        said = await asyncio.gather(*running, return_exceptions=True)
        assert [type(one) for one in said].count(SandboxFault) == 1
        assert [one[0].code for one in said if isinstance(one, dict)] == [""]
        for _ in range(4):
            assert (await sandbox.run([job(TRUE)]))[0].code == ""
        assert len(children_of(os.getpid())) == 2
    finally:
        await sandbox.stop()


async def test_a_child_that_was_killed_while_idle_costs_one_run(sandbox: Sandbox) -> None:
    os.kill(pid_of(sandbox), signal.SIGKILL)
    with pytest.raises(SandboxFault):
        await sandbox.run([job(TRUE)])
    assert (await sandbox.run([job(TRUE)]))[0].code == ""


async def test_a_child_that_gets_no_time_is_no_fault(sandbox: Sandbox) -> None:
    """Nobody knows what the scripts would have come to: the payload comes back, and another child stands."""
    os.kill(pid_of(sandbox), signal.SIGSTOP)
    with pytest.raises(BusyError, match="no time"):
        await sandbox.run([job(TRUE)], deadline_ms=10)
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


@pytest.mark.parametrize(("cores", "children"), [(1, 1), (2, 1), (4, 3)])
async def test_a_core_is_left_to_the_stage(cores: int, children: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    sandbox = Sandbox(Policy(), SandboxSettings())
    await sandbox.start()
    try:
        assert len(children_of(os.getpid())) == children
    finally:
        await sandbox.stop()


async def test_children_step_behind_the_stage(sandbox: Sandbox) -> None:
    """The kernel's own figure."""
    behind = os.getpriority(os.PRIO_PROCESS, pid_of(sandbox)) - os.getpriority(os.PRIO_PROCESS, 0)
    assert behind == min(NICE, 19 - os.getpriority(os.PRIO_PROCESS, 0))
    # Of its session too: where sessions are scheduled as groups, its own says nothing.
    assert group_nice(pid_of(sandbox)) in (NICE, None)


async def test_children_end_with_the_sandbox() -> None:
    sandbox = Sandbox(Policy(), SandboxSettings(processes=1))
    await sandbox.start()
    pid = pid_of(sandbox)
    await sandbox.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


PARENT = """
import asyncio
from agents.runtime.sandbox import Sandbox, SandboxSettings
from pipeline.policy import Policy

async def main():
    await Sandbox(Policy(), SandboxSettings(processes=2)).start()
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
