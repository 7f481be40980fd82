"""The files of raw numbers: what is in one, where it stands, which one is newest."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.pipeline.figures import Row, select

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
PREFIX = "pipeline-"

# The packages whose versions may explain a difference, as they are installed here.
_PACKAGES = (
    *("apache-beam", "grpcio", "numpy", "openvino", "pillow", "pyarrow", "pyvips", "torch"),
    "pyvips-binary",
)
_PEERS = ("daft", "ray", "pillow", "numpy", "pyarrow")


@dataclass
class Report:
    """The findings of a run of the measurements so far, and its machine.

    Attributes:
        machine: the architecture, its cores, the memory, the system.
        versions: of this package's dependencies and of the peers.
        commit: of the checkout, with a `+` if files differ from it.
        command: the words that began the measurements.
        remark: on how it was measured, for the page; empty if there is nothing to say.
        rows: one for each measured process.
        complete: whether all was measured; a part of a report that was stopped says nothing.
    """

    machine: Mapping[str, Any]
    versions: Mapping[str, Any]
    commit: str
    command: Sequence[str]
    remark: str = ""
    rows: list[Row] = field(default_factory=list)
    complete: bool = False

    def text(self) -> str:
        """The report as JSON, one row a line, so that two reports can be compared line by line."""
        head = {
            "machine": self.machine,
            "versions": self.versions,
            "commit": self.commit,
            "command": list(self.command),
            "remark": self.remark,
            "complete": self.complete,
        }
        lines = ",\n".join(f"    {json.dumps(row)}" for row in self.rows)
        before = json.dumps(head, indent=2).removesuffix("\n}")
        return f'{before},\n  "rows": [\n{lines}\n  ]\n}}\n'


def begin(peers_python: Path, command: Sequence[str], remark: str) -> Report:
    """An empty report of this machine and checkout."""
    versions = {"python": platform.python_version(), **_versions(_PACKAGES)}
    versions_of_all = {**versions, "peers": _peers_versions(peers_python)}
    return Report(machine(), versions_of_all, commit(), command, remark)


def machine() -> dict[str, Any]:
    """The description of this machine: architecture, cores, memory and wide instructions."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cpus = Path("/proc/cpuinfo")
    lines = cpus.read_text().splitlines() if cpus.exists() else []
    fields = dict(line.partition(":")[::2] for line in lines if ":" in line)
    named = {name.strip(): value.strip() for name, value in fields.items()}
    flags = set(named.get("flags", "").split())
    return {
        "architecture": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**30, 1),
        "instructions": sorted(flags & {"avx2", "avx512f", "avx512_bf16", "amx_bf16"}),
        "system": platform.system(),
    }


def commit() -> str:
    """The commit of this checkout, abbreviated; empty where there is none."""
    found = _git("rev-parse", "--short=12", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=no")
    return f"{found}{'+' if changed else ''}"


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip()


def _versions(names: Sequence[str]) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _peers_versions(python: Path) -> dict[str, str]:
    """Versions in the peers' Python; empty where it was not made."""
    if not python.exists():
        return {}
    program = (
        "import json; from importlib import metadata;"
        f"print(json.dumps({{name: metadata.version(name) for name in {_PEERS!r}}}))"
    )
    done = subprocess.run([str(python), "-c", program], capture_output=True, text=True)
    versions: dict[str, str] = json.loads(done.stdout) if done.returncode == 0 else {}
    return versions


def new_path(folder: Path) -> Path:
    """A name for a report that begins now; names sort by time."""
    return folder / f"{PREFIX}{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"


def read(path: Path) -> Report:
    """A report that was written."""
    return Report(**json.loads(path.read_text()))


def committed(folder: Path = RESULTS) -> list[Path]:
    """The reports that are committed, the newest first."""
    names = _git("ls-files", "--", f"{folder.relative_to(ROOT)}/{PREFIX}*.json").splitlines()
    return sorted((ROOT / name for name in names), reverse=True)


def newest(paths: Iterable[Path], part: str) -> Path | None:
    """The first of some reports that is complete and has rows of a part; None if none is."""
    for path in paths:
        report = read(path)
        if report.complete and select(report.rows, part=part):
            return path
    return None


def words() -> list[str]:
    """The words that began this process, without folders, which are of this machine."""
    words = [Path(word).name if os.sep in word else word for word in sys.argv[1:]]
    return ["python", "-m", "benchmarks.pipeline", *words]
