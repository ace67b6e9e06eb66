"""`beefline chaos`."""

import asyncio
import sys

import click

from ops.cli.options import fail


@click.command()
@click.argument("names", nargs=-1, metavar="[SCENARIO]…")
@click.option("--payloads", type=click.IntRange(1), help="Or operations, in place of the scenario's own count.")
@click.option("--faults", type=click.IntRange(0), help="In place of the scenario's own count.")
@click.option("--rate", type=float, help="Records a second.")
@click.option("--seed", default=0, show_default=True, help="The same seed gives the same payloads and faults.")
@click.option("--list", "listing", is_flag=True, help="List the scenarios and end.")
def chaos(
    names: tuple[str, ...], payloads: int | None, faults: int | None, rate: float | None, seed: int, listing: bool
) -> None:
    """The long fault tests: load, faults, and an audit. Exit code 1 when anything is lost, doubled or torn."""
    from ops.apply_chaos.rig import Late
    from ops.broker import BrokerError
    from ops.chaos import SCENARIOS, run
    from ops.cli.audit import show
    from ops.home import home, move_to
    from ops.installation import NotReady

    if listing:
        for name, scenario in SCENARIOS.items():
            click.echo(f"{name:16} {scenario.says}")
        return
    if unknown := [name for name in names if name not in SCENARIOS]:
        fail(f"no scenario {unknown[0]!r}; there are {', '.join(SCENARIOS)}")
    clean, folder = True, home() / "chaos"
    for name in names or SCENARIOS:
        move_to(folder)
        click.echo(f"--- {name}: {SCENARIOS[name].says}")
        try:
            outcome = asyncio.run(
                run(
                    name,
                    payloads=payloads,
                    faults=faults,
                    rate=rate,
                    seed=seed,
                    say=lambda what: click.echo(f"  {what}"),
                )
            )
        except (BrokerError, Late, NotReady) as error:
            fail(f"{name}: {error}\nlogs: {folder / 'logs'}", 1)
        show(outcome.report)
        for figure in outcome.figures:
            click.echo(f"  {figure}")
        click.echo(
            f"{name}: {outcome.payloads} records, {outcome.faults} faults, {outcome.restarts} restarts, "
            f"{outcome.seconds:.0f} s"
        )
        clean = clean and outcome.report.exit_code == 0
    sys.exit(0 if clean else 1)
