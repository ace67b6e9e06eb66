"""The transport against servers that misbehave: every ending is a value, within its deadline."""

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from agents.runtime.http import (
    Breaker,
    BreakerOpen,
    Failure,
    HttpSettings,
    Oversized,
    Remote,
    Sent,
    TimedOut,
    Transport,
    Turned,
    Unreachable,
    remotes,
)
from pipeline.http import HttpReply, HttpRequest
from tests.agents.serving import Clock, hang, nobody, reset, served

GET = HttpRequest("GET", "/path?x=1")
POST = HttpRequest("POST", "/path", body=b"x")
"""Sent once, whatever becomes of the connection; a GET is sent anew when a kept one turns out to be closed."""

SECRET = "tr0ub4dor-and-3"


def as_is(reply: HttpReply) -> tuple[HttpReply, str]:
    return reply, ""


async def ask(
    transport: Transport, url: str | Remote, request: HttpRequest = POST, timeout_s: float = 5.0, force: bool = False
) -> HttpReply | Failure:
    remote = url if isinstance(url, Remote) else Remote("arc", url)
    return await transport.send(remote, request, as_is, timeout_s, force=force)


@pytest.fixture
async def transport() -> AsyncIterator[Transport]:
    async with Transport(HttpSettings(max_reply_bytes=1 << 16)) as made:
        yield made


# --- replies


async def test_a_reply_is_what_the_service_said_whatever_its_status(transport: Transport) -> None:
    async def handler(request: web.Request) -> web.Response:
        seen = {"method": request.method, "path": request.path_qs, "type": request.headers["Content-Type"]}
        body = hashlib.sha256(await request.read()).hexdigest()
        return web.json_response({**seen, "body": body}, status=461, headers={"X-Odd": "1"})

    body = bytes(3 << 20)  # more than a socket takes at once
    async with served(handler) as url:
        request = HttpRequest("POST", "/v1/txs?a=b", (("Content-Type", "application/octet-stream"),), body)
        reply = await ask(transport, url, request)
    assert isinstance(reply, HttpReply)
    assert (reply.status, reply.headers["x-odd"]) == (461, "1")
    assert json.loads(reply.body) == {
        "method": "POST",
        "path": "/v1/txs?a=b",
        "type": "application/octet-stream",
        "body": hashlib.sha256(body).hexdigest(),
    }


async def test_a_redirect_is_a_reply_and_is_not_followed(transport: Transport) -> None:
    paths = []

    async def handler(request: web.Request) -> web.Response:
        paths.append(request.path)
        raise web.HTTPFound("/elsewhere")

    async with served(handler) as url:
        reply = await ask(transport, url, GET)
    assert isinstance(reply, HttpReply)
    assert (reply.status, paths) == (302, ["/path"])


async def test_connections_are_kept(transport: Transport) -> None:
    ports = set()

    async def handler(request: web.Request) -> web.Response:
        assert request.transport is not None
        ports.add(request.transport.get_extra_info("peername")[1])
        return web.Response()

    async with served(handler) as url:
        for _ in range(5):
            assert isinstance(await ask(transport, url), HttpReply)
    assert len(ports) == 1


# --- failures


async def test_nobody_there_and_a_broken_connection_are_unreachable(transport: Transport) -> None:
    assert isinstance(await ask(transport, nobody()), Unreachable)
    async with served(reset) as url:
        assert isinstance(await ask(transport, url), Unreachable)


@pytest.mark.parametrize(
    "said",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"",
    ],
)
async def test_what_is_not_http_is_unreachable(transport: Transport, said: bytes) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        came = await ask(transport, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    assert isinstance(came, Unreachable)


async def test_a_service_that_hangs_or_dribbles_times_out(transport: Transport) -> None:
    async def dribble(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b".")
            await asyncio.sleep(0.01)

    for handler in (hang, dribble):
        async with served(handler) as url:
            began = time.monotonic()
            assert await ask(transport, url, timeout_s=0.1) == TimedOut(0.1)
            assert time.monotonic() - began < 2


@pytest.mark.setting("http.connections")
async def test_the_deadline_covers_waiting_for_a_connection() -> None:
    async with served(hang) as url, Transport(HttpSettings(connections=1)) as transport:
        first, second = await asyncio.gather(ask(transport, url, timeout_s=0.2), ask(transport, url, timeout_s=0.1))
    assert (first, second) == (TimedOut(0.2), TimedOut(0.1))


@pytest.mark.setting("http.max_reply_bytes")
@pytest.mark.parametrize("chunked", [True, False])
async def test_a_reply_without_end_is_read_up_to_the_limit(transport: Transport, chunked: bool) -> None:
    written = 0

    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal written
        response = web.StreamResponse()
        if not chunked:
            response.content_length = 1 << 30
        await response.prepare(request)
        while written < 1 << 30:
            await response.write(bytes(1 << 16))
            written += 1 << 16
        return response

    async with served(handler) as url:
        assert await ask(transport, url) == Oversized(1 << 16)
    assert written < 64 << 20


async def test_a_compressed_bomb_is_read_up_to_the_limit(transport: Transport) -> None:
    async def handler(request: web.Request) -> web.Response:
        response = web.Response(body=bytes(32 << 20))
        response.enable_compression(web.ContentCoding.gzip)
        return response

    async with served(handler) as url:
        assert await ask(transport, url) == Oversized(1 << 16)


# --- the breaker by itself


def test_a_breaker_opens_after_faults_in_a_row_and_lets_one_probe_through() -> None:
    breaker = Breaker(faults=3, probe_after_s=5)
    for reason in ("one", "two"):
        assert breaker.admit(0)
        breaker.failed(0, reason)
    assert breaker.admit(0)
    breaker.succeeded()  # the row is broken
    for now in (1, 2, 3):
        assert breaker.state(now) == "closed"
        assert breaker.admit(now)
        breaker.failed(now, f"at {now}")
    assert (breaker.state(3), breaker.why) == ("open", "at 3")
    assert not breaker.admit(7.9)
    assert breaker.state(8) == "half-open"
    assert breaker.admit(8)
    assert not breaker.admit(8)  # one at a time
    breaker.failed(9, "still")
    assert not breaker.admit(13.9)
    assert breaker.admit(14)
    breaker.succeeded()
    assert breaker.state(14) == "closed"
    assert breaker.admit(14)
    assert breaker.admit(14)


def test_a_probe_that_was_given_up_makes_way_for_the_next() -> None:
    breaker = Breaker(faults=1, probe_after_s=5)
    breaker.failed(0, "down")
    assert breaker.admit(5)
    breaker.dropped()
    assert breaker.admit(5)


def test_a_forced_call_passes_an_open_breaker_and_no_pause() -> None:
    breaker = Breaker(faults=1, probe_after_s=5)
    breaker.failed(0, "down")
    assert breaker.admit(1, force=True)
    breaker.succeeded()
    assert breaker.state(1) == "closed"
    breaker.pause(1, 60, "key refused")
    assert not breaker.admit(60.9, force=True)
    breaker.succeeded()  # a call from before the pause
    assert breaker.state(60.9) == "open"
    assert breaker.admit(61)


# --- the breaker at work


class Script:
    """A service that goes through replies: a status, headers with it, or None for a broken connection."""

    def __init__(self, *replies: int | None, headers: dict[str, str] | None = None) -> None:
        self.replies = list(replies)
        self.headers = headers or {}
        self.calls = 0

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        self.calls += 1
        status = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        return await reset(request) if status is None else web.Response(status=status, headers=self.headers)


@pytest.mark.setting("http.breaker_faults")
@pytest.mark.setting("http.probe_after_s")
@pytest.mark.parametrize("fault", [None, 500, 503, 429])
async def test_faults_in_a_row_stop_the_calls_until_a_probe_succeeds(fault: int | None) -> None:
    clock, turns, sent = Clock(), list[Turned](), list[Sent]()
    script = Script(fault, fault, fault, fault, 200)
    settings = HttpSettings(breaker_faults=3, probe_after_s=5)
    async with (
        served(script) as url,
        Transport(settings, clock=clock, tell=turns.append, count=sent.append) as transport,
    ):
        remote = Remote("arc", url)
        for _ in range(3):
            assert not isinstance(await ask(transport, remote), BreakerOpen)
        assert isinstance(await ask(transport, remote), BreakerOpen)
        assert (script.calls, transport.state(remote)) == (3, "open")
        clock.pass_s(5)
        assert not isinstance(await ask(transport, remote), BreakerOpen)  # the probe, which fails
        assert isinstance(await ask(transport, remote), BreakerOpen)
        clock.pass_s(5)
        probe = await ask(transport, remote)
        assert isinstance(probe, HttpReply)
        assert (probe.status, transport.state(remote)) == (200, "closed")
    assert [(turn.remote, turn.state) for turn in turns] == [(remote, "open"), (remote, "closed")]
    assert len(sent) == 7


async def test_answers_of_any_other_status_are_no_faults(transport: Transport) -> None:
    script = Script(400, 401, 404, 461, 302, 404)
    async with served(script) as url:
        for _ in range(6):
            assert isinstance(await ask(transport, url), HttpReply)
    assert script.calls == 6


async def test_what_the_reader_complains_of_is_a_fault(transport: Transport) -> None:
    script = Script(200)
    async with served(script) as url:
        remote = Remote("bhs", url)
        for _ in range(3):
            assert await transport.send(remote, GET, lambda reply: (reply.status, "no JSON"), 5) == 200
        came = await transport.send(remote, GET, lambda reply: (reply.status, ""), 5)
    assert came == BreakerOpen("no JSON")


async def test_one_service_s_breaker_is_its_own(transport: Transport) -> None:
    down = nobody()
    async with served(Script(200)) as url:
        for _ in range(4):
            await ask(transport, down)
        assert isinstance(await ask(transport, down), BreakerOpen)
        assert isinstance(await ask(transport, url), HttpReply)


async def test_while_a_probe_is_under_way_others_are_not_sent() -> None:
    clock = Clock()
    arrived, release = asyncio.Event(), asyncio.Event()
    calls = 0

    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal calls
        calls += 1
        if calls == 1:
            return await reset(request)
        arrived.set()
        await release.wait()
        return web.Response()

    settings = HttpSettings(breaker_faults=1, probe_after_s=5)
    async with served(handler) as url, Transport(settings, clock=clock) as transport:
        await ask(transport, url)
        clock.pass_s(5)
        given_up = asyncio.create_task(ask(transport, url))
        await arrived.wait()
        assert isinstance(await ask(transport, url), BreakerOpen)
        given_up.cancel()  # its caller loses interest: the next may probe
        await asyncio.gather(given_up, return_exceptions=True)
        release.set()
        assert isinstance(await ask(transport, url), HttpReply)


@pytest.mark.setting("http.retry_after_limit_s")
@pytest.mark.parametrize(
    ("asked", "heeded"), [("7", 7.0), ("86400", 60.0), ("soon", 0.0), ("-1", 0.0), ("\u0667", 0.0)]
)
async def test_a_service_that_asks_for_patience_gets_it_within_reason(asked: str, heeded: float) -> None:
    clock = Clock()
    script = Script(429, 200, headers={"Retry-After": asked})
    async with served(script) as url, Transport(HttpSettings(), clock=clock) as transport:
        await ask(transport, url)
        if heeded:
            clock.pass_s(heeded - 0.1)
            assert isinstance(await ask(transport, url, force=True), BreakerOpen)
            clock.pass_s(0.2)
        assert isinstance(await ask(transport, url), HttpReply)


# --- keys


async def test_a_key_is_sent_as_its_dialect_wants_it_and_shows_nowhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    key = tmp_path / "key"
    key.write_text(SECRET + "\n")
    seen: list[str] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.append(request.headers.get("Authorization", ""))
        if len(seen) == 1:
            return web.Response(status=500)
        return await (hang(request) if len(seen) == 2 else reset(request))

    shown: list[object] = []
    async with served(handler) as url, Transport(HttpSettings(), count=shown.append, tell=shown.append) as transport:
        remote = Remote("woc", url, str(key))
        for scheme in ("Bearer {key}", "{key}", "Bearer {key}", "Bearer {key}"):
            shown.append(await transport.send(remote, POST, as_is, 0.1, scheme))
        shown += [remote, vars(transport), vars(transport).items()]
    assert seen[:3] == [f"Bearer {SECRET}", SECRET, f"Bearer {SECRET}"]
    assert {type(each) for each in shown} >= {HttpReply, TimedOut, Unreachable, BreakerOpen, Sent, Turned}
    assert SECRET not in repr(shown) + caplog.text


@pytest.mark.setting("http.pause_s")
async def test_a_refused_key_pauses_the_service_and_is_read_again(tmp_path: Path) -> None:
    clock = Clock()
    key = tmp_path / "key"
    key.write_text("old")
    seen = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request.headers["Authorization"])
        return web.Response(status=401)

    async with served(handler) as url, Transport(HttpSettings(pause_s=60), clock=clock) as transport:
        remote = Remote("arc", url, str(key))
        await ask(transport, remote)
        key.write_text("new")
        transport.pause(remote, "HTTP 401")
        assert await ask(transport, remote, force=True) == BreakerOpen("HTTP 401")
        clock.pass_s(60)
        await ask(transport, remote)
        key.unlink()
        transport.pause(remote, "HTTP 401")  # a key that is gone for a moment leaves the last one
        clock.pass_s(60)
        await ask(transport, remote)
    assert seen == ["Bearer old", "Bearer new", "Bearer new"]


@pytest.mark.parametrize("content", ["", "\n", "two\nlines", "a\tb", "a\x00b"])
async def test_a_key_is_one_printable_line(tmp_path: Path, transport: Transport, content: str) -> None:
    key = tmp_path / "key"
    key.write_text(content)
    with pytest.raises(ValueError, match="one line") as raised:
        transport.know(Remote("arc", "http://127.0.0.1:1", str(key)))
    assert not content.strip() or content.strip() not in str(raised.value)


def test_a_missing_key_is_found_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Transport(HttpSettings()).know(Remote("arc", "http://127.0.0.1:1", str(tmp_path / "none")))


# --- the setting's entries


def test_entries() -> None:
    found = remotes(
        (
            "bhs=http://127.0.0.1:8080/",
            "woc=https://example.org/v1/bsv/main;token-file=/etc/key",
            "bhs=http://[::1]:1;key-file=k",
        ),
        ("bhs", "woc"),
        "trackers.trackers",
    )
    assert found == (
        Remote("bhs", "http://127.0.0.1:8080"),
        Remote("woc", "https://example.org/v1/bsv/main", "/etc/key"),
        Remote("bhs", "http://[::1]:1", "k"),
    )
    assert [remote.name for remote in found] == ["bhs@127.0.0.1:8080", "woc@example.org/v1/bsv/main", "bhs@[::1]:1"]


@pytest.mark.parametrize(
    "entries",
    [
        ("",),
        ("bhs",),
        ("bhs=",),
        ("electrum=http://127.0.0.1:1",),
        ("bhs=127.0.0.1:8080",),
        ("bhs=ftp://127.0.0.1",),
        ("bhs=http://",),
        ("bhs=http://user:word@127.0.0.1",),
        ("bhs=http://127.0.0.1/?key=1",),
        ("bhs=http://127.0.0.1:99999",),
        ("bhs=http://127.0.0.1;token=abc",),
        ("bhs=http://127.0.0.1;token-file=",),
        ("bhs=http://127.0.0.1:1", "bhs=http://127.0.0.1:1/"),
    ],
)
def test_entries_that_cannot_be_meant(entries: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"trackers\.trackers") as raised:
        remotes(entries, ("bhs",), "trackers.trackers")
    assert "word" not in str(raised.value)


async def test_a_transport_is_used_within_its_context() -> None:
    with pytest.raises(RuntimeError):
        await ask(Transport(HttpSettings()), nobody())


async def test_closing_it_ends_what_is_under_way() -> None:
    arrived = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        arrived.set()
        return await hang(request)

    async with served(handler) as url:
        async with Transport(HttpSettings()) as transport:
            task = asyncio.create_task(ask(transport, url, timeout_s=30))
            await arrived.wait()
        assert isinstance(await asyncio.wait_for(task, 5), Unreachable)
