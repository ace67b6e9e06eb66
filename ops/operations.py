"""Operations over several contexts as topics tell of them: where each stands, and whether contexts agree (ATOMIC-1).

`decisions` says what is undecided and what was decided; `journal` says what each context made of it. Between the two
lies what was decided and is still on its way to a context: unread records of `operations` and of the retry tiers.
"""

import contextlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec
from aiokafka.errors import GroupCoordinatorNotAvailableError
from aiokafka.structs import TopicPartition
from msgspec import Struct, field

from agents.retry import TIERS
from agents.runtime.cluster import admin, look
from ops.journal import Broken
from ops.reading import read_whole
from ops.settings import Settings
from pipeline.journal import read
from pipeline.results import rfc3339
from schemas.flow import OPERATION, Decide
from schemas.operations import NAME_BYTES, OperationStatus
from schemas.types import Context, Txid
from schemas.wire import Undecodable
from topics.registry import BY_NAME, DECISIONS, JOURNAL, OPERATIONS, Topic, group

GRACE_MS = 60_000
"""After a deadline: the coordinator looks at its clock twice a second, and repeats what it told itself after 30 s."""

KINDS = ("prepare", "commit", "abort")


class Part(Struct):
    """What a context made of an operation, as its journal says it."""

    kind: str  # of the last entry: prepare, commit or abort
    sequence: int  # of that
    time_ms: int
    committed: int = 0  # sequence of the entry that committed it; 0: none did
    again: int = 0  # of a second one, which there must not be


class Operation(Struct):
    """An operation over several contexts, as far as topics tell of it."""

    name: str
    txid: Txid
    contexts: tuple[Context, ...]
    status: OperationStatus | None = None  # None: the coordinator knows nothing of it, or has forgotten
    parts: dict[Context, Part] = field(default_factory=dict)
    on_its_way: frozenset[Context] = frozenset()  # contexts that have not read the word they were sent

    @property
    def committed(self) -> list[Context]:
        """Contexts that show it."""
        return [context for context in self.contexts if (part := self.parts.get(context)) and part.committed]

    @property
    def missing(self) -> list[Context]:
        """Contexts that have not voted yes on an undecided one, as far as the coordinator has heard."""
        yes = self.status.yes if self.status is not None else ()
        return [context for context in self.contexts if context not in yes]

    @property
    def stands(self) -> Literal["undecided", "under way", "committed", "aborted", "unheard"]:
        """In a word. unheard: contexts have prepared it, and the coordinator has not read a vote; or has forgotten it.

        under way: it was decided, and a context has not read so.
        """
        if self.status is not None and not self.status.decided:
            return "undecided"
        if self.on_its_way:
            return "under way"
        if self.status is not None:
            return "committed" if self.status.decided == "commit" else "aborted"
        if self.committed:
            return "committed"
        return "unheard" if any(part.kind == "prepare" for part in self.parts.values()) else "aborted"


class Finding(Struct, frozen=True):
    """Something that must not be."""

    kind: Literal["torn", "against", "twice", "overdue"]
    operation: str
    context: Context  # where it shows
    says: str


# --- judging


def findings(operation: Operation, now_ms: int, deadline_ms: int) -> list[Finding]:
    """What is wrong with one: committed everywhere or nowhere, as decided, once, and decided in time.

    deadline_ms: of an attempt.
    """
    found: list[Finding] = []

    def say(kind: Literal["torn", "against", "twice", "overdue"], context: Context, says: str) -> None:
        found.append(Finding(kind, operation.name, context, says))

    status, parts, committed = operation.status, operation.parts, operation.committed
    for context in committed:
        part = parts[context]
        if part.again:
            say("twice", context, f"{context} shows it twice, by entries {part.committed} and {part.again}")
        if status is not None and status.decided != "commit":
            decided = f"it was aborted: {why_aborted(status)}" if status.decided else "nobody has decided"
            say("against", context, f"{context} committed it by entry {part.committed}, and {decided}")
    if committed or (status is not None and status.decided == "commit"):
        who = f"{committed[0]} committed it by entry {parts[committed[0]].committed}" if committed else "it is decided"
        for context in operation.contexts:
            if context not in committed and context not in operation.on_its_way:
                say("torn", context, f"{who}, and {context} {_where(parts.get(context))}")
        return found
    late_ms = now_ms - GRACE_MS
    if status is not None and not status.decided:
        if status.due_ms < late_ms:
            missing = operation.missing
            context = missing[0] if missing else operation.contexts[0]
            due = rfc3339(status.due_ms)
            say("overdue", context, f"it is undecided, and was due {due}: {', '.join(missing)} did not vote")
        return found
    for context, part in parts.items():
        if part.kind == "prepare" and part.time_ms + deadline_ms < late_ms and context not in operation.on_its_way:
            told = "was never told that it was aborted" if status is not None else "nobody has heard of it"
            say("overdue", context, f"{context} {_where(part)} since {rfc3339(part.time_ms)}, and {told}")
    return found


def why_aborted(status: OperationStatus) -> str:
    """Code, message, and who did not agree."""
    by = f" by {status.by}" if status.by else ""
    return f"{status.code}{by} in attempt {status.attempt}: {status.message}"


def _where(part: Part | None) -> str:
    if part is None:
        return "has no entry of it"
    return f"{'has it prepared' if part.kind == 'prepare' else 'has aborted it'} (entry {part.sequence})"


# --- reading


class Operations:
    """All that was read of an installation's operations. About a kilobyte of memory for each."""

    def __init__(self) -> None:
        self.by_name: dict[str, Operation] = {}
        self._unread: dict[str, set[Context]] = {}

    def journaled(self, record: Any) -> None:
        """A record of `journal`.

        Raises:
            Broken: it is no entry.
        """
        try:
            entry = read(record.value)
        except msgspec.MsgspecError as error:
            raise Broken(f"{JOURNAL.name}/{record.partition}/{record.offset} is no entry: {error}") from error
        if not entry.contexts or entry.kind not in KINDS:
            return
        operation = self.by_name.get(entry.operation)
        if operation is None:
            operation = self.by_name[entry.operation] = Operation(entry.operation, entry.txid, entry.contexts)
        before = operation.parts.get(entry.context)
        part = Part(entry.kind, entry.sequence, entry.time_ms)
        if before is not None:
            part.committed, part.again = before.committed, before.again
        if entry.kind == "commit":
            if part.committed:
                part.again = entry.sequence
            else:
                part.committed = entry.sequence
        operation.parts[entry.context] = part

    def decided(self, record: Any) -> None:
        """A record of `decisions`.

        Raises:
            Broken: it is not what the coordinator writes.
        """
        if len(record.key) != NAME_BYTES:
            return
        name = record.key.hex()
        known = self.by_name.get(name)
        if record.value is None:
            if known is not None:
                known.status = None
            return
        try:
            status = _status(record.value)
        except msgspec.MsgspecError as error:
            where = f"{DECISIONS.name}/{record.partition}/{record.offset}"
            raise Broken(f"{where} does not say where an operation stands: {error}") from error
        if known is None:
            known = self.by_name[name] = Operation(name, status.txid, status.asked.contexts)
        known.status = status

    def unread(self, record: Any) -> None:
        """A record that nobody has acknowledged, of `operations` or of a retry tier."""
        if record.value is None or record.key is None:
            return
        try:
            word = OPERATION.decode(record.value, record.headers)
        except Undecodable:
            return  # of another topic, or its stage says so itself
        if isinstance(word, Decide):
            self._unread.setdefault(word.operation, set()).add(record.key.decode())

    def end(self) -> list[Operation]:
        """All of them, the oldest first by what is known of them; those that were decided and forgotten lead."""
        for name, contexts in self._unread.items():
            if (known := self.by_name.get(name)) is not None:
                known.on_its_way = frozenset(contexts.difference(known.committed))  # acknowledged a moment later
        known_by = [each for each in self.by_name.values() if each.status is not None or each.parts]
        return sorted(known_by, key=lambda each: (each.status.opened_ms if each.status else 0, each.name))


async def standing(settings: Settings) -> list[Operation]:
    """What the coordinator knows by now.

    Raises:
        agents.runtime.cluster.Unreachable: no broker answers.
        ops.reading.NotReadable: a transaction stays open.
        Broken: something else stands there.
    """
    found = Operations()
    counts = (await look(settings.kafka, settings.topics)).partitions
    await read_whole(settings, counts, [DECISIONS], lambda _, record: found.decided(record))
    return found.end()


async def everywhere(settings: Settings) -> list[Operation]:
    """That, with what the journals say, and what is on its way. Cost: every record of `journal`.

    The order of reading is what makes this sound. Where groups stand is noted first: what they have read by then, the
    journal that is read behind it shows. What was decided is read behind the journal, which shows nothing that was
    not, and what is on its way last: whatever was decided is there, or was read and shows.

    Raises: as `standing`.
    """
    prefix = settings.topics.prefix
    found = Operations()
    counts = (await look(settings.kafka, settings.topics)).partitions
    since: dict[TopicPartition, int] = {}
    async with admin(settings.kafka) as client:
        for stage in ("apply", "retry"):  # in this order: what returns from a tier is behind what apply has read
            with contextlib.suppress(GroupCoordinatorNotAvailableError):  # on a cluster where no group ever was
                at = await client.list_consumer_group_offsets(group(prefix, stage))
                since |= {tp: place.offset for tp, place in at.items() if place.offset >= 0}
    await read_whole(settings, counts, [JOURNAL], lambda _, record: found.journaled(record))
    await read_whole(settings, counts, [DECISIONS], lambda _, record: found.decided(record))
    tails: Sequence[Topic] = (*(BY_NAME[f"retry.{tier}"] for tier in TIERS), OPERATIONS)
    await read_whole(settings, counts, tails, lambda _, record: found.unread(record), since)
    return found.end()


def verified(
    operations: Iterable[Operation], now_ms: int, deadline_ms: int
) -> tuple[Mapping[str, int], Sequence[Finding]]:
    """How many stand where, and all that is wrong."""
    counts = dict.fromkeys(("committed", "aborted", "under way", "undecided", "unheard"), 0)
    found: list[Finding] = []
    for operation in operations:
        counts[operation.stands] += 1
        found += findings(operation, now_ms, deadline_ms)
    return counts, found


def named(operations: Collection[Operation], name: str) -> list[Operation]:
    """Those whose name begins so."""
    return [each for each in operations if each.name.startswith(name.lower())]


_status = msgspec.msgpack.Decoder(OperationStatus).decode
