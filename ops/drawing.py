"""A payload as a picture: what `beefline inspect --svg` writes. Plain SVG: no script, nothing from elsewhere."""

import re
from collections.abc import Mapping, Sequence
from html import escape
from textwrap import wrap
from unicodedata import east_asian_width

from msgspec import Struct

from ops.inspect import HOLDS, Inspected, Proof, Transaction, count, fee, standing
from ops.layered import Box, Line, arrange

MOST = 200
"""Transactions that are drawn, the subject's nearest ones; those before them become one box."""

MOST_LINES = 4 * MOST
"""Coins that are drawn; the rest are counted. Only what is refused has more for each transaction."""

ROWS = 8
"""Outputs shown of a transaction, those that are spent in the picture first."""

WORDS = 48
"""Characters of a script's form; its beginning names it."""

MARGIN, PAD, ROW, GAP = 24, 10, 16, 5
NARROW = 760
"""The width of the smallest picture: a txid and a message fit."""

LETTER, SMALL = 7.4, 6.8
"""Width of a letter in a box and beside a line: 12 and 11 pixels high, 0.6 as wide in all fonts asked for, and some."""

STYLE = """
.beef text{font:12px ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono","Liberation Mono",monospace}
.beef text{fill:#1f2328}
.beef .page{fill:#fff}
.beef .box rect{fill:#f6f8fa;stroke:#6e7781}
.beef .proof rect{fill:#ddf4ff;stroke:#0969da}
.beef .proven rect{fill:#dafbe1;stroke:#1a7f37}
.beef .folded rect{stroke-dasharray:5 4}
.beef .subject rect{stroke-width:3}
.beef .bad rect{fill:#ffebe9;stroke:#cf222e}
.beef path{fill:none;stroke:#6e7781}
.beef .tip{fill:#6e7781;stroke:none}
.beef .name{font-weight:bold}
.beef .coin text{font-size:11px;fill:#57606a}
.beef .coin.bad path{stroke:#cf222e}
.beef .coin.bad .tip{fill:#cf222e;stroke:none}
.beef .wrong,.beef .coin.bad text{fill:#cf222e}
.beef .right{fill:#1a7f37}
@media (prefers-color-scheme:dark){
.beef text{fill:#e6edf3}
.beef .page{fill:#0d1117}
.beef .box rect{fill:#161b22;stroke:#8b949e}
.beef .proof rect{fill:#0c2d6b;stroke:#58a6ff}
.beef .proven rect{fill:#033a16;stroke:#3fb950}
.beef .bad rect{fill:#67060c;stroke:#ff7b72}
.beef path{stroke:#8b949e}
.beef .tip{fill:#8b949e}
.beef .coin text{fill:#9da7b3}
.beef .coin.bad path{stroke:#ff7b72}
.beef .coin.bad .tip{fill:#ff7b72}
.beef .wrong,.beef .coin.bad text{fill:#ff7b72}
.beef .right{fill:#3fb950}
}
"""

_ILLEGAL = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 (section 2.2) has no place for."""

FOLDED = -1
"""In place of an output's number: the row of those that are not shown."""


class _Drawn(Struct):
    """A box: its class, what it says a row, and where each output's row is."""

    kind: str
    title: str
    rows: list[str]
    rule: int = 0  # rows above the line between a transaction and its outputs; 0: none
    ports: dict[int, int] = {}  # row by output
    blame: range = range(0)  # rows that say what is wrong

    def top(self, row: int) -> int:
        """Where a row begins, from the top of the box."""
        return PAD + ROW * row + (GAP if self.rule and row >= self.rule else 0)


End = tuple[int, int, int]
"""What a line joins: a box, its output (or FOLDED), another box."""


class _Coin(Struct):
    """A line: outputs of one transaction that another spends, or a proof and what it covers."""

    title: str
    number: int = 0
    satoshis: int = 0
    label: str = ""
    bad: bool = False

    def text(self) -> str:
        many = f"{self.number:,} coins, " if self.number > 1 else ""
        return self.label or f"{many}{self.satoshis:,} sat"


class _Picture:
    """Boxes and lines of a payload, before they have a place."""

    def __init__(self, found: Inspected) -> None:
        self.found = found
        self.boxes: list[_Drawn] = []
        self.coins: dict[End, _Coin] = {}
        self.refused = re.fullmatch(r"tx (\d+)(?: input (\d+))?", found.at or "") if found.code else None
        kept = found.transactions[-MOST:]
        folded = found.transactions[: -len(kept)]
        if folded:
            self.boxes.append(self._fold(folded, kept))
        box = {transaction.txid: 0 for transaction in folded}
        proofs = {
            number: len(self.boxes) + place
            for place, number in enumerate(sorted({each.proof for each in kept if each.proof is not None}))
        }
        self.boxes += [self._proof(number, found.proofs[number]) for number in proofs]
        box |= {transaction.txid: len(self.boxes) + place for place, transaction in enumerate(kept)}
        spent = self._spent(kept, box)
        self.boxes += [self._transaction(transaction, spent.get(transaction.txid, [])) for transaction in kept]
        for transaction in kept:
            here = box[transaction.txid]
            if transaction.proof is not None:
                title = f"proof {transaction.proof} covers {transaction.txid} at leaf {transaction.leaf}"
                self.coins[proofs[transaction.proof], FOLDED, here] = _Coin(title, label=f"leaf {transaction.leaf}")
            self._spend(transaction, here, box)

    def _fold(self, folded: Sequence[Transaction], kept: Sequence[Transaction]) -> _Drawn:
        unmined = sum(transaction.unmined for transaction in folded)
        drawn = {transaction.proof for transaction in kept}
        proofs = len({each.proof for each in folded if each.proof is not None} - drawn)
        rows = [f"{count(len(folded), 'more transaction')}", f"{unmined:,} un-mined", count(proofs, "more proof")]
        inside = self.refused and any(each.place == int(self.refused[1]) for each in folded)
        blame = range(len(rows), len(rows) + 1) if inside else range(0)
        if inside:
            rows.append(f"{self.found.code} at {self.found.at}")
        title = "ancestors that are not drawn one by one"
        return _Drawn("box folded bad" if inside else "box folded", title, rows, ports={FOLDED: 1}, blame=blame)

    def _proof(self, number: int, proof: Proof) -> _Drawn:
        rows = [
            f"block {proof.height:,}",
            f"proof {number}, {count(proof.levels, 'level')}",
            f"root {short(proof.root)}",
        ]
        return _Drawn("box proof", f"block {proof.height}, root {proof.root}", rows, ports={FOLDED: 1})

    def _spent(self, kept: Sequence[Transaction], box: dict[str, int]) -> dict[str, list[int]]:
        """Outputs that are spent in the picture, by transaction, in order."""
        found: dict[str, dict[int, None]] = {}
        for transaction in kept:
            for coin in transaction.inputs:
                txid, _, vout = coin.outpoint.rpartition(".")
                if txid in box:
                    found.setdefault(txid, {})[int(vout)] = None
        return {txid: list(vouts) for txid, vouts in found.items()}

    def _transaction(self, transaction: Transaction, spent: Sequence[int]) -> _Drawn:
        subject = transaction.txid == self.found.subject
        rows = [f"tx {transaction.place}  {short(transaction.txid)}{'  subject' if subject else ''}"]
        proven = transaction.proof is not None
        rows += [f"{transaction.size:,} bytes, {'proven' if proven else standing(transaction)}"]
        if transaction.fee_sat is not None:
            rows.append(fee(transaction.fee_sat, transaction.size))
        if transaction.locktime:
            rows.append(f"locked until {transaction.locktime}")
        if unknown := sum(coin.satoshis is None for coin in transaction.inputs):
            new = not transaction.inputs[0].outpoint
            rows.append("makes new coins" if new else f"{count(unknown, 'input')} not in the payload")
        bad = self.refused is not None and int(self.refused[1]) == transaction.place
        blame = range(len(rows), len(rows) + 1) if bad else range(0)
        if bad:
            rows.append(f"{self.found.code} at {self.found.at}")
        rule = len(rows)
        outputs = transaction.outputs
        shown = sorted([*spent, *(n for n in range(min(len(outputs), ROWS)) if n not in set(spent[:ROWS]))][:ROWS])
        sums = [f"{outputs[vout].satoshis:,}" for vout in shown]
        wide, long = max(map(len, sums)), len(str(shown[-1]))
        for vout, satoshis in zip(shown, sums, strict=True):
            rows.append(f"{vout:>{long}}  {satoshis:>{wide}} sat  {cut(outputs[vout].script)}")
        ports = {vout: rule + place for place, vout in enumerate(shown)}
        if len(outputs) > len(shown):
            ports[FOLDED] = len(rows)
            rows.append(f"… {count(len(outputs) - len(shown), 'more output')}")
        kind = "bad" if bad else "proven" if proven else "unmined"
        title = f"tx {transaction.place}, {transaction.txid}"
        return _Drawn(f"box {kind}{' subject' if subject else ''}", title, rows, rule, ports, blame)

    def _spend(self, transaction: Transaction, here: int, box: dict[str, int]) -> None:
        wrong = -1
        if self.refused is not None and self.refused[2] and int(self.refused[1]) == transaction.place:
            wrong = int(self.refused[2])
        for vin, coin in enumerate(transaction.inputs):
            txid, _, vout = coin.outpoint.rpartition(".")
            parent = box.get(txid)
            if parent is None or coin.satoshis is None:
                continue
            port = int(vout) if int(vout) in self.boxes[parent].ports else FOLDED
            line = self.coins.get((parent, port, here))
            if line is None:
                what = f"{coin.satoshis:,} sat, {cut(coin.script or '')}"
                title = f"{coin.outpoint} to input {vin} of {transaction.txid}: {what}"
                line = self.coins[parent, port, here] = _Coin(title)
            else:
                line.title = f"{count(line.number + 1, 'coin')} to {transaction.txid}"
            line.number += 1
            line.satoshis += coin.satoshis
            line.bad |= vin == wrong


def draw(found: Inspected) -> str:
    """An SVG document, the same for the same payload.

    Left to right: blocks, what their proofs cover, un-mined generations, the subject. Full hashes and coins are titles,
    which browsers show beside the pointer.
    Cost: linear in the payload; what is laid out, and so the size, is bounded by `MOST` and `MOST_LINES`.
    """
    picture = _Picture(found)
    ends = _chosen(picture.coins)
    layout = arrange([_size(box) for box in picture.boxes], [_course(picture, end) for end in ends])
    width = max(layout.width, NARROW)
    said = _said(found, int(width / LETTER))
    if missing := len(picture.coins) - len(ends):
        said.append(("", f"{missing:,} more lines between these are not drawn"))
    top = MARGIN + ROW * (len(said) + 1)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" xml:space="preserve" class="beef" role="img" '
        f'width="{width + 2 * MARGIN}" height="{top + layout.height + MARGIN}" '
        f'viewBox="0 0 {width + 2 * MARGIN} {top + layout.height + MARGIN}">',
        f"<title>{xml(found.framing)} of {found.subject}</title>",
        f"<style>{STYLE}</style>",
        '<rect class="page" width="100%" height="100%"/>',
    ]
    for number, (kind, text) in enumerate(said, 1):
        out.append(f'<text x="{MARGIN}" y="{MARGIN + ROW * number - 4}" class="{kind}">{xml(text)}</text>')
    out.append(f'<g transform="translate({MARGIN + (width - layout.width) // 2},{top})">')
    out += [_line(picture.coins[end], runs) for end, runs in zip(ends, layout.lines, strict=True)]
    out += [_box(box, *place) for box, place in zip(picture.boxes, layout.boxes, strict=True)]
    return "\n".join([*out, "</g>", "</svg>", ""])


def _chosen(coins: Mapping[End, _Coin]) -> list[End]:
    """The lines that are drawn: one of each box, so that none stands alone, what is wrong, and the subject's side."""
    needed = set({end[0]: end for end in coins}.values()) | {end for end, coin in coins.items() if coin.bad}
    rest = [end for end in coins if end not in needed][len(needed) - MOST_LINES :]
    drawn = needed | set(rest)
    return [end for end in coins if end in drawn]


def _size(box: _Drawn) -> Box:
    return Box(round(2 * PAD + LETTER * max(map(columns, box.rows))), box.top(len(box.rows)) + PAD)


def _course(picture: _Picture, end: End) -> Line:
    tail, vout, head = end
    box = picture.boxes[tail]
    room = round(14 + SMALL * columns(picture.coins[end].text()))
    return Line(tail, box.top(box.ports[vout]) + ROW // 2, head, room)


def _said(found: Inspected, width: int) -> list[tuple[str, str]]:
    """What stands above the graph: class and text of each row."""
    transactions = f"{count(len(found.transactions), 'transaction')}, {found.unmined:,} un-mined"
    said = [
        ("name", f"{found.framing}, {found.size:,} bytes: {transactions}, {count(len(found.proofs), 'proof')}"),
        ("", f"subject {found.subject}"),
    ]
    if found.repeats or found.pruned:
        said.append(("", f"left aside: {count(found.repeats, 'repeat')}, {found.pruned} unrelated to the subject"))
    if found.code:
        where = f" at {found.at}" if found.at else ""
        said += [("wrong", row) for row in wrap(f"rejected  {found.code}{where}: {found.message}", min(width, 110))]
    else:
        said.append(("right", HOLDS))
    return said


def _box(box: _Drawn, x: int, y: int, width: int, height: int) -> str:
    out = [f'<g class="{box.kind}"><title>{xml(box.title)}</title>']
    out.append(f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="5"/>')
    if box.rule:
        out.append(f'<path d="M{x} {y + box.top(box.rule) - GAP + 2}h{width}" opacity=".4"/>')
    for number, row in enumerate(box.rows):
        kind = ' class="name"' if number == 0 else ' class="wrong"' if number in box.blame else ""
        out.append(f'<text x="{x + PAD}" y="{y + box.top(number) + 12}"{kind}>{xml(row)}</text>')
    return "".join([*out, "</g>"])


def _line(coin: _Coin, runs: Sequence[tuple[int, int, int]]) -> str:
    start, end, y = runs[0]
    path = f"M{start} {y}H{end}"
    for x, to, level in runs[1:]:
        middle = (end + x) // 2
        path += f"H{x}" if level == y else f"C{middle} {y} {middle} {level} {x} {level}"
        path += f"H{to}"
        end, y = to, level
    kind = "coin bad" if coin.bad else "coin"
    return (
        f'<g class="{kind}"><title>{xml(coin.title)}</title><path d="{path}"/>'
        f'<path class="tip" d="M{end} {y}l-7 -4v8z"/>'
        f'<text x="{end - 10}" y="{y - 3}" text-anchor="end">{xml(coin.text())}</text></g>'
    )


def xml(text: str) -> str:
    """Text as XML takes it."""
    return escape(_ILLEGAL.sub("\ufffd", text))


def short(txid: str) -> str:
    """Both ends of a hash."""
    return f"{txid[:8]}…{txid[-8:]}"


def cut(text: str) -> str:
    """No longer than a row has room for."""
    return text if len(text) <= WORDS else f"{text[: WORDS - 1]}…"


def columns(text: str) -> int:
    """How many letters wide a text is: East Asian ones are two."""
    return sum(2 if east_asian_width(letter) in "WF" else 1 for letter in text)
