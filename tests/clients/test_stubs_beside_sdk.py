"""The official SDK and this package define messages of the same names in one process."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PROGRAM = """
import sys
from google.protobuf import descriptor_pool

def import_ours():
    from beam_upscale.grpc_api.stubs import dashboard_pb2
    from beam_upscale.grpc_api.stubs import engines_pb2
    from beam_upscale.grpc_api.stubs import generation_pb2
    return generation_pb2

def import_theirs():
    from stability_sdk import api
    from stability_sdk import client
    return api.generation

sys.path.append(sys.argv[2])
if sys.argv[1] == "ours first":
    ours, theirs = import_ours(), import_theirs()
else:
    theirs, ours = import_theirs(), import_ours()

request = theirs.Request(engine_id="e", image=theirs.ImageParameters(width=3, seed=[7]))
assert ours.Request.FromString(request.SerializeToString()).image.seed == [7]
answer = ours.Answer(artifacts=[ours.Artifact(type=ours.ARTIFACT_IMAGE, binary=b"png")])
assert theirs.Answer.FromString(answer.SerializeToString()).artifacts[0].binary == b"png"

try:
    descriptor_pool.Default().AddSerializedFile(ours.DESCRIPTOR.serialized_pb)
except TypeError:
    print("in one pool they would collide")
"""


@pytest.mark.parametrize("order", ["ours first", "theirs first"])
def test_process_imports_both(sdk_python: Path, order: str) -> None:
    # The SDK's own environment has no protobuf that is new enough for ours; this one reads both.
    [packages] = sdk_python.parent.parent.glob("lib/python3*/site-packages")

    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, order, packages], capture_output=True, text=True
    )

    assert run.returncode == 0, run.stderr
    assert run.stdout == "in one pool they would collide\n"
