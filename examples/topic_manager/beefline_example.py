"""tm_example: admits outputs that carry data marked `example`."""

from beefline import Admittance, Subject

MARK = bytes.fromhex("006a") + bytes([len(b"example")]) + b"example"
"""OP_FALSE OP_RETURN, then a push of the mark; whatever follows is the application's own."""


class Example:
    """A topic manager is a class with a version and one method. It has no clock, no network and no memory."""

    version = "1"  # change it with the rule: it is part of what a judgement depends on

    def admit(self, subject: Subject) -> Admittance:
        """Which outputs enter the overlay topic. Spent coins of it (`subject.previous_coins`) are not retained."""
        marked = (index for index, output in enumerate(subject.outputs) if output.script.startswith(MARK))
        return Admittance(outputs_to_admit=tuple(marked))
