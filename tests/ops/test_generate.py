"""The simulated chain, and what is made on it: right proofs, right signatures, faults that are what they are called."""

import itertools
import json
import multiprocessing
import shutil
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from beefline.testing import Case, ask
from ops.cli.generate import generate
from ops.instruments.chain import BURIAL_BLOCKS, CHECKPOINT, COINS, STRETCH, TARGET, Chain, block_time
from ops.instruments.generate import KINDS, SHAPES, Generator, kind_names, prepare_pool
from ops.instruments.payloads import Expectation, Generated, mainnet, mainnet_data, read_pool, write_pool
from ops.instruments.wire import hash256, merkle_levels, merkle_path, write_bump
from ops.simulate.mined import MinedView, read_beef
from ops.simulate.network import Network, Taken
from ops.simulate.rules import Policy as NodePolicy
from pipeline.chain.answer import Answer, Tip
from pipeline.outcome import BY_CODE, Condition, Verdict
from pipeline.overlay.manager import load
from pipeline.parse import Payload, parse
from pipeline.policy import Policy
from pipeline.script.engine import run_jobs
from pipeline.verify import Plan, Valid, plan, verify
from schemas.external import Admittance
from schemas.types import display

EXAMPLES = Path(__file__).parents[2] / "examples" / "payloads"
STRICT = msgspec.structs.replace(Policy(), form="strict")
LENIENT = msgspec.structs.replace(Policy(), form="lenient")


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain.open(tmp_path_factory.mktemp("generated") / "chain")


# --- the chain


def test_headers_link_have_work_and_hold_the_blocks_roots(chain: Chain) -> None:
    headers = chain.headers()
    assert len(headers) == STRETCH == chain.tip - CHECKPOINT + 1
    for below, above in itertools.pairwise(headers):
        assert above[4:36] == hash256(below)
        assert int.from_bytes(hash256(above), "little") <= TARGET
    for height in (CHECKPOINT, CHECKPOINT + 31, CHECKPOINT + 32, chain.tip):
        assert chain.block(height).root == chain.header(height)[36:68]


def test_times_rise_as_blocks_do_and_the_median_lags(chain: Chain) -> None:
    """An hour behind the tip, give or take: five blocks."""
    for height in range(CHECKPOINT + 11, chain.tip):
        assert block_time(chain.seed, height + 1) > chain.median_time_past(height)
    assert 2400 <= block_time(chain.seed, chain.tip) - chain.median_time_past() <= 4200


def test_blocks_are_deep_enough_and_begin_with_a_coinbase(chain: Chain) -> None:
    block = chain.block(CHECKPOINT + 3)
    assert len(block.raws) == COINS + 1
    assert len(block.levels) - 1 == 12
    assert block.raws[0][5:41] == bytes(32) + b"\xff\xff\xff\xff"
    assert {len(raw) for raw in block.raws[1:]} == {225}
    assert BURIAL_BLOCKS >= 150


def test_every_coin_is_found_by_its_txid_and_nothing_else_is(chain: Chain) -> None:
    for number in (0, 1, COINS - 1, COINS, chain.coins - 1):
        mined = chain.coin(number)
        assert chain.find(mined.coin.txid) == (mined.height, mined.leaf)
        assert chain.transaction(mined.height, mined.leaf) == mined.raw
        assert hash256(mined.raw) == mined.coin.txid
        assert mined.coin.key in chain.keys
    assert chain.find(bytes(32)) is None
    assert chain.find(b"\xff" * 32) is None
    with pytest.raises(IndexError):
        chain.header(CHECKPOINT - 1)


def test_a_chain_follows_from_its_seed_and_keeps_what_it_had_when_it_grows(chain: Chain, tmp_path: Path) -> None:
    """The rest of a writer that was killed is written over; who has the folder open sees the growth when it looks."""
    folder = tmp_path / "chain"
    shutil.copytree(chain.folder, folder)
    with (folder / "headers.bin").open("ab") as file:
        file.write(b"half a header")
    grown, watcher = Chain.open(folder), Chain.open(folder)
    assert grown.headers() == chain.headers()
    last = grown.coins
    assert grown.coin(last).height == CHECKPOINT + STRETCH
    assert watcher.tip == chain.tip
    assert watcher.refresh()
    assert not watcher.refresh()
    assert watcher.headers()[:STRETCH] == chain.headers()
    assert watcher.tip == grown.tip == chain.tip + STRETCH
    for below, above in itertools.pairwise(grown.headers()):
        assert above[4:36] == hash256(below)
    assert watcher.find(grown.coin(last).coin.txid) == (CHECKPOINT + STRETCH, 1)


def _make(folder: str, seed: int) -> bytes:
    Chain.open(Path(folder), seed=seed)
    return (Path(folder) / "headers.bin").read_bytes()


def test_processes_that_come_at_once_make_one_chain(tmp_path: Path) -> None:
    """Of another seed, and thus another chain; a folder keeps the seed it has."""
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        first, second = pool.starmap(_make, [(str(tmp_path), 7)] * 2)
    assert first == second
    assert len(first) == 80 * STRETCH
    with pytest.raises(ValueError, match="seed 7"):
        Chain.open(tmp_path, seed=8)


def test_a_path_proves_its_leaves_whatever_the_tree() -> None:
    """Trees of one to nine leaves, every pair of them; folded here by the rule, without our parser."""
    for size in range(1, 10):
        levels = merkle_levels([hash256(bytes([n])) for n in range(size)])
        for pair in itertools.combinations_with_replacement(range(size), 2):
            path = merkle_path(levels, pair)
            for index in pair:
                assert _fold(path, index, levels[0][index]) == levels[-1][0]


def _fold(path: list[list[tuple[int, int, bytes]]], index: int, working: bytes) -> bytes:
    """The root a leaf leads to, by BRC-74; nodes that the path leaves out are computed from those below."""
    if len(path) == 1 and len(path[0]) == 1:
        return working
    known = [{offset: (flags, node) for offset, flags, node in level} for level in path]
    for height in range(len(path)):
        working_index = index >> height
        flags, sibling = known[height].get(working_index ^ 1) or (0, _node(known, height, working_index ^ 1))
        if flags == 1:
            assert working_index % 2 == 0, "only the last of an odd number is paired with itself"
            sibling = working
        working = hash256(sibling + working if working_index % 2 else working + sibling)
    return working


def _node(known: list[dict[int, tuple[int, bytes]]], height: int, index: int) -> bytes:
    if index in known[height] and known[height][index][0] != 1:
        return known[height][index][1]
    assert height > 0, "the path lacks a leaf"
    left = _node(known, height - 1, 2 * index)
    right = left if known[height - 1].get(2 * index + 1, (0,))[0] == 1 else _node(known, height - 1, 2 * index + 1)
    return hash256(left + right)


def test_the_bump_of_brc_74_is_written_as_it_stands_there() -> None:
    """The smallest case by hand: height 1000, one level, one leaf that is a txid."""
    txid = bytes(range(32))
    assert write_bump(1000, merkle_path([[txid]], [0])) == bytes.fromhex("fde80301010002") + txid


# --- what is valid


def _parsed(payload: Generated, policy: Policy) -> Payload:
    found = parse(payload.beef, policy)
    assert isinstance(found, Payload), found
    return found


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_holds_together_and_is_anchored(chain: Chain, shape: str) -> None:
    """By the project's own parser, in its strict form: subject, un-mined transactions, and the chain's roots."""
    for payload in Generator(chain, seed=1).valid(3, shape=shape):
        found = _parsed(payload, STRICT)
        assert found.subject.txid == payload.txid
        assert len(found.unmined) == payload.unmined
        assert found.roots
        for height, root in found.roots:
            assert chain.header(height)[36:68] == root


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_is_taken_by_a_node(chain: Chain, shape: str) -> None:
    """By the simulated node's rules, at the fee that Arcade asks: form, values, scripts, parents."""
    network = Network(MinedView(chain))
    for payload in Generator(chain, seed=2).valid(3, shape=shape):
        found = _parsed(payload, LENIENT)
        _, entries = read_beef(found.canonical())
        unmined = [tx for tx, bump in entries if bump is None]
        policy = NodePolicy(fee_sat_per_kb=100)
        assert [type(each) for each in network.submit(unmined, policy)] == [Taken] * payload.unmined


@pytest.mark.parametrize(
    ("shape", "size", "unmined", "inputs"), [("chain", 30, 30, 1), ("fan-in", 40, 1, 40), ("diamond", 5, 20, 2)]
)
def test_the_size_is_what_it_says(chain: Chain, shape: str, size: int, unmined: int, inputs: int) -> None:
    (payload,) = Generator(chain, seed=1).valid(shape=shape, size=size)
    found = _parsed(payload, STRICT)
    assert (len(found.unmined), len(found.subject.ins) - 1) == (unmined, inputs)


@pytest.mark.parametrize(("framing", "magic"), [("v1", "0100beef"), ("v2", "0200beef"), ("atomic", "01010101")])
def test_any_shape_is_framed_in_any_way(chain: Chain, framing: str, magic: str) -> None:
    (payload,) = Generator(chain, seed=1).valid(shape="diamond", framing=framing)  # type: ignore[arg-type]
    assert payload.beef[:4].hex() == magic
    assert _parsed(payload, STRICT).subject.txid == payload.txid


def _admits(topic: str, payload: Generated) -> list[int]:
    """Which outputs a hosted topic takes, none of whose coins the payload spends."""
    said = ask(load((topic,))[topic], Case.of(payload.kind, payload.beef))
    assert isinstance(said, Admittance)
    return list(said.outputs_to_admit)


@pytest.mark.parametrize("topic", ["tm_helloworld", "tm_tokendemo", "tm_uhrp"])
def test_a_shape_is_admitted_where_it_belongs(chain: Chain, topic: str) -> None:
    """Output 0 of those that are made for a topic, and nothing of others."""
    for shape, row in SHAPES.items():
        (payload,) = Generator(chain, seed=5).valid(shape=shape)
        assert _admits(topic, payload) == ([0] if row.topics == (topic,) else []), shape


def test_tokens_are_made_and_moved(chain: Chain) -> None:
    """1000 in two pieces; the second payload holds the first, and is worth nothing without its coin."""
    made, moved = Generator(chain, seed=5).tokens()
    assert (made.unmined, moved.unmined) == (1, 2)
    assert _parsed(moved, STRICT).unmined[0].txid == made.txid
    assert (_admits("tm_tokendemo", made), _admits("tm_tokendemo", moved)) == ([0], [])
    said = ask(load(("tm_tokendemo",))["tm_tokendemo"], Case.of("moved", moved.beef, coins=[0]))
    assert said == Admittance((0, 1), (), (0,))


def test_the_same_seed_gives_the_same_payloads_and_another_other_coins(chain: Chain) -> None:
    def everything(seed: int) -> list[Generated]:
        generator = Generator(chain, seed)
        return [payload for name in kind_names() for payload in generator.make(name)]

    assert everything(3) == everything(3)
    ours, theirs = (Generator(chain, seed).valid(1200) for seed in (10, 11))
    spent = [{tx.inputs[0].outpoint for tx, bump in read_beef(p.beef)[1] if bump is None} for p in [*ours, *theirs]]
    assert len(set().union(*spent)) == 2400
    assert len({payload.id for payload in everything(3)}) == len(everything(3))


def test_groups_are_what_they_are_called(chain: Chain) -> None:
    generator = Generator(chain, seed=12)
    one, again = generator.duplicate()
    assert one.beef == again.beef
    assert one.id != again.id
    first, second = generator.double_spend()
    coins = [_parsed(payload, STRICT).unmined[0].outpoint(0) for payload in (first, second)]
    assert coins[0] == coins[1]
    assert (first.rivals, second.rivals) == ((second.txid,), (first.txid,))
    assert first.txid != second.txid
    family = generator.family(4)
    assert [payload.unmined for payload in family] == [1, 2, 3, 4]
    for parent, child in itertools.pairwise(family):
        assert _parsed(child, STRICT).subject.outpoint(0)[:32] == parent.txid


# --- what is not


def test_every_fault_has_a_code_of_the_table() -> None:
    for name, row in KINDS.items():
        kind = {"invalid": "verdict", "indeterminate": "condition"}[row.outcome]
        assert BY_CODE[row.code].kind == kind, name


def _verdict(payload: Generated, chain: Chain, policy: Policy) -> tuple[str, str | None]:
    """Outcome and code by the project's own verifier, every tracker telling the truth about this chain."""
    found: Payload | Verdict | Plan | Condition | Valid = parse(payload.beef, policy)
    if isinstance(found, Payload):
        parsed, tip = found, Tip(chain.tip, chain.median_time_past())
        found = plan(parsed, policy, tip)
        if isinstance(found, Plan):
            results = {result.key: result for result in run_jobs(found.jobs, 1_000_000)}
            answers = {at: _answer(chain, *at) for at in found.roots}
            found = verify(parsed, answers, results, tip, policy)
    if isinstance(found, Valid):
        assert found.txid == payload.txid
        return "valid", None
    assert isinstance(found, Verdict | Condition)
    return "invalid" if isinstance(found, Verdict) else "indeterminate", found.code


def _answer(chain: Chain, height: int, root: bytes) -> Answer:
    if height > chain.tip:
        return Answer.UNKNOWN
    return Answer.YES if chain.header(height)[36:68] == root else Answer.NO


@pytest.mark.parametrize("kind", kind_names())
def test_each_payload_gets_the_verdict_it_was_made_for(chain: Chain, kind: str) -> None:
    """By code that knows nothing of how the payload was made; what only `strict` refuses, `lenient` finds valid."""
    for payload in Generator(chain, seed=4).make(kind):
        expect = payload.expect
        assert _verdict(payload, chain, STRICT) == (expect.outcome, expect.code)
        lenient = (expect.outcome, expect.code) if expect.form == "any" else ("valid", None)
        assert _verdict(payload, chain, LENIENT) == lenient


# --- pools, real payloads, the command


def test_a_pool_gives_back_what_went_in(chain: Chain, tmp_path: Path) -> None:
    mix = {"p2pkh": 8.0, "hello": 1.0, "bad-signature": 1.0}
    pool = tmp_path / "pool"
    assert prepare_pool(pool, 300, chain=chain, seed=20, mix=mix) == 300
    payloads = list(read_pool(pool))
    assert payloads == list(Generator(chain, seed=20).mixed(300, mix))
    kinds = [payload.kind for payload in payloads]
    assert {kind: kinds.count(kind) > 10 for kind in mix} == dict.fromkeys(mix, True)
    assert payloads[kinds.index("bad-signature")].expect == Expectation("invalid", "script.false")
    pool.write_bytes(pool.read_bytes()[:-1])
    with pytest.raises(ValueError, match="ends within"):
        list(read_pool(pool))
    with pytest.raises(ValueError, match="not a pool"):
        list(read_pool(EXAMPLES / "README.md"))
    assert write_pool(tmp_path / "empty", []) == 0
    assert list(read_pool(tmp_path / "empty")) == []


def test_the_real_payloads_lead_to_the_roots_told_with_them() -> None:
    table = mainnet_data().root_table()
    for payload in mainnet():
        found = _parsed(payload, STRICT)
        assert found.subject.txid == payload.txid
        assert len(found.unmined) == payload.unmined
        assert dict(found.roots).items() <= table.items()


def test_the_examples_are_what_their_page_says(chain: Chain) -> None:
    """The generated ones are what the generator makes."""
    generator = Generator(chain, seed=95)
    made = [payload for kind in ("p2pkh", "hello", "bad-signature") for payload in generator.make(kind)]
    expected = {f"generated-{payload.kind}.beef": payload.beef.hex() for payload in made}
    for payload in mainnet():
        state = "unmined" if payload.unmined else "proven"
        expected[f"mainnet-{display(payload.txid)[:8]}-{state}.beef"] = payload.beef.hex()
    assert {path.name: path.read_text().strip() for path in EXAMPLES.glob("*.beef")} == expected
    page = (EXAMPLES / "README.md").read_text()
    assert all(f"`{name}`" in page for name in expected)


def test_the_command_writes_lines_that_say_what_to_expect(chain: Chain, tmp_path: Path) -> None:
    run = CliRunner().invoke
    options = ["--chain", str(chain.folder), "--seed", "30"]
    lines = run(generate, [*options, "--count", "4", "--kind", "p2pkh", "--kind", "inflation"]).output.splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["kind"] for row in rows] == ["p2pkh", "inflation"] * 2
    assert rows[1]["expect"] == {"outcome": "invalid", "code": "value.inflation", "form": "any"}
    assert (rows[0]["topics"], len(rows[0]["txid"])) == (["tm_anytx"], 64)
    (first,) = Generator(chain, seed=30).valid()
    assert (rows[0]["beef"], rows[0]["txid"]) == (first.beef.hex(), display(first.txid))
    assert run(generate, [*options, "--format", "hex"]).output == first.beef.hex() + "\n"
    pool = tmp_path / "pool"
    assert run(generate, [*options, "--format", "binary", "--out", str(pool), "--count", "9"]).exit_code == 0
    assert len(list(read_pool(pool))) == 9
    assert run(generate, [*options, "--format", "binary"]).exit_code == 2
    assert run(generate, [*options, "--kind", "nonsense"]).exit_code == 2
    assert [line.split()[0] for line in run(generate, ["--kinds"]).output.splitlines()] == list(kind_names())
