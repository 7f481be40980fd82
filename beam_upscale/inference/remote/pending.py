"""The images whose calls to the service are in progress."""

import concurrent.futures
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from decimal import Decimal
from typing import Any

import numpy as np

from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.inference.elements import Inference, TiledImage
from beam_upscale.inference.remote.calls import Outcome
from beam_upscale.inference.remote.results import core_of
from beam_upscale.planning.engines import Engine


class PendingImage:
    """The future inference of an image that a service upscales; a `PendingInference`.

    Results stay encoded until `result` is called; the thread that calls it decodes them.

    Args:
        tiled: the image.
        engine: the engine that upscales it.
        calls: the calls for its tiles, in the tiles' order, as far as they were begun.
        error: the reason why some calls were not begun; None if all were.
    """

    def __init__(
        self,
        tiled: TiledImage,
        engine: Engine,
        calls: "Sequence[Future[Outcome]]",
        error: ImageError | None = None,
    ) -> None:
        self._tiled = tiled
        self._engine = engine
        self._calls = list(calls)
        self._error = error
        self._lock = threading.Lock()
        self._inference: Inference | None = None

    def done(self) -> bool:
        """Checks whether all calls are settled."""
        return all(call.done() for call in self._calls)

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until all calls are settled, or for `timeout` seconds; returns True if they are."""
        return not concurrent.futures.wait(self._calls, timeout).not_done

    def result(self) -> Inference:
        """Returns the image's inference; waits until all its calls are settled.

        Raises:
            SettingsError: DECODER_UNAVAILABLE, ENCODER_UNAVAILABLE.
        """
        with self._lock:
            if self._inference is None:
                self._inference = self._made()
                self._calls.clear()
            return self._inference

    def _made(self) -> Inference:
        outcomes = [call.result() for call in self._calls]
        errors = (outcome.error for outcome in outcomes if outcome.error is not None)
        error = self._error or next(errors, None)
        stop = next((outcome.stop for outcome in outcomes if outcome.stop is not None), None)
        cores: list[np.ndarray] = []
        if error is None and stop is None:
            try:
                cores = self._cores(outcomes)
            except ImageError as unusable:
                error = unusable
        billed = [
            (outcome.request_id, self._price(index))
            for index, outcome in enumerate(outcomes)
            if outcome.artifact is not None
        ]
        return Inference(
            cores=cores,
            error=error,
            queue_seconds=max((outcome.queue_seconds for outcome in outcomes), default=0.0),
            request_ids=tuple(request_id for request_id, _ in billed),
            billed_credits=sum((price for _, price in billed), Decimal(0)),
            attempts=max((outcome.attempts for outcome in outcomes), default=1),
            stop=stop,
        )

    def _price(self, index: int) -> Decimal:
        height, width = self._tiled.tiles[index].pixels.shape[:2]
        return self._engine.credits(width, height)

    def _cores(self, outcomes: Sequence[Outcome]) -> list[np.ndarray]:
        """Decodes the cores of all tiles.

        Raises:
            ImageError: a result is not usable, or does not fit in memory.
            SettingsError: DECODER_UNAVAILABLE, ENCODER_UNAVAILABLE.
        """
        cores: list[np.ndarray] = []
        for tile, outcome in zip(self._tiled.tiles, outcomes, strict=True):
            assert outcome.artifact is not None, "neither error nor stop"
            try:
                core = core_of(outcome.artifact, tile, self._engine.scale, self._tiled.scale)
            except MemoryError:
                raise ImageError(
                    ErrorCode.OUT_OF_MEMORY, "the results do not fit in memory"
                ) from None
            cores.append(core)
        return cores

    def __reduce__(self) -> tuple[Callable[[Inference], Any], tuple[Inference]]:
        """Waits for the inference, which is pickled in the place of this object."""
        return _itself, (self.result(),)


def _itself(inference: Inference) -> Inference:
    return inference
