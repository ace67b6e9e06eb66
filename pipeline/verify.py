"""A payload against the rules and the chain: valid, invalid, or not to be said yet (BRC-67, and stricter).

Two pure steps with the waiting between them: `plan` names what has to be asked, `verify` decides with the answers.
A definite fault outranks whatever is unknown, so that a bad payload is never kept waiting for a tracker.
"""

from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct

from pipeline.chain.answer import Answer, RootAt, Tip
from pipeline.codec.ef import write_ef
from pipeline.codec.tx import NULL_OUTPOINT, Tx
from pipeline.outcome import Condition, Verdict
from pipeline.parse import Payload
from pipeline.policy import MAX_SATOSHIS, Policy, required_fee
from pipeline.script.engine import ScriptJob, ScriptResult, SpentCoin, rules_for
from pipeline.script.opcodes import SIGNATURE_STEPS
from pipeline.script.rules import CHRONICLE, ScriptFault
from pipeline.script.sighash import Digests
from pipeline.script.templates import Checks, judge, match
from schemas.flow import Unmined
from schemas.types import Outpoint, Txid, display

ScriptResults = Mapping[int, ScriptResult]
"""What the sandbox said, by the key of the job."""


class Plan(Struct, frozen=True):
    """What has to be found out before a payload can be judged."""

    roots: tuple[RootAt, ...]  # for the chain trackers
    jobs: tuple[ScriptJob, ...]  # for the sandbox


class Valid(Struct, frozen=True):
    """The payload's own history checks out. It says nothing about coins spent elsewhere."""

    txid: Txid
    unmined: tuple[Unmined, ...]  # ancestors first, subject last; empty when the subject is proven
    raw: bytes  # the subject
    spends: bytes  # the subject's outpoints, 36 bytes each, in input order
    fee_sat: int  # satoshis, of the subject alone; -1 when it is proven and its parents are absent
    proven_height: int = -1  # block height when the subject carries its own proof


def plan(payload: Payload, policy: Policy, tip: Tip | None = None) -> Plan | Verdict:
    """What to ask about a payload, or why there is no need to.

    tip: the best header; without one the next block is taken to follow the newest rules.
    Cost: linear in inputs and outputs; no script runs.
    """
    coins = _coins(payload)
    refused = _refuse_spends(payload) or _refuse_values(payload, coins, policy)
    if refused:
        return refused
    assigned = _assign(payload, coins, tip, policy)
    return assigned if isinstance(assigned, Verdict) else Plan(payload.roots, tuple(assigned.jobs))


def verify(
    payload: Payload,
    answers: Mapping[RootAt, Answer],
    script_results: ScriptResults,
    tip: Tip | None,
    policy: Policy,
) -> Valid | Verdict | Condition:
    """Judge one payload against the chain we believe in.

    answers: the quorum's word on each root of the plan; absent is unknown.
    script_results: by key, one for each job of the plan.
    tip: height and median time past of the best header; None when nobody says.
    Cost: linear in inputs and outputs, and at most `policy.inline_signatures` verifications.
    A caller may not take `Valid` to mean unspent.

    Raises:
        KeyError: a job of the plan has no result.
    """
    coins = _coins(payload)
    refused = (
        _refuse_spends(payload)
        or _refuse_values(payload, coins, policy)
        or _refuse_anchors(payload, answers, tip, policy)
        or _refuse_scripts(payload, coins, script_results, tip, policy)
    )
    if refused:
        return refused
    return _undecided(payload, answers, tip) or _accept(payload, coins)


# --- what needs nobody's answer


def _coins(payload: Payload) -> list[list[bytes]]:
    """For each un-mined transaction the outputs it spends, as their transactions hold them."""
    return [
        [parent.output(tx.vout(vin)) for vin, parent in enumerate(tx.parents) if parent is not None]
        for tx in payload.unmined
    ]


def _refuse_spends(payload: Payload) -> Verdict | None:
    """SPEND-1: no outpoint is spent twice, whether within a transaction or by two of them."""
    spent: dict[Outpoint, int] = {}
    for tx in payload.txs:
        raw = tx.raw
        for vin, at in enumerate(tx.ins[:-1]):
            outpoint = raw[at : at + 36]
            if outpoint in spent and outpoint != NULL_OUTPOINT:
                return _verdict("structure.double-spend", f"also spent by tx {spent[outpoint]}", tx, vin)
            spent[outpoint] = tx.index
    return None


def _refuse_values(payload: Payload, coins: Sequence[Sequence[bytes]], policy: Policy) -> Verdict | None:
    """VALUE-1: no un-mined transaction makes more than it spends; and the floor for fees, where there is one."""
    fees = sizes = 0
    for tx, spent in zip(payload.unmined, coins, strict=True):
        made = 0
        for vout in range(len(tx.outs) - 1):
            satoshis = tx.satoshis(vout)
            made += satoshis
            if satoshis > MAX_SATOSHIS or made > MAX_SATOSHIS:
                return _verdict("value.range", f"{made} satoshis with output {vout}", tx)
        brought = sum([int.from_bytes(coin[:8], "little") for coin in spent])
        if brought > MAX_SATOSHIS:
            return _verdict("value.range", f"{brought} satoshis in its inputs", tx)
        if made > brought:
            return _verdict("value.inflation", f"makes {made} satoshis of {brought}", tx)
        if policy.fee_sat_per_kb:
            fees, sizes = fees + brought - made, sizes + len(tx.raw)
            if policy.fee_rule == "each":
                fees, sizes = brought - made, len(tx.raw)
            last = tx is payload.unmined[-1]
            if (last or policy.fee_rule == "each") and fees < (floor := required_fee(sizes, policy.fee_sat_per_kb)):
                return _verdict("policy.fee", f"pays {fees} satoshis; {floor} for {sizes} bytes", tx)
    return None


# --- the chain


def _refuse_anchors(
    payload: Payload, answers: Mapping[RootAt, Answer], tip: Tip | None, policy: Policy
) -> Verdict | None:
    """ANCHOR-1: no root was denied. What lies above the best header we know cannot be denied yet."""
    for height, root in payload.roots:
        if answers.get((height, root)) is Answer.NO and (tip is None or height <= tip.height):
            proven = next(tx for tx in payload.txs if tx.proven and payload.bumps[tx.bump].height == height)
            return _verdict("anchor.wrong-root", f"height {height} has another root than {display(root)}", proven)
    if tip is not None:
        for tx, vin, height in _spent_coinbases(payload):
            if height <= tip.height and tip.height + 1 - height < policy.coinbase_maturity:
                return _verdict("anchor.immature", f"made at height {height}, the best is {tip.height}", tx, vin)
    return None


def _spent_coinbases(payload: Payload) -> Iterator[tuple[Tx, int, int]]:
    """Un-mined transactions that spend new coins: which input, and the height of the coins."""
    for tx in payload.unmined:
        for vin, parent in enumerate(tx.parents):
            if parent is not None and parent.proven and parent.is_coinbase():
                yield tx, vin, payload.bumps[parent.bump].height


def _undecided(payload: Payload, answers: Mapping[RootAt, Answer], tip: Tip | None) -> Condition | None:
    """What keeps a payload without fault from being valid now."""
    for height, root in payload.roots:
        said = answers.get((height, root), Answer.UNKNOWN)
        if said is not Answer.YES:
            above = tip is not None and height > tip.height
            return Condition("anchor.above-tip" if above else "anchor.unknown", f"height {height}")
    if tip is None:
        needed = any(not tx.is_final(0, 0) for tx in payload.unmined) or any(_spent_coinbases(payload))
        return Condition("anchor.unknown", "the best header is not known") if needed else None
    for tx in payload.unmined:
        if not tx.is_final(tip.height + 1, tip.median_time_past):
            return Condition("finality.not-final", f"locked until {tx.locktime}", _where(tx))
    return None


# --- scripts


class _Inline(Struct, gc=False):
    """An input a template covers, to be judged here."""

    place: int  # of the transaction among the un-mined
    coin: SpentCoin
    locking: bytes
    checks: Checks


class _Assignment(Struct, gc=False):
    """Who judges which input."""

    inline: list[_Inline]
    jobs: list[ScriptJob]
    chronicle: bool  # whether the next block follows Chronicle's rules


def _assign(
    payload: Payload, coins: Sequence[Sequence[bytes]], tip: Tip | None, policy: Policy
) -> _Assignment | Verdict:
    """Templates here, everything else in the sandbox; all of it there when it is very much.

    The same payload and policy give the same assignment, so that `verify` expects the results `plan` asked for.
    """
    next_height = tip.height + 1 if tip else policy.chronicle_height
    chronicle = next_height >= policy.chronicle_height
    inline: list[_Inline] = []
    spent: list[list[SpentCoin]] = []
    foreign: list[list[SpentCoin]] = []
    weight = 0
    for place, tx in enumerate(payload.unmined):
        spent.append([])
        foreign.append([])
        for vin, parent in enumerate(tx.parents):
            assert parent is not None  # `parse` refuses an un-mined transaction whose parents are not all there
            height = payload.bumps[parent.bump].height if parent.proven else next_height
            output = coins[place][vin]
            unlocking, locking = tx.unlocking(vin), parent.locking(tx.vout(vin))
            if max(len(unlocking), len(locking)) > policy.max_script_bytes:
                return _verdict("policy.limits", f"a script of more than {policy.max_script_bytes} bytes", tx, vin)
            coin = SpentCoin(vin, output, height >= policy.genesis_height, height >= policy.chronicle_height)
            spent[place].append(coin)
            checks = match(unlocking, locking, coin.after_genesis)
            if checks is None:
                foreign[place].append(coin)
            else:
                inline.append(_Inline(place, coin, locking, checks))
                weight += _weight(checks, locking, tx)
    if weight > policy.inline_signatures:
        inline, foreign = [], spent
    jobs = [
        ScriptJob(place, tx.raw, tuple(foreign[place]), chronicle, policy.script_memory_bytes)
        for place, tx in enumerate(payload.unmined)
        if foreign[place]
    ]
    return _Assignment(inline, jobs, chronicle)


def _weight(checks: Checks, locking: bytes, tx: Tx) -> int:
    # In signature verifications. The original digest goes through the whole transaction and script for each input.
    original = [
        Digests(tx).steps(locking, signature[-1]) for signature in checks.signatures if signature[-1] & CHRONICLE
    ]
    return len(checks.keys) + sum(original) // SIGNATURE_STEPS + (len(locking) >> 16)


def _refuse_scripts(
    payload: Payload,
    coins: Sequence[Sequence[bytes]],
    script_results: ScriptResults,
    tip: Tip | None,
    policy: Policy,
) -> Verdict | None:
    """SCRIPT-1: every input satisfies its parent's real script and value."""
    assigned = _assign(payload, coins, tip, policy)
    if isinstance(assigned, Verdict):
        return assigned
    digests: dict[int, Digests] = {}
    for found in assigned.inline:
        tx, coin = payload.unmined[found.place], found.coin
        if found.place not in digests:
            digests[found.place] = Digests(tx)
        rules = rules_for(tx, coin, assigned.chronicle)
        try:
            judge(found.checks, digests[found.place], coin.vin, coin.output, found.locking, rules)
        except ScriptFault as fault:
            return _verdict(fault.code, fault.message, tx, coin.vin)
    for job in assigned.jobs:
        result = script_results[job.key]
        if result.code:
            return _verdict(result.code, result.message, payload.unmined[job.key], result.vin)
    return None


# --- answers


def _accept(payload: Payload, coins: Sequence[Sequence[bytes]]) -> Valid:
    subject = payload.subject
    unmined = tuple(
        Unmined(tx.txid, write_ef(tx, spent), tx.spends(), len(tx.outs) - 1)
        for tx, spent in zip(payload.unmined, coins, strict=True)
    )
    height = payload.bumps[subject.bump].height if subject.proven else -1
    return Valid(subject.txid, unmined, subject.raw, subject.spends(), _fee(subject), height)


def _fee(tx: Tx) -> int:
    brought = 0
    for vin, parent in enumerate(tx.parents):
        if parent is None:
            return -1
        brought += parent.satoshis(tx.vout(vin))
    return brought - sum([tx.satoshis(vout) for vout in range(len(tx.outs) - 1)])


def _where(tx: Tx, vin: int = -1) -> str:
    return f"tx {tx.index}" if vin < 0 else f"tx {tx.index} input {vin}"


def _verdict(code: str, message: str, tx: Tx, vin: int = -1) -> Verdict:
    # Places are those of the bytes at hand; a payload that was sorted has others than its sender knows.
    return Verdict(code, f"{message} (txid {display(tx.txid)})", _where(tx, vin))
