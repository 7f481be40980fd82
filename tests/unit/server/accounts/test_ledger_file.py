"""The database of a ledger: who may open it, and what it keeps."""

import contextlib
import sqlite3
from decimal import Decimal
from pathlib import Path

import pytest
from ledgers import ALICE, PRICE, Clock, amounts, charge, files, repeat, result

from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.server.accounts.charges import StoredResult
from beam_upscale.server.accounts.ledger import Ledger, Replay, Reservation
from beam_upscale.server.accounts.ledger_file import read_charges, read_spent


def test_charges_are_append_only(ledger: Ledger, path: Path) -> None:
    charge(ledger)

    with sqlite3.connect(path) as other:
        for statement in ("UPDATE charges SET amount = 0", "DELETE FROM charges"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                other.execute(statement)
    other.close()

    assert ledger.balance(ALICE) == Decimal("0.8")


def test_a_ledger_has_one_server(ledger: Ledger, path: Path, clock: Clock) -> None:
    with pytest.raises(SettingsError, match="is that of a server which is running") as caught:
        Ledger(path)
    assert caught.value.code is ErrorCode.INVALID_OPTION
    charge(ledger)

    ledger.close()
    with Ledger(path, clock=clock) as next_one:
        assert repeat(next_one).result == result()


def test_what_is_no_ledger_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("these are notes and no database " * 50)
    database = tmp_path / "database.sqlite"
    with sqlite3.connect(database) as other:
        other.execute("CREATE TABLE charges (a)")
    other.close()
    before = {file: file.read_bytes() for file in (text, database)}

    for file in (text, database, tmp_path):
        with pytest.raises(SettingsError) as caught:
            Ledger(file)
        assert caught.value.code is ErrorCode.INVALID_OPTION
        assert str(file) in caught.value.message
        with pytest.raises(SettingsError):
            list(read_charges(file))
    with pytest.raises(SettingsError):
        read_spent(tmp_path / "nowhere")

    assert {file: file.read_bytes() for file in (text, database)} == before


def test_nobody_else_may_read_a_ledger(path: Path) -> None:
    with Ledger(path, max_row_bytes=0) as ledger:
        charge(ledger)

        found = [path, Path(f"{path}-wal"), Path(f"{path}-shm"), *files(path)]
        assert [oct(file.stat().st_mode & 0o777) for file in found] == ["0o600"] * 4
        assert Path(f"{path}.artifacts").stat().st_mode & 0o777 == 0o700


def test_charges_can_be_read_while_a_server_charges(ledger: Ledger, path: Path) -> None:
    charge(ledger, "1")
    rows = read_charges(path)
    first = next(rows)
    charge(ledger, "2")

    # What had begun sees what was there; what begins now sees all.
    assert first.request_id == "1"
    assert list(rows) == []
    assert [request_id for _, request_id, _ in amounts(path)] == ["1", "2"]
    assert read_spent(path) == {"alice": Decimal("0.4")}


def test_a_ledger_of_the_version_before_is_given_an_id_and_keeps_its_charges(
    tmp_path: Path,
) -> None:
    path = tmp_path / "old.sqlite"
    with Ledger(path) as ledger:
        held = ledger.begin(ALICE, "r", "f", PRICE)
        assert isinstance(held, Reservation)
        held.commit(StoredResult(b"png", 0, "e"))
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.executescript("DROP TABLE identity; PRAGMA user_version = 2;")

    assert read_spent(path) == {"alice": PRICE}
    with Ledger(path) as ledger:
        found, again = ledger.id_for(ALICE), ledger.begin(ALICE, "r", "f", PRICE)
    with Ledger(path) as ledger:
        assert ledger.id_for(ALICE) == found
    assert isinstance(again, Replay)
