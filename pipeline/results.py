"""Results: what became of a request, with ids that follow from what was decided (RESULT-1)."""

import hashlib
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal

from msgspec import Struct

from pipeline.outcome import Condition, Verdict
from schemas.external import Admittance, Outcome, Result, ResultOrigin
from schemas.flow import Asked, Origin
from schemas.types import Context, Txid, display


class About(Struct, frozen=True):
    """What a decision concerns."""

    origin: Origin
    request_ids: tuple[str, ...] = ()
    txid: Txid | None = None
    context: Context | None = None
    contexts: int = 0

    @classmethod
    def of(cls, asked: Asked, txid: Txid, context: Context) -> "About":
        """One context of a request."""
        return cls(asked.origin, (asked.request_id,), txid, context, len(asked.contexts))

    @classmethod
    def before_contexts(cls, origin: Origin, request_id: str, txid: Txid | None = None) -> "About":
        """A request that reached none of its contexts."""
        return cls(origin, (request_id,), txid)


def decision_id(origin: Origin, context: Context | None, *, parked: bool = False) -> str:
    """Id of the decision on an ingest record and context: 128 bits, hexadecimal.

    A parked record that is replayed gets its decision under the other id, which then stands in place of `parked`.
    """
    return id_of("parked" if parked else "decision", origin.text(), context or "")


def operation_id(origin: Origin) -> str:
    """Name of an operation over several contexts, the same in all of them and over all attempts."""
    return id_of("operation", origin.text())


def network_id(txid: Txid) -> str:
    """Id of the network's answer on a transaction."""
    return id_of("network", display(txid))


def eviction_id(txid: Txid, context: Context) -> str:
    """Id of a transaction's leaving a context."""
    return id_of("evicted", display(txid), context)


def revision_id(txid: Txid, context: Context) -> str:
    """Id of what a context says of a transaction that it judged again."""
    return id_of("revised", display(txid), context)


def id_of(*parts: str) -> str:
    """128 bits, hexadecimal, that follow from these."""
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()


@lru_cache(maxsize=16)
def rfc3339(now_ms: int) -> str:
    """UTC, with milliseconds. A batch has one time."""
    return datetime.fromtimestamp(now_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def applied(
    about: About,
    admittance: Admittance,
    sequence: int,
    state_root: bytes,
    now_ms: int,
    *,
    repeat: bool = False,
    merge: bool = False,
) -> Result:
    """The context applied the transaction, as the journal's entry `sequence` says."""
    return _result(
        decision_id(about.origin, about.context), "applied", about, now_ms, revision=sequence,
        admittance=admittance, sequence=sequence, state_root=state_root.hex(), repeat=repeat, merge=merge,
    )  # fmt: skip


def rejected(
    about: About, verdict: Verdict, now_ms: int, *, revision: int = 0, competing: tuple[Txid, ...] = ()
) -> Result:
    """The payload was refused by us.

    revision: the context's sequence when a context decided, 0 in stages without state.
    """
    return _result(
        decision_id(about.origin, about.context), "rejected", about, now_ms, revision=revision,
        code=verdict.code, message=verdict.message, at=verdict.at, competing=competing,
    )  # fmt: skip


def parked(about: About, cause: Condition | Verdict, now_ms: int) -> Result:
    """A condition outlasted `retry.give_up_after_s`, or a fault was ours: the payload waits in the dead letters.

    Where a request has contexts and none is named, what is parked is the network's answer.
    """
    network = about.txid is not None and about.context is None and about.contexts > 0
    name = network_id(about.txid) if network and about.txid else decision_id(about.origin, about.context, parked=True)
    return _result(name, "parked", about, now_ms, code=cause.code, message=cause.message, at=cause.at)


def accepted(about: About, endpoint: str, now_ms: int, revision: int) -> Result:
    """The network took the transaction. revision: of its status, 1 for the first."""
    assert about.txid is not None
    return _result(network_id(about.txid), "accepted", about, now_ms, revision=revision, endpoint=endpoint)


def refused(
    about: About, verdict: Verdict, endpoint: str, now_ms: int, revision: int, competing: tuple[Txid, ...] = ()
) -> Result:
    """The network refused the transaction. revision: as in `accepted`."""
    assert about.txid is not None
    return _result(
        network_id(about.txid), "refused", about, now_ms, revision=revision,
        code=verdict.code, message=verdict.message, endpoint=endpoint, competing=competing,
    )  # fmt: skip


def in_block(
    about: About,
    outcome: Literal["mined", "buried"],
    height: int,
    root: bytes,
    now_ms: int,
    endpoint: str,
    revision: int,
) -> Result:
    """The transaction is in a block: told once for each block, again when it is deep, and to who asks later.

    revision: of its status.
    """
    assert about.txid is not None
    name = id_of(outcome, display(about.txid), str(height), root.hex())
    return _result(name, outcome, about, now_ms, revision=revision, endpoint=endpoint or None, block_height=height)


def revised(about: About, admittance: Admittance, sequence: int, state_root: bytes, now_ms: int) -> Result:
    """The context judged the transaction again, and otherwise: something it spends came or went."""
    assert about.txid is not None
    assert about.context is not None
    return _result(
        revision_id(about.txid, about.context), "revised", about, now_ms,
        revision=sequence, admittance=admittance, sequence=sequence, state_root=state_root.hex(),
    )  # fmt: skip


def evicted(
    about: About, verdict: Verdict, sequence: int, state_root: bytes, now_ms: int, competing: tuple[Txid, ...] = ()
) -> Result:
    """The transaction left the context, because it or one it descends from was refused."""
    assert about.txid is not None
    assert about.context is not None
    return _result(
        eviction_id(about.txid, about.context), "evicted", about, now_ms, revision=sequence, code=verdict.code,
        message=verdict.message, sequence=sequence, state_root=state_root.hex(), competing=competing,
    )  # fmt: skip


def _result(
    name: str,
    outcome: Outcome,
    about: About,
    now_ms: int,
    *,
    revision: int = 0,
    code: str | None = None,
    message: str = "",
    at: str = "",
    admittance: Admittance | None = None,
    sequence: int | None = None,
    state_root: str | None = None,
    repeat: bool = False,
    competing: tuple[Txid, ...] = (),
    endpoint: str | None = None,
    block_height: int | None = None,
    merge: bool = False,
) -> Result:
    origin = about.origin
    return Result(
        id=name,
        revision=revision,
        request_ids=about.request_ids,
        txid=display(about.txid) if about.txid is not None else None,
        context=about.context,
        contexts=about.contexts,
        outcome=outcome,
        code=code,
        message=message or None,
        at=at or None,
        admittance=admittance,
        sequence=sequence,
        state_root=state_root,
        repeat=repeat,
        competing=tuple(display(txid) for txid in competing),
        endpoint=endpoint,
        block_height=block_height,
        merge=merge,
        origin=ResultOrigin(origin.topic, origin.partition, origin.offset),
        time=rfc3339(now_ms),
    )
