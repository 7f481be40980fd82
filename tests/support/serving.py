"""Servers in this process, and clients for them."""

import asyncio
import contextlib
import dataclasses
import http.client
import io
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import pytest
import runs
from grpc_health.v1 import health_pb2
from PIL import Image

from beam_upscale.grpc_api import contract
from beam_upscale.grpc_api.stubs import generation_pb2 as generation
from beam_upscale.pipeline.settings.upscale_settings import UpscaleSettings
from beam_upscale.server.listening import Listening, listening
from beam_upscale.server.settings import ServeSettings
from beam_upscale.server.worker import LoadedNetwork, Priced, Upscaled, Worker

ENGINE = "esrgan-v1-x2plus"
DIFFUSION = "stable-diffusion-x4-latent-upscaler"

# Longer than any of this takes; what is not done by then never will be.
PATIENCE = 60

SERVING = health_pb2.HealthCheckResponse.SERVING
HEALTH = "/grpc.health.v1.Health"


def load(weights: Path | dict[str, str], *engines: str) -> Worker:
    """A worker over small networks, as `beam-upscale serve` has one."""
    return Worker.load(
        UpscaleSettings.of(
            engines or (ENGINE,),
            weights=str(weights) if isinstance(weights, Path) else weights,
            device="cpu",
            precision="fp32",
            threads=1,
        )
    )


class GatedWorker(Worker):
    """A worker that upscales one image at a time, and each only once it may.

    Attributes:
        begun: the images whose turn has come, in order.
        gate: what they wait for.
    """

    def __init__(self, worker: Worker) -> None:
        super().__init__(list(worker._networks.values()))
        self.begun: list[bytes] = []
        self.gate = threading.Event()

    @property
    def threads(self) -> int:
        return 1

    def upscale(self, priced: Priced) -> Upscaled:
        self.begun.append(priced.call.image)
        assert self.gate.wait(PATIENCE)
        return super().upscale(priced)


class BrokenNetwork:
    """A handler whose network fails."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def run_inference(self, batch: Any, model: Any) -> Iterator[Any]:
        raise self._error


def broken(worker: Worker, error: Exception) -> Worker:
    """The same engines, over networks that raise an error."""
    return Worker(
        [
            LoadedNetwork(network.stage, BrokenNetwork(error), None)
            for network in worker._networks.values()
        ]
    )


@dataclasses.dataclass(frozen=True)
class Server:
    """A server that runs in a thread.

    Attributes:
        listening: its parts; they belong to its event loop.
        loop: that runs it.
    """

    listening: Listening
    loop: asyncio.AbstractEventLoop

    @property
    def address(self) -> str:
        return self.listening.addresses.grpc

    def call(self, function: Callable[[], Any]) -> Any:
        """Calls something in the event loop."""
        result: Future[Any] = Future()
        self.loop.call_soon_threadsafe(lambda: result.set_result(function()))
        return result.result(PATIENCE)

    def run(self, coroutine: Any) -> Any:
        """Awaits something in the event loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(PATIENCE)


@contextlib.contextmanager
def serving(worker: Worker, **options: Any) -> Iterator[Server]:
    """Serves within it; `options` are those of `ServeSettings`."""
    started: Future[Server] = Future()

    async def serve() -> None:
        settings = ServeSettings(UpscaleSettings(engines=worker.engines), **{"port": 0, **options})
        async with listening(settings, worker) as found:
            server = Server(found, asyncio.get_running_loop())
            stop = asyncio.Event()
            stops.append(lambda: server.loop.call_soon_threadsafe(stop.set))
            started.set_result(server)
            await stop.wait()

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)

    stops: list[Callable[[], Any]] = []
    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield started.result(PATIENCE)
    finally:
        for stop in stops:
            stop()
        thread.join()


@dataclasses.dataclass(frozen=True)
class Process:
    """`beam-upscale serve` in a process of its own.

    Attributes:
        pid: of the process.
        ready: the line that it printed when it listened.
        exit_code: waits for its end and gives its exit code.
        errors: what it wrote to standard error.
    """

    pid: int
    ready: str
    exit_code: Callable[[], int]
    errors: Callable[[], str]

    @property
    def address(self) -> str:
        """HOST:PORT of gRPC."""
        return self.ready.partition("gRPC on ")[2].split(",")[0].strip()


@contextlib.contextmanager
def serving_elsewhere(
    folder: Path,
    weights: Path,
    *options: Path | str,
    prepare: Callable[[], None] = runs.do_nothing,
) -> Iterator[Process]:
    """Serves within it, unless it ends by itself; `prepare` is called in its process first."""
    out, err = folder / "stdout", folder / "stderr"
    words = ["serve", "--port", "0", *quick(weights), *map(str, options)]
    process = runs.processes.Process(target=runs.command_in_child, args=(words, out, err, prepare))
    process.start()

    def exit_code() -> int:
        process.join(PATIENCE)
        assert process.exitcode is not None
        return process.exitcode

    try:
        end = time.monotonic() + 3 * PATIENCE
        while not (out.exists() and out.read_text().endswith("\n")):
            assert process.is_alive() and time.monotonic() < end, err.read_text()
            time.sleep(0.02)
        assert process.pid is not None
        yield Process(process.pid, out.read_text(), exit_code, err.read_text)
    finally:
        process.kill()
        process.join()


def quick(weights: Path) -> list[str]:
    """Options that serve a small network quickly."""
    return f"--weights {weights} --device cpu --precision fp32 --threads 1".split()


@dataclasses.dataclass(frozen=True)
class Client:
    """Calls a server.

    Attributes:
        channel: to it.
        key: that it shows; empty shows none.
    """

    channel: Any
    key: str = ""

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.key}"),) if self.key else ()

    def start(self, request: Any, timeout: float = PATIENCE) -> Any:
        """Begins a call; its answers can be iterated over."""
        path = (
            contract.GENERATE
            if isinstance(request, generation.Request)
            else contract.CHAIN_GENERATE
        )
        method = self.channel.unary_stream(
            path,
            request_serializer=type(request).SerializeToString,
            response_deserializer=generation.Answer.FromString,
        )
        return method(request, timeout=timeout, metadata=self.metadata)

    def upscale(self, request: Any) -> Any:
        """The artifact that a request is answered with."""
        answers = list(self.start(request))
        (artifact,) = answers[-1].artifacts
        return artifact

    def refused(self, request: Any) -> grpc.RpcError:
        """The error that a request is answered with."""
        try:
            answers = list(self.start(request))
        except grpc.RpcError as error:
            return error
        raise AssertionError(f"{len(answers)} answers")

    def ask(self, path: str, request: Any, answer: Any) -> Any:
        """Calls a method that has one answer."""
        method = self.channel.unary_unary(
            path,
            request_serializer=type(request).SerializeToString,
            response_deserializer=answer.FromString,
        )
        return method(request, timeout=PATIENCE, metadata=self.metadata)


@contextlib.contextmanager
def connected(server: Server | Process, key: str = "") -> Iterator[Client]:
    """A client on a connection of its own."""
    options = [
        ("grpc.max_receive_message_length", contract.MAX_MESSAGE_BYTES),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    with grpc.insecure_channel(server.address, options=options) as channel:
        yield Client(channel, key)


def png(picture: Image.Image) -> bytes:
    """A picture as a file."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def request(
    image: bytes, *, engine: str = ENGINE, request_id: str = "", **image_fields: Any
) -> Any:
    """A request as the official Python client makes it."""
    artifact = generation.Artifact(type=generation.ARTIFACT_IMAGE, binary=image)
    return generation.Request(
        engine_id=engine,
        request_id=request_id,
        prompt=[generation.Prompt(artifact=artifact)],
        image=generation.ImageParameters(**image_fields),
    )


def chain(*requests: Any, request_id: str = "") -> Any:
    """The requests as stages, one after the other."""
    stages = [
        generation.Stage(id=f"{number}", request=each) for number, each in enumerate(requests)
    ]
    return generation.ChainRequest(request_id=request_id, stage=stages)


def failed(call: Any) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        list(call) if hasattr(call, "__iter__") else call()
    return caught.value


def health(client: Client, service: str = "") -> int:
    asked = health_pb2.HealthCheckRequest(service=service)
    answer = client.ask(f"{HEALTH}/Check", asked, health_pb2.HealthCheckResponse)
    return int(answer.status)


def over_web(url: str, message: bytes, key: str = "", ca: Path | None = None) -> list[bytes]:
    """The frames of an answer over gRPC-Web: messages, and the trailers last."""
    where = urlsplit(url)
    assert where.hostname and where.port
    connection: http.client.HTTPConnection
    if where.scheme == "https":
        context = ssl.create_default_context(cafile=ca)
        connection = http.client.HTTPSConnection(
            where.hostname, where.port, timeout=PATIENCE, context=context
        )
    else:
        connection = http.client.HTTPConnection(where.hostname, where.port, timeout=PATIENCE)
    headers = {"content-type": "application/grpc-web+proto", "x-grpc-web": "1"}
    if key:
        headers["authorization"] = f"Bearer {key}"
    body = bytes([0]) + len(message).to_bytes(4, "big") + message
    with contextlib.closing(connection):
        connection.request("POST", contract.GENERATE, body, headers)
        answer = connection.getresponse()
        data = answer.read()
        if not data:
            return [str(answer.headers).encode()]
    frames = []
    while data:
        size = int.from_bytes(data[1:5], "big")
        frames.append(data[5 : 5 + size])
        data = data[5 + size :]
    return frames
