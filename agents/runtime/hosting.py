"""Overlay topics that are hosted: their managers, in this process or in ones of their own, and how each stands."""

from collections.abc import Callable, Mapping
from typing import Annotated, TypeVar

from msgspec import Struct

from agents.runtime.desk import Teller
from agents.runtime.foreign import Foreign, NotUp, Place
from agents.runtime.records import Held, ManagerFailed
from agents.runtime.standing import RAISED, Limits, Standing, Turn
from pipeline.overlay.manager import BadManager, Subject, TopicManager, Transaction, examiner, make, places
from schemas.external import Admittance
from schemas.types import why

Q = TypeVar("Q")
A = TypeVar("A")

OWN = ("ops.", "pipeline.")
"""Packages whose managers come with the product."""

FAILURES = 10
"""In a row, before a context is suspended: as many as halt a stage. They cost neighbours nothing."""


class ApplySettings(Struct, frozen=True):
    """Which overlay topics are hosted, and what their managers may take."""

    topics: Annotated[
        tuple[str, ...],
        why("Overlay topics hosted here: `tm_x` from an installed package, or `tm_x=package.module:Class`."),
    ] = ("tm_anytx", "tm_helloworld", "tm_tokendemo", "tm_uhrp")
    broadcast_always: Annotated[
        tuple[str, ...], why("Overlay topics whose transactions go to the network even when nothing was admitted.")
    ] = ()
    trusted: Annotated[
        tuple[str, ...],
        why(
            "Overlay topics whose managers run in the worker's own process: a tenth of a millisecond less a record, "
            "and nothing ends one that hangs or takes the worker's memory. The product's own always do."
        ),
    ] = ()
    judge_ms: Annotated[
        float,
        why(
            "What a judgement may take. All of its partition waits for it, and for a moment all of its worker: "
            "at 50 ms a context does 20 records a second and no more.",
            gt=0,
        ),
    ] = 50.0
    judge_limit_ms: Annotated[
        float,
        why(
            "A judgement in a process of its own is ended after so long, and costs the record. Far above `judge_ms`: "
            "below it, the machine may be what was slow, and the answer counts.",
            gt=0,
        ),
    ] = 1000.0
    judge_memory_bytes: Annotated[
        int, why("Address space of a manager's process, its 100 MB at rest included.", ge=128 << 20)
    ] = 512 << 20
    vote_again_s: Annotated[
        float,
        why(
            "How often a context repeats its vote on an operation over several that nobody has decided: votes are not "
            "lost, so this is for what should not happen.",
            gt=0,
        ),
    ] = 30.0
    piece_ms: Annotated[
        float,
        why(
            "Judging in one piece of work, as far as it can be cut: all other partitions of the process wait for it, "
            "and it is much longer than a transaction of Kafka's costs.",
            gt=0,
        ),
    ] = 200.0
    suspend_after: Annotated[
        int,
        why(
            "Overruns of `judge_ms` in a row that suspend a context: one is a busy machine, three are the rule.",
            ge=1,
        ),
    ] = 3
    probe_after_s: Annotated[
        float,
        why(
            "A suspended context's next record is tried after so long, and after twice as long each time it takes too "
            "long again, up to ten minutes: what waits meanwhile comes back every 10 s at first.",
            gt=0,
        ),
    ] = 10.0


class Judge:
    """A topic's manager as apply's rules ask it: measured, held back while it is suspended, its failures by codes."""

    def __init__(self, manager: TopicManager, standing: Standing) -> None:
        self.standing = standing
        self.version = manager.version
        self.contract = getattr(manager, "contract", None)
        self.examine = self._examine if examiner(manager) is not None else None
        self._manager = manager
        self._foreign = manager if isinstance(manager, Foreign) else None
        self._turn = Turn(standing)

    def turn(self) -> Turn:
        """The piece of work that judgements belong to from here on."""
        self._turn = self.standing.turn()
        return self._turn

    def admit(self, subject: Subject) -> Admittance:
        """What the manager says.

        Raises:
            Held: the context is suspended, by now if not before.
            ManagerFailed: it failed on the subject.
        """
        return self._ask(self._manager.admit, subject)

    def _examine(self, transaction: Transaction) -> bytes:
        asked = examiner(self._manager)
        assert asked is not None
        return self._ask(asked.examine, transaction)

    def _ask(self, method: Callable[[Q], A], about: Q) -> A:
        turn, clock = self._turn, self.standing.clock
        turn.ask()
        if self._foreign is not None:
            try:
                self._foreign.come_up()
            except NotUp as error:
                self.standing.suspend(str(error))
                raise Held(self.standing.hold()) from error
        began = clock()
        try:
            return method(about)
        except ManagerFailed:
            raise
        except (Exception, SystemExit) as error:
            raise ManagerFailed(RAISED, f"{self.standing.topic}: {type(error).__name__}: {error}") from error
        finally:
            turn.took(clock() - began if self._foreign is None else self._foreign.took_s)


class Hosted:
    """The topics of a stage that judges."""

    def __init__(self, stage: str, settings: ApplySettings, failures: int = FAILURES) -> None:
        """Load managers of our own and trusted ones, and start the others' processes.

        Raises:
            BadManager: one cannot be loaded.
        """
        limits = limits_of(settings, failures)
        self.judges: dict[str, Judge] = {}
        self._foreign: list[Foreign] = []
        try:
            for topic, manager in self._managers(settings).items():
                self.judges[topic] = Judge(manager, Standing(stage, topic, limits))
        except BaseException:
            self.close()
            raise

    def _managers(self, settings: ApplySettings) -> Mapping[str, TopicManager]:
        found = places(settings.topics)
        apart = foreign_of(found, settings)
        for place in apart.values():  # they come up side by side
            self._foreign.append(Foreign(place))
        managers = {topic: make(topic, path) for topic, path in found.items() if topic not in apart}
        for topic, manager in zip(apart, self._foreign, strict=True):
            manager.begin()
            managers[topic] = manager
        return managers

    def tell_to(self, teller: Teller) -> None:
        """Who writes events."""
        for judge in self.judges.values():
            judge.standing.tell = teller

    def lift(self) -> None:
        """Let every suspended context go on."""
        for judge in self.judges.values():
            judge.standing.lift()

    def close(self) -> None:
        """End the processes."""
        for manager in self._foreign:
            manager.close()


def limits_of(settings: ApplySettings, failures: int) -> Limits:
    """What managers are held to."""
    return Limits(
        settings.judge_ms / 1000, settings.suspend_after, failures, settings.probe_after_s, settings.piece_ms / 1000
    )


def foreign_of(found: Mapping[str, str], settings: ApplySettings) -> dict[str, Place]:
    """Of topics and where their managers are, those that run in processes of their own.

    Raises:
        BadManager: a topic is trusted that is not hosted.
    """
    if strange := sorted(set(settings.trusted) - found.keys()):
        raise BadManager(f"apply.trusted names {', '.join(strange)}, which apply.topics does not host")
    return {
        topic: Place(topic, path, settings.judge_memory_bytes, settings.judge_limit_ms / 1000)
        for topic, path in found.items()
        if topic not in settings.trusted and not path.startswith(OWN)
    }
