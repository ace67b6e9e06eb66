"""The local header follower: headers of any source, believed for their work, kept on disk, asked in microseconds."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from msgspec import Struct

from agents.runtime.header_file import HeaderFile
from agents.runtime.http import Remote, Transport, remotes
from pipeline.chain.answer import Answer, RootAt, Seen
from pipeline.chain.headers import (
    AHEAD_S,
    HEADER_BYTES,
    MAX_HEIGHT,
    SPAN,
    Bad,
    Checked,
    Rules,
    Unlinked,
    begins,
    check,
    checkpoint_of,
    header_hash,
    median_time,
    root_of,
    rules_of,
    shared,
    split,
    time_of,
    work_in,
)
from pipeline.chain.trackers import TRACKERS, TipAt
from pipeline.http import HttpReply, Unreadable
from schemas.types import why

log = logging.getLogger(__name__)

STEP_BACK = 6
"""Blocks below our tip where the fork is looked for first, four times as many each time after: reorganisations of more
are years apart."""

LONG = 100
"""Headers a source that tells one a request is not asked for while another has not had its turn."""

WEAK_BRANCH = 4
"""A branch of so many times the headers it would replace that still has less work is no honest chain: difficulty moves
by a factor of two a day at most."""


class HeaderSettings(Struct, frozen=True):
    """The local header follower; `trackers.follower` says what its word is worth."""

    checkpoint: Annotated[
        str,
        why(
            "As height:hash: what lies below is unknown. The first block of BSV alone, as its licence names it; "
            "a later one of your own saves its part of 32 MB."
        ),
    ] = "556767:000000000000000001d956714215d96ffc00e0afda4cd0a96c96f8d802b1662b"
    easiest_bits: Annotated[
        str,
        why(
            "The easiest target taken, as nodes print it: difficulty 2^30, a sixtieth of block 725,658's. Below it a "
            "service would make its own chain for the price of the power."
        ),
    ] = "1903fffc"
    sources: Annotated[
        tuple[str, ...],
        why("As trackers.trackers; empty takes those. One is enough, for what it says is checked; two outlast one."),
    ] = ()
    batch: Annotated[
        int, why("Headers in one request: 160 kB bare; WhatsOnChain has one a request all the same.", ge=1, le=2000)
    ] = 2000
    concurrency: Annotated[
        int, why("Requests in flight to a source that tells one header a request; public ones limit rates.", ge=1)
    ] = 4
    timeout_s: Annotated[float, why("A range is read from a database, not from memory as a tip is.", gt=0)] = 10.0
    poll_s: Annotated[float, why("Blocks come ten minutes apart; as fresh as the quorum's tip is.", gt=0)] = 5.0
    put_aside_s: Annotated[
        float, why("A source that told headers which break a rule is not asked for this long.", gt=0)
    ] = 600.0


class Grown(Struct, frozen=True):
    """The follower's chain has a new tip."""

    height: int


class Reorganised(Struct, frozen=True):
    """Blocks were replaced, as one tracker sees it."""

    by: str  # the tracker's name
    height: int  # the lowest replaced
    forgotten: int = 0  # cached answers about blocks from there on


class PutAside(Struct, frozen=True):
    """A source told headers that break a rule."""

    source: str
    found: Bad


News: TypeAlias = Grown | Reorganised | PutAside

NAME = "follower"
"""The follower's among the trackers' names."""


def log_news(news: News) -> None:
    """What happened as a log line; growth is no news to people."""
    match news:
        case Reorganised(by, height, forgotten):
            log.warning("%s shows other blocks from height %d on: %d roots forgotten", by, height, forgotten)
        case PutAside(source, found):
            log.warning("headers of %s are not taken for a while: at height %d, %s", source, found.height, found.why)


_Ended: TypeAlias = Literal["stands", "weaker", "cut short"]
"""What came of a branch: it is ours, it has no more work than what we have, or it was not told to its end."""


class _Lies(Exception):  # noqa: N818 - what a source does
    """A source broke a rule."""

    def __init__(self, found: Bad) -> None:
        super().__init__(found.why)
        self.found = found


class _Source:
    """A service headers come from."""

    def __init__(self, remote: Remote, transport: Transport, settings: HeaderSettings) -> None:
        self.remote = remote
        self.aside_until = float("-inf")
        self.weaker = b""  # the tip of a branch that was found to have no more work than ours
        self.range = min(settings.batch, TRACKERS[remote.dialect].range)
        self._dialect = TRACKERS[remote.dialect]
        self._transport = transport
        self._settings = settings

    async def tip(self) -> tuple[int, bytes] | None:
        """Height and hash of its best header; None when they could not be learned."""

        def read(reply: HttpReply) -> tuple[Seen | TipAt | Unreadable, str]:
            value = self._dialect.read_tip(reply.status, reply.body)
            return value, value.why if isinstance(value, Unreadable) else ""

        found = await self._transport.send(
            self.remote, self._dialect.ask_tip(), read, self._settings.timeout_s, self._dialect.authorization
        )
        if isinstance(found, Seen):
            return found.hashes[-1]
        return (found.height, found.hash) if isinstance(found, TipAt) else None

    async def headers(self, first: int, last: int) -> bytes | None:
        """Headers from `first` up, as far as one round of requests goes; None when none could be learned."""
        each = self.range
        starts = range(first, last + 1, each)[: self._settings.concurrency if each == 1 else 1]
        parts = await asyncio.gather(*(self._part(start, min(each, last + 1 - start)) for start in starts))
        told = b""
        for part, start in zip(parts, starts, strict=True):
            if part is None:
                return told or None
            told += part
            if len(told) < (min(start + each, last + 1) - first) * HEADER_BYTES:
                break  # it ends here: what comes behind a gap does not count
        return told

    async def _part(self, first: int, count: int) -> bytes | None:
        def read(reply: HttpReply) -> tuple[bytes | Unreadable, str]:
            value = self._dialect.read_headers(first, count, reply.status, reply.body)
            return value, value.why if isinstance(value, Unreadable) else ""

        request = self._dialect.ask_headers(first, count)
        found = await self._transport.send(
            self.remote, request, read, self._settings.timeout_s, self._dialect.authorization
        )
        return found if isinstance(found, bytes) else None


class Follower:
    """Keeps the branch of most work that its sources show above the checkpoint.

    Who believes it believes that nobody spends more work on a false branch than the network does on the true one, and
    that one source tells the true one. How hard the next block had to be it does not know: `headers.easiest_bits`.
    """

    def __init__(
        self,
        settings: HeaderSettings,
        trackers: Sequence[str],
        transport: Transport,
        folder: Path,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        tell: Callable[[News], None] = log_news,
    ) -> None:
        """trackers: what `headers.sources` stands for when it is empty. folder: of the header file.

        Raises ValueError for settings that make no follower, and what `Transport.know` raises.
        """
        try:
            self._checkpoint = checkpoint_of(settings.checkpoint)
            self._rules: Rules = rules_of(settings.easiest_bits)
        except ValueError as error:
            raise ValueError(f"headers: {error}") from error
        setting = "headers.sources" if settings.sources else "trackers.trackers"
        found = remotes(settings.sources or trackers, TRACKERS, setting)
        if not found:
            raise ValueError("headers.sources: none is named, and no tracker either")
        for remote in found:
            transport.know(remote)
        self._sources = [_Source(remote, transport, settings) for remote in found]
        self._settings = settings
        self._folder = folder
        self._clock = clock
        self._now = now
        self._tell = tell
        self._file: HeaderFile | None = None
        self._running: asyncio.Task[None] | None = None
        self.seen: Seen | None = None  # its tip, once there is a median time past
        self.heard_at = float("-inf")  # when a source last had nothing for us that we did not have, by the clock

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the services it asks."""
        return tuple(source.remote.name for source in self._sources)

    @property
    def file(self) -> HeaderFile:
        """The headers. Only between `open` and `close`."""
        assert self._file is not None, "the follower is not open"
        return self._file

    async def open(self) -> None:
        """Take a file and check it.

        Raises:
            OSError: it cannot be opened.
        """
        self._file = await asyncio.to_thread(HeaderFile.open, self._folder, self._checkpoint, self._rules)
        self._grown()

    async def start(self) -> None:
        """Open, and follow the sources until closed."""
        await self.open()
        self._running = asyncio.create_task(self._run())
        self._running.add_done_callback(_ended)

    async def close(self) -> None:
        """Give up what is under way, and the file."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        if self._file is not None:
            self._file.close()
            self._file = None

    def answer(self, at: RootAt) -> Answer:
        """Whether our chain has a root at a height: unknown below the checkpoint and above the tip. Microseconds."""
        header = self._file.header(at[0]) if self._file is not None else b""
        if not header:
            return Answer.UNKNOWN
        return Answer.YES if root_of(header) == at[1] else Answer.NO

    async def look(self) -> bool:
        """One round: all sources asked for their tips, and followed to them as they answer. Whether one was heard."""
        now = self._clock()
        asked = {asyncio.create_task(s.tip()): s for s in self._sources if now >= s.aside_until}
        pending, late, heard = set(asked), [], False
        try:
            while pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    source, tip = asked[task], task.result()
                    if tip is None:
                        continue
                    # A long stretch header by header is for when nobody else tells it.
                    if source.range == 1 and tip[0] - self.file.tip > LONG:
                        late.append((source, tip))
                    else:
                        heard |= await self._hear(source, *tip)
            for source, tip in late:
                heard |= await self._hear(source, *tip)
        finally:
            for task in pending:
                task.cancel()
        return heard

    async def _hear(self, source: _Source, height: int, tip_hash: bytes) -> bool:
        """Follow a source, and take down whether it was heard to its end; one that lies is put aside."""
        try:
            heard = await self._follow(source, height, tip_hash)
        except _Lies as lies:
            source.aside_until = self._clock() + self._settings.put_aside_s
            self._tell(PutAside(source.remote.name, lies.found))
            return False
        if heard:
            self.heard_at = self._clock()
        return heard

    async def _run(self) -> None:
        while True:
            try:
                await self.look()
            except OSError as error:  # the disk, which may be mended; meanwhile the services are asked alone
                log.error("headers cannot be kept: %s", error)
            await asyncio.sleep(self._settings.poll_s)

    async def _follow(self, source: _Source, height: int, tip_hash: bytes) -> bool:
        """Take what a source has more of, to its tip; whether it was heard to its end.

        Raises:
            _Lies: what it told breaks a rule.
        """
        file, lowest = self.file, self._checkpoint.height
        if not lowest <= height <= MAX_HEIGHT:
            return False
        if file.hash_at(height) == tip_hash or source.weaker == tip_hash:
            return True
        raw, first = await self._linked(source, height)
        while raw:
            same = shared(file.header, first, raw)
            raw, first = raw[same * HEADER_BYTES :], first + same
            if raw:
                ended = await self._branch(source, first, raw, height)
                if ended == "weaker":
                    source.weaker = tip_hash
                if ended != "stands":
                    return ended == "weaker"  # heard, and nothing to take; or to be asked again
                first = file.tip + 1
            if first > height:
                break
            raw = await source.headers(first, height) or b""
        return file.hash_at(height) == tip_hash

    async def _linked(self, source: _Source, height: int) -> tuple[bytes, int]:
        """Headers of a source the first of which stands on a header of ours, and its height; none if it tells none."""
        file, lowest = self.file, self._checkpoint.height
        first, back = max(lowest, min(file.tip + 1, height)), STEP_BACK
        while True:
            raw = await source.headers(first, height)
            if not raw:
                return b"", first
            if first == lowest:
                if (bad := begins(raw, self._checkpoint)) is not None:
                    raise _Lies(bad)
                return raw, first
            if raw[4:36] == file.hash_at(first - 1):
                return raw, first
            if first == lowest + 1:
                raise _Lies(Bad(first, "its branch forks below the checkpoint"))
            first, back = max(lowest + 1, first - back), back * 4

    async def _branch(self, source: _Source, first: int, raw: bytes, height: int) -> _Ended:
        """Take a branch that begins at `first`, on a header of ours, once it has more work than what it would replace.

        Raises:
            _Lies: it breaks a rule.
        """
        file = self.file
        ours = work_in(file.headers(first, file.tip))
        depth = file.tip + 1 - first
        held, work = b"", 0
        while True:
            at = first + len(held) // HEADER_BYTES
            if at == self._checkpoint.height:  # an empty file: its first header was compared with the checkpoint
                found: Checked | Unlinked | Bad = Checked(raw[:HEADER_BYTES], 1, header_hash(raw[:HEADER_BYTES]))
            else:
                parent = header_hash(held[-HEADER_BYTES:]) if held else file.hash_at(first - 1)
                latest = int(self._now()) + AHEAD_S
                found = check(raw, at, parent, self._times_below(first, held), self._rules, latest)
            if isinstance(found, Bad):
                raise _Lies(found)
            if isinstance(found, Unlinked):
                return "cut short"  # it follows another branch since it was asked last
            held, work = held + found.raw, work + found.work
            if work > ours:
                break
            count = len(held) // HEADER_BYTES
            if count > WEAK_BRANCH * depth + self._settings.batch:
                raise _Lies(Bad(first, f"a branch of {count} headers has less work than our {depth}"))
            if first + count > height:
                return "weaker"
            raw = await source.headers(first + count, height) or b""
            if not raw:
                return "cut short"
        file.write(first, held)
        self._grown()
        if depth:
            self._tell(Reorganised(NAME, first))
        return "stands"

    def _times_below(self, first: int, held: bytes) -> list[int]:
        """Times of the up to eleven headers below the next of a branch that begins at `first`."""
        file = self.file
        low = max(self._checkpoint.height, first - SPAN)
        below = file.headers(low, first - 1) + held[-SPAN * HEADER_BYTES :]
        return [time_of(header) for header in split(below)][-SPAN:]

    def _grown(self) -> None:
        file = self.file
        low = max(self._checkpoint.height, file.tip + 1 - SPAN)
        newest = list(split(file.headers(low, file.tip)))
        # Eleven headers, or all there are of a chain that is followed from its first block.
        if len(newest) == SPAN or (newest and self._checkpoint.height == 0):
            hashes = tuple((low + place, file.hash_at(low + place)) for place in range(len(newest)))
            self.seen = Seen(file.tip, median_time([time_of(header) for header in newest]), hashes)
        else:
            self.seen = None
        self._tell(Grown(file.tip))


def _ended(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("following headers failed: roots are asked of the services alone from here on", exc_info=error)
