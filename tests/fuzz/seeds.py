"""Payloads the fuzzer begins with: real ones, the published synthetic ones, and one of each framing."""

import json
from pathlib import Path

from ops.instruments.payloads import mainnet

VECTORS = Path(__file__).parents[1] / "vectors"


def seeds() -> list[bytes]:
    """Small well-formed payloads."""
    found = [payload.beef for payload in mainnet()]
    for path in sorted((VECTORS / "universal").glob("*.json")):
        text = json.loads(path.read_text())
        found += [bytes.fromhex(text[key]) for key in ("beef_hex", "beef_v2_hex", "atomic_beef_hex") if key in text]
    return found
