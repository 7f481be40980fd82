"""Charges, repeats and balances, in real files and by threads and processes of their own."""

import dataclasses
import itertools
import multiprocessing
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from ledgers import (
    ALICE,
    DAY,
    PRICE,
    Clock,
    amounts,
    charge,
    files,
    repeat,
    reserve,
    result,
    stored,
    stored_bytes,
)

from beam_upscale.server.accounts.charges import (
    InProgress,
    LedgerUnavailable,
    OutOfCredits,
    RequestIdReused,
    StoredResult,
)
from beam_upscale.server.accounts.key_file import ANONYMOUS, Key
from beam_upscale.server.accounts.ledger import Ledger, Replay, Reservation
from beam_upscale.server.accounts.ledger_file import read_spent

PATIENCE = 60
BOB = Key("bob", Decimal(1), None, None)


def test_a_call_is_charged_when_its_result_is_stored(
    ledger: Ledger, path: Path, clock: Clock
) -> None:
    reservation = reserve(ledger)
    assert ledger.balance(ALICE) == 1
    assert list(ledger.charges()) == []

    reservation.commit(result())

    (row,) = ledger.charges()
    assert (row.key, row.request_id, row.fingerprint) == ("alice", "id", "content")
    assert (row.engine, row.credits) == ("esrgan-v1-x2plus", PRICE)
    assert row.charged_at.timestamp() == clock.now
    assert ledger.balance(ALICE) == Decimal("0.8")
    assert read_spent(path) == {"alice": PRICE}


def test_a_call_that_is_given_up_is_not_charged(ledger: Ledger) -> None:
    reservation = reserve(ledger, price=Decimal(1))

    reservation.release()
    reservation.release()

    assert list(ledger.charges()) == []
    assert ledger.balance(ALICE) == 1
    reserve(ledger, price=Decimal(1))


def test_a_reservation_ends_once(ledger: Ledger) -> None:
    charged, released = reserve(ledger, request_id="1"), reserve(ledger, request_id="2")
    charged.commit(result())
    released.release()

    for ended in (charged, released):
        with pytest.raises(RuntimeError, match="before"):
            ended.commit(result())
    charged.release()

    assert [row.request_id for row in ledger.charges()] == ["1"]
    assert ledger.balance(ALICE) == Decimal("0.8")


def test_a_repeat_gets_the_same_result_without_charge(ledger: Ledger) -> None:
    charge(ledger, data=b"the first")

    for _ in range(3):
        assert repeat(ledger).result == result(b"the first")

    assert len(list(ledger.charges())) == 1
    assert ledger.balance(ALICE) == Decimal("0.8")


def test_a_repeat_is_free_of_the_balance_and_of_its_price(ledger: Ledger) -> None:
    reserve(ledger, price=Decimal(1)).commit(result())
    assert ledger.balance(ALICE) == 0

    assert repeat(ledger).result == result()


def test_a_repeat_is_known_after_a_restart(path: Path) -> None:
    with Ledger(path) as first:
        charge(first)

    with Ledger(path) as second:
        assert repeat(second).result == result()
        assert second.balance(ALICE) == Decimal("0.8")


def test_the_same_id_with_another_content_is_an_error(ledger: Ledger) -> None:
    running = reserve(ledger, request_id="running")
    charge(ledger, request_id="charged")

    for request_id in ("running", "charged"):
        with pytest.raises(RequestIdReused, match=f"'{request_id}'"):
            ledger.begin(ALICE, request_id, "another content", PRICE)

    running.release()
    reserve(ledger, request_id="running", fingerprint="another content")


def test_a_repeat_of_a_call_in_progress_is_told_so(ledger: Ledger) -> None:
    reservation = reserve(ledger, price=Decimal(1))

    assert isinstance(ledger.begin(ALICE, "id", "content", Decimal(1)), InProgress)

    reservation.commit(result())
    assert repeat(ledger).result == result()


def test_no_key_sees_what_another_has(ledger: Ledger) -> None:
    charge(ledger, data=b"of alice")
    running = reserve(ledger, ALICE, "running")

    theirs = reserve(ledger, BOB, fingerprint="another content")
    reserve(ledger, BOB, "running", "another content").release()
    theirs.commit(result(b"of bob"))
    running.release()

    assert repeat(ledger, ALICE).result == result(b"of alice")
    assert repeat(ledger, BOB, fingerprint="another content").result == result(b"of bob")
    assert ledger.balance(ALICE) == ledger.balance(BOB) == Decimal("0.8")


def test_calls_without_an_id_are_never_repeats(ledger: Ledger, path: Path) -> None:
    first, second = reserve(ledger, request_id=""), reserve(ledger, request_id="")
    first.commit(result())
    second.commit(result())
    reserve(ledger, request_id="", fingerprint="another content").commit(result())

    assert [row.credits for row in ledger.charges()] == [PRICE] * 3
    assert stored(path) == []


@pytest.mark.parametrize(
    "request_id", ["../../etc/passwd", "a\0b", "'; DROP TABLE charges", "é🙂", " ", "x" * 256]
)
def test_an_id_may_be_any_text(ledger: Ledger, path: Path, request_id: str) -> None:
    charge(ledger, request_id)
    charge(ledger, request_id + "2", b"other")

    assert repeat(ledger, request_id=request_id).result == result()
    assert [row.request_id for row in ledger.charges()] == [request_id, request_id + "2"]
    assert all(file.parent == Path(f"{path}.artifacts") for file in files(path))
    assert stored(path) == [b"PNG", b"other"]


def test_a_call_that_costs_more_than_is_left_is_refused_with_the_numbers(ledger: Ledger) -> None:
    charge(ledger)
    held = reserve(ledger, request_id="2", price=Decimal("0.75"))

    message = "the call costs 0.2 credits, and the balance is 0.8"
    with pytest.raises(OutOfCredits, match=f"^{message}, of which calls in progress hold 0.75$"):
        reserve(ledger, request_id="3")
    reserve(ledger, request_id="3", price=Decimal("0.05")).release()

    held.release()
    with pytest.raises(OutOfCredits, match=r"^the call costs 0\.9 credits, .* is 0\.8$"):
        reserve(ledger, request_id="3", price=Decimal("0.9"))
    reserve(ledger, request_id="3", price=Decimal("0.8"))


def test_a_key_is_granted_more_while_the_server_runs(ledger: Ledger) -> None:
    reserve(ledger, price=Decimal(1)).commit(result())
    with pytest.raises(OutOfCredits):
        reserve(ledger, request_id="2")

    more = Key("alice", Decimal("1.2"), None, None)

    assert ledger.balance(more) == PRICE
    reserve(ledger, more, "2").commit(result())
    assert ledger.balance(more) == 0
    assert ledger.balance(ALICE) == Decimal("-0.2")


def test_without_a_limit_calls_are_charged_and_never_refused(ledger: Ledger) -> None:
    reserve(ledger, ANONYMOUS, price=Decimal(10**9)).commit(result())

    assert ledger.balance(ANONYMOUS) is None
    assert [row.credits for row in ledger.charges()] == [10**9]


def test_amounts_are_exact(ledger: Ledger) -> None:
    key = Key("alice", Decimal("0.0003"), None, None)
    for number in range(3):
        reserve(ledger, key, str(number), price=Decimal("0.0001")).commit(result())

    assert ledger.balance(key) == 0
    with pytest.raises(OutOfCredits):
        reserve(ledger, key, "4", price=Decimal("0.0001"))
    with pytest.raises(ValueError, match=r"0\.00001"):
        reserve(ledger, key, "5", price=Decimal("0.00001"))
    reserve(ledger, key, "6", price=Decimal(0)).commit(result())


def test_after_the_replay_window_an_id_is_as_good_as_new(ledger: Ledger, clock: Clock) -> None:
    charge(ledger)
    clock.now += DAY
    assert repeat(ledger).result == result()

    clock.now += 1
    reserve(ledger, fingerprint="another content").release()
    charge(ledger, data=b"second")

    assert repeat(ledger).result == result(b"second")
    assert len(list(ledger.charges())) == 2


def test_a_closed_ledger_charges_nothing(ledger: Ledger, path: Path) -> None:
    reservation = reserve(ledger)
    ledger.close()
    ledger.close()

    with pytest.raises(LedgerUnavailable):
        reservation.commit(result())
    with pytest.raises(LedgerUnavailable):
        ledger.begin(ALICE, "2", "content", PRICE)

    assert amounts(path) == []


def test_many_threads_never_spend_more_than_there_is(ledger: Ledger) -> None:
    key = Key("alice", Decimal("7.9"), None, None)
    together = threading.Barrier(8)

    def call(number: int) -> bool:
        if number < 8:
            together.wait(PATIENCE)
        try:
            begun = ledger.begin(key, str(number), "content", PRICE)
        except OutOfCredits:
            return False
        assert isinstance(begun, Reservation)
        begun.commit(result())
        return True

    with ThreadPoolExecutor(8) as executor:
        charged = list(executor.map(call, range(200)))

    assert sum(charged) == 39
    assert len(list(ledger.charges())) == 39
    assert ledger.balance(key) == Decimal("0.1")


def test_many_threads_with_one_request_are_charged_once(ledger: Ledger) -> None:
    together = threading.Barrier(8)
    computed: list[int] = []

    def call(number: int) -> bytes:
        together.wait(PATIENCE)
        while True:
            begun = ledger.begin(ALICE, "id", "content", PRICE)
            if isinstance(begun, Reservation):
                computed.append(number)
                begun.commit(result(b"computed once"))
            elif isinstance(begun, Replay):
                assert begun.result is not None
                return begun.result.data

    with ThreadPoolExecutor(8) as executor:
        results = list(executor.map(call, range(8)))

    assert results == [b"computed once"] * 8
    assert len(computed) == 1
    assert len(list(ledger.charges())) == 1


def serve_until_killed(path: Path, max_row_bytes: int, said: Any) -> None:
    """Charges without end, and says what it has charged."""
    ledger = Ledger(path, max_row_bytes=max_row_bytes)
    for number in range(1_000_000):
        running = ledger.begin(ANONYMOUS, f"running {number}", "content", PRICE)
        charged = ledger.begin(ANONYMOUS, str(number), "content", PRICE)
        assert isinstance(running, Reservation)
        assert isinstance(charged, Reservation)
        charged.commit(result(str(number).encode() * 1000))
        said.send(number)


@pytest.mark.parametrize("after", [1, 40])
def test_a_kill_loses_reservations_and_no_charge_that_was_answered(
    path: Path, max_row_bytes: int, after: int
) -> None:
    processes = multiprocessing.get_context("spawn")
    hears, says = processes.Pipe(duplex=False)
    server = processes.Process(target=serve_until_killed, args=(path, max_row_bytes, says))
    server.start()
    says.close()
    answered = [hears.recv() for _ in range(after)]
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    try:
        while True:
            answered.append(hears.recv())
    except EOFError:
        server.join(PATIENCE)

    with Ledger(path) as ledger:
        charged = [row.request_id for row in ledger.charges()]
        # The last charge may have been made without being answered.
        assert charged[: len(answered)] == [str(number) for number in answered]
        assert len(charged) - len(answered) in (0, 1)
        for number in range(len(charged)):
            found = repeat(ledger, ANONYMOUS, str(number))
            assert found.result == result(str(number).encode() * 1000)
            reserve(ledger, ANONYMOUS, f"running {number}").release()
        assert len(stored(path)) == len(charged)


@dataclasses.dataclass(frozen=True)
class Running:
    """A call that has begun, as the account has it."""

    begun: Reservation | Replay
    content: int
    held: Decimal


class LedgerMachine(RuleBasedStateMachine):
    """Any order of calls, repeats, failures, losses and restarts against a plain account."""

    keys = (Key("a", Decimal("1.5"), None, None), Key("b", None, None, None))

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.clock = Clock()
        self.ledger = self.open()
        self.running: dict[tuple[str, str], Running] = {}
        self.charged: dict[tuple[str, str], tuple[int, float]] = {}
        self.rows: list[tuple[str, str, Decimal]] = []

    def open(self) -> Ledger:
        return Ledger(self.path, max_artifact_bytes=250, max_row_bytes=80, clock=self.clock)

    def teardown(self) -> None:
        self.ledger.close()

    def spent(self, key: Key) -> Decimal:
        return sum((amount for name, _, amount in self.rows if name == key.name), Decimal(0))

    def held(self, key: Key) -> Decimal:
        held = [call.held for (name, _), call in self.running.items() if name == key.name]
        return sum(held, Decimal(0))

    @rule(
        key=st.sampled_from(keys),
        request_id=st.sampled_from("123456"),
        content=st.integers(0, 1),
        price=st.sampled_from([Decimal("0.2"), Decimal("0.5"), Decimal(0)]),
    )
    def call(self, key: Key, request_id: str, content: int, price: Decimal) -> None:
        name = (key.name, request_id)
        running = self.running.get(name)
        before, when = self.charged.get(name, (None, 0.0))
        known = before is not None and self.clock.now - when <= DAY
        try:
            begun = self.ledger.begin(key, request_id, str(content), price)
        except RequestIdReused:
            assert running.content != content if running else known and before != content
            return
        except OutOfCredits:
            assert running is None
            assert not known
            assert key.credits is not None
            assert key.credits - self.spent(key) - self.held(key) < price
            return
        if isinstance(begun, InProgress):
            assert running is not None
            assert running.content == content
            return
        assert running is None
        if isinstance(begun, Reservation):
            assert not known
            self.running[name] = Running(begun, content, price)
            return
        assert known
        assert before == content
        if begun.result is None:
            self.running[name] = Running(begun, content, Decimal(0))
        else:
            assert begun.result == self.result(name, content)

    def result(self, name: tuple[str, str], content: int) -> StoredResult:
        # One is in the database, the other in a file.
        return result(f"{name}{content}".encode().ljust(70 + 20 * content))

    @precondition(lambda self: self.running)
    @rule(data=st.data(), fails=st.booleans())
    def end(self, data: Any, fails: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.running)))
        call = self.running.pop(name)
        if fails:
            call.begun.release()
        elif isinstance(call.begun, Reservation):
            call.begun.commit(self.result(name, call.content))
            self.charged[name] = (call.content, self.clock.now)
            self.rows.append((*name, call.held))
        else:
            call.begun.restore(self.result(name, call.content))

    @rule()
    def restart(self) -> None:
        self.ledger.close()
        self.ledger = self.open()
        self.running.clear()

    @rule(hours=st.sampled_from([1, 13]))
    def wait(self, hours: int) -> None:
        self.clock.now += hours * 60 * 60

    @precondition(lambda self: files(self.path))
    @rule(data=st.data())
    def lose(self, data: Any) -> None:
        data.draw(st.sampled_from(files(self.path))).unlink()

    @invariant()
    def balances_are_what_was_granted_less_what_was_charged(self) -> None:
        assert amounts(self.path) == self.rows
        for key in self.keys:
            expected = None if key.credits is None else key.credits - self.spent(key)
            assert self.ledger.balance(key) == expected
            assert key.credits is None or self.spent(key) + self.held(key) <= key.credits

    @invariant()
    def results_are_within_their_bound(self) -> None:
        assert stored_bytes(self.path) <= 250


def test_any_order_of_events_keeps_the_account(tmp_path: Path) -> None:
    number = itertools.count()

    run_state_machine_as_test(
        lambda: LedgerMachine(tmp_path / str(next(number)) / "ledger"),
        settings=settings(max_examples=40, stateful_step_count=40),
    )


# Which ledger it is


def test_a_ledger_has_an_id_for_each_key_that_no_other_has(tmp_path: Path) -> None:
    def ids(name: str) -> list[str]:
        with Ledger(tmp_path / name) as ledger:
            return [ledger.id_for(ALICE), ledger.id_for(BOB)]

    first = ids("1.sqlite")

    assert ids("1.sqlite") == first
    assert len({*first, *ids("2.sqlite")}) == 4
