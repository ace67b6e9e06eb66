"""A child process that does what frames say."""

import os
import signal
import socket
import sys
import time

from agents.runtime.confined import READ_BYTES, READY, cut, frame


def main() -> None:
    """Until the parent closes its end."""
    channel = socket.socket(fileno=os.dup(0))
    if sys.argv[1:] == ["mute"]:
        time.sleep(600)
    channel.sendall(frame(READY))
    got = bytearray()
    while True:
        while (body := cut(got)) is None:
            more = channel.recv(READ_BYTES)
            if not more:
                return
            got += more
        word, _, rest = body.partition(b" ")
        if word == b"exit":
            os._exit(int(rest))
        if word == b"kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if word == b"sleep":
            time.sleep(float(rest))
        if word == b"fork":
            rest = b"%d" % os.fork()
            if rest == b"0":
                time.sleep(600)
        if word == b"lie":
            channel.sendall(b"\xff\xff\xff\xff" + bytes(1 << 20))
        if word == b"close":
            os.closerange(0, 100)
            time.sleep(600)
        if word == b"twice":
            channel.sendall(frame(rest))
        channel.sendall(frame(rest))


if __name__ == "__main__":
    main()
