"""A pipeline from a folder of images to a dataset, on any runner.

    python pipelines/upscale_images.py photos upscaled --oversize tile --runner=FlinkRunner …

What is not an option of this program goes to Beam. `beam-upscale run` does the same with a budget,
a progress line and a summary; begin here to put steps of your own between.
"""

import argparse
from collections.abc import Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

import beam_upscale as bu
from beam_upscale.settings import weights_by_engine


def main(arguments: Sequence[str] | None = None) -> None:
    """Builds the pipeline and runs it to its end."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("input", help="a file, a folder or a glob, on any of Beam's file systems")
    parser.add_argument("output", help="the dataset's root")
    parser.add_argument(
        "--input-format",
        choices=[str(form) for form in bu.InputFormat],
        help="where the names of its files do not say it",
    )
    parser.add_argument("--image-column", help="of a table that names or holds the images")
    parser.add_argument("--engine", default="esrgan-v1-x2plus")
    parser.add_argument("--then", action="append", default=[], help="a further engine of a chain")
    parser.add_argument("--prompt", help="for engines that take one")
    parser.add_argument("--oversize", default="reject", choices=[str(o) for o in bu.Oversize])
    parser.add_argument(
        "--fan-out-above",
        type=float,
        metavar="MEGAPIXELS",
        help="spread the tiles of an image with a larger output over the workers",
    )
    parser.add_argument("--layout", default="files", choices=[str(layout) for layout in bu.Layout])
    parser.add_argument(
        "--weights", action="append", default=[], help="a name or a path; in a chain ENGINE=…"
    )
    parser.add_argument("--endpoint", help="HOST:PORT of a service that has the engines")
    parser.add_argument("--api-key-file", help="on the workers; else BEAM_UPSCALE_API_KEY")
    own, beam_arguments = parser.parse_known_args(arguments)

    upscale = bu.Upscale(
        [own.engine, *own.then],
        oversize=bu.Oversize(own.oversize),
        fan_out_above=own.fan_out_above,
        weights=weights_by_engine(own.weights),
        prompt=own.prompt,
        backend=bu.Backend.LOCAL if own.endpoint is None else bu.Backend.GRPC,
        endpoint=own.endpoint,
        api_key_file=own.api_key_file,
    )
    with beam.Pipeline(options=PipelineOptions(beam_arguments)) as pipeline:
        _ = (
            pipeline
            | bu.ReadImages(
                own.input,
                output=own.output,
                input_format=own.input_format,
                image_column=own.image_column,
            )
            | upscale
            | bu.WriteDataset(own.output, layout=own.layout)
        )


if __name__ == "__main__":
    main()
