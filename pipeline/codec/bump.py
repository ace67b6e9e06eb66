"""Merkle paths (BUMP, BRC-74): from transactions of a block to its root.

A path is a false proof until a chain tracker says that the block at its height has its root. What is refused here is
what no block can have, whatever trackers say: hashes missing, two values for one node, a hash paired with itself where
a tree does not do so (CVE-2012-2459), offsets beyond the tree.
"""

from msgspec import Struct

from pipeline.codec.hashing import hash256
from pipeline.codec.quick import quick_bump
from pipeline.codec.reader import Malformed, counted, truncated, varint, write_varint
from schemas.types import Root, Txid

MAX_HEIGHT = 2**31  # block heights; 40,000 years
MAX_LEVELS = 32  # a block of four thousand million transactions; the format would allow 64

_PLAIN, _DUPLICATE, _TXID = 0, 1, 2

_SMALLEST_LEAF = 2  # offset and flags of a duplicate

_SELF = b""
"""In place of a hash: the node is its left neighbour again."""


class Bump(Struct, gc=False):
    """One Merkle path, of one or several transactions of a block."""

    height: int  # of the block
    depth: int  # how many levels it has
    first: dict[int, bytes]  # level 0: offset -> hash (wire order)
    flagged: list[int]  # leaves the sender marked as transactions of his
    raw: bytes  # as it stood
    index: int  # place among the paths of the payload: "bump 0"
    above: list[dict[int, bytes]] = []  # levels 1 and up, but for a line
    line: Root = b""  # of a path of two neighbours and one node a level, read as such: the root both lead to
    whole: bool = False  # one level that holds every leaf of its block

    @property
    def levels(self) -> list[dict[int, bytes]]:
        """All levels: offset -> hash (wire order), level 0 first. The keeping of a line's costs a second reading."""
        if self.line and not self.above:
            self.above = _read_any(self.raw, 0, self.index)[0].above
        return [self.first, *self.above]

    def leaves(self) -> dict[Txid, int]:
        """Transactions on level 0, and their places in the block.

        Raises:
            Malformed: one transaction at two places.
        """
        found = {txid: offset for offset, txid in self.first.items()}
        if len(found) != len(self.first):
            raise Malformed("structure.bump-duplicate", f"bump {self.index} level 0", "one transaction at two places")
        return found

    def root(self, wanted: set[int]) -> Root:
        """The root that every leaf in `wanted` (offsets on level 0, one at least) leads to.

        Cost: one double hash for each pair of known neighbours.

        Raises:
            Malformed: a hash is missing, two values for one node, or a pair no tree has.
        """
        if self.line:
            return self.line
        if self.whole:
            return self._root_of_all()
        computed: dict[int, bytes] = {}
        end: int | None = None  # the last node of this level, where a duplicate has told it
        for level, given in enumerate([self.first, *self.above]):
            for offset in given.keys() & computed.keys():
                if given[offset] != computed[offset]:
                    raise self._bad("structure.bump-roots", level, f"offset {offset} has two values")
            nodes = given | computed
            computed = {}
            if end is not None and max(offset for offset, node in nodes.items() if node != _SELF) > end:
                raise self._bad("structure.bump-duplicate", level, f"offset {end} is the last, as a duplicate says")
            for offset, right in nodes.items():
                if not offset & 1:
                    continue
                left = nodes.get(offset - 1)
                if left is None:
                    continue
                if right == _SELF:
                    if max(nodes) != offset:
                        raise self._bad("structure.bump-duplicate", level, f"offset {offset - 1} is not the last")
                    right, end = left, offset - 1
                elif right == left:
                    raise self._bad("structure.bump-duplicate", level, f"offsets {offset - 1} and {offset} are equal")
                computed[offset >> 1] = hash256(left + right)
            if self.depth == 1 and nodes.keys() == {0}:
                return nodes[0]  # a block's only transaction is its root
            end = None if end is None else end >> 1
            wanted = {offset >> 1 for offset in wanted}
            if not wanted <= computed.keys():
                raise self._bad("structure.bump-missing", level, "a neighbour is missing")
        return computed[0]

    def superfluous(self) -> bool:
        """Whether nodes are given that no leaf needs as a neighbour."""
        if self.line:
            return False
        line = {offset for offset, node in self.first.items() if node != _SELF}
        for nodes in self.above:
            line = {offset >> 1 for offset in line}
            if not nodes.keys() <= {offset ^ 1 for offset in line}:
                return True
        return False

    def _root_of_all(self) -> Root:
        nodes = [self.first[offset] for offset in range(len(self.first))]
        level = 0
        while len(nodes) > 1:
            pairs = zip(nodes[::2], nodes[1::2], strict=False)
            if any(left == right for left, right in pairs):
                raise self._bad("structure.bump-duplicate", level, "equal neighbours")
            if len(nodes) & 1:
                nodes.append(nodes[-1])
            nodes = [hash256(left + right) for left, right in zip(nodes[::2], nodes[1::2], strict=True)]
            level += 1
        return nodes[0]

    def _bad(self, code: str, level: int, message: str) -> Malformed:
        return Malformed(code, f"bump {self.index} level {level}", message)


def read_bump(data: bytes, start: int, index: int = 0) -> tuple[Bump, int]:
    """The path that begins at `start`, and the position behind it.

    index: which path of the payload it is, for messages.
    Cost: linear in its bytes. Of a line the root is computed on the way; of other paths nothing is hashed.

    Raises:
        Malformed: the bytes are no path, or one that no tree has.
    """
    if (bump := quick_bump(data, start, Bump)) is not None:
        bump.index = index
        return bump, start + len(bump.raw)
    return _read_any(data, start, index)


def _read_any(data: bytes, start: int, index: int) -> tuple[Bump, int]:
    height, at = varint(data, start)
    if height >= MAX_HEIGHT:
        raise Malformed("structure.bump-height", f"bump {index}", f"block height {height}")
    flagged: list[int] = []
    levels: list[dict[int, bytes]] = []
    try:
        count = data[at]
        at += 1
        if not 1 <= count <= MAX_LEVELS:
            raise Malformed("structure.bump-height", f"bump {index}", f"{count} levels")
        for level in range(count):
            # One byte is the common case of a number; a call for each costs a third of the whole reading.
            number = data[at]
            at += 1
            if number >= 0xFD:
                number, at = counted(data, at - 1, _SMALLEST_LEAF)
            nodes: dict[int, bytes] = {}
            for _ in range(number):
                offset = data[at]
                at += 1
                if offset >= 0xFD:
                    offset, at = varint(data, at - 1)
                flags = data[at]
                at += 1
                if flags == _DUPLICATE:
                    if not offset & 1 or _SELF in nodes.values():
                        raise Malformed("structure.bump-duplicate", f"bump {index} level {level}", f"offset {offset}")
                    nodes[offset] = _SELF
                    continue
                if flags:
                    if flags != _TXID or level:
                        raise Malformed("structure.bump-leaf", f"bump {index} level {level}", f"flags {flags}")
                    flagged.append(offset)
                nodes[offset] = data[at : at + 32]
                at += 32
            if len(nodes) != number:
                raise Malformed("structure.bump-leaf", f"bump {index} level {level}", "an offset twice")
            levels.append(nodes)
    except IndexError:
        raise truncated(data) from None
    if at > len(data):
        raise truncated(data)
    bump = Bump(height, len(levels), levels[0], flagged, data[start:at], index, levels[1:])
    _check_offsets(bump)
    return bump, at


def _check_offsets(bump: Bump) -> None:
    # An offset tells left from right on every level; beyond the tree its high bits would be free to say anything.
    width = 1 << bump.depth
    leaves = bump.first
    if not leaves:
        raise Malformed("structure.bump-leaf", f"bump {bump.index} level 0", "no leaf")
    if width == 2 and len(leaves) > 2:
        bump.whole = max(leaves) == len(leaves) - 1 and _SELF not in leaves.values()
        if bump.whole:
            return
    for level, nodes in enumerate([leaves, *bump.above]):
        for offset in nodes:
            if offset >= width:
                raise Malformed("structure.bump-leaf", f"bump {bump.index} level {level}", f"offset {offset}")
        width >>= 1


def write_bump(height: int, levels: list[dict[int, bytes]], flagged: set[int]) -> bytes:
    """A path's bytes, offsets ascending. An empty hash is written as a duplicate."""
    parts = [write_varint(height), bytes((len(levels),))]
    for level, nodes in enumerate(levels):
        parts.append(write_varint(len(nodes)))
        for offset, node in sorted(nodes.items()):
            flags = _DUPLICATE if node == _SELF else _TXID if level == 0 and offset in flagged else _PLAIN
            parts += (write_varint(offset), bytes((flags,)), node)
    return b"".join(parts)
