"""tm_tokendemo: what holds tokens, and that a transaction moves as many as it takes."""

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beefline.testing import Case, Raised, Spend, ask
from pipeline import apply as rules
from pipeline import state
from pipeline.codec.tx import Tx, read_tx
from pipeline.contextual import Answer, Change
from pipeline.derive import derive
from pipeline.overlay.builtin.tokendemo import METADATA_BYTES, MINT, Token, TokenDemo, minted, read_token
from pipeline.overlay.manager import Output, Subject, admit
from pipeline.state import Layer, Memory, encode, head_key, head_of
from schemas.external import Admittance
from schemas.flow import Evict
from schemas.state import Submission
from schemas.types import Outpoint, display, outpoint
from tests import builders
from tests.fakes import NOW_MS, apply_of, coin_of_others, verified
from tests.profiles import CHEAP

KEY = builders.key(7)
LARGEST = 2**64 - 1
TOPIC, CONTEXT = "tm_tokendemo", "topic:tm_tokendemo"
A, B = b"a" * 64 + b".0", b"b" * 64 + b".1"


def script(name: bytes, amount: int | bytes, metadata: bytes = b"{}", *more: bytes) -> bytes:
    given = amount if isinstance(amount, bytes) else amount.to_bytes(8, "little")
    return builders.pushdrop(KEY, name, given, metadata, *more)


def token(name: bytes, amount: int) -> Output:
    return Output(1, script(name, amount))


# --- what an output holds


@pytest.mark.parametrize(
    ("locking", "held"),
    [
        (script(MINT, 1000), Token(MINT, 1000)),
        (script(A, 7), Token(A, 7)),
        (script(A, 0), Token(A, 0)),
        (script(A, LARGEST), Token(A, LARGEST)),
        (script(A, 2**53 + 1), Token(A, 2**53 + 1)),
        (script(b"\xff\xfe", 7), Token(b"\xff\xfe", 7)),  # an id is bytes; no coin has this one
        (script(A, 7, b"{}", b"more", b"a signature"), Token(A, 7)),
        # the amount is eight bytes
        (script(A, b"1234567"), None),
        (script(A, b"123456789"), None),
        (script(A, b""), None),
        # three fields
        (builders.pushdrop(KEY, A, bytes(8)), None),
        (builders.pushdrop(KEY, A), None),
        # a key of the curve, and its check
        (b"\x21\x02" + b"\xff" * 32 + script(A, 7)[34:], None),
        (script(A, 7)[:34] + b"\xad" + script(A, 7)[35:], None),
        (builders.p2pkh(KEY), None),
        (b"", None),
    ],
)
def test_what_an_output_holds(locking: bytes, held: Token | None) -> None:
    assert read_token(locking) == held


@pytest.mark.parametrize(
    ("metadata", "taken"),
    [
        (b"{}", True), (b"null", True), (b'"text"', True), (b" [1, 2.5e3] ", True), ('{"é":"ß"}'.encode(), True),
        (b"", False), (b"{", False), (b"{} {}", False), (b"not-valid-json!!!", False), (b"NaN", False), (b"01", False),
        (b'"\xff"', False), (b"'x'", False), ("{}".encode("utf-16"), False),
        # as deep as orjson counts, whatever the interpreter's stack has left
        (b"[" * 1024 + b"]" * 1024, True), (b"[" * 1025 + b"]" * 1025, False),
        (b'"' + b"x" * (METADATA_BYTES - 2) + b'"', True), (b'"' + b"x" * (METADATA_BYTES - 1) + b'"', False),
    ],
)  # fmt: skip
def test_metadata_is_json(metadata: bytes, taken: bool) -> None:
    assert (read_token(script(A, 7, metadata)) is not None) is taken


def test_the_answer_does_not_depend_on_how_full_the_stack_is() -> None:
    deep = script(A, 7, b"[" * 1024 + b"]" * 1024)

    def below(levels: int) -> Token | None:
        return read_token(deep) if levels == 0 else below(levels - 1)

    assert below(0) == below(800) == Token(A, 7)


def test_an_id_is_the_outpoint_as_people_print_it() -> None:
    """Display order: the reference takes `id('hex')` of the transaction."""
    txid = bytes(range(32))
    assert minted(outpoint(txid, 258)) == b"1f1e1d1c1b1a191817161514131211100f0e0d0c0b0a09080706050403020100.258"
    assert minted(outpoint(txid, 0)).startswith(display(txid).encode())


# --- what a transaction may do


def at(number: int) -> Outpoint:
    return coin_of_others(number)


def judged(outputs: Sequence[Output], coins: Mapping[Outpoint, Output] | None = None) -> Admittance | Raised:
    """A transaction that spends coins of the topic, and one output of a stranger's."""
    spends = [Spend(output, coin=True, outpoint=point) for point, output in (coins or {}).items()]
    return ask(TokenDemo(), Case("tokens", tuple(outputs), (*spends, Spend(outpoint=at(99)))))


MINTED = minted(at(1))
"""What a mint at outpoint 1 made."""

PAYMENT = Output(5000, builders.p2pkh(KEY))


@pytest.mark.invariant("TOKEN-1")
@pytest.mark.parametrize(
    ("coins", "outputs", "admitted"),
    [
        # made here: as many as one likes, and of several kinds
        ({}, [token(MINT, 1000)], [0]),
        ({}, [token(MINT, LARGEST), PAYMENT, token(MINT, 0)], [0, 2]),
        # moved: the same sum, in as many pieces as one likes
        ({at(1): token(MINT, 10)}, [token(MINTED, 10)], [0]),
        ({at(1): token(MINT, 10)}, [token(MINTED, 3), PAYMENT, token(MINTED, 7)], [0, 2]),
        ({at(1): token(MINT, 10), at(2): token(MINTED, 5)}, [token(MINTED, 15)], [0]),
        ({at(2): token(A, 4), at(3): token(B, 6)}, [token(B, 6), token(A, 1), token(A, 3)], [0, 1, 2]),
        ({at(2): token(A, 4)}, [token(A, 4), token(MINT, 9)], [0, 1]),
        # one less, one more
        ({at(1): token(MINT, 10)}, [token(MINTED, 9)], []),
        ({at(1): token(MINT, 10)}, [token(MINTED, 11)], []),
        ({at(1): token(MINT, 10)}, [token(MINTED, 10), token(MINTED, 1)], []),
        # from nowhere, gone, of another kind
        ({}, [token(A, 1)], []),
        ({at(2): token(A, 4)}, [PAYMENT], []),
        ({at(1): token(MINT, 10)}, [PAYMENT, token(MINT, 10)], []),
        ({at(2): token(A, 4), at(3): token(B, 6)}, [token(A, 6), token(B, 4)], []),
        ({at(2): token(MINT, 4)}, [token(MINTED, 4)], []),
        # one kind out of order takes all others with it
        ({at(2): token(A, 4)}, [token(A, 4), token(MINT, 9), token(B, 1)], []),
        # exact where a double is not: 2**53 + 1, and sums above 64 bits
        ({at(2): token(A, 2**53 + 1)}, [token(A, 2**53), token(A, 1)], [0, 1]),
        ({at(2): token(A, 2**53)}, [token(A, 2**53), token(A, 1)], []),
        ({at(2): token(A, LARGEST), at(3): token(A, LARGEST)}, [token(A, LARGEST), token(A, LARGEST)], [0, 1]),
        ({at(2): token(A, LARGEST), at(3): token(A, LARGEST)}, [token(A, LARGEST - 1)], []),
        ({at(2): token(A, LARGEST), at(3): token(A, 1)}, [token(A, 0)], []),
        # nothing of a kind is moved by anybody
        ({}, [token(A, 0)], [0]),
        ({}, [PAYMENT], []),
    ],
)
def test_what_is_admitted(coins: dict[Outpoint, Output], outputs: list[Output], admitted: list[int]) -> None:
    assert judged(outputs, coins) == Admittance(tuple(admitted), (), tuple(range(len(coins))))


def test_only_coins_of_the_topic_count() -> None:
    """An output that looks like tokens and was never admitted is worth nothing."""
    stranger = Case("a stranger's", (token(MINTED, 10),), (Spend(token(MINT, 10), outpoint=at(1)),))
    assert ask(TokenDemo(), stranger) == Admittance()


@pytest.mark.invariant("TOKEN-1")
@pytest.mark.parametrize(("amount", "admitted"), [(10, (0,)), (20, ())])
def test_a_coin_that_is_named_twice_counts_once(amount: int, admitted: tuple[int, ...]) -> None:
    """No verified transaction does: the reference adds it twice."""
    twice = (Spend(token(MINT, 10), coin=True, outpoint=at(1)),) * 2
    said = ask(TokenDemo(), Case("twice", (token(MINTED, amount),), twice))
    assert said == Admittance(admitted, (), (0, 1))


AMOUNTS = st.lists(st.integers(0, LARGEST), max_size=4)


@pytest.mark.invariant("TOKEN-1")
@CHEAP
@given(AMOUNTS, AMOUNTS, AMOUNTS, AMOUNTS)
def test_sums_decide(a_in: list[int], a_out: list[int], b_in: list[int], b_out: list[int]) -> None:
    """Of two kinds, in any number of coins and outputs; every fourth time the sums are made equal."""
    if a_out and sum(a_in) >= sum(a_out[1:]) and sum(a_in) - sum(a_out[1:]) <= LARGEST and len(b_in) % 2:
        a_out[0] = sum(a_in) - sum(a_out[1:])
        b_out = b_in
    held = [token(A, amount) for amount in a_in] + [token(B, amount) for amount in b_in]
    outputs = [token(A, amount) for amount in a_out] + [token(B, amount) for amount in b_out] + [PAYMENT]
    said = judged(outputs, {at(number): output for number, output in enumerate(held)})
    assert isinstance(said, Admittance)
    kept = sum(a_in) == sum(a_out) and sum(b_in) == sum(b_out)
    assert said.outputs_to_admit == (tuple(range(len(outputs) - 1)) if kept else ())


# --- in a context


class World:
    """A context of the topic, an operation after another."""

    def __init__(self) -> None:
        self.store, self.offset = Memory(), 0

    def _write(self, change: Change, layer: Layer) -> Change:
        layer.put(head_key(CONTEXT), encode(change.head.stored()))
        self.store.write(layer.writes)
        return change

    def send(self, *txs: Tx) -> Admittance | object:
        """The last of them; the others are its un-mined ancestors."""
        self.offset += 1
        layer = Layer(self.store)
        operation = apply_of(verified(txs[-1], txs[:-1], offset=self.offset, contexts=(CONTEXT,)))
        said = self._write(
            rules.apply(layer, head_of(layer, CONTEXT), CONTEXT, operation, {TOPIC: TokenDemo()}, NOW_MS), layer
        ).said
        return said.admittance if isinstance(said, Answer) else said

    def evict(self, tx: Tx) -> None:
        layer = Layer(self.store)
        operation = Evict("evict:1", tx.txid, "network.refused", "", ())
        self._write(rules.evict(layer, head_of(layer, CONTEXT), CONTEXT, operation, NOW_MS), layer)

    def is_free(self, tx: Tx, vout: int) -> bool:
        key = CONTEXT.encode() + b"\0" + state.COIN + outpoint(tx.txid, vout)
        return self.store.get(key) is not None


def holding(*locking: bytes, spends: Sequence[Outpoint], salt: int = 0) -> Tx:
    """Not signed: apply takes transactions as verified. What they spend is not in the payload."""
    entries = [(point, builders.push(b"salt %06d" % salt), builders.FINAL) for point in spends]
    return read_tx(builders.raw_tx(entries, [builders.Out(1, each) for each in locking]))


def derived(*txs: Tx) -> list[Admittance]:
    """The judgements that follow from a set of submitted transactions, by the oracle."""
    submitted = {tx.txid: Submission(tx.raw, (b"",) * (len(tx.ins) - 1), b"") for tx in txs}
    judgements = derive({tx.txid: tx.spends() for tx in txs}, submitted, TOPIC, TokenDemo()).judgements
    return [judgements[tx.txid] for tx in txs]


def test_tokens_move_through_a_context_and_come_back_when_a_move_is_refused() -> None:
    """The payloads do not hold what is spent: the context knows its coins."""
    world = World()
    mint = holding(script(MINT, 10), spends=[at(5)])
    name = minted(outpoint(mint.txid, 0))
    moved = holding(script(name, 4), script(name, 6), spends=[outpoint(mint.txid, 0)])
    assert world.send(mint) == Admittance((0,))
    assert world.send(mint, moved) == Admittance((0, 1), (), (0,))
    joined = holding(script(name, 10), spends=[outpoint(moved.txid, 0), outpoint(moved.txid, 1)])
    assert world.send(mint, moved, joined) == Admittance((0,), (), (0, 1))
    assert derived(mint, moved, joined) == [
        Admittance((0,)),
        Admittance((0, 1), (), (0,)),
        Admittance((0,), (), (0, 1)),
    ]
    world.evict(moved)
    assert world.is_free(mint, 0)
    more = holding(script(name, 11), spends=[outpoint(mint.txid, 0)], salt=1)
    assert world.send(mint, more) == Admittance((), (), (0,))


def test_a_move_that_comes_before_its_mint_is_admitted_when_the_mint_comes() -> None:
    """Judged again: what a transaction is worth does not depend on who came first."""
    world = World()
    mint = holding(script(MINT, 10), spends=[at(5)])
    moved = holding(script(minted(outpoint(mint.txid, 0)), 10), spends=[outpoint(mint.txid, 0)])
    assert world.send(mint, moved) == Admittance()
    assert not world.is_free(moved, 0)
    assert world.send(mint) == Admittance((0,))
    assert world.is_free(moved, 0)


# --- what a manager sees of coins


def test_a_subject_shows_its_coins_and_reads_them_only_when_asked() -> None:
    spends = (
        Spend(token(A, 1), outpoint=at(3)), Spend(token(B, 2), coin=True, outpoint=at(4)), Spend(),
        Spend(PAYMENT, coin=True, outpoint=at(5)),
    )  # fmt: skip
    case = Case("coins", (PAYMENT,), spends)
    subject = case.subject()
    assert subject.previous_coins == (1, 3)
    assert [(coin.vin, coin.outpoint, coin.satoshis, coin.script) for coin in subject.coins] == [
        (1, at(4), 1, script(B, 2)), (3, at(5), 5000, builders.p2pkh(KEY)),
    ]  # fmt: skip
    assert [None if each is None else each.satoshis for each in subject.spent] == [1, 1, None, 5000]

    class Blind:
        version = "1"

        def admit(self, subject: Subject) -> Admittance:
            return Admittance((0,), subject.previous_coins)

    unread = case.subject()
    assert admit(Blind(), TOPIC, unread) == Admittance((0,), (1, 3))
    assert vars(unread).keys().isdisjoint({"coins", "spent", "outputs"})
