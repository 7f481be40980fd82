"""Options of the encoding of results."""

import click

from beam_upscale.cli.options.common import DEFAULT_SETTINGS
from beam_upscale.cli.options.types import choice
from beam_upscale.planning.plan_options import MetadataRule

ENCODE_OPTIONS = (
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
        type=choice(MetadataRule),
        default=str(DEFAULT_SETTINGS.metadata),
        show_default=True,
        help="What to do with the EXIF (GPS included), XMP and resolution of an input: keep them "
        "in its result, or strip them. Color profiles always stay.",
    ),
)
