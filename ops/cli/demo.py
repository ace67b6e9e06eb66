"""`beefline demo`."""

import sys
from pathlib import Path

import click

from ops.cli.options import fail


@click.command()
@click.option("--svg", type=click.Path(path_type=Path, dir_okay=False), help="Draw the end of it into this file.")
def demo(svg: Path | None) -> None:
    """500 payloads through a whole installation on this machine; exit code 1 when one comes out otherwise."""
    from rich.console import Console

    from ops.broker import BrokerError
    from ops.demo import log_folder, main
    from ops.installation import NotReady

    try:
        right = main(Console(), svg)
    except (BrokerError, NotReady) as error:
        fail(f"{error}\nlogs: {log_folder()}", 1)
    sys.exit(0 if right else 1)
