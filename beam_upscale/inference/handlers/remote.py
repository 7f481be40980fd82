"""The handler of engines behind the gRPC API, under RunInference."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Unpack

from apache_beam.coders.observable import ObservableMixin
from apache_beam.ml.inference.base import PredictionResult

from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.inference.elements import TiledImage
from beam_upscale.inference.handlers.base import TiledImageHandler
from beam_upscale.inference.handlers.options import HandlerOptions
from beam_upscale.inference.remote.account import Account
from beam_upscale.inference.remote.calls import Call, ImageCalls, Outcome
from beam_upscale.inference.remote.pending import PendingImage
from beam_upscale.inference.remote.requests import request_for
from beam_upscale.inference.remote.window import Window, shared_window
from beam_upscale.inference.remote_engines import RemoteEngine
from beam_upscale.planning.engines import Engine


class RemoteHandler(TiledImageHandler[Window]):
    """Upscales images with an engine behind the gRPC API.

    Beam's "model" is here the process's window of calls. Give RunInference no `model_identifier`:
    Beam would keep the window for later runs in the same process, also one that was stopped because
    its key was refused. The engines of a chain share a window nevertheless.

    Args:
        pinned: the pinned engine, with its service.
        engine: the engine's scale and prices.
        **options: Beam's own. Their batch sizes are ignored: images are handed over one by one, and
            the window bounds the number of calls in progress.
    """

    def __init__(
        self, pinned: RemoteEngine, engine: Engine, **options: Unpack[HandlerOptions]
    ) -> None:
        super().__init__(**{**options, "min_batch_size": 1, "max_batch_size": 1})
        self._pinned = pinned
        self._engine = engine

    def load_model(self) -> Window:
        """Returns the window of this process, with the API key that this process finds.

        Raises:
            SettingsError: API_KEY_REFUSED, the file or variable holds no key.
        """
        return shared_window(Account.of(self._pinned))

    def run_inference(
        self,
        batch: Sequence[TiledImage],
        model: Window,
        inference_args: Mapping[str, Any] | None = None,
    ) -> Iterator[PredictionResult]:
        """Submits a call for every tile of every image.

        Waits only while the window is full.

        Args:
            batch: images with their tiles; may be empty.
            model: the process's window.
            inference_args: ignored.

        Yields:
            A PredictionResult for each image; its inference is a `PendingInference`.
        """
        del inference_args
        for tiled in batch:
            yield PendingResult(tiled, self._begin(tiled, model))

    def _begin(self, tiled: TiledImage, window: Window) -> PendingImage:
        image, error = ImageCalls(), None
        calls: list[Future[Outcome]] = []
        for index, tile in enumerate(tiled.tiles):
            height, width = tile.pixels.shape[:2]
            if image.is_lost:
                break
            try:
                prepare = functools.partial(self._call, tiled, index, image)
                calls.append(window.submit(height * width, prepare))
            except ImageError as refused:
                error = refused
            except MemoryError:
                text = f"a tile of {width} x {height} px does not fit in memory"
                error = ImageError(ErrorCode.OUT_OF_MEMORY, text)
            image.is_lost = image.is_lost or error is not None
        return PendingImage(tiled, self._engine, calls, error)

    def _call(self, tiled: TiledImage, index: int, image: ImageCalls) -> Call:
        request = request_for(self._pinned.engine, tiled, index)
        message = request.SerializeToString(deterministic=True)
        if tiled.booking is None:
            return Call(request.request_id, message, image)
        height, width = tiled.tiles[index].pixels.shape[:2]
        stage_and_tile = tiled.identity[1], tiled.first + index
        price = self._engine.credits(width, height)
        paid = tiled.booking.call(stage_and_tile, request.request_id, price, self._pinned)
        return Call(request.request_id, message, image, paid)

    def share_model_across_processes(self) -> bool:
        """Returns False: a window belongs to its process."""
        return False


class PendingResult(PredictionResult, ObservableMixin):
    """The element that RunInference gives for an image whose calls are in progress.

    Beam measures the size of some elements, the first ten among them, by pickling them. That would
    wait for the calls of each before the next is begun. Beam does not measure an observable.
    """

    def __init__(self, *fields: Any) -> None:
        del fields  # `__new__` sets them, as for every tuple.
        ObservableMixin.__init__(self)

    def __reduce__(self) -> tuple[type[PredictionResult], tuple[Any, ...]]:
        """Pickles as an ordinary `PredictionResult`, which waits for the calls."""
        return PredictionResult, tuple(self)
