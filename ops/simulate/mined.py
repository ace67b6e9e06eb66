"""What the simulated network knows to be mined: the chain's transactions, and the proven ones of real payloads."""

from typing import TypeVar

from msgspec import Struct

from ops.instruments.chain import Chain
from ops.instruments.payloads import mainnet_data
from ops.instruments.wire import hash256, merkle_path, write_bump
from ops.simulate.tx import Spent, Tx, read, read_one
from schemas.types import Txid, display

T = TypeVar("T")

KEPT = 10_000
"""Transactions kept with their places and outputs: every judgement asks for a parent's three times."""


class Mined(Struct, frozen=True):
    """Where a transaction is mined."""

    height: int
    block_hash: str  # display hex; empty where only the block's root is known
    bump: str  # hexadecimal


class MinedView:
    """Mined transactions by txid, as of the last `refresh`."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self._places: dict[Txid, tuple[int, int]] = {}
        self._outputs: dict[Txid, list[Spent]] = {}
        self._mainnet = {tx.txid: (tx, mined) for tx, mined in _mainnet()}

    def refresh(self) -> None:
        """Take over what the chain has grown by."""
        self.chain.refresh()

    def outputs(self, txid: Txid) -> list[Spent] | None:
        """What the transaction made, or None when it is not mined here."""
        if txid in self._mainnet:
            return self._mainnet[txid][0].outputs
        if (known := self._outputs.get(txid)) is not None:
            return known
        if (place := self._place(txid)) is None:
            return None
        outputs = read_one(self.chain.transaction(*place)).outputs
        _keep(self._outputs, txid, outputs)
        return outputs

    def proof(self, txid: Txid) -> Mined | None:
        """Where and by what proof, or None when it is not mined here."""
        if txid in self._mainnet:
            return self._mainnet[txid][1]
        if (place := self._place(txid)) is None:
            return None
        height, leaf = place
        bump = write_bump(height, merkle_path(self.chain.block(height).levels, [leaf]))
        return Mined(height, display(hash256(self.chain.header(height))), bump.hex())

    def __contains__(self, txid: Txid) -> bool:
        return txid in self._mainnet or self._place(txid) is not None

    def _place(self, txid: Txid) -> tuple[int, int] | None:
        if (found := self._places.get(txid)) is not None:
            return found
        found = self.chain.find(txid)
        if found is not None:
            _keep(self._places, txid, found)
        return found


def _keep(kept: dict[Txid, T], txid: Txid, what: T) -> None:
    if len(kept) == KEPT:
        kept.clear()
    kept[txid] = what


def _mainnet() -> list[tuple[Tx, Mined]]:
    """The proven transactions of the real payloads."""
    found = []
    for payload in mainnet_data().payloads:
        bumps, entries = read_beef(bytes.fromhex(payload.beef))
        found += [(tx, Mined(bumps[at][0], "", bumps[at][1])) for tx, at in entries if at is not None]
    return found


def read_beef(beef: bytes) -> tuple[list[tuple[int, str]], list[tuple[Tx, int | None]]]:
    """Height and hexadecimal form of each path, and each transaction with the path it claims. Trusted V1 bytes only."""
    count, at = _varint(beef, 4)
    bumps = []
    for _ in range(count):
        height, end = _bump(beef, at)
        bumps.append((height, beef[at:end].hex()))
        at = end
    count, at = _varint(beef, at)
    entries: list[tuple[Tx, int | None]] = []
    for _ in range(count):
        tx, at = read(beef, at)
        has_bump, at = beef[at], at + 1
        index = None
        if has_bump:
            index, at = _varint(beef, at)
        entries.append((tx, index))
    return bumps, entries


def _bump(data: bytes, at: int) -> tuple[int, int]:
    """Height of the path that begins at `at`, and where it ends."""
    height, at = _varint(data, at)
    levels, at = data[at], at + 1
    for _ in range(levels):
        leaves, at = _varint(data, at)
        for _ in range(leaves):
            _, at = _varint(data, at)
            at += 1 if data[at] & 1 else 33
    return height, at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    first = data[at]
    if first < 0xFD:
        return first, at + 1
    end = at + 1 + (1 << (first - 0xFC))
    return int.from_bytes(data[at + 1 : end], "little"), end
