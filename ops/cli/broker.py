"""`beefline broker`: a real Kafka on loopback."""

import json
import os
import time
from collections import deque
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

import click

if TYPE_CHECKING:
    from ops.broker import Running

LINES = 100
FOLLOW_EVERY_S = 0.2


class Plain(click.Group):
    """A group whose commands say what is wrong in words, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        from ops.broker import BrokerError

        try:
            return super().invoke(ctx)
        except BrokerError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=Plain)
def broker() -> None:
    """A real Kafka on loopback: start, stop, status, logs."""


@broker.command()
@click.option("--nodes", type=click.Choice(["1", "3"]), help="1, unless 3 run already; three keep three copies.")
@click.option(
    "--bootstrap",
    envvar="BEEFLINE_KAFKA_BOOTSTRAP",
    default="",
    metavar="HOST:PORT",
    help="A broker you have: only check that it answers, and remember it.",
)
@click.option(
    "--security-protocol",
    envvar="BEEFLINE_KAFKA_SECURITY_PROTOCOL",
    type=click.Choice(["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]),
    default="PLAINTEXT",
    help="What the broker you have speaks.",
)
@click.option("--ca-file", envvar="BEEFLINE_KAFKA_SSL_CA_FILE", default="", help="Who signed its certificate (PEM).")
@click.option("--fresh", is_flag=True, help="On empty data: what an earlier one kept is lost.")
@click.option(
    "--with",
    "how",
    type=click.Choice(["any", "docker", "jars"]),
    default="any",
    show_default=True,
    help="Docker when an engine answers, else Kafka's jars on Java; or one of them.",
)
@click.option("--sasl-ssl", is_flag=True, help="With a second listener: SCRAM-SHA-512 and PLAIN over TLS.")
def start(
    nodes: str | None,
    bootstrap: str,
    security_protocol: str,
    ca_file: str,
    fresh: bool,
    how: Literal["any", "docker", "jars"],
    sasl_ssl: bool,
) -> None:
    """Start a broker and wait until it answers. One that runs already is left as it is."""
    from ops.broker import start as begin
    from ops.broker import status as look

    before = time.monotonic()
    found = look() if nodes is None else None
    running = begin(
        int(nodes or 1) if found is None else len(found.record.members) or 1,
        bootstrap=bootstrap,
        protocol=security_protocol,
        ca_file=ca_file,
        how=how,
        fresh=fresh,
        sasl_ssl=sasl_ssl,
        say=lambda what: click.echo(what, err=True),
    )
    took = f"ready after {time.monotonic() - before:.1f} s" if running.began else "it was running already"
    click.echo(f"{_title(running)}: {took}")
    _details(running)


@broker.command()
def stop() -> None:
    """Stop the broker; its data stay."""
    from ops.broker import stop as end

    killed = end()
    if killed is None:
        click.echo("No broker was running.")
    else:
        click.echo("Stopped." if not killed else f"Stopped; had to be killed: node {', '.join(map(str, killed))}.")


@broker.command()
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_context
def status(ctx: click.Context, as_json: bool) -> None:
    """Where the broker listens, and its processes. Exit code 0: it runs; 1: it does not."""
    from ops.broker import status as look

    running = look()
    if as_json:
        click.echo(json.dumps(_described(running)))
    elif running is None:
        click.echo("No broker is running. `beefline broker start` starts one.")
    else:
        click.echo(_title(running))
        _details(running)
    ctx.exit(0 if running else 1)


def _described(running: "Running | None") -> dict[str, Any]:
    if running is None:
        return {"bootstrap": None, "nodes": [], "running": False}
    import msgspec

    addresses = running.runner.addresses()
    nodes = [{"id": node.id, "pid": node.pid, "address": addresses.get(node.id)} for node in running.nodes]
    return {
        "bootstrap": running.bootstrap,
        "nodes": nodes,
        "running": True,
        "mode": running.record.mode,
        "version": running.record.version or None,
        "secure": msgspec.to_builtins(running.secure),
    }


def _title(running: "Running") -> str:
    how = {"address": "named by its address", "docker": "in Docker", "jars": "from Kafka's jars"}[running.record.mode]
    return " ".join(filter(None, ("Kafka", running.record.version, f"at {running.bootstrap}, {how}")))


def _details(running: "Running") -> None:
    addresses = running.runner.addresses()
    for node in running.nodes:
        process = f"process {node.pid}" if node.pid else "ended" if running.record.mode != "address" else ""
        click.echo(f"  node {node.id}  {addresses.get(node.id, '')}  {process}".rstrip())
    if secure := running.secure:
        click.echo(
            f"  {secure.protocol} at {secure.bootstrap}: user {secure.user}, password in {secure.password_file},"
        )
        click.echo(f"  authority in {secure.ca_file}")


@broker.command()
@click.option("--follow", "-f", is_flag=True, help="Go on printing what comes, until Ctrl-C.")
@click.option("--lines", "-n", default=LINES, show_default=True, help="So many of the last lines of each node.")
@click.option("--node", type=int, help="Of this node alone.")
def logs(follow: bool, lines: int, node: int | None) -> None:
    """What the broker logged, whether it runs or not."""
    from ops.broker import BrokerError, last
    from ops.broker.docker import Docker
    from ops.broker.jars import Jars

    found = last()
    if found is None:
        raise BrokerError("No broker was started here yet.")
    runner = found.runner
    if isinstance(runner, Docker):
        services = [service for at, service in runner.services.items() if node in (None, at)]
        given = ["logs", "--no-color", "--tail", str(lines), *(["--follow"] if follow else []), *services]
        command = runner.compose(*given)
        os.execvp(command[0], command)  # noqa: S606 - Ctrl-C and the exit code are its own
    if not isinstance(runner, Jars):
        raise BrokerError("The broker was named by its address: its logs are where it runs.")
    files = {at: paths for at, paths in runner.log_files().items() if node in (None, at)}
    many = len(files) > 1
    tails = [Tail(path, f"{at} | " if many else "") for at, paths in files.items() for path in paths]
    for tail in tails:
        tail.last(lines)
    while follow:
        for tail in tails:
            tail.more()
        time.sleep(FOLLOW_EVERY_S)


class Tail:
    """The end of a log file that may be replaced by a new one of the same name."""

    def __init__(self, path: Path, prefix: str) -> None:
        self.path = path
        self.prefix = prefix
        self.file: IO[str] | None = None

    def last(self, lines: int) -> None:
        """Print the last lines."""
        self._open()
        if self.file:
            for line in deque(self.file, maxlen=lines):
                self._print(line)

    def more(self) -> None:
        """Print what was added since."""
        if self.file is None:
            self._open()
        if self.file is None:
            return
        for line in self.file:
            self._print(line)
        if self.path.exists() and self.path.stat().st_ino != os.fstat(self.file.fileno()).st_ino:
            self.close()

    def close(self) -> None:
        """Let go of the file."""
        if self.file:
            self.file.close()
        self.file = None

    def _open(self) -> None:
        if self.path.exists():
            self.file = self.path.open(errors="replace")

    def _print(self, line: str) -> None:
        click.echo(f"{self.prefix}{line.rstrip()}")
