"""Contexts repeat their votes on operations that nobody has decided, as long as that lasts (ATOMIC-2)."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping

import msgspec

from agents.runtime.outbox import Outbox
from agents.runtime.records import Out
from agents.runtime.shelf import Readable
from pipeline import state
from pipeline.state import APPLIED_KEY, Corrupt, View
from schemas.operations import VOTE
from schemas.state import AppliedOffset, Prepared
from topics.registry import VOTES

log = logging.getLogger(__name__)

_applied = msgspec.msgpack.Decoder(AppliedOffset).decode
_prepared = msgspec.msgpack.Decoder(Prepared).decode


async def repeat_votes(
    stores: Mapping[int, Readable], spoil: Callable[[int, Corrupt], None], outbox: Outbox, every_s: float
) -> None:
    """Until cancelled. stores: copies of others' partitions among them; spoil: has one made again that differs."""
    while True:
        await asyncio.sleep(every_s)
        before_ms = int((time.time() - every_s) * 1000)
        for number, held in list(stores.items()):
            # A copy's context votes where it is owned; what was given back while others' votes were sent may be closed.
            if not held.owner or stores.get(number) is not held:
                continue
            try:
                votes = list(undecided_votes(held.store, before_ms))
            except Corrupt as error:
                log.error("a store is not what was written: %s", error, extra={"partition": number})
                if stores.get(number) is held:
                    spoil(number, error)
                continue
            await outbox.send([(vote, None) for vote in votes])


def undecided_votes(store: View, before_ms: int) -> Iterator[Out]:
    """Votes of a partition's contexts on what came before then (Unix milliseconds) and nobody has decided."""
    stored = store.get(APPLIED_KEY)
    contexts = _applied(stored[32:]).undecided if stored is not None else ()
    for context in contexts:
        for key in list(store.keys_with(state.key(context, state.PREPARED, b""))):
            if (entry := store.get(key)) is None:
                continue
            prepared = _prepared(entry[32:])
            if prepared.stood.timestamp_ms < before_ms:
                operation = bytes.fromhex(prepared.operation.operation)
                yield Out(VOTES, operation, VOTE.encode(prepared.vote))
