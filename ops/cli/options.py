"""Options that commands share."""

import functools
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}

USAGE = 3
"""Exit code of a command that was asked for something it cannot do."""


def settings_options(command: F) -> F:
    """`--config`, `--network`, `--set`; the command gets `loaded`, the effective settings."""

    @click.option("--config", type=click.Path(path_type=Path, dir_okay=False), help="A TOML file of settings.")
    @click.option("--network", type=click.Choice(["main", "test", "dev"]), help="A preset.")
    @click.option("--set", "flags", multiple=True, metavar="KEY=VALUE", help="A setting, as section.name=value.")
    @functools.wraps(command)
    def wrapped(*args: Any, config: Path | None, network: Any, flags: tuple[str, ...], **more: Any) -> Any:
        from ops.running import local_settings
        from ops.settings import BadSettings, load

        try:
            loaded = load(config=config, network=network, flags=flags, local=local_settings())
        except BadSettings as error:
            fail(str(error))
        return command(*args, loaded=loaded, **more)

    return wrapped  # type: ignore[return-value] # click's decorators keep the command's signature but for `loaded`


def reading_options(command: F) -> F:
    """`--any`, `--min-sequence`, `--at`, `--json`: of what a worker is asked over HTTP."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="As the worker says it; outputs a line each."),
        click.option("--at", "address", metavar="URL", help="Any worker's address; without it, one on this machine."),
        click.option(
            "--min-sequence", default=0, metavar="N", help="Not before this entry of its journal (from a result)."
        ),
        click.option(
            "--any", "anything", is_flag=True, help="What is there, at once; else no older than this question."
        ),
    ):
        command = option(command)
    return command


def moment(option: str, text: str, other: str = "") -> datetime:
    """A time somebody gave: an age, or a date and time. other: what else the option takes, for the message."""
    if age := re.fullmatch(r"(\d+)([smhd])", text):
        return datetime.now(UTC) - timedelta(**{UNITS[age[2]]: int(age[1])})
    try:
        return datetime.fromisoformat(text).astimezone()
    except ValueError:
        fail(f"{option} {text}: {other}an age like 10m, 2h or 1d, or a time like 2026-01-31T12:00")


def fail(message: str, code: int = USAGE) -> NoReturn:
    """End with a message on standard error, and no traceback."""
    click.echo(f"beefline: {message}", err=True)
    sys.exit(code)
