"""`beefline simulate`: one simulated service in the foreground. Its URL is the first line on stdout."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

Command = Callable[..., Any]
FOLDER = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)
GIVES_WAY = "Use what others leave of the processor: it stands for a machine of its own."
NICE = 15
"""Behind script children: those are part of what is measured."""

GUARDED = "End when the parent ends; told its pid, also when it ended before this began."


@click.group()
def simulate() -> None:
    """A simulated broadcast endpoint or header service. POST /simulate/faults scripts what is wrong with it."""


def _common(command: Command) -> Command:
    """The options every service has."""
    options = [
        click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on."),
        click.option("--port", default=0, show_default=True, help="Port; 0 takes a free one."),
        click.option("--chain", type=FOLDER, help="The simulated chain; made when there is none."),
        click.option("--token", default="", help="Key that requests must carry; any is taken when empty."),
        click.option("--gives-way", is_flag=True, help=GIVES_WAY),
        click.option("--guarded", is_flag=False, flag_value=-1, type=int, metavar="[=PID]", help=GUARDED),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def _begin(guarded: int | None, gives_way: bool) -> None:
    if gives_way:
        from agents.runtime.priority import give_way

        give_way(NICE)
    if guarded is not None:
        import os

        from ops.simulate.service import end_with_parent

        end_with_parent(os.getppid() if guarded == -1 else guarded)


def _endpoint(command: Command) -> Command:
    """The options every broadcast endpoint has."""
    options = [
        click.option("--network", type=FILE, help="File that endpoints of one network share, and remember by."),
        click.option(
            "--fee-sat-per-kb", default=1, show_default=True,
            help="Fee asked for, satoshis for 1,000 bytes; 0 asks for none.",
        ),
        click.option("--max-tx-bytes", default=10_000_000, show_default=True, help="Largest transaction taken."),
        click.option("--scripts/--no-scripts", default=True, help="Run scripts, or take it that somebody did."),
        click.option("--stored-ms", default=5, show_default=True, help="From RECEIVED to STORED, where there is such."),
        click.option("--seen-ms", default=20, show_default=True, help="From RECEIVED to SEEN_ON_NETWORK."),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return _common(command)


def _serve(
    kind: str,
    host: str,
    port: int,
    chain: Path | None,
    token: str,
    guarded: int | None,
    gives_way: bool,
    network: Path | None,
    fee_sat_per_kb: int,
    max_tx_bytes: int,
    scripts: bool,
    own: Mapping[str, Any] | None = None,
    **options: Any,
) -> None:
    """Run a broadcast endpoint. own: what its kind alone takes."""
    _begin(guarded, gives_way)
    import asyncio

    from ops.instruments.chain import Chain
    from ops.simulate.endpoint import Options
    from ops.simulate.kinds import KINDS
    from ops.simulate.mined import MinedView
    from ops.simulate.network import Network
    from ops.simulate.rules import Policy

    policy = Policy(max_tx_bytes=max_tx_bytes, fee_sat_per_kb=fee_sat_per_kb, scripts=scripts)
    known = Network(MinedView(Chain.open(chain)), network)

    async def serve() -> None:
        await KINDS[kind](known, Options(policy=policy, **options), token, **(own or {})).run(host, port)

    asyncio.run(serve())


@simulate.command()
@_endpoint
@click.option(
    "--orphans",
    type=click.Choice(["mempool", "refuse"]),
    default="mempool",
    show_default=True,
    help="Unknown parents: SEEN_IN_ORPHAN_MEMPOOL, or 460.",
)
@click.option(
    "--conflicts",
    type=click.Choice(["refuse", "attempt"]),
    default="refuse",
    show_default=True,
    help="A second spender: 466, or DOUBLE_SPEND_ATTEMPTED.",
)
def arc(**options: Any) -> None:
    """An ARC endpoint that validates what it gets."""
    _serve("arc", **options)


@simulate.command()
@_endpoint
def arcade(**options: Any) -> None:
    """An Arcade endpoint: missing parents and rivals are statuses there, everything else refuses the call."""
    _serve("arcade", conflicts="attempt", **options)


@simulate.command()
@_endpoint
@click.option("--old", is_flag=True, help="HTTP 500 for every error, as older builds have it.")
def teranode(old: bool, **options: Any) -> None:
    """The propagation service of a Teranode."""
    _serve("teranode", own={"old": old}, **options)


@simulate.command()
@_endpoint
def whatsonchain(**options: Any) -> None:
    """WhatsOnChain, as far as it broadcasts. Its URL ends with /v1/bsv/main."""
    _serve("whatsonchain", orphans="refuse", **options)


@simulate.command()
@_common
@click.option(
    "--dialect",
    type=click.Choice(["bhs", "chaintracks", "woc"]),
    required=True,
    help="Block Headers Service, Chaintracks, WhatsOnChain.",
)
@click.option("--bare", type=int, metavar="BLOCKS", help="So many headers without blocks, in place of the chain.")
def headers(
    host: str,
    port: int,
    chain: Path | None,
    token: str,
    guarded: int | None,
    gives_way: bool,
    dialect: str,
    bare: int | None,
) -> None:
    """A header service over the simulated chain."""
    _begin(guarded, gives_way)
    import asyncio

    from ops.instruments.chain import BareChain, Chain
    from ops.simulate.dialects import DIALECTS

    opened = Chain.open(chain) if bare is None else BareChain(bare)

    async def serve() -> None:
        await DIALECTS[dialect](opened, token).run(host, port)

    asyncio.run(serve())
