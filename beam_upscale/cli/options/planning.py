"""Options of planning and decoding: engines, sizes, input limits, frames, budget, prompts."""

from typing import Unpack

import click

from beam_upscale.cli.display.output import err
from beam_upscale.cli.options.fields import default_of, field_option
from beam_upscale.cli.options.types import POSITIVE, CreditsType, SizeType
from beam_upscale.pipeline.settings.large_image_options import LargeImageOptions
from beam_upscale.pipeline.settings.upscale_options import UpscaleOptions
from beam_upscale.pipeline.settings.upscale_settings import UpscaleSettings
from beam_upscale.planning.engines import DEFAULT_ENGINE
from beam_upscale.planning.parameters import MAX_NOISE_LEVEL, MAX_SEED, MAX_STEPS, Parameters
from beam_upscale.planning.plan_options import PlanOptions

PLAN_OPTIONS = (
    click.option(
        "--engine",
        default=DEFAULT_ENGINE,
        show_default=True,
        help="Upscale the images with this engine; `beam-upscale engines` lists the engines.",
    ),
    click.option(
        "--then",
        multiple=True,
        metavar="ENGINE",
        help="Upscale the results with this further engine; may be repeated.",
    ),
    field_option(
        UpscaleSettings,
        "backend",
        "Run the engines on this machine or on the workers of a Beam runner (local), or "
        "call a service that has them (grpc).",
    ),
    field_option(
        PlanOptions,
        "width",
        "Make results this many pixels wide; the height keeps the aspect ratio. Give at "
        "most one of --width, --height, --short-side and --long-side. [default: the "
        "engine's scale decides]",
        kind=POSITIVE,
    ),
    field_option(
        PlanOptions,
        "height",
        "Make results this many pixels high; the width keeps the aspect ratio.",
        kind=POSITIVE,
    ),
    field_option(
        PlanOptions,
        "short_side",
        "Make the shorter side of results this many pixels long; the other keeps the aspect ratio.",
        kind=POSITIVE,
    ),
    field_option(
        PlanOptions,
        "long_side",
        "Make the longer side of results this many pixels long; the other keeps the aspect ratio.",
        kind=POSITIVE,
    ),
    field_option(
        PlanOptions,
        "oversize",
        "Choose what to do with an image above the engine's input limit: reject it, cut "
        "it into priced tiles, or shrink it to fit.",
    ),
    field_option(
        PlanOptions,
        "min_side",
        "Skip images that are large enough: both sides have at least this many pixels.",
        kind=POSITIVE,
    ),
    field_option(
        PlanOptions,
        "skip_larger_than",
        "Skip images wider than W or higher than H pixels, such as 4000x3000.",
        kind=SizeType(),
    ),
    field_option(
        PlanOptions,
        "max_input_pixels",
        "Reject images with more pixels than this, as their headers tell, before they are decoded.",
        kind=POSITIVE,
    ),
    field_option(
        PlanOptions,
        "max_input_bytes",
        "Reject image files with more bytes than this, before they are read.",
        kind=POSITIVE,
    ),
    field_option(
        PlanOptions,
        "animated",
        "Choose what to do with a file of several frames, such as an animated GIF: take "
        "the first frame, or reject it.",
    ),
    field_option(
        PlanOptions,
        "output_format",
        "Write the output images in this file format.",
        flag="--format",
    ),
    field_option(
        LargeImageOptions,
        "fan_out_above",
        "Spread the tiles of images whose output has more megapixels over all workers, so that "
        "none holds such a large image whole. Needs --oversize tile and --format png or tiff.",
        kind=click.FLOAT,
        metavar="MEGAPIXELS",
    ),
    click.option(
        "--max-credits",
        type=CreditsType(),
        help="Spend at most this many credits; `run` counts earlier runs into OUTPUT too. "
        "Images beyond the budget are not upscaled and have the status over_budget. "
        "[default: no limit]",
    ),
)

# For engines that take a prompt. An image's own columns and caption come first. Their values are
# checked where those of a dataset are, with the same codes.
PARAMETER_OPTIONS = (
    click.option(
        "--prompt",
        help="Describe what the images show, for an engine that takes a prompt. An image's "
        "own prompt, from a column or a caption file, replaces it.",
    ),
    click.option("--negative-prompt", help="Describe what the images do not show."),
    click.option(
        "--cfg-scale",
        metavar="NUMBER",
        help="Weigh the prompt by this number, 0 or more; with a higher one, results follow "
        f"the prompt more. [default: {default_of(Parameters, 'cfg_scale'):g}]",
    ),
    click.option(
        "--steps",
        metavar="N",
        help=f"Denoise in this many steps with a diffusion engine, 1 to {MAX_STEPS}; more of "
        f"them take longer. [default: {default_of(Parameters, 'steps')}]",
    ),
    click.option(
        "--seed",
        metavar="N",
        help=f"Begin from the random noise of this seed, 1 to {MAX_SEED}. Without one, or "
        "with 0, each image's seed is derived from its pixels and parameters.",
    ),
    click.option(
        "--noise-level",
        metavar="N",
        help=f"Add this much noise to the input, 0 to {MAX_NOISE_LEVEL}; with more noise, the "
        f"result keeps less to the input. [default: {default_of(Parameters, 'noise_level')}]",
    ),
    field_option(
        UpscaleSettings,
        "prompt_column",
        "Take the prompts of images from this column of a table, or of the metadata "
        "beside the images.",
    ),
)


def settings_of(
    engine: str, then: tuple[str, ...], **options: Unpack[UpscaleOptions]
) -> UpscaleSettings:
    """Builds settings from the options of a command, and warns of those without an effect.

    Args:
        engine: the value of --engine.
        then: the values of --then.
        **options: the other options, by the names of their fields.

    Raises:
        SettingsError: as `UpscaleSettings.of`.
    """
    settings = UpscaleSettings.of((engine, *then), **options)
    if settings.warning is not None:
        err.line(f"beam-upscale: {settings.warning}")
    return settings
