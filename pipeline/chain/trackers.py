"""Chain-tracker dialects: what to ask a header service, and what its answer means.

An answer has three values. A service that is behind, refuses or is broken has not said no: only a header it shows at
that height, with another root, or an explicit INVALID at or below its own tip, is a no.
Sources: Block Headers Service `transports/http/endpoints/api`, Chaintracks v2 routes, WhatsOnChain's documentation.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, TypeVar

import msgspec
from msgspec import Struct

from pipeline.chain.answer import Answer, RootAt, Seen
from pipeline.chain.headers import HEADER_BYTES, SPAN, header_hash, median_time, split, time_of, write_header
from pipeline.http import HttpRequest, Unreadable
from schemas.types import display, from_display

T = TypeVar("T")

WOC_HEADER = "/block/{height}/header"

BHS_HEADERS = "/api/v1/chain/header/byHeight?height={first}&count={count}"

BHS_BATCH = 500
"""Roots in one verification request: 55 kB of JSON. The service looks up one by one, and sets no limit itself."""

RANGE = 2000
"""Headers in one request: 160 kB bare, 1 MB as JSON; what nodes send each other in one message."""

BHS_MAX_HEIGHT = 2**31 - 1
"""The service reads heights as 32-bit integers; one beyond them makes it refuse the whole batch."""


class Question(Struct, frozen=True):
    """One request, and the roots its reply speaks about."""

    request: HttpRequest
    about: tuple[RootAt, ...]


class TipAt(Struct, frozen=True):
    """A service named its tip; its recent headers have to be asked for before the median time past is known."""

    height: int
    hash: bytes  # wire order
    request: HttpRequest


class Dialect(Protocol):
    """How one kind of header service is spoken to. Stateless: one instance serves every service of its kind."""

    authorization: str
    """The Authorization header, `{key}` standing for the key."""

    def ask(self, roots: Sequence[RootAt]) -> list[Question]:
        """The requests that settle `roots`. A root no request is about is unknown to this service."""

    def read(
        self, question: Question, status: int, body: bytes, own_tip: int | None
    ) -> dict[RootAt, Answer] | Unreadable:
        """The reply to one of `ask`'s questions: an answer for each root it is about.

        own_tip: height of this service's best header as last seen; a no above it is only "not yet".
        """

    def ask_tip(self) -> HttpRequest:
        """The request for the best header."""

    def read_tip(self, status: int, body: bytes) -> Seen | TipAt | Unreadable:
        """The reply to `ask_tip`; `TipAt` names the request whose reply `read_times` wants."""

    def read_times(self, tip: TipAt, status: int, body: bytes) -> Seen | Unreadable:
        """The reply to `tip.request`: the headers up to the tip, from which the median time past follows."""

    range: int
    """Headers that one request may ask for."""

    def ask_headers(self, first: int, count: int) -> HttpRequest:
        """The request for `count` headers (at most `range`) from height `first` up."""

    def read_headers(self, first: int, count: int, status: int, body: bytes) -> bytes | Unreadable:
        """The reply: 80 bytes a header, at most `count`, none where the service has none there.

        Nothing is checked but the form: what they claim is for `pipeline.chain.headers.check`.
        """


# --- Block Headers Service


class _Confirmation(Struct):
    merkle_root: str = msgspec.field(name="merkleRoot")
    block_height: int = msgspec.field(name="blockHeight")
    confirmation: str


class _Confirmations(Struct):
    confirmations: list[_Confirmation]


class _BhsHeader(Struct):
    hash: str
    previous: str = msgspec.field(name="prevBlockHash")
    time: int = msgspec.field(name="creationTimestamp")


class _BhsWhole(_BhsHeader):
    version: int
    root: str = msgspec.field(name="merkleRoot")
    bits: int = msgspec.field(name="difficultyTarget")
    nonce: int


class _BhsTip(Struct):
    height: int
    header: _BhsHeader


class BlockHeadersService:
    """Block Headers Service (formerly Pulse): verifies whole batches in one call."""

    authorization = "Bearer {key}"
    range = RANGE

    def ask(self, roots: Sequence[RootAt]) -> list[Question]:
        """Batches of `BHS_BATCH`."""
        fit = [at for at in roots if at[0] <= BHS_MAX_HEIGHT]
        return [self._verify(tuple(fit[i : i + BHS_BATCH])) for i in range(0, len(fit), BHS_BATCH)]

    def _verify(self, roots: tuple[RootAt, ...]) -> Question:
        items = [{"merkleRoot": display(root), "blockHeight": height} for height, root in roots]
        path = "/api/v1/chain/merkleroot/verify"
        return Question(
            HttpRequest("POST", path, (("Content-Type", "application/json"),), msgspec.json.encode(items)), roots
        )

    def read(
        self, question: Question, status: int, body: bytes, own_tip: int | None
    ) -> dict[RootAt, Answer] | Unreadable:
        """Matched by root and height: the service leaves out what it failed to look up."""
        found = _json(_Confirmations, status, body)
        if isinstance(found, Unreadable):
            return found
        said = {(c.block_height, c.merkle_root.lower()): c.confirmation for c in found.confirmations}
        return {at: _confirmed(said.get((at[0], display(at[1])), ""), at[0], own_tip) for at in question.about}

    def ask_tip(self) -> HttpRequest:
        """The tip of the longest chain."""
        return HttpRequest("GET", "/api/v1/chain/tip/longest")

    def read_tip(self, status: int, body: bytes) -> TipAt | Unreadable:
        """Height and hash; the times follow from `byHeight`."""
        found = _json(_BhsTip, status, body)
        if isinstance(found, Unreadable):
            return found
        return _tip_at(found.height, found.header.hash, BHS_HEADERS)

    def read_times(self, tip: TipAt, status: int, body: bytes) -> Seen | Unreadable:
        """Follow the links down from the tip: the list has no heights and may hold stale headers too."""
        found = _json(list[_BhsHeader], status, body)
        if isinstance(found, Unreadable):
            return found
        by_hash = {header.hash.lower(): header for header in found}
        chain: list[tuple[bytes, int]] = []
        wanted = display(tip.hash)
        while len(chain) < _span(tip.height):
            if (header := by_hash.get(wanted)) is None:
                return Unreadable("the headers do not lead to the tip")
            chain.append((from_display(wanted), header.time))
            wanted = header.previous.lower()
        return _seen(tip.height, chain[::-1])

    def ask_headers(self, first: int, count: int) -> HttpRequest:
        """By height."""
        return HttpRequest("GET", BHS_HEADERS.format(first=first, count=count))

    def read_headers(self, first: int, count: int, status: int, body: bytes) -> bytes | Unreadable:
        """Made anew from their fields; of stale ones beside them, which the list may hold, the longest branch."""
        if status == 404:
            return b""
        found = _json(list[_BhsWhole], status, body)
        if isinstance(found, Unreadable):
            return found
        try:
            headers = [
                write_header(h.version, from_display(h.previous), from_display(h.root), h.time, h.bits, h.nonce)
                for h in found
            ]
        except ValueError as error:
            return Unreadable(f"a header that is none: {error}")
        return b"".join(_longest({header_hash(header): header for header in headers})[:count])


def _longest(headers: Mapping[bytes, bytes]) -> list[bytes]:
    """The longest run of headers that link, lowest first; of equal ones either. headers: by hash. Linear."""
    length: dict[bytes, int] = {}  # of the run that ends with a header
    for block_hash in headers:
        walked = []
        while block_hash in headers and block_hash not in length:
            walked.append(block_hash)
            block_hash = headers[block_hash][4:36]
        below = length.get(block_hash, 0)
        for each in reversed(walked):
            below = length[each] = below + 1
    run: list[bytes] = []
    at = max(length, key=length.__getitem__, default=b"")
    while at in headers:
        run.append(headers[at])
        at = headers[at][4:36]
    return run[::-1]


def _confirmed(said: str, height: int, own_tip: int | None) -> Answer:
    if said == "CONFIRMED":
        return Answer.YES
    # The service says INVALID, not UNABLE_TO_VERIFY, about heights further above its tip than its allowed excess (6).
    if said == "INVALID" and own_tip is not None and height <= own_tip:
        return Answer.NO
    return Answer.UNKNOWN


# --- services that show the header at a height


class _Header(Struct):
    """A header as JSON, in the spellings of Chaintracks (both) and WhatsOnChain."""

    height: int
    hash: str = ""
    root: str = msgspec.field(name="merkleroot", default="")
    root_camel: str = msgspec.field(name="merkleRoot", default="")


class _Envelope(Struct):
    """Chaintracks v1 wraps its values; v2 does so in some builds and not in others."""

    status: str = ""
    value: msgspec.Raw = msgspec.Raw()


class Chaintracks:
    """Chaintracks, either version: a header a height."""

    authorization = "Bearer {key}"
    range = RANGE

    def __init__(self, header: str, tip: str, headers: str, *, as_hex: bool) -> None:
        """Paths with `{height}`, `{first}` and `{count}`; `as_hex`: ranges come as hex in JSON, else as bare bytes."""
        self._header = header
        self._tip = tip
        self._headers = headers
        self._as_hex = as_hex

    def ask(self, roots: Sequence[RootAt]) -> list[Question]:
        """One request for each distinct height."""
        return _ask_heights(self._header, roots)

    def read(
        self, question: Question, status: int, body: bytes, own_tip: int | None
    ) -> dict[RootAt, Answer] | Unreadable:
        """A header shown is at or below the service's tip, so a root that differs from it is a no."""
        return _read_header(question, status, _unwrapped(body))

    def ask_tip(self) -> HttpRequest:
        """The best header."""
        return HttpRequest("GET", self._tip)

    def read_tip(self, status: int, body: bytes) -> TipAt | Unreadable:
        """Height and hash; the times stand in the bare headers."""
        found = _json(_Header, status, _unwrapped(body))
        return found if isinstance(found, Unreadable) else _tip_at(found.height, found.hash, self._headers)

    def read_times(self, tip: TipAt, status: int, body: bytes) -> Seen | Unreadable:
        """Bare headers of 80 bytes, whose links and last hash are checked."""
        raw = self._bare(status, body)
        return raw if isinstance(raw, Unreadable) else _read_bare(tip, raw)

    def ask_headers(self, first: int, count: int) -> HttpRequest:
        """A range."""
        return HttpRequest("GET", self._headers.format(first=first, count=count))

    def read_headers(self, first: int, count: int, status: int, body: bytes) -> bytes | Unreadable:
        """Bare, in hex or not."""
        if status == 404:
            return b""
        raw = self._bare(status, body)
        if isinstance(raw, Unreadable):
            return raw
        if len(raw) % HEADER_BYTES or len(raw) > count * HEADER_BYTES:
            return Unreadable("not the headers asked for")
        return raw

    def _bare(self, status: int, body: bytes) -> bytes | Unreadable:
        if not self._as_hex:
            return body if status == 200 else Unreadable(f"HTTP {status}")
        text = _json(str, status, _unwrapped(body))
        if isinstance(text, Unreadable):
            return text
        try:
            return bytes.fromhex(text)
        except ValueError:
            return Unreadable("headers that are not hexadecimal")


class _ChainInfo(Struct):
    blocks: int
    best: str = msgspec.field(name="bestblockhash")
    median_time: int = msgspec.field(name="mediantime")


class _WocHeader(Struct):
    height: int
    version: int
    root: str = msgspec.field(name="merkleroot")
    time: int
    bits: str
    nonce: int
    previous: str = msgspec.field(name="previousblockhash", default="")  # the first block has none


class WhatsOnChain:
    """WhatsOnChain. The base URL names the network: …/v1/bsv/main."""

    authorization = "{key}"  # the bare key, without "Bearer"
    range = 1

    def ask(self, roots: Sequence[RootAt]) -> list[Question]:
        """One request for each distinct height."""
        return _ask_heights(WOC_HEADER, roots)

    def read(
        self, question: Question, status: int, body: bytes, own_tip: int | None
    ) -> dict[RootAt, Answer] | Unreadable:
        """404 is an unknown height, which may be one that is not there yet."""
        return _read_header(question, status, body)

    def ask_tip(self) -> HttpRequest:
        """The node's view of its chain."""
        return HttpRequest("GET", "/chain/info")

    def read_tip(self, status: int, body: bytes) -> Seen | Unreadable:
        """The node behind the service has computed the median time past: one request is enough."""
        found = _json(_ChainInfo, status, body)
        if isinstance(found, Unreadable):
            return found
        tip = _tip_at(found.blocks, found.best, "")
        return tip if isinstance(tip, Unreadable) else Seen(tip.height, found.median_time, ((tip.height, tip.hash),))

    def read_times(self, tip: TipAt, status: int, body: bytes) -> Unreadable:
        """Never asked for: `read_tip` tells everything."""
        return Unreadable("not a question of this dialect")

    def ask_headers(self, first: int, count: int) -> HttpRequest:
        """One at a time."""
        return HttpRequest("GET", WOC_HEADER.format(height=first))

    def read_headers(self, first: int, count: int, status: int, body: bytes) -> bytes | Unreadable:
        """Made anew from its fields."""
        if status == 404:
            return b""
        found = _json(_WocHeader, status, body)
        if isinstance(found, Unreadable):
            return found
        if found.height != first:
            return Unreadable("a header of another height")
        try:
            bits = int.from_bytes(bytes.fromhex(found.bits), "big")
            previous = from_display(found.previous) if found.previous or first else bytes(32)
            return write_header(found.version, previous, from_display(found.root), found.time, bits, found.nonce)
        except ValueError as error:
            return Unreadable(f"a header that is none: {error}")


TRACKERS: dict[str, Dialect] = {
    "bhs": BlockHeadersService(),
    "chaintracks": Chaintracks(
        header="/chaintracks/v2/header/height/{height}",
        tip="/chaintracks/v2/tip",
        headers="/chaintracks/v2/headers?height={first}&count={count}",
        as_hex=False,
    ),
    # Served at the root by its own server and below /chaintracks/v1 by Arcade: the base URL says which.
    "chaintracks-v1": Chaintracks(
        header="/findHeaderHexForHeight?height={height}",
        tip="/findChainTipHeaderHex",
        headers="/getHeaders?height={first}&count={count}",
        as_hex=True,
    ),
    "woc": WhatsOnChain(),
}
"""Dialects by the name they have in the setting `trackers.trackers`."""


def _ask_heights(path: str, roots: Iterable[RootAt]) -> list[Question]:
    by_height: dict[int, list[RootAt]] = {}
    for at in roots:
        by_height.setdefault(at[0], []).append(at)
    return [
        Question(HttpRequest("GET", path.format(height=height)), tuple(about)) for height, about in by_height.items()
    ]


def _read_header(question: Question, status: int, body: bytes) -> dict[RootAt, Answer] | Unreadable:
    unknown = dict.fromkeys(question.about, Answer.UNKNOWN)
    if status == 404 or (status == 200 and body in (b"", b"null")):
        return unknown
    found = _json(_Header, status, body)
    if isinstance(found, Unreadable):
        return found
    shown = (found.root or found.root_camel).lower()
    # A cache or a proxy that shows another height has said nothing about this one.
    if len(shown) != 64 or any(found.height != height for height, _ in question.about):
        return Unreadable("a header of another height, or one without a root")
    return {at: Answer.YES if display(at[1]) == shown else Answer.NO for at in question.about}


def _unwrapped(body: bytes) -> bytes:
    """What the envelope holds: empty where it holds nothing, which is how v1 says that it has no such header."""
    try:
        envelope = msgspec.json.decode(body, type=_Envelope)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return body  # the reader of the value will say what is wrong
    if value := bytes(envelope.value):
        return value
    return b"" if envelope.status == "success" else body


def _json(kind: type[T], status: int, body: bytes) -> T | Unreadable:
    if status != 200:
        return Unreadable(f"HTTP {status}")
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return Unreadable(f"not the JSON expected: {error}")


def _span(height: int) -> int:
    return min(SPAN, height + 1)


def _tip_at(height: int, hash_hex: str, path: str) -> TipAt | Unreadable:
    try:
        tip_hash = from_display(hash_hex)
    except ValueError:
        return Unreadable("a tip without a block hash")
    if height < 0:
        return Unreadable("a tip below the first block")
    count = _span(height)
    return TipAt(height, tip_hash, HttpRequest("GET", path.format(first=height - count + 1, count=count)))


def _read_bare(tip: TipAt, raw: bytes) -> Seen | Unreadable:
    if len(raw) != _span(tip.height) * HEADER_BYTES:
        return Unreadable("not the headers asked for")
    chain: list[tuple[bytes, int]] = []
    for header in split(raw):
        if chain and header[4:36] != chain[-1][0]:
            return Unreadable("headers that are not linked")
        chain.append((header_hash(header), time_of(header)))
    if chain[-1][0] != tip.hash:  # the chain was reorganised between the two requests
        return Unreadable("the headers do not lead to the tip")
    return _seen(tip.height, chain)


def _seen(height: int, chain: Sequence[tuple[bytes, int]]) -> Seen:
    """chain: (hash, time), tip last."""
    first = height - len(chain) + 1
    hashes = tuple((first + i, block_hash) for i, (block_hash, _) in enumerate(chain))
    return Seen(height, median_time([time for _, time in chain]), hashes)
