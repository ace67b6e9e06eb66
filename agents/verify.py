"""verify: a payload's own history against scripts, values and the chain."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from agents import metrics
from agents.runtime.ancestors import Ancestors
from agents.runtime.aside import aside, is_long
from agents.runtime.chain_news import ChainNews
from agents.runtime.desk import Teller
from agents.runtime.headers import Follower, HeaderSettings, News, Reorganised
from agents.runtime.http import HttpSettings, Transport
from agents.runtime.records import Decision, Defer, Emit, Fault, Inbound, Out, Refuse, WorldCondition
from agents.runtime.sandbox import BusyError, Sandbox, SandboxSettings
from agents.runtime.trackers import NoQuorum, Trackers, TrackerSettings
from pipeline.ancestors import resolved
from pipeline.chain.answer import Answer, RootAt, Tip
from pipeline.outcome import Condition, Verdict
from pipeline.parse import Payload, parse
from pipeline.policy import Policy
from pipeline.results import About, decision_id
from pipeline.verify import Plan, ScriptResults, Valid, plan, verify
from schemas.flow import OPERATION, Apply, Parsed, Verified
from schemas.flow import PARSED as SCHEMA
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
    ) -> None:
        """What the stage judges by, and what it asks.

        headers, data_dir: of the header follower, where `trackers.follower` wants one.
        ancestors: where named ones stand, where `policy.txid_only` is `resolve`.
        """
        self._ancestors = ancestors
        self._policy = policy
        self._settings = trackers
        self._headers = headers or HeaderSettings()
        self._folder = Path(data_dir, self.name, "headers")
        self._news = ChainNews(self.name)
        self._follower: Follower | None = None
        self._transport = Transport(http)
        self._sandbox = Sandbox(policy, sandbox)
        self._trackers: Trackers | None = None

    def tell_to(self, teller: Teller) -> None:
        """Who writes events of this stage. Before `start`."""
        self._news = ChainNews(self.name, teller)

    async def start(self) -> None:
        """Open connections, follow headers if that is wanted, and start the script children."""
        await self._transport.__aenter__()
        if self._settings.follower != "off":
            self._follower = Follower(
                self._headers, self._settings.trackers, self._transport, self._folder, tell=self._heard
            )
        self._trackers = Trackers(
            self._settings,
            self._transport,
            follower=self._follower,
            tell=self._news.disagreement,
            tell_reorganised=self._news.reorganised,
        )
        metrics.register_chain(self.name, self._trackers.names, self._follower.sources if self._follower else ())
        if self._follower is not None:
            await self._follower.start()
        await self._sandbox.start()
        if self._ancestors is not None:
            await self._ancestors.start()

    async def beside(self) -> None:
        """Follow what is verified, where named ancestors are looked for in it; raises what that fails on."""
        if self._ancestors is not None:
            await self._ancestors.follow()

    def _heard(self, news: News) -> None:
        assert self._trackers is not None
        if isinstance(news, Reorganised):
            self._trackers.reorganised(news)
        else:
            self._news.followed(news)

    async def stop(self) -> None:
        """Close them."""
        if self._ancestors is not None:
            await self._ancestors.stop()
        if self._follower is not None:
            await self._follower.close()
        if self._trackers is not None:
            await self._trackers.close()
        await self._sandbox.stop()
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
                plain = [record for record in short if not _takes_long(prepared[id(record)])]
                together = [one for one in prepared.values() if isinstance(one, Prepared) and not _has_many_roots(one)]
                answers = await self._trackers.ask({root for one in together for root in one.plan.roots})
                if plain:
                    yield plain, Gathered(prepared, answers, tip, {})
                for record in short:
                    one = prepared[id(record)]
                    if isinstance(one, Prepared) and _takes_long(one):
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
        parsed = prepared.parsed
        if isinstance(gathered.scripts, Condition):
            return Defer(gathered.scripts, _about(parsed))
        said = verify(prepared.payload, gathered.answers, gathered.scripts, gathered.tip, self._policy, prepared.plan)
        if isinstance(said, Verdict):
            return Refuse(said, _about(parsed))
        if isinstance(said, Condition):
            return Defer(said, _about(parsed))
        return Emit(tuple(_operations(parsed, said)))

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
        return await self._find_out(record, prepared, await self._trackers.ask(few), tip)

    async def _find_out(
        self, record: Inbound, prepared: Prepared, known: Mapping[RootAt, Answer], tip: Tip
    ) -> Gathered:
        """What one payload alone has to wait for; a condition where too many wait for the script child already."""
        assert self._trackers is not None
        answers = known
        if _has_many_roots(prepared):
            roots, own = prepared.plan.roots, dict[RootAt, Answer]()
            for at in range(0, len(roots), FEW_ROOTS):
                own |= await self._trackers.ask(roots[at : at + FEW_ROOTS])
            answers = own
        scripts: ScriptResults | Condition
        try:
            scripts = await self._sandbox.run(prepared.plan.jobs)
        except BusyError as error:
            scripts = Condition("script.busy", str(error))
        return Gathered({id(record): prepared}, answers, tip, scripts)


def _takes_long(prepared: Prepared | Decision) -> bool:
    return isinstance(prepared, Prepared) and (bool(prepared.plan.jobs) or _has_many_roots(prepared))


def _has_many_roots(prepared: Prepared) -> bool:
    return len(prepared.plan.roots) > FEW_ROOTS


def _about(parsed: Parsed) -> About:
    return About.before_contexts(parsed.asked.origin, parsed.asked.request_id, parsed.txid)


def _operations(parsed: Parsed, valid: Valid) -> list[Out]:
    asked = parsed.asked
    verified = Verified(
        asked=asked,
        txid=parsed.txid,
        beef=parsed.beef,
        members=valid.members(),
        fee_sat=valid.fee_sat,
        proven_height=valid.proven_height,
    )
    return [
        Out(OPERATIONS, context.encode(), OPERATION.encode(Apply(decision_id(asked.origin, context), verified)))
        for context in asked.contexts
    ]
