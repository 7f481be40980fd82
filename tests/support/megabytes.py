"""Results of a megabyte each, on their way through `Upscale` to a dataset, in a process of its own.

Networks are left out; all else is as in a user's pipeline.
"""

import hashlib
import re
import sys
import time
from pathlib import Path
from typing import Any

import apache_beam as beam

import beam_upscale as bu
from beam_upscale.dataset.manifest.row import Row, Status
from beam_upscale.dataset.records import Record, Telemetry
from beam_upscale.pipeline.local_runner import new_pipeline
from beam_upscale.pipeline.one_image.states import UpscaledImage
from beam_upscale.pipeline.upscale import Upscale, UpscaleForRun

_BYTES = 2**20


def result(source: bu.SourceImage) -> UpscaledImage:
    """A result of a megabyte."""
    data = hashlib.shake_128(source.input_id.encode()).digest(_BYTES)
    row = Row(
        source.input_id,
        source.source_uri,
        Status.UPSCALED,
        output_format="png",
        output_width=1,
        output_height=1,
        output_bytes=len(data),
        output_sha256=hashlib.sha256(data).hexdigest(),
    )
    return UpscaledImage(source, Record(row, Telemetry(0, 0, 1, 1, "", time.time())), data)


class _WithoutNetwork(Upscale):
    def _prepare(self, *_: Any) -> Any:
        return beam.ParDo(lambda source: [source])

    def _chain(self, tiled: Any) -> Any:
        return tiled | "Make" >> beam.Map(result)


class _ForRunWithoutNetwork(_WithoutNetwork, UpscaleForRun):
    pass


def _peak() -> int:
    """The most resident memory of this process; `ru_maxrss` counts what its parent held too."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def main(way: str, output: str, results: str) -> None:
    """Runs a pipeline in this process, and prints the most memory that the process held.

    Args:
        way: `chain`, without large images; `spread`, with them, as in a user's own pipeline; `run`,
            with them, as the command does.
        output: of the pipeline.
        results: their number.
    """
    spread: dict[str, Any] = {"oversize": "tile", "fan_out_above": 1}
    options = {} if way == "chain" else spread
    # Of a service, so that no library of networks is imported.
    service = {"backend": "grpc", "endpoint": "localhost:1"}
    pinned = bu.UpscaleSettings.of("esrgan-v1-x2plus", **service, **options).pin()
    upscale: beam.PTransform = _WithoutNetwork(pinned, scratch=output)
    if way == "run":
        upscale = _ForRunWithoutNetwork(pinned, output)
    with new_pipeline([], workers=1) as pipeline:
        _ = (
            pipeline
            | beam.Create(range(int(results)))
            | beam.Map(lambda number: bu.SourceImage(f"{number:04}", name=f"{number:04}.png"))
            | "Upscale" >> upscale
            | bu.WriteDataset(output)
        )
    sys.stdout.write(f"{_peak()}\n")
