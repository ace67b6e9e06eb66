"""tm_tokendemo: tokens, of which a transaction moves as many as it takes (TOKEN-1).

The rule of the reference's manager of this name, with exact amounts and each coin counted once; docs/topic-managers.md
lists where it is stricter.
"""

from collections import Counter

import orjson
from msgspec import Struct

from pipeline.keys import is_public
from pipeline.overlay.manager import Subject
from pipeline.overlay.pushdrop import read_pushdrop
from schemas.external import Admittance
from schemas.types import Outpoint, display

MINT = b"___mint___"
"""Stands in an output that makes tokens. They are known by its outpoint from then on."""

METADATA_BYTES = 65_536
"""Metadata at most: JSON of brackets alone takes twenty times its bytes while it is read."""


class Token(Struct, frozen=True):
    """What an output holds: tokens of one id."""

    id: bytes
    amount: int  # below 2**64


class TokenDemo:
    """PushDrops of an id, an amount (u64, little-endian) and metadata (JSON); further fields are the sender's own."""

    version = "1"
    contract = 2

    def admit(self, subject: Subject) -> Admittance:
        """All outputs that hold tokens, or none: of each id that is not made here, what is spent is what comes out."""
        found = {vout: token for vout, output in enumerate(subject.outputs) if (token := read_token(output.script))}
        made: Counter[bytes] = Counter()
        for token in found.values():
            if token.id != MINT:
                made[token.id] += token.amount
        if made != _spent(subject):
            return Admittance()
        return Admittance(outputs_to_admit=tuple(found))


def _spent(subject: Subject) -> Counter[bytes]:
    """Amounts of the subject's previous coins, by id."""
    spent: Counter[bytes] = Counter()
    for point, script in {coin.outpoint: coin.script for coin in subject.coins}.items():
        if token := read_token(script):
            spent[minted(point) if token.id == MINT else token.id] += token.amount
    return spent


def minted(point: Outpoint) -> bytes:
    """Id of what an output made: `txid.vout`, the txid as people print it (display order), as in the reference."""
    return f"{display(point[:32])}.{int.from_bytes(point[32:], 'little')}".encode()


def read_token(script: bytes) -> Token | None:
    """The tokens in a locking script, or None where it holds none.

    Metadata is JSON as RFC 8259 has it, nested 1,024 deep at most: orjson counts the levels, where other readers stop
    when the interpreter's stack is full, which is elsewhere in every process.
    """
    found = read_pushdrop(script)
    if found is None or len(found.fields) < 3:
        return None
    name, amount, metadata, *_ = found.fields
    if len(amount) != 8 or len(metadata) > METADATA_BYTES or not is_public(found.key):
        return None
    try:
        orjson.loads(metadata)
    except orjson.JSONDecodeError:
        return None
    return Token(name, int.from_bytes(amount, "little"))
