"""Which rules an input is judged by, and the one way a script fails."""

from msgspec import Struct

FORKID, CHRONICLE, ANYONE_CAN_PAY = 0x40, 0x20, 0x80
BASE = 0x1F
ALL, NONE, SINGLE = 1, 2, 3


class Rules(Struct, frozen=True, array_like=True):
    """The era of a coin and of the block that would spend it.

    Opcodes and limits follow the coin's height; signature types and the relaxed form follow the next block's
    (node flags UTXO_AFTER_GENESIS, UTXO_AFTER_CHRONICLE, CHRONICLE).
    """

    after_genesis: bool = True  # of the coin
    after_chronicle: bool = True  # of the coin
    chronicle: bool = True  # of the next block
    relaxed: bool = False  # next block in Chronicle, and the transaction says so by a version above 1


class ScriptFault(Exception):  # noqa: N818 - what the script is, not a fault of ours
    """The script does not hold. `engine.py` and `verify.py` turn this into an answer.

    code: `script.false`, `script.malformed`, `policy.script-budget`.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message


def malformed(message: str) -> ScriptFault:
    """The script breaks a rule of form, whatever it would have said."""
    return ScriptFault("script.malformed", message)


def untrue(message: str) -> ScriptFault:
    """The script does not come out true."""
    return ScriptFault("script.false", message)


def over_budget(message: str) -> ScriptFault:
    """The script needs more than it may have."""
    return ScriptFault("policy.script-budget", message)
