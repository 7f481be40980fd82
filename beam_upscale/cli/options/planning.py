"""Options that decide sizes, limits and prompts."""

import click

from beam_upscale.cli.options.common import DEFAULT_ENGINE, DEFAULT_SETTINGS
from beam_upscale.cli.options.types import POSITIVE, CreditsType, SizeType, choice
from beam_upscale.planning.chain import Backend
from beam_upscale.planning.parameters import MAX_STEPS
from beam_upscale.planning.plan_options import Animated, OutputFormat, Oversize

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
    click.option(
        "--backend",
        type=choice(Backend),
        default=str(DEFAULT_SETTINGS.backend),
        show_default=True,
        help="Where the engines run: on this machine or the workers of a Beam runner (local), or "
        "at a service that is called (grpc).",
    ),
    click.option(
        "--width",
        type=POSITIVE,
        help="Output width in pixels; the height keeps the aspect ratio. Set at most one of "
        "--width, --height, --short-side and --long-side. [default: the engine's scale decides]",
    ),
    click.option(
        "--height",
        type=POSITIVE,
        help="Output height in pixels; the width keeps the aspect ratio.",
    ),
    click.option(
        "--short-side", type=POSITIVE, help="Length of the output's shorter side in pixels."
    ),
    click.option(
        "--long-side", type=POSITIVE, help="Length of the output's longer side in pixels."
    ),
    click.option(
        "--oversize",
        type=choice(Oversize),
        default=str(DEFAULT_SETTINGS.plan.oversize),
        show_default=True,
        help="What to do with an image above the engine's input limit: reject it, cut it "
        "into priced tiles, or shrink it to fit.",
    ),
    click.option(
        "--min-side",
        type=POSITIVE,
        help="Skip images that are large enough: both sides have at least this many pixels.",
    ),
    click.option(
        "--skip-larger-than",
        type=SizeType(),
        help="Skip images wider than W or higher than H pixels, such as 4000x3000.",
    ),
    click.option(
        "--max-input-pixels",
        type=POSITIVE,
        default=DEFAULT_SETTINGS.plan.max_input_pixels,
        show_default=True,
        help="Reject images with more pixels by their headers, before they are decoded.",
    ),
    click.option(
        "--max-input-bytes",
        type=POSITIVE,
        default=DEFAULT_SETTINGS.plan.max_input_bytes,
        show_default=True,
        help="Reject image files with more bytes, before they are read.",
    ),
    click.option(
        "--animated",
        type=choice(Animated),
        default=str(DEFAULT_SETTINGS.plan.animated),
        show_default=True,
        help="What to do with a file of several frames, such as an animated GIF: take the first "
        "frame, or reject it.",
    ),
    click.option(
        "--format",
        "output_format",
        type=choice(OutputFormat),
        default=str(DEFAULT_SETTINGS.plan.output_format),
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
        f"[default: {DEFAULT_SETTINGS.parameters.cfg_scale:g}]",
    ),
    click.option(
        "--steps",
        metavar="N",
        help=f"Number of denoising steps of a diffusion engine, 1 to {MAX_STEPS}. "
        f"[default: {DEFAULT_SETTINGS.parameters.steps}]",
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
        f"[default: {DEFAULT_SETTINGS.parameters.noise_level}]",
    ),
    click.option(
        "--prompt-column",
        default=DEFAULT_SETTINGS.prompt_column,
        show_default=True,
        help="Column of a table, or of the metadata beside the images, that holds their prompts.",
    ),
)
