"""Takes calls from request to result: prices, queues, computes and charges each of them once.

A call goes through these steps, each only if the one before it succeeds:

1. A repeat of a call in progress joins that call (`Calls.join`).
2. The image's header gives the price, and the ledger checks it: a repeat of a charged call gets its
   result here, and a call that cannot be paid ends here.
3. The call waits in the queue, which is bounded. If its last caller leaves, it ends.
4. The networks run. A call that has begun is finished, charged and kept for a repeat, even if no
   caller waits for it any more. Without a request id it could not be repeated, so an abandoned call
   is then not charged.

If this process can compute nothing any more, or start no decoder, all calls end as unavailable and
uncharged, and the server is notified.

Steps 2 to 4 run in a thread, so that the event loop has little work with a call. There are more
threads than the networks use, and a thread that has finished a call takes the next of the queue.
"""

import asyncio
import contextlib
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
from beam_upscale.server.accounts.charges import (
    InProgress,
    LedgerUnavailable,
    OutOfCredits,
    RequestIdReused,
    StoredResult,
)
from beam_upscale.server.accounts.key_file import Key
from beam_upscale.server.accounts.ledger import Ledger, Replay, Reservation
from beam_upscale.server.flights import Flight, Result, Turn, is_unavailable, reused, uncharged
from beam_upscale.server.monitoring.metrics import Metrics
from beam_upscale.server.refusals import RefusedError, exhausted, invalid, unavailable
from beam_upscale.server.requests import Call
from beam_upscale.server.worker import Priced, Worker

# Threads for prices and balances, besides those that upscale: one may wait for a decoder while
# another goes on. More would slow down all threads.
_FRONT_THREADS = 2

# The most bytes of images that all calls in progress hold together.
_MOST_BYTES = 2 * 2**30

# The most bytes of a result; the message has other fields, too. A larger result is not charged.
_MOST_RESULT_BYTES = MAX_MESSAGE_BYTES - 2**16

_RETRY_SECONDS = 1.0
_LONGEST_RETRY_SECONDS = 30.0

# A server that takes this one's place has to load its networks first.
_RESTART_SECONDS = 5.0

# The weight of the last call in the average time of a call.
_WEIGHT_OF_LAST = 0.1

_logger = logging.getLogger(__name__)


class Calls:
    """The calls in progress. Public methods are for one event loop only.

    Args:
        worker: prices and upscales.
        ledger: charges calls and remembers results; None does neither.
        max_queue: the most calls that wait for the worker.
        metrics: counts calls and results.
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
        # The lock guards the attributes that follow.
        self._lock = threading.Lock()
        self._waiting: dict[Flight, Turn] = {}
        self._upscaling = 0
        self._seconds = _RETRY_SECONDS

    def join(self, key: Key, call: Call) -> Flight:
        """Begins a call, or joins the one that it repeats; each `join` needs one `leave`.

        Raises:
            RefusedError: ALREADY_EXISTS, the id is that of another request; RESOURCE_EXHAUSTED.
        """
        flight = self._by_id.get((key.name, call.request_id)) if call.request_id else None
        if flight is None:
            flight = self._begin(key, call)
        elif flight.call.fingerprint != call.fingerprint:
            raise reused(
                f"the request id {call.request_id!r} is that of a request in progress with another "
                "content; another request takes another id"
            )
        else:
            self._metrics.replays.inc()
            flight.callers += 1
        return flight

    def leave(self, flight: Flight) -> None:
        """Removes one caller; a call that has not begun ends with its last caller."""
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
        """Registers a callback that is called once, when this process can do no more calls."""
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
            True if they all ended in time; the others are cancelled for their callers.
        """
        futures = [flight.future for flight in self._flights]
        if not futures:
            return True
        _, late = await asyncio.wait(futures, timeout=seconds)
        for future in late:
            future.cancel()
        return not late

    def close(self) -> None:
        """Accepts no more calls; does not wait for running ones."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _begin(self, key: Key, call: Call) -> Flight:
        size = len(call.image)
        if self._bytes and self._bytes + size > _MOST_BYTES:
            raise self._queue_full(f"requests in progress hold {self._bytes:,} bytes")
        # Count the first caller before a thread sees the call, or it could seem abandoned.
        flight = Flight(key, call, self._loop.create_future(), callers=1)
        self._bytes += size
        self._flights.add(flight)
        if call.request_id:
            self._by_id[key.name, call.request_id] = flight
        self._executor.submit(self._run, flight)
        return flight

    def _settle(self, flight: Flight, outcome: Result | Exception | None) -> None:
        """Ends a call with its outcome; None if no caller waits for it."""
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
                # Retrieve it here, since there may be no caller to do so.
                flight.future.exception()
            case _:
                flight.future.set_result(outcome)

    def _run(self, flight: Flight) -> None:
        """Processes a call until it ends or must wait, and then waiting calls; runs in a thread."""
        try:
            turn = self._price(flight)
        except Exception as error:
            self._end(flight, error)
            return
        while turn is not None:
            self._compute(turn)
            turn = self._next()

    def _price(self, flight: Flight) -> Turn | None:
        """Reserves the price of a call; returns its turn, or None if it has to wait or has ended.

        Raises:
            RefusedError: the call is refused.
        """
        call = flight.call
        priced = self._worker.price(call)
        held = self._hold(flight, priced)
        if isinstance(held, Replay) and held.result is not None:
            self._metrics.replays.inc()
            self._end(flight, Result(held.result, Decimal(0), None))
            return None
        turn = Turn(flight, priced, held)
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
            raise uncharged(exhausted(Reason.OUT_OF_CREDITS, str(error), None)) from None
        except RequestIdReused as error:
            raise reused(str(error)) from None
        except LedgerUnavailable as error:
            raise unavailable(str(error), _RETRY_SECONDS) from None
        if isinstance(held, InProgress):
            # The call that this one repeats is ending.
            raise unavailable("the same request is in progress", _RETRY_SECONDS)
        return held

    def _enqueue(self, turn: Turn) -> Turn | None:
        """Returns the turn if it is now; None if it has to wait, or no caller waits for it.

        Raises:
            RefusedError: too many calls wait.
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

    def _next(self) -> Turn | None:
        """Returns the turn of the call that has waited longest; None if none waits."""
        with self._lock:
            flight = next(iter(self._waiting), None)
            if flight is None:
                self._upscaling -= 1
                return None
            self._metrics.queued.set(len(self._waiting) - 1)
            return self._waiting.pop(flight)

    def _compute(self, turn: Turn) -> None:
        started = time.monotonic()
        outcome: Result | Exception
        try:
            outcome = self._upscale(turn)
        except BrokenProcessError as error:
            outcome = error
        except Exception as error:
            outcome = self._refusal(error)
            if isinstance(turn.held, Reservation) and not is_unavailable(outcome):
                outcome = uncharged(outcome)
        else:
            outcome = self._counted(turn.flight, outcome)
        finally:
            turn.give_up()
        seconds = time.monotonic() - started
        with self._lock:
            self._seconds += _WEIGHT_OF_LAST * (seconds - self._seconds)
        self._end(turn.flight, outcome)

    def _upscale(self, turn: Turn) -> Result:
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

    def _charge(self, turn: Turn, stored: StoredResult) -> Decimal:
        """Charges and remembers a result; returns the credits charged.

        Raises:
            RefusedError: the ledger could not charge it.
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
            # It was charged before, so its result is sent even if it cannot be kept.
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
        """Passes the outcome of a call to the event loop."""
        if isinstance(outcome, BrokenProcessError):
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._break, outcome)
            message = f"the server cannot go on ({outcome.code}) and ends; nothing was charged"
            outcome = unavailable(message, _RESTART_SECONDS)
        if isinstance(outcome, Exception):
            outcome = self._refusal(outcome)
        # The loop may have ended: then no caller waits.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._settle, flight, outcome)

    def _refusal(self, error: Exception) -> RefusedError:
        if isinstance(error, RefusedError):
            return error
        # The trace is for the log; it is of no use to callers.
        _logger.error("A call failed.", exc_info=error)
        return RefusedError(Refusal(grpc.StatusCode.INTERNAL, "the server failed"))

    def _queue_full(self, message: str) -> RefusedError:
        seconds = self._seconds * (len(self._waiting) + 1) / self._worker.threads
        return exhausted(Reason.QUEUE_FULL, message, min(_LONGEST_RETRY_SECONDS, max(0.1, seconds)))
