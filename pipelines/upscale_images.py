"""A pipeline from a folder of images to a dataset, on any runner.

    python pipelines/upscale_images.py photos upscaled --oversize tile --runner=FlinkRunner …

What is not an option of this program goes to Beam; without a runner it runs in this process.
`beam-upscale run` does the same with a budget, a progress line and a summary; begin here to put
steps of your own between.
"""

import argparse
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import apache_beam as beam

import beam_upscale as bu
from beam_upscale.dataset.defaults import DEFAULT_SHARD_ROWS
from beam_upscale.inference.networks.device import Device, Precision
from beam_upscale.pipeline.local_runner import is_local, new_pipeline
from beam_upscale.pipeline.request import default_workers
from beam_upscale.pipeline.settings.choices import weights_by_engine
from beam_upscale.planning.plan_options import DEFAULT_MAX_INPUT_PIXELS

# Templates give every option a value.
_SWITCH: Mapping[str, Any] = MappingProxyType(
    {"nargs": "?", "const": "true", "default": "false", "choices": ["false", "true"]}
)


def option_parser() -> argparse.ArgumentParser:
    """The options of this program; a template of Dataflow has each by its name, as --name=value."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    source = "a file, a folder or a glob, on any of Beam's file systems"
    parser.add_argument("input", nargs="?", help=source)
    parser.add_argument("output", nargs="?", help="the dataset's root")
    parser.add_argument("--input", dest="named_input", metavar="INPUT", help="likewise")
    parser.add_argument("--output", dest="named_output", metavar="OUTPUT", help="likewise")
    parser.add_argument(
        *_both("input-format"),
        choices=[str(form) for form in bu.InputFormat],
        help="where the names of its files do not say it",
    )
    parser.add_argument(*_both("image-column"), help="of a table that names or holds the images")
    parser.add_argument(
        *_both("deny-private-networks"),
        **_SWITCH,
        help="refuse URLs whose host is a worker's own machine or on a private network",
    )
    parser.add_argument(
        *_both("allow-link-local"),
        **_SWITCH,
        help="read URLs whose host has a link-local address, where clouds give out keys",
    )
    parser.add_argument("--engine", default="esrgan-v1-x2plus")
    parser.add_argument("--then", action="append", default=[], help="a further engine of a chain")
    parser.add_argument("--prompt", help="for engines that take one")
    parser.add_argument(
        *_both("max-input-pixels"),
        type=int,
        default=DEFAULT_MAX_INPUT_PIXELS,
        help="images that claim more are refused",
    )
    parser.add_argument("--oversize", default="reject", choices=[str(o) for o in bu.Oversize])
    parser.add_argument(
        *_both("fan-out-above"),
        type=float,
        metavar="MEGAPIXELS",
        help="spread the tiles of an image with a larger output over the workers",
    )
    parser.add_argument(
        "--format", default="png", choices=[str(form) for form in bu.OutputFormat], help="of images"
    )
    parser.add_argument(
        "--metadata",
        default="keep",
        choices=[str(rule) for rule in bu.MetadataRule],
        help="of inputs: EXIF, GPS and XMP; colors stay in any case",
    )
    parser.add_argument(
        *_both("shard-rows"), type=int, default=DEFAULT_SHARD_ROWS, help="rows in a shard"
    )
    parser.add_argument("--layout", default="files", choices=[str(layout) for layout in bu.Layout])
    parser.add_argument(
        "--weights", action="append", default=[], help="a name or a path; in a chain ENGINE=…"
    )
    parser.add_argument("--device", default="auto", choices=[str(device) for device in Device])
    parser.add_argument(
        "--precision",
        default="auto",
        choices=[str(precision) for precision in Precision],
        help="to be named with a device that only the workers have",
    )
    parser.add_argument("--endpoint", help="HOST:PORT of a service that has the engines")
    parser.add_argument(*_both("api-key-file"), help="on the workers; else BEAM_UPSCALE_API_KEY")
    return parser


def _both(name: str) -> tuple[str, str]:
    """An option as command lines write it, and as Beam's own options and templates do."""
    return f"--{name}", f"--{name.replace('-', '_')}"


def build(arguments: Sequence[str] | None = None) -> beam.Pipeline:
    """The pipeline that the options of this program and of Beam describe."""
    parser = option_parser()
    own, beam_arguments = parser.parse_known_args(arguments)
    for name in ("input", "output"):
        given = [getattr(own, each) for each in (name, f"named_{name}") if getattr(own, each)]
        if len(given) != 1:
            parser.error(f"{name} is given {len(given)} times; give it once")
        setattr(own, name, given[0])
    upscale = bu.Upscale(
        [own.engine, *own.then],
        max_input_pixels=own.max_input_pixels,
        oversize=bu.Oversize(own.oversize),
        output_format=bu.OutputFormat(own.format),
        fan_out_above=own.fan_out_above,
        metadata=bu.MetadataRule(own.metadata),
        weights=weights_by_engine(own.weights),
        device=own.device,
        precision=own.precision,
        remote_workers=not is_local(beam_arguments),
        prompt=own.prompt,
        backend=bu.Backend.LOCAL if own.endpoint is None else bu.Backend.GRPC,
        endpoint=own.endpoint,
        api_key_file=own.api_key_file,
    )
    device = None if own.endpoint is not None else Device(own.device)
    pipeline = new_pipeline(beam_arguments, default_workers(device))
    (
        pipeline
        | bu.ReadImages(
            own.input,
            output=own.output,
            shard_rows=own.shard_rows,
            input_format=own.input_format,
            image_column=own.image_column,
            deny_private_networks=own.deny_private_networks == "true",
            allow_link_local=own.allow_link_local == "true",
        )
        | upscale
        # With a step between that leaves inputs out on purpose, may_leave_out=True gives them rows.
        | bu.WriteDataset(own.output, layout=own.layout, may_leave_out=False)
    )
    return pipeline


def main(arguments: Sequence[str] | None = None) -> None:
    """Builds the pipeline and runs it to its end."""
    with build(arguments):
        pass


if __name__ == "__main__":
    main()
