import struct
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving import DIFFUSION, ENGINE, chain, request

from beam_upscale.grpc_api.status import Reason
from beam_upscale.grpc_api.stubs import generation_pb2 as generation
from beam_upscale.planning.plan_options import PlanOptions
from beam_upscale.server.refusals import RefusedError
from beam_upscale.server.requests import (
    MAX_BYTES_BESIDE_IMAGES,
    MAX_REQUEST_ID,
    MAX_STAGES,
    Call,
    decode_chain,
    decode_request,
)

BOTH = (ENGINE, DIFFUSION)
IMAGE = b"an image"


def decode(message: Any, served: tuple[str, ...] = BOTH) -> Call:
    data = message.SerializeToString()
    if isinstance(message, generation.Request):
        return decode_request(data, served)
    return decode_chain(data, served)


def refusal(message: Any, served: tuple[str, ...] = BOTH) -> Any:
    with pytest.raises(RefusedError) as caught:
        decode(message, served)
    return caught.value.refusal


def text(prompt: str, weight: float | None = None) -> generation.Prompt:
    if weight is None:
        return generation.Prompt(text=prompt)
    parameters = generation.PromptParameters(weight=weight)
    return generation.Prompt(text=prompt, parameters=parameters)


def cfg_scale(value: float) -> generation.StepParameter:
    return generation.StepParameter(sampler=generation.SamplerParameters(cfg_scale=value))


def diffusion(*prompts: generation.Prompt, **image_fields: Any) -> Any:
    message = request(IMAGE, engine=DIFFUSION, **image_fields)
    message.prompt.extend(prompts)
    return message


def test_a_request_of_the_python_client() -> None:
    message = diffusion(text("a cat"), width=80, steps=12, seed=[7], parameters=[cfg_scale(7.3)])
    message.request_id = "one"

    call = decode(message)

    assert (call.request_id, call.engines, call.image) == ("one", (DIFFUSION,), IMAGE)
    assert call.columns == {"prompt": "a cat", "steps": 12, "seed": 7, "cfg_scale": 7.3}
    assert (call.options, call.seed) == (PlanOptions(width=80), 7)


def test_a_request_of_the_typescript_client() -> None:
    artifact = generation.Artifact(type=generation.ARTIFACT_IMAGE, binary=IMAGE)
    init = generation.PromptParameters(init=True)
    message = generation.Request(
        engine_id=ENGINE,
        requested_type=generation.ARTIFACT_IMAGE,
        prompt=[generation.Prompt(artifact=artifact, parameters=init)],
        image=generation.ImageParameters(height=50),
    )
    # Both stand in the bytes, in this order; they share a oneof.
    data = generation.Request(classifier={}).SerializeToString() + message.SerializeToString()

    call = decode_request(data, BOTH)

    assert (call.image, call.options) == (IMAGE, PlanOptions(height=50))
    assert call.columns == {}


def test_what_is_not_set_and_what_is_zero_are_left_to_the_engine() -> None:
    empty = diffusion(text(""), width=0, height=0, steps=0, seed=[0], samples=3)
    without = diffusion()
    without.ClearField("image")
    classifier = diffusion()
    classifier.classifier.SetInParent()

    for message in (empty, without, classifier):
        call = decode(message)
        assert (call.columns, call.options, call.seed) == ({}, PlanOptions(), 0)


def test_a_cfg_scale_of_zero_is_one() -> None:
    assert decode(diffusion(parameters=[cfg_scale(0)])).columns == {"cfg_scale": 0.0}


@pytest.mark.parametrize("value", [7.3, 0.1, 12.75, 1e-3, 30.0, 3.3333333])
def test_a_cfg_scale_is_the_decimal_that_was_written(value: float) -> None:
    assert decode(diffusion(parameters=[cfg_scale(value)])).columns == {"cfg_scale": value}


def test_the_first_step_that_has_a_cfg_scale_tells_it() -> None:
    steps = [generation.StepParameter(scaled_step=1), cfg_scale(3), cfg_scale(4)]

    assert decode(diffusion(parameters=steps)).columns == {"cfg_scale": 3.0}


def test_a_text_of_negative_weight_is_the_negative_prompt() -> None:
    call = decode(diffusion(text("rain", -0.5), text("sun", 2.0)))

    assert call.columns == {"prompt": "sun", "negative_prompt": "rain"}


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (diffusion(text("a"), text("b")), "several texts of positive weight"),
        (diffusion(text("a", -1), text("b", -2)), "several texts of negative weight"),
        (diffusion(text("a", float("nan"))), "weight nan"),
        (diffusion(generation.Prompt(tokens=generation.Tokens())), "tokens"),
        (diffusion(width=10, height=10), "width and height are set"),
        (diffusion(steps=51), "steps is 51; it must be a whole number from 1 to 50"),
        (diffusion(parameters=[cfg_scale(-1)]), "cfg_scale is -1.0"),
        (diffusion(parameters=[cfg_scale(float("nan"))]), "cfg_scale is nan"),
        (request(IMAGE, request_id="x" * (MAX_REQUEST_ID + 1)), "257 characters; at most 256"),
    ],
)
def test_what_cannot_be_done_is_invalid(message: Any, told: str) -> None:
    found = refusal(message)

    assert found.code is grpc.StatusCode.INVALID_ARGUMENT
    assert told in found.message


def test_parameters_out_of_range_have_the_pipelines_codes() -> None:
    found = refusal(diffusion(steps=51))

    assert (found.reason, found.error_code) == (Reason.IMAGE_REFUSED, "invalid_steps")
    assert found.message.startswith("invalid_steps: ")


def test_what_an_engine_does_not_take_is_ignored() -> None:
    message = request(IMAGE, steps=1000, seed=[3], parameters=[cfg_scale(-1)])
    message.prompt.extend([text("a"), text("b"), generation.Prompt(tokens=generation.Tokens())])

    call = decode(message)

    assert call.columns == {}
    assert call.seed == 3


def test_unknown_fields_are_ignored() -> None:
    unknown = bytes([15 << 3 | 2, 3]) + b"abc" + bytes([90 << 3 & 0x7F | 0x80, 5, 1])

    assert decode_request(request(IMAGE).SerializeToString() + unknown, BOTH).image == IMAGE


def test_generation_is_not_implemented() -> None:
    message = generation.Request(engine_id="stable-diffusion-xl-1024-v1-0", prompt=[text("a cat")])

    found = refusal(message)

    assert found.code is grpc.StatusCode.UNIMPLEMENTED
    assert "generates none" in found.message


def test_an_engine_that_is_not_served_is_not_found() -> None:
    found = refusal(diffusion(), served=(ENGINE,))

    assert found.code is grpc.StatusCode.NOT_FOUND
    assert f"served are: {ENGINE}" in found.message


def test_a_name_of_megabytes_does_not_come_back() -> None:
    assert len(refusal(request(IMAGE, engine="x" * 1_000_000)).message) < 500


def test_two_images_are_refused() -> None:
    message = request(IMAGE)
    message.prompt.append(message.prompt[0])

    found = refusal(message)

    assert found.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "2 images" in found.message


@pytest.mark.parametrize(
    ("artifact", "told"),
    [
        (generation.Artifact(type=generation.ARTIFACT_MASK, binary=IMAGE), "ARTIFACT_MASK"),
        (generation.Artifact(type=generation.ARTIFACT_IMAGE, text="x"), "no bytes"),
        (generation.Artifact(type=generation.ARTIFACT_IMAGE), "no bytes"),
    ],
)
def test_only_encoded_images_are_taken(artifact: Any, told: str) -> None:
    message = generation.Request(engine_id=ENGINE, prompt=[generation.Prompt(artifact=artifact)])

    found = refusal(message)

    assert found.code is grpc.StatusCode.INVALID_ARGUMENT
    assert told in found.message


def test_an_artifact_without_a_type_is_an_image() -> None:
    artifact = generation.Artifact(binary=IMAGE)
    message = generation.Request(engine_id=ENGINE, prompt=[generation.Prompt(artifact=artifact)])

    assert decode(message).image == IMAGE


def test_a_fingerprint_is_that_of_the_request_without_its_id() -> None:
    one, other = request(IMAGE, request_id="one"), request(IMAGE, request_id="other")
    changed = request(b"another image", request_id="one")

    assert decode(one).fingerprint == decode(other).fingerprint
    assert decode(one).fingerprint != decode(changed).fingerprint
    assert decode(one).fingerprint != decode(request(IMAGE, width=9)).fingerprint
    assert decode(chain(one)).fingerprint != decode(one).fingerprint
    assert decode(chain(one, request_id="a")).fingerprint == decode(chain(one)).fingerprint
    assert decode(chain(one)).fingerprint == decode(chain(other)).fingerprint


def test_a_chain_is_guided_by_those_stages_that_take_parameters_and_sized_by_its_last() -> None:
    second = generation.Request(
        engine_id=DIFFUSION,
        prompt=[text("a cat")],
        image=generation.ImageParameters(width=90, seed=[5]),
    )

    call = decode(chain(request(IMAGE, steps=99), second, request_id="one"))

    assert (call.request_id, call.engines, call.image) == ("one", (ENGINE, DIFFUSION), IMAGE)
    assert call.columns == {"prompt": "a cat", "seed": 5}
    assert (call.options, call.seed) == (PlanOptions(width=90), 5)


def following(**fields: Any) -> Any:
    return generation.Request(engine_id=ENGINE, **fields)


def flow(number: int, **fields: Any) -> Any:
    message = chain(request(IMAGE), following())
    message.stage[number].on_status.add(**fields)
    return message


@pytest.mark.parametrize(
    ("message", "code", "told"),
    [
        (chain(), "INVALID_ARGUMENT", "1 to 4 stages, not 0"),
        (chain(*[request(IMAGE)] * (MAX_STAGES + 1)), "INVALID_ARGUMENT", "not 5"),
        (chain(following(), following()), "UNIMPLEMENTED", "no image"),
        (chain(request(IMAGE), request(IMAGE)), "INVALID_ARGUMENT", "stage 2 has an image"),
        (chain(request(IMAGE, width=9), following()), "INVALID_ARGUMENT", "stage 1 asks for a"),
        (chain(request(IMAGE), generation.Request(engine_id="x")), "NOT_FOUND", "'x'"),
        (
            chain(diffusion(steps=3), generation.Request(engine_id=DIFFUSION)),
            "INVALID_ARGUMENT",
            "must have the same",
        ),
        (flow(0, action=[generation.STAGE_ACTION_RETURN]), "UNIMPLEMENTED", "stage 1 returns"),
        (flow(0, target="elsewhere"), "UNIMPLEMENTED", "'elsewhere'"),
        (flow(1, action=[generation.STAGE_ACTION_DISCARD]), "UNIMPLEMENTED", "does not return"),
        (flow(1, target="0"), "UNIMPLEMENTED", "does not return"),
    ],
)
def test_chains_that_cannot_be(message: Any, code: str, told: str) -> None:
    found = refusal(message)

    assert found.code.name == code
    assert told in found.message


@pytest.mark.parametrize(
    "message",
    [
        flow(0, reason=[generation.NULL], action=[generation.STAGE_ACTION_PASS], target="1"),
        flow(0, reason=[generation.FILTER], action=[generation.STAGE_ACTION_DISCARD]),
        flow(1, reason=[generation.NULL], action=[generation.STAGE_ACTION_RETURN]),
    ],
)
def test_what_a_chain_may_say_of_its_results(message: Any) -> None:
    assert decode(message).engines == (ENGINE, ENGINE)


def test_many_bytes_that_are_no_image_are_refused_before_they_are_parsed() -> None:
    beside = request(bytes(2_000_000))
    beside.prompt.append(text("x" * (MAX_BYTES_BESIDE_IMAGES + 1)))
    # Each of these bytes is a message of its own once it is parsed.
    empty_prompts = bytes([4 << 3 | 2, 0]) * MAX_BYTES_BESIDE_IMAGES

    for data in (beside.SerializeToString(), empty_prompts):
        with pytest.raises(RefusedError) as caught:
            decode_request(data, BOTH)
        assert caught.value.refusal.code is grpc.StatusCode.INVALID_ARGUMENT
        assert "at most 1,048,576 are taken" in caught.value.refusal.message


def test_an_image_of_many_bytes_is_taken() -> None:
    image = bytes(3_000_000)

    assert decode(request(image)).image == image
    assert decode(chain(request(image))).image == image


def test_too_many_prompts_are_refused() -> None:
    message = request(IMAGE)
    message.prompt.extend([generation.Prompt()] * 1000)

    assert "at most 1,000 prompts" in refusal(message).message


@pytest.mark.parametrize("data", [b"\xff", b"\x0a\x05ab", b"\x0a\x02\xff\xfe"])
def test_bytes_that_are_no_message_are_invalid(data: bytes) -> None:
    for read in (decode_request, decode_chain):
        with pytest.raises(RefusedError) as caught:
            read(data, BOTH)
        assert caught.value.refusal.code is grpc.StatusCode.INVALID_ARGUMENT


def field(number: int, value: bytes) -> bytes:
    return bytes([number << 3 | 2]) + bytes(varint(len(value))) + value


def varint(value: int) -> list[int]:
    found = []
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return [*found, value]


# What is nearly a request: known numbers of fields at every depth, with any bytes in them.
leaves = st.binary(max_size=40) | st.text(max_size=10).map(str.encode)
numbers = st.integers(1, 14)
fields = st.recursive(
    st.tuples(numbers, leaves).map(lambda found: field(*found))
    | st.floats(width=32).map(lambda value: b"\x2d" + struct.pack("<f", value)),
    lambda inner: st.tuples(numbers, st.lists(inner, max_size=4).map(b"".join)).map(
        lambda found: field(*found)
    ),
    max_leaves=12,
)
nearly = st.lists(fields, max_size=6).map(b"".join)


@given(st.binary(max_size=200) | nearly | nearly.map(lambda x: field(1, b"esrgan-v1-x2plus") + x))
def test_any_bytes_are_a_call_or_refused(data: bytes) -> None:
    for read in (decode_request, decode_chain):
        try:
            call = read(data, BOTH)
        except RefusedError as error:
            assert error.refusal.message
        else:
            assert isinstance(call.image, bytes)
            assert set(call.engines) <= set(BOTH)


@given(st.data())
def test_what_a_message_nearly_is_is_a_call_or_refused(data: st.DataObject) -> None:
    message = diffusion(text("a"), steps=3, parameters=[cfg_scale(2)]).SerializeToString()
    position = data.draw(st.integers(0, len(message) - 1))
    other = data.draw(st.binary(max_size=4))

    changed = message[:position] + other + message[position + len(other) :]

    try:
        assert decode_request(changed, BOTH).engines in ((ENGINE,), (DIFFUSION,))
    except RefusedError as error:
        assert error.refusal.message
