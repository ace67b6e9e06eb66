"""Where a local installation keeps what it runs with: one folder, ignored by git, safe to delete when nothing runs."""

import os
from pathlib import Path


def home() -> Path:
    """The folder: BEEFLINE_HOME, or `.beefline` where the command is called."""
    return Path(os.environ.get("BEEFLINE_HOME") or ".beefline").resolve()


def cache() -> Path:
    """What was fetched and can be shared by several homes: BEEFLINE_CACHE, or `cache` in the home."""
    named = os.environ.get("BEEFLINE_CACHE")
    return Path(named).resolve() if named else home() / "cache"
