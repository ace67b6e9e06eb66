"""Stores and a journal are damaged in every way known to us: each is found, told, and made again or refused."""

import shutil
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from msgspec import Struct, msgpack, structs
from rocksdict import Options, Rdict

from agents.runtime.cluster import admin, create, look
from agents.runtime.store import KEPT_DELETIONS_S
from ops.apply_chaos.exactly_once import HELD, HOSTED, TOPIC_NAMES
from ops.apply_chaos.proof import prove
from ops.apply_chaos.rig import Late, Rig, Worker, until_so
from ops.holders import Holders
from ops.instruments.operations import operations
from ops.journal import Journals
from ops.reading import read_whole
from ops.scenario import Asked, Outcome
from pipeline import state
from schemas.external import EVENT, ContextState
from schemas.journal import JournalEntry
from schemas.types import Context
from topics.registry import BY_NAME, EVENTS, JOURNAL, STATE, Topic

WORKERS = 3

FOUND_WITHIN_S = 120.0

TOLD = ("copy-differs", "store-spoiled")
"""Events of a store that is not what was written."""

KINDS = {
    "unfound": "Something was damaged, and nobody told.",
    "not-repaired": "A store that was damaged did not come to what it was.",
}
"""Findings of this scenario's own."""


async def run(name: str, wanted: Asked, bootstrap: str = "", workers: int = WORKERS) -> Outcome:
    """Bits flipped, entries changed, stores deleted, cut off, put back old, a journal altered: found, and how soon."""
    began = time.monotonic()
    context, topic = f"topic:{TOPIC_NAMES[0]}", TOPIC_NAMES[0]
    async with Rig(HOSTED, workers=workers, bootstrap=bootstrap, flags=wanted.flags, say=wanted.say) as rig:
        load = operations(HELD, wanted.seed)
        sent = await rig.feed(islice(load, wanted.records), wanted.rate)
        await rig.drained()
        await _again(rig)  # what was written is in RocksDB's tables then, and in nobody's memory
        found: list[Found] = []
        async with Holders(rig.settings) as holders:
            field = Field(rig, holders, context, topic)
            for damage in (field.flip_owner, field.flip_copy, field.forge, field.delete, field.cut, field.age):
                found.append(await damage())
                rig.say(found[-1].says)
            found.append(await _altered_journal(rig, context))
            rig.say(found[-1].says)
        proof = await prove(rig, HELD)
        for each in found:
            if each.finding:
                proof.note(each.finding, each.says)
        figures = tuple(each.says for each in found)
        return Outcome(name, sent, len(found), rig.restarts, time.monotonic() - began, proof.report(KINDS), figures)


class Found(Struct, frozen=True):
    """What came of a damage."""

    says: str
    finding: str = ""  # of KINDS, where it was not as it must be


async def _again(rig: Rig, between: Callable[[], object] | None = None) -> float:
    """End all workers, do something to what they left, start them; seconds until they are ready."""
    await rig.stop_workers()
    if between is not None:
        between()
    rig.start_workers()
    began = time.monotonic()
    await rig.ready()
    return time.monotonic() - began


class Field:
    """One context, the stores that have it, and what can be done to them."""

    def __init__(self, rig: Rig, holders: Holders, context: Context, topic: str) -> None:
        self.rig = rig
        self.holders = holders
        self.topic = topic
        self.number = holders.partition(context)

    async def flip_owner(self) -> Found:
        """One bit on the disk, in a file of the owner's store, while it runs."""
        return await self._flip("the owner's", 0)

    async def flip_copy(self) -> Found:
        """The same of a copy."""
        return await self._flip("a copy's", 1)

    async def _flip(self, whose: str, holder: int) -> Found:
        await _again(self.rig)
        worker, url = await self._holder(holder)
        before = len(await self._events())
        tables = sorted(self._path(worker).glob("*.sst"), key=lambda table: table.stat().st_size)
        with tables[-1].open("r+b") as table:
            table.seek(tables[-1].stat().st_size // 4)  # among entries, which come first
            byte = table.read(1)
            table.seek(-1, 1)
            table.write(bytes([byte[0] ^ 1]))
        return await self._told(f"a bit of {whose} file, untouched since", url, before)

    async def forge(self) -> Found:
        """An entry that is whole, and that nobody wrote: roots alone show it."""
        worker, _ = await self._holder(0)

        def forged() -> None:
            store = Rdict(str(self._path(worker)), Options(raw_mode=True))
            store[state.key(f"topic:{self.topic}", state.COIN, b"\x05" * 36)] = state.seal(b"")
            store.close()

        before = len(await self._events())
        await _again(self.rig, forged)
        return await self._told("an entry that nobody wrote", self._url(worker), before)

    async def delete(self) -> Found:
        """The store is gone."""
        return await self._lost("a store deleted", shutil.rmtree)

    async def cut(self) -> Found:
        """Its files end halfway."""

        def cut(path: Path) -> None:
            for file in (*path.glob("*.sst"), *path.glob("*.log"), *path.glob("MANIFEST-*")):
                file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])

        return await self._lost("a store cut off", cut)

    async def age(self) -> Found:
        """It was last written before the changelog's oldest deletion."""

        def age(path: Path) -> None:
            store = Rdict(str(path), Options(raw_mode=True))
            store[b"\0written"] = int(time.time() - KEPT_DELETIONS_S - 60).to_bytes(8, "big")
            store.close()

        return await self._lost("a store older than the kept deletions", age, caught_up=False)

    # --- what comes of it

    async def _told(self, what: str, url: str, before: int) -> Found:
        """Found by whoever looks through the store, told by events, and right again."""
        began = time.monotonic()
        kinds: list[str] = []

        async def told(*wanted: str) -> bool:
            kinds[:] = [event.kind for event in (await self._events())[before:]]
            return any(kind in wanted for kind in kinds)

        try:
            await until_so(lambda: told(*TOLD), "word of it", FOUND_WITHIN_S)
            found_s = time.monotonic() - began
        except Late:
            return Found(f"{what}: not found", "unfound")
        kind = next(kind for kind in kinds if kind in TOLD)
        try:
            await until_so(lambda: told("store-repaired"), "word of a repair", FOUND_WITHIN_S)
            await self._right(url)
        except Late:
            return Found(f"{what}: found after {found_s:.1f} s ({kind}), not made again", "not-repaired")
        return Found(f"{what}: found after {found_s:.1f} s ({kind}), made again after {time.monotonic() - began:.1f} s")

    async def _lost(self, what: str, damage: Callable[[Path], object], *, caught_up: bool = True) -> Found:
        """caught_up: whether a store that only lacks something is all that this may leave."""
        worker, _ = await self._holder(0)
        log_size = worker.log.stat().st_size
        path = self._path(worker)
        began = time.monotonic()
        try:
            ready_s = await _again(self.rig, lambda: damage(path))
            await self._right(self._url(worker))
        except Late:
            return Found(f"{what}: not made again", "not-repaired")
        said = worker.log.read_bytes()[log_size:].decode(errors="replace")
        when = f"all ready {ready_s:.1f} s after their start, right {time.monotonic() - began:.1f} s later"
        if "made again" in said:
            return Found(f"{what}: found when it is opened, {when}")
        if caught_up:  # what is behind is not wrong
            return Found(f"{what}: it opens with less, and is caught up, {when}")
        return Found(f"{what}: not found, {when}", "unfound")

    async def _right(self, url: str) -> None:
        """Until this worker's own store stands where its context's owner says."""

        async def right() -> bool:
            addresses = await self.holders.addresses(self.number)
            said = [
                await self.holders.state(each, f"topic:{self.topic}", strong=True) for each in (*addresses[:1], url)
            ]
            return len(said) == 2 and isinstance(said[0], ContextState) and said[0] == said[1]

        await until_so(right, f"a store of {url} that is right", FOUND_WITHIN_S)

    async def _holder(self, place: int) -> tuple[Worker, str]:
        """Owner (0) or a copy, once there are as many as workers."""
        found: list[str] = []

        async def all_hold() -> bool:
            found[:] = await self.holders.addresses(self.number)
            alive = {worker.url for worker in self.rig.workers}
            return set(found) == alive and len(found) == len(self.rig.workers)

        await until_so(all_hold, "copies everywhere", FOUND_WITHIN_S)
        url = found[place]
        return next(worker for worker in self.rig.workers if worker.url == url), url

    def _path(self, worker: Worker) -> Path:
        return worker.data / "apply" / self.rig.settings.topics.prefix.strip(".") / f"g1-{self.number}"

    def _url(self, worker: Worker) -> str:
        url = next(each.url for each in self.rig.workers if each.number == worker.number)
        assert url is not None
        return url

    async def _events(self) -> Sequence[Any]:
        return [EVENT.decode(record.value) for record in await _records(self.rig, EVENTS)]


async def _records(rig: Rig, topic: Topic) -> list[Any]:
    found: list[Any] = []
    cluster = await look(rig.settings.kafka, rig.settings.topics)
    await read_whole(rig.settings, cluster.partitions, [topic], lambda _, record: found.append(record))
    return found


async def _altered_journal(rig: Rig, context: Context) -> Found:
    """One field of one entry in the middle, in a copy of the topics."""
    settings = structs.replace(
        rig.settings, topics=structs.replace(rig.settings.topics, prefix=f"{rig.settings.topics.prefix}copy.")
    )
    await create(settings.kafka, settings.topics)
    try:
        async with rig.producer() as producer:
            for topic in (STATE, JOURNAL):
                records = await _records(rig, topic)
                own = [number for number, record in enumerate(records) if record.key == context.encode()]
                for number, record in enumerate(records):
                    value = record.value
                    if topic is JOURNAL and number == own[len(own) // 2]:
                        entry = msgpack.decode(value, type=JournalEntry)
                        value = msgpack.encode(structs.replace(entry, operation=entry.operation + "x"))
                    headers = list(record.headers)
                    name = topic.named(settings.topics.prefix)
                    await producer.send(name, value, record.key, record.partition, headers=headers)
            await producer.flush()
        began = time.monotonic()
        async with Journals(settings) as journals:
            walked = await journals.verify()
        took = time.monotonic() - began
        broken = {each.context: each.breaks for each in walked if each.breaks}
        entries = sum(each.entries for each in walked)
        if context not in broken:
            return Found("an altered journal entry: not found", "unfound")
        return Found(
            f"an altered journal entry: found by a walk of {entries:,} entries in {took:.1f} s: {broken[context][0]}"
        )
    finally:
        async with admin(settings.kafka) as client:
            await client.delete_topics([each.named(settings.topics.prefix) for each in BY_NAME.values()])
