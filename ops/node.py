"""Programs of ours for Node, with packages that a lock file names."""

import shutil
import subprocess
from pathlib import Path

from ops.bench import Say
from ops.home import cache

LOCKED = ("package.json", "package-lock.json", ".npmrc")


def installed(package: Path, program: Path, what: str, say: Say) -> Path | None:
    """A folder in the cache with the packages and the program; None where they cannot be had, and it is said why.

    package: the folder of the lock file. what: what is left out then.
    """
    if shutil.which("node") is None or shutil.which("npm") is None or not package.is_dir():
        say(f"no Node here, or no checkout: {what} is left out")
        return None
    folder = cache() / "node" / package.name
    folder.mkdir(parents=True, exist_ok=True)
    for name in LOCKED:
        shutil.copy(package / name, folder / name)
    ran = subprocess.run(
        ["npm", "ci", "--silent", "--no-audit", "--no-fund"], cwd=folder, capture_output=True, text=True, check=False
    )
    if ran.returncode:
        say(f"npm cannot install {what}, which is left out: {ran.stderr.strip()}")
        return None
    shutil.copy(program, folder / program.name)
    return folder
