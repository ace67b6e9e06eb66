"""Published test vectors; ORIGIN.md says whose."""

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def load(name: str) -> Any:
    """A file of vectors."""
    return json.loads((HERE / name).read_text())


def universal() -> dict[str, dict[str, Any]]:
    """The universal vectors, by name."""
    return {path.stem: load(f"universal/{path.name}") for path in sorted((HERE / "universal").glob("*.json"))}


def conformance(name: str) -> dict[str, dict[str, Any]]:
    """The vectors of a conformance file, by id."""
    return {vector["id"]: vector for vector in load(f"conformance/{name}.json")["vectors"]}
