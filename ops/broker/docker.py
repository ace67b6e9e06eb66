"""A broker of one or three nodes in containers, by `docker compose`: for one node the service of the project's own
compose.yaml, for three a file of the same form that is written here from the same table."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from ops.broker import probe, processes, properties
from ops.broker.record import KAFKA_VERSION, LOOPBACK, Member, Record, cluster_id, layout, save
from ops.broker.trouble import BrokerError

IMAGE = f"apache/kafka:{KAFKA_VERSION}"
COMPOSE = Path(__file__).parents[2] / "compose.yaml"
COMPOSED_PAYLOAD = 8 << 20
"""Bytes: what the project's own compose.yaml is sized for."""

DATA = "/var/lib/kafka/data"
TOOLS = "/opt/kafka/bin"

INTERNAL = 9092
"""Port of clients inside the compose network, where a node is known by its service's name."""

CONTROLLER = 9093
HOST = 9094
"""Port of clients on this machine, inside the container: what they connect to is published on loopback."""

ASK_WITHIN_S = 20.0
START_WITHIN_S = 300.0  # the image may have to be pulled
LOOK_EVERY_S = 0.2


def lacking() -> str:
    """What keeps Docker from running a broker here; empty if nothing does. A command alone is no engine."""
    if shutil.which("docker") is None:
        return "Docker: not found"
    if not engine():
        return "Docker: the `docker` command is there, but no engine answers it (start Docker)"
    if not _says("docker", "compose", "version", "--short"):
        return "Docker: an engine answers, but `docker compose` is missing (install Docker's compose plugin)"
    return ""


def engine() -> bool:
    """Whether a Docker engine answers."""
    return bool(_says("docker", "version", "--format", "{{.Server.Version}}"))


def _says(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ASK_WITHIN_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def environment(shape: properties.Shape, node: int, services: Sequence[str], published: int | str) -> dict[str, str]:
    """Environment of a node's container.

    services: the nodes' service names, in the order of their ids from 1.
    published: the port of this machine that leads to the node, or compose's expression for it.
    """
    name = services[node - 1]
    return properties.environment(
        {
            "node.id": str(node),
            "log.dirs": DATA,
            "listeners": f"PLAINTEXT://:{INTERNAL},HOST://:{HOST},CONTROLLER://:{CONTROLLER}",
            "advertised.listeners": f"PLAINTEXT://{name}:{INTERNAL},HOST://{LOOPBACK}:{published}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,HOST:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "PLAINTEXT",
            **properties.voters((at, f"{service}:{CONTROLLER}") for at, service in enumerate(services, 1)),
            **properties.common(shape),
        }
    ) | {"KAFKA_HEAP_OPTS": f"-Xmx{properties.HEAP_MB[shape.nodes]}m -Xms{properties.HEAP_MB[shape.nodes]}m"}


def composed(members: Sequence[Member], payload: int, cluster: str) -> dict[str, Any]:
    """A compose project of these nodes (JSON is YAML too)."""
    services = [f"broker-{member.id}" for member in members]
    shape = properties.Shape(nodes=len(members), payload=payload)
    return {
        "services": {
            name: {
                "image": IMAGE,
                "environment": environment(shape, member.id, services, member.port) | {"CLUSTER_ID": cluster},
                "ports": [f"{LOOPBACK}:{member.port}:{HOST}"],
                "volumes": [f"data-{member.id}:{DATA}"],
                "stop_grace_period": "20s",
            }
            for name, member in zip(services, members, strict=True)
        },
        "volumes": {f"data-{member.id}": {} for member in members},
    }


class Docker:
    """The broker that a record describes, run in containers."""

    def __init__(self, folder: Path, record: Record) -> None:
        self.folder = folder
        self.record = record

    @property
    def place(self) -> Path:
        """Folder of what we keep of this cluster; its data are in Docker's volumes."""
        return layout(self.folder, len(self.record.members), "docker")

    @property
    def services(self) -> dict[int, str]:
        """Each node's service."""
        if self.file == COMPOSE:
            return {1: "broker"}
        return {member.id: f"broker-{member.id}" for member in self.record.members}

    @cached_property
    def file(self) -> Path:
        """The compose file: the project's own where it is at hand and fits."""
        if len(self.record.members) == 1 and self.record.payload == COMPOSED_PAYLOAD and COMPOSE.is_file():
            return COMPOSE
        return self.place / "compose.json"

    def compose(self, *arguments: str) -> list[str]:
        """A `docker compose` command on this home's project."""
        home = sha256(os.fsencode(self.folder)).hexdigest()[:10]
        project = f"beefline-{home}-{len(self.record.members)}"
        given = ["--project-name", project, "--file", str(self.file), "--env-file", str(self.place / "compose.env")]
        return ["docker", "compose", *given, *arguments]

    def begin(self) -> None:
        """Start the containers that do not run, and wait until all nodes answer.

        Raises:
            BrokerError: Docker refuses, or a node did not answer in time.
        """
        cluster = cluster_id(self.place)
        if self.file != COMPOSE:
            self.file.write_text(json.dumps(composed(self.record.members, self.record.payload, cluster), indent=2))
        port = self.record.members[0].port
        (self.place / "compose.env").write_text(f"BROKER_PORT={port}\nBROKER_CLUSTER_ID={cluster}\n")
        save(self.folder, self.record)
        try:
            self._up()
            self._wait(self.record.members)
        except BaseException:
            self.end()
            raise

    def _up(self) -> None:
        services = list(self.services.values())
        if not self.record.guarded:
            self._do("up", "--detach", "--no-deps", *services, within_s=START_WITHIN_S)
            return
        # Attached, `up` stops the containers when it gets the signal that its parent's end sends it.
        command = self.compose("up", "--no-deps", "--no-color", "--timeout", "3", *services)
        log = self.place / "compose.log"
        self.record.members[0].process = processes.spawn(command, log, str(self.file), guard=signal.SIGTERM)
        save(self.folder, self.record)

    def _do(self, *arguments: str, within_s: float = 60.0) -> str:
        try:
            command = self.compose(*arguments)
            done = subprocess.run(command, capture_output=True, text=True, timeout=within_s, check=False)
        except subprocess.TimeoutExpired as error:
            raise BrokerError(f"`docker compose {arguments[0]}` did not end within {within_s:.0f} s.") from error
        if done.returncode != 0:
            raise BrokerError(f"`docker compose {arguments[0]}` failed:\n{done.stderr.strip()[-2000:]}")
        return done.stdout.strip()

    def _wait(self, members: Sequence[Member]) -> None:
        deadline = time.monotonic() + START_WITHIN_S
        while True:
            lives = {node for node, pid in self.pids().items() if pid}
            if all(member.id in lives and lives <= probe.known(f"{LOOPBACK}:{member.port}") for member in members):
                return
            if time.monotonic() > deadline:
                logs = _says(*self.compose("logs", "--no-color", "--tail", "30"))
                raise BrokerError(f"The containers did not answer within {START_WITHIN_S:.0f} s:\n{logs}")
            time.sleep(LOOK_EVERY_S)

    def pids(self) -> dict[int, int | None]:
        """Each node's process id, as this machine numbers it; None of one that does not run."""
        return {node: self._pid(service) for node, service in self.services.items()}

    def _pid(self, service: str) -> int | None:
        container = _says(*self.compose("ps", "--quiet", service))
        said = _says("docker", "inspect", "--format", "{{.State.Pid}}", container) if container else ""
        return int(said) if said.isdigit() and said != "0" else None

    def addresses(self) -> dict[int, str]:
        """Each node's address."""
        return {m.id: f"{LOOPBACK}:{m.port}" for m in self.record.members}

    def down(self, node: int, *, kill: bool) -> None:
        """End one node: by SIGKILL, or as an operator would, by SIGTERM."""
        self._do("kill" if kill else "stop", self._service(node))

    def up(self, node: int, *, wait: bool) -> None:
        """Start one node again on its port and its data."""
        keeper = self.record.members[0].process
        if self.record.guarded and not (keeper and keeper.lives()):
            self._up()
        else:
            self._do("start", self._service(node))
        if wait:
            self._wait([member for member in self.record.members if member.id == node])

    def end(self) -> list[int]:
        """End all nodes. Docker does the killing, if need be."""
        self._do("stop")
        if keeper := self.record.members[0].process:
            processes.end([keeper], ASK_WITHIN_S)
        return []

    def wipe(self) -> None:
        """Remove the containers and their data."""
        if self.place.exists():
            self._do("down", "--volumes")
        shutil.rmtree(self.place, ignore_errors=True)

    def _service(self, node: int) -> str:
        if node not in self.services:
            raise BrokerError(f"There is no node {node}; the nodes are {', '.join(map(str, self.services))}.")
        return self.services[node]

    def tool(self, script: str, arguments: Sequence[str], *, terminal: bool) -> list[str]:
        """Command that runs one of Kafka's own tools in a node's container."""
        service = next(self.services[node] for node, pid in self.pids().items() if pid)
        bare = [] if terminal else ["-T"]
        return self.compose("exec", *bare, service, f"{TOOLS}/{script}.sh", *arguments)
