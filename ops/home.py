"""Where a local installation keeps what it runs with: one folder, ignored by git, safe to delete when nothing runs."""

import os
import shutil
from pathlib import Path


def home() -> Path:
    """The folder: BEEFLINE_HOME, or `.beefline` where the command is called."""
    return Path(os.environ.get("BEEFLINE_HOME") or ".beefline").resolve()


def cache() -> Path:
    """What was fetched and can be shared by several homes: BEEFLINE_CACHE, or `cache` in the home."""
    named = os.environ.get("BEEFLINE_CACHE")
    return Path(named).resolve() if named else home() / "cache"


def move_to(folder: Path) -> None:
    """A fresh home for what this process starts, so that nothing else of the user's is touched; the cache is shared."""
    os.environ["BEEFLINE_CACHE"] = str(cache())
    os.environ["BEEFLINE_HOME"] = str(folder)
    shutil.rmtree(folder, ignore_errors=True)
