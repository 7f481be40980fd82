"""Our server over a network that takes its time and computes nothing.

    python -m benchmarks.pipeline.slow_service SECONDS

Prints the address that it listens on, and serves until SIGTERM. It has neither keys nor a ledger.
"""

import asyncio
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from apache_beam.ml.inference.base import PredictionResult

from beam_upscale.inference.elements import Inference, TiledImage
from beam_upscale.inference.local_engines import EsrganEngine
from beam_upscale.inference.networks.backend import NetworkBackend
from beam_upscale.inference.networks.device import Device, Precision
from beam_upscale.pipeline.settings.pinned import Stage
from beam_upscale.pipeline.settings.upscale_settings import UpscaleSettings
from beam_upscale.planning.engines import get_engine
from beam_upscale.server.listening import Addresses
from beam_upscale.server.serve import run
from beam_upscale.server.settings import ServeSettings
from beam_upscale.server.worker import LoadedNetwork, Worker

ENGINE = "esrgan-v1-x2plus"
_MOST_CALLS = 64


class SlowNetwork:
    """In place of a handler: it waits, then repeats each pixel.

    Args:
        seconds: that it waits for each image.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def run_inference(self, batch: Sequence[TiledImage], model: None) -> Iterator[PredictionResult]:
        for tiled in batch:
            time.sleep(self._seconds)
            cores = [tile.pixels.repeat(2, axis=0).repeat(2, axis=1) for tile in tiled.tiles]
            yield PredictionResult(tiled, Inference(cores=cores))


class WaitingWorker(Worker):
    """A worker whose network computes nothing, so that all calls may wait at once."""

    @property
    def threads(self) -> int:
        return _MOST_CALLS


def network(seconds: float) -> LoadedNetwork:
    """The slow network behind the default engine."""
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
    return LoadedNetwork(Stage(get_engine(ENGINE), engine), SlowNetwork(seconds), None)


def main() -> None:
    settings = ServeSettings(
        UpscaleSettings(engines=(ENGINE,)),
        port=0,
        max_queue=10 * _MOST_CALLS,
        max_in_flight_per_key=10 * _MOST_CALLS,
    )

    def on_ready(addresses: Addresses, _: Any) -> None:
        print(addresses.grpc, flush=True)

    worker = WaitingWorker([network(float(sys.argv[1]))])
    try:
        asyncio.run(run(settings, worker, on_ready))
    finally:
        worker.close()


if __name__ == "__main__":
    main()
