"""Chain trackers together: each distinct root asked once, of all of them at once, and a quorum's word for it."""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Collection, Coroutine, Mapping
from typing import Annotated, Any, Literal, TypeAlias, TypeVar
from urllib.parse import urlsplit

from msgspec import Struct
from msgspec.structs import replace

from agents.runtime.headers import NAME, Follower, Reorganised, log_news
from agents.runtime.http import Failure, Remote, Transport, Unavailable, Unreachable, remotes
from pipeline.chain.answer import Answer, RootAt, Seen, Tip
from pipeline.chain.quorum import RootCache, agreed_tip, disagree, reorganised_at, settled
from pipeline.chain.trackers import TRACKERS, Question, TipAt
from pipeline.http import HttpReply, HttpRequest, Unreadable
from schemas.types import display, why

log = logging.getLogger(__name__)

T = TypeVar("T")

AHEAD = 6
"""Blocks above the agreed tip that are still asked about: the tip is seconds old, and trackers see a block one after
the other. Higher ones nobody can know; and a height no block has ever had must not make a service fail."""


class TrackerSettings(Struct, frozen=True):
    """Who is asked about the chain."""

    trackers: Annotated[
        tuple[str, ...],
        why(
            "Services of different operators, as dialect=URL[;token-file=PATH]; dialects: bhs, chaintracks, "
            "chaintracks-v1, woc. None is built in: whom to believe is the operator's choice."
        ),
    ] = ()
    needed: Annotated[int, why("Equal definite answers that decide: two of three outvote one liar.", ge=1)] = 2
    timeout_s: Annotated[
        float, why("A header service answers from memory; three such waits open its breaker.", gt=0)
    ] = 2.0
    attempts: Annotated[
        int, why("Of a request whose connection broke: it may have been closed while idle. A silence is not.", ge=1)
    ] = 2
    backoff_s: Annotated[
        float, why("Drawn anew from 0 up to that before another try, so that workers spread.", ge=0)
    ] = 0.1
    concurrency: Annotated[
        int, why("Requests in flight to one tracker; some dialects need one a height. Waiting here is no fault.", ge=1)
    ] = 8
    root_ttl_s: Annotated[float, why("A recent root can be reorganised away; past 100 blocks it is kept.", gt=0)] = (
        300.0
    )
    buried_ttl_s: Annotated[
        float, why("100 blocks deep nothing is replaced; a day still mends a bad answer.", gt=0)
    ] = 86_400.0
    cache_roots: Annotated[int, why("Two years of blocks at one root each, 40 MB.", ge=1)] = 100_000
    tip_ttl_s: Annotated[
        float, why("Blocks come ten minutes apart; a root just mined waits this long at most.", gt=0)
    ] = 5.0
    tip_grace_s: Annotated[
        float, why("Once a quorum named its tips, the others' wait: a silent one costs no more.", ge=0)
    ] = 0.1
    tip_max_age_s: Annotated[
        float, why("A tip that cannot be asked anew errs towards waiting; beyond this it is no longer used.", gt=0)
    ] = 60.0
    follower: Annotated[
        Literal["off", "member", "authority"],
        why(
            "The local header follower: one voice more, or the word on whatever it knows. Off by default, since it "
            "first fetches 32 MB of headers, and since work instead of operators is a belief to choose."
        ),
    ] = "off"
    follower_depth: Annotated[
        int,
        why(
            "Blocks above one before an authority's word on it is enough: a block is cheap to make, seven in a row "
            "before an honest one are not, and a no is final. Younger ones are the quorum's, the follower a voice.",
            ge=0,
        ),
    ] = 6


class NoQuorum(Unavailable):
    """Too few chain trackers answer."""

    code = "anchor.no-quorum"


class Disagreement(Struct, frozen=True):
    """One tracker says yes and another no."""

    at: RootAt
    said: Mapping[str, Answer]  # by tracker name


def log_disagreement(found: Disagreement) -> None:
    """A disagreement as a log line."""
    words = ", ".join(f"{name} says {answer.value}" for name, answer in found.said.items())
    log.warning("trackers disagree about root %s at height %d: %s", display(found.at[1]), found.at[0], words)


class _Member:
    """One tracker: its dialect, and what it last said of its own tip."""

    def __init__(
        self, remote: Remote, transport: Transport, settings: TrackerSettings, draw: Callable[[], float]
    ) -> None:
        self.remote = remote
        self.seen: Seen | None = None
        self.seen_at = 0.0
        self._attempts = settings.attempts
        self._backoff_s = settings.backoff_s
        self._draw = draw
        self._dialect = TRACKERS[remote.dialect]
        self._transport = transport
        self._timeout_s = settings.timeout_s
        self._slots = asyncio.Semaphore(settings.concurrency)

    async def answer(self, roots: Collection[RootAt]) -> dict[RootAt, Answer] | None:
        """What this tracker says; None when it could not be asked, or not one of its replies could be read."""
        questions = self._dialect.ask(tuple(roots))
        replies = await asyncio.gather(*(self._put(question) for question in questions))
        found = [reply for reply in replies if isinstance(reply, dict)]
        if questions and not found:
            return None
        return {at: answer for reply in found for at, answer in reply.items()}

    async def look(self, force: bool) -> Seen | None:
        """Its tip; None when it could not be learned."""
        found = await self._send(self._dialect.ask_tip(), lambda r: self._dialect.read_tip(r.status, r.body), force)
        if isinstance(found, TipAt):
            tip = found
            found = await self._send(tip.request, lambda r: self._dialect.read_times(tip, r.status, r.body), force)
        return found if isinstance(found, Seen) else None

    async def _put(self, question: Question) -> dict[RootAt, Answer] | Unreadable | Failure:
        own_tip = self.seen.height if self.seen else None
        async with self._slots:  # before the deadline begins: our own queue must not look like their silence
            return await self._send(
                question.request, lambda reply: self._dialect.read(question, reply.status, reply.body, own_tip)
            )

    async def _send(
        self, request: HttpRequest, read: Callable[[HttpReply], T | Unreadable], force: bool = False
    ) -> T | Unreadable | Failure:
        def judged(reply: HttpReply) -> tuple[T | Unreadable, str]:
            value = read(reply)
            return value, value.why if isinstance(value, Unreadable) else ""

        for attempt in range(self._attempts):
            if attempt:
                await asyncio.sleep(self._draw() * self._backoff_s)
            came = await self._transport.send(
                self.remote, request, judged, self._timeout_s, self._dialect.authorization, force
            )
            # Every question is idempotent. What was silent for the whole deadline would only be silent for another.
            if not isinstance(came, Unreachable):
                break
        return came


_Word: TypeAlias = asyncio.Future[Answer | BaseException]
"""What a root that is being asked about comes to; errors are results, so that one nobody waits for makes no noise."""


class Trackers:
    """The quorum. One a process, shared by all that ask: a root asked about by two at once is asked once."""

    def __init__(
        self,
        settings: TrackerSettings,
        transport: Transport,
        *,
        follower: Follower | None = None,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
        tell: Callable[[Disagreement], None] = log_disagreement,
        tell_reorganised: Callable[[Reorganised], None] = log_news,
    ) -> None:
        """follower: with the same clock; who closes it calls `reorganised` with what it tells.

        Raises ValueError for settings that name too few services or one twice, and what `Transport.know` raises.
        """
        found = remotes(settings.trackers, TRACKERS, "trackers.trackers")
        if len({urlsplit(remote.url).netloc for remote in found}) < len(found):
            raise ValueError("trackers.trackers: a host stands twice, and one service asked twice is one opinion")
        if len(found) < settings.needed:
            raise ValueError(f"trackers.trackers: {len(found)} named, trackers.needed is {settings.needed}")
        for remote in found:
            transport.know(remote)
        self._settings = settings
        self._clock = clock
        self._tell = tell
        self._tell_reorganised = tell_reorganised
        self._follower = follower if settings.follower != "off" else None
        self._members = [_Member(remote, transport, settings, draw) for remote in found]
        self._cache = RootCache(settings.root_ttl_s, settings.buried_ttl_s, settings.cache_roots)
        self._open: dict[RootAt, _Word] = {}
        self._reorganisations = 0
        self._looked_at = float("-inf")
        self._looking: asyncio.Task[int] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    async def ask(self, roots: Collection[RootAt]) -> dict[RootAt, Answer]:
        """The quorum's word on each of `roots`; returns as soon as no outstanding tracker can change one.

        Raises:
            NoQuorum: too few trackers answer at all. Where they answer and do not decide, the word is UNKNOWN.
        """
        if not roots:
            return {}
        tip = await self.tip()
        now = self._clock()
        authority = self._authority()
        answers = {at: self._by_work(at, authority) for at in roots}
        for at in [at for at, word in answers.items() if word is Answer.UNKNOWN]:
            answers[at] = self._cache.get(at, tip, now)
        unknown = [at for at, word in answers.items() if word is Answer.UNKNOWN and at[0] <= tip.height + AHEAD]
        if authority is not None and unknown:
            await self._look_again()  # the services' own tips, which the follower's stood in for
        if fresh := [at for at in unknown if at not in self._open]:
            loop = asyncio.get_running_loop()
            mine: dict[RootAt, _Word] = {at: loop.create_future() for at in fresh}
            self._open |= mine
            # A task of its own: who asked first may be cancelled while others wait for the same root.
            self._spawn(self._round(mine, tip))
        waited = {at: self._open[at] for at in unknown}
        if waited:
            await asyncio.wait(waited.values())
        for at, future in waited.items():
            found = future.result()
            if isinstance(found, BaseException):
                raise found
            answers[at] = found
        return answers

    @property
    def names(self) -> tuple[str, ...]:
        """Of the trackers, the follower last."""
        names = tuple(member.remote.name for member in self._members)
        return names if self._follower is None else (*names, NAME)

    async def tip(self) -> Tip:
        """The tip a quorum vouches for, at most `tip_ttl_s` old where trackers answer, `tip_max_age_s` where not.

        A follower that is the authority says it alone while it is abreast.

        Raises:
            NoQuorum: too few trackers have named their tip lately.
        """
        if (authority := self._authority()) is not None:
            return Tip(authority.height, authority.median_time_past)
        await self._look_again()
        tip = self._agreed()
        if tip is None:
            raise NoQuorum(f"fewer than {self._settings.needed} of {len(self._members)} trackers answer")
        return tip

    async def _look_again(self) -> None:
        """Ask the services for their tips, if that was long ago; callers at a time share one look."""
        if self._agreed() is None or self._clock() - self._looked_at >= self._settings.tip_ttl_s:
            if self._looking is None:
                self._looking = self._spawn(self._look())
                self._looking.add_done_callback(self._looked)
            looking = self._looking
            await asyncio.wait((looking,))
            if looking.cancelled():
                raise NoQuorum("asking was given up")
            looking.result()

    async def probe(self) -> bool:
        """Whether a quorum answers, asked now, open breakers or not: what ends a stage's pause.

        A follower that is abreast counts as one that answers, and as all of them if it is the authority.
        """
        if self._authority() is not None:
            return True
        return await self._look(force=True) + (self._followed() is not None) >= self._settings.needed

    def reorganised(self, found: Reorganised) -> None:
        """Blocks were replaced: what was said of them is forgotten, and what is being asked about them is not kept."""
        self._reorganisations += 1
        dropped = self._cache.reorganised(found.height)
        self._tell_reorganised(replace(found, forgotten=dropped))

    def _followed(self) -> Seen | None:
        """The follower's tip; None while it may not be believed: far behind, by what it heard or by the services."""
        if self._follower is None or (seen := self._follower.seen) is None:
            return None
        if self._clock() - self._follower.heard_at >= self._settings.tip_max_age_s:
            return None
        others = agreed_tip(self._recent(), self._settings.needed)
        return seen if others is None or others.height <= seen.height + AHEAD else None

    def _authority(self) -> Seen | None:
        """The follower's tip while its word is the last."""
        return self._followed() if self._settings.follower == "authority" else None

    def _by_work(self, at: RootAt, authority: Seen | None) -> Answer:
        """What the authority says of a block that is deep enough."""
        if authority is None or self._follower is None or at[0] > authority.height - self._settings.follower_depth:
            return Answer.UNKNOWN
        return self._follower.answer(at)

    async def close(self) -> None:
        """Give up what is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _round(self, mine: Mapping[RootAt, _Word], tip: Tip) -> None:
        """Ask all members about `mine`; settle each root as soon as it can be, and stay for those who dissent."""
        needed, begun = self._settings.needed, self._reorganisations
        said: dict[RootAt, dict[str, Answer]] = {at: {} for at in mine}
        names = {asyncio.create_task(member.answer(mine)): member.remote.name for member in self._members}
        pending, reached = set(names), 0
        if self._follower is not None and self._followed() is not None:
            reached += 1
            for at in mine:
                said[at][NAME] = self._follower.answer(at)
        try:
            while pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    found = task.result()
                    reached += found is not None
                    for at, answer in (found or {}).items():
                        said[at][names[task]] = answer
                for at in mine:
                    word = settled(list(said[at].values()), len(pending), needed)
                    if word is not Answer.UNKNOWN and not mine[at].done():
                        if begun == self._reorganisations:  # else the answer may be about the branch that went
                            self._cache.put(at, word, tip, self._clock())
                        self._resolve(mine, (at,), word)
            left = [at for at, future in mine.items() if not future.done()]
            if left and reached < needed and not await self.probe():
                self._resolve(mine, left, NoQuorum(f"{reached} trackers answer, {needed} are needed"))
            # With a quorum that answers, it is about these roots, not about the world.
            self._resolve(mine, left, Answer.UNKNOWN)
            for at, answers in said.items():
                if disagree(answers.values()):
                    self._tell(Disagreement(at, answers))
        except BaseException as error:
            for task in pending:
                task.cancel()
            given_up = isinstance(error, asyncio.CancelledError)
            self._resolve(mine, mine, NoQuorum("asking was given up") if given_up else error)
            raise

    def _resolve(self, mine: Mapping[RootAt, _Word], which: Collection[RootAt], word: Answer | BaseException) -> None:
        for at in which:
            if not mine[at].done():
                mine[at].set_result(word)
                del self._open[at]

    async def _look(self, force: bool = False) -> int:
        """Ask all for their tips; how many named it before a quorum's grace ran out."""
        self._looked_at = self._clock()
        pending = {self._spawn(self._look_at(member, force)) for member in self._members}
        named = 0
        while pending:
            grace = self._settings.tip_grace_s if named >= self._settings.needed else None
            done, pending = await asyncio.wait(pending, timeout=grace, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                break  # the rest are heard when they come
            named += sum(task.result() for task in done)
        return named

    async def _look_at(self, member: _Member, force: bool) -> bool:
        seen = await member.look(force)
        if seen is None:
            return False
        if member.seen is not None and (height := reorganised_at(member.seen, seen)) is not None:
            self.reorganised(Reorganised(member.remote.name, height))
        member.seen, member.seen_at = seen, self._clock()
        return True

    def _agreed(self) -> Tip | None:
        recent = self._recent()
        if (followed := self._followed()) is not None:
            recent.append(followed)
        return agreed_tip(recent, self._settings.needed)

    def _recent(self) -> list[Seen]:
        """The services' tips of late."""
        oldest = self._clock() - self._settings.tip_max_age_s
        return [member.seen for member in self._members if member.seen is not None and member.seen_at >= oldest]

    def _looked(self, _: asyncio.Task[int]) -> None:
        self._looking = None

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("asking the trackers failed", exc_info=error)
