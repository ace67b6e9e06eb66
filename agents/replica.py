"""replica: a read-only copy of chosen contexts, without a group; compared with the journal at every entry (COPY-3).

It follows the changelog of the partitions its contexts are in, and their journal beside it. The chain and the roots of
each entry are computed from its effects, and a copy's own roots are those of the entry it stands at, or it answers
nothing.
"""

import asyncio
import logging
import os
import signal
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import aiokafka
import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaError

from agents import metrics
from agents.runtime.cluster import Cluster
from agents.runtime.connection import client_options
from agents.runtime.copies import AGAIN_S, LOOK_MS, Copies
from agents.runtime.events import Events
from agents.runtime.health import Port, token
from agents.runtime.journaled import Refused, journal_place
from agents.runtime.members import Speaker, advertised, worker_name
from agents.runtime.outbox import Outbox
from agents.runtime.partitioner import partition_for
from agents.runtime.places import Places
from agents.runtime.reads import Reads
from agents.runtime.scrubber import Scrubber
from agents.runtime.settings import KafkaSettings, TopicSettings, WorkerSettings
from agents.runtime.shelf import Shelf
from agents.runtime.transport import FETCH_BYTES, PARTITION_BYTES, producer_options
from agents.runtime.worker import say_where
from pipeline import journal
from pipeline.follow import Contexts
from pipeline.journal import Chain
from pipeline.state import Corrupt, Live, head_of
from schemas.external import Severity
from schemas.types import Context
from topics.registry import EVENTS, JOURNAL, MEMBERS, OPERATIONS, STATE, largest_record

log = logging.getLogger(__name__)

NAME = "replica"

AHEAD = 50_000
"""Entries of a context that the journal may be read ahead of the copy: 5 MB."""


class Said(msgspec.Struct):
    """What a context's journal says, entry by entry, from where its copy stood."""

    chain: Chain
    roots: dict[int, tuple[bytes, bytes, bytes]]  # by sequence not compared yet: the entry's hash, both roots
    breaks: list[str] = []


class Comparison:
    """The journals of some contexts beside their copies."""

    def __init__(self, contexts: Mapping[Context, int], kafka: KafkaSettings, topic: str, partitions: int) -> None:
        """contexts: with their partitions; topic: `journal` by its name on the cluster."""
        self._contexts = contexts
        self._kafka = kafka
        self._topic = topic
        self._partitions = partitions
        self.said: dict[Context, Said] = {}

    def begin(self, context: Context, head: Live) -> None:
        """From where a copy stands: it is what its changelog states, and the journal must say the same."""
        stands = {head.sequence: (head.entry_hash, head.state_root, head.store_root)}
        self.said[context] = Said(Chain.behind(head), stands)

    def take(self, record: Any) -> None:
        """A record of the journal."""
        context = (record.key or b"").decode(errors="replace")
        said = self.said.get(context)
        if said is None:
            return
        value = record.value or b""
        try:
            entry = journal.read(value)
        except msgspec.MsgspecError as error:
            said.breaks.append(f"{self._topic}/{record.partition}/{record.offset} is no entry: {error}")
            return
        if entry.sequence < said.chain.sequence:
            return  # before where the copy stood
        if entry.sequence == said.chain.sequence:
            if journal.hash_of(value) != said.chain.hash:
                said.breaks.append(f"{context} {entry.sequence} is not the entry that its state names")
            return
        said.breaks += [found.says for found in said.chain.take(entry, value)]
        said.roots[entry.sequence] = (said.chain.hash, entry.state_root, entry.store_root)

    def differs(self, context: Context, head: Live) -> str:
        """Why a copy that stands there is not what the journal says; empty: it is, or the journal is not as far."""
        said = self.said[context]
        if said.breaks:
            return said.breaks[0]
        for sequence in [sequence for sequence in said.roots if sequence < head.sequence]:
            del said.roots[sequence]
        stated = said.roots.get(head.sequence)
        if stated is None or stated == (head.entry_hash, head.state_root, head.store_root):
            return ""
        return f"{context} {head.sequence}: the copy has other roots than the journal"

    @property
    def ahead(self) -> bool:
        """Whether copies have to catch up first."""
        return any(len(said.roots) > AHEAD for said in self.said.values())

    async def starts(self, contexts: Collection[Context]) -> dict[int, int]:
        """By partition, the offset from which all of these contexts' next entries come.

        Raises:
            aiokafka.errors.KafkaError: the broker does not answer.
            agents.runtime.journaled.Refused: a record on the way is no entry.
        """
        places = Places(self._kafka, self._topic, self._partitions)
        await places.start()
        try:
            found: dict[int, int] = {}
            for context in contexts:
                number = self._contexts[context]
                end = await places.end(number)
                at = await journal_place(places, number, context, max(1, self.said[context].chain.sequence), end)
                found[number] = min(found.get(number, at), at)
            return found
        finally:
            await places.stop()


class Replica:
    """The process."""

    def __init__(
        self,
        contexts: Collection[Context],
        cluster: Cluster,
        kafka: KafkaSettings,
        topics: TopicSettings,
        settings: WorkerSettings,
        run_dir: Path,
    ) -> None:
        """Raises NeedsToken when the port is bound wide without one."""
        self._kafka, self._topics, self._settings, self._cluster = kafka, topics, settings, cluster
        count = cluster.partitions[OPERATIONS.name]
        self.contexts = {context: partition_for(context.encode(), count) for context in contexts}
        folder = Path(settings.data_dir, NAME, topics.prefix.strip("."))
        self.shelf = Shelf(folder, 1, settings.any_from_differing)
        wanted = set(self.contexts.values())
        self.copies = Copies(
            NAME,
            kafka,
            STATE.named(topics.prefix),
            Contexts(),
            self.shelf,
            lambda: wanted,
            lambda: wanted,
            self._tell,
            self._repaired,
        )
        self.comparison = Comparison(self.contexts, kafka, JOURNAL.named(topics.prefix), count)
        self.reads = Reads(
            kafka,
            topics,
            cluster.partitions,
            token(settings),
            self.shelf.readable,
            self.copies.spoil,
            self.shelf.differing,
        )
        self.port = Port(self, settings, self.reads.add_to)
        self._run_file = run_dir / f"{NAME}-{os.getpid()}.json"
        self._started = time.time()
        self._differed: set[Context] = set()  # once; the second time it is not the store
        self._halted: str | None = None
        self._resumed = asyncio.Event()
        self._events: Events | None = None
        metrics.register(NAME, (EVENTS.name, MEMBERS.name), ())

    async def run(self) -> None:
        """Until SIGTERM or SIGINT.

        Raises:
            Exception: what cannot be waited out; the process is to be started again.
        """
        producer = AIOKafkaProducer(
            **producer_options(self._kafka, largest_record(self._topics.max_payload_bytes)), enable_idempotence=True
        )
        await producer.start()
        outbox = Outbox(producer, self._topics.prefix, self._cluster.partitions, self._topics.max_payload_bytes)
        self._events = Events(NAME, outbox)
        self.shelf.look()
        await self.port.start()
        say_where(self._run_file, NAME, "", self.port.url, self._kafka, self._topics, self._started)
        url = advertised(self._settings, self.port.url, self._kafka.bootstrap)
        speaker = Speaker(worker_name(self._settings, NAME), url, self.reads.held, outbox)
        scrubber = Scrubber(NAME, self.shelf.readable, self.copies.spoil, self._settings.scrub_share)
        works = (self.copies.run(), self._compare(), self._events.run(), speaker.run(), scrubber.run(), _told_to_stop())
        tasks = [asyncio.ensure_future(work) for work in works]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.port.stop()
            await self.reads.stop()
            self.shelf.close()
            await speaker.leave()
            await producer.stop()
            self._run_file.unlink(missing_ok=True)

    # --- comparing

    async def _compare(self) -> None:
        while True:
            try:
                await self._follow_journal()
            except (KafkaError, Refused) as error:
                log.warning("the journal is not followed for now: %s", error)
                await asyncio.sleep(AGAIN_S)

    async def _follow_journal(self) -> None:
        """Until copies are made again, or an operator resumes: then from where they stand."""
        while not self.copies.fresh.issuperset(self.contexts.values()):
            await asyncio.sleep(LOOK_MS / 1000)
        for context, number in self.contexts.items():
            self.comparison.begin(context, head_of(self.shelf.readable[number].store, context))
        starts = await self.comparison.starts(self.contexts)
        consumer = AIOKafkaConsumer(
            **client_options(self._kafka),
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            max_partition_fetch_bytes=PARTITION_BYTES,
            fetch_max_bytes=FETCH_BYTES,
            fetch_max_wait_ms=LOOK_MS,
        )
        tps = {number: aiokafka.TopicPartition(JOURNAL.named(self._topics.prefix), number) for number in starts}
        consumer.assign(list(tps.values()))
        await consumer.start()
        try:
            for number, offset in starts.items():
                consumer.seek(tps[number], offset)
            while not self._resumed.is_set():
                fetched = {} if self.comparison.ahead else await consumer.getmany(timeout_ms=LOOK_MS, max_records=500)
                for records in fetched.values():
                    for record in records:
                        self.comparison.take(record)
                if not fetched:
                    await asyncio.sleep(0.01)
                if not self._all_agree():
                    return
            self._resumed.clear()
        finally:
            await consumer.stop()

    def _all_agree(self) -> bool:
        """False where one was found to differ: it is made again, and the second time refused."""
        for context, number in self.contexts.items():
            held = self.shelf.readable.get(number)
            if held is None:
                return False  # it is made again
            why = self.comparison.differs(context, head_of(held.store, context))
            if not why:
                continue
            metrics.JOURNAL_DIFFERS.labels(NAME).inc()
            if context in self._differed or self.comparison.said[context].breaks:
                self._halted = why
                self.copies.refuse(number, why)
            else:
                self._differed.add(context)
                self.copies.spoil(number, Corrupt(why, context.encode()))
            return False
        return True

    async def _repaired(self, number: int, error: Corrupt) -> None:
        self._tell("store-repaired", "info", str(error), {"partition": number, "context": error.context})

    def _tell(self, kind: str, severity: Severity, message: str, details: dict[str, Any]) -> None:
        if self._events is not None:
            self._events.tell(kind, severity, message, details)

    # --- what the port asks

    def alive(self) -> bool:
        """Whatever it waits for, it waits on purpose."""
        return True

    def ready(self) -> tuple[bool, dict[str, object]]:
        """Once all copies are fresh and agree with the journal."""
        fresh = self.copies.fresh.issuperset(self.contexts.values())
        state = "halted" if self._halted else "running" if fresh else "restoring"
        about: dict[str, object] = {
            "stage": NAME,
            "state": state,
            "reason": self._halted,
            "partitions": len(self.copies.fresh),
            "contexts": sorted(self.contexts),
        }
        return fresh and self._halted is None, about

    def resume(self) -> None:
        """An operator has looked: copies are followed again, and compared from where they stand."""
        self._halted = None
        self._differed.clear()
        self._resumed.set()
        self.copies.forgive()


async def _told_to_stop() -> None:
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    await told.wait()
