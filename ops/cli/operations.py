"""`beefline operations`: requests over several contexts, where they stand, and whether contexts agree."""

import sys
import time
from typing import TYPE_CHECKING, Any

import click

from ops.cli.journal import run_or_fail
from ops.cli.options import fail, settings_options
from schemas.types import display

if TYPE_CHECKING:
    from ops.operations import Operation, Part
    from ops.settings import Loaded

COLOURS = {"committed": "green", "aborted": "red", "undecided": "yellow"}


@click.group()
def operations() -> None:
    """Requests over several contexts with `atomicity: all`: each is applied in all of them, or in none."""


@operations.command(name="list")
@click.option("--all", "everything", is_flag=True, help="Those too that were decided, as long as that is kept.")
@click.option("--json", "as_json", is_flag=True, help="A JSON line an operation.")
@settings_options
def list_(everything: bool, as_json: bool, loaded: "Loaded") -> None:
    """Undecided ones, the oldest first: since when, until when, and for whose votes they wait."""
    from ops.operations import standing

    found: list[Operation] = run_or_fail(lambda: standing(loaded.settings))
    now_ms = int(time.time() * 1000)
    for operation in found:
        if everything or operation.stands == "undecided":
            _say(operation, as_json, _line(operation, now_ms))


@operations.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="A JSON line.")
@settings_options
def show(name: str, as_json: bool, loaded: "Loaded") -> None:
    """One of them whole, and what each context made of it. NAME may be the beginning of one. Exit code 1: none.

    Reads every journal.
    """
    from ops.operations import everywhere, named

    found: list[Operation] = named(run_or_fail(lambda: everywhere(loaded.settings)), name)
    if not found:
        fail(f"there is no operation {name}", 1)
    if len(found) > 1:
        fail(f"{len(found)} operations begin with {name}: {found[0].name}, {found[1].name}, ...", 1)
    _say(found[0], as_json, "\n".join(_whole(found[0])))


@operations.command()
@click.option("--json", "as_json", is_flag=True, help="A JSON object: counts, and findings.")
@settings_options
def verify(as_json: bool, loaded: "Loaded") -> None:
    """Each operation is committed in all of its contexts or in none, as decided, once, and in time.

    Compares every journal with `decisions`. What was decided and is on its way to a context is counted as that, so it
    may be asked of a running installation. Exit code 0: nothing is wrong; 1: something is.
    """
    import msgspec

    from ops.operations import everywhere, verified

    found = run_or_fail(lambda: everywhere(loaded.settings))
    deadline_ms = int(loaded.settings.coordinate.deadline_s * 1000)
    counts, wrong = verified(found, int(time.time() * 1000), deadline_ms)
    if as_json:
        click.echo(msgspec.json.encode({"operations": counts, "findings": wrong}).decode())
        sys.exit(bool(wrong))
    for finding in wrong:
        click.echo(f"{click.style(finding.kind, fg='red')}  {finding.operation}  {finding.says}")
    told = ", ".join(f"{count:,} {stands}" for stands, count in counts.items() if count)
    click.echo(f"{len(found):,} operations{': ' if told else ''}{told}; {len(wrong) or 'no'} findings")
    sys.exit(bool(wrong))


def _say(operation: "Operation", as_json: bool, text: str) -> None:
    import msgspec

    click.echo(msgspec.json.encode(_fields(operation)).decode() if as_json else text)


def _fields(operation: "Operation") -> dict[str, Any]:
    status = operation.status
    known: dict[str, Any] = {}
    if status is not None:
        known = {
            "request_id": status.asked.request_id,
            "attempt": status.attempt,
            "opened_ms": status.opened_ms,
            "due_ms": status.due_ms if not status.decided else None,
            "missing": operation.missing if not status.decided else [],
            "decided": status.decided or None,
            "decided_ms": status.decided_ms or None,
        }
        if status.decided == "abort":
            known |= {"final": status.final, "code": status.code, "message": status.message, "by": status.by or None}
            known["competing"] = [display(txid) for txid in status.competing]
    return {
        "operation": operation.name,
        "txid": display(operation.txid),
        "stands": operation.stands,
        "contexts": operation.contexts,
        **known,
        "journal": {
            context: {"kind": part.kind, "sequence": part.sequence} for context, part in operation.parts.items()
        },
        "on_its_way": sorted(operation.on_its_way),
    }


def _line(operation: "Operation", now_ms: int) -> str:
    from ops.operations import why_aborted

    status = operation.status
    assert status is not None  # the list is of what the coordinator knows
    stands = operation.stands
    words = click.style(stands, fg=COLOURS.get(stands))
    since_ms = status.decided_ms if status.decided else status.opened_ms
    line = f"{operation.name}  {words} for {_span(now_ms - since_ms)}  attempt {status.attempt}"
    if not status.decided:
        left_ms = status.due_ms - now_ms
        line += f"  due {f'in {_span(left_ms)}' if left_ms > 0 else f'{_span(-left_ms)} ago'}"
    line += f"  {display(operation.txid)}"
    if not status.decided:
        line += f"\n  waits for the votes of {', '.join(operation.missing)}"
    elif status.decided == "abort":
        line += f"\n  {why_aborted(status)}"
    return line


def _whole(operation: "Operation") -> list[str]:
    from ops.operations import why_aborted
    from pipeline.results import rfc3339

    status = operation.status
    rows = [("txid", display(operation.txid))]
    if status is None:
        rows.append(("decided", "not that the coordinator knew of it: nobody told it, or it is long ago"))
    else:
        origin = status.asked.origin
        rows += [
            ("request", status.asked.request_id),
            ("origin", f"{origin.topic}-{origin.partition} at {origin.offset}"),
            ("attempt", f"{status.attempt}, opened {rfc3339(status.opened_ms)}"),
        ]
        if not status.decided:
            rows += [("due", rfc3339(status.due_ms)), ("waits for", ", ".join(operation.missing))]
        else:
            rows.append(("decided", f"{status.decided}, {rfc3339(status.decided_ms)}"))
        if status.decided == "abort":
            rows.append(("why", why_aborted(status)))
            rows += [("competing", display(txid)) for txid in status.competing]
            rows.append(("next", "none: the sender was told" if status.final else "a further attempt follows"))
    lines = [f"{operation.name}  {operation.stands}", *(f"  {name:10} {what}" for name, what in rows)]
    return lines + [
        f"  {context}  {_part(operation.parts.get(context))}"
        + (", and has not read what was decided" if context in operation.on_its_way else "")
        for context in operation.contexts
    ]


def _part(part: "Part | None") -> str:
    from pipeline.results import rfc3339

    if part is None:
        return "has no entry of it"
    what = {"prepare": "prepared", "commit": "committed", "abort": "aborted"}[part.kind]
    return f"{what} by entry {part.sequence}, {rfc3339(part.time_ms)}"


def _span(ms: int) -> str:
    for size, unit in ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min")):
        if ms >= size:
            return f"{ms / size:.0f} {unit}"
    return f"{max(0, ms) / 1000:.0f} s"
