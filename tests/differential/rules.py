"""Why the TypeScript SDK says something else than we do: a table of named rules.

A rule names our outcome, theirs, and what in the payload makes them differ, found from its bytes. The page
docs/decisions/differences.md is made of it: `python -m tests.differential.rules`.
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property

from msgspec import Struct

from pipeline.chain.answer import Answer, RootAt, Tip
from pipeline.codec.beef import ATOMIC, Envelope, read_beef
from pipeline.codec.ef import read_ef
from pipeline.codec.reader import Malformed, varint, write_varint
from pipeline.codec.tx import FINAL_SEQUENCE, Tx
from pipeline.outcome import Condition, Verdict
from pipeline.parse import Payload, parse
from pipeline.policy import MAX_SATOSHIS, Policy
from pipeline.script.form import instructions
from pipeline.verify import Valid
from tests.differential.sdk import HERE, NO_ANSWER, Opinion

LENIENT = Policy()


class Case(Struct, frozen=True, dict=True):
    """One payload, judged by both."""

    label: str
    beef: bytes
    answers: Mapping[RootAt, Answer]
    tip: Tip
    ours: Valid | Verdict | Condition
    theirs: Opinion

    @property
    def differ(self) -> bool:
        """Whether one of us takes it and the other does not, or what was taken is not the same."""
        if isinstance(self.ours, Condition):
            return True  # they know no third answer
        if isinstance(self.ours, Verdict):
            return self.theirs.valid or self.theirs.error == NO_ANSWER
        ef = dict(self.ours.extended()).get(self.ours.txid, b"")
        return (self.theirs.txid, self.theirs.ef) != (self.ours.txid, ef)

    @cached_property
    def envelope(self) -> Envelope | None:
        """The parts, where they can be told apart."""
        try:
            return read_beef(self.beef, 10_000, 10_000)
        except Malformed:
            return None

    @cached_property
    def payload(self) -> Payload | None:
        """What holds together, leniently."""
        found = parse(self.beef, LENIENT)
        return found if isinstance(found, Payload) else None

    @property
    def named_byte(self) -> int:
        """Where our verdict points in the bytes."""
        assert isinstance(self.ours, Verdict)
        return int(self.ours.at.rsplit("byte ", 1)[1])

    @property
    def named_tx(self) -> Tx | None:
        """The transaction our verdict points at."""
        assert isinstance(self.ours, Verdict)
        if self.envelope is None or not self.ours.at.startswith("tx "):
            return None
        place = int(self.ours.at.split()[1])
        return next((tx for tx in self.envelope.txs if tx.index == place), None)


Node = tuple[int, int]
"""Of a path: offset and flags."""


def paths(beef: bytes) -> tuple[list[list[list[Node]]], int]:
    """The nodes of all proofs by level, whatever they say, as far as they can be read; and where that ends."""
    found: list[list[list[Node]]] = []
    at = 40 if beef.startswith(ATOMIC) else 4
    try:
        number, at = varint(beef, at)
        for _ in range(number):
            _, at = varint(beef, at)
            height, at = varint(beef, at)
            found.append([])
            for _ in range(height):
                size, at = varint(beef, at)
                found[-1].append([])
                for _ in range(size):
                    offset, at = varint(beef, at)
                    flags, at = varint(beef, at)
                    found[-1][-1].append((offset, flags))
                    at += 0 if flags & 1 else 32
    except Malformed:
        return found, len(beef)
    return found, at


def visited(case: Case) -> set[bytes]:
    """The transactions the SDK looks at: from the subject down to those that are a leaf of any proof."""
    txs = {tx.txid: tx for tx in case.envelope.txs} if case.envelope else {}
    proven, seen = leaves(case), set()
    stack = [case.theirs.txid or b""]
    while stack:
        txid = stack.pop()
        if txid in txs and txid not in seen:
            seen.add(txid)
            if txid not in proven:
                stack += [txs[txid].outpoint(vin)[:32] for vin in range(len(txs[txid].ins) - 1)]
    return seen


def holds_together(beef: bytes) -> bool:
    """Whether nothing else is wrong with the form of these bytes."""
    return isinstance(parse(beef, LENIENT), Payload)


def signatures(case: Case) -> Iterator[tuple[Tx, bytes]]:
    """What looks like a signature in the un-mined transactions."""
    for tx in case.payload.unmined if case.payload else []:
        for vin in range(len(tx.ins) - 1):
            script = tx.unlocking(vin)
            for opcode, start, data, end in instructions(script):
                del opcode, start
                if 9 <= end - data <= 73 and script[data : data + 1] == b"\x30":
                    yield tx, script[data:end]


def proven_at_zero(case: Case) -> Iterator[int]:
    """Heights of the blocks in whose first place a transaction of the payload stands."""
    for tx in case.payload.txs if case.payload else []:
        if tx.proven and case.payload and tx.leaf == 0:
            yield case.payload.bumps[tx.bump].height


def leaves(case: Case) -> set[bytes]:
    """Everything on level 0 of a proof."""
    return {leaf for bump in (case.envelope.bumps if case.envelope else []) for leaf in bump.levels[0].values()}


def all_there(case: Case, tx: Tx) -> bool:
    """Whether the payload holds every parent."""
    known = {other.txid for other in case.envelope.txs} if case.envelope else set()
    return all(tx.outpoint(vin)[:32] in known for vin in range(len(tx.ins) - 1))


# --- circumstances


def _spent_twice(case: Case) -> bool:
    outpoints = [tx.outpoint(vin) for tx in case.payload.txs for vin in range(len(tx.ins) - 1)] if case.payload else []
    return len(set(outpoints)) < len(outpoints)


def _lock_ahead(case: Case) -> bool:
    return any(
        tx.locktime and any(tx.sequence(vin) != FINAL_SEQUENCE for vin in range(len(tx.ins) - 1))
        for tx in (case.payload.unmined if case.payload else [])
    )


def _young_coinbase(case: Case) -> bool:
    return any(height + 100 >= case.tip.height for height in proven_at_zero(case))


def _old_first_place(case: Case) -> bool:
    said = "Invalid merkle path" in case.theirs.error
    return said and any(height + 100 < case.tip.height for height in proven_at_zero(case))


def _no_forkid(case: Case) -> bool:
    return any(not signature[-1] & 0x40 for _, signature in signatures(case))


def _old_digest(case: Case) -> bool:
    refused = "signature" in case.theirs.error
    return refused and any(signature[-1] & 0x20 and tx.version <= 1 for tx, signature in signatures(case))


def _bytes_behind(case: Case) -> bool:
    return holds_together(case.beef[: case.named_byte])


def _bytes_missing(case: Case) -> bool:
    """With zeros in their place all is well, or the subject they found is not in the bytes."""
    if any(holds_together(case.beef + bytes(missing)) for missing in range(1, 5)):
        return True
    try:
        found, _ = read_ef(case.theirs.ef or b"")
    except Malformed:
        return True
    return found.raw not in case.beef


def _long_number(case: Case) -> bool:
    at = case.named_byte
    width = {0xFD: 2, 0xFE: 4, 0xFF: 8}[case.beef[at]]
    number = int.from_bytes(case.beef[at + 1 : at + 1 + width], "little")
    return holds_together(case.beef[:at] + write_varint(number) + case.beef[at + 1 + width :])


def _no_answer(case: Case) -> bool:
    return case.theirs.error == NO_ANSWER and case.payload is None


def _fewer_than_promised(case: Case) -> bool:
    _, at = paths(case.beef)
    if at >= len(case.beef):
        return False
    promised, behind = varint(case.beef, at)
    head, tail = case.beef[:at], case.beef[behind:]
    return any(holds_together(head + write_varint(fewer) + tail) for fewer in range(1, min(promised, 300)))


def _flags(case: Case) -> bool:
    found, _ = paths(case.beef)
    return any(
        flags > 2 or (flags == 2 and level) for levels in found for level, row in enumerate(levels) for _, flags in row
    )


def _beyond_the_tree(case: Case) -> bool:
    found, _ = paths(case.beef)
    return case.payload is None and any(
        offset >> len(levels) - level for levels in found for level, row in enumerate(levels) for offset, _ in row
    )


def _behind_a_proof(case: Case) -> bool:
    """None of what they looked at stands in a block that troubles us."""
    if case.payload is None:
        return False
    doubted = {height for height, root in case.payload.roots if case.answers.get((height, root)) is not Answer.YES}
    seen = [tx for tx in case.payload.txs if tx.proven and tx.txid in visited(case)]
    return not any(case.payload.bumps[tx.bump].height in doubted for tx in seen)


def _refused_by_both_forms(case: Case) -> bool:
    return case.payload is None


def _makes_nothing(case: Case) -> bool:
    """In Extended Format the number of outputs stands before the last four bytes."""
    return case.theirs.ef is not None and case.theirs.ef[-5:-4] == b"\x00"


def _format_byte(case: Case) -> bool:
    at = case.named_byte
    for known in (b"\x00", b"\x01"):
        found = parse(case.beef[:at] + known + case.beef[at + 1 :], LENIENT)
        if isinstance(found, Payload) or found.code == "structure.bump-index":
            return True
    return False


def _index_beyond(case: Case) -> bool:
    at = case.named_byte
    _, behind = varint(case.beef, at)
    found = parse(case.beef[:at] + b"\x00" + case.beef[behind:], LENIENT)
    return isinstance(found, Payload) or found.code in ("structure.not-in-bump", "structure.bump-index")


def _leaf_without_claim(case: Case) -> bool:
    return case.named_tx is not None and case.named_tx.txid in leaves(case)


def _claim_without_leaf(case: Case) -> bool:
    tx = case.named_tx
    return tx is not None and (tx.txid in leaves(case) or all_there(case, tx) or tx.txid not in visited(case))


def _pair_of_equals(case: Case) -> bool:
    found = False
    for bump in case.envelope.bumps if case.envelope else []:
        for nodes in bump.levels:
            found |= any(node and node == nodes.get(at ^ 1) for at, node in nodes.items())
    return found


def _coinbase_elsewhere(case: Case) -> bool:
    for tx in case.envelope.txs if case.envelope else []:
        if tx.is_coinbase() and tx.proven and case.envelope:
            return case.envelope.bumps[tx.bump].levels[0].get(0) != tx.txid
    return False


def _one_height_twice(case: Case) -> bool:
    heights = [bump.height for bump in case.envelope.bumps] if case.envelope else []
    return len(set(heights)) < len(heights)


def _last_is_not_the_tip(case: Case) -> bool:
    if case.envelope is None or case.beef.startswith(ATOMIC) or not case.envelope.txs:
        return False
    last = case.envelope.txs[-1]
    return case.theirs.txid in (None, last.txid) and (case.payload is None or case.payload.subject.txid != last.txid)


def _unknown(case: Case) -> bool:
    roots = case.payload.roots if case.payload else ()
    return any(case.answers.get(root) is not Answer.YES for root in roots) and not case.theirs.valid


def _nothing(case: Case) -> bool:
    """In Extended Format the number of inputs stands behind version and marker."""
    return case.theirs.ef is not None and case.theirs.ef[10:11] == b"\x00"


def _beyond_all_coins(case: Case) -> bool:
    txs = case.payload.unmined if case.payload else []
    coins = [tx.satoshis(vout) for tx in txs for vout in range(len(tx.outs) - 1)]
    return sum(coins) > MAX_SATOSHIS


def _relaxed_too_soon(case: Case) -> bool:
    txs = case.payload.unmined if case.payload else []
    return case.tip.height + 1 < LENIENT.chronicle_height and any(tx.version > 1 for tx in txs)


def _mended(case: Case) -> bool:
    """`lenient` reads it."""
    return case.payload is not None


VALID, REFUSED = "valid", "refused"
TAKES, REFUSES = True, False


class Rule(Struct, frozen=True):
    """A reason to differ."""

    name: str
    ours: str  # our codes, separated by blanks; or VALID, or REFUSED for any verdict
    theirs: bool  # whether the SDK takes the payload
    because: Callable[[Case], bool]
    says: str
    source: str  # sections of the domain reference

    def explains(self, case: Case) -> bool:
        """Whether it is this rule that makes a difference."""
        codes = [VALID] if isinstance(case.ours, Valid) else [case.ours.code]
        codes += [REFUSED] if isinstance(case.ours, Verdict) else []
        return bool({*codes} & {*self.ours.split()}) and case.theirs.valid == self.theirs and self.because(case)


def _strict(code: str, says: str, source: str) -> Rule:
    name = code.split(".")[1].replace("-", " ")
    return Rule(f"strict: {name}", code, TAKES, _mended, f"{says} `lenient` and the SDK agree.", source)


RULES = (
    # --- the SDK does not look
    Rule("one coin twice", "structure.double-spend", TAKES, _spent_twice,
         "The SDK counts a coin as often as inputs name it, within a transaction and across them.", "2.3"),
    Rule("lock times", "finality.not-final", TAKES, _lock_ahead, "The SDK looks at no lock time.", "2.3, 2.7"),
    Rule("more than all coins", "value.range", TAKES, _beyond_all_coins,
         "The SDK adds values up and knows no limit.", "1.1, 2.3"),
    Rule("no outputs", "structure.no-outputs", TAKES, _makes_nothing, "A transaction may make nothing.", "2.2"),
    Rule("nothing is valid", REFUSED, TAKES, _nothing,
         "A transaction without inputs that makes nothing verifies; bytes that are not there are such a one.", "2.3"),
    Rule("one height, two roots", "structure.bump-roots", TAKES, _one_height_twice,
         "The SDK compares no two proofs: a tracker that says yes to both is believed.", "2.2"),
    Rule("coinbase elsewhere", "structure.coinbase", TAKES, _coinbase_elsewhere,
         "The SDK asks at which place of its block a coinbase is for no other end than the next two rules.", "1.7"),
    # --- the SDK has it otherwise
    Rule("young coinbase", "anchor.immature", TAKES, _young_coinbase,
         "Its maturity is turned round: new coins may be spent for 100 blocks ...", "2.3"),
    Rule("old first place", "valid finality.not-final", REFUSES, _old_first_place,
         "... and never again, nor whatever else is in a block's first place.", "2.3"),
    Rule("no third answer", "anchor.unknown anchor.above-tip", REFUSES, _unknown,
         "Its trackers say yes or no: what nobody knows yet is invalid.", "2.2, 10.16"),
    Rule("behind a proof", "anchor.wrong-root anchor.unknown anchor.above-tip", TAKES, _behind_a_proof,
         "It looks at nothing behind a proof; whoever is handed the payload later may.", "2.2"),
    Rule("last for subject", "structure.subject-unclear valid", TAKES, _last_is_not_the_tip,
         "A bag's last transaction is its subject, whatever else has no child, and though it be another's parent.",
         "1.5, 10.7, 10.7b"),
    # --- scripts
    Rule("without FORKID", "script.malformed", TAKES, _no_forkid,
         "Its engine, without flags, takes signatures of before 2017.", "1.3, 2.4"),
    Rule("era by version", "valid finality.not-final", REFUSES, _old_digest,
         "It takes the original digest (hash type 0x20) from versions above 1; the network goes by height.", "2.5"),
    Rule("relaxed before Chronicle", "script.malformed", TAKES, _relaxed_too_soon,
         "It relaxes versions above 1 at any height.", "2.5"),
    # --- bytes
    Rule("bytes behind", "malformed.trailing-bytes", TAKES, _bytes_behind,
         "It does not ask whether it has read everything.", "1.4, 10.5"),
    Rule("bytes missing", "malformed.truncated malformed.count", TAKES, _bytes_missing,
         "Bytes that are not there are zeros, or none.", "1.4, 10.5"),
    Rule("long numbers", "malformed.varint", TAKES, _long_number, "Any form of a number will do.", "1.1, 10.5"),
    Rule("count without bytes", REFUSED, REFUSES, _no_answer,
         "It makes as many things as are promised, until its process ends.", "1.10"),
    Rule("fewer than promised", "malformed.count malformed.truncated", TAKES, _fewer_than_promised,
         "Where they are few, it takes those that are there, and empty ones for the rest.", "1.10"),
    Rule("format byte", "malformed.format-byte", TAKES, _format_byte,
         "What it does not know is raw (V2) or proven (V1).", "1.5, 10.5"),
    # --- proofs
    Rule("index of a proof", "structure.bump-index", TAKES, _index_beyond,
         "It looks for a txid in all proofs, and at no index.", "10.5"),
    Rule("proof nobody claimed", "structure.missing-parent", TAKES, _leaf_without_claim,
         "Hence a leaf proves a transaction that claims no proof ...", "1.4"),
    Rule("claim without a proof", "structure.not-in-bump", TAKES, _claim_without_leaf,
         "... and a false claim does no harm where the parents are there, or nobody needs it.", "1.4, 1.7"),
    Rule("two proofs of one transaction", "structure.repeated", TAKES, _refused_by_both_forms,
         "It takes the first proof that has the leaf, and compares it with no other.", "1.5"),
    Rule("equal neighbours", "structure.bump-duplicate", TAKES, _pair_of_equals,
         "A hash may be paired with itself anywhere (CVE-2012-2459).", "1.7, 10.10"),
    Rule("flags", "structure.bump-leaf", TAKES, _flags, "Flags it does not know are passed over.", "1.7, 10.5"),
    Rule("offset beyond the tree", "structure.bump-leaf", TAKES, _beyond_the_tree,
         "The only leaf of a path of one level is the root, whatever its offset.", "1.7"),
    # --- form
    _strict("structure.repeated", "A transaction twice.", "1.5, 10.7b"),
    _strict("structure.order", "A child before its parent.", "1.4, 10.7b"),
    _strict("structure.unrelated", "A transaction the subject does not descend from.", "1.6"),
    _strict("structure.unused-bump", "A proof no transaction uses.", "1.6"),
    _strict("structure.bump-leaf", "A node of a proof that no leaf needs.", "1.7, 10.11"),
    _strict("structure.coinbase", "An ordinary transaction in a coinbase's place.", "1.7, 10.8"),
    _strict("structure.txid-only", "A txid alone that nobody needs.", "1.5, 10.20"),
)  # fmt: skip


def rules_for(case: Case) -> list[Rule]:
    """The rules that explain a difference."""
    return [rule for rule in RULES if rule.explains(case)]


HEAD = """# Where we and the TypeScript SDK differ
Made of `tests/differential/rules.py`: `python -m tests.differential.rules > docs/decisions/differences.md`.

`@bsv/sdk` {version} (`Transaction.fromBEEF`, then `verify`) is asked what our verifier is asked: the published vectors,
generated families with one defect or none, the instruments' spoiled payloads, and changed bytes. Where one takes a
payload and the other does not, or they find another subject or Extended Format in it, one of these rules must say why,
from what is in the bytes; else the test fails. It fails as well when a rule explains nothing.

| rule | we say | the SDK | why | domain |
|---|---|---|---|---|
"""


def page() -> str:
    """The table as Markdown."""
    version = json.loads((HERE / "package.json").read_text())["dependencies"]["@bsv/sdk"]
    rows = [
        f"| {rule.name} | {', '.join(f'`{code}`' if '.' in code else code for code in rule.ours.split())} "
        f"| {'takes it' if rule.theirs else 'refuses it'} | {rule.says} | {rule.source} |\n"
        for rule in RULES
    ]
    return HEAD.format(version=version) + "".join(rows)


if __name__ == "__main__":
    sys.stdout.write(page())
