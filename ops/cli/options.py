"""Options that commands share."""

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

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


def fail(message: str, code: int = USAGE) -> NoReturn:
    """End with a message on standard error, and no traceback."""
    click.echo(f"beefline: {message}", err=True)
    sys.exit(code)
