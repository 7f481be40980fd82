"""The command line: `beam-upscale plan | run | verify | engines | weights | serve | keys`."""

import contextlib
import dataclasses
import json
import logging
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from beam_upscale.chain import Backend
from beam_upscale.defaults import (
    DEFAULT_GRACE_SECONDS,
    DEFAULT_LEASE_SECONDS,
    DEFAULT_SHARD_ROWS,
)
from beam_upscale.errors import (
    BeamUpscaleError,
    BrokenProcessError,
    ErrorCode,
    HoldLostError,
    reason,
)
from beam_upscale.explanations import explained
from beam_upscale.formats import InputFormat, Layout
from beam_upscale.models.backend import NetworkBackend
from beam_upscale.models.device import Device, Precision
from beam_upscale.parameters import MAX_STEPS
from beam_upscale.plan import Animated, MetadataRule, OutputFormat, Oversize
from beam_upscale.printing import Column, Debugging, Printer, amount, flush, show_all_characters
from beam_upscale.remote_models import API_KEY_VARIABLE
from beam_upscale.server.settings import ServeSettings
from beam_upscale.settings import UpscaleSettings, VaeTiling, weights_by_engine
from beam_upscale.start_up import begin_decoding, import_inference, loading_network
from beam_upscale.termination import (
    EXIT_TERMINATED,
    INTERRUPTED,
    TERMINATED,
    TerminatedError,
    raising_at_sigterm,
)

# The parser needs little, and answers at once; each command imports what it runs.
if TYPE_CHECKING:
    from beam_upscale.engines import Engine
    from beam_upscale.listing import Listing
    from beam_upscale.manifest import Status
    from beam_upscale.preview import PlannedImage, StatusTotals
    from beam_upscale.request import FailureLimit, RunResult
    from beam_upscale.server.keys import KeyRecord
    from beam_upscale.settings import PinnedSettings
    from beam_upscale.weights import WeightsStatus

_EXIT_FAILED = 1
_EXIT_USAGE = 2
_EXIT_INTERRUPTED = 130

_DEFAULT_SETTINGS = UpscaleSettings()
_DEFAULT_SERVE_SETTINGS = ServeSettings(_DEFAULT_SETTINGS)

(_DEFAULT_ENGINE,) = _DEFAULT_SETTINGS.engines

_Command = TypeVar("_Command", bound=Callable[..., Any])

# Of the stores that Beam knows.
_SCHEMES = frozenset({"azfs", "file", "gs", "hdfs", "http", "https", "s3"})

out = Printer()
err = Printer(is_for_errors=True)


class PlaceType(click.ParamType[str]):
    """A path or a URI, as it is given."""

    name = "PLACE"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        """Fails on what a script gives where a variable is not set, and on half a URI."""
        place = str(value)
        if not place.strip():
            self.fail("it is empty; name a file or a folder", param, ctx)
        scheme, is_uri, rest = place.partition(":/")
        if is_uri and not rest.startswith("/") and scheme in _SCHEMES and not Path(place).exists():
            self.fail(f"{place!r} has one slash; a URI has two: {scheme}://…", param, ctx)
        return place


class SizeType(click.ParamType[tuple[int, int]]):
    """`1024x768` as (1024, 768)."""

    name = "WxH"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, int]:
        """Fails on anything but two positive numbers."""
        width, _, height = str(value).lower().partition("x")
        if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
            self.fail(f"{value!r} is not a size such as 1024x768", param, ctx)
        return int(width), int(height)


class CreditsType(click.ParamType[Decimal]):
    """An exact amount of 0 or more."""

    name = "CREDITS"

    def convert(self, value: Any, param: Any, ctx: Any) -> Decimal:
        """Fails on anything that is no amount."""
        try:
            amount = Decimal(str(value))
        except InvalidOperation:
            self.fail(f"{value!r} is not a number of credits", param, ctx)
        if not amount.is_finite() or amount < 0:
            self.fail(f"{value!r} is not a number of credits of 0 or more", param, ctx)
        return amount


class StatusesType(click.ParamType["frozenset[Status]"]):
    """`failed,over_budget` as a set of statuses."""

    name = "STATUS,…"

    def convert(self, value: Any, param: Any, ctx: Any) -> "frozenset[Status]":
        """Fails on a name that is no status."""
        from beam_upscale.manifest import Status

        names = [name.strip() for name in str(value).split(",")]
        for name in names:
            if name not in list(Status):
                known = ", ".join(Status)
                self.fail(f"{name!r} is no status; the statuses are: {known}", param, ctx)
        return frozenset(Status(name) for name in names)


class FailureLimitType(click.ParamType["FailureLimit"]):
    """`20` or `5%`."""

    name = "N|P%"

    def convert(self, value: Any, param: Any, ctx: Any) -> "FailureLimit":
        """Fails on anything else."""
        from beam_upscale.request import FailureLimit

        match = re.fullmatch(r"(?P<percent>\d+(\.\d+)?)%|(?P<count>[1-9]\d*)", str(value))
        if match is None:
            message = f"{value!r} is neither a number of 1 or more nor a share such as 5%"
            self.fail(message, param, ctx)
        if match["count"] is not None:
            return FailureLimit(count=int(match["count"]))
        return FailureLimit(percent=float(match["percent"]))


def _choice(values: Iterable[str]) -> click.Choice[str]:
    return click.Choice([str(value) for value in values])


_POSITIVE = click.IntRange(min=1)

_INPUT_OPTIONS = (
    click.option(
        "--input-format",
        type=_choice(InputFormat),
        help="Format of INPUT: image files (folder), a table with a row for each image (jsonl, "
        "csv, parquet), or tar files (webdataset). [default: by file name; folder for a folder]",
    ),
    click.option(
        "--image-column",
        metavar="COLUMN",
        help="Column of a table with the images, their paths or their URLs. [default: the first "
        "with a usual name, such as image, url or file_name]",
    ),
    click.option(
        "--deny-private-networks",
        is_flag=True,
        help="Refuse URLs that lead to this machine or to a private network.",
    ),
    click.option(
        "--allow-link-local",
        is_flag=True,
        help="Allow URLs that lead to a link-local address or to a cloud's metadata service, which "
        "may reveal credentials. Without it, they are refused.",
    ),
)

_PLAN_OPTIONS = (
    click.option(
        "--engine",
        default=_DEFAULT_ENGINE,
        show_default=True,
        help="Engine that upscales the images; see `beam-upscale engines`.",
    ),
    click.option(
        "--then",
        multiple=True,
        metavar="ENGINE",
        help="Further engine that upscales the results of the one before; may be repeated.",
    ),
    click.option(
        "--backend",
        type=_choice(Backend),
        default=str(_DEFAULT_SETTINGS.backend),
        show_default=True,
        help="Where the engines run: on this machine or the workers of a Beam runner (local), or "
        "at a service that is called (grpc).",
    ),
    click.option(
        "--width",
        type=_POSITIVE,
        help="Output width in pixels; the height keeps the aspect ratio. Set at most one of "
        "--width, --height, --short-side and --long-side. [default: the engine's scale decides]",
    ),
    click.option(
        "--height",
        type=_POSITIVE,
        help="Output height in pixels; the width keeps the aspect ratio.",
    ),
    click.option(
        "--short-side", type=_POSITIVE, help="Length of the output's shorter side in pixels."
    ),
    click.option(
        "--long-side", type=_POSITIVE, help="Length of the output's longer side in pixels."
    ),
    click.option(
        "--oversize",
        type=_choice(Oversize),
        default=str(_DEFAULT_SETTINGS.plan.oversize),
        show_default=True,
        help="What to do with an image above the engine's input limit: reject it, cut it "
        "into priced tiles, or shrink it to fit.",
    ),
    click.option(
        "--min-side",
        type=_POSITIVE,
        help="Skip images that are large enough: both sides have at least this many pixels.",
    ),
    click.option(
        "--skip-larger-than",
        type=SizeType(),
        help="Skip images wider than W or higher than H pixels, such as 4000x3000.",
    ),
    click.option(
        "--max-input-pixels",
        type=_POSITIVE,
        default=_DEFAULT_SETTINGS.plan.max_input_pixels,
        show_default=True,
        help="Reject images with more pixels by their headers, before they are decoded.",
    ),
    click.option(
        "--max-input-bytes",
        type=_POSITIVE,
        default=_DEFAULT_SETTINGS.plan.max_input_bytes,
        show_default=True,
        help="Reject image files with more bytes, before they are read.",
    ),
    click.option(
        "--animated",
        type=_choice(Animated),
        default=str(_DEFAULT_SETTINGS.plan.animated),
        show_default=True,
        help="What to do with a file of several frames, such as an animated GIF: take the first "
        "frame, or reject it.",
    ),
    click.option(
        "--format",
        "output_format",
        type=_choice(OutputFormat),
        default=str(_DEFAULT_SETTINGS.plan.output_format),
        show_default=True,
        help="File format of the output images.",
    ),
    click.option(
        "--fan-out-above",
        type=float,
        metavar="MEGAPIXELS",
        help="Spread the tiles of images whose output has more megapixels over all workers, so "
        "that none holds such a large image whole. Needs --oversize tile and --format png or tiff.",
    ),
    click.option(
        "--max-credits",
        type=CreditsType(),
        help="Budget in credits; `run` counts earlier runs into OUTPUT too. Images beyond it are "
        "not upscaled and have the status over_budget. [default: no limit]",
    ),
)

# For engines that take a prompt. An image's own columns and caption come first. Their values are
# checked where those of a dataset are, with the same codes.
_PARAMETER_OPTIONS = (
    click.option(
        "--prompt",
        help="Description of what the images show, for an engine that takes a prompt. An image's "
        "own prompt, from a column or a caption file, replaces it.",
    ),
    click.option("--negative-prompt", help="Description of what the images do not show."),
    click.option(
        "--cfg-scale",
        metavar="NUMBER",
        help="Weight of the prompt, 0 or more; with a higher one, results follow the prompt more. "
        f"[default: {_DEFAULT_SETTINGS.parameters.cfg_scale:g}]",
    ),
    click.option(
        "--steps",
        metavar="N",
        help=f"Number of denoising steps of a diffusion engine, 1 to {MAX_STEPS}. "
        f"[default: {_DEFAULT_SETTINGS.parameters.steps}]",
    ),
    click.option(
        "--seed",
        metavar="N",
        help="Seed of the random noise, 1 to 4294967295. Without one, or with 0, each image's seed "
        "is derived from its pixels and parameters.",
    ),
    click.option(
        "--noise-level",
        metavar="N",
        help="Level of the noise that is added to the input, 0 to 350; with more noise, the result "
        "keeps less to the input. "
        f"[default: {_DEFAULT_SETTINGS.parameters.noise_level}]",
    ),
    click.option(
        "--prompt-column",
        default=_DEFAULT_SETTINGS.prompt_column,
        show_default=True,
        help="Column of a table, or of the metadata beside the images, that holds their prompts.",
    ),
)

_MODEL_OPTIONS = (
    click.option(
        "--weights",
        type=PlaceType(),
        multiple=True,
        metavar="[ENGINE=]WEIGHTS",
        help="Weights of the network: a name (see `beam-upscale weights list`), a path, or "
        "OWNER/NAME@REVISION on the Hugging Face hub; nearest, bicubic and lanczos use no network. "
        "For several engines, give each its own as ENGINE=WEIGHTS. [default: the engine's]",
    ),
    click.option(
        "--device",
        type=_choice(Device),
        default=str(_DEFAULT_SETTINGS.device),
        show_default=True,
        help="Device that runs the network; auto takes the best of this machine: CUDA, else MPS "
        "(Apple), else the CPU.",
    ),
    click.option(
        "--precision",
        type=_choice(Precision),
        default=str(_DEFAULT_SETTINGS.precision),
        show_default=True,
        help="Floating-point type of the network; auto takes bf16 or fp16 where it is faster and "
        "accurate enough, else fp32.",
    ),
    click.option(
        "--network-backend",
        type=_choice(NetworkBackend),
        default=str(_DEFAULT_SETTINGS.network_backend),
        show_default=True,
        help="Library that runs a super-resolution network; auto takes OpenVINO on an x86-64 CPU "
        "where it is installed and supports the network, else PyTorch. Diffusion uses PyTorch.",
    ),
    click.option(
        "--threads",
        type=_POSITIVE,
        help="Number of CPU threads of the network. [default: one for each core]",
    ),
    click.option(
        "--max-tile-pixels",
        type=_POSITIVE,
        default=_DEFAULT_SETTINGS.max_tile_pixels,
        show_default=True,
        help="Split an image or tile with more pixels into strips, so that a super-resolution "
        "network fits in the device's memory. The price stays the same.",
    ),
    click.option(
        "--max-batch-pixels",
        type=_POSITIVE,
        help="Limit on the input pixels that a GPU processes together. [default: 2097152; for "
        "diffusion the engine's input limit]",
    ),
    click.option(
        "--exact",
        is_flag=True,
        help="Process images one at a time on a GPU too, so that no result depends on others.",
    ),
    click.option(
        "--vae-tiling",
        type=_choice(VaeTiling),
        default=str(_DEFAULT_SETTINGS.vae_tiling),
        show_default=True,
        help="Decode the results of a diffusion engine in strips, which needs less memory; auto is "
        "off on a CPU, else on.",
    ),
    click.option(
        "--color-fix",
        is_flag=True,
        help="Adjust the colors of a diffusion engine's results to those of their inputs.",
    ),
)

_ENCODE_OPTIONS = (
    click.option(
        "--quality",
        type=click.IntRange(1, 100),
        help="Quality of JPEG and lossy WebP. [default: 95 for JPEG, 90 for WebP]",
    ),
    click.option(
        "--lossless", is_flag=True, help="Write WebP without loss; --quality then has no effect."
    ),
    click.option(
        "--metadata",
        type=_choice(MetadataRule),
        default=str(_DEFAULT_SETTINGS.metadata),
        show_default=True,
        help="What to do with the EXIF (GPS included), XMP and resolution of an input: keep them "
        "in its result, or strip them. Color profiles always stay.",
    ),
)

_SERVICE_OPTIONS = (
    click.option(
        "--endpoint",
        metavar="HOST:PORT",
        help="Address of the service; required with --backend grpc, and only used with it.",
    ),
    click.option(
        "--api-key-file",
        type=PlaceType(),
        metavar="FILE",
        help="File with the API key for the service, which every worker reads. "
        f"[default: the environment variable {API_KEY_VARIABLE} holds the key]",
    ),
    click.option(
        "--ca-file",
        type=PlaceType(),
        metavar="FILE",
        help="PEM file of the certificate authorities to trust. With it, a service on this machine "
        "is called over TLS too. [default: the system's authorities]",
    ),
    click.option(
        "--insecure",
        is_flag=True,
        help="Call a service on another machine without TLS. Without this option, TLS is used for "
        "every machine but this one.",
    ),
    click.option(
        "--max-in-flight",
        type=_POSITIVE,
        default=_DEFAULT_SETTINGS.max_in_flight,
        show_default=True,
        help="Largest number of calls that one worker process has in flight at a time.",
    ),
    click.option(
        "--requests-per-second",
        type=float,
        help="Largest number of calls that all worker processes together begin in a second; above "
        "0. [default: no limit]",
    ),
    click.option(
        "--worker-processes",
        type=_POSITIVE,
        help="Number of worker processes that share --requests-per-second. [default: 1 locally, "
        "else Beam's --parallelism]",
    ),
    click.option(
        "--deadline-seconds",
        type=float,
        default=_DEFAULT_SETTINGS.deadline_seconds,
        show_default=True,
        help="Seconds that one attempt of a call may take; above 0.",
    ),
    click.option(
        "--retry-seconds",
        type=float,
        default=_DEFAULT_SETTINGS.retry_seconds,
        show_default=True,
        help="Seconds after the first attempt of a call in which it may be repeated while the "
        "service is unavailable; above 0.",
    ),
)

_RUN_OPTIONS = (
    click.option(
        "--layout",
        type=_choice(Layout),
        default=str(Layout.FILES),
        show_default=True,
        help="How results are stored: as image files, inside Parquet files, or in tar files for "
        "WebDataset.",
    ),
    click.option(
        "--shard-rows",
        type=_POSITIVE,
        default=DEFAULT_SHARD_ROWS,
        show_default=True,
        help="Number of inputs in a shard, which has one manifest file and, with --layout parquet "
        "or webdataset, one file of images.",
    ),
    click.option(
        "--retry",
        type=StatusesType(),
        default=None,
        help="Process inputs again whose status from an earlier run is one of these, separated by "
        "commas: upscaled, skipped, rejected, failed, filtered, over_budget.",
    ),
    click.option(
        "--max-failures",
        type=FailureLimitType(),
        help="Stop when this number or share of the images has failed, such as 20 or 5%. "
        "[default: no limit]",
    ),
    click.option(
        "--keep-intermediates",
        is_flag=True,
        help="Store the images between the engines of --then too, in OUTPUT/intermediates.",
    ),
    click.option(
        "--overwrite",
        is_flag=True,
        help="Delete the results of earlier runs in OUTPUT and begin anew. Without it, a run "
        "continues OUTPUT, and is refused if its settings differ.",
    ),
    click.option(
        "--workers",
        type=_POSITIVE,
        help="Number of parallel workers (threads) of the local runner; other runners ignore it. "
        "[default: 2 on a CPU, else by the number of cores, up to 16]",
    ),
    click.option(
        "--lease-seconds",
        type=click.FloatRange(min=1),
        default=DEFAULT_LEASE_SECONDS,
        show_default=True,
        help="Seconds without a sign of life after which another run may take OUTPUT over. Applies "
        "to object stores, HDFS and other runners; a local run uses a lock on a local disk.",
    ),
    click.option(
        "--grace-seconds",
        type=click.FloatRange(min=0),
        default=DEFAULT_GRACE_SECONDS,
        show_default=True,
        help="Seconds that images in progress may take to finish after SIGTERM.",
    ),
    click.option(
        "--strict",
        is_flag=True,
        help="Exit with 1 if an image failed. Without it, a complete run exits with 0.",
    ),
    click.option("--quiet", is_flag=True, help="Show no progress line."),
)


# Of Beam, after --: a runner's, and those of the file systems.
_BEAM_OPTIONS = click.argument("beam_options", metavar="[-- BEAM OPTIONS]", nargs=-1)


def debugging() -> Debugging:
    """Returns what the current command was told by `--debug`."""
    return click.get_current_context().find_object(Debugging) or Debugging()


def _quieten_beam() -> None:
    """Beam logs a failed bundle with every traceback; the command ends with one line instead."""
    if not debugging().is_on:
        logging.getLogger().setLevel(logging.CRITICAL)


def _check_beam_options(beam_options: tuple[str, ...]) -> None:
    if beam_options and not beam_options[0].startswith("-"):
        raise click.UsageError(
            f"unexpected argument {beam_options[0]!r}; options of Beam stand after --"
        )


def _options(*groups: Iterable[Callable[[_Command], _Command]]) -> Callable[[_Command], _Command]:
    """Puts groups of options on a command, in the order they are written."""

    def decorate(command: _Command) -> _Command:
        for option in reversed([option for group in groups for option in group]):
            command = option(command)
        return command

    return decorate


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="beam-upscale")
def cli() -> None:
    """Upscale image datasets of any size, at a price known beforehand."""


@cli.command("plan")
@click.argument("input_", metavar="INPUT", type=PlaceType())
@_BEAM_OPTIONS
@_options(_INPUT_OPTIONS, _PLAN_OPTIONS, _PARAMETER_OPTIONS)
@click.option(
    "--json", "as_json", is_flag=True, help="Print the totals and every image's plan as JSON."
)
@click.option(
    "--to",
    type=PlaceType(),
    metavar="FOLDER",
    help="Write every image's plan to FOLDER as Parquet. Required with a Beam --runner, whose "
    "workers must all be able to write to FOLDER.",
)
def plan_command(
    input_: str,
    beam_options: tuple[str, ...],
    input_format: str | None,
    image_column: str | None,
    deny_private_networks: bool,
    allow_link_local: bool,
    engine: str,
    then: tuple[str, ...],
    max_credits: Decimal | None,
    as_json: bool,
    to: str | None,
    **options: Any,
) -> None:
    """Print a preview of a run on INPUT, and its price.

    A preview reads image headers only: it runs no network and spends nothing. INPUT is a file, a
    folder, a glob or a URL: of images, of tables that name or hold them (JSON lines, CSV, Parquet),
    or of WebDataset's tar files. Options after -- go to Apache Beam, such as its --runner.

    \b
    For example:
      beam-upscale plan photos
      beam-upscale plan 'shards/*.tar' --oversize tile --max-credits 500
    """  # noqa: D301
    _check_beam_options(beam_options)
    if not beam_options:
        # With a runner of Beam's, other processes decode.
        begin_decoding()
    import_inference()
    from beam_upscale import storage, urls, web_access
    from beam_upscale import weights as weights_cache
    from beam_upscale.listing import no_input, require_prompt_column
    from beam_upscale.local_runner import is_local
    from beam_upscale.preview import by_status, limits_of_knowledge, preview, read_plan
    from beam_upscale.sources import Asking

    if to is None and not is_local(beam_options):
        raise click.UsageError("a plan that a runner of Beam's makes needs --to FOLDER")
    settings = _settings(engine, then, options)
    beam_options += web_access.beam_arguments(deny_private_networks, allow_link_local)
    storage.configure(beam_options)
    listing = Asking(input_, input_format, image_column).listing()
    if not listing.images:
        raise no_input(input_, listing)
    require_prompt_column(listing, settings.rules)
    _quieten_beam()
    with contextlib.ExitStack() as stack:
        folder = to or stack.enter_context(tempfile.TemporaryDirectory(prefix="beam-upscale-plan-"))
        preview(
            listing.images,
            settings.rules,
            max_credits,
            folder,
            beam_options,
            on_wait=err.line,
        )
        planned = read_plan(folder)
        note = limits_of_knowledge(
            fans_out=settings.fan_out_above is not None, has_budget=max_credits is not None
        )
        if as_json:
            click.echo(_plan_as_json(settings.engines, list(planned), note))
            return
        title = f"{' and then '.join(settings.engines)} on {urls.without_secrets(input_)}"
        _print_totals(title, by_status(planned))
        for image in planned:
            if image.error_code is not None:
                line = f"{image.status}  {image.error_code}  {image.input_id}: {image.message}"
                out.line(line)
    out.line(note)
    if settings.backend is Backend.LOCAL:
        for hint in weights_cache.default_hints(settings.engines):
            out.line(f"by default {hint}")
    _print_left_out(listing, out)


def _settings(engine: str, then: tuple[str, ...], options: dict[str, Any]) -> UpscaleSettings:
    """Settings from the command line, with a warning where some have no effect."""
    settings = UpscaleSettings.of((engine, *then), **options)
    if settings.warning is not None:
        err.line(f"beam-upscale: {settings.warning}")
    return settings


def _plan_as_json(engines: tuple[str, ...], planned: "list[PlannedImage]", note: str) -> str:
    """A plan as JSON; amounts are strings, which keeps every digit."""
    from beam_upscale.preview import by_status

    values = {
        "engines": engines,
        "known_from": "headers",
        "note": note,
        "totals": {status: dataclasses.asdict(sum_) for status, sum_ in by_status(planned).items()},
        "images": [dataclasses.asdict(image) for image in planned],
    }
    return json.dumps(values, indent=2, default=str)


def _print_totals(title: str, sums: "Mapping[Status, StatusTotals]") -> None:
    out.line(title)
    numbers = ("images", "tiles", "credits", "dollars")
    out.table(
        [Column("status"), *(Column(name, is_number=True) for name in numbers)],
        [
            (
                status,
                f"{sum_.images:,}",
                f"{sum_.calls:,}",
                amount(sum_.credits),
                amount(sum_.usd),
            )
            for status, sum_ in sums.items()
        ],
    )


def _reduction_hints(settings: "PinnedSettings") -> list[str]:
    """The hints for networks that make more than their engines give; each once."""
    from beam_upscale import weights as weights_cache
    from beam_upscale.local_models import LocalEsrgan

    found = [
        weights_cache.reduction_hint(stage.model.name, stage.model.scale, stage.engine.scale)
        for stage in settings.stages
        if isinstance(stage.model, LocalEsrgan)
    ]
    return [hint for hint in dict.fromkeys(found) if hint is not None]


def _print_left_out(listing: "Listing", printer: Printer) -> None:
    if listing.ignored:
        printer.line(
            "1 file is left out: its name says that it is no image"
            if listing.ignored == 1
            else f"{listing.ignored:,} files are left out: their names say that they are no images"
        )
    if listing.unmatched:
        printer.line(
            "1 row of metadata names no image that is here"
            if listing.unmatched == 1
            else f"{listing.unmatched:,} rows of metadata name no image that is here"
        )
    if listing.datasets:
        first, *others = listing.datasets
        more = f" and of {len(others):,} other datasets" if others else ""
        printer.line(f"the results of {first}{more} are passed over")


@cli.command("run")
@click.argument("input_", metavar="INPUT", type=PlaceType())
@click.argument("output", metavar="OUTPUT", type=PlaceType())
@_BEAM_OPTIONS
@_options(
    *(_INPUT_OPTIONS, _PLAN_OPTIONS, _PARAMETER_OPTIONS, _MODEL_OPTIONS),
    *(_ENCODE_OPTIONS, _SERVICE_OPTIONS, _RUN_OPTIONS),
)
def run_command(
    input_: str,
    output: str,
    beam_options: tuple[str, ...],
    input_format: str | None,
    image_column: str | None,
    deny_private_networks: bool,
    allow_link_local: bool,
    engine: str,
    then: tuple[str, ...],
    weights: tuple[str, ...],
    layout: str,
    shard_rows: int,
    max_credits: Decimal | None,
    retry: "frozenset[Status] | None",
    max_failures: "FailureLimit | None",
    overwrite: bool,
    workers: int | None,
    grace_seconds: float,
    lease_seconds: float,
    strict: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Upscale INPUT into the dataset OUTPUT.

    INPUT is a file, a folder, a glob or a URL: of images, of tables that name or hold them (JSON
    lines, CSV, Parquet), or of WebDataset's tar files. OUTPUT is a folder. Run the same command
    again to continue a run that was interrupted, or to add new images. Options after -- go to
    Apache Beam, such as its --runner.

    \b
    For example:
      beam-upscale run photos upscaled
      beam-upscale run photos upscaled --oversize tile --max-credits 500
    """  # noqa: D301
    _check_beam_options(beam_options)
    if not beam_options:
        # With a runner of Beam's, other processes decode.
        begin_decoding()
    settings = _settings(engine, then, {**options, "weights": weights_by_engine(weights)})
    if not beam_options:
        click.get_current_context().with_resource(loading_network(settings))
    import_inference()
    from beam_upscale import web_access
    from beam_upscale.progress import ProgressLine
    from beam_upscale.request import FailureLimit, Run
    from beam_upscale.run import run
    from beam_upscale.summary import HOW_TO_GO_ON, print_result

    beam_options += web_access.beam_arguments(deny_private_networks, allow_link_local)
    _quieten_beam()
    request = Run(
        input=input_,
        output=output,
        settings=settings,
        layout=Layout(layout),
        shard_rows=shard_rows,
        max_credits=max_credits,
        retry=retry or frozenset(),
        max_failures=max_failures or FailureLimit(),
        overwrite=overwrite,
        workers=workers,
        input_format=input_format,
        image_column=image_column,
        grace_seconds=grace_seconds,
        beam_options=beam_options,
        lease_seconds=lease_seconds,
    )
    with ProgressLine(err.console, shown=err.console.is_terminal and not quiet) as line:

        def started(settings: "PinnedSettings", listing: "Listing") -> None:
            line.total = len(listing.images)
            engines = " and then ".join(stage.model.place for stage in settings.stages)
            err.line(f"{engines}: {line.total:,} inputs")
            for hint in _reduction_hints(settings):
                err.line(hint)
            _print_left_out(listing, err)

        try:
            result = run(
                request,
                on_start=started,
                on_progress=line.update,
                on_note=err.line,
            )
        except BeamUpscaleError:
            raise
        except KeyboardInterrupt:
            # The pipeline's threads may be in the middle of an image; what is done is durable.
            _fail(f"interrupted; {HOW_TO_GO_ON}", _EXIT_INTERRUPTED, at_once=True)
        except TerminatedError as error:
            why = "" if error.__cause__ is None else f" ({explained(error.__cause__)})"
            _fail(f"{TERMINATED}{why}; {HOW_TO_GO_ON}", EXIT_TERMINATED, at_once=True)
        except Exception as error:
            debugging().trace(error)
            _fail(f"{explained(error)}; {HOW_TO_GO_ON}", _EXIT_FAILED, at_once=True)
    try:
        print_result(out, output, result)
        flush()
    except OSError as error:
        # The work is done, whatever became of the words about it.
        err.line(f"the summary could not be printed: {reason(error)}")
    sys.exit(_exit_code(result, strict))


def _exit_code(result: "RunResult", strict: bool) -> int:
    from beam_upscale.manifest import Status

    if result.stopped == INTERRUPTED:
        return _EXIT_INTERRUPTED
    if result.stopped == TERMINATED:
        return EXIT_TERMINATED
    failed = bool(result.totals.by_status.get(Status.FAILED))
    return _EXIT_FAILED if result.stopped is not None or (strict and failed) else 0


@cli.command("verify")
@click.argument("output", metavar="OUTPUT", type=PlaceType())
@_BEAM_OPTIONS
def verify_command(output: str, beam_options: tuple[str, ...]) -> None:
    """Check the dataset OUTPUT against its manifest.

    Recomputes every SHA-256 and prints a line for each problem, such as a missing or changed file;
    the exit code is then 1. Options after -- go to Apache Beam, such as those of a file system.
    """
    _check_beam_options(beam_options)
    from beam_upscale import storage
    from beam_upscale.verify import verify

    storage.configure(beam_options)
    problems = 0
    for problem in verify(output):
        problems += 1
        out.line(f"{problem.kind}  {problem.path}  {problem.message}")
    if problems:
        out.line("1 problem" if problems == 1 else f"{problems:,} problems")
        sys.exit(_EXIT_FAILED)
    out.line(f"{output} matches its manifest, byte for byte")


@cli.command("engines")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def engines_command(as_json: bool) -> None:
    """List the engines with their limits, prices and parameters."""
    from beam_upscale.engines import ENGINES, USD_PER_CREDIT

    if as_json:
        click.echo(json.dumps([_engine_values(engine) for engine in ENGINES.values()], indent=2))
        return
    others = ("scale", "input limit", "output limit", "credits a call", "parameters")
    out.table(
        [Column("engine", is_whole=True), *map(Column, others)],
        [
            (
                engine.name,
                str(engine.scale),
                f"{engine.input_limit:,} px",
                f"{engine.output_limit:,} px",
                "; ".join(_prices(engine)),
                ", ".join(sorted(engine.parameters)),
            )
            for engine in ENGINES.values()
        ],
    )
    out.line(f"1 credit is ${USD_PER_CREDIT}; limits count pixels, at any aspect ratio")


def _prices(engine: "Engine") -> list[str]:
    return [
        f"{tier.credits} up to {tier.up_to_pixels:,} px" if tier.up_to_pixels else f"{tier.credits}"
        for tier in engine.prices
    ]


def _engine_values(engine: "Engine") -> dict[str, Any]:
    return {
        "name": engine.name,
        "description": engine.description,
        "scale": engine.scale,
        "input_limit": engine.input_limit,
        "output_limit": engine.output_limit,
        "prices": [
            {"up_to_pixels": tier.up_to_pixels, "credits": str(tier.credits)}
            for tier in engine.prices
        ],
        "parameters": sorted(engine.parameters),
    }


@cli.group("weights")
def weights_group() -> None:
    """List, fetch and verify the weights of networks."""


@weights_group.command("list")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print JSON instead of a table, with SHA-256, license and source.",
)
def weights_list(as_json: bool) -> None:
    """List the weights that can be given by name.

    Shows the scale and the work of each network, what it is good for, and whether its weights are
    in the cache. `run` and `serve` take these names with --weights.

    \b
    For example:
      beam-upscale weights list
      beam-upscale weights list --json
    """  # noqa: D301
    from beam_upscale import weights as weights_cache

    found = weights_cache.available()
    if as_json:
        click.echo(json.dumps([_weights_values(status) for status in found], indent=2))
        return
    names = ("scale", "work", "good for", "cache")
    registered = [
        (
            status.registered.name,
            str(status.registered.scale),
            weights_cache.work_text(status.registered.work),
            status.registered.description,
            status.state,
        )
        for status in found
    ]
    baselines = [(name, "any", "0", use, "-") for name, use in weights_cache.BASELINES.items()]
    out.table([Column("name", is_whole=True), *map(Column, names)], [*registered, *baselines])
    out.line(
        "work counts multiply-adds for each input pixel, in those of realesrgan-x4plus; the last "
        f"{len(baselines)} are no networks"
    )
    for name in weights_cache.DEFAULT_WEIGHTS.values():
        if name not in weights_cache.REGISTRY:
            out.line(f"and, on the hub, {name}")
    out.line(f"cache {weights_cache.cache_directory()}")


def _weights_values(status: "WeightsStatus") -> dict[str, Any]:
    registered = status.registered
    return {
        "name": registered.name,
        "scale": registered.scale,
        "multiply_adds": registered.multiply_adds,
        "work": round(float(registered.work), 4),
        "description": registered.description,
        "license": registered.license,
        "bytes": registered.bytes,
        "sha256": registered.sha256,
        "source": registered.origin.description,
        "cache": str(status.state),
    }


@weights_group.command("fetch")
@click.argument("name")
def weights_fetch(name: str) -> None:
    """Fetch the weights NAME into the cache.

    NAME is one of `beam-upscale weights list`, or OWNER/NAME@REVISION on the Hugging Face hub,
    where REVISION is the hash of a commit.
    """
    from beam_upscale import weights as weights_cache

    found = weights_cache.fetch_by_name(name)
    out.line(f"{found.name}  {found.sha256}  {found.path}")


@weights_group.command("verify")
def weights_verify() -> None:
    """Verify the SHA-256 of named weights in the cache.

    Prints the state of each network of `beam-upscale weights list`; the exit code is 1 if the
    weights of one are damaged.
    """
    from beam_upscale import weights as weights_cache

    damaged = 0
    for status in weights_cache.available():
        out.line(f"{status.registered.name}  {status.state}")
        damaged += status.state is weights_cache.CacheState.DAMAGED
    if damaged:
        out.line(f"{damaged} damaged; `beam-upscale weights fetch NAME` makes them again")
        sys.exit(_EXIT_FAILED)


_PORT = click.IntRange(0, 65535)
_PATH = click.Path(path_type=Path)

_SERVE_OPTIONS = (
    click.option(
        "--host",
        default=_DEFAULT_SERVE_SETTINGS.host,
        show_default=True,
        help="Address to listen on. One that other machines can reach, such as 0.0.0.0, needs "
        "--keys, and TLS or --insecure.",
    ),
    click.option(
        "--port",
        type=_PORT,
        default=_DEFAULT_SERVE_SETTINGS.port,
        show_default=True,
        help="Port for gRPC; 0 takes a free one.",
    ),
    click.option(
        "--web-port",
        type=_PORT,
        help="Port for gRPC-Web, which web pages can call; 0 takes a free one. [default: none]",
    ),
    click.option(
        "--metrics-port",
        type=_PORT,
        help="Port for Prometheus metrics, which only this machine can read; 0 takes a free one. "
        "[default: none]",
    ),
    click.option(
        "--tls-cert",
        type=_PATH,
        metavar="FILE",
        help="PEM file of the certificate chain for TLS; needs --tls-key. [default: no TLS]",
    ),
    click.option(
        "--tls-key", type=_PATH, metavar="FILE", help="PEM file of the private key of --tls-cert."
    ),
    click.option(
        "--insecure",
        is_flag=True,
        help="Serve other machines without TLS, for example behind a proxy that encrypts.",
    ),
    click.option(
        "--keys",
        type=_PATH,
        metavar="FILE",
        help="File of the API keys that may call (see `beam-upscale keys`); needs --ledger. "
        "Without it, calls need no key and come from this machine only.",
    ),
    click.option(
        "--ledger",
        type=_PATH,
        metavar="FILE",
        help="SQLite database of the credits that keys are charged, and of results for repeated "
        "calls; made if there is none. Required with --keys.",
    ),
    click.option(
        "--cors-origin",
        "cors_origins",
        multiple=True,
        metavar="ORIGIN",
        help="Origin whose web pages may call --web-port, such as https://page.example, or * for "
        "all; may be repeated.",
    ),
    click.option(
        "--max-queue",
        type=click.IntRange(min=0),
        default=_DEFAULT_SERVE_SETTINGS.max_queue,
        show_default=True,
        help="Largest number of calls that wait for the device; further ones are refused.",
    ),
    click.option(
        "--max-in-flight-per-key",
        type=_POSITIVE,
        default=_DEFAULT_SERVE_SETTINGS.max_in_flight_per_key,
        show_default=True,
        help="Largest number of calls in flight at a time for a key without a limit of its own, or "
        "for a client's address without --keys.",
    ),
    click.option(
        "--requests-per-second-per-key",
        type=float,
        help="Largest number of calls that such a key or address begins in a second; above 0. "
        "[default: no limit]",
    ),
    click.option(
        "--request-timeout",
        "request_timeout_seconds",
        type=float,
        default=_DEFAULT_SERVE_SETTINGS.request_timeout_seconds,
        show_default=True,
        help="Seconds that a request may take to arrive; above 0.",
    ),
    click.option(
        "--decode-seconds",
        type=float,
        default=_DEFAULT_SERVE_SETTINGS.decode_seconds,
        show_default=True,
        help="Seconds that an image may take to be decoded, above 0; a slower one is refused.",
    ),
    click.option(
        "--idle-timeout",
        "idle_seconds",
        type=float,
        default=_DEFAULT_SERVE_SETTINGS.idle_seconds,
        show_default=True,
        help="Seconds without a call after which a connection is closed; above 0.",
    ),
    click.option(
        "--drain-seconds",
        type=float,
        default=_DEFAULT_SERVE_SETTINGS.drain_seconds,
        show_default=True,
        help="Seconds that calls in progress may take to finish after SIGTERM or Ctrl-C, 0 or "
        "more.",
    ),
)


@cli.command("serve")
@click.option(
    "--engine",
    "engines",
    multiple=True,
    default=(_DEFAULT_ENGINE,),
    show_default=True,
    help="Engine to serve; may be repeated.",
)
@_options(_MODEL_OPTIONS, _SERVE_OPTIONS)
def serve_command(engines: tuple[str, ...], weights: tuple[str, ...], **options: Any) -> None:
    """Serve engines of this machine over gRPC.

    Answers calls of `beam-upscale run --backend grpc` and of other clients, until SIGTERM or
    Ctrl-C. The exit code is 75 if the device is lost or no decoder can be started any more; restart
    the server then.

    \b
    For example:
      beam-upscale serve
      beam-upscale serve --keys keys.jsonl --ledger ledger.sqlite
    """  # noqa: D301
    import_inference()
    try:
        from beam_upscale.server.serve import serve
    except ModuleNotFoundError as error:
        _fail(
            f"there is no module {error.name}; install what serving needs: "
            "pip install 'beam-upscale[serve]'",
            _EXIT_USAGE,
        )
    names = {field.name for field in dataclasses.fields(ServeSettings)}
    upscale = UpscaleSettings.of(
        engines,
        weights=weights_by_engine(weights),
        **{name: value for name, value in options.items() if name not in names},
    )
    serve(
        ServeSettings(upscale, **{name: value for name, value in options.items() if name in names})
    )


@cli.group("keys")
def keys_group() -> None:
    """Add, list, credit and revoke API keys of `beam-upscale serve`."""


_KEYS_OPTION = click.option(
    "--keys",
    "path",
    required=True,
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="File of API keys, which holds their SHA-256 and not the keys; `add` makes it if there is "
    "none.",
)


@keys_group.command("add")
@click.argument("name")
@_KEYS_OPTION
@click.option(
    "--credits",
    "granted",
    type=CreditsType(),
    help="Credits that the key may spend in all, in steps of 0.0001. [default: no limit]",
)
@click.option(
    "--max-in-flight",
    type=_POSITIVE,
    help="Largest number of calls in flight at a time. [default: the server's limit]",
)
@click.option(
    "--requests-per-second",
    type=click.FloatRange(min=0, min_open=True),
    help="Largest number of calls begun in a second. [default: the server's limit]",
)
def keys_add(
    name: str,
    path: str,
    granted: Decimal | None,
    max_in_flight: int | None,
    requests_per_second: float | None,
) -> None:
    """Make an API key called NAME and print it.

    The key is stored nowhere and cannot be shown again. A running server accepts it at once.
    """
    from beam_upscale.server import keys as key_file

    token = key_file.add_key(
        path,
        name,
        granted=granted,
        max_in_flight=max_in_flight,
        requests_per_second=requests_per_second,
    )
    out.line(token)
    err.line(f"the key of {name}; it is kept nowhere and cannot be shown again")


@keys_group.command("list")
@_KEYS_OPTION
@click.option(
    "--ledger",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="Ledger of `beam-upscale serve`; adds what each key has spent, and its balance.",
)
def keys_list(path: str, ledger: str | None) -> None:
    """List the API keys with their limits."""
    from beam_upscale.server import keys as key_file
    from beam_upscale.server.ledger import read_spent

    records = key_file.read_keys(path)
    spent = None if ledger is None else read_spent(ledger)
    columns = [Column("name"), Column("made", is_whole=True)]
    columns += map(Column, ("state", "calls at a time", "calls a second", "credits"))
    if spent is not None:
        columns += [Column("spent", is_number=True), Column("balance", is_number=True)]
    out.table(columns, [_key_cells(record, spent) for record in records])


def _key_cells(record: "KeyRecord", spent: Mapping[str, Decimal] | None) -> list[str]:
    key = record.key
    cells = [
        *(key.name, record.created_at[:10], "revoked" if record.revoked else "valid"),
        "-" if key.max_in_flight is None else f"{key.max_in_flight:,}",
        "-" if key.requests_per_second is None else f"{key.requests_per_second:g}",
        "no limit" if key.credits is None else amount(key.credits),
    ]
    if spent is not None:
        used = spent.get(key.name, Decimal(0))
        balance = "no limit" if key.credits is None else amount(key.credits - used)
        cells += [amount(used), balance]
    return cells


@keys_group.command("credit")
@click.argument("name")
@click.argument("credits_added", metavar="CREDITS", type=CreditsType())
@_KEYS_OPTION
def keys_credit(name: str, credits_added: Decimal, path: str) -> None:
    """Grant the API key called NAME more CREDITS."""
    from beam_upscale.server import keys as key_file

    granted = key_file.credit_key(path, name, credits_added)
    out.line(f"{name} is granted {amount(granted)} credits in all")


@keys_group.command("revoke")
@click.argument("name")
@_KEYS_OPTION
def keys_revoke(name: str, path: str) -> None:
    """Refuse the API key called NAME from now on; its name stays taken."""
    from beam_upscale.server import keys as key_file

    key_file.revoke_key(path, name)
    out.line(f"{name} is revoked")


def main() -> None:
    """Entry point: errors are one line, and their exit codes are documented."""
    show_all_characters()
    with Debugging() as asked:
        try:
            with raising_at_sigterm():
                cli.main(standalone_mode=False, obj=asked)
            flush()
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message())
            sys.exit(_EXIT_USAGE)
        except Exception as error:
            asked.trace(error)
            _end(error)
        except KeyboardInterrupt:
            _fail(INTERRUPTED, _EXIT_INTERRUPTED, at_once=True)
        except TerminatedError:
            _fail(TERMINATED, EXIT_TERMINATED, at_once=True)
        except SystemExit:
            with contextlib.suppress(OSError):
                flush()
            raise


def _end(error: Exception) -> NoReturn:
    """Ends this process with one line that explains an error."""
    match error:
        case click.Abort():
            _fail(INTERRUPTED, _EXIT_INTERRUPTED, at_once=True)
        case click.UsageError():
            command = error.ctx.command_path if error.ctx else "beam-upscale"
            message = f"{ErrorCode.INVALID_OPTION}: {error.format_message()}"
            _fail(f"{message} (see {command} --help)", _EXIT_USAGE)
        case BrokenPipeError():
            # Who reads has seen enough, as `head` has.
            _fail(None, _EXIT_FAILED, at_once=True)
        case BrokenProcessError() | HoldLostError():
            _fail(explained(error), _EXIT_FAILED, at_once=True)
        case BeamUpscaleError():
            _fail(explained(error), _EXIT_USAGE)
        case _:
            _fail(explained(error), _EXIT_FAILED, at_once=True)


def _fail(message: str | None, code: int, at_once: bool = False) -> NoReturn:
    if message is not None:
        err.line(f"beam-upscale: {message}")
    if at_once:
        os._exit(code)
    sys.exit(code)


def _take_debug(command: click.Command) -> None:
    """Has a command and all commands below it take --debug."""
    command.params.append(
        click.Option(
            ["--debug"],
            is_flag=True,
            expose_value=False,
            callback=_begin_debugging,
            help="Print logs, and the traceback of an error.",
        )
    )
    if isinstance(command, click.Group):
        for each in command.commands.values():
            _take_debug(each)


def _begin_debugging(context: click.Context, _: click.Parameter, is_asked: bool) -> None:
    asked = context.find_object(Debugging)
    if is_asked and asked is not None:
        asked.begin()


_take_debug(cli)
