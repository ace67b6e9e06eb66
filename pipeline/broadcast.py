"""What to make of a broadcast request and the endpoints' replies to it.

A request is whole: its un-mined ancestors first, then the subject (CAST-1). The rule, by the subject's replies:

- **Success** when one endpoint, any, accepted it (CAST-2). Accepted is what an endpoint took responsibility for: from
  RECEIVED on it has validated the transaction, stored it, and sends it again by itself until the network has it.
  Waiting here for the network's own word would hold a partition for seconds, and it would not be final either (what
  was seen can still be rejected); following a transaction further is another stage's work. One thing an endpoint's
  acceptance cannot vouch for are the ancestors, since Extended Format is validated without them: a subject that is on
  its way counts once every un-mined ancestor is accepted somewhere too, one that the network has seen counts at once.
- **Ask again** while an endpoint that has tries left gave no answer (time-out, 5xx, unreadable, pending).
- **Refused**, once nothing is left to ask: every endpoint that counts gave a final answer. One alone, even if it says
  that a node rejected the transaction, is no consensus: while another has not spoken, be it that it is down for a
  moment or that its breaker is open, it waits. One that is down for long does not count. That one endpoint's 461, 463,
  464 or 468 could decide when our verifier agrees never comes to pass here: what is broadcast has passed it.
- **Not asked** is an endpoint that says by its policy that it would not take the family. Read anew, its policy is its
  word about the subject, a refusal by its own rules (docs/decisions/endpoints.md); until then it has not spoken.
- **Waits** otherwise: an ancestor is missing, a lock time lies ahead, a rival is known, or nobody decided. Our own
  faults (key, account, address) and an endpoint's absence never refuse anything.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from types import MappingProxyType
from typing import Protocol, TypeAlias, TypeVar

from msgspec import Struct

from pipeline.broadcasters import Reply
from pipeline.outcome import Condition, Verdict
from schemas.flow import BroadcastRequest, Unmined
from schemas.network import Word
from schemas.types import Txid, display

Replies: TypeAlias = Mapping[str, Mapping[Txid, Reply]]
"""Endpoint, transaction, its newest reply."""

Call: TypeAlias = tuple[Unmined, ...]
"""Transactions of one call, ancestors first."""

Lane: TypeAlias = tuple[Call, ...]
"""Calls to one endpoint that must follow each other: each after the reply to the one before."""


class Success(Struct, frozen=True):
    """The network has it, or an endpoint answers for it."""

    accepted: tuple[tuple[Txid, str], ...]  # what of the family was accepted, and the first endpoint that did; in order


class Refused(Struct, frozen=True):
    """The network will not take it."""

    verdict: Verdict
    endpoint: str  # whose words the verdict repeats
    competing: tuple[Txid, ...] = ()
    accepted: tuple[tuple[Txid, str], ...] = ()  # ancestors that were, and all their ancestors with them


class Waits(Struct, frozen=True):
    """Nobody decided; to be tried again later."""

    condition: Condition
    competing: tuple[Txid, ...] = ()
    accepted: tuple[tuple[Txid, str], ...] = ()  # see `Refused`


class AskAgain(Struct, frozen=True):
    """Who is to be asked next, about which transactions, ancestors first."""

    calls: Mapping[str, tuple[Txid, ...]]


Step: TypeAlias = Success | Refused | Waits | AskAgain

NOBODY: Mapping[str, str] = MappingProxyType({})

UNANSWERED = frozenset({"transport", "pending"})
"""Kinds that a further try may turn into an answer."""


def decide(
    request: BroadcastRequest,
    endpoints: Sequence[str],
    replies: Replies,
    known: Mapping[Txid, str],
    asked: Mapping[str, int],
    attempts: int,
    unfit: Mapping[str, str] = NOBODY,
) -> Step:
    """What is next for `request`, by the rule above.

    endpoints: names of all that are configured, in order of preference.
    known: transactions accepted earlier, and by whom; they count as accepted and are not sent again.
    asked: how often each endpoint has been asked; `attempts` is the limit. A request without un-mined transactions
    needs nothing.
    unfit: endpoints whose policy would refuse the family, so that they are not asked, and the condition in which it
    is while that is no word of theirs.
    """
    accepted = tuple(
        (member.txid, by)
        for member in request.unmined
        if (by := _accepted_by(member.txid, endpoints, replies, known)) is not None
    )
    if _stands(request, {txid for txid, _ in accepted}, endpoints, replies, known):
        return Success(accepted)
    calls = {
        name: wanted
        for name in endpoints
        if name not in unfit
        and asked.get(name, 0) < attempts
        and (wanted := _unanswered(request, name, replies.get(name, {}), known))
    }
    if calls:
        return AskAgain(calls)
    words = [(name, reply) for name in endpoints if (reply := replies.get(name, {}).get(request.txid)) is not None]
    standing = _standing(request, dict(accepted), endpoints, replies)
    competing = tuple(dict.fromkeys(rival for _, reply in words for rival in reply.competing))
    if refused := refusal(words, len(endpoints)):
        name, reply = refused
        return Refused(Verdict(reply.code, _said(name, reply)), name, competing, standing)
    said = dict(words)
    silent = {name: unfit[name] for name in endpoints if name in unfit and name not in said}
    if silent and all(name in silent or (name in said and said[name].kind == "refused") for name in endpoints):
        return Waits(_unfit(words, silent), competing, standing)
    return Waits(_condition(request, {txid for txid, _ in accepted}, words, endpoints, replies), competing, standing)


def remembered(endpoint: str) -> Word:
    """That an endpoint accepted a transaction once, and was not asked again: older than whatever it said since."""
    return Word(endpoint, "accepted", "", "", "", False, 0)


def _accepted_by(txid: Txid, endpoints: Sequence[str], replies: Replies, known: Mapping[Txid, str]) -> str | None:
    if txid in known:
        return known[txid]
    return next(
        (n for n in endpoints if (reply := replies.get(n, {}).get(txid)) is not None and reply.kind == "accepted"), None
    )


def _stands(
    request: BroadcastRequest,
    accepted: Set[Txid],
    endpoints: Sequence[str],
    replies: Replies,
    known: Mapping[Txid, str],
) -> bool:
    if not request.unmined or request.txid in known:
        return True
    if request.txid not in accepted:
        return False
    words = (replies.get(name, {}).get(request.txid) for name in endpoints)
    if any(reply is not None and reply.kind == "accepted" and reply.network for reply in words):
        return True
    return all(member.txid in accepted for member in request.unmined)


def _standing(
    request: BroadcastRequest, accepted: Mapping[Txid, str], endpoints: Sequence[str], replies: Replies
) -> tuple[tuple[Txid, str], ...]:
    """Of a family that did not succeed, who stands all the same: the network has it, or all before it were accepted."""
    found = []
    whole = True
    for member in request.unmined:
        by = accepted.get(member.txid)
        words = (replies.get(name, {}).get(member.txid) for name in endpoints)
        if by is not None and (whole or any(w is not None and w.kind == "accepted" and w.network for w in words)):
            found.append((member.txid, by))
        whole = whole and by is not None
    return tuple(found)


def _unanswered(
    request: BroadcastRequest, name: str, replies: Mapping[Txid, Reply], known: Mapping[Txid, str]
) -> tuple[Txid, ...]:
    if any(reply.kind in ("config", "unavailable") for m in request.unmined if (reply := replies.get(m.txid))):
        return ()  # it is paused: asking at once brings the same
    return tuple(
        member.txid
        for member in request.unmined
        if member.txid not in known and ((reply := replies.get(member.txid)) is None or reply.kind in UNANSWERED)
    )


class Said(Protocol):
    """An endpoint's last word: a reply to a call, or as it was kept."""

    @property
    def kind(self) -> str:
        """See `pipeline.broadcasters.Kind`."""
        ...

    @property
    def network(self) -> bool:
        """Whether it is the network's own."""
        ...


S = TypeVar("S", bound=Said)


def refusal(words: Sequence[tuple[str, S]], counting: int, *, taken: bool = False) -> tuple[str, S] | None:
    """The word that refuses a transaction by the rule above, and whose it is; None where nobody's does.

    words: the last of each endpoint that gave one; counting: how many endpoints count.
    taken: it had been accepted, so that no further endpoint was asked: a node's word is enough where nobody who gave
    one thinks otherwise.
    """
    final = [(name, reply) for name, reply in words if reply.kind == "refused"]
    by_node = next((each for each in final if each[1].network), None)
    if final and len(final) >= counting:
        return by_node or final[0]  # the network's own word says most
    return by_node if taken and len(final) == len(words) else None


def _condition(
    request: BroadcastRequest,
    accepted: Set[Txid],
    words: Sequence[tuple[str, Reply]],
    endpoints: Sequence[str],
    replies: Replies,
) -> Condition:
    if request.txid in accepted:
        missing = next(m.txid for m in request.unmined if m.txid not in accepted)
        said = [_said(n, reply) for n in endpoints if (reply := replies.get(n, {}).get(missing)) is not None]
        return Condition("network.orphan", f"ancestor {display(missing)}: {'; '.join(said) or 'not sent'}")
    code = next((reply.code for _, reply in words if reply.kind == "condition"), "network.undecided")
    return Condition(code, "; ".join(_said(name, reply) for name, reply in words) or "no endpoint was asked")


def _unfit(words: Sequence[tuple[str, Reply]], silent: Mapping[str, str]) -> Condition:
    """Nobody else is left to ask. The code is that of the endpoint preferred."""
    said = [_said(name, reply) for name, reply in words]
    return Condition(next(iter(silent.values())), "; ".join([*said, f"not asked by their policy: {', '.join(silent)}"]))


def _said(name: str, reply: Reply) -> str:
    return f"{name}: {' '.join(filter(None, (reply.status, reply.message))) or reply.kind}"


def lanes(requests: Sequence[BroadcastRequest], wanted: Set[Txid], limit: int, limit_bytes: int) -> tuple[Lane, ...]:
    """The calls that carry `wanted` (each transaction once) to one endpoint; lanes may be called side by side.

    Families, that is requests that share a transaction, stay together, ancestors first, so that none is split over
    lanes (CAST-1). Small families share a call of at most `limit` transactions and `limit_bytes`; one that is larger
    is a lane of several calls. A transaction above `limit_bytes` is sent alone.
    """
    shared: list[list[Unmined]] = []
    long: list[Lane] = []
    for family in _families(requests):
        calls = _cut([member for member in family if member.txid in wanted], limit, limit_bytes)
        if len(calls) > 1:
            long.append(tuple(tuple(call) for call in calls))
        elif calls and shared and _fits([*shared[-1], *calls[0]], limit, limit_bytes):
            shared[-1] += calls[0]
        else:
            shared += calls
    return (*((tuple(call),) for call in shared), *long)


def halves(call: Call) -> Lane:
    """A call that was refused as a whole, as two: in a lane, since the second half may descend from the first."""
    middle = (len(call) + 1) // 2
    return tuple(half for half in (call[:middle], call[middle:]) if half)


def _families(requests: Sequence[BroadcastRequest]) -> list[list[Unmined]]:
    """Members of connected requests, each once, in an order in which ancestors come first."""
    family_of: dict[Txid, int] = {}
    families: dict[int, dict[Txid, Unmined]] = {}
    for number, request in enumerate(requests):
        touched = sorted({family_of[m.txid] for m in request.unmined if m.txid in family_of})
        merged: dict[Txid, Unmined] = {}
        # Earlier requests first: what one of them lists is preceded there by all its ancestors that are not mined.
        for member in (*(m for old in touched for m in families.pop(old).values()), *request.unmined):
            merged.setdefault(member.txid, member)
            family_of[member.txid] = number
        families[number] = merged
    return [list(members.values()) for members in families.values()]


def _cut(members: Iterable[Unmined], limit: int, limit_bytes: int) -> list[list[Unmined]]:
    calls: list[list[Unmined]] = []
    for member in members:
        if calls and _fits([*calls[-1], member], limit, limit_bytes):
            calls[-1].append(member)
        else:
            calls.append([member])
    return calls


def _fits(call: Sequence[Unmined], limit: int, limit_bytes: int) -> bool:
    return len(call) <= limit and sum(len(member.ef) for member in call) <= limit_bytes
