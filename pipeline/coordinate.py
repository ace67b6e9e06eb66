"""The coordinator of operations over several contexts (ATOMIC-1, ATOMIC-2): pure, by operation.

It opens at the first vote, decides each attempt once, and answers every late or repeated vote with what it decided.
What may pass (a condition, the deadline, an older operation that needs what is prepared) ends the attempt and not the
operation: the context named first makes the next one.
"""

from msgspec import Struct
from msgspec.structs import replace

from schemas.flow import Asked, Decide
from schemas.operations import Due, OperationStatus, Overtaken, Said, Vote
from schemas.types import Context


class Limits(Struct, frozen=True):
    """How long, in milliseconds."""

    deadline_ms: int  # an attempt
    kept_ms: int  # what was decided


class Step(Struct, frozen=True):
    """What was heard comes to."""

    status: OperationStatus | None  # None: nobody knows of it any more
    tells: tuple[tuple[Context, Decide], ...] = ()


def hear(operation: str, status: OperationStatus | None, said: Said, now_ms: int, limits: Limits) -> Step:
    """The next standing of an operation, and whom to tell."""
    match said:
        case Vote():
            return _vote(operation, status, said, now_ms, limits)
        case Overtaken():
            if not _is_open(status, said.attempt):
                return Step(status)
            message = f"an older operation, {said.by}, needs what it prepared in {said.context}"
            return _later(operation, status, "conflict.undecided", message, said.context, now_ms, limits)
        case Due():
            return _due(operation, status, said, now_ms, limits)


def bare(asked: Asked) -> Asked:
    """What a request asked for, without what may be large."""
    return replace(asked, off_chain=b"", instructions=()) if asked.off_chain or asked.instructions else asked


def _is_open(status: OperationStatus | None, attempt: int) -> bool:
    return status is not None and not status.decided and status.attempt == attempt


def _vote(operation: str, status: OperationStatus | None, vote: Vote, now_ms: int, limits: Limits) -> Step:
    if status is None or (vote.attempt > status.attempt and status.decided != "commit"):
        status = OperationStatus(vote.attempt, vote.asked, vote.txid, now_ms, now_ms + limits.deadline_ms)
    if status.decided or vote.attempt < status.attempt:
        return Step(status, ((vote.context, _answer(operation, status, vote)),))
    match vote.says:
        case "yes":
            yes = tuple(sorted({*status.yes, vote.context}))
            status = replace(status, yes=yes)
            if set(yes) < set(status.asked.contexts):
                return Step(status)
            return _decided(operation, replace(status, decided="commit", final=True), now_ms, limits)
        case "no":
            return _decided(operation, _against(status, vote, final=True), now_ms, limits)
        case "later":
            return _decided(operation, _against(status, vote, final=False), now_ms, limits)


def _against(status: OperationStatus, vote: Vote, *, final: bool) -> OperationStatus:
    return replace(
        status,
        decided="abort",
        final=final,
        kind=vote.kind,
        code=vote.code,
        message=vote.message,
        by=vote.context,
        competing=vote.competing,
    )


def _due(operation: str, status: OperationStatus | None, said: Due, now_ms: int, limits: Limits) -> Step:
    if status is None or status.attempt != said.attempt or now_ms < status.due_ms:
        return Step(status)
    if status.decided:
        return Step(None)
    missing = [context for context in status.asked.contexts if context not in status.yes]
    message = f"{missing[0]} and {len(missing) - 1} more of {len(status.asked.contexts)} did not vote in time"
    return _later(operation, status, "internal.deadline", message, missing[0], now_ms, limits)


def _later(
    operation: str,
    status: OperationStatus | None,
    code: str,
    message: str,
    by: Context,
    now_ms: int,
    limits: Limits,
) -> Step:
    assert status is not None
    ended = replace(status, decided="abort", final=False, kind="condition", code=code, message=message, by=by)
    return _decided(operation, ended, now_ms, limits)


def _decided(operation: str, status: OperationStatus, now_ms: int, limits: Limits) -> Step:
    status = replace(status, decided_ms=now_ms, due_ms=now_ms + limits.kept_ms)
    contexts = status.asked.contexts
    return Step(status, tuple((context, _word(operation, status, status.attempt)) for context in contexts))


def _word(operation: str, status: OperationStatus, attempt: int) -> Decide:
    return Decide(
        operation=operation,
        attempt=attempt,
        commit=status.decided == "commit",
        asked=status.asked,
        txid=status.txid,
        final=status.final,
        again=not status.final,
        kind=status.kind,
        code=status.code,
        message=status.message,
        by=status.by,
        competing=status.competing,
    )


def _answer(operation: str, status: OperationStatus, vote: Vote) -> Decide:
    """To a vote that decides nothing any more."""
    if status.decided == "commit" and vote.says != "yes":
        # Everything is read again, and the context has refused what it had applied: that stands for it from now on.
        final = vote.says == "no"
        return Decide(
            operation, vote.attempt, False, status.asked, status.txid, final, False,
            vote.kind, vote.code, vote.message, vote.context, vote.competing,
        )  # fmt: skip
    if status.final:
        return _word(operation, status, vote.attempt)
    if status.decided and vote.attempt == status.attempt:
        return _word(operation, status, vote.attempt)
    # A later attempt is under way, or was made: that one is answered for.
    return Decide(operation, vote.attempt, False, status.asked, status.txid, final=False, code="conflict.undecided")
