"""HTTP out: one transport with a pool a host, a deadline a request, and a breaker a service.

A service that does not answer is a value here, never an exception, so that a caller must say what it makes of it.
"""

import asyncio
import io
import logging
import time
from collections.abc import Callable, Collection, Sequence
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import TracebackType
from typing import Annotated, Literal, Self, TypeAlias, TypeVar, cast
from urllib.parse import urlsplit

import aiohttp
from msgspec import Struct

from pipeline.http import HttpReply, HttpRequest
from schemas.types import why

log = logging.getLogger(__name__)

T = TypeVar("T")


class HttpSettings(Struct, frozen=True):
    """The transport that chain trackers and broadcast endpoints share."""

    connections: Annotated[int, why("For each host: calls beyond these wait within their deadline.", ge=1)] = 16
    max_reply_bytes: Annotated[
        int, why("A batch of 100 replies with proofs is 1 MB; beyond this a reply is read no further.", ge=1 << 16)
    ] = 8 << 20
    breaker_faults: Annotated[int, why("Faults in a row: one may be a connection closed while idle.", ge=1)] = 3
    probe_after_s: Annotated[float, why("An open breaker lets one call through this often.", gt=0)] = 5.0
    pause_s: Annotated[
        float, why("After our key or account was refused: time for somebody to mend it, without a storm.", gt=0)
    ] = 60.0
    retry_after_limit_s: Annotated[float, why("A service may ask for patience, but not for ever.", gt=0)] = 60.0


class Remote(Struct, frozen=True):
    """A service we call. It holds where the key is, never the key."""

    dialect: str
    url: str  # base URL without a trailing slash
    key_file: str = ""

    @property
    def name(self) -> str:
        """For metrics, events and results: the dialect and where it is spoken."""
        parts = urlsplit(self.url)
        return f"{self.dialect}@{parts.netloc}{parts.path}"


KEY_OPTIONS = ("key-file", "token-file")
"""Options that every entry may have; both name the file that holds the key."""


def remotes(entries: Sequence[str], dialects: Collection[str], setting: str) -> tuple[Remote, ...]:
    """The services a setting lists: `dialect=URL`, or `dialect=URL;token-file=PATH` (`key-file` means the same).

    Raises:
        ValueError: an entry that is not of this form, or a service that stands twice.
    """
    return tuple(remote for remote, _ in listed(entries, dialects, setting))


def listed(
    entries: Sequence[str], dialects: Collection[str], setting: str, options: Collection[str] = ()
) -> list[tuple[Remote, dict[str, str]]]:
    """As `remotes`, with what each entry says of `options`, the names it may have beside those of the key's file.

    Raises:
        ValueError: as `remotes`, or an option stands twice. What an entry holds is not repeated, but for names known
            to be harmless: somebody may have put a key where none belongs.
    """
    found: list[tuple[Remote, dict[str, str]]] = []
    allowed = (*KEY_OPTIONS, *options)
    for number, entry in enumerate(entries, 1):
        place, *rest = entry.split(";")
        dialect, _, url = place.partition("=")
        if dialect not in dialects:
            named = (
                repr(dialect) if dialect.isalnum() and len(dialect) < 20 and url else f"what entry {number} begins with"
            )
            raise ValueError(f"{setting}: {named} is none of {', '.join(sorted(dialects))}")
        if not _is_base(url):
            raise ValueError(f"{setting}: {dialect}= wants http(s)://host[:port][/path], without user or query")
        given: dict[str, str] = {}
        for option in rest:
            name, _, value = option.partition("=")
            if name not in allowed or not value:
                raise ValueError(
                    f"{setting}: {dialect}= has an option that is none of {', '.join(allowed)} with a value"
                )
            name = "key-file" if name in KEY_OPTIONS else name
            if name in given:
                raise ValueError(f"{setting}: {dialect}= has {name} twice")
            given[name] = value
        found.append((Remote(dialect, url.rstrip("/"), given.pop("key-file", "")), given))
    if len({remote.url for remote, _ in found}) < len(found):
        raise ValueError(f"{setting}: a service stands twice")
    return found


def _is_base(url: str) -> bool:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # a port beyond 65535, a bracket that stays open
        return False
    # A user in the address would be a secret in every log line; a query would swallow the paths put behind it.
    extra = parts.username or parts.password or parts.query or parts.fragment
    return parts.scheme in ("http", "https") and bool(parts.hostname) and port != 0 and not extra


class Unreachable(Struct, frozen=True):
    """No connection, or one that broke before the reply was complete."""

    detail: str


class TimedOut(Struct, frozen=True):
    """No complete reply within the deadline. The service may have acted on the request."""

    after_s: float

    @property
    def detail(self) -> str:
        """In words."""
        return f"no reply within {self.after_s:g} s"


class Oversized(Struct, frozen=True):
    """A reply longer than `http.max_reply_bytes`."""

    limit: int

    @property
    def detail(self) -> str:
        """In words."""
        return f"a reply of more than {self.limit} bytes"


class BreakerOpen(Struct, frozen=True):
    """Not sent: the service failed lately, or asked for patience."""

    detail: str


Failure: TypeAlias = Unreachable | TimedOut | Oversized | BreakerOpen


class Unavailable(Exception):  # noqa: N818 - a condition of the world, not a fault of ours
    """Too few services answer: the stage pauses, counts no attempt, and goes on when a probe succeeds.

    code: a row of pipeline/outcome.py's CODES with scope `world`.
    """

    code = ""


State = Literal["closed", "open", "half-open"]


class Breaker:
    """Whether a service is worth a call. Times are seconds of one steady clock, passed in."""

    def __init__(self, faults: int, probe_after_s: float) -> None:
        self._limit = faults
        self._probe_after_s = probe_after_s
        self._faults = 0
        self._open_until: float | None = None
        self._paused_until = 0.0
        self._probing = False
        self.why = ""

    def state(self, now: float) -> State:
        """half-open: the next call is a probe, or one is under way."""
        if now < self._paused_until:
            return "open"
        if self._open_until is None:
            return "closed"
        return "open" if now < self._open_until else "half-open"

    def admit(self, now: float, force: bool = False) -> bool:
        """Whether a call may be made; each that may is followed by `succeeded`, `failed` or `dropped`.

        force: for a call that asks whether the service is up. It ends no pause.
        """
        if force and now >= self._paused_until:
            return True
        state = self.state(now)
        if state == "half-open" and not self._probing:
            self._probing = True
            return True
        return state == "closed"

    def succeeded(self) -> None:
        """The service answered. A pause it asked for goes on."""
        self._faults, self._open_until, self._probing = 0, None, False

    def failed(self, now: float, reason: str) -> None:
        """The service did not answer, or with nothing of use."""
        self._faults += 1
        self.why = reason
        if self._faults >= self._limit or self._open_until is not None:
            self._open_until = now + self._probe_after_s
        self._probing = False

    def dropped(self) -> None:
        """The call was given up by us: it tells nothing, and the next may probe."""
        self._probing = False

    def pause(self, now: float, seconds: float, reason: str) -> None:
        """Call it for `seconds` not at all, however well it answers."""
        self._paused_until = max(self._paused_until, now + seconds)
        self.why = reason


class _Key:
    """An Authorization header that shows in no repr."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._text = ""
        self.read()

    def read(self) -> None:
        """Read the file (again).

        Raises:
            OSError: it cannot be read.
            ValueError: it holds nothing, or more than one line.
        """
        text = self._path.read_text("ascii").strip()
        if not text or not text.isprintable():
            raise ValueError(f"{self._path}: a key is one line of printable ASCII")
        self._text = text

    def header(self, scheme: str) -> dict[str, str]:
        """scheme: the header's value, `{key}` standing for the key."""
        return {"Authorization": scheme.replace("{key}", self._text)}


class Sent(Struct, frozen=True):
    """A call that ended, for whoever counts."""

    remote: Remote
    came: HttpReply | Failure
    seconds: float


class Turned(Struct, frozen=True):
    """A breaker opened or closed, for whoever tells the operator."""

    remote: Remote
    state: State
    why: str


def nothing_answers(value: object) -> bool:
    """HTTP 5xx is no answer, whatever it says."""
    return False


def patience_s(reply: HttpReply) -> float | None:
    """Seconds for which a service asks not to be called (Retry-After, RFC 9110 10.2.3); None where it does not.

    A date is counted from the reply's own Date: the two clocks may differ, and only the service's is asked.
    """
    asked = reply.headers.get("retry-after", "").strip()
    if asked.isascii() and asked.isdigit():
        return float(asked[:9])
    try:
        until, since = parsedate_to_datetime(asked), parsedate_to_datetime(reply.headers.get("date", ""))
        return max(0.0, (until - since).total_seconds())
    except (TypeError, ValueError, OverflowError):  # no date, or one with a zone beside one without
        return None


def log_turn(turn: Turned) -> None:
    """The breaker's turn as a log line."""
    if turn.state == "closed":
        log.info("%s answers", turn.remote.name)
    else:
        log.warning("%s is not called for a while: %s", turn.remote.name, turn.why)


def count_nothing(sent: Sent) -> None:
    """Nobody counts."""


class Transport:
    """Sends requests. Used as an async context manager; one a process."""

    def __init__(
        self,
        settings: HttpSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
        count: Callable[[Sent], None] = count_nothing,
        tell: Callable[[Turned], None] = log_turn,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._count = count
        self._tell = tell
        self._session: aiohttp.ClientSession | None = None
        self._breakers: dict[Remote, Breaker] = {}
        self._told: dict[Remote, State] = {}
        self._keys: dict[Remote, _Key] = {}

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(limit=0, limit_per_host=self._settings.connections)
        self._session = aiohttp.ClientSession(
            connector=connector, cookie_jar=aiohttp.DummyCookieJar(), headers={"User-Agent": "beefline"}
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    def know(self, remote: Remote) -> None:
        """Prepare to call `remote`: its key is read here, so that a missing one is found at the start.

        Raises:
            OSError, ValueError: the key file cannot be read, or holds no key.
        """
        if remote.key_file and remote not in self._keys:
            self._keys[remote] = _Key(remote.key_file)

    def state(self, remote: Remote) -> State:
        """Of the service's breaker."""
        return self._breaker(remote).state(self._clock())

    def condition(self, remote: Remote) -> tuple[State, str]:
        """State of the service's breaker, and why, unless it is closed."""
        state = self.state(remote)
        return state, "" if state == "closed" else self._breaker(remote).why

    async def send(
        self,
        remote: Remote,
        request: HttpRequest,
        read: Callable[[HttpReply], tuple[T, str]],
        timeout_s: float,
        authorization: str = "Bearer {key}",
        force: bool = False,
        answers: Callable[[T], bool] = nothing_answers,
    ) -> T | Failure:
        """One call, complete within `timeout_s` (waiting for a connection included), and what its reply means.

        read: makes a value of the reply, whatever its status, and says why it is none (empty when it is one).
        authorization: the Authorization header, `{key}` standing for the key.
        force: also through an open breaker, to learn whether the service is up.
        answers: whether what `read` made is an answer even under HTTP 5xx, as some services give theirs.
        The breaker counts what brought nothing: broken connections, time-outs, oversized replies, 5xx, 429, and what
        `read` complains of. Retry-After is heeded. Redirects are replies: a key follows none. A GET is sent anew, once,
        when a kept connection turns out to be closed; a POST never is.
        """
        self.know(remote)
        breaker = self._breaker(remote)
        started = self._clock()
        if not breaker.admit(started, force):
            self._count(Sent(remote, refused := BreakerOpen(breaker.why), 0.0))
            return refused
        try:
            came = await self._exchange(remote, request, timeout_s, authorization)
            value, fault = read(came) if isinstance(came, HttpReply) else (came, came.detail)
            heard = isinstance(came, HttpReply) and came.status >= 500 and not fault and answers(cast(T, value))
        except BaseException:
            breaker.dropped()
            raise
        self._learn(breaker, came, fault, heard)
        self._turned(remote)
        self._count(Sent(remote, came, self._clock() - started))
        return value

    def pause(self, remote: Remote, reason: str) -> None:
        """Our key or account was refused. The key is read again, for it may have been replaced."""
        self._breaker(remote).pause(self._clock(), self._settings.pause_s, reason)
        if key := self._keys.get(remote):
            try:
                key.read()
            except (OSError, ValueError) as error:
                log.warning("%s: the key cannot be read again: %s", remote.name, error)
        self._turned(remote)

    async def _exchange(
        self, remote: Remote, request: HttpRequest, timeout_s: float, authorization: str
    ) -> HttpReply | Failure:
        if self._session is None:
            raise RuntimeError("the transport was not entered")
        key = self._keys.get(remote)
        headers = dict(request.headers) | (key.header(authorization) if key else {})
        limit = self._settings.max_reply_bytes
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._session.request(
                    request.method,
                    remote.url + request.path,
                    data=io.BytesIO(request.body) if request.body else None,  # bytes would be written in one go
                    headers=headers,
                    allow_redirects=False,
                    timeout=aiohttp.ClientTimeout(total=None),  # the deadline above covers the reading too
                ) as response,
            ):
                body = bytearray()
                async for chunk in response.content.iter_chunked(1 << 16):
                    body += chunk
                    if len(body) > limit:
                        response.close()  # the rest is not worth reading: the connection goes with it
                        return Oversized(limit)
                return HttpReply(
                    response.status, {name.lower(): value for name, value in response.headers.items()}, bytes(body)
                )
        except TimeoutError:
            return TimedOut(timeout_s)
        except (aiohttp.ClientError, OSError) as error:
            return Unreachable(f"{type(error).__name__}: {error}")

    def _learn(self, breaker: Breaker, came: HttpReply | Failure, fault: str, heard: bool) -> None:
        now, patience = self._clock(), None
        if isinstance(came, HttpReply) and (came.status == 429 or came.status >= 500) and not heard:
            fault, patience = f"HTTP {came.status}", patience_s(came)
        if not fault:
            breaker.succeeded()
            return
        breaker.failed(now, fault)
        if patience is not None:
            seconds = min(patience, self._settings.retry_after_limit_s)
            breaker.pause(now, seconds, f"{fault}, asks for {seconds:g} s of patience")

    def _turned(self, remote: Remote) -> None:
        breaker = self._breaker(remote)
        state = breaker.state(self._clock())
        if state != "half-open" and state != self._told.get(remote, "closed"):
            self._told[remote] = state
            self._tell(Turned(remote, state, breaker.why))

    def _breaker(self, remote: Remote) -> Breaker:
        return self._breakers.setdefault(remote, Breaker(self._settings.breaker_faults, self._settings.probe_after_s))
