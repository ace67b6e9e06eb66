"""What signatures sign: both digests, with what the inputs of a transaction share computed once."""

from pipeline.codec.hashing import hash256
from pipeline.codec.reader import write_varint
from pipeline.codec.tx import FINAL_SEQUENCE, Tx
from pipeline.script.form import instructions
from pipeline.script.rules import ALL, ANYONE_CAN_PAY, BASE, CHRONICLE, FORKID, NONE, SINGLE

_NOTHING = bytes(32)
_ONE = b"\x01" + bytes(31)
_BLANK_OUTPUT = b"\xff" * 8 + b"\x00"
_ALL_FORKID = (ALL | FORKID).to_bytes(4, "little")
_ONE_FINAL = hash256(FINAL_SEQUENCE)
"""What most transactions of one input have for their sequences."""


class Digests:
    """The digests of one transaction.

    Cost: the first digest hashes all outpoints, sequences and outputs, further ones only what is theirs. The original
    digest has nothing to share: it hashes the transaction each time.
    """

    __slots__ = ("_outputs", "_prevouts", "_sequences", "tx")

    def __init__(self, tx: Tx) -> None:
        self.tx = tx
        self._prevouts = self._sequences = self._outputs = b""

    def steps(self, code: bytes, kind: int) -> int:
        """What the next `digest` costs, in steps of a script's meter; the verification itself is not in it."""
        steps = len(code) >> 10
        if kind & CHRONICLE:
            steps += len(self.tx.raw) >> 10
            steps += 0 if kind & ANYONE_CAN_PAY else len(self.tx.ins)
            steps += len(code) >> 2 if 0xAB in code else 0  # each instruction is looked at
        elif not self._prevouts and not kind & ANYONE_CAN_PAY:
            steps += (len(self.tx.raw) >> 10) + (len(self.tx.ins) >> 1)
        return steps

    def digest(self, vin: int, satoshis: bytes, code: bytes, kind: int) -> bytes:
        """What a signature in input `vin` signs.

        satoshis: the coin's value, 8 bytes as they stand in its output.
        code: the script that runs, from behind the last OP_CODESEPARATOR.
        kind: the hash type, 32 bits; a signature carries the low 8.
        """
        if kind & FORKID and not kind & CHRONICLE:
            return self.bip143(vin, satoshis, code, kind)
        return self.original(vin, code, kind)

    def of_coin(self, vin: int, coin: bytes, locking: bytes, kind: int) -> bytes:
        """As `digest`, where the whole locking script runs.

        coin: the output spent, as its transaction holds it; locking: its script.
        """
        if kind == ALL | FORKID:  # what nearly every signature has, spelled out
            tx = self.tx
            raw, at, end = tx.raw, tx.ins[vin], tx.ins[vin + 1]
            if not self._outputs or not self._prevouts or not self._sequences:
                self._hash_all()
            parts = (
                raw[:4], self._prevouts, self._sequences, raw[at : at + 36], coin[8:], coin[:8],
                raw[end - 4 : end], self._outputs, raw[-4:], _ALL_FORKID,
            )  # fmt: skip
            return hash256(b"".join(parts))
        if kind & FORKID and not kind & CHRONICLE:
            return self._bip143(vin, coin[:8], coin[8:], kind)
        return self.original(vin, locking, kind)

    def bip143(self, vin: int, satoshis: bytes, code: bytes, kind: int) -> bytes:
        """The digest of signatures with FORKID: it signs the coin's value."""
        return self._bip143(vin, satoshis, write_varint(len(code)) + code, kind)

    def _bip143(self, vin: int, satoshis: bytes, sized: bytes, kind: int) -> bytes:
        # sized: the code with its length before it
        tx = self.tx
        raw, at = tx.raw, tx.ins[vin]
        base = kind & BASE
        prevouts = sequences = outputs = _NOTHING
        if not kind & ANYONE_CAN_PAY:
            prevouts = self._prevouts or self._hash_prevouts()
            if base not in (NONE, SINGLE):
                sequences = self._sequences or self._hash_sequences()
        if base not in (NONE, SINGLE):
            outputs = self._outputs or self._hash_outputs()
        elif base == SINGLE and vin < len(tx.outs) - 1:
            outputs = hash256(tx.output(vin))
        end = tx.ins[vin + 1]
        return hash256(
            b"".join((
                raw[:4], prevouts, sequences, raw[at : at + 36], sized, satoshis,
                raw[end - 4 : end], outputs, raw[-4:], (kind & 0xFFFFFFFF).to_bytes(4, "little"),
            ))
        )  # fmt: skip

    def _hash_all(self) -> None:
        tx = self.tx
        raw, ins, outs = tx.raw, tx.ins, tx.outs
        if len(ins) == 2 and raw[ins[1] - 4 : ins[1]] == FINAL_SEQUENCE:
            self._prevouts = hash256(raw[5:41])
            self._sequences = _ONE_FINAL
        else:
            self._hash_prevouts()
            self._hash_sequences()
        self._outputs = hash256(raw[outs[0] : outs[-1]])

    def _hash_prevouts(self) -> bytes:
        self._prevouts = hash256(self.tx.spends())
        return self._prevouts

    def _hash_sequences(self) -> bytes:
        raw = self.tx.raw
        self._sequences = hash256(b"".join([raw[end - 4 : end] for end in self.tx.ins[1:]]))
        return self._sequences

    def _hash_outputs(self) -> bytes:
        self._outputs = hash256(self.tx.raw[self.tx.outs[0] : self.tx.outs[-1]])
        return self._outputs

    def original(self, vin: int, code: bytes, kind: int) -> bytes:
        """The digest of before 2017, and of signatures that ask for it since Chronicle."""
        tx = self.tx
        base = kind & BASE
        outs = len(tx.outs) - 1
        if base == SINGLE and vin >= outs:
            return _ONE  # not a hash at all: the first client's slip, kept by the network
        parts = [tx.raw[:4]]
        code = without_separators(code)
        own = tx.outpoint(vin) + write_varint(len(code)) + code + tx.sequence(vin)
        if kind & ANYONE_CAN_PAY:
            parts += (b"\x01", own)
        else:
            parts.append(write_varint(len(tx.ins) - 1))
            parts += [own if i == vin else self._other_input(i, base) for i in range(len(tx.ins) - 1)]
        if base == NONE:
            parts.append(b"\x00")
        elif base == SINGLE:
            parts += (write_varint(vin + 1), _BLANK_OUTPUT * vin, tx.output(vin))
        else:
            parts += (write_varint(outs), tx.raw[tx.outs[0] : tx.outs[-1]])
        parts += (tx.raw[-4:], (kind & 0xFFFFFFFF).to_bytes(4, "little"))
        return hash256(b"".join(parts))

    def _other_input(self, vin: int, base: int) -> bytes:
        return self.tx.outpoint(vin) + b"\x00" + (bytes(4) if base in (NONE, SINGLE) else self.tx.sequence(vin))


def without_separators(code: bytes) -> bytes:
    """The script without OP_CODESEPARATOR. Behind a push that ends too soon nothing is an opcode."""
    if 0xAB not in code:
        return code
    parts, kept = [], 0
    for opcode, at, _, end in instructions(code):
        if end > len(code):
            break
        if opcode == 0xAB:
            parts.append(code[kept:at])
            kept = end
    parts.append(code[kept:])
    return b"".join(parts)
