"""The generated pages below docs/: every table of the program, as text. Deterministic, and made from a checkout."""

import ast
import importlib.util
import inspect
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click
import msgspec
from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase

from agents import metrics
from agents.runtime.settings import TopicSettings
from ops.settings import PRESETS, Knob, knobs
from pipeline.invariants import INVARIANTS
from pipeline.outcome import CODES, Code
from schemas import headers as h
from schemas.baskets import BasketInstruction
from schemas.external import Event, Result
from schemas.reservations import OwnerAnswer, OwnerRequest
from topics import reference as topics
from topics.reference import EVERY_RECORD, header_notes, table

ROOT = Path(__file__).parents[1]
"""Of the checkout: the promises' page names tests, which are not installed."""

UNITS = {
    "_s": "s",
    "_ms": "ms",
    "_bytes": "bytes",
    "_records": "records",
    "_height": "block height",
    "_sat_per_kb": "satoshis per 1,000 bytes",
    "_per_s": "per second",
}
"""What the end of a setting's name says of its unit; the longest that fits counts."""


def pages() -> dict[str, str]:
    """Each page's text by its path below docs/."""
    defaults = TopicSettings()
    found = {
        "topics.md": topics.markdown(defaults.max_payload_bytes, defaults.prefix),
        "asyncapi.json": topics.asyncapi(defaults.max_payload_bytes, defaults.prefix),
        "schemas/result.json": _json(topics.json_schema(Result)),
        "schemas/event.json": _json(topics.json_schema(Event)),
        "schemas/basket-instruction.json": _json(topics.json_schema(BasketInstruction)),
        "schemas/owner-request.json": _json(topics.json_schema(OwnerRequest)),
        "schemas/owner-answer.json": _json(topics.json_schema(OwnerAnswer)),
        "headers.md": "\n".join(_headers()),
        "codes.md": "\n".join(_codes()),
        "settings.md": "\n".join(_settings()),
        "metrics.md": "\n".join(_metrics()),
        "promises.md": "\n".join(_promises()),
        "cli.md": "\n".join(_cli()),
    }
    return {f"reference/{name}": text.rstrip("\n") + "\n" for name, text in found.items()}


def _json(schema: dict[str, Any]) -> str:
    return msgspec.json.format(msgspec.json.encode(schema), indent=2).decode()


def _headers() -> Iterator[str]:
    yield from ("# Record headers", "")
    yield from ("Kafka headers are pairs of name and bytes. Text is UTF-8, numbers are decimal ASCII.", "")
    for title, says, rows in (
        ("Every record", "", EVERY_RECORD),
        ("Ingest", "What a sender asks for. Each is optional.", header_notes(h.IngestHeaders)),
        (
            "Retry tiers",
            "What a record carries while it waits for a condition to pass, and keeps when it returns to its origin.",
            header_notes(h.RetryHeaders),
        ),
        ("Dead letters", "The cause, beside the record's own headers.", header_notes(h.DeadLetterHeaders)),
        ("Transactions", "What the network said.", topics.ACCEPTED_HEADERS),
    ):
        yield from (f"## {title}", "")
        if says:
            yield from (says, "")
        yield from table(("header", "holds"), ((f"`{name}`", text) for name, text in rows.items()))
        yield ""


def _codes() -> Iterator[str]:
    yield from ("# Codes", "")
    yield "A code is `class.detail`. A *verdict* is about the payload and final. A *condition* may pass: of one record,"
    yield "which waits in the retry tiers, or of the world, which pauses the stage. A *fault* is ours: the record goes"
    yield from ("to the dead letters, and its sender hears `parked`.", "")
    for name, rows in _grouped(CODES, lambda row: row.code.split(".")[0]):
        yield from (f"## {name}", "")
        yield from table(
            ("code", "kind", "meaning", "what the sender can do", "ARC"),
            (
                (f"`{row.code}`", _kind(row), row.meaning, row.do, str(row.arc) if row.arc is not None else "")
                for row in rows
            ),
        )
        yield ""


def _kind(row: Code) -> str:
    return f"{row.kind} of the world" if row.scope == "world" else row.kind


def _settings() -> Iterator[str]:
    yield from ("# Settings", "")
    yield "A key is `section.name`: a table and a name in a TOML file (`--config`), a variable in the environment, or"
    yield "`--set section.name=value`. Later ones win: preset of the network, a local installation, file, environment,"
    yield from ("flags. `beefline settings --all` shows what is in effect, and where each value comes from.", "")
    for section, rows in _grouped(knobs(), lambda knob: knob.key.split(".")[0]):
        yield from (f"## {section}", "")
        yield from table(
            ("setting", "type", "default", "unit", "why", "environment"),
            (
                (f"`{knob.key}`", knob.type, _default(knob), _unit(knob), knob.reason, f"`{knob.variable}`")
                for knob in rows
            ),
        )
        yield ""
    yield from ("## Presets", "", "`--network NAME` or `BEEFLINE_NETWORK`; `main` is the default.", "")
    yield from table(
        ("network", "setting", "value"),
        (
            (network, f"`{section}.{name}`", str(value))
            for network, sections in PRESETS.items()
            for section, values in sections.items()
            for name, value in values.items()
        ),
    )


def _default(knob: Knob) -> str:
    value = knob.default
    if isinstance(value, tuple):
        value = ",".join(value)
    if isinstance(value, bool):
        value = str(value).lower()
    return f"`{value}`" if value != "" else ""


def _unit(knob: Knob) -> str:
    fitting = [end for end in UNITS if knob.key.endswith(end)]
    return UNITS[max(fitting, key=len)] if fitting else ""


def _metrics() -> Iterator[str]:
    yield from ("# Metrics", "", "Served by every worker at `/metrics`. No txid is a label.", "")
    rows = sorted(_every_metric(), key=lambda row: list(metrics.READ).index(row[0]))
    yield from table(
        ("metric", "type", "labels", "says", "how to read it"),
        ((f"`{name}`", kind, labels, says, metrics.READ[name]) for name, kind, labels, says in rows),
    )


def _every_metric() -> Iterator[tuple[str, str, str, str]]:
    for metric in vars(metrics).values():
        if not isinstance(metric, MetricWrapperBase):
            continue
        (described,) = metric.describe()
        kind = next(name for name, type_ in _TYPES.items() if isinstance(metric, type_))
        name = described.name + ("_total" if kind == "counter" else "")
        yield name, kind, ", ".join(f"`{label}`" for label in metric._labelnames), described.documentation


_TYPES = {"counter": Counter, "gauge": Gauge, "histogram": Histogram}


def _promises() -> Iterator[str]:
    yield from ("# Promises", "", "Each with the file that keeps it and the tests that hold us to it.", "")
    cited = citations(ROOT / "tests", "invariant")
    yield from table(
        ("id", "promise", "kept by", "tests"),
        (
            (
                row.id,
                row.says,
                f"[{row.kept_by}](../../{row.kept_by})",
                ", ".join(f"[{file}](../../{file})" for file in sorted({f for f, _ in cited.get(row.id, ())})),
            )
            for row in INVARIANTS
        ),
    )


def citations(tests: Path, marker: str) -> dict[str, list[tuple[str, str]]]:
    """Which tests say `@pytest.mark.<marker>("…")` (or say it for a whole file): file and test, by what is cited."""
    found: dict[str, list[tuple[str, str]]] = {}
    for path in sorted(tests.rglob("test_*.py")):
        file = path.relative_to(tests.parent).as_posix()
        for owner, decorators in _marked(ast.parse(path.read_text(encoding="utf-8"))):
            for mark in decorators:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == f"pytest.mark.{marker}":
                    for argument in mark.args:
                        found.setdefault(ast.literal_eval(argument), []).append((file, owner))
    return found


def _marked(module: ast.Module) -> Iterator[tuple[str, Iterable[ast.expr]]]:
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node.decorator_list
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark":
            yield "*", node.value.elts if isinstance(node.value, ast.List | ast.Tuple) else [node.value]


def _cli() -> Iterator[str]:
    from ops.cli.main import COMMANDS, main

    yield from ("# Commands", "", "Exit code 3: the command was asked for something it cannot do.", "")
    context = click.Context(main, info_name="beefline")
    for name in main.list_commands(context):
        if importlib.util.find_spec(COMMANDS[name][0].split(":")[0]) is None:
            continue  # not part of this build
        command = main.get_command(context, name)
        assert command is not None
        yield from _command(command, click.Context(command, info_name=name, parent=context), level=2)


def _command(command: click.Command, context: click.Context, level: int) -> Iterator[str]:
    yield from (f"{'#' * level} {context.command_path}", "")
    yield from (f"`{context.command_path} {' '.join(command.collect_usage_pieces(context))}`", "")
    if command.help:
        yield from (inspect.cleandoc(command.help.replace("\b\n", "")), "")
    options = [param for param in command.params if isinstance(param, click.Option) and not param.hidden]
    if options:
        yield from table(("option", "says", "default"), (_option(option, context) for option in options))
        yield ""
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from _command(inner, click.Context(inner, info_name=name, parent=context), level + 1)


def _option(option: click.Option, context: click.Context) -> tuple[str, str, str]:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    if not (option.is_flag or option.count):
        names += f" {option.make_metavar(context)}"
    says = f"{option.help or ''}{' Repeatable.' if option.multiple else ''}".strip()
    default = option.default
    shown = "" if option.is_flag or callable(default) or not _is_plain(default) else f"`{default}`"
    return names, says, shown


def _is_plain(default: Any) -> bool:
    """Whether a default says something: not absent (click has a value of its own for that), not empty."""
    return isinstance(default, str | int | float | Path) and default != ""


def _grouped(rows: Iterable[Any], by: Any) -> Iterator[tuple[str, list[Any]]]:
    groups: dict[str, list[Any]] = {}
    for row in rows:
        groups.setdefault(by(row), []).append(row)
    yield from groups.items()
