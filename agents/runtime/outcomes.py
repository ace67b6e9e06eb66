"""From a stage's decision to the records that follow: one place for results, retry tiers and dead letters."""

from collections.abc import Sequence

from agents.runtime.records import Decision, Defer, Emit, Fault, Hold, Inbound, Out, Refuse, SetAside
from pipeline import results, retry
from pipeline.outcome import Condition, Verdict
from pipeline.results import About
from schemas import headers as h
from schemas.external import RESULT, Result
from schemas.reservations import OWNER_ANSWER, OwnerAnswer
from schemas.types import Context
from topics import registry

TIERS = (registry.RETRY_10S, registry.RETRY_1M, registry.RETRY_10M)

_DROPPED = h.RETRY_NAMES | h.DEAD_LETTER_NAMES | {h.TRACEPARENT}


MESSAGE_CHARS = 2000
"""Of a cause: an exception may quote the payload it failed on."""


def result_key(result: Result) -> bytes:
    """Key of a result: its txid, or the ingest coordinate where there is none."""
    if result.txid is not None:
        return result.txid.encode()
    origin = result.origin
    return f"{origin.topic}/{origin.partition}/{origin.offset}".encode() if origin else result.id.encode()


def result_out(result: Result) -> Out:
    """A result as a record."""
    return Out(registry.RESULTS, result_key(result), RESULT.encode(result))


def answer_out(answer: OwnerAnswer) -> Out:
    """An answer as a record."""
    origin = answer.origin
    key = answer.request_id or (f"{origin.topic}/{origin.partition}/{origin.offset}" if origin else answer.id)
    return Out(registry.ANSWERS, key.encode(), OWNER_ANSWER.encode(answer))


def accepted_headers(endpoint: str, contexts: Sequence[Context], request_ids: Sequence[str]) -> list[tuple[str, bytes]]:
    """Of a record on `transactions`."""
    return [
        ("endpoint", endpoint.encode()),
        ("status", b"accepted"),
        ("contexts", ",".join(contexts).encode()),
        ("request-ids", ",".join(request_ids).encode()),
    ]


class Router:
    """Turns decisions into records, for one stage."""

    def __init__(self, stage: str, prefix: str, give_up_after_ms: int) -> None:
        self.stage = stage
        self._cut = len(prefix)
        self._give_up_after_ms = give_up_after_ms

    def outs(self, record: Inbound, decision: Decision, now_ms: int) -> Sequence[Out]:
        """What to write for a record, everything its decision asks for."""
        match decision:
            case Emit(outs):
                return outs
            case Refuse(verdict, about, revision, competing, outs):
                result = results.rejected(about, verdict, now_ms, revision=revision, competing=competing)
                letter = self.dead_letter(record, "verdict", verdict.code, verdict.message, now_ms)
                return [*outs, result_out(result), letter]
            case SetAside(verdict, outs):
                return [*outs, self.dead_letter(record, "verdict", verdict.code, verdict.message, now_ms)]
            case Defer(condition, about, outs, others):
                return [*outs, *self._wait(record, condition, (about, *others), now_ms)]
            case Hold(condition, since_ms, outs):
                step = retry.held(*_before(waiting(record)), now_ms, since_ms)
                return [*outs, self._tier(record, step, condition.code)]
            case Fault(code, message, fault_about, outs):
                return [*outs, *self._fault(record, code, message, fault_about, now_ms)]

    def kind(self, decision: Decision) -> tuple[str, str]:
        """Labels of the outcome metric."""
        match decision:
            case Emit(_, code):
                return ("ok", code)
            case Refuse(verdict) | SetAside(verdict):
                return ("verdict", verdict.code)
            case Defer(condition) | Hold(condition):
                return ("condition", condition.code)
            case Fault(code):
                return ("fault", code)

    def _wait(self, record: Inbound, condition: Condition, abouts: Sequence[About], now_ms: int) -> list[Out]:
        step = retry.after(*_before(waiting(record)), now_ms, self._give_up_after_ms)
        if isinstance(step, retry.GiveUp):
            return [
                *(result_out(results.parked(about, condition, now_ms)) for about in abouts),
                self.dead_letter(record, "exhausted", condition.code, condition.message, now_ms),
            ]
        return [self._tier(record, step, condition.code)]

    def _tier(self, record: Inbound, step: retry.Wait, code: str) -> Out:
        kept = h.RetryHeaders(
            origin_topic=self._logical(record),
            origin_partition=record.partition,
            origin_offset=record.offset,
            attempt=step.attempt,
            first_failed=step.first_failed,
            not_before=step.not_before,
            code=code,
        )
        headers = [*h.without(record.headers, _DROPPED), *h.to_pairs(kept)]
        return Out(TIERS[step.tier], record.key, record.value or b"", headers)

    def _fault(self, record: Inbound, code: str, message: str, about: About | None, now_ms: int) -> list[Out]:
        letter = self.dead_letter(record, "fault", code, message, now_ms)
        if about is None:
            return [letter]
        return [result_out(results.parked(about, Verdict(code, message[:MESSAGE_CHARS]), now_ms)), letter]

    def dead_letter(self, record: Inbound, class_: str, code: str, message: str, now_ms: int) -> Out:
        """The record as it was, its cause in the headers."""
        topic, partition, offset = self._origin(record)
        cause = h.DeadLetterHeaders(
            class_=class_,
            code=code,
            message=message[:MESSAGE_CHARS],
            stage=self.stage,
            origin_topic=topic,
            origin_partition=partition,
            origin_offset=offset,
            failed_at=now_ms,
        )
        headers = [*h.without(record.headers, _DROPPED), *h.to_pairs(cause)]
        return Out(registry.DEAD_LETTERS, record.key, record.value or b"", headers)

    def _origin(self, record: Inbound) -> tuple[str, int, int]:
        """Where a record stands, or stood before it waited. Only in a tier are its headers ours for certain."""
        topic = self._logical(record)
        waited = waiting(record) if topic in registry.TIERS else None
        if waited is None:
            return topic, record.partition, record.offset
        return waited.origin_topic, waited.origin_partition, waited.origin_offset

    def _logical(self, record: Inbound) -> str:
        return record.topic[self._cut :]


def _before(waited: h.RetryHeaders | None) -> tuple[int, int | None]:
    """Attempts made, and when the first one failed."""
    return (0, None) if waited is None else (waited.attempt, waited.first_failed)


def waiting(record: Inbound) -> h.RetryHeaders | None:
    """The record's retry headers, or None where it never waited (or carries something else by these names)."""
    try:
        return h.retry_headers([pair for pair in record.headers if pair[1] is not None])  # senders may write nulls
    except ValueError:
        return None
