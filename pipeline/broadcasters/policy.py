"""Whether an endpoint would take a family, by the policy it publishes: who would not is not asked.

The rule errs towards asking. An endpoint is passed over for what it says itself that it refuses; in every other doubt
(no policy known, bytes we cannot measure, a child that pays for its parents) it is asked, and its own word counts.
"""

from collections.abc import Sequence

from msgspec import Struct

from pipeline.broadcasters import Policy, Reply
from pipeline.codec.ef import read_ef
from pipeline.codec.reader import Malformed, varint
from schemas.types import Txid


class Measure(Struct, frozen=True):
    """What policies ask about a transaction."""

    size: int  # bytes of the raw form
    longest_script: int  # bytes, of scripts that are run: those of its inputs and of the coins they spend
    fee: int  # satoshis; below 0 where outputs are worth more than inputs


class Objection(Struct, frozen=True):
    """Why an endpoint would not take a family."""

    code: str  # a verdict
    own: bool  # about the subject itself; else an ancestor is what it would not take


def measure(ef: bytes) -> Measure | None:
    """Of a transaction in Extended Format, whose inputs carry what they spend; None for other bytes.

    What it spends is its maker's word, which verify compared with the parents. Scripts of outputs are not counted: they
    are run when they are spent, if ever, and data may be of any length. Cost: linear in inputs and outputs.
    """
    try:
        tx, coins = read_ef(ef)
        spent = sum(int.from_bytes(coin[:8], "little") for coin in coins)
        paid = sum(tx.satoshis(vout) for vout in range(len(tx.outs) - 1))
        unlocking = max(varint(tx.raw, at + 36)[0] for at in tx.ins[:-1])
        locking = max(varint(coin, 8)[0] for coin in coins)
    except Malformed:
        return None
    return Measure(len(tx.raw), max(unlocking, locking), spent - paid)


def required(size: int, policy: Policy) -> int:
    """Satoshis for `size` bytes, as nodes judge it: rounded down, and 1 at least where a fee is asked at all."""
    return max(1, size * policy.fee_satoshis // policy.fee_bytes) if policy.fee_satoshis else 0


def objection(policy: Policy, subject: Measure, ancestors: Sequence[Measure]) -> Objection | None:
    """Why an endpoint of this policy would not take a family; None where it may.

    A fee is too low when a member's is, and the family's together too: who judges members one by one refuses that one,
    and who judges families takes it. So only what both refuse is not asked for.
    """
    family = (subject, *ancestors)
    size, fee = sum(each.size for each in family), sum(each.fee for each in family)
    for each in family:
        if _is_large(policy, each):
            return Objection("network.too-large", each is subject)
        if fee < required(size, policy) and each.fee < required(each.size, policy):
            return Objection("policy.fee", each is subject)
    return None


def _is_large(policy: Policy, each: Measure) -> bool:
    large = bool(policy.max_tx_bytes) and each.size > policy.max_tx_bytes
    return large or (bool(policy.max_script_bytes) and each.longest_script > policy.max_script_bytes)


def told(policy: Policy) -> str:
    """In words."""
    return (
        f"{policy.fee_satoshis} satoshis for {policy.fee_bytes} bytes, transactions up to {policy.max_tx_bytes} bytes, "
        f"scripts up to {policy.max_script_bytes}"
    )


def word(txid: Txid, code: str, policy: Policy) -> Reply:
    """What an endpoint says of a transaction by publishing this: a refusal of its own, not the network's."""
    return Reply(txid, "refused", code, f"not asked, since it takes {told(policy)}", "policy")
