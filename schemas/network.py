"""Where transactions stand with the network, and the news that says so."""

from typing import Literal

from msgspec import Struct

from schemas.flow import Origin
from schemas.types import Context, Root, Txid
from schemas.wire import Schema


class Word(Struct, frozen=True, array_like=True):
    """What an endpoint said last about a transaction."""

    endpoint: str
    kind: Literal["accepted", "pending", "condition", "refused"]
    status: str  # as the endpoint named it: SEEN_ON_NETWORK, 465
    code: str  # a row of the registry of codes; empty when accepted
    message: str
    network: bool  # the network's own word, not the endpoint's check
    at_ms: int  # when it was heard (Unix milliseconds)
    competing: tuple[Txid, ...] = ()
    asked: bool = False  # the answer to where it stands, not to a call that hands it over
    began_ms: int = 0  # of a call that hands it over: no later than that


class Reported(Struct, frozen=True, array_like=True, tag="reported"):
    """A request was broadcast: what the endpoints said about one transaction of its family."""

    words: tuple[Word, ...]
    endpoints: tuple[str, ...]  # all that count: one that has been down for long does not
    stands: bool  # accepted, and all its un-mined ancestors with it
    contexts: tuple[Context, ...]
    request_ids: tuple[str, ...] = ()  # who asked for it; an ancestor was asked for by nobody
    origin: Origin | None = None
    handed: bool = False  # it stands on `transactions`
    ef: bytes = b""  # Extended Format (BRC-30), for when it is accepted later; empty where it was handed on
    again: bool = False  # it waits, to be sent again


class Looked(Struct, frozen=True, array_like=True, tag="looked"):
    """Endpoints were asked where a transaction stands."""

    words: tuple[Word, ...]  # of those that know it
    endpoints: tuple[str, ...]  # as in Reported
    asked_ms: int
    silent: tuple[str, ...] = ()  # who was asked, and gave no answer


class Heard(Struct, frozen=True, array_like=True, tag="heard"):
    """An endpoint said something by itself."""

    words: tuple[Word, ...]
    path: bytes = b""  # BUMP (BRC-74) that came along; the trackers are yet to be asked


class Anchored(Struct, frozen=True, array_like=True, tag="anchored"):
    """The trackers were asked about a Merkle path of a transaction."""

    path: bytes  # BUMP (BRC-74)
    height: int
    root: Root
    stands: bool  # they say yes; no otherwise: what they cannot say is not reported
    tip: int  # height of the chain when they were asked
    asked_ms: int


class Challenged(Struct, frozen=True, array_like=True, tag="challenged"):
    """A context knows the transaction, and another that spends the same waits there."""

    by: Txid
    context: Context
    sent: bool  # whether the context asked for it to be broadcast, or for what descends from it
    proven: bool = False  # whether it came there with a proof, so that nobody had to


class Challenges(Struct, frozen=True, array_like=True, tag="challenges"):
    """A context knows others that spend what the transaction spends, and came before it; or it knows the transaction as
    refused, and its payload comes with a path.
    """

    holders: tuple[Txid, ...]
    context: Context
    path: bytes = b""  # BUMP (BRC-74) that its payload brought; the trackers said yes when that was verified


class Outdone(Struct, frozen=True, array_like=True, tag="outdone"):
    """Another that spends the same is in a block, or no longer."""

    by: Txid
    stands: bool


News = Reported | Looked | Heard | Anchored | Challenged | Challenges | Outdone
"""What is heard about a transaction."""


class NetworkStatus(Struct, frozen=True, array_like=True):
    """Where a transaction stands."""

    revision: int  # of the last result about it; 0: none yet
    decided: Literal["", "accepted", "refused"]
    endpoint: str  # who accepted it first, or whose refusal is repeated
    code: str = ""  # why it was refused
    message: str = ""
    competing: tuple[Txid, ...] = ()
    contexts: tuple[Context, ...] = ()  # that have it, or asked for it
    request_ids: tuple[str, ...] = ()
    origin: Origin | None = None  # of the first payload that asked for it
    words: tuple[Word, ...] = ()  # the last of each endpoint
    stood: bool = False  # it was accepted once with all its ancestors
    settles_ms: int = 0  # a refusal counts when a look at or after this time finds no acceptance; 0: none is due
    look_ms: int = 0  # when endpoints are to be asked next; 0: not
    looks: int = 0  # asked so far, since something was last heard otherwise
    path: bytes = b""  # a Merkle path that the trackers vouch for: it is mined
    height: int = -1  # of its block
    root: Root = b""
    buried: bool = False  # so deep that nobody looks any more
    counting: tuple[str, ...] = ()  # endpoints whose silence counts, as last reported
    awaiting: tuple[Context, ...] = ()  # where one that spends the same waits for what is decided
    rivals: tuple[Txid, ...] = ()  # that spend what it spends, as contexts say
    outdone: tuple[Txid, ...] = ()  # those of them that are in a block
    claimed: bytes = b""  # a Merkle path that the trackers are still to be asked about
    sent: bool = False  # somebody asked for it to be broadcast
    unsent_ms: int = 0  # never sent, when a look at or after this time finds that nobody knows it; 0: not in question
    trying: bool = False  # as last reported, it waits to be sent again
    handed: bool = False  # it stands on `transactions`
    ef: bytes = b""  # for `transactions`, when it is accepted; empty where it stands there


NEWS: Schema[News] = Schema(
    "network-news",
    1,
    News,  # type: ignore[arg-type] # a union is not a type to mypy
    "msgpack",
    "What was heard about a transaction.",
)
NETWORK_STATUS = Schema("network-status", 1, NetworkStatus, "msgpack", "Where a transaction stands with the network.")
