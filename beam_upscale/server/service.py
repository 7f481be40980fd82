"""The API's methods over grpc.aio.

All methods are registered as streams of bytes; clients of unary methods notice no difference. So
the key is checked before a byte of the request is read, and a request that does not arrive in time
ends the call.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from decimal import Decimal
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from beam_upscale.grpc_api import contract
from beam_upscale.grpc_api.status import Reason, Refusal
from beam_upscale.grpc_api.stubs import dashboard_pb2 as dashboard
from beam_upscale.grpc_api.stubs import engines_pb2 as engines
from beam_upscale.server import health
from beam_upscale.server.account_methods import AccountMethods
from beam_upscale.server.accounts.key_file import Key
from beam_upscale.server.accounts.ledger import Ledger
from beam_upscale.server.admission import Admission, Caller, address
from beam_upscale.server.answers import (
    LogEntry,
    abort,
    answer_to,
    answer_with,
    metadata_of,
    note_result,
    parse,
    require_small,
)
from beam_upscale.server.calls import Calls
from beam_upscale.server.health import Health
from beam_upscale.server.monitoring.metrics import Metrics
from beam_upscale.server.reflection import PATHS as REFLECTION_PATHS
from beam_upscale.server.reflection import Reflection
from beam_upscale.server.refusals import RefusedError, invalid, unavailable
from beam_upscale.server.requests import Call, decode_chain, decode_request

SERVICES = ("gooseai.GenerationService", "gooseai.EnginesService", "gooseai.DashboardService")
"""The names of the API's services."""

# The most calls at a time of one address to methods that need no key, or of one caller to small
# methods.
_OPEN_PLACES = 32
_SMALL_SECONDS = 5.0

# Larger requests are parsed in a thread, as they would delay other calls.
_MOST_BYTES_AT_ONCE = 2**20

_RETRY_SECONDS = 1.0
# A draining server waits until no call has arrived for this time, up to the second number.
_ARRIVING_SECONDS = 0.1
_MOST_ARRIVING_SECONDS = 2.0

# The time that gRPC may take to end a call whose message it rejects.
_REFUSAL_SECONDS = 1.0

_logger = logging.getLogger(__name__)

_Decode = Callable[[bytes, Any], Call]
_Exchange = Callable[[Any, "LogEntry"], Awaitable[None]]


class Service:
    """The service that answers calls. All methods must run in one event loop.

    Args:
        admission: identifies callers and limits their calls.
        calls: computes the results of calls.
        ledger: the ledger for balances; None if nothing is charged.
        served: the names of the engines that are served.
        metrics: the server's metrics.
        request_timeout_seconds: the longest time in which a request must arrive.
        keep_alive_seconds: the time between two keep-alive answers to a waiting caller.

    """

    def __init__(
        self,
        admission: Admission,
        calls: Calls,
        ledger: Ledger | None,
        served: tuple[str, ...],
        metrics: Metrics,
        *,
        request_timeout_seconds: float,
        keep_alive_seconds: float,
    ) -> None:
        self._draining = asyncio.Event()
        self._answering: set[asyncio.Task[Any]] = set()
        self._taken = 0
        self._admission = admission
        self._calls = calls
        self._ledger = ledger
        self._served = served
        self._accounts = AccountMethods(ledger, served, self._draining.is_set)
        self._health = Health(SERVICES, self._draining)
        self._metrics = metrics
        self._timeout = request_timeout_seconds
        self._keep_alive = keep_alive_seconds
        self._reflection = Reflection((*SERVICES, health.NAME))
        calls.when_broken(lambda _: self.drain())

    def drain(self) -> None:
        """Reports all services as not serving, and begins no more calls."""
        self._draining.set()

    async def finish(self, seconds: float) -> bool:
        """Waits for all calls in progress, and until their answers are sent.

        Returns:
            True if all were computed in time; the others have ended for their callers.
        """
        until = time.monotonic() + seconds
        finished = await self._calls.finish(seconds)
        if self._answering:
            left = max(0.0, until - time.monotonic())
            await asyncio.wait(self._answering.copy(), timeout=left)
        await self._refuse_arrived(until)
        return finished

    async def _refuse_arrived(self, until: float) -> None:
        """Waits until no calls arrive for a moment, or until the time is over.

        A stopping gRPC server cancels calls that have arrived and are not accepted yet. Their
        callers would not learn that nothing was begun.
        """
        until = min(until, time.monotonic() + _MOST_ARRIVING_SECONDS)
        before = -1
        while self._taken != before and time.monotonic() < until:
            before = self._taken
            await asyncio.sleep(_ARRIVING_SECONDS)

    def handlers(self) -> Mapping[str, Any]:
        """Returns the handlers of all methods, by their paths."""
        methods: dict[str, tuple[str, _Exchange]] = {
            contract.GENERATE: ("Generate", self._upscaling(decode_request)),
            contract.CHAIN_GENERATE: ("ChainGenerate", self._upscaling(decode_chain)),
            contract.LIST_ENGINES: (
                "ListEngines",
                self._unary(
                    engines.ListEnginesRequest, self._accounts.list_engines, self._ledger_metadata
                ),
            ),
            contract.GET_ME: ("GetMe", self._unary(dashboard.EmptyRequest, self._accounts.get_me)),
            contract.GET_ORGANIZATION: (
                "GetOrganization",
                self._unary(dashboard.GetOrganizationRequest, self._accounts.get_organization),
            ),
            f"/{health.NAME}/Check": ("Check", self._open(self._check)),
            f"/{health.NAME}/Watch": ("Watch", self._open(self._watch)),
            **dict.fromkeys(REFLECTION_PATHS, ("ServerReflectionInfo", self._open(self._reflect))),
        }
        return {
            path: self._guarded(method, exchange) for path, (method, exchange) in methods.items()
        }

    def _guarded(self, method: str, exchange: _Exchange) -> Any:
        """Wraps a method, so that every call gets a status, a log entry and its metrics."""

        async def handle(_: Any, context: Any) -> None:
            entry = LogEntry(method)
            self._taken += 1
            self._metrics.in_flight.inc()
            try:
                await exchange(context, entry)
            except RefusedError as error:
                entry.code = error.refusal.code.name
                self._count_refusal(error.refusal, entry)
                await abort(context, error.refusal)
            except (asyncio.CancelledError, grpc.aio.InternalError):
                # The caller has gone, or gRPC itself has rejected its message.
                entry.code = grpc.StatusCode.CANCELLED.name
                raise
            except Exception:
                # The traceback goes to the log only, not to the caller.
                _logger.exception("%s failed.", method)
                entry.code = grpc.StatusCode.INTERNAL.name
                await abort(context, Refusal(grpc.StatusCode.INTERNAL, "the server failed"))
            finally:
                self._end(entry)

        return grpc.stream_stream_rpc_method_handler(handle)

    def _count_refusal(self, refusal: Refusal, entry: LogEntry) -> None:
        if refusal.error_code is None:
            entry.fields["error"] = refusal.message
        else:
            # The message may hold bytes of the image.
            entry.fields["error_code"] = refusal.error_code
        if refusal.reason is not None:
            self._metrics.refusals.labels(refusal.reason).inc()
            entry.fields["reason"] = str(refusal.reason)

    def _end(self, entry: LogEntry) -> None:
        seconds = time.monotonic() - entry.started
        self._metrics.calls.labels(entry.method, entry.code).inc()
        self._metrics.call_seconds.labels(entry.method).observe(seconds)
        self._metrics.in_flight.dec()
        if entry.fields or entry.code != grpc.StatusCode.OK.name:
            fields = {"method": entry.method, "code": entry.code, **entry.fields}
            _logger.info("call", extra={**fields, "seconds": round(seconds, 6)})

    def _identify(self, context: Any, entry: LogEntry) -> Caller:
        caller = self._admission.identify(metadata_of(context), context.peer())
        entry.fields["key"] = caller.key.name
        return caller

    def _upscaling(self, decode: _Decode) -> _Exchange:
        async def exchange(context: Any, entry: LogEntry) -> None:
            self._require_not_draining()
            caller = self._identify(context, entry)
            self._require_expected_ledger(context, caller.key)
            with self._admission.permit(caller):
                data = await self._read(context)
                self._metrics.request_bytes.inc(len(data))
                entry.fields["request_bytes"] = len(data)
                if len(data) > _MOST_BYTES_AT_ONCE:
                    call = await asyncio.to_thread(decode, data, self._served)
                else:
                    call = decode(data, self._served)
                del data
                entry.fields |= {
                    "request_id": call.request_id,
                    "engine": "+".join(call.engines),
                    "image_bytes": len(call.image),
                }
                # Checked again, as draining may have begun while the request arrived.
                self._require_not_draining()
                with self._being_answered():
                    await self._answer(context, entry, caller.key, call)

        return exchange

    def _ledger_metadata(self, key: Key) -> tuple[tuple[str, str], ...]:
        """Returns metadata with the caller's ledger, and the seconds in which a repeat is free."""
        if self._ledger is None:
            return ()
        return (
            (contract.LEDGER, self._ledger.id_for(key)),
            (contract.REPLAY_SECONDS, f"{self._ledger.replay_seconds:g}"),
        )

    def _require_expected_ledger(self, context: Any, key: Key) -> None:
        """Rejects a call, before it costs anything, that may repeat a call of another ledger.

        Raises:
            RefusedError: FAILED_PRECONDITION.
        """
        expected = metadata_of(context).get(contract.LEDGER)
        if expected is None or (self._ledger and self._ledger.id_for(key) == expected):
            return
        raise RefusedError(
            Refusal(
                grpc.StatusCode.FAILED_PRECONDITION,
                "this server has another ledger than the one that the caller was told of, or the "
                "caller has another key; nothing was charged",
                Reason.OTHER_LEDGER,
            )
        )

    @contextlib.contextmanager
    def _being_answered(self) -> Iterator[None]:
        """Makes `finish` wait for this task within this context."""
        task = asyncio.current_task()
        assert task is not None
        self._answering.add(task)
        try:
            yield
        finally:
            self._answering.discard(task)

    def _require_not_draining(self) -> None:
        if self._draining.is_set():
            raise unavailable("the server is about to stop", _RETRY_SECONDS)

    async def _answer(self, context: Any, entry: LogEntry, key: Key, call: Call) -> None:
        flight = self._calls.join(key, call)
        try:
            while True:
                done, _ = await asyncio.wait({flight.future}, timeout=self._keep_alive)
                if done:
                    break
                await context.write(answer_to(call, entry).SerializeToString())
        finally:
            self._calls.leave(flight)
        if flight.future.cancelled():
            raise unavailable("the server stopped before the call was done", _RETRY_SECONDS)
        result = flight.future.result()
        # A call that joined another one was not computed and charged itself.
        joined = flight.call is not call
        note_result(result, entry, joined)
        if self._ledger is not None:
            charged = Decimal(0) if joined else result.credits
            context.set_trailing_metadata(((contract.CHARGED, f"{charged:f}"),))
        await context.write(answer_with(result, call, entry))

    async def _read_small(self, context: Any) -> bytes:
        """Reads the message as `_read` does; INVALID_ARGUMENT also if it is too large."""
        async with self._in_time(min(_SMALL_SECONDS, self._timeout)):
            return require_small(await self._read(context))

    async def _read(self, context: Any) -> bytes:
        """Reads the one message of a call.

        Raises:
            RefusedError: DEADLINE_EXCEEDED, it does not arrive in time; INVALID_ARGUMENT, there is
                no message, or a second one.
        """
        async with self._in_time(self._timeout):
            data: bytes = await context.read()
            if data is grpc.aio.EOF:
                # Perhaps gRPC has rejected a message as too large. Then it is about to end this
                # call with its own status, which ours must not overtake.
                await asyncio.sleep(_REFUSAL_SECONDS)
                raise invalid("the call ended without a request")
            if await context.read() is not grpc.aio.EOF:
                raise invalid("the call has several requests; it has one")
        return data

    @contextlib.asynccontextmanager
    async def _in_time(self, seconds: float) -> AsyncIterator[None]:
        """Raises DEADLINE_EXCEEDED if the caller's message does not arrive within this context."""
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError:
            raise RefusedError(
                Refusal(
                    grpc.StatusCode.DEADLINE_EXCEEDED,
                    f"the request did not arrive within {seconds:g} seconds",
                    Reason.REQUEST_TOO_SLOW,
                )
            ) from None

    def _unary(
        self,
        kind: Any,
        answer: Callable[[Any, Key], Awaitable[Any]],
        metadata: Callable[[Key], tuple[tuple[str, str], ...]] = lambda _: (),
    ) -> _Exchange:
        async def exchange(context: Any, entry: LogEntry) -> None:
            caller = self._identify(context, entry)
            with self._admission.place(f"open {caller.counted_as}", _OPEN_PLACES):
                request = parse(kind, await self._read_small(context))
                context.set_trailing_metadata(metadata(caller.key))
                await context.write((await answer(request, caller.key)).SerializeToString())

        return exchange

    def _open(self, answer: Callable[[Any], Awaitable[None]]) -> _Exchange:
        """Wraps a method that needs no key, as its callers have none."""

        async def exchange(context: Any, _: LogEntry) -> None:
            counted_as = f"open {address(metadata_of(context), context.peer())}"
            with self._admission.place(counted_as, _OPEN_PLACES):
                await answer(context)

        return exchange

    async def _check(self, context: Any) -> None:
        await context.write(self._health.check(await self._read_small(context)))

    async def _watch(self, context: Any) -> None:
        async for answer in self._health.watch(await self._read_small(context)):
            await context.write(answer)

    async def _reflect(self, context: Any) -> None:
        async def requests() -> AsyncIterator[bytes]:
            while True:
                async with self._in_time(min(_SMALL_SECONDS, self._timeout)):
                    data = await context.read()
                if data is grpc.aio.EOF:
                    return
                yield require_small(data)

        try:
            async for answer in self._reflection.answers(requests()):
                await context.write(answer)
        except DecodeError:
            raise invalid("the bytes are not a message of this method") from None
