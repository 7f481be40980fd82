"""Results that a ledger keeps for repeats, in its database and in files beside it."""

import contextlib
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

import pytest
from ledgers import (
    ALICE,
    DAY,
    PRICE,
    Clock,
    charge,
    files,
    repeat,
    reserve,
    result,
    stored,
    stored_bytes,
)

from beam_upscale.server.accounts.charges import InProgress, LedgerUnavailable, RequestIdReused
from beam_upscale.server.accounts.key_file import ANONYMOUS
from beam_upscale.server.accounts.ledger import Ledger, Replay, Reservation


def test_results_out_of_the_replay_window_are_deleted(
    path: Path, clock: Clock, max_row_bytes: int
) -> None:
    with Ledger(path, clock=clock, max_row_bytes=max_row_bytes) as ledger:
        for number in range(20):
            charge(ledger, str(number), b"early", ANONYMOUS)
            clock.now += 1
        clock.now += DAY - 10
        charge(ledger, "later", b"later")

        assert stored(path) == [*[b"early"] * 10, b"later"]
    clock.now += DAY + 1
    with Ledger(path, clock=clock, max_row_bytes=max_row_bytes):
        assert stored(path) == []


def test_results_are_bounded_in_bytes_and_the_oldest_go_first(
    path: Path, max_row_bytes: int
) -> None:
    with Ledger(path, max_artifact_bytes=1000, max_row_bytes=max_row_bytes) as ledger:
        for number in range(30):
            charge(ledger, str(number), bytes([number]) * 100, ANONYMOUS)
            assert stored_bytes(path) <= 1000

        kept = [
            repeat(ledger, ANONYMOUS, str(number)).result is not None for number in range(20, 30)
        ]
        assert kept == [True] * 10
        gone = repeat(ledger, ANONYMOUS, "19")
        assert gone.result is None

        charge(ledger, "large", b"x" * 950)
        assert stored(path) == [b"x" * 950]

    with Ledger(path, max_artifact_bytes=10):
        assert stored(path) == []


def test_small_results_are_in_rows_and_larger_ones_in_files(path: Path) -> None:
    with Ledger(path, max_row_bytes=100) as ledger:
        for size in (0, 100, 101):
            charge(ledger, str(size), b"x" * size)

        assert [file.stat().st_size for file in files(path)] == [101]
        for size in (0, 100, 101):
            assert repeat(ledger, request_id=str(size)).result == result(b"x" * size)


def test_a_result_larger_than_all_may_be_is_charged_and_not_stored(path: Path) -> None:
    with Ledger(path, max_artifact_bytes=1000) as ledger:
        charge(ledger, "small")
        charge(ledger, "large", b"x" * 1001)

        assert repeat(ledger, request_id="large").result is None
        assert repeat(ledger, request_id="small").result == result()
        assert ledger.balance(ALICE) == Decimal("0.6")


def delete(path: Path) -> None:
    """Takes the oldest result away."""
    if files(path):
        (Path(f"{path}.artifacts") / oldest_file(path)).unlink()
    else:
        write(path, "DELETE FROM artifacts WHERE id = (SELECT MIN(id) FROM artifacts)")


def truncate(path: Path) -> None:
    damage_oldest(path, lambda data: data[: len(data) // 2])


def alter(path: Path) -> None:
    damage_oldest(path, lambda data: data[::-1])


def damage_oldest(path: Path, change: Callable[[bytes], bytes]) -> None:
    damaged = change(stored(path)[0])
    if files(path):
        (Path(f"{path}.artifacts") / oldest_file(path)).write_bytes(damaged)
    else:
        write(
            path,
            "UPDATE artifacts SET data = ? WHERE id = (SELECT MIN(id) FROM artifacts)",
            damaged,
        )


def oldest_file(path: Path) -> str:
    with contextlib.closing(sqlite3.connect(path)) as database:
        (file,) = database.execute("SELECT file FROM artifacts ORDER BY id").fetchone()
    return str(file)


def write(path: Path, statement: str, *values: bytes) -> None:
    """Changes a ledger's database behind its back."""
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute(statement, values)


@pytest.mark.parametrize("damage", [delete, truncate, alter])
def test_a_result_that_is_not_whole_is_computed_anew_without_charge(
    ledger: Ledger, path: Path, damage: Callable[[Path], None]
) -> None:
    charge(ledger)
    damage(path)

    again = repeat(ledger)
    assert again.result is None
    assert isinstance(ledger.begin(ALICE, "id", "content", PRICE), InProgress)
    with pytest.raises(RequestIdReused):
        ledger.begin(ALICE, "id", "another content", PRICE)
    again.restore(result())

    assert repeat(ledger).result == result()
    assert len(list(ledger.charges())) == 1
    assert ledger.balance(ALICE) == Decimal("0.8")
    assert stored(path) == [b"PNG"]


def test_a_result_that_could_not_be_computed_anew_is_left_to_the_next_repeat(
    ledger: Ledger, path: Path
) -> None:
    charge(ledger)
    delete(path)

    first = repeat(ledger)
    first.release()
    second = repeat(ledger)
    first.release()

    assert second.result is None
    with pytest.raises(RuntimeError):
        first.restore(result(b"late"))
    second.restore(result())
    assert repeat(ledger).result == result()
    with pytest.raises(RuntimeError):
        repeat(ledger).restore(result())


def test_restored_results_count_towards_the_bound(path: Path, max_row_bytes: int) -> None:
    with Ledger(path, max_artifact_bytes=300, max_row_bytes=max_row_bytes) as ledger:
        for number in range(3):
            charge(ledger, str(number), b"xy" * 50)
        for _ in range(5):
            alter(path)
            for number in range(3):
                begun = repeat(ledger, request_id=str(number))
                if begun.result is None:
                    begun.restore(result(b"xy" * 50))

        assert len(stored(path)) == 3
        assert all(repeat(ledger, request_id=str(n)).result is not None for n in range(3))


def test_a_result_that_cannot_be_stored_is_not_charged(path: Path) -> None:
    folder = Path(f"{path}.artifacts")
    with Ledger(path, max_row_bytes=0) as ledger:
        reservation = reserve(ledger, price=Decimal(1))
        folder.rmdir()

        with pytest.raises(LedgerUnavailable) as caught:
            reservation.commit(result())

        assert str(path) not in str(caught.value)
        assert list(ledger.charges()) == []
        folder.mkdir()
        reserve(ledger, price=Decimal(1)).commit(result())
        assert len(list(ledger.charges())) == 1


def test_a_charge_that_cannot_be_stored_leaves_no_result(ledger: Ledger, path: Path) -> None:
    reservation = reserve(ledger)

    with pytest.raises(OverflowError):  # Of the database, which has no numbers of this size.
        reservation.commit(result(seed=2**64))

    assert stored(path) == []
    assert list(ledger.charges()) == []
    assert ledger.balance(ALICE) == 1
    charge(ledger)


def test_threads_that_repeat_while_results_go_never_fail(path: Path, max_row_bytes: int) -> None:
    with Ledger(path, max_artifact_bytes=500, max_row_bytes=max_row_bytes) as ledger:

        def call(number: int) -> None:
            request_id = str(number % 12)
            begun = ledger.begin(ANONYMOUS, request_id, "content", PRICE)
            made = result(request_id.encode() * 50)
            if isinstance(begun, Reservation):
                begun.commit(made)
            elif isinstance(begun, Replay) and begun.result is None:
                begun.restore(made)
            elif isinstance(begun, Replay):
                assert begun.result == made

        with ThreadPoolExecutor(8) as executor:
            list(executor.map(call, range(1200)))

        assert sorted(row.request_id for row in ledger.charges()) == sorted(map(str, range(12)))
        assert stored_bytes(path) <= 500
