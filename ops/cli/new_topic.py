"""`beefline new-topic`: a package with a topic manager of one's own."""

from pathlib import Path

import click

from ops.cli.options import fail


@click.command("new-topic")
@click.argument("name")
@click.option(
    "--into",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Folder to write into, made when there is none. Default: one named like the topic, here.",
)
@click.option(
    "--chain",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the simulated chain, made when there is none.",
)
def new_topic(name: str, into: Path | None, chain: Path | None) -> None:
    """A package with a topic manager, its tests and a payload to try.

    NAME is the overlay topic's, with or without `tm_`: lower-case words joined by underscores.

    \b
    Exit codes:
      0  written
      3  no name of a topic, or one of the files is there already
    """
    from ops.instruments.chain import Chain
    from ops.new_topic import named, write

    try:
        new = named(name)
    except ValueError as error:
        fail(str(error))
    folder = into if into is not None else Path(new.topic)
    try:
        written = write(new, folder, Chain.open(chain))
    except FileExistsError as error:
        fail(f"{error}; nothing was written")
    for path in written:
        click.echo(f"wrote {path}")
    click.echo(f"{folder}/README.md tells how to run, test and install it")
