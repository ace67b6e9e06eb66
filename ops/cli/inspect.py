"""`beefline inspect`: a BEEF as a readable tree."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ops.cli.options import fail, settings_options
from ops.cli.submit import Strict

if TYPE_CHECKING:
    from rich.console import Console

    from ops.settings import Loaded
    from pipeline.outcome import Verdict

MOST = 50
WIDTH = 400


@click.command(cls=Strict)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))
@click.option("--json", "as_json", is_flag=True, help="As a JSON line.")
@click.option("--most", default=MOST, show_default=True, type=click.IntRange(1), help="Transactions and outputs shown.")
@settings_options
def inspect(file: Path, as_json: bool, most: int, loaded: "Loaded") -> None:
    """A BEEF as a readable tree.

    FILE holds bytes, hexadecimal, base64 or JSON lines; `-` is standard input. Of several payloads each is shown.

    \b
    Exit codes: 0, or 1 when one is malformed or would be rejected whatever the chain is.
    """
    import msgspec

    from ops.inspect import inspect as look
    from ops.inspect import tree
    from pipeline.outcome import Verdict

    if str(file) != "-" and not file.is_file():
        fail(f"no such file: {file}")
    bad = False
    for name, beef in payloads_of(file):
        found = look(beef, loaded.settings.policy)
        bad |= isinstance(found, Verdict) or found.code is not None
        if as_json:
            click.echo(msgspec.json.encode(found).decode())
        elif isinstance(found, Verdict):
            click.echo(f"{name}: {_words(found)}", err=True)
        else:
            _console().print(tree(found, most))
    sys.exit(1 if bad else 0)


def payloads_of(file: Path) -> list[tuple[str, bytes]]:
    """What the file holds. What is no payload in any form is taken as it is: the parser says what is wrong with it."""
    import io

    from beefline.encodings import Given, read_payloads

    name = "standard input" if str(file) == "-" else str(file)
    data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    read = list(read_payloads(io.BytesIO(data), name))
    given = [(each.where, each.beef) for each in read if isinstance(each, Given)]
    return given if len(given) == len(read) else [(name, data)]


def _words(verdict: "Verdict") -> str:
    from pipeline.outcome import BY_CODE

    where = f" at {verdict.at}" if verdict.at else ""
    said = f" ({verdict.message})" if verdict.message else ""
    row = BY_CODE[verdict.code]
    return f"{verdict.code}{where}: {row.meaning}{said} {row.do}"


def _console() -> "Console":
    from rich.console import Console

    # Trees are cut at the width: a terminal breaks long lines itself, and a cut txid cannot be copied.
    return Console(width=WIDTH, highlight=False)
