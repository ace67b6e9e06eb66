"""`beefline generate`: signed BEEFs on the simulated chain, with the verdict each must get."""

from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ops.instruments.payloads import Generated


@click.command()
@click.option("--count", default=1, show_default=True, help="How many payloads.")
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    help="What kind; several are taken in turn, `all` is every one of them. Default: p2pkh.",
)
@click.option("--kinds", "listing", is_flag=True, help="List the kinds and end.")
@click.option(
    "--seed", default=0, show_default=True, help="The same seed gives the same payloads; another one, other coins."
)
@click.option("--first", type=int, help="Number of the first coin, in place of the seed's own.")
@click.option("--size", type=int, help="Of the kind: transactions of a chain, inputs, outputs, bytes of data …")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path, allow_dash=True),
    default="-",
    show_default=True,
    help="File to write.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["hex", "jsonl", "binary"]),
    default="jsonl",
    show_default=True,
    help="hex: a line each; jsonl: with what to expect; binary: a pool for `beefline load`.",
)
@click.option(
    "--chain",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the simulated chain, made when there is none.",
)
def generate(
    count: int,
    kinds: tuple[str, ...],
    listing: bool,
    seed: int,
    first: int | None,
    size: int | None,
    out: Path,
    form: str,
    chain: Path | None,
) -> None:
    """Signed BEEFs on the simulated chain."""
    import itertools

    from ops.instruments.chain import Chain
    from ops.instruments.generate import Generator, kind_names
    from ops.instruments.payloads import write_pool

    names = kind_names()
    if listing:
        for name, says in names.items():
            click.echo(f"{name:18} {says}")
        return
    wanted = tuple(names) if "all" in kinds else kinds or ("p2pkh",)
    if unknown := [kind for kind in wanted if kind not in names]:
        raise click.BadParameter(f"{unknown[0]!r}; `beefline generate --kinds` lists them", param_hint="--kind")
    generator = Generator(Chain.open(chain), seed, first)
    made = (generator.make(kind, size) for kind in itertools.cycle(wanted))
    payloads = itertools.islice(itertools.chain.from_iterable(made), count)
    if form == "binary":
        if str(out) == "-":
            raise click.UsageError("a pool needs a file: --out FILE")
        click.echo(f"{write_pool(out, payloads)} payloads in {out}", err=True)
        return
    with click.open_file(str(out), "wb") as file:
        for payload in payloads:
            _line(file, payload, form)


def _line(file: IO[Any], payload: "Generated", form: str) -> None:
    import msgspec

    text = payload.beef.hex().encode() if form == "hex" else msgspec.json.encode(payload.as_json())
    file.write(text + b"\n")
