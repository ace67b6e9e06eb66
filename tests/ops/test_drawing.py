"""`beefline inspect --svg`: what the picture holds, that it is well-formed, and that nothing makes it large or slow."""

import re
import time
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result

from ops.cli.inspect import inspect as command
from ops.cli.verify import verify
from ops.drawing import MOST, MOST_LINES, ROWS, draw, xml
from ops.inspect import Input, Inspected, Output, Proof, Transaction, inspect
from pipeline.policy import Policy
from tests import builders

ROOT = Path(__file__).parents[2]
PAYLOADS = ROOT / "examples" / "payloads"
EXAMPLES = sorted(path.stem for path in PAYLOADS.glob("*.beef"))
SVG = "{http://www.w3.org/2000/svg}"


def inspected(name: str) -> Inspected:
    return of(bytes.fromhex((PAYLOADS / f"{name}.beef").read_text()))


def of(beef: bytes) -> Inspected:
    found = inspect(beef, Policy())
    assert isinstance(found, Inspected)
    return found


class Group:
    """A box or a line, as the document has it."""

    def __init__(self, element: ElementTree.Element) -> None:
        self.kinds = element.attrib["class"].split()
        self.texts = [text.text or "" for text in element.iter(f"{SVG}text")]
        self.title = element.findtext(f"{SVG}title", "")
        self.rect = element.find(f"{SVG}rect")
        self.path = element.find(f"{SVG}path")
        self.wide = max((10 + 7.3 * len(text) for text in self.texts), default=0.0)

    def frame(self) -> tuple[int, int, int, int]:
        assert self.rect is not None
        x, y, width, height = (int(self.rect.attrib[name]) for name in ("x", "y", "width", "height"))
        return x, y, x + width, y + height


class Picture:
    """The parts of a document."""

    def __init__(self, svg: str) -> None:
        self.root = ElementTree.fromstring(svg)
        groups = [Group(element) for element in self.root.iter(f"{SVG}g") if "class" in element.attrib]
        self.boxes = [group for group in groups if "box" in group.kinds]
        self.lines = [group for group in groups if "coin" in group.kinds]
        self.said = [text.text or "" for text in self.root.findall(f"{SVG}text")]

    def box(self, txid: str) -> Group:
        (found,) = (box for box in self.boxes if box.title.endswith(txid))
        return found


def pictured(found: Inspected) -> Picture:
    return Picture(draw(found))


def made(
    count: int, parents: Sequence[Sequence[tuple[int, int]]], outputs: int = 1, code: str | None = None, at: str = ""
) -> Inspected:
    """A payload of any shape without bytes: `count` proven transactions, then one for each row of (parent, output)."""
    txids = [f"{n:064x}" for n in range(count + len(parents))]
    transactions = []
    for n, txid in enumerate(txids):
        spends = parents[n - count] if n >= count else ()
        transactions.append(
            Transaction(
                place=n,
                txid=txid,
                size=200,
                unmined=n >= count,
                proof=0 if n < count else None,
                leaf=n if n < count else None,
                inputs=tuple(Input(f"{txids[parent]}.{vout}", 1_000 + vout, "P2PKH") for parent, vout in spends)
                or (Input(f"{n + 1:064d}.0", None, None),),
                outputs=tuple(Output(1_000 + vout, "P2PKH") for vout in range(outputs)),
                fee_sat=1 if spends else None,
                locktime="",
            )
        )
    return Inspected(
        framing="BEEF V1",
        size=100 * len(txids),
        subject=txids[-1],
        unmined=len(parents),
        repeats=0,
        pruned=0,
        transactions=tuple(transactions),
        proofs=(Proof(900_000, 12, "ab" * 32, tuple(txids[:count])),),
        code=code,
        message=code and "what is wrong",
        at=at,
    )


# --- what it holds


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_transaction_proof_and_coin_of_a_payload_is_there(name: str) -> None:
    """Counted on what the tree shows, not on what the drawing keeps."""
    found = inspected(name)
    picture = pictured(found)
    assert len(picture.boxes) == len(found.transactions) + len(found.proofs)
    for transaction in found.transactions:
        texts = picture.box(transaction.txid).texts
        assert texts[0].startswith(f"tx {transaction.place}  {transaction.txid[:8]}…{transaction.txid[-8:]}")
        assert texts[1].startswith(f"{transaction.size:,} bytes, {'un-mined' if transaction.unmined else 'proven'}")
        told = [text.partition(" (")[0] for text in texts if text.startswith("fee ")]
        assert told == ([] if transaction.fee_sat is None else [f"fee {transaction.fee_sat:,} sat"])
        for coin in transaction.outputs[:3]:
            assert any(text.endswith(f"{coin.satoshis:,} sat  {coin.script}") for text in texts)
    for proof in found.proofs:
        (box,) = (box for box in picture.boxes if box.title.endswith(proof.root))
        assert box.texts[0] == f"block {proof.height:,}"
        assert box.texts[1].endswith(f"{proof.levels} levels")
        assert box.texts[2] == f"root {proof.root[:8]}…{proof.root[-8:]}"
    coins = [
        (f"{coin.outpoint} to input {vin} of {transaction.txid}: {coin.satoshis:,} sat, {coin.script}",
         f"{coin.satoshis:,} sat")
        for transaction in found.transactions
        for vin, coin in enumerate(transaction.inputs)
        if coin.satoshis is not None
    ]  # fmt: skip
    leaves = [
        (f"proof {transaction.proof} covers {transaction.txid} at leaf {transaction.leaf}", f"leaf {transaction.leaf}")
        for transaction in found.transactions
        if transaction.proof is not None
    ]
    assert sorted((line.title, line.texts[0]) for line in picture.lines) == sorted(coins + leaves)


def test_the_subject_is_marked_and_stands_last() -> None:
    found = inspected("mainnet-17d1829b-unmined")
    picture = pictured(found)
    (subject,) = (box for box in picture.boxes if "subject" in box.kinds)
    assert subject.title.endswith(found.subject)
    assert subject.texts[0].endswith("  subject")
    assert [box.title.split(",")[0] for box in sorted(picture.boxes, key=lambda box: box.frame()[0])] == [
        "block 847580", "tx 0", "tx 1", "tx 2", "tx 3", "tx 4",
    ]  # fmt: skip
    assert "values and scripts hold" in picture.said[-1]


def test_what_is_wrong_is_marked_with_its_code() -> None:
    picture = pictured(inspected("generated-bad-signature"))
    (bad,) = (box for box in picture.boxes if "bad" in box.kinds)
    assert "script.false at tx 1 input 0" in bad.texts
    assert [line.texts for line in picture.lines if "bad" in line.kinds] == [["1,482,483 sat"]]
    assert any(text.startswith("rejected  script.false at tx 1 input 0: ") for text in picture.said)


def test_a_lock_time_new_coins_and_the_script_are_told() -> None:
    new = builders.coinbase(950_000, builders.Out(5_000))
    subject = builders.spend([builders.In(new, sequence=0)], [builders.Out(4_000, builders.p2pk(builders.key()))], 1, 7)
    picture = pictured(of(builders.Bag([new, subject], {new.txid: builders.path(new.txid, offset=0)}).v1()))
    first, last = (box.texts for box in picture.boxes if box.texts[0].startswith("tx"))
    assert "makes new coins" in first
    assert "locked until height 7" in last
    assert last[-1] == "0  4,000 sat  P2PK"


def test_of_many_outputs_those_that_are_spent_are_shown() -> None:
    picture = pictured(made(1, [[(0, 41), (0, 57)]], outputs=60))
    texts = picture.box("0" * 64).texts
    rows = [int(text.split()[0]) for text in texts if text.endswith("P2PKH")]
    assert rows == [0, 1, 2, 3, 4, 5, 41, 57]
    assert texts[-1] == "… 52 more outputs"
    assert len(picture.lines) == 3


def test_coins_out_of_rows_that_are_not_shown_are_one_line() -> None:
    picture = pictured(made(1, [[(0, vout) for vout in range(20)]], outputs=20))
    labels = sorted(line.texts[0] for line in picture.lines)
    rest = sum(1_000 + vout for vout in range(ROWS, 20))
    assert labels == sorted([*(f"{1_000 + vout:,} sat" for vout in range(ROWS)), f"12 coins, {rest:,} sat", "leaf 0"])


# --- the document


def test_text_of_the_payload_is_no_markup() -> None:
    said = b"</text><script>&\"'"
    beef = builders.payment([builders.Out(1), builders.Out(0, b"\x00\x6a" + builders.push(said))]).v1()
    svg = draw(of(beef))
    assert "<script" not in svg
    assert any(f'data "{said.decode()}"' in text for box in Picture(svg).boxes for text in box.texts)
    assert xml("a\x00b\x1b\ud800\ufffe<") == "a\ufffdb\ufffd\ufffd\ufffd&lt;"


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_document_stands_alone_and_is_the_same_each_time(name: str) -> None:
    """No script, no link, no style or font from elsewhere: the one address is the name of the format."""
    svg = draw(inspected(name))
    assert svg == draw(inspected(name))
    root = Picture(svg).root
    assert {element.tag for element in root.iter()} <= {
        f"{SVG}{tag}" for tag in ("svg", "title", "style", "rect", "g", "path", "text")
    }
    assert re.findall(r"https?:[^\"]*", svg) == ["http://www.w3.org/2000/svg"]
    assert not re.search(r"href|url\(|@import|@font-face|\son\w+=|<!", svg)
    assert "prefers-color-scheme:dark" in svg


# --- the layout


def diamonds(levels: int) -> list[list[tuple[int, int]]]:
    rows = [[(0, 0)]]
    for top in range(1, 3 * levels, 3):
        rows += [[(top, 0)], [(top, 1)], [(top + 1, 0), (top + 2, 0)]]
    return rows


SHAPES = {
    "fan-in": made(8, [[(n, 0) for n in range(8)]]),
    "fan-out": made(1, [[(0, 0)], *([(1, n)] for n in range(6)), [(2 + n, 0) for n in range(6)]], outputs=6),
    "diamonds": made(1, diamonds(5), outputs=2),
    "long ways": made(3, [[(n + 2, 0), *((m, n % 3) for m in range(3))] for n in range(12)], outputs=3),
}


@pytest.mark.parametrize("name", SHAPES)
def test_nothing_lies_on_anything_else(name: str) -> None:
    """Boxes are apart and inside the page, texts inside their boxes, labels apart, level lines outside boxes."""
    svg = draw(SHAPES[name])
    picture = Picture(svg)
    frames = [box.frame() for box in picture.boxes]
    for number, (left, top, right, bottom) in enumerate(frames):
        assert right - left >= picture.boxes[number].wide
        assert min(left, top) >= 0
        assert right <= int(picture.root.attrib["width"])
        assert bottom <= int(picture.root.attrib["height"])
        for other in frames[:number]:
            assert right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top
    labels = [re.search(r'<text x="(\d+)" y="(\d+)" text-anchor="end">(.*?)<', line) for line in svg.splitlines()]
    ends = [(int(found[1]), int(found[2]), len(found[3])) for found in labels if found]
    assert len(ends) == len(picture.lines)
    for number, (x, y, letters) in enumerate(ends):
        start = x - 6.7 * letters
        for other_x, other_y, _ in ends[:number]:
            assert abs(y - other_y) >= 12 or abs(x - other_x) >= 6.7 * letters
        for left, top, right, bottom in frames:
            assert x <= left or start >= right or y <= top or y - 10 >= bottom
    for line in picture.lines:
        assert line.path is not None
        x = y = 0
        for kind, numbers in re.findall(r"([MHC])([-\d ]+)", line.path.attrib["d"]):
            values = [int(number) for number in numbers.split()]
            if kind == "H":
                low, high = sorted((x, values[0]))
                for left, top, right, bottom in frames:
                    assert high <= left or low >= right or not top < y < bottom
            x, y = values[-2:] if kind != "H" else (values[0], y)


# --- the bounds


def test_of_a_chain_of_ten_thousand_the_nearest_are_drawn() -> None:
    found = made(1, [[(n, 0)] for n in range(9_999)])
    began = time.perf_counter()
    svg = draw(found)
    assert time.perf_counter() - began < 5
    assert len(svg) < 400_000
    picture = Picture(svg)
    assert len(picture.boxes) == MOST + 1
    (folded,) = (box for box in picture.boxes if "folded" in box.kinds)
    assert folded.texts == ["9,800 more transactions", "9,799 un-mined", "1 more proof"]
    assert picture.box(found.subject).texts[0].startswith("tx 9999  ")
    assert len(picture.lines) == MOST


def test_what_is_wrong_in_the_part_that_is_not_drawn_is_told() -> None:
    found = made(1, [[(n, 0)] for n in range(300)], code="script.false", at="tx 5 input 0")
    (bad,) = (box for box in pictured(found).boxes if "bad" in box.kinds)
    assert "folded" in bad.kinds
    assert bad.texts[-1] == "script.false at tx 5 input 0"


def test_a_wide_fan_in_has_one_line_for_those_that_are_not_drawn() -> None:
    svg = draw(made(9_999, [[(n, 0) for n in range(9_999)]]))
    assert len(svg) < 400_000
    picture = Picture(svg)
    assert len(picture.boxes) == MOST + 2  # the block has ancestors of both kinds
    assert f"9,800 coins, {9_800 * 1_000:,} sat" in [line.texts[0] for line in picture.lines]


def test_every_transaction_spends_of_every_other() -> None:
    """Refused for its double spends; to draw it is bounded all the same, and what is left out is counted."""
    found = made(1, [[(m, n % 12) for m in range(n + 1) for _ in range(3)] for n in range(MOST - 1)], outputs=12)
    began = time.perf_counter()
    svg = draw(found)
    assert time.perf_counter() - began < 10
    assert len(svg) < 1_500_000
    picture = Picture(svg)
    assert len(picture.lines) == MOST_LINES
    pairs = MOST * (MOST - 1) // 2
    assert picture.said[-1] == f"{pairs + 1 - MOST_LINES:,} more lines between these are not drawn"


def test_a_diamond_of_64_levels_is_drawn_at_once() -> None:
    """2**64 ways lead to the proof."""
    picture = pictured(of(builders.diamonds(64).v1()))
    assert len(picture.boxes) == 66
    assert len(picture.lines) == 1 + 2 * 64


# --- the command


def run(*arguments: str, given: bytes = b"") -> Result:
    return CliRunner().invoke(command, arguments, input=given)


def test_the_picture_in_the_documentation_is_what_the_command_draws(tmp_path: Path) -> None:
    out = tmp_path / "out.svg"
    ran = run(str(PAYLOADS / "mainnet-17d1829b-unmined.beef"), "--svg", str(out))
    assert (ran.exit_code, "subject 17d1829b" in ran.stdout) == (0, True)
    assert (ROOT / "docs" / "inspect.svg").read_bytes() == out.read_bytes()


def test_of_several_payloads_each_has_its_number(tmp_path: Path) -> None:
    """Its place in the file: what is malformed has no picture, and those behind it keep their numbers."""
    good = (PAYLOADS / "generated-p2pkh.beef").read_text()
    bad = (PAYLOADS / "generated-bad-signature.beef").read_text()
    ran = run("-", "--json", "--svg", str(tmp_path / "out.svg"), given=f"{good}{good[:-3]}\n{bad}".encode())
    assert ran.exit_code == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out-1.svg", "out-3.svg"]
    assert "script.false" in (tmp_path / "out-3.svg").read_text()
    assert "values and scripts hold" in (tmp_path / "out-1.svg").read_text()


@pytest.mark.parametrize("name", ["-", "", "missing/out.svg", "."])
def test_a_picture_that_cannot_be_written_is_told_in_words(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = run(str(PAYLOADS / "generated-p2pkh.beef"), "--svg", name)
    assert ran.exit_code == 3
    assert ran.stderr
    assert isinstance(ran.exception, SystemExit)
    assert list(tmp_path.iterdir()) == []


def test_a_payload_that_cannot_be_read_is_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    path, read = str(PAYLOADS / "generated-p2pkh.beef"), Path.read_bytes

    def refuse(self: Path) -> bytes:
        if str(self) == path:
            raise PermissionError(13, "Permission denied")
        return read(self)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    for ran in (run(path), CliRunner().invoke(verify, [path, "--headers", str(PAYLOADS / "headers.json")])):
        assert ran.exit_code == 3
        assert ran.stderr == f"beefline: cannot read {path}: Permission denied\n"
