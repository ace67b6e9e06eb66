"""What a counted step costs: nanoseconds of processor time, for every kind of work a script can ask for.

    python -m tests.steps [words of names]

A step is meant to be about a microsecond. What costs much more than its count is what a hostile script would be made
of; the last line is the time of a payload that uses all its steps on the dearest of them.
"""

import sys
import time
from collections.abc import Iterator

from msgspec import Struct

from pipeline.codec.reader import write_varint
from pipeline.codec.tx import Tx, read_tx
from pipeline.policy import Policy
from pipeline.script.engine import STEPS_PER_MS, SpentCoin, evaluate, judge_input
from pipeline.script.machine import NUMBER_BYTES, Meter, Spend
from pipeline.script.rules import Rules, ScriptFault
from pipeline.script.sighash import Digests
from tests.asm import asm
from tests.builders import FINAL, Out, key, p2pkh, push, raw_tx

PLENTY = 10**12
RULES = Rules(relaxed=True)
ENOUGH_S = 0.4


class Work(Struct, frozen=True):
    """One kind of work."""

    name: str
    script: bytes
    tx: Tx
    template: bool = False  # by the fast path, spending `script`


def transaction(ins: int = 1, outs: int = 1, unlocking: bytes = b"") -> Tx:
    """One with so many inputs and outputs."""
    spent = [(bytes(32) + n.to_bytes(4, "little"), unlocking if n == 0 else b"", FINAL) for n in range(ins)]
    return read_tx(raw_tx(spent, [Out(1, bytes(20))] * outs, 2))


SMALL = transaction()
MANY = transaction(ins=20_000)
LARGE = transaction(outs=30_000)
SIGNATURE = push(key().sign(bytes(32)) + b"\x41")
KEY = push(key().public)


def of(name: str, before: str, again: str, times: int, tx: Tx = SMALL, head: bytes = b"") -> Work:
    """`before` once, then `again` many times; `head` stands before both."""
    return Work(name, head + asm(before) + asm(again) * times, tx)


def bytes_of(size: int) -> bytes:
    """So many bytes on the stack, none of them zero; more than a script holds by doubling."""
    doublings = 0
    while size >> doublings > 1_000_000:
        doublings += 1
    return push(b"\x7f" * (size >> doublings)) + b"\x76\x7e" * doublings


def works() -> Iterator[Work]:
    """All of them."""
    yield of("NOP", "", "NOP", 100_000)
    yield of("small number", "", "1", 100_000)
    yield of("push of 20 bytes", "", "x14" + "07" * 20, 50_000)
    yield of("push of 520 bytes", "", "x4d0802" + "07" * 520, 50_000)
    yield of("skipped", "0 IF", "NOP", 100_000)
    yield of("IF ENDIF", "", "1 IF ENDIF", 50_000)
    yield of("IF, ever deeper", "", "1 IF", 100_000)
    yield of("IF in a dead branch", "0 IF", "IF", 100_000)
    yield of("IF ELSE ENDIF", "", "0 IF ELSE ENDIF", 50_000)
    yield of("VERIF", "", "VER VERIF ENDIF", 50_000)
    yield of("VERIFY", "", "1 VERIFY", 50_000)
    yield of("TOALT FROMALT", "1", "TOALT FROMALT", 50_000)
    for before, again in (
        ("", "VER"), ("", "SEPARATOR"), ("1", "SIZE"), ("1", "DEPTH"), ("1", "IFDUP"), ("1", "1 NIP"),
        ("1", "DUP EQUAL"), ("1", "DUP DUP EQUALVERIFY"), ("1 1", "SWAP"), ("1 1", "TUCK"), ("1 1", "2DUP"),
        ("1 1 1", "3DUP"), ("1 1 1", "ROT"), ("1 1 1 1", "2OVER"), ("1 1 1 1", "2SWAP"),
        ("1 1 1 1 1 1", "2ROT"), ("1 1 1", "1 PICK"), ("1 1 1", "1 ROLL"), ("9", "1ADD"), ("9", "1SUB"),
        ("9", "2MUL 2DIV"), ("9", "NEGATE"), ("-9", "ABS"), ("9", "NOT"), ("9", "0NOTEQUAL"), ("9", "9 ADD"),
        ("9", "9 SUB"), ("9", "1 MUL"), ("9", "1 DIV"), ("9", "9 MOD"), ("9", "9 BOOLAND"),
        ("9", "9 NUMEQUAL"), ("9", "9 LESSTHAN"), ("9", "9 MIN"), ("9", "9 9 WITHIN"), ("9", "0 LSHIFTNUM"),
        ("9", "0 RSHIFTNUM"), ("9", "INVERT"), ("9", "DUP AND"), ("9", "1 LSHIFT"), ("9", "1 RSHIFT"),
        ("9", "0 CAT"), ("9", "1 SPLIT DROP"), ("9", "1 NUM2BIN"), ("9", "BIN2NUM"), ("9", "1 LEFT"),
        ("9", "1 RIGHT"), ("9", "0 1 SUBSTR"), ("9", "SHA1"), ("9", "RIPEMD160"), ("9", "SHA256"),
        ("9", "HASH160"), ("9", "HASH256"), ("", "0 0 0 CHECKMULTISIG"),
    ):  # fmt: skip
        yield of(f"{again}, again and again", before, again, 30_000)
    for depth in (10, 10_000, 100_000, 450_000):
        yield of(f"PICK of {depth}", "1 " * (depth + 2), f"{depth} PICK DROP", 20_000)
        yield of(f"ROLL of {depth}", "1 " * (depth + 2), f"{depth} ROLL", 20_000)
    for size in (100, 255, 256, 511, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 40_000_000):
        times = max(1, min(5_000, 20_000_000 // size))
        head = bytes_of(size)
        for name in ("1ADD", "NEGATE", "NOT", "2MUL", "2DIV"):
            yield of(f"{name} of {size} bytes", "", f"DUP {name} DROP", times, head=head)
        for name in ("ADD", "SUB", "MIN", "LESSTHAN", "NUMEQUAL", "BOOLOR"):
            yield of(f"{name} of {size} bytes", "", f"2DUP {name} DROP", times, head=head + head)
        yield of(f"WITHIN of {size} bytes", "", "3DUP WITHIN DROP", times, head=head * 3)
        for name in ("AND", "OR", "XOR", "EQUAL"):
            yield of(f"{name} of {size} bytes", "", f"2DUP {name} DROP", times, head=head + head)
        for name in ("INVERT", "BIN2NUM", "SHA1", "RIPEMD160", "SHA256", "HASH160", "HASH256", "VERIFY 1"):
            yield of(f"{name} of {size} bytes", "", f"DUP {name} DROP", times, head=head)
        yield of(f"IFDUP of {size} zeros", f"0 {size} NUM2BIN", "IFDUP", times)
        yield of(f"IF of {size} zeros", f"0 {size} NUM2BIN", "DUP IF ENDIF", times)
        yield of(f"BIN2NUM of {size} zeros", f"0 {size} NUM2BIN", "DUP BIN2NUM DROP", times)
        for name in ("LSHIFT", "RSHIFT", "RSHIFTNUM"):
            yield of(f"{name} of {size} bytes", "", f"DUP 3 {name} DROP", times, head=head)
        if size <= NUMBER_BYTES[2]:
            yield of(f"LSHIFTNUM to {size} bytes", "", f"3 {8 * size - 8} LSHIFTNUM DROP", times)
        yield of(f"NUM2BIN to {size} bytes", "", f"3 {size} NUM2BIN DROP", times)
        yield of(f"NUM2BIN of {size} bytes", "", f"DUP {size + 1} NUM2BIN DROP", times, head=head)
        yield of(f"CAT to {size} bytes", "", "2DUP CAT DROP", times, head=bytes_of(size // 2) * 2)
        yield of(f"SPLIT of {size} bytes", "", f"DUP {size // 2} SPLIT 2DROP", times, head=head)
        yield of(f"SUBSTR of {size} bytes", "", f"DUP 1 {size - 2} SUBSTR DROP", times, head=head)
        yield of(f"RIGHT of {size} bytes", "", f"DUP {size - 2} RIGHT DROP", times, head=head)
    for left, right in (
        (100, 100), (300, 300), (1_000, 1_000), (10_000, 10_000), (100_000, 100_000), (1_000_000, 1_000_000),
        (10_000, 100), (100_000, 100), (1_000_000, 100), (1_000_000, 10_000), (10_000_000, 10), (10_000_000, 100_000),
    ):  # fmt: skip
        work = min(left, right) ** 0.58 * max(left, right)
        times = int(max(1, min(5_000, 3e8 // work)))
        yield of(f"MUL of {left} by {right} bytes", "", "2DUP MUL DROP", times, head=bytes_of(left) + bytes_of(right))
    for left, right in (
        (100, 50), (600, 300), (2_000, 1_000), (20_000, 10_000), (100_000, 50_000), (100_000, 100),
        (200_000, 100_000), (1_000_000, 100), (1_000_000, 999_000), (1_000_000, 10_000), (10_000_000, 10),
    ):  # fmt: skip
        times = int(max(1, min(5_000, 3e9 // ((left - right) * right + 1000 * left))))
        for name in ("DIV", "MOD"):
            script = bytes_of(left) + push(b"\x7f" + b"\xfe" * (right - 2) + b"\x55")
            yield of(f"{name} of {left} by {right} bytes", "", f"2DUP {name} DROP", times, head=script)
    for kind, name in ((0x41, "new"), (0x61, "original"), (0xC3, "new, ANYONECANPAY SINGLE")):
        signed = push(key().sign(bytes(32)) + bytes((kind,))) + KEY
        for tx, about in ((SMALL, "small"), (MANY, "20,000 inputs"), (LARGE, "30,000 outputs")):
            many = 300 if tx is SMALL else 30
            yield of(f"CHECKSIG, {name} digest, {about}", "", "2DUP CHECKSIG DROP", many, tx, head=signed)
        # The script a signature commits to is long, and in the original digest full of separators.
        for filler, about in (("NOP", "long script"), ("SEPARATOR", "long script of separators")):
            script = signed + asm("2DUP CHECKSIG DROP") * 3 + asm("RETURN") + asm(filler) * 480_000
            yield Work(f"CHECKSIG, {name} digest, {about}", script, SMALL)
            yield Work(f"template, {name} digest, {about}", p2pkh(key()) + asm("RETURN") + asm(filler) * 480_000,
                       transaction(unlocking=signed), True)  # fmt: skip
        for tx, about in ((MANY, "20,000 inputs"), (LARGE, "30,000 outputs")):
            with_signature = transaction(20_000 if tx is MANY else 1, 30_000 if tx is LARGE else 1, signed)
            yield Work(f"template, {name} digest, {about}", p2pkh(key()), with_signature, True)
    yield of("CHECKSIG of an empty signature", "", "2DUP CHECKSIG DROP", 5_000, head=b"\x00" + KEY)
    yield of(
        "CHECKSIG by a key off the curve",
        "",
        "2DUP CHECKSIG DROP",
        2_000,
        head=SIGNATURE + push(b"\x02" + b"\xff" * 32),
    )
    uncompressed = push(key().long)
    yield of("CHECKSIG by an uncompressed key", "", "2DUP CHECKSIG DROP", 500, head=SIGNATURE + uncompressed)
    high = key().sign(bytes(32), high_s=True) + b"\x41"
    yield of("CHECKSIG of a high S", "", "2DUP CHECKSIG DROP", 500, head=push(high) + KEY)
    for keys in (16, 1_000, 10_000):
        script = b"\x00" + SIGNATURE + b"\x51" + KEY + b"\x76" * (keys - 1) + asm(f"{keys} CHECKMULTISIG")
        yield Work(f"CHECKMULTISIG, 1 of {keys}", script, SMALL)
    empty = b"\x00\x00\x51" + KEY + b"\x76" * 9_999 + asm("10000 CHECKMULTISIG")
    yield Work("CHECKMULTISIG of an empty signature, 10,000 keys", empty, SMALL)
    none = b"\x00\x00" + b"\x51" * 100_000 + asm("100000 CHECKMULTISIG")
    yield Work("CHECKMULTISIG of none, 100,000 keys", none, SMALL)


def cost(work: Work, enough_s: float = ENOUGH_S) -> tuple[float, int]:
    """Seconds of processor time a run takes, and its steps; it is run until `enough_s` are spent."""
    spent = 0.0
    steps = times = 0
    while spent < enough_s and times < 50:
        meter = Meter(PLENTY, 400 << 20)
        digests = Digests(work.tx)
        before = time.process_time()
        try:
            if work.template:
                coin = SpentCoin(0, bytes(8) + write_varint(len(work.script)) + work.script, True, True)
                judge_input(digests, coin, RULES, meter)
            else:
                evaluate(b"", work.script, Spend(digests, 0, bytes(8), RULES), meter)
        except ScriptFault as fault:
            if fault.code == "policy.script-budget":
                raise
        spent += time.process_time() - before
        steps += PLENTY - meter.steps
        times += 1
    return spent / times, steps // times


def main() -> None:
    """Print each, the dearest last."""
    wanted = sys.argv[1:]
    rows = []
    for work in works():
        if all(word in work.name for word in wanted):
            seconds, steps = cost(work)
            rows.append((1e9 * seconds / steps, steps, work.name))
    rows.sort()
    for ns, steps, name in rows:
        print(f"{ns:8.0f} ns a step {steps:9d} steps  {name}")
    budget = Policy().script_budget_ms
    print(f"all steps of {budget} ms on the dearest: {rows[-1][0] * budget * STEPS_PER_MS / 1e9:.1f} s")


if __name__ == "__main__":
    main()
