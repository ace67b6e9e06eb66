"""Operations over several contexts: what their coordinator hears, and where each stands (design: all or nothing)."""

from typing import Literal

from msgspec import Struct

from schemas.flow import Asked
from schemas.types import Context, Txid
from schemas.wire import Schema

NAME_BYTES = 16
"""Of an operation, as a key."""

Kind = Literal["verdict", "condition", "fault"]


class Vote(Struct, frozen=True, array_like=True, tag="vote"):
    """A context's answer to an attempt."""

    attempt: int
    context: Context
    says: Literal["yes", "no", "later"]
    asked: Asked  # without off-chain values and instructions: whoever votes first opens the operation
    txid: Txid
    kind: Kind = "verdict"  # why it does not agree
    code: str = ""
    message: str = ""
    competing: tuple[Txid, ...] = ()


class Overtaken(Struct, frozen=True, array_like=True, tag="overtaken"):
    """An older operation needs what this one has prepared in a context."""

    attempt: int
    context: Context
    by: str  # the older operation


class Due(Struct, frozen=True, array_like=True, tag="due"):
    """The coordinator's clock: the deadline of an attempt has come, or the time to forget what was decided."""

    attempt: int


Said = Vote | Overtaken | Due
"""What is heard about an operation."""


class OperationStatus(Struct, frozen=True, array_like=True):
    """Where an operation over several contexts stands."""

    attempt: int
    asked: Asked
    txid: Txid
    opened_ms: int  # of the attempt (Unix milliseconds)
    due_ms: int  # undecided: its deadline; decided: when that is forgotten
    yes: tuple[Context, ...] = ()
    decided: Literal["", "commit", "abort"] = ""
    decided_ms: int = 0
    final: bool = False  # no further attempt follows
    kind: Kind = "verdict"
    code: str = ""
    message: str = ""
    by: Context = ""
    competing: tuple[Txid, ...] = ()


VOTE: Schema[Said] = Schema(
    "vote",
    1,
    Said,  # type: ignore[arg-type] # a union is not a type to mypy
    "msgpack",
    "What is heard about an operation over several contexts.",
)
DECISION = Schema("decision", 1, OperationStatus, "msgpack", "Where an operation over several contexts stands.")
