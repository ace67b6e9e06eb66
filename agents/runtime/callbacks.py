"""What endpoints post by themselves: `POST /callback?endpoint=NAME`, each word on Kafka before it is acknowledged."""

import hmac
import logging
import time
from collections.abc import Collection, Mapping

from aiohttp import web
from aiokafka.errors import KafkaError

from agents.runtime.endpoint_settings import read_token
from agents.runtime.endpoints import word_of
from agents.runtime.outbox import Outbox
from agents.runtime.records import Out
from agents.runtime.settings import CALLBACK_PATH
from pipeline.broadcasters import ANSWERS, Means, Reply
from pipeline.broadcasters.arc import STATUSES
from pipeline.broadcasters.table import DIALECTS
from pipeline.broadcasters.words import read_callbacks
from pipeline.http import Unreadable
from pipeline.proof import claim
from schemas.network import NEWS, Heard
from schemas.types import display
from topics.registry import NETWORK_NEWS

log = logging.getLogger(__name__)

NOBODY = "callback"
"""Who said it, where the URL names no endpoint of the settings."""

MOST = 1_000
"""Statuses in one call: ARC sends 50."""


class Callbacks:
    """The route. Without a token nobody is answered."""

    def __init__(self, token_file: str) -> None:
        """token_file: what endpoints were told to show (`X-CallbackToken`); empty takes no callbacks.

        Raises:
            ValueError: the file is empty.
            OSError: it cannot be read.
        """
        self._expected = f"Bearer {read_token(token_file)}".encode() if token_file else None
        self.outbox: Outbox | None = None  # from when the stage runs
        self.names: Collection[str] = ()  # of endpoints: another name is nobody's, and words are kept by name

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Answer there."""
        if self._expected is not None:
            router.add_post(CALLBACK_PATH, self._take)

    async def _take(self, request: web.Request) -> web.Response:
        shown = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        if self._expected is None or not hmac.compare_digest(shown, self._expected):
            return _said(401, "the token that came with the transaction is required")
        if self.outbox is None:
            return _said(503, "the stage starts")
        given = request.query.get("endpoint", "")
        endpoint = given if given in self.names else NOBODY
        replies = read_callbacks(await request.read(), _statuses(endpoint))
        if isinstance(replies, Unreadable):
            return _said(400, replies.why)
        if len(replies) > MOST:
            return _said(400, f"more than {MOST} statuses")
        now_ms = int(time.time() * 1000)
        outs = []
        for reply in replies:
            if reply.kind in ANSWERS:
                heard = Heard((word_of(endpoint, reply, now_ms),), _path(reply))
                outs.append(Out(NETWORK_NEWS, reply.txid, NEWS.encode(heard)))
        try:
            await self.outbox.send([(out, None) for out in outs])
        except KafkaError as error:
            log.warning("a callback is not on Kafka, and will come again: %r", error)
            return _said(503, "not written")
        return web.json_response({"taken": len(outs)})


def _statuses(endpoint: str) -> Mapping[str, Means]:
    """What the names of statuses mean to this endpoint: they are ARC's, and two of Arcade's mean something else."""
    dialect = DIALECTS.get(endpoint.partition("@")[0])
    return STATUSES if dialect is None or dialect.calls_back is None else dialect.calls_back


def _path(reply: Reply) -> bytes:
    """The Merkle path that came along, if it is one of this transaction: whether it is true the trackers are asked."""
    if not reply.path:
        return b""
    claimed = claim(reply.txid, reply.path)
    if isinstance(claimed, Unreadable):
        log.warning("a Merkle path of %s is not believed: %s", display(reply.txid), claimed.why)
        return b""
    return reply.path


def _said(status: int, message: str) -> web.Response:
    return web.json_response({"error": message}, status=status)
