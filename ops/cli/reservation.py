"""`beefline reservation`: hold outputs of an owner, and see who holds which."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import click

from ops.cli.options import fail, settings_options

if TYPE_CHECKING:
    from beefline.client import Answer, Client
    from ops.settings import Loaded
    from schemas.reservations import HeldReservation


@click.group()
def reservation() -> None:
    """Who holds which outputs of an owner, an identity key in hexadecimal."""


_json = click.option("--json", "as_json", is_flag=True, help="As it was answered.")
_timeout = click.option("--timeout", default=30.0, show_default=True, metavar="SECONDS", help="To wait for an answer.")
_lease = click.option(
    "--lease", "lease_s", required=True, type=click.IntRange(1), metavar="SECONDS", help="For so long."
)


@reservation.command()
@click.argument("owner")
@click.argument("outputs", nargs=-1, metavar="[TXID.VOUT]…")
@click.option("--basket", default="", help="In place of outputs: of this basket.")
@click.option("--count", default=0, metavar="N", help="So many of it.")
@click.option(
    "--tag", "tags", multiple=True, metavar="TAG", help="That have it; may be repeated: that have all of them."
)
@_lease
@click.option("--holder", default="", help="Who it is for, as people want to read it.")
@click.option("--id", "name", help="Of the request and the reservation: one that is repeated holds once.")
@_timeout
@_json
@settings_options
def reserve(
    owner: str,
    outputs: tuple[str, ...],
    basket: str,
    count: int,
    tags: tuple[str, ...],
    lease_s: int,
    holder: str,
    name: str | None,
    timeout: float,
    as_json: bool,
    loaded: "Loaded",
) -> None:
    """Hold outputs: those named, or --count of a --basket; all of them, or none. Exit code 1: refused, or no answer."""

    async def ask(client: "Client") -> "Answer":
        held = await client.reserve(
            owner,
            lease_s=lease_s,
            basket=basket,
            count=count,
            tags=tags,
            outputs=outputs,
            holder=holder,
            request_id=name,
            timeout=timeout,
        )
        return held.answer

    _asked(loaded, ask, as_json)


@reservation.command()
@click.argument("owner")
@click.argument("name", metavar="ID")
@click.argument("token", type=click.IntRange(1))
@_lease
@_timeout
@_json
@settings_options
def extend(owner: str, name: str, token: int, lease_s: int, timeout: float, as_json: bool, loaded: "Loaded") -> None:
    """Hold them for longer: from now on, if that ends later. Exit code 1: refused, or no answer."""
    _asked(loaded, lambda client: client.extend(owner, name, token, lease_s, timeout=timeout), as_json)


@reservation.command()
@click.argument("owner")
@click.argument("name", metavar="ID")
@click.argument("token", type=click.IntRange(1), required=False)
@_timeout
@_json
@settings_options
def release(owner: str, name: str, token: int | None, timeout: float, as_json: bool, loaded: "Loaded") -> None:
    """Hold them no longer, whoever does. Exit code 1: refused, or no answer."""
    _asked(loaded, lambda client: client.release(owner, name, token, timeout=timeout), as_json)


_at = click.option("--at", "address", metavar="URL", help="Any worker's address; without it, one on this machine.")


@reservation.command("list")
@click.argument("owner")
@_at
@_json
@settings_options
def list_(owner: str, address: str | None, as_json: bool, loaded: "Loaded") -> None:
    """All reservations that stand, by id. Exit code 1: no answer."""
    from beefline.reading import StateReader
    from ops.cli.state import worker_of

    url, token = worker_of(loaded, address)

    async def run() -> "list[HeldReservation]":
        async with StateReader(url, token) as reader:
            return [each async for each in reader.reservations(owner)]

    _show(_answered(run()), as_json)


@reservation.command()
@click.argument("owner")
@click.argument("name", metavar="ID")
@_at
@_json
@settings_options
def show(owner: str, name: str, address: str | None, as_json: bool, loaded: "Loaded") -> None:
    """One reservation. Exit code 1: it has ended, or never was; or no answer."""
    from beefline.reading import StateReader
    from ops.cli.state import worker_of

    url, token = worker_of(loaded, address)

    async def run() -> "HeldReservation | None":
        async with StateReader(url, token) as reader:
            return (await reader.reservation(owner, name)).reservation

    found = _answered(run())
    if found is None:
        fail(f"there is no reservation {name!r}, or it has ended", 1)
    _show([found], as_json)


def _asked(loaded: "Loaded", ask: "Callable[[Client], Awaitable[Answer]]", as_json: bool) -> None:
    import msgspec

    from beefline.client import MissingTopic, NotReserved, Unanswered, Unreachable
    from ops.cli.submit import client_of

    async def run() -> "Answer":
        async with client_of(loaded.settings) as client:
            return await ask(client)

    try:
        answer = asyncio.run(run())
    except NotReserved as refused:
        if as_json:
            click.echo(msgspec.json.encode(refused.answer).decode())
        fail(str(refused), 1)
    except (MissingTopic, Unanswered, Unreachable) as error:
        fail(str(error), 1)
    if as_json:
        click.echo(msgspec.json.encode(answer).decode())
        return
    until = f"  until {answer.ends}" if answer.outcome != "released" else ""
    click.echo(f"{answer.outcome}  {answer.reservation}  token {answer.token}{until}")
    for output in answer.outputs:
        click.echo(f"  {output}")


def _answered(work: Any) -> Any:
    from beefline.reading import NoAnswer

    try:
        return asyncio.run(work)
    except NoAnswer as error:
        fail(str(error), 1)


def _show(found: "list[HeldReservation]", as_json: bool) -> None:
    import msgspec

    for each in found:
        if as_json:
            click.echo(msgspec.json.encode(each).decode())
            continue
        holder = f"  {each.holder}" if each.holder else ""
        click.echo(f"{each.id}  token {each.token}  {len(each.outputs)} outputs  until {each.ends}{holder}")
        for output in each.outputs:
            click.echo(f"  {output}")
