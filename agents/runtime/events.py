"""Events for operators, written beside a stage's own output."""

import asyncio
import time
from typing import Any

from agents.runtime.outbox import Outbox
from agents.runtime.records import Out
from pipeline.results import rfc3339
from schemas.external import EVENT, Event, Severity
from topics.registry import EVENTS


def event_out(kind: str, subject: str, severity: Severity, message: str, details: dict[str, Any]) -> Out:
    """An event as a record."""
    event = Event(
        kind=kind,
        subject=subject,
        severity=severity,
        message=message,
        details=details,
        time=rfc3339(int(time.time() * 1000)),
    )
    return Out(EVENTS, subject.encode(), EVENT.encode(event))


class Events:
    """A stage's events: told at once, written in their order."""

    def __init__(self, stage: str, outbox: Outbox) -> None:
        self._stage = stage
        self._outbox = outbox
        self._waiting: asyncio.Queue[Out] = asyncio.Queue()

    def tell(self, kind: str, severity: Severity, message: str, details: dict[str, Any]) -> None:
        """Something an operator may want to know."""
        self._waiting.put_nowait(event_out(kind, self._stage, severity, message, details))

    async def run(self) -> None:
        """Write them, until cancelled."""
        while True:
            out = await self._waiting.get()
            await self._outbox.send([(out, None)])
