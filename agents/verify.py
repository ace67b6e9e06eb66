"""verify: a payload's own history against scripts, values and the chain."""

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from agents.runtime.ancestors import Ancestors
from agents.runtime.aside import aside, is_long
from agents.runtime.chain_watch import ChainWatch
from agents.runtime.desk import Teller
from agents.runtime.examining import Examiners
from agents.runtime.hand import waiting
from agents.runtime.headers import HeaderSettings
from agents.runtime.http import HttpSettings, Transport
from agents.runtime.outcomes import MESSAGE_CHARS, result_out
from agents.runtime.pool import BusyError
from agents.runtime.records import (
    Decision,
    Defer,
    Emit,
    Fault,
    Hold,
    Inbound,
    ManagerFailed,
    Out,
    Refuse,
    WorldCondition,
)
from agents.runtime.sandbox import Sandbox, SandboxSettings
from agents.runtime.trackers import NoQuorum, Trackers, TrackerSettings
from pipeline import member
from pipeline.ancestors import resolved
from pipeline.chain.answer import Answer, RootAt, Tip
from pipeline.outcome import Condition, Verdict
from pipeline.overlay.manager import Transaction
from pipeline.parse import Payload, parse
from pipeline.policy import Policy
from pipeline.prepare import parts_of, whole
from pipeline.results import About, decision_id, parked
from pipeline.verify import Plan, ScriptResults, Valid, plan, verify
from schemas.flow import OPERATION, Apply, Examined, Parsed, Part, Verified
from schemas.flow import PARSED as SCHEMA
from schemas.types import Context
from schemas.wire import Undecodable
from topics.registry import DEAD_LETTERS, OPERATIONS, PARSED, RESULTS, RETRY_1M, RETRY_10M, RETRY_10S, Topic

FEW_ROOTS = 64
"""Asked about with the rest of a batch. Some header services take a request a height: a payload with more blocks is
asked about apart, so many at a time, and others' roots do not queue behind thousands."""


class Prepared(Struct, frozen=True):
    """A payload with the questions it raises."""

    parsed: Parsed
    payload: Payload
    plan: Plan


class Named(Struct, frozen=True):
    """A payload that names ancestors by their txid alone: it is to be completed before it raises questions."""

    parsed: Parsed
    payload: Payload


class Gathered(Struct, frozen=True):
    """What the world said."""

    prepared: Mapping[int, Prepared | Decision]  # by the record's identity in memory
    answers: Mapping[RootAt, Answer]
    tip: Tip
    scripts: ScriptResults | Condition


class Verify:
    """The stage."""

    name = "verify"
    inputs: tuple[Topic, ...] = (PARSED,)
    outputs: tuple[Topic, ...] = (OPERATIONS, RESULTS, DEAD_LETTERS, RETRY_10S, RETRY_1M, RETRY_10M)
    begins_traces = False
    went_well: tuple[str, ...] = ("",)

    def __init__(
        self,
        policy: Policy,
        trackers: TrackerSettings,
        http: HttpSettings,
        sandbox: SandboxSettings,
        headers: HeaderSettings | None = None,
        data_dir: str = ".",
        ancestors: Ancestors | None = None,
        examiners: Examiners | None = None,
    ) -> None:
        """What the stage judges by, and what it asks.

        headers, data_dir: of the header follower, where `trackers.follower` wants one.
        ancestors: where named ones stand, where `policy.txid_only` is `resolve`.
        examiners: the hosted topics' managers, as far as they examine; `stop` ends their processes.
        """
        self._ancestors = ancestors
        self._examiners = examiners
        self._policy = policy
        folder = Path(data_dir, self.name, "headers")
        self._chain = ChainWatch(self.name, trackers, headers or HeaderSettings(), folder)
        self._transport = Transport(http)
        self._sandbox = Sandbox(policy, sandbox)
        self._trackers: Trackers | None = None

    def tell_to(self, teller: Teller) -> None:
        """Who writes events of this stage. Before `start`."""
        self._chain.tell_to(teller)
        if self._examiners is not None:
            self._examiners.tell_to(teller)

    def lift(self) -> None:
        """Let contexts go on that are suspended here."""
        if self._examiners is not None:
            self._examiners.lift()

    @property
    def suspended(self) -> list[Context]:
        """Contexts that are, here."""
        return self._examiners.suspended if self._examiners is not None else []

    async def start(self) -> None:
        """Open connections, follow headers if that is wanted, and start the script children."""
        await self._transport.__aenter__()
        await self._chain.start(self._transport)
        self._trackers = self._chain.trackers
        await self._sandbox.start()
        if self._examiners is not None:
            await self._examiners.start()
        if self._ancestors is not None:
            await self._ancestors.start()

    async def beside(self) -> None:
        """Follow what is verified, where named ancestors are looked for in it; raises what that fails on."""
        if self._ancestors is not None:
            await self._ancestors.follow()

    async def stop(self) -> None:
        """Close them."""
        if self._ancestors is not None:
            await self._ancestors.stop()
        await self._chain.stop()
        await self._sandbox.stop()
        if self._examiners is not None:
            await self._examiners.stop()
        await self._transport.__aexit__(None, None, None)

    async def probe(self) -> None:
        """Whether a quorum of trackers answers."""
        assert self._trackers is not None
        if not await self._trackers.probe():
            raise WorldCondition(Condition("anchor.no-quorum", "too few chain trackers answer"))

    def about(self, record: Inbound) -> About | None:
        """The request the payload came with."""
        return _about(SCHEMA.decode(record.value, record.headers))

    async def gather(self, batch: Sequence[Inbound]) -> AsyncGenerator[tuple[Sequence[Inbound], Gathered], None]:
        """One question for each distinct root of the batch; scripts outside the known templates run apart."""
        assert self._trackers is not None
        try:
            async with waiting():
                tip = await self._trackers.tip()
            running = {asyncio.ensure_future(self._aside(record, tip)): record for record in batch if is_long(record)}
            try:
                short = [record for record in batch if not is_long(record)]
                looked = {id(record): self._prepare(record, tip) for record in short}
                prepared = {name: one for name, one in looked.items() if not isinstance(one, Named)}
                for record in short:
                    if isinstance(one := looked[id(record)], Named):
                        running[asyncio.ensure_future(self._complete(record, one, tip))] = record
                short = [record for record in short if id(record) in prepared]
                plain = [record for record in short if not self._takes_long(prepared[id(record)])]
                together = [one for one in prepared.values() if isinstance(one, Prepared) and not _has_many_roots(one)]
                async with waiting():
                    answers = await self._trackers.ask({root for one in together for root in one.plan.roots})
                if plain:
                    yield plain, Gathered(prepared, answers, tip, {})
                for record in short:
                    one = prepared[id(record)]
                    if isinstance(one, Prepared) and self._takes_long(one):
                        running[asyncio.ensure_future(self._find_out(record, one, answers, tip))] = record
                while running:
                    done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        record = running.pop(task)
                        try:
                            yield [record], task.result()
                        finally:
                            self._give_back(record)
            finally:
                for task, record in running.items():
                    task.cancel()
                    self._give_back(record)
        except NoQuorum as error:
            raise WorldCondition(Condition(error.code, str(error))) from error

    def decide(self, record: Inbound, gathered: Gathered, now_ms: int) -> Decision:
        """One operation for each context, or what is wrong."""
        prepared = gathered.prepared[id(record)]
        if not isinstance(prepared, Prepared):
            return prepared
        said = self._judged(prepared, gathered)
        return Emit(_operations(said, said.asked.contexts, {})) if isinstance(said, Verified) else said

    def _judged(self, prepared: Prepared, gathered: Gathered) -> Verified | Decision:
        parsed = prepared.parsed
        if isinstance(gathered.scripts, Condition):
            return Defer(gathered.scripts, _about(parsed))
        said = verify(prepared.payload, gathered.answers, gathered.scripts, gathered.tip, self._policy, prepared.plan)
        if isinstance(said, Verdict):
            return Refuse(said, _about(parsed))
        if isinstance(said, Condition):
            return Defer(said, _about(parsed))
        return _verified(parsed, said)

    def _prepare(self, record: Inbound, tip: Tip) -> Prepared | Named | Decision:
        try:
            parsed = SCHEMA.decode(record.value, record.headers)
        except Undecodable as error:
            return Fault(error.code, error.message)
        payload = parse(parsed.beef, self._policy)
        if isinstance(payload, Verdict):
            # The policy may have changed since parse took it.
            return Refuse(payload, _about(parsed))
        if payload.missing:
            return Named(parsed, payload)
        return self._plan(parsed, payload, tip)

    def _plan(self, parsed: Parsed, payload: Payload, tip: Tip) -> Prepared | Decision:
        planned = plan(payload, self._policy, tip)
        if isinstance(planned, Verdict):
            return Refuse(planned, _about(parsed))
        return Prepared(parsed, payload, planned)

    async def _complete(self, record: Inbound, named: Named, tip: Tip) -> Gathered:
        """A payload with what it names put in place; from there on it is one like any other (NAMED-1)."""
        assert self._ancestors is not None  # without it the parser lets none through
        async with waiting():
            found = await self._ancestors.find(named.payload.missing, id(record))
        if isinstance(found, Condition):
            return Gathered({id(record): Defer(found, _about(named.parsed))}, {}, tip, {})
        whole = found if isinstance(found, Verdict) else await aside(resolved, named.payload, found, self._policy)
        if isinstance(whole, Verdict):
            return Gathered({id(record): Refuse(whole, _about(named.parsed))}, {}, tip, {})
        # Members are told by places in the bytes: those of the payload as it is carried on.
        assert whole.received is not None  # what `complete` writes is canonical
        parsed = msgspec.structs.replace(named.parsed, beef=whole.received, unmined=len(whole.unmined))
        return await self._ask(record, await aside(self._plan, parsed, whole, tip), tip)

    def _give_back(self, record: Inbound) -> None:
        if self._ancestors is not None:
            self._ancestors.give_back(id(record))

    async def _aside(self, record: Inbound, tip: Tip) -> Gathered:
        """A long payload, read and planned beside the loop."""
        prepared = await aside(self._prepare, record, tip)
        if isinstance(prepared, Named):
            return await self._complete(record, prepared, tip)
        return await self._ask(record, prepared, tip)

    async def _ask(self, record: Inbound, prepared: Prepared | Decision, tip: Tip) -> Gathered:
        assert self._trackers is not None
        if not isinstance(prepared, Prepared):
            return Gathered({id(record): prepared}, {}, tip, {})
        few = () if _has_many_roots(prepared) else prepared.plan.roots
        async with waiting():
            answers = await self._trackers.ask(few)
        return await self._find_out(record, prepared, answers, tip)

    async def _find_out(
        self, record: Inbound, prepared: Prepared, known: Mapping[RootAt, Answer], tip: Tip
    ) -> Gathered:
        """What one payload alone has to wait for; a condition where too many wait for the script child already."""
        assert self._trackers is not None
        answers = known
        if _has_many_roots(prepared):
            roots, own = prepared.plan.roots, dict[RootAt, Answer]()
            async with waiting():
                for at in range(0, len(roots), FEW_ROOTS):
                    own |= await self._trackers.ask(roots[at : at + FEW_ROOTS])
            answers = own
        scripts: ScriptResults | Condition
        async with waiting():
            try:
                scripts = await self._sandbox.run(prepared.plan.jobs)
            except BusyError as error:
                scripts = Condition("script.busy", str(error))
        gathered = Gathered({id(record): prepared}, answers, tip, scripts)
        if not self._examined_in(prepared.parsed):
            return gathered
        said = await aside(self._judged, prepared, gathered) if is_long(record) else self._judged(prepared, gathered)
        decision = await self._examine(said) if isinstance(said, Verified) else said
        return Gathered({id(record): decision}, {}, tip, {})

    def _takes_long(self, prepared: Prepared | Decision) -> bool:
        if not isinstance(prepared, Prepared):
            return False
        return bool(prepared.plan.jobs) or _has_many_roots(prepared) or bool(self._examined_in(prepared.parsed))

    def _examined_in(self, parsed: Parsed) -> Sequence[Context]:
        """Contexts whose managers say something before coins are known."""
        return self._examiners.of(parsed.asked.contexts) if self._examiners is not None else ()

    async def _examine(self, verified: Verified) -> Decision:
        """Ask them, and go on to the contexts whose manager said something, and to those that have none that does.

        A manager that fails costs its context (TOPIC-1), and the payload is a dead letter for its sake. Where one
        waits (TOPIC-3) the payload waits, and comes to all contexts again: they answer from what they hold.
        """
        assert self._examiners is not None
        asked = verified.asked
        transaction = _transaction(verified)
        async with waiting():
            found = await self._examiners.all_of(self._examiners.of(asked.contexts), transaction)
        facts = {context: said for context, said in found.items() if isinstance(said, Examined)}
        failed = {context: said for context, said in found.items() if isinstance(said, ManagerFailed)}
        together = asked.atomicity == "all"
        taken = [each for each in asked.contexts if each in facts or each not in found]
        outs = _operations(verified, taken, facts) if len(taken) == len(asked.contexts) or not together else []
        if hold := next((said for said in found.values() if isinstance(said, Hold)), None):
            return hold._replace(outs=outs)
        if not failed:
            return Emit(outs)
        if together:
            failed = {context: next(iter(failed.values())) for context in asked.contexts}
        now_ms = int(time.time() * 1000)
        abouts = {context: About.of(asked, verified.txid, context) for context in failed}
        first, *others = failed
        outs += [
            result_out(parked(abouts[each], Verdict(failed[each].code, str(failed[each])[:MESSAGE_CHARS]), now_ms))
            for each in others
        ]
        return Fault(failed[first].code, str(failed[first]), abouts[first], outs)


def _has_many_roots(prepared: Prepared) -> bool:
    return len(prepared.plan.roots) > FEW_ROOTS


def _about(parsed: Parsed) -> About:
    return About.before_contexts(parsed.asked.origin, parsed.asked.request_id, parsed.txid)


def _verified(parsed: Parsed, valid: Valid) -> Verified:
    return Verified(
        asked=parsed.asked,
        txid=parsed.txid,
        beef=parsed.beef,
        members=valid.members(),
        fee_sat=valid.fee_sat,
        proven_height=valid.proven_height,
    )


def _transaction(verified: Verified) -> Transaction:
    """What managers examine: as apply would show it to them (TOPIC-2)."""
    beef, subject = verified.beef, verified.members[-1]
    raw, sources = member.raw(beef, subject), member.sources(beef, subject)
    return Transaction(verified.txid, raw, sources, verified.asked.off_chain)


def _operations(verified: Verified, contexts: Sequence[Context], facts: Mapping[Context, Examined]) -> list[Out]:
    """One for each context; what an owner is to make of the transaction is that owner's business alone.

    Where it is to be all or nothing, the context named first holds what all are asked: it may have to ask again.
    """
    asked = verified.asked
    instructions = dict(asked.instructions)
    if instructions:
        verified = msgspec.structs.replace(verified, asked=msgspec.structs.replace(asked, instructions=()))
    if asked.atomicity == "all":
        parts = [Part(each, facts.get(each), instructions.get(each, b"")) for each in contexts]
        operation = whole(0, verified, parts)
        asks = [(contexts[0], operation), *parts_of(operation)]
        return [Out(OPERATIONS, context.encode(), OPERATION.encode(each)) for context, each in asks]
    return [
        Out(
            OPERATIONS,
            context.encode(),
            OPERATION.encode(
                Apply(decision_id(asked.origin, context), verified, facts.get(context), instructions.get(context, b""))
            ),
        )
        for context in contexts
    ]
