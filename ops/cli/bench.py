"""`beefline bench`."""

import asyncio
from pathlib import Path

import click

PARTS = (
    *("kernel", "runtime", "path", "apply", "baskets", "broadcast"),
    *("operations", "takeover", "neighbours", "hostile"),
)
UNLESS_NAMED = ("kernel", "runtime", "path", "apply", "baskets", "broadcast")


@click.command()
@click.argument("parts", nargs=-1, type=click.Choice(PARTS))
@click.option("--soak", default=0, metavar="PAYLOADS", type=click.IntRange(0), help="Verify so many, and watch memory.")
@click.option("--pipeline", is_flag=True, help="With `hostile`: on a running installation too, beside honest traffic.")
@click.option("--rate", default=50.0, show_default=True, type=click.FloatRange(1), help="Its payloads a second.")
@click.option("--write", type=click.Path(path_type=Path, dir_okay=False), help="Write the page here too.")
def bench(parts: tuple[str, ...], soak: int, pipeline: bool, rate: float, write: Path | None) -> None:
    """Measure the verifier, the runtime, the whole path, apply, baskets and broadcast. Prints a page.

    Or, where they are named: operations over several contexts, takeovers by copies, what a slow topic manager costs
    its neighbours, and what hostile payloads cost.

    \b
    Exit code 1: a hostile payload passed its bounds, or got another answer than it must.
    """
    from ops import bench as benchmarks
    from ops import hostile_bench
    from ops.home import home, move_to

    chosen = parts or UNLESS_NAMED

    def say(what: str) -> None:
        click.echo(what, err=True)

    verifier = ""
    if "kernel" in chosen or soak:
        from ops import kernel_bench

        timed = kernel_bench.kernel(say) if "kernel" in chosen else []
        verifier = kernel_bench.page(timed, kernel_bench.soak(soak, say) if soak else None)
    folder = home() / "bench"
    move_to(folder)
    alone = asyncio.run(benchmarks.runtime(say)) if "runtime" in chosen else None
    move_to(folder)
    whole = asyncio.run(benchmarks.path(say)) if "path" in chosen else None
    applied = ""
    if "apply" in chosen:
        from ops import apply_bench, engine_bench

        move_to(folder)
        applied = apply_bench.run(say) + engine_bench.page(engine_bench.compare(say))
    if "baskets" in chosen:
        from ops import basket_bench

        move_to(folder)
        applied += basket_bench.run(say)
    if "broadcast" in chosen:
        from ops import cast_bench

        move_to(folder)
        applied += cast_bench.run(say)
    if "operations" in chosen:
        from ops import operations_bench

        move_to(folder)
        applied += operations_bench.run(say)
    if "takeover" in chosen:
        from ops import takeover_bench

        move_to(folder)
        applied += takeover_bench.run(say)
    if "neighbours" in chosen:
        from ops import neighbours_bench

        move_to(folder)
        applied += neighbours_bench.run(say)
    more = verifier + applied
    text = benchmarks.page(alone, whole, more) if alone or whole or more else ""
    good = True
    if "hostile" in chosen:
        move_to(folder)
        page, good = hostile_bench.run(say, rate if pipeline else None, benchmarks.machine)
        text += page
    click.echo(text)
    if write is not None:
        write.parent.mkdir(parents=True, exist_ok=True)
        write.write_text(text, encoding="utf-8")
    if not good:
        raise SystemExit(1)
