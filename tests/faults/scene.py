"""One installation for scenarios over several contexts: workers of apply, a coordinator and retry on a broker.

Verify and status are played: a part is sent when the scenario says so, and no sooner.
"""

import signal
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiokafka.admin import RecordsToDelete
from aiokafka.structs import TopicPartition
from msgspec import Struct, field, msgpack

from agents.runtime.cluster import admin, look
from ops.apply_chaos.rig import Rig, Worker, until, until_so
from ops.reading import read_whole
from schemas.external import RESULT, Result
from schemas.flow import OPERATION, Apply, Decide, Operation, Prepare, Verified
from schemas.journal import JOURNAL as ENTRY
from schemas.journal import JournalEntry
from schemas.operations import NAME_BYTES, VOTE, OperationStatus, Said, Vote
from schemas.types import Context
from tests.agents.several_rig import asked_of, name_of
from tests.hurrying import hurry
from topics.registry import DECISIONS, JOURNAL, OPERATIONS, RESULTS, VOTES, Topic

WITHIN_S = 30.0

_status = msgpack.Decoder(OperationStatus).decode


class Seen(Struct):
    """What stands on topics."""

    results: dict[tuple[str, Context | None], list[Result]] = field(default_factory=lambda: defaultdict(list))
    entries: dict[Context, list[JournalEntry]] = field(default_factory=lambda: defaultdict(list))
    votes: dict[str, list[Said]] = field(default_factory=lambda: defaultdict(list))
    standing: dict[str, OperationStatus] = field(default_factory=dict)
    asked: list[tuple[Context, Operation]] = field(default_factory=list)

    def outcomes(self, request: str) -> dict[Context, str]:
        """The decision that stands for a request, by context: the outcome, and its code where it has one."""
        return {
            context or "": " ".join(filter(None, (results[-1].outcome, results[-1].code)))
            for (name, context), results in self.results.items()
            if name == request
        }

    def kinds(self, context: Context, operation: str = "") -> list[str]:
        """Of a context's entries, in order; of one operation's, where it is named."""
        return [entry.kind for entry in self.entries[context] if operation in ("", entry.operation)]

    def root(self, context: Context) -> bytes:
        """State root of a context as its last entry says it."""
        return self.entries[context][-1].state_root

    def words(self, payload: Verified) -> list[Decide]:
        """The coordinator's, on an operation."""
        name = name_of(payload)
        return [each for _, each in self.asked if isinstance(each, Decide) and each.operation == name]

    def attempts(self, payload: Verified) -> list[int]:
        """Of the parts that contexts were asked, one for each record."""
        name = name_of(payload)
        return sorted(each.attempt for _, each in self.asked if isinstance(each, Prepare) and each.operation == name)


class Scene:
    """What a scenario does, and sees."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig

    @property
    def coordinator(self) -> Worker:
        """Of the one there is."""
        return next(worker for worker in self.rig.beside if worker.stage == "coordinate")

    async def coordinator_again(self, *flags: str) -> None:
        """kill -9, and another one with these settings."""
        worker = self.coordinator
        worker.child.started.clear()
        worker.child.spec = worker._spec(*flags)
        worker.kill()
        await until(worker.child.started.is_set, "start of a coordinator", WITHIN_S)
        await self.rig.ready([worker])

    async def send(self, payload: Verified, *contexts: Context) -> None:
        """Parts of an operation: those of these contexts, or all."""
        parts = asked_of(payload)
        await self.rig.feed([(context, part) for context, part in parts if not contexts or context in contexts])

    async def alone(self, payload: Verified) -> None:
        """A payload to its one context."""
        (context,) = payload.asked.contexts
        await self.ask(context, Apply(f"{payload.asked.request_id} {context}", payload))

    async def ask(self, context: Context, operation: Operation) -> None:
        """A record of `operations`."""
        await self.rig.feed([(context, operation)])

    async def vote(self, operation: str, *said: Said) -> None:
        """Records of `votes`."""
        topic = VOTES.named(self.rig.settings.topics.prefix)
        async with self.rig.producer() as producer:
            for each in said:
                key, value = bytes.fromhex(operation), VOTE.encode(each)
                await producer.send_and_wait(topic, value, key=key, headers=[VOTE.header])

    async def lose_votes(self) -> int:
        """All that stand on the topic; how many."""
        settings = self.rig.settings
        topic = VOTES.named(settings.topics.prefix)
        lost = sum(map(len, (await self.seen()).votes.values()))
        async with admin(settings.kafka) as client:
            await client.delete_records(
                {TopicPartition(topic, number): RecordsToDelete(before_offset=-1) for number in range(VOTES.partitions)}
            )
        return lost

    async def seen(self) -> Seen:
        """All that stands on the topics by now."""
        seen = Seen()

        def take(topic: Topic, record: Any) -> None:
            if topic is RESULTS:
                result = RESULT.decode(record.value)
                for request in result.request_ids:
                    seen.results[request, result.context].append(result)
            elif topic is JOURNAL:
                seen.entries[record.key.decode()].append(ENTRY.decode(record.value))
            elif topic is VOTES:
                seen.votes[record.key.hex()].append(VOTE.decode(record.value, record.headers))
            elif topic is OPERATIONS:
                seen.asked.append((record.key.decode(), OPERATION.decode(record.value, record.headers)))
            elif len(record.key) == NAME_BYTES and record.value is not None:
                seen.standing[record.key.hex()] = _status(record.value)

        settings = self.rig.settings
        counts = (await look(settings.kafka, settings.topics)).partitions
        await read_whole(settings, counts, [OPERATIONS, JOURNAL, VOTES, DECISIONS, RESULTS], take)
        return seen

    async def until(self, true: Callable[[Seen], bool], what: str, *, hurried: bool = False) -> Seen:
        """Look again and again. hurried: what waits in a tier returns meanwhile.

        Raises:
            ops.apply_chaos.rig.Late: it does not come true.
        """
        seen = Seen()

        async def look_again() -> bool:
            nonlocal seen
            if hurried:
                await hurry()
            seen = await self.seen()
            return true(seen)

        await until_so(look_again, what, WITHIN_S)
        return seen

    async def decided(self, outcomes: Mapping[str, Mapping[Context, str]], *, hurried: bool = False) -> Seen:
        """Until these are the decisions that stand, by request."""
        return await self.until(
            lambda seen: all(seen.outcomes(request) == wanted for request, wanted in outcomes.items()),
            f"decisions {dict(outcomes)}",
            hurried=hurried,
        )

    async def journaled(self, context: Context, kind: str, times: int = 1) -> Seen:
        """Until so many entries of a kind stand in a context's journal."""
        return await self.until(lambda seen: seen.kinds(context).count(kind) == times, f"{kind} of {context}")

    async def stopped(self, worker: Worker, during: Callable[[], Awaitable[None]]) -> None:
        """A worker stands still meanwhile, as by SIGSTOP."""
        worker.child.tell(signal.SIGSTOP)
        try:
            await during()
        finally:
            worker.child.tell(signal.SIGCONT)


def votes_of(seen: Seen, payload: Verified) -> list[Vote]:
    """On an operation, as they stand on the topic."""
    return [said for said in seen.votes[name_of(payload)] if isinstance(said, Vote)]
