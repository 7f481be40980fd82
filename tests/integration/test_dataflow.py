"""What Dataflow is given: the template's specification, and the job that Beam's runner makes of it.

Beam's own code builds the graph and the job. What it would upload is kept, and nothing is sent.
"""

import base64
import bz2
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.dataflow.internal import apiclient
from google.cloud import dataflow
from google.protobuf import json_format
from memory_filesystem import MemoryFileSystem

from beam_upscale.errors import SettingsError
from beam_upscale.planning.engines import ENGINES
from pipelines import upscale_images
from pipelines.dataflow import template

# Beam's own, among the template's parameters.
BEAMS = {"resource_hint"}

IMAGE = "registry.example/beam-upscale:1"
ACCELERATOR = "type:nvidia-l4;count:1;install-nvidia-driver"

# What the launcher, or whoever submits, says besides; a dry run asks no service for anything.
SUBMISSION = [
    *("--runner=DataflowRunner", "--dry_run=True", "--no_auth", "--sdk_location=container"),
    *("--project=project", "--region=us-central1", "--job_name=upscale"),
    *("--temp_location=gs://bucket/temp", f"--sdk_container_image={IMAGE}"),
    *("--machine_type=g2-standard-8", "--experiments=no_use_multiple_sdk_containers"),
    "--number_of_worker_harness_threads=8",
]


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_weights: Path) -> Iterator[str]:
    """Weights in an object store, and an empty cache on this machine."""
    monkeypatch.setenv("BEAM_UPSCALE_CACHE", str(tmp_path / "cache"))
    uri = "mem://bucket/tiny.safetensors"
    MemoryFileSystem.files[uri] = tiny_weights.read_bytes()
    yield uri
    MemoryFileSystem.files.clear()


class Client(apiclient.DataflowApplicationClient):
    """Beam's client, which keeps what it would upload."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.uploaded: dict[str, bytes] = {}

    def stage_file(self, folder: str, name: str, stream: Any, *_: Any, **__: Any) -> None:
        self.uploaded[f"{folder}/{name}"] = stream.read()


def submit(weights: str, *options: str) -> tuple[dict[str, Any], beam_runner_api_pb2.Pipeline]:
    """The job as Dataflow gets it, and its pipeline."""
    parameters = {
        "input": "mem://bucket/photos",
        "output": "mem://bucket/upscaled",
        "weights": weights,
        "device": "cuda",
        "precision": "fp16",
        "resource_hint": f"accelerator={ACCELERATOR}",
    }
    named = [f"--{name}={value}" for name, value in parameters.items()]
    job = upscale_images.build([*named, *SUBMISSION, *options]).run().job
    client = Client(job.options)
    client.create_job_description(job)
    uri = json.loads(job.json())["environment"]["sdkPipelineOptions"]["options"]["pipelineUrl"]
    pipeline = beam_runner_api_pb2.Pipeline.FromString(client.uploaded[uri])
    return json.loads(job.json()), pipeline


def steps(pipeline: beam_runner_api_pb2.Pipeline) -> dict[str, beam_runner_api_pb2.PTransform]:
    """What is done to elements, by name, without what only groups it."""
    return {
        transform.unique_name: transform
        for transform in pipeline.components.transforms.values()
        if transform.spec.urn and not transform.subtransforms
    }


def function_of(transform: beam_runner_api_pb2.PTransform) -> bytes:
    """The function of a step, as it is pickled."""
    payload = beam_runner_api_pb2.ParDoPayload.FromString(transform.spec.payload)
    packed = base64.b64decode(payload.do_fn.payload)
    return bz2.decompress(packed) if packed.startswith(b"BZh") else zlib.decompress(packed)


def parameters() -> dict[str, dict[str, Any]]:
    listed = json.loads(template.TEMPLATE.read_text())["metadata"]["parameters"]
    return {parameter["name"]: parameter for parameter in listed}


def test_template_is_what_dataflow_takes() -> None:
    spec = dataflow.ContainerSpec.pb(dataflow.ContainerSpec())

    json_format.Parse(template.TEMPLATE.read_text(), spec)  # It refuses what has no place there.

    assert spec.image == spec.default_environment.sdk_container_image != ""
    assert spec.sdk_info.language == dataflow.SDKInfo.Language.PYTHON
    assert spec.metadata.name
    for parameter in spec.metadata.parameters:
        assert parameter.name and parameter.label and parameter.help_text
        assert len(parameter.regexes) == 1 and re.compile(parameter.regexes[0])
        is_enum = parameter.param_type == dataflow.ParameterType.ENUM
        assert is_enum == bool(parameter.enum_options)


def test_template_is_filled_with_the_choices_of_the_program() -> None:
    text = template.TEMPLATE.read_text()

    assert template.filled(text) == text, "run python -m pipelines.dataflow.template"


def test_parameters_are_the_options_of_the_program_and_no_others() -> None:
    named = {
        option.removeprefix("--")
        for action in upscale_images.option_parser()._actions
        for option in action.option_strings[-1:]
        if action.dest != "help"
    }

    assert parameters().keys() == named | BEAMS
    (hint,) = BEAMS
    beams = PipelineOptions([f"--{hint}=accelerator=a"]).get_all_options()
    assert beams["resource_hints"] == ["accelerator=a"]


def test_values_are_those_that_the_program_takes() -> None:
    actions = {
        action.option_strings[-1].removeprefix("--"): action
        for action in upscale_images.option_parser()._actions
        if action.option_strings
    }
    for name, parameter in parameters().items():
        if name in BEAMS:
            continue
        choices = actions[name].choices
        if name in ("engine", "then"):
            choices = list(ENGINES)
        listed = [option["value"] for option in parameter.get("enumOptions", [])]
        assert listed == list(choices or []), name
        assert all(re.fullmatch(parameter["regexes"][0], value) for value in listed)
        default = parameter.get("defaultValue")
        assert default == (str(actions[name].default or "") or None), name
        assert parameter.get("isOptional", False) is (name not in ("input", "output"))


@pytest.mark.parametrize(
    ("name", "taken", "refused"),
    [
        ("input", ["gs://bucket/photos/**", "https://host.example/a.tar"], ["photos", "gs://"]),
        ("output", ["gs://bucket/upscaled"], ["gs://bucket", "/mnt/upscaled"]),
        ("weights", ["realesrgan-x4plus", "gs://bucket/a.pth", "owner/name@main"], ["a b", ""]),
        ("endpoint", ["grpc.example:443"], ["https://grpc.example", "grpc.example"]),
        ("resource_hint", [f"accelerator={ACCELERATOR}", "min_ram=16GB"], ["nvidia-l4"]),
    ],
)
def test_regular_expressions_take_what_is_meant(
    name: str, taken: list[str], refused: list[str]
) -> None:
    (expression,) = parameters()[name]["regexes"]

    assert all(re.fullmatch(expression, value) for value in taken)
    assert not any(re.fullmatch(expression, value) for value in refused)


def test_job_has_the_steps_on_the_image_and_the_accelerator_asked_for(weights: str) -> None:
    job, pipeline = submit(weights)

    found = steps(pipeline)
    assert found.keys() >= {
        "ReadImages/List",
        "ReadImages/Read/FindEarlier",
        "Upscale/Prepare",
        "Upscale/RunInference/BeamML_RunInference",
        "Upscale/Finish",
        "WriteDataset/Persist",
        "WriteDataset/Commit",
        "WriteDataset/Complete",
    }
    (environment,) = pipeline.components.environments.values()
    payload = beam_runner_api_pb2.DockerPayload.FromString(environment.payload)
    hints = dict(environment.resource_hints)
    assert payload.container_image == IMAGE
    assert hints == {common_urns.resource_hints.ACCELERATOR.urn: ACCELERATOR.encode()}
    # All steps share it: one that had another would get its images over the network.
    assert {step.environment_id for step in found.values() if step.environment_id} == set(
        pipeline.components.environments
    )
    (pool,) = job["environment"]["workerPools"]
    assert job["type"] == "JOB_TYPE_BATCH"
    assert pool["workerHarnessContainerImage"] == IMAGE
    assert (pool["machineType"], pool["numThreadsPerWorker"]) == ("g2-standard-8", 8)
    assert "no_use_multiple_sdk_containers" in job["environment"]["experiments"]


def test_accelerator_may_be_dataflows_own_option(weights: str) -> None:
    job, _ = submit(weights, f"--dataflow_service_options=worker_accelerator={ACCELERATOR}")

    assert f"worker_accelerator={ACCELERATOR}" in job["environment"]["serviceOptions"]


def test_steps_carry_no_pixels_and_no_paths_of_this_machine(
    weights: str, tmp_path: Path, tiny_weights: Path
) -> None:
    _, pipeline = submit(weights)

    functions = {
        name: function_of(step)
        for name, step in steps(pipeline).items()
        if step.spec.urn == common_urns.primitives.PAR_DO.urn
    }

    assert b"mem://bucket/photos" in functions["ReadImages/List"]
    assert b"mem://bucket/upscaled" in functions["WriteDataset/Commit"]
    for name, function in functions.items():
        assert len(function) < 20_000, name
        for path in (tmp_path, tiny_weights, Path.cwd() / "samples"):
            assert str(path).encode() not in function, name


def test_device_of_the_workers_is_pinned_where_there_is_none(
    weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)

    _, pipeline = submit(weights)

    stage = function_of(steps(pipeline)["WriteDataset/Persist"])
    assert b"cuda" in stage
    assert b"fp16" in stage
    with pytest.raises(SettingsError, match="Name one, such as --precision fp16"):
        submit(weights, "--precision=auto")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["photos"], "output is given 0 times"),
        (["photos", "upscaled", "--output=elsewhere"], "output is given 2 times"),
        (["--output=upscaled"], "input is given 0 times"),
    ],
)
def test_input_and_output_are_given_once(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit):
        upscale_images.build(arguments)

    assert message in capsys.readouterr().err
