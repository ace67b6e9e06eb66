"""Dead letters: each says why, and holds a payload that a result tells of; and the other way round."""

from collections.abc import Iterator

from msgspec import Struct

from ops.instruments.audit.decisions import Decisions
from ops.instruments.audit.flight import BEYOND, Flight, Payload, payloads_of
from ops.instruments.audit.network import Network
from ops.instruments.audit.report import Tally
from pipeline.outcome import BY_CODE
from schemas import headers as h
from schemas.types import display
from topics.registry import BROADCAST, DEAD_LETTERS, INGEST, RESULTS

CLASSES = frozenset({"verdict", "exhausted", "fault"})

ANONYMOUS = frozenset({"internal.undecodable", "internal.unknown-version", "internal.payload-gone"})
"""Codes of records that could not be read: nobody knows whose they were, or what is pointed to was decided before."""

Claim = tuple[Payload, str]
"""A payload, and the outcome that put it among the dead letters."""


class Told(Struct, frozen=True):
    """A result that must have its payload among the dead letters."""

    what: str
    time_ms: int
    waits: str | None
    may: bool = False  # or may not, as whoever was to keep it heard otherwise first


class Letters:
    """The ledger."""

    def __init__(self, tally: Tally) -> None:
        """tally: what is wrong with a letter by itself goes there."""
        self._tally = tally
        self._claims: dict[Claim, tuple[str, int]] = {}  # where, Unix milliseconds

    def letter(self, where: str, timestamp_ms: int, key: bytes | None, value: bytes | None, headers: h.Pairs) -> None:
        """A record of `dead-letters`."""
        self._tally.counts["dead letters"] += 1
        found = {name: (given or b"").decode("utf-8", "replace") for name, given in headers}  # senders may write nulls
        class_, code, topic = (found.get(name, "") for name in (h.CLASS, h.CODE, h.ORIGIN_TOPIC))
        numbers = [found.get(name, "") for name in (h.ORIGIN_PARTITION, h.ORIGIN_OFFSET)]
        if class_ not in CLASSES or code not in BY_CODE or not topic or not all(map(str.isdecimal, numbers)):
            says = f"class {class_!r}, code {code!r}, of {'/'.join((topic, *numbers))!r}"
            self._tally.found.add("torn-letter", f"{where}: {says}")
            return
        self._tally.counts[f"dead letters: {class_}"] += 1
        if code in ANONYMOUS:
            return
        if topic == INGEST.name:
            payloads: tuple[Payload, ...] = (Payload((int(numbers[0]), int(numbers[1]))),)
        else:
            payloads = payloads_of(topic, key, value)
        for payload in payloads:
            refused = "refused" if topic == BROADCAST.name else "rejected"
            self._claims[payload, refused if class_ == "verdict" else "parked"] = (where, timestamp_ms)

    def check(self, decisions: Decisions, network: Network, flight: Flight, tally: Tally) -> None:
        """Every refused or parked payload is here, and no other."""
        told = dict(_told(decisions, network, flight))
        for claim, result in told.items():
            if claim not in self._claims and not result.may:
                old = flight.too_old(DEAD_LETTERS.name, result.time_ms)
                tally.miss("lost-payload", result.what, waits=result.waits, too_old=old)
        for claim, (where, timestamp_ms) in self._claims.items():
            if claim not in told:
                tally.miss(
                    "torn-letter",
                    f"{where}: no result says {claim[1]}",
                    waits=_waits(claim[0], network, flight),
                    too_old=flight.too_old(RESULTS.name, timestamp_ms),
                )


def _told(decisions: Decisions, network: Network, flight: Flight) -> Iterator[tuple[Claim, Told]]:
    for at, decision in decisions.made():
        context = decision.context
        for _, outcome in decision.said:
            if outcome != "applied":
                what = " ".join(filter(None, (f"{INGEST.name}/{at[0]}/{at[1]}", context, outcome)))
                yield (Payload(at, context), outcome), Told(what, decision.time_ms, flight.waits(at, context))
    for txid, said in network.outcomes():
        accepted = "accepted" in said.all
        # Accepted first and refused later, its contexts keep it; refused by all, and accepted at the second look, it is
        # here, and no result calls it refused.
        for outcome in (said.all | {"refused"} if accepted else said.all) - {"accepted"}:
            what, may = f"{display(txid)} {outcome}", accepted and outcome == "refused"
            yield (Payload(txid=txid), outcome), Told(what, said.time_ms, network.waits(txid, flight), may)


def _waits(payload: Payload, network: Network, flight: Flight) -> str | None:
    if payload.txid is not None:
        return network.waits(payload.txid, flight)
    assert payload.at is not None
    if payload.at[1] >= flight.ends.get(payload.at[0], BEYOND):
        return "decision"  # it came after the audit began
    return flight.waits(payload.at, payload.context)
