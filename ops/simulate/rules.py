"""What a simulated node refuses without looking at the chain, as a table in the order in which ARC asks.

Numbers and order: ARC's validator (46x). `inputs` of a transaction know what they spend by then.
"""

from collections.abc import Callable

from msgspec import Struct

from ops.simulate.tx import NULL, Digester, Tx, pushed, unlocks
from schemas.types import Txid

MAX_MONEY = 21_000_000 * 100_000_000
SMALLEST = 61
"""Bytes: one input with an empty script, one output with a script of one byte."""

TITLES: dict[int, str] = {
    400: "Bad request",
    404: "Not found",
    409: "Generic error",
    460: "Not extended format",
    461: "Malformed transaction",
    462: "Invalid inputs",
    463: "Malformed transaction",
    464: "Invalid outputs",
    465: "Fee too low",
    466: "Conflicting tx found",
    467: "Mined ancestors not found",
    468: "Invalid BUMPs",
    469: "Merkle Roots validation failed",
    471: "Input Frozen",
    472: "Input Frozen",
    473: "Cumulative fee too low",
    474: "Transaction too large",
    475: "Mined ancestors missing",
    476: "Not final",
}
"""As ARC names its errors; 474 to 476 are newer than its description, and the names are ours."""


class Refusal(Struct, frozen=True):
    """A transaction that is not taken: ARC's number, and why."""

    number: int
    detail: str
    rivals: tuple[Txid, ...] = ()  # of 466: who spent first


class Policy(Struct, frozen=True):
    """What an endpoint may set for itself."""

    max_tx_bytes: int = 10_000_000
    max_script_bytes: int = 500_000
    fee_sat_per_kb: int = 1  # floor(size * rate / 1000), at least 1; 0 takes any fee
    scripts: bool = True  # whether they are run


def required_fee(size: int, policy: Policy) -> int:
    """Satoshis for `size` bytes of raw transaction, as the node judges it."""
    return max(1, size * policy.fee_sat_per_kb // 1000) if policy.fee_sat_per_kb else 0


def is_data(script: bytes) -> bool:
    """Whether an output cannot be spent: OP_FALSE OP_RETURN, or OP_RETURN."""
    return script[:2] == b"\x00\x6a" or script[:1] == b"\x6a"


def _shape(tx: Tx, _: Policy) -> Refusal | None:
    if not tx.inputs:
        return Refusal(462, "transaction has no inputs")
    if not tx.outputs:
        return Refusal(464, "transaction has no outputs")
    return None


def _large(tx: Tx, policy: Policy) -> Refusal | None:
    longest = max(len(script) for script in [*(i.script for i in tx.inputs), *(o.script for o in tx.outputs)])
    if len(tx.raw) > policy.max_tx_bytes or longest > policy.max_script_bytes:
        return Refusal(474, f"{len(tx.raw)} bytes, longest script {longest}")
    return None


def _inputs(tx: Tx, _: Policy) -> Refusal | None:
    for number, each in enumerate(tx.inputs):
        if each.txid == NULL:
            return Refusal(462, f"input {number} is a coinbase input")
        if each.spent is not None and each.spent.satoshis > MAX_MONEY:
            return Refusal(462, f"input {number} spends more than there is")
    if len({each.outpoint for each in tx.inputs}) != len(tx.inputs):
        return Refusal(462, "two inputs spend one output")
    return None


def _outputs(tx: Tx, _: Policy) -> Refusal | None:
    for number, output in enumerate(tx.outputs):
        if output.satoshis > MAX_MONEY:
            return Refusal(464, f"output {number} is worth more than there is")
        if (output.satoshis == 0) != is_data(output.script):
            return Refusal(464, f"output {number}: value and kind of script do not agree")
    return None


def _form(tx: Tx, _: Policy) -> Refusal | None:
    if len(tx.raw) < SMALLEST:
        return Refusal(463, f"{len(tx.raw)} bytes are less than {SMALLEST}")
    for number, each in enumerate(tx.inputs):
        if not each.script or (tx.version < 2 and pushed(each.script) is None):
            return Refusal(463, f"unlocking script {number} is empty or not push only")
    return None


def _values(tx: Tx, policy: Policy) -> Refusal | None:
    fee = sum(each.spent.satoshis for each in tx.inputs if each.spent) - sum(output.satoshis for output in tx.outputs)
    if fee < 0:
        return Refusal(462, f"outputs are worth {-fee} satoshis more than inputs")
    if fee < (needed := required_fee(len(tx.raw), policy)):
        return Refusal(465, f"fee of {fee} satoshis is below {needed}")
    return None


def _scripts(tx: Tx, policy: Policy) -> Refusal | None:
    if not policy.scripts:
        return None
    digester = Digester(tx)
    for number, each in enumerate(tx.inputs):
        if each.spent is not None and (why := unlocks(tx, number, each.spent, digester)) is not None:
            return Refusal(461, f"input {number}: {why}")
    return None


RULES: tuple[Callable[[Tx, Policy], Refusal | None], ...] = (
    _shape,
    _large,
    _inputs,
    _outputs,
    _form,
    _values,
    _scripts,
)


def judge(tx: Tx, policy: Policy) -> Refusal | None:
    """The first rule a transaction breaks. P2PKH costs 100 us an input."""
    return next((refusal for rule in RULES if (refusal := rule(tx, policy)) is not None), None)
