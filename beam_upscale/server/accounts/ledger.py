"""The charges of keys, and the results that a repeated request gets back without charge.

A ledger is a SQLite database with a folder of larger results beside it. One server uses it at a
time, on a disk of its machine. It guarantees:

- A key is never reserved or charged more than it has been granted.
- A charge and the result that it is for are stored in one transaction, before either is answered.
  If a process dies, its reservations are gone, and none of them is charged.
- It has an id that no other ledger has, so that a client that repeats a request can tell whether it
  sent the request to this ledger before. A copy has the same id: do not serve from both.
- After a power failure the charges of the last moments may be missing, as SQLite does not wait for
  the disk at each of them. A repeat of such a request is computed and charged, once. The last
  results may be damaged or missing too: each has its SHA-256 in the database, and a repeat of a
  request whose result is not whole is computed again without charge. So nobody pays twice, and
  nobody pays for a result that is lost.
"""

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Self

from beam_upscale.server.accounts.charges import (
    Artifact,
    Charge,
    Claim,
    Found,
    InProgress,
    StoredResult,
    credits_of,
    ended,
    marks,
    out_of_credits,
    reused,
    units_of,
)
from beam_upscale.server.accounts.key_file import Key
from beam_upscale.server.accounts.ledger_file import (
    invalid_on_failure,
    only_server,
    open_ledger,
    read_charges,
    spent,
    unavailable_on_failure,
)
from beam_upscale.server.accounts.stored_results import StoredResults

DEFAULT_REPLAY_SECONDS = 24 * 60 * 60
DEFAULT_MAX_ARTIFACT_BYTES = 20 * 2**30
# Up to about 100 kB a row is quicker than a file (sqlite.org/intern-v-extern-blob.html), for 10 kB
# ten times.
DEFAULT_MAX_ROW_BYTES = 2**16

_FIND = """
SELECT charges.id, fingerprint, engine, charged_at, file, data, sha256, seed
FROM charges LEFT JOIN artifacts ON artifacts.charge = charges.id
WHERE key = ? AND request_id = ? AND request_id <> ''
ORDER BY charges.id DESC LIMIT 1
"""


class Reservation:
    """The price of a call that is set aside until the call is charged or given up.

    Exactly one call of `commit`, or any number of `release`, ends it; both are thread-safe.
    """

    def __init__(self, ledger: "Ledger", claim: "Claim") -> None:
        self._ledger = ledger
        self._claim = claim

    def commit(self, result: StoredResult) -> None:
        """Stores the result and charges its price, both or neither.

        Raises:
            LedgerUnavailable: neither could be done; the reservation is released.
            RuntimeError: the reservation has ended before.
        """
        self._ledger._store(self._claim, result)

    def release(self) -> None:
        """Gives the price back; does nothing if the reservation has ended."""
        self._ledger._release(self._claim)


class Replay:
    """A repeat of a request that was charged before, which is not charged again.

    If its result is gone, the caller computes it again: other repeats of the request are answered
    by `InProgress` until `restore` or `release`.

    Attributes:
        result: the stored result; None if it is gone.
    """

    def __init__(
        self, ledger: "Ledger", result: StoredResult | None, claim: "Claim | None"
    ) -> None:
        self._ledger = ledger
        self._claim = claim
        self.result = result

    def restore(self, result: StoredResult) -> None:
        """Stores a result that was computed again.

        Raises:
            LedgerUnavailable: it cannot be stored; a later repeat computes it again.
            RuntimeError: the result was there, or the replay has ended before.
        """
        if self._claim is None:
            raise RuntimeError("the result of this request is stored")
        self._ledger._store(self._claim, result)

    def release(self) -> None:
        """Gives up computing the result; does nothing if there is one."""
        if self._claim is not None:
            self._ledger._release(self._claim)


class Ledger:
    """Reserves and charges credits, and stores results. Thread-safe; calls block only for a disk.

    A repeat is a request with the id and the fingerprint of one that is being computed, or that the
    same key was charged for within the replay window. After the window, an id may be used for
    another request. Keys do not affect each other.

    Args:
        path: the path of the database, which is made if there is none, with its folder. Larger
            results are in the folder `<path>.artifacts`, and `<path>.lock` keeps other servers
            away.
        replay_seconds: time after its charge in which a request may be repeated without charge.
        max_artifact_bytes: most bytes of all results that are kept. The oldest are dropped first,
            and those out of the replay window with the next charge.
        max_row_bytes: most bytes of a result that the database holds itself; a larger one has a
            file.
        clock: returns the time in seconds since 1970.

    Raises:
        SettingsError: INVALID_OPTION, another server uses the ledger, it is no ledger, or it cannot
            be read and written.
    """

    def __init__(
        self,
        path: Path | str,
        replay_seconds: float = DEFAULT_REPLAY_SECONDS,
        max_artifact_bytes: int = DEFAULT_MAX_ARTIFACT_BYTES,
        max_row_bytes: int = DEFAULT_MAX_ROW_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path = Path(path)
        self._replay_seconds = replay_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._claims: dict[tuple[str, str], Claim] = {}
        self._reserved: dict[str, int] = {}
        with contextlib.ExitStack() as stack, invalid_on_failure(self._path):
            folder = Path(f"{path}.artifacts")
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            stack.enter_context(only_server(self._path))
            self._database = stack.enter_context(contextlib.closing(open_ledger(self._path)))
            (self._id,) = self._database.execute("SELECT id FROM identity").fetchone()
            self._spent = spent(self._database)
            self._results = StoredResults(
                self._database, folder, replay_seconds, max_artifact_bytes, max_row_bytes, clock
            )
            self._resources = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the ledger, and lets another server use it; calls in progress are not charged."""
        with self._lock:
            self._resources.close()

    @property
    def replay_seconds(self) -> float:
        """The seconds after its charge in which a request may be repeated without charge."""
        return self._replay_seconds

    def id_for(self, key: Key) -> str:
        """Returns an id of this ledger's charges for a key, in hexadecimal.

        A request is a repeat only of one that was sent to the same ledger with the same key.
        """
        return hashlib.sha256(f"{self._id} {key.name}".encode()).hexdigest()[:32]

    def begin(
        self, key: Key, request_id: str, fingerprint: str, price: Decimal
    ) -> Reservation | Replay | InProgress:
        """Reserves the price of a call, unless it is a repeat.

        Args:
            key: the key of the caller.
            request_id: as the caller gave it; empty for none, and then no call is a repeat of it.
            fingerprint: equal for requests that are equal except for their ids.
            price: the price in credits, 0 or more, a multiple of 1/10,000.

        Raises:
            OutOfCredits: the balance, less the reserved credits, is less than the price.
            RequestIdReused: the id is, or was within the replay window, that of a request with
                another fingerprint.
            LedgerUnavailable: the ledger cannot be read.
        """
        amount = units_of(price)
        looked_at: str | None = None
        while True:
            with self._lock, unavailable_on_failure("read"):
                if self._is_claimed(key, request_id, fingerprint):
                    return InProgress()
                found = self._find(key, request_id) if request_id else None
                if found is None:
                    return Reservation(self, self._reserve(key, request_id, fingerprint, amount))
                if found.fingerprint != fingerprint:
                    raise reused(request_id)
                if found.data is not None and (result := found.result(found.data)) is not None:
                    return Replay(self, result, None)
                if found.file is None or found.file == looked_at:
                    claim = Claim(key.name, request_id, fingerprint, 0, found.charge)
                    self._claims[key.name, request_id] = claim
                    return Replay(self, None, claim)
            # Read without the lock, since a result may be large. Meanwhile it may be dropped, or
            # stored again.
            looked_at = found.file
            data = self._results.read(found.file)
            if data is not None and (result := found.result(data)) is not None:
                return Replay(self, result, None)

    def balance(self, key: Key) -> Decimal | None:
        """Returns the credits that a key has left, reserved ones included; None without a limit.

        The balance is below 0 if the key is granted less than it has spent.
        """
        if key.credits is None:
            return None
        with self._lock:
            return credits_of(units_of(key.credits) - self._spent.get(key.name, 0))

    def charges(self) -> Iterator[Charge]:
        """Yields all charges, in their order."""
        return read_charges(self._path)

    def _is_claimed(self, key: Key, request_id: str, fingerprint: str) -> bool:
        claim = self._claims.get((key.name, request_id))
        if claim is None:
            return False
        if claim.fingerprint != fingerprint:
            raise reused(request_id)
        return True

    def _find(self, key: Key, request_id: str) -> Found | None:
        row = self._database.execute(_FIND, (key.name, request_id)).fetchone()
        if row is None:
            return None
        charge, fingerprint, engine, charged_at, *artifact = row
        if self._clock() - charged_at > self._replay_seconds:
            return None
        return Found(charge, fingerprint, engine, *artifact)

    def _reserve(self, key: Key, request_id: str, fingerprint: str, amount: int) -> Claim:
        reserved = self._reserved.get(key.name, 0)
        if key.credits is not None:
            balance = units_of(key.credits) - self._spent.get(key.name, 0)
            if balance - reserved < amount:
                raise out_of_credits(balance, reserved, amount)
        claim = Claim(key.name, request_id, fingerprint, amount)
        self._reserved[key.name] = reserved + amount
        if request_id:
            self._claims[key.name, request_id] = claim
        return claim

    def _release(self, claim: Claim) -> None:
        with self._lock:
            if claim.open:
                self._end(claim)

    def _end(self, claim: Claim) -> None:
        claim.open = False
        self._claims.pop((claim.key, claim.request_id), None)
        reserved = self._reserved.get(claim.key, 0) - claim.amount
        if reserved:
            self._reserved[claim.key] = reserved
        else:
            self._reserved.pop(claim.key, None)

    def _store(self, claim: Claim, result: StoredResult) -> None:
        """Stores a result, charges it unless it was charged before, and ends the claim."""
        if not claim.open:
            raise ended()
        artifact: Artifact | None = None
        stored = False
        dropped: tuple[str, ...] = ()
        try:
            with unavailable_on_failure("written"):
                if claim.request_id:
                    artifact = self._results.write(result)
                with self._lock:
                    if not claim.open:
                        raise ended()
                    dropped = self._results.make_room(claim.charge, artifact)
                    self._insert(claim, result.engine, artifact)
                    stored = True
                    self._end(claim)
        finally:
            self._release(claim)
            if artifact is not None and artifact.file is not None and not stored:
                dropped += (artifact.file,)
            self._results.delete(dropped)

    def _insert(self, claim: Claim, engine: str, artifact: Artifact | None) -> None:
        """Charges a call, unless it was charged before, and stores its result, both or neither."""
        if claim.charge is None:
            called = claim.key, claim.request_id, claim.fingerprint, engine, claim.amount
            stored = (None,) * 5 if artifact is None else artifact.columns()
            self._database.execute(
                f"INSERT INTO charged_results VALUES ({marks(11)})",
                (*called, *stored, self._clock()),
            )
            self._spent[claim.key] = self._spent.get(claim.key, 0) + claim.amount
            if artifact is not None:
                self._results.count(artifact)
        elif artifact is not None:
            self._results.insert(claim.charge, artifact)
