"""`beefline audit`."""

import asyncio
import sys
from typing import TYPE_CHECKING

import click

from ops.cli.options import fail, settings_options
from ops.settings import Loaded

if TYPE_CHECKING:
    from ops.instruments.audit import Report


@click.command()
@click.option(
    "--arc",
    "arcs",
    multiple=True,
    metavar="URL",
    help="Ask a simulated ARC too what it got; it must be as old as the topics.",
)
@click.option("--wait", "wait_s", default=0.0, metavar="SECONDS", help="Look again until nothing is under way.")
@click.option("--roots", is_flag=True, help="Replay the journals' effects into their roots.")
@click.option("--first", default=10, show_default=True, help="How many ids to show of each finding.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@settings_options
def audit(arcs: tuple[str, ...], wait_s: float, roots: bool, first: int, as_json: bool, loaded: Loaded) -> None:
    """What is lost, doubled or torn, by id: every topic is read and compared.

    Exit code 0: everything adds up; 1: something is lost, doubled or torn; 2: nothing is, but something is under way.
    """
    import msgspec

    from agents.runtime.cluster import Unreachable
    from ops.instruments.audit import NotReadable
    from ops.instruments.audit import audit as look

    try:
        report = asyncio.run(look(loaded.settings, arcs=arcs, wait_s=wait_s, keep=first, roots=roots))
    except (Unreachable, NotReadable) as error:
        fail(str(error))
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(report), indent=2).decode())
    else:
        show(report)
    sys.exit(report.exit_code)


def show(report: "Report") -> None:
    """What was found, for people."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    counts = Table(box=None, show_header=False)
    counts.add_column(justify="right")
    counts.add_column()
    for name, count in report.counts.items():
        counts.add_row(f"{count:,}", name)
    console.print(counts)
    for title, style, findings in (("found", "bold red", report.findings), ("pending", "bold yellow", report.pending)):
        for finding in findings:
            console.print(f"\n{title}: {finding.count:,} {finding.kind}. {finding.says}", style=style, highlight=False)
            for what in finding.first:
                console.print(f"  {what}", highlight=False, markup=False, soft_wrap=True)
    verdict = ("Everything adds up.", "Something is lost, doubled or torn.", "Nothing is lost; something is under way.")
    console.print(f"\n{verdict[report.exit_code]} ({report.seconds:.1f} s)", highlight=False)
