"""Child processes for scripts: a deadline and a memory ceiling that hold whatever the script does.

A script costs counted steps, which give one verdict on every machine. Behind that stand the kernel's limits on a child
(processor time, address space) for what the count misjudges. A child that ends is replaced; only its jobs suffer.
Children run at a lower priority than the stages, and leave them a core where there are several.
"""

import asyncio
import os
import signal
from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Struct

from agents.runtime.child import Child, Ended
from agents.runtime.pool import BusyError, Pool, cores_left
from agents.runtime.sandbox_child import Request
from pipeline.policy import Policy
from pipeline.script.engine import STEPS_PER_MS, ScriptJob, ScriptResult
from schemas.types import why


class SandboxSettings(Struct, frozen=True):
    """The children that run scripts."""

    processes: Annotated[
        int,
        why("0: one less than the cores, at least one, so that a core stays with the stage's own work.", ge=0, le=64),
    ] = 0
    max_waiting: Annotated[
        int,
        why(
            "Payloads that wait for a child as long as it takes. They are held in memory, and many keep others from "
            "being fetched.",
            ge=1,
        ),
    ] = 4
    patience_s: Annotated[
        float,
        why(
            "What is more waits so long and then comes back in 10 s: time for hundreds of honest scripts of a "
            "millisecond each, and not for one bomb of seconds.",
            gt=0,
        ),
    ] = 0.5
    memory_bytes: Annotated[
        int, why("Address space of a child, its 100 MB at rest included; scripts are held to less.", ge=256 << 20)
    ] = 600 << 20


class SandboxFault(Exception):  # noqa: N818 - ours, and told apart by the stage
    """A child ended without a reason of the script's."""


class Sandbox:
    """A few children, each with one payload's jobs at a time. Used from one event loop."""

    def __init__(self, policy: Policy, settings: SandboxSettings = SandboxSettings()) -> None:  # noqa: B008 - frozen
        self._budget_ms = policy.script_budget_ms
        self._settings = settings
        self._pool = Pool("a script child", self._child, settings.max_waiting, settings.patience_s)

    async def start(self) -> None:
        """Start the children, and wait until they stand.

        Raises:
            SandboxFault: a child does not come up.
        """
        await self._pool.start(self._settings.processes or cores_left())

    async def stop(self) -> None:
        """End the children, whatever they do."""
        await self._pool.stop()

    async def run(self, jobs: Sequence[ScriptJob], deadline_ms: int | None = None) -> dict[int, ScriptResult]:
        """Judge the jobs of one payload; a result for each, by its key.

        deadline_ms: what they may cost together (the policy's unless given). Waiting for a free child does not count,
            nor does time the machine gives to others.

        Raises:
            SandboxFault: a child failed through no fault of the scripts.
            BusyError: `max_waiting` others wait, and no child came free within `patience_s`; or others took the
                processor for so long that nobody can say what the scripts would have come to.
        """
        if not jobs:
            return {}
        async with self._pool.child() as child:
            return await child.ask(jobs, deadline_ms or self._budget_ms)

    async def _child(self) -> "_Child":
        return await _Child.start(self._settings.memory_bytes)


_decode = msgspec.msgpack.Decoder(ScriptResult).decode

_KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 30)}
"""For glibc: large elements are given memory again that others had. Else each of 32 MB and more is new to the process,
and making its pages costs more than what a script does with them."""

_WALL_MARGIN = 10.0  # the share of a processor a child may be left with: a tenth
_START_S = 30.0
_MOST = 1 << 20  # bytes of a result


class _Child:
    """One process."""

    def __init__(self, process: Child) -> None:
        self._process = process
        self.spent = False  # not to be given jobs again

    @classmethod
    async def start(cls, memory_bytes: int) -> "_Child":
        environment = {**os.environ, **_KEEP_MEMORY}
        process = Child("agents.runtime.sandbox_child", [str(memory_bytes)], environment, "-I", most=_MOST)
        try:
            async with asyncio.timeout(_START_S):
                await process.read()
        except Ended as error:
            await process.end()
            raise SandboxFault(f"a script child does not come up: {error}") from error
        except BaseException:
            await process.end()
            raise
        return cls(process)

    async def ask(self, jobs: Sequence[ScriptJob], budget_ms: int) -> dict[int, ScriptResult]:
        cpu_s = budget_ms / 1000
        request = msgspec.msgpack.encode(Request(tuple(jobs), budget_ms * STEPS_PER_MS, cpu_s))
        results: dict[int, ScriptResult] = {}
        try:
            async with asyncio.timeout(_WALL_MARGIN * cpu_s + 1):
                await self._process.send(request)
                while len(results) < len(jobs):
                    result = _decode(await self._process.read())
                    results[result.key] = result
                    # Where memory ran out the child ends by itself; where steps did, a fresh one costs little.
                    self.spent |= result.code == "policy.script-budget"
        except TimeoutError as error:
            raise BusyError(f"a script child got no time in {_WALL_MARGIN * cpu_s:.0f} s") from error
        except Ended as error:
            return self._explain(error, jobs, results)
        return results

    def _explain(
        self, error: Ended, jobs: Sequence[ScriptJob], results: dict[int, ScriptResult]
    ) -> dict[int, ScriptResult]:
        """The child ended before it was done: by the kernel's clock, or by a fault."""
        self.spent = True
        if error.status != -signal.SIGPROF:
            raise SandboxFault(f"a script child: {error}") from error
        message = "the scripts need more time than they may have"
        late = [ScriptResult(job.key, "policy.script-budget", -1, message) for job in jobs if job.key not in results]
        return results | {result.key: result for result in late}

    async def end(self) -> None:
        await self._process.end()
