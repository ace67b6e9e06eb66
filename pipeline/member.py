"""Transactions of a verified payload by their places in its bytes.

A payload travels whole from stage to stage; beside it a transaction needs twelve bytes an input, and what follows from
them (outpoints, Extended Format) is cut out of the payload where it is needed. Three numbers of 32 bits for each input,
little-endian: where in the payload it ends, and where the output it spends begins and ends (0 and 0 where the payload
does not hold that).
"""

import struct
import sys
from array import array

from pipeline.codec.reader import write_varint
from pipeline.codec.tx import EF_MARKER, Tx
from schemas.flow import Member, Verified
from schemas.types import Outpoint, outpoints

_ONE = struct.Struct("<3I")
_LENGTHS = {0xFD: 3, 0xFE: 5, 0xFF: 9}


def member_of(tx: Tx) -> Member:
    """A transaction whose parents are linked, as a member of the payload it was read from."""
    ins, outs = tx.ins, len(tx.outs) - 1
    if len(ins) == 2:
        return Member(tx.txid, tx.start, len(tx.raw), outs, _ONE.pack(tx.start + ins[1], *_coin(tx, 0)))
    places = array("I")
    for vin in range(len(ins) - 1):
        places.append(tx.start + ins[vin + 1])
        places.extend(_coin(tx, vin))
    return Member(tx.txid, tx.start, len(tx.raw), outs, _little(places).tobytes())


def _coin(tx: Tx, vin: int) -> tuple[int, int]:
    parent = tx.parents[vin]
    if parent is None:
        return 0, 0
    vout, at = tx.vout(vin), parent.start
    return at + parent.outs[vout], at + parent.outs[vout + 1]


def raw(beef: bytes, member: Member) -> bytes:
    """The transaction's bytes."""
    return beef[member.start : member.start + member.size]


def spends(beef: bytes, member: Member) -> bytes:
    """Its outpoints, 36 bytes each, in input order."""
    at = _first_input(beef, member)
    if len(member.inputs) == 12:
        return beef[at : at + 36]
    parts = []
    for end in _places(member)[::3]:
        parts.append(beef[at : at + 36])
        at = end
    return b"".join(parts)


def spends_of(verified: Verified) -> list[list[Outpoint]]:
    """Outpoints that each member of a payload spends."""
    beef = verified.beef
    return [list(outpoints(spends(beef, one))) for one in verified.members]


def sources(beef: bytes, member: Member) -> tuple[bytes, ...]:
    """By input the output it spends, as it stands; empty where the payload does not hold it."""
    places = _places(member)
    return tuple([beef[places[at] : places[at + 1]] for at in range(1, len(places), 3)])


def extended(beef: bytes, member: Member) -> bytes:
    """The transaction in Extended Format (BRC-30). Its parents' outputs must all be in the payload."""
    places = _places(member)
    at = _first_input(beef, member)
    parts = [beef[member.start : member.start + 4], EF_MARKER, write_varint(len(places) // 3)]
    for place in range(0, len(places), 3):
        end, coin, coin_end = places[place : place + 3]
        parts.append(beef[at:end])
        parts.append(beef[coin:coin_end])
        at = end
    parts.append(beef[at : member.start + member.size])
    return b"".join(parts)


def _first_input(beef: bytes, member: Member) -> int:
    at = member.start + 4
    return at + _LENGTHS.get(beef[at], 1)


def _places(member: Member) -> "array[int]":
    places = array("I")
    places.frombytes(member.inputs)
    return _little(places)


def _little(places: "array[int]") -> "array[int]":
    if sys.byteorder == "big":
        places.byteswap()
    return places
