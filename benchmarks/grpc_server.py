"""Requests a second of the gRPC server with an idle network, beside bare grpcio servers.

All servers run on the same cores as what loads them, one after another, each in a process of its
own, with requests and answers of the same sizes:

- `echo`: grpc.aio, which reads a message and answers with bytes that it has ready. No server in
  Python over grpcio can be quicker.
- `no ledger`: as `no pixels`, without keys and without a ledger.
- `no pixels`: the whole server (keys, limits, the request, the ledger with a charge and a stored
  result for each call, queue, threads, answer, metrics, log), with a worker that neither decodes,
  computes nor encodes.
- `codecs`: as `echo`, but each image is decoded, its pixels are repeated and the result is encoded,
  by the functions of a run, in two threads. No server in Python that makes these bytes can be
  quicker, and it has neither keys nor charges nor a defence against hostile images.
- `no network`: the server as it is, with repeated pixels in place of the network: images are
  decoded in the decoders' processes and results are encoded as PNGs, as in a run.

    python benchmarks/grpc_server.py [--seconds 10] [--in-flight 64] [--side 64] [--profile]

With --profile, what takes the time of our servers' event loops is printed; the profiler slows them
down.
"""

import argparse
import asyncio
import cProfile
import dataclasses
import io
import itertools
import multiprocessing
import os
import pstats
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
from apache_beam.ml.inference.base import PredictionResult
from PIL import Image

from beam_upscale.grpc_api import contract
from beam_upscale.grpc_api.stubs import generation_pb2 as generation
from beam_upscale.images.reading import pixels
from beam_upscale.images.writing import encoding
from beam_upscale.inference.elements import Inference, TiledImage
from beam_upscale.inference.local_engines import EsrganEngine
from beam_upscale.inference.networks.backend import NetworkBackend
from beam_upscale.inference.networks.device import Device, Precision
from beam_upscale.pipeline.settings.pinned import Stage
from beam_upscale.pipeline.settings.upscale_settings import UpscaleSettings
from beam_upscale.planning.engines import get_engine
from beam_upscale.server.accounts.keys import add_key
from beam_upscale.server.listening import Addresses
from beam_upscale.server.monitoring.logs import log_as_json
from beam_upscale.server.requests import Call, decode_request
from beam_upscale.server.serve import run
from beam_upscale.server.settings import ServeSettings
from beam_upscale.server.worker import LoadedNetwork, Priced, Upscaled, Worker

ENGINE = "esrgan-v1-x2plus"
WARM_UP_SECONDS = 2.0


class RepeatedPixels:
    """In place of a handler: its network repeats each pixel."""

    def run_inference(self, batch: Sequence[TiledImage], model: None) -> Iterator[PredictionResult]:
        for tiled in batch:
            cores = [tile.pixels.repeat(2, axis=0).repeat(2, axis=1) for tile in tiled.tiles]
            yield PredictionResult(tiled, Inference(cores=cores))


def network() -> LoadedNetwork:
    engine = EsrganEngine(
        name="repeated pixels",
        weights_sha256="0" * 64,
        weights_uri="",
        device=Device.CPU,
        precision=Precision.FP32,
        threads=1,
        max_batch_pixels=0,
        scale=2,
        max_tile_pixels=2**20,
        halo=0,
        network_backend=NetworkBackend.TORCH,
    )
    return LoadedNetwork(Stage(get_engine(ENGINE), engine), RepeatedPixels(), None)


class NoPixels(Worker):
    """A worker that looks at its first image only: all calls have its price and its result."""

    def __init__(self, networks: Sequence[LoadedNetwork]) -> None:
        super().__init__(networks)
        self._priced: Priced | None = None
        self._upscaled: Upscaled | None = None

    def price(self, call: Call) -> Priced:
        self._priced = self._priced or super().price(call)
        return dataclasses.replace(self._priced, call=call)

    def upscale(self, priced: Priced) -> Upscaled:
        self._upscaled = self._upscaled or super().upscale(priced)
        return self._upscaled


def photograph(side: int) -> bytes:
    """A picture with smooth and busy parts, as a PNG."""
    small = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    picture = Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def request(picture: bytes, request_id: str) -> bytes:
    artifact = generation.Artifact(type=generation.ARTIFACT_IMAGE, binary=picture)
    message = generation.Request(
        engine_id=ENGINE, request_id=request_id, prompt=[generation.Prompt(artifact=artifact)]
    )
    data: bytes = message.SerializeToString()
    return data


def enlarged(data: bytes) -> bytes:
    """A request's image with each pixel repeated, as an answer."""
    message = generation.Request.FromString(data)
    decoded = pixels.decode(message.prompt[0].artifact.binary, max_pixels=2**20)
    result = encoding.encode(decoded.color.repeat(2, axis=0).repeat(2, axis=1)).data
    artifact = generation.Artifact(type=generation.ARTIFACT_IMAGE, binary=result)
    answer: bytes = generation.Answer(artifacts=[artifact]).SerializeToString()
    return answer


def serve_echo(ready: Connection, size: int | None) -> None:
    """A server that reads a request and answers with `size` bytes; None for an enlarged image."""
    fixed = None if size is None else bytes(size)

    async def main() -> None:
        executor = ThreadPoolExecutor(2)

        async def echo(_: Any, context: Any) -> None:
            data = await context.read()
            answer = fixed
            if answer is None:
                loop = asyncio.get_running_loop()
                answer = await loop.run_in_executor(executor, enlarged, data)
            await context.write(answer)

        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        server.add_registered_method_handlers(
            "gooseai.GenerationService",
            {"Generate": grpc.stream_stream_rpc_method_handler(echo)},
        )
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        ready.send((f"127.0.0.1:{port}", ""))
        await stop.wait()
        await server.stop(1)

    asyncio.run(main())


def serve(ready: Connection, kind: type[Worker], charged: bool, profiled: bool) -> None:
    """The server over a worker without a network; with keys and a ledger where it is charged."""
    with tempfile.TemporaryDirectory() as folder, Path(os.devnull).open("w") as nowhere:
        # Lines are made and written as in service.
        log_as_json(nowhere)
        keys = Path(folder, "keys.jsonl")
        key = add_key(keys, "benchmark", granted=Decimal(10**9))
        settings = ServeSettings(
            UpscaleSettings(engines=(ENGINE,)),
            port=0,
            keys=keys if charged else None,
            ledger=Path(folder, "ledger.sqlite") if charged else None,
            max_queue=1000,
            max_in_flight_per_key=1000,
        )

        def on_ready(addresses: Addresses, _: Any) -> None:
            ready.send((addresses.grpc, key if charged else ""))

        worker = kind([network()])
        profile = cProfile.Profile()
        try:
            if profiled:
                profile.enable()
            asyncio.run(run(settings, worker, on_ready))
        finally:
            profile.disable()
            worker.close()
        if profiled:
            pstats.Stats(profile).sort_stats("tottime").print_stats(30)


@dataclasses.dataclass(frozen=True)
class Load:
    """The load of a server, and its answers to it.

    Attributes:
        requests_per_second: that were answered.
        p50: half of them took at most so many milliseconds.
        p99: and 99 of 100 so many.
    """

    requests_per_second: float
    p50: float
    p99: float


def load(ready: Connection, address: str, key: str, picture: bytes, seconds: float, n: int) -> None:
    """Keeps `n` calls in flight, each with an id of its own, and tells what came of them."""

    async def main() -> Load:
        taken: list[float] = []
        numbers = itertools.count()
        metadata = (("authorization", f"Bearer {key}"),) if key else ()
        async with grpc.aio.insecure_channel(address) as channel:
            generate = channel.unary_stream(contract.GENERATE)

            async def keep_calling(until: float, seen: list[float]) -> None:
                while (started := time.monotonic()) < until:
                    call = generate(request(picture, f"{next(numbers)}"), metadata=metadata)
                    async for _ in call:
                        pass
                    seen.append(time.monotonic() - started)

            async def keep_all_calling(seconds: float, seen: list[float]) -> float:
                started = time.monotonic()
                until = started + seconds
                await asyncio.gather(*(keep_calling(until, seen) for _ in range(n)))
                return time.monotonic() - started

            await keep_all_calling(WARM_UP_SECONDS, [])
            ready.send(None)
            wall = await keep_all_calling(seconds, taken)
        p50, p99 = np.percentile(taken, (50, 99)) * 1000
        return Load(len(taken) / wall, p50, p99)

    ready.send(asyncio.run(main()))


def cpu_seconds(process: psutil.Process) -> float:
    """Of a process and those that it has started."""
    family = [process, *process.children(recursive=True)]
    return sum(sum(each.cpu_times()[:2]) for each in family)


def measure(
    name: str, target: Callable[..., None], arguments: tuple[Any, ...], options: argparse.Namespace
) -> float:
    """Starts a server, loads it and prints a line; requests a second."""
    processes = multiprocessing.get_context("spawn")
    ready, its_ready = processes.Pipe()
    server = processes.Process(target=target, args=(its_ready, *arguments))
    server.start()
    address, key = ready.recv()
    picture = photograph(options.side)
    its_load, loads = processes.Pipe()
    client = processes.Process(
        target=load, args=(loads, address, key, picture, options.seconds, options.in_flight)
    )
    client.start()
    its_load.recv()
    watched = psutil.Process(server.pid), psutil.Process(client.pid)
    before = [cpu_seconds(process) for process in watched]
    found: Load = its_load.recv()
    spent = [cpu_seconds(process) - then for process, then in zip(watched, before, strict=True)]
    client.join()
    os.kill(server.pid or 0, signal.SIGTERM)
    server.join()
    rate = found.requests_per_second
    server_ms, client_ms = (1000 * each / (rate * options.seconds) for each in spent)
    print(
        f"{name:<12} {rate:8.0f} requests/s   p50 {found.p50:6.1f} ms   p99 {found.p99:6.1f} ms   "
        f"CPU a request: server {server_ms:.2f} ms, load {client_ms:.2f} ms",
        flush=True,
    )
    return rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    picture = photograph(options.side)
    worker = Worker([network()])
    call = decode_request(request(picture, ""), (ENGINE,))
    answer = len(worker.upscale(worker.price(call)).data) + 200
    worker.close()
    print(
        f"{options.side} x {options.side}: {len(picture):,} bytes up, {answer:,} bytes down, "
        f"{options.in_flight} in flight, {os.cpu_count()} cores for server and load together"
    )
    echo = measure("echo", serve_echo, (answer,), options)
    for name, charged in (("no ledger", False), ("no pixels", True)):
        rate = measure(name, serve, (NoPixels, charged, options.profile), options)
        print(f"{'':<12} {rate / echo:8.0%} of echo")
    codecs = measure("codecs", serve_echo, (None,), options)
    rate = measure("no network", serve, (Worker, True, options.profile), options)
    print(f"{'':<12} {rate / codecs:8.0%} of codecs")


if __name__ == "__main__":
    main()
