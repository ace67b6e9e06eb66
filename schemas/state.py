"""Entries of the apply state: the values behind the keys that `pipeline/state.py` lays out."""

from typing import Literal

from msgspec import Struct

from schemas.external import Admittance
from schemas.flow import Examined, Operation, Origin, Prepare
from schemas.operations import Vote
from schemas.types import Context, Outpoint, Txid
from schemas.wire import Schema


class Known(Struct, frozen=True, array_like=True):
    """A transaction whose spends count: it was submitted here, or came as an un-mined ancestor."""

    spends: bytes  # its outpoints, 36 bytes each
    outputs: int


class Submission(Struct, frozen=True, array_like=True):
    """What a judgement depends on besides the coins of its context: enough to judge again."""

    raw: bytes  # the transaction
    sources: tuple[bytes, ...]  # by input the output it spends, as it stands; empty where the payload did not hold it
    off_chain: bytes
    examined: Examined | None = None  # what the manager made of these, where it examines


class Applied(Struct, frozen=True, array_like=True):
    """A transaction that was submitted to a context, and how it was judged last: the answer to a repeat."""

    sequence: int  # of the journal entry that judged it
    state_root: bytes
    origin: Origin
    request_id: str
    contexts: int
    admittance: Admittance
    manager: str
    submission: Submission
    brought: int = 0  # sequence of the journal entry that holds the payload it came with; 0: nobody noted it


class Queue(Struct, frozen=True, array_like=True):
    """Work of a context that one transaction could not hold: entries `first` to before `next` of it wait.

    What is put back in front takes the number below `first`.
    """

    first: int
    next: int


class Rejudge(Struct, frozen=True, array_like=True, tag="rejudge"):
    """These see other coins than when they were judged."""

    operation: str
    txids: tuple[Txid, ...]


class Leave(Struct, frozen=True, array_like=True, tag="leave"):
    """These descend from one that was refused, or are it: children before their parents."""

    operation: str
    root: Txid
    txids: tuple[Txid, ...]
    first: int  # place of the first of them among all that leave


class Return(Struct, frozen=True, array_like=True, tag="return"):
    """These left with one that the network took after all, or are it: parents before their children."""

    operation: str
    root: Txid
    txids: tuple[Txid, ...]


Waiting = Rejudge | Leave | Return
"""What stands in a queue."""


class Tombstone(Struct, frozen=True, array_like=True):
    """A transaction the network refused."""

    code: str
    message: str
    competing: tuple[Txid, ...]


class Departed(Struct, frozen=True, array_like=True):
    """A transaction that left with one that was refused, as it stood: with that one it returns."""

    root: Txid  # the one that was refused, which it descends from or is
    place: int  # among all that left with it: children before their parents
    known: Known
    accepted: bool
    applied: Applied | None  # None: nobody submitted it
    lost: Outpoint = b""  # what a rival of it, or of a parent of it, held when it was to return


class Contested(Struct, frozen=True, array_like=True):
    """Who may yet have a coin that an eviction returned: as the network said, and nobody has decided."""

    by: tuple[Txid, ...]


class Losers(Struct, frozen=True, array_like=True):
    """Ingest coordinates of transactions that lost an outpoint, oldest first."""

    origins: tuple[Origin, ...]


class Stood(Struct, frozen=True, array_like=True):
    """Where a record of `operations` stood that is kept in the state, and how it came."""

    topic: str = ""  # with the installation's prefix
    partition: int = -1
    offset: int = -1
    timestamp_ms: int = 0
    headers: tuple[tuple[str, bytes], ...] = ()


class Prepared(Struct, frozen=True, array_like=True):
    """An operation over several contexts that this one has voted on, and that nobody has decided as far as it knows.

    One that it does not agree to is held only in the context named first, which makes the next attempt.
    """

    operation: Prepare
    stood: Stood
    vote: Vote
    does: Literal["apply", "merge", "repeat", ""] = ""  # what a commit comes to; empty: it did not agree
    admittance: Admittance = Admittance()  # the judgement it agreed with
    previous: tuple[int, ...] = ()  # inputs that spent admitted outputs when it was judged
    examined: Examined | None = None  # the facts it was judged with
    manager: str = ""  # "tm_x/version"


class Waiter(Struct, frozen=True, array_like=True):
    """Something that belongs to one context and waits for an undecided operation there. It holds nothing."""

    behind: bytes  # the operation it waits for
    own: bytes  # the operation it is a part of itself; empty: none
    size: int  # bytes it counts for
    operation: Operation
    stood: Stood


class Behind(Struct, frozen=True, array_like=True):
    """Numbers of what waits for an operation, in order of arrival: sequences of the entries that say so."""

    numbers: tuple[int, ...]


class Holds(Struct, frozen=True, array_like=True):
    """What is undecided in a context. There is no such entry where nothing is."""

    prepared: int = 0  # operations that it has voted on
    waiters: int = 0
    size: int = 0  # bytes of those


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
    settling: tuple[Context, ...] = ()  # contexts whose queues are not empty: they come before the next input
    undecided: tuple[Context, ...] = ()  # contexts that have prepared operations which nobody has decided


STATE = Schema("state", 1, bytes, "raw", "A stored value: 32 bytes of SHA-256, then the value; the key says its kind.")
