"""Broadcasts: each requested one has one outcome, and what was accepted was handed on (CAST-2)."""

from collections.abc import Iterator, Mapping, Sequence

import msgspec
from msgspec import Struct

from ops.instruments.audit.flight import Coordinate, Flight
from ops.instruments.audit.journal import Journal
from ops.instruments.audit.report import Tally
from pipeline.results import network_id
from schemas.types import Txid, display, from_display
from topics.registry import RESULTS, TRANSACTIONS

TAKEN = frozenset(
    {
        "RECEIVED",
        "STORED",
        "ANNOUNCED_TO_NETWORK",
        "REQUESTED_BY_NETWORK",
        "SENT_TO_NETWORK",
        "ACCEPTED_BY_NETWORK",
        "SEEN_ON_NETWORK",
        "MINED_IN_STALE_BLOCK",
        "MINED",
    }
)
"""ARC statuses of a transaction that an endpoint has."""


class Member(Struct, array_like=True):
    """Of a request's family: what an audit reads of it."""

    txid: bytes


class Request(Struct, array_like=True):
    """What an audit reads of a broadcast request."""

    txid: bytes
    unmined: tuple[Member, ...]


_request = msgspec.msgpack.Decoder(Request).decode


class Outcome(Struct):
    """The network's word on one transaction."""

    said: tuple[tuple[int, str], ...]  # distinct pairs of revision and outcome
    time_ms: int

    @property
    def all(self) -> set[str]:
        """Every outcome it ever had."""
        return {outcome for _, outcome in self.said}

    @property
    def contradicts(self) -> bool:
        """Whether one revision was told as accepted and as refused: from one to the next it may turn."""
        decided = {said for said in self.said if said[1] in ("accepted", "refused")}
        return len({revision for revision, _ in decided}) < len(decided)

    @property
    def standing(self) -> str:
        """Of the highest revision; a replay's stands in place of `parked`."""
        return max((revision, outcome != "parked", outcome) for revision, outcome in self.said)[2]


class Network:
    """The ledger."""

    def __init__(self, tally: Tally) -> None:
        """tally: what cannot be read goes there."""
        self._tally = tally
        self._requests: dict[Txid, int] = {}  # the newest, Unix milliseconds
        self._members: dict[Txid, Coordinate] = {}  # of any family: where the newest request stands that names it
        self._outcomes: dict[Txid, Outcome] = {}
        self._pairs: dict[tuple[int, str], tuple[int, str]] = {}  # one object each: most accept at revision 0
        self._handed: set[Txid] = set()
        self._had: set[Txid] = set()  # by any endpoint
        self._have: list[dict[Txid, str]] = []  # by each

    def request(self, where: str, at: Coordinate, timestamp_ms: int, value: bytes) -> None:
        """A record of `broadcast`, at this partition and offset."""
        try:
            request = _request(value)
        except msgspec.MsgspecError as error:
            self._tally.found.add("unreadable", f"{where}: {error}")
            return
        self._tally.counts["broadcast requests"] += 1
        self._requests[request.txid] = timestamp_ms
        self._members.update(dict.fromkeys((request.txid, *(member.txid for member in request.unmined)), at))

    def said(self, txid: Txid, said: tuple[int, str], time_ms: int) -> None:
        """A result that is the network's: revision and outcome."""
        known = self._outcomes.get(txid)
        if known is None:
            self._outcomes[txid] = Outcome((self._pairs.setdefault(said, said),), time_ms)
        elif said not in known.said:
            known.said = (*known.said, said)

    def handed_on(self, txid: Txid) -> None:
        """A record of `transactions`."""
        self._handed.add(txid)

    def endpoints(self, before: Sequence[Mapping[str, str]], after: Sequence[Mapping[str, str]]) -> None:
        """What the endpoints said they got before the last round of reading, and after it: status by display txid.

        Whatever they had before was asked for by then; whatever was accepted by then they have after.
        """
        self._had = {from_display(txid) for has in before for txid in has}
        self._have = [{from_display(txid): status for txid, status in has.items()} for has in after]

    def outcomes(self) -> Iterator[tuple[Txid, Outcome]]:
        """By txid."""
        return iter(self._outcomes.items())

    def waits(self, txid: Txid, flight: Flight) -> str | None:
        """`outcome` while the broadcast is under way."""
        return flight.cast_waits(txid, self._members.get(txid))

    def check(self, journal: Journal, flight: Flight, tally: Tally) -> None:
        """Outcomes, requests, what was handed on, contexts and endpoints against each other."""
        tally.counts["transactions handed on"] = len(self._handed)
        accepted = dict(journal.accepted)
        for txid, outcome in self._outcomes.items():
            tally.counts[f"network: {outcome.standing}"] += 1
            if outcome.contradicts:
                tally.found.add("doubled-outcome", display(txid))
            elif outcome.standing == "accepted":
                accepted.setdefault(txid, outcome.time_ms)
            elif outcome.standing == "refused":
                self._check_refused(txid, outcome, journal, flight, tally)
        for txid, timestamp_ms in self._requests.items():
            if txid not in self._outcomes:
                old = flight.too_old(RESULTS.name, timestamp_ms)
                tally.miss("lost-outcome", display(txid), waits=self.waits(txid, flight), too_old=old)
        for txid, at_ms in accepted.items():
            if txid not in self._handed:
                old = flight.too_old(TRANSACTIONS.name, at_ms)
                tally.miss("lost-transaction", display(txid), waits=self.waits(txid, flight), too_old=old)
        self._check_left(journal, flight, tally)
        if self._have:
            self._check_endpoints(tally)

    def _check_left(self, journal: Journal, flight: Flight, tally: Tally) -> None:
        """Whoever left with one that was refused is back when that was accepted after all."""
        turned = {network_id(txid): txid for txid, outcome in self._outcomes.items() if "refused" in outcome.all}
        for context, txid, operation in journal.left():
            root = turned.get(operation.split(":")[1]) if operation.startswith("evict:") else None
            waits = "operation" if context in flight.operations else None
            if root is not None and self._outcomes[root].standing == "accepted":
                says = f"{display(txid)} left {context} with {display(root)}, which was accepted after all"
                tally.miss("torn-outcome", says, waits=waits, too_old=False)
            elif root is None and (own := self._outcomes.get(txid)) is not None and own.standing == "accepted":
                says = f"{display(txid)} left {context} with an ancestor, and the network has it"
                tally.miss("torn-outcome", says, waits=waits, too_old=False)

    def _check_refused(self, txid: Txid, outcome: Outcome, journal: Journal, flight: Flight, tally: Tally) -> None:
        waits = self.waits(txid, flight)
        if txid in self._handed and "accepted" not in outcome.all:
            tally.miss("torn-outcome", f"{display(txid)} is on transactions", waits=waits, too_old=False)
        for context in journal.standing(txid):
            on_its_way = waits or ("operation" if context in flight.operations else None)
            tally.miss("torn-outcome", f"{display(txid)} stands in {context}", waits=on_its_way, too_old=False)

    def _check_endpoints(self, tally: Tally) -> None:
        tally.counts["transactions at endpoints"] = len(set().union(*self._have))
        for txid, outcome in self._outcomes.items():
            taken = any(has.get(txid) in TAKEN for has in self._have)
            if outcome.all == {"accepted"} and not taken:
                tally.found.add("lost-on-network", display(txid))
            elif outcome.all == {"refused"} and taken:
                tally.found.add("torn-outcome", f"{display(txid)} is at an endpoint")
        for txid in sorted(self._had - self._members.keys()):
            tally.found.add("stranger", f"{display(txid)} is at an endpoint, and no request named it")
