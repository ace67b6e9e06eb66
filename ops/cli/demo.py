"""`beefline demo`."""

import sys

import click

from ops.cli.options import fail


@click.command()
def demo() -> None:
    """500 payloads through a whole installation on this machine; exit code 1 when one comes out otherwise."""
    from rich.console import Console

    from ops.broker import BrokerError
    from ops.demo import log_folder, main
    from ops.installation import NotReady

    try:
        right = main(Console())
    except (BrokerError, NotReady) as error:
        fail(f"{error}\nlogs: {log_folder()}", 1)
    sys.exit(0 if right else 1)
