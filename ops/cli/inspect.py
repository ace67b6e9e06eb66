"""`beefline inspect`: a BEEF as a readable tree, and as a picture."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ops.cli.options import fail, settings_options
from ops.cli.submit import Strict

if TYPE_CHECKING:
    from rich.console import Console

    from ops.inspect import Inspected
    from ops.settings import Loaded
    from pipeline.outcome import Verdict

MOST = 50
WIDTH = 400


@click.command(cls=Strict)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))
@click.option("--json", "as_json", is_flag=True, help="As a JSON line.")
@click.option("--most", default=MOST, show_default=True, type=click.IntRange(1), help="Transactions and outputs shown.")
@click.option(
    "--svg",
    "picture",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="OUT",
    help="Draw the graph into this file.",
)
@settings_options
def inspect(file: Path, as_json: bool, most: int, picture: Path | None, loaded: "Loaded") -> None:
    """A BEEF as a readable tree, and as a picture.

    FILE holds bytes, hexadecimal, base64 or JSON lines; `-` is standard input. Of several payloads each is shown.

    OUT of several payloads gets their numbers: out-1.svg, out-2.svg. What is malformed has no graph: its file is not
    written. Of more than 200 transactions the subject's nearest are drawn, and the rest are one box.

    \b
    Exit codes:
      0  every payload is well-formed, and nothing it holds is wrong
      1  one is malformed, or would be rejected whatever the chain is
      3  a file could not be read or written; or a wrong command line
    """
    import msgspec

    from ops.inspect import inspect as look
    from ops.inspect import tree
    from pipeline.outcome import Verdict

    if str(file) != "-" and not file.exists():
        fail(f"no such file: {file}")
    if picture is not None and picture.name in ("", "-"):
        fail("--svg names a file to write; standard output has the tree")
    payloads = payloads_of(file)
    bad = False
    for number, (name, beef) in enumerate(payloads, 1):
        found = look(beef, loaded.settings.policy)
        bad |= isinstance(found, Verdict) or found.code is not None
        if picture is not None and not isinstance(found, Verdict):
            _draw(found, picture if len(payloads) == 1 else picture.with_stem(f"{picture.stem}-{number}"))
        if as_json:
            click.echo(msgspec.json.encode(found).decode())
        elif isinstance(found, Verdict):
            click.echo(f"{name}: {_words(found)}", err=True)
        else:
            _console().print(tree(found, most))
    sys.exit(1 if bad else 0)


def _draw(found: "Inspected", picture: Path) -> None:
    from ops.drawing import draw

    try:
        picture.write_text(draw(found), encoding="utf-8", newline="\n")
    except OSError as error:
        fail(f"cannot write {picture}: {error.strerror}")


def payloads_of(file: Path) -> list[tuple[str, bytes]]:
    """What the file holds. What is no payload in any form is taken as it is: the parser says what is wrong with it."""
    import io

    from beefline.encodings import Given, read_payloads

    name = "standard input" if str(file) == "-" else str(file)
    try:
        data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        fail(f"cannot read {name}: {error.strerror}")
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
