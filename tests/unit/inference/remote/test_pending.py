import pickle
import threading
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import grpc
import numpy as np
from apache_beam.ml.inference.base import PredictionResult, RunInference
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to
from scripted_service import PATIENCE, answer, doubled, handler_of, noise, service_with, whole

from beam_upscale.inference.elements import Inference, TiledImage
from beam_upscale.pipeline.one_image.run_inference import Settle

IMAGES = 12


class Together:
    """A step that answers once so many attempts have arrived."""

    def __init__(self, attempts: int) -> None:
        self._barrier = threading.Barrier(attempts, timeout=PATIENCE)

    def __call__(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        self._barrier.wait()
        yield from answer(request, context)


class NameWithError(Settle):
    """Stands for what makes rows of results."""

    def __init__(self) -> None:
        super().__init__(settings=None)  # type: ignore[arg-type]

    def settled(self, tiled: TiledImage, inference: Inference) -> tuple[str, str]:
        return tiled.identity[0], str(inference.error)


def test_beam_waits_for_no_call_before_the_next_is_begun() -> None:
    with (
        service_with(Together(IMAGES)) as service,
        beam.Pipeline(runner=FnApiRunner()) as pipeline,
    ):
        results = (
            pipeline
            | beam.Create([[str(number) for number in range(IMAGES)]])
            | beam.FlatMap(lambda names: [whole(name) for name in names])
            | RunInference(handler_of(service, retry_seconds=0.001))
            | beam.ParDo(NameWithError())
        )
        assert_that(results, equal_to([(str(number), "None") for number in range(IMAGES)]))

    assert len(service.requests) == IMAGES


def test_a_pending_result_is_pickled_as_an_ordinary_one() -> None:
    with service_with() as service:
        handler = handler_of(service)
        (pending,) = handler.run_inference([whole("a")], handler.load_model())
        result = pickle.loads(pickle.dumps(pending))

    assert type(result) is PredictionResult
    assert result.example.identity == ("a", 0)
    assert type(result.inference) is Inference
    assert np.array_equal(result.inference.cores[0], doubled(noise()))
    assert result.model_id is None
