"""apply: a context's rules over its state; effects exactly once."""

from collections.abc import Mapping
from typing import Annotated

from msgspec import Struct

from agents.runtime.outcomes import result_out
from agents.runtime.partition import Decided, Heads, Settled
from agents.runtime.records import Decision, Defer, Emit, Fault, Inbound, Out, Refuse
from pipeline import apply as rules
from pipeline import results
from pipeline.contextual import Answer, Change
from pipeline.member import extended
from pipeline.outcome import Condition, Verdict
from pipeline.overlay.manager import TopicManager, load
from pipeline.results import About
from pipeline.state import Layer, head_key
from schemas import headers as h
from schemas.flow import (
    BROADCAST_REQUEST,
    OPERATION,
    POINTER,
    Accept,
    Apply,
    BroadcastRequest,
    Evict,
    Origin,
    Pointer,
    Readmit,
    Repaired,
    Unmined,
)
from schemas.state import Applied
from schemas.types import Context, Txid, why
from schemas.wire import Undecodable
from topics.registry import (
    BROADCAST,
    DEAD_LETTERS,
    INGEST,
    JOURNAL,
    OPERATIONS,
    RESULTS,
    RETRY_1M,
    RETRY_10M,
    RETRY_10S,
    STATE,
    Topic,
)


class ApplySettings(Struct, frozen=True):
    """Which overlay topics are hosted."""

    topics: Annotated[
        tuple[str, ...],
        why("Overlay topics hosted here: `tm_x` from an installed package, or `tm_x=package.module:Class`."),
    ] = ("tm_anytx", "tm_helloworld", "tm_tokendemo", "tm_uhrp")
    broadcast_always: Annotated[
        tuple[str, ...], why("Overlay topics whose transactions go to the network even when nothing was admitted.")
    ] = ()


class ApplyStage:
    """The stage."""

    name = "apply"
    inputs: tuple[Topic, ...] = (OPERATIONS,)
    outputs: tuple[Topic, ...] = (JOURNAL, RESULTS, BROADCAST, OPERATIONS, DEAD_LETTERS, RETRY_10S, RETRY_1M, RETRY_10M)
    changelog = STATE
    went_well: tuple[str, ...] = ("applied", "repeat", "accept", "evict", "readmit", "repaired")

    def __init__(self, settings: ApplySettings) -> None:
        """Raises BadManager when a topic's manager cannot be loaded."""
        self._managers: Mapping[str, TopicManager] = load(settings.topics)
        self._always = frozenset(f"topic:{name}" for name in settings.broadcast_always)

    async def start(self) -> None:
        """Nothing to open."""

    async def stop(self) -> None:
        """Nothing to close."""

    def about(self, record: Inbound) -> About | None:
        """The request an operation came from, where it came from one."""
        operation = OPERATION.decode(record.value, record.headers)
        if not isinstance(operation, Apply):
            return None
        return About.of(operation.verified.asked, operation.verified.txid, (record.key or b"").decode())

    def compute(self, record: Inbound, layer: Layer, heads: Heads, now_ms: int) -> Decided:
        """What an operation does to its context, and whom it concerns."""
        try:
            operation = OPERATION.decode(record.value, record.headers)
        except Undecodable as error:
            return Decided(Fault(error.code, error.message))
        context = (record.key or b"").decode()
        head = heads.of(context)
        match operation:
            case Apply():
                change = rules.apply(layer, head, context, operation, self._managers, now_ms)
                decision = self._answer(record, operation, context, change, now_ms)
            case Accept():
                change = rules.accept(layer, head, context, operation, now_ms)
                decision = Emit(_told(change, context, record.partition, now_ms), "accept")
            case Evict():
                change = rules.evict(layer, head, context, operation, now_ms)
                decision = Emit(_told(change, context, record.partition, now_ms), "evict")
            case Readmit():
                change = rules.readmit(layer, head, context, operation, self._managers, now_ms)
                decision = Emit(_told(change, context, record.partition, now_ms), "readmit")
            case Repaired():
                change = rules.repaired(layer, head, context, operation, now_ms)
                decision = Emit(_told(change, context, record.partition, now_ms), "repaired")
        return _decided(decision, context, change)

    def repaired(self, context: Context, what: str) -> Out:
        """The context hears of it, and its journal says so."""
        return Out(OPERATIONS, context.encode(), OPERATION.encode(Repaired(f"repair {what}")))

    def settle(self, context: Context, partition: int, layer: Layer, heads: Heads, now_ms: int) -> Settled:
        """The next piece of work that waits in a context's queue."""
        change = rules.settle(layer, heads.of(context), context, self._managers, now_ms)
        return Settled(_told(change, context, partition, now_ms), change.head, change.settling)

    def _answer(self, record: Inbound, operation: Apply, context: Context, change: Change, now_ms: int) -> Decision:
        verified = operation.verified
        about = About.of(verified.asked, verified.txid, context)
        entries = _told(change, context, record.partition, now_ms)
        said = change.said
        if isinstance(said, Verdict):
            return Refuse(said, about, change.head.sequence, change.competing, entries)
        if isinstance(said, Condition):
            return Defer(said, about, outs=entries)
        assert isinstance(said, Answer)
        result = results.applied(about, said.admittance, said.sequence, said.state_root, now_ms, repeat=said.repeat)
        outs = [*entries, result_out(result)]
        if said.fresh and verified.proven_height < 0 and (context in self._always or not said.admittance.is_empty()):
            request = BroadcastRequest(
                txid=verified.txid,
                unmined=tuple(Unmined(one.txid, extended(verified.beef, one)) for one in verified.members),
                contexts=(context,),
                request_ids=(verified.asked.request_id,),
                origin=verified.asked.origin,
            )
            outs.append(Out(BROADCAST, verified.txid, BROADCAST_REQUEST.encode(request)))
        return Emit(outs, "repeat" if said.repeat or not said.fresh else "applied")


def _decided(decision: Decision, context: Context, change: Change) -> Decided:
    touched = {head_key(context): change.head} if change.entries else {}
    return Decided(decision, touched, context if change.settling else None)


def _told(change: Change, context: Context, partition: int, now_ms: int) -> list[Out]:
    """The journal, and whom a change concerns besides who asked for it.

    Entries go to the partition number of the operation, whatever their key hashes to.
    """
    key = context.encode()
    outs = [Out(JOURNAL, key, entry, (), partition) for entry in change.entries]
    for again in change.revised:
        applied = again.applied
        about = _about(applied, again.txid, context)
        result = results.revised(about, applied.admittance, applied.sequence, applied.state_root, now_ms)
        outs.append(result_out(result))
    for gone in change.evicted:
        if gone.applied is not None:
            about, verdict = _about(gone.applied, gone.txid, context), Verdict(gone.stone.code, gone.stone.message)
            result = results.evicted(about, verdict, gone.sequence, gone.state_root, now_ms, gone.stone.competing)
            outs.append(result_out(result))
    outs += [_heard_again(origin, key, now_ms) for origin in change.again]
    return outs


def _heard_again(origin: Origin, key: bytes, now_ms: int) -> Out:
    """By way of the tier that is quickest, which reads the payload where it was sent to."""
    waits = h.RetryHeaders(
        origin_topic=INGEST.name,
        origin_partition=origin.partition,
        origin_offset=origin.offset,
        attempt=1,
        first_failed=now_ms,
        not_before=now_ms,
        code="conflict.undecided",
    )
    return Out(RETRY_10S, key, POINTER.encode(Pointer(origin)), [POINTER.header, *h.to_pairs(waits)])


def _about(applied: Applied, txid: Txid, context: Context) -> About:
    return About(applied.origin, (applied.request_id,), txid, context, applied.contexts)
