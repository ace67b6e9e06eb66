"""Where a transaction stands with the network: decided from what endpoints say, by txid (STATUS-1, STATUS-2, ANCHOR-2).

- **Accepted** as soon as one endpoint, any, says so: that the network has it, or that it took it with all its un-mined
  ancestors. Refusals of others are kept and change nothing.
- **Refused** when the last words of all endpoints that count are final (`pipeline/broadcast.py`; of what was accepted
  before, and is not being sent again, a node's word and nobody else's against it), and a second look, a settle time
  later, that all of them answer, finds no acceptance. So an answer that was on its way is not overtaken. What broadcast
  sends no more is looked at until then: who counts here may be away, or think otherwise.
- What is decided may turn: an acceptance after a refusal brings it back, the refusal of what was accepted (a late
  double spend) takes it away, again after a second look. Each turn is a new revision of the same result.
- Contexts hear each refusal once, and of an acceptance where one that spends the same waits for it. One that comes
  later hears it when it comes; who asks again gets the result again, at the next revision, with all request ids.
- Of two that spend the same in a context, the one in a block is right: the other is refused everywhere, whatever
  endpoints say of it, as long as that block stands (STATUS-3). One that nobody ever sent gives way to one that came
  second: once a look, a settle time later, finds that no endpoint knows it.
- What is accepted after broadcast gave it up is handed out from here, once (STATUS-4).
- **Mined** when the trackers say yes to a Merkle path of it; the path is kept. When they say no to it later, its block
  was replaced: the path is dropped, and another taken when it comes. **Buried** when its block is `BURIED` deep.

News comes repeated and in any order. Of one endpoint the latest word counts, by when it was heard; but what it says of
its own steps, as a call that was on its way still may, counts less than the network's word and than an answer to where
the transaction stands, if those were heard when the call had begun.
"""

from collections.abc import Iterable, Sequence
from typing import Literal, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from pipeline.broadcast import refusal
from schemas.network import (
    Anchored,
    Challenged,
    Challenges,
    Heard,
    Looked,
    NetworkStatus,
    News,
    Outdone,
    Reported,
    Word,
)
from schemas.types import Context, Txid, display

S = TypeVar("S")

UNKNOWN = NetworkStatus(revision=0, decided="", endpoint="")
"""Where a transaction stands that nothing was heard of."""

LOOK_LIMIT_MS = 600_000
"""Between two looks at what was accepted and not seen yet, at most."""

MINE_LIMIT_MS = 4 * 3_600_000
"""Between two looks at what was seen and not mined yet, at most."""

BURIED = 100
"""Blocks on top of a transaction's own, itself counted, behind which it is not looked at again."""

BLOCK_MS = 600_000
"""Between two blocks, about."""

APART_MS = 1_000
"""Clocks of workers differ by less."""

MOST_RIVALS = 100
"""Of one transaction, that are told when it is mined: each has been refused, or waited, where it came second."""

TRACKERS = "trackers"
"""Whose word it is, in place of an endpoint's."""

Block = Literal["", "mined", "buried"]
"""What became of a transaction's place in a block."""

Said = Reported | Looked | Heard
"""News that holds words of endpoints."""


class Times(Struct, frozen=True):
    """How long is waited, milliseconds."""

    settle_ms: int  # from a refusal to the second look
    unseen_ms: int  # from an acceptance to the first look whether the network has it; doubled each time
    unmined_ms: int  # from when it was seen to the first look whether it is mined; doubled each time


class Tell(Struct, frozen=True):
    """What contexts are told."""

    word: Literal["accept", "evict", "readmit"]
    contexts: tuple[Context, ...]


class Step(Struct, frozen=True):
    """What news comes to."""

    status: NetworkStatus
    tells: tuple[Tell, ...] = ()
    result: bool = False  # whether what is decided is told on `results`, at the status's revision
    block: Block = ""  # to be told there too
    ef: bytes = b""  # to be handed out on `transactions`
    outdoes: tuple[Txid, ...] = ()  # rivals that are to hear whether it is in a block (`status.path`)


def hear(before: NetworkStatus, news: News, now_ms: int, times: Times) -> Step:
    """What follows from news about a transaction that stood so."""
    match news:
        case Anchored():
            return _anchored(before, news, now_ms, times)
        case Challenged():
            return _challenged(before, news, now_ms, times)
        case Challenges():
            return _challenges(before, news, now_ms)
        case Outdone():
            return _outdone(before, news, now_ms)
        case Reported() | Looked() | Heard():
            status = _heard(before, news)
            decided = _decision(before, status, news, now_ms, times)
            has = news.contexts if isinstance(news, Reported) else ()
            return _step(before, replace(decided, look_ms=_next_look(decided, news, now_ms, times)), has=has)


def _step(
    before: NetworkStatus,
    status: NetworkStatus,
    *,
    block: Block = "",
    waits: Context = "",
    has: Sequence[Context] = (),
    tells_rivals: bool = False,
) -> Step:
    """What follows when it stands so.

    waits: a context where a rival has just been found to wait; has: contexts that say that it is there.
    """
    asked_again = bool(status.decided) and status.request_ids != before.request_ids
    result = bool(status.request_ids) and (status.decided != before.decided or asked_again)
    if asked_again and status.path:
        block = _block(status)
    ef = status.ef if status.decided == "accepted" and not status.handed else b""
    return Step(
        replace(
            status,
            revision=before.revision + result,
            ef=b"" if ef or status.handed else status.ef,
            handed=status.handed or bool(ef),
        ),
        _tells(before, status, waits, has),
        result,
        block,
        ef,
        status.rivals if tells_rivals else (),
    )


def _block(status: NetworkStatus) -> Block:
    return "buried" if status.buried else "mined"


def _anchored(before: NetworkStatus, news: Anchored, now_ms: int, times: Times) -> Step:
    """What the trackers said of a path. A later no to the one that is kept takes it away; other noes say nothing."""
    same = bool(before.path) and (news.height, news.root) == (before.height, before.root)
    if not news.stands:
        heard = replace(before, claimed=b"") if news.path == before.claimed else before
        if not same:
            return Step(heard)
        look_ms = now_ms + times.unmined_ms
        gone = replace(heard, path=b"", height=-1, root=b"", buried=False, looks=0, look_ms=look_ms)
        if gone.rivals and _nobody(gone):  # its proof was all that spoke for it
            at_ms = now_ms + times.settle_ms
            gone = replace(gone, decided="", unsent_ms=at_ms, look_ms=at_ms)
        return _step(before, gone, tells_rivals=True)
    depth = news.tip - news.height + 1
    status = replace(
        before, path=news.path, height=news.height, root=news.root, buried=depth >= BURIED, decided="accepted", code="",
        message="", settles_ms=0, looks=0, endpoint=before.endpoint or TRACKERS, outdone=(), claimed=b"", unsent_ms=0,
        competing=_rivals(before), look_ms=0 if depth >= BURIED else now_ms + max(1, BURIED - depth) * BLOCK_MS,
    )  # fmt: skip
    told_before = same and status.buried == before.buried
    block = _block(status) if status.request_ids and not told_before else ""
    return _step(before, status, block=block, tells_rivals=not same)


def _challenged(before: NetworkStatus, news: Challenged, now_ms: int, times: Times) -> Step:
    """Another waits for what becomes of it; where nobody sent it, nothing would."""
    status = replace(
        before,
        contexts=_added(before.contexts, (news.context,)),
        awaiting=_added(before.awaiting, (news.context,)),
        rivals=_added(before.rivals, (news.by,))[:MOST_RIVALS],
        sent=before.sent or news.sent,
    )
    if status.decided or not _nobody(status):
        status = replace(status, unsent_ms=0)
    elif not (status.unsent_ms or news.proven):
        at_ms = now_ms + times.settle_ms
        status = replace(status, unsent_ms=at_ms, look_ms=at_ms)
    return _step(before, status, waits=news.context, tells_rivals=bool(status.path))


def _nobody(status: NetworkStatus) -> bool:
    """Whether nobody is known to have sent it, or to have it."""
    return not (status.sent or status.words or status.origin)


def _challenges(before: NetworkStatus, news: Challenges, now_ms: int) -> Step:
    """It came second. Its path is asked about, unless it is known to be in a block: then its rivals hear that."""
    status = replace(
        before,
        contexts=_added(before.contexts, (news.context,)),
        rivals=_added(before.rivals, news.holders)[:MOST_RIVALS],
    )
    if news.path and not status.path:
        status = replace(status, claimed=news.path, look_ms=now_ms)
    return _step(before, status, tells_rivals=bool(status.path))


def _outdone(before: NetworkStatus, news: Outdone, now_ms: int) -> Step:
    """A rival is in a block: what spends the same is in none. Or its block was replaced: anything may be (STATUS-3)."""
    if not news.stands:
        outdone = tuple(txid for txid in before.outdone if txid != news.by)
        if outdone == before.outdone:
            return Step(before)
        return Step(replace(before, outdone=outdone, look_ms=before.look_ms if outdone else now_ms))
    status = replace(
        before, outdone=_added(before.outdone, (news.by,)), rivals=_added(before.rivals, (news.by,))[:MOST_RIVALS],
        decided="refused", endpoint=TRACKERS, code="network.double-spend", claimed=before.path or before.claimed,
        message=f"{display(news.by)} spends the same, and is in a block", path=b"", height=-1, root=b"", buried=False,
        settles_ms=0, unsent_ms=0, looks=0, look_ms=0,
    )  # fmt: skip
    return _step(before, replace(status, competing=_rivals(status)))


def _heard(before: NetworkStatus, news: Said) -> NetworkStatus:
    words = {word.endpoint: word for word in before.words}
    for word in news.words:
        last = words.get(word.endpoint)
        if last is None or _replaces(word, last):
            words[word.endpoint] = _with_rivals(last, word)
    kept = tuple(words[name] for name in sorted(words))
    news_to_us = list(map(_says, kept)) != list(map(_says, before.words))
    looks = 0 if news_to_us else before.looks + isinstance(news, Looked)
    status = replace(before, words=kept, looks=looks, counting=_counting(before, news))
    if kept:
        status = replace(status, unsent_ms=0)
    if isinstance(news, Heard) and news.path and news.path != status.path:
        status = replace(status, claimed=news.path, looks=0)
    if not isinstance(news, Reported):
        return status
    return replace(
        status,
        unsent_ms=0,
        sent=True,
        trying=news.again,
        handed=before.handed or news.handed,
        ef=news.ef or before.ef,
        stood=before.stood or news.stands,
        contexts=_added(before.contexts, news.contexts),
        request_ids=_added(before.request_ids, news.request_ids),
        origin=before.origin or news.origin,
    )


def _counting(before: NetworkStatus, news: Said) -> tuple[str, ...]:
    """Whose last words are to be final.

    Where broadcast gave up, nobody hands it to endpoints that it had missed for long, so that they need not refuse it:
    it is enough that a look finds them, and no acceptance. Until it does, silence delays it like that of any other.
    """
    if isinstance(news, Heard):
        return before.counting
    if isinstance(news, Reported) or not _given_up(before):
        return news.endpoints
    known = {*before.counting, *(word.endpoint for word in news.words)}
    return tuple(name for name in news.endpoints if name in known) or before.counting


def _given_up(status: NetworkStatus) -> bool:
    """Whether nobody decided, somebody refuses it, and broadcast does not send it again."""
    refused = any(word.kind == "refused" for word in status.words)
    return refused and status.sent and not (status.decided or status.trying)


def _with_rivals(last: Word | None, word: Word) -> Word:
    """An endpoint that still refuses need not name again for whom."""
    if last is None or (last.kind, word.kind) != ("refused", "refused"):
        return word
    return replace(word, competing=_added(last.competing, word.competing)[:MOST_RIVALS])


def _decision(before: NetworkStatus, status: NetworkStatus, news: Said, now_ms: int, times: Times) -> NetworkStatus:
    if status.path or status.outdone:
        return replace(status, competing=_rivals(status))  # whatever anybody says of it
    if (taker := _taker(status)) is not None:
        endpoint = before.endpoint if before.decided == "accepted" else taker.endpoint
        return replace(
            status, decided="accepted", endpoint=endpoint, code="", message="", competing=_rivals(status), settles_ms=0
        )
    words = [(word.endpoint, word) for word in status.words if word.endpoint in status.counting]
    if status.unsent_ms and _settles(news, status.unsent_ms):
        return replace(
            status, decided="refused", endpoint="", code="conflict.unsent", competing=_rivals(status), unsent_ms=0,
            message=f"nobody sent it, and {', '.join(map(display, status.rivals[:3]))} spends the same",
        )  # fmt: skip
    taken = before.decided == "accepted" and not status.trying
    refused = refusal(words, len(status.counting), taken=taken) if status.counting else None
    if refused is None or before.decided == "refused":
        return replace(status, settles_ms=0 if refused is None else status.settles_ms, competing=_rivals(status))
    if not before.settles_ms:
        return replace(status, settles_ms=now_ms + times.settle_ms, competing=_rivals(status))
    if not _settles(news, before.settles_ms):
        return replace(status, competing=_rivals(status))
    endpoint, word = refused
    return replace(
        status, decided="refused", endpoint=endpoint, code=word.code, message=f"{endpoint}: {_said(word)}",
        competing=_rivals(status), settles_ms=0,
    )  # fmt: skip


def _settles(news: Said, at_ms: int) -> bool:
    """Whether it is a look after that time which everybody answered whose silence counts."""
    return isinstance(news, Looked) and news.asked_ms >= at_ms and not set(news.silent) & set(news.endpoints)


def to_ask(status: NetworkStatus) -> str:
    """The endpoint to ask where it stands, empty for all: of what was taken and not seen yet, who took it knows."""
    taker = None if status.settles_ms else _taker(status)
    return "" if taker is None else taker.endpoint


def _taker(status: NetworkStatus) -> Word | None:
    """Whose word makes it accepted: the network's own, or an endpoint's that took it with its ancestors."""
    takers = [word for word in status.words if word.kind == "accepted" and (word.network or status.stood)]
    return min(takers, key=lambda word: (word.at_ms, word.endpoint), default=None)


def _replaces(word: Word, last: Word) -> bool:
    """Which of an endpoint's words counts: how far it has come itself says nothing against what the network said.

    Unless it was handed over anew since: then its answer to that is the later one.
    """
    mine, other = word.network or word.asked, last.network or last.asked
    if mine == other:
        return word.at_ms >= last.at_ms
    if mine:
        return last.began_ms <= word.at_ms + APART_MS
    return word.began_ms > last.at_ms + APART_MS


def _says(word: Word) -> tuple[str, str, str, bool]:
    return word.endpoint, word.kind, word.status, word.network


def _said(word: Word) -> str:
    return " ".join(filter(None, (word.status, word.message))) or word.kind


def _rivals(status: NetworkStatus) -> tuple[bytes, ...]:
    said = (txid for word in status.words for txid in word.competing)
    unsent = status.rivals if status.unsent_ms or status.code == "conflict.unsent" else ()
    return tuple(dict.fromkeys((*status.outdone, *unsent, *said)))


def _next_look(status: NetworkStatus, news: Said, now_ms: int, times: Times) -> int:
    if isinstance(news, Heard) and news.path and status.claimed:
        return now_ms
    if status.path or status.outdone:
        return status.look_ms
    if status.claimed:
        return now_ms + min(LOOK_LIMIT_MS, times.settle_ms << min(status.looks, 16))
    if status.unsent_ms:
        late = isinstance(news, Looked) and now_ms >= status.unsent_ms
        return now_ms + times.settle_ms if late else status.unsent_ms
    if status.settles_ms:
        late = isinstance(news, Looked) and now_ms >= status.settles_ms  # and still nobody decided it
        return now_ms + times.settle_ms if late else status.settles_ms
    if _given_up(status):
        if not isinstance(news, Looked):
            return status.look_ms
        silent = set(news.silent) & set(news.endpoints)
        return now_ms + min(LOOK_LIMIT_MS, times.settle_ms << (0 if silent else min(status.looks, 16)))
    if status.decided != "accepted":
        return 0
    seen = any(word.network and word.kind == "accepted" for word in status.words)
    first, limit = (times.unmined_ms, MINE_LIMIT_MS) if seen else (times.unseen_ms, LOOK_LIMIT_MS)
    if any(word.network and word.kind == "refused" for word in status.words):
        first, limit = times.settle_ms, LOOK_LIMIT_MS  # a node thinks otherwise: who took it may do so by now
    return now_ms + min(limit, first << min(status.looks, 16))


def _tells(before: NetworkStatus, status: NetworkStatus, waits: Context, has: Sequence[Context]) -> tuple[Tell, ...]:
    turned = status.decided != before.decided
    if status.decided == "refused":
        # One that says that it is there may have heard of the refusal when it was not.
        new = tuple(context for context in status.contexts if context not in before.contexts or context in has)
        return _tell("evict", status.contexts if turned else new)
    if status.decided != "accepted":
        return ()
    back = _tell("readmit", before.contexts) if before.decided == "refused" else ()
    return (*back, *_tell("accept", status.awaiting if turned else tuple(filter(None, (waits,)))))


def _tell(word: Literal["accept", "evict", "readmit"], contexts: Sequence[Context]) -> tuple[Tell, ...]:
    return (Tell(word, tuple(contexts)),) if contexts else ()


def _added(before: tuple[S, ...], more: Iterable[S]) -> tuple[S, ...]:
    return tuple(dict.fromkeys((*before, *more)))
