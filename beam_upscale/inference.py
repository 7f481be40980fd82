"""Beam's ModelHandler for local models, over the batcher that all threads of a process share.

The element of RunInference is one image with all its tiles. Where tiles meet tiles of other images
is the batcher, below Beam: it sees the tiles of all harness threads at once, and what shares a
batch there changes no result on a CPU.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np
from apache_beam.ml.inference.base import ModelHandler, PredictionResult

from beam_upscale import image, storage, tiling, weights
from beam_upscale.batching import Batched, Batcher
from beam_upscale.errors import BeamUpscaleError, ErrorCode, ImageError, SettingsError
from beam_upscale.plan import Box
from beam_upscale.settings import LocalModel

METRICS = "beam_upscale"

# A device works on one batch while the next gathers; more threads than this gain nothing.
_MOST_THREADS = 64

# Images that RunInference hands over together: enough for a device's next batch, and no more
# pixels in memory than that.
_BATCHES_AHEAD = 2

# However few pixels they have: what waits for company is not durable yet.
_MOST_IMAGES_AHEAD = 64


@dataclasses.dataclass(frozen=True)
class Tile:
    """A part of an image as the network sees it.

    Attributes:
        pixels: (H, W, C), uint8 or uint16, C in {1, 3}, halo included.
        core: the part of it whose result is kept.
    """

    pixels: np.ndarray
    core: Box


@dataclasses.dataclass(frozen=True)
class TiledImage:
    """An image with all its tiles: the element of RunInference.

    Attributes:
        tiles: none where there is nothing to do for the network; such an image passes through.
        scale: of the results; a network with a larger one is reduced to it.
        context: what the caller needs to make a result of the cores; not looked at.
    """

    tiles: tuple[Tile, ...]
    scale: int
    context: Any = None

    @property
    def pixels(self) -> int:
        """Input pixels of all tiles."""
        return sum(tile.pixels.shape[0] * tile.pixels.shape[1] for tile in self.tiles)


@dataclasses.dataclass(frozen=True)
class Inference:
    """What became of a `TiledImage`.

    Attributes:
        cores: the tiles' cores, upscaled: (core height x scale, core width x scale, C). A list, so
            that who stitches them can free each as it is pasted.
        error: why there are none.
        device_seconds: of all tiles together.
        queue_seconds: the longest wait of a tile for the device.
        batch_size: the most tiles that a batch with one of these had.
    """

    cores: list[np.ndarray] = dataclasses.field(default_factory=list)
    error: ImageError | None = None
    device_seconds: float = 0.0
    queue_seconds: float = 0.0
    batch_size: int = 0


class UpscaleModelHandler(ModelHandler[TiledImage, PredictionResult, Batcher]):
    """Upscales images with a local ESRGAN-family network.

    Args:
        model: the pinned network.
        **kwargs: Beam's own: `min_batch_size`, `max_batch_size`, `large_model`, `model_copies`,
            `env_vars`. Batch sizes count input pixels.

    A tile's error concerns its image only: the image's `Inference` carries it, and nothing is
    raised, so that no batch is lost for one image.
    """

    def __init__(self, model: LocalModel, **kwargs: Any) -> None:
        bounds = _batch_bounds(model, kwargs)
        least = max(1, bounds["max_batch_size"] // _MOST_IMAGES_AHEAD)
        weight = functools.partial(_batch_weight, least=least)
        super().__init__(element_size_fn=weight, **{**kwargs, **bounds})
        self._model = model

    def load_model(self) -> Batcher:
        """Brings the weights to this machine, loads the network and puts the batcher before it."""
        # Only a worker that runs the network needs torch.
        from beam_upscale.models.esrgan import EsrganModel

        model = self._model
        path = _weights_path(model)
        network = EsrganModel.load(path, model.device, model.precision, model.threads)
        return Batcher(network.upscale, model.max_batch_pixels)

    def run_inference(
        self,
        batch: Sequence[TiledImage],
        model: Batcher,
        inference_args: Mapping[str, Any] | None = None,
    ) -> Iterator[PredictionResult]:
        """Upscales every tile of every image.

        Args:
            batch: images with their tiles; may be empty, as Beam's batching makes it when the
                first image alone exceeds a batch.
            model: the process's batcher, or Beam's proxy for one in another process.
            inference_args: none are taken.

        Yields:
            For each image a PredictionResult whose inference is an `Inference`.
        """
        del inference_args
        with _threads(self._model, batch) as executor:
            # All tiles are handed over before the first result is waited for.
            pending = [
                executor.map(self._upscale, tiled.tiles, repeat(tiled.scale), repeat(model))
                for tiled in batch
            ]
            for tiled, results in zip(batch, pending, strict=True):
                yield PredictionResult(tiled, _gather(results))

    def _upscale(self, tile: Tile, scale: int, batcher: Batcher) -> Batched | ImageError:
        try:
            return self._upscale_core(tile, scale, batcher)
        except ImageError as error:
            return error
        except BeamUpscaleError:
            raise
        except MemoryError:
            height, width = tile.pixels.shape[:2]
            return ImageError(
                ErrorCode.OUT_OF_MEMORY, f"a tile of {width} x {height} px does not fit in memory"
            )
        except Exception as error:  # One image's failure must not cost the others of its bundle.
            return ImageError(ErrorCode.MODEL_ERROR, f"{type(error).__name__}: {error}")

    def _upscale_core(self, tile: Tile, scale: int, batcher: Batcher) -> Batched:
        height, width = tile.pixels.shape[:2]
        if height * width <= self._model.max_tile_pixels:
            batched = batcher.upscale(tile.pixels)
        else:
            batched = self._upscale_in_parts(tile.pixels, batcher)
        result = image.resize(batched.pixels, width * scale, height * scale)
        core = tile.core
        kept = result[
            core.top * scale : (core.top + core.height) * scale,
            core.left * scale : (core.left + core.width) * scale,
        ]
        if kept.shape != result.shape:
            # A view would keep the halo's pixels in memory.
            kept = kept.copy()
        return dataclasses.replace(batched, pixels=kept)

    def _upscale_in_parts(self, pixels: np.ndarray, batcher: Batcher) -> Batched:
        height, width = pixels.shape[:2]
        pieces = tiling.grid(width, height, self._model.max_tile_pixels, self._model.halo)
        parts = [batcher.upscale(part) for part in tiling.split(pixels, pieces)]
        scale = parts[0].pixels.shape[0] // pieces[0].extended.height
        cores = (
            tiling.crop_halo(part.pixels, piece, scale)
            for part, piece in zip(parts, pieces, strict=True)
        )
        return Batched(
            pixels=tiling.stitch(cores, pieces, scale, width, height),
            device_seconds=sum(part.device_seconds for part in parts),
            queue_seconds=max(part.queue_seconds for part in parts),
            batch_size=max(part.batch_size for part in parts),
        )

    def get_num_bytes(self, batch: Sequence[TiledImage]) -> int:
        """Bytes of all tiles."""
        return sum(tile.pixels.nbytes for tiled in batch for tile in tiled.tiles)

    def get_metrics_namespace(self) -> str:
        """The namespace of RunInference's metrics."""
        return METRICS

    def get_resource_hints(self) -> dict[str, Any]:
        """An accelerator is left to the pipeline's own resource hints; none is assumed."""
        return {}


def _batch_bounds(model: LocalModel, asked: Mapping[str, Any]) -> dict[str, int]:
    """Smallest and largest batch in input pixels; where one is asked for, the other gives way."""
    ahead = max(1, _BATCHES_AHEAD * model.max_batch_pixels)
    smallest, largest = asked.get("min_batch_size"), asked.get("max_batch_size")
    return {
        "min_batch_size": min(ahead, largest or ahead) if smallest is None else smallest,
        "max_batch_size": max(ahead, smallest or ahead) if largest is None else largest,
    }


def _batch_weight(tiled: TiledImage, least: int) -> int:
    """How much of a batch an image fills, in pixels; `least` where it has fewer, or no tiles."""
    return max(least, tiled.pixels)


def _weights_path(model: LocalModel) -> Path:
    """A file on this machine that holds the pinned weights, and no others.

    Raises:
        SettingsError: WEIGHTS_UNAVAILABLE or WEIGHTS_MISMATCH.
    """
    registered = weights.REGISTRY.get(model.name)
    if not storage.exists(model.weights_uri):
        # A path of the submitting machine; this one may have the same weights by their name.
        if registered is not None and registered.sha256 == model.weights_sha256:
            return weights.fetch(registered).path
        raise SettingsError(
            ErrorCode.WEIGHTS_UNAVAILABLE,
            f"{model.weights_uri} is not there for this worker; put the weights where all workers "
            "can read them and pass that URI",
        )
    suffix = PurePosixPath(model.weights_uri).suffix
    if not storage.is_local(model.weights_uri):
        open_source = functools.partial(_open_weights, model.weights_uri)
        return weights.store(model.weights_sha256, suffix, open_source)
    path = Path(model.weights_uri)
    found = weights.sha256_of(path)
    if found != model.weights_sha256:
        raise SettingsError(
            ErrorCode.WEIGHTS_MISMATCH,
            f"{path} has SHA-256 {found}; the run was begun with {model.weights_sha256}",
        )
    return path


def _open_weights(uri: str) -> BinaryIO:
    try:
        return storage.open_read(uri)
    except ImageError as error:
        raise SettingsError(ErrorCode.WEIGHTS_UNAVAILABLE, error.message) from error


def _threads(model: LocalModel, batch: Sequence[TiledImage]) -> ThreadPoolExecutor:
    """Enough threads to keep a device's next batch full; one where tiles run one at a time."""
    sizes = (tile.pixels.shape[0] * tile.pixels.shape[1] for tiled in batch for tile in tiled.tiles)
    largest = max(sizes, default=1)
    ahead = _BATCHES_AHEAD * model.max_batch_pixels // largest
    return ThreadPoolExecutor(max_workers=min(_MOST_THREADS, max(1, ahead)))


def _gather(results: Iterable[Batched | ImageError]) -> Inference:
    tiles: list[Batched] = []
    error: ImageError | None = None
    for result in results:
        if isinstance(result, ImageError):
            error = error or result
        else:
            tiles.append(result)
    return Inference(
        cores=[] if error else [tile.pixels for tile in tiles],
        error=error,
        device_seconds=sum(tile.device_seconds for tile in tiles),
        queue_seconds=max((tile.queue_seconds for tile in tiles), default=0.0),
        batch_size=max((tile.batch_size for tile in tiles), default=0),
    )
