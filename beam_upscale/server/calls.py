"""From a call to its result: charged once, computed once, and in its turn.

What a call goes through, each step only where the one before it lets it:

1. Repeats of a call in progress join it (`Calls.join`).
2. The image's header tells the price, and the ledger is asked: a repeat of a charged call has its
   result here, one that cannot be paid ends here.
3. The queue, which is bounded and which callers that go away leave.
4. The networks. What has begun is finished, charged and kept for a repeat, also when nobody waits
   for it any more; without a request id nobody could repeat it, and it is not charged.

Once nothing can be computed in this process any more, or no decoder be started, all calls end as
unavailable and uncharged, and the server is told.

Steps 2 to 4 are a thread's, so that the event loop has little to do with a call: some threads are
left over from the networks, and whichever has finished a call takes the next of the queue.
"""

import asyncio
import contextlib
import dataclasses
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import grpc

from beam_upscale.errors import BrokenProcessError
from beam_upscale.grpc_api.contract import MAX_MESSAGE_BYTES
from beam_upscale.grpc_api.status import Reason, Refusal
from beam_upscale.server.keys import Key
from beam_upscale.server.ledger import (
    InProgress,
    Ledger,
    LedgerUnavailable,
    OutOfCredits,
    Replay,
    RequestIdReused,
    Reservation,
    StoredResult,
)
from beam_upscale.server.metrics import Metrics
from beam_upscale.server.refusals import RefusedError, exhausted, invalid, unavailable
from beam_upscale.server.requests import Call
from beam_upscale.server.worker import Priced, Upscaled, Worker

# Threads beside those that upscale, for prices and balances: one may wait for a decoder while
# another goes on. More cost all threads a part of their time.
_FRONT_THREADS = 2

# Bytes of images that calls in progress hold together.
_MOST_BYTES = 2 * 2**30

# Bytes of a result: an answer has some beside it, and what cannot be sent is not charged.
_MOST_RESULT_BYTES = MAX_MESSAGE_BYTES - 2**16

_RETRY_SECONDS = 1.0
_LONGEST_RETRY_SECONDS = 30.0

# A server that takes this one's place has to load its networks first.
_RESTART_SECONDS = 5.0

# How much the last call counts in the average time of one.
_WEIGHT_OF_LAST = 0.1

_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Result:
    """What a call is answered with.

    Attributes:
        stored: the artifact.
        credits: what was charged for it now.
        upscaled: what the networks made; None for a repeat that needed none.
        queue_seconds: its wait for the networks, in the queue and for their batches.
    """

    stored: StoredResult
    credits: Decimal
    upscaled: Upscaled | None
    queue_seconds: float = 0.0


@dataclasses.dataclass(eq=False)
class Flight:
    """A call in progress, and how many wait for it.

    Attributes:
        key: whose call it is.
        call: what is asked for.
        future: gives its `Result`, or a `RefusedError`; cancelled where nobody waited any more, or
            the server could not.
        callers: that wait; repeats join the first.
    """

    key: Key
    call: Call
    future: "asyncio.Future[Result]"
    callers: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class _Turn:
    """A call that is to be computed, and since when."""

    flight: Flight
    priced: Priced
    held: Reservation | Replay | None
    since: float = dataclasses.field(default_factory=time.monotonic)

    def give_up(self) -> None:
        """Nothing is charged."""
        if self.held is not None:
            self.held.release()


class Calls:
    """Calls in progress. Its public methods belong to one event loop.

    Args:
        worker: what prices and upscales.
        ledger: what charges and remembers; None does neither.
        max_queue: calls that wait for the worker at most.
        metrics: what counts.
    """

    def __init__(
        self, worker: Worker, ledger: Ledger | None, max_queue: int, metrics: Metrics
    ) -> None:
        self._worker = worker
        self._ledger = ledger
        self._max_queue = max_queue
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._executor = ThreadPoolExecutor(worker.threads + _FRONT_THREADS, "call")
        self._by_id: dict[tuple[str, str], Flight] = {}
        self._flights: set[Flight] = set()
        self._bytes = 0
        self._broken: BrokenProcessError | None = None
        self._when_broken: list[Callable[[BrokenProcessError], None]] = []
        # What follows belongs to whoever has the lock.
        self._lock = threading.Lock()
        self._waiting: dict[Flight, _Turn] = {}
        self._upscaling = 0
        self._seconds = _RETRY_SECONDS

    def join(self, key: Key, call: Call) -> Flight:
        """Begins a call, or joins the one that it repeats; `leave` is due for each.

        Raises:
            RefusedError: ALREADY_EXISTS, the id is that of another request; RESOURCE_EXHAUSTED.
        """
        flight = self._by_id.get((key.name, call.request_id)) if call.request_id else None
        if flight is None:
            flight = self._begin(key, call)
        elif flight.call.fingerprint != call.fingerprint:
            raise _reused(
                f"the request id {call.request_id!r} is that of a request in progress with another "
                "content; another request takes another id"
            )
        else:
            self._metrics.replays.inc()
            flight.callers += 1
        return flight

    def leave(self, flight: Flight) -> None:
        """One caller less waits; the last one takes a call with it that has not begun."""
        flight.callers -= 1
        if flight.callers or flight.future.done():
            return
        with self._lock:
            turn = self._waiting.pop(flight, None)
            self._metrics.queued.set(len(self._waiting))
        if turn is not None:
            turn.give_up()
            self._settle(flight, None)

    def when_broken(self, act: Callable[[BrokenProcessError], None]) -> None:
        """Has this called, once, where this process turns out to be able to do no call any more."""
        self._when_broken.append(act)
        if self._broken is not None:
            act(self._broken)

    def _break(self, error: BrokenProcessError) -> None:
        if self._broken is None:
            self._broken = error
            for act in self._when_broken:
                act(error)

    async def finish(self, seconds: float) -> bool:
        """Waits for all calls in progress.

        Returns:
            Whether they ended in time; the others have ended for their callers.
        """
        futures = [flight.future for flight in self._flights]
        if not futures:
            return True
        _, late = await asyncio.wait(futures, timeout=seconds)
        for future in late:
            future.cancel()
        return not late

    def close(self) -> None:
        """Takes no more calls; what runs is not waited for."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _begin(self, key: Key, call: Call) -> Flight:
        size = len(call.image)
        if self._bytes and self._bytes + size > _MOST_BYTES:
            raise self._queue_full(f"requests in progress hold {self._bytes:,} bytes")
        # Its first caller is counted before a thread sees it, or it could pass for abandoned.
        flight = Flight(key, call, self._loop.create_future(), callers=1)
        self._bytes += size
        self._flights.add(flight)
        if call.request_id:
            self._by_id[key.name, call.request_id] = flight
        self._executor.submit(self._run, flight)
        return flight

    def _settle(self, flight: Flight, outcome: Result | Exception | None) -> None:
        """Ends a call; None for one that nobody waits for."""
        if flight not in self._flights:
            return
        self._flights.discard(flight)
        self._bytes -= len(flight.call.image)
        name = flight.key.name, flight.call.request_id
        if self._by_id.get(name) is flight:
            del self._by_id[name]
        if flight.future.done():
            return
        match outcome:
            case None:
                self._metrics.abandoned.inc()
                flight.future.cancel()
            case Exception():
                flight.future.set_exception(outcome)
                # Looked at here, as there may be nobody else to do so.
                flight.future.exception()
            case _:
                flight.future.set_result(outcome)

    def _run(self, flight: Flight) -> None:
        """Takes a call as far as it comes, and then those that wait; in a thread."""
        try:
            turn = self._price(flight)
        except Exception as error:
            self._end(flight, error)
            return
        while turn is not None:
            self._compute(turn)
            turn = self._next()

    def _price(self, flight: Flight) -> _Turn | None:
        """Reserves what a call costs; its turn where it need not wait for it.

        Raises:
            RefusedError: it has no turn.
        """
        call = flight.call
        priced = self._worker.price(call)
        held = self._hold(flight, priced)
        if isinstance(held, Replay) and held.result is not None:
            self._metrics.replays.inc()
            self._end(flight, Result(held.result, Decimal(0), None))
            return None
        turn = _Turn(flight, priced, held)
        try:
            return self._enqueue(turn)
        except RefusedError:
            turn.give_up()
            raise

    def _hold(self, flight: Flight, priced: Priced) -> Reservation | Replay | None:
        if self._ledger is None:
            return None
        call = flight.call
        try:
            held = self._ledger.begin(flight.key, call.request_id, call.fingerprint, priced.credits)
        except OutOfCredits as error:
            raise _uncharged(exhausted(Reason.OUT_OF_CREDITS, str(error), None)) from None
        except RequestIdReused as error:
            raise _reused(str(error)) from None
        except LedgerUnavailable as error:
            raise unavailable(str(error), _RETRY_SECONDS) from None
        if isinstance(held, InProgress):
            # The call that this one repeats is ending.
            raise unavailable("the same request is in progress", _RETRY_SECONDS)
        return held

    def _enqueue(self, turn: _Turn) -> _Turn | None:
        """The turn where it is now; None where it waits, or nobody waits for it.

        Raises:
            RefusedError: too many wait.
        """
        with self._lock:
            is_awaited = turn.flight.callers > 0
            if is_awaited and self._upscaling < self._worker.threads:
                self._upscaling += 1
                return turn
            if is_awaited and len(self._waiting) >= self._max_queue:
                raise self._queue_full(f"{len(self._waiting):,} calls wait for the device")
            if is_awaited:
                self._waiting[turn.flight] = turn
                self._metrics.queued.set(len(self._waiting))
                return None
        turn.give_up()
        self._end(turn.flight, None)
        return None

    def _next(self) -> _Turn | None:
        """The turn of the call that has waited longest."""
        with self._lock:
            flight = next(iter(self._waiting), None)
            if flight is None:
                self._upscaling -= 1
                return None
            self._metrics.queued.set(len(self._waiting) - 1)
            return self._waiting.pop(flight)

    def _compute(self, turn: _Turn) -> None:
        started = time.monotonic()
        outcome: Result | Exception
        try:
            outcome = self._upscale(turn)
        except BrokenProcessError as error:
            outcome = error
        except Exception as error:
            outcome = self._refusal(error)
            if isinstance(turn.held, Reservation) and not _is_unavailable(outcome):
                outcome = _uncharged(outcome)
        else:
            outcome = self._counted(turn.flight, outcome)
        finally:
            turn.give_up()
        seconds = time.monotonic() - started
        with self._lock:
            self._seconds += _WEIGHT_OF_LAST * (seconds - self._seconds)
        self._end(turn.flight, outcome)

    def _upscale(self, turn: _Turn) -> Result:
        call = turn.flight.call
        waited = time.monotonic() - turn.since
        upscaled = self._worker.upscale(turn.priced)
        if len(upscaled.data) > _MOST_RESULT_BYTES:
            raise invalid(
                f"the result has {len(upscaled.data):,} bytes, most of them the metadata of the "
                f"image; at most {_MOST_RESULT_BYTES:,} can be sent"
            )
        stored = StoredResult(
            data=upscaled.data,
            seed=upscaled.row.seed or call.seed,
            engine="+".join(call.engines),
        )
        queued = waited + upscaled.telemetry.queue_seconds
        return Result(stored, self._charge(turn, stored), upscaled, queued)

    def _charge(self, turn: _Turn, stored: StoredResult) -> Decimal:
        """Charges a result and remembers it; what was charged.

        Raises:
            RefusedError: neither could be done.
        """
        try:
            match turn.held:
                case Reservation() if turn.flight.call.request_id or turn.flight.callers:
                    turn.held.commit(stored)
                    return turn.priced.credits
                case Replay():
                    turn.held.restore(stored)
        except LedgerUnavailable as error:
            if isinstance(turn.held, Reservation):
                raise unavailable(str(error), _RETRY_SECONDS) from None
            # It was charged before, and here it is.
        return Decimal(0)

    def _counted(self, flight: Flight, result: Result) -> Result | Exception:
        try:
            self._count(flight, result)
        except Exception as error:
            return error
        return result

    def _count(self, flight: Flight, result: Result) -> None:
        assert result.upscaled is not None
        metrics, row, telemetry = self._metrics, result.upscaled.row, result.upscaled.telemetry
        engine = "+".join(flight.call.engines)
        metrics.images.labels(engine).inc()
        metrics.input_pixels.labels(engine).inc((row.input_width or 0) * (row.input_height or 0))
        metrics.queue_seconds.labels(engine).observe(result.queue_seconds)
        metrics.device_seconds.labels(engine).observe(telemetry.device_seconds)
        metrics.batch_size.labels(engine).observe(telemetry.batch_size)
        metrics.result_bytes.inc(len(result.stored.data))
        metrics.credits.labels(flight.key.name, engine).inc(float(result.credits))
        if not flight.callers:
            _logger.info(
                "A call was finished whose caller had gone.",
                extra={
                    "key": flight.key.name,
                    "request_id": flight.call.request_id,
                    "engine": engine,
                    "credits": f"{result.credits:f}",
                },
            )

    def _end(self, flight: Flight, outcome: Result | Exception | None) -> None:
        """Tells the event loop."""
        if isinstance(outcome, BrokenProcessError):
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._break, outcome)
            message = f"the server cannot go on ({outcome.code}) and ends; nothing was charged"
            outcome = unavailable(message, _RESTART_SECONDS)
        if isinstance(outcome, Exception):
            outcome = self._refusal(outcome)
        # The loop may have ended: then nobody waits.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._settle, flight, outcome)

    def _refusal(self, error: Exception) -> RefusedError:
        if isinstance(error, RefusedError):
            return error
        # The trace is for the log; to callers it tells nothing.
        _logger.error("A call failed.", exc_info=error)
        return RefusedError(Refusal(grpc.StatusCode.INTERNAL, "the server failed"))

    def _queue_full(self, message: str) -> RefusedError:
        seconds = self._seconds * (len(self._waiting) + 1) / self._worker.threads
        return exhausted(Reason.QUEUE_FULL, message, min(_LONGEST_RETRY_SECONDS, max(0.1, seconds)))


def _is_unavailable(error: RefusedError) -> bool:
    """Whether a call failed so that what became of its charge may not be known."""
    return error.refusal.code is grpc.StatusCode.UNAVAILABLE


def _uncharged(error: RefusedError) -> RefusedError:
    """The same refusal, which says too that its request id was not charged."""
    return RefusedError(dataclasses.replace(error.refusal, charged=Decimal(0)))


def _reused(message: str) -> RefusedError:
    return RefusedError(Refusal(grpc.StatusCode.ALREADY_EXISTS, message, Reason.REQUEST_ID_REUSED))
