"""Requests that are with the endpoints: what each endpoint takes, and what was said so far of which transaction."""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence

from agents.runtime.endpoint_settings import Chosen
from agents.runtime.http import Failure
from pipeline.broadcast import AskAgain, Refused, Success, Waits, decide
from pipeline.broadcasters import ANSWERS, Dialect, Policy, Reply
from pipeline.broadcasters.policy import Measure, Objection, measure, objection, told, word
from pipeline.broadcasters.table import DIALECTS
from pipeline.http import Unreadable
from schemas.flow import BroadcastRequest, Unmined
from schemas.types import Txid

log = logging.getLogger(__name__)

FRESH_S = 5.0
"""A policy read so long ago is still the endpoint's word: a flood of low fees asks for it no more often."""


class Endpoint:
    """One endpoint, its dialect, how many calls it has in hand, and what it says that it takes."""

    def __init__(self, entry: Chosen) -> None:
        self.entry = entry
        self.remote = entry.remote
        self.name = entry.remote.name
        self.dialect: Dialect = DIALECTS[entry.remote.dialect]
        self.slots = asyncio.Semaphore(entry.concurrency)
        self.silent_since: float | None = None  # monotonic seconds; None: its last call was answered
        self.policy: Policy | None = None  # the last that was read
        self.policy_read: float | None = None  # monotonic seconds
        self.policy_fault = ""

    def heard(self, answered: bool) -> None:
        """A call came to its end."""
        if answered:
            self.silent_since = None
        elif self.silent_since is None:
            self.silent_since = time.monotonic()

    def is_fresh(self) -> bool:
        """Whether its policy was read so lately that it is what the endpoint would say now."""
        read = self.policy_read
        return read is not None and not self.policy_fault and time.monotonic() - read < FRESH_S

    def learned(self, found: Policy | Unreadable | Failure) -> None:
        """What asking for its policy brought. One that cannot be read leaves the last in force."""
        if isinstance(found, Policy):
            if found != self.policy:
                log.info("%s takes %s", self.name, told(found))
            self.policy, self.policy_read, self.policy_fault = found, time.monotonic(), ""
            return
        fault = found.why if isinstance(found, Unreadable) else found.detail
        if not self.policy_fault:
            log.warning("%s: its policy cannot be read: %s", self.name, fault)
        self.policy_fault = fault


class Work:
    """The requests of one `broadcast`, and what was said so far."""

    def __init__(
        self,
        requests: Sequence[BroadcastRequest],
        endpoints: Sequence[Endpoint],
        known: Mapping[Txid, str],
        attempts: int,
    ) -> None:
        self.requests = requests
        names = [endpoint.name for endpoint in endpoints]
        self.done = asyncio.Event()  # every request has succeeded: no further reply changes anything
        self.replies: dict[str, dict[Txid, Reply]] = {name: {} for name in names}
        self.asked = dict.fromkeys(names, 0)
        self._endpoints = names
        self._sizes: dict[Txid, Measure | None] = {}
        self._unfit: list[dict[str, Objection]] = [{} for _ in requests]
        self._known = known
        self._attempts = attempts
        self._open = set(range(len(requests)))
        for endpoint in endpoints:
            self._weigh(endpoint)
        self._check()

    def step(self, number: int, counting: Sequence[str] = ()) -> Success | Refused | Waits | AskAgain:
        """The rule's word on a request, by its place, as things stand.

        counting: endpoints that count; empty for all.
        """
        unfit = {
            name: "network.undecided" if found.own else "network.orphan" for name, found in self._unfit[number].items()
        }
        return decide(
            self.requests[number],
            counting or self._endpoints,
            self.replies,
            self._known,
            self.asked,
            self._attempts,
            unfit,
        )

    def fits(self, number: int, name: str) -> bool:
        """Whether the endpoint may take the family, by its policy."""
        return name not in self._unfit[number]

    def objecting(self) -> set[str]:
        """Endpoints that were passed over for a request which found no acceptance."""
        return {name for number in self._open for name in self._unfit[number]}

    def read_anew(self, endpoint: Endpoint) -> None:
        """Judge by a policy that was just read: what it still would not take it has refused."""
        assert endpoint.policy is not None
        self._weigh(endpoint)
        refused = {}
        for number in self._open:
            found = self._unfit[number].get(endpoint.name)
            txid = self.requests[number].txid
            said = self.replies[endpoint.name].get(txid)  # where another request brought it there: its own word stands
            if found is not None and found.own and (said is None or said.kind not in ANSWERS):
                refused[txid] = word(txid, found.code, endpoint.policy)
        self.heard(endpoint.name, refused)

    def _weigh(self, endpoint: Endpoint) -> None:
        """Whom of the open requests its policy would refuse."""
        for number in self._open:
            self._unfit[number].pop(endpoint.name, None)
            if endpoint.policy is not None and (found := self._objection(self.requests[number], endpoint.policy)):
                self._unfit[number][endpoint.name] = found

    def _objection(self, request: BroadcastRequest, policy: Policy) -> Objection | None:
        sizes = {m.txid: size for m in request.unmined if m.txid not in self._known and (size := self._size(m))}
        subject = sizes.pop(request.txid, None)
        return None if subject is None else objection(policy, subject, tuple(sizes.values()))

    def _size(self, member: Unmined) -> Measure | None:
        if member.txid not in self._sizes:
            self._sizes[member.txid] = measure(member.ef)
        return self._sizes[member.txid]

    def wanted(self, name: str) -> set[Txid]:
        """What is still to be asked of an endpoint."""
        steps = (self.step(number) for number in self._open)
        return {txid for step in steps if isinstance(step, AskAgain) for txid in step.calls.get(name, ())}

    def heard(self, name: str, replies: Mapping[Txid, Reply]) -> None:
        """Take down what an endpoint said."""
        self.replies[name].update(replies)
        self._check()

    def unanswered(self) -> list[int]:
        """Places of requests about whose subject no endpoint said anything."""
        return [number for number in sorted(self._open) if not self._answered(self.requests[number].txid)]

    def _answered(self, txid: Txid) -> bool:
        return any(said[txid].kind in ANSWERS for said in self.replies.values() if txid in said)

    def _check(self) -> None:
        self._open = {number for number in self._open if not isinstance(self.step(number), Success)}
        if not self._open:
            self.done.set()
