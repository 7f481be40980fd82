"""A pipeline from a folder of images to a dataset, on any runner.

    python pipelines/upscale_images.py photos upscaled --oversize tile --runner=FlinkRunner …

What is not an option of this program goes to Beam; without a runner it runs in this process.
`beam-upscale run` does the same with a budget, a progress line and a summary; begin here to put
steps of your own between.
"""

import argparse
from collections.abc import Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType
from typing import Any

import apache_beam as beam

import beam_upscale as bu

_DEFAULTS = bu.UpscaleSettings()

# Templates give every option a value.
_SWITCH: Mapping[str, Any] = MappingProxyType(
    {"nargs": "?", "const": "true", "default": "false", "choices": ["false", "true"]}
)


def option_parser() -> argparse.ArgumentParser:
    """Returns the options of this program, which the template of Dataflow has by the same names."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    _add_places(parser)
    _add_images(parser)
    _add_engines(parser)
    return parser


def _add_places(parser: argparse.ArgumentParser) -> None:
    """Adds what is read, and where and how results are stored."""
    source = "a file, a folder or a glob, on any of Beam's file systems"
    parser.add_argument("input", nargs="?", help=source)
    parser.add_argument("output", nargs="?", help="the dataset's root")
    parser.add_argument("--input", dest="named_input", metavar="INPUT", help="likewise")
    parser.add_argument("--output", dest="named_output", metavar="OUTPUT", help="likewise")
    parser.add_argument(
        *_both("input-format"),
        choices=_names(bu.InputFormat),
        help="format of the input, where the names of its files do not tell it",
    )
    parser.add_argument(
        *_both("image-column"), help="column of a table with the images, their paths or their URLs"
    )
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
    parser.add_argument(
        *_both("shard-rows"),
        type=int,
        default=bu.ReadImages.shard_rows,
        help="number of inputs in a shard, which has one manifest file",
    )
    parser.add_argument(
        "--layout",
        default=str(bu.WriteDataset.layout),
        choices=_names(bu.Layout),
        help="how results are stored",
    )


def _add_images(parser: argparse.ArgumentParser) -> None:
    """Adds which images are upscaled, and how results are encoded."""
    plan = _DEFAULTS.plan
    parser.add_argument(
        *_both("max-input-pixels"),
        type=int,
        default=plan.max_input_pixels,
        help="reject images with more pixels by their headers",
    )
    parser.add_argument(
        "--oversize",
        default=str(plan.oversize),
        choices=_names(bu.Oversize),
        help="what to do with an image above the engine's input limit",
    )
    parser.add_argument(
        *_both("fan-out-above"),
        type=float,
        metavar="MEGAPIXELS",
        help="spread the tiles of an image with a larger output over the workers",
    )
    parser.add_argument(
        "--format",
        dest="output_format",
        default=str(plan.output_format),
        choices=_names(bu.OutputFormat),
        help="file format of the output images",
    )
    parser.add_argument(
        "--metadata",
        default=str(_DEFAULTS.encode.metadata),
        choices=_names(bu.MetadataRule),
        help="keep EXIF, GPS and XMP of inputs in their results, or strip them",
    )


def _add_engines(parser: argparse.ArgumentParser) -> None:
    """Adds the engines and where they run."""
    local = _DEFAULTS.local
    (engine,) = _DEFAULTS.engines
    parser.add_argument("--engine", default=engine, help="engine that upscales the images")
    parser.add_argument(
        "--then", action="append", default=[], help="further engine that upscales the results"
    )
    parser.add_argument("--prompt", help="what images show, for an engine that takes a prompt")
    parser.add_argument(
        "--weights",
        action="append",
        default=[],
        help="weights by a name or a path; of several engines each as ENGINE=WEIGHTS",
    )
    parser.add_argument(
        "--device",
        default=str(local.device),
        choices=_names(bu.Device),
        help="device on which the workers run the network",
    )
    parser.add_argument(
        "--precision",
        default=str(local.precision),
        choices=_names(bu.Precision),
        help="floating-point type of the network; name it with a device that only workers have",
    )
    parser.add_argument(
        "--endpoint", help="HOST:PORT of a service that has the engines; else they run on workers"
    )
    parser.add_argument(
        *_both("api-key-file"),
        help="file with the service's API key, on the workers; else BEAM_UPSCALE_API_KEY there",
    )


def _names(members: type[StrEnum]) -> list[str]:
    return [str(member) for member in members]


def _both(name: str) -> tuple[str, str]:
    """Returns an option as command lines write it, and as Beam's own and templates do."""
    return f"--{name}", f"--{name.replace('-', '_')}"


def build(arguments: Sequence[str] | None = None) -> beam.Pipeline:
    """Builds the pipeline that the options of this program and of Beam describe."""
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
        oversize=own.oversize,
        output_format=own.output_format,
        fan_out_above=own.fan_out_above,
        scratch=own.output,
        metadata=own.metadata,
        weights=bu.weights_by_engine(own.weights),
        device=own.device,
        precision=own.precision,
        remote_workers=not bu.runs_here(beam_arguments),
        prompt=own.prompt,
        backend=bu.Backend.LOCAL if own.endpoint is None else bu.Backend.GRPC,
        endpoint=own.endpoint,
        api_key_file=own.api_key_file,
    )
    device = None if own.endpoint is not None else bu.Device(own.device)
    pipeline = bu.new_pipeline(beam_arguments, bu.default_workers(device))
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
