"""A payload against the rules and the chain: valid, invalid, or not to be said yet (BRC-67, and stricter).

Two pure steps with the waiting between them: `plan` names what has to be asked, `verify` decides with the answers.
A definite fault outranks whatever is unknown, so that a bad payload is never kept waiting for a tracker.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, product

from msgspec import Struct

from pipeline.chain.answer import Answer, RootAt, Tip
from pipeline.codec.ef import write_ef
from pipeline.codec.quick import quick_coins
from pipeline.codec.tx import NULL_OUTPOINT, Tx
from pipeline.member import member_of
from pipeline.outcome import Condition, Verdict
from pipeline.parse import Payload
from pipeline.policy import MAX_SATOSHIS, Policy, required_fee
from pipeline.script.engine import ScriptJob, ScriptResult, SpentCoin
from pipeline.script.opcodes import SIGNATURE_STEPS
from pipeline.script.rules import CHRONICLE, Rules, ScriptFault
from pipeline.script.sighash import Digests
from pipeline.script.signature import is_true
from pipeline.script.templates import LONGEST_PAYMENT, NO_KEY_FITS, Checks, judge, match, payments
from schemas.flow import Member
from schemas.types import Outpoint, Txid, display

ScriptResults = Mapping[int, ScriptResult]
"""What the sandbox said, by the key of the job."""


class Plan(Struct, frozen=True, gc=False):
    """What has to be found out before a payload can be judged."""

    roots: tuple[RootAt, ...]  # for the chain trackers
    jobs: tuple[ScriptJob, ...]  # for the sandbox
    work: "Work"  # what `verify` goes on from


class Work(Struct, gc=False):
    """What was computed on the way."""

    coins: list[list[bytes]]  # for each un-mined transaction the outputs it spends, as their transactions hold them
    fee_sat: int  # of the last un-mined transaction
    inline: list["Inline | Signed"]  # inputs that templates cover, and whole payments of the commonest, in order
    new_coins: list[tuple[Tx, int, int]]  # spent by whom, which input, made at which height


class Valid(Struct, frozen=True, gc=False):
    """The payload's own history checks out. It says nothing about coins spent elsewhere."""

    payload: Payload
    coins: Sequence[Sequence[bytes]]  # for each un-mined transaction the outputs it spends
    fee_sat: int  # satoshis, of the subject alone; -1 when it is proven and its parents are absent
    proven_height: int = -1  # block height when the subject carries its own proof

    @property
    def txid(self) -> Txid:
        """The subject's."""
        return self.payload.subject.txid

    def extended(self) -> Iterator[tuple[Txid, bytes]]:
        """Each un-mined transaction in Extended Format, ancestors first, subject last; none when it is proven."""
        for tx, spent in zip(self.payload.unmined, self.coins, strict=True):
            yield tx.txid, write_ef(tx, spent)

    def members(self) -> tuple[Member, ...]:
        """The un-mined transactions and, last, the subject, by their places in the bytes that were parsed."""
        txs = self.payload.unmined or [self.payload.subject]
        return tuple([member_of(tx) for tx in txs])


def plan(payload: Payload, policy: Policy, tip: Tip | None = None) -> Plan | Verdict:
    """What to ask about a payload, or why there is no need to.

    tip: the best header; without one the next block is taken to follow the newest rules.
    Cost: linear in inputs and outputs; no script runs.

    Raises:
        ValueError: ancestors are missing; it is not said of such a payload what it would take to believe it (NAMED-1).
    """
    if payload.missing:
        raise ValueError(f"{len(payload.missing)} ancestors are named alone: the payload is to be completed first")
    if refused := _refuse_spends(payload):
        return refused
    valued = _refuse_values(payload, policy)
    if isinstance(valued, Verdict):
        return valued
    return _assign(payload, *valued, tip, policy)


def verify(
    payload: Payload,
    answers: Mapping[RootAt, Answer],
    script_results: ScriptResults,
    tip: Tip | None,
    policy: Policy,
    planned: Plan | None = None,
) -> Valid | Verdict | Condition:
    """Judge one payload against the chain we believe in.

    answers: the quorum's word on each root of the plan; absent is unknown.
    script_results: by key, one for each job of the plan.
    tip: height and median time past of the best header; None when nobody says.
    planned: what `plan` said of this payload with this tip and policy, which need not be worked out again then.
    Cost: linear in inputs and outputs, and at most `policy.inline_signatures` verifications.
    A caller may not take `Valid` to mean unspent.

    Raises:
        KeyError: a job of the plan has no result.
        ValueError: as `plan`.
    """
    found = planned or plan(payload, policy, tip)
    if isinstance(found, Verdict):
        return found
    return (
        _refuse_anchors(payload, found.work, answers, tip, policy)
        or _refuse_scripts(payload, found, script_results)
        or _undecided(payload, found.work, answers, tip)
        or _accept(payload, found.work)
    )


# --- what needs nobody's answer


def _refuse_spends(payload: Payload) -> Verdict | None:
    """SPEND-1: no outpoint is spent twice, whether within a transaction or by two of them."""
    outpoints = [tx.raw[at : at + 36] for tx in payload.txs for at in tx.ins[:-1]]
    if len(set(outpoints)) == len(outpoints):
        return None
    spent: dict[Outpoint, int] = {}
    for tx in payload.txs:
        for vin in range(len(tx.ins) - 1):
            outpoint = tx.outpoint(vin)
            if outpoint in spent and outpoint != NULL_OUTPOINT:
                return _verdict("structure.double-spend", f"also spent by tx {spent[outpoint]}", tx, vin)
            spent[outpoint] = tx.index
    return None


def _refuse_values(payload: Payload, policy: Policy) -> tuple[list[list[bytes]], int] | Verdict:
    """VALUE-1: no un-mined transaction makes more than it spends; and the floor for fees, where there is one.

    Else the coins of each, and what the last one pays.
    """
    coins: list[list[bytes]] = []
    fee = fees = sizes = 0
    for tx in payload.unmined:
        spent, brought, made = quick_coins(tx.raw, tx.ins, tx.outs, tx.parents) or _coins(tx)
        coins.append(spent)
        if made > MAX_SATOSHIS:
            return _verdict("value.range", f"{made} satoshis in its outputs", tx)
        if brought > MAX_SATOSHIS:
            return _verdict("value.range", f"{brought} satoshis in its inputs", tx)
        if made > brought:
            return _verdict("value.inflation", f"makes {made} satoshis of {brought}", tx)
        fee = brought - made
        if policy.fee_sat_per_kb:
            fees, sizes = fees + fee, sizes + len(tx.raw)
            if policy.fee_rule == "each":
                fees, sizes = fee, len(tx.raw)
            last = tx is payload.unmined[-1]
            if (last or policy.fee_rule == "each") and fees < (floor := required_fee(sizes, policy.fee_sat_per_kb)):
                return _verdict("policy.fee", f"pays {fees} satoshis; {floor} for {sizes} bytes", tx)
    return coins, fee


def _coins(tx: Tx) -> tuple[list[bytes], int, int]:
    """The outputs an un-mined transaction spends, as they stand; their satoshis, and those of its own outputs."""
    raw = tx.raw
    spent = []
    brought = 0
    for at, parent in zip(tx.ins, tx.parents, strict=False):
        assert parent is not None  # `parse` refuses an un-mined transaction whose parents are not all there
        outs, vout = parent.outs, int.from_bytes(raw[at + 32 : at + 36], "little")
        coin = parent.raw[outs[vout] : outs[vout + 1]]
        spent.append(coin)
        brought += int.from_bytes(coin[:8], "little")
    return spent, brought, sum([int.from_bytes(raw[at : at + 8], "little") for at in tx.outs[:-1]])


# --- the chain


def _refuse_anchors(
    payload: Payload, work: Work, answers: Mapping[RootAt, Answer], tip: Tip | None, policy: Policy
) -> Verdict | None:
    """ANCHOR-1: no root was denied. What lies above the best header we know cannot be denied yet."""
    for asked in payload.roots:
        if answers.get(asked) is Answer.NO and (tip is None or asked[0] <= tip.height):
            height, root = asked
            proven = next(tx for tx in payload.txs if tx.proven and payload.bumps[tx.bump].height == height)
            return _verdict("anchor.wrong-root", f"height {height} has another root than {display(root)}", proven)
    if tip is not None:
        for tx, vin, height in work.new_coins:
            if height <= tip.height and tip.height + 1 - height < policy.coinbase_maturity:
                return _verdict("anchor.immature", f"made at height {height}, the best is {tip.height}", tx, vin)
    return None


def _undecided(payload: Payload, work: Work, answers: Mapping[RootAt, Answer], tip: Tip | None) -> Condition | None:
    """What keeps a payload without fault from being valid now."""
    for asked in payload.roots:
        if answers.get(asked) is not Answer.YES:
            above = tip is not None and asked[0] > tip.height
            return Condition("anchor.above-tip" if above else "anchor.unknown", f"height {asked[0]}")
    if tip is None:
        needed = work.new_coins or any(not tx.is_final(0, 0) for tx in payload.unmined)
        return Condition("anchor.unknown", "the best header is not known") if needed else None
    for tx in payload.unmined:
        if tx.raw[-4:] != _NO_LOCK and not tx.is_final(tip.height + 1, tip.median_time_past):
            return Condition("finality.not-final", f"locked until {tx.locktime}", _where(tx))
    return None


_NO_LOCK, _VERSION_1 = bytes(4), b"\x01\0\0\0"


# --- scripts


class Signed(Struct, gc=False):
    """A transaction of which nothing is left to judge but one signature an input."""

    place: int  # among the un-mined
    signatures: list[tuple[bytes, bytes, bytes]]  # by input: DER, digest, key


class Inline(Struct, gc=False):
    """An input a template covers, to be judged here."""

    place: int  # of the transaction among the un-mined
    vin: int
    coin: bytes
    locking: bytes
    checks: Checks
    rules: Rules


def _assign(
    payload: Payload, coins: list[list[bytes]], fee: int, tip: Tip | None, policy: Policy, *, whole: bool = True
) -> Plan | Verdict:
    """Templates here, everything else in the sandbox; all of it there when it is very much.

    whole: ordinary payments may be looked at as one, without what the sandbox would need of them.
    """
    next_height = tip.height + 1 if tip else policy.chronicle_height
    chronicle = next_height >= policy.chronicle_height
    most = policy.max_script_bytes
    inline: list[Inline | Signed] = []
    foreign: list[tuple[int, int, Rules]] = []
    new_coins: list[tuple[Tx, int, int]] = []
    weight = 0  # in signature verifications; the original digest goes through the whole transaction for each input
    whole = whole and most >= LONGEST_PAYMENT
    for place, tx in enumerate(payload.unmined):
        raw, ins = tx.raw, tx.ins
        if whole and type(ins) is list and (signed := payments(raw, ins, tx.outs[0], coins[place])) is not None:
            inline.append(Signed(place, signed))
            weight += len(signed)
            for vin, parent in enumerate(tx.parents):
                if parent is not None and parent.leaf == 0 and parent.is_coinbase():
                    new_coins.append((tx, vin, payload.bumps[parent.bump].height))
            continue
        relaxed = chronicle and raw[:4] != _VERSION_1 and tx.version > 1
        for vin, coin in enumerate(coins[place]):
            parent = tx.parents[vin]
            assert parent is not None
            at = ins[vin] + 36
            unlocking = raw[at + 1 : ins[vin + 1] - 4] if raw[at] < 0xFD else tx.unlocking(vin)
            locking = coin[9:] if coin[8] < 0xFD else parent.locking(tx.vout(vin))
            if len(unlocking) > most or len(locking) > most:
                return _verdict("policy.limits", f"a script of more than {most} bytes", tx, vin)
            height = next_height
            if parent.bump >= 0:
                height = payload.bumps[parent.bump].height
                if parent.leaf == 0 and parent.is_coinbase():
                    new_coins.append((tx, vin, height))
            rules = _RULES[height >= policy.genesis_height, height >= policy.chronicle_height, chronicle, relaxed]
            checks = match(unlocking, locking, rules.after_genesis)
            if checks is None:
                foreign.append((place, vin, rules))
            else:
                inline.append(Inline(place, vin, coin, locking, checks, rules))
                weight += len(checks.keys) + (len(locking) >> 16)
                for signature in checks.signatures:
                    if signature[-1] & CHRONICLE:
                        weight += Digests(tx).steps(locking, signature[-1]) // SIGNATURE_STEPS
    if weight > policy.inline_signatures:
        if whole:
            return _assign(payload, coins, fee, tip, policy, whole=False)
        foreign += [(each.place, each.vin, each.rules) for each in inline if isinstance(each, Inline)]
        inline = []
    jobs = _jobs(payload, coins, sorted(foreign), policy) if foreign else ()
    return Plan(payload.roots, jobs, Work(coins, fee, inline, new_coins))


_RULES = {flags: Rules(*flags) for flags in product((False, True), repeat=4)}
"""All there are: making one costs more than finding it."""


def _jobs(
    payload: Payload, coins: list[list[bytes]], foreign: list[tuple[int, int, Rules]], policy: Policy
) -> tuple[ScriptJob, ...]:
    """One job a transaction, in order. foreign: transaction, input and its rules, sorted."""
    jobs = []
    for place, inputs in groupby(foreign, lambda each: each[0]):
        spent = [(vin, rules) for _, vin, rules in inputs]
        jobs.append(
            ScriptJob(
                place,
                payload.unmined[place].raw,
                tuple(SpentCoin(vin, coins[place][vin], r.after_genesis, r.after_chronicle) for vin, r in spent),
                spent[0][1].chronicle,
                policy.script_memory_bytes,
            )
        )
    return tuple(jobs)


def _refuse_scripts(payload: Payload, planned: Plan, script_results: ScriptResults) -> Verdict | None:
    """SCRIPT-1: every input satisfies its parent's real script and value."""
    place, digests = -1, None
    for found in planned.work.inline:
        if isinstance(found, Signed):
            for vin, (der, digest, key) in enumerate(found.signatures):
                if not is_true(der, digest, key):
                    return _verdict("script.false", NO_KEY_FITS, payload.unmined[found.place], vin)
            continue
        if found.place != place or digests is None:
            place = found.place
            digests = Digests(payload.unmined[place])
        try:
            judge(found.checks, digests, found.vin, found.coin, found.locking, found.rules)
        except ScriptFault as fault:
            return _verdict(fault.code, fault.message, payload.unmined[place], found.vin)
    for job in planned.jobs:
        result = script_results[job.key]
        if result.code:
            return _verdict(result.code, result.message, payload.unmined[job.key], result.vin)
    return None


# --- answers


def _accept(payload: Payload, work: Work) -> Valid:
    subject = payload.subject
    if not subject.proven:
        return Valid(payload, work.coins, work.fee_sat)
    return Valid(payload, work.coins, _fee(subject), payload.bumps[subject.bump].height)


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
