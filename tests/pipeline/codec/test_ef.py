import pytest

from pipeline.codec.ef import read_ef, write_ef
from pipeline.codec.reader import Malformed
from pipeline.codec.tx import read_tx
from pipeline.parse import Payload, parse
from pipeline.policy import Policy
from schemas.types import display
from tests import builders
from tests.builders import In, Out
from tests.vectors import conformance, universal


@pytest.mark.parametrize("name", list(universal()))
def test_extended_format_is_made_from_beef_byte_for_byte(name: str) -> None:
    vector = universal()[name]
    payload = parse(bytes.fromhex(vector["beef_hex"]), Policy())
    assert isinstance(payload, Payload)
    subject = payload.subject
    coins = [parent.output(subject.vout(vin)) for vin, parent in enumerate(subject.parents) if parent is not None]
    assert write_ef(subject, coins).hex() == vector["ef_hex"]


@pytest.mark.parametrize(
    "ef_hex",
    [vector["ef_hex"] for vector in universal().values()] + [conformance("serialization")["tx-004"]["input"]["ef_hex"]],
)
def test_extended_format_is_read_and_written_again(ef_hex: str) -> None:
    tx, coins = read_ef(bytes.fromhex(ef_hex))
    assert write_ef(tx, coins).hex() == ef_hex
    assert read_tx(tx.raw).txid == tx.txid


def test_the_known_answer_of_brc62s_example() -> None:
    """26,174 satoshis behind the sequence, in 8 bytes."""
    tx, coins = read_ef(bytes.fromhex(conformance("serialization")["tx-004"]["input"]["ef_hex"]))
    assert display(tx.txid) == "157428aee67d11123203735e4c540fa1bdab3b36d5882c6f8c5ff79f07d20d1c"
    assert coins[0].hex() == "3e660000000000001976a9146bfd5c7fbe21529d45803dbcf0c87dd3c71efbc288ac"
    assert tx.satoshis(0) == 26_172


def test_large_scripts_and_many_inputs_come_back() -> None:
    parent = builders.funding(*[Out(500, bytes(size)) for size in (0, 252, 253, 70_000)])
    tx = builders.spend([In(parent, vout, builders.by_script(bytes(300))) for vout in range(4)])
    coins = [parent.output(vout) for vout in range(4)]
    found, found_coins = read_ef(write_ef(tx, coins))
    assert (found.raw, found_coins) == (tx.raw, coins)


def test_every_shorter_piece_and_a_longer_one_are_refused() -> None:
    whole = bytes.fromhex(universal()["2-in-1-out"]["ef_hex"])
    for end in range(len(whole)):
        with pytest.raises(Malformed):
            read_ef(whole[:end])
    with pytest.raises(Malformed) as caught:
        read_ef(whole + b"\x00")
    assert caught.value.code == "malformed.trailing-bytes"


def test_a_plain_transaction_is_not_extended() -> None:
    with pytest.raises(Malformed) as caught:
        read_ef(builders.funding().raw)
    assert caught.value.code == "malformed.magic"


def test_a_bomb_of_inputs_is_refused_before_anything_is_kept() -> None:
    bomb = b"\x01\x00\x00\x00" + bytes.fromhex("0000000000ef") + b"\xfe\xff\xff\xff\xff" + bytes(100)
    with pytest.raises(Malformed) as caught:
        read_ef(bomb)
    assert caught.value.code == "malformed.count"
