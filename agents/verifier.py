"""The verifier by itself: bytes in, an outcome out, for callers that wait (the CLI, and others' programs).

The same two steps as in the stages, with what waits between them: trackers asked, scripts run in the sandbox.
"""

import asyncio
import atexit
import threading
from collections.abc import Collection, Coroutine, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Protocol, Self, TypeVar

from msgspec import Struct

from agents.runtime.pool import BusyError
from agents.runtime.remembered import Remembered
from agents.runtime.sandbox import Sandbox, SandboxSettings
from pipeline.ancestors import resolved
from pipeline.chain.answer import Answer, RootAt, Tip
from pipeline.outcome import BY_CODE, Condition, Verdict
from pipeline.parse import Payload, parse
from pipeline.policy import Policy
from pipeline.script.engine import ScriptJob
from pipeline.verify import ScriptResults, Valid, plan, verify
from schemas.types import display

T = TypeVar("T")


class Extended(Struct, frozen=True):
    """A transaction as the network wants it."""

    txid: str  # display hex
    hex: str  # Extended Format (BRC-30)


class Outcome(Struct, frozen=True, kw_only=True):
    """What the verifier says of a payload. `valid` says nothing about coins spent elsewhere."""

    outcome: Literal["valid", "invalid", "indeterminate"]
    code: str | None = None  # class.detail, e.g. script.false; None when valid
    message: str | None = None
    at: str | None = None  # where in the payload: "tx 3 input 0", "byte 217"
    txid: str | None = None  # of the subject, display hex, as far as it can be told
    unmined: int | None = None  # transactions that no proof covers
    fee_sat: int | None = None  # satoshis, of a valid subject whose coins are all known
    ef: tuple[Extended, ...] | None = None  # of each un-mined transaction, ancestors first, when valid


class Tracker(Protocol):
    """Who knows the chain. `RootTable` is one, `Services` another; any object with these two methods will do."""

    def tip(self) -> Tip | None:
        """The best header; None when it is not known."""
        ...

    def ask(self, roots: Collection[RootAt]) -> Mapping[RootAt, Answer]:
        """The word on each root; one that is left out is unknown."""
        ...


class NoAnswerError(Exception):
    """A tracker could not be asked. What is indeterminate for that says so by this code.

    code: a condition of pipeline/outcome.py's CODES.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Loop:
    """An event loop on a thread of its own, for what waits on behalf of callers that are not async."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="beefline", daemon=True)
        self._thread.start()

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` there, and wait for what comes of it."""
        task = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return task.result()
        except BaseException:
            task.cancel()  # of a caller who was interrupted
            raise

    def close(self) -> None:
        """Stop it. Nothing may be under way."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Verifier:
    """Judges payloads, one after the other or from several threads, which wait for one another's scripts.

    The script child is started when first needed.
    """

    def __init__(
        self,
        policy: Policy = Policy(),  # noqa: B008 - frozen
        sandbox: SandboxSettings = SandboxSettings(processes=1, max_waiting=1 << 30),  # noqa: B008 - frozen
        *,
        remember_bytes: int = 0,
    ) -> None:
        """Say what to judge by, and how much to remember.

        remember_bytes: of payloads found valid, and 300 for each of their transactions; the least recently used leave
            first. Where `policy.txid_only` is `resolve`, ancestors that are named by their txid alone are looked for
            there, and nowhere else; what is found is judged again with the payload.
        """
        self._policy = policy
        self._remembered = Remembered(remember_bytes)
        self._remembers = remember_bytes > 0 and policy.txid_only == "resolve"
        self._settings = sandbox
        self._loop: Loop | None = None
        self._sandbox: Sandbox | None = None
        self._starting = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the script child."""
        with self._starting:
            if self._loop is not None and self._sandbox is not None:
                self._loop.wait(self._sandbox.stop())
                self._loop.close()
            self._loop = self._sandbox = None

    def verify(self, payload: bytes, tracker: Tracker) -> Outcome:
        """Judge one payload: BEEF V1, V2 or Atomic, as bytes. Never raises for what they hold.

        tracker: who knows the chain; it is asked about each (height, root) once, and not where there is no need.
        Cost: bounded by the policy: bytes, transactions, `script_budget_ms`; and the tracker's own time.

        Raises:
            SandboxFault: a script child failed through no fault of the scripts.
        """
        found = parse(payload, self._policy)
        if isinstance(found, Verdict):
            return refused(found)
        parsed = resolved(found, self._remembered.find(found.missing), self._policy) if found.missing else found
        if isinstance(parsed, Verdict):
            return refused(parsed, found)
        try:
            tip, silent = tracker.tip(), None
        except NoAnswerError as error:
            tip, silent = None, error
        planned = plan(parsed, self._policy, tip)
        if isinstance(planned, Verdict):
            return refused(planned, parsed)
        answers: Mapping[RootAt, Answer] = {}
        if silent is None:
            try:
                answers = tracker.ask(planned.roots)
            except NoAnswerError as error:
                silent = error
        try:
            scripts = self._run(planned.jobs)
        except BusyError as error:
            return refused(Condition("script.busy", str(error)), parsed)
        said = verify(parsed, answers, scripts, tip, self._policy, planned)
        if isinstance(said, Valid):
            if self._remembers:
                self._remembered.keep(parsed.canonical())
            return _accepted(said)
        if silent is not None and isinstance(said, Condition):
            return refused(Condition(silent.code, str(silent)), parsed)
        return refused(said, parsed)

    def _run(self, jobs: Sequence[ScriptJob]) -> ScriptResults:
        if not jobs:
            return {}
        with self._starting:
            if self._loop is None or self._sandbox is None:
                loop, sandbox = Loop(), Sandbox(self._policy, self._settings)
                try:
                    loop.wait(sandbox.start())
                except BaseException:
                    loop.close()
                    raise
                self._loop, self._sandbox = loop, sandbox
            loop, sandbox = self._loop, self._sandbox
        return loop.wait(sandbox.run(jobs))


def refused(said: Verdict | Condition, payload: Payload | None = None) -> Outcome:
    """A verdict or a condition as an outcome."""
    return Outcome(
        outcome="invalid" if isinstance(said, Verdict) else "indeterminate",
        code=said.code,
        message=said.message or BY_CODE[said.code].meaning,
        at=said.at or None,
        txid=display(payload.subject.txid) if payload else None,
        unmined=len(payload.unmined) if payload else None,
    )


def _accepted(valid: Valid) -> Outcome:
    return Outcome(
        outcome="valid",
        txid=display(valid.txid),
        unmined=len(valid.payload.unmined),
        fee_sat=valid.fee_sat if valid.fee_sat >= 0 else None,
        ef=tuple(Extended(display(txid), ef.hex()) for txid, ef in valid.extended()),
    )


_kept: dict[Policy, Verifier] = {}
_keeping = threading.Lock()


def verify_payload(payload: bytes, *, tracker: Tracker, policy: Policy = Policy()) -> Outcome:  # noqa: B008 - frozen
    """Judge one payload: `Verifier.verify`, with a script child that is kept until the program ends.

    tracker: who knows the chain. There is no default: whom to believe is the caller's choice.

    Raises:
        SandboxFault: a script child failed through no fault of the scripts.
    """
    with _keeping:
        verifier = _kept.get(policy)
        if verifier is None:
            verifier = _kept[policy] = Verifier(policy)
            atexit.register(verifier.close)
    return verifier.verify(payload, tracker)
