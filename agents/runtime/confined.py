"""What a child process does first, and how it speaks to its parent (`child.py`)."""

import resource
import signal

READY = b""
"""An empty frame: the child stands."""

READ_BYTES = 1 << 16
"""Taken from a socket at once: its buffer holds no more than a few of these."""

HEAD_BYTES = 4


def frame(body: bytes) -> bytes:
    """A body with its length."""
    return len(body).to_bytes(HEAD_BYTES, "big") + body


def cut(got: bytearray) -> bytes | None:
    """The first frame of what has come, taken out of it; None while it is not whole."""
    size = HEAD_BYTES + int.from_bytes(got[:HEAD_BYTES], "big")
    if len(got) < max(size, HEAD_BYTES):
        return None
    body = bytes(got[HEAD_BYTES:size])
    del got[:size]
    return body


def confine(memory: int) -> None:
    """Bound the address space (bytes), leave no core file, and leave interrupts to the parent."""
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
