"""A real Kafka on loopback: started, found again, ended; whole, or node by node for fault tests.

`start` takes a broker that you name by its address; else Docker, when an engine answers; else Kafka's jars, fetched by
Maven, on Java 17 or newer. What runs is written down in the home, so that any other command finds it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from ops import home as homes
from ops.broker import docker, java
from ops.broker.address import Address
from ops.broker.docker import Docker
from ops.broker.jars import Jars, PortTakenError
from ops.broker.plan import Wish, plan
from ops.broker.record import Record, Secure, forget, load, locked, save
from ops.broker.trouble import BrokerError

__all__ = [
    "BrokerError", "Node", "Running", "Secure", "kill_node", "last", "restart_node", "start", "status",
    "stop", "stop_node",
]  # fmt: skip

Runner: TypeAlias = Address | Docker | Jars

PAYLOAD = 8 << 20
"""Bytes: the default of `topics.max_payload_bytes`."""

SHAPES = (1, 3)
PORT_RACES = 3  # times a port may be taken from under us before we say so


class Node(NamedTuple):
    """A node of the cluster."""

    id: int
    pid: int | None  # None: it does not run, or not on this machine


class Running:
    """A broker that runs, or ran when this was made: what it tells is asked anew each time."""

    def __init__(self, folder: Path, runner: Runner, *, began: bool) -> None:
        self.folder = folder
        self.runner = runner
        self.began = began  # by the call that returned this

    @property
    def record(self) -> Record:
        """What is written down about it."""
        return self.runner.record

    @property
    def bootstrap(self) -> str:
        """Where clients connect first: host:port, comma-separated."""
        return self.record.bootstrap

    @property
    def secure(self) -> Secure | None:
        """The listener with SASL_SSL, if it was started with one."""
        return self.record.secure

    @property
    def nodes(self) -> list[Node]:
        """The nodes, by id."""
        return [Node(node, pid) for node, pid in sorted(self.runner.pids().items())]

    def address(self, node: int) -> str:
        """Where one node listens.

        Raises:
            KeyError: there is no such node.
        """
        return self.runner.addresses()[node]

    def stop(self) -> list[int]:
        """End all nodes, cleanly if they let us; returns the ids of those that had to be killed.

        A broker named by its address is only forgotten.
        """
        with locked(self.folder):
            return _end(self.folder, self.runner)


def start(
    nodes: int = 1,
    *,
    home: Path | None = None,
    cache: Path | None = None,
    bootstrap: str = "",
    protocol: str = "PLAINTEXT",
    ca_file: str = "",
    how: Literal["any", "docker", "jars"] = "any",
    guarded: bool = False,
    fresh: bool = False,
    sasl_ssl: bool = False,
    max_payload_bytes: int = PAYLOAD,
    say: Callable[[str], None] = lambda _: None,
) -> Running:
    """Start a broker, or find the one that runs in this home; returns when all its nodes answer.

    Nodes of ours that were killed are started again on their ports and data.

    home, cache: as `ops.home` says.
    bootstrap, protocol, ca_file: of a broker that somebody else runs; it is only checked and written down.
    guarded: it ends when the calling thread does (so call from one that stays), and so when its process does, however
        that ends. One that already runs is returned as it is: see `Running.began`.
    fresh: on empty data; refused while one runs.
    sasl_ssl: with a second listener (`Running.secure`) that takes SCRAM-SHA-512 and PLAIN over TLS; from jars only.
    max_payload_bytes: sizes the largest record.
    say: told what takes long.
    Cost: 4 s for one node, 10 s for three, on two cores; fetching the jars comes before that, once.

    Raises:
        BrokerError: what is missing or in the way, in words for a person.
    """
    if nodes not in SHAPES:
        raise BrokerError(f"A broker has 1 node or 3, not {nodes}.")
    folder, jars = (home or homes.home()) / "broker", cache or homes.cache()
    with locked(folder):
        last = load(folder)
        if last is not None:
            runner = _runner(folder, last, jars, say)
            if isinstance(runner, Address) or any(runner.pids().values()):
                return _go_on(folder, runner, nodes, bootstrap, fresh=fresh, sasl_ssl=sasl_ssl)
        if bootstrap:
            named = Address(Record(mode="address", bootstrap=bootstrap, protocol=protocol, ca_file=ca_file))
            named.begin()
            save(folder, named.record)
            return Running(folder, named, began=True)
        wish = Wish(nodes=nodes, payload=max_payload_bytes, guarded=guarded, sasl_ssl=sasl_ssl)
        mode = _choose(how, wish, jars)
        for race in range(PORT_RACES):
            began = _runner(folder, plan(folder, mode, wish, last), jars, say)
            assert not isinstance(began, Address)
            if fresh:
                began.wipe()
            try:
                began.begin()
            except PortTakenError:
                if race + 1 == PORT_RACES:
                    raise
                continue
            return Running(folder, began, began=True)
    raise AssertionError("the last race returns or raises")


def _go_on(folder: Path, runner: Runner, nodes: int, bootstrap: str, *, fresh: bool, sasl_ssl: bool) -> Running:
    """What runs already is what was asked for, made whole again; or it is in the way."""
    record = runner.record
    if isinstance(runner, Address):
        if bootstrap and bootstrap != record.bootstrap:
            raise BrokerError(f"The broker at {record.bootstrap} is in use here. `beefline broker stop` forgets it.")
        runner.begin()
        return Running(folder, runner, began=False)
    found = f"A broker of {len(record.members)} node(s) runs at {record.bootstrap}"
    asks = {
        "it cannot be wiped while it runs": fresh,
        "another address was asked for": bool(bootstrap) and bootstrap != record.bootstrap,
        f"{nodes} node(s) were asked for": len(record.members) != nodes and not bootstrap,
        "it has no SASL_SSL listener": sasl_ssl and record.secure is None,
    }
    if against := [why for why, so in asks.items() if so]:
        raise BrokerError(f"{found}, and {', and '.join(against)}: run `beefline broker stop` first.")
    runner.begin()
    return Running(folder, runner, began=False)


def _choose(how: Literal["any", "docker", "jars"], wish: Wish, cache: Path) -> Literal["docker", "jars"]:
    """Docker or the jars, or everything that is missing for either."""
    lacks = {}
    if how in ("any", "docker") and not wish.sasl_ssl:
        lacks["docker"] = docker.lacking()
        if not lacks["docker"]:
            return "docker"
    if how in ("any", "jars") or wish.sasl_ssl:
        lacks["jars"] = java.lacking() or java.lacking_jars(cache)
        if not lacks["jars"]:
            return "jars"
    raise BrokerError(
        "There is nothing here to run Kafka with. Any one of these will do:\n"
        "  - a broker you have: name it, `beefline broker start --bootstrap HOST:PORT`\n"
        + "\n".join(f"  - {what}" for what in lacks.values())
    )


def _runner(folder: Path, record: Record, cache: Path, say: Callable[[str], None]) -> Runner:
    if record.mode == "address":
        return Address(record)
    if record.mode == "docker":
        return Docker(folder, record)
    return Jars(folder, record, cache, say)


def status(home: Path | None = None, *, cache: Path | None = None) -> Running | None:
    """The broker of this home, if it runs: any node of ours lives, or the address answers."""
    found = last(home, cache=cache)
    if found is None:
        return None
    runner = found.runner
    lives = runner.answers() if isinstance(runner, Address) else any(runner.pids().values())
    return found if lives else None


def last(home: Path | None = None, *, cache: Path | None = None) -> Running | None:
    """The broker that was last started in this home, whether it runs or not."""
    folder = (home or homes.home()) / "broker"
    record = load(folder)
    if record is None:
        return None
    return Running(folder, _runner(folder, record, cache or homes.cache(), lambda _: None), began=False)


def stop(home: Path | None = None) -> list[int] | None:
    """Stop the broker of this home: the ids of nodes that had to be killed, or None where none ran."""
    folder = (home or homes.home()) / "broker"
    if not folder.is_dir():
        return None
    with locked(folder):
        record = load(folder)
        if record is None:
            return None
        runner = _runner(folder, record, homes.cache(), lambda _: None)
        ran = isinstance(runner, Address) or any(runner.pids().values())
        return _end(folder, runner) if ran else None


def _end(folder: Path, runner: Runner) -> list[int]:
    if isinstance(runner, Address):
        forget(folder)
    return runner.end()


def kill_node(running: Running, node: int) -> None:
    """End a node by SIGKILL; returns when it is gone."""
    with locked(running.folder):
        running.runner.down(node, kill=True)


def stop_node(running: Running, node: int) -> None:
    """End a node as an operator would, by SIGTERM; returns when it is gone."""
    with locked(running.folder):
        running.runner.down(node, kill=False)


def restart_node(running: Running, node: int, *, wait: bool = True) -> None:
    """Start a node that ended, on the same port and data.

    wait: until it answers and knows of every node that runs. A killed one takes 5 s more: its old session must end.
    """
    with locked(running.folder):
        running.runner.up(node, wait=wait)
