"""Brokers for tests: one a session, and a cluster of three for who asks. Tests keep apart by a prefix of their own."""

import os
import shutil
import signal
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from ops import broker as brokers
from ops.broker import docker, probe, properties
from ops.broker.plan import take_ports

ROOT = Path(__file__).parents[1]
CACHE = Path(os.environ.get("BEEFLINE_CACHE") or ROOT / ".beefline" / "cache").resolve()
"""Kafka's jars are fetched once, not once a test session."""

READY_WITHIN_S = 120.0

# A shell starts what it puts in the background deaf to SIGINT, and children inherit that; some tests end theirs by it.
signal.signal(signal.SIGINT, signal.default_int_handler)


class Broker(Protocol):
    """A broker that tests may break."""

    @property
    def bootstrap(self) -> str:
        """Where clients connect first."""
        ...

    def kill_node(self, node: int = 1) -> None:
        """End a node by SIGKILL."""
        ...

    def stop_node(self, node: int = 1) -> None:
        """End a node by SIGTERM."""
        ...

    def restart_node(self, node: int = 1) -> None:
        """Start it again on its port and data, and wait until it answers."""
        ...


class Launched:
    """A broker of our own launcher."""

    def __init__(self, running: brokers.Running) -> None:
        self.running = running

    @property
    def bootstrap(self) -> str:
        return self.running.bootstrap

    def kill_node(self, node: int = 1) -> None:
        brokers.kill_node(self.running, node)

    def stop_node(self, node: int = 1) -> None:
        brokers.stop_node(self.running, node)

    def restart_node(self, node: int = 1) -> None:
        brokers.restart_node(self.running, node)


class Contained:
    """A broker of one node in a container of testcontainers, told what our launcher tells its own."""

    def __init__(self) -> None:
        from testcontainers.core.container import DockerContainer

        (port,) = take_ports([0])
        self.bootstrap = f"127.0.0.1:{port}"
        told = docker.environment(properties.Shape(nodes=1, payload=brokers.PAYLOAD), 1, ["localhost"], port)
        self.container: Any = DockerContainer(docker.IMAGE).with_envs(**told).with_bind_ports(docker.HOST, port)
        self.container.start()
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + READY_WITHIN_S
        while not probe.known(self.bootstrap):
            assert time.monotonic() < deadline, self.container.get_logs()
            time.sleep(0.1)

    def kill_node(self, node: int = 1) -> None:
        self.container.get_wrapped_container().kill()

    def stop_node(self, node: int = 1) -> None:
        self.container.get_wrapped_container().stop()

    def restart_node(self, node: int = 1) -> None:
        self.container.get_wrapped_container().start()
        self._wait()


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker of one node for all tests of the session: in Docker when an engine answers, else from Kafka's jars."""
    if docker.engine():
        contained = Contained()
        yield contained
        contained.container.stop()
        return
    yield from _launched(tmp_path_factory.mktemp("broker"), nodes=1)


@pytest.fixture(scope="module")
def three_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A cluster of three nodes for the tests of a module."""
    yield from _launched(tmp_path_factory.mktemp("brokers"), nodes=3)


def _launched(home: Path, nodes: int) -> Iterator[Broker]:
    running = brokers.start(nodes, home=home, cache=CACHE, guarded=True)
    yield Launched(running)
    running.stop()
    if isinstance(running.runner, docker.Docker):
        running.runner.wipe()
    shutil.rmtree(home)  # a session's logs are tens of megabytes; pytest keeps three sessions' folders


@pytest.fixture
def prefix() -> str:
    """A prefix for topics, groups and transactional ids, used by no other test."""
    return f"t{uuid.uuid4().hex[:8]}."
