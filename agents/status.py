"""status: where a transaction stands with the network, decided from the news, and told; exactly once."""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from aiohttp import web
from msgspec import Struct, msgpack

from agents import metrics
from agents.runtime.anchors import Anchors
from agents.runtime.callbacks import Callbacks
from agents.runtime.chain_watch import ChainWatch
from agents.runtime.desk import Teller
from agents.runtime.endpoint_settings import BroadcastSettings
from agents.runtime.endpoints import Endpoints
from agents.runtime.headers import HeaderSettings, Reorganised
from agents.runtime.http import HttpSettings, Transport
from agents.runtime.looker import Looker
from agents.runtime.outbox import Outbox
from agents.runtime.outcomes import accepted_headers, result_out
from agents.runtime.partition import Decided, Heads, Keeps
from agents.runtime.records import Emit, Fault, Inbound, Out
from agents.runtime.shelf import Readable
from agents.runtime.sparing import Sparing
from agents.runtime.trackers import TrackerSettings
from pipeline import results
from pipeline.follow import Form, Keyed
from pipeline.network import UNKNOWN, Step, Tell, Times, hear
from pipeline.outcome import Verdict
from pipeline.results import About, network_id
from pipeline.state import Corrupt, Layer, View
from schemas.flow import OPERATION, Accept, Evict, Operation, Readmit
from schemas.network import NEWS, NetworkStatus, Outdone
from schemas.types import Txid, display, why
from schemas.wire import Undecodable
from topics.registry import (
    DEAD_LETTERS,
    NETWORK_NEWS,
    NETWORK_STATUS,
    OPERATIONS,
    RESULTS,
    TRANSACTIONS,
    Topic,
)

_encode = msgpack.Encoder().encode
_decode = msgpack.Decoder(NetworkStatus).decode


class StatusSettings(Struct, frozen=True):
    """How the network's word is settled."""

    settle_s: Annotated[
        float,
        why("From a refusal to the second look: an acceptance that is on its way arrives within seconds.", gt=0),
    ] = 30.0
    unseen_s: Annotated[
        float,
        why("From an acceptance to the look whether the network has it; endpoints send again after 60 s.", gt=0),
    ] = 60.0
    unmined_s: Annotated[
        float,
        why("From when it was seen to the look whether it is mined: two blocks. Doubled each time, up to 4 h.", gt=0),
    ] = 1200.0
    watch_s: Annotated[
        float,
        why("How often trackers are asked for their tips: a replaced block is noticed when they show another.", gt=0),
    ] = 30.0
    looks: Annotated[int, why("Transactions looked up at once; each is a call to every endpoint.", ge=1)] = 16


class Status(Keeps):
    """The stage."""

    name = "status"
    inputs: tuple[Topic, ...] = (NETWORK_NEWS,)
    outputs: tuple[Topic, ...] = (NETWORK_NEWS, OPERATIONS, TRANSACTIONS, RESULTS, DEAD_LETTERS)
    changelog = NETWORK_STATUS
    form: Form = Keyed()
    went_well: tuple[str, ...] = ("accepted", "refused", "heard")

    def __init__(
        self,
        settings: StatusSettings,
        broadcast: BroadcastSettings,
        http: HttpSettings,
        trackers: TrackerSettings | None = None,
        headers: HeaderSettings | None = None,
        data_dir: str = ".",
    ) -> None:
        """What it waits for, and whom it asks.

        headers, data_dir: of the header follower, where `trackers.follower` wants one.

        Raises:
            ValueError: the token of callbacks is empty.
            OSError: it cannot be read.
        """
        self._times = Times(
            int(settings.settle_s * 1000), int(settings.unseen_s * 1000), int(settings.unmined_s * 1000)
        )
        folder = Path(data_dir, self.name, "headers")
        self._chain = ChainWatch(
            self.name, trackers or TrackerSettings(), headers or HeaderSettings(), folder, self._reorganised
        )
        anchors = Anchors(self._chain)
        self._callbacks = Callbacks(broadcast.callback_token_file)
        self._watch_s = settings.watch_s
        self._sparing = Sparing()
        self._broadcast = broadcast
        self._transport = Transport(http)
        self._endpoints: Endpoints | None = None
        self._looker = Looker(settings.looks, anchors)

    async def start(self) -> None:
        """Open connections."""
        metrics.register_network(self.name)
        await self._transport.__aenter__()
        self._endpoints = Endpoints(self._broadcast, self._transport)
        await self._chain.start(self._transport)

    async def stop(self) -> None:
        """Close them."""
        if self._endpoints is not None:
            await self._endpoints.close()
        await self._chain.stop()
        await self._transport.__aexit__(None, None, None)

    def beside(
        self, stores: Mapping[int, Readable], spoil: Callable[[int, Corrupt], None], outbox: Outbox
    ) -> Sequence[Coroutine[Any, Any, None]]:
        """Endpoints are asked where transactions stand whose time has come."""
        assert self._endpoints is not None
        self._callbacks.outbox, self._callbacks.names = outbox, self._endpoints.names
        return self._looker.run(stores, spoil, self._endpoints, outbox), self._chain.watch(self._watch_s)

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Endpoints call back."""
        self._callbacks.add_to(router)

    def tell_to(self, teller: Teller) -> None:
        """Who writes events of this stage. Before `start`."""
        self._chain.tell_to(teller)
        self._sparing = Sparing(teller)

    def _reorganised(self, found: Reorganised) -> None:
        self._looker.reorganised(found.height)

    def compute(self, record: Inbound, layer: Layer, heads: Heads, now_ms: int) -> Decided:
        """What news about a transaction comes to."""
        try:
            news = NEWS.decode(record.value, record.headers)
        except Undecodable as error:
            return Decided(Fault(error.code, error.message))
        txid = record.key or b""
        if len(txid) != 32:
            return Decided(Fault("internal.undecodable", f"the key of news is a txid, not {txid!r}"))
        step = hear(standing(layer, txid), news, now_ms, self._times)
        layer.put(txid, _encode(step.status))
        self._note(record.partition, txid, step, now_ms)
        self._alert(txid, step)
        if step.status.look_ms:
            self._looker.due(record.partition, step.status.look_ms, txid)
        return Decided(Emit(_outs(txid, step, now_ms), step.status.decided or "heard"))

    def _alert(self, txid: Txid, step: Step) -> None:
        """What an operator may want to look at: what was taken is refused by another, or contested."""
        status = step.status
        if not step.result or status.decided != "accepted":
            return
        name = display(txid)
        for word in status.words:
            details = {"txid": name, "endpoint": word.endpoint, "status": word.status, "message": word.message}
            if word.kind == "refused":
                message = f"{word.endpoint} refuses what {status.endpoint} accepted: {name}"
                self._sparing.tell("endpoint-disagrees", word.endpoint, "warning", message, details)
            elif word.competing:
                message = f"{word.endpoint} knows another transaction that spends what {name} spends"
                self._sparing.tell("double-spend-attempted", word.endpoint, "warning", message, details)

    def _note(self, partition: int, txid: Txid, step: Step, now_ms: int) -> None:
        status = step.status
        self._looker.unresolved.note(partition, txid, status)
        if step.result:
            metrics.DECIDED.labels(self.name, status.decided).inc()
            if status.revision == 1 and status.decided == "accepted" and status.origin is not None:
                waited_s = (now_ms - status.origin.timestamp_ms) / 1000
                metrics.FIRST_ACCEPTED_SECONDS.labels(self.name).observe(max(0.0, waited_s))

    def left(self, partition: int) -> None:
        """Who owns it next looks."""
        self._looker.forget(partition)


def standing(view: View, txid: Txid) -> NetworkStatus:
    """Where a transaction stands."""
    stored = view.get(txid)
    return UNKNOWN if stored is None else _decode(stored[32:])


def _outs(txid: Txid, step: Step, now_ms: int) -> list[Out]:
    status = step.status
    outs = [
        Out(OPERATIONS, context.encode(), OPERATION.encode(_operation(txid, tell, status)))
        for tell in step.tells
        for context in tell.contexts
    ]
    if step.result and status.origin is not None:
        about = About(status.origin, status.request_ids, txid, None, len(status.contexts))
        if status.decided == "accepted":
            result = results.accepted(about, status.endpoint, now_ms, status.revision)
        else:
            verdict = Verdict(status.code, status.message)
            result = results.refused(about, verdict, status.endpoint, now_ms, status.revision, status.competing)
        outs.append(result_out(result))
    if step.block and status.origin is not None:
        about = About(status.origin, status.request_ids, txid, None, len(status.contexts))
        told = results.in_block(about, step.block, status.height, status.root, now_ms, status.endpoint, status.revision)
        outs.append(result_out(told))
    if step.ef:
        headers = accepted_headers(status.endpoint, status.contexts, status.request_ids)
        outs.append(Out(TRANSACTIONS, txid, step.ef, headers))
    if step.outdoes:
        heard = NEWS.encode(Outdone(txid, bool(status.path)))
        outs += [Out(NETWORK_NEWS, rival, heard) for rival in step.outdoes]
    return outs


def _operation(txid: Txid, tell: Tell, status: NetworkStatus) -> Operation:
    name = f"{tell.word}:{network_id(txid)}:{status.revision}"
    match tell.word:
        case "accept":
            return Accept(name, (txid,), status.endpoint)
        case "evict":
            return Evict(name, txid, status.code, status.message, status.competing)
        case "readmit":
            return Readmit(name, txid)
