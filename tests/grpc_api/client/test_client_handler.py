import dataclasses
import logging
import pickle
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.ml.inference.base import PredictionResult, RunInference
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that
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
    doubled,
    finish,
    handler_of,
    infer,
    model_of,
    noise,
    refuse,
    sent,
    service_with,
    whole,
    with_artifact,
)

from beam_upscale import image
from beam_upscale.engines import get_engine
from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.grpc_api.client import RemoteHandler, calls
from beam_upscale.grpc_api.status import Reason
from beam_upscale.grpc_api.stubs import generation_pb2 as generation
from beam_upscale.inference import Inference, Tile, TiledImage
from beam_upscale.parameters import Parameters
from beam_upscale.plan import Box

KEY = "sk-do-not-tell-anyone"


def codes(inferences: list[Inference]) -> list[str | None]:
    return [inference.error and inference.error.code for inference in inferences]


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


def test_cores_and_ids_come_in_the_order_of_the_tiles() -> None:
    tiles = [Tile(noise(4 + n, 8), Box(0, 0, 8, 4 + n)) for n in range(6)]
    first = Held()
    with service_with(first, answer) as service:
        handler = handler_of(service)
        (pending,) = begin(handler, [TiledImage(tiles, scale=2, identity=("a", 0))])
        assert first.begun.wait(PATIENCE)
        assert not pending.wait(0.1)
        assert not pending.done()
        first.go_on.set()
        inference = pending.result()
        ids = {len(request.prompt[0].artifact.binary): request for request in service.requests}

    assert [core.shape[0] for core in inference.cores] == [8 + 2 * n for n in range(6)]
    assert inference.billed_credits == 6 * ONE_CALL
    assert len(set(inference.request_ids)) == len(ids) == 6
    heights = {request.request_id: len(sent(request)) for request in service.requests}
    assert [heights[request_id] for request_id in inference.request_ids] == list(range(4, 10))


def test_an_image_without_tiles_passes_and_calls_nothing() -> None:
    with service_with() as service:
        handler = handler_of(service)
        (pending,) = begin(handler, [TiledImage([], 1)])

        assert pending.done()
        assert pending.wait(0)
        assert pending.result() == Inference()
        assert begin(handler, []) == []
        assert service.requests == []


def test_prices_follow_the_engine_and_the_size_of_each_tile() -> None:
    engine = get_engine("stable-diffusion-x4-latent-upscaler")
    small, large = noise(8, 8), noise(512, 513)
    tiles = [Tile(pixels, Box(0, 0, *pixels.shape[1::-1])) for pixels in (small, large)]
    black = [
        image.encode(np.zeros((4 * h, 4 * w, 3), np.uint8)).data for h, w in ((8, 8), (512, 513))
    ]

    def fourfold(request: Any, context: Any) -> Any:
        yield with_artifact(black[len(sent(request)) > 8])

    with service_with(fourfold) as service:
        model = dataclasses.replace(model_of(service), engine=engine.name)
        tiled = TiledImage(tiles, 4, Parameters(seed=1), identity=("a", 0))
        (inference,) = infer(RemoteHandler(model, engine), [tiled])

    assert inference.error is None
    assert inference.billed_credits == Decimal(8 + 12)


# What is sent


def test_a_request_holds_the_image_and_its_parameters() -> None:
    parameters = Parameters("a cat", "a dog", cfg_scale=7.3, steps=12, seed=2**32 - 1)
    with service_with() as service:
        infer(handler_of(service), [whole("a", parameters=parameters)])
        (request,) = service.requests

    picture, prompt, negative = request.prompt
    assert request.engine_id == ENGINE
    assert request.requested_type == generation.ARTIFACT_IMAGE
    assert picture.parameters.init
    assert picture.artifact.type == generation.ARTIFACT_IMAGE
    assert picture.artifact.mime == "image/png"
    assert np.array_equal(sent(request), noise())
    assert (prompt.text, prompt.parameters.HasField("weight")) == ("a cat", False)
    assert (negative.text, negative.parameters.weight) == ("a dog", -1)
    assert request.image.parameters[0].sampler.cfg_scale == np.float32(7.3)
    assert request.image.steps == 12
    assert list(request.image.seed) == [2**32 - 1]
    assert not request.image.HasField("width")
    assert not request.image.HasField("height")


def test_empty_prompts_are_not_sent_and_without_parameters_nothing_is() -> None:
    with service_with() as service:
        infer(handler_of(service), [whole("a", parameters=Parameters(seed=1)), whole("b")])
        by_steps = {request.image.steps: request for request in service.requests}

    assert [len(request.prompt) for request in service.requests] == [1, 1]
    assert by_steps[0].image == generation.ImageParameters()
    assert by_steps[20].image.seed == [1]


def test_ids_are_the_same_on_every_run_and_different_for_equal_pieces() -> None:
    images = [
        whole("a", tiles=2),
        whole("b"),
        whole("a", identity=("a", 1)),
        whole("a", parameters=Parameters(seed=1)),
        whole("a", parameters=Parameters(seed=2)),
        whole("a", noise(7, 8)),
        whole("\udcff, of no encoding"),
    ]
    with service_with() as service:
        first = infer(handler_of(service), images)
        second = infer(handler_of(service), images)

    ids = [request_id for inference in first for request_id in inference.request_ids]
    assert len(set(ids)) == len(ids) == 8
    assert [inference.request_ids for inference in first] == [i.request_ids for i in second]
    assert service.attempts == dict.fromkeys(ids, 2)


# Failures


@pytest.mark.parametrize(
    "code",
    [
        StatusCode.UNAVAILABLE,
        StatusCode.DEADLINE_EXCEEDED,
        StatusCode.RESOURCE_EXHAUSTED,
        StatusCode.ABORTED,
        StatusCode.INTERNAL,
        StatusCode.UNKNOWN,
        StatusCode.CANCELLED,
        StatusCode.DATA_LOSS,
    ],
)
def test_what_may_pass_is_repeated_with_the_same_id(code: StatusCode) -> None:
    with service_with(refuse(code), refuse(code), answer) as service:
        (inference,) = infer(handler_of(service), [whole("a")])

    assert inference.error is None
    assert inference.attempts == 3
    assert inference.billed_credits == ONE_CALL
    assert service.attempts == {inference.request_ids[0]: 3}


@pytest.mark.parametrize(
    "code",
    [
        StatusCode.INVALID_ARGUMENT,
        StatusCode.NOT_FOUND,
        StatusCode.FAILED_PRECONDITION,
        StatusCode.OUT_OF_RANGE,
        StatusCode.UNIMPLEMENTED,
        StatusCode.ALREADY_EXISTS,
    ],
)
def test_what_the_service_refuses_is_not_repeated(code: StatusCode) -> None:
    with service_with(refuse(code, "not like\nthat")) as service:
        (inference,) = infer(handler_of(service), [whole("a")])

    assert inference.error is not None
    assert inference.error.code is ErrorCode.REQUEST_REFUSED
    assert inference.error.message == f"{service.endpoint} says {code.name}: not like that"
    assert inference.cores == []
    assert inference.billed_credits == 0
    assert inference.request_ids == ()
    assert len(service.requests) == 1


def test_a_refusal_of_the_rules_keeps_its_code_and_words() -> None:
    refused = refuse(
        StatusCode.INVALID_ARGUMENT,
        "input_too_large: 1,049,600 px; at most 1,048,576 are taken",
        reason=Reason.IMAGE_REFUSED,
        error_code=ErrorCode.INPUT_TOO_LARGE,
    )
    with service_with(refused) as service:
        (inference,) = infer(handler_of(service), [whole("a")])

    assert inference.error is not None
    assert inference.error.code is ErrorCode.INPUT_TOO_LARGE
    assert inference.error.message == "1,049,600 px; at most 1,048,576 are taken"


def test_a_message_that_is_too_large_is_not_repeated() -> None:
    message = "Received message larger than max (70 vs. 64)"
    with service_with(refuse(StatusCode.RESOURCE_EXHAUSTED, message)) as service:
        (inference,) = infer(handler_of(service), [whole("a")])

    assert codes([inference]) == [ErrorCode.REQUEST_REFUSED]
    assert len(service.requests) == 1


def test_what_stays_unavailable_fails_in_time() -> None:
    with service_with(refuse(StatusCode.UNAVAILABLE, "busy")) as service:
        (inference,) = infer(handler_of(service, retry_seconds=2), [whole("a")])

    assert codes([inference]) == [ErrorCode.SERVICE_UNAVAILABLE]
    assert inference.attempts == len(service.requests) > 1
    assert f"(after {inference.attempts} attempts)" in str(inference.error)


@pytest.mark.parametrize(
    ("step", "code"),
    [
        (refuse(StatusCode.INTERNAL), ErrorCode.SERVICE_ERROR),
        (finish(generation.ERROR), ErrorCode.SERVICE_ERROR),
        (finish(generation.LENGTH), ErrorCode.SERVICE_ERROR),
        (finish(77), ErrorCode.SERVICE_ERROR),
        (answer_with(), ErrorCode.NO_RESULT),
        (answer_with(generation.Answer(), generation.Answer()), ErrorCode.NO_RESULT),
        (answer_with(b"\xff\xff no message"), ErrorCode.SERVICE_ERROR),
    ],
)
def test_what_breaks_is_repeated_a_few_times(step: Any, code: ErrorCode) -> None:
    with service_with(step) as service:
        (inference,) = infer(handler_of(service), [whole("a")])
    with service_with(step, answer) as service_that_recovers:
        (recovered,) = infer(handler_of(service_that_recovers), [whole("a")])

    assert codes([inference]) == [code]
    assert inference.billed_credits == 0
    assert inference.attempts == len(service.requests) == 4
    assert recovered.error is None
    assert recovered.attempts == 2


def test_what_is_withheld_is_filtered_and_not_billed() -> None:
    with service_with(finish(generation.FILTER)) as service:
        (inference,) = infer(handler_of(service), [whole("a")])

    assert codes([inference]) == [ErrorCode.FILTERED]
    assert inference.billed_credits == 0
    assert inference.request_ids == ()
    assert len(service.requests) == 1


def test_a_deadline_ends_an_attempt_that_stalls() -> None:
    stalled = Held()
    with service_with(stalled, answer) as service:
        # Time enough for the second attempt, which has no more of it.
        (inference,) = infer(handler_of(service, deadline_seconds=3), [whole("a")])
        stalled.go_on.set()

    assert inference.error is None
    assert inference.attempts == 2


def test_the_service_may_go_away_and_come_back() -> None:
    held = Held()
    with service_with(held) as service:
        handler = handler_of(service)
        (pending,) = begin(handler, [whole("a")])
        assert held.begun.wait(PATIENCE)
        service._server.stop(0)
        held.go_on.set()
        service._server.wait_for_termination(PATIENCE)
        assert not pending.done()
        port = int(service.endpoint.rpartition(":")[2])
        with service_with(port=port) as other:
            inference = pending.result()

    assert inference.error is None
    assert inference.attempts > 1
    assert other.attempts == {inference.request_ids[0]: 1}


# What is billed


def test_an_artifact_that_cannot_be_used_is_billed_and_not_asked_for_again() -> None:
    png = image.encode(doubled(noise())).data
    small, large = (image.encode(np.zeros((s, 16, 3), np.uint8)).data for s in (11, 1200))
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
    twice = with_artifact(image.encode(doubled(noise())).data)
    with service_with(answer_with(twice, twice)) as service:
        (inference,) = infer(handler_of(service), [whole("a")])

    assert inference.error is None
    assert inference.billed_credits == ONE_CALL


def test_a_result_counts_whatever_follows_it() -> None:
    spoilt = generation.Answer(artifacts=[generation.Artifact(finish_reason=generation.ERROR)])
    png = image.encode(doubled(noise())).data
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
    original, failures = image.encode, [ImageError(ErrorCode.ENCODE_ERROR, "no"), MemoryError()]

    def encode(pixels: np.ndarray, *rest: Any, **options: Any) -> Any:
        if pixels.shape[0] == 7:
            raise failures.pop(0)
        return original(pixels, *rest, **options)

    tiles = [Tile(noise(h, 8), Box(0, 0, 8, h)) for h in (7, 6)]
    with service_with() as service:
        monkeypatch.setattr(image, "encode", encode)
        handler = handler_of(service, max_in_flight=1)
        images = [TiledImage(tiles, 2, identity=("a", 0)), TiledImage(tiles, 2), whole("b")]
        inferences = infer(handler, images)

    assert codes(inferences) == [ErrorCode.ENCODE_ERROR, ErrorCode.OUT_OF_MEMORY, None]
    assert len(service.requests) == 1


# The end of a run


@pytest.mark.parametrize(
    ("step", "code"),
    [
        (refuse(StatusCode.UNAUTHENTICATED, "expired"), ErrorCode.API_KEY_REFUSED),
        (refuse(StatusCode.PERMISSION_DENIED), ErrorCode.API_KEY_REFUSED),
        (
            refuse(StatusCode.RESOURCE_EXHAUSTED, reason=Reason.OUT_OF_CREDITS),
            ErrorCode.OUT_OF_CREDITS,
        ),
        (
            refuse(
                StatusCode.RESOURCE_EXHAUSTED,
                "Your organization does not have enough balance to request this action",
            ),
            ErrorCode.OUT_OF_CREDITS,
        ),
    ],
)
def test_a_key_that_is_refused_stops_the_run(
    step: Any, code: ErrorCode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BEAM_UPSCALE_API_KEY", KEY)
    held = Held()
    with service_with(held, step, answer) as service:
        handler = handler_of(service, max_in_flight=2)
        window = handler.load_model()
        (under_way,) = begin(handler, [whole("a")], window)
        assert held.begun.wait(PATIENCE)
        stopped = infer(handler, [whole(name) for name in "bcd"], window)
        later = infer(handler, [whole("e", tiles=3)], window)
        held.go_on.set()
        done = under_way.result()

        assert done.error is None
        assert done.billed_credits == ONE_CALL
        for inference in (*stopped, *later):
            assert inference.stop is not None
            assert inference.stop.code is code
            assert inference.error is None
            assert inference.billed_credits == 0
        assert len(service.requests) == 2

        (next_run,) = infer(handler_of(service, max_in_flight=2), [whole("b")])
        assert next_run.error is None
        assert next_run.stop is None


def test_the_line_that_stops_a_run_says_which_key_was_refused_and_not_what_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with service_with(refuse(StatusCode.UNAUTHENTICATED, f"no such key: {KEY}")) as service:
        (nobody,) = infer(handler_of(service), [whole("a")])
        monkeypatch.setenv("BEAM_UPSCALE_API_KEY", KEY)
        (refused,) = infer(handler_of(service), [whole("a")])

    assert nobody.stop is not None
    assert "asks for an API key, and there is none" in nobody.stop.message
    assert refused.stop is not None
    assert refused.stop.message == (
        f"{service.endpoint} refuses the API key of the environment's BEAM_UPSCALE_API_KEY "
        "(UNAUTHENTICATED: no such key: [API key])"
    )


def test_a_stop_wakes_what_waits_for_another_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "_jitter", lambda attempts: 100.0)
    with service_with(
        refuse(StatusCode.UNAVAILABLE), refuse(StatusCode.UNAUTHENTICATED)
    ) as service:
        handler = handler_of(service, max_in_flight=1)
        first, second = infer(handler, [whole("a"), whole("b")])

    assert first.stop is not None
    assert first.attempts == 1
    assert second.stop is not None
    assert len(service.requests) == 2


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


def test_a_call_that_waits_for_another_attempt_holds_up_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    long = threading.Event()
    monkeypatch.setattr(calls, "_jitter", lambda attempts: 0.0 if long.is_set() else 1.0)
    with service_with(refuse(StatusCode.UNAVAILABLE), answer) as service:
        handler = handler_of(service, max_in_flight=1)
        first, second = infer(handler, [whole("a"), whole("b")])

    assert codes([first, second]) == [None, None]
    order = [request.request_id for request in service.requests]
    assert order == [*first.request_ids, *second.request_ids, *first.request_ids]


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


def test_a_pending_image_is_pickled_as_what_became_of_it() -> None:
    with service_with() as service:
        (pending,) = begin(handler_of(service), [whole("a")])
        inference = pickle.loads(pickle.dumps(pending))

    assert type(inference) is Inference
    assert np.array_equal(inference.cores[0], doubled(noise()))
    assert inference.billed_credits == ONE_CALL


def test_images_go_through_beam_one_by_one() -> None:
    with service_with() as service:
        handler = RemoteHandler(
            model_of(service), get_engine(ENGINE), min_batch_size=50, large_model=True
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


def test_engines_of_a_chain_share_a_window_and_other_settings_have_their_own() -> None:
    latent = get_engine("stable-diffusion-x4-latent-upscaler")
    with service_with() as service:
        model = model_of(service)
        window = handler_of(service).load_model()
        other = RemoteHandler(dataclasses.replace(model, engine=latent.name), latent)
        narrow = RemoteHandler(dataclasses.replace(model, max_in_flight=2), get_engine(ENGINE))

        assert other.load_model() is window
        assert narrow.load_model() is not window


def test_a_result_does_not_wait_for_a_call_that_never_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calls, "_SECONDS_TO_END", 0.1)
    stalled = Held()

    def answer_and_stall(request: Any, context: Any) -> Iterator[Any]:
        yield from answer(request, context)
        yield from stalled(request, context)

    with service_with(answer_and_stall) as service:
        (inference,) = infer(handler_of(service), [whole("a")])
        stalled.go_on.set()

    assert inference.error is None
    assert (inference.attempts, inference.billed_credits) == (1, ONE_CALL)
