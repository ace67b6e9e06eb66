"""apply: a context's rules over its state; effects exactly once."""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from aiohttp import web

from agents.runtime.desk import Teller
from agents.runtime.hosting import FAILURES, ApplySettings, Hosted, Judge
from agents.runtime.leases import Leases
from agents.runtime.outbox import Outbox
from agents.runtime.outcomes import answer_out, result_out
from agents.runtime.partition import Decided, Heads, Settled
from agents.runtime.records import (
    Decision,
    Defer,
    Emit,
    Fault,
    Held,
    Hold,
    Inbound,
    ManagerFailed,
    Out,
    Refuse,
)
from agents.runtime.shelf import Readable
from agents.runtime.standing import RAISED, hold_for
from pipeline import answers, reservations, results
from pipeline import apply as rules
from pipeline.contextual import Answer, Change
from pipeline.follow import Contexts, Form
from pipeline.judge import never
from pipeline.member import extended
from pipeline.outcome import Condition, Verdict
from pipeline.overlay.manager import BadManager
from pipeline.reservations import Requested
from pipeline.results import About
from pipeline.state import Corrupt, Layer, Live, View, head_key
from schemas import headers as h
from schemas.flow import (
    BROADCAST_REQUEST,
    OPERATION,
    POINTER,
    Accept,
    Apply,
    BroadcastRequest,
    Evict,
    Expire,
    Operation,
    Origin,
    Pointer,
    Readmit,
    Repaired,
    Request,
    Unmined,
)
from schemas.network import NEWS, Challenged, Challenges
from schemas.state import Applied
from schemas.types import Context, Txid
from schemas.wire import Undecodable
from topics.registry import (
    ANSWERS,
    BROADCAST,
    DEAD_LETTERS,
    INGEST,
    JOURNAL,
    NETWORK_NEWS,
    OPERATIONS,
    RESULTS,
    RETRY_1M,
    RETRY_10M,
    RETRY_10S,
    STATE,
    Topic,
)

__all__ = ["ApplySettings", "ApplyStage"]


class ApplyStage:
    """The stage."""

    name = "apply"
    inputs: tuple[Topic, ...] = (OPERATIONS,)
    outputs: tuple[Topic, ...] = (
        *(JOURNAL, RESULTS, ANSWERS, BROADCAST, NETWORK_NEWS, OPERATIONS),
        *(DEAD_LETTERS, RETRY_10S, RETRY_1M, RETRY_10M),
    )
    changelog = STATE
    form: Form = Contexts()
    went_well: tuple[str, ...] = (
        *("applied", "repeat", "accept", "evict", "readmit", "repaired"),
        *("reserved", "extended", "released", "refused", "expire"),
    )

    def __init__(self, settings: ApplySettings, failures: int = FAILURES) -> None:
        """Managers are loaded, and the processes of foreign ones run from here on; `stop` ends them.

        failures: of a manager in a row, that suspend its context.

        Raises:
            BadManager: a topic's manager cannot be loaded.
        """
        self._hosted = Hosted(self.name, settings, failures)
        self._judges: Mapping[str, Judge] = self._hosted.judges
        self._always = frozenset(f"topic:{name}" for name in settings.broadcast_always)
        self._leases = Leases()

    def tell_to(self, teller: Teller) -> None:
        """Who writes events of this stage."""
        self._hosted.tell_to(teller)

    async def start(self) -> None:
        """Nothing to open."""

    async def stop(self) -> None:
        """End the managers' processes."""
        self._hosted.close()

    def beside(
        self, stores: Mapping[int, Readable], spoil: Callable[[int, Corrupt], None], outbox: Outbox
    ) -> Sequence[Coroutine[Any, Any, None]]:
        """Leases end by themselves."""
        return (self._leases.run(stores, spoil, outbox),)

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Nothing."""

    def lift(self) -> None:
        """Let suspended contexts go on."""
        self._hosted.lift()

    @property
    def suspended(self) -> list[Context]:
        """Contexts that are, here."""
        return [f"topic:{topic}" for topic, judge in self._judges.items() if judge.standing.suspended]

    def left(self, partition: int) -> None:
        """A partition is another worker's: how its contexts stand is no longer known here."""
        self._leases.forget(partition)
        for judge in self._judges.values():
            if judge.standing.partition == partition:
                judge.standing.forget()

    def hold(self, context: Context) -> Hold:
        """What becomes of a record whose context is suspended."""
        judge = self._judge(context)
        return judge.standing.hold() if judge is not None else hold_for(f"{context} works off what waits in its state")

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
        judge = self._judge(context)
        if judge is None:
            expired = reservations.expire(layer, heads.of(context), context, now_ms)
            decided = self._decide(record, operation, context, layer, expired.head, now_ms, never)
            return _behind(expired, decided, context, record.partition, now_ms)
        judge.standing.partition = record.partition
        try:
            with judge.turn() as turn:
                return self._decide(record, operation, context, layer, heads.of(context), now_ms, turn.enough)
        except BadManager as error:
            raise ManagerFailed(RAISED, str(error)) from error

    def _decide(
        self,
        record: Inbound,
        operation: Operation,
        context: Context,
        layer: Layer,
        head: Live,
        now_ms: int,
        enough: Callable[[], bool],
    ) -> Decided:
        match operation:
            case Apply():
                always = context in self._always
                change = rules.apply(layer, head, context, operation, self._judges, now_ms, enough, always=always)
                decision = self._answer(record, operation, context, change, now_ms)
            case Accept():
                change = rules.accept(layer, head, context, operation, now_ms)
                decision = Emit(_told(change, context, record.partition, now_ms), "accept")
            case Evict():
                change = rules.evict(layer, head, context, operation, now_ms)
                decision = Emit(_told(change, context, record.partition, now_ms), "evict")
            case Readmit():
                change = rules.readmit(layer, head, context, operation, self._judges, now_ms, enough)
                decision = Emit(_told(change, context, record.partition, now_ms), "readmit")
            case Repaired():
                change = rules.repaired(layer, head, context, operation, now_ms)
                decision = Emit(_told(change, context, record.partition, now_ms), "repaired")
            case Request():
                requested = reservations.request(layer, head, context, operation, now_ms)
                change = requested.change
                decision = self._asked(record, operation, context, requested, now_ms)
            case Expire():  # what was over ended before this
                change, decision = Change(head), Emit((), "expire")
        return _decided(decision, context, change)

    def _asked(
        self, record: Inbound, operation: Request, context: Context, requested: Requested, now_ms: int
    ) -> Decision:
        said = requested.answer
        if said.outcome in ("reserved", "extended") and not requested.repeat:
            self._leases.due(record.partition, context, said.ends_ms)
        told = answers.answered(context, operation.request_id, operation.origin, said, now_ms, repeat=requested.repeat)
        entries = _told(requested.change, context, record.partition, now_ms)
        return Emit([*entries, answer_out(told)], "repeat" if requested.repeat else said.outcome)

    def repaired(self, context: Context, what: str) -> Out:
        """The context hears of it, and its journal says so."""
        return Out(OPERATIONS, context.encode(), OPERATION.encode(Repaired(f"repair {what}")))

    def waits_s(self, context: Context, view: View) -> float:
        """Seconds until the next piece of what waits in a context's queue may be tried; 0: at once."""
        judge = self._judge(context)
        if judge is None or not judge.standing.suspended or not rules.asks_manager(view, context):
            return 0.0
        return judge.standing.waits_s()

    def settle(self, context: Context, partition: int, layer: Layer, heads: Heads, now_ms: int) -> Settled:
        """The next piece of work that waits in a context's queue.

        No record is to blame where its manager fails on it: the context is suspended with its queue (TOPIC-3).
        """
        judge = self._judge(context)
        head = heads.of(context)
        if judge is None:
            return _settled(rules.settle(layer, head, context, self._judges, now_ms), context, partition, now_ms)
        judge.standing.partition = partition
        try:
            with judge.turn() as turn:
                change = rules.settle(layer, head, context, self._judges, now_ms, turn.enough)
        except (BadManager, ManagerFailed) as error:
            if not judge.standing.suspended:
                judge.standing.suspend(f"on what waits in its state: {error}")
            raise Held(judge.standing.hold()) from error
        return _settled(change, context, partition, now_ms)

    def _judge(self, context: Context) -> Judge | None:
        return self._judges.get(context.removeprefix(rules.TOPIC))

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
        result = results.applied(
            *(about, said.admittance, said.sequence, said.state_root, now_ms), repeat=said.repeat, merge=said.merge
        )
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


def _settled(change: Change, context: Context, partition: int, now_ms: int) -> Settled:
    return Settled(_told(change, context, partition, now_ms), change.head, change.settling)


def _decided(decision: Decision, context: Context, change: Change) -> Decided:
    touched = {head_key(context): change.head} if change.entries else {}
    return Decided(decision, touched, context if change.settling else None)


def _behind(expired: Change, decided: Decided, context: Context, partition: int, now_ms: int) -> Decided:
    """A decision behind what ended before it."""
    if not expired.entries:
        return decided
    outs = [*_told(expired, context, partition, now_ms), *decided.decision.outs]
    heads = {head_key(context): expired.head} | decided.heads
    return Decided(decided.decision._replace(outs=outs), heads, decided.settling)


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
    outs += [answer_out(answers.ended(context, ended, now_ms)) for ended in change.ended]
    for pair in change.challenges:
        holders = () if pair.holder is None else (pair.holder,)
        told = NEWS.encode(Challenged(pair.by, context, pair.sent, pair.proven))
        outs += [Out(NETWORK_NEWS, holder, told) for holder in holders]
        outs.append(Out(NETWORK_NEWS, pair.by, NEWS.encode(Challenges(holders, context, pair.path))))
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
