"""Callbacks over HTTP: who shows the token is heard, and hears 200 when what it said is written."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer
from aiokafka.errors import KafkaConnectionError
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.runtime.callbacks import Callbacks
from agents.runtime.health import Port
from agents.runtime.records import Out
from agents.runtime.settings import WorkerSettings
from pipeline.broadcasters.arc import STATUSES
from pipeline.broadcasters.words import read_callbacks
from pipeline.codec.bump import write_bump
from pipeline.http import Unreadable
from schemas.network import NEWS, Heard
from schemas.types import display
from tests.profiles import CHEAP
from topics.registry import NETWORK_NEWS

TXID = b"\x11" * 32
PATH = write_bump(7, [{0: TXID}], {0})
ONE = {"txid": display(TXID), "txStatus": "SEEN_ON_NETWORK", "timestamp": "2026-11-26T10:00:00Z"}


class Outbox:
    """Takes what is written, or is away."""

    def __init__(self) -> None:
        self.sent: list[Out] = []
        self.away = False

    async def send(self, outs: Sequence[tuple[Out, None]]) -> None:
        if self.away:
            raise KafkaConnectionError("nobody there")
        self.sent += [out for out, _ in outs]


class Watched:
    """A worker that is fine."""

    def alive(self) -> bool:
        return True

    def ready(self) -> tuple[bool, dict[str, object]]:
        return True, {}

    def resume(self) -> None:
        pass


Post = Callable[..., Any]


@asynccontextmanager
async def called(outbox: Outbox | None, token: Path) -> AsyncIterator[Post]:
    await asyncio.to_thread(token.write_text, "secret\n")
    callbacks = Callbacks(str(token))
    callbacks.outbox = outbox  # type: ignore[assignment]
    callbacks.names = ("arc@a", "arcade@a", "teranode@a")
    app = web.Application()
    callbacks.add_to(app.router)
    async with TestServer(app, host="127.0.0.1") as server, ClientSession() as session:

        async def post(body: Any, shown: str = "Bearer secret", endpoint: str = "arc@a") -> tuple[int, Any]:
            sent = {"data": body} if isinstance(body, bytes) else {"json": body}
            url = server.make_url("/callback").with_query({"endpoint": endpoint} if endpoint else {})
            async with session.post(url, headers={"Authorization": shown}, **sent) as reply:
                return reply.status, await reply.json()

        yield post


async def test_what_an_endpoint_says_is_news(tmp_path: Path) -> None:
    outbox = Outbox()
    async with called(outbox, tmp_path / "token") as post:
        assert await post(ONE) == (200, {"taken": 1})
        mined = {**ONE, "txStatus": "MINED", "merklePath": PATH.hex(), "blockHeight": 7}
        assert await post({"count": 3, "callbacks": [ONE, mined, {"txid": "junk"}]}) == (200, {"taken": 2})
        assert (await post({**mined, "merklePath": "ff"}, endpoint=""))[1] == {"taken": 1}
        assert (await post(ONE, endpoint="arc@made-up"))[1] == {"taken": 1}
    news = [NEWS.decode(out.value) for out in outbox.sent]
    assert {(out.topic, out.key) for out in outbox.sent} == {(NETWORK_NEWS, TXID)}
    assert [each.path for each in news if isinstance(each, Heard)] == [b"", b"", PATH, b"", b""], "junk is no path"
    words = [each.words[0] for each in news if isinstance(each, Heard)]
    assert [(word.endpoint, word.kind, word.status, word.network) for word in words] == [
        ("arc@a", "accepted", "SEEN_ON_NETWORK", True),
        ("arc@a", "accepted", "SEEN_ON_NETWORK", True),
        ("arc@a", "accepted", "MINED", True),
        ("callback", "accepted", "MINED", True),
        ("callback", "accepted", "SEEN_ON_NETWORK", True),
    ]


@pytest.mark.parametrize(
    ("endpoint", "kind"),
    [("arc@a", "condition"), ("arcade@a", "refused"), ("teranode@a", "condition"), ("", "condition")],
)
async def test_a_status_means_what_it_means_to_who_calls(tmp_path: Path, endpoint: str, kind: str) -> None:
    """DOUBLE_SPEND_ATTEMPTED is the end in Arcade, and not in ARC."""
    outbox = Outbox()
    async with called(outbox, tmp_path / "token") as post:
        assert (await post({**ONE, "txStatus": "DOUBLE_SPEND_ATTEMPTED"}, endpoint=endpoint))[0] == 200
    (news,) = [NEWS.decode(out.value) for out in outbox.sent]
    assert isinstance(news, Heard)
    assert news.words[0].kind == kind


@pytest.mark.parametrize(
    "shown", ["", "secret", "Bearer", "Bearer secre", "Bearer secret2", "bearer secret", "Bearer \udcff"]
)
async def test_who_does_not_show_the_token_is_not_heard(tmp_path: Path, shown: str) -> None:
    outbox = Outbox()
    async with called(outbox, tmp_path / "token") as post:
        try:
            status, _ = await post(ONE, shown)
        except UnicodeEncodeError:
            return  # our client sends no such header
        assert status == 401
    assert outbox.sent == []


async def test_what_is_not_written_is_not_acknowledged(tmp_path: Path) -> None:
    outbox = Outbox()
    async with called(outbox, tmp_path / "token") as post:
        outbox.away = True
        assert (await post(ONE))[0] == 503
        outbox.away = False
        assert (await post(ONE))[0] == 200
    async with called(None, tmp_path / "token") as post:
        assert (await post(ONE))[0] == 503


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b'{"callbacks": 3}', b"[" * 100_000])
async def test_what_is_no_callback_is_said(tmp_path: Path, body: bytes) -> None:
    async with called(Outbox(), tmp_path / "token") as post:
        status, said = await post(body)
    assert status == 400
    assert said["error"]


async def test_more_than_anybody_sends_is_refused(tmp_path: Path) -> None:
    async with called(Outbox(), tmp_path / "token") as post:
        assert (await post({"callbacks": [ONE] * 1_001}))[0] == 400
        assert (await post({"callbacks": [ONE] * 50}))[0] == 200


async def test_without_a_token_there_is_no_such_path(tmp_path: Path) -> None:
    app = web.Application()
    Callbacks("").add_to(app.router)
    async with (
        TestServer(app, host="127.0.0.1") as server,
        ClientSession() as session,
        session.post(server.make_url("/callback"), json=ONE) as reply,
    ):
        assert reply.status == 404
    (tmp_path / "token").write_text("\n")
    with pytest.raises(ValueError, match="is empty"):
        Callbacks(str(tmp_path / "token"))


async def test_the_ports_own_token_is_not_for_endpoints(tmp_path: Path) -> None:
    """Theirs goes out with each transaction; it opens nothing else."""
    (tmp_path / "own").write_text("operators")
    (tmp_path / "theirs").write_text("secret")
    callbacks, outbox = Callbacks(str(tmp_path / "theirs")), Outbox()
    callbacks.outbox = outbox  # type: ignore[assignment]
    port = Port(Watched(), WorkerSettings(http_token_file=str(tmp_path / "own"), http_port=0), callbacks.add_to)
    await port.start()
    try:
        async with ClientSession() as session:
            for path, shown, expected in (
                ("/callback", "secret", 200), ("/callback", "operators", 401), ("/resume", "secret", 401),
                ("/resume", "operators", 200),
            ):  # fmt: skip
                headers = {"Authorization": f"Bearer {shown}"}
                async with session.post(port.url + path, json=ONE, headers=headers) as reply:
                    assert reply.status == expected, path
    finally:
        await port.stop()
    assert len(outbox.sent) == 1


@settings(CHEAP)
@given(st.binary(max_size=300))
def test_no_bytes_make_the_reader_raise(body: bytes) -> None:
    assert isinstance(read_callbacks(body, STATUSES), list | Unreadable)
