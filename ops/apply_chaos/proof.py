"""What must hold after a fault test of apply: nothing lost, doubled or torn, and one state wherever it is kept.

Every operation on the topic is run through the rule again, in memory (`ops/instruments/expected.py`). Then these are
the same: what stands on each output topic, record for record; the journals, replayed from nothing into their roots; the
state as a new copy reads it from the changelog; that in the workers' own stores; and what the workers say over HTTP.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from agents.apply import ApplyStage
from agents.runtime.cluster import look
from agents.runtime.partitioner import partition_for
from agents.runtime.store import Store
from beefline.reading import NoAnswer, StateReader
from ops.apply_chaos.rig import Rig
from ops.instruments.audit.report import Notes, Report
from ops.instruments.expected import Expected, Trace, comparable, differences, trace
from ops.journal import Journals, Stated
from ops.reading import read_whole
from ops.settings import Settings
from pipeline.follow import Follower
from pipeline.state import APPLIED_KEY, Corrupt, Live, Memory, context_of
from schemas.types import Context
from topics.registry import JOURNAL, OPERATIONS, STATE, Topic

KINDS: Mapping[str, str] = {
    "lost": "A record that an operation must leave is not there.",
    "doubled": "A record stands more often than operations left it.",
    "stranger": "A record that no operation left.",
    "doubled-result": "An id has two results of one revision that differ.",
    "torn-journal": "A journal, replayed from its first entry, is not what it must be.",
    "torn-state": "A new copy of the state is not what the operations give.",
    "torn-store": "A worker's store is not what the operations give.",
    "no-store": "Fewer workers than should have a partition as the changelog ends.",
    "torn-read": "A worker says something else over HTTP.",
}
"""Findings."""

HOLDS = b"\x01"
"""Keys of contexts begin here: a store's own stand before."""


class Held(Struct, frozen=True):
    """What workers said over HTTP while they ran."""

    who: str
    context: Context
    sequence: int
    state_root: str
    store_root: str
    settling: bool


async def asked(urls: Mapping[str, str], contexts: Sequence[Context]) -> tuple[list[Held], list[str]]:
    """Ask every worker for every context, strongly: who does not own it asks the owner. Also: who did not answer."""
    found, silent = [], []
    for who, url in urls.items():
        async with StateReader(url) as reader:
            for context in contexts:
                kind: Any
                kind, _, name = context.partition(":")
                try:
                    said = await reader.state(name, kind=kind)
                except NoAnswer as error:
                    silent.append(f"{who} {context}: {error}")
                    continue
                found.append(Held(who, said.context, said.sequence, said.state_root, said.store_root, said.settling))
    return found, silent


class Proof:
    """Compares, and keeps what differs."""

    def __init__(self, settings: Settings, keep: int = 10) -> None:
        self.settings = settings
        self.counts: Counter[str] = Counter()
        self._notes = Notes(keep)
        self._expected = Expected(ApplyStage(settings.apply), settings.topics.prefix, settings.retry.give_up_after_s)
        self._wanted: dict[int, dict[bytes, bytes]] = defaultdict(dict)  # entries by partition
        self._applied: dict[int, bytes] = {}  # the applied offset, as the changelog ends
        self._began = time.monotonic()

    async def topics(self) -> None:
        """What stands on the topics, against what the operations must have left.

        Raises:
            agents.runtime.cluster.Unreachable: no broker answers.
            ops.reading.NotReadable: a transaction stays open.
        """
        settings = self.settings
        self._cluster = await look(settings.kafka, settings.topics)
        counts = self._cluster.partitions
        asked: list[Any] = []  # judged when all are read: a fetch does not wait for a minute
        await read_whole(settings, counts, [OPERATIONS], lambda _, record: asked.append(record))
        for record in asked:
            self._expected.take(record)
        for key, stored in comparable(self._expected.entries()).items():
            self._wanted[self._partition(context_of(key))][key] = stored
        self.counts["operations"] = sum(self._expected.operations.values())
        self.counts |= {f"operations: {what}": n for what, n in sorted(self._expected.operations.items())}
        found: Counter[Trace] = Counter()
        results: dict[tuple[str, int], Trace] = {}

        def take(topic: Topic, record: Any) -> None:
            each = trace(topic, record.key, record.value or b"", record.headers)
            found[each] += 1
            self.counts[f"records of {topic.name}"] += 1
            if topic is JOURNAL:
                self.counts[f"journal: {each.what.rpartition(' ')[2]}"] += 1
            if topic.name == "results":
                before = results.setdefault(_revision(each), each)
                if before != each:
                    self._notes.add("doubled-result", each.what)

        stage = self._expected.stage  # what it writes to its own input was looked at as such
        await read_whole(settings, counts, tuple(t for t in stage.outputs if t not in stage.inputs), take)
        self.counts["results by id and revision"] = len(results)
        lost, doubled, strange = differences(self._expected.traces, found)
        for kind, listed in (("lost", lost), ("doubled", doubled), ("stranger", strange)):
            for what in listed:
                self._notes.add(kind, what)

    async def state(self) -> None:
        """The journals from nothing, the changelog into an empty store; each against the operations."""
        wanted = self._expected.heads()
        stated = {context: [_stated("the operations", live)] for context, live in wanted.items()}
        async with Journals(self.settings) as journals:
            for context, words in (await journals.heads()).items():
                stated.setdefault(context, []).extend(words)
            for walked in await journals.verify(stated):
                self.counts["journal entries replayed"] += walked.entries
                for broken in walked.breaks:
                    self._notes.add("torn-journal", broken)
                live = wanted.get(walked.context, Live())
                if walked.sequence > live.sequence:  # shorter is told by the walk
                    self._notes.add("torn-journal", f"{walked.context} ends at {walked.sequence}, not {live.sequence}")
        self.counts["contexts"] = len(wanted)
        copies: dict[int, tuple[Memory, Follower]] = {}

        def take(_: Topic, record: Any) -> None:
            if record.partition not in copies:
                memory = Memory()
                copies[record.partition] = memory, Follower(memory)
            copies[record.partition][1].take(record.key, record.value)

        try:
            await read_whole(self.settings, self._cluster.partitions, [STATE], take)
            for partition, (memory, follower) in copies.items():
                follower.compare()
                memory.write(follower.writes())
                self._applied[partition] = memory.entries[APPLIED_KEY]
                self._same("torn-state", f"state-{partition}", partition, dict(memory.entries))
        except Corrupt as error:
            self._notes.add("torn-state", str(error))

    def reads(self, held: Sequence[Held], silent: Sequence[str]) -> None:
        """What workers said."""
        wanted = self._expected.heads()
        for said in held:
            live = wanted.get(said.context, Live())
            same = (said.sequence, said.state_root, said.store_root, said.settling)
            if same != (live.sequence, live.state_root.hex(), live.store_root.hex(), False):
                self._notes.add("torn-read", f"{said.who} of {said.context}: {said.sequence}, not {live.sequence}")
        for what in silent:
            self._notes.add("torn-read", what)
        self.counts["reads over HTTP"] = len(held)

    def stores(self, folders: Sequence[Path]) -> None:
        """The stores of workers that have ended, after `state`: the owners', and as many copies as are wanted."""
        prefix = self.settings.topics.prefix.strip(".")
        whole: dict[int, int] = defaultdict(int)
        for folder in folders:
            for path in sorted((folder / "apply" / prefix).glob("g1-*")):
                partition = int(path.name.removeprefix("g1-"))
                store = Store(path)
                try:
                    if not store.partly and store.get(APPLIED_KEY) == self._applied.get(partition, b""):
                        entries = store.walk(HOLDS)
                        self._same("torn-store", str(path), partition, dict(entries))
                        whole[partition] += 1
                except Corrupt as error:
                    self._notes.add("torn-store", f"{path}: {error}")
                finally:
                    store.close()
        self.counts["stores compared"] = sum(whole.values())
        copies = min(len(folders), self.settings.worker.replication)
        for partition in {self._partition(context.encode()) for context in self._expected.heads()}:
            if whole[partition] < copies:
                self._notes.add("no-store", f"partition {partition}: {whole[partition]} of {copies}")

    def note(self, finding: str, what: str) -> None:
        """Something else that was found."""
        self._notes.add(finding, what)

    def report(self, more: Mapping[str, str] | None = None) -> Report:
        """All of it. more: kinds of findings of one's own."""
        findings = self._notes.findings({**KINDS, **(more or {})})
        return Report(dict(self.counts), findings, (), round(time.monotonic() - self._began, 3))

    def _partition(self, context: bytes) -> int:
        return partition_for(context, self._cluster.partitions[STATE.name])

    def _same(self, kind: str, where: str, partition: int, entries: Mapping[bytes, bytes]) -> None:
        """Byte for byte, indexes too."""
        found = comparable((key, stored) for key, stored in entries.items() if key >= HOLDS)
        wanted = self._wanted[partition]
        if found != wanted:
            keys = {key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key)}
            self._notes.add(kind, f"{where}: {len(keys)} entries differ, the first is {min(keys)!r}")


async def prove(rig: Rig, contexts: Sequence[Context]) -> Proof:
    """Wait until all is applied, and compare; the workers are ended on the way, so that their stores can be read.

    contexts: that operations were for.

    Raises:
        ops.apply_chaos.rig.Late: the workers do not come to an end with what they have to do.
    """
    await rig.ready()
    await rig.drained()
    held, silent = await asked({worker.child.spec.name: worker.url or "" for worker in rig.workers}, contexts)
    proof = Proof(rig.settings)
    await proof.topics()
    await proof.state()
    proof.reads(held, silent)
    await rig.stop_workers()
    proof.stores([worker.data for worker in rig.workers])
    return proof


def _stated(who: str, live: Live) -> Stated:
    return Stated(who, live.sequence, live.state_root, live.store_root)


def _revision(result: Trace) -> tuple[str, int]:
    name, _, rest = result.what.partition(" revision ")
    return name, int(rest.partition(":")[0])
