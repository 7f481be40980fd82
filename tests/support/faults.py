"""What goes wrong between a client and a server: a wire that breaks, and a server that fails.

The server is `beam-upscale serve` itself, in a process of its own, with an interceptor before its
calls. What goes wrong is drawn from seeds; nothing changes a byte that arrives.
"""

import asyncio
import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import os
import random
import re
import signal
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from runs import RECORD, after_each, command_elsewhere

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.grpc_api import contract
from beam_upscale.grpc_api.status import Refusal
from beam_upscale.grpc_api.stubs import generation_pb2 as generation
from beam_upscale.inference.remote import calls
from beam_upscale.server import listening
from beam_upscale.server.accounts.charges import Charge
from beam_upscale.server.accounts.keys import add_key, credit_key
from beam_upscale.server.accounts.ledger_file import read_charges
from beam_upscale.server.aio_server import AioServer

# Longer than any of this takes; what is not there by then never will be.
_PATIENCE = 120

# A call to a server that has little to do takes less.
_SECONDS_OF_CALL = 0.5

_FLIGHTS = "flights.jsonl"

_CHUNK_BYTES = 16 * 1024

# Within these a client has learned which engines there are.
_WHOLE_BYTES = 2 * 1024


@dataclasses.dataclass(frozen=True)
class WireFaults:
    """How a wire breaks.

    Attributes:
        seed: of what is drawn.
        bytes_to_cut: a connection is cut once it has carried about this many, both ways together.
        stalls: one in so many connections stands still once before that, the first among them.
        stall_seconds: for how long they do.
    """

    seed: int
    bytes_to_cut: int
    stalls: int
    stall_seconds: float


class BrokenWire:
    """A TCP proxy to a port of this machine, in a thread of its own.

    Attributes:
        port: where it listens, on the loopback interface.
        connections: that were made through it.
        cuts: of them in the middle of what they carried.
        stalls: times that one stood still.
        bytes: that arrived.
    """

    def __init__(self, to_port: int, faults: WireFaults) -> None:
        self.connections = self.cuts = self.stalls = self.bytes = 0
        self._to_port = to_port
        self._faults = faults
        self._relays: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(
            asyncio.start_server(self._connected, "127.0.0.1", 0)
        )
        self.port: int = self._server.sockets[0].getsockname()[1]
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def close(self) -> None:
        """Ends it and what goes through it."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        for relay in self._relays:
            relay.cancel()
        await asyncio.gather(*self._relays, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        relay = self._loop.create_task(self._relay(reader, writer))
        self._relays.add(relay)
        relay.add_done_callback(self._relays.discard)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(self, self._faults, self.connections)
        self.connections += 1
        writers = [writer]
        try:
            to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self._to_port)
            writers.append(to_writer)
            async with asyncio.TaskGroup() as both_ways:
                both_ways.create_task(connection.pump(reader, to_writer))
                both_ways.create_task(connection.pump(to_reader, writer))
        except* OSError:  # One of the ends went away, or this one was cut.
            pass
        finally:
            for each in writers:
                if connection.is_reset:
                    _reset_when_closed(each)
                each.transport.abort()


class _Connection:
    """What one connection has carried, and what is in store for it."""

    def __init__(self, wire: BrokenWire, faults: WireFaults, number: int) -> None:
        draw = random.Random(f"{faults.seed}/{number}")
        self._wire = wire
        self._stall_seconds = faults.stall_seconds
        self._cut_at = _WHOLE_BYTES + round(draw.expovariate(1 / faults.bytes_to_cut))
        stall_at = draw.uniform(_WHOLE_BYTES, self._cut_at)
        self._stall_at = math.inf if number % faults.stalls else stall_at
        self._carried = 0
        self._turn = asyncio.Lock()
        self.is_reset = draw.random() < 0.5

    async def pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carries one way, until that ends or the connection is cut."""
        while data := await reader.read(_CHUNK_BYTES):
            async with self._turn:
                await self._stall_if_due(len(data))
                whole = data[: self._cut_at - self._carried]
                self._carried += len(whole)
                self._wire.bytes += len(whole)
                writer.write(whole)
            await writer.drain()
            if len(whole) < len(data):
                self._wire.cuts += 1
                raise ConnectionAbortedError
        writer.write_eof()

    async def _stall_if_due(self, coming: int) -> None:
        """The other way waits too: it has no turn meanwhile."""
        if self._carried + coming <= self._stall_at:
            return
        self._stall_at = math.inf
        self._wire.stalls += 1
        await asyncio.sleep(self._stall_seconds)


def _reset_when_closed(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):  # It is closed already.
        raw = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@contextlib.contextmanager
def broken_wire(to_port: int, faults: WireFaults) -> Iterator[BrokenWire]:
    """A wire for a while."""
    with contextlib.closing(BrokenWire(to_port, faults)) as wire:
        yield wire


class Fault(StrEnum):
    """What a server makes of an attempt."""

    NONE = "none"
    UNAVAILABLE_BEFORE = "unavailable before anything is done"
    UNAVAILABLE_AFTER = "unavailable after the charge"
    TWICE = "the same answer twice"
    EMPTY_FIRST = "answers without artifacts before the result"
    ERROR = "finish_reason ERROR in place of the result"
    EXHAUSTED = "resource exhausted"


# A client gives up on what is broken rather than busy after four attempts.
_MOST_ERRORS = 2

SHARES: Mapping[Fault, float] = {
    Fault.UNAVAILABLE_BEFORE: 0.15,
    Fault.UNAVAILABLE_AFTER: 0.15,
    Fault.TWICE: 0.1,
    Fault.EMPTY_FIRST: 0.1,
    Fault.ERROR: 0.02,
}


@dataclasses.dataclass(frozen=True)
class ServerFaults:
    """How a server fails.

    Attributes:
        seed: of what is drawn, with each attempt's image and number.
        shares: of the attempts that meet with each fault; they add up to at most 1.
        calm: attempts from the end of a burst to the next.
        burst: attempts that are refused in a row with RESOURCE_EXHAUSTED.
        retry_seconds: after which they are told to come again.
        answer_seconds: that a result, charged by then, takes on its way.
    """

    seed: int
    shares: Mapping[Fault, float] = dataclasses.field(default_factory=lambda: SHARES)
    calm: int = 100
    burst: int = 12
    retry_seconds: float = 0.2
    answer_seconds: float = 0.2


class _Flights:
    """Notes which calls have no answer yet.

    A call's answer that is about to be written counts as arrived.
    """

    def __init__(self, notes: Path) -> None:
        self._notes = notes
        self._begun = 0

    @contextlib.contextmanager
    def of(self, peer: str, data: Any) -> Iterator[Callable[[], None]]:
        """The flight of a call; what is given ends it, if it has not ended with the block."""
        number, self._begun = self._begun, self._begun + 1
        is_request = data is not grpc.aio.EOF
        request_id = generation.Request.FromString(data).request_id if is_request else ""
        port = int(peer.rpartition(":")[2])
        landed = functools.partial(self._note, {"call": number})
        self._note({"call": number, "port": port, "request_id": request_id})
        try:
            yield landed
        finally:
            landed()

    def _note(self, note: Mapping[str, Any]) -> None:
        with self._notes.open("a") as file:
            file.write(f"{json.dumps(note)}\n")


class _FaultyCalls(grpc.aio.ServerInterceptor):
    """Stands before the calls of a server, and notes what each attempt met with."""

    def __init__(self, faults: ServerFaults, notes: Path) -> None:
        self._faults = faults
        self._notes = notes
        self._calls = 0
        self._attempts: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()
        self._flights = _Flights(notes.with_name(_FLIGHTS))

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        handler = await continuation(handler_call_details)
        if handler_call_details.method != contract.GENERATE:
            return handler

        async def attempt(requests: Any, context: Any) -> None:
            await self._attempt(handler.stream_stream, requests, context)

        return grpc.stream_stream_rpc_method_handler(attempt)

    async def _attempt(self, answer: Any, requests: Any, context: Any) -> None:
        data = await context.read()
        is_request = data is not grpc.aio.EOF  # The wire may be cut before it.
        fault = self._drawn(generation.Request.FromString(data)) if is_request else Fault.NONE
        if fault is Fault.EXHAUSTED:
            delay = self._faults.retry_seconds
            await _refuse(context, grpc.StatusCode.RESOURCE_EXHAUSTED, retry_seconds=delay)
        if fault is Fault.UNAVAILABLE_BEFORE:
            await _refuse(context, grpc.StatusCode.UNAVAILABLE)
        if fault is Fault.EMPTY_FIRST:
            await context.write(generation.Answer(answer_id="alive").SerializeToString())
        written, seconds = _WRITTEN.get(fault, _as_it_is), self._faults.answer_seconds
        with self._flights.of(context.peer(), data) as landed:
            await answer(requests, _Interposed(context, data, written, seconds, landed))
        if fault is Fault.UNAVAILABLE_AFTER:
            await _refuse(context, grpc.StatusCode.UNAVAILABLE)

    def _drawn(self, request: Any) -> Fault:
        name = request.request_id
        self._attempts[name] += 1
        fault = self._fault(request)
        note = {"request_id": name, "attempt": self._attempts[name], "fault": fault}
        with self._notes.open("a") as file:
            file.write(f"{json.dumps(note)}\n")
        return fault

    def _fault(self, request: Any) -> Fault:
        faults, name = self._faults, request.request_id
        self._calls += 1
        if self._calls % (faults.calm + faults.burst) >= faults.calm:
            return Fault.EXHAUSTED
        content = hashlib.sha256(request.prompt[0].artifact.binary).hexdigest()
        draw = random.Random(f"{faults.seed}/{content}/{self._attempts[name]}")
        shares = {**faults.shares, Fault.NONE: 1 - sum(faults.shares.values())}
        (fault,) = draw.choices(list(shares), list(shares.values()))
        if fault is Fault.ERROR:
            self._errors[name] += 1
            return fault if self._errors[name] <= _MOST_ERRORS else Fault.NONE
        return fault


async def _refuse(context: Any, code: grpc.StatusCode, **details: Any) -> None:
    refusal = Refusal(code, "a fault of the test", **details)
    await context.abort(refusal.code, refusal.message, refusal.trailing_metadata())


class _Interposed:
    """A call's context for the server behind.

    What was read is read again; what is written may change, and takes its time.
    """

    def __init__(
        self,
        context: Any,
        data: Any,
        written: Callable[[Any, bytes], Awaitable[None]],
        seconds: float,
        landed: Callable[[], None],
    ) -> None:
        self._context = context
        self._unread = [data]
        self._written = written
        self._seconds = seconds
        self._landed = landed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def read(self) -> Any:
        return self._unread.pop() if self._unread else await self._context.read()

    async def write(self, data: bytes) -> None:
        await asyncio.sleep(self._seconds)
        self._landed()
        await self._written(self._context, data)


async def _as_it_is(context: Any, data: bytes) -> None:
    await context.write(data)


async def _not_at_all(context: Any, data: bytes) -> None:
    del context, data


async def _twice(context: Any, data: bytes) -> None:
    await context.write(data)
    await context.write(data)


async def _as_error(context: Any, data: bytes) -> None:
    answer = generation.Answer.FromString(data)
    for artifact in answer.artifacts:
        artifact.ClearField("binary")
        artifact.finish_reason = generation.ERROR
    await context.write(answer.SerializeToString())


_WRITTEN: Mapping[Fault, Callable[[Any, bytes], Awaitable[None]]] = {
    Fault.UNAVAILABLE_AFTER: _not_at_all,
    Fault.TWICE: _twice,
    Fault.ERROR: _as_error,
}


@dataclasses.dataclass(frozen=True)
class Server:
    """A server that runs, and what it leaves.

    Attributes:
        folder: where it all lies.
        port: where it listens, on the loopback interface.
        process: its id.
    """

    folder: Path
    port: int
    process: int = 0

    @property
    def endpoint(self) -> str:
        """HOST:PORT."""
        return f"127.0.0.1:{self.port}"

    @property
    def keys(self) -> Path:
        """The file of hashed keys."""
        return self.folder / "keys.jsonl"

    @property
    def ledger(self) -> Path:
        """The database of charges."""
        return self.folder / "ledger.sqlite"

    def add_key(self, name: str, granted: Decimal | None = None) -> Path:
        """Makes a key; the file that holds it."""
        path = self.folder / f"{name}.key"
        path.write_text(add_key(self.keys, name, granted=granted))
        return path

    def credit(self, name: str, added: Decimal) -> None:
        """Grants a key more."""
        credit_key(self.keys, name, added)

    def charges(self, name: str) -> list[Charge]:
        """What a key was charged, in order."""
        return [charge for charge in read_charges(self.ledger) if charge.key == name]

    def faults(self) -> Counter[Fault]:
        """How many attempts met with each fault."""
        return Counter(Fault(note["fault"]) for note in _lines(_notes(self.folder)))

    def attempts(self) -> Counter[str]:
        """How many attempts there were of each request, by its id."""
        return Counter(note["request_id"] for note in _lines(_notes(self.folder)))

    def in_flight(self) -> list[tuple[int, str]]:
        """Of each call that has no answer yet, its client's port and the request's id."""
        flights: dict[int, tuple[int, str]] = {}
        for note in _lines(self.folder / _FLIGHTS):
            if "port" in note:
                flights[note["call"]] = note["port"], note["request_id"]
            else:
                flights.pop(note["call"], None)
        return list(flights.values())


def _notes(folder: Path) -> Path:
    return folder / "attempts.jsonl"


def _lines(notes: Path) -> list[dict[str, Any]]:
    """What was noted by now, without a line that is being written."""
    text = notes.read_text() if notes.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


@contextlib.contextmanager
def server(
    folder: Path,
    weights: Path,
    faults: ServerFaults | None = None,
    options: Sequence[Path | str] = (),
) -> Iterator[Server]:
    """`beam-upscale serve` with keys and a ledger, in a process of its own, for a while.

    Args:
        folder: where it leaves what it leaves.
        weights: of its engine.
        faults: how it fails; None if it does not.
        options: others of the command.
    """
    made = Server(folder, port=0)
    made.add_key("first")
    _notes(folder).touch()
    process = folder / "process"
    with ThreadPoolExecutor(1) as thread:
        finished = thread.submit(
            command_elsewhere,
            folder,
            *("serve", "--port", "0", "--keys", made.keys, "--ledger", made.ledger),
            *("--weights", weights, "--device", "cpu", "--precision", "fp32", "--threads", "1"),
            *options,
            prepare=functools.partial(_prepare_server, process, faults, _notes(folder)),
        )
        try:
            ready = _wait_for(lambda: _ready(folder) or finished.done())
            assert isinstance(ready, re.Match), finished.result()
            yield dataclasses.replace(made, port=int(ready[1]), process=int(process.read_text()))
        finally:
            if not finished.done():
                os.kill(int(process.read_text()), signal.SIGTERM)
        assert finished.result().code == 0, finished.result()


def hurry() -> None:
    """Makes this process repeat its calls soon."""
    calls._FIRST_PAUSE, calls._LONGEST_PAUSE = 0.02, 0.2


def _ready(folder: Path) -> re.Match[str] | None:
    printed = folder / "stdout"
    return re.search(r"gRPC on \S+:(\d+)\b", printed.read_text()) if printed.exists() else None


def _prepare_server(process: Path, faults: ServerFaults | None, notes: Path) -> None:
    process.write_text(str(os.getpid()))
    if faults is not None:
        interceptors = [_FaultyCalls(faults, notes)]
        listening.AioServer = functools.partial(AioServer, interceptors=interceptors)


def _wait_for(condition: Callable[[], Any]) -> Any:
    """What a condition gives once that is something."""
    end = time.monotonic() + _PATIENCE
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.01)
    return found


def act_after(
    pattern: str, count: int, act: Callable[[], None], is_due: Callable[[], object] = lambda: True
) -> None:
    """Makes this process do something right after it has written so many files, once.

    Args:
        pattern: regular expression for the end of the files' paths.
        count: of files.
        act: what is done. Until it is, no other such file is written.
        is_due: what has to be true as well; where it is not, the next such file is waited for.
    """
    left = count

    def act_if_due() -> None:
        nonlocal left
        left -= 1
        if left <= 0 and is_due():
            left = sys.maxsize
            act()

    after_each(pattern, act_if_due)


def kill_with_charges_in_flight(
    records: int, output: Path, ledger: Path, key: str, seen: Path
) -> None:
    """Has this process killed after so many records, as soon as it was charged for what has none.

    Args:
        records: of inputs that are done.
        output: of the run.
        ledger: of the server.
        key: name of the key that is charged.
        seen: gets the ids of the requests that were charged by then, one in a line.
    """

    def charged() -> set[str]:
        return {charge.request_id for charge in read_charges(ledger) if charge.key == key}

    def is_due() -> bool:
        # The call that was sent last may be under way.
        done, end = recorded(output), time.monotonic() + _SECONDS_OF_CALL
        while not charged() - done and time.monotonic() < end:
            time.sleep(0.01)
        return bool(charged() - done)

    def kill() -> None:
        seen.write_text("\n".join(charged()))
        os.kill(os.getpid(), signal.SIGKILL)

    act_after(RECORD, records, kill, is_due)


def recorded(output: Path) -> set[str]:
    """Ids of the paid calls that a run which is not complete has recorded."""
    records = DatasetFolder(str(output)).read_records()
    return {request_id for record in records for request_id in record.row.request_ids}
