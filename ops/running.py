"""What runs on this machine: files that running workers and a local installation write of themselves."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from ops.home import home


class RunningWorker(Struct, frozen=True):
    """A worker process, as it says of itself."""

    stage: str
    pid: int
    group: str
    http: str
    bootstrap: str
    prefix: str
    started: float  # Unix seconds


def run_dir() -> Path:
    """Where running workers say who and where they are."""
    return home() / "run"


def running_workers() -> list[RunningWorker]:
    """Workers of this home whose process lives, by stage."""
    found = []
    for path in sorted(run_dir().glob("*-*.json")):
        try:
            worker = RunningWorker(**json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            continue  # it ended while we looked
        if _lives(worker.pid):
            found.append(worker)
        else:
            path.unlink(missing_ok=True)  # it was killed and could not do so itself
    return found


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return not Path("/proc/self/stat").exists()  # it ended while we looked, or this system has no such files


def _local_file() -> Path:
    return run_dir() / "local.json"


def say_local(pid: int, settings: Sequence[str], about: dict[str, Any]) -> None:
    """A local installation is up: the settings that reach it, and its addresses."""
    path = _local_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps({"pid": pid, "settings": list(settings), **about}), encoding="utf-8")
    partial.replace(path)


def unsay_local() -> None:
    """It is down."""
    _local_file().unlink(missing_ok=True)


def local() -> dict[str, Any] | None:
    """What a local installation that lives says of itself."""
    try:
        about: dict[str, Any] = json.loads(_local_file().read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return about if _lives(about["pid"]) else None


def local_settings() -> tuple[str, ...]:
    """Settings that reach the local installation, where one is up; else the local broker, where one runs alone."""
    about = local()
    if about is not None:
        return tuple(about["settings"])
    from ops.broker import status

    broker = status()
    if broker is None:
        return ()
    return broker_settings(broker.bootstrap, len(broker.nodes))


def broker_settings(bootstrap: str, nodes: int) -> tuple[str, ...]:
    """Settings that fit a local broker."""
    copies = min(3, max(1, nodes))  # of a broker known by its address alone, nobody counts nodes
    return (f"kafka.bootstrap={bootstrap}", f"topics.replication={copies}", f"topics.min_isr={max(1, copies - 1)}")
