"""What a fault scenario is: asked for by its name, and what it comes to."""

from collections.abc import Awaitable, Callable

from msgspec import Struct

from ops.instruments.audit.report import Report

Say = Callable[[str], None]


class Asked(Struct, frozen=True):
    """How much of a scenario somebody wants."""

    records: int  # payloads, or operations where apply is alone
    faults: int
    rate: float  # records a second
    seed: int = 0
    flags: tuple[str, ...] = ()  # settings that win
    say: Say = lambda _: None


class Outcome(Struct, frozen=True):
    """What a scenario came to."""

    name: str
    payloads: int  # or operations
    faults: int
    restarts: int
    seconds: float
    report: Report
    figures: tuple[str, ...] = ()  # what was measured on the way, a line each


class Scenario(Struct, frozen=True):
    """A row of the table of scenarios."""

    says: str
    run: Callable[[str, Asked], Awaitable[Outcome]]
    payloads: int  # of the long form
    faults: int
    rate: float  # records a second; 0 where they are sent as quickly as it goes
