"""Transactions as a simulated node reads and judges them. Shares no code with `pipeline`.

Raw (BRC-12) and Extended Format (BRC-30). All rules are those after Genesis; Chronicle is not in force.
"""

import hashlib
from collections.abc import Sequence

import _bsv_native as native
from msgspec import Struct

from schemas.types import Outpoint, Txid, display

EF_MARKER = bytes.fromhex("0000000000ef")
NULL = bytes(32)

ALL, NONE, SINGLE, FORKID, ANYONE = 0x01, 0x02, 0x03, 0x40, 0x80


class UnreadableError(Exception):
    """The bytes are no transaction. The message says where."""


class Spent(Struct, frozen=True):
    """An output, as its spender or its maker states it."""

    satoshis: int
    script: bytes


class In(Struct):
    """An input. `spent` is what Extended Format says of the output; None in raw form."""

    txid: Txid
    vout: int
    script: bytes
    sequence: int
    spent: Spent | None = None

    @property
    def outpoint(self) -> Outpoint:
        """36 bytes."""
        return self.txid + self.vout.to_bytes(4, "little")


class Tx(Struct):
    """A transaction that could be read. Nothing about it has been checked."""

    txid: Txid
    raw: bytes  # without what Extended Format adds
    version: int
    inputs: list[In]
    outputs: list[Spent]
    locktime: int


class _Cursor:
    def __init__(self, data: bytes, at: int) -> None:
        self.data = data
        self.at = at

    def take(self, size: int) -> bytes:
        piece = self.data[self.at : self.at + size]
        if len(piece) != size:
            raise UnreadableError(f"ends within {size} bytes at {self.at}")
        self.at += size
        return piece

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def varint(self) -> int:
        first = self.number(1)
        return first if first < 0xFD else self.number(1 << (first - 0xFC))

    def script(self) -> bytes:
        return self.take(self.varint())


def read(data: bytes, at: int = 0) -> tuple[Tx, int]:
    """The transaction that begins at `at`, and where it ends.

    Raises:
        UnreadableError: it does not end within the bytes.
    """
    cursor = _Cursor(data, at)
    version = cursor.number(4)
    extended = data[cursor.at : cursor.at + 6] == EF_MARKER
    if extended:
        cursor.take(6)
    inputs = [_read_input(cursor, extended) for _ in _counted(cursor, 41)]
    outputs = [Spent(cursor.number(8), cursor.script()) for _ in _counted(cursor, 9)]
    locktime = cursor.number(4)
    raw = write(version, inputs, outputs, locktime) if extended else data[at : cursor.at]
    return Tx(hash256(raw), raw, version, inputs, outputs, locktime), cursor.at


def _counted(cursor: _Cursor, smallest: int) -> range:
    count = cursor.varint()
    if count * smallest > len(cursor.data) - cursor.at:
        raise UnreadableError(f"{count} items promised at {cursor.at}")
    return range(count)


def _read_input(cursor: _Cursor, extended: bool) -> In:
    found = In(cursor.take(32), cursor.number(4), cursor.script(), cursor.number(4))
    if extended:
        found.spent = Spent(cursor.number(8), cursor.script())
    return found


def read_one(data: bytes) -> Tx:
    """The transaction these bytes are, and nothing else.

    Raises:
        UnreadableError: they are not.
    """
    tx, end = read(data)
    if end != len(data):
        raise UnreadableError(f"{len(data) - end} bytes follow the transaction")
    return tx


def read_all(data: bytes) -> list[Tx]:
    """Transactions one after the other, with nothing between.

    Raises:
        UnreadableError: the bytes do not end with one.
    """
    found, at = [], 0
    while at < len(data):
        tx, at = read(data, at)
        found.append(tx)
    return found


def write(version: int, inputs: Sequence[In], outputs: Sequence[Spent], locktime: int) -> bytes:
    """A raw transaction."""
    parts = [version.to_bytes(4, "little"), varint(len(inputs))]
    parts += [
        each.outpoint + varint(len(each.script)) + each.script + each.sequence.to_bytes(4, "little") for each in inputs
    ]
    parts += [varint(len(outputs)), *map(write_output, outputs), locktime.to_bytes(4, "little")]
    return b"".join(parts)


def write_output(output: Spent) -> bytes:
    """An output as a transaction holds it."""
    return output.satoshis.to_bytes(8, "little") + varint(len(output.script)) + output.script


def varint(n: int) -> bytes:
    """A number in its shortest form."""
    for limit, prefix, size in ((0xFD, b"", 1), (1 << 16, b"\xfd", 2), (1 << 32, b"\xfe", 4)):
        if n < limit:
            return prefix + n.to_bytes(size, "little")
    return b"\xff" + n.to_bytes(8, "little")


def hash256(data: bytes) -> bytes:
    """Double SHA-256."""
    return hashlib.sha256(hashlib.sha256(data).digest()).digest()


class Digester:
    """Signature hashes of one transaction's inputs (the digest with FORKID); what inputs share is hashed once."""

    def __init__(self, tx: Tx) -> None:
        self.tx = tx
        self.prevouts = hash256(b"".join(each.outpoint for each in tx.inputs))
        self.sequences = hash256(b"".join(each.sequence.to_bytes(4, "little") for each in tx.inputs))
        self.outputs = hash256(b"".join(map(write_output, tx.outputs)))

    def digest(self, index: int, spent: Spent, kind: int) -> bytes:
        """What a signature of type `kind` in input `index` signs."""
        tx, own, base = self.tx, self.tx.inputs[index], kind & 0x1F
        outputs = self.outputs
        if base == SINGLE:
            outputs = hash256(write_output(tx.outputs[index])) if index < len(tx.outputs) else NULL
        elif base == NONE:
            outputs = NULL
        return hash256(
            tx.version.to_bytes(4, "little")
            + (NULL if kind & ANYONE else self.prevouts)
            + (NULL if kind & ANYONE or base in (NONE, SINGLE) else self.sequences)
            + own.outpoint
            + varint(len(spent.script))
            + spent.script
            + spent.satoshis.to_bytes(8, "little")
            + own.sequence.to_bytes(4, "little")
            + outputs
            + tx.locktime.to_bytes(4, "little")
            + kind.to_bytes(4, "little")
        )


def unlocks(tx: Tx, index: int, spent: Spent, digester: Digester) -> str | None:
    """Why input `index` may not spend the output, or None when it may.

    P2PKH is judged here; everything else by the native engine, which has no limits of time or memory: not for bytes
    that nobody looked at before.
    """
    unlocking, locking = tx.inputs[index].script, spent.script
    pushes = pushed(unlocking)
    if pushes is None:
        return "unlocking script is not push only"
    if len(locking) == 25 and locking[:3] == b"\x76\xa9\x14" and locking[23:] == b"\x88\xac" and len(pushes) == 2:
        return _p2pkh(pushes[0], pushes[1], index, spent, digester)
    return _engine(tx, index, spent)


def pushed(script: bytes) -> list[bytes] | None:
    """What a script of pushes alone pushes; None when it holds another opcode or ends within a push."""
    found, at = [], 0
    while at < len(script):
        op, at = script[at], at + 1
        if op > 0x60 or op == 0x50:
            return None
        if op > 0x4E:
            found.append(b"\x81" if op == 0x4F else bytes([op - 0x50]))
            continue
        if op > 0x4B:
            width = 1 << (op - 0x4C)
            op, at = int.from_bytes(script[at : at + width], "little"), at + width
        if at + op > len(script):
            return None
        found.append(script[at : at + op])
        at += op
    return found


def _p2pkh(signature: bytes, public: bytes, index: int, spent: Spent, digester: Digester) -> str | None:
    if hashlib.new("ripemd160", hashlib.sha256(public).digest()).digest() != spent.script[3:23]:
        return "Script failed an OP_EQUALVERIFY operation"
    if (public[:1], len(public)) not in ((b"\x02", 33), (b"\x03", 33), (b"\x04", 65)):
        return "public key is neither compressed nor uncompressed"
    if (flaw := _flaw(signature)) is not None:
        return flaw
    digest = digester.digest(index, spent, signature[-1])
    if not native.ecdsa_verify(signature[:-1], digest, public):
        return "Script evaluated without error but finished with a false/empty top stack element"
    return None


HALF_ORDER = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0
"""Of secp256k1's group: a signature with a larger s has a twin with a smaller one, and is refused."""


def _flaw(signature: bytes) -> str | None:
    """Strict DER (BIP 66), low S, a defined type with FORKID."""
    der = signature[:-1]
    if not 8 <= len(der) <= 72 or der[0] != 0x30 or der[1] != len(der) - 2 or der[2] != 2:
        return "Non-canonical DER signature"
    r = der[4 : 4 + der[3]]
    rest = der[4 + der[3] :]
    s = rest[2:]
    if len(rest) < 3 or rest[0] != 2 or rest[1] != len(s) or any(_unnatural(number) for number in (r, s)):
        return "Non-canonical DER signature"
    if int.from_bytes(s, "big") > HALF_ORDER:
        return "Non-canonical signature: S value is unnecessarily high"
    if signature[-1] & ~ANYONE not in (ALL | FORKID, NONE | FORKID, SINGLE | FORKID):
        return "Signature hash type missing or not understood"
    return None


def _unnatural(number: bytes) -> bool:
    """Empty, negative, or padded beyond need."""
    return not number or number[0] >= 0x80 or (number[0] == 0 and (len(number) == 1 or number[1] < 0x80))


def _engine(tx: Tx, index: int, spent: Spent) -> str | None:
    own = tx.inputs[index]
    others = [_other(each) for number, each in enumerate(tx.inputs) if number != index]
    unlocking, locking = native.parse_script_chunks(own.script), native.parse_script_chunks(spent.script)
    outputs = list(map(write_output, tx.outputs))
    spender = (tx.version, display(own.txid), own.vout, tx.locktime, index, own.sequence, spent.satoshis)
    try:
        native.spend_validate(unlocking, locking, *spender, others, outputs)
    except (RuntimeError, ValueError, IndexError, OverflowError) as refused:
        return str(refused)
    return None


def _other(each: In) -> tuple[str, int, bytes, int, int, int]:
    """Another input as the engine wants it. Of its coin the digest with FORKID covers nothing."""
    return display(each.txid), each.vout, b"", 0, each.sequence, ALL | FORKID
