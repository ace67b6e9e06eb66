"""apply: a context's rules over its state; effects exactly once."""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any

from aiohttp import web

from agents.runtime import several
from agents.runtime.desk import Teller
from agents.runtime.hosting import FAILURES, ApplySettings, Hosted, Judge
from agents.runtime.leases import Leases
from agents.runtime.outbox import Outbox
from agents.runtime.outcomes import answer_out
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
from agents.runtime.told import behind, decided, effects, settled, stood, told
from agents.runtime.voters import repeat_votes
from pipeline import answers, prepare, reservations
from pipeline import apply as rules
from pipeline.contextual import Answer, Change
from pipeline.follow import Contexts, Form
from pipeline.judge import never
from pipeline.outcome import Condition, Verdict
from pipeline.overlay.manager import BadManager
from pipeline.reservations import Requested
from pipeline.results import About
from pipeline.state import Corrupt, Layer, Live, View
from pipeline.submit import TOPIC
from schemas.flow import (
    OPERATION,
    Accept,
    Apply,
    Decide,
    Evict,
    Expire,
    Operation,
    Prepare,
    Readmit,
    Repaired,
    Request,
)
from schemas.types import Context
from schemas.wire import Undecodable
from topics.registry import (
    ANSWERS,
    BROADCAST,
    DEAD_LETTERS,
    JOURNAL,
    NETWORK_NEWS,
    OPERATIONS,
    RESULTS,
    RETRY_1M,
    RETRY_10M,
    RETRY_10S,
    STATE,
    VOTES,
    Topic,
)

__all__ = ["ApplySettings", "ApplyStage"]


class ApplyStage:
    """The stage."""

    name = "apply"
    inputs: tuple[Topic, ...] = (OPERATIONS,)
    outputs: tuple[Topic, ...] = (
        *(JOURNAL, RESULTS, ANSWERS, BROADCAST, NETWORK_NEWS, OPERATIONS, VOTES),
        *(DEAD_LETTERS, RETRY_10S, RETRY_1M, RETRY_10M),
    )
    changelog = STATE
    form: Form = Contexts()
    went_well: tuple[str, ...] = (
        *("applied", "repeat", "accept", "evict", "readmit", "repaired"),
        *("agreed", "disagreed", "waits", "committed", "aborted", "heard"),
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
        self._vote_again_s = settings.vote_again_s
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
        """Votes on what nobody has decided are repeated, and leases end by themselves."""
        votes = repeat_votes(stores, spoil, outbox, self._vote_again_s)
        return votes, self._leases.run(stores, spoil, outbox)

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
        if isinstance(operation, Prepare):
            operation = operation.apply
        if not isinstance(operation, Apply):
            return None
        return About.of(operation.verified.asked, operation.verified.txid, (record.key or b"").decode())

    def failed(self, record: Inbound, fault: Fault, layer: Layer, heads: Heads, now_ms: int) -> Decided | None:
        """Other contexts of an operation do not wait for one that cannot judge its part (ATOMIC-2)."""
        operation = OPERATION.decode(record.value, record.headers)
        if not isinstance(operation, Prepare):
            return None
        context = (record.key or b"").decode()
        head = heads.of(context)
        alone, outs = several.spread(operation)
        change = prepare.unjudged(
            *(layer, head, context, alone, Verdict(fault.code, fault.message), now_ms, stood(record)), kind="fault"
        )
        return several.voted(operation, change, outs, layer, context, record.partition, now_ms)

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
            then = self._decide(record, operation, context, layer, expired.head, now_ms, never)
            return behind(expired, then, context, record.partition, now_ms)
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
                always, where = context in self._always, partial(stood, record)
                change = rules.apply(
                    *(layer, head, context, operation, self._judges, now_ms, enough), always=always, stood=where
                )
                decision = self._answer(record, operation, context, change, now_ms)
            case Prepare():
                return self._prepare(record, operation, context, layer, head, now_ms, enough)
            case Decide():
                change = prepare.decide(layer, head, context, operation, self._judges, now_ms)
                always = context in self._always
                return several.heard(operation, change, layer, context, record.partition, now_ms, always=always)
            case Accept():
                change = rules.accept(layer, head, context, operation, now_ms)
                decision = Emit(told(change, context, record.partition, now_ms), "accept")
            case Evict():
                change = rules.evict(layer, head, context, operation, now_ms, partial(stood, record))
                decision = _done(change, "evict", context, record.partition, now_ms)
            case Readmit():
                change = rules.readmit(
                    layer, head, context, operation, self._judges, now_ms, enough, partial(stood, record)
                )
                decision = _done(change, "readmit", context, record.partition, now_ms)
            case Repaired():
                change = rules.repaired(layer, head, context, operation, now_ms)
                decision = Emit(told(change, context, record.partition, now_ms), "repaired")
            case Request():
                requested = reservations.request(layer, head, context, operation, now_ms)
                change = requested.change
                decision = self._asked(record, operation, context, requested, now_ms)
            case Expire():  # what was over ended before this
                change, decision = Change(head), Emit((), "expire")
        return decided(decision, context, change)

    def _asked(
        self, record: Inbound, operation: Request, context: Context, requested: Requested, now_ms: int
    ) -> Decision:
        said = requested.answer
        if said.outcome in ("reserved", "extended") and not requested.repeat:
            self._leases.due(record.partition, context, said.ends_ms)
        answer = answers.answered(
            context, operation.request_id, operation.origin, said, now_ms, repeat=requested.repeat
        )
        entries = told(requested.change, context, record.partition, now_ms)
        return Emit([*entries, answer_out(answer)], "repeat" if requested.repeat else said.outcome)

    def _prepare(
        self,
        record: Inbound,
        operation: Prepare,
        context: Context,
        layer: Layer,
        head: Live,
        now_ms: int,
        enough: Callable[[], bool],
    ) -> Decided:
        """A context's part of an operation over several. Whoever cannot judge it now does not let the others wait."""
        always, where = context in self._always, stood(record)
        alone, outs = several.spread(operation)
        try:
            change = prepare.prepare(
                layer, head, context, alone, self._judges, now_ms, enough, always=always, stood=where
            )
        except Held as held:
            layer.writes.clear()  # a manager is asked before anything else is written
            change = prepare.unjudged(layer, head, context, alone, held.hold.condition, now_ms, where)
        return several.voted(operation, change, outs, layer, context, record.partition, now_ms)

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
            return settled(rules.settle(layer, head, context, self._judges, now_ms), context, partition, now_ms)
        judge.standing.partition = partition
        try:
            with judge.turn() as turn:
                change = rules.settle(layer, head, context, self._judges, now_ms, turn.enough)
        except (BadManager, ManagerFailed) as error:
            if not judge.standing.suspended:
                judge.standing.suspend(f"on what waits in its state: {error}")
            raise Held(judge.standing.hold()) from error
        return settled(change, context, partition, now_ms)

    def _judge(self, context: Context) -> Judge | None:
        return self._judges.get(context.removeprefix(TOPIC))

    def _answer(self, record: Inbound, operation: Apply, context: Context, change: Change, now_ms: int) -> Decision:
        verified = operation.verified
        about = About.of(verified.asked, verified.txid, context)
        entries = told(change, context, record.partition, now_ms)
        said = change.said
        if isinstance(said, Verdict):
            return Refuse(said, about, change.head.sequence, change.competing, entries)
        if isinstance(said, Condition):
            return Defer(said, about, outs=entries)
        if change.waits:
            return Emit(entries, "waits")
        assert isinstance(said, Answer)
        outs = [*entries, *effects(verified, context, said, now_ms, always=context in self._always)]
        return Emit(outs, "repeat" if said.repeat or not said.fresh else "applied")


def _done(change: Change, code: str, context: Context, partition: int, now_ms: int) -> Decision:
    """What the network's word comes to; it comes back where too much waits for undecided operations."""
    if isinstance(change.said, Condition):
        return Hold(change.said, now_ms)
    return Emit(told(change, context, partition, now_ms), "waits" if change.waits else code)
