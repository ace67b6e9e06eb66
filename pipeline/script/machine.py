"""The script machine: two stacks, conditionals, and a meter that stops it before it costs too much.

Written for this project because the SDK's engine takes scripts the network refuses, refuses some it takes, and can be
made to run for minutes (docs/decisions/scripts.md). Every rule follows the era in `Rules`.
"""

from collections.abc import Callable

from msgspec import Struct

from pipeline.codec.tx import FINAL_SEQUENCE, Tx
from pipeline.script import number
from pipeline.script.form import OP_16, PUSHDATA4, instructions, is_shortest_push
from pipeline.script.rules import Rules, malformed, over_budget, untrue
from pipeline.script.sighash import Digests

_IF, _NOTIF, _VERIF, _VERNOTIF, _ELSE, _ENDIF, _RETURN = 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x6A
_CODESEPARATOR = 0xAB
_DOUBLED = (0x8D, 0x8E)  # OP_2MUL, OP_2DIV

_STEPS = bytes(2 if 0x8B <= opcode <= 0xA5 else 1 for opcode in range(256))
"""What an instruction costs beside its bytes: those that reckon with numbers as much as two others."""

ELEMENT_BYTES = 32  # what an element costs beside its bytes, as nodes count
OLD_ELEMENT, OLD_SCRIPT, OLD_OPS, OLD_STACK = 520, 10_000, 500, 1_000  # limits of coins before Genesis
SHORT = 64  # bytes of a number or truth value whose cost is that of its operation
NUMBER_BYTES = (4, 750_000, 32_000_000)  # longest number: before Genesis, before Chronicle, after it


class Meter(Struct, gc=False):
    """What the scripts of a payload may still cost."""

    steps: int  # of about a microsecond (`python -m tests.steps`)
    memory: int  # bytes on the stacks of one script

    def spend(self, steps: int) -> None:
        """Count work, before it is done.

        Raises:
            ScriptFault: there is nothing left.
        """
        self.steps -= steps
        if self.steps < 0:
            raise over_budget("the scripts need more time than they may have")


class Spend(Struct, gc=False):
    """The input a script runs for."""

    digests: Digests
    vin: int
    satoshis: bytes  # of the coin, 8 bytes as they stand
    rules: Rules

    @property
    def tx(self) -> Tx:
        """The spending transaction."""
        return self.digests.tx


class Machine:
    """One run of unlocking and locking script on one stack."""

    def __init__(self, spend: Spend, meter: Meter) -> None:
        self.here = spend
        self.rules = spend.rules
        self.meter = meter
        self.stack: list[bytes] = []
        self.alt: list[bytes] = []
        self.held = 0  # memory of both stacks
        self.code = b""  # the script that runs, and what a signature in it commits to: from `code_from` on
        self.code_from = 0
        self.tail = b""  # of an unlocking script: the locking script, which signatures in it commit to as well
        self.ops = 0
        rules = self.rules
        self.number_bytes = NUMBER_BYTES[rules.after_genesis + (rules.after_genesis and rules.after_chronicle)]

    # --- stacks

    def push(self, element: bytes) -> None:
        """Put an element on the stack."""
        if not self.rules.after_genesis and len(element) > OLD_ELEMENT:
            raise malformed(f"an element of {len(element)} bytes on a coin before Genesis")
        self.reserve(len(element))
        self.held += len(element) + ELEMENT_BYTES
        self.stack.append(element)

    def reserve(self, size: int) -> None:
        """Refuse an element that the memory does not hold; asked before it is made."""
        if self.held + size + ELEMENT_BYTES > self.meter.memory:
            raise over_budget("the scripts need more memory than they may have")

    def pop(self) -> bytes:
        """Take the top element."""
        if not self.stack:
            raise untrue("too few elements on the stack")
        element = self.stack.pop()
        self.held -= len(element) + ELEMENT_BYTES
        return element

    def peek(self, depth: int = 1) -> bytes:
        """The element `depth` from the top; 1 is the top."""
        if depth > len(self.stack):
            raise untrue("too few elements on the stack")
        return self.stack[-depth]

    def need(self, count: int) -> None:
        """Refuse a stack of fewer elements."""
        if len(self.stack) < count:
            raise untrue("too few elements on the stack")

    def pop_number(self, most: int = 0) -> int:
        """Take the top element as a number of at most `most` bytes (the era's limit unless given)."""
        return self.number(self.pop(), most)

    def number(self, element: bytes, most: int = 0) -> int:
        """An element as a number."""
        if len(element) > (most or self.number_bytes):
            raise untrue(f"a number of {len(element)} bytes")
        if not self.rules.relaxed and not number.is_shortest(element):
            raise malformed("a number in a longer form")
        if len(element) > SHORT:
            self.meter.spend(1 + (len(element) >> 9))
        return number.decode(element)

    def push_number(self, value: int) -> None:
        """Put a number on the stack."""
        size = value.bit_length() >> 3
        self.reserve(size)
        if size > SHORT:
            self.meter.spend(1 + (size >> 9))
        self.push(number.encode(value))

    def push_bool(self, value: bool) -> None:
        """Put a truth value on the stack."""
        self.push(b"\x01" if value else b"")

    def truth(self, element: bytes) -> bool:
        """An element as a truth value."""
        if len(element) > SHORT:
            self.meter.spend(len(element) >> 10)
        return number.truth(element)

    # --- running

    def run(self, script: bytes, table: "Table", tail: bytes = b"") -> None:
        """Run one script on the stack as it stands.

        tail: the locking script, where `script` is the unlocking one.

        Raises:
            ScriptFault: it fails, breaks a rule of form, or costs too much.
        """
        rules = self.rules
        if not rules.after_genesis and len(script) > OLD_SCRIPT:
            raise malformed(f"a script of {len(script)} bytes on a coin before Genesis")
        self.alt.clear()
        self.held = sum(map(len, self.stack)) + ELEMENT_BYTES * len(self.stack)
        self.code, self.code_from, self.tail, self.ops = script, 0, tail, 0
        conditions = _Conditions()
        meter = self.meter
        for opcode, _, data, end in instructions(script):
            meter.spend(_STEPS[opcode])
            if end > len(script):
                raise malformed("a push of more than there is")
            if opcode > OP_16:
                self.count_ops(1)
            if opcode <= PUSHDATA4:
                self._push_data(opcode, script[data:end], conditions)
            elif _IF <= opcode <= _ENDIF:
                self._branch(opcode, conditions)
            elif opcode in _DOUBLED and not rules.after_genesis:
                raise malformed("a disabled opcode")
            elif opcode == _RETURN:
                if not conditions.runs(opcode):
                    continue
                if not rules.after_genesis:
                    raise untrue("OP_RETURN")
                if not conditions.open:
                    return  # what follows is data: not even its form counts
                conditions.returned = True
            elif not conditions.runs(opcode):
                continue
            elif opcode == _CODESEPARATOR:
                self.code_from = end
            else:
                action = table.get(opcode)
                if action is None:
                    raise malformed(f"opcode {opcode:#x}")
                action(self)
            if not rules.after_genesis and len(self.stack) + len(self.alt) > OLD_STACK:
                raise malformed("more elements than a coin before Genesis allows")
        if conditions.open:
            raise malformed("a conditional without its end")

    def count_ops(self, count: int) -> None:
        """Coins before Genesis allow so many operations a script."""
        self.ops += count
        if self.ops > OLD_OPS and not self.rules.after_genesis:
            raise malformed("more operations than a coin before Genesis allows")

    def _push_data(self, opcode: int, data: bytes, conditions: "_Conditions") -> None:
        if not self.rules.after_genesis and len(data) > OLD_ELEMENT:
            raise malformed(f"a push of {len(data)} bytes on a coin before Genesis")
        if conditions.runs(opcode):
            if not self.rules.relaxed and not is_shortest_push(opcode, data):
                raise malformed("a push in a longer form")
            self.push(data)

    def _branch(self, opcode: int, conditions: "_Conditions") -> None:
        if opcode == _ENDIF:
            conditions.end()
        elif opcode == _ELSE:
            conditions.otherwise(once=self.rules.after_genesis)
        elif opcode in (_IF, _NOTIF):
            met = False
            if conditions.runs(opcode):
                element = self.pop()
                if not self.rules.relaxed and element not in (b"", b"\x01"):
                    raise malformed("a condition that is neither empty nor 1")
                met = self.truth(element) == (opcode == _IF)
            conditions.begin(met)
        elif self.rules.after_chronicle:
            met = False
            if conditions.runs(opcode):
                met = (self.pop() == self.here.tx.raw[:4]) == (opcode == _VERIF)
            conditions.begin(met)
        elif not self.rules.after_genesis or conditions.runs(opcode):
            raise malformed(f"opcode {opcode:#x} on a coin before Chronicle")
        # Else nothing runs here, and it opens nothing: a coin of Genesis passes over it (node EvalScript).

    # --- what signatures and lock times ask of the transaction

    def digest(self, kind: int) -> bytes:
        """What a signature at this place signs."""
        spend = self.here
        code = self.code[self.code_from :] + self.tail
        self.meter.spend(spend.digests.steps(code, kind))
        return spend.digests.digest(spend.vin, spend.satoshis, code, kind)

    def check_lock_time(self) -> None:
        """OP_CHECKLOCKTIMEVERIFY on a coin before Genesis (BIP 65)."""
        asked = self.number(self.peek(), 5)
        tx = self.here.tx
        same_kind = (asked < 500_000_000) == (tx.locktime < 500_000_000)
        if asked < 0 or not same_kind or asked > tx.locktime or tx.sequence(self.here.vin) == FINAL_SEQUENCE:
            raise untrue("a lock time that is not met")

    def check_sequence(self) -> None:
        """OP_CHECKSEQUENCEVERIFY on a coin before Genesis (BIP 112)."""
        asked = self.number(self.peek(), 5)
        if asked < 0:
            raise untrue("a negative relative lock time")
        if asked & 1 << 31:
            return
        tx = self.here.tx
        sequence = int.from_bytes(tx.sequence(self.here.vin), "little")
        mask, by_time = 0x40FFFF, 0x400000
        same_kind = asked & by_time == sequence & by_time
        if tx.version % 2**32 < 2 or sequence & 1 << 31 or not same_kind or asked & mask > sequence & mask:
            raise untrue("a relative lock time that is not met")


Table = dict[int, Callable[[Machine], None]]


class _Conditions:
    """Open conditionals: which branch each is in, and whether it had its OP_ELSE."""

    def __init__(self) -> None:
        self.open: list[bool] = []
        self.had_else: list[bool] = []
        self.closed = 0  # open ones whose branch does not run
        self.returned = False  # OP_RETURN inside a conditional: nothing runs, the form still counts

    def runs(self, opcode: int) -> bool:
        return not self.closed and (not self.returned or opcode == _RETURN)

    def begin(self, met: bool) -> None:
        self.open.append(met)
        self.had_else.append(False)
        self.closed += not met

    def otherwise(self, once: bool) -> None:
        if not self.open or (once and self.had_else[-1]):
            raise malformed("OP_ELSE out of place")
        self.had_else[-1] = True
        self.closed += 1 if self.open[-1] else -1
        self.open[-1] = not self.open[-1]

    def end(self) -> None:
        if not self.open:
            raise malformed("OP_ENDIF out of place")
        self.had_else.pop()
        self.closed -= not self.open.pop()
