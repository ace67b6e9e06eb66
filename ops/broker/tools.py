"""Kafka's own tools, run against the broker of this home or any other: with the jars, or in a container."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from ops.broker import Running, docker, java
from ops.broker.docker import Docker
from ops.broker.trouble import BrokerError


class Tool(Struct, frozen=True):
    """One of them."""

    main: str  # Java class in the jars; the script in Kafka's bin folder is named kafka-<name>.sh
    says: str


GROUPS = "consumer-groups"

TOOLS: dict[str, Tool] = {
    "broker-api-versions": Tool("org.apache.kafka.tools.BrokerApiVersionsCommand", "What each broker can do."),
    "configs": Tool("kafka.admin.ConfigCommand", "Show and change settings of topics, brokers and users."),
    "console-consumer": Tool("org.apache.kafka.tools.consumer.ConsoleConsumer", "Print records of a topic."),
    "console-producer": Tool("org.apache.kafka.tools.ConsoleProducer", "Write records from standard input."),
    GROUPS: Tool(
        "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
        "Members, positions and lag of groups; reset offsets.",
    ),
    "delete-records": Tool("org.apache.kafka.tools.DeleteRecordsCommand", "Delete records up to an offset."),
    "get-offsets": Tool("org.apache.kafka.tools.GetOffsetShell", "First and last offsets of topics."),
    "leader-election": Tool("org.apache.kafka.tools.LeaderElectionCommand", "Have leaders elected anew."),
    "log-dirs": Tool("org.apache.kafka.tools.LogDirsCommand", "Sizes of partitions on disk."),
    "metadata-quorum": Tool("org.apache.kafka.tools.MetadataQuorumCommand", "The controllers."),
    "reassign-partitions": Tool("org.apache.kafka.tools.reassign.ReassignPartitionsCommand", "Move partitions."),
    "topics": Tool("org.apache.kafka.tools.TopicCommand", "List, describe, make and delete topics."),
    "transactions": Tool("org.apache.kafka.tools.TransactionsCommand", "List, describe and abort transactions."),
}

NAMES_A_BROKER = ("--bootstrap-server", "--bootstrap-controller")


def names_a_broker(arguments: Sequence[str]) -> bool:
    """Whether the arguments say which broker is meant."""
    return any(argument.split("=", 1)[0] in NAMES_A_BROKER for argument in arguments)


def command(
    name: str, arguments: Sequence[str], running: Running | None, bootstrap: str, cache: Path, *, terminal: bool
) -> list[str]:
    """Command that runs a tool.

    arguments: passed on; without any, the tool is asked for its help.
    running: the broker of this home, or None.
    bootstrap: another broker, which goes before that of this home.
    terminal: whether standard input is one.

    Raises:
        BrokerError: no broker is named or runs; or there is neither Java nor Docker to run the tool with.
        KeyError: there is no such tool.
    """
    tool = TOOLS[name]
    passed = list(arguments) or ["--help"]
    named = names_a_broker(passed)
    asks_for_help = "--help" in passed or "--version" in passed
    if not named and not bootstrap and running is not None and isinstance(running.runner, Docker):
        service = running.runner.services[running.nodes[0].id]
        within = ["--bootstrap-server", f"{service}:{docker.INTERNAL}", *passed]
        return running.runner.tool(f"kafka-{name}", within, terminal=terminal)
    if not named and not asks_for_help:
        at = bootstrap or (running.bootstrap if running else "")
        if not at:
            raise BrokerError(
                "No broker runs in this home. `beefline broker start` starts one; --bootstrap-server names another."
            )
        passed = ["--bootstrap-server", at, *passed]  # first: some tools take it only before their own command
    missing = java.lacking() or java.lacking_jars(cache)
    if not missing:
        return java.get(cache, lambda _: None).tool(tool.main, passed)
    without = docker.lacking()
    if without:
        raise BrokerError(f"Kafka's tools need Java or Docker:\n  - {missing}\n  - {without}")
    bare = ["--tty"] if terminal else []
    run = [shutil.which("docker") or "docker", "run", "--rm", "--interactive", *bare, "--network", "host"]
    return [*run, docker.IMAGE, f"{docker.TOOLS}/kafka-{name}.sh", *passed]
