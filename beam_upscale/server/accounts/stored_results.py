"""The results that a ledger keeps: small ones in its database, larger ones in files beside it."""

import contextlib
import hashlib
import logging
import math
import re
import secrets
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from beam_upscale.server.accounts.charges import Artifact, Dropped, StoredResult, marks
from beam_upscale.server.accounts.ledger_file import private

# The number of results that are read at a time to make room for a new one.
_EVICTED_AT_ONCE = 8
_FILE_NAME = re.compile(r"[0-9a-f]{32}")

_logger = logging.getLogger(__name__)


class StoredResults:
    """The stored results of a ledger, within a limit of bytes.

    `write`, `read` and `delete` may be called from any thread; callers of the others hold the
    ledger's lock.

    Args:
        database: the ledger's database.
        folder: the folder of larger results, which exists.
        replay_seconds: time after its charge in which a result is kept, as far as there is room.
        max_bytes: most bytes of all results. The oldest are dropped first, and those out of the
            replay window with the next charge.
        max_row_bytes: most bytes of a result that the database holds itself.
        clock: returns the time in seconds since 1970.
    """

    def __init__(
        self,
        database: sqlite3.Connection,
        folder: Path,
        replay_seconds: float,
        max_bytes: int,
        max_row_bytes: int,
        clock: Callable[[], float],
    ) -> None:
        """Drops results that may not stay, and files that no row names."""
        self._database = database
        self._folder = folder
        self._replay_seconds = replay_seconds
        self._max_bytes = max_bytes
        self._max_row_bytes = max_row_bytes
        self._clock = clock
        row = database.execute("SELECT COALESCE(SUM(bytes), 0) FROM artifacts")
        self._bytes = int(row.fetchone()[0])
        # No result is out of the replay window before this time.
        self._none_expires_before = -math.inf
        with self._transaction():
            dropped = self._evict(self._bytes, room_for=0)
        self._bytes -= dropped.bytes
        self._delete_unknown_files()

    def write(self, result: StoredResult) -> Artifact | None:
        """Writes a large result to a file; None if the result is larger than all may be.

        The next start deletes files that no row names.
        """
        size, sha256 = len(result.data), hashlib.sha256(result.data).hexdigest()
        if size > self._max_bytes:
            return None
        if size <= self._max_row_bytes:
            return Artifact(None, result.data, size, sha256, result.seed)
        name = secrets.token_hex(16)
        path = self._folder / name
        try:
            with open(path, "xb", opener=private) as file:
                file.write(result.data)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return Artifact(name, None, size, sha256, result.seed)

    def read(self, file: str) -> bytes | None:
        """Reads a result's file; None if it is gone."""
        try:
            return (self._folder / file).read_bytes()
        except OSError:
            return None

    def delete(self, files: Iterable[str]) -> None:
        """Deletes files; one that cannot be deleted is logged, and goes with a later start."""
        for file in files:
            try:
                (self._folder / file).unlink(missing_ok=True)
            except OSError as error:
                _logger.warning("A result could not be deleted: %s", error)

    def make_room(self, charge: int | None, artifact: Artifact | None) -> tuple[str, ...]:
        """Drops rows to make room for a result; returns the files that no row names any more.

        Args:
            charge: the charge whose own earlier result is replaced; None for a new charge.
            artifact: the result; None if it is not stored.
        """
        size = 0 if artifact is None else artifact.bytes
        if charge is None and self._is_room(self._bytes, size, self._clock()):
            return ()
        with self._transaction():
            dropped = Dropped() if charge is None else self._drop_artifact_of(charge)
            dropped += self._evict(self._bytes - dropped.bytes, size)
        self._bytes -= dropped.bytes
        return dropped.files

    def insert(self, charge: int, artifact: Artifact) -> None:
        """Stores the result of a call that was charged before."""
        self._database.execute(
            "INSERT INTO artifacts (charge, file, data, bytes, sha256, seed, stored_at) "
            f"VALUES ({marks(7)})",
            (charge, *artifact.columns(), self._clock()),
        )
        self.count(artifact)

    def count(self, artifact: Artifact) -> None:
        """Counts a result that was stored together with its charge."""
        self._bytes += artifact.bytes

    def _drop_artifact_of(self, charge: int) -> Dropped:
        rows = self._database.execute(
            "DELETE FROM artifacts WHERE charge = ? RETURNING file, bytes", (charge,)
        ).fetchall()
        files = tuple(file for file, _ in rows if file is not None)
        return Dropped(files, sum(size for _, size in rows))

    def _evict(self, stored_bytes: int, room_for: int) -> Dropped:
        """Drops the oldest results until there is room, and those out of the replay window."""
        dropped = Dropped()
        now = self._clock()
        while not self._is_room(stored_bytes - dropped.bytes, room_for, now):
            rows = self._database.execute(
                "SELECT id, file, bytes, stored_at FROM artifacts ORDER BY id LIMIT ?",
                (_EVICTED_AT_ONCE,),
            ).fetchall()
            if not rows:
                self._none_expires_before = now + self._replay_seconds
                break
            for number, file, size, stored_at in rows:
                self._none_expires_before = stored_at + self._replay_seconds
                if self._is_room(stored_bytes - dropped.bytes, room_for, now):
                    break
                self._database.execute("DELETE FROM artifacts WHERE id = ?", (number,))
                dropped += Dropped(() if file is None else (file,), size)
        return dropped

    def _is_room(self, stored_bytes: int, room_for: int, now: float) -> bool:
        """Checks whether all stored results may stay, with `room_for` more bytes beside them."""
        is_room = stored_bytes + room_for <= self._max_bytes
        return is_room and now <= self._none_expires_before

    def _delete_unknown_files(self) -> None:
        """Deletes files without a row, left by a process that died between file and row."""
        rows = self._database.execute("SELECT file FROM artifacts WHERE file IS NOT NULL")
        known = {file for (file,) in rows}
        there = {path.name for path in self._folder.iterdir() if _FILE_NAME.fullmatch(path.name)}
        self.delete(there - known)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._database.execute("COMMIT")
        except BaseException:
            # A COMMIT that fails may have ended the transaction or not.
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise
