"""`beefline topics`: the Kafka topics, as declared and as they are."""

import asyncio
import sys
from pathlib import Path

import click

from ops.cli.options import fail, settings_options
from ops.settings import Loaded


@click.group()
def topics() -> None:
    """Create, check and describe the Kafka topics."""


@topics.command()
@settings_options
def create(loaded: Loaded) -> None:
    """Create the topics that are missing."""
    from agents.runtime.cluster import Unreachable
    from agents.runtime.cluster import create as create_missing

    settings = loaded.settings
    try:
        made = asyncio.run(create_missing(settings.kafka, settings.topics))
    except Unreachable as error:
        fail(str(error), 1)
    for name in made:
        click.echo(f"created {name}")
    if not made:
        click.echo("all topics exist")


@topics.command()
@settings_options
def check(loaded: Loaded) -> None:
    """Compare the topics with their declarations; exit code 1 where one differs."""
    from agents.runtime.cluster import Unreachable, compare, look

    settings = loaded.settings
    try:
        differences = compare(asyncio.run(look(settings.kafka, settings.topics)), settings.topics)
    except Unreachable as error:
        fail(str(error), 1)
    for difference in differences:
        click.echo(f"{'refused' if difference.fatal else 'differs'}: {difference.topic} {difference.what}")
    if differences:
        sys.exit(1)
    click.echo("all topics are as declared")


@topics.command()
@click.argument("name", required=False)
@settings_options
def describe(name: str | None, loaded: Loaded) -> None:
    """Show the declaration of all topics, or of one."""
    from topics.reference import describe as describe_topic
    from topics.registry import BY_NAME, TOPICS

    if name is not None and name not in BY_NAME:
        fail(f"no topic {name!r}; there are {', '.join(BY_NAME)}")
    for topic in [BY_NAME[name]] if name is not None else TOPICS:
        click.echo(describe_topic(topic, loaded.settings.topics.max_payload_bytes))


@topics.command()
@click.option("--write", is_flag=True, help="Write the generated pages into docs/.")
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), default=Path("docs"), show_default=True)
def docs(write: bool, folder: Path) -> None:
    """The reference pages, the AsyncAPI document and the JSON Schemas, from the declarations."""
    from ops.reference import pages

    for name, text in pages().items():
        if not write:
            click.echo(f"--- {name}\n{text}")
            continue
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        click.echo(f"wrote {path}")
