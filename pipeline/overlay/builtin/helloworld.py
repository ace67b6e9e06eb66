"""tm_helloworld: admits signed greetings."""

from pipeline.overlay.manager import Subject
from pipeline.overlay.pushdrop import is_signed, read_pushdrop
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
    try:
        if len(found.fields[0].decode("utf-8")) < SHORTEST:
            return False
    except UnicodeDecodeError:
        return False
    return is_signed(found)
