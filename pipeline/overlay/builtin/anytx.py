"""tm_anytx: admits every output of every valid transaction."""

from pipeline.overlay.manager import Subject
from schemas.external import Admittance


class AnyTx:
    """The way to say "just verify and broadcast"; keeps no history."""

    version = "1"

    def admit(self, subject: Subject) -> Admittance:
        """Every output."""
        return Admittance(outputs_to_admit=tuple(range(subject.output_count)))
