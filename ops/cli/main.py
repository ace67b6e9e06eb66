"""The `beefline` command. Each group or command is a module of its own, imported when it is called."""

import importlib
import logging
import sys
from typing import Any

import click

COMMANDS: dict[str, tuple[str, str]] = {
    "audit": ("ops.cli.audit:audit", "What is lost, doubled or torn, by id."),
    "basket": ("ops.cli.basket:basket", "What owners' baskets hold."),
    "bench": ("ops.cli.bench:bench", "Measure, as ratios within one run."),
    "broker": ("ops.cli.broker:broker", "A real Kafka on loopback: start, stop, status, logs."),
    "chaos": ("ops.cli.chaos:chaos", "The long fault tests."),
    "endpoints": ("ops.cli.endpoints:endpoints", "Whether the broadcast endpoints are up, and what they take."),
    "retry": ("ops.cli.retry:retry", "What waits in the retry tiers, and returning it at once."),
    "dead-letters": ("ops.cli.letters:letters", "What was given up: listed, shown, counted, exported, sent back."),
    "demo": ("ops.cli.demo:demo", "The main job on an embedded broker."),
    "generate": ("ops.cli.generate:generate", "Signed BEEFs on the simulated chain."),
    "inspect": ("ops.cli.inspect:inspect", "A BEEF as a readable tree."),
    "journal": ("ops.cli.journal:journal", "The atomic operations log: followed, shown, verified, exported."),
    "kafka": ("ops.cli.kafka:kafka", "Kafka's own tools: consumer-groups, topics, console-consumer."),
    "load": ("ops.cli.load:load", "Open-loop load at a given rate."),
    "new-topic": ("ops.cli.new_topic:new_topic", "A package with a topic manager of your own."),
    "operations": ("ops.cli.operations:operations", "Requests over several contexts, all or nothing."),
    "reservation": ("ops.cli.reservation:reservation", "Who holds which outputs of an owner."),
    "results": ("ops.cli.results:results", "Read outcomes."),
    "resume": ("ops.cli.resume:resume", "Let a halted stage go on."),
    "settings": ("ops.cli.settings:settings", "The effective settings and where each comes from."),
    "simulate": ("ops.cli.simulate:simulate", "A simulated service: ARC, or a header service."),
    "state": ("ops.cli.state:state", "What contexts hold: coins, and how transactions stand."),
    "status": ("ops.cli.status:status", "Each stage's process, group, health, lag and address."),
    "submit": ("ops.cli.submit:submit", "Send BEEFs and wait for what becomes of them."),
    "topics": ("ops.cli.topics:topics", "Create, check and describe the Kafka topics."),
    "up": ("ops.cli.up:up", "Run stages, one process each, supervised."),
    "verify": ("ops.cli.verify:verify", "Is it valid? By the stages' own verifier, without a broker."),
    "worker": ("ops.cli.worker:worker", "Run one stage in this process."),
}


class Lazy(click.Group):
    """A group that imports a command's module when the command is called, so that each call is quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names, sorted."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now."""
        if cmd_name not in COMMANDS:
            return None
        module, name = COMMANDS[cmd_name][0].split(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list, without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, says) for name, (_, says) in sorted(COMMANDS.items())])


@click.group(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="beefline")
def main(**_: Any) -> None:
    """beefline: BEEF in, verified, applied once, broadcast in Extended Format."""
    # Commands say in words what is wrong; the client library's own lines, a hundred at each start, say nothing more.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)


if __name__ == "__main__":
    sys.exit(main())
