import dataclasses
import logging
import pickle
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import apache_beam as beam
import grpc
import numpy as np
import pytest
from apache_beam.ml.inference.base import PredictionResult, RunInference
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to
from grpc import StatusCode
from scripted_service import (
    ENGINE,
    ONE_CALL,
    PATIENCE,
    Held,
    after,
    answer,
    answer_with,
    begin,
    codes,
    doubled,
    engine_of,
    finish,
    handler_of,
    infer,
    noise,
    refuse,
    sent,
    service_with,
    whole,
    with_artifact,
)

from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.grpc_api.stubs import generation_pb2 as generation
from beam_upscale.images.writing import encoding
from beam_upscale.inference.elements import Inference, Tile, TiledImage
from beam_upscale.inference.handlers.remote import RemoteHandler
from beam_upscale.pipeline.one_image.run_inference import AwaitResults
from beam_upscale.planning.engines import get_engine
from beam_upscale.planning.parameters import Parameters
from beam_upscale.planning.tile_layout import Box

pytestmark = pytest.mark.usefixtures("short_pauses", "no_key")

KEY = "sk-do-not-tell-anyone"

# Images that RunInference is given together.
AT_ONCE = 12


# Results


def test_an_image_is_what_the_service_makes_of_it() -> None:
    with service_with() as service:
        (inference,) = infer(handler_of(service), [whole("a")])

    assert inference.error is None
    assert inference.stop is None
    assert np.array_equal(inference.cores[0], doubled(noise()))
    assert inference.request_ids == (service.requests[0].request_id,)
    assert inference.billed_credits == ONE_CALL
    assert inference.attempts == 1
    assert inference.queue_seconds >= 0


def test_gray_and_sixteen_bits_stay_what_they_are() -> None:
    gray, deep = noise(channels=1), noise(dtype=np.uint16)
    with service_with() as service:
        inferences = infer(handler_of(service), [whole("gray", gray), whole("deep", deep)])

    for inference, pixels in zip(inferences, (gray, deep), strict=True):
        assert inference.cores[0].dtype == pixels.dtype
        assert np.array_equal(inference.cores[0], doubled(pixels))


def test_only_the_core_of_a_tile_is_kept() -> None:
    tiled = TiledImage([Tile(noise(6, 8), Box(2, 1, 5, 4))], scale=2)
    with service_with() as service:
        (inference,) = infer(handler_of(service), [tiled])

    assert np.array_equal(inference.cores[0], doubled(noise(6, 8))[2:10, 4:14])
    assert inference.cores[0].base is None


def test_prices_follow_the_engine_and_the_size_of_each_tile() -> None:
    engine = get_engine("stable-diffusion-x4-latent-upscaler")
    small, large = noise(8, 8), noise(512, 513)
    tiles = [Tile(pixels, Box(0, 0, *pixels.shape[1::-1])) for pixels in (small, large)]
    black = [
        encoding.encode(np.zeros((4 * h, 4 * w, 3), np.uint8)).data for h, w in ((8, 8), (512, 513))
    ]

    def fourfold(request: Any, context: Any) -> Any:
        yield with_artifact(black[len(sent(request)) > 8])

    with service_with(fourfold) as service:
        pinned = dataclasses.replace(engine_of(service), engine=engine.name)
        tiled = TiledImage(tiles, 4, Parameters(seed=1), identity=("a", 0))
        (inference,) = infer(RemoteHandler(pinned, engine), [tiled])

    assert inference.error is None
    assert inference.billed_credits == Decimal(8 + 12)


# What is billed


def test_an_artifact_that_cannot_be_used_is_billed_and_not_asked_for_again() -> None:
    png = encoding.encode(doubled(noise())).data
    small, large = (encoding.encode(np.zeros((s, 16, 3), np.uint8)).data for s in (11, 1200))
    for artifact, code in [
        (png[: len(png) // 2], ErrorCode.INVALID_RESULT),
        (b"no image", ErrorCode.INVALID_RESULT),
        (b"", ErrorCode.INVALID_RESULT),
        (small, ErrorCode.WRONG_RESULT_SIZE),
        (large, ErrorCode.WRONG_RESULT_SIZE),
    ]:
        with service_with(answer_with(with_artifact(artifact))) as service:
            (inference,) = infer(handler_of(service), [whole("a")])

        assert codes([inference]) == [code]
        assert inference.cores == []
        assert inference.billed_credits == ONE_CALL
        assert inference.request_ids == (service.requests[0].request_id,)
        assert len(service.requests) == 1


def test_an_answer_that_comes_twice_is_billed_once() -> None:
    twice = with_artifact(encoding.encode(doubled(noise())).data)
    with service_with(answer_with(twice, twice)) as service:
        (inference,) = infer(handler_of(service), [whole("a")])

    assert inference.error is None
    assert inference.billed_credits == ONE_CALL


def test_a_result_counts_whatever_follows_it() -> None:
    spoilt = generation.Answer(artifacts=[generation.Artifact(finish_reason=generation.ERROR)])
    png = encoding.encode(doubled(noise())).data
    steps = [
        after(answer, StatusCode.UNAVAILABLE),
        after(answer, StatusCode.UNAUTHENTICATED),
        answer_with(with_artifact(png), spoilt),
        answer_with(with_artifact(png), b"\xff\xff no message"),
    ]
    for step in steps:
        with service_with(step) as service:
            (inference,) = infer(handler_of(service), [whole("a")])

        assert inference.error is None
        assert inference.stop is None
        assert inference.billed_credits == ONE_CALL
        assert len(service.requests) == 1


def test_a_lost_image_is_billed_for_what_is_under_way_and_nothing_else_is_sent() -> None:
    held = Held()
    filtered = finish(generation.FILTER)
    with service_with(held, filtered, answer) as service:
        handler = handler_of(service, max_in_flight=2)
        window = handler.load_model()
        (pending,) = begin(handler, [whole("a", tiles=4)], window)
        (neighbor,) = infer(handler, [whole("b")], window)
        assert not pending.done()
        held.go_on.set()
        inference = pending.result()

    assert codes([inference]) == [ErrorCode.FILTERED]
    assert inference.billed_credits == ONE_CALL
    assert inference.request_ids == (service.requests[0].request_id,)
    assert neighbor.error is None
    assert len(service.requests) == 3


def test_a_call_of_a_lost_image_that_was_sent_is_asked_for_until_it_is_settled() -> None:
    """It may have been billed where its answer was lost on the way."""
    held = Held(refuse(StatusCode.UNAVAILABLE))
    refused = refuse(StatusCode.INVALID_ARGUMENT)
    with service_with(held, refused, answer) as service:
        (pending,) = begin(handler_of(service), [whole("a", tiles=2)])
        while len(service.requests) < 2:
            assert held.begun.wait(PATIENCE)
        held.go_on.set()
        inference = pending.result()

    assert codes([inference]) == [ErrorCode.REQUEST_REFUSED]
    assert inference.billed_credits == ONE_CALL
    assert inference.attempts == 2


def test_a_tile_that_cannot_be_encoded_fails_its_image(monkeypatch: pytest.MonkeyPatch) -> None:
    original, failures = encoding.encode, [ImageError(ErrorCode.ENCODE_ERROR, "no"), MemoryError()]

    def encode(pixels: np.ndarray, *rest: Any, **options: Any) -> Any:
        if pixels.shape[0] == 7:
            raise failures.pop(0)
        return original(pixels, *rest, **options)

    tiles = [Tile(noise(h, 8), Box(0, 0, 8, h)) for h in (7, 6)]
    with service_with() as service:
        monkeypatch.setattr(encoding, "encode", encode)
        handler = handler_of(service, max_in_flight=1)
        images = [TiledImage(tiles, 2, identity=("a", 0)), TiledImage(tiles, 2), whole("b")]
        inferences = infer(handler, images)

    assert codes(inferences) == [ErrorCode.ENCODE_ERROR, ErrorCode.OUT_OF_MEMORY, None]
    assert len(service.requests) == 1


# Secrets


def test_the_key_is_sent_and_shown_nowhere(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("BEAM_UPSCALE_API_KEY", f"{KEY}\n")
    with service_with(refuse(StatusCode.INVALID_ARGUMENT, f"key {KEY}"), answer) as service:
        handler = handler_of(service)
        window = handler.load_model()
        refused, done = infer(handler, [whole("a")], window) + infer(handler, [whole("b")], window)

    assert [sent["authorization"] for sent in service.metadata] == [f"Bearer {KEY}"] * 2
    shown = [repr(handler), repr(window), repr(refused), repr(done), str(vars(handler))]
    shown += [str(vars(window)), str(vars(window._caller)), caplog.text]
    assert not any(KEY in text for text in shown)
    assert KEY.encode() not in pickle.dumps(handler)
    assert KEY.encode() not in pickle.dumps([refused, done])


# Flow


def test_no_image_waits_for_a_slow_one() -> None:
    slow = Held()
    with service_with(slow, answer) as service:
        handler = handler_of(service, max_in_flight=2)
        window = handler.load_model()
        (waiting,) = begin(handler, [whole("slow")], window)
        assert slow.begun.wait(PATIENCE)
        others = infer(handler, [whole(str(n)) for n in range(20)], window)
        assert not waiting.done()
        slow.go_on.set()
        assert waiting.result().error is None

    assert codes(others) == [None] * 20
    assert service.most_at_once == 2


def test_threads_wait_once_twice_as_many_calls_are_asked_for_as_may_be_under_way() -> None:
    held = Held()
    with service_with(held) as service, ThreadPoolExecutor(8) as threads:
        handler = handler_of(service, max_in_flight=3)
        window = handler.load_model()
        submitted = [threads.submit(begin, handler, [whole(str(n))], window) for n in range(8)]
        while sum(future.done() for future in submitted) < 6 or len(service.requests) < 3:
            threading.Event().wait(0.01)
        threading.Event().wait(0.2)

        assert sum(future.done() for future in submitted) == 6
        assert service.most_at_once == len(service.requests) == 3
        held.go_on.set()
        pending = [each for future in submitted for each in future.result(PATIENCE)]
        assert codes([each.result() for each in pending]) == [None] * 8

    assert service.most_at_once == 3


def test_many_threads_that_take_their_results_late_get_all_of_them() -> None:
    with service_with() as service, ThreadPoolExecutor(8) as threads:
        handler = handler_of(service, max_in_flight=4)
        window = handler.load_model()

        def feed(thread: int) -> list[Any]:
            images = [whole(f"{thread}-{n}", tiles=1 + n % 11) for n in range(9)]
            return begin(handler, images, window)

        pending = list(threads.map(feed, range(8)))
        inferences = [each.result() for of_thread in pending for each in of_thread]

    assert codes(inferences) == [None] * 72
    assert [len(i.cores) for i in inferences] == [1 + n % 11 for n in range(9)] * 8
    assert service.most_at_once <= 4
    assert set(service.attempts.values()) == {1}


def test_a_burst_of_refusals_narrows_the_window_and_all_images_are_done() -> None:
    busy = [refuse(StatusCode.RESOURCE_EXHAUSTED, "slow down", retry_seconds=0.05)] * 30
    with service_with(*busy, answer) as service:
        handler = handler_of(service, max_in_flight=8)
        window = handler.load_model()
        inferences = infer(handler, [whole(str(n)) for n in range(24)], window)
        limit = window._throttle.limit

    assert codes(inferences) == [None] * 24
    assert 1 <= limit < 8
    assert len(service.requests) == 24 + 30


# Beam


def test_a_handler_can_be_pickled_and_a_window_cannot() -> None:
    with service_with() as service:
        handler = handler_of(service)
        window = handler.load_model()
        again = pickle.loads(pickle.dumps(handler))

        assert again.load_model() is window
        assert codes(infer(again, [whole("a")])) == [None]
        with pytest.raises(TypeError, match="cannot be pickled"):
            pickle.dumps(window)


def test_images_go_through_beam_one_by_one() -> None:
    with service_with() as service:
        handler = RemoteHandler(
            engine_of(service), get_engine(ENGINE), min_batch_size=50, large_model=True
        )

        def check(results: list[PredictionResult]) -> None:
            # They came through a shuffle, where what was pending was waited for.
            assert len(results) == 30
            for result in results:
                assert type(result.inference) is Inference
                assert np.array_equal(result.inference.cores[0], doubled(noise()))

        with beam.Pipeline(runner=FnApiRunner()) as pipeline:
            results = (
                pipeline
                | beam.Create([str(number) for number in range(30)])
                | beam.Map(whole)
                | RunInference(handler)
                | beam.Reshuffle()
            )
            assert_that(results, check)

    assert len(service.requests) == 30


class Together:
    """A step that answers once so many attempts have arrived."""

    def __init__(self, attempts: int) -> None:
        self._barrier = threading.Barrier(attempts, timeout=PATIENCE)

    def __call__(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        self._barrier.wait()
        yield from answer(request, context)


class NameWithError(AwaitResults):
    """Stands for what makes rows of results."""

    def __init__(self) -> None:
        super().__init__(settings=None)  # type: ignore[arg-type]

    def settled(self, tiled: TiledImage, inference: Inference) -> tuple[str, str]:
        return tiled.identity[0], str(inference.error)


def test_beam_waits_for_no_call_before_the_next_is_begun() -> None:
    with (
        service_with(Together(AT_ONCE)) as service,
        beam.Pipeline(runner=FnApiRunner()) as pipeline,
    ):
        results = (
            pipeline
            | beam.Create([[str(number) for number in range(AT_ONCE)]])
            | beam.FlatMap(lambda names: [whole(name) for name in names])
            | RunInference(handler_of(service, retry_seconds=0.001))
            | beam.ParDo(NameWithError())
        )
        assert_that(results, equal_to([(str(number), "None") for number in range(AT_ONCE)]))

    assert len(service.requests) == AT_ONCE


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


def test_engines_of_a_chain_share_a_window_and_other_settings_have_their_own() -> None:
    latent = get_engine("stable-diffusion-x4-latent-upscaler")
    with service_with() as service:
        pinned = engine_of(service)
        window = handler_of(service).load_model()
        other = RemoteHandler(dataclasses.replace(pinned, engine=latent.name), latent)
        narrow = RemoteHandler(dataclasses.replace(pinned, max_in_flight=2), get_engine(ENGINE))

        assert other.load_model() is window
        assert narrow.load_model() is not window
