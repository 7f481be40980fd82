"""Calls a second through the gRPC client, beside what so many calls in flight could reach.

    python benchmarks/grpc_client.py --in-flight 64 --calls 8000 --output benchmarks/results

The server is a process of its own that waits as long as a real one would take: lognormal, 200 ms in
the median, 2 s at the 99th percentile, the same waits for the same seed. With N calls in flight all
the time, N / mean latency of them end in a second (Little's law); the ratio to that is what the
client leaves of it. The mean is of the latencies really served, measured in the server from the
request's arrival to the last answer, and both are taken while there is work for all N: from five
seconds after the start until the last call arrives. The tail, where the slowest calls end with
nothing left to send, is in the figures of the whole run.

The handler is fed in three ways, each of which encodes an image for every call:

- `window`: four threads; results stay encoded. What the client itself reaches.
- `threads`: four threads that take each result as it is done, decoded in this machine's decoders.
- `beam`: the same in a Beam pipeline, by RunInference and a DoFn on the in-process runner with four
  threads.

With `--books` each call is put into the books of an output on the local disk, before it is sent and
when its answer is known, as a run does.

Server, client and decoders share this machine's cores. Where a way stays behind, `cpu_share` says
whether they were busy: processor time of the client and its decoders, and of the server, for each
second and core.
"""

import argparse
import asyncio
import datetime
import functools
import json
import math
import multiprocessing
import platform
import random
import statistics
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import apache_beam as beam
import grpc
import grpc.aio
import numpy as np
import psutil
from apache_beam.ml.inference.base import PredictionResult, RunInference
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.utils.windowed_value import WindowedValue

from beam_upscale.dataset.books import RunBooks
from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.grpc_api.stubs import generation_pb2 as generation
from beam_upscale.images.decoding.pool import shared_pool
from beam_upscale.images.processes.child import usable_cores
from beam_upscale.images.writing import encoding
from beam_upscale.inference.elements import Inference, PendingInference, Tile, TiledImage
from beam_upscale.inference.handlers.remote import RemoteHandler
from beam_upscale.inference.remote.calls import Call, ImageCalls, Outcome
from beam_upscale.inference.remote_engines import RemoteEngine
from beam_upscale.pipeline.run_state.booking import ImageBooking
from beam_upscale.planning.engines import get_engine
from beam_upscale.planning.tile_layout import Box

_ENGINE = "esrgan-v1-x2plus"
_SIDE = 8
_MEDIAN_SECONDS = 0.2
_P99_SECONDS = 2.0
_WARM_UP_SECONDS = 5.0
_FEEDERS = 4
_PIXELS = np.zeros((_SIDE, _SIDE, 3), np.uint8)


@dataclass(frozen=True)
class Served:
    """A call as the server saw it: when it arrived and when its last answer was given, in s."""

    arrived: float
    ended: float


def serve(pipe: Connection) -> None:
    """Serves in this process until the pipe says stop; then sends what was served through it."""
    served: list[Served] = []
    result = encoding.encode(_PIXELS.repeat(2, axis=0).repeat(2, axis=1)).data
    artifact = generation.Artifact(type=generation.ARTIFACT_IMAGE, binary=result)
    answer = generation.Answer(artifacts=[artifact])
    sigma = math.log(_P99_SECONDS / _MEDIAN_SECONDS) / statistics.NormalDist().inv_cdf(0.99)
    waits = random.Random(0)

    async def generate(request: Any, context: Any) -> Any:
        del request, context
        arrived = time.monotonic()
        await asyncio.sleep(_MEDIAN_SECONDS * waits.lognormvariate(0, sigma))
        yield answer
        served.append(Served(arrived, time.monotonic()))

    async def run() -> None:
        server = grpc.aio.server()
        method = grpc.unary_stream_rpc_method_handler(
            generate, generation.Request.FromString, generation.Answer.SerializeToString
        )
        service = "gooseai.GenerationService"
        handlers = grpc.method_handlers_generic_handler(service, {"Generate": method})
        server.add_generic_rpc_handlers([handlers])
        pipe.send(server.add_insecure_port("127.0.0.1:0"))
        await server.start()
        await asyncio.to_thread(pipe.recv)
        await server.stop(None)

    asyncio.run(run())
    pipe.send(served)


class Tiled:
    """Makes tiny images in one tile.

    Args:
        books: that their calls are put into; None keeps none.
    """

    def __init__(self, books: RunBooks | None) -> None:
        self._books = books

    def __call__(self, number: int) -> TiledImage:
        name, booking = str(number), None
        if self._books is not None:
            booking = ImageBooking(self._books, name, "")
        tiles = [Tile(_PIXELS, Box(0, 0, _SIDE, _SIDE))]
        return TiledImage(tiles, 2, identity=(name, 0), booking=booking)


class Take(beam.DoFn):
    """Takes results as they are done."""

    def start_bundle(self) -> None:
        self._pending: list[PendingInference] = []

    def process(self, result: PredictionResult) -> Iterator[Inference]:
        self._pending.append(result.inference)
        yield from self._done()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        window = beam.transforms.window.GlobalWindow()
        while self._pending:
            self._pending[0].wait(0.05)
            for inference in self._done():
                yield WindowedValue(inference, window.max_timestamp(), [window])

    def _done(self) -> Iterator[Inference]:
        waiting, self._pending = self._pending, []
        for pending in waiting:
            if pending.done():
                yield pending.result()
            else:
                self._pending.append(pending)


def check(inference: Inference) -> None:
    """A call that fails is no call served."""
    assert inference.error is None, inference.error
    assert inference.stop is None, inference.stop
    assert inference.cores[0].shape == (2 * _SIDE, 2 * _SIDE, 3)


def through_beam(handler: RemoteHandler, calls: int, tiled: Tiled) -> None:
    options = PipelineOptions(
        [], direct_num_workers=_FEEDERS, direct_running_mode="multi_threading"
    )
    with beam.Pipeline(runner=FnApiRunner(), options=options) as pipeline:
        _ = (
            pipeline
            | beam.Create(range(calls))
            | beam.Reshuffle()
            | beam.Map(tiled)
            | RunInference(handler)
            | beam.ParDo(Take())
            | beam.Map(check)
        )


def feed(numbers: Iterator[int], work: Callable[[Iterator[int]], None]) -> None:
    """Gives numbers to threads, each as soon as the one before it is begun."""
    lock = threading.Lock()

    def following() -> Iterator[int]:
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            yield number

    with ThreadPoolExecutor(_FEEDERS) as threads:
        for feeding in [threads.submit(work, following()) for _ in range(_FEEDERS)]:
            feeding.result()


def through_threads(handler: RemoteHandler, calls: int, tiled: Tiled) -> None:
    window = handler.load_model()

    def work(numbers: Iterator[int]) -> None:
        take = Take()
        take.start_bundle()
        for number in numbers:
            for result in handler.run_inference([tiled(number)], window):
                for inference in take.process(result):
                    check(inference)
        for value in take.finish_bundle():
            check(value.value)

    feed(iter(range(calls)), work)


def through_window(handler: RemoteHandler, calls: int, tiled: Tiled) -> None:
    window, outcomes = handler.load_model(), deque[Future[Outcome]]()

    def call(number: int) -> Call:
        return handler._call(tiled(number), 0, ImageCalls())

    def work(numbers: Iterator[int]) -> None:
        for number in numbers:
            outcomes.append(window.submit(_SIDE**2, functools.partial(call, number)))

    feed(iter(range(calls)), work)
    for outcome in outcomes:
        assert outcome.result().artifact, outcome.result()


_WAYS = {"window": through_window, "threads": through_threads, "beam": through_beam}


def cpu_seconds(server: int | None) -> float:
    """Processor time so far of this process with its decoders, and of the server."""
    own = psutil.Process()
    processes = [own, *own.children(recursive=True)]
    assert server in {process.pid for process in processes}
    times = [process.cpu_times() for process in processes]
    return sum(each.user + each.system for each in times)


def measure(way: str, in_flight: int, calls: int, books: RunBooks | None) -> dict[str, Any]:
    """The figures of one run."""
    # Decoders are started before their time counts.
    shared_pool().read_header(encoding.encode(_PIXELS).data)
    processes = multiprocessing.get_context("spawn")
    pipe, other = processes.Pipe()
    server = processes.Process(target=serve, args=(other,))
    server.start()
    engine = RemoteEngine(_ENGINE, f"127.0.0.1:{pipe.recv()}", max_in_flight=in_flight)
    begun, busy = time.monotonic(), cpu_seconds(server.pid)
    _WAYS[way](RemoteHandler(engine, get_engine(_ENGINE)), calls, Tiled(books))
    seconds, busy = time.monotonic() - begun, cpu_seconds(server.pid) - busy
    pipe.send("stop")
    served: list[Served] = pipe.recv()
    server.join()
    assert len(served) == calls, f"{len(served)} of {calls} calls were served"
    start = min(call.arrived for call in served) + _WARM_UP_SECONDS
    end = max(call.arrived for call in served)
    steady = [call.ended - call.arrived for call in served if start <= call.ended < end]
    everything = [call.ended - call.arrived for call in served]
    mean = statistics.fmean(steady)
    return {
        "through": way,
        "books": books is not None,
        "in_flight": in_flight,
        "calls_per_second": len(steady) / (end - start),
        "mean_latency_seconds": mean,
        "median_latency_seconds": statistics.median(steady),
        "p99_latency_seconds": statistics.quantiles(steady, n=100)[-1],
        "calls_per_second_possible": in_flight / mean,
        "ratio": len(steady) / (end - start) * mean / in_flight,
        "steady_seconds": end - start,
        "whole_run": {
            "calls": calls,
            "seconds": seconds,
            "calls_per_second": calls / seconds,
            "ratio": calls / seconds * statistics.fmean(everything) / in_flight,
            "cpu_seconds_per_call": busy / calls,
            "cpu_share": busy / seconds / usable_cores(),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--through", nargs="+", default=list(_WAYS), choices=list(_WAYS))
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--calls", type=int, default=8000)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--books", action="store_true")
    arguments = parser.parse_args()
    rows = []
    for way in arguments.through:
        with tempfile.TemporaryDirectory(prefix="books-") as folder:
            books = RunBooks.begin(DatasetFolder(folder)) if arguments.books else None
            rows.append(measure(way, arguments.in_flight, arguments.calls, books))
    for row in rows:
        print(json.dumps(row))
    report = {
        "processor": platform.processor(),
        "cores": usable_cores(),
        "grpc": grpc.__version__,
        "beam": beam.__version__,
        "rows": rows,
    }
    arguments.output.mkdir(parents=True, exist_ok=True)
    day = datetime.datetime.now(datetime.UTC).date().isoformat()
    file = arguments.output / f"grpc_client-{day}.json"
    file.write_text(json.dumps(report, indent=2) + "\n")
    print(file)


if __name__ == "__main__":
    main()
