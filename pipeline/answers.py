"""Answers to requests, and word for holders: with ids that follow from what was said (RESULT-1's way)."""

from pipeline.baskets import OWNED
from pipeline.contextual import Ended
from pipeline.outcome import Verdict
from pipeline.read import shown
from pipeline.results import id_of, rfc3339
from schemas.external import ResultOrigin
from schemas.flow import Origin
from schemas.reservations import Answer, OwnerAnswer
from schemas.types import Context, display, outpoints


def answered(
    context: Context, request_id: str, origin: Origin, answer: Answer, now_ms: int, *, repeat: bool
) -> OwnerAnswer:
    """What a context said to a request. One id for each record and context, however often it is said."""
    return OwnerAnswer(
        id=id_of("answer", origin.text()),
        request_id=request_id,
        owner=context.removeprefix(OWNED),
        outcome=answer.outcome,
        code=answer.code or None,
        message=answer.message or None,
        reservation=answer.reservation,
        token=answer.token or None,
        holder=answer.holder or None,
        outputs=tuple(map(shown, outpoints(answer.points))),
        ends=rfc3339(answer.ends_ms) if answer.ends_ms else None,
        sequence=answer.sequence or None,
        state_root=answer.state_root.hex() or None,
        repeat=repeat,
        origin=_origin(origin),
        time=rfc3339(now_ms),
    )


def unread(request_id: str | None, owner: str | None, origin: Origin, verdict: Verdict, now_ms: int) -> OwnerAnswer:
    """A request that no context saw."""
    return OwnerAnswer(
        id=id_of("answer", origin.text()),
        request_id=request_id,
        owner=owner,
        outcome="refused",
        code=verdict.code,
        message=verdict.message,
        origin=_origin(origin),
        time=rfc3339(now_ms),
    )


def ended(context: Context, what: Ended, now_ms: int) -> OwnerAnswer:
    """What a holder hears unasked."""
    owner = context.removeprefix(OWNED)
    return OwnerAnswer(
        id=id_of("ended", owner, what.id, str(what.sequence)),
        request_id=what.id,
        owner=owner,
        outcome=what.how,
        reservation=what.id,
        token=what.token,
        holder=what.holder or None,
        outputs=tuple(map(shown, what.points)),
        txid=display(what.txid) if what.how != "expired" else None,
        sequence=what.sequence,
        state_root=what.state_root.hex(),
        time=rfc3339(now_ms),
    )


def _origin(origin: Origin) -> ResultOrigin:
    return ResultOrigin(origin.topic, origin.partition, origin.offset)
