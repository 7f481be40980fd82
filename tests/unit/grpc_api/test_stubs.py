"""The generated messages: current, wire-compatible, and no one else's."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from places import ROOT

from beam_upscale.grpc_api import contract
from beam_upscale.grpc_api.stubs import dashboard_pb2, engines_pb2, generation_pb2, tensors_pb2
from beam_upscale.grpc_api.stubs.pool import POOL

PROTOS = ROOT / "protos"
STUBS = ROOT / "beam_upscale" / "grpc_api" / "stubs"


@pytest.fixture(scope="module")
def generated() -> dict[str, str]:
    """What `make protos` would write now."""
    spec = importlib.util.spec_from_file_location("generate", PROTOS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    files: dict[str, str] = module.generate()
    return files


def test_stubs_are_what_the_protos_say(generated: dict[str, str]) -> None:
    kept = {path.name: path.read_text() for path in STUBS.glob("*_pb2.py*")}

    assert {name.partition("_")[0] for name in kept} == {
        path.stem for path in PROTOS.glob("*.proto")
    }
    assert kept == generated, "run make protos"


# The official SDK's modules are protoc's output for files that define the same names.
STRANGER = """
import sys
sys.path.insert(0, {folder!r})
if {first!r} == "ours":
    from beam_upscale.grpc_api.stubs import dashboard_pb2, engines_pb2, generation_pb2 as ours
import tensors_pb2, generation_pb2 as theirs, engines_pb2, dashboard_pb2
if {first!r} == "theirs":
    from beam_upscale.grpc_api.stubs import dashboard_pb2, engines_pb2, generation_pb2 as ours
assert ours.Request is not theirs.Request
assert ours.Request.DESCRIPTOR.full_name == theirs.Request.DESCRIPTOR.full_name
request = theirs.Request(engine_id="e", prompt=[theirs.Prompt(text="a cat")])
again = ours.Request.FromString(request.SerializeToString())
assert (again.engine_id, again.prompt[0].text) == ("e", "a cat")
print("both")
"""


@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_a_process_may_hold_another_definition_of_the_same_names(
    first: str, tmp_path: Path
) -> None:
    protos = [str(path) for path in PROTOS.glob("*.proto")]
    protoc = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}", f"--python_out={tmp_path}"]
    subprocess.run([*protoc, *protos], check=True, capture_output=True)

    program = STRANGER.format(folder=str(tmp_path), first=first)
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert run.stdout == "both\n", run.stderr


def test_names_numbers_and_types_are_those_of_the_public_contract() -> None:
    """As far as clients of the service use them; read off its published `.proto` files."""

    def numbers(message: Any) -> dict[str, int]:
        return {field.name: field.number for field in message.DESCRIPTOR.fields}

    assert numbers(generation_pb2.Request) == {
        "engine_id": 1,
        "request_id": 2,
        "requested_type": 3,
        "prompt": 4,
        "image": 5,
        "classifier": 7,
    }
    assert numbers(generation_pb2.Prompt) == {
        "parameters": 1,
        "text": 2,
        "tokens": 3,
        "artifact": 4,
    }
    assert numbers(generation_pb2.PromptParameters) == {"init": 1, "weight": 2}
    assert numbers(generation_pb2.ImageParameters) == {
        "height": 1,
        "width": 2,
        "seed": 3,
        "samples": 4,
        "steps": 5,
        "transform": 6,
        "parameters": 7,
    }
    assert numbers(generation_pb2.Answer) == {
        "answer_id": 1,
        "request_id": 2,
        "received": 3,
        "created": 4,
        "meta": 6,
        "artifacts": 7,
    }
    assert (
        numbers(generation_pb2.Artifact).items()
        >= {
            "id": 1,
            "type": 2,
            "mime": 3,
            "magic": 4,
            "binary": 5,
            "text": 6,
            "index": 8,
            "finish_reason": 9,
            "seed": 10,
            "uuid": 12,
            "size": 13,
        }.items()
    )
    assert numbers(generation_pb2.StepParameter) == {"scaled_step": 1, "sampler": 2, "schedule": 3}
    assert numbers(generation_pb2.SamplerParameters)["cfg_scale"] == 5
    assert dict(generation_pb2.FinishReason.items()) == {
        "NULL": 0,
        "LENGTH": 1,
        "STOP": 2,
        "ERROR": 3,
        "FILTER": 4,
    }
    assert generation_pb2.ARTIFACT_IMAGE == 1
    assert numbers(engines_pb2.Engines) == {"engine": 1}
    assert numbers(engines_pb2.EngineInfo)["id"] == 1
    assert numbers(dashboard_pb2.Organization)["payment_info"] == 5
    assert numbers(dashboard_pb2.OrganizationPaymentInfo) == {"balance": 1}


def test_image_and_classifier_parameters_share_a_place_and_the_last_wins() -> None:
    request = generation_pb2.Request()
    request.classifier.SetInParent()
    request.image.steps = 3

    assert request.WhichOneof("params") == "image"


def test_what_a_newer_contract_adds_is_ignored_and_kept() -> None:
    newer = generation_pb2.Request(engine_id="e").SerializeToString() + b"\xfa\x07\x03new"

    request = generation_pb2.Request.FromString(newer)

    assert request.engine_id == "e"
    assert request.SerializeToString() == newer


def test_the_paths_of_the_contract_are_methods_of_its_services() -> None:
    paths = {
        f"/{service.full_name}/{method.name}"
        for file in ("generation.proto", "engines.proto", "dashboard.proto")
        for service in POOL.FindFileByName(file).services_by_name.values()
        for method in service.methods
    }

    assert paths == {
        contract.GENERATE,
        contract.CHAIN_GENERATE,
        contract.LIST_ENGINES,
        contract.GET_ME,
        contract.GET_ORGANIZATION,
    }
    assert tensors_pb2.DESCRIPTOR.package == "tensors"
