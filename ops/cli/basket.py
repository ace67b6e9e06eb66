"""`beefline basket`: what owners' baskets hold, from any worker."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ops.cli.options import fail, reading_options, settings_options

if TYPE_CHECKING:
    from ops.settings import Loaded
    from schemas.baskets import BasketOutput, BasketOutputs, Baskets, FieldValues


@click.group()
def basket() -> None:
    """Wallet baskets (BRC-46, BRC-100)."""


@basket.command("list")
@click.argument("owner")
@click.argument("name", required=False)
@click.option("--change", is_flag=True, help="In place of NAME: what pays the owner, the wallet's own basket.")
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="Only outputs that have it; may be repeated.")
@click.option("--all-tags", is_flag=True, help="Only outputs that have all of them; else one does.")
@click.option(
    "--field", "fields", multiple=True, metavar="N=HEX", help="Only outputs whose field N has it; all that are named."
)
@click.option("--scripts", is_flag=True, help="Their locking scripts too.")
@click.option(
    "--beef",
    "whole",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write their whole transactions to this file, as BEEF down to proven ones.",
)
@click.option("--limit", default=10, show_default=True, metavar="N", help="At most so many, up to 10,000.")
@click.option("--offset", default=0, metavar="N", help="Leave out so many before.")
@reading_options
@settings_options
def list_(
    owner: str,
    name: str | None,
    change: bool,
    tags: tuple[str, ...],
    all_tags: bool,
    fields: tuple[str, ...],
    scripts: bool,
    whole: Path | None,
    limit: int,
    offset: int,
    anything: bool,
    min_sequence: int,
    address: str | None,
    as_json: bool,
    loaded: "Loaded",
) -> None:
    """Baskets of OWNER, an identity key in hexadecimal; or the live outputs of one. Exit code 1: no answer."""
    import msgspec

    from beefline.reading import NoAnswer, StateReader
    from ops.cli.state import worker_of

    if change and (name is not None or tags or fields):
        fail("--change lists the wallet's own basket, which has no name to give, no tags and no fields")
    if whole is not None and (scripts or (name is None and not change)):
        fail("--beef is of one basket's outputs, and in place of --scripts")
    if (tags or fields) and name is None:
        fail("tags and fields are looked for in one basket: name it")
    values = dict(map(_field, fields))
    if len(values) < len(fields):
        fail("a field has one value: name it once")
    asked: dict[str, Any] = {"consistency": "any" if anything else "strong", "min_sequence": min_sequence}
    include = "entire transactions" if whole is not None else "locking scripts" if scripts else None
    page: dict[str, Any] = {"limit": limit, "offset": offset, "include": include}
    url, token = worker_of(loaded, address)

    async def run() -> "Baskets | BasketOutputs":
        async with StateReader(url, token) as reader:
            if change:
                return await reader.change(owner, **page, **asked)
            if name is None:
                return await reader.baskets(owner, **asked)
            mode: Any = "all" if all_tags else "any"
            page.update(include_custom_instructions=True, include_tags=True, include_fields=True)
            return await reader.list_outputs(
                owner, name, tags=tags, tag_query_mode=mode, fields=values, **page, **asked
            )

    try:
        found = asyncio.run(run())
    except NoAnswer as error:
        fail(str(error), 1)
    if whole is not None:
        _write(whole, found)
    click.echo(msgspec.json.encode(found).decode() if as_json else "\n".join(_lines(found)))


def _write(path: Path, found: Any) -> None:
    if found.beef is None:
        fail("there are no outputs, and no transactions to write", 1)
    try:
        path.write_bytes(found.beef)
    except OSError as error:
        fail(f"{path} cannot be written: {error.strerror}")


@basket.command()
@click.argument("owner")
@click.argument("name")
@click.argument("field", type=click.IntRange(0))
@click.option("--value", metavar="HEX", help="This one alone.")
@click.option("--after", metavar="HEX", help="Go on behind this value.")
@click.option("--limit", default=100, show_default=True, metavar="N", help="At most so many, up to 1,000.")
@reading_options
@settings_options
def values(
    owner: str,
    name: str,
    field: int,
    value: str | None,
    after: str | None,
    limit: int,
    anything: bool,
    min_sequence: int,
    address: str | None,
    as_json: bool,
    loaded: "Loaded",
) -> None:
    """What FIELD of the PushDrop outputs in basket NAME of OWNER holds, counted and summed by value; fields are those
    that instructions had indexed. Exit code 1: no answer."""
    import msgspec

    from beefline.reading import NoAnswer, StateReader
    from ops.cli.state import worker_of

    only = _bytes("--value", value) if value is not None else None
    asked: dict[str, Any] = {"consistency": "any" if anything else "strong", "min_sequence": min_sequence}
    url, token = worker_of(loaded, address)

    async def run() -> "FieldValues":
        async with StateReader(url, token) as reader:
            return await reader.values_page(owner, name, field, value=only, after=after, limit=limit, **asked)

    try:
        found = asyncio.run(run())
    except NoAnswer as error:
        fail(str(error), 1)
    click.echo(msgspec.json.encode(found).decode() if as_json else "\n".join(_value_lines(found)))


def _value_lines(found: "FieldValues") -> list[str]:
    rows = [f"{found.state.context}  sequence {found.state.sequence:,}"]
    for each in found.values:
        shown = _shown(bytes.fromhex(each.value))
        rows.append(f"  {each.outputs:>7,} outputs  {each.satoshis:>15,} sat  {each.value or 'empty'}{shown}")
    return [*rows, f"more behind {found.next or 'the empty value'}"] if found.next is not None else rows


def _shown(value: bytes) -> str:
    """A value's text, where it is one that people can read."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return ""
    return f'  "{text}"' if text.isprintable() and text else ""


def _field(given: str) -> tuple[int, bytes]:
    number, equals, value = given.partition("=")
    if not equals or not number.isascii() or not number.isdecimal():
        fail("--field is N=HEX: the field's number and its value")
    return int(number), _bytes("--field", value)


def _bytes(name: str, text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        fail(f"{name} is hexadecimal: {error}")


def _lines(found: "Baskets | BasketOutputs") -> list[str]:
    from schemas.baskets import Baskets

    rows = [f"{found.state.context}  sequence {found.state.sequence:,}"]
    if isinstance(found, Baskets):
        width = max((len(each.basket) for each in found.baskets), default=0)
        for each in found.baskets:
            unverified = f"  and {each.unverified:,} sat unverified" if each.unverified else ""
            rows.append(f"  {each.basket:<{width}}  {each.outputs:>7,} outputs  {each.satoshis:>15,} sat{unverified}")
        return rows
    rows += [row for output in found.outputs for row in _output_lines(output)]
    return [*rows, f"{len(found.outputs):,} of {found.total_outputs:,}"]


def _output_lines(output: "BasketOutput") -> list[str]:
    marks = [*(output.tags or ()), *(f"{number}={value}" for number, value in (output.fields or {}).items())]
    marks += [] if output.spendable else ["contested"]
    if output.verified is not None and not output.verified:
        marks.append("unverified")
    rows = [f"  {output.outpoint}  {output.satoshis:>12,} sat  {', '.join(marks)}".rstrip()]
    if output.custom_instructions:
        rows.append(f"      {output.custom_instructions}")
    if output.locking_script:
        rows.append(f"      {output.locking_script}")
    return rows
