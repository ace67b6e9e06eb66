"""`beefline settings`: what is in effect, and where it comes from."""

import click

from ops.cli.options import settings_options
from ops.settings import Loaded


@click.command()
@click.option("--all", "everything", is_flag=True, help="Defaults too.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@settings_options
def settings(everything: bool, as_json: bool, loaded: Loaded) -> None:
    """The effective settings and where each comes from."""
    import orjson

    from ops.settings import knobs

    rows = []
    for knob in knobs():
        section, name = knob.key.split(".")
        value = getattr(getattr(loaded.settings, section), name)
        rows.append((knob.key, value, loaded.origins.get(knob.key, "default")))
    if as_json:
        table = {key: {"value": value, "origin": origin} for key, value, origin in rows}
        click.echo(orjson.dumps(table, option=orjson.OPT_INDENT_2).decode())
        return
    shown = [row for row in rows if everything or row[2] != "default"]
    width = max((len(row[0]) for row in shown), default=0)
    for key, value, origin in shown:
        text = ", ".join(value) if isinstance(value, tuple) else value
        click.echo(f"{key:<{width}}  {text}  ({origin})")
    if not everything:
        click.echo(f"{len(rows) - len(shown)} settings have their defaults (--all shows them)")
