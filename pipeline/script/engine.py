"""Judging inputs: by template where one fits, else by the machine; one by one here, or in jobs for the sandbox."""

from collections.abc import Iterable, Iterator

from msgspec import Struct

from pipeline.codec.reader import varint
from pipeline.codec.tx import Tx, read_tx
from pipeline.script.form import is_push_only
from pipeline.script.machine import Machine, Meter, Spend
from pipeline.script.opcodes import SIGNATURE_STEPS, TABLE
from pipeline.script.rules import Rules, ScriptFault, malformed, untrue
from pipeline.script.sighash import Digests
from pipeline.script.templates import judge, match

STEPS_PER_MS = 500
"""Steps that stand for a millisecond: half of what fits, so that the count comes before the kernel's clock."""

INPUT_STEPS = 10  # what an input costs the machine before its first operation


class SpentCoin(Struct, frozen=True, array_like=True):
    """A coin an input spends: the parent's real output, and the era it was made in."""

    vin: int
    output: bytes  # as its transaction holds it: value, then locking script with its length
    after_genesis: bool
    after_chronicle: bool


class ScriptJob(Struct, frozen=True, array_like=True):
    """Inputs of one transaction to be judged where they can be stopped."""

    key: int  # names the job in the results: the transaction's place among the un-mined
    raw: bytes  # the spending transaction
    coins: tuple[SpentCoin, ...]
    chronicle: bool  # whether the next block follows Chronicle's rules
    memory: int  # bytes its stacks may take


class ScriptResult(Struct, frozen=True, array_like=True):
    """What became of a job. An empty code: every input is unlocked."""

    key: int
    code: str = ""  # script.false | script.malformed | policy.script-budget
    vin: int = -1  # the input it failed at
    message: str = ""


def run_jobs(jobs: Iterable[ScriptJob], steps: int) -> Iterator[ScriptResult]:
    """Judge jobs in order; all share the same steps (STEPS_PER_MS a millisecond, on any machine)."""
    meter = Meter(steps, 0)
    for job in jobs:
        digests = Digests(read_tx(job.raw))
        meter.memory = job.memory
        result = ScriptResult(job.key)
        for coin in job.coins:
            rules = rules_for(digests.tx, coin, job.chronicle)
            try:
                judge_input(digests, coin, rules, meter)
            except ScriptFault as fault:
                result = ScriptResult(job.key, fault.code, coin.vin, fault.message)
                break
        yield result


def rules_for(tx: Tx, coin: SpentCoin, chronicle: bool) -> Rules:
    """The rules of one input. Versions are signed: those from 2**31 up are not above 1."""
    return Rules(coin.after_genesis, coin.after_chronicle, chronicle, chronicle and tx.version > 1)


def judge_input(digests: Digests, coin: SpentCoin, rules: Rules, meter: Meter) -> None:
    """Judge one input.

    Raises:
        ScriptFault: it does not hold, or needs more than the meter has.
    """
    unlocking = digests.tx.unlocking(coin.vin)
    length, at = varint(coin.output, 8)
    locking = coin.output[at : at + length]
    checks = match(unlocking, locking, coin.after_genesis)
    if checks is None:
        evaluate(unlocking, locking, Spend(digests, coin.vin, coin.output[:8], rules), meter)
        return
    kinds = {signature[-1] for signature in checks.signatures}
    meter.spend(1 + SIGNATURE_STEPS * len(checks.keys) + sum(digests.steps(locking, kind) for kind in kinds))
    judge(checks, digests, coin.vin, coin.output, locking, rules)


def evaluate(unlocking: bytes, locking: bytes, spend: Spend, meter: Meter) -> None:
    """Run unlocking and locking script on one stack and look at what is left.

    Raises:
        ScriptFault: as `judge_input`.
    """
    rules = spend.rules
    meter.spend(INPUT_STEPS)
    if not rules.relaxed and not is_push_only(unlocking):
        raise malformed("the unlocking script does more than push")
    machine = Machine(spend, meter)
    machine.run(unlocking, TABLE, tail=locking)
    unlocked = machine.stack.copy()
    machine.run(locking, TABLE)
    _check_top(machine)
    if not rules.after_genesis and _is_p2sh(locking):
        if not is_push_only(unlocking):
            raise malformed("the unlocking script does more than push")
        machine.stack = unlocked
        redeem = machine.stack.pop()
        machine.run(redeem, TABLE)
        _check_top(machine)
    if len(machine.stack) != 1 and not rules.relaxed:
        raise malformed(f"{len(machine.stack)} elements are left on the stack")


def _check_top(machine: Machine) -> None:
    if not machine.stack or not machine.truth(machine.stack[-1]):
        raise untrue("the scripts do not end with a true value")


def _is_p2sh(locking: bytes) -> bool:
    return len(locking) == 23 and locking[:2] == b"\xa9\x14" and locking[22] == 0x87
