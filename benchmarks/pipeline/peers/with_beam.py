"""Bare Beam, with the runner and the threads that this package takes by default.

Files are shuffled once they are listed, so that threads share them, as Beam's documentation of
`ReadAllFrom…` says and its "Fusion optimization" explains; `direct_num_workers` and
`direct_running_mode` are those of "Using the Direct Runner: Setting parallelism".
"""

import apache_beam as beam
import pyarrow as pa
from apache_beam.io import fileio
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner, worker_handlers

from benchmarks.pipeline.peers import steps

SCHEMA = pa.schema([("path", pa.string()), ("png", pa.binary()), ("sha256", pa.string())])


class Upscale(beam.DoFn):
    """Gives one row for each file."""

    def __init__(self, encode: steps.Encoder) -> None:
        self._encode = encode

    def process(self, file):  # type: ignore[no-untyped-def]
        pixels = steps.decoded(file.read())
        yield {"path": file.metadata.path, **steps.upscaled(pixels, self._encode)}


def main() -> None:
    job = steps.job(__doc__)
    # Beam 2.77 loses elements between threads if a timer sends their buffers.
    worker_handlers.DATA_BUFFER_TIME_LIMIT_MS = 0
    options = PipelineOptions(
        [], direct_num_workers=job.workers, direct_running_mode="multi_threading"
    )
    with beam.Pipeline(runner=FnApiRunner(), options=options) as pipeline:
        _ = (
            pipeline
            | fileio.MatchFiles(str(job.input / "*"))
            | beam.Reshuffle()
            | fileio.ReadMatches()
            | beam.ParDo(Upscale(job.encode))
            | beam.io.WriteToParquet(str(job.output / "rows"), SCHEMA, file_name_suffix=".parquet")
        )


if __name__ == "__main__":
    main()
