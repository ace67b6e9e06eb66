"""Stands in for the `docker` command and its engine: one container, which is a plain forwarder to a real broker.

Says what the real command says to the few things the launcher asks, and keeps each call in FAKE_DOCKER/calls. So the
launcher's own steps can be tried where no engine runs: what is asked, in which order, and what is made of the answers.
FAKE_DOCKER: a folder. FAKE_BROKER: address of the broker that the container forwards to.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

HERE = Path(os.environ["FAKE_DOCKER"])
PID = HERE / "container.pid"


def main(words: list[str]) -> int:
    with (HERE / "calls").open("a") as calls:
        calls.write(json.dumps(words) + "\n")
    if words[0] == "version":
        print("28.0.0")
    elif words[:2] == ["compose", "version"]:
        print("2.40.0")
    elif words[0] == "inspect":
        print(words[-1] if alive(int(words[-1])) else "0")
    elif words[0] == "compose":
        return compose(words[1:])
    else:
        print(f"unknown: {words}", file=sys.stderr)
        return 1
    return 0


def compose(words: list[str]) -> int:
    given = {}
    while words[0].startswith("--"):
        given[words[0]], words = words[1], words[2:]
    if words[0] == "start" or (words[0] == "up" and "--detach" in words):
        contain(given["--env-file"])
    elif words[0] == "up":  # attached: it stops its containers when it is told to end
        signal.signal(signal.SIGTERM, lambda *_: None)
        contain(given["--env-file"])
        signal.pause()
        end(signal.SIGTERM)
    elif words[0] in ("kill", "stop"):
        end(signal.SIGKILL if words[0] == "kill" else signal.SIGTERM)
    elif words[0] == "ps":
        print(PID.read_text() if PID.exists() else "")
    elif words[0] == "down":
        PID.unlink(missing_ok=True)
    elif words[0] in ("exec", "logs"):
        print(" ".join(words))
    else:
        print(f"unknown: {words}", file=sys.stderr)
        return 1
    return 0


def end(by: signal.Signals) -> None:
    if PID.exists() and alive(int(PID.read_text())):
        os.kill(int(PID.read_text()), by)


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] not in "ZX"


def contain(environment: str) -> None:
    """Start the container, unless it runs."""
    if PID.exists() and alive(int(PID.read_text())):
        return
    found = re.search(r"BROKER_PORT=(\d+)", Path(environment).read_text())
    assert found
    child = subprocess.Popen(
        [sys.executable, __file__, "--forward", found[1]],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    PID.write_text(str(child.pid))


def forward(port: int) -> None:
    """What the container runs."""
    host, _, to = os.environ["FAKE_BROKER"].rpartition(":")
    with socket.create_server(("127.0.0.1", port)) as server:
        while True:
            near, _ = server.accept()
            far = socket.create_connection((host, int(to)))
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=pump, args=(source, sink), daemon=True).start()


def pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while piece := source.recv(65536):
            sink.sendall(piece)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        return


if __name__ == "__main__":
    if sys.argv[1] == "--forward":
        forward(int(sys.argv[2]))
    else:
        sys.exit(main(sys.argv[1:]))
