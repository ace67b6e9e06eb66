"""Broadcast dialects, one a file: a value becomes request bytes, reply bytes become a value."""

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

from msgspec import Struct

from pipeline.http import HttpRequest, Unreadable
from schemas.types import Txid

Kind = Literal["accepted", "pending", "condition", "refused", "transport", "config", "unavailable"]
"""What an endpoint's word about one transaction comes to.

accepted: it took responsibility. pending: it does not say yet. condition: may pass. refused: final there.
transport: no answer (time-out, 5xx, unreadable); asked again. config: our key, address or account; the endpoint is
paused, the transaction is not to blame. unavailable: not asked, since the endpoint is paused or its breaker is open.
"""

ANSWERS: frozenset[Kind] = frozenset({"accepted", "pending", "condition", "refused"})
"""Kinds with which an endpoint did answer."""


class Reply(Struct, frozen=True):
    """What one endpoint said about one transaction."""

    txid: Txid
    kind: Kind
    code: str = ""  # a row of pipeline/outcome.py's CODES; empty when accepted, transport, config and unavailable
    message: str = ""
    status: str = ""  # as the endpoint named it: SEEN_ON_NETWORK, 465
    competing: tuple[Txid, ...] = ()  # rivals that spend the same output
    network: bool = False  # the network's own word, not the endpoint's check: seen or mined, or rejected by a node
    path: bytes = b""  # a Merkle path (BUMP, BRC-74) that came with it; nobody has looked whether it is one


class Batch(Struct, frozen=True):
    """What one call brought."""

    replies: Mapping[Txid, Reply]
    narrow: tuple[Txid, ...] = ()  # without a word of their own: the call was refused as a whole, ask in halves


class Policy(Struct, frozen=True):
    """What an endpoint says that it takes. Sizes are those of raw transactions; 0 is no limit."""

    max_tx_bytes: int
    max_script_bytes: int
    fee_satoshis: int  # for each `fee_bytes`
    fee_bytes: int  # 1 or more


class Means(Struct, frozen=True):
    """What a status, a number or a reason comes to."""

    kind: Kind
    code: str = ""
    network: bool = False


class Dialect(Protocol):
    """How one kind of broadcast service is spoken to. Stateless.

    What a service does not offer stands here as None, so that who asks must say what it does without.
    """

    authorization: str
    """The Authorization header, `{key}` standing for the key."""

    most: int
    """Transactions that one call may carry."""

    waits: bool
    """Whether it holds a reply for a status (`wait_for`)."""

    calls_back: Mapping[str, Means] | None
    """The statuses it calls back with, for whoever gives it `X-CallbackUrl`; None: it calls nobody back."""

    def submit(self, transactions: Sequence[bytes], wait_for: str = "", max_wait_s: int = 5) -> HttpRequest:
        """The request that hands over `transactions` (Extended Format, ancestors first; `most` of them at most).

        wait_for: status to hold the reply for, at most `max_wait_s`; empty leaves it to the endpoint, as do dialects
        that do not wait.

        Raises:
            Malformed: by dialects that send another format, for what is no Extended Format.
        """

    def read(self, txids: Sequence[Txid], status: int, body: bytes) -> Batch:
        """The reply to `submit`: each of `txids` stands in `replies` or in `narrow`, and one alone in `replies`.

        Total: no bytes make it raise.
        """

    def look_up(self, txid: Txid) -> HttpRequest | None:
        """The request for where a transaction stands; None: the service cannot be asked."""

    def read_status(self, txid: Txid, status: int, body: bytes) -> Reply:
        """The reply to `look_up`. Total."""

    def probe(self) -> HttpRequest:
        """A request that is cheap, and answered by whoever is up."""

    def read_probe(self, status: int, body: bytes) -> str:
        """The reply to `probe`: empty where the service is up, else why not. Total."""

    def ask_policy(self) -> HttpRequest | None:
        """The request for what the endpoint takes; None: it does not publish that."""

    def read_policy(self, status: int, body: bytes) -> Policy | Unreadable:
        """The reply to `ask_policy`. Total."""
