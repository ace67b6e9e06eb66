"""A payload, told in words: what `beefline inspect` shows. Nothing is asked of anybody: no header service, no node."""

from collections.abc import Iterator, Mapping

import msgspec
from msgspec import Struct
from rich.markup import escape
from rich.tree import Tree

from ops.forms import template
from pipeline import verify
from pipeline.codec.tx import NULL_OUTPOINT, Tx
from pipeline.outcome import BY_CODE, Condition, Verdict
from pipeline.parse import Payload, parse
from pipeline.policy import Policy
from pipeline.script.engine import STEPS_PER_MS, run_jobs
from schemas.types import Txid, display

FRAMINGS = {"0100beef": "BEEF V1", "0200beef": "BEEF V2", "01010101": "Atomic BEEF"}

LOCKTIME_IS_TIME = 500_000_000
"""From here up a lock time is Unix seconds, below it a block height."""

HOLDS = "values and scripts hold; whether the blocks have these roots, header services must say"


class Input(Struct, frozen=True):
    """An input, and what is known of the coin it spends."""

    outpoint: str  # display txid, dot, index; empty for new coins
    satoshis: int | None  # None: the transaction it spends is not in the payload
    script: str | None  # template of the coin's locking script


class Output(Struct, frozen=True):
    """An output."""

    satoshis: int
    script: str


class Transaction(Struct, frozen=True, kw_only=True):
    """A transaction of the payload."""

    place: int  # among the entries received, as messages count them: "tx 3"
    txid: str
    size: int  # bytes
    unmined: bool  # must be verified: no proof covers it or a descendant of its
    proof: int | None  # which of the proofs covers it
    leaf: int | None  # its place in the block
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    fee_sat: int | None  # None: not all coins it spends are known
    locktime: str  # empty: none


class Proof(Struct, frozen=True):
    """A Merkle path and where it leads."""

    height: int
    levels: int
    root: str
    transactions: tuple[str, ...]


class Inspected(Struct, frozen=True, kw_only=True):
    """A well-formed payload."""

    framing: str
    size: int  # bytes
    subject: str
    unmined: int
    repeats: int  # entries that said again what an earlier one had said
    pruned: int  # entries that have nothing to do with the subject
    transactions: tuple[Transaction, ...]  # ancestors first, subject last
    proofs: tuple[Proof, ...]
    code: str | None  # why it would be rejected, as far as that shows without asking anybody
    message: str | None
    at: str | None


def inspect(beef: bytes, policy: Policy) -> Inspected | Verdict:
    """What a payload holds, or why it is none.

    Cost: that of verifying it; scripts stop at `policy.script_budget_ms`.
    """
    # Nobody is asked here who may know an ancestor that is only named.
    payload = parse(beef, msgspec.structs.replace(policy, txid_only="refuse"))
    if isinstance(payload, Verdict):
        return payload
    refused = refusal(payload, policy)
    roots = dict(payload.roots)
    needed = {tx.index for tx in payload.unmined}
    covered: list[list[str]] = [[] for _ in payload.bumps]
    told: dict[Txid, Transaction] = {}
    for tx in payload.txs:
        told[tx.txid] = _transaction(tx, tx.index in needed, told)
        if tx.proven:
            covered[tx.bump].append(display(tx.txid))
    return Inspected(
        framing=FRAMINGS.get(beef[:4].hex(), ""),
        size=len(beef),
        subject=display(payload.subject.txid),
        unmined=len(payload.unmined),
        repeats=payload.repeats,
        pruned=payload.pruned,
        transactions=tuple(told.values()),
        proofs=tuple(
            Proof(bump.height, bump.depth, display(roots[bump.height]), tuple(txids))
            for bump, txids in zip(payload.bumps, covered, strict=True)
        ),
        code=refused.code if refused else None,
        message=(refused.message or BY_CODE[refused.code].meaning) if refused else None,
        at=refused.at if refused else None,
    )


def refusal(payload: Payload, policy: Policy) -> Verdict | None:
    """Why the payload would be rejected whatever the chain is: values, double spends, scripts."""
    planned = verify.plan(payload, policy)
    if isinstance(planned, Verdict):
        return planned
    results = {each.key: each for each in run_jobs(planned.jobs, policy.script_budget_ms * STEPS_PER_MS)}
    said = verify.verify(payload, {}, results, None, policy, planned)
    # Without answers about roots nothing is valid: what is left is the condition that they are unknown.
    return None if isinstance(said, Condition | verify.Valid) else said


def _transaction(tx: Tx, unmined: bool, told: Mapping[Txid, Transaction]) -> Transaction:
    inputs = tuple(_inputs(tx, told))
    outputs = tuple(Output(tx.satoshis(vout), template(tx.locking(vout))) for vout in range(len(tx.outs) - 1))
    brought = [coin.satoshis for coin in inputs if coin.satoshis is not None]
    complete = len(brought) == len(inputs) and not tx.is_coinbase()
    return Transaction(
        place=tx.index,
        txid=display(tx.txid),
        size=len(tx.raw),
        unmined=unmined,
        proof=tx.bump if tx.proven else None,
        leaf=tx.leaf if tx.proven else None,
        inputs=inputs,
        outputs=outputs,
        fee_sat=sum(brought) - sum(output.satoshis for output in outputs) if complete else None,
        locktime=_locktime(tx),
    )


def _inputs(tx: Tx, told: Mapping[Txid, Transaction]) -> Iterator[Input]:
    for vin in range(len(tx.ins) - 1):
        outpoint = tx.outpoint(vin)
        name = f"{display(outpoint[:32])}.{tx.vout(vin)}" if outpoint != NULL_OUTPOINT else ""
        parent = told.get(outpoint[:32])
        if parent is None:
            yield Input(name, None, None)
        else:
            coin = parent.outputs[tx.vout(vin)]
            yield Input(name, coin.satoshis, coin.script)


def _locktime(tx: Tx) -> str:
    if tx.is_final(0, 0):
        return ""
    return f"{'time' if tx.locktime >= LOCKTIME_IS_TIME else 'height'} {tx.locktime}"


# --- the tree


def tree(found: Inspected, most: int) -> Tree:
    """For a terminal.

    most: proofs, transactions, and inputs or outputs of one, that are shown; of more the first ones.
    """
    transactions = f"{count(len(found.transactions), 'transaction')}, {found.unmined} un-mined"
    root = Tree(f"[bold]{found.framing}[/], {found.size:,} bytes: {transactions}", highlight=False)
    root.add(f"subject {found.subject}")
    if found.repeats or found.pruned:
        root.add(f"left aside: {count(found.repeats, 'repeat')}, {found.pruned} unrelated to the subject")
    for number, proof in enumerate(found.proofs[:most]):
        branch = root.add(f"[bold]proof {number}[/]  block {proof.height:,}, {count(proof.levels, 'level')}")
        branch.add(f"root {proof.root}")
    _rest(root, len(found.proofs), most, "proof")
    for transaction in found.transactions[:most]:
        _show(root, transaction, most)
    _rest(root, len(found.transactions), most, "transaction")
    if found.code:
        where = f" at {found.at}" if found.at else ""
        root.add(f"[red]rejected[/]  {found.code}{where}: {escape(found.message or '')}")
    else:
        root.add(f"[green]{HOLDS}[/]")
    return root


def _show(root: Tree, transaction: Transaction, most: int) -> None:
    about = [f"{transaction.size:,} bytes", standing(transaction)]
    if transaction.fee_sat is not None:
        about.append(fee(transaction.fee_sat, transaction.size))
    if transaction.locktime:
        about.append(f"locked until {transaction.locktime}")
    branch = root.add(f"[bold]tx {transaction.place}[/]  {transaction.txid}  {', '.join(about)}")
    for number, coin in enumerate(transaction.inputs[:most]):
        value = "not in the payload" if coin.satoshis is None else f"{coin.satoshis:,} sat  {escape(coin.script or '')}"
        branch.add(f"[cyan]input {number}[/]  {coin.outpoint or 'new coins'}" + (f"  {value}" if coin.outpoint else ""))
    _rest(branch, len(transaction.inputs), most, "input")
    for number, output in enumerate(transaction.outputs[:most]):
        branch.add(f"[cyan]output {number}[/]  {output.satoshis:,} sat  {escape(output.script)}")
    _rest(branch, len(transaction.outputs), most, "output")


def _rest(branch: Tree, number: int, most: int, what: str) -> None:
    if number > most:
        branch.add(f"… {count(number - most, f'more {what}')}")


def standing(transaction: Transaction) -> str:
    """How a transaction stands to the chain, as the payload says."""
    if transaction.proof is not None:
        return f"proven by proof {transaction.proof}, leaf {transaction.leaf}"
    # What a mined transaction spends is mined, whether or not the payload shows where.
    return "un-mined" if transaction.unmined else "mined before a proven one"


def fee(sat: int, size: int) -> str:
    """A fee in satoshis, and for each 1,000 bytes; two digits at least, since rates below one are in use."""
    rate = 1000 * sat / size
    return f"fee {sat:,} sat ({rate:,.0f} per kB)" if abs(rate) >= 10 else f"fee {sat:,} sat ({rate:.2g} per kB)"


def count(number: int, what: str) -> str:
    """`1 output`, `2,000 outputs`."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
