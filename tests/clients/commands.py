"""Commands as typed at a prompt, while a pretended pipeline works on the test's own loop."""

import asyncio
from collections.abc import Sequence

import click
from click.testing import CliRunner
from click.testing import Result as Ran


async def run(command: click.Command, *arguments: str, given: bytes = b"", flags: Sequence[str] = ()) -> Ran:
    """Run a command to its end, in a thread."""
    return await asyncio.to_thread(CliRunner().invoke, command, [*flags, *arguments], input=given)
