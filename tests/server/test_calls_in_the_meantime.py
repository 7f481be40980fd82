"""What happens to calls while others come and go, and while the server is asked to stop."""

import asyncio
import contextlib
import dataclasses
import io
import json
import logging
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from PIL import Image
from serving import (
    DIFFUSION,
    ENGINE,
    PATIENCE,
    Client,
    GatedWorker,
    chain,
    connected,
    png,
    request,
    serving,
)

from beam_upscale.grpc_api import contract
from beam_upscale.local_models import LocalModel
from beam_upscale.server.ledger import read_charges
from beam_upscale.server.logs import log_as_json
from beam_upscale.server.worker import Network, Priced, Upscaled, Worker


class AtOnce:
    """An executor whose work is done before `submit` returns."""

    def submit(self, function: Callable[..., Any], *arguments: Any) -> None:
        function(*arguments)

    def shutdown(self, **_: Any) -> None:
        pass


class WideWorker(Worker):
    """A worker that takes as many calls at a time as one of an accelerator."""

    @property
    def threads(self) -> int:
        return 8


class HeavyWorker(Worker):
    """A worker whose results are larger than what lies on a connection."""

    BYTES = 32 * 2**20

    def upscale(self, priced: Priced) -> Upscaled:
        return dataclasses.replace(super().upscale(priced), data=bytes(self.BYTES))


@contextlib.contextmanager
def slow_line(address: str, gate: threading.Event) -> Iterator[Client]:
    """A client to whom few bytes of answers come until the gate opens."""
    host, _, port = address.rpartition(":")

    def pass_on(source: socket.socket, target: socket.socket, few: int) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := source.recv(2**16):
                passed += len(data)
                if passed > few:
                    gate.wait(PATIENCE)
                target.sendall(data)

    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection((host, int(port))) as server,
    ):
        channel_options = [("grpc.max_receive_message_length", -1)]
        name = f"127.0.0.1:{listener.getsockname()[1]}"
        with grpc.insecure_channel(name, options=channel_options) as channel:
            grpc.channel_ready_future(channel)
            client, _ = listener.accept()
            ways = ((client, server, 2**30), (server, client, 2**16))
            threads = [threading.Thread(target=pass_on, args=way, daemon=True) for way in ways]
            for thread in threads:
                thread.start()
            with client:
                yield Client(channel)


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """What is logged as JSON meanwhile."""
    root, ours = logging.getLogger(), logging.getLogger("beam_upscale")
    handlers, levels = root.handlers[:], (root.level, ours.level)
    stream = io.StringIO()
    log_as_json(stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_request_that_arrives_once_the_server_drains_is_not_begun(
    gated: GatedWorker, image: bytes
) -> None:
    messages: queue.Queue[bytes | None] = queue.Queue()
    gated.gate.set()
    with serving(gated) as server, connected(server) as client:
        method = client.channel.stream_stream(contract.GENERATE)
        call = method(iter(messages.get, None), timeout=PATIENCE)
        permits = server.listening.service._admission._in_flight
        until(lambda: bool(server.call(lambda: dict(permits))))
        server.call(server.listening.service.drain)
        messages.put(request(image).SerializeToString())
        messages.put(None)
        with pytest.raises(grpc.RpcError) as caught:
            list(call)

    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert gated.begun == []


def test_the_log_says_once_what_was_charged(
    gated: GatedWorker, image: bytes, logged: io.StringIO
) -> None:
    message = request(image, request_id="a")
    with serving(gated) as server, connected(server) as client:
        calls = [client.start(message) for _ in range(3)]
        flights = server.listening.calls._flights
        until(lambda: server.call(lambda: [each.callers for each in flights]) == [3])
        gated.gate.set()
        artifacts = [list(call)[-1].artifacts[0].binary for call in calls]

    lines = [json.loads(line) for line in logged.getvalue().splitlines()]
    answered = [line for line in lines if line["message"] == "call"]
    assert len(set(artifacts)) == 1
    assert sorted(line["replay"] for line in answered) == [False, True, True]
    assert ["credits" in line for line in answered].count(True) == 1


def test_a_thread_that_is_quick_finds_the_call_awaited(worker: Worker, image: bytes) -> None:
    with serving(worker) as server, connected(server) as client:
        server.listening.calls._executor = AtOnce()  # type: ignore[assignment]

        assert client.upscale(request(image, request_id="a")).binary


def test_waiting_in_the_queue_is_counted_and_ends_with_its_caller(
    gated: GatedWorker, photograph: Callable[..., Image.Image]
) -> None:
    pictures = [png(photograph(seed)) for seed in range(3)]
    with serving(gated) as server, connected(server) as client:
        metrics, waiting = server.listening.service._metrics, server.listening.calls._waiting
        first = client.start(request(pictures[0]))
        until(lambda: len(gated.begun) == 1)
        gone = client.start(request(pictures[1]))
        until(lambda: len(waiting) == 1)
        gone.cancel()
        until(lambda: not waiting)
        until(lambda: metrics.abandoned._value.get() == 1)
        after_the_one_that_went = metrics.queued._value.get()
        second = client.start(request(pictures[2]))
        until(lambda: len(waiting) == 1)
        since = time.monotonic()
        until(lambda: time.monotonic() - since > 0.1)
        gated.gate.set()
        assert list(first)[-1].artifacts and list(second)[-1].artifacts
        queued = metrics.queue_seconds.labels(ENGINE)._sum.get()

    assert after_the_one_that_went == 0
    assert queued > 0.1


def test_a_result_that_cannot_be_sent_is_not_charged(
    worker: Worker, image: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = tmp_path / "ledger.sqlite"
    monkeypatch.setattr("beam_upscale.server.calls._MOST_RESULT_BYTES", 100)
    with serving(worker, ledger=ledger) as server, connected(server) as client:
        refused = client.refused(request(image, request_id="a"))

    assert refused.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "at most 100 can be sent" in str(refused.details())
    assert list(read_charges(ledger)) == []


def test_the_ledger_names_all_engines_of_a_chain(
    both_engines: Worker, photograph: Callable[..., Image.Image], tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger.sqlite"
    first = request(png(photograph(width=24, height=16)))
    second = request(b"", engine=DIFFUSION, steps=1)
    second.ClearField("prompt")
    with serving(both_engines, ledger=ledger) as server, connected(server) as client:
        client.upscale(chain(first, second, request_id="a"))

    assert [each.engine for each in read_charges(ledger)] == [f"{ENGINE}+{DIFFUSION}"]


def test_requests_of_different_clients_share_a_batch(
    worker: Worker, photograph: Callable[..., Image.Image]
) -> None:
    stage = worker._networks[ENGINE].stage
    assert isinstance(stage.model, LocalModel)
    model = dataclasses.replace(stage.model, max_batch_pixels=10**6)
    network = Network.load(dataclasses.replace(stage, model=model))
    upscale, batches, gate = network.model._upscale, [], threading.Event()

    def upscale_at_the_gate(patches: Any) -> Any:
        batches.append(len(patches))
        assert gate.wait(PATIENCE)
        return upscale(patches)

    network.model._upscale = upscale_at_the_gate
    with (
        contextlib.closing(WideWorker([network])) as wide,
        serving(wide) as server,
        contextlib.ExitStack() as stack,
    ):
        clients = [stack.enter_context(connected(server)) for _ in range(4)]
        calls = [clients[0].start(request(png(photograph(0))))]
        until(lambda: batches == [1])
        for number, client in enumerate(clients[1:], start=1):
            calls.append(client.start(request(png(photograph(number)))))
        until(lambda: len(network.model._queue) == 3)
        gate.set()
        results = {list(call)[-1].artifacts[0].binary for call in calls}

    assert batches == [1, 3]
    assert len(results) == 4


def test_a_server_that_stops_waits_until_answers_are_read(worker: Worker, image: bytes) -> None:
    gate = threading.Event()
    heavy = HeavyWorker(list(worker._networks.values()))
    with (
        contextlib.closing(heavy),
        serving(heavy) as server,
        slow_line(server.address, gate) as client,
    ):
        call = client.start(request(image))
        images = server.listening.service._metrics.images.labels(ENGINE)
        until(lambda: images._value.get() == 1)
        server.call(server.listening.service.drain)
        finishing = asyncio.run_coroutine_threadsafe(
            server.listening.service.finish(PATIENCE), server.loop
        )
        server.run(asyncio.sleep(0.2))
        finished_early = finishing.done()
        gate.set()
        answer = list(call)[-1]

        assert finishing.result(PATIENCE)

    assert not finished_early
    assert len(answer.artifacts[0].binary) == HeavyWorker.BYTES
