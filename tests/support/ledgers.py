"""Calls that are charged in a ledger, and what is in its files."""

import contextlib
import sqlite3
from decimal import Decimal
from pathlib import Path

from beam_upscale.server.accounts.charges import StoredResult
from beam_upscale.server.accounts.key_file import Key
from beam_upscale.server.accounts.ledger import Ledger, Replay, Reservation
from beam_upscale.server.accounts.ledger_file import read_charges

PRICE = Decimal("0.2")

ALICE = Key("alice", Decimal(1), None, None)

DAY = 24 * 60 * 60


class Clock:
    """The time, as a test sets it."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def result(data: bytes = b"PNG", seed: int = 7) -> StoredResult:
    return StoredResult(data, seed, "esrgan-v1-x2plus")


def reserve(
    ledger: Ledger,
    key: Key = ALICE,
    request_id: str = "id",
    fingerprint: str = "content",
    price: Decimal = PRICE,
) -> Reservation:
    begun = ledger.begin(key, request_id, fingerprint, price)
    assert isinstance(begun, Reservation)
    return begun


def repeat(
    ledger: Ledger, key: Key = ALICE, request_id: str = "id", fingerprint: str = "content"
) -> Replay:
    begun = ledger.begin(key, request_id, fingerprint, PRICE)
    assert isinstance(begun, Replay)
    return begun


def charge(ledger: Ledger, request_id: str = "id", data: bytes = b"PNG", key: Key = ALICE) -> None:
    reserve(ledger, key, request_id).commit(result(data))


def amounts(path: Path) -> list[tuple[str, str, Decimal]]:
    return [(row.key, row.request_id, row.credits) for row in read_charges(path)]


def files(path: Path) -> list[Path]:
    return sorted(Path(f"{path}.artifacts").iterdir())


def stored(path: Path) -> list[bytes]:
    """The results that a ledger holds, the oldest first."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        rows = database.execute("SELECT file, data FROM artifacts ORDER BY id").fetchall()
    folder = Path(f"{path}.artifacts")
    assert sorted(file for file, _ in rows if file) == [file.name for file in files(path)]
    return [(folder / file).read_bytes() if file else data for file, data in rows]


def stored_bytes(path: Path) -> int:
    with contextlib.closing(sqlite3.connect(path)) as database:
        (in_rows,) = database.execute("SELECT TOTAL(LENGTH(data)) FROM artifacts").fetchone()
    return int(in_rows) + sum(file.stat().st_size for file in files(path))
