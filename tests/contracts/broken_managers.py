"""Topic managers that break the contract, one rule each, and one that keeps it with odd means."""

import datetime
import os
import random
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path
from random import Random
from time import time as now

from pipeline.overlay.manager import CONTRACT, TAKEN, Subject, Transaction
from schemas.external import Admittance


class Fine:
    """Dates that are told, chance with a seed, a module that is imported late: all of it arithmetic."""

    version = "1"
    contract = CONTRACT

    def admit(self, subject: Subject) -> Admittance:
        import colorsys

        said = datetime.datetime(2026, 1, 1) + datetime.timedelta(days=Random(1).randrange(9))
        assert isinstance(said, datetime.datetime)
        assert time.gmtime(0).tm_year == 1970
        assert colorsys.rgb_to_hsv(0, 0, 0) == (0, 0, 0)
        marked = (vout for vout, output in enumerate(subject.outputs) if output.satoshis)
        return Admittance(tuple(marked), subject.previous_coins)


class NoVersion(Fine):
    version = ""


class Older(Fine):
    contract = min(TAKEN) - 1


class NeedsMore(Fine):
    def __init__(self, more: object) -> None: ...


class BeyondTheEnd(Fine):
    def admit(self, subject: Subject) -> Admittance:
        return Admittance((subject.output_count,))


class RetainsStrangers(Fine):
    def admit(self, subject: Subject) -> Admittance:
        return Admittance((), (len(subject.tx.ins) - 2,))


class Silent(Fine):
    def admit(self, subject: Subject) -> Admittance:
        return None  # type: ignore[return-value]


class RaisesAtStrangers(Fine):
    def admit(self, subject: Subject) -> Admittance:
        if not any(output.satoshis == 7 for output in subject.outputs):
            raise ValueError("nothing of mine")
        return super().admit(subject)


class Exits(Fine):
    def admit(self, subject: Subject) -> Admittance:
        raise SystemExit(0)


class Remembers(Fine):
    def __init__(self) -> None:
        self.seen: set[bytes] = set()

    def admit(self, subject: Subject) -> Admittance:
        if subject.txid in self.seen:
            return Admittance()
        self.seen.add(subject.txid)
        return super().admit(subject)


class Counts(Fine):
    """Another answer from each object."""

    made = 0

    def __init__(self) -> None:
        Counts.made += 1
        self.number = Counts.made

    def admit(self, subject: Subject) -> Admittance:
        return Admittance((self.number % 2,) if subject.output_count > 1 else ())


class HashOrder(Fine):
    def admit(self, subject: Subject) -> Admittance:
        first, *_ = {str(output.script) + str(vout) for vout, output in enumerate(subject.outputs)}
        return Admittance((int(first[-1]),))


class Environment(Fine):
    def admit(self, subject: Subject) -> Admittance:
        return super().admit(subject) if os.environ.get("X") else Admittance()


class Kills(Fine):
    """Only where it is not asked by the test itself."""

    def admit(self, subject: Subject) -> Admittance:
        if os.environ.get("TZ") == "Asia/Tokyo":
            os._exit(9)
        return super().admit(subject)


class Recurses(Fine):
    """How deep it gets depends on who calls."""

    def admit(self, subject: Subject) -> Admittance:
        try:
            self.down(800)
        except RecursionError:
            return Admittance()
        return super().admit(subject)

    def down(self, levels: int) -> None:
        if levels:
            self.down(levels - 1)


class Asking(Fine):
    def admit(self, subject: Subject) -> Admittance:
        try:
            self.ask()
        except Exception:  # noqa: BLE001 - it swallows what is raised at it
            return super().admit(subject)
        return super().admit(subject)

    def ask(self) -> object: ...


class AsksTime(Asking):
    def ask(self) -> object:
        return time.time()


class AsksTimeByName(Asking):
    def ask(self) -> object:
        return now()


class AsksMonotonic(Asking):
    def ask(self) -> object:
        return time.monotonic_ns()


class AsksCalendar(Asking):
    def ask(self) -> object:
        return time.localtime()


class AsksNow(Asking):
    def ask(self) -> object:
        return datetime.datetime.now(datetime.UTC)


class AsksToday(Asking):
    def ask(self) -> object:
        return datetime.date.today()


class AsksChance(Asking):
    def ask(self) -> object:
        return random.random()


class AsksNewChance(Asking):
    def ask(self) -> object:
        return Random().random()


class AsksSystemChance(Asking):
    def ask(self) -> object:
        return random.SystemRandom().random()


class AsksUrandom(Asking):
    def ask(self) -> object:
        return os.urandom(1)


class AsksUuid(Asking):
    def ask(self) -> object:
        return uuid.uuid4()


class AsksNetwork(Asking):
    def ask(self) -> object:
        return socket.socket()


class AsksName(Asking):
    def ask(self) -> object:
        return socket.getaddrinfo("localhost", 80)


class AsksFile(Asking):
    def ask(self) -> object:
        return Path(__file__).read_bytes()


class AsksProcess(Asking):
    def ask(self) -> object:
        return subprocess.run(["true"])


class FirstOnly(Fine):
    def admit(self, subject: Subject) -> Admittance:
        return Admittance((0,))


class FirstCoinOnly(Fine):
    def admit(self, subject: Subject) -> Admittance:
        return Admittance((), (0,) if 0 in subject.previous_coins else ())


class CountsOutputs(Fine):
    def admit(self, subject: Subject) -> Admittance:
        return Admittance(tuple(range(subject.output_count)) if subject.output_count < 4 else ())


class CountsInputs(Fine):
    def admit(self, subject: Subject) -> Admittance:
        return Admittance((), subject.previous_coins if len(subject.spent) < 3 else ())


class Sorts(Fine):
    """The subject's own list of places."""

    def admit(self, subject: Subject) -> Admittance:
        subject.tx.outs.reverse()  # type: ignore[attr-defined]
        return Admittance()


class Replaces(Fine):
    def admit(self, subject: Subject) -> Admittance:
        subject.off_chain_values = b"mine"
        return super().admit(subject)


class Notes(Fine):
    def admit(self, subject: Subject) -> Admittance:
        subject.note = "seen"  # type: ignore[attr-defined]
        return super().admit(subject)


class DecodesValues(Fine):
    def admit(self, subject: Subject) -> Admittance:
        subject.off_chain_values.decode()
        return super().admit(subject)


class ReadsThirdByte(Fine):
    def admit(self, subject: Subject) -> Admittance:
        marked = (
            n for n, output in enumerate(subject.outputs) if output.script[:2] == b"\x51\x52" and output.script[2]
        )
        return Admittance(tuple(marked))


# --- that examine


class Sums:
    """Examines to the sum of what outputs are worth, and admits those worth their share of it: nothing odd about it."""

    version = "1"
    contract = CONTRACT

    def examine(self, transaction: Transaction) -> bytes:
        return b"%d" % sum(output.satoshis for output in transaction.outputs)

    def admit(self, subject: Subject) -> Admittance:
        worth = int(subject.facts)
        heavy = (n for n, output in enumerate(subject.outputs) if output.satoshis * subject.output_count >= worth > 0)
        return Admittance(tuple(heavy), subject.previous_coins)


class Unsaid(Sums):
    """Does not say what it was written for."""

    contract = None  # type: ignore[assignment]


class Wordy(Sums):
    def examine(self, transaction: Transaction) -> bytes:
        return super().examine(transaction).decode()  # type: ignore[return-value]


class Verbose(Sums):
    def examine(self, transaction: Transaction) -> bytes:
        return super().examine(transaction).zfill(70_000)


class LooksForCoins(Sums):
    def examine(self, transaction: Transaction) -> bytes:
        return b"%d" % len(transaction.previous_coins)  # type: ignore[attr-defined]


class ForgetsFacts(Sums):
    """Facts that differ where the answer does not."""

    def examine(self, transaction: Transaction) -> bytes:
        worth = super().examine(transaction)
        return worth.rjust(len(worth) + hash(str(transaction.outputs)) % 50_021)


class CountsFacts(Sums):
    def __init__(self) -> None:
        self.examined = 0

    def examine(self, transaction: Transaction) -> bytes:
        self.examined += 1
        return super().examine(transaction).rjust(30 + self.examined)


class KeepsFacts(Sums):
    """In service another process examined."""

    def __init__(self) -> None:
        self.kept: dict[bytes, bytes] = {}

    def examine(self, transaction: Transaction) -> bytes:
        self.kept[transaction.txid] = super().examine(transaction)
        return b"0"

    def admit(self, subject: Subject) -> Admittance:
        subject.facts = self.kept.get(subject.txid, b"0")
        found = super().admit(subject)
        subject.facts = b"0"
        return found


class ExaminesTime(Sums):
    def examine(self, transaction: Transaction) -> bytes:
        time.time()
        return super().examine(transaction)


class ExaminesAndSorts(Sums):
    def examine(self, transaction: Transaction) -> bytes:
        transaction.tx.outs.reverse()  # type: ignore[attr-defined]
        return super().examine(transaction)


class Ponders(Fine):
    """Longer than anybody has."""

    def admit(self, subject: Subject) -> Admittance:
        ponder()
        return super().admit(subject)


class ExaminesAtLength(Sums):
    def examine(self, transaction: Transaction) -> bytes:
        ponder()
        return super().examine(transaction)


def ponder() -> None:
    """80 ms of a processor."""
    until = time.process_time() + 0.08
    while time.process_time() < until:
        pass


# --- what ends a process, or would

HARM = (b"raise", b"exit", b"leave", b"kill", b"hang", b"sleep", b"eat", b"nonsense", b"garble", b"promise", b"flood")
"""What `Harmful` does when off-chain values say so: after `admit ` when it judges, `examine ` when it examines."""


class Harmful:
    """Admits all, retains nothing, and examines to how many outputs there are; but where it is told to do harm."""

    version = "1"
    contract = CONTRACT

    def examine(self, transaction: Transaction) -> bytes:
        when, _, what = transaction.off_chain_values.partition(b" ")
        if when == b"examine":
            self.harm(what)
            return None  # type: ignore[return-value]
        return bytes([transaction.output_count])

    def admit(self, subject: Subject) -> Admittance:
        when, _, what = subject.off_chain_values.partition(b" ")
        if when == b"admit":
            self.harm(what)
            return Admittance((subject.output_count,))
        return Admittance(tuple(range(subject.facts[0])))

    def harm(self, what: bytes) -> None:
        match what:
            case b"raise":
                raise ValueError("as told")
            case b"exit":
                sys.exit(3)
            case b"leave":
                os._exit(4)
            case b"kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case b"hang":
                while True:
                    pass
            case b"sleep":
                time.sleep(600)
            case b"eat":
                eaten: list[bytes] = []
                while True:
                    eaten.append(bytes(16 << 20))
            case b"garble":
                answer(b"\x00\x00\x00\x01\xc1")
            case b"promise":
                answer(b"\xff\xff\xff\xff")
                time.sleep(600)
            case b"flood":
                answer(b"\xff\xff\xff\xff" + bytes(64 << 20))


def answer(raw: bytes) -> None:
    """Whatever stands on the channel to the parent, in the manager's stead."""
    for path in list(Path("/proc/self/fd").iterdir()):
        if path.is_symlink() and str(path.readlink()).startswith("socket:"):
            channel = socket.socket(fileno=os.dup(int(path.name)))
            channel.setblocking(True)
            channel.sendall(raw)
            channel.close()


class Leaving:
    """Cannot be loaded, nor can its process."""

    version = "1"

    def __init__(self) -> None:
        sys.exit(5)


class Talkative(Fine):
    """Writes where it may not, and reads what is not there."""

    def admit(self, subject: Subject) -> Admittance:
        print("hello", flush=True)
        os.write(1, b"more")
        assert sys.stdin.read() == ""
        return super().admit(subject)


class Curious(Fine):
    """Looks what it can see of its surroundings."""

    def admit(self, subject: Subject) -> Admittance:
        raise RuntimeError(" ".join(sorted(os.environ)))
