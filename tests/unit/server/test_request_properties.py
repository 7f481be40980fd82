"""Any request, made of whatever there is, is a call or a refusal; what is taken is kept."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import SUPPORT
from serving import DIFFUSION, ENGINE

from beam_upscale.grpc_api.stubs import generation_pb2 as generation
from beam_upscale.planning.parameters import MAX_SEED, MAX_STEPS
from beam_upscale.planning.plan_options import PlanOptions
from beam_upscale.server.refusals import RefusedError
from beam_upscale.server.requests import (
    MAX_PROMPT,
    MAX_REQUEST_ID,
    MAX_STAGES,
    Call,
    decode_chain,
    decode_request,
)

BOTH = (ENGINE, DIFFUSION)
CODES = grpc.StatusCode
FUZZER = SUPPORT / "fuzz_requests.py"
SECONDS = int(os.environ.get("FUZZ_SECONDS", "30"))

texts = st.text(max_size=20)
uint32 = st.integers(0, 2**32 - 1)
uint64 = st.integers(0, 2**64 - 1)
floats = st.floats(width=32)
engine_names = st.sampled_from((*BOTH, "", "another")) | texts


def enum(kind: Any) -> st.SearchStrategy[int]:
    """Values of an enum, and those that it may get one day."""
    return st.sampled_from(kind.values()) | st.integers(0, 2**31 - 1)


def message(kind: Any, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Messages with any of these fields."""
    return st.fixed_dictionaries({}, optional=fields).map(lambda values: kind(**values))


tokens = message(generation.Tokens, tokens=st.lists(message(generation.Token, text=texts)))
artifacts = (
    message(
        generation.Artifact,
        id=uint64,
        type=st.just(generation.ARTIFACT_IMAGE) | enum(generation.ArtifactType),
        mime=texts,
        magic=texts,
        binary=st.binary(max_size=50),
        index=uint32,
        finish_reason=enum(generation.FinishReason),
        seed=uint32,
        uuid=texts,
        size=uint64,
    )
    | message(generation.Artifact, text=texts)
    | message(generation.Artifact, tokens=tokens)
)
prompt_parameters = message(generation.PromptParameters, init=st.booleans(), weight=floats)
prompts = st.one_of(
    *(
        message(generation.Prompt, parameters=prompt_parameters, **{name: value})
        for name, value in (("text", texts), ("tokens", tokens), ("artifact", artifacts))
    )
)
samplers = message(
    generation.SamplerParameters, eta=floats, sampling_steps=uint64, cfg_scale=floats
)
image_parameters = message(
    generation.ImageParameters,
    width=uint64,
    height=uint64,
    seed=st.lists(uint32, max_size=3),
    samples=uint64,
    steps=st.integers(0, 60) | uint64,
    transform=message(generation.TransformType, upscaler=enum(generation.Upscaler)),
    parameters=st.lists(
        message(generation.StepParameter, scaled_step=floats, sampler=samplers), max_size=3
    ),
)
requests = message(
    generation.Request,
    engine_id=engine_names,
    request_id=texts,
    requested_type=enum(generation.ArtifactType),
    prompt=st.lists(prompts, max_size=4),
    image=image_parameters,
) | message(
    generation.Request,
    engine_id=engine_names,
    prompt=st.lists(prompts, max_size=4),
    classifier=st.just(generation.ClassifierParameters()),
)
statuses = message(
    generation.OnStatus,
    reason=st.lists(enum(generation.FinishReason), max_size=2),
    target=texts,
    action=st.lists(enum(generation.StageAction), max_size=2),
)
stages = message(
    generation.Stage, id=texts, request=requests, on_status=st.lists(statuses, max_size=2)
)
chains = message(
    generation.ChainRequest, request_id=texts, stage=st.lists(stages, max_size=MAX_STAGES + 1)
)


def decode(data: bytes, is_chain: bool = False) -> Call | RefusedError:
    """What becomes of bytes; anything else than these two is a failure."""
    try:
        call = (decode_chain if is_chain else decode_request)(data, BOTH)
    except RefusedError as error:
        assert error.refusal.code in (
            *(CODES.INVALID_ARGUMENT, CODES.NOT_FOUND, CODES.UNIMPLEMENTED),
        )
        assert error.refusal.message.encode()
        assert len(error.refusal.message) < 2000
        return error
    assert set(call.engines) <= set(BOTH)
    assert len(call.request_id) <= MAX_REQUEST_ID
    return call


@given(st.binary(max_size=500), st.booleans())
def test_any_bytes_are_a_call_or_a_refusal(data: bytes, is_chain: bool) -> None:
    decode(data, is_chain)


@given(requests)
def test_any_request_is_a_call_or_a_refusal(request: Any) -> None:
    decode(request.SerializeToString())


@given(chains)
def test_any_chain_is_a_call_or_a_refusal(chain: Any) -> None:
    decode(chain.SerializeToString(), is_chain=True)


@given(requests, st.data())
def test_a_request_that_was_cut_or_damaged_is_a_call_or_a_refusal(
    request: Any, draw: st.DataObject
) -> None:
    data = bytearray(request.SerializeToString())
    del data[draw.draw(st.integers(0, len(data))) :]
    for _ in range(draw.draw(st.integers(0, 3)) if data else 0):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))

    decode(bytes(data), is_chain=draw.draw(st.booleans()))


@st.composite
def good_requests(draw: st.DrawFn) -> tuple[Any, dict[str, Any], PlanOptions]:
    """A request for the diffusion engine, what it asks for, and the size that it asks for."""
    image = generation.ImageParameters()
    expected: dict[str, Any] = {}
    if draw(st.booleans()):
        expected["steps"] = image.steps = draw(st.integers(1, MAX_STEPS))
    if draw(st.booleans()):
        expected["seed"] = draw(st.integers(1, MAX_SEED))
        image.seed.append(expected["seed"])
    if draw(st.booleans()):
        scale = draw(st.floats(0, 100, width=32))
        image.parameters.add().sampler.cfg_scale = scale
        expected["cfg_scale"] = scale
    side = draw(st.sampled_from(["width", "height", None]))
    length = draw(st.integers(1, 2**64 - 1))
    if side is not None:
        setattr(image, side, length)
    artifact = generation.Artifact(type=generation.ARTIFACT_IMAGE, binary=draw(st.binary()))
    prompts = [generation.Prompt(artifact=artifact)]
    some_text = st.text(min_size=1, max_size=50)
    for name, weights in (("prompt", st.floats(0, 9)), ("negative_prompt", st.floats(-9, -0.5))):
        if draw(st.booleans()):
            expected[name] = draw(some_text)
            parameters = generation.PromptParameters(weight=draw(weights))
            prompts.append(generation.Prompt(text=expected[name], parameters=parameters))
    request = generation.Request(
        engine_id=DIFFUSION,
        request_id=draw(st.text(max_size=MAX_REQUEST_ID)),
        prompt=draw(st.permutations(prompts)),
        image=image,
    )
    return request, expected, PlanOptions(**({} if side is None else {side: length}))


@given(good_requests())
def test_what_is_taken_is_what_was_sent(
    sent: tuple[Any, dict[str, Any], PlanOptions],
) -> None:
    request, expected, size = sent

    call = decode(request.SerializeToString())

    assert isinstance(call, Call), call
    columns = dict(call.columns)
    if "cfg_scale" in expected:
        # The shortest decimal that is the same number where it was sent.
        scale = columns.pop("cfg_scale")
        assert np.float32(scale) == np.float32(expected.pop("cfg_scale"))
        # Nine digits tell all numbers of 32 bits apart.
        assert sum(each.isdigit() for each in str(scale).partition("e")[0].lstrip("0.")) <= 9
    assert columns == expected
    assert (call.options, call.seed) == (size, expected.get("seed", 0))
    assert (call.request_id, call.engines) == (request.request_id, (DIFFUSION,))
    (image,) = [prompt.artifact.binary for prompt in request.prompt if prompt.HasField("artifact")]
    assert call.image == image


@given(good_requests(), st.text(max_size=MAX_REQUEST_ID))
def test_the_fingerprint_is_that_of_all_but_the_id(
    sent: tuple[Any, dict[str, Any], PlanOptions], request_id: str
) -> None:
    request, _, _ = sent
    first = decode(request.SerializeToString())
    request.request_id = request_id
    renamed = decode(request.SerializeToString())
    request.requested_type = generation.ARTIFACT_IMAGE
    changed = decode(request.SerializeToString())

    assert isinstance(first, Call)
    assert isinstance(renamed, Call)
    assert isinstance(changed, Call)
    assert first.fingerprint == renamed.fingerprint != changed.fingerprint
    assert re.fullmatch("[0-9a-f]{64}", first.fingerprint)


def varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def field(number: int, value: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(value)) + value


def test_many_fields_at_every_depth_are_refused_before_they_are_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from beam_upscale.server.requests import _varint

    looks = 0

    def counted(data: memoryview, position: int) -> tuple[int, int]:
        nonlocal looks
        looks += 1
        return _varint(data, position)

    monkeypatch.setattr("beam_upscale.server.requests._varint", counted)
    of_request = field(4, field(4, field(5, b"") * 100) * 100) * 100
    of_chain = field(2, field(2, field(4, field(4, field(5, b"") * 30) * 30) * 30) * 30)

    for data, is_chain in ((of_request, False), (of_chain, True)):
        assert len(data) > 2**20
        refused = decode(data, is_chain)
        assert isinstance(refused, RefusedError)
        assert "beside its image" in refused.refusal.message
        assert looks <= 2 * 1000 + 10
        looks = 0


IMAGE = generation.Prompt(
    artifact=generation.Artifact(type=generation.ARTIFACT_IMAGE, binary=b"an image")
)
MANY = 1001
FLOWS = (
    [generation.OnStatus()] * MANY,
    [generation.OnStatus(reason=[generation.NULL] * MANY)],
    [generation.OnStatus(action=[generation.STAGE_ACTION_PASS] * MANY)],
)


@pytest.mark.parametrize("on_status", FLOWS)
@pytest.mark.parametrize("number", [1, 2])
def test_long_lists_of_a_chain_are_refused_before_they_are_gone_through(
    on_status: list[Any], number: int
) -> None:
    chain = generation.ChainRequest(
        stage=[
            generation.Stage(request=generation.Request(engine_id=ENGINE, prompt=[IMAGE])),
            generation.Stage(request=generation.Request(engine_id=ENGINE)),
        ]
    )
    chain.stage[number - 1].on_status.extend(on_status)

    refused = decode(chain.SerializeToString(), is_chain=True)

    assert isinstance(refused, RefusedError)
    assert refused.refusal.code is CODES.INVALID_ARGUMENT
    assert "at most 1,000" in refused.refusal.message
    assert "1,001" in refused.refusal.message


def test_many_step_parameters_are_refused() -> None:
    image = generation.ImageParameters(parameters=[generation.StepParameter()] * MANY)
    request = generation.Request(engine_id=DIFFUSION, prompt=[IMAGE], image=image)

    refused = decode(request.SerializeToString())

    assert isinstance(refused, RefusedError)
    assert "at most 1,000 step parameters, not 1,001" in refused.refusal.message


@pytest.mark.parametrize("name", ["prompt", "negative_prompt"])
def test_a_long_prompt_is_refused_with_both_numbers(name: str) -> None:
    weight = generation.PromptParameters(weight=-1 if name == "negative_prompt" else 1)
    longest = generation.Prompt(text="a" * MAX_PROMPT, parameters=weight)
    longer = generation.Prompt(text="a" * (MAX_PROMPT + 1), parameters=weight)

    def with_prompt(prompt: Any) -> Call | RefusedError:
        request = generation.Request(engine_id=DIFFUSION, prompt=[IMAGE, prompt])
        return decode(request.SerializeToString())

    taken, refused = with_prompt(longest), with_prompt(longer)

    assert isinstance(taken, Call)
    assert taken.columns == {name: longest.text}
    assert isinstance(refused, RefusedError)
    assert refused.refusal.error_code == "invalid_prompt"
    assert f"{name} has 10,001 characters; at most 10,000 are taken" in refused.refusal.message


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 300)
def test_fuzzing_finds_nothing(tmp_path: Path) -> None:
    pytest.importorskip("atheris")
    command = [sys.executable, FUZZER, "--seconds", f"{SECONDS}", "--corpus", tmp_path / "corpus"]

    fuzzed = subprocess.run(command, capture_output=True, text=True)

    assert fuzzed.returncode == 0, fuzzed.stderr[-5000:]
    executions = re.search(r"number_of_executed_units: (\d+)", fuzzed.stderr)
    assert executions is not None
    assert int(executions[1]) > 1000
    # It looked into the messages: more was reached than from the first inputs.
    reached = [int(found) for found in re.findall(r"\bcov: (\d+)", fuzzed.stderr)]
    assert reached[-1] > reached[0]
