"""Every rule of scripts by a case on each side of its boundary: one table, run by every way a script is judged.

Expected answers are written from the rule's source, which each row names; signatures are made over the SDK's native
preimages. The runners: `tests/pipeline/script/test_rules.py` (fast path, machine, whole payloads by their heights) and
`tests/agents/test_sandbox_rules.py` (a child).
"""

from collections.abc import Callable, Iterator

import _bsv_native as native
from msgspec import Struct

from pipeline.chain.answer import Tip
from pipeline.codec.hashing import hash256
from pipeline.codec.tx import Tx, read_tx
from pipeline.policy import Policy
from pipeline.script.engine import INPUT_STEPS, STEPS_PER_MS, ScriptJob, SpentCoin
from schemas.types import display
from tests.asm import asm
from tests.builders import (
    ANYONE,
    FINAL,
    Bag,
    Key,
    Out,
    bag,
    flip_s,
    funding,
    hash160,
    key,
    multisig,
    p2pk,
    p2pkh,
    push,
    pushdrop,
    pushdrop_after,
    raw_tx,
)

OK, FALSE, MALFORMED, BUDGET = "", "script.false", "script.malformed", "policy.script-budget"

GENESIS, CHRONICLE = 620_538, 943_816  # mainnet
OLD, MIDDLE, NEW = GENESIS - 1, CHRONICLE - 1, CHRONICLE  # the last and first heights of coins
TODAY = 960_001  # the next block, where a case does not say otherwise

Digest = Callable[..., bytes]
"""Hash type, and the script it commits to (the locking script unless given) -> 32 bytes."""
Unlock = Callable[[Digest], bytes]


class Case(Struct, frozen=True, kw_only=True):
    """One input to be judged."""

    rule: str
    source: str
    name: str
    locking: bytes
    unlock: Unlock
    code: str
    coin: int = NEW  # height of the block the coin is in
    next: int = TODAY  # height of the block that would spend it
    version: int = 1
    locktime: int = 0
    sequence: int = FINAL
    vin: int = 0  # another input stands before it where it is 1; there is one output
    budget_ms: int = 5_000
    memory: int = 100_000_000

    def __str__(self) -> str:
        return f"{self.rule}: {self.name}"

    def made(self) -> tuple[Tx, Tx]:
        """The coin's transaction and the one that spends it."""
        parent = funding(Out(1000, self.locking), Out(1000, p2pkh(key(9))))
        outs = [Out(900)]
        places = [1, 0] if self.vin else [0]
        spent = [(parent.txid + vout.to_bytes(4, "little"), b"", self.sequence) for vout in places]

        def digest(vin: int, kind: int, code: bytes | None) -> bytes:
            entries = [
                (display(parent.txid), vout, parent.locking(vout) if code is None else code, 1000, self.sequence, kind)
                for vout in places
            ]
            outputs = [out.bytes() for out in outs]
            if kind & 0x60 == 0x40:
                return hash256(native.tx_preimages(self.version, self.locktime, entries, outputs)[vin])
            return hash256(native.tx_preimage_otda(vin, self.version, self.locktime, entries, outputs))

        other = push(key(9).sign(digest(0, 0x41, None)) + b"\x41") + push(key(9).public)
        unlocking = self.unlock(lambda kind, code=None: digest(self.vin, kind, code))
        scripts = [other, unlocking] if self.vin else [unlocking]
        ins = [(outpoint, script, sequence) for (outpoint, _, sequence), script in zip(spent, scripts, strict=True)]
        return parent, read_tx(raw_tx(ins, outs, self.version, self.locktime))

    def job(self, number: int = 0) -> ScriptJob:
        """The input as the sandbox is asked about it."""
        parent, tx = self.made()
        coin = SpentCoin(self.vin, parent.output(0), self.coin >= GENESIS, self.coin >= CHRONICLE)
        return ScriptJob(number, tx.raw, (coin,), self.next >= CHRONICLE, self.memory)

    def payload(self) -> tuple[Bag, Tip, Policy]:
        """The same as a payload whose proof names the coin's height, under a tip below the next block."""
        parent, tx = self.made()
        policy = Policy(script_budget_ms=self.budget_ms, script_memory_bytes=self.memory, max_script_bytes=64 << 20)
        return bag(parent, tx, proven=[parent], height=self.coin), Tip(self.next - 1, 1_790_000_000), policy


# --- unlocking scripts

A, B, C = key(1), key(2), key(3)


def by(text: str) -> Unlock:
    """Words that sign nothing."""
    return lambda _: asm(text)


def signed(
    owner: Key = A, kind: int = 0x41, *, over: bytes | None = None, as_kind: int = -1, high: bool = False
) -> Unlock:
    """A signature, pushed. over: the script it commits to; as_kind: the hash type it claims."""
    shown = kind if as_kind < 0 else as_kind
    return lambda digest: push(owner.sign(digest(kind, over), high) + bytes((shown,)))


def pkh(owner: Key = A, kind: int = 0x41, **more: object) -> Unlock:
    """A signature and its key."""
    return lambda digest: signed(owner, kind, **more)(digest) + push(owner.public)  # type: ignore[arg-type]


def then(unlock: Unlock, more: bytes) -> Unlock:
    """And then these bytes."""
    return lambda digest: unlock(digest) + more


def zero_and(unlock: Unlock) -> Unlock:
    """What OP_CHECKMULTISIG passes over, and then more."""
    return lambda digest: b"\x00" + unlock(digest)


def changed(change: Callable[[bytes], bytes]) -> Unlock:
    """A good signature and its key, the signature (with its hash type) changed."""
    return lambda digest: push(change(A.sign(digest(0x41)) + b"\x41")) + push(A.public)


def hybrid(owner: Key = A) -> bytes:
    """The long form of a key with its parity in the first byte: 06 or 07."""
    return bytes((6 + owner.long[64] % 2,)) + owner.long[1:]


def hash_of(public: bytes) -> bytes:
    """Pay to the hash of these bytes."""
    return b"\x76\xa9\x14" + hash160(public) + b"\x88\xac"


def p2sh(redeem: bytes) -> bytes:
    """Pay to a script's hash."""
    return b"\xa9\x14" + hash160(redeem) + b"\x87"


# --- the table


def cases() -> Iterator[Case]:
    """All of it."""
    for group in (
        opcodes_by_era, limits_by_era, numbers, locks, script_hash, returns, conditionals, relaxed, never_relaxed,
        strict_der, hash_types, separators, multisigs, templates, conversions, parts, costs,
    ):  # fmt: skip
        yield from group()


def opcodes_by_era() -> Iterator[Case]:
    """Which coin may run what. Live and in a dead branch; the answers of a new, a middle and an old coin."""
    bad, eras = MALFORMED, (NEW, MIDDLE, GENESIS, OLD)
    disabled = "node IsOpcodeDisabled: refused where it runs, and on coins before Genesis anywhere"
    reserved = "node EvalScript: bad opcode where it runs for a coin not UTXO_AFTER_CHRONICLE"
    branch = "node EvalScript: before Chronicle passed over where nothing runs; before Genesis refused there too"
    nops = (
        "node EvalScript: an upgradable NOP before Chronicle; relaying nodes refuse those (DISCOURAGE_UPGRADABLE_NOPS)"
    )
    for rule, source, unlocking, locking, answers in (
        ("2MUL", disabled, "2", "2MUL 4 EQUAL", (OK, bad, bad, bad)),
        ("2MUL", disabled, "1", "0 IF 2MUL ENDIF", (OK, OK, OK, bad)),
        ("2DIV", disabled, "5", "2DIV 2 EQUAL", (OK, bad, bad, bad)),
        ("2DIV", disabled, "1", "0 IF 2DIV ENDIF", (OK, OK, OK, bad)),
        ("VER", reserved, "1", "VER x0401000000 EQUALVERIFY", (OK, bad, bad, bad)),
        ("VER", reserved, "1", "0 IF VER ENDIF", (OK, OK, OK, OK)),
        ("VERIF", branch, "1", "x0401000000 VERIF ELSE 0 ENDIF", (OK, bad, bad, bad)),
        ("VERIF", branch, "1", "x0402000000 VERIF 0 ENDIF", (OK, bad, bad, bad)),
        ("VERIF", branch, "1", "1 VERIF 0 ENDIF", (OK, bad, bad, bad)),
        ("VERIF", branch, "1", "0 IF VERIF ENDIF ENDIF", (OK, bad, bad, bad)),
        ("VERIF", branch, "1", "0 IF VERIF ENDIF", (bad, OK, OK, bad)),
        ("VERIF", branch, "1 1", "IF ELSE VERIF ENDIF", (bad, OK, OK, bad)),
        ("VERIF", branch, "1 1", "IF RETURN VERIF ENDIF", (bad, OK, OK, FALSE)),
        ("VERNOTIF", branch, "1", "x0402000000 VERNOTIF ELSE 0 ENDIF", (OK, bad, bad, bad)),
        ("VERNOTIF", branch, "1", "x0401000000 VERNOTIF 0 ENDIF", (OK, bad, bad, bad)),
        ("VERNOTIF", branch, "1", "0 IF VERNOTIF ENDIF ENDIF", (OK, bad, bad, bad)),
        ("VERNOTIF", branch, "1", "0 IF VERNOTIF ENDIF", (bad, OK, OK, bad)),
        ("SUBSTR", nops, "'abcd'", "1 2 SUBSTR 'bc' EQUAL", (OK, bad, bad, bad)),
        ("SUBSTR", nops, "1", "0 IF SUBSTR ENDIF", (OK, OK, OK, OK)),
        ("LEFT", nops, "'abcd'", "1 LEFT 'a' EQUAL", (OK, bad, bad, bad)),
        ("LEFT", nops, "1", "0 IF LEFT ENDIF", (OK, OK, OK, OK)),
        ("RIGHT", nops, "'abcd'", "1 RIGHT 'd' EQUAL", (OK, bad, bad, bad)),
        ("RIGHT", nops, "1", "0 IF RIGHT ENDIF", (OK, OK, OK, OK)),
        ("LSHIFTNUM", nops, "3", "2 LSHIFTNUM 12 EQUAL", (OK, bad, bad, bad)),
        ("LSHIFTNUM", nops, "1", "0 IF LSHIFTNUM ENDIF", (OK, OK, OK, OK)),
        ("RSHIFTNUM", nops, "-5", "1 RSHIFTNUM -2 EQUAL", (OK, bad, bad, bad)),
        ("RSHIFTNUM", nops, "1", "0 IF RSHIFTNUM ENDIF", (OK, OK, OK, OK)),
        ("opcodes of no era", "node EvalScript: bad opcode where it runs", "1", "UNKNOWN", (bad, bad, bad, bad)),
        ("opcodes of no era", "node EvalScript: bad opcode where it runs", "1", "0 IF UNKNOWN ENDIF", (OK, OK, OK, OK)),
        ("restored in 2018", "node EvalScript: of any age", "6 7", "MUL 42 EQUAL", (OK,) * 4),
        ("restored in 2018", "node EvalScript: of any age", "6 7", "MUL 41 EQUAL", (FALSE,) * 4),
        ("restored in 2018", "node EvalScript: of any age", "'ab'", "INVERT x029e9d EQUAL", (OK,) * 4),
    ):  # fmt: skip
        for coin, code in zip(eras, answers, strict=True):
            name = f"{unlocking} | {locking}, a coin of {coin}"
            yield Case(
                rule=rule, source=source, name=name, unlock=by(unlocking), locking=asm(locking), code=code, coin=coin
            )
    # The era is the coin's, whatever the transaction's version says and whichever block is next.
    for version in (1, 2):
        for coin, code in ((NEW, OK), (MIDDLE, MALFORMED)):
            yield Case(
                rule="era by the coin's height", source="node UTXO_AFTER_CHRONICLE", version=version,
                name=f"2MUL at version {version}, a coin of {coin}",
                unlock=by("2"), locking=asm("2MUL 4 EQUAL"), code=code, coin=coin, next=CHRONICLE + 1,
            )  # fmt: skip


def limits_by_era() -> Iterator[Case]:
    """Coins before Genesis keep the limits of their time (node: MAX_*_BEFORE_GENESIS)."""
    source = "node script limits BEFORE_GENESIS: 520, 10,000, 500, 1,000, 20"
    fill = "x4b" + "00" * 75 + " DROP "  # 77 bytes
    for name, unlocking, locking, within in (
        ("push of 520 bytes", "1", "x4d0802" + "07" * 520 + " DROP", True),
        ("push of 521 bytes", "1", "x4d0902" + "07" * 521 + " DROP", False),
        ("push of 521 bytes where nothing runs", "1", "0 IF x4d0902" + "07" * 521 + " ENDIF", False),
        ("CAT to 520 bytes", "1", "x4d0401" + "07" * 260 + " DUP CAT DROP", True),
        ("CAT to 521 bytes", "1", "x4d0501" + "07" * 261 + " x4d0401" + "07" * 260 + " CAT DROP", False),
        ("NUM2BIN to 520 bytes", "1", "1 520 NUM2BIN DROP", True),
        ("NUM2BIN to 521 bytes", "1", "1 521 NUM2BIN DROP", False),
        ("500 operations", "1", "NOP " * 500, True),
        ("501 operations", "1", "NOP " * 501, False),
        ("501 operations where nothing runs", "1", "0 IF " + "NOP " * 499 + " ENDIF", False),
        ("500 operations and pushes", "1", "NOP " * 498 + "1 1 2DROP NOP", True),
        ("keys count as operations", "1 0", "NOP " * 480 + "0 " + "1 " * 20 + "20 CHECKMULTISIG DROP", False),
        ("20 keys", "0", "0 " + "1 " * 20 + "20 CHECKMULTISIG", True),
        ("21 keys", "0", "0 " + "1 " * 21 + "21 CHECKMULTISIG", False),
        ("a script of 10,000 bytes", "1", fill * 129 + "x41" + "00" * 65 + " DROP", True),
        ("a script of 10,001 bytes", "1", fill * 129 + "x42" + "00" * 66 + " DROP", False),
        ("1,000 elements", "1", "1 " * 999 + "2DROP " * 499 + "DROP", True),
        ("1,001 elements", "1", "1 " * 1000 + "2DROP " * 500, False),
        ("1,001 elements on both stacks", "1", "1 " * 500 + "TOALT " * 490 + "1 " * 500, False),
    ):  # fmt: skip
        for coin in (OLD, GENESIS):
            code = OK if within or coin == GENESIS else FALSE if name == "21 keys" else MALFORMED
            if coin == GENESIS and name == "1,001 elements on both stacks":
                code = MALFORMED  # its stack is not clean
            yield Case(
                rule="limits of coins before Genesis", source=source, name=f"{name}, a coin of {coin}",
                unlock=by(unlocking), locking=asm(locking), code=code, coin=coin,
            )  # fmt: skip


def numbers() -> Iterator[Case]:
    """How long a number may be, and how the large ones are reckoned with."""
    rule, source = (
        "length of numbers",
        "node GetMaxScriptNumLength: 4 bytes, 750,000 from Genesis, 32,000,000 from Chronicle",
    )
    rows: list[tuple[str, bytes, int, str]] = [
        ("4 bytes", asm("2147483647 1ADD x050000008000 EQUAL"), OLD, OK),
        ("5 bytes", asm("x050000008000 1ADD DROP 1"), OLD, FALSE),
        ("5 bytes", asm("x050000008000 1ADD DROP 1"), GENESIS, OK),
        ("750,000 bytes", push(b"\x01" * 750_000) + asm("1ADD DROP 1"), GENESIS, OK),
        ("750,001 bytes", push(b"\x01" * 750_001) + asm("1ADD DROP 1"), GENESIS, FALSE),
        ("750,000 bytes", push(b"\x01" * 750_000) + asm("1ADD DROP 1"), MIDDLE, OK),
        ("750,001 bytes", push(b"\x01" * 750_001) + asm("1ADD DROP 1"), MIDDLE, FALSE),
        ("750,001 bytes", push(b"\x01" * 750_001) + asm("1ADD DROP 1"), NEW, OK),
        ("32,000,000 bytes", asm("1 255999998 LSHIFTNUM 0NOTEQUAL"), NEW, OK),
        ("32,000,001 bytes", asm("1 255999999 LSHIFTNUM DROP 1"), NEW, FALSE),
        ("32,000,000 bytes of zero", asm("0 32000000 NUM2BIN BIN2NUM NOT"), NEW, OK),
        ("BIN2NUM of 4 bytes", asm("x050100008000 DROP x05ffffff0080 BIN2NUM x04ffffff80 EQUAL"), OLD, OK),
        ("BIN2NUM of 5 bytes", asm("x050100008000 BIN2NUM DROP 1"), OLD, FALSE),
        ("BIN2NUM of 5 bytes", asm("x050100008000 BIN2NUM DROP 1"), GENESIS, OK),
    ]  # fmt: skip
    for name, locking, coin, code in rows:
        yield Case(
            rule=rule, source=source, name=f"{name}, a coin of {coin}", unlock=by(""), locking=locking, code=code,
            coin=coin,
        )  # fmt: skip
    source = "domain.md 2.4: sign and magnitude; division rounds towards zero, a remainder has the dividend's sign"
    for text in (
        "18446744073709551616 1 SUB 18446744073709551615 EQUAL",
        "18446744073709551616 18446744073709551616 MUL 340282366920938463463374607431768211456 EQUAL",
        "-340282366920938463463374607431768211457 18446744073709551616 DIV -18446744073709551616 EQUAL",
        "-340282366920938463463374607431768211457 18446744073709551616 MOD -1 EQUAL",
        "340282366920938463463374607431768211457 -18446744073709551616 MOD 1 EQUAL",
        "-18446744073709551617 2DIV -9223372036854775808 EQUAL",
        "18446744073709551616 1 65 LSHIFTNUM LESSTHAN",
    ):
        yield Case(rule="big numbers", source=source, name=text, unlock=by(""), locking=asm(text), code=OK)
    for text, code in (("7 0 DIV", FALSE), ("7 0 MOD", FALSE), ("0 7 DIV NOT", OK), ("-7 2 DIV -4 EQUAL", FALSE)):
        yield Case(rule="big numbers", source=source, name=text, unlock=by(""), locking=asm(text), code=code)


def locks() -> Iterator[Case]:
    """Lock times bind coins before Genesis, and are NOPs after it."""
    for text, locktime, version, sequence, met in (
        ("100 CLTV DROP", 100, 1, 0, True),
        ("101 CLTV DROP", 100, 1, 0, False),
        ("100 CLTV DROP", 100, 1, FINAL, False),
        ("-1 CLTV DROP", 100, 1, 0, False),
        ("500000000 CLTV DROP", 500_000_000, 1, 0, True),
        ("499999999 CLTV DROP", 500_000_000, 1, 0, False),
        ("x050000000001 CLTV DROP", 100, 1, 0, False),
        ("x06000000000001 CLTV DROP", 100, 1, 0, False),
    ):
        for coin in (OLD, GENESIS):
            yield Case(
                rule="OP_CHECKLOCKTIMEVERIFY", source="BIP 65; node: a NOP for coins UTXO_AFTER_GENESIS",
                name=f"{text}, locked until {locktime}, sequence {sequence:#x}, a coin of {coin}",
                unlock=by("1"), locking=asm(text), code=OK if met or coin == GENESIS else FALSE, coin=coin,
                version=version, locktime=locktime, sequence=sequence,
            )  # fmt: skip
    for text, version, sequence, met in (
        ("10 CSV DROP", 2, 10, True),
        ("11 CSV DROP", 2, 10, False),
        ("10 CSV DROP", 1, 10, False),
        ("10 CSV DROP", 2, 1 << 31 | 10, False),
        ("2147483648 CSV DROP", 1, FINAL, True),
        ("4194309 CSV DROP", 2, 4_194_309, True),
        ("4194309 CSV DROP", 2, 10, False),
        ("-1 CSV DROP", 2, 10, False),
    ):
        for coin in (OLD, GENESIS):
            yield Case(
                rule="OP_CHECKSEQUENCEVERIFY", source="BIP 112; node: a NOP for coins UTXO_AFTER_GENESIS",
                name=f"{text}, version {version}, sequence {sequence:#x}, a coin of {coin}",
                unlock=by("1"), locking=asm(text), code=OK if met or coin == GENESIS else FALSE, coin=coin,
                version=version, sequence=sequence,
            )  # fmt: skip


def script_hash() -> Iterator[Case]:
    """A script behind a hash runs for coins before Genesis alone."""
    rule, source = "P2SH", "BIP 16; node: SCRIPT_VERIFY_P2SH only for coins before Genesis"
    two = asm("2 EQUAL")
    rows: list[tuple[str, Unlock, bytes, int, int, str]] = [
        ("its script holds", lambda _: asm("2") + push(two), two, OLD, 1, OK),
        ("its script does not hold", lambda _: asm("3") + push(two), two, OLD, 1, FALSE),
        ("its script alone", lambda _: push(two), two, OLD, 1, FALSE),
        ("a hash puzzle after Genesis", lambda _: push(two), two, GENESIS, 1, OK),
        ("an unclean stack after Genesis", lambda _: asm("3") + push(two), two, GENESIS, 1, MALFORMED),
        ("more than pushes, relaxed", lambda _: asm("2 NOP") + push(two), two, OLD, 2, MALFORMED),
        ("more than pushes after Genesis, relaxed", lambda _: asm("3 NOP") + push(two), two, GENESIS, 2, OK),
        ("a script that signs itself", lambda d: signed(over=p2pk(A))(d) + push(p2pk(A)), p2pk(A), OLD, 1, OK),
        ("a script that signs the hash", lambda d: signed()(d) + push(p2pk(A)), p2pk(A), OLD, 1, FALSE),
    ]
    for name, unlock, redeem, coin, version, code in rows:
        yield Case(
            rule=rule, source=source, name=f"{name}, a coin of {coin}", unlock=unlock, locking=p2sh(redeem), code=code,
            coin=coin, version=version,
        )  # fmt: skip


def returns() -> Iterator[Case]:
    """A top-level RETURN ends with the stack as it is, from Genesis on."""
    rule, source = (
        "top-level OP_RETURN",
        "node EvalScript: success for coins UTXO_AFTER_GENESIS, OP_RETURN error before",
    )
    for unlocking, locking, middle, old in (
        ("1", "RETURN", OK, FALSE),
        ("0", "RETURN", FALSE, FALSE),
        ("", "RETURN", FALSE, FALSE),
        ("1 1", "RETURN", MALFORMED, FALSE),
        ("1", "RETURN x4c", OK, FALSE),
        ("1", "RETURN x4c05ab ENDIF UNKNOWN", OK, FALSE),
        ("1", "RETURN IF", OK, FALSE),
        ("", "0 RETURN 1", FALSE, FALSE),
        ("1", "0 IF RETURN ENDIF", OK, OK),
        ("1 1", "IF RETURN ENDIF", OK, FALSE),
        ("1 1", "IF RETURN 0 ENDIF 0", OK, FALSE),
        ("1 1", "IF RETURN", MALFORMED, FALSE),
        ("1 1", "IF RETURN x4c05ab", MALFORMED, FALSE),
        ("1 1", "IF RETURN ELSE 0 ENDIF RETURN ENDIF", OK, FALSE),
        ("1 1", "IF RETURN ELSE ELSE ENDIF", MALFORMED, FALSE),
    ):
        for coin, code in ((GENESIS, middle), (OLD, old)):
            yield Case(
                rule=rule, source=source, name=f"{unlocking} | {locking}, a coin of {coin}", unlock=by(unlocking),
                locking=asm(locking), code=code, coin=coin,
            )  # fmt: skip
    yield Case(
        rule=rule, source=source, name="in a relaxed unlocking script it ends that one alone", unlock=by("1 RETURN IF"),
        locking=asm("NOT NOT"), code=OK, version=2,
    )  # fmt: skip


def conditionals() -> Iterator[Case]:
    """One ELSE an IF from Genesis on; every IF ends in its own script."""
    rule, source = "one ELSE an IF", "node EvalScript: vfElse for coins UTXO_AFTER_GENESIS"
    for unlocking, locking, middle, old in (
        ("1 1", "IF ELSE 0 ENDIF", OK, OK),
        ("1 1", "IF ELSE 0 ELSE ENDIF", MALFORMED, OK),
        ("1", "0 IF 1 IF ELSE ELSE ENDIF ENDIF", MALFORMED, OK),
        ("1 1", "IF 1 IF ELSE ENDIF ELSE ENDIF", OK, OK),
        ("1", "ELSE", MALFORMED, MALFORMED),
        ("1", "ENDIF", MALFORMED, MALFORMED),
        ("1", "1 IF", MALFORMED, MALFORMED),
    ):
        for coin, code in ((GENESIS, middle), (OLD, old)):
            yield Case(
                rule=rule, source=source, name=f"{unlocking} | {locking}, a coin of {coin}", unlock=by(unlocking),
                locking=asm(locking), code=code, coin=coin,
            )  # fmt: skip
    source = "node VerifyScript: each script is evaluated by itself; only the main stack goes on"
    rule = "nothing but the stack goes from script to script"
    for unlocking, locking, code in (
        ("1 1 IF", "ENDIF", MALFORMED),
        ("1 1 TOALT", "FROMALT VERIFY", FALSE),
        ("1 1 TOALT FROMALT", "VERIFY", OK),
    ):
        name = f"{unlocking} | {locking}"
        yield Case(
            rule=rule, source=source, name=name, unlock=by(unlocking), locking=asm(locking), code=code, version=2
        )


RELAXATIONS: list[tuple[str, str, Unlock, bytes, str]] = [
    ("low S", "BIP 146 LOW_S", pkh(high=True), p2pkh(A), MALFORMED),
    ("low S, in a multisig", "BIP 146 LOW_S", lambda d: b"\x00" + signed(high=True)(d), multisig(1, A, B), MALFORMED),
    ("NULLFAIL", "BIP 146 NULLFAIL", signed(B), p2pk(A) + asm("NOT"), FALSE),
    ("NULLFAIL, in a multisig", "BIP 146", lambda d: b"\x00" + signed(C)(d), multisig(1, A, B) + asm("NOT"), FALSE),
    ("NULLDUMMY", "BIP 147", lambda d: b"\x51" + signed()(d), multisig(1, A, B), MALFORMED),
    ("shortest push, in the unlocking script", "BIP 62 rule 3", lambda _: b"\x4c\x01\x61", asm("'a' EQUAL"), MALFORMED),
    ("shortest push, in the locking script", "BIP 62 rule 3", by("1"), asm("x0105 DROP"), MALFORMED),
    ("shortest push of a signature", "BIP 62 rule 3", lambda d: b"\x4c" + signed()(d), p2pk(A), MALFORMED),
    ("shortest number", "BIP 62 rule 4", by("x020500"), asm("5 NUMEQUAL"), MALFORMED),
    ("shortest number, negative zero", "BIP 62 rule 4", by("x0180"), asm("NOT"), MALFORMED),
    ("shortest number of a shift", "BIP 62 rule 4", by("'a' x020100"), asm("RSHIFT '0' EQUAL"), MALFORMED),
    ("push-only unlocking", "node SIGPUSHONLY", by("1 NOP"), b"", MALFORMED),
    ("clean stack", "BIP 62 rule 6 CLEANSTACK", by("1 1"), b"", MALFORMED),
    ("minimal IF", "node MINIMALIF", by("1 2"), asm("IF ENDIF"), MALFORMED),
    ("minimal IF, two bytes", "node MINIMALIF", by("1 x020100"), asm("NOTIF ELSE ENDIF"), MALFORMED),
]  # fmt: skip
"""What a version above 1 is free of: unlocked where it is relaxed, else the code."""


def relaxed() -> Iterator[Case]:
    """From Chronicle's height on, by the next block and a signed version above 1; the coin's age does not count."""
    for rule, source, unlock, locking, strict in RELAXATIONS:
        for version, ahead, coin, free in (
            (1, CHRONICLE, MIDDLE, False),
            (2, CHRONICLE, MIDDLE, True),
            (2, CHRONICLE - 1, MIDDLE - 1, False),
            (0, TODAY, NEW, False),
            (0x7FFFFFFF, TODAY, NEW, True),
            (0x80000000, TODAY, NEW, False),
            (0xFFFFFFFF, TODAY, NEW, False),
            (2, TODAY, OLD, True),
            (1, TODAY, OLD, False),
        ):
            yield Case(
                rule=f"relaxed: {rule}", source=f"{source}; node EnforceNonMalleability: not CHRONICLE or version <= 1",
                name=f"version {version:#x} in block {ahead}, a coin of {coin}", unlock=unlock, locking=locking,
                code=OK if free else strict, coin=coin, next=ahead, version=version,
            )  # fmt: skip
    source = "node VerifyScript: the stack is as short as its true top"
    for text, code in (("1", OK), ("0", FALSE), ("x0180", FALSE), ("x020080", FALSE), ("x020081", OK), ("", FALSE)):
        yield Case(rule="a true top", source=source, name=text, unlock=by(text), locking=b"", code=code)
    # Pushes at the edges of their forms (BIP 62 rule 3); numbers 1 to 16, -1 and nothing have opcodes of their own.
    for rows, code in (
        ((b"\x00", b"\x51", b"\x60", b"\x4f", b"\x01\x11", b"\x01\x00", b"\x01\x80"), OK),
        ((b"\x01\x01", b"\x01\x10", b"\x01\x81", b"\x4c\x00", b"\x4d\x00\x00"), MALFORMED),
    ):
        for row in rows:
            yield Case(
                rule="shortest push", source="BIP 62 rule 3", name=row.hex(), unlock=by("1"), locking=row + b"\x75",
                code=code,
            )  # fmt: skip
    for size, head, code in (
        (75, "4b", OK), (75, "4c4b", MALFORMED), (76, "4c4c", OK), (255, "4cff", OK), (255, "4dff00", MALFORMED),
        (256, "4d0001", OK), (65_535, "4dffff", OK), (65_535, "4effff0000", MALFORMED), (65_536, "4e00000100", OK),
    ):  # fmt: skip
        yield Case(
            rule="shortest push", source="BIP 62 rule 3", name=f"{size} bytes by {head[:2]}", unlock=by("1"),
            locking=bytes.fromhex(head) + bytes(size) + b"\x75", code=code,
        )  # fmt: skip
    for unlocking, code in (("1", OK), ("x50", MALFORMED), ("x4c", MALFORMED), ("1 x02ab", MALFORMED)):
        for version in (1, 2):
            yield Case(
                rule="push-only unlocking", source="node IsPushOnly; a push of more than there is does not parse",
                name=f"{unlocking} at version {version}", unlock=by(unlocking), locking=b"", code=code, version=version,
            )  # fmt: skip


def never_relaxed() -> Iterator[Case]:
    """What no version is free of."""
    rows: list[tuple[str, str, Unlock, bytes, str]] = []
    rule = "hybrid keys"
    own = push(hybrid())
    rows += [
        (rule, "P2PKH", lambda d: signed()(d) + own, hash_of(hybrid()), MALFORMED),
        (rule, "P2PK", signed(), own + b"\xac", MALFORMED),
        (rule, "multisig, where it is tried", zero_and(signed()), b"\x51" + own + b"\x51\xae", MALFORMED),
        (rule, "multisig, where it is not", zero_and(signed()), b"\x51" + own + push(A.public) + b"\x52\xae", OK),
    ]
    rule = "compressed and uncompressed keys"
    rows += [
        (rule, "P2PKH, compressed", pkh(), p2pkh(A), OK),
        (rule, "P2PKH, uncompressed", lambda d: signed()(d) + push(A.long), p2pkh(A, long=True), OK),
        (rule, "P2PK, uncompressed", signed(), p2pk(A, long=True), OK),
        (rule, "no key at all", signed(), asm("0 CHECKSIG"), MALFORMED),
        (rule, "no key at all, and an empty signature", by("0"), asm("0 CHECKSIG NOT"), MALFORMED),
        (rule, "04 before 32 bytes", signed(), push(b"\x04" + A.public[1:]) + b"\xac", MALFORMED),
        (rule, "off the curve, and no signature", by("0"), push(b"\x02" + b"\xff" * 32) + asm("CHECKSIG NOT"), OK),
        (rule, "off the curve", signed(), push(b"\x02" + b"\xff" * 32) + asm("CHECKSIG"), FALSE),
    ]
    rule = "FORKID"  # by the block that spends: coins from before it need it as well
    rows += [
        (rule, "P2PKH without it", pkh(kind=0x01), p2pkh(A), MALFORMED),
        (rule, "P2PK without it", signed(kind=0x01), p2pk(A), MALFORMED),
        (rule, "multisig without it", zero_and(signed(kind=0x01)), multisig(1, A, B), MALFORMED),
        (rule, "NONE and ANYONECANPAY without it", pkh(kind=0x82), p2pkh(A), MALFORMED),
        (rule, "Chronicle's type without it", pkh(kind=0x21), p2pkh(A), MALFORMED),
        (rule, "with it", pkh(), p2pkh(A), OK),
    ]
    for version in (1, 2):
        for coin in (NEW, OLD):
            for rule, name, unlock, locking, code in rows:
                yield Case(
                    rule=rule, source="node STRICTENC, which FORKID brings with it, by the block that spends",
                    name=f"{name}, version {version}, a coin of {coin}", unlock=unlock, locking=locking, code=code,
                    coin=coin, version=version,
                )  # fmt: skip


def strict_der() -> Iterator[Case]:
    """A signature one byte off (BIP 66): 30 size 02 sizeR R 02 sizeS S type."""

    def put(at: int, *values: int) -> Callable[[bytes], bytes]:
        return lambda s: s[:at] + bytes(values) + s[at + len(values) :]

    def behind_r(at: int, change: Callable[[int], int]) -> Callable[[bytes], bytes]:
        return lambda s: s[: 4 + s[3] + at] + bytes((change(s[4 + s[3] + at]),)) + s[5 + s[3] + at :]

    def resized(r: Callable[[bytes], bytes], s: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
        def change(whole: bytes) -> bytes:
            new_r, new_s = r(whole[4 : 4 + whole[3]]), s(whole[6 + whole[3] : -1])
            body = b"\x02" + bytes((len(new_r),)) + new_r + b"\x02" + bytes((len(new_s),)) + new_s
            return b"\x30" + bytes((len(body),)) + body + whole[-1:]

        return change

    rows: list[tuple[str, Callable[[bytes], bytes], str]] = [
        ("as it is", lambda s: s, OK),
        ("another compound", put(0, 0x31), MALFORMED),
        ("a size too large", lambda s: put(1, s[1] + 1)(s), MALFORMED),
        ("a size too small", lambda s: put(1, s[1] - 1)(s), MALFORMED),
        ("R is no integer", put(2, 3), MALFORMED),
        ("R a byte too long", lambda s: put(3, s[3] + 1)(s), MALFORMED),
        ("R a byte too short", lambda s: put(3, s[3] - 1)(s), MALFORMED),
        ("R is empty", resized(lambda _: b"", lambda s: s), MALFORMED),
        ("R with a zero too many", resized(lambda r: b"\x00\x00" + r.lstrip(b"\x00"), lambda s: s), MALFORMED),
        ("R is negative", resized(lambda r: b"\x80" + r.lstrip(b"\x00")[1:], lambda s: s), MALFORMED),
        ("R of one byte", resized(lambda _: b"\x01", lambda s: s), FALSE),
        ("S is no integer", behind_r(0, lambda _: 3), MALFORMED),
        ("S a byte too long", behind_r(1, lambda size: size + 1), MALFORMED),
        ("S a byte too short", behind_r(1, lambda size: size - 1), MALFORMED),
        ("S is empty", resized(lambda r: r, lambda _: b""), MALFORMED),
        ("S is negative", resized(lambda r: r, lambda s: b"\x80" + s[1:]), MALFORMED),
        ("S with a zero too many", resized(lambda r: r, lambda s: b"\x00" + s), MALFORMED),
        ("S of one byte", resized(lambda r: r, lambda _: b"\x01"), FALSE),
        ("a byte behind S", lambda s: s[:-1] + b"\x00" + s[-1:], MALFORMED),
        ("without its hash type", lambda s: s[:-1], MALFORMED),
        ("nine bytes, the shortest", lambda _: bytes.fromhex("300602010102010141"), FALSE),
        ("eight bytes", lambda _: bytes.fromhex("3005020101020041"), MALFORMED),
        ("seventy-four bytes", resized(lambda _: b"\x01" * 33, lambda _: b"\x01" * 34), MALFORMED),
    ]  # fmt: skip
    for version in (1, 2):
        for name, change, code in rows:
            for form, locking in (("P2PKH", p2pkh(A)), ("machine", asm("NOP") + p2pkh(A))):
                if name == "as it is" and form == "machine":
                    continue  # its signature is over the template
                yield Case(
                    rule="strict DER", source="BIP 66", name=f"{name}, {form}, version {version}",
                    unlock=changed(change), locking=locking, code=code, version=version,
                )  # fmt: skip
    half = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0
    for s, code in ((half, FALSE), (half + 1, MALFORMED)):
        yield Case(
            rule="low S", source="BIP 146: S up to half the order", name=f"S is {s - half} above half",
            unlock=changed(lambda _, s=s: bytes.fromhex("30250201010220") + s.to_bytes(32, "big") + b"\x41"),  # type: ignore[misc]
            locking=p2pkh(A), code=code,
        )  # fmt: skip
    yield Case(
        rule="low S", source="BIP 146", name="the twin of a twin is the first",
        unlock=changed(lambda s: flip_s(flip_s(s[:-1])) + s[-1:]), locking=p2pkh(A), code=OK,
    )  # fmt: skip


def hash_types() -> Iterator[Case]:
    """Both digests by every type, and the types that do not exist."""
    later = "node ILLEGAL_CHRONICLE: by the next block"
    asks = "domain.md 1.3: 0x20 asks for the original digest"
    forms: list[tuple[str, Callable[..., Unlock], bytes]] = [
        ("P2PKH", lambda kind, as_kind=-1: pkh(A, kind, as_kind=as_kind), p2pkh(A)),
        ("P2PK", lambda kind, as_kind=-1: signed(A, kind, as_kind=as_kind), p2pk(A)),
        ("multisig", lambda kind, as_kind=-1: zero_and(signed(A, kind, as_kind=as_kind)), multisig(1, B, A)),
        ("machine", lambda kind, as_kind=-1: signed(A, kind, as_kind=as_kind), p2pk(A) + asm("NOT NOT")),
    ]
    for base in (1, 2, 3):
        for more in (0, ANYONE):
            for name, make, locking in forms:
                new, original = base | more | 0x40, base | more | 0x60
                label = f"{name}, type {new:#x}"
                for vin in (0, 1):
                    if base == 3 and vin == 1:
                        continue  # below: there is no output of that place
                    yield Case(
                        rule="hash types", source="BIP 143; domain.md 1.3", name=f"{label}, input {vin}",
                        unlock=make(new), locking=locking, code=OK, coin=OLD if vin else NEW, vin=vin,
                    )  # fmt: skip
                    yield Case(
                        rule="hash types", source=asks, name=f"{name}, type {original:#x}, input {vin}",
                        unlock=make(original), locking=locking, code=OK, coin=MIDDLE if vin else NEW, vin=vin,
                        next=CHRONICLE + 1,
                    )  # fmt: skip
                yield Case(
                    rule="bit 0x20 and Chronicle", source=later, name=f"{name}, type {original:#x}, the block before",
                    unlock=make(original), locking=locking, code=MALFORMED, coin=MIDDLE - 1, next=CHRONICLE - 1,
                )  # fmt: skip
                yield Case(
                    rule="bit 0x20 and Chronicle", source=later, name=f"{name}, type {original:#x}, the block itself",
                    unlock=make(original), locking=locking, code=OK, coin=MIDDLE, next=CHRONICLE,
                )  # fmt: skip
                yield Case(
                    rule="hash types", source="domain.md 1.3", name=f"{label}, over the other digest",
                    unlock=make(original, as_kind=new), locking=locking, code=FALSE,
                )  # fmt: skip
                yield Case(
                    rule="hash types", source="domain.md 1.3",
                    name=f"{name}, type {original:#x}, over the other digest",
                    unlock=make(new, as_kind=original), locking=locking, code=FALSE,
                )  # fmt: skip
    for kind in (0x40, 0x44, 0x48, 0x50, 0x5F, 0xC0, 0xC4, 0x60, 0x64):
        yield Case(
            rule="hash types", source="node SigHashType.isDefined", name=f"{kind:#x}",
            unlock=pkh(kind=0x41, as_kind=kind), locking=p2pkh(A), code=MALFORMED,
        )  # fmt: skip
    one = b"\x01" + bytes(31)
    source = (
        "domain.md 1.3: SINGLE without its output; the original digest is the number 1, the other leaves outputs out"
    )
    rows: list[tuple[str, Unlock, str]] = [
        ("0x43", pkh(kind=0x43), OK),
        ("0xc3", pkh(kind=0xC3), OK),
        ("0x63 over 1", lambda _: push(A.sign(one) + b"\x63") + push(A.public), OK),
        ("0xe3 over 1", lambda _: push(A.sign(one) + b"\xe3") + push(A.public), OK),
        ("0x63 over another digest", pkh(kind=0x62, as_kind=0x63), FALSE),
        ("0x43 over 1", lambda _: push(A.sign(one) + b"\x43") + push(A.public), FALSE),
    ]
    for name, unlock, code in rows:
        for form, locking in (("P2PKH", p2pkh(A)), ("machine", p2pkh(A) + asm("NOP"))):
            yield Case(
                rule="SINGLE without its output", source=source, name=f"{name}, {form}", unlock=unlock,
                locking=locking, code=code, vin=1,
            )  # fmt: skip


def separators() -> Iterator[Case]:
    """A signature commits to what stands behind the last separator that ran; the original digest leaves out others."""
    rule, source = "OP_CODESEPARATOR", "node EvalScript pbegincodehash; domain.md 1.3"
    own = p2pk(A)
    for kind in (0x41, 0x61):
        for before, new, original in (
            ("", "", ""),
            ("SEPARATOR", "", ""),
            ("NOP SEPARATOR", "", ""),
            ("SEPARATOR NOP SEPARATOR", "", ""),
            ("SEPARATOR NOP", "NOP", "NOP"),
            ("1 IF SEPARATOR ENDIF", "ENDIF", "ENDIF"),
            ("0 IF SEPARATOR ENDIF", "0 IF SEPARATOR ENDIF", "0 IF ENDIF"),
            ("x01ab DROP", "x01ab DROP", "x01ab DROP"),
        ):
            over = asm(new if kind == 0x41 else original) + own
            for name, code_of, code in (("right", over, OK), ("one operation more", asm("NOP") + over, FALSE)):
                yield Case(
                    rule=rule, source=source, name=f"{before or 'none'}, type {kind:#x}, {name}",
                    unlock=signed(kind=kind, over=code_of), locking=asm(before) + own, code=code,
                )  # fmt: skip
        behind = own + asm("SEPARATOR NOP")
        yield Case(
            rule=rule, source=source, name=f"one behind the check, type {kind:#x}",
            unlock=signed(kind=kind, over=behind if kind == 0x41 else own + asm("NOP")), locking=behind, code=OK,
        )  # fmt: skip
        data = own + asm("RETURN SEPARATOR")
        yield Case(
            rule=rule, source=source, name=f"one in the data behind a RETURN, type {kind:#x}",
            unlock=signed(kind=kind, over=data if kind == 0x41 else own + asm("RETURN")), locking=data, code=OK,
        )  # fmt: skip
    # A relaxed unlocking script signs its own rest, and then the locking script.
    locking = asm("VERIFY 1")
    tail = push(A.public) + asm("CHECKSIG")
    for name, over, code in (("its rest and the locking script", tail + locking, OK), ("its rest alone", tail, FALSE)):
        yield Case(
            rule=rule, source="py-sdk Spend.subscript_after_code_separator, after the node",
            name=f"an unlocking script signs {name}", unlock=then(signed(over=over), asm("SEPARATOR") + tail),
            locking=locking, code=code, version=2,
        )  # fmt: skip


def multisigs() -> Iterator[Case]:
    """Bare multisig: signatures in the order of their keys, one key each."""
    rule, source = "bare multisig", "node OP_CHECKMULTISIG"
    sixteen = [key(100 + n) for n in range(16)]
    publics = [owner.public for owner in (*sixteen, A)]

    def unlocked(*owners: Key) -> Unlock:
        return lambda d: b"\x00" + b"".join(signed(owner)(d) for owner in owners)

    for name, unlock, locking, code in (
        ("1 of 1", unlocked(A), multisig(1, A), OK),
        ("1 of 2 by the last", unlocked(B), multisig(1, A, B), OK),
        ("2 of 2 in order", unlocked(A, B), multisig(2, A, B), OK),
        ("2 of 2 out of order", unlocked(B, A), multisig(2, A, B), FALSE),
        ("2 of 3 around the middle", unlocked(A, C), multisig(2, A, B, C), OK),
        ("2 of 3 out of order", unlocked(C, A), multisig(2, A, B, C), FALSE),
        ("one key for two", unlocked(A, A), multisig(2, A, B), FALSE),
        ("one key given twice", unlocked(A, A), multisig(2, A, A), OK),
        ("a stranger", unlocked(C), multisig(1, A, B), FALSE),
        ("16 of 16", unlocked(*sixteen), multisig(16, *sixteen), OK),
        ("1 of 16 by the first", unlocked(sixteen[0]), multisig(1, *sixteen), OK),
        ("15 of 16 without the first", unlocked(*sixteen[1:]), multisig(15, *sixteen), OK),
        ("0 of 2", by("0"), asm("0") + multisig(1, A, B)[1:], OK),
        ("0 of 0", by("0"), asm("0 0 CHECKMULTISIG"), OK),
        ("3 of 2", unlocked(A, B, C), asm("3") + multisig(2, A, B)[1:], FALSE),
        ("a signature too few", unlocked(A), multisig(2, A, B), FALSE),
        ("without the element passed over", lambda d: unlocked(A)(d)[1:], multisig(1, A), FALSE),
        ("17 of 17", unlocked(*sixteen, A), asm("17") + b"".join(map(push, publics)) + asm("17 CHECKMULTISIG"), OK),
        ("minus one key", by("0 0"), asm("-1 CHECKMULTISIG"), FALSE),
        ("a count of five bytes", by("0 0"), asm("x050000000001 CHECKMULTISIG"), FALSE),
    ):  # fmt: skip
        for coin in (NEW, OLD):
            yield Case(
                rule=rule, source=source, name=f"{name}, a coin of {coin}", unlock=unlock, locking=locking, code=code,
                coin=coin,
            )  # fmt: skip


def templates() -> Iterator[Case]:
    """The forms of the field, and the same with one thing out of place."""
    rule, source = "templates", "BRC-48 PushDrop, both positions of the lock; domain.md 8.1, 1.2"
    fields = (b"field", b"\x05", b"", bytes(80), bytes(300))
    shifted = pushdrop_after(A, *fields)
    drops = b"\x6d\x6d\x75"
    bad = MALFORMED
    for name, unlock, locking, answers in (
        ("P2PKH", pkh(), p2pkh(A), (OK, OK, OK)),
        ("P2PKH by another key", pkh(B), p2pkh(A), (FALSE, FALSE, FALSE)),
        ("P2PKH, then data", pkh(), p2pkh(A) + asm("RETURN x4c05ab"), (OK, OK, FALSE)),
        ("P2PKH, then fields", pkh(), p2pkh(A) + asm("'a' 'b' 2DROP"), (OK, OK, OK)),
        ("P2PK", signed(), p2pk(A), (OK, OK, OK)),
        ("P2PK, then data", signed(), p2pk(A) + asm("RETURN x05"), (OK, OK, FALSE)),
        ("PushDrop, lock first", signed(), pushdrop(A, *fields), (OK, OK, OK)),
        ("PushDrop, lock last", signed(), shifted, (OK, OK, OK)),
        ("PushDrop, lock last, by another key", signed(B), shifted, (FALSE, FALSE, FALSE)),
        ("PushDrop, lock last, a drop too few", signed(), shifted.replace(drops, drops[:2]), (bad, bad, bad)),
        ("PushDrop, lock last, a drop too many", signed(), shifted.replace(drops, drops + b"\x75"), (FALSE,) * 3),
        ("PushDrop, lock last, a longer push", signed(), b"\x4c" + shifted, (bad, bad, bad)),
        ("PushDrop, lock last, of one field", signed(), pushdrop_after(A, b"field"), (OK, OK, OK)),
        ("PushDrop, lock last, of none", signed(), pushdrop_after(A), (OK, OK, OK)),
        ("PushDrop, lock last, a field of 521 bytes", signed(), pushdrop_after(A, bytes(521)), (OK, OK, bad)),
        ("PushDrop, lock first, a field of 521 bytes", signed(), pushdrop(A, bytes(521)), (OK, OK, bad)),
        ("data behind 00 6a", by("1"), asm("0 RETURN 'data'"), (FALSE, FALSE, FALSE)),
        ("data behind 00 6a, nothing given", by(""), asm("0 RETURN 'data'"), (FALSE, FALSE, FALSE)),
        ("data behind 00 6a, a push in a longer form given", by("x0101"), asm("0 RETURN 'data'"), (bad, bad, bad)),
        ("data behind 00 6a, half a push given", by("x4c"), asm("0 RETURN 'data'"), (bad, bad, bad)),
        ("data behind 00 6a, an operation given", by("1 DUP"), asm("0 RETURN 'data'"), (bad, bad, bad)),
        ("10,001 bytes behind 00 6a", by("1"), asm("0 RETURN") + bytes(9_999), (FALSE, FALSE, bad)),
        ("data behind 6a", by("1"), asm("RETURN 'data'"), (OK, OK, FALSE)),
        ("data behind 6a, nothing given", by(""), asm("RETURN 'data'"), (FALSE, FALSE, FALSE)),
        ("data behind 6a, nothing given, 10,001 bytes", by(""), asm("RETURN") + bytes(10_000), (FALSE, FALSE, bad)),
        ("data behind 6a, half a push given", by("x4c"), asm("RETURN 'data'"), (bad, bad, bad)),
    ):  # fmt: skip
        for coin, code in zip((NEW, MIDDLE, OLD), answers, strict=True):
            yield Case(
                rule=rule, source=source, name=f"{name}, a coin of {coin}", unlock=unlock, locking=locking, code=code,
                coin=coin,
            )  # fmt: skip


def conversions() -> Iterator[Case]:
    """NUM2BIN takes a number in any form; its size and BIN2NUM's result are checked."""
    source = "node OP_NUM2BIN: the number is made minimal before it is fitted"
    for text, code in (
        ("x020500 1 NUM2BIN 5 EQUAL", OK),
        ("x03050080 1 NUM2BIN x0185 EQUAL", OK),
        ("x0405000000 1 NUM2BIN 5 EQUAL", OK),
        ("x0180 0 NUM2BIN 0 EQUAL", OK),
        ("x03000080 2 NUM2BIN x020000 EQUAL", OK),
        ("300 1 NUM2BIN", FALSE),
        ("128 1 NUM2BIN", FALSE),
        ("128 2 NUM2BIN x028000 EQUAL", OK),
        ("-128 3 NUM2BIN x03800080 EQUAL", OK),
        ("1 -1 NUM2BIN", FALSE),
        ("1 2147483648 NUM2BIN", FALSE),
        ("1 x020500 NUM2BIN DROP 1", MALFORMED),
        ("x0405000080 BIN2NUM -5 EQUAL", OK),
        ("x03000080 BIN2NUM 0 EQUAL", OK),
        ("x020080 BIN2NUM 0 EQUAL", OK),
    ):
        for coin in (NEW, MIDDLE, OLD):
            name = f"{text}, a coin of {coin}"
            yield Case(
                rule="NUM2BIN and BIN2NUM", source=source, name=name, unlock=by(""), locking=asm(text), code=code,
                coin=coin,
            )  # fmt: skip


def parts() -> Iterator[Case]:
    """Operands of the parts and shifts: which is on top, and where they end."""
    source = "node EvalScript: (x begin size), (x size), (x n); offset < size, length within"
    for text, code in (
        ("'abcd' 0 4 SUBSTR 'abcd' EQUAL", OK),
        ("'abcd' 3 1 SUBSTR 'd' EQUAL", OK),
        ("'abcd' 3 0 SUBSTR 0 EQUAL", OK),
        ("'abcd' 4 0 SUBSTR 0 EQUAL", FALSE),
        ("'abcd' 3 2 SUBSTR", FALSE),
        ("'abcd' -1 2 SUBSTR", FALSE),
        ("'abcd' 1 -1 SUBSTR", FALSE),
        ("'abcd' 4 LEFT 'abcd' EQUAL", OK),
        ("'abcd' 0 LEFT 0 EQUAL", OK),
        ("'abcd' 5 LEFT", FALSE),
        ("'abcd' 4 RIGHT 'abcd' EQUAL", OK),
        ("'abcd' 0 RIGHT 0 EQUAL", OK),
        ("'abcd' 5 RIGHT", FALSE),
        ("'abcd' -1 RIGHT", FALSE),
        ("'abcd' 0 SPLIT 'abcd' EQUALVERIFY 0 EQUAL", OK),
        ("'abcd' 4 SPLIT 0 EQUALVERIFY 'abcd' EQUAL", OK),
        ("'abcd' 5 SPLIT", FALSE),
        ("x028001 1 LSHIFT x020002 EQUAL", OK),
        ("x028001 1 RSHIFT x024000 EQUAL", OK),
        ("x028001 15 LSHIFT x028000 EQUAL", OK),
        ("x028001 16 LSHIFT x020000 EQUAL", OK),
        ("x028001 -1 LSHIFT", FALSE),
        ("x028001 99999999999999 RSHIFT x020000 EQUAL", OK),
        ("-5 1 LSHIFTNUM -10 EQUAL", OK),
        ("-5 1 RSHIFTNUM -2 EQUAL", OK),
        ("-1 1 RSHIFTNUM 0 EQUAL", OK),
        ("5 0 LSHIFTNUM 5 EQUAL", OK),
        ("5 -1 LSHIFTNUM", FALSE),
        ("5 -1 RSHIFTNUM", FALSE),
        ("5 99999999999 RSHIFTNUM NOT", OK),
        ("5 99999999999 LSHIFTNUM", FALSE),
    ):
        yield Case(rule="parts and shifts", source=source, name=text, unlock=by(""), locking=asm(text), code=code)


def costs() -> Iterator[Case]:
    """Steps and memory, to the last one."""
    budget_ms = 40  # far above the kernel's ticks
    steps = budget_ms * STEPS_PER_MS - INPUT_STEPS
    for name, count, code in (("all its steps", steps - 1, OK), ("one step more", steps, BUDGET)):
        yield Case(
            rule="steps", source="design.md 6: 5,000 ms a payload, in steps", name=name, unlock=by("1"),
            locking=asm("NOP") * count, code=code, budget_ms=budget_ms,
        )  # fmt: skip
    source = "design.md 6: stack memory; node LimitedStack: bytes and 32 an element, on both stacks"
    three = push(bytes(2_000)) + asm("DUP TOALT DUP 2DROP FROMALT DROP 1")
    for name, locking, memory, code in (
        ("one element to the byte", push(bytes(2_000)) + asm("DROP 1"), 2_032, OK),
        ("a byte too many", push(bytes(2_000)) + asm("DROP 1"), 2_031, BUDGET),
        ("two elements to the byte", push(bytes(2_000)) + asm("DUP 2DROP 1"), 4_064, OK),
        ("two elements, a byte too many", push(bytes(2_000)) + asm("DUP 2DROP 1"), 4_063, BUDGET),
        ("the other stack counts", three, 6_096, OK),
        ("the other stack counts, a byte too many", three, 6_095, BUDGET),
        ("CAT to the byte", push(bytes(2_000)) + asm("DUP CAT DROP 1"), 4_064, OK),
        ("NUM2BIN to the byte", asm("1 3000 NUM2BIN DROP 1"), 3_067, OK),
        ("NUM2BIN, a byte too many", asm("1 3036 NUM2BIN DROP 1"), 3_067, BUDGET),
        ("NUM2BIN of all there is", asm("1 2147483647 NUM2BIN"), 100_000_000, BUDGET),
    ):  # fmt: skip
        yield Case(rule="memory", source=source, name=name, unlock=by(""), locking=locking, code=code, memory=memory)
