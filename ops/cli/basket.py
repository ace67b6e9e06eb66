"""`beefline basket`: what owners' baskets hold, from any worker."""

import asyncio
from typing import TYPE_CHECKING, Any

import click

from ops.cli.options import fail, settings_options

if TYPE_CHECKING:
    from ops.settings import Loaded
    from schemas.baskets import BasketOutput, BasketOutputs, Baskets


@click.group()
def basket() -> None:
    """Wallet baskets (BRC-46, BRC-100)."""


@basket.command("list")
@click.argument("owner")
@click.argument("name", required=False)
@click.option("--change", is_flag=True, help="In place of NAME: what pays the owner, the wallet's own basket.")
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="Only outputs that have it; may be repeated.")
@click.option("--all-tags", is_flag=True, help="Only outputs that have all of them; else one does.")
@click.option("--scripts", is_flag=True, help="Their locking scripts too.")
@click.option("--limit", default=10, show_default=True, metavar="N", help="At most so many, up to 10,000.")
@click.option("--offset", default=0, metavar="N", help="Leave out so many before.")
@click.option("--any", "anything", is_flag=True, help="What is there, at once; else no older than this question.")
@click.option("--min-sequence", default=0, metavar="N", help="Not before this entry of its journal (from a result).")
@click.option("--at", "address", metavar="URL", help="Any worker's address; without it, one on this machine.")
@click.option("--json", "as_json", is_flag=True, help="As the worker says it.")
@settings_options
def list_(
    owner: str,
    name: str | None,
    change: bool,
    tags: tuple[str, ...],
    all_tags: bool,
    scripts: bool,
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

    if change and (name is not None or tags):
        fail("--change lists the wallet's own basket, which has no name to give and no tags")
    if tags and name is None:
        fail("tags are looked for in one basket: name it")
    asked: dict[str, Any] = {"consistency": "any" if anything else "strong", "min_sequence": min_sequence}
    page: dict[str, Any] = {"limit": limit, "offset": offset, "include": "locking scripts" if scripts else None}
    url, token = worker_of(loaded, address)

    async def run() -> "Baskets | BasketOutputs":
        async with StateReader(url, token) as reader:
            if change:
                return await reader.change(owner, **page, **asked)
            if name is None:
                return await reader.baskets(owner, **asked)
            mode: Any = "all" if all_tags else "any"
            page.update(include_custom_instructions=True, include_tags=True)
            return await reader.list_outputs(owner, name, tags=tags, tag_query_mode=mode, **page, **asked)

    try:
        found = asyncio.run(run())
    except NoAnswer as error:
        fail(str(error), 1)
    click.echo(msgspec.json.encode(found).decode() if as_json else "\n".join(_lines(found)))


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
    marks = [*(output.tags or ()), *([] if output.spendable else ["contested"])]
    if output.verified is not None and not output.verified:
        marks.append("unverified")
    rows = [f"  {output.outpoint}  {output.satoshis:>12,} sat  {', '.join(marks)}".rstrip()]
    if output.custom_instructions:
        rows.append(f"      {output.custom_instructions}")
    if output.locking_script:
        rows.append(f"      {output.locking_script}")
    return rows
