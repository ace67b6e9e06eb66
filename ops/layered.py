"""Layered layout of a graph without cycles: boxes in columns from left to right, lines that go around them.

The steps are those of Sugiyama, Tagawa and Toda (1981), each in fixed rounds: a column for each box by its longest way
to the end, lanes for lines that pass a column, an order in each column by barycentres, heights by least squares.
"""

from collections.abc import Sequence
from itertools import pairwise

from msgspec import Struct

APART = 26
"""Between two boxes of a column."""

LANE = 16
"""Between two lines that pass a column or arrive at a box: a label fits above each."""

LANES = 4_000
"""Lines that pass many columns are led around boxes while there are fewer of these, behind them from then on."""

ROUNDS = 4

BEND = 36
"""Between two columns, for lines to change their height; more where they change it much."""


class Box(Struct):
    """A box to be placed; `height` may be made more, for lines to arrive apart."""

    width: int
    height: int


class Line(Struct):
    """A line to be drawn, from a lower-numbered box to a higher one."""

    tail: int
    port: int  # where it leaves its box, from the top
    head: int
    room: int  # for its label, before it arrives


Run = tuple[int, int, int]
"""A level part of a line: from x, to x, at y. Between two of them it bends."""


class Layout(Struct):
    """Where everything is. The smallest x and y are 0."""

    width: int
    height: int
    boxes: list[tuple[int, int, int, int]]  # x, y, width, height
    lines: list[list[Run]]


class _Item(Struct, gc=False):
    """What takes a place in a column: a box, or a lane."""

    height: int
    box: bool
    rank: float = 0.0
    middle: float = 0.0


Link = tuple[_Item, _Item, float]
"""Two items in neighbouring columns, and where between top and bottom of the first the line leaves it."""


def arrange(boxes: Sequence[Box], lines: Sequence[Line]) -> Layout:
    """Place the boxes and lead the lines.

    Every line's `tail` must be below its `head`. The same arguments give the same layout.
    Cost: for n boxes, lines and `LANES`, n log n.
    """
    column = _columns(len(boxes), lines)
    arriving = [0] * len(boxes)
    for line in lines:
        arriving[line.head] += 1
    items = [_Item(max(box.height, LANE * (count + 1)), True) for box, count in zip(boxes, arriving, strict=True)]
    columns: list[list[_Item]] = [[] for _ in range(max(column, default=-1) + 1)]
    for item, place in zip(items, column, strict=True):
        columns[place].append(item)
    ways, links = _lead(lines, items, column, columns)
    _order(columns, links)
    _level(columns, links)
    return _draw(boxes, lines, items, column, ways)


def _columns(count: int, lines: Sequence[Line]) -> list[int]:
    """Each box as far right as its longest way to the end allows: what is needed late stands late."""
    left = [0] * count
    for line in sorted(lines, key=lambda line: -line.head):
        left[line.tail] = max(left[line.tail], left[line.head] + 1)
    most = max(left, default=0)
    return [most - each for each in left]


def _lead(
    lines: Sequence[Line], items: Sequence[_Item], column: Sequence[int], columns: list[list[_Item]]
) -> tuple[list[list[_Item]], list[Link]]:
    """Lanes for lines that pass columns; lines out of one place share theirs. Each line's lanes, and all links."""
    lanes: dict[tuple[int, int, int], _Item] = {}
    ways: list[list[_Item]] = [[] for _ in lines]
    links: list[Link] = []
    for number in sorted(range(len(lines)), key=lambda n: column[lines[n].head] - column[lines[n].tail]):
        line = lines[number]
        before, leaves = items[line.tail], line.port / items[line.tail].height
        passed = range(column[line.tail] + 1, column[line.head])
        if len(lanes) + len(passed) > LANES:
            continue
        for place in passed:
            lane = lanes.get((line.tail, line.port, place))
            if lane is None:
                lane = lanes[line.tail, line.port, place] = _Item(LANE, False)
                columns[place].append(lane)
                links.append((before, lane, leaves))
            ways[number].append(lane)
            before, leaves = lane, 0.5
        links.append((before, items[line.head], leaves))
    return ways, links


def _order(columns: Sequence[list[_Item]], links: Sequence[Link]) -> None:
    """Sort each column by the mean place of what its items are linked to, on one side and on the other."""
    for column in columns:
        for rank, item in enumerate(column):
            item.rank = rank
    for _ in range(ROUNDS):
        for side, along in ((1, columns), (0, columns[::-1])):
            linked = _linked(links, side)
            for column in along:
                wanted = {
                    id(item): sum(other.rank + leaves for other, leaves in linked[id(item)]) / len(linked[id(item)])
                    for item in column
                    if id(item) in linked
                }
                column.sort(key=lambda item: wanted.get(id(item), item.rank))
                for rank, item in enumerate(column):
                    item.rank = rank


def _level(columns: Sequence[list[_Item]], links: Sequence[Link]) -> None:
    """Bring each item as near to the height of what it is linked to as its neighbours in the column allow."""
    for column in columns:
        _settle(column, [0.0] * len(column))
    for _ in range(ROUNDS):
        for side, along in ((1, columns), (0, columns[::-1])):
            linked = _linked(links, side)
            for column in along:
                wanted = []
                for item in column:
                    others = linked.get(id(item), [])
                    wanted.append(sum(other.middle for other, _ in others) / len(others) if others else item.middle)
                _settle(column, wanted)


def _linked(links: Sequence[Link], side: int) -> dict[int, list[tuple[_Item, float]]]:
    """By the item on the one side of its links, those on the other."""
    found: dict[int, list[tuple[_Item, float]]] = {}
    for link in links:
        found.setdefault(id(link[side]), []).append((link[1 - side], link[2] if side else 0.0))  # type: ignore[arg-type]
    return found


def _settle(column: Sequence[_Item], wanted: Sequence[float]) -> None:
    """Middles as near to those wanted as keeps the items apart and in order: least squares, pooling what collides."""
    offsets = [0.0]
    for above, below in pairwise(column):
        offsets.append(offsets[-1] + (above.height + below.height) / 2 + (APART if above.box or below.box else 0))
    pools: list[tuple[float, int]] = []  # sum, count
    for want, offset in zip(wanted, offsets, strict=False):
        total, count = want - offset, 1
        while pools and pools[-1][0] / pools[-1][1] > total / count:
            total, count = total + pools[-1][0], count + pools[-1][1]
            pools.pop()
        pools.append((total, count))
    settled = (total / count for total, count in pools for _ in range(count))
    for item, base, offset in zip(column, settled, offsets, strict=False):
        item.middle = base + offset


def _draw(
    boxes: Sequence[Box],
    lines: Sequence[Line],
    items: Sequence[_Item],
    column: Sequence[int],
    ways: Sequence[Sequence[_Item]],
) -> Layout:
    """Heights and columns to places."""
    tops = [round(item.middle - item.height / 2) for item in items]
    heights: list[list[int]] = []  # of each line, where it leaves, passes and arrives
    for line, way in zip(lines, ways, strict=True):
        heights.append([tops[line.tail] + line.port, *(round(lane.middle) for lane in way)])
    arriving: list[list[int]] = [[] for _ in boxes]
    for number, line in enumerate(lines):
        arriving[line.head].append(number)
    for head, numbers in enumerate(arriving):
        numbers.sort(key=lambda number: heights[number][-1])
        for place, number in enumerate(numbers):
            heights[number].append(round(items[head].middle + LANE * (place - (len(numbers) - 1) / 2)))
    count = max(column, default=-1) + 1
    widths, rooms, bends = [0] * count, [0] * count, [0] * count  # rooms and bends are before a column
    for box, place in zip(boxes, column, strict=True):
        widths[place] = max(widths[place], box.width)
    for line, ys in zip(lines, heights, strict=True):
        head = column[line.head]
        rooms[head] = max(rooms[head], line.room)
        for place, (y, next_y) in zip(range(head, 0, -1), pairwise(reversed(ys)), strict=False):
            bends[place] = max(bends[place], abs(y - next_y))
    lefts, x = [], 0
    for place in range(count):
        x += rooms[place] + BEND + min(160, bends[place] // 6) if place else 0
        lefts.append(x)
        x += widths[place]
    drawn = []
    for line, ys in zip(lines, heights, strict=True):
        head = column[line.head]
        first = head - len(ys) + 1  # the column it leaves from; without lanes the one before it arrives
        runs = [(lefts[column[line.tail]] + widths[column[line.tail]], lefts[first] + widths[first], ys[0])]
        for place, y in enumerate(ys[1:], first + 1):
            runs.append((lefts[place] - rooms[place], lefts[place] + (widths[place] if place < head else 0), y))
        drawn.append(runs)
    ends = [y for ys in heights for y in ys]
    top = min([*tops, *(y - LANE for y in ends)], default=0)
    bottom = max([*(y + item.height for y, item in zip(tops, items, strict=True)), *ends], default=0)
    return Layout(
        x,
        bottom - top,
        [
            (lefts[place], y - top, widths[place], item.height)
            for place, y, item in zip(column, tops, items, strict=True)
        ],
        [[(start, end, y - top) for start, end, y in runs] for runs in drawn],
    )
