"""Generates the Python messages of the API into `beam_upscale/grpc_api/stubs`: `make protos`.

What protoc gives is changed in two ways. Its descriptors go into a pool of our own: the official
Python SDK defines the same names, and a process that imports both would end at the second one. And
its imports name this package.
"""

import re
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

PROTOS = Path(__file__).resolve().parent
PACKAGE = "beam_upscale.grpc_api.stubs"
STUBS = PROTOS.parent.joinpath(*PACKAGE.split("."))


def generate() -> dict[str, str]:
    """The generated files' texts by their names."""
    with tempfile.TemporaryDirectory() as folder:
        protos = [str(path) for path in sorted(PROTOS.glob("*.proto"))]
        command = ["protoc", f"-I{PROTOS}", f"--python_out={folder}", f"--pyi_out={folder}"]
        if protoc.main([*command, *protos]) != 0:
            raise SystemExit("protoc failed: see above")
        return {path.name: _adapted(path.read_text()) for path in sorted(Path(folder).iterdir())}


def _adapted(text: str) -> str:
    text = re.sub(r"^import (\w+_pb2) as", rf"from {PACKAGE} import \1 as", text, flags=re.M)
    text = text.replace("_descriptor_pool.Default()", "_POOL")
    text = text.replace(
        "from google.protobuf import descriptor_pool as _descriptor_pool\n",
        f"from {PACKAGE}.pool import POOL as _POOL\n",
    )
    return re.sub(r"(DESCRIPTOR, ')(\w+_pb2')", rf"\1{PACKAGE}.\2", text)


if __name__ == "__main__":
    for name, text in generate().items():
        (STUBS / name).write_text(text)
        sys.stdout.write(f"{STUBS / name}\n")
