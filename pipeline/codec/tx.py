"""Transactions: scanned once, kept as bytes and offsets."""

from array import array
from collections.abc import Sequence

from msgspec import Struct

from pipeline.codec.hashing import hash256
from pipeline.codec.quick import quick_tx
from pipeline.codec.reader import Malformed, truncated, varint
from schemas.types import Outpoint, Txid

NULL_TXID = bytes(32)
NULL_OUTPOINT = NULL_TXID + b"\xff\xff\xff\xff"
FINAL_SEQUENCE = b"\xff\xff\xff\xff"

SMALLEST_INPUT = 41  # outpoint, empty script, sequence
SMALLEST_OUTPUT = 9  # value, empty script
SMALLEST_TX = 61  # what ARC and the nodes relay
NODE_SIZE = 64  # a transaction of this size hashes like two nodes of a Merkle tree: it could pose as one

EF_MARKER = bytes.fromhex("0000000000ef")

SMALL = 256
"""Inputs or outputs from which on their places stand in an array: a list is quicker to fill, but its 36 bytes an item
would let 8 MB of inputs take 100 MB."""


class Tx(Struct, gc=False, eq=False):
    """One transaction: its bytes, and where its parts stand in them.

    Reading a field costs a slice; nothing is kept an object a field, so that millions of inputs stay cheap.
    """

    txid: Txid
    raw: bytes
    ins: Sequence[int]  # where each input begins in `raw`, and behind the last where they end
    outs: Sequence[int]  # the same for outputs
    start: int = 0  # where `raw` begins in the bytes it was read from
    index: int = 0  # place among the entries of the payload: "tx 3"
    bump: int = -1  # which proof of the payload covers it; -1: none
    leaf: int = -1  # its place in the block, as the proof says
    parents: Sequence["Tx | None"] = ()  # by input, where the payload holds them

    @property
    def version(self) -> int:
        """As the network reads it: signed, 32 bits."""
        return int.from_bytes(self.raw[:4], "little", signed=True)

    @property
    def locktime(self) -> int:
        """Block height, or Unix seconds from 500,000,000 up."""
        return int.from_bytes(self.raw[-4:], "little")

    @property
    def proven(self) -> bool:
        """Whether a Merkle path of the payload covers it."""
        return self.bump >= 0

    def outpoint(self, vin: int) -> Outpoint:
        """What input `vin` spends."""
        at = self.ins[vin]
        return self.raw[at : at + 36]

    def vout(self, vin: int) -> int:
        """Which output of its parent input `vin` spends."""
        at = self.ins[vin]
        return int.from_bytes(self.raw[at + 32 : at + 36], "little")

    def unlocking(self, vin: int) -> bytes:
        """Unlocking script of input `vin`."""
        length, at = varint(self.raw, self.ins[vin] + 36)
        return self.raw[at : at + length]

    def sequence(self, vin: int) -> bytes:
        """Sequence number of input `vin`, 4 bytes as they stand."""
        end = self.ins[vin + 1]
        return self.raw[end - 4 : end]

    def satoshis(self, vout: int) -> int:
        """Value of output `vout`; below 2**64, not otherwise checked."""
        at = self.outs[vout]
        return int.from_bytes(self.raw[at : at + 8], "little")

    def locking(self, vout: int) -> bytes:
        """Locking script of output `vout`."""
        length, at = varint(self.raw, self.outs[vout] + 8)
        return self.raw[at : at + length]

    def output(self, vout: int) -> bytes:
        """Output `vout` as it stands: value, then locking script with its length."""
        return self.raw[self.outs[vout] : self.outs[vout + 1]]

    def spends(self) -> bytes:
        """All outpoints, 36 bytes each, in input order."""
        raw, ins = self.raw, self.ins
        if len(ins) == 2:
            return raw[ins[0] : ins[0] + 36]
        return b"".join([raw[at : at + 36] for at in ins[:-1]])

    def is_coinbase(self) -> bool:
        """Whether it makes new coins: one input, which spends nothing."""
        return len(self.ins) == 2 and self.raw[5:41] == NULL_OUTPOINT

    def is_final(self, height: int, median_time_past: int) -> bool:
        """Whether a block of this height may hold it (BIP 113). Strict inequalities."""
        lock = self.locktime
        if lock == 0 or lock < (height if lock < 500_000_000 else median_time_past):
            return True
        return all(self.sequence(vin) == FINAL_SEQUENCE for vin in range(len(self.ins) - 1))


def scan(data: bytes, start: int) -> Tx:
    """The transaction that begins at `start`; `len(tx.raw)` tells where it ends.

    Cost: linear in its bytes; two offsets an input or output are kept.

    Raises:
        Malformed: truncated, a count beyond the bytes, a number in a longer form, no inputs or outputs, or a size
            that no relayed transaction has.
    """
    if (tx := quick_tx(data, start, Tx)) is not None:
        return tx
    try:
        count = data[start + 4]
        at = start + 5
        if count >= 0xFD:
            count, at = varint(data, start + 4)
        if count == 0:
            extended = data[start + 4 : start + 10] == EF_MARKER
            raise Malformed("structure.no-inputs", "", "Extended Format inside BEEF" if extended else "")
        if count * SMALLEST_INPUT > len(data) - at:
            raise Malformed("malformed.count", f"byte {start + 4}", f"{count} inputs")
        ins: list[int] | array[int] = [] if count < SMALL else array("I")
        for _ in range(count):
            ins.append(at - start)
            length = data[at + 36]
            at += 37
            if length >= 0xFD:
                length, at = _wide(data, at - 1)
            at += length + 4
        ins.append(at - start)
        count = data[at]
        at += 1
        if count >= 0xFD:
            count, at = varint(data, at - 1)
        if count == 0:
            raise Malformed("structure.no-outputs")
        if count * SMALLEST_OUTPUT > len(data) - at:
            raise Malformed("malformed.count", f"byte {at}", f"{count} outputs")
        outs: list[int] | array[int] = [] if count < SMALL else array("I")
        for _ in range(count):
            outs.append(at - start)
            length = data[at + 8]
            at += 9
            if length >= 0xFD:
                length, at = _wide(data, at - 1)
            at += length
        outs.append(at - start)
    except IndexError:
        raise truncated(data) from None
    end = at + 4
    if end > len(data):
        raise truncated(data)
    raw = data[start:end]
    if len(raw) < SMALLEST_TX or len(raw) == NODE_SIZE:
        raise Malformed("structure.tx-size", "", f"{len(raw)} bytes")
    return Tx(hash256(raw), raw, ins, outs, start)


def read_tx(data: bytes) -> Tx:
    """One transaction and nothing behind it.

    Raises:
        Malformed: as `scan`, or bytes follow.
    """
    tx = scan(data, 0)
    if len(tx.raw) != len(data):
        raise Malformed("malformed.trailing-bytes", f"byte {len(tx.raw)}")
    return tx


def _wide(data: bytes, at: int) -> tuple[int, int]:
    length, after = varint(data, at)
    if length > len(data) - after:
        raise truncated(data)
    return length, after
