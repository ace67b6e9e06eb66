"""apply: a context's rules over its state; effects exactly once."""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

import msgspec
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
    Kept,
    ManagerFailed,
    Out,
    Refuse,
)
from agents.runtime.shelf import Readable
from agents.runtime.standing import RAISED, hold_for
from agents.runtime.voters import repeat_votes
from pipeline import answers, prepare, reservations, results, undecided
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
from pipeline.submit import TOPIC
from schemas import headers as h
from schemas.external import Result
from schemas.flow import (
    BROADCAST_REQUEST,
    OPERATION,
    POINTER,
    Accept,
    Apply,
    BroadcastRequest,
    Decide,
    Evict,
    Expire,
    Operation,
    Origin,
    Pointer,
    Prepare,
    Readmit,
    Repaired,
    Request,
    Unmined,
    Verified,
)
from schemas.network import NEWS, Challenged, Challenges
from schemas.operations import VOTE, Vote
from schemas.state import Applied, Stood
from schemas.types import Context, Txid
from schemas.wire import HEADER, Undecodable
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
        alone, outs = _spread(operation)
        change = prepare.failed(layer, head, context, alone, fault.code, fault.message, now_ms, _stood(record))
        return self._voted(operation, change, outs, layer, context, record.partition, now_ms)

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
                always, stood = context in self._always, _stood(record)
                change = rules.apply(
                    *(layer, head, context, operation, self._judges, now_ms, enough), always=always, stood=stood
                )
                decision = self._answer(record, operation, context, change, now_ms)
            case Accept():
                change = rules.accept(layer, head, context, operation, now_ms)
                decision = Emit(_told(change, context, record.partition, now_ms), "accept")
            case Evict():
                change = rules.evict(layer, head, context, operation, now_ms, _stood(record))
                decision = _done(change, "evict", context, record.partition, now_ms)
            case Readmit():
                change = rules.readmit(layer, head, context, operation, self._judges, now_ms, enough, _stood(record))
                decision = _done(change, "readmit", context, record.partition, now_ms)
            case Repaired():
                change = rules.repaired(layer, head, context, operation, now_ms)
                decision = Emit(_told(change, context, record.partition, now_ms), "repaired")
            case Prepare():
                return self._prepare(record, operation, context, layer, head, now_ms, enough)
            case Decide():
                return self._hear(record, operation, context, layer, head, now_ms)
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
        always, stood = context in self._always, _stood(record)
        alone, outs = _spread(operation)
        own = Layer(layer)
        try:
            change = prepare.prepare(
                own, head, context, alone, self._judges, now_ms, enough, always=always, stood=stood
            )
        except Held as held:
            own = Layer(layer)
            change = prepare.later(own, head, context, alone, held.hold.condition, now_ms, stood)
        own.merge_into(layer)
        return self._voted(operation, change, outs, layer, context, record.partition, now_ms)

    def _voted(
        self,
        operation: Prepare,
        change: Change,
        outs: Sequence[Out],
        layer: Layer,
        context: Context,
        partition: int,
        now_ms: int,
    ) -> Decided:
        votes = [said.says for _, said in change.words if isinstance(said, Vote)]
        code = "waits" if not votes else "agreed" if votes == ["yes"] else "disagreed"
        told = [*outs, *_told(change, context, partition, now_ms)]
        if isinstance(change.said, Answer):
            verified = operation.apply.verified
            about = About.of(verified.asked, verified.txid, context)
            told.append(result_out(_applied_result(about, change.said, now_ms)))
            code = "repeat"
        decided = _decided(Emit(told, code), context, change)
        return msgspec.structs.replace(
            decided,
            resumed=[_kept(context, *each) for each in change.resumed],
            undecided=(context, undecided.votes_in(layer, context)),
        )

    def _hear(self, record: Inbound, word: Decide, context: Context, layer: Layer, head: Live, now_ms: int) -> Decided:
        """The coordinator's word."""
        change = prepare.decide(layer, head, context, word, self._judges, now_ms)
        outs = _told(change, context, record.partition, now_ms)
        about = About.of(word.asked, word.txid, context)
        also: list[tuple[Inbound, Decision]] = []
        code = "heard" if change.held is None else "committed" if word.commit else "aborted"
        held = change.held
        # Who was named first has the whole request, and answers for its record.
        first = held if held is not None and held.operation.others else None
        if word.commit:
            if held is not None:
                assert isinstance(change.said, Answer)  # what was prepared is there
                outs += self._effects(held.operation.apply.verified, context, change.said, now_ms)
        elif word.final and (held is not None or not prepare.shown(layer, context, word)):
            said = Verdict(word.code, word.message if word.by == context else f"{word.by}: {word.message}")
            if first is not None:
                record_of = _kept(context, prepare.next_attempt(first), first.stood)
                if word.kind == "fault":
                    also.append((record_of, Fault(said.code, said.message, about)))
                else:
                    also.append((record_of, Refuse(said, about, change.head.sequence, word.competing)))
            elif word.kind == "fault":
                outs.append(result_out(results.parked(about, said, now_ms)))
            else:
                result = results.rejected(about, said, now_ms, revision=change.head.sequence, competing=word.competing)
                outs.append(result_out(result))
        elif word.again and first is not None:
            why = Condition(word.code, word.message)
            others = [About.of(word.asked, word.txid, each) for each in word.asked.contexts if each != context]
            also.append((_kept(context, prepare.next_attempt(first), first.stood), Defer(why, about, (), others)))
        decided = _decided(Emit(outs, code), context, change)
        return msgspec.structs.replace(
            decided,
            also=also,
            resumed=[_kept(context, *each) for each in change.resumed],
            undecided=(context, undecided.votes_in(layer, context)),
        )

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
        return self._judges.get(context.removeprefix(TOPIC))

    def _answer(self, record: Inbound, operation: Apply, context: Context, change: Change, now_ms: int) -> Decision:
        verified = operation.verified
        about = About.of(verified.asked, verified.txid, context)
        entries = _told(change, context, record.partition, now_ms)
        said = change.said
        if isinstance(said, Verdict):
            return Refuse(said, about, change.head.sequence, change.competing, entries)
        if isinstance(said, Condition):
            return Defer(said, about, outs=entries)
        if change.waits:
            return Emit(entries, "waits")
        assert isinstance(said, Answer)
        outs = [*entries, *self._effects(verified, context, said, now_ms)]
        return Emit(outs, "repeat" if said.repeat or not said.fresh else "applied")

    def _effects(self, verified: Verified, context: Context, said: Answer, now_ms: int) -> list[Out]:
        """Who hears that a payload stands applied."""
        about = About.of(verified.asked, verified.txid, context)
        outs = [result_out(_applied_result(about, said, now_ms))]
        if said.fresh and verified.proven_height < 0 and (context in self._always or not said.admittance.is_empty()):
            request = BroadcastRequest(
                txid=verified.txid,
                unmined=tuple(Unmined(one.txid, extended(verified.beef, one)) for one in verified.members),
                contexts=(context,),
                request_ids=(verified.asked.request_id,),
                origin=verified.asked.origin,
            )
            outs.append(Out(BROADCAST, verified.txid, BROADCAST_REQUEST.encode(request)))
        return outs


def _applied_result(about: About, said: Answer, now_ms: int) -> Result:
    return results.applied(
        *(about, said.admittance, said.sequence, said.state_root, now_ms), repeat=said.repeat, merge=said.merge
    )


def _stood(record: Inbound) -> Stood:
    """Where a record stands, and how it came: what is kept of one that waits in the state, besides what it says."""
    headers = tuple((name, value) for name, value in record.headers if value is not None and name != HEADER)
    return Stood(record.topic, record.partition, record.offset, record.timestamp, headers)


def _kept(context: Context, operation: Operation, stood: Stood) -> Inbound:
    """Such a record, as it was."""
    headers = [OPERATION.header, *stood.headers]
    value = OPERATION.encode(operation)
    return Kept(stood.topic, stood.partition, stood.offset, stood.timestamp_ms, context.encode(), value, headers)


def _spread(operation: Prepare) -> tuple[Prepare, list[Out]]:
    """A further attempt: the context named first hands the others their parts, once."""
    if not operation.spread:
        return operation, []
    outs = [Out(OPERATIONS, context.encode(), OPERATION.encode(part)) for context, part in prepare.parts_of(operation)]
    return msgspec.structs.replace(operation, spread=False), outs


def _done(change: Change, code: str, context: Context, partition: int, now_ms: int) -> Decision:
    """What the network's word comes to; it comes back where too much waits for undecided operations."""
    if isinstance(change.said, Condition):
        return Hold(change.said, now_ms)
    return Emit(_told(change, context, partition, now_ms), "waits" if change.waits else code)


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
    return msgspec.structs.replace(decided, decision=decided.decision._replace(outs=outs), heads=heads)


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
    for operation, heard in change.words:
        outs.append(Out(VOTES, bytes.fromhex(operation), VOTE.encode(heard)))
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
