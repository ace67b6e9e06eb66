"""Warm copies: stores that follow the changelog of partitions which others own (COPY-1, COPY-2).

A copy compares both roots of every context touched at the end of each batch. One that differs answers no reads, and is
made again from the changelog. When its partition is given to this worker, all that is left to read is what was written
a moment ago.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import aiokafka
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from agents import metrics
from agents.runtime.connection import client_options
from agents.runtime.settings import KafkaSettings
from agents.runtime.shelf import Shelf
from agents.runtime.store import Store
from agents.runtime.transport import FETCH_BYTES, PARTITION_BYTES
from pipeline.follow import Form
from pipeline.state import APPLIED_KEY, Corrupt
from schemas.external import Severity

log = logging.getLogger(__name__)

RESTORE_CHUNK = 20_000
"""Changelog records gathered before they are written to a store: 20 MB at 1 kB each."""

SLICE = 500
"""Records taken between two turns of the loop: ten milliseconds."""

LOOK_MS = 200
"""How long copies that are up to date wait for records before it is looked what is wanted now."""

AGAIN_S = 2.0
"""After the broker did not answer."""

REFUSED_S = 60.0
"""How long a changelog that contradicts itself is left alone: its owner halts over it, and an operator mends it."""


class Copy:
    """One under way."""

    def __init__(self, store: Store, form: Form, differed: Corrupt | None = None) -> None:
        """differed: why it was made again."""
        self.store = store
        self.form = form
        self.follower = form.follower(store)
        self.position = store.position
        self.sought = False  # the consumer fetches from there on
        self.whole = True  # what was taken last ended a batch
        self.goal = 0  # before which compaction may have left sums without what they are of
        self.fresh = False  # it came as far as that, and its roots are right
        self.differed = differed


class Copies:
    """All that a worker follows."""

    def __init__(
        self,
        stage: str,
        kafka: KafkaSettings,
        topic: str,
        form: Form,
        shelf: Shelf,
        wanted: Callable[[], set[int]],
        kept: Callable[[], set[int]],
        tell: Callable[[str, Severity, str, dict[str, Any]], None],
        repaired: Callable[[int, Corrupt], Awaitable[None]],
    ) -> None:
        """What is followed, from where, and where to.

        topic: the changelog, by its name on the cluster; wanted: partitions to follow now; kept: those whose stores
        stay open, followed or not; tell: an event; repaired: told of one that was made again.
        """
        self._stage = stage
        self._kafka = kafka
        self._topic = topic
        self._form = form
        self._shelf = shelf
        self._wanted_now = wanted
        self._kept = kept
        self._tell = tell
        self._repaired = repaired
        self._copies: dict[int, Copy] = {}
        self._refused: dict[int, float] = {}  # the changelog contradicts its heads; since when
        self.changed = asyncio.Event()  # what is wanted may be something else now

    @property
    def fresh(self) -> frozenset[int]:
        """Those that are as far as their changelog."""
        return frozenset(number for number, copy in self._copies.items() if copy.fresh)

    def drop(self, number: int) -> None:
        """An owner takes the store."""
        self._copies.pop(number, None)

    def spoil(self, number: int, error: Corrupt) -> None:
        """A reader found in a copy what was not written."""
        if number in self._copies:
            self._differs(number, error)
            self.changed.set()

    def refuse(self, number: int, message: str) -> None:
        """What a copy follows is not what it should be: it answers nothing, and is left alone for a while."""
        log.error("what a copy follows is at fault, and not followed for now: %s", message)
        self._tell("state-differs", "error", message, {"partition": number})
        self._refused[number] = time.monotonic()
        self._leave(number)

    def forgive(self) -> None:
        """What was refused is followed again."""
        self._refused.clear()
        self.changed.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self.changed.clear()
            if not self._wanted():
                self._shelf.put_away(self._kept())
                with suppress(TimeoutError):
                    await asyncio.wait_for(self.changed.wait(), AGAIN_S)
                continue
            try:
                await self._follow()
            except KafkaError as error:
                log.warning("copies of the state are not followed for now: %r", error)
                await asyncio.sleep(AGAIN_S)

    def _wanted(self) -> set[int]:
        now = time.monotonic()
        return {n for n in self._wanted_now() if now - self._refused.get(n, -REFUSED_S) >= REFUSED_S}

    async def _follow(self) -> None:
        """For as long as any is wanted."""
        consumer = AIOKafkaConsumer(
            **client_options(self._kafka),
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            max_partition_fetch_bytes=PARTITION_BYTES,
            fetch_max_bytes=FETCH_BYTES,
            fetch_max_wait_ms=LOOK_MS,
        )
        await consumer.start()
        try:
            while self._wanted():
                await self._arrange(consumer)
                fetched = await consumer.getmany(timeout_ms=LOOK_MS, max_records=SLICE)
                for tp, records in fetched.items():
                    copy = self._copies.get(tp.partition)
                    if copy is not None and copy.sought:  # else an owner took it meanwhile, or it is made again
                        await self._take(consumer, tp, records)
                for number in [number for number, copy in self._copies.items() if not copy.fresh]:
                    await self._look(consumer, number)
        finally:
            for number in list(self._copies):
                self._leave(number)
            await consumer.stop()

    def _leave(self, number: int) -> None:
        self._copies.pop(number, None)
        self._shelf.serve_no_copy(number)

    async def _arrange(self, consumer: Any) -> None:
        """Begin with what is wanted now, and leave what is not."""
        wanted = self._wanted()
        for number in [number for number in self._copies if number not in wanted]:
            self._leave(number)
        self._shelf.put_away(self._kept() | wanted)
        same = wanted == set(self._copies) == {tp.partition for tp in consumer.assignment()}
        if same and all(copy.sought for copy in self._copies.values()):
            return
        for number in sorted(wanted - set(self._copies)):
            self._copies[number] = Copy(self._shelf.copy(number), self._form)
        tps = [aiokafka.TopicPartition(self._topic, number) for number in sorted(wanted)]
        ends = await consumer.end_offsets(tps)
        consumer.assign(tps)
        for tp in tps:
            if (copy := self._copies.get(tp.partition)) is None:
                continue
            copy.goal = max(copy.goal, ends[tp])
            if copy.position > ends[tp]:
                why = f"it stands at {copy.position}, behind the end of its changelog at {ends[tp]}"
                self._differs(tp.partition, Corrupt(why))
            self._from(consumer, tp)

    async def _take(self, consumer: Any, tp: aiokafka.TopicPartition, records: Sequence[Any]) -> None:
        copy = self._copies[tp.partition]
        try:
            for batch in _batches(records):
                copy.follower.take_all([(record.key, record.value) for record in batch])
                copy.position = batch[-1].offset + 1
                copy.whole = batch[-1].key == APPLIED_KEY
                if copy.whole and copy.position >= copy.goal - 1:  # the last offset is the transaction's marker
                    await self._compare(consumer, tp, copy)
                if self._copies.get(tp.partition) is not copy:
                    return
            if not copy.fresh and len(copy.follower) >= RESTORE_CHUNK:
                copy.store.write(copy.follower.writes(), None)
        except Corrupt as error:
            self._differs(tp.partition, error)
            self._from(consumer, tp)

    async def _look(self, consumer: Any, number: int) -> None:
        """Whether one is as far as its changelog was: markers may be all that stood between."""
        tp = aiokafka.TopicPartition(self._topic, number)
        copy = self._copies[number]
        if copy.whole and copy.sought:
            position = await consumer.position(tp)
            if position >= copy.goal and self._copies.get(number) is copy:
                copy.position = position
                await self._compare(consumer, tp, copy)

    async def _compare(self, consumer: Any, tp: aiokafka.TopicPartition, copy: Copy) -> None:
        """At the end of a batch. What does not fit may lack what compaction took, for what comes later replaces it."""
        try:
            copy.follower.compare()
        except Corrupt as error:
            end = (await consumer.end_offsets([tp]))[tp]
            if self._copies.get(tp.partition) is not copy:
                return
            if copy.position < end - 1:
                copy.fresh, copy.goal = False, end
                self._shelf.serve_no_copy(tp.partition)
            else:
                self._differs(tp.partition, error)
                self._from(consumer, tp)
            return
        copy.store.write(copy.follower.writes(), copy.position)
        copy.follower = copy.form.follower(copy.store)
        self._shelf.stands(tp.partition, copy.position)
        if not copy.fresh:
            copy.fresh = True
            self._shelf.serve_copy(tp.partition)
            if copy.differed is not None:
                await self._repaired(tp.partition, copy.differed)
                copy.differed = None

    def _from(self, consumer: Any, tp: aiokafka.TopicPartition) -> None:
        """One that was made again is read from its beginning."""
        if (copy := self._copies.get(tp.partition)) is not None and tp in consumer.assignment():
            consumer.seek(tp, copy.position)
            copy.sought = True

    def _differs(self, number: int, error: Corrupt) -> None:
        """It answers nothing any longer, and is made again; where that was done already, the changelog is at fault."""
        message = f"{self._topic}-{number}: {error}"
        if self._copies[number].differed is not None:
            self.refuse(number, message)
            return
        log.error("a copy of the state differs, and is made again: %s", message)
        metrics.STORES_SPOILED.labels(self._stage).inc()
        self._tell("copy-differs", "error", message, {"partition": number})
        goal = self._copies[number].goal
        self._copies[number] = Copy(self._shelf.copy_anew(number), self._form, error)
        self._copies[number].goal = goal


def _batches(records: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Cut behind each applied offset; the last may lack its end."""
    begin = 0
    for at, record in enumerate(records, 1):
        if record.key == APPLIED_KEY:
            yield records[begin:at]
            begin = at
    if begin < len(records):
        yield records[begin:]
