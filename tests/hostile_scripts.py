"""Payloads that use all the steps they get, each on another kind of work; and what they cost a child.

python -m tests.hostile_scripts      processor and wall-clock seconds, and the largest resident size, at 5,000 ms
"""

import asyncio
import resource
import time

from msgspec import Struct

from agents.runtime.sandbox import Sandbox, SandboxSettings
from pipeline.policy import Policy
from pipeline.script.engine import ScriptJob, SpentCoin
from tests.asm import asm
from tests.builders import In, Out, by_script, funding, key, push, spend

LONG = push(b"\x7f" * 400_000)
NEW, ORIGINAL = (push(key().sign(bytes(32)) + bytes((kind,))) for kind in (0x41, 0x61))
KEY = push(key().public)
KEYS = b"\x00" + NEW + b"\x51" + KEY + b"\x76" * 19_999 + push((20_000).to_bytes(2, "little")) + b"\xae"

HOSTILE: dict[str, list[bytes]] = {
    "small numbers": [asm("1ADD 1SUB NEGATE ABS ") * 120_000] * 6,
    "doubling and halving": [asm("2MUL 2DIV ") * 240_000] * 6,
    "small products": [asm("DUP MUL 1 MOD 1ADD ") * 96_000] * 6,
    "numbers of 100 bytes": [push(b"\x7f" * 100) + asm("DUP DUP ADD DROP ") * 100_000] * 6,
    "a product of 400 kB by 400 kB": [LONG + asm("DUP MUL DUP MUL")] * 10,
    "quotients": [LONG + push(b"\x7f" * 100 + b"\x11") + asm("2DUP DIV DROP ") * 50_000] * 2,
    "shifts": [LONG + asm("3 LSHIFT 3 RSHIFT ") * 50_000] * 2,
    "CAT to 50 MB": [LONG + asm("DUP CAT ") * 6 + asm("DUP DUP CAT DROP ") * 2_000] * 5,
    "NUM2BIN to 90 MB": [asm("1 90000000 NUM2BIN DROP ") * 50_000] * 2,
    "BIN2NUM of zeros": [asm("0 30000000 NUM2BIN ") + asm("DUP BIN2NUM DROP ") * 100_000] * 2,
    "IF of zeros": [asm("0 30000000 NUM2BIN ") + asm("DUP IF ENDIF ") * 100_000] * 2,
    "deep conditionals": [asm("1 IF ") * 200_000] * 10,
    "deep stack": [asm("1 ") * 300_000 + asm("x03e09304 ROLL ") * 30_000] * 10,
    "hashes": [LONG + asm("DUP CAT ") * 5 + asm("DUP RIPEMD160 DROP ") * 100_000] * 2,
    "signatures": [NEW + KEY + asm("2DUP CHECKSIG DROP ") * 100_000] * 6,
    "20,000 keys": [KEYS] * 20,
    "separators in the original digest": [
        ORIGINAL + KEY + asm("2DUP CHECKSIG DROP ") * 30_000 + asm("RETURN ") + b"\xab" * 300_000
    ]
    * 5,
}


class Cost(Struct, frozen=True):
    """What a payload took."""

    codes: set[str]
    processor_s: float
    wall_s: float
    resident_mb: int  # the largest child so far


def jobs(lockings: list[bytes]) -> list[ScriptJob]:
    """A payload of these coins, each spent by a relaxed transaction of its own."""
    made = []
    for number, locking in enumerate(lockings):
        parent = funding(Out(1000, locking))
        tx = spend([In(parent, 0, by_script(b"\x51"))], version=2)
        made.append(ScriptJob(number, tx.raw, (SpentCoin(0, parent.output(0), True, True),), True, 100_000_000))
    return made


async def cost(lockings: list[bytes], budget_ms: int) -> Cost:
    """Run a payload in a child of its own, which has ended when this returns."""
    asked = jobs(lockings)
    sandbox = Sandbox(Policy(script_budget_ms=budget_ms), SandboxSettings(processes=1))
    await sandbox.start()
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    results = await sandbox.run(asked)
    wall_s = time.monotonic() - began
    await sandbox.stop()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost({result.code for result in results.values()}, spent, wall_s, after.ru_maxrss >> 10)


async def _main() -> None:
    for name, lockings in HOSTILE.items():
        found = await cost(lockings, Policy().script_budget_ms)
        print(
            f"{found.processor_s:5.2f} s processor {found.wall_s:5.2f} s wall {found.resident_mb:4d} MB"
            f"  {name} {sorted(found.codes)}",
            flush=True,
        )


if __name__ == "__main__":
    asyncio.run(_main())
