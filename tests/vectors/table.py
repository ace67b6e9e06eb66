"""Which published vector is run, how, and which is not, with the reason.

The page docs/decisions/vectors.md is made of this table: `python -m tests.vectors.table > docs/decisions/vectors.md`.
"""

import sys
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct

from pipeline.chain.answer import Answer, Tip
from pipeline.codec.beef import read_beef, write_beef_v1, write_beef_v2
from pipeline.codec.bump import Bump, read_bump, write_bump
from pipeline.codec.ef import read_ef, write_ef
from pipeline.codec.hashing import hash256
from pipeline.codec.reader import write_varint
from pipeline.codec.tx import read_tx
from pipeline.outcome import Verdict
from pipeline.parse import Payload, parse
from pipeline.policy import Policy, required_fee
from pipeline.script.sighash import Digests
from pipeline.verify import Plan, Valid, plan, verify
from schemas.types import display, from_display
from tests.builders import TIP, Out, compound, raw_tx
from tests.vectors import load, universal

Vector = Mapping[str, Any]
Check = Callable[[Vector], None]
LENIENT, STRICT = Policy(), Policy(form="strict")


def bump_of(hexadecimal: str) -> Bump:
    """A path that fills the bytes."""
    raw = bytes.fromhex(hexadecimal)
    bump, end = read_bump(raw, 0)
    assert end == len(raw)
    return bump


def valid(beef: bytes, tip: Tip = TIP, policy: Policy = LENIENT) -> Valid:
    """Judged with the roots it claims; none of the vectors needs the sandbox."""
    payload = parse(beef, policy)
    assert isinstance(payload, Payload), payload
    planned = plan(payload, policy, tip)
    assert isinstance(planned, Plan), planned
    assert not planned.jobs
    found = verify(payload, dict.fromkeys(payload.roots, Answer.YES), {}, tip, policy)
    assert isinstance(found, Valid), found
    return found


def refused(beef: bytes, policy: Policy = LENIENT) -> str:
    """The code it is refused with before anybody is asked."""
    found = parse(beef, policy)
    assert isinstance(found, Verdict), found
    return found.code


# --- Merkle paths


def _parsed(vector: Vector) -> None:
    bump, said = bump_of(vector["input"]["bump_hex"]), vector["expected"]
    assert bump.height == said["block_height"]
    assert len(bump.levels) == said.get("path_levels", 12)
    assert len(bump.levels[0]) == (said.get("path_level0_length") or said["path_leaf_count"])
    assert bump.flagged == [0xBE9, 0xBEA]  # the third txid of the text is their neighbour, without a flag


def _written_again(vector: Vector) -> None:
    raw = vector["input"].get("bump_hex") or vector["input"]["combined_bump_hex"]
    bump, said = bump_of(raw), vector["expected"]
    again = write_bump(bump.height, bump.levels, set(bump.flagged)).hex()
    assert again == raw == (said.get("toHex") or said["serialized_bump_hex"])
    if "merkle_root" in said:
        assert display(bump.root(set(bump.flagged))) == said["merkle_root"]
        assert {from_display(vector["input"][f"txid_tx{n}"]) for n in (2, 5, 8)} <= bump.leaves().keys()


def _root_of_one(vector: Vector) -> None:
    bump = bump_of(vector["input"]["bump_hex"])
    assert (
        display(bump.root({bump.leaves()[from_display(vector["input"]["txid"])]})) == vector["expected"]["merkle_root"]
    )


def _whole_in_one_level(vector: Vector) -> None:
    raw, said = vector["input"]["bump_hex"], vector["expected"]
    bump = bump_of(raw)
    for number, txid in enumerate(vector["input"]["txids_at_level_0"]):
        at = bump.leaves()[from_display(txid)]
        assert display(bump.root({at})) == said[f"merkle_root_for_tx{number}"]
    assert write_bump(bump.height, bump.levels, set(bump.flagged)).hex() == said["serialized_bump_hex"] == raw


def _coinbase_alone(vector: Vector) -> None:
    txid, said = from_display(vector["input"]["txid"]), vector["expected"]
    written = write_bump(vector["input"]["height"], [{0: txid}], {0}).hex()
    assert written == said["bump_hex"]
    assert display(bump_of(written).root({0})) == said["merkle_root"]


def _block() -> list[bytes]:
    vectors = load("conformance/merkle-path.json")["vectors"]
    (whole,) = [vector for vector in vectors if vector["id"] == "mp-block125632-001"]
    return [from_display(txid) for txid in whole["input"]["txids"]]


def _whole_block(vector: Vector) -> None:
    bump = bump_of(write_bump(vector["input"]["block_height"], [dict(enumerate(_block()))], set(range(11))).hex())
    assert {display(bump.root({at})) for at in range(11)} == {vector["expected"]["merkle_root"]}


def _one_of_the_block(vector: Vector) -> None:
    """A minimal path for it, shorter than the whole block and with the same root."""
    asked, leaves = vector["input"], _block()
    at = leaves.index(from_display(asked.get("txid") or asked["extract_txid"]))
    proof = compound(leaves, [at], asked["block_height"])
    bump = bump_of(proof.bump.hex())
    for row in asked.get("proof_level0", ()):
        assert bump.levels[0][row["offset"]] == from_display(row["hash"])
    assert display(bump.root({at})) == vector["expected"]["merkle_root"]
    assert len(proof.bump) < len(write_bump(asked["block_height"], [dict(enumerate(leaves))], {at}))


def _duplicate(vector: Vector) -> None:
    """The binary form has no hash behind a duplicate's flag."""
    left = from_display(vector["input"]["leaf0_hash"])
    raw = write_bump(vector["input"]["block_height"], [{0: left, 1: b""}], {0})
    assert raw[-2:] == b"\x01\x01"
    assert display(bump_of(raw.hex()).root({0})) == vector["expected"]["computed_hash"]


def _pair(vector: Vector) -> None:
    left, right = (bytes.fromhex(vector["input"][side]) for side in ("left_hex", "right_hex"))
    assert hash256(left + right).hex() == vector["expected"]["parent_hex"]


# --- transactions and envelopes


def _transaction(vector: Vector) -> None:
    raw, said = vector["input"]["raw_hex"], vector["expected"]
    tx = read_tx(bytes.fromhex(raw))
    assert (len(tx.ins) - 1, len(tx.outs) - 1) == (said["inputs_count"], said["outputs_count"])
    assert tx.raw.hex() == said.get("raw_hex_roundtrip", raw)
    assert display(tx.txid) == said.get("txid", display(tx.txid))
    assert (tx.version, tx.locktime) == (said.get("version", tx.version), said.get("locktime", tx.locktime))
    for vin in range(len(tx.ins) - 1):
        script = tx.unlocking(vin)
        assert write_varint(len(script)) + script + tx.sequence(vin) == tx.raw[tx.ins[vin] + 36 : tx.ins[vin + 1]]


def _brc62(vector: Vector) -> None:
    """BRC-62's example, with the facts that domain.md 1.8 gives of it."""
    beef = bytes.fromhex(vector["input"]["beef_hex"])
    for policy in (LENIENT, STRICT):
        found = valid(beef, policy=policy)
        assert display(found.txid) == "157428aee67d11123203735e4c540fa1bdab3b36d5882c6f8c5ff79f07d20d1c"
        assert found.fee_sat == 2
        ((_, only),) = found.extended()
        assert only.startswith(bytes.fromhex("010000000000000000ef01ac4e164f"))
        coin = "3e660000000000001976a9146bfd5c7fbe21529d45803dbcf0c87dd3c71efbc288ac"
        assert bytes.fromhex("ffffffff" + coin) in only
    payload = parse(beef, LENIENT)
    assert isinstance(payload, Payload)
    ((height, root),) = payload.roots
    assert (height, display(root)) == (814_435, vector["expected"].get("merkle_root", display(root)))


def _extended(vector: Vector) -> None:
    raw = bytes.fromhex(vector["input"]["ef_hex"])
    tx, coins = read_ef(raw)
    assert (len(tx.ins) - 1, len(tx.outs) - 1) == (1, 1)
    assert write_ef(tx, coins) == raw


def _hydrated(vector: Vector) -> None:
    beef = bytes.fromhex(vector["input"]["beef_hex"])
    found = valid(beef)
    last = beef[beef.rindex(bytes.fromhex("0100000001c5c92e")) : -1]  # up to the byte that says it has no proof
    assert (found.payload.subject.raw, found.txid) == (last, hash256(last))


def _byte_too_many(vector: Vector) -> None:
    beef = bytes.fromhex(vector["input"]["beef_hex"])
    assert refused(beef) == "malformed.trailing-bytes"
    assert refused(beef[:-1]) == "structure.no-transactions"


def _nothing_in_it(vector: Vector) -> None:
    assert refused(bytes.fromhex(vector["input"]["beef_hex"])) == "structure.no-transactions"


def _fee(vector: Vector) -> None:
    asked = vector["input"]
    assert required_fee(asked["size_bytes"], asked["satoshis_per_kb"]) == vector["expected"]["fee_satoshis"]


def _sequence_signed(vector: Vector) -> None:
    """The whole preimage by domain.md 1.3, with the field where it belongs."""
    asked, field = vector["input"], bytes.fromhex(vector["expected"]["preimage_sequence_field_hex"])
    outpoint, code, satoshis, out = bytes(range(36)), b"\x51", bytes(8), Out()
    tx = read_tx(raw_tx([(outpoint, b"", asked["input_sequence"])], [out], asked["version"], asked["lock_time"]))
    shared = hash256(outpoint) + hash256(field) + outpoint + b"\x01" + code + satoshis
    preimage = b"\x01\x00\x00\x00" + shared + field + hash256(out.bytes()) + bytes(4) + b"\x41\x00\x00\x00"
    assert Digests(tx).digest(0, satoshis, code, 0x41) == hash256(preimage)


def _sequence_kept(vector: Vector) -> None:
    tx = read_tx(raw_tx([(bytes(range(36)), b"", vector["input"]["input_sequence"])], [Out()]))
    assert tx.sequence(0).hex() == vector["expected"]["serialised_sequence_hex"]


# --- whole files


def _universal(vector: Vector) -> None:
    """Every encoding says one txid and one Extended Format, and is written again byte for byte."""
    for key in ("beef_hex", "beef_v2_hex", "atomic_beef_hex"):
        beef = bytes.fromhex(vector[key])
        found = valid(beef)
        assert display(found.txid) == vector["tx_id"]
        assert found.payload.subject.raw.hex() == vector["raw_hex"]
        assert [ef.hex() for _, ef in found.extended()] == [vector["ef_hex"]]
        assert refused(beef, STRICT) == "structure.coinbase"
        envelope = read_beef(beef, 10, 10)
        write = write_beef_v1 if key == "beef_hex" else write_beef_v2
        bumps = [bump.raw for bump in envelope.bumps]
        assert write(bumps, [(tx.raw, tx.bump) for tx in envelope.txs]) == beef[envelope.body :]
    tx, coins = read_ef(bytes.fromhex(vector["ef_hex"]))
    assert write_ef(tx, coins).hex() == vector["ef_hex"]
    assert (tx.raw.hex(), display(tx.txid)) == (vector["raw_hex"], vector["tx_id"])
    assert [tx.locking(vout).hex() for vout in range(len(tx.outs) - 1)] == vector["locking_scripts"]


def _mainnet(vector: Vector) -> None:
    data = load("mainnet/payloads.json")
    beef = bytes.fromhex(vector["beef"])
    for policy in (LENIENT, STRICT):
        payload = parse(beef, policy)
        assert isinstance(payload, Payload)
        assert {str(height): display(root) for height, root in payload.roots}.items() <= data["roots"].items()
        found = valid(beef, Tip(data["tip"], TIP.median_time_past), policy)
        assert (display(found.txid), len(found.payload.unmined)) == (vector["txid"], int(vector["unmined"]))


class Row(Struct, frozen=True):
    """What becomes of some cases of a file."""

    file: str
    cases: str  # ids, separated by blanks
    does: str
    check: Check | None = None  # none: left out
    why: str = ""  # where we leave one out, or do something else than it says


def ids(stem: str, count: int) -> str:
    """The ids of a numbered set."""
    return " ".join(f"{stem}.{number:04}" for number in range(1, count + 1))


OTHER_API = "A constructor or a convenience of the SDKs; nothing here makes transactions or takes paths apart."

ROWS = (
    Row("universal", " ".join(universal()), "All encodings, read and written; valid; the Extended Format", _universal,
        "`lenient` only: the un-flagged leaf at offset 0 is no coinbase. Keys and addresses beside them are not used."),
    Row("mainnet/payloads", "0 1 2 3", "Valid under both forms, with the roots of their blocks", _mainnet),
    Row("merkle-path", "mp-parse-001", "Height, levels, leaves", _parsed),
    Row("merkle-path", "mp-serialize-001 mp-combine-001", "Read and written byte for byte; the root", _written_again),
    Row("merkle-path", "mp-computeroot-001 mp-computeroot-002 mp-computeroot-003 mp-single-tx-001",
        "The root", _root_of_one),
    Row("merkle-path", "mp-compound-001", "Read and written, the root; in payloads `lenient` only", _whole_in_one_level,
        "A path of one level that holds a whole block is no path of BRC-74's; the SDKs pair its odd nodes unasked."),
    Row("merkle-path", "mp-coinbase-001", "Written, read, its root", _coinbase_alone),
    Row("merkle-path", "mp-block125632-001", "The root from all eleven", _whole_block),
    Row("merkle-path", "mp-block125632-002", "The proof of one, level 0 as given, and its root", _one_of_the_block,
        "`proof_level1_hash` has 65 digits and is no hash."),
    Row("merkle-path", "mp-block125632-003 mp-extract-001", "The proof of one, and its root", _one_of_the_block),
    Row("merkle-path", "mp-findleaf-001", "The leaf paired with itself", _duplicate,
        "A node that is a duplicate and has a hash as well exists in JSON only."),
    Row("merkle-path", "mp-extract-002 mp-extract-003", "Left out", None, OTHER_API),
    Row("merkle-path-odd-node", ids("regression.merkle-path.odd-node", 5), "The pairs", _pair),
    Row("serialization", "tx-001 tx-002 tx-015", "Read, written, counted; the txid", _transaction),
    Row("serialization", "tx-003", "Valid; the root, the Extended Format, the fee", _brc62),
    Row("serialization", "tx-004", "Read and written byte for byte", _extended),
    Row("serialization", "tx-006", "Valid", _brc62,
        "The SDK's door for Atomic BEEF refuses V1. Ours takes every framing, and V1 names its subject by place."),
    Row("serialization", "tx-013", "Height and leaves", _parsed),
    Row("serialization", "tx-005 tx-007 tx-008 tx-009 tx-010 tx-011 tx-012 tx-014", "Left out", None, OTHER_API),
    Row("beef-isvalid-hydration", ids("regression.beef.isvalid-hydration", 2),
        "Valid; its last transaction is the subject", _hydrated),
    Row("beef-v2-txid-panic", "regression.beef.v2-txid-panic.0001", "`malformed.trailing-bytes`", _byte_too_many,
        "Its seven bytes are an empty BEEF V2 and one more; nothing may stand behind (BRC-62, BRC-96)."),
    Row("beef-v2-txid-panic", "regression.beef.v2-txid-panic.0002", "`structure.no-transactions`", _nothing_in_it,
        "It asks that an empty envelope can be read. It can; as a payload it holds nothing to do."),
    Row("fee-model-mismatch", ids("regression.transactions.fee-model-mismatch", 3), "The fee", _fee),
    Row("tx-sequence-zero-sighash", ids("regression.transactions.sequence-zero-sighash", 2),
        "The digest over the field", _sequence_signed),
    Row("tx-sequence-zero-sighash", "regression.transactions.sequence-zero-sighash.0003", "The bytes", _sequence_kept),
)  # fmt: skip

ELSEWHERE = {
    "arc-submit": "read by `tests/pipeline/broadcasters/test_arc.py`, which says what it leaves out; all are run "
    "against the simulated ARC by `tests/ops/test_descriptions.py`",
    "brc121": "402 payments, a later part",
    "key-derivation": "run by `tests/pipeline/test_keys.py`, which says what it leaves out",
    "submit": "the HTTP door of an overlay, a later part; its BEEF bytes are placeholders no parser takes",
    "topic-management": "the HTTP door of an overlay, a later part",
}
"""Files of the conformance set that are about something else than payloads."""


def vectors_of(file: str) -> dict[str, Vector]:
    """The cases of a file, by id."""
    if file == "universal":
        return dict(universal())
    if file == "mainnet/payloads":
        return {str(number): vector for number, vector in enumerate(load("mainnet/payloads.json")["payloads"])}
    return {vector["id"]: vector for vector in load(f"conformance/{file}.json")["vectors"]}


HEAD = """# Published vectors, and what we do with each
Made of `tests/vectors/table.py`: `python -m tests.vectors.table > docs/decisions/vectors.md`. A test runs every row
that is not left out, and fails when a case of a file stands in no row or in two. Where a vector contradicts
another one or the network, the reason is told.

| file | cases | what we do | why |
|---|---|---|---|
"""


TAIL = """
Descriptions of APIs: `tests/ops/test_descriptions.py` holds the simulated ARC and Arcade against those that their
projects publish, each call and each answer. Where they deviate stands there in one table, with reasons.
WhatsOnChain publishes none that a machine could read, and Teranode's propagation service is described by text alone:
`tests/ops/test_simulate_endpoints.py` holds the simulated ones against what is written.
"""


def page() -> str:
    """The table as Markdown."""
    rows = [f"| {row.file} | {row.cases.replace(' ', ', ')} | {row.does} | {row.why} |\n" for row in ROWS]
    files = [f"- `{file}.json`: {what}.\n" for file, what in ELSEWHERE.items()]
    return HEAD + "".join(rows) + "\nOther files of the conformance set:\n" + "".join(files) + TAIL


if __name__ == "__main__":
    sys.stdout.write(page())
