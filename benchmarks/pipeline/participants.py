"""The commands that are measured beside each other: this package's, and those of its peers."""

import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[2]
BEAM_UPSCALE = Path(sys.executable).with_name("beam-upscale")
PEERS_PYTHON = ROOT / "out" / "peers" / "bin" / "python"

OURS = "beam-upscale"
DAFT = "Daft"
DAFT_OUR_ENCODER = "Daft with our encoder"
BEAM = "bare Beam"
RAY = "Ray Data"

# No peer may talk to its maker.
QUIET = {
    "DAFT_ANALYTICS_ENABLED": "0",
    "DO_NOT_TRACK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "SCARF_NO_ANALYTICS": "true",
}


class IncompleteError(Exception):
    """An output that has not a row and a PNG for each input."""


@dataclass(frozen=True)
class Participant:
    """A command that upscales a folder of images into Parquet.

    Attributes:
        name: its name in the rows.
        before: its words before the input and the output.
        after: its words behind them.
    """

    name: str
    before: Sequence[str]
    after: Sequence[str] = ()

    def command(self, source: Path, output: Path) -> list[str]:
        """The words of the command."""
        return [*self.before, str(source), str(output), *self.after]

    @property
    def env(self) -> Mapping[str, str]:
        """Its environment, beside that of this process."""
        return {} if self.name == OURS else {**QUIET, "PYTHONPATH": str(ROOT)}

    def png_bytes(self, output: Path, images: int) -> int:
        """The sum of the sizes of its PNGs.

        Raises:
            IncompleteError: there are more or fewer than `images` of them.
        """
        if self.name == OURS:
            sizes = pq.read_table(output / "manifest", columns=["output_bytes"]).column(0)
        else:
            # A column of its own, since one file's pages may be larger than Arrow reads at once.
            sizes = pc.binary_length(pq.read_table(output, columns=["png"]).column(0))
        if len(sizes) != images or sizes.null_count:
            found = len(sizes) - sizes.null_count
            raise IncompleteError(f"{self.name}: {found} results of {images} images")
        return int(pc.sum(sizes).as_py())


def ours(*options: str) -> Participant:
    """The installed command with its defaults, a network that repeats pixels, and Parquet."""
    words = ("--weights", "nearest", "--layout", "parquet", "--quiet", *options)
    return Participant(OURS, (str(BEAM_UPSCALE), "run"), words)


def peers(python: Path, workers: int) -> list[Participant]:
    """The peers, in the Python that they are installed in; Beam is the one that we use."""
    module = "benchmarks.pipeline.peers"
    threads = ("--workers", str(workers))

    def peer(name: str, program: str, *options: str) -> Participant:
        interpreter = sys.executable if program == "with_beam" else str(python)
        return Participant(name, (interpreter, "-m", f"{module}.{program}"), options)

    return [
        peer(DAFT, "with_daft"),
        peer(DAFT_OUR_ENCODER, "with_daft", "--encoder", "ours"),
        peer(BEAM, "with_beam", *threads),
        peer(RAY, "with_ray", *threads),
    ]


def clear(output: Path) -> None:
    """Removes an output, so that the next command begins anew."""
    shutil.rmtree(output, ignore_errors=True)
