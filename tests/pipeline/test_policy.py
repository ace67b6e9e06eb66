"""`strict` and `lenient` differ in what the table of pipeline/policy.py says, and in nothing else."""

import re
from collections.abc import Iterator

import pytest

from pipeline import policy as documented
from pipeline.chain.answer import Answer
from pipeline.codec.beef import write_beef_v2
from pipeline.codec.bump import write_bump
from pipeline.outcome import BY_CODE
from pipeline.parse import Payload, parse
from pipeline.policy import Policy
from pipeline.verify import Valid
from tests.builders import Bag, In, Out, Proof, bag, funding, minimal, path, payment, spend, tree
from tests.differential.corpus import Question, of_changed_bytes, of_vectors
from tests.families import FRAMINGS, HARMLESS, family
from tests.pipeline.test_verify import facts, judge
from tests.profiles import much
from tests.vectors import universal

LENIENT, STRICT = Policy(), Policy(form="strict")


def rows() -> dict[str, tuple[str, str]]:
    """What is found in a payload: the code under `strict`, and what `lenient` does."""
    found = re.findall(r"^\| (.+?) \| `([a-z.-]+)` \| (.+?) \|$", documented.__doc__ or "", re.MULTILINE)
    return {finding: (code, mended) for finding, code, mended in found}


PARENT, CHILD = payment().txs
TIP = spend([In(CHILD)], [Out(998)])
LINE = bag(PARENT, CHILD, TIP, proven=[PARENT])
STRANGER = funding(salt=7)
LEAVES = [bytes([n]) * 32 for n in range(2)] + [PARENT.txid] + [bytes([n]) * 32 for n in range(3, 6)]


def proven_by(levels: list[dict[int, bytes]]) -> bytes:
    proof = Proof(write_bump(950_000, levels, {2}), 950_000, tree(LEAVES)[-1][0])
    return Bag(LINE.txs, {PARENT.txid: proof}).v1()


EXAMPLES: dict[str, bytes] = {
    "a transaction twice, with equal content and proof": Bag([PARENT, CHILD, PARENT, TIP], LINE.proofs).v1(),
    "a child before its parent": Bag([CHILD, PARENT, TIP], LINE.proofs).v1(),
    "a transaction the subject does not descend from": Bag([STRANGER, *LINE.txs], LINE.proofs).v1(),
    "a txid alone that no un-mined transaction spends": write_beef_v2(
        LINE.bumps(), [(STRANGER.txid, -1), *LINE.entries()]
    ),
    "a proof no transaction uses": write_beef_v2([*LINE.bumps(), path(STRANGER.txid).bump], LINE.entries()),
    "a node of a proof that no leaf needs": proven_by(
        [row | ({1: tree(LEAVES)[1][1]} if level == 1 else {}) for level, row in enumerate(minimal(tree(LEAVES), [2]))]
    ),
    "a path of one level that holds a whole block": proven_by([dict(enumerate(LEAVES))]),
    "an ordinary transaction in a coinbase's place": bytes.fromhex(universal()["1-in-1-out"]["beef_hex"]),
}


def test_the_table_has_an_example_for_each_row() -> None:
    """One row may name two findings."""
    findings = {part for finding in rows() for part in finding.split("; ")}
    assert findings == EXAMPLES.keys()
    assert {code for code, _ in rows().values()} <= BY_CODE.keys()


@pytest.mark.parametrize("finding", list(EXAMPLES))
def test_strict_names_it_and_lenient_mends_it(finding: str) -> None:
    (code,) = {code for row, (code, _) in rows().items() if finding in row.split("; ")}
    payload = parse(EXAMPLES[finding], LENIENT)
    assert isinstance(payload, Payload)
    answers = dict.fromkeys(payload.roots, Answer.YES)
    assert isinstance(judge(EXAMPLES[finding], answers, policy=LENIENT), Valid)
    judged = judge(EXAMPLES[finding], answers, policy=STRICT)
    assert not isinstance(judged, Valid)
    assert judged.code == code


def test_the_families_cover_the_table() -> None:
    assert {row.code for row in HARMLESS.values()} == {code for code, _ in rows().values()}


def questions() -> Iterator[Question]:
    yield from of_vectors()
    yield from of_changed_bytes(much(3_000, 100_000))
    names = list(HARMLESS)
    for seed in range(much(20, 500)):
        for number, name in enumerate(names):
            both = [name, names[(number + 1 + seed) % len(names)]]
            found = family(seed, harmless=[] if "stranger" in both else both)
            for framing in set(FRAMINGS) & found.framed.keys():
                yield Question(found.label, found.framed[framing], found.answers, found.tip)


def test_no_difference_is_undocumented() -> None:
    """Strict takes nothing that lenient does not, in the same words; what it says otherwise is a code of the table."""
    codes = {code for code, _ in rows().values()}
    seen = set()
    for asked in questions():
        leniently, strictly = (judge(asked.beef, asked.answers, asked.tip, policy) for policy in (LENIENT, STRICT))
        if isinstance(strictly, Valid):
            assert isinstance(leniently, Valid), asked.label
            assert facts(leniently) == facts(strictly), asked.label
            continue
        if leniently == strictly:
            continue
        assert strictly.code in codes, (asked.label, leniently, strictly)
        seen.add(strictly.code)
    assert seen == codes
