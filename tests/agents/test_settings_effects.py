"""Settings of workers: what each changes, shown without a broker."""

import asyncio
import json
import logging
import re
import ssl
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import aiohttp
import aiokafka
import pytest

from agents.apply import ApplySettings, ApplyStage
from agents.runtime import logs, transport
from agents.runtime.board import Board
from agents.runtime.cluster import Cluster
from agents.runtime.connection import client_options
from agents.runtime.desk import Desk
from agents.runtime.health import NeedsToken, Port
from agents.runtime.outbox import Outbox
from agents.runtime.outcomes import Router
from agents.runtime.partition import Lanes, Partition
from agents.runtime.records import Decision, Emit, Inbound
from agents.runtime.sandbox import Sandbox, SandboxSettings
from agents.runtime.settings import KafkaSettings, LogSettings, TopicSettings, TraceSettings, WorkerSettings
from agents.runtime.stage import Runner
from agents.runtime.suspects import Suspicion
from agents.runtime.trace import Tracer
from agents.runtime.worker import Worker
from ops.installation import free_ports
from pipeline.policy import Policy
from pipeline.results import About
from schemas.external import RESULT, Result
from tests.agents.certificates import Certificate
from tests.ops.audit_world import Record, World
from topics.registry import BROADCAST, INGEST, OPERATIONS, PARSED, RESULTS, TOPICS, Topic

WITHIN_S = 20.0

KAFKA, TOPIC_SETTINGS = KafkaSettings(), TopicSettings()


async def until(test: Callable[[], object], what: str) -> None:
    """Wait for something that comes."""
    deadline = time.monotonic() + WITHIN_S
    while not test():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.005)


def records(count: int, size: int = 10, partition: int = 0, first: int = 0) -> list[Inbound]:
    """Of one partition."""
    return [Record(INGEST.name, partition, None, bytes(size), (), first + number) for number in range(count)]


def board_of(settings: WorkerSettings, partitions: int = 1) -> Board:
    """As a worker makes it, with these partitions assigned."""
    board = Board(max_in_flight=settings.max_in_flight, max_bytes=settings.max_in_flight_bytes)
    board.assign({(INGEST.name, number): (0, Suspicion()) for number in range(partitions)}, 1)
    return board


class Still:
    """A stage that does nothing, and remembers how many records it got at once."""

    name = "still"
    inputs: tuple[Topic, ...] = (INGEST,)
    outputs: tuple[Topic, ...] = (PARSED,)
    begins_traces = False
    went_well: tuple[str, ...] = ("",)

    def __init__(self) -> None:
        self.batches: list[int] = []

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    async def probe(self) -> None:
        pass

    async def gather(self, batch: Sequence[Inbound]) -> AsyncGenerator[tuple[Sequence[Inbound], None], None]:
        self.batches.append(len(batch))
        yield batch, None

    def decide(self, record: Inbound, gathered: None, now_ms: int) -> Decision:
        return Emit(())

    def about(self, record: Inbound) -> About | None:
        return None


# --- how much is in hand


@pytest.mark.setting("worker.max_in_flight")
def test_so_many_records_are_in_hand_at_once() -> None:
    """What is over waits in its lane; and as many are fetched ahead, then no more."""
    board = board_of(WorkerSettings(max_in_flight=3))
    lane = board.lanes[INGEST.name, 0]
    board.put((INGEST.name, 0), records(7), 7)
    taken = board.take(100)
    assert len(taken.records) == 3
    assert board.take(100).records == []
    taken.finished(taken.records[:2])
    assert len(board.take(100).records) == 2
    assert len(lane.queue) == 2
    assert board.wants_more(lane)
    board.put((INGEST.name, 0), records(1, first=7), 8)
    assert not board.wants_more(lane)


@pytest.mark.setting("worker.max_in_flight_bytes")
def test_so_many_bytes_are_fetched_and_not_finished() -> None:
    """A single record may be larger, when nothing else is in hand."""
    small, large = WorkerSettings(max_in_flight_bytes=2 << 20), WorkerSettings(max_in_flight_bytes=8 << 20)
    for settings, more in ((small, False), (large, True)):
        board = board_of(settings)
        lane = board.lanes[INGEST.name, 0]
        assert board.wants_more(lane)
        board.put((INGEST.name, 0), records(1, size=2 << 20), 1)
        assert board.wants_more(lane) is more


@pytest.mark.setting("worker.batch_records")
async def test_so_many_records_are_computed_at_once() -> None:
    for limit, expected in ((4, [4, 4, 2]), (100, [10])):
        settings, stage = WorkerSettings(batch_records=limit), Still()
        desk = Desk(board_of(settings), restores=False, settle_s=1)
        tracer = Tracer("still", TraceSettings())
        runner = Runner(
            stage, desk, Router("still", "", 1), tracer, batch_records=settings.batch_records, fault_limit=10
        )
        desk.board.put((INGEST.name, 0), records(10), 10)
        running = asyncio.ensure_future(runner.run(Outbox(None, "", {}, 1)))
        await until(lambda desk=desk: desk.board.finished_count == 10, "ten records")  # type: ignore[misc]
        running.cancel()
        tracer.close()
        assert stage.batches == expected


async def test_what_fails_beside_the_records_ends_the_run() -> None:
    """Nobody may go on without what a stage follows."""
    desk = Desk(board_of(WorkerSettings()), restores=False, settle_s=1)
    tracer = Tracer("still", TraceSettings())

    async def follow() -> None:
        await asyncio.sleep(0)
        raise OSError("the disk is gone")

    runner = Runner(Still(), desk, Router("still", "", 1), tracer, batch_records=9, fault_limit=10, beside=follow)
    with pytest.raises(OSError, match="the disk is gone"):
        await asyncio.wait_for(runner.run(Outbox(None, "", {}, 1)), WITHIN_S)
    tracer.close()


@pytest.mark.setting("worker.pace_ms")
async def test_a_fetch_waits_after_one_that_brought_few() -> None:
    """And not after one that brought a batch."""

    async def drained(settings: WorkerSettings, brought: int) -> float:
        desk = Desk(board_of(settings), restores=False, settle_s=1)
        consumer = Fetching(desk, settings, brought)
        began = time.monotonic()
        await consumer._drain_messages(consumer.fetcher)
        return time.monotonic() - began

    paced = WorkerSettings(pace_ms=200, batch_records=5)
    assert await drained(paced, brought=1) >= 0.6
    assert await drained(WorkerSettings(pace_ms=0, batch_records=5), brought=1) < 0.6
    assert await drained(paced, brought=5) < 0.6


class Fetching(transport.Consumer):
    """Three fetches that find records at once, and then the end."""

    should_stop = False
    flow_active = True

    def __init__(self, desk: Desk, settings: WorkerSettings, brought: int) -> None:
        options = transport.Options(KAFKA, settings, desk, 1, ())
        self.app = SimpleNamespace(beefline=options, consumer_generation_id=1)
        self.fetcher = SimpleNamespace(should_stop=False)
        self._thread = self
        self._brought = brought
        self._fetches = 0

    def _get_active_partitions(self) -> set[aiokafka.TopicPartition]:
        return {aiokafka.TopicPartition(INGEST.name, 0)}

    async def getmany(self, *_: object) -> dict[aiokafka.TopicPartition, tuple[list[Inbound], int]]:
        self._fetches += 1
        self.fetcher.should_stop = self._fetches == 3
        return {aiokafka.TopicPartition(INGEST.name, 0): (records(self._brought), self._brought)}


# --- an exactly-once stage's partition


def partition_of(settings: WorkerSettings, folder: Path) -> Partition:
    """Of apply; nothing is opened yet."""
    desk = Desk(board_of(settings), restores=True, settle_s=1)
    tracer = Tracer("apply", TraceSettings())
    tracer.close()
    stage = ApplyStage(ApplySettings())
    lanes = Lanes(stage, desk, Router("apply", "beef.", 1), tracer, KAFKA, TOPIC_SETTINGS, settings, {})
    return Partition(lanes, desk.board.lanes[INGEST.name, 0])


@pytest.mark.setting("worker.data_dir")
def test_stores_are_below_the_data_folder(tmp_path: Path) -> None:
    """By stage, prefix, generation and partition; Faust's own folder beside them."""
    settings = WorkerSettings(data_dir=str(tmp_path / "data"))
    assert partition_of(settings, tmp_path).lanes.shelf.path(0) == tmp_path / "data/apply/beef/g1-0"
    worker_of(settings, tmp_path)
    assert (tmp_path / "data/parse/faust").is_dir()


@pytest.mark.setting("worker.transaction_timeout_s")
async def test_the_broker_is_told_how_long_a_transaction_may_be_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, Any] = {}

    class Producer:
        def __init__(self, **options: Any) -> None:
            told.update(options)

        async def start(self) -> None:
            raise ConnectionError("far enough")

        async def stop(self) -> None:
            pass

    monkeypatch.setattr("agents.runtime.partition.AIOKafkaProducer", Producer)
    partition = partition_of(WorkerSettings(data_dir=str(tmp_path), transaction_timeout_s=2.5), tmp_path)
    with pytest.raises(ConnectionError):
        await partition.run()
    assert (told["transaction_timeout_ms"], told["transactional_id"]) == (2500, "beef.apply-g1-0")


@pytest.mark.setting("worker.transaction_pace_ms")
async def test_a_transaction_waits_after_another_while_few_records_do(tmp_path: Path) -> None:
    """From the end of the one before; and not while a batch is there."""

    async def paced(settings: WorkerSettings, waiting: int) -> float:
        partition = partition_of(settings, tmp_path)
        partition.lane.queue.extend(records(waiting))
        began = time.monotonic()
        await partition._pace()
        return time.monotonic() - began

    settings = WorkerSettings(transaction_pace_ms=400, batch_records=5)
    assert await paced(settings, waiting=1) >= 0.4
    assert await paced(settings, waiting=5) < 0.4
    assert await paced(WorkerSettings(transaction_pace_ms=0), waiting=1) < 0.4


# --- the process


class Idle:
    """What drives a stage that never runs."""

    paused = None
    waits = False

    async def run(self, outbox: Outbox) -> None:
        raise AssertionError("it is not started")

    def resume(self) -> None:
        raise AssertionError("it is not started")


def worker_of(settings: WorkerSettings, folder: Path) -> Worker:
    """A worker over topics that are as declared, not started."""
    configs = {topic.name: topic.settings(TOPIC_SETTINGS.max_payload_bytes, TOPIC_SETTINGS.min_isr) for topic in TOPICS}
    cluster = Cluster("cluster", {topic.name: topic.partitions for topic in TOPICS}, configs)

    async def nothing() -> None:
        pass

    return Worker(
        "parse", (INGEST,), (PARSED,), cluster, KAFKA, TOPIC_SETTINGS, settings, restores=False,
        make=lambda _: (Idle(), nothing, nothing), run_dir=folder / "run", codes=[],
    )  # fmt: skip


@pytest.mark.setting("worker.commit_interval_s")
@pytest.mark.setting("worker.heartbeat_interval_s")
def test_the_group_hears_of_us_this_often(tmp_path: Path) -> None:
    """Faust commits, and the client's heartbeat goes, at these intervals."""
    settings = WorkerSettings(data_dir=str(tmp_path), commit_interval_s=0.25, heartbeat_interval_s=1.5)
    conf = worker_of(settings, tmp_path).app.conf
    assert (conf.broker_commit_interval, conf.broker_heartbeat_interval) == (0.25, 1.5)


@pytest.mark.setting("worker.stop_within_s")
async def test_a_stop_waits_for_what_is_in_hand_but_not_for_ever(tmp_path: Path) -> None:
    """Six tenths of the time a stop may take; the rest is for leaving the group."""
    desk = worker_of(WorkerSettings(data_dir=str(tmp_path), stop_within_s=0.5), tmp_path).desk
    desk.board.assign({(INGEST.name, 0): (0, Suspicion())}, 1)
    desk.board.put((INGEST.name, 0), records(2), 2)
    batch = desk.board.take(1)
    began = time.monotonic()
    await desk.settle()
    assert time.monotonic() - began >= 0.3
    assert (desk.board.in_flight, desk.board.queued) == (1, 0)
    settling = asyncio.ensure_future(
        worker_of(WorkerSettings(data_dir=str(tmp_path), stop_within_s=3600), tmp_path).desk.settle()
    )
    await asyncio.wait_for(settling, WITHIN_S)  # nothing in hand: at once
    batch.finished(batch.records)


class Calm:
    """A stage that is well."""

    def alive(self) -> bool:
        return True

    def ready(self) -> tuple[bool, dict[str, object]]:
        return True, {}

    def resume(self) -> None:
        pass


async def asked(url: str, token: str = "") -> int:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as response:
        return response.status


@pytest.mark.setting("worker.http_host")
@pytest.mark.setting("worker.http_port")
@pytest.mark.setting("worker.http_token_file")
async def test_the_port_is_where_it_is_set_and_asks_for_its_token(tmp_path: Path) -> None:
    """Beyond loopback there is none without a token; probes need none, metrics do."""
    token = tmp_path / "token"
    token.write_text("secret\n")
    with pytest.raises(NeedsToken, match=r"0\.0\.0\.0"):
        Port(Calm(), WorkerSettings(http_host="0.0.0.0"))
    (number,) = free_ports(1)
    for settings in (
        WorkerSettings(http_port=number, http_token_file=str(token)),
        WorkerSettings(http_host="0.0.0.0", http_token_file=str(token)),
    ):
        port = Port(Calm(), settings)
        await port.start()
        try:
            host, listening = port.url.removeprefix("http://").rsplit(":", 1)
            assert host == settings.http_host
            assert int(listening) == number or not settings.http_port
            url = f"http://127.0.0.1:{listening}"
            answers = [await asked(f"{url}/readyz"), await asked(f"{url}/metrics"), await asked(f"{url}/metrics", "no")]
            assert (answers, await asked(f"{url}/metrics", "secret")) == ([200, 401, 401], 200)
        finally:
            await port.stop()
    open_port = Port(Calm(), WorkerSettings())
    await open_port.start()
    assert await asked(f"{open_port.url}/metrics") == 200
    await open_port.stop()


# --- logs


@pytest.fixture
def logged(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """What was logged; the root logger is given back as it was."""
    root = logging.getLogger()
    before = root.level, root.handlers[:]
    levels = {name: logging.getLogger(name).level for name in logs.CLIENTS}
    yield lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    root.handlers[:] = before[1]
    root.setLevel(before[0])
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.mark.setting("log.level")
@pytest.mark.parametrize(("level", "lines"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_lines_below_the_level_are_not_written(
    level: Literal["debug", "info", "warning", "error"], lines: int, logged: Callable[[], list[dict[str, Any]]]
) -> None:
    logs.configure("parse", LogSettings(level=level))
    log = logging.getLogger("agents.test")
    for name in ("debug", "info", "warning", "error"):
        getattr(log, name)("said", extra={"partition": 3})
    written = logged()
    assert [line["level"] for line in written] == ["debug", "info", "warning", "error"][-lines:]
    assert {(line["stage"], line["partition"], line["message"]) for line in written} == {("parse", 3, "said")}


@pytest.mark.setting("log.client_lines_per_s")
def test_client_libraries_write_so_many_lines(
    logged: Callable[[], list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten at once, then so many a second; what was left out is counted. Our own lines are never left out."""
    now = [1000.0]
    monkeypatch.setattr("agents.runtime.logs.time", SimpleNamespace(
        monotonic=lambda: now[0], strftime=time.strftime, gmtime=time.gmtime,
    ))  # fmt: skip
    logs.configure("parse", LogSettings(client_lines_per_s=5.0))
    client, ours = logging.getLogger("aiokafka.conn"), logging.getLogger("agents.test")
    for number in range(100):
        client.warning("trouble %d", number)
        ours.warning("ours")
    now[0] += 1
    for number in range(100, 200):
        client.warning("trouble %d", number)
    messages = [line["message"] for line in logged()]
    assert messages.count("ours") == 100
    troubles = [message for message in messages if message != "ours"]
    assert len(troubles) == 10 + 5
    assert troubles[10] == "trouble 100 (and 90 lines of the clients left out)"


# --- traces


def spans(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.setting("trace.file")
@pytest.mark.setting("trace.sample_ratio")
def test_sampled_payloads_leave_spans_in_the_file(tmp_path: Path) -> None:
    """All, none, or about the share asked for; a trace that was begun elsewhere goes on whatever the ratio is."""
    record = Record("beef.ingest", 2, None, b"", (), 7)

    def traced(ratio: float, incoming: bytes | None = None) -> list[dict[str, Any]]:
        path = tmp_path / f"{ratio}-{incoming is None}.jsonl"
        tracer = Tracer("parse", TraceSettings(sample_ratio=ratio, file=str(path)))
        for _ in range(400):
            if (hop := tracer.begin(incoming, first=True)) is not None:
                hop.end(record, "ok", "")
        tracer.close()
        return spans(path)

    assert len(traced(1.0)) == 400
    assert traced(0.0) == []
    assert 100 < len(traced(0.5)) < 300  # ten standard deviations
    parent = b"00-" + b"ab" * 16 + b"-" + b"cd" * 8 + b"-01"
    went_on = traced(0.0, parent)
    assert {(span["trace_id"], span["parent_id"]) for span in went_on} == {("ab" * 16, "cd" * 8)}
    assert went_on[0]["attributes"]["messaging.kafka.offset"] == 7
    without = Tracer("parse", TraceSettings(sample_ratio=1.0))
    assert without.begin(None, first=True) is None
    without.close()


@pytest.mark.setting("trace.otlp_endpoint")
def test_spans_go_to_a_collector() -> None:
    """OTLP over HTTP, at the latest when the stage stops."""
    posts: list[tuple[str, bytes]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posts.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Collector)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    try:
        endpoint = f"http://127.0.0.1:{server.server_port}/v1/traces"
        tracer = Tracer("verify", TraceSettings(sample_ratio=1.0, otlp_endpoint=endpoint))
        hop = tracer.begin(None, first=True)
        assert hop is not None
        hop.end(Record("beef.parsed", 0, None, b""), "ok", "")
        tracer.close()
    finally:
        server.shutdown()
        serving.join()
        server.server_close()
    assert [path for path, _ in posts] == ["/v1/traces"]
    assert b"beefline-verify" in posts[0][1]


# --- script children


@pytest.mark.setting("sandbox.processes")
@pytest.mark.setting("sandbox.memory_bytes")
async def test_children_are_so_many_and_may_take_so_much() -> None:
    """The kernel's own figures: children of this process, and their limit on address space."""
    sandbox = Sandbox(Policy(), SandboxSettings(processes=2, memory_bytes=512 << 20))
    before = children()
    await sandbox.start()
    try:
        started = children() - before
        assert len(started) == 2
        assert {address_space(pid) for pid in started} == {512 << 20}
    finally:
        await sandbox.stop()


def address_space(pid: int) -> int:
    """A process's limit, bytes."""
    found = re.search(r"Max address space +(\d+)", Path(f"/proc/{pid}/limits").read_text())
    assert found
    return int(found.group(1))


def children() -> set[int]:
    """Processes this one started, and did not wait for yet."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        found |= {int(pid) for pid in (task / "children").read_text().split()}
    return found


# --- apply


def applied(settings: ApplySettings) -> World:
    """One payment, asked for two topics that admit everything and one that admits no payment."""
    world = World(managers=settings, names=("tm_anytx", "tm_other", "tm_helloworld"))
    world.asks(("accepted", "accepted"))
    return world.run(("accepted", "accepted"))


def outcomes(world: World) -> dict[str | None, str]:
    """By context, of the payload that names all three."""
    found: list[Result] = [RESULT.decode(record.value) for record in world.of(RESULTS)]
    key = world.ingest[1].key or b""
    return {
        result.context: result.code or result.outcome
        for result in found
        if key.decode() in result.request_ids and result.outcome != "accepted"
    }


@pytest.mark.setting("apply.topics")
def test_topics_that_are_hosted_apply_and_others_are_refused() -> None:
    """By their installed name, or by the place of their manager."""
    some = applied(ApplySettings(topics=("tm_anytx",)))
    unknown = "admission.unknown-topic"
    assert outcomes(some) == {"topic:tm_anytx": "applied", "topic:tm_other": unknown, "topic:tm_helloworld": unknown}
    more = applied(ApplySettings(topics=("tm_anytx", "tm_other=pipeline.overlay.builtin.anytx:AnyTx")))
    assert outcomes(more) == {
        "topic:tm_anytx": "applied", "topic:tm_other": "applied", "topic:tm_helloworld": unknown,
    }  # fmt: skip


@pytest.mark.setting("apply.broadcast_always")
def test_a_topic_may_have_everything_broadcast() -> None:
    """What its manager admits nothing of too."""
    hosted = ("tm_anytx", "tm_helloworld")

    def asking(settings: ApplySettings) -> set[bytes | None]:
        world = applied(settings)
        applying = {record.key for record in world.of(OPERATIONS)}
        assert b"topic:tm_helloworld" in applying
        return {
            context.encode()
            for record in world.of(BROADCAST, lambda record: record.key == world.txids[1])
            for context in BROADCAST.schema.decode(record.value).contexts
        }

    assert asking(ApplySettings(topics=hosted)) == {b"topic:tm_anytx"}
    always = ApplySettings(topics=hosted, broadcast_always=("tm_helloworld",))
    assert asking(always) == {b"topic:tm_anytx", b"topic:tm_helloworld"}


# --- TLS


@pytest.mark.setting("kafka.ssl_cert_file")
@pytest.mark.setting("kafka.ssl_key_file")
@pytest.mark.setting("kafka.ssl_check_hostname")
async def test_tls_shows_a_certificate_and_looks_at_the_brokers_name(tmp_path: Path) -> None:
    """A server that asks for certificates, and is called otherwise than by its address."""
    ours, theirs = Certificate(tmp_path, "client.test"), Certificate(tmp_path, "broker.test")
    server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(ours.file))
    server_side.load_cert_chain(theirs.file, theirs.key)
    server_side.verify_mode = ssl.CERT_REQUIRED

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"welcome")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=server_side)
    port = server.sockets[0].getsockname()[1]

    async def greeting(**settings: Any) -> bytes:
        kafka = KafkaSettings(security_protocol="SSL", ssl_ca_file=str(theirs.file), **settings)
        context = client_options(kafka)["ssl_context"]
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        try:
            return await reader.read()
        except (ssl.SSLError, ConnectionError):  # a refusal may come as an alert, or as an end
            return b""
        finally:
            writer.close()

    shown = {"ssl_cert_file": str(ours.file), "ssl_key_file": str(ours.key)}
    try:
        assert await greeting(**shown, ssl_check_hostname=False) == b"welcome"
        with pytest.raises(ssl.SSLCertVerificationError, match=r"127\.0\.0\.1"):
            await greeting(**shown)
        assert await greeting(ssl_check_hostname=False) == b""
        with pytest.raises(OSError):
            client_options(KafkaSettings(security_protocol="SSL", ssl_cert_file=str(tmp_path / "none.pem")))
    finally:
        server.close()
        await server.wait_closed()
