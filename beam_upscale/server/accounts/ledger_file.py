"""Opens, checks and reads the ledger's database file."""

import contextlib
import datetime
import logging
import os
import sqlite3
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path

from filelock import FileLock, Timeout

from beam_upscale.errors import ErrorCode, SettingsError, reason
from beam_upscale.server.accounts.charges import Charge, LedgerUnavailable, credits_of

_APPLICATION_ID = 0x62757063  # "bupc", which distinguishes a ledger from other databases.
_FORMAT = 3
# The format of ledgers without an id; they are given one when a server opens them.
_FORMAT_WITHOUT_ID = 2
_BUSY_SECONDS = 10.0

_IDENTITY = f"""
CREATE TABLE identity (id TEXT NOT NULL) STRICT;
INSERT INTO identity VALUES (lower(hex(randomblob(16))));
PRAGMA user_version = {_FORMAT};
"""

# Charges are only ever added: their sum is what keys have spent, and can be audited.
_SCHEMA = f"""
CREATE TABLE charges (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT NOT NULL,
    request_id TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    engine TEXT NOT NULL,
    amount INTEGER NOT NULL CHECK (amount >= 0),
    charged_at REAL NOT NULL
) STRICT;
CREATE INDEX charges_by_request ON charges (key, request_id) WHERE request_id <> '';
CREATE TRIGGER charges_are_not_changed BEFORE UPDATE ON charges
    BEGIN SELECT RAISE(ABORT, 'charges are append-only'); END;
CREATE TRIGGER charges_are_not_deleted BEFORE DELETE ON charges
    BEGIN SELECT RAISE(ABORT, 'charges are append-only'); END;
CREATE TABLE artifacts (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    charge INTEGER NOT NULL UNIQUE REFERENCES charges (id),
    file TEXT UNIQUE,
    data BLOB,
    bytes INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    seed INTEGER NOT NULL,
    stored_at REAL NOT NULL,
    CHECK ((file IS NULL) <> (data IS NULL))
) STRICT;
-- One statement stores a charge and its result, in a transaction of its own. Several statements
-- would each have to reacquire the interpreter lock; one statement does it once.
CREATE VIEW charged_results AS
    SELECT key, request_id, fingerprint, engine, amount, file, data, bytes, sha256, seed, charged_at
    FROM charges LEFT JOIN artifacts ON artifacts.charge = charges.id;
CREATE TRIGGER charged_results_are_two_rows INSTEAD OF INSERT ON charged_results BEGIN
    INSERT INTO charges (key, request_id, fingerprint, engine, amount, charged_at)
    VALUES (NEW.key, NEW.request_id, NEW.fingerprint, NEW.engine, NEW.amount, NEW.charged_at);
    INSERT INTO artifacts (charge, file, data, bytes, sha256, seed, stored_at)
    SELECT last_insert_rowid(), NEW.file, NEW.data, NEW.bytes, NEW.sha256, NEW.seed, NEW.charged_at
    WHERE NEW.bytes IS NOT NULL;
END;
PRAGMA application_id = {_APPLICATION_ID};
{_IDENTITY}
"""

_logger = logging.getLogger(__name__)


def read_charges(path: Path | str) -> Iterator[Charge]:
    """Yields all charges of a ledger, in their order, also while a server uses it.

    Raises:
        SettingsError: INVALID_OPTION, the file cannot be read or is no ledger.
    """
    with _reading(path) as database:
        rows = database.execute(
            "SELECT key, request_id, fingerprint, engine, amount, charged_at "
            "FROM charges ORDER BY id"
        )
        for key, request_id, fingerprint, engine, amount, charged_at in rows:
            when = datetime.datetime.fromtimestamp(charged_at, datetime.UTC)
            yield Charge(key, request_id, fingerprint, engine, credits_of(amount), when)


def require_ledger_place(path: Path) -> None:
    """Checks that there is a ledger, or that one can be made; makes none.

    Raises:
        SettingsError: INVALID_OPTION.
    """
    with invalid_on_failure(path):
        if path.exists():
            read_spent(path)
            return
    if not path.parent.is_dir():
        found = f"{path.parent} is not a folder; make one first"
    elif not os.access(path.parent, os.W_OK):
        found = f"this user cannot make a file in {path.parent}"
    else:
        return
    raise SettingsError(ErrorCode.INVALID_OPTION, f"the ledger {path} cannot be made: {found}")


def read_spent(path: Path | str) -> Mapping[str, Decimal]:
    """Returns the total charge of each key, in credits, also while a server uses the ledger.

    Raises:
        SettingsError: INVALID_OPTION, the file cannot be read or is no ledger.
    """
    with _reading(path) as database:
        return {key: credits_of(amount) for key, amount in spent(database).items()}


@contextlib.contextmanager
def _reading(path: Path | str) -> Iterator[sqlite3.Connection]:
    with invalid_on_failure(Path(path)):
        _require_file(Path(path))
        address = f"{Path(path).absolute().as_uri()}?mode=ro"
        database = sqlite3.connect(address, uri=True, timeout=_BUSY_SECONDS)
        with contextlib.closing(database):
            _require_ledger(database, path)
            yield database


@contextlib.contextmanager
def only_server(path: Path) -> Iterator[None]:
    """Keeps other servers from the ledger within this context.

    Raises:
        SettingsError: INVALID_OPTION, another server uses it.
    """
    # The lock belongs to no thread: another thread may close the ledger.
    lock = FileLock(f"{path}.lock", timeout=0, mode=0o600, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise SettingsError(
            ErrorCode.INVALID_OPTION,
            f"the ledger {path} is that of a server which is running; a ledger has one server",
        ) from None
    try:
        yield
    finally:
        lock.release()


def _require_file(path: Path) -> None:
    """Raises an OSError for a pipe or a device, from which SQLite may read for ever."""
    if path.exists() and not path.is_file():
        raise OSError("it is not a file")


def open_ledger(path: Path) -> sqlite3.Connection:
    """Opens the database of a ledger, which is made if there is none.

    Raises:
        SettingsError: INVALID_OPTION, the file is no ledger.
        OSError, sqlite3.Error: it cannot be read or written.
    """
    _require_file(path)
    # SQLite gives its other files the mode of the database.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    database = sqlite3.connect(
        path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )
    try:
        if not database.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]:
            database.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
        if _require_ledger(database, path) == _FORMAT_WITHOUT_ID:
            database.executescript(f"BEGIN IMMEDIATE; {_IDENTITY} COMMIT;")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute("PRAGMA foreign_keys = ON")
    except BaseException:
        database.close()
        raise
    return database


def _require_ledger(database: sqlite3.Connection, path: Path | str) -> int:
    """Checks that a database is a ledger of a known format, and returns the format.

    Raises:
        SettingsError: INVALID_OPTION.
    """
    (application,) = database.execute("PRAGMA application_id").fetchone()
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if application != _APPLICATION_ID or version not in (_FORMAT_WITHOUT_ID, _FORMAT):
        raise SettingsError(
            ErrorCode.INVALID_OPTION,
            f"{path} is not a ledger of this version of beam-upscale; take another path",
        )
    return int(version)


def spent(database: sqlite3.Connection) -> dict[str, int]:
    """Returns the units that each key was charged, by the names of keys."""
    return dict(database.execute("SELECT key, SUM(amount) FROM charges GROUP BY key").fetchall())


@contextlib.contextmanager
def invalid_on_failure(path: Path) -> Iterator[None]:
    """Turns failures of the disk or of SQLite into a SettingsError, at the start of a server."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        raise SettingsError(
            ErrorCode.INVALID_OPTION, f"the ledger {path} cannot be used: {reason(error, of=path)}"
        ) from error


@contextlib.contextmanager
def unavailable_on_failure(done: str) -> Iterator[None]:
    """Turns failures of the disk or of SQLite into LedgerUnavailable, during a call."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        # The message goes to callers, and must not tell them anything about this machine.
        _logger.error("The ledger cannot be %s: %s", done, error)
        raise LedgerUnavailable(f"the ledger cannot be {done}; nothing was charged") from error


def private(path: str, flags: int) -> int:
    """Opens a file that only its owner may read; an opener for `open`."""
    return os.open(path, flags, 0o600)
