"""A broker of one or three nodes from Kafka's jars: processes of this machine, on loopback."""

import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

from ops.broker import probe, processes, properties, tls
from ops.broker.java import Java, get
from ops.broker.record import LOOPBACK, Member, Record, cluster_id, layout, save
from ops.broker.trouble import BrokerError

START_WITHIN_S = 120.0
"""3 s for one node and 10 s for three on two cores; after a kill it reads its logs again first (1.2 GB: 16 s)."""

STOP_WITHIN_S = 20.0
FORMAT_WITHIN_S = 60.0
LOOK_EVERY_S = 0.05
LOGS = ("jvm.log", "broker.log")
TAIL = 2000  # characters of a log that are shown when a start fails


class PortTakenError(BrokerError):
    """Another program took the port between our look and the broker's start."""


class Jars:
    """The broker that a record describes, run from the jars."""

    def __init__(self, folder: Path, record: Record, cache: Path, say: Callable[[str], None]) -> None:
        self.folder = folder
        self.record = record
        self.cache = cache  # of the jars
        self.say = say  # told what takes long
        self._logged: dict[Path, int] = {}  # length of each log when its node was last started

    @cached_property
    def java(self) -> Java:
        """What starts nodes and runs tools.

        Raises:
            BrokerError: what is missing.
        """
        return get(self.cache, self.say)

    # --- starting

    @property
    def place(self) -> Path:
        """Folder of this cluster's data."""
        return layout(self.folder, len(self.record.members), "secure" if self.record.secure else "")

    def node(self, node: int) -> Path:
        """Folder of a node."""
        return self.place / f"node-{node}"

    def configuration(self, node: int) -> Path:
        """A node's properties file; its path in a command line tells our processes from others."""
        return self.node(node) / "server.properties"

    def wipe(self) -> None:
        """Remove all data of clusters of this shape."""
        shutil.rmtree(self.place, ignore_errors=True)

    def begin(self) -> None:
        """Start the nodes that do not run, and wait until all answer. A start that fails leaves nothing running.

        Raises:
            BrokerError: a node ended, or did not answer in time.
            PortTakenError: as above, because of its port.
        """
        began: list[int] = []
        try:
            if self.record.secure:
                tls.make(Path(self.record.secure.ca_file).parent)
            for member in self.record.members:
                self._write(member)
            self._format()
            for member in self.record.members:
                if not _lives(member):
                    processes.end(processes.holding(str(self.configuration(member.id))), STOP_WITHIN_S)
                    began.append(member.id)
                    self._spawn(member)
            self._wait(self.record.members)
        except BaseException:
            doomed = [m.process for m in self.record.members if m.id in began and m.process]
            for process in doomed:
                process.send(signal.SIGKILL)
            processes.gone(doomed, processes.KILL_WITHIN_S)
            raise

    def _write(self, member: Member) -> None:
        """The node's properties file, which holds the secret of the TLS key where there is one."""
        self.node(member.id).mkdir(parents=True, exist_ok=True)
        file = self.configuration(member.id)
        file.touch(mode=0o600)
        file.write_text(properties.text(self._values(member)))

    def _values(self, member: Member) -> dict[str, str]:
        secure = self.record.secure
        listeners = {"PLAINTEXT": member.port} | ({"SECURE": member.secure_port} if secure else {})
        clients = ",".join(f"{name}://{LOOPBACK}:{port}" for name, port in listeners.items())
        shape = properties.Shape(nodes=len(self.record.members), payload=self.record.payload)
        return {
            "node.id": str(member.id),
            "log.dirs": str(self.node(member.id) / "data"),
            "listeners": f"{clients},CONTROLLER://{LOOPBACK}:{member.controller_port}",
            "advertised.listeners": clients,
            "inter.broker.listener.name": "PLAINTEXT",
            **properties.voters((m.id, f"{LOOPBACK}:{m.controller_port}") for m in self.record.members),
            **(tls.properties(secure) if secure else {}),
            **properties.common(shape),
        }

    def _format(self) -> None:
        """Make the data folders of nodes that have none; those of a start that was cut short are made again."""
        new = [m.id for m in self.record.members if not (self.node(m.id) / "formatted").exists()]
        cluster = cluster_id(self.place)
        arguments = ["--add-scram", tls.scram(self.record.secure)] if self.record.secure else []
        running: dict[int, subprocess.Popen[str]] = {}
        for node in new:
            shutil.rmtree(self.node(node) / "data", ignore_errors=True)
            config = str(self.configuration(node))
            command = self.java.tool("kafka.tools.StorageTool", ["format", "-t", cluster, "-c", config, *arguments])
            running[node] = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for node, process in running.items():
            try:
                said, _ = process.communicate(timeout=FORMAT_WITHIN_S)
            except subprocess.TimeoutExpired as error:
                process.kill()
                raise BrokerError(f"The data folder of node {node} was not made in {FORMAT_WITHIN_S:.0f} s.") from error
            if process.returncode != 0:
                raise BrokerError(f"Kafka could not make the data folder of node {node}:\n{said.strip()[-TAIL:]}")
            (self.node(node) / "formatted").touch()

    def _spawn(self, member: Member) -> None:
        folder, config = self.node(member.id), self.configuration(member.id)
        for log in (folder / name for name in LOGS):
            log.touch(mode=0o600)
            self._logged[log] = log.stat().st_size
        nodes = len(self.record.members)
        command = self.java.broker(properties.HEAP_MB[nodes], properties.COMPILER, folder / "broker.log", config)
        guard = signal.SIGKILL if self.record.guarded else None
        member.process = processes.spawn(command, folder / "jvm.log", str(config), guard=guard)
        save(self.folder, self.record)  # at once, so that whoever comes after a kill of ours finds the process

    def _wait(self, members: Sequence[Member]) -> None:
        """Until these nodes answer, and know of every node that lives."""
        deadline = time.monotonic() + START_WITHIN_S
        waiting = list(members)
        while waiting:
            waiting = [member for member in waiting if not self._knows_all(member)]
            for member in waiting:
                if not _lives(member):
                    self._failed(member.id)
            if waiting and time.monotonic() > deadline:
                names = ", ".join(str(member.id) for member in waiting)
                raise BrokerError(
                    f"Node {names} did not answer within {START_WITHIN_S:.0f} s:\n{self._tail(waiting[0].id)}"
                )
            if waiting:
                time.sleep(LOOK_EVERY_S)

    def _knows_all(self, member: Member) -> bool:
        return {m.id for m in self.record.members if _lives(m)} <= probe.known(f"{LOOPBACK}:{member.port}")

    def _failed(self, node: int) -> None:
        tail = self._tail(node)
        if "BindException" in tail or "Address already in use" in tail:
            raise PortTakenError(f"Node {node} found its port taken:\n{tail}")
        raise BrokerError(f"Node {node} ended while it was starting:\n{tail}")

    def _tail(self, node: int) -> str:
        """The last that the node said since it was started."""
        said = []
        for log in (self.node(node) / name for name in LOGS):
            new = log.read_bytes()[self._logged.get(log, 0) :] if log.exists() else b""
            said.append(new[-TAIL:].decode(errors="replace").strip())
        return "\n".join(said).strip()

    # --- running

    def pids(self) -> dict[int, int | None]:
        """Each node's process id; None of one that does not run."""
        return {m.id: m.process.pid if m.process and _lives(m) else None for m in self.record.members}

    def addresses(self) -> dict[int, str]:
        """Each node's address."""
        return {m.id: f"{LOOPBACK}:{m.port}" for m in self.record.members}

    def down(self, node: int, *, kill: bool) -> None:
        """End one node: by SIGKILL, or as an operator would, by SIGTERM."""
        process = self._member(node).process
        if process is None:
            return
        if kill:
            process.send(signal.SIGKILL)
            processes.gone([process], processes.KILL_WITHIN_S)
        else:
            processes.end([process], STOP_WITHIN_S)

    def up(self, node: int, *, wait: bool) -> None:
        """Start one node again on its port and its data."""
        member = self._member(node)
        if not _lives(member):
            self._spawn(member)
        if wait:
            self._wait([member])

    def end(self) -> list[int]:
        """End all nodes; returns the ids of those that had to be killed."""
        lives = {m.id: m.process for m in self.record.members if m.process and m.process.lives()}
        killed = processes.end(list(lives.values()), STOP_WITHIN_S)
        return [node for node, process in lives.items() if process in killed]

    def _member(self, node: int) -> Member:
        for member in self.record.members:
            if member.id == node:
                return member
        raise BrokerError(
            f"There is no node {node}; the nodes are {', '.join(str(m.id) for m in self.record.members)}."
        )

    def log_files(self) -> dict[int, list[Path]]:
        """Each node's logs: what its JVM printed, and its own."""
        return {m.id: [self.node(m.id) / name for name in LOGS] for m in self.record.members}


def _lives(member: Member) -> bool:
    return member.process is not None and member.process.lives()
