"""`beefline state`: what contexts hold, from any worker."""

import asyncio
import sys
from typing import TYPE_CHECKING, Any

import click

from ops.cli.options import fail, reading_options, settings_options

if TYPE_CHECKING:
    from beefline.reading import StateReader
    from ops.journal import Walked
    from ops.settings import Loaded
    from schemas.external import ContextState, LiveOutput, Standing, TransactionStanding

REPAIR_LOOK_S = 0.5
REPAIR_LOOKS = 600
"""Five minutes: a million entries are read in one."""


@click.group()
def state() -> None:
    """What contexts hold: coins, and how transactions stand."""


@state.command()
@click.argument("topic", required=False)
@click.option("--outputs", is_flag=True, help="Its live outputs too.")
@click.option("--first", default=0, metavar="N", help="At most so many of them.")
@click.option("--txid", help="In place of a topic: how this transaction stands in every context.")
@reading_options
@settings_options
def show(
    topic: str | None,
    outputs: bool,
    first: int,
    txid: str | None,
    anything: bool,
    min_sequence: int,
    address: str | None,
    as_json: bool,
    loaded: "Loaded",
) -> None:
    """Where an overlay topic stands: sequence, roots, live outputs. Exit code 1: no answer, or a stranger's txid."""
    from beefline.reading import NoAnswer, StateReader
    from schemas.types import is_topic_name

    if (topic is None) == (txid is None):
        fail("either TOPIC or --txid")
    if topic is not None and not is_topic_name(topic):
        fail(f"{topic!r} is no overlay topic name (BRC-87)")
    asked: dict[str, Any] = {"consistency": "any" if anything else "strong"}
    url, token = worker_of(loaded, address)

    async def run() -> bool:
        async with StateReader(url, token) as reader:
            if txid is not None:
                return _transaction(await reader.transaction(txid, **asked), as_json)
            assert topic is not None
            asked["min_sequence"] = min_sequence
            return await _context(reader, topic, asked, -1 if not outputs else first or sys.maxsize, as_json)

    try:
        found = asyncio.run(run())
    except NoAnswer as error:
        fail(str(error), 1)
    sys.exit(not found)


@state.command()
@click.option(
    "--context", "contexts", multiple=True, metavar="CONTEXT", help="topic:tm_x; may be repeated. Default: all."
)
@click.option("--json", "as_json", is_flag=True, help="A JSON line a context.")
@settings_options
def verify(contexts: tuple[str, ...], as_json: bool, loaded: "Loaded") -> None:
    """Compare, each at its own sequence: a context's owner, every copy, its changelog, and the journal replayed.

    Exit code 0: all agree; 1: they do not, or one did not answer.
    """
    from ops.cli.journal import contexts_of, opened, run_or_fail, tell
    from ops.holders import Holders
    from ops.journal import Stated
    from schemas.external import ContextState

    asked = contexts_of(contexts)
    silent: list[str] = []

    async def run() -> "list[Walked]":
        async with opened(loaded, asked) as journals, Holders(loaded.settings) as holders:
            stated = await journals.heads()
            for context, words in stated.items():
                addresses = await holders.addresses(holders.partition(context))
                if not addresses:
                    silent.append(f"{context}: no worker says that it holds it")
                for place, url in enumerate(addresses):
                    who = f"its {'copy' if place else 'owner'} {url}"
                    said = await holders.state(url, context)
                    if isinstance(said, ContextState):
                        roots = bytes.fromhex(said.state_root), bytes.fromhex(said.store_root)
                        words.append(Stated(who, said.sequence, *roots))
                    else:
                        silent.append(f"{context}: {who} does not say: {said}")
            return await journals.verify(stated)

    walked = run_or_fail(run)
    for each in silent:
        click.echo(each, err=True)
    tell(walked, asked, as_json=as_json, well=not silent)


@state.command()
@click.argument("context")
@click.option("--worker", "only", metavar="URL", help="This worker's store alone; else every copy's, and the owner's.")
@settings_options
def repair(context: str, only: str | None, loaded: "Loaded") -> None:
    """Have workers make the store that holds CONTEXT again from its changelog, copies first, one after the other.

    A store that differs is found and made again by itself; this is for one that an operator does not trust. Each is
    compared with what its changelog states before it answers again. Exit code 1: one was not, or did not answer.
    """
    from ops.cli.journal import contexts_of, run_or_fail
    from ops.holders import Holders
    from schemas.external import ContextState

    contexts_of([context])

    async def run() -> bool:
        async with Holders(loaded.settings) as holders:
            number = holders.partition(context)
            addresses = [only] if only else list(reversed(await holders.addresses(number)))
            if not addresses:
                click.echo(f"no worker says that it holds partition {number}", err=True)
            for url in addresses:
                if refused := await holders.make_again(url, number):
                    click.echo(f"{url} does not: {refused}", err=True)
                    return False
                said: ContextState | str = ""
                for _ in range(REPAIR_LOOKS):
                    await asyncio.sleep(REPAIR_LOOK_S)
                    said = await holders.state(url, context, strong=True)
                    if isinstance(said, ContextState):
                        break
                if not isinstance(said, ContextState):
                    click.echo(f"{url} does not answer again: {said}", err=True)
                    return False
                click.echo(f"{url}  partition {number} made again  {context} at {said.sequence:,}  {said.state_root}")
            return bool(addresses)

    sys.exit(not run_or_fail(run))


def worker_of(loaded: "Loaded", address: str | None) -> tuple[str, str | None]:
    """Address and token of the worker that is to answer."""
    from agents.runtime.health import token
    from ops.running import running_workers

    prefix = loaded.settings.topics.prefix
    here = [address] if address else [worker.http for worker in running_workers() if worker.prefix == prefix]
    if not here:
        fail("no worker runs on this machine; name one with --at URL", 1)
    return here[0], token(loaded.settings.worker)


async def _context(reader: "StateReader", topic: str, asked: dict[str, Any], most: int, as_json: bool) -> bool:
    _say(await reader.state(topic, **asked), as_json, _state_lines)
    if most < 0:
        return True
    count = 0
    async for output in reader.outputs(topic, **asked):
        if count == most:
            break
        _say(output, as_json, _output_lines)
        count += 1
    return True


def _transaction(found: "TransactionStanding", as_json: bool) -> bool:
    if as_json or found.contexts:
        _say(found, as_json, _transaction_lines)
    else:
        click.echo(f"{found.txid} is not known in any context")
    return bool(found.contexts)


def _say(what: Any, as_json: bool, lines: Any) -> None:
    import msgspec

    click.echo(msgspec.json.encode(what).decode() if as_json else "\n".join(lines(what)))


def _state_lines(state: "ContextState") -> list[str]:
    rows = [f"{state.context}  sequence {state.sequence:,}", f"  state root  {state.state_root}"]
    rows.append(f"  store root  {state.store_root}")
    rows += ["  settling: more follows by itself"] if state.settling else []
    if state.undecided:
        rows.append(f"  {state.undecided:,} operations over several contexts are undecided here")
        rows += [f"    {each.operation}  {each.txid}" for each in state.undecided_operations]
    return rows


def _output_lines(output: "LiveOutput") -> list[str]:
    contested = "  contested by " + ", ".join(output.contested_by) if output.contested_by else ""
    return [f"  {output.outpoint}  {output.satoshis:>12,} sat{contested}"]


def _transaction_lines(found: "TransactionStanding") -> list[str]:
    rows = [row for standing in found.contexts for row in _standing_lines(standing)]
    if found.missing:
        rows.append(f"no worker answered for partitions {', '.join(map(str, found.missing))}")
    return rows


def _standing_lines(standing: "Standing") -> list[str]:
    about = [standing.standing, *(["accepted by the network"] if standing.accepted else [])]
    if standing.code is not None:
        about.append(f"{standing.code} {standing.message or ''}".rstrip())
    if standing.departed_with is not None:
        about.append(f"with {standing.departed_with}")
    rows = [f"{standing.state.context}  {', '.join(about)}"]
    if standing.admittance is not None:
        said = standing.admittance
        rows.append(
            f"  by {standing.manager}, entry {standing.sequence}: admitted {list(said.outputs_to_admit)}, "
            f"retained {list(said.coins_to_retain)}, removed {list(said.coins_removed)}"
        )
    return rows
