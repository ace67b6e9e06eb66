"""Merkle paths: known blocks, random trees, and everything that is not one."""

from collections.abc import Callable
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.codec.bump import Bump, _read_any, read_bump, write_bump
from pipeline.codec.hashing import hash256
from pipeline.codec.quick import not_quick, quick_bump
from pipeline.codec.reader import Malformed
from schemas.types import display, from_display
from tests.builders import compound, path, tree
from tests.profiles import CHEAP, much
from tests.vectors import conformance

VECTORS = conformance("merkle-path")
BLOCK = VECTORS["mp-block125632-001"]["input"]["txids"]
BLOCK_ROOT = VECTORS["mp-block125632-001"]["expected"]["merkle_root"]


def read(data: bytes) -> Bump:
    bump, end = read_bump(data, 0)
    assert end == len(data)
    return bump


def leaf(number: int) -> bytes:
    return sha256(b"leaf %d" % number).digest()


def refusal(data: bytes, wanted: set[int] | None = None) -> str:
    def root() -> None:
        bump = read(data)
        bump.root(set(bump.leaves().values()) if wanted is None else wanted)

    with pytest.raises(Malformed) as caught:
        root()
    return caught.value.code


# --- known answers


@pytest.mark.parametrize("vector", ["mp-computeroot-001", "mp-computeroot-002", "mp-computeroot-003"])
def test_brc74s_example_leads_to_its_root(vector: str) -> None:
    found = VECTORS[vector]
    bump = read(bytes.fromhex(found["input"]["bump_hex"]))
    at = bump.leaves()[from_display(found["input"]["txid"])]
    assert bump.height == 813_706
    assert display(bump.root({at})) == "57aab6e6fb1b697174ffb64e062c4728f2ffd33ddcfa02a43b64d8cd29b483b4"


def test_brc74s_example_is_written_as_it_was() -> None:
    raw = bytes.fromhex(VECTORS["mp-serialize-001"]["input"]["bump_hex"])
    bump = read(raw)
    assert write_bump(bump.height, bump.levels, set(bump.flagged)) == raw


@pytest.mark.parametrize("vector", ["mp-single-tx-001", "mp-coinbase-001"])
def test_a_blocks_only_transaction_is_its_root(vector: str) -> None:
    found = VECTORS[vector]
    raw = bytes.fromhex(found["input"].get("bump_hex") or found["expected"]["bump_hex"])
    assert display(read(raw).root({0})) == found["expected"]["merkle_root"]


def test_a_path_of_one_level_may_hold_a_whole_block() -> None:
    found = VECTORS["mp-compound-001"]
    bump = read(bytes.fromhex(found["input"]["bump_hex"]))
    assert bump.whole
    assert display(bump.root({2})) == found["expected"]["merkle_root_for_tx0"]


def test_a_known_block_of_eleven() -> None:
    """Block 125632: odd on three levels."""
    leaves = [from_display(txid) for txid in BLOCK]
    whole = write_bump(125_632, [dict(enumerate(leaves))], set(range(11)))
    assert display(read(whole).root({4})) == BLOCK_ROOT
    for offset in range(11):
        proof = compound(leaves, [offset], 125_632)
        assert display(read(proof.bump).root({offset})) == BLOCK_ROOT, offset


def test_a_combined_path_of_three_is_what_others_combine() -> None:
    found = VECTORS["mp-combine-001"]
    raw = bytes.fromhex(found["input"]["combined_bump_hex"])
    assert compound([from_display(txid) for txid in BLOCK], [2, 5, 8], 125_632).bump == raw
    bump = read(raw)
    assert display(bump.root(set(bump.flagged))) == found["expected"]["merkle_root"]
    for name in ("txid_tx2", "txid_tx5", "txid_tx8"):
        assert from_display(found["input"][name]) in bump.leaves()


@pytest.mark.parametrize("vector", list(conformance("merkle-path-odd-node").values()), ids=lambda v: str(v["id"])[-4:])
def test_pairs_hash_as_published(vector: dict[str, dict[str, str]]) -> None:
    """These write hashes in wire order."""
    left, right = (bytes.fromhex(vector["input"][side]) for side in ("left_hex", "right_hex"))
    assert hash256(left + right).hex() == vector["expected"]["parent_hex"]


# --- any tree


@CHEAP
@given(st.integers(1, 40), st.data())
def test_any_leaves_of_any_block_lead_to_its_root(count: int, data: st.DataObject) -> None:
    leaves = [leaf(n) for n in range(count)]
    wanted = data.draw(st.sets(st.integers(0, count - 1), min_size=1))
    proof = compound(leaves, wanted)
    bump = read(proof.bump)
    assert bump.root(set(wanted)) == tree(leaves)[-1][0]
    assert set(bump.flagged) == wanted
    assert not bump.superfluous()


@CHEAP
@given(st.integers(2, 33), st.data())
def test_a_changed_hash_leads_elsewhere_or_nowhere(count: int, data: st.DataObject) -> None:
    leaves = [leaf(n) for n in range(count)]
    at = data.draw(st.integers(0, count - 1))
    bump = read(compound(leaves, [at]).bump)
    level = data.draw(st.sampled_from([n for n, nodes in enumerate(bump.levels) if any(nodes.values())]))
    offset = data.draw(st.sampled_from([o for o, node in bump.levels[level].items() if node]))
    nodes = bump.levels
    nodes[level][offset] = bytes(b ^ 1 for b in nodes[level][offset])
    assert read(write_bump(bump.height, nodes, {at})).root({at}) != tree(leaves)[-1][0]


def told(raw: bytes, read_it: Callable[[bytes, int, int], tuple[Bump, int]]) -> object:
    """Everything a path says, or what is wrong with it."""
    try:
        bump, end = read_it(raw, 2, 7)
        leaves = bump.leaves()
        roots = [bump.root({offset}) for offset in leaves.values()]
        return (bump.height, bump.depth, leaves, bump.flagged, bump.raw, bump.levels, bump.superfluous(), roots, end)
    except Malformed as bad:
        return bad.code, bad.at


@settings(CHEAP, max_examples=much(300, 20_000))
@given(st.integers(1, 32), st.data())
def test_a_line_read_quickly_says_what_the_long_way_says(levels: int, data: st.DataObject) -> None:
    """Also where bytes are changed: the quick way gives the same, or leaves it to the long way."""
    offset = data.draw(st.integers(0, min((1 << levels) - 1, 1 << 20)) | st.integers(0, (1 << levels) - 1))
    proof = path(leaf(1), height=data.draw(st.integers(0, (1 << 31) - 1)), levels=levels, offset=offset)
    raw = bytearray(b"??" + proof.bump + b"!!")
    assert told(bytes(raw), read_bump) == told(bytes(raw), _read_any)
    for _ in range(data.draw(st.integers(0, 2))):
        raw[data.draw(st.integers(2, len(raw) - 1))] = data.draw(st.integers(0, 255))
    changed = bytes(raw[: data.draw(st.just(len(raw)) | st.integers(2, len(raw)))])
    assert told(changed, read_bump) == told(changed, _read_any)


@pytest.mark.skipif(quick_bump is not_quick, reason="nothing was compiled here")
def test_ordinary_paths_are_read_quickly() -> None:
    for levels in (1, 2, 12, 32):
        assert quick_bump(path(leaf(1), levels=levels, offset=(1 << levels) - 1).bump, 0, Bump) is not None
    assert quick_bump(compound([leaf(n) for n in range(9)], [3, 5]).bump, 0, Bump) is None


def test_computed_nodes_may_be_given_as_well_if_they_are_right() -> None:
    leaves = [leaf(n) for n in range(8)]
    levels = tree(leaves)
    nodes = [{2: leaves[2], 3: leaves[3]}, {0: levels[1][0], 1: levels[1][1]}, {0: levels[2][0], 1: levels[2][1]}]
    bump = read(write_bump(5, nodes, {2}))
    assert bump.superfluous()
    assert bump.root({2}) == levels[3][0]
    nodes[1][1] = leaf(99)
    assert refusal(write_bump(5, nodes, {2})) == "structure.bump-roots"


def test_a_path_of_32_levels_is_read() -> None:
    proof = path(leaf(1), levels=32)
    bump = read(proof.bump)
    assert bump.root(set(bump.flagged)) == proof.root


# --- no tree

A, B, C, D = (leaf(n) for n in range(4))
AB = hash256(A + B)


@pytest.mark.parametrize(
    ("levels", "code"),
    [
        pytest.param([{0: A}, {1: C}], "structure.bump-missing", id="leaf without its neighbour"),
        pytest.param([{0: A, 1: B}, {}], "structure.bump-missing", id="empty level"),
        pytest.param([{0: A, 1: B}, {0: AB}], "structure.bump-missing", id="own node instead of the neighbour"),
        pytest.param([{1: A}], "structure.bump-missing", id="only leaf not at the beginning"),
        pytest.param([{}], "structure.bump-leaf", id="no leaf"),
        pytest.param([{0: A, 2: B}], "structure.bump-leaf", id="offset beyond one level"),
        pytest.param([{0: A, 1: B}, {2: C}], "structure.bump-leaf", id="offset beyond the tree, above"),
        pytest.param([{4: A, 5: B}, {3: C}], "structure.bump-leaf", id="offset beyond the tree, below"),
        pytest.param([{0: A, 1: B, 3: C}], "structure.bump-leaf", id="one level with a gap"),
        pytest.param([{0: A, 1: A}], "structure.bump-duplicate", id="equal neighbours"),
        pytest.param([{0: A, 1: B, 2: A, 3: B}, {}], "structure.bump-duplicate", id="one leaf twice"),
        pytest.param([{0: A, 1: B}, {1: AB}], "structure.bump-duplicate", id="equal neighbours above"),
        pytest.param([{0: A, 1: B, 2: A}], "structure.bump-duplicate", id="one leaf twice in a whole block"),
        pytest.param([{0: b"", 1: A}], "structure.bump-duplicate", id="duplicate on an even offset"),
        pytest.param([{0: A, 1: b"", 2: B, 3: C}, {}], "structure.bump-duplicate", id="duplicate not at the end"),
        pytest.param(
            [{4: A, 5: b"", 6: B}, {3: b""}, {0: D}], "structure.bump-duplicate", id="a lone leaf behind a duplicate"
        ),
        pytest.param([{4: A, 5: b""}, {3: C}, {0: D}], "structure.bump-duplicate", id="a node behind the last, above"),
        pytest.param(
            [{8: A, 9: b""}, {5: b""}, {3: C}, {0: D}], "structure.bump-duplicate", id="a node behind the last, higher"
        ),
        pytest.param([{0: A, 1: B, 2: C, 3: D}, {1: D}], "structure.bump-roots", id="given and computed differ"),
        pytest.param(
            [{0: A, 1: B, 2: C, 3: D}, {1: b""}], "structure.bump-roots", id="duplicate where there is a node"
        ),
    ],
)
def test_paths_no_tree_has(levels: list[dict[int, bytes]], code: str) -> None:
    assert refusal(write_bump(100, levels, set())) == code


def test_a_phantom_tail_does_not_prove() -> None:
    """CVE-2012-2459: six leaves and the same six with the last two again have one root."""
    leaves = [leaf(n) for n in range(6)]
    tail = [*leaves, leaves[4], leaves[5]]
    assert tree(tail)[-1] == tree(leaves)[-1]
    assert refusal(compound(tail, [6]).bump, {6}) == "structure.bump-duplicate"
    assert refusal(write_bump(1, [dict(enumerate(tail))], set()), {6}) == "structure.bump-duplicate"


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        ("0100", "structure.bump-height"),
        ("0121", "structure.bump-height"),
        ("01ff", "structure.bump-height"),
        ("fe0000008001", "structure.bump-height"),
        ("01", "malformed.truncated"),
        ("0101", "malformed.truncated"),
        ("010101", "malformed.truncated"),
        ("01010100", "malformed.truncated"),
        ("0101010000" + "aa" * 31, "malformed.truncated"),
        ("010101000" + "3" + "aa" * 32, "structure.bump-leaf"),
        ("0101010004" + "aa" * 32, "structure.bump-leaf"),
        ("0102010000" + "aa" * 32 + "010102" + "bb" * 32, "structure.bump-leaf"),
        ("010102" + ("0000" + "aa" * 32) * 2, "structure.bump-leaf"),
        ("010102" + "0101" + "0301", "structure.bump-duplicate"),
        ("0101ff" + "ff" * 8, "malformed.count"),
        ("0101fefffffff0", "malformed.count"),
        ("010101fd0000" + "00" + "aa" * 32, "malformed.varint"),
    ],
)
def test_bytes_that_are_no_path(raw: str, code: str) -> None:
    assert refusal(bytes.fromhex(raw)) == code


def test_every_shorter_piece_is_refused() -> None:
    raw = path(leaf(1), levels=3).bump
    for end in range(len(raw)):
        assert refusal(raw[:end]) in ("malformed.truncated", "malformed.count"), end
