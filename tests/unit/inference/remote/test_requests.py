"""What a request holds."""

import numpy as np
from scripted_service import ENGINE, handler_of, infer, noise, sent, service_with, whole

from beam_upscale.grpc_api.stubs import generation_pb2 as generation
from beam_upscale.planning.parameters import Parameters


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


def test_ids_are_the_same_on_every_run_and_different_for_equal_tiles() -> None:
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
