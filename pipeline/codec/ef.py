"""Extended Format (BRC-30): a transaction in which each input carries the output it spends.

BRC-30's text gives the value 4 bytes; every implementation writes 8.
"""

from collections.abc import Sequence

from pipeline.codec.reader import Malformed, counted, truncated, varint, write_varint
from pipeline.codec.tx import EF_MARKER, SMALLEST_INPUT, Tx, read_tx


def write_ef(tx: Tx, coins: Sequence[bytes]) -> bytes:
    """The transaction in Extended Format.

    coins: for each input the output it spends, as `Tx.output` gives it: just what the format puts behind an input.
    """
    raw, ins = tx.raw, tx.ins
    parts = [raw[:4], EF_MARKER, write_varint(len(coins))]
    for vin, coin in enumerate(coins):
        parts.append(raw[ins[vin] : ins[vin + 1]])
        parts.append(coin)
    parts.append(raw[ins[-1] :])
    return b"".join(parts)


def read_ef(data: bytes) -> tuple[Tx, list[bytes]]:
    """Inverse of `write_ef`. What the coins say is the sender's word: compare it with the parents.

    Raises:
        Malformed: not one transaction in Extended Format, exactly.
    """
    if data[4:10] != EF_MARKER:
        raise Malformed("malformed.magic", "byte 4", "no Extended Format marker")
    count, at = counted(data, 10, SMALLEST_INPUT + 9)
    parts = [data[:4], write_varint(count)]
    coins = []
    for _ in range(count):
        length, behind = varint(data, at + 36)
        coin_at = behind + length + 4
        length, behind = varint(data, coin_at + 8)
        parts.append(data[at:coin_at])
        at = behind + length
        if at > len(data):
            raise truncated(data)
        coins.append(data[coin_at:at])
    parts.append(data[at:])
    return read_tx(b"".join(parts)), coins
