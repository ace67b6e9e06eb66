"""`beefline kafka`: Kafka's own tools on the running broker."""

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ops.broker import Running

BOOTSTRAP = "BEEFLINE_KAFKA_BOOTSTRAP"


class Tools(click.Group):
    """One command a tool."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names, sorted."""
        from ops.broker.tools import TOOLS

        return sorted(TOOLS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The tool as a command that passes everything on."""
        from ops.broker.tools import TOOLS

        if cmd_name not in TOOLS:
            return None
        return click.Command(
            cmd_name,
            callback=lambda arguments: _run(cmd_name, list(arguments)),
            params=[click.Argument(["arguments"], nargs=-1, type=click.UNPROCESSED)],
            context_settings={
                "ignore_unknown_options": True,
                "allow_interspersed_args": False,
                "help_option_names": [],
            },
            help=TOOLS[cmd_name].says,
        )


@click.group(cls=Tools)
def kafka() -> None:
    """Kafka's own tools, given the address of the running broker unless another is named.

    Their own options follow: `beefline kafka consumer-groups --describe --all-groups`.
    """


def _run(name: str, arguments: list[str]) -> None:
    from ops import home
    from ops.broker import BrokerError, status
    from ops.broker.tools import GROUPS, command

    bootstrap = os.environ.get(BOOTSTRAP, "")
    try:
        running = None if bootstrap else status()
        run = command(name, arguments, running, bootstrap, home.cache(), terminal=sys.stdin.isatty())
    except BrokerError as error:
        raise click.ClickException(str(error)) from error
    if name == GROUPS and "--reset-offsets" in arguments:
        sys.exit(_reset(run, arguments, bootstrap, running))
    sys.stdout.flush()
    os.execvp(run[0], run)  # noqa: S606 - signals, standard streams and the exit code are the tool's own


def _reset(run: list[str], arguments: list[str], bootstrap: str, running: "Running | None") -> int:
    """Reset offsets; say how long it takes where Kafka refuses since a group is not empty."""
    from agents.runtime.settings import WorkerSettings
    from ops.broker import reset

    done = subprocess.run(run, capture_output=True, text=True, check=False)
    refused = reset.refusals(done.stdout + done.stderr)
    rows = [line for line in done.stdout.splitlines() if line.strip() and not reset.REFUSED.search(line)]
    if not refused or len(rows) > 1:  # a heading alone stands over nothing
        click.echo("\n".join(rows))
    for line in done.stderr.splitlines():
        if not reset.REFUSED.search(line):
            click.echo(line, err=True)
    if not refused:
        return done.returncode
    at = _named(arguments) or bootstrap or (running.bootstrap if running else "")
    members = reset.read(at, [group for group, _ in refused])
    default_s = float(os.environ.get("BEEFLINE_WORKER_SESSION_TIMEOUT_S") or WorkerSettings().session_timeout_s)
    for group, state in refused:
        click.echo(reset.explain(group, state, members[group], default_s), err=True)
    return done.returncode or 1


def _named(arguments: list[str]) -> str:
    for at, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name == "--bootstrap-server":
            return value or (arguments[at + 1] if at + 1 < len(arguments) else "")
    return ""
