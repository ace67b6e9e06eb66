"""The TypeScript SDK in a process of its own: one question, one answer, or none."""

import json
import select
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from msgspec import Struct

from pipeline.chain.answer import Answer, RootAt, Tip
from schemas.types import Txid, display, from_display

HERE = Path(__file__).parent
FILES = ("package.json", "package-lock.json", ".npmrc", "verify.mjs")
PATIENCE_S = 30.0
NO_ANSWER = "no answer"
MEMORY_MB = 96  # a parser without bounds ends here, and soon


class Opinion(Struct, frozen=True):
    """What it says of a payload."""

    txid: Txid | None = None  # of the transaction it took for the subject
    ef: bytes | None = None  # where it verified; empty where the subject has a proof of its own
    error: str = ""

    @property
    def valid(self) -> bool:
        """Whether it verified."""
        return self.ef is not None


class Sdk:
    """Asks, and begins again with a new process when the old one ended or does not answer."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._node: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Sdk":
        return self

    def __exit__(self, kind: type[BaseException] | None, said: BaseException | None, at: TracebackType | None) -> None:
        self._end()

    def ask(self, beef: bytes, answers: Mapping[RootAt, Answer], tip: Tip) -> Opinion:
        """Its opinion, with a tracker that knows the roots we were told are right."""
        if self._node is None:
            self._node = subprocess.Popen(
                ["node", f"--max-old-space-size={MEMORY_MB}", "verify.mjs"],
                cwd=self.folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        assert self._node.stdin is not None
        assert self._node.stdout is not None
        roots = [(height, display(root)) for (height, root), said in answers.items() if said is Answer.YES]
        line = json.dumps({"beef": beef.hex(), "roots": roots, "tip": tip.height})
        self._node.stdin.write(line.encode() + b"\n")
        self._node.stdin.flush()
        answered, _, _ = select.select([self._node.stdout], [], [], PATIENCE_S)
        said = self._node.stdout.readline() if answered else b""
        if not said:
            self._end()
            return Opinion(error=NO_ANSWER)
        told = json.loads(said)
        txid = from_display(told["txid"]) if "txid" in told else None
        return Opinion(txid, bytes.fromhex(told["ef"]) if "ef" in told else None, told.get("error", ""))

    def _end(self) -> None:
        if self._node is not None:
            self._node.kill()
            self._node.communicate()
            self._node = None
