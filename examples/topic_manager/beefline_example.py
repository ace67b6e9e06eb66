"""tm_example: admits outputs that carry data marked `example`."""

from beefline import Admittance, Subject

MARK = b"example"

CARRIER = b"\x00\x6a" + bytes([len(MARK)]) + MARK
"""OP_FALSE OP_RETURN, then a push of the mark; whatever follows is the application's own."""


class Example:
    """A topic manager is a class with a version and one method. It has no clock, no network and no memory."""

    version = "1"  # change it with the rule: it is part of what a judgement depends on
    contract = 3  # of beefline with managers, which this was written for

    def admit(self, subject: Subject) -> Admittance:
        """Which outputs enter the overlay topic. Spent coins of it (`subject.coins`) are not retained."""
        marked = (vout for vout, output in enumerate(subject.outputs) if output.script.startswith(CARRIER))
        return Admittance(outputs_to_admit=tuple(marked))
