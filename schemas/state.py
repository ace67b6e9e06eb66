"""Entries of the apply state: the values behind the keys that `pipeline/state.py` lays out."""

from msgspec import Struct

from schemas.external import Admittance
from schemas.flow import Origin
from schemas.types import Outpoint, Txid
from schemas.wire import Schema


class Coin(Struct, frozen=True, array_like=True):
    """An admitted output that nothing known to the context spends."""

    satoshis: int
    script: bytes
    sequence: int  # of the journal entry that admitted it


class Retained(Struct, frozen=True, array_like=True):
    """A spent coin that its manager keeps as history."""

    coin: Coin
    spender: Txid


class Known(Struct, frozen=True, array_like=True):
    """A transaction whose spends count: it was submitted here, or came as an un-mined ancestor."""

    spends: bytes  # its outpoints, 36 bytes each
    outputs: int
    consumed: tuple[tuple[Outpoint, Coin], ...]  # coins of this context it spends: what an eviction gives back
    accepted: bool = False  # by the network


class Applied(Struct, frozen=True, array_like=True):
    """What a context remembers of a transaction it judged: the answer to a repeat."""

    sequence: int  # of its journal entry
    state_root: bytes
    origin: Origin
    request_id: str
    contexts: int
    off_chain: bytes  # SHA-256 of the off-chain values, empty when there were none
    admittance: Admittance
    manager: str


class Tombstone(Struct, frozen=True, array_like=True):
    """A transaction the network refused."""

    code: str
    message: str
    competing: tuple[Txid, ...]
    raw: bytes  # Extended Format, where the context had it


class Losers(Struct, frozen=True, array_like=True):
    """Ingest coordinates of transactions that lost an outpoint, oldest first."""

    origins: tuple[Origin, ...]


class Head(Struct, frozen=True, array_like=True):
    """Where a context stands: under its own key, at the end of each batch that touched it."""

    sequence: int
    entry_hash: bytes  # SHA-256 of the last journal entry
    state_sum: bytes  # LtHash accumulator, 2,048 bytes; its digest is the state root
    store_sum: bytes


class AppliedOffset(Struct, frozen=True, array_like=True):
    """Ends a batch in `state`: the last input offset whose effects stand before it."""

    offset: int
    topic: str
    generation: int


STATE = Schema("state", 1, bytes, "raw", "A stored value: 32 bytes of SHA-256, then the value; the key says its kind.")
