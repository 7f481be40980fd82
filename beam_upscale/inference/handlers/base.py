"""The base classes of all handlers, and of the handlers of local engines."""

import abc
import contextlib
import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from typing import Any, TypeVar, Unpack

import numpy as np
from apache_beam.metrics import Metrics
from apache_beam.ml.inference.base import ModelHandler, PredictionResult

from beam_upscale.errors import BrokenProcessError, ErrorCode, ImageError, SettingsError
from beam_upscale.inference.batching import Batched
from beam_upscale.inference.elements import METRICS, Inference, Tile, TiledImage
from beam_upscale.inference.handlers.options import HandlerOptions
from beam_upscale.inference.local_engines import LocalEngine
from beam_upscale.inference.networks.failures import (
    Fault,
    device_lost,
    fault_of,
    is_out_of_memory,
    no_picture_works,
)

# A device works on one batch while the next gathers; more threads than this gain nothing.
_MOST_THREADS = 64

# The pixels of the images that RunInference hands over together: enough for a device's next batch,
# and no more.
_BATCHES_AHEAD = 2

# The same limit for small images: results that wait for a full batch are not durable yet.
_MOST_IMAGES_AHEAD = 64

# The side in pixels of the probe picture, which distinguishes a failing device from a failing
# image.
_PROBE_SIDE = 32

Loaded = TypeVar("Loaded")


@dataclasses.dataclass(frozen=True)
class UpscaledTile:
    """A network's result for one tile.

    Attributes:
        batched: the tile's result, whole, at the network's scale.
        notes: notes on changes that the network had to make.
        counts: increments of metrics, by their names.
    """

    batched: Batched
    notes: tuple[str, ...] = ()
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)


class TiledImageHandler(ModelHandler[TiledImage, PredictionResult, Loaded]):
    """The base of all handlers: gives RunInference the size of images with their tiles.

    It gives no resource hints; a pipeline requests an accelerator by hints of its own.
    """

    def get_num_bytes(self, batch: Sequence[TiledImage]) -> int:
        """Returns the number of bytes of all tiles."""
        return sum(tile.pixels.nbytes for tiled in batch for tile in tiled.tiles)

    def get_metrics_namespace(self) -> str:
        """Returns the namespace of RunInference's metrics."""
        return METRICS


class EngineHandler(TiledImageHandler[Loaded], abc.ABC):
    """The base of handlers that upscale images on a worker.

    Args:
        engine: the pinned engine: a network or a baseline.
        **options: Beam's own.

    A tile's error concerns its image only: the image's `Inference` carries it, and nothing is
    raised, so that one image does not cost its whole batch. An error of the device is recognized by
    its text, or because a small probe picture fails too. It becomes the `stop` of its image and of
    all later images.
    """

    def __init__(self, engine: LocalEngine, **options: Unpack[HandlerOptions]) -> None:
        bounds = _batch_bounds(engine, options)
        least = max(1, bounds["max_batch_size"] // _MOST_IMAGES_AHEAD)
        weight = functools.partial(_batch_weight, least=least)
        super().__init__(element_size_fn=weight, **{**options, **bounds})
        self._max_batch_pixels = engine.max_batch_pixels

    @abc.abstractmethod
    def upscale(self, tile: Tile, tiled: TiledImage, loaded: Loaded) -> UpscaledTile:
        """Upscales one tile, in a batch with the tiles of other threads.

        Args:
            tile: the tile.
            tiled: the image that it belongs to.
            loaded: the loaded network that `load_model` returned, or Beam's proxy for it.

        Raises:
            ImageError: this tile, or its image, cannot be upscaled.
            BrokenProcessError: the device is lost.
        """

    @abc.abstractmethod
    def probe(self, pixels: np.ndarray, tiled: TiledImage, loaded: Loaded) -> None:
        """Upscales a picture that needs hardly any memory, in the same way as a tile.

        Args:
            pixels: the picture, (H, W, C).
            tiled: the image whose prompt and parameters guide the network.
            loaded: as for `upscale`.

        Raises:
            Exception: any exception of the network.
        """

    @abc.abstractmethod
    def lose_device(self, error: BrokenProcessError, loaded: Loaded) -> None:
        """Makes all later tiles fail at once, after the device is lost."""

    def run_inference(
        self,
        batch: Sequence[TiledImage],
        model: Loaded,
        inference_args: Mapping[str, Any] | None = None,
    ) -> Iterator[PredictionResult]:
        """Upscales every tile of every image.

        Args:
            batch: images with their tiles; empty if the first image alone exceeds Beam's batch
                size.
            model: the loaded network, or Beam's proxy for one in another process.
            inference_args: ignored.

        Yields:
            A PredictionResult for each image; its inference is an `Inference`.
        """
        del inference_args
        threads = self._threads(batch)
        # A pool costs more than a small tile, so a single thread needs none.
        pool = ThreadPoolExecutor(threads) if threads > 1 else contextlib.nullcontext()
        with pool as executor:
            # All tiles are submitted before the first result is awaited.
            each = map if executor is None else executor.map
            pending = [
                each(self._upscale, tiled.tiles, repeat(tiled), repeat(model)) for tiled in batch
            ]
            for tiled, results in zip(batch, pending, strict=True):
                yield PredictionResult(tiled, _gather(results))

    def _threads(self, batch: Sequence[TiledImage]) -> int:
        """Returns the threads that keep a device's next batch full; 1 if tiles run one by one."""
        shapes = [tile.pixels.shape for tiled in batch for tile in tiled.tiles]
        largest = max((height * width for height, width, _ in shapes), default=1)
        ahead = _BATCHES_AHEAD * self._max_batch_pixels // largest
        return max(1, min(_MOST_THREADS, len(shapes), ahead))

    def _upscale(
        self, tile: Tile, tiled: TiledImage, loaded: Loaded
    ) -> UpscaledTile | ImageError | BrokenProcessError:
        try:
            upscaled = self.upscale(tile, tiled, loaded)
            core = tile.upscaled_core(upscaled.batched.pixels, tiled.scale)
        except SettingsError as error:
            if not isinstance(error, BrokenProcessError):
                raise
            return error
        except Exception as error:  # One image's failure must not cost the others of its bundle.
            return self._broken(error, tile, tiled, loaded) or _image_error(error, tile)
        whole = upscaled.batched
        batched = Batched(core, whole.device_seconds, whole.queue_seconds, whole.batch_size)
        return UpscaledTile(batched, upscaled.notes, upscaled.counts)

    def _broken(
        self, error: Exception, tile: Tile, tiled: TiledImage, loaded: Loaded
    ) -> BrokenProcessError | None:
        """Returns the error of a lost device; None if the image is the cause of the error."""
        match fault_of(error):
            case Fault.IMAGE:
                return None
            case Fault.DEVICE:
                broken = device_lost(error)
            case Fault.UNCLEAR:
                channels = tile.pixels.shape[2]
                gray = np.full((_PROBE_SIDE, _PROBE_SIDE, channels), 128, tile.pixels.dtype)
                try:
                    self.probe(gray, tiled, loaded)
                    return None
                except Exception as failure:
                    broken = no_picture_works(failure)
        # The process that runs the network may be gone itself.
        with contextlib.suppress(ConnectionError, EOFError):
            self.lose_device(broken, loaded)
        return broken


def _batch_bounds(engine: LocalEngine, asked: HandlerOptions) -> dict[str, int]:
    """Returns the batch bounds in input pixels; a bound that the user set adjusts the other."""
    ahead = max(1, _BATCHES_AHEAD * engine.max_batch_pixels)
    smallest, largest = asked.get("min_batch_size"), asked.get("max_batch_size")
    return {
        "min_batch_size": min(ahead, largest or ahead) if smallest is None else smallest,
        "max_batch_size": max(ahead, smallest or ahead) if largest is None else largest,
    }


def _batch_weight(tiled: TiledImage, least: int) -> int:
    """Returns the share of a batch that an image takes, in pixels; at least `least`."""
    return max(least, tiled.pixels)


def _image_error(error: Exception, tile: Tile) -> ImageError:
    if isinstance(error, ImageError):
        return error
    if is_out_of_memory(error):
        height, width = tile.pixels.shape[:2]
        return ImageError(
            ErrorCode.OUT_OF_MEMORY, f"a tile of {width} x {height} px does not fit in memory"
        )
    return ImageError(ErrorCode.MODEL_ERROR, f"{type(error).__name__}: {error}")


def _gather(results: Iterable[UpscaledTile | ImageError | BrokenProcessError]) -> Inference:
    tiles: list[UpscaledTile] = []
    error: ImageError | None = None
    stop: BrokenProcessError | None = None
    for result in results:
        if isinstance(result, BrokenProcessError):
            stop = stop or result
        elif isinstance(result, ImageError):
            error = error or result
        else:
            tiles.append(result)
            for name, count in result.counts.items():
                Metrics.counter(METRICS, name).inc(count)
    batched = [tile.batched for tile in tiles]
    return Inference(
        cores=[] if error or stop else [each.pixels for each in batched],
        error=None if stop else error,
        notes=tuple(dict.fromkeys(note for tile in tiles for note in tile.notes)),
        device_seconds=sum(each.device_seconds for each in batched),
        queue_seconds=max((each.queue_seconds for each in batched), default=0.0),
        batch_size=max((each.batch_size for each in batched), default=0),
        stop=stop,
    )
