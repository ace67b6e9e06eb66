"""The chain as one header service sees it, with what is wrong with its view."""

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from ops.instruments.chain import BITS, CHECKPOINT, WORK
from ops.instruments.payloads import mainnet_data
from ops.instruments.wire import hash256
from ops.simulate.faults import Faults
from schemas.types import Root, display, from_display

MODES = {
    "behind": "Its tip is `depth` blocks lower.",
    "reorganisation": "It follows a branch that replaces the last `depth` blocks by one more; `roots`: its first.",
    "lying": "`root`: tells another root, and confirms that alone. `confirm`: confirms whatever it is asked.",
}
"""Faults of header services alone, beside those of `faults.TRANSPORT`."""


class Header(Struct, frozen=True):
    """A block header. Hashes are display hex."""

    height: int
    hash: str
    version: int
    previous: str
    root: str
    time: int
    bits: int
    nonce: int
    raw: bytes
    on_best_chain: bool = True

    @property
    def chain_work(self) -> int:
        """Work from the checkpoint up; what lies below is not counted."""
        return WORK * (self.height - CHECKPOINT + 1)


class Headers(Protocol):
    """What a view needs of a chain: `Chain`, or `BareChain`."""

    tip: int

    def refresh(self) -> bool:
        """Take over what was added."""

    def header(self, height: int) -> bytes:
        """The header at `height`."""

    def branch(self, depth: int, roots: Sequence[Root] = ()) -> list[bytes]:
        """Headers that replace the last `depth` blocks. roots: of the first of them, in place of its own."""


class View:
    """Best chain and tip. Heights below the checkpoint are known by root alone, and only those of real payloads."""

    def __init__(self, chain: Headers, faults: Faults) -> None:
        self.chain = chain
        self.faults = faults
        self._old_roots = mainnet_data().root_table()
        self._heights: dict[bytes, int] = {}
        self._indexed = 0
        self._branches: dict[tuple[int, int, tuple[str, ...]], list[bytes]] = {}

    def _branch(self) -> tuple[int, list[bytes]]:
        """First height and headers of the branch followed; above the tip, and none, while the chain itself is."""
        self.chain.refresh()
        fault = self.faults.get("reorganisation")
        if fault is None:
            return self.chain.tip + 1, []
        at = self.chain.tip, fault.depth, fault.roots
        if at not in self._branches:
            self._branches[at] = self.chain.branch(fault.depth, [from_display(root) for root in fault.roots])
        return self.chain.tip - fault.depth + 1, self._branches[at]

    @property
    def tip(self) -> int:
        """Height of the best header."""
        first, branch = self._branch()
        behind = self.faults.get("behind")
        return max(CHECKPOINT, first + len(branch) - 1 - (behind.depth if behind else 0))

    def header(self, height: int) -> Header | None:
        """The best chain's header, or None when this service has none there."""
        if not CHECKPOINT <= height <= self.tip:
            return None
        first, branch = self._branch()
        raw = branch[height - first] if height >= first else self.chain.header(height)
        return self._told(height, raw)

    def headers(self, height: int, count: int) -> list[Header]:
        """Up to `count` headers from `height` up, as far as they go."""
        found = [self.header(each) for each in range(height, min(height + count, self.tip + 1))]
        return [header for header in found if header is not None]

    def raws(self, height: int, count: int) -> bytes:
        """The same as bare bytes, without looking at each."""
        if self.faults.get("lying") is not None:
            return b"".join(header.raw for header in self.headers(height, count))
        first, branch = self._branch()
        heights = range(max(height, CHECKPOINT), min(height + count, self.tip + 1))
        return b"".join(branch[each - first] if each >= first else self.chain.header(each) for each in heights)

    def by_hash(self, block_hash: bytes) -> Header | None:
        """A header by its hash (wire order): on the best chain, or replaced."""
        first, branch = self._branch()
        for offset, raw in enumerate(branch):
            if hash256(raw) == block_hash:
                return self._told(first + offset, raw)
        while self._indexed <= self.chain.tip - CHECKPOINT:
            self._heights[hash256(self.chain.header(CHECKPOINT + self._indexed))] = CHECKPOINT + self._indexed
            self._indexed += 1
        height = self._heights.get(block_hash)
        if height is None or (height > self.tip and height < first):
            return None
        return self._told(height, self.chain.header(height), best=height < first)

    def root(self, height: int) -> Root | None:
        """The root this service tells for a height, wire order, or None when it knows none."""
        header = self.header(height)
        if header is not None:
            return bytes.fromhex(header.root)[::-1]
        known = self._old_roots.get(height)
        return None if known is None else self._lied(known)

    def roots(self) -> list[tuple[int, Root]]:
        """All roots this service knows, by height."""
        heights = [*sorted(self._old_roots), *range(CHECKPOINT, self.tip + 1)]
        found = ((height, self.root(height)) for height in heights)
        return [(height, root) for height, root in found if root is not None]

    def confirms_anything(self) -> bool:
        """Whether it says yes to every question that holds its answer."""
        fault = self.faults.get("lying")
        return fault is not None and fault.lie == "confirm"

    def median_time_past(self) -> int:
        """Median of the last 11 headers' times, Unix seconds."""
        times = sorted(header.time for header in self.headers(max(CHECKPOINT, self.tip - 10), 11))
        return times[len(times) // 2]

    def _lied(self, root: Root) -> Root:
        fault = self.faults.get("lying")
        return hash256(root) if fault is not None and fault.lie == "root" else root

    def _told(self, height: int, raw: bytes, best: bool = True) -> Header:
        """A header as this service tells it. A lie about the root spoils hash and work, as it must."""
        raw = raw[:36] + self._lied(raw[36:68]) + raw[68:]
        number = [int.from_bytes(raw[at : at + 4], "little") for at in (0, 68, 72, 76)]
        version, time, bits, nonce = number
        return Header(
            height,
            display(hash256(raw)),
            version,
            display(raw[4:36]),
            display(raw[36:68]),
            time,
            bits,
            nonce,
            raw,
            best,
        )


DIFFICULTY = (0xFFFF << 208) / ((BITS & 0xFFFFFF) << (8 * ((BITS >> 24) - 3)))
"""As nodes print it: how much harder than the easiest target of the main network."""
