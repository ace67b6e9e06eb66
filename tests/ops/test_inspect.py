"""`beefline inspect`: what is told of a payload, and the exit code."""

from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from ops.cli.inspect import inspect as command
from ops.forms import template
from ops.inspect import Inspected, fee, inspect, tree
from ops.instruments.payloads import mainnet_data
from pipeline.outcome import Verdict
from pipeline.policy import Policy
from schemas.types import from_display
from tests import builders

PAYLOADS = Path(__file__).parents[2] / "examples" / "payloads"
POLICY = Policy()


def beef_of(name: str) -> bytes:
    return bytes.fromhex((PAYLOADS / f"{name}.beef").read_text())


def inspected(name: str) -> Inspected:
    found = inspect(beef_of(name), POLICY)
    assert isinstance(found, Inspected)
    return found


def drawn(found: Inspected, most: int = 50) -> str:
    console = Console(width=400, highlight=False, color_system=None)
    with console.capture() as capture:
        console.print(tree(found, most))
    return capture.get()


def run(*arguments: str, given: bytes = b"") -> Result:
    return CliRunner().invoke(command, arguments, input=given)


def test_what_the_example_of_brc_62_holds() -> None:
    """The root is what the source of the payload says of block 814435; the values are read off the bytes of BRC-62."""
    found = inspected("mainnet-157428ae-unmined")
    assert found.framing == "BEEF V1"
    assert found.subject == "157428aee67d11123203735e4c540fa1bdab3b36d5882c6f8c5ff79f07d20d1c"
    assert (len(found.transactions), found.unmined, found.code) == (2, 1, None)
    (proof,) = found.proofs
    assert (proof.height, from_display(proof.root)) == (814435, mainnet_data().root_table()[814435])
    assert proof.transactions == ("3ecead27a44d013ad1aae40038acbb1883ac9242406808bb4667c15b4f164eac",)
    parent, subject = found.transactions
    assert (parent.proof, parent.fee_sat, parent.inputs[0].satoshis) == (0, None, None)
    assert (subject.proof, subject.fee_sat, subject.size) == (None, 2, 191)
    assert subject.inputs[0].outpoint == f"{parent.txid}.0"
    assert (subject.inputs[0].satoshis, subject.inputs[0].script) == (26_174, "P2PKH")
    assert [(output.satoshis, output.script) for output in subject.outputs] == [(26_172, "P2PKH")]


def test_a_greeting_is_a_pushdrop_of_two_fields() -> None:
    assert inspected("generated-hello").transactions[-1].outputs[0].script == "PushDrop of 2 fields, 154 bytes"


def test_what_scripts_say_is_told_without_asking_anybody() -> None:
    found = inspected("generated-bad-signature")
    assert (found.code, found.at) == ("script.false", "tx 1 input 0")
    assert "rejected  script.false at tx 1 input 0: a signature fits no key" in drawn(found)


def test_the_tree_names_everything_in_full() -> None:
    text = drawn(inspected("generated-hello"))
    for said in (
        "BEEF V1, 1,058 bytes: 2 transactions, 1 un-mined",
        "subject 0ed6149b6fb95c2454ffc83b7094860270db71bdb8d68967023303e3b1a4d665",
        "proof 0  block 900,031, 12 levels",
        "output 1  1,838,430 sat  P2PKH",
        "354 bytes, un-mined, fee 36 sat (102 per kB)",
        "values and scripts hold",
    ):
        assert said in text
    assert all(line == line.rstrip() for line in text.splitlines())


def test_of_many_outputs_the_first_are_shown_and_the_rest_counted() -> None:
    text = drawn(inspected("mainnet-27c8f378-unmined"), most=3)
    assert "output 2  45,228 sat" in text
    assert "output 3 " not in text
    assert "… 23 more outputs" in text
    assert "… 3 more inputs" in text


@pytest.mark.parametrize(
    ("spoiled", "code"),
    [
        (beef_of("generated-p2pkh")[:-1], "malformed.truncated"),
        (beef_of("generated-p2pkh") + b"\0", "malformed.trailing-bytes"),
        (b"", "malformed.empty"),
        (b"\x01\x02\x03\x04", "malformed.magic"),
    ],
)
def test_what_is_malformed_has_a_verdict(spoiled: bytes, code: str) -> None:
    found = inspect(spoiled, POLICY)
    assert isinstance(found, Verdict)
    assert found.code == code


@pytest.mark.parametrize(
    ("script", "name"),
    [
        ("76a914" + "11" * 20 + "88ac", "P2PKH"),
        ("76a914" + "11" * 20 + "88ac" + "6a0568656c6c6f", 'P2PKH and data "hello", 32 bytes'),
        ("21" + "02" * 33 + "ac", "P2PK"),
        ("41" + "04" * 65 + "ac", "P2PK"),
        ("a914" + "11" * 20 + "87", "P2SH"),
        ("006a0568656c6c6f", 'data "hello", 8 bytes'),
        ("6a4c0568656c6c6f02ffff", 'data "hello", 11 bytes'),
        ("006a0668656c6c6f", "data, 8 bytes"),  # a push of more than there is
        ("006a02fffe", "data, 5 bytes"),  # no text
        ("006a03610a62", "data, 6 bytes"),  # a line feed would break the line it is shown in
        ("006a04" + "e280ae61", "data, 7 bytes"),  # turns the direction of writing around
        ("006a0051", "data, 4 bytes"),
        ("006a29" + "61" * 41, f'data "{"a" * 40}…", 44 bytes'),
        ("006a4da100" + "61" + "e282ac" * 53 + "62", f'data "a{"€" * 39}…", 166 bytes'),  # cut inside a character
        ("6a", "data, 1 byte"),
        ("5121" + "02" * 33 + "21" + "03" * 33 + "52ae", "1-of-2 multisig"),
        ("52" + "21" + "02" * 33 + "41" + "04" * 65 + "52ae", "2-of-2 multisig"),
        ("5121" + "02" * 33 + "52ae", "script, 37 bytes"),  # names one key and counts two
        ("5175757551ae", "script, 6 bytes"),  # begins and ends as a multisig does
        ("21" + "02" * 33 + "ac" + "0568656c6c6f" + "75", "PushDrop of 1 field, 42 bytes"),
        ("0568656c6c6f" + "75" + "21" + "02" * 33 + "ac", "PushDrop of 1 field, lock last, 42 bytes"),
        ("0161" + "5d" + "4f" + "6d75" + "21" + "02" * 33 + "ac", "PushDrop of 3 fields, lock last, 41 bytes"),
        ("0161" + "0162" + "75" + "21" + "02" * 33 + "ac", "script, 40 bytes"),  # one field is not dropped
        ("0161" + "6d" + "21" + "02" * 33 + "ac", "script, 38 bytes"),  # more is dropped than was pushed
        ("a820" + "11" * 32 + "87", "SHA-256 puzzle"),
        ("aa20" + "11" * 32 + "87", "HASH256 puzzle"),
        ("a614" + "11" * 20 + "87", "RIPEMD-160 puzzle"),
        ("a714" + "11" * 20 + "87", "SHA-1 puzzle"),
        ("a820" + "11" * 32 + "88", "script, 35 bytes"),
        ("76a914" + "11" * 20 + "88ad51", "script, 26 bytes"),
        ("51ae", "script, 2 bytes"),
        ("", "empty: anyone can spend it"),
    ],
)
def test_scripts_are_named_by_their_form(script: str, name: str) -> None:
    """PushDrop as BRC-48 has it, its lock first or last; puzzles as the hash opcodes they begin with."""
    assert template(bytes.fromhex(script)) == name


def test_both_positions_of_a_pushdrops_lock_are_told() -> None:
    owner = builders.key()
    assert template(builders.pushdrop(owner, b"a", bytes(300))) == "PushDrop of 2 fields, 341 bytes"
    assert template(builders.pushdrop_after(owner, b"a", bytes(300))) == "PushDrop of 2 fields, lock last, 341 bytes"


def test_text_of_a_script_is_no_markup() -> None:
    said = b"[red]no[/] \\[bold]"
    payload = builders.payment([builders.Out(1), builders.Out(0, b"\x00\x6a" + builders.push(said))])
    found = inspect(payload.v1(), POLICY)
    assert isinstance(found, Inspected)
    assert f'0 sat  data "{said.decode()}", {len(said) + 3} bytes' in drawn(found)


def test_what_a_proven_transaction_spends_is_not_called_unmined() -> None:
    """BRC-62 has senders leave such ancestors out, and does not forbid them; nothing needs to be verified of them."""
    oldest = builders.funding(builders.Out(3000))
    parent = builders.spend([builders.In(oldest)], [builders.Out(2000)])
    subject = builders.spend([builders.In(parent)], [builders.Out(1000)])
    found = inspect(builders.bag(oldest, parent, subject, proven=[parent]).v1(), POLICY)
    assert isinstance(found, Inspected)
    assert [(tx.unmined, tx.proof) for tx in found.transactions] == [(False, None), (False, 0), (True, None)]
    text = drawn(found)
    assert "1 un-mined" in text.splitlines()[0]
    assert [line.split(", ")[1] for line in text.splitlines() if " tx " in line] == [
        "mined before a proven one", "proven by proof 0", "un-mined",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("sat", "size", "said"),
    [
        (36, 354, "fee 36 sat (102 per kB)"),
        (1, 192, "fee 1 sat (5.2 per kB)"),
        (1, 20_000, "fee 1 sat (0.05 per kB)"),
        (0, 191, "fee 0 sat (0 per kB)"),
        (-1_500, 100, "fee -1,500 sat (-15,000 per kB)"),
    ],
)
def test_a_fee_is_told_for_each_thousand_bytes(sat: int, size: int, said: str) -> None:
    assert fee(sat, size) == said


def test_the_command_shows_a_file_and_says_by_its_exit_code_whether_it_holds() -> None:
    good = run(str(PAYLOADS / "generated-p2pkh.beef"))
    assert (good.exit_code, "subject c74361fe" in good.stdout) == (0, True)
    bad = run(str(PAYLOADS / "generated-bad-signature.beef"))
    assert (bad.exit_code, "script.false" in bad.stdout) == (1, True)
    malformed = run("-", given=beef_of("generated-p2pkh")[:-1].hex().encode())
    assert malformed.exit_code == 1
    assert malformed.stderr.startswith("standard input line 1: malformed.truncated at tx 1 byte 895: ")
    assert run(str(PAYLOADS / "missing.beef")).exit_code == 3
    assert run("--bogus").exit_code == 3


@pytest.mark.parametrize("given", [b"", b"# a page of text\n", b"\x7fELF\0\0\0"])
def test_a_file_that_holds_something_else_gets_the_parsers_verdict(given: bytes) -> None:
    ran = run("-", given=given)
    assert ran.exit_code == 1
    assert ran.stderr.startswith("standard input: malformed.")


def test_json_holds_what_the_tree_shows() -> None:
    ran = run("--json", str(PAYLOADS / "generated-hello.beef"))
    assert msgspec.json.decode(ran.stdout, type=Inspected) == inspected("generated-hello")
