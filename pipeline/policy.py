"""What this installation takes, where the rules of the field leave a choice or name no bound.

`form` decides what a payload may look like, never what is true: both forms make the same checks of proofs, scripts,
values and chain.

| found in a payload | strict | lenient |
|---|---|---|
| a transaction twice, with equal content and proof | `structure.repeated` | the first stands |
| a child before its parent | `structure.order` | sorted |
| a transaction the subject does not descend from | `structure.unrelated` | dropped |
| a txid alone that no un-mined transaction spends | `structure.txid-only` | dropped |
| a proof no transaction uses | `structure.unused-bump` | dropped |
| a node of a proof that no leaf needs; a path of one level that holds a whole block | `structure.bump-leaf` | taken |
| an ordinary transaction in a coinbase's place | `structure.coinbase` | taken |

A txid alone that an un-mined transaction does spend names an ancestor (BRC-96). `txid_only` says what becomes of the
payload, in either form: refused, or completed from what this installation verified itself.

A leaf without the flag that says "this is a transaction of mine" is taken by both: many honest senders do not set it,
and its hash is what counts.
"""

from typing import Annotated, Literal

from msgspec import Struct

from schemas.types import why


class Policy(Struct, frozen=True):
    """A section of the settings. The two heights come before everything else on a chain that is not mainnet."""

    form: Annotated[
        Literal["strict", "lenient"],
        why("Honest senders repeat ancestors, leave proofs unflagged and do not sort; form costs no safety."),
    ] = "lenient"
    txid_only: Annotated[
        Literal["refuse", "resolve"],
        why("`resolve` looks for named ancestors in what was verified here; it costs an index on disk."),
    ] = "refuse"
    max_named: Annotated[
        int, why("Ancestors a payload may name: each may stand in a record of its own, 3 ms to fetch.", ge=1)
    ] = 100
    max_named_bytes: Annotated[
        int,
        why(
            "Put in place of names: a record of 300 bytes would else be carried on as 8 MB, once for each context.",
            ge=0,
        ),
    ] = 1 << 20
    max_payload_bytes: Annotated[
        int, why("Taken from `topics.max_payload_bytes`: what the broker carries.", ge=1024, le=64 << 20)
    ] = 8 << 20
    max_transactions: Annotated[int, why("The deepest ancestries in use have some hundreds.", ge=1, le=100_000)] = (
        10_000
    )
    max_bumps: Annotated[int, why("One for each block an ancestry touches; several transactions share one.", ge=1)] = (
        4_096
    )
    max_inputs: Annotated[
        int,
        why("Of all un-mined transactions: each holds its context up for 14 us, these for 0.9 s.", ge=1),
    ] = 60_000
    max_outputs: Annotated[
        int,
        why("Of the subject: each may become a coin and an effect; these hold their context up for 0.4 s.", ge=1),
    ] = 20_000
    max_depth: Annotated[
        int, why("Un-mined generations; every one of them must be mined before the subject can be.", ge=1)
    ] = 10_000
    max_script_bytes: Annotated[
        int, why("Of one script that is run; what mining nodes relay by default. Data nobody runs may be longer.", ge=1)
    ] = 500_000
    script_budget_ms: Annotated[
        int, why("Counted in steps, 500 a millisecond: one verdict on every machine, before its clock decides.", ge=1)
    ] = 5_000
    script_memory_bytes: Annotated[
        int, why("Everything on both stacks of a script: what mining nodes allow by default.", ge=1 << 10, le=400 << 20)
    ] = 100_000_000
    inline_signatures: Annotated[
        int, why("Checked in the stage itself, 12 ms; a payload that needs more goes to the sandbox.", ge=0)
    ] = 256
    fee_sat_per_kb: Annotated[int, why("0 asks for no fee: endpoints have their own floor, and it moves.", ge=0)] = 0
    fee_rule: Annotated[
        Literal["each", "cumulative"], why("`cumulative`: a child may pay for its un-mined ancestors.")
    ] = "cumulative"
    genesis_height: Annotated[int, why("Mainnet, 4 February 2020; coins from here on run by Genesis rules.", ge=0)] = (
        620_538
    )
    chronicle_height: Annotated[int, why("Mainnet, 7 April 2026; restores opcodes for coins from here on.", ge=0)] = (
        943_816
    )
    coinbase_maturity: Annotated[int, why("Blocks before new coins may be spent: a rule of the network.", ge=1)] = 100


MAX_SATOSHIS = 21 * 10**14


def required_fee(size: int, sat_per_kb: int) -> int:
    """Satoshis that `size` bytes (raw form) must pay: rounded down, 1 at least when a rate is set.

    Nodes judge this way; who builds a transaction rounds up.
    """
    return max(1, size * sat_per_kb // 1000) if sat_per_kb and size else 0
