"""tm_uhrp: who hosts which file, and until when (BRC-26)."""

import re

from pipeline.codec.reader import Malformed, varint
from pipeline.keys import invoice_number
from pipeline.overlay.manager import Subject
from pipeline.overlay.pushdrop import is_linked, read_pushdrop
from schemas.external import Admittance

INVOICE = invoice_number(2, "uhrp advertisement", "1")

URL = re.compile(
    r"https://(?:[^\s\x00-\x1f\x7f/?#\\@]+@)?"
    r"(?:\[[0-9a-f:.]+\]|[^\s\x00-\x1f\x7f/?#\\@:\[\]<>^|%]+)"
    r"(?::[0-9]{1,5})?"
    r"(?:[/?#][^\s\x00-\x1f\x7f]*)?",
    re.IGNORECASE,
)
"""An address as it is fetched: nothing is mended that a browser would mend, no blanks, no backslashes."""


class Uhrp:
    """Advertisements: a host's identity key, a file's SHA-256, its address, expiry and size, signed by the host."""

    version = "1"
    contract = 2

    def admit(self, subject: Subject) -> Admittance:
        """Outputs that advertise. Advertisements that are spent stay as history, whether another one follows or not."""
        found = tuple(vout for vout, output in enumerate(subject.outputs) if advertises(output.script))
        return Admittance(outputs_to_admit=found, coins_to_retain=subject.previous_coins)


def advertises(script: bytes) -> bool:
    """Whether a locking script is an advertisement by the host it names.

    Expiry is any number from 1 up (Unix seconds by custom): whether it has passed depends on who asks when.
    """
    found = read_pushdrop(script)
    if found is None or len(found.fields) < 6:
        return False
    host, file, address, expiry, size = found.fields[:5]
    if len(host) != 33 or len(file) != 32 or not is_https(address):
        return False
    return is_positive(expiry) and is_positive(size) and is_linked(found, host, INVOICE)


def is_https(field: bytes) -> bool:
    """Whether a field is an address that begins with `https://` and names a host."""
    try:
        return URL.fullmatch(field.decode("utf-8")) is not None
    except UnicodeDecodeError:
        return False


def is_positive(field: bytes) -> bool:
    """Whether a field is a number from 1 up (CompactSize, shortest form) and nothing else."""
    try:
        number, end = varint(field, 0)
    except Malformed:
        return False
    return number >= 1 and end == len(field)
