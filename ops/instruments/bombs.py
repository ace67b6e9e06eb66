"""Scripts made to cost: every kind of work a script can ask for, over and over, up to the limits and beyond them.

Coins here follow Chronicle's rules, the widest there are (`hostile.POLICY`). Steps are those of `pipeline/script`.
"""

from collections.abc import Callable, Sequence
from itertools import repeat

from ops.instruments.keys import Coin, Key, Made, assemble, spend
from ops.instruments.wire import Output, push
from ops.instruments.workshop import Bag, Workshop
from pipeline.codec.tx import read_tx
from pipeline.policy import Policy
from pipeline.script.engine import INPUT_STEPS, STEPS_PER_MS
from pipeline.script.sighash import Digests

LONGEST = Policy().max_script_bytes
STEPS = Policy().script_budget_ms * STEPS_PER_MS
"""What the scripts of a payload may cost together."""

NOP, IF, ELSE, ENDIF, RETURN = b"\x61", b"\x63", b"\x67", b"\x68", b"\x6a"
TO_ALT, FROM_ALT, TWO_DROP, TWO_DUP, DROP, DUP = b"\x6b", b"\x6c", b"\x6d", b"\x6e", b"\x75", b"\x76"
PICK, ROLL, CAT, SPLIT, NUM2BIN, BIN2NUM, INVERT, XOR = (
    b"\x79", b"\x7a", b"\x7e", b"\x7f", b"\x80", b"\x81", b"\x83", b"\x86",
)  # fmt: skip
ADD_1, MUL_2, ADD, MUL, DIV, MOD, LSHIFT, RSHIFT = (
    b"\x8b", b"\x8d", b"\x93", b"\x95", b"\x96", b"\x97", b"\x98", b"\x99",
)  # fmt: skip
RIPEMD160, HASH256, SEPARATOR, CHECKSIG, CHECKMULTISIG, LSHIFTNUM = b"\xa6", b"\xaa", b"\xab", b"\xac", b"\xae", b"\xb6"
ZERO, ONE = b"\x00", b"\x51"

ALL, ORIGINAL = 0x41, 0x61
"""Hash types: by the digest of 2017, and by the one from before, which Chronicle allows again."""

Build = Callable[[Workshop], Bag]


def number(value: int) -> bytes:
    """The shortest push of a number."""
    if value == 0:
        return ZERO
    if 1 <= value <= 16:
        return bytes((0x50 + value,))
    return push(value.to_bytes(value.bit_length() // 8 + 1, "little"))


def filled(again: bytes, before: bytes = b"", after: bytes = ONE, limit: int = LONGEST) -> bytes:
    """`again` as often as a script of `limit` bytes holds it, between `before` and `after`."""
    return before + again * ((limit - len(before) - len(after)) // len(again)) + after


def element(size: int) -> bytes:
    """A script that leaves `size` bytes (rounded down) on the stack, none of them zero; by doubling where it must."""
    doublings = 0
    while size >> doublings > LONGEST // 4:
        doublings += 1
    return push(b"\x7f" * (size >> doublings)) + (DUP + CAT) * doublings


def bomb(*lockings: bytes, unlocking: bytes = b"", version: int = 1, outputs: Sequence[Output] = ()) -> Build:
    """An un-mined transaction makes coins with these scripts; the subject spends all of them."""

    def build(shop: Workshop) -> Bag:
        mined, owner = shop.take(), shop.key()
        made = spend([mined.coin], [(100, locking) for locking in lockings])
        coins = [made.coin(vout, owner) for vout in range(len(lockings))]
        outs = [*outputs, (50, owner.script)]
        return Bag([mined], [made, assemble(coins, [unlocking] * len(coins), outs, version=version)])

    return build


def checks(times: int, kind: int, *, tail: bytes = b"", outs: int = 1, valid: bool = True) -> Build:
    """A coin whose script checks one key's signature so often; the subject has `outs` outputs more."""

    def build(shop: Workshop) -> Bag:
        mined, owner = shop.take(), shop.key()
        locking = push(owner.public) + (TWO_DUP + CHECKSIG + DROP) * (times - 1) + CHECKSIG + tail
        made = shop.pay([mined.coin], [(1000, locking)])
        outputs = [(0, RETURN), *repeat((0, bytes(100)), outs - 1), (500, owner.script)]
        subject = signed([made.coin(0, owner)], outputs, kind, version=2)
        if not valid:
            subject = assemble(subject.spent, [push(b"\x30\x06\x02\x01\x01\x02\x01\x01\x41")], outputs, version=2)
        return Bag([mined], [made, subject])

    return build


def signed(coins: Sequence[Coin], outputs: Sequence[Output], kind: int, version: int = 1) -> Made:
    """A transaction whose inputs each push one signature of this hash type, and the key for P2PKH."""
    bare = assemble(coins, [b""] * len(coins), outputs, version=version)
    digests = Digests(read_tx(bare.raw))
    unlocked = [
        coin.unlock(
            coin.key.sign(digests.digest(vin, coin.satoshis.to_bytes(8, "little"), coin.script, kind)) + bytes((kind,))
        )
        for vin, coin in enumerate(coins)
    ]
    return assemble(coins, unlocked, outputs, version=version)


def p2pkh(owner: Key) -> bytes:
    """Locking script that pays to the hash of a key."""
    return owner.script


def p2pk(owner: Key) -> bytes:
    """Locking script that pays to a key."""
    return push(owner.public) + CHECKSIG


def spend_many(inputs: int, kind: int, pay: Callable[[Key], bytes] = p2pkh, tail: bytes = b"") -> Build:
    """Coins of one owner, all spent at once."""

    def build(shop: Workshop) -> Bag:
        mined, owner = shop.take(), shop.key()
        made = spend([mined.coin], [(10, pay(owner) + tail)] * inputs)
        coins = [made.coin(vout, owner) for vout in range(inputs)]
        return Bag([mined], [made, signed(coins, [(1, owner.script)], kind)])

    return build


def multisig(keys: int) -> Build:
    """One signature that fits none of so many keys."""

    def build(shop: Workshop) -> Bag:
        signature = push(shop.key().sign(bytes(32)) + bytes((ALL,)))
        key = push(shop.key().public)
        return bomb(ZERO + signature + ONE + key + DUP * (keys - 1) + number(keys) + CHECKMULTISIG)(shop)

    return build


def row_of_scripts(transactions: int, locking: bytes) -> Build:
    """Each transaction spends the one before, and makes a coin with the same script."""

    def build(shop: Workshop) -> Bag:
        mined, owner = shop.take(), shop.key()
        made = [shop.pay([mined.coin], [(100_000, locking)])]
        for left in range(transactions, 0, -1):
            made.append(assemble([made[-1].coin(0, owner)], [b""], [(50_000 + left, locking)]))
        return Bag([mined], made)

    return build


def steps(count: int) -> list[bytes]:
    """Scripts of so many steps together, beginning with the longest that there may be."""
    whole, rest = divmod(count, LONGEST + INPUT_STEPS)
    return [NOP * (size - 1) + ONE for size in [LONGEST] * whole + [rest - INPUT_STEPS] * (rest > 0)]


_BIG = element(45_000_000)
"""Two of them are what the stacks hold."""

_DEEP = 160_000

VALID, FALSE, MALFORMED, BUDGET, LIMITS = (
    "",
    "script.false",
    "script.malformed",
    "policy.script-budget",
    "policy.limits",
)

BOMBS: dict[str, tuple[str, str, Build]] = {
    "cat-doubling": ("A byte doubled forty times: a terabyte.", BUDGET, bomb(push(b"\x7f") + (DUP + CAT) * 40)),
    "cat-flood": ("Copies of 20 MB, over and over.", BUDGET, bomb(filled(DUP + DUP + CAT + DROP, element(20_000_000)))),
    "split-flood": (
        "Cuts 40 MB in two, over and over.",
        BUDGET,
        bomb(filled(DUP + number(20_000_000) + SPLIT + TWO_DROP, element(40_000_000))),
    ),
    "multiply-squares": ("A number squared thirty times.", BUDGET, bomb(push(b"\x7f" * 500) + (DUP + MUL) * 30 + ONE)),
    "multiply-flood": ("Products of 20 kB.", BUDGET, bomb(filled(DUP + DUP + MUL + DROP, element(20_000)))),
    "multiply-uneven": (
        "Products of 1 MB by 10 kB.",
        BUDGET,
        bomb(filled(TWO_DUP + MUL + DROP, element(1_000_000) + element(10_000))),
    ),
    "divide-flood": (
        "Quotients of 100 kB by 50 kB.",
        BUDGET,
        bomb(filled(TWO_DUP + DIV + DROP, element(100_000) + element(50_000))),
    ),
    "modulo-flood": (
        "Remainders of 1 MB by 10 kB.",
        BUDGET,
        bomb(filled(TWO_DUP + MOD + DROP, element(1_000_000) + element(10_000))),
    ),
    "shift-flood": (
        "Shifts 40 MB by three bits.", BUDGET,
        bomb(filled(DUP + number(3) + LSHIFT + DROP, element(40_000_000))),
    ),
    "shift-right-flood": (
        "The same to the right.", BUDGET,
        bomb(filled(DUP + number(3) + RSHIFT + DROP, element(40_000_000))),
    ),
    "shift-number": (
        "Numbers of 32 MB by a shift.",
        BUDGET,
        bomb(filled(ONE + number(255_900_000) + LSHIFTNUM + DROP)),
    ),
    "shift-beyond": ("A shift by 2^31 bits.", FALSE, bomb(ONE + number(2**31) + LSHIFTNUM)),
    "number-doubling": ("A number doubled half a million times.", BUDGET, bomb(filled(MUL_2, ONE))),
    "number-growth": ("1 added to a number of 30 MB.", BUDGET, bomb(filled(ADD_1, element(30_000_000)))),
    "number-sums": (
        "Sums of two numbers of 20 MB.",
        BUDGET,
        bomb(filled(TWO_DUP + ADD + DROP, element(20_000_000) + DUP)),
    ),
    "num2bin-2gib": ("A number in 2^31 - 1 bytes.", BUDGET, bomb(ONE + number(2**31 - 1) + NUM2BIN)),
    "num2bin-flood": ("A number in 95 MB.", BUDGET, bomb(filled(ONE + number(95_000_000) + NUM2BIN + DROP))),
    "bin2num-zeros": (
        "45 MB of zeros as a number.",
        BUDGET,
        bomb(filled(DUP + BIN2NUM + DROP, ZERO + number(45_000_000) + NUM2BIN)),
    ),
    "invert-flood": ("45 MB inverted.", BUDGET, bomb(filled(DUP + INVERT + DROP, _BIG))),
    "xor-flood": ("20 MB with itself.", BUDGET, bomb(filled(TWO_DUP + XOR + DROP, element(20_000_000) + DUP))),
    "hash-flood": ("45 MB hashed twice.", BUDGET, bomb(filled(DUP + HASH256 + DROP, _BIG))),
    "ripemd-flood": ("45 MB by the slowest hash.", BUDGET, bomb(filled(DUP + RIPEMD160 + DROP, _BIG))),
    "dup-flood": ("5 kB copied as often as memory allows.", BUDGET, bomb(filled(DUP, push(b"\x7f" * 5_000)))),
    "pick-flood": (
        "Copies from 160,000 deep, five times over.",
        VALID,
        bomb(*[filled(number(_DEEP - 1) + PICK + DROP, ONE * _DEEP, TWO_DROP * (_DEEP // 2) + ONE)] * 5),
    ),
    "roll-flood": (
        "Moves up from 160,000 deep.",
        BUDGET,
        bomb(filled(number(_DEEP - 1) + ROLL, ONE * _DEEP, TWO_DROP * (_DEEP // 2) + ONE)),
    ),
    "alt-flood": ("Hundreds of thousands of elements on the other stack.", VALID, bomb(*[filled(ONE + TO_ALT)] * 4)),
    "alt-there-and-back": ("Between the stacks.", VALID, bomb(*[filled(TO_ALT + FROM_ALT, ONE, b"")] * 4)),
    "if-deep": (
        "Conditionals 249,000 deep, none of which runs.",
        VALID,
        bomb(*[ZERO + IF * 249_000 + ENDIF * 249_000 + ONE] * 4),
    ),
    "if-running": (
        "Conditionals 160,000 deep, all of which run.", VALID,
        bomb(*[(ONE + IF) * 160_000 + ENDIF * 160_000 + ONE] * 4),
    ),
    "if-open": ("Half a million conditionals that never end.", MALFORMED, bomb(ZERO + IF * (LONGEST - 1))),
    "else-flood": ("Branches not taken.", VALID, bomb(*[filled(ZERO + IF + NOP + ELSE + ENDIF)] * 4)),
    "push-flood": (
        "Pushes of half a megabyte, sixteen of them.", VALID,
        bomb(*[push(b"\x7f" * (LONGEST - 7)) + DROP + ONE] * 16),
    ),
    "script-longest": ("A script one byte longer than scripts may be.", LIMITS, bomb(NOP * LONGEST + ONE)),
    "opcodes-million": ("A million opcodes in two inputs.", VALID, bomb(*[NOP * (LONGEST - 1) + ONE] * 2)),
    "opcodes-edge": ("All the steps there are.", VALID, bomb(*steps(STEPS))),
    "opcodes-over": ("One step more.", BUDGET, bomb(*steps(STEPS), ONE)),
    "scripts-many": ("1,600 inputs of 2,000 opcodes: none is long.", BUDGET, bomb(*[NOP * 2_000 + ONE] * 1_600)),
    "scripts-in-a-row": ("300 transactions of 10,000 opcodes.", BUDGET, row_of_scripts(300, NOP * 10_000 + ONE)),
    "multisig-10000": ("A signature and 10,000 keys it does not fit.", FALSE, multisig(10_000)),
    "multisig-50000": ("50,000 keys.", BUDGET, multisig(50_000)),
    "multisig-none": (
        "No signature of 490,000 keys.",
        VALID,
        bomb(*[ZERO + ZERO + ONE * 490_000 + number(490_000) + CHECKMULTISIG] * 4),
    ),
    "multisig-billions": (
        "2^31 - 1 keys that are not there.", FALSE,
        bomb(ZERO + ZERO + number(2**31 - 1) + CHECKMULTISIG),
    ),
    "checksig-flood": ("166,000 checks of a signature.", BUDGET, checks(166_000, ALL)),
    "checksig-false": ("166,000 checks of a signature that does not fit.", BUDGET, checks(166_000, ALL, valid=False)),
    "checksig-empty": (
        "Checks of an empty signature.",
        BUDGET,
        bomb(*[filled(TWO_DUP + CHECKSIG + DROP, ZERO + push(b"\x02" + b"\x79" * 32), TWO_DROP + ONE)] * 4),
    ),
    "checksig-original": (
        "Checks by the original digest of a transaction of 2 MB.",
        BUDGET,
        checks(5_000, ORIGINAL, outs=18_000),
    ),
    "separator-flood": (
        "The original digest of a script full of OP_CODESEPARATOR.",
        BUDGET,
        checks(5_000, ORIGINAL, tail=RETURN + SEPARATOR * 480_000),
    ),
    "sighash-1000": ("1,000 inputs, each signs all by the original digest.", VALID, spend_many(1_000, ORIGINAL)),
    "sighash-1600": ("1,600 of them.", BUDGET, spend_many(1_600, ORIGINAL)),
    "template-long": (
        "P2PKH before half a megabyte of data.", VALID,
        spend_many(15, ALL, tail=RETURN + bytes(499_000)),
    ),
    "template-separators": (
        "P2PKH before separators, by the original digest.",
        VALID,
        spend_many(10, ORIGINAL, tail=RETURN + SEPARATOR * 499_000),
    ),
}  # fmt: skip
"""Name: what it attacks, the code it must get (empty: valid), how it is built."""
