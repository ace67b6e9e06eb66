"""The broker launcher, on real brokers, by the commands a person types."""

import asyncio
import json
import os
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError
from aiokafka.helpers import create_ssl_context

from ops import broker as brokers
from ops.broker import BrokerError, java, probe, processes, properties, reset, tools
from ops.broker.plan import take_ports
from ops.broker.processes import Process, spawn
from ops.broker.record import Member, Record, load, save
from ops.cli.broker import Tail
from tests.conftest import CACHE, Broker
from topics.registry import largest_record

BEEFLINE = [sys.executable, "-m", "ops.cli.main"]
DEADLINE_S = 60.0


def eventually(true: Callable[[], bool], within_s: float = DEADLINE_S) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.05)


def runs(pid: int) -> bool:
    """Whether a process runs: one that ended, but that init did not wait for yet, does not."""
    file = Path(f"/proc/{pid}/stat")
    return file.exists() and file.read_text().rpartition(")")[2].split()[0] not in "ZX"


class Shell:
    """`beefline` as typed at a prompt, with a home of its own."""

    def __init__(self, home: Path, **environment: str) -> None:
        self.home = home
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("BEEFLINE_")}
        self.environment = inherited | {"BEEFLINE_HOME": str(home), "BEEFLINE_CACHE": str(CACHE)} | environment

    def __call__(self, *words: str, given: str = "") -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*BEEFLINE, *words], env=self.environment, input=given, capture_output=True, text=True, timeout=120
        )
        assert "Traceback" not in done.stderr or words[0] == "kafka", done.stderr  # Kafka's tools print their own
        return done

    def status(self) -> dict[str, Any]:
        done = self("broker", "status", "--json")
        said: dict[str, Any] = json.loads(done.stdout)
        assert done.returncode == (0 if said["nodes"] else 1)
        return said


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """With a home whose name has a blank and letters beyond ASCII, since people have such."""
    found = Shell(tmp_path / "Käse home")
    yield found
    found("broker", "stop")
    shutil.rmtree(found.home, ignore_errors=True)


@asynccontextmanager
async def started(client: Any) -> AsyncIterator[Any]:
    await client.start()
    try:
        yield client
    finally:
        await client.stop() if hasattr(client, "stop") else await client.close()


def admin(broker: Broker) -> Any:
    return started(AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap))


# --- what needs no broker


@pytest.mark.parametrize("nodes", [1, 3])
def test_every_record_of_every_topic_fits(nodes: int) -> None:
    payload = 8 << 20
    told = properties.common(properties.Shape(nodes=nodes, payload=payload))
    for name in ("message.max.bytes", "replica.fetch.max.bytes", "socket.request.max.bytes", "log.segment.bytes"):
        assert int(told[name]) >= largest_record(payload), name
    assert int(told["transaction.state.log.min.isr"]) == int(told["min.insync.replicas"]) == (2 if nodes == 3 else 1)


def test_ports_are_free_and_differ() -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        taken = busy.getsockname()[1]
        found = take_ports([taken, 0, 0, 0])
    assert taken not in found
    assert len(set(found)) == 4


def test_an_address_has_a_host_and_a_port() -> None:
    assert probe.split("[::1]:9092") == ("::1", 9092)
    for wrong in ("localhost", "localhost:", ":9092", "localhost:99999", "localhost:port"):
        with pytest.raises(BrokerError, match="HOST:PORT"):
            probe.split(wrong)


def test_what_speaks_something_else_is_no_broker() -> None:
    """An open port is not enough: a web server's answer is told from Kafka's."""

    def serve(server: socket.socket) -> None:
        with server.accept()[0] as link:
            link.recv(100)
            link.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as server:
        serving = threading.Thread(target=serve, args=(server,))
        serving.start()
        with pytest.raises(probe.NotKafkaError):
            probe.answers(f"127.0.0.1:{server.getsockname()[1]}")
        serving.join()


def test_a_process_number_that_was_used_again_is_not_ours(tmp_path: Path) -> None:
    """A record left by a killed predecessor may name a pid that another program has: it is never signalled."""
    other = spawn(["sleep", "600"], tmp_path / "out", "sleep")
    try:
        for stale in (
            Process(other.pid, other.birth - 1, "sleep"),
            Process(other.pid, other.birth, "server.properties"),
        ):
            folder = tmp_path / "broker"
            folder.mkdir(exist_ok=True)
            save(folder, Record(mode="jars", bootstrap="127.0.0.1:1", members=[Member(id=1, port=1, process=stale)]))
            assert brokers.status(tmp_path) is None
            assert brokers.stop(tmp_path) is None
            assert other.lives()
    finally:
        other.send(signal.SIGKILL)
    eventually(lambda: not other.lives())


@pytest.mark.parametrize(("words", "memory", "lives"), [
    (b"java server.properties", "4096", True),
    (b"sleep 600", "4096", False),
    (b"", "0", True),  # it is ending: gone is who gave its ports back
])  # fmt: skip
def test_a_process_that_becomes_its_command_is_told_apart_once_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: bytes, memory: str, lives: bool
) -> None:
    """In the middle of exec(2) the command line reads empty; on a busy machine a process stays there for a while."""
    (tmp_path / "7").mkdir()
    (tmp_path / "7/cmdline").write_bytes(b"")
    (tmp_path / "7/stat").write_text(f"7 (a) b) R 1 {' '.join('0' for _ in range(17))} 55 {memory} 0")
    monkeypatch.setattr(processes, "PROC", tmp_path)
    naming = threading.Timer(0.05, (tmp_path / "7/cmdline").write_bytes, [words])
    naming.start()
    try:
        assert Process(7, 55, "server.properties").lives() is lives
    finally:
        naming.join()


def test_a_log_is_followed_over_its_replacement(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "broker.log"
    log.write_text("1\n2\n3\n")
    tail = Tail(log, "")
    tail.last(2)
    with log.open("a") as more:
        more.write("4\n")
    log.rename(tmp_path / "broker.log.1")
    log.write_text("5\n")
    tail.more()
    tail.more()
    tail.close()
    assert capsys.readouterr().out.split() == ["2", "3", "4", "5"]


# --- what is missing


def script(folder: Path, name: str, body: str) -> None:
    folder.mkdir(exist_ok=True)
    file = folder / name
    file.write_text(body)
    file.chmod(file.stat().st_mode | stat.S_IXUSR)


OLD_JAVA = "#!/bin/sh\necho 'openjdk version \"11.0.2\"' >&2\n"
NEW_JAVA = "#!/bin/sh\necho 'openjdk version \"21.0.1\"' >&2\n"
NO_ENGINE = "#!/bin/sh\necho 'Cannot connect to the Docker daemon' >&2\nexit 1\n"


@pytest.mark.parametrize(
    ("programs", "words"),
    [
        ({}, ["--bootstrap HOST:PORT", "Docker: not found", "Java 17 or newer: not found (install a JDK"]),
        ({"java": OLD_JAVA, "docker": NO_ENGINE}, ["no engine answers", "is Java 11"]),
        ({"java": NEW_JAVA}, ["Docker: not found", "Maven, which fetches Kafka's jars for Java: not found"]),
    ],
)
def test_a_machine_without_any_way_is_told_what_is_missing(
    tmp_path: Path, programs: dict[str, str], words: list[str]
) -> None:
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    for name, body in programs.items():
        script(bin_folder, name, body)
    bare = Shell(tmp_path / "home", PATH=str(bin_folder), JAVA_HOME="", BEEFLINE_CACHE=str(tmp_path / "cache"))
    done = bare("broker", "start")
    assert done.returncode == 1
    assert all(word in done.stderr for word in words), done.stderr


def test_a_broker_that_is_named_must_answer(tmp_path: Path) -> None:
    (free,) = take_ports([0])
    done = Shell(tmp_path)("broker", "start", "--bootstrap", f"127.0.0.1:{free}")
    assert done.returncode == 1
    assert "No Kafka broker answers there" in done.stderr


# --- one node, from start to stop


def with_fake_docker(shell: Shell, broker: Broker) -> dict[str, str]:
    """The `docker` command becomes a stand-in, whose one container forwards to the session's broker."""
    fake = shell.home.parent / "fake"
    script(fake, "docker", f"#!{sys.executable}\n{Path(__file__).with_name('fake_docker.py').read_text()}")
    path = f"{fake}:{shell.environment['PATH']}"
    shell.environment |= {"FAKE_DOCKER": str(fake), "FAKE_BROKER": broker.bootstrap, "PATH": path}
    return shell.environment


@pytest.mark.broker
def test_a_broker_is_started_found_killed_and_started_again(shell: Shell, broker: Broker) -> None:
    """All its life, in a home beside that of the session's broker, which goes on."""
    assert shell.status()["nodes"] == []
    assert "No broker is running" in shell("broker", "status").stdout
    assert shell("broker", "start").returncode == 0
    first = shell.status()
    (node,) = first["nodes"]
    assert set(probe.brokers(first["bootstrap"])) == {node["id"]}
    assert first["bootstrap"] not in broker.bootstrap
    assert os.getsid(node["pid"]) == node["pid"], "Ctrl-C at the terminal does not reach it"

    again = shell("broker", "start")
    assert (again.returncode, "running already" in again.stdout) == (0, True)
    assert shell.status() == first
    assert shell("broker", "start", "--nodes", "3").returncode == 1
    assert shell("broker", "start", "--fresh").returncode == 1
    assert "Kafka Server started" in shell("broker", "logs").stdout
    assert shell("kafka", "topics", "--create", "--topic", "kept", "--partitions", "1").returncode == 0

    os.kill(node["pid"], signal.SIGKILL)
    eventually(lambda: shell.status()["nodes"] == [])
    assert shell("broker", "start").returncode == 0
    second = shell.status()
    assert second["bootstrap"] == first["bootstrap"]
    assert second["nodes"][0]["pid"] != node["pid"]
    assert shell("kafka", "topics", "--list").stdout.split() == ["kept"]

    assert shell("broker", "stop").returncode == 0
    assert shell.status()["nodes"] == []
    assert not runs(second["nodes"][0]["pid"])
    assert "No broker was running" in shell("broker", "stop").stdout
    assert shell("broker", "start", "--fresh").returncode == 0
    assert shell("kafka", "topics", "--list").stdout.split() == []
    assert probe.known(broker.bootstrap) == {1}


@pytest.mark.broker
def test_a_start_that_was_killed_is_taken_up_by_the_next(shell: Shell) -> None:
    half = subprocess.Popen([*BEEFLINE, "broker", "start"], env=shell.environment, stdout=subprocess.DEVNULL)
    folder = shell.home / "broker"

    def has_begun() -> bool:
        record = load(folder)
        return record is not None and record.members[0].process is not None

    eventually(has_begun)
    half.kill()
    half.wait()
    record = load(folder)
    assert record
    assert record.members[0].process
    (folder / "record.json").unlink()  # as if it had been killed before it wrote the number down
    assert shell("broker", "start").returncode == 0
    assert not record.members[0].process.lives(), "the one nobody knew of is ended"
    assert len(shell.status()["nodes"]) == 1


GUARDED = """
import pathlib, sys, ops.broker
home, cache = map(pathlib.Path, sys.argv[1:3])
running = ops.broker.start(home=home, cache=cache, how=sys.argv[3], guarded=True)
print(running.bootstrap, flush=True)
sys.stdin.read()
"""


def ends_with_its_parent(home: Path, how: str, environment: dict[str, str]) -> None:
    """The parent is killed by SIGKILL, so nothing in it can clean up: five seconds later nothing is left."""
    command = [sys.executable, "-c", GUARDED, str(home), str(CACHE), how]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        bootstrap = parent.stdout.readline().strip()
        assert probe.known(bootstrap) == {1}
        parent.kill()
    eventually(lambda: not probe.known(bootstrap), within_s=5)


@pytest.mark.invariant("PROC-1")
@pytest.mark.broker
def test_a_guarded_broker_ends_with_its_parent(tmp_path: Path) -> None:
    try:
        ends_with_its_parent(tmp_path, "jars", dict(os.environ))
        eventually(lambda: brokers.status(tmp_path) is None, within_s=5)  # its ports close before it has ended
    finally:
        brokers.stop(tmp_path)


@pytest.mark.invariant("PROC-1")
@pytest.mark.broker
def test_a_guarded_container_ends_with_its_parent(shell: Shell, broker: Broker) -> None:
    ends_with_its_parent(shell.home, "docker", with_fake_docker(shell, broker))


@pytest.mark.broker
async def test_a_killed_node_comes_back_with_its_records(broker: Broker, prefix: str) -> None:
    topic = prefix + "kept"
    async with admin(broker) as client:
        await client.create_topics([NewTopic(topic, num_partitions=1, replication_factor=1)])
    async with started(AIOKafkaProducer(bootstrap_servers=broker.bootstrap, acks="all")) as producer:
        await producer.send_and_wait(topic, b"before")
    broker.kill_node()
    assert not probe.known(broker.bootstrap)
    broker.restart_node()
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=broker.bootstrap, auto_offset_reset="earliest")
    async with started(consumer):
        assert (await consumer.getone()).value == b"before"


# --- a broker somebody else runs


@pytest.mark.broker
def test_a_broker_somebody_else_runs_is_checked_and_remembered(shell: Shell, broker: Broker) -> None:
    assert shell("broker", "start", "--bootstrap", broker.bootstrap).returncode == 0
    said = shell.status()
    assert said["bootstrap"] == broker.bootstrap
    assert said["mode"] == "address"
    assert [(node["id"], node["pid"]) for node in said["nodes"]] == [(1, None)]
    assert shell("broker", "logs").returncode == 1
    shell("broker", "stop")
    assert shell.status()["nodes"] == []
    assert probe.known(broker.bootstrap), "it was only forgotten"


# --- Docker


@pytest.mark.broker
def test_docker_is_asked_first_and_runs_the_project_s_own_compose_file(shell: Shell, broker: Broker) -> None:
    with_fake_docker(shell, broker)
    assert shell("broker", "start").returncode == 0
    said = shell.status()
    assert said["mode"] == "docker"
    assert probe.known(said["bootstrap"]) == {1}
    listed = shell("kafka", "topics", "--list").stdout.split()
    assert listed[-6:] == [
        "-T",
        "broker",
        "/opt/kafka/bin/kafka-topics.sh",
        "--bootstrap-server",
        "broker:9092",
        "--list",
    ]
    os.kill(said["nodes"][0]["pid"], signal.SIGKILL)
    eventually(lambda: shell.status()["nodes"] == [])
    assert shell("broker", "start").returncode == 0
    assert shell("broker", "stop").returncode == 0
    assert shell.status()["nodes"] == []
    calls = [json.loads(line) for line in Path(shell.environment["FAKE_DOCKER"], "calls").read_text().splitlines()]
    up = next(call for call in calls if "up" in call)
    assert Path(up[up.index("--file") + 1]).name == "compose.yaml"
    assert up[-3:] == ["--detach", "--no-deps", "broker"]


# --- SASL over TLS


def kept(file: str) -> tuple[str, int]:
    """What is in a file, and who may read it."""
    return Path(file).read_text(), stat.S_IMODE(Path(file).stat().st_mode)


@pytest.mark.broker
async def test_a_secured_listener_takes_scram_and_plain_and_nothing_else(tmp_path: Path) -> None:
    running = brokers.start(home=tmp_path, cache=CACHE, guarded=True, sasl_ssl=True)
    try:
        secure = running.secure
        assert secure
        password, mode = kept(secure.password_file)
        assert mode == 0o600

        def options(mechanism: str = "SCRAM-SHA-512", key: str = password, ca: str | None = secure.ca_file) -> Any:
            return {
                "bootstrap_servers": secure.bootstrap,
                "security_protocol": "SASL_SSL",
                "sasl_mechanism": mechanism,
                "sasl_plain_username": secure.user,
                "sasl_plain_password": key,
                "ssl_context": create_ssl_context(cafile=ca) if ca else ssl.create_default_context(),
            }

        async with started(AIOKafkaAdminClient(**options())) as client:
            await client.create_topics([NewTopic("t", num_partitions=1, replication_factor=1)])
        async with started(AIOKafkaProducer(**options(), acks="all")) as producer:
            await producer.send_and_wait("t", b"sealed")
        consumer = AIOKafkaConsumer("t", **options("PLAIN"), auto_offset_reset="earliest")
        async with started(consumer):
            assert (await consumer.getone()).value == b"sealed"
        for wrong in (options(key="guessed"), options("PLAIN", key="guessed"), options(ca=None)):
            refused = AIOKafkaProducer(**wrong)
            with pytest.raises(KafkaError):
                await refused.start()
            await refused.stop()
        context = ssl.create_default_context(cafile=secure.ca_file)
        assert probe.answers(secure.bootstrap, tls=context), "as `--bootstrap --security-protocol SASL_SSL` asks"
    finally:
        running.stop()


# --- Kafka's own tools


def test_every_tool_is_in_the_jars() -> None:
    libs = java.get(CACHE, print).libs
    classes: set[str] = set()
    for jar in libs.glob("kafka*.jar"):
        classes |= set(zipfile.ZipFile(jar).namelist())
    for name, tool in tools.TOOLS.items():
        assert tool.main.replace(".", "/") + ".class" in classes, name


@pytest.mark.broker
def test_kafka_s_tools_are_given_the_running_broker(broker: Broker, prefix: str, tmp_path: Path) -> None:
    shell = Shell(tmp_path, BEEFLINE_KAFKA_BOOTSTRAP=broker.bootstrap)
    topic = prefix + "typed"
    assert shell("kafka", "topics", "--create", "--topic", topic, "--partitions", "1").returncode == 0
    assert shell("kafka", "console-producer", "--topic", topic, given="one\ntwo\n").returncode == 0
    read = ["--from-beginning", "--max-messages", "2", "--isolation-level", "read_committed", "--group", prefix + "g"]
    assert shell("kafka", "console-consumer", "--topic", topic, *read).stdout == "one\ntwo\n"
    assert shell("kafka", "get-offsets", "--topic", topic).stdout == f"{topic}:0:2\n"
    described = shell("kafka", "consumer-groups", "--describe", "--group", prefix + "g").stdout
    assert [line.split()[1:6] for line in described.splitlines() if topic in line] == [[topic, "0", "2", "2", "0"]]
    other = Shell(tmp_path)
    listed = other("kafka", "topics", "--list", f"--bootstrap-server={broker.bootstrap}")
    assert topic in listed.stdout.split()
    assert other("kafka", "topics", "--list").returncode == 1, "no broker runs in this home and none is named"
    assert shell("kafka", "topics", "--describe", "--topic", prefix + "none").returncode == 1, (
        "the tool's own exit code"
    )


@pytest.mark.broker
async def test_a_refused_offset_reset_says_how_long_it_lasts(broker: Broker, prefix: str, tmp_path: Path) -> None:
    """While its member lives, and after: one with a lasting name stops without leaving, so the group stays Stable."""
    topic, group, session_s = prefix + "t", prefix + "g", 8
    async with admin(broker) as client:
        await client.create_topics([NewTopic(topic, num_partitions=1, replication_factor=1)])
    async with started(AIOKafkaProducer(bootstrap_servers=broker.bootstrap)) as producer:
        await producer.send_and_wait(topic, b"1")
    member = AIOKafkaConsumer(
        topic,
        bootstrap_servers=broker.bootstrap,
        group_id=group,
        group_instance_id="apply-0",
        session_timeout_ms=session_s * 1000,
        heartbeat_interval_ms=1000,
        auto_offset_reset="earliest",
    )
    shell = Shell(tmp_path, BEEFLINE_KAFKA_BOOTSTRAP=broker.bootstrap)
    words = f"kafka consumer-groups --reset-offsets --group {group} --topic {topic} --to-earliest --execute".split()
    async with started(member):
        await member.getone()
        await member.commit()
        refused = await asyncio.to_thread(shell, *words)  # beside its heartbeats
    assert refused.returncode != 0
    assert f"still {session_s} s until the group is empty" in refused.stderr
    assert "apply-0" in refused.stderr
    eventually(lambda: shell(*words).returncode == 0)


@pytest.mark.parametrize(("group", "of_50", "of_4"), [
    ("beefline.parse", 49, 3),
    ("t1ce482b3.g", 25, 3),  # its hash is below zero, where clearing the sign bit names another partition
    ("polygenelubricants", 0, 0),  # the one value that has no absolute: -2^31
])  # fmt: skip
def test_a_group_s_record_is_where_kafka_keeps_it(group: str, of_50: int, of_4: int) -> None:
    """The figures are of Kafka's own `Utils.abs(group.hashCode()) % partitions`."""
    assert (reset.partition_of(group, 50), reset.partition_of(group, 4)) == (of_50, of_4)


def test_a_group_that_cannot_be_read_is_given_the_default() -> None:
    (free,) = take_ports([0])
    why = reset.read(f"127.0.0.1:{free}", ["g"])["g"]
    assert isinstance(why, str)
    assert "KafkaConnectionError" in why
    said = reset.explain("g", "Stable", why, 10.0)
    assert "still 10 s until the group is empty" in said
    assert "KafkaConnectionError" in said


# --- three nodes


@pytest.mark.broker
async def test_three_nodes_lose_one_and_go_on(three_nodes: Broker, prefix: str) -> None:
    topic = prefix + "copies"

    async def in_sync() -> set[int]:
        async with admin(three_nodes) as client:
            (found,) = await client.describe_topics([topic])
            return {node for partition in found["partitions"] for node in partition["isr"]}

    async def until_in_sync(nodes: set[int]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while await in_sync() != nodes:
            assert time.monotonic() < deadline

    async with admin(three_nodes) as client:
        await client.create_topics([NewTopic(topic, num_partitions=1, replication_factor=3)])
    await until_in_sync({1, 2, 3})
    async with started(AIOKafkaProducer(bootstrap_servers=three_nodes.bootstrap, acks="all")) as producer:
        await producer.send_and_wait(topic, b"three")
        three_nodes.kill_node(2)
        await producer.send_and_wait(topic, b"two")
    await until_in_sync({1, 3})
    three_nodes.restart_node(2)
    await until_in_sync({1, 2, 3})
    three_nodes.stop_node(3)
    three_nodes.restart_node(3)
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=three_nodes.bootstrap, auto_offset_reset="earliest")
    async with started(consumer):
        assert [(await consumer.getone()).value for _ in range(2)] == [b"three", b"two"]
