"""The one table of settings: gathered from the stages, read from file, environment and flags.

Only this module reads settings from the environment. A key is `section.name`; in the environment
`BEEFLINE_SECTION_NAME`; in a TOML file a table for each section; on the command line `--set section.name=value`.
Later ones win: preset of the network, a local installation, file, environment, flags.
"""

import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Struct

from agents.coordinate import CoordinateSettings
from agents.parse import ParseSettings
from agents.runtime.endpoint_settings import BroadcastSettings
from agents.runtime.headers import HeaderSettings
from agents.runtime.hosting import ApplySettings
from agents.runtime.http import HttpSettings
from agents.runtime.sandbox import SandboxSettings
from agents.runtime.settings import (
    KafkaSettings,
    LogSettings,
    RetrySettings,
    TopicSettings,
    TraceSettings,
    WorkerSettings,
)
from agents.runtime.trackers import TrackerSettings
from agents.status import StatusSettings
from pipeline.policy import Policy
from schemas.types import why

PREFIX = "BEEFLINE_"

NOT_SETTINGS = frozenset({"BEEFLINE_HOME", "BEEFLINE_CACHE", "BEEFLINE_CONFIG", "BEEFLINE_NETWORK"})
"""Variables that say where things are, before any setting is read."""

Network = Literal["main", "test", "dev"]


class SupervisorSettings(Struct, frozen=True):
    """`beefline up`."""

    backoff_s: Annotated[
        float, why("First wait before a child that ended is started again; doubled each time.", gt=0)
    ] = 0.5
    backoff_max_s: Annotated[float, why("A broker that is away comes back; a child looks for it this often.", gt=0)] = (
        10.0
    )
    healthy_after_s: Annotated[float, why("A child that ran this long begins with the first wait again.", gt=0)] = 20.0


class Settings(Struct, frozen=True):
    """All sections."""

    kafka: KafkaSettings = KafkaSettings()
    topics: TopicSettings = TopicSettings()
    worker: WorkerSettings = WorkerSettings()
    parse: ParseSettings = ParseSettings()
    policy: Policy = Policy()
    trackers: TrackerSettings = TrackerSettings()
    headers: HeaderSettings = HeaderSettings()
    sandbox: SandboxSettings = SandboxSettings()
    apply: ApplySettings = ApplySettings()
    coordinate: CoordinateSettings = CoordinateSettings()
    broadcast: BroadcastSettings = BroadcastSettings()
    status: StatusSettings = StatusSettings()
    http: HttpSettings = HttpSettings()
    retry: RetrySettings = RetrySettings()
    trace: TraceSettings = TraceSettings()
    log: LogSettings = LogSettings()
    supervisor: SupervisorSettings = SupervisorSettings()


PRESETS: dict[Network, dict[str, dict[str, Any]]] = {
    "main": {},
    "test": {
        "policy": {"genesis_height": 1_344_302, "chronicle_height": 1_621_670},
        # The node's last checkpoint. Whoever finds no block for 20 minutes may take the easiest target there is.
        "headers": {
            "checkpoint": "1188697:0000000000170ed0918077bde7b4d36cc4c91be69fa09211f748240dabe047fb",
            "easiest_bits": "1d00ffff",
        },
    },
    # One broker on this machine, and a simulated chain from height 900,000 up: mainnet's rules at those heights, and
    # regtest's difficulty. Its checkpoint follows from its seed: the installation names it.
    "dev": {
        "topics": {"replication": 1, "min_isr": 1},
        "headers": {"checkpoint": "", "easiest_bits": "207fffff"},
        "status": {"settle_s": 2.0},  # what a simulated network says it says at once
    },
}
"""What differs by network: the heights of its upgrades (as ARC's configuration names them), where its headers begin
(as the node's `chainparams.cpp` names it) and how easy they may be, and a local broker."""


class BadSettings(Exception):  # noqa: N818 - what the user wrote
    """A setting that does not exist, or a value it cannot have."""


class Knob(Struct, frozen=True):
    """A setting, as the reference page shows it."""

    key: str
    type: str
    default: Any
    reason: str

    @property
    def variable(self) -> str:
        """Its name in the environment."""
        return PREFIX + self.key.replace(".", "_").upper()


class Loaded(Struct, frozen=True):
    """The effective settings, and where each value comes from."""

    settings: Settings
    origins: Mapping[str, str]  # by key; keys that are not here have their default


def knobs() -> Iterator[Knob]:
    """Every setting, in the order of the table."""
    for section in Settings.__struct_fields__:
        kind = type(getattr(Settings(), section))
        hints = get_type_hints(kind, include_extras=True)
        defaults = kind()
        for name in kind.__struct_fields__:
            annotation = hints[name]
            reason = ""
            if get_origin(annotation) is Annotated:
                annotation, *metas = get_args(annotation)
                reason = next((meta.description or "" for meta in metas if isinstance(meta, msgspec.Meta)), "")
            yield Knob(f"{section}.{name}", _type_name(annotation), getattr(defaults, name), reason)


def _type_name(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return " | ".join(str(value) for value in get_args(annotation))
    if get_origin(annotation) is tuple:
        return "list of texts"
    return {"str": "text", "int": "whole number", "float": "number", "bool": "true | false"}[annotation.__name__]


def load(
    *,
    config: Path | None = None,
    network: Network | None = None,
    flags: Sequence[str] = (),
    local: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Loaded:
    """The effective settings.

    flags: `section.name=value`; local: the same, from an installation that runs on this machine.

    Raises:
        BadSettings: naming the key, what is wrong with it and where it was set.
    """
    environment = os.environ if environment is None else environment
    known = {knob.key: knob for knob in knobs()}
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}

    def put(key: str, value: Any, origin: str) -> None:
        if key not in known:
            raise BadSettings(f"{key}: no such setting ({origin}){_nearest(key, known)}")
        values[key] = value
        origins[key] = origin

    chosen = network or environment.get("BEEFLINE_NETWORK", "main")
    if chosen not in PRESETS:
        raise BadSettings(f"network {chosen!r}: there are {', '.join(PRESETS)}")
    for section, table in PRESETS[chosen].items():
        for name, value in table.items():
            put(f"{section}.{name}", value, f"network {chosen}")
    for flag in local:
        key, _, text = flag.partition("=")
        put(key, text, "local installation")
    named = config or (Path(environment["BEEFLINE_CONFIG"]) if environment.get("BEEFLINE_CONFIG") else None)
    if named is not None:
        for key, value in _file(named):
            put(key, value, str(named))
    variables = {knob.variable: knob.key for knob in known.values()}
    for name, text in sorted(environment.items()):
        if name.startswith(PREFIX) and name not in NOT_SETTINGS:
            put(variables.get(name, name), text, f"environment {name}")
    for flag in flags:
        key, equals, text = flag.partition("=")
        if not equals:
            raise BadSettings(f"{flag!r}: a flag is section.name=value")
        put(key, text, "flag")
    if "policy.max_payload_bytes" in origins:
        raise BadSettings("policy.max_payload_bytes follows topics.max_payload_bytes: set that one")
    return Loaded(_build(values, origins), origins)


def _file(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise BadSettings(f"{path}: {error}") from error
    for section, table in tables.items():
        if not isinstance(table, dict):
            raise BadSettings(f"{path}: {section} stands outside a section")
        for name, value in table.items():
            yield f"{section}.{name}", value


def _build(values: Mapping[str, Any], origins: Mapping[str, str]) -> Settings:
    sections: dict[str, Any] = {}
    for section in Settings.__struct_fields__:
        kind = type(getattr(Settings(), section))
        hints = get_type_hints(kind, include_extras=True)
        fields = {}
        for name in kind.__struct_fields__:
            key = f"{section}.{name}"
            if key not in values:
                continue
            value = values[key]
            if isinstance(value, str) and _is_list(hints[name]):
                value = [part.strip() for part in value.split(",") if part.strip()]
            try:
                fields[name] = msgspec.convert(value, hints[name], strict=not isinstance(value, str))
            except msgspec.ValidationError as error:
                raise BadSettings(f"{key} = {value!r} ({origins[key]}): {error}") from error
        sections[section] = kind(**fields)
    # One limit, two readers: the topics are sized by it, and the parser holds payloads to it.
    limit = sections["topics"].max_payload_bytes
    sections["policy"] = msgspec.structs.replace(sections["policy"], max_payload_bytes=limit)
    settings = Settings(**sections)
    if settings.topics.min_isr > settings.topics.replication:
        raise BadSettings("topics.min_isr is above topics.replication: nothing could ever be written")
    return settings


def _is_list(annotation: Any) -> bool:
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return get_origin(annotation) is tuple


def _nearest(key: str, known: Mapping[str, Knob]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(key.removeprefix(PREFIX).replace("_", ".", 1).lower(), known, n=1)
    return f"; do you mean {close[0]}?" if close else ""


def flags_of(settings: Loaded) -> list[str]:
    """The settings that are not defaults, as `section.name=value`: what a child process is started with."""
    found = []
    for key in settings.origins:
        section, name = key.split(".")
        value = getattr(getattr(settings.settings, section), name)
        text = (
            ",".join(value)
            if isinstance(value, tuple)
            else str(value).lower()
            if isinstance(value, bool)
            else str(value)
        )
        found.append(f"{key}={text}")
    return found
