"""Options that decide engines, sizes, limits, the budget and prompts."""

import click

from beam_upscale.cli.options.fields import default_of, field_option
from beam_upscale.cli.options.types import POSITIVE, CreditsType, SizeType
from beam_upscale.pipeline.settings.large_image_options import LargeImageOptions
from beam_upscale.pipeline.settings.upscale_settings import UpscaleSettings
from beam_upscale.planning.engines import DEFAULT_ENGINE
from beam_upscale.planning.parameters import MAX_NOISE_LEVEL, MAX_SEED, MAX_STEPS, Parameters
from beam_upscale.planning.plan_options import PlanOptions

PLAN_OPTIONS = (
    click.option(
        "--engine",
        default=DEFAULT_ENGINE,
        show_default=True,
        help="Engine that upscales the images; see `beam-upscale engines`.",
    ),
    click.option(
        "--then",
        multiple=True,
        metavar="ENGINE",
        help="Further engine that upscales the results of the one before; may be repeated.",
    ),
    field_option(
        UpscaleSettings,
        "backend",
        "Where the engines run: on this machine or the workers of a Beam runner (local), or at a "
        "service that is called (grpc).",
    ),
    field_option(
        PlanOptions,
        "width",
        "Output width in pixels; the height keeps the aspect ratio. Set at most one of --width, "
        "--height, --short-side and --long-side. [default: the engine's scale decides]",
        kind=POSITIVE,
    ),
    field_option(
        PlanOptions,
        "height",
        "Output height in pixels; the width keeps the aspect ratio.",
        kind=POSITIVE,
    ),
    field_option(
        PlanOptions,
        "short_side",
        "Length of the output's shorter side in pixels; the other keeps the aspect ratio.",
        kind=POSITIVE,
    ),
    field_option(
        PlanOptions,
        "long_side",
        "Length of the output's longer side in pixels; the other keeps the aspect ratio.",
        kind=POSITIVE,
    ),
    field_option(
        PlanOptions,
        "oversize",
        "What to do with an image above the engine's input limit: reject it, cut it into priced "
        "tiles, or shrink it to fit.",
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
        "Reject images with more pixels by their headers, before they are decoded.",
        kind=POSITIVE,
    ),
    field_option(
        PlanOptions,
        "max_input_bytes",
        "Reject image files with more bytes, before they are read.",
        kind=POSITIVE,
    ),
    field_option(
        PlanOptions,
        "animated",
        "What to do with a file of several frames, such as an animated GIF: take the first frame, "
        "or reject it.",
    ),
    field_option(
        PlanOptions, "output_format", "File format of the output images.", flag="--format"
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
        help="Budget in credits; `run` counts earlier runs into OUTPUT too. Images beyond it are "
        "not upscaled and have the status over_budget. [default: no limit]",
    ),
)

# For engines that take a prompt. An image's own columns and caption come first. Their values are
# checked where those of a dataset are, with the same codes.
PARAMETER_OPTIONS = (
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
        f"[default: {default_of(Parameters, 'cfg_scale'):g}]",
    ),
    click.option(
        "--steps",
        metavar="N",
        help=f"Number of denoising steps of a diffusion engine, 1 to {MAX_STEPS}. "
        f"[default: {default_of(Parameters, 'steps')}]",
    ),
    click.option(
        "--seed",
        metavar="N",
        help=f"Seed of the random noise, 1 to {MAX_SEED}. Without one, or with 0, each image's "
        "seed is derived from its pixels and parameters.",
    ),
    click.option(
        "--noise-level",
        metavar="N",
        help=f"Level of the noise that is added to the input, 0 to {MAX_NOISE_LEVEL}; with more "
        "noise, the result "
        "keeps less to the input. "
        f"[default: {default_of(Parameters, 'noise_level')}]",
    ),
    field_option(
        UpscaleSettings,
        "prompt_column",
        "Column of a table, or of the metadata beside the images, that holds their prompts.",
    ),
)
