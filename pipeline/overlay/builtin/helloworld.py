"""tm_helloworld: admits signed greetings."""

import hashlib

import _bsv_native

from pipeline.overlay.manager import Subject
from pipeline.overlay.pushdrop import read_pushdrop
from schemas.external import Admittance

SHORTEST = 2
"""Characters of a greeting, at least."""


class HelloWorld:
    """A PushDrop of one field, a greeting of two characters or more, signed by the key that locks it."""

    version = "1"

    def admit(self, subject: Subject) -> Admittance:
        """Outputs that greet."""
        return Admittance(
            outputs_to_admit=tuple(n for n, output in enumerate(subject.outputs) if greets(output.script))
        )


def greets(script: bytes) -> bool:
    """Whether a locking script is a signed greeting (ECDSA over SHA-256 of the greeting)."""
    found = read_pushdrop(script)
    if found is None or len(found.fields) != 2:
        return False
    greeting, signature = found.fields
    try:
        if len(greeting.decode("utf-8")) < SHORTEST:
            return False
    except UnicodeDecodeError:
        return False
    try:
        return bool(_bsv_native.ecdsa_verify(signature, hashlib.sha256(greeting).digest(), found.key))
    except (ValueError, RuntimeError):  # no signature or no key at all
        return False
