"""Topic managers that are not ours: each in a process of its own, with a time limit and a memory ceiling (TOPIC-1).

That holds against what goes wrong by itself: a rule that loops, eats memory, crashes an extension or leaves something
behind in its process. It is no wall against somebody who means harm: the process runs as the worker's user.
"""

import os
import signal
import sys
from collections.abc import Callable

import msgspec
from msgspec import Struct

from agents.runtime.child import Child, Ended
from agents.runtime.manager_child import OUT_OF_MEMORY, Ask, Down, Facts, Judged, Raised, Up
from agents.runtime.records import ManagerFailed
from pipeline.overlay.manager import EXAMINES, BadManager, Subject, Transaction
from schemas.external import Admittance

START_S = 30.0
"""For a process to come up when the worker starts: it takes a fifth of a second, and whatever the manager imports."""

GRACE_S = 0.25
"""Beyond the limit: the child's own clock ends it, and whoever waits sees how."""

ANSWER_BYTES = 32 << 20
"""An admittance of as many outputs as a payload may hold is smaller."""

_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
"""Of the environment: what an interpreter and its extensions need. Settings and ways to passwords are not theirs."""

_up = msgspec.msgpack.Decoder(Up | Down)
_answer = msgspec.msgpack.Decoder(Judged | Facts | Raised)


class Place(Struct, frozen=True):
    """Where a manager is, and what its process may take."""

    topic: str
    path: str  # package.module:Class
    memory_bytes: int
    limit_s: float  # an answer

    def open(self) -> Child:
        """A process, which is not up yet."""
        paths = [os.path.abspath(path) for path in sys.path]  # noqa: PTH100 - the empty one is the folder we are in
        environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
        # Sets of text have one order then, on every machine: a rule that fell for it still gives one answer.
        environment |= {"PYTHONPATH": os.pathsep.join(paths), "PYTHONHASHSEED": "0"}
        limit_ms = round(self.limit_s * 1000)
        arguments = [str(self.memory_bytes), str(limit_ms), self.topic, self.path]
        return Child("agents.runtime.manager_child", arguments, environment, "-P", most=ANSWER_BYTES)

    def greeting(self, body: bytes) -> Up:
        """A process's first frame.

        Raises:
            BadManager: it cannot load the manager.
        """
        try:
            said: Up | Down = _up.decode(body)
        except msgspec.MsgspecError as error:
            raise BadManager(f"{self.topic}: {self.path} says nothing that can be read: {error}") from error
        if isinstance(said, Down):
            raise BadManager(said.why)
        return said

    def not_up(self, error: Ended | TimeoutError) -> BadManager:
        """Why there is no first frame."""
        why = f"its process: {error}" if isinstance(error, Ended) else "its process does not come up"
        return BadManager(f"{self.topic}: {self.path} does not load: {why}")

    def failed(self, error: Ended | TimeoutError) -> ManagerFailed:
        """Why there is no answer."""
        limit = f"{self.limit_s * 1000:.0f} ms"
        if isinstance(error, TimeoutError) or error.status == -signal.SIGALRM:
            return ManagerFailed("internal.manager-overran", f"{self.topic}: no answer within {limit}", self.limit_s)
        if error.status == OUT_OF_MEMORY:
            ceiling = f"{self.memory_bytes >> 20} MiB"
            return ManagerFailed("internal.manager-ended", f"{self.topic}: its process needs more than {ceiling}")
        return ManagerFailed("internal.manager-ended", f"{self.topic}: its process: {error}")

    def answer(self, body: bytes) -> Judged | Facts:
        """A frame.

        Raises:
            ManagerFailed: the manager raised, or what came is no answer.
        """
        try:
            said: Judged | Facts | Raised = _answer.decode(body)
        except msgspec.MsgspecError as error:
            raise ManagerFailed(
                "internal.manager-ended", f"{self.topic}: its process answers what is none: {error}"
            ) from error
        if isinstance(said, Raised):
            raise ManagerFailed("internal.manager-raised", f"{self.topic}: {said.what}", said.took_s)
        return said


class NotUp(Exception):  # noqa: N818 - the state of a process
    """A manager's process does not come up again: no record is to blame."""


class Foreign:
    """A manager in a process, asked by who holds everything up meanwhile: no longer than the limit allows.

    A process that was ended is replaced at once, and waited for when it is needed next.
    """

    contract = EXAMINES

    def __init__(self, place: Place) -> None:
        """The process is started, and not waited for: `begin` does."""
        self._place = place
        self._child = place.open()
        self._up: Up | None = None  # what the process at hand has loaded, once it is up
        self._first: Up | None = None
        self._dying: list[Child] = []
        self.version = ""
        self.took_s = (
            0.0  # what was asked last, by the process's own clock: waiting for a busy machine is not its doing
        )
        self.examine: Callable[[Transaction], bytes] | None = None

    def begin(self) -> None:
        """Wait for the process.

        Raises:
            BadManager: the manager cannot be loaded.
        """
        try:
            self._first = self._up = self._place.greeting(self._child.next(START_S))
        except (Ended, TimeoutError) as error:
            raise self._place.not_up(error) from error
        self.version = self._first.version
        self.examine = self._examine if self._first.examines else None

    def come_up(self) -> None:
        """Have a process that is up: at once, but after one was ended.

        Raises:
            NotUp: it takes longer than an answer may, or loads another manager than the one the worker began with.
        """
        if self._up is not None:
            return
        try:
            up = self._place.greeting(self._child.next(self._place.limit_s))
        except TimeoutError:
            raise NotUp("its process takes long to come up") from None  # the same one may be up at the next try
        except (Ended, BadManager) as error:
            self._replace()
            raise NotUp(str(error)) from error
        if up != self._first:
            self._replace()
            raise NotUp(f"its code changed under the running worker, to version {up.version!r}: start it anew")
        self._up = up

    def admit(self, subject: Subject) -> Admittance:
        """What the manager says. Raises ManagerFailed."""
        said = self._ask(
            Ask(
                subject.txid,
                subject.raw,
                tuple(subject.sources),
                subject.off_chain_values,
                subject.previous_coins,
                subject.facts,
            )
        )
        if not isinstance(said, Judged):
            raise ManagerFailed("internal.manager-ended", f"{self._place.topic}: its process answers another question")
        return said.admittance

    def _examine(self, transaction: Transaction) -> bytes:
        said = self._ask(
            Ask(transaction.txid, transaction.raw, tuple(transaction.sources), transaction.off_chain_values)
        )
        if not isinstance(said, Facts):
            raise ManagerFailed("internal.manager-ended", f"{self._place.topic}: its process answers another question")
        return said.examined.facts

    def _ask(self, asked: Ask) -> Judged | Facts:
        try:
            said = self._answered(asked)
        except ManagerFailed as error:
            self.took_s = error.took_s
            if error.code != "internal.manager-raised":
                self._replace()
            raise
        self.took_s = said.took_s
        return said

    def _answered(self, asked: Ask) -> Judged | Facts:
        try:
            body = self._child.ask(msgspec.msgpack.encode(asked), self._place.limit_s + GRACE_S)
        except (Ended, TimeoutError) as error:
            raise self._place.failed(error) from error
        return self._place.answer(body)

    def _replace(self) -> None:
        self._child.let_go()
        self._dying = [child for child in (*self._dying, self._child) if not child.reaped()]
        self._child, self._up = self._place.open(), None

    def close(self) -> None:
        """End the process."""
        for child in (*self._dying, self._child):
            child.close()
